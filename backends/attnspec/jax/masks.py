"""Masks over JAX positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, tree_util

from attnspec.contract.masks import FAR, MASK_CLASSES, Mask
from attnspec.contract.shapes import Sizes

from .tensors import mask_tensor


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.masks.Positions`)."""

    query: Array
    key: Array
    query_length: int
    key_length: int
    has_heads: bool

    def per_batch(self, values: Any) -> Array:
        """(*B,) → (*B, 1, 1, 1)."""
        numbers = mask_tensor(values)
        limits = np.iinfo(numbers.dtype)
        near = jnp.clip(numbers, max(-FAR, limits.min), min(FAR, limits.max)).astype(self.query.dtype)
        return near.reshape(near.shape + (1, 1, 1))

    def per_pair(self, array: Any) -> Array:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array)
        return pairs[..., None, :, :] if pairs.ndim > 2 and not self.has_heads else pairs


def block_of(sizes: Sizes) -> Block:
    """Give the positions of all queries and all keys."""
    query = jnp.arange(sizes.query_length)[:, None]
    key = jnp.arange(sizes.key_length)[None, :]
    return Block(query, key, sizes.query_length, sizes.key_length, sizes.has_heads)


def visible_pairs(mask: Mask | None, bias: Array | None, block: Block) -> Array:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: Array = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -jnp.inf)


def _register(cls: type[Mask]) -> None:
    def unflatten(static: Any, children: Any) -> Mask:
        return cls.rebuild(static, tuple(children))

    tree_util.register_pytree_node(cls, Mask.flatten, unflatten)


for _cls in MASK_CLASSES:
    _register(_cls)

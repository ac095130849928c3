"""Masks and biases over JAX positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, tree_util

from attnspec.contract.biases import Bias
from attnspec.contract.masks import Mask
from attnspec.contract.positions import FAR
from attnspec.contract.shapes import Sizes
from attnspec.contract.tree_classes import TREE_CLASSES
from attnspec.contract.trees import Tree

from .tensors import mask_tensor


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.positions.Positions`)."""

    query: Array
    key: Array
    sizes: Sizes
    dtype: jnp.dtype
    """The accumulation dtype."""

    def per_batch(self, values: Any) -> Array:
        """(*B,) → (*B, 1, 1, 1)."""
        numbers = mask_tensor(values)
        limits = np.iinfo(numbers.dtype)
        near = jnp.clip(numbers, max(-FAR, limits.min), min(FAR, limits.max)).astype(self.query.dtype)
        return near.reshape(near.shape + (1, 1, 1))

    def per_query(self, values: Any) -> Array:
        """(*B, Tq) → (*B, 1, q, 1)."""
        return mask_tensor(values)[..., None, :, None]

    def per_key(self, values: Any) -> Array:
        """(*B, Tk) → (*B, 1, 1, k)."""
        return mask_tensor(values)[..., None, None, :]

    def per_head(self, numbers: Any) -> Array:
        """(Hq,) → (Hq, 1, 1)."""
        return self._numbers(numbers)[..., None, None]

    def per_pair(self, array: Any) -> Array:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array)
        return pairs[..., None, :, :] if pairs.ndim > 2 and not self.sizes.has_heads else pairs

    def as_number(self, numbers: Any) -> Array:
        """Convert to the accumulation dtype."""
        return self._numbers(numbers)

    def look_up(self, table: Any, rows: tuple[int, ...], index: Array) -> Array:
        """table[rows[index]], heads before queries: (*B, Hq, q, k)."""
        by_index = self._numbers(table)[np.asarray(rows)]
        by_index = by_index[..., None] if by_index.ndim == 1 else by_index
        index = jnp.clip(index, 0, len(rows) - 1)
        index = index.squeeze(-3) if index.ndim > 2 else index
        return jnp.moveaxis(by_index[index], -1, -3)

    def _numbers(self, values: Any) -> Array:
        return jnp.asarray(values, dtype=self.dtype)


def block_of(sizes: Sizes, like: Array) -> Block:
    """Give the positions of all queries and all keys, in the dtype of an array."""
    query = jnp.arange(sizes.query_length)[:, None]
    key = jnp.arange(sizes.key_length)[None, :]
    return Block(query, key, sizes, like.dtype)


def visible_pairs(mask: Mask | None, bias: Array | None, block: Block) -> Array:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: Array = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -jnp.inf)


def bias_values(bias: Bias | None, block: Block) -> Array | None:
    """Evaluate a bias over a block, in the accumulation dtype."""
    return None if bias is None else bias.values(block).astype(block.dtype)


def _register(cls: type[Tree]) -> None:
    def unflatten(static: Any, children: Any) -> Tree:
        return cls.rebuild(static, tuple(children))

    tree_util.register_pytree_node(cls, Tree.flatten, unflatten)


for _cls in TREE_CLASSES:
    _register(_cls)

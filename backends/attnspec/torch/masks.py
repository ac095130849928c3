"""Masks over torch positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from attnspec.contract.masks import FAR, MASK_CLASSES, Mask
from attnspec.contract.shapes import Sizes

from .tensors import mask_tensor


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.masks.Positions`)."""

    query: Tensor
    key: Tensor
    query_length: int
    key_length: int
    has_heads: bool

    def per_batch(self, values: Any) -> Tensor:
        """(*B,) → (*B, 1, 1, 1)."""
        near = mask_tensor(values, self.query.device).to(torch.int64).clamp(-FAR, FAR)
        return near.reshape(tuple(near.shape) + (1, 1, 1))

    def per_pair(self, array: Any) -> Tensor:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array, self.query.device)
        return pairs.unsqueeze(-3) if pairs.ndim > 2 and not self.has_heads else pairs


def block_of(sizes: Sizes, device: torch.device) -> Block:
    """Give the positions of all queries and all keys."""
    query = torch.arange(sizes.query_length, device=device)[:, None]
    key = torch.arange(sizes.key_length, device=device)[None, :]
    return Block(query, key, sizes.query_length, sizes.key_length, sizes.has_heads)


def visible_pairs(mask: Mask | None, bias: Tensor | None, block: Block) -> Tensor:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: Tensor = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -torch.inf)


def _register(cls: type[Mask]) -> None:
    def flatten(mask: Mask) -> tuple[list[Any], Any]:
        children, static = mask.flatten()
        return list(children), static

    def unflatten(children: Any, static: Any) -> Mask:
        return cls.rebuild(static, tuple(children))

    _pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"attnspec.contract.{cls.__name__}")


for _cls in MASK_CLASSES:
    _register(_cls)

"""Masks and biases over torch positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from attnspec.contract.biases import Bias
from attnspec.contract.masks import Mask
from attnspec.contract.positions import FAR
from attnspec.contract.shapes import Sizes
from attnspec.contract.tree_classes import TREE_CLASSES
from attnspec.contract.trees import Tree

from .tensors import mask_tensor


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.positions.Positions`)."""

    query: Tensor
    key: Tensor
    sizes: Sizes
    dtype: torch.dtype
    """The accumulation dtype."""

    def per_batch(self, values: Any) -> Tensor:
        """(*B,) → (*B, 1, 1, 1)."""
        near = self._integers(values).clamp(-FAR, FAR)
        return near.reshape(tuple(near.shape) + (1, 1, 1))

    def per_query(self, values: Any) -> Tensor:
        """(*B, Tq) → (*B, 1, q, 1)."""
        return self._integers(values)[..., None, :, None]

    def per_key(self, values: Any) -> Tensor:
        """(*B, Tk) → (*B, 1, 1, k)."""
        return self._integers(values)[..., None, None, :]

    def per_head(self, numbers: Any) -> Tensor:
        """(Hq,) → (Hq, 1, 1)."""
        return self._numbers(numbers)[..., None, None]

    def per_pair(self, array: Any) -> Tensor:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array, self.query.device)
        return pairs.unsqueeze(-3) if pairs.ndim > 2 and not self.sizes.has_heads else pairs

    def as_number(self, numbers: Any) -> Tensor:
        """Convert to the accumulation dtype."""
        return self._numbers(numbers)

    def look_up(self, table: Any, rows: tuple[int, ...], index: Tensor) -> Tensor:
        """table[rows[index]], heads before queries: (*B, Hq, q, k)."""
        by_index = self._numbers(table)[torch.tensor(rows, device=self.query.device)]
        by_index = by_index.unsqueeze(-1) if by_index.ndim == 1 else by_index
        index = index.clamp(0, len(rows) - 1)
        index = index.squeeze(-3) if index.ndim > 2 else index
        return by_index[index].movedim(-1, -3)

    def _integers(self, values: Any) -> Tensor:
        return mask_tensor(values, self.query.device).to(torch.int64)

    def _numbers(self, values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=self.dtype, device=self.query.device)


def block_of(sizes: Sizes, like: Tensor) -> Block:
    """Give the positions of all queries and all keys, on the device and in the dtype of a tensor."""
    query = torch.arange(sizes.query_length, device=like.device)[:, None]
    key = torch.arange(sizes.key_length, device=like.device)[None, :]
    return Block(query, key, sizes, like.dtype)


def visible_pairs(mask: Mask | None, bias: Tensor | None, block: Block) -> Tensor:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: Tensor = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -torch.inf)


def bias_values(bias: Bias | None, block: Block) -> Tensor | None:
    """Evaluate a bias over a block, in the accumulation dtype."""
    return None if bias is None else bias.values(block).to(block.dtype)


def _register(cls: type[Tree]) -> None:
    def flatten(tree: Tree) -> tuple[list[Any], Any]:
        children, static = tree.flatten()
        return list(children), static

    def unflatten(children: Any, static: Any) -> Tree:
        return cls.rebuild(static, tuple(children))

    _pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"attnspec.contract.{cls.__name__}")


for _cls in TREE_CLASSES:
    _register(_cls)

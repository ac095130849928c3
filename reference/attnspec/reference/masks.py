"""Masks over NumPy positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.masks import FAR, Mask
from attnspec.contract.shapes import Sizes

from .tensors import Array, mask_tensor


class Block(NamedTuple):
    """The positions of a block of queries against all keys (`contract.masks.Positions`)."""

    query: Array
    key: Array
    query_length: int
    key_length: int
    rows: slice
    has_heads: bool

    def per_batch(self, values: Any) -> Array:
        """(*B,) → (*B, 1, 1, 1)."""
        near: Array = np.clip(mask_tensor(values).astype(np.int64), -FAR, FAR)
        return near.reshape(near.shape + (1, 1, 1))

    def per_pair(self, array: Any) -> Array:
        """Take the rows of this block, and insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array)
        pairs = pairs[..., None, :, :] if pairs.ndim > 2 and not self.has_heads else pairs
        return pairs if pairs.shape[-2] == 1 else pairs[..., self.rows, :]


def block_of(sizes: Sizes, rows: slice) -> Block:
    """Give the positions of the queries `rows` and of all keys."""
    query = np.arange(rows.start, rows.stop)[:, None]
    key = np.arange(sizes.key_length)[None, :]
    return Block(query, key, sizes.query_length, sizes.key_length, rows, sizes.has_heads)


def visible_pairs(mask: Mask | None, bias: Array | None, block: Block) -> Array:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible = block.key >= 0 if mask is None else mask.visible(block)
    return np.asarray(visible if bias is None else visible & (bias != -np.inf))

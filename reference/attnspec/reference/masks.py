"""Masks and biases over NumPy positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.biases import Bias
from attnspec.contract.masks import Mask
from attnspec.contract.positions import FAR
from attnspec.contract.shapes import Sizes

from .tensors import Array, mask_tensor


class Block(NamedTuple):
    """The positions of a block of queries against all keys (`contract.positions.Positions`)."""

    query: Array
    key: Array
    sizes: Sizes
    rows: slice

    def per_batch(self, values: Any) -> Array:
        """(*B,) → (*B, 1, 1, 1)."""
        near: Array = np.clip(mask_tensor(values).astype(np.int64), -FAR, FAR)
        return near.reshape(near.shape + (1, 1, 1))

    def per_query(self, values: Any) -> Array:
        """(*B, Tq) → (*B, 1, q, 1)."""
        return mask_tensor(values).astype(np.int64)[..., None, self.rows, None]

    def per_key(self, values: Any) -> Array:
        """(*B, Tk) → (*B, 1, 1, k)."""
        return mask_tensor(values).astype(np.int64)[..., None, None, :]

    def per_head(self, numbers: Any) -> Array:
        """(Hq,) → (Hq, 1, 1)."""
        return np.asarray(numbers, np.float64)[..., None, None]

    def per_pair(self, array: Any) -> Array:
        """Take the rows of this block, and insert the head axis that the caller's array may lack."""
        return self.part_of(mask_tensor(array))

    def part_of(self, array: Array) -> Array:
        """Do as `per_pair` with a NumPy array: a view of it, that may be written to."""
        pairs = array[..., None, :, :] if array.ndim > 2 and not self.sizes.has_heads else array
        return pairs if pairs.shape[-2] == 1 else pairs[..., self.rows, :]

    def as_number(self, numbers: Any) -> Array:
        """Convert to float64."""
        return np.asarray(numbers, np.float64)

    def look_up(self, table: Any, rows: tuple[int, ...], index: Any) -> Array:
        """table[rows[index]], heads before queries: (*B, Hq, q, k)."""
        by_index = np.asarray(table, np.float64)[list(rows)]
        by_index = by_index[:, None] if by_index.ndim == 1 else by_index
        index = np.clip(index, 0, len(rows) - 1)
        index = index[..., 0, :, :] if index.ndim > 2 else index
        return np.moveaxis(by_index[index], -1, -3)


def block_of(sizes: Sizes, rows: slice) -> Block:
    """Give the positions of the queries `rows` and of all keys."""
    return Block(np.arange(rows.start, rows.stop)[:, None], np.arange(sizes.key_length)[None, :], sizes, rows)


def visible_pairs(mask: Mask | None, bias: Array | None, block: Block) -> Array:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible = block.key >= 0 if mask is None else mask.visible(block)
    return np.asarray(visible if bias is None else visible & (bias != -np.inf))


def bias_values(bias: Bias | None, block: Block) -> Array | None:
    """Evaluate a bias over a block, in float64."""
    return None if bias is None else np.asarray(bias.values(block), np.float64)

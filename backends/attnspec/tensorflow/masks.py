"""Masks and biases over TensorFlow positions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from attnspec.contract.biases import Bias
from attnspec.contract.masks import Mask
from attnspec.contract.positions import FAR
from attnspec.contract.shapes import Sizes

from .tensors import mask_tensor, shape_of


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.positions.Positions`)."""

    query: tf.Tensor
    key: tf.Tensor
    sizes: Sizes
    dtype: tf.DType
    """The accumulation dtype."""

    def per_batch(self, values: Any) -> tf.Tensor:
        """(*B,) → (*B, 1, 1, 1)."""
        near = tf.clip_by_value(self._integers(values), -FAR, FAR)
        return tf.reshape(near, [*shape_of(near), 1, 1, 1])

    def per_query(self, values: Any) -> tf.Tensor:
        """(*B, Tq) → (*B, 1, q, 1)."""
        return self._integers(values)[..., None, :, None]

    def per_key(self, values: Any) -> tf.Tensor:
        """(*B, Tk) → (*B, 1, 1, k)."""
        return self._integers(values)[..., None, None, :]

    def per_head(self, numbers: Any) -> tf.Tensor:
        """(Hq,) → (Hq, 1, 1)."""
        return self._numbers(numbers)[..., None, None]

    def per_pair(self, array: Any) -> tf.Tensor:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array)
        return pairs[..., None, :, :] if len(pairs.shape) > 2 and not self.sizes.has_heads else pairs

    def as_number(self, numbers: Any) -> tf.Tensor:
        """Convert to the accumulation dtype."""
        return self._numbers(numbers)

    def look_up(self, table: Any, rows: tuple[int, ...], index: tf.Tensor) -> tf.Tensor:
        """table[rows[index]], heads before queries: (*B, Hq, q, k)."""
        numbers = self._numbers(table)
        # Through the reshape the table's gradient arrives as a tensor, not as tf.IndexedSlices.
        by_index = tf.gather(tf.reshape(numbers, shape_of(numbers)), rows)
        by_index = by_index[..., None] if len(by_index.shape) == 1 else by_index
        index = tf.clip_by_value(index, 0, len(rows) - 1)
        index = tf.squeeze(index, -3) if len(index.shape) > 2 else index
        found = tf.gather(by_index, index)
        rank = len(found.shape)
        return tf.transpose(found, [*range(rank - 3), rank - 1, rank - 3, rank - 2])

    def _integers(self, values: Any) -> tf.Tensor:
        return tf.cast(mask_tensor(values), tf.int64)

    def _numbers(self, values: Any) -> tf.Tensor:
        # Python numbers must not pass through float32 on their way to float64.
        return tf.cast(values, self.dtype) if tf.is_tensor(values) else tf.constant(values, self.dtype)


def block_of(sizes: Sizes, like: tf.Tensor) -> Block:
    """Give the positions of all queries and all keys, in the dtype of a tensor."""
    query_length = tf.cast(sizes.query_length, tf.int64)
    key_length = tf.cast(sizes.key_length, tf.int64)
    query = tf.range(query_length)[:, None]
    key = tf.range(key_length)[None, :]
    return Block(query, key, sizes._replace(query_length=query_length, key_length=key_length), like.dtype)


def visible_pairs(mask: Mask | None, bias: tf.Tensor | None, block: Block) -> tf.Tensor:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: tf.Tensor = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -math.inf)


def bias_values(bias: Bias | None, block: Block) -> tf.Tensor | None:
    """Evaluate a bias over a block, in the accumulation dtype."""
    return None if bias is None else tf.cast(bias.values(block), block.dtype)

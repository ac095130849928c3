"""Masks over TensorFlow positions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from attnspec.contract.masks import FAR, Mask
from attnspec.contract.shapes import Sizes

from .tensors import mask_tensor, shape_of


class Block(NamedTuple):
    """The positions of all queries against all keys (`contract.masks.Positions`)."""

    query: tf.Tensor
    key: tf.Tensor
    query_length: tf.Tensor
    key_length: tf.Tensor
    has_heads: bool

    def per_batch(self, values: Any) -> tf.Tensor:
        """(*B,) → (*B, 1, 1, 1)."""
        near = tf.clip_by_value(tf.cast(mask_tensor(values), tf.int64), -FAR, FAR)
        return tf.reshape(near, [*shape_of(near), 1, 1, 1])

    def per_pair(self, array: Any) -> tf.Tensor:
        """Insert the head axis that the caller's array may lack."""
        pairs = mask_tensor(array)
        return pairs[..., None, :, :] if len(pairs.shape) > 2 and not self.has_heads else pairs


def block_of(sizes: Sizes) -> Block:
    """Give the positions of all queries and all keys."""
    query_length = tf.cast(sizes.query_length, tf.int64)
    key_length = tf.cast(sizes.key_length, tf.int64)
    query = tf.range(query_length)[:, None]
    key = tf.range(key_length)[None, :]
    return Block(query, key, query_length, key_length, sizes.has_heads)


def visible_pairs(mask: Mask | None, bias: tf.Tensor | None, block: Block) -> tf.Tensor:
    """Say where a query may attend: the mask allows it, and no bias of −inf forbids it (S4, S5, S6)."""
    visible: tf.Tensor = block.key >= 0 if mask is None else mask.visible(block)
    return visible if bias is None else visible & (bias != -math.inf)

"""The gradients of bias objects: what the gradient of the logits gives to every array that they hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnspec.contract.biases import Alibi, Bias, BiasArray, RelativePositionBias, Sum, relative_position_buckets
from attnspec.contract.positions import shift

from .masks import Block
from .tensors import Array


def zero_gradient(bias: Bias) -> Any:
    """Return an object of the same structure, with zeros in the place of its arrays."""
    match bias:
        case BiasArray(array=array):
            return replaced(bias, array=np.zeros(np.shape(array)))
        case Sum(left=left, right=right):
            return replaced(bias, left=zero_gradient(left), right=zero_gradient(right))
        case Alibi(slopes=slopes):
            zeros = None if slopes is None else np.zeros(np.shape(slopes))
            return replaced(bias, slopes=zeros)
        case RelativePositionBias(table=table):
            return replaced(bias, table=np.zeros(np.shape(table)))
    raise TypeError(f"a bias of type {type(bias).__name__} has no gradient here")


def add_gradient(total: Any, bias: Bias, d_logits: Array, block: Block) -> Any:
    """Add what a block's logits contribute to the gradient of every array that the bias holds."""
    match bias:
        case BiasArray():
            view = block.part_of(total.array)
            view += sum_to(d_logits, view.shape)
        case Sum(left=left, right=right):
            add_gradient(total.left, left, d_logits, block)
            add_gradient(total.right, right, d_logits, block)
        case Alibi(slopes=slopes, symmetric=symmetric, offset=offset) if slopes is not None:
            distance = block.query + shift(offset, block) - block.key
            distance = np.abs(distance) if symmetric else distance
            heads = (block.sizes.num_heads, 1, 1)
            total.slopes[...] += sum_to(-d_logits * distance, heads).reshape(np.shape(slopes))
        case RelativePositionBias(table=table, bidirectional=bidirectional, max_distance=limit, offset=offset):
            buckets = np.asarray(relative_position_buckets(np.shape(table)[0], bidirectional, limit))
            relative = np.clip(block.key - block.query - shift(offset, block), -limit, limit) + limit
            rows = np.broadcast_to(buckets[relative], d_logits.shape)
            by_head = np.zeros((np.shape(table)[0], block.sizes.num_heads))
            columns = np.broadcast_to(np.arange(block.sizes.num_heads)[:, None, None], d_logits.shape)
            np.add.at(by_head, (rows, columns), d_logits)
            total.table[...] += by_head.reshape(np.shape(table))
    return total


def sum_of_gradients(left: Any, right: Any) -> Any:
    """Add two gradients of one bias: arrays, objects of the same structure, or None."""
    match left:
        case Sum():
            first = sum_of_gradients(left.left, right.left)
            return replaced(left, left=first, right=sum_of_gradients(left.right, right.right))
        case BiasArray():
            return replaced(left, array=left.array + right.array)
        case Alibi():
            return replaced(left, slopes=None if left.slopes is None else left.slopes + right.slopes)
        case RelativePositionBias():
            return replaced(left, table=left.table + right.table)
    return None if left is None else left + right


def replaced(bias: Bias, **arrays: Any) -> Any:
    """Return the same bias with other arrays, which need not be what its constructor would take."""
    twin = object.__new__(type(bias))
    for name, value in vars(bias).items():
        object.__setattr__(twin, name, arrays.get(name, value))
    return twin


def sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which an array of this shape was broadcast."""
    summed = array.sum(axis=tuple(range(array.ndim - len(shape))))
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(summed.sum(axis=axes, keepdims=True))

"""The sums that gradients end in, over a group and over all that shares a number of a bias, and their last rounding."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.biases import Alibi, Bias, BiasArray, RelativePositionBias, Sum
from attnspec.reference.attention import Attention, finite
from attnspec.reference.bias_gradients import add_gradient, replaced, zero_gradient
from attnspec.reference.masks import Block, block_of

from .bounds import gamma, smallest_normal
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]

_VAST = 1e100
"""Stands for infinity: a bound of this size is never admitted, and 0 times it is still 0."""


def over_group(bound: Array, by_head: Array, gradient: Array, seen: Array, profile: Profile) -> Array:
    """Sum the bounds of all query heads of a group, each of which may have been stored, and round the gradient."""
    *batch, kv_heads, length, _ = gradient.shape
    group = seen.shape[-3] // max(kv_heads, 1)

    def summed(array: Array) -> Array:
        return np.asarray(array.reshape(*batch, kv_heads, group, length, array.shape[-1]).sum(axis=-3))

    is_stored = group > 1
    stored = profile.scores if profile.rounds_softmax else 0.0
    floor = underflow(profile) * (group if is_stored else 0)
    rounding = gamma(group - 1, profile.accumulation) + (profile.output if is_stored else 0.0)
    bound = (1 + rounding) * summed(bound) + rounding * summed(np.abs(by_head)) + floor
    bound = stored_gradient(bound, gradient, stored, profile)
    is_seen = summed(np.asarray(seen.any(axis=-2))[..., None]) > 0
    return np.where(is_seen, bound, 0.0)


def over_bias(
    attention: Attention, visible: Array, d_logits: Array, error: Array, gradient: Any, profile: Profile
) -> Any:
    """Sum over every pair that shares a number of the bias, as the gradient itself is summed."""
    bias, sizes = attention.options.bias, attention.sizes
    assert bias is not None  # noqa: S101 - the caller asked
    block = block_of(sizes, slice(0, sizes.query_length))
    stored = profile.scores if profile.rounds_softmax else 0.0
    bounds = _summed(bias, error, block)
    sums = (_summed(bias, np.abs(d_logits), block), _summed(bias, visible.astype(np.float64), block))
    exact = BiasArray(gradient) if isinstance(bias, BiasArray) else gradient
    for bound, size, count, total in zip(*map(_arrays_of, (bounds, *sums, exact)), strict=True):
        bound += (gamma(count, profile.accumulation) + 2 * profile.accumulation + stored) * size
        bound[...] = np.where(count > 0, stored_gradient(bound, total, stored, profile), 0.0)
    return bounds.array if isinstance(bias, BiasArray) else bounds


def stored_gradient(bound: Array, gradient: Array, before: float, profile: Profile) -> Array:
    """Add the rounding of a gradient that is off by its bound already, and of what it was before the last product."""
    rounding = profile.output + before + profile.accumulation
    return np.asarray((1 + rounding) * bound + rounding * np.abs(finite(gradient)) + underflow(profile))


def underflow(profile: Profile) -> float:
    """Bound what is lost where a number is too small: the smallest normal float32, half a spacing of small float16."""
    return smallest_normal(profile) + (2.0**-25 if profile.dtype == "float16" else 0.0)


def capped(array: Array) -> Array:
    """Replace infinities by a number, and 0 · ∞ by 0."""
    return np.asarray(np.minimum(np.nan_to_num(array, nan=0.0, posinf=_VAST), _VAST))


def _summed(bias: Bias, array: Array, block: Block) -> Any:
    """Sum an array over pairs as the gradient of a bias does, but each term with its absolute value."""
    total = add_gradient(zero_gradient(bias), _with_distances(bias), array, block)
    for part in _arrays_of(total):
        np.abs(part, out=part)
    return total


def _with_distances(bias: Bias) -> Any:
    match bias:
        case Sum(left=left, right=right):
            return replaced(bias, left=_with_distances(left), right=_with_distances(right))
        case Alibi():
            return replaced(bias, symmetric=True)
    return bias


def _arrays_of(bias: Any) -> list[Array]:
    match bias:
        case Sum(left=left, right=right):
            return _arrays_of(left) + _arrays_of(right)
        case BiasArray(array=array):
            return [array]
        case RelativePositionBias(table=table):
            return [table]
        case Alibi(slopes=slopes) if slopes is not None:
            return [slopes]
    return []

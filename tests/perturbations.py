"""Arithmetic at its worst: every operation of an attention errs by a random amount of at most its unit roundoff.

`perturbed_stages` is an attention in float64 in which each operation errs by a random relative amount of at most what
the profile allows it: every rounding that a real implementation makes, at its worst and in random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from attnspec.conformance.bounds import EXACT_INPUTS, Projected
from attnspec.conformance.profiles import PROFILES, Profile
from attnspec.contract import (
    Dropout,
    Mask,
    alibi,
    causal,
    key_lengths,
    query_lengths,
    relative_position_bias,
    sliding_window,
)
from attnspec.contract.biases import Alibi, Bias, RelativePositionBias, Sum
from attnspec.contract.options import Given
from attnspec.reference.attention import Attention, compute_stages, prepare, terms_of
from attnspec.reference.masks import Block, block_of

Array = np.ndarray[Any, Any]

TRIALS = 64
SIMULATED = [name for name in PROFILES if name != "fp64"]  # float64 cannot imitate a float64 that errs


class Problem(NamedTuple):
    """One small attention."""

    shape: tuple[int, int, int, int, int, int, int]
    """Batch, query heads, key/value heads, queries, keys, head size, value size."""
    mask: Mask | None = None
    softcap: float | None = None
    scale: float | None = None
    has_bias: bool = False
    spread: float = 1.5
    bias: Bias | None = None
    """A bias object; `has_bias` gives an array, and both their sum."""
    sinks: tuple[float, ...] | None = None
    rate: float | None = None
    """Of dropout."""

    def attention(self, seed: int = 0) -> Attention:
        rng = np.random.default_rng(seed)
        b, h, g, q, k, d, v = self.shape
        bias: Any = 2.0 * rng.standard_normal((1, h, q, k)) if self.has_bias else None
        if self.bias is not None:
            bias = self.bias if bias is None else self.bias + bias
        tensors = (
            rng.standard_normal((b, h, q, d)),
            rng.standard_normal((b, g, k, d)),
            rng.standard_normal((b, g, k, v)),
        )
        query, key, value = (self.spread * tensor for tensor in tensors)
        sinks = None if self.sinks is None else np.array(self.sinks)
        dropout = None if self.rate is None else Dropout(self.rate, rng.random((b, h, q, k)) >= self.rate)
        return prepare(query, key, value, Given(self.mask, bias, self.scale, self.softcap, sinks, dropout))[0]


_TABLE = 2.0 * np.random.default_rng(4).standard_normal((8, 3))
_BUCKETS: dict[str, Any] = {"bidirectional": True, "max_distance": 20, "offset": 6}

PROBLEMS = {
    "plain": Problem((2, 3, 3, 5, 7, 4, 3)),
    "grouped-causal": Problem((1, 4, 2, 5, 7, 8, 3), mask=causal("end")),
    "bias-softcap": Problem((1, 2, 2, 5, 11, 7, 3), softcap=2.0, has_bias=True),
    "empty-rows": Problem((2, 2, 1, 5, 7, 5, 3), mask=key_lengths([4, 0]) & query_lengths([3, 5])),
    "one-component": Problem((1, 2, 2, 5, 7, 1, 1), scale=-0.7),
    "long-window": Problem((1, 1, 1, 31, 37, 8, 2), mask=sliding_window(16, 4, offset="end")),
    "long-flat": Problem((1, 1, 1, 3, 97, 16, 2), spread=0.3),
    "peaked": Problem((1, 2, 2, 7, 13, 8, 3), spread=4.0),
    "sinks": Problem((2, 4, 2, 5, 7, 4, 3), sinks=(0.5, -2.0, 3.0, 9.0)),
    "sinks-empty-rows": Problem(
        (2, 2, 1, 5, 7, 5, 3), mask=key_lengths([4, 0]) & query_lengths([3, 5]), sinks=(1.0, -np.inf)
    ),
    "sinks-below": Problem((1, 2, 2, 5, 7, 4, 3), sinks=(-40.0, -300.0)),
    "dropout": Problem((2, 4, 2, 5, 7, 4, 3), rate=0.3),
    "dropout-sinks-causal": Problem((1, 2, 1, 5, 11, 4, 3), mask=causal("end"), rate=0.5, sinks=(1.0, 2.0)),
    "alibi": Problem((1, 6, 2, 5, 11, 4, 3), bias=alibi(symmetric=True, offset="end")),
    "alibi-signed-causal": Problem(
        (1, 3, 3, 5, 7, 4, 3), mask=causal("end"), bias=alibi([0.3, 1.1, 4.7], symmetric=False, offset="end")
    ),
    "relative-position": Problem((1, 3, 3, 5, 23, 4, 3), bias=relative_position_bias(_TABLE, **_BUCKETS)),
    "bias-sum": Problem(
        (1, 3, 1, 5, 7, 4, 3),
        has_bias=True,
        bias=relative_position_bias(_TABLE, **_BUCKETS) + alibi(symmetric=False, offset=3),
        softcap=3.0,
    ),
}


def perturbation(rng: np.random.Generator, worst: bool) -> Callable[[Array, float], Array]:
    """Make the rounding: a relative error of at most u/(1+u), as to nearest; exactly that where `worst`."""

    def rounded(array: Array, u: float) -> Array:
        error = rng.choice([-1.0, 1.0], array.shape) if worst else rng.uniform(-1.0, 1.0, array.shape)
        return array * (1.0 + u / (1.0 + u) * error)

    return rounded


def running_sum(terms: Iterator[Array], u: float, rounded: Callable[[Array, float], Array]) -> Array:
    total = rounded(next(terms), 0.0)
    for term in terms:
        total = rounded(total + term, u)
    return total


def perturbed_bias(bias: Bias, block: Block, u_a: float, rounded: Callable[[Array, float], Array]) -> Array:
    """Compute a bias `TRIALS` times: the slope and its product, the entry of a table and every sum are rounded."""
    values = np.asarray(bias.values(block), np.float64)
    many = np.broadcast_to(values, (TRIALS, *values.shape))
    match bias:
        case Sum(left=left, right=right):
            parts = (perturbed_bias(part, block, u_a, rounded) for part in (left, right))
            return rounded(next(parts) + next(parts), u_a)
        case Alibi():
            return rounded(rounded(many, u_a), u_a)
        case RelativePositionBias():
            return rounded(many, u_a)
    return many


def perturbed_stages(
    attention: Attention, profile: Profile, rounded: Callable[[Array, float], Array], errors: Projected = EXACT_INPUTS
) -> dict[str, Array]:
    """Compute every stage `TRIALS` times, each operation with its own errors; one more axis in front."""
    exact = compute_stages(attention, slice(0, attention.sizes.query_length))
    visible = exact.logits != -np.inf
    _, bias, scale, softcap, sink, kept, rate = terms_of(attention, slice(0, attention.sizes.query_length))
    u_a, u_s = profile.accumulation, profile.scores
    group = attention.sizes.num_heads // attention.sizes.num_kv_heads

    def entered(array: Array, error: Array | float, repeats: int) -> Array:
        # With u = 1, errors are a half at most: twice that, times the error that is carried.
        array = np.broadcast_to(array, (TRIALS, *array.shape))
        return np.repeat(array + 2.0 * (rounded(np.ones(array.shape), 1.0) - 1.0) * error, repeats, axis=-3)

    query = rounded(entered(attention.query, errors.query, 1), profile.products)
    key = rounded(entered(attention.key, errors.key, group), profile.products)
    value = entered(attention.value, errors.value, group)

    products = (rounded(query[..., :, None, d] * key[..., None, :, d], u_a) for d in range(query.shape[-1]))
    scores = rounded(scale * rounded(running_sum(products, u_a, rounded), u_s), u_s)
    logits = scores
    if softcap is not None:
        logits = rounded(softcap * rounded(np.tanh(rounded(scores / softcap, u_s)), u_s), u_s)
    if bias is not None and attention.options.bias is not None:
        block = block_of(attention.sizes, slice(0, attention.sizes.query_length))
        logits = rounded(logits + perturbed_bias(attention.options.bias, block, u_a, rounded), u_s)
    logits = np.where(visible, logits, -np.inf)

    # Base 2, as GPUs do it: two more roundings of the size of the logits.
    scaled = np.where(visible, rounded(rounded(np.where(visible, logits, 0.0), u_a), u_a), -np.inf)
    peak = scaled.max(axis=-1, keepdims=True, initial=-np.inf)
    level = np.full(peak.shape, -np.inf)
    if sink is not None:
        level = rounded(rounded(np.broadcast_to(sink, peak.shape), u_a), u_a)
        level = rounded(level, u_s) if profile.rounds_softmax else level
        peak = np.maximum(peak, level)
    peak = np.where(peak == -np.inf, 0.0, peak)
    shifted = rounded(np.where(visible, scaled - peak, 0.0), u_a)
    shifted = rounded(shifted, u_s) if profile.rounds_softmax else shifted
    powers = np.where(visible, rounded(np.exp(shifted), 2 * u_a * profile.exponential), 0.0)
    powers = rounded(powers, u_s) if profile.rounds_softmax else powers
    sink_power = np.exp(np.where(level == -np.inf, -np.inf, rounded(np.maximum(level, -1e6) - peak, u_a)))
    sink_power = rounded(sink_power, 2 * u_a * profile.exponential)
    if profile.rounds_softmax:
        sink_power = rounded(sink_power, u_s)
    powers_and_sink = np.concatenate([powers, sink_power], axis=-1)
    total = running_sum((powers_and_sink[..., j] for j in range(powers_and_sink.shape[-1])), u_a, rounded)[..., None]
    safe = np.where(total == 0.0, 1.0, total)
    weights = rounded(rounded(powers / safe, u_a), profile.weights)
    logsumexp = rounded(peak + rounded(np.log(safe), u_a), u_a)
    logsumexp = np.where(total == 0.0, -np.inf, logsumexp)[..., 0]

    used = weights
    if kept is not None:
        used = np.where(kept, rounded(weights * rounded(np.full(weights.shape, 1.0 / (1.0 - rate)), u_a), u_a), 0.0)
        used = rounded(used, u_s) if profile.rounds_softmax else used
    left, right = rounded(used, profile.products), rounded(value, profile.products)
    terms = (rounded(left[..., :, j, None] * right[..., None, j, :], u_a) for j in range(left.shape[-1]))
    output = rounded(running_sum(terms, u_a, rounded), profile.output)
    return {"scores": scores, "logits": logits, "weights": weights, "logsumexp": logsumexp, "output": output}

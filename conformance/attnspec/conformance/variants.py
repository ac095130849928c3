"""Correct attentions that round differently: the suite must reject none of them.

Each is a plain callable, and declares the profile of its arithmetic where that is not the default. They are what keeps
the bounds honest from below, as the faults do from above.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .implementations import Attended, Steps, build, drop, isolated, masked_logits, softmax

Array: TypeAlias = np.ndarray[Any, Any]


class Variant(NamedTuple):
    """A correct implementation and, for each dtype, the profile that it declares (None: the default)."""

    name: str
    attention: Callable[..., tuple[Array, Array]]
    profiles: dict[str, str | None]


DEFAULT: dict[str, str | None] = {"float64": None, "float32": None, "bfloat16": None, "float16": None}


def online_softmax(block: int) -> Callable[..., Array]:
    """Softmax in one pass over blocks of keys with a running maximum (Milakov & Gimelshein 2018)."""

    def compute(logits: Array, sink: Array | None = None) -> Array:
        peak, total = _start(logits, sink)
        for start in range(0, logits.shape[-1], block):
            part = logits[..., start : start + block]
            new_peak = np.maximum(peak, part.max(axis=-1, keepdims=True))
            shift = np.where(np.isneginf(new_peak), 0, new_peak)
            total = total * np.exp(peak - shift) + np.exp(part - shift).sum(axis=-1, keepdims=True)
            peak = new_peak
        return np.exp(logits - np.where(np.isneginf(peak), 0, peak)) / np.where(total == 0, 1, total)

    return compute


def _start(logits: Array, sink: Array | None) -> tuple[Array, Array]:
    """Return the maximum and the sum before the first block: nothing, or the sink alone."""
    shape = (*logits.shape[:-1], 1)
    if sink is None:
        return np.full(shape, -np.inf, logits.dtype), np.zeros(shape, logits.dtype)
    return np.broadcast_to(sink, shape).astype(logits.dtype), np.ones(shape, logits.dtype)


def exp2_softmax(logits: Array, sink: Array | None = None) -> Array:
    """Softmax by powers of two, as GPUs compute it."""
    to_two = logits.dtype.type(np.log2(np.e))
    scaled, level = logits * to_two, -np.inf if sink is None else sink * to_two
    peak = np.maximum(scaled.max(axis=-1, keepdims=True, initial=-np.inf), level)
    shift = np.where(np.isneginf(peak), 0, peak)
    weights = np.exp2(scaled - shift)
    total = weights.sum(axis=-1, keepdims=True) + np.exp2(level - shift)
    return weights / np.where(total == 0, 1, total)


def late_division(logits: Array, sink: Array | None = None) -> Array:
    """Normalise by a reciprocal instead of a division."""
    level = -np.inf if sink is None else sink
    peak = np.maximum(logits.max(axis=-1, keepdims=True, initial=-np.inf), level)
    shift = np.where(np.isneginf(peak), 0, peak)
    exponentials = np.exp(logits - shift)
    total = exponentials.sum(axis=-1, keepdims=True) + np.exp(level - shift)
    return exponentials * (logits.dtype.type(1) / np.where(total == 0, 1, total))


def sink_by_sigmoid(logits: Array, sink: Array | None = None) -> Array:
    """Normalise without the sink, and multiply by σ(logsumexp − sink), the share that is left to the keys."""
    weights = softmax(logits)
    if sink is None:
        return weights
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    shift = np.where(np.isneginf(peak), 0, peak)
    level = shift + np.log(np.exp(logits - shift).sum(axis=-1, keepdims=True))
    return weights / (1 + np.exp(sink - level))


def drop_last(weights: Array, dropping: Any) -> Array:
    """Multiply by keep and by 1 / (1 − rate), in this order."""
    if dropping is None:
        return weights
    kept = np.where(dropping.keep, weights, 0)
    return kept * weights.dtype.type(1 / (1 - dropping.rate))


def scale_on_query(query: Array, key: Array, scale: float) -> Array:
    """Multiply the scale into the query."""
    return (query * query.dtype.type(scale)) @ key.mT


def scale_on_key(query: Array, key: Array, scale: float) -> Array:
    """Multiply the scale into the key."""
    return query @ (key * key.dtype.type(scale)).mT


def scale_split(query: Array, key: Array, scale: float) -> Array:
    """Multiply √|scale| into both, and the sign into the query."""
    root = np.sqrt(abs(scale))
    return (query * query.dtype.type(np.sign(scale) * root)) @ (key * key.dtype.type(root)).mT


def reversed_keys_scores(query: Array, key: Array, scale: float) -> Array:
    """Sum over the head dimension from its end."""
    return query.dtype.type(scale) * (query[..., ::-1] @ key[..., ::-1].mT)


def reversed_values(weights: Array, value: Array) -> Array:
    """Sum over the keys from their end."""
    return weights[..., ::-1] @ value[..., ::-1, :]


def padded_scores(query: Array, key: Array, scale: float) -> Array:
    """Pad the head dimension with zeros to a multiple of 16; the scale keeps the true size."""
    missing = -query.shape[-1] % 16
    pad = [(0, 0)] * (query.ndim - 1) + [(0, missing)]
    return query.dtype.type(scale) * (np.pad(query, pad) @ np.pad(key, pad).mT)


def padded_values(weights: Array, value: Array) -> Array:
    """Pad the keys with zeros to a multiple of 64."""
    missing = -value.shape[-2] % 64
    axes = [(0, 0)] * (value.ndim - 2)
    return np.pad(weights, [*axes, (0, 0), (0, missing)]) @ np.pad(value, [*axes, (0, missing), (0, 0)])


def chunked_queries(weights: Array, value: Array) -> Array:
    """Compute 3 queries at a time."""
    rows = [weights[..., start : start + 3, :] @ value for start in range(0, max(weights.shape[-2], 1), 3)]
    return np.concatenate(rows, axis=-2)


def flash_blocks(block: int) -> Callable[..., Array]:
    """Attend in one pass over blocks of keys, and divide at the end (Dao et al. 2022, algorithm 1).

    What meets the values, and is rounded, is not yet normalised: it is relative to the largest logit so far.
    """

    def attend(steps: Steps, given: Attended) -> Array:
        logits, dropping = given.logits, given.dropping

        def in_blocks(_: Array, value: Array) -> Array:
            peak, total = _start(logits, given.sink)
            output = np.zeros((*logits.shape[:-1], value.shape[-1]), logits.dtype)
            for start in range(0, logits.shape[-1], block):
                part = logits[..., start : start + block]
                new_peak = np.maximum(peak, part.max(axis=-1, keepdims=True))
                shift = np.where(np.isneginf(new_peak), 0, new_peak)
                rescale, weights = np.exp(peak - shift), np.exp(part - shift)
                total = total * rescale + weights.sum(axis=-1, keepdims=True)
                if dropping is not None:
                    keep = np.broadcast_to(dropping.keep, logits.shape)[..., start : start + block]
                    weights = steps.drop(weights, dropping._replace(keep=keep))
                rounded = steps.rounded(weights, given.dtype)
                output = output * rescale + rounded @ value[..., start : start + block, :]
                peak = new_peak
            return output / np.where(total == 0, 1, total)

        return isolated(in_blocks)(logits, given.value, given.read)

    return attend


def _stored(array: Array, dtype: Any) -> Array:
    return array.astype(dtype).astype(array.dtype)


def _eager(dtype: Any) -> Callable[..., tuple[Array, Array]]:
    """An eager half-precision implementation: scores, logits and weights are stored in the input's dtype."""

    def scores(query: Array, key: Array, scale: float) -> Array:
        return _stored(_stored(query @ key.mT, dtype) * query.dtype.type(scale), dtype)

    def logits(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
        if softcap is not None:
            ratio = _stored(scores / scores.dtype.type(softcap), dtype)
            scores = _stored(_stored(np.tanh(ratio), dtype) * scores.dtype.type(softcap), dtype)
        return _stored(masked_logits(scores, visible, bias, None), dtype)

    def normalise(logits: Array, sink: Array | None = None) -> Array:
        return _stored(softmax(logits, sink if sink is None else _stored(sink, dtype)), dtype)

    def drop_stored(weights: Array, dropping: Any) -> Array:
        return _stored(drop(weights, dropping), dtype)

    return build(Steps(scaled_scores=scores, masked_logits=logits, softmax=normalise, drop=drop_stored))


def tensor_float(array: Array) -> Array:
    """Round float32 to the 11 significant bits of TF32, to the nearest and to even."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(array), rounded.view(np.float32), array)


def tensor_float_scores(query: Array, key: Array, scale: float) -> Array:
    """Multiply factors in TF32."""
    return query.dtype.type(scale) * (tensor_float(query) @ tensor_float(key).mT)


def tensor_float_values(weights: Array, value: Array) -> Array:
    """Multiply factors in TF32."""
    return tensor_float(weights) @ tensor_float(value)


def variants() -> tuple[Variant, ...]:
    """Return every correct variant."""
    import ml_dtypes

    plain = {
        "plain": Steps(),
        "online-softmax-4": Steps(softmax=online_softmax(4)),
        "online-softmax-16": Steps(softmax=online_softmax(16)),
        "online-softmax-64": Steps(softmax=online_softmax(64)),
        "exp2": Steps(softmax=exp2_softmax),
        "reciprocal": Steps(softmax=late_division),
        "sink-by-sigmoid": Steps(softmax=sink_by_sigmoid),
        "drop-last": Steps(drop=drop_last),
        "scale-on-query": Steps(scaled_scores=scale_on_query),
        "scale-on-key": Steps(scaled_scores=scale_on_key),
        "scale-split": Steps(scaled_scores=scale_split),
        "reversed-head-dim": Steps(scaled_scores=reversed_keys_scores),
        "reversed-keys": Steps(weighted_values=isolated(reversed_values)),
        "padded-head-dim": Steps(scaled_scores=padded_scores),
        "padded-keys": Steps(weighted_values=isolated(padded_values)),
        "chunked-queries": Steps(weighted_values=isolated(chunked_queries)),
        "float64-inside": Steps(accumulation=lambda _: np.dtype(np.float64)),
        "unrounded-weights": Steps(rounded=lambda array, _: array),
        "flash-blocks-8": Steps(attend=flash_blocks(8)),
        "flash-blocks-32": Steps(attend=flash_blocks(32)),
        "online-split": Steps(scaled_scores=scale_split, softmax=online_softmax(8)),
    }
    eager = (
        Variant("eager-bfloat16", _eager(ml_dtypes.bfloat16), {"bfloat16": "bf16_eager"}),
        Variant("eager-float16", _eager(np.float16), {"float16": "fp16_eager"}),
    )
    tensor_floats = Steps(scaled_scores=tensor_float_scores, weighted_values=isolated(tensor_float_values))
    others = (*eager, Variant("tf32", build(tensor_floats), {"float32": "fp32_tf32"}))
    return tuple(Variant(name, build(steps), DEFAULT) for name, steps in plain.items()) + others

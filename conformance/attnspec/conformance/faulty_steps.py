"""The steps of an attention, each with a mistake in it: what `faults` are made of."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from .implementations import (
    Restrictions,
    capped,
    drop,
    logsumexp,
    over_batch,
    scaled_scores,
    softmax,
    visible_pairs,
)

Array: TypeAlias = np.ndarray[Any, Any]


def scale_missing(query: Array, key: Array, scale: float) -> Array:
    """Leave the scale out."""
    del scale
    return scaled_scores(query, key, 1.0)


def scale_of_model_size(query: Array, key: Array, scale: float) -> Array:
    """Scale by the size of all heads together instead of one head's."""
    heads = query.shape[-3] if query.ndim > 3 else 1
    return scaled_scores(query, key, scale / np.sqrt(heads))


def scale_of_padded_size(query: Array, key: Array, scale: float) -> Array:
    """Scale by the head dimension padded to a multiple of 8."""
    size = query.shape[-1]
    return scaled_scores(query, key, scale * np.sqrt(size / (size + -size % 8)))


def scale_without_sign(query: Array, key: Array, scale: float) -> Array:
    """Take the scale's absolute value, as √scale on both factors does."""
    return scaled_scores(query, key, abs(scale))


def mask_inverted(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Read True as ignore."""
    mask = None if limits.mask is None else ~limits.mask
    return visible_pairs(queries, keys, rank, limits._replace(mask=mask))


def shifted_causal(amount: int) -> Callable[..., Array]:
    """Move the diagonal of the causal mask."""

    def visible(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
        if limits.causal_offset is not None:
            limits = limits._replace(causal_offset=limits.causal_offset + amount)
        return visible_pairs(queries, keys, rank, limits)

    return visible


def causal_top_left(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Align causal to the top left, whatever the offset."""
    if limits.causal_offset is not None:
        limits = limits._replace(causal_offset=0)
    return visible_pairs(queries, keys, rank, limits)


def causal_bottom_right(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Align causal to the bottom right, whatever the offset."""
    if limits.causal_offset is not None:
        limits = limits._replace(causal_offset=keys - queries)
    return visible_pairs(queries, keys, rank, limits)


def causal_lost_beside_mask(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Drop causal when a mask or lengths are given too."""
    if limits.mask is not None or limits.key_lengths is not None:
        limits = limits._replace(causal_offset=None)
    return visible_pairs(queries, keys, rank, limits)


def window_one_wider(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Let one key too many into the window on its left."""
    if limits.window is not None and limits.window[0] is not None:
        limits = limits._replace(window=(limits.window[0] + 1, limits.window[1]))
    return visible_pairs(queries, keys, rank, limits)


def window_right_ignored(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Forget the window's right edge."""
    if limits.window is not None:
        limits = limits._replace(window=(limits.window[0], None))
    return visible_pairs(queries, keys, rank, limits)


def lengths_off_by_one(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Read one key of the padding."""
    if limits.key_lengths is not None:
        limits = limits._replace(key_lengths=limits.key_lengths + 1)
    return visible_pairs(queries, keys, rank, limits)


def lengths_of_first_element(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Use the first element's length for the whole batch."""
    if limits.key_lengths is not None and limits.key_lengths.size:
        first = np.full_like(limits.key_lengths, limits.key_lengths.flat[0])
        limits = limits._replace(key_lengths=first)
    return visible_pairs(queries, keys, rank, limits)


def query_lengths_ignored(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Let padded queries attend."""
    return visible_pairs(queries, keys, rank, limits._replace(query_lengths=None))


def query_lengths_on_keys(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Unpad the keys with the queries' lengths."""
    if limits.query_lengths is not None:
        visible = visible_pairs(queries, keys, rank, limits._replace(query_lengths=None))
        return visible & (np.arange(keys) < over_batch(limits.query_lengths, rank))
    return visible_pairs(queries, keys, rank, limits)


def last_key_dropped(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Lose the last key beyond a multiple of 8, as a partial tile does."""
    visible = visible_pairs(queries, keys, rank, limits)
    return visible & (np.arange(keys) < keys - 1) if keys % 8 == 1 else visible


def heads_tiled(array: Array, heads: int) -> Array:
    """Tile the key/value heads instead of repeating each."""
    return np.concatenate([array] * (heads // array.shape[-3]), axis=-3)


def softcap_after_mask(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Cap the masked logits: −inf becomes −c, and every key is visible."""
    logits = scores if bias is None else scores + bias
    logits = np.where(visible, logits, -np.inf)
    return logits if softcap is None else capped(logits, softcap)


def bias_before_softcap(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Cap the scores together with the bias."""
    logits = scores if bias is None else scores + bias
    return np.where(visible, logits if softcap is None else capped(logits, softcap), -np.inf)


def softcap_ignored(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Accept a softcap and forget it."""
    del softcap
    return np.where(visible, scores if bias is None else scores + bias, -np.inf)


def bias_ignored(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Accept a bias and forget it."""
    del bias
    return np.where(visible, scores if softcap is None else capped(scores, softcap), -np.inf)


def weak_mask(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Mask with −10 instead of −inf."""
    logits = scores if softcap is None else capped(scores, softcap)
    logits = logits if bias is None else logits + np.where(np.isneginf(bias), 0, bias)
    return np.where(visible, logits, logits - 10)


def sentinel_mask(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Mask with a large finite number: an empty row becomes the mean of all values."""
    logits = scores if softcap is None else capped(scores, softcap)
    logits = logits if bias is None else logits + np.where(np.isneginf(bias), 0, bias)
    return np.where(visible, logits, np.finfo(logits.dtype).min)


def softmax_nan_on_empty(logits: Array, sink: Array | None = None) -> Array:
    """Divide 0 by 0 in an empty row."""
    if sink is not None:
        return softmax(logits, sink)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=-1, keepdims=True)


def softmax_over_queries(logits: Array, sink: Array | None = None) -> Array:
    """Normalise the wrong axis."""
    return softmax(logits.mT, sink).mT


def softmax_without_maximum(logits: Array, sink: Array | None = None) -> Array:
    """Exponentiate without subtracting the largest logit."""
    weights = np.exp(logits)
    total = weights.sum(axis=-1, keepdims=True) + (0 if sink is None else np.exp(sink))
    return weights / np.where(total == 0, 1, total)


def softmax_maximum_from_zero(logits: Array, sink: Array | None = None) -> Array:
    """Start the running maximum at 0 instead of −inf."""
    peak = np.maximum(logits.max(axis=-1, keepdims=True, initial=-np.inf), 0)
    weights = np.exp(logits - peak)
    total = weights.sum(axis=-1, keepdims=True) + (0 if sink is None else np.exp(sink - peak))
    return weights / np.where(total == 0, 1, total)


def softmax_without_rescaling(logits: Array, sink: Array | None = None) -> Array:
    """Forget to rescale what was summed when a later block of 16 keys has a larger maximum."""
    peak = np.full((*logits.shape[:-1], 1), -np.inf, logits.dtype)
    peak = peak if sink is None else np.broadcast_to(sink, peak.shape)
    total = np.zeros(peak.shape, logits.dtype) + (0 if sink is None else 1)
    parts = []
    for start in range(0, logits.shape[-1], 16):
        part = logits[..., start : start + 16]
        peak = np.maximum(peak, part.max(axis=-1, keepdims=True))
        parts.append(np.exp(part - np.where(np.isneginf(peak), 0, peak)))
    if not parts:
        return softmax(logits, sink)
    weights = np.concatenate(parts, axis=-1)
    total = total + weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def sink_ignored(logits: Array, sink: Array | None = None) -> Array:
    """Accept a sink and forget it."""
    del sink
    return softmax(logits)


def sink_of_first_head(logits: Array, sink: Array | None = None) -> Array:
    """Use the first head's sink for all heads."""
    if sink is not None and sink.ndim == 3:
        sink = np.broadcast_to(sink[:1], sink.shape)
    return softmax(logits, sink)


def sink_beside_the_shift(logits: Array, sink: Array | None = None) -> Array:
    """Add exp(sink) to a sum whose other terms are relative to the largest logit."""
    if sink is None:
        return softmax(logits)
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isneginf(peak), 0, peak))
    return weights / (weights.sum(axis=-1, keepdims=True) + np.exp(sink))


def sink_as_zero_key(logits: Array, sink: Array | None = None) -> Array:
    """Take a sink of 0, the "softmax plus one", whatever was given."""
    return softmax(logits, None if sink is None else np.zeros_like(sink))


def dropout_unscaled(weights: Array, dropping: Any) -> Array:
    """Drop weights, and do not scale up the rest."""
    return weights if dropping is None else np.where(dropping.keep, weights, 0)


def dropout_inverted(weights: Array, dropping: Any) -> Array:
    """Keep what should be dropped."""
    return weights if dropping is None else drop(weights, dropping._replace(keep=~dropping.keep))


def dropout_renormalised(weights: Array, dropping: Any) -> Array:
    """Make the kept weights sum to 1, as a mask would."""
    if dropping is None:
        return weights
    kept = np.where(dropping.keep, weights, 0)
    total = kept.sum(axis=-1, keepdims=True)
    return kept / np.where(total == 0, 1, total)


def logsumexp_base_two(logits: Array, sink: Array | None = None) -> Array:
    """Return the binary logarithm."""
    return logsumexp(logits, sink) * logits.dtype.type(np.log2(np.e))


def logsumexp_without_maximum(logits: Array, sink: Array | None = None) -> Array:
    """Return the logarithm of the shifted sum, and forget the shift."""
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return logsumexp(logits - np.where(np.isneginf(peak), 0, peak), sink)


def logsumexp_zero_on_empty(logits: Array, sink: Array | None = None) -> Array:
    """Return 0 for an empty row."""
    level = logsumexp(logits, sink)
    return np.where(np.isneginf(level), 0, level)


def segments_ignored(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Let packed sequences see each other."""
    return visible_pairs(queries, keys, rank, limits._replace(query_segments=None, key_segments=None))


def segments_of_first_element(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Use the first element's segments for the whole batch."""
    if limits.query_segments is not None and limits.key_segments is not None and limits.query_segments.ndim > 1:
        first = (0,) * (limits.query_segments.ndim - 1)
        limits = limits._replace(
            query_segments=np.broadcast_to(limits.query_segments[first], limits.query_segments.shape),
            key_segments=np.broadcast_to(limits.key_segments[first], limits.key_segments.shape),
        )
    return visible_pairs(queries, keys, rank, limits)


def values_leak(weights: Array, value: Array, visible: Array) -> Array:
    """Multiply unread values by 0: 0 · NaN is NaN."""
    del visible
    return weights @ value


def values_shifted(weights: Array, value: Array) -> Array:
    """Read the values one key too late."""
    return weights @ np.roll(value, 1, axis=-2)


def half_precision_sums(weights: Array, value: Array) -> Array:
    """Accumulate the weighted values in bfloat16."""
    total = np.zeros((*weights.shape[:-1], value.shape[-1]), ml_dtypes.bfloat16)
    for j in range(weights.shape[-1]):
        total = (total + weights[..., :, j, None] * value[..., j, None, :]).astype(ml_dtypes.bfloat16)
    return total.astype(weights.dtype)

"""An attention as somebody else might write it, in replaceable steps: what variants and faults are made of.

It is a plain callable over NumPy arrays, in the arithmetic of a fused kernel: half precisions are widened to float32,
weights are rounded to the input's dtype before they meet the values, the output is rounded once. It shares no code with
the reference.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


class Restrictions(NamedTuple):
    """Everything that says where a query may attend, as a plain callable receives it."""

    mask: Array | None
    causal_offset: int | None
    window: tuple[int | None, int | None] | None
    key_lengths: Array | None
    query_lengths: Array | None
    query_segments: Array | None
    key_segments: Array | None


def visible_pairs(queries: int, keys: int, rank: int, limits: Restrictions) -> Array:
    """Combine all restrictions into one boolean array, broadcastable to the scores."""
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    visible = np.ones((queries, keys), bool)
    own = i + (limits.causal_offset or 0)
    if limits.causal_offset is not None:
        visible = visible & (j <= own)
    if limits.window is not None:
        left, right = limits.window
        visible = visible & (True if left is None else j >= own - left) & (True if right is None else j <= own + right)
    if limits.key_lengths is not None:
        visible = visible & (j < over_batch(limits.key_lengths, rank))
    if limits.query_lengths is not None:
        visible = visible & (i < over_batch(limits.query_lengths, rank))
    if limits.query_segments is not None and limits.key_segments is not None:
        query_ids, key_ids = limits.query_segments[..., :, None], limits.key_segments[..., None, :]
        visible = visible & over_pairs(query_ids == key_ids, rank)
    return visible if limits.mask is None else visible & limits.mask


def over_batch(lengths: Array, rank: int) -> Array:
    """Give numbers of the batch shape the axes to broadcast against scores of a query of this rank."""
    return lengths.reshape(lengths.shape + (1,) * (rank - lengths.ndim))


def over_pairs(array: Array, rank: int) -> Array:
    """Give an array (*B, q, k) the head axis that scores of a query of this rank may have."""
    return array[..., None, :, :] if rank > 3 else array


def repeat_heads(array: Array, heads: int) -> Array:
    """Give every query head its key/value head."""
    return np.repeat(array, heads // array.shape[-3], axis=-3)


def scaled_scores(query: Array, key: Array, scale: float) -> Array:
    """Compute scale · Q Kᵀ."""
    return query.dtype.type(scale) * (query @ key.mT)


def masked_logits(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
    """Apply softcap, bias and mask, in this order."""
    logits = scores if softcap is None else capped(scores, softcap)
    logits = logits if bias is None else logits + bias
    return np.where(visible, logits, -np.inf)


def capped(scores: Array, softcap: float) -> Array:
    """Compute c · tanh(score / c)."""
    cap = scores.dtype.type(softcap)
    return cap * np.tanh(scores / cap)


def softmax(logits: Array, sink: Array | None = None) -> Array:
    """Normalise each row, with a sink as one more logit that is dropped; a row of −inf becomes zeros."""
    if sink is None:
        return normalised(logits)
    column = np.broadcast_to(sink, (*logits.shape[:-1], 1))
    return normalised(np.concatenate([logits, column], axis=-1))[..., :-1]


def normalised(logits: Array) -> Array:
    """Normalise each row; a row of −inf becomes zeros."""
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isneginf(peak), 0, peak))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def logsumexp(logits: Array, sink: Array | None = None) -> Array:
    """Compute ln Σ exp over each row and the sink; −inf for a row of −inf."""
    if sink is not None:
        logits = np.concatenate([logits, np.broadcast_to(sink, (*logits.shape[:-1], 1))], axis=-1)
    peak = logits.max(axis=-1, initial=-np.inf)
    peak = np.where(np.isneginf(peak), 0, peak)
    return peak + np.log(np.exp(logits - peak[..., None]).sum(axis=-1))


class Dropping(NamedTuple):
    """Which weights are kept, and the share that is not."""

    keep: Array
    rate: float


def drop(weights: Array, dropping: Dropping | None) -> Array:
    """Drop weights, and scale up the rest."""
    if dropping is None:
        return weights
    return np.where(dropping.keep, weights / weights.dtype.type(1 - dropping.rate), 0)


def isolated(product: Callable[[Array, Array], Array]) -> Callable[[Array, Array, Array], Array]:
    """Make a product of weights and values that no unread value can reach, from one that needs finite values."""

    def weighted(weights: Array, value: Array, visible: Array) -> Array:
        output = product(weights, np.where(np.isfinite(value), value, 0))
        visible = np.broadcast_to(visible, weights.shape)
        for *place, j in np.argwhere(~np.isfinite(value).all(axis=-1)):
            at = tuple(place)
            output[at] += np.where(visible[at][:, j, None], _non_finite(value[at][j]), 0)
        return output

    return weighted


def _non_finite(row: Array) -> Array:
    return np.where(np.isfinite(row), 0, row)


weighted_values = isolated(np.matmul)
"""Sum the values by their weights."""


class Attended(NamedTuple):
    """What the last step works on."""

    logits: Array
    value: Array
    visible: Array
    sink: Array | None
    dropping: Dropping | None
    dtype: Any

    @property
    def read(self) -> Array:
        """Where a value is read: visible, and not dropped."""
        return self.visible if self.dropping is None else self.visible & self.dropping.keep


def attend_at_once(steps: Steps, given: Attended) -> Array:
    """Normalise the logits, drop and round the weights, and sum the values by them."""
    weights = steps.drop(steps.softmax(given.logits, given.sink), given.dropping)
    return steps.weighted_values(steps.rounded(weights, given.dtype), given.value, given.read)


def widened(dtype: Any) -> Any:
    """Return the dtype that half precisions are accumulated in; the others are their own."""
    return np.promote_types(dtype, np.float32) if np.dtype(dtype).kind == "f" else np.float32


class Steps(NamedTuple):
    """The steps of an implementation; a fault replaces one of them, a variant computes one in another way."""

    visible_pairs: Callable[..., Array] = visible_pairs
    repeat_heads: Callable[..., Array] = repeat_heads
    scaled_scores: Callable[..., Array] = scaled_scores
    masked_logits: Callable[..., Array] = masked_logits
    attend: Callable[..., Array] = attend_at_once
    """From logits to the output, by means of the softmax, the dropping and the weighted sum."""
    softmax: Callable[..., Array] = softmax
    drop: Callable[..., Array] = drop
    logsumexp: Callable[..., Array] = logsumexp
    weighted_values: Callable[..., Array] = weighted_values
    accumulation: Callable[[Any], Any] = widened
    """The dtype to compute in, from the input's."""
    rounded: Callable[[Array, Any], Array] = lambda array, dtype: array.astype(dtype).astype(array.dtype)
    """How weights are rounded before they meet the values."""


def build(steps: Steps) -> Callable[..., tuple[Array, Array]]:
    """Make a plain callable of steps, which returns output and logsumexp."""

    def attention(
        query: Array,
        key: Array,
        value: Array,
        *,
        mask: Array | None = None,
        bias: Array | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        causal_offset: int | None = None,
        window: tuple[int | None, int | None] | None = None,
        key_lengths: Array | None = None,
        query_lengths: Array | None = None,
        query_segments: Array | None = None,
        key_segments: Array | None = None,
        sinks: Array | None = None,
        dropout_keep: Array | None = None,
        dropout_rate: float = 0.0,
    ) -> tuple[Array, Array]:
        dtype = query.dtype
        wide = steps.accumulation(dtype)
        limits = Restrictions(mask, causal_offset, window, key_lengths, query_lengths, query_segments, key_segments)
        visible = steps.visible_pairs(query.shape[-2], key.shape[-2], query.ndim, limits)
        if bias is not None:
            visible = visible & ~np.isneginf(bias)
        wide_query, wide_key, wide_value = (array.astype(wide) for array in (query, key, value))
        if query.ndim > 3:
            wide_key = steps.repeat_heads(wide_key, query.shape[-3])
            wide_value = steps.repeat_heads(wide_value, query.shape[-3])
        scale = 1 / np.sqrt(query.shape[-1]) if scale is None else scale
        with np.errstate(all="ignore"):  # what a fault overflows or divides is its own affair
            scores = steps.scaled_scores(wide_query, wide_key, scale)
            logits = steps.masked_logits(scores, visible, None if bias is None else bias.astype(wide), softcap)
            sink = None if sinks is None else sinks.astype(wide)[..., None, None]
            dropping = None if dropout_keep is None else Dropping(dropout_keep, dropout_rate)
            given = Attended(logits, wide_value, visible, sink, dropping, dtype)
            level = steps.logsumexp(logits, sink).astype(widened(dtype))
            return steps.attend(steps, given).astype(dtype), level

    return attention

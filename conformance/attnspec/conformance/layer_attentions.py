"""Attentions with projections, by other similarities and over caches, as somebody else might write them.

Every function is the operation of its name with `steps` before the arguments; it works on arrays of one wide dtype.
`layer_implementations.build` makes public functions of them.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.biases import Bias
from attnspec.contract.layer_parameters import AdditiveParameters
from attnspec.contract.layer_results import CachedAttention, KeyValueCache
from attnspec.contract.masks import as_mask
from attnspec.contract.parameters import MultiHeadParameters
from attnspec.contract.shapes import Sizes

from .layer_steps import Steps
from .mask_parts import bias_array, to_array

Array: TypeAlias = np.ndarray[Any, Any]


class Options(NamedTuple):
    """The options of one attention, as the caller gives them."""

    mask: Any = None
    bias: Any = None
    scale: float | None = None
    softcap: float | None = None
    sinks: Any = None
    dropout: Any = None


class Pairs(NamedTuple):
    """The logits of an attention (*B, H, Tq, Tk), and the keys that are visible."""

    logits: Array
    visible: Array


def pairs(steps: Steps, scores: Array, options: Options, *, has_heads: bool = True) -> Pairs:
    """Apply softcap, bias and mask to the scores; masks and biases of callers without heads lack that axis."""
    *batch, heads, queries, keys = scores.shape
    rank = len(batch) + (3 if has_heads else 2)
    sizes = Sizes(tuple(batch), heads, heads, queries, keys, 1, 1, rank)
    visible: Array = np.ones((queries, keys), bool)
    if options.mask is not None:
        visible = per_pair(to_array(as_mask(options.mask), sizes), has_heads)
    bias = None
    if options.bias is not None:
        bias = options.bias
        if isinstance(bias, Bias):
            bias = bias_array(bias, sizes, "float64", rank).astype(scores.dtype)
        bias = per_pair(bias, has_heads)
        visible = visible & ~np.isneginf(bias)
    logits = steps.masked_logits(scores, visible, bias, options.softcap)
    return Pairs(logits, np.broadcast_to(visible, logits.shape))


def per_pair(array: Array, has_heads: bool) -> Array:
    """Insert the head axis that an array over pairs lacks where the caller's tensors have none."""
    return array if has_heads or array.ndim < 3 else array[..., None, :, :]


def weigh(steps: Steps, scores: Array, value: Array, options: Options, *, has_heads: bool = True) -> Array:
    """Turn scores into weights, and sum the values by them."""
    logits, visible = pairs(steps, scores, options, has_heads=has_heads)
    sink = None if options.sinks is None else np.asarray(options.sinks)[..., None, None]
    weights = steps.softmax(logits, sink)
    if options.dropout is None:
        return steps.weighted_values(weights, value, visible)
    dropout = type(options.dropout)(options.dropout.rate, per_pair(options.dropout.keep, has_heads))
    return steps.weighted_values(steps.drop(weights, dropout), value, visible & dropout.keep)


def attend(steps: Steps, query: Array, key: Array, value: Array, options: Options, *, has_heads: bool = True) -> Array:
    """Attend by scaled dot products (*B, H, T, D)."""
    key, value = (steps.repeat_heads(array, query.shape[-3]) for array in (key, value))
    scale = 1 / np.sqrt(query.shape[-1]) if options.scale is None else options.scale
    return weigh(steps, steps.scaled_scores(query, key, scale), value, options, has_heads=has_heads)


def with_heads(*arrays: Array) -> tuple[list[Array], bool]:
    """Give tensors of rank 2 and 3 a head axis, and say whether they had one."""
    has_heads = arrays[0].ndim > 3
    return [array if has_heads else array[..., None, :, :] for array in arrays], has_heads


def without_heads(output: Array, has_heads: bool) -> Array:
    """Take the head axis away that was inserted."""
    return output if has_heads else output[..., 0, :, :]


def self_attention(
    steps: Steps,
    inputs: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend among the projections of one sequence."""
    weights = query_weight, key_weight, value_weight
    query, key, value = (steps.linear(inputs, weight, None)[..., None, :, :] for weight in weights)
    return attend(steps, query, key, value, Options(mask, bias, scale, softcap, sinks, dropout))[..., 0, :, :]


def key_value_attention(
    steps: Steps,
    query: Array,
    keys: Array,
    values: Array,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Read a memory of pairs by one query."""
    options = Options(mask, bias, scale, softcap, sinks, dropout)
    arrays = query[..., None, None, :], keys[..., None, :, :], values[..., None, :, :]
    return attend(steps, *arrays, options)[..., 0, 0, :]


def multi_head_attention(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    parameters: MultiHeadParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Project, split heads, turn, attend, merge heads, project."""
    query, key, value = project_heads(steps, query, key, value, parameters, num_heads, num_kv_heads)
    query, key = steps.turn_heads(query, key, rotary, steps.turn)
    heads = attend(steps, query, key, value, Options(mask, bias, scale, softcap, sinks, dropout))
    return steps.linear(steps.merge_heads(heads), parameters.output_weight, parameters.output_bias)


def project_heads(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    parameters: MultiHeadParameters,
    num_heads: int,
    num_kv_heads: int | None,
) -> list[Array]:
    """Project queries, keys and values, and split the heads."""
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    weights = parameters.query_weight, parameters.key_weight, parameters.value_weight
    biases = parameters.query_bias, parameters.key_bias, parameters.value_bias
    projected = steps.project((query, key, value), weights, biases, steps.linear)
    return [
        steps.split_heads(array, heads) for array, heads in zip(projected, (num_heads, kv_heads, kv_heads), strict=True)
    ]


def cached_multi_head_attention(
    steps: Steps,
    inputs: Array,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> CachedAttention:
    """Append new keys and values to a cache, and attend to all that it holds."""
    query, key, value = project_heads(steps, inputs, inputs, inputs, parameters, num_heads, num_kv_heads)
    start, new = int(cache.length), inputs.shape[-2]
    query, key = steps.turn_new(query, key, start, rotary, steps.turn)
    own = steps.visible_to_new(start, new)
    cache = steps.append(cache, key, value)
    options = Options(own if mask is None else as_mask(mask) & own, bias, scale, softcap, sinks, dropout)
    heads = steps.merge_heads(attend(steps, query, cache.key, cache.value, options))
    return CachedAttention(steps.linear(heads, parameters.output_weight, parameters.output_bias), cache)


def hard_attention(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    *,
    top_k: int,
    noise: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Attend to the top_k best keys."""
    (query, key, value), has_heads = with_heads(query, key, value)
    key, value = (steps.repeat_heads(array, query.shape[-3]) for array in (key, value))
    scale = 1 / np.sqrt(query.shape[-1]) if scale is None else scale
    scores = steps.scaled_scores(query, key, scale)
    logits, visible = pairs(steps, scores, Options(mask, bias, softcap=softcap), has_heads=has_heads)
    ranked = logits if noise is None else logits + per_pair(noise, has_heads)
    chosen = steps.choose(ranked, visible, top_k)
    return without_heads(steps.weighted_values(steps.hard_weights(logits, chosen), value, chosen), has_heads)


def additive_attention(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    parameters: AdditiveParameters,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the scores of a small network."""
    (query, key, value), has_heads = with_heads(query, key, value)
    key, value = (steps.repeat_heads(array, query.shape[-3]) for array in (key, value))
    scores = query.dtype.type(1 if scale is None else scale) * steps.additive_scores(query, key, parameters)
    options = Options(mask, bias, scale, softcap, sinks, dropout)
    return without_heads(weigh(steps, scores, value, options, has_heads=has_heads), has_heads)


def bilinear_attention(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    weight: Array,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the scores q W k."""
    options = Options(mask, bias, 1 if scale is None else scale, softcap, sinks, dropout)
    (query, key, value), has_heads = with_heads(query, key, value)
    query = steps.linear(query, weight, None)
    return without_heads(attend(steps, query, key, value, options, has_heads=has_heads), has_heads)


def cosine_attention(
    steps: Steps,
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the cosine of the angle between query and key."""
    options = Options(mask, bias, 1 if scale is None else scale, softcap, sinks, dropout)
    (query, key, value), has_heads = with_heads(query, key, value)
    query, key = steps.unit_vectors(query), steps.unit_vectors(key)
    return without_heads(attend(steps, query, key, value, options, has_heads=has_heads), has_heads)

"""What decoding computes in TensorFlow: attention over a cache, decoder steps, and writing one id at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from attnspec.contract.blocks import BlockSettings, by_layer
from attnspec.contract.decoding import Span, StepPlan, causal_after, plan_writing
from attnspec.contract.layer_parameters import DecoderLayerParameters, DecoderParameters
from attnspec.contract.layer_results import (
    CachedAttention,
    DecoderCache,
    DecoderLayerDropout,
    DecoderStep,
    KeyValueCache,
)
from attnspec.contract.models import SINUSOIDAL_BASE
from attnspec.contract.options import Options
from attnspec.contract.parameters import MultiHeadParameters
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.shapes import Sizes
from attnspec.contract.states import leaves

from .attention import Attention, compute_stages, widen
from .blocks import feed, normalise, residual, run_encoder
from .embeddings import embed, with_sinusoids, with_table
from .models import Transduction, embed_source
from .positions import turn
from .projections import merge_heads, project, split_heads
from .tensors import describe, new_checks, shape_of


def attend_to_cache(
    inputs: tf.Tensor,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    sizes: Sizes,
    options: Options,
    rotary: Rotary | None,
) -> CachedAttention:
    """Project new positions, put them into the cache, and attend to all that is filled; the output stays wide."""
    query = split_heads(project(inputs, parameters.query_weight, parameters.query_bias), sizes.num_heads)
    key, value = project_keys(inputs, parameters, sizes)
    length = as_length(cache.length, sizes.key_length)
    places = tf.cast(length, tf.int64) + tf.range(tf.cast(sizes.query_length, tf.int64))
    if rotary is not None:
        query, key = (turn(heads, tf.cast(places, heads.dtype), rotary) for heads in (query, key))
    options = options._replace(mask=causal_after(options.mask, length))
    cache = appended(cache._replace(length=length), key, value)
    output = read(Attention(query, widen(cache.key), widen(cache.value), sizes, options), parameters)
    if not isinstance(length, int):  # otherwise it is known that everything fits
        output = tf.where((places < tf.cast(sizes.key_length, tf.int64))[:, None], output, math.nan)
    return CachedAttention(output, cache)


def project_keys(inputs: tf.Tensor, parameters: MultiHeadParameters, sizes: Sizes) -> tuple[tf.Tensor, tf.Tensor]:
    """Project the inputs to keys (*B, Hkv, T, Dk) and values (*B, Hkv, T, Dv)."""
    key = split_heads(project(inputs, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(inputs, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    return key, value


def read(attention: Attention, parameters: MultiHeadParameters) -> tf.Tensor:
    """Attend, and project the heads side by side."""
    heads: tf.Tensor = compute_stages(attention).output
    return project(merge_heads(heads), parameters.output_weight, parameters.output_bias)


def appended(cache: KeyValueCache, key: tf.Tensor, value: tf.Tensor) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, count, capacity = cache.length, shape_of(key)[-2], shape_of(cache.key)[-2]
    if isinstance(length, int) and isinstance(count, int):
        end = length + count
    else:
        length = tf.convert_to_tensor(length)
        end = tf.minimum(length + tf.cast(count, length.dtype), tf.cast(capacity, length.dtype))
    return KeyValueCache(put(cache.key, key, length), put(cache.value, value, length), end)


def as_length(length: Any, capacity: Any) -> Any:
    """Return an int as it is, and a tensor within [0, capacity]."""
    if isinstance(length, int):
        return length
    dtype = length.dtype if length.dtype in (tf.int32, tf.int64) else tf.int64
    return tf.clip_by_value(tf.cast(length, dtype), 0, tf.cast(capacity, dtype))


def put(filled: tf.Tensor, new: tf.Tensor, length: Any) -> tf.Tensor:
    """Write rows (*B, H, T, D) behind the first `length` ones; what is beyond the capacity is left out."""
    count, capacity = (tf.cast(shape_of(array)[-2], tf.int64) for array in (new, filled))
    index = tf.range(capacity) - tf.cast(length, tf.int64)
    is_new = (index >= 0) & (index < count)
    rank = len(new.shape)
    padded = tf.pad(tf.cast(new, filled.dtype), [*[[0, 0]] * (rank - 2), [0, 1], [0, 0]])  # there may be no new row
    return tf.where(is_new[:, None], tf.gather(padded, tf.clip_by_value(index, 0, count), axis=-2), filled)


def begin(memory: tf.Tensor, parameters: DecoderParameters, sizes: Iterable[Sizes], dtype: tf.DType) -> DecoderCache:
    """Make the caches, in this dtype, of a decoder whose self-attentions, once all is decoded, have these sizes."""
    own, memories = [], []
    for layer, size in zip(parameters.layers, sizes, strict=True):
        shape = (*size.batch, size.num_kv_heads, size.key_length)
        key, value = (tf.zeros([*shape, columns], dtype) for columns in (size.head_dim, size.value_dim))
        own.append(KeyValueCache(key, value, 0))
        key, value = project_keys(memory, layer.cross_attention, size)
        memories.append(KeyValueCache(tf.cast(key, dtype), tf.cast(value, dtype), shape_of(memory)[-2]))
    return DecoderCache(tuple(own), tuple(memories))


def run_step(
    inputs: tf.Tensor,
    parameters: DecoderParameters,
    cache: DecoderCache,
    plans: tuple[StepPlan, ...],
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
) -> DecoderStep:
    """Compute a step whose arguments are checked; the output stays wide."""
    grown = []
    layers = zip(parameters.layers, cache.layers, cache.memory, plans, by_layer(dropout, parameters), strict=True)
    for layer, own, held, plan, dropped in layers:
        inputs, filled = run_layer_step(inputs, layer, own, held, plan, settings, dropped)
        grown.append(filled)
    output = inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)
    return DecoderStep(output, cache._replace(layers=tuple(grown)))


def run_layer_step(
    inputs: tf.Tensor,
    parameters: DecoderLayerParameters,
    cache: KeyValueCache,
    memory: KeyValueCache,
    plan: StepPlan,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
) -> tuple[tf.Tensor, KeyValueCache]:
    """Compute a decoder layer over new positions; return the cache that holds them, too."""
    dropout = DecoderLayerDropout() if dropout is None else dropout

    def attention(inputs: tf.Tensor) -> tf.Tensor:
        nonlocal cache
        output: tf.Tensor
        output, cache = attend_to_cache(inputs, parameters.attention, cache, plan.sizes, plan.options, settings.rotary)
        return output

    def cross_attention(inputs: tf.Tensor) -> tf.Tensor:
        weights, sizes = parameters.cross_attention, plan.cross_sizes
        query = split_heads(project(inputs, weights.query_weight, weights.query_bias), sizes.num_heads)
        return read(Attention(query, widen(memory.key), widen(memory.value), sizes, plan.cross_options), weights)

    def feed_forward(inputs: tf.Tensor) -> tf.Tensor:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward), cache


def write(call: Transduction, span: Span) -> tf.Tensor:
    """Encode the source, and write one id at a time, until every sequence has ended."""
    _, stop, max_length = span
    weights, token = call.parameters, call.target
    memory = run_encoder(embed_source(call), weights.encoder, call.encoder, None)
    plans = plan_for(memory, call, max_length)
    cache = begin(memory, weights.decoder, (plan.sizes for plan in plans), memory.dtype)
    stop = tf.constant(stop, token.dtype)
    places = tf.range(tf.constant(max_length, tf.int64))

    def goes_on(place: tf.Tensor, _token: Any, has_ended: tf.Tensor, _ids: Any, _own: Any) -> tf.Tensor:
        return (place < max_length) & ~tf.reduce_all(has_ended)

    def write_one(place: tf.Tensor, token: tf.Tensor, has_ended: tf.Tensor, ids: tf.Tensor, own: Any) -> Any:
        held = cache._replace(layers=own)
        rows, grown = run_step(embed_next(token, place, call), weights.decoder, held, plans, call.decoder, None)
        logits = rows if weights.head is None else project(rows, *weights.head)
        next_token = tf.where(has_ended, stop, likeliest(logits[..., 0, :]))
        next_ids = tf.where(places == place, next_token[..., None], ids)
        after = (place + 1, next_token, has_ended | (next_token == stop), next_ids, grown.layers)
        # Sizes that are known stay known: a loop wants its variables as they were.
        before = (place, token, has_ended, ids, own)
        return tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), after, before)

    own = tuple(layer._replace(length=tf.constant(0, tf.int64)) for layer in cache.layers)
    ids = tf.fill([*shape_of(token), max_length], stop)
    start = (tf.constant(0, tf.int64), token, tf.zeros_like(token, tf.bool), ids, own)
    return tf.while_loop(goes_on, write_one, start)[3]


def plan_for(memory: tf.Tensor, call: Transduction, max_length: int) -> tuple[StepPlan, ...]:
    """Plan the steps that write one id each."""
    decoder, rows = call.parameters.decoder, describe(embed_next(call.target, 0, call))
    given = {path: describe(array) for path, array in leaves(decoder).items()}
    checks = new_checks(memory)
    return plan_writing(rows, describe(memory), given, len(decoder.layers), call.decoder, max_length, checks)


def embed_next(token: tf.Tensor, place: Any, call: Transduction) -> tf.Tensor:
    """Embed the ids (*B,) that stand at one place, and add its position: (*B, 1, E)."""
    weights = call.parameters
    assert weights.target_embedding is not None  # noqa: S101 - `check_writing` requires it
    rows = embed(token[..., None], weights.target_embedding)
    if call.positions == "sinusoidal":
        rows = with_sinusoids(rows, place, SINUSOIDAL_BASE)
    return rows if weights.target_positions is None else with_table(rows, weights.target_positions, place)


def likeliest(logits: tf.Tensor) -> tf.Tensor:
    """Give the index of the largest logit, the lowest of several; NaN is less than every number."""
    numbers = tf.where(tf.math.is_nan(logits), tf.cast(-math.inf, logits.dtype), logits)
    count = tf.cast(shape_of(logits)[-1], tf.int64)
    is_largest = numbers == tf.reduce_max(numbers, axis=-1, keepdims=True)
    return tf.reduce_min(tf.where(is_largest, tf.range(count), count), axis=-1)  # tf.argmax may give any of several

"""What decoding computes: attention over a cache, decoder steps, and writing one id at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

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

from .attention import Attention, attend
from .blocks import feed, normalise, residual, run_encoder
from .embeddings import embed, with_sinusoids, with_table
from .models import Transduction, embed_source
from .positions import turn
from .projections import merge_heads, project, split_heads
from .tensors import Array, describe, new_checks


def attend_to_cache(
    inputs: Array,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    sizes: Sizes,
    options: Options,
    rotary: Rotary | None,
) -> CachedAttention:
    """Project new positions, put them into the cache, and attend to all that is filled."""
    query = split_heads(project(inputs, parameters.query_weight, parameters.query_bias), sizes.num_heads)
    key, value = project_keys(inputs, parameters, sizes)
    if rotary is not None:
        places = cache.length + np.arange(sizes.query_length, dtype=np.float64)
        query, key = turn(query, places, rotary), turn(key, places, rotary)
    options = options._replace(mask=causal_after(options.mask, cache.length))
    cache = appended(cache, key, value)
    attention = Attention(query, cache.key, cache.value, sizes, options)
    return CachedAttention(read(attention, parameters), cache)


def project_keys(inputs: Array, parameters: MultiHeadParameters, sizes: Sizes) -> tuple[Array, Array]:
    """Project the inputs to keys (*B, Hkv, T, Dk) and values (*B, Hkv, T, Dv)."""
    key = split_heads(project(inputs, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(inputs, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    return key, value


def read(attention: Attention, parameters: MultiHeadParameters) -> Array:
    """Attend, and project the heads side by side."""
    return project(merge_heads(attend(attention)), parameters.output_weight, parameters.output_bias)


def appended(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, end = cache.length, cache.length + key.shape[-2]

    def put(filled: Array, new: Array) -> Array:
        return np.concatenate([filled[..., :length, :], new, filled[..., end:, :]], axis=-2)

    return KeyValueCache(put(cache.key, key), put(cache.value, value), end)


def begin(memory: Array, parameters: DecoderParameters, sizes: Iterable[Sizes]) -> DecoderCache:
    """Make the caches of a decoder whose self-attentions, once all is decoded, have these sizes."""
    own, memories = [], []
    for layer, size in zip(parameters.layers, sizes, strict=True):
        shape = (*size.batch, size.num_kv_heads, size.key_length)
        own.append(KeyValueCache(np.zeros((*shape, size.head_dim)), np.zeros((*shape, size.value_dim)), 0))
        memories.append(KeyValueCache(*project_keys(memory, layer.cross_attention, size), memory.shape[-2]))
    return DecoderCache(tuple(own), tuple(memories))


def run_step(
    inputs: Array,
    parameters: DecoderParameters,
    cache: DecoderCache,
    plans: tuple[StepPlan, ...],
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
) -> DecoderStep:
    """Compute a step whose arguments are checked."""
    grown = []
    layers = zip(parameters.layers, cache.layers, cache.memory, plans, by_layer(dropout, parameters), strict=True)
    for layer, own, held, plan, dropped in layers:
        inputs, filled = run_layer_step(inputs, layer, own, held, plan, settings, dropped)
        grown.append(filled)
    output = inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)
    return DecoderStep(output, cache._replace(layers=tuple(grown)))


def run_layer_step(
    inputs: Array,
    parameters: DecoderLayerParameters,
    cache: KeyValueCache,
    memory: KeyValueCache,
    plan: StepPlan,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
) -> tuple[Array, KeyValueCache]:
    """Compute a decoder layer over new positions; return the cache that holds them, too."""
    dropout = DecoderLayerDropout() if dropout is None else dropout

    def attention(inputs: Array) -> Array:
        nonlocal cache
        output: Array
        output, cache = attend_to_cache(inputs, parameters.attention, cache, plan.sizes, plan.options, settings.rotary)
        return output

    def cross_attention(inputs: Array) -> Array:
        weights, sizes = parameters.cross_attention, plan.cross_sizes
        query = split_heads(project(inputs, weights.query_weight, weights.query_bias), sizes.num_heads)
        return read(Attention(query, memory.key, memory.value, sizes, plan.cross_options), weights)

    def feed_forward(inputs: Array) -> Array:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward), cache


def write(call: Transduction, span: Span) -> Array:
    """Encode the source, and write one id at a time, until every sequence has ended."""
    _, stop, max_length = span
    weights, token = call.parameters, call.target
    memory = run_encoder(embed_source(call), weights.encoder, call.encoder, None)
    plans = plan_for(memory, call, max_length)
    cache = begin(memory, weights.decoder, (plan.sizes for plan in plans))
    has_ended, written = np.zeros(token.shape, bool), []
    for place in range(max_length):
        rows, cache = run_step(embed_next(token, place, call), weights.decoder, cache, plans, call.decoder, None)
        logits = rows if weights.head is None else project(rows, *weights.head)
        token = np.where(has_ended, stop, likeliest(logits[..., 0, :]))
        has_ended = has_ended | (token == stop)
        written.append(token[..., None])
        if has_ended.all():
            break
    rest = np.full((*token.shape, max_length - len(written)), stop, np.int64)
    return np.concatenate([*written, rest], axis=-1)


def plan_for(memory: Array, call: Transduction, max_length: int) -> tuple[StepPlan, ...]:
    """Plan the steps that write one id each."""
    decoder, rows = call.parameters.decoder, describe(embed_next(call.target, 0, call))
    given = {path: describe(array) for path, array in leaves(decoder).items()}
    return plan_writing(rows, describe(memory), given, len(decoder.layers), call.decoder, max_length, new_checks())


def embed_next(token: Array, place: int, call: Transduction) -> Array:
    """Embed the ids (*B,) that stand at one place, and add its position: (*B, 1, E)."""
    weights = call.parameters
    assert weights.target_embedding is not None  # noqa: S101 - `check_writing` requires it
    rows = embed(token[..., None], weights.target_embedding)
    if call.positions == "sinusoidal":
        return with_sinusoids(rows, place, SINUSOIDAL_BASE)
    return rows if weights.target_positions is None else with_table(rows, weights.target_positions, place)


def likeliest(logits: Array) -> Array:
    """Give the index of the largest logit, the lowest of several; NaN is less than every number."""
    index: Array = np.argmax(np.where(np.isnan(logits), -np.inf, logits), axis=-1)
    return index

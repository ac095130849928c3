"""What decoding computes in JAX: attention over a cache, decoder steps, and writing one id at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.blocks import BlockSettings, by_layer
from attnspec.contract.decoding import Span, StepPlan, causal_after, plan_writing
from attnspec.contract.layer_parameters import DecoderLayerParameters, DecoderParameters, TransformerParameters
from attnspec.contract.layer_results import (
    CachedAttention,
    DecoderCache,
    DecoderLayerDropout,
    DecoderStep,
    KeyValueCache,
    TransformerDropout,
)
from attnspec.contract.masks import Mask
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
from .tensors import describe, new_checks


def attend_to_cache(
    inputs: Array,
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
    places = length + jnp.arange(sizes.query_length)
    if rotary is not None:
        query, key = (turn(heads, places.astype(heads.dtype), rotary) for heads in (query, key))
    options = options._replace(mask=causal_after(options.mask, length))
    cache = appended(cache._replace(length=length), key, value)
    output = read(Attention(query, widen(cache.key), widen(cache.value), sizes, options), parameters)
    if not isinstance(length, int):  # otherwise it is known that everything fits
        output = jnp.where((places < sizes.key_length)[:, None], output, jnp.nan)
    return CachedAttention(output, cache)


def project_keys(inputs: Array, parameters: MultiHeadParameters, sizes: Sizes) -> tuple[Array, Array]:
    """Project the inputs to keys (*B, Hkv, T, Dk) and values (*B, Hkv, T, Dv)."""
    key = split_heads(project(inputs, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(inputs, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    return key, value


def read(attention: Attention, parameters: MultiHeadParameters) -> Array:
    """Attend, and project the heads side by side."""
    heads: Array = compute_stages(attention).output
    output: Array = project(merge_heads(heads), parameters.output_weight, parameters.output_bias)
    return output


def appended(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, count, capacity = cache.length, key.shape[-2], cache.key.shape[-2]
    end = length + count if isinstance(length, int) else jnp.minimum(length + count, capacity)
    return KeyValueCache(put(cache.key, key, length), put(cache.value, value, length), end)


def as_length(length: Any, capacity: int) -> Any:
    """Return an int as it is, and an array within [0, capacity]."""
    if isinstance(length, int):
        return length
    # Only what is too narrow is converted: a Python int that is traced stays one, so that the next call is no other.
    return jnp.clip(length if length.dtype.itemsize >= 4 else length.astype(jnp.int32), 0, capacity)


@jax.jit  # one compilation, whatever the length is
def put(filled: Array, new: Array, length: Any) -> Array:
    """Write rows (*B, H, T, D) behind the first `length` ones; what is beyond the capacity is left out."""
    count, axis = new.shape[-2], filled.ndim - 2
    if count == 0:
        return filled
    # A slice that sticks out would be moved inside, over what is filled: so the slice there begins with what is filled.
    start = jnp.minimum(length, filled.shape[axis] - count)
    beyond = length - start
    rows = jnp.roll(new.astype(filled.dtype), beyond, axis=axis)
    is_new = jnp.arange(count) >= beyond
    rows = jnp.where(is_new[:, None], rows, lax.dynamic_slice_in_dim(filled, start, count, axis))
    return lax.dynamic_update_slice_in_dim(filled, rows, start, axis)


def begin(memory: Array, parameters: DecoderParameters, sizes: Iterable[Sizes], dtype: jnp.dtype) -> DecoderCache:
    """Make the caches, in this dtype, of a decoder whose self-attentions, once all is decoded, have these sizes."""
    own, memories = [], []
    for layer, size in zip(parameters.layers, sizes, strict=True):
        shape = (*size.batch, size.num_kv_heads, size.key_length)
        key, value = (jnp.zeros((*shape, columns), dtype) for columns in (size.head_dim, size.value_dim))
        own.append(KeyValueCache(key, value, 0))
        key, value = project_keys(memory, layer.cross_attention, size)
        memories.append(KeyValueCache(key.astype(dtype), value.astype(dtype), memory.shape[-2]))
    return DecoderCache(tuple(own), tuple(memories))


def run_step(
    inputs: Array,
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
        return read(Attention(query, widen(memory.key), widen(memory.value), sizes, plan.cross_options), weights)

    def feed_forward(inputs: Array) -> Array:
        output: Array = feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)
        return output

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward), cache


def write(call: Transduction, span: Span) -> Array:
    """Encode the source, and write one id at a time, until every sequence has ended."""
    masks = call.encoder.mask, call.decoder.memory_mask
    settings = call.encoder._replace(mask=None), call.decoder._replace(memory_mask=None)
    ids: Array = _write(
        call.source, call.target, call.parameters, masks, span.stop, settings, call.positions, span.max_length
    )
    return ids


# One compiled loop: settings and the number of ids are part of it, the ids that begin and end are not.
@functools.partial(jax.jit, static_argnames=("settings", "positions", "max_length"))
def _write(
    source: Array,
    token: Array,
    weights: TransformerParameters,
    masks: tuple[Mask | None, Mask | None],
    stop: Any,
    settings: tuple[BlockSettings, BlockSettings],
    positions: str | None,
    max_length: int,
) -> Array:
    reading, writing = settings[0]._replace(mask=masks[0]), settings[1]._replace(memory_mask=masks[1])
    call = Transduction(source, token, weights, positions, reading, writing, TransformerDropout(), source.dtype)
    memory = run_encoder(embed_source(call), weights.encoder, reading, None)
    plans = plan_for(memory, call, max_length)
    cache = begin(memory, weights.decoder, (plan.sizes for plan in plans), memory.dtype)
    ids = jnp.full((*token.shape, max_length), stop, token.dtype)
    if not max_length:
        return ids

    def goes_on(state: Any) -> Any:
        place, _, has_ended, _, _ = state
        return (place < max_length) & ~has_ended.all()

    def write_one(state: Any) -> Any:
        place, token, has_ended, ids, own = state
        held = cache._replace(layers=own)
        rows, grown = run_step(embed_next(token, place, call), weights.decoder, held, plans, writing, None)
        logits = rows if weights.head is None else project(rows, *weights.head)
        token = jnp.where(has_ended, stop, likeliest(logits[..., 0, :])).astype(token.dtype)
        return place + 1, token, has_ended | (token == stop), ids.at[..., place].set(token), grown.layers

    own = tuple(layer._replace(length=jnp.zeros((), jnp.int32)) for layer in cache.layers)
    start = (jnp.zeros((), jnp.int32), token, jnp.zeros(token.shape, bool), ids, own)
    written: Array = lax.while_loop(goes_on, write_one, start)[3]
    return written


def plan_for(memory: Array, call: Transduction, max_length: int) -> tuple[StepPlan, ...]:
    """Plan the steps that write one id each."""
    decoder, rows = call.parameters.decoder, describe(embed_next(call.target, 0, call))
    given = {path: describe(array) for path, array in leaves(decoder).items()}
    checks = new_checks(memory)
    return plan_writing(rows, describe(memory), given, len(decoder.layers), call.decoder, max_length, checks)


def embed_next(token: Array, place: Any, call: Transduction) -> Array:
    """Embed the ids (*B,) that stand at one place, and add its position: (*B, 1, E)."""
    weights = call.parameters
    assert weights.target_embedding is not None  # noqa: S101 - `check_writing` requires it
    rows: Array = embed(token[..., None], weights.target_embedding)
    if call.positions == "sinusoidal":
        rows = with_sinusoids(rows, place, SINUSOIDAL_BASE)
    return rows if weights.target_positions is None else with_table(rows, weights.target_positions, place)


def likeliest(logits: Array) -> Array:
    """Give the index of the largest logit, the lowest of several; NaN is less than every number."""
    return jnp.argmax(jnp.where(jnp.isnan(logits), -jnp.inf, logits), axis=-1)

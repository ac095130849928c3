"""Decoding in JAX: attention over a cache of keys and values, decoder steps, and writing by the likeliest id."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from attnspec.contract.blocks import BlockSettings, check_block_settings
from attnspec.contract.decoding import (
    Span,
    StepPlan,
    cached_sizes,
    check_cache_dtypes,
    check_cached_rotary,
    check_empty,
    check_start,
    check_writing,
    plan_steps,
)
from attnspec.contract.layer_parameters import DecoderParameters, TransformerParameters
from attnspec.contract.layer_results import (
    CachedAttention,
    DecoderCache,
    DecoderStep,
    KeyValueCache,
    TransformerDropout,
)
from attnspec.contract.models import ModelOptions
from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.parameters import MultiHeadParameters, check_parameters
from attnspec.contract.positional_masks import causal
from attnspec.contract.shapes import Sizes, self_multi_head_sizes
from attnspec.contract.states import rebuild

from .attention import widen
from .caches import attend_to_cache, begin, run_step, write
from .embeddings import as_model_tensors
from .models import Transduction
from .tensors import as_option, as_tensors, check_width, describe, new_checks, with_tensors


def empty_cache(
    batch_shape: tuple[int, ...],
    capacity: int,
    num_kv_heads: int,
    head_dim: int,
    value_dim: int | None = None,
    *,
    dtype: Any = "float32",
) -> KeyValueCache:
    """Make a cache of keys and values in which nothing is filled.

    Arguments, shapes and errors: `attnspec.reference.empty_cache`.

    Differences: of the dtype that is asked for, on the default device. float64 without `jax_enable_x64` is a TypeError.
    """
    key_shape, value_shape, dtype = check_empty(batch_shape, capacity, num_kv_heads, head_dim, value_dim, dtype)
    check_width(dtype)
    return KeyValueCache(jnp.zeros(key_shape, dtype), jnp.zeros(value_shape, dtype), 0)


def cached_multi_head_attention(
    inputs: Any,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> CachedAttention:
    """Let new positions attend causally to a cache and to themselves, and add them to it.

    Arguments, shapes and errors: `attnspec.reference.cached_multi_head_attention`.

    Differences: as for `multi_head_attention`; keys and values are rounded to the cache's dtype, and read as they are
    rounded. Where the length is traced, new positions beyond the capacity are
    not kept, and their output is NaN.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    inputs, parameters, cache, sizes, options = prepare_cached_attention(
        inputs, parameters, cache, num_heads, num_kv_heads, given, rotary
    )
    output, cache = attend_to_cache(widen(inputs), parameters, cache, sizes, options, rotary)
    return CachedAttention(output.astype(inputs.dtype), cache)


def start_decoding(
    memory: Any, parameters: DecoderParameters, *, num_heads: int, num_kv_heads: int | None = None, capacity: int
) -> DecoderCache:
    """Project the output of an encoder once, for every layer of a decoder, and make room for its own positions.

    Arguments, shapes and errors: `attnspec.reference.start_decoding`.

    Differences: the caches have the dtype of the memory.
    """
    settings = check_block_settings(num_heads, num_kv_heads, "post", "relu", 1e-5, None, None, None, None)
    memory, parameters, sizes, dtype = prepare_start(memory, parameters, settings, capacity)
    return begin(memory, parameters, sizes, dtype)


def decoder_step(
    inputs: Any,
    parameters: DecoderParameters,
    cache: DecoderCache,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> DecoderStep:
    """Decode new positions after those that a cache holds, and add them to it.

    Arguments, shapes and errors: `attnspec.reference.decoder_step`.

    Differences: as for `cached_multi_head_attention`; nothing else is rounded in between.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, None, memory_mask, bias, rotary)
    inputs, parameters, cache, plans, dtype = prepare_step(inputs, parameters, cache, settings, dropout)
    output, cache = run_step(inputs, parameters, cache, plans, settings, dropout)
    return DecoderStep(output.astype(dtype), cache)


def greedy_decode(
    source: Any,
    parameters: TransformerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    positions: str | None = "sinusoidal",
    start: int,
    stop: int,
    max_length: int,
    source_valid: Any = None,
    rotary: Any = None,
) -> Array:
    """Let a Transformer read a source and write ids, each time the likeliest one, until it writes `stop`.

    Arguments, shapes and errors: `attnspec.reference.greedy_decode`.

    Differences: ids are JAX's default integers; caches are not rounded to half precision.
    One compiled loop for each shape and `max_length`, which stops when all have ended.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid, causal(), None, rotary, None
    )
    span = Span.checked(start, stop, max_length)
    return write(prepare_writing(source, parameters, options, span), span)


def prepare_cached_attention(
    inputs: Any,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    num_heads: int,
    num_kv_heads: int | None,
    given: Given,
    rotary: Any,
) -> tuple[Array, MultiHeadParameters, KeyValueCache, Sizes, Options]:
    """Check the arguments of an attention over a cache; return them, known lengths as ints, and sizes over it."""
    arrays = check_parameters(parameters)
    check_tree("cache", cache, KeyValueCache)
    inputs, key, value, *weights = as_tensors(
        inputs=inputs, **name_leaves({"key": cache.key, "value": cache.value}, "cache"), **arrays
    )
    given = with_tensors(given, inputs)
    parameters = MultiHeadParameters(**dict(zip(arrays, weights, strict=True)))
    described = MultiHeadParameters(*map(describe, parameters))
    dtype = check_floating(inputs=describe(inputs), **{name: getattr(described, name) for name in arrays})
    stored = {"key": describe(key), "value": describe(value)}
    check_cache_dtypes(stored, dtype, accumulation_dtype(dtype))
    checks = new_checks(inputs)
    sizes = self_multi_head_sizes(describe(inputs), described, num_heads, num_kv_heads, checks)
    sizes, length = cached_sizes(sizes, **stored, length=cache.length, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    check_cached_rotary(rotary, sizes.head_dim, checks)
    return inputs, parameters, KeyValueCache(key, value, length), sizes, options


def prepare_start(
    memory: Any, parameters: DecoderParameters, settings: BlockSettings, capacity: int
) -> tuple[Array, DecoderParameters, tuple[Sizes, ...], jnp.dtype]:
    """Check the arguments of a start; return memory, parameters, the sizes of each self-attention, and a dtype."""
    given = check_tree("parameters", parameters, DecoderParameters)
    memory, *arrays = as_tensors(memory=memory, **name_leaves(given))
    described = dict(zip(given, map(describe, arrays), strict=True))
    check_leaf_dtypes({"memory": describe(memory)}, described)
    checks = new_checks(memory)
    sizes = check_start(describe(memory), described, len(parameters.layers), settings, capacity, checks)
    wide = rebuild(parameters, dict(zip(given, map(widen, arrays), strict=True)))
    return widen(memory), wide, sizes, memory.dtype


def prepare_step(
    inputs: Any, parameters: DecoderParameters, cache: DecoderCache, settings: BlockSettings, dropout: Any
) -> tuple[Array, DecoderParameters, DecoderCache, tuple[StepPlan, ...], jnp.dtype]:
    """Check the arguments of a step; return inputs, parameters, cache, the plan of each layer, and a dtype."""
    given, kept = check_tree("parameters", parameters, DecoderParameters), check_tree("cache", cache, DecoderCache)
    stored = {path: array for path, array in kept.items() if not path.endswith(".length")}
    inputs, *arrays = as_tensors(inputs=inputs, **name_leaves(given), **name_leaves(stored, "cache"))
    settings = settings.with_tensors(lambda name, value: as_option(name, value, inputs))
    described = dict(zip(given, map(describe, arrays), strict=False))
    dtype = check_leaf_dtypes({"inputs": describe(inputs)}, described)
    held = dict(zip(stored, map(describe, arrays[len(given) :]), strict=True))
    check_cache_dtypes(held, dtype, accumulation_dtype(dtype))
    checks = new_checks(inputs)
    plans, lengths = plan_steps(
        describe(inputs), described, kept | held, len(parameters.layers), settings, dropout, checks
    )
    weights = rebuild(parameters, dict(zip(given, map(widen, arrays), strict=False)))
    filled = rebuild(cache, dict(zip(stored, arrays[len(given) :], strict=True)) | lengths)
    return widen(inputs), weights, filled, plans, inputs.dtype


def prepare_writing(source: Any, parameters: TransformerParameters, options: ModelOptions, span: Span) -> Transduction:
    """Check the arguments of a Transformer that is to write: its target is the id that stands before that, (*B,)."""
    settings = options.check()
    given = check_tree("parameters", parameters, TransformerParameters)
    embedded = () if parameters.source_embedding is None else ("source",)
    tensors = as_model_tensors({"source": source}, embedded, given)
    array, layers = tensors.inputs["source"], (len(parameters.encoder.layers), len(parameters.decoder.layers))
    checks = new_checks(tensors.like)
    reading, writing = check_writing(
        describe(array), tensors.ids.get("source"), tensors.leaves, layers, settings, options, span, checks
    )
    first = jnp.full(array.shape[: -1 if tensors.ids else -2], span.start)
    weights = rebuild(parameters, tensors.arrays)
    dropout = TransformerDropout()
    return Transduction(array, first, weights, options.positions, reading, writing, dropout, tensors.like.dtype)

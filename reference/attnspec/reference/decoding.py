"""Decoding: attention over a cache of keys and values, decoder steps, and writing by the likeliest id."""

from __future__ import annotations

from typing import Any

import numpy as np

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
from .tensors import Array, as_option, as_tensors, describe, new_checks, with_tensors


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

    Args:
        batch_shape: *B, a tuple of ints.
        capacity: S, how many positions it can hold.
        num_kv_heads: Hkv.
        head_dim: Dk.
        value_dim: Dv, by default Dk.
        dtype: a name, such as "float32", or a dtype of the framework, for the backends; the reference gives float64
            whatever it says.

    Returns:
        `KeyValueCache(key, value, length)`: zeros (*B, Hkv, S, Dk) and (*B, Hkv, S, Dv), float64; length 0.

    Raises:
        ValueError: a negative size, no head, a head of size 0.
        TypeError: sizes that are no ints, an unknown dtype.
    """
    key_shape, value_shape, _ = check_empty(batch_shape, capacity, num_kv_heads, head_dim, value_dim, dtype)
    return KeyValueCache(np.zeros(key_shape), np.zeros(value_shape), 0)


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

    With n filled positions, new position i stands at n + i. Its key and value, projected (and turned), are put into
    the cache, and it attends to the filled positions j ≤ n + i. Row by row that is `multi_head_attention` of the whole
    sequence with `causal()`, however it is divided into calls.

    Args:
        inputs: x, (*B, T, E).
        parameters: `MultiHeadParameters`, of which queries, keys and values share E.
        cache: `KeyValueCache(key, value, length)`: keys (*B, Hkv, S, Dk), turned if there is `rotary`, and values
            (*B, Hkv, S, Dv), of which the first n = length are filled; the others are not read. It is not changed.
        num_heads, num_kv_heads: as for `multi_head_attention`.
        mask: seen together with the causal one; it spans T queries and S keys, and has to say where the queries stand
            if that matters: `sliding_window(left, offset=cache.length)`.
        bias, dropout: over T queries and S keys, as the mask.
        scale, softcap, sinks: as for `multi_head_attention`.
        rotary: `Rotary(pairing, …)` without an offset: the cache says where positions stand.

    Returns:
        `CachedAttention(output, cache)`: (*B, T, E_out), float64, and a new cache of n + T filled positions.

    Raises:
        ValueError: new positions that do not fit into the capacity, a cache of other sizes, …
        TypeError: a cache of another dtype than the inputs' or the one they accumulate in, …; otherwise as for
            `multi_head_attention`.

    Source: Shazeer 2019, §2.4 (incremental attention); Pope et al. 2022, §3.3.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    inputs, parameters, cache, sizes, options = prepare_cached_attention(
        inputs, parameters, cache, num_heads, num_kv_heads, given, rotary
    )
    return attend_to_cache(widen(inputs), parameters, cache, sizes, options, rotary)


def start_decoding(
    memory: Any, parameters: DecoderParameters, *, num_heads: int, num_kv_heads: int | None = None, capacity: int
) -> DecoderCache:
    """Project the output of an encoder once, for every layer of a decoder, and make room for its own positions.

    Args:
        memory: m, (*B, Tm, Em), the encoder's output.
        parameters: `DecoderParameters`.
        num_heads, num_kv_heads: as for `decoder`.
        capacity: how many positions can be decoded.

    Returns:
        `DecoderCache(layers, memory)`, for each layer the empty `KeyValueCache` of its self-attention, and one that
        holds the keys (*B, Hkv, Tm, Dk) and values (*B, Hkv, Tm, Dv) of the memory; float64.

    Raises:
        ValueError, TypeError: as for `decoder`; a capacity that is negative or no int.

    Source: Shazeer 2019, §2.4.
    """
    settings = check_block_settings(num_heads, num_kv_heads, "post", "relu", 1e-5, None, None, None, None)
    memory, parameters, sizes = prepare_start(memory, parameters, settings, capacity)
    return begin(memory, parameters, sizes)


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

    Row by row that is `decoder` of the whole sequence with `mask=causal()`, however it is divided into steps.

    Args:
        inputs: (*B, T, E), the new positions.
        parameters: `DecoderParameters`.
        cache: `DecoderCache`, from `start_decoding` or the last step. It is not changed.
        num_heads, num_kv_heads, norm, activation, epsilon: as for `decoder`.
        memory_mask: of the attention over the memory, T queries and Tm keys.
        bias: of the self-attention, over T queries and as many keys as the cache has room for.
        rotary: as for `cached_multi_head_attention`, without an offset.
        dropout: as for `decoder`; `weights` spans T queries and as many keys as the cache has room for.

    Returns:
        `DecoderStep(output, cache)`: (*B, T, E), float64, and a cache of T more positions.

    Raises:
        ValueError: new positions that do not fit into the capacity, a cache of other sizes or of other layers, …
        TypeError: as for `decoder` and `cached_multi_head_attention`.

    Source: Shazeer 2019, §2.4.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, None, memory_mask, bias, rotary)
    inputs, parameters, cache, plans = prepare_step(inputs, parameters, cache, settings, dropout)
    return run_step(inputs, parameters, cache, plans, settings, dropout)


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

        y_0 = start,   y_t+1 = argmax_c transformer(source, (y_0, …, y_t))_t,c

    Args:
        source: ids (*B, Ts) or vectors, as for `transformer`.
        parameters: `TransformerParameters` with a target_embedding of as many rows as there are logits, or more.
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid: as for `transformer`.
        start: the id that stands before what is written.
        stop: the id that ends it.
        max_length: how many ids are written at most.
        rotary: as for `transformer`, without an offset.

    Returns:
        y_1, …: integers (*B, max_length), int64. After the first `stop` there is nothing but `stop`. Of equal logits
        the lowest id is taken; NaN is less than every number.

    Raises:
        ValueError, TypeError: as for `transformer`; an id that is not less than the size of the vocabulary, a table of
            positions shorter than max_length, more logits than rows of the target_embedding.

    The source is encoded once, each id costs one step over the cache, and nothing is computed after every sequence has
    ended.

    Source: Vaswani et al. 2017, §3 (one symbol at a time, auto-regressively), with a beam of 1.
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
    """Check the arguments of an attention over a cache; return them, lengths as ints, and sizes over it."""
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
    check_cache_dtypes(stored, dtype, accumulation_dtype(dtype), "float64")
    checks = new_checks()
    sizes = self_multi_head_sizes(describe(inputs), described, num_heads, num_kv_heads, checks)
    sizes, length = cached_sizes(sizes, **stored, length=cache.length, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    check_cached_rotary(rotary, sizes.head_dim, checks)
    return inputs, parameters, KeyValueCache(widen(key), widen(value), length), sizes, options


def prepare_start(
    memory: Any, parameters: DecoderParameters, settings: BlockSettings, capacity: int
) -> tuple[Array, DecoderParameters, tuple[Sizes, ...]]:
    """Check the arguments of a start; return memory, parameters, and the sizes of each self-attention."""
    given = check_tree("parameters", parameters, DecoderParameters)
    memory, *arrays = as_tensors(memory=memory, **name_leaves(given))
    described = dict(zip(given, map(describe, arrays), strict=True))
    check_leaf_dtypes({"memory": describe(memory)}, described)
    sizes = check_start(describe(memory), described, len(parameters.layers), settings, capacity, new_checks())
    wide = rebuild(parameters, dict(zip(given, map(widen, arrays), strict=True)))
    return widen(memory), wide, sizes


def prepare_step(
    inputs: Any, parameters: DecoderParameters, cache: DecoderCache, settings: BlockSettings, dropout: Any
) -> tuple[Array, DecoderParameters, DecoderCache, tuple[StepPlan, ...]]:
    """Check the arguments of a step; return inputs, parameters and cache in float64, and the plan of each layer."""
    given, kept = check_tree("parameters", parameters, DecoderParameters), check_tree("cache", cache, DecoderCache)
    stored = {path: array for path, array in kept.items() if not path.endswith(".length")}
    inputs, *arrays = as_tensors(inputs=inputs, **name_leaves(given), **name_leaves(stored, "cache"))
    settings = settings.with_tensors(lambda name, value: as_option(name, value, inputs))
    described = dict(zip(given, map(describe, arrays), strict=False))
    dtype = check_leaf_dtypes({"inputs": describe(inputs)}, described)
    held = dict(zip(stored, map(describe, arrays[len(given) :]), strict=True))
    check_cache_dtypes(held, dtype, accumulation_dtype(dtype), "float64")
    plans, lengths = plan_steps(
        describe(inputs), described, kept | held, len(parameters.layers), settings, dropout, new_checks()
    )
    weights = rebuild(parameters, dict(zip(given, map(widen, arrays), strict=False)))
    filled = rebuild(cache, dict(zip(stored, map(widen, arrays[len(given) :]), strict=True)) | lengths)
    return widen(inputs), weights, filled, plans


def prepare_writing(source: Any, parameters: TransformerParameters, options: ModelOptions, span: Span) -> Transduction:
    """Check the arguments of a Transformer that is to write: its target is the id that stands before that, (*B,)."""
    settings = options.check()
    given = check_tree("parameters", parameters, TransformerParameters)
    embedded = () if parameters.source_embedding is None else ("source",)
    tensors = as_model_tensors({"source": source}, embedded, given)
    array, layers = tensors.inputs["source"], (len(parameters.encoder.layers), len(parameters.decoder.layers))
    reading, writing = check_writing(
        describe(array), tensors.ids.get("source"), tensors.leaves, layers, settings, options, span, new_checks()
    )
    first = np.full(array.shape[: -1 if tensors.ids else -2], span.start, np.int64)
    weights = rebuild(parameters, tensors.arrays)
    return Transduction(array, first, weights, options.positions, reading, writing, TransformerDropout())

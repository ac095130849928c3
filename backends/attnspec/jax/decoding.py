"""Decoding in JAX: attention of new positions over a cache of keys and values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.decoding import (
    cached_sizes,
    causal_after,
    check_cache_dtypes,
    check_cached_rotary,
    check_empty,
)
from attnspec.contract.layer_results import CachedAttention, KeyValueCache
from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameter_checks import check_tree
from attnspec.contract.parameters import MultiHeadParameters, check_parameters
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.shapes import Sizes, self_multi_head_sizes

from .attention import Attention, compute_stages, widen
from .positions import turn
from .projections import merge_heads, project, split_heads
from .tensors import as_tensors, check_width, describe, new_checks, with_tensors


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

    Differences: as for `multi_head_attention`; keys and values are rounded to the cache's dtype, in which they are
    read, too. Where the length is traced, new positions beyond the capacity
    are not kept, and their output is NaN.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    inputs, parameters, cache, sizes, options = prepare_cached_attention(
        inputs, parameters, cache, num_heads, num_kv_heads, given, rotary
    )
    output, cache = attend_to_cache(widen(inputs), parameters, cache, sizes, options, rotary)
    return CachedAttention(output.astype(inputs.dtype), cache)


def prepare_cached_attention(
    inputs: Any,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    num_heads: int,
    num_kv_heads: int | None,
    given: Given,
    rotary: Any,
) -> tuple[Array, MultiHeadParameters, KeyValueCache, Sizes, Options]:
    """Check the arguments of an attention over a cache: arrays, the length if known, sizes over the cache."""
    arrays = check_parameters(parameters)
    check_tree("cache", cache, KeyValueCache)
    inputs, key, value, *weights = as_tensors(
        inputs=inputs, **{"key` of `cache": cache.key, "value` of `cache": cache.value}, **arrays
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
    key = split_heads(project(inputs, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(inputs, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    length = as_length(cache.length, sizes.key_length)
    cache = cache._replace(length=length)
    places = length + jnp.arange(sizes.query_length)
    if rotary is not None:
        query, key = (turn(query, places.astype(query.dtype), rotary), turn(key, places.astype(key.dtype), rotary))
    options = options._replace(mask=causal_after(options.mask, length))
    cache = appended(cache, key, value)
    attention = Attention(query, widen(cache.key), widen(cache.value), sizes, options)
    output = project(merge_heads(compute_stages(attention).output), parameters.output_weight, parameters.output_bias)
    if not isinstance(length, int):  # otherwise it is known that everything fits
        output = jnp.where((places < sizes.key_length)[:, None], output, jnp.nan)
    return CachedAttention(output, cache)


def appended(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, count, capacity = cache.length, key.shape[-2], cache.key.shape[-2]
    end = length + count if isinstance(length, int) else jnp.minimum(length + count, capacity)
    if count == 0:
        return cache._replace(length=end)
    return KeyValueCache(_put(cache.key, key, length), _put(cache.value, value, length), end)


def as_length(length: Any, capacity: int) -> Any:
    """Return an int as it is, and an array, which is traced, within [0, capacity]."""
    if isinstance(length, int):
        return length
    return jnp.clip(length.astype(jnp.promote_types(length.dtype, jnp.int32)), 0, capacity)


@jax.jit  # one compilation, as for `stages_of`
def _put(filled: Array, new: Array, length: Any) -> Array:
    # A slice that sticks out would be moved inside, over what is filled: what is beyond the capacity is cut off first.
    count = new.shape[-2]
    start = jnp.minimum(length, filled.shape[-2] - count)
    beyond = length - start
    old = lax.dynamic_slice_in_dim(filled, start, count, axis=filled.ndim - 2)
    is_new = jnp.arange(count) >= beyond
    rows = jnp.where(is_new[:, None], jnp.roll(new.astype(filled.dtype), beyond, axis=-2), old)
    return lax.dynamic_update_slice_in_dim(filled, rows, start, axis=filled.ndim - 2)

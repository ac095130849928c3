"""Decoding in PyTorch: attention of new positions over a cache of keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
from .tensors import as_tensors, describe, new_checks, with_tensors


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

    Differences: of the dtype that is asked for, on the default device.
    """
    key_shape, value_shape, dtype = check_empty(batch_shape, capacity, num_kv_heads, head_dim, value_dim, dtype)
    kind = getattr(torch, dtype)
    return KeyValueCache(torch.zeros(key_shape, dtype=kind), torch.zeros(value_shape, dtype=kind), 0)


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
    read, too. Where the length cannot be read (compiled, on an accelerator), new
    positions beyond the capacity are not kept, and their output is NaN.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    inputs, parameters, cache, sizes, options = prepare_cached_attention(
        inputs, parameters, cache, num_heads, num_kv_heads, given, rotary
    )
    output, cache = attend_to_cache(widen(inputs), parameters, cache, sizes, options, rotary)
    return CachedAttention(output.to(inputs.dtype), cache)


def prepare_cached_attention(
    inputs: Any,
    parameters: MultiHeadParameters,
    cache: KeyValueCache,
    num_heads: int,
    num_kv_heads: int | None,
    given: Given,
    rotary: Any,
) -> tuple[Tensor, MultiHeadParameters, KeyValueCache, Sizes, Options]:
    """Check the arguments of an attention over a cache: tensors, the length if known, sizes over the cache."""
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
    inputs: Tensor,
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
    places = length + torch.arange(sizes.query_length, device=inputs.device)
    if rotary is not None:
        query, key = (turn(query, places.to(query.dtype), rotary), turn(key, places.to(key.dtype), rotary))
    options = options._replace(mask=causal_after(options.mask, length))
    cache = appended(cache, key, value)
    attention = Attention(query, widen(cache.key), widen(cache.value), sizes, options)
    output = project(merge_heads(compute_stages(attention).output), parameters.output_weight, parameters.output_bias)
    if not isinstance(length, int):  # otherwise it is known that everything fits
        output = torch.where((places < sizes.key_length)[:, None], output, torch.nan)
    return CachedAttention(output, cache)


def appended(cache: KeyValueCache, key: Tensor, value: Tensor) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, count, capacity = cache.length, key.shape[-2], cache.key.shape[-2]
    end = length + count if isinstance(length, int) else (length + count).clamp(max=capacity)
    return KeyValueCache(_put(cache.key, key, length), _put(cache.value, value, length), end)


def as_length(length: Any, capacity: int) -> Any:
    """Return an int as it is, and a tensor within [0, capacity]."""
    return length if isinstance(length, int) else length.to(torch.int64).clamp(0, capacity)


def _put(filled: Tensor, new: Tensor, length: Any) -> Tensor:
    count, new = new.shape[-2], new.to(filled.dtype)
    if isinstance(length, int):
        return filled.slice_scatter(new, dim=-2, start=length, end=length + count)
    if count == 0:
        return filled
    index = torch.arange(filled.shape[-2], device=filled.device) - length
    is_new = (index >= 0) & (index < count)
    return torch.where(is_new[:, None], new.index_select(-2, index.clamp(0, count - 1)), filled)

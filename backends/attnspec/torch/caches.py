"""What decoding computes in PyTorch: attention over a cache, decoder steps, and writing one id at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

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
from .tensors import describe, new_checks


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
    key, value = project_keys(inputs, parameters, sizes)
    length = as_length(cache.length, sizes.key_length)
    places = length + torch.arange(sizes.query_length, device=inputs.device)
    if rotary is not None:
        query, key = (turn(heads, places.to(heads.dtype), rotary) for heads in (query, key))
    options = options._replace(mask=causal_after(options.mask, length))
    cache = appended(cache._replace(length=length), key, value)
    output = read(Attention(query, widen(cache.key), widen(cache.value), sizes, options), parameters)
    if not isinstance(length, int):  # otherwise it is known that everything fits
        output = torch.where((places < sizes.key_length)[:, None], output, torch.nan)
    return CachedAttention(output, cache)


def project_keys(inputs: Tensor, parameters: MultiHeadParameters, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Project the inputs to keys (*B, Hkv, T, Dk) and values (*B, Hkv, T, Dv)."""
    key = split_heads(project(inputs, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(inputs, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    return key, value


def read(attention: Attention, parameters: MultiHeadParameters) -> Tensor:
    """Attend, and project the heads side by side."""
    heads: Tensor = compute_stages(attention).output
    return project(merge_heads(heads), parameters.output_weight, parameters.output_bias)


def appended(cache: KeyValueCache, key: Tensor, value: Tensor) -> KeyValueCache:
    """Put new keys (*B, Hkv, T, Dk) and values behind the filled ones: another cache, of the same capacity."""
    length, count, capacity = cache.length, key.shape[-2], cache.key.shape[-2]
    end = length + count if isinstance(length, int) else (length + count).clamp(max=capacity)
    return KeyValueCache(put(cache.key, key, length), put(cache.value, value, length), end)


def as_length(length: Any, capacity: int) -> Any:
    """Return an int as it is, and a tensor within [0, capacity]."""
    return length if isinstance(length, int) else length.to(torch.int64).clamp(0, capacity)


def put(filled: Tensor, new: Tensor, length: Any) -> Tensor:
    """Write rows (*B, H, T, D) behind the first `length` ones; what is beyond the capacity is left out."""
    count, new = new.shape[-2], new.to(filled.dtype)
    if isinstance(length, int):
        return filled.slice_scatter(new, dim=-2, start=length, end=length + count)
    if count == 0:
        return filled
    index = torch.arange(filled.shape[-2], device=filled.device) - length
    is_new = (index >= 0) & (index < count)
    return torch.where(is_new[:, None], new.index_select(-2, index.clamp(0, count - 1)), filled)


def begin(memory: Tensor, parameters: DecoderParameters, sizes: Iterable[Sizes], dtype: torch.dtype) -> DecoderCache:
    """Make the caches, in this dtype, of a decoder whose self-attentions, once all is decoded, have these sizes."""
    own, memories = [], []
    for layer, size in zip(parameters.layers, sizes, strict=True):
        shape = (*size.batch, size.num_kv_heads, size.key_length)
        key, value = (
            torch.zeros((*shape, columns), dtype=dtype, device=memory.device)
            for columns in (size.head_dim, size.value_dim)
        )
        own.append(KeyValueCache(key, value, 0))
        key, value = project_keys(memory, layer.cross_attention, size)
        memories.append(KeyValueCache(key.to(dtype), value.to(dtype), memory.shape[-2]))
    return DecoderCache(tuple(own), tuple(memories))


def run_step(
    inputs: Tensor,
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
    inputs: Tensor,
    parameters: DecoderLayerParameters,
    cache: KeyValueCache,
    memory: KeyValueCache,
    plan: StepPlan,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
) -> tuple[Tensor, KeyValueCache]:
    """Compute a decoder layer over new positions; return the cache that holds them, too."""
    dropout = DecoderLayerDropout() if dropout is None else dropout

    def attention(inputs: Tensor) -> Tensor:
        nonlocal cache
        output: Tensor
        output, cache = attend_to_cache(inputs, parameters.attention, cache, plan.sizes, plan.options, settings.rotary)
        return output

    def cross_attention(inputs: Tensor) -> Tensor:
        weights, sizes = parameters.cross_attention, plan.cross_sizes
        query = split_heads(project(inputs, weights.query_weight, weights.query_bias), sizes.num_heads)
        return read(Attention(query, widen(memory.key), widen(memory.value), sizes, plan.cross_options), weights)

    def feed_forward(inputs: Tensor) -> Tensor:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward), cache


def write(call: Transduction, span: Span) -> Tensor:
    """Encode the source, and write one id at a time, until every sequence has ended."""
    _, stop, max_length = span
    weights, token = call.parameters, call.target
    memory = run_encoder(embed_source(call), weights.encoder, call.encoder, None)
    plans = plan_for(memory, call, max_length)
    cache = begin(memory, weights.decoder, (plan.sizes for plan in plans), memory.dtype)
    has_ended, written = torch.zeros_like(token, dtype=torch.bool), []
    for place in range(max_length):
        rows, cache = run_step(embed_next(token, place, call), weights.decoder, cache, plans, call.decoder, None)
        logits = rows if weights.head is None else project(rows, *weights.head)
        token = torch.where(has_ended, stop, likeliest(logits[..., 0, :]))
        has_ended = has_ended | (token == stop)
        written.append(token[..., None])
        if _are_known_to_hold(has_ended):
            break
    rest = token.new_full((*token.shape, max_length - len(written)), stop)
    return torch.cat([*written, rest], dim=-1)


def plan_for(memory: Tensor, call: Transduction, max_length: int) -> tuple[StepPlan, ...]:
    """Plan the steps that write one id each."""
    decoder, rows = call.parameters.decoder, describe(embed_next(call.target, 0, call))
    given = {path: describe(array) for path, array in leaves(decoder).items()}
    checks = new_checks(memory)
    return plan_writing(rows, describe(memory), given, len(decoder.layers), call.decoder, max_length, checks)


def embed_next(token: Tensor, place: Any, call: Transduction) -> Tensor:
    """Embed the ids (*B,) that stand at one place, and add its position: (*B, 1, E)."""
    weights = call.parameters
    assert weights.target_embedding is not None  # noqa: S101 - `check_writing` requires it
    rows = embed(token[..., None], weights.target_embedding)
    if call.positions == "sinusoidal":
        rows = with_sinusoids(rows, place, SINUSOIDAL_BASE)
    return rows if weights.target_positions is None else with_table(rows, weights.target_positions, place)


def likeliest(logits: Tensor) -> Tensor:
    """Give the index of the largest logit, the lowest of several; NaN is less than every number."""
    return torch.argmax(torch.where(torch.isnan(logits), -torch.inf, logits), dim=-1)


def _are_known_to_hold(flags: Tensor) -> bool:
    """Tell whether all hold, where it can be known: a compiled or transformed function cannot branch on it."""
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(flags.all())
    except RuntimeError:  # inside torch.func.vmap no values can be read
        return False

"""Scaled dot-product attention in PyTorch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import AttentionStages
from attnspec.contract.shapes import Sizes, dot_product_sizes

from .masks import bias_values, block_of, visible_pairs
from .tensors import as_tensors, describe, new_checks, with_tensors


class Attention(NamedTuple):
    """One attention whose arguments are checked: at least float32 and in canonical layout (*B, heads, length, size)."""

    query: Tensor
    key: Tensor
    value: Tensor
    sizes: Sizes
    options: Options


class Terms(NamedTuple):
    """The options of an attention, evaluated for its pairs."""

    visible: Tensor
    """Where a query may attend, in the full shape (*B, Hq, Tq, Tk)."""
    bias: Tensor | None
    """Broadcasts to `visible`."""
    scale: Any
    softcap: Any
    sink: Tensor | None
    """(Hq, 1, 1), or without axes."""
    kept: Tensor | None
    """Where dropout keeps the weight; broadcasts to `visible`."""
    rate: float
    """The share that dropout drops."""


def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Tensor:
    """Compute softmax(cap(scale · Q Kᵀ) + bias, over the keys the mask allows) · V.

    Arguments, shapes and errors: `attnspec.reference.dot_product_attention`.

    Differences: takes torch tensors (NumPy arrays and lists go to the default device) on one device; returns a tensor
    of the query's dtype; bfloat16 and float16 accumulate and exponentiate in float32. Differentiable by autograd.
    """
    attention, shape, dtype = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    output: Tensor = compute_stages(attention).output
    return output.reshape(shape).to(dtype)


def attention_stages(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> AttentionStages:
    """Compute `dot_product_attention` and return every stage on the way.

    Arguments, shapes and errors: `attnspec.reference.attention_stages`.

    Differences: the stages are at least float32, the output has the query's dtype.
    """
    attention, shape, dtype = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    stages = compute_stages(attention)
    pairs = (*shape[:-1], attention.sizes.key_length)
    return AttentionStages(
        stages.scores.reshape(pairs),
        stages.logits.reshape(pairs),
        stages.weights.reshape(pairs),
        stages.logsumexp.reshape(shape[:-1]),
        stages.output.reshape(shape).to(dtype),
    )


def prepare(query: Any, key: Any, value: Any, given: Given) -> tuple[Attention, tuple[int, ...], torch.dtype]:
    """Check the arguments of a dot-product attention; return it in canonical layout, its output's shape and dtype."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    given = with_tensors(given, query)
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks(query)
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    wide_query, wide_key, wide_value = widen(query), widen(key), widen(value)
    if not sizes.has_heads:
        wide_query, wide_key, wide_value = (x.unsqueeze(-3) for x in (wide_query, wide_key, wide_value))
    return Attention(wide_query, wide_key, wide_value, sizes, options), shape, query.dtype


def widen(tensor: Tensor) -> Tensor:
    """Convert to the accumulation dtype: float32 for the half precisions (S16)."""
    return tensor.to(torch.float64 if accumulation_dtype(describe(tensor).dtype) == "float64" else torch.float32)


def compute_stages(attention: Attention) -> AttentionStages:
    """Compute scores, logits, weights, logsumexp and output."""
    return stages_of(attention.query, attention.key, attention.value, terms_of(attention))


def terms_of(attention: Attention) -> Terms:
    """Evaluate the options for all pairs."""
    sizes, (mask, bias, scale, softcap, sinks, dropout) = attention.sizes, attention.options
    block = block_of(sizes, attention.query)
    numbers = bias_values(bias, block)
    pairs = (*attention.query.shape[:-1], attention.key.shape[-2])
    visible = visible_pairs(mask, numbers, block).expand(pairs)
    sink = None if sinks is None else block.per_head(sinks)
    kept = None if dropout is None else dropout.kept(block)
    return Terms(visible, numbers, scale, softcap, sink, kept, 0.0 if dropout is None else dropout.rate)


def stages_of(query: Tensor, key: Tensor, value: Tensor, terms: Terms) -> AttentionStages:
    """Compute the formula itself, stage by stage: softmax(cap(scale · Q Kᵀ) + bias, where visible) · V."""
    return stages_from(dot_products(query, key), value, terms)


def dot_products(query: Tensor, key: Tensor) -> Tensor:
    """Multiply queries and keys, (*B, Hq, Tq, Tk); NaN for every pair of which one is not finite."""
    # Poison is taken out before the products and put back where it is seen: 0 · NaN would carry it everywhere (S11).
    # S12: the query heads of a group are consecutive, so their rows stack up before the key/value head they share.
    products = ungroup(group(finite(query), key) @ finite(key).mT, query)
    return torch.where(is_clean_pair(query, key), products, torch.nan)


def stages_from(products: Tensor, value: Tensor, terms: Terms) -> AttentionStages:
    """Compute the stages that follow the products of queries and keys, whatever similarity they are of."""
    scores, logits = logits_of(products, terms)
    weights, logsumexp = softmax(logits, terms.visible, terms.sink)

    # S14: what is dropped is not read.
    used = weights if terms.kept is None else torch.where(terms.kept, weights / (1.0 - terms.rate), 0.0)
    read = terms.visible if terms.kept is None else terms.visible & terms.kept
    return AttentionStages(scores, logits, weights, logsumexp, mix(used, value, read))


def logits_of(products: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Compute scores and logits: scale, then softcap, bias and mask (S2, S3)."""
    scale = _as_number(terms.scale, products)
    scores = scale * products
    # A product that is not read leaves first: its derivative would be 0 · NaN (S11).
    logits = scale * torch.where(terms.visible, products, 0.0)
    if terms.softcap is not None:
        softcap = _as_number(terms.softcap, products)
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits if terms.bias is None else logits + terms.bias
    return scores, torch.where(terms.visible, logits, -torch.inf)


def softmax(logits: Tensor, visible: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute weights and logsumexp of logits that are −∞ where they are not visible."""
    # Shifted by the largest logit, so that nothing overflows; an empty row sums to 0 (S10).
    peak = _largest(logits.detach())
    peak = peak if sink is None else torch.maximum(peak, sink.detach())
    peak = torch.where(peak != -torch.inf, peak, 0.0)
    exponentials = torch.exp(logits - peak)
    total = exponentials.sum(dim=-1, keepdim=True)
    total = total if sink is None else total + torch.exp(sink - peak)  # S13: it takes part, and is dropped
    has_weight = total != 0.0
    total = torch.where(has_weight, total, 1.0)
    weights = torch.where(visible, exponentials / total, 0.0)
    return weights, torch.where(has_weight, peak + torch.log(total), -torch.inf).squeeze(-1)


def mix(weights: Tensor, value: Tensor, read: Tensor) -> Tensor:
    """Compute Σ_j weights_ij v_j; a value that is not finite reaches the rows that read it (S11)."""
    output = ungroup(group(weights, value) @ finite(value), weights)
    return _with_seen_poison(output, read, value)


def finite(tensor: Tensor) -> Tensor:
    """Replace what is not finite by 0."""
    return torch.where(torch.isfinite(tensor), tensor, 0.0)


def is_finite_row(tensor: Tensor) -> Tensor:
    """Say which positions have finite components only."""
    return torch.isfinite(tensor).all(dim=-1)


def is_clean_pair(query: Tensor, key: Tensor) -> Tensor:
    """Say which pairs have finite components only, (*B, Hq, Tq, Tk)."""
    return is_finite_row(query)[..., :, None] & _by_query_head(is_finite_row(key)[..., None, :], query)


def _with_seen_poison(output: Tensor, read: Tensor, value: Tensor) -> Tensor:
    """Add the non-finite value entries to the rows that read them: NaN, ±Inf, in their own component (S11)."""
    if not _may_hold_poison(value):
        return output
    seen = group(read.to(value.dtype), value)
    rising = seen @ (torch.isnan(value) | (value == torch.inf)).to(value.dtype)
    falling = seen @ (torch.isnan(value) | (value == -torch.inf)).to(value.dtype)
    poison = torch.where(rising > 0, torch.inf, 0.0) + torch.where(falling > 0, -torch.inf, 0.0)
    poison = ungroup(poison, output).to(output.dtype)
    return torch.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0


def _may_hold_poison(value: Tensor) -> bool:
    """Look for a non-finite value, where it can be known: a compiled or transformed function cannot branch on it."""
    if torch.compiler.is_compiling():
        return True
    try:
        return not bool(torch.isfinite(value).all())
    except RuntimeError:  # inside torch.func.vmap no values can be read
        return True


def _largest(logits: Tensor) -> Tensor:
    # amax refuses an axis of size 0; its neutral element is −inf.
    return (
        logits.amax(dim=-1, keepdim=True) if logits.shape[-1] else logits.new_full((*logits.shape[:-1], 1), -math.inf)
    )


def _as_number(value: Any, like: Tensor) -> Any:
    return value.to(like.dtype) if isinstance(value, Tensor) else value


def group(tensor: Tensor, key: Tensor) -> Tensor:
    """(*B, Hq, q, a) → (*B, Hkv, Hq/Hkv · q, a)."""
    *batch, heads, rows, columns = tensor.shape
    kv_heads = key.shape[-3]
    return tensor.reshape(*batch, kv_heads, heads // max(kv_heads, 1) * rows, columns)


def ungroup(tensor: Tensor, query: Tensor) -> Tensor:
    """(*B, Hkv, Hq/Hkv · q, a) → (*B, Hq, q, a)."""
    return tensor.reshape(*query.shape[:-1], tensor.shape[-1])


def _by_query_head(tensor: Tensor, query: Tensor) -> Tensor:
    """(*B, Hkv, a, b) → (*B, Hq, a, b): each query head gets its key/value head (S12)."""
    return tensor.repeat_interleave(query.shape[-3] // max(tensor.shape[-3], 1), dim=-3)

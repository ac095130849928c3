"""Scaled dot-product attention: the definition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.operands import check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import AttentionStages
from attnspec.contract.shapes import Sizes, dot_product_sizes

from .masks import bias_values, block_of, visible_pairs
from .tensors import Array, as_tensors, describe, new_checks, with_tensors

BLOCK_ELEMENTS = 2**21
"""How many (query, key) pairs, over batch and heads, are held at once: 16 MiB in float64 for each stage."""


class Attention(NamedTuple):
    """One attention whose arguments are checked: arrays in float64 and canonical layout (*B, heads, length, size)."""

    query: Array
    key: Array
    value: Array
    sizes: Sizes
    options: Options


class Terms(NamedTuple):
    """The options of an attention, evaluated for a block of queries."""

    visible: Array
    """Where a query may attend, in the full shape (*B, Hq, q, Tk)."""
    bias: Array | None
    """Broadcasts to `visible`."""
    scale: Any
    softcap: Any
    sink: Array | None
    """(Hq, 1, 1), or without axes."""
    kept: Array | None
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
) -> Array:
    """Compute softmax(cap(scale · Q Kᵀ) + bias, over the keys the mask allows) · V.

    With s_ij = scale · Σ_d q_id k_jd, x_ij = softcap · tanh(s_ij / softcap) + bias_ij (s_ij + bias_ij without a
    softcap) and M_i the keys that query i may attend to:

        output_ic = Σ_{j ∈ M_i} p_ij v_jc,   p_ij = exp(x_ij) / Σ_{l ∈ M_i} exp(x_il);   output_i = 0 where M_i = ∅.

    A sink z adds exp(z) to the denominator; dropout puts p_ij · keep_ij / (1 − rate) in the place of p_ij.

    Args:
        query: (*B, Hq, Tq, Dk). Ranks 2 and 3 have no head axis: (Tq, Dk), (B, Tq, Dk).
        key: (*B, Hkv, Tk, Dk), Hq a multiple of Hkv: query head h uses key/value head h // (Hq/Hkv).
        value: (*B, Hkv, Tk, Dv).
        mask: a mask object (`causal()`, `key_lengths(n)`, … combined by `&`, `|`, `~`) or a boolean array, True = may
            attend, of rank 2 or of the query's rank, each axis full or 1.
        bias: floating array, shaped like a mask array, or a bias object (`alibi`, `relative_position_bias`), or a sum
            of them; added to the scores after the softcap; −inf masks.
        scale: any finite number; by default 1/√Dk.
        softcap: a positive number c: scores become c · tanh(score / c), so that |score| < c.
        sinks: z, one number for each query head, (Hq,), or a number where there is one head or no head axis.
        dropout: `Dropout(rate, keep=array)`, the array boolean and shaped like a mask array.

    Returns:
        (*B, Hq, Tq, Dv), float64 whatever comes in.

    Raises:
        ValueError: shapes that do not fit, an ambiguous mask, `causal()` without an offset where Tq ≠ Tk, …
        TypeError: dtypes that differ or are not floating, an integer or float mask, a tensor of a framework, …

    What a query may not attend to does not influence its row, not even as NaN or Inf. A NaN or Inf that it does attend
    to reaches it: in a key the whole row becomes NaN, in a value the output's component.

    Source: Vaswani et al. 2017, equation 1; grouped queries: Ainslie et al. 2023, §2.2; softcap: Bello et al. 2016,
        A.1; sinks: Xiao et al. 2024, §3.3, in the learned form of OpenAI 2025 (gpt-oss); dropout: Srivastava et al.
        2014.
    """
    attention, shape = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    return attend(attention).reshape(shape)


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

    Args: as for `dot_product_attention`.

    Returns:
        `AttentionStages(scores, logits, weights, logsumexp, output)`, all float64, with the shapes written there; the
        first three hold Tq · Tk numbers for each head, so memory is quadratic in length.
    """
    attention, shape = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    sizes = attention.sizes
    stages = compute_stages(attention, slice(0, sizes.query_length))
    pairs = (*shape[:-1], sizes.key_length)
    shapes = AttentionStages(pairs, pairs, pairs, shape[:-1], shape)
    return AttentionStages(*(stage.reshape(shape) for stage, shape in zip(stages, shapes, strict=True)))


def prepare(query: Any, key: Any, value: Any, given: Given) -> tuple[Attention, tuple[int, ...]]:
    """Check the arguments of a dot-product attention; return it in canonical layout, and its output's shape."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    given = with_tensors(given, query)
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks()
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    if not sizes.has_heads:
        query, key, value = query[..., None, :, :], key[..., None, :, :], value[..., None, :, :]
    return Attention(widen(query), widen(key), widen(value), sizes, options), shape


def widen(array: Array) -> Array:
    """Convert to float64: every dtype of attention is contained in it, so nothing is rounded."""
    return array.astype(np.float64, copy=False)


def attend(attention: Attention) -> Array:
    """Compute the output (*B, Hq, Tq, Dv)."""
    return attend_with_logsumexp(attention)[0]


def attend_with_logsumexp(attention: Attention) -> tuple[Array, Array]:
    """Compute output and logsumexp block by block: rows are independent, so memory is linear in length."""
    outputs, logsumexps = [], []
    for rows in query_blocks(attention.sizes):
        stages = compute_stages(attention, rows)
        outputs.append(stages.output)
        logsumexps.append(stages.logsumexp)
    return np.concatenate(outputs, axis=-2), np.concatenate(logsumexps, axis=-1)


def compute_stages(attention: Attention, rows: slice) -> AttentionStages:
    """Compute scores, logits, weights, logsumexp and output of the queries `rows`."""
    return stages_of(attention.query[..., rows, :], attention.key, attention.value, terms_of(attention, rows))


def terms_of(attention: Attention, rows: slice) -> Terms:
    """Evaluate the options for the queries `rows`."""
    sizes, (mask, bias, scale, softcap, sinks, dropout) = attention.sizes, attention.options
    block = block_of(sizes, rows)
    numbers = bias_values(bias, block)
    pairs = (*sizes.batch, sizes.num_heads, rows.stop - rows.start, sizes.key_length)
    visible = np.broadcast_to(visible_pairs(mask, numbers, block), pairs)
    sink = None if sinks is None else block.per_head(sinks)
    kept = None if dropout is None else dropout.kept(block)
    return Terms(visible, numbers, scale, softcap, sink, kept, 0.0 if dropout is None else dropout.rate)


def stages_of(query: Array, key: Array, value: Array, terms: Terms) -> AttentionStages:
    """Compute the formula itself, stage by stage: softmax(cap(scale · Q Kᵀ) + bias, where visible) · V."""
    return stages_from(dot_products(query, key), value, terms)


def dot_products(query: Array, key: Array) -> Array:
    """Multiply queries and keys, (*B, Hq, q, Tk); NaN for every pair of which one is not finite."""
    # Poison is taken out before the products and put back where it is seen: 0 · NaN would carry it everywhere (S11).
    # S12: the query heads of a group are consecutive, so their rows stack up before the key/value head they share.
    products = ungroup(group(finite(query), key) @ finite(key).mT, query)
    return np.where(is_clean_pair(query, key), products, np.nan)


def stages_from(products: Array, value: Array, terms: Terms) -> AttentionStages:
    """Compute the stages that follow the products of queries and keys, whatever similarity they are of."""
    scores, logits = logits_of(products, terms)
    weights, logsumexp = softmax(logits, terms.visible, terms.sink)

    # S14: what is dropped is not read.
    used = weights if terms.kept is None else np.where(terms.kept, weights / (1.0 - terms.rate), 0.0)
    read = terms.visible if terms.kept is None else terms.visible & terms.kept
    return AttentionStages(scores, logits, weights, logsumexp, mix(used, value, read))


def logits_of(products: Array, terms: Terms) -> tuple[Array, Array]:
    """Compute scores and logits: scale, then softcap, bias and mask (S2, S3)."""
    scores = terms.scale * products
    logits = scores if terms.softcap is None else terms.softcap * np.tanh(scores / terms.softcap)
    logits = logits if terms.bias is None else logits + terms.bias
    return scores, np.where(terms.visible, logits, -np.inf)


def softmax(logits: Array, visible: Array, sink: Array | None) -> tuple[Array, Array]:
    """Compute weights and logsumexp of logits that are −∞ where they are not visible."""
    # Shifted by the largest logit, so that nothing overflows; an empty row sums to 0 (S10).
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    peak = peak if sink is None else np.maximum(peak, sink)
    peak = np.where(peak != -np.inf, peak, 0.0)
    with np.errstate(invalid="ignore"):  # a logit of +∞ makes its row NaN: ∞ − ∞, and meant
        exponentials = np.exp(logits - peak)
        total = exponentials.sum(axis=-1, keepdims=True)
        total = total if sink is None else total + np.exp(sink - peak)  # S13: it takes part, and is dropped
    has_weight = total != 0.0
    total = np.where(has_weight, total, 1.0)
    weights = np.where(visible, exponentials / total, 0.0)
    return weights, np.where(has_weight, peak + np.log(total), -np.inf)[..., 0]


def mix(weights: Array, value: Array, read: Array) -> Array:
    """Compute Σ_j weights_ij v_j; a value that is not finite reaches the rows that read it (S11)."""
    clean = finite(value)
    output = ungroup(group(weights, value) @ clean, weights)
    if np.isfinite(value).all():
        return output
    poison = _seen_poison(read, by_query_head(value - clean, weights))
    return np.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0


def finite(array: Array) -> Array:
    """Replace what is not finite by 0."""
    return np.where(np.isfinite(array), array, 0.0)


def is_finite_row(array: Array) -> Array:
    """Say which positions have finite components only."""
    return np.asarray(np.isfinite(array).all(axis=-1))


def is_clean_pair(query: Array, key: Array) -> Array:
    """Say which pairs have finite components only, (*B, Hq, q, Tk)."""
    return is_finite_row(query)[..., :, None] & by_query_head(is_finite_row(key)[..., None, :], query)


def _seen_poison(visible: Array, poison: Array) -> Array:
    """Add up, for each query, the non-finite values that it may attend to: NaN, ±Inf, or 0 where it sees none."""
    seen = np.zeros((*visible.shape[:-1], poison.shape[-1]))
    for j in np.flatnonzero((poison != 0).any(axis=tuple({*range(poison.ndim)} - {poison.ndim - 2}))):
        with np.errstate(invalid="ignore"):  # Inf − Inf is NaN, and meant
            seen += np.where(visible[..., :, j, None], poison[..., None, j, :], 0.0)
    return seen


def group(array: Array, key: Array) -> Array:
    """(*B, Hq, q, a) → (*B, Hkv, Hq/Hkv · q, a)."""
    *batch, heads, rows, columns = array.shape
    kv_heads = key.shape[-3]
    return array.reshape(*batch, kv_heads, heads // max(kv_heads, 1) * rows, columns)


def ungroup(array: Array, query: Array) -> Array:
    """(*B, Hkv, Hq/Hkv · q, a) → (*B, Hq, q, a)."""
    return array.reshape(*query.shape[:-1], array.shape[-1])


def by_query_head(array: Array, query: Array) -> Array:
    """(*B, Hkv, a, b) → (*B, Hq, a, b): each query head gets its key/value head (S12)."""
    return np.repeat(array, query.shape[-3] // max(array.shape[-3], 1), axis=-3)


def query_blocks(sizes: Sizes) -> Iterator[slice]:
    """Yield slices of queries, each with about BLOCK_ELEMENTS pairs; where there is no query, one that is empty."""
    pairs_per_query = math.prod(sizes.batch) * sizes.num_heads * sizes.key_length
    step = max(1, BLOCK_ELEMENTS // max(1, pairs_per_query))
    for start in range(0, max(sizes.query_length, 1), step):
        yield slice(start, min(start + step, sizes.query_length))

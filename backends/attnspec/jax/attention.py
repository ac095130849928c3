"""Scaled dot-product attention in JAX."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import AttentionStages
from attnspec.contract.shapes import Sizes, dot_product_sizes

from .masks import bias_values, block_of, visible_pairs
from .tensors import as_tensors, describe, new_checks, with_tensors


class Attention(NamedTuple):
    """One attention whose arguments are checked: at least float32 and in canonical layout (*B, heads, length, size)."""

    query: Array
    key: Array
    value: Array
    sizes: Sizes
    options: Options


class Terms(NamedTuple):
    """The options of an attention, evaluated for its pairs."""

    visible: Array
    """Where a query may attend, in the full shape (*B, Hq, Tq, Tk)."""
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

    Arguments, shapes and errors: `attnspec.reference.dot_product_attention`.

    Differences: takes JAX arrays (NumPy arrays and lists go to the default device); returns an array of the query's
    dtype; bfloat16 and float16 accumulate and exponentiate in float32. NumPy float64 without `jax_enable_x64` is a
    TypeError. Works under `jit`, `vmap`, `grad`, `jvp` and their compositions; products run at the highest precision.
    """
    attention, shape, dtype = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    output: Array = compute_stages(attention).output
    return output.reshape(shape).astype(dtype)


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
        stages.output.reshape(shape).astype(dtype),
    )


def prepare(query: Any, key: Any, value: Any, given: Given) -> tuple[Attention, tuple[int, ...], jnp.dtype]:
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
        wide_query, wide_key, wide_value = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    return Attention(wide_query, wide_key, wide_value, sizes, options), shape, query.dtype


def widen(array: Array) -> Array:
    """Convert to the accumulation dtype: float32 for the half precisions (S16)."""
    return array.astype(accumulation_dtype(describe(array).dtype))


def compute_stages(attention: Attention) -> AttentionStages:
    """Compute scores, logits, weights, logsumexp and output."""
    stages: AttentionStages = stages_of(attention.query, attention.key, attention.value, terms_of(attention))
    return stages


def terms_of(attention: Attention) -> Terms:
    """Evaluate the options for all pairs."""
    sizes, (mask, bias, scale, softcap, sinks, dropout) = attention.sizes, attention.options
    block = block_of(sizes, attention.query)
    numbers = bias_values(bias, block)
    pairs = (*attention.query.shape[:-1], attention.key.shape[-2])
    visible = jnp.broadcast_to(visible_pairs(mask, numbers, block), pairs)
    sink = None if sinks is None else block.per_head(sinks)
    kept = None if dropout is None else dropout.kept(block)
    return Terms(visible, numbers, scale, softcap, sink, kept, 0.0 if dropout is None else dropout.rate)


# One compiled function: called without `jit`, the formula costs one dispatch and one compilation for each shape.
@jax.jit
def stages_of(query: Array, key: Array, value: Array, terms: Terms) -> AttentionStages:
    """Compute the formula itself, stage by stage: softmax(cap(scale · Q Kᵀ) + bias, where visible) · V."""
    return stages_from(dot_products(query, key), value, terms)


def dot_products(query: Array, key: Array) -> Array:
    """Multiply queries and keys, (*B, Hq, Tq, Tk); NaN for every pair of which one is not finite."""
    # Poison is taken out before the products and put back where it is seen: 0 · NaN would carry it everywhere (S11).
    # S12: the query heads of a group are consecutive, so their rows stack up before the key/value head they share.
    products = ungroup(matmul(group(finite(query), key), finite(key).mT), query)
    return jnp.where(is_clean_pair(query, key), products, jnp.nan)


def stages_from(products: Array, value: Array, terms: Terms) -> AttentionStages:
    """Compute the stages that follow the products of queries and keys, whatever similarity they are of."""
    scores, logits = logits_of(products, terms)
    weights, logsumexp = softmax(logits, terms.visible, terms.sink)

    # S14: what is dropped is not read.
    used = weights if terms.kept is None else jnp.where(terms.kept, weights / (1.0 - terms.rate), 0.0)
    read = terms.visible if terms.kept is None else terms.visible & terms.kept
    return AttentionStages(scores, logits, weights, logsumexp, mix(used, value, read))


def logits_of(products: Array, terms: Terms) -> tuple[Array, Array]:
    """Compute scores and logits: scale, then softcap, bias and mask (S2, S3)."""
    scale = _as_number(terms.scale, products)
    scores = scale * products
    # A product that is not read leaves first: its derivative would be 0 · NaN (S11).
    logits = scale * jnp.where(terms.visible, products, 0.0)
    if terms.softcap is not None:
        softcap = _as_number(terms.softcap, products)
        logits = softcap * jnp.tanh(logits / softcap)
    logits = logits if terms.bias is None else logits + terms.bias
    return scores, jnp.where(terms.visible, logits, -jnp.inf)


def softmax(logits: Array, visible: Array, sink: Array | None) -> tuple[Array, Array]:
    """Compute weights and logsumexp of logits that are −∞ where they are not visible."""
    # Shifted by the largest logit, so that nothing overflows; an empty row sums to 0 (S10).
    peak = lax.stop_gradient(logits).max(axis=-1, keepdims=True, initial=-jnp.inf)
    peak = peak if sink is None else jnp.maximum(peak, lax.stop_gradient(sink))
    peak = jnp.where(peak != -jnp.inf, peak, 0.0)
    exponentials = jnp.exp(logits - peak)
    total = exponentials.sum(axis=-1, keepdims=True)
    total = total if sink is None else total + jnp.exp(sink - peak)  # S13: it takes part, and is dropped
    has_weight = total != 0.0
    total = jnp.where(has_weight, total, 1.0)
    weights = jnp.where(visible, exponentials / total, 0.0)
    return weights, jnp.where(has_weight, peak + jnp.log(total), -jnp.inf).squeeze(-1)


def mix(weights: Array, value: Array, read: Array) -> Array:
    """Compute Σ_j weights_ij v_j; a value that is not finite reaches the rows that read it (S11)."""
    output = ungroup(matmul(group(weights, value), finite(value)), weights)
    return _with_seen_poison(output, read, value)


def finite(array: Array) -> Array:
    """Replace what is not finite by 0."""
    return jnp.where(jnp.isfinite(array), array, 0.0)


def is_finite_row(array: Array) -> Array:
    """Say which positions have finite components only."""
    return jnp.isfinite(array).all(axis=-1)


def is_clean_pair(query: Array, key: Array) -> Array:
    """Say which pairs have finite components only, (*B, Hq, Tq, Tk)."""
    return is_finite_row(query)[..., :, None] & _by_query_head(is_finite_row(key)[..., None, :], query)


def _with_seen_poison(output: Array, read: Array, value: Array) -> Array:
    """Add the non-finite value entries to the rows that read them: NaN, ±Inf, in their own component (S11)."""

    def add_poison(output: Array) -> Array:
        seen = group(read.astype(value.dtype), value)
        rising = matmul(seen, (jnp.isnan(value) | (value == jnp.inf)).astype(value.dtype))
        falling = matmul(seen, (jnp.isnan(value) | (value == -jnp.inf)).astype(value.dtype))
        poison = jnp.where(rising > 0, jnp.inf, 0.0) + jnp.where(falling > 0, -jnp.inf, 0.0)
        poison = ungroup(poison, output).astype(output.dtype)
        return jnp.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0

    holds_poison = ~jnp.isfinite(value).all()
    poisoned: Array = lax.cond(holds_poison, add_poison, lambda output: output, output)
    return poisoned


def matmul(left: Array, right: Array) -> Array:
    """Multiply in the operands' own precision: on accelerators JAX multiplies float32 in less unless told otherwise."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _as_number(value: Any, like: Array) -> Any:
    return value.astype(like.dtype) if isinstance(value, Array) else value


def group(array: Array, key: Array) -> Array:
    """(*B, Hq, q, a) → (*B, Hkv, Hq/Hkv · q, a)."""
    *batch, heads, rows, columns = array.shape
    kv_heads = key.shape[-3]
    return array.reshape(*batch, kv_heads, heads // max(kv_heads, 1) * rows, columns)


def ungroup(array: Array, query: Array) -> Array:
    """(*B, Hkv, Hq/Hkv · q, a) → (*B, Hq, q, a)."""
    return array.reshape(*query.shape[:-1], array.shape[-1])


def _by_query_head(array: Array, query: Array) -> Array:
    """(*B, Hkv, a, b) → (*B, Hq, a, b): each query head gets its key/value head (S12)."""
    return jnp.repeat(array, query.shape[-3] // max(array.shape[-3], 1), axis=-3)

"""Scaled dot-product attention in TensorFlow."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import AttentionStages
from attnspec.contract.shapes import Sizes, dot_product_sizes

from .masks import bias_values, block_of, visible_pairs
from .tensors import as_tensors, assert_pending, describe, new_checks, shape_of, with_tensors, without_autograph


class Attention(NamedTuple):
    """One attention whose arguments are checked: at least float32 and in canonical layout (*B, heads, length, size)."""

    query: tf.Tensor
    key: tf.Tensor
    value: tf.Tensor
    sizes: Sizes
    options: Options


class Terms(NamedTuple):
    """The options of an attention, evaluated for its pairs."""

    visible: tf.Tensor
    """Where a query may attend, in the full shape (*B, Hq, Tq, Tk)."""
    bias: tf.Tensor | None
    """Broadcasts to `visible`."""
    scale: Any
    softcap: Any
    sink: tf.Tensor | None
    """(Hq, 1, 1), or without axes."""
    kept: tf.Tensor | None
    """Where dropout keeps the weight; broadcasts to `visible`."""
    rate: float
    """The share that dropout drops."""


@without_autograph
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
) -> tf.Tensor:
    """Compute softmax(cap(scale · Q Kᵀ) + bias, over the keys the mask allows) · V.

    Arguments, shapes and errors: `attnspec.reference.dot_product_attention`.

    Differences: takes TensorFlow tensors and variables (NumPy arrays and lists go to the default device); returns a
    tensor of the query's dtype; bfloat16 and float16 accumulate and exponentiate in float32. Works eagerly and in
    `tf.function`, also with unknown sizes: what cannot be checked while tracing is asserted when the graph runs
    (tf.errors.InvalidArgumentError). An unknown rank is a ValueError.
    """
    attention, shape, dtype = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    output = compute_stages(attention).output
    return tf.cast(tf.reshape(output, shape), dtype)


@without_autograph
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
    pairs = [*shape[:-1], attention.sizes.key_length]
    return AttentionStages(
        tf.reshape(stages.scores, pairs),
        tf.reshape(stages.logits, pairs),
        tf.reshape(stages.weights, pairs),
        tf.reshape(stages.logsumexp, shape[:-1]),
        tf.cast(tf.reshape(stages.output, shape), dtype),
    )


def prepare(query: Any, key: Any, value: Any, given: Given) -> tuple[Attention, list[Any], tf.DType]:
    """Check the arguments of a dot-product attention; return it in canonical layout, its output's shape and dtype."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    given = with_tensors(given, query)
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks(query)
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, given, checks)
    query, key, value = assert_pending(checks, query, key, value)
    shape = [*shape_of(query)[:-1], sizes.value_dim]
    wide_query, wide_key, wide_value = widen(query), widen(key), widen(value)
    if not sizes.has_heads:
        wide_query, wide_key, wide_value = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    return Attention(wide_query, wide_key, wide_value, sizes, options), shape, query.dtype


def widen(array: tf.Tensor) -> tf.Tensor:
    """Convert to the accumulation dtype: float32 for the half precisions (S16)."""
    return tf.cast(array, accumulation_dtype(array.dtype.name))


def compute_stages(attention: Attention) -> AttentionStages:
    """Compute scores, logits, weights, logsumexp and output."""
    return stages_of(attention.query, attention.key, attention.value, terms_of(attention))


def terms_of(attention: Attention) -> Terms:
    """Evaluate the options for all pairs."""
    sizes, (mask, bias, scale, softcap, sinks, dropout) = attention.sizes, attention.options
    with tf.control_dependencies([attention.query]):  # which waits for what is asserted when a graph runs
        block = block_of(sizes, attention.query)
        numbers = bias_values(bias, block)
        pairs = [*shape_of(attention.query)[:-1], shape_of(attention.key)[-2]]
        visible = tf.broadcast_to(visible_pairs(mask, numbers, block), pairs)
        sink = None if sinks is None else block.per_head(sinks)
        kept = None if dropout is None else dropout.kept(block)
        if scale is None:  # the head dimension was not known while tracing
            scale = tf.math.rsqrt(tf.cast(tf.shape(attention.query)[-1], block.dtype))
    return Terms(visible, numbers, scale, softcap, sink, kept, 0.0 if dropout is None else dropout.rate)


def stages_of(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, terms: Terms) -> AttentionStages:
    """Compute the formula itself, stage by stage: softmax(cap(scale · Q Kᵀ) + bias, where visible) · V."""
    return stages_from(dot_products(query, key), value, terms)


def dot_products(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Multiply queries and keys, (*B, Hq, Tq, Tk); NaN for every pair of which one is not finite."""
    # Poison is taken out before the products and put back where it is seen: 0 · NaN would carry it everywhere (S11).
    # S12: the query heads of a group are consecutive, so their rows stack up before the key/value head they share.
    products = ungroup(tf.matmul(group(finite(query), key), finite(key), transpose_b=True), query)
    return tf.where(is_clean_pair(query, key), products, math.nan)


def stages_from(products: tf.Tensor, value: tf.Tensor, terms: Terms) -> AttentionStages:
    """Compute the stages that follow the products of queries and keys, whatever similarity they are of."""
    scores, logits = logits_of(products, terms)
    weights, logsumexp = softmax(logits, terms.visible, terms.sink)

    # S14: what is dropped is not read.
    used = weights if terms.kept is None else tf.where(terms.kept, weights / (1.0 - terms.rate), 0.0)
    read = terms.visible if terms.kept is None else terms.visible & terms.kept
    return AttentionStages(scores, logits, weights, logsumexp, mix(used, value, read))


def logits_of(products: tf.Tensor, terms: Terms) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute scores and logits: scale, then softcap, bias and mask (S2, S3)."""
    scale = _as_number(terms.scale, products)
    scores = scale * products
    # A product that is not read leaves first: its derivative would be 0 · NaN (S11).
    logits = scale * tf.where(terms.visible, products, 0.0)
    if terms.softcap is not None:
        softcap = _as_number(terms.softcap, products)
        logits = softcap * tf.tanh(logits / softcap)
    logits = logits if terms.bias is None else logits + terms.bias
    return scores, tf.where(terms.visible, logits, -math.inf)


def softmax(logits: tf.Tensor, visible: tf.Tensor, sink: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute weights and logsumexp of logits that are −∞ where they are not visible."""
    # Shifted by the largest logit, so that nothing overflows; an empty row sums to 0 (S10).
    peak = tf.reduce_max(tf.stop_gradient(logits), axis=-1, keepdims=True)
    peak = peak if sink is None else tf.maximum(peak, tf.stop_gradient(sink))
    peak = tf.where(peak != -math.inf, peak, 0.0)
    exponentials = tf.exp(logits - peak)
    total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
    total = total if sink is None else total + tf.exp(sink - peak)  # S13: it takes part, and is dropped
    has_weight = total != 0.0
    total = tf.where(has_weight, total, 1.0)
    weights = tf.where(visible, exponentials / total, 0.0)
    return weights, tf.where(has_weight, peak + tf.math.log(total), -math.inf)[..., 0]


def mix(weights: tf.Tensor, value: tf.Tensor, read: tf.Tensor) -> tf.Tensor:
    """Compute Σ_j weights_ij v_j; a value that is not finite reaches the rows that read it (S11)."""
    output = ungroup(group(weights, value) @ finite(value), weights)
    return _with_seen_poison(output, read, value)


def finite(array: tf.Tensor) -> tf.Tensor:
    """Replace what is not finite by 0."""
    return tf.where(tf.math.is_finite(array), array, 0.0)


def is_finite_row(array: tf.Tensor) -> tf.Tensor:
    """Say which positions have finite components only."""
    return tf.reduce_all(tf.math.is_finite(array), axis=-1)


def is_clean_pair(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Say which pairs have finite components only, (*B, Hq, Tq, Tk)."""
    return is_finite_row(query)[..., :, None] & _by_query_head(is_finite_row(key)[..., None, :], query)


def _with_seen_poison(output: tf.Tensor, read: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Add the non-finite value entries to the rows that read them: NaN, ±Inf, in their own component (S11)."""

    def add_poison() -> tf.Tensor:
        seen = group(tf.cast(read, value.dtype), value)
        rising = seen @ tf.cast(tf.math.is_nan(value) | (value == math.inf), value.dtype)
        falling = seen @ tf.cast(tf.math.is_nan(value) | (value == -math.inf), value.dtype)
        poison = tf.where(rising > 0, math.inf, 0.0) + tf.where(falling > 0, -math.inf, 0.0)
        poison = tf.cast(ungroup(poison, output), output.dtype)
        return tf.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0

    return tf.cond(tf.reduce_all(tf.math.is_finite(value)), lambda: output, add_poison)


def _as_number(value: Any, like: tf.Tensor) -> Any:
    return tf.cast(value, like.dtype) if tf.is_tensor(value) else value


def group(array: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """(*B, Hq, q, a) → (*B, Hkv, Hq/Hkv · q, a)."""
    *batch, heads, rows, columns = shape_of(array)
    kv_heads = shape_of(key)[-3]
    return tf.reshape(array, [*batch, kv_heads, heads // _at_least_one(kv_heads) * rows, columns])


def ungroup(array: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
    """(*B, Hkv, Hq/Hkv · q, a) → (*B, Hq, q, a)."""
    return tf.reshape(array, [*shape_of(query)[:-1], shape_of(array)[-1]])


def _by_query_head(array: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
    """(*B, Hkv, a, b) → (*B, Hq, a, b): each query head gets its key/value head (S12)."""
    return tf.repeat(array, shape_of(query)[-3] // _at_least_one(shape_of(array)[-3]), axis=-3)


def _at_least_one(size: Any) -> Any:
    return max(size, 1) if isinstance(size, int) else tf.maximum(size, 1)


def swap_axes(array: tf.Tensor) -> tf.Tensor:
    """(…, a, b, c) → (…, b, a, c)."""
    rank = len(array.shape)
    return tf.transpose(array, [*range(rank - 3), rank - 2, rank - 3, rank - 1])

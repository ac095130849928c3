"""Scaled dot-product attention in TensorFlow."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from attnspec.contract.operands import accumulation_dtype, check_floating
from attnspec.contract.options import Options, check_options
from attnspec.contract.parameters import AttentionStages
from attnspec.contract.shapes import Sizes, dot_product_sizes

from .masks import block_of, visible_pairs
from .tensors import as_option, as_tensors, assert_pending, describe, new_checks, shape_of


class Attention(NamedTuple):
    """One attention whose arguments are checked: at least float32 and in canonical layout (*B, heads, length, size)."""

    query: tf.Tensor
    key: tf.Tensor
    value: tf.Tensor
    bias: tf.Tensor | None
    sizes: Sizes
    options: Options


@tf.autograph.experimental.do_not_convert
def dot_product_attention(
    query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None, scale: Any = None, softcap: Any = None
) -> tf.Tensor:
    """Compute softmax(cap(scale · Q Kᵀ) + bias, over the keys the mask allows) · V.

    Arguments, shapes and errors: `attnspec.reference.dot_product_attention`.

    Differences: takes TensorFlow tensors and variables (NumPy arrays and lists go to the default device); returns a tensor
    of the query's dtype; bfloat16 and float16 accumulate and exponentiate in float32. Works eagerly and in `tf.function`,
    also with unknown sizes: what cannot be checked while tracing is asserted when the graph runs
    (tf.errors.InvalidArgumentError). An unknown rank is a ValueError.
    """
    attention, shape, dtype = prepare(query, key, value, mask, bias, scale, softcap)
    return tf.cast(tf.reshape(compute_stages(attention).output, shape), dtype)


@tf.autograph.experimental.do_not_convert
def attention_stages(
    query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None, scale: Any = None, softcap: Any = None
) -> AttentionStages:
    """Compute `dot_product_attention` and return every stage on the way.

    Arguments, shapes and errors: `attnspec.reference.attention_stages`.

    Differences: the stages are at least float32, the output has the query's dtype.
    """
    attention, shape, dtype = prepare(query, key, value, mask, bias, scale, softcap)
    stages = compute_stages(attention)
    pairs = [*shape[:-1], attention.sizes.key_length]
    return AttentionStages(
        tf.reshape(stages.scores, pairs),
        tf.reshape(stages.logits, pairs),
        tf.reshape(stages.weights, pairs),
        tf.reshape(stages.logsumexp, shape[:-1]),
        tf.cast(tf.reshape(stages.output, shape), dtype),
    )


def prepare(
    query: Any, key: Any, value: Any, mask: Any, bias: Any, scale: Any, softcap: Any
) -> tuple[Attention, list[Any], tf.DType]:
    """Check the arguments of a dot-product attention; return it in canonical layout, with its output's shape and dtype."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    bias = as_option("bias", bias, query)
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks(query)
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, mask=mask, bias=describe(bias), scale=scale, softcap=softcap, checks=checks)
    assert_pending(checks)
    shape = [*shape_of(query)[:-1], sizes.value_dim]
    wide_query, wide_key, wide_value = widen(query), widen(key), widen(value)
    if not sizes.has_heads:
        wide_query, wide_key, wide_value = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    return Attention(wide_query, wide_key, wide_value, bias, sizes, options), shape, query.dtype


def widen(array: tf.Tensor) -> tf.Tensor:
    """Convert to the accumulation dtype: float32 for the half precisions (S16)."""
    return tf.cast(array, accumulation_dtype(array.dtype.name))


def compute_stages(attention: Attention) -> AttentionStages:
    """Compute scores, logits, weights, logsumexp and output: the formula itself."""
    query, key, value, bias, sizes, (mask, scale, softcap) = attention
    block = block_of(sizes)
    bias = None if bias is None else tf.cast(block.per_pair(bias), query.dtype)

    # Poison is taken out before the products and put back where it is seen: 0 · NaN would carry it everywhere (S11).
    clean_query, clean_key, clean_value = _finite(query), _finite(key), _finite(value)
    is_clean = _is_finite_row(query)[..., :, None] & _by_query_head(_is_finite_row(key)[..., None, :], sizes)

    # S2, S12: the query heads of a group are consecutive, so their rows stack up before the key/value head they share.
    scores = tf.matmul(_group(clean_query, sizes), clean_key, transpose_b=True)
    if scale is None:  # the head dimension was not known while tracing
        scale = tf.math.rsqrt(tf.cast(sizes.head_dim, query.dtype))
    scores = _as_number(scale, query) * _ungroup(scores, sizes)
    scores = tf.where(is_clean, scores, math.nan)

    # S3: softcap, then bias, then mask.
    logits = scores
    if softcap is not None:
        softcap = _as_number(softcap, query)
        logits = softcap * tf.tanh(logits / softcap)
    logits = logits if bias is None else logits + bias
    visible = tf.broadcast_to(visible_pairs(mask, bias, block), tf.shape(logits))
    logits = tf.where(visible, logits, -math.inf)

    # The softmax, shifted by its largest logit so that nothing overflows; an empty row sums to 0 (S10).
    peak = tf.reduce_max(tf.stop_gradient(logits), axis=-1, keepdims=True)
    peak = tf.where(peak != -math.inf, peak, 0.0)
    exponentials = tf.exp(logits - peak)
    total = tf.reduce_sum(exponentials, axis=-1, keepdims=True)
    has_weight = total != 0.0
    total = tf.where(has_weight, total, 1.0)
    weights = tf.where(visible, exponentials / total, 0.0)
    logsumexp = tf.where(has_weight, peak + tf.math.log(total), -math.inf)[..., 0]

    output = _ungroup(_group(weights, sizes) @ clean_value, sizes)
    holds_poison = ~tf.reduce_all(tf.math.is_finite(value))
    poison = tf.cond(holds_poison, lambda: _seen_poison(visible, value, sizes), lambda: tf.zeros_like(output))
    output = tf.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0
    return AttentionStages(scores, logits, weights, logsumexp, output)


def _finite(array: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_finite(array), array, 0.0)


def _is_finite_row(array: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(array), axis=-1)


def _seen_poison(visible: tf.Tensor, value: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """Add up, for each query, the non-finite value entries that it may attend to: NaN, ±Inf, or 0 where it sees none."""
    seen = _group(tf.cast(visible, value.dtype), sizes)
    rising = seen @ tf.cast(~(value < math.inf), value.dtype)
    falling = seen @ tf.cast(~(value > -math.inf), value.dtype)
    poison = tf.where(rising > 0, math.inf, 0.0) + tf.where(falling > 0, -math.inf, 0.0)
    return tf.cast(_ungroup(poison, sizes), value.dtype)


def _as_number(value: Any, query: tf.Tensor) -> Any:
    return tf.cast(value, query.dtype) if tf.is_tensor(value) else value


def _group(array: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """(*B, Hq, q, a) → (*B, Hkv, Hq/Hkv · q, a)."""
    *batch, heads, rows, columns = shape_of(array)
    return tf.reshape(array, [*batch, sizes.num_kv_heads, heads * rows // _at_least_one(sizes.num_kv_heads), columns])


def _ungroup(array: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """(*B, Hkv, Hq/Hkv · q, a) → (*B, Hq, q, a)."""
    *batch, kv_heads, rows, columns = shape_of(array)
    return tf.reshape(array, [*batch, sizes.num_heads, kv_heads * rows // _at_least_one(sizes.num_heads), columns])


def _by_query_head(array: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """(*B, Hkv, a, b) → (*B, Hq, a, b): each query head gets its key/value head (S12)."""
    return tf.repeat(array, sizes.num_heads // _at_least_one(sizes.num_kv_heads), axis=-3)


def _at_least_one(size: Any) -> Any:
    return max(size, 1) if isinstance(size, int) else tf.maximum(size, 1)


def swap_axes(array: tf.Tensor) -> tf.Tensor:
    """(…, a, b, c) → (…, b, a, c)."""
    rank = len(array.shape)
    return tf.transpose(array, [*range(rank - 3), rank - 2, rank - 3, rank - 1])

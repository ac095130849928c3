"""Attention with projections in TensorFlow: self-attention, key-value attention and multi-head attention."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from attnspec.contract.operands import check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import MultiHeadParameters, check_parameters
from attnspec.contract.rotary_option import Rotary, check_rotary
from attnspec.contract.shapes import Sizes, key_value_sizes, multi_head_sizes, self_attention_sizes

from .attention import Attention, compute_stages, finite, is_finite_row, swap_axes, widen
from .positions import turn_heads
from .tensors import as_tensors, assert_pending, describe, new_checks, shape_of, with_tensors, without_autograph


@without_autograph
def self_attention(
    inputs: Any,
    query_weight: Any,
    key_weight: Any,
    value_weight: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Let every position of a sequence attend to the sequence: Q = X W_q, K = X W_k, V = X W_v, then attention.

    Arguments, shapes and errors: `attnspec.reference.self_attention`.

    Differences: as for `dot_product_attention`; projections are not rounded to half precision in between.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, dtype = prepare_self_attention(inputs, query_weight, key_weight, value_weight, given)
    output = compute_stages(attention).output
    return tf.cast(tf.squeeze(output, -3), dtype)


@without_autograph
def key_value_attention(
    query: Any,
    keys: Any,
    values: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Let one query read a memory of key-value pairs: Σ_j softmax_j(scale · q·k_j) v_j, one query per batch element.

    Arguments, shapes and errors: `attnspec.reference.key_value_attention`.

    Differences: as for `dot_product_attention`.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, dtype = prepare_key_value_attention(query, keys, values, given)
    output = compute_stages(attention).output
    return tf.cast(tf.squeeze(output, [-2, -3]), dtype)


@without_autograph
def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    parameters: MultiHeadParameters,
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
) -> tf.Tensor:
    """Attend with heads h: concat_h(attention(x_q W_q^h + b_q^h, x_k W_k^h + b_k^h, x_v W_v^h + b_v^h)) W_o + b_o.

    Arguments, shapes and errors: `attnspec.reference.multi_head_attention`.

    Differences: as for `self_attention`.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, parameters, dtype = prepare_multi_head_attention(
        query, key, value, parameters, num_heads, num_kv_heads, given, rotary
    )
    output = compute_stages(attention).output
    return tf.cast(project(merge_heads(output), parameters.output_weight, parameters.output_bias), dtype)


def prepare_self_attention(
    inputs: Any, query_weight: Any, key_weight: Any, value_weight: Any, given: Given
) -> tuple[Attention, tf.DType]:
    """Check the arguments of a self-attention and project them: an attention with one head; return its dtype too."""
    inputs, query_weight, key_weight, value_weight = as_tensors(
        inputs=inputs, query_weight=query_weight, key_weight=key_weight, value_weight=value_weight
    )
    given = with_tensors(given, inputs)
    operands = {
        "inputs": describe(inputs),
        "query_weight": describe(query_weight),
        "key_weight": describe(key_weight),
        "value_weight": describe(value_weight),
    }
    dtype = check_floating(**operands)
    checks = new_checks(inputs)
    sizes = self_attention_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    inputs, query_weight, key_weight, value_weight = assert_pending(
        checks, inputs, query_weight, key_weight, value_weight
    )
    wide = widen(inputs)[..., None, :, :]
    query, key, value = (project(wide, weight, None) for weight in (query_weight, key_weight, value_weight))
    return Attention(query, key, value, sizes, options), inputs.dtype


def prepare_key_value_attention(query: Any, keys: Any, values: Any, given: Given) -> tuple[Attention, tf.DType]:
    """Check the arguments of a key-value attention: an attention with one head and one query; return its dtype too."""
    query, keys, values = as_tensors(query=query, keys=keys, values=values)
    given = with_tensors(given, query)
    operands = {"query": describe(query), "keys": describe(keys), "values": describe(values)}
    dtype = check_floating(**operands)
    checks = new_checks(query)
    sizes = key_value_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    query, keys, values = assert_pending(checks, query, keys, values)
    wide_query = widen(query)[..., None, None, :]
    wide_keys, wide_values = widen(keys)[..., None, :, :], widen(values)[..., None, :, :]
    return Attention(wide_query, wide_keys, wide_values, sizes, options), query.dtype


def prepare_multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    parameters: MultiHeadParameters,
    num_heads: int,
    num_kv_heads: int | None,
    given: Given,
    rotary: Any,
) -> tuple[Attention, MultiHeadParameters, tf.DType]:
    """Check the arguments of a multi-head attention, project, split and turn the heads; return parameters, dtype."""
    arrays = check_parameters(parameters)
    query, key, value, *weights = as_tensors(query=query, key=key, value=value, **arrays)
    given = with_tensors(given, query)
    parameters = MultiHeadParameters(**dict(zip(arrays, weights, strict=True)))
    described = MultiHeadParameters(*map(describe, parameters))
    operands = {"query": describe(query), "key": describe(key), "value": describe(value)}
    dtype = check_floating(**operands, **{name: getattr(described, name) for name in arrays})
    checks = new_checks(query)
    sizes = multi_head_sizes(
        **operands, parameters=described, num_heads=num_heads, num_kv_heads=num_kv_heads, checks=checks
    )
    options = check_options(sizes, dtype, given, checks)
    check_rotary(rotary, sizes, checks)
    query, key, value, *weights = assert_pending(checks, query, key, value, *parameters)
    parameters = MultiHeadParameters(*weights)
    return project_heads(query, key, value, parameters, sizes, options, rotary), parameters, query.dtype


def project_heads(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    parameters: MultiHeadParameters,
    sizes: Sizes,
    options: Options,
    rotary: Rotary | None,
) -> Attention:
    """Project the inputs of a multi-head attention whose arguments are checked, split and turn the heads."""
    query = split_heads(project(query, parameters.query_weight, parameters.query_bias), sizes.num_heads)
    key = split_heads(project(key, parameters.key_weight, parameters.key_bias), sizes.num_kv_heads)
    value = split_heads(project(value, parameters.value_weight, parameters.value_bias), sizes.num_kv_heads)
    query, key = turn_heads(query, key, rotary, sizes)
    return Attention(query, key, value, sizes, options)


def project(inputs: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """Compute x W + b; a non-finite component makes its position NaN, and no other (S11)."""
    inputs = widen(inputs)
    outputs = finite(inputs) @ widen(weight)
    outputs = outputs if bias is None else outputs + widen(bias)
    return tf.where(is_finite_row(inputs)[..., None], outputs, math.nan)


def split_heads(array: tf.Tensor, heads: int) -> tf.Tensor:
    """(*B, T, H·D) → (*B, H, T, D)."""
    *leading, columns = shape_of(array)
    return swap_axes(tf.reshape(array, [*leading, heads, columns // heads]))


def merge_heads(array: tf.Tensor) -> tf.Tensor:
    """(*B, H, T, D) → (*B, T, H·D)."""
    array = swap_axes(array)
    *leading, heads, columns = shape_of(array)
    return tf.reshape(array, [*leading, heads * columns])

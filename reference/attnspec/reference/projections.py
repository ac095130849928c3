"""Attention with projections: self-attention, key-value attention and multi-head attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnspec.contract.operands import check_floating
from attnspec.contract.options import Given, Options, check_options
from attnspec.contract.parameters import MultiHeadParameters, check_parameters
from attnspec.contract.rotary_option import Rotary, check_rotary
from attnspec.contract.shapes import Sizes, key_value_sizes, multi_head_sizes, self_attention_sizes

from .attention import Attention, attend, finite, is_finite_row, widen
from .positions import turn_heads
from .tensors import Array, as_tensors, describe, new_checks, with_tensors


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
) -> Array:
    """Let every position of a sequence attend to the sequence: Q = X W_q, K = X W_k, V = X W_v, then attention.

    Args:
        inputs: X, (*B, T, D).
        query_weight: W_q, (D, Dk).
        key_weight: W_k, (D, Dk).
        value_weight: W_v, (D, Dv).
        mask, bias, scale, softcap, sinks, dropout: as for `dot_product_attention` of a query (*B, 1, T, Dk): a mask,
            bias or keep array has rank 2, or the rank of X and one more, with a head axis of 1; a sink is a number.

    Returns:
        (*B, T, Dv), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`.

    Source: Vaswani et al. 2017, §3.2; Lin et al. 2017 for the name.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention = prepare_self_attention(inputs, query_weight, key_weight, value_weight, given)
    return attend(attention)[..., 0, :, :]


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
) -> Array:
    """Let one query read a memory of key-value pairs: Σ_j softmax_j(scale · q·k_j) v_j, one query per batch element.

    Args:
        query: (*B, Dk).
        keys: (*B, S, Dk).
        values: (*B, S, Dv).
        mask, bias, scale, softcap, sinks, dropout: as for `dot_product_attention` of a query (*B, 1, 1, Dk): a mask,
            bias or keep array has rank 2, (1, S), or the rank of `query` and two more, (*B, 1, 1, S); a sink is a
            number.

    Returns:
        (*B, Dv), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`.

    Source: Miller et al. 2016, §3.1 (key-value memories), with the scale of Vaswani et al. 2017.
    """
    attention = prepare_key_value_attention(query, keys, values, Given(mask, bias, scale, softcap, sinks, dropout))
    return attend(attention)[..., 0, 0, :]


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
) -> Array:
    """Attend with heads h: concat_h(attention(x_q W_q^h + b_q^h, x_k W_k^h + b_k^h, x_v W_v^h + b_v^h)) W_o + b_o.

    Args:
        query: x_q, (*B, Tq, E).
        key: x_k, (*B, Tk, E_k).
        value: x_v, (*B, Tk, E_v).
        parameters: `MultiHeadParameters`, with the shapes written there.
        num_heads: Hq; it divides the columns of `query_weight`.
        num_kv_heads: Hkv, by default Hq; it divides Hq and the columns of `key_weight` and `value_weight`.
        mask, bias, scale, softcap, sinks, dropout: as for `dot_product_attention` of the projected query
            (*B, Hq, Tq, Dk); the default scale is that of one head, 1/√Dk.
        rotary: `Rotary(pairing, …)`: the projected query i of every head turns as at position i + offset, key j as at
            j (`rotary_embedding`), before the scores.

    Returns:
        (*B, Tq, E_out), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`.

    Source: Vaswani et al. 2017, §3.2.2; grouped heads: Ainslie et al. 2023; rotary: Su et al. 2021.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, parameters = prepare_multi_head_attention(
        query, key, value, parameters, num_heads, num_kv_heads, given, rotary
    )
    return project(merge_heads(attend(attention)), parameters.output_weight, parameters.output_bias)


def prepare_self_attention(
    inputs: Any, query_weight: Any, key_weight: Any, value_weight: Any, given: Given
) -> Attention:
    """Check the arguments of a self-attention and project them: an attention with one head."""
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
    checks = new_checks()
    sizes = self_attention_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    inputs = widen(inputs)[..., None, :, :]
    query, key, value = (project(inputs, weight, None) for weight in (query_weight, key_weight, value_weight))
    return Attention(query, key, value, sizes, options)


def prepare_key_value_attention(query: Any, keys: Any, values: Any, given: Given) -> Attention:
    """Check the arguments of a key-value attention: an attention with one head and one query."""
    query, keys, values = as_tensors(query=query, keys=keys, values=values)
    given = with_tensors(given, query)
    operands = {"query": describe(query), "keys": describe(keys), "values": describe(values)}
    dtype = check_floating(**operands)
    checks = new_checks()
    sizes = key_value_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    query, keys, values = widen(query)[..., None, None, :], widen(keys)[..., None, :, :], widen(values)[..., None, :, :]
    return Attention(query, keys, values, sizes, options)


def prepare_multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    parameters: MultiHeadParameters,
    num_heads: int,
    num_kv_heads: int | None,
    given: Given,
    rotary: Any,
) -> tuple[Attention, MultiHeadParameters]:
    """Check the arguments of a multi-head attention, project, split and turn the heads; return the parameters too."""
    arrays = check_parameters(parameters)
    query, key, value, *weights = as_tensors(query=query, key=key, value=value, **arrays)
    given = with_tensors(given, query)
    parameters = MultiHeadParameters(**dict(zip(arrays, weights, strict=True)))
    described = MultiHeadParameters(*map(describe, parameters))
    operands = {"query": describe(query), "key": describe(key), "value": describe(value)}
    dtype = check_floating(**operands, **{name: getattr(described, name) for name in arrays})
    checks = new_checks()
    sizes = multi_head_sizes(
        **operands, parameters=described, num_heads=num_heads, num_kv_heads=num_kv_heads, checks=checks
    )
    options = check_options(sizes, dtype, given, checks)
    check_rotary(rotary, sizes, checks)
    return project_heads(query, key, value, parameters, sizes, options, rotary), parameters


def project_heads(
    query: Array,
    key: Array,
    value: Array,
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


def project(inputs: Array, weight: Array, bias: Array | None) -> Array:
    """Compute x W + b; a non-finite component makes its position NaN, and no other (S11)."""
    inputs = widen(inputs)
    outputs: Array = finite(inputs) @ widen(weight)
    outputs = outputs if bias is None else outputs + widen(bias)
    return np.where(is_finite_row(inputs)[..., None], outputs, np.nan)


def split_heads(array: Array, heads: int) -> Array:
    """(*B, T, H·D) → (*B, H, T, D)."""
    *leading, columns = array.shape
    return array.reshape(*leading, heads, columns // heads).swapaxes(-2, -3)


def merge_heads(array: Array) -> Array:
    """(*B, H, T, D) → (*B, T, H·D)."""
    array = array.swapaxes(-2, -3)
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])

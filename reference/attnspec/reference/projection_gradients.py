"""The gradients of attention with projections, in closed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.options import Given
from attnspec.contract.parameters import AttentionGradients, MultiHeadParameters
from attnspec.contract.rotary_option import Rotary

from .attention import Attention, attend, finite, is_finite_row, widen
from .gradients import as_cotangent, core_gradients
from .positions import turn_heads_back
from .projections import (
    merge_heads,
    prepare_key_value_attention,
    prepare_multi_head_attention,
    prepare_self_attention,
    split_heads,
)
from .tensors import Array


class SelfAttentionGradients(NamedTuple):
    """Gradients of `self_attention`, each with the shape of what it belongs to, None where not given."""

    inputs: Array
    query_weight: Array
    key_weight: Array
    value_weight: Array
    bias: Any
    sinks: Any


class MultiHeadGradients(NamedTuple):
    """Gradients of `multi_head_attention`, each with the shape of what it belongs to, None where not given."""

    query: Array
    key: Array
    value: Array
    parameters: MultiHeadParameters
    bias: Any
    sinks: Any


def self_attention_vjp(
    inputs: Any,
    query_weight: Any,
    key_weight: Any,
    value_weight: Any,
    output_cotangent: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> SelfAttentionGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a self-attention.

    With dQ, dK, dV the gradients of the attention itself: dW_q = Xᵀ dQ, …, and dX = dQ W_qᵀ + dK W_kᵀ + dV W_vᵀ.

    Args:
        inputs, query_weight, key_weight, value_weight, mask, bias, scale, softcap, sinks, dropout: as for
            `self_attention`.
        output_cotangent: (*B, T, Dv), the shape of the output.

    Returns:
        `SelfAttentionGradients(inputs, query_weight, key_weight, value_weight, bias, sinks)`, float64.

    Raises:
        ValueError, TypeError: as for `self_attention`; a cotangent of another shape than the output.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention = prepare_self_attention(inputs, query_weight, key_weight, value_weight, given)
    wide, weights = _wide(inputs), (_wide(query_weight), _wide(key_weight), _wide(value_weight))
    cotangent = as_cotangent("output_cotangent", output_cotangent, (*wide.shape[:-1], weights[2].shape[-1]))
    gradients = core_gradients(attention, cotangent[..., None, :, :], np.zeros(attention.query.shape[:-1]))
    pulled = [
        pull_projection(wide, weight, gradient[..., 0, :, :])
        for weight, gradient in zip(weights, gradients[:3], strict=True)
    ]
    d_inputs = pulled[0][0] + pulled[1][0] + pulled[2][0]
    d_query_weight, d_key_weight, d_value_weight = (d_weight for _, d_weight, _ in pulled)
    return SelfAttentionGradients(
        d_inputs, d_query_weight, d_key_weight, d_value_weight, gradients.bias, gradients.sinks
    )


def key_value_attention_vjp(
    query: Any,
    keys: Any,
    values: Any,
    output_cotangent: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> AttentionGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a key-value attention.

    Args:
        query, keys, values, mask, bias, scale, softcap, sinks, dropout: as for `key_value_attention`.
        output_cotangent: (*B, Dv), the shape of the output.

    Returns:
        `AttentionGradients(query, key, value, bias, sinks)`, float64; `key` and `value` belong to keys and values.

    Raises:
        ValueError, TypeError: as for `key_value_attention`; a cotangent of another shape than the output.
    """
    attention = prepare_key_value_attention(query, keys, values, Given(mask, bias, scale, softcap, sinks, dropout))
    shapes = np.shape(query), np.shape(keys), np.shape(values)
    cotangent = as_cotangent("output_cotangent", output_cotangent, (*shapes[0][:-1], shapes[2][-1]))
    gradients = core_gradients(attention, cotangent[..., None, None, :], np.zeros(attention.query.shape[:-1]))
    d_query, d_keys, d_values = (gradient.reshape(shape) for gradient, shape in zip(gradients[:3], shapes, strict=True))
    return AttentionGradients(d_query, d_keys, d_values, gradients.bias, gradients.sinks)


def multi_head_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    parameters: MultiHeadParameters,
    output_cotangent: Any,
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
) -> MultiHeadGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a multi-head attention.

    With O the heads' outputs side by side and G the cotangent: dW_o = Oᵀ G, db_o = Σ G, dO = G W_oᵀ; then through the
    attention, the turns (by the opposite angles), and each projection x W + b: dW = xᵀ d, db = Σ d, dx = d Wᵀ.

    Args:
        query, key, value, parameters, num_heads, num_kv_heads, mask, bias, scale, softcap, sinks, rotary, dropout: as
            for `multi_head_attention`.
        output_cotangent: G, (*B, Tq, E_out), the shape of the output.

    Returns:
        `MultiHeadGradients(query, key, value, parameters, bias, sinks)`, float64; `parameters` are
        `MultiHeadParameters` of gradients, None for biases that are None.

    Raises:
        ValueError, TypeError: as for `multi_head_attention`; a cotangent of another shape than the output.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, weights = prepare_multi_head_attention(
        query, key, value, parameters, num_heads, num_kv_heads, given, rotary
    )
    shape = (*np.shape(query)[:-1], np.shape(weights.output_weight)[-1])
    cotangent = as_cotangent("output_cotangent", output_cotangent, shape)
    wide = _wide(query), _wide(key), _wide(value)
    return pull_multi_head(*wide, weights, attention, rotary, cotangent)


def pull_multi_head(
    query: Array,
    key: Array,
    value: Array,
    weights: MultiHeadParameters,
    attention: Attention,
    rotary: Rotary | None,
    cotangent: Array,
) -> MultiHeadGradients:
    """Go back from the output to inputs and parameters; `attention` is what `project_heads` made of these."""
    merged = merge_heads(attend(attention))
    d_merged, d_output_weight, d_output_bias = pull_projection(merged, widen(weights.output_weight), cotangent)
    d_heads = split_heads(d_merged, attention.sizes.num_heads)
    gradients = core_gradients(attention, d_heads, np.zeros(attention.query.shape[:-1]))
    unturned = *turn_heads_back(gradients.query, gradients.key, rotary, attention.sizes), gradients.value
    pulled = {
        part: pull_projection(inputs, widen(getattr(weights, f"{part}_weight")), merge_heads(gradient))
        for part, inputs, gradient in zip(("query", "key", "value"), (query, key, value), unturned, strict=True)
    }
    d_biases = {part: d_bias for part, (_, _, d_bias) in pulled.items()} | {"output": d_output_bias}
    d_parameters = MultiHeadParameters(
        pulled["query"][1],
        pulled["key"][1],
        pulled["value"][1],
        d_output_weight,
        **{f"{part}_bias": d_bias for part, d_bias in d_biases.items() if getattr(weights, f"{part}_bias") is not None},
    )
    d_query, d_key, d_value = (d_inputs for d_inputs, _, _ in pulled.values())
    return MultiHeadGradients(d_query, d_key, d_value, d_parameters, gradients.bias, gradients.sinks)


def pull_projection(inputs: Array, weight: Array, cotangent: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs, weight and bias of x W + b; a position that is not finite has none (S11)."""
    clean = np.where(is_finite_row(inputs)[..., None], cotangent, 0.0)
    axes = tuple(range(cotangent.ndim - 1))
    d_weight = np.tensordot(finite(inputs), clean, (axes, axes))
    return clean @ weight.T, d_weight, clean.sum(axis=axes)


def _wide(array: Any) -> Array:
    return widen(np.asanyarray(array))

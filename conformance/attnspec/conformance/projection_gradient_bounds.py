"""Bounds of gradients in the caller's shapes, and through projections: `gradient_bounds`, with a layer on either side.

layer        y = x W + b with a cotangent d that errs by Δ: dx = d Wᵀ, dW = xᵀ d and db = Σ d are sums, which err by
             γ̃_n and carry Δ |W|ᵀ, |x|ᵀ Δ and Σ Δ; where x errs too, dW carries its error. Each result is stored.
output       The heads' cotangent dO = G W_oᵀ is stored before the attention reads it: the error that enters there.
heads        Errors of projected queries, keys and values enter the attention as in the forward pass, and its gradients'
             bounds are the Δ of their projections.
inputs       Where three projections share their inputs, their parts are stored and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import MultiHeadParameters
from attnspec.contract.parameters import AttentionGradients
from attnspec.reference import attention as reference_attention
from attnspec.reference import projections as reference_projections
from attnspec.reference.gradients import CoreGradients, core_gradients
from attnspec.reference.projection_gradients import MultiHeadGradients, SelfAttentionGradients, pull_projection
from attnspec.reference.projections import merge_heads, split_heads

from .bounds import attention_bounds, gamma, projection_bound
from .gradient_bounds import gradient_bounds
from .operations import given_options, prepare_multi_head_attention, prepare_self_attention, wide_tensor
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]
Tensors = Mapping[str, Any]


def dot_product_gradient_bounds(
    tensors: Tensors,
    options: Mapping[str, Any],
    output_cotangent: Any,
    logsumexp_cotangent: Any,
    profile: Profile,
) -> AttentionGradients:
    """Bound the gradients of a dot-product attention, in the caller's shapes; a cotangent of None is 0."""
    query, key, value = tensors["query"], tensors["key"], tensors["value"]
    attention, _ = reference_attention.prepare(query, key, value, given_options(options))
    rows = attention.query.shape[:-1]

    def cotangent(given: Any, shape: tuple[int, ...]) -> Array:
        return np.zeros(shape) if given is None else np.asarray(given, np.float64).reshape(shape)

    of_output = cotangent(output_cotangent, (*rows, attention.value.shape[-1]))
    bounds = gradient_bounds(attention, of_output, cotangent(logsumexp_cotangent, rows), profile)
    return _as_called(bounds, query, key, value)


def key_value_gradient_bounds(
    tensors: Tensors, options: Mapping[str, Any], output_cotangent: Any, profile: Profile
) -> AttentionGradients:
    """Bound the gradients of a key-value attention; `key` and `value` belong to keys and values."""
    query, keys, values = tensors["query"], tensors["keys"], tensors["values"]
    attention = reference_projections.prepare_key_value_attention(query, keys, values, given_options(options))
    cotangent = np.asarray(output_cotangent, np.float64)[..., None, None, :]
    bounds = gradient_bounds(attention, cotangent, np.zeros(cotangent.shape[:-1]), profile)
    return _as_called(bounds, query, keys, values)


def self_attention_gradient_bounds(
    tensors: Tensors, options: Mapping[str, Any], output_cotangent: Any, profile: Profile
) -> SelfAttentionGradients:
    """Bound the gradients of a self-attention."""
    attention, errors = prepare_self_attention(tensors, options, profile)
    cotangent = np.asarray(output_cotangent, np.float64)[..., None, :, :]
    no_logsumexp = np.zeros(attention.query.shape[:-1])
    exact = core_gradients(attention, cotangent, no_logsumexp)
    bounds = gradient_bounds(attention, cotangent, no_logsumexp, profile, errors)
    inputs = wide_tensor(tensors, "inputs")
    parts = [
        _pulled(
            _Carrying(inputs, 0.0),
            wide_tensor(tensors, f"{part}_weight"),
            _Carrying(gradient[..., 0, :, :], bound[..., 0, :, :]),
            profile,
        )
        for part, gradient, bound in zip(_PARTS, exact[:3], bounds[:3], strict=True)
    ]
    d_inputs = sum(part.inputs + profile.output * np.abs(part.exact_inputs) for part in parts)
    d_inputs = d_inputs + profile.output * np.abs(sum(part.exact_inputs for part in parts))
    d_query, d_key, d_value = (part.weight for part in parts)
    return SelfAttentionGradients(np.asarray(d_inputs), d_query, d_key, d_value, bounds.bias, bounds.sinks)


def multi_head_gradient_bounds(
    tensors: Tensors, options: Mapping[str, Any], output_cotangent: Any, profile: Profile
) -> MultiHeadGradients:
    """Bound the gradients of a multi-head attention; of biases that are not given, None."""
    attention, errors = prepare_multi_head_attention(tensors, options, profile)
    heads = attention.sizes.num_heads
    cotangent, output_weight = np.asarray(output_cotangent, np.float64), wide_tensor(tensors, "output_weight")
    forward = reference_attention.attend(attention), attention_bounds(attention, profile, errors).output
    out = _pulled(_Carrying(*map(merge_heads, forward)), output_weight, _Carrying(cotangent, 0.0), profile)
    d_heads = split_heads(out.exact_inputs, heads)
    no_logsumexp = np.zeros(attention.query.shape[:-1])
    exact = core_gradients(attention, d_heads, no_logsumexp)
    bounds = gradient_bounds(attention, d_heads, no_logsumexp, profile, errors, split_heads(out.inputs, heads))
    pulled = {
        part: _pulled(
            _Carrying(wide_tensor(tensors, part), 0.0),
            wide_tensor(tensors, f"{part}_weight"),
            _Carrying(merge_heads(gradient), merge_heads(bound)),
            profile,
        )
        for part, gradient, bound in zip(_PARTS, exact[:3], bounds[:3], strict=True)
    }
    layers = pulled | {"output": out}
    parameters = MultiHeadParameters(
        **{f"{part}_weight": layer.weight for part, layer in layers.items()},
        **{f"{part}_bias": layer.bias for part, layer in layers.items() if tensors.get(f"{part}_bias") is not None},
    )
    d_query, d_key, d_value = (pulled[part].inputs for part in _PARTS)
    return MultiHeadGradients(d_query, d_key, d_value, parameters, bounds.bias, bounds.sinks)


_PARTS = ("query", "key", "value")


class _Carrying(NamedTuple):
    """An exact array, and the absolute error that it carries."""

    exact: Array
    error: Array | float


class _Pulled(NamedTuple):
    """The bounds of a layer's gradients, and the exact gradient of its inputs."""

    inputs: Array
    weight: Array
    bias: Array
    exact_inputs: Array


def _as_called(bounds: CoreGradients, query: Any, key: Any, value: Any) -> AttentionGradients:
    d_query, d_key, d_value = (
        bound.reshape(np.shape(operand)) for bound, operand in zip(bounds[:3], (query, key, value), strict=True)
    )
    return AttentionGradients(d_query, d_key, d_value, bounds.bias, bounds.sinks)


def _pulled(inputs: _Carrying, weight: Array, cotangent: _Carrying, profile: Profile) -> _Pulled:
    """Bound the gradients of x W + b, where both x and the cotangent may carry errors."""
    finite_inputs, size = np.where(np.isfinite(inputs.exact), inputs.exact, 0.0), np.abs(cotangent.exact)
    d_inputs, d_weight, d_bias = pull_projection(inputs.exact, weight, cotangent.exact)
    axes = tuple(range(cotangent.exact.ndim - 1))
    error = np.broadcast_to(cotangent.error, size.shape)
    input_error = np.broadcast_to(inputs.error, finite_inputs.shape)
    magnitude = np.abs(finite_inputs)
    rows = int(np.prod([size.shape[axis] for axis in axes]))
    floor = 2.0**-24 if profile.dtype == "float16" else 0.0
    u_a, u_o = profile.accumulation, profile.output

    _, input_bound = projection_bound(cotangent.exact, weight.T, None, profile, error)
    summed = np.tensordot(magnitude + input_error, error, (axes, axes)) + np.tensordot(input_error, size, (axes, axes))
    rounding = gamma(rows + 1, u_a) + 2 * profile.products
    weight_bound = summed + rounding * np.tensordot(magnitude, size, (axes, axes)) + u_o * np.abs(d_weight) + floor
    if profile.rounds_softmax:  # one product for each batch element, each stored
        weight_bound = weight_bound + u_o * np.abs(finite_inputs.mT @ cotangent.exact).reshape(-1, *weight.shape).sum(0)
    bias_bound = error.sum(axis=axes) + gamma(rows, u_a) * size.sum(axis=axes) + u_o * np.abs(d_bias) + floor
    return _Pulled(input_bound, weight_bound, np.asarray(bias_bound), d_inputs)

"""Correct layers that round differently: the suite must reject none of them.

Each is a module of all operations, and declares the profile of its arithmetic where that is not the default.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract.layer_parameters import (
    AdditiveParameters,
    GatedAttentionCellParameters,
    LayerNormParameters,
    LinearParameters,
)
from attnspec.contract.layer_results import CachedAttention, CellResult, CellState, KeyValueCache
from attnspec.contract.states import map_leaves

from . import implementations, layer_steps
from .layer_attentions import cached_multi_head_attention
from .layer_blocks import gated_attention_cell
from .layer_implementations import build
from .layer_steps import Steps, linear
from .variants import DEFAULT, exp2_softmax, online_softmax, scale_on_query

Array: TypeAlias = np.ndarray[Any, Any]


class LayerVariant(NamedTuple):
    """A correct implementation of all layers and, for each dtype that it is for, its profile (None: the default)."""

    name: str
    operations: SimpleNamespace
    profiles: dict[str, str | None]


BELOW_FLOAT64 = {dtype: profile for dtype, profile in DEFAULT.items() if dtype != "float64"}


# Products.


def fused_projections(
    inputs: tuple[Array, ...], weights: tuple[Array, ...], biases: tuple[Array | None, ...], linear: Any
) -> list[Array]:
    """Project queries, keys and values by one product, where they come from the same inputs."""
    if any(array is not inputs[0] for array in inputs):
        return layer_steps.project(inputs, weights, biases, linear)
    columns = [weight.shape[-1] for weight in weights]
    zeros = [np.zeros(count, inputs[0].dtype) for count in columns]
    bias = np.concatenate([zero if bias is None else bias for zero, bias in zip(zeros, biases, strict=True)])
    return np.split(linear(inputs[0], np.concatenate(weights, axis=-1), bias), np.cumsum(columns)[:-1], axis=-1)


def rows_one_by_one(inputs: Array, weight: Array, bias: Array | None) -> Array:
    """Multiply one position at a time."""
    rows = [linear(row, weight, bias) for row in inputs.reshape(-1, inputs.shape[-1])]
    return np.array(rows, inputs.dtype).reshape(*inputs.shape[:-1], weight.shape[-1])


def split_sums(inputs: Array, weight: Array, bias: Array | None) -> Array:
    """Add up products of three components each, as devices do that hold a part of the weight."""
    parts = [inputs[..., i : i + 3] @ weight[i : i + 3] for i in range(0, weight.shape[0], 3)]
    outputs = sum(parts[1:], parts[0]) if bias is None else sum(parts, bias)
    return np.where(np.isfinite(inputs).all(axis=-1, keepdims=True), outputs, np.nan)


def scores_head_by_head(query: Array, key: Array, scale: float) -> Array:
    """Multiply one head at a time, and sum from the first component to the last."""
    heads = range(query.shape[-3])
    parts = [np.einsum("...qd,...kd->...qk", query[..., h, :, :], key[..., h, :, :]) for h in heads]
    return query.dtype.type(scale) * np.stack(parts, axis=-3)


def values_head_by_head(weights: Array, value: Array) -> Array:
    """Sum the values of one head at a time, from the first key to the last."""
    heads = range(weights.shape[-3])
    parts = [np.einsum("...qk,...kv->...qv", weights[..., h, :, :], value[..., h, :, :]) for h in heads]
    return np.stack(parts, axis=-3)


# Similarities and choices.


def additive_unit_by_unit(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Add up the hidden units one after the other."""
    query = query if parameters.query_weight is None else linear(query, parameters.query_weight, None)
    key = key if parameters.key_weight is None else linear(key, parameters.key_weight, None)
    total: Any = 0
    for a, weight in enumerate(parameters.score_weight):
        hidden = query[..., :, None, a] + key[..., None, :, a]
        hidden = hidden if parameters.hidden_bias is None else hidden + parameters.hidden_bias[a]
        total = total + weight * np.tanh(hidden)
    return total


def unit_vectors_in_float64(array: Array) -> Array:
    """Take the length in float64."""
    wide = array.astype(np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(length == 0, 1, length)).astype(array.dtype)


def hard_by_division(logits: Array, chosen: Array) -> Array:
    """Take the weights of soft attention, and divide by the sum of those that are chosen."""
    weights = np.where(chosen, implementations.softmax(logits), 0)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


# Normalisation and activations.


def _normalised(inputs: Array, mean: Array, variance: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    outputs = (inputs - mean) / np.sqrt(variance + inputs.dtype.type(epsilon)) * parameters.weight
    return outputs if parameters.bias is None else outputs + parameters.bias


def norm_by_reciprocal(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Multiply by weight / √(σ² + ε), computed once for each component."""
    mean = inputs.mean(axis=-1, keepdims=True)
    variance = np.square(inputs - mean).mean(axis=-1, keepdims=True)
    factor = 1 / np.sqrt(variance + inputs.dtype.type(epsilon)) * parameters.weight
    outputs = (inputs - mean) * factor
    return outputs if parameters.bias is None else outputs + parameters.bias


def norm_in_blocks(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Combine the moments of blocks of three components (Chan et al. 1979)."""
    count: Any = 0
    mean = squares = np.zeros((*inputs.shape[:-1], 1), inputs.dtype)
    for i in range(0, inputs.shape[-1], 3):
        block = inputs[..., i : i + 3]
        size = block.shape[-1]
        own = block.mean(axis=-1, keepdims=True)
        distance = own - mean
        share = inputs.dtype.type(size / (count + size))
        squares = squares + np.square(block - own).sum(axis=-1, keepdims=True) + distance**2 * count * share
        mean = mean + distance * share
        count += size
    return _normalised(inputs, mean, squares / inputs.dtype.type(count), parameters, epsilon)


def norm_by_moments_in_float64(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Compute the variance as E[x²] − E[x]² in float64: for inputs of less precision what cancels is not needed.

    In the precision of the inputs the same formula is a fault.
    """
    wide = inputs.astype(np.float64)
    mean = wide.mean(axis=-1, keepdims=True)
    variance = (wide**2).mean(axis=-1, keepdims=True) - mean**2
    outputs = ((wide - mean) / np.sqrt(variance + epsilon)).astype(inputs.dtype) * parameters.weight
    return outputs if parameters.bias is None else outputs + parameters.bias


def activate_by_shares(array: Array, activation: str) -> Array:
    """Multiply by a share between 0 and 1: gelu by erfc, its approximation by the sigmoid, silu by the other branch."""
    if activation == "gelu":
        share = _erfc(-array / array.dtype.type(math.sqrt(2))).astype(array.dtype) / 2
        return array * share
    if activation == "gelu_tanh":
        inner = array.dtype.type(math.sqrt(8 / math.pi)) * array * (1 + array.dtype.type(0.044715) * array * array)
        return array * layer_steps.sigmoid(inner)
    return layer_steps.activate(array, activation)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def sigmoid_in_branches(array: Array) -> Array:
    """Take the exponential of a negative number alone."""
    small = np.exp(-np.abs(array))
    return np.where(array >= 0, 1 / (1 + small), small / (1 + small))


def sigmoid_by_tanh(array: Array) -> Array:
    """Compute (1 + tanh(z/2)) / 2, as compilers do."""
    return (1 + np.tanh(array / 2)) / 2


# Positions, embedding and pooling.


def sinusoids_in_float32(positions: Array, size: int, base: float) -> Array:
    """Compute frequencies, angles, sines and cosines in float32."""
    frequencies = np.exp(np.arange(0, size, 2, dtype=np.float32) * np.float32(-math.log(base) / size))
    angles = positions.astype(np.float32)[:, None] * frequencies
    rows = np.zeros((positions.size, size), np.float32)
    rows[:, ::2], rows[:, 1::2] = np.sin(angles), np.cos(angles)
    return rows


def turn_by_complex_numbers(array: Array, positions: Array, rotary: Any) -> Array:
    """Multiply pairs, as complex numbers, by e^(iφ)."""
    size = array.shape[-1] if rotary.rotary_dim is None else rotary.rotary_dim
    angles = layer_steps.angles(positions, size, rotary.base)
    angles = angles[..., None, :, :] if angles.ndim > 2 else angles
    pairs = array[..., :size]
    is_split = rotary.pairing == "half_split"
    real, imaginary = np.split(pairs, 2, axis=-1) if is_split else (pairs[..., ::2], pairs[..., 1::2])
    turned = (real + 1j * imaginary) * np.exp(1j * angles)
    parts = turned.real, turned.imag
    joined = np.concatenate(parts, axis=-1) if is_split else np.stack(parts, axis=-1).reshape(pairs.shape)
    return np.concatenate([joined.astype(array.dtype), array[..., size:]], axis=-1)


def embed_by_selection(inputs: Array, parameters: LinearParameters) -> Array:
    """Sum the rows of the weight over one-hot ids."""
    if inputs.dtype.kind not in "iu":
        return layer_steps.embed(inputs, parameters)
    is_own = inputs[..., None] == np.arange(parameters.weight.shape[0])
    rows = np.where(is_own[..., None], parameters.weight, 0).sum(axis=-2)
    return rows if parameters.bias is None else rows + parameters.bias


def pool_by_product(inputs: Array, valid: Array) -> Array:
    """Multiply by shares that sum to 1."""
    count = np.maximum(valid.sum(axis=-1, keepdims=True), 1).astype(inputs.dtype)
    shares = valid.astype(inputs.dtype) / count
    return (shares[..., None, :] @ np.where(valid[..., None], inputs, 0))[..., 0, :]


# Recurrence and caches.


def cell_of_reversed_positions(
    steps: Steps,
    inputs: Array,
    state: CellState,
    parameters: GatedAttentionCellParameters,
    *,
    valid: Any = None,
    dropout: Any = None,
) -> CellResult:
    """Read the sequence from its end: the cell does not know the order."""
    valid = None if valid is None else valid[..., ::-1]
    dropout = None if dropout is None else Dropout(dropout.rate, dropout.keep[..., ::-1, :])
    return gated_attention_cell(steps, inputs[..., ::-1, :], state, parameters, valid=valid, dropout=dropout)


_BY_PLACE = ("mask", "bias", "dropout")
"""Options that say something of all new positions or all places, and so keep a call in one piece."""


def cached_one_by_one(
    steps: Steps, inputs: Array, parameters: MultiHeadParameters, cache: KeyValueCache, **options: Any
) -> CachedAttention:
    """Add the new positions one by one."""
    if any(options.get(name) is not None for name in _BY_PLACE):
        return cached_multi_head_attention(steps, inputs, parameters, cache, **options)
    outputs = []
    for i in range(inputs.shape[-2]):
        output, cache = cached_multi_head_attention(steps, inputs[..., i : i + 1, :], parameters, cache, **options)
        outputs.append(output)
    return CachedAttention(np.concatenate(outputs, axis=-2), cache)


def cached_without_room(
    steps: Steps, inputs: Array, parameters: MultiHeadParameters, cache: KeyValueCache, **options: Any
) -> CachedAttention:
    """Attend over what is filled alone, as caches do that grow."""
    if any(options.get(name) is not None for name in _BY_PLACE):
        return cached_multi_head_attention(steps, inputs, parameters, cache, **options)
    end = int(cache.length) + inputs.shape[-2]
    filled = cache._replace(key=cache.key[..., :end, :], value=cache.value[..., :end, :])
    output, grown = cached_multi_head_attention(steps, inputs, parameters, filled, **options)
    key = np.concatenate([grown.key, cache.key[..., end:, :]], axis=-2)
    value = np.concatenate([grown.value, cache.value[..., end:, :]], axis=-2)
    return CachedAttention(output, KeyValueCache(key, value, end))


# Half precision.


def _stored(dtype: Any) -> Steps:
    """Store what every step gives in a half precision."""

    def store(step: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: map_leaves(_rounded, step(*arguments))

    def _rounded(leaf: Any) -> Any:
        is_floating = isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"
        return leaf.astype(dtype).astype(leaf.dtype) if is_floating else leaf

    plain = Steps()
    return Steps(plain.accumulation, *(store(step) for step in plain[1:]))


def layer_variants() -> tuple[LayerVariant, ...]:
    """Return every correct variant."""
    others = Steps(
        additive_scores=additive_unit_by_unit, unit_vectors=unit_vectors_in_float64, hard_weights=hard_by_division
    )
    by_head = Steps(scaled_scores=scores_head_by_head, weighted_values=implementations.isolated(values_head_by_head))
    plain = {
        "plain": Steps(),
        "fused-projections": Steps(project=fused_projections),
        "rows-one-by-one": Steps(linear=rows_one_by_one),
        "split-sums": Steps(linear=split_sums),
        "head-by-head": by_head,
        "scale-on-query": Steps(scaled_scores=scale_on_query),
        "exp2-softmax": Steps(softmax=exp2_softmax),
        "online-softmax": Steps(softmax=online_softmax(3)),
        "other-similarities": others,
        "norm-by-reciprocal": Steps(layer_norm=norm_by_reciprocal),
        "norm-in-blocks": Steps(layer_norm=norm_in_blocks),
        "activations-by-shares": Steps(activate=activate_by_shares, sigmoid=sigmoid_in_branches),
        "sigmoid-by-tanh": Steps(sigmoid=sigmoid_by_tanh),
        "complex-turns": Steps(turn=turn_by_complex_numbers),
        "selections-and-products": Steps(embed=embed_by_selection, pool=pool_by_product),
        "float64-inside": Steps(accumulation=lambda _: np.dtype(np.float64)),
    }
    below = {
        "norm-by-moments-in-float64": Steps(layer_norm=norm_by_moments_in_float64),
        "sinusoids-in-float32": Steps(sinusoids=sinusoids_in_float32),
    }
    bodies: dict[str, dict[str, Callable[..., Any]]] = {
        "cell-reversed": {"gated_attention_cell": cell_of_reversed_positions},
        "cache-one-by-one": {"cached_multi_head_attention": cached_one_by_one},
        "cache-without-room": {"cached_multi_head_attention": cached_without_room},
    }
    return (
        *(LayerVariant(name, build(steps), DEFAULT) for name, steps in plain.items()),
        *(LayerVariant(name, build(steps), BELOW_FLOAT64) for name, steps in below.items()),
        *(LayerVariant(name, build(**replaced), DEFAULT) for name, replaced in bodies.items()),
        LayerVariant("stored-bfloat16", build(_stored(ml_dtypes.bfloat16)), {"bfloat16": "bf16_eager"}),
        LayerVariant("stored-float16", build(_stored(np.float16)), {"float16": "fp16_eager"}),
    )

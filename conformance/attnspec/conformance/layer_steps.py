"""The steps of the layers as somebody else might write them: what variants and faults replace.

All are plain functions over arrays of one dtype. They share no code with the reference.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    AdditiveParameters,
    GatedAttentionCellParameters,
    LayerNormParameters,
    LinearParameters,
)
from attnspec.contract.layer_results import KeyValueCache
from attnspec.contract.masks import Mask, as_mask
from attnspec.contract.positional_masks import causal

from . import implementations
from .implementations import softmax

Array: TypeAlias = np.ndarray[Any, Any]


def linear(inputs: Array, weight: Array, bias: Array | None) -> Array:
    """Compute x W + b; a position that is not finite is NaN."""
    outputs = inputs @ weight
    outputs = outputs if bias is None else outputs + bias
    return np.where(np.isfinite(inputs).all(axis=-1, keepdims=True), outputs, np.nan)


def project(
    inputs: tuple[Array, ...],
    weights: tuple[Array, ...],
    biases: tuple[Array | None, ...],
    linear: Callable[..., Array],
) -> list[Array]:
    """Project queries, keys and values, each by its own map."""
    return [linear(*each) for each in zip(inputs, weights, biases, strict=True)]


def split_heads(array: Array, heads: int) -> Array:
    """(*B, T, H·D) → (*B, H, T, D)."""
    return np.moveaxis(array.reshape(*array.shape[:-1], heads, -1), -2, -3)


def merge_heads(array: Array) -> Array:
    """(*B, H, T, D) → (*B, T, H·D)."""
    return np.concatenate([array[..., h, :, :] for h in range(array.shape[-3])], axis=-1)


def angles(positions: Array, size: int, base: float) -> Array:
    """Compute p · base^(−2c/size) for c = 0 … size/2 − 1."""
    return positions[..., None] * base ** (-np.arange(0, size, 2) / size)


def turn(array: Array, positions: Array, rotary: Any) -> Array:
    """Turn heads (*B, H, T, D) as at positions (T,) or (*B, T)."""
    size = array.shape[-1] if rotary.rotary_dim is None else rotary.rotary_dim
    turns = angles(positions, size, rotary.base)
    turns = turns[..., None, :, :] if turns.ndim > 2 else turns
    cosine, sine = np.cos(turns).astype(array.dtype), np.sin(turns).astype(array.dtype)
    pairs, rest = array[..., :size], array[..., size:]
    if rotary.pairing == "half_split":
        a, b = np.split(pairs, 2, axis=-1)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)
    a, b = pairs[..., ::2], pairs[..., 1::2]
    turned = np.stack([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    return np.concatenate([turned.reshape(pairs.shape), rest], axis=-1)


def turn_heads(query: Array, key: Array, rotary: Any, turn: Callable[..., Array]) -> tuple[Array, Array]:
    """Turn query i as at i + offset and key j as at j."""
    if rotary is None:
        return query, key
    queries, keys = query.shape[-2], key.shape[-2]
    offset = keys - queries if isinstance(rotary.offset, str) else rotary.offset
    places = np.arange(queries) + np.asarray(0 if offset is None else offset)[..., None]
    return turn(query, places, rotary), turn(key, np.arange(keys), rotary)


def turn_new(query: Array, key: Array, start: int, rotary: Any, turn: Callable[..., Array]) -> tuple[Array, Array]:
    """Turn new positions of a cache, which stand at start, start + 1, …"""
    if rotary is None:
        return query, key
    places = start + np.arange(query.shape[-2])
    return turn(query, places, rotary), turn(key, places, rotary)


def visible_to_new(start: int, new: int) -> Mask:
    """Show each new position of a cache what it holds, and the new ones up to itself."""
    del new
    return causal(start)


def choose(ranked: Array, visible: Array, top_k: int) -> Array:
    """Say which are the top_k largest visible numbers of each row, the first of equal ones."""
    ranked = np.where(visible, np.where(np.isnan(ranked), np.inf, ranked), -np.inf)
    order = np.argsort(-ranked, axis=-1, kind="stable")
    chosen = np.argsort(order, axis=-1) < top_k
    return chosen & (ranked > -np.inf)


def hard_weights(logits: Array, chosen: Array) -> Array:
    """Normalise over the chosen keys alone."""
    return softmax(np.where(chosen, logits, -np.inf))


def additive_scores(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Compute w · tanh(q W_q + k W_k + b) for every pair."""
    query = query if parameters.query_weight is None else linear(query, parameters.query_weight, None)
    key = key if parameters.key_weight is None else linear(key, parameters.key_weight, None)
    hidden = query[..., :, None, :] + key[..., None, :, :]
    hidden = hidden if parameters.hidden_bias is None else hidden + parameters.hidden_bias
    return np.where(np.isfinite(hidden).all(axis=-1), np.tanh(hidden) @ parameters.score_weight, np.nan)


def unit_vectors(array: Array) -> Array:
    """Divide vectors by their length; 0 stays 0."""
    largest = np.abs(array).max(axis=-1, keepdims=True, initial=0)
    array = array / np.where(largest == 0, 1, largest)  # squares of small and of large numbers leave the range
    length = np.sqrt((array * array).sum(axis=-1, keepdims=True))
    return array / np.where(length == 0, 1, length)


def sigmoid(array: Array) -> Array:
    """Compute 1 / (1 + exp(−z)); exp may overflow, and 1/∞ is the 0 that is meant."""
    return 1 / (1 + np.exp(-array))


def unit_mixture(weights: Array, units: Array, bias: Array) -> Array:
    """Compute Σ_k α^k ⊙ (units + b)."""
    return weights.sum(axis=-3) * (units + bias)


def cell_pool(inputs: Array, parameters: GatedAttentionCellParameters, gate: Callable[[Array], Array]) -> Array:
    """Multiply every head's slice of the inputs by its gate: (*B, K, T, n)."""
    pools = []
    for k, (weight, bias) in enumerate(zip(parameters.gate_weight, parameters.gate_bias, strict=True)):
        size = weight.shape[-1]
        pools.append(gate(inputs @ weight + bias) * inputs[..., k * size : (k + 1) * size])
    return np.stack(pools, axis=-3)


def cell_mean(inputs: Array, valid: Array) -> Array:
    """Average inputs that are 0 where they are not valid: (*B, 1, D)."""
    return inputs.sum(axis=-2, keepdims=True) / np.maximum(valid.sum(axis=-1), 1)[..., None, None].astype(inputs.dtype)


def cell_scores(inputs: Array, mean: Array, output: Array, parameters: GatedAttentionCellParameters) -> Array:
    """Compute q · tanh(x W_x + x̄ W_m + y W_y + θ_j) / √d: (*B, T, n)."""
    rows = inputs @ parameters.input_score_weight + mean @ parameters.mean_score_weight
    rows = rows + output @ parameters.output_score_weight
    hidden = np.tanh(rows[..., :, None, :] + parameters.unit_bias)
    return hidden @ parameters.score_weight / np.sqrt(parameters.score_weight.size).astype(inputs.dtype)


def cell_distribution(scores: Array, valid: Array) -> Array:
    """Normalise over the valid positions."""
    return softmax(np.where(valid[..., None], scores, -np.inf).mT).mT


def cell_control(
    inputs: Array, output: Array, parameters: GatedAttentionCellParameters, gate: Callable[[Array], Array]
) -> Array:
    """Compute σ(x W_s + y W_sy + b_s): (*B, T, K)."""
    own = inputs @ parameters.control_weight + output @ parameters.control_recurrent_weight
    return gate(own + parameters.control_bias)


def cell_memory(memory: Array, control: Array, parts: Array) -> Array:
    """Add what the control gate lets pass to the memory: (*B, 1, D)."""
    return memory + merge_heads((control.mT[..., None] * parts).sum(axis=-2, keepdims=True))


def layer_norm(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Compute (x − μ) / √(σ² + ε) · w + b."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + inputs.dtype.type(epsilon))
    outputs = normal * parameters.weight
    return outputs if parameters.bias is None else outputs + parameters.bias


def relu(array: Array) -> Array:
    """Compute max(z, 0)."""
    return np.maximum(array, 0)


def gelu(array: Array) -> Array:
    """Compute z (1 + erf(z/√2)) / 2."""
    return array * (1 + _erf(array / np.sqrt(2).astype(array.dtype)).astype(array.dtype)) / 2


_erf = np.frompyfunc(math.erf, 1, 1)


def gelu_tanh(array: Array) -> Array:
    """Compute z (1 + tanh(√(2/π) (z + 0.044715 z³))) / 2."""
    factor, cubic = array.dtype.type(np.sqrt(2 / np.pi)), array.dtype.type(0.044715)
    return array * (1 + np.tanh(factor * (array + cubic * array**3))) / 2


def silu(array: Array) -> Array:
    """Compute z σ(z)."""
    return array * sigmoid(array)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": np.tanh,
}


def activate(array: Array, activation: str) -> Array:
    """Apply an activation."""
    return np.where(np.isfinite(array), ACTIVATIONS[activation](array), np.nan)


class Residual(NamedTuple):
    """What surrounds the parts of a layer."""

    norm: str
    epsilon: float
    layer_norm: Callable[..., Array]
    drop: Callable[..., Array]

    def before(self, inputs: Array, parameters: LayerNormParameters) -> Array:
        """Normalise what a part reads, where the normalisation comes first."""
        return self.layer_norm(inputs, parameters, self.epsilon) if self.norm == "pre" else inputs

    def after(self, outputs: Array, parameters: LayerNormParameters) -> Array:
        """Normalise the sum, where the normalisation comes last."""
        return self.layer_norm(outputs, parameters, self.epsilon) if self.norm == "post" else outputs


def residual(
    inputs: Array, part: Callable[[Array], Array], parameters: LayerNormParameters, dropout: Any, around: Residual
) -> Array:
    """Compute norm(x + drop(f(x))), or x + drop(f(norm(x)))."""
    return around.after(inputs + around.drop(part(around.before(inputs, parameters)), dropout), parameters)


def embed(inputs: Array, parameters: LinearParameters) -> Array:
    """Take the rows of ids, or project vectors, and add the bias."""
    if inputs.dtype.kind not in "iu":
        return linear(inputs, parameters.weight, parameters.bias)
    rows = parameters.weight[inputs]
    return rows if parameters.bias is None else rows + parameters.bias


def sinusoids(positions: Array, size: int, base: float) -> Array:
    """Compute sine and cosine in turn: (T, size)."""
    turns = angles(positions, size, base)
    return np.stack([np.sin(turns), np.cos(turns)], axis=-1).reshape(positions.size, size)


def table_rows(table: Array, start: int, length: int) -> Array:
    """Take the rows of a table of positions."""
    return table[start : start + length]


def pool(inputs: Array, valid: Array) -> Array:
    """Average over the valid positions; 0 where there is none."""
    total = np.where(valid[..., None], inputs, 0).sum(axis=-2)
    return total / np.maximum(valid.sum(axis=-1), 1)[..., None].astype(inputs.dtype)


def valid_keys(mask: Any, valid: Array | None) -> Any:
    """Hide the keys that are not valid, beside what a mask hides."""
    if valid is None:
        return mask
    keys = as_mask(valid[..., None, None, :])
    return keys if mask is None else as_mask(mask) & keys


def source_masks(valid: Array | None) -> tuple[Any, Any]:
    """Hide the padding of a source: from the encoder, and from the decoder that reads what it says."""
    return valid_keys(None, valid), valid_keys(None, valid)


def append(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Write new keys and values behind those that a cache holds."""
    filled, end = int(cache.length), int(cache.length) + key.shape[-2]
    new_key, new_value = cache.key.copy(), cache.value.copy()
    new_key[..., filled:end, :], new_value[..., filled:end, :] = key, value
    return KeyValueCache(new_key, new_value, end)


class Steps(NamedTuple):
    """The steps of all layers; a fault replaces one of them, a variant computes some in another way."""

    accumulation: Callable[[Any], Any] = implementations.widened
    """The dtype to compute in, from the inputs'."""
    linear: Callable[..., Array] = linear
    project: Callable[..., list[Array]] = project
    split_heads: Callable[..., Array] = split_heads
    merge_heads: Callable[..., Array] = merge_heads
    repeat_heads: Callable[..., Array] = implementations.repeat_heads
    turn: Callable[..., Array] = turn
    turn_heads: Callable[..., tuple[Array, Array]] = turn_heads
    turn_new: Callable[..., tuple[Array, Array]] = turn_new
    visible_to_new: Callable[[int, int], Mask] = visible_to_new
    scaled_scores: Callable[..., Array] = implementations.scaled_scores
    masked_logits: Callable[..., Array] = implementations.masked_logits
    softmax: Callable[..., Array] = softmax
    drop: Callable[..., Array] = implementations.drop
    weighted_values: Callable[..., Array] = implementations.weighted_values
    choose: Callable[..., Array] = choose
    hard_weights: Callable[..., Array] = hard_weights
    additive_scores: Callable[..., Array] = additive_scores
    unit_vectors: Callable[..., Array] = unit_vectors
    sigmoid: Callable[..., Array] = sigmoid
    unit_mixture: Callable[..., Array] = unit_mixture
    cell_pool: Callable[..., Array] = cell_pool
    cell_mean: Callable[..., Array] = cell_mean
    cell_scores: Callable[..., Array] = cell_scores
    cell_distribution: Callable[..., Array] = cell_distribution
    cell_control: Callable[..., Array] = cell_control
    cell_memory: Callable[..., Array] = cell_memory
    layer_norm: Callable[..., Array] = layer_norm
    activate: Callable[..., Array] = activate
    residual: Callable[..., Array] = residual
    embed: Callable[..., Array] = embed
    sinusoids: Callable[..., Array] = sinusoids
    table_rows: Callable[..., Array] = table_rows
    pool: Callable[..., Array] = pool
    source_masks: Callable[..., tuple[Any, Any]] = source_masks
    append: Callable[..., KeyValueCache] = append

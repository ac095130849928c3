"""Faults of hard attention, and of attention by other similarities than the dot product."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import AdditiveParameters

from . import layer_steps
from .faulty_heads import inverted, softmax_over_queries
from .implementations import softmax
from .layer_attentions import (
    additive_attention,
    bilinear_attention,
    cosine_attention,
    hard_attention,
)
from .layer_steps import Steps, linear
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]

planting = Planting()
planted = planting.step


# Hard attention.

_HARD = "hard_attention"
_TIES = "equal logits at the edge of the choice"


@planted("choose", _HARD, "S20", _TIES, "the end of an ascending sort")
def ties_to_last(ranked: Array, visible: Array, top_k: int) -> Array:
    """Choose the last of equal logits."""
    return layer_steps.choose(ranked[..., ::-1], visible[..., ::-1], top_k)[..., ::-1]


@planted("choose", _HARD, "S20", _TIES, ISSUES + "vllm-project/vllm/pull/50979")
def ties_all_chosen(ranked: Array, visible: Array, top_k: int) -> Array:
    """Choose everything that is not below the least of the best."""
    chosen = layer_steps.choose(ranked, visible, top_k)
    return visible & (ranked >= np.where(chosen, ranked, np.inf).min(axis=-1, keepdims=True))


@planted("choose", _HARD, "S20", "a mask that hides good keys", "the choice is made before the mask")
def hidden_keys_chosen(ranked: Array, visible: Array, top_k: int) -> Array:
    """Let hidden keys take places among the chosen."""
    best = np.where(visible, ranked, np.inf)  # what is hidden looks better than everything
    return visible & layer_steps.choose(best, np.ones_like(visible), top_k)


@planted("choose", _HARD, "S20", "more visible keys than top_k", "k counts from 0")
def one_too_many(ranked: Array, visible: Array, top_k: int) -> Array:
    """Choose one key more."""
    return layer_steps.choose(ranked, visible, top_k + 1)


@planted("hard_weights", _HARD, "S20", "more visible keys than top_k", "the softmax stands before the choice")
def not_renormalised(logits: Array, chosen: Array) -> Array:
    """Keep the weights of soft attention."""
    return np.where(chosen, softmax(logits), 0)


@planted("hard_weights", _HARD, "S20", "top_k above 1", "a one-hot row for each chosen key")
def equal_weights(logits: Array, chosen: Array) -> Array:
    """Average the chosen values."""
    del logits
    return chosen / np.maximum(chosen.sum(axis=-1, keepdims=True), 1)


@planting.body(_HARD, "S20", "noise, top_k above 1", "the Gumbel softmax, which is relaxed")
def noise_in_weights(
    steps: Steps, query: Array, key: Array, value: Array, *, noise: Any = None, bias: Any = None, **options: Any
) -> Array:
    """Weigh by the logits with the noise."""
    both = noise if bias is None or noise is None else bias + noise
    return hard_attention(steps, query, key, value, bias=bias if noise is None else both, **options)


@planting.body(_HARD, "S20", "noise", "a deterministic path of a sampler")
def noise_ignored(steps: Steps, *tensors: Array, noise: Any = None, **options: Any) -> Array:
    """Accept noise and forget it."""
    del noise
    return hard_attention(steps, *tensors, **options)


# Additive attention.

_ADDITIVE = "additive_attention"


@planted(
    "additive_scores", _ADDITIVE, "S23", "always", "the activation is left out: the query falls out of the softmax"
)
def without_tanh(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Add query and key linearly."""
    return _scores(query, key, parameters, lambda hidden: hidden)


@planted("additive_scores", _ADDITIVE, "S23", "always", ISSUES + "keon/seq2seq/issues/28")
def relu_for_tanh(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Take another activation."""
    return _scores(query, key, parameters, layer_steps.relu)


@planted(
    "additive_scores",
    _ADDITIVE,
    "S23",
    "score_weight that is not all ones",
    ISSUES + "tensorflow/tensorflow/issues/39332",
)
def score_weight_ignored(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Sum the hidden units."""
    ones = np.ones_like(parameters.score_weight)
    return layer_steps.additive_scores(query, key, parameters._replace(score_weight=ones))


@planted("additive_scores", _ADDITIVE, "S23", "a hidden bias", "projections without biases")
def hidden_bias_ignored(query: Array, key: Array, parameters: AdditiveParameters) -> Array:
    """Accept a bias inside the tanh and forget it."""
    return layer_steps.additive_scores(query, key, parameters._replace(hidden_bias=None))


@planting.body(_ADDITIVE, "S23", "no scale", "the default of scaled dot products")
def scaled_by_hidden_size(
    steps: Steps, query: Array, key: Array, value: Array, parameters: AdditiveParameters, **options: Any
) -> Array:
    """Scale by 1/√A."""
    scale = {"scale": 1 / np.sqrt(parameters.score_weight.size)}
    return additive_attention(steps, query, key, value, parameters, **scale | options)


def _scores(query: Array, key: Array, parameters: AdditiveParameters, activation: Any) -> Array:
    query = query if parameters.query_weight is None else linear(query, parameters.query_weight, None)
    key = key if parameters.key_weight is None else linear(key, parameters.key_weight, None)
    hidden = query[..., :, None, :] + key[..., None, :, :]
    hidden = hidden if parameters.hidden_bias is None else hidden + parameters.hidden_bias
    return activation(hidden) @ parameters.score_weight


# Bilinear attention.

_BILINEAR = "bilinear_attention"


@planting.body(_BILINEAR, "S24", "Dq = Dk", ISSUES + "A-Jacobson/minimal-nmt/issues/1")
def weight_transposed(steps: Steps, query: Array, key: Array, value: Array, weight: Array, **options: Any) -> Array:
    """Multiply the query by the transpose, where it fits."""
    turned = weight.mT if weight.shape[0] == weight.shape[1] else weight
    return bilinear_attention(steps, query, key, value, turned, **options)


@planting.body(_BILINEAR, "S24", "no scale", "the default of scaled dot products")
def scaled_by_key_size(steps: Steps, query: Array, key: Array, *rest: Array, **options: Any) -> Array:
    """Scale by 1/√Dk."""
    return bilinear_attention(steps, query, key, *rest, **{"scale": 1 / np.sqrt(key.shape[-1])} | options)


@planting.body(_BILINEAR, "S24", "always", "an activation that belongs to another score")
def query_through_tanh(steps: Steps, query: Array, key: Array, value: Array, weight: Array, **options: Any) -> Array:
    """Apply tanh to the projected query."""

    def bounded(inputs: Array, weight: Array, bias: Array | None) -> Array:
        return np.tanh(linear(inputs, weight, bias))

    return bilinear_attention(steps._replace(linear=bounded), query, key, value, weight, **options)


@planting.body(_BILINEAR, "S6", "a mask", ISSUES + "NVIDIA/TransformerEngine/issues/614")
def mask_inverted(steps: Steps, *tensors: Array, mask: Any = None, **options: Any) -> Array:
    """Read True as hidden."""
    return bilinear_attention(steps, *tensors, mask=inverted(mask), **options)


planted("softmax", _BILINEAR, "S24", "more than one query", ISSUES + "FudanNLP/fastNLP/issues/254")(
    softmax_over_queries
)


# Cosine attention.

_COSINE = "cosine_attention"


@planted("unit_vectors", _COSINE, "S25", "a zero vector", "0/0")
def nan_on_zero(array: Array) -> Array:
    """Divide a zero vector by its length."""
    return array / np.sqrt((array * array).sum(axis=-1, keepdims=True))


@planted("unit_vectors", _COSINE, "S25", "more than one position", ISSUES + "EPFL-VILAB/omnidata/issues/47")
def normalised_over_positions(array: Array) -> Array:
    """Normalise axis 1, the default of a library, which is that of the positions."""
    return layer_steps.unit_vectors(array.mT).mT


@planted("unit_vectors", _COSINE, "S25", "vectors that are not of length 1", "a root that is left out")
def squared_length(array: Array) -> Array:
    """Divide by the square of the length."""
    square = (array * array).sum(axis=-1, keepdims=True)
    return array / np.where(square == 0, 1, square)


@planted("unit_vectors", _COSINE, "S25", "short vectors", "an epsilon that is added to the length")
def epsilon_on_length(array: Array) -> Array:
    """Divide by the length and 0.01."""
    return array / (np.sqrt((array * array).sum(axis=-1, keepdims=True)) + array.dtype.type(0.01))


@planting.body(_COSINE, "S25", "no scale", "the default of scaled dot products")
def scaled_by_size(steps: Steps, query: Array, *rest: Array, **options: Any) -> Array:
    """Scale by 1/√Dk."""
    return cosine_attention(steps, query, *rest, **{"scale": 1 / np.sqrt(query.shape[-1])} | options)


@planting.body(_COSINE, "S25", "queries that are not of length 1", "a memory that is normalised once, in advance")
def queries_not_normalised(steps: Steps, query: Array, key: Array, value: Array, **options: Any) -> Array:
    """Normalise the keys alone."""
    key = layer_steps.unit_vectors(key)
    return cosine_attention(steps._replace(unit_vectors=lambda array: array), query, key, value, **options)

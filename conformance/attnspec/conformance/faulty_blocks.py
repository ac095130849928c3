"""Faults of layer normalisation, feed-forward and encoder layers."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    EncoderLayerParameters,
    FeedForwardParameters,
    LayerNormParameters,
)
from attnspec.contract.layer_results import EncoderLayerDropout

from . import implementations, layer_steps
from .faulty_heads import inverted, merge_without_transpose, split_without_transpose
from .layer_blocks import encoder_layer, feed_forward, layer_norm
from .layer_steps import Residual, Steps
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]
Part: TypeAlias = Callable[[Array], Array]

planting = Planting()
planted = planting.step


# Layer normalisation.

_NORM = "layer_norm"


def _normalised(centred: Array, spread: Array, parameters: LayerNormParameters) -> Array:
    outputs = centred / spread * parameters.weight
    return outputs if parameters.bias is None else outputs + parameters.bias


@planted(_NORM, _NORM, "S29", "always", ISSUES + "harvardnlp/annotated-transformer/pull/119")
def unbiased_variance(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Divide the squares by E − 1."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = (centred**2).sum(axis=-1, keepdims=True) / inputs.dtype.type(inputs.shape[-1] - 1)
    return _normalised(centred, np.sqrt(variance + inputs.dtype.type(epsilon)), parameters)


@planted(_NORM, _NORM, "S29", "a small variance, or a large epsilon", ISSUES + "tracel-ai/burn/issues/2185")
def epsilon_outside_root(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Divide by √σ² + ε."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True)) + inputs.dtype.type(epsilon)
    return _normalised(centred, spread, parameters)


@planted(_NORM, _NORM, "S29", "a mean far from 0, less than float64", ISSUES + "pytorch/pytorch/issues/51102")
def cancelling_variance(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Compute the variance as E[x²] − E[x]², in the precision of the inputs."""
    mean = inputs.mean(axis=-1, keepdims=True)
    variance = np.maximum((inputs**2).mean(axis=-1, keepdims=True) - mean**2, 0)
    return _normalised(inputs - mean, np.sqrt(variance + inputs.dtype.type(epsilon)), parameters)


@planted(_NORM, _NORM, "S29", "more than one position", "a normalisation over all axes but the batch's")
def statistics_of_sequence(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Take mean and variance over positions and components."""
    centred = inputs - inputs.mean(axis=(-2, -1), keepdims=True)
    variance = (centred**2).mean(axis=(-2, -1), keepdims=True)
    return _normalised(centred, np.sqrt(variance + inputs.dtype.type(epsilon)), parameters)


@planted(_NORM, _NORM, "S29", "a mean that is not 0", "RMSNorm in its place")
def mean_kept(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Divide by the root of the mean square."""
    square = (inputs**2).mean(axis=-1, keepdims=True)
    return _normalised(inputs, np.sqrt(square + inputs.dtype.type(epsilon)), parameters)


@planting.body(_NORM, "S29", "an epsilon that is not the default", ISSUES + "keras-team/keras-hub/pull/665")
def epsilon_ignored(steps: Steps, inputs: Array, parameters: LayerNormParameters, *, epsilon: float = 1e-5) -> Array:
    """Accept an epsilon and take 0.00001."""
    del epsilon
    return layer_norm(steps, inputs, parameters)


@planting.body(_NORM, "S29", "always", "weights that are stored around 0")
def weight_around_zero(steps: Steps, inputs: Array, parameters: LayerNormParameters, **options: Any) -> Array:
    """Multiply by 1 + weight."""
    return layer_norm(steps, inputs, parameters._replace(weight=1 + parameters.weight), **options)


# Feed-forward.

_FEED = "feed_forward"


@planted("activate", _FEED, "S30", "gelu", ISSUES + "chelsea0x3b/dfdx/issues/804")
def gelu_by_tanh(array: Array, activation: str) -> Array:
    """Take the approximation for the exact function."""
    return layer_steps.activate(array, "gelu_tanh" if activation == "gelu" else activation)


@planted("activate", _FEED, "S30", "gelu_tanh", ISSUES + "kyutai-labs/pocket-tts/pull/278")
def gelu_tanh_by_erf(array: Array, activation: str) -> Array:
    """Take the exact function for the approximation."""
    return layer_steps.activate(array, "gelu" if activation == "gelu_tanh" else activation)


@planted("activate", _FEED, "S30", "an activation that is not relu", ISSUES + "timeseriesAI/tsai/issues/361")
def always_relu(array: Array, activation: str) -> Array:
    """Accept an activation and take relu."""
    del activation
    return layer_steps.relu(array)


@planted("activate", _FEED, "S30", "silu", "a gate without what it gates")
def sigmoid_for_silu(array: Array, activation: str) -> Array:
    """Forget the factor z of z σ(z)."""
    return layer_steps.sigmoid(array) if activation == "silu" else layer_steps.activate(array, activation)


@planted("drop", _FEED, "S14", "a dropout", "what is kept is not scaled up")
def dropout_unscaled(array: Array, dropout: Any) -> Array:
    """Drop, and do not scale up the rest."""
    return array if dropout is None else np.where(dropout.keep, array, 0)


@planting.body(_FEED, "S30", "a hidden bias", "the bias of a fused product is added last")
def bias_after_activation(
    steps: Steps, inputs: Array, parameters: FeedForwardParameters, *, activation: str = "relu", dropout: Any = None
) -> Array:
    """Add the hidden bias to what is activated."""
    bias = 0 if parameters.hidden_bias is None else parameters.hidden_bias
    late = steps._replace(activate=lambda array, name: steps.activate(array, name) + bias)
    without = parameters._replace(hidden_bias=None)
    return feed_forward(late, inputs, without, activation=activation, dropout=dropout)


# Encoder layers.

_LAYER = "encoder_layer"
_PRE, _POST = 'norm="pre"', 'norm="post"'

planted("split_heads", _LAYER, "S31", "more than one head", ISSUES + "reczoo/FuxiCTR/issues/30")(
    split_without_transpose
)
planted("merge_heads", _LAYER, "S31", "more than one head", ISSUES + "chelsea0x3b/dfdx/issues/158")(
    merge_without_transpose
)


@planted("residual", _LAYER, "S31", "always", ISSUES + "harvardnlp/annotated-transformer/issues/13")
def norm_placement(inputs: Array, part: Part, parameters: LayerNormParameters, dropout: Any, around: Residual) -> Array:
    """Normalise before the part for after it, and after for before."""
    other = around._replace(norm="pre" if around.norm == "post" else "post")
    return layer_steps.residual(inputs, part, parameters, dropout, other)


@planted("residual", _LAYER, "S31", _PRE, ISSUES + "pytorch/pytorch/issues/61165")
def residual_of_normalised(
    inputs: Array, part: Part, parameters: LayerNormParameters, dropout: Any, around: Residual
) -> Array:
    """Add the normalised inputs instead of the inputs."""
    source = around.before(inputs, parameters)
    return around.after(source + around.drop(part(source), dropout), parameters)


@planted("residual", _LAYER, "S31", "always", "a residual that is forgotten")
def residual_missing(
    inputs: Array, part: Part, parameters: LayerNormParameters, dropout: Any, around: Residual
) -> Array:
    """Add nothing."""
    return around.after(around.drop(part(around.before(inputs, parameters)), dropout), parameters)


@planted("residual", _LAYER, "S31", _POST, ISSUES + "keitakurita/Practical_NLP_in_PyTorch/issues/1")
def norm_before_sum(
    inputs: Array, part: Part, parameters: LayerNormParameters, dropout: Any, around: Residual
) -> Array:
    """Normalise the part instead of the sum."""
    return inputs + around.after(around.drop(part(around.before(inputs, parameters)), dropout), parameters)


@planted("residual", _LAYER, "S14", "a dropout beside the residual", "dropout of the sum")
def residual_dropped(
    inputs: Array, part: Part, parameters: LayerNormParameters, dropout: Any, around: Residual
) -> Array:
    """Drop the residual too."""
    return around.after(around.drop(inputs + part(around.before(inputs, parameters)), dropout), parameters)


@planting.body(_LAYER, "S31", "different normalisations", ISSUES + "allenai/OLMo/issues/222")
def norm_shared(steps: Steps, inputs: Array, parameters: EncoderLayerParameters, **options: Any) -> Array:
    """Use the normalisation of the attention for the feed-forward too."""
    shared = parameters._replace(feed_forward_norm=parameters.attention_norm)
    return encoder_layer(steps, inputs, shared, **options)


@planting.body(_LAYER, "S31", "always", ISSUES + "strutive07/transformer-tensorflow2.0/issues/14")
def second_residual_of_inputs(steps: Steps, inputs: Array, parameters: EncoderLayerParameters, **options: Any) -> Array:
    """Add the layer's inputs to the feed-forward, and not what the attention made of them."""

    def residual(x: Array, part: Part, norm: LayerNormParameters, dropout: Any, around: Residual) -> Array:
        return around.after(inputs + around.drop(part(around.before(x, norm)), dropout), norm)

    return encoder_layer(steps._replace(residual=residual), inputs, parameters, **options)


@planting.body(_LAYER, "S31", "a mask", ISSUES + "pytorch/examples/issues/649")
def mask_inverted(steps: Steps, *arguments: Any, mask: Any = None, **options: Any) -> Array:
    """Read True as hidden."""
    return encoder_layer(steps, *arguments, mask=inverted(mask), **options)


@planting.body(_LAYER, "S31", "more than one head", ISSUES + "lucidrains/vit-pytorch/issues/65")
def scale_of_model_size(steps: Steps, inputs: Array, *arguments: Any, **options: Any) -> Array:
    """Scale by the size of all heads together."""

    def scores(query: Array, key: Array, scale: float) -> Array:
        return implementations.scaled_scores(query, key, scale / np.sqrt(query.shape[-3]))

    return encoder_layer(steps._replace(scaled_scores=scores), inputs, *arguments, **options)


@planting.body(_LAYER, "S31", "no dropout", ISSUES + "meta-pytorch/torchtune/issues/1791")
def dropout_at_evaluation(
    steps: Steps, inputs: Array, parameters: EncoderLayerParameters, *, dropout: Any = None, **options: Any
) -> Array:
    """Drop a tenth of the attention's output where no dropout is asked for."""
    own = implementations.Dropping(np.asarray(np.random.default_rng(0).random(inputs.shape) > 0.1), 0.1)
    dropout = EncoderLayerDropout(attention=own) if dropout is None else dropout
    return encoder_layer(steps, inputs, parameters, dropout=dropout, **options)

"""The way back through layer normalisation, feed-forward, encoder and decoder: arrays in float64, arguments checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.biases import BiasArray
from attnspec.contract.blocks import BlockSettings, by_layer
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
)
from attnspec.contract.layer_results import DecoderLayerDropout, EncoderLayerDropout
from attnspec.contract.options import Given
from attnspec.contract.parameters import MultiHeadParameters

from .activations import activate, pull_activation
from .attention import is_finite_row
from .bias_gradients import sum_of_gradients, zero_gradient
from .blocks import (
    attention_over,
    cross_attend,
    drop,
    feed,
    is_normalisable,
    normalise,
    residual,
    run_decoder_layer,
    run_encoder_layer,
    self_attend,
    standardise,
)
from .projection_gradients import MultiHeadGradients, pull_multi_head, pull_projection
from .projections import project
from .tensors import Array


class LayerNormGradients(NamedTuple):
    """Gradients of `layer_norm`: (*B, E), and `LayerNormParameters` of gradients, None for a bias that is None."""

    inputs: Array
    parameters: LayerNormParameters


class FeedForwardGradients(NamedTuple):
    """Gradients of `feed_forward`: (*B, T, E), and `FeedForwardParameters` of gradients, None where they are None."""

    inputs: Array
    parameters: FeedForwardParameters


class EncoderGradients(NamedTuple):
    """Gradients of `encoder_layer` or `encoder`, each with the shape of what it belongs to, None where not given."""

    inputs: Array
    parameters: Any
    """A tree of the class of the caller's."""
    bias: Any


class DecoderGradients(NamedTuple):
    """Gradients of `decoder_layer` or `decoder`, each with the shape of what it belongs to, None where not given."""

    inputs: Array
    memory: Array
    parameters: Any
    """A tree of the class of the caller's."""
    bias: Any


def pull_normalise(
    inputs: Array, parameters: LayerNormParameters, epsilon: float, cotangent: Array
) -> LayerNormGradients:
    """Go back through a layer normalisation whose arguments are checked."""
    is_clean = is_normalisable(inputs)
    cotangent = np.where(is_clean, cotangent, 0.0)
    normal, spread = standardise(np.where(is_clean, inputs, 0.0), epsilon)
    scaled = cotangent * parameters.weight
    share = (scaled * normal).mean(axis=-1, keepdims=True)
    d_inputs = (scaled - scaled.mean(axis=-1, keepdims=True) - normal * share) / spread
    axes = tuple(range(inputs.ndim - 1))
    d_bias = None if parameters.bias is None else cotangent.sum(axis=axes)
    return LayerNormGradients(d_inputs, LayerNormParameters((cotangent * normal).sum(axis=axes), d_bias))


def pull_feed(
    inputs: Array, parameters: FeedForwardParameters, activation: str, dropout: Any, cotangent: Array
) -> FeedForwardGradients:
    """Go back through a feed-forward whose arguments are checked."""
    before = project(inputs, parameters.hidden_weight, parameters.hidden_bias)
    hidden = drop(activate(before, activation), dropout)
    d_hidden, d_output_weight, d_output_bias = pull_projection(hidden, parameters.output_weight, cotangent)
    d_before = pull_activation(before, activation, drop(d_hidden, dropout))
    d_inputs, d_hidden_weight, d_hidden_bias = pull_projection(inputs, parameters.hidden_weight, d_before)
    d_parameters = FeedForwardParameters(
        d_hidden_weight,
        d_output_weight,
        None if parameters.hidden_bias is None else d_hidden_bias,
        None if parameters.output_bias is None else d_output_bias,
    )
    return FeedForwardGradients(d_inputs, d_parameters)


def pull_self_attend(
    inputs: Array, parameters: MultiHeadParameters, settings: BlockSettings, dropout: Any, cotangent: Array
) -> EncoderGradients:
    """Go back through the attention of positions to one another."""
    given = settings.self_given(dropout)
    pulled = pull_attend_from(inputs, inputs, parameters, settings, given, settings.rotary, cotangent)
    return EncoderGradients(pulled.query + pulled.key + pulled.value, pulled.parameters, pulled.bias)


def pull_cross_attend(
    inputs: Array,
    memory: Array,
    parameters: MultiHeadParameters,
    settings: BlockSettings,
    dropout: Any,
    cotangent: Array,
) -> DecoderGradients:
    """Go back through the attention of positions to a memory."""
    given = settings.cross_given(dropout)
    pulled = pull_attend_from(inputs, memory, parameters, settings, given, None, cotangent)
    return DecoderGradients(pulled.query, pulled.key + pulled.value, pulled.parameters, None)


def pull_attend_from(
    query: Array,
    memory: Array,
    parameters: MultiHeadParameters,
    settings: BlockSettings,
    given: Given,
    rotary: Any,
    cotangent: Array,
) -> MultiHeadGradients:
    """Go back through an attention; a position that is not finite has no gradient, and gives none (S11)."""
    is_clean = is_finite_row(query)[..., None]
    clean, cotangent = np.where(is_clean, query, 0.0), np.where(is_clean, cotangent, 0.0)
    attention = attention_over(clean, memory, parameters, settings, given, rotary)
    pulled = pull_multi_head(clean, memory, memory, parameters, attention, rotary, cotangent)
    return pulled._replace(query=np.where(is_clean, pulled.query, 0.0))


class Part(NamedTuple):
    """What a layer adds to its residual."""

    function: Callable[[Array], Array]
    pull: Callable[[Array, Array], Any]
    """Its step back, from inputs and cotangent to gradients, one of which is called `inputs`."""
    norm: LayerNormParameters
    dropout: Any


class PulledPart(NamedTuple):
    """The gradients of a part of a layer, the residual included."""

    inputs: Array
    norm: LayerNormParameters
    function: Any
    """What `Part.pull` gave."""


def pull_residual(inputs: Array, part: Part, settings: BlockSettings, cotangent: Array) -> PulledPart:
    """Go back through norm(x + drop(f(x))), or x + drop(f(norm(x))) where the normalisation comes first."""
    if settings.norm == "post":
        added = inputs + drop(part.function(inputs), part.dropout)
        d_added, d_norm = pull_normalise(added, part.norm, settings.epsilon, cotangent)
        pulled = part.pull(inputs, drop(d_added, part.dropout))
        return PulledPart(d_added + pulled.inputs, d_norm, pulled)
    normal = normalise(inputs, part.norm, settings.epsilon)
    pulled = part.pull(normal, drop(cotangent, part.dropout))
    d_inputs, d_norm = pull_normalise(inputs, part.norm, settings.epsilon, pulled.inputs)
    return PulledPart(cotangent + d_inputs, d_norm, pulled)


def pull_parts(inputs: Array, parts: list[Part], settings: BlockSettings, cotangent: Array) -> list[PulledPart]:
    """Go back through the parts of a layer, last one first; the gradients are in the order of the parts."""
    states = [inputs]
    for part in parts[:-1]:
        states.append(residual(states[-1], part.norm, settings, part.function, part.dropout))
    pulled: list[PulledPart] = []
    for state, part in zip(reversed(states), reversed(parts), strict=True):
        pulled.insert(0, pull_residual(state, part, settings, cotangent))
        cotangent = pulled[0].inputs
    return pulled


def attention_part(
    parameters: EncoderLayerParameters | DecoderLayerParameters,
    settings: BlockSettings,
    dropout: EncoderLayerDropout | DecoderLayerDropout,
) -> Part:
    """Give the self-attention of a layer."""
    attention = parameters.attention
    return Part(
        lambda inputs: self_attend(inputs, attention, settings, dropout.weights),
        lambda inputs, cotangent: pull_self_attend(inputs, attention, settings, dropout.weights, cotangent),
        parameters.attention_norm,
        dropout.attention,
    )


def cross_attention_part(
    memory: Array, parameters: DecoderLayerParameters, settings: BlockSettings, dropout: DecoderLayerDropout
) -> Part:
    """Give the attention of a layer to the memory."""
    attention, weights = parameters.cross_attention, dropout.cross_weights
    return Part(
        lambda inputs: cross_attend(inputs, memory, attention, settings, weights),
        lambda inputs, cotangent: pull_cross_attend(inputs, memory, attention, settings, weights, cotangent),
        parameters.cross_attention_norm,
        dropout.cross_attention,
    )


def feed_part(
    parameters: EncoderLayerParameters | DecoderLayerParameters,
    settings: BlockSettings,
    dropout: EncoderLayerDropout | DecoderLayerDropout,
) -> Part:
    """Give the feed-forward of a layer."""
    return Part(
        lambda inputs: feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden),
        lambda inputs, cotangent: pull_feed(
            inputs, parameters.feed_forward, settings.activation, dropout.hidden, cotangent
        ),
        parameters.feed_forward_norm,
        dropout.feed_forward,
    )


def pull_encoder_layer(
    inputs: Array,
    parameters: EncoderLayerParameters,
    settings: BlockSettings,
    dropout: EncoderLayerDropout | None,
    cotangent: Array,
) -> EncoderGradients:
    """Go back through an encoder layer whose arguments are checked."""
    dropout = EncoderLayerDropout() if dropout is None else dropout
    parts = [attention_part(parameters, settings, dropout), feed_part(parameters, settings, dropout)]
    attention, feed_forward = pull_parts(inputs, parts, settings, cotangent)
    d_parameters = EncoderLayerParameters(
        attention.function.parameters, attention.norm, feed_forward.function.parameters, feed_forward.norm
    )
    return EncoderGradients(attention.inputs, d_parameters, attention.function.bias)


def pull_decoder_layer(
    inputs: Array,
    memory: Array,
    parameters: DecoderLayerParameters,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
    cotangent: Array,
) -> DecoderGradients:
    """Go back through a decoder layer whose arguments are checked."""
    dropout = DecoderLayerDropout() if dropout is None else dropout
    parts = [
        attention_part(parameters, settings, dropout),
        cross_attention_part(memory, parameters, settings, dropout),
        feed_part(parameters, settings, dropout),
    ]
    attention, cross, feed_forward = pull_parts(inputs, parts, settings, cotangent)
    d_parameters = DecoderLayerParameters(
        attention.function.parameters,
        attention.norm,
        cross.function.parameters,
        cross.norm,
        feed_forward.function.parameters,
        feed_forward.norm,
    )
    return DecoderGradients(attention.inputs, cross.function.memory, d_parameters, attention.function.bias)


def pull_encoder(
    inputs: Array,
    parameters: EncoderParameters,
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
    cotangent: Array,
) -> EncoderGradients:
    """Go back through an encoder whose arguments are checked."""
    dropouts, states = by_layer(dropout, parameters), [inputs]
    for layer, dropped in zip(parameters.layers, dropouts, strict=True):
        states.append(run_encoder_layer(states[-1], layer, settings, dropped))
    cotangent, d_norm = pull_last_norm(states.pop(), parameters.norm, settings, cotangent)
    d_bias, d_layers = no_bias_gradient(settings), []
    for state, layer, dropped in reversed(list(zip(states, parameters.layers, dropouts, strict=True))):
        pulled = pull_encoder_layer(state, layer, settings, dropped, cotangent)
        cotangent, d_bias = pulled.inputs, sum_of_gradients(d_bias, pulled.bias)
        d_layers.append(pulled.parameters)
    return EncoderGradients(cotangent, EncoderParameters(tuple(reversed(d_layers)), d_norm), d_bias)


def pull_decoder(
    inputs: Array,
    memory: Array,
    parameters: DecoderParameters,
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
    cotangent: Array,
) -> DecoderGradients:
    """Go back through a decoder whose arguments are checked."""
    dropouts, states = by_layer(dropout, parameters), [inputs]
    for layer, dropped in zip(parameters.layers, dropouts, strict=True):
        states.append(run_decoder_layer(states[-1], memory, layer, settings, dropped))
    cotangent, d_norm = pull_last_norm(states.pop(), parameters.norm, settings, cotangent)
    d_memory, d_bias, d_layers = np.zeros(memory.shape), no_bias_gradient(settings), []
    for state, layer, dropped in reversed(list(zip(states, parameters.layers, dropouts, strict=True))):
        pulled = pull_decoder_layer(state, memory, layer, settings, dropped, cotangent)
        cotangent, d_memory = pulled.inputs, d_memory + pulled.memory
        d_bias = sum_of_gradients(d_bias, pulled.bias)
        d_layers.append(pulled.parameters)
    return DecoderGradients(cotangent, d_memory, DecoderParameters(tuple(reversed(d_layers)), d_norm), d_bias)


def pull_last_norm(
    inputs: Array, parameters: LayerNormParameters | None, settings: BlockSettings, cotangent: Array
) -> tuple[Array, LayerNormParameters | None]:
    """Go back through the last normalisation of a stack, if there is one."""
    if parameters is None:
        return cotangent, None
    return pull_normalise(inputs, parameters, settings.epsilon, cotangent)


def no_bias_gradient(settings: BlockSettings) -> Any:
    """Return the gradient of the bias that no layer has added to, None without a bias."""
    if settings.bias is None:
        return None
    zero = zero_gradient(settings.bias)
    return zero.array if isinstance(zero, BiasArray) else zero

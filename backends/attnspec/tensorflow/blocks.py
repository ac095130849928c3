"""What layers are made of, in TensorFlow: dropout, layer normalisation, feed-forward; encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from attnspec.contract.blocks import (
    BlockSettings,
    attention_options,
    by_layer,
    check_activation,
    check_block,
    check_block_settings,
    check_epsilon,
)
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
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.parameters import MultiHeadParameters
from attnspec.contract.states import rebuild

from .activations import activate
from .attention import Attention, compute_stages, is_finite_row, widen
from .projections import merge_heads, project, project_heads
from .tensors import (
    as_option,
    as_tensors,
    assert_pending,
    describe,
    mask_tensor,
    new_checks,
    without_autograph,
)


@without_autograph
def layer_norm(inputs: Any, parameters: LayerNormParameters, *, epsilon: float = 1e-5) -> tf.Tensor:
    """Bring every position to mean 0 and variance 1, then scale and shift each component.

    Arguments, shapes and errors: `attnspec.reference.layer_norm`.

    Differences: as for `dot_product_attention`. A position is NaN where its squares add up to more than the
    accumulation dtype holds.
    """
    epsilon = check_epsilon(epsilon)
    (wide,), parameters, _, dtype = prepare(LayerNormParameters, parameters, None, None, inputs=inputs)
    return tf.cast(normalise(wide, parameters, epsilon), dtype)


@without_autograph
def feed_forward(
    inputs: Any, parameters: FeedForwardParameters, *, activation: str = "relu", dropout: Any = None
) -> tf.Tensor:
    """Map every position by itself through a hidden layer: act(x W_1 + b_1) W_2 + b_2.

    Arguments, shapes and errors: `attnspec.reference.feed_forward`.

    Differences: as for `dot_product_attention`; the hidden layer is not rounded to half precision.
    """
    check_activation(activation)
    (wide,), parameters, _, dtype = prepare(FeedForwardParameters, parameters, None, dropout, inputs=inputs)
    return tf.cast(feed(wide, parameters, activation, dropout), dtype)


@without_autograph
def encoder_layer(
    inputs: Any,
    parameters: EncoderLayerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Let positions attend to one another, then feed each of them forward, both with a residual and a normalisation.

    Arguments, shapes and errors: `attnspec.reference.encoder_layer`.

    Differences: as for `dot_product_attention`; nothing is rounded to half precision before the end.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (wide,), parameters, settings, dtype = prepare(EncoderLayerParameters, parameters, settings, dropout, inputs=inputs)
    return tf.cast(run_encoder_layer(wide, parameters, settings, dropout), dtype)


@without_autograph
def encoder(
    inputs: Any,
    parameters: EncoderParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Apply encoder layers one after another, and the last normalisation if there is one, whatever `norm` says.

    Arguments, shapes and errors: `attnspec.reference.encoder`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (wide,), parameters, settings, dtype = prepare(EncoderParameters, parameters, settings, dropout, inputs=inputs)
    return tf.cast(run_encoder(wide, parameters, settings, dropout), dtype)


@without_autograph
def decoder_layer(
    inputs: Any,
    memory: Any,
    parameters: DecoderLayerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Do as `encoder_layer`, and between its two parts let positions attend to a memory, the output of an encoder.

    Arguments, shapes and errors: `attnspec.reference.decoder_layer`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (wide, wide_memory), parameters, settings, dtype = prepare(
        DecoderLayerParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return tf.cast(run_decoder_layer(wide, wide_memory, parameters, settings, dropout), dtype)


@without_autograph
def decoder(
    inputs: Any,
    memory: Any,
    parameters: DecoderParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> tf.Tensor:
    """Apply decoder layers one after another, and the last normalisation if there is one, whatever `norm` says.

    Arguments, shapes and errors: `attnspec.reference.decoder`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (wide, wide_memory), parameters, settings, dtype = prepare(
        DecoderParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return tf.cast(run_decoder(wide, wide_memory, parameters, settings, dropout), dtype)


def prepare(
    cls: type, parameters: Any, settings: BlockSettings | None, dropout: Any, **tensors: Any
) -> tuple[list[tf.Tensor], Any, Any, tf.DType]:
    """Check the arguments of a block; return its tensors, parameters and settings widened, and its dtype."""
    given = check_tree("parameters", parameters, cls)
    arrays = dict(zip((*tensors, *given), as_tensors(**tensors, **name_leaves(given)), strict=True))
    inputs = arrays["inputs"]
    if settings is not None:
        settings = settings.with_tensors(lambda name, value: as_option(name, value, inputs))
    operands = {name: describe(arrays[name]) for name in tensors}
    leaves = {path: describe(arrays[path]) for path in given}
    check_leaf_dtypes(operands, leaves)
    checks = new_checks(inputs)
    check_block(parameters, operands, leaves, settings, dropout, checks)
    asserted = assert_pending(checks, *arrays.values())
    wide = {name: widen(tensor) for name, tensor in zip(arrays, asserted, strict=True)}
    if settings is not None:
        settings = settings.with_tensors(lambda _, tensor: widen(tensor))
    return [wide[name] for name in tensors], rebuild(parameters, wide), settings, inputs.dtype


def drop(inputs: tf.Tensor, dropout: Any) -> tf.Tensor:
    """Compute y · keep / (1 − rate); what is dropped is not read (S14)."""
    if dropout is None:
        return inputs
    return tf.where(mask_tensor(dropout.keep), inputs / (1.0 - dropout.rate), 0.0)


def normalise(inputs: tf.Tensor, parameters: LayerNormParameters, epsilon: float) -> tf.Tensor:
    """Compute (x − μ) / √(σ² + ε) · w + b; a non-finite component makes its position NaN, and no other (S11)."""
    is_clean = is_normalisable(inputs)
    outputs = standardise(tf.where(is_clean, inputs, 0.0), epsilon) * parameters.weight
    outputs = outputs if parameters.bias is None else outputs + parameters.bias
    return tf.where(is_clean, outputs, math.nan)


def standardise(inputs: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Compute (x − μ) / √(σ² + ε)."""
    centred = inputs - tf.reduce_mean(inputs, axis=-1, keepdims=True)
    return centred / tf.sqrt(tf.reduce_mean(centred * centred, axis=-1, keepdims=True) + epsilon)


def is_normalisable(inputs: tf.Tensor) -> tf.Tensor:
    """Say which positions have components whose squares add up to a finite number, (*B, 1)."""
    return tf.math.is_finite(tf.reduce_sum(inputs * inputs, axis=-1, keepdims=True))


def feed(inputs: tf.Tensor, parameters: FeedForwardParameters, activation: str, dropout: Any) -> tf.Tensor:
    """Compute drop(act(x W_1 + b_1)) W_2 + b_2."""
    hidden = project(inputs, parameters.hidden_weight, parameters.hidden_bias)
    hidden = drop(activate(hidden, activation), dropout)
    return project(hidden, parameters.output_weight, parameters.output_bias)


def attention_over(
    query: tf.Tensor,
    memory: tf.Tensor,
    parameters: MultiHeadParameters,
    settings: BlockSettings,
    given: Given,
    rotary: Any,
) -> Attention:
    """Project query and memory of an attention whose arguments are checked."""
    described = MultiHeadParameters(*map(describe, parameters))
    checks = new_checks(query)
    sizes, options = attention_options(describe(query), describe(memory), described, settings, given, checks)
    return project_heads(query, memory, memory, parameters, sizes, options, rotary)


def attend_from(
    query: tf.Tensor,
    memory: tf.Tensor,
    parameters: MultiHeadParameters,
    settings: BlockSettings,
    given: Given,
    rotary: Any,
) -> tf.Tensor:
    """Let positions attend to a memory; one that is not finite is NaN, and gives no gradient to what it sees (S11)."""
    is_clean = is_finite_row(query)[..., None]
    clean = tf.where(is_clean, query, 0.0)
    attention = attention_over(clean, memory, parameters, settings, given, rotary)
    heads = merge_heads(compute_stages(attention).output)
    outputs = project(heads, parameters.output_weight, parameters.output_bias)
    return tf.where(is_clean, outputs, math.nan)


def self_attend(inputs: tf.Tensor, parameters: MultiHeadParameters, settings: BlockSettings, dropout: Any) -> tf.Tensor:
    """Let positions attend to one another; dropout is that of the weights."""
    return attend_from(inputs, inputs, parameters, settings, settings.self_given(dropout), settings.rotary)


def cross_attend(
    inputs: tf.Tensor, memory: tf.Tensor, parameters: MultiHeadParameters, settings: BlockSettings, dropout: Any
) -> tf.Tensor:
    """Let positions attend to a memory; dropout is that of the weights."""
    return attend_from(inputs, memory, parameters, settings, settings.cross_given(dropout), None)


def residual(
    inputs: tf.Tensor,
    norm_parameters: LayerNormParameters,
    settings: BlockSettings,
    function: Callable[[tf.Tensor], tf.Tensor],
    dropout: Any,
) -> tf.Tensor:
    """Compute norm(x + drop(f(x))), or x + drop(f(norm(x))) where the normalisation comes first."""
    if settings.norm == "post":
        return normalise(inputs + drop(function(inputs), dropout), norm_parameters, settings.epsilon)
    return inputs + drop(function(normalise(inputs, norm_parameters, settings.epsilon)), dropout)


def run_encoder_layer(
    inputs: tf.Tensor, parameters: EncoderLayerParameters, settings: BlockSettings, dropout: EncoderLayerDropout | None
) -> tf.Tensor:
    """Compute an encoder layer whose arguments are checked."""
    dropout = EncoderLayerDropout() if dropout is None else dropout

    def attention(inputs: tf.Tensor) -> tf.Tensor:
        return self_attend(inputs, parameters.attention, settings, dropout.weights)

    def feed_forward(inputs: tf.Tensor) -> tf.Tensor:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward)


def run_decoder_layer(
    inputs: tf.Tensor,
    memory: tf.Tensor,
    parameters: DecoderLayerParameters,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
) -> tf.Tensor:
    """Compute a decoder layer whose arguments are checked."""
    dropout = DecoderLayerDropout() if dropout is None else dropout

    def attention(inputs: tf.Tensor) -> tf.Tensor:
        return self_attend(inputs, parameters.attention, settings, dropout.weights)

    def cross_attention(inputs: tf.Tensor) -> tf.Tensor:
        return cross_attend(inputs, memory, parameters.cross_attention, settings, dropout.cross_weights)

    def feed_forward(inputs: tf.Tensor) -> tf.Tensor:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward)


def run_encoder(
    inputs: tf.Tensor, parameters: EncoderParameters, settings: BlockSettings, dropout: tuple[Any, ...] | None
) -> tf.Tensor:
    """Compute an encoder whose arguments are checked."""
    for layer, dropped in zip(parameters.layers, by_layer(dropout, parameters), strict=True):
        inputs = run_encoder_layer(inputs, layer, settings, dropped)
    return inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)


def run_decoder(
    inputs: tf.Tensor,
    memory: tf.Tensor,
    parameters: DecoderParameters,
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
) -> tf.Tensor:
    """Compute a decoder whose arguments are checked."""
    for layer, dropped in zip(parameters.layers, by_layer(dropout, parameters), strict=True):
        inputs = run_decoder_layer(inputs, memory, layer, settings, dropped)
    return inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)

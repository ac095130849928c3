"""What layers are made of, in JAX: dropout, layer normalisation, feed-forward; encoder and decoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

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
from .tensors import as_option, as_tensors, describe, mask_tensor, new_checks


def layer_norm(inputs: Any, parameters: LayerNormParameters, *, epsilon: float = 1e-5) -> Array:
    """Bring every position to mean 0 and variance 1, then scale and shift each component.

    Arguments, shapes and errors: `attnspec.reference.layer_norm`.

    Differences: as for `dot_product_attention`. A position is NaN where its squares add up to more than the
    accumulation dtype holds.
    """
    epsilon = check_epsilon(epsilon)
    (wide,), parameters, _, dtype = prepare(LayerNormParameters, parameters, None, None, inputs=inputs)
    output: Array = normalise(wide, parameters, epsilon)
    return output.astype(dtype)


def feed_forward(
    inputs: Any, parameters: FeedForwardParameters, *, activation: str = "relu", dropout: Any = None
) -> Array:
    """Map every position by itself through a hidden layer: act(x W_1 + b_1) W_2 + b_2.

    Arguments, shapes and errors: `attnspec.reference.feed_forward`.

    Differences: as for `dot_product_attention`; the hidden layer is not rounded to half precision.
    """
    check_activation(activation)
    (wide,), parameters, _, dtype = prepare(FeedForwardParameters, parameters, None, dropout, inputs=inputs)
    output: Array = feed(wide, parameters, activation, dropout)
    return output.astype(dtype)


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
) -> Array:
    """Let positions attend to one another, then feed each of them forward, both with a residual and a normalisation.

    Arguments, shapes and errors: `attnspec.reference.encoder_layer`.

    Differences: as for `dot_product_attention`; nothing is rounded to half precision before the end.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (wide,), parameters, settings, dtype = prepare(EncoderLayerParameters, parameters, settings, dropout, inputs=inputs)
    return run_encoder_layer(wide, parameters, settings, dropout).astype(dtype)


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
) -> Array:
    """Apply encoder layers one after another, and the last normalisation if there is one, whatever `norm` says.

    Arguments, shapes and errors: `attnspec.reference.encoder`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (wide,), parameters, settings, dtype = prepare(EncoderParameters, parameters, settings, dropout, inputs=inputs)
    return run_encoder(wide, parameters, settings, dropout).astype(dtype)


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
) -> Array:
    """Do as `encoder_layer`, and between its two parts let positions attend to a memory, the output of an encoder.

    Arguments, shapes and errors: `attnspec.reference.decoder_layer`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (wide, wide_memory), parameters, settings, dtype = prepare(
        DecoderLayerParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return run_decoder_layer(wide, wide_memory, parameters, settings, dropout).astype(dtype)


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
) -> Array:
    """Apply decoder layers one after another, and the last normalisation if there is one, whatever `norm` says.

    Arguments, shapes and errors: `attnspec.reference.decoder`.

    Differences: as for `encoder_layer`.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (wide, wide_memory), parameters, settings, dtype = prepare(
        DecoderParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return run_decoder(wide, wide_memory, parameters, settings, dropout).astype(dtype)


def prepare(
    cls: type, parameters: Any, settings: BlockSettings | None, dropout: Any, **tensors: Any
) -> tuple[list[Array], Any, Any, jnp.dtype]:
    """Check the arguments of a block; return its tensors, parameters and settings widened, and its dtype."""
    given = check_tree("parameters", parameters, cls)
    arrays = dict(zip((*tensors, *given), as_tensors(**tensors, **name_leaves(given)), strict=True))
    inputs = arrays["inputs"]
    if settings is not None:
        settings = settings.with_tensors(lambda name, value: as_option(name, value, inputs))
    operands = {name: describe(arrays[name]) for name in tensors}
    leaves = {path: describe(arrays[path]) for path in given}
    check_leaf_dtypes(operands, leaves)
    check_block(parameters, operands, leaves, settings, dropout, new_checks(inputs))
    wide = {name: widen(array) for name, array in arrays.items()}
    if settings is not None:
        settings = settings.with_tensors(lambda _, array: widen(array))
    return [wide[name] for name in tensors], rebuild(parameters, wide), settings, inputs.dtype


def drop(inputs: Array, dropout: Any) -> Array:
    """Compute y · keep / (1 − rate); what is dropped is not read (S14)."""
    if dropout is None:
        return inputs
    return jnp.where(mask_tensor(dropout.keep), inputs / (1.0 - dropout.rate), 0.0)


@jax.jit  # one compilation, as for `stages_of`
def normalise(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Compute (x − μ) / √(σ² + ε) · w + b; a non-finite component makes its position NaN, and no other (S11)."""
    is_clean = is_normalisable(inputs)
    outputs = standardise(jnp.where(is_clean, inputs, 0.0), epsilon) * parameters.weight
    outputs = outputs if parameters.bias is None else outputs + parameters.bias
    return jnp.where(is_clean, outputs, jnp.nan)


def standardise(inputs: Array, epsilon: float) -> Array:
    """Compute (x − μ) / √(σ² + ε)."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)


def is_normalisable(inputs: Array) -> Array:
    """Say which positions have components whose squares add up to a finite number, (*B, 1)."""
    return jnp.isfinite((inputs * inputs).sum(axis=-1, keepdims=True))


@functools.partial(jax.jit, static_argnames="activation")
def feed(inputs: Array, parameters: FeedForwardParameters, activation: str, dropout: Any) -> Array:
    """Compute drop(act(x W_1 + b_1)) W_2 + b_2."""
    hidden = project(inputs, parameters.hidden_weight, parameters.hidden_bias)
    hidden = drop(activate(hidden, activation), dropout)
    outputs: Array = project(hidden, parameters.output_weight, parameters.output_bias)
    return outputs


def attention_over(
    query: Array, memory: Array, parameters: MultiHeadParameters, settings: BlockSettings, given: Given, rotary: Any
) -> Attention:
    """Project query and memory of an attention whose arguments are checked."""
    described = MultiHeadParameters(*map(describe, parameters))
    checks = new_checks(query)
    sizes, options = attention_options(describe(query), describe(memory), described, settings, given, checks)
    return project_heads(query, memory, memory, parameters, sizes, options, rotary)


def attend_from(
    query: Array, memory: Array, parameters: MultiHeadParameters, settings: BlockSettings, given: Given, rotary: Any
) -> Array:
    """Let positions attend to a memory; one that is not finite is NaN, and gives no gradient to what it sees (S11)."""
    is_clean = is_finite_row(query)[..., None]
    clean = jnp.where(is_clean, query, 0.0)
    attention = attention_over(clean, memory, parameters, settings, given, rotary)
    heads = merge_heads(compute_stages(attention).output)
    outputs = project(heads, parameters.output_weight, parameters.output_bias)
    return jnp.where(is_clean, outputs, jnp.nan)


def self_attend(inputs: Array, parameters: MultiHeadParameters, settings: BlockSettings, dropout: Any) -> Array:
    """Let positions attend to one another; dropout is that of the weights."""
    return attend_from(inputs, inputs, parameters, settings, settings.self_given(dropout), settings.rotary)


def cross_attend(
    inputs: Array, memory: Array, parameters: MultiHeadParameters, settings: BlockSettings, dropout: Any
) -> Array:
    """Let positions attend to a memory; dropout is that of the weights."""
    return attend_from(inputs, memory, parameters, settings, settings.cross_given(dropout), None)


def residual(
    inputs: Array,
    norm_parameters: LayerNormParameters,
    settings: BlockSettings,
    function: Callable[[Array], Array],
    dropout: Any,
) -> Array:
    """Compute norm(x + drop(f(x))), or x + drop(f(norm(x))) where the normalisation comes first."""
    if settings.norm == "post":
        outputs: Array = normalise(inputs + drop(function(inputs), dropout), norm_parameters, settings.epsilon)
        return outputs
    return inputs + drop(function(normalise(inputs, norm_parameters, settings.epsilon)), dropout)


def run_encoder_layer(
    inputs: Array, parameters: EncoderLayerParameters, settings: BlockSettings, dropout: EncoderLayerDropout | None
) -> Array:
    """Compute an encoder layer whose arguments are checked."""
    dropout = EncoderLayerDropout() if dropout is None else dropout

    def attention(inputs: Array) -> Array:
        return self_attend(inputs, parameters.attention, settings, dropout.weights)

    def feed_forward(inputs: Array) -> Array:
        output: Array = feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)
        return output

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward)


def run_decoder_layer(
    inputs: Array,
    memory: Array,
    parameters: DecoderLayerParameters,
    settings: BlockSettings,
    dropout: DecoderLayerDropout | None,
) -> Array:
    """Compute a decoder layer whose arguments are checked."""
    dropout = DecoderLayerDropout() if dropout is None else dropout

    def attention(inputs: Array) -> Array:
        return self_attend(inputs, parameters.attention, settings, dropout.weights)

    def cross_attention(inputs: Array) -> Array:
        return cross_attend(inputs, memory, parameters.cross_attention, settings, dropout.cross_weights)

    def feed_forward(inputs: Array) -> Array:
        output: Array = feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)
        return output

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward)


def run_encoder(
    inputs: Array, parameters: EncoderParameters, settings: BlockSettings, dropout: tuple[Any, ...] | None
) -> Array:
    """Compute an encoder whose arguments are checked."""
    for layer, dropped in zip(parameters.layers, by_layer(dropout, parameters), strict=True):
        inputs = run_encoder_layer(inputs, layer, settings, dropped)
    outputs: Array = inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)
    return outputs


def run_decoder(
    inputs: Array,
    memory: Array,
    parameters: DecoderParameters,
    settings: BlockSettings,
    dropout: tuple[Any, ...] | None,
) -> Array:
    """Compute a decoder whose arguments are checked."""
    for layer, dropped in zip(parameters.layers, by_layer(dropout, parameters), strict=True):
        inputs = run_decoder_layer(inputs, memory, layer, settings, dropped)
    outputs: Array = inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)
    return outputs

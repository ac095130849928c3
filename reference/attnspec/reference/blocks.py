"""What layers are made of: dropout, layer normalisation, feed-forward; encoder and decoder: the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

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
from .attention import Attention, attend, is_finite_row, widen
from .projections import merge_heads, project, project_heads
from .tensors import Array, as_option, as_tensors, describe, mask_tensor, new_checks


def layer_norm(inputs: Any, parameters: LayerNormParameters, *, epsilon: float = 1e-5) -> Array:
    """Bring every position to mean 0 and variance 1, then scale and shift each component.

    With the mean μ and the variance σ² = Σ_c (x_c − μ)² / E of a position's components:

        output_c = (x_c − μ) / √(σ² + ε) · w_c + b_c

    Args:
        inputs: x, (*B, E), E at least 1.
        parameters: `LayerNormParameters`: weight w, (E,), and bias b, (E,) or None.
        epsilon: ε, a positive Python number, at least 2⁻¹²⁶.

    Returns:
        (*B, E), float64.

    Raises:
        ValueError: shapes that do not fit, E = 0, an epsilon that is too small.
        TypeError: dtypes that differ or are not floating, parameters of another class, a tensor of a framework.

    A component that is not finite makes its position NaN, and no other; so does one whose square overflows.

    Source: Ba et al. 2016, equations 3 and 4.
    """
    epsilon = check_epsilon(epsilon)
    (inputs,), parameters, _ = prepare(LayerNormParameters, parameters, None, None, inputs=inputs)
    return normalise(inputs, parameters, epsilon)


def feed_forward(
    inputs: Any, parameters: FeedForwardParameters, *, activation: str = "relu", dropout: Any = None
) -> Array:
    """Map every position by itself through a hidden layer: act(x W_1 + b_1) W_2 + b_2.

        relu(z) = max(z, 0),   gelu(z) = z Φ(z),   gelu_tanh(z) = z/2 (1 + tanh(√(2/π) (z + 0.044715 z³))),
        silu(z) = z σ(z),      tanh(z);             Φ the cumulative normal distribution, σ(z) = 1 / (1 + exp(−z))

    Args:
        inputs: x, (*B, T, E).
        parameters: `FeedForwardParameters`: hidden_weight W_1, (E, F), output_weight W_2, (F, E), hidden_bias b_1,
            (F,), and output_bias b_2, (E,); each bias may be None.
        activation: "relu", "gelu", "gelu_tanh", "silu" or "tanh".
        dropout: of what is activated, `Dropout(rate, keep=array)`, the array boolean and (*B, T, F), each axis full
            or 1.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError: shapes that do not fit, another activation, a dropout that does not say what is kept.
        TypeError: as for `layer_norm`.

    A component that is not finite makes its position NaN, and no other.

    Source: Vaswani et al. 2017, equation 2; GELU: Hendrycks and Gimpel 2016, §2, SiLU there too.
    """
    check_activation(activation)
    (inputs,), parameters, _ = prepare(FeedForwardParameters, parameters, None, dropout, inputs=inputs)
    return feed(inputs, parameters, activation, dropout)


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

        post:  y = norm_a(x + drop_a(attention(x))),     output = norm_f(y + drop_f(feed_forward(y)))
        pre:   y = x + drop_a(attention(norm_a(x))),     output = y + drop_f(feed_forward(norm_f(y)))

    attention(x) is `multi_head_attention(x, x, x)`, norm `layer_norm`, drop multiplies by keep / (1 − rate).

    Args:
        inputs: x, (*B, T, E).
        parameters: `EncoderLayerParameters`: attention, attention_norm, feed_forward, feed_forward_norm. The output
            weight of the attention has E columns.
        num_heads, num_kv_heads: Hq and Hkv, as for `multi_head_attention`.
        norm: "post", as in the paper, or "pre".
        activation: of the feed-forward.
        epsilon: of both normalisations.
        mask, bias, rotary: of the attention, as for `multi_head_attention`.
        dropout: `EncoderLayerDropout(weights, attention, hidden, feed_forward)`, each of them a `Dropout` or None:
            weights as for `multi_head_attention`, hidden as for `feed_forward`; attention (drop_a) and feed_forward
            (drop_f) with a keep array of the shape of the inputs, each axis full or 1.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError, TypeError: as for `multi_head_attention`, `feed_forward` and `layer_norm`; another norm.

    What a position does not attend to, and what is dropped, does not reach it, not even as NaN or Inf.

    Source: Vaswani et al. 2017, §3.1 and §5.4; pre: Xiong et al. 2020, §3.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (inputs,), parameters, settings = prepare(EncoderLayerParameters, parameters, settings, dropout, inputs=inputs)
    return run_encoder_layer(inputs, parameters, settings, dropout)


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

    Args:
        inputs: (*B, T, E).
        parameters: `EncoderParameters`: a tuple of layers, which may be empty, and norm, `LayerNormParameters` or None.
        num_heads, num_kv_heads, norm, activation, epsilon, mask, bias, rotary: as for `encoder_layer`, the same for
            every layer.
        dropout: a tuple with one `EncoderLayerDropout` or None for each layer, or None.

    Returns:
        (*B, T, E), float64; without layers and norm the inputs.

    Raises:
        ValueError, TypeError: as for `encoder_layer`; another number of dropouts than of layers.

    Source: Vaswani et al. 2017, §3.1; the last normalisation: Xiong et al. 2020, §3.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (inputs,), parameters, settings = prepare(EncoderParameters, parameters, settings, dropout, inputs=inputs)
    return run_encoder(inputs, parameters, settings, dropout)


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

        post:  y = norm_a(x + drop_a(attention(x))),   z = norm_c(y + drop_c(cross_attention(y, m))),
               output = norm_f(z + drop_f(feed_forward(z)))
        pre:   y = x + drop_a(attention(norm_a(x))),   z = y + drop_c(cross_attention(norm_c(y), m)),
               output = z + drop_f(feed_forward(norm_f(z)))

    cross_attention(y, m) is `multi_head_attention(y, m, m)`: the memory itself is not normalised.

    Args:
        inputs: x, (*B, T, E).
        memory: m, (*B, Tm, Em).
        parameters: `DecoderLayerParameters`: attention, attention_norm, cross_attention, cross_attention_norm,
            feed_forward, feed_forward_norm. Both attentions have the same numbers of heads.
        mask, bias, rotary: of the attention among the inputs; `mask=causal()` is not implied.
        memory_mask: of the attention over the memory, T queries and Tm keys.
        num_heads, num_kv_heads, norm, activation, epsilon: as for `encoder_layer`.
        dropout: `DecoderLayerDropout(weights, attention, cross_weights, cross_attention, hidden, feed_forward)`, as for
            `encoder_layer`.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError, TypeError: as for `encoder_layer`; a memory whose batch is not that of the inputs.

    Source: Vaswani et al. 2017, §3.1; pre: Xiong et al. 2020, §3.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (inputs, memory), parameters, settings = prepare(
        DecoderLayerParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return run_decoder_layer(inputs, memory, parameters, settings, dropout)


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

    Args:
        inputs: (*B, T, E).
        memory: (*B, Tm, Em), the same for every layer.
        parameters: `DecoderParameters`: a tuple of layers, which may be empty, and norm, `LayerNormParameters` or None.
        num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary: as for `decoder_layer`.
        dropout: a tuple with one `DecoderLayerDropout` or None for each layer, or None.

    Returns:
        (*B, T, E), float64; without layers and norm the inputs.

    Raises:
        ValueError, TypeError: as for `decoder_layer`; another number of dropouts than of layers.

    Source: Vaswani et al. 2017, §3.1; the last normalisation: Xiong et al. 2020, §3.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (inputs, memory), parameters, settings = prepare(
        DecoderParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    return run_decoder(inputs, memory, parameters, settings, dropout)


def prepare(
    cls: type, parameters: Any, settings: BlockSettings | None, dropout: Any, **tensors: Any
) -> tuple[list[Array], Any, Any]:
    """Check the arguments of a block; return its tensors, parameters and settings with everything in float64."""
    given = check_tree("parameters", parameters, cls)
    arrays = dict(zip((*tensors, *given), as_tensors(**tensors, **name_leaves(given)), strict=True))
    inputs = arrays["inputs"]
    if settings is not None:
        settings = settings.with_tensors(lambda name, value: as_option(name, value, inputs))
    operands = {name: describe(arrays[name]) for name in tensors}
    leaves = {path: describe(arrays[path]) for path in given}
    check_leaf_dtypes(operands, leaves)
    check_block(parameters, operands, leaves, settings, dropout, new_checks())
    wide = {name: widen(array) for name, array in arrays.items()}
    if settings is not None:
        settings = settings.with_tensors(lambda _, array: widen(array))
    return [wide[name] for name in tensors], rebuild(parameters, wide), settings


def drop(inputs: Array, dropout: Any) -> Array:
    """Compute y · keep / (1 − rate); what is dropped is not read (S14)."""
    if dropout is None:
        return inputs
    return np.where(mask_tensor(dropout.keep), inputs / (1.0 - dropout.rate), 0.0)


def normalise(inputs: Array, parameters: LayerNormParameters, epsilon: float) -> Array:
    """Compute (x − μ) / √(σ² + ε) · w + b; a non-finite component makes its position NaN, and no other (S11)."""
    is_clean = is_normalisable(inputs)
    normal, _ = standardise(np.where(is_clean, inputs, 0.0), epsilon)
    outputs = normal * parameters.weight
    outputs = outputs if parameters.bias is None else outputs + parameters.bias
    return np.where(is_clean, outputs, np.nan)


def standardise(inputs: Array, epsilon: float) -> tuple[Array, Array]:
    """Compute (x − μ) / √(σ² + ε), and the denominator."""
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred / spread, spread


def is_normalisable(inputs: Array) -> Array:
    """Say which positions have components whose squares add up to a finite number, (*B, 1)."""
    with np.errstate(over="ignore"):
        is_finite: Array = np.isfinite((inputs * inputs).sum(axis=-1, keepdims=True))
    return is_finite


def feed(inputs: Array, parameters: FeedForwardParameters, activation: str, dropout: Any) -> Array:
    """Compute drop(act(x W_1 + b_1)) W_2 + b_2."""
    hidden = project(inputs, parameters.hidden_weight, parameters.hidden_bias)
    hidden = drop(activate(hidden, activation), dropout)
    return project(hidden, parameters.output_weight, parameters.output_bias)


def attention_over(
    query: Array, memory: Array, parameters: MultiHeadParameters, settings: BlockSettings, given: Given, rotary: Any
) -> Attention:
    """Project query and memory of an attention whose arguments are checked."""
    described = MultiHeadParameters(*map(describe, parameters))
    sizes, options = attention_options(describe(query), describe(memory), described, settings, given, new_checks())
    return project_heads(query, memory, memory, parameters, sizes, options, rotary)


def attend_from(
    query: Array, memory: Array, parameters: MultiHeadParameters, settings: BlockSettings, given: Given, rotary: Any
) -> Array:
    """Let positions attend to a memory; one that is not finite is NaN, and gives no gradient to what it sees (S11)."""
    is_clean = is_finite_row(query)[..., None]
    clean = np.where(is_clean, query, 0.0)
    attention = attention_over(clean, memory, parameters, settings, given, rotary)
    heads = merge_heads(attend(attention))
    outputs = project(heads, parameters.output_weight, parameters.output_bias)
    return np.where(is_clean, outputs, np.nan)


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
        return normalise(inputs + drop(function(inputs), dropout), norm_parameters, settings.epsilon)
    return inputs + drop(function(normalise(inputs, norm_parameters, settings.epsilon)), dropout)


def run_encoder_layer(
    inputs: Array, parameters: EncoderLayerParameters, settings: BlockSettings, dropout: EncoderLayerDropout | None
) -> Array:
    """Compute an encoder layer whose arguments are checked."""
    dropout = EncoderLayerDropout() if dropout is None else dropout

    def attention(inputs: Array) -> Array:
        return self_attend(inputs, parameters.attention, settings, dropout.weights)

    def feed_forward(inputs: Array) -> Array:
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

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
        return feed(inputs, parameters.feed_forward, settings.activation, dropout.hidden)

    inputs = residual(inputs, parameters.attention_norm, settings, attention, dropout.attention)
    inputs = residual(inputs, parameters.cross_attention_norm, settings, cross_attention, dropout.cross_attention)
    return residual(inputs, parameters.feed_forward_norm, settings, feed_forward, dropout.feed_forward)


def run_encoder(
    inputs: Array, parameters: EncoderParameters, settings: BlockSettings, dropout: tuple[Any, ...] | None
) -> Array:
    """Compute an encoder whose arguments are checked."""
    for layer, dropped in zip(parameters.layers, by_layer(dropout, parameters), strict=True):
        inputs = run_encoder_layer(inputs, layer, settings, dropped)
    return inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)


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
    return inputs if parameters.norm is None else normalise(inputs, parameters.norm, settings.epsilon)

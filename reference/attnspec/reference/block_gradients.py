"""The gradients of layer normalisation, feed-forward, encoder and decoder, in closed form."""

from __future__ import annotations

from typing import Any

from attnspec.contract.blocks import check_activation, check_block_settings, check_epsilon
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
)

from .block_pulls import (
    DecoderGradients,
    EncoderGradients,
    FeedForwardGradients,
    LayerNormGradients,
    pull_decoder,
    pull_decoder_layer,
    pull_encoder,
    pull_encoder_layer,
    pull_feed,
    pull_normalise,
)
from .blocks import prepare
from .gradients import as_cotangent


def layer_norm_vjp(
    inputs: Any, parameters: LayerNormParameters, output_cotangent: Any, *, epsilon: float = 1e-5
) -> LayerNormGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a layer normalisation.

    With n = (x − μ) / s, s = √(σ² + ε), G the cotangent and g = G w:

        dw = Σ G n,   db = Σ G,   dx_c = (g_c − mean(g) − n_c mean(g n)) / s

    Args:
        inputs, parameters, epsilon: as for `layer_norm`.
        output_cotangent: G, (*B, E), the shape of the output.

    Returns:
        `LayerNormGradients(inputs, parameters)`, float64.

    Raises:
        ValueError, TypeError: as for `layer_norm`; a cotangent of another shape than the output.

    A position that is not finite has gradient 0, and gives none to the parameters.
    """
    epsilon = check_epsilon(epsilon)
    (inputs,), parameters, _ = prepare(LayerNormParameters, parameters, None, None, inputs=inputs)
    return pull_normalise(inputs, parameters, epsilon, as_cotangent("output_cotangent", output_cotangent, inputs.shape))


def feed_forward_vjp(
    inputs: Any,
    parameters: FeedForwardParameters,
    output_cotangent: Any,
    *,
    activation: str = "relu",
    dropout: Any = None,
) -> FeedForwardGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a feed-forward.

    With z = x W_1 + b_1, h = drop(act(z)) and G the cotangent: dW_2 = hᵀ G, db_2 = Σ G, dz = act'(z) drop(G W_2ᵀ),
    dW_1 = xᵀ dz, db_1 = Σ dz, dx = dz W_1ᵀ. The derivative of relu at 0 is 0.

    Args:
        inputs, parameters, activation, dropout: as for `feed_forward`.
        output_cotangent: G, (*B, T, E), the shape of the output.

    Returns:
        `FeedForwardGradients(inputs, parameters)`, float64.

    Raises:
        ValueError, TypeError: as for `feed_forward`; a cotangent of another shape than the output.

    A position that is not finite has gradient 0, and gives none to the parameters.
    """
    check_activation(activation)
    (inputs,), parameters, _ = prepare(FeedForwardParameters, parameters, None, dropout, inputs=inputs)
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return pull_feed(inputs, parameters, activation, dropout, cotangent)


def encoder_layer_vjp(
    inputs: Any,
    parameters: EncoderLayerParameters,
    output_cotangent: Any,
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
) -> EncoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of an encoder layer.

    With f* the step from the cotangent of f's result to that of its argument, G the cotangent, and drop, which is its
    own f*, each of the two parts, last one first, takes G to

        post, output = norm(s), s = x + drop(f(x)):    D = norm*(G) at s,   dx = D + f*(drop(D)) at x
        pre,  output = x + drop(f(norm(x))):           dx = G + norm*(f*(drop(G)) at norm(x)) at x

    Args:
        inputs, parameters, num_heads, num_kv_heads, norm, activation, epsilon, mask, bias, rotary, dropout: as for
            `encoder_layer`.
        output_cotangent: G, (*B, T, E), the shape of the output.

    Returns:
        `EncoderGradients(inputs, parameters, bias)`, float64: parameters are `EncoderLayerParameters` of gradients; the
        bias's is as in `AttentionGradients`.

    Raises:
        ValueError, TypeError: as for `encoder_layer`; a cotangent of another shape than the output.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (inputs,), parameters, settings = prepare(EncoderLayerParameters, parameters, settings, dropout, inputs=inputs)
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return pull_encoder_layer(inputs, parameters, settings, dropout, cotangent)


def encoder_vjp(
    inputs: Any,
    parameters: EncoderParameters,
    output_cotangent: Any,
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
) -> EncoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of an encoder: back through its layers, last one first.

    Args:
        inputs, parameters, num_heads, num_kv_heads, norm, activation, epsilon, mask, bias, rotary, dropout: as for
            `encoder`.
        output_cotangent: (*B, T, E), the shape of the output.

    Returns:
        `EncoderGradients(inputs, parameters, bias)`, float64: parameters are `EncoderParameters` of gradients; the
        bias's is the sum over the layers, 0 without any.

    Raises:
        ValueError, TypeError: as for `encoder`; a cotangent of another shape than the output.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, None, bias, rotary)
    (inputs,), parameters, settings = prepare(EncoderParameters, parameters, settings, dropout, inputs=inputs)
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return pull_encoder(inputs, parameters, settings, dropout, cotangent)


def decoder_layer_vjp(
    inputs: Any,
    memory: Any,
    parameters: DecoderLayerParameters,
    output_cotangent: Any,
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
) -> DecoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a decoder layer: as `encoder_layer_vjp`, three parts.

    Args:
        inputs, memory, parameters, num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary,
            dropout: as for `decoder_layer`.
        output_cotangent: (*B, T, E), the shape of the output.

    Returns:
        `DecoderGradients(inputs, memory, parameters, bias)`, float64: parameters are `DecoderLayerParameters` of
        gradients.

    Raises:
        ValueError, TypeError: as for `decoder_layer`; a cotangent of another shape than the output.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (inputs, memory), parameters, settings = prepare(
        DecoderLayerParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return pull_decoder_layer(inputs, memory, parameters, settings, dropout, cotangent)


def decoder_vjp(
    inputs: Any,
    memory: Any,
    parameters: DecoderParameters,
    output_cotangent: Any,
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
) -> DecoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a decoder: back through its layers, last one first.

    Args:
        inputs, memory, parameters, num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary,
            dropout: as for `decoder`.
        output_cotangent: (*B, T, E), the shape of the output.

    Returns:
        `DecoderGradients(inputs, memory, parameters, bias)`, float64: parameters are `DecoderParameters` of gradients;
        those of memory and bias are sums over the layers, 0 without any.

    Raises:
        ValueError, TypeError: as for `decoder`; a cotangent of another shape than the output.
    """
    settings = check_block_settings(num_heads, num_kv_heads, norm, activation, epsilon, mask, memory_mask, bias, rotary)
    (inputs, memory), parameters, settings = prepare(
        DecoderParameters, parameters, settings, dropout, inputs=inputs, memory=memory
    )
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return pull_decoder(inputs, memory, parameters, settings, dropout, cotangent)

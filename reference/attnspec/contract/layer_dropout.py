"""Which dropouts a layer draws in training: their rates and shapes, in the trees that the operations take."""

from __future__ import annotations

from dataclasses import dataclass

from .attention_configs import MultiHeadAttentionConfig
from .block_configs import BlockConfig, FeedForwardConfig, StackConfig
from .layer_results import DecoderLayerDropout, EncoderLayerDropout, TextEncoderDropout, TransformerDropout
from .model_configs import SequenceClassifierConfig, TextEncoderConfig, TransformerConfig
from .operands import Shape, Size


@dataclass(frozen=True)
class Draw:
    """A dropout to be drawn: the share that it drops, and the shape of what it keeps."""

    rate: float
    shape: Shape


def single_head_draw(rate: float, batch: Shape, query_length: Size, key_length: Size) -> Draw | None:
    """Return the draw of weights whose attention has one head and takes keep arrays with a head axis."""
    return Draw(rate, (*batch, 1, query_length, key_length)) if rate else None


def multi_head_draws(
    config: MultiHeadAttentionConfig, batch: Shape, query_length: Size, key_length: Size
) -> tuple[Draw | None, Draw | None]:
    """Return the draws of the weights and of the output."""
    output_size = config.output_size or config.model_size
    weights, output = config.dropout_rate, config.output_dropout_rate
    return (
        Draw(weights, (*batch, config.num_heads, query_length, key_length)) if weights else None,
        Draw(output, (*batch, query_length, output_size)) if output else None,
    )


def feed_forward_draw(config: FeedForwardConfig, leading: Shape) -> Draw | None:
    """Return the draw of the hidden units of (*leading, E)."""
    return Draw(config.dropout_rate, (*leading, config.inner_size)) if config.dropout_rate else None


def encoder_layer_draws(config: BlockConfig, batch: Shape, length: Size) -> EncoderLayerDropout | None:
    """Return the draws of an encoder layer."""
    rate = config.dropout_rate
    if not rate:
        return None
    added = Draw(rate, (*batch, length, config.model_size))
    return EncoderLayerDropout(
        Draw(rate, (*batch, config.num_heads, length, length)),
        added,
        Draw(rate, (*batch, length, config.inner_size)),
        added,
    )


def decoder_layer_draws(
    config: BlockConfig, batch: Shape, length: Size, memory_length: Size
) -> DecoderLayerDropout | None:
    """Return the draws of a decoder layer."""
    own = encoder_layer_draws(config, batch, length)
    if own is None:
        return None
    cross = Draw(config.dropout_rate, (*batch, config.num_heads, length, memory_length))
    return DecoderLayerDropout(own.weights, own.attention, cross, own.attention, own.hidden, own.feed_forward)


def encoder_draws(config: StackConfig, batch: Shape, length: Size) -> tuple[EncoderLayerDropout | None, ...] | None:
    """Return the draws of a stack of encoder layers."""
    layer = encoder_layer_draws(config, batch, length)
    return None if layer is None else (layer,) * config.num_layers


def decoder_draws(
    config: StackConfig, batch: Shape, length: Size, memory_length: Size
) -> tuple[DecoderLayerDropout | None, ...] | None:
    """Return the draws of a stack of decoder layers."""
    layer = decoder_layer_draws(config, batch, length, memory_length)
    return None if layer is None else (layer,) * config.num_layers


def text_encoder_draws(
    config: TextEncoderConfig | SequenceClassifierConfig, batch: Shape, length: Size
) -> TextEncoderDropout | None:
    """Return the draws of a text encoder, or of the one in a classifier."""
    if not config.dropout_rate:
        return None
    return TextEncoderDropout(
        Draw(config.dropout_rate, (*batch, length, config.model_size)),
        encoder_draws(config.encoder_config(config.num_layers), batch, length),
    )


def transformer_draws(
    config: TransformerConfig, batch: Shape, source_length: Size, target_length: Size
) -> TransformerDropout | None:
    """Return the draws of a Transformer."""
    rate, size = config.dropout_rate, config.model_size
    if not rate:
        return None
    encoder = config.encoder_config(config.num_encoder_layers)
    decoder = config.decoder_config(config.num_decoder_layers)
    return TransformerDropout(
        Draw(rate, (*batch, source_length, size)),
        Draw(rate, (*batch, target_length, size)),
        encoder_draws(encoder, batch, source_length),
        decoder_draws(decoder, batch, target_length, source_length),
    )

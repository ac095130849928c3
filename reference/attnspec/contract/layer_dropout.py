"""Which dropouts a layer draws in training: their rates and shapes, in the trees that the operations take.

Every function takes the arguments of a layer and the shapes of its inputs. Where these have too few axes it returns
None: the operation itself says what is wrong with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .attention_configs import GatedAttentionCellConfig, MultiHeadAttentionConfig
from .block_configs import BlockConfig, FeedForwardConfig, StackConfig
from .layer_results import DecoderLayerDropout, EncoderLayerDropout, TextEncoderDropout, TransformerDropout
from .model_configs import SequenceClassifierConfig, TextEncoderConfig, TransformerConfig
from .operands import Shape, Size


@dataclass(frozen=True)
class Draw:
    """A dropout to be drawn: the share that it drops, and the shape of what it keeps."""

    rate: float
    shape: Shape


def pair_draw(config: Any, query: Shape, key: Shape) -> Draw | None:
    """Return the draw of the weights of queries (*B, Tq, ·) and keys (*B, Tk, ·), heads among the batch axes."""
    return None if min(len(query), len(key)) < 2 else _draw(config.dropout_rate, *query[:-1], key[-2])


def self_attention_draw(config: Any, inputs: Shape) -> Draw | None:
    """Return the draw of the weights of a self-attention with one head over (*B, T, ·)."""
    return None if len(inputs) < 2 else _draw(config.dropout_rate, *inputs[:-2], 1, inputs[-2], inputs[-2])


def key_value_draw(config: Any, keys: Shape) -> Draw | None:
    """Return the draw of the weights of one query over keys (*B, S, ·)."""
    return None if len(keys) < 2 else _draw(config.dropout_rate, *keys[:-2], 1, 1, keys[-2])


def multi_head_draws(
    config: MultiHeadAttentionConfig, query: Shape, key: Shape
) -> tuple[Draw | None, Draw | None] | None:
    """Return the draws of the weights and of the output, for query inputs (*B, Tq, ·) and key inputs (*B, Tk, ·)."""
    if min(len(query), len(key)) < 2:
        return None
    *batch, length, _ = query
    return (
        _draw(config.dropout_rate, *batch, config.num_heads, length, key[-2]),
        _draw(config.output_dropout_rate, *batch, length, config.output_size or config.model_size),
    )


def cell_draw(config: GatedAttentionCellConfig, inputs: Shape) -> Draw | None:
    """Return the draw of a cell's distribution over the positions of (*B, T, ·)."""
    units = config.model_size // config.num_heads
    return None if len(inputs) < 2 else _draw(config.dropout_rate, *inputs[:-1], units)


def feed_forward_draw(config: FeedForwardConfig, inputs: Shape) -> Draw | None:
    """Return the draw of the hidden units of (*B, T, ·)."""
    return None if len(inputs) < 2 else _draw(config.dropout_rate, *inputs[:-1], config.inner_size)


def encoder_layer_draws(config: BlockConfig, inputs: Shape) -> EncoderLayerDropout | None:
    """Return the draws of an encoder layer over (*B, T, ·)."""
    if not config.dropout_rate or len(inputs) < 2:
        return None
    *batch, length, _ = inputs
    added = _draw(config.dropout_rate, *batch, length, config.model_size)
    return EncoderLayerDropout(
        weights=_draw(config.dropout_rate, *batch, config.num_heads, length, length),
        attention=added,
        hidden=_draw(config.dropout_rate, *batch, length, config.inner_size),
        feed_forward=added,
    )


def decoder_layer_draws(config: BlockConfig, inputs: Shape, memory: Shape) -> DecoderLayerDropout | None:
    """Return the draws of a decoder layer over (*B, T, ·) and a memory (*B, S, ·)."""
    own = encoder_layer_draws(config, inputs)
    if own is None or len(memory) < 2:
        return None
    return DecoderLayerDropout(
        **own._asdict(),
        cross_weights=_draw(config.dropout_rate, *inputs[:-2], config.num_heads, inputs[-2], memory[-2]),
        cross_attention=own.attention,
    )


def encoder_draws(config: StackConfig, inputs: Shape) -> tuple[EncoderLayerDropout | None, ...] | None:
    """Return the draws of a stack of encoder layers."""
    layer = encoder_layer_draws(config, inputs)
    return None if layer is None else (layer,) * config.num_layers


def decoder_draws(config: StackConfig, inputs: Shape, memory: Shape) -> tuple[DecoderLayerDropout | None, ...] | None:
    """Return the draws of a stack of decoder layers."""
    layer = decoder_layer_draws(config, inputs, memory)
    return None if layer is None else (layer,) * config.num_layers


def text_encoder_draws(
    config: TextEncoderConfig | SequenceClassifierConfig, tokens: Shape
) -> TextEncoderDropout | None:
    """Return the draws of a text encoder, or of the one in a classifier, over tokens (*B, T)."""
    if not config.dropout_rate or len(tokens) < 1:
        return None
    embedded = (*tokens, config.model_size)
    layers = (encoder_layer_draws(config, embedded),) * config.num_layers
    return TextEncoderDropout(_draw(config.dropout_rate, *embedded), layers)


def transformer_draws(config: TransformerConfig, source: Shape, target: Shape) -> TransformerDropout | None:
    """Return the draws of a Transformer over tokens (*B, Ts) and (*B, Tt)."""
    if not config.dropout_rate or min(len(source), len(target)) < 1:
        return None
    embedded = (*source, config.model_size), (*target, config.model_size)
    return TransformerDropout(
        source=_draw(config.dropout_rate, *embedded[0]),
        target=_draw(config.dropout_rate, *embedded[1]),
        encoder=(encoder_layer_draws(config, embedded[0]),) * config.num_encoder_layers,
        decoder=(decoder_layer_draws(config, embedded[1], embedded[0]),) * config.num_decoder_layers,
    )


def _draw(rate: float, *shape: Size) -> Draw | None:
    return Draw(rate, shape) if rate else None

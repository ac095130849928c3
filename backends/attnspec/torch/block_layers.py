"""Positions, feed-forward, encoder and decoder layers in PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnspec.contract.block_configs import (
    DecoderConfig,
    DecoderLayerConfig,
    EncoderConfig,
    EncoderLayerConfig,
    FeedForwardConfig,
    LayerNormConfig,
    LearnedPositionsConfig,
    LinearConfig,
    SinusoidalPositionsConfig,
)
from attnspec.contract.layer_dropout import (
    decoder_draws,
    decoder_layer_draws,
    encoder_draws,
    encoder_layer_draws,
    feed_forward_draw,
)
from attnspec.contract.layer_results import DecoderCache, DecoderStep

from . import attention_layers  # noqa: F401 - encoders and decoders build its layers
from .blocks import decoder, decoder_layer, encoder, encoder_layer, feed_forward, layer_norm
from .decoding import decoder_step, start_decoding
from .layer import Layer, shape_of
from .models import add_learned_positions, add_sinusoidal_positions, embedding


class Linear(Layer):
    """An affine map, or an embedding of ids; its arguments: `attnspec.contract.LinearConfig`."""

    Config = LinearConfig

    def forward(self, inputs: Any) -> Tensor:
        """(*B, V) or ids (*B,) → (*B, E)."""
        return embedding(inputs, self.parameter_tree())


class SinusoidalPositions(Layer):
    """Adds sines and cosines of the position; its arguments: `attnspec.contract.SinusoidalPositionsConfig`."""

    Config = SinusoidalPositionsConfig

    def forward(self, inputs: Any, *, offset: Any = 0) -> Tensor:
        """(*B, T, E) → (*B, T, E); the first row stands at position `offset`."""
        return add_sinusoidal_positions(inputs, offset=offset, **self.config.settings())


class LearnedPositions(Layer):
    """Adds a learned vector of the position; its arguments: `attnspec.contract.LearnedPositionsConfig`."""

    Config = LearnedPositionsConfig

    def forward(self, inputs: Any, *, offset: Any = 0) -> Tensor:
        """(*B, T, E) → (*B, T, E); the first row stands at position `offset`."""
        return add_learned_positions(inputs, self.table, offset=offset)


class LayerNorm(Layer):
    """Layer normalisation; its arguments: `attnspec.contract.LayerNormConfig`."""

    Config = LayerNormConfig

    def forward(self, inputs: Any) -> Tensor:
        """(*B, E) → (*B, E)."""
        return layer_norm(inputs, self.parameter_tree(), **self.config.settings())


class FeedForward(Layer):
    """Two affine maps with an activation between them; its arguments: `attnspec.contract.FeedForwardConfig`."""

    Config = FeedForwardConfig

    def forward(self, inputs: Any) -> Tensor:
        """(*B, T, E) → (*B, T, E)."""
        dropout = self._draw(feed_forward_draw, inputs, shape_of(inputs))
        return feed_forward(inputs, self.parameter_tree(), dropout=dropout, **self.config.settings())


class EncoderLayer(Layer):
    """Self-attention and feed-forward; its arguments: `attnspec.contract.EncoderLayerConfig`."""

    Config = EncoderLayerConfig

    def forward(self, inputs: Any, *, mask: Any = None, bias: Any = None) -> Tensor:
        """(*B, T, E) → (*B, T, E)."""
        dropout = self._draw(encoder_layer_draws, inputs, shape_of(inputs))
        return encoder_layer(
            inputs, self.parameter_tree(), mask=mask, bias=bias, dropout=dropout, **self.config.settings()
        )


class DecoderLayer(Layer):
    """Self-attention, attention over the encoder's output, feed-forward: `attnspec.contract.DecoderLayerConfig`."""

    Config = DecoderLayerConfig

    def forward(
        self, inputs: Any, memory: Any, *, mask: Any = None, memory_mask: Any = None, bias: Any = None
    ) -> Tensor:
        """(*B, T, E) and the encoder's output (*B, S, E) → (*B, T, E)."""
        dropout = self._draw(decoder_layer_draws, inputs, shape_of(inputs), shape_of(memory))
        return decoder_layer(
            inputs,
            memory,
            self.parameter_tree(),
            mask=mask,
            memory_mask=memory_mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )


class Encoder(Layer):
    """A stack of encoder layers; its arguments: `attnspec.contract.EncoderConfig`."""

    Config = EncoderConfig

    def forward(self, inputs: Any, *, mask: Any = None, bias: Any = None) -> Tensor:
        """(*B, T, E) → (*B, T, E)."""
        dropout = self._draw(encoder_draws, inputs, shape_of(inputs))
        return encoder(inputs, self.parameter_tree(), mask=mask, bias=bias, dropout=dropout, **self.config.settings())


class Decoder(Layer):
    """A stack of decoder layers; its arguments: `attnspec.contract.DecoderConfig`."""

    Config = DecoderConfig

    def forward(
        self, inputs: Any, memory: Any, *, mask: Any = None, memory_mask: Any = None, bias: Any = None
    ) -> Tensor:
        """(*B, T, E) and the encoder's output (*B, S, E) → (*B, T, E)."""
        dropout = self._draw(decoder_draws, inputs, shape_of(inputs), shape_of(memory))
        return decoder(
            inputs,
            memory,
            self.parameter_tree(),
            mask=mask,
            memory_mask=memory_mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )

    def start(self, memory: Any, capacity: int) -> DecoderCache:
        """Project the encoder's output (*B, S, E) once, and prepare to decode `capacity` positions."""
        config = self.config
        return start_decoding(
            memory,
            self.parameter_tree(),
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            capacity=capacity,
        )

    def step(self, inputs: Any, cache: DecoderCache, *, memory_mask: Any = None) -> DecoderStep:
        """Decode new positions (*B, T, E) after those that the cache holds; nothing is dropped."""
        return decoder_step(inputs, self.parameter_tree(), cache, memory_mask=memory_mask, **self.config.settings())

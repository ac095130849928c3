"""Text encoder, sequence classifier and Transformer in TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from attnspec.contract.layer_dropout import text_encoder_draws, transformer_draws
from attnspec.contract.model_configs import SequenceClassifierConfig, TextEncoderConfig, TransformerConfig
from attnspec.contract.models import holds_ids
from attnspec.contract.positional_masks import causal

from . import block_layers  # noqa: F401 - models build its layers
from .decoding import greedy_decode
from .layer import Layer, shape_of
from .models import sequence_classifier, text_encoder, transformer
from .tensors import NATIVE

_CAUSAL = causal()


class TextEncoder(Layer):
    """Embedding, positions and encoder; its arguments: `attnspec.contract.TextEncoderConfig`."""

    Config = TextEncoderConfig

    def call(
        self, inputs: Any, *, valid: Any = None, mask: Any = None, bias: Any = None, training: bool | None = None
    ) -> tf.Tensor:
        """Encode ids (*B, T) or vectors (*B, T, V), of which `valid` (*B, T) says what is no padding: (*B, T, E)."""
        dropout = self._draw(text_encoder_draws, training, tokens_of("inputs", inputs))
        return text_encoder(
            inputs,
            self.parameter_tree(),
            valid=valid,
            mask=mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )


class SequenceClassifier(Layer):
    """Text encoder, mean over valid positions, head; its arguments: `attnspec.contract.SequenceClassifierConfig`."""

    Config = SequenceClassifierConfig

    def call(
        self, inputs: Any, *, valid: Any = None, mask: Any = None, bias: Any = None, training: bool | None = None
    ) -> tf.Tensor:
        """Classify ids (*B, T) or vectors (*B, T, V): one number for each class, (*B, C)."""
        dropout = self._draw(text_encoder_draws, training, tokens_of("inputs", inputs))
        return sequence_classifier(
            inputs,
            self.parameter_tree(),
            valid=valid,
            mask=mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )


class Transformer(Layer):
    """Encoder and decoder; its arguments: `attnspec.contract.TransformerConfig`."""

    Config = TransformerConfig

    def call(
        self,
        source: Any,
        target: Any,
        *,
        source_valid: Any = None,
        target_mask: Any = _CAUSAL,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Read the source and, at each position of the target, say what comes next: (*B, Tt, C), or E without a head.

        Each is ids (*B, T) or vectors (*B, T, V) where it has an embedding, vectors (*B, T, E) otherwise.
        """
        dropout = self._draw(transformer_draws, training, tokens_of("source", source), tokens_of("target", target))
        return transformer(
            source,
            target,
            self.parameter_tree(),
            source_valid=source_valid,
            target_mask=target_mask,
            dropout=dropout,
            **self.config.settings(),
        )

    def greedy_decode(
        self, source: Any, *, start: int, stop: int, max_length: int, source_valid: Any = None
    ) -> tf.Tensor:
        """Write the most likely next id, again and again, from `start` until `stop`: ids (*B, max_length)."""
        return greedy_decode(
            source,
            self.parameter_tree(),
            start=start,
            stop=stop,
            max_length=max_length,
            source_valid=source_valid,
            **self.config.settings(),
        )


def tokens_of(name: str, inputs: Any) -> tuple[int, ...]:
    """Return the shape (*B, T) of ids (*B, T) or of vectors (*B, T, V)."""
    shape = shape_of(inputs)
    return shape if holds_ids(name, inputs, NATIVE) else shape[:-1]

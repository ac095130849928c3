"""The arguments of text encoder, sequence classifier and Transformer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from .block_configs import BlockConfig, DecoderConfig, EncoderConfig, LinearConfig, check_even
from .layer_config import ParameterSpec, Part, check_choice, check_count, check_flag
from .layer_parameters import SequenceClassifierParameters, TextEncoderParameters, TransformerParameters

POSITIONS = ("sinusoidal", "learned", None)


@dataclass(frozen=True)
class ModelConfig(BlockConfig):
    """What the models share.

    Args:
        positions: sinusoidal, learned or None.
        max_length: how many positions a learned table has; only with learned positions, which need it.
        final_norm: whether a normalisation follows the last layer; by default exactly where `norm` is pre.
        Others: as for `BlockConfig`.
    """

    _: KW_ONLY
    positions: str | None = "sinusoidal"
    max_length: int | None = None
    final_norm: bool | None = None

    def check(self) -> None:
        """Check the arguments."""
        super().check()
        check_choice("positions", self.positions, POSITIONS)
        if self.positions == "sinusoidal":
            check_even(self.model_size)
        if self.positions == "learned":
            if self.max_length is None:
                raise ValueError("learned `positions` need `max_length`, the number of their vectors; got None")
            check_count("max_length", self.max_length)
        elif self.max_length is not None:
            raise ValueError(
                f"`max_length` belongs to learned `positions`; got {self.max_length} beside {self.positions!r}"
            )
        if self.final_norm is not None:
            check_flag("final_norm", self.final_norm)

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {**super().settings(), "positions": self.positions}

    def table(self) -> ParameterSpec | None:
        """Return the table of learned positions."""
        return None if self.max_length is None else ParameterSpec((self.max_length, self.model_size), "normal")

    def encoder_config(self, num_layers: int) -> EncoderConfig:
        """Return the arguments of the encoder inside."""
        return EncoderConfig(num_layers=num_layers, final_norm=self.final_norm, **self.layer_options())

    def decoder_config(self, num_layers: int) -> DecoderConfig:
        """Return the arguments of the decoder inside."""
        return DecoderConfig(num_layers=num_layers, final_norm=self.final_norm, **self.layer_options())


@dataclass(frozen=True)
class TextEncoderConfig(ModelConfig):
    """Embedding, positions and encoder: one vector for each token.

    Args:
        num_layers: how many encoder layers, 0 or more.
        input_size: size of the vocabulary, or of the input vectors, V.
        embedding_bias: whether the embedding has a bias.
        embedding_norm: whether a normalisation follows the embedding.
        Others: as for `ModelConfig`; dropout also follows the embedding.

    Parameters of its own: positions (max_length, E), normal, where they are learned.
    """

    layer: ClassVar[str] = "TextEncoder"
    tree: ClassVar[Any] = TextEncoderParameters
    num_layers: int
    _: KW_ONLY
    input_size: int
    embedding_bias: bool = False
    embedding_norm: bool = False

    def check(self) -> None:
        """Check the arguments."""
        super().check()
        check_count("num_layers", self.num_layers, 0)
        check_count("input_size", self.input_size)
        check_flag("embedding_bias", self.embedding_bias)
        check_flag("embedding_norm", self.embedding_norm)

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        return {
            "embedding": LinearConfig(self.input_size, self.model_size, use_bias=self.embedding_bias),
            "positions": self.table(),
            "embedding_norm": self.normalisation() if self.embedding_norm else None,
            "encoder": self.encoder_config(self.num_layers),
        }


@dataclass(frozen=True)
class SequenceClassifierConfig(TextEncoderConfig):
    """A text encoder, the mean over valid positions, and an affine map to one number for each class.

    Args:
        num_classes: C.
        Others: as for `TextEncoderConfig`.
    """

    layer: ClassVar[str] = "SequenceClassifier"
    tree: ClassVar[Any] = SequenceClassifierParameters
    _: KW_ONLY
    num_classes: int

    def check(self) -> None:
        """Check the arguments."""
        super().check()
        check_count("num_classes", self.num_classes)

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        body = {field.name: getattr(self, field.name) for field in fields(TextEncoderConfig)}
        return {"body": TextEncoderConfig(**body), "head": LinearConfig(self.model_size, self.num_classes)}


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """Encoder and decoder, with embeddings and a head where their sizes are given.

    Args:
        num_encoder_layers, num_decoder_layers: 0 or more.
        source_size, target_size: size of the vocabularies, or of the input vectors; None: inputs of the model size.
        output_size: of the head, C; None: the decoder's output itself.
        Others: as for `ModelConfig`; dropout also follows the embeddings.

    Parameters of its own: source_positions, target_positions (max_length, E), normal, where they are learned.
    """

    layer: ClassVar[str] = "Transformer"
    tree: ClassVar[Any] = TransformerParameters
    _: KW_ONLY
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    source_size: int | None = None
    target_size: int | None = None
    output_size: int | None = None

    def check(self) -> None:
        """Check the arguments."""
        super().check()
        check_count("num_encoder_layers", self.num_encoder_layers, 0)
        check_count("num_decoder_layers", self.num_decoder_layers, 0)
        for name in ("source_size", "target_size", "output_size"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        size = self.model_size
        return {
            "encoder": self.encoder_config(self.num_encoder_layers),
            "decoder": self.decoder_config(self.num_decoder_layers),
            "source_embedding": None
            if self.source_size is None
            else LinearConfig(self.source_size, size, use_bias=False),
            "target_embedding": None
            if self.target_size is None
            else LinearConfig(self.target_size, size, use_bias=False),
            "source_positions": self.table(),
            "target_positions": self.table(),
            "head": None if self.output_size is None else LinearConfig(size, self.output_size),
        }

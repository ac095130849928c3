"""The arguments of positions, feed-forward, encoder and decoder layers."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from .attention_configs import MultiHeadAttentionConfig, check_divides
from .blocks import NORMS, check_activation, check_epsilon
from .layer_config import LayerConfig, ParameterSpec, Part, check_choice, check_count, check_flag, check_rate
from .layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
)
from .rotary import check_base
from .rotary_option import Rotary
from .shapes import check_heads


@dataclass(frozen=True)
class LinearConfig(LayerConfig):
    """An affine map x W + b; integer inputs are one-hot rows, so that it is an embedding too.

    Args:
        input_size: V.
        output_size: E.
        use_bias: whether there is b.

    Parameters: weight (V, E), from glorot_uniform; bias (E,), 0.
    """

    layer: ClassVar[str] = "Linear"
    tree: ClassVar[Any] = LinearParameters
    input_size: int
    output_size: int
    _: KW_ONLY
    use_bias: bool = True

    def check(self) -> None:
        """Check the arguments."""
        check_count("input_size", self.input_size)
        check_count("output_size", self.output_size)
        check_flag("use_bias", self.use_bias)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        return {
            "weight": ParameterSpec((self.input_size, self.output_size)),
            "bias": ParameterSpec((self.output_size,), "zeros") if self.use_bias else None,
        }


@dataclass(frozen=True)
class SinusoidalPositionsConfig(LayerConfig):
    """Adds sines and cosines of the position.

    Args:
        model_size: E, even.
        base: of the wavelengths.

    It has no parameters.
    """

    layer: ClassVar[str] = "SinusoidalPositions"
    model_size: int
    _: KW_ONLY
    base: float = 10000.0

    def check(self) -> None:
        """Check the arguments."""
        check_even(self.model_size)
        check_base(self.base)

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"base": self.base}


@dataclass(frozen=True)
class LearnedPositionsConfig(LayerConfig):
    """Adds a learned vector of the position.

    Args:
        max_length: how many positions have a vector.
        model_size: E.

    Parameters: table (max_length, E), normal.
    """

    layer: ClassVar[str] = "LearnedPositions"
    max_length: int
    model_size: int

    def check(self) -> None:
        """Check the arguments."""
        check_count("max_length", self.max_length)
        check_count("model_size", self.model_size)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        return {"table": ParameterSpec((self.max_length, self.model_size), "normal")}


@dataclass(frozen=True)
class LayerNormConfig(LayerConfig):
    """Layer normalisation.

    Args:
        model_size: E.
        epsilon: added to the variance.
        use_bias: whether there is a bias.

    Parameters: weight (E,), 1; bias (E,), 0.
    """

    layer: ClassVar[str] = "LayerNorm"
    tree: ClassVar[Any] = LayerNormParameters
    model_size: int
    _: KW_ONLY
    epsilon: float = 1e-5
    use_bias: bool = True

    def check(self) -> None:
        """Check the arguments."""
        check_count("model_size", self.model_size)
        check_epsilon(self.epsilon)
        check_flag("use_bias", self.use_bias)

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        return {
            "weight": ParameterSpec((self.model_size,), "ones"),
            "bias": ParameterSpec((self.model_size,), "zeros") if self.use_bias else None,
        }

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"epsilon": self.epsilon}


@dataclass(frozen=True)
class FeedForwardConfig(LayerConfig):
    """Two affine maps with an activation between them.

    Args:
        model_size: E.
        hidden_size: F; by default 4 E.
        activation: relu, gelu (exact), gelu_tanh, silu or tanh.
        use_bias: whether both maps have a bias.
        dropout_rate: after the activation, in training.

    Parameters: hidden_weight (E, F), output_weight (F, E), from glorot_uniform; hidden_bias (F,), output_bias (E,), 0.
    """

    layer: ClassVar[str] = "FeedForward"
    tree: ClassVar[Any] = FeedForwardParameters
    model_size: int
    hidden_size: int | None = None
    _: KW_ONLY
    activation: str = "relu"
    use_bias: bool = True
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("model_size", self.model_size)
        if self.hidden_size is not None:
            check_count("hidden_size", self.hidden_size)
        check_activation(self.activation)
        check_flag("use_bias", self.use_bias)
        check_rate("dropout_rate", self.dropout_rate)

    @property
    def inner_size(self) -> int:
        """F."""
        return 4 * self.model_size if self.hidden_size is None else self.hidden_size

    def parts(self) -> dict[str, Part]:
        """Name the parameters."""
        size, inner = self.model_size, self.inner_size
        return {
            "hidden_weight": ParameterSpec((size, inner)),
            "output_weight": ParameterSpec((inner, size)),
            "hidden_bias": ParameterSpec((inner,), "zeros") if self.use_bias else None,
            "output_bias": ParameterSpec((size,), "zeros") if self.use_bias else None,
        }

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {"activation": self.activation}


@dataclass(frozen=True)
class BlockConfig(LayerConfig):
    """What encoders, decoders and their layers share.

    Args:
        model_size: E.
        num_heads: Hq, which divides E.
        num_kv_heads: Hkv, which divides Hq; by default Hq.
        hidden_size: of the feed-forward, F; by default 4 E.
        norm: post (as in the paper) or pre.
        activation: of the feed-forward: relu, gelu (exact), gelu_tanh, silu or tanh.
        epsilon: of the normalisations.
        use_bias: whether projections, feed-forward and normalisations have biases.
        rotary: `Rotary(pairing, …)` for the self-attention.
        dropout_rate: of the attention weights, of the hidden units, and of what is added to the residual, in training.
    """

    model_size: int
    num_heads: int
    _: KW_ONLY
    num_kv_heads: int | None = None
    hidden_size: int | None = None
    norm: str = "post"
    activation: str = "relu"
    epsilon: float = 1e-5
    use_bias: bool = True
    rotary: Rotary | None = None
    dropout_rate: float = 0.0

    def check(self) -> None:
        """Check the arguments."""
        check_count("model_size", self.model_size)
        check_heads(self.num_heads, self.num_kv_heads)
        check_divides(self.model_size, self.num_heads)
        if self.hidden_size is not None:
            check_count("hidden_size", self.hidden_size)
        check_choice("norm", self.norm, NORMS)
        check_activation(self.activation)
        check_epsilon(self.epsilon)
        check_flag("use_bias", self.use_bias)
        check_rate("dropout_rate", self.dropout_rate)
        self.attention()  # which looks at what only concerns it, `rotary`

    @property
    def inner_size(self) -> int:
        """F."""
        return 4 * self.model_size if self.hidden_size is None else self.hidden_size

    def settings(self) -> dict[str, Any]:
        """Return the options of every call."""
        return {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            "norm": self.norm,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "rotary": self.rotary,
        }

    def layer_options(self) -> dict[str, Any]:
        """Return the arguments of each layer of a stack, but for the numbers of layers and of whatever is around it."""
        return {field.name: getattr(self, field.name) for field in fields(BlockConfig)}

    def attention(self, *, is_cross: bool = False) -> MultiHeadAttentionConfig:
        """Return the arguments of the attention inside."""
        return MultiHeadAttentionConfig(
            self.model_size,
            self.num_heads,
            num_kv_heads=self.num_kv_heads,
            use_bias=self.use_bias,
            rotary=None if is_cross else self.rotary,
            dropout_rate=self.dropout_rate,
        )

    def feed_forward(self) -> FeedForwardConfig:
        """Return the arguments of the feed-forward inside."""
        return FeedForwardConfig(
            self.model_size,
            self.hidden_size,
            activation=self.activation,
            use_bias=self.use_bias,
            dropout_rate=self.dropout_rate,
        )

    def normalisation(self) -> LayerNormConfig:
        """Return the arguments of the normalisations inside."""
        return LayerNormConfig(self.model_size, epsilon=self.epsilon, use_bias=self.use_bias)


@dataclass(frozen=True)
class EncoderLayerConfig(BlockConfig):
    """Self-attention and feed-forward, each with a residual and a normalisation; arguments as for `BlockConfig`."""

    layer: ClassVar[str] = "EncoderLayer"
    tree: ClassVar[Any] = EncoderLayerParameters

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        return {
            "attention": self.attention(),
            "attention_norm": self.normalisation(),
            "feed_forward": self.feed_forward(),
            "feed_forward_norm": self.normalisation(),
        }


@dataclass(frozen=True)
class DecoderLayerConfig(BlockConfig):
    """Self-attention, attention over the encoder's output, feed-forward; arguments as for `BlockConfig`."""

    layer: ClassVar[str] = "DecoderLayer"
    tree: ClassVar[Any] = DecoderLayerParameters

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        return {
            "attention": self.attention(),
            "attention_norm": self.normalisation(),
            "cross_attention": self.attention(is_cross=True),
            "cross_attention_norm": self.normalisation(),
            "feed_forward": self.feed_forward(),
            "feed_forward_norm": self.normalisation(),
        }


@dataclass(frozen=True)
class StackConfig(BlockConfig):
    """What encoders and decoders share.

    Args:
        num_layers: how many layers, 0 or more.
        final_norm: whether a normalisation follows the last layer; by default exactly where `norm` is pre.
        Others: as for `BlockConfig`.
    """

    num_layers: int
    _: KW_ONLY
    final_norm: bool | None = None

    def check(self) -> None:
        """Check the arguments."""
        super().check()
        check_count("num_layers", self.num_layers, 0)
        if self.final_norm is not None:
            check_flag("final_norm", self.final_norm)

    @property
    def has_final_norm(self) -> bool:
        """Whether a normalisation follows the last layer."""
        return self.norm == "pre" if self.final_norm is None else self.final_norm

    def stack(self, layer: type[BlockConfig]) -> dict[str, Part]:
        """Name the layers inside."""
        return {
            "layers": (layer(**self.layer_options()),) * self.num_layers,
            "norm": self.normalisation() if self.has_final_norm else None,
        }


@dataclass(frozen=True)
class EncoderConfig(StackConfig):
    """A stack of encoder layers; arguments as for `StackConfig`."""

    layer: ClassVar[str] = "Encoder"
    tree: ClassVar[Any] = EncoderParameters

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        return self.stack(EncoderLayerConfig)


@dataclass(frozen=True)
class DecoderConfig(StackConfig):
    """A stack of decoder layers; arguments as for `StackConfig`."""

    layer: ClassVar[str] = "Decoder"
    tree: ClassVar[Any] = DecoderParameters

    def parts(self) -> dict[str, Part]:
        """Name the layers inside."""
        return self.stack(DecoderLayerConfig)


def check_even(model_size: Any) -> None:
    """Check that sines and cosines fill a vector."""
    check_count("model_size", model_size)
    if model_size % 2:
        raise ValueError(f"`model_size` must be even for sinusoidal positions; got {model_size}")

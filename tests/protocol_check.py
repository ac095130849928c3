"""For the type checker only: every module fits one Protocol. `mypy` reads this file (see pyproject.toml)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attnspec.contract
import attnspec.jax
import attnspec.reference
import attnspec.tensorflow
import attnspec.torch
from attnspec.contract import Bias, Mask


class AttentionModule(Protocol):
    """What `import attnspec.<framework> as attn` gives."""

    # Read-only, so that a module's own class object fits.
    @property
    def MultiHeadParameters(self) -> type: ...  # noqa: N802 - the class's name

    @property
    def AttentionStages(self) -> type: ...  # noqa: N802

    @property
    def PartialAttention(self) -> type: ...  # noqa: N802

    @property
    def Dropout(self) -> type: ...  # noqa: N802

    @property
    def LinearParameters(self) -> type: ...  # noqa: N802

    @property
    def AdditiveParameters(self) -> type: ...  # noqa: N802

    @property
    def GatedAttentionParameters(self) -> type: ...  # noqa: N802

    @property
    def GatedAttentionCellParameters(self) -> type: ...  # noqa: N802

    @property
    def LayerNormParameters(self) -> type: ...  # noqa: N802

    @property
    def FeedForwardParameters(self) -> type: ...  # noqa: N802

    @property
    def EncoderLayerParameters(self) -> type: ...  # noqa: N802

    @property
    def DecoderLayerParameters(self) -> type: ...  # noqa: N802

    @property
    def EncoderParameters(self) -> type: ...  # noqa: N802

    @property
    def DecoderParameters(self) -> type: ...  # noqa: N802

    @property
    def TextEncoderParameters(self) -> type: ...  # noqa: N802

    @property
    def SequenceClassifierParameters(self) -> type: ...  # noqa: N802

    @property
    def TransformerParameters(self) -> type: ...  # noqa: N802

    @property
    def CellState(self) -> type: ...  # noqa: N802

    @property
    def CellResult(self) -> type: ...  # noqa: N802

    @property
    def CellStages(self) -> type: ...  # noqa: N802

    @property
    def EncoderLayerDropout(self) -> type: ...  # noqa: N802

    @property
    def DecoderLayerDropout(self) -> type: ...  # noqa: N802

    @property
    def TextEncoderDropout(self) -> type: ...  # noqa: N802

    @property
    def TransformerDropout(self) -> type: ...  # noqa: N802

    @property
    def KeyValueCache(self) -> type: ...  # noqa: N802

    @property
    def CachedAttention(self) -> type: ...  # noqa: N802

    @property
    def DecoderCache(self) -> type: ...  # noqa: N802

    @property
    def DecoderStep(self) -> type: ...  # noqa: N802

    @property
    def Rotary(self) -> type: ...  # noqa: N802

    def dot_product_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def attention_stages(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def attention_with_logsumexp(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.PartialAttention: ...

    def merge_attention(
        self, outputs: Any, logsumexps: Any, *, sinks: Any = None
    ) -> attnspec.contract.PartialAttention: ...

    def self_attention(
        self,
        inputs: Any,
        query_weight: Any,
        key_weight: Any,
        value_weight: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def key_value_attention(
        self,
        query: Any,
        keys: Any,
        values: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def multi_head_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        parameters: attnspec.reference.MultiHeadParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def empty_cache(
        self,
        batch_shape: tuple[int, ...],
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        dtype: Any = "float32",
    ) -> attnspec.contract.KeyValueCache: ...

    def cached_multi_head_attention(
        self,
        inputs: Any,
        parameters: attnspec.contract.MultiHeadParameters,
        cache: attnspec.contract.KeyValueCache,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.CachedAttention: ...

    def hard_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        top_k: int,
        noise: Any = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
    ) -> Any: ...

    def additive_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        parameters: attnspec.contract.AdditiveParameters,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def bilinear_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        weight: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def cosine_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def attention_gate(self, inputs: Any, parameters: attnspec.contract.LinearParameters) -> Any: ...

    def gated_input(self, inputs: Any, parameters: attnspec.contract.LinearParameters) -> Any: ...

    def gated_attention(self, inputs: Any, parameters: attnspec.contract.GatedAttentionParameters) -> Any: ...

    def gated_attention_cell(
        self,
        inputs: Any,
        state: attnspec.contract.CellState,
        parameters: attnspec.contract.GatedAttentionCellParameters,
        *,
        valid: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.CellResult: ...

    def gated_attention_cell_stages(
        self,
        inputs: Any,
        state: attnspec.contract.CellState,
        parameters: attnspec.contract.GatedAttentionCellParameters,
        *,
        valid: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.CellStages: ...

    def layer_norm(
        self, inputs: Any, parameters: attnspec.contract.LayerNormParameters, *, epsilon: float = 1e-5
    ) -> Any: ...

    def feed_forward(
        self,
        inputs: Any,
        parameters: attnspec.contract.FeedForwardParameters,
        *,
        activation: str = "relu",
        dropout: Any = None,
    ) -> Any: ...

    def encoder_layer(
        self,
        inputs: Any,
        parameters: attnspec.contract.EncoderLayerParameters,
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
    ) -> Any: ...

    def encoder(
        self,
        inputs: Any,
        parameters: attnspec.contract.EncoderParameters,
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
    ) -> Any: ...

    def decoder_layer(
        self,
        inputs: Any,
        memory: Any,
        parameters: attnspec.contract.DecoderLayerParameters,
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
    ) -> Any: ...

    def decoder(
        self,
        inputs: Any,
        memory: Any,
        parameters: attnspec.contract.DecoderParameters,
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
    ) -> Any: ...

    def embedding(self, inputs: Any, parameters: attnspec.contract.LinearParameters) -> Any: ...

    def add_sinusoidal_positions(self, inputs: Any, *, offset: Any = 0, base: float = 10000.0) -> Any: ...

    def add_learned_positions(self, inputs: Any, table: Any, *, offset: Any = 0) -> Any: ...

    def mean_pooling(self, inputs: Any, *, valid: Any = None) -> Any: ...

    def text_encoder(
        self,
        inputs: Any,
        parameters: attnspec.contract.TextEncoderParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        valid: Any = None,
        mask: Any = None,
        bias: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def sequence_classifier(
        self,
        inputs: Any,
        parameters: attnspec.contract.SequenceClassifierParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        valid: Any = None,
        mask: Any = None,
        bias: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def transformer(
        self,
        source: Any,
        target: Any,
        parameters: attnspec.contract.TransformerParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        source_valid: Any = None,
        target_mask: Any = ...,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def start_decoding(
        self,
        memory: Any,
        parameters: attnspec.contract.DecoderParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        capacity: int,
    ) -> attnspec.contract.DecoderCache: ...

    def decoder_step(
        self,
        inputs: Any,
        parameters: attnspec.contract.DecoderParameters,
        cache: attnspec.contract.DecoderCache,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        memory_mask: Any = None,
        bias: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.DecoderStep: ...

    def greedy_decode(
        self,
        source: Any,
        parameters: attnspec.contract.TransformerParameters,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        start: int,
        stop: int,
        max_length: int,
        source_valid: Any = None,
        rotary: Any = None,
    ) -> Any: ...

    def rotary_embedding(
        self,
        inputs: Any,
        positions: Any,
        *,
        pairing: str,
        base: float | None = None,
        rotary_dim: int | None = None,
        frequencies: Any = None,
    ) -> Any: ...

    def rotate_pairs(self, inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> Any: ...

    def sinusoidal_positions(
        self, positions: Any, size: int, *, base: float = 10000.0, dtype: str | None = None
    ) -> Any: ...

    def causal(self, offset: Any = None) -> Mask: ...

    def sliding_window(self, left: int | None = None, right: int | None = None, offset: Any = None) -> Mask: ...

    def key_lengths(self, n: Any) -> Mask: ...

    def query_lengths(self, n: Any) -> Mask: ...

    def segments(self, query_ids: Any, key_ids: Any) -> Mask: ...

    def prefix(self, lengths: Any, offset: Any = None) -> Mask: ...

    def chunked(self, size: int, offset: Any = None) -> Mask: ...

    def predicate(self, name: str, function: Callable[[Any, Any], Any]) -> Mask: ...

    def full(self) -> Mask: ...

    def mask_to_json(self, mask: Mask) -> dict[str, Any]: ...

    def mask_from_json(self, data: Any, predicates: Mapping[str, Callable[[Any, Any], Any]] | None = None) -> Mask: ...

    def alibi(self, slopes: Any = None, *, symmetric: bool, offset: Any = None) -> Bias: ...

    def alibi_slopes(self, num_heads: int) -> tuple[float, ...]: ...

    def relative_position_bias(
        self, table: Any, *, bidirectional: bool, max_distance: int = 128, offset: Any = None
    ) -> Bias: ...


class LayerModule(AttentionModule, Protocol):
    """What the backends have beside it: layers, and their interchange with the framework's own."""

    @property
    def Layer(self) -> type: ...  # noqa: N802

    @property
    def DotProductAttention(self) -> type: ...  # noqa: N802

    @property
    def SelfAttention(self) -> type: ...  # noqa: N802

    @property
    def KeyValueAttention(self) -> type: ...  # noqa: N802

    @property
    def MultiHeadAttention(self) -> type: ...  # noqa: N802

    @property
    def HardAttention(self) -> type: ...  # noqa: N802

    @property
    def AdditiveAttention(self) -> type: ...  # noqa: N802

    @property
    def GatedAttention(self) -> type: ...  # noqa: N802

    @property
    def GatedAttentionCell(self) -> type: ...  # noqa: N802

    @property
    def SinusoidalPositions(self) -> type: ...  # noqa: N802

    @property
    def LearnedPositions(self) -> type: ...  # noqa: N802

    @property
    def Linear(self) -> type: ...  # noqa: N802

    @property
    def LayerNorm(self) -> type: ...  # noqa: N802

    @property
    def FeedForward(self) -> type: ...  # noqa: N802

    @property
    def EncoderLayer(self) -> type: ...  # noqa: N802

    @property
    def DecoderLayer(self) -> type: ...  # noqa: N802

    @property
    def Encoder(self) -> type: ...  # noqa: N802

    @property
    def Decoder(self) -> type: ...  # noqa: N802

    @property
    def TextEncoder(self) -> type: ...  # noqa: N802

    @property
    def SequenceClassifier(self) -> type: ...  # noqa: N802

    @property
    def Transformer(self) -> type: ...  # noqa: N802

    # Each takes what belongs to its framework, too.
    @property
    def from_native(self) -> Callable[..., Any]: ...

    @property
    def to_native(self) -> Callable[..., Any]: ...


class GradientModule(Protocol):
    """What `attnspec.reference` has beside it."""

    @property
    def AttentionGradients(self) -> type: ...  # noqa: N802

    def dot_product_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        output_cotangent: Any,
        *,
        logsumexp_cotangent: Any = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> attnspec.reference.AttentionGradients: ...

    def self_attention_vjp(
        self,
        inputs: Any,
        query_weight: Any,
        key_weight: Any,
        value_weight: Any,
        output_cotangent: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def key_value_attention_vjp(
        self,
        query: Any,
        keys: Any,
        values: Any,
        output_cotangent: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> attnspec.reference.AttentionGradients: ...

    def multi_head_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        parameters: attnspec.reference.MultiHeadParameters,
        output_cotangent: Any,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def rotary_embedding_vjp(
        self,
        positions: Any,
        output_cotangent: Any,
        *,
        pairing: str,
        base: float | None = None,
        rotary_dim: int | None = None,
        frequencies: Any = None,
    ) -> Any: ...

    def run_layer(self, config: attnspec.contract.LayerConfig, state: Any, *inputs: Any, **options: Any) -> Any: ...

    def hard_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        output_cotangent: Any,
        *,
        top_k: int,
        noise: Any = None,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
    ) -> attnspec.contract.AttentionGradients: ...

    def additive_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        parameters: attnspec.contract.AdditiveParameters,
        output_cotangent: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def bilinear_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        weight: Any,
        output_cotangent: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def cosine_attention_vjp(
        self,
        query: Any,
        key: Any,
        value: Any,
        output_cotangent: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout: Any = None,
    ) -> attnspec.contract.AttentionGradients: ...

    def attention_gate_vjp(
        self, inputs: Any, parameters: attnspec.contract.LinearParameters, output_cotangent: Any
    ) -> Any: ...

    def gated_input_vjp(
        self, inputs: Any, parameters: attnspec.contract.LinearParameters, output_cotangent: Any
    ) -> Any: ...

    def gated_attention_vjp(
        self, inputs: Any, parameters: attnspec.contract.GatedAttentionParameters, output_cotangent: Any
    ) -> Any: ...

    def gated_attention_cell_vjp(
        self,
        inputs: Any,
        state: attnspec.contract.CellState,
        parameters: attnspec.contract.GatedAttentionCellParameters,
        outputs_cotangent: Any,
        *,
        state_cotangent: Any = None,
        valid: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def layer_norm_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.LayerNormParameters,
        output_cotangent: Any,
        *,
        epsilon: float = 1e-5,
    ) -> Any: ...

    def feed_forward_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.FeedForwardParameters,
        output_cotangent: Any,
        *,
        activation: str = "relu",
        dropout: Any = None,
    ) -> Any: ...

    def encoder_layer_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.EncoderLayerParameters,
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
    ) -> Any: ...

    def encoder_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.EncoderParameters,
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
    ) -> Any: ...

    def decoder_layer_vjp(
        self,
        inputs: Any,
        memory: Any,
        parameters: attnspec.contract.DecoderLayerParameters,
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
    ) -> Any: ...

    def decoder_vjp(
        self,
        inputs: Any,
        memory: Any,
        parameters: attnspec.contract.DecoderParameters,
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
    ) -> Any: ...

    def embedding_vjp(
        self, inputs: Any, parameters: attnspec.contract.LinearParameters, output_cotangent: Any
    ) -> Any: ...

    def add_learned_positions_vjp(self, inputs: Any, table: Any, output_cotangent: Any, *, offset: Any = 0) -> Any: ...

    def mean_pooling_vjp(self, inputs: Any, output_cotangent: Any, *, valid: Any = None) -> Any: ...

    def text_encoder_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.TextEncoderParameters,
        output_cotangent: Any,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        valid: Any = None,
        mask: Any = None,
        bias: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def sequence_classifier_vjp(
        self,
        inputs: Any,
        parameters: attnspec.contract.SequenceClassifierParameters,
        output_cotangent: Any,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        valid: Any = None,
        mask: Any = None,
        bias: Any = None,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...

    def transformer_vjp(
        self,
        source: Any,
        target: Any,
        parameters: attnspec.contract.TransformerParameters,
        output_cotangent: Any,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        norm: str = "post",
        activation: str = "relu",
        epsilon: float = 1e-5,
        positions: str | None = "sinusoidal",
        source_valid: Any = None,
        target_mask: Any = ...,
        rotary: Any = None,
        dropout: Any = None,
    ) -> Any: ...


REFERENCE: AttentionModule = attnspec.reference
TORCH: LayerModule = attnspec.torch
TENSORFLOW: LayerModule = attnspec.tensorflow
JAX: LayerModule = attnspec.jax
GRADIENTS: GradientModule = attnspec.reference

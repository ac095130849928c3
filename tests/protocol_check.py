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


REFERENCE: AttentionModule = attnspec.reference
TORCH: AttentionModule = attnspec.torch
TENSORFLOW: AttentionModule = attnspec.tensorflow
JAX: AttentionModule = attnspec.jax
GRADIENTS: GradientModule = attnspec.reference

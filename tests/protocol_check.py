"""For the type checker only: every module fits one Protocol. `mypy` reads this file (see pyproject.toml)."""

from __future__ import annotations

from typing import Any, Protocol

import attnspec.jax
import attnspec.reference
import attnspec.tensorflow
import attnspec.torch
from attnspec.contract import Mask


class AttentionModule(Protocol):
    """What `import attnspec.<framework> as attn` gives."""

    # Read-only, so that a module's own class object fits.
    @property
    def MultiHeadParameters(self) -> type: ...  # noqa: N802 - the class's name

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
    ) -> Any: ...

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
    ) -> Any: ...

    def causal(self, offset: Any = None) -> Mask: ...

    def sliding_window(self, left: int | None = None, right: int | None = None, offset: Any = None) -> Mask: ...

    def key_lengths(self, n: Any) -> Mask: ...

    def query_lengths(self, n: Any) -> Mask: ...

    def full(self) -> Mask: ...


REFERENCE: AttentionModule = attnspec.reference
TORCH: AttentionModule = attnspec.torch
TENSORFLOW: AttentionModule = attnspec.tensorflow
JAX: AttentionModule = attnspec.jax

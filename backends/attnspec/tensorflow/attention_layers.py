"""Attention layers in TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from attnspec.contract.attention_configs import (
    AdditiveAttentionConfig,
    DotProductAttentionConfig,
    GatedAttentionCellConfig,
    GatedAttentionConfig,
    HardAttentionConfig,
    KeyValueAttentionConfig,
    MultiHeadAttentionConfig,
    SelfAttentionConfig,
)
from attnspec.contract.layer_dropout import (
    cell_draw,
    key_value_draw,
    multi_head_draws,
    pair_draw,
    self_attention_draw,
)
from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.layer_results import CachedAttention, CellResult, CellState, KeyValueCache

from .attention import dot_product_attention
from .blocks import drop
from .decoding import cached_multi_head_attention, empty_cache
from .gates import gated_attention, gated_attention_cell
from .layer import Layer, shape_of
from .models import embedding
from .projections import key_value_attention, multi_head_attention, self_attention
from .similarities import additive_attention, hard_attention


class DotProductAttention(Layer):
    """Attention of tensors that come projected; its arguments: `attnspec.contract.DotProductAttentionConfig`."""

    Config = DotProductAttentionConfig

    def call(
        self, query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None, training: bool | None = None
    ) -> tf.Tensor:
        """Attend as `dot_product_attention` does: (*B, Hq, Tq, Dv)."""
        dropout = self._draw(pair_draw, training, shape_of(query), shape_of(key))
        settings = self.config.settings()
        if self.scale is not None:
            settings["scale"] = self.value_of(self.scale)
        return dot_product_attention(query, key, value, mask=mask, bias=bias, dropout=dropout, **settings)


class SelfAttention(Layer):
    """Self-attention with one head; its arguments: `attnspec.contract.SelfAttentionConfig`."""

    Config = SelfAttentionConfig

    def call(self, inputs: Any, *, mask: Any = None, bias: Any = None, training: bool | None = None) -> tf.Tensor:
        """Let every position of (*B, T, E) attend to the sequence: (*B, T, Dv)."""
        dropout = self._draw(self_attention_draw, training, shape_of(inputs))
        return self_attention(
            inputs,
            self.value_of(self.query_weight),
            self.value_of(self.key_weight),
            self.value_of(self.value_weight),
            mask=mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )


class KeyValueAttention(Layer):
    """One query reads a memory of pairs; its arguments: `attnspec.contract.KeyValueAttentionConfig`."""

    Config = KeyValueAttentionConfig

    def call(
        self, query: Any, keys: Any, values: Any, *, mask: Any = None, bias: Any = None, training: bool | None = None
    ) -> tf.Tensor:
        """Read the memory (*B, S, Dk), (*B, S, Dv) with the query (*B, Dk), or with what it is projected from."""
        dropout = self._draw(key_value_draw, training, shape_of(keys))
        if self.query_weight is not None:
            query = embedding(query, LinearParameters(self.value_of(self.query_weight)))
        return key_value_attention(query, keys, values, mask=mask, bias=bias, dropout=dropout, **self.config.settings())


class MultiHeadAttention(Layer):
    """Multi-head attention with all its options; its arguments: `attnspec.contract.MultiHeadAttentionConfig`."""

    Config = MultiHeadAttentionConfig

    def call(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        mask: Any = None,
        bias: Any = None,
        offset: Any = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Let the queries (*B, Tq, E) attend: (*B, Tq, E_out). Keys default to the queries, values to the keys.

        `offset` says at which key position query 0 stands, for `window` and `rotary` (S7).
        """
        key = query if key is None else key
        value = key if value is None else value
        weights, kept = self._draw(multi_head_draws, training, shape_of(query), shape_of(key)) or (None, None)
        output = multi_head_attention(
            query,
            key,
            value,
            self.parameter_tree(),
            mask=self.config.windowed(mask, offset),
            bias=bias,
            sinks=self.value_of(self.sinks),
            dropout=weights,
            **self.config.settings_at(offset),
        )
        return drop(output, kept)

    def empty_cache(self, batch_shape: tuple[int, ...], capacity: int) -> KeyValueCache:
        """Return a cache for `capacity` positions, with nothing in it."""
        config = self.config
        sizes = config.kv_heads, config.query_dim, config.value_dim
        return empty_cache(batch_shape, capacity, *sizes, dtype=self.compute_dtype)

    def step(self, inputs: Any, cache: KeyValueCache, *, mask: Any = None, bias: Any = None) -> CachedAttention:
        """Let new positions (*B, T, E) attend to themselves and to all before them, which the cache holds.

        Nothing is dropped.
        """
        return cached_multi_head_attention(
            inputs,
            self.parameter_tree(),
            cache,
            mask=self.config.windowed(mask, cache.length),
            bias=bias,
            sinks=self.value_of(self.sinks),
            **self.config.settings(),
        )


class HardAttention(Layer):
    """Each query reads its best keys; its arguments: `attnspec.contract.HardAttentionConfig`."""

    Config = HardAttentionConfig

    def call(
        self, query: Any, key: Any, value: Any, *, noise: Any = None, mask: Any = None, bias: Any = None
    ) -> tf.Tensor:
        """Attend as `hard_attention` does: (*B, Hq, Tq, Dv)."""
        return hard_attention(query, key, value, noise=noise, mask=mask, bias=bias, **self.config.settings())


class AdditiveAttention(Layer):
    """Additive attention; its arguments: `attnspec.contract.AdditiveAttentionConfig`."""

    Config = AdditiveAttentionConfig

    def call(
        self, query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None, training: bool | None = None
    ) -> tf.Tensor:
        """Attend as `additive_attention` does: (*B, Hq, Tq, Dv)."""
        dropout = self._draw(pair_draw, training, shape_of(query), shape_of(key))
        return additive_attention(
            query, key, value, self.parameter_tree(), mask=mask, bias=bias, dropout=dropout, **self.config.settings()
        )


class GatedAttention(Layer):
    """Gated attention over hidden units; its arguments: `attnspec.contract.GatedAttentionConfig`."""

    Config = GatedAttentionConfig

    def call(self, inputs: Any) -> tf.Tensor:
        """(*B, T, D) → (*B, T, n)."""
        return gated_attention(inputs, self.parameter_tree())


class GatedAttentionCell(Layer):
    """A recurrent memory that reads a sequence; its arguments: `attnspec.contract.GatedAttentionCellConfig`."""

    Config = GatedAttentionCellConfig

    def empty_state(self, batch_shape: tuple[int, ...]) -> CellState:
        """Return the state before the first call, zeros."""
        zeros = tf.zeros((*batch_shape, self.config.model_size), self.compute_dtype)
        return CellState(zeros, zeros)

    def call(self, inputs: Any, state: CellState, *, valid: Any = None, training: bool | None = None) -> CellResult:
        """Read the valid positions of (*B, T, D): outputs (*B, C) and the next state, which the caller keeps."""
        if type(state) in (list, tuple):  # what Keras makes of it in the file of a model
            state = CellState(*state)
        dropout = self._draw(cell_draw, training, shape_of(inputs))
        return gated_attention_cell(inputs, state, self.parameter_tree(), valid=valid, dropout=dropout)

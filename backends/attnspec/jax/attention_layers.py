"""Attention layers in JAX."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

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
from attnspec.contract.layer_dropout import Draw, multi_head_draws, single_head_draw
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

    def __call__(self, query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None) -> Array:
        """Attend as `dot_product_attention` does: (*B, Hq, Tq, Dv)."""
        shape = (*shape_of(query)[:-1], shape_of(key)[-2])
        rate = self.config.dropout_rate
        dropout = self._draw(Draw(rate, shape) if rate else None)
        settings = self.config.settings()
        if self.scale is not None:
            settings["scale"] = self.scale[...]
        return dot_product_attention(query, key, value, mask=mask, bias=bias, dropout=dropout, **settings)


class SelfAttention(Layer):
    """Self-attention with one head; its arguments: `attnspec.contract.SelfAttentionConfig`."""

    Config = SelfAttentionConfig

    def __call__(self, inputs: Any, *, mask: Any = None, bias: Any = None) -> Array:
        """Let every position of (*B, T, E) attend to the sequence: (*B, T, Dv)."""
        *batch, length, _ = shape_of(inputs)
        dropout = self._draw(single_head_draw(self.config.dropout_rate, tuple(batch), length, length))
        return self_attention(
            inputs,
            self.query_weight[...],
            self.key_weight[...],
            self.value_weight[...],
            mask=mask,
            bias=bias,
            dropout=dropout,
            **self.config.settings(),
        )


class KeyValueAttention(Layer):
    """One query reads a memory of pairs; its arguments: `attnspec.contract.KeyValueAttentionConfig`."""

    Config = KeyValueAttentionConfig

    def __call__(self, query: Any, keys: Any, values: Any, *, mask: Any = None, bias: Any = None) -> Array:
        """Read the memory (*B, S, Dk), (*B, S, Dv) with the query (*B, Dk), or with what it is projected from."""
        *batch, length, _ = shape_of(keys)
        dropout = self._draw(single_head_draw(self.config.dropout_rate, tuple(batch), 1, length))
        if self.query_weight is not None:
            query = embedding(query, LinearParameters(self.query_weight[...]))
        return key_value_attention(query, keys, values, mask=mask, bias=bias, dropout=dropout, **self.config.settings())


class MultiHeadAttention(Layer):
    """Multi-head attention with all its options; its arguments: `attnspec.contract.MultiHeadAttentionConfig`."""

    Config = MultiHeadAttentionConfig

    def __call__(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        mask: Any = None,
        bias: Any = None,
        offset: Any = None,
    ) -> Array:
        """Let the queries (*B, Tq, E) attend: (*B, Tq, E_out). Keys default to the queries, values to the keys.

        `offset` says at which key position query 0 stands, for `window` and `rotary` (S7).
        """
        key = query if key is None else key
        value = key if value is None else value
        *batch, length, _ = shape_of(query)
        draws = multi_head_draws(self.config, tuple(batch), length, shape_of(key)[-2])
        weights, kept = (self._draw(draw) for draw in draws)
        output = multi_head_attention(
            query,
            key,
            value,
            self.parameter_tree(),
            mask=self.config.windowed(mask, offset),
            bias=bias,
            sinks=self._sinks(),
            dropout=weights,
            **self.config.settings_at(offset),
        )
        return drop(output, kept)

    def empty_cache(self, batch_shape: tuple[int, ...], capacity: int) -> KeyValueCache:
        """Return a cache for `capacity` positions, with nothing in it."""
        config = self.config
        value_dim = config.value_dim or config.query_dim
        return empty_cache(batch_shape, capacity, config.kv_heads, config.query_dim, value_dim, dtype=self.dtype)

    def step(self, inputs: Any, cache: KeyValueCache, *, mask: Any = None, bias: Any = None) -> CachedAttention:
        """Let new positions (*B, T, E) attend to themselves and to all before them, which the cache holds."""
        return cached_multi_head_attention(
            inputs,
            self.parameter_tree(),
            cache,
            mask=self.config.windowed(mask, cache.length),
            bias=bias,
            sinks=self._sinks(),
            **self.config.settings(),
        )

    def _sinks(self) -> Any:
        return None if self.sinks is None else self.sinks[...]


class HardAttention(Layer):
    """Each query reads its best keys; its arguments: `attnspec.contract.HardAttentionConfig`."""

    Config = HardAttentionConfig

    def __call__(
        self, query: Any, key: Any, value: Any, *, noise: Any = None, mask: Any = None, bias: Any = None
    ) -> Array:
        """Attend as `hard_attention` does: (*B, Hq, Tq, Dv)."""
        return hard_attention(query, key, value, noise=noise, mask=mask, bias=bias, **self.config.settings())


class AdditiveAttention(Layer):
    """Additive attention; its arguments: `attnspec.contract.AdditiveAttentionConfig`."""

    Config = AdditiveAttentionConfig

    def __call__(self, query: Any, key: Any, value: Any, *, mask: Any = None, bias: Any = None) -> Array:
        """Attend as `additive_attention` does: (*B, Hq, Tq, Dv)."""
        shape = (*shape_of(query)[:-1], shape_of(key)[-2])
        rate = self.config.dropout_rate
        dropout = self._draw(Draw(rate, shape) if rate else None)
        return additive_attention(
            query, key, value, self.parameter_tree(), mask=mask, bias=bias, dropout=dropout, **self.config.settings()
        )


class GatedAttention(Layer):
    """Gated attention over hidden units; its arguments: `attnspec.contract.GatedAttentionConfig`."""

    Config = GatedAttentionConfig

    def __call__(self, inputs: Any) -> Array:
        """(*B, T, D) → (*B, T, n)."""
        return gated_attention(inputs, self.parameter_tree())


class GatedAttentionCell(Layer):
    """A recurrent memory that reads a sequence; its arguments: `attnspec.contract.GatedAttentionCellConfig`."""

    Config = GatedAttentionCellConfig

    def empty_state(self, batch_shape: tuple[int, ...]) -> CellState:
        """Return the state before the first call, zeros."""
        zeros = jnp.zeros((*batch_shape, self.config.model_size), self.dtype)
        return CellState(zeros, zeros)

    def __call__(self, inputs: Any, state: CellState, *, valid: Any = None) -> CellResult:
        """Read the valid positions of (*B, T, D): outputs (*B, C) and the next state, which the caller keeps."""
        *batch, length, _ = shape_of(inputs)
        rate, units = self.config.dropout_rate, self.config.model_size // self.config.num_heads
        dropout = self._draw(Draw(rate, (*batch, length, units)) if rate else None)
        return gated_attention_cell(inputs, state, self.parameter_tree(), valid=valid, dropout=dropout)

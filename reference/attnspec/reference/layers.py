"""Layers in the reference: plain functions of the layer's arguments, its state and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnspec.contract.attention_configs import MultiHeadAttentionConfig
from attnspec.contract.layer_config import LayerConfig
from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.layer_states import check_entries
from attnspec.contract.operands import check_floating
from attnspec.contract.operands import describe as describe_value

from .attention import dot_product_attention, widen
from .blocks import decoder, decoder_layer, encoder, encoder_layer, feed_forward, layer_norm
from .gates import gated_attention, gated_attention_cell
from .models import (
    add_learned_positions,
    add_sinusoidal_positions,
    embedding,
    sequence_classifier,
    text_encoder,
    transformer,
)
from .projections import key_value_attention, multi_head_attention, self_attention
from .similarities import additive_attention, hard_attention
from .tensors import as_tensors, describe


def run_layer(config: LayerConfig, state: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
    """Compute what a layer with these arguments and this state computes, in evaluation.

    Args:
        config: the arguments of a layer, such as `EncoderConfig(512, 8, 6)`.
        state: its parameters by their canonical names, NumPy arrays of the dtype of the inputs (`initial_state(config,
            seed)`, `layer.state()` of any framework, `read_state(path)`).
        inputs, options: as for the call of the layer in every framework.

    Returns:
        What the layer's operation returns, float64.

    Raises:
        StateError: a state that does not fit the arguments; every entry that does not is named.
        ValueError, TypeError: as for the layer's operation.
    """
    if not isinstance(config, LayerConfig):
        got = describe_value(config)
        raise TypeError(f"`config` must be the arguments of a layer, such as EncoderConfig(…); got {got}")
    values = check_entries(config, state)
    return _RUN[config.layer](config, values, *inputs, **options)


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call an operation that takes its inputs, then its tree of parameters."""

    def run(config: LayerConfig, values: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
        return function(*inputs, config.parameter_tree(values), **config.settings(), **options)

    return run


def _without_parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(config: LayerConfig, values: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
        del values
        return function(*inputs, **config.settings(), **options)

    return run


def _dot_product(
    config: LayerConfig, values: Mapping[str, Any], query: Any, key: Any, value: Any, **options: Any
) -> Any:
    given = config.settings() | dict(values) | options
    return dot_product_attention(query, key, value, **given)


def _self_attention(config: LayerConfig, values: Mapping[str, Any], inputs: Any, **options: Any) -> Any:
    query_weight, key_weight, value_weight = values.values()
    return self_attention(inputs, query_weight, key_weight, value_weight, **config.settings(), **options)


def _key_value(
    config: LayerConfig, parameters: Mapping[str, Any], query: Any, keys: Any, values: Any, **options: Any
) -> Any:
    if "query_weight" in parameters:
        query = embedding(query, LinearParameters(parameters["query_weight"]))  # float64, whatever dtype comes in
        weight, keys, values = as_tensors(query_weight=parameters["query_weight"], keys=keys, values=values)
        check_floating(query_weight=describe(weight), keys=describe(keys), values=describe(values))
        keys, values = widen(keys), widen(values)
    return key_value_attention(query, keys, values, **config.settings(), **options)


def _multi_head(
    config: MultiHeadAttentionConfig,
    values: Mapping[str, Any],
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    mask: Any = None,
    bias: Any = None,
    offset: Any = None,
) -> Any:
    key = query if key is None else key
    value = key if value is None else value
    return multi_head_attention(
        query,
        key,
        value,
        config.parameter_tree(values),
        mask=config.windowed(mask, offset),
        bias=bias,
        sinks=values.get("sinks"),
        **config.settings_at(offset),
    )


def _learned_positions(config: LayerConfig, values: Mapping[str, Any], inputs: Any, **options: Any) -> Any:
    del config
    return add_learned_positions(inputs, values["table"], **options)


_RUN: dict[str, Callable[..., Any]] = {
    "DotProductAttention": _dot_product,
    "SelfAttention": _self_attention,
    "KeyValueAttention": _key_value,
    "MultiHeadAttention": _multi_head,
    "HardAttention": _without_parameters(hard_attention),
    "AdditiveAttention": _plainly(additive_attention),
    "GatedAttention": _plainly(gated_attention),
    "GatedAttentionCell": _plainly(gated_attention_cell),
    "SinusoidalPositions": _without_parameters(add_sinusoidal_positions),
    "LearnedPositions": _learned_positions,
    "Linear": _plainly(embedding),
    "LayerNorm": _plainly(layer_norm),
    "FeedForward": _plainly(feed_forward),
    "EncoderLayer": _plainly(encoder_layer),
    "DecoderLayer": _plainly(decoder_layer),
    "Encoder": _plainly(encoder),
    "Decoder": _plainly(decoder),
    "TextEncoder": _plainly(text_encoder),
    "SequenceClassifier": _plainly(sequence_classifier),
    "Transformer": _plainly(transformer),
}

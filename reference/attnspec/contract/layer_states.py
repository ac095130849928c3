"""The canonical state of a layer: one flat dictionary of NumPy arrays that every framework gives and takes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .attention_configs import (
    AdditiveAttentionConfig,
    DotProductAttentionConfig,
    GatedAttentionCellConfig,
    GatedAttentionConfig,
    HardAttentionConfig,
    KeyValueAttentionConfig,
    MultiHeadAttentionConfig,
    SelfAttentionConfig,
)
from .block_configs import (
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
from .layer_config import LayerConfig
from .model_configs import SequenceClassifierConfig, TextEncoderConfig, TransformerConfig
from .operands import FLOATING, describe, dtype_name, show_shape
from .rotary_option import Rotary
from .tensor_files import read_tensors, write_tensors

Array: TypeAlias = np.ndarray[Any, Any]
State: TypeAlias = dict[str, Array]

CONFIGS: dict[str, type[LayerConfig]] = {
    config.layer: config
    for config in (
        DotProductAttentionConfig,
        SelfAttentionConfig,
        KeyValueAttentionConfig,
        MultiHeadAttentionConfig,
        HardAttentionConfig,
        AdditiveAttentionConfig,
        GatedAttentionConfig,
        GatedAttentionCellConfig,
        SinusoidalPositionsConfig,
        LearnedPositionsConfig,
        LinearConfig,
        LayerNormConfig,
        FeedForwardConfig,
        EncoderLayerConfig,
        DecoderLayerConfig,
        EncoderConfig,
        DecoderConfig,
        TransformerConfig,
        TextEncoderConfig,
        SequenceClassifierConfig,
    )
}
"""Every layer by the name of its class."""

_FORMAT = "attnspec.state/1"
_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class StateError(ValueError):
    """A state that does not belong to the layer that was to take it, or a file that holds none."""


def check_state(config: LayerConfig, state: Any, dtype: str) -> State:
    """Check that a state has exactly the entries of a layer, and return them in order, in the layer's dtype.

    Every entry that is missing, unknown or misshapen is named. An entry of another dtype is taken if each of its
    numbers is one of the layer's dtype too: float32 by a float64 layer, not the other way round.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"`state` must be a dictionary of arrays by name; got {describe(state)}")
    specs = config.specs()
    arrays = {str(name): _as_array(str(name), array) for name, array in state.items()}
    problems = [f"{name} is missing" for name in specs if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in specs]
    problems += [
        f"{name} has shape {show_shape(arrays[name].shape)} instead of {show_shape(spec.shape)}"
        for name, spec in specs.items()
        if name in arrays and arrays[name].shape != spec.shape
    ]
    other = recognise(arrays) if problems else None
    if other is not None and other != config.layer:
        raise StateError(f"`state` is that of a layer of class {other}, not of {config.layer}")
    if problems:
        raise StateError(f"`state` does not fit this {config.layer}: {'; '.join(problems)}")
    return {name: _convert(name, arrays[name], dtype) for name in specs}


def recognise(state: Mapping[str, Any]) -> str | None:
    """Name the class of layer that has entries of these names, None where there is none or more than one."""
    names = {_pattern(name) for name in state}
    found = [
        layer for layer, patterns in _patterns().items() if names and patterns[0] <= names and names <= patterns[1]
    ]
    return found[0] if len(found) == 1 else None


def save_state(path: str | os.PathLike[str], config: LayerConfig, state: State) -> None:
    """Write a state, and the arguments of its layer, to a safetensors file."""
    metadata = {"format": _FORMAT, "layer": config.layer, "arguments": json.dumps(arguments_to_json(config))}
    Path(path).write_bytes(write_tensors(state, metadata))


def read_state(path: str | os.PathLike[str], config: LayerConfig | None = None) -> tuple[LayerConfig, State]:
    """Read a state and the arguments of its layer; with `config`, refuse the state of another class of layer."""
    payload = Path(path).read_bytes()
    try:
        arrays = read_tensors(payload)
        metadata = _metadata(payload)
    except ValueError as error:
        raise StateError(f"{path}: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise StateError(
            f"{path}: holds no state of a layer: its format is {metadata.get('format')!r}, not {_FORMAT!r}"
        )
    layer = metadata.get("layer", "")
    if layer not in CONFIGS:
        raise StateError(f"{path}: holds the state of an unknown class of layer, {layer!r}")
    if config is not None and layer != config.layer:
        raise StateError(f"{path}: holds the state of a layer of class {layer}, not of {config.layer}")
    return arguments_from_json(CONFIGS[layer], json.loads(metadata["arguments"])), arrays


def arguments_to_json(config: LayerConfig) -> dict[str, Any]:
    """Return the arguments of a layer as plain data."""
    arguments = config.arguments()
    rotary = arguments.get("rotary")
    if rotary is not None:
        if rotary.offset is not None and not isinstance(rotary.offset, int | str):
            raise ValueError(f"the `offset` of a layer's `rotary` must be an int, 'end' or None; got {rotary.offset!r}")
        arguments["rotary"] = {field.name: getattr(rotary, field.name) for field in dataclasses.fields(rotary)}
    return arguments


def arguments_from_json(config: type[LayerConfig], arguments: Mapping[str, Any]) -> LayerConfig:
    """Build the arguments of a layer from plain data."""
    given = dict(arguments)
    if given.get("rotary") is not None:
        given["rotary"] = Rotary(**given["rotary"])
    return config(**given)


def _as_array(name: str, value: Any) -> Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} of `state` must be a NumPy array; got {describe(value)}")
    if dtype_name(value.dtype) not in FLOATING:
        raise TypeError(f"{name} of `state` must have a floating dtype; got {value.dtype}")
    return value


def _convert(name: str, array: Array, dtype: str) -> Array:
    found = dtype_name(array.dtype)
    if found == dtype:
        return array
    if _SIZES[found] >= _SIZES[dtype]:
        raise TypeError(
            f"{name} of `state` has dtype {found}, whose numbers a {dtype} layer cannot hold; convert the state first"
        )
    return array.astype(dtype)


def _metadata(payload: bytes) -> dict[str, str]:
    """Read the metadata of a safetensors file whose arrays are known to be readable."""
    length = int.from_bytes(payload[:8], "little")
    found = json.loads(payload[8 : 8 + length]).get("__metadata__", {})
    return dict(found)


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _patterns() -> dict[str, tuple[set[str], set[str]]]:
    """Return for each class of layer the names that it always has and those that it may have, counts left out."""
    rich: dict[str, dict[str, Any]] = {
        "DotProductAttention": {"use_scale": True},
        "SelfAttention": {"model_size": 2},
        "MultiHeadAttention": {"model_size": 2, "num_heads": 1, "use_sinks": True},
        "KeyValueAttention": {"head_dim": 2, "query_size": 2},
        "AdditiveAttention": {"query_size": 2, "use_bias": True},
        "GatedAttention": {"input_size": 2, "num_heads": 1, "num_units": 2},
        "GatedAttentionCell": {"model_size": 2, "num_heads": 1, "output_size": 1},
        "LearnedPositions": {"max_length": 2, "model_size": 2},
        "Linear": {"input_size": 2, "output_size": 2},
        "LayerNorm": {"model_size": 2},
        "FeedForward": {"model_size": 2},
        "EncoderLayer": {"model_size": 2, "num_heads": 1},
        "DecoderLayer": {"model_size": 2, "num_heads": 1},
        "Encoder": {"model_size": 2, "num_heads": 1, "num_layers": 1, "final_norm": True},
        "Decoder": {"model_size": 2, "num_heads": 1, "num_layers": 1, "final_norm": True},
        "TextEncoder": _FULL_MODEL | {"num_layers": 1, "input_size": 2, "embedding_norm": True, "embedding_bias": True},
        "SequenceClassifier": _FULL_MODEL
        | {"num_layers": 1, "input_size": 2, "num_classes": 2, "embedding_norm": True, "embedding_bias": True},
        "Transformer": _FULL_MODEL
        | {"num_encoder_layers": 1, "num_decoder_layers": 1, "source_size": 2, "target_size": 2, "output_size": 2},
    }
    patterns = {}
    for layer, arguments in rich.items():
        names = {_pattern(name) for name in CONFIGS[layer](**arguments).specs()}
        patterns[layer] = ({name for name in names if not _is_optional(layer, name)}, names)
    return patterns


_FULL_MODEL = {"model_size": 2, "num_heads": 1, "positions": "learned", "max_length": 2, "final_norm": True}
_OPTIONAL = re.compile(
    r"(_bias|\.bias|^bias|sinks)$|^(encoder\.|decoder\.|body\.encoder\.)?norm\.|embedding|positions$|^head\."
)


def _is_optional(layer: str, name: str) -> bool:
    """Tell whether a layer of this class can be without a parameter of this name."""
    if layer in ("GatedAttention", "GatedAttentionCell"):
        return False
    if layer == "AdditiveAttention":
        return name != "score_weight"
    return _OPTIONAL.search(name) is not None and not (layer == "SequenceClassifier" and name.startswith("head."))

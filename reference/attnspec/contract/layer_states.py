"""The canonical state of a layer: one flat dictionary of NumPy arrays that every framework gives and takes."""

from __future__ import annotations

import dataclasses
import functools
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
_KEY = "attnspec"
"""The one entry of a file's metadata: of several, safetensors writes the order as it comes."""

_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class StateError(ValueError):
    """A state that does not belong to the layer that was to take it, or a file that holds none."""


def check_entries(config: LayerConfig, state: Any) -> State:
    """Check that a state has exactly the entries of a layer, and return them in order."""
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
    return {name: arrays[name] for name in specs}


def check_state(config: LayerConfig, state: Any, dtype: str) -> State:
    """Check that a state has exactly the entries of a layer, and return them in order, in the layer's dtype.

    Every entry that is missing, unknown or misshapen is named. An entry of another dtype is taken if each of its
    numbers is one of the layer's dtype too: float32 by a float64 layer, not the other way round.
    """
    arrays = check_entries(config, state)
    return {name: _convert(name, array, dtype) for name, array in arrays.items()}


def recognise(state: Mapping[str, Array]) -> str | None:
    """Name the class of layer that has entries of these names and ranks, None where there is none or more than one."""
    found = {(_pattern(name), array.ndim) for name, array in state.items()}
    fitting = [layer for layer, (always, ever) in _entries_by_layer().items() if always <= found <= ever]
    return fitting[0] if found and len(fitting) == 1 else None


def save_state(path: str | os.PathLike[str], config: LayerConfig, state: Mapping[str, Any]) -> None:
    """Write a state, and the arguments of its layer, to a safetensors file."""
    arrays = check_entries(config, state)
    metadata = {"format": _FORMAT, "layer": config.layer, "arguments": arguments_to_json(config)}
    Path(path).write_bytes(write_tensors(arrays, {_KEY: json.dumps(metadata)}))


def read_state(path: str | os.PathLike[str], config: LayerConfig | None = None) -> tuple[LayerConfig, State]:
    """Read the arguments and the state of a layer from a file that `save_state`, or a layer's `save`, wrote.

    With `config`, the arguments of the layer that is to take the state, refuse that of another class of layer, and of
    one that computes something else: with another activation, another window. Dropouts may differ.
    """
    payload = Path(path).read_bytes()
    try:
        found, arrays = _read(payload)
        if config is not None:
            _check_same(found, config)
    except ValueError as error:
        raise StateError(f"{path}: {error}") from None
    return found, arrays


def arguments_to_json(config: LayerConfig) -> dict[str, Any]:
    """Return the arguments of a layer as plain data."""
    arguments = config.arguments()
    rotary = arguments.get("rotary")
    if rotary is not None:
        arguments["rotary"] = {field.name: getattr(rotary, field.name) for field in dataclasses.fields(rotary)}
    return arguments


def arguments_from_json(config: type[LayerConfig], arguments: Mapping[str, Any]) -> LayerConfig:
    """Build the arguments of a layer from plain data."""
    given = dict(arguments)
    if given.get("rotary") is not None:
        given["rotary"] = Rotary(**given["rotary"])
    return config(**given)


def _check_same(found: LayerConfig, config: LayerConfig) -> None:
    if found.layer != config.layer:
        raise StateError(f"holds the state of a layer of class {found.layer}, not of {config.layer}")
    theirs, ours = found.meaning(), config.meaning()
    differences = [f"{name}={theirs[name]!r} instead of {ours[name]!r}" for name in ours if theirs[name] != ours[name]]
    if differences:
        raise StateError(
            f"holds the state of a {found.layer} that computes something else: {', '.join(differences)}; "
            "load_state(read_state(path)[1]) takes it all the same"
        )


def _read(payload: bytes) -> tuple[LayerConfig, State]:
    """Read what `save_state` wrote; a ValueError says what is wrong with it."""
    arrays = read_tensors(payload)
    metadata = _metadata(payload)
    if metadata.get("format") != _FORMAT:
        raise StateError(f"holds no state of a layer: its format is {metadata.get('format')!r}, not {_FORMAT!r}")
    layer = metadata.get("layer", "")
    if layer not in CONFIGS:
        raise StateError(f"holds the state of an unknown class of layer, {layer!r}")
    try:
        config = arguments_from_json(CONFIGS[layer], metadata["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the arguments of its {layer} cannot be read ({error})") from None
    return config, check_entries(config, arrays)


def _metadata(payload: bytes) -> dict[str, Any]:
    """Read our part of the metadata of a safetensors file; empty where other software wrote it."""
    length = int.from_bytes(payload[:8], "little")
    written = json.loads(payload[8 : 8 + length]).get("__metadata__") or {}
    try:
        metadata = json.loads(written.get(_KEY, "{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.generic):  # what NumPy makes of an array without axes, in arithmetic
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} of `state` must be a NumPy array; got {describe(value)}")
    if dtype_name(value.dtype) not in FLOATING:
        raise TypeError(f"{name} of `state` must have a floating dtype; got {value.dtype}")
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def _convert(name: str, array: Array, dtype: str) -> Array:
    found = dtype_name(array.dtype)
    if found == dtype:
        return array
    if _SIZES[found] >= _SIZES[dtype]:
        raise TypeError(
            f"{name} of `state` has dtype {found}, whose numbers a {dtype} layer cannot hold; convert the state first"
        )
    return array.astype(dtype)


def _pattern(name: str) -> str:
    """Leave the number of a layer out of a name."""
    return re.sub(r"\.\d+\.", ".*.", name)


_Entries: TypeAlias = set[tuple[str, int]]

_STACK: dict[str, Any] = {"model_size": 2, "num_heads": 1, "num_layers": 1}
_MODEL: dict[str, Any] = {"model_size": 2, "num_heads": 1, "use_bias": False, "positions": None}
_FULL_MODEL: dict[str, Any] = {
    "model_size": 2,
    "num_heads": 1,
    "positions": "learned",
    "max_length": 1,
    "final_norm": True,
}
_TEXT = {"num_layers": 1, "input_size": 1}
_FULL_TEXT = _TEXT | {"embedding_norm": True, "embedding_bias": True}
_TRANSFORMER = {"num_encoder_layers": 1, "num_decoder_layers": 1}
_LEAST_AND_MOST: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DotProductAttention": ({"use_scale": True}, {"use_scale": True}),
    "SelfAttention": ({"model_size": 1}, {"model_size": 1}),
    "KeyValueAttention": ({"head_dim": 1, "query_size": 1}, {"head_dim": 1, "query_size": 1}),
    "MultiHeadAttention": (
        {"model_size": 1, "num_heads": 1, "use_bias": False},
        {"model_size": 1, "num_heads": 1, "use_sinks": True},
    ),
    "AdditiveAttention": ({"query_size": 1, "use_projections": False}, {"query_size": 1, "use_bias": True}),
    "GatedAttention": (
        {"input_size": 1, "num_heads": 1, "num_units": 1},
        {"input_size": 1, "num_heads": 1, "num_units": 1},
    ),
    "GatedAttentionCell": (
        {"model_size": 1, "num_heads": 1, "output_size": 1},
        {"model_size": 1, "num_heads": 1, "output_size": 1},
    ),
    "LearnedPositions": ({"max_length": 1, "model_size": 1}, {"max_length": 1, "model_size": 1}),
    "Linear": ({"input_size": 1, "output_size": 1, "use_bias": False}, {"input_size": 1, "output_size": 1}),
    "LayerNorm": ({"model_size": 1, "use_bias": False}, {"model_size": 1}),
    "FeedForward": ({"model_size": 1, "use_bias": False}, {"model_size": 1}),
    "EncoderLayer": ({"model_size": 1, "num_heads": 1, "use_bias": False}, {"model_size": 1, "num_heads": 1}),
    "DecoderLayer": ({"model_size": 1, "num_heads": 1, "use_bias": False}, {"model_size": 1, "num_heads": 1}),
    "Encoder": (_STACK | {"use_bias": False}, _STACK | {"final_norm": True}),
    "Decoder": (_STACK | {"use_bias": False}, _STACK | {"final_norm": True}),
    "TextEncoder": (_MODEL | _TEXT, _FULL_MODEL | _FULL_TEXT),
    "SequenceClassifier": (
        _MODEL | _TEXT | {"num_classes": 1},
        _FULL_MODEL | _FULL_TEXT | {"num_classes": 1},
    ),
    "Transformer": (
        _MODEL | _TRANSFORMER,
        _FULL_MODEL | _TRANSFORMER | {"source_size": 1, "target_size": 1, "output_size": 1},
    ),
}
"""For each class of layer that has parameters, the arguments with the fewest and with the most of them."""


@functools.cache
def _entries_by_layer() -> dict[str, tuple[_Entries, _Entries]]:
    """Return for each class of layer the entries that its state always has, and those that it ever has."""

    def entries(layer: str, arguments: dict[str, Any]) -> _Entries:
        specs = CONFIGS[layer](**arguments).specs()
        return {(_pattern(name), len(spec.shape)) for name, spec in specs.items()}

    return {layer: (entries(layer, least), entries(layer, most)) for layer, (least, most) in _LEAST_AND_MOST.items()}

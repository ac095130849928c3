"""Which names a backend loads only when they are asked for: Keras and Flax take seconds to import."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from .layer_config import LayerConfig

Layer = TypeVar("Layer")

MODULES = {
    "Layer": "layer",
    "DotProductAttention": "attention_layers",
    "SelfAttention": "attention_layers",
    "KeyValueAttention": "attention_layers",
    "MultiHeadAttention": "attention_layers",
    "HardAttention": "attention_layers",
    "AdditiveAttention": "attention_layers",
    "GatedAttention": "attention_layers",
    "GatedAttentionCell": "attention_layers",
    "SinusoidalPositions": "block_layers",
    "LearnedPositions": "block_layers",
    "Linear": "block_layers",
    "LayerNorm": "block_layers",
    "FeedForward": "block_layers",
    "EncoderLayer": "block_layers",
    "DecoderLayer": "block_layers",
    "Encoder": "block_layers",
    "Decoder": "block_layers",
    "TextEncoder": "model_layers",
    "SequenceClassifier": "model_layers",
    "Transformer": "model_layers",
    "from_native": "interchange",
    "to_native": "interchange",
}
"""Each name, and the module of the backend that holds it."""


_NEEDED = {"keras": "Keras", "flax": "Flax"}


def load(package: str, name: str) -> Any:
    """Return what a package's module `__getattr__` is asked for; the framework's layers are imported now."""
    if name not in MODULES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{package}.{MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise ModuleNotFoundError(
            f"{package}.{name} needs {_NEEDED[error.name]}, which is not installed; "
            f"install it with: pip install 'attnspec[{package.rpartition('.')[2]}]'",
            name=error.name,
        ) from None


def load_layer(package: str, config: LayerConfig, wanted: type[Layer]) -> type[Layer]:
    """Return the class of layer that has these arguments: the wanted one where that is a class derived from it."""
    known: type[Layer] = load(package, config.layer)
    if issubclass(wanted, known):
        return wanted
    if issubclass(known, wanted):
        return known
    raise TypeError(f"`config` must be the arguments of a layer of class {wanted.__name__}; got {config!r}")

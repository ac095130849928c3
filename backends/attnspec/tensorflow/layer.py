"""What every layer is in TensorFlow: a `keras.layers.Layer` whose variables have the canonical names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from attnspec.contract.dropout import Dropout
from attnspec.contract.layer_config import LayerConfig, ParameterSpec, Part, configure, signature_of
from attnspec.contract.layer_dropout import Draw
from attnspec.contract.layer_states import (
    State,
    arguments_from_json,
    arguments_to_json,
    check_state,
    read_state,
    save_state,
)
from attnspec.contract.operands import Shape, check_dtype
from attnspec.contract.states import map_leaves

from . import tensors

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "the layers of attnspec.tensorflow need Keras on TensorFlow; "
        f"KERAS_BACKEND is {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow before Keras is imported"
    )

LAYERS: dict[type[LayerConfig], type[Layer]] = {}
"""The class of layer that each class of arguments builds."""

_OWN = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
    for name, default in (("seed", None), ("name", None), ("dtype", None), ("trainable", True))
)


class Layer(keras.layers.Layer):  # type: ignore[misc] # Keras ships no type information
    """A layer with a canonical state.

    Its arguments are the fields of its `Config`, then `seed`, `name`, `dtype` and `trainable` as for Keras' own layers.
    Parameters are drawn by Keras' generators from the distributions that the arguments' class documents; dropout, in
    training only, too. It can be part of a model that Keras saves.
    """

    Config: ClassVar[type[LayerConfig]]
    config: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__signature__ = signature_of(cls.Config, own=_OWN)
        LAYERS[cls.Config] = cls
        keras.saving.register_keras_serializable(package="attnspec")(cls)

    def __init__(
        self,
        *args: Any,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = configure(self.Config, args, options)
        check_dtype("dtype", self.variable_dtype)
        self.seed = seed
        self._generator = keras.random.SeedGenerator(seed)
        parts = self.config.parts()
        self.part_names = tuple(parts)
        for name, part in parts.items():
            setattr(self, name, self._make(name, part))
        self.built = True

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the layer; a mask that Keras attached to a tensor is refused, because it does not say whom it hides."""
        for value in tf.nest.flatten((args, list(options.values()))):
            if getattr(value, "_keras_mask", None) is not None:
                raise ValueError(
                    f"a tensor given to {type(self).__name__} carries a Keras mask, which would be lost: take it off "
                    "(`mask_zero=False`) and give `mask=` or `valid=`"
                )
        return super().__call__(*args, **options)

    def build(self, *shapes: Any, **named: Any) -> None:
        """Do nothing: everything is built with the layer."""

    def parameter_tree(self) -> Any:
        """Return the parameters as the tree that the layer's operation takes."""
        return self.config.assemble({name: _branch(getattr(self, name)) for name in self.part_names})

    def state(self) -> State:
        """Return a copy of all parameters as NumPy arrays, by their canonical names."""
        return {name: np.array(variable.value) for name, variable in self._named().items()}

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Set all parameters from a state of any framework; what does not fit is an error that names each entry."""
        given = self._named()
        for name, array in check_state(self.config, state, self.variable_dtype).items():
            given[name].assign(tf.constant(array))
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the layer's arguments to a safetensors file."""
        save_state(path, self.config, self.state())

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Set all parameters from a file that `save` of any framework wrote."""
        return self.load_state(read_state(path, self.config)[1])

    @classmethod
    def from_layer_config(cls, config: LayerConfig, **own: Any) -> Self:
        """Build a layer from its arguments."""
        return cls(**config.arguments(), **own)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as plain data, as Keras saves them."""
        own = {name: value for name, value in super().get_config().items() if name in ("name", "dtype", "trainable")}
        return {**arguments_to_json(self.config), "seed": self.seed, **own}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a layer from what `get_config` returned."""
        own = {name: config[name] for name in ("seed", "name", "dtype", "trainable") if name in config}
        arguments = {name: value for name, value in config.items() if name not in own}
        dtype = own.get("dtype")
        if isinstance(dtype, dict):
            own["dtype"] = keras.dtype_policies.deserialize(dtype)
        return cls.from_layer_config(arguments_from_json(cls.Config, arguments), **own)

    def _make(self, name: str, part: Part) -> Any:
        if part is None:
            return None
        if isinstance(part, ParameterSpec):
            return self.add_weight(shape=part.shape, initializer=self._initializer(part), name=name)
        if isinstance(part, LayerConfig):
            return self._inner(part, name)
        return [self._inner(config, f"{name}_{i}") for i, config in enumerate(part)]

    def _inner(self, config: LayerConfig, name: str) -> Layer:
        seed = None if self.seed is None else int(np.asarray(self._generator.next())[1])
        own = {"seed": seed, "name": name, "dtype": self.dtype_policy, "trainable": self.trainable}
        return LAYERS[type(config)].from_layer_config(config, **own)

    def _initializer(self, spec: ParameterSpec) -> Any:
        seed = self._generator
        if spec.distribution == "glorot_uniform":
            return keras.initializers.RandomUniform(-spec.limit, spec.limit, seed=seed)
        if spec.distribution == "normal":
            return keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
        return spec.distribution

    def _named(self) -> dict[str, Any]:
        return dict(_variables(self))

    def _draw(self, draws: Any, training: bool | None) -> Any:
        """Draw the dropouts of a call; None outside training."""
        if not training:
            return None

        def draw(one: Draw) -> Dropout:
            numbers = tf.random.stateless_uniform(tf.stack(one.shape), tf.cast(self._generator.next(), tf.int32))
            return Dropout(one.rate, numbers >= one.rate)

        return map_leaves(draw, draws)


def _branch(part: Any) -> Any:
    if isinstance(part, Layer):
        return part.parameter_tree()
    if isinstance(part, list):
        return tuple(layer.parameter_tree() for layer in part)
    return None if part is None else tf.convert_to_tensor(part)


def _variables(layer: Layer, prefix: str = "") -> list[tuple[str, Any]]:
    """Name the variables of a layer and of those inside it, in the order of the state."""
    found = []
    for name in layer.part_names:
        part = getattr(layer, name)
        if isinstance(part, Layer):
            found += _variables(part, f"{prefix}{name}.")
        elif isinstance(part, list):
            for i, inner in enumerate(part):
                found += _variables(inner, f"{prefix}{name}.{i}.")
        elif part is not None:
            found.append((prefix + name, part))
    return found


def shape_of(inputs: Any) -> Shape:
    """Return the shape of a tensor, of which some sizes may be tensors, of an array or of nested lists."""
    return tensors.shape_of(inputs) if tf.is_tensor(inputs) else tuple(np.shape(inputs))

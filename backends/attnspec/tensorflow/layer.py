"""What every layer is in TensorFlow: a `keras.layers.Layer` whose variables have the canonical names."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from attnspec.contract.dropout import Dropout
from attnspec.contract.layer_config import LayerConfig, ParameterSpec, Part, configure, signature_of
from attnspec.contract.layer_dropout import Draw
from attnspec.contract.layer_exports import load_layer
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
from attnspec.contract.tree_classes import BIAS_CLASSES, MASK_CLASSES

from . import tensors

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "the layers of attnspec.tensorflow need Keras on TensorFlow; "
        f"KERAS_BACKEND is {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow before Keras is imported"
    )

for _cls in (*MASK_CLASSES, *BIAS_CLASSES):
    keras.saving.register_keras_serializable(package="attnspec")(_cls)

_OWN_DEFAULTS: dict[str, Any] = {"seed": None, "name": None, "dtype": None, "trainable": True}
_OWN = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in _OWN_DEFAULTS.items()
)


class Layer(keras.layers.Layer):  # type: ignore[misc] # Keras ships no type information
    """A layer with a canonical state.

    Its arguments are the fields of its `Config`, then `seed`, `name`, `dtype` and `trainable` as for Keras' own layers.
    Parameters are drawn by Keras' initializers from the distributions that the arguments' class documents; dropout, in
    training only, by a `keras.random.SeedGenerator`. The layer is built when it is made, and can be part of a model
    that Keras saves.
    """

    Config: ClassVar[type[LayerConfig]]
    config: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "Config" in vars(cls):  # otherwise a user's class, with a signature of its own
            cls.__signature__ = signature_of(cls.Config, own=_OWN)
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
        self.supports_masking = True  # `mask=` is an argument of ours, and no reason for Keras to warn
        self.config = configure(self.Config, args, options)
        for kind in (self.variable_dtype, self.compute_dtype):
            check_dtype("dtype", kind)
        self.seed = seed
        parts = self.config.parts()
        self.part_names = tuple(parts)
        seeds = _seeds(seed)
        for part_name, part in parts.items():
            setattr(self, part_name, self._make(part_name, part, seeds))
        self.seed_generator = keras.random.SeedGenerator(next(seeds)) if self.config.has_dropout else None
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

    def compute_mask(self, *inputs: Any, **previous: Any) -> None:
        """Attach no mask to what comes out: `mask=` says who sees whom, and not what is padding."""

    def parameter_tree(self) -> Any:
        """Return the parameters as the tree that the layer's operation takes, in the dtype that it computes in."""
        return self.config.assemble({name: self._branch(getattr(self, name)) for name in self.part_names})

    def state(self) -> State:
        """Return a copy of all parameters as NumPy arrays, by their canonical names."""
        return {name: np.array(variable.numpy()) for name, variable in self._named().items()}

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
        """Set all parameters from a file that `save` of any framework wrote for a layer that computes the same."""
        return self.load_state(read_state(path, self.config)[1])

    @classmethod
    def from_layer_config(cls, config: LayerConfig, **own: Any) -> Self:
        """Build the layer that has these arguments; `own` are those of the framework."""
        return load_layer(__package__, config, cls)(**config.arguments(), **own)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as plain data, as Keras saves them."""
        own = {name: value for name, value in super().get_config().items() if name in _OWN_DEFAULTS}
        return {**arguments_to_json(self.config), "seed": self.seed, **own}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a layer from what `get_config` returned."""
        own = {name: config[name] for name in _OWN_DEFAULTS if name in config}
        if isinstance(own.get("dtype"), dict):
            own["dtype"] = keras.dtype_policies.deserialize(own["dtype"])
        arguments = {name: value for name, value in config.items() if name not in own}
        return cls(**arguments_from_json(cls.Config, arguments).arguments(), **own)

    def _make(self, name: str, part: Part, seeds: Iterator[int | None]) -> Any:
        if part is None:
            return None
        if isinstance(part, ParameterSpec):
            return self.add_weight(shape=part.shape, initializer=_initializer(part, next(seeds)), name=name)
        if isinstance(part, LayerConfig):
            return self._make_inner(name, part, next(seeds))
        return [self._make_inner(f"{name}_{i}", config, next(seeds)) for i, config in enumerate(part)]

    def _make_inner(self, name: str, config: LayerConfig, seed: int | None) -> Layer:
        own = {"seed": seed, "name": name, "dtype": self.dtype_policy, "trainable": self.trainable}
        return Layer.from_layer_config(config, **own)

    def _named(self) -> dict[str, Any]:
        return dict(_variables(self))

    def _draw(self, draws: Callable[..., Any], training: bool | None, *shapes: Shape) -> Any:
        """Draw the dropouts of inputs of these shapes; None outside training."""
        if not (training and self.config.has_dropout):
            return None

        def draw(one: Draw) -> Dropout:
            numbers = keras.random.uniform(one.shape, dtype="float32", seed=self.seed_generator)
            return Dropout(one.rate, numbers >= one.rate)

        return map_leaves(draw, draws(self.config, *shapes))

    def _branch(self, part: Any) -> Any:
        if isinstance(part, Layer):
            return part.parameter_tree()
        if isinstance(part, list):
            return tuple(layer.parameter_tree() for layer in part)
        return self.value_of(part)

    def value_of(self, variable: Any) -> Any:
        """Return a variable in the dtype that the layer computes in; None, where there is no variable, stays."""
        return None if variable is None else tf.cast(tf.convert_to_tensor(variable), self.compute_dtype)


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
    """Return the shape of a tensor, of which some sizes may be tensors, of an array or of nested lists; () without."""
    try:
        return tensors.shape_of(inputs) if tf.is_tensor(inputs) else tuple(np.shape(inputs))
    except ValueError:  # an unknown rank or lists of unequal lengths, of which the operation itself will say so
        return ()


def _seeds(seed: int | None) -> Iterator[int | None]:
    """Give seeds that depend on one; without one, None: Keras then draws them from its global generator."""
    for place in itertools.count():
        yield None if seed is None else int(np.random.SeedSequence((seed, place)).generate_state(1)[0])


def _initializer(spec: ParameterSpec, seed: int | None) -> Any:
    if spec.distribution == "glorot_uniform":
        return keras.initializers.RandomUniform(-spec.limit, spec.limit, seed=seed)
    if spec.distribution == "normal":
        return keras.initializers.RandomNormal(0.0, 0.02, seed=seed)
    return spec.distribution

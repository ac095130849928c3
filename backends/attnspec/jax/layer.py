"""What every layer is in JAX: a `flax.nnx.Module` whose parameters have the canonical names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from attnspec.contract.dropout import Dropout
from attnspec.contract.layer_config import LayerConfig, ParameterSpec, Part, configure, signature_of
from attnspec.contract.layer_dropout import Draw
from attnspec.contract.layer_exports import load_layer
from attnspec.contract.layer_states import State, check_state, read_state, save_state
from attnspec.contract.operands import Shape, check_dtype, dtype_name
from attnspec.contract.states import map_leaves

from .tensors import check_width

_OWN = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
    for name, default in (("dtype", jnp.float32), ("rngs", inspect.Parameter.empty))
)


class Layer(nnx.Module):
    """A layer with a canonical state.

    Its arguments are the fields of its `Config`, then `dtype` and `rngs` as for Flax' own modules. Parameters are drawn
    from `rngs.params` from the distributions that the arguments' class documents; dropout from `rngs.dropout`, unless
    the module is in evaluation mode (`layer.eval()`).
    """

    Config: ClassVar[type[LayerConfig]]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # parameters and inner layers, whose names the arguments give

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "Config" in vars(cls):  # otherwise a user's class, with a signature of its own
            cls.__signature__ = signature_of(cls.Config, own=_OWN)  # type: ignore[attr-defined] # read by inspect

    def __init__(self, *args: Any, dtype: Any = jnp.float32, rngs: nnx.Rngs, **options: Any) -> None:
        self.config: Any = configure(self.Config, args, options)
        self.dtype = dtype_name(jnp.dtype(dtype))
        check_dtype("dtype", self.dtype)
        check_width(self.dtype)
        self.deterministic = False
        parts = self.config.parts()
        self.part_names = tuple(parts)
        for name, part in parts.items():
            setattr(self, name, self._make(part, rngs))
        self.rngs: Any = rngs.dropout.fork() if self.config.has_dropout else nnx.data(None)

    def parameter_tree(self) -> Any:
        """Return the parameters as the tree that the layer's operation takes."""
        return self.config.assemble({name: _branch(getattr(self, name)) for name in self.part_names})

    def state(self) -> State:
        """Return a copy of all parameters as NumPy arrays, by their canonical names."""
        return {name: np.array(parameter[...]) for name, parameter in self._named().items()}

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Set all parameters from a state of any framework; what does not fit is an error that names each entry."""
        given = self._named()
        for name, array in check_state(self.config, state, self.dtype).items():
            given[name][...] = jnp.array(array)
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

    def _make(self, part: Part, rngs: nnx.Rngs) -> Any:
        if part is None:
            return nnx.data(None)
        if isinstance(part, ParameterSpec):
            return nnx.Param(_initial(part, self.dtype, rngs))
        if isinstance(part, LayerConfig):
            return Layer.from_layer_config(part, dtype=self.dtype, rngs=rngs)
        return nnx.List([Layer.from_layer_config(config, dtype=self.dtype, rngs=rngs) for config in part])

    def _named(self) -> dict[str, Any]:
        return dict(_parameters(self))

    def _draw(self, draws: Callable[..., Any], *shapes: Shape) -> Any:
        """Draw the dropouts of inputs of these shapes; None in evaluation mode."""
        if self.deterministic or not self.config.has_dropout:
            return None

        def draw(one: Draw) -> Dropout:
            return Dropout(one.rate, jax.random.bernoulli(self.rngs(), 1.0 - one.rate, one.shape))

        return map_leaves(draw, draws(self.config, *shapes))


def _branch(part: Any) -> Any:
    if isinstance(part, Layer):
        return part.parameter_tree()
    if isinstance(part, nnx.List):
        return tuple(layer.parameter_tree() for layer in part)
    return value_of(part)


def value_of(parameter: Any) -> Any:
    """Return the array of a parameter; None, where there is no parameter, stays."""
    return None if parameter is None else parameter[...]


def _parameters(layer: Layer, prefix: str = "") -> list[tuple[str, Any]]:
    """Name the parameters of a layer and of those inside it, in the order of the state."""
    found = []
    for name in layer.part_names:
        part = getattr(layer, name)
        if isinstance(part, Layer):
            found += _parameters(part, f"{prefix}{name}.")
        elif isinstance(part, nnx.List):
            for i, inner in enumerate(part):
                found += _parameters(inner, f"{prefix}{name}.{i}.")
        elif part is not None:
            found.append((prefix + name, part))
    return found


def shape_of(inputs: Any) -> Shape:
    """Return the shape of an array or of nested lists; () where there is none."""
    try:
        return tuple(np.shape(inputs))
    except ValueError:  # lists of unequal lengths, of which the operation itself will say so
        return ()


def _initial(spec: ParameterSpec, dtype: str, rngs: nnx.Rngs) -> Array:
    if spec.distribution == "glorot_uniform":
        return jax.random.uniform(rngs.params(), spec.shape, dtype, -spec.limit, spec.limit)
    if spec.distribution == "normal":
        return 0.02 * jax.random.normal(rngs.params(), spec.shape, dtype)
    return jnp.full(spec.shape, 1.0 if spec.distribution == "ones" else 0.0, dtype)

"""What a layer is, without a framework: its arguments, its parameters, and how they begin."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import ml_dtypes
import numpy as np

from .operands import FLOATING, as_float, describe
from .parameter_checks import build_tree


@dataclasses.dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its shape and the distribution that it is drawn from at first.

    glorot_uniform: uniform in ±√(6 / (fan_in + fan_out)), the last two axes being fan_in and fan_out, a vector's
    fan_out 1 (Glorot and Bengio 2010, equation 16); normal: mean 0 and standard deviation 0.02; zeros; ones.
    """

    shape: tuple[int, ...]
    distribution: str = "glorot_uniform"

    @property
    def limit(self) -> float:
        """The largest absolute value of glorot_uniform."""
        fan_in, fan_out = (self.shape if len(self.shape) > 1 else (*self.shape, 1))[-2:]
        return math.sqrt(6.0 / max(fan_in + fan_out, 1))


Part: TypeAlias = "ParameterSpec | LayerConfig | tuple[LayerConfig, ...] | None"


class LayerConfig:
    """The checked arguments of a layer; subclasses are frozen dataclasses whose fields are the arguments."""

    layer: ClassVar[str]
    """The name of the layer's class, in every framework."""
    tree: ClassVar[Any] = None
    """The class of parameter tree that the layer's operation takes; None where it takes none."""

    def __post_init__(self) -> None:
        # Python's numbers: a file of a state holds them as JSON.
        for name, value in self.arguments().items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())
        self.check()

    def check(self) -> None:
        """Raise ValueError or TypeError for an argument that makes no layer."""

    def parts(self) -> dict[str, Part]:
        """Name the layer's parameters and the layers inside it, in the order of the state."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the options that the layer passes to its operation at every call."""
        return {}

    def meaning(self) -> dict[str, Any]:
        """Return what decides, beside the parameters, what the layer computes in evaluation."""
        return self.settings()

    @property
    def has_dropout(self) -> bool:
        """Whether the layer drops anything in training."""
        return any(value for name, value in self.arguments().items() if name.endswith("dropout_rate"))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that build this layer, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def show(self) -> str:
        """Write the arguments that differ from their defaults."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        shown = [f"{name}={value!r}" for name, value in self.arguments().items() if value != fields[name]]
        return ", ".join(shown)

    def specs(self, prefix: str = "") -> dict[str, ParameterSpec]:
        """Name every parameter by its path, as the state does."""
        found: dict[str, ParameterSpec] = {}
        for name, part in self.parts().items():
            if isinstance(part, ParameterSpec):
                found[prefix + name] = part
            elif isinstance(part, LayerConfig):
                found |= part.specs(f"{prefix}{name}.")
            elif part is not None:
                for i, layer in enumerate(part):
                    found |= layer.specs(f"{prefix}{name}.{i}.")
        return found

    def parameter_tree(self, values: Mapping[str, Any]) -> Any:
        """Build the tree that the layer's operation takes from values by their path; None where one is missing."""
        return None if self.tree is None else build_tree(self.tree, values)

    def assemble(self, branches: Mapping[str, Any]) -> Any:
        """Put parameters and the trees of inner layers, by name, into the tree that the layer's operation takes."""
        if self.tree is None:
            return None
        return self.tree(**{name: branches.get(name) for name in self.tree._fields})


Config = TypeVar("Config", bound=LayerConfig)


def signature_of(config: type[LayerConfig], *, own: tuple[inspect.Parameter, ...] = ()) -> inspect.Signature:
    """Return the signature of a layer's class: the fields of its arguments, then the framework's own."""
    fields = [parameter for name, parameter in inspect.signature(config).parameters.items() if name != "self"]
    return inspect.Signature([*fields, *own])


def configure(config: type[Config], args: tuple[Any, ...], options: Mapping[str, Any]) -> Config:
    """Build the arguments of a layer; a wrong one is named beside the layer's own name."""
    try:
        bound = inspect.signature(config).bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"{config.layer}: {error}; its arguments are {_without_annotations(config)}") from None
    return config(*bound.args, **bound.kwargs)


def _without_annotations(config: type[LayerConfig]) -> inspect.Signature:
    fields = signature_of(config).parameters.values()
    return inspect.Signature([field.replace(annotation=inspect.Parameter.empty) for field in fields])


def initial_state(config: LayerConfig, seed: int, *, dtype: str = "float64") -> dict[str, np.ndarray[Any, Any]]:
    """Draw the parameters of a layer by NumPy, for every framework to begin from the same ones.

    Each parameter is drawn in float64, from the distribution that `ParameterSpec` documents, in the order of the state,
    and rounded to the dtype (float64, float32, bfloat16 or float16).
    """
    if not isinstance(config, LayerConfig):
        raise TypeError(f"`config` must be the arguments of a layer, such as EncoderConfig(…); got {describe(config)}")
    check_choice("dtype", dtype, FLOATING)
    generator = np.random.Generator(np.random.PCG64(check_count("seed", seed, 0)))
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return {name: _draw(spec, generator).astype(kind) for name, spec in config.specs().items()}


def _draw(spec: ParameterSpec, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    if spec.distribution == "glorot_uniform":
        return generator.uniform(-spec.limit, spec.limit, spec.shape)
    if spec.distribution == "normal":
        return generator.normal(0.0, 0.02, spec.shape)
    return np.full(spec.shape, 1.0 if spec.distribution == "ones" else 0.0)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Check that a number of things is an int, at least 1 or what is said."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an int; got {value!r}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Check that a switch is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False; got {value!r}")
    return value


def check_rate(name: str, value: Any) -> float:
    """Check the share that a dropout drops."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"`{name}` must be a Python number; got {describe(value)}")
    if not 0 <= as_float(value) < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1; got {as_float(value)}")
    return float(value)


def check_number(name: str, value: Any, *, positive: bool = False) -> float:
    """Check that a number is a finite Python number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"`{name}` must be a Python number; got {describe(value)}")
    number = as_float(value)
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"`{name}` must be {'positive and ' if positive else ''}finite; got {number}")
    return number


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Check that a value is one of a few names."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value

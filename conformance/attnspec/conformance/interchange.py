"""How layers of attnspec and the frameworks' own are compared: the same weights, the same inputs, one derived bound.

A layer of a framework gets random weights, biases among them, and `from_native` makes ours of it; or ours gets a random
state, and `to_native` makes theirs. Both get the same float32 inputs. The exact output is the reference's for our
state, the bound is that of Monte-Carlo arithmetic (`monte_carlo`), and what is told of each side is the largest ratio
of its error to the bound: 1 or less on both sides means that they compute the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import InterchangeError
from attnspec.contract.layer_config import LayerConfig
from attnspec.reference import run_layer

from .monte_carlo import monte_carlo_bounds
from .native_arrays import from_numpy, to_numpy
from .profiles import default_profile

Array: TypeAlias = np.ndarray[Any, Any]

DIRECTIONS = ("from_native", "to_native")
SPREAD = 0.4
"""Standard deviation of the random weights: scores differ, and no softmax has only one weight."""


@dataclass(frozen=True)
class Exchange:
    """A layer of a framework, how it is built and called, and what ours is called with for the same."""

    framework: str
    theirs: str
    """Its public name."""
    ours: str
    """The name of the class of ours."""
    note: str
    """What this one is about."""
    make: Callable[[], Any]
    """Build theirs, with whatever weights."""
    call: Callable[..., Any]
    """Call theirs: `call(module, *inputs)`, the inputs being ours, in the order of ours."""
    inputs: tuple[Array, ...]
    """Of ours, by position."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of ours, by name."""
    native_options: Mapping[str, Any] = field(default_factory=dict)
    """Of `to_native`."""


class Agreement(NamedTuple):
    """The largest ratio of error to bound, of their layer and of ours."""

    theirs: float
    ours: float


def measure(exchange: Exchange, direction: str, *, seed: int = 0) -> Agreement | None:
    """Exchange a layer in one direction and compare the two; None where `to_native` refuses it."""
    rng = np.random.default_rng(seed)
    backend = importlib.import_module(f"attnspec.{exchange.framework}")
    module = exchange.make()
    if direction == "from_native":
        randomise(exchange.framework, module, rng)
        layer = backend.from_native(module)
    else:
        layer = backend.from_native(module)
        layer.load_state(random_state(layer.config, rng))
        try:
            module = backend.to_native(layer, **exchange.native_options)
        except InterchangeError:
            return None
    if exchange.framework == "jax":
        layer.eval()  # a module of Flax may leave that to the call
    inputs = [from_numpy(exchange.framework, array) for array in exchange.inputs]
    outputs = exchange.call(module, *inputs), layer(*inputs, **exchange.options)
    exact, bound = exact_output(layer.config, layer.state(), exchange.inputs, exchange.options)
    return Agreement(*(largest_ratio(to_numpy(output), exact, bound) for output in outputs))


def random_state(config: LayerConfig, rng: np.random.Generator) -> dict[str, Array]:
    """Draw a state with no entry at its initial value."""
    return {name: _numbers(rng, spec.shape) for name, spec in config.specs().items()}


def randomise(framework: str, module: Any, rng: np.random.Generator) -> None:
    """Give every weight of a framework's own layer a random value."""
    if framework == "torch":
        for parameter in module.parameters():
            parameter.data.copy_(from_numpy("torch", _numbers(rng, tuple(parameter.shape))))
    elif framework == "tensorflow":
        for variable in module.weights:
            variable.assign(_numbers(rng, tuple(variable.shape)))
    else:
        import jax
        from flax import nnx

        state = nnx.state(module, nnx.Param)
        nnx.update(module, jax.tree.map(lambda array: from_numpy("jax", _numbers(rng, array.shape)), state))


def exact_output(
    config: LayerConfig, state: Mapping[str, Array], inputs: tuple[Array, ...], options: Mapping[str, Any]
) -> tuple[Array, Array]:
    """Return the reference's output of a layer, and the bound of every element at the precision of the inputs."""

    def function(given: Mapping[str, Any]) -> Mapping[str, Any]:
        arrays = {name: given[f"state.{name}"] for name in state}
        return {"output": run_layer(config, arrays, *(given[str(i)] for i in range(len(inputs))), **options)}

    tensors = {f"state.{name}": array for name, array in state.items()} | {str(i): x for i, x in enumerate(inputs)}
    exact, bounds = monte_carlo_bounds(function, tensors, default_profile("float32"))
    return exact["output"], bounds["output"]


def largest_ratio(output: Array, exact: Array, bound: Array) -> float:
    """Return the largest |output − exact| / bound; infinite where shapes differ or something is not finite."""
    if output.shape != exact.shape or not np.isfinite(output).all():
        return np.inf
    error = np.abs(output - exact)
    return float(np.divide(error, bound, out=np.where(error == 0.0, 0.0, np.inf), where=bound > 0).max(initial=0.0))


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return (SPREAD * rng.standard_normal(shape)).astype(np.float32)

"""What an operation is to the suite: the tensors that it takes, how it is called, and how far it may be off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import Dropout
from attnspec.contract.states import leaves

from .bounds import StageBounds
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]
Tensors: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """One operation: the names of its tensors, in order, and of the plain options that it has of its own."""

    name: str
    tensors: tuple[str, ...]
    """Those that every vector of it has."""
    optional: tuple[str, ...]
    numbers: tuple[str, ...]
    evaluate: Callable[[Tensors, Mapping[str, Any], Profile], Evaluation]
    """(tensors, options, profile) → the exact results and the bound of every element."""
    caller: Callable[[Any, Operation, Tensors, Mapping[str, Any]], Any]
    """(module, operation, tensors, options) → what the operation of this module returns."""
    is_attention: bool = True
    """Whether it takes mask, bias, scale, softcap, sinks and dropout, and its results come from one attention."""
    results: tuple[str, ...] = ("output",)
    required: tuple[str, ...] = ()
    """Those of its own options that have no default."""

    @property
    def is_partial(self) -> bool:
        """Whether it gives partial results, which are at least float32."""
        return "logsumexp" in self.results

    def call(self, module: Any, tensors: Tensors, options: Mapping[str, Any]) -> Any:
        """Call this operation of a module with its own tensors and options."""
        return self.caller(module, self, tensors, options)

    def dropout_of(self, rate: float, tensors: Tensors) -> Any:
        """Build the `dropout` argument from a rate and the keep array among the tensors."""
        return Dropout(rate, tensors["keep"])

    def has_gradient(self, name: str, dtype: str) -> bool:
        """Say whether a tensor of a backward vector has a gradient."""
        del dtype
        return name in {*self.tensors, *self.optional, "bias", "sinks"} - {"positions"}


class Evaluation(NamedTuple):
    """What an operation must give: its results by name, the bound of each, and what makes a bound meaningful."""

    results: dict[str, Array]
    bounds: dict[str, Array]
    ranges: dict[str, float]
    """For each result, the range of what is averaged: a bound of half of it decides nothing."""
    stages: Any = None
    stage_bounds: StageBounds | None = None

    @property
    def output(self) -> Array:
        """The result that most operations have alone."""
        return self.results["output"]

    @property
    def bound(self) -> Array:
        """The bound of `output`."""
        return self.bounds["output"]


def results_of(returned: Any) -> dict[str, Any]:
    """Name what an operation returned: the leaves of a named tuple by their paths, or `output`.

    Raises:
        TypeError: a plain tuple, whose parts have no names.
    """
    if isinstance(returned, tuple) and not hasattr(returned, "_fields"):
        raise TypeError(f"an operation must return a tensor or a named tuple, and not a tuple of {len(returned)}")
    return {name or "output": result for name, result in leaves(returned).items()}


def range_of(array: Array) -> float:
    """Return the range of what is finite."""
    finite = array[np.isfinite(array)]
    return float(finite.max() - finite.min()) if finite.size else 0.0

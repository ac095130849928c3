"""How faults are planted into layers: a step that is replaced, or a body that calls the right one with other arguments.

`layer_faults` has them all. Each stands beside the words that say what it breaks, where it shows and where it happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .layer_implementations import public
from .layer_steps import Steps

Body: TypeAlias = Callable[..., Any]
Function = TypeVar("Function", bound=Callable[..., Any])

ISSUES = "https://github.com/"


class LayerFault(NamedTuple):
    """A planted fault of one operation."""

    name: str
    """The operation and the deviation: "layer_norm/unbiased-variance"."""
    operation: str
    implementation: Callable[..., Any]
    """The public function of the operation, over NumPy arrays."""
    clause: str
    visible_when: str
    """What a vector needs to catch it."""
    seen_in: str
    """A link to where it really happened, or a word on how it arises."""


class Planting:
    """Collects the faults of a file: a decorator of faulty steps and bodies."""

    def __init__(self) -> None:
        self.faults: list[LayerFault] = []

    def step(
        self, step: str, operation: str, clause: str, visible_when: str, seen_in: str
    ) -> Callable[[Function], Function]:
        """Plant a function in the place of a step of this name."""

        def plant(function: Function) -> Function:
            implementation = public(operation, Steps()._replace(**{step: function}))
            self._add(function, operation, implementation, clause, visible_when, seen_in)
            return function

        return plant

    def body(self, operation: str, clause: str, visible_when: str, seen_in: str) -> Callable[[Function], Function]:
        """Plant a function in the place of a whole operation: it takes steps, then the arguments."""

        def plant(function: Function) -> Function:
            implementation = public(operation, Steps(), function)
            self._add(function, operation, implementation, clause, visible_when, seen_in)
            return function

        return plant

    def _add(self, function: Body, operation: str, implementation: Body, *words: str) -> None:
        name = f"{operation}/{function.__name__.strip('_').replace('_', '-')}"
        self.faults.append(LayerFault(name, operation, implementation, *words))

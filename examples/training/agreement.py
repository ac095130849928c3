"""How far the losses of frameworks are from one another, and how far they may be."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .exercises import Array

STEPS = {"float32": 100, "float64": 300}
"""How many steps are compared: rounding errors grow from step to step."""
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
"""How large a relative difference may be in them."""


class Agreement(NamedTuple):
    """The largest relative difference of two frameworks' losses."""

    largest: float
    step: int
    """Where it is; the first is 1."""
    pair: tuple[str, str]
    steps: int
    """How many were compared."""
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether it is small enough; a loss that is not a number agrees with nothing."""
        return self.largest <= self.tolerance


def relative_difference(losses: Sequence[float], others: Sequence[float]) -> Array:
    """Return |a − b| / max(|a|, |b|) of each step, 0 where both are 0."""
    first, second = np.asarray(losses, np.float64), np.asarray(others, np.float64)
    largest = np.maximum(np.abs(first), np.abs(second))
    return np.abs(first - second) / np.where(largest == 0.0, 1.0, largest)


def differences(losses: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], Array]:
    """Return the relative differences of each pair of frameworks."""
    return {(a, b): relative_difference(losses[a], losses[b]) for a, b in itertools.combinations(losses, 2)}


def agreement(losses: Mapping[str, Sequence[float]], dtype: str) -> Agreement | None:
    """Find the largest relative difference over the steps that count for a dtype; None with one framework alone."""
    worst = None
    for pair, difference in differences(losses).items():
        counted = difference[: STEPS[dtype]]
        step = int(np.argmax(counted))  # the first NaN, if there is one
        found = Agreement(float(counted[step]), step + 1, pair, len(counted), TOLERANCES[dtype])
        if worst is None or not found.largest <= worst.largest:
            worst = found
    return worst

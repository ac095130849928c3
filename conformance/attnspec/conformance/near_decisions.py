"""Decisions that roundings may turn: which of them lie so near to their threshold that both ways are right.

A comparison, or a maximum of two numbers, is where an error of one rounding can have an effect of any size: the
derivative of a ReLU jumps. Random errors show that only if a decision happens to turn in one of a few runs. So the
first runs measure how far each margin (left − right) scatters, and every margin within reach of 0 turns in exactly one
of the later runs, whatever others turn by themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

LEARNING = 4
"""How many runs only measure."""

REACH = 3.0
"""How many standard deviations from 0 a margin is within reach."""


class Turn(NamedTuple):
    """Which decisions turn in the present run, and the margins, left − right, by which they are usually made."""

    is_now: Array
    margin: Array


class Decisions:
    """What is known of every decision of a computation that makes the same ones in the same order in each run.

    Args:
        runs: how many runs there will be, each begun by `begin`.
        rng: chooses the run in which a decision turns.
    """

    def __init__(self, runs: int, rng: np.random.Generator) -> None:
        self._runs, self._rng = runs, rng
        self._run, self._next = -1, 0
        self._margins: list[list[Array]] = []
        self._turns: dict[int, tuple[Array, Array]] = {}

    def begin(self) -> None:
        """Begin the next run."""
        self._run, self._next = self._run + 1, 0

    def turn(self, left: Any, right: Any) -> Turn | None:
        """Learn the margin of the next decision of a run, or say where it turns, None: nowhere."""
        place, self._next = self._next, self._next + 1
        if self._run < LEARNING:
            if place == len(self._margins):
                self._margins.append([])
            self._margins[place].append(np.subtract(left, right))
            return None
        if place not in self._turns:
            self._turns[place] = self._choose(np.stack(self._margins[place]))
        runs, margin = self._turns[place]
        is_now = runs == self._run
        return Turn(is_now, margin) if is_now.any() else None

    def _choose(self, margins: Array) -> tuple[Array, Array]:
        """Give each margin within reach the run in which it turns, all others −1; and the mean margins."""
        mean = margins.mean(axis=0)
        own = ((margins - mean) ** 2).sum(axis=0) / (len(margins) - 1)
        # Four runs may scatter less than they should; the other margins of a row say how much that is.
        is_near = (own > 0.0) & (np.abs(mean) < REACH * np.sqrt(own + mean_of_row(own)))
        return np.where(is_near, self._rng.integers(LEARNING, self._runs, mean.shape), -1), mean


def mean_of_row(variance: Array) -> Array:
    """Average what is finite over the last axis, which stays with size 1."""
    if not variance.ndim:
        return variance
    known = np.where(np.isfinite(variance), variance, 0.0)
    return np.asarray(known.sum(axis=-1, keepdims=True) / max(variance.shape[-1], 1))

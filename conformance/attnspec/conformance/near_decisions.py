"""Decisions that roundings may turn: which of them lie so near to their threshold that both ways are right.

A comparison, or a maximum of two numbers, is where an error of one rounding can have an effect of any size: the
derivative of a ReLU jumps. Random errors show that only if a decision happens to turn in one of a few runs. So the first
runs measure how far each margin (left − right) scatters, and every margin within reach of 0 turns in exactly one of the
later runs, besides those that turn by themselves.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

LEARNING = 4
"""How many runs only measure."""


class Decisions:
    """What is known of every decision of a computation that makes the same decisions in the same order in each run.

    Args:
        runs: how many runs there will be, each begun by `begin`.
        reach: how many standard deviations from 0 a margin is within reach.
        rng: chooses the run in which a decision turns.
    """

    def __init__(self, runs: int, reach: float, rng: np.random.Generator) -> None:
        self._runs, self._reach, self._rng = runs, reach, rng
        self._run = self._next = -1
        self._margins: list[list[Array]] = []
        self._turns: list[Array | None] = []

    def begin(self) -> None:
        """Begin the next run."""
        self._run, self._next = self._run + 1, 0

    def decide(self, left: Any, right: Any, natural: Array, opposite: Array) -> Array:
        """Return what is decided in this run: `opposite` where a decision within reach turns in it, else `natural`."""
        place, self._next = self._next, self._next + 1
        if self._run < LEARNING:
            if self._run == 0:
                self._margins.append([])
                self._turns.append(None)
            self._margins[place].append(np.asarray(np.subtract(left, right)))
            return natural
        turns = self._turns[place]
        if turns is None:
            turns = self._turns[place] = self._choose(np.stack(self._margins[place]))
        return np.where(turns == self._run, opposite, natural)

    def _choose(self, margins: Array) -> Array:
        """Give each margin within reach the run in which it turns, all others −1."""
        middle = margins.mean(axis=0)
        own = ((margins - middle) ** 2).sum(axis=0) / (len(margins) - 1)
        scatter = np.sqrt(np.maximum(own, own.mean(axis=-1, keepdims=True)) if own.ndim else own)
        is_near = (own > 0) & (np.abs(middle) < self._reach * scatter)
        return np.where(is_near, self._rng.integers(LEARNING, self._runs, middle.shape), -1)

"""One training of one model in one framework, as it happens."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from .exercises import Array, Exercise, Training, score

_AT_ONCE = 500
"""How many examples are predicted in one call: a cell's scores for all of MNIST's would take gigabytes."""


class Gradients(NamedTuple):
    """The gradients of the first batch, before any step."""

    largest: dict[str, float]
    """For each parameter of the watched layer, its component of the largest absolute value."""

    @property
    def missing(self) -> list[str]:
        """Name the parameters that have none."""
        return [name for name, number in self.largest.items() if not number > 0.0]


class Step(NamedTuple):
    """A step of Adam."""

    loss: float
    """Of its batch, before it."""


class Epoch(NamedTuple):
    """An epoch."""

    loss: float
    """The mean of its steps'."""
    accuracy: float
    """On the test's examples, after it."""


class Finished(NamedTuple):
    """The end."""

    predicted: Array
    """For the test's examples."""
    cpu_seconds: float
    """Of this training, without the import of the framework."""


Event: TypeAlias = Gradients | Step | Epoch | Finished


def train(exercise: Exercise, framework: str) -> Iterator[Event]:
    """Train in this process, and yield what happens."""
    started = time.process_time()
    training = start(exercise, framework)
    if exercise.watched is not None:
        batch = next(next(exercise.epoch_batches()))
        gradients = training.gradients(exercise.watched, *batch)
        yield Gradients({name: float(np.abs(gradient).max()) for name, gradient in gradients.items()})
    predicted = exercise.expected
    for batches in exercise.epoch_batches():
        losses = []
        for batch in batches:
            losses.append(training.step(*batch))
            yield Step(losses[-1])
        predicted = _predict(training, exercise.test)
        yield Epoch(float(np.mean(losses)), score(predicted, exercise.expected))
    yield Finished(predicted, time.process_time() - started)


def start(exercise: Exercise, framework: str) -> Training:
    """Build the model of an exercise in a framework, with its first state and its optimiser."""
    native = importlib.import_module(f"{exercise.example}.{framework}_training")
    training: Training = native.start(exercise)
    return training


def _predict(training: Training, inputs: tuple[Array, ...]) -> Array:
    parts = range(0, len(inputs[0]), _AT_ONCE)
    return np.concatenate([training.predict(*(array[i : i + _AT_ONCE] for array in inputs)) for i in parts])

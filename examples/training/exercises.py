"""What is trained: layers, data and a schedule, without a framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from attnspec.contract import LayerConfig, initial_state

Array: TypeAlias = np.ndarray[Any, Any]
State: TypeAlias = dict[str, Array]

FRAMEWORKS = ("torch", "tensorflow", "jax")
DTYPES = ("float32", "float64")
BATCH_SIZE = 64


class Training(Protocol):
    """A model and its optimiser in one framework; NumPy arrays go in and come out.

    `start(exercise)` of an example's `torch_training`, `tensorflow_training` and `jax_training` returns one.
    """

    def step(self, *batch: Array) -> float:
        """Make one step of Adam on a batch; return the loss before it."""
        ...

    def gradients(self, layer: str, *batch: Array) -> dict[str, Array]:
        """Return the loss's gradients by the parameters of a layer, by name; asked for where a layer is watched."""
        ...

    def predict(self, *inputs: Array) -> Array:
        """Return what the model says: ids, one row for each example."""
        ...


@dataclass(frozen=True)
class Exercise:
    """One model to train, the same in every framework."""

    name: str
    example: str
    """The package with the native training steps, such as examples.digits."""
    layers: Mapping[str, LayerConfig]
    """The layers that the model is made of, by name."""
    training: tuple[Array, ...]
    """What a step takes, the examples along the first axis."""
    test: tuple[Array, ...]
    """What a prediction takes, of examples that no step sees."""
    expected: Array
    """The right predictions."""
    rate: float
    """Adam's."""
    dtype: str
    """Of parameters and data."""
    epochs: int
    steps: int | None = None
    """Stop after so many steps, whatever the epochs; None: do not."""
    batch_size: int = BATCH_SIZE
    seed: int = 7
    watched: str | None = None
    """The layer all of whose parameters must have a gradient; None: none must."""

    @property
    def steps_of_epoch(self) -> int:
        """How many whole batches there are: what is left over waits for another epoch's order."""
        return len(self.training[0]) // self.batch_size

    @property
    def total_steps(self) -> int:
        """How many steps are made in all."""
        total = self.epochs * self.steps_of_epoch
        return total if self.steps is None else min(total, self.steps)

    def states(self) -> dict[str, State]:
        """Draw the layers' first parameters, the same for every framework; each layer has a seed of its own."""
        return {
            name: {path: array.astype(self.dtype) for path, array in initial_state(config, self.seed + i).items()}
            for i, (name, config) in enumerate(self.layers.items())
        }

    def epoch_batches(self) -> Iterator[Iterator[tuple[Array, ...]]]:
        """Yield the batches of each epoch, in an order that depends on the seed alone."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        for first in range(0, self.total_steps, self.steps_of_epoch):
            count = min(self.steps_of_epoch, self.total_steps - first)
            order = generator.permutation(len(self.training[0]))[: count * self.batch_size]
            chosen = order.reshape(count, self.batch_size)
            yield (tuple(array[rows] for array in self.training) for rows in chosen)


def score(predicted: Array, expected: Array) -> float:
    """Return the share of examples whose prediction is right in every place."""
    right: Array = predicted == expected
    return float(right.reshape(len(right), -1).all(axis=1).mean())

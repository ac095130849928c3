"""The model and its training in JAX."""

from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx

import attnspec.jax as attn
from examples.training.exercises import Array, Exercise
from examples.training.jax_adam import adam

from .data import START, STOP, TARGET_LENGTH


class WordsTraining:
    """A Transformer and Adam, which minimises the cross-entropy of each next word, given the right ones before it."""

    def __init__(self, model: attn.Transformer, rate: float) -> None:
        self.model = model
        self.optimizer = nnx.Optimizer(model, adam(rate), wrt=nnx.Param)

    def step(self, *batch: Array) -> float:
        """Make one step; return the loss before it."""
        return float(_step(self.model, self.optimizer, *batch))

    def predict(self, source: Array, valid: Array) -> Array:
        """Return what the model writes, always the likeliest word, until the stop."""
        return np.asarray(_write(self.model, source, valid))


@nnx.jit
def _step(model: attn.Transformer, optimizer: nnx.Optimizer, *batch: jax.Array) -> jax.Array:
    loss, gradients = nnx.value_and_grad(_loss)(model, *batch)
    optimizer.update(model, gradients)
    return loss


@nnx.jit
def _write(model: attn.Transformer, source: jax.Array, valid: jax.Array) -> jax.Array:
    return model.greedy_decode(source, start=START, stop=STOP, max_length=TARGET_LENGTH, source_valid=valid)


def _loss(
    model: attn.Transformer,
    source: jax.Array,
    valid: jax.Array,
    given: jax.Array,
    wanted: jax.Array,
    counted: jax.Array,
) -> jax.Array:
    logits = model(source, given, source_valid=valid)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
    return (losses * counted).sum() / counted.sum()


def start(exercise: Exercise) -> WordsTraining:
    """Build the model with its first state."""
    config = exercise.layers["transformer"]
    model = attn.Transformer.from_layer_config(config, dtype=exercise.dtype, rngs=nnx.Rngs(exercise.seed))
    model.load_state(exercise.states()["transformer"])
    return WordsTraining(model, exercise.rate)

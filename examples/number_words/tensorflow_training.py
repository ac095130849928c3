"""The model and its training in TensorFlow."""

from __future__ import annotations

import tensorflow as tf

import attnspec.tensorflow as attn
from examples.training.exercises import Array, Exercise
from examples.training.tensorflow_adam import Adam

from .data import START, STOP, TARGET_LENGTH


class WordsTraining:
    """A Transformer and Adam, which minimises the cross-entropy of each next word, given the right ones before it."""

    def __init__(self, model: attn.Transformer, rate: float) -> None:
        self.model = model
        self.optimizer = Adam(model.trainable_variables, rate)

    def step(self, *batch: Array) -> float:
        """Make one step; return the loss before it."""
        return float(self._step(*batch))

    def predict(self, source: Array, valid: Array) -> Array:
        """Return what the model writes, always the likeliest word, until the stop."""
        return self._write(source, valid).numpy()

    @tf.function
    def _step(self, *batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(*batch)
        self.optimizer.update(tape.gradient(loss, self.model.trainable_variables))
        return loss

    @tf.function
    def _write(self, source: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        return self.model.greedy_decode(source, start=START, stop=STOP, max_length=TARGET_LENGTH, source_valid=valid)

    def _loss(
        self, source: tf.Tensor, valid: tf.Tensor, given: tf.Tensor, wanted: tf.Tensor, counted: tf.Tensor
    ) -> tf.Tensor:
        logits = self.model(source, given, source_valid=valid)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
        counted = tf.cast(counted, losses.dtype)
        return tf.reduce_sum(losses * counted) / tf.reduce_sum(counted)


def start(exercise: Exercise) -> WordsTraining:
    """Build the model with its first state."""
    config = exercise.layers["transformer"]
    model = attn.Transformer.from_layer_config(config, dtype=exercise.dtype)
    model.load_state(exercise.states()["transformer"])
    return WordsTraining(model, exercise.rate)

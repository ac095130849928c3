"""The models and their training in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

import attnspec.tensorflow as attn
from examples.training.exercises import Array, Exercise
from examples.training.tensorflow_adam import Adam

from .model import READINGS


class Perceptron(keras.Model):
    """Three affine maps with ReLU between them."""

    def __init__(self, layers: dict[str, attn.Layer], dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.first = layers["first"]
        self.second = layers["second"]
        self.last = layers["last"]

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        hidden = tf.nn.relu(self.first(tf.reshape(images, (images.shape[0], -1))))
        hidden = tf.nn.relu(self.second(hidden))
        return self.last(hidden)


class Reader(keras.Model):
    """A cell that reads the rows of each image more than once."""

    def __init__(self, layers: dict[str, attn.Layer], dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.positions = layers["positions"]
        self.cell = layers["cell"]

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        rows = self.positions(images)
        state = self.cell.empty_state((images.shape[0],))
        for _ in range(READINGS):
            logits, state = self.cell(rows, state)
        return logits


class Joint(keras.Model):
    """Both, side by side: their logits are added."""

    def __init__(self, layers: dict[str, attn.Layer], dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.perceptron = Perceptron(layers, dtype)
        self.reader = Reader(layers, dtype)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.perceptron(images) + self.reader(images)


class Classifier(keras.Model):
    """A Transformer's encoder over the rows of each image."""

    def __init__(self, layers: dict[str, attn.Layer], dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.classifier = layers["classifier"]

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.classifier(images)


MODELS: dict[str, Callable[..., keras.Model]] = {
    "mlp": Perceptron,
    "cell": Reader,
    "joint": Joint,
    "classifier": Classifier,
}


class DigitsTraining:
    """A model and Adam, which minimises the cross-entropy of the labels."""

    def __init__(self, model: keras.Model, layers: dict[str, attn.Layer], rate: float) -> None:
        self.model = model
        self.layers = layers
        self.optimizer = Adam(model.trainable_variables, rate)

    def step(self, images: Array, labels: Array) -> float:
        """Make one step; return the loss before it."""
        return float(self._step(images, labels))

    def gradients(self, layer: str, images: Array, labels: Array) -> dict[str, Array]:
        """Return the loss's gradients by the parameters of one of the layers."""
        with tf.GradientTape() as tape:
            loss = self._loss(images, labels)
        gradients = tape.gradient(loss, self.layers[layer].trainable_variables)
        return {name: gradient.numpy() for name, gradient in zip(self.layers[layer].state(), gradients, strict=True)}

    def predict(self, images: Array) -> Array:
        """Return the likeliest class of each image."""
        return self._predict(images).numpy()

    @tf.function
    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(images, labels)
        self.optimizer.update(tape.gradient(loss, self.model.trainable_variables))
        return loss

    @tf.function
    def _predict(self, images: tf.Tensor) -> tf.Tensor:
        return tf.argmax(self.model(images), axis=-1)

    def _loss(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.model(images)))


def start(exercise: Exercise) -> DigitsTraining:
    """Build the layers with their first states, and the model of them."""
    states = exercise.states()
    layers = {
        name: getattr(attn, config.layer).from_layer_config(config, dtype=exercise.dtype)
        for name, config in exercise.layers.items()
    }
    for name, layer in layers.items():
        layer.load_state(states[name])
    model = MODELS[exercise.name](layers, exercise.dtype)
    return DigitsTraining(model, layers, exercise.rate)

"""The models and their training in JAX."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import attnspec.jax as attn
from examples.training.exercises import Array, Exercise
from examples.training.jax_adam import adam

from .model import READINGS


class Perceptron(nnx.Module):
    """Three affine maps with ReLU between them."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        self.first = layers["first"]
        self.second = layers["second"]
        self.last = layers["last"]

    def __call__(self, images: jax.Array) -> jax.Array:
        """(B, T, D) → the logits of each image, (B, C)."""
        hidden = jax.nn.relu(self.first(images.reshape(images.shape[0], -1)))
        hidden = jax.nn.relu(self.second(hidden))
        return self.last(hidden)


class Reader(nnx.Module):
    """A cell that reads the rows of each image more than once."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        self.positions = layers["positions"]
        self.cell = layers["cell"]

    def __call__(self, images: jax.Array) -> jax.Array:
        """(B, T, D) → the logits of each image, (B, C)."""
        rows = self.positions(images)
        state = self.cell.empty_state((images.shape[0],))
        for _ in range(READINGS):
            logits, state = self.cell(rows, state)
        return logits


class Joint(nnx.Module):
    """Both, side by side: their logits are added."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        self.perceptron = Perceptron(layers)
        self.reader = Reader(layers)

    def __call__(self, images: jax.Array) -> jax.Array:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.perceptron(images) + self.reader(images)


class Classifier(nnx.Module):
    """A Transformer's encoder over the rows of each image."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        self.classifier = layers["classifier"]

    def __call__(self, images: jax.Array) -> jax.Array:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.classifier(images)


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": Perceptron,
    "cell": Reader,
    "joint": Joint,
    "classifier": Classifier,
}


class DigitsTraining:
    """A model and Adam, which minimises the cross-entropy of the labels."""

    def __init__(self, model: nnx.Module, rate: float) -> None:
        self.model = model
        self.optimizer = nnx.Optimizer(model, adam(rate), wrt=nnx.Param)

    def step(self, images: Array, labels: Array) -> float:
        """Make one step; return the loss before it."""
        return float(_step(self.model, self.optimizer, images, labels))

    def gradients(self, layer: str, images: Array, labels: Array) -> dict[str, Array]:
        """Return the loss's gradients by the parameters of one of the layers."""
        gradients = nnx.to_flat_state(_gradients(layer, self.model, images, labels))
        return {str(path[-1]): np.asarray(gradient[...]) for path, gradient in gradients}

    def predict(self, images: Array) -> Array:
        """Return the likeliest class of each image."""
        return np.asarray(_predict(self.model, images))


@nnx.jit
def _step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
    loss, gradients = nnx.value_and_grad(_loss)(model, images, labels)
    optimizer.update(model, gradients)
    return loss


@nnx.jit(static_argnums=0)
def _gradients(layer: str, model: nnx.Module, images: jax.Array, labels: jax.Array) -> nnx.State:
    chosen = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains(layer)))
    return nnx.grad(_loss, argnums=chosen)(model, images, labels)


@nnx.jit
def _predict(model: nnx.Module, images: jax.Array) -> jax.Array:
    return jnp.argmax(model(images), axis=-1)


def _loss(model: nnx.Module, images: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


def start(exercise: Exercise) -> DigitsTraining:
    """Build the layers with their first states, and the model of them."""
    states = exercise.states()
    layers = {
        name: getattr(attn, config.layer).from_layer_config(config, dtype=exercise.dtype, rngs=nnx.Rngs(exercise.seed))
        for name, config in exercise.layers.items()
    }
    for name, layer in layers.items():
        layer.load_state(states[name])
    return DigitsTraining(MODELS[exercise.name](layers), exercise.rate)

"""The models and their training in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import attnspec.torch as attn
from examples.training.exercises import Array, Exercise

from .model import READINGS


class Perceptron(nn.Module):
    """Three affine maps with ReLU between them."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        super().__init__()
        self.first = layers["first"]
        self.second = layers["second"]
        self.last = layers["last"]

    def forward(self, images: Tensor) -> Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        hidden = functional.relu(self.first(images.flatten(start_dim=1)))
        hidden = functional.relu(self.second(hidden))
        return self.last(hidden)


class Reader(nn.Module):
    """A cell that reads the rows of each image more than once."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        super().__init__()
        self.positions = layers["positions"]
        self.cell = layers["cell"]

    def forward(self, images: Tensor) -> Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        rows = self.positions(images)
        state = self.cell.empty_state((images.shape[0],))
        for _ in range(READINGS):
            logits, state = self.cell(rows, state)
        return logits


class Joint(nn.Module):
    """Both, side by side: their logits are added."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        super().__init__()
        self.perceptron = Perceptron(layers)
        self.reader = Reader(layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.perceptron(images) + self.reader(images)


class Classifier(nn.Module):
    """A Transformer's encoder over the rows of each image."""

    def __init__(self, layers: dict[str, attn.Layer]) -> None:
        super().__init__()
        self.classifier = layers["classifier"]

    def forward(self, images: Tensor) -> Tensor:
        """(B, T, D) → the logits of each image, (B, C)."""
        return self.classifier(images)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": Perceptron,
    "cell": Reader,
    "joint": Joint,
    "classifier": Classifier,
}


class DigitsTraining:
    """A model and Adam, which minimises the cross-entropy of the labels."""

    def __init__(self, model: nn.Module, layers: dict[str, attn.Layer], rate: float) -> None:
        self.model = model
        self.layers = layers
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate)

    def step(self, images: Array, labels: Array) -> float:
        """Make one step; return the loss before it."""
        self.optimizer.zero_grad()
        loss = self._loss(images, labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def gradients(self, layer: str, images: Array, labels: Array) -> dict[str, Array]:
        """Return the loss's gradients by the parameters of one of the layers."""
        parameters = dict(self.layers[layer].named_parameters())
        gradients = torch.autograd.grad(self._loss(images, labels), list(parameters.values()))
        return {name: gradient.numpy() for name, gradient in zip(parameters, gradients, strict=True)}

    def predict(self, images: Array) -> Array:
        """Return the likeliest class of each image."""
        with torch.no_grad():
            return self.model(torch.from_numpy(images)).argmax(dim=-1).numpy()

    def _loss(self, images: Array, labels: Array) -> Tensor:
        return functional.cross_entropy(self.model(torch.from_numpy(images)), torch.from_numpy(labels))


def start(exercise: Exercise) -> DigitsTraining:
    """Build the layers with their first states, and the model of them."""
    states = exercise.states()
    layers = {
        name: getattr(attn, config.layer).from_layer_config(config, dtype=getattr(torch, exercise.dtype))
        for name, config in exercise.layers.items()
    }
    for name, layer in layers.items():
        layer.load_state(states[name])
    return DigitsTraining(MODELS[exercise.name](layers), layers, exercise.rate)

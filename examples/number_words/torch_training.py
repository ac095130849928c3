"""The model and its training in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

import attnspec.torch as attn
from examples.training.exercises import Array, Exercise

from .data import START, STOP, TARGET_LENGTH


class WordsTraining:
    """A Transformer and Adam, which minimises the cross-entropy of each next word, given the right ones before it."""

    def __init__(self, model: attn.Transformer, rate: float) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate)

    def step(self, *batch: Array) -> float:
        """Make one step; return the loss before it."""
        self.optimizer.zero_grad()
        loss = self._loss(*map(torch.from_numpy, batch))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, source: Array, valid: Array) -> Array:
        """Return what the model writes, always the likeliest word, until the stop."""
        tensors = torch.from_numpy(source), torch.from_numpy(valid)
        with torch.no_grad():
            return self._write(*tensors).numpy()

    def _write(self, source: Tensor, valid: Tensor) -> Tensor:
        return self.model.greedy_decode(source, start=START, stop=STOP, max_length=TARGET_LENGTH, source_valid=valid)

    def _loss(self, source: Tensor, valid: Tensor, given: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
        logits = self.model(source, given, source_valid=valid)
        losses = functional.cross_entropy(logits.mT, wanted, reduction="none")  # classes come second here
        return (losses * counted).sum() / counted.sum()


def start(exercise: Exercise) -> WordsTraining:
    """Build the model with its first state."""
    config = exercise.layers["transformer"]
    model = attn.Transformer.from_layer_config(config, dtype=getattr(torch, exercise.dtype))
    model.load_state(exercise.states()["transformer"])
    return WordsTraining(model, exercise.rate)

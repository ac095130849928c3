"""Images of handwritten digits: those of scikit-learn, or MNIST from local files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.training.command import WrongUsageError
from examples.training.exercises import Array

from .mnist import read_mnist

CLASSES = 10
MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081
"""Of MNIST's training images, whose pixels are between 0 and 1: what every pipeline uses."""


class Digits(NamedTuple):
    """Images and what they show."""

    images: Array
    """(B, T, D), normalised."""
    labels: Array
    """(B,), int64."""


def load_digits(seed: int, dtype: str) -> tuple[Digits, Digits]:
    """Return the 1797 real images of 8 by 8 pixels that scikit-learn ships: four fifths for training, one for the test.

    Each class has its share of both. Pixels are normalised by mean and standard deviation of the training images.
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError:
        raise WrongUsageError("the digits are scikit-learn's; install it with: pip install scikit-learn") from None
    found = datasets.load_digits()
    images, test_images, labels, test_labels = model_selection.train_test_split(
        found.images, found.target, test_size=0.2, random_state=seed, stratify=found.target
    )
    mean, deviation = images.mean(), images.std()
    return (
        Digits(((images - mean) / deviation).astype(dtype), labels.astype(np.int64)),
        Digits(((test_images - mean) / deviation).astype(dtype), test_labels.astype(np.int64)),
    )


def load_mnist(folder: Path, dtype: str) -> tuple[Digits, Digits]:
    """Return MNIST from its four files: 60 000 images of 28 by 28 pixels for training, 10 000 for the test."""
    training, test = read_mnist(folder)
    return _normalised(*training, dtype), _normalised(*test, dtype)


def _normalised(images: Array, labels: Array, dtype: str) -> Digits:
    levels = (np.arange(256) / 255.0 - MNIST_MEAN) / MNIST_DEVIATION  # a pixel is one of so many
    return Digits(levels.astype(dtype)[images], labels.astype(np.int64))

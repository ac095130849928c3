"""Images of handwritten digits: those of scikit-learn, or MNIST from local files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..training.command import WrongUsageError
from ..training.exercises import Array
from .mnist import read_mnist

CLASSES = 10
MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081
"""Of MNIST's training images, whose pixels are between 0 and 1: what every pipeline uses."""


class Digits(NamedTuple):
    """Images and what they show."""

    images: Array
    """(B, T, D), normalised, float64."""
    labels: Array
    """(B,), int64."""


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """Return the 1797 real images of 8 by 8 pixels that scikit-learn ships: four fifths for training, one for the test.

    Each class has its share of both. Pixels are normalised by mean and standard deviation of the training images.
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError:
        raise WrongUsageError("the digits are scikit-learn's; install it with: pip install scikit-learn") from None
    found = datasets.load_digits()
    images, test_images, labels, test_labels = model_selection.train_test_split(
        found.images, found.target.astype(np.int64), test_size=0.2, random_state=seed, stratify=found.target
    )
    mean, deviation = images.mean(), images.std()
    return Digits((images - mean) / deviation, labels), Digits((test_images - mean) / deviation, test_labels)


def load_mnist(folder: Path) -> tuple[Digits, Digits]:
    """Return the images of MNIST from its four files, 60 000 of 28 by 28 pixels for training and 10 000 for the test."""
    training, test = read_mnist(folder)
    return _normalised(*training), _normalised(*test)


def _normalised(images: Array, labels: Array) -> Digits:
    return Digits((images / 255.0 - MNIST_MEAN) / MNIST_DEVIATION, labels.astype(np.int64))

"""The training examples: the same losses in all frameworks, data from files, and commands that say what is wrong.

Short versions of what `python -m examples.digits` and `python -m examples.number_words` do in full.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest

pytest.importorskip("sklearn")

from examples.digits import __main__ as digits_command  # noqa: E402 - behind the line that may skip
from examples.digits import data as digits_data  # noqa: E402
from examples.digits import mnist  # noqa: E402
from examples.digits import model as digits_model  # noqa: E402
from examples.number_words import __main__ as words_command  # noqa: E402
from examples.number_words import data as words_data  # noqa: E402
from examples.number_words import model as words_model  # noqa: E402
from examples.number_words.words import ENGLISH, GERMAN, english, german  # noqa: E402
from examples.training import agreement, plot, processes, trainer  # noqa: E402
from examples.training.command import WrongUsageError, run_command  # noqa: E402
from examples.training.exercises import Exercise, score  # noqa: E402
from examples.training.records import Records  # noqa: E402
from examples.training.trainer import Epoch, Finished, Gradients, Step  # noqa: E402

Array = np.ndarray[Any, Any]
STEPS = 20


# The same numbers in all frameworks


def digits_exercise(model: str, dtype: str) -> Exercise:
    training, test = digits_data.load_digits(7, dtype)
    return digits_model.exercise(model, training, test, epochs=1, steps=STEPS, seed=7)


def words_exercise(dtype: str) -> Exercise:
    return words_model.exercise(*words_data.split(7), dtype=dtype, epochs=1, steps=STEPS, seed=7)


def losses_of(exercise: Exercise, framework: str) -> list[float]:
    frameworks.load(framework)
    training = trainer.start(exercise, framework)
    return [training.step(*batch) for batches in exercise.epoch_batches() for batch in batches]


@pytest.mark.parametrize(
    ("make", "dtype", "tolerance"),
    [
        # In float64 the losses are 1e-15 apart in 20 steps, in float32 4e-7: what is allowed for 300 and 100 steps
        # would hide a slightly different formula of Adam, or another order of the batches.
        (lambda dtype: digits_exercise("joint", dtype), "float64", 1e-13),
        (lambda dtype: digits_exercise("classifier", dtype), "float32", 2e-6),
        (words_exercise, "float64", 1e-13),
    ],
    ids=["joint", "classifier", "words"],
)
def test_frameworks_have_the_same_losses(make: Callable[[str], Exercise], dtype: str, tolerance: float) -> None:
    losses = {framework: losses_of(make(dtype), framework) for framework in frameworks.FRAMEWORKS}
    found = agreement.agreement(losses, dtype)
    assert found is not None
    assert found.steps == STEPS
    assert found.largest <= tolerance
    assert losses["torch"][-1] < 0.8 * losses["torch"][0]  # something was learned

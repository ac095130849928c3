"""Pairs of German and English number words as ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from examples.training.exercises import Array

from .words import ENGLISH, GERMAN, LARGEST, english, german

START, STOP = len(ENGLISH), len(ENGLISH) + 1
"""The ids that stand before and after what is written."""
SOURCE_SIZE, TARGET_SIZE = len(GERMAN), len(ENGLISH) + 2

SOURCE_LENGTH = max(len(german(number)) for number in range(LARGEST + 1))
TARGET_LENGTH = max(len(english(number)) for number in range(LARGEST + 1)) + 1
"""With the id that ends it."""

TRAINING_NUMBERS, TEST_NUMBERS = 2000, 500


class Pairs(NamedTuple):
    """Numbers in German and in English."""

    source: Array
    """German words, (B, S); what follows the last word is not valid."""
    source_valid: Array
    """(B, S)."""
    given: Array
    """What the model sees while it learns to write: the start, then the English words, (B, T)."""
    wanted: Array
    """What it is to write at each place: the English words, then nothing but the stop, (B, T)."""
    counted: Array
    """Where what it writes counts: up to the first stop, (B, T)."""


def pairs(numbers: Sequence[int]) -> Pairs:
    """Put numbers into words, and words into ids, padded to the length of the longest number of all."""
    source = [[GERMAN.index(word) for word in german(number)] for number in numbers]
    target = [[ENGLISH.index(word) for word in english(number)] for number in numbers]
    wanted = _padded(target, TARGET_LENGTH, STOP)
    given = np.concatenate([np.full((len(wanted), 1), START), wanted[:, :-1]], axis=1)
    return Pairs(
        _padded(source, SOURCE_LENGTH, 0),
        _up_to([len(ids) for ids in source], SOURCE_LENGTH),
        given,
        wanted,
        _up_to([len(ids) + 1 for ids in target], TARGET_LENGTH),
    )


def split(seed: int) -> tuple[Pairs, Pairs]:
    """Draw numbers to learn from and, other ones, for the test."""
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(LARGEST + 1).tolist()
    return pairs(drawn[:TRAINING_NUMBERS]), pairs(drawn[TRAINING_NUMBERS : TRAINING_NUMBERS + TEST_NUMBERS])


def read(words: Sequence[str], ids: Iterable[int]) -> str:
    """Return the words of ids up to the first that is none: the stop, or a start where none belongs."""
    return " ".join(words[one] for one in itertools.takewhile(lambda one: one < len(words), ids))


def _padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> Array:
    return np.array([[*row, *[filler] * (length - len(row))] for row in rows], np.int64)


def _up_to(lengths: Sequence[int], length: int) -> Array:
    return np.arange(length) < np.array(lengths)[:, None]

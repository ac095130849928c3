"""Vectors of real input: queries, keys and values that a trained encoder computes for three sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnspec.contract import causal, key_lengths
from attnspec.contract.tensor_files import read_tensors

from .design import Design
from .example_files import MINILM
from .recipes import Array

HEADS = 4
LENGTHS = (13, 10, 5)


def real_designs() -> Iterator[Design]:
    """Yield the designs of real input: the first heads of the example `minilm`, one of them nearly one-hot."""
    yield Design(
        "real-encoder",
        ("S2", "S8"),
        "what an encoder's first layer really receives, padded: sharp heads beside flat ones, logits to ±35",
        _captured,
        "captured",
        mask=key_lengths(LENGTHS),
        features=("real", "mask"),
    )
    yield Design(
        "real-encoder-causal",
        ("S2", "S6", "S7", "S8"),
        "the same real input, read causally",
        _captured,
        "captured",
        mask=causal() & key_lengths(LENGTHS),
        dtypes=("float32",),
        features=("real", "mask"),
    )


def _captured(_: np.random.Generator) -> dict[str, Array]:
    tensors = read_tensors(MINILM.read_bytes())
    return {name: tensor[0, :, :HEADS].astype(np.float64) for name, tensor in tensors.items()}

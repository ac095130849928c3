"""The designs that hunt in positions: rotary embedding and sinusoidal encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .design import ALL, WIDE, Design
from .recipes import Array


def position_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    plain, batched = np.arange(7), np.array([[3, 4, 5, 6, 7, 8, 9], [0, 2, 1, 900, 40, 41, 7]])
    rows: tuple[tuple[str, tuple[int, ...], Array, dict[str, Any], str], ...] = (
        ("rotary-half-split", (2, 3, 7, 8), plain, {"pairing": "half_split"}, "component c turns with c + R/2"),
        ("rotary-interleaved", (2, 3, 7, 8), plain, {"pairing": "interleaved"}, "component 2c turns with 2c + 1"),
        (
            "rotary-partial",
            (2, 3, 7, 8),
            plain + 5,
            {"pairing": "half_split", "rotary_dim": 4},
            "the first components turn, in pairs among themselves; the others pass",
        ),
        (
            "rotary-partial-interleaved",
            (2, 3, 7, 8),
            plain + 5,
            {"pairing": "interleaved", "rotary_dim": 6},
            "frequencies follow from the turned size, not from the whole",
        ),
        (
            "rotary-base",
            (2, 3, 7, 8),
            plain * 11,
            {"pairing": "interleaved", "base": 500.0},
            "another base than 10000",
        ),
        (
            "rotary-batch",
            (2, 3, 7, 8),
            batched,
            {"pairing": "half_split"},
            "positions for each batch element, not in order, shared by its heads",
        ),
        ("rotary-rank-3", (2, 7, 8), batched, {"pairing": "interleaved"}, "no head axis: positions (batch, length)"),
    )
    for name, shape, positions, options, hunts in rows:

        def make(rng: np.random.Generator, shape: Any = shape, positions: Array = positions) -> dict[str, Array]:
            return {"inputs": 1.5 * rng.standard_normal(shape), "positions": positions}

        yield Design(
            name,
            ("S21",),
            hunts,
            make,
            "turned",
            operation="rotary_embedding",
            numbers={"base": None, "rotary_dim": None, **options},
            dtypes=ALL if name != "rotary-batch" else ("float64", "float32", "bfloat16"),
            features=("rotary",),
        )
    places: tuple[tuple[str, Array, dict[str, Any], str], ...] = (
        ("sinusoidal", np.arange(13), {"size": 10}, "sine and cosine alternate; the first position is not all 0"),
        ("sinusoidal-batch", np.array([[4, 0, 9], [100, 101, 102]]), {"size": 6}, "positions for each batch element"),
        ("sinusoidal-base", np.arange(7), {"size": 8, "base": 100.0}, "another base than 10000"),
    )
    for name, positions, options, hunts in places:
        yield Design(
            name,
            ("S22",),
            hunts,
            _constant({"positions": positions}),
            "positions",
            operation="sinusoidal_positions",
            numbers={"base": 10000.0, **options},
            dtypes=ALL if name != "sinusoidal-batch" else WIDE,
            features=("sinusoidal",),
        )


def _constant(tensors: dict[str, Array]) -> Callable[[np.random.Generator], dict[str, Array]]:
    return lambda _: dict(tensors)

"""Attentions with every option whose unread entries `test_unread_options.py` poisons, and who reads what, by hand."""

# ruff: noqa: ARG005 - who sees whom takes all of (b, h, i, j), whichever of them it needs

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract import (
    Dropout,
    alibi,
    causal,
    chunked,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    relative_position_bias,
    segments,
)
from attnspec.contract.biases import as_bias

Array = np.ndarray[Any, Any]

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, HEAD_DIM, VALUE_DIM = 2, 4, 2, 5, 6, 3, 3
PAIRS = (BATCH, HEADS, QUERIES, KEYS)


class Case(NamedTuple):
    """One attention."""

    options: Callable[..., dict[str, Any]]
    """Takes the floating tensors of the options by name."""
    sees: Callable[[int, int, int, int], bool]
    """May query i of head h attend to key j in batch element b? By the specification."""
    numbers: dict[str, Array] = {}  # noqa: RUF012 - never written to
    reads: dict[str, Callable[[int, int, int, int], tuple[int, ...]]] = {}  # noqa: RUF012
    """For an option, which of its elements a pair reads if it is visible."""
    allowed: Callable[[int, int, int, int], bool] | None = None
    """What the mask alone says, where a bias of −inf hides more."""
    kept: Array | None = None

    def visible(self) -> Array:
        return by_pair(self.sees)

    def mask(self) -> Array:
        """What the mask alone allows."""
        return self.visible() if self.allowed is None else by_pair(self.allowed)

    def used(self) -> Array:
        """Which pairs' values are read."""
        return self.visible() if self.kept is None else self.visible() & self.kept

    def arrays(self) -> dict[str, Array]:
        rng = np.random.default_rng(79)
        shapes = {"query": (HEADS, QUERIES, HEAD_DIM), "key": (KV_HEADS, KEYS, HEAD_DIM)}
        shapes["value"] = (KV_HEADS, KEYS, VALUE_DIM)
        drawn = {name: 1.5 * rng.standard_normal((BATCH, *shape)) for name, shape in shapes.items()}
        return {name: array.astype(np.float32) for name, array in (drawn | self.numbers).items()}

    def unread(self) -> dict[str, Array]:
        """Which elements of the arrays nobody reads; whole rows of queries, keys and values."""
        visible, used = self.visible(), self.used()
        places = {"query": ~visible.any(-1), "key": ~by_key(visible).any(-2), "value": ~by_key(used).any(-2)}
        allowed = self.mask()
        for name, element in self.reads.items():
            places[name] = np.ones(self.numbers[name].shape, bool)
            for pair in np.argwhere(allowed):
                places[name][element(*pair)] = False
        return places


def by_pair(says: Callable[[int, int, int, int], bool]) -> Array:
    return np.array([says(*at) for at in np.ndindex(PAIRS)]).reshape(PAIRS)


def by_key(pairs: Array) -> Array:
    """(B, Hq, q, k) → (B, Hkv, rows, k)."""
    return pairs.reshape(BATCH, KV_HEADS, -1, KEYS)


def poisoned(arrays: dict[str, Array], places: dict[str, Array], poison: float) -> dict[str, Array]:
    """Put poison into the places; finite poison with random signs."""
    rng, result = np.random.default_rng(83), {name: array.copy() for name, array in arrays.items()}
    for name, where in places.items():
        shape = result[name][where].shape
        result[name][where] = np.full(shape, poison) * (rng.choice([-1, 1], shape) if np.isfinite(poison) else 1)
    return result


_RNG = np.random.default_rng(89)
QUERY_IDS = np.array([[0, 0, -1, 2, 7], [5, 5, 5, 5, 1]])
KEY_IDS = np.array([[0, 9, -1, 0, 2, 8], [1, 5, 6, 1, 5, 6]])
HEAD_1 = (np.arange(HEADS) != 1)[None, :, None, None]
ODD = predicate("even, without 2", lambda query, key: ((query + key) % 2 == 0) & (key != 2))
KEEP = _RNG.random(PAIRS) < 0.6
KEEP[..., 2] = False  # a value that is dropped everywhere
KEEP[0, :, 3] = False  # rows in which everything is dropped
DROPPED = Dropout(0.4, KEEP)  # here, because `torch.compile` traces no constructor that is given NumPy arrays
SLOPES = np.array([0.5, -0.25, 1.0, 0.125])
TABLE = _RNG.standard_normal((6, HEADS))
HOLES = _RNG.standard_normal(PAIRS)
HOLES[..., 3] = HOLES[0, :, 1] = -np.inf
HOLES[1, 2, 2, 1:4] = -np.inf
SINKS = np.array([0.5, -1.0, 2.0, 0.0])

PACKED = segments(QUERY_IDS, KEY_IDS)
PREFIX = prefix([2, 0], offset=[-1, 1])
MOST = PACKED | PREFIX & ODD


def _bucket(relative: int) -> int:
    """6 buckets, both directions, max_distance 4: 0, 1 and 2 … of each direction."""
    return (3 if relative > 0 else 0) + min(abs(relative), 2)


def _in_most(b: int, _: int, i: int, j: int) -> bool:
    in_prefix = j < (2, 0)[b] or j <= i + (-1, 1)[b]
    return bool(QUERY_IDS[b, i] == KEY_IDS[b, j] or (in_prefix and (i + j) % 2 == 0 and j != 2))


CASES: dict[str, Case] = {
    "segments": Case(lambda: {"mask": PACKED}, lambda b, h, i, j: QUERY_IDS[b, i] == KEY_IDS[b, j]),
    "prefix": Case(lambda: {"mask": PREFIX}, lambda b, h, i, j: j < (2, 0)[b] or j <= i + (-1, 1)[b]),
    "chunked": Case(
        lambda: {"mask": chunked(3, offset=-1) & causal(0)}, lambda b, h, i, j: (i - 1) // 3 == j // 3 and j <= i
    ),
    "predicate": Case(lambda: {"mask": ODD}, lambda b, h, i, j: (i + j) % 2 == 0 and j != 2),
    "alibi": Case(
        lambda slopes: {"mask": key_lengths([4, 0]) & HEAD_1, "bias": alibi(slopes, symmetric=False, offset=1)},
        lambda b, h, i, j: j < (4, 0)[b] and h != 1,
        {"slopes": SLOPES},
        {"slopes": lambda b, h, i, j: (h,)},
    ),
    "t5": Case(
        lambda table: {
            "mask": key_lengths([4, 2]) & query_lengths([5, 2]),
            "bias": relative_position_bias(table, bidirectional=True, max_distance=4, offset=1),
        },
        lambda b, h, i, j: j < (4, 2)[b] and i < (5, 2)[b],
        {"table": TABLE},
        {"table": lambda b, h, i, j: (_bucket(j - i - 1), h)},
    ),
    "sum": Case(
        lambda slopes, holes: {"mask": ODD, "bias": alibi(slopes, symmetric=True, offset=0) + as_bias(holes)},
        lambda b, h, i, j: (i + j) % 2 == 0 and j != 2 and HOLES[b, h, i, j] != -np.inf,
        {"slopes": SLOPES, "holes": HOLES},
        {"slopes": lambda b, h, i, j: (h,), "holes": lambda b, h, i, j: (b, h, i, j)},
        allowed=lambda b, h, i, j: (i + j) % 2 == 0 and j != 2,
    ),
    "sinks": Case(
        lambda sinks: {"mask": key_lengths([3, 0]) & causal(0), "sinks": sinks},
        lambda b, h, i, j: j < (3, 0)[b] and j <= i,
        {"sinks": SINKS},
    ),
    "dropout": Case(lambda: {"mask": causal(0), "dropout": DROPPED}, lambda b, h, i, j: j <= i, kept=KEEP),
    "everything": Case(
        lambda slopes, holes, sinks: {
            "mask": MOST,
            "bias": alibi(slopes, symmetric=True, offset=0) + as_bias(holes),
            "scale": -0.6,
            "softcap": 3.0,
            "sinks": sinks,
            "dropout": DROPPED,
        },
        lambda b, h, i, j: _in_most(b, h, i, j) and HOLES[b, h, i, j] != -np.inf,
        {"slopes": SLOPES, "holes": HOLES, "sinks": SINKS},
        {"slopes": lambda b, h, i, j: (h,), "holes": lambda b, h, i, j: (b, h, i, j)},
        _in_most,
        KEEP,
    ),
}

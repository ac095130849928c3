"""The designs that hunt at the boundaries of tiles, at the ends of the number range, and where a closed form is known.

Kernels work in tiles of 16, 32, 64 or 128 keys. What goes wrong at the edge of a tile concerns one key of many: a
needle makes that key weigh more than all others together. What only a tiled kernel can get wrong, and sizes that many
systems refuse, are of level `extended`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import Mask, causal, key_lengths, segments, sliding_window

from .design import (
    EDGES,
    GROUPED,
    NO_QUERIES,
    SQUARE,
    TILE_LENGTHS,
    VALUES_LARGER,
    WIDE_TILE,
    Design,
    peaked_tensors,
    visible_pairs_of,
    with_poison,
)
from .recipes import Array, peaked, pointed

Make = Callable[[np.random.Generator], dict[str, Array]]

TILES = (16, 32, 64, 128)
AROUND_TILES = tuple(tile + step for tile in TILES for step in (-2, -1, 0))
"""The last two keys of a tile, and the first of the next one: lengths of 15, 16 and 17 end there."""
LENGTHS = tuple(tile + step for tile in TILES for step in (-1, 0, 1))

_SINGLE = ("float32",)


def edge_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    yield from _tiles()
    yield from _lengths()
    yield from _ranges()
    yield from _closed_forms()
    yield from _sizes()
    yield from _gradients()


def edges_of(visible: Array) -> Array:
    """Name the key that each head's query points at: (4, queries) from visible (queries, keys).

    Head 0: the last key seen; 1: the first one hidden after it; 2: the first key seen; 3: the last one hidden before
    it. Where nothing is hidden on that side, the edge inside it.
    """
    targets = []
    for row in visible:
        seen = np.flatnonzero(row)
        first, last = int(seen[0]), int(seen[-1])
        targets.append((last, min(last + 1, len(row) - 1), first, max(first - 1, 0)))
    return np.array(targets).T


def _pointed_at_edges(mask: Mask) -> Make:
    def make(rng: np.random.Generator) -> dict[str, Array]:
        visible = visible_pairs_of(peaked(np.random.default_rng(0), EDGES), mask)
        return pointed(rng, EDGES, edges_of(visible[0, 0]))

    return make


def _pointed_around_tiles(rng: np.random.Generator) -> dict[str, Array]:
    targets = np.array([*AROUND_TILES, 0, 1, 7, 8, 100])
    return pointed(rng, EDGES, np.stack([np.roll(targets, 4 * head) for head in range(EDGES.heads)]))


def _tile_segments() -> Mask:
    keys = np.searchsorted(TILES, np.arange(EDGES.keys), side="right")
    queries = np.arange(EDGES.queries) % len({*keys.tolist()})
    return segments(queries.tolist(), keys.tolist())


def _tiles() -> Iterator[Design]:
    yield Design(
        "needle-tiles",
        ("S1",),
        "the last keys of tiles of 16, 32, 64 and 128 and the first of the next: one dropped, read twice, or moved",
        _pointed_around_tiles,
        "pointed",
        dtypes=("float32", "bfloat16"),
        features=("needle", "tile"),
        level="extended",
        catches=("last-key-dropped", "values-shifted"),
    )
    for right, offset, left, lost in (
        (16, 8, None, "16"),
        (32, 24, 15, "32 above and 16 below"),
        (64, 56, 31, "64 above and 32 below"),
        (128, 112, 56, "128 above and 64 below"),
    ):
        mask: Mask = causal(offset)
        if left is not None:
            mask = mask & sliding_window(left=left, offset=offset)
        yield Design(
            f"needle-edges-{right}",
            ("S7",) if left is None else ("S6", "S7"),
            f"edges of what 17 queries see, one key further from query to query, across a tile's boundary: {lost}",
            _pointed_at_edges(mask),
            "pointed",
            mask=mask,
            dtypes=_SINGLE,
            features=("needle", "tile", "mask"),
            level="extended",
            catches=("causal-strict", "causal-peek", *(() if left is None else ("window-one-wider",))),
        )
    yield Design(
        "needle-segments",
        ("S9",),
        "packed sequences that begin and end at the boundaries of tiles: both edges of each",
        _pointed_at_edges(_tile_segments()),
        "pointed",
        mask=_tile_segments(),
        dtypes=_SINGLE,
        features=("needle", "tile", "mask", "segments"),
        level="extended",
        catches=("segments-ignored",),
    )


def _lengths() -> Iterator[Design]:
    """Yield one query for each length around a tile: the last key seen is strong, the first hidden one stronger."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, TILE_LENGTHS)
        query, key = tensors["query"], tensors["key"]
        query[..., :] = [4.0, 0.0]
        key *= 0.1
        for element, length in enumerate(LENGTHS):
            key[element, 0, length - 1, 0] = 5.0 * np.sqrt(2.0) / 4.0
            key[element, 0, length : length + 1, 0] = 9.0 * np.sqrt(2.0) / 4.0
        return tensors

    mask = key_lengths(LENGTHS)
    common: dict[str, Any] = {
        "mask": mask,
        "dtypes": _SINGLE,
        "level": "extended",
        "catches": ("lengths-off-by-one", "lengths-of-first-element"),
    }
    hunts = "decoding over caches of 15, 16, 17, 31, … 129 keys: padding that begins inside, at and beyond a tile"
    yield Design("needle-lengths-tiles", ("S8",), hunts, make, "pointed", features=("needle", "tile", "mask"), **common)
    yield Design(
        "poison-nan-lengths-tiles",
        ("S8", "S11"),
        f"{hunts}; it holds NaN, which a tile that is read to its end must not let through",
        lambda rng: with_poison(make(rng), mask, np.nan),
        "poisoned",
        features=("needle", "tile", "mask", "poison"),
        twin="needle-lengths-tiles",
        **common,
    )


def _ranges() -> Iterator[Design]:
    def falling(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, WIDE_TILE, spread=1.0)
        direction = rng.choice([-1.0, 1.0], WIDE_TILE.head_dim)
        ramp = np.linspace(70.0, -70.0, WIDE_TILE.keys)[:, None]
        signs = np.where(np.arange(WIDE_TILE.queries) % 2, -1.0, 1.0)[:, None]
        return tensors | {"query": 0.2 * tensors["query"] + signs * direction, "key": tensors["key"] + ramp * direction}

    def all_negative(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, WIDE_TILE)
        tensors["query"][..., 0], tensors["key"][..., 0] = -18.0, 18.0
        return tensors

    def scores_beyond_float16(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        return tensors | {"query": 100.0 * tensors["query"], "key": 100.0 * tensors["key"]}

    def values_times(factor: float) -> Make:
        def make(rng: np.random.Generator) -> dict[str, Array]:
            tensors = peaked(rng, GROUPED)
            return tensors | {"value": factor * tensors["value"]}

        return make

    rows: tuple[tuple[str, str, Make, tuple[str, ...], float | None, tuple[str, ...]], ...] = (
        (
            "falling",
            "logits fall by 400 for even queries, and rise for odd ones: each tile's maximum far from the running one",
            falling,
            _SINGLE,
            None,
            ("softmax-without-maximum",),
        ),
        (
            "all-negative",
            "every product of query and key near −114: a maximum that starts at 0 underflows all weights",
            all_negative,
            _SINGLE,
            None,
            ("softmax-maximum-from-zero",),
        ),
        (
            "float16-scores",
            "products of query and key beyond 65504 that an explicit scale makes small: no float16 before the scale",
            scores_beyond_float16,
            ("float16",),
            4e-5,
            ("scale-missing",),
        ),
        (
            "large-values",
            "values up to 60000: sums of them overflow in float16 unless they are kept in float32",
            values_times(3e4),
            ("float32", "float16"),
            None,
            (),
        ),
        (
            "tiny-values",
            "values of 10⁻³⁰: nothing may be added to them or flushed",
            values_times(1e-30),
            _SINGLE,
            None,
            (),
        ),
        (
            "subnormal-values",
            "values below 6 · 10⁻⁵, subnormal in float16: flushed to zero they are gone",
            values_times(1.5e-5),
            ("float16",),
            None,
            (),
        ),
    )
    for name, hunts, make, dtypes, scale, catches in rows:
        yield Design(
            f"range-{name}",
            ("S2", "S16") if scale is not None else ("S16",),
            hunts,
            make,
            "stretched",
            scale=scale,
            dtypes=dtypes,
            features=("range",),
            catches=catches,
        )


def _closed_forms() -> Iterator[Design]:
    """Yield designs whose results need no oracle: copies, constants, the weights themselves."""

    def one_hot(rng: np.random.Generator, *, turned: bool = False) -> dict[str, Array]:
        codes = 32.0 * np.concatenate([np.eye(5), -np.eye(5)])[: SQUARE.keys]
        rows = (*SQUARE.batch, SQUARE.heads)
        choice = rng.permuted(np.broadcast_to(np.arange(SQUARE.keys), (*rows, SQUARE.keys)), axis=-1)
        key = np.broadcast_to(codes, (*rows, *codes.shape)).copy()
        value = rng.choice([-1.0, 1.0], SQUARE.key_shape(SQUARE.value_dim)) * rng.integers(8, 17, SQUARE.key_shape(5))
        order = np.roll(np.arange(SQUARE.keys), 3) if turned else np.arange(SQUARE.keys)
        return {"query": codes[choice], "key": key[..., order, :], "value": value[..., order, :] / 8.0}

    def constant(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, SQUARE)
        return tensors | {"value": np.repeat(tensors["value"][..., :1, :], SQUARE.keys, axis=-2)}

    def identity(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, SQUARE)
        shape = SQUARE.key_shape(SQUARE.value_dim)
        return tensors | {"value": np.broadcast_to(np.eye(SQUARE.keys, SQUARE.value_dim), shape).copy()}

    yield Design(
        "exact-one-hot",
        ("S2", "S17"),
        "weights that are 0 and 1 exactly: every row is a copy of one value, whatever rounds",
        one_hot,
        "codes",
        dtypes=("float32", "bfloat16"),
        features=("exact",),
        catches=("values-shifted",),
    )
    yield Design(
        "exact-one-hot-turned",
        ("S2", "S17"),
        "the same keys and values in another order: sums are exact here, so not one bit may depend on it",
        lambda rng: one_hot(rng, turned=True),
        "codes",
        dtypes=("float32", "bfloat16"),
        features=("exact", "order"),
        twin="exact-one-hot",
        catches=("values-shifted",),
    )
    yield Design(
        "value-constant",
        ("S1", "S2"),
        "the same value at every key: the output is that value, since weights add up to 1",
        constant,
        "peaked",
        dtypes=_SINGLE,
        undecided={"mean_value": "the mean of equal values is the value", "echo": "all values are equal"},
    )
    yield Design(
        "value-identity",
        ("S2", "S7"),
        "unit vectors as values: the output is the weights themselves, 0 where the future is",
        identity,
        "peaked",
        mask=causal(),
        dtypes=_SINGLE,
        features=("mask",),
        catches=("causal-peek",),
    )
    yield Design(
        "window-all",
        ("S7",),
        "a window wider than the sequence hides nothing",
        peaked_tensors(SQUARE),
        "peaked",
        mask=sliding_window(1000, 1000),
        dtypes=_SINGLE,
        features=("mask",),
    )


def _sizes() -> Iterator[Design]:
    yield Design(
        "value-dim-larger",
        ("S1", "S2"),
        "a head dimension of 96, which kernels pad to 128, and values of 128: the output has the values' size",
        peaked_tensors(VALUES_LARGER),
        "peaked",
        dtypes=_SINGLE,
        level="extended",
    )
    yield Design(
        "no-queries",
        ("S18",),
        "no queries at all: an empty result of the right shape",
        peaked_tensors(NO_QUERIES),
        "peaked",
        dtypes=_SINGLE,
        level="extended",
        undecided=dict.fromkeys(
            ("zeros", "constant", "mean_value", "echo", "shuffled_rows"), "the result has no element"
        ),
    )


def _gradients() -> Iterator[Design]:
    mask = causal(112) & sliding_window(left=56, offset=112)

    def at_edges(rng: np.random.Generator) -> dict[str, Array]:
        return _pointed_at_edges(mask)(rng) | _cotangent(rng, EDGES.query_shape()[:-1], EDGES.value_dim)

    def large(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        return tensors | {
            "query": 100.0 * tensors["query"],
            **_cotangent(rng, GROUPED.query_shape()[:-1], GROUPED.value_dim),
        }

    yield Design(
        "gradient-needle-edges",
        ("S6", "S7"),
        "gradients: edges of what 17 queries see cross the boundaries of tiles of 64 and 128, seen from the keys",
        at_edges,
        "pointed",
        direction="backward",
        mask=mask,
        dtypes=_SINGLE,
        features=("gradient", "needle", "tile", "mask"),
        level="extended",
    )
    yield Design(
        "gradient-range-large",
        ("S16",),
        "gradients: logits up to about ±1000: exponentials that are taken again overflow without their maximum",
        large,
        "stretched",
        direction="backward",
        dtypes=_SINGLE,
        features=("gradient", "range"),
    )


def _cotangent(rng: np.random.Generator, rows: tuple[int, ...], size: int) -> dict[str, Array]:
    return {"output_cotangent": rng.standard_normal((*rows, size))}

"""The designs that hunt in masks: every kind of mask, needles at their edges, empty rows, poison in unread entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from attnspec.contract import Mask, causal, full, key_lengths, query_lengths, sliding_window
from attnspec.contract.masks import as_mask

from .design import (
    DECODE,
    GROUPED,
    LONG,
    MATRIX,
    SQUARE,
    SQUARE_HEADS,
    TALL,
    TILE,
    TWO_BATCH_AXES,
    WIDE_TILE,
    Design,
    peaked_tensors,
    visible_pairs_of,
    with_poison,
)
from .recipes import Array, Shape, needles, peaked


def mask_designs() -> Iterator[Design]:
    """Yield a design for every kind of mask, and for their combinations."""
    rng = np.random.default_rng(20)
    pairs = rng.random((5, 11)) < 0.6
    pairs[:, 4] = True
    per_head = rng.random((1, 6, 5, 11)) < 0.6
    per_head[..., 7] = True
    per_batch = rng.random((3, 1, 5, 11)) < 0.6
    per_batch[..., 2] = True
    full_mask = rng.random((2, 5, 5, 5)) < 0.6
    full_mask |= np.eye(5, dtype=bool)
    keys_only = np.array([True, False] * 5 + [True]).reshape(1, 1, 1, 11)
    rows: tuple[tuple[str, Shape, tuple[str, ...], Any, str], ...] = (
        ("full", GROUPED, ("S4",), full(), "full() is no mask at all"),
        ("causal", SQUARE, ("S7",), causal(), "the causal mask: future keys, or the own key lost"),
        ("causal-tile", TILE, ("S7",), causal(), "causal over a tile boundary"),
        (
            "causal-end",
            GROUPED,
            ("S7",),
            causal("end"),
            "bottom-right alignment where Tq < Tk; top-left differs in every row",
        ),
        (
            "causal-end-tall",
            TALL,
            ("S7", "S10"),
            causal("end"),
            "bottom-right where Tq > Tk: the first rows see nothing",
        ),
        ("causal-top-left", GROUPED, ("S7",), causal(0), "top-left alignment where Tq < Tk"),
        (
            "causal-top-left-tall",
            TALL,
            ("S7",),
            causal(0),
            "top-left alignment where Tq > Tk: the last rows see every key",
        ),
        ("causal-offset", GROUPED, ("S7",), causal(2), "an offset that is neither 0 nor Tk − Tq"),
        ("causal-offset-batch", GROUPED, ("S7",), causal([0, 6, 3]), "an offset for each batch element, as in a cache"),
        (
            "causal-decode",
            DECODE,
            ("S7",),
            causal("end"),
            "decoding: the one query stands at the last key and sees all",
        ),
        (
            "causal-cache",
            DECODE,
            ("S7", "S8"),
            causal([4, 18, 11]) & key_lengths([5, 19, 12]),
            "a cache filled differently",
        ),
        ("causal-rank-5", TWO_BATCH_AXES, ("S7",), causal("end"), "causal under two batch axes"),
        ("causal-rank-2", MATRIX, ("S7",), causal("end"), "causal without batch and heads"),
        ("window", SQUARE, ("S7",), sliding_window(2, 1), "2 keys before and 1 after the own one"),
        (
            "window-causal",
            TILE,
            ("S6", "S7"),
            causal() & sliding_window(left=4),
            "5 keys with the own one, not 4, not 6",
        ),
        ("window-end", GROUPED, ("S7",), sliding_window(1, 1, offset="end"), "a window around shifted positions"),
        ("window-right", SQUARE, ("S7",), sliding_window(right=2), "unbounded to the left, 2 to the right"),
        ("window-left-0", SQUARE, ("S7",), sliding_window(left=0), "the own key and all after it"),
        ("window-self", SQUARE, ("S7",), sliding_window(0, 0), "the own key alone: the output is the value"),
        ("key-lengths", GROUPED, ("S8",), key_lengths([11, 1, 6]), "right padding: one key more or less"),
        ("key-lengths-tile", WIDE_TILE, ("S8",), key_lengths(64), "padding that begins at a tile boundary"),
        ("query-lengths", GROUPED, ("S8", "S10"), query_lengths([5, 2, 0]), "padded queries give rows of zeros"),
        (
            "both-lengths",
            SQUARE,
            ("S6", "S8", "S10"),
            key_lengths([7, 3]) & query_lengths([4, 7]),
            "both paddings at once",
        ),
        (
            "causal-key-lengths",
            SQUARE,
            ("S6", "S7", "S8"),
            causal() & key_lengths([7, 4]),
            "the mask must not replace causal",
        ),
        ("mask-pairs", GROUPED, ("S4",), pairs, "a rank-2 boolean mask, True = may attend"),
        ("mask-heads", GROUPED, ("S4",), per_head, "a mask for each head"),
        ("mask-batch", GROUPED, ("S4",), per_batch, "a mask for each batch element"),
        ("mask-full", SQUARE_HEADS, ("S4",), full_mask, "a mask for each head and batch element where S = H"),
        ("mask-keys", GROUPED, ("S4",), keys_only, "a mask over keys alone, every other axis 1"),
        ("mask-not", SQUARE, ("S6", "S10"), ~causal(), "the complement of causal: the future only, the last row empty"),
        ("mask-or", SQUARE, ("S6",), sliding_window(1, 0) | key_lengths(2), "a window or the first two keys"),
        ("mask-and-causal", GROUPED, ("S4", "S6"), causal("end") & pairs, "an array and causal together, neither lost"),
    )
    for name, shape, clauses, mask, hunts in rows:
        mask = as_mask(mask)
        undecided = {"echo": "each query sees its own value alone"} if name == "window-self" else {}
        yield Design(
            name, clauses, hunts, peaked_tensors(shape), "peaked", mask=mask, features=("mask",), undecided=undecided
        )


def needle_designs() -> Iterator[Design]:
    """Yield the designs whose largest logit stands just inside or just outside an edge."""
    rows: tuple[tuple[str, str, Shape, Mask | None, str], ...] = (
        (
            "needle-causal",
            "S7",
            TILE,
            causal(),
            "the diagonal: the last key seen, or the first one hidden, rules the row",
        ),
        ("needle-causal-long", "S7", LONG, causal(), "the diagonal over a length of 129"),
        ("needle-causal-end", "S7", WIDE_TILE, causal("end"), "the shifted diagonal over tiles of 16 and 64"),
        ("needle-window", "S7", TILE, sliding_window(31, 0), "the window's left edge at a tile boundary"),
        ("needle-lengths", "S8", WIDE_TILE, key_lengths(63), "the padding's edge one before a tile boundary"),
        ("needle-last-key", "S1", WIDE_TILE, None, "the last key rules every row: it must not be dropped"),
    )
    for name, clause, shape, mask, hunts in rows:

        def make(rng: np.random.Generator, shape: Shape = shape, mask: Mask | None = mask) -> dict[str, Array]:
            visible = visible_pairs_of(peaked(np.random.default_rng(0), shape), mask)
            return needles(rng, shape, visible[0, 0])

        yield Design(name, (clause,), hunts, make, "needles", mask=mask, features=("needle",))


def poison_designs() -> Iterator[Design]:
    """Yield the designs with empty rows, with poison where nobody reads, and with NaN and Inf where somebody does."""
    holes = np.ones((2, 1, 7, 7), bool)
    holes[0, 0, 3] = False
    holes[1, 0, :, 2] = False
    holes[1, 0, 6, :] = False
    rows: tuple[tuple[str, Shape, Mask, str], ...] = (
        (
            "lengths",
            GROUPED,
            key_lengths([11, 0, 6]) & query_lengths([5, 5, 3]),
            "padding, and an element without any key",
        ),
        ("array", SQUARE, as_mask(holes), "rows without any key in the middle of a mask"),
        ("causal-tall", TALL, causal("end") & key_lengths([5, 3]), "bottom-right with Tq > Tk and padding"),
    )
    for name, shape, mask, hunts in rows:
        base = f"empty-{name}"
        yield Design(
            base,
            ("S10",),
            f"{hunts}: empty rows are 0, not NaN, not the mean",
            peaked_tensors(shape),
            "peaked",
            mask=mask,
            features=("empty_rows",),
        )
        for kind, poison in (("large", 1e4), ("nan", np.nan), ("inf", np.inf)):

            def make(rng: np.random.Generator, shape: Shape = shape, mask: Mask = mask, poison: float = poison) -> Any:
                return with_poison(peaked(rng, shape), mask, poison)

            yield Design(
                f"poison-{kind}-{name}",
                ("S10", "S11"),
                f"{hunts}: unread entries hold {poison:g}",
                make,
                "poisoned",
                mask=mask,
                twin=base,
                features=("poison", "empty_rows"),
            )

    def visible_poison(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        tensors["value"][0, 1, 3, 2] = np.nan
        tensors["value"][1, 0, 8, 0] = np.inf
        tensors["value"][2, 1, 6, 1] = -np.inf
        tensors["value"][2, 1, 8, 1] = np.inf
        return tensors

    def visible_key(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        tensors["key"][0, 1, 8, 2] = np.nan
        tensors["query"][2, 3, 1, 0] = np.nan
        return tensors

    yield Design(
        "visible-values",
        ("S11",),
        "NaN and Inf in values reach the rows that see them, in their own component",
        visible_poison,
        "visible_poison",
        mask=causal("end"),
        nonfinite=True,
        features=("nonfinite",),
    )
    yield Design(
        "visible-keys",
        ("S11",),
        "NaN in a key or a query makes exactly the rows that see it NaN",
        visible_key,
        "visible_poison",
        mask=causal("end"),
        nonfinite=True,
        features=("nonfinite",),
    )

"""Masks taken apart for plain callables: keywords and folded array together mean what the mask object means."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pairs_by_hand import Pair, entry, sees

from attnspec.conformance.mask_parts import STRUCTURED, MaskParts, take_apart, to_array
from attnspec.contract import Mask, causal, full, key_lengths, query_lengths, sliding_window
from attnspec.contract.mask_json import mask_to_json
from attnspec.contract.masks import as_mask
from attnspec.contract.shapes import Sizes
from attnspec.reference.attention import prepare

Array = np.ndarray[Any, Any]


def sizes_of(shape: tuple[int, ...], keys: int) -> Sizes:
    """Sizes for a query of this shape and so many keys."""
    key, value = np.zeros((*shape[:-2], keys, shape[-1])), np.zeros((*shape[:-2], keys, 2))
    return prepare(np.zeros(shape), key, value, None, None, None, None)[0].sizes


RANKS = {
    "rank-2": ((5, 3), 7),
    "rank-3": ((2, 5, 3), 7),
    "rank-4": ((2, 3, 5, 3), 7),
    "rank-5": ((1, 2, 3, 5, 3), 7),
    "tall": ((2, 3, 7, 3), 5),
}

ANY_RANK: dict[str, Mask] = {
    "full": full(),
    "causal-0": causal(0),
    "causal-end": causal("end"),
    "causal-negative": causal(-2),
    "window": sliding_window(1, 2, offset=0),
    "window-left": sliding_window(left=2, offset="end"),
    "window-shifted": sliding_window(1, 1, offset=2),
    "lengths": key_lengths(4) & query_lengths(3),
    "causal-window": causal("end") & sliding_window(left=1, offset="end"),
    "causal-other-window": causal(0) & sliding_window(left=1, offset=1),
    "window-before-causal": sliding_window(left=1, offset=1) & causal(1),
    "two-causals": causal(1) & causal(0),
    "two-windows": sliding_window(2, 2, offset=0) & sliding_window(1, 3, offset=0),
    "three-lengths": key_lengths(5) & key_lengths(3) & query_lengths(2),
    "either": causal(0) | key_lengths(2),
    "not": ~causal(0),
    "one-pair-for-all": causal(1) & np.ones((1, 1), bool),
    "everything": causal("end")
    & sliding_window(3, 0, offset="end")
    & key_lengths(4)
    & query_lengths(4)
    & ~key_lengths(1),
}

PER_BATCH: dict[str, Mask] = {
    "offsets": causal([0, 2]),
    "lengths": key_lengths([5, 0]) & query_lengths([1, 5]),
    "offsets-and-lengths": causal([1, -1]) & key_lengths([3, 4]),
    "window-offsets": sliding_window(1, 1, offset=[0, 2]) & causal(0),
    "array": as_mask(np.random.default_rng(0).random((2, 1, 5, 7)) < 0.5),
    "heads": causal(2) & (np.random.default_rng(1).random((1, 3, 5, 1)) < 0.5),
    "pairs": causal(2) & (np.random.default_rng(2).random((5, 7)) < 0.5),
}

SUBSETS = [subset for n in range(5) for subset in itertools.combinations(STRUCTURED, n)]


def recombined(parts: MaskParts, folded: Array | None, pair: Pair) -> bool:
    """Say, from the keywords of a plain callable alone, whether a query may attend to a key."""
    given = parts.keywords
    own = pair.query + given.get("causal_offset", 0)
    left, right = given.get("window", (None, None))
    return (
        ("causal_offset" not in given or pair.key <= own)
        and (left is None or pair.key >= own - left)
        and (right is None or pair.key <= own + right)
        and ("key_lengths" not in given or pair.key < given["key_lengths"][pair.batch])
        and ("query_lengths" not in given or pair.query < given["query_lengths"][pair.batch])
        and (folded is None or bool(entry(folded.tolist(), pair)))
    )


def check(mask: Mask, shape: tuple[int, ...], keys: int, accepted: tuple[str, ...]) -> MaskParts:
    """Take a mask apart, and require every pair to be as the mask says; return the parts."""
    sizes = sizes_of(shape, keys)
    parts = take_apart(mask, sizes, accepted)
    folded = None if parts.rest is None else to_array(parts.rest, sizes)
    assert set(parts.keywords) <= set(accepted)
    if folded is not None:
        assert folded.dtype == np.bool_
        assert folded.ndim == len(shape)
        assert all(size in (1, whole) for size, whole in zip(folded.shape, (*shape[:-1], keys), strict=True))
    batch, heads = (shape[:-3], shape[-3:-2]) if len(shape) > 3 else (shape[:-2], ())
    data = mask_to_json(mask)
    for place in np.ndindex(*batch, *heads, shape[-2], keys):
        pair = Pair(place[: len(batch)], place[len(batch) : -2], *place[-2:], shape[-2], keys)
        assert recombined(parts, folded, pair) == sees(data, pair), pair
    return parts


@pytest.mark.parametrize("accepted", SUBSETS, ids=lambda subset: "+".join(subset) or "none")
@pytest.mark.parametrize("mask", ANY_RANK)
def test_parts_mean_the_mask(mask: str, accepted: tuple[str, ...]) -> None:
    check(ANY_RANK[mask], (5, 3), 7, accepted)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("mask", ANY_RANK)
def test_parts_mean_the_mask_at_every_rank(mask: str, rank: str) -> None:
    shape, keys = RANKS[rank]
    for accepted in ((), STRUCTURED):
        check(ANY_RANK[mask], shape, keys, accepted)


@pytest.mark.parametrize("accepted", SUBSETS, ids=lambda subset: "+".join(subset) or "none")
@pytest.mark.parametrize("mask", PER_BATCH)
def test_parts_of_masks_per_batch_element(mask: str, accepted: tuple[str, ...]) -> None:
    check(PER_BATCH[mask], (2, 3, 5, 3), 7, accepted)


def test_the_comparison_can_fail() -> None:
    wrong = MaskParts({"causal_offset": 0}, None)
    pair = Pair((), (), 0, 1, 5, 7)
    assert recombined(wrong, None, pair) != sees(mask_to_json(causal(1)), pair)


# What exactly is given.

WIDE = ((2, 3, 5, 3), 7)


def given(mask: Mask, *accepted: str) -> dict[str, Any]:
    keywords = check(mask, *WIDE, accepted or STRUCTURED).keywords
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in keywords.items()}


def folded(mask: Mask, *accepted: str) -> Mask | None:
    return take_apart(mask, sizes_of(*WIDE), accepted or STRUCTURED).rest


@pytest.mark.parametrize(
    ("mask", "keywords", "rest"),
    [
        pytest.param(causal("end"), {"causal_offset": 2}, None, id="end-is-a-number"),
        pytest.param(causal(np.int64(3)), {"causal_offset": 3}, None, id="numpy-integer"),
        pytest.param(
            sliding_window(2, offset="end") & causal("end"),
            {"causal_offset": 2, "window": (2, None)},
            None,
            id="window-beside-causal",
        ),
        pytest.param(
            sliding_window(2, offset="end") & causal(2),
            {"causal_offset": 2, "window": (2, None)},
            None,
            id="the-same-offset-said-differently",
        ),
        pytest.param(sliding_window(2, 1, offset=0), {"window": (2, 1)}, None, id="window-alone-around-0"),
        pytest.param(
            sliding_window(2, 1, offset="end"), {}, sliding_window(2, 1, offset="end"), id="window-alone-shifted"
        ),
        pytest.param(
            causal(1) & sliding_window(2, offset=0),
            {"causal_offset": 1},
            sliding_window(2, offset=0),
            id="window-around-another-offset",
        ),
        pytest.param(causal(1) & causal(2), {"causal_offset": 1}, causal(2), id="second-causal"),
        pytest.param(causal([0, 2]), {}, causal([0, 2]), id="offset-per-batch-element"),
        pytest.param(
            causal([0, 2]) & causal(1) & sliding_window(1, offset=1),
            {"causal_offset": 1, "window": (1, None)},
            causal([0, 2]),
            id="offset-per-batch-element-beside-another",
        ),
        pytest.param(key_lengths(4), {"key_lengths": [4, 4]}, None, id="length-for-all"),
        pytest.param(query_lengths([1, 5]), {"query_lengths": [1, 5]}, None, id="lengths"),
        pytest.param(key_lengths(4) | full(), {}, key_lengths(4) | full(), id="either"),
        pytest.param(~causal(0), {}, ~causal(0), id="not"),
        pytest.param(full(), {}, full(), id="full"),
    ],
)
def test_what_is_given(mask: Mask, keywords: dict[str, Any], rest: Mask | None) -> None:
    assert given(mask) == keywords
    assert folded(mask) == rest


def test_without_causal_a_window_stands_around_0() -> None:
    mask = causal(2) & sliding_window(1, offset=0)
    assert given(mask, "window") == {"window": (1, None)}
    assert folded(mask, "window") == causal(2)
    assert given(causal(2) & sliding_window(1, offset=2), "window") == {}


def test_no_mask_is_nothing() -> None:
    assert take_apart(None, sizes_of(*WIDE), STRUCTURED) == ({}, None)


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        pytest.param(causal(0), (1, 1, 5, 7), id="causal"),
        pytest.param(key_lengths([3, 4]), (2, 1, 1, 7), id="key-lengths"),
        pytest.param(query_lengths(3), (1, 1, 5, 1), id="query-lengths"),
        pytest.param(full(), (1, 1, 1, 7), id="full"),
        pytest.param(as_mask(np.ones((5, 1), bool)), (1, 1, 5, 1), id="pairs"),
    ],
)
def test_folded_axes_are_full_or_1(mask: Mask, shape: tuple[int, ...]) -> None:
    assert to_array(mask, sizes_of(*WIDE)).shape == shape


def test_lengths_are_arrays_of_the_batch_shape_and_nobody_elses() -> None:
    lengths = key_lengths([3, 4])
    parts = take_apart(lengths, sizes_of(*WIDE), STRUCTURED)
    parts.keywords["key_lengths"][:] = 0
    assert lengths == key_lengths([3, 4])
    assert take_apart(key_lengths(3), sizes_of((5, 3), 7), STRUCTURED).keywords["key_lengths"].shape == ()

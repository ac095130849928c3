"""Options for plain callables: keywords and folded arrays together mean what mask and bias objects mean."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pairs_by_hand import Pair, addend, entry, sees

from attnspec.conformance.mask_parts import STRUCTURED, MaskParts, bias_array, of_rank, take_apart, to_array
from attnspec.contract import (
    Mask,
    alibi,
    causal,
    chunked,
    full,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    relative_position_bias,
    segments,
    sliding_window,
)
from attnspec.contract.bias_json import bias_to_json
from attnspec.contract.biases import Bias
from attnspec.contract.mask_json import mask_to_json
from attnspec.contract.masks import as_mask
from attnspec.contract.options import Given
from attnspec.contract.shapes import Sizes
from attnspec.reference.attention import prepare

Array = np.ndarray[Any, Any]


def sizes_of(shape: tuple[int, ...], keys: int) -> Sizes:
    """Sizes for a query of this shape and so many keys."""
    key, value = np.zeros((*shape[:-2], keys, shape[-1])), np.zeros((*shape[:-2], keys, 2))
    return prepare(np.zeros(shape), key, value, Given())[0].sizes


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
    "prefix": prefix(3, offset=0),
    "chunked": chunked(3, offset="end"),
    "chunked-causal": chunked(2, offset=1) & causal(1),
    "one-pair-for-all": causal(1) & np.ones((1, 1), bool),
    "everything": causal("end")
    & sliding_window(3, 0, offset="end")
    & key_lengths(4)
    & query_lengths(4)
    & ~key_lengths(1),
}

QUERY_IDS, KEY_IDS = [0, 0, 4, 4, -1], [4, 0, 0, 4, 9, -1, 0]

OF_LENGTHS: dict[str, Mask] = {
    "segments": segments(QUERY_IDS, KEY_IDS),
    "segments-causal-lengths": causal(1) & segments(QUERY_IDS, KEY_IDS) & key_lengths(6),
    "two-segments": segments(QUERY_IDS, KEY_IDS) & segments([0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]),
    "no-segments": ~segments(QUERY_IDS, KEY_IDS),
    "segments-or-causal": segments(QUERY_IDS, KEY_IDS) | causal(0),
}
"""Masks for 5 queries and 7 keys, at any rank."""

PER_BATCH: dict[str, Mask] = {
    "segments": segments([QUERY_IDS, [1, 1, 1, 2, 2]], [KEY_IDS, [2, 2, 2, 2, 1, 1, 1]]),
    "segments-of-queries": segments([QUERY_IDS, [4, 9, 9, 0, 0]], KEY_IDS) & causal(2),
    "prefix": prefix([2, 6], offset=[0, -2]),
    "chunked": chunked(2, offset=[0, 3]) & key_lengths([6, 7]),
    "offsets": causal([0, 2]),
    "lengths": key_lengths([5, 0]) & query_lengths([1, 5]),
    "offsets-and-lengths": causal([1, -1]) & key_lengths([3, 4]),
    "window-offsets": sliding_window(1, 1, offset=[0, 2]) & causal(0),
    "array": as_mask(np.random.default_rng(0).random((2, 1, 5, 7)) < 0.5),
    "heads": causal(2) & (np.random.default_rng(1).random((1, 3, 5, 1)) < 0.5),
    "pairs": causal(2) & (np.random.default_rng(2).random((5, 7)) < 0.5),
}

SEGMENTS = ("query_segments", "key_segments")
ALONE = tuple(name for name in STRUCTURED if name not in SEGMENTS)
SUBSETS = [
    *(subset + more for more in ((), SEGMENTS) for n in range(5) for subset in itertools.combinations(ALONE, n)),
    ("query_segments",),  # one of the two says nothing
    ("key_segments", "causal_offset"),
]


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
        and ("query_segments" not in given or _segment(given, pair) == given["key_segments"][(*pair.batch, pair.key)])
        and (folded is None or bool(entry(folded.tolist(), pair)))
    )


def _segment(given: dict[str, Any], pair: Pair) -> Any:
    return given["query_segments"][(*pair.batch, pair.query)]


def check(mask: Mask, shape: tuple[int, ...], keys: int, accepted: tuple[str, ...]) -> MaskParts:
    """Take a mask apart, and require every pair to be as the mask says; return the parts."""
    sizes = sizes_of(shape, keys)
    parts = take_apart(mask, sizes, accepted)
    folded = None if parts.rest is None else to_array(parts.rest, sizes)
    assert set(parts.keywords) <= set(accepted)
    assert len(set(SEGMENTS) & set(parts.keywords)) in (0, 2)
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
@pytest.mark.parametrize("mask", ANY_RANK | OF_LENGTHS)
def test_parts_mean_the_mask(mask: str, accepted: tuple[str, ...]) -> None:
    check((ANY_RANK | OF_LENGTHS)[mask], (5, 3), 7, accepted)


@pytest.mark.parametrize("rank", [rank for rank in RANKS if rank != "tall"])
@pytest.mark.parametrize("mask", OF_LENGTHS)
def test_parts_mean_segments_at_every_rank(mask: str, rank: str) -> None:
    shape, keys = RANKS[rank]
    for accepted in ((), STRUCTURED, SEGMENTS):
        check(OF_LENGTHS[mask], shape, keys, accepted)


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
        pytest.param(
            segments(QUERY_IDS, KEY_IDS) & causal(0),
            {"causal_offset": 0, "query_segments": [QUERY_IDS] * 2, "key_segments": [KEY_IDS] * 2},
            None,
            id="segments-shared-by-the-batch",
        ),
        pytest.param(
            segments(QUERY_IDS, KEY_IDS) & segments([0] * 5, [0] * 7),
            {"query_segments": [QUERY_IDS] * 2, "key_segments": [KEY_IDS] * 2},
            segments([0] * 5, [0] * 7),
            id="second-segments",
        ),
        pytest.param(prefix(3, offset=0), {}, prefix(3, offset=0), id="prefix"),
        pytest.param(
            causal(0) & chunked(2, offset=0), {"causal_offset": 0}, chunked(2, offset=0), id="chunked-beside-causal"
        ),
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


@pytest.mark.parametrize("accepted", [*SEGMENTS, "causal_offset"])
def test_segments_are_given_by_both_keywords_or_folded(accepted: str) -> None:
    mask = segments(QUERY_IDS, KEY_IDS)
    assert given(mask, accepted) == {}
    assert folded(mask, accepted) == mask


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


def test_segments_are_arrays_of_their_own() -> None:
    ids = np.array(QUERY_IDS)
    parts = take_apart(segments(ids, KEY_IDS), sizes_of((5, 3), 7), STRUCTURED)
    assert parts.keywords["query_segments"].shape == (5,)
    parts.keywords["query_segments"][:] = 7
    assert ids.tolist() == QUERY_IDS


@pytest.mark.parametrize("rank", RANKS)
def test_a_predicate_arrives_as_an_array(rank: str) -> None:
    shape, keys = RANKS[rank]
    sizes = sizes_of(shape, keys)
    parts = take_apart(predicate("strided", lambda query, key: (query + 2 * key) % 3 != 0), sizes, STRUCTURED)
    assert parts.keywords == {}
    assert parts.rest is not None
    array = to_array(parts.rest, sizes)
    assert array.ndim == len(shape)
    expected = [[(i + 2 * j) % 3 != 0 for j in range(keys)] for i in range(shape[-2])]
    np.testing.assert_array_equal(
        np.broadcast_to(array, (*shape[:-1], keys)), np.broadcast_to(expected, (*shape[:-1], keys))
    )


# Biases: a plain callable gets numbers for every pair.

TABLE = np.arange(24.0).reshape(8, 3) / 4 - 2

BIASES: dict[str, Bias] = {
    "alibi": alibi(symmetric=True, offset="end"),
    "alibi-signed": alibi([0.5, 0.125, 2.0], symmetric=False, offset=0),
    "alibi-per-batch": alibi(symmetric=True, offset=[0, 2]),
    "relative": relative_position_bias(TABLE, bidirectional=True, max_distance=9, offset="end"),
    "relative-causal": relative_position_bias(TABLE, bidirectional=False, max_distance=16, offset=1),
    "sum": alibi(symmetric=False, offset=1) + relative_position_bias(TABLE, bidirectional=True, offset=0),
    "sum-with-array": alibi(symmetric=True, offset=0) + np.linspace(-1.0, 1.0, 35).reshape(5, 7),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bias", BIASES)
def test_a_bias_object_is_folded_into_an_array(bias: str, dtype: str) -> None:
    array = bias_array(BIASES[bias], sizes_of(*WIDE), dtype, 4)
    assert array.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert array.ndim == 4
    assert all(size in (1, whole) for size, whole in zip(array.shape, (2, 3, 5, 7), strict=True))
    data = bias_to_json(BIASES[bias])
    expected = [addend(data, Pair((b,), (h,), i, j, 5, 7), heads=3) for b, h, i, j in np.ndindex(2, 3, 5, 7)]
    np.testing.assert_allclose(
        np.broadcast_to(array, (2, 3, 5, 7)).ravel(), expected, rtol=1e-15 if dtype == "float64" else 1e-7
    )


@pytest.mark.parametrize(("shape", "rank"), [((5, 3), 2), ((2, 5, 3), 3)], ids=["rank-2", "rank-3"])
def test_without_a_head_axis_a_bias_object_has_none(shape: tuple[int, ...], rank: int) -> None:
    array = bias_array(alibi(0.5, symmetric=True, offset=0), sizes_of(shape, 7), "float32", rank)
    assert array.ndim == rank
    expected = [[-0.5 * abs(i - j) for j in range(7)] for i in range(5)]
    np.testing.assert_array_equal(np.broadcast_to(array, (*shape[:-1], 7)), np.broadcast_to(expected, (*shape[:-1], 7)))


def test_a_bias_array_is_given_as_it_is() -> None:
    array = np.linspace(0.0, 1.0, 35, dtype=np.float16).reshape(5, 7)
    found = bias_array(array, sizes_of(*WIDE), "float16", 4)
    assert (found.shape, found.dtype) == ((1, 1, 5, 7), np.float16)
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(), (7,), (5, 7), (2, 1, 5, 7)], ids=str)
def test_axes_of_1_come_before_an_array(shape: tuple[int, ...]) -> None:
    assert of_rank(np.ones(shape), 4).shape == (1,) * (4 - len(shape)) + shape

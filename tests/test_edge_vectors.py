"""The vectors at the boundaries of tiles and at the ends of ranges, held against kernels that go wrong just there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import verify
from attnspec.conformance.admission import evaluation_of
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.profiles import default_profile
from attnspec.conformance.targets import CallableTarget
from attnspec.conformance.zoo import ROBUST, margin

Array = np.ndarray[Any, Any]
CASES = {case.id: case for case in shipped_cases()}
TILES = (16, 32, 64, 128)


def attention(change: Callable[[Array, Array], Array] = lambda weights, _: weights) -> Callable[..., Array]:
    """Make a plain attention in which something happens to the weights before they are normalised."""

    def attend(query: Array, key: Array, value: Array, *, mask: Any = None, scale: Any = None) -> Array:
        dtype, wide = query.dtype, np.float32
        groups = query.shape[-3] // key.shape[-3]
        key, value = (np.repeat(array, groups, axis=-3) for array in (key, value))
        scores = query.astype(wide) @ key.mT.astype(wide)
        scores = scores * wide(1 / np.sqrt(query.shape[-1]) if scale is None else scale)
        visible = np.broadcast_to(True if mask is None else mask, scores.shape)
        scores = np.where(visible, scores, -np.inf)
        weights = change(np.exp(scores - scores.max(axis=-1, keepdims=True)), visible)
        read = np.where(np.asarray(weights.any(axis=-2))[..., None], value, 0).astype(wide)
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ read).astype(dtype)

    return attend


def seen(function: Callable[..., Array], identifier: str) -> float:
    """Return the largest error over its bound."""
    case = CASES[identifier]
    with np.errstate(all="ignore"):
        results = CallableTarget("a kernel", function).run(case.call, dict(case.tensors))
    return margin(results, case, evaluation_of(identifier, default_profile(case.dtype)))


EDGES = [f"needle-edges-{tile}-float32" for tile in TILES]


@pytest.mark.parametrize(
    "identifier",
    [
        *EDGES,
        "needle-tiles-float32",
        "needle-tiles-bfloat16",
        "needle-segments-float32",
        "needle-lengths-tiles-float32",
    ],
)
def test_what_goes_wrong_nowhere_passes(identifier: str) -> None:
    assert seen(attention(), identifier) <= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("key", [tile + step for tile in TILES for step in (-2, -1, 0)])
@pytest.mark.parametrize("times", [0, 2], ids=["dropped", "read-twice"])
def test_a_key_beside_a_boundary_that_is_dropped_or_read_twice(key: int, times: int, dtype: str) -> None:
    def changed(weights: Array, _: Array) -> Array:
        weights[..., key] *= times
        return weights

    assert seen(attention(changed), f"needle-tiles-{dtype}") >= ROBUST


@pytest.mark.parametrize("tile", TILES)
def test_a_tile_that_begins_at_the_diagonal_and_is_skipped(tile: int) -> None:
    def changed(weights: Array, visible: Array) -> Array:
        last = visible.shape[-1] - 1 - visible[..., ::-1].argmax(axis=-1)
        keys = np.arange(visible.shape[-1])
        return np.where((last[..., None] == keys) & (keys == tile), 0, weights)

    assert seen(attention(changed), f"needle-edges-{tile}-float32") >= ROBUST


@pytest.mark.parametrize(("tile", "identifier"), [*zip(TILES[:3], EDGES[1:], strict=True)])
def test_a_tile_that_ends_at_the_windows_left_edge_and_is_skipped(tile: int, identifier: str) -> None:
    def changed(weights: Array, visible: Array) -> Array:
        first = visible.argmax(axis=-1)
        keys = np.arange(visible.shape[-1])
        return np.where((first[..., None] == keys) & (keys == tile - 1), 0, weights)

    assert seen(attention(changed), identifier) >= ROBUST


@pytest.mark.parametrize("tile", TILES)
def test_lengths_that_are_rounded_up_to_tiles(tile: int) -> None:
    def rounded(query: Array, key: Array, value: Array, *, key_lengths: Any) -> Array:
        lengths = -(-np.asarray(key_lengths) // tile) * tile
        return attention()(query, key, value, mask=np.arange(key.shape[-2]) < lengths[:, None, None, None])

    assert seen(rounded, "needle-lengths-tiles-float32") >= ROBUST


def test_padding_whose_weight_is_zero_is_not_multiplied() -> None:
    def multiplied(query: Array, key: Array, value: Array, *, mask: Any) -> Array:
        scores = np.where(mask, query @ key.mT / np.sqrt(query.shape[-1]), -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ value).astype(query.dtype)

    assert seen(multiplied, "needle-lengths-tiles-float32") <= 1
    assert seen(multiplied, "poison-nan-lengths-tiles-float32") == np.inf


def shifted(peak: Callable[[Array], Array]) -> Callable[..., Array]:
    """Make an attention that subtracts something else than each row's maximum."""

    def attend(query: Array, key: Array, value: Array) -> Array:
        scores = query @ np.repeat(key, query.shape[-3] // key.shape[-3], axis=-3).mT / np.sqrt(query.shape[-1])
        weights = np.exp(scores.astype(np.float32) - peak(scores).astype(np.float32))
        value = np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ value).astype(query.dtype)

    return attend


def test_a_maximum_that_is_not_that_of_all_tiles() -> None:
    largest = shifted(lambda scores: scores.max(axis=-1, keepdims=True))
    assert seen(largest, "range-falling-float32") <= 1
    for tile in (slice(0, 16), slice(48, 65)):  # the first alone, the last alone
        of_a_tile = shifted(lambda scores, tile=tile: scores[..., tile].max(axis=-1, keepdims=True))  # type: ignore[misc]
        assert seen(of_a_tile, "range-falling-float32") == np.inf
    from_zero = shifted(lambda scores: np.maximum(scores.max(axis=-1, keepdims=True), 0))
    assert seen(from_zero, "range-all-negative-float32") == np.inf


def through_float16(stage: str) -> Callable[..., Array]:
    """Make an attention with one stage in float16: products, sums of values, or values that are flushed to 0."""

    def attend(query: Array, key: Array, value: Array, *, scale: Any = None) -> Array:
        key, value = (np.repeat(array, query.shape[-3] // array.shape[-3], axis=-3) for array in (key, value))
        scores = query.astype(np.float32) @ key.mT.astype(np.float32)
        scores = scores.astype(np.float16).astype(np.float32) if stage == "products" else scores
        scores *= np.float32(1 / np.sqrt(query.shape[-1]) if scale is None else scale)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        if stage == "flushed":
            value = np.where(np.abs(value) < 2.0**-14, 0, value)
        sums = weights @ value.astype(np.float32)
        sums = sums.astype(np.float16).astype(np.float32) if stage == "sums" else sums
        return np.asarray(sums / weights.sum(axis=-1, keepdims=True)).astype(query.dtype)

    return attend


@pytest.mark.parametrize(
    ("stage", "identifier"),
    [
        ("products", "range-float16-scores-float16"),
        ("sums", "range-large-values-float16"),
        ("sums", "range-large-values-float32"),
        ("flushed", "range-subnormal-values-float16"),
        ("flushed", "range-tiny-values-float32"),
        ("sums", "range-tiny-values-float32"),
    ],
)
def test_float16_where_it_does_not_reach(stage: str, identifier: str) -> None:
    assert seen(through_float16("nowhere"), identifier) <= 1
    assert seen(through_float16(stage), identifier) >= ROBUST


def test_bits_that_depend_on_the_order_of_exact_sums() -> None:
    def by_position(query: Array, key: Array, value: Array) -> Array:
        output = attention()(query, key, value)
        return np.nextafter(output, np.float32(np.inf)) if value[0, 0, 0, 0] < value[0, 0, 3, 0] else output

    cases = ["exact-one-hot-float32", "exact-one-hot-turned-float32"]
    assert verify(attention(), cases=cases).conforms
    (failure,) = verify(by_position, cases=cases).failures()
    assert failure.message == (
        "the order of exact sums changed the result: its bits differ from those of exact-one-hot-float32 (S17)"
    )

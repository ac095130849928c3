"""Where a target errs: the matrix of error / bound that holds the largest, and the exact weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnspec.reference import attention_stages

from .admission import error_ratios, evaluation_of
from .answers import Answer
from .cases import Case
from .judgement import Judge, signed_ratios
from .profiles import PROFILES
from .results import CaseMap, Result, Status

MOST_MAPS = 40
"""So many maps are drawn of a target: one case of each design that fails, at float32 if there is one, then others, then
warnings."""

LONGEST = 48
"""Matrices with more rows or columns are cut to these around the worst element."""

DIGITS = 3

_WITH_WEIGHTS = ("dot_product_attention", "attention_with_logsumexp")


def maps_of(judge: Judge, cases: Mapping[str, Case]) -> tuple[CaseMap, ...]:
    """Draw the cases that failed, or passed by little."""
    kept = sorted(judge.kept.values(), key=lambda pair: (pair[0].status is not Status.FAIL, pair[0].dtype != "float32"))
    designs: set[str] = set()
    first: list[tuple[Result, Answer]] = []
    others: list[tuple[Result, Answer]] = []
    for result, answer in kept:
        design = result.case.removesuffix(f"-{result.dtype}")
        (others if design in designs else first).append((result, answer))
        designs.add(design)
    maps = (map_of(cases[result.case], result, answer) for result, answer in [*first, *others][:MOST_MAPS])
    return tuple(one for one in maps if one is not None)


def map_of(case: Case, result: Result, answer: Answer) -> CaseMap | None:
    """Cut the matrix with the largest error / bound out of a result; None where nothing could be compared."""
    if result.largest is None or answer.results is None:
        return None
    name, index = result.largest.result, result.largest.place
    got, expected = np.asarray(answer.results[name], np.float64), np.asarray(case.expected[name], np.float64)
    bound = evaluation_of(case.id, PROFILES[result.profile]).bounds[name]
    ratios = signed_ratios(error_ratios(got, expected, bound), got, expected)
    is_row = got.ndim < 2 or name == "logsumexp"  # one number for each query: its last axis is that of the rows
    matrix = 1 if is_row else 2
    place = index[: got.ndim - matrix]
    ratios, bound = (np.atleast_1d(array[place]) for array in (ratios, np.broadcast_to(bound, got.shape)))
    if is_row:
        ratios, bound = ratios[:, None], bound[:, None]
    worst = (index[-1] if index else 0, 0) if is_row else index[-2:]
    rows, columns = (_around(at, length) for at, length in zip(worst, ratios.shape, strict=True))
    return CaseMap(
        result.target,
        case.id,
        name,
        place,
        (rows.start, columns.start),
        _numbers(ratios[rows, columns]),
        _numbers(bound[rows, columns]),
        _weights(case, place, got.shape[: len(place)]),
    )


def _around(worst: int, length: int) -> slice:
    """Cut `LONGEST` indices out of an axis, with the worst one among them."""
    start = min(max(0, worst - LONGEST // 2), max(0, length - LONGEST))
    return slice(start, min(length, start + LONGEST))


def _weights(case: Case, place: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[float | None, ...], ...] | None:
    """Return the exact weights of the head that a place is in; None of large ones, and where there is no one head."""
    if case.operation not in _WITH_WEIGHTS:
        return None
    tensors = case.tensors
    stages = attention_stages(tensors["query"], tensors["key"], tensors["value"], **case.call_options())
    weights = np.asarray(stages.weights)
    leading = weights.shape[:-2]
    if len(leading) != len(place) or not 0 < weights.shape[-1] * weights.shape[-2] <= LONGEST**2:
        return None
    # A gradient of a key head, or of a bias that heads share, stands for several heads: the first of them is shown.
    head = tuple(at * (size // length) for at, size, length in zip(place, leading, shape, strict=True))
    visible = np.broadcast_to(np.isfinite(np.asarray(stages.logits)), weights.shape)[head]
    return tuple(
        tuple(_round(number) if seen else None for number, seen in zip(row, seen_row, strict=True))
        for row, seen_row in zip(weights[head].tolist(), visible.tolist(), strict=True)
    )


def _numbers(matrix: np.ndarray[Any, Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(_round(number) for number in row) for row in matrix.tolist())


def _round(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")

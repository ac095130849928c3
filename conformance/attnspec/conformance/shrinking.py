"""Shrinking: from a failing call to the smallest that still fails, by asking the target again.

Each step takes something away: an option, a part of a mask, most of the batch, heads, queries, keys, components. The
reference says what the smaller call must give and how far off that may be; a step is kept if the target's answer is out
of these bounds. What fails in the end need not fail for the same reason, but it is wrong, and small enough to be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .admission import decides, error_ratios
from .answers import Answer
from .calls import Array, Call
from .causes import evaluate_call
from .operation import Evaluation
from .profiles import Profile, default_profile
from .slicing import ATTENTIONS, axes_of, take, without_options

ASKS, SECONDS = 60, 30.0


class Shrunk(NamedTuple):
    """A failing call, as small as it became."""

    call: Call
    answer: Answer
    expected: dict[str, Array]
    bounds: dict[str, Array]
    asks: int
    """How often the target was asked."""


def shrink(
    call: Call,
    ask: Callable[[Call], Answer],
    profile: Profile | None = None,
    *,
    asks: int = ASKS,
    seconds: float = SECONDS,
) -> Shrunk | None:
    """Make a failing call as small as possible; None where the target does not fail it.

    Args:
        call: that fails: the target's results are outside their bounds.
        ask: asks the target.
        profile: the arithmetic that it is held to; None: the default of the call's dtype.
        asks: how often it may be asked, the first time included.
        seconds: after which nothing smaller is tried.
    """
    return _Shrinking(ask, profile or default_profile(call.dtype), asks, time.monotonic() + seconds).run(call)


class _Shrinking:
    def __init__(self, ask: Callable[[Call], Answer], profile: Profile, asks: int, end: float) -> None:
        self._ask, self._profile, self._limit, self._end = ask, profile, asks, end
        self._asks = 0
        self._is_finite = False

    def run(self, call: Call) -> Shrunk | None:
        best = self._fails(call)
        if best is None:
            return None
        self._is_finite = _has_finite(best.expected)
        progress = True
        while progress and self._may_ask():
            progress = False
            for step in (without_options, _slices, _rounded):
                found = self._first(best, step)
                while found is not None:
                    best, progress = found, True
                    found = None if step is _rounded else self._first(best, step)
            if _is_rounded(best.call):
                break
        return best._replace(asks=self._asks)

    def _may_ask(self) -> bool:
        return self._asks < self._limit and time.monotonic() < self._end

    def _first(self, best: Shrunk, step: Callable[[Call], Iterator[Call]]) -> Shrunk | None:
        for smaller in step(best.call):
            if not self._may_ask():
                return None
            found = self._fails(smaller)
            if found is not None:
                return found
        return None

    def _fails(self, call: Call) -> Shrunk | None:
        """Ask the target; nothing where the call is not one, or its answer is right, or none."""
        try:
            evaluation = evaluate_call(call, self._profile)
        except (ValueError, TypeError, IndexError, KeyError):  # a call that the definition refuses
            return None
        if not decides(evaluation) or (self._is_finite and not _has_finite(evaluation.results)):
            return None  # what NaN that is read becomes would be another question
        self._asks += 1
        answer = self._ask(call)
        if answer.results is None or not _is_wrong(call, answer, evaluation):
            return None
        expected = {name: evaluation.results[name] for name in call.results}
        bounds = {name: evaluation.bounds[name] for name in call.results}
        return Shrunk(call, answer, expected, bounds, self._asks)


def _has_finite(results: Mapping[str, Array]) -> bool:
    return all(bool(np.isfinite(result).all()) for name, result in results.items() if name != "logsumexp")


def _is_wrong(call: Call, answer: Answer, evaluation: Evaluation) -> bool:
    results = answer.results or {}
    for name in call.results:
        expected = evaluation.results[name]
        if name not in results or results[name].shape != expected.shape:
            return True
        if float(error_ratios(results[name], expected, evaluation.bounds[name]).max(initial=0.0)) > 1:
            return True
    return False


def _slices(call: Call) -> Iterator[Call]:
    """Yield the call with less of one axis, the boldest first."""
    sizes = axes_of(call)
    if not sizes:
        return
    for label in [letter for letter in sizes if letter.isdigit()]:
        size = sizes[label]
        places = [[0], [size - 1], [0, size - 1], [*range(size - 1)]]
        for chosen in [each for place, each in enumerate(places) if len(each) < size and each not in places[:place]]:
            yield take(call, {label: chosen})
    yield from _of_heads(call, sizes)
    if sizes["q"] == sizes["k"] > 1:
        for chosen in _choices(sizes["q"]):
            yield take(call, {"q": chosen, "k": chosen})
    for label in ("q", "k", "v", "d"):
        if sizes.get(label, 1) > 1:
            for chosen in _choices(sizes[label]):
                yield take(call, {label: chosen})


def _choices(size: int) -> list[list[int]]:
    """Return which indices to keep: one, either half, all but the last, all but the first."""
    half = (size + 1) // 2
    found = [[0], [size - 1], [*range(half)], [*range(size - half, size)], [*range(size - 1)], [*range(1, size)]]
    return [each for place, each in enumerate(found) if each not in found[:place]]


def _of_heads(call: Call, sizes: dict[str, int]) -> Iterator[Call]:
    heads, kv_heads = sizes.get("h", 1), sizes.get("g", 1)
    if call.operation not in ATTENTIONS or heads < 2:
        return
    group = heads // kv_heads
    for place in range(min(kv_heads, 2)):
        if kv_heads > 1:
            own = [*range(place * group, (place + 1) * group)]
            yield take(call, {"g": [place], "h": own})
            yield take(call, {"g": [place], "h": own[:1]})
    if kv_heads > 2 and group > 1:
        yield take(call, {"g": [0, 1], "h": [*range(2 * group)]})
    if kv_heads == 1:
        yield take(call, {"h": [0]})
        yield take(call, {"h": [heads - 1]})


DIGITS = (0, 1, 2)


def _rounded(call: Call) -> Iterator[Call]:
    """Yield the call with numbers of few digits."""
    if _is_rounded(call):
        return
    for digits in DIGITS:
        yield replace(call, tensors={name: _to_digits(array, digits) for name, array in call.tensors.items()})


def _to_digits(array: Array, digits: int) -> Array:
    if array.dtype.kind in "biu":
        return array
    return np.round(array.astype(np.float64), digits).astype(array.dtype)


def _is_rounded(call: Call) -> bool:
    return all(
        np.array_equal(array, _to_digits(array, DIGITS[-1]), equal_nan=array.dtype.kind not in "biu")
        for array in call.tensors.values()
    )

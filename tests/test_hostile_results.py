"""Targets with several results, one of which is wrong or missing: partial results, and gradients."""

# ruff: noqa: ARG001, ARG005 - targets that ignore what they are given are the subject

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnspec.conformance.admission import evaluate
from attnspec.conformance.calls import Call
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.judgement import Judge
from attnspec.conformance.profiles import default_profile
from attnspec.conformance.results import Result, Status
from attnspec.conformance.runner import run_case, verify
from attnspec.conformance.targets import Target, UnsupportedCaseError, load_target

Array = np.ndarray[Any, Any]

both = build(Steps())
CASES = {case.id: case for case in shipped_cases()}


def the_result(target: Callable[..., Any], case: str) -> Result:
    (result,) = verify(target, cases=case).results
    return result


# Answers of two results: the second is judged like the first.

PAIR = "logsumexp-empty-float32"


def pair(change: Callable[[Array, Array], Any]) -> Callable[..., Any]:
    """Change the right output and logsumexp."""
    return lambda q, k, v, **options: change(*both(q, k, v, **options))


def _with(array: Array, place: tuple[int, ...], number: float) -> Array:
    array = array.copy()
    array[place] = number
    return array


WRONG_PAIRS: dict[str, tuple[Callable[..., Any], Status, str]] = {
    "right": (pair(lambda o, e: (o, e)), Status.PASS, "^$"),
    "three": (pair(lambda o, e: (o, e, e)), Status.PASS, "^$"),
    "alone": (
        pair(lambda o, e: o),
        Status.UNSUPPORTED,
        "^the function returns no logsumexp beside its output$",
    ),
    "alone-in-a-tuple": (pair(lambda o, e: (o,)), Status.UNSUPPORTED, "^the function returns no logsumexp beside"),
    "list": (
        pair(lambda o, e: (o, e.tolist())),
        Status.ERROR,
        "^TypeError: the logsumexp must be an array; got list$",
    ),
    "none": (pair(lambda o, e: (o, None)), Status.ERROR, "^TypeError: the logsumexp must be an array; got NoneType$"),
    "swapped": (
        pair(lambda o, e: (e, o)),
        Status.FAIL,
        r"^the (output has shape \(2, 4, 13\); expected|logsumexp has shape \(2, 4, 13, 3\); expected) .* \(S1\)$",
    ),
    "kept-axis": (
        pair(lambda o, e: (o, e[..., None])),
        Status.FAIL,
        r"^the logsumexp has shape \(2, 4, 13, 1\); expected \(2, 4, 13\) \(S1\)$",
    ),
    "narrow": (
        pair(lambda o, e: (o, e.astype(np.float16))),
        Status.FAIL,
        r"^the logsumexp has dtype float16; expected float32 or float64 \(S16\)$",
    ),
    "empty-row-is-0": (
        pair(lambda o, e: (o, np.where(np.isneginf(e), np.float32(0), e))),
        Status.FAIL,
        r"^at \[0, 0, 0\] of the logsumexp got 0, expected -inf ± .*; 62% of the elements are outside; ",
    ),
    "nan": (
        pair(lambda o, e: (o, _with(e, (1, 2, 9), np.nan))),
        Status.FAIL,
        r"^at \[1, 2, 9\] of the logsumexp got nan, expected ",
    ),
    "output-is-wrong-too": (
        pair(lambda o, e: (_with(o, (1, 2, 9, 0), 9.0), _with(e, (1, 2, 9), np.nan))),
        Status.FAIL,
        r"^at \[1, 2, 9",
    ),
}


@pytest.mark.parametrize("kind", WRONG_PAIRS)
def test_a_wrong_pair_has_its_status_and_message(kind: str) -> None:
    function, status, message = WRONG_PAIRS[kind]
    result = the_result(function, PAIR)
    assert result.status is status, result.message
    assert re.search(message, result.message), result.message


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("widen", [False, True], ids=["as-the-query", "wide"])
def test_partial_results_of_half_precision_may_be_wide_but_the_logsumexp_must(dtype: str, widen: bool) -> None:
    def partial(query: Array, key: Array, value: Array, **options: Any) -> tuple[Array, Array]:
        output, logsumexp = both(query, key, value, **options)
        return output.astype(np.float32) if widen else output, logsumexp

    assert the_result(partial, f"logsumexp-{dtype}").status is Status.PASS
    narrow = the_result(pair(lambda o, e: (o, e.astype(o.dtype))), f"logsumexp-{dtype}")
    assert narrow.message == f"the logsumexp has dtype {dtype}; expected float32 or float64 (S16)"


def test_a_logsumexp_that_changes_from_call_to_call_is_nondeterministic() -> None:
    calls = itertools.count()
    result = the_result(
        pair(lambda o, e: (o, np.where(np.isneginf(e), e, e * np.float32(1 + next(calls) * 2.0**-23)))), PAIR
    )
    assert result.status is Status.NONDETERMINISTIC
    assert result.message == "the same call gave different bits the second time (S17)"


# Gradients: the reference's, changed on the way.


class Changed:
    """A target that gives other results than it computed."""

    def __init__(self, change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
        self._inner, self._change = load_target("reference"), change
        self.name, self.version, self.profiles = "changed", "0", dict[str, str]()

    def unsupported(self, call: Call) -> str | None:
        return self._inner.unsupported(call)

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        return self._inner.result_dtypes(call)

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        return self._change(dict(self._inner.run(call, tensors)))


def judged(change: Callable[[dict[str, Array]], dict[str, Array]], case: str = "gradient-sinks-float32") -> Result:
    target: Target = Changed(change)
    return run_case(target, CASES[case], Judge(target.name, target.profiles, None))


def _without(name: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda results: {other: array for other, array in results.items() if other != name}


def _changed(name: str, change: Callable[[Array], Array]) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda results: results | {name: change(results[name])}


WRONG_GRADIENTS: dict[str, tuple[Callable[..., Any], Status, str]] = {
    "right": (lambda results: results, Status.PASS, "^$"),
    "one-more": (lambda results: results | {"scale": np.zeros(())}, Status.PASS, "^$"),
    "missing": (_without("key"), Status.FAIL, "^the gradient of `key` is missing$"),
    "missing-sinks": (_without("sinks"), Status.FAIL, "^the gradient of `sinks` is missing$"),
    "none-at-all": (lambda results: {}, Status.FAIL, "^the gradient of `[a-z]+` is missing$"),
    "per-query-head": (
        _changed("key", lambda key: np.repeat(key, 3, axis=1)),
        Status.FAIL,
        r"^the gradient of `key` has shape \(3, 6, 11, 7\); expected \(3, 2, 11, 7\) \(S1\)$",
    ),
    "sinks-per-batch-element": (
        _changed("sinks", lambda sinks: np.stack([sinks] * 3)),
        Status.FAIL,
        r"^the gradient of `sinks` has shape \(3, 6\); expected \(6,\) \(S1\)$",
    ),
    "dtype": (
        _changed("value", lambda value: value.astype(np.float16)),
        Status.FAIL,
        r"^the gradient of `value` has dtype float16; expected float64 \(S16\)$",
    ),
    "sign": (
        _changed("sinks", np.negative),
        Status.FAIL,
        r"^at \[\d\] of the gradient of `sinks` got .*, expected .* ± .*; 100% of the elements are outside; ",
    ),
    "nan": (
        _changed("query", lambda query: _with(query, (2, 5, 4, 6), np.nan)),
        Status.FAIL,
        r"^at \[2, 5, 4, 6\] of the gradient of `query` got nan, expected ",
    ),
}


@pytest.mark.parametrize("kind", WRONG_GRADIENTS)
def test_a_wrong_gradient_has_its_status_and_message(kind: str) -> None:
    change, status, message = WRONG_GRADIENTS[kind]
    result = judged(change)
    assert result.status is status, result.message
    assert re.search(message, result.message), result.message


@pytest.mark.parametrize("name", ["output", "logsumexp"])
@pytest.mark.parametrize("case", ["logsumexp-float32", "merge-sinks-float32"])
def test_a_missing_result_is_named(name: str, case: str) -> None:
    result = judged(_without(name), case)
    assert (result.status, result.message) == (Status.FAIL, f"the {name} is missing")


def test_the_ratio_is_that_of_the_worst_result() -> None:
    case = CASES["logsumexp-float32"]
    bounds = evaluate(case, default_profile("float32")).bounds

    def shifted(results: dict[str, Array]) -> dict[str, Array]:
        return {name: array + {"output": 0.2, "logsumexp": 0.5}[name] * bounds[name] for name, array in results.items()}

    result = judged(shifted, case.id)
    assert result.status is Status.PASS
    assert result.ratio == pytest.approx(0.5, rel=1e-3)


def test_a_gradient_that_is_nearly_outside_is_a_warning() -> None:
    bounds = evaluate(CASES["gradient-sinks-float32"], default_profile("float32")).bounds
    result = judged(_changed("sinks", lambda sinks: sinks + 0.9 * bounds["sinks"]))
    assert result.status is Status.QUALITY_WARNING
    assert result.ratio == pytest.approx(0.9, rel=1e-3)
    assert "of the gradient of `sinks` got" in result.message


def test_what_a_target_cannot_do_when_it_is_called_is_unsupported() -> None:
    def refuse(results: dict[str, Array]) -> dict[str, Array]:
        raise UnsupportedCaseError("no gradient of sinks")

    result = judged(refuse)
    assert (result.status, result.ratio, result.message) == (Status.UNSUPPORTED, None, "no gradient of sinks")


def test_a_twin_that_cannot_be_done_is_unsupported_too() -> None:
    calls = itertools.count()

    def refuse(results: dict[str, Array]) -> dict[str, Array]:
        if next(calls) > 1:  # the case itself is called twice
            raise UnsupportedCaseError("no more")
        return results

    result = judged(refuse, "poison-nan-gradient-float32")
    assert result.status is Status.UNSUPPORTED
    assert result.message == "its twin gradient-empty-float32: no more"


def test_unread_entries_that_change_a_bit_of_a_gradient_fail() -> None:
    calls = itertools.count()

    def leak(results: dict[str, Array]) -> dict[str, Array]:
        is_twin = next(calls) > 1
        return results | {"key": np.nextafter(results["key"], 1.0) if is_twin else results["key"]}

    result = judged(leak, "poison-nan-gradient-float32")
    assert result.status is Status.FAIL
    assert result.message.endswith("its bits differ from those of gradient-empty-float32 (S11)")


def test_a_gradient_that_changes_from_call_to_call_is_nondeterministic() -> None:
    calls = itertools.count()
    result = judged(lambda results: results | {"value": results["value"] * (1 + next(calls) * 2.0**-52)})
    assert result.status is Status.NONDETERMINISTIC


def test_a_result_that_comes_only_the_second_time_is_nondeterministic() -> None:
    calls = itertools.count()
    result = judged(lambda results: results | ({"extra": np.zeros(1)} if next(calls) else {}))
    assert result.status is Status.NONDETERMINISTIC


def test_partial_results_may_be_wider_than_they_must() -> None:
    assert the_result(pair(lambda o, e: (o, e.astype(np.float64))), "logsumexp-float32").status is Status.PASS

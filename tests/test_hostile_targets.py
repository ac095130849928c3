"""Targets that cheat, break or hang: each gets exactly its status and a clear message, and the run goes on."""

# ruff: noqa: ARG001, ARG005 - targets that ignore what they are given are the subject

from __future__ import annotations

import ctypes
import itertools
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import children, isolation
from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.results import Report, Result, Status
from attnspec.conformance.runner import Selection, verify
from attnspec.conformance.targets import TargetError

Array = np.ndarray[Any, Any]

both = build(Steps())
CASE = "grouped-float32"
OUTPUT_SHAPE = (3, 6, 5, 4)


def right(*args: Any, **options: Any) -> Array:
    """Give the right output, and no logsumexp beside it."""
    return both(*args, **options)[0]


def the_result(target: Callable[..., Any], case: str = CASE) -> Result:
    (result,) = verify(target, cases=case).results
    return result


def test_the_right_answer_passes() -> None:
    assert the_result(right).status is Status.PASS


# Cheats, on every vector.


def zeros(query: Array, key: Array, value: Array, **_: Any) -> Array:
    return np.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)


def mean_value(query: Array, key: Array, value: Array, **_: Any) -> Array:
    value = np.where(np.isfinite(value), value, 0)
    repeated = value if value.ndim < 4 else np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    mean = repeated.astype(np.float64).sum(axis=-2, keepdims=True) / max(value.shape[-2], 1)
    return np.broadcast_to(mean, (*query.shape[:-1], value.shape[-1])).astype(query.dtype)


def echo(query: Array, key: Array, value: Array, **_: Any) -> Array:
    repeated = value if value.ndim < 4 else np.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    if not value.shape[-2]:
        return zeros(query, key, value)
    return repeated[..., np.arange(query.shape[-2]) % value.shape[-2], :]


@pytest.mark.parametrize(
    ("cheat", "harmless"),
    [
        pytest.param(zeros, {"no-keys", "no-queries"}, id="zeros"),
        pytest.param(mean_value, {"no-keys", "no-queries", "one-key", "value-constant"}, id="mean-value"),
        pytest.param(echo, {"no-keys", "no-queries", "one-key", "value-constant", "window-self"}, id="echo"),
    ],
)
def test_a_cheat_fails_every_vector_that_can_tell(cheat: Callable[..., Array], harmless: set[str]) -> None:
    report = verify(cheat, dtypes="float32", operations="dot_product_attention", directions="forward")
    passing = {result.case.removesuffix("-float32") for result in report.results if result.status is not Status.FAIL}
    assert passing == harmless
    assert not report.conforms


# Answers of the wrong form, and everything else that a single call can do wrong.


def writes_through_the_flag(query: Array, key: Array, value: Array) -> Array:
    output = right(query, key, value)
    query.flags.writeable = True
    query[...] = 0
    return output


def writes_through_memory(query: Array, key: Array, value: Array) -> Array:
    output = right(query, key, value)
    ctypes.memset(value.ctypes.data, 0, 1)
    return output


def writes_plainly(query: Array, key: Array, value: Array) -> Array:
    query *= 0.5
    return right(query, key, value)


def raises(query: Array, key: Array, value: Array) -> Array:
    raise RuntimeError("no kernel for this shape")


def raises_nothing_said(query: Array, key: Array, value: Array) -> Array:
    raise NotImplementedError


def exits(query: Array, key: Array, value: Array) -> Array:
    raise SystemExit(0)


def skips(query: Array, key: Array, value: Array) -> Array:
    pytest.skip("not today")


_noise = np.random.default_rng(5)
_calls = itertools.count()


def noisy(query: Array, key: Array, value: Array) -> Array:
    output = right(query, key, value)
    return output + np.float32(1e-9) * _noise.standard_normal(output.shape).astype(np.float32) + _ulp(output)


def _ulp(output: Array) -> Array:
    return np.spacing(output) * np.float32(next(_calls) % 2)


def poisoned(query: Array, key: Array, value: Array) -> Array:
    output = right(query, key, value)
    output[0, 0, 0, 0] = np.nan
    return output


WRONG: dict[str, tuple[Callable[..., Any], Status, str]] = {
    "flag": (writes_through_the_flag, Status.FAIL, r"^the target changed its input `query` \(S17\)$"),
    "memory": (writes_through_memory, Status.FAIL, r"^the target changed its input `value` \(S17\)$"),
    "plain-write": (writes_plainly, Status.ERROR, "^ValueError: output array is read-only$"),
    "raises": (raises, Status.ERROR, "^RuntimeError: no kernel for this shape$"),
    "raises-nothing-said": (raises_nothing_said, Status.ERROR, "^NotImplementedError$"),
    "exits": (exits, Status.ERROR, "^SystemExit: 0$"),
    "skips": (skips, Status.ERROR, "^Skipped: not today$"),
    "list": (
        lambda q, k, v: right(q, k, v).tolist(),
        Status.ERROR,
        "^TypeError: the output must be an array; got list$",
    ),
    "none": (lambda q, k, v: None, Status.ERROR, "^TypeError: the output must be an array; got NoneType$"),
    "empty-tuple": (lambda q, k, v: (), Status.ERROR, "^TypeError: the function returned an empty tuple"),
    "tuple": (lambda q, k, v: (right(q, k, v), np.zeros(3)), Status.PASS, "^$"),
    "transposed": (
        lambda q, k, v: right(q, k, v).swapaxes(1, 2),
        Status.FAIL,
        r"^the output has shape \(3, 5, 6, 4\); expected \(3, 6, 5, 4\) \(S1\)$",
    ),
    "broadcastable": (
        lambda q, k, v: right(q, k, v)[:1],
        Status.FAIL,
        r"^the output has shape \(1, 6, 5, 4\); expected \(3, 6, 5, 4\) \(S1\)$",
    ),
    "wide": (
        lambda q, k, v: right(q, k, v).astype(np.float64),
        Status.FAIL,
        r"^the output has dtype float64; expected float32 \(S16\)$",
    ),
    "integers": (
        lambda q, k, v: np.zeros(OUTPUT_SHAPE, int),
        Status.FAIL,
        r"^the output has dtype int64; expected float32 \(S16\)$",
    ),
    "objects": (
        lambda q, k, v: right(q, k, v).astype(object),
        Status.FAIL,
        r"^the output has dtype object; expected float32 \(S16\)$",
    ),
    "list-of-results": (
        lambda q, k, v: [*both(q, k, v)],
        Status.ERROR,
        "^TypeError: the output must be an array; got list$",
    ),
    "nan": (
        poisoned,
        Status.FAIL,
        r"^at \[0, 0, 0, 0\] got nan, expected .* ± .*; 0% of the elements are outside; 3 query heads to",
    ),
    "noisy": (noisy, Status.NONDETERMINISTIC, r"^the same call gave different bits the second time \(S17\)$"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_has_its_status_and_message(kind: str) -> None:
    function, status, message = WRONG[kind]
    result = the_result(function)
    assert result.status is status
    assert re.search(message, result.message), result.message


@pytest.mark.parametrize("kind", ["raises", "exits", "flag", "list"])
def test_the_run_goes_on_behind_a_wrong_answer(kind: str) -> None:
    def sometimes(query: Array, key: Array, value: Array) -> Any:
        return WRONG[kind][0](query, key, value) if query.shape[1] == 6 else right(query, key, value)

    report = verify(sometimes, cases=["square-float32", CASE, "multi-query-float32"])
    assert [result.status is Status.PASS for result in report.results] == [True, False, True]


def test_an_interrupt_is_the_users() -> None:
    def interrupted(query: Array, key: Array, value: Array) -> Array:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        the_result(interrupted)


def test_the_target_does_not_see_the_answer() -> None:
    seen: list[str] = []

    def curious(*args: Any, **kwargs: Any) -> Array:
        seen.extend([*kwargs, *(str(len(args)),)])
        return right(*args, **kwargs)

    assert the_result(curious, "softcap-causal-float32").status is Status.PASS
    assert seen == ["softcap", "causal_offset", "3"] * 2


# Twins: a poisoned case, and the clean one whose bits it must give.


def _case(identifier: str) -> Case:
    return next(case for case in shipped_cases() if case.id == identifier)


def test_unread_entries_that_change_a_bit_fail() -> None:
    def leaks(query: Array, key: Array, value: Array, *, mask: Array) -> Array:
        output = right(query, key, value, mask=mask)
        return np.nextafter(output, 2 * output) if np.isnan(value).any() else output

    result = the_result(leaks, "poison-nan-array-float32")
    assert result.status is Status.FAIL
    assert result.message == (
        "unread entries changed the result: its bits differ from those of empty-array-float32 (S11)"
    )


def test_a_twin_that_fails_is_a_result_too() -> None:
    def needs_poison(query: Array, key: Array, value: Array, *, mask: Array) -> Array:
        if not np.isnan(value).any():
            raise ValueError("too clean")
        return right(query, key, value, mask=mask)

    result = the_result(needs_poison, "poison-nan-array-float32")
    assert result.status is Status.ERROR
    assert result.message == "its twin empty-array-float32 gave no output: ValueError: too clean"


def test_a_twin_is_asked_once() -> None:
    ran: list[bool] = []

    def recorded(query: Array, key: Array, value: Array, *, mask: Array) -> Array:
        ran.append(bool(np.isfinite(value).all()))
        return right(query, key, value, mask=mask)

    verify(recorded, cases=["poison-nan-array-float32", "poison-inf-array-float32"])
    assert sorted(ran) == [*[False] * 4, *[True] * 2]  # each twice, for S17


# Processes of their own.

HOSTILE = r"""
import ctypes, os, signal, sys, time
from attnspec.conformance.implementations import Steps, build

right = build(Steps())

def attention(query, key, value):
    print("garbage on standard output", flush=True)
    os.write(1, b'{"status": "pass"}\n')
    if query.shape[-3:-1] == (6, 5):
        os._exit(7)
    if query.shape[-3:-1] == (4, 13):
        os.kill(os.getpid(), signal.SIGSEGV)
    if query.shape[-3:-1] == (2, 33):
        time.sleep(1000)
    if query.shape[-3:-1] == (5, 5):
        sys.exit(3)
    return right(query, key, value)
"""


def test_twins_in_a_process_of_their_own(tmp_path: Path) -> None:
    source = """
from attnspec.conformance.implementations import Steps, build
import numpy as np, os
right = build(Steps())
def leaks(query, key, value, *, mask):
    if not np.isnan(value).any() and {dies}:
        os._exit(9)
    output, _ = right(query, key, value, mask=mask)
    return np.nextafter(output, 2 * output) if np.isnan(value).any() else output
"""
    (tmp_path / "leaks.py").write_text(source.format(dies=False), encoding="utf8")
    (tmp_path / "dies.py").write_text(source.format(dies=True), encoding="utf8")
    cases = frozenset({"poison-nan-array-float32", "grouped-float32", "poison-inf-array-float32"})
    specs = [f"{tmp_path}/{name}.py:leaks" for name in ("leaks", "dies")]
    found = {(r.target, r.case): r for r in isolation.run_isolated(specs, Selection(cases=cases)).results}
    leaked, died = (found[spec, "poison-nan-array-float32"] for spec in specs)
    assert leaked.message.endswith("its bits differ from those of empty-array-float32 (S11)")
    assert died.status is Status.CRASH
    assert died.message == "its twin empty-array-float32 gave no output: the target's process ended with exit code 9"
    assert found[specs[0], "poison-inf-array-float32"].status is Status.PASS


GREEDY = """
import numpy as np
from attnspec.conformance.implementations import Steps, build
right = build(Steps())
def attention(query, key, value):
    if query.shape[-3:-1] == (6, 5):
        np.ones(2**27)
    return right(query, key, value)
"""


def test_memory_is_limited(tmp_path: Path) -> None:
    report = run_file(tmp_path / "greedy.py", GREEDY, "grouped-float32", "square-float32", megabytes=256)
    found = {result.case: result for result in report.results}
    assert found["square-float32"].status is Status.PASS
    if sys.platform == "linux":
        assert found["grouped-float32"].status is Status.ERROR
        assert "Unable to allocate 1.00 GiB" in found["grouped-float32"].message
    report = run_file(tmp_path / "greedy.py", GREEDY, "grouped-float32", "square-float32")
    assert report.conforms


def run_file(path: Path, source: str, *cases: str, **options: Any) -> Report:
    path.write_text(source, encoding="utf8")
    return isolation.run_isolated([f"{path}:attention"], Selection(cases=frozenset(cases)), **options)


def test_death_and_silence_are_results_and_the_run_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = ["square", "grouped", "multi-query", "tile-33", "heads-equal-length", "decode"]
    seen: list[str] = []
    report = run_file(
        tmp_path / "hostile.py",
        HOSTILE,
        *(f"{case}-float32" for case in cases),
        seconds_per_case=2.0,
        progress=lambda result: seen.append(result.case),
    )
    found = {result.case.removesuffix("-float32"): (result.status, result.message) for result in report.results}
    assert found == {
        "square": (Status.PASS, ""),
        "grouped": (Status.CRASH, "the target's process ended with exit code 7"),
        "multi-query": (Status.CRASH, "the target's process ended by signal SIGSEGV"),
        "tile-33": (Status.TIMEOUT, "no answer within 2 s"),
        "heads-equal-length": (Status.ERROR, "SystemExit: 3"),
        "decode": (Status.PASS, ""),
    }
    assert [result.case for result in report.results] == seen
    assert not report.conforms
    out, err = capfd.readouterr()
    assert out == ""
    assert "garbage on standard output" in err


def test_a_target_that_always_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MOST_TIMEOUTS", 1)
    source = "import time\ndef attention(query, key, value):\n    time.sleep(1000)\n"
    cases = ["square-float32", "grouped-float32", "decode-float32"]
    report = run_file(tmp_path / "hangs.py", source, *cases, seconds_per_case=0.5)
    assert [result.case for result in report.results] == cases
    assert [result.message for result in report.results] == [
        "no answer within 0.5 s",
        "not run: 1 cases before it timed out",
        "not run: 1 cases before it timed out",
    ]
    assert {result.status for result in report.results} == {Status.TIMEOUT}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("import os\nos._exit(5)", "did not load: the target's process ended with exit code 5$", id="dies"),
        pytest.param("import time\ntime.sleep(1000)", "did not load: no answer within 2 s$", id="hangs"),
        pytest.param("import sys\nsys.exit(1)", "hostile.py cannot be imported: SystemExit: 1$", id="exits"),
    ],
)
def test_a_target_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.setattr(isolation, "START_SECONDS", 2.0)
    with pytest.raises(TargetError, match=message):
        run_file(tmp_path / "hostile.py", source, "square-float32")


class Calls(list[Any]):
    """Stands for the child's end of the connection that calls come through."""

    def recv(self) -> Any:
        if not self:
            raise EOFError
        return self.pop(0)


class Answers(list[Any]):
    """Stands for the child's end of the connection that answers go through."""

    send = list.append


def test_what_the_child_says() -> None:
    answers = Answers()
    children.answer_calls(Calls([_case(CASE).call]), answers, "reference", 10**6)
    loaded, answer = answers
    assert loaded == children.Loaded(f"NumPy {np.__version__}", {})
    np.testing.assert_allclose(answer.results["output"], _case(CASE).expected["output"], rtol=1e-12)
    assert (answer.dtypes, answer.is_repeatable, answer.status) == ({"output": ("float64",)}, True, None)


def test_the_child_is_sent_no_expected_value() -> None:
    assert not hasattr(_case(CASE).call, "expected")
    assert set(_case(CASE).call.tensors) == {"query", "key", "value"}
    for case in shipped_cases():
        assert not any(name.startswith(("expected", "gradient_")) for name in case.call.tensors)
        if case.dtype == "float64" and "S2" in case.clauses:  # what a window of one sees is the value itself
            sent = pickle.dumps(case.call)
            assert not any(expected.tobytes() in sent for expected in case.expected.values()), case.id


def test_a_failure_of_our_own_is_none_of_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("in the harness")

    monkeypatch.setattr(children, "ask", broken)
    answers = Answers()
    children.answer_calls(Calls([_case(CASE).call]), answers, "reference", 10**6)
    error = answers[-1]
    assert isinstance(error, children.HarnessError)
    assert "ZeroDivisionError: in the harness" in str(error)

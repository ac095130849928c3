"""Shrinking: a failing call becomes as small as it can and still fails; its script runs; targets that misbehave."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance.answers import Answer, ask
from attnspec.conformance.calls import Call
from attnspec.conformance.cases import case_of
from attnspec.conformance.causes import evaluate_call
from attnspec.conformance.profiles import default_profile
from attnspec.conformance.reproducer import Reproducer, script
from attnspec.conformance.results import Status
from attnspec.conformance.session import Session
from attnspec.conformance.shrinking import Shrunk, shrink
from attnspec.conformance.slicing import axes_of, take, without_options
from attnspec.conformance.targets import CallableTarget, TargetError
from attnspec.conformance.variants import variants
from attnspec.conformance.zoo import forward_cases, zoo_faults

FAULTS = {fault.name: fault for fault in zoo_faults()}
Array = np.ndarray[Any, Any]


def asking(name: str) -> Callable[[Call], Answer]:
    return functools.partial(ask, CallableTarget(name, FAULTS[name].function))


def shrunk_of(name: str, case: str, **limits: Any) -> Shrunk:
    found = shrink(case_of(case).call, asking(name), **limits)
    assert found is not None
    return found


def elements(call: Call) -> int:
    return sum(tensor.size for tensor in call.tensors.values())


# Smaller calls.


@pytest.mark.parametrize(
    ("fault", "case", "sizes"),
    [
        ("scale-missing", "square-float32", {"h": 1, "q": 1, "k": 2, "v": 1}),
        ("causal-top-left", "causal-end-tall-float32", {"h": 1, "q": 1, "k": 2, "d": 1, "v": 1}),
        ("lengths-off-by-one", "key-lengths-float32", {"0": 1, "h": 1, "q": 1, "k": 1, "d": 1}),
        ("sink-of-first-head", "sinks-float32", {"0": 1, "h": 3, "q": 1, "k": 1}),
        ("softmax-without-rescaling", "tile-33-float32", {"h": 1, "q": 1, "k": 17, "d": 1, "v": 1}),
        ("segments-of-first-element", "segments-float32", {"0": 2, "h": 1, "q": 1, "k": 1}),
        ("half-precision-sums", "square-float32", {"0": 1, "h": 1, "q": 1, "k": 1}),
    ],
)
def test_the_smallest_failing_call_is_found(fault: str, case: str, sizes: dict[str, int]) -> None:
    """Softmax forgets to rescale behind 16 keys: 17 are needed. A sink of another head needs two heads, and so on."""
    found = shrunk_of(fault, case)
    assert axes_of(found.call).items() >= sizes.items()
    assert elements(found.call) < elements(case_of(case))
    assert found.asks <= 60


def test_what_is_found_still_fails_and_its_expected_values_are_the_definition_s() -> None:
    found = shrunk_of("causal-top-left", "causal-end-float32")
    evaluation = evaluate_call(found.call, default_profile("float32"))
    np.testing.assert_array_equal(found.expected["output"], evaluation.results["output"])
    assert found.answer.results is not None
    assert (np.abs(found.answer.results["output"] - found.expected["output"]) > found.bounds["output"]).any()


def test_options_that_do_not_matter_are_dropped() -> None:
    found = shrunk_of("scale-without-sign", "scale-negative-float32")
    assert found.call.options["scale"] < 0
    found = shrunk_of("scale-missing", "softcap-bias-float32")
    assert not [name for name in ("softcap", "bias", "mask") if found.call.options.get(name) not in (None, False)]
    assert "bias" not in found.call.tensors


def test_numbers_have_few_digits() -> None:
    found = shrunk_of("causal-top-left", "causal-end-float32")
    for tensor in found.call.tensors.values():
        np.testing.assert_array_equal(tensor, np.round(tensor.astype(np.float64), 2).astype(tensor.dtype))


def test_what_is_read_stays_finite() -> None:
    """Without its mask the NaN would be read, and be another question."""
    found = shrunk_of("unread-values-leak", "poison-nan-lengths-float32")
    assert np.isfinite(found.expected["output"]).all()
    assert found.call.options["mask"] is not None


def test_the_number_of_asks_is_bounded() -> None:
    asked = []

    def counting(call: Call) -> Answer:
        asked.append(call)
        return asking("scale-missing")(call)

    found = shrink(case_of("square-float32").call, counting, asks=5)
    assert found is not None
    assert len(asked) == found.asks == 5
    assert shrunk_of("scale-missing", "square-float32", seconds=0.0).asks == 1


def test_a_right_target_fails_nothing() -> None:
    target = CallableTarget("plain", variants()[0].attention)
    assert shrink(case_of("square-float32").call, functools.partial(ask, target)) is None


def test_gradients_shrink_with_their_cotangents() -> None:
    case = next(each for each in map(case_of, ("gradient-plain-float32",)) if each.direction == "backward")

    def doubled(call: Call) -> Answer:
        results = evaluate_call(call, default_profile("float32")).results
        given = {name: 2 * results[name] if name == "key" else results[name] for name in call.results}
        return Answer(given, {}, True, None, "", 0.0)

    found = shrink(case.call, doubled)
    assert found is not None
    assert found.call.tensors["output_cotangent"].size < case.tensors["output_cotangent"].size
    assert axes_of(found.call)["q"] == 1


def test_masks_are_cut_with_the_axes() -> None:
    call = case_of("key-lengths-float32").call
    fewer = take(call, {"0": [1], "k": [0, 1, 2]})
    lengths = fewer.options["mask"].lengths
    assert lengths.shape == (1,)
    assert lengths.max() <= 3
    assert fewer.tensors["key"].shape[0] == 1
    assert fewer.tensors["key"].shape[-2] == 3
    assert all(each.options != call.options for each in without_options(call))


def test_an_operation_without_known_axes_loses_options_only() -> None:
    call = forward_cases("layer_norm", "float32")[0].call
    assert axes_of(call) == {}

    def zeros(call: Call) -> Answer:
        return Answer({"output": np.zeros(call.tensors["inputs"].shape, np.float32)}, {}, True, None, "", 0.0)

    found = shrink(call, zeros)
    assert found is not None
    assert found.call.tensors["inputs"].shape == call.tensors["inputs"].shape


# Scripts.

FAULTY = """
import os, time
import numpy as np
from attnspec.conformance.faults import FAULTS

top_left = next(fault for fault in FAULTS if fault.name == "causal-top-left").attention


def dies(query, key, value):
    if query.shape[0] == 1:
        os._exit(3)
    return np.zeros(value.shape, query.dtype)


def sleeps(query, key, value):
    time.sleep(60)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.py"
    path.write_text(FAULTY, encoding="utf8")
    return path


def run(text: str, folder: Path) -> str:
    (folder / "snippet.py").write_text(text, encoding="utf8")
    done = subprocess.run(
        [sys.executable, "snippet.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_reproducer_runs(target: Path, tmp_path: Path) -> None:
    with Reproducer(f"{target}:top_left") as reproduce:
        text = reproduce(case_of("causal-end-tall-bfloat16"))
        assert reproduce(case_of("square-float32")) is None, "it passes"
    assert text is not None
    assert "{'mask': {'kind': 'causal', 'offset': 'end'}}" in text
    assert "# output: expected ± bound, and what came:" in text
    printed = run(text, tmp_path)
    assert printed.startswith("{'output': array([[[")
    assert "dtype=bfloat16" in printed


def test_a_script_holds_the_tensors_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    case = case_of("square-float32")
    tensors = {name: rng.standard_normal((1, 1, 2, 1)).astype(np.float32) for name in ("query", "key", "value")}
    call = replace(case.call, tensors={**tensors, "value": np.array([[[[np.nan], [-np.inf]]]], np.float32)})
    answer = Answer({"output": tensors["query"]}, {}, True, None, "", 0.0)
    expected = {"output": tensors["query"].astype(np.float64)}
    text = script("kernel.py:top_left", Shrunk(call, answer, expected, expected, 1))
    body = text.partition("answer = ")[0]
    scope: dict[str, Any] = {}
    exec(body, scope)
    assert scope["call"].operation == "dot_product_attention"
    for name, tensor in call.tensors.items():
        assert scope["tensors"][name].dtype == np.float32
        np.testing.assert_array_equal(scope["tensors"][name], tensor)


def test_a_large_call_is_read_from_its_vector(tmp_path: Path) -> None:
    case = case_of("square-float32")
    answer, expected = Answer({}, {}, True, None, "", 0.0), dict(case.expected)
    text = script("reference", Shrunk(case.call, answer, expected, expected, 1))
    assert "np.array" not in text
    assert text.count("\n") < 40
    assert text.endswith("#   nothing came\n")
    assert run(text, tmp_path).startswith("{'output': array([[[[")


# Sessions.


def test_a_session_survives_a_target_that_dies(target: Path) -> None:
    call = case_of("square-float32").call
    assert call.tensors["query"].shape[0] == 2
    with Session(f"{target}:dies") as session:
        answer = session.ask(take(call, {"0": [0]}))
        assert (answer.status, answer.results) == (Status.CRASH, None)
        assert session.ask(call).results is not None, "it was started again"


def test_a_session_ends_a_target_that_takes_too_long(target: Path) -> None:
    with Session(f"{target}:sleeps", seconds=0.5) as session:
        answer = session.ask(case_of("square-float32").call)
    assert answer.status is Status.TIMEOUT
    assert answer.message == "no answer within 0.5 s"


def test_a_target_that_cannot_be_loaded_is_an_error(target: Path) -> None:
    with Session(f"{target}:nothing") as session, pytest.raises(TargetError, match="nothing"):
        session.ask(case_of("square-float32").call)

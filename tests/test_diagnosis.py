"""Diagnosis: the right cause is named first, also in another arithmetic; what is unknown is called unknown.

How often it is right on the whole zoo is measured by `python -m attnspec.conformance.zoo_report`: docs/faults.md.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attnspec.conformance.admission import evaluation_of
from attnspec.conformance.answers import Answer
from attnspec.conformance.cases import Case, case_of, shipped_cases
from attnspec.conformance.causes import claims, known_causes, merged_steps, of_convention
from attnspec.conformance.conventions import CONVENTIONS
from attnspec.conformance.derivatives import reference_gradients
from attnspec.conformance.diagnosis import UNKNOWN, Diagnosis, deviates, diagnose
from attnspec.conformance.diagnosis_accuracy import (
    PAIRS,
    are_indistinguishable,
    as_planted,
    failures_of,
    in_float64,
    in_other_orders,
    names_both,
    share_unknown,
    strangers,
)
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.profiles import default_profile
from attnspec.conformance.zoo import ATTENTIONS, run_function, zoo_faults

FAULTS = {fault.name: fault for fault in zoo_faults()}
Array = np.ndarray[Any, Any]

CHOSEN = (
    "scale-missing",
    "mask-inverted",
    "window-one-wider",
    "heads-tiled",
    "softcap-after-mask",
    "nan-on-empty-rows",
    "softmax-maximum-from-zero",
    "logsumexp-base-two",
    "unread-values-leak",
    "half-precision-sums",
    "multi_head_attention/rotary-pairing-swapped",
    "layer_norm/cancelling-variance",
    "encoder/last-norm-of-pre-alone",
    "key_value_attention/product-broadcast",
)
"""Every kind: masks, scales, heads, empty rows, precision, NaN, another result, layers, another shape."""


def answer(results: dict[str, Array], dtypes: dict[str, tuple[str, ...]] | None = None) -> Answer:
    return Answer(results, dtypes or {}, True, None, "", 0.0)


# The zoo.


@pytest.mark.parametrize("name", CHOSEN)
def test_the_right_fault_is_named_first(name: str) -> None:
    failures = failures_of(as_planted(FAULTS[name]), FAULTS[name].operations, ("float32",))
    first, *_ = diagnose("target", failures)
    assert first.cause == name
    assert first.clause == FAULTS[name].clause
    assert first.target == "target"
    assert first.failing == len(failures)
    assert first.explanation.startswith(
        f"on {len(first.cases)} of {len(failures)} failing cases the output equals *{name}*"
    )
    assert set(first.cases) <= failures.keys()


@pytest.mark.parametrize("way", [in_float64, in_other_orders])
@pytest.mark.parametrize("name", ["scale-of-model-size", "sentinel-mask", "causal-bottom-right", "values-shifted"])
def test_it_is_named_in_another_arithmetic_too(name: str, way: Callable[..., Any]) -> None:
    failures = failures_of(way(FAULTS[name]), ATTENTIONS, ("bfloat16",))
    first, *_ = diagnose("target", failures)
    assert first.cause == name
    assert first.ratio is not None
    assert 0 < first.ratio <= 1


@pytest.mark.parametrize("pair", [PAIRS[2], PAIRS[6], PAIRS[10]], ids=" + ".join)
def test_two_faults_at_once_are_both_named(pair: tuple[str, str]) -> None:
    steps = merged_steps(FAULTS[pair[0]].steps, FAULTS[pair[1]].steps)
    assert steps is not None
    function = build(steps)
    failures = failures_of(lambda case: run_function(function, case.call), ATTENTIONS, ("float32",))
    said = diagnose("target", failures)
    assert names_both(pair, said), [each.cause for each in said]
    assert any(set(each.cause.split(" + ")) == set(pair) for each in said), "where both show, both are named together"


def test_there_are_enough_pairs() -> None:
    assert len(set(PAIRS)) >= 15
    assert {name for pair in PAIRS for name in pair} <= FAULTS.keys()


@pytest.mark.parametrize("name", ["weights squared", "cosine in the place of the scalar product"])
def test_a_stranger_is_unknown(name: str) -> None:
    function = strangers()[name]
    failures = failures_of(lambda case: run_function(function, case.call), ATTENTIONS, ("float32",))
    chosen = dict(list(failures.items())[:8])
    first, *others = diagnose("target", chosen)
    assert first.cause == UNKNOWN
    assert first.clause is None
    assert first.ratio is None
    assert "no known cause" in first.explanation
    assert share_unknown((first, *others)) >= 0.8


def test_faults_that_give_the_same_bits_are_found() -> None:
    assert are_indistinguishable("mean_pooling/padding-averaged", "mean_pooling/padding-multiplied")
    assert not are_indistinguishable("mean_pooling/padding-averaged", "mean_pooling/first-position")
    assert not are_indistinguishable("causal-peek", "mean_pooling/first-position")


def test_cases_that_passed_tell_equals_apart() -> None:
    """A softmax without its maximum fails for large logits too; one whose maximum starts at 0 does not."""
    failures = failures_of(as_planted(FAULTS["softmax-maximum-from-zero"]), ATTENTIONS, ("float32",))
    large = "range-large-float32"
    assert large not in failures
    assert diagnose("target", failures, passed=[large])[0].cause == "softmax-maximum-from-zero"


def test_nothing_failed() -> None:
    assert diagnose("target", {}) == ()


# Conventions.


@functools.cache
def claim_of(convention: str, case: str) -> dict[str, Array]:
    """What a target answers that follows a convention, exactly."""
    (cause,) = (of_convention(each) for each in CONVENTIONS if each.name == convention)
    profile = default_profile(case_of(case).dtype)
    return next(claims(cause, case_of(case), evaluation_of(case, profile), profile)).results


def cases_of(convention: str, direction: str = "forward", count: int = 6) -> list[Case]:
    """Some float32 cases that show a convention."""
    (cause,) = (of_convention(each) for each in CONVENTIONS if each.name == convention)
    cases = (case for case in shipped_cases() if (case.dtype, case.direction) == ("float32", direction))
    shown = (case for case in cases if deviates(cause, case, evaluation_of(case.id, default_profile("float32"))))
    return list(itertools.islice(shown, count))


def test_names_of_conventions_are_unique_and_say_what_they_break() -> None:
    assert len({each.name for each in CONVENTIONS}) == len(CONVENTIONS) >= 50
    assert all(each.says and each.clause[0] == "S" and each.clause[1:].isdigit() for each in CONVENTIONS)
    assert all(each.change or each.alter or each.steps for each in CONVENTIONS)


@pytest.mark.parametrize(
    "name",
    [
        "causal-ignored",
        "mask-of-first-element",
        "mask-as-numbers",
        "bias-negated",
        "key-value-swapped",
        "layout-swapped",
        "rotary-other-pairing",
        "positions-from-one",
        "gelu-swapped",
        "mask-of-minus-10000",
        "logsumexp-infinite-on-empty",
    ],
)
def test_a_convention_is_named(name: str) -> None:
    failing = cases_of(name)
    assert failing, "no vector shows it"
    said = diagnose("target", {case.id: answer(claim_of(name, case.id)) for case in failing})
    assert [each.cause for each in said] == [name]
    assert said[0].cases == tuple(case.id for case in failing)


def test_a_convention_is_named_in_gradients() -> None:
    failing = cases_of("causal-top-left", "backward", 4)
    assert failing
    said = diagnose("target", {case.id: answer(claim_of("causal-top-left", case.id)) for case in failing})
    assert [each.cause for each in said] == ["causal-top-left"]


def test_causes_have_names_of_their_own() -> None:
    """A convention with the name of a fault speaks where the fault cannot: other operations, and gradients."""
    forward = [
        (cause.name, operation)
        for cause in known_causes()
        for operation in OPERATIONS
        if cause.operations is None or operation in cause.operations
    ]
    twice = {name for name, operation in forward if forward.count((name, operation)) > 1}
    assert twice <= {each.name for each in CONVENTIONS} & FAULTS.keys()


# Signatures.

SQUARE = "square-float32"


def said_of(change: Callable[[Array], Array], case: str = SQUARE) -> Diagnosis:
    (said,) = diagnose("target", {case: answer({"output": change(case_of(case).expected["output"])})})
    return said


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("zeros", np.zeros_like),
        ("constant", lambda output: np.full_like(output, 0.5)),
        ("NaN everywhere", lambda output: np.full_like(output, np.nan)),
        ("a constant factor", lambda output: 1.1 * output),
        ("another order", lambda output: np.roll(output, 1, axis=-2)),
        ("transposed", lambda output: np.moveaxis(output, 1, 2)),
        ("other shape", lambda output: output[..., :-1]),
        ("reshaped", lambda output: output.reshape(-1)),
        ("as exact as fp32_tf32", lambda output: output * (1 + 2.0**-12 * np.resize([1.0, -1.0], output.shape))),
        ("as exact as bf16_flash", lambda output: output + 2.0**-9 * np.resize([1.0, -1.0], output.shape)),
    ],
)
def test_a_signature_is_named(name: str, change: Callable[[Array], Array]) -> None:
    assert said_of(change).cause == name


def test_the_values_returned_are_named() -> None:
    assert said_of(lambda _: np.asarray(case_of(SQUARE).tensors["value"], np.float64)).cause == "values returned"


def test_the_mean_of_the_values_is_named() -> None:
    value = np.asarray(case_of(SQUARE).tensors["value"], np.float64)
    mean = np.broadcast_to(value.mean(axis=-2, keepdims=True), case_of(SQUARE).expected["output"].shape)
    assert said_of(lambda _: mean).cause == "mean of the values"


def test_another_dtype_and_other_bits_are_named() -> None:
    right = case_of(SQUARE).expected["output"]
    wide = answer({"output": right}, {"output": ("float32",)})
    assert diagnose("target", {SQUARE: wide})[0].cause == "float64 returned"
    said = diagnose("target", {SQUARE: answer({"output": right})})[0]
    assert (said.cause, said.clause) == ("other bits", "S17")
    said = diagnose("target", {SQUARE: answer({"output": 3 * right})._replace(is_repeatable=False)})[0]
    assert said.cause == "not repeatable"


# Gradients.

GROUPED = next(
    case
    for case in shipped_cases()
    if case.direction == "backward" and case.dtype == "float32" and "grouped" in case.id and "key" in case.expected
)


def gradients(**changed: Callable[[Array], Array]) -> Diagnosis:
    found = {name: changed.get(name, np.asarray)(array) for name, array in GROUPED.expected.items()}
    (said,) = diagnose("target", {GROUPED.id: answer(found)})
    return said


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("zero", np.zeros_like),
        ("of the wrong sign", np.negative),
        ("half too small", lambda array: array / 2),
        ("off by a constant factor", lambda array: array * 1.7),
    ],
)
def test_a_wrong_gradient_is_named(words: str, change: Callable[[Array], Array]) -> None:
    said = gradients(query=change)
    assert said.cause == f"gradient of query: {words}"
    assert said.explanation.startswith("on 1 of 1 failing cases gradient of query:")
    assert "the other gradients are right" in said.explanation


def test_a_gradient_of_one_query_head_alone_is_named() -> None:
    query, key = (GROUPED.tensors[name] for name in ("query", "key"))
    group = query.shape[-3] // key.shape[-3]
    assert group > 1
    first = np.arange(query.shape[-3]) % group == 0
    cotangents = {"output": GROUPED.cotangents()["output"] * first[:, None, None]}
    partial = reference_gradients(GROUPED.operation, GROUPED.tensors, GROUPED.call_options(), cotangents)
    said = gradients(key=lambda _: partial["key"])
    assert said.cause == "gradient of key: of the first query head of each group alone"


def test_gradients_in_each_other_s_place_are_named() -> None:
    said = gradients(query=lambda array: array + np.arange(array.size).reshape(array.shape))
    assert said.cause == UNKNOWN


# What comes with it.


def test_the_smallest_case_is_reproduced() -> None:
    asked = []

    def reproduce(case: Case) -> str:
        asked.append(case.id)
        return "a script"

    failures = failures_of(as_planted(FAULTS["causal-top-left"]), ATTENTIONS, ("float32",))
    said = diagnose("target", failures, reproduce=reproduce)
    assert {each.reproducer for each in said} == {"a script"}
    sizes = {name: sum(tensor.size for tensor in case_of(name).tensors.values()) for name in said[0].cases}
    assert sizes[asked[0]] == min(sizes.values())


def test_a_declared_profile_widens_what_is_explained() -> None:
    fault = FAULTS["causal-top-left"]
    steps = fault.steps or Steps()
    function = build(steps._replace(rounded=lambda array, _: array.astype(np.float16).astype(array.dtype)))
    case = case_of("causal-end-float32")
    failures = {case.id: answer(dict(run_function(function, replace(case.call, results=("output",)))))}
    assert diagnose("target", failures)[0].cause == UNKNOWN
    assert diagnose("target", failures, profiles={"float32": "fp32_tf32"})[0].cause == "causal-top-left"

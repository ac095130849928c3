"""`verify` from Python: what it runs, what it returns, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import Case, Report, Result, Status, TargetError, verify
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.quick import is_quick
from attnspec.conformance.runner import Selection, check_selection, find_profile
from attnspec.conformance.variants import variants

Array = np.ndarray[Any, Any]

right = build(Steps())
wrong = next(fault.attention for fault in FAULTS if fault.name == "heads-tiled")
EAGER = next(variant.attention for variant in variants() if variant.name == "eager-bfloat16")


def ids(report: Report) -> list[str]:
    return [result.case for result in report.results]


# Selections.


def test_everything_is_selected_by_default() -> None:
    report = verify("reference")
    assert ids(report) == [case.id for case in shipped_cases()]
    assert report.conforms
    report.raise_if_failed()
    assert report.count(Status.PASS) == len(shipped_cases())


def matching(test: Callable[[Case], bool]) -> list[str]:
    return [case.id for case in shipped_cases() if test(case)]


@pytest.mark.parametrize(
    ("selection", "test"),
    [
        pytest.param({"clauses": ["S12"]}, lambda case: "S12" in case.clauses, id="clause"),
        pytest.param({"clauses": {"S12", "S5"}}, lambda case: not {"S12", "S5"}.isdisjoint(case.clauses), id="clauses"),
        pytest.param(
            {"operations": ["self_attention"]}, lambda case: case.operation == "self_attention", id="operation"
        ),
        pytest.param({"dtypes": ["float16"]}, lambda case: case.dtype == "float16", id="dtype"),
        pytest.param({"levels": ["core"]}, lambda case: case.level == "core", id="level"),
        pytest.param({"cases": ["causal-end-float32"]}, lambda case: case.id == "causal-end-float32", id="case"),
        pytest.param({"cases": "causal-end-float32"}, lambda case: case.id == "causal-end-float32", id="one-name"),
        pytest.param({"directions": ["backward"]}, lambda case: case.direction == "backward", id="direction"),
        pytest.param({"directions": "forward"}, lambda case: case.direction == "forward", id="one-direction"),
        pytest.param(
            {"directions": ["forward", "backward"], "clauses": "S15"},
            lambda case: "S15" in case.clauses,
            id="both-directions",
        ),
        pytest.param(
            {"operations": ["merge_attention", "rotary_embedding"]},
            lambda case: case.operation in ("merge_attention", "rotary_embedding"),
            id="operations",
        ),
        pytest.param({"quick": True}, is_quick, id="quick"),
        pytest.param(
            {"quick": True, "clauses": "S13", "directions": "backward"},
            lambda case: is_quick(case) and "S13" in case.clauses and case.direction == "backward",
            id="quick-and-others",
        ),
        pytest.param(
            {"clauses": ["S3"], "dtypes": ["float32"]},
            lambda case: "S3" in case.clauses and case.dtype == "float32",
            id="all-of-them-together",
        ),
    ],
)
def test_selections(selection: dict[str, Any], test: Callable[[Case], bool]) -> None:
    expected = matching(test)
    assert expected
    assert ids(verify("reference", **selection)) == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        pytest.param(
            {"clauses": ["X"]},
            r"^no case has 'X' among its clauses; "
            r"there are S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, .*, S18, S20, S21, …$",
            id="clause",
        ),
        pytest.param({"clauses": ["s7"]}, r"'s7' among its clauses; did you mean S7 or S37 or S27\?$", id="lower-case"),
        pytest.param(
            {"operations": ["self_atention"]},
            r"^no case has 'self_atention' among its operations; did you mean self_attention",
            id="operation",
        ),
        pytest.param({"dtypes": ["float8"]}, r"^no case has 'float8' among its dtypes; did you mean float", id="dtype"),
        pytest.param(
            {"dtypes": ["int"]}, r"'int' among its dtypes; there are float16, float32, float64, bfloat16$", id="far-off"
        ),
        pytest.param(
            {"directions": ["back"]},
            r"^no case has 'back' among its directions; did you mean backward\?$",
            id="direction",
        ),
        pytest.param(
            {"directions": ["sideways"]},
            r"^no case has 'sideways' among its directions; there are forward, backward$",
            id="far-off-direction",
        ),
        pytest.param(
            {"levels": ["basic"]}, r"^no case has 'basic' among its levels; there are core, extended$", id="level"
        ),
        pytest.param(
            {"cases": ["causal-end-float23"]},
            r"^no case has 'causal-end-float23' among its cases; did you mean causal-end-float",
            id="case",
        ),
        pytest.param({"cases": "causal"}, r"^no case has 'causal' among its cases", id="one-name"),
    ],
)
def test_what_no_case_has_is_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify("reference", **selection)


def test_quick_and_another_dtype_have_nothing_in_common() -> None:
    assert verify("reference", quick=True, dtypes="float64").is_empty


def test_a_selection_is_checked_before_a_target_is_loaded() -> None:
    with pytest.raises(ValueError, match="no case has"):
        verify("no-such-target", cases="no-such-case")


def test_selections_that_have_no_case_in_common_prove_nothing() -> None:
    report = verify("reference", clauses="S12", cases="square-float32")
    assert report.results == ()
    assert report.is_empty
    assert not report.conforms
    with pytest.raises(AssertionError, match=r"^no case ran\n0 of 0 cases conform$"):
        report.raise_if_failed()


def test_every_selection_is_checked() -> None:
    check_selection(Selection())
    with pytest.raises(ValueError, match="among its levels"):
        check_selection(Selection(levels=frozenset({"x"})))


# Targets.


def test_several_targets() -> None:
    report = verify(["reference", right], cases="square-float32")
    assert [(result.target, result.status) for result in report.results] == [
        ("reference", Status.PASS),
        ("attention", Status.PASS),
    ]
    assert report.versions["attention"] == "Python callable"
    assert report.versions["reference"] == f"NumPy {np.__version__}"
    assert {"attnspec", "python", "numpy"} <= set(report.versions)


def test_two_targets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two targets are called 'reference'"):
        verify(["reference", "reference"], cases=["square-float64"])


def test_no_target_proves_nothing() -> None:
    assert not verify([]).conforms


def test_an_unknown_target() -> None:
    with pytest.raises(TargetError, match=r"^there is no target 'torhc'"):
        verify("torhc")


# Profiles.


def test_an_eager_target_needs_its_profile() -> None:
    selection: dict[str, Any] = {"dtypes": "bfloat16", "operations": "dot_product_attention"}
    held_to_fused = verify(EAGER, **selection)
    held_to_eager = verify(EAGER, profile="bf16_eager", **selection)
    assert not held_to_fused.conforms
    assert held_to_eager.conforms
    assert {result.profile for result in held_to_eager.results} == {"bf16_eager"}
    assert {result.profile for result in held_to_fused.results} == {"bf16_flash"}


def test_a_profile_is_for_its_dtype_alone() -> None:
    report = verify(right, profile="bf16_eager", cases=["square-float32", "square-bfloat16"])
    assert [result.profile for result in report.results] == ["fp32", "bf16_eager"]


def test_where_a_profile_cannot_decide_nothing_is_decided() -> None:
    (result,) = verify(right, profile="bf16_eager", cases="range-negative-bfloat16").results
    assert result.status is Status.UNSUPPORTED
    assert result.message == "the bound of profile bf16_eager is too wide to decide here"


def test_an_unknown_profile() -> None:
    with pytest.raises(ValueError, match=r"^there is no profile 'bf16'; there are fp64, fp32, fp32_tf32, bf16_flash, "):
        verify("reference", profile="bf16")
    assert find_profile(None) is None


# Reports.


def test_a_failing_report_says_where_and_how_far() -> None:
    report = verify(wrong, cases=["square-float32", "grouped-float32"])
    good, bad = report.results
    assert (good.status, bad.status) == (Status.PASS, Status.FAIL)
    assert not report.conforms
    assert report.failures() == (bad,)
    assert bad.ratio is not None
    assert bad.ratio > 1e4
    assert bad.message.startswith("at [")
    assert " got " in bad.message
    assert " ± " in bad.message
    assert bad.message.endswith("3 query heads to a key/value head: heads tiled instead of repeated; Dv ≠ Dk; Tq < Tk")
    with pytest.raises(AssertionError, match=r"^1 of 2 cases conform\nattention grouped-float32: fail: at \["):
        report.raise_if_failed()


def test_nearly_outside_is_a_warning_and_passes() -> None:
    case = next(case for case in shipped_cases() if case.id == "window-self-bfloat16")

    def near(query: Array, key: Array, value: Array, **_: Any) -> Array:
        output, _ = right(query, key, value, **_)
        assert output.tobytes() == value.tobytes()
        return np.nextafter(output, output.dtype.type(0))

    (result,) = verify(near, cases=case.id).results
    assert result.ratio is not None
    assert 0.8 < result.ratio <= 1.0
    assert result.status is Status.QUALITY_WARNING
    assert result.message.startswith("at [")


def test_summary_shortens() -> None:
    report = verify(wrong, clauses="S12", dtypes="float32", operations="dot_product_attention")
    failures = report.failures()
    assert len(failures) > 2
    lines = report.summary(limit=2).splitlines()
    assert len(lines) == 4
    assert lines[-1] == f"… and {len(failures) - 2} more"


def test_an_undecided_target_beside_a_good_one_does_not_conform() -> None:
    report = verify(["reference", right], operations="self_attention")
    assert report.undecided() == ("attention",)
    assert not report.is_empty
    assert not report.conforms
    assert not report.failures()
    assert "no case was decided for attention" in report.summary()


def result(status: Status, ratio: float | None = None, target: str = "mine") -> Result:
    return Result(target, "square-float32", "dot_product_attention", "float32", ("S1",), status, "fp32", ratio, "", 0.5)


@pytest.mark.parametrize(
    ("statuses", "conforms"),
    [
        pytest.param([Status.PASS], True, id="pass"),
        pytest.param([Status.QUALITY_WARNING], True, id="warning"),
        pytest.param([Status.PASS, Status.UNSUPPORTED], True, id="pass-and-unsupported"),
        pytest.param([Status.UNSUPPORTED], False, id="unsupported"),
        pytest.param([], False, id="nothing"),
        *(
            pytest.param([Status.PASS, status], False, id=f"pass-and-{status}")
            for status in (Status.FAIL, Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.NONDETERMINISTIC)
        ),
    ],
)
def test_what_conforms(statuses: list[Status], conforms: bool) -> None:
    assert Report(tuple(map(result, statuses)), {}).conforms is conforms


def test_what_is_missing_does_not_conform() -> None:
    report = Report((result(Status.PASS),), {}, ("jax is required and JAX is not installed",))
    assert not report.conforms
    assert report.summary().startswith("jax is required and JAX is not installed\n")


def test_a_function_without_a_logsumexp_is_unsupported_there_and_judged_elsewhere() -> None:
    def output_alone(query: Array, key: Array, value: Array) -> Array:
        return right(query, key, value)[0]

    report = verify(output_alone, cases=["square-float32", "logsumexp-float32", "gradient-plain-float32"])
    assert [(found.status, found.message) for found in report.results] == [
        (Status.PASS, ""),
        (Status.UNSUPPORTED, "the function returns no logsumexp beside its output"),
        (Status.UNSUPPORTED, "a plain callable gives no gradients"),
    ]
    assert report.conforms


@pytest.mark.parametrize(
    ("fault", "case", "part"),
    [
        pytest.param("logsumexp-base-two", "logsumexp-float32", "of the logsumexp got", id="logsumexp"),
        pytest.param("sink-ignored", "sinks-float32", "at [", id="sinks"),
        pytest.param("dropout-inverted", "dropout-float32", "at [", id="dropout"),
        pytest.param("segments-ignored", "segments-float32", "at [", id="segments"),
        pytest.param("bias-ignored", "alibi-float32", "at [", id="bias-object"),
    ],
)
def test_faults_of_options_fail_with_a_place(fault: str, case: str, part: str) -> None:
    attention = next(each.attention for each in FAULTS if each.name == fault)
    (found,) = verify(attention, cases=case).results
    assert found.status is Status.FAIL
    assert part in found.message
    assert found.message.endswith(next(each.description for each in shipped_cases() if each.id == case))
    assert verify(right, cases=case).conforms


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_reference_conforms_in_each_direction(direction: str) -> None:
    report = verify("reference", directions=direction)
    assert report.conforms
    assert report.count(Status.PASS) == len(report.results) > 70
    assert all(("gradient" in found.case) == (direction == "backward") for found in report.results)


def test_json_has_every_result_and_no_nan() -> None:
    report = verify([wrong, "reference"], cases=["grouped-float32", "empty-array-float32", "self-attention-float32"])

    def no_constant(name: str) -> None:
        raise ValueError(name)

    data = json.loads(report.to_json(), parse_constant=no_constant)
    assert data["format"] == 1
    assert data["conforms"] is False
    assert data["missing"] == []
    assert data["versions"]["reference"] == f"NumPy {np.__version__}"
    assert [entry["status"] for entry in data["results"]] == ["fail", "pass", "unsupported", "pass", "pass", "pass"]
    assert data["results"][0]["clauses"] == ["S1", "S2", "S12"]
    assert data["results"][2]["ratio"] is None


def test_json_writes_an_error_against_a_bound_of_zero_as_a_word() -> None:
    data = json.loads(Report((result(Status.FAIL, float("inf")),), {}).to_json())
    assert data["results"][0]["ratio"] == "inf"


def test_reports_count_by_target_and_dtype() -> None:
    report = verify(["reference", wrong], cases=["grouped-float32", "grouped-float64"])
    assert report.count(Status.PASS) == 2
    assert report.count(Status.PASS, target="reference") == 2
    assert report.count(Status.FAIL, target="attention", dtype="float64") == 1
    assert report.count(Status.PASS, Status.FAIL) == 4

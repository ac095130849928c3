"""Several reports as one, and what changed between two."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from made_reports import diagnosis, every_kind, report, result

from attnspec.conformance import Report, Result, Status
from attnspec.conformance.report_diff import compare_reports
from attnspec.conformance.report_files import ReportError
from attnspec.conformance.report_merge import merge


def test_reports_of_two_targets_become_one() -> None:
    left = report(result("b"), result("a"), missing=("jax is required",))
    right = report(result("a", Status.FAIL, 3.0, target="theirs"), diagnoses=(diagnosis("a", target="theirs"),))
    both = merge({"left": left, "right": right})
    assert [(one.target, one.case) for one in both.results] == [("mine", "b"), ("mine", "a"), ("theirs", "a")]
    assert both.missing == ("jax is required",)
    assert both.diagnoses == right.diagnoses
    assert [run.targets for run in both.runs] == [("mine",), ("theirs",)]
    assert both.versions["mine"] == both.versions["theirs"] == "Framework 1.2.3"
    assert (both.suite, both.manifest) == (left.suite, left.manifest)


def test_two_halves_of_a_target_become_one() -> None:
    halves = report(result("a")), report(result("theirs", target="theirs"), result("b"))
    both = merge({"left": halves[0], "right": halves[1]})
    assert [(one.target, one.case) for one in both.results] == [("mine", "a"), ("mine", "b"), ("theirs", "theirs")]


def test_the_same_result_is_kept_once_and_a_report_with_itself_is_itself() -> None:
    left, right = report(result("a", seconds=1.0)), report(result("a", seconds=2.0))
    assert merge({"left": left, "right": right}).results == left.results
    whole = every_kind()
    assert repr(merge({"left": whole, "right": whole})) == repr(whole)


def test_versions_of_machines_that_differ_are_both_told() -> None:
    left, right = report(result("a")), report(result("a", target="theirs"))
    (run,) = right.runs
    other = replace(run, versions=run.versions | {"numpy": "2.5.0"}, machine="Darwin arm64")
    both = merge({"left": left, "right": replace(right, runs=(other,))})
    assert both.versions["numpy"] == "2.4.0 and 2.5.0"
    assert [run.machine for run in both.runs] == ["Linux x86_64, 2 cores", "Darwin arm64"]


CANNOT: dict[str, tuple[Report, str]] = {
    "other-result": (
        report(result("b"), result("a", Status.FAIL, 3.0)),
        "left and right cannot be merged: mine has different results of a: pass at 0.25 (fp32) and fail at 3.00 (fp32)",
    ),
    "other-ratio": (
        report(result("a", ratio=0.5)),
        "mine has different results of a: pass at 0.25 (fp32) and pass at 0.50",
    ),
    "other-profile": (
        report(result("a", profile="fp32_tf32")),
        "mine has different results of a: pass at 0.25 (fp32) and pass at 0.25 (fp32_tf32)",
    ),
    "other-suite": (
        report(result("b"), suite="0.2.0"),
        "they were made with different vectors: suite 0.1.0, manifest abababababab…, and suite 0.2.0, ",
    ),
    "other-manifest": (
        report(result("b"), manifest="cd" * 32),
        "different vectors: suite 0.1.0, manifest abababababab…, and suite 0.1.0, manifest cdcdcdcdcdcd…",
    ),
    "other-version": (
        replace(report(result("b")), versions={"mine": "Framework 2.0"}),
        "left and right cannot be merged: mine is 'Framework 1.2.3' in one, 'Framework 2.0' in the other",
    ),
}


@pytest.mark.parametrize(("right", "message"), CANNOT.values(), ids=CANNOT)
def test_what_cannot_be_merged_is_named(right: Report, message: str) -> None:
    with pytest.raises(ReportError) as caught:
        merge({"left": report(result("a")), "right": right})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "kind", "is_worse"),
    [
        pytest.param({}, {"status": Status.FAIL, "ratio": 3.0}, "regressed", True, id="regressed"),
        pytest.param({}, {"status": Status.TIMEOUT, "ratio": None}, "regressed", True, id="times-out"),
        pytest.param(
            {"status": Status.UNSUPPORTED, "ratio": None}, {"status": Status.FAIL}, "regressed", True, id="tries-now"
        ),
        pytest.param({}, {"status": Status.UNSUPPORTED, "ratio": None}, "lost", True, id="lost"),
        pytest.param(
            {"status": Status.FAIL}, {"status": Status.UNSUPPORTED, "ratio": None}, "lost", True, id="hides-a-failure"
        ),
        pytest.param({"ratio": 0.2}, {"ratio": 0.41}, "grown", True, id="grown"),
        pytest.param({"ratio": 0.0}, {"ratio": 0.1}, "grown", True, id="grown-from-nothing"),
        pytest.param({"ratio": 0.2}, {"ratio": 0.4}, None, False, id="doubled-and-no-more"),
        pytest.param({"ratio": 0.01}, {"ratio": 0.09}, None, False, id="grown-and-small"),
        pytest.param({"status": Status.FAIL, "ratio": 3.0}, {}, "mended", False, id="mended"),
        pytest.param({"status": Status.UNSUPPORTED, "ratio": None}, {}, "gained", False, id="gained"),
        pytest.param(
            {"status": Status.FAIL, "ratio": 3.0}, {"status": Status.CRASH, "ratio": None}, None, False, id="fails-on"
        ),
        pytest.param({}, {"status": Status.QUALITY_WARNING, "ratio": 0.45}, None, False, id="as-before"),
    ],
)
def test_changes(before: dict[str, Any], after: dict[str, Any], kind: str | None, is_worse: bool) -> None:
    found = compare_reports(report(result("a", **before)), report(result("a", **after)))
    assert [change.kind for change in found.changes] == ([] if kind is None else [kind])
    assert found.is_worse is is_worse
    assert found.same == (kind is None)
    assert found.notes == ()


def test_vanished_and_new_cases() -> None:
    found = compare_reports(report(result("a"), result("b")), report(result("b"), result("c", Status.FAIL, 3.0)))
    assert [change[:5] for change in found.changes] == [
        ("vanished", "mine", "a", "pass 0.25", ""),
        ("new", "mine", "c", "", "fail 3.00"),
    ]
    assert found.is_worse
    assert not compare_reports(report(result("b")), report(result("b"), result("c"))).is_worse


def test_targets_are_compared_each_with_itself() -> None:
    before = report(result("a"), result("a", Status.FAIL, 3.0, target="theirs"))
    after = report(result("a", Status.FAIL, 3.0), result("a", target="theirs"))
    found = compare_reports(before, after)
    assert [(change.kind, change.target) for change in found.changes] == [("regressed", "mine"), ("mended", "theirs")]


def test_what_the_reports_were_made_with_is_told() -> None:
    before = report(result("a"))
    after = replace(
        report(result("a"), suite="0.2.0"), versions=before.versions | {"mine": "Framework 2.0", "jax": "1"}
    )
    assert compare_reports(before, after).notes == (
        "different vectors: suite 0.1.0 (abababababab…), then 0.2.0 (abababababab…)",
        "mine: Framework 1.2.3, then Framework 2.0",
        "jax: not there, then 1",
    )


def test_a_difference_as_json() -> None:
    data = json.loads(compare_reports(report(result("a")), report(result("a", Status.FAIL, float("inf")))).to_json())
    assert data["worse"] is True
    assert data["changes"] == [
        {"kind": "regressed", "target": "mine", "case": "a", "before": "pass 0.25", "after": "fail inf", "message": ""}
    ]


def many(status: Status, ratio: float) -> tuple[Result, ...]:
    return tuple(result(f"case-{i}", status, ratio) for i in range(5000))


def test_thousands_of_cases() -> None:
    before, after = report(*many(Status.PASS, 0.5)), report(*many(Status.FAIL, 5.0))
    assert len(compare_reports(before, after).of("regressed")) == 5000
    assert len(merge({"left": before, "right": before}).results) == 5000

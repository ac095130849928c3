"""Verdicts: a capability for each clause, dtype and direction, and the line that a person can quote."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_reports import diagnosis, report, result

from attnspec.conformance import Report, Result, Status, verify
from attnspec.conformance.admission import evaluation_of
from attnspec.conformance.answers import Answer
from attnspec.conformance.case_facts import CLAUSES, known_cases
from attnspec.conformance.case_maps import map_of
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.judgement import measure
from attnspec.conformance.profiles import PROFILES
from attnspec.conformance.results import Largest
from attnspec.conformance.variants import variants
from attnspec.conformance.verdicts import capabilities, conforms_simply, status_of, summary_line, weakest_of

EAGER = next(variant.attention for variant in variants() if variant.name == "eager-bfloat16")
TILED = next(fault.attention for fault in FAULTS if fault.name == "heads-tiled")


def test_a_capability_for_each_clause_dtype_and_direction() -> None:
    found = capabilities(
        report(
            result("b-float32", ratio=0.5, rms=0.25, bias=-0.125, clauses=("S10", "S2"), direction="backward"),
            result("a-float32", ratio=0.75, rms=0.5, bias=0.0625, clauses=("S2",)),
            result("c-float32", ratio=0.25, rms=0.75, bias=-0.5, clauses=("S2",)),
            result("d-float32", Status.UNSUPPORTED, None, clauses=("S2",)),
            result("a-float64", clauses=("S2",), dtype="float64", profile="fp64"),
        )
    )
    assert [(one.clause, one.dtype, one.direction) for one in found] == [
        ("S2", "float64", "forward"),
        ("S2", "float32", "forward"),
        ("S2", "float32", "backward"),
        ("S10", "float32", "backward"),
    ]
    second = found[1]
    assert (second.cases, second.failing, second.unsupported) == (2, 0, 1)
    assert (second.ratio, second.rms, second.bias) == (0.75, 0.75, -0.5)
    assert (second.status, second.profile, second.weakest) == ("conforms", "fp32", "fp32")


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        pytest.param([Status.PASS], "conforms", id="pass"),
        pytest.param([Status.PASS, Status.UNSUPPORTED], "conforms", id="some-unsupported"),
        pytest.param([Status.PASS, Status.QUALITY_WARNING], "warning", id="warning"),
        pytest.param([Status.UNSUPPORTED], "unsupported", id="unsupported"),
        pytest.param([Status.PASS, Status.FAIL], "deviates", id="fail"),
        pytest.param([Status.UNSUPPORTED, Status.CRASH], "deviates", id="crash"),
        pytest.param([Status.NONDETERMINISTIC], "deviates", id="nondeterministic"),
    ],
)
def test_the_verdict_on_several_results(statuses: list[Status], verdict: str) -> None:
    assert status_of([result(status=status) for status in statuses]) == verdict


@pytest.mark.parametrize(
    ("weakest", "profile"),
    [
        pytest.param([], "fp32", id="nothing-fails"),
        pytest.param(["fp32_tf32"], "fp32_tf32", id="coarser"),
        pytest.param(["fp32_tf32", None], None, id="one-fails-under-both"),
        pytest.param(["nobody-knows"], None, id="unknown-profile"),
    ],
)
def test_the_weakest_profile_that_passes(weakest: list[str | None], profile: str | None) -> None:
    failing = [result(status=Status.FAIL, ratio=3.0, weakest=one) for one in weakest]
    assert weakest_of([result(), *failing]) == profile


def test_a_correct_eager_attention_passes_the_eager_profile_and_not_the_flash_profile() -> None:
    found = verify(EAGER, clauses="S7", dtypes="bfloat16", operations="dot_product_attention")
    failing = [one for one in found.results if one.status is Status.FAIL]
    assert len(failing) > 10
    assert {one.weakest for one in failing} == {"bf16_eager"}
    assert "only within bf16_eager at bfloat16" in summary_line(found, "attention")
    assert "deviates" not in summary_line(found, "attention")
    (capability,) = (one for one in capabilities(found) if (one.clause, one.direction) == ("S7", "forward"))
    assert (capability.profile, capability.weakest, capability.status) == ("bf16_flash", "bf16_eager", "deviates")
    again = verify(EAGER, clauses="S7", dtypes="bfloat16", operations="dot_product_attention", profile="bf16_eager")
    assert not again.failures()


def test_a_wrong_attention_passes_no_profile() -> None:
    found = verify(TILED, cases=["grouped-bfloat16", "grouped-float16", "grouped-float32"])
    assert [(one.status, one.weakest) for one in found.results] == [(Status.FAIL, None)] * 3


def test_row_rms_bias_and_the_worst_element_of_a_failure() -> None:
    (found,) = verify(TILED, cases="grouped-float32").results
    assert found.direction == "forward"
    assert found.level == "core"
    assert found.largest is not None
    assert found.ratio == pytest.approx(abs(found.largest.got - found.largest.expected) / found.largest.bound, rel=1e-9)
    assert found.largest.result == "output"
    assert f"at [{', '.join(map(str, found.largest.place))}] got {found.largest.got:.9g}" in found.message
    assert found.rms is not None
    assert found.bias is not None
    assert 0 < abs(found.bias) < found.rms < (found.ratio or 0)


@pytest.mark.parametrize("share", [-0.5, 0.25])
def test_a_bias_has_the_sign_of_the_error(share: float) -> None:
    case = next(case for case in shipped_cases() if case.id == "square-float64")
    evaluation = evaluation_of(case.id, PROFILES["fp32"])
    results = {name: array + share * evaluation.bounds[name] for name, array in case.expected.items()}
    rms, bias, largest = measure(case, results, evaluation)
    assert bias == pytest.approx(share, rel=1e-3)
    assert rms == pytest.approx(abs(share), rel=1e-3)
    assert largest is not None
    assert (largest.got - largest.expected) / largest.bound == pytest.approx(share, rel=1e-3)


def test_a_map_has_the_sign_of_the_error() -> None:
    case = next(case for case in shipped_cases() if case.id == "square-float32")
    bounds = evaluation_of(case.id, PROFILES["fp32"]).bounds
    answer = Answer({"output": case.expected["output"] - 3 * bounds["output"]}, {}, True, None, "", 0.0)
    made = map_of(case, result("square-float32", Status.FAIL, largest=Largest("output", (0, 0, 0, 0), 0, 0, 0)), answer)
    assert made is not None
    assert {number for line in made.ratios for number in line} == {-3.0}


def core(dtype: str, status: Status = Status.PASS, **more: str) -> list[Result]:
    """Make a result for every shipped case of a dtype."""
    chosen = [case for case in shipped_cases() if case.dtype == dtype]
    profiles = {"float32": "fp32", "float64": "fp64", "bfloat16": "bf16_flash", "float16": "fp16_flash"}
    return [
        Result(
            target="mine",
            case=case.id,
            operation=case.operation,
            dtype=dtype,
            clauses=case.clauses,
            status=status,
            profile=more.get("profile", profiles[dtype]),
            ratio=0.5,
            message="",
            seconds=0.0,
            direction=case.direction,
            level=case.level,
        )
        for case in chosen
    ]


LEVELS = " and ".join(dict.fromkeys(case.level for case in shipped_cases() if case.dtype == "float32"))


def line(results: list[Result], **more: object) -> str:
    return summary_line(report(*results, **more), "mine")


def failing(results: list[Result], clause: str, status: Status = Status.FAIL) -> list[Result]:
    return [replace(one, status=status, ratio=9.0) if clause in one.clauses else one for one in results]


def test_a_line_of_a_target_that_conforms() -> None:
    assert line(core("float32")) == f"mine 1.2.3: conforms to {LEVELS} at float32"
    assert line([*core("float32"), *core("bfloat16")]).endswith(" at float32, bfloat16 (bf16_flash)")
    assert conforms_simply(report(*core("float32")), "mine")


def test_a_line_names_another_profile_than_the_default_one() -> None:
    assert line(core("float32", profile="fp32_tf32")).endswith(" at float32 (fp32_tf32)")


def test_a_line_names_what_deviates() -> None:
    results = failing(core("float32"), "S13")
    total = sum("S13" in one.clauses for one in results)
    assert line(results) == (
        f"mine 1.2.3: conforms to {LEVELS} in part at float32; deviates: S13 (sinks: {total} of {total} cases)"
    )
    both = line([*core("bfloat16"), *results])
    assert " at bfloat16 (bf16_flash), in part at float32; deviates: S13 (sinks: " in both
    assert not conforms_simply(report(*results), "mine")


def test_a_line_quotes_the_diagnosis_where_there_is_one() -> None:
    results = failing(core("float32"), "S12")
    cases = tuple(one.case for one in results if one.status is Status.FAIL)
    found = line(results, diagnoses=(diagnosis(*cases), diagnosis(*cases[:1], cause="explains nothing more")))
    assert found.endswith("; deviates: S12 (heads tiled)")
    part = line(results, diagnoses=(diagnosis(*cases[:2]), diagnosis(*cases[2:3], cause="sizes swapped")))
    assert "; deviates: S12 (heads tiled, sizes swapped, groups: " in part
    both = diagnosis(*cases[:1]), diagnosis(*cases[1:2], cause="sizes swapped", clause="S1")
    together = diagnosis(*cases[2:], cause="heads tiled + sizes swapped", clause="S1")
    assert line(results, diagnoses=(*both, together)).endswith("; deviates: S12 (heads tiled), S1 (sizes swapped)")


def test_a_line_names_trouble_apart_from_deviations() -> None:
    results = failing(core("float32"), "S18", Status.ERROR)
    count = sum(one.status is Status.ERROR for one in results)
    assert line(results).endswith(f"in part at float32; raises on {count} cases")
    assert line([result(status=Status.CRASH, ratio=None), result("b")]).endswith("; crashes on 1 case")
    assert line([result(status=Status.TIMEOUT, ratio=None), result("b")]).endswith("; times out on 1 case")


def test_a_line_names_what_is_unsupported() -> None:
    facts = known_cases()
    results = [
        one
        for one in core("float32")
        if one.operation in ("dot_product_attention", "merge_attention") and one.direction == "forward"
    ]
    results = [
        replace(one, status=Status.UNSUPPORTED)
        if one.operation == "merge_attention" or facts[one.case].needs & {"softcap", "windows"}
        else one
        for one in results
    ]
    assert line(results).endswith("; unsupported: softcap, windows, merge_attention")
    gradients = [
        replace(one, status=Status.UNSUPPORTED) if one.direction == "backward" else one for one in core("float32")
    ]
    assert line(gradients).endswith("; unsupported: gradients")
    no_half = [*core("float32"), *core("float16", Status.UNSUPPORTED)]
    assert line(no_half).endswith("; unsupported: float16")


def test_a_line_does_not_claim_what_was_not_run() -> None:
    total = len(core("float32"))
    assert re.fullmatch(
        rf"mine 1\.2\.3: conforms on a selection of [a-z ]+ \({total - 1} of {total} cases\) at float32",
        line(core("float32")[1:]),
    )
    forward = [one for one in core("float32") if one.direction == "forward"]
    assert line(forward) == f"mine 1.2.3: conforms to {LEVELS} (forward) at float32"


def test_a_line_of_a_target_that_fails_nearly_everywhere() -> None:
    results = [*core("float32")]
    assert line(failing(results, "S1")) != line(results)
    broken = core("float32", Status.FAIL)
    assert line(broken).startswith(f"mine 1.2.3: does not conform to {LEVELS} at float32; deviates: ")
    assert re.search(r" and \d+ more$", line(broken))


def test_a_line_of_a_target_without_a_decided_case() -> None:
    assert line([result(status=Status.UNSUPPORTED, ratio=None)]) == "mine 1.2.3: no case was decided"
    assert summary_line(Report((), {}), "mine") == "mine: no case was decided"


def test_titles_are_those_of_the_specification() -> None:
    page = (Path(__file__).parent.parent / "docs" / "specification.md").read_text(encoding="utf8")
    assert dict(re.findall(r"^## (S\d+) (.+)$", page, re.MULTILINE)) == CLAUSES


def test_facts_of_cases_are_those_of_the_vectors() -> None:
    facts = known_cases()
    assert set(facts) == {case.id for case in shipped_cases()}
    for case in shipped_cases():
        assert facts[case.id].level == case.level
        assert facts[case.id].direction == case.direction
        assert ("softcap" in facts[case.id].needs) == (case.options.get("softcap") is not None)
    assert {"causal masks", "windows"} <= facts["window-float32"].needs | facts["causal-end-float32"].needs

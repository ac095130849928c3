"""Reports as JUnit XML, Markdown and a badge: valid, complete, and whatever a target says stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from made_reports import HOSTILE, diagnosis, every_kind, real, report, result

from attnspec.conformance import Report, Status
from attnspec.conformance.report_badge import render_badge
from attnspec.conformance.report_junit import render_junit
from attnspec.conformance.report_markdown import render_markdown

REPORTS: dict[str, Callable[[], Report]] = {"every-kind": every_kind, "real": real, "nothing": lambda: Report((), {})}

# JUnit XML. The elements, their order and their attributes are those of the schema that Jenkins and others read.

ATTRIBUTES: dict[str, dict[str, str]] = {
    "testsuites": {
        "name": ".+",
        "tests": r"\d+",
        "failures": r"\d+",
        "errors": r"\d+",
        "skipped": r"\d+",
        "time": r"\d+\.\d+",
    },
    "testsuite": {
        "name": "(?s).+",
        "tests": r"\d+",
        "failures": r"\d+",
        "errors": r"\d+",
        "skipped": r"\d+",
        "time": r"\d+\.\d+",
        "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
        "hostname": ".+",
    },
    "properties": {},
    "property": {"name": ".+", "value": "(?s).*"},
    "testcase": {"classname": "(?s).+", "name": "(?s).+", "time": r"\d+\.\d+"},
    "failure": {"type": ".+", "message": "(?s).*"},
    "error": {"type": ".+", "message": "(?s).*"},
    "skipped": {"message": "(?s).*"},
    "system-out": {},
}
CHILDREN = {
    "testsuites": "(testsuite )*",
    "testsuite": "(properties )?(testcase )*",
    "properties": "(property )+",
    "testcase": "((failure|error|skipped|system-out) )?",
}


def check_junit(element: ElementTree.Element) -> None:
    wanted = ATTRIBUTES[element.tag]
    assert element.attrib.keys() == wanted.keys(), element.tag
    for name, pattern in wanted.items():
        assert re.fullmatch(pattern, element.attrib[name]), (element.tag, name, element.attrib[name])
    assert re.fullmatch(CHILDREN.get(element.tag, ""), "".join(f"{child.tag} " for child in element)), element.tag
    for child in element:
        check_junit(child)


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_junit_is_valid_and_counts_right(make: Callable[[], Report]) -> None:
    made = make()
    root = ElementTree.fromstring(render_junit(made).encode())
    check_junit(root)
    for parent in (root, *root):
        cases = list(parent.iter("testcase"))
        assert int(parent.attrib["tests"]) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(parent.attrib[attribute]) == len(list(parent.iter(tag))), (parent.tag, tag)
    cases = [one for one in root.iter("testcase") if one.attrib["name"] != "required"]
    assert [one.attrib["name"] for one in cases] == [one.case for one in made.results]


def test_what_junit_says_of_each_status() -> None:
    root = ElementTree.fromstring(render_junit(every_kind()).encode())
    mine = next(suite for suite in root if suite.attrib["name"] == "mine")
    found = {case.attrib["name"]: [(child.tag, child.get("type")) for child in case] for case in mine.iter("testcase")}
    assert found == {
        "square-float32": [],
        "grouped-float32": [("failure", "fail")],
        "no-keys-float32": [("skipped", None)],
        "window-float32": [("system-out", None)],
        "causal-end-float32": [("error", "error")],
        "segments-float32": [("error", "crash")],
        "sinks-float32": [("error", "timeout")],
        "softcap-float32": [("failure", "nondeterministic")],
    }
    (failure,) = (one for one in mine.iter("failure") if one.get("type") == "fail")
    assert failure.attrib["message"].startswith("<img src=x onerror=alert(1)> </script>")
    assert failure.attrib["message"].endswith(r"\x00\x1b[31m")
    assert failure.text == "error / bound inf, profile fp32, clauses S1"
    properties = {one.attrib["name"]: one.attrib["value"] for one in mine.iter("property")}
    assert properties["version"] == "Framework 1.2.3"
    assert properties["summary"].startswith("mine 1.2.3: ")
    assert [suite.attrib["name"] for suite in root] == ["mine", HOSTILE, "attnspec"]
    assert mine.attrib["timestamp"] == "2026-01-02T03:04:05"
    assert next(one for one in mine.iter("testcase")).attrib["classname"] == "mine.dot_product_attention"


# Markdown.


def test_markdown_holds_lines_a_matrix_and_the_failures() -> None:
    lines = render_markdown(real()).splitlines()
    assert lines[0] == "# attnspec verify"
    assert any(line.startswith("- ✅ reference ") and "conforms on a selection of " in line for line in lines)
    assert any(line.startswith("- ❌ kernels.tiled: ") for line in lines)
    header = next(line for line in lines if line.startswith("| clause |"))
    rows = [line for line in lines if re.match(r"\| S\d+ ", line)]
    columns = header.count(" | ")
    assert columns == len(real().targets())
    assert all(line.count(" | ") == columns for line in rows)
    (groups,) = (line for line in rows if line.startswith("| S12 groups | ✓ "))
    failing = sum(one.is_failure and "S12" in one.clauses for one in real().select("kernels.tiled"))
    assert re.search(rf"\| ✗ [\d.e+]+, {failing} of \d+ \|", groups)
    assert "## kernels.tiled" in lines
    assert any(
        line.startswith("- `grouped-float32` (float32, bfloat16; S1, S2, S12) fail: error / bound ") for line in lines
    )
    assert lines[-1].startswith("Made with attnspec ")


def test_markdown_reads_nothing_of_a_target_as_markdown() -> None:
    text = render_markdown(every_kind())
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert re.findall(r"(?<!\\)[<>|`]", re.sub(r"^\|.*\|$|`[\w.-]+`", "", outside, flags=re.MULTILINE)) == []
    assert r"\<img src=x onerror=alert\(1\)\>" in outside
    assert r"\[b\]\(javascript:c\)" in outside
    assert "\x00" not in text
    table = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}


def test_a_script_with_backticks_stays_in_its_fence() -> None:
    made = report(
        result(status=Status.FAIL, ratio=2.0), diagnoses=(diagnosis("a", reproducer="x = '''\n```\n````'''"),)
    )
    text = render_markdown(made)
    assert "\n`````python\nx = '''\n```\n````'''\n`````\n" in text


def test_markdown_of_nothing() -> None:
    assert "No case ran." in render_markdown(Report((), {}))


def test_markdown_of_thousands_of_failures_is_short() -> None:
    made = report(*(result(f"case-{i}", Status.FAIL, float("nan"), message=f"wrong {i}") for i in range(5000)))
    text = render_markdown(made)
    assert len(text) < 5000
    assert "- … and 4980 more designs" in text


# A badge.


@pytest.mark.parametrize(
    ("made", "text", "colour"),
    [
        pytest.param(
            report(result(status=Status.FAIL, ratio=2.0), result("b")),
            "deviates in 1 of 2 cases",
            "#c11f2d",
            id="deviates",
        ),
        pytest.param(
            report(result(status=Status.UNSUPPORTED, ratio=None)), "nothing was decided", "#5b636d", id="nothing"
        ),
        pytest.param(Report((), {}), "nothing was decided", "#5b636d", id="empty"),
        pytest.param(
            report(result(), result("b", Status.UNSUPPORTED, None, target="theirs")),
            "a target was not decided",
            "#5b636d",
            id="one-undecided",
        ),
        pytest.param(report(result(), missing=("x",)), "a required target is missing", "#c11f2d", id="missing"),
    ],
)
def test_badges(made: Report, text: str, colour: str) -> None:
    root = ElementTree.fromstring(render_badge(made))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{svg}svg"
    assert [one.text for one in root.iter(f"{svg}text")] == ["attnspec", text]
    assert root.find(f"{svg}title") is not None
    assert colour in {one.get("fill") for one in root.iter(f"{svg}rect")}


def test_a_badge_claims_no_more_than_was_run() -> None:
    assert re.search(r">conforms on a selection of core \(1 of \d+ cases\)<", render_badge(report(result())))

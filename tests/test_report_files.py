"""Reports as JSON lines: what is written fits the schema and comes back, and what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_reports import MANIFEST, diagnosis, every_kind, real, report, result

from attnspec.conformance import Report, Status
from attnspec.conformance.report_files import FORMAT, SCHEMA, ReportError, read_report, report_lines

VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf8")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.jsonl"


def written(path: Path, made: Report) -> list[dict[str, Any]]:
    path.write_text(report_lines(made), encoding="utf8")
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


REPORTS: dict[str, Callable[[], Report]] = {
    "every-kind": every_kind,
    "real": real,
    "empty": report,
    "nothing": lambda: Report((), {}),
}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_every_line_fits_the_schema_and_comes_back(make: Callable[[], Report], path: Path) -> None:
    made = make()
    for record in written(path, made):
        misfits = [error.message for error in VALIDATOR.iter_errors(record)]
        assert misfits == [], record
    again = read_report(path)
    assert report_lines(again) == report_lines(made)
    assert repr(again.results) == repr(made.results)  # NaN is not equal to itself
    assert repr(again.maps) == repr(made.maps)
    assert again.diagnoses == made.diagnoses
    assert again.runs == made.runs
    assert again.versions == made.versions
    assert (again.missing, again.suite, again.manifest) == (made.missing, made.suite, made.manifest)
    assert again.conforms is made.conforms


def test_the_schema_is_one_and_rejects_something() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text(encoding="utf8")))
    record = json.loads(report_lines(report(result())).splitlines()[1])
    assert VALIDATOR.is_valid(record)
    assert not VALIDATOR.is_valid(record | {"status": "fine"})
    assert not VALIDATOR.is_valid(record | {"ratio": "many"})
    assert VALIDATOR.is_valid(record | {"ratio": "inf", "something": "new"})


def test_what_the_lines_say(path: Path) -> None:
    header, first, end = written(path, report(result(ratio=0.25)))
    assert header == {
        "kind": "report",
        "format": 1,
        "suite": "0.1.0",
        "manifest": MANIFEST,
        "missing": [],
        "runs": [
            {
                "targets": ["mine"],
                "versions": {"attnspec": "0.1.0", "python": "3.11.7", "numpy": "2.4.0", "mine": "Framework 1.2.3"},
                "profiles": {"mine": {"float32": "fp32"}},
                "machine": "Linux x86_64, 2 cores",
                "time": "2026-01-02T03:04:05Z",
            }
        ],
    }
    assert (first["kind"], first["target"], first["case"], first["ratio"]) == ("result", "mine", "square-float32", 0.25)
    assert end == {"kind": "end", "lines": 2, "conforms": True, "totals": {"pass": 1}}


def test_numbers_that_json_lacks_are_strings(path: Path) -> None:
    records = written(path, every_kind())
    failed = next(record for record in records if record.get("case") == "grouped-float32")
    assert (failed["ratio"], failed["bias"]) == ("inf", "nan")
    assert failed["largest"] == {"result": "output", "place": [0, 1, 2], "got": "nan", "expected": 1.5, "bound": 0.0}
    assert next(record for record in records if record["kind"] == "map")["ratios"] == [[0.5, -3.0], ["inf", "nan"]]


def test_a_real_run_says_what_it_was_made_with() -> None:
    (run,) = real().runs
    assert run.targets[:2] == ("reference", "kernels.tiled")
    assert run.profiles["reference"] == {"float32": "fp32", "bfloat16": "bf16_flash"}
    assert run.versions["reference"].startswith("NumPy ")
    assert run.machine.endswith(" cores")
    assert run.time.endswith("Z")
    assert real().suite
    assert len(real().manifest) == 64


def test_maps_of_a_real_run_hold_the_worst_element() -> None:
    made = next(one for one in real().maps if one.case == "grouped-float32")
    (found,) = (one for one in real().results if (one.target, one.case) == (made.target, made.case))
    assert found.largest is not None
    assert found.largest.place[: len(made.place)] == made.place
    row, column = (at - start for at, start in zip(found.largest.place[-2:], made.start, strict=True))
    assert abs(made.ratios[row][column]) == pytest.approx(found.ratio, rel=1e-2)
    assert max(abs(number) for line in made.ratios for number in line) == abs(made.ratios[row][column])
    assert made.bounds[row][column] == pytest.approx(found.largest.bound, rel=1e-2)
    assert made.weights is not None
    assert [sum(number or 0 for number in line) for line in made.weights] == pytest.approx([1] * 5, abs=0.01)


LINES = report_lines(report(result("a"), result("b", Status.FAIL, 3.0), diagnoses=(diagnosis("b"),))).splitlines()


def changed(number: int, **values: Any) -> list[str]:
    """Change a line, counted from 1."""
    lines = list(LINES)
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | values)
    return lines


DAMAGED: dict[str, tuple[list[str] | str, str]] = {
    "empty": ("", "not a report: the file is empty; attnspec verify --jsonl writes one"),
    "blank": ("\n", "not a report: its first line is not the header of one; attnspec verify --jsonl writes one"),
    "other-text": ("hello\nworld\n", "not a report: its first line is not the header of one; "),
    "other-json": ('{"results": 1}\n', "not a report: its first line is not the header of one; "),
    "a-list": ("[1, 2]\n", "not a report: its first line is not the header of one; "),
    "of-json": (report(result()).to_json(), "written by --json, for other programs; reports are JSON lines, and "),
    "newer": (changed(1, format=2), "a report in format 2, and this attnspec reads format 1; update attnspec"),
    "older": (changed(1, format=0), ", line 1: 1 was expected at $.format"),
    "without-end": (LINES[:-1], "this report is truncated: its last line, 4, is not an end line"),
    "header-alone": (LINES[:1], "this report is truncated: its last line, 1, is not an end line"),
    "cut-in-a-line": ("\n".join(LINES)[:-3], "this report is truncated: its last line, 5, ends early"),
    "not-json": ([LINES[0], "{", *LINES[2:]], ", line 2: not valid JSON"),
    "not-an-object": (
        [LINES[0], "7", *LINES[2:]],
        ", line 2: its kind must be one of report, result, map, diagnosis, end",
    ),
    "unknown-kind": (
        changed(3, kind="verdict"),
        ", line 3: its kind must be one of report, result, map, diagnosis, end; got 'verdict'",
    ),
    "unknown-status": (changed(3, status="fine"), ", line 3: 'fine' is not one of ['pass', "),
    "wrong-type": (changed(2, clauses="S1"), ", line 2: 'S1' is not of type 'array' at $.clauses"),
    "missing-key": (
        [LINES[0], json.dumps({"kind": "result"}), *LINES[2:]],
        ", line 2: ",
    ),
    "a-line-lost": ([LINES[0], *LINES[2:]], "lines were lost or added: its end counts 4 before it, there are 3"),
    "a-line-added": ([*LINES[:2], *LINES[1:]], "lines were lost or added: its end counts 4 before it, there are 5"),
    "status-changed": (
        changed(3, status="pass"),
        "results were changed: its end counts {'pass': 1, 'fail': 1}, and there are {'pass': 2}",
    ),
    "twice": (changed(2, case="b"), "mine has two results of b"),
    "two-reports": (LINES + LINES, ", line 5: another end line; merge reports by: report merge"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_report_is_named(content: list[str] | str, message: str, path: Path) -> None:
    path.write_text(content if isinstance(content, str) else "\n".join(content) + "\n", encoding="utf8")
    with pytest.raises(ReportError) as caught:
        read_report(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match=r"report\.jsonl: not a report: it is not text in UTF-8$"):
        read_report(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(ReportError, match=r"report\.jsonl: cannot be read: No such file or directory$"):
        read_report(path)


def test_every_cut_of_a_report_is_refused(path: Path) -> None:
    text = "\n".join(LINES)
    for end in range(0, len(text), 37):
        path.write_text(text[:end], encoding="utf8")
        with pytest.raises(ReportError):
            read_report(path)


def test_the_format_that_is_written_is_the_one_that_is_read() -> None:
    assert json.loads(LINES[0])["format"] == FORMAT

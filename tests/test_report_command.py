"""`attnspec report show, merge, diff`, and the files of `attnspec verify`: what is written, and the exit code."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_reports import HOSTILE, diagnosis, every_kind, report, result

from attnspec.conformance import Report, Status
from attnspec.conformance.command_line import main
from attnspec.conformance.report_files import read_report, report_lines

WRONG = """
import numpy as np

def attention(query, key, value, *, mask=None):
    key, value = (np.tile(array, (1, query.shape[-3] // array.shape[-3], 1, 1)) for array in (key, value))
    scores = query @ key.mT / np.sqrt(query.shape[-1]).astype(query.dtype)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def attnspec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """Run the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["attnspec", *arguments])
        code: Any = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
        return Ran(code or 0, *capsys.readouterr())

    return run


def write(name: str, made: Report) -> None:
    Path(name).write_text(report_lines(made), encoding="utf8")


# verify


def test_verify_writes_every_format(attnspec: Callable[..., Ran]) -> None:
    Path("mine.py").write_text(WRONG, encoding="utf8")
    names = {
        "jsonl": "r.jsonl",
        "json": "r.json",
        "junit": "r.xml",
        "html": "r.html",
        "markdown": "r.md",
        "badge": "r.svg",
    }
    options = [part for name, file in names.items() for part in (f"--{name}", file)]
    ran = attnspec("verify", "mine.py:attention", "--case", "grouped-float32", "--case", "square-float32", *options)
    assert ran.code == 1
    assert "fail mine.py:attention grouped-float32" in ran.out
    line = ran.out.splitlines()[-1]
    assert line.startswith("mine.py:attention: conforms on a selection of core (2 of ")
    assert line.endswith(" in part at float32; deviates: S12 (heads-tiled)")
    assert "mine.py:attention: likely cause of 1 of 1 failing cases: heads-tiled (S12)" in ran.out.splitlines()
    made = read_report(Path("r.jsonl"))
    assert [(one.case, one.status) for one in made.results] == [
        ("square-float32", Status.PASS),
        ("grouped-float32", Status.FAIL),
    ]
    assert [(one.cause, one.cases) for one in made.diagnoses] == [("heads-tiled", ("grouped-float32",))]
    assert [one.case for one in made.maps] == ["grouped-float32"]
    assert [one["case"] for one in json.loads(Path("r.json").read_text())["results"]] == [
        "square-float32",
        "grouped-float32",
    ]
    assert len(list(ElementTree.parse("r.xml").getroot().iter("failure"))) == 1
    assert "mine.py:attention" in Path("r.html").read_text(encoding="utf8")
    assert line.split(": ", 1)[1][:20] in Path("r.md").read_text(encoding="utf8")
    assert "deviates in 1 of 2 cases" in Path("r.svg").read_text(encoding="utf8")


def test_verify_without_a_diagnosis(attnspec: Callable[..., Ran]) -> None:
    Path("mine.py").write_text(WRONG, encoding="utf8")
    ran = attnspec("verify", "mine.py:attention", "--case", "grouped-float32", "--no-diagnosis", "--jsonl", "-")
    assert ran.code == 1
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert [record["kind"] for record in records] == ["report", "result", "map", "end"]


def test_verify_limits_memory(attnspec: Callable[..., Ran]) -> None:
    lines = [
        "import numpy as np",
        "def attention(query, key, value, *, mask=None):",
        "    np.ones(2**25)",
        "    return value",
    ]
    Path("mine.py").write_text("\n".join(lines), encoding="utf8")
    options = ["--case", "square-float32", "--json", "-", "--no-diagnosis"]
    assert json.loads(attnspec("verify", "mine.py:attention", *options).out)["results"][0]["status"] == "fail"
    (limited,) = json.loads(attnspec("verify", "mine.py:attention", *options, "--memory", "100").out)["results"]
    assert limited["status"] == "error"
    assert "Unable to allocate" in limited["message"]


WRONG_OUTPUTS = {
    "two-on-standard-output": (
        ["--jsonl", "-", "--markdown", "-"],
        "--jsonl and --markdown cannot both be standard output",
    ),
    "one-file-twice": (["--jsonl", "r", "--junit", "./r"], "--jsonl and --junit cannot both be written to r"),
    "no-folder": (["--html", "nowhere/r.html"], "--html: there is no folder nowhere"),
    "a-folder": (["--badge", "."], "Invalid value for '--badge': File '.' is a directory."),
    "memory": (["--memory", "0"], "Invalid value for '--memory': 0 is not in the range x>=1."),
}


@pytest.mark.parametrize(("options", "message"), WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
def test_verify_refuses_outputs_before_it_runs(options: list[str], message: str, attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verify", "reference", *options)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert list(Path().iterdir()) == []


def test_verify_refuses_a_page_without_jinja2(attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "jinja2" else found(name, *rest)
    )
    ran = attnspec("verify", "reference", "--html", "r.html")
    assert ran.code == 2
    assert "Error: --html: the HTML page needs jinja2, which is not installed; " in ran.err


# show


def test_show_prints_what_verify_prints(attnspec: Callable[..., Ran]) -> None:
    made = report(result("a"), result("grouped-float32", Status.FAIL, 3.0, message="wrong", clauses=("S12",)))
    write("r.jsonl", made)
    ran = attnspec("report", "show", "r.jsonl")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert "fail mine grouped-float32" in lines
    assert "  error / bound 3.00, profile fp32, clauses S12" in lines
    assert "does not conform: mine" in lines
    assert lines[-1].startswith("mine 1.2.3: ")
    assert lines[-1].endswith("; deviates: S12 (groups: 1 of 1 cases)")


def test_show_prints_the_diagnosis_and_its_script(attnspec: Callable[..., Ran]) -> None:
    causes = [diagnosis("b", cause=f"cause {i}", reproducer="print(1)\nprint(2)" if i else None) for i in range(5)]
    write("r.jsonl", report(result("a"), result("b", Status.FAIL, 3.0), diagnoses=tuple(causes)))
    lines = attnspec("report", "show", "r.jsonl", "--failures", "0").out.splitlines()
    assert [line for line in lines if "likely cause" in line] == [
        f"mine: likely cause of 1 of 1 failing cases: cause {i} (S12)" for i in range(3)
    ]
    assert "… and 2 more causes (--jsonl and --html hold all of them)" in lines
    assert lines[lines.index("    print(1)") + 1] == "    print(2)"
    assert "… and 1 more designs that fail (--failures N shows more)" in lines


def test_show_renders(attnspec: Callable[..., Ran]) -> None:
    write("r.jsonl", every_kind())
    assert attnspec("report", "show", "r.jsonl", "--markdown", "-").out.startswith("# attnspec verify\n")
    assert attnspec("report", "show", "r.jsonl", "--jsonl", "-").out == Path("r.jsonl").read_text(encoding="utf8")
    ran = attnspec("report", "show", "r.jsonl", "--html", "r.html", "--junit", "r.xml")
    assert ran.code == 0
    assert HOSTILE not in Path("r.html").read_text(encoding="utf8")
    assert Path("r.xml").read_text(encoding="utf8").startswith("<?xml")
    assert "\x1b[31m" not in ran.out


# merge and diff


def test_merge_writes_a_report(attnspec: Callable[..., Ran]) -> None:
    write("a.jsonl", report(result("a")))
    write("b.jsonl", report(result("a", Status.FAIL, 3.0, target="theirs")))
    assert attnspec("report", "merge", "a.jsonl", "b.jsonl", "-o", "both.jsonl").code == 0
    assert read_report(Path("both.jsonl")).targets() == ("mine", "theirs")
    assert attnspec("report", "merge", "a.jsonl", "b.jsonl", "-o", "-").out == Path("both.jsonl").read_text()


def test_diff_says_what_changed(attnspec: Callable[..., Ran]) -> None:
    write("a.jsonl", report(*(result(name) for name in "abcd"), result("e", Status.FAIL, 3.0)))
    worse = result("a", Status.FAIL, 3.0, message="at [0] got 1"), result("b", ratio=0.75), result("c"), result("e")
    write("b.jsonl", report(*worse))
    ran = attnspec("report", "diff", "a.jsonl", "b.jsonl")
    assert ran.code == 1
    assert [line.strip() for line in ran.out.splitlines()] == [
        "regressed: 1 (conformed, and does not any more)",
        "mine a: pass 0.25 → fail 3.00: at [0] got 1",
        "grown: 1 (error / bound grew by more than 2 times, to at least 0.1)",
        "mine b: pass 0.25 → pass 0.75",
        "vanished: 1 (has no result any more)",
        "mine d: pass 0.25",
        "mended: 1 (did not conform, and does now)",
        "mine e: fail 3.00 → pass 0.25",
        "3 worse, 1 better or new, 1 as before",
    ]
    assert attnspec("report", "diff", "a.jsonl", "a.jsonl").out == "0 worse, 0 better or new, 5 as before\n"
    assert attnspec("report", "diff", "a.jsonl", "a.jsonl").code == 0
    written = attnspec("report", "diff", "a.jsonl", "b.jsonl", "--json", "-")
    assert written.code == 1
    assert len(json.loads(written.out)["changes"]) == 4
    few = attnspec("report", "diff", "a.jsonl", "b.jsonl", "--limit", "0").out
    assert "  … and 1 more (--limit N shows more)" in few


BAD = {
    "no-file": ("show nothing.jsonl", "attnspec: nothing.jsonl: cannot be read: No such file or directory"),
    "truncated": (
        "show cut.jsonl",
        "attnspec: cut.jsonl: this report is truncated: its last line, 2, is not an end line",
    ),
    "newer": (
        "diff a.jsonl newer.jsonl",
        "attnspec: newer.jsonl: a report in format 2, and this attnspec reads format 1; update attnspec",
    ),
    "no-report": (
        "merge a.jsonl page.html -o x",
        "attnspec: page.html: not a report: its first line is not the header of one; attnspec verify --jsonl writes",
    ),
    "conflict": (
        "merge a.jsonl other.jsonl -o x",
        "attnspec: a.jsonl and other.jsonl cannot be merged: mine has different results of a: pass at 0.25 (fp32)",
    ),
    "other-vectors": (
        "merge a.jsonl vectors.jsonl -o x",
        "attnspec: a.jsonl and vectors.jsonl cannot be merged: they were made with different vectors: suite 0.1.0, ",
    ),
    "one-file": ("merge a.jsonl -o x", "Error: two reports or more can be merged; got a.jsonl"),
    "one-file-twice": (
        "merge a.jsonl ./a.jsonl -o x",
        "Error: two reports or more can be merged; got a.jsonl a.jsonl",
    ),
    "no-output": ("merge a.jsonl other.jsonl", "Error: Missing option '-o' / '--output'."),
    "no-folder": ("merge a.jsonl other.jsonl -o nowhere/x", "Error: --output: there is no folder nowhere"),
    "unknown": ("shrink", "Error: No such command 'shrink'."),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(arguments: str, message: str, attnspec: Callable[..., Ran]) -> None:
    write("a.jsonl", report(result("a")))
    write("other.jsonl", report(result("a", Status.FAIL, 3.0)))
    write("vectors.jsonl", report(result("a"), suite="9"))
    lines = Path("a.jsonl").read_text().splitlines()
    Path("cut.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    Path("newer.jsonl").write_text(lines[0].replace('"format": 1', '"format": 2') + "\n")
    Path("page.html").write_text("<!doctype html>\n")
    ran = attnspec("report", *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1].startswith(message)
    assert not Path("x").exists()


def test_a_script_that_cannot_be_made_loses_no_result(
    attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> str:
        raise RuntimeError("no luck")

    monkeypatch.setattr("attnspec.conformance.reproducer.Reproducer.__call__", broken)
    Path("mine.py").write_text(WRONG, encoding="utf8")
    assert attnspec("verify", "mine.py:attention", "--case", "grouped-float32", "--jsonl", "r.jsonl").code == 1
    (found,) = read_report(Path("r.jsonl")).diagnoses
    assert found.reproducer == "# no script could be made of grouped-float32: RuntimeError: no luck\n"


def test_the_script_of_a_diagnosis_runs_and_shows_the_fault(attnspec: Callable[..., Ran]) -> None:
    Path("mine.py").write_text(WRONG, encoding="utf8")
    assert attnspec("verify", "mine.py:attention", "--case", "grouped-float32", "--jsonl", "r.jsonl").code == 1
    (found,) = read_report(Path("r.jsonl")).diagnoses
    assert found.reproducer is not None
    Path("script.py").write_text(found.reproducer, encoding="utf8")
    finished = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("{'output': array(")

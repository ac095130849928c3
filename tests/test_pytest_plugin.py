"""The pytest plugin in other people's suites: each test here writes one, and runs pytest on it in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import frameworks

from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.pytest_cases import cases_of

ATTENTION = '''
import numpy as np
import pytest

def attention(query, key, value, *, mask=None, softcap=None):
    """Right but for five axes, the order of softcap and mask, and rows that see nothing."""
    if query.ndim == 5:
        raise NotImplementedError("five axes")
    if query.ndim == 4:
        key, value = (np.repeat(array, query.shape[1] // array.shape[1], axis=1) for array in (key, value))
    scores = query @ key.mT / np.sqrt(query.shape[-1]).astype(query.dtype)
    scores = scores if mask is None else np.where(mask, scores, -1e9).astype(query.dtype)
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value
'''
MINE = f"""{ATTENTION}
CASES = ["square", "tile-33", "softcap-causal", "scale-negative", "causal-rank-5"]

@pytest.mark.attnspec_cases(cases=[f"{{name}}-float32" for name in CASES])
def test_attention(attnspec_case):
    attnspec_case.check(attention)
"""


def run(
    folder: Path, source: str, *arguments: str, plugins: tuple[str, ...] | None = ("attnspec.pytest_plugin",)
) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file of tests, with nothing of this suite's settings, and only these plugins (None: all)."""
    (folder / "test_mine.py").write_text(source, encoding="utf8")
    given = [part for plugin in ("no:cacheprovider", *(plugins or ())) for part in ("-p", plugin)]
    command = [sys.executable, "-m", "pytest", *given, "--rootdir", str(folder), *arguments]
    environment = {**os.environ, **({} if plugins is None else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def outcomes(output: str) -> dict[str, str]:
    return dict(re.findall(r"^test_mine\.py::(\S+) (\w+)", output, re.MULTILINE))


def test_one_test_for_each_case(tmp_path: Path) -> None:
    finished = run(tmp_path, MINE, "-v", "-rs", "-W", "error", "--strict-markers", "--junitxml", "report.xml")
    assert finished.returncode == 1
    assert outcomes(finished.stdout) == {
        "test_attention[square-float32]": "PASSED",
        "test_attention[tile-33-float32]": "PASSED",
        "test_attention[softcap-causal-float32]": "FAILED",
        "test_attention[scale-negative-float32]": "SKIPPED",
        "test_attention[causal-rank-5-float32]": "FAILED",
    }
    assert "pytest_cases.py" in finished.stdout
    assert "the function takes no `scale`" in finished.stdout
    raised, wrong = re.findall(r"^attention on .*\n(?:  .*\n)*", finished.stdout, re.MULTILINE)
    assert re.fullmatch(
        r"attention on softcap-causal-float32: fail\n"
        r"  at \[\d, \d, \d, \d\] got \S+, expected \S+ ± \S+; \d+% of the elements are outside; .*\n"
        r"  error / bound: \S+ \(profile fp32; at most 1 passes\)\n"
        r"  clause S3 of the specification; dot_product_attention, forward, float32\n"
        r"  this test alone: pytest 'test_mine\.py::test_attention\[softcap-causal-float32\]'\n",
        wrong,
    )
    assert raised.startswith(
        "attention on causal-rank-5-float32: error\n  NotImplementedError: five axes\n  the case: "
    )
    assert "error / bound" not in raised

    cases = ElementTree.parse(tmp_path / "report.xml").getroot().iter("testcase")
    properties = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iter("property")} for case in cases
    }
    assert properties["test_attention[square-float32]"]["attnspec_status"] == "pass"
    assert 0 < float(properties["test_attention[square-float32]"]["attnspec_ratio"] or "") < 1
    assert properties["test_attention[softcap-causal-float32]"]["attnspec_status"] == "fail"
    assert properties["test_attention[scale-negative-float32]"]["attnspec_status"] == "unsupported"
    assert {one["attnspec_profile"] for one in properties.values()} == {"fp32"}


def test_the_line_that_a_failure_prints_runs_it_alone(tmp_path: Path) -> None:
    said = run(tmp_path, MINE, "-k", "softcap").stdout  # in CI pytest repeats the whole message in its summary
    (printed,) = set(re.findall(r"this test alone: pytest '(.*causal.*)'", said))
    alone = run(tmp_path, MINE, "-v", printed)
    assert outcomes(alone.stdout) == {"test_attention[softcap-causal-float32]": "FAILED"}


def test_on_several_workers(tmp_path: Path) -> None:
    finished = run(tmp_path, MINE, "-n", "2", "-q", plugins=("xdist", "attnspec.pytest_plugin"))
    assert "2 failed, 2 passed, 1 skipped" in finished.stdout
    assert "this test alone: pytest 'test_mine.py::test_attention[causal-rank-5-float32]'" in finished.stdout


def test_targets_by_name_and_profiles(tmp_path: Path) -> None:
    source = f"""{ATTENTION}
@pytest.mark.attnspec_cases(cases="softcap-causal-float32")
def test_by_name(attnspec_case):
    attnspec_case.check("test_mine.py:attention")

@pytest.mark.attnspec_cases(cases=["square-float32"])
class TestClass:
    def test_of_a_class(self, attnspec_case):
        result = attnspec_case.check("reference", profile="fp32_tf32")
        assert (result.case, result.profile) == (attnspec_case.case.id, "fp32_tf32")
        assert repr(attnspec_case) == "<CheckedCase square-float32>"

    @pytest.mark.attnspec_cases(clauses="S13", dtypes="float64", quick=False, directions="forward", levels="core")
    @pytest.mark.parametrize("other", [1, 2])
    def test_beside_another_parameter(self, other, attnspec_case):
        assert "S13" in attnspec_case.case.clauses

@pytest.mark.attnspec_cases(cases=["square-float32"])
def test_no_such_target(attnspec_case):
    attnspec_case.check("none")
"""
    finished = run(tmp_path, source, "-v")
    found = outcomes(finished.stdout)
    assert found["test_by_name[softcap-causal-float32]"] == "FAILED"
    assert "without pytest: attnspec verify test_mine.py:attention --case softcap-causal-float32" in finished.stdout
    assert found["TestClass::test_of_a_class[square-float32]"] == "PASSED"
    assert found["TestClass::test_beside_another_parameter[sinks-float64-1]"] == "PASSED"
    assert found["test_no_such_target[square-float32]"] == "FAILED"
    assert "TargetError: there is no target 'none'" in finished.stdout


def test_a_declared_function_of_a_framework(tmp_path: Path) -> None:
    frameworks.load("torch")
    source = """
import pytest
import torch
from attnspec.conformance import target

@target(framework="torch")
def attention(query, key, value, *, mask=None, scale=None):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

@pytest.mark.attnspec_cases(cases=["square-float32", "square-float64", "gradient-plain-float32", "softcap-float32"])
def test_attention(attnspec_case):
    attnspec_case.check(attention)
"""
    found = outcomes(run(tmp_path, source, "-v").stdout)
    assert found == {
        "test_attention[square-float32]": "PASSED",
        "test_attention[square-float64]": "PASSED",
        "test_attention[gradient-plain-float32]": "PASSED",
        "test_attention[softcap-float32]": "SKIPPED",
    }


WRONG = {
    "(dtype=['float32'])": "there is no selection 'dtype'; there are clauses, operations, ",
    "(['S7'])": "name what is selected, as in dtypes=['float32']; got ['S7'] without a name",
    "(clauses=['S99'])": "no case has 'S99' among its clauses; ",
    "(clauses='S22', dtypes='float32', operations='layer_norm')": "no case fits this selection",
    "(clauses=['S7'], cases='square-float32')  # none": "no case fits this selection",
}


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    for number, marker in enumerate(WRONG):
        source = f"import pytest\n\n@pytest.mark.attnspec_cases{marker}\ndef test_wrong(attnspec_case):\n    pass\n"
        (tmp_path / f"test_{number}.py").write_text(source, encoding="utf8")
    forgotten = 'import pytest\n\n@pytest.mark.attnspec_cases(clauses="S7")\ndef test_wrong():\n    pass\n'
    finished = run(tmp_path, forgotten)
    assert finished.returncode == 2
    said = re.findall(r"^@pytest\.mark\.attnspec_cases: (.*)", finished.stdout, re.MULTILINE)
    wanted = [*WRONG.values(), "test_wrong takes no `attnspec_case`"]
    assert [line.startswith(message) for line, message in zip(said, wanted, strict=True)] == [True] * len(wanted), said
    assert "Traceback" not in finished.stdout
    assert "INTERNALERROR" not in finished.stdout


def test_the_fixture_alone_says_what_is_missing(tmp_path: Path) -> None:
    finished = run(tmp_path, "def test_wrong(attnspec_case):\n    pass\n")
    assert finished.returncode == 1
    wanted = "`attnspec_case` stands in a test with @pytest.mark.attnspec_cases(…), and this one has none"
    assert wanted in finished.stdout


LOADED = """
import sys

def pytest_sessionfinish():
    watched = {"numpy", "torch", "tensorflow", "jax", "keras", "attnspec.conformance", "attnspec.pytest_plugin"}
    print("loaded:", *sorted(watched & {*sys.modules}))
"""


def test_it_loads_nothing_where_it_is_not_used_and_no_framework_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(LOADED, encoding="utf8")
    # Found by its entry point; other plugins of this environment load what they like.
    alone = ["-s", *(part for name in ("hypothesispytest", "jaxtyping", "xdist") for part in ("-p", f"no:{name}"))]
    unused = run(tmp_path, "def test_nothing():\n    pass\n", *alone, plugins=None)
    assert re.findall(r"loaded: (.*)", unused.stdout) == ["attnspec.pytest_plugin"]
    used = run(tmp_path, MINE, "-s")
    assert re.findall(r"loaded: (.*)", used.stdout) == ["attnspec.conformance attnspec.pytest_plugin numpy"]


def test_the_marker_is_listed(tmp_path: Path) -> None:
    assert "@pytest.mark.attnspec_cases(clauses, operations, " in run(tmp_path, "", "--markers").stdout


def test_cases_are_those_of_verify() -> None:
    assert cases_of((), {}) == [case.id for case in shipped_cases()]
    assert cases_of((), {"dtypes": "float16", "clauses": ["S13"], "directions": ("forward",)}) == [
        case.id
        for case in shipped_cases()
        if case.dtype == "float16" and "S13" in case.clauses and case.direction == "forward"
    ]

"""A folder of results as a target: what it holds is judged, what it lacks is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import Status, TargetError, verify
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.isolation import run_isolated
from attnspec.conformance.runner import Selection
from attnspec.conformance.targets import load_target
from attnspec.contract.tensor_files import write_tensors

Array = np.ndarray[Any, Any]

CASES = {case.id: case for case in shipped_cases()}
PLAIN, OTHER, PARTIAL, GRADIENT, CELL = (
    "grouped-float32",
    "causal-end-bfloat16",
    "logsumexp-bfloat16",
    "gradient-bias-heads-float32",
    "cell-padded-float32",
)


def right(case: str) -> dict[str, Array]:
    """Give what is expected, in the dtypes that a target has."""
    call, expected = CASES[case].call, CASES[case].expected
    allowed = {name: dtypes[0] for name, dtypes in load_target("reference").result_dtypes(call).items()}
    own = {name: call.tensors[name].dtype for name in expected if call.direction == "backward"}
    dtype = call.tensors[next(iter(call.tensors))].dtype
    wide = {"logsumexp": np.dtype(np.float32)}
    assert allowed.keys() == expected.keys()
    return {name: array.astype(own.get(name, wide.get(name, dtype))) for name, array in expected.items()}


def folder_of(path: Path, *cases: str) -> Path:
    for case in cases:
        (path / f"{case}.safetensors").write_bytes(write_tensors(right(case)))
    return path


def status_of(folder: Path, case: str) -> tuple[Status, str]:
    (result,) = verify(str(folder), cases=case).results
    return result.status, result.message


def test_right_results_conform(tmp_path: Path) -> None:
    cases = [PLAIN, OTHER, PARTIAL, GRADIENT, CELL]
    report = verify(f"{folder_of(tmp_path, *cases)}/", cases=cases)
    assert [(result.case, result.status, result.message) for result in report.results if result.message] == []
    assert {result.status for result in report.results} == {Status.PASS}
    assert len(report.results) == len(cases)


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PLAIN)
    report = run_isolated([f"{folder}"], Selection(cases=frozenset({PLAIN, OTHER})))
    assert {result.case: result.status for result in report.results} == {
        PLAIN: Status.PASS,
        OTHER: Status.UNSUPPORTED,
    }


def test_a_wrong_result_fails(tmp_path: Path) -> None:
    wrong = {name: array + array.dtype.type(0.001) for name, array in right(PLAIN).items()}
    (tmp_path / f"{PLAIN}.safetensors").write_bytes(write_tensors(wrong))
    assert status_of(tmp_path, PLAIN)[0] is Status.FAIL


def test_a_case_without_a_file_is_unsupported(tmp_path: Path) -> None:
    assert status_of(folder_of(tmp_path, PLAIN), OTHER) == (
        Status.UNSUPPORTED,
        f"no result for this case: there is no file {OTHER}.safetensors",
    )


def _without_a_result(path: Path) -> None:
    results = right(PARTIAL)
    del results["logsumexp"]
    path.write_bytes(write_tensors(results))


def _with_another_name(path: Path) -> None:
    results = right(PARTIAL)
    path.write_bytes(write_tensors({"output": results["output"], "lse": results["logsumexp"]}))


def _half(path: Path) -> None:
    path.write_bytes(write_tensors(right(PARTIAL))[:-7])


def _a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "status", "message"),
    [
        pytest.param(_without_a_result, Status.FAIL, "the logsumexp is missing", id="missing"),
        pytest.param(
            _with_another_name,
            Status.ERROR,
            "ValueError: {path} holds 'lse'; the results of this case are logsumexp, output",
            id="name",
        ),
        pytest.param(_half, Status.ERROR, "ValueError: {path}: not a safetensors file, or truncated (", id="truncated"),
        pytest.param(
            lambda path: path.write_bytes(b""), Status.ERROR, "ValueError: {path}: not a safetensors file", id="empty"
        ),
        pytest.param(
            _a_folder,
            Status.UNSUPPORTED,
            "no result for this case: there is no file logsumexp-bfloat16.safetensors",
            id="folder",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], Any], status: Status, message: str) -> None:
    path = tmp_path / f"{PARTIAL}.safetensors"
    folder_of(tmp_path, PLAIN)
    damage(path)
    found, said = status_of(tmp_path, PARTIAL)
    assert found is status
    assert said.startswith(message.format(path=path))


def test_the_result_of_another_case_fails(tmp_path: Path) -> None:
    (tmp_path / f"{PLAIN}.safetensors").write_bytes(write_tensors(right("square-float32")))
    found, said = status_of(tmp_path, PLAIN)
    assert found is Status.FAIL
    assert said.startswith("the output has shape (2, 3, 7, 5); expected (3, 6, 5, 4)")


def test_a_result_in_a_wrong_dtype_fails(tmp_path: Path) -> None:
    wide = {name: array.astype(np.float64) for name, array in right(PLAIN).items()}
    (tmp_path / f"{PLAIN}.safetensors").write_bytes(write_tensors(wide))
    assert status_of(tmp_path, PLAIN) == (Status.FAIL, "the output has dtype float64; expected float32 (S16)")


# The description.


def test_what_made_the_results(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PLAIN, OTHER)
    said = {"name": "my kernel", "version": "3", "profiles": {"bfloat16": "bf16_eager"}}
    (folder / "target.json").write_text(json.dumps(said), encoding="utf8")
    target = load_target(str(folder))
    assert (target.name, target.version, target.profiles) == ("my kernel", "my kernel 3", {"bfloat16": "bf16_eager"})
    results = verify(str(folder), cases=[PLAIN, OTHER]).results
    assert {(result.target, result.profile) for result in results} == {
        ("my kernel", "fp32"),
        ("my kernel", "bf16_eager"),
    }


def test_without_a_description_it_is_its_path(tmp_path: Path) -> None:
    target = load_target(str(folder_of(tmp_path, PLAIN)))
    assert (target.name, target.version, target.profiles) == (str(tmp_path), "folder of results", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"target.json cannot be read: Expecting property name"),
        ("[1]", r"target.json must hold an object with name, version and profiles; got \[1\]$"),
        ('{"nam": "x"}', r"target.json has a key 'nam'; there are name, version and profiles$"),
        ('{"name": ""}', r"target.json: name must be a text that is not empty; got ''$"),
        ('{"version": 2}', r"target.json: version must be a text that is not empty; got 2$"),
        ('{"profiles": "fp32"}', r"target.json: profiles must be names by dtype; got 'fp32'$"),
        ('{"profiles": {"float32": "fp64"}}', r"profiles of float32 must be 'fp32' or 'fp32_tf32'; got 'fp64'$"),
        ('{"profiles": {"half": "fp64"}}', r"target.json: profiles: a dtype must be 'float64', .*; got 'half'$"),
    ],
)
def test_a_description_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (folder_of(tmp_path, PLAIN) / "target.json").write_text(text, encoding="utf8")
    with pytest.raises(TargetError, match=message):
        load_target(str(tmp_path))


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here", encoding="utf8")
    with pytest.raises(TargetError, match=r"^the folder .* holds no results: there is no file <case id>\.safetensors$"):
        load_target(str(tmp_path))


def test_a_built_in_name_comes_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reference").mkdir()
    folder_of(tmp_path / "reference", PLAIN)
    monkeypatch.chdir(tmp_path)
    assert load_target("reference").version.startswith("NumPy")
    assert load_target("reference/").version == "folder of results"

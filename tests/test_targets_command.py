"""`attnspec targets`: every built-in target, with its version and what it can do, without importing a framework."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from attnspec.conformance import backends
from attnspec.conformance.backends import BACKEND_NAMES
from attnspec.conformance.calls import DTYPES
from attnspec.conformance.command_line import group
from attnspec.conformance.natives import NATIVES
from attnspec.conformance.operations import OPERATIONS


def printed(*arguments: str) -> str:
    ran = CliRunner().invoke(group, ["targets", *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def listed() -> dict[str, dict[str, Any]]:
    found = json.loads(printed("--json"))
    assert found["format"] == 1
    return {entry["name"]: entry for entry in found["targets"]}


def only_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_version", lambda name, _: np.__version__ if name == "numpy" else None)
    monkeypatch.setattr("attnspec.conformance.natives._version", lambda _: None)


def test_every_built_in_target_is_listed_once() -> None:
    assert tuple(listed()) == (*BACKEND_NAMES, *NATIVES)
    lines = printed().splitlines()
    for name in (*BACKEND_NAMES, *NATIVES):
        assert sum(line.split()[:1] == [name] for line in lines) == 1, name


def test_what_a_line_says() -> None:
    words = [line.split() for line in printed().splitlines()]
    assert ["target", "version", "operations", "dtypes", "gradients"] in words
    assert ["reference", "NumPy", np.__version__, "all", str(len(OPERATIONS)), "all", "yes"] in words
    (line,) = (line for line in words if line[:1] == ["onnx.reference"])
    assert line[-3:] == ["dot_product_attention", "all", "no"]


def test_json_says_everything() -> None:
    found = listed()
    assert found["reference"] == {
        "name": "reference",
        "kind": "backend",
        "what": "attnspec.reference",
        "framework": "NumPy",
        "version": f"NumPy {np.__version__}",
        "install": "pip install attnspec",
        "operations": list(OPERATIONS),
        "dtypes": list(DTYPES),
        "has_gradients": True,
        "conventions": [],
        "is_available": True,
    }
    for name, entry in NATIVES.items():
        assert found[name]["kind"] == "native"
        assert found[name]["what"] == entry.function
        assert found[name]["operations"] == list(entry.operations)
        assert found[name]["conventions"] == list(entry.conventions)
        assert found[name]["has_gradients"] is entry.has_gradients


def test_what_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    only_numpy(monkeypatch)
    lines = printed().splitlines()
    (line,) = (line for line in lines if line.split()[:1] == ["torch"])
    assert line.split()[1:3] == ["not", "installed"]
    assert "not installed: torch; install with: pip install 'attnspec[torch]'" in lines
    (line,) = (line for line in lines if line.endswith("install with: pip install torch"))
    assert line.startswith("not installed: torch.sdpa, torch.sdpa.math, ")
    found = listed()
    assert [name for name, entry in found.items() if entry["is_available"]] == ["reference"]
    assert found["jax"]["version"] is None


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from attnspec.conformance.command_line import group;"
        "ran = CliRunner().invoke(group, ['targets']); assert ran.exit_code == 0, ran.output;"
        "found = {'torch', 'tensorflow', 'jax', 'keras', 'onnx', 'onnxruntime', 'flax'} & sys.modules.keys();"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

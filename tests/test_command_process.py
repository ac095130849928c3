"""The installed script `attnspec`, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def script(*arguments: str, code: str = "main()") -> subprocess.CompletedProcess[str]:
    source = (
        f"import sys; sys.argv[1:] = {list(arguments)!r}; from attnspec.conformance.command_line import main; {code}"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["targets"], ["verify", "--help"]], ids=" ".join)
def test_help_and_targets_import_no_framework(arguments: list[str]) -> None:
    loaded = (
        "main(); print(sorted(set(sys.modules) & {'torch', 'tensorflow', 'jax', 'keras', 'flax'}), file=sys.stderr)"
    )
    ran = script(*arguments, code=loaded)
    assert ran.returncode == 0
    assert ran.stderr == "[]\n"


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("reference", 0, "reference: conforms"),
        ("mine.py:attention", 1, "does not conform: mine.py:attention"),
        ("torhc", 2, "attnspec: there is no target 'torhc'"),
    ],
    ids=["conforms", "fails", "wrong-usage"],
)
def test_exit_codes_of_a_process(
    target: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def attention(query, key, value):\n    return 0 * query\n", encoding="utf8")
    ran = script("verify", target, "--case", "square-float32")
    assert ran.returncode == code
    assert said in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr

"""Commands that misbehave, end, hang or do not start: each gets its status and the line that was wrong."""

from __future__ import annotations

import contextlib
import gc
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile_command
import pytest

from attnspec.conformance import exec_process
from attnspec.conformance.exec_target import ExecTarget
from attnspec.conformance.isolation import run_isolated
from attnspec.conformance.results import Report, Result, Status
from attnspec.conformance.runner import Selection, verify
from attnspec.conformance.targets import TargetError, load_target

AROUND = ("square-float32", "grouped-float32", "multi-query-float32")
BAD = "grouped-float32"


def hostile(way: str, *arguments: str) -> str:
    script = Path(__file__).parent / "hostile_command.py"
    return "exec:" + shlex.join([sys.executable, str(script), way, *arguments])


def by_case(report: Report) -> dict[str, Result]:
    return {result.case: result for result in report.results}


# What a command may not answer. The line is the fourth: one to start, and two to the two calls of the case before.

DONE = """'{"type": "done", "id": 3"""
NO_FILE = "ProtocolError: line 4 of its output says done, but "
WRONG: dict[str, tuple[Status, str]] = {
    "garbage": (Status.ERROR, r"ProtocolError: line 4 of its output is not JSON: '\x1b[1mready'"),
    "not-utf8": (Status.ERROR, "ProtocolError: line 4 of its output is not UTF-8: '\ufffd\ufffd'"),
    "not-an-object": (Status.ERROR, "ProtocolError: line 4 of its output is not a JSON object: '[1]'"),
    "empty-line": (Status.ERROR, "ProtocolError: line 4 of its output is not JSON: ''"),
    "deep": (Status.ERROR, f"ProtocolError: line 4 of its output is not JSON: '{'[' * 60}'…"),
    "without-end": (
        Status.ERROR,
        f"ProtocolError: line 4 of its output is longer than 1048576 bytes: '{'x' * 60}'…",
    ),
    "wrong-id": (
        Status.ERROR,
        """ProtocolError: line 4 of its output answers message 99; the last one was 3: '{"type": "done", "id": 99}'""",
    ),
    "id-of-text": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output does not fit the protocol: '3' is not of type 'integer' at $.id: "
            """'{"type": "done", "id": "3"}'"""
        ),
    ),
    "without-id": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output does not fit the protocol: 'id' is a required property at $: "
            """'{"type": "done"}'"""
        ),
    ),
    "long-type": (
        Status.ERROR,
        (
            f"ProtocolError: line 4 of its output has the type '{'x' * 59}…; expected done or unsupported or error: "
            f"""'{{"type": "{"x" * 50}'…"""
        ),
    ),
    "wrong-type": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output has the type 'finished'; expected done or unsupported or error: "
            """'{"type": "finished", "id": 3}'"""
        ),
    ),
    "answer-to-start": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output has the type 'started'; expected done or unsupported or error: "
            """'{"type": "started", "id": 3}'"""
        ),
    ),
    "unknown-member": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output does not fit the protocol: Additional properties are not allowed "
            f"('seconds' was unexpected) at $: {DONE}, \"seconds\": 3}}'"
        ),
    ),
    "no-reason": (
        Status.ERROR,
        (
            "ProtocolError: line 4 of its output does not fit the protocol: 'reason' is a required property at $: "
            """'{"type": "unsupported", "id": 3}'"""
        ),
    ),
    "twice": (
        Status.ERROR,
        f"ProtocolError: line 5 of its output answers nothing that it was asked: {DONE}}}'",
    ),
    "ends": (Status.CRASH, "the command ended with exit code 7 behind line 3 of its output"),
    "dies": (Status.CRASH, "the command ended by signal SIGSEGV behind line 3 of its output"),
    "ends-in-a-line": (Status.ERROR, """ProtocolError: line 4 of its output breaks off: '{"type": "do'"""),
    "closes": (
        Status.ERROR,
        "ProtocolError: its output or input was closed behind line 3, and an answer was due",
    ),
    "nothing-written": (Status.ERROR, f"{NO_FILE}there is no file of results"),
    "folder-written": (Status.ERROR, f"{NO_FILE}the file of results cannot be read: Is a directory"),
    "truncated": (Status.ERROR, f"{NO_FILE}the file of results is wrong: not a safetensors file, or truncated ("),
    "not-safetensors": (Status.ERROR, f"{NO_FILE}the file of results is wrong: not a safetensors file, or truncated ("),
    "empty-file": (Status.ERROR, f"{NO_FILE}the file of results is wrong: not a safetensors file, or truncated ("),
    "wrong-name": (Status.ERROR, f"{NO_FILE}the file of results holds out; expected output"),
    "one-more": (Status.ERROR, f"{NO_FILE}the file of results holds logsumexp, output; expected output"),
    "changes-input": (Status.FAIL, "the target changed the file of its tensors (S17)"),
    "removes-input": (Status.FAIL, "the target changed the file of its tensors (S17)"),
    "error": (Status.ERROR, "CommandError: no kernel for\nsix \\x1b[1mheads"),
    "unsupported": (Status.UNSUPPORTED, "six heads are too many"),
}


@pytest.mark.parametrize("way", WRONG)
def test_misbehaviour_is_a_result_and_the_run_goes_on(
    way: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exec_process, "SECONDS_TO_END", 0.2)
    results = by_case(verify(hostile(way), cases=AROUND))
    status, message = WRONG[way]
    assert results[BAD].status is status
    assert results[BAD].message.startswith(message) if message.endswith("(") else results[BAD].message == message
    assert [results[case].status for case in AROUND if case != BAD] == [Status.PASS, Status.PASS]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("six heads\n")


def test_every_way_is_tested() -> None:
    assert hostile_command.WAYS.keys() == WRONG.keys() | {"hangs", "allocates"}


def test_isolated_commands(capfd: pytest.CaptureFixture[str]) -> None:
    before = commands_that_run()
    ways = ("hangs", "ends", "garbage")
    selection = Selection(cases=frozenset(AROUND))
    report = run_isolated([hostile(way) for way in ways], selection, seconds_per_case=3.0)
    found = {
        (way, result.case): (result.status, result.message)
        for way in ways
        for result in report.results
        if result.target == hostile(way)
    }
    assert {case: found.pop((way, case))[0] for way in ways for case in AROUND[::2]} == dict.fromkeys(
        AROUND[::2], Status.PASS
    )
    assert found == {
        ("hangs", BAD): (Status.TIMEOUT, "no answer within 3 s"),
        ("ends", BAD): WRONG["ends"],
        ("garbage", BAD): WRONG["garbage"],
    }
    assert "six heads" in capfd.readouterr().err
    assert commands_that_run() <= before  # what hung was killed


def commands_that_run() -> set[str]:
    """Return the processes of this file's commands, where the system lists them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"hostile_command.py" in (folder / "cmdline").read_bytes():
                found.add(folder.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process holds")
def test_the_memory_of_a_command_is_limited() -> None:
    selection = Selection(cases=frozenset(AROUND))
    results = by_case(run_isolated([hostile("allocates")], selection, megabytes=256))
    assert [results[case].status for case in AROUND] == [Status.PASS, Status.CRASH, Status.PASS]
    assert results[BAD].message == "the command ended with exit code 1 behind line 3 of its output"


def test_a_command_is_told_to_stop(tmp_path: Path) -> None:
    target = ExecTarget(hostile("ends", str(tmp_path / "stopped")))
    assert target.version == "plain Python attention 1.0 (Python)"
    del target
    gc.collect()
    assert (tmp_path / "stopped").read_text(encoding="utf8") == "stopped"


def test_calls_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verify(hostile("ends"), cases=AROUND)
    assert [*tmp_path.iterdir()] == []


# Commands that do not start.

STARTED = {
    "type": "started",
    "id": 0,
    "protocol": 1,
    "name": "n",
    "version": "v",
    "language": "l",
    "operations": {"dot_product_attention": {"dtypes": ["float32"]}},
}


def says(**changes: Any) -> str:
    return f"print({json.dumps({**STARTED, **changes})!r}, flush=True); input()"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "raise SystemExit(3)", "the command ended with exit code 3 behind line 0 of its output", id="ends"
        ),
        pytest.param("print('hello')", "line 1 of its output is not JSON: 'hello'", id="greets"),
        pytest.param(says(protocol=2), "line 1 of its output speaks protocol 2; this attnspec speaks 1: ", id="newer"),
        pytest.param(says(name=""), "line 1 of its output does not fit the protocol: '' ", id="no-name"),
        pytest.param(
            says(name="a\x1b[1mb"), "line 1 of its output does not fit the protocol: 'a\\x1b[1mb' does not", id="escape"
        ),
        pytest.param(says(operations={}), "line 1 of its output does not fit the protocol: {} ", id="no-operation"),
        pytest.param(
            says(operations={"attention": {"dtypes": ["float32"]}}),
            "line 1 of its output names the operation 'attention'; there are dot_product_attention, ",
            id="unknown-operation",
        ),
        pytest.param(
            says(operations={"dot_product_attention": {"dtypes": ["float8"]}}),
            "line 1 of its output does not fit the protocol: 'float8' is not one of ['float64', 'float32', 'bfloat16', "
            "'float16'] at $.operations.dot_product_attention.dtypes[0]: ",
            id="unknown-dtype",
        ),
        pytest.param(
            says(operations={"dot_product_attention": {"dtypes": ["float32"], "options": ["causal"]}}),
            "line 1 of its output names the option 'causal' of dot_product_attention; there are mask, bias, ",
            id="unknown-option",
        ),
        pytest.param(
            says(profiles={"float32": "bf16_eager"}),
            "line 1 of its output names the profile 'bf16_eager' of float32; there are fp32, fp32_tf32",
            id="wrong-profile",
        ),
        pytest.param(
            'print(\'{"type": "error", "id": 0, "text": "no device"}\', flush=True); input()',
            "it refuses to start: no device",
            id="refuses",
        ),
    ],
)
def test_a_command_that_does_not_introduce_itself(source: str, message: str) -> None:
    spec = "exec:" + shlex.join([sys.executable, "-c", source])
    with pytest.raises(TargetError) as caught:
        load_target(spec)
    prefix = f"target {spec!r} does not speak the protocol: "
    assert str(caught.value).removeprefix(prefix).startswith(message), caught.value


def test_declared_profiles_are_the_targets() -> None:
    declared = load_target("exec:" + shlex.join([sys.executable, "-c", says(profiles={"bfloat16": "bf16_eager"})]))
    assert declared.profiles == {"bfloat16": "bf16_eager"}
    assert declared.version == "n v (l)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("exec:", "target 'exec:' names no command; say exec: and the command, as in", id="empty"),
        pytest.param(
            "exec:./none", "target 'exec:./none' cannot be started: No such file or directory: ./none", id="none"
        ),
        pytest.param("exec:/", "target 'exec:/' cannot be started: Permission denied: /", id="folder"),
        pytest.param("exec:'a", 'target "exec:\'a" cannot be read as a command: No closing quotation', id="quote"),
    ],
)
def test_a_command_that_cannot_be_started(spec: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(spec)
    assert str(caught.value).startswith(message)


def test_exit_codes() -> None:
    def run(spec: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from attnspec.conformance.command_line import main; main()", "verify"]
        return subprocess.run([*program, spec, "--case", BAD], capture_output=True, text=True, check=False)

    failed, unknown = run(hostile("garbage")), run("exec:./none")
    assert failed.returncode == 1
    assert "line 4" not in failed.stdout  # the case stands alone here, so that it is the second
    assert "ProtocolError: line 2 of its output is not JSON: '\\x1b[1mready'" in failed.stdout
    assert "six heads" in failed.stderr
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == ("attnspec: target 'exec:./none' cannot be started: No such file or directory: ./none\n")

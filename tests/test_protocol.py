"""The process protocol: what a command is sent, what it may answer, and what becomes of everything else."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from attnspec.conformance.calls import Call
from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.protocol import (
    ATTENTIONS,
    KEYWORDS,
    arguments_of,
    misfit_of,
    options_needed,
    run_message,
    schema,
)
from attnspec.conformance.results import Status
from attnspec.conformance.runner import verify
from attnspec.conformance.targets import load_target
from attnspec.contract import causal, key_lengths, predicate, segments

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples" / "protocol"
CASES = {case.id: case for case in shipped_cases()}


def command(script: Path, *arguments: str) -> str:
    return "exec:" + shlex.join([sys.executable, str(script), *arguments])


# Two targets that know nothing of attnspec.


@pytest.fixture(scope="module")
def c_target(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: `cc` is not found")
    program = tmp_path_factory.mktemp("a folder") / "c_target"  # whose name must be quoted
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2"]
    subprocess.run(["cc", *flags, "-o", str(program), str(EXAMPLES / "target.c"), "-lm"], check=True)
    return "exec:" + shlex.quote(str(program))


def own(dtype: str) -> list[str]:
    """Return every forward case of attention itself in a dtype that needs no more than the options of the examples."""
    return [
        case.id
        for case in shipped_cases()
        if (case.operation, case.direction, case.dtype) == ("dot_product_attention", "forward", dtype)
        and not (case.options.get("sinks") or case.options.get("dropout"))
    ]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_example_in_python_conforms(dtype: str) -> None:
    cases = [case for case in own(dtype) if dtype == "float32" or CASES[case].tensors["query"].size < 300]
    report = verify(command(EXAMPLES / "target.py"), cases=cases)
    assert len(cases) > 30
    assert {result.status for result in report.results} <= {Status.PASS, Status.QUALITY_WARNING}
    assert report.versions[command(EXAMPLES / "target.py")] == "plain Python attention 1.0 (Python)"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_example_in_c_conforms(c_target: str, dtype: str) -> None:
    report = verify(c_target, dtypes=dtype, operations="dot_product_attention", directions="forward")
    assert report.failures() == ()
    assert {*own(dtype)} == {result.case for result in report.results if result.status is not Status.UNSUPPORTED}
    assert report.versions[c_target] == "C attention 1.0 (C)"


def test_partial_results_of_the_example_in_python() -> None:
    wanted = [case.id for case in shipped_cases() if case.operation == "attention_with_logsumexp"]
    report = verify(command(EXAMPLES / "target.py"), cases=wanted, directions="forward")
    assert {result.status for result in report.results} == {Status.PASS}
    assert {result.dtype for result in report.results} == {"float64", "float32", "bfloat16", "float16"}


def test_what_an_example_has_not_declared_is_unsupported(c_target: str) -> None:
    wanted = {
        "square-bfloat16": "the command takes no bfloat16",
        "sinks-float32": "the command takes no `sinks`",
        "gradient-plain-float32": "the command has no backward direction of dot_product_attention",
        "multi-head-float32": "the command has dot_product_attention alone",
    }
    results = verify(c_target, cases=wanted).results
    assert {result.case: (result.status, result.message) for result in results} == {
        case: (Status.UNSUPPORTED, reason) for case, reason in wanted.items()
    }


def test_the_example_in_c_says_what_it_cannot_read(c_target: str, tmp_path: Path) -> None:
    program = shlex.split(c_target.removeprefix("exec:"))
    damaged = tmp_path / 'damaged "é😀".safetensors'
    damaged.write_bytes((200).to_bytes(8, "little") + b"{}")
    run = {"type": "run", "options": {}, "results": ["output"], "write": str(tmp_path / "out")}
    requests = [{**run, "id": 1, "tensors": str(tmp_path / "none")}, {**run, "id": 2, "tensors": str(damaged)}]
    given = "\n".join(map(json.dumps, requests))
    said = subprocess.run(program, input=given, capture_output=True, text=True, check=True).stdout
    first, second = map(json.loads, said.splitlines())
    assert first == {"type": "error", "id": 1, "text": f"cannot read {tmp_path / 'none'}"}
    assert second == {"type": "error", "id": 2, "text": "the file of tensors is truncated"}


def test_every_operation_comes_through_in_both_directions() -> None:
    one_each: dict[tuple[object, ...], str] = {}
    for case in shipped_cases():
        options = tuple(name for name, value in case.options.items() if value)
        one_each.setdefault((case.operation, case.direction, case.operation in ATTENTIONS and options), case.id)
    report = verify(command(TESTS / "command_of_reference.py"), cases=one_each.values())
    assert len(one_each) > 60
    assert {result.status for result in report.results} <= {Status.PASS, Status.QUALITY_WARNING}


@pytest.mark.parametrize("missing", [*KEYWORDS[-6:]])
def test_what_a_command_does_not_take_arrives_in_the_mask(missing: str) -> None:
    masked = ["causal-end", "window-causal", "key-lengths", "both-lengths", "segments-cross", "segments-causal"]
    cases = [f"{name}-float32" for name in masked]
    report = verify(command(TESTS / "command_of_reference.py", missing), cases=cases)
    assert {result.case: result.status for result in report.results} == dict.fromkeys(cases, Status.PASS)


# What a command is sent.


@pytest.mark.parametrize(
    ("identifier", "accepted", "options", "shapes"),
    [
        pytest.param("square-float32", (), {}, {}, id="nothing"),
        pytest.param("causal-end-float32", (), {}, {"mask": (1, 1, 5, 11)}, id="folded"),
        pytest.param("causal-end-float32", ("causal_offset",), {"causal_offset": 6}, {}, id="causal"),
        pytest.param(
            "window-causal-float32",
            ("causal_offset", "window"),
            {"causal_offset": 0, "window": [4, None]},
            {},
            id="window",
        ),
        pytest.param("scale-negative-float32", ("key_lengths",), {"scale": -0.5}, {"key_lengths": (3,)}, id="lengths"),
        pytest.param("softcap-float32", (), {"softcap": 1.5}, {}, id="softcap"),
    ],
)
def test_a_call_becomes_options_and_tensors(
    identifier: str, accepted: tuple[str, ...], options: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    case = CASES[identifier]
    arguments = arguments_of(case, case.tensors, accepted)
    assert arguments.options == options
    added = {name: arguments.tensors[name] for name in arguments.tensors.keys() - {"query", "key", "value"}}
    assert {name: len(array.shape) for name, array in added.items()} == {name: len(s) for name, s in shapes.items()}
    assert {str(array.dtype) for name, array in added.items() if name == "mask"} <= {"bool"}
    assert {str(array.dtype) for name, array in added.items() if name == "key_lengths"} <= {"int64"}
    assert {*options_needed(case, arguments)} == {*options, *shapes}


def _attention(options: dict[str, Any], results: tuple[str, ...] = ("output",), **tensors: Any) -> Call:
    operands = dict.fromkeys(("query", "key", "value"), np.ones((2, 1, 3, 4)))
    direction = "forward" if results == ("output",) else "backward"
    about = {"id": "own", "operation": "dot_product_attention", "dtype": "float64", "direction": direction}
    return Call(options=options, tensors={**operands, **tensors}, results=results, **about)


def test_integers_are_sent_in_one_width() -> None:
    ids = np.array([0, 0, 1], np.int32)
    call = _attention({"mask": segments(ids, ids) & key_lengths(np.array([1, 3], np.int32))})
    tensors = arguments_of(call, call.tensors, KEYWORDS).tensors
    sent = {name: tensors[name] for name in ("key_lengths", "query_segments", "key_segments")}
    assert {array.dtype for array in sent.values()} == {np.dtype(np.int64)}
    assert {name: array.tolist() for name, array in sent.items()} == {
        "key_lengths": [1, 3],
        "query_segments": [[0, 0, 1]] * 2,
        "key_segments": [[0, 0, 1]] * 2,
    }


def test_the_gradient_of_a_bias_loses_the_axes_that_it_was_sent_with() -> None:
    bias, cotangent = np.arange(9.0).reshape(3, 3), np.arange(24.0).reshape(2, 1, 3, 4)
    call = _attention({"bias": True}, ("bias", "query"), bias=bias, output_cotangent=cotangent)
    assert arguments_of(call, call.tensors, KEYWORDS).tensors["bias"].shape == (1, 1, 3, 3)
    results = load_target(command(TESTS / "command_of_reference.py")).run(call, dict(call.tensors))
    assert {name: result.shape for name, result in results.items()} == {"bias": (3, 3), "query": (2, 1, 3, 4)}


def test_other_operations_get_what_the_vector_holds() -> None:
    case = CASES["multi-head-float32"]
    arguments = arguments_of(case, case.tensors, ())
    assert arguments.options == {name: value for name, value in case.options.items() if value not in (None, False)}
    assert arguments.tensors.keys() == case.tensors.keys()
    assert options_needed(case, arguments) == tuple(arguments.options)


def test_mask_objects_are_written_as_json() -> None:
    call = _self_attention(causal() & key_lengths(2))
    assert arguments_of(call, call.tensors, ()).options["mask"] == {
        "kind": "and",
        "masks": [{"kind": "causal", "offset": None}, {"kind": "key_lengths", "lengths": 2}],
    }


def test_a_mask_of_code_is_unsupported() -> None:
    target = load_target(command(TESTS / "command_of_reference.py"))
    reason = target.unsupported(_self_attention(predicate("odd", lambda query, key: (query + key) % 2 == 1)))
    assert reason is not None
    assert reason.startswith("the call cannot be written as JSON: ")


def _self_attention(mask: Any) -> Call:
    tensors = {"inputs": np.zeros((3, 2)), **{f"{part}_weight": np.eye(2) for part in ("query", "key", "value")}}
    about = {"id": "own", "operation": "self_attention", "dtype": "float64", "results": ("output",)}
    return Call(options={"mask": mask}, tensors=tensors, **about)


def one_of_each_operation() -> list[Case]:
    return [*{(case.operation, case.direction): case for case in shipped_cases()}.values()]


@pytest.mark.parametrize("case", one_of_each_operation(), ids=lambda case: case.id)
def test_what_is_sent_fits_the_schema(case: Case) -> None:
    arguments = arguments_of(case.call, case.tensors, KEYWORDS)
    message = json.loads(json.dumps(run_message(case.call, arguments.options, 1, Path("given"), Path("wanted"))))
    assert misfit_of(message, "run") is None
    assert not {"expected", "ratio", "bound"} & message.keys()
    assert message["results"] == list(case.results)


def test_the_schema_is_one_and_knows_each_message() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    messages: list[dict[str, Any]] = [
        {"type": "start", "id": 0, "protocol": 1},
        {"type": "stop"},
        {"type": "done", "id": 4},
        {"type": "error", "id": 4, "text": "no memory"},
        {"type": "unsupported", "id": 4, "reason": "an odd size"},
    ]
    assert [validator.is_valid(message) for message in messages] == [True] * 5
    assert [validator.is_valid({**message, "type": "end"}) for message in messages] == [False] * 5

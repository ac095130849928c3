"""`attnspec compare`: what it prints, its exit codes, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frameworks
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner, Result

from attnspec.conformance.cases import DTYPES
from attnspec.conformance.compare_command import compare_command
from attnspec.conformance.example_files import template_text
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.tensor_files import read_tensors, write_tensors

PAGE = Path(__file__).parents[1] / "docs" / "compare.md"

MINE = """
import numpy as np

def right(query, key, value, *, mask=None):
    print("a target may print")
    scores = query @ key.mT / query.shape[-1] ** 0.5
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value

def without_scale(query, key, value):
    return right(query * query.shape[-1] ** 0.5, key, value)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in a folder of its own that holds two implementations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture(scope="module")
def all_four() -> list[str]:
    """The names of the reference and the three backends; skips where a framework is missing, and fails in CI."""
    for name in frameworks.MODULES:
        frameworks.load(name)
    return list(frameworks.MODULES)


def run(*args: str) -> Result:
    # The command changes its own environment; here that of the whole test process, so it is put back.
    kept = {name: os.environ.get(name) for name in ("JAX_ENABLE_X64", "TF_CPP_MIN_LOG_LEVEL")}
    result = CliRunner(env=kept).invoke(compare_command, list(args), prog_name="attnspec compare")
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def save(path: str = "inputs.npz", queries: int = 5, **changes: Any) -> str:
    """Write a valid .npz file of 5 keys, changed by the arguments (None: left out)."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "query": rng.standard_normal((queries, 4)),
        "key": rng.standard_normal((5, 4)),
        "value": rng.standard_normal((5, 3)),
    }
    np.savez(path, **{name: value for name, value in (tensors | changes).items() if value is not None})
    return path


def save_json(text: str | None = None, path: str = "inputs.json", **changes: Any) -> str:
    """Write a .json file: this text, or a valid one changed by the arguments."""
    data = {"query": [[0.1, 0.2]], "key": [[0.3, 0.4], [0.5, 0.6]], "value": [[1.0], [2.0]]} | changes
    Path(path).write_text(json.dumps(data) if text is None else text)
    return path


# What it prints


def test_the_fox_shows_every_framework_the_weights_and_the_output(all_four: list[str]) -> None:
    result = run("--example", "fox")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    lines = [line.split() for line in result.stdout.splitlines()]
    rows = {line[0]: line for line in lines if line and line[-1] == "agrees"}
    assert list(rows) == all_four
    assert all(0.0 <= float(line[-4]) < 1.0 for line in rows.values())  # error / bound, time, ms, verdict
    assert ["The", "0.231574", "0.243447", "0.255929", "0.269050", "1.000000"] in lines
    assert ["fox", "0.210379", "0.234842", "0.262149", "0.292631", "1.000000"] in lines
    assert ["quick", "1.0587378748", "1.1587378748", "1.2587378748", "1.3587378748"] in lines
    assert "agreement: every output is within its bound of the reference" in result.stdout


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize("dtype", DTYPES)
def test_minilm_agrees_in_every_dtype(dtype: str) -> None:
    result = run("--example", "minilm", "--dtype", dtype, "--json", "-")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert (data["agrees"], data["dtype"], data["source"]) == (True, dtype, "example minilm")
    assert [row["status"] for row in data["rows"]] == ["pass"] * 4
    assert max(row["ratio"] for row in data["rows"]) < 0.8


def test_a_missing_scale_exits_with_1_and_shows_how_far_it_is_off() -> None:
    result = run("--example", "fox", "--target", "mine.py:without_scale", "--target", "mine.py:right")
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if "mine.py:without_scale" in line)
    assert re.search(r"1\.34e-02 +7\.2e\+12 +output +[\d.e-]+ ms +differs", line)
    # Softmax of q·k without 1/2: the last token's output is 1.0771297303 where 1.0637030775 is right.
    assert "mine.py:without_scale: at [3, 0] got 1.07712973, expected 1.06370308 ± " in result.stdout
    assert "100% of the elements are outside" in result.stdout
    assert "disagreement: mine.py:without_scale" in result.stdout
    assert "a target may print" not in result.stdout  # it went to standard error
    assert re.search(r"mine.py:right .* agrees", result.stdout)


def test_json_goes_to_a_file_beside_the_table_or_to_standard_output_instead_of_it() -> None:
    save()
    both = run("inputs.npz", "--target", "mine.py:without_scale", "--json", "result.json")
    alone = run("inputs.npz", "--target", "mine.py:without_scale", "--json", "-")
    assert (both.exit_code, alone.exit_code) == (1, 1)
    assert "disagreement: mine.py:without_scale" in both.stdout
    written, printed = json.loads(Path("result.json").read_text()), json.loads(alone.stdout)
    for data in (written, printed):
        row = data["rows"][1]
        assert (row["target"], row["status"], row["first_difference"]) == ("mine.py:without_scale", "fail", "output")
        assert row["ratio"] > 1e6
        row["seconds"] = data["rows"][0]["seconds"] = None
    assert written == printed


@pytest.mark.parametrize(
    ("options", "mask", "tokens"),
    [
        pytest.param(["--causal"], "causal()", 5, id="causal"),
        pytest.param(["--causal=2"], "causal(offset=2)", 3, id="offset"),
        pytest.param(["--causal", "end"], "causal(offset='end')", 3, id="end-apart"),
        pytest.param(["--causal=-1"], "causal(offset=-1)", 3, id="negative"),
        pytest.param(["--causal", "-1"], "causal(offset=-1)", 3, id="negative-apart"),
        pytest.param(["--window", "2,0,end"], "sliding_window(left=2, right=0, offset='end')", 3, id="window-offset"),
        pytest.param(["--window", ",2"], "sliding_window(right=2)", 5, id="window-right"),
        pytest.param(
            ["--window", "4,", "--causal=1"],
            "causal(offset=1) & sliding_window(left=4, offset=1)",
            3,
            id="window-shares-the-offset",
        ),
        pytest.param(
            ["--key-lengths", "4", "--query-lengths", "2"], "key_lengths(4) & query_lengths(2)", 3, id="lengths"
        ),
    ],
)
def test_mask_options(options: list[str], mask: str, tokens: int) -> None:
    save(queries=tokens)
    for args in ([*options, "inputs.npz"], ["inputs.npz", *options]):
        result = run(*args, "--target", "mine.py:right")
        assert f"in float64, mask {mask}, profile fp64" in result.stdout
        assert result.exit_code in (0, 1)  # `right` divides 0 by 0 in empty rows


def test_lengths_of_a_batch_and_the_mask_of_the_file_hold_together() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 3, 4)) for _ in range(3))
    save(query=query, key=key, value=value, mask=np.tri(3, dtype=bool))
    result = run("inputs.npz", "--key-lengths", "3,1", "--target", "mine.py:right", "--output", "out.safetensors")
    assert result.exit_code == 0
    assert "mask <boolean array of shape (3, 3)> & key_lengths([3, 1])" in result.stdout
    output = read_tensors(Path("out.safetensors").read_bytes())["mine.py:right"]
    np.testing.assert_array_equal(output[1], np.broadcast_to(value[1, :1], (3, 4)))  # only one key is real


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_template_runs_with_the_command_that_it_prints(operation: str) -> None:
    written = run("--template", operation, "example.json")
    assert written.exit_code == 0
    command = written.stdout.strip().partition("run it with: attnspec compare ")[2]
    result = run(*command.split())
    assert result.exit_code == 0
    assert result.stdout.count(" agrees") == 4
    printed = run("--template", operation)
    assert printed.stdout == template_text(operation) == Path("example.json").read_text()


@pytest.mark.parametrize("suffix", ["npz", "json", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_format_gives_the_same_inputs(suffix: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((4, 4)).astype(DTYPES[dtype]) for name in ("query", "key", "value")}
    options = []
    if suffix == "npz":
        save(**{name: tensor.astype(np.float64) for name, tensor in tensors.items()})
        options = ["--dtype", dtype]
    elif suffix == "json":
        save_json(**{name: tensor.astype(np.float64).tolist() for name, tensor in tensors.items()}, dtype=dtype)
    else:
        Path("inputs.safetensors").write_bytes(write_tensors(tensors))
    result = run(f"inputs.{suffix}", *options, "--target", "reference", "--json", "-")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["dtype"] == dtype
    Path("again.safetensors").write_bytes(write_tensors(tensors))
    again = run("again.safetensors", "--target", "reference", "--json", "-")
    assert data["inputs"] == json.loads(again.stdout)["inputs"]


def test_tokens_name_the_positions_of_any_json_input() -> None:
    square = [[1.0, 0.0], [0.0, 1.0]]
    save_json(query=square, key=square, value=square, tokens=["left", "right [x]"])
    result = run("inputs.json", "--target", "reference", "--scale", "0")
    assert [line.split() for line in result.stdout.splitlines()].count(
        ["left", "0.500000", "0.500000", "1.000000"]
    ) == 1
    assert "right [x]" in result.stdout


def test_big_endian_and_fortran_arrays_are_numbers_like_others() -> None:
    plain = np.arange(20.0).reshape(5, 4) / 20
    digests = []
    for changed in (plain, np.asfortranarray(plain), plain.astype(">f8")):
        save(key=changed)
        digests.append(json.loads(run("inputs.npz", "--target", "mine.py:right", "--json", "-").stdout)["inputs"])
    assert len(set(digests)) == 1


# Saved outputs


def test_two_saved_files_are_compared() -> None:
    save()
    for name in ("right", "without_scale"):
        Path("mine.py").write_text(MINE.replace(f"def {name}(", "def target("))
        result = run("inputs.npz", "--target", "mine.py:target", "--output", f"{name}.safetensors")
        assert result.exit_code == (0 if name == "right" else 1)
        assert f"2 outputs saved to {name}.safetensors" in result.stderr
    same = run("right.safetensors", "right.safetensors")
    assert same.exit_code == 0
    assert "no target that is in both (reference, mine.py:target) differs by more" in same.stdout
    found = run("right.safetensors", "without_scale.safetensors", "--json", "found.json")
    assert found.exit_code == 1
    assert "differs between the files: mine.py:target" in found.stdout
    data = json.loads(Path("found.json").read_text())
    assert [(shared["target"], shared["ratio"] > 1e6) for shared in data["shared"]] == [
        ("reference", False),
        ("mine.py:target", True),
    ]
    assert data["pairwise"]["outputs"] == ["A:reference", "A:mine.py:target", "B:reference", "B:mine.py:target"]


def test_targets_of_one_file_only_are_named() -> None:
    save()
    run("inputs.npz", "--target", "mine.py:right", "--output", "one.safetensors")
    run("inputs.npz", "--target", "mine.py:without_scale", "--output", "other.safetensors")
    result = run("one.safetensors", "other.safetensors")
    assert result.exit_code == 0
    assert "only in A: mine.py:right" in result.stdout
    assert "only in B: mine.py:without_scale" in result.stdout
    assert "no target that is in both (reference) differs by more" in result.stdout


# Bad input: one line, exit code 2


def pickled() -> str:
    np.savez("inputs.npz", allow_pickle=True, query=np.array([[1.0, None]], object), key=np.ones((5, 4)))
    return "inputs.npz"


def truncated(path: str, keep: float) -> str:
    payload = Path(path).read_bytes()
    Path(path).write_bytes(payload[: int(len(payload) * keep)])
    return path


def flipped(path: str) -> str:
    payload = bytearray(Path(path).read_bytes())
    payload[200] ^= 0xFF  # inside the first tensor's numbers
    Path(path).write_bytes(payload)
    return path


def safetensors(**changes: Any) -> str:
    tensors = {"query": np.ones((5, 4)), "key": np.ones((5, 4)), "value": np.ones((5, 3))} | changes
    Path("inputs.safetensors").write_bytes(write_tensors(tensors))
    return "inputs.safetensors"


def archive(**members: bytes) -> str:
    with zipfile.ZipFile("inputs.npz", "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("_", "."), content)
    return "inputs.npz"


def text(name: str, content: str) -> str:
    Path(name).write_text(content)
    return name


def saved(**options: Any) -> str:
    save("source.npz", **options)
    assert run("source.npz", "--target", "mine.py:right", "--output", "saved.safetensors").exit_code == 0
    return "saved.safetensors"


TAKES = "dot_product_attention takes `query`, `key`, `value`, and optionally `mask`, `bias`"
DTYPE_NAMES = "float64, float32, bfloat16, float16"

BAD_FILES: dict[str, tuple[Callable[[], str], str]] = {
    "missing-file": (lambda: "none.npz", "none.npz: there is no such file"),
    "folder": (lambda: os.mkdir("in.npz") or "in.npz", "in.npz: this is a folder, not a file"),
    "suffix": (
        lambda: text("inputs.txt", "1"),
        "inputs.txt: inputs are read from .npz, .safetensors or .json files; got '.txt'",
    ),
    "missing-tensor": (lambda: save(value=None), f"inputs.npz: {TAKES}; missing: `value`"),
    "wrong-name": (lambda: save(value=None, values=np.ones(3)), f"inputs.npz: {TAKES}; unknown: `values`; missing"),
    "extra-name": (lambda: save(extra=np.ones(3)), f"inputs.npz: {TAKES}; unknown: `extra`"),
    "names-of-another": (
        lambda: save(key=None, value=None, keys=np.ones((5, 4)), values=np.ones((5, 3))),
        "these are the names of key_value_attention: say --op key_value_attention (`operation=`)",
    ),
    "pickle": (
        pickled,
        "inputs.npz: `query` holds pickled Python objects, which are not read because they can run code",
    ),
    "not-an-npz": (lambda: text("inputs.npz", "hello"), "inputs.npz: this is not an .npz file, or it is truncated"),
    "truncated-npz": (lambda: truncated(save(), 0.6), "inputs.npz: this is not an .npz file, or it is truncated"),
    "flipped-npz": (
        lambda: flipped(save()),
        "inputs.npz: `query` cannot be read: the file is truncated or damaged (Bad",
    ),
    "not-an-array": (lambda: archive(readme_txt=b"hello"), "inputs.npz: `readme.txt` is not an array"),
    "no-header": (lambda: archive(query_npy=b"\x93NUMPY"), "inputs.npz: `query` cannot be read: the file is truncated"),
    "bfloat16-npz": (
        lambda: save(query=np.ones((5, 4), ml_dtypes.bfloat16)),
        "inputs.npz: `query` came back as raw bytes (|V2): .npz files cannot hold bfloat16; save it as .safetensors",
    ),
    "strings": (
        lambda: save(query=np.array(["a"])),
        "inputs.npz: `query` must hold numbers; got a NumPy array of dtype",
    ),
    "integers": (
        lambda: save(query=np.ones((5, 4), int)),
        f"inputs.npz: `query` must be of {DTYPE_NAMES}; got int64; --dtype (`dtype=`) converts it",
    ),
    "complex": (
        lambda: save(query=np.ones((5, 4), complex)),
        f"inputs.npz: `query` must be of {DTYPE_NAMES}; got complex128\n",
    ),
    "mixed-dtypes": (
        lambda: save(key=np.ones((5, 4), np.float32)),
        "inputs.npz: all tensors must share one dtype; got `query` float64, `key` float32, `value` float64; --dtype",
    ),
    "integer-mask": (
        lambda: save(mask=np.ones((5, 5), int)),
        "inputs.npz: `mask` must be boolean (True = may attend); got int64: numbers to add to the scores are called",
    ),
    "float-mask": (
        lambda: save(mask=np.ones((5, 5))),
        "inputs.npz: `mask` must be boolean (True = may attend); got float64",
    ),
    "mask-shape": (
        lambda: save(mask=np.ones((5, 4), bool)),
        "inputs.npz: each axis of `mask` must be 1 or that of (5, 5); got shape (5, 4)",
    ),
    "bias-dtype": (
        lambda: save(bias=np.ones((5, 5), np.float32)),
        "inputs.npz: `bias` must have dtype float64 beside a float64 query; got float32",
    ),
    "shapes": (lambda: save(key=np.ones((6, 4))), "inputs.npz: `value` must have the length (axis -2) of `key`; got"),
    "truncated-safetensors": (
        lambda: truncated(safetensors(), 0.6),
        "inputs.safetensors: not a safetensors file, or truncated",
    ),
    "not-safetensors": (
        lambda: text("inputs.safetensors", "hello"),
        "inputs.safetensors: not a safetensors file, or truncated",
    ),
    "saved-outputs": (saved, "saved.safetensors: this file holds saved outputs, not inputs: compare it with a second"),
    "not-json": (lambda: save_json("{"), "inputs.json: this is not valid JSON, or it is truncated: Expecting property"),
    "truncated-json": (lambda: truncated(save_json(), 0.6), "inputs.json: this is not valid JSON, or it is truncated"),
    "not-text": (
        lambda: Path("inputs.json").write_bytes(b"\xff\xfe\xfa") and "inputs.json",
        "inputs.json: this is not valid JSON, or it is truncated",
    ),
    "json-list": (lambda: save_json("[1, 2]"), "inputs.json: the file must hold an object of named tensors; got list"),
    "json-depth": (lambda: save_json("[" * 100_000), "inputs.json: its lists are nested too deeply"),
    "repeated": (lambda: save_json('{"key": [1], "key": [2]}'), "inputs.json: `key` stands in the file twice"),
    "ragged": (lambda: save_json(key=[[0.3, 0.4], [0.5]]), "inputs.json: `key` must be nested lists of equal lengths"),
    "json-string": (
        lambda: save_json(key="abc"),
        "inputs.json: `key` must be an array or nested lists of numbers; got",
    ),
    "json-null": (
        lambda: save_json(key=[[None]]),
        "inputs.json: `key` must be an array or nested lists of numbers; got",
    ),
    "json-boolean": (
        lambda: save_json(key=[[True, 0.5]]),
        "inputs.json: `key` must be lists of numbers; got true",
    ),
    "json-mask": (
        lambda: save_json(mask=[[True, 1]]),
        "inputs.json: `mask` must be lists of true and false (true = may attend); got 1",
    ),
    "json-dtype": (
        lambda: save_json(dtype="int8"),
        f"inputs.json: `dtype` must be one of {DTYPE_NAMES}; got 'int8'",
    ),
    "json-dtype-kind": (lambda: save_json(dtype=["float32"]), "inputs.json: `dtype` must be one of"),
    "tokens": (
        lambda: save_json(tokens="fox"),
        "inputs.json: `tokens` must be a list of strings, one for each position",
    ),
    "token-count": (
        lambda: save_json(tokens=["a", "b"]),
        "inputs.json: `tokens` names 2 positions; it must name every query and every key of a query of rank 2, and",
    ),
    "overflow": (
        lambda: save_json(key=[[7e4, 0.0], [0.0, 0.0]], dtype="float16"),
        "inputs.json: `key` holds 70000, which is beyond the range of float16",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_clear_line(name: str) -> None:
    make, message = BAD_FILES[name]
    result = run(make())
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


BAD_USES: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "give one file of inputs, or two of saved outputs, or --example NAME; got nothing"),
    "three-files": (["a", "b", "c"], "give one file of inputs, or two of saved outputs, or --example NAME; got a b c"),
    "file-and-example": (["--example", "fox", "inputs.npz"], "give one file of inputs, or two of saved outputs, or"),
    "example": (["--example", "cat"], "there is no example 'cat'; there are fox, minilm"),
    "operation": (
        ["inputs.npz", "--op", "softmax"],
        "there is no operation 'softmax'; there are dot_product_attention, ",
    ),
    "target": (["inputs.npz", "--target", "cuda"], "there is no target 'cuda': it must be one of reference, "),
    "target-file": (["inputs.npz", "--target", "none.py:fn"], "there is no file none.py"),
    "target-name": (
        ["inputs.npz", "--target", "mine.py:fn"],
        "mine.py has no callable 'fn'; its functions are: right, ",
    ),
    "dtype": (["inputs.npz", "--dtype", "int8"], f"there is no dtype 'int8'; there are {DTYPE_NAMES}"),
    "profile": (["inputs.npz", "--profile", "fp8"], "inputs.npz: there is no profile 'fp8'; there are fp64, fp32, "),
    "profile-dtype": (["inputs.npz", "--profile", "fp32"], "inputs.npz: profile fp32 is for float32; the tensors are"),
    "heads": (["inputs.npz", "--num-heads", "2"], "inputs.npz: dot_product_attention has no `num_heads`"),
    "no-heads": (["heads.json", "--op", "multi_head_attention"], "heads.json: multi_head_attention needs `num_heads`"),
    "heads-divide": (
        ["heads.json", "--op", "multi_head_attention", "--num-heads", "3"],
        "heads.json: `query_weight` must have a number of columns that `num_heads`=3 divides; got 8 columns",
    ),
    "causal": (
        ["wide.npz", "--causal"],
        "wide.npz: `causal` without an offset needs as many queries as keys; got 3 queries and 5 keys: say `offset=0`",
    ),
    "causal-hint": (
        ["--causal", "wide.npz"],
        "(here: --causal=0 or --causal=end; a window alone: --window LEFT,RIGHT,0",
    ),
    "causal-offset": (["inputs.npz", "--causal=top"], "the offset of --causal must be a whole number or end, as in"),
    "window": (
        ["inputs.npz", "--window", "4"],
        "--window must be LEFT,RIGHT or LEFT,RIGHT,OFFSET, such as 256,0 or ,2",
    ),
    "window-empty": (["inputs.npz", "--window", ","], "--window must be LEFT,RIGHT or LEFT,RIGHT,OFFSET"),
    "window-negative": (["inputs.npz", "--window", "-1,0"], "--window must be LEFT,RIGHT or LEFT,RIGHT,OFFSET"),
    "window-offset": (["inputs.npz", "--window", "1,0,x"], "the offset of --window must be a whole number or end"),
    "window-twice": (
        ["inputs.npz", "--causal", "--window", "1,0,2"],
        "--window beside --causal shares its offset; got",
    ),
    "window-no-offset": (["wide.npz", "--window", "1,0"], "wide.npz: `sliding_window` without an offset needs as many"),
    "lengths": (
        ["inputs.npz", "--key-lengths", "5,x"],
        "--key-lengths must be whole numbers, one for each batch element",
    ),
    "lengths-range": (
        ["inputs.npz", "--key-lengths", "9"],
        "inputs.npz: `key_lengths` must lie between 0 and the number",
    ),
    "lengths-count": (
        ["inputs.npz", "--query-lengths", "1,2"],
        "inputs.npz: `query_lengths` must be an int or have the",
    ),
    "scale": (["inputs.npz", "--scale", "inf"], "inputs.npz: `scale` must be finite; got inf"),
    "softcap": (["inputs.npz", "--softcap", "-1"], "inputs.npz: `softcap` must be positive and finite; got -1.0"),
    "output-suffix": (["inputs.npz", "--output", "out.npz"], "out.npz: outputs are saved to a .safetensors file; got"),
    "output-folder": (
        ["inputs.npz", "--output", "no/out.safetensors"],
        "no/out.safetensors: cannot be written: there is no folder no",
    ),
    "json-folder": (["inputs.npz", "--json", "."], ".: this is a folder, not a file"),
    "template": (["--template", "softmax"], "there is no operation 'softmax'; there are dot_product_attention, "),
    "template-suffix": (["--template", "self_attention", "x.npz"], "--template writes one .json file; got x.npz"),
    "template-exists": (
        ["--template", "self_attention", "heads.json"],
        "heads.json: this file exists already; choose another name",
    ),
    "template-option": (["--template", "self_attention", "--causal"], "--template cannot be combined with --causal"),
    "saved-option": (
        ["a.safetensors", "b.safetensors", "--op", "self_attention", "--key-lengths", "3"],
        "two saved files cannot be combined with --op, --key-lengths",
    ),
    "saved-missing": (["a.safetensors", "b.safetensors"], "a.safetensors: there is no such file"),
    "saved-inputs": (["inputs.npz", "inputs.npz"], "inputs.npz: not a safetensors file, or truncated"),
    "saved-other": (
        ["plain.safetensors", "plain.safetensors"],
        "plain.safetensors: these are not saved outputs: `attnspec",
    ),
    "nothing-compared": (
        ["inputs.npz", "--causal", "--target", "mine.py:without_scale"],
        "no target could take the inputs",
    ),
}


@pytest.mark.parametrize("name", BAD_USES)
def test_a_wrong_use_is_one_clear_line(name: str) -> None:
    save()
    save("wide.npz", queries=3)
    Path("heads.json").write_text(template_text("multi_head_attention"))
    Path("plain.safetensors").write_bytes(write_tensors({"query": np.ones(3)}))
    args, message = BAD_USES[name]
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_an_unknown_option_is_refused_with_the_usage() -> None:
    result = run("inputs.npz", "--tolerance", "1")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.parametrize("change", ["truncated", "description", "tensor", "format", "shape"])
def test_a_damaged_saved_file_is_refused(change: str) -> None:
    path = Path(saved())
    tensors = read_tensors(path.read_bytes())
    about = {"format": 1, "operation": "dot_product_attention", "dtype": "float64", "profile": "fp64", "inputs": "0"}
    about["targets"] = {"reference": "NumPy", "mine.py:right": "Python callable"}
    if change == "truncated":
        truncated(str(path), 0.7)
    elif change == "description":
        path.write_bytes(write_tensors(tensors, {"attnspec": "{"}))
    else:
        if change == "tensor":
            del tensors["bound"]
        elif change == "format":
            about["format"] = 2
        else:
            tensors["reference"] = tensors["reference"][:-1]
        path.write_bytes(write_tensors(tensors, {"attnspec": json.dumps(about)}))
    result = run("saved.safetensors", "saved.safetensors")
    assert result.exit_code == 2
    expected = {
        "truncated": "not a safetensors file, or truncated",
        "description": "its metadata is damaged",
        "format": "it is of format 2; this attnspec reads 1",
    }
    assert f"saved.safetensors: {expected.get(change, 'the file is damaged')}" in result.stderr


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "json"])
def test_no_damage_to_a_file_ends_in_a_traceback(suffix: str) -> None:
    rng = np.random.default_rng(0)
    if suffix == "npz":
        path = Path(save())
    else:
        path = Path(safetensors() if suffix == "safetensors" else save_json())
    payload = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(payload[: rng.integers(1, len(payload) + 1)])
        for place in rng.integers(0, len(damaged), rng.integers(0, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        result = run(str(path), "--target", "reference")  # `run` refuses every exception but an exit
        assert result.exit_code in (0, 1, 2)
        if result.exit_code == 2:
            assert str(path) in result.stderr


# The process itself


def test_help_imports_nothing_heavy_and_names_every_operation() -> None:
    code = (
        "import sys; from attnspec.conformance.compare_command import compare_command\n"
        "try: compare_command(['--help'])\n"
        "finally: print([m for m in ('torch', 'tensorflow', 'jax', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    flat = " ".join(done.stdout.split())
    assert all(operation in flat for operation in OPERATIONS)


@pytest.mark.usefixtures("all_four")
def test_the_command_enables_64_bit_and_keeps_standard_error_quiet() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TF_"))}
    command = [sys.executable, "-c", "from attnspec.conformance.command_line import main; main()"]
    done = subprocess.run(
        [*command, "compare", "--example", "fox"], capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 0
    assert done.stdout.count(" agrees") == 4  # JAX in float64 too
    assert done.stderr == ""
    wrong = subprocess.run([*command, "compare", "none.npz"], capture_output=True, text=True, check=False, env=clean)
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", "Error: none.npz: there is no such file\n")


@pytest.mark.usefixtures("all_four")
def test_every_command_and_listing_of_the_page_runs(folder: Path) -> None:
    blocks = re.findall(r"```(console|python)\n(.*?)```", PAGE.read_text(encoding="utf8"), flags=re.DOTALL)
    outputs = []
    for language, block in blocks:
        if language == "python" and block.startswith("# mine.py\n"):
            (folder / "mine.py").write_text(block)
        elif language == "python":
            exec(compile(block, str(PAGE), "exec"), {})
        else:
            for line in block.splitlines():
                command, _, note = line.removeprefix("$ attnspec compare ").partition("  # exit code ")
                result = run(*command.split())
                assert result.exit_code == int(note or 0), f"{line}\n{result.output}"
                outputs.append(result.stdout)
    assert len(outputs) == 12
    (wrong,) = [output for output in outputs if "disagreement" in output]
    assert re.search(r"1\.34e-02 +7\.2e\+12", wrong)  # the numbers that the page quotes

"""`attnspec compare` on bad input: every file and option that does not fit is one clear line and exit code 2."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from compare_runs import MINE, run, safetensors, save, save_json

from attnspec.conformance.example_files import template_text
from attnspec.contract.tensor_files import read_tensors, write_tensors


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in a folder of its own that holds two implementations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


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


TAKES = "dot_product_attention takes `query`, `key`, `value`, and optionally `mask`, `bias`, `sinks`"
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

"""`attnspec compare`: what it prints and saves, its exit codes, and every command of its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import frameworks
import numpy as np
import pytest
from compare_runs import MINE, run, save, save_json

import attnspec.conformance
from attnspec.conformance.cases import DTYPES
from attnspec.conformance.comparison_files import COMPARABLE
from attnspec.conformance.example_files import template_text
from attnspec.contract.tensor_files import read_tensors, write_tensors

PAGE = Path(__file__).parents[1] / "docs" / "compare.md"


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


def test_what_cannot_be_judged_is_a_warning() -> None:
    save(value=np.full((5, 3), 2.0))
    flat = run("inputs.npz", "--target", "mine.py:right")
    assert "warning: the bound is wider than half the range of the values" in flat.stdout
    values = np.arange(15.0).reshape(5, 3)
    values[0, 0] = np.inf
    save(value=values)
    infinite = run("inputs.npz", "--target", "mine.py:right")
    assert "warning: 5 of 15 elements of the reference are NaN or Inf" in infinite.stdout
    assert (flat.exit_code, infinite.exit_code) == (0, 0)


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
@pytest.mark.parametrize("operation", COMPARABLE)
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
    assert all(operation in flat for operation in COMPARABLE)


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
    blocks = re.findall(r"```(console|bash|python)\n(.*?)```", PAGE.read_text(encoding="utf8"), flags=re.DOTALL)
    outputs = []
    for language, block in blocks:
        if language == "python" and block.startswith("# mine.py\n"):
            (folder / "mine.py").write_text(block)
        elif language == "python":
            exec(compile(block, str(PAGE), "exec"), {})
        else:
            for line in block.splitlines():
                command, _, note = line.removeprefix("$ ").removeprefix("attnspec compare ").partition("  # exit code ")
                result = run(*command.split())
                assert result.exit_code == int(note or 0), f"{line}\n{result.output}"
                outputs.append(result.stdout)
    assert len(outputs) == 15
    wrong = [output for output in outputs if "disagreement" in output]
    assert len(wrong) == 2
    assert all(re.search(r"1\.34e-02 +7\.2e\+12", output) for output in wrong)  # the numbers that the page quotes


def test_the_package_exports_the_function_and_not_its_module() -> None:
    assert callable(attnspec.conformance.compare)
    assert attnspec.conformance.compare.__module__ == "attnspec.conformance.compare"

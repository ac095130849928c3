"""`attnspec verify`: what it prints, and the exit code that says the same."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from attnspec.conformance import backends, children, isolation
from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.command_line import main
from attnspec.conformance.quick import is_quick

CORRECT = """
import numpy as np

def attention(query, key, value, *, mask=None, bias=None, scale=None, softcap=None, causal_offset=None):
    dtype, wide = query.dtype, np.float64 if query.dtype == np.float64 else np.float32
    poison = np.where(np.isfinite(value), 0, value).astype(wide)
    query, key, value = (array.astype(wide) for array in (query, key, np.where(np.isfinite(value), value, 0)))
    if query.ndim > 3:
        group = query.shape[-3] // key.shape[-3]
        key, value, poison = (np.repeat(array, group, axis=-3) for array in (key, value, poison))
    with np.errstate(all="ignore"):
        scores = query @ key.mT * wide(1 / np.sqrt(query.shape[-1]) if scale is None else scale)
        if softcap is not None:
            scores = softcap * np.tanh(scores / wide(softcap))
        if bias is not None:
            scores = scores + bias.astype(wide)
        visible = scores != -np.inf
        if causal_offset is not None:
            visible &= np.arange(key.shape[-2]) <= np.arange(query.shape[-2])[:, None] + causal_offset
        if mask is not None:
            visible &= mask
        scores = np.where(visible, scores, -np.inf)
        peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        weights = np.exp(scores - np.where(peak == -np.inf, 0, peak))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
        output = weights.astype(dtype).astype(wide) @ value
        for j in np.flatnonzero(~np.isfinite(poison).all(axis=(*range(poison.ndim - 2), -1))):
            output = output + np.where(visible[..., :, j, None], poison[..., None, j, :], 0)
    return output.astype(dtype)
"""


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def attnspec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process, through the same `main` as the installed script."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["attnspec", *arguments])
        code: Any = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write `mine.py`, in the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> None:
        (tmp_path / "mine.py").write_text(source, encoding="utf8")

    return write


# Exit code 0: conforms.


def test_a_target_that_conforms(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verify", "reference", "--clause", "S7", "--dtype", "float32")
    count = sum("S7" in case.clauses and case.dtype == "float32" for case in shipped_cases())
    assert ran.code == 0
    row = next(line.split() for line in ran.out.splitlines() if line.strip().startswith("reference "))
    assert row[:7] == ["reference", "float32", str(count), str(count), "0", "0", "0"]
    assert ran.out.splitlines()[-1] == "reference: conforms"
    assert ran.err == ""


def test_a_correct_function_of_ones_own(attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    mine(CORRECT)
    ran = attnspec("verify", "mine.py:attention")
    assert ran.code == 0, ran.out
    lines = ran.out.splitlines()
    assert "mine.py:attention: conforms" in lines
    others = {case.operation for case in shipped_cases()} - {"dot_product_attention", "attention_with_logsumexp"}
    reasons = {found[1] for line in lines if (found := re.match(r"mine\.py:attention: \d+ unsupported: (.*)", line))}
    assert reasons == {
        *(f"a plain callable is a dot_product_attention, not a {other}" for other in others),
        "a plain callable gives no gradients",
        "the function returns no logsumexp beside its output",
        "the function takes no `sinks`",
        "the function takes no `dropout_keep`",
    }
    assert re.fullmatch(
        r"mine\.py:attention: conforms to [a-z ]+ at float64, float32, bfloat16 \(bf16_flash\), float16 \(fp16_flash\)"
        r"; unsupported: dropout, gradients, sinks, \d\d other operations",
        lines[-1],
    )


@pytest.mark.parametrize(
    ("arguments", "test"),
    [
        pytest.param(["--direction", "backward"], lambda case: case.direction == "backward", id="backward"),
        pytest.param(["--direction", "forward"], lambda case: case.direction == "forward", id="forward"),
        pytest.param(["--direction", "forward", "--direction", "backward"], lambda _: True, id="both"),
        pytest.param(
            ["--direction", "backward", "--clause", "S13", "--clause", "S15", "--dtype", "bfloat16"],
            lambda case: (
                case.direction == "backward"
                and not {"S13", "S15"}.isdisjoint(case.clauses)
                and case.dtype == "bfloat16"
            ),
            id="backward-and-clauses",
        ),
        pytest.param(["--quick"], is_quick, id="quick"),
        pytest.param(
            ["--quick", "--direction", "backward"],
            lambda case: is_quick(case) and case.direction == "backward",
            id="quick-and-backward",
        ),
        pytest.param(
            ["--op", "merge_attention"], lambda case: case.operation == "merge_attention", id="a-new-operation"
        ),
    ],
)
def test_selections(arguments: list[str], test: Callable[[Case], bool], attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verify", "reference", *arguments, "--json", "-")
    assert ran.code == 0, ran.err
    expected = [case.id for case in shipped_cases() if test(case)]
    assert expected
    assert [entry["case"] for entry in json.loads(ran.out)["results"]] == expected


def test_quick_and_another_dtype_select_nothing(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verify", "reference", "--quick", "--dtype", "float64")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "no case was decided"


def test_a_function_with_every_option_and_two_results(
    attnspec: Callable[..., Ran], mine: Callable[[str], None]
) -> None:
    mine(
        "from attnspec.conformance.implementations import Steps, build\n"
        "both = build(Steps())\n"
        "def attention(query, key, value, **options):\n"
        "    return both(query, key, value, **options)\n"
    )
    ran = attnspec("verify", "mine.py:attention", "--direction", "forward", "--dtype", "float32")
    assert ran.code == 0, ran.out
    reasons = [line for line in ran.out.splitlines() if re.match(r"mine\.py:attention: \d+ unsupported: ", line)]
    assert reasons
    assert all("a plain callable is a dot_product_attention, not a" in line for line in reasons)
    cases = [case for case in shipped_cases() if case.dtype == "float32" and case.direction == "forward"]
    attentions = [case for case in cases if case.operation in ("dot_product_attention", "attention_with_logsumexp")]
    row = next(line.split() for line in ran.out.splitlines() if line.strip().startswith("mine.py:attention "))
    assert row[1:7] == ["float32", str(len(cases)), str(len(attentions)), "0", "0", str(len(cases) - len(attentions))]


def test_every_installed_backend_is_the_default(attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    only_reference(monkeypatch)
    ran = attnspec("verify", "--case", "square-float32")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "reference: conforms"


def only_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that no framework is installed."""
    listed = tuple(b if b.name == "reference" else b._replace(version=None) for b in backends.list_backends())
    monkeypatch.setattr(backends, "list_backends", lambda: listed)


# Exit code 1: does not conform.


def test_a_wrong_logsumexp_is_named(attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    mine(
        "from attnspec.conformance.implementations import Steps, build\n"
        "both = build(Steps())\n"
        "def attention(query, key, value):\n"
        "    output, logsumexp = both(query, key, value)\n"
        "    return output, logsumexp / 0.6931471805599453\n"
    )
    ran = attnspec("verify", "mine.py:attention", "--case", "logsumexp-float64", "--case", "square-float64")
    assert ran.code == 1
    lines = ran.out.splitlines()
    at = lines.index("fail mine.py:attention logsumexp-float64")
    assert " of the logsumexp got " in lines[at + 1]
    assert "S15 1 of 1" in "\n".join(lines)


PLANTED = {
    "scale-missing": ("1 / np.sqrt(query.shape[-1]) if scale is None else scale", "1.0", "square-float64"),
    "mask-inverted": ("visible &= mask", "visible &= ~mask", "full-float64"),
    "heads-tiled": (
        "(np.repeat(array, group, axis=-3) for",
        "(np.concatenate([array] * group, axis=-3) for",
        "grouped-float64",
    ),
    "causal-one-off": ("[:, None] + causal_offset", "[:, None] + causal_offset + 1", "causal-float64"),
    "top-left-for-bottom-right": ("[:, None] + causal_offset", "[:, None]", "causal-end-float64"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault(fault: str, attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    right, wrong, first = PLANTED[fault]
    assert CORRECT.count(right) == 1
    mine(CORRECT.replace(right, wrong))
    ran = attnspec("verify", "mine.py:attention", "--failures", "2")
    assert ran.code == 1
    lines = ran.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail "))
    assert lines[at] == f"fail mine.py:attention {first} (also float32, bfloat16, float16)"
    assert lines[at + 1].startswith("  at [")
    description = next(case.description for case in shipped_cases() if case.id == first)
    assert lines[at + 1].endswith(f"of the elements are outside; {description}")
    assert lines[at + 2].startswith("  error / bound ")
    assert ", profile fp64, clauses S" in lines[at + 2]
    assert any(line.startswith("… and ") for line in lines)
    assert "does not conform: mine.py:attention" in lines


def test_a_missing_required_framework(attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    only_reference(monkeypatch)
    ran = attnspec("verify", "reference", "--require", "reference,jax", "--case", "square-float32")
    assert ran.code == 1
    sentence = "jax is required and JAX is not installed; install it with: pip install 'attnspec[jax]'"
    assert sentence in ran.out.splitlines()
    assert ran.out.splitlines()[-1] == "does not conform: a required target is missing"


def test_a_missing_required_framework_and_nothing_else(
    attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_reference(monkeypatch)
    assert attnspec("verify", "--require", "torch", "--clause", "S12", "--case", "square-float32").code == 1


def test_a_target_that_raises(attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    mine("def attention(query, key, value):\n    raise RuntimeError('no kernel')\n")
    ran = attnspec("verify", "mine.py:attention", "--case", "square-float32")
    assert ran.code == 1
    assert "error mine.py:attention square-float32\n  RuntimeError: no kernel\n" in ran.out


# Exit code 2: wrong usage, or nothing was decided.

USAGE = {
    "unknown-target": (["torhc"], "attnspec: there is no target 'torhc': it must be one of reference, torch,"),
    "missing-file": (["nowhere.py:fn"], "attnspec: there is no file nowhere.py"),
    "missing-module": (["nowhere:fn"], "attnspec: module 'nowhere' cannot be imported: ModuleNotFoundError: No module"),
    "unknown-option": (["--clauses", "S7"], "Error: No such option"),
    "unknown-clause": (
        ["--clause", "S77"],
        "Error: no case has 'S77' among its clauses; did you mean S7 or S37 or S27?",
    ),
    "unknown-operation": (["--op", "attention"], "Error: no case has 'attention' among its operations; did you mean"),
    "unknown-case": (["--case", "sqare-float32"], "Error: no case has 'sqare-float32' among its cases; did you mean"),
    "unknown-dtype": (["--dtype", "fp8"], "Error: no case has 'fp8' among its dtypes; there are"),
    "unknown-direction": (
        ["--direction", "backwards"],
        "Error: no case has 'backwards' among its directions; did you mean backward?",
    ),
    "unknown-level": (["--level", "9"], "Error: no case has '9' among its levels; there are core"),
    "unknown-profile": (["--profile", "fp8"], "Error: there is no profile 'fp8'; there are fp64, fp32,"),
    "unknown-requirement": (
        ["--require", "numpy"],
        "Error: --require: there is no backend 'numpy'; there are reference,",
    ),
    "negative-failures": (["--failures", "-1"], "Error: Invalid value for '--failures'"),
    "no-time": (["--timeout", "0"], "Error: Invalid value for '--timeout'"),
    "no-jobs": (["--jobs", "0"], "Error: Invalid value for '--jobs'"),
    "json-in-no-folder": (["--json", "nowhere/report.json"], "Error: --json: there is no folder nowhere"),
    "json-is-a-folder": (["--json", "."], "Error: Invalid value for '--json': File '.' is a directory."),
}


@pytest.mark.parametrize("kind", USAGE)
def test_wrong_usage(kind: str, attnspec: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = USAGE[kind]
    ran = attnspec("verify", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.startswith(("attnspec: ", "Usage: attnspec verify "))
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_an_unknown_command(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verfy")
    assert ran.code == 2
    assert "No such command 'verfy'" in ran.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "def other(q, k, v): ...",
            "attnspec: mine.py has no callable 'attention'; its functions are: other",
            id="name",
        ),
        pytest.param("import nobody", "attnspec: mine.py cannot be imported: ModuleNotFoundError: ", id="import"),
        pytest.param("def attention(x): ...", "must take query, key and value; its signature is (x)", id="signature"),
    ],
)
def test_a_file_that_cannot_be_tested(
    source: str, message: str, attnspec: Callable[..., Ran], mine: Callable[[str], None]
) -> None:
    mine(source)
    ran = attnspec("verify", "mine.py:attention")
    assert ran.code == 2
    assert ran.err.startswith("attnspec: ")
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_no_case_is_selected(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("verify", "reference", "--clause", "S12", "--case", "square-float32")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "no case was decided"


def test_every_case_is_unsupported(attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    mine(CORRECT)
    ran = attnspec("verify", "mine.py:attention", "--op", "key_value_attention", "--dtype", "float32")
    assert ran.code == 2
    assert "no case was decided" in ran.out.splitlines()
    assert "unsupported: a plain callable is a dot_product_attention, not a key_value_attention" in ran.out


def test_a_target_without_a_case_is_not_hidden_by_another(
    attnspec: Callable[..., Ran], mine: Callable[[str], None]
) -> None:
    mine(CORRECT)
    ran = attnspec("verify", "reference", "mine.py:attention", "--case", "self-attention-float32")
    assert ran.code == 2
    assert "no case was decided for mine.py:attention" in ran.out.splitlines()


# Exit code 3: the harness failed.


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), children.HarnessError("ours"), FileNotFoundError("ours")])
def test_a_failure_of_the_harness(
    error: Exception, attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(isolation, "run_isolated", broken)
    ran = attnspec("verify", "reference")
    assert ran.code == 3
    assert "Traceback" in ran.err
    assert "ours" in ran.err
    assert ran.err.splitlines()[-1] == "attnspec: the harness itself failed; please report the lines above"


def test_an_interrupt(attnspec: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(isolation, "run_isolated", interrupted)
    ran = attnspec("verify", "reference")
    assert ran.code == 3
    assert ran.err.strip() == "attnspec: interrupted"


def test_brackets_in_a_name_are_no_markup(
    attnspec: Callable[..., Ran], mine: Callable[[str], None], tmp_path: Path
) -> None:
    mine("")
    (tmp_path / "my[bold]kernel.py").write_text(CORRECT, encoding="utf8")
    ran = attnspec("verify", "my[bold]kernel.py:attention", "--case", "square-float32")
    assert ran.code == 0
    assert sum("my[bold]kernel.py:attention" in line for line in ran.out.splitlines()) == 2


# Reports as files, and the other commands.


def test_json_on_standard_output_is_nothing_but_json(attnspec: Callable[..., Ran], mine: Callable[[str], None]) -> None:
    mine("print('hello')\n" + CORRECT.replace("import numpy as np", "import numpy as np\nprint('hello again')"))
    ran = attnspec("verify", "mine.py:attention", "--case", "square-float32", "--json", "-")
    assert ran.code == 0
    data = json.loads(ran.out)
    assert data["conforms"] is True
    assert [(entry["case"], entry["status"]) for entry in data["results"]] == [("square-float32", "pass")]


def test_json_in_a_file_beside_the_table(attnspec: Callable[..., Ran], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    ran = attnspec("verify", "reference", "--case", "square-float32", "--json", str(path))
    assert ran.code == 0
    assert "reference: conforms" in ran.out
    assert json.loads(path.read_text(encoding="utf8"))["versions"]["reference"].startswith("NumPy ")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["verify", "--help"], ["compare", "--help"], ["--version"]])
def test_help_is_no_failure(arguments: list[str], attnspec: Callable[..., Ran]) -> None:
    ran = attnspec(*arguments)
    assert ran.code == 0
    assert ran.out
    assert ran.err == ""


@pytest.mark.parametrize(
    "part",
    [
        "--direction NAME Only forward, or only backward, cases.",
        "--quick A first look: one vector or two for each clause, at float32.",
        "--clause ID Only cases of this clause, such as S7; repeatable, like all selections.",
        "--op NAME Only cases of this operation.",
        "--profile NAME The arithmetic that is declared for its dtype, such as bf16_eager.",
    ],
    ids=lambda part: part.split()[0],
)
def test_help_says_what_can_be_selected(part: str, attnspec: Callable[..., Ran]) -> None:
    assert part in " ".join(attnspec("verify", "--help").out.split())

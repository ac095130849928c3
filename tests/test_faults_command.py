"""`attnspec faults`, and the pages that are generated of it: what they list, what they refuse, which exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attnspec.conformance.bounds_report import Distribution, bounds_tables, draw
from attnspec.conformance.fault_matrix import Matrix, VariantRow, alarms, measure, show_margin, to_json
from attnspec.conformance.faults_command import faults_command
from attnspec.conformance.measured_pages import measured_part
from attnspec.conformance.profiles import PROFILES
from attnspec.conformance.zoo import ATTENTIONS, margins, zoo_faults, zoo_variants
from attnspec.conformance.zoo_report import alarm_table, fault_tables, summary_table, weak_table

DOCS = Path(__file__).parent.parent / "docs"
FAULTS = {fault.name: fault for fault in zoo_faults()}
CHOSEN = ("causal-top-left", "layer_norm/unbiased-variance", "feed_forward/gelu-by-tanh")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(faults_command, arguments)


# The view.


def test_the_zoo_holds_all_four_collections() -> None:
    families = [fault.family for fault in zoo_faults()]
    assert families.count("attention") == 44
    assert len(families) == len(FAULTS) >= 211
    assert all(fault.operations == ATTENTIONS or len(fault.operations) == 1 for fault in zoo_faults())
    names = [variant.name for variant in zoo_variants()]
    assert len(set(names)) == len(names) >= 46
    assert set(PROFILES) >= {profile for variant in zoo_variants() for profile in variant.profiles.values()}


def test_margins_are_of_the_vectors_of_the_dtype() -> None:
    found = margins(FAULTS["layer_norm/unbiased-variance"], "float32")
    assert found
    assert all(name.endswith("-float32") for name in found)
    assert max(found.values()) > 4


# The matrix.


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return measure(("float32", "bfloat16"), CHOSEN)


def test_the_matrix_says_what_catches_a_fault(matrix: Matrix) -> None:
    assert [row.fault.name for row in matrix.faults] == list(CHOSEN)
    caught = matrix.faults[0].at("float32")
    own = margins(FAULTS["causal-top-left"], "float32")
    assert caught.vectors == len(own)
    assert caught.caught_by == sum(margin > 1 for margin in own.values())
    assert caught.best is not None
    assert caught.margin == own[caught.best] == max(own.values())


def test_the_summary_counts(matrix: Matrix) -> None:
    assert matrix.missed == ()
    seen = sum(row.at("bfloat16").caught_by > 0 for row in matrix.faults)
    robust = sum(row.at("bfloat16").is_robust for row in matrix.faults)
    assert matrix.summary() == (
        f"faults caught with margin ≥ 4: at float32 3 of 3 (3 with any), at bfloat16 {robust} of 3 ({seen} with any)"
    )


def test_a_rejected_variant_is_said() -> None:
    rows = (
        VariantRow("right", "float32", "fp32", (0.1, 0.5), ()),
        VariantRow("wrong", "float32", "fp32", (0.2, 1.5), ("square-float32",)),
        VariantRow("right", "bfloat16", "bf16_flash", (0.4,), ()),
    )
    matrix = Matrix(("float32",), (), rows)
    assert matrix.rejected == ("wrong",)
    assert matrix.summary().endswith("; correct variants rejected: 1 of 2")
    first, second = alarms(rows)
    assert first[:4] == ("fp32", 2, 4, 1)
    assert first.median == pytest.approx(0.35)
    assert first.largest == 1.5
    assert second == ("bf16_flash", 1, 1, 0, 0.4, 0.4, 0.4)


@pytest.mark.parametrize(
    ("margin", "text"), [(None, "–"), (float("inf"), "∞"), (3.57, "3.6"), (342.4, "342"), (1234567.0, "1.2e+06")]
)
def test_margins_are_short(margin: float | None, text: str) -> None:
    assert show_margin(margin) == text


def test_the_json_holds_no_infinity(matrix: Matrix) -> None:
    data = json.loads(to_json(matrix))
    assert data["format"] == 1
    assert [fault["name"] for fault in data["faults"]] == list(CHOSEN)
    assert data["faults"][0]["caught"][0]["margin"] == "inf"
    assert data["missed"] == data["rejected"] == []
    assert data["summary"] == matrix.summary()


# The command.


def test_one_fault_is_shown_with_every_vector_that_catches_it() -> None:
    result = run("--fault", "layer_norm/unbiased-variance", "--dtype", "float32")
    assert result.exit_code == 0
    first, second, third, *others = result.stdout.splitlines()
    assert first == "layer_norm/unbiased-variance (layer_norm, S29)"
    assert second.startswith("  visible with: always; seen in: ")
    found = margins(FAULTS["layer_norm/unbiased-variance"], "float32")
    caught = {name for name, margin in found.items() if margin > 1}
    assert third == f"  float32: caught by {len(caught)} of {len(found)} vectors"
    assert {line.split()[1] for line in others[:-1]} == caught
    assert others[-1] == "faults caught with margin ≥ 4: at float32 1 of 1 (1 with any)"


def test_a_missed_fault_is_exit_code_1() -> None:
    result = run("--fault", "feed_forward/gelu-by-tanh", "--dtype", "bfloat16")
    assert result.exit_code == 1
    assert "missed: feed_forward/gelu-by-tanh" in result.stdout.splitlines()


def test_json_on_the_command_line() -> None:
    result = run("--fault", "causal-top-left", "--dtype", "float16", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["dtypes"] == ["float16"]


def test_an_unknown_fault_is_wrong_usage() -> None:
    result = run("--fault", "causal-topleft")
    assert result.exit_code == 2
    assert "there is no fault 'causal-topleft'; near: causal-top-left" in result.stderr
    result = run("--fault", "xyz")
    assert f"there is no fault 'xyz'; `attnspec faults` lists all {len(FAULTS)}" in result.stderr


def test_an_unknown_dtype_is_wrong_usage() -> None:
    result = run("--dtype", "int8")
    assert result.exit_code == 2
    assert "'int8' is not one of" in result.stderr


# The pages.

PAGE = (DOCS / "faults.md").read_text(encoding="utf8")


def listed(text: str) -> list[str]:
    part = text.partition("## Every fault")[2] or text
    return re.findall(r"^\| `([\w/-]+)` \|", part, re.MULTILINE)


def test_the_page_lists_exactly_the_faults_that_exist() -> None:
    command = "run: python -m attnspec.conformance.zoo_report docs/faults.md"
    assert listed(measured_part(PAGE)) == list(FAULTS), command


def test_the_page_says_of_each_fault_what_the_zoo_says() -> None:
    for line in measured_part(PAGE).partition("## Every fault")[2].splitlines():
        if line.startswith("| `"):
            name, clause, visible, *_, seen = (cell.strip() for cell in line.strip("|").split(" | "))
            fault = FAULTS[name.strip("`")]
            assert (clause, visible) == (fault.clause, fault.visible_when)
            assert fault.seen_in in seen


def test_the_page_shows_the_accuracy_and_no_rejected_variant() -> None:
    shares = [float(share) for share in re.findall(r"^\| .* \| (\d+\.\d)% \|$", PAGE, re.MULTILINE)]
    *single, pairs = shares
    assert len(single) == 3, "as planted, in float64, in other orders"
    assert min(single) >= 95.0
    assert pairs >= 90.0
    rows = re.findall(
        r"^\| (\w+) \| \w+ \| \d+ \| \d+ \| (\d+) \| ", PAGE.partition("## False alarms")[2], re.MULTILINE
    )
    assert {name for name, _ in rows} == set(PROFILES)
    assert {rejected for _, rejected in rows} == {"0"}


def test_tables_of_a_matrix(matrix: Matrix) -> None:
    text = fault_tables(matrix)
    assert listed(text) == list(CHOSEN)
    assert "### attention" in text
    assert "### `layer_norm`" in text
    assert "[Dao-AILab/flash-attention 436](https://github.com/Dao-AILab/flash-attention/issues/436)" in text
    assert summary_table(matrix).splitlines()[2].startswith("| float32 | 3 | 3 | 3 | 3 (100.0%) | 0 |")
    assert "| `feed_forward/gelu-by-tanh` |" in weak_table(matrix, "bfloat16")
    assert weak_table(matrix, "float32") == "Every fault is caught with margin ≥ 4 at float32."


def test_the_table_of_false_alarms() -> None:
    rows = (VariantRow("right", "float32", "fp32", (0.25, 0.75), ()),)
    assert alarm_table(Matrix(("float32",), (), rows)).splitlines()[-1] == (
        "| fp32 | float32 | 1 | 2 | 0 | 0.50 | 0.74 | 0.75 |"
    )


def test_the_page_of_bounds_holds_every_profile_and_its_picture() -> None:
    page = (DOCS / "bounds.md").read_text(encoding="utf8")
    right, _, wrong = measured_part(page).partition("### Faults")
    for part in (right, wrong):
        assert re.findall(r"^\| (\w+) \| \d", part, re.MULTILINE) == list(PROFILES)
    for path in re.findall(r"\]\((images/[^)]+)\)", page):
        assert (DOCS / path).stat().st_size < 200_000


def test_the_picture_is_drawn_and_is_the_same_twice(tmp_path: Path) -> None:
    distributions = [
        Distribution("fp32", (0.0, 0.1, 0.3), (5.0, 1e5, float("inf"))),
        Distribution("fp32_tf32", (), (0.5, 20.0)),
    ]
    for name in ("first.svg", "second.svg"):
        draw(distributions, tmp_path / name)
    first = (tmp_path / "first.svg").read_text(encoding="utf8")
    assert first == (tmp_path / "second.svg").read_text(encoding="utf8")
    assert "<svg" in first
    lines = bounds_tables(distributions).splitlines()
    assert "| fp32 | 3 | 0.10 | 0.26 | 0.30 | 0.30 | 0 |" in lines
    assert "| fp32 | 3 | 5 | 5 | 1e+05 | 1 | 3 | 3 |" in lines
    assert "| fp32_tf32 | 2 | 0.5 | 0.5 | 0.5 | 0 | 1 | 1 |" in lines

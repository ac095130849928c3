"""The tables of docs/coverage.md: their counts are those of the vectors, and the command that writes them works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnspec.conformance.cases import DTYPES, Case, shipped_cases
from attnspec.conformance.coverage import FRAMEWORKS, tables
from attnspec.conformance.measured_pages import measured_part, replace_measured
from attnspec.conformance.results import Report, Result, Status

PAGE = (Path(__file__).parent.parent / "docs" / "coverage.md").read_text(encoding="utf8")
CLAUSES, GRADIENTS = PAGE.partition("### Gradients")[::2]


def rows_of(text: str) -> dict[str, dict[tuple[str, str], str]]:
    """Read a table: row → (framework, dtype) → cell."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heading, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    columns = [tuple(name.split()) for name in heading[1:]]
    assert columns == [(framework, dtype) for framework in FRAMEWORKS for dtype in DTYPES]
    return {row[0].strip("`"): dict(zip(columns, row[1:], strict=True)) for row in rows}  # type: ignore[arg-type]


def design(case: Case) -> str:
    return case.id.removesuffix(f"-{case.dtype}")


@pytest.mark.parametrize("clause", sorted({clause for case in shipped_cases() for clause in case.clauses}))
def test_counts_of_the_clauses_are_those_of_the_vectors(clause: str) -> None:
    for (_, dtype), cell in rows_of(CLAUSES)[clause].items():
        count = sum(clause in case.clauses and case.dtype == dtype for case in shipped_cases())
        shown = re.fullmatch(r"(\d+): (\d\.\d\d)", cell)
        assert shown is not None or (cell, count) == ("-", 0), cell
        assert shown is None or (int(shown[1]) == count and float(shown[2]) <= 1.0), cell


def test_no_clause_is_listed_without_vectors() -> None:
    assert rows_of(CLAUSES).keys() == {clause for case in shipped_cases() for clause in case.clauses}


def test_the_gradient_table_holds_every_backward_vector() -> None:
    backward = [case for case in shipped_cases() if case.direction == "backward"]
    rows = rows_of(GRADIENTS)
    assert rows.keys() == {design(case) for case in backward}
    for name, cells in rows.items():
        dtypes = {case.dtype for case in backward if design(case) == name}
        for (_, dtype), cell in cells.items():
            assert (cell != "-") == (dtype in dtypes), (name, dtype)
            assert cell == "-" or float(cell) <= 1.0


def result(ratio: float | None, status: Status = Status.PASS) -> Result:
    return Result(
        "torch", "gradient-plain-float32", "dot_product_attention", "float32", ("S2",), status, "fp32", ratio, "", 0.1
    )


def test_a_failure_is_not_hidden_in_a_table() -> None:
    assert "| S2 | - | 1: 0.25 | - |" in tables(Report((result(0.25),), {}))
    assert "| S2 | - | 2: **fails** | - |" in tables(Report((result(0.25), result(3.0, Status.FAIL)), {}))
    assert "| S2 | - | 1: **fails** | - |" in tables(Report((result(None, Status.ERROR),), {}))


def test_the_measured_part_is_replaced_and_nothing_else() -> None:
    page = "before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n"
    replaced = replace_measured(page, "new")
    assert measured_part(replaced) == "new"
    assert replaced.startswith("before\n")
    assert replaced.endswith("after\n")
    with pytest.raises(ValueError, match="the page has no"):
        replace_measured("no markers", "new")

"""What every clause was held to, and how close each framework came to its bounds.

`python -m attnspec.conformance.coverage docs/coverage.md` runs the whole suite on the reference and the three backends,
and writes the tables of that page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from .backends import BACKEND_NAMES
from .cases import DTYPES
from .isolation import run_isolated
from .measured_pages import replace_measured
from .results import Report, Result
from .runner import Selection
from .tables import show_ratio

FRAMEWORKS = tuple(name for name in BACKEND_NAMES if name != "reference")


def tables(report: Report) -> str:
    """Return the page's measured part."""
    versions = ", ".join(f"{name} ({version})" for name, version in report.versions.items() if name != "reference")
    results = [result for result in report.results if result.target in FRAMEWORKS]
    backward = [result for result in results if _is_backward(result)]
    return "\n".join(
        (
            f"Measured with {versions}.",
            "",
            "### Clauses",
            "",
            "In each cell: how many vectors, and the largest error over its bound.",
            "",
            _table("clause", _by_clause(results)),
            "### Gradients",
            "",
            "The largest error over its bound, of the gradients of every tensor together.",
            "",
            _table("vector", _by_design(backward), with_counts=False),
        )
    ).strip()


def _is_backward(result: Result) -> bool:
    return "gradient" in result.case


def _by_clause(results: Iterable[Result]) -> dict[str, list[Result]]:
    rows: dict[str, list[Result]] = {}
    for result in results:
        for clause in result.clauses:
            rows.setdefault(clause, []).append(result)
    return {clause: rows[clause] for clause in sorted(rows, key=lambda clause: int(clause[1:]))}


def _by_design(results: Iterable[Result]) -> dict[str, list[Result]]:
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(f"`{result.case.removesuffix(f'-{result.dtype}')}`", []).append(result)
    return rows


def _table(heading: str, rows: dict[str, list[Result]], *, with_counts: bool = True) -> str:
    """One row for each name; columns by framework and dtype."""
    columns = [(framework, dtype) for framework in FRAMEWORKS for dtype in DTYPES]
    lines = [
        f"| {heading} | {' | '.join(f'{framework} {dtype}' for framework, dtype in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name, row in rows.items():
        cells = []
        for framework, dtype in columns:
            here = [result for result in row if (result.target, result.dtype) == (framework, dtype)]
            cells.append(_cell(here, with_counts))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(results: Sequence[Result], with_counts: bool) -> str:
    if not results:
        return "-"
    failed = [result for result in results if result.ratio is None or result.ratio > 1]
    ratio = "**fails**" if failed else show_ratio(max(result.ratio or 0.0 for result in results))
    return f"{len(results)}: {ratio}" if with_counts else ratio


def main() -> None:
    """Measure and write."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = run_isolated(list(BACKEND_NAMES), Selection())
    report.raise_if_failed()
    page = Path(sys.argv[1])
    page.write_text(replace_measured(page.read_text(encoding="utf8"), tables(report)), encoding="utf8")


if __name__ == "__main__":
    main()

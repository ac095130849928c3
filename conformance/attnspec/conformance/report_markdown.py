"""Reports as Markdown, to paste into an issue: lines, a matrix, what failed and why."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .attention_maps import printable
from .case_facts import clause_order, title_of
from .results import Diagnosis, Report, Result, show_ratio
from .tables import printable_lines
from .verdicts import CONFORMS, DEVIATES, UNSUPPORTED, WARNS, status_of, summary_line

SIGNS = {CONFORMS: "✓", WARNS: "(✓)", DEVIATES: "✗", UNSUPPORTED: "–"}

MOST_FAILURES = 20
"""So many failing designs of a target are listed."""


def render_markdown(report: Report) -> str:
    """Write a report as Markdown; what targets say is never read as Markdown or HTML."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# attnspec verify"
    yield ""
    for target in report.targets():
        mark = "❌" if any(result.is_failure for result in report.select(target)) else "✅"
        yield f"- {mark} {_escape(summary_line(report, target))}"
    for sentence in report.missing:
        yield f"- ❌ {_escape(sentence)}"
    if not report.results:
        yield "No case ran."
    yield ""
    yield from _matrix(report)
    for target in report.targets():
        yield from _failures(report, target)
    yield from _made_with(report)


def _matrix(report: Report) -> Iterator[str]:
    """Yield a row for each clause, a column for each target: its sign, and the largest error / bound."""
    targets = report.targets()
    cells: dict[str, dict[str, list[Result]]] = {}
    for result in report.results:
        for clause in result.clauses:
            cells.setdefault(clause, {}).setdefault(result.target, []).append(result)
    if not cells:
        return
    yield f"| clause | {' | '.join(_escape(target) for target in targets)} |"
    yield f"|---|{'---|' * len(targets)}"
    for clause in sorted(cells, key=clause_order):
        row = [_sign(cells[clause].get(target, [])) for target in targets]
        yield f"| {_escape(f'{clause} {title_of(clause)}')} | {' | '.join(row)} |"
    yield ""
    yield "✓ conforms, (✓) close to a bound, ✗ deviates, – unsupported; the number is the largest error / bound."
    yield ""


def _sign(results: list[Result]) -> str:
    if not results:
        return ""
    status = status_of(results)
    ratios = [result.ratio for result in results if result.ratio is not None]
    failing = sum(result.is_failure for result in results)
    text = f"{SIGNS[status]} {show_ratio(max(ratios))}" if ratios else SIGNS[status]
    return f"{text}, {failing} of {len(results)}" if failing else text


def _failures(report: Report, target: str) -> Iterator[str]:
    failing: dict[str, list[Result]] = {}
    for result in report.select(target):
        if result.is_failure:
            failing.setdefault(result.case.removesuffix(f"-{result.dtype}"), []).append(result)
    if not failing:
        return
    yield f"## {_escape(target)}"
    yield ""
    for diagnosis in report.diagnoses:
        if diagnosis.target == target:
            yield from _diagnosis(diagnosis)
    for results in list(failing.values())[:MOST_FAILURES]:
        first = results[0]
        dtypes = ", ".join(dict.fromkeys(result.dtype for result in results))
        ratio = "" if first.ratio is None else f" error / bound {show_ratio(first.ratio)}:"
        clauses = ", ".join(first.clauses)
        yield f"- `{first.case}` ({dtypes}; {clauses}) {first.status}:{ratio} {_escape(first.message)}"
    if len(failing) > MOST_FAILURES:
        yield f"- … and {len(failing) - MOST_FAILURES} more designs"
    yield ""


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    explained = f"{len(diagnosis.cases)} of {diagnosis.failing} failing cases"
    clause = "" if diagnosis.clause is None else f" ({diagnosis.clause})"
    yield f"**{_escape(diagnosis.cause)}**{clause}, {explained}: {_escape(diagnosis.explanation)}"
    yield ""
    if diagnosis.reproducer is not None:
        script = printable_lines(diagnosis.reproducer.rstrip("\n"))
        longest = max((len(run) for run in re.findall("`+", script)), default=0)
        fence = "`" * max(3, longest + 1)
        yield f"{fence}python"
        yield script
        yield fence
        yield ""


def _made_with(report: Report) -> Iterator[str]:
    for run in report.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items() if name not in run.targets)
        yield _escape(f"Made with {versions}, vectors {report.suite}, on {run.machine}, {run.time}.")


def _escape(text: str) -> str:
    """Write text so that it stays text, and on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&@])", r"\\\1", printable(" ".join(text.split())))

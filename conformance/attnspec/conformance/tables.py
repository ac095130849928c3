"""Reports as tables for people."""

from __future__ import annotations

import sys
from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import Report, Result, Status

FAILED = (Status.FAIL, Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.NONDETERMINISTIC)


def new_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, 120 columns in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    # No markup: names and commands hold brackets, as in attnspec[torch], and would lose them.
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False, markup=False, emoji=False)


def print_report(console: Console, report: Report, *, failures: int) -> None:
    """Print a line for each target and dtype, then what failed: by clause, and the first case of each design."""
    console.print(_table(report))
    for line in report.missing:
        console.print(Text(line, style="bold red"), soft_wrap=True)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.failures():
        groups.setdefault((result.target, _design(result)), []).append(result)
    for target in dict.fromkeys(target for target, _ in groups):
        console.print(Text(f"{target}: failures by clause: {_by_clause(report, target)}"), soft_wrap=True)
    for group in list(groups.values())[:failures]:
        _print_failure(console, group)
    if len(groups) > failures:
        console.print(f"… and {len(groups) - failures} more designs that fail (--failures N shows more)")
    console.print(Text(_verdict(report), style="bold green" if report.conforms else "bold red"), soft_wrap=True)


def _table(report: Report) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("target", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    for heading in ("cases", "pass", "warn", "fail", "unsupported", "error / bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("largest in", overflow="fold")
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        groups.setdefault((result.target, result.dtype), []).append(result)
    previous = None
    for (target, dtype), results in groups.items():
        counts = {status: sum(result.status is status for result in results) for status in Status}
        compared = [result for result in results if result.ratio is not None]
        worst = max(compared, key=lambda result: result.ratio or 0.0, default=None)
        table.add_row(
            target if target != previous else "",
            dtype,
            str(len(results)),
            str(counts[Status.PASS]),
            _number(counts[Status.QUALITY_WARNING], "yellow"),
            _number(sum(counts[status] for status in FAILED), "bold red"),
            _number(counts[Status.UNSUPPORTED], "dim"),
            "" if worst is None else show_ratio(worst.ratio),
            "" if worst is None or not worst.ratio else _design(worst),
        )
        previous = target
    return table


def _print_failure(console: Console, group: list[Result]) -> None:
    """Print the first of the failures of one design, and name the dtypes of the others."""
    result, others = group[0], ", ".join(other.dtype for other in group[1:])
    also = f" (also {others})" if others else ""
    console.print(Text(f"{result.status} {result.target} {result.case}{also}", style="bold red"), soft_wrap=True)
    console.print(Text(f"  {result.message}"), soft_wrap=True)
    if result.ratio is not None:
        clauses = ", ".join(result.clauses)
        console.print(f"  error / bound {show_ratio(result.ratio)}, profile {result.profile}, clauses {clauses}")


def _by_clause(report: Report, target: str) -> str:
    """Say for each clause how many of its decided cases fail: S12 8 of 24, …"""
    failed: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    for result in report.select(target):
        if result.status is not Status.UNSUPPORTED:
            decided.update(result.clauses)
        if result.status in FAILED:
            failed.update(result.clauses)
    clauses = sorted(failed, key=lambda clause: int(clause[1:]))
    return ", ".join(f"{clause} {failed[clause]} of {decided[clause]}" for clause in clauses)


def _design(result: Result) -> str:
    return result.case.removesuffix(f"-{result.dtype}")


def print_reasons(console: Console, report: Report) -> None:
    """Print why cases were unsupported, each reason once."""
    reasons: dict[tuple[str, str], int] = {}
    for result in report.results:
        if result.status is Status.UNSUPPORTED:
            key = (result.target, result.message)
            reasons[key] = reasons.get(key, 0) + 1
    for (target, reason), count in reasons.items():
        console.print(Text(f"{target}: {count} unsupported: {reason}", style="dim"), soft_wrap=True)


def show_ratio(ratio: float | None) -> str:
    """Write a ratio with two or three digits that matter."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.1e}"


def _number(count: int, style: str) -> Text:
    return Text(str(count), style=style if count else "dim")


def _verdict(report: Report) -> str:
    targets = list(dict.fromkeys(result.target for result in report.results))
    if report.is_empty:
        return "no case was decided"
    if report.conforms:
        return f"{', '.join(targets)}: {'all conform' if len(targets) > 1 else 'conforms'}"
    failing = list(dict.fromkeys(result.target for result in report.failures()))
    if report.undecided() and not failing and not report.missing:
        return f"no case was decided for {', '.join(report.undecided())}"
    return f"does not conform: {', '.join(failing) or 'a required target is missing'}"

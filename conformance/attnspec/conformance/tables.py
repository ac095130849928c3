"""Reports as tables for people."""

from __future__ import annotations

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import Report, Result, Status

FAILED = (Status.FAIL, Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.NONDETERMINISTIC)


def new_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, 120 columns in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False, soft_wrap=False)


def print_report(console: Console, report: Report, *, failures: int) -> None:
    """Print a line for each target and dtype, then what failed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (
        ("target", "left"),
        ("dtype", "left"),
        ("cases", "right"),
        ("pass", "right"),
        ("warn", "right"),
        ("fail", "right"),
        ("unsupported", "right"),
        ("largest error / bound", "right"),
        ("in case", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        groups.setdefault((result.target, result.dtype), []).append(result)
    previous = None
    for (target, dtype), results in groups.items():
        counts = {status: sum(result.status is status for result in results) for status in Status}
        failed = sum(counts[status] for status in FAILED)
        compared = [result for result in results if result.ratio is not None]
        worst = max(compared, key=lambda result: result.ratio or 0.0, default=None)
        table.add_row(
            target if target != previous else "",
            dtype,
            str(len(results)),
            str(counts[Status.PASS]),
            _number(counts[Status.QUALITY_WARNING], "yellow"),
            _number(failed, "bold red"),
            _number(counts[Status.UNSUPPORTED], "dim"),
            "" if worst is None else show_ratio(worst.ratio),
            "" if worst is None or not worst.ratio else worst.case,
        )
        previous = target
    console.print(table)
    for line in report.missing:
        console.print(Text(line, style="bold red"))
    failed_results = report.failures()
    for result in failed_results[:failures]:
        console.print(Text(f"{result.status} {result.target} {result.case}", style="bold red"))
        console.print(Text(f"  {result.message}"), soft_wrap=True)
        if result.ratio is not None:
            clauses = ", ".join(result.clauses)
            console.print(f"  error / bound {show_ratio(result.ratio)}, profile {result.profile}, clauses {clauses}")
    if len(failed_results) > failures:
        console.print(f"… and {len(failed_results) - failures} more (--failures N shows more)")
    console.print(Text(_verdict(report), style="bold green" if report.conforms else "bold red"))


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
    return f"does not conform: {', '.join(failing) or 'a required target is missing'}"

"""Reports as tables for people."""

from __future__ import annotations

import sys
from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .attention_maps import printable
from .report_diff import BETTER, WORSE, Difference
from .results import Report, Result, Status
from .results import show_ratio as show_ratio
from .verdicts import conforms_simply, summary_line

MOST_DIAGNOSES = 3
"""So many causes are printed of a target."""

FAILED = (Status.FAIL, Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.NONDETERMINISTIC)


def new_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, 120 columns in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    # No markup: names and commands hold brackets, as in attnspec[torch], and would lose them.
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False, markup=False, emoji=False)


def printable_lines(text: str) -> str:
    """Write what cannot be seen, or drives a terminal, as an escape; lines stay lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _text(text: str, style: str = "") -> Text:
    return Text(printable_lines(text), style=style)


def print_report(console: Console, report: Report, *, failures: int) -> None:
    """Print a line for each target and dtype, then what failed: by clause, and the first case of each design."""
    console.print(_table(report))
    for line in report.missing:
        console.print(_text(line, style="bold red"), soft_wrap=True)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.failures():
        groups.setdefault((result.target, _design(result)), []).append(result)
    for target in dict.fromkeys(target for target, _ in groups):
        console.print(_text(f"{target}: failures by clause: {_by_clause(report, target)}"), soft_wrap=True)
    for group in list(groups.values())[:failures]:
        _print_failure(console, group)
    if len(groups) > failures:
        console.print(f"… and {len(groups) - failures} more designs that fail (--failures N shows more)")
    console.print(_text(_verdict(report), style="bold green" if report.conforms else "bold red"), soft_wrap=True)


def show_report(report: Report, *, failures: int) -> None:
    """Print everything that a person wants to know of a report on standard output."""
    console = new_console()
    print_report(console, report, failures=failures)
    print_reasons(console, report)
    print_diagnoses(console, report)
    print_summaries(console, report)


def print_diagnoses(console: Console, report: Report) -> None:
    """Print what is likely wrong with each target, and a script that shows the first of it."""
    for target in dict.fromkeys(diagnosis.target for diagnosis in report.diagnoses):
        found = [diagnosis for diagnosis in report.diagnoses if diagnosis.target == target]
        for diagnosis in found[:MOST_DIAGNOSES]:
            clause = "" if diagnosis.clause is None else f" ({diagnosis.clause})"
            explained = f"{len(diagnosis.cases)} of {diagnosis.failing} failing cases"
            line = f"{target}: likely cause of {explained}: {diagnosis.cause}{clause}"
            console.print(_text(line, style="bold"), soft_wrap=True)
            console.print(_text(f"  {diagnosis.explanation}"), soft_wrap=True)
        if len(found) > MOST_DIAGNOSES:
            console.print(f"… and {len(found) - MOST_DIAGNOSES} more causes (--jsonl and --html hold all of them)")
        script = next((diagnosis.reproducer for diagnosis in found if diagnosis.reproducer is not None), None)
        if script is not None:
            console.print(_text("\n".join(f"    {line}" for line in script.splitlines())), soft_wrap=True)


def print_summaries(console: Console, report: Report) -> None:
    """Print a line to quote for each target of which more is to say than that it conforms."""
    for target in report.targets():
        if not conforms_simply(report, target):
            console.print(_text(summary_line(report, target)), soft_wrap=True)


def print_difference(console: Console, difference: Difference, *, limit: int) -> None:
    """Print what changed between two reports, what got worse first."""
    for note in difference.notes:
        console.print(_text(note, style="dim"), soft_wrap=True)
    for kind, meaning in (WORSE | BETTER).items():
        changes, style = difference.of(kind), "bold red" if kind in WORSE else "green"
        if changes:
            console.print(_text(f"{kind}: {len(changes)} ({meaning})", style=style), soft_wrap=True)
        for change in changes[:limit]:
            then = " → ".join(part for part in (change.before, change.after) if part)
            message = f": {change.message}" if change.message and kind in WORSE else ""
            console.print(_text(f"  {change.target} {change.case}: {then}{message}"), soft_wrap=True)
        if len(changes) > limit:
            console.print(f"  … and {len(changes) - limit} more (--limit N shows more)")
    worse = sum(change.kind in WORSE for change in difference.changes)
    better = len(difference.changes) - worse
    line = f"{worse} worse, {better} better or new, {difference.same} as before"
    console.print(_text(line, style="bold red" if worse else "bold green"))


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
            _text(target if target != previous else ""),
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
    console.print(_text(f"{result.status} {result.target} {result.case}{also}", style="bold red"), soft_wrap=True)
    console.print(_text(f"  {result.message}"), soft_wrap=True)
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
        console.print(_text(f"{target}: {count} unsupported: {reason}", style="dim"), soft_wrap=True)


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

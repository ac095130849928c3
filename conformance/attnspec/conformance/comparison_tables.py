"""Comparisons as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .attention_maps import printable
from .compare import Comparison, Row
from .results import Status
from .saved_comparisons import SavedDifferences
from .tables import show_ratio

Array: TypeAlias = np.ndarray[Any, Any]

_VERDICTS = {
    Status.PASS: Text("agrees", style="green"),
    Status.FAIL: Text("differs", style="bold red"),
    Status.ERROR: Text("error", style="bold red"),
    Status.UNSUPPORTED: Text("unsupported", style="dim"),
}

LARGEST_PRINTED = 16
"""Weights and outputs of more positions or components than this are not printed."""


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print a line for each target, the differences of every two of them, and what is wrong."""
    console.print(Text(f"{comparison.question.describe()}, profile {comparison.question.profile.name}"), soft_wrap=True)
    table = _new_table(("target", "version"), ("max error", "error / bound", "first difference", "time"))
    table.add_column("", justify="left", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*_cells(row), _VERDICTS[row.status])
    console.print(table)
    _print_pairwise(console, [row.target for row in comparison.rows], comparison.pairwise)
    for row in comparison.rows:
        if row.message:
            style = "dim" if row.status in (Status.PASS, Status.UNSUPPORTED) else "bold red"
            console.print(Text(f"{row.target}: {row.message}", style=style), soft_wrap=True)
    for warning in comparison.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console.print(Text(comparison.verdict, style="bold green" if comparison.agrees else "bold red"))


def print_meaning(console: Console, comparison: Comparison) -> None:
    """Print the reference's weights, (query token, key token), and its output: for inputs whose tokens have names."""
    tokens = tuple(map(printable, comparison.question.inputs.tokens or ()))
    if len(comparison.stages.weights) > 1:
        console.print(
            Text(f"weights of {len(comparison.stages.weights)} heads are too many to print; --html draws them")
        )
        return
    weights, output = comparison.stages.weights[0], comparison.question.evaluation.output
    if max(len(tokens), output.shape[-1]) > LARGEST_PRINTED:
        console.print(Text(f"weights and output of {len(tokens)} tokens are too large to print; --output saves them"))
        return
    console.print(Text("\nweights of the reference: each row says how much its token takes from every token"))
    console.print(_numbers(tokens, [*tokens, "sum"], np.column_stack([weights, weights.sum(axis=-1)]), ".6f"))
    console.print(Text("output of the reference: the values, averaged with these weights"))
    console.print(_numbers(tokens, [str(component) for component in range(output.shape[-1])], output, ".10f"))


def print_saved(console: Console, differences: SavedDifferences) -> None:
    """Print a line for each target that is in both files, and the differences of every two outputs."""
    left, right = differences.left, differences.right
    console.print(Text(f"{left.operation} in {left.dtype}, the same inputs in both files"), soft_wrap=True)
    for label, saved in (("A", left), ("B", right)):
        console.print(Text(f"  {label}: {saved.path}, profile {saved.profile}"), soft_wrap=True)
    table = _new_table(("target", "version in A", "version in B"), ("largest difference", "difference / bounds"))
    table.add_column("", justify="left", no_wrap=True)
    for shared in differences.shared:
        table.add_row(
            shared.target,
            left.targets[shared.target],
            right.targets[shared.target],
            _show(shared.largest_difference),
            show_ratio(shared.ratio),
            _VERDICTS[Status.PASS if shared.ratio <= 1.0 else Status.FAIL],
        )
    console.print(table)
    _print_pairwise(console, differences.labels, differences.pairwise)
    for label, one, other in (("A", left, right), ("B", right, left)):
        only = [name for name in one.targets if name not in other.targets]
        if only:
            console.print(Text(f"only in {label}: {', '.join(only)}"), soft_wrap=True)
    names = ", ".join(shared.target for shared in differences.shared)
    if differences.agrees:
        verdict = f"no target that is in both ({names or 'none'}) differs by more than the two bounds allow"
        console.print(Text(verdict, style="bold green"), soft_wrap=True)
    else:
        outside = ", ".join(shared.target for shared in differences.shared if not shared.ratio <= 1.0)
        console.print(Text(f"differs between the files: {outside}", style="bold red"), soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    time = "" if row.seconds is None else f"{row.seconds * 1e3:.3g} ms"
    error = "" if row.max_error is None else _show(row.max_error)
    return row.target, row.version, error, show_ratio(row.ratio), row.first_difference or "", time


def _print_pairwise(console: Console, names: Sequence[str], pairwise: Array) -> None:
    given = [i for i in range(len(names)) if not np.isnan(pairwise[i, i])]
    if len(given) < 2:
        return
    table = _new_table(("largest difference",), [names[i] for i in given])
    for i in given:
        table.add_row(names[i], *("-" if i == j else _show(float(pairwise[i, j])) for j in given))
    console.print(table)


def _numbers(rows: Sequence[str], columns: Sequence[str], numbers: Array, form: str) -> Table:
    table = _new_table(("",), columns)
    for name, row in zip(rows, numbers, strict=True):
        table.add_row(Text(name), *(format(float(number), form) for number in row))
    return table


def _new_table(left: Sequence[str], right: Sequence[str]) -> Table:
    """Make a table whose first columns are words and whose others are numbers. Names may be paths: they fold."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in left:
        table.add_column(Text(heading), justify="left", overflow="fold")
    for heading in right:
        table.add_column(Text(heading), justify="right", overflow="fold")
    return table


def _show(number: float) -> str:
    return f"{number:.2e}" if number else "0"

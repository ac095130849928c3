"""`attnspec faults`: what the vectors catch, and that they reject nothing that is right."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from .fault_matrix import FaultRow, Matrix
    from .zoo import ZooFault

WIDTH = 160
"""In columns, of the matrix in a pipe."""
DTYPES = ("float64", "float32", "bfloat16", "float16")


@click.command("faults")
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(DTYPES),
    help="Vectors of this dtype; repeatable. Default: float32 and bfloat16.",
)
@click.option("--fault", "names", multiple=True, metavar="NAME", help="Only this fault, by every vector; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the matrix as JSON.")
def faults_command(dtypes: tuple[str, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Hold the vectors against planted faults and correct variants.

    Every fault is a small deviation that happens in real code. The matrix says by how many vectors it is caught, and
    the largest error over its bound. Exit code 1: a fault is missed at float32, or a correct variant is rejected.
    """
    from .fault_matrix import SHOWN, measure, to_json
    from .zoo import zoo_faults

    known = {fault.name: fault for fault in zoo_faults()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise click.UsageError(f"there is no fault {name!r}{hint}; `attnspec faults` lists all {len(known)}")
    matrix = measure(dtypes or SHOWN, names or None)
    if as_json:
        click.echo(to_json(matrix))
    else:
        _print(matrix, [known[name] for name in names])
    sys.exit(1 if matrix.missed or matrix.rejected else 0)


def _print(matrix: Matrix, chosen: list[ZooFault]) -> None:
    from .tables import new_console

    console = new_console()
    if chosen:
        for row in matrix.faults:
            _print_fault(console, row)
    else:
        _print_matrix(console, matrix)
        _print_alarms(console, matrix)
    for name in matrix.missed:
        console.print(f"missed: {name}", soft_wrap=True)
    for variant in matrix.variants:
        if variant.rejected:
            vectors = ", ".join(variant.rejected)
            console.print(f"rejected: {variant.variant} ({variant.profile}) by {vectors}", soft_wrap=True)
    console.print(matrix.summary(), soft_wrap=True)


def _print_matrix(console: Console, matrix: Matrix) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .fault_matrix import show_margin

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault", no_wrap=True)
    table.add_column("clause")
    table.add_column("visible with", overflow="fold", min_width=20)
    for dtype in matrix.dtypes:
        table.add_column(dtype, justify="right")
        table.add_column("margin", justify="right")
        table.add_column("best vector", overflow="fold")
    families = [row.fault.family for row in matrix.faults]
    for row, before in zip(matrix.faults, ["", *families], strict=False):
        if row.fault.family != before:
            table.add_section()
            table.add_row(f"{row.fault.family}:")
        cells = []
        for caught in row.caught:
            best = (caught.best or "").removesuffix(f"-{caught.dtype}")
            cells += [f"{caught.caught_by}/{caught.vectors}", show_margin(caught.margin), best]
        table.add_row(f"  {row.fault.name.rpartition('/')[2]}", row.fault.clause, row.fault.visible_when, *cells)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def _print_alarms(console: Console, matrix: Matrix) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .fault_matrix import alarms

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("correct variants under", "variants", "checks", "rejected", "median", "99 %", "largest"):
        table.add_column(heading, justify="left" if heading.startswith("correct") else "right")
    for each in alarms(matrix.variants):
        numbers = (f"{number:.2f}" for number in (each.median, each.high, each.largest))
        table.add_row(each.profile, str(each.variants), str(each.checks), str(each.rejected), *numbers)
    console.print(table)


def _print_fault(console: Console, row: FaultRow) -> None:
    from .fault_matrix import show_margin
    from .zoo import margins

    fault = row.fault
    console.print(f"{fault.name} ({', '.join(sorted(fault.operations))}, {fault.clause})", soft_wrap=True)
    console.print(f"  visible with: {fault.visible_when}; seen in: {fault.seen_in}", soft_wrap=True)
    for caught in row.caught:
        found = {name: margin for name, margin in margins(fault, caught.dtype).items() if margin > 1}
        console.print(f"  {caught.dtype}: caught by {caught.caught_by} of {caught.vectors} vectors", soft_wrap=True)
        for name in sorted(found, key=lambda name: -found[name]):
            console.print(f"    {show_margin(found[name]):>8}  {name}", soft_wrap=True)

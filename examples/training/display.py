"""Progress and results on a terminal, and as plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .exercises import Exercise
from .processes import Happened
from .records import Records
from .trainer import Epoch, Step


def new_console() -> Console:
    """Return a console as wide as the terminal, 120 columns in a pipe."""
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)


def follow(console: Console, records: Records, happenings: Iterable[Happened]) -> None:
    """Collect what happens, with a bar for each framework, and a line for each epoch that all of them have finished."""
    lines = _epoch_lines(records)
    with _bars(console, records) as advance:
        for happened in happenings:
            records.add(happened)
            if isinstance(happened.event, Step):
                advance(happened.framework, happened.exercise, happened.event.loss)
            if isinstance(happened.event, Epoch):
                for line in iter(lambda: next(lines), ""):
                    console.print(line)


def print_results(console: Console, records: Records) -> None:
    """Print a line for each exercise and framework, how far they agree, and what must not be."""
    for table in (_results(records), _agreements(records)):
        if table.row_count:
            console.print(table)
    for exercise in records.exercises:
        line = _gradient_line(records, exercise)
        if line:
            console.print(line)
    for problem in records.problems():
        console.print(problem, style="bold red", soft_wrap=True)


def _epoch_lines(records: Records) -> Iterator[str]:
    """Yield the next epoch's line once all frameworks have finished it, and "" as long as one has not."""
    for exercise in records.exercises:
        of = records.of(exercise).values()
        count = -(-exercise.total_steps // exercise.steps_of_epoch)
        for i in range(count):
            while any(len(record.epochs) <= i for record in of):
                yield ""
            losses = " ".join(f"{record.epochs[i].loss:9.6f}" for record in of)
            accuracies = " ".join(f"{record.epochs[i].accuracy:.4f}" for record in of)
            place = f"{i + 1}/{count}"
            yield f"{exercise.name:11} epoch {place:>7}   loss {losses}   accuracy {accuracies}"
    while True:
        yield ""


@contextmanager
def _bars(console: Console, records: Records) -> Iterator[Callable[[str, str, float], None]]:
    """Show a bar for each framework on a terminal, nothing in a pipe; yield what moves it by one step."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]:28}"),
        TimeElapsedColumn(),
    )
    total = sum(exercise.total_steps for exercise in records.exercises)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {framework: progress.add_task(framework, total=total, said="starts") for framework in records.versions}

        def advance(framework: str, exercise: str, loss: float) -> None:
            progress.update(tasks[framework], advance=1, said=f"{exercise}, loss {loss:.4f}")

        yield advance


def _results(records: Records) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "framework"):
        table.add_column(heading, no_wrap=True)
    for heading in ("steps", "loss", "accuracy", "CPU s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for exercise in records.exercises:
        for i, (framework, record) in enumerate(records.of(exercise).items()):
            loss, accuracy = record.epochs[-1]
            numbers = (f"{len(record.losses)}", f"{loss:.6f}", f"{accuracy:.4f}", f"{record.cpu_seconds:.1f}")
            table.add_row("" if i else exercise.name, framework, *numbers)
    return table


def _agreements(records: Records) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("first steps", justify="right", no_wrap=True)
    table.add_column("largest relative difference of losses", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("between", no_wrap=True)
    for exercise in records.exercises:
        one = records.agreement(exercise)
        if one is not None:
            numbers = (f"{one.steps}", f"{one.largest:.1e}", f"{one.tolerance:.0e}")
            table.add_row(exercise.name, *numbers, f"{' and '.join(one.pair)}, step {one.step}")
    return table


def _gradient_line(records: Records, exercise: Exercise) -> str | None:
    """Say that every parameter of the watched layer has a gradient; None where one has none, or none is watched."""
    found = [record.gradients for record in records.of(exercise).values() if record.gradients is not None]
    if not found or any(gradients.missing for gradients in found):
        return None
    smallest = min(min(gradients.largest.values()) for gradients in found)
    return (
        f"{exercise.name}: all {len(found[0].largest)} parameters of {exercise.watched} have a gradient from the first "
        f"batch on, each with a component of at least {smallest:.1e}"
    )

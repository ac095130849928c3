"""The command `attnspec vectors`: what there is, what one holds, all of it for other languages, and if it is whole.

Everything heavy is imported inside, so that `attnspec --help` is immediate.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from .calls import Array
    from .cases import Case
    from .vectors_check import Finding

FAILED = 1
SHOWN = 6
"""How many numbers of a row are shown."""


@click.group(name="vectors")
def vectors_command() -> None:
    """List, show, export and check the conformance vectors."""


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select vectors, and pass the selected ones on as `cases`."""

    @functools.wraps(command)
    def selected(*args: Any, **options: Any) -> None:
        from .cases import shipped_cases
        from .runner import Selection, check_selection

        sets = ("clauses", "operations", "dtypes", "levels", "cases", "directions")
        selection = Selection(**{name: frozenset(options.pop(name)) for name in sets}, quick=options.pop("quick"))
        try:
            check_selection(selection)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        cases = [case for case in shipped_cases() if selection.matches(case)]
        if not cases:
            raise click.UsageError("no vector fits all of these options together")
        command(*args, cases=cases, **options)

    for declared in (
        click.option("--quick", is_flag=True, help="Only a first look's vectors."),
        click.option("--direction", "directions", multiple=True, metavar="NAME", help="forward or backward."),
        click.option("--case", "cases", multiple=True, metavar="ID", help="Only this vector."),
        click.option("--level", "levels", multiple=True, metavar="NAME", help="Only vectors of this level."),
        click.option("--dtype", "dtypes", multiple=True, metavar="NAME", help="Only vectors of this dtype."),
        click.option("--op", "operations", multiple=True, metavar="NAME", help="Only vectors of this operation."),
        click.option(
            "--clause", "clauses", multiple=True, metavar="ID", help="Only vectors of this clause; repeatable."
        ),
    ):
        selected = declared(selected)
    return selected


@vectors_command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each vector, as an array.")
@_selecting
def list_vectors(cases: Sequence[Case], as_json: bool) -> None:
    """List vectors: a line for each design, which has one for each of its dtypes."""
    if as_json:
        click.echo(json.dumps([_about(case) for case in cases], indent=1, ensure_ascii=False))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .tables import new_console

    designs: dict[str, list[Case]] = {}
    for case in cases:
        designs.setdefault(case.id.removesuffix(f"-{case.dtype}"), []).append(case)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("vector", no_wrap=True)
    table.add_column("dtypes")
    for heading in ("level", "clauses", "what it hunts"):
        table.add_column(heading)
    for name, row in designs.items():
        table.add_row(
            name,
            " ".join(_short(case.dtype) for case in row),
            row[0].level,
            " ".join(row[0].clauses),
            row[0].description,
        )
    console = new_console()
    console.print(table)
    console.print(f"{_count(len(cases), 'vector')} of {_count(len(designs), 'design')}: <vector>-<dtype> is its id")


def _about(case: Case) -> dict[str, Any]:
    names = (
        "id",
        "operation",
        "direction",
        "level",
        "dtype",
        "clauses",
        "features",
        "description",
        "options",
        "catches",
    )
    return {name: getattr(case, name) for name in names}


def _short(dtype: str) -> str:
    return {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@vectors_command.command(name="show")
@click.argument("identifier", metavar="ID")
def show_vector(identifier: str) -> None:
    """Show one vector: what it hunts, its options, its tensors, and what is expected, at a glance.

    ID is that of a vector, such as causal-end-float32; without its dtype, the first vector of that name.
    """
    from .cases import shipped_cases
    from .runner import Selection, check_selection
    from .tables import new_console

    fitting = [case for case in shipped_cases() if identifier in (case.id, case.id.removesuffix(f"-{case.dtype}"))]
    if not fitting:
        try:
            check_selection(Selection(cases=frozenset({identifier})))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    _print_case(new_console(), fitting[0])


def _print_case(console: Console, case: Case) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    lines = {
        "operation": f"{case.operation}, {case.direction}",
        "hunts": case.description,
        "clauses": ", ".join(case.clauses),
        "level": case.level,
        "options": "",
        "same bits as": case.same_bits_as or "",
        "catches": ", ".join(case.catches),
        "undecided": "; ".join(f"{cheat}: {reason}" for cheat, reason in case.undecided.items()),
    }
    given = {name: value for name, value in case.options.items() if value is not None and value is not False}
    lines["options"] = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
    console.print(case.id)
    for name, text in lines.items():
        if text:
            console.print(f"  {name}: {text}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("tensor", "dtype", "shape", "smallest", "largest", "first row"):
        table.add_column(heading, no_wrap=True)
    results = {f"expected {name}": array for name, array in case.expected.items()}
    for name, array in {**case.tensors, **results}.items():
        table.add_row(name, array.dtype.name, "×".join(map(str, array.shape)) or "number", *_glance(array))
    console.print(table)


def _glance(array: Array) -> tuple[str, str, str]:
    """Return the smallest and largest number that is finite, and the beginning of the first row."""
    import numpy as np

    numbers = np.asarray(array, np.float64)
    finite = numbers[np.isfinite(numbers)]
    first = numbers.reshape(-1, numbers.shape[-1])[0] if numbers.ndim and numbers.size else numbers.reshape(-1)
    shown = " ".join(f"{number:.4g}" for number in first[:SHOWN]) + (" …" if first.size > SHOWN else "")
    return (f"{finite.min():.4g}", f"{finite.max():.4g}", shown) if finite.size else ("", "", shown)


@vectors_command.command(name="export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--with-expected", is_flag=True, help="Add the expected results, in a folder of their own.")
@_selecting
def export_vectors(cases: Sequence[Case], folder: Path, with_expected: bool) -> None:
    """Write vectors for any language: safetensors files, and a manifest of what is asked.

    DIR is made, or must be empty. Masks and biases of attentions are arrays in it. Put what you compute into another
    folder, a file `<id>.safetensors` for each vector, and run: attnspec verify FOLDER
    """
    from .vectors_export import export

    try:
        number = export(cases, folder, with_expected=with_expected)
    except FileExistsError:
        raise click.UsageError(f"{folder} is not empty; vectors are exported into a new or an empty folder") from None
    except OSError as error:
        raise click.UsageError(f"cannot write {folder}: {error.strerror}") from None
    added = ", the expected results in expected/" if with_expected else ", without the expected results"
    click.echo(f"{_count(number, 'vector')} in {folder}{added}")


@vectors_command.command(name="check")
@click.argument(
    "folder", metavar="[FOLDER]", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--quick", is_flag=True, help="Admit float32 alone, and leave out the faults that no vector names.")
def check_command(folder: Path | None, quick: bool) -> None:
    """Prove that the vectors may judge: whole, deciding, rejecting cheats, catching the planted faults.

    FOLDER holds vectors like those that are shipped, which are the default. Exit code 0: nothing found; 1: something.
    """
    from .cases import VECTORS
    from .vectors_check import check_vectors

    folder = VECTORS if folder is None else folder
    with _advancing() as advance:
        findings = list(check_vectors(folder, quick=quick, progress=advance))
    _print_findings(folder, findings)
    raise SystemExit(FAILED if any(finding.problems for finding in findings) else 0)


def _print_findings(folder: Path, findings: Sequence[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from .tables import new_console

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("what must hold")
    for heading in ("number", "wrong", "smallest margin", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in findings:
        margin = "" if finding.smallest is None else f"{finding.smallest:.3g}"
        wrong = Text(str(len(finding.problems)), style="bold red" if finding.problems else "dim")
        table.add_row(finding.check, finding.what, str(finding.number), wrong, margin, f"{finding.seconds:.1f}")
    console = new_console()
    console.print(table)
    problems = [problem for finding in findings for problem in finding.problems]
    for problem in problems:
        console.print(Text(problem), soft_wrap=True)
    console.print(
        Text(f"{folder}: {_count(len(problems), 'problem') if problems else 'nothing found'}"), soft_wrap=True
    )


@contextmanager
def _advancing() -> Iterator[Callable[[str], None]]:
    """Show on a terminal which vector is looked at; nothing in a pipe."""
    from .tables import new_console

    console = new_console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with console.status("reading the vectors") as status:
        yield lambda identifier: status.update(f"admitting {identifier}")

"""The command `attnspec`. Everything heavy is imported inside the commands, so that `--help` is immediate."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .compare_command import compare_command

if TYPE_CHECKING:
    from .results import Result

CONFORMS, DISAGREES, WRONG_USAGE, HARNESS_FAILED = 0, 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="attnspec")
def group() -> None:
    """Hold attention implementations to one executable definition.

    \b
    attnspec verify                     the reference and every installed backend
    attnspec verify my_kernel.py:fn     your own function fn(query, key, value, *, mask, …)
    attnspec compare FILE               your inputs on every framework
    attnspec targets                    what can be tested here

    Exit codes: 0 conforms, 1 does not, 2 wrong usage or nothing ran, 3 the harness itself failed.
    """


@group.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]…")
@click.option(
    "--require",
    default="",
    metavar="NAMES",
    help="Backends, separated by commas, that must be installed: a missing one is a failure.",
)
@click.option(
    "--clause",
    "clauses",
    multiple=True,
    metavar="ID",
    help="Only cases of this clause, such as S7; repeatable, like all selections.",
)
@click.option("--op", "operations", multiple=True, metavar="NAME", help="Only cases of this operation.")
@click.option("--dtype", "dtypes", multiple=True, metavar="NAME", help="Only cases of this dtype.")
@click.option("--level", "levels", multiple=True, metavar="NAME", help="Only cases of this level.")
@click.option("--case", "cases", multiple=True, metavar="ID", help="Only this case.")
@click.option("--direction", "directions", multiple=True, metavar="NAME", help="Only forward, or only backward, cases.")
@click.option("--quick", is_flag=True, help="A first look: one vector or two for each clause, at float32.")
@click.option("--profile", metavar="NAME", help="The arithmetic that is declared for its dtype, such as bf16_eager.")
@click.option(
    "--failures",
    default=5,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=0),
    help="How many failures to describe.",
)
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="A case that takes longer is a timeout.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    help="Write every result as JSON (- for standard output, instead of the table).",
)
@click.option(
    "--jobs",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many targets run at once, each in its own process.",
)
def verify(
    targets: tuple[str, ...],
    require: str,
    clauses: tuple[str, ...],
    operations: tuple[str, ...],
    dtypes: tuple[str, ...],
    levels: tuple[str, ...],
    cases: tuple[str, ...],
    directions: tuple[str, ...],
    quick: bool,
    profile: str | None,
    failures: int,
    timeout: float,
    json_path: Path | None,
    jobs: int,
) -> None:
    """Run the conformance suite on targets; by default the reference and every installed backend.

    TARGET is reference, torch, tensorflow or jax, or module:callable, or path.py:callable.
    """
    from .backends import BACKEND_NAMES, list_backends
    from .cases import shipped_cases
    from .isolation import run_isolated
    from .profiles import find_profile
    from .runner import Selection, check_selection
    from .tables import new_console, print_reasons, print_report

    backends = {backend.name: backend for backend in list_backends()}
    required = [name.strip() for name in require.split(",") if name.strip()]
    for name in required:
        if name not in backends:
            raise click.UsageError(f"--require: there is no backend {name!r}; there are {', '.join(BACKEND_NAMES)}")
    specs = list(dict.fromkeys(targets)) or [name for name, backend in backends.items() if backend.is_available]
    missing = [
        f"{name} is required and {backends[name].framework} is not installed; install it with: {backends[name].install}"
        for name in required
        if not backends[name].is_available
    ]
    specs += [name for name in required if name not in specs and backends[name].is_available]
    selection = Selection(
        frozenset(clauses),
        frozenset(operations),
        frozenset(dtypes),
        frozenset(levels),
        frozenset(cases),
        frozenset(directions),
        quick,
    )
    try:
        find_profile(profile)
        check_selection(selection)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if json_path is not None and str(json_path) != "-" and not json_path.parent.is_dir():
        raise click.UsageError(f"--json: there is no folder {json_path.parent}")
    total = len(specs) * sum(selection.matches(case) for case in shipped_cases())
    with _progress(total) as advance:
        report = run_isolated(
            specs,
            selection,
            profile=profile,
            missing=missing,
            jobs=jobs,
            seconds_per_case=timeout,
            progress=advance,
        )
    if json_path is not None and str(json_path) == "-":
        click.echo(report.to_json())
    else:
        if json_path is not None:
            _write(json_path, report.to_json())
        console = new_console()
        print_report(console, report, failures=failures)
        print_reasons(console, report)
    if report.missing or report.failures():
        raise SystemExit(DISAGREES)
    raise SystemExit(CONFORMS if report.conforms else WRONG_USAGE)  # what is left: nothing was decided


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf8")
    except OSError as error:
        raise click.UsageError(f"--json: cannot write {path}: {error.strerror}") from None


@group.command(name="targets")
def list_targets() -> None:
    """List what can be tested here, and what is missing."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .backends import list_backends
    from .tables import new_console

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "import", "framework", "version"):
        table.add_column(heading, no_wrap=True)
    for backend in list_backends():
        version = backend.version or f"not installed: {backend.install}"
        table.add_row(backend.name, f"import {backend.module} as attn", backend.framework, version)
    console = new_console()
    console.print(table)
    console.print("Any function is a target too: module:callable or path.py:callable.", soft_wrap=True)


group.add_command(compare_command)


class _progress:  # noqa: N801 - used as a function
    """A bar on a terminal; nothing in a pipe, where the table alone is wanted."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __enter__(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from .tables import new_console

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = new_console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        task = self._bar.add_task("verifying", total=self._total)

        def advance(result: Result) -> None:
            self._bar.update(task, advance=1, description=f"{result.target} {result.case}"[:48].ljust(48))

        return advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def main() -> None:
    """Run the command line: turn what users can mend into one line, and everything else into exit code 3."""
    try:
        group(prog_name="attnspec", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("attnspec: interrupted", err=True)
        sys.exit(HARNESS_FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG_USAGE)
    except Exception as error:
        if _is_users(error):
            click.echo(f"attnspec: {error}", err=True)
            sys.exit(WRONG_USAGE)
        traceback.print_exc()
        click.echo("attnspec: the harness itself failed; please report the lines above", err=True)
        sys.exit(HARNESS_FAILED)


def _is_users(error: Exception) -> bool:
    from .cases import VectorError
    from .targets import TargetError

    return isinstance(error, VectorError | TargetError)

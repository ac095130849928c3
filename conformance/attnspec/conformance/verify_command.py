"""The command `attnspec verify`: the suite on targets, each in processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .report_outputs import check_outputs, output_options, write_outputs

if TYPE_CHECKING:
    from .results import Result

CONFORMS, DISAGREES, WRONG_USAGE = 0, 1, 2


@click.command(name="verify")
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
    "--memory",
    default=4096,
    show_default=True,
    metavar="MB",
    type=click.IntRange(min=1),
    help="How much memory a target's process may take beyond what it holds once the target is loaded.",
)
@click.option("--diagnosis/--no-diagnosis", default=True, help="Whether the likely cause of failures is looked for.")
@output_options
@click.option(
    "--jobs",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many targets run at once, each in its own process.",
)
def verify_command(
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
    memory: int,
    diagnosis: bool,
    jobs: int,
    **paths: Path | None,
) -> None:
    """Run the conformance suite on targets; by default the reference and every installed backend.

    TARGET is reference, torch, tensorflow or jax, or module:callable, or path.py:callable.
    """
    from .backends import BACKEND_NAMES, list_backends
    from .cases import shipped_cases
    from .isolation import run_isolated
    from .profiles import find_profile
    from .runner import Selection, check_selection
    from .tables import show_report

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
    check_outputs(paths)
    total = len(specs) * sum(selection.matches(case) for case in shipped_cases())
    with _progress(total) as advance:
        report = run_isolated(
            specs,
            selection,
            profile=profile,
            missing=missing,
            jobs=jobs,
            seconds_per_case=timeout,
            megabytes=memory,
            progress=advance,
            diagnosed=diagnosis,
        )
    if not write_outputs(report, paths):
        show_report(report, failures=failures)
    if report.missing or report.failures():
        raise SystemExit(DISAGREES)
    raise SystemExit(CONFORMS if report.conforms else WRONG_USAGE)  # what is left: nothing was decided


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

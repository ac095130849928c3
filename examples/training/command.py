"""What the training commands have in common: options, errors of one line, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .exercises import DTYPES, FRAMEWORKS, Exercise

if TYPE_CHECKING:
    from .records import Records

AGREES, DISAGREES, WRONG_USAGE, FAILED = 0, 1, 2, 3

Function = TypeVar("Function", bound=Callable[..., Any])


class WrongUsageError(click.ClickException):
    """Options or files that do not fit."""

    exit_code = WRONG_USAGE


def training_options(*, epochs: str) -> Callable[[Function], Function]:
    """Give a command the options of every training; `epochs` says what the default of that one is."""
    own_folder = click.Path(path_type=Path, dir_okay=False)
    options = (
        click.option("--frameworks", metavar="NAMES", help="Separated by commas. Default: all that are installed."),
        click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of everything."),
        click.option("--epochs", type=click.IntRange(min=1), metavar="N", help=f"How many. Default: {epochs}."),
        click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop each model after so many."),
        click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of everything drawn."),
        click.option("--plot", type=own_folder, metavar="FILE", help="Draw the curves, as .png, .svg or .pdf."),
        click.option("--json", "json_path", type=own_folder, metavar="FILE", help="Write all numbers as JSON."),
    )

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def choose_frameworks(names: str | None) -> list[str]:
    """Return the frameworks that were asked for, by default the installed ones."""
    from .processes import missing

    if names is None:
        found = [name for name in FRAMEWORKS if missing(name) is None]
        if not found:
            raise WrongUsageError(
                "none of the frameworks is installed; install one with: pip install 'attnspec[torch]'"
            )
        return found
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [name for name in chosen if name not in FRAMEWORKS]
    if unknown or not chosen:
        got = repr(unknown[0]) if unknown else "none"
        raise WrongUsageError(f"--frameworks: choose from {', '.join(FRAMEWORKS)}; got {got}")
    for name in chosen:
        package = missing(name)
        if package is not None:
            raise WrongUsageError(
                f"--frameworks: {name} needs {package}; install it with: pip install 'attnspec[{name}]'"
            )
    return chosen


def check_files(plot: Path | None, json_path: Path | None) -> None:
    """Refuse before the training what could not be written after it."""
    for option, path in (("--plot", plot), ("--json", json_path)):
        if path is not None and not path.parent.is_dir():
            raise WrongUsageError(f"{option}: there is no folder {path.parent}")
    if plot is not None:
        import importlib.util

        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise WrongUsageError(f"--plot: the name must end in .png, .svg or .pdf; got {plot.name}")
        if importlib.util.find_spec("matplotlib") is None:
            raise WrongUsageError("--plot needs matplotlib; install it with: pip install matplotlib")


def run_exercises(example: str, about: str, exercises: Sequence[Exercise], frameworks: Sequence[str]) -> Records:
    """Train, show what happens and what came out, and return it."""
    from .display import follow, new_console, print_results
    from .processes import run, version
    from .records import Records

    records = Records(example, about, exercises, {name: version(name) for name in frameworks})
    console = new_console()
    console.print(f"{about}; {records.dtype}, seed {exercises[0].seed}", soft_wrap=True)
    console.print(", ".join(f"{name} {number}" for name, number in records.versions.items()))
    follow(console, records, run(exercises, frameworks))
    print_results(console, records)
    return records


def write(records: Records, plot: Path | None, json_path: Path | None) -> int:
    """Write the files that were asked for; return the exit code."""
    try:
        if json_path is not None:
            json_path.write_text(records.to_json(), encoding="utf8")
        if plot is not None:
            from .plot import draw

            draw(records, plot)
    except OSError as error:
        raise WrongUsageError(f"cannot write {error.filename}: {error.strerror}") from None
    return DISAGREES if records.problems() else AGREES


def run_command(command: click.Command, name: str) -> None:
    """Run a command line: what its user can mend is one line, and everything that went wrong has its exit code."""
    from .processes import TrainingFailedError

    try:
        sys.exit(command.main(prog_name=f"python -m {name}", standalone_mode=False))
    except click.exceptions.Abort:
        click.echo(f"{name}: interrupted", err=True)
        sys.exit(FAILED)
    except click.ClickException as error:
        click.echo(f"{name}: {error.format_message()}", err=True)
        sys.exit(WRONG_USAGE)
    except TrainingFailedError as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)

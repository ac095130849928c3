"""The files that a report is written to, as options of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from .results import Report

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _jsonl(report: Report) -> str:
    from .report_files import report_lines

    return report_lines(report)


def _junit(report: Report) -> str:
    from .report_junit import render_junit

    return render_junit(report)


def _html(report: Report) -> str:
    from .report_page import render_page

    return render_page(report)


def _markdown(report: Report) -> str:
    from .report_markdown import render_markdown

    return render_markdown(report)


def _badge(report: Report) -> str:
    from .report_badge import render_badge

    return render_badge(report)


FORMATS: dict[str, tuple[Callable[[Report], str], str]] = {
    "jsonl": (_jsonl, "Write the report as JSON lines, which `attnspec report` reads"),
    "json": (lambda report: report.to_json() + "\n", "Write every result as one JSON document"),
    "junit": (_junit, "Write JUnit XML"),
    "html": (_html, "Write one HTML page, which needs nothing else"),
    "markdown": (_markdown, "Write Markdown, to paste into an issue"),
    "badge": (_badge, "Write a badge, an SVG picture"),
}
"""What each option writes. `-` is standard output, which then holds nothing else."""


def output_options(function: _Function) -> _Function:
    """Give a command an option for each format; it gets their paths by the names of the formats."""
    for name, (_, text) in reversed(FORMATS.items()):
        kind = click.Path(path_type=Path, allow_dash=True, dir_okay=False)
        function = click.option(f"--{name}", type=kind, metavar="FILE", help=f"{text} (- for standard output).")(
            function
        )
    return function


def check_outputs(paths: Mapping[str, Path | None]) -> None:
    """Refuse what cannot be written before anything is computed."""
    given = {name: path for name, path in paths.items() if path is not None}
    to_output = [name for name, path in given.items() if str(path) == "-"]
    if len(to_output) > 1:
        raise click.UsageError(f"--{to_output[0]} and --{to_output[1]} cannot both be standard output")
    files: dict[Path, str] = {}
    for name, path in given.items():
        if str(path) == "-":
            continue
        if not path.parent.is_dir():
            raise click.UsageError(f"--{name}: there is no folder {path.parent}")
        other = files.setdefault(path.resolve(), name)
        if other != name:
            raise click.UsageError(f"--{other} and --{name} cannot both be written to {path}")
    if "html" in given:
        from .report_page import check_renderable

        try:
            check_renderable()
        except ModuleNotFoundError as error:
            raise click.UsageError(f"--html: {error}") from None


def write_outputs(report: Report, paths: Mapping[str, Path | None]) -> bool:
    """Write a report to every path that is given; return whether one of them is standard output."""
    for name, path in paths.items():
        if path is not None:
            write_text(name, path, FORMATS[name][0](report))
    return any(str(path) == "-" for path in paths.values())


def write_text(name: str, path: Path, text: str) -> None:
    """Write text to the path of an option."""
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf8")
    except OSError as error:
        raise click.UsageError(f"--{name}: cannot write {path}: {error.strerror}") from None

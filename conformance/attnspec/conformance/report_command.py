"""The command `attnspec report`: reports of `attnspec verify --jsonl`, shown, merged and compared."""

from __future__ import annotations

from pathlib import Path

import click

from .report_outputs import check_outputs, output_options, write_outputs, write_text

GOT_WORSE = 1

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(name="report")
def report_command() -> None:
    """Show, merge and compare the reports that `attnspec verify --jsonl FILE` writes."""


@report_command.command(name="show")
@click.argument("file", type=_FILE)
@click.option(
    "--failures",
    default=5,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=0),
    help="How many failures to describe.",
)
@output_options
def show(file: Path, failures: int, **paths: Path | None) -> None:
    """Print a report as `attnspec verify` does, or write it in another format.

    The exit code is 0, whatever the report says.
    """
    from .report_files import read_report
    from .tables import show_report

    check_outputs(paths)
    report = read_report(file)
    if not write_outputs(report, paths):
        show_report(report, failures=failures)


@report_command.command(name="merge")
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE FILE…")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where the merged report goes (- for standard output).",
)
def merge_command(files: tuple[Path, ...], output: Path) -> None:
    """Put reports of several targets or machines together.

    They must have been made with the same vectors. A case of a target that is in two of them with different results is
    an error.
    """
    from .report_files import read_report, report_lines
    from .report_merge import merge

    check_outputs({"output": output})
    if len({path.resolve() for path in files}) < 2:
        raise click.UsageError(f"two reports or more can be merged; got {' '.join(map(str, files))}")
    write_text("output", output, report_lines(merge({str(path): read_report(path) for path in files})))


@report_command.command(name="diff")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    metavar="FILE",
    help="Write every change as JSON (- for standard output, instead of the list).",
)
@click.option(
    "--limit",
    default=20,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=0),
    help="How many changes of each kind are listed.",
)
def diff(before: Path, after: Path, json_path: Path | None, limit: int) -> None:
    """Say what changed between two reports: what got worse first.

    Worse is: a case that does not conform any more, that is unsupported now, whose error / bound more than doubled (to
    at least 0.1), or that has no result any more.

    Exit codes: 0 nothing got worse, 1 something did, 2 wrong usage.
    """
    from .report_diff import compare_reports
    from .report_files import read_report
    from .tables import new_console, print_difference

    check_outputs({"json": json_path})
    difference = compare_reports(read_report(before), read_report(after))
    if json_path is not None:
        write_text("json", json_path, difference.to_json() + "\n")
    if str(json_path) != "-":
        print_difference(new_console(), difference, limit=limit)
    raise SystemExit(GOT_WORSE if difference.is_worse else 0)

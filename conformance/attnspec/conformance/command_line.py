"""The command `attnspec`. Everything heavy is imported inside the commands, so that `--help` is immediate."""

from __future__ import annotations

import sys
import traceback

import click

from .compare_command import compare_command
from .faults_command import faults_command
from .report_command import report_command
from .targets_command import targets_command
from .vectors_command import vectors_command
from .verify_command import verify_command

WRONG_USAGE, HARNESS_FAILED = 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="attnspec")
def group() -> None:
    """Hold attention implementations to one executable definition.

    \b
    attnspec verify                     the reference and every installed backend
    attnspec verify my_kernel.py:fn     your own function fn(query, key, value, *, mask, …)
    attnspec compare FILE               your inputs on every framework
    attnspec targets                    what can be tested here
    attnspec report …                   reports of verify: shown, merged, compared
    attnspec faults                     what the vectors catch: planted faults, and correct variants
    attnspec vectors …                  the vectors: listed, shown, exported, checked

    Exit codes: 0 conforms, 1 does not, 2 wrong usage or nothing ran, 3 the harness itself failed.
    """


group.add_command(verify_command)
group.add_command(compare_command)
group.add_command(report_command)
group.add_command(targets_command)
group.add_command(vectors_command)
group.add_command(faults_command)


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
    from .report_files import ReportError
    from .targets import TargetError

    return isinstance(error, VectorError | ReportError | TargetError)

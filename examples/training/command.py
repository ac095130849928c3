"""What the training commands have in common."""

import click


class WrongUsageError(click.ClickException):
    exit_code = 2

"""`attnspec targets`: what can be tested by name, what of it is installed, and what it can do. Imports no framework."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import click

FORMAT = 1
"""The version of the JSON."""


class Listed(NamedTuple):
    """A target that has a name."""

    name: str
    kind: str
    """`backend`: attnspec's own; `native`: a framework's."""
    what: str
    """The module, or the function, that it is."""
    framework: str
    version: str | None
    """None: not installed."""
    install: str
    """The command that installs what it needs."""
    operations: tuple[str, ...]
    dtypes: tuple[str, ...]
    has_gradients: bool
    conventions: tuple[str, ...]
    """How a case is said in its words."""


def listed_targets() -> tuple[Listed, ...]:
    """List attnspec's backends and the frameworks' own attentions."""
    from .backends import list_backends
    from .calls import DTYPES
    from .natives import NATIVES
    from .operations import OPERATIONS

    backends = [
        Listed(
            backend.name,
            "backend",
            backend.module,
            backend.framework,
            f"{backend.framework} {backend.version}" if backend.is_available else None,
            backend.install,
            tuple(OPERATIONS),
            tuple(DTYPES),
            True,
            (),
        )
        for backend in list_backends()
    ]
    natives = [
        Listed(
            entry.name,
            "native",
            entry.function,
            entry.framework,
            None if entry.missing else entry.version,
            entry.install,
            entry.operations,
            entry.dtypes,
            entry.has_gradients,
            entry.conventions,
        )
        for entry in NATIVES.values()
    ]
    return (*backends, *natives)


@click.command(name="targets")
@click.option("--json", "as_json", is_flag=True, help="Everything that is known of them, as JSON.")
def targets_command(as_json: bool) -> None:
    """List what can be tested by name, what is installed, and what each can do."""
    found = listed_targets()
    if as_json:
        click.echo(json.dumps({"format": FORMAT, "targets": [_as_json(one) for one in found]}, indent=1))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from .calls import DTYPES
    from .tables import new_console

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("target", "version"):
        table.add_column(heading, no_wrap=True)
    table.add_column("operations", overflow="fold")
    for heading in ("dtypes", "gradients"):
        table.add_column(heading, overflow="fold")
    everything = max(len(one.operations) for one in found)
    for one in found:
        table.add_row(
            one.name,
            one.version or "not installed",
            f"all {everything}" if len(one.operations) == everything else ", ".join(one.operations),
            "all" if one.dtypes == tuple(DTYPES) else ", ".join(one.dtypes),
            "yes" if one.has_gradients else "no",
        )
    console = new_console()
    console.print(table)
    missing: dict[str, list[str]] = {}
    for one in found:
        if one.version is None:
            missing.setdefault(one.install, []).append(one.name)
    for install, names in missing.items():
        console.print(f"not installed: {', '.join(names)}; install with: {install}", soft_wrap=True)
    console.print("A target may also be module:callable, path.py:callable, exec:COMMAND or a folder of results.")


def _as_json(one: Listed) -> dict[str, Any]:
    return {**one._asdict(), "is_available": one.version is not None}

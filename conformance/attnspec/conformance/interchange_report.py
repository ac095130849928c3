"""The measured part of docs/interchange.md: `python -m attnspec.conformance.interchange_report [PAGE]`."""

from __future__ import annotations

import importlib
import importlib.metadata
import textwrap
from collections.abc import Iterable
from pathlib import Path

import click

from .interchange import DIRECTIONS, Agreement, Exchange, measure
from .interchange_cases import exchanges
from .measured_pages import replace_measured

_NATIVE = {"torch": "torch", "tensorflow": "keras", "jax": "flax"}
"""The package whose layers each backend exchanges."""


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
def main(page: Path | None) -> None:
    """Measure every exchange and print the results, or put them between the markers of PAGE."""
    importlib.import_module("torch")  # before TensorFlow: both bring an OpenMP runtime, and torch's must come first
    measured = report({name: measure_all(name) for name in _NATIVE})
    if page is None:
        click.echo(measured)
    else:
        page.write_text(replace_measured(page.read_text(encoding="utf8"), measured), encoding="utf8")


def measure_all(framework: str) -> list[tuple[Exchange, dict[str, Agreement | None]]]:
    """Measure every exchange with a framework in both directions."""
    return [(one, {name: measure(one, name) for name in DIRECTIONS}) for one in exchanges(framework)]


def report(results: dict[str, list[tuple[Exchange, dict[str, Agreement | None]]]]) -> str:
    """Write what was measured: the text between the markers."""
    versions = ", ".join(f"{package} {_version(package)}" for package in map(_NATIVE.__getitem__, results))
    rows, notes = [], []
    for found in results.values():
        for theirs, ours in dict.fromkeys((one.theirs, one.ours) for one, _ in found):
            own = [(one, agreements) for one, agreements in found if (one.theirs, one.ours) == (theirs, ours)]
            cells = [_ratios(agreements[direction] for _, agreements in own) for direction in DIRECTIONS]
            rows.append((f"`{theirs}`", f"`{ours}`", str(len(own)), *cells))
            notes.append(_wrap(f"- `{theirs}`, `{ours}`: {'; '.join(_note(*pair) for pair in own)}", "  "))
    heading = ("theirs", "ours", "cases", *(f"`{direction}`: theirs, ours" for direction in DIRECTIONS))
    return "\n\n".join((f"Measured with {versions}, in float32.", _table(heading, rows), "\n".join(notes)))


def _note(one: Exchange, agreements: dict[str, Agreement | None]) -> str:
    refused = [name for name, agreement in agreements.items() if agreement is None]
    note = one.note or "as it is built"
    return f"{note} (`{refused[0]}` refuses it)" if refused else note


def _ratios(agreements: Iterable[Agreement | None]) -> str:
    """Show the largest ratio of error to bound on each side."""
    found = [agreement for agreement in agreements if agreement is not None]
    return f"{max(one.theirs for one in found):.2f}, {max(one.ours for one in found):.2f}"


def _version(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()

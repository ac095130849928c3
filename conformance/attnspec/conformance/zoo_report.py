"""The pages of the zoo: `python -m attnspec.conformance.zoo_report docs/faults.md`.

It measures the matrix, the false alarms, and how often the diagnosis is right, and writes them into that page; the
distribution of all ratios goes into `bounds.md` and `images/bounds.svg` beside it.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .bounds_report import bounds_tables, draw, measure_bounds
from .calls import DTYPES
from .diagnosis_accuracy import (
    PAIRS,
    Named,
    are_indistinguishable,
    name_fault,
    name_pair,
    name_stranger,
    names_both,
    share_unknown,
    strangers,
    targets,
)
from .fault_matrix import SHOWN, FaultRow, Matrix, alarms, measure, show_margin
from .measured_pages import replace_measured
from .profiles import PROFILES
from .results import Diagnosis
from .zoo import ROBUST


def fault_tables(matrix: Matrix) -> str:
    """Return every fault in a table for each operation."""
    families = dict.fromkeys(row.fault.family for row in matrix.faults)
    parts = []
    for family in families:
        rows = [row for row in matrix.faults if row.fault.family == family]
        columns = " | ".join(f"{dtype}: caught by | margin | best vector" for dtype in SHOWN)
        parts += [
            f"### {family if family == 'attention' else f'`{family}`'}",
            "",
            f"| fault | clause | visible with | {columns} | seen in |",
            f"|---|---|---|{'---|---|---|' * len(SHOWN)}---|",
            *(_fault_line(row) for row in rows),
            "",
        ]
    return "\n".join(parts).rstrip()


def _fault_line(row: FaultRow) -> str:
    fault = row.fault
    cells = []
    for dtype in SHOWN:
        caught = row.at(dtype)
        best = "–" if caught.best is None else f"`{caught.best.removesuffix(f'-{dtype}')}`"
        cells += [f"{caught.caught_by} of {caught.vectors}", show_margin(caught.margin), best]
    return " | ".join(
        ("| `" + fault.name + "`", fault.clause, _cell(fault.visible_when), *cells, _seen(fault.seen_in) + " |")
    )


def _seen(text: str) -> str:
    if not text.startswith("https://"):
        return _cell(text)
    parts = text.removeprefix("https://").split("/")
    words = f"{parts[1]}/{parts[2]} {parts[-1]}" if parts[0] == "github.com" and len(parts) > 3 else parts[0]
    return f"[{words}]({text})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def summary_table(matrix: Matrix) -> str:
    """Return how many faults are caught at each dtype."""
    lines = ["| dtype | faults | with vectors | caught | margin ≥ 4 | missed |", "|---|---|---|---|---|---|"]
    for dtype in matrix.dtypes:
        here = [row.at(dtype) for row in matrix.faults]
        seen, robust = sum(each.caught_by > 0 for each in here), sum(each.is_robust for each in here)
        with_vectors = sum(each.vectors > 0 for each in here)
        share = f"{robust} ({robust / len(here):.1%})"
        lines.append(f"| {dtype} | {len(here)} | {with_vectors} | {seen} | {share} | {len(here) - seen} |")
    return "\n".join(lines)


def weak_table(matrix: Matrix, dtype: str) -> str:
    """Return the faults that are not caught robustly at a dtype, and why."""
    lines = [f"| not caught with margin ≥ {ROBUST:g} at {dtype} | margin | why |", "|---|---|---|"]
    for row in matrix.faults:
        caught = row.at(dtype)
        if caught.is_robust:
            continue
        if not caught.vectors:
            why = f"the operation has no vector in {dtype}"
        elif (caught.margin or 0) > 1:
            why = "visible, but near the rounding of the dtype"
        else:
            why = f"below the rounding of {dtype} in every vector, or no design that shows it is there in {dtype}"
        lines.append(f"| `{row.fault.name}` | {show_margin(caught.margin)} | {why} |")
    return "\n".join(lines) if len(lines) > 2 else f"Every fault is caught with margin ≥ {ROBUST:g} at {dtype}."


def alarm_table(matrix: Matrix) -> str:
    """Return how often a correct variant is rejected, by profile."""
    lines = [
        "| profile | dtype | variants | checks | rejected | median ratio | 99 % | largest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in alarms(matrix.variants):
        numbers = " | ".join(f"{number:.2f}" for number in (each.median, each.high, each.largest))
        dtype = PROFILES[each.profile].dtype
        lines.append(f"| {each.profile} | {dtype} | {each.variants} | {each.checks} | {each.rejected} | {numbers} |")
    return "\n".join(lines)


class Accuracy(NamedTuple):
    """What the diagnosis said of targets whose fault is known."""

    faults: dict[str, list[Named]]
    """By the way in which the target computes it; without those that nothing fails."""
    pairs: dict[tuple[str, str], tuple[Diagnosis, ...]]
    strangers: dict[str, tuple[Diagnosis, ...]]


def accuracy_tables(accuracy: Accuracy) -> str:
    """Return how often the diagnosis is right."""
    lines = ["| target | diagnosed | right name first | share |", "|---|---|---|---|"]
    wrong: list[str] = []
    for way, named in accuracy.faults.items():
        right = [each for each in named if each.is_right or are_indistinguishable(each.truth, each.said)]
        lines.append(f"| the fault {way} | {len(named)} | {len(right)} | {len(right) / len(named):.1%} |")
        wrong += [f"- {way}: {_mistake(each)}" for each in named if not each.is_right]
    pairs = accuracy.pairs
    both = [pair for pair, said in pairs.items() if names_both(pair, said)]
    lines.append(f"| two faults at once | {len(pairs)} | {len(both)} | {len(both) / len(pairs):.1%} |")
    wrong += [f"- {' + '.join(pair)}: {_said(said)}" for pair, said in pairs.items() if not names_both(pair, said)]
    lines += ["", "Where another name came first:" if wrong else "The right name came first everywhere.", "", *wrong]
    lines += ["", "| a stranger | unknown, of its failing cases | else |", "|---|---|---|"]
    for name, said in accuracy.strangers.items():
        others = ", ".join(f"{each.cause} ({len(each.cases)})" for each in said if each.cause != "unknown")
        lines.append(f"| {name} | {share_unknown(said):.1%} of {said[0].failing} | {others or '–'} |")
    return "\n".join(lines)


def _mistake(named: Named) -> str:
    same = " (the two give the same bits on every vector)" if are_indistinguishable(named.truth, named.said) else ""
    return f"`{named.truth}`: {named.said}{same}"


def _said(said: Sequence[Diagnosis]) -> str:
    return ", ".join(each.cause for each in said)


def page(matrix: Matrix, accuracy: str) -> str:
    """Return the measured part of docs/faults.md."""
    return "\n\n".join(
        (
            "## What is caught",
            summary_table(matrix),
            weak_table(matrix, "bfloat16"),
            "## False alarms",
            alarm_table(matrix),
            "## Diagnosis",
            accuracy,
            "## Every fault",
            "A margin is the largest error over its bound; ∞ is NaN, another shape, or a number where 0 is due.",
            fault_tables(matrix),
        )
    )


def main() -> None:
    """Measure in as many processes as there are cores, and write."""
    faults = Path(sys.argv[1])
    bounds = faults.with_name("bounds.md")
    known, pairs, others = targets(), list(PAIRS), list(strangers())
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        named = pool.map(name_fault, known, chunksize=8)
        of_pairs, of_strangers = pool.map(name_pair, pairs), pool.map(name_stranger, others)
        distributions, matrix = measure_bounds(), measure(tuple(DTYPES))
        ways: dict[str, list[Named]] = {}
        for (way, _), each in zip(known, named, strict=True):
            if each is not None:
                ways.setdefault(way, []).append(each)
        accuracy = Accuracy(ways, dict(zip(pairs, of_pairs, strict=True)), dict(zip(others, of_strangers, strict=True)))
    text = replace_measured(faults.read_text(encoding="utf8"), page(matrix, accuracy_tables(accuracy)))
    faults.write_text(text, encoding="utf8")
    text = replace_measured(bounds.read_text(encoding="utf8"), bounds_tables(distributions))
    bounds.write_text(text, encoding="utf8")
    draw(distributions, faults.parent / "images" / "bounds.svg")


if __name__ == "__main__":
    main()

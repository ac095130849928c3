"""The curves of a run as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .agreement import STEPS, TOLERANCES, differences
from .exercises import Exercise
from .records import Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: dict[str, dict[str, Any]] = {
    "torch": {"color": "#D55E00", "linewidth": 4.0, "alpha": 0.45},
    "tensorflow": {"color": "#0072B2", "linewidth": 1.6},
    "jax": {"color": "#000000", "linewidth": 1.2, "dashes": (2.0, 3.0)},
}
"""Curves lie on top of one another: each is thinner than the one below it. Apart in any kind of colour vision."""
_PAIR_COLOURS = ("#D55E00", "#0072B2", "#009E73")
_ROWS = ("loss of each step", "accuracy on the test", "relative difference of losses")
_LOWEST = {"float32": 1e-8, "float64": 1e-17}
"""Where the scale of differences begins: below what a dtype can tell apart."""


def draw(records: Records, path: Path) -> None:
    """Draw losses, accuracies and differences of each exercise, and write them to a file."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own style must not change what a picture says
        draw_figure(records).savefig(path, dpi=120)


def draw_figure(records: Records) -> Figure:
    """Draw a column for each exercise: losses, accuracies, differences. A single exercise is drawn as one row."""
    from matplotlib.figure import Figure

    count = len(records.exercises)
    rows, columns = (3, count) if count > 1 else (1, 3)
    figure = Figure(figsize=(3.6 * columns + 0.6, 2.6 * rows + 1.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey="row" if count > 1 else "none")
    for i, exercise in enumerate(records.exercises):
        column = panels[:, i] if count > 1 else panels[0]
        _draw_losses(column[0], records, exercise)
        _draw_accuracies(column[1], records, exercise)
        _draw_differences(column[2], records, exercise)
        if count > 1:
            column[0].set_title(exercise.name, fontweight="bold")
        for axes in column:
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    first = panels[:, 0] if count > 1 else panels[0]
    for axes, name in zip(first, _ROWS, strict=True):
        axes.set_ylabel(name)
    versions = ", ".join(f"{name} {version}" for name, version in records.versions.items())
    figure.suptitle(f"{records.about}\n{versions}; {records.dtype}", fontsize=11)
    named = [line for axes in (first[0], first[2]) for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=named, loc="outside lower center", ncols=4 if columns < 3 else 7, frameon=False, fontsize=9)
    return figure


def _draw_losses(axes: Axes, records: Records, exercise: Exercise) -> None:
    for framework, record in records.of(exercise).items():
        axes.plot(_count(record.losses), record.losses, label=framework, **STYLES[framework])
    axes.set_yscale("log")
    axes.set_xlabel("step")


def _draw_accuracies(axes: Axes, records: Records, exercise: Exercise) -> None:
    for framework, record in records.of(exercise).items():
        accuracies = [epoch.accuracy for epoch in record.epochs]
        axes.plot(_count(accuracies), accuracies, **STYLES[framework])
    last = dict.fromkeys(f"{record.epochs[-1].accuracy:.3f}" for record in records.of(exercise).values())
    axes.annotate(f"at the end {', '.join(last)}", (0.97, 0.06), xycoords="axes fraction", ha="right", fontsize=9)
    axes.set_ylim(0.0, 1.03)
    axes.set_xlabel("epoch")


def _draw_differences(axes: Axes, records: Records, exercise: Exercise) -> None:
    """Draw how far each pair is apart, and where it may not be; equal losses have no point."""
    counted, allowed, lowest = STEPS[records.dtype], TOLERANCES[records.dtype], _LOWEST[records.dtype]
    losses = {framework: record.losses for framework, record in records.of(exercise).items()}
    highest = _highest(records)
    for (pair, numbers), colour in zip(differences(losses).items(), _PAIR_COLOURS, strict=False):
        shown = np.where(numbers > 0.0, numbers, np.nan)
        axes.plot(_count(numbers), shown, ".", markersize=2.5, color=colour, label=" – ".join(pair))
    last = min(counted, exercise.total_steps)
    axes.fill_between([1, last], allowed, highest, color="0.85", label=f"not allowed in the first {counted} steps")
    axes.set_yscale("log")
    axes.set_ylim(lowest, highest)
    axes.set_xlabel("step")


def _highest(records: Records) -> float:
    """Return where the scale of differences ends: exercises share it."""
    found = [10 * TOLERANCES[records.dtype]]
    for exercise in records.exercises:
        losses = {framework: record.losses for framework, record in records.of(exercise).items()}
        found += [2 * float(np.nanmax(numbers, initial=0.0)) for numbers in differences(losses).values()]
    return max(found)


def _count(numbers: Any) -> range:
    return range(1, len(numbers) + 1)

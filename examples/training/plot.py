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
_ROWS = ("loss of each step", "accuracy on the test", "relative difference of the losses")
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
    figure = Figure(figsize=(3.6 * columns + 0.6, 2.7 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey="row" if count > 1 else "none")
    for i, exercise in enumerate(records.exercises):
        column = panels[:, i] if count > 1 else panels[0]
        _draw_losses(column[0], records, exercise)
        _draw_accuracies(column[1], records, exercise)
        _draw_differences(column[2], records, exercise)
        column[0].set_title(exercise.name, fontweight="bold")
        for axes in column:
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    for axes, name in zip(panels[:, 0] if count > 1 else panels[0], _ROWS, strict=True):
        axes.set_ylabel(name)
    versions = ", ".join(f"{name} {version}" for name, version in records.versions.items())
    figure.suptitle(f"{records.example}: {records.about}\n{versions}; {records.dtype}", fontsize=11)
    return figure


def _draw_losses(axes: Axes, records: Records, exercise: Exercise) -> None:
    for framework, record in records.of(exercise).items():
        axes.plot(_count(record.losses), record.losses, label=framework, **STYLES[framework])
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.legend(frameon=False, fontsize=8, handlelength=3.0)


def _draw_accuracies(axes: Axes, records: Records, exercise: Exercise) -> None:
    for framework, record in records.of(exercise).items():
        accuracies = [epoch.accuracy for epoch in record.epochs]
        axes.plot(_count(accuracies), accuracies, label=framework, **STYLES[framework])
    last = ", ".join(dict.fromkeys(f"{record.epochs[-1].accuracy:.3f}" for record in records.of(exercise).values()))
    axes.annotate(f"at last {last}", (0.97, 0.06), xycoords="axes fraction", ha="right", fontsize=9)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("epoch")


def _draw_differences(axes: Axes, records: Records, exercise: Exercise) -> None:
    """Draw how far each pair is apart, and how far it may be where it counts; equal losses leave a gap."""
    losses = {framework: record.losses for framework, record in records.of(exercise).items()}
    for (pair, numbers), colour in zip(differences(losses).items(), _PAIR_COLOURS, strict=False):
        shown = np.where(numbers == 0.0, np.nan, numbers)
        axes.plot(_count(numbers), shown, label=" – ".join(pair), color=colour, linewidth=0.9, alpha=0.8)
    counted, allowed = STEPS[records.dtype], TOLERANCES[records.dtype]
    axes.plot([1, counted], [allowed, allowed], color="black", linewidth=1.6)
    axes.annotate(f"allowed in {counted} steps", (1, allowed), (2, 3), textcoords="offset points", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(_LOWEST[records.dtype], 10 * allowed)
    axes.set_xlabel("step")
    if len(losses) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _count(numbers: Any) -> range:
    return range(1, len(numbers) + 1)

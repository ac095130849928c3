"""How far apart right and wrong are: the ratios of correct variants and of faults under each profile, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .fault_matrix import show_margin
from .profiles import PROFILES
from .zoo import ROBUST, margins, ratios, zoo_faults, zoo_variants

LOWEST, HIGHEST = 1e-3, 1e8
"""The ratios that are drawn; those beyond stand at the edge, and so do 0 and infinity."""


class Distribution(NamedTuple):
    """The ratios under one profile."""

    profile: str
    variants: tuple[float, ...]
    """For each correct variant that declares it, and each vector: the largest error over its bound."""
    faults: tuple[float, ...]
    """For each fault whose operation has vectors: its margin by the vector that catches it best."""


def measure_bounds() -> tuple[Distribution, ...]:
    """Hold all variants and all faults against the vectors under every profile."""
    found = []
    for profile in PROFILES.values():
        declared = [each for each in zoo_variants() if each.profiles.get(profile.dtype) == profile.name]
        right = [ratio for each in declared for ratio in ratios(each, profile.dtype).values()]
        best = [max(margins(fault, profile.dtype, profile).values(), default=None) for fault in zoo_faults()]
        found.append(Distribution(profile.name, tuple(right), tuple(each for each in best if each is not None)))
    return tuple(found)


def bounds_tables(distributions: Sequence[Distribution]) -> str:
    """Return the measured part of docs/bounds.md."""
    lines = [
        "### Correct variants",
        "",
        "| profile | checks | median | 90 % | 99 % | largest | above 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in distributions:
        if each.variants:
            values = np.array(each.variants)
            high = (np.median(values), np.quantile(values, 0.9), np.quantile(values, 0.99), values.max())
            numbers = " | ".join(f"{number:.2f}" for number in high)
            lines.append(f"| {each.profile} | {values.size} | {numbers} | {int((values > 1).sum())} |")
        else:
            lines.append(f"| {each.profile} | 0: no variant declares it | – | – | – | – | – |")
    lines += [
        "",
        "### Faults",
        "",
        "Of each fault, the margin by the vector that catches it best.",
        "",
        "| profile | faults with vectors | smallest | 5 % | median | ∞ | above 1 | at least 4 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in distributions:
        values = np.sort(np.array(each.faults))
        shown = [show_margin(float(values[int(share * (values.size - 1))])) for share in (0.0, 0.05, 0.5)]
        counts = (np.isinf(values).sum(), (values > 1).sum(), (values >= ROBUST).sum())
        lines.append(f"| {each.profile} | {values.size} | {' | '.join(shown)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def draw(distributions: Sequence[Distribution], path: Path) -> None:
    """Draw both distributions of every profile over a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "attnspec"  # the same numbers give the same file
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    edges = np.logspace(np.log10(LOWEST), np.log10(HIGHEST), 56)
    figure, axes = plt.subplots(len(distributions), 1, sharex=True, figsize=(8, 1.1 * len(distributions) + 0.9))
    for axis, each in zip(np.atleast_1d(axes), distributions, strict=True):
        for values, colour, label in (
            (each.variants, "#2a6fbb", "correct variants, each vector"),
            (each.faults, "#c0392b", "faults, by their best vector"),
        ):
            if values:
                inside = np.clip(values, LOWEST * 1.001, HIGHEST * 0.999)
                weights = np.full(len(values), 1 / len(values))
                axis.hist(
                    inside, bins=edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.75, label=label
                )
        axis.axvline(1.0, color="black", linewidth=1)
        axis.axvline(ROBUST, color="black", linewidth=0.7, linestyle=":")
        axis.set_xscale("log")
        axis.set_yticks([])
        axis.set_ylabel(each.profile, rotation=0, ha="right", va="center")
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    last = np.atleast_1d(axes)[-1]
    last.set_xlabel("largest error / bound   (— 1: the bound,  ··· 4: caught robustly; ∞ stands at the right edge)")
    handles, labels = last.get_legend_handles_labels()
    first = np.atleast_1d(axes)[0]
    handles, labels = first.get_legend_handles_labels() if len(labels) < 2 else (handles, labels)
    figure.legend(handles, labels, loc="upper center", ncols=2, frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.13, right=0.98, top=0.93, bottom=0.08, hspace=0.25)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)

"""What of some attention maps is drawn: as much as a person can look at, and a note for everything else.

A map of more than `LARGEST_SIDE` rows or columns is drawn in cells of several pairs: a cell shows the number of its
pairs that is farthest from 0, so that nothing that stands out can hide. The largest error of a head and its
error / bound are always those of all its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .attention_maps import AttentionMaps, LayerMaps, StageMaps, printable
from .tables import show_ratio

Array: TypeAlias = np.ndarray[Any, Any]

LARGEST_SIDE = 64
"""A map has at most this many rows, and columns."""
MOST_HEADS = 32
MOST_SEQUENCES = 8
MOST_NUMBERS = 2**20
"""Layers are drawn until a page holds this many numbers; the first always is."""


class Facts(NamedTuple):
    """One head of one target, all of its numbers."""

    largest: float
    """Largest |target − expected|."""
    ratio: float | None
    """Largest error / bound."""
    outside: int
    """How many numbers are outside their bound."""
    total: int
    """How many it has."""


class Axis(NamedTuple):
    """The rows or columns of a map."""

    names: tuple[str, ...]
    """What each cell is called: a token or a number, or the first and the last of several."""
    step: int
    """How many positions a cell holds."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One stage of one layer, (heads, rows, columns), as it is drawn."""

    expected: Array
    visible: Array
    differences: dict[str, Array]
    facts: dict[str, tuple[Facts, ...]]
    """For each target, its heads."""
    rows: Axis
    columns: Axis

    @property
    def empty(self) -> Array:
        """Which rows see nothing at all, (heads, rows)."""
        return np.asarray(~self.visible.any(axis=-1))

    def worst(self, target: str) -> Facts:
        """Return the facts of all drawn heads together."""
        return _together(self.facts[target])


@dataclass(frozen=True, eq=False)
class DrawnLayer:
    """One layer of one sequence."""

    name: str
    weights: Panel
    output: Panel | None


@dataclass(frozen=True, eq=False)
class DrawnSequence:
    """One sequence, and those of its layers that are drawn."""

    title: str
    layers: tuple[DrawnLayer, ...]


def select(maps: Sequence[AttentionMaps]) -> tuple[tuple[DrawnSequence, ...], tuple[str, ...]]:
    """Choose what is drawn, sequence by sequence and layer by layer; return it, and a note for what is left out."""
    drawn: list[DrawnSequence] = []
    notes: list[str] = []
    left_out: list[tuple[AttentionMaps, LayerMaps]] = []
    numbers = 0
    for sequence in maps:
        layers = []
        for layer in sequence.layers:
            if 0 in layer.weights.expected.shape:
                notes.append(f"nothing to draw: the weights have the shape {layer.weights.expected.shape}")
                continue
            size = sum(_size(stage) for stage in (layer.weights, layer.output) if stage is not None)
            if numbers and (numbers + size > MOST_NUMBERS or len(drawn) >= MOST_SEQUENCES or left_out):
                left_out.append((sequence, layer))
                continue
            numbers += size
            layers.append(_draw(sequence, layer, notes))
        if layers:
            drawn.append(DrawnSequence(printable(sequence.title), tuple(layers)))
    if left_out:
        first = " of ".join(part for part in (left_out[0][1].name, left_out[0][0].title) if part)
        total = sum(len(sequence.layers) for sequence in maps)
        worst = _worst(layer for _, layer in left_out)
        notes.append(printable(f"not drawn: {len(left_out)} of {total} maps, from {first} on{worst}"))
    if not drawn and not notes:
        notes.append("nothing to draw: there is no sequence")
    return tuple(drawn), tuple(dict.fromkeys(notes))


def draw_stage(stage: StageMaps, rows: Axis, columns: Axis) -> Panel:
    """Reduce one stage to the cells of two axes, and to the heads that are drawn."""
    shown = slice(0, MOST_HEADS)
    expected = np.asarray(stage.expected[shown], np.float64)
    visible = np.ones(expected.shape, bool) if stage.visible is None else stage.visible[shown]
    steps = (rows.step, columns.step)
    return Panel(
        _reduce(expected, *steps),
        _reduce(visible.astype(np.float64), *steps) > 0,
        {name: _reduce(stage.difference(name)[shown], *steps) for name in stage.targets},
        {name: facts_of(stage, name)[shown] for name in stage.targets},
        rows,
        columns,
    )


def facts_of(stage: StageMaps, target: str) -> tuple[Facts, ...]:
    """Measure every head of a target."""
    sizes = np.abs(stage.difference(target))
    sizes = np.where(np.isnan(sizes), np.inf, sizes)
    ratios = stage.ratios(target)
    return tuple(
        Facts(
            float(sizes[head].max(initial=0.0)),
            None if ratios is None else float(ratios[head].max(initial=0.0)),
            0 if ratios is None else int((ratios[head] > 1.0).sum()),
            sizes[head].size,
        )
        for head in range(len(sizes))
    )


def largest_finite(numbers: Array) -> float:
    """Return the largest finite magnitude: what the strongest colour stands for."""
    sizes = np.abs(numbers)
    return float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))


def show_error(number: float) -> str:
    """Write an absolute error with the digits that matter."""
    return f"{number:.3g}"


def axis_of(length: int, names: Sequence[str] | None = None) -> Axis:
    """Name the cells of an axis: its tokens, else numbers from 0; the first and the last of several in one cell."""
    own = [str(i) for i in range(length)] if names is None else [printable(name) for name in names]
    if len(own) != length:
        raise ValueError(f"an axis of {length} positions cannot have {len(own)} names")
    step = -(-length // LARGEST_SIDE)
    if step == 1:
        return Axis(tuple(own), 1)
    starts = range(0, length, step)
    return Axis(tuple(f"{own[i]}–{own[min(i + step, length) - 1]}" for i in starts), step)


def _draw(sequence: AttentionMaps, layer: LayerMaps, notes: list[str]) -> DrawnLayer:
    heads, queries, keys = layer.weights.expected.shape
    rows, columns = axis_of(queries, sequence.query_tokens), axis_of(keys, sequence.key_tokens)
    _note_cells(notes, "weights", layer.weights, rows, columns)
    if heads > MOST_HEADS:
        rest = LayerMaps("", _heads_from(layer.weights, MOST_HEADS))
        notes.append(f"of {heads} heads the first {MOST_HEADS} are drawn{_worst([rest])}")
    weights, output = draw_stage(layer.weights, rows, columns), None
    if layer.output is not None and 0 not in layer.output.expected.shape:
        components = axis_of(layer.output.expected.shape[-1])
        _note_cells(notes, "outputs", layer.output, rows, components)
        output = draw_stage(layer.output, rows, components)
    return DrawnLayer(printable(layer.name), weights, output)


def _note_cells(notes: list[str], what: str, stage: StageMaps, rows: Axis, columns: Axis) -> None:
    if rows.step == columns.step == 1:
        return
    _, height, width = stage.expected.shape
    notes.append(
        f"{what} of {height} × {width} numbers are drawn in cells of {rows.step} × {columns.step}: "
        f"each shows the number that is farthest from 0"
    )


def _reduce(array: Array, rows: int, columns: int) -> Array:
    """Take from each block of rows × columns the number that is farthest from 0: NaN before Inf before the others."""
    if rows == columns == 1:
        return array
    heads, height, width = array.shape
    padded = np.pad(array, ((0, 0), (0, -height % rows), (0, -width % columns)))
    blocks = padded.reshape(heads, padded.shape[1] // rows, rows, padded.shape[2] // columns, columns)
    blocks = blocks.swapaxes(2, 3).reshape(*blocks.shape[:2], blocks.shape[3], rows * columns)
    farthest = np.argmax(np.abs(blocks), axis=-1, keepdims=True)  # argmax takes the first NaN where there is one
    return np.take_along_axis(blocks, farthest, axis=-1)[..., 0]


def _size(stage: StageMaps) -> int:
    """Count the numbers that drawing a stage takes."""
    heads, rows, columns = stage.expected.shape
    cells: int = min(heads, MOST_HEADS) * min(rows, LARGEST_SIDE) * min(columns, LARGEST_SIDE)
    return cells * (1 + len(stage.targets))


def _heads_from(stage: StageMaps, first: int) -> StageMaps:
    bound = None if stage.bound is None else stage.bound[first:]
    return StageMaps(stage.expected[first:], {name: array[first:] for name, array in stage.targets.items()}, bound)


def _worst(layers: Iterator[LayerMaps] | Sequence[LayerMaps]) -> str:
    """Say how far off each target is in what is not drawn."""
    found: dict[str, list[Facts]] = {}
    for stage in (stage for layer in layers for stage in (layer.weights, layer.output) if stage is not None):
        for target in stage.targets:
            found.setdefault(target, []).extend(facts_of(stage, target))
    ratios = {target: _together(facts).ratio for target, facts in found.items()}
    shown = ", ".join(f"{target} {show_ratio(ratio)}" for target, ratio in ratios.items() if ratio is not None)
    return f"; largest error / bound there: {shown}" if shown else ""


def _together(facts: Sequence[Facts]) -> Facts:
    ratios = [one.ratio for one in facts if one.ratio is not None]
    return Facts(
        max((one.largest for one in facts), default=0.0),
        max(ratios, default=None),
        sum(one.outside for one in facts),
        sum(one.total for one in facts),
    )

"""Attention maps: what every head of every layer looks at, and where targets differ from the reference.

This is the data, from whatever source: `report_of` makes it from a comparison, and anybody may make an `AttentionMaps`
of arrays of their own. `map_page` and `map_picture` draw it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .admission import error_ratios
from .comparison_files import InputError
from .results import Status

if TYPE_CHECKING:
    from .compare import Comparison, Row

Array: TypeAlias = np.ndarray[Any, Any]

VERDICTS = {
    Status.PASS: "agrees",
    Status.FAIL: "differs",
    Status.ERROR: "error",
    Status.UNSUPPORTED: "unsupported",
}
"""What a page or a picture says of a target."""


@dataclass(frozen=True, eq=False)
class StageMaps:
    """One stage of one attention, (heads, rows, columns): the reference's numbers, and those of every target."""

    expected: Array
    targets: Mapping[str, Array]
    bound: Array | None = None
    """The largest allowed |target − expected| of each number, where one is known."""
    visible: Array | None = None
    """Where a query may attend; None: everywhere."""

    def __post_init__(self) -> None:
        shape = self.expected.shape
        if len(shape) != 3:
            raise ValueError(f"`expected` must have 3 axes, (heads, rows, columns); got shape {shape}")
        others = {f"targets[{name!r}]": array for name, array in self.targets.items()}
        for name, array in {**others, "bound": self.bound, "visible": self.visible}.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"`{name}` must have the shape of `expected`, {shape}; got shape {array.shape}")

    def difference(self, target: str) -> Array:
        """Return target − expected: 0 where both are the same NaN or Inf."""
        found, expected = np.asarray(self.targets[target], np.float64), np.asarray(self.expected, np.float64)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(same, 0.0, found - expected)

    def ratios(self, target: str) -> Array | None:
        """Return |target − expected| / bound of each number."""
        return None if self.bound is None else error_ratios(self.targets[target], self.expected, self.bound)


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """One attention of one sequence."""

    name: str
    """`layer 3`, or nothing where there is only one."""
    weights: StageMaps
    """(heads, queries, keys)."""
    output: StageMaps | None = None
    """(heads, queries, components), or one head where the heads are merged: of those targets whose weights are not
    known, or whose output leaves its bound."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """One sequence, or pair of sequences, through every layer."""

    title: str
    """The sentence, `batch element 3`, or nothing where there is only one."""
    layers: tuple[LayerMaps, ...]
    query_tokens: tuple[str, ...] | None = None
    """What the queries are called; by default their numbers."""
    key_tokens: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class MapReport:
    """Attention maps, and what a comparison says beside them."""

    title: str
    maps: tuple[AttentionMaps, ...]
    about: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    """The targets, as a comparison lists them."""
    warnings: tuple[str, ...] = ()
    verdict: str = ""
    agrees: bool = True

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that has maps of its own, in the order of the rows."""
        stages = [stage for maps in self.maps for layer in maps.layers for stage in (layer.weights, layer.output)]
        found = dict.fromkeys(name for stage in stages if stage is not None for name in stage.targets)
        order = {row.target: i for i, row in enumerate(self.rows)}
        return tuple(sorted(found, key=lambda name: order.get(name, len(order))))


class Names(NamedTuple):
    """What the entries of the batch axes are called, where somebody knows."""

    layers: tuple[str, ...] = ()
    """The first batch axis holds these layers; empty: it holds sequences like the others."""
    sequences: tuple[str, ...] = ()
    tokens: tuple[tuple[str, ...], ...] = ()
    """The tokens of each sequence, queries and keys alike."""


def report_of(comparison: Comparison, names: Names | None = None) -> MapReport:
    """Collect the maps of a comparison: a batch element is a sequence, unless `names` says that it is a layer.

    The reference's own row has no maps of differences: it is what the others are compared with.
    """
    question = comparison.question
    tokens = question.inputs.tokens
    names = names or Names(tokens=() if tokens is None else (tokens,))
    return MapReport(
        title=question.inputs.source,
        maps=() if comparison.stages is None else _maps_of(comparison, names),
        about=(f"{question.describe()}, profile {question.profile.name}",),
        rows=comparison.rows,
        warnings=comparison.warnings,
        verdict=comparison.verdict,
        agrees=comparison.agrees,
    )


_PACKAGES = {".html": ("jinja2", "matplotlib"), ".png": ("matplotlib",)}


def write_maps(path: Path, report: MapReport) -> None:
    """Draw maps to an .html page or a .png picture: the suffix says which.

    Raises:
        InputError: another suffix.
        ModuleNotFoundError: what draws is not installed.
    """
    check_drawable(path)
    if path.suffix == ".html":
        from .map_page import render_page

        path.write_text(render_page(report), encoding="utf8")
    else:
        from .map_picture import draw_picture

        path.write_bytes(draw_picture(report))


def check_drawable(path: Path) -> None:
    """Refuse what `write_maps` would refuse; imports nothing of what draws."""
    if path.suffix not in _PACKAGES:
        raise InputError(f"{path}: attention maps are drawn to .html or .png files; got {path.suffix!r}")
    for package in _PACKAGES[path.suffix]:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"drawing attention maps needs {package}, which is not installed; "
                f"install it with: pip install 'attnspec[report]'",
                name=package,
            )


def printable(text: str) -> str:
    """Write what cannot be seen, or turns the text around it, as an escape: control characters, lone surrogates, …"""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _maps_of(comparison: Comparison, names: Names) -> tuple[AttentionMaps, ...]:
    batch = comparison.stages.weights.shape[:-3]
    if names.layers and batch[:1] != (len(names.layers),):
        raise ValueError(f"{len(names.layers)} layers are named; the first batch axis of {batch} must hold them")
    places = list(np.ndindex(batch[1:] if names.layers else batch))
    for what, given in (("sequences", names.sequences), ("tokens", names.tokens)):
        if given and len(given) != len(places):
            raise ValueError(f"`{what}` names {len(given)} sequences; there are {len(places)}")
    stages = _stages_of_elements(comparison)
    layers = names.layers or ("",)
    maps = []
    for i, place in enumerate(places):
        labels = names.tokens[i] if names.tokens else None
        own = stages[i :: len(places)]  # layers are the first axis: each holds all sequences
        maps.append(
            AttentionMaps(
                names.sequences[i] if names.sequences else _title(place, len(places)),
                tuple(LayerMaps(name, *of_layer) for name, of_layer in zip(layers, own, strict=True)),
                labels,
                labels,
            )
        )
    return tuple(maps)


def _stages_of_elements(comparison: Comparison) -> list[tuple[StageMaps, StageMaps | None]]:
    """Return weights and output of each batch element in turn."""
    evaluation, stages = comparison.question.evaluation, comparison.stages
    bounds = evaluation.stage_bounds
    assert bounds is not None  # noqa: S101 - an attention that has stages has their bounds
    *batch, heads, queries, _ = stages.weights.shape
    elements = math.prod(batch)
    merged = comparison.question.case.operation == "multi_head_attention"

    def of_weights(array: Array) -> Array:
        return array.reshape(elements, *stages.weights.shape[-3:])

    def of_output(array: Array) -> Array:
        return array.reshape(elements, 1 if merged else heads, queries, array.shape[-1])

    weights, outputs = {}, {}
    for row in comparison.rows[1:]:
        if row.weights is not None:
            weights[row.target] = of_weights(row.weights)
        if row.output is not None and (row.weights is None or row.status is Status.FAIL):
            outputs[row.target] = of_output(row.output)
    expected, bound, visible = map(of_weights, (stages.weights, bounds.weights, stages.logits != -np.inf))
    expected_output, output_bound = of_output(evaluation.output), of_output(evaluation.bound)
    return [
        (
            StageMaps(expected[i], {name: array[i] for name, array in weights.items()}, bound[i], visible[i]),
            StageMaps(expected_output[i], {name: array[i] for name, array in outputs.items()}, output_bound[i])
            if outputs
            else None,
        )
        for i in range(elements)
    ]


def _title(place: tuple[int, ...], count: int) -> str:
    if count == 1:
        return ""
    return f"batch element {place[0] if len(place) == 1 else place}"

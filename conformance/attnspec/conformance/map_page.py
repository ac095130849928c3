"""Attention maps as one HTML page that needs nothing else: no network, no fonts, and no scripts to be read.

Every map is an SVG that holds a small image, one pixel for each cell, below what is the same in many maps and is
defined once: the names along its axes, and the pattern over what is masked. The page's script adds the number under the
pointer; it reads it from the page's data, and the page's policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .attention_maps import VERDICTS, MapReport, check_drawable, printable
from .map_colours import DARK, NEGATIVE, NOT_FINITE, POSITIVE, css_colour, difference_image, gradient, weights_image
from .map_panels import Axis, DrawnLayer, Facts, Panel, largest_finite, select, show_error
from .results import Status
from .tables import show_ratio

Array: TypeAlias = np.ndarray[Any, Any]

TEMPLATES = Path(__file__).parent / "templates"

_SIDE = 176
"""How many units a map is wide and high, unless its cells would be too small or too large."""
_SMALLEST_CELL, _LARGEST_CELL = 4.0, 46.0
_SMALLEST_WITH_NUMBERS = 36.0
"""Cells of at least this width hold their number."""
_LETTER, _LINE = 6.1, 11.0
"""The width of a letter, and the height of a line, of the names along the axes."""
_LONGEST_NAME = 14
_KINDS = {Status.PASS: "good", Status.FAIL: "bad", Status.ERROR: "bad", Status.UNSUPPORTED: "muted"}


class Geometry(NamedTuple):
    """Where the cells of a map lie."""

    left: float
    top: float
    cell_width: float
    cell_height: float
    rows: int
    columns: int

    @property
    def width(self) -> float:
        """The width with the names."""
        return self.left + self.cell_width * self.columns + 1

    @property
    def height(self) -> float:
        """The height with the names."""
        return self.top + self.cell_height * self.rows + 1


class Axes(NamedTuple):
    """What the maps of one panel share."""

    id: str
    geometry: Geometry
    rows: tuple[tuple[float, str], ...]
    """Where a name stands, and the name; fewer names than rows where they would overlap."""
    columns: tuple[tuple[float, str], ...]


class Number(NamedTuple):
    """What stands in a large cell."""

    x: float
    y: float
    text: str
    is_on_dark: bool | None
    """None: the page's own text colour is right."""


class Map(NamedTuple):
    """One image of one head."""

    title: str
    image: str
    numbers: tuple[Number, ...]
    caption: str
    is_outside: bool
    is_difference: bool


class Head(NamedTuple):
    """The maps of one head, side by side."""

    id: str
    title: str
    axes: Axes
    mask: str | None
    maps: tuple[Map, ...]
    is_outside: bool
    peak: str
    """Its largest weight."""


class Stage(NamedTuple):
    """The heads of one stage."""

    title: str
    heads: tuple[Head, ...]
    largest: str
    """Its largest number, which the strongest colour stands for."""


class Layer(NamedTuple):
    """One layer of one sequence."""

    id: str
    title: str
    ratios: tuple[tuple[str, str, bool], ...]
    """For each target its largest error / bound, and whether that is above 1."""
    stages: tuple[Stage, ...]


class Shared:
    """What several maps of the page use: axes and masks, each once, and the numbers for the script."""

    def __init__(self, targets: Sequence[str]) -> None:
        self.axes: dict[tuple[Axis, Axis], Axes] = {}
        self.masks: dict[tuple[str, bytes], tuple[str, str, str]] = {}
        self.targets = tuple(targets)
        self.numbers: dict[str, Any] = {}

    def axes_of(self, panel: Panel) -> Axes:
        """Return the axes of a panel."""
        key = (panel.rows, panel.columns)
        if key not in self.axes:
            self.axes[key] = _lay_out(f"axes{len(self.axes)}", *key)
        return self.axes[key]

    def mask_of(self, visible: Array, axes: Axes) -> str | None:
        """Return the name of the pattern over what is masked; None where nothing is."""
        if visible.all():
            return None
        key = (axes.id, visible.tobytes())
        if key not in self.masks:
            empty = np.asarray(~visible.any(axis=-1))
            self.masks[key] = (
                f"mask{len(self.masks)}",
                _outline(~visible & ~empty[:, None], axes.geometry),
                _outline(np.broadcast_to(empty[:, None], visible.shape), axes.geometry),
            )
        return self.masks[key][0]

    def data(self) -> dict[str, Any]:
        """Return what the script reads."""
        axes = {
            one.id: {**one.geometry._asdict(), "row_names": rows.names, "column_names": columns.names}
            for (rows, columns), one in self.axes.items()
        }
        targets = [printable(name) for name in self.targets]
        return {"targets": targets, "axes": axes, "heads": self.numbers}


def render_page(report: MapReport) -> str:
    """Draw a report as one HTML page.

    Raises:
        ModuleNotFoundError: jinja2 or matplotlib is missing.
    """
    check_drawable(Path("page.html"))
    import jinja2  # here, because only drawing needs it
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    drawn, notes = select(report.maps)
    shared = Shared(report.targets)
    sequences = [
        {
            "title": sequence.title,
            "layers": [_layer(f"s{i}l{j}", layer, shared) for j, layer in enumerate(sequence.layers)],
        }
        for i, sequence in enumerate(drawn)
    ]
    script, style = ((TEMPLATES / name).read_text(encoding="utf8") for name in ("maps.js", "maps.css"))
    return environment.get_template("maps.html.jinja").render(
        report=report,
        rows=[_row(row) for row in report.rows],
        sequences=sequences,
        notes=notes,
        shared=shared,
        gradient=", ".join(gradient()),
        positive=css_colour(POSITIVE),
        negative=css_colour(NEGATIVE),
        not_finite=css_colour(NOT_FINITE),
        style=Markup(style),  # ours, not a caller's
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _row(row: Any) -> dict[str, Any]:
    return {
        "target": row.target,
        "version": row.version,
        "error": "" if row.max_error is None else show_error(row.max_error),
        "ratio": show_ratio(row.ratio),
        "first_difference": row.first_difference or "",
        "time": "" if row.seconds is None else f"{row.seconds * 1e3:.3g} ms",
        "verdict": VERDICTS[row.status],
        "kind": _KINDS[row.status],
        "message": row.message,
    }


def _layer(name: str, layer: DrawnLayer, shared: Shared) -> Layer:
    stages = [_stage(name, "weights", layer.weights, shared)]
    if layer.output is not None:
        stages.append(_stage(f"{name}o", "output", layer.output, shared))
    worst: dict[str, float] = {}
    for panel in (panel for panel in (layer.weights, layer.output) if panel is not None):
        for target in panel.facts:
            ratio = panel.worst(target).ratio
            if ratio is not None:
                worst[target] = max(worst.get(target, 0.0), ratio)
    ratios = tuple((target, show_ratio(ratio), not ratio <= 1.0) for target, ratio in worst.items())
    return Layer(name, layer.name, ratios, tuple(stages))


def _stage(name: str, title: str, panel: Panel, shared: Shared) -> Stage:
    axes, largest = shared.axes_of(panel), largest_finite(panel.expected)
    heads = []
    for head, expected in enumerate(panel.expected):
        identifier, visible = f"{name}h{head}", panel.visible[head]
        maps = []
        if title == "weights":
            image = weights_image(expected, visible, largest)
            numbers = _numbers(expected, visible, axes.geometry, largest)
            maps.append(Map("reference", image, numbers, "", False, False))
        for target, differences in panel.differences.items():
            facts, scale = panel.facts[target][head], largest_finite(differences[head])
            image = difference_image(differences[head], scale)
            numbers = _signed_numbers(differences[head], axes.geometry, scale)
            caption = _caption(facts, scale)
            maps.append(Map(f"{target} − reference", image, numbers, caption, facts.outside > 0, True))
        heads.append(
            Head(
                identifier,
                f"head {head}" if title == "weights" or len(panel.expected) > 1 else "all heads",
                axes,
                shared.mask_of(visible, axes),
                tuple(maps),
                any(one.is_outside for one in maps),
                f"{largest_finite(expected):.3g}",
            )
        )
        shared.numbers[identifier] = {
            "axes": axes.id,
            "stage": "weight" if title == "weights" else "output",
            "values": [
                _number(value, 6) if seen else None
                for value, seen in zip(expected.ravel().tolist(), visible.ravel().tolist(), strict=True)
            ],
            "differences": [
                [shared.targets.index(target), [_number(value, 3) for value in array[head].ravel().tolist()]]
                for target, array in panel.differences.items()
            ],
        }
    return Stage(title, tuple(heads), f"{largest:.3g}")


def _caption(facts: Facts, scale: float) -> str:
    """Say what the strongest colour of a map of differences stands for, and how far off the map is."""
    parts = [] if math.isfinite(facts.largest) else ["NaN or Inf"]
    if scale or not parts:
        parts.append(f"± {show_error(scale)}" if scale else "no difference")
    if facts.ratio is not None:
        parts.append(f"error / bound {show_ratio(facts.ratio)}")
    if facts.outside:
        parts.append(f"{facts.outside} of {facts.total} outside")
    return ", ".join(parts)


def _number(value: float, digits: int) -> float | str:
    """Round for the page's data; JSON has no NaN and no infinity."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else str(value)


def _lay_out(name: str, rows: Axis, columns: Axis) -> Axes:
    """Place the cells and the names of a map."""
    short_rows, short_columns = ([_shorten(one) for one in axis.names] for axis in (rows, columns))
    geometry = Geometry(
        round(max(map(len, short_rows)) * _LETTER + 7, 1),
        round(max(map(len, short_columns)) * _LETTER + 7, 1),
        _cell(len(columns.names)),
        _cell(len(rows.names)),
        len(rows.names),
        len(columns.names),
    )
    return Axes(
        name,
        geometry,
        _labels(short_rows, geometry.top, geometry.cell_height),
        _labels(short_columns, geometry.left, geometry.cell_width),
    )


def _numbers(weights: Array, visible: Array, geometry: Geometry, largest: float) -> tuple[Number, ...]:
    """Place the weights in their cells, where these are large enough."""
    return tuple(
        Number(x, y, f"{weights[place]:.3f}", bool(weights[place] < DARK * largest))
        for place, x, y in _places(visible, geometry)
    )


def _signed_numbers(differences: Array, geometry: Geometry, largest: float) -> tuple[Number, ...]:
    """Place the differences that are not 0 in their cells, where these are large enough."""
    return tuple(
        Number(x, y, f"{differences[place]:+.0e}", True if abs(differences[place]) > DARK * largest else None)
        for place, x, y in _places(differences != 0.0, geometry)
    )


def _places(shown: Array, geometry: Geometry) -> Iterator[tuple[tuple[int, int], float, float]]:
    left, top, width, height, *_ = geometry
    if width < _SMALLEST_WITH_NUMBERS:
        return
    for row, column in np.argwhere(shown).tolist():
        yield (row, column), round(left + (column + 0.5) * width, 1), round(top + (row + 0.5) * height, 1)


def _cell(count: int) -> float:
    return round(min(max(_SIDE / count, _SMALLEST_CELL), _LARGEST_CELL), 2)


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _labels(names: Sequence[str], start: float, cell: float) -> tuple[tuple[float, str], ...]:
    """Place every name, or every n-th where lines are higher than cells."""
    step = math.ceil(_LINE / cell)
    return tuple((round(start + (i + 0.5) * cell, 1), names[i]) for i in range(0, len(names), step))


def _outline(cells: Array, geometry: Geometry) -> str:
    """Return an SVG path around some cells, one rectangle for each run in a row."""
    left, top, width, height, *_ = geometry
    parts = []
    for i, row in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        for start, stop in edges.reshape(-1, 2):
            x, y, across = left + start * width, top + i * height, (stop - start) * width
            parts.append(f"M{x:g} {y:g}h{across:g}v{height:g}h{-across:g}z")
    return "".join(parts)

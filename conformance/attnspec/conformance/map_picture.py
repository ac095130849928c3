"""Attention maps as one PNG picture: heads side by side, layers and targets below one another.

The picture holds the first sequence: the reference's weights in every layer, then for each target the differences in
the layer where it is farthest off. The page (`map_page`) holds every sequence and every difference.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .attention_maps import VERDICTS, MapReport, check_drawable, printable
from .map_colours import COLOURS, DARK, NEGATIVE, NOT_FINITE, POSITIVE
from .map_panels import DrawnLayer, DrawnSequence, Facts, Panel, largest_finite, select, show_error
from .results import Status
from .tables import show_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Array: TypeAlias = np.ndarray[Any, Any]

MOST_HEADS = 16
MOST_LAYERS = 12
DOTS_PER_INCH = 120

_FONT = 7.0
"""Points; a letter is about half as wide."""
_LETTER, _LINE = 0.6 * _FONT / 72, 1.5 * _FONT / 72
_MARGIN, _GAP, _BAR, _BAR_NAMES = 0.15, 0.14, 0.1, 0.7
_NARROWEST, _WIDE = 7.5, 13.0
"""Blocks stand beside one another up to the second width."""
_WITH_NUMBERS = 6
"""Maps of at most this many columns have cells that hold their number."""
_LONGEST_NAME = 14
_GOOD, _BAD, _QUIET = "#1a7f37", "#c11f2d", "#5b636d"


class Block(NamedTuple):
    """The heads of one panel side by side: of the reference itself, or of a target's difference from it."""

    title: str
    panel: Panel
    target: str | None
    is_outside: bool
    begins: bool
    """Whether it is the first of its kind: the next ones share its names where they stand below it."""

    @property
    def numbers(self) -> Array:
        """What is drawn, (heads, rows, columns)."""
        return (self.panel.expected if self.target is None else self.panel.differences[self.target])[:MOST_HEADS]


class Place(NamedTuple):
    """Where a block lies, in inches from the top left."""

    x: float
    y: float
    """Its title's."""
    top: float
    """Its maps'."""
    title: list[str]
    has_names: bool
    """Whether the names of heads and columns stand above its maps."""


class Line(NamedTuple):
    """One line of text above the maps."""

    text: str
    colour: str = "black"
    size: float = _FONT


def draw_picture(report: MapReport) -> bytes:
    """Draw a report as the bytes of a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    check_drawable(Path("picture.png"))
    import matplotlib as mpl  # here, because only drawing needs it

    buffer = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # a reader's own style must not change what a picture says
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it, as in other programs
        draw_figure(report).savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def draw_figure(report: MapReport) -> Figure:
    """Draw a report as a figure of matplotlib; map h of block b is the axes labelled `b h`."""
    from matplotlib.figure import Figure

    drawn, notes = select(report.maps[:1])
    blocks = _blocks(drawn[0].layers) if drawn else []
    width = max([_width(block) for block in blocks] + [_NARROWEST if len(blocks) < 2 else _WIDE]) + 2 * _MARGIN
    lines = _heading(report, [*_notes(report, drawn), *notes], width)
    places, height = _lay_out(blocks, width, _MARGIN + sum(_height(line) for line in lines))

    figure = Figure(figsize=(width, height), facecolor="white")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", parse_math=False, **{"fontsize": _FONT, **style})

    def add_axes(label: str, x: float, y: float, across: float, down: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + down) / height, across / width, down / height), label=label)

    y = _MARGIN
    for line in lines:
        write(_MARGIN, y, line.text, color=line.colour, fontsize=line.size)
        y += _height(line)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        for j, part in enumerate(place.title):
            write(place.x, place.y + j * _LINE, part, weight="bold", color=_BAD if block.is_outside else "black")
        scale, x = largest_finite(block.numbers), place.x + _names_width(block)
        across, down = _sides(block)
        for head in range(len(block.numbers)):
            axes = add_axes(f"{i} {head}", x, place.top, across, down)
            _draw_map(axes, block, head, scale)
            _write_names(axes, block, head, place.has_names)
            x += across + _GAP
        _draw_bar(add_axes(f"{i} bar", x, place.top, _BAR, down), block, scale)
    return figure


def _blocks(layers: Sequence[DrawnLayer]) -> list[Block]:
    """Choose what is drawn: the weights of every layer, then each target's differences where they are largest."""
    blocks = [
        Block(f"{layer.name}: weights" if layer.name else "weights", layer.weights, None, False, i == 0)
        for i, layer in enumerate(layers[:MOST_LAYERS])
    ]
    for stage in ("weights", "output"):
        panels = [(layer.name, getattr(layer, stage)) for layer in layers if getattr(layer, stage) is not None]
        targets = dict.fromkeys(target for _, panel in panels for target in panel.differences)
        for i, target in enumerate(targets):
            name, panel = max(
                ((name, panel) for name, panel in panels if target in panel.differences),
                key=lambda place: _how_far(place[1].worst(target)),
            )
            worst = panel.worst(target)
            title = f"{printable(target)} − reference, {stage}{f' of {name}' if name else ''}: largest "
            title += show_error(worst.largest)
            if worst.ratio is not None:
                title += f", error / bound {show_ratio(worst.ratio)}"
            blocks.append(Block(title, panel, target, worst.outside > 0, i == 0))
    return blocks


def _how_far(facts: Facts) -> tuple[float, float]:
    return (facts.ratio or 0.0, facts.largest)


def _notes(report: MapReport, drawn: Sequence[DrawnSequence]) -> list[str]:
    """Say what the page has and the picture does not."""
    notes = []
    if len(report.maps) > 1:
        notes.append(f"only the first of {len(report.maps)} sequences is drawn: {report.maps[0].title}")
    layers = drawn[0].layers if drawn else ()
    heads = max((len(layer.weights.expected) for layer in layers), default=0)
    if heads > MOST_HEADS:
        notes.append(f"of {heads} heads the first {MOST_HEADS} are drawn")
    if len(layers) > MOST_LAYERS:
        notes.append(f"of {len(layers)} layers the first {MOST_LAYERS} are drawn")
    if len(layers) > 1 and report.targets:
        notes.append("differences are drawn for the layer with the largest error / bound only")
    return notes


def _heading(report: MapReport, notes: Sequence[str], width: float) -> list[Line]:
    """Write title, targets and notes as lines that fit."""
    letters = int((width - 2 * _MARGIN) / _LETTER)
    lines = [Line(f"Attention maps: {report.title}", size=1.7 * _FONT)]
    lines += [Line(line, _QUIET) for line in report.about]
    for row in report.rows:
        parts = [f"{row.target} ({row.version}): {VERDICTS[row.status]}"]
        parts += [] if row.max_error is None else [f"max error {show_error(row.max_error)}"]
        parts += [] if row.ratio is None else [f"error / bound {show_ratio(row.ratio)}"]
        parts += [] if row.first_difference is None else [f"first difference in {row.first_difference}"]
        parts += [row.message] if row.message else []
        lines.append(Line(", ".join(parts), "black" if row.status in (Status.PASS, Status.UNSUPPORTED) else _BAD))
    if report.verdict:
        lines.append(Line(report.verdict, _GOOD if report.agrees else _BAD))
    lines += [Line(f"Warning: {warning}", _QUIET) for warning in report.warnings]
    lines += [Line(f"Note: {note}", _QUIET) for note in notes]
    return [
        line._replace(text=part)
        for line in lines
        for part in textwrap.wrap(printable(line.text), int(letters * _FONT / line.size)) or [""]
    ]


def _height(line: Line) -> float:
    return _LINE * line.size / _FONT


def _lay_out(blocks: Sequence[Block], width: float, top: float) -> tuple[list[Place], float]:
    """Place the blocks beside one another where they fit, else below; return the height of everything too."""
    lines: list[list[Block]] = []
    room = 0.0
    for block in blocks:
        if _width(block) > room:
            lines.append([])
            room = width - 2 * _MARGIN
        lines[-1].append(block)
        room -= _width(block)
    places = []
    for line in lines:
        y, x = top + _GAP, _MARGIN
        titles = [textwrap.wrap(block.title, int(_width(block) / _LETTER * 0.9)) for block in line]
        has_names = [len(line) > 1 or block.begins for block in line]
        names = [
            _LINE + _length(block.panel.columns.names) + 0.08 if named else 0.06
            for block, named in zip(line, has_names, strict=True)
        ]
        top = y + max(map(len, titles)) * _LINE + max(names)
        for block, title, named in zip(line, titles, has_names, strict=True):
            places.append(Place(x, y, top, title, named))
            x += _width(block)
        top += max(_sides(block)[1] for block in line)
    return places, top + _MARGIN


def _width(block: Block) -> float:
    """Return how wide a block is, its names and its bar included."""
    return _names_width(block) + len(block.numbers) * (_sides(block)[0] + _GAP) + _BAR + _BAR_NAMES


def _names_width(block: Block) -> float:
    return _length(block.panel.rows.names) + 0.1


def _sides(block: Block) -> tuple[float, float]:
    """Return width and height of a map."""
    _, rows, columns = block.numbers.shape
    return _side(columns), _side(rows)


def _side(count: int) -> float:
    return 0.42 * count if count <= _WITH_NUMBERS else min(max(0.125 * count, 1.5), 3.2)


def _length(names: Sequence[str]) -> float:
    return max(len(_shorten(name)) for name in names) * _LETTER


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _draw_map(axes: Axes, block: Block, head: int, scale: float) -> None:
    """Draw one map: colours, over the patterns of what is masked and of empty rows."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    numbers, visible = block.numbers[head], block.panel.visible[head]
    hidden, finite = ~visible & (numbers == 0.0), np.isfinite(numbers)  # a difference where it is masked is shown
    lowest = 0.0 if block.target is None else -(scale or 1.0)
    axes.imshow(
        np.ma.masked_array(numbers, hidden | ~finite),
        _colours(block),
        aspect="auto",
        interpolation="nearest",
        vmin=lowest,
        vmax=scale or 1.0,
    )
    if not finite.all():
        strange = ListedColormap([_colour(NOT_FINITE)])
        axes.imshow(np.ma.masked_array(np.ones_like(numbers), finite), strange, aspect="auto", interpolation="nearest")
    if hidden.any():
        axes.patch.set(facecolor="white", edgecolor="0.7", hatch="/////", linewidth=0)
    for i in np.flatnonzero(block.panel.empty[head] & hidden.all(axis=-1)).tolist():
        blank = Rectangle((-0.5, i - 0.5), numbers.shape[1], 1, facecolor="white", edgecolor="0.6", hatch="....", lw=0)
        axes.add_patch(blank)
    if numbers.shape[1] <= _WITH_NUMBERS:
        for i, j in np.argwhere(~hidden & (visible if block.target is None else numbers != 0.0)).tolist():
            number = numbers[i, j]
            is_on_dark = abs(number) > DARK * scale if block.target is not None else number < DARK * scale
            text = f"{number:.3f}" if block.target is None else f"{number:+.0e}"
            axes.text(j, i, text, fontsize=_FONT, ha="center", va="center", color="white" if is_on_dark else "black")
    for side in axes.spines.values():
        side.set(linewidth=0.5, color=_QUIET)


def _write_names(axes: Axes, block: Block, head: int, has_names: bool) -> None:
    """Write the names of rows beside the first map, and of columns above a map whose block has them."""
    axes.tick_params(length=0, pad=2, labelsize=_FONT, top=False, labeltop=True, bottom=False, labelbottom=False)
    for axis, names, is_named in (
        (axes.yaxis, block.panel.rows.names, head == 0),
        (axes.xaxis, block.panel.columns.names, has_names),
    ):
        step = math.ceil(len(names) * _LINE * 0.8 / _side(len(names))) if is_named else 1
        places = range(0, len(names), step) if is_named else range(0)
        axis.set_ticks(places, [_shorten(names[i]) for i in places], parse_math=False)
    if has_names:
        for label in axes.get_xticklabels():
            label.set_rotation(90)
        if len(block.numbers) > 1 or block.target is None:
            axes.set_title(f"head {head}", fontsize=_FONT)


def _draw_bar(axes: Axes, block: Block, scale: float) -> None:
    """Draw what the colours of a block stand for."""
    lowest = 0.0 if block.target is None else -scale
    axes.imshow(np.linspace(1.0, 0.0, 64)[:, None], _colours(block), aspect="auto", extent=(0.0, 1.0, 0.0, 1.0))
    ticks = [0.0, 1.0] if block.target is None or not scale else [0.0, 0.5, 1.0]
    show = (lambda number: f"{number:.3g}") if block.target is None else show_error
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(ticks, [show(lowest + tick * (scale - lowest)) for tick in ticks] if scale else ["0", ""])
    axes.tick_params(length=0, pad=2, labelsize=_FONT)
    first, *_, last = axes.get_yticklabels()
    first.set_verticalalignment("bottom")  # inside the bar's height: a title may stand above
    last.set_verticalalignment("top")
    for side in axes.spines.values():
        side.set_visible(False)


def _colours(block: Block) -> Colormap:
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap

    if block.target is None:
        return mpl.colormaps[COLOURS]
    return LinearSegmentedColormap.from_list("difference", [_colour(NEGATIVE), (1.0, 1.0, 1.0), _colour(POSITIVE)])


def _colour(parts: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in parts)
    return red, green, blue

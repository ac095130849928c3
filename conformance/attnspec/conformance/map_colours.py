"""The colours of attention maps, the same on a page and in a picture."""

from __future__ import annotations

import base64
import io
from typing import Any, TypeAlias, cast

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

COLOURS = "viridis"
"""From 0 to the largest weight of a layer; readable in any kind of colour vision, and in grey."""
DARK = 0.6
"""Below this share of the largest weight, the colours are dark."""
POSITIVE, NEGATIVE = (207, 34, 46), (31, 94, 219)
"""More, and less, than the reference; the smaller the difference, the fainter."""
NOT_FINITE = (219, 39, 190)


def weights_image(weights: Array, visible: Array, largest: float) -> str:
    """Colour weights from 0 to the largest; what is masked stays transparent."""
    import matplotlib as mpl

    finite = np.isfinite(weights)
    levels = np.where(finite, weights, 0.0) / (largest or 1.0)
    colours = mpl.colormaps[COLOURS](levels, bytes=True)
    colours[~finite] = (*NOT_FINITE, 255)
    colours[~visible] = 0
    return _image(colours)


def difference_image(differences: Array, largest: float) -> str:
    """Colour differences by their sign; the opacity is their size."""
    finite = np.isfinite(differences)
    levels = np.where(finite, differences, 0.0) / (largest or 1.0)
    colours = np.empty((*levels.shape, 4), np.uint8)
    colours[..., :3] = np.where(levels[..., None] > 0, POSITIVE, NEGATIVE)
    colours[..., 3] = np.round(255 * np.abs(levels))
    colours[~finite] = (*NOT_FINITE, 255)
    return _image(colours)


def _image(colours: Array) -> str:
    """Return a PNG image, one pixel for each cell, as the address of itself."""
    from matplotlib.image import imsave

    buffer, metadata = io.BytesIO(), cast(dict[str, str], {"Software": None})  # None: leave it out
    imsave(buffer, colours, format="png", metadata=metadata)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gradient() -> tuple[str, ...]:
    """Return the colours of weights from 0 to the largest, as a style sheet spells them."""
    import matplotlib as mpl

    return tuple(css_colour(colour) for colour in mpl.colormaps[COLOURS](np.linspace(0.0, 1.0, 9), bytes=True))


def css_colour(colour: Any) -> str:
    """Spell a colour as a style sheet does."""
    return "#" + "".join(f"{int(part):02x}" for part in colour[:3])

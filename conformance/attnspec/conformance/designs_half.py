"""Which layers have a vector at bfloat16 besides: those that show a planted fault there that no other vector shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .design import Design

AT_BFLOAT16 = frozenset(
    {
        "attention-gate",
        "attention-gate-saturated",
        "bilinear",
        "bilinear-masked",
        "cached-rotary",
        "cell-dropout",
        "cell-padded",
        "cosine-masked",
        "decoder-layer-pre",
        "embedding-ids",
        "encoder-layer-dropout",
        "encoder-layer-options",
        "encoder-layer-pre",
        "encoder-post",
        "feed-forward-dropout",
        "feed-forward-silu",
        "hard-noise",
        "hard-options",
        "hard-ties",
        "layer-norm-epsilon",
        "learned-added-3",
        "multi-head-rotary-interleaved",
        "multi-head-rotary-offset",
        "sinusoidal-added-3",
        "text-encoder-learned",
        "tile-129",
        "transformer-ids",
        "transformer-vectors",
    }
)


def with_bfloat16(designs: Iterable[Design]) -> Iterator[Design]:
    """Add bfloat16 to the dtypes of the designs of that list."""
    for design in designs:
        yield replace(design, dtypes=(*design.dtypes, "bfloat16")) if design.name in AT_BFLOAT16 else design

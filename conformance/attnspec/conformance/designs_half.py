"""Which layers have a vector at bfloat16 besides: those that show a planted fault there that no other vector shows.

Some faults drown in the roundings of bfloat16 in every design that is there. They have designs of their own, which let
what the fault concerns weigh more beside the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .design import Design
from .recipes import Array

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


SHARPER: dict[str, tuple[str, dict[str, float], tuple[str, ...]]] = {
    "classifier-vectors": (
        "clear",
        {},
        ("sequence_classifier/first-token", "sequence_classifier/padding-attended"),
    ),
    "decoder-pre": (
        "keen",
        {},
        (
            "decoder/decoder-norm-missing",
            "decoder/decoder-layers-shared",
            "decoder/memory-normalised-by-decoder",
            "decoder/memory-mask-of-first-layer",
        ),
    ),
    "encoder-post": (
        "sharp",
        {"query_weight": 2, "key_weight": 2, "value_weight": 4, "output_weight": 4},
        ("encoder/mask-of-first-layer",),
    ),
    "gated-attention": (
        "half",
        {"inputs": 2, "score_weight": 4, "unit_weight": 2},
        (
            "gated_attention/heads-averaged",
            "gated_attention/output-bias-outside",
            "gated_attention/softmax-over-positions",
            "gated_attention/unit-bias-of-first-head",
        ),
    ),
    "text-encoder-learned": (
        "sharp",
        {"value_weight": 6, "output_weight": 6},
        ("text_encoder/valid-ignored",),
    ),
    "transformer-ids": (
        "keen",
        {"query_weight": 3, "key_weight": 3, "value_weight": 6, "output_weight": 6},
        ("transformer/padding-in-encoder", "transformer/padding-in-memory"),
    ),
}
"""Design → what its sharper one is called besides, the factors of its tensors, and the faults that it catches."""


def with_bfloat16(designs: Iterable[Design]) -> Iterator[Design]:
    """Add bfloat16 to the dtypes of the designs of that list, and the sharper designs after their own."""
    for design in designs:
        yield replace(design, dtypes=(*design.dtypes, "bfloat16")) if design.name in AT_BFLOAT16 else design
        if design.name in SHARPER:
            yield _sharper(design)


def _sharper(design: Design) -> Design:
    suffix, factors, catches = SHARPER[design.name]

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = design.make(rng)
        own = {name: factors.get(name.rpartition(".")[2]) for name in tensors}
        return {name: tensor if own[name] is None else own[name] * tensor for name, tensor in tensors.items()}

    return replace(
        design,
        name=f"{design.name}-{suffix}",
        hunts=f"{design.hunts}, so weighed that bfloat16 shows it",
        make=make,
        dtypes=("bfloat16",),
        catches=catches,
    )

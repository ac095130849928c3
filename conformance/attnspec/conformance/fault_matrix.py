"""The matrix of the zoo: which vectors catch each fault, by how much; how near correct variants come to the bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from .zoo import ROBUST, ZooFault, ZooVariant, margins, ratios, zoo_faults, zoo_variants

SHOWN = ("float32", "bfloat16")
"""The dtypes that are shown unless others are asked for; the first decides."""


class Caught(NamedTuple):
    """How the vectors of one dtype catch one fault."""

    dtype: str
    vectors: int
    """How many vectors of its operations there are."""
    caught_by: int
    """How many catch it: an error above the bound."""
    best: str | None
    """The vector with the largest margin, None where there are no vectors."""
    margin: float | None
    """The largest error over the bound there; inf for NaN, for a missing exact zero, and for another shape."""

    @property
    def is_robust(self) -> bool:
        """Whether one vector catches it by four times the bound."""
        return self.margin is not None and self.margin >= ROBUST


class FaultRow(NamedTuple):
    """One fault, and how it is caught."""

    fault: ZooFault
    caught: tuple[Caught, ...]

    def at(self, dtype: str) -> Caught:
        """Return how it is caught at a dtype."""
        return next(each for each in self.caught if each.dtype == dtype)


class VariantRow(NamedTuple):
    """One correct variant under one profile: how near it comes to its bounds."""

    variant: str
    dtype: str
    profile: str
    ratios: tuple[float, ...]
    """The largest error over the bound of every vector."""
    rejected: tuple[str, ...]
    """The vectors that reject it."""


class Matrix(NamedTuple):
    """Every fault and every correct variant, held against the vectors."""

    dtypes: tuple[str, ...]
    faults: tuple[FaultRow, ...]
    variants: tuple[VariantRow, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """The faults that no vector of the deciding dtype catches robustly: float32, where that was asked for."""
        dtype = SHOWN[0] if SHOWN[0] in self.dtypes else self.dtypes[0]
        return tuple(row.fault.name for row in self.faults if not row.at(dtype).is_robust)

    @property
    def rejected(self) -> tuple[str, ...]:
        """The correct variants that a vector rejects."""
        return tuple(dict.fromkeys(row.variant for row in self.variants if row.rejected))

    def summary(self) -> str:
        """Say in one line how many faults are caught, and how many variants rejected."""
        parts = []
        for dtype in self.dtypes:
            here = [row.at(dtype) for row in self.faults]
            robust, seen = sum(each.is_robust for each in here), sum(each.caught_by > 0 for each in here)
            parts.append(f"at {dtype} {robust} of {len(here)} ({seen} with any)")
        names = dict.fromkeys(row.variant for row in self.variants)
        tail = f"; correct variants rejected: {len(self.rejected)} of {len(names)}" if names else ""
        return f"faults caught with margin ≥ {ROBUST:g}: {', '.join(parts)}{tail}"


def measure(dtypes: Sequence[str] = SHOWN, faults: Collection[str] | None = None) -> Matrix:
    """Hold faults and variants against the vectors.

    Args:
        dtypes: those of the vectors.
        faults: names; None: all of them, and the variants too.
    """
    chosen = [fault for fault in zoo_faults() if faults is None or fault.name in faults]
    rows = tuple(FaultRow(fault, tuple(_caught(fault, dtype) for dtype in dtypes)) for fault in chosen)
    variants = [] if faults is not None else zoo_variants()
    held = tuple(_held(each, dtype) for each in variants for dtype in dtypes if dtype in each.profiles)
    return Matrix(tuple(dtypes), rows, held)


def _caught(fault: ZooFault, dtype: str) -> Caught:
    found = margins(fault, dtype)
    if not found:
        return Caught(dtype, 0, 0, None, None)
    best = max(found, key=lambda name: found[name])
    return Caught(dtype, len(found), sum(margin > 1 for margin in found.values()), best, found[best])


def _held(variant: ZooVariant, dtype: str) -> VariantRow:
    found = ratios(variant, dtype)
    rejected = tuple(name for name, ratio in found.items() if ratio > 1)
    return VariantRow(variant.name, dtype, variant.profiles[dtype], tuple(found.values()), rejected)


class Alarms(NamedTuple):
    """How near the correct variants come to the bounds of one profile."""

    profile: str
    variants: int
    checks: int
    rejected: int
    median: float
    high: float
    """The ratio that one check in a hundred exceeds."""
    largest: float


def alarms(rows: Sequence[VariantRow]) -> tuple[Alarms, ...]:
    """Return the false alarms by profile."""
    found = []
    for profile in dict.fromkeys(row.profile for row in rows):
        own = [row for row in rows if row.profile == profile]
        values = np.array([ratio for row in own for ratio in row.ratios])
        found.append(
            Alarms(
                profile,
                len({row.variant for row in own}),
                values.size,
                int((values > 1).sum()),
                float(np.median(values)),
                float(np.quantile(values, 0.99)),
                float(values.max()),
            )
        )
    return tuple(found)


def show_margin(margin: float | None) -> str:
    """Write a margin in few characters: 3.6, 340, 2.6e+04, ∞, and – for none."""
    if margin is None:
        return "–"
    if math.isinf(margin):
        return "∞"
    return f"{margin:.2g}" if margin < 100 or margin >= 10000 else f"{margin:.0f}"


def to_json(matrix: Matrix) -> str:
    """Write a matrix as JSON; an infinite margin is the string "inf"."""

    def finite(number: float | None) -> float | str | None:
        return "inf" if number is not None and math.isinf(number) else number

    def row(each: FaultRow) -> dict[str, Any]:
        fault = each.fault
        return {
            "name": fault.name,
            "operations": sorted(fault.operations),
            "clause": fault.clause,
            "visible_when": fault.visible_when,
            "seen_in": fault.seen_in,
            "caught": [caught._asdict() | {"margin": finite(caught.margin)} for caught in each.caught],
        }

    data = {
        "format": 1,
        "dtypes": list(matrix.dtypes),
        "faults": [row(each) for each in matrix.faults],
        "variants": [
            {
                "name": each.variant,
                "dtype": each.dtype,
                "profile": each.profile,
                "vectors": len(each.ratios),
                "largest": finite(max(each.ratios)),
                "rejected_by": list(each.rejected),
            }
            for each in matrix.variants
        ],
        "missed": list(matrix.missed),
        "rejected": list(matrix.rejected),
        "summary": matrix.summary(),
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)

"""What a cause of deviations is, and the conditions by which it knows its cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .results import Result


class Cause(NamedTuple):
    """One cause."""

    id: str
    clause: str
    short: str
    """What a summary line says."""
    targets: tuple[str, ...]
    expected: str
    came: str
    reproducer: str
    covers: Callable[[Result], bool]
    upstream: tuple[str, ...] = ()
    """Issues and pull requests about it."""


def design_of(result: Result) -> str:
    """Return what a case is called in every dtype."""
    return result.case.removesuffix(f"-{result.dtype}")


def is_poison(result: Result) -> bool:
    """Say whether a case holds NaN or Inf where they show."""
    return "S11" in result.clauses and not design_of(result).startswith("poison-large")


def has_empty_row(result: Result) -> bool:
    """Say whether a case has a row without a visible key, or failed where zeros were due."""
    return "S10" in result.clauses or "expected 0 ± 0" in result.message


def is_narrow_float64(result: Result) -> bool:
    """Say whether a case in float64 is off by about as much as float32 would be."""
    return result.dtype == "float64" and result.ratio is not None and result.ratio < 1e9


def is_slightly_off_bfloat16(result: Result) -> bool:
    """Say whether a case in bfloat16 is off, but not by much."""
    return result.dtype == "bfloat16" and result.ratio is not None and result.ratio < 100


def says(*words: str) -> Callable[[Result], bool]:
    """Make a condition: the message holds one of these words."""
    return lambda result: any(word in result.message for word in words)


def is_named(*designs: str) -> Callable[[Result], bool]:
    """Make a condition: the case is of one of these designs."""
    return lambda result: design_of(result) in designs

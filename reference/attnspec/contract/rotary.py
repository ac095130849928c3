"""Rotary and sinusoidal positions: which arguments fit together, and the frequencies (clauses S21, S22)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .biases import check_option_dtype
from .checks import Checks
from .operands import FLOATING, Shape, as_float, describe, show_shape, show_size

PAIRINGS = ("half_split", "interleaved")


def check_pairing(pairing: Any) -> None:
    """Refuse everything but the two names: no default, because half of all models use each."""
    if not isinstance(pairing, str) or pairing not in PAIRINGS:
        raise ValueError(
            f"`pairing` must be 'half_split' (component c turns with c + size/2) "
            f"or 'interleaved' (2c with 2c + 1); got {pairing!r}"
        )


def check_inputs(shape: Shape, name: str = "inputs") -> None:
    """Check the number of axes of what is turned."""
    if len(shape) < 2:
        raise ValueError(
            f"`{name}` must have at least 2 axes, (*batch, heads, length, size) or without heads (length, size) and "
            f"(batch, length, size); got shape {show_shape(shape)}"
        )


def rotary_size(shape: Shape, rotary_dim: Any, checks: Checks, name: str = "inputs") -> int:
    """Return how many components are turned: `rotary_dim`, by default all of the inputs' last axis."""
    check_inputs(shape, name)
    size = shape[-1] if rotary_dim is None else rotary_dim
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        if rotary_dim is None:
            raise ValueError(f"`{name}` has a size (axis -1) that is not known; give `rotary_dim`")
        raise TypeError(f"`rotary_dim` must be an int; got {rotary_dim!r}")

    def message() -> str:
        if rotary_dim is None:
            return f"the size of `{name}` must be even: components turn in pairs; got {size}"
        limit = f"between 0 and {show_size(shape[-1])}, the size of `{name}`"
        return f"`rotary_dim` must be even and {limit}: components turn in pairs; got {size}"

    if size < 0 or size % 2:
        raise ValueError(message())
    checks.at_most(int(size), shape[-1], message)
    return int(size)


def check_tables(shape: Shape, tables: dict[str, Any], dtype: str, checks: Checks) -> None:
    """Check that cosines and sines, or others of their kind, are of one shape: a row for each place in the length."""
    for name, table in tables.items():
        if table is None:
            raise TypeError(f"`{name}` must be an array or nested lists of numbers; got None")
        check_option_dtype(name, table, dtype, "inputs")
    first, *others = tables
    found = checks.shape(tables[first])
    _check_positional(first, found, shape, checks, last="pairs")
    for name in others:
        other = checks.shape(tables[name])

        def message(name: str = name, other: Shape = other) -> str:
            return (
                f"`{name}` must have the shape of `{first}`; "
                f"got shapes {first} {show_shape(found)} and {name} {show_shape(other)}"
            )

        if len(other) != len(found):
            raise ValueError(message())
        for size, expected in zip(other, found, strict=True):
            checks.equal(size, expected, message)
    checks.at_most(
        2 * found[-1],
        shape[-1],
        lambda: (
            f"`{first}` must have at most half as many columns as `inputs`; "
            f"got shapes inputs {show_shape(shape)} and {first} {show_shape(found)}"
        ),
    )


def check_positions(positions: Shape, shape: Shape, checks: Checks) -> None:
    """Check that there is one position for each place in the inputs' length."""
    _check_positional("positions", positions, shape, checks)


def check_frequencies(base: Any, frequencies: Any, size: int, dtype: str, checks: Checks) -> float:
    """Check that one of base and frequencies is given, or none, and return the base (10000 by default)."""
    if frequencies is not None:
        if base is not None:
            raise ValueError("`base` and `frequencies` exclude each other; got both")
        check_option_dtype("frequencies", frequencies, dtype, "inputs")
        shape = checks.shape(frequencies)

        def message() -> str:
            return f"`frequencies` must have shape ({size // 2},), one for each pair; got shape {show_shape(shape)}"

        if len(shape) != 1:
            raise ValueError(message())
        checks.equal(shape[0], size // 2, message)
    return check_base(10000.0 if base is None else base)


def check_base(base: Any) -> float:
    """Check that a base is a positive and finite Python number."""
    if isinstance(base, bool) or not isinstance(base, int | float | np.integer | np.floating):
        raise TypeError(f"`base` must be a Python number; got {describe(base)}")
    number = as_float(base)
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"`base` must be positive and finite; got {number}")
    return number


def frequencies_of(base: float, size: int) -> tuple[float, ...]:
    """Return base^(−2c/size) for the pairs c = 0 … size/2 − 1."""
    return tuple(base ** (-2.0 * pair / size) for pair in range(size // 2))


def check_sinusoidal(size: Any, base: Any, dtype: Any) -> tuple[int, float, str]:
    """Check the numbers of sinusoidal positions; the dtype is float32 by default."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"`size` must be an int; got {size!r}")
    if size < 0 or size % 2:
        raise ValueError(f"`size` must be even and at least 0: sines and cosines come in pairs; got {size}")
    if dtype is not None and not (isinstance(dtype, str) and dtype in FLOATING):
        raise TypeError(f"`dtype` must be one of {', '.join(map(repr, FLOATING))}; got {dtype!r}")
    return int(size), check_base(base), "float32" if dtype is None else dtype


def _check_positional(name: str, found: Shape, shape: Shape, checks: Checks, last: str = "") -> None:
    """Check (T,) or (*B, T); `last` names one more axis, of any size."""
    batch = shape[:-3] if len(shape) > 3 else shape[:-2]
    full = (*batch, shape[-2])
    rank = len(found) - bool(last)

    def show(sizes: Shape) -> str:
        return f"({', '.join([*map(show_size, sizes), last])})" if last else show_shape(sizes)

    def message() -> str:
        either = f"{show(full[-1:])} or {show(full)}" if batch else show(full)
        return f"`{name}` must have shape {either}; got shape {show_shape(found)}"

    if rank not in (1, len(full)):
        raise ValueError(message())
    for size, expected in zip(found[:rank], full[len(full) - rank :], strict=True):
        checks.equal(size, expected, message)

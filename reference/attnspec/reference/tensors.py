"""How arguments become NumPy arrays, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.checks import Checks
from attnspec.contract.operands import (
    Operand,
    check_listed,
    dtype_name,
    floating_from_python,
    from_python,
    is_length,
    is_untyped,
    numbers_from_python,
)
from attnspec.contract.options import Given

Array: TypeAlias = np.ndarray[Any, Any]

NATIVE = "a NumPy array"


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into floating arrays; lists take the dtype of the first array (float64 without one)."""
    arrays = {name: _as_tensor(name, value) for name, value in values.items()}
    typed = [arrays[name] for name, value in values.items() if not is_untyped(value)]
    dtype = typed[0].dtype if typed else np.float64
    return tuple(array.astype(dtype) if is_untyped(values[name]) else array for name, array in arrays.items())


def as_option(name: str, value: Any, query: Array) -> Any:
    """Turn an option into a floating array, None into None; a list takes the query's dtype."""
    if value is None:
        return None
    array = _as_tensor(name, value)
    return array.astype(query.dtype) if is_untyped(value) else array


def as_positions(value: Any, like: Array | None) -> Array:
    """Turn positions, integers or floating numbers, into float64; without tensors beside them, n means 0 … n − 1."""
    if like is None and is_length(value):
        return np.arange(value, dtype=np.float64)
    positions = numbers_from_python("positions", value, NATIVE)
    if like is None:
        check_listed(positions.shape)
    return positions.astype(np.float64)


def as_ids(name: str, value: Any) -> Array:
    """Turn ids, integers of any dtype, into int64; nested lists without numbers are ids too."""
    return from_python(name, value, NATIVE).astype(np.int64)


def constant(numbers: Any, like: Array) -> Array:
    """Turn numbers into a float64 array of the class of a tensor, which then sees what is computed from them."""
    return np.full_like(like, numbers, np.float64, shape=np.shape(numbers))


def with_tensors(given: Given, query: Array) -> Given:
    """Turn the numbers of bias and sinks into arrays."""
    return given.with_tensors(lambda name, value: as_option(name, value, query))


def describe(array: Array | None) -> Any:
    """Show the agreement what it may see of an array."""
    return None if array is None else Operand(array.shape, dtype_name(array.dtype))


def new_checks() -> Checks:
    """Start the checks of one call."""

    def read(name: str, value: Any) -> Array:
        return from_python(name, value, NATIVE)

    return Checks(read, np.shape)


def mask_tensor(array: Any) -> Array:
    """Turn an array that a mask holds into a NumPy array."""
    return np.asarray(array)


def _as_tensor(name: str, value: Any) -> Array:
    array = floating_from_python(name, value, NATIVE)
    # An array class with arithmetic of its own is kept, so that it sees every operation; others become plain arrays.
    has_arithmetic = isinstance(value, np.ndarray) and type(value).__array_ufunc__ is not np.ndarray.__array_ufunc__
    return value.astype(array.dtype, copy=False) if has_arithmetic else array

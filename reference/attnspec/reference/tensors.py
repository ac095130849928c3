"""How arguments become NumPy arrays, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.checks import Checks
from attnspec.contract.operands import Operand, Shape, dtype_name, from_python, is_untyped

Array: TypeAlias = np.ndarray[Any, Any]


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into arrays; lists take the dtype of the first array (float64 without one)."""
    arrays = {name: None if value is None else from_python(name, value, None) for name, value in values.items()}
    dtype = next((arrays[name].dtype for name, value in values.items() if not is_untyped(value)), np.float64)
    for name, array in arrays.items():
        if array is not None and is_untyped(values[name]) and array.dtype.kind in "iuf":
            arrays[name] = array.astype(dtype)
    return tuple(arrays.values())


def describe(array: Array | None) -> Any:
    """Show the agreement what it may see of an array."""
    return None if array is None else Operand(array.shape, dtype_name(array))


def new_checks() -> Checks:
    """Start the checks of one call."""
    return Checks(_read, _shape)


def _read(name: str, value: Any) -> Array:
    return from_python(name, value, None)


def _shape(value: Any) -> Shape:
    return np.shape(value)

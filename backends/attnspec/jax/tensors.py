"""How arguments become JAX arrays, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnspec.contract.checks import Checks
from attnspec.contract.operands import (
    Operand,
    Shape,
    check_dtype,
    check_listed,
    check_numbers,
    dtype_name,
    floating_from_python,
    from_python,
    is_length,
    is_untyped,
    numbers_from_python,
)
from attnspec.contract.options import Given

NATIVE = "a jax.Array, a NumPy array"


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into floating arrays, NumPy arrays and lists on the default device.

    Lists take the dtype of the first array, JAX's default float without one. All must end up on the same devices.
    """
    arrays = {name: _as_tensor(name, value) for name, value in values.items()}
    typed = [arrays[name] for name, value in values.items() if not is_untyped(value)]
    dtype = typed[0].dtype if typed else jnp.asarray(0.0).dtype
    first = next(iter(arrays))
    for name, array in arrays.items():
        _check_device(name, array, first, arrays[first])
    return tuple(array.astype(dtype) if is_untyped(values[name]) else array for name, array in arrays.items())


def as_option(name: str, value: Any, query: Array, beside: str = "query") -> Any:
    """Turn an option into a floating array, None into None; a list takes the query's dtype.

    `beside` names, for messages, what stands in the place of a query.
    """
    if value is None:
        return None
    array = _as_tensor(name, value)
    if isinstance(value, Array):
        _check_device(name, array, beside, query)
    return array.astype(query.dtype) if is_untyped(value) else array


def with_tensors(given: Given, query: Array) -> Given:
    """Turn the numbers of bias and sinks into arrays."""
    return given.with_tensors(lambda name, value: as_option(name, value, query))


def as_positions(value: Any, like: Array | None, dtype: jnp.dtype) -> Array:
    """Turn positions, integers or floating numbers, into this dtype; without arrays beside, n means 0 … n − 1."""
    if like is None:
        check_width(dtype)
    if like is None and is_length(value):
        return jnp.arange(value, dtype=dtype)
    if isinstance(value, Array):
        check_numbers("positions", dtype_name(value.dtype))
        if like is not None:
            _check_device("positions", value, "inputs", like)
        positions = value.astype(dtype)
    else:
        positions = _copied(numbers_from_python("positions", value, NATIVE).astype(dtype))
    if like is None:
        check_listed(positions.shape)
    return positions


def as_ids(name: str, value: Any, like: Array, beside: str) -> Array:
    """Turn ids, integers of any dtype, into those of at least 32 bits; messages call the array beside them `beside`."""
    if isinstance(value, Array):
        _check_device(name, value, beside, like)
        return value if value.dtype.itemsize >= 4 else value.astype(jnp.int32)
    # Without 64 bits JAX wraps round what is beyond 32, and no vocabulary is.
    limits = np.iinfo(np.int32)
    ids = from_python(name, value, NATIVE).astype(np.int64).clip(limits.min, limits.max)
    return _copied(ids.astype(np.int32))


def check_width(dtype: Any) -> None:
    """Refuse to make float64 where JAX would give float32 without a word."""
    if jnp.dtype(dtype) == np.float64 and not _has_64_bit():
        raise TypeError(
            "`dtype` float64 would be rounded to float32 by JAX: enable 64-bit with "
            "jax.config.update('jax_enable_x64', True), or ask for float32"
        )


def describe(array: Array | None) -> Any:
    """Show the agreement what it may see of an array."""
    return None if array is None else Operand(array.shape, dtype_name(array.dtype))


def new_checks(query: Array) -> Checks:
    """Start the checks of one call."""

    def read(name: str, value: Any) -> np.ndarray[Any, Any] | None:
        if not isinstance(value, Array):
            return from_python(name, value, NATIVE)
        _check_device(name, value, "query", query)
        if isinstance(value, jax.core.Tracer) or any(device.platform != "cpu" for device in value.devices()):
            return None
        return np.asarray(value)

    return Checks(read, _shape)


def mask_tensor(array: Any) -> Array:
    """Turn an array that a mask holds into a JAX array."""
    return array if isinstance(array, Array) else _copied(np.asarray(array))


def _as_tensor(name: str, value: Any) -> Array:
    if isinstance(value, Array):
        check_dtype(name, dtype_name(value.dtype))
        return value
    array = floating_from_python(name, value, NATIVE)
    if not is_untyped(value) and array.dtype == np.float64 and not _has_64_bit():
        raise TypeError(
            f"`{name}` is a NumPy float64 array, which JAX would round to float32: enable 64-bit with "
            f"jax.config.update('jax_enable_x64', True), or convert it to float32 yourself"
        )
    return _copied(array)


def _copied(array: np.ndarray[Any, Any]) -> Array:
    """Turn a NumPy array into a JAX array of its own: JAX computes later, and must not see what is written meanwhile.

    `jnp.array` would compile a program for each shape.
    """
    native: Array = jax.device_put(np.array(array, array.dtype.newbyteorder("=")))
    return native


def _has_64_bit() -> bool:
    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def _check_device(name: str, array: Array, other: str, reference: Array) -> None:
    if isinstance(array, jax.core.Tracer) or isinstance(reference, jax.core.Tracer):
        return
    if array.devices() != reference.devices():
        raise ValueError(
            f"`{name}` must be on the device of `{other}`; "
            f"got {other} on {_show_devices(reference)} and {name.replace('`', '')} on {_show_devices(array)}"
        )


def _show_devices(array: Array) -> str:
    return ", ".join(sorted(str(device) for device in array.devices()))


def _shape(value: Any) -> Shape:
    return tuple(np.shape(value))

"""How arguments become JAX arrays, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnspec.contract.checks import Checks
from attnspec.contract.operands import Operand, Shape, from_python, is_untyped

NATIVE = "a jax.Array"


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into arrays, NumPy arrays and lists on the default device; None stays None.

    Lists take the dtype of the first array, JAX's default float without one. All must end up on the same devices.
    """
    typed = [value for value in values.values() if not is_untyped(value)]
    dtype = jnp.asarray(0.0).dtype if not typed else getattr(typed[0], "dtype", None)
    arrays = {name: None if value is None else _as_tensor(name, value, dtype) for name, value in values.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array is not None:
            _check_device(name, array, first, arrays[first])
    return tuple(arrays.values())


def as_option(name: str, value: Any, query: Array) -> Any:
    """Turn an option into an array; a list takes the query's dtype."""
    if value is None:
        return None
    array = _as_tensor(name, value, query.dtype)
    if isinstance(value, Array):
        _check_device(name, array, "query", query)
    return array


def describe(array: Array | None) -> Any:
    """Show the agreement what it may see of an array."""
    return None if array is None else Operand(array.shape, array.dtype.name)


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


def _as_tensor(name: str, value: Any, dtype: Any) -> Array:
    if isinstance(value, Array):
        return value
    array = from_python(name, value, NATIVE)
    if is_untyped(value):
        return jnp.asarray(array, dtype=None if array.dtype == bool else dtype)
    if array.dtype == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise TypeError(
            f"`{name}` is a NumPy float64 array, which JAX would round to float32: enable 64-bit with "
            f"jax.config.update('jax_enable_x64', True), or convert it to float32 yourself"
        )
    return jnp.asarray(array)


def mask_tensor(array: Any) -> Array:
    """Turn an array that a mask holds into a JAX array."""
    return jnp.asarray(array)


def _check_device(name: str, array: Array, other: str, reference: Array) -> None:
    if isinstance(array, jax.core.Tracer) or isinstance(reference, jax.core.Tracer):
        return
    if array.devices() != reference.devices():
        raise ValueError(
            f"`{name}` must be on the device of `{other}`; "
            f"got {other} on {_show_devices(reference)} and {name} on {_show_devices(array)}"
        )


def _show_devices(array: Array) -> str:
    return ", ".join(sorted(str(device) for device in array.devices()))


def _shape(value: Any) -> Shape:
    return tuple(np.shape(value))

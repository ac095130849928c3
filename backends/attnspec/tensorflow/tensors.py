"""How arguments become TensorFlow tensors, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from attnspec.contract.checks import Checks
from attnspec.contract.operands import Operand, Shape, from_python, is_untyped

NATIVE = "a tf.Tensor"


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into tensors, arrays and lists on the default device; None stays None.

    Lists take the dtype of the first tensor or array, float32 without one. All must end up on one device.
    """
    typed = [value for value in values.values() if not is_untyped(value)]
    dtype = tf.as_dtype(getattr(typed[0], "dtype", tf.float32)) if typed and _has_dtype(typed[0]) else tf.float32
    tensors = {name: None if value is None else _as_tensor(name, value, dtype) for name, value in values.items()}
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if tensor is not None:
            _check_device(name, tensor, first, tensors[first])
    return tuple(tensors.values())


def as_option(name: str, value: Any, query: tf.Tensor) -> Any:
    """Turn an option into a tensor; a list takes the query's dtype."""
    if value is None:
        return None
    tensor = _as_tensor(name, value, query.dtype)
    if _is_native(value):
        _check_device(name, tensor, "query", query)
    return tensor


def describe(tensor: tf.Tensor | None) -> Any:
    """Show the agreement what it may see of a tensor."""
    return None if tensor is None else Operand(shape_of(tensor), tensor.dtype.name)


def shape_of(tensor: tf.Tensor) -> Shape:
    """Give the shape: an int where the size is known, a scalar tensor where only the running graph knows it."""
    static = tensor.shape.as_list()
    if None not in static:
        return tuple(static)
    dynamic = tf.shape(tensor)
    return tuple(dynamic[axis] if size is None else size for axis, size in enumerate(static))


def new_checks(query: tf.Tensor) -> Checks:
    """Start the checks of one call."""

    def read(name: str, value: Any) -> np.ndarray[Any, Any] | None:
        if not _is_native(value):
            return from_python(name, value, NATIVE)
        _check_rank(name, value)
        _check_device(name, value, "query", query)
        if not hasattr(value, "numpy") or isinstance(value, tf.Variable) or not _is_on_cpu(value):
            return None
        return np.asarray(value.numpy())

    return Checks(read, lambda value: shape_of(value) if _is_native(value) else np.shape(value))


def assert_pending(checks: Checks) -> None:
    """Assert, when the graph runs, what could not be checked while it was traced (S19)."""
    for relation, left, right, message in checks.pending:
        if relation == "equal":
            holds = tf.equal(left, right)
        elif relation == "multiple":
            holds = tf.equal(tf.math.floormod(left, tf.maximum(right, 1)), 0)
        else:
            holds = tf.equal(left, 1) | tf.equal(left, right)
        tf.debugging.Assert(holds, [message, "- when the graph ran, the sizes were", left, right])


def mask_tensor(array: Any) -> tf.Tensor:
    """Turn an array that a mask holds into a tensor."""
    return tf.convert_to_tensor(array)


def _as_tensor(name: str, value: Any, dtype: tf.DType) -> tf.Tensor:
    if _is_native(value):
        _check_rank(name, value)
        return tf.convert_to_tensor(value)
    array = from_python(name, value, NATIVE)
    if is_untyped(value) and array.dtype != bool:
        return tf.cast(tf.convert_to_tensor(array), dtype)
    return tf.convert_to_tensor(array)


def _is_native(value: Any) -> bool:
    return isinstance(value, (tf.Tensor, tf.Variable))


def _has_dtype(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) or _is_native(value)


def _check_rank(name: str, tensor: Any) -> None:
    if tensor.shape.rank is None:
        raise ValueError(
            f"`{name}` has an unknown rank; give its number of axes by tf.ensure_shape or an input_signature"
        )


def _check_device(name: str, tensor: Any, other: str, reference: Any) -> None:
    # A tensor of a graph has no device yet, or one that the graph may still change.
    if not (hasattr(tensor, "numpy") and hasattr(reference, "numpy")):
        return
    if tensor.device != reference.device:
        raise ValueError(
            f"`{name}` must be on the device of `{other}`; "
            f"got {other} on {_short(reference.device)} and {name} on {_short(tensor.device)}"
        )


def _is_on_cpu(tensor: Any) -> bool:
    return "CPU" in tensor.device


def _short(device: str) -> str:
    return device.rpartition("device:")[2] or device

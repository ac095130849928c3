"""How arguments become TensorFlow tensors, and what the agreement may see of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from attnspec.contract.checks import Checks
from attnspec.contract.operands import (
    Operand,
    Shape,
    check_dtype,
    check_listed,
    check_numbers,
    dtype_name,
    floating_from_python,
    framework_of,
    from_python,
    is_length,
    is_untyped,
    numbers_from_python,
)
from attnspec.contract.options import Given

NATIVE = "a tf.Tensor, a NumPy array"

Function = TypeVar("Function", bound=Callable[..., Any])


def without_autograph(function: Function) -> Function:
    """Let `tf.function` trace a function as it is written: its branches are decided while tracing."""
    unconverted: Function = tf.autograph.experimental.do_not_convert(function)
    return unconverted


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into floating tensors, arrays and lists on the default device.

    Lists take the dtype of the first tensor or array, float32 without one. All must end up on one device.
    """
    tensors = {name: _as_tensor(name, value) for name, value in values.items()}
    typed = [tensors[name] for name, value in values.items() if not is_untyped(value)]
    dtype = typed[0].dtype if typed else tf.float32
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        _check_device(name, tensor, first, tensors[first])
    return tuple(tf.cast(tensor, dtype) if is_untyped(values[name]) else tensor for name, tensor in tensors.items())


def as_option(name: str, value: Any, query: tf.Tensor, beside: str = "query") -> Any:
    """Turn an option into a floating tensor, None into None; a list takes the query's dtype.

    `beside` names, for messages, what stands in the place of a query.
    """
    if value is None:
        return None
    tensor = _as_tensor(name, value)
    if _is_native(value):
        _check_device(name, tensor, beside, query)
    return tf.cast(tensor, query.dtype) if is_untyped(value) else tensor


def with_tensors(given: Given, query: tf.Tensor) -> Given:
    """Turn the numbers of bias and sinks into tensors."""
    return given.with_tensors(lambda name, value: as_option(name, value, query))


def as_positions(value: Any, like: tf.Tensor | None, dtype: tf.DType) -> tf.Tensor:
    """Turn positions, integers or floating numbers, into this dtype; without tensors beside, n means 0 … n − 1."""
    if like is None and is_length(value):
        return tf.range(value, dtype=dtype)
    if _is_native(value):
        value = _unwrapped(value)
        _check_rank("positions", value)
        check_numbers("positions", dtype_name(value.dtype))
        if like is not None:
            _check_device("positions", value, "inputs", like)
        positions = value
    else:
        positions = numbers_from_python("positions", value, NATIVE)
    if like is None:
        check_listed(tuple(positions.shape))
    return tf.cast(positions, dtype) if _is_native(positions) else tf.constant(positions, dtype)


def as_ids(name: str, value: Any, like: tf.Tensor, beside: str) -> tf.Tensor:
    """Turn ids, integers of any dtype, into int64; messages call the tensor beside them `beside`."""
    if _is_native(value):
        value = _unwrapped(value)
        _check_rank(name, value)
        _check_device(name, value, beside, like)
        return tf.cast(value, tf.int64)
    return tf.constant(from_python(name, value, NATIVE).astype(np.int64))


def describe(tensor: tf.Tensor | None) -> Any:
    """Show the agreement what it may see of a tensor."""
    return None if tensor is None else Operand(shape_of(tensor), dtype_name(tensor.dtype))


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
        value = _unwrapped(value)
        _check_rank(name, value)
        _check_device(name, value, "query", query)
        if not hasattr(value, "numpy") or isinstance(value, tf.Variable) or not _is_on_cpu(value):
            return None
        return np.asarray(value.numpy())

    return Checks(read, lambda value: shape_of(_unwrapped(value)) if _is_native(value) else np.shape(value))


def assert_pending(checks: Checks, *tensors: tf.Tensor | None) -> tuple[Any, ...]:
    """Give the tensors back so that nothing is computed from them before what could not be checked while tracing holds.

    The assertions raise tf.errors.InvalidArgumentError with the same text when the graph runs (S19).
    """
    assertions = []
    for relation, left, right, message in checks.pending:
        if relation == "equal":
            holds = tf.equal(left, right)
        elif relation == "multiple":
            holds = tf.equal(left, left // tf.maximum(right, 1) * right)
        elif relation == "one_or":
            holds = tf.equal(left, 1) | tf.equal(left, right)
        else:
            holds = tf.less_equal(left, right)
        assertions.append(tf.debugging.Assert(holds, [message, "- when the graph ran, the sizes were", left, right]))
    with tf.control_dependencies([assertion for assertion in assertions if assertion is not None]):
        return tuple(None if tensor is None else tf.identity(tensor) for tensor in tensors)


def mask_tensor(array: Any) -> tf.Tensor:
    """Turn an array that a mask holds into a tensor."""
    return tf.convert_to_tensor(array)


def _as_tensor(name: str, value: Any) -> tf.Tensor:
    if _is_native(value):
        value = _unwrapped(value)
        _check_rank(name, value)
        check_dtype(name, dtype_name(value.dtype))
        return tf.convert_to_tensor(value)
    return tf.convert_to_tensor(floating_from_python(name, value, NATIVE))


def _is_native(value: Any) -> bool:
    return isinstance(value, (tf.Tensor, tf.Variable)) or _is_of_keras(value)


def _is_of_keras(value: Any) -> bool:
    """Tell a `keras.Variable` that holds one of TensorFlow, without importing Keras."""
    return framework_of(value) == "keras" and hasattr(value, "__tf_tensor__")


def _unwrapped(value: Any) -> Any:
    """Return a tensor or a variable of TensorFlow; that of a `keras.Variable` in the dtype that Keras asks for."""
    return tf.convert_to_tensor(value) if _is_of_keras(value) else value


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
            f"got {other} on {_short(reference.device)} and {name.replace('`', '')} on {_short(tensor.device)}"
        )


def _is_on_cpu(tensor: Any) -> bool:
    return "CPU" in tensor.device


def _short(device: str) -> str:
    return device.rpartition("device:")[2] or device

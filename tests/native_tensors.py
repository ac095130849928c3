"""Each framework's way to make and read tensors, to differentiate and to compile, by one name each.

The frameworks are imported inside the functions: a test of one framework must not need another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import frameworks
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NUMPY_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def to_native(name: str, array: Array) -> Any:
    """Make a tensor of the framework `name` with the dtype and values of a NumPy array."""
    if name == "torch" and array.dtype == NUMPY_DTYPES["bfloat16"]:
        return frameworks.tensor(name, array.astype(np.float32), "bfloat16")
    return frameworks.tensor(name, array)


def to_numpy(tensor: Any) -> Array:
    """Read a tensor of any framework; bfloat16 becomes that of ml_dtypes."""
    framework = type(tensor).__module__.partition(".")[0]
    if framework == "torch":
        tensor = tensor.detach()
        if str(tensor.dtype) == "torch.bfloat16":
            return np.asarray(tensor.float()).astype(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy() if framework == "tensorflow" else tensor)


def native_type(name: str) -> type:
    """The class of the framework's tensors."""
    return type(to_native(name, np.zeros(1)))


def gradients(
    name: str, function: Callable[..., Any], arrays: dict[str, Array], cotangent: Array | tuple[Array, ...]
) -> tuple[Any, dict[str, Array]]:
    """Call `function(**arrays)` with native tensors: its output, and the gradients of Σ cotangent · output.

    A function that returns a tuple takes a tuple of cotangents, and the sum is over all of them.
    """
    tensors = {key: to_native(name, array) for key, array in arrays.items()}
    is_tuple = isinstance(cotangent, tuple)
    native = tuple(to_native(name, part) for part in cotangent) if is_tuple else to_native(name, cotangent)
    output, derivatives = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}[name](function, tensors, native)
    output = tuple(map(to_numpy, output)) if is_tuple else to_numpy(output)
    return output, {key: to_numpy(derivative) for key, derivative in derivatives.items()}


def _torch(function: Callable[..., Any], tensors: dict[str, Any], cotangent: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    for tensor in tensors.values():
        tensor.requires_grad_()
    output = function(**tensors)
    torch.autograd.backward(output, cotangent)
    return output, {key: tensor.grad for key, tensor in tensors.items()}


def _tensorflow(function: Callable[..., Any], tensors: dict[str, Any], cotangent: Any) -> tuple[Any, dict[str, Any]]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = function(**tensors)
    return output, tape.gradient(output, tensors, output_gradients=cotangent)


def _jax(function: Callable[..., Any], tensors: dict[str, Any], cotangent: Any) -> tuple[Any, dict[str, Any]]:
    import jax

    output, pull_back = jax.vjp(lambda given: function(**given), tensors)
    return output, pull_back(cotangent)[0]

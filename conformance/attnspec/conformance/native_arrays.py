"""Between NumPy and the frameworks' own arrays, bit for bit: bfloat16 included."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def from_numpy(framework: str, array: Array) -> Any:
    """Make a framework's own array of the same dtype and values."""
    if framework == "torch":
        import torch

        if array.dtype == BFLOAT16:
            return torch.from_numpy(array.copy().view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array.copy())
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.constant(array)
    import jax.numpy as jnp

    return jnp.array(array)


def to_numpy(output: Any, what: str = "the output") -> Array:
    """Return an array of any framework as a NumPy array, bit for bit; `what` names it for the message."""
    if isinstance(output, np.ndarray | np.generic):
        return np.asarray(output)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(output, torch.Tensor):
        output = output.detach().cpu()
        if output.dtype == torch.bfloat16:
            return np.asarray(output.contiguous().view(torch.int16).numpy().view(BFLOAT16))
        return np.asarray(output.numpy())
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return np.asarray(output)
    raise TypeError(f"{what} must be an array; got {type(output).__name__}")


def dtype_name(array: Any) -> str:
    """Return the name of the dtype of an array of any framework, such as "bfloat16"."""
    dtype = getattr(array, "dtype", None)
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def cast(framework: str, array: Any, dtype: str) -> Any:
    """Return a framework's array in another dtype, differentiably."""
    if framework == "torch":
        import torch

        return array.to(getattr(torch, dtype))
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.cast(array, dtype)
    return array.astype(dtype)


def jax_has_64_bit() -> bool:
    """Say whether JAX keeps numbers of 64 bits."""
    import jax

    return bool(jax.dtypes.canonicalize_dtype(np.float64) == np.float64)

"""NumPy arrays that store every result in one dtype: the reference as somebody would run it in that precision.

A float32 array computes in float32; half precisions compute in float32 too, and round what comes out. Reordered ones
sum backwards, multiply matrices in pieces and take exponentials as powers of two.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from native_tensors import NUMPY_DTYPES
from numpy.typing import NDArray

Array = NDArray[Any]

KEPT = ("negative", "absolute", "maximum", "minimum", "isfinite", "isnan")


class Stored(np.ndarray[Any, Any]):
    """An array in float64 whose elements are numbers of a narrower dtype; `stored_like` makes its classes."""

    dtype_name: str
    is_reordered: bool

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        wide = np.float64 if self.dtype_name == "float64" else np.float32
        plain = [each.view(np.ndarray).astype(wide) if isinstance(each, Stored) else each for each in inputs]
        if method == "reduce":
            kwargs.pop("dtype", None)
        compute = _reordered if self.is_reordered else _plainly
        with np.errstate(all="ignore"):
            result = np.asarray(compute(ufunc, method, plain, kwargs))
            result = result.astype(np.float64) if result.dtype == object else result
            if result.dtype.kind != "f":
                return result
            stored = result.astype(wide).astype(NUMPY_DTYPES[self.dtype_name]).astype(np.float64)
        return (result if ufunc.__name__ in KEPT else stored).astype(np.float64).view(type(self))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.tensordot:
            left, right, (axes, _) = args
            size = int(np.prod([left.shape[axis] for axis in axes]))
            return left.reshape(size, -1).T @ right.reshape(size, -1)
        result = super().__array_function__(function, types, args, kwargs)
        is_floating = isinstance(result, np.ndarray) and result.dtype.kind == "f"
        return result.view(type(self)) if is_floating else result


def _plainly(ufunc: np.ufunc, method: str, inputs: list[Any], kwargs: dict[str, Any]) -> Any:
    (out,) = kwargs.pop("out", (None,))
    result = getattr(ufunc, method)(*inputs, **kwargs)
    if out is None:
        return result
    out[...] = result
    return out


def _reordered(ufunc: np.ufunc, method: str, inputs: list[Any], kwargs: dict[str, Any]) -> Any:
    if ufunc is np.matmul:
        left, right = inputs
        size = left.shape[-1]
        parts = [left[..., i : i + 3] @ right[..., i : i + 3, :] for i in range(0, size, 3)]
        return functools.reduce(np.add, reversed(parts))
    if ufunc is np.exp:
        return np.exp2(inputs[0] * inputs[0].dtype.type(np.log2(np.e)))
    if ufunc is np.add and method == "reduce":
        inputs = [np.flip(inputs[0])]
        result = np.add.reduce(*inputs, **kwargs)
        return np.flip(result) if kwargs.get("keepdims") or kwargs.get("axis") is not None else result
    return _plainly(ufunc, method, inputs, kwargs)


@functools.cache
def stored_like(dtype: str, *, is_reordered: bool = False) -> type[Stored]:
    """Make the class of arrays of a dtype."""
    return type("Stored", (Stored,), {"dtype_name": dtype, "is_reordered": is_reordered})


def stored(tensors: dict[str, Array], dtype: str, *, is_reordered: bool = False) -> dict[str, Array]:
    """Turn tensors, whose numbers have that dtype already, into such arrays."""
    cls = stored_like(dtype, is_reordered=is_reordered)
    return {name: np.asarray(tensor, np.float64).view(cls) for name, tensor in tensors.items()}

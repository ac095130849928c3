"""Correct attentions in anybody's conventions: layouts, masks and logarithms of every framework, with gradients."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import frameworks
import numpy as np

from attnspec.conformance.backends import load_backend
from attnspec.contract import Dropout

Array = np.ndarray[Any, Any]

_OPERATIONS = {
    "reference": "numpy",
    "torch": "torch",
    "tensorflow": "tensorflow.experimental.numpy",
    "jax": "jax.numpy",
}


def attention(
    framework: str,
    *,
    layout: str = "BHTD",
    mask: str = "true_attends",
    logsumexp: str | None = "natural",
) -> Callable[..., Any]:
    """Make a right attention of a framework ("reference": of NumPy), which takes and gives what these say."""
    attn = frameworks.load(framework)
    numpy_like = importlib.import_module(_OPERATIONS[framework])
    convention, wide_reference = mask, framework == "reference"

    def placed(array: Any) -> Any:
        return numpy_like.swapaxes(array, -3, -2) if layout == "BTHD" and len(array.shape) >= 4 else array

    def function(
        query: Any,
        key: Any,
        value: Any,
        *,
        mask: Any = None,
        bias: Any = None,
        scale: Any = None,
        softcap: Any = None,
        sinks: Any = None,
        dropout_keep: Any = None,
        dropout_rate: float = 0.0,
    ) -> Any:
        given = [placed(array) for array in (query, key, value)]
        options = {
            "mask": None if mask is None else attends(mask, convention),
            "bias": bias,
            "scale": scale,
            "softcap": softcap,
        }
        if sinks is not None or dropout_keep is not None or logsumexp is None:
            dropout = None if dropout_keep is None else Dropout(dropout_rate, dropout_keep)
            output = attn.dot_product_attention(*given, **options, sinks=sinks, dropout=dropout)
            return as_type(framework, placed(output), query.dtype)
        output, level = attn.attention_with_logsumexp(*given, **options)
        level = as_type(framework, level, np.float32) if wide_reference and query.dtype != np.float64 else level
        return as_type(framework, placed(output), query.dtype), level if logsumexp == "natural" else level / math.log(2)

    return function


def attends(mask: Any, convention: str) -> Any:
    """Return what "True may attend" says, from a mask of another convention."""
    return {"true_attends": lambda: mask, "true_is_ignored": lambda: ~mask, "additive": lambda: mask == 0}[convention]()


def as_type(framework: str, array: Any, dtype: Any) -> Any:
    """Return an array of a framework in one of its dtypes."""
    if framework == "tensorflow":
        return importlib.import_module("tensorflow").cast(array, dtype)
    return array.to(dtype) if framework == "torch" else array.astype(dtype)


def vjp_by_hand(*, layout: str = "BHTD", mask: str = "true_attends", logsumexp: str = "natural") -> Callable[..., Any]:
    """Make the gradients of an attention over NumPy arrays, in these conventions, by the closed form."""
    convention, reference = mask, load_backend("reference")

    def placed(array: Array) -> Array:
        return np.swapaxes(array, -3, -2) if layout == "BTHD" and array.ndim >= 4 else array

    def vjp(
        query: Array,
        key: Array,
        value: Array,
        output_cotangent: Array,
        *,
        logsumexp_cotangent: Array | None = None,
        mask: Array | None = None,
        bias: Array | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
        dropout_keep: Array | None = None,
        dropout_rate: float = 0.0,
    ) -> dict[str, Array]:
        if logsumexp_cotangent is not None and logsumexp == "base2":
            logsumexp_cotangent = logsumexp_cotangent / math.log(2)
        gradients = reference.dot_product_attention_vjp(
            *(placed(array) for array in (query, key, value, output_cotangent)),
            logsumexp_cotangent=logsumexp_cotangent,
            mask=None if mask is None else attends(mask, convention),
            bias=bias,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            dropout=None if dropout_keep is None else Dropout(dropout_rate, dropout_keep),
        )._asdict()
        given = {"query": query, "key": key, "value": value, "bias": bias, "sinks": sinks}
        found = {name: gradients[name].astype(given[name].dtype) for name in given if gradients[name] is not None}
        return {name: placed(array) if name in ("query", "key", "value") else array for name, array in found.items()}

    return vjp

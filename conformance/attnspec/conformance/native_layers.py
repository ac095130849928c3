"""Layers that have projections of their own: what they cannot be asked, and how to ask them for attention alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .calls import Call
from .native_target import Question


def refuse_layer(question: Question, function: str) -> str | None:
    """Say what no such layer can be asked: groups, and attention alone where heads are not of one size."""
    sizes, call = question.sizes, question.call
    if sizes.num_heads != sizes.num_kv_heads:
        return f"{function} has no grouped heads"
    if call.operation == "multi_head_attention":
        return None
    if sizes.head_dim != sizes.value_dim:
        return f"{function} without projections has values of the keys' size"
    if not all(np.isfinite(call.tensors[name].astype(np.float64)).all() for name in ("query", "key", "value")):
        return f"{function} has projections, and NaN times 0 is NaN: they carry what is not finite from head to head"
    return None


def identity_weights(call: Call, eye: Callable[..., Any], dtype: Any) -> dict[str, Any]:
    """Return projections that change nothing, for the operation dot_product_attention: x · 1 and sums of zeros."""
    query = call.tensors["query"]
    size = query.shape[-1] * (query.shape[-3] if query.ndim >= 4 else 1)
    return {f"{part}_weight": eye(size, dtype=dtype) for part in ("query", "key", "value", "output")}

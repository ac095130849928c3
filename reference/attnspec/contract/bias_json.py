"""Bias objects as JSON, for vectors and files: to plain data and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import biases
from .operands import floating_from_python


def bias_to_json(bias: biases.Bias) -> dict[str, Any]:
    """Write a bias as JSON data: `{"kind": "alibi", "slopes": null, …}`. Arrays become nested lists.

    Raises:
        TypeError: a class of biases that JSON has no kind for.
        ValueError: an array without elements, whose shape nested lists cannot say.
    """
    match bias:
        case biases.Alibi(slopes=slopes, symmetric=symmetric, offset=offset):
            return {
                "kind": "alibi",
                "slopes": _to_list(slopes),
                "symmetric": symmetric,
                "offset": _to_list(offset),
            }
        case biases.RelativePositionBias(table=table, bidirectional=both, max_distance=distance, offset=offset):
            return {
                "kind": "relative_position",
                "table": _to_list(table),
                "bidirectional": both,
                "max_distance": distance,
                "offset": _to_list(offset),
            }
        case biases.BiasArray(array=array):
            if not np.size(array):
                raise ValueError(
                    f"a bias array without elements cannot be written as JSON; its shape is {np.shape(array)}"
                )
            return {"kind": "array", "values": _to_list(array)}
        case biases.Sum(left=first, right=second):
            return {"kind": "sum", "biases": [bias_to_json(first), bias_to_json(second)]}
    raise TypeError(f"a bias of type {type(bias).__name__} cannot be written as JSON")


def bias_from_json(data: Any) -> biases.Bias:
    """Read what `bias_to_json` wrote; anything else is a ValueError that names the place."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"a bias in JSON must be an object whose `kind` is one of {', '.join(_KEYS)}; got {data!r}")
    given = {name: value for name, value in data.items() if name != "kind"}
    if set(given) != set(_KEYS[kind]):
        raise ValueError(
            f"a bias of kind {kind!r} in JSON must have the keys {['kind', *_KEYS[kind]]}; got {list(data)}"
        )
    try:
        if kind == "sum":
            return _read_sum(given["biases"])
        if kind == "alibi":
            return biases.alibi(given.pop("slopes"), **given)
        if kind == "relative_position":
            return biases.relative_position_bias(given.pop("table"), **given)
        floating_from_python("values", given["values"], "an array")
        return biases.as_bias(given["values"])  # as lists: they take the dtype of the query that they will stand beside
    except (TypeError, ValueError) as error:
        raise ValueError(f"in a bias of kind {kind!r} in JSON: {error}") from None


def _read_sum(parts: Any) -> biases.Bias:
    if not isinstance(parts, list) or len(parts) != 2:
        raise ValueError(f"`biases` must be a list of two biases; got {parts!r}")
    return bias_from_json(parts[0]) + bias_from_json(parts[1])


def _to_list(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else np.asarray(value).tolist()


_KEYS = {
    "alibi": ("slopes", "symmetric", "offset"),
    "relative_position": ("table", "bidirectional", "max_distance", "offset"),
    "array": ("values",),
    "sum": ("biases",),
}

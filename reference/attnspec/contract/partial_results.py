"""Which partial results fit together (clause S15)."""

from __future__ import annotations

from typing import Any

from .checks import Checks
from .operands import Operand, accumulation_dtype, check_floating, describe, show_shape
from .parameters import PartialAttention
from .shapes import Sizes


def check_slices(outputs: Any, logsumexps: Any) -> int:
    """Check that there are two sequences of equal length, at least 1, and return it."""
    for name, value in (("outputs", outputs), ("logsumexps", logsumexps)):
        if not isinstance(value, list | tuple) or isinstance(value, PartialAttention):
            raise TypeError(f"`{name}` must be a list or tuple, one array for each slice; got {_describe(value)}")
        for index, item in enumerate(value):
            if isinstance(item, PartialAttention):
                raise TypeError(f"`{name}[{index}]` must be an array; got {_describe(item)}")
    if not outputs:
        raise ValueError("`outputs` must hold at least one slice; got none")
    if len(outputs) != len(logsumexps):
        raise ValueError(
            f"`outputs` and `logsumexps` must have as many slices; got {len(outputs)} and {len(logsumexps)}"
        )
    return len(outputs)


def merge_sizes(outputs: list[Operand], logsumexps: list[Operand], checks: Checks) -> tuple[Sizes, str]:
    """Check the shapes (*B,Hq,Tq,Dv), (*B,Hq,Tq) and dtypes of all slices; return the sizes and the outputs' dtype."""
    dtype = check_floating(**{f"outputs[{index}]": operand for index, operand in enumerate(outputs)})
    narrow = check_floating(**{f"logsumexps[{index}]": operand for index, operand in enumerate(logsumexps)})
    if narrow not in (dtype, accumulation_dtype(dtype)):
        allowed = " or ".join(sorted({dtype, accumulation_dtype(dtype)}))
        raise TypeError(f"`logsumexps` must have dtype {allowed} beside {dtype} outputs; got {narrow}")
    whole = outputs[0].shape
    if len(whole) < 2:
        raise ValueError(
            f"`outputs[0]` must have at least 2 axes, (*batch, heads, length, size); got shape {show_shape(whole)}"
        )
    for index, operand in enumerate(outputs):
        _check_shape(f"outputs[{index}]", operand, whole, checks)
    for index, operand in enumerate(logsumexps):
        _check_shape(f"logsumexps[{index}]", operand, whole[:-1], checks)
    has_heads = len(whole) >= 4
    batch, heads = (whole[:-3], whole[-3]) if has_heads else (whole[:-2], 1)
    # A merge has no keys; what has to do with them is never asked for.
    return Sizes(batch, heads, heads, whole[-2], 0, 1, whole[-1], len(whole)), dtype


def _describe(value: Any) -> str:
    if isinstance(value, PartialAttention):
        return "a PartialAttention, whose `output` goes into `outputs`, and its `logsumexp` into `logsumexps`"
    return describe(value)


def _check_shape(name: str, operand: Operand, shape: tuple[Any, ...], checks: Checks) -> None:
    def message() -> str:
        return (
            f"`{name}` must have shape {show_shape(shape)}, as `outputs[0]` asks; got shape {show_shape(operand.shape)}"
        )

    if len(operand.shape) != len(shape):
        raise ValueError(message())
    for size, expected in zip(operand.shape, shape, strict=True):
        checks.equal(size, expected, message)

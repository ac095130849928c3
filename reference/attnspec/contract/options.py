"""Which options an attention takes: scale, softcap, mask and bias (clauses S2–S8)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .checks import Checks
from .masks import Mask, as_mask
from .operands import FLOATING, Operand, accumulation_dtype, check_dtype, describe, dtype_name, show_shape
from .shapes import Sizes, check_pairs


class Options(NamedTuple):
    """Options whose meaning is settled: a mask object or None, numbers or tensors without axes."""

    mask: Mask | None
    scale: Any
    """None only where the head dimension is not known yet: the backend then takes 1/√Dk of the size it runs with."""
    softcap: Any


def check_options(
    sizes: Sizes, dtype: str, *, mask: Any, bias: Operand | None, scale: Any, softcap: Any, checks: Checks
) -> Options:
    """Check the options of an attention whose query has this dtype, and fill in the default scale 1/√Dk (S2)."""
    if scale is None:
        scale = 1 / math.sqrt(sizes.head_dim) if isinstance(sizes.head_dim, int) else None
    else:
        scale = _check_number("scale", scale, checks)
    if softcap is not None:
        softcap = _check_number("softcap", softcap, checks, positive=True)
    if mask is not None:
        mask = as_mask(mask)
        mask.check(sizes, checks)
    if bias is not None:
        _check_bias(bias, sizes, dtype, checks)
    return Options(mask, scale, softcap)


def _check_number(name: str, value: Any, checks: Checks, *, positive: bool = False) -> Any:
    """Return a float, or the framework's own tensor without axes, checked where its value may be read."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = _as_float(value)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        read = checks.read(name, value)
        shape, dtype = checks.shape(value), dtype_name(value.dtype)
        if len(shape) != 0:
            raise ValueError(f"`{name}` must be a number or a tensor without axes; got shape {show_shape(shape)}")
        if dtype not in FLOATING and not dtype.startswith(("int", "uint")):
            raise TypeError(f"`{name}` must be a number or a tensor without axes; got dtype {dtype}")
        if read is None:
            return value
        number = float(read)
    else:
        raise TypeError(f"`{name}` must be a number or a tensor without axes; got {describe(value)}")
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"`{name}` must be {'positive and ' if positive else ''}finite; got {number}")
    # A native tensor stays one, so that gradients reach it; a NumPy scalar is just a number.
    return value if not isinstance(value, int | float | np.generic | np.ndarray) else number


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_bias(bias: Operand, sizes: Sizes, dtype: str, checks: Checks) -> None:
    check_dtype("bias", bias.dtype)
    allowed = {dtype, accumulation_dtype(dtype)}
    if bias.dtype not in allowed:
        raise TypeError(
            f"`bias` must have dtype {' or '.join(sorted(allowed))} beside a {dtype} query; got {bias.dtype}"
        )
    check_pairs("bias", bias.shape, sizes, checks)

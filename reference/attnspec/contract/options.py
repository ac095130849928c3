"""Which options an attention takes: mask, bias, scale, softcap, sinks and dropout (clauses S2–S9, S13, S14)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .biases import Bias, Convert, as_bias, check_option_dtype
from .checks import Checks
from .dropout import Dropout
from .masks import Mask, as_mask
from .operands import FLOATING, as_float, describe, dtype_name, show_shape
from .shapes import Sizes, check_per_head


class Given(NamedTuple):
    """The options of one call, as the caller gave them."""

    mask: Any = None
    bias: Any = None
    scale: Any = None
    softcap: Any = None
    sinks: Any = None
    dropout: Any = None

    def with_tensors(self, convert: Convert) -> Given:
        """Return the same options, the numbers of bias and sinks as tensors of one framework."""
        bias = None if self.bias is None else as_bias(self.bias).with_tensors(convert)
        sinks = None if self.sinks is None else convert("sinks", self.sinks)
        return self._replace(bias=bias, sinks=sinks)


class Options(NamedTuple):
    """Options whose meaning is settled: objects or None, numbers or tensors without axes."""

    mask: Mask | None
    bias: Bias | None
    scale: Any
    """None only where the head dimension is not known yet: the backend then takes 1/√Dk of the size it runs with."""
    softcap: Any
    sinks: Any
    """(Hq,), or without axes where there is one head."""
    dropout: Dropout | None


def check_options(sizes: Sizes, dtype: str, given: Given, checks: Checks) -> Options:
    """Check the options of an attention whose query has this dtype, and fill in the default scale 1/√Dk (S2).

    The numbers of `given` are tensors of the caller's framework (`Given.with_tensors`).
    """
    mask, bias, scale, softcap, sinks, dropout = given
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
        bias.check(sizes, dtype, checks)
    if sinks is not None:
        check_option_dtype("sinks", sinks, dtype)
        check_per_head("sinks", checks.shape(sinks), sizes, checks)
    if dropout is not None:
        if not isinstance(dropout, Dropout):
            raise TypeError(f"`dropout` must be Dropout(rate, keep=array); got {describe(dropout)}")
        dropout.check(sizes, checks)
    return Options(mask, bias, scale, softcap, sinks, dropout)


def _check_number(name: str, value: Any, checks: Checks, *, positive: bool = False) -> Any:
    """Return a float, or the framework's own tensor without axes, checked where its value may be read."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = as_float(value)
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

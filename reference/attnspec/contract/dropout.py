"""Dropout on the weights, with an explicit array of what is kept (clause S14)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .checks import Checks
from .operands import as_float, describe, dtype_name, from_python
from .positions import Positions, show_shape_of
from .shapes import Sizes, check_pairs
from .trees import Tree, frozen


@frozen
class Dropout(Tree):
    """Dropout of weights: weight · keep / (1 − rate), after the softmax and before the values (S14).

    Attributes:
        rate: the share that is dropped, a Python number, 0 ≤ rate < 1; static.
        keep: boolean, True = kept, shaped like a mask array: rank 2 or the query's rank, each axis full or 1. The
            operations require it, so that every framework drops the same; layers draw their own where it is None.

    Source: Srivastava et al. 2014, §10, in the form that rescales what is kept.
    """

    rate: float
    keep: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float | np.integer | np.floating):
            raise TypeError(f"`rate` of `Dropout` must be a Python number; got {describe(self.rate)}")
        if not (math.isfinite(as_float(self.rate)) and 0 <= self.rate < 1):
            raise ValueError(f"`rate` of `Dropout` must be at least 0 and less than 1; got {as_float(self.rate)}")
        object.__setattr__(self, "rate", float(self.rate))
        if self.keep is not None:
            object.__setattr__(self, "keep", _booleans(self.keep))

    def kept(self, at: Positions) -> Any:
        """Return a boolean array, broadcastable to (*B, heads, q, k): is the weight kept."""
        return at.per_pair(self.keep)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check that there is a `keep`, its rank and axes."""
        if self.keep is None:
            raise ValueError(
                "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own"
            )
        checks.read("keep` of `Dropout", self.keep)
        check_pairs("keep` of `Dropout", checks.shape(self.keep), sizes, checks)

    def __repr__(self) -> str:
        keep = "" if self.keep is None else f", keep=<boolean array {show_shape_of(self.keep)}>"
        return f"Dropout({self.rate}{keep})"


def _booleans(value: Any) -> Any:
    if isinstance(value, list | tuple | bool | np.bool_):
        value = from_python("keep` of `Dropout", value, "an array")
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "shape"):
        raise TypeError(f"`keep` of `Dropout` must be a boolean array (True = kept); got {describe(value)}")
    if dtype_name(dtype) != "bool":
        raise TypeError(
            f"`keep` of `Dropout` must be a boolean array (True = kept); got an array of dtype {dtype_name(dtype)}"
        )
    return value

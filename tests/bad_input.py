"""What the tables of wrong calls share: a maker of native tensors, and the check of an exception and its exact text."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from frameworks import name_of, tensor


class Maker:
    """Make tensors of one framework: zeros of a shape, or from values."""

    def __init__(self, framework: str) -> None:
        self.framework = framework

    def __call__(self, *shape: int, dtype: str = "float64") -> Any:
        return tensor(self.framework, np.zeros(shape), dtype)

    def of(self, values: Any, dtype: str | None = None) -> Any:
        return tensor(self.framework, values, dtype)


Case = tuple[type[Exception], str, Callable[[ModuleType, Maker], Any]]
"""The exception, its text, and the wrong call, given a module and a maker of its tensors."""

FLOATING = "must have a floating dtype (float64, float32, bfloat16, float16)"


def check_refused(case: Case, attn: ModuleType) -> None:
    """Make the call; require this type and this text, neither of which names a framework: the same in all four."""
    error, text, call = case
    with pytest.raises(error) as caught:
        call(attn, Maker(name_of(attn)))
    assert (type(caught.value), str(caught.value)) == (error, text)

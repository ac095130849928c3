"""Checks that decide what is known now and keep for run time what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from .operands import Size


class Pending(NamedTuple):
    """A condition on sizes that were unknown when the call was checked; the backend asserts it when it runs.

    `relation` says what must hold: left == right, left is a multiple of right, left is 1 or
    right, left <= right.
    """

    relation: Literal["equal", "multiple", "one_or", "at_most"]
    left: Size
    right: Size
    message: str


class Checks:
    """One call's checks, with the backend's two ways of looking at an array.

    `read(name, array)` gives its values as a NumPy array, None where they may not be fetched (traced, or on an
    accelerator), and refuses an array of another framework; `shape(array)` gives its shape.
    """

    def __init__(
        self, read: Callable[[str, Any], np.ndarray[Any, Any] | None], shape: Callable[[Any], tuple[Size, ...]]
    ) -> None:
        self.read = read
        self.shape = shape
        self.pending: list[Pending] = []

    def equal(self, left: Size, right: Size, message: Callable[[], str]) -> None:
        """Require two sizes to be equal."""
        if isinstance(left, int) and isinstance(right, int):
            if left != right:
                raise ValueError(message())
        elif left is not right:
            self.pending.append(Pending("equal", left, right, message()))

    def multiple(self, left: Size, right: Size, message: Callable[[], str]) -> None:
        """Require the first size to be a multiple of the second (0 is a multiple of everything)."""
        if isinstance(left, int) and isinstance(right, int):
            if (left % right if right else left) != 0:
                raise ValueError(message())
        else:
            self.pending.append(Pending("multiple", left, right, message()))

    def one_or(self, left: Size, right: Size, message: Callable[[], str]) -> None:
        """Require the first size to be 1 or the second."""
        if isinstance(left, int) and isinstance(right, int):
            if left not in (1, right):
                raise ValueError(message())
        elif left is not right and not (isinstance(left, int) and left == 1):
            self.pending.append(Pending("one_or", left, right, message()))

    def at_most(self, left: Size, right: Size, message: Callable[[], str]) -> None:
        """Require the first size not to exceed the second."""
        if isinstance(left, int) and isinstance(right, int):
            if left > right:
                raise ValueError(message())
        else:
            self.pending.append(Pending("at_most", left, right, message()))

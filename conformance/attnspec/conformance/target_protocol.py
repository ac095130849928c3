"""What a target is to the suite, and what is raised where one cannot be had or cannot do what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from .calls import Call

Array: TypeAlias = np.ndarray[Any, Any]


class TargetError(Exception):
    """A target that cannot be found, loaded or called as asked: wrong usage, not a verdict."""


class MissingFrameworkError(TargetError):
    """A target whose framework is not installed."""


class UnsupportedCaseError(Exception):
    """What a target finds out only when it is called: it does not do this. Neither pass nor fail.

    A function of one's own raises it with the reason, such as "sizes above 256".
    """


class ChangedInputError(Exception):
    """A target wrote into a tensor that it was given."""


class Target(Protocol):
    """A thing under test."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def version(self) -> str:
        """What it is a version of, for the report."""

    @property
    def profiles(self) -> Mapping[str, str]:
        """The arithmetic that it declares, by dtype; a dtype that is not there has its default profile."""

    def unsupported(self, call: Call) -> str | None:
        """Say why this target cannot take a call, or None where it can."""

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Name the dtypes that each of its results may have."""

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Compute the call's results from these tensors, which it may not change; whatever it raises is a result.

        `UnsupportedCaseError` says that it cannot.
        """


def what_went_wrong(error: BaseException) -> str:
    """Return an exception's class and text."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")

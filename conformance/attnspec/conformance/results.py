"""Results and reports: what happened to every case, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What became of one case."""

    PASS = "pass"
    QUALITY_WARNING = "quality_warning"
    """Within the bound, but by less than a fifth of it: it passes."""
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    """Neither pass nor fail: the target says that it does not do this."""
    ERROR = "error"
    CRASH = "crash"
    """The target's process died."""
    TIMEOUT = "timeout"
    NONDETERMINISTIC = "nondeterministic"


CONFORMING = frozenset({Status.PASS, Status.QUALITY_WARNING, Status.UNSUPPORTED})


@dataclass(frozen=True)
class Result:
    """One case on one target."""

    target: str
    case: str
    operation: str
    dtype: str
    clauses: tuple[str, ...]
    status: Status
    profile: str
    ratio: float | None
    """The largest |error| / bound: at most 1 passes. None where no output could be compared."""
    message: str
    """What is wrong, and where; empty for a pass."""
    seconds: float


@dataclass(frozen=True)
class Report:
    """All results of a run, with the versions that it was made with."""

    results: tuple[Result, ...]
    versions: dict[str, str]
    missing: tuple[str, ...] = field(default=())
    """Targets that were required and whose framework is not installed, each as a sentence."""

    @property
    def conforms(self) -> bool:
        """Whether every target had a case decided, none failed, and nothing that was required is missing."""
        return not (self.is_empty or self.undecided() or self.missing or self.failures())

    def failures(self) -> tuple[Result, ...]:
        """Return the results that break conformance."""
        return tuple(result for result in self.results if result.status not in CONFORMING)

    def undecided(self) -> tuple[str, ...]:
        """Return the targets without any decided case: nothing is known about them."""
        targets = dict.fromkeys(result.target for result in self.results)
        decided = {result.target for result in self.results if result.status is not Status.UNSUPPORTED}
        return tuple(target for target in targets if target not in decided)

    def count(self, *statuses: Status, target: str | None = None, dtype: str | None = None) -> int:
        """Count the results with one of these statuses."""
        return sum(1 for result in self.select(target, dtype) if result.status in statuses)

    @property
    def is_empty(self) -> bool:
        """Whether no case was decided: a run that proves nothing."""
        return all(result.status is Status.UNSUPPORTED for result in self.results)

    def select(self, target: str | None = None, dtype: str | None = None) -> Iterable[Result]:
        """Yield the results of one target, or dtype, or both."""
        return (r for r in self.results if target in (None, r.target) and dtype in (None, r.dtype))

    def raise_if_failed(self) -> None:
        """Raise AssertionError, with the failures in its text, unless the report conforms."""
        if not self.conforms:
            raise AssertionError(self.summary())

    def summary(self, limit: int = 10) -> str:
        """Say in plain lines what conforms and what does not."""
        failures = self.failures()
        decided = sum(1 for result in self.results if result.status is not Status.UNSUPPORTED)
        lines = [*self.missing]
        if not decided:
            lines.append("no case ran")
        elif self.undecided():
            lines.append(f"no case was decided for {', '.join(self.undecided())}")
        lines.append(f"{decided - len(failures)} of {decided} cases conform")
        lines += [f"{r.target} {r.case}: {r.status}: {r.message}" for r in failures[:limit]]
        if len(failures) > limit:
            lines.append(f"… and {len(failures) - limit} more")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Write the whole report as JSON."""
        data: dict[str, Any] = {
            "format": 1,
            "conforms": self.conforms,
            "versions": self.versions,
            "missing": list(self.missing),
            "results": [_finite(asdict(result)) for result in self.results],
        }
        return json.dumps(data, indent=1, allow_nan=False)


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    # JSON has no infinity: an error against a bound of 0 is written as a string.
    if result["ratio"] is not None and result["ratio"] == float("inf"):
        result["ratio"] = "inf"
    return result

"""Results and reports: what happened to every case, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple


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


class Largest(NamedTuple):
    """The element with the largest |error| / bound."""

    result: str
    """The name of the result that it stands in, such as `output`."""
    place: tuple[int, ...]
    """Its indices."""
    got: float
    expected: float
    bound: float


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
    direction: str = "forward"
    level: str = "core"
    rms: float | None = None
    """The root of the mean of (error / bound)² in a row, the last axis: the largest of all rows."""
    bias: float | None = None
    """The mean of error / bound with its sign, over every element that is finite: what does not cancel."""
    largest: Largest | None = None
    weakest: str | None = None
    """Of a failure: the finest of the coarser profiles of its dtype under which the case is decided and passes."""

    @property
    def is_failure(self) -> bool:
        """Whether it breaks conformance."""
        return self.status not in CONFORMING

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data for JSON, where NaN and infinity are strings."""
        data = {one.name: plain(getattr(self, one.name)) for one in fields(self)}
        return data | {"largest": None if self.largest is None else plain(self.largest._asdict())}


class CaseMap(NamedTuple):
    """Where in a result a target errs: one matrix of it, the one with the largest error."""

    target: str
    case: str
    result: str
    place: tuple[int, ...]
    """The indices of the leading axes."""
    start: tuple[int, int]
    """The row and the column of the result that the first number stands for: large matrices are cut."""
    ratios: tuple[tuple[float, ...], ...]
    """error / bound with its sign."""
    bounds: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float | None, ...], ...] | None
    """The exact weights of the same head, a row for each query, None where it may not attend; None: no attention."""


class Diagnosis(NamedTuple):
    """What is likely behind some of the failing cases of a target."""

    target: str
    cause: str
    """The name of a fault, a convention or a signature, two of them joined by +, or `unknown`."""
    explanation: str
    """A sentence: on how many of the failing cases the output equals what."""
    clause: str | None
    """The clause that the cause breaks."""
    cases: tuple[str, ...]
    """The failing cases that it explains."""
    failing: int
    """How many cases of the target failed with results."""
    ratio: float | None
    """The largest distance from the cause over its bound, at most 1; None where there is none to measure."""
    reproducer: str | None
    """A script that shows it on the smallest failing call, where one was made."""


@dataclass(frozen=True)
class Run:
    """Where and when results were made."""

    targets: tuple[str, ...]
    versions: dict[str, str]
    """Of attnspec, Python and NumPy, and of each target."""
    profiles: dict[str, dict[str, str]]
    """What each target was held to, by dtype."""
    machine: str
    time: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Report:
    """All results of a run, with the versions that it was made with."""

    results: tuple[Result, ...]
    versions: dict[str, str]
    missing: tuple[str, ...] = ()
    """Targets that were required and whose framework is not installed, each as a sentence."""
    diagnoses: tuple[Diagnosis, ...] = ()
    maps: tuple[CaseMap, ...] = ()
    runs: tuple[Run, ...] = ()
    """One for each machine and time that results came from."""
    suite: str = ""
    manifest: str = ""
    """The version of the vectors, and the sha256 of their manifest: results of different ones cannot be compared."""

    @property
    def conforms(self) -> bool:
        """Whether every target had a case decided, none failed, and nothing that was required is missing."""
        return not (self.is_empty or self.undecided() or self.missing or self.failures())

    def failures(self) -> tuple[Result, ...]:
        """Return the results that break conformance."""
        return tuple(result for result in self.results if result.is_failure)

    def targets(self) -> tuple[str, ...]:
        """Return the targets that have results, in their order."""
        return tuple(dict.fromkeys(result.target for result in self.results))

    def undecided(self) -> tuple[str, ...]:
        """Return the targets without any decided case: nothing is known about them."""
        decided = {result.target for result in self.results if result.status is not Status.UNSUPPORTED}
        return tuple(target for target in self.targets() if target not in decided)

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
            "results": [result.to_data() for result in self.results],
            "diagnoses": [diagnosis._asdict() for diagnosis in self.diagnoses],
        }
        return json.dumps(plain(data), indent=1, allow_nan=False)


def plain(data: Any) -> Any:
    """Write what JSON lacks as strings: an error against a bound of 0 is infinite, and a result may be NaN."""
    if isinstance(data, dict):
        return {name: plain(value) for name, value in data.items()}
    if isinstance(data, tuple | list):
        return [plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)  # nan, inf or -inf, as float() reads them
    return data


def show_ratio(ratio: float | None) -> str:
    """Write a ratio with two or three digits that matter."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.1e}"

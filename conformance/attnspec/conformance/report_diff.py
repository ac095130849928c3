"""What changed between two reports, and whether anything got worse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from .results import Report, Result, Status, plain, show_ratio

GROWTH = 2.0
"""A ratio that grew by more than this factor got worse,"""
LEAST_RATIO = 0.1
"""if it is now at least this: below, ratios come and go with every rounding."""

WORSE = {
    "regressed": "conformed, and does not any more",
    "lost": "was decided, and is unsupported now",
    "grown": f"error / bound grew by more than {GROWTH:g} times, to at least {LEAST_RATIO:g}",
    "vanished": "has no result any more",
}
BETTER = {
    "mended": "did not conform, and does now",
    "gained": "was unsupported, and conforms now",
    "new": "had no result before",
}

_Key: TypeAlias = tuple[str, str]


class Change(NamedTuple):
    """One case of one target that has another result than before."""

    kind: str
    """A key of `WORSE` or `BETTER`."""
    target: str
    case: str
    before: str
    after: str
    """Status and ratio; empty where there is no result."""
    message: str


class Difference(NamedTuple):
    """Everything that changed between two reports."""

    changes: tuple[Change, ...]
    same: int
    """How many cases have results in both, and none of these changes."""
    notes: tuple[str, ...]
    """Versions and vectors that differ."""

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse."""
        return any(change.kind in WORSE for change in self.changes)

    def of(self, kind: str) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind == kind)

    def to_json(self) -> str:
        """Write it as JSON."""
        changes = [change._asdict() for change in self.changes]
        data = {"worse": self.is_worse, "changes": changes, "same": self.same, "notes": self.notes}
        return json.dumps(plain(data), indent=1)


def compare_reports(before: Report, after: Report) -> Difference:
    """Compare two reports, case by case of each target."""
    old, new = ({(result.target, result.case): result for result in report.results} for report in (before, after))
    changes = tuple(_changes(old, new))
    changed = {(change.target, change.case) for change in changes}
    return Difference(changes, len(old.keys() & new.keys() - changed), tuple(_notes(before, after)))


def _changes(old: Mapping[_Key, Result], new: Mapping[_Key, Result]) -> Iterator[Change]:
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        kind = _kind(before, after)
        if kind is not None:
            yield Change(kind, *key, _show(before), _show(after), "" if after is None else after.message)


def _kind(before: Result | None, after: Result | None) -> str | None:
    if before is None or after is None:
        return "new" if before is None else "vanished"
    was_decided, is_decided = (one.status is not Status.UNSUPPORTED for one in (before, after))
    if after.is_failure:
        return None if before.is_failure else "regressed"
    if not is_decided:
        return "lost" if was_decided else None
    if before.is_failure:
        return "mended"
    if not was_decided:
        return "gained"
    then, now = before.ratio or 0.0, after.ratio or 0.0
    return "grown" if now > GROWTH * then and now >= LEAST_RATIO else None


def _show(result: Result | None) -> str:
    if result is None:
        return ""
    return str(result.status) if result.ratio is None else f"{result.status} {show_ratio(result.ratio)}"


def _notes(before: Report, after: Report) -> Iterator[str]:
    if (before.suite, before.manifest) != (after.suite, after.manifest):
        of_before, of_after = (f"{one.suite} ({one.manifest[:12]}…)" for one in (before, after))
        yield f"different vectors: suite {of_before}, then {of_after}"
    for name in dict.fromkeys([*before.versions, *after.versions]):
        was, now = before.versions.get(name), after.versions.get(name)
        if was != now:
            yield f"{name}: {was or 'not there'}, then {now or 'not there'}"

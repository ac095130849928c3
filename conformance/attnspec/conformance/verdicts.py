"""Verdicts: what follows from the results of a target, for each clause, dtype and direction, and in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .calls import DTYPES
from .case_facts import clause_order, known_cases, title_of
from .profiles import DEFAULT_PROFILES, PROFILES
from .results import Report, Result, Status

CONFORMS, WARNS, DEVIATES, UNSUPPORTED = "conforms", "warning", "deviates", "unsupported"
"""What a capability can be. `warning`: it conforms, and a case is closer to its bound than it should be."""

MOST_NAMED = 4
"""So many deviations, and so many operations, are named in a line; more are counted."""

_TROUBLE = {Status.ERROR: "raises", Status.CRASH: "crashes", Status.TIMEOUT: "times out"}


class Capability(NamedTuple):
    """What a target makes of one clause in one dtype and direction."""

    target: str
    clause: str
    dtype: str
    direction: str
    status: str
    profile: str
    """The arithmetic that it was held to."""
    weakest: str | None
    """The finest profile under which all its decided cases pass: the same one, a coarser one, or None."""
    cases: int
    """How many were decided."""
    failing: int
    unsupported: int
    ratio: float | None
    """The largest error / bound; None where nothing could be compared."""
    rms: float | None
    """The largest RMS of error / bound in a row."""
    bias: float | None
    """The mean of error / bound, with its sign, that is the furthest from 0."""


def capabilities(report: Report) -> tuple[Capability, ...]:
    """Return a verdict for each target, clause, dtype and direction that has a case, in this order."""
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in report.results:
        for clause in result.clauses:
            groups.setdefault((result.target, clause, result.dtype, result.direction), []).append(result)
    place = {target: i for i, target in enumerate(report.targets())}
    order = {dtype: i for i, dtype in enumerate(DTYPES)}
    keys = sorted(
        groups, key=lambda key: (place[key[0]], clause_order(key[1]), order.get(key[2], 9), key[3] != "forward")
    )
    return tuple(_capability(key, groups[key]) for key in keys)


def _capability(key: tuple[str, str, str, str], results: Sequence[Result]) -> Capability:
    decided = [result for result in results if result.status is not Status.UNSUPPORTED]
    failing = [result for result in decided if result.is_failure]
    ratios = [result.ratio for result in decided if result.ratio is not None]
    return Capability(
        *key,
        status=status_of(results),
        profile=results[0].profile,
        weakest=weakest_of(decided),
        cases=len(decided),
        failing=len(failing),
        unsupported=len(results) - len(decided),
        ratio=max(ratios, default=None),
        rms=max((result.rms for result in decided if result.rms is not None), default=None),
        bias=max((result.bias for result in decided if result.bias is not None), key=abs, default=None),
    )


def status_of(results: Iterable[Result]) -> str:
    """Return the verdict on some results together."""
    statuses = [(result.status, result.is_failure) for result in results]
    if any(is_failure for _, is_failure in statuses):
        return DEVIATES
    if all(status is Status.UNSUPPORTED for status, _ in statuses):
        return UNSUPPORTED
    return WARNS if any(status is Status.QUALITY_WARNING for status, _ in statuses) else CONFORMS


def weakest_of(decided: Sequence[Result]) -> str | None:
    """Return the finest profile that passes all these results of one dtype; None if there is none, or no result."""
    if not decided:
        return None
    failing = [result for result in decided if result.is_failure]
    coarser = [result.weakest for result in failing]
    if not coarser:
        return decided[0].profile
    names = list(PROFILES)
    known = [name for name in coarser if name in names]
    return max(known, key=names.index) if len(known) == len(coarser) else None


def summary_line(report: Report, target: str) -> str:
    """Say in one line what a target conforms to, where it deviates, and what it does not do."""
    results = list(report.select(target))
    decided = [result for result in results if result.status is not Status.UNSUPPORTED]
    if not decided:
        return f"{_name(report, target)}: no case was decided"
    by_dtype: dict[str, list[Result]] = {dtype: [] for dtype in DTYPES}
    for result in decided:
        by_dtype.setdefault(result.dtype, []).append(result)
    parts = [_conforming({dtype: found for dtype, found in by_dtype.items() if found}, scope_of(results))]
    fine = {dtype for dtype, found in by_dtype.items() if not _is_coarse(found)}
    failing = [result for result in decided if result.is_failure and result.dtype in fine]
    deviations = list(_deviations(report, target, [result for result in failing if result.status not in _TROUBLE]))
    if deviations:
        parts.append(f"deviates: {_some(deviations)}")
    counts = Counter(_TROUBLE[result.status] for result in failing if result.status in _TROUBLE)
    parts += [f"{verb} on {count} case{'s' * (count != 1)}" for verb, count in counts.items()]
    absent = unsupported(results)
    if absent:
        parts.append(f"unsupported: {', '.join(absent)}")
    return f"{_name(report, target)}: {'; '.join(parts)}"


def conforms_simply(report: Report, target: str) -> bool:
    """Say whether every case was decided and none failed: there is nothing to tell then."""
    return all(result.status in (Status.PASS, Status.QUALITY_WARNING) for result in report.select(target))


def _name(report: Report, target: str) -> str:
    """Add the number out of a version such as `PyTorch 2.13.0`."""
    found = re.search(r"\d[\w.+]*$", report.versions.get(target, ""))
    return f"{target} {found[0]}" if found else target


def scope_of(results: Sequence[Result]) -> str:
    """Name the levels that were run, or how much of them was: what a target conforms to, or on."""
    levels = list(dict.fromkeys(result.level for result in results))
    dtypes, directions = {result.dtype for result in results}, {result.direction for result in results}
    whole = {
        name
        for name, facts in known_cases().items()
        if facts.level in levels and facts.dtype in dtypes and facts.direction in directions
    }
    named = " and ".join(levels)
    missing = len(whole - {result.case for result in results})
    if missing:
        return f"on a selection of {named} ({len(whole) - missing} of {len(whole)} cases)"
    return f"to {named}" if len(directions) > 1 else f"to {named} ({directions.pop()})"


def _is_coarse(decided: Sequence[Result]) -> bool:
    """Say whether what fails in a dtype would pass in a coarser profile."""
    weakest = weakest_of(decided)
    return weakest is not None and weakest != decided[0].profile


def _conforming(by_dtype: dict[str, list[Result]], scope: str) -> str:
    """Say in which dtypes all cases pass, in which half of them, and in which fewer."""
    groups: dict[str, list[str]] = {"at": [], "within": [], "in part at": [], "not at": []}
    for dtype, decided in by_dtype.items():
        failing = sum(result.is_failure for result in decided)
        profile = decided[0].profile
        is_said = profile != DEFAULT_PROFILES.get(dtype) or dtype in ("bfloat16", "float16")
        named = f"{dtype} ({profile})" if is_said else dtype
        if not failing:
            groups["at"].append(named)
        elif _is_coarse(decided):
            groups["within"].append(f"only within {weakest_of(decided)} at {dtype}")
        else:
            groups["in part at" if 2 * failing <= len(decided) else "not at"].append(named)
    yes = [*([f"at {', '.join(groups['at'])}"] if groups["at"] else []), *groups["within"]]
    parts = [*yes, *(f"{word} {', '.join(groups[word])}" for word in ("in part at", "not at") if groups[word])]
    if not yes and not groups["in part at"]:
        return f"does not conform {scope} at {', '.join(groups['not at'])}"
    return f"conforms {scope} {', '.join(parts)}"


def _deviations(report: Report, target: str, failing: Sequence[Result]) -> Iterator[str]:
    """Yield each deviation: those that have a diagnosis first, then the clauses that explain the other failures."""
    names = {result.case for result in failing}
    causes: dict[str, list[str]] = {}
    for diagnosis in report.diagnoses:
        if diagnosis.target == target and diagnosis.clause is not None:
            if names & set(diagnosis.cases):
                causes.setdefault(diagnosis.clause, []).append(diagnosis.cause)
            names -= set(diagnosis.cases)
    single = {cause for found in causes.values() for cause in found}
    for found in causes.values():  # two together say nothing new where each is named alone
        found[:] = [cause for cause in found if not _is_known(cause, single)]
    decided = [result for result in report.select(target) if result.status is not Status.UNSUPPORTED]
    totals = Counter(clause for result in decided for clause in result.clauses)
    rest = [result for result in failing if result.case in names]
    while rest:
        counts = Counter(clause for result in rest for clause in result.clauses)
        # The clause whose cases fail most regularly; of those the one with the most failures.
        clause = max(counts, key=lambda one: (counts[one] / totals[one], counts[one], clause_order(one)))
        text = f"{title_of(clause)}: {counts[clause]} of {totals[clause]} cases"
        causes.setdefault(clause, []).append(text)
        rest = [result for result in rest if clause not in result.clauses]
    yield from (f"{clause} ({', '.join(found)})" for clause, found in causes.items() if found)


def _is_known(cause: str, single: set[str]) -> bool:
    parts = cause.split(" + ")
    return len(parts) > 1 and single.issuperset(parts)


def _some(items: Sequence[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def unsupported(results: Sequence[Result]) -> tuple[str, ...]:
    """Name what a target does not do: dtypes, directions, options and operations without a single decided case."""
    decided = [result for result in results if result.status is not Status.UNSUPPORTED]
    operations = {result.operation for result in decided}
    dtypes = {result.dtype for result in decided}
    inside = [result for result in results if result.operation in operations and result.dtype in dtypes]
    absent = [dtype for dtype in DTYPES if any(result.dtype == dtype for result in results) and dtype not in dtypes]
    needs: dict[str, bool] = {}
    facts = known_cases()
    has_gradients = any(result.direction == "backward" for result in decided)
    for result in inside:
        for need in facts[result.case].needs if result.case in facts else ():
            if need == "gradients" or result.direction == "forward" or has_gradients:
                needs[need] = needs.get(need, False) or result.status is not Status.UNSUPPORTED
    absent += sorted(need for need, is_decided in needs.items() if not is_decided)
    others = sorted({result.operation for result in results} - operations)
    if len(others) > MOST_NAMED:
        absent.append(f"{len(others)} other operations")
    else:
        absent += others
    return tuple(absent)

"""Reports of several machines or targets as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeVar

from .report_files import ReportError, versions_of_runs
from .results import Report, Result, show_ratio

_Item = TypeVar("_Item")


def merge(reports: Mapping[str, Report]) -> Report:
    """Put reports together, named by the files that they came from.

    A result that stands in two of them is kept once; its time is that of the first.

    Raises:
        ReportError: they were made with different vectors, a target has different versions in two of them, or the same
            case of the same target has different results.
    """
    names = list(reports)
    for name in names[1:]:
        check_same_vectors(names[0], reports[names[0]], name, reports[name], "merged")
    results: dict[tuple[str, str], tuple[str, Result]] = {}
    versions: dict[str, tuple[str, str]] = {}
    for name, report in reports.items():
        for target in report.targets():
            version = report.versions.get(target, "")
            other, known = versions.setdefault(target, (name, version))
            if known != version:
                raise ReportError(
                    f"{other} and {name} cannot be merged: {target} is {known!r} in one, {version!r} in the other"
                )
        for result in report.results:
            other, first = results.setdefault((result.target, result.case), (name, result))
            if _outcome(first) != _outcome(result):
                raise ReportError(
                    f"{other} and {name} cannot be merged: {result.target} has different results of {result.case}: "
                    f"{_show(first)} and {_show(result)}"
                )
    runs = _distinct([report.runs for report in reports.values()])
    order = {target: i for i, target in enumerate(versions)}
    maps = chain.from_iterable(report.maps for report in reports.values())
    first_report = reports[names[0]]
    return Report(
        results=tuple(sorted((result for _, result in results.values()), key=lambda result: order[result.target])),
        versions=versions_of_runs(runs),
        missing=_distinct([report.missing for report in reports.values()]),
        diagnoses=_distinct([report.diagnoses for report in reports.values()]),
        maps=tuple({(one.target, one.case): one for one in maps}.values()),
        runs=runs,
        suite=first_report.suite,
        manifest=first_report.manifest,
    )


def _outcome(result: Result) -> tuple[object, ...]:
    """Return what must be the same if a case is in two reports."""
    return result.status, repr(result.ratio), result.profile, result.message


def _show(result: Result) -> str:
    ratio = "" if result.ratio is None else f" at {show_ratio(result.ratio)}"
    return f"{result.status}{ratio} ({result.profile})"


def _distinct(several: Sequence[tuple[_Item, ...]]) -> tuple[_Item, ...]:
    kept: list[_Item] = []
    for item in chain.from_iterable(several):
        if item not in kept:
            kept.append(item)
    return tuple(kept)


def check_same_vectors(left_name: str, left: Report, right_name: str, right: Report, verb: str) -> None:
    """Refuse reports that were made with different vectors."""
    if (left.suite, left.manifest) != (right.suite, right.manifest):
        of_left, of_right = (f"suite {one.suite}, manifest {one.manifest[:12]}…" for one in (left, right))
        raise ReportError(
            f"{left_name} and {right_name} cannot be {verb}: they were made with different vectors: "
            f"{of_left}, and {of_right}"
        )

"""The runner: every selected case on every target, and a verdict for each."""

from __future__ import annotations

import difflib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .answers import ask
from .cases import Case, shipped_cases
from .judgement import Judge
from .profiles import Profile, find_profile
from .quick import is_quick
from .report_making import make_report
from .results import Report, Result
from .targets import Target, load_target


@dataclass(frozen=True)
class Selection:
    """Which cases run: every given set must contain the case's own value; an empty set selects everything."""

    clauses: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    dtypes: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()
    cases: frozenset[str] = frozenset()
    directions: frozenset[str] = frozenset()
    quick: bool = False
    """Only a first look's cases."""

    def matches(self, case: Case) -> bool:
        """Say whether a case is selected."""
        return (
            (not self.clauses or not self.clauses.isdisjoint(case.clauses))
            and (not self.operations or case.operation in self.operations)
            and (not self.dtypes or case.dtype in self.dtypes)
            and (not self.levels or case.level in self.levels)
            and (not self.cases or case.id in self.cases)
            and (not self.directions or case.direction in self.directions)
            and (not self.quick or is_quick(case))
        )


def verify(
    target: str | Callable[..., Any] | Sequence[str | Callable[..., Any]],
    *,
    clauses: Iterable[str] = (),
    operations: Iterable[str] = (),
    dtypes: Iterable[str] = (),
    levels: Iterable[str] = (),
    cases: Iterable[str] = (),
    directions: Iterable[str] = (),
    quick: bool = False,
    profile: str | None = None,
    diagnosed: bool = False,
) -> Report:
    """Run the conformance suite on one target or several, and report every case.

    Args:
        target: a built-in name ("torch"), "module:callable", "path.py:callable", or a Python callable
            `fn(query, key, value, *, mask, bias, …)` over NumPy arrays; or a sequence of them.
        clauses, operations, dtypes, levels, cases, directions ("forward", "backward"): what to select; nothing given
            selects everything.
        quick: one vector or two for each clause, at float32: a first look.
        profile: the arithmetic profile that cases of its dtype are held to, such as "bf16_eager".
        diagnosed: whether the likely cause of failures is looked for, which takes seconds: `Report.diagnoses`.

    Returns:
        A `Report`; `report.raise_if_failed()` makes it a test.

    Raises:
        TargetError: a target that cannot be found or loaded, or whose framework is missing.
        ValueError: an unknown profile, a selection that names something that no case has, two targets of one name.
        VectorError: vectors that are damaged.
    """
    selection = Selection(
        _as_set(clauses),
        _as_set(operations),
        _as_set(dtypes),
        _as_set(levels),
        _as_set(cases),
        _as_set(directions),
        quick,
    )
    specs = [target] if isinstance(target, str) or callable(target) else list(target)
    check_selection(selection)
    targets = [load_target(spec) for spec in specs]
    names = [loaded.name for loaded in targets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"two targets are called {repeated[0]!r}, and a report could not tell them apart; rename one")
    return run(targets, selection, profile=find_profile(profile), diagnosed=diagnosed)


def _as_set(values: Iterable[str]) -> frozenset[str]:
    return frozenset((values,) if isinstance(values, str) else values)  # one name is not a sequence of letters


def check_selection(selection: Selection) -> None:
    """Refuse a selection that names what no shipped case has: it would select nothing, without a word."""
    cases = shipped_cases()
    known = {
        "clauses": {clause for case in cases for clause in case.clauses},
        "operations": {case.operation for case in cases},
        "dtypes": {case.dtype for case in cases},
        "levels": {case.level for case in cases},
        "cases": {case.id for case in cases},
        "directions": {case.direction for case in cases},
    }
    for name, values in known.items():
        unknown = sorted(getattr(selection, name) - values)
        if unknown:
            spelled = {value.lower(): value for value in values}
            closest = [spelled[match] for match in difflib.get_close_matches(unknown[0].lower(), spelled, n=3)]
            listed = sorted(values, key=lambda value: (len(value), value))  # S2 before S10
            shown = ", ".join([*listed[:20], *(["…"] if len(listed) > 20 else [])])
            hint = f"did you mean {' or '.join(closest)}?" if closest else f"there are {shown}"
            raise ValueError(f"no case has {unknown[0]!r} among its {name}; {hint}")


def run(
    targets: Sequence[Target], selection: Selection, *, profile: Profile | None = None, diagnosed: bool = False
) -> Report:
    """Run the selected cases on targets that are loaded already, in this process."""
    judges = [Judge(target.name, target.profiles, profile) for target in targets]
    results = [
        run_case(target, case, judge)
        for target, judge in zip(targets, judges, strict=True)
        for case in selected(selection)
    ]
    versions = versions_of({target.name: target.version for target in targets})
    return make_report(results, judges, versions, diagnosed=diagnosed)


def selected(selection: Selection) -> Iterator[Case]:
    """Yield the shipped cases that are selected."""
    return (case for case in shipped_cases() if selection.matches(case))


def run_case(target: Target, case: Case, judge: Judge) -> Result:
    """Run one case on one target in this process, and judge it."""
    answer, twin = ask(target, case.call), judge.missing_twin(case)
    if twin is not None and answer.results is not None:
        judge.remember(twin, ask(target, twin.call))
    return judge.judge(case, answer)


def versions_of(targets: Mapping[str, str]) -> dict[str, str]:
    """Say what a run was made with."""
    own = {
        "attnspec": importlib.metadata.version("attnspec"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    return own | dict(targets)

"""Conformance cases as tests of a third party's own suite: what stands behind the plugin `attnspec.pytest_plugin`."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from .cases import case_of
from .judgement import Judge
from .profiles import find_profile
from .results import Result, Status
from .runner import Selection, check_selection, run_case, selected
from .targets import Target, load_target

SELECTIONS = ("clauses", "operations", "dtypes", "levels", "cases", "directions")


def cases_of(positional: Sequence[Any], selections: Mapping[str, Any]) -> list[str]:
    """Name the cases that the marker's arguments select, which are those of `verify`.

    Raises:
        TypeError: arguments that it does not take.
        ValueError: a selection that names what no case has, or that no case fits.
    """
    if positional:
        raise TypeError(f"name what is selected, as in dtypes=['float32']; got {positional[0]!r} without a name")
    unknown = sorted(selections.keys() - {*SELECTIONS, "quick"})
    if unknown:
        raise TypeError(f"there is no selection {unknown[0]!r}; there are {', '.join((*SELECTIONS, 'quick'))}")
    named = {name: _as_set(selections.get(name, ())) for name in SELECTIONS}
    selection = Selection(**named, quick=bool(selections.get("quick", False)))
    check_selection(selection)
    found = [case.id for case in selected(selection)]
    if not found:
        raise ValueError("no case fits this selection")
    return found


class CheckedCase:
    """One case in one test.

    Args:
        identifier: the id of the case.
        node: the test, whose report gets the verdict as properties.
    """

    def __init__(self, identifier: str, node: pytest.Item) -> None:
        self.case = case_of(identifier)
        """What is asked, and what is expected: `case.description`, `case.clauses`, `case.tensors`, …"""
        self._node = node

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.case.id}>"

    def check(self, target: str | Callable[..., Any], *, profile: str | None = None) -> Result:
        """Run the case in this process: return the verdict, fail the test, or skip it where the target cannot do this.

        Args:
            target: a callable, or the name of a target, as for `attnspec.conformance.verify`.
            profile: the arithmetic profile that cases of its dtype are held to, such as "bf16_eager".

        Raises:
            TargetError: there is no such target, or it cannot be loaded.
            ValueError: there is no such profile.
        """
        override = find_profile(profile)
        loaded = _load(target) if isinstance(target, str) else load_target(target)
        result = run_case(loaded, self.case, Judge(loaded.name, loaded.profiles, override))
        properties = {"status": str(result.status), "ratio": result.ratio, "profile": result.profile}
        self._node.user_properties += [(f"attnspec_{name}", value) for name, value in properties.items()]
        if result.status is Status.UNSUPPORTED:
            pytest.skip(result.message)
        if result.is_failure:
            self._fail(result, target)
        return result

    def _fail(self, result: Result, target: str | Callable[..., Any]) -> NoReturn:
        case = self.case
        lines = [f"{result.target} on {case.id}: {result.status}", f"  {result.message}"]
        if case.description not in result.message:
            lines.append(f"  the case: {case.description}")
        if result.ratio is not None:
            lines.append(f"  error / bound: {result.ratio:.3g} (profile {result.profile}; at most 1 passes)")
        clauses = f"clause {case.clauses[0]}" if len(case.clauses) == 1 else f"clauses {', '.join(case.clauses)}"
        lines.append(f"  {clauses} of the specification; {case.operation}, {case.direction}, {case.dtype}")
        lines.append(f"  this test alone: pytest {shlex.quote(self._node.nodeid)}")
        if isinstance(target, str):
            lines.append(f"  without pytest: attnspec verify {shlex.quote(target)} --case {case.id}")
        pytest.fail("\n".join(lines), pytrace=False)


def _as_set(values: Any) -> frozenset[str]:
    return frozenset((values,) if isinstance(values, str) else values)  # one name is not a sequence of letters


@functools.cache
def _load(spec: str) -> Target:
    """Load a target by its name once for all tests: a command is started once."""
    return load_target(spec)

"""The runner: every selected case on every target, and a verdict for each."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .admission import decides, error_ratios, evaluate
from .cases import Case, shipped_cases
from .operation import Evaluation
from .profiles import PROFILES, Profile
from .quick import is_quick
from .results import Report, Result, Status
from .targets import Target, UnsupportedCaseError, load_target, profile_for

Array: TypeAlias = np.ndarray[Any, Any]
Results: TypeAlias = dict[str, Array]
"""What a target computed, by name."""

Verdict: TypeAlias = tuple[Status, float | None, str]
"""What became of a case, the largest error over its bound, and what is wrong."""

WARNING_RATIO = 0.8


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
) -> Report:
    """Run the conformance suite on one target or several, and report every case.

    Args:
        target: a built-in name ("torch"), "module:callable", "path.py:callable", or a Python callable
            `fn(query, key, value, *, mask, bias, …)` over NumPy arrays; or a sequence of them.
        clauses, operations, dtypes, levels, cases, directions ("forward", "backward"): what to select; nothing given
            selects everything.
        quick: one vector or two for each clause, at float32: a first look.
        profile: the arithmetic profile that cases of its dtype are held to, such as "bf16_eager".

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
    return run(targets, selection, profile=find_profile(profile))


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


def find_profile(name: str | None) -> Profile | None:
    """Return the profile of a name, None for None."""
    if name is None:
        return None
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def run(targets: Sequence[Target], selection: Selection, *, profile: Profile | None = None) -> Report:
    """Run the selected cases on targets that are loaded already, in this process."""
    results = [
        event for target in targets for event in run_target(target, selection, profile) if isinstance(event, Result)
    ]
    return Report(tuple(results), versions_of({target.name: target.version for target in targets}))


def run_target(
    target: Target, selection: Selection, override: Profile | None, skip: frozenset[str] = frozenset()
) -> Iterator[str | Result]:
    """Run the selected cases on one target: yield each case's identifier before it runs, and its result after."""
    outputs: dict[str, Results] = {}
    for case in shipped_cases():
        if selection.matches(case) and case.id not in skip:
            yield case.id
            yield run_case(target, case, override, outputs)


def run_case(target: Target, case: Case, override: Profile | None, outputs: dict[str, Results]) -> Result:
    """Run one case on one target and judge it; `outputs` keeps what the target has computed, for the cases' twins."""
    profile = profile_for(case, override)
    started = time.perf_counter()
    status, ratio, message = _judge(target, case, profile, outputs)
    return result_of(target.name, case, profile, status, ratio, message, time.perf_counter() - started)


def result_of(
    target: str, case: Case, profile: Profile, status: Status, ratio: float | None, message: str, seconds: float
) -> Result:
    """Put a verdict and what it is about together."""
    return Result(
        target, case.id, case.operation, case.dtype, case.clauses, status, profile.name, ratio, message, seconds
    )


def versions_of(targets: Mapping[str, str]) -> dict[str, str]:
    """Say what a run was made with."""
    own = {
        "attnspec": importlib.metadata.version("attnspec"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    return own | dict(targets)


def _judge(target: Target, case: Case, profile: Profile, outputs: dict[str, Results]) -> Verdict:
    reason = target.unsupported(case)
    if reason is not None:
        return Status.UNSUPPORTED, None, reason
    evaluation = _evaluate(case.id, profile)
    if not decides(evaluation):
        return Status.UNSUPPORTED, None, f"the bound of profile {profile.name} is too wide to decide here"
    try:
        outputs[case.id] = results = _call(target, case)
        repeated = _call(target, case)
    except UnsupportedCaseError as error:
        return Status.UNSUPPORTED, None, str(error)
    except _NoOutputError as error:
        return error.status, None, str(error)
    status, ratio, message = _compare_all(case, results, target, evaluation)
    if status is Status.FAIL:
        return status, ratio, message
    if not _same_bits(results, repeated):
        return Status.NONDETERMINISTIC, ratio, "the same call gave different bits the second time (S17)"
    twin = case.same_bits_as
    if twin is not None:
        try:
            if twin not in outputs:
                outputs[twin] = _call(target, _by_id()[twin])
        except UnsupportedCaseError as error:
            return Status.UNSUPPORTED, None, f"its twin {twin}: {error}"
        except _NoOutputError as error:
            return error.status, ratio, f"its twin {twin} gave no output: {error}"
        if not _same_bits(results, outputs[twin]):
            message = f"unread entries changed the result: its bits differ from those of {twin} (S11)"
            return Status.FAIL, ratio, message
    return status, ratio, message


class _NoOutputError(Exception):
    """A call that gave nothing to compare, and the status that follows."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def _call(target: Target, case: Case) -> Results:
    """Run a case on fresh, read-only copies of its tensors, and see that they come back unchanged."""
    tensors = {name: tensor.copy() for name, tensor in case.tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    try:
        results = {name: result.copy() for name, result in target.run(case, tensors).items()}
    except (KeyboardInterrupt, UnsupportedCaseError):
        raise
    except BaseException as error:  # whatever a target raises is its result, not ours; so is an exit
        raise _NoOutputError(Status.ERROR, f"{type(error).__name__}: {error}".removesuffix(": ")) from error
    for name, tensor in tensors.items():
        if tensor.tobytes() != case.tensors[name].tobytes():
            raise _NoOutputError(Status.FAIL, f"the target changed its input `{name}` (S17)")
    return results


def _compare_all(case: Case, results: Results, target: Target, evaluation: Evaluation) -> Verdict:
    """Compare every result: return the verdict of the first that fails, or else the one closest to its bound."""
    dtypes = target.result_dtypes(case)
    worst: Verdict = Status.PASS, 0.0, ""
    for name, expected in case.expected.items():
        what = f"the gradient of `{name}`" if case.direction == "backward" else f"the {name}"
        if name not in results:
            return Status.FAIL, None, f"{what} is missing"
        verdict = _compare(what, results[name], expected, dtypes[name], evaluation.bounds[name])
        if verdict[0] is Status.FAIL:
            return (*verdict[:2], f"{verdict[2]}; {case.description}" if verdict[1] is not None else verdict[2])
        if (verdict[1] or 0.0) > (worst[1] or 0.0):
            worst = verdict
    return worst


def _compare(what: str, result: Array, expected: Array, dtypes: tuple[np.dtype[Any], ...], bound: Array) -> Verdict:
    if result.shape != expected.shape:
        return Status.FAIL, None, f"{what} has shape {result.shape}; expected {expected.shape} (S1)"
    if result.dtype not in dtypes:
        allowed = " or ".join(map(str, dtypes))
        return Status.FAIL, None, f"{what} has dtype {result.dtype}; expected {allowed} (S16)"
    ratios = error_ratios(result, expected, bound)
    if not ratios.size:
        return Status.PASS, 0.0, ""
    worst = np.unravel_index(int(ratios.argmax()), ratios.shape)
    ratio = float(ratios[worst])
    if ratio <= WARNING_RATIO:
        return Status.PASS, ratio, ""
    place = f"[{', '.join(str(int(index)) for index in worst)}]"
    place = place if what == "the output" else f"{place} of {what}"
    limit = float(bound[worst])
    message = f"at {place} got {float(result[worst]):.9g}, expected {float(expected[worst]):.9g} ± {limit:.2g}"
    if ratio <= 1.0:
        return Status.QUALITY_WARNING, ratio, message
    wrong = float((ratios > 1).mean())
    return Status.FAIL, ratio, f"{message}; {wrong:.0%} of the elements are outside"


def _same_bits(left: Results, right: Results) -> bool:
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@functools.cache
def _evaluate(identifier: str, profile: Profile) -> Evaluation:
    """Compute a shipped case's bound once for all targets."""
    return evaluate(_by_id()[identifier], profile)


@functools.cache
def _by_id() -> dict[str, Case]:
    return {case.id: case for case in shipped_cases()}

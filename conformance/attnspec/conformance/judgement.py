"""The judge: an answer beside the case that it belongs to, and what follows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from .admission import decides, error_ratios, evaluate
from .answers import Answer, same_bits
from .calls import Array
from .cases import Case, shipped_cases
from .operation import Evaluation
from .profiles import Profile, profile_for
from .results import Result, Status

Verdict: TypeAlias = tuple[Status, float | None, str]
"""What became of a case, the largest error over its bound, and what is wrong."""

WARNING_RATIO = 0.8


class Judge:
    """Judges the answers of one target, and remembers those that other cases are compared with.

    Args:
        target: its name.
        profiles: the arithmetic that it declares, by dtype.
        override: the arithmetic that it is held to instead, in that one's dtype.
    """

    def __init__(self, target: str, profiles: Mapping[str, str], override: Profile | None) -> None:
        self.target = target
        self._profiles, self._override = profiles, override
        self._answers: dict[str, Answer] = {}

    def profile_of(self, case: Case) -> Profile:
        """Return the profile that a case is held to."""
        return profile_for(case.dtype, self._override, self._profiles)

    def missing_twin(self, case: Case) -> Case | None:
        """Return the case whose answer must be known before this one's can be judged, if it is not."""
        twin = case.same_bits_as
        return None if twin is None or twin in self._answers else _by_id()[twin]

    def remember(self, case: Case, answer: Answer) -> None:
        """Keep the answer to a case if it is the twin of another."""
        if case.id in _twins():
            self._answers[case.id] = answer

    def judge(self, case: Case, answer: Answer) -> Result:
        """Judge an answer."""
        self.remember(case, answer)
        status, ratio, message = self._verdict(case, answer)
        return self.result(case, status, ratio, message, answer.seconds)

    def result(self, case: Case, status: Status, ratio: float | None, message: str, seconds: float) -> Result:
        """Put a verdict and what it is about together."""
        profile = self.profile_of(case).name
        about = self.target, case.id, case.operation, case.dtype, case.clauses
        return Result(*about, status, profile, ratio, message, seconds)

    def _verdict(self, case: Case, answer: Answer) -> Verdict:
        if answer.results is None:
            return answer.status or Status.ERROR, None, answer.message
        profile = self.profile_of(case)
        evaluation = _evaluate(case.id, profile)
        if not decides(evaluation):
            return Status.UNSUPPORTED, None, f"the bound of profile {profile.name} is too wide to decide here"
        status, ratio, message = compare_results(case, answer, evaluation)
        if status is Status.FAIL:
            return status, ratio, message
        if not answer.is_repeatable:
            return Status.NONDETERMINISTIC, ratio, "the same call gave different bits the second time (S17)"
        if case.same_bits_as is None:
            return status, ratio, message
        twin, other = case.same_bits_as, self._answers[case.same_bits_as]
        if other.status is Status.UNSUPPORTED:
            return Status.UNSUPPORTED, None, f"its twin {twin}: {other.message}"
        if other.results is None:
            return other.status or Status.ERROR, ratio, f"its twin {twin} gave no output: {other.message}"
        if not same_bits(answer.results, other.results):
            message = f"unread entries changed the result: its bits differ from those of {twin} (S11)"
            return Status.FAIL, ratio, message
        return status, ratio, message


def compare_results(case: Case, answer: Answer, evaluation: Evaluation) -> Verdict:
    """Compare every result: return the verdict of the first that fails, or else the one closest to its bound."""
    results = answer.results or {}
    worst: Verdict = Status.PASS, 0.0, ""
    for name, expected in case.expected.items():
        what = f"the gradient of `{name}`" if case.direction == "backward" else f"the {name}"
        if name not in results:
            return Status.FAIL, None, f"{what} is missing"
        verdict = _compare(what, results[name], expected, answer.dtypes[name], evaluation.bounds[name])
        if verdict[0] is Status.FAIL:
            return (*verdict[:2], f"{verdict[2]}; {case.description}" if verdict[1] is not None else verdict[2])
        if (verdict[1] or 0.0) > (worst[1] or 0.0):
            worst = verdict
    return worst


def _compare(what: str, result: Array, expected: Array, dtypes: tuple[str, ...], bound: Array) -> Verdict:
    if result.shape != expected.shape:
        return Status.FAIL, None, f"{what} has shape {result.shape}; expected {expected.shape} (S1)"
    if str(result.dtype) not in dtypes:
        allowed = " or ".join(dtypes)
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


@functools.cache
def _evaluate(identifier: str, profile: Profile) -> Evaluation:
    """Compute a shipped case's bounds once for all targets."""
    return evaluate(_by_id()[identifier], profile)


@functools.cache
def _by_id() -> dict[str, Case]:
    return {case.id: case for case in shipped_cases()}


@functools.cache
def _twins() -> frozenset[str]:
    return frozenset(case.same_bits_as for case in shipped_cases() if case.same_bits_as is not None)

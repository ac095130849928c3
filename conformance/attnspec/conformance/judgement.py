"""The judge: an answer beside the case that it belongs to, and what follows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from .admission import decides, error_ratios, evaluation_of, largest_ratio
from .answers import Answer, same_bits
from .calls import Array
from .cases import Case, case_of, shipped_cases
from .operation import Evaluation
from .profiles import DEFAULT_PROFILES, PROFILES, Profile, profile_for
from .results import Largest, Result, Status

Verdict: TypeAlias = tuple[Status, float | None, str]
"""What became of a case, the largest error over its bound, and what is wrong."""

WARNING_RATIO = 0.8

MOST_BYTES = 2**28
"""How much the answers that are kept for the diagnosis of one target may take."""


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
        self.kept: dict[str, tuple[Result, Answer]] = {}
        """The results that fail or warn, with the answers that they judge, by case: for a diagnosis, and for maps."""
        self.passed: list[str] = []
        """The cases that pass."""
        self._bytes = 0

    @property
    def failures(self) -> dict[str, Answer]:
        """Return the answers that failed, by case: those that are results, and wrong ones."""
        return {case: answer for case, (result, answer) in self.kept.items() if result.status is Status.FAIL}

    def profile_of(self, case: Case) -> Profile:
        """Return the profile that a case is held to."""
        return profile_for(case.dtype, self._override, self._profiles)

    def profiles(self) -> dict[str, str]:
        """Return the profile that each dtype is held to."""
        return {dtype: profile_for(dtype, self._override, self._profiles).name for dtype in DEFAULT_PROFILES}

    def missing_twin(self, case: Case) -> Case | None:
        """Return the case whose answer must be known before this one's can be judged, if it is not."""
        twin = case.same_bits_as
        return None if twin is None or twin in self._answers else case_of(twin)

    def remember(self, case: Case, answer: Answer) -> None:
        """Keep the answer to a case if it is the twin of another."""
        if case.id in _twins():
            self._answers[case.id] = answer

    def judge(self, case: Case, answer: Answer) -> Result:
        """Judge an answer."""
        self.remember(case, answer)
        status, ratio, message = self._verdict(case, answer)
        profile = self.profile_of(case)
        rms, bias, largest = (None, None, None)
        if ratio is not None and answer.results is not None:
            rms, bias, largest = measure(case, answer.results, evaluation_of(case.id, profile))
        result = Result(
            target=self.target,
            case=case.id,
            operation=case.operation,
            dtype=case.dtype,
            clauses=case.clauses,
            status=status,
            profile=profile.name,
            ratio=ratio,
            message=message,
            seconds=answer.seconds,
            direction=case.direction,
            level=case.level,
            rms=rms,
            bias=bias,
            largest=largest,
            weakest=weakest_profile(case, answer, profile) if status is Status.FAIL and (ratio or 0) > 1 else None,
        )
        self._keep(result, answer)
        return result

    def _keep(self, result: Result, answer: Answer) -> None:
        if result.status in (Status.PASS, Status.QUALITY_WARNING):
            self.passed.append(result.case)
        if answer.results is None or result.status not in (Status.FAIL, Status.QUALITY_WARNING):
            return
        self._bytes += sum(array.nbytes for array in answer.results.values())
        if self._bytes <= MOST_BYTES:
            self.kept[result.case] = result, answer

    def _verdict(self, case: Case, answer: Answer) -> Verdict:
        if answer.results is None:
            return answer.status or Status.ERROR, None, answer.message
        profile = self.profile_of(case)
        evaluation = evaluation_of(case.id, profile)
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
            cause, clause = ("unread entries", "S11") if "S11" in case.clauses else ("the order of exact sums", "S17")
            message = f"{cause} changed the result: its bits differ from those of {twin} ({clause})"
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


def measure(
    case: Case, results: Mapping[str, Array], evaluation: Evaluation
) -> tuple[float | None, float | None, Largest | None]:
    """Return the largest row RMS and the largest mean of error / bound, and the element with the largest ratio.

    Results that cannot be compared, because of their shape, are left out.
    """
    row_rms, means, largest, peak = [], [], None, -1.0
    for name, expected in case.expected.items():
        if name not in results or results[name].shape != expected.shape or not expected.size:
            continue
        got, bound = np.asarray(results[name], np.float64), evaluation.bounds[name]
        ratios = error_ratios(got, expected, bound)
        worst = np.unravel_index(int(ratios.argmax()), ratios.shape)
        if ratios[worst] > peak:
            peak = float(ratios[worst])
            place = tuple(int(index) for index in worst)
            largest = Largest(name, place, float(got[worst]), float(expected[worst]), float(bound[worst]))
        signed = signed_ratios(ratios, got, expected)
        with np.errstate(over="ignore"):
            row_rms.append(float(np.sqrt((np.atleast_1d(ratios) ** 2).mean(axis=-1)).max()))
        means.append(float(signed[np.isfinite(signed)].mean()) if np.isfinite(signed).any() else 0.0)
    return max(row_rms, default=None), max(means, key=abs, default=None), largest


def signed_ratios(ratios: Array, got: Array, expected: Array) -> Array:
    """Give |error| / bound the sign of the error; NaN has none, and counts as too much."""
    return np.where(np.asarray(got, np.float64) < expected, -ratios, ratios)


def weakest_profile(case: Case, answer: Answer, profile: Profile) -> str | None:
    """Find the first profile of the case's dtype, coarser than the one that failed, which the answer passes.

    A profile whose bound is too wide to decide the case is passed by nobody.
    """
    of_dtype = [other for other in PROFILES.values() if other.dtype == case.dtype]
    results = answer.results or {}
    for other in of_dtype[of_dtype.index(profile) + 1 :]:
        evaluation = evaluation_of(case.id, other)
        ratios = [
            largest_ratio(results[name], expected, evaluation.bounds[name])
            if name in results and results[name].shape == expected.shape
            else np.inf
            for name, expected in case.expected.items()
        ]
        if max(ratios) <= 1 and decides(evaluation):
            return other.name
    return None


@functools.cache
def _twins() -> frozenset[str]:
    return frozenset(case.same_bits_as for case in shipped_cases() if case.same_bits_as is not None)

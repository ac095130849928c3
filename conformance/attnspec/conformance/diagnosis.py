"""Diagnosis: when a target fails, what the likely cause is.

The target's answers to its failing cases are compared with what known causes would have answered: the faults of the
zoo, the conventions, and what wrong results say of themselves. A cause explains a case if the answer is within the
bound around the cause's (`causes`), and at least twice as near to it as to the right one. The cause that explains most
is named first; what remains is explained by the next, by two together, or by nothing: that is said too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .admission import error_ratios, evaluation_of
from .answers import Answer
from .calls import Array
from .cases import Case, case_of, shipped_cases
from .causes import Cause, Claim, answer, claims, distance, is_near, known_causes, parts_of_pairs, together
from .operation import Evaluation
from .profiles import Profile, profile_for
from .results import Diagnosis
from .signatures import Signature, is_within, signatures

SAMPLE, ROUNDS, PAIR_ROUNDS = 6, 10, 4
"""How many unexplained cases a round looks at, how many rounds there are, and how many may try pairs in vain."""
PAIR_SAMPLE = 2
"""On how many of them pairs are tried."""
WITNESSES = 600
"""How many cases that passed are asked whether a cause would be seen there."""
NEARLY = 0.05
"""Causes that explain so little less than the best are its equals."""
UNKNOWN = "unknown"


class Failure(NamedTuple):
    """One failing case: what was asked, what came, and how far it may be off."""

    case: Case
    found: dict[str, Array]
    evaluation: Evaluation
    profile: Profile
    is_repeatable: bool
    dtypes: Mapping[str, tuple[str, ...]]
    """The dtypes that each result may have."""


class Found(NamedTuple):
    """A cause, and the distance of each case that it explains."""

    cause: str
    says: str
    clause: str | None
    ratios: dict[str, float | None]
    rank: tuple[int, int]
    """Of two that explain as much, the smaller is meant: faults and conventions before signatures."""
    parts: Cause | None = None

    @property
    def ratio(self) -> float | None:
        """The largest distance."""
        known = [ratio for ratio in self.ratios.values() if ratio is not None]
        return max(known) if known else None


def diagnose(
    target: str,
    failures: Mapping[str, Answer],
    *,
    passed: Collection[str] | None = None,
    profiles: Mapping[str, str] | None = None,
    reproduce: Callable[[Case], str | None] | None = None,
) -> tuple[Diagnosis, ...]:
    """Name what is behind the failures of a target, the cause that explains most cases first.

    Args:
        target: its name.
        failures: the answers to the failing cases by the case's id; those without results are left out.
        passed: cases that passed: of two causes that explain as much, the one that deviates there is less likely; None:
            those like the failing ones that did not fail.
        profiles: the arithmetic that the target declares, by dtype.
        reproduce: makes a runnable snippet of the smallest case that a cause explains.
    """
    chosen = [_failure(name, each, profiles or {}) for name, each in failures.items() if each.results is not None]
    remaining = {each.case.id: each for each in chosen}
    witnesses = _witnesses(chosen, passed)
    found: list[Found] = []
    unknown: dict[str, Failure] = {}
    in_vain = 0
    for _ in range(ROUNDS):
        if not remaining:
            break
        sample = _sample(remaining.values())
        best = _best(sample, remaining, witnesses, found, with_pairs=in_vain < PAIR_ROUNDS)
        if best is None:
            in_vain += 1
            for failure in sample:
                unknown[failure.case.id] = remaining.pop(failure.case.id)
            continue
        _add(found, best)
        for pool in (remaining, unknown):  # a later cause may be behind what an earlier sample left unknown
            for name in best.ratios:
                pool.pop(name, None)
    unknown |= remaining
    if unknown:
        found.append(Found(UNKNOWN, _words_on_unknown(unknown), None, dict.fromkeys(unknown), (9, 0)))
    found.sort(key=lambda each: -len(each.ratios))
    return tuple(_diagnosis(target, each, len(chosen), reproduce) for each in found)


def _add(found: list[Found], best: Found) -> None:
    """Add a cause, or the cases that it explains to those of the same name: of another operation, or gradients."""
    for known in found:
        if known.cause == best.cause:
            known.ratios.update(best.ratios)
            return
    found.append(best)


def _failure(name: str, given: Answer, profiles: Mapping[str, str]) -> Failure:
    case = case_of(name)
    profile = profile_for(case.dtype, None, profiles)
    evaluation = evaluation_of(name, profile)
    return Failure(case, given.results or {}, evaluation, profile, given.is_repeatable, given.dtypes)


def _witnesses(failures: list[Failure], passed: Collection[str] | None) -> list[Case]:
    if passed is not None:
        return [case_of(name) for name in sorted(passed)]
    failed = {each.case.id for each in failures}
    kinds = {(each.case.operation, each.case.dtype, each.case.direction) for each in failures}
    return [
        case
        for case in shipped_cases()
        if case.id not in failed and (case.operation, case.dtype, case.direction) in kinds
    ]


def _sample(failures: Iterable[Failure]) -> list[Failure]:
    """Choose cases unlike each other, the exact and small ones first: there causes differ most from each other."""

    def size(failure: Failure) -> tuple[int, int]:
        elements = sum(tensor.size for tensor in failure.case.tensors.values())
        return (("float32", "float64", "float16", "bfloat16").index(failure.case.dtype), elements)

    chosen: dict[tuple[object, ...], Failure] = {}
    ordered = sorted(failures, key=size)
    for failure in ordered:
        case = failure.case
        chosen.setdefault((case.operation, case.direction, case.clauses, case.features), failure)
    first = list(chosen.values())[:SAMPLE]
    return first + [each for each in ordered if each not in first][: SAMPLE - len(first)]


def _best(
    sample: list[Failure],
    remaining: Mapping[str, Failure],
    witnesses: list[Case],
    found: Sequence[Found],
    *,
    with_pairs: bool,
) -> Found | None:
    """Return the cause that explains most of the remaining cases, of all that explain one of the sample."""
    again = [each._replace(rank=(-1, 0)) for each in _known(sample, _of_found(found), remaining)]
    candidates = [*again, *_known(sample, known_causes(), remaining)]
    if all(len(each.ratios) < len(remaining) for each in candidates):  # or else no signature would be preferred
        candidates += _signed(sample, remaining)
    if not candidates and with_pairs:
        candidates = _known(sample[:PAIR_SAMPLE], _pairs(sample[:PAIR_SAMPLE]), remaining)
    if not candidates:
        return None
    most = max(_weight(each) for each in candidates)
    equals = [each for each in candidates if _weight(each) >= most * (1 - NEARLY)]
    against = dict.fromkeys((each.cause for each in equals), 0)
    if len(equals) > 1:
        against |= {each.cause: _contradictions(each, witnesses) for each in equals}
    equals.sort(key=lambda each: (each.rank[0], against[each.cause], -len(each.ratios), each.rank, each.ratio or 0.0))
    return equals[0]


def _weight(found: Found) -> float:
    """Return how many cases count for a cause: coarse bounds hold much, and count half as much as what says more."""
    return len(found.ratios) / 2 if found.rank[0] == 1 and found.rank[1] > 0 else float(len(found.ratios))


def _known(sample: list[Failure], causes: Iterable[Cause], remaining: Mapping[str, Failure]) -> list[Found]:
    found = []
    for cause in causes:
        if not any(explains(cause, failure) is not None for failure in sample):
            continue
        ratios = {name: explains(cause, failure) for name, failure in remaining.items()}
        explained: dict[str, float | None] = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        says = f"the output equals *{cause.name}*: {cause.says}"
        found.append(Found(cause.name, says, cause.clause, explained, (0, _order(cause)), cause))
    return found


def _order(cause: Cause) -> int:
    """Put one cause before two, and the faults of an operation before what can happen to all."""
    return 2 * len(cause.names) + (cause.steps is None and cause.function is None)


def explains(cause: Cause, failure: Failure) -> float | None:
    """Return how far an answer is from what a cause would answer, over the bound; None where it does not explain it."""
    case, found = failure.case, failure.found
    rough = answer(cause, case)
    if rough is None or not is_near(found, rough, case.expected):
        return None
    for claimed in claims(cause, case, failure.evaluation, failure.profile):
        ratio = distance(found, claimed)
        if ratio <= 1 and distance(found, Claim(dict(case.expected), claimed.bounds)) > max(1.0, 2 * ratio):
            return ratio
    return None


def _pairs(sample: list[Failure]) -> list[Cause]:
    """Return the pairs of causes that both deviate on one of the first cases of a sample."""
    pairs: dict[tuple[Cause, Cause], Cause] = {}
    for failure in sample:
        alone = [cause for cause in parts_of_pairs() if deviates(cause, failure.case, failure.evaluation)]
        pairs |= _combined(alone, alone)
    return list(pairs.values())


def _combined(causes: Sequence[Cause], others: Sequence[Cause]) -> dict[tuple[Cause, Cause], Cause]:
    pairs = {}
    for place, first in enumerate(causes):
        for second in others[place + 1 :] if others is causes else others:
            both = together(first, second)
            if both is not None:
                pairs[first, second] = both
    return pairs


def _of_found(found: Sequence[Found]) -> list[Cause]:
    """Return the pairs of causes that are found already: they are likelier than a third cause."""
    names = {each.cause for each in found}
    parts = [part for part in parts_of_pairs() if part.name in names]
    return list(_combined(parts, parts).values())


def deviates(cause: Cause, case: Case, evaluation: Evaluation) -> bool:
    """Say whether a cause would be seen on a case."""
    results = answer(cause, case)
    if results is None:
        return False
    return any(
        name not in results
        or results[name].shape != expected.shape
        or float(error_ratios(results[name], expected, evaluation.bounds[name]).max(initial=0.0)) > 1
        for name, expected in case.expected.items()
    )


def _contradictions(found: Found, witnesses: list[Case]) -> int:
    """Count the cases that passed although the cause would have failed there."""
    cause = found.parts
    if cause is None:
        return 0
    operations = {case_of(name).operation for name in found.ratios}
    asked = [case for case in witnesses if case.operation in operations][:WITNESSES]
    return sum(deviates(cause, case, evaluation_of(case.id, profile_for(case.dtype, None))) for case in asked)


def _signed(sample: list[Failure], remaining: Mapping[str, Failure]) -> list[Found]:
    if not any(_signatures_of(failure) for failure in sample):
        return []
    found: dict[str, Found] = {}
    for name, failure in remaining.items():
        for cause, says, clause, ratio, rank in _signatures_of(failure):
            known = found.setdefault(cause, Found(cause, says, clause, {}, (1, rank)))
            known.ratios[name] = ratio
    return list(found.values())


def _signatures_of(failure: Failure) -> list[Signature]:
    case = failure.case
    if not failure.is_repeatable:
        words = "the same call gave other results the second time: a state is kept, or it is random"
        return [Signature("not repeatable", words, "S17", None, 0)]
    for name in case.expected:
        dtype = str(failure.found[name].dtype) if name in failure.found else ""
        if dtype and dtype not in failure.dtypes.get(name, (dtype,)):
            return [Signature(f"{dtype} returned", f"the {name} has the dtype {dtype}", "S16", None, 0)]
    if is_within(case, failure.found, failure.evaluation):
        words = "every number is right, but its bits differ from those of the same call, or of its twin"
        return [Signature("other bits", words, "S11" if case.same_bits_as else "S17", None, 0)]
    return signatures(case, failure.found, failure.evaluation, failure.profile)


def _words_on_unknown(unknown: Mapping[str, Failure]) -> str:
    shares = []
    for failure in unknown.values():
        for name, expected in failure.case.expected.items():
            if name in failure.found and failure.found[name].shape == expected.shape and expected.size:
                ratios = error_ratios(failure.found[name], expected, failure.evaluation.bounds[name])
                shares.append(float((ratios > 1).mean()))
    share = f"; {np.median(shares):.0%} of the elements are outside, in the median" if shares else ""
    return f"no known cause gives this output{share}"


def _diagnosis(target: str, found: Found, failing: int, reproduce: Callable[[Case], str | None] | None) -> Diagnosis:
    cases = tuple(found.ratios)
    ratio = f" (ratio {found.ratio:.2g})" if found.ratio is not None else ""
    explanation = f"on {len(cases)} of {failing} failing cases {found.says}{ratio}"
    smallest = min((case_of(name) for name in cases), key=lambda case: sum(t.size for t in case.tensors.values()))
    snippet = None if reproduce is None else reproduce(smallest)
    return Diagnosis(target, found.cause, explanation, found.clause, cases, failing, found.ratio, snippet)

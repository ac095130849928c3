"""Causes: what may be behind a wrong answer, each able to say what it would have answered, and how exactly.

A cause is a change of the call, a faulty implementation, a change of the results, or all three. Two make a third.

How far may a target be from a cause, and still be explained by it? Around a convention that is a call the bound is that
of its call: the definition's own. A faulty implementation has no definition, and its bound has two parts:

    T = T_case + 8 s + 2 u_o |y|

T_case is the case's own bound, for what the fault leaves alone; s is how much the fault itself scatters, the root mean
square over the row (the last axis) of the difference between its results y in the call's dtype and in float64, or with
inputs that are off by one rounding where the call is in float64 already. A fault that makes logits √D times as large,
or that reads a row that should be empty, errs more than the definition does there, and T_case alone (0 in an empty row)
would reject a target that has this very fault and sums in another order. 8 is the factor of the Monte-Carlo bounds. The
bound without s is tried first: of a fault that is a matter of precision, such as an exponential that overflows, s is as
large as the fault itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from attnspec import reference

from .admission import error_ratios
from .calls import Array, Call
from .cases import Case
from .changes import Change, Results
from .conventions import CONVENTIONS, Convention
from .derivatives import evaluate_backward, reference_gradients
from .implementations import Steps, build
from .layer_implementations import BODIES
from .operation import Evaluation, results_of
from .operations import OPERATIONS
from .profiles import Profile
from .zoo import ATTENTIONS, ZooFault, in_dtype, run_function, zoo_faults, zoo_variants

FACTOR = 8.0
PLAIN_STEPS = Steps()


class Cause(NamedTuple):
    """One cause, or two together."""

    names: tuple[str, ...]
    says: str
    clause: str | None
    changes: tuple[Change, ...] = ()
    steps: Steps | None = None
    """Of attention itself."""
    function: Any = None
    """Of the one operation that a layer's fault is in."""
    operations: frozenset[str] | None = None
    """Those that it can explain; None: every one."""
    alters: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """What reports call it."""
        return " + ".join(self.names)

    @property
    def is_a_call(self) -> bool:
        """Whether it is nothing but another call."""
        return self.steps is None and self.function is None and not self.alters

    def takes(self, call: Call) -> bool:
        """Say whether it can be behind an answer to this call."""
        if call.direction == "backward" and not self.is_a_call:
            return False
        if self.steps is not None and call.operation not in ATTENTIONS:
            return False
        return self.operations is None or call.operation in self.operations

    def asked(self, call: Call) -> Call | None:
        """Return the call that it answers, None where none of its changes applies."""
        changed = False
        for change in self.changes:
            other = change(call)
            call, changed = (call, changed) if other is None else (other, True)
        return None if self.changes and not changed and self.is_a_call else call


class Claim(NamedTuple):
    """What a cause answers to a call, and how far a target with this cause may be from it."""

    results: Results
    bounds: dict[str, Array]


def answer(cause: Cause, call: Call, dtype: str | None = None) -> Results | None:
    """Return what a target with a cause answers, in the arithmetic of a dtype; None where it has none of its own."""
    if not cause.takes(call):
        return None
    try:
        asked = cause.asked(call)
        if asked is None:
            return None
        results = _run(cause, asked if dtype in (None, call.dtype) else in_dtype(asked, dtype or call.dtype))
        for alter in cause.alters:
            results = alter(call, results)
        return {name: results[name] for name in call.results if name in results}
    except (ValueError, TypeError, IndexError, KeyError):  # a call that has become one that nobody takes
        return None


def claims(cause: Cause, case: Case, evaluation: Evaluation, profile: Profile) -> Iterator[Claim]:
    """Yield what a cause answers to a case, the narrowest bounds first; see the module's docstring."""
    if cause.is_a_call:
        try:
            asked = cause.asked(case)
            found = None if asked is None or not cause.takes(case) else evaluate_call(asked, profile)
        except (ValueError, TypeError, IndexError, KeyError):
            return
        if found is not None:
            yield Claim({name: found.results[name] for name in case.results}, found.bounds)
        return
    results = answer(cause, case)
    if results is None:
        return
    bounds = {name: _own_bound(result, evaluation.bounds[name], profile) for name, result in results.items()}
    yield Claim(results, bounds)
    other = answer(cause, case, "float64") if case.dtype != "float64" else answer(cause, _disturbed(case.call))
    if other is not None and all(other[name].shape == result.shape for name, result in results.items()):
        yield Claim(results, {name: bounds[name] + _scatter(results[name], other[name]) for name in results})


def evaluate_call(call: Call, profile: Profile) -> Evaluation:
    """Compute the exact results of a call, and their bounds."""
    if call.direction == "backward":
        return evaluate_backward(call.operation, call.tensors, call.call_options(), call.cotangents(), profile)
    return OPERATIONS[call.operation].evaluate(call.tensors, call.call_options(), profile)


def distance(found: Mapping[str, Array], claimed: Claim) -> float:
    """Return the largest error of results around a claim, over its bound; inf for other shapes or names."""
    worst = 0.0
    for name, expected in claimed.results.items():
        if name not in found or found[name].shape != expected.shape:
            return float("inf")
        ratios = error_ratios(found[name], np.asarray(expected, np.float64), claimed.bounds[name])
        worst = max(worst, float(ratios.max(initial=0.0)))
    return worst


def is_near(found: Mapping[str, Array], claimed: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Say whether results are at most half as far from a claim as from what was expected: a test without bounds."""
    apart = beyond = 0.0
    for name, wanted in expected.items():
        if name not in claimed and name not in found:
            beyond = np.inf
            continue
        if name not in claimed or name not in found or claimed[name].shape != found[name].shape:
            return False
        result, other = np.asarray(found[name], np.float64), np.asarray(claimed[name], np.float64)
        if not _same_exceptions(result, other):
            return False
        known = np.isfinite(result)
        with np.errstate(over="ignore"):
            apart += float(np.square(result[known] - other[known]).sum())
        if result.shape != wanted.shape:
            beyond = np.inf
            continue
        at_odds = np.where(np.isfinite(wanted) & known, result - np.where(np.isfinite(wanted), wanted, 0.0), 0.0)
        beyond += float(np.square(at_odds).sum()) if _same_exceptions(result, wanted) else np.inf
    return apart <= beyond / 4 and np.isfinite(apart)


def together(first: Cause, second: Cause) -> Cause | None:
    """Return both causes as one, None where they cannot be in one implementation."""
    if first.names == second.names or (first.function is not None and second.function is not None):
        return None
    if (first.function is not None and second.steps) or (second.function is not None and first.steps):
        return None
    steps = merged_steps(first.steps, second.steps)
    limits = [each for each in (first.operations, second.operations) if each is not None]
    return Cause(
        (*first.names, *second.names),
        f"{first.says}, and {second.says}",
        first.clause,
        first.changes + second.changes,
        steps,
        first.function or second.function,
        frozenset.intersection(*limits) if limits else None,
        first.alters + second.alters,
    )


@functools.cache
def known_causes() -> tuple[Cause, ...]:
    """Return every single cause: the faults of the zoo, and the conventions where no fault has their name."""
    named = {fault.name: fault for fault in zoo_faults()}
    causes = [_of_fault(fault) for fault in zoo_faults()]
    for convention in CONVENTIONS:
        cause = of_convention(convention)
        if convention.name in named:
            cause = cause._replace(operations=frozenset(OPERATIONS) - named[convention.name].operations)
            causes.append(cause)
            # A fault is in the forward pass alone; its convention has gradients too.
            causes.append(_backward_only(of_convention(convention), named[convention.name]))
        else:
            causes.append(cause)
    return tuple(causes)


@functools.cache
def parts_of_pairs() -> tuple[Cause, ...]:
    """Return what pairs are made of: every fault, and every convention also where a fault has its name."""
    return (*map(_of_fault, zoo_faults()), *map(of_convention, CONVENTIONS))


def of_convention(convention: Convention) -> Cause:
    """Return a convention as a cause."""
    return Cause(
        (convention.name,),
        convention.says,
        convention.clause,
        () if convention.change is None else (convention.change,),
        convention.steps,
        alters=() if convention.alter is None else (convention.alter,),
    )


def _of_fault(fault: ZooFault) -> Cause:
    says = f"a fault that shows with {fault.visible_when}"
    function = None if fault.steps is not None else fault.function
    return Cause((fault.name,), says, fault.clause, (), fault.steps, function, fault.operations)


def _backward_only(cause: Cause, fault: ZooFault) -> Cause:
    def change(call: Call) -> Call | None:
        return None if call.direction == "forward" else cause.changes[0](call)

    return cause._replace(changes=(change,), operations=fault.operations) if cause.changes else cause


def merged_steps(first: Steps | None, second: Steps | None) -> Steps | None:
    """Put the faulty steps of two together; of two faults of visibility each shows where it deviates."""
    if first is None or second is None:
        return first or second
    changed = {name: step for name, step in first._asdict().items() if step is not getattr(PLAIN_STEPS, name)}
    if "visible_pairs" in changed and second.visible_pairs is not PLAIN_STEPS.visible_pairs:
        changed["visible_pairs"] = _either_deviates(first, second)
    return second._replace(**changed)


def _either_deviates(first: Steps, second: Steps) -> Any:
    def visible(queries: int, keys: int, rank: int, limits: Any) -> Array:
        plain, one, other = (
            np.asarray(steps.visible_pairs(queries, keys, rank, limits)) for steps in (PLAIN_STEPS, first, second)
        )
        return np.asarray(np.where(one != plain, one, other))

    return visible


@functools.cache
def _plain_functions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variant in zoo_variants():
        if variant.name.removeprefix("layers/") == "plain":
            found |= variant.functions
    return found


def _run(cause: Cause, call: Call) -> Results:
    if call.direction == "backward":
        return reference_gradients(call.operation, call.tensors, call.call_options(), call.cotangents())
    if cause.steps is not None:
        return run_function(build(cause.steps), call)
    if cause.function is not None:
        return run_function(cause.function, call)
    if call.operation in ATTENTIONS or call.operation in BODIES:
        return run_function(_plain_functions()[call.operation], call)
    returned = OPERATIONS[call.operation].call(reference, call.tensors, call.call_options())
    return {name: np.asarray(result) for name, result in results_of(returned).items()}


def _disturbed(call: Call) -> Call:
    """Return a call whose inputs are off by a rounding of float64."""
    rng = np.random.default_rng(0)
    tensors = {
        name: array * (1 + rng.choice([-1, 1], array.shape) * 2.0**-52) if array.dtype.kind == "f" else array
        for name, array in call.tensors.items()
    }
    return replace(call, tensors=tensors)


def _own_bound(result: Array, bound: Array, profile: Profile) -> Array:
    """Return T_case + 2 u_o |y|; where the fault's result has another shape, T_case is its largest element."""
    bound = np.where(np.isfinite(bound), bound, 0.0)
    size = np.abs(np.asarray(result, np.float64))
    bound = bound if bound.shape == size.shape else np.full(size.shape, bound.max(initial=0.0))
    return np.asarray(bound + 2 * profile.output * np.where(np.isfinite(size), size, 0.0))


def _scatter(result: Array, other: Array) -> Array:
    left, right = np.asarray(result, np.float64), np.asarray(other, np.float64)
    known = np.isfinite(left) & np.isfinite(right)
    apart = np.where(known, left, 0.0) - np.where(known, right, 0.0)
    with np.errstate(over="ignore"):  # a fault that overflows scatters without limit
        squares = np.square(apart)
    row = np.sqrt(squares.mean(axis=-1, keepdims=True)) if squares.ndim and squares.shape[-1] else 0.0
    return np.asarray(np.broadcast_to(FACTOR * row, squares.shape))


def _same_exceptions(left: Array, right: Array) -> bool:
    """Say whether NaN and infinities stand in the same places."""
    unknown = ~np.isfinite(left)
    if not np.array_equal(unknown, ~np.isfinite(right)):
        return False
    return bool(np.array_equal(left[unknown], right[unknown], equal_nan=True))

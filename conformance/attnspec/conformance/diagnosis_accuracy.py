"""How often the diagnosis is right: on every fault of the zoo, in several arithmetics, on pairs, and on strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import variants
from .admission import evaluation_of
from .answers import Answer
from .calls import DTYPES, Array
from .cases import Case
from .causes import merged_steps
from .diagnosis import UNKNOWN, diagnose
from .implementations import Attended, Steps, build, softmax
from .profiles import default_profile
from .results import Diagnosis
from .zoo import ATTENTIONS, ZooFault, forward_cases, in_dtype, margin, run_function, zoo_faults

Run = Callable[[Case], Mapping[str, Array]]

PAIRS = (
    ("causal-top-left", "softcap-ignored"),
    ("causal-top-left", "sink-ignored"),
    ("causal-top-left", "lengths-off-by-one"),
    ("mask-inverted", "scale-missing"),
    ("window-one-wider", "logsumexp-base-two"),
    ("lengths-off-by-one", "bias-ignored"),
    ("heads-tiled", "causal-strict"),
    ("scale-of-model-size", "nan-on-empty-rows"),
    ("sentinel-mask", "causal-bottom-right"),
    ("dropout-unscaled", "scale-missing"),
    ("values-shifted", "causal-peek"),
    ("softmax-over-queries", "heads-tiled"),
    ("query-lengths-ignored", "bias-before-softcap"),
    ("segments-ignored", "sink-of-first-head"),
    ("logsumexp-zero-on-empty", "dropout-inverted"),
    ("scale-without-sign", "mask-inverted"),
    ("last-key-dropped", "softcap-ignored"),
    ("half-precision-sums", "causal-top-left"),
)
"""Faults that are planted two at a time."""


class Named(NamedTuple):
    """What the diagnosis said of one target whose fault is known."""

    truth: str
    said: str
    """The cause that was named first; empty where no vector failed."""
    diagnoses: tuple[Diagnosis, ...]

    @property
    def is_right(self) -> bool:
        """Whether the right name came first."""
        return self.said == self.truth


MEASURED = ("float32", "bfloat16")
"""The dtypes of the vectors that the accuracy is measured with."""


def failures_of(run: Run, operations: Iterable[str], dtypes: Iterable[str] = MEASURED) -> dict[str, Answer]:
    """Return the answers of an implementation that are outside the bounds, by case."""
    found = {}
    for operation in sorted(operations):
        for case in (case for dtype in dtypes for case in forward_cases(operation, dtype)):
            results = dict(run(case))
            if margin(results, case, evaluation_of(case.id, default_profile(case.dtype))) > 1:
                found[case.id] = Answer(results, {}, True, None, "", 0.0)
    return found


def as_planted(fault: ZooFault) -> Run:
    """Run a fault as it is."""
    return lambda case: run_function(fault.function, case.call)


def in_float64(fault: ZooFault) -> Run:
    """Run a fault in float64, and round its results once."""

    def run(case: Case) -> dict[str, Array]:
        results = run_function(fault.function, in_dtype(case.call, "float64"))
        narrow = case.dtype if case.operation != "attention_with_logsumexp" else "float64"
        dtype = DTYPES[narrow]
        with np.errstate(over="ignore"):
            return {name: each.astype(dtype) if each.dtype.kind == "f" else each for name, each in results.items()}

    return run


def in_other_orders(fault: ZooFault) -> Run:
    """Run a fault of attention with every step that is not its own computed in another way."""
    plain, own = Steps(), fault.steps or Steps()
    others: dict[str, Any] = {
        "scaled_scores": variants.scale_split,
        "softmax": variants.online_softmax(5),
        "drop": variants.drop_last,
        "rounded": lambda array, _: array,
    }
    steps = own._replace(**{name: step for name, step in others.items() if getattr(own, name) is getattr(plain, name)})
    function = build(steps)
    return lambda case: run_function(function, case.call)


WAYS: dict[str, Callable[[ZooFault], Run]] = {
    "as planted": as_planted,
    "computed in float64 and rounded once": in_float64,
    "in other orders": in_other_orders,
}
"""How a target computes the fault that it has; orders are those of attention's steps: scale split, online softmax, …"""


def targets() -> list[tuple[str, str]]:
    """Return every way with every fault that can be computed so."""
    faults = zoo_faults()
    return [
        (way, fault.name) for way in WAYS for fault in faults if fault.steps is not None or way != "in other orders"
    ]


def name_fault(target: tuple[str, str]) -> Named | None:
    """Diagnose a fault, computed in one way, from its failing cases alone; None where nothing fails."""
    way, name = target
    (fault,) = (each for each in zoo_faults() if each.name == name)
    failures = failures_of(WAYS[way](fault), fault.operations)
    if not failures:
        return None
    said = diagnose(fault.name, failures)
    return Named(fault.name, said[0].cause, said)


def name_pair(pair: tuple[str, str]) -> tuple[Diagnosis, ...]:
    """Diagnose a target with two faults."""
    steps = {fault.name: fault.steps for fault in zoo_faults()}
    function = build(merged_steps(steps[pair[0]], steps[pair[1]]) or Steps())
    return diagnose(" + ".join(pair), failures_of(lambda case: run_function(function, case.call), ATTENTIONS))


def names_both(pair: tuple[str, str], said: tuple[Diagnosis, ...]) -> bool:
    """Say whether the first two causes that are named are the two that were planted, alone or together."""
    return {name for each in said[:2] for name in each.cause.split(" + ")} == set(pair)


def strangers() -> dict[str, Callable[..., Any]]:
    """Return wrong attentions that are no fault of the zoo and no convention: nothing may be named confidently."""
    rng = np.random.default_rng(0)

    def disturbed(steps: Steps, given: Attended) -> Array:
        output = np.asarray(Steps().attend(steps, given))
        return np.asarray(output * (1 + 0.05 * rng.standard_normal(output.shape)).astype(output.dtype))

    def squared(logits: Array, sink: Array | None = None) -> Array:
        return np.asarray(np.square(softmax(logits, sink)))

    def cosine(query: Array, key: Array, scale: float) -> Array:
        del scale
        return np.asarray(_unit(query) @ _unit(key).mT)

    def rectified(logits: Array, sink: Array | None = None) -> Array:
        del sink
        weights = np.maximum(np.where(np.isneginf(logits), 0, logits), 0)
        total = weights.sum(axis=-1, keepdims=True)
        return np.asarray(weights / np.where(total == 0, 1, total))

    def cubed(weights: Array, value: Array, visible: Array) -> Array:
        del visible
        return np.asarray(weights @ np.power(np.where(np.isfinite(value), value, 0), 3))

    return {
        "output disturbed at random by 5 %": build(Steps(attend=disturbed)),
        "weights squared": build(Steps(softmax=squared)),
        "cosine in the place of the scalar product": build(Steps(scaled_scores=cosine)),
        "rectified logits in the place of a softmax": build(Steps(softmax=rectified)),
        "cubes of the values": build(Steps(weighted_values=cubed)),
    }


def name_stranger(name: str) -> tuple[Diagnosis, ...]:
    """Diagnose a stranger."""
    function = strangers()[name]
    return diagnose(name, failures_of(lambda case: run_function(function, case.call), ATTENTIONS))


def share_unknown(said: tuple[Diagnosis, ...]) -> float:
    """Return the share of the failing cases whose cause was said to be unknown."""
    return sum(len(each.cases) for each in said if each.cause == UNKNOWN) / max(said[0].failing, 1)


def are_indistinguishable(first: str, second: str) -> bool:
    """Say whether two faults give the same bits on every vector of their operations."""
    by_name = {fault.name: fault for fault in zoo_faults()}
    if not {first, second} <= by_name.keys() or by_name[first].operations != by_name[second].operations:
        return False
    cases = [case for operation in by_name[first].operations for case in forward_cases(operation)]
    return all(_same(by_name[first], by_name[second], case) for case in cases)


def _same(first: ZooFault, second: ZooFault, case: Case) -> bool:
    one, other = (run_function(fault.function, case.call) for fault in (first, second))
    return all(np.array_equal(one[name], other[name], equal_nan=True) for name in case.expected)


def _unit(array: Array) -> Array:
    length = np.sqrt(np.square(array).sum(axis=-1, keepdims=True))
    return np.asarray(array / np.where(length == 0, 1, length))

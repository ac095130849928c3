"""What a vector must be able to do before it may judge anybody: reject five cheats, and decide under its profile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .cases import Case, case_of
from .composed_operations import Composed
from .derivatives import evaluate_backward
from .operation import Evaluation
from .operations import OPERATIONS
from .profiles import FP32, Profile

Array: TypeAlias = np.ndarray[Any, Any]


def largest_ratio(output: Array, expected: Array, bound: Array) -> float:
    """Return max |output − expected| / bound; 0/0 is 0, and NaN or Inf match only the same NaN or Inf (as `inf`)."""
    ratios = error_ratios(output, expected, bound)
    return float(ratios.max(initial=0.0))


def error_ratios(output: Array, expected: Array, bound: Array) -> Array:
    """Return |output − expected| / bound for every element."""
    output = np.asarray(output, np.float64)
    finite = np.isfinite(expected)
    same = np.where(np.isnan(expected), np.isnan(output), output == expected)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs(output - expected)
        ratio = np.where(error == 0.0, 0.0, error / bound)
    ratio = np.where(np.isfinite(output), ratio, np.inf)
    return np.where(finite, ratio, np.where(same, 0.0, np.inf))


def evaluate(case: Case, profile: Profile) -> Evaluation:
    """Compute the bounds of a case under a profile, around its frozen results."""
    if case.direction == "backward":
        return evaluate_backward(case.operation, case.tensors, case.call_options(), case.cotangents(), profile)
    evaluation = OPERATIONS[case.operation].evaluate(case.tensors, case.call_options(), profile)
    return (
        evaluation._replace(bounds=_no_bounds(evaluation)) if _may_overflow(case, profile, evaluation) else evaluation
    )


_LARGEST_FLOAT16 = 65504.0


def _may_overflow(case: Case, profile: Profile, evaluation: Evaluation) -> bool:
    """Say whether products of query and key exceed float16 where the profile stores them in it before the scale.

    What comes of that is infinity, and right for such a profile: no bound can be said.
    """
    scale = case.options["scale"]
    if profile.dtype != "float16" or profile.scores <= FP32 or not scale or evaluation.stages is None:
        return False
    seen = evaluation.stages.scores[np.isfinite(evaluation.stages.logits)]
    return bool(np.abs(seen).max(initial=0.0) > _LARGEST_FLOAT16 * abs(scale))


def _no_bounds(evaluation: Evaluation) -> dict[str, Array]:
    return {name: np.full_like(bound, np.inf) for name, bound in evaluation.bounds.items()}


@functools.cache
def evaluation_of(identifier: str, profile: Profile) -> Evaluation:
    """Compute the bounds of a vector of this installation, once."""
    return evaluate(case_of(identifier), profile)


def decides(evaluation: Evaluation) -> bool:
    """Say whether every bound stays below half the range of what is averaged: otherwise nearly anything would pass."""
    smallest = float(np.finfo(np.float64).tiny)
    for name, bound in evaluation.bounds.items():
        known = bound[np.isfinite(evaluation.results[name])]
        if known.size and not float(known.max()) < max(evaluation.ranges[name], smallest) / 2:
            return False
    return True


Cheat = Callable[[Case], dict[str, Array]]
CHEATS: dict[str, Cheat] = {}
"""What each cheat gives for the results that it has an answer to; it needs to be rejected in one of them only."""


def _cheat(function: Cheat) -> Cheat:
    CHEATS[function.__name__.removeprefix("cheat_")] = function
    return function


@_cheat
def cheat_zeros(case: Case) -> dict[str, Array]:
    """Return zeros."""
    return {name: np.zeros_like(expected) for name, expected in case.expected.items()}


@_cheat
def cheat_constant(case: Case) -> dict[str, Array]:
    """Return the mean of each expected result everywhere."""
    means = {}
    for name, expected in case.expected.items():
        finite = expected[np.isfinite(expected)]
        means[name] = np.full_like(expected, finite.mean() if finite.size else 0.0)
    return means


@_cheat
def cheat_mean_value(case: Case) -> dict[str, Array]:
    """Return, for every query, the mean of all values: attention that does not look."""
    if case.direction == "backward" or case.operation == "sinusoidal_positions":
        return {}
    if isinstance(OPERATIONS[case.operation], Composed) and "value" not in case.tensors:
        return {}
    values = _values(case)
    return {"output": _like_output(case, values.sum(axis=-2, keepdims=True) / max(values.shape[-2], 1))}


@_cheat
def cheat_echo(case: Case) -> dict[str, Array]:
    """Return the values themselves, repeated or cut to the number of queries; backward, the tensors themselves."""
    if case.direction == "backward":
        return {name: np.asarray(case.tensors[name], np.float64) for name in case.expected}
    operation = OPERATIONS[case.operation]
    if isinstance(operation, Composed) and "value" not in case.tensors:
        first, result = np.asarray(case.tensors[operation.tensors[0]], np.float64), operation.results[0]
        return {result: first} if first.shape == case.expected[result].shape else {}
    if case.operation == "sinusoidal_positions":
        positions = np.asarray(case.tensors["positions"], np.float64)
        return {"output": np.broadcast_to(positions[..., None], case.expected["output"].shape)}
    values = _values(case)
    expected = case.expected["output"]
    queries = expected.shape[-2] if case.operation != "key_value_attention" else 1
    if not values.shape[-2]:
        return {"output": np.zeros_like(expected)}
    return {"output": _like_output(case, values[..., np.arange(queries) % values.shape[-2], :])}


@_cheat
def cheat_shuffled_rows(case: Case) -> dict[str, Array]:
    """Return the expected rows in another order: each row takes the place of its neighbour, and heads likewise."""
    shuffled = dict(case.expected)
    for name, expected in case.expected.items():
        for axis in range(expected.ndim - 1):
            shuffled[name] = np.roll(shuffled[name], 1, axis=axis)
    return shuffled


def rejects(cheat: Cheat, case: Case, evaluation: Evaluation) -> bool | None:
    """Say whether a case rejects a cheat in one of its results; None where the cheat has no answer to it."""
    ratios = [largest_ratio(array, case.expected[name], evaluation.bounds[name]) for name, array in cheat(case).items()]
    return max(ratios) > 1 if ratios else None


def why_not_admitted(case: Case, evaluation: Evaluation) -> str | None:
    """Say why a vector may not judge, or None: it must decide, be finite, and reject every cheat that it can."""
    if not decides(evaluation):
        return "the bound is as large as half the range of the values"
    finite = all(np.isfinite(array).all() for name, array in case.expected.items() if name != "logsumexp")
    if not case.nonfinite and not finite:
        return "the expected results are not finite"
    for name, cheat in CHEATS.items():
        rejected = rejects(cheat, case, evaluation)
        if rejected is not None and rejected == (name in case.undecided):
            return f"{name} is {'rejected, but declared undecided' if rejected else 'not rejected'}"
    return None


def _values(case: Case) -> Array:
    """Return the values that the operation averages, in the layout of its output where it has one."""
    tensors = {name: np.asarray(tensor, np.float64) for name, tensor in case.tensors.items()}
    tensors = {name: np.where(np.isfinite(tensor), tensor, 0.0) for name, tensor in tensors.items()}
    if case.operation == "self_attention":
        return tensors["inputs"] @ tensors["value_weight"]
    if case.operation == "key_value_attention":
        return tensors["values"]
    if case.operation == "multi_head_attention":
        values = tensors["value"] @ tensors["value_weight"] + tensors.get("value_bias", 0.0)
        columns = tensors["output_weight"].shape[0]
        tiled = np.concatenate([values] * (columns // values.shape[-1]), axis=-1)
        return tiled @ tensors["output_weight"] + tensors.get("output_bias", 0.0)
    if case.operation == "rotary_embedding":
        return tensors["inputs"]
    if case.operation == "merge_attention":
        return np.asarray(tensors["outputs"].mean(axis=0))  # the slices in equal shares
    values = tensors["value"]
    if values.ndim > 3:
        values = np.repeat(values, case.expected["output"].shape[-3] // values.shape[-3], axis=-3)
    return values


def _like_output(case: Case, values: Array) -> Array:
    if case.operation == "key_value_attention":
        values = values[..., 0, :]
    return np.broadcast_to(values, case.expected["output"].shape)

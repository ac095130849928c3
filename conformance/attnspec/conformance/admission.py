"""What a vector must be able to do before it may judge anybody: reject five cheats, and decide under its profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .cases import Case
from .operations import OPERATIONS, Evaluation
from .profiles import Profile

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
    """Compute the bound of a case under a profile, around its frozen expected output."""
    return OPERATIONS[case.operation].evaluate(case.tensors, case.call_options(), profile)


def decides(evaluation: Evaluation) -> bool:
    """Say whether every bound stays below half the range of what is averaged: otherwise nearly anything would pass."""
    bound = evaluation.bound[np.isfinite(evaluation.output)]
    return not bound.size or float(bound.max()) < max(evaluation.value_range, float(np.finfo(np.float64).tiny)) / 2


CHEATS: dict[str, Callable[[Case], Array]] = {}


def _cheat(function: Callable[[Case], Array]) -> Callable[[Case], Array]:
    CHEATS[function.__name__.removeprefix("cheat_")] = function
    return function


@_cheat
def cheat_zeros(case: Case) -> Array:
    """Return zeros."""
    return np.zeros_like(case.expected)


@_cheat
def cheat_constant(case: Case) -> Array:
    """Return the mean of the expected output everywhere."""
    finite = case.expected[np.isfinite(case.expected)]
    return np.full_like(case.expected, finite.mean() if finite.size else 0.0)


@_cheat
def cheat_mean_value(case: Case) -> Array:
    """Return, for every query, the mean of all values: attention that does not look."""
    values = _values(case)
    return _like_output(case, values.sum(axis=-2, keepdims=True) / max(values.shape[-2], 1))


@_cheat
def cheat_echo(case: Case) -> Array:
    """Return the values themselves, repeated or cut to the number of queries."""
    values = _values(case)
    queries = case.expected.shape[-2] if case.operation != "key_value_attention" else 1
    if not values.shape[-2]:
        return np.zeros_like(case.expected)
    return _like_output(case, values[..., np.arange(queries) % values.shape[-2], :])


@_cheat
def cheat_shuffled_rows(case: Case) -> Array:
    """Return the expected rows in another order: each row takes the place of its neighbour, and heads likewise."""
    shuffled = case.expected
    for axis in range(case.expected.ndim - 1):
        shuffled = np.roll(shuffled, 1, axis=axis)
    return shuffled


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
    values = tensors["value"]
    if values.ndim > 3:
        values = np.repeat(values, case.expected.shape[-3] // values.shape[-3], axis=-3)
    return values


def _like_output(case: Case, values: Array) -> Array:
    if case.operation == "key_value_attention":
        values = values[..., 0, :]
    return np.broadcast_to(values, case.expected.shape)

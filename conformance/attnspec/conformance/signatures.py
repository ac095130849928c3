"""Signatures: what a wrong result says of itself, without a zoo: zeros, a factor, swapped axes, coarse arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .admission import CHEATS, decides, error_ratios
from .calls import Array, Call
from .cases import Case
from .causes import evaluate_call, is_near
from .changes import scale_of
from .derivatives import reference_gradients
from .operation import Evaluation
from .profiles import PROFILES, Profile

Results = Mapping[str, Array]

COARSER: dict[str, tuple[str, ...]] = {
    "float64": ("fp32", "fp32_tf32", "fp16_flash", "bf16_flash", "bf16_eager"),
    "float32": ("fp32_tf32", "fp16_flash", "bf16_flash", "bf16_eager"),
    "bfloat16": ("bf16_eager",),
    "float16": ("fp16_eager", "bf16_flash", "bf16_eager"),
}
"""For each dtype, the profiles that round more than its default, the finest first."""


class Signature(NamedTuple):
    """What a result says of itself."""

    name: str
    says: str
    clause: str | None
    ratio: float | None
    """How far the results are from what the signature says, over the bound; None where that is exact."""
    rank: int
    """Which of two that explain as much is meant: the smaller, which says more."""


def signatures(case: Case, found: Results, evaluation: Evaluation, profile: Profile) -> list[Signature]:
    """Return every signature of a wrong answer."""
    misfits = _of_shape(case, found)
    if misfits:
        return misfits
    results = {name: np.asarray(found[name], np.float64) for name in case.expected}
    named = [*_of_values(case, results), *_of_copies(case, results, evaluation)]
    named += _of_gradients(case, results, evaluation) if case.direction == "backward" else []
    return named or _coarser(case, results, profile)


def is_within(case: Case, found: Results, evaluation: Evaluation) -> bool:
    """Say whether results are within their bounds: what failed was not a number."""
    return all(
        name in found and found[name].shape == expected.shape and _ratio(found, name, expected, evaluation) <= 1
        for name, expected in case.expected.items()
    )


def _ratio(found: Results, name: str, expected: Array, evaluation: Evaluation) -> float:
    return float(error_ratios(found[name], expected, evaluation.bounds[name]).max(initial=0.0))


def _of_shape(case: Case, found: Results) -> list[Signature]:
    for name, expected in case.expected.items():
        if name not in found:
            return [Signature(f"no {name}", f"the {name} is missing", "S1", None, 0)]
        shape = found[name].shape
        if shape != expected.shape:
            if sorted(shape) == sorted(expected.shape):
                return [Signature("transposed", f"the {name} has its axes in another order", "S1", None, 0)]
            if np.prod(shape) == expected.size:
                return [Signature("reshaped", f"the {name} has another shape of the same size", "S1", None, 0)]
            return [Signature("other shape", f"the {name} has another shape", "S1", None, 0)]
    return []


def _of_values(case: Case, results: Results) -> list[Signature]:
    arrays = [results[name] for name in case.expected if results[name].size]
    if not arrays or case.direction == "backward":
        return []
    if all(np.isnan(array).all() for array in arrays):
        return [Signature("NaN everywhere", "every result is NaN", "S16", None, 0)]
    if not arrays[0].any():
        return [Signature("zeros", "the output is zero everywhere", None, None, 0)]
    if arrays[0].size > 1 and np.ptp(arrays[0]) == 0:
        return [Signature("constant", "the output is the same number everywhere", None, None, 0)]
    return []


def _of_copies(case: Case, results: Results, evaluation: Evaluation) -> list[Signature]:
    """Compare with what the expected results become by simple mistakes."""
    if case.direction == "backward":
        return []
    said = []
    named: tuple[tuple[str, str, Mapping[str, Array]], ...] = (
        ("mean of the values", "every query gets the mean of all values", CHEATS["mean_value"](case)),
        ("values returned", "the output is the values, or the input, as they came", CHEATS["echo"](case)),
        ("axes swapped", "the output is right with two of its axes swapped", _swapped(case)),
        ("another order", "the rows of the output are right, in another order", _rolled(case, results)),
        ("a constant factor", "the output is right but for a constant factor", _scaled(case, results)),
    )
    for name, words, copies in named:
        ratios = [_around(results[key], copy, evaluation.bounds[key]) for key, copy in copies.items() if key in results]
        expected = {key: case.expected[key] for key in copies}
        if ratios and max(ratios) <= 1 and is_near(results, copies, expected):
            said.append(Signature(name, words, None, max(ratios), 0))
    return said


def _around(result: Array, copy: Array, bound: Array) -> float:
    # The copy has its numbers in other places: each may be off by what the largest of the bounds allows.
    known = bound[np.isfinite(bound)]
    return float(error_ratios(result, copy, np.full(copy.shape, known.max(initial=0.0))).max(initial=0.0))


def _swapped(case: Case) -> dict[str, Array]:
    expected = case.expected.get("output")
    if expected is None or expected.ndim < 3:
        return {}
    axes = next((n for n in range(-3, -expected.ndim - 1, -1) if expected.shape[n] == expected.shape[-2] > 1), None)
    return {} if axes is None else {"output": np.swapaxes(expected, axes, -2)}


def _rolled(case: Case, results: Results) -> dict[str, Array]:
    """Return the expected output rolled or reversed along an axis, where that is what came."""
    expected = case.expected.get("output")
    if expected is None or not np.isfinite(expected).all():
        return {}
    for axis in range(expected.ndim):
        for moved in (np.roll(expected, 1, axis), np.roll(expected, -1, axis), np.flip(expected, axis)):
            if expected.shape[axis] > 1 and np.allclose(moved, results["output"], rtol=0.02, atol=0.0):
                return {"output": moved}
    return {}


def _scaled(case: Case, results: Results) -> dict[str, Array]:
    expected = case.expected.get("output")
    if expected is None or not np.isfinite(expected).all() or not np.isfinite(results["output"]).all():
        return {}
    factor = _factor(results["output"], expected)
    return {} if factor is None or abs(factor) < 1e-6 else {"output": factor * expected}


def _factor(result: Array, expected: Array) -> float | None:
    """Return the factor that fits best, None where there is nothing to fit."""
    if result.size < 2:  # one number is always a multiple of another
        return None
    square = float(np.square(expected).sum())
    return float((result * expected).sum()) / square if square > 0 else None


def _of_gradients(case: Case, results: Results, evaluation: Evaluation) -> list[Signature]:
    """Name every gradient that is wrong; nothing where one of them remains unknown."""
    words, ratios = [], [0.0]
    for name, expected in case.expected.items():
        ratio = _ratio(results, name, expected, evaluation)
        if ratio <= 1:
            ratios.append(ratio)
            continue
        named = _of_gradient(case, name, results[name], evaluation)
        if named is None:
            return []
        words.append(f"gradient of {name}: {named[0]}")
        ratios.append(named[1])
    if not words:
        return []
    right = "; the other gradients are right" if len(words) < len(case.expected) else ""
    return [Signature(", ".join(words), "; ".join(words) + right, "S17", max(ratios), 0)]


def _of_gradient(case: Case, name: str, result: Array, evaluation: Evaluation) -> tuple[str, float] | None:
    expected, bound = case.expected[name], evaluation.bounds[name]
    if not np.isfinite(result).all():
        return None
    if not result.any():
        return "zero", 0.0
    group = _group(case)
    scale = scale_of(case)
    factors = {"of the wrong sign": -1.0, "twice too large": 2.0, "half too small": 0.5}
    if scale and abs(scale - 1) > 1e-6:
        factors |= {"without the scale": 1 / scale, "with the scale twice": scale}
    if group > 1:
        factors["a mean over the group in the place of a sum"] = 1 / group
    for words, factor in factors.items():
        ratio = float(error_ratios(result, factor * expected, bound * max(1.0, abs(factor))).max(initial=0.0))
        if ratio <= 1:
            return words, ratio
    if name in ("key", "value") and group > 1:
        for place, words in ((0, "of the first query head of each group alone"), (group - 1, "of the last alone")):
            partial = _of_one_head(case, name, group, place)
            ratio = float(error_ratios(result, partial, bound).max(initial=0.0))
            if ratio <= 1:
                return words, ratio
    for other, wanted in case.expected.items():
        if other != name and wanted.shape == result.shape:
            ratio = float(error_ratios(result, wanted, evaluation.bounds[other]).max(initial=0.0))
            if ratio <= 1:
                return f"that of {other}", ratio
    fitted = _factor(result, expected)
    if fitted is not None:
        ratio = float(error_ratios(result, fitted * expected, bound * max(1.0, abs(fitted))).max(initial=0.0))
        if ratio <= 1:
            return "off by a constant factor", ratio
    return None


def _group(call: Call) -> int:
    query, key = call.tensors.get("query"), call.tensors.get("key")
    if call.operation not in ("dot_product_attention", "attention_with_logsumexp") or query is None or key is None:
        return 1
    return query.shape[-3] // key.shape[-3] if query.ndim > 3 and key.shape[-3] else 1


def _of_one_head(case: Case, name: str, group: int, place: int) -> Array:
    """Return what one query head of each group adds to the gradient of a key or value."""
    cotangents = {}
    for result, cotangent in case.cotangents().items():
        axis = -3 if result == "output" else -2
        heads = np.arange(cotangent.shape[axis]) % group == place
        shape = [1] * cotangent.ndim
        shape[axis] = heads.size
        cotangents[result] = cotangent * heads.reshape(shape).astype(cotangent.dtype)
    return reference_gradients(case.operation, case.tensors, case.call_options(), cotangents)[name]


@functools.lru_cache(maxsize=8192)
def _bounds(case: Case, profile: str) -> dict[str, Array] | None:
    """Return a case's bounds under a profile, None where they are too wide to decide: kept, since many targets ask."""
    evaluation = evaluate_call(case, PROFILES[profile])
    return evaluation.bounds if decides(evaluation) else None


def _coarser(case: Case, results: Results, profile: Profile) -> list[Signature]:
    said: list[Signature] = []
    for rank, name in enumerate(COARSER[case.dtype], 1):
        if name == profile.name:
            said = []  # whatever is finer was not asked for
            continue

        bounds = _bounds(case, name)
        if bounds is None:
            continue
        ratio = max(
            float(error_ratios(results[key], expected, bounds[key]).max(initial=0.0))
            for key, expected in case.expected.items()
        )
        if ratio <= 1:
            words = f"right, but only as exact as the profile {name} allows"
            said.append(Signature(f"as exact as {name}", words, "S16", ratio, rank))
    return said

"""The zoo of layers: correct variants agree with the reference, faults deviate, and vectors tell the two apart.

Both distributions are in the messages of the tests that judge them: `pytest -rP tests/test_layer_zoo.py` prints them.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from layer_cases import CASES, LayerCase

from attnspec.conformance.admission import evaluate, largest_ratio
from attnspec.conformance.cases import DTYPES, Case, shipped_cases
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.layer_faults import LAYER_FAULTS, LayerFault
from attnspec.conformance.layer_implementations import BODIES
from attnspec.conformance.layer_variants import LayerVariant, layer_variants
from attnspec.conformance.operation import Evaluation, results_of
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.profiles import PROFILES, default_profile
from attnspec.contract.states import map_leaves
from attnspec.reference import blocks, decoding, gates, models, projections, similarities

VARIANTS = {variant.name: variant for variant in layer_variants()}
PLAIN = VARIANTS["plain"].operations
FAULTS_BY_NAME = {fault.name: fault for fault in LAYER_FAULTS}
ROBUST = 4.0
BY_OPERATION = {operation: [case for case in CASES if case.operation == operation] for operation in BODIES}
REFERENCE = {
    name: getattr(module, name)
    for name in BODIES
    for module in (projections, similarities, gates, blocks, models, decoding)
    if hasattr(module, name)
}

Array = np.ndarray[Any, Any]
Results = dict[str, Array]


def cast(value: Any, dtype: Any) -> Any:
    """Cast the float64 arrays of a tree of arguments."""
    return map_leaves(
        lambda leaf: leaf.astype(dtype) if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 else leaf, value
    )


def call(function: Any, case: LayerCase, dtype: Any = np.float64) -> Results:
    """Call a function with what a case gives, in a dtype, and name its results."""
    arguments = [cast(argument, dtype) for argument in case.arguments]
    options = {name: cast(option, dtype) for name, option in case.options.items()}
    return {name: np.asarray(result) for name, result in results_of(function(*arguments, **options)).items()}


@functools.cache
def expected(case: str) -> Results:
    """Compute a case's results by the reference."""
    (chosen,) = (each for each in CASES if each.id == case)
    return call(REFERENCE[chosen.operation], chosen)


def deviation(found: Results, wanted: Results) -> float:
    """Give the largest error over the largest number of each result; inf for another shape or other NaN."""
    assert found.keys() == wanted.keys()
    return max(_deviation(np.asarray(found[name], np.float64), wanted[name]) for name in wanted)


def _deviation(found: Array, wanted: Array) -> float:
    if found.shape != wanted.shape or not np.array_equal(np.isnan(found), np.isnan(wanted)):
        return np.inf
    known = ~np.isnan(wanted)
    largest = max(1.0, np.abs(wanted[known]).max(initial=0.0))
    return float(np.abs(found[known] - wanted[known]).max(initial=0.0) / largest)


# Correct variants.


def test_names_of_cases_are_unique_and_every_operation_has_some() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert all(BY_OPERATION.values())
    assert set(REFERENCE) == set(BODIES)


def test_there_are_enough_variants() -> None:
    assert len(VARIANTS) >= 12
    assert len([name for name, variant in VARIANTS.items() if "float64" in variant.profiles]) >= 12


@pytest.mark.parametrize("variant", [name for name, each in VARIANTS.items() if "float64" in each.profiles])
def test_variants_agree_with_the_reference(variant: str) -> None:
    # A hundred roundings one after the other, each of 2^-53 of numbers of order one: 1e-13, and more behind a
    # normalisation of numbers whose mean is 300.
    operations = VARIANTS[variant].operations
    found = {case.id: deviation(call(getattr(operations, case.operation), case), expected(case.id)) for case in CASES}
    assert {case: error for case, error in found.items() if not error <= 1e-12} == {}


@pytest.mark.parametrize("operation", BODIES)
def test_variants_take_the_arguments_of_the_public_function(operation: str) -> None:
    def described(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert described(getattr(PLAIN, operation)) == described(REFERENCE[operation])


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("operation", BODIES)
def test_results_have_the_dtype_of_the_inputs(operation: str, dtype: Any) -> None:
    case = BY_OPERATION[operation][0]
    found = call(getattr(PLAIN, operation), case, dtype)
    assert all(result.dtype == dtype for name, result in found.items() if name != "cache.length")
    # Inputs and outputs are rounded, and little more: errors of less than 64 units of a number of order one.
    assert deviation(found, expected(case.id)) < 64 * float(ml_dtypes.finfo(dtype).eps)


SAME_BITS = {"fused-projections", "cache-without-room"}
"""Columns of a product, and weights of 0, that these move or leave out: small sizes show no other rounding."""


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in {"plain", *SAME_BITS}])
def test_variants_really_round_differently(variant: str) -> None:
    operations, profiles = VARIANTS[variant].operations, VARIANTS[variant].profiles
    # A small product may be summed in one order, however it is called, in one of the two.
    dtypes = [name for name in ("float32", "float64") if name in profiles] or [*profiles]

    def differs(case: LayerCase, dtype: str) -> bool:
        found = (call(getattr(module, case.operation), case, DTYPES[dtype]) for module in (operations, PLAIN))
        return len({_bits(results) for results in found}) == 2

    assert any(differs(case, dtype) for dtype in dtypes for case in CASES)


def _bits(results: Results) -> bytes:
    return b"".join(results[name].tobytes() for name in sorted(results))


# Faults.


def test_there_are_enough_faults() -> None:
    assert len(FAULTS_BY_NAME) == len(LAYER_FAULTS)
    assert len(FAULTS) + len(LAYER_FAULTS) >= 80
    counts = Counter(fault.operation for fault in LAYER_FAULTS)
    assert {operation for operation in BODIES if counts[operation] < 3} == set()


@pytest.mark.parametrize("fault", LAYER_FAULTS, ids=lambda fault: fault.name)
def test_faults_say_what_they_are(fault: LayerFault) -> None:
    assert fault.operation in BODIES
    assert fault.clause[0] == "S"
    assert fault.clause[1:].isdigit()
    assert fault.visible_when
    assert fault.seen_in


@pytest.mark.parametrize("fault", LAYER_FAULTS, ids=lambda fault: fault.name)
def test_faults_deviate(fault: LayerFault) -> None:
    # float32, because one of them is a matter of precision; 1e-5 is hundreds of its units.
    errors = [
        deviation(call(fault.implementation, case, np.float32), expected(case.id))
        for case in BY_OPERATION[fault.operation]
    ]
    assert max(errors) > 1e-5


@pytest.mark.parametrize("operation", BODIES)
def test_no_two_faults_are_the_same(operation: str) -> None:
    digests: dict[str, str] = {}
    faults = {fault.name: fault.implementation for fault in LAYER_FAULTS if fault.operation == operation}
    for name, function in ({"plain": getattr(PLAIN, operation)} | faults).items():
        results = [call(function, case, np.float32) for case in BY_OPERATION[operation]]
        digest = hashlib.sha256(b"".join(map(_bits, results))).hexdigest()
        assert digest not in digests, f"{name} is {digests[digest]}"
        digests[digest] = name


# Vectors.

LAYERS = [case for case in shipped_cases() if case.operation in BODIES and case.direction == "forward"]


@functools.cache
def evaluated(case: str, profile: str) -> Evaluation:
    """Compute the bounds of a vector, once."""
    (chosen,) = (each for each in LAYERS if each.id == case)
    return evaluate(chosen, PROFILES[profile])


def margin(function: Any, case: Case, profile: str | None = None) -> float:
    """Give the largest error of a function over the bound of a vector: inf for another shape, or NaN."""
    profile = default_profile(case.dtype).name if profile is None else profile
    bounds = evaluated(case.id, profile).bounds
    module = SimpleNamespace(**{case.operation: function})
    found = results_of(OPERATIONS[case.operation].call(module, case.tensors, case.call_options()))
    return max(
        largest_ratio(found[name], wanted, bounds[name]) if found[name].shape == wanted.shape else np.inf
        for name, wanted in case.expected.items()
    )


def margins(fault: LayerFault, cases: Iterable[Case]) -> Mapping[str, float]:
    """Give the margin by which each vector of a fault's operation catches it; above 1 it does."""
    return {case.id: margin(fault.implementation, case) for case in cases if case.operation == fault.operation}


def own_vectors(fault: LayerFault) -> list[Case]:
    """Choose the vectors of which one has to catch a fault: those of its clause, where precision is no excuse."""
    own = [case for case in LAYERS if case.operation == fault.operation and fault.clause in case.clauses]
    return [case for case in own if case.dtype in ("float64", "float32")]


HELD = [(name, dtype) for name, variant in VARIANTS.items() for dtype in variant.profiles]


@pytest.mark.parametrize(("variant", "dtype"), HELD, ids=[f"{name}-{dtype}" for name, dtype in HELD])
def test_no_correct_variant_is_rejected(variant: str, dtype: str) -> None:
    chosen: LayerVariant = VARIANTS[variant]
    ratios = {
        case.id: margin(getattr(chosen.operations, case.operation), case, chosen.profiles[dtype])
        for case in LAYERS
        if case.dtype == dtype
    }
    assert ratios
    print(f"median {np.median([*ratios.values()]):.2f}, largest {max(ratios.values()):.2f}")
    assert {case: ratio for case, ratio in ratios.items() if ratio > 0.95} == {}


WITH_VECTORS = [
    fault for fault in LAYER_FAULTS if any(case.operation == fault.operation for case in own_vectors(fault))
]


@pytest.mark.parametrize("fault", WITH_VECTORS, ids=lambda fault: fault.name)
def test_every_fault_is_caught_by_a_vector_of_its_own_clause(fault: LayerFault) -> None:
    found = margins(fault, own_vectors(fault))
    print(f"largest {max(found.values()):.3g}, caught by {sum(each >= ROBUST for each in found.values())}")
    assert max(found.values()) >= ROBUST, found


def test_every_fault_has_a_vector_of_its_clause() -> None:
    assert {fault.name for fault in LAYER_FAULTS} == {fault.name for fault in WITH_VECTORS}

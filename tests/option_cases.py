"""One call with its options, written for a framework and for an oracle, and how every module is held to it.

The reference is compared with the oracles, which share no line with it; the backends with the reference: at float64
tightly, in other dtypes within the bounds that the conformance suite derives (`attnspec.conformance.bounds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import frameworks
import numpy as np
import oracle_scalar
import pytest
from attention_cases import MASKS, Array, Dims, by_oracle, draw
from comparisons import assert_close, assert_same_bits, assert_within
from native_tensors import NUMPY_DTYPES, native_type, to_native, to_numpy

from attnspec import reference
from attnspec.conformance.bounds import attention_bounds
from attnspec.conformance.profiles import default_profile
from attnspec.contract.options import Given
from attnspec.reference.attention import prepare

FLOAT64_TOLERANCE = 1e-13
STAGES = ["scores", "logits", "weights", "logsumexp", "output"]

Give = Callable[[Array], Any]
"""Turns a floating array of an option into what a module takes."""


class OptionCase(NamedTuple):
    """One attention: its sizes, its options as a caller writes them, and what they mean to `by_oracle`."""

    dims: Dims
    make: Callable[[Give], dict[str, Any]]
    meaning: dict[str, Any] = {}  # noqa: RUF012 - never written to


def by_module(cases: Iterable[str], jax: Iterable[str], modules: Sequence[str] = frameworks.FRAMEWORKS) -> list[Any]:
    """Pair every module with every case; JAX, which compiles each new shape for half a second, with some alone."""
    few = set(jax)
    assert few <= set(cases)
    return [
        pytest.param(module, case, id=f"{module}-{case}")
        for module in modules
        for case in cases
        if module != "jax" or case in few
    ]


def keep_float64(array: Array) -> Array:
    """Give an array as it is."""
    return array


def assert_native(name: str, result: Any, dtype: str) -> None:
    """Require a tensor of the framework, of this dtype."""
    assert isinstance(result, native_type(name))
    assert to_numpy(result).dtype == NUMPY_DTYPES[dtype]


def check_reference(case: OptionCase, oracle: Any = oracle_scalar, factor: float = 1e-14) -> None:
    """Compare every stage of the reference with an oracle."""
    arrays = draw(case.dims)
    expected = by_oracle(oracle.attention_stages, case.dims, *arrays, **case.meaning)
    options = case.make(keep_float64)
    stages = reference.attention_stages(*arrays, **options)
    for stage in STAGES:
        assert getattr(stages, stage).dtype == np.float64
        assert_close(getattr(stages, stage), expected[stage], factor)
    assert_close(reference.dot_product_attention(*arrays, **options), expected["output"], factor)


def check_backend(name: str, attn: ModuleType, case: OptionCase, dtype: str, option_dtype: str | None = None) -> None:
    """Compare every stage of a backend with the reference on the same rounded numbers."""
    arrays = [array.astype(NUMPY_DTYPES[dtype]) for array in draw(case.dims)]
    narrow = NUMPY_DTYPES[option_dtype or dtype]
    given = case.make(lambda array: array.astype(narrow))
    expected, bounds = exact_and_bounds(arrays, given, dtype)

    tensors = [to_native(name, array) for array in arrays]
    options = case.make(lambda array: to_native(name, array.astype(narrow)))
    stages = attn.attention_stages(*tensors, **options)
    wide = "float64" if dtype == "float64" else "float32"
    for stage in STAGES:
        actual = getattr(stages, stage)
        assert_native(name, actual, dtype if stage == "output" else wide)
        assert_within_bounds(to_numpy(actual), getattr(expected, stage), getattr(bounds, stage))
        if dtype == "float64":
            assert_close(to_numpy(actual), getattr(expected, stage), FLOAT64_TOLERANCE)
    output = attn.dot_product_attention(*tensors, **options)
    assert_native(name, output, dtype)
    assert_same_bits(to_numpy(output), to_numpy(stages.output))


def exact_and_bounds(arrays: list[Array], options: dict[str, Any], dtype: str) -> tuple[Any, Any]:
    """Compute the reference's stages, and how far from them a computation in `dtype` may be."""
    attention, _ = prepare(*arrays, Given(**options))
    return reference.attention_stages(*arrays, **options), attention_bounds(attention, default_profile(dtype))


def assert_within_bounds(actual: Array, expected: Array, bound: Array) -> None:
    """Require finite numbers within their bounds, given in the canonical layout, and the same infinities."""
    assert not np.isnan(expected).any()
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.asarray(actual, np.float64)[~finite], expected[~finite])
    assert_within(np.asarray(actual, np.float64)[finite], expected[finite], bound.reshape(expected.shape)[finite])


def visible_array(dims: Dims, mask: str) -> Any:
    """Evaluate a mask's meaning at every pair, in the caller's shape."""
    shape = (math.prod(dims.batch), dims.heads, dims.queries, dims.keys)
    sees = [MASKS[mask].sees(dims, *at) for at in np.ndindex(shape)]
    return np.array(sees, dtype=bool).reshape(dims.pairs)

"""The frozen results and gradients, by oracles that share no line with the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparisons import assert_close, assert_same_pattern
from vectors_by_hand import by_hand

from attnspec.conformance.cases import Case, shipped_cases

CASES = {case.id: case for case in shipped_cases()}


def check(case: Case) -> None:
    """Require every result to be the oracle's, up to the rounding of sums in float64."""
    found = by_hand(case)
    assert set(found) == set(case.expected)
    largest = max((_largest(expected) for expected in case.expected.values()), default=0.0)
    for name, expected in case.expected.items():
        assert_same_pattern(found[name], expected)
        finite = np.isfinite(expected)
        actual, known = np.where(finite, found[name], 0.0), np.where(finite, expected, 0.0)
        # A key's bias shifts all logits of a row alike: its gradient is what is left of sums that vanish.
        if case.direction == "backward" and _largest(expected) < 1e-12 * largest:
            assert _largest(actual) < 1e-12 * largest
        else:
            assert_close(actual, known, factor=1e-13)


def _largest(array: Any) -> float:
    known = np.abs(array[np.isfinite(array)])
    return float(known.max(initial=0.0))


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.dtype == "float64"], ids=lambda case: case.id)
def test_frozen_results_agree_with_the_independent_oracle(case: Case) -> None:
    check(case)


ROUNDED = [
    "softcap-scale",
    "visible-values",
    "multi-head-masked",
    "key-value-lengths",
    "rank-5",
    "segments-cross",
    "prefix-end",
    "chunked-offset-batch",
    "alibi-causal",
    "relative-position",
    "bias-sum",
    "sinks-bias",
    "sinks-rank-3",
    "dropout-causal",
    "poison-nan-dropped",
    "logsumexp-empty",
    "logsumexp-options",
    "merge-sinks",
    "poison-nan-merge",
    "rotary-partial",
    "rotary-interleaved",
    "sinusoidal",
    "gradient-bias-keys",
    "gradient-sinks",
    "gradient-dropout",
    "gradient-logsumexp-empty",
    "gradient-self-attention",
    "gradient-rotary-half-split",
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ROUNDED)
def test_frozen_results_are_those_of_the_rounded_inputs(name: str, dtype: str) -> None:
    check(CASES[f"{name}-{dtype}"])


def _changed(case: Case, change: dict[str, Any]) -> Case:
    tensors = {name: value for name, value in change.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in change.items() if name not in tensors}
    return replace(case, options={**case.options, **options}, tensors={**case.tensors, **tensors})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("causal-end-float64", {"mask": {"kind": "causal", "offset": 0}}, id="mask"),
        pytest.param(
            "segments-cross-float64",
            {"mask": {"kind": "segments", "query_ids": [7, 7, -1, 4, 7], "key_ids": [4, 7, 4, 7, 4, 7, 7, 7, 7, 4, 4]}},
            id="segments",
        ),
        pytest.param("prefix-end-float64", {"mask": {"kind": "prefix", "lengths": 9, "offset": "end"}}, id="prefix"),
        pytest.param("chunked-end-float64", {"mask": {"kind": "chunked", "size": 3, "offset": "end"}}, id="chunked"),
        pytest.param(
            "alibi-float64",
            {"bias": {"kind": "alibi", "slopes": None, "symmetric": False, "offset": "end"}},
            id="alibi",
        ),
        pytest.param("sinks-float64", {"sinks": False}, id="sinks"),
        pytest.param("sinks-float64", {"sinks": np.array([0.5, -1.0, 2.0, 0.0, 1.0, 3.0])}, id="other-sinks"),
        pytest.param("dropout-float64", {"dropout": 0.2}, id="dropout-rate"),
        pytest.param("dropout-float64", {"keep": np.ones((5, 11), bool)}, id="dropout-keep"),
        pytest.param("rotary-half-split-float64", {"pairing": "interleaved"}, id="pairing"),
        pytest.param("sinusoidal-float64", {"base": 9999.0}, id="base"),
        pytest.param("gradient-plain-float64", {"scale": 0.4}, id="gradient"),
        pytest.param("gradient-logsumexp-float64", {"logsumexp_cotangent": np.zeros((3, 6, 5))}, id="cotangent"),
    ],
)
def test_the_oracle_would_notice(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="largest difference"):
        check(_changed(CASES[name], change))

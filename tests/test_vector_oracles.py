"""The frozen results and gradients, by oracles that share no line with the reference."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparisons import assert_close, assert_same_pattern
from composed_by_hand import LOOPS, by_layers, by_loops, slope
from vectors_by_hand import by_hand

from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.composed_operations import Composed
from attnspec.conformance.operations import OPERATIONS

CASES = {case.id: case for case in shipped_cases()}
COMPOSED = [
    case
    for case in CASES.values()
    if isinstance(OPERATIONS[case.operation], Composed) or case.options.get("rotary") is not None
]
FORWARD = [case for case in COMPOSED if case.direction == "forward"]
BACKWARD = [case for case in COMPOSED if case.direction == "backward"]
FLOAT64 = [case for case in CASES.values() if case.dtype == "float64" and case not in COMPOSED]


def check(case: Case, oracle: Callable[[Case], dict[str, Any]] = by_hand) -> None:
    """Require every result to be the oracle's, up to the rounding of sums in float64."""
    found = oracle(case)
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


@pytest.mark.parametrize("case", FLOAT64, ids=lambda case: case.id)
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


IN_FLOAT64 = {case.id.rsplit("-", 1)[0] for case in FLOAT64}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case not in COMPOSED and case.id.rsplit("-", 1)[0] not in IN_FLOAT64],
    ids=lambda case: case.id,
)
def test_what_has_no_vector_in_float64_agrees_too(case: Case) -> None:
    check(case)


# Composed operations, in every dtype: the oracles read the rounded inputs.


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.id)
def test_results_of_composed_operations_agree_with_independent_layers(case: Case) -> None:
    check(case, by_layers)


@pytest.mark.parametrize("case", [case for case in FORWARD if case.operation in LOOPS], ids=lambda case: case.id)
def test_similarities_and_gates_agree_with_scalar_loops(case: Case) -> None:
    check(case, by_loops)


def check_slopes(case: Case) -> None:
    """Require Σ gradient · direction to be the complex step's along random directions, for each tensor by itself.

    The step is exact up to the rounding of the oracle itself, some tens of 2^-53 of the terms; no direction is blind to
    a wrong element, since every component of it is a normal number.
    """
    largest = max(_largest(gradient) for gradient in case.expected.values())
    for name, gradient in case.expected.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for direction in rng.standard_normal((3, *gradient.shape)):
            terms = gradient * direction
            size = float(np.abs(terms).sum())
            # A key's bias shifts all logits of a row alike: its gradient is what is left of sums that vanish.
            if _largest(gradient) < 1e-12 * largest:
                assert name.endswith("key_bias")
                size = 10.0 * largest
            error = abs(slope(case, name, direction) - math.fsum(terms.ravel().tolist()))
            assert error <= 1e-13 * size, f"largest difference of {name} is {error / size:.3g} of {size:.3g}"


@pytest.mark.parametrize("case", BACKWARD, ids=lambda case: case.id)
def test_gradients_of_composed_operations_agree_with_the_complex_step(case: Case) -> None:
    check_slopes(case)


# That the oracles would notice.


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


def _all_true(name: str, tensor: str) -> dict[str, Any]:
    return {tensor: np.ones_like(CASES[name].tensors[tensor])}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("hard-top-three-float32", {"top_k": 2}, id="top-k"),
        pytest.param("hard-noise-float32", {"noise": np.zeros((5, 7))}, id="noise"),
        pytest.param("additive-plain-float32", {"scale": 2.4}, id="scale"),
        pytest.param("bilinear-masked-float32", {"softcap": 3.1}, id="softcap"),
        pytest.param("cosine-masked-float32", {"mask": None}, id="mask"),
        pytest.param("cell-padded-float32", {"valid": np.tri(3, 5, dtype=bool)}, id="valid"),
        pytest.param("cell-dropout-float32", {"dropout": 0.2}, id="dropout-rate"),
        pytest.param("layer-norm-epsilon-float32", {"epsilon": 0.011}, id="epsilon"),
        pytest.param("feed-forward-gelu-float32", {"activation": "gelu_tanh"}, id="activation"),
        pytest.param("encoder-layer-post-float64", {"norm": "pre"}, id="norm"),
        pytest.param(
            "encoder-layer-dropout-float32",
            _all_true("encoder-layer-dropout-float32", "keep.attention"),
            id="dropout-keep",
        ),
        pytest.param("encoder-layer-options-float32", {"rotary": None}, id="rotary"),
        pytest.param("decoder-layer-pre-float32", {"memory_mask": None}, id="memory-mask"),
        pytest.param("embedding-ids-float32", {"inputs": np.ones((2, 5), np.int64)}, id="ids"),
        pytest.param("learned-added-3-float32", {"offset": 2}, id="offset"),
        pytest.param("pooling-float32", {"valid": np.tri(3, 5, dtype=bool)}, id="pooled"),
        pytest.param("text-encoder-ids-float32", {"positions": "none"}, id="positions"),
        pytest.param("transformer-ids-float32", _all_true("transformer-ids-float32", "source_valid"), id="source"),
        pytest.param("cached-rotary-float32", {"rotary": None}, id="cache"),
        pytest.param("multi-head-rotary-offset-float32", {"rotary": {"pairing": "half_split", "offset": 0}}, id="turn"),
    ],
)
def test_independent_layers_would_notice(name: str, change: dict[str, Any]) -> None:
    changed = _changed(CASES[name], change)
    for oracle in (by_layers, by_loops) if changed.operation in LOOPS else (by_layers,):
        with pytest.raises(AssertionError, match="differ"):
            check(changed, oracle)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        pytest.param("gradient-hard-top-three-float64", "key", id="choice"),
        pytest.param("gradient-additive-plain-float64", "sinks", id="sinks"),
        pytest.param("gradient-cell-padded-float64", "state.output", id="state"),
        pytest.param("gradient-feed-forward-gelu-float64", "parameters.hidden_weight", id="gelu"),
        pytest.param("gradient-decoder-pre-float64", "memory", id="memory"),
        pytest.param("gradient-embedding-ids-float64", "parameters.weight", id="row"),
        pytest.param("gradient-transformer-ids-float64", "parameters.source_embedding.weight", id="far-away"),
        pytest.param("gradient-multi-head-rotary-half-split-float64", "key_bias", id="turned-bias"),
    ],
)
def test_the_complex_step_would_notice_one_element(name: str, tensor: str) -> None:
    case, gradient = CASES[name], CASES[name].expected[tensor].copy()
    gradient.flat[1] += 1e-9 * _largest(gradient)
    with pytest.raises(AssertionError, match=f"largest difference of {tensor} "):
        check_slopes(replace(case, expected={**case.expected, tensor: gradient}))

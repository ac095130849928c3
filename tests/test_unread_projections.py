"""S11 through the projections: positions that nobody reads may hold NaN, forward and backward, also for the weights."""

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_same_bits
from native_tensors import gradients, to_native, to_numpy

from attnspec.contract import MultiHeadParameters, key_lengths, query_lengths

PADDED = key_lengths([5, 2]) & query_lengths([5, 2])


def _problem(operation: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(31)
    if operation == "self_attention":
        sizes = {"query_weight": (7, 4), "key_weight": (7, 4), "value_weight": (7, 3)}
        return {"inputs": rng.standard_normal((2, 5, 7))} | {n: rng.standard_normal(s) for n, s in sizes.items()}
    sizes = {"query_weight": (7, 6), "key_weight": (7, 6), "value_weight": (7, 6), "output_weight": (6, 5)}
    tensors = {name: rng.standard_normal((2, 5, 7)) for name in ("query", "key", "value")}
    return tensors | {name: rng.standard_normal(size) for name, size in sizes.items()}


def _call(attn: ModuleType, operation: str, tensors: dict[str, Any], mask: Any) -> Any:
    if operation == "self_attention":
        return attn.self_attention(**tensors, mask=mask)
    weights = MultiHeadParameters(**{name: array for name, array in tensors.items() if name.endswith("_weight")})
    inputs = (tensors[name] for name in ("query", "key", "value"))
    return attn.multi_head_attention(*inputs, weights, num_heads=2, mask=mask)


def _poisoned(tensors: dict[str, np.ndarray], poison: float) -> dict[str, np.ndarray]:
    """Put poison into one component of every position beyond the lengths."""
    tensors = {name: array.copy() for name, array in tensors.items()}
    for array in tensors.values():
        if array.ndim == 3:
            array[1, 2:, 3] = poison
    return tensors


@pytest.mark.parametrize("poison", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("operation", ["self_attention", "multi_head_attention"])
def test_padding_does_not_reach_the_output(attn: ModuleType, operation: str, poison: float) -> None:
    name = frameworks.name_of(attn)
    clean = _problem(operation)
    results = [
        to_numpy(_call(attn, operation, {n: to_native(name, a) for n, a in tensors.items()}, PADDED))
        for tensors in (clean, _poisoned(clean, poison))
    ]
    assert np.isfinite(results[0]).all()
    assert_same_bits(results[1], results[0])


@pytest.mark.parametrize("poison", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("operation", ["self_attention", "multi_head_attention"])
@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_padding_does_not_reach_the_gradients(name: str, operation: str, poison: float) -> None:
    attn = frameworks.load(name)
    clean = _problem(operation)
    columns = 3 if operation == "self_attention" else 5
    cotangent = np.random.default_rng(5).standard_normal((2, 5, columns))

    def run(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        _, grads = gradients(name, lambda **given: _call(attn, operation, given, PADDED), tensors, cotangent)
        return grads

    expected, actual = run(clean), run(_poisoned(clean, poison))
    for key, gradient in expected.items():
        assert np.abs(gradient).max() > 0.01, key
        assert_same_bits(actual[key], gradient)


@pytest.mark.parametrize("operation", ["self_attention", "multi_head_attention"])
def test_visible_nan_reaches_exactly_the_rows_that_see_it(attn: ModuleType, operation: str) -> None:
    name = frameworks.name_of(attn)
    tensors = _problem(operation)
    tensors["inputs" if operation == "self_attention" else "key"][1, 4, 3] = np.nan
    native = {n: to_native(name, a) for n, a in tensors.items()}
    output = to_numpy(_call(attn, operation, native, attn.causal()))
    expected = np.zeros(output.shape, bool)
    expected[1, 4] = True  # causal: only the last query reads the last key
    np.testing.assert_array_equal(np.isnan(output), expected)

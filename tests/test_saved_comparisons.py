"""Saved outputs: they come back bit for bit, and two files are judged by the sum of their bounds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest

from attnspec import reference
from attnspec.conformance import InputError, compare
from attnspec.conformance.cases import DTYPES
from attnspec.conformance.saved_comparisons import compare_saved, largest_difference, pairwise_differences, read_saved
from attnspec.contract import causal

TENSORS = {"query": np.ones((3, 7)), "key": np.ones((5, 7)), "value": np.ones((5, 2))}


def draw(dtype: str) -> dict[str, Any]:
    """Draw 3 queries and 5 keys of size 7, values of size 2, batch 2."""
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 3, 7), "key": (2, 5, 7), "value": (2, 5, 2)}
    return {name: (1.7 * rng.standard_normal(shape)).astype(DTYPES[dtype]) for name, shape in shapes.items()}


def plain(query: Any, key: Any, value: Any, scale: float) -> Any:
    scores = query @ key.mT * scale
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


def raises(*_: Any) -> Any:
    raise RuntimeError("kernel launch failed")


@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_outputs_come_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    for name in frameworks.MODULES:
        frameworks.load(name)
    comparison = compare(draw(dtype), targets=[*frameworks.MODULES, raises])
    comparison.save(tmp_path / "saved.safetensors")
    saved = read_saved(tmp_path / "saved.safetensors")
    assert list(saved.outputs) == list(saved.targets) == frameworks.MODULES  # what raised has no output
    for name, output in saved.outputs.items():
        expected = comparison[name].output
        assert expected is not None
        assert output.dtype == expected.dtype
        assert output.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(saved.bound, comparison.question.evaluation.bound)
    assert (saved.operation, saved.dtype, saved.inputs) == (
        "dot_product_attention",
        dtype,
        comparison.question.digest(),
    )


def test_two_runs_agree_with_each_other_and_a_faulty_one_does_not(tmp_path: Path) -> None:
    def target(query: Any, key: Any, value: Any, *, scale: float = 1 / math.sqrt(7)) -> Any:
        return plain(query, key, value, scale=scale)

    tensors, one, other = draw("float64"), tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    right = compare(tensors, targets=target)
    right.save(one)
    right.save(other)
    same = compare_saved(one, other)
    assert same.agrees
    assert [(shared.target, shared.largest_difference, shared.ratio) for shared in same.shared] == [
        ("reference", 0.0, 0.0),
        ("target", 0.0, 0.0),
    ]
    target.__kwdefaults__["scale"] = 1 / 7
    wrong = compare(tensors, targets=target)
    wrong.save(other)
    found = compare_saved(one, other)
    assert not found.agrees
    expected = largest_difference(right.rows[1].output, wrong.rows[1].output)
    assert found.shared[1].largest_difference == expected > 0.01
    assert found.shared[1].ratio > 1e6
    assert found.labels == ("A:reference", "A:target", "B:reference", "B:target")
    assert found.pairwise[1, 3] == found.pairwise[3, 1] == expected
    assert json.loads(found.to_json())["shared"][1]["ratio"] == found.shared[1].ratio


@pytest.mark.parametrize(
    ("factor", "agrees"), [pytest.param(0.8, True, id="within"), pytest.param(1.5, False, id="beyond")]
)
def test_outputs_may_differ_by_the_sum_of_both_bounds(factor: float, agrees: bool, tmp_path: Path) -> None:
    tensors, one, other = draw("float32"), tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    bound = compare(tensors, targets="reference").question.evaluation.bound

    for shift, path in ((-factor, one), (factor, other)):
        shifted = reference.dot_product_attention(**tensors) + shift * bound  # float64: not rounded

        def target(*_: Any, output: Any = shifted) -> Any:
            return output

        compare(tensors, targets=target).save(path)
    found = compare_saved(one, other)
    assert found.shared[1].ratio == pytest.approx(factor, rel=1e-6)
    assert found.agrees == agrees


@pytest.mark.parametrize(
    ("left", "right", "difference"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.5], 0.5, id="numbers"),
        pytest.param([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], 0.0, id="the-same-poison"),
        pytest.param([np.nan, 1.0], [1.0, 1.0], np.inf, id="nan-and-number"),
        pytest.param([np.inf], [-np.inf], np.inf, id="opposite-infinities"),
        pytest.param([], [], 0.0, id="empty"),
    ],
)
def test_the_largest_difference(left: list[float], right: list[float], difference: float) -> None:
    assert largest_difference(np.array(left), np.array(right)) == difference
    matrix = pairwise_differences([np.array(left), None, np.array(right)])
    np.testing.assert_array_equal(matrix, [[0, np.nan, difference], [np.nan] * 3, [difference, np.nan, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"dtype": "float32"}, "different dtypes, float64 and float32", id="dtype"),
        pytest.param({"scale": 0.3}, "different inputs or options", id="option"),
        pytest.param({"mask": causal(1)}, "different inputs or options", id="mask"),
        pytest.param({"tensors": {"key": np.full((5, 7), 2.0)}}, "different inputs or options", id="tensor"),
    ],
)
def test_outputs_of_different_inputs_are_not_compared(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    compare(TENSORS, targets="reference").save(one)
    options = {name: value for name, value in change.items() if name != "tensors"}
    compare(TENSORS | change.get("tensors", {}), targets="reference", **options).save(other)
    with pytest.raises(InputError, match=f"cannot be compared: they were computed from {message}"):
        compare_saved(one, other)


def test_an_equal_mask_spelled_otherwise_is_the_same_input(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    compare(TENSORS, targets="reference", mask=causal(1)).save(one)
    compare(TENSORS | {"mask": np.tri(3, 5, 1, dtype=bool)}, targets="reference").save(other)
    assert compare_saved(one, other).agrees

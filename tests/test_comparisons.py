"""The comparisons that the tests of attention rely on accept what they should and reject what they should."""

import numpy as np
import pytest
from attention_cases import DIMS, draw
from comparisons import (
    UNIT_ROUNDOFF,
    assert_close,
    assert_same_bits,
    assert_same_pattern,
    assert_within,
    output_bound,
)
from native_tensors import NUMPY_DTYPES

from attnspec import reference

NAN, INF = np.nan, np.inf


def test_close_accepts_what_lies_within() -> None:
    assert_close([2.0, 1.0 + 1e-14, -INF], [2.0, 1.0, -INF])
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)))
    assert_close([0.0, -0.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param([2.0, 1.0 + 3e-14], [2.0, 1.0], id="too_far"),
        pytest.param([2.0, NAN], [2.0, 1.0], id="nan"),
        pytest.param([2.0, NAN], [2.0, NAN], id="nan_expected"),
        pytest.param([2.0, NAN], [2.0, -INF], id="nan_for_inf"),
        pytest.param([2.0, INF], [2.0, -INF], id="wrong_inf"),
        pytest.param([2.0, INF], [2.0, 1.0], id="inf"),
        pytest.param([2.0, -1e300], [2.0, -INF], id="finite_for_inf"),
        pytest.param([0.0, 1e-300], [0.0, 0.0], id="not_zero"),
        pytest.param([[2.0]], [2.0], id="shape"),
        pytest.param(np.zeros((0, 3)), np.zeros((3, 0)), id="empty_shape"),
    ],
)
def test_close_rejects(actual: object, expected: object) -> None:
    with pytest.raises(AssertionError):
        assert_close(actual, expected)


def test_same_bits_accepts_equal_arrays() -> None:
    assert_same_bits([1.0, -0.0, NAN, -INF], [1.0, -0.0, NAN, -INF])
    assert_same_bits(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param([0.0], [-0.0], id="sign_of_zero"),
        pytest.param([NAN], [-NAN], id="sign_of_nan"),
        pytest.param([np.nextafter(1.0, 2.0)], [1.0], id="last_bit"),
        pytest.param(np.float32([1.0]), np.float64([1.0]), id="dtype"),
        pytest.param([1.0], [[1.0]], id="shape"),
    ],
)
def test_same_bits_rejects(actual: object, expected: object) -> None:
    with pytest.raises(AssertionError):
        assert_same_bits(actual, expected)


def test_same_pattern_accepts_other_finite_numbers() -> None:
    assert_same_pattern([1.0, NAN, INF, -INF], [2.0, NAN, INF, -INF])


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param([1.0, NAN], [1.0, 1.0], id="nan"),
        pytest.param([1.0, 1.0], [1.0, NAN], id="no_nan"),
        pytest.param([1.0, INF], [1.0, -INF], id="sign"),
        pytest.param([1.0, INF], [1.0, NAN], id="inf_for_nan"),
        pytest.param([1.0, -INF], [1.0, 1.0], id="minus_inf"),
        pytest.param([1.0], [1.0, 1.0], id="shape"),
    ],
)
def test_same_pattern_rejects(actual: object, expected: object) -> None:
    with pytest.raises(AssertionError):
        assert_same_pattern(actual, expected)


def test_within_accepts_the_bound_itself() -> None:
    assert_within([1.5, 2.0], [1.0, 2.0], [0.5, 0.0])


@pytest.mark.parametrize(
    ("actual", "bound"),
    [
        pytest.param([1.75, 2.0], 0.5, id="too_far"),
        pytest.param([1.5, 2.1], [0.5, 0.0], id="too_far_from_0_bound"),
        pytest.param([NAN, 2.0], 0.5, id="nan"),
        pytest.param([INF, 2.0], 0.5, id="inf"),
        pytest.param([1.0, 2.0, 3.0], 0.5, id="shape"),
    ],
)
def test_within_rejects(actual: object, bound: object) -> None:
    with pytest.raises(AssertionError):
        assert_within(actual, [1.0, 2.0], bound)


def _rounded(dtype: str) -> tuple[np.ndarray, ...]:
    return tuple(array.astype(NUMPY_DTYPES[dtype]).astype(np.float64) for array in draw(DIMS))


@pytest.mark.parametrize("dtype", list(UNIT_ROUNDOFF))
def test_output_bound_accepts_one_rounding(dtype: str) -> None:
    query, key, value = _rounded(dtype)
    stages = reference.attention_stages(query, key, value)
    bound = output_bound(stages, query, key, value, 1.0, dtype)
    assert_within(stages.output.astype(NUMPY_DTYPES[dtype]).astype(np.float64), stages.output, bound)


@pytest.mark.parametrize(("dtype", "narrower"), [("float64", "float32"), ("float32", "float16")])
def test_output_bound_rejects_a_narrower_output(dtype: str, narrower: str) -> None:
    query, key, value = _rounded(dtype)
    stages = reference.attention_stages(query, key, value)
    bound = output_bound(stages, query, key, value, DIMS.head_dim**-0.5, dtype)
    with pytest.raises(AssertionError):
        assert_within(stages.output.astype(NUMPY_DTYPES[narrower]).astype(np.float64), stages.output, bound)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", ["scores", "weights"])
def test_output_bound_rejects_half_precision_inside(dtype: str, stage: str) -> None:
    query, key, value = _rounded(dtype)
    stages = reference.attention_stages(query, key, value)
    bound = output_bound(stages, query, key, value, DIMS.head_dim**-0.5, dtype)
    if stage == "scores":
        scores = stages.scores.astype(NUMPY_DTYPES[dtype]).astype(np.float64)
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
    else:
        weights = stages.weights.astype(NUMPY_DTYPES[dtype]).astype(np.float64)
    output = (weights @ value).astype(NUMPY_DTYPES[dtype]).astype(np.float64)
    with pytest.raises(AssertionError):
        assert_within(output, stages.output, bound)

"""What counts as equal, in every test of attention. `test_comparisons.py` shows that each of these can fail."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half the distance between 1 and the next number: the largest relative error of one rounding to nearest (bfloat16 and
float16 have 8 and 11 bits of significand)."""

SMALLEST = {"float64": 0.0, "float32": 0.0, "bfloat16": 0.0, "float16": 2.0**-25}
"""Half the distance between subnormal numbers, where results can come near it: in float16 only."""


def assert_close(actual: Any, expected: Any, factor: float = 1e-14) -> None:
    """Require the largest difference to be at most `factor` of the largest finite |expected|; ±Inf must match."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert not np.isnan(expected).any(), "a NaN is expected: say so with assert_same_pattern"
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    if finite.any():
        error, size = np.abs(actual[finite] - expected[finite]).max(), np.abs(expected[finite]).max()
        assert error <= factor * size, f"largest difference {error:.3g} is {error / (size or 1):.3g} of {size:.3g}"


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Require equal dtype, shape and bytes: −0 is not 0, and a NaN equals only the same NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    if actual.tobytes() == expected.tobytes():
        return
    size = actual.dtype.itemsize
    as_bytes = [np.frombuffer(array.tobytes(), np.uint8).reshape(-1, size) for array in (actual, expected)]
    differ = np.flatnonzero((as_bytes[0] != as_bytes[1]).any(axis=1))
    first = differ[0]
    raise AssertionError(
        f"{differ.size} of {actual.size} elements differ in their bits; "
        f"the first at {np.unravel_index(first, actual.shape)}: {actual.flat[first]!r}, "
        f"expected {expected.flat[first]!r}"
    )


def assert_same_pattern(actual: Any, expected: Any) -> None:
    """Require NaN, +Inf and −Inf in the same places, whatever the finite numbers are."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    for name, test in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf)):
        places = np.argwhere(test(actual) != test(expected))
        assert not places.size, f"{name} differs at {places[:5].tolist()}"


def assert_within(actual: Any, expected: Any, bound: Any) -> None:
    """Require |actual − expected| ≤ bound, element by element."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    error, bound = np.abs(actual - expected), np.broadcast_to(bound, expected.shape)
    ratio = np.divide(error, bound, out=np.where(error == 0.0, 0.0, np.inf), where=bound > 0)
    outside = np.argwhere(~(error <= bound))  # not `error > bound`, which a NaN is not
    assert not outside.size, f"largest |error| / bound is {ratio.max():.3g}, the first at {outside[0]}"


def output_bound(stages: Any, query: Array, key: Array, value: Array, scale: float, dtype: str) -> Array:
    """Bound the rounding error of an attention's output, given the exact stages, for a computation in `dtype`.

    Half precisions accumulate in float32 and round once at the end. With u the unit roundoff of the accumulation, a
    logit is wrong by at most η = (d + 8) u |scale| Σ|q||k| + 4 u max|x| (a dot product of d terms; scale, softcap,
    bias, the shift and exp, each of them a few roundings of numbers no larger than these). Weights are then wrong by
    the factor e^±2η, the sum over n keys adds (n + 4) u, and the last rounding u_o |o|:

        |error| ≤ (e^{2η} − 1 + (n + 4) u) max|v| + u_o |o|.
    """
    u = UNIT_ROUNDOFF["float64" if dtype == "float64" else "float32"]
    n, d = key.shape[-2], query.shape[-1]
    products = np.abs(query).sum(-1).max() * np.abs(key).max()  # ≥ Σ_d |q||k| of every pair
    logits = stages.logits[np.isfinite(stages.logits)]
    eta = (d + 8) * u * abs(scale) * products + 4 * u * (np.abs(logits).max() if logits.size else 0.0)
    worst = (math.expm1(2 * eta) + (n + 4) * u) * np.abs(value).max()
    return worst + UNIT_ROUNDOFF[dtype] * np.abs(stages.output) + SMALLEST[dtype]

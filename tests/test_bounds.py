"""The bounds that decide, against brute force: every intermediate perturbed by its own unit roundoff, many times over.

`perturbed_stages` is an attention in float64 in which each operation errs by a random relative amount of at most what
the profile allows it: every rounding that a real implementation makes, at its worst and in random directions. No error
may exceed its bound, and the bound may not be far above what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from attnspec.conformance.admission import decides, error_ratios, largest_ratio
from attnspec.conformance.bounds import (
    EXACT_INPUTS,
    Projected,
    StageBounds,
    _gamma,
    attention_bounds,
    projection_bound,
)
from attnspec.conformance.operations import Evaluation
from attnspec.conformance.profiles import DEFAULT_PROFILES, PROFILES, Profile, default_profile
from attnspec.contract import Mask, causal, key_lengths, query_lengths, sliding_window
from attnspec.reference.attention import Attention, compute_stages, prepare

Array = np.ndarray[Any, Any]

TRIALS = 64
SIMULATED = [name for name in PROFILES if name != "fp64"]  # float64 cannot imitate a float64 that errs


class Problem(NamedTuple):
    """One small attention."""

    shape: tuple[int, int, int, int, int, int, int]
    """Batch, query heads, key/value heads, queries, keys, head size, value size."""
    mask: Mask | None = None
    softcap: float | None = None
    scale: float | None = None
    has_bias: bool = False
    spread: float = 1.5

    def attention(self, seed: int = 0) -> Attention:
        rng = np.random.default_rng(seed)
        b, h, g, q, k, d, v = self.shape
        bias = 2.0 * rng.standard_normal((1, h, q, k)) if self.has_bias else None
        tensors = (
            rng.standard_normal((b, h, q, d)),
            rng.standard_normal((b, g, k, d)),
            rng.standard_normal((b, g, k, v)),
        )
        query, key, value = (self.spread * tensor for tensor in tensors)
        return prepare(query, key, value, self.mask, bias, self.scale, self.softcap)[0]


PROBLEMS = {
    "plain": Problem((2, 3, 3, 5, 7, 4, 3)),
    "grouped-causal": Problem((1, 4, 2, 5, 7, 8, 3), mask=causal("end")),
    "bias-softcap": Problem((1, 2, 2, 5, 11, 7, 3), softcap=2.0, has_bias=True),
    "empty-rows": Problem((2, 2, 1, 5, 7, 5, 3), mask=key_lengths([4, 0]) & query_lengths([3, 5])),
    "one-component": Problem((1, 2, 2, 5, 7, 1, 1), scale=-0.7),
    "long-window": Problem((1, 1, 1, 31, 37, 8, 2), mask=sliding_window(16, 4, offset="end")),
    "long-flat": Problem((1, 1, 1, 3, 97, 16, 2), spread=0.3),
    "peaked": Problem((1, 2, 2, 7, 13, 8, 3), spread=4.0),
}


def perturbation(rng: np.random.Generator, worst: bool) -> Callable[[Array, float], Array]:
    """Make the rounding: a relative error of at most u/(1+u), as to nearest; exactly that where `worst`."""

    def rounded(array: Array, u: float) -> Array:
        error = rng.choice([-1.0, 1.0], array.shape) if worst else rng.uniform(-1.0, 1.0, array.shape)
        return array * (1.0 + u / (1.0 + u) * error)

    return rounded


def _sum(terms: Iterator[Array], u: float, rounded: Callable[[Array, float], Array]) -> Array:
    total = rounded(next(terms), 0.0)
    for term in terms:
        total = rounded(total + term, u)
    return total


def perturbed_stages(
    attention: Attention, profile: Profile, rounded: Callable[[Array, float], Array], errors: Projected = EXACT_INPUTS
) -> dict[str, Array]:
    """Compute every stage `TRIALS` times, each operation with its own errors; one more axis in front."""
    exact = compute_stages(attention, slice(0, attention.sizes.query_length))
    visible = exact.logits != -np.inf
    _, scale, softcap = attention.options
    u_a, u_s = profile.accumulation, profile.scores
    group = attention.sizes.num_heads // attention.sizes.num_kv_heads

    def entered(array: Array, error: Array | float, repeats: int) -> Array:
        # With u = 1, errors are a half at most: twice that, times the error that is carried.
        array = np.broadcast_to(array, (TRIALS, *array.shape))
        return np.repeat(array + 2.0 * (rounded(np.ones(array.shape), 1.0) - 1.0) * error, repeats, axis=-3)

    query = rounded(entered(attention.query, errors.query, 1), profile.products)
    key = rounded(entered(attention.key, errors.key, group), profile.products)
    value = entered(attention.value, errors.value, group)

    products = (rounded(query[..., :, None, d] * key[..., None, :, d], u_a) for d in range(query.shape[-1]))
    scores = rounded(scale * rounded(_sum(products, u_a, rounded), u_s), u_s)
    logits = scores
    if softcap is not None:
        logits = rounded(softcap * rounded(np.tanh(rounded(scores / softcap, u_s)), u_s), u_s)
    if attention.bias is not None:
        logits = rounded(logits + attention.bias, u_s)
    logits = np.where(visible, logits, -np.inf)

    # Base 2, as GPUs do it: two more roundings of the size of the logits.
    scaled = np.where(visible, rounded(rounded(np.where(visible, logits, 0.0), u_a), u_a), -np.inf)
    peak = scaled.max(axis=-1, keepdims=True, initial=-np.inf)
    peak = np.where(peak == -np.inf, 0.0, peak)
    shifted = rounded(np.where(visible, scaled - peak, 0.0), u_a)
    shifted = rounded(shifted, u_s) if profile.rounds_softmax else shifted
    powers = np.where(visible, rounded(np.exp(shifted), 2 * u_a * profile.exponential), 0.0)
    powers = rounded(powers, u_s) if profile.rounds_softmax else powers
    total = _sum((powers[..., j] for j in range(powers.shape[-1])), u_a, rounded)[..., None]
    safe = np.where(total == 0.0, 1.0, total)
    weights = rounded(rounded(powers / safe, u_a), profile.weights)
    logsumexp = rounded(peak + rounded(np.log(safe), u_a), u_a)
    logsumexp = np.where(total == 0.0, -np.inf, logsumexp)[..., 0]

    left, right = rounded(weights, profile.products), rounded(value, profile.products)
    terms = (rounded(left[..., :, j, None] * right[..., None, j, :], u_a) for j in range(left.shape[-1]))
    output = rounded(_sum(terms, u_a, rounded), profile.output)
    return {"scores": scores, "logits": logits, "weights": weights, "logsumexp": logsumexp, "output": output}


def ratios(attention: Attention, profile: Profile, worst: bool, errors: Projected = EXACT_INPUTS) -> dict[str, Array]:
    """Give, for every stage and element, the largest error of all trials over the bound."""
    exact = compute_stages(attention, slice(0, attention.sizes.query_length))
    bounds = attention_bounds(attention, profile, errors)
    seen = perturbed_stages(attention, profile, perturbation(np.random.default_rng(7), worst), errors)
    return {
        stage: np.max(
            [error_ratios(trial, getattr(exact, stage), getattr(bounds, stage)) for trial in seen[stage]], axis=0
        )
        for stage in StageBounds._fields
    }


@pytest.mark.parametrize("worst", [True, False], ids=["worst", "uniform"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("profile", SIMULATED)
def test_no_error_exceeds_its_bound(profile: str, problem: Problem, worst: bool) -> None:
    largest = {stage: ratio.max() for stage, ratio in ratios(problem.attention(), PROFILES[profile], worst).items()}
    assert max(largest.values()) <= 1.0, largest


@pytest.mark.parametrize("profile", SIMULATED)
def test_the_bound_is_not_vacuous(profile: str) -> None:
    found = [ratios(problem.attention(), PROFILES[profile], worst=True) for problem in PROBLEMS.values()]
    for stage in StageBounds._fields:
        medians = [float(np.median(ratio[stage][ratio[stage] > 0])) for ratio in found]
        assert np.median(medians) > 0.02, (stage, medians)


@pytest.mark.parametrize("profile", SIMULATED)
def test_perturbations_beyond_the_profile_are_noticed(profile: str) -> None:
    attention = PROBLEMS["plain"].attention()
    honest = PROFILES[profile]
    exact = compute_stages(attention, slice(0, attention.sizes.query_length))
    coarse = honest._replace(accumulation=1e-2, scores=1e-2, weights=3e-2, output=3e-2)
    seen = perturbed_stages(attention, coarse, perturbation(np.random.default_rng(7), worst=True))
    assert largest_ratio(seen["output"], np.asarray(exact.output), attention_bounds(attention, honest).output) > 1


@pytest.mark.parametrize("worst", [True, False], ids=["worst", "uniform"])
@pytest.mark.parametrize("profile", SIMULATED)
def test_errors_of_projected_inputs_are_carried(profile: str, worst: bool) -> None:
    attention = PROBLEMS["grouped-causal"].attention()
    errors = Projected(*(3e-4 * (1 + np.abs(array)) for array in attention[:3]))
    found = ratios(attention, PROFILES[profile], worst, errors)
    assert max(float(ratio.max()) for ratio in found.values()) <= 1.0
    assert float(np.median(found["output"])) > 0.02
    wider, plain = (
        attention_bounds(attention, PROFILES[profile], errors),
        attention_bounds(attention, PROFILES[profile]),
    )
    assert all((getattr(wider, name) >= getattr(plain, name)).all() for name in StageBounds._fields)


@pytest.mark.parametrize("worst", [True, False], ids=["worst", "uniform"])
@pytest.mark.parametrize("has_error", [True, False], ids=["carried", "exact"])
@pytest.mark.parametrize("profile", SIMULATED)
def test_projection_bound(profile: str, has_error: bool, worst: bool) -> None:
    rng, settings = np.random.default_rng(3), PROFILES[profile]
    rounded = perturbation(rng, worst)
    inputs, weight, bias = rng.standard_normal((5, 13)), rng.standard_normal((13, 7)), rng.standard_normal(7)
    error = 1e-3 * np.abs(inputs) if has_error else 0.0
    exact, bound = projection_bound(inputs, weight, bias, settings, error)
    np.testing.assert_allclose(exact, inputs @ weight + bias, rtol=1e-14)

    many = np.broadcast_to(inputs, (TRIALS, *inputs.shape))
    entered = rounded(many + 2.0 * (rounded(np.ones(many.shape), 1.0) - 1.0) * error, settings.products)
    factors = rounded(np.broadcast_to(weight, (TRIALS, *weight.shape)), settings.products)
    terms = (rounded(entered[..., :, i, None] * factors[..., None, i, :], settings.accumulation) for i in range(13))
    total = rounded(_sum(terms, settings.accumulation, rounded) + bias, settings.accumulation)
    found = np.abs(rounded(total, settings.output) - exact).max(axis=0) / bound
    assert found.max() <= 1.0
    assert np.median(found) > 0.02


def test_float16_projections_may_underflow() -> None:
    zeros = np.zeros((2, 3)), np.zeros((3, 4)), None
    assert (projection_bound(*zeros, PROFILES["fp16_flash"])[1] == 2.0**-24).all()
    assert (projection_bound(*zeros, PROFILES["bf16_flash"])[1] == 0.0).all()


# Pieces that can be computed by hand.


def test_gamma_grows_like_the_root() -> None:
    np.testing.assert_array_equal(_gamma(np.array([0, 1, 4, 25, 100, 10000]), 2.0), [0, 2, 8, 50, 100, 1000])


def test_score_bound_by_hand() -> None:
    attention, _ = prepare(np.array([[2.0, -3.0]]), np.array([[5.0, 7.0]]), np.array([[1.0]]), None, None, 0.5, None)
    bounds = attention_bounds(attention, PROFILES["fp32"])
    # 6 terms of γ̃, Σ|q||k| = 10 + 21, and once more for the stored score |10 − 21| / 2 and its product.
    assert bounds.scores.item() == pytest.approx(2.0**-24 * (6 * 15.5 + 5.5 + 15.5), rel=1e-15)


def test_one_visible_key_leaves_only_the_roundings_of_the_product() -> None:
    attention, _ = prepare(np.array([[2.0]]), np.array([[5.0]]), np.array([[3.0]]), None, None, 1.0, None)
    bound = attention_bounds(attention, PROFILES["bf16_flash"]).output.item()
    # Σ p expm1(η)|v − o| is 0: (γ̃_3 + u_p)|v| + (γ̃_1 + 2u_a + u_o)|o|, and underflow.
    assert bound == pytest.approx(3 * (3 * 2.0**-24 + 2.0**-8) + 3 * (3 * 2.0**-24 + 2.0**-8), rel=1e-12)


@pytest.mark.parametrize("profile", PROFILES)
def test_empty_rows_are_exact(profile: str) -> None:
    attention = PROBLEMS["empty-rows"].attention()
    bounds = attention_bounds(attention, PROFILES[profile])
    empty = ~(compute_stages(attention, slice(0, 5)).logits != -np.inf).any(axis=-1)
    assert empty.sum() == 14
    assert (bounds.output[empty] == 0.0).all()
    assert (bounds.weights[empty] == 0.0).all()
    assert (bounds.logsumexp[empty] == 0.0).all()
    assert (bounds.output[~empty] > 0.0).all()


def test_where_the_bound_is_zero_only_equality_passes() -> None:
    zero = np.zeros(1)
    assert largest_ratio(zero, zero, zero) == 0.0
    assert largest_ratio(-zero, zero, zero) == 0.0
    assert largest_ratio(np.array([5e-324]), zero, zero) == np.inf


@pytest.mark.parametrize("profile", PROFILES)
def test_hidden_nan_does_not_reach_the_bound(profile: str) -> None:
    clean = PROBLEMS["grouped-causal"].attention()
    key, value = clean.key.copy(), clean.value.copy()
    key[..., -1, :], value[..., -1, :] = np.nan, np.inf
    seen_by = [attention_bounds(a, PROFILES[profile]) for a in (clean, clean._replace(key=key, value=value))]
    np.testing.assert_array_equal(seen_by[1].output[..., :-1, :], seen_by[0].output[..., :-1, :])


@pytest.mark.parametrize(
    ("output", "expected", "ratio"),
    [
        pytest.param(1.0, 1.0, 0.0, id="equal"),
        pytest.param(1.5, 1.0, 2.0, id="half-off"),
        pytest.param(0.5, 1.0, 2.0, id="half-below"),
        pytest.param(np.nan, 1.0, np.inf, id="nan-for-a-number"),
        pytest.param(np.inf, 1.0, np.inf, id="inf-for-a-number"),
        pytest.param(-np.inf, 1.0, np.inf, id="minus-inf-for-a-number"),
        pytest.param(np.nan, np.nan, 0.0, id="nan-for-nan"),
        pytest.param(1.0, np.nan, np.inf, id="a-number-for-nan"),
        pytest.param(np.inf, np.nan, np.inf, id="inf-for-nan"),
        pytest.param(np.inf, np.inf, 0.0, id="inf-for-inf"),
        pytest.param(-np.inf, np.inf, np.inf, id="minus-inf-for-inf"),
        pytest.param(-np.inf, -np.inf, 0.0, id="minus-inf-for-minus-inf"),
        pytest.param(np.nan, np.inf, np.inf, id="nan-for-inf"),
        pytest.param(1e300, np.inf, np.inf, id="a-large-number-for-inf"),
    ],
)
def test_error_ratios(output: float, expected: float, ratio: float) -> None:
    found = error_ratios(np.array([0.0, output]), np.array([0.0, expected]), np.array([0.25, 0.25]))
    np.testing.assert_array_equal(found, [0.0, ratio])


def test_half_precision_outputs_are_compared_in_float64() -> None:
    import ml_dtypes

    output = np.array([1.0078125], ml_dtypes.bfloat16)
    assert largest_ratio(output, np.array([1.0]), np.array([2.0**-8])) == 2.0


def test_no_elements_have_no_error() -> None:
    assert largest_ratio(np.zeros((2, 0)), np.zeros((2, 0)), np.zeros((2, 0))) == 0.0


@pytest.mark.parametrize(
    ("output", "bound", "value_range", "expected"),
    [
        pytest.param([1.0, 2.0], [0.1, 0.9], 2.0, True, id="below-half-the-range"),
        pytest.param([1.0, 2.0], [0.1, 1.0], 2.0, False, id="half-the-range"),
        pytest.param([1.0, 2.0], [0.1, np.inf], 2.0, False, id="infinite"),
        pytest.param([1.0, 2.0], [0.1, np.nan], 2.0, False, id="nan"),
        pytest.param([1.0, np.nan], [0.1, 5.0], 2.0, True, id="where-nan-is-expected"),
        pytest.param([0.0], [0.0], 0.0, True, id="all-empty"),
        pytest.param([], [], 0.0, True, id="no-elements"),
    ],
)
def test_what_decides(output: list[float], bound: list[float], value_range: float, expected: bool) -> None:
    stages: Any = None
    assert decides(Evaluation(np.array(output), np.array(bound), value_range, stages, stages)) is expected


# The table of profiles.


def test_every_dtype_has_a_default_of_its_own() -> None:
    assert set(DEFAULT_PROFILES) == {profile.dtype for profile in PROFILES.values()}
    assert all(default_profile(dtype).dtype == dtype for dtype in DEFAULT_PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_consistent(name: str) -> None:
    import ml_dtypes

    profile = PROFILES[name]
    assert profile.name == name
    roundoff = float(ml_dtypes.finfo(profile.dtype).eps) / 2
    wide = min(roundoff, 2.0**-24)
    assert profile.output == roundoff
    assert profile.accumulation == wide
    assert profile.scores in (wide, roundoff)
    assert profile.weights == roundoff
    assert profile.products in (0.0, 2.0**-11)
    assert profile.rounds_softmax == (profile.scores > profile.accumulation) == name.endswith("_eager")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_an_eager_profile_allows_more_than_a_fused_one(dtype: str) -> None:
    attention = PROBLEMS["plain"].attention()
    fused, eager = (attention_bounds(attention, PROFILES[f"{dtype}_{kind}"]) for kind in ("flash", "eager"))
    assert all((getattr(eager, name) > getattr(fused, name)).all() for name in ("scores", "logits", "output"))

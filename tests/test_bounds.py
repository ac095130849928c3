"""The bounds that decide, against brute force: every intermediate perturbed by its own unit roundoff, many times over.

No error of `perturbations.perturbed_stages` may exceed its bound, and the bound may not be far above what was seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from perturbations import PROBLEMS, SIMULATED, TRIALS, Problem, perturbation, perturbed_stages, running_sum

from attnspec.conformance.admission import decides, error_ratios, largest_ratio
from attnspec.conformance.bounds import (
    EXACT_INPUTS,
    Projected,
    StageBounds,
    attention_bounds,
    gamma,
    projection_bound,
)
from attnspec.conformance.operation import Evaluation
from attnspec.conformance.profiles import DEFAULT_PROFILES, PROFILES, Profile, default_profile
from attnspec.contract.options import Given
from attnspec.reference.attention import Attention, compute_stages, prepare

Array = np.ndarray[Any, Any]


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
        largest = {name: float(ratio[stage].max()) for name, ratio in zip(PROBLEMS, found, strict=True)}
        assert min(largest.values()) >= 0.05, (stage, largest)


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
    total = rounded(running_sum(terms, settings.accumulation, rounded) + bias, settings.accumulation)
    found = np.abs(rounded(total, settings.output) - exact).max(axis=0) / bound
    assert found.max() <= 1.0
    assert np.median(found) > 0.02


def test_float16_projections_may_underflow() -> None:
    zeros = np.zeros((2, 3)), np.zeros((3, 4)), None
    assert (projection_bound(*zeros, PROFILES["fp16_flash"])[1] == 2.0**-24).all()
    assert (projection_bound(*zeros, PROFILES["bf16_flash"])[1] == 0.0).all()


# Pieces that can be computed by hand.


def test_gamma_grows_like_the_root() -> None:
    np.testing.assert_array_equal(gamma(np.array([0, 1, 4, 25, 100, 10000]), 2.0), [0, 2, 8, 50, 100, 1000])


def test_score_bound_by_hand() -> None:
    attention, _ = prepare(np.array([[2.0, -3.0]]), np.array([[5.0, 7.0]]), np.array([[1.0]]), Given(scale=0.5))
    bounds = attention_bounds(attention, PROFILES["fp32"])
    # 6 terms of γ̃, Σ|q||k| = 10 + 21, and once more for the stored score |10 − 21| / 2 and its product.
    assert bounds.scores.item() == pytest.approx(2.0**-24 * (6 * 15.5 + 5.5 + 15.5), rel=1e-15)


def test_one_visible_key_leaves_only_the_roundings_of_the_product() -> None:
    attention, _ = prepare(np.array([[2.0]]), np.array([[5.0]]), np.array([[3.0]]), Given(scale=1.0))
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


@pytest.mark.parametrize("profile", PROFILES)
def test_empty_rows_with_a_sink_are_zeros_and_the_sink_is_their_logsumexp(profile: str) -> None:
    attention = PROBLEMS["sinks-empty-rows"].attention()
    bounds = attention_bounds(attention, PROFILES[profile])
    stages = compute_stages(attention, slice(0, 5))
    empty = ~(stages.logits != -np.inf).any(axis=-1)
    assert (bounds.output[empty] == 0.0).all()
    assert (bounds.weights[empty] == 0.0).all()
    sunk = empty[:, 0]
    assert (stages.logsumexp[:, 0][sunk] == 1.0).all()
    assert (bounds.logsumexp[:, 0][sunk] > 0.0).all()
    assert (bounds.logsumexp[:, 1][empty[:, 1]] == 0.0).all()  # a sink of -inf is none


@pytest.mark.parametrize("problem", ["sinks", "dropout", "alibi", "relative-position"])
@pytest.mark.parametrize("profile", SIMULATED)
def test_an_option_widens_the_bound_by_its_own_roundings(problem: str, profile: str) -> None:
    attention = PROBLEMS[problem].attention()
    plain = attention._replace(options=attention.options._replace(sinks=None, dropout=None, bias=None))
    given, bare = (attention_bounds(each, PROFILES[profile]) for each in (attention, plain))
    if problem in ("alibi", "relative-position"):
        assert (given.logits >= bare.logits).all()
        assert (given.logits > bare.logits).mean() > 0.9
    if problem == "dropout":
        np.testing.assert_array_equal(given.weights, bare.weights)
        np.testing.assert_array_equal(given.logsumexp, bare.logsumexp)
        assert (given.output != bare.output).all()
    if problem == "sinks":
        np.testing.assert_array_equal(given.logits, bare.logits)
        assert (given.logsumexp != bare.logsumexp).all()


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
    evaluation = Evaluation({"output": np.array(output)}, {"output": np.array(bound)}, {"output": value_range})
    assert decides(evaluation) is expected
    fine = Evaluation({"output": np.ones(2)}, {"output": np.full(2, 0.1)}, {"output": 2.0})
    both = Evaluation(
        {"output": fine.output, "logsumexp": evaluation.output},
        {"output": fine.bound, "logsumexp": evaluation.bound},
        {"output": 2.0, "logsumexp": value_range},
    )
    assert decides(both) is expected


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

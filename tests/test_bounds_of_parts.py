"""The bounds of what stands beside an attention: merged slices, rotary embedding, sinusoidal positions.

As in test_bounds.py every intermediate errs by its own unit roundoff, and no error may exceed its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from perturbations import SIMULATED, TRIALS, perturbation, running_sum

from attnspec.conformance.admission import error_ratios
from attnspec.conformance.partial_bounds import merge_bound
from attnspec.conformance.position_bounds import angle_error, rotary_bound, sinusoidal_bound
from attnspec.conformance.profiles import PROFILES, Profile
from attnspec.reference.partial_results import merge
from attnspec.reference.positions import rotary_embedding, rotate, sinusoidal_positions

Array = np.ndarray[Any, Any]
Rounded = Callable[[Array, float], Array]

each_profile = pytest.mark.parametrize("profile", SIMULATED)
each_kind = pytest.mark.parametrize("worst", [True, False], ids=["worst", "uniform"])


def largest_ratios(trials: Array, exact: Array, bound: Array) -> Array:
    """Give, for every element, the largest error of all trials over the bound."""
    return np.max([error_ratios(trial, exact, bound) for trial in trials], axis=0)


# Merged slices.


class Slices(NamedTuple):
    """Slices to be merged, (S, B, H, T, D) and (S, B, H, T)."""

    outputs: Array
    logsumexps: Array
    sink: Array | None


def slices(count: int, spread: float, *, sinks: bool = False, empty: bool = False) -> Slices:
    """Draw slices; `spread` is the standard deviation of their logsumexps."""
    rng = np.random.default_rng([count, 5])
    outputs = 1.5 * rng.standard_normal((count, 2, 3, 5, 4))
    logsumexps = spread * rng.standard_normal((count, 2, 3, 5))
    if empty:
        logsumexps[0, 0], logsumexps[:, 1, 1], outputs[0, 0] = -np.inf, -np.inf, np.nan
    return Slices(outputs, logsumexps, spread * rng.standard_normal((3, 1)) if sinks else None)


MERGES = {
    "one": slices(1, 2.0),
    "three": slices(3, 2.0),
    "flat": slices(5, 0.01),
    "far-apart": slices(3, 40.0),
    "high": Slices(*slices(3, 1.0)[:2], None)._replace(logsumexps=300.0 + slices(3, 1.0).logsumexps),
    "sinks": slices(3, 2.0, sinks=True),
    "empty": slices(3, 2.0, empty=True),
    "empty-sinks": slices(3, 2.0, sinks=True, empty=True),
}


def perturbed_merge(given: Slices, profile: Profile, rounded: Rounded) -> tuple[Array, Array]:
    """Merge `TRIALS` times, each operation with its own errors."""
    u_a = profile.accumulation
    level = given.logsumexps if given.sink is None else _beside(given.logsumexps, given.sink)
    level = np.broadcast_to(level, (TRIALS, *level.shape))
    read = level != -np.inf
    level = np.where(read, rounded(rounded(np.where(read, level, 0.0), u_a), u_a), -np.inf)  # in powers of two
    peak = level.max(axis=1, keepdims=True)
    peak = np.where(peak == -np.inf, 0.0, peak)
    stored = profile.scores if profile.rounds_softmax else 0.0
    shifted = rounded(rounded(np.where(read, level - peak, 0.0), u_a), stored)
    powers = rounded(rounded(np.where(read, np.exp(shifted), 0.0), 2 * u_a * profile.exponential), stored)
    total = running_sum((powers[:, s] for s in range(powers.shape[1])), u_a, rounded)
    safe = np.where(total == 0.0, 1.0, total)
    logsumexp = np.where(total == 0.0, -np.inf, rounded(peak[:, 0] + rounded(np.log(safe), u_a), u_a))
    count = given.outputs.shape[0]
    shares = rounded(powers[:, :count] / safe[:, None], u_a)[..., None]
    clean = np.where(np.isfinite(given.outputs), given.outputs, 0.0)
    output = running_sum((rounded(shares[:, s] * clean[s], u_a) for s in range(count)), u_a, rounded)
    return rounded(output, profile.output), logsumexp


def _beside(logsumexps: Array, sink: Array) -> Array:
    return np.concatenate([logsumexps, np.broadcast_to(sink, logsumexps.shape[1:])[None]])


def _merge_ratios(given: Slices, profile: Profile, worst: bool) -> dict[str, Array]:
    exact = merge(*given)
    found = perturbed_merge(given, profile, perturbation(np.random.default_rng(7), worst))
    bounds = merge_bound(*given, profile)
    return {
        name: largest_ratios(*each) for name, *each in zip(("output", "logsumexp"), found, exact, bounds, strict=True)
    }


def of_partial(profile: str) -> Profile:
    """The profile of an operation whose results have the dtype of the accumulation."""
    return PROFILES[profile]._replace(output=PROFILES[profile].accumulation)


@each_kind
@pytest.mark.parametrize("given", MERGES.values(), ids=MERGES)
@each_profile
def test_no_error_of_a_merge_exceeds_its_bound(profile: str, given: Slices, worst: bool) -> None:
    for settings in (PROFILES[profile], of_partial(profile)):
        largest = {name: float(ratio.max()) for name, ratio in _merge_ratios(given, settings, worst).items()}
        assert max(largest.values()) <= 1.0, largest


@pytest.mark.parametrize("given", MERGES.values(), ids=MERGES)
@each_profile
def test_the_bound_of_a_merge_is_not_vacuous(profile: str, given: Slices) -> None:
    for name, ratio in _merge_ratios(given, of_partial(profile), worst=True).items():
        assert float(ratio.max()) >= 0.05, name
        assert float(np.median(ratio[ratio > 0])) > 0.02, name


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_that_errs_more_is_noticed(name: str) -> None:
    coarse = of_partial("fp32")._replace(accumulation=1e-3, output=1e-3)
    trials = perturbed_merge(MERGES[name], coarse, perturbation(np.random.default_rng(7), worst=True))
    for found, exact, bound in zip(
        trials, merge(*MERGES[name]), merge_bound(*MERGES[name], of_partial("fp32")), strict=True
    ):
        assert float(largest_ratios(found, exact, bound).max()) > 4.0


@each_profile
def test_where_every_slice_is_empty_a_merge_is_exact(profile: str) -> None:
    for name in ("empty", "empty-sinks"):
        given = MERGES[name]
        output, logsumexp = merge_bound(*given, PROFILES[profile])
        assert (output[1, 1] == 0.0).all()
        assert (output[0] > 0.0).all()
        assert ((logsumexp[1, 1] > 0.0) == (name == "empty-sinks")).all()
        assert np.isfinite(output).all()


def test_the_bound_of_one_slice_by_hand() -> None:
    output, logsumexp = merge_bound(np.full((1, 1, 1, 1, 1), 3.0), np.full((1, 1, 1, 1), 2.0), None, of_partial("fp32"))
    u = 2.0**-24
    # All weight is on one slice: what its exponential errs by cancels. γ̃_3 |o|, (γ̃_1 + 2u + u)|o|, and underflow.
    assert output.item() == pytest.approx(3 * 3 * u + (3 + 1) * u * 3, rel=1e-6)
    # The exponential, 2|x| + 2 c_e, as if there were others; the sum, γ̃_1 + 2u; the peak and the logarithm.
    assert logsumexp.item() == pytest.approx((2 * 2 + 2 * 4) * u + 3 * u + 4 * u, rel=1e-6)


# Rotary embedding.

POSITIONS = np.array([0, 1, 2, 7, 100, 1023, 9999])
ROTARY: dict[str, dict[str, Any]] = {
    "half-split": {"pairing": "half_split"},
    "interleaved": {"pairing": "interleaved"},
    "partial": {"pairing": "half_split", "rotary_dim": 4},
    "partial-interleaved": {"pairing": "interleaved", "rotary_dim": 6},
    "base": {"pairing": "half_split", "base": 500.0},
    "long-base": {"pairing": "interleaved", "base": 5e5},
}


def perturbed_tables(
    positions: Array, size: int, base: float, profile: Profile, rounded: Rounded
) -> tuple[Array, Array]:
    """Compute cosines and sines `TRIALS` times: position, exponent, power, product and function all err."""
    u_a = profile.accumulation
    exponents = np.broadcast_to(-2.0 * np.arange(size // 2) / size, (TRIALS, size // 2))
    turns = rounded(np.exp(np.log(base) * rounded(exponents, u_a)), u_a)
    turns = turns.reshape(TRIALS, *(1,) * positions.ndim, size // 2)
    places = rounded(np.broadcast_to(positions, (TRIALS, *positions.shape)).astype(float), u_a)
    angles = rounded(places[..., None] * turns, u_a)
    error = 2 * profile.exponential * u_a
    return rounded(np.cos(angles), error), rounded(np.sin(angles), error)


def perturbed_rotary(
    inputs: Array, positions: Array, options: dict[str, Any], profile: Profile, rounded: Rounded
) -> Array:
    """Turn `TRIALS` times, tables and products as the profile stores them."""
    size = options.get("rotary_dim") or inputs.shape[-1]
    stored = profile.scores if profile.rounds_softmax else profile.accumulation
    tables = perturbed_tables(positions, size, options.get("base") or 10000.0, profile, rounded)
    cosines, sines = (rounded(table, profile.weights) for table in tables)
    results = []
    for cosine, sine in zip(cosines, sines, strict=True):
        # The two products of each component err on their own.
        straight = rotate(inputs, cosine, np.zeros_like(sine), options["pairing"])
        crossed = rotate(inputs, np.zeros_like(cosine), sine, options["pairing"])
        total = rounded(rounded(straight[..., :size], stored) + rounded(crossed[..., :size], stored), stored)
        results.append(np.concatenate([rounded(total, profile.output), inputs[..., size:]], axis=-1))
    return np.array(results)


def _rotary_ratios(name: str, positions: Array, profile: Profile, worst: bool) -> Array:
    inputs = 1.5 * np.random.default_rng(1).standard_normal((2, 3, 7, 8))
    options = ROTARY[name]
    exact = rotary_embedding(inputs, positions, **options)
    trials = perturbed_rotary(inputs, positions, options, profile, perturbation(np.random.default_rng(7), worst))
    return largest_ratios(trials, exact, rotary_bound(inputs, positions.astype(float), options, profile))


@each_kind
@pytest.mark.parametrize("positions", [POSITIONS, np.stack([POSITIONS, 3 * POSITIONS])], ids=["shared", "batch"])
@pytest.mark.parametrize("name", ROTARY)
@each_profile
def test_no_error_of_a_rotary_embedding_exceeds_its_bound(
    profile: str, name: str, positions: Array, worst: bool
) -> None:
    assert float(_rotary_ratios(name, positions, PROFILES[profile], worst).max()) <= 1.0


@pytest.mark.parametrize("name", ROTARY)
@each_profile
def test_the_bound_of_a_rotary_embedding_is_not_vacuous(profile: str, name: str) -> None:
    ratio = _rotary_ratios(name, POSITIONS, PROFILES[profile], worst=True)
    assert float(ratio.max()) >= 0.05
    assert float(np.median(ratio[ratio > 0])) > 0.02


@each_profile
def test_what_is_not_turned_is_exact(profile: str) -> None:
    inputs = np.random.default_rng(1).standard_normal((7, 8))
    bound = rotary_bound(inputs, POSITIONS.astype(float), ROTARY["partial"], PROFILES[profile])
    assert (bound[:, 4:] == 0.0).all()
    assert (bound[:, :4] > 0.0).all()


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        pytest.param({}, False, id="none"),
        pytest.param({"pairing": "interleaved"}, True, id="pairing"),
        pytest.param({"base": 9990.0}, True, id="base"),
        pytest.param({"rotary_dim": 6}, True, id="size"),
    ],
)
def test_another_turn_is_far_outside(change: dict[str, Any], is_seen: bool) -> None:
    inputs = np.random.default_rng(1).standard_normal((7, 8))
    for dtype in ("fp32", "bf16_flash", "fp16_flash"):
        bound = rotary_bound(inputs, POSITIONS.astype(float), ROTARY["half-split"], PROFILES[dtype])
        other = rotary_embedding(inputs, POSITIONS, **ROTARY["half-split"] | change)
        ratio = error_ratios(other, rotary_embedding(inputs, POSITIONS, **ROTARY["half-split"]), bound).max()
        assert (ratio > 4.0) == is_seen


# Sinusoidal positions.

SIZES = {"paper": (10, 10000.0), "short": (2, 10000.0), "base": (8, 100.0)}


@each_kind
@pytest.mark.parametrize("name", SIZES)
@each_profile
def test_no_error_of_sinusoidal_positions_exceeds_its_bound(profile: str, name: str, worst: bool) -> None:
    assert float(_sinusoidal_ratios(name, PROFILES[profile], worst).max()) <= 1.0


@pytest.mark.parametrize("name", SIZES)
@each_profile
def test_the_bound_of_sinusoidal_positions_is_not_vacuous(profile: str, name: str) -> None:
    ratio = _sinusoidal_ratios(name, PROFILES[profile], worst=True)
    assert float(ratio.max()) >= 0.05
    assert float(np.median(ratio[ratio > 0])) > 0.02


def _sinusoidal_ratios(name: str, profile: Profile, worst: bool) -> Array:
    size, base = SIZES[name]
    rounded = perturbation(np.random.default_rng(7), worst)
    cosines, sines = perturbed_tables(POSITIONS, size, base, profile, rounded)
    trials = rounded(np.stack([sines, cosines], axis=-1).reshape(TRIALS, len(POSITIONS), size), profile.output)
    exact = sinusoidal_positions(POSITIONS, size, base=base)
    bound = sinusoidal_bound(POSITIONS.astype(float), {"size": size, "base": base}, profile)
    return largest_ratios(trials, exact, bound)


def test_angle_errors_by_hand() -> None:
    u, exponential = 2.0**-24, 2 * 4 * 2.0**-24
    errors = angle_error(np.array([0.0, 3.0, 1e9]), np.array([1.0, 0.1]), PROFILES["fp32"])
    np.testing.assert_allclose(errors[0], exponential, rtol=1e-15)
    np.testing.assert_allclose(errors[1], [4 * u * 3 + exponential, (4 + np.log(10)) * u * 0.3 + exponential])
    np.testing.assert_array_equal(errors[2], 2.0)  # nothing is known of such an angle

"""How far a composed operation may be from the exact one, where no closed form says it: by Monte-Carlo arithmetic.

The reference runs a few times on arrays that round at random at a profile's precision (`noisy_arrays`), and its results
scatter as those of right implementations do (Parker 1997; on the number of runs: Sohier et al. 2021). With y the exact
result, y_r that of run r, and rms over the runs:

    σ  = rms_r(y_r − y)                                              of each element
    s² = σ² + mean(σ² of its row, the last axis) + mean(σ² of the whole result) / 4
    T  = 8 s + 2 u_o |y| + underflow

A dozen runs know σ only to a fifth, and now and then find a third of it: the row corrects that, since its elements are
computed alike. The whole result stands for other algorithms: one that takes δ = Σ G o in the place of Σ p dP errs where
the reference happens to be exact. An element that is 0 in every run is 0 by its structure (masked, padded), and its
bound is 0.

What the constants are worth is measured in tests/test_monte_carlo.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.operands import FLOATING, dtype_name

from .bounds import smallest_normal
from .near_decisions import Decisions, mean_of_row
from .noisy_arrays import Noise, plain
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]

RUNS = 12
FACTOR = 8.0
"""How many standard deviations a right result may be off."""


def monte_carlo_bounds(
    function: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    tensors: Mapping[str, Any],
    profile: Profile,
    *,
    runs: int = RUNS,
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run a function of the reference; return its exact results, and the bound of every element under a profile.

    Args:
        function: gives named results of named tensors, by NumPy operations that let subclasses through.
        tensors: NumPy arrays; the floating ones, exact as they are, become noisy.
        profile: the roundings of the implementation that is to be judged.
        runs: more than `near_decisions.LEARNING`.
        seed: of the random numbers: the same call gives the same bounds.
    """
    exact = {name: np.asarray(result, np.float64) for name, result in function(tensors).items()}
    rng = np.random.Generator(np.random.SFC64(seed))
    decisions = Decisions(runs, rng)
    noise = Noise(profile, decisions, rng)
    noisy = {
        name: noise.noisy(np.asarray(tensor)) if dtype_name(tensor.dtype) in FLOATING else tensor
        for name, tensor in tensors.items()
    }
    squares = {name: np.zeros(result.shape) for name, result in exact.items()}
    with np.errstate(all="ignore"):  # what overflows shows in the result; what underflows is in the bound
        for _ in range(runs):
            decisions.begin()
            for name, result in function(noisy).items():
                squares[name] += (plain(noise, result) - exact[name]) ** 2
        return exact, {name: _bound(exact[name], squares[name] / runs, profile) for name in exact}


def _bound(exact: Array, variance: Array, profile: Profile) -> Array:
    is_finite = np.isfinite(exact)
    size = np.abs(np.where(is_finite, exact, 0.0))
    variance = np.where(is_finite, variance, 0.0)
    whole = mean_of_row(variance.reshape(-1))[0]
    scatter = np.sqrt(variance + mean_of_row(variance) + whole / 4.0)
    underflow = (2 + size.size) * smallest_normal(profile) * (1.0 + size.max(initial=0.0))
    underflow = underflow + 2.0**-24 if profile.dtype == "float16" else underflow
    bound = FACTOR * scatter + 2.0 * profile.output * size + underflow
    return np.where((exact == 0.0) & (variance == 0.0), 0.0, np.where(np.isnan(bound), np.inf, bound))

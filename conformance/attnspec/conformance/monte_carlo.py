"""How far a composed operation may be from the exact one: its own reference, run with random roundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.operands import FLOATING, dtype_name
from attnspec.reference.attention import stages_of
from attnspec.reference.gradients import core_gradients

from .bounds import smallest_normal
from .near_decisions import Decisions
from .noisy_arrays import Noise
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]
Function: TypeAlias = Callable[[Mapping[str, Array]], Mapping[str, Array]]

RUNS = 12
FACTOR = 6.0


def deviations(
    function: Function,
    tensors: Mapping[str, Array],
    profile: Profile,
    *,
    runs: int = RUNS,
    seed: int = 0,
    kernels=(stages_of,),
) -> tuple[dict[str, Array], dict[str, Array]]:
    exact = {name: np.asarray(result, np.float64) for name, result in function(tensors).items()}
    rng = np.random.Generator(np.random.SFC64(seed))
    decisions = Decisions(runs, FACTOR, rng)
    noise = Noise(
        profile, () if profile.rounds_softmax or profile.output == profile.accumulation else kernels, decisions, rng
    )
    noisy = {n: noise.noisy(t) if dtype_name(t.dtype) in FLOATING else t for n, t in tensors.items()}
    found = {name: [] for name in exact}
    with np.errstate(all="ignore"):
        for _ in range(runs):
            decisions.begin()
            for name, result in function(noisy).items():
                found[name].append(noise.finished(result) - exact[name])
    return exact, {name: np.stack(each) for name, each in found.items()}


def monte_carlo_bounds(function, tensors, profile, *, runs=RUNS, seed=0, factor=FACTOR, kernels=(stages_of,)):
    exact, found = deviations(function, tensors, profile, runs=runs, seed=seed, kernels=kernels)
    bounds = {}
    for name, result in exact.items():
        dev = np.where(np.isfinite(result), found[name], 0.0)
        own = (dev**2).mean(axis=0)
        s2 = np.maximum(own, own.mean(axis=-1, keepdims=True)) if own.ndim and own.size else own
        y = np.where(np.isfinite(result), np.abs(result), 0)
        tiny = smallest_normal(profile) * (1 + y.max(initial=0))
        T = factor * np.sqrt(s2) + profile.output * y + tiny + (2.0**-24 if profile.dtype == "float16" else 0)
        zero = (result == 0) & (dev == 0).all(axis=0)
        bounds[name] = np.where(zero, 0.0, T)
    return exact, bounds

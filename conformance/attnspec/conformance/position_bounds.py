"""How far positions may be from the exact ones: rotary embedding and sinusoidal encoding.

An angle p θ errs by the rounding of p, of θ and of their product. θ = base^(−2c/R) is a power whose exponent is rounded
too, which costs |ln θ| roundings more. So an angle errs by (4 + |ln θ|) u_a |p θ|: with a float32 angle a position of
10 000 is known to about 0.003 radians, in every framework. Sine and cosine move by no more than their angle does, and
never by more than 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.rotary import frequencies_of
from attnspec.reference.positions import rotate

from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]


def angle_error(positions: Array, turns: Array, profile: Profile) -> Array:
    """Bound the error of sine and cosine of positions · turns, (…, T, R/2)."""
    known = np.abs(np.log(np.where(turns > 0, turns, 1.0)))
    angles = np.abs(positions[..., None] * turns)
    u_a = profile.accumulation
    return np.asarray(np.minimum((4 + known) * u_a * angles + 2 * profile.exponential * u_a, 2.0))


def rotary_bound(inputs: Array, positions: Array, options: Mapping[str, Any], profile: Profile) -> Array:
    """Bound the error of every element of a rotary embedding; what is not turned is exact."""
    size = options.get("rotary_dim") or inputs.shape[-1]
    turns = np.asarray(frequencies_of(options.get("base") or 10000.0, size), np.float64)
    angles = positions[..., None] * turns
    # Tables are stored in the inputs' dtype, as weights are before they meet the values; products where scores are.
    stored = profile.scores if profile.rounds_softmax else profile.accumulation
    error = angle_error(positions, turns, profile) + profile.weights
    magnitudes = np.where(np.isfinite(inputs), np.abs(inputs), 0.0)
    pairs = options["pairing"]
    carried = _turned(magnitudes, error, error, pairs)
    products = _turned(magnitudes, np.abs(np.cos(angles)) + error, np.abs(np.sin(angles)) + error, pairs)
    bound = carried + (3 * stored + profile.output) * products + float(np.finfo(np.float32).tiny)
    bound = bound + (2.0**-24 if profile.dtype == "float16" else 0.0)
    bound[..., size:] = 0.0
    return bound


def sinusoidal_bound(positions: Array, options: Mapping[str, Any], profile: Profile) -> Array:
    """Bound the error of every element of sinusoidal positions."""
    turns = np.asarray(frequencies_of(options.get("base") or 10000.0, options["size"]), np.float64)
    error = angle_error(positions, turns, profile)
    angles = positions[..., None] * turns
    # Twice the rounding of the result: to nearest it may use up all of u_o, and then nothing would be left to judge.
    both = np.stack([error + 2 * profile.output * np.abs(f(angles)) for f in (np.sin, np.cos)], axis=-1)
    tiny = 2.0**-24 if profile.dtype == "float16" else float(np.finfo(np.float32).tiny)
    return both.reshape(*angles.shape[:-1], options["size"]) + tiny


def _turned(magnitudes: Array, cosines: Array, sines: Array, pairing: str) -> Array:
    """|a| · cosines + |b| · sines for both components of each pair; `rotate` subtracts in the first, so sines change
    their sign there."""
    first = rotate(magnitudes, cosines, -sines, pairing)
    second = rotate(magnitudes, cosines, sines, pairing)
    return np.maximum(first, second)

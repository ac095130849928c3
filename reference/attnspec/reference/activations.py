"""The activations of a feed-forward, and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .tensors import Array


class Activation(NamedTuple):
    """A function of each component, and its derivative."""

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def activate(hidden: Array, activation: str) -> Array:
    """Apply an activation to each component; one that is not finite becomes NaN (S11)."""
    is_finite = np.isfinite(hidden)
    return np.where(is_finite, ACTIVATIONS[activation].function(np.where(is_finite, hidden, 0.0)), np.nan)


def pull_activation(hidden: Array, activation: str, cotangent: Array) -> Array:
    """Return the gradient of what was activated; a component that is not finite has none (S11)."""
    is_finite = np.isfinite(hidden)
    return np.where(is_finite, cotangent * ACTIVATIONS[activation].slope(np.where(is_finite, hidden, 0.0)), 0.0)


def relu(z: Array) -> Array:
    """max(z, 0)."""
    return np.maximum(z, 0.0)


def relu_slope(z: Array) -> Array:
    """1 for z > 0, otherwise 0."""
    return np.where(z > 0.0, 1.0, 0.0)


def gelu(z: Array) -> Array:
    """z Φ(z)."""
    return z * normal_share(z)


def gelu_slope(z: Array) -> Array:
    """Φ(z) + z φ(z), φ(z) = exp(−z²/2) / √(2π)."""
    with np.errstate(over="ignore"):  # exp(−∞) is the 0 that is meant
        density = np.exp(-(z * z) / 2.0) / math.sqrt(2.0 * math.pi)
    return normal_share(z) + z * density


def normal_share(z: Array) -> Array:
    """Φ(z), the share of the normal distribution below z."""
    # 1 + erf(z/√2) is the same number, but loses all digits for z far below 0.
    return erfc(z / -math.sqrt(2.0)) / 2.0


def erfc(z: Array) -> Array:
    """1 − erf(z) = 2/√π ∫ exp(−t²) dt from z to ∞, without cancellation."""
    values: Array = _erfc(z).astype(np.float64)
    return values


_erfc: Callable[[Array], Array] = np.frompyfunc(math.erfc, 1, 1)
"""NumPy has no error function of its own."""


def gelu_tanh(z: Array) -> Array:
    """z/2 (1 + tanh(√(2/π) (z + 0.044715 z³)))."""
    return z * tanh_share(z)


def gelu_tanh_slope(z: Array) -> Array:
    """With s = σ(2a), a = √(2/π) (z + 0.044715 z³): s + z s (1 − s) 2a'."""
    share, near = tanh_share(z), nearest(z)
    return share + z * share * (1.0 - share) * (2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 0.134145 * near * near))


def tanh_share(z: Array) -> Array:
    """(1 + tanh(a))/2 = σ(2a), a = √(2/π) (z + 0.044715 z³); the sigmoid has no cancellation for z far below 0."""
    near = nearest(z)
    return sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near))


def nearest(z: Array) -> Array:
    """Bring z between −32 and 32, beyond which σ(2a) is 0 or 1 and z³ could overflow."""
    return np.minimum(np.maximum(z, -32.0), 32.0)


def silu(z: Array) -> Array:
    """z σ(z)."""
    return z * sigmoid(z)


def silu_slope(z: Array) -> Array:
    """σ(z) + z σ(z) (1 − σ(z))."""
    share = sigmoid(z)
    return share + z * share * (1.0 - share)


def sigmoid(z: Array) -> Array:
    """σ(z) = 1 / (1 + exp(−z)), without an exponential of a positive number, which could overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0.0, 1.0, small) / (1.0 + small)


def tanh_slope(z: Array) -> Array:
    """1 − tanh²(z)."""
    height = np.tanh(z)
    return 1.0 - height * height


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(relu, relu_slope),
    "gelu": Activation(gelu, gelu_slope),
    "gelu_tanh": Activation(gelu_tanh, gelu_tanh_slope),
    "silu": Activation(silu, silu_slope),
    "tanh": Activation(np.tanh, tanh_slope),
}

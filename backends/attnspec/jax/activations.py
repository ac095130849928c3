"""The activations of a feed-forward in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def activate(hidden: Array, activation: str) -> Array:
    """Apply an activation to each component; one that is not finite becomes NaN (S11)."""
    is_finite = jnp.isfinite(hidden)
    return jnp.where(is_finite, ACTIVATIONS[activation](jnp.where(is_finite, hidden, 0.0)), jnp.nan)


def gelu(z: Array) -> Array:
    """z Φ(z)."""
    return z * normal_share(z)


def normal_share(z: Array) -> Array:
    """Φ(z), the share of the normal distribution below z."""
    # 1 + erf(z/√2) is the same number, but loses all digits for z far below 0.
    share: Array = jax.scipy.special.erfc(z / -math.sqrt(2.0)) / 2.0
    return share


def gelu_tanh(z: Array) -> Array:
    """z/2 (1 + tanh(√(2/π) (z + 0.044715 z³)))."""
    return z * tanh_share(z)


def tanh_share(z: Array) -> Array:
    """(1 + tanh(a))/2 = σ(2a), a = √(2/π) (z + 0.044715 z³); the sigmoid has no cancellation for z far below 0."""
    near = nearest(z)
    return jax.nn.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near))


def nearest(z: Array) -> Array:
    """Bring z between −32 and 32, beyond which σ(2a) is 0 or 1 and z³ could overflow."""
    return jnp.clip(z, -32.0, 32.0)


def silu(z: Array) -> Array:
    """z σ(z)."""
    return z * jax.nn.sigmoid(z)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": jnp.tanh,
}

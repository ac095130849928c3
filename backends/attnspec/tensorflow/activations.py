"""The activations of a feed-forward in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf


def activate(hidden: tf.Tensor, activation: str) -> tf.Tensor:
    """Apply an activation to each component; one that is not finite becomes NaN (S11)."""
    is_finite = tf.math.is_finite(hidden)
    return tf.where(is_finite, ACTIVATIONS[activation](tf.where(is_finite, hidden, 0.0)), math.nan)


def gelu(z: tf.Tensor) -> tf.Tensor:
    """z Φ(z)."""
    return z * normal_share(z)


def normal_share(z: tf.Tensor) -> tf.Tensor:
    """Φ(z), the share of the normal distribution below z."""
    # 1 + erf(z/√2) is the same number, but loses all digits for z far below 0.
    return tf.math.erfc(z / -math.sqrt(2.0)) / 2.0


def gelu_tanh(z: tf.Tensor) -> tf.Tensor:
    """z/2 (1 + tanh(√(2/π) (z + 0.044715 z³)))."""
    return z * tanh_share(z)


def tanh_share(z: tf.Tensor) -> tf.Tensor:
    """(1 + tanh(a))/2 = σ(2a), a = √(2/π) (z + 0.044715 z³); the sigmoid has no cancellation for z far below 0."""
    near = nearest(z)
    return tf.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near))


def nearest(z: tf.Tensor) -> tf.Tensor:
    """Bring z between −32 and 32, beyond which σ(2a) is 0 or 1 and z³ could overflow."""
    return tf.clip_by_value(z, -32.0, 32.0)


def silu(z: tf.Tensor) -> tf.Tensor:
    """z σ(z)."""
    return z * tf.sigmoid(z)


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": tf.tanh,
}

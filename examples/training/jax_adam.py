"""Adam in JAX, accurate in float32."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""The defaults of PyTorch and Optax."""


class AdamState(NamedTuple):
    """What Adam remembers."""

    steps: jax.Array
    means: optax.Updates
    """Of the gradients, decaying."""
    squares: optax.Updates
    """Of their squares."""


def adam(rate: float) -> optax.GradientTransformation:
    """Return algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    `optax.adam` is the same algorithm, but computes 1 − 0.999^t in float32 as it stands: for small t that number has
    three digits less than its dtype, the first steps are wrong in the fifth digit, and training goes another way than
    in PyTorch, which computes it in float64. In float64 both agree.
    """

    def init(parameters: optax.Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        gradients: optax.Updates, state: AdamState, parameters: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del parameters
        steps = state.steps + 1
        means = jax.tree.map(lambda m, g: FIRST_DECAY * m + (1.0 - FIRST_DECAY) * g, state.means, gradients)
        squares = jax.tree.map(
            lambda v, g: SECOND_DECAY * v + (1.0 - SECOND_DECAY) * jnp.square(g), state.squares, gradients
        )
        updates = jax.tree.map(lambda m, v: _move(rate, steps, m, v), means, squares)
        return updates, AdamState(steps, means, squares)

    return optax.GradientTransformation(init, update)


def _move(rate: float, steps: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
    """Return what is added to a parameter."""
    count = steps.astype(mean.dtype)
    corrected = mean / -jnp.expm1(count * math.log(FIRST_DECAY))  # 1 − 0.9^t
    spread = jnp.sqrt(square / -jnp.expm1(count * math.log(SECOND_DECAY)))
    return -rate * corrected / (spread + EPSILON)

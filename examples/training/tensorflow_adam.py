"""Adam in TensorFlow, as it is in its paper, in PyTorch and in Optax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""The defaults of PyTorch and Optax."""


class Adam:
    """Algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    `keras.optimizers.Adam` computes what section 2 of the paper proposes to save time: epsilon is added before the
    second moment is corrected. That is another epsilon in every step, and training goes another way.
    """

    def __init__(self, variables: Sequence[tf.Variable], rate: float) -> None:
        self.variables = variables
        self.rate = rate
        self.steps = tf.Variable(0, trainable=False)
        self.means = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
        self.squares = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]

    def update(self, gradients: Sequence[tf.Tensor]) -> None:
        """Make one step."""
        self.steps.assign_add(1)
        for variable, gradient, mean, square in zip(self.variables, gradients, self.means, self.squares, strict=True):
            mean.assign(FIRST_DECAY * mean + (1.0 - FIRST_DECAY) * gradient)
            square.assign(SECOND_DECAY * square + (1.0 - SECOND_DECAY) * tf.square(gradient))
            variable.assign_add(self._move(mean, square))

    def _move(self, mean: tf.Tensor, square: tf.Tensor) -> tf.Tensor:
        """Return what is added to a parameter."""
        count = tf.cast(self.steps, mean.dtype)
        corrected = mean / -tf.math.expm1(count * math.log(FIRST_DECAY))  # 1 − 0.9^t
        spread = tf.sqrt(square / -tf.math.expm1(count * math.log(SECOND_DECAY)))
        return -self.rate * corrected / (spread + EPSILON)

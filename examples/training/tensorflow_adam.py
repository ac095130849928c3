"""Adam in TensorFlow, as it is in its paper, in PyTorch and in Optax."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""The defaults of PyTorch and Optax."""


class Adam:
    """Algorithm 1 of Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    `keras.optimizers.Adam` computes the form that section 2 of the paper proposes to save time: its epsilon is added
    before the second moment's bias is corrected, so that it is another number at every step, and training differs from
    that of the other frameworks from the sixth digit on.
    """

    def __init__(self, variables: Sequence[tf.Variable], rate: float) -> None:
        self.variables = variables
        self.rate = rate
        self.steps = tf.Variable(0, dtype="int64", trainable=False)
        self.means = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
        self.squares = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]

    def update(self, gradients: Sequence[tf.Tensor]) -> None:
        """Make one step."""
        self.steps.assign_add(1)
        count = tf.cast(self.steps, "float64")  # 1 − 0.999 has three digits less than its dtype
        first_scale, second_scale = 1.0 / (1.0 - FIRST_DECAY**count), 1.0 / (1.0 - SECOND_DECAY**count)
        for variable, gradient, mean, square in zip(self.variables, gradients, self.means, self.squares, strict=True):
            mean.assign(FIRST_DECAY * mean + (1.0 - FIRST_DECAY) * gradient)
            square.assign(SECOND_DECAY * square + (1.0 - SECOND_DECAY) * tf.square(gradient))
            corrected = tf.cast(first_scale, mean.dtype) * mean
            spread = tf.sqrt(tf.cast(second_scale, square.dtype) * square)
            variable.assign_sub(self.rate * corrected / (spread + EPSILON))

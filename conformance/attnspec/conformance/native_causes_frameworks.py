"""Why the attentions of PyTorch, JAX, Flax and Keras deviate."""

from __future__ import annotations

from .native_cause import Cause, has_empty_row, is_named, is_narrow_float64, is_poison, says

_SDPA = ("torch.sdpa", "torch.sdpa.math", "torch.sdpa.flash")
_JAX = ("jax.nn", "flax.nnx")
_KERAS = ("keras.ops", "keras.mha")

FRAMEWORK_CAUSES: tuple[Cause, ...] = (
    Cause(
        "torch-unread",
        "S11",
        "a hidden NaN is multiplied by 0",
        (*_SDPA, "torch.flex"),
        "1: the only visible value",
        "NaN: the hidden value times a weight of 0",
        """
import torch
from torch.nn.functional import scaled_dot_product_attention

query, key = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 2)
value = torch.tensor([[[[1.0, 1.0], [torch.nan, torch.nan]]]])
mask = torch.tensor([[True, False]])
print(scaled_dot_product_attention(query, key, value, attn_mask=mask).tolist())  # [[[[nan, nan]]]]
""",
        is_poison,
        ("https://github.com/pytorch/pytorch/issues/101967",),
    ),
    Cause(
        "flex-no-keys",
        "S18",
        "no keys at all are an error",
        ("torch.flex",),
        "zeros: a row without keys is an empty row",
        "IndexError",
        """
import torch
from torch.nn.attention.flex_attention import flex_attention

nothing = torch.zeros(1, 1, 0, 2)
try:
    flex_attention(torch.zeros(1, 1, 1, 2), nothing, nothing)
except IndexError as error:
    print(error)  # max(): Expected reduction dim 3 to have non-zero size.
""",
        is_named("no-keys"),
    ),
    Cause(
        "flax-value-size",
        "S1",
        "values of another size than keys are an error, although documented",
        ("flax.nnx",),
        "an output (…, 3): `v_depth_per_head` is documented beside `qk_depth_per_head`",
        "ValueError, from the function of jax.nn that it calls",
        """
import jax.numpy as jnp
from flax import nnx

query = jnp.zeros((1, 1, 1, 4))
try:
    nnx.dot_product_attention(query, query, query[..., :3])
except ValueError as error:
    print(error)  # value shape should be [1, 1, 1, 4]: but got (1, 1, 1, 3)
""",
        says("value shape should be"),
    ),
    Cause(
        "jax-unread",
        "S11",
        "a hidden NaN is multiplied by 0",
        _JAX,
        "1: the only visible value",
        "NaN: the hidden value times a weight of 0",
        """
import jax
import jax.numpy as jnp

query, key = jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 2, 1, 1))
value = jnp.array([1.0, jnp.nan]).reshape(1, 2, 1, 1)
mask = jnp.array([True, False]).reshape(1, 1, 1, 2)
print(jax.nn.dot_product_attention(query, key, value, mask=mask).item())  # nan
""",
        is_poison,
    ),
    Cause(
        "jax-empty-row",
        "S10",
        "an empty row is the mean of all values",
        _JAX,
        "0: the row sees nothing",
        "2, the mean of the hidden values: scores are masked by a large negative number, which cancels in the softmax",
        """
import jax
import jax.numpy as jnp

query, value = jnp.zeros((1, 1, 1, 1)), jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
nothing = jnp.zeros((1, 1, 1, 2), bool)
print(jax.nn.dot_product_attention(query, value, value, mask=nothing).item())  # 2.0
""",
        lambda result: has_empty_row(result) and not is_narrow_float64(result),
    ),
    Cause(
        "jax-float64",
        "S16",
        "at float64 the softmax is computed in float32",
        _JAX,
        "5e-10: tanh of half the logit 1e-9",
        "0: in float32 the two weights are equal",
        """
import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)
query, key = jnp.ones((1, 1, 1, 1)), jnp.array([1e-9, 0.0]).reshape(1, 2, 1, 1)
value = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
print(jax.nn.dot_product_attention(query, key, value).item())  # 0.0
""",
        is_narrow_float64,
        ("https://github.com/jax-ml/jax/pull/34114",),
    ),
    Cause(
        "keras-multi-query",
        "S12",
        "one key head for several query heads is an error on TensorFlow",
        ("keras.ops",),
        "an output (1, 1, 4, 2): `K == 1` is documented as multi-query attention",
        "InvalidArgumentError: only 1 < K < N is repeated, and TensorFlow's einsum does not broadcast 1",
        """
import keras

query, key = keras.ops.zeros((1, 1, 4, 2)), keras.ops.zeros((1, 3, 1, 2))
try:
    keras.ops.dot_product_attention(query, key, key)
except Exception as error:
    print(type(error).__name__)  # InvalidArgumentError
""",
        says("Einsum"),
        ("https://github.com/keras-team/keras/pull/23081",),
    ),
    Cause(
        "keras-minus-infinity",
        "S5",
        "a bias of −∞ for a whole row is NaN",
        ("keras.ops",),
        "0: −∞ is a masked position, and the row is empty",
        "NaN",
        """
import keras

query, key = keras.ops.zeros((1, 1, 1, 1)), keras.ops.zeros((1, 2, 1, 1))
bias = keras.ops.full((1, 1, 1, 2), -float("inf"))
print(float(keras.ops.dot_product_attention(query, key, key, bias=bias)[0, 0, 0, 0]))  # nan
""",
        lambda result: "bias-minus-infinity" in result.case,
    ),
    Cause(
        "keras-unread",
        "S11",
        "a hidden NaN is multiplied by 0",
        (*_KERAS, "keras.attention"),
        "1: the only visible value",
        "NaN: the hidden value times a weight of 0",
        """
import keras

query, key = keras.ops.zeros((1, 1, 1, 1)), keras.ops.zeros((1, 2, 1, 1))
value = keras.ops.reshape([1.0, float("nan")], (1, 2, 1, 1))
mask = keras.ops.reshape([True, False], (1, 1, 1, 2))
print(float(keras.ops.dot_product_attention(query, key, value, mask=mask)[0, 0, 0, 0]))  # nan
""",
        lambda result: is_poison(result) and not is_narrow_float64(result),
    ),
    Cause(
        "keras-empty-row",
        "S10",
        "an empty row is the mean of all values",
        (*_KERAS, "keras.attention"),
        "0: the row sees nothing",
        "2, the mean of the hidden values: scores are masked by a large negative number, which cancels in the softmax",
        """
import keras

query, key = keras.ops.zeros((1, 1, 1, 1)), keras.ops.zeros((1, 2, 1, 1))
value = keras.ops.reshape([1.0, 3.0], (1, 2, 1, 1))
nothing = keras.ops.zeros((1, 1, 1, 2), "bool")
print(float(keras.ops.dot_product_attention(query, key, value, mask=nothing)[0, 0, 0, 0]))  # 2.0
""",
        lambda result: has_empty_row(result) and not is_narrow_float64(result),
    ),
    Cause(
        "keras-float64",
        "S16",
        "at float64 the scale is rounded to float32",
        _KERAS,
        "the error of float64, about 1e-17",
        "that of float32: the scale passes through float32, given or not",
        """
import math

import keras

query, key = keras.ops.ones((1, 1, 1, 3), "float64"), keras.ops.ones((1, 2, 1, 3), "float64")
key = key * keras.ops.cast(keras.ops.reshape([1.0, -1.0], (1, 2, 1, 1)), "float64")
output = keras.ops.dot_product_attention(query, key, key)
print(abs(float(output[0, 0, 0, 0]) - math.tanh(math.sqrt(3))) > 1e-10)  # True
""",
        is_narrow_float64,
    ),
)
"""In the order in which they are asked."""

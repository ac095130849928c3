"""Why native attentions deviate: each cause with its clause, a few lines that show it, and the cases that it explains.

Every failing case of `python -m attnspec.conformance.findings` must belong to one of them. The reproducers are run by
tests/test_natives.py: what stands behind a `print(…)` is what it prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .results import Result


class Cause(NamedTuple):
    """One cause."""

    id: str
    clause: str
    short: str
    """What a summary line says."""
    targets: tuple[str, ...]
    expected: str
    came: str
    reproducer: str
    covers: Callable[[Result], bool]
    upstream: tuple[str, ...] = ()
    """Issues and pull requests about it."""


def cause_of(result: Result) -> Cause | None:
    """Return the first cause that explains a failing result."""
    return next((cause for cause in CAUSES if result.target in cause.targets and cause.covers(result)), None)


def _design(result: Result) -> str:
    return result.case.removesuffix(f"-{result.dtype}")


def _is_poison(result: Result) -> bool:
    return "S11" in result.clauses and not _design(result).startswith("poison-large")


def _has_empty_row(result: Result) -> bool:
    return "S10" in result.clauses or "expected 0 ± 0" in result.message


def _is_narrow_float64(result: Result) -> bool:
    return result.dtype == "float64" and result.ratio is not None and result.ratio < 1e9


def _is_slightly_off_bfloat16(result: Result) -> bool:
    return result.dtype == "bfloat16" and result.ratio is not None and result.ratio < 100


def _says(*words: str) -> Callable[[Result], bool]:
    return lambda result: any(word in result.message for word in words)


def _named(*designs: str) -> Callable[[Result], bool]:
    return lambda result: _design(result) in designs


_SDPA = ("torch.sdpa", "torch.sdpa.math", "torch.sdpa.flash")
_JAX = ("jax.nn", "flax.nnx")
_KERAS = ("keras.ops", "keras.mha")
_ONNX = ("onnxruntime", "onnx.reference")

CAUSES: tuple[Cause, ...] = (
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
        _is_poison,
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
        _named("no-keys"),
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
        _says("value shape should be"),
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
        _is_poison,
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
        lambda result: _has_empty_row(result) and not _is_narrow_float64(result),
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
        _is_narrow_float64,
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
        _says("Einsum"),
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
        lambda result: _is_poison(result) and not _is_narrow_float64(result),
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
        lambda result: _has_empty_row(result) and not _is_narrow_float64(result),
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
        _is_narrow_float64,
    ),
    Cause(
        "onnx-no-keys",
        "S18",
        "no keys at all are an error",
        _ONNX,
        "zeros: a row without keys is an empty row",
        "ValueError; ONNX Runtime raises its own error",
        """
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,1,1] Q, float[1,1,0,1] K, float[1,1,0,1] V) => (float[1,1,1,1] Y) { Y = Attention (Q, K, V) }''')
nothing = np.zeros((1, 1, 0, 1), np.float32)
try:
    ReferenceEvaluator(model).run(None, {"Q": np.zeros((1, 1, 1, 1), np.float32), "K": nothing, "V": nothing})
except ValueError as error:
    print(error)  # zero-size array to reduction operation maximum which has no identity
""",
        _named("no-keys"),
    ),
    Cause(
        "runtime-mixed-types",
        "S6",
        "at float64 and bfloat16 a bias beside is_causal is an error",
        ("onnxruntime",),
        "an output",
        "an error: the function body, which runs for these dtypes, adds float32 to them",
        """
import numpy as np
import onnx
import onnxruntime

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (double[1,1,2,1] Q, double[1,1,2,1] K, double[1,1,2,1] V, double[2,2] mask) => (double[1,1,2,1] Y)
    { Y = Attention <is_causal = 1> (Q, K, V, mask) }''')
try:
    onnxruntime.InferenceSession(model.SerializeToString())
except Exception as error:
    print("bound to different types" in str(error))  # True
""",
        _says("bound to different types"),
        ("https://github.com/microsoft/onnxruntime/issues/27891", "https://github.com/onnx/onnx/pull/7776"),
    ),
    Cause(
        "runtime-no-queries",
        "S18",
        "no queries at all are an error",
        ("onnxruntime",),
        "an empty output",
        "an error",
        """
import numpy as np
import onnx
import onnxruntime

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,0,1] Q, float[1,1,1,1] K, float[1,1,1,1] V) => (float[1,1,0,1] Y) { Y = Attention (Q, K, V) }''')
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session, one = onnxruntime.InferenceSession(model.SerializeToString(), options), np.ones((1, 1, 1, 1), np.float32)
try:
    session.run(None, {"Q": one[:, :, :0], "K": one, "V": one})
except Exception as error:
    print("Q sequence length must be greater than 0" in str(error))  # True
""",
        _says("Q sequence length must be greater than 0"),
    ),
    Cause(
        "onnx-negative-scale",
        "S2",
        "a negative scale is NaN, or refused",
        _ONNX,
        "a factor of any sign",
        "NaN: query and key are each multiplied by its root; ONNX Runtime asks for a positive number at float32",
        """
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,1,1] Q, float[1,1,1,1] K, float[1,1,1,1] V) => (float[1,1,1,1] Y)
    { Y = Attention <scale = -1.0> (Q, K, V) }''')
one = np.ones((1, 1, 1, 1), np.float32)
with np.errstate(invalid="ignore"):
    print(ReferenceEvaluator(model).run(None, {"Q": one, "K": one, "V": one})[0].item())  # nan
""",
        lambda result: (
            _says("scale must be greater than 0")(result) or _named("scale-negative", "softcap-scale")(result)
        ),
    ),
    Cause(
        "onnx-unread",
        "S11",
        "a hidden NaN is multiplied by 0",
        _ONNX,
        "1: the only visible value",
        "NaN: the hidden value times a weight of 0",
        """
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,1,1] Q, float[1,1,2,1] K, float[1,1,2,1] V, bool[1,2] mask) => (float[1,1,1,1] Y)
    { Y = Attention (Q, K, V, mask) }''')
query, value = np.zeros((1, 1, 1, 1), np.float32), np.array([[[[1], [np.nan]]]], np.float32)
inputs = {"Q": query, "K": np.zeros((1, 1, 2, 1), np.float32), "V": value, "mask": np.array([[True, False]])}
print(ReferenceEvaluator(model).run(None, inputs)[0].item())  # nan
""",
        _is_poison,
    ),
    Cause(
        "onnx-mask-of-one-row",
        "S6",
        "is_causal beside a mask of one row takes the first row's diagonal for all",
        ("onnx.reference",),
        "[1.0, 1.5, 3.0]: the mask is broadcast, as the operator's text says",
        "the first value in every row: the number of queries is read off the mask",
        """
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,3,1] Q, float[1,1,3,1] K, float[1,1,3,1] V, bool[1,3] mask) => (float[1,1,3,1] Y)
    { Y = Attention <is_causal = 1> (Q, K, V, mask) }''')
values = np.array([1, 2, 6], np.float32).reshape(1, 1, 3, 1)
inputs = {"Q": 0 * values, "K": 0 * values, "V": values, "mask": np.full((1, 3), True)}
print(ReferenceEvaluator(model).run(None, inputs)[0].ravel().tolist())  # [1.0, 1.0, 1.0]
""",
        lambda result: (
            _named("causal-key-lengths", "real-encoder-causal")(result) and not _is_slightly_off_bfloat16(result)
        ),
    ),
    Cause(
        "onnx-mask-of-one-column",
        "S4",
        "at opset 23 a mask of one column hides all keys but the first",
        ("onnx.reference",),
        "1.5: the mask is broadcast, as the operator's text says",
        "1.0: the mask is filled up with −∞, which came with opset 24",
        """
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,1,1] Q, float[1,1,2,1] K, float[1,1,2,1] V, bool[1,1] mask) => (float[1,1,1,1] Y)
    { Y = Attention (Q, K, V, mask) }''')
query, value = np.zeros((1, 1, 1, 1), np.float32), np.array([[[[1], [2]]]], np.float32)
inputs = {"Q": query, "K": 0 * value, "V": value, "mask": np.array([[True]])}
print(ReferenceEvaluator(model).run(None, inputs)[0].item())  # 1.0
""",
        _named("query-lengths"),
    ),
    Cause(
        "onnx-bfloat16",
        "S16",
        "at bfloat16 the softmax is summed in bfloat16",
        ("onnx.reference",),
        "1: 512 equal weights of 1/512",
        "2: in bfloat16 256 + 1 is 256",
        """
import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (bfloat16[1,1,1,1] Q, bfloat16[1,1,512,1] K, bfloat16[1,1,512,1] V) => (bfloat16[1,1,1,1] Y)
    { Y = Attention (Q, K, V) }''')
query, value = np.zeros((1, 1, 1, 1), ml_dtypes.bfloat16), np.ones((1, 1, 512, 1), ml_dtypes.bfloat16)
print(float(ReferenceEvaluator(model).run(None, {"Q": query, "K": 0 * value, "V": value})[0].item()))  # 2.0
""",
        _is_slightly_off_bfloat16,
    ),
    Cause(
        "runtime-mask-shape",
        "S4",
        "masks that would have to be broadcast are refused",
        ("onnxruntime",),
        "2: a mask of one column for both keys, which the operator's text allows",
        "an error",
        """
import numpy as np
import onnx
import onnxruntime

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (float[1,1,1,1] Q, float[1,1,2,1] K, float[1,1,2,1] V, bool[1,1] mask) => (float[1,1,1,1] Y)
    { Y = Attention (Q, K, V, mask) }''')
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
value = np.array([[[[1], [3]]]], np.float32)
try:
    session.run(None, {"Q": value[:, :, :1], "K": value, "V": value, "mask": np.array([[True]])})
except Exception as error:
    print(type(error).__name__)  # Fail
""",
        _says("inconsistent q_sequence_length", "inconsistent total_sequence_length"),
    ),
    Cause(
        "runtime-float64-empty-row",
        "S10",
        "at float64 an empty row is NaN",
        ("onnxruntime",),
        "0, as at float32 and as the operator's text says",
        "NaN: the function body that runs for float64 lacks the rule",
        """
import numpy as np
import onnx
import onnxruntime

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (double[1,1,1,1] Q, double[1,1,1,1] K, double[1,1,1,1] V, bool[1,1] mask) => (double[1,1,1,1] Y)
    { Y = Attention (Q, K, V, mask) }''')
session, one = onnxruntime.InferenceSession(model.SerializeToString()), np.ones((1, 1, 1, 1))
print(session.run(None, {"Q": one, "K": one, "V": one, "mask": np.array([[False]])})[0].item())  # nan
""",
        lambda result: _has_empty_row(result) and result.dtype == "float64" and not _is_narrow_float64(result),
    ),
    Cause(
        "onnx-float64",
        "S16",
        "at float64 an explicit scale, or ONNX Runtime's default, is as exact as float32",
        _ONNX,
        "the error of float64, about 1e-17",
        "that of float32: the attribute and the square root of the scale are float32",
        """
import numpy as np
import onnx
import onnxruntime

model = onnx.parser.parse_model('''
    <ir_version: 10, opset_import: ["" : 23]>
    one (double[1,1,1,3] Q, double[1,1,2,3] K, double[1,1,2,1] V) => (double[1,1,1,1] Y) { Y = Attention (Q, K, V) }''')
session = onnxruntime.InferenceSession(model.SerializeToString())
inputs = {"Q": np.ones((1, 1, 1, 3)), "K": np.array([[[[1.0] * 3, [-1.0] * 3]]]), "V": np.array([[[[1.0], [-1.0]]]])}
print(abs(session.run(None, inputs)[0].item() - np.tanh(np.sqrt(3))) > 1e-10)  # True
""",
        _is_narrow_float64,
    ),
)
"""In the order in which they are asked."""

"""Why ONNX's operator Attention deviates, in ONNX Runtime and in the onnx package."""

from __future__ import annotations

from .native_cause import Cause, has_empty_row, is_named, is_narrow_float64, is_poison, is_slightly_off_bfloat16, says

_ONNX = ("onnxruntime", "onnx.reference")

ONNX_CAUSES: tuple[Cause, ...] = (
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
        is_named("no-keys"),
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
        says("bound to different types"),
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
        says("Q sequence length must be greater than 0"),
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
            says("scale must be greater than 0")(result) or is_named("scale-negative", "softcap-scale")(result)
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
        is_poison,
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
            is_named("causal-key-lengths", "real-encoder-causal")(result) and not is_slightly_off_bfloat16(result)
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
        is_named("query-lengths"),
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
        is_slightly_off_bfloat16,
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
        says("inconsistent q_sequence_length", "inconsistent total_sequence_length"),
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
        lambda result: has_empty_row(result) and result.dtype == "float64" and not is_narrow_float64(result),
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
        is_narrow_float64,
    ),
)
"""In the order in which they are asked."""

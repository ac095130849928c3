"""The operator Attention of ONNX as a target: in ONNX Runtime, and in the reference of the onnx package."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .calls import Call
from .native_target import Array, NativeTarget, Question, Tensors, in_four_axes
from .natives import NativeEntry
from .targets import UnsupportedCaseError

_IR_VERSION = 10
"""What ONNX Runtime reads; `helper.make_model` takes a newer one by default."""


class OnnxTarget(NativeTarget):
    """A node Attention, and something that runs it.

    The operator computes in the dtype of its inputs, by its function body: scores and weights are stored in it, and the
    softmax is computed there.
    """

    options = frozenset({"bias", "scale", "softcap"})
    keywords = ("causal_offset", "key_lengths")
    declared = {"bfloat16": "bf16_eager", "float16": "fp16_eager"}  # noqa: RUF012 - the base declares it a ClassVar

    def ask(self, call: Call, keywords: Any = None) -> Question:
        """Keep is_causal at offset 0, and nonpad_kv_seqlen where nothing is causal: it moves the diagonal."""
        if keywords is not None:
            return super().ask(call, keywords)
        question = super().ask(call, ("causal_offset",))
        if question.keywords.get("causal_offset") == 0:
            return question
        return super().ask(call, ("key_lengths",) if not question.keywords else ())

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Run a model of one node."""
        sizes, options = question.sizes, question.call.options
        inputs = {letter: _four(tensors[name], sizes) for letter, name in zip("QKV", _CORE, strict=True)}
        mask = _attn_mask(question.mask, tensors.get("bias"), inputs["Q"].dtype)
        if mask is not None:
            inputs["attn_mask"] = _four(mask, sizes)
        lengths = question.keywords.get("key_lengths")
        if lengths is not None:
            if mask is not None:  # from opset 24 on, a key axis that is too short is padded, not broadcast
                whole = (*inputs["attn_mask"].shape[:-1], int(sizes.key_length))
                inputs["attn_mask"] = np.ascontiguousarray(np.broadcast_to(inputs["attn_mask"], whole))
            inputs["nonpad_kv_seqlen"] = np.broadcast_to(lengths, sizes.batch).reshape(question.batch).astype(np.int64)
        attributes = {name: options[name] for name in ("scale", "softcap") if options.get(name) is not None}
        if "causal_offset" in question.keywords:
            attributes["is_causal"] = 1
        output = self.evaluate(_model(inputs, attributes), inputs)
        return {"output": output.reshape(*question.call.tensors["query"].shape[:-1], output.shape[-1])}

    def evaluate(self, model: Any, inputs: Mapping[str, Array]) -> Array:
        """Return Y."""
        raise NotImplementedError


class RuntimeTarget(OnnxTarget):
    """ONNX Runtime on the CPU."""

    def evaluate(self, model: Any, inputs: Mapping[str, Array]) -> Array:
        """Run the model; what has no implementation there is unsupported."""
        try:
            session = _session(model.SerializeToString())
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__:
                raise UnsupportedCaseError(f"ONNX Runtime: {_first_line(error)}") from None
            raise
        (output,) = session.run(["Y"], dict(inputs))
        return np.asarray(output)


class ReferenceTarget(OnnxTarget):
    """The NumPy reference of the onnx package."""

    def evaluate(self, model: Any, inputs: Mapping[str, Array]) -> Array:
        """Evaluate the model."""
        with np.errstate(all="ignore"):  # overflows and the like are part of the answer
            (output,) = ReferenceEvaluator(model).run(["Y"], dict(inputs))
        return np.asarray(output)


_CORE = ("query", "key", "value")
_NAMES = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")


@functools.lru_cache(maxsize=8)
def _session(model: bytes) -> Any:
    import onnxruntime  # here, because onnx.reference does without

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes to stderr what it raises anyway
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model(inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> Any:
    names = [name if name in inputs else "" for name in _NAMES]
    while not names[-1]:
        names.pop()
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    given = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in inputs.items()]
    output = helper.make_tensor_value_info("Y", kinds["Q"], None)
    node = helper.make_node("Attention", names, ["Y"], **attributes)
    opset = helper.make_opsetid("", 24 if "nonpad_kv_seqlen" in inputs else 23)
    graph = helper.make_graph([node], "attention", given, [output])
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


def _attn_mask(mask: Array | None, bias: Array | None, dtype: Any) -> Array | None:
    """Return the one mask that it takes: boolean, or floating of the inputs' dtype to be added."""
    if mask is None or bias is None:
        return mask if bias is None else bias.astype(dtype)
    return np.where(mask, bias, np.asarray(-np.inf, bias.dtype)).astype(dtype)


def _four(array: Array, sizes: Any) -> Array:
    four: Array = in_four_axes(array, sizes, np.reshape, np.broadcast_to)
    return np.ascontiguousarray(four)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


TARGETS: Mapping[str, Callable[[NativeEntry], NativeTarget]] = {
    "onnxruntime": RuntimeTarget,
    "onnx.reference": ReferenceTarget,
}

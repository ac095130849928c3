"""ONNX's operators Attention and RotaryEmbedding as attnspec computes them: nodes in, outputs by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .onnx_attention import ATTENTION_INPUTS, attention_output, matmul_output, translate_attention
from .onnx_attention import onnx_attention as onnx_attention
from .onnx_rotary import ROTARY_INPUTS
from .onnx_rotary import onnx_rotary_embedding as onnx_rotary_embedding

Array: TypeAlias = np.ndarray[Any, Any]


class OnnxNode(NamedTuple):
    """One node of ONNX with its inputs."""

    operator: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: Mapping[str, Array]
    """The arrays that are given, by their names in the operator's schema."""


class OnnxOperator(NamedTuple):
    """One operator of ONNX: its inputs and outputs in the order of its schema, and what computes it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[[Any, OnnxNode], dict[str, Callable[[], Array]]]
    """(module, node) → a function for each output, so that nothing is computed that nobody asks for."""


def compute_node(attn: Any, node: OnnxNode, outputs: Iterable[str] | None = None) -> dict[str, Array]:
    """Compute outputs of a node (all of them by default) with one of attnspec's modules."""
    operator = ONNX_OPERATORS[node.operator]
    functions = operator.compute(attn, node)
    return {name: functions[name]() for name in (operator.outputs if outputs is None else outputs)}


def _attention(attn: Any, node: OnnxNode) -> dict[str, Callable[[], Array]]:
    call = translate_attention(attn, node.inputs, node.attributes, node.opset)
    return {
        "Y": lambda: attention_output(attn, call),
        "present_key": lambda: call.present_key,
        "present_value": lambda: call.present_value,
        "qk_matmul_output": lambda: matmul_output(attn, call),
    }


def _rotary_embedding(attn: Any, node: OnnxNode) -> dict[str, Callable[[], Array]]:
    return {"Y": lambda: onnx_rotary_embedding(attn, node.inputs, node.attributes)}


ONNX_OPERATORS = {
    "Attention": OnnxOperator(ATTENTION_INPUTS, ("Y", "present_key", "present_value", "qk_matmul_output"), _attention),
    "RotaryEmbedding": OnnxOperator(ROTARY_INPUTS, ("Y",), _rotary_embedding),
}

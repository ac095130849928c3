"""Three implementations of ONNX's operators that are not ours: what each of them answers to a node.

They do not agree with each other either, so each is asked by itself: the NumPy reference of the onnx package, the
function body that defines the operator by simpler ones, and ONNX Runtime on the CPU.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .onnx_operators import ONNX_OPERATORS, OnnxNode

Array: TypeAlias = np.ndarray[Any, Any]
Answer: TypeAlias = dict[str, Array]

_IR_VERSION = 10  # what helper.make_model takes by default may be newer than what ONNX Runtime reads


class RefusalError(Exception):
    """A witness that gives no answer to a node, and the reason that it gives instead."""


def ask(witness: str, node: OnnxNode) -> Answer:
    """Return all outputs of a node from one of `WITNESSES`; raise `RefusalError` where it has no answer."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # overflows and the like are part of the answer
        try:
            return WITNESSES[witness](node)
        except Exception as error:  # whatever a witness raises is its answer
            raise RefusalError(f"{type(error).__name__}: {error}") from error


def witness_versions() -> dict[str, str]:
    """Say which versions the witnesses have."""
    onnx, runtime = (f"{name} {importlib.metadata.version(name)}" for name in ("onnx", "onnxruntime"))
    return {"reference": onnx, "function body": onnx, "ONNX Runtime": runtime}


def _reference(node: OnnxNode) -> Answer:
    return _evaluate(node, _model(node, is_expanded=False))


def _function_body(node: OnnxNode) -> Answer:
    return _evaluate(node, _model(node, is_expanded=True))


def _runtime(node: OnnxNode) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes to stderr what it raises anyway
    options.intra_op_num_threads = 1
    model = _model(node, is_expanded=False).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip(_outputs(node), session.run(None, dict(node.inputs)), strict=True))


WITNESSES: dict[str, Callable[[OnnxNode], Answer]] = {
    "reference": _reference,
    "function body": _function_body,
    "ONNX Runtime": _runtime,
}


def _evaluate(node: OnnxNode, model: Any) -> Answer:
    from onnx.reference import ReferenceEvaluator

    return dict(zip(_outputs(node), ReferenceEvaluator(model).run(None, dict(node.inputs)), strict=True))


def _outputs(node: OnnxNode) -> list[str]:
    """Name the outputs to ask for: ONNX rules out present_key and present_value beside nonpad_kv_seqlen."""
    without = ("present_key", "present_value") if "nonpad_kv_seqlen" in node.inputs else ()
    return [name for name in ONNX_OPERATORS[node.operator].outputs if name not in without]


def _model(node: OnnxNode, *, is_expanded: bool) -> Any:
    """Make a model of one node, or of its function body."""
    from onnx import TypeProto, helper
    from onnx.backend.test.case.node import function_testcase_helper

    operator, present = ONNX_OPERATORS[node.operator], _outputs(node)
    names = [name if name in node.inputs else "" for name in operator.inputs]
    while not names[-1]:
        names.pop()
    outputs = [name if name in present else "" for name in operator.outputs]
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in node.inputs.items()}
    given = [helper.make_tensor_value_info(name, kinds[name], node.inputs[name].shape) for name in node.inputs]
    main, value = operator.inputs[0], "V" if node.operator == "Attention" else operator.inputs[0]
    asked = [
        helper.make_tensor_value_info(name, kinds[value if name == "present_value" else main], None) for name in present
    ]
    imports = [helper.make_opsetid("", node.opset)]
    nodes = [helper.make_node(node.operator, names, outputs, **node.attributes)]
    if is_expanded:
        types = {info.name: info.type for info in given}
        bodies, _ = function_testcase_helper(
            nodes[0], [types.get(name, TypeProto()) for name in names], "node", imports
        )
        nodes, imports = bodies[0][0], list(bodies[0][1])
    graph = helper.make_graph(nodes, "node", given, asked)
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)

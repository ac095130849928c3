"""ONNX's own node cases for Attention and RotaryEmbedding, read from the installed onnx package.

Each is one node with inputs and expected outputs, which onnx computes with its reference, in NumPy, when its module of
cases is imported. Every case has a twin, `…_expanded`, with the same numbers and the function body in place of the
node: to an implementation of the operator it says nothing new, so it is left out.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .onnx_operators import ONNX_OPERATORS, OnnxNode

Array: TypeAlias = np.ndarray[Any, Any]


class OnnxCase(NamedTuple):
    """One node case of ONNX."""

    name: str
    node: OnnxNode
    expected: Mapping[str, Array]
    """The outputs that are compared, by their names in the operator's schema."""
    rtol: float
    atol: float
    """The tolerances that ONNX declares for the case: |actual − expected| ≤ atol + rtol |expected|."""


@functools.cache
def onnx_cases() -> tuple[OnnxCase, ...]:
    """Read the cases, in ONNX's order; a ModuleNotFoundError says that onnx is not installed."""
    return tuple(
        _case(found)
        for found in _collect()
        if "_expanded" not in found.name and {node.op_type for node in found.model.graph.node} <= {*ONNX_OPERATORS}
    )


def _collect() -> list[Any]:
    """Import the two modules of cases alone.

    The public `collect_testcases` imports those of all 200 operators: more than four seconds, and warnings of theirs.
    """
    state = np.random.get_state()  # the modules seed NumPy's global generator, which is not ours
    try:
        registry = importlib.import_module("onnx.backend.test.case.node")
        for module in ("attention", "rotaryembedding"):
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    finally:
        np.random.set_state(state)
    return list(registry._NodeTestCases)


def _case(found: Any) -> OnnxCase:
    import onnx

    (node,) = found.model.graph.node
    (opset,) = (imported.version for imported in found.model.opset_import if imported.domain in ("", "ai.onnx"))
    operator = ONNX_OPERATORS[node.op_type]
    ((inputs, outputs),) = found.data_sets
    attributes = {given.name: onnx.helper.get_attribute_value(given) for given in node.attribute}
    return OnnxCase(
        found.name,
        OnnxNode(node.op_type, opset, attributes, _by_name(node.input, operator.inputs, inputs)),
        _by_name(node.output, operator.outputs, outputs),
        found.rtol,
        found.atol,
    )


def _by_name(given: Any, names: tuple[str, ...], arrays: Any) -> dict[str, Array]:
    """Give each array its name in the schema: a node has empty names for absent ones, the data skips them."""
    present = [name for name, edge in zip(names, given, strict=False) if edge]
    return dict(zip(present, map(np.asarray, arrays), strict=True))

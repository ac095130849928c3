"""Verdicts about ONNX's nodes: attnspec against the exact outputs and ONNX's, and ONNX against the exact outputs."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .admission import largest_ratio
from .onnx_cases import OnnxCase
from .onnx_differences import AGREES, ANSWERS, DIFFERS, REFUSES, Difference
from .onnx_exact import Exact, exact_outputs
from .onnx_operators import OnnxNode, compute_node
from .onnx_witnesses import Answer, RefusalError, ask

Array: TypeAlias = np.ndarray[Any, Any]


class CaseVerdict(NamedTuple):
    """One of ONNX's cases, computed by one module: the worst of its outputs."""

    case: str
    ratio: float
    """|ours − exact| / our bound."""
    onnx_ratio: float
    """|ours − ONNX's| / (our bound + ONNX's bound)."""
    is_within_tolerance: bool
    """Whether ONNX's own rtol and atol accept the outputs: nothing is decided by that."""

    @property
    def agrees(self) -> bool:
        """Whether the outputs lie within the bound of the exact ones and within both bounds of ONNX's."""
        return self.ratio <= 1.0 and self.onnx_ratio <= 1.0


class NodeVerdict(NamedTuple):
    """One node, answered by one witness."""

    ratios: dict[str, float]
    """|theirs − exact| / ONNX's bound for each output; nothing where there is no answer."""
    refusal: str | None


def judge_case(attn: Any, case: OnnxCase) -> CaseVerdict:
    """Compute a case with one of attnspec's modules and compare."""
    exact, ours = exact_outputs(case.node), compute_node(attn, case.node, case.expected)
    ratio, onnx_ratio, is_within = 0.0, 0.0, True
    for name, theirs in case.expected.items():
        if ours[name].dtype != theirs.dtype or ours[name].shape != theirs.shape:
            return CaseVerdict(case.name, np.inf, np.inf, False)
        value, bound, onnx_bound = exact[name]
        wide = theirs.astype(np.float64)
        ratio = max(ratio, largest_ratio(ours[name], value, bound))
        onnx_ratio = max(onnx_ratio, largest_ratio(ours[name], wide, bound + onnx_bound))
        is_within = is_within and largest_ratio(ours[name], wide, _tolerance(case, wide)) <= 1.0
    return CaseVerdict(case.name, ratio, onnx_ratio, is_within)


def judge_expected(case: OnnxCase) -> tuple[float, bool]:
    """Return |ONNX's − exact| / ONNX's bound, and whether its rtol and atol accept the exact outputs, well rounded."""
    exact = exact_outputs(case.node)
    ratio, is_accepted = 0.0, True
    for name, theirs in case.expected.items():
        ratio = max(ratio, largest_ratio(theirs, exact[name].value, exact[name].onnx_bound))
        rounded, wide = exact[name].value.astype(theirs.dtype), theirs.astype(np.float64)
        is_accepted = is_accepted and largest_ratio(rounded, wide, _tolerance(case, wide)) <= 1.0
    return ratio, is_accepted


def can_decide(case: OnnxCase) -> bool:
    """Say whether both bounds of Y together stay below half the range of what it is made of: V, or X."""
    source = case.node.inputs["V" if "V" in case.node.inputs else "X"].astype(np.float64)
    exact = exact_outputs(case.node)["Y"]
    return bool((exact.bound + exact.onnx_bound).max() < np.ptp(source) / 2)


def judge_witness(witness: str, node: OnnxNode) -> NodeVerdict:
    """Ask a witness and compare its answer with the exact outputs."""
    try:
        answer = ask(witness, node)
    except RefusalError as refusal:
        return NodeVerdict({}, str(refusal))
    exact = exact_outputs(node)
    return NodeVerdict({name: _ratio(array, exact[name]) for name, array in answer.items()}, None)


def judge_difference(witness: str, difference: Difference) -> tuple[str, Array | None]:
    """Say what a witness does with the node of a difference, and give its output where there is one."""
    try:
        answer: Answer = ask(witness, difference.node)
    except RefusalError:
        return REFUSES, None
    output = answer[difference.output]
    exact = answer_of_attnspec(difference)
    if exact is None:
        return ANSWERS, output
    return (AGREES if _is_close(output, exact, difference) else DIFFERS), output


def answer_of_attnspec(difference: Difference) -> Exact | None:
    """Return the exact output of a difference, None where attnspec refuses the node."""
    try:
        return exact_outputs(difference.node)[difference.output]
    except (ValueError, TypeError):
        return None


def _is_close(output: Array, exact: Exact, difference: Difference) -> bool:
    """Compare, where the bound may be wider than everything that could come out: then half the values' range counts."""
    bound = exact.onnx_bound
    if difference.output == "Y":
        values = difference.node.inputs["V"].astype(np.float64)
        values = values[np.isfinite(values)]
        bound = np.minimum(bound, np.ptp(values) / 2 if values.size else 0.0)
    return output.shape == exact.value.shape and largest_ratio(output, exact.value, bound) <= 1.0


def _ratio(output: Array, exact: Exact) -> float:
    if output.shape != exact.value.shape:
        return float(np.inf)
    return largest_ratio(output, exact.value, exact.onnx_bound)


def _tolerance(case: OnnxCase, expected: Array) -> Array:
    return case.atol + case.rtol * np.abs(expected)

"""What an ONNX node must give: the exact outputs, and how far attnspec and ONNX's own arithmetic may be from them.

The exact outputs are those of the reference on the inputs widened to float64. No tolerance is chosen: the bounds are
those of every verdict (`bounds`), for the profile of the dtype and for a profile of ONNX's reference, which computes in
NumPy and in the dtype of its inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec import reference
from attnspec.contract.operands import dtype_name

from .onnx_attention import AttentionCall, merge_heads, translate_attention
from .onnx_operators import OnnxNode, compute_node
from .onnx_rotary import translate_rotary
from .operations import OPERATIONS
from .profiles import BF16, FP16, PROFILES, Profile, default_profile

Array: TypeAlias = np.ndarray[Any, Any]

ONNX_PROFILES = {
    "float64": PROFILES["fp64"],
    "float32": PROFILES["fp32"],
    # NumPy multiplies float16 matrices in float32, and everything else happens in float16. √scale is rounded, then both
    # products with it: four roundings of each score beside those of an eager implementation.
    "float16": PROFILES["fp16_eager"]._replace(products=2 * FP16),
    # Sums of bfloat16 are made in bfloat16, too.
    "bfloat16": PROFILES["bf16_eager"]._replace(products=2 * BF16, accumulation=BF16),
}
"""The arithmetic of ONNX's reference, for each dtype."""

_NARROW = {10: FP16, 16: BF16}
"""The unit roundoffs of FLOAT16 and BFLOAT16, which `softmax_precision` may name."""


class Exact(NamedTuple):
    """One output of a node."""

    value: Array
    """float64."""
    bound: Array
    """Largest allowed error of attnspec's backends."""
    onnx_bound: Array
    """Largest allowed error of ONNX's reference."""


def exact_outputs(node: OnnxNode) -> dict[str, Exact]:
    """Compute every output of a node exactly, with its bounds."""
    values = compute_node(reference, node._replace(inputs={k: _widen(array) for k, array in node.inputs.items()}))
    bounds = _attention_bounds if node.operator == "Attention" else _rotary_bounds
    with np.errstate(invalid="ignore"):  # where exp(bound of a logit) overflows, as it does beside a mask of −10³⁸
        pairs = bounds(node)
    return {name: Exact(values[name], *map(_or_unbounded, pair)) for name, pair in pairs.items()}


def _attention_bounds(node: OnnxNode) -> dict[str, tuple[Array, Array]]:
    call = translate_attention(reference, node.inputs, node.attributes, node.opset)
    precision = _NARROW.get(node.attributes.get("softmax_precision", 0))
    theirs = ONNX_PROFILES[dtype_name(call.dtype)]
    if precision is not None:
        theirs = theirs._replace(scores=precision, weights=precision, accumulation=precision, rounds_softmax=True)
    ours = default_profile(dtype_name(call.query.dtype))
    rounding = default_profile(dtype_name(call.dtype)).output  # where the call is wider than T1, Y is rounded to T1
    ours = ours._replace(output=max(ours.output, rounding))
    pairs = [_output_and_scores(call, profile, rounding) for profile in (ours, theirs)]
    nothing = [(np.zeros(array.shape),) * 2 for array in (call.present_key, call.present_value)]
    outputs, scores = zip(*pairs, strict=True)
    return {"Y": outputs, "present_key": nothing[0], "present_value": nothing[1], "qk_matmul_output": scores}


def _output_and_scores(call: AttentionCall, profile: Profile, rounding: float) -> tuple[Array, Array]:
    """Bound the errors of Y and of qk_matmul_output under one profile."""
    tensors = {"query": call.query, "key": call.key, "value": call.value}
    evaluate, options = OPERATIONS["dot_product_attention"].evaluate, call.options
    bound = evaluate(tensors, options, profile).bound
    if call.output_mode == 1:
        options = options | {"mask": None, "bias": None}
    evaluation = evaluate(tensors, options, profile)
    stage = ("scores", "logits", "logits", "weights")[call.output_mode]
    exact, error = getattr(evaluation.stages, stage), getattr(evaluation.stage_bounds, stage)
    half = dtype_name(call.dtype) == "float16" or profile.weights == FP16
    smallest = 2.0**-24 if half else 0.0  # the spacing of float16's subnormal numbers: two roundings
    error = error + rounding * np.abs(np.where(np.isfinite(exact), exact, 0.0)) + smallest
    return merge_heads(bound) if call.is_packed else bound, error


def _rotary_bounds(node: OnnxNode) -> dict[str, tuple[Array, Array]]:
    """Bound x₁ cos − x₂ sin: two products and a difference, then the rounding of the output.

    Σ|x||cos| is what the rotation itself gives for absolute values, where cosine and sine have the sign that adds.
    """
    *turned, pairing = translate_rotary(node.inputs, node.attributes)
    inputs, cosines, sines = (np.abs(_widen(array)) for array in turned)
    magnitude = np.maximum(
        *(np.abs(reference.rotate_pairs(inputs, cosines, sign * sines, pairing=pairing)) for sign in (1.0, -1.0))
    )
    exact = np.abs(reference.rotate_pairs(*map(_widen, turned), pairing=pairing))
    dtype = dtype_name(node.inputs["X"].dtype)
    smallest = 2.0**-24 if dtype == "float16" else float(np.finfo(np.float32).tiny)
    profile = default_profile(dtype)
    bounds = [3 * roundoff * magnitude for roundoff in (profile.accumulation, profile.output)]  # ONNX's: in the dtype
    bounds = [bound + profile.output * exact + smallest for bound in bounds]
    for bound in bounds:
        bound[..., 2 * cosines.shape[-1] :] = 0.0  # what is not turned passes unchanged
    first, second = (merge_heads(bound) if node.inputs["X"].ndim == 3 else bound for bound in bounds)
    return {"Y": (first, second)}


def _or_unbounded(bound: Array) -> Array:
    return np.where(np.isnan(bound), np.inf, bound)


def _widen(array: Array) -> Array:
    return array if array.dtype.kind in "biu" else array.astype(np.float64)

"""How far PyTorch's flash kernel on the CPU is off where it stores partial sums of a gradient in bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

from .admission import error_ratios
from .calls import DTYPES, Call
from .derivatives import evaluate_backward
from .natives import load_native
from .profiles import PROFILES

LENGTHS = (32, 33, 160, 191, 512, 700)
"""Numbers of queries: of one block and of more."""


def measure_partial_sums(lengths: tuple[int, ...] = LENGTHS, seeds: int = 8) -> dict[int, dict[str, float]]:
    """Return the largest error over bound of the gradient of `value`, for each number of queries and kernel.

    The bound is that of `bf16_flash`; the cotangents have one sign, so that partial sums grow.
    """
    targets = {kernel: load_native(f"torch.sdpa.{kernel}") for kernel in ("flash", "math")}
    largest = {length: dict.fromkeys(targets, 0.0) for length in lengths}
    for length in lengths:
        for seed in range(seeds):
            call = _call(length, np.random.default_rng(seed))
            evaluation = evaluate_backward(call.operation, call.tensors, {}, call.cotangents(), PROFILES["bf16_flash"])
            for kernel, target in targets.items():
                gradient = target.run(call, dict(call.tensors))["value"]
                ratios = error_ratios(gradient, evaluation.results["value"], evaluation.bounds["value"])
                largest[length][kernel] = max(largest[length][kernel], float(ratios.max()))
    return largest


def _call(length: int, generator: np.random.Generator) -> Call:
    bfloat16: Any = DTYPES["bfloat16"]
    shapes = {"query": (1, 2, length, 16), "key": (1, 2, 33, 16), "value": (1, 2, 33, 16)}
    tensors = {name: generator.standard_normal(shape).astype(bfloat16) for name, shape in shapes.items()}
    tensors["output_cotangent"] = np.abs(generator.standard_normal(shapes["query"])).astype(bfloat16)
    return Call(
        id=f"partial-sums-{length}",
        operation="dot_product_attention",
        dtype="bfloat16",
        options={},
        tensors=tensors,
        results=("query", "key", "value"),
        direction="backward",
    )

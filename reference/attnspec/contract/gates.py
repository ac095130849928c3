"""Gates, gated attention and its cell: which shapes fit together (clauses S26–S28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .blocks import check_dropped
from .checks import Checks
from .models import check_valid, check_vectors
from .operands import Operand, Shape, Size, show_shape
from .parameter_checks import check_leaf_shape, check_leaf_shapes

Leaves = Mapping[str, Operand]


def check_gate(inputs: Shape, given: Leaves, checks: Checks) -> None:
    """Check (*B,T,D) against `LinearParameters`."""
    check_vectors("inputs", inputs)
    check_leaf_shapes(given, {"weight": "D C", "bias": "C"}, {"D": inputs[-1]}, checks)


def check_gated_input(inputs: Shape, given: Leaves, checks: Checks) -> None:
    """Check (*B,T,D) against `LinearParameters` with as many outputs as inputs: one gate for each component."""
    check_vectors("inputs", inputs)
    check_leaf_shapes(given, {"weight": "D D", "bias": "D"}, {"D": inputs[-1]}, checks)


def check_gated_attention(inputs: Shape, given: Leaves, checks: Checks) -> None:
    """Check (*B,T,D) against `GatedAttentionParameters`."""
    check_vectors("inputs", inputs)
    letters = {
        "input_weight": "D n",
        "input_bias": "n",
        "unit_weight": "K n d",
        "unit_bias": "K n d",
        "score_weight": "d",
        "output_bias": "n",
    }
    sizes = check_leaf_shapes(given, letters, {"D": inputs[-1]}, checks)
    _check_at_least_one(sizes["K"], "unit_weight", given, "head (axis 0)", checks)
    _check_at_least_one(sizes["d"], "unit_weight", given, "column (axis -1): scores are divided by √d", checks)


def check_cell(inputs: Shape, state: Leaves, given: Leaves, valid: Any, dropout: Any, checks: Checks) -> Any:
    """Check (*B,T,D) against `CellState`, `GatedAttentionCellParameters`, valid and dropout; return valid."""
    check_vectors("inputs", inputs)
    *batch, length, size = inputs
    for path, leaf in state.items():
        axes = ["B" if len(batch) == 1 else f"B{i}" for i in range(len(batch))]
        check_leaf_shape(path, leaf.shape, [*zip(axes, batch, strict=True), ("D", size)], checks, "state")
    sizes = check_leaf_shapes(given, {"gate_weight": "K D n"}, {"D": size}, checks)
    _check_at_least_one(sizes["K"], "gate_weight", given, "head (axis 0)", checks)
    checks.equal(
        sizes["K"] * sizes["n"],
        size,
        lambda: (
            f"`gate_weight` of `parameters` must have shape (K, D, n) with K · n = D, K heads of equal size; "
            f"got shapes inputs {show_shape(inputs)} and gate_weight {show_shape(given['gate_weight'].shape)}"
        ),
    )
    letters = {
        "gate_bias": "K n",
        "input_score_weight": "D d",
        "mean_score_weight": "D d",
        "output_score_weight": "D d",
        "unit_bias": "n d",
        "score_weight": "d",
        "update_weight": "D D",
        "recurrent_weight": "D D",
        "update_bias": "D",
        "control_weight": "D K",
        "control_recurrent_weight": "D K",
        "control_bias": "K",
        "output_gate_bias": "D",
        "output_weight": "D C",
        "output_bias": "C",
    }
    sizes = check_leaf_shapes(given, letters, sizes, checks)
    _check_at_least_one(sizes["d"], "input_score_weight", given, "column (axis -1): scores are divided by √d", checks)
    if valid is not None:
        valid = check_valid(valid, (*batch, length), checks)
    if dropout is not None:
        check_dropped("dropout", dropout, (*batch, length, sizes["n"]), checks)
    return valid


def _check_at_least_one(size: Size, path: str, given: Leaves, what: str, checks: Checks) -> None:
    checks.at_most(
        1,
        size,
        lambda: f"`{path}` of `parameters` must have at least 1 {what}; got shape {show_shape(given[path].shape)}",
    )

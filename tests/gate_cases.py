"""What the tests of gates share: parameters, and one problem for each operation."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from frameworks import name_of
from native_tensors import Array, to_native, to_numpy

from attnspec.contract import (
    CellState,
    Dropout,
    GatedAttentionCellParameters,
    GatedAttentionParameters,
    LinearParameters,
)
from attnspec.contract.states import leaves, map_leaves, rebuild

SIZE, HEADS, UNITS, DEPTH, OUTPUTS = 6, 3, 2, 5, 1
"""Of the cell: D = K·n, K, n, d and C."""

CELL_SHAPES = {
    "gate_weight": (HEADS, SIZE, UNITS),
    "gate_bias": (HEADS, UNITS),
    "input_score_weight": (SIZE, DEPTH),
    "mean_score_weight": (SIZE, DEPTH),
    "output_score_weight": (SIZE, DEPTH),
    "unit_bias": (UNITS, DEPTH),
    "score_weight": (DEPTH,),
    "update_weight": (SIZE, SIZE),
    "recurrent_weight": (SIZE, SIZE),
    "update_bias": (SIZE,),
    "control_weight": (SIZE, HEADS),
    "control_recurrent_weight": (SIZE, HEADS),
    "control_bias": (HEADS,),
    "output_gate_bias": (SIZE,),
    "output_weight": (SIZE, OUTPUTS),
    "output_bias": (OUTPUTS,),
}


def draw(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def draw_parameters(cls: Any, shapes: dict[str, tuple[int, ...]], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return cls(**{name: rng.standard_normal(shape) for name, shape in shapes.items()})


CELL_PARAMETERS = draw_parameters(GatedAttentionCellParameters, CELL_SHAPES, 3)

UNIT_PARAMETERS = draw_parameters(
    GatedAttentionParameters,
    {
        "input_weight": (5, 2),
        "input_bias": (2,),
        "unit_weight": (3, 2, 7),
        "unit_bias": (3, 2, 7),
        "score_weight": (7,),
        "output_bias": (2,),
    },
    5,
)

BY_POSITION: dict[str, tuple[Array, Any]] = {
    "attention_gate": (draw((2, 3, 5), 7), draw_parameters(LinearParameters, {"weight": (5, 7), "bias": (7,)}, 11)),
    "gated_input": (draw((2, 3, 5), 13), draw_parameters(LinearParameters, {"weight": (5, 5)}, 17)),
    "gated_attention": (draw((2, 3, 5), 19), UNIT_PARAMETERS),
}
"""Inputs (2, 3, 5) and parameters of the operations that look at one position at a time."""

VALID = np.array([[True, True, False, True, False], [False] * 5, [False, True, True, True, True]])
"""Padding at the end and inside, and an element that is nothing else; T = 5."""

KEEP = (np.array([[[True], [True], [False], [False], [True]]]) | (np.arange(UNITS) == 0)).copy()
DROPOUT = Dropout(0.25, KEEP)
"""Keep (1, 5, n): some entries by position and unit, the same for every element of the batch."""


def draw_cell(seed: int = 23, length: int = 5) -> tuple[Array, CellState]:
    """Draw inputs (3, length, D) and a state."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((3, length, SIZE))
    return inputs, CellState(rng.standard_normal((3, SIZE)), rng.uniform(size=(3, SIZE)))


def native(attn: ModuleType, tree: Any) -> Any:
    """Turn the arrays of a tree into tensors of a module's framework."""
    return map_leaves(lambda array: to_native(name_of(attn), array), tree)


def run(attn: ModuleType, operation: str, *trees: Any, **options: Any) -> dict[str, Array]:
    """Call an operation with native tensors; its results as NumPy arrays, by path ("" where it is one)."""
    result = getattr(attn, operation)(*native(attn, trees), **options)
    return {path: to_numpy(tensor) for path, tensor in leaves(result).items()}


def of_leaves(function: Callable[..., Any], trees: tuple[Any, ...]) -> Callable[..., Any]:
    """Turn a function of trees into one of keywords, a leaf each by its path: what `gradients` takes."""
    return lambda **tensors: function(*rebuild(trees, tensors))

"""Gates, gated attention, and the recurrent cell made of both: the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.checks import Checks
from attnspec.contract.gates import Leaves, check_cell, check_gate, check_gated_attention, check_gated_input
from attnspec.contract.layer_parameters import GatedAttentionCellParameters, GatedAttentionParameters, LinearParameters
from attnspec.contract.layer_results import CellResult, CellStages, CellState
from attnspec.contract.operands import Shape
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.states import map_leaves, rebuild

from .activations import sigmoid
from .attention import is_finite_row, widen
from .blocks import drop
from .projections import merge_heads, project, split_heads
from .tensors import Array, as_tensors, describe, mask_tensor, new_checks


class Cell(NamedTuple):
    """One call of a gated attention cell whose arguments are checked."""

    inputs: Array
    """(*B, T, D)."""
    memory: Array
    """(*B, D), as is `output`."""
    output: Array
    parameters: GatedAttentionCellParameters
    valid: Array
    """(*B, T)."""
    dropout: Any


def attention_gate(inputs: Any, parameters: LinearParameters) -> Array:
    """Compute σ(x W + b), a number between 0 and 1 for each output; σ(z) = 1 / (1 + exp(−z)).

    Args:
        inputs: x, (*B, T, D).
        parameters: `LinearParameters`: weight W, (D, C), and bias b, (C,) or None.

    Returns:
        (*B, T, C), float64.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: dtypes that differ or are not floating, parameters of another class, a tensor of a framework.

    A component that is not finite makes its position NaN, and no other.
    """
    inputs, parameters = prepare(inputs, parameters, LinearParameters, check_gate)
    return gate_of(inputs, parameters)


def gated_input(inputs: Any, parameters: LinearParameters) -> Array:
    """Compute σ(x W + b) ⊙ x: every component of a position, times a gate of its own.

    Args:
        inputs: x, (*B, T, D).
        parameters: `LinearParameters`: weight W, (D, D), and bias b, (D,) or None.

    Returns:
        (*B, T, D), float64.

    Raises:
        ValueError, TypeError: as for `attention_gate`.

    A component that is not finite makes its position NaN, and no other.
    """
    inputs, parameters = prepare(inputs, parameters, LinearParameters, check_gated_input)
    return apply_gate(inputs, parameters)


def gated_attention(inputs: Any, parameters: GatedAttentionParameters) -> Array:
    """Let K heads distribute weight over the units of a hidden layer: σ(Σ_k α^k ⊙ (softmax(H) + b_r)).

    Every position is on its own. With H = σ(x W_xh + b_h) its n hidden units, for head k and unit j:

        e^k_j = q · tanh(H W^k + θ^k_j) / √d,   α^k = softmax_j(e^k),   output_j = σ(Σ_k α^k_j (softmax_j(H)_j + b_r,j))

    Args:
        inputs: x, (*B, T, D).
        parameters: `GatedAttentionParameters`: W_xh, b_h, W, θ, q, b_r, in this order, with the shapes written there.

    Returns:
        (*B, T, n), float64.

    Raises:
        ValueError, TypeError: as for `attention_gate`; no head, or d = 0.

    A component that is not finite makes its position NaN, and no other. The argument of the tanh is one number for each
    position, head, unit and component: B·T·K·n·d of them are held at once.

    Source: tutorial 002, §3.1 (docs/tutorial_systems.md); the score is that of Bahdanau et al. 2015, A.1.2.
    """
    inputs, parameters = prepare(inputs, parameters, GatedAttentionParameters, check_gated_attention)
    return attend_to_units(inputs, parameters)


def gated_attention_cell(
    inputs: Any, state: CellState, parameters: GatedAttentionCellParameters, *, valid: Any = None, dropout: Any = None
) -> CellResult:
    """Read a sequence by gated heads into a memory and an output: one step of a recurrent cell.

    With m and y the state, x̄ the mean over the valid positions i, heads k = 0 … K − 1 of n = D/K units j, and x_i^k the
    components k·n … (k+1)·n − 1 of x_i:

        P^k_i = σ(x_i W_g^k + b_g^k) ⊙ x_i^k                                          pool
        F_ij  = softmax_i(q · tanh(x_i W_x + x̄ W_m + y W_y + θ_j) / √d)               distribution, over valid positions
        π_ik  = σ(x_i W_s + y W_sy + b_s)_k                                           control
        r     = concat_k Σ_i F_ij P^k_ij                                              reading
        u     = tanh(r W_u + y W_h + b_u)                                             update
        m'    = m + concat_k Σ_i π_ik F_ij P^k_ij
        v     = m' + r                                                                content
        y'    = σ(c_o + u ⊙ v)
        outputs = y' W_o + b_o

    Dropout puts F_ij · keep_ij / (1 − rate) in the place of F_ij in r and m'.

    Args:
        inputs: x, (*B, T, D). T may be another at every call, also 0.
        state: `CellState`: memory m and output y, each (*B, D), zeros at first. It is not changed.
        parameters: `GatedAttentionCellParameters`, with the shapes written there; K, the length of `gate_weight`,
            divides D.
        valid: boolean, (*B, T), True = a real position; None: all are.
        dropout: `Dropout(rate, keep=array)`, the array boolean and (*B, T, n), each axis full or 1.

    Returns:
        `CellResult(outputs, state)`: outputs (*B, C) and the `CellState` (m', y'), float64.

    Raises:
        ValueError, TypeError: as for `attention_gate`; a number of heads that does not divide D, d = 0; a state, valid
            or keep array of another shape; a state that is not a `CellState`.

    Positions that are not valid have no influence, not even as NaN or Inf. Without a valid position F = 0 and x̄ = 0, so
    that r = 0 and m' = m. A component that is not finite, in the state or in a valid position, makes the results of its
    element of the batch NaN, and no others. The order of the positions does not matter: add positions to the inputs
    where it should. The memory adds up: after t steps from zero, |m| ≤ t · max|x|.

    Source: tutorial 002, §2–3, made precise: docs/tutorial_systems.md says what the text leaves open.
    """
    stages = gated_attention_cell_stages(inputs, state, parameters, valid=valid, dropout=dropout)
    return CellResult(stages.outputs, stages.state)


def gated_attention_cell_stages(
    inputs: Any, state: CellState, parameters: GatedAttentionCellParameters, *, valid: Any = None, dropout: Any = None
) -> CellStages:
    """Compute `gated_attention_cell` and return every stage on the way.

    Args: as for `gated_attention_cell`.

    Returns:
        `CellStages(pool, distribution, control, reading, update, content, outputs, state)`, all float64, with the
        shapes written there. The distribution is that before dropout. Pool, distribution and control are 0 at positions
        that are not valid; an element of the batch that reads a number that is not finite is NaN in every stage.
    """
    return compute_stages(prepare_cell(inputs, state, parameters, valid, dropout))


def prepare(
    inputs: Any, parameters: Any, cls: type, check_shapes: Callable[[Shape, Leaves, Checks], None]
) -> tuple[Array, Any]:
    """Check the arguments of an operation on single positions; return them as arrays."""
    given = check_tree("parameters", parameters, cls)
    inputs, *arrays = as_tensors(inputs=inputs, **name_leaves(given))
    described = {path: describe(array) for path, array in zip(given, arrays, strict=True)}
    check_leaf_dtypes({"inputs": describe(inputs)}, described)
    check_shapes(describe(inputs).shape, described, new_checks())
    return inputs, rebuild(parameters, dict(zip(given, arrays, strict=True)))


def prepare_cell(inputs: Any, state: Any, parameters: Any, valid: Any, dropout: Any) -> Cell:
    """Check the arguments of a cell."""
    given_state = check_tree("state", state, CellState)
    given = check_tree("parameters", parameters, GatedAttentionCellParameters)
    inputs, memory, output, *arrays = as_tensors(
        inputs=inputs, **name_leaves(given_state, "state"), **name_leaves(given)
    )
    operands = {"inputs": describe(inputs)}
    described_state = {"memory": describe(memory), "output": describe(output)}
    described = {path: describe(array) for path, array in zip(given, arrays, strict=True)}
    check_leaf_dtypes(operands, described_state, "state")
    check_leaf_dtypes(operands, described)
    valid = check_cell(inputs.shape, described_state, described, valid, dropout, new_checks())
    valid = np.ones(inputs.shape[:-1], bool) if valid is None else mask_tensor(valid)
    parameters = rebuild(parameters, dict(zip(given, arrays, strict=True)))
    return Cell(inputs, memory, output, parameters, valid, dropout)


def gate_of(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute the formula of `attention_gate` itself."""
    return sigmoid(project(inputs, parameters.weight, parameters.bias))


def apply_gate(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute the formula of `gated_input` itself."""
    clean, is_clean = clean_rows(inputs)
    return np.where(is_clean, gate_of(clean, parameters) * clean, np.nan)


def attend_to_units(inputs: Array, parameters: GatedAttentionParameters) -> Array:
    """Compute the formula of `gated_attention` itself, (*B, T, D) → (*B, T, n)."""
    parameters = map_leaves(widen, parameters)
    clean, is_clean = clean_rows(inputs)
    units = sigmoid(project(clean, parameters.input_weight, parameters.input_bias))
    rows = project(units[..., None, :, :], parameters.unit_weight, None)  # (*B, K, T, d)
    scores = scores_of(hidden_of(rows, parameters.unit_bias[:, None, :, :]), parameters.score_weight)
    total = softmax(scores, axis=-1).sum(axis=-3)
    outputs = sigmoid(total * (softmax(units, axis=-1) + parameters.output_bias))
    return np.where(is_clean, outputs, np.nan)


def hidden_of(rows: Array, unit_bias: Array) -> Array:
    """Compute tanh(row_i + θ_j): rows (…, T, d) and θ (…, n, d) → (…, T, n, d)."""
    hidden: Array = np.tanh(rows[..., :, None, :] + unit_bias)
    return hidden


def scores_of(hidden: Array, score_weight: Array) -> Array:
    """Compute q · hidden / √d: (…, T, n, d) → (…, T, n)."""
    scores: Array = hidden @ score_weight / math.sqrt(score_weight.shape[-1])
    return scores


def compute_stages(cell: Cell) -> CellStages:
    """Compute the stages of a cell; those of an element of the batch that is not clean are NaN."""
    cell, is_clean = clean_cell(cell)
    stages = stages_of(cell)

    def poisoned(stage: Array) -> Array:
        return np.where(is_clean.reshape(is_clean.shape + (1,) * (stage.ndim - is_clean.ndim)), stage, np.nan)

    pool, distribution, control, *rows = map_leaves(poisoned, stages)
    return CellStages(pool, distribution, control, *map_leaves(lambda row: row[..., 0, :], tuple(rows)))


def stages_of(cell: Cell) -> CellStages:
    """Compute the formula of the cell itself, stage by stage, from one that is clean.

    Reading, update, content, outputs and state have an axis for positions, (*B, 1, …), as memory and output do.
    """
    inputs, memory, output, parameters, valid, dropout = cell

    # Heads and pool: (*B, K, T, n).
    pool = gates_of(inputs, parameters) * split_heads(inputs, parameters.gate_weight.shape[0])

    # The distribution over positions, (*B, T, n), one for all heads; 0 where there is no valid position.
    rows = rows_of(inputs, mean_of(inputs, valid), output, parameters)
    scores = scores_of(hidden_of(rows, parameters.unit_bias), parameters.score_weight)
    distribution = softmax(np.where(valid[..., None], scores, -np.inf), axis=-2)
    used = drop(distribution, dropout)

    # The update: what this call reads, (*B, 1, D).
    parts = used[..., None, :, :] * pool
    reading = merge_heads(parts.sum(axis=-2, keepdims=True))
    update = np.tanh(
        project(reading, parameters.update_weight, parameters.update_bias)
        + project(output, parameters.recurrent_weight, None)
    )

    # The control gate, (*B, T, K): how much of each position and head stays in memory.
    control = np.where(valid[..., None], control_of(inputs, output, parameters), 0.0)
    new_memory = memory + merge_heads((control.mT[..., None] * parts).sum(axis=-2, keepdims=True))
    content = new_memory + reading

    # The output.
    new_output = sigmoid(parameters.output_gate_bias + update * content)
    outputs = project(new_output, parameters.output_weight, parameters.output_bias)
    state = CellState(new_memory, new_output)
    return CellStages(pool, distribution, control, reading, update, content, outputs, state)


def gates_of(inputs: Array, parameters: GatedAttentionCellParameters) -> Array:
    """Compute σ(x W_g^k + b_g^k): (*B, T, D) → (*B, K, T, n)."""
    return sigmoid(project(inputs[..., None, :, :], parameters.gate_weight, parameters.gate_bias[:, None, :]))


def mean_of(inputs: Array, valid: Array) -> Array:
    """Average over the valid positions, the others being 0: (*B, T, D) → (*B, 1, D); 0 where there is none."""
    count = np.maximum(valid.sum(axis=-1), 1)
    mean: Array = inputs.sum(axis=-2, keepdims=True) / count[..., None, None]
    return mean


def rows_of(inputs: Array, mean: Array, output: Array, parameters: GatedAttentionCellParameters) -> Array:
    """Compute x_i W_x + x̄ W_m + y W_y: (*B, T, d)."""
    rows: Array = (
        project(inputs, parameters.input_score_weight, None)
        + project(mean, parameters.mean_score_weight, None)
        + project(output, parameters.output_score_weight, None)
    )
    return rows


def control_of(inputs: Array, output: Array, parameters: GatedAttentionCellParameters) -> Array:
    """Compute σ(x_i W_s + y W_sy + b_s): (*B, T, K)."""
    from_inputs = project(inputs, parameters.control_weight, parameters.control_bias)
    return sigmoid(from_inputs + project(output, parameters.control_recurrent_weight, None))


def clean_cell(cell: Cell) -> tuple[Cell, Array]:
    """Widen a cell and put 0 into what it does not read; say which elements of the batch are clean, (*B,).

    Memory and output get an axis for positions: (*B, 1, D). Every valid position of an element meets its state, so it
    is clean, all that it reads finite, as a whole or not at all. One that is not is 0 throughout.
    """
    inputs, memory, output, parameters, valid, dropout = cell
    inputs, memory, output = widen(inputs), widen(memory)[..., None, :], widen(output)[..., None, :]
    has_clean_state = is_finite_row(memory)[..., 0] & is_finite_row(output)[..., 0]
    is_clean = has_clean_state & (is_finite_row(inputs) | ~valid).all(axis=-1)
    inputs = np.where((valid & is_clean[..., None])[..., None], inputs, 0.0)
    memory = np.where(is_clean[..., None, None], memory, 0.0)
    output = np.where(is_clean[..., None, None], output, 0.0)
    return Cell(inputs, memory, output, map_leaves(widen, parameters), valid, dropout), is_clean


def clean_rows(inputs: Array) -> tuple[Array, Array]:
    """Widen inputs and put 0 into positions that are not clean, all components finite; say which are, (*B, T, 1)."""
    inputs = widen(inputs)
    is_clean = is_finite_row(inputs)[..., None]
    return np.where(is_clean, inputs, 0.0), is_clean


def softmax(logits: Array, axis: int) -> Array:
    """Compute exp(z) / Σ exp(z), shifted by the largest; 0 where all are −∞."""
    peak = logits.max(axis=axis, keepdims=True, initial=-np.inf)
    peak = np.where(peak != -np.inf, peak, 0.0)
    with np.errstate(invalid="ignore"):  # a logit of +∞ makes all NaN: ∞ − ∞
        exponentials = np.exp(logits - peak)
        total = exponentials.sum(axis=axis, keepdims=True)
    weights: Array = exponentials / np.where(total != 0.0, total, 1.0)
    return weights

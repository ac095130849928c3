"""Gates, gated attention, and the recurrent cell made of both, in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.checks import Checks
from attnspec.contract.gates import Leaves, check_cell, check_gate, check_gated_attention, check_gated_input
from attnspec.contract.layer_parameters import GatedAttentionCellParameters, GatedAttentionParameters, LinearParameters
from attnspec.contract.layer_results import CellResult, CellStages, CellState
from attnspec.contract.operands import Shape
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.states import map_leaves, rebuild

from .attention import is_finite_row, matmul, widen
from .blocks import drop
from .projections import merge_heads, project, split_heads
from .tensors import as_tensors, describe, mask_tensor, new_checks


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

    Arguments, shapes and errors: `attnspec.reference.attention_gate`.

    Differences: as for `self_attention`.
    """
    inputs, parameters, dtype = prepare(inputs, parameters, LinearParameters, check_gate)
    gate: Array = gate_of(inputs, parameters)
    return gate.astype(dtype)


def gated_input(inputs: Any, parameters: LinearParameters) -> Array:
    """Compute σ(x W + b) ⊙ x: every component of a position, times a gate of its own.

    Arguments, shapes and errors: `attnspec.reference.gated_input`.

    Differences: as for `self_attention`.
    """
    inputs, parameters, dtype = prepare(inputs, parameters, LinearParameters, check_gated_input)
    gated: Array = apply_gate(inputs, parameters)
    return gated.astype(dtype)


def gated_attention(inputs: Any, parameters: GatedAttentionParameters) -> Array:
    """Let K heads distribute weight over the units of a hidden layer: σ(Σ_k α^k ⊙ (softmax(H) + b_r)).

    Arguments, shapes and errors: `attnspec.reference.gated_attention`.

    Differences: as for `self_attention`; nothing is rounded in between.
    """
    inputs, parameters, dtype = prepare(inputs, parameters, GatedAttentionParameters, check_gated_attention)
    outputs: Array = attend_to_units(inputs, parameters)
    return outputs.astype(dtype)


def gated_attention_cell(
    inputs: Any, state: CellState, parameters: GatedAttentionCellParameters, *, valid: Any = None, dropout: Any = None
) -> CellResult:
    """Read a sequence by gated heads into a memory and an output: one step of a recurrent cell.

    Arguments, shapes and errors: `attnspec.reference.gated_attention_cell`.

    Differences: as for `gated_attention`; outputs and state have the inputs' dtype.
    """
    stages = gated_attention_cell_stages(inputs, state, parameters, valid=valid, dropout=dropout)
    return CellResult(stages.outputs, stages.state)


def gated_attention_cell_stages(
    inputs: Any, state: CellState, parameters: GatedAttentionCellParameters, *, valid: Any = None, dropout: Any = None
) -> CellStages:
    """Compute `gated_attention_cell` and return every stage on the way.

    Arguments, shapes and errors: `attnspec.reference.gated_attention_cell_stages`.

    Differences: the stages are at least float32, outputs and state have the inputs' dtype.
    """
    cell, dtype = prepare_cell(inputs, state, parameters, valid, dropout)
    stages: CellStages = compute_stages(cell)
    state = CellState(stages.state.memory.astype(dtype), stages.state.output.astype(dtype))
    return stages._replace(outputs=stages.outputs.astype(dtype), state=state)


def prepare(
    inputs: Any, parameters: Any, cls: type, check_shapes: Callable[[Shape, Leaves, Checks], None]
) -> tuple[Array, Any, jnp.dtype]:
    """Check the arguments of an operation on single positions; return them as arrays, and the inputs' dtype."""
    given = check_tree("parameters", parameters, cls)
    inputs, *arrays = as_tensors(inputs=inputs, **name_leaves(given))
    described = {path: describe(array) for path, array in zip(given, arrays, strict=True)}
    check_leaf_dtypes({"inputs": describe(inputs)}, described)
    check_shapes(describe(inputs).shape, described, new_checks(inputs))
    return inputs, rebuild(parameters, dict(zip(given, arrays, strict=True))), inputs.dtype


def prepare_cell(inputs: Any, state: Any, parameters: Any, valid: Any, dropout: Any) -> tuple[Cell, jnp.dtype]:
    """Check the arguments of a cell; return the inputs' dtype too."""
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
    valid = check_cell(inputs.shape, described_state, described, valid, dropout, new_checks(inputs))
    valid = jnp.ones(inputs.shape[:-1], bool) if valid is None else mask_tensor(valid)
    parameters = rebuild(parameters, dict(zip(given, arrays, strict=True)))
    return Cell(inputs, memory, output, parameters, valid, dropout), inputs.dtype


@jax.jit  # one compilation for each shape, as are the three formulas below
def gate_of(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute the formula of `attention_gate` itself."""
    return jax.nn.sigmoid(project(inputs, parameters.weight, parameters.bias))


@jax.jit
def apply_gate(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute the formula of `gated_input` itself."""
    clean, is_clean = clean_rows(inputs)
    return jnp.where(is_clean, gate_of(clean, parameters) * clean, jnp.nan)


@jax.jit
def attend_to_units(inputs: Array, parameters: GatedAttentionParameters) -> Array:
    """Compute the formula of `gated_attention` itself, (*B, T, D) → (*B, T, n)."""
    parameters = map_leaves(widen, parameters)
    clean, is_clean = clean_rows(inputs)
    units = jax.nn.sigmoid(project(clean, parameters.input_weight, parameters.input_bias))
    rows = project(units[..., None, :, :], parameters.unit_weight, None)  # (*B, K, T, d)
    scores = scores_of(hidden_of(rows, parameters.unit_bias[:, None, :, :]), parameters.score_weight)
    total = softmax(scores, axis=-1).sum(axis=-3)
    outputs = jax.nn.sigmoid(total * (softmax(units, axis=-1) + parameters.output_bias))
    return jnp.where(is_clean, outputs, jnp.nan)


def hidden_of(rows: Array, unit_bias: Array) -> Array:
    """Compute tanh(row_i + θ_j): rows (…, T, d) and θ (…, n, d) → (…, T, n, d)."""
    hidden: Array = jnp.tanh(rows[..., :, None, :] + unit_bias)
    return hidden


def scores_of(hidden: Array, score_weight: Array) -> Array:
    """Compute q · hidden / √d: (…, T, n, d) → (…, T, n)."""
    scores: Array = matmul(hidden, score_weight) / math.sqrt(score_weight.shape[-1])
    return scores


@jax.jit
def compute_stages(cell: Cell) -> CellStages:
    """Compute the stages of a cell; those of an element of the batch that is not clean are NaN."""
    cell, is_clean = clean_cell(cell)
    stages = stages_of(cell)

    def poisoned(stage: Array) -> Array:
        return jnp.where(is_clean.reshape(is_clean.shape + (1,) * (stage.ndim - is_clean.ndim)), stage, jnp.nan)

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
    distribution = softmax(jnp.where(valid[..., None], scores, -jnp.inf), axis=-2)
    used = drop(distribution, dropout)

    # The update: what this call reads, (*B, 1, D).
    parts = used[..., None, :, :] * pool
    reading = merge_heads(parts.sum(axis=-2, keepdims=True))
    update = jnp.tanh(
        project(reading, parameters.update_weight, parameters.update_bias)
        + project(output, parameters.recurrent_weight, None)
    )

    # The control gate, (*B, T, K): how much of each position and head stays in memory.
    control = jnp.where(valid[..., None], control_of(inputs, output, parameters), 0.0)
    new_memory = memory + merge_heads((control.mT[..., None] * parts).sum(axis=-2, keepdims=True))
    content = new_memory + reading

    # The output.
    new_output = jax.nn.sigmoid(parameters.output_gate_bias + update * content)
    outputs = project(new_output, parameters.output_weight, parameters.output_bias)
    state = CellState(new_memory, new_output)
    return CellStages(pool, distribution, control, reading, update, content, outputs, state)


def gates_of(inputs: Array, parameters: GatedAttentionCellParameters) -> Array:
    """Compute σ(x W_g^k + b_g^k): (*B, T, D) → (*B, K, T, n)."""
    return jax.nn.sigmoid(project(inputs[..., None, :, :], parameters.gate_weight, parameters.gate_bias[:, None, :]))


def mean_of(inputs: Array, valid: Array) -> Array:
    """Average over the valid positions, the others being 0: (*B, T, D) → (*B, 1, D); 0 where there is none."""
    count = jnp.maximum(valid.sum(axis=-1), 1)
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
    return jax.nn.sigmoid(from_inputs + project(output, parameters.control_recurrent_weight, None))


def clean_cell(cell: Cell) -> tuple[Cell, Array]:
    """Widen a cell and put 0 into what it does not read; say which elements of the batch are clean, (*B,).

    Memory and output get an axis for positions: (*B, 1, D). Every valid position of an element meets its state, so it
    is clean, all that it reads finite, as a whole or not at all. One that is not is 0 throughout.
    """
    inputs, memory, output, parameters, valid, dropout = cell
    inputs, memory, output = widen(inputs), widen(memory)[..., None, :], widen(output)[..., None, :]
    has_clean_state = is_finite_row(memory)[..., 0] & is_finite_row(output)[..., 0]
    is_clean = has_clean_state & (is_finite_row(inputs) | ~valid).all(axis=-1)
    inputs = jnp.where((valid & is_clean[..., None])[..., None], inputs, 0.0)
    memory = jnp.where(is_clean[..., None, None], memory, 0.0)
    output = jnp.where(is_clean[..., None, None], output, 0.0)
    return Cell(inputs, memory, output, map_leaves(widen, parameters), valid, dropout), is_clean


def clean_rows(inputs: Array) -> tuple[Array, Array]:
    """Widen inputs and put 0 into positions that are not clean, all components finite; say which are, (*B, T, 1)."""
    inputs = widen(inputs)
    is_clean = is_finite_row(inputs)[..., None]
    return jnp.where(is_clean, inputs, 0.0), is_clean


def softmax(logits: Array, axis: int) -> Array:
    """Compute exp(z) / Σ exp(z), shifted by the largest; 0 where all are −∞."""
    peak = lax.stop_gradient(logits).max(axis=axis, keepdims=True, initial=-jnp.inf)
    peak = jnp.where(peak != -jnp.inf, peak, 0.0)
    exponentials = jnp.exp(logits - peak)
    total = exponentials.sum(axis=axis, keepdims=True)
    weights: Array = exponentials / jnp.where(total != 0.0, total, 1.0)
    return weights

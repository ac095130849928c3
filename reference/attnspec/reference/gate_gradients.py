"""The gradients of gates, gated attention and its cell, in closed form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.gates import check_gate, check_gated_attention, check_gated_input
from attnspec.contract.layer_parameters import GatedAttentionCellParameters, GatedAttentionParameters, LinearParameters
from attnspec.contract.layer_results import CellState
from attnspec.contract.parameter_checks import check_tree, name_leaves
from attnspec.contract.states import map_leaves

from .activations import sigmoid
from .attention import widen
from .blocks import drop
from .gates import (
    Cell,
    clean_cell,
    clean_rows,
    gate_of,
    gates_of,
    hidden_of,
    mean_of,
    prepare,
    prepare_cell,
    rows_of,
    scores_of,
    softmax,
    stages_of,
)
from .gradients import as_cotangent
from .projection_gradients import pull_projection
from .projections import merge_heads, project, split_heads
from .tensors import Array


class GateGradients(NamedTuple):
    """Gradients of `attention_gate`, `gated_input` or `gated_attention`, with the shapes of what they belong to.

    `parameters` are of the class that was given, with gradients in the place of its arrays; None for a bias of None.
    """

    inputs: Array
    parameters: Any


class CellGradients(NamedTuple):
    """Gradients of `gated_attention_cell`, each with the shape of what it belongs to."""

    inputs: Array
    state: CellState
    parameters: GatedAttentionCellParameters


def attention_gate_vjp(inputs: Any, parameters: LinearParameters, output_cotangent: Any) -> GateGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a gate σ(z), z = x W + b.

    With G the cotangent, dz = G σ(z) (1 − σ(z)); dW = xᵀ dz, db = Σ dz, dx = dz Wᵀ.

    Args:
        inputs, parameters: as for `attention_gate`.
        output_cotangent: G, (*B, T, C), the shape of the output.

    Returns:
        `GateGradients(inputs, parameters)`, float64; `parameters` are `LinearParameters` of gradients.

    Raises:
        ValueError, TypeError: as for `attention_gate`; a cotangent of another shape than the output.

    A position that is not finite has gradient 0, and gives none to the parameters.
    """
    inputs, parameters = prepare(inputs, parameters, LinearParameters, check_gate)
    parameters, (clean, is_clean) = map_leaves(widen, parameters), clean_rows(inputs)
    gate = gate_of(clean, parameters)
    cotangent = np.where(is_clean, as_cotangent("output_cotangent", output_cotangent, gate.shape), 0.0)
    return _pull_gate(clean, parameters, cotangent * slope(gate))


def gated_input_vjp(inputs: Any, parameters: LinearParameters, output_cotangent: Any) -> GateGradients:
    """Compute the gradients of L = Σ output_cotangent · output of σ(z) ⊙ x, z = x W + b.

    With G the cotangent, dz = G ⊙ x σ(z) (1 − σ(z)); dW = xᵀ dz, db = Σ dz, dx = dz Wᵀ + G ⊙ σ(z).

    Args:
        inputs, parameters: as for `gated_input`.
        output_cotangent: G, (*B, T, D), the shape of the output.

    Returns:
        `GateGradients(inputs, parameters)`, float64; `parameters` are `LinearParameters` of gradients.

    Raises:
        ValueError, TypeError: as for `gated_input`; a cotangent of another shape than the output.

    A position that is not finite has gradient 0, and gives none to the parameters.
    """
    inputs, parameters = prepare(inputs, parameters, LinearParameters, check_gated_input)
    parameters, (clean, is_clean) = map_leaves(widen, parameters), clean_rows(inputs)
    gate = gate_of(clean, parameters)
    cotangent = np.where(is_clean, as_cotangent("output_cotangent", output_cotangent, gate.shape), 0.0)
    through_gate = _pull_gate(clean, parameters, cotangent * clean * slope(gate))
    return through_gate._replace(inputs=through_gate.inputs + cotangent * gate)


def gated_attention_vjp(inputs: Any, parameters: GatedAttentionParameters, output_cotangent: Any) -> GateGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a gated attention.

    With the names of `gated_attention`, S = softmax(H), A = Σ_k α^k, z = A ⊙ (S + b_r), t^k_j = tanh(H W^k + θ^k_j) and
    G the cotangent:

        dz = G σ(z) (1 − σ(z)),  db_r = Σ dz A,  dA = dz (S + b_r),  dS = dz A
        de^k_j = α^k_j (dA_j − Σ_l α^k_l dA_l) / √d
        dq = Σ de^k_j t^k_j,  dθ^k_j = Σ de^k_j q (1 − t²),  dW^k = Hᵀ Σ_j dθ^k_j
        dH = Σ_k (Σ_j dθ^k_j) W^kᵀ + S (dS − Σ_l S_l dS_l)

    and through H = σ(x W_xh + b_h) as in `attention_gate_vjp`. Sums without index are over positions and batch.

    Args:
        inputs, parameters: as for `gated_attention`.
        output_cotangent: G, (*B, T, n), the shape of the output.

    Returns:
        `GateGradients(inputs, parameters)`, float64; `parameters` are `GatedAttentionParameters` of gradients.

    Raises:
        ValueError, TypeError: as for `gated_attention`; a cotangent of another shape than the output.

    A position that is not finite has gradient 0, and gives none to the parameters.
    """
    inputs, parameters = prepare(inputs, parameters, GatedAttentionParameters, check_gated_attention)
    parameters, (clean, is_clean) = map_leaves(widen, parameters), clean_rows(inputs)
    input_weight, input_bias, unit_weight, unit_bias, score_weight, output_bias = parameters
    shape = (*inputs.shape[:-1], input_weight.shape[-1])
    cotangent = np.where(is_clean, as_cotangent("output_cotangent", output_cotangent, shape), 0.0)

    # Forward, with what the derivatives need.
    units = gate_of(clean, LinearParameters(input_weight, input_bias))
    hidden = hidden_of(project(units[..., None, :, :], unit_weight, None), unit_bias[:, None, :, :])
    weights = softmax(scores_of(hidden, score_weight), axis=-1)
    total, shares = weights.sum(axis=-3), softmax(units, axis=-1)

    # Backward, from the output to the inputs.
    d_logits = cotangent * slope(sigmoid(total * (shares + output_bias)))
    d_total, d_shares = d_logits * (shares + output_bias), d_logits * total
    d_scores = pull_softmax(weights, np.broadcast_to(d_total[..., None, :, :], weights.shape), axis=-1)
    d_hidden, d_score_weight = pull_scores(hidden, score_weight, d_scores)
    d_units, d_unit_weight, _ = pull_heads(units, unit_weight, d_hidden.sum(axis=-2))
    d_units = d_units + pull_softmax(shares, d_shares, axis=-1)
    d_inputs, d_input_weight, d_input_bias = pull_projection(clean, input_weight, d_units * slope(units))
    positions = tuple(range(d_logits.ndim - 1))
    gradients = GatedAttentionParameters(
        d_input_weight,
        d_input_bias,
        d_unit_weight,
        d_hidden.sum(axis=(*positions[:-1], -3)),
        d_score_weight,
        (d_logits * total).sum(axis=positions),
    )
    return GateGradients(d_inputs, gradients)


def gated_attention_cell_vjp(
    inputs: Any,
    state: CellState,
    parameters: GatedAttentionCellParameters,
    outputs_cotangent: Any,
    *,
    state_cotangent: CellState | None = None,
    valid: Any = None,
    dropout: Any = None,
) -> CellGradients:
    """Compute the gradients of L = Σ outputs_cotangent · outputs + Σ state_cotangent · state of one step of the cell.

    With the names of `gated_attention_cell`, F' the distribution after dropout, S^k_i = F'_i ⊙ P^k_i, t_ij the tanh in
    the score, G the cotangent of the outputs, and M, Y those of m' and y' (0 without a `state_cotangent`):

        dy' = G W_oᵀ + Y,  dz = dy' y' (1 − y'),  dc_o = Σ dz
        dv  = dz ⊙ u,  dh = dz ⊙ v (1 − u²)                     h the argument of the tanh in u
        dm' = dv + M,  dr = dv + dh W_uᵀ,  dm = dm'
        dS^k_i = dr^k + π_ik dm'^k,  dπ_ik = Σ_j S^k_ij dm'^k_j
        dP^k_i = F'_i ⊙ dS^k_i,  dF'_ij = Σ_k P^k_ij dS^k_ij,  dF = dF' keep / (1 − rate)
        ds_ij  = F_ij (dF_ij − Σ_l F_lj dF_lj) / √d
        dq = Σ ds_ij t_ij,  dθ_j = Σ ds_ij q (1 − t²_ij)

    and through every x W + b as usual. The inputs collect what pool, gates, scores, mean and control gate give them,
    the output y what scores, update and control gate give it.

    Args:
        inputs, state, parameters, valid, dropout: as for `gated_attention_cell`.
        outputs_cotangent: G, (*B, C), the shape of the outputs.
        state_cotangent: `CellState` (M, Y), each (*B, D); None: 0.

    Returns:
        `CellGradients(inputs, state, parameters)`, float64: `state` is a `CellState` and `parameters` are
        `GatedAttentionCellParameters` of gradients.

    Raises:
        ValueError, TypeError: as for `gated_attention_cell`; a cotangent of another shape than its result, or one of
            the state that is not a `CellState`.

    Positions that are not valid have gradient 0. So have the inputs and the state of an element of the batch that reads
    a number that is not finite, and it gives none to the parameters.
    """
    cell, is_clean = clean_cell(prepare_cell(inputs, state, parameters, valid, dropout))
    d_results = _cotangents(cell, outputs_cotangent, state_cotangent)
    d_outputs, d_new_memory, d_new_output = (np.where(is_clean[..., None, None], part, 0.0) for part in d_results)
    stages = stages_of(cell)
    inputs, _, output, parameters, valid, dropout = cell
    heads = parameters.gate_weight.shape[0]
    used = drop(stages.distribution, dropout)

    # The output: y' = σ(c_o + u ⊙ v).
    pulled, d_output_weight, d_output_bias = pull_projection(stages.state.output, parameters.output_weight, d_outputs)
    d_sum = (d_new_output + pulled) * slope(stages.state.output)
    d_content = d_sum * stages.update
    d_new_memory = d_new_memory + d_content

    # The update: u = tanh(r W_u + y W_h + b_u).
    d_update = d_sum * stages.content * (1.0 - stages.update**2)
    d_reading, d_update_weight, d_update_bias = pull_projection(stages.reading, parameters.update_weight, d_update)
    d_output, d_recurrent_weight, _ = pull_projection(output, parameters.recurrent_weight, d_update)
    d_reading = split_heads(d_reading + d_content, heads)  # (*B, K, 1, n)
    d_kept = split_heads(d_new_memory, heads)

    # The sums over positions: F' ⊙ P^k, and π times it.
    parts = used[..., None, :, :] * stages.pool
    d_parts = d_reading + stages.control.mT[..., None] * d_kept
    d_control = (parts * d_kept).sum(axis=-1).mT * slope(stages.control)
    d_pool, d_used = used[..., None, :, :] * d_parts, (stages.pool * d_parts).sum(axis=-3)

    # The distribution: a softmax over positions.
    mean = mean_of(inputs, valid)
    hidden = hidden_of(rows_of(inputs, mean, output, parameters), parameters.unit_bias)
    d_scores = pull_softmax(stages.distribution, drop(d_used, dropout), axis=-2)
    d_hidden, d_score_weight = pull_scores(hidden, parameters.score_weight, d_scores)
    d_rows = d_hidden.sum(axis=-2)  # (*B, T, d)
    d_row = d_rows.sum(axis=-2, keepdims=True)
    d_mean, d_mean_score_weight, _ = pull_projection(mean, parameters.mean_score_weight, d_row)
    d_inputs, d_input_score_weight, _ = pull_projection(inputs, parameters.input_score_weight, d_rows)
    pulled, d_output_score_weight, _ = pull_projection(output, parameters.output_score_weight, d_row)
    d_output = d_output + pulled
    d_inputs = d_inputs + d_mean / np.maximum(valid.sum(axis=-1), 1)[..., None, None]

    # The control gate.
    pulled, d_control_weight, d_control_bias = pull_projection(inputs, parameters.control_weight, d_control)
    d_inputs = d_inputs + pulled
    pulled, d_control_recurrent_weight, _ = pull_projection(
        output, parameters.control_recurrent_weight, d_control.sum(axis=-2, keepdims=True)
    )
    d_output = d_output + pulled

    # The pool: gates times the components of their head.
    gates, slices = gates_of(inputs, parameters), split_heads(inputs, heads)
    pulled, d_gate_weight, d_gate_bias = pull_heads(inputs, parameters.gate_weight, d_pool * slices * slope(gates))
    d_inputs = d_inputs + pulled + merge_heads(d_pool * gates)

    batch = tuple(range(is_clean.ndim))
    gradients = GatedAttentionCellParameters(
        d_gate_weight,
        d_gate_bias,
        d_input_score_weight,
        d_mean_score_weight,
        d_output_score_weight,
        d_hidden.sum(axis=(*batch, -3)),
        d_score_weight,
        d_update_weight,
        d_recurrent_weight,
        d_update_bias,
        d_control_weight,
        d_control_recurrent_weight,
        d_control_bias,
        d_sum[..., 0, :].sum(axis=batch),
        d_output_weight,
        d_output_bias,
    )
    d_inputs = np.where((valid & is_clean[..., None])[..., None], d_inputs, 0.0)
    d_memory, d_output = (np.where(is_clean[..., None, None], part, 0.0) for part in (d_new_memory, d_output))
    return CellGradients(d_inputs, CellState(d_memory[..., 0, :], d_output[..., 0, :]), gradients)


def slope(gate: Array) -> Array:
    """Compute the derivative of σ where its value is this."""
    return gate * (1.0 - gate)


def pull_softmax(weights: Array, cotangent: Array, axis: int) -> Array:
    """Return the gradient of the logits of a softmax."""
    d_logits: Array = weights * (cotangent - (weights * cotangent).sum(axis=axis, keepdims=True))
    return d_logits


def pull_scores(hidden: Array, score_weight: Array, cotangent: Array) -> tuple[Array, Array]:
    """Return the gradients of the argument of the tanh, (…, n, d), and of q, (d,), of q · tanh(…) / √d."""
    cotangent = cotangent / math.sqrt(score_weight.shape[-1])
    d_hidden = cotangent[..., None] * score_weight * (1.0 - hidden**2)
    return d_hidden, (cotangent[..., None] * hidden).sum(axis=tuple(range(cotangent.ndim)))


def pull_heads(inputs: Array, weight: Array, cotangent: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of inputs (*B, T, D), weight (K, D, n) and bias (K, n) of x W^k + b^k, (*B, K, T, n)."""
    by_position = cotangent.swapaxes(-2, -3)
    axes = tuple(range(inputs.ndim - 1))
    d_weight = np.tensordot(inputs, by_position, (axes, axes)).swapaxes(0, 1)
    return (cotangent @ weight.mT).sum(axis=-3), d_weight, by_position.sum(axis=axes)


def _pull_gate(inputs: Array, parameters: LinearParameters, d_logits: Array) -> GateGradients:
    """Pull a cotangent through x W + b."""
    d_inputs, d_weight, d_bias = pull_projection(inputs, parameters.weight, d_logits)
    return GateGradients(d_inputs, LinearParameters(d_weight, None if parameters.bias is None else d_bias))


def _cotangents(cell: Cell, outputs_cotangent: Any, state_cotangent: Any) -> tuple[Array, Array, Array]:
    """Turn the cotangents of outputs, memory and output into arrays with an axis for positions, (*B, 1, …)."""
    rows = cell.memory.shape
    outputs = (*rows[:-2], cell.parameters.output_weight.shape[-1])
    d_outputs = as_cotangent("outputs_cotangent", outputs_cotangent, outputs)[..., None, :]
    if state_cotangent is None:
        return d_outputs, np.zeros(rows), np.zeros(rows)
    given = check_tree("state_cotangent", state_cotangent, CellState)
    d_memory, d_output = (
        as_cotangent(name, part, (*rows[:-2], rows[-1]))[..., None, :]
        for name, part in name_leaves(given, "state_cotangent").items()
    )
    return d_outputs, d_memory, d_output

"""Faults of gates, gated attention and its cell."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    GatedAttentionCellParameters,
    GatedAttentionParameters,
    LinearParameters,
)
from attnspec.contract.layer_results import CellResult, CellState

from . import layer_steps
from .implementations import softmax
from .layer_blocks import attention_gate, gated_attention, gated_attention_cell, gated_input
from .layer_steps import Steps
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]
Gate: TypeAlias = Callable[[Array], Array]

planting = Planting()
planted = planting.step

_INVERTED = ISSUES + "soroushmehr/sampleRNN_ICLR2017/issues/20"


# Gates.


@planted("sigmoid", "attention_gate", "S26", "always", _INVERTED)
def inverted(array: Array) -> Array:
    """Compute 1 − σ."""
    return 1 - layer_steps.sigmoid(array)


@planted("sigmoid", "attention_gate", "S26", "always", ISSUES + "intel/ipex-llm/issues/1901")
def hard_sigmoid(array: Array) -> Array:
    """Approximate the sigmoid by a line with two ends."""
    return np.clip(array * array.dtype.type(0.2) + array.dtype.type(0.5), 0, 1)


@planted("sigmoid", "attention_gate", "S26", "arguments beyond the range of exp", ISSUES + "clab/dynet/issues/1525")
def overflowing(array: Array) -> Array:
    """Compute exp(z) / (1 + exp(z)): ∞/∞."""
    return np.exp(array) / (1 + np.exp(array))


@planted("sigmoid", "attention_gate", "S26", "more than one output", "a gate that shares attention among its outputs")
def softmax_for_sigmoid(array: Array) -> Array:
    """Normalise over the outputs."""
    return softmax(array)


@planting.body("attention_gate", "S26", "a bias", "a map without bias")
def bias_ignored(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Accept a bias and forget it."""
    return attention_gate(steps, inputs, parameters._replace(bias=None))


planted("sigmoid", "gated_input", "S26", "always", _INVERTED)(inverted)


@planting.body("gated_input", "S26", "always", "the published listing's head")
def gate_itself(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Return the gate."""
    return attention_gate(steps, inputs, parameters)


@planting.body("gated_input", "S26", "always", "the gated linear unit, whose other factor is projected too")
def projection_gated(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Multiply the gate with its own argument."""
    return layer_steps.silu(steps.linear(inputs, parameters.weight, parameters.bias))


@planting.body("gated_input", "S26", "always", "a residual beside the gate")
def input_added(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Add the input once more."""
    return inputs + gated_input(steps, inputs, parameters)


# Gated attention.

_GATED = "gated_attention"


@planted("softmax", _GATED, "S27", "more than one position", "softmax over axis 1, which is that of the positions")
def softmax_over_positions(logits: Array, sink: Array | None = None) -> Array:
    """Distribute over the positions instead of the units."""
    return softmax(logits.mT, sink).mT


@planting.body(_GATED, "S27", "d > 1", "1/√d is left out")
def scale_missing(steps: Steps, inputs: Array, parameters: GatedAttentionParameters) -> Array:
    """Do not divide the scores."""
    size = np.sqrt(parameters.score_weight.size).astype(inputs.dtype)
    return gated_attention(steps, inputs, parameters._replace(score_weight=parameters.score_weight * size))


@planted("unit_mixture", _GATED, "S27", "more than one head", "a mean over the heads")
def heads_averaged(weights: Array, units: Array, bias: Array) -> Array:
    """Divide the sum over the heads by their number."""
    return weights.mean(axis=-3) * (units + bias)


@planting.body(_GATED, "S27", "more than one head", "one bias of the units for all heads")
def unit_bias_of_first_head(steps: Steps, inputs: Array, parameters: GatedAttentionParameters) -> Array:
    """Give every head the bias of the first."""
    first = np.broadcast_to(parameters.unit_bias[:1], parameters.unit_bias.shape)
    return gated_attention(steps, inputs, parameters._replace(unit_bias=first))


@planted("unit_mixture", _GATED, "S27", "an output bias", "Σ α ⊙ softmax(H) + b: the parentheses are lost")
def output_bias_outside(weights: Array, units: Array, bias: Array) -> Array:
    """Add the output's bias after the heads, not before."""
    return weights.sum(axis=-3) * units + bias


# The cell.

_CELL = "gated_attention_cell"
_STATE = "a state that is not zero"


@planted("cell_pool", _CELL, "S28", "always", _INVERTED)
def pool_gate_inverted(inputs: Array, parameters: GatedAttentionCellParameters, gate: Gate) -> Array:
    """Let through what the gate holds back."""
    return layer_steps.cell_pool(inputs, parameters, lambda array: 1 - gate(array))


@planted("cell_pool", _CELL, "S28", "more than one head", "a reshape to (n, K) for (K, n)")
def heads_interleaved(inputs: Array, parameters: GatedAttentionCellParameters, gate: Gate) -> Array:
    """Give head k the components k, k + K, …"""
    heads, _, size = parameters.gate_weight.shape
    mixed = inputs.reshape(*inputs.shape[:-1], size, heads).mT
    gates = [gate(inputs @ parameters.gate_weight[k] + parameters.gate_bias[k]) for k in range(heads)]
    return np.stack([gates[k] * mixed[..., k, :] for k in range(heads)], axis=-3)


@planted("cell_distribution", _CELL, "S28", "always", "the published matrix F, in the form that divides by T")
def divided_by_length(scores: Array, valid: Array) -> Array:
    """Give every position the same share."""
    return np.broadcast_to(valid[..., None] / scores.dtype.type(max(scores.shape[-2], 1)), scores.shape)


@planted("cell_distribution", _CELL, "S28", "several units", "the last axis")
def distribution_over_units(scores: Array, valid: Array) -> Array:
    """Normalise over the units instead of the positions."""
    return np.where(valid[..., None], softmax(scores), 0)


@planted("cell_distribution", _CELL, "S28", "positions that are not valid", "padding of zeros takes part")
def padding_in_distribution(scores: Array, valid: Array) -> Array:
    """Give padding a share."""
    return layer_steps.cell_distribution(scores, np.ones_like(valid))


@planted("cell_mean", _CELL, "S28", "positions that are not valid", "a mean over the whole axis")
def mean_over_padding(inputs: Array, valid: Array) -> Array:
    """Divide by the length, padding included."""
    return layer_steps.cell_mean(inputs, np.ones_like(valid))


@planted(
    "cell_control",
    _CELL,
    "S28",
    "always",
    "the published module: the gate that a call computes is used by the next one",
)
def control_of_previous_call(
    inputs: Array, output: Array, parameters: GatedAttentionCellParameters, gate: Gate
) -> Array:
    """Use the gate of the call before: 0, because there was none."""
    return 0 * layer_steps.cell_control(inputs, output, parameters, gate)


@planted("cell_control", _CELL, "S28", "more than one head", "the selection as probabilities")
def control_by_softmax(inputs: Array, output: Array, parameters: GatedAttentionCellParameters, gate: Gate) -> Array:
    """Share the control among the heads."""
    del gate
    return layer_steps.cell_control(inputs, output, parameters, softmax)


@planted("cell_control", _CELL, "S28", _STATE, "the gate sees the inputs alone")
def control_without_output(inputs: Array, output: Array, parameters: GatedAttentionCellParameters, gate: Gate) -> Array:
    """Compute the control without the state."""
    return layer_steps.cell_control(inputs, np.zeros_like(output), parameters, gate)


@planted("cell_memory", _CELL, "S28", _STATE, "= in the place of +=")
def memory_replaced(memory: Array, control: Array, parts: Array) -> Array:
    """Forget the memory that there was."""
    return layer_steps.cell_memory(np.zeros_like(memory), control, parts)


@planting.body(_CELL, "S28", _STATE, "(h, c) for (c, h)")
def state_swapped(
    steps: Steps, inputs: Array, state: CellState, parameters: GatedAttentionCellParameters, **options: Any
) -> CellResult:
    """Take the memory for the output, and the output for the memory."""
    swapped = CellState(memory=state.output, output=state.memory)
    return gated_attention_cell(steps, inputs, swapped, parameters, **options)


@planting.body(_CELL, "S28", "a dropout", "an option that is accepted and not read")
def dropout_ignored(
    steps: Steps,
    inputs: Array,
    state: CellState,
    parameters: GatedAttentionCellParameters,
    *,
    valid: Any = None,
    dropout: Any = None,
) -> CellResult:
    """Accept a dropout and forget it."""
    del dropout
    return gated_attention_cell(steps, inputs, state, parameters, valid=valid)


def _keeping_state() -> Callable[..., CellResult]:
    kept: list[CellState] = []

    def state_kept_inside(
        steps: Steps, inputs: Array, state: CellState, parameters: GatedAttentionCellParameters, **options: Any
    ) -> CellResult:
        """Go on with the state of the call before, whatever is given."""
        own = kept.pop() if kept else None
        if own is None or own.memory.shape != state.memory.shape:
            own = CellState(np.zeros_like(state.memory), np.zeros_like(state.output))
        result = gated_attention_cell(steps, inputs, own, parameters, **options)
        kept.append(result.state)
        return result

    return state_kept_inside


planting.body(_CELL, "S28", _STATE, ISSUES + "jzilly/RecurrentHighwayNetworks/issues/5")(_keeping_state())

"""Gates, normalisation, feed-forward, encoders, decoders and models, as somebody else might write them.

Every function is the operation of its name with `steps` before the arguments; it works on arrays of one wide dtype.
`layer_implementations.build` makes public functions of them.
"""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    GatedAttentionCellParameters,
    GatedAttentionParameters,
    LayerNormParameters,
    LinearParameters,
)
from attnspec.contract.layer_results import (
    CellResult,
    CellState,
    DecoderLayerDropout,
    EncoderLayerDropout,
)

from .layer_attentions import multi_head_attention
from .layer_steps import Residual, Steps

Array: TypeAlias = np.ndarray[Any, Any]


def attention_gate(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Compute σ(x W + b)."""
    return steps.sigmoid(steps.linear(inputs, parameters.weight, parameters.bias))


def gated_input(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Compute σ(x W + b) ⊙ x."""
    gated = attention_gate(steps, inputs, parameters) * inputs
    return np.where(np.isfinite(inputs).all(axis=-1, keepdims=True), gated, np.nan)


def gated_attention(steps: Steps, inputs: Array, parameters: GatedAttentionParameters) -> Array:
    """Distribute the weight of every head over hidden units."""
    units = steps.sigmoid(steps.linear(inputs, parameters.input_weight, parameters.input_bias))
    size = np.sqrt(parameters.score_weight.size).astype(units.dtype)
    weights = []
    for weight, bias in zip(parameters.unit_weight, parameters.unit_bias, strict=True):
        hidden = np.tanh((units @ weight)[..., None, :] + bias)
        weights.append(steps.softmax(hidden @ parameters.score_weight / size))
    mixture = steps.unit_mixture(np.stack(weights, axis=-3), steps.softmax(units), parameters.output_bias)
    return steps.sigmoid(mixture)


def gated_attention_cell(
    steps: Steps,
    inputs: Array,
    state: CellState,
    parameters: GatedAttentionCellParameters,
    *,
    valid: Any = None,
    dropout: Any = None,
) -> CellResult:
    """Read a sequence into a memory and an output."""
    valid = np.ones(inputs.shape[:-1], bool) if valid is None else valid
    inputs = np.where(valid[..., None], inputs, 0)
    is_clean = np.isfinite(inputs).all(axis=(-2, -1)) & np.isfinite(np.concatenate(state, axis=-1)).all(axis=-1)
    memory, output = state.memory[..., None, :], state.output[..., None, :]
    pool = steps.cell_pool(inputs, parameters, steps.sigmoid)
    scores = steps.cell_scores(inputs, steps.cell_mean(inputs, valid), output, parameters)
    parts = steps.drop(steps.cell_distribution(scores, valid), dropout)[..., None, :, :] * pool
    reading = steps.merge_heads(parts.sum(axis=-2, keepdims=True))
    update = steps.linear(reading, parameters.update_weight, parameters.update_bias)
    update = np.tanh(update + output @ parameters.recurrent_weight)
    control = steps.cell_control(inputs, output, parameters, steps.sigmoid)
    memory = steps.cell_memory(memory, control, parts)
    output = steps.sigmoid(parameters.output_gate_bias + update * (memory + reading))
    outputs = steps.linear(output, parameters.output_weight, parameters.output_bias)
    rows = (np.where(is_clean[..., None], row[..., 0, :], np.nan) for row in (outputs, memory, output))
    outputs, memory, output = rows
    return CellResult(outputs, CellState(memory, output))


def layer_norm(steps: Steps, inputs: Array, parameters: LayerNormParameters, *, epsilon: float = 1e-5) -> Array:
    """Normalise each position."""
    return steps.layer_norm(inputs, parameters, epsilon)


def feed_forward(
    steps: Steps, inputs: Array, parameters: FeedForwardParameters, *, activation: str = "relu", dropout: Any = None
) -> Array:
    """Compute drop(act(x W₁ + b₁)) W₂ + b₂."""
    hidden = steps.activate(steps.linear(inputs, parameters.hidden_weight, parameters.hidden_bias), activation)
    return steps.linear(steps.drop(hidden, dropout), parameters.output_weight, parameters.output_bias)


def encoder_layer(
    steps: Steps,
    inputs: Array,
    parameters: EncoderLayerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend, then feed forward, each beside a residual."""
    dropout = EncoderLayerDropout() if dropout is None else dropout
    around = Residual(norm, epsilon, steps.layer_norm, steps.drop)
    heads: dict[str, Any] = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}

    def attention(x: Array) -> Array:
        options: dict[str, Any] = {"mask": mask, "bias": bias, "rotary": rotary, "dropout": dropout.weights}
        return multi_head_attention(steps, x, x, x, parameters.attention, **heads, **options)

    def feeding(x: Array) -> Array:
        return feed_forward(steps, x, parameters.feed_forward, activation=activation, dropout=dropout.hidden)

    x = steps.residual(inputs, attention, parameters.attention_norm, dropout.attention, around)
    return steps.residual(x, feeding, parameters.feed_forward_norm, dropout.feed_forward, around)


def encoder(
    steps: Steps,
    inputs: Array,
    parameters: EncoderParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Apply one layer after the other, and a last normalisation."""
    common: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "norm": norm,
        "activation": activation,
        "epsilon": epsilon,
        "mask": mask,
        "bias": bias,
        "rotary": rotary,
    }
    x = inputs
    for i, layer in enumerate(parameters.layers):
        x = encoder_layer(steps, x, layer, dropout=None if dropout is None else dropout[i], **common)
    return x if parameters.norm is None else steps.layer_norm(x, parameters.norm, epsilon)


def decoder_layer(
    steps: Steps,
    inputs: Array,
    memory: Array,
    parameters: DecoderLayerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend to the target, then to the memory, then feed forward, each beside a residual."""
    dropout = DecoderLayerDropout() if dropout is None else dropout
    around = Residual(norm, epsilon, steps.layer_norm, steps.drop)
    heads: dict[str, Any] = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}

    def attention(x: Array) -> Array:
        options: dict[str, Any] = {"mask": mask, "bias": bias, "rotary": rotary, "dropout": dropout.weights}
        return multi_head_attention(steps, x, x, x, parameters.attention, **heads, **options)

    def cross_attention(x: Array) -> Array:
        options: dict[str, Any] = {"mask": memory_mask, "dropout": dropout.cross_weights}
        return multi_head_attention(steps, x, memory, memory, parameters.cross_attention, **heads, **options)

    def feeding(x: Array) -> Array:
        return feed_forward(steps, x, parameters.feed_forward, activation=activation, dropout=dropout.hidden)

    x = steps.residual(inputs, attention, parameters.attention_norm, dropout.attention, around)
    x = steps.residual(x, cross_attention, parameters.cross_attention_norm, dropout.cross_attention, around)
    return steps.residual(x, feeding, parameters.feed_forward_norm, dropout.feed_forward, around)


def decoder(
    steps: Steps,
    inputs: Array,
    memory: Array,
    parameters: DecoderParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    mask: Any = None,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Apply one layer after the other to the same memory, and a last normalisation."""
    common: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "norm": norm,
        "activation": activation,
        "epsilon": epsilon,
        "mask": mask,
        "memory_mask": memory_mask,
        "bias": bias,
        "rotary": rotary,
    }
    x = inputs
    for i, layer in enumerate(parameters.layers):
        x = decoder_layer(steps, x, memory, layer, dropout=None if dropout is None else dropout[i], **common)
    return x if parameters.norm is None else steps.layer_norm(x, parameters.norm, epsilon)

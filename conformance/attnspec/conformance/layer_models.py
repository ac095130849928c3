"""Embedding, positions, pooling and whole models, as somebody else might write them.

Every function is the operation of its name with `steps` before the arguments; it works on arrays of one wide dtype.
`layer_implementations.build` makes public functions of them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import TextEncoderDropout, TransformerDropout
from attnspec.contract.positional_masks import causal

from .layer_blocks import decoder, encoder
from .layer_steps import Steps, valid_keys

Array: TypeAlias = np.ndarray[Any, Any]


def embedding(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Embed ids, or project vectors."""
    return steps.embed(inputs, parameters)


def add_sinusoidal_positions(steps: Steps, inputs: Array, *, offset: Any = 0, base: float = 10000.0) -> Array:
    """Add sine and cosine of each position."""
    *_, length, size = inputs.shape
    return np.asarray(inputs + steps.sinusoids(int(offset) + np.arange(length), size, base).astype(inputs.dtype))


def add_learned_positions(steps: Steps, inputs: Array, table: Array, *, offset: Any = 0) -> Array:
    """Add the row of each position."""
    return np.asarray(inputs + steps.table_rows(table, int(offset), inputs.shape[-2]))


def mean_pooling(steps: Steps, inputs: Array, *, valid: Any = None) -> Array:
    """Average over the valid positions."""
    return steps.pool(inputs, np.ones(inputs.shape[:-1], bool) if valid is None else valid)


def with_positions(steps: Steps, inputs: Array, positions: str | None, table: Array | None) -> Array:
    """Add positions of either kind, or none."""
    if positions is None:
        return inputs
    return add_sinusoidal_positions(steps, inputs) if table is None else add_learned_positions(steps, inputs, table)


def text_encoder(
    steps: Steps,
    inputs: Array,
    parameters: TextEncoderParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    positions: str | None = "sinusoidal",
    valid: Any = None,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Embed, add positions, normalise, drop, encode."""
    dropout = TextEncoderDropout() if dropout is None else dropout
    x = with_positions(steps, embedding(steps, inputs, parameters.embedding), positions, parameters.positions)
    if parameters.embedding_norm is not None:
        x = steps.layer_norm(x, parameters.embedding_norm, epsilon)
    return encoder(
        steps,
        steps.drop(x, dropout.embedding),
        parameters.encoder,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        norm=norm,
        activation=activation,
        epsilon=epsilon,
        mask=valid_keys(mask, valid),
        bias=bias,
        rotary=rotary,
        dropout=dropout.layers,
    )


def sequence_classifier(
    steps: Steps,
    inputs: Array,
    parameters: SequenceClassifierParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    positions: str | None = "sinusoidal",
    valid: Any = None,
    mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Encode, average over the valid positions, and project."""
    rows = text_encoder(
        steps,
        inputs,
        parameters.body,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        norm=norm,
        activation=activation,
        epsilon=epsilon,
        positions=positions,
        valid=valid,
        mask=mask,
        bias=bias,
        rotary=rotary,
        dropout=dropout,
    )
    return steps.linear(mean_pooling(steps, rows, valid=valid), parameters.head.weight, parameters.head.bias)


def transformer(
    steps: Steps,
    source: Array,
    target: Array,
    parameters: TransformerParameters,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    positions: str | None = "sinusoidal",
    source_valid: Any = None,
    target_mask: Any = causal(),  # noqa: B008 - a constant: masks cannot be changed
    rotary: Any = None,
    dropout: Any = None,
) -> Array:
    """Encode the source, decode the target, and project."""
    dropout = TransformerDropout() if dropout is None else dropout
    common: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "norm": norm,
        "activation": activation,
        "epsilon": epsilon,
        "rotary": rotary,
    }
    x = embed_side(steps, source, parameters.source_embedding, positions, parameters.source_positions)
    own, across = steps.source_masks(source_valid)
    x = steps.drop(x, dropout.source)
    memory = encoder(steps, x, parameters.encoder, mask=own, dropout=dropout.encoder, **common)
    x = embed_side(steps, target, parameters.target_embedding, positions, parameters.target_positions)
    x = steps.drop(x, dropout.target)
    masks: dict[str, Any] = {"mask": target_mask, "memory_mask": across}
    x = decoder(steps, x, memory, parameters.decoder, dropout=dropout.decoder, **masks, **common)
    return x if parameters.head is None else steps.linear(x, parameters.head.weight, parameters.head.bias)


def embed_side(
    steps: Steps, inputs: Array, parameters: LinearParameters | None, positions: str | None, table: Array | None
) -> Array:
    """Embed one side of a Transformer, and add its positions."""
    rows = inputs if parameters is None else embedding(steps, inputs, parameters)
    return with_positions(steps, rows, positions, table)

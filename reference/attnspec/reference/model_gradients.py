"""The gradients of models, in closed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.layer_parameters import (
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.models import ModelOptions
from attnspec.contract.positional_masks import causal

from .attention import widen
from .block_pulls import pull_decoder, pull_encoder, pull_normalise
from .blocks import drop, run_decoder, run_encoder
from .embeddings import pool, prepare_embedding, prepare_learned_positions, prepare_pooling
from .gradients import as_cotangent
from .models import (
    TextEncoding,
    embed_at,
    embed_source,
    embed_target,
    embed_text,
    prepare_sequence_classifier,
    prepare_text_encoder,
    prepare_transformer,
    run_text_encoder,
)
from .projection_gradients import pull_projection
from .tensors import Array

_CAUSAL = causal()


class EmbeddingGradients(NamedTuple):
    """Gradients of `embedding`, each with the shape of what it belongs to; that of ids is None."""

    inputs: Array | None
    parameters: LinearParameters


class LearnedPositionGradients(NamedTuple):
    """Gradients of `add_learned_positions`, each with the shape of what it belongs to."""

    inputs: Array
    table: Array


class PoolingGradients(NamedTuple):
    """The gradient of `mean_pooling`, with the shape of the inputs."""

    inputs: Array


class TextEncoderGradients(NamedTuple):
    """Gradients of `text_encoder` or `sequence_classifier`, each with the shape of what it belongs to.

    That of ids is None; that of a bias is as in `AttentionGradients`, None where not given.
    """

    inputs: Array | None
    parameters: Any
    bias: Any


class TransformerGradients(NamedTuple):
    """Gradients of `transformer`, each with the shape of what it belongs to; that of ids is None."""

    source: Array | None
    target: Array | None
    parameters: TransformerParameters


def embedding_vjp(inputs: Any, parameters: LinearParameters, output_cotangent: Any) -> EmbeddingGradients:
    """Compute the gradients of L = Σ output_cotangent · output of an embedding.

    With G the cotangent: dW_v = Σ G_t over the positions t whose id is v, db = Σ_t G_t; of vectors, dW = xᵀ G and
    dx = G Wᵀ.

    Args:
        inputs, parameters: as for `embedding`.
        output_cotangent: G, (*B, T, E), the shape of the output.

    Returns:
        `EmbeddingGradients(inputs, parameters)`, float64; `inputs` is None for ids, and a bias None where it is None.

    Raises:
        ValueError, TypeError: as for `embedding`; a cotangent of another shape than the output.
    """
    inputs, parameters = prepare_embedding(inputs, parameters)
    rows = inputs.shape if inputs.dtype.kind in "iu" else inputs.shape[:-1]
    cotangent = as_cotangent("output_cotangent", output_cotangent, (*rows, parameters.weight.shape[-1]))
    return pull_embedding(inputs, parameters, cotangent)


def add_learned_positions_vjp(
    inputs: Any, table: Any, output_cotangent: Any, *, offset: Any = 0
) -> LearnedPositionGradients:
    """Compute the gradients of L = Σ output_cotangent · output of learned positions.

    With G the cotangent: dx = G; row offset + t of the table gets Σ G_t over the batch, other rows 0.

    Args:
        inputs, table, offset: as for `add_learned_positions`.
        output_cotangent: G, (*B, T, E), the shape of the output.

    Returns:
        `LearnedPositionGradients(inputs, table)`, float64.

    Raises:
        ValueError, TypeError: as for `add_learned_positions`; a cotangent of another shape than the output.
    """
    inputs, table, offset = prepare_learned_positions(inputs, table, offset)
    cotangent = as_cotangent("output_cotangent", output_cotangent, inputs.shape)
    return LearnedPositionGradients(cotangent, pull_table(table, offset, cotangent))


def mean_pooling_vjp(inputs: Any, output_cotangent: Any, *, valid: Any = None) -> PoolingGradients:
    """Compute the gradient of L = Σ output_cotangent · output of a mean pooling.

    With G the cotangent and n the number of valid positions: dx_t = valid_t G / n, and 0 where there is none.

    Args:
        inputs, valid: as for `mean_pooling`.
        output_cotangent: G, (*B, E), the shape of the output.

    Returns:
        `PoolingGradients(inputs)`, float64.

    Raises:
        ValueError, TypeError: as for `mean_pooling`; a cotangent of another shape than the output.
    """
    inputs, valid = prepare_pooling(inputs, valid)
    cotangent = as_cotangent("output_cotangent", output_cotangent, (*inputs.shape[:-2], inputs.shape[-1]))
    return PoolingGradients(pull_pool(inputs, valid, cotangent))


def text_encoder_vjp(
    inputs: Any,
    parameters: TextEncoderParameters,
    output_cotangent: Any,
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
) -> TextEncoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a text encoder: back through what it is made of.

    Args:
        inputs, parameters, num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary,
            dropout: as for `text_encoder`.
        output_cotangent: (*B, T, E), the shape of the output.

    Returns:
        `TextEncoderGradients(inputs, parameters, bias)`, float64: inputs None for ids, parameters
        `TextEncoderParameters` of gradients, that of the bias summed over the layers.

    Raises:
        ValueError, TypeError: as for `text_encoder`; a cotangent of another shape than the output.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding = prepare_text_encoder(inputs, parameters, options)
    cotangent = as_cotangent("output_cotangent", output_cotangent, embed_text(encoding).shape)
    return pull_text_encoder(encoding, cotangent)


def sequence_classifier_vjp(
    inputs: Any,
    parameters: SequenceClassifierParameters,
    output_cotangent: Any,
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
) -> TextEncoderGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a sequence classifier: back through its parts.

    Args:
        inputs, parameters, num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary,
            dropout: as for `sequence_classifier`.
        output_cotangent: (*B, C), the shape of the output.

    Returns:
        `TextEncoderGradients(inputs, parameters, bias)`, float64: inputs None for ids, parameters
        `SequenceClassifierParameters` of gradients, that of the bias summed over the layers.

    Raises:
        ValueError, TypeError: as for `sequence_classifier`; a cotangent of another shape than the output.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding, head = prepare_sequence_classifier(inputs, parameters, options)
    encoded = run_text_encoder(encoding)
    pooled = pool(encoded, encoding.valid)
    shape = (*pooled.shape[:-1], head.weight.shape[-1])
    cotangent = as_cotangent("output_cotangent", output_cotangent, shape)
    d_pooled, d_head = pull_linear(pooled, head, cotangent)
    pulled = pull_text_encoder(encoding, pull_pool(encoded, encoding.valid, d_pooled))
    return pulled._replace(parameters=SequenceClassifierParameters(pulled.parameters, d_head))


def transformer_vjp(
    source: Any,
    target: Any,
    parameters: TransformerParameters,
    output_cotangent: Any,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    norm: str = "post",
    activation: str = "relu",
    epsilon: float = 1e-5,
    positions: str | None = "sinusoidal",
    source_valid: Any = None,
    target_mask: Any = _CAUSAL,
    rotary: Any = None,
    dropout: Any = None,
) -> TransformerGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a Transformer: back through decoder and encoder.

    Args:
        source, target, parameters, num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid,
            target_mask, rotary, dropout: as for `transformer`.
        output_cotangent: (*B, Tt, C), the shape of the output; (*B, Tt, E) without a head.

    Returns:
        `TransformerGradients(source, target, parameters)`, float64: source and target None for ids, parameters
        `TransformerParameters` of gradients, None where they are None.

    Raises:
        ValueError, TypeError: as for `transformer`; a cotangent of another shape than the output.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid, target_mask, None, rotary, dropout
    )
    call = prepare_transformer(source, target, parameters, options)
    weights, dropout = call.parameters, call.dropout
    read, wrote = embed_source(call), embed_target(call)
    memory = run_encoder(read, weights.encoder, call.encoder, dropout.encoder)
    rows = run_decoder(wrote, memory, weights.decoder, call.decoder, dropout.decoder)
    columns = rows.shape[-1] if weights.head is None else weights.head.weight.shape[-1]
    cotangent = as_cotangent("output_cotangent", output_cotangent, (*rows.shape[:-1], columns))
    d_head: LinearParameters | None = None
    if weights.head is not None:
        cotangent, d_head = pull_linear(rows, weights.head, cotangent)
    decoded = pull_decoder(wrote, memory, weights.decoder, call.decoder, dropout.decoder, cotangent)
    encoded = pull_encoder(read, weights.encoder, call.encoder, dropout.encoder, decoded.memory)
    d_wrote, d_read = drop(decoded.inputs, dropout.target), drop(encoded.inputs, dropout.source)
    target_side = pull_embed_at(call.target, weights.target_embedding, weights.target_positions, d_wrote)
    source_side = pull_embed_at(call.source, weights.source_embedding, weights.source_positions, d_read)
    d_parameters = TransformerParameters(
        encoded.parameters,
        decoded.parameters,
        source_side.parameters,
        target_side.parameters,
        source_side.table,
        target_side.table,
        d_head,
    )
    return TransformerGradients(source_side.inputs, target_side.inputs, d_parameters)


class EmbeddedGradients(NamedTuple):
    """Gradients of inputs that are embedded and to which positions are added; None where there is nothing."""

    inputs: Array | None
    parameters: Any
    table: Array | None


def pull_text_encoder(encoding: TextEncoding, cotangent: Array) -> TextEncoderGradients:
    """Go back through a text encoder whose arguments are checked."""
    inputs, parameters, positions, settings, _, dropout = encoding
    pulled = pull_encoder(embed_text(encoding), parameters.encoder, settings, dropout.layers, cotangent)
    d_rows, d_norm = drop(pulled.inputs, dropout.embedding), None
    if parameters.embedding_norm is not None:
        rows = embed_at(inputs, parameters.embedding, positions, parameters.positions)
        d_rows, d_norm = pull_normalise(rows, parameters.embedding_norm, settings.epsilon, d_rows)
    embedded = pull_embed_at(inputs, parameters.embedding, parameters.positions, d_rows)
    d_parameters = TextEncoderParameters(embedded.parameters, embedded.table, d_norm, pulled.parameters)
    return TextEncoderGradients(embedded.inputs, d_parameters, pulled.bias)


def pull_linear(inputs: Array, parameters: LinearParameters, cotangent: Array) -> tuple[Array, LinearParameters]:
    """Return the gradients of vectors and parameters of x W + b."""
    d_inputs, d_weight, d_bias = pull_projection(inputs, parameters.weight, cotangent)
    return d_inputs, LinearParameters(d_weight, None if parameters.bias is None else d_bias)


def pull_embed_at(
    inputs: Array, parameters: LinearParameters | None, table: Array | None, cotangent: Array
) -> EmbeddedGradients:
    """Go back through embedding and positions; sinusoidal ones have no gradient."""
    d_table = None if table is None else pull_table(table, 0, cotangent)
    if parameters is None:
        return EmbeddedGradients(cotangent, None, d_table)
    return EmbeddedGradients(*pull_embedding(inputs, parameters, cotangent), d_table)


def pull_embedding(inputs: Array, parameters: LinearParameters, cotangent: Array) -> EmbeddingGradients:
    """Return the gradients of ids (none) or vectors, and of the parameters."""
    if inputs.dtype.kind not in "iu":
        return EmbeddingGradients(*pull_linear(widen(inputs), parameters, cotangent))
    d_bias = None if parameters.bias is None else cotangent.sum(axis=tuple(range(inputs.ndim)))
    return EmbeddingGradients(None, LinearParameters(_sum_by_id(cotangent, inputs, len(parameters.weight)), d_bias))


def pull_table(table: Array, offset: int, cotangent: Array) -> Array:
    """Return the gradient of a table of positions: 0 before and behind the rows that are read."""
    read = cotangent.sum(axis=tuple(range(cotangent.ndim - 2)))
    behind = len(table) - offset - len(read)
    return np.concatenate([np.zeros((offset, read.shape[-1])), read, np.zeros((behind, read.shape[-1]))])


def pull_pool(inputs: Array, valid: Array | None, cotangent: Array) -> Array:
    """Return the gradient of what was pooled."""
    valid = np.ones(inputs.shape[:-1], bool) if valid is None else valid
    share = cotangent / np.maximum(valid.sum(axis=-1), 1)[..., None]
    return np.where(valid[..., None], share[..., None, :], 0.0)


def _sum_by_id(vectors: Array, ids: Array, vocabulary: int) -> Array:
    """Add up, for each id of the vocabulary, the vectors that stand where it stands: (V, E)."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    distinct, starts = np.unique(flat[order], return_index=True)
    sums = np.add.reduceat(vectors.reshape(flat.size, vectors.shape[-1])[order], starts, axis=0)
    # Each row picks its sum; those that no id stands for pick the 0 behind them.
    picked = np.full(vocabulary, len(distinct))
    picked[distinct] = np.arange(len(distinct))
    gradient: Array = np.concatenate([sums, np.zeros((1, vectors.shape[-1]))])[picked]
    return gradient

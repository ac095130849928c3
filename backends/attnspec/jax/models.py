"""Models in JAX: embedding, positions, pooling, and what they make of encoder and decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from attnspec.contract.blocks import BlockSettings
from attnspec.contract.layer_parameters import (
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import TextEncoderDropout, TransformerDropout
from attnspec.contract.models import (
    SINUSOIDAL_BASE,
    ModelOptions,
    check_dropouts,
    check_sinusoids,
    check_start,
    check_table,
    check_text_encoder,
    check_transformer,
    check_valid,
    check_vectors,
)
from attnspec.contract.operands import check_floating
from attnspec.contract.parameter_checks import check_tree
from attnspec.contract.positional_masks import causal
from attnspec.contract.states import rebuild

from .attention import widen
from .blocks import drop, normalise, run_decoder, run_encoder
from .embeddings import as_model_tensors, embed, pool, prepare_embedding, with_sinusoids, with_table
from .projections import project
from .tensors import as_option, as_tensors, describe, mask_tensor, new_checks

_CAUSAL = causal()


def embedding(inputs: Any, parameters: LinearParameters) -> Array:
    """Embed ids, or map vectors: x W + b, where an id stands for the one-hot row that picks its row of W (S33).

    Arguments, shapes and errors: `attnspec.reference.embedding`.

    Differences: returns the weight's dtype. Ids whose values cannot be read (traced by `jit` or `vmap`, on an
    accelerator) are not refused outside the vocabulary: their rows are NaN.
    """
    inputs, parameters, dtype = prepare_embedding(inputs, parameters)
    embedded: Array = embed(inputs, parameters)
    return embedded.astype(dtype)


def add_sinusoidal_positions(inputs: Any, *, offset: Any = 0, base: float = 10000.0) -> Array:
    """Add to each vector the sinusoids of its position: x_t + PE[offset + t] (S22, S33).

    Arguments, shapes and errors: `attnspec.reference.add_sinusoidal_positions`.

    Differences: returns the inputs' dtype; sinusoids are computed in float32 for float32 and half precisions.
    """
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    base = check_sinusoids(inputs.shape, base)
    offset = check_start(offset, new_checks(inputs))
    moved: Array = with_sinusoids(widen(inputs), offset, base)
    return moved.astype(inputs.dtype)


def add_learned_positions(inputs: Any, table: Any, *, offset: Any = 0) -> Array:
    """Add to each vector that of its position in a table: x_t + table[offset + t] (S33).

    Arguments, shapes and errors: `attnspec.reference.add_learned_positions`.

    Differences: returns the inputs' dtype. Where the value of the offset cannot be read, positions beyond the table are
    NaN.
    """
    inputs, table = as_tensors(inputs=inputs, table=table)
    check_floating(inputs=describe(inputs), table=describe(table))
    checks = new_checks(inputs)
    check_vectors("inputs", inputs.shape)
    offset = check_start(offset, checks)
    check_table("table", table.shape, "inputs", inputs.shape, offset, checks)
    moved: Array = with_table(widen(inputs), widen(table), offset)
    return moved.astype(inputs.dtype)


def mean_pooling(inputs: Any, *, valid: Any = None) -> Array:
    """Average the vectors of a sequence over its valid positions: Σ_t valid_t x_t / Σ_t valid_t (S34).

    Arguments, shapes and errors: `attnspec.reference.mean_pooling`.

    Differences: returns the inputs' dtype; half precisions are added up in float32.
    """
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    check_vectors("inputs", inputs.shape)
    if valid is not None:
        valid = check_valid(valid, inputs.shape[:-1], new_checks(inputs))
        valid = mask_tensor(valid)
    pooled: Array = pool(widen(inputs), valid)
    return pooled.astype(inputs.dtype)


def text_encoder(
    inputs: Any,
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
    """Encode text: embed its ids, add positions, normalise, drop, and run an encoder: one vector for each id (S35).

    Arguments, shapes and errors: `attnspec.reference.text_encoder`.

    Differences: returns the weights' dtype, rounded once, at the end; otherwise as for `embedding` and `encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding = prepare_text_encoder(inputs, parameters, options)
    return run_text_encoder(encoding).astype(encoding.dtype)


def sequence_classifier(
    inputs: Any,
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
    """Classify sequences: one number for each class from the mean of what a text encoder says of valid positions (S35).

    Arguments, shapes and errors: `attnspec.reference.sequence_classifier`.

    Differences: as for `text_encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding, head = prepare_sequence_classifier(inputs, parameters, options)
    scores: Array = project(pool(run_text_encoder(encoding), encoding.valid), *head)
    return scores.astype(encoding.dtype)


def transformer(
    source: Any,
    target: Any,
    parameters: TransformerParameters,
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
) -> Array:
    """Read a source by an encoder, and write on a target by a decoder that reads both (S36).

    Arguments, shapes and errors: `attnspec.reference.transformer`.

    Differences: as for `text_encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid, target_mask, None, rotary, dropout
    )
    call = prepare_transformer(source, target, parameters, options)
    return run_transformer(call).astype(call.dtype)


class TextEncoding(NamedTuple):
    """One call of a text encoder whose arguments are checked."""

    inputs: Array
    """Ids or vectors."""
    parameters: TextEncoderParameters
    positions: str | None
    settings: BlockSettings
    valid: Array | None
    dropout: TextEncoderDropout
    dtype: jnp.dtype
    """Of the output."""


class Transduction(NamedTuple):
    """One call of a Transformer whose arguments are checked."""

    source: Array
    target: Array
    parameters: TransformerParameters
    positions: str | None
    encoder: BlockSettings
    decoder: BlockSettings
    dropout: TransformerDropout
    dtype: jnp.dtype
    """Of the output."""


def prepare_text_encoder(inputs: Any, parameters: TextEncoderParameters, options: ModelOptions) -> TextEncoding:
    """Check the arguments of a text encoder."""
    return _prepare_encoding(inputs, parameters, TextEncoderParameters, "", options)[0]


def prepare_sequence_classifier(
    inputs: Any, parameters: SequenceClassifierParameters, options: ModelOptions
) -> tuple[TextEncoding, LinearParameters]:
    """Check the arguments of a sequence classifier; return the call of its body, and its head."""
    encoding, weights = _prepare_encoding(inputs, parameters, SequenceClassifierParameters, "body", options)
    return encoding, weights.head


def prepare_transformer(
    source: Any, target: Any, parameters: TransformerParameters, options: ModelOptions
) -> Transduction:
    """Check the arguments of a Transformer."""
    settings, dropout = options.check(), check_dropouts(options.dropout, TransformerDropout)
    given = check_tree("parameters", parameters, TransformerParameters)
    embedded = [name for name in ("source", "target") if getattr(parameters, f"{name}_embedding") is not None]
    tensors = as_model_tensors({"source": source, "target": target}, embedded, given)
    described = {name: describe(array) for name, array in tensors.inputs.items()}
    layers = len(parameters.encoder.layers), len(parameters.decoder.layers)
    reading, writing = check_transformer(
        described, tensors.ids, tensors.leaves, layers, settings, options, dropout, new_checks(tensors.like)
    )
    source, target = tensors.inputs["source"], tensors.inputs["target"]
    weights = rebuild(parameters, tensors.arrays)
    return Transduction(source, target, weights, options.positions, reading, writing, dropout, tensors.like.dtype)


def run_text_encoder(encoding: TextEncoding) -> Array:
    """Embed and encode."""
    settings, layers = encoding.settings, encoding.dropout.layers
    return run_encoder(embed_text(encoding), encoding.parameters.encoder, settings, layers)


def embed_text(encoding: TextEncoding) -> Array:
    """Embed, add positions, normalise and drop: what the encoder takes."""
    parameters = encoding.parameters
    rows = embed_at(encoding.inputs, parameters.embedding, encoding.positions, parameters.positions)
    if parameters.embedding_norm is not None:
        rows = normalise(rows, parameters.embedding_norm, encoding.settings.epsilon)
    return drop(rows, encoding.dropout.embedding)


def run_transformer(call: Transduction) -> Array:
    """Encode the source, decode the target, and apply the head if there is one."""
    parameters, dropout = call.parameters, call.dropout
    memory = run_encoder(embed_source(call), parameters.encoder, call.encoder, dropout.encoder)
    rows = run_decoder(embed_target(call), memory, parameters.decoder, call.decoder, dropout.decoder)
    scores: Array = rows if parameters.head is None else project(rows, *parameters.head)
    return scores


def embed_source(call: Transduction) -> Array:
    """Embed the source, add positions, and drop: what the encoder takes."""
    parameters = call.parameters
    rows = embed_at(call.source, parameters.source_embedding, call.positions, parameters.source_positions)
    return drop(rows, call.dropout.source)


def embed_target(call: Transduction) -> Array:
    """Embed the target, add positions, and drop: what the decoder takes."""
    parameters = call.parameters
    rows = embed_at(call.target, parameters.target_embedding, call.positions, parameters.target_positions)
    return drop(rows, call.dropout.target)


def embed_at(inputs: Array, parameters: LinearParameters | None, positions: str | None, table: Array | None) -> Array:
    """Embed ids or vectors, vectors alone without parameters, and add the positions from 0 on."""
    rows: Array = widen(inputs) if parameters is None else embed(inputs, parameters)
    if positions == "sinusoidal":
        rows = with_sinusoids(rows, 0, SINUSOIDAL_BASE)
    return rows if table is None else with_table(rows, table, 0)


def _prepare_encoding(
    inputs: Any, parameters: Any, cls: type, path: str, options: ModelOptions
) -> tuple[TextEncoding, Any]:
    """Check the arguments of a text encoder that is the tree `cls`, or a branch of it; return that tree too."""
    settings, dropout = options.check(), check_dropouts(options.dropout, TextEncoderDropout)
    given = check_tree("parameters", parameters, cls)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    settings = settings.with_tensors(lambda name, value: as_option(name, value, tensors.like))
    inputs = tensors.inputs["inputs"]
    settings, valid = check_text_encoder(
        describe(inputs),
        tensors.ids.get("inputs"),
        tensors.leaves,
        len((getattr(parameters, path) if path else parameters).encoder.layers),
        settings,
        options,
        dropout,
        new_checks(tensors.like),
        path,
    )
    settings = settings.with_tensors(lambda _, array: widen(array))
    valid = None if valid is None else mask_tensor(valid)
    weights = rebuild(parameters, tensors.arrays)
    body = getattr(weights, path) if path else weights
    return TextEncoding(inputs, body, options.positions, settings, valid, dropout, tensors.like.dtype), weights

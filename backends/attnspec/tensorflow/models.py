"""Models in TensorFlow: embedding, positions, pooling, and what they make of encoder and decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

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
from .tensors import (
    as_option,
    as_tensors,
    assert_pending,
    describe,
    mask_tensor,
    new_checks,
    shape_of,
    without_autograph,
)

_CAUSAL = causal()


@without_autograph
def embedding(inputs: Any, parameters: LinearParameters) -> tf.Tensor:
    """Embed ids, or map vectors: x W + b, where an id stands for the one-hot row that picks its row of W (S33).

    Arguments, shapes and errors: `attnspec.reference.embedding`.

    Differences: returns the weight's dtype. Ids whose values cannot be read (those of a graph, of a variable, on an
    accelerator) are not refused outside the vocabulary: their rows are NaN, also on a CPU, where `tf.gather` fails.
    """
    inputs, parameters, dtype = prepare_embedding(inputs, parameters)
    return tf.cast(embed(inputs, parameters), dtype)


@without_autograph
def add_sinusoidal_positions(inputs: Any, *, offset: Any = 0, base: float = 10000.0) -> tf.Tensor:
    """Add to each vector the sinusoids of its position: x_t + PE[offset + t] (S22, S33).

    Arguments, shapes and errors: `attnspec.reference.add_sinusoidal_positions`.

    Differences: returns the inputs' dtype; sinusoids are computed in float32 for float32 and half precisions.
    """
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    base = check_sinusoids(shape_of(inputs), base)
    offset = check_start(offset, new_checks(inputs))
    return tf.cast(with_sinusoids(widen(inputs), offset, base), inputs.dtype)


@without_autograph
def add_learned_positions(inputs: Any, table: Any, *, offset: Any = 0) -> tf.Tensor:
    """Add to each vector that of its position in a table: x_t + table[offset + t] (S33).

    Arguments, shapes and errors: `attnspec.reference.add_learned_positions`.

    Differences: returns the inputs' dtype. Where the value of the offset cannot be read, positions beyond the table are
    NaN.
    """
    inputs, table = as_tensors(inputs=inputs, table=table)
    check_floating(inputs=describe(inputs), table=describe(table))
    checks = new_checks(inputs)
    check_vectors("inputs", shape_of(inputs))
    offset = check_start(offset, checks)
    check_table("table", shape_of(table), "inputs", shape_of(inputs), offset, checks)
    inputs, table = assert_pending(checks, inputs, table)
    return tf.cast(with_table(widen(inputs), widen(table), offset), inputs.dtype)


@without_autograph
def mean_pooling(inputs: Any, *, valid: Any = None) -> tf.Tensor:
    """Average the vectors of a sequence over its valid positions: Σ_t valid_t x_t / Σ_t valid_t (S34).

    Arguments, shapes and errors: `attnspec.reference.mean_pooling`.

    Differences: returns the inputs' dtype; half precisions are added up in float32.
    """
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    check_vectors("inputs", shape_of(inputs))
    if valid is not None:
        checks = new_checks(inputs)
        valid = mask_tensor(check_valid(valid, shape_of(inputs)[:-1], checks))
        inputs, valid = assert_pending(checks, inputs, valid)
    return tf.cast(pool(widen(inputs), valid), inputs.dtype)


@without_autograph
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
) -> tf.Tensor:
    """Encode text: embed its ids, add positions, normalise, drop, and run an encoder: one vector for each id (S35).

    Arguments, shapes and errors: `attnspec.reference.text_encoder`.

    Differences: returns the weights' dtype, rounded once, at the end; otherwise as for `embedding` and `encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding = prepare_text_encoder(inputs, parameters, options)
    return tf.cast(run_text_encoder(encoding), encoding.dtype)


@without_autograph
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
) -> tf.Tensor:
    """Classify sequences: one number for each class from the mean of what a text encoder says of valid positions (S35).

    Arguments, shapes and errors: `attnspec.reference.sequence_classifier`.

    Differences: as for `text_encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding, head = prepare_sequence_classifier(inputs, parameters, options)
    pooled = pool(run_text_encoder(encoding), encoding.valid)[..., None, :]  # tf.matmul takes no lone vector
    return tf.cast(project(pooled, *head)[..., 0, :], encoding.dtype)


@without_autograph
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
) -> tf.Tensor:
    """Read a source by an encoder, and write on a target by a decoder that reads both (S36).

    Arguments, shapes and errors: `attnspec.reference.transformer`.

    Differences: as for `text_encoder`.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid, target_mask, None, rotary, dropout
    )
    call = prepare_transformer(source, target, parameters, options)
    return tf.cast(run_transformer(call), call.dtype)


class TextEncoding(NamedTuple):
    """One call of a text encoder whose arguments are checked."""

    inputs: tf.Tensor
    """Ids or vectors."""
    parameters: TextEncoderParameters
    positions: str | None
    settings: BlockSettings
    valid: tf.Tensor | None
    dropout: TextEncoderDropout
    dtype: tf.DType
    """Of the output."""


class Transduction(NamedTuple):
    """One call of a Transformer whose arguments are checked."""

    source: tf.Tensor
    target: tf.Tensor
    parameters: TransformerParameters
    positions: str | None
    encoder: BlockSettings
    decoder: BlockSettings
    dropout: TransformerDropout
    dtype: tf.DType
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
    described = {name: describe(tensor) for name, tensor in tensors.inputs.items()}
    checks, layers = new_checks(tensors.like), (len(parameters.encoder.layers), len(parameters.decoder.layers))
    reading, writing = check_transformer(
        described, tensors.ids, tensors.leaves, layers, settings, options, dropout, checks
    )
    source, target, *arrays = assert_pending(checks, *tensors.inputs.values(), *tensors.arrays.values())
    weights = rebuild(parameters, dict(zip(given, arrays, strict=True)))
    return Transduction(source, target, weights, options.positions, reading, writing, dropout, tensors.like.dtype)


def run_text_encoder(encoding: TextEncoding) -> tf.Tensor:
    """Embed and encode."""
    settings, layers = encoding.settings, encoding.dropout.layers
    return run_encoder(embed_text(encoding), encoding.parameters.encoder, settings, layers)


def embed_text(encoding: TextEncoding) -> tf.Tensor:
    """Embed, add positions, normalise and drop: what the encoder takes."""
    parameters = encoding.parameters
    rows = embed_at(encoding.inputs, parameters.embedding, encoding.positions, parameters.positions)
    if parameters.embedding_norm is not None:
        rows = normalise(rows, parameters.embedding_norm, encoding.settings.epsilon)
    return drop(rows, encoding.dropout.embedding)


def run_transformer(call: Transduction) -> tf.Tensor:
    """Encode the source, decode the target, and apply the head if there is one."""
    parameters, dropout = call.parameters, call.dropout
    memory = run_encoder(embed_source(call), parameters.encoder, call.encoder, dropout.encoder)
    rows = run_decoder(embed_target(call), memory, parameters.decoder, call.decoder, dropout.decoder)
    return rows if parameters.head is None else project(rows, *parameters.head)


def embed_source(call: Transduction) -> tf.Tensor:
    """Embed the source, add positions, and drop: what the encoder takes."""
    parameters = call.parameters
    rows = embed_at(call.source, parameters.source_embedding, call.positions, parameters.source_positions)
    return drop(rows, call.dropout.source)


def embed_target(call: Transduction) -> tf.Tensor:
    """Embed the target, add positions, and drop: what the decoder takes."""
    parameters = call.parameters
    rows = embed_at(call.target, parameters.target_embedding, call.positions, parameters.target_positions)
    return drop(rows, call.dropout.target)


def embed_at(
    inputs: tf.Tensor, parameters: LinearParameters | None, positions: str | None, table: tf.Tensor | None
) -> tf.Tensor:
    """Embed ids or vectors, vectors alone without parameters, and add the positions from 0 on."""
    rows = widen(inputs) if parameters is None else embed(inputs, parameters)
    if positions == "sinusoidal":
        return with_sinusoids(rows, 0, SINUSOIDAL_BASE)
    return rows if table is None else with_table(rows, table, 0)


def _prepare_encoding(
    inputs: Any, parameters: Any, cls: type, path: str, options: ModelOptions
) -> tuple[TextEncoding, Any]:
    """Check the arguments of a text encoder that is the tree `cls`, or a branch of it; return that tree too."""
    settings, dropout = options.check(), check_dropouts(options.dropout, TextEncoderDropout)
    given = check_tree("parameters", parameters, cls)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    settings = settings.with_tensors(lambda name, value: as_option(name, value, tensors.like))
    inputs, checks = tensors.inputs["inputs"], new_checks(tensors.like)
    settings, valid = check_text_encoder(
        describe(inputs),
        tensors.ids.get("inputs"),
        tensors.leaves,
        len((getattr(parameters, path) if path else parameters).encoder.layers),
        settings,
        options,
        dropout,
        checks,
        path,
    )
    settings = settings.with_tensors(lambda _, array: widen(array))
    valid = None if valid is None else mask_tensor(valid)
    inputs, valid, *arrays = assert_pending(checks, inputs, valid, *tensors.arrays.values())
    weights = rebuild(parameters, dict(zip(given, arrays, strict=True)))
    body = getattr(weights, path) if path else weights
    return TextEncoding(inputs, body, options.positions, settings, valid, dropout, tensors.like.dtype), weights

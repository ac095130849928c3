"""Models: embedding, positions, pooling, and what they make of encoder and decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    check_text_encoder,
    check_transformer,
)
from attnspec.contract.operands import check_floating
from attnspec.contract.parameter_checks import check_tree
from attnspec.contract.positional_masks import causal
from attnspec.contract.states import rebuild

from .attention import widen
from .blocks import drop, normalise, run_decoder, run_encoder
from .embeddings import (
    as_model_tensors,
    embed,
    pool,
    prepare_embedding,
    prepare_learned_positions,
    prepare_pooling,
    with_sinusoids,
    with_table,
)
from .projections import project
from .tensors import Array, as_option, as_tensors, describe, mask_tensor, new_checks

_CAUSAL = causal()


def embedding(inputs: Any, parameters: LinearParameters) -> Array:
    """Embed ids, or map vectors: x W + b, where an id stands for the one-hot row that picks its row of W (S33).

        output_t = W[id_t] + b   of ids,     output_t = x_t W + b   of vectors

    Args:
        inputs: ids, integers of any dtype (*B, T), or vectors (*B, T, V), floating. Nested lists of ints are ids.
        parameters: `LinearParameters(weight, bias)`, (V, E) and (E,), the bias may be None.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError: an id that is negative or not less than V, vectors of another size.
        TypeError: booleans; dtypes that differ.

    A row of the weight that no id picks is not read. A vector with a component that is not finite gives NaN at its own
    position.

    Source: Bengio et al. 2003, §2 (the matrix C).
    """
    inputs, parameters = prepare_embedding(inputs, parameters)
    return embed(inputs, parameters)


def add_sinusoidal_positions(inputs: Any, *, offset: Any = 0, base: float = 10000.0) -> Array:
    """Add to each vector the sinusoids of its position: x_t + PE[offset + t] (S22, S33).

    Args:
        inputs: (*B, T, E), E even.
        offset: where the first vector stands, an int or an integer array without axes, at least 0.
        base: of the frequencies, as for `sinusoidal_positions`.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError: an odd size, a negative offset.
        TypeError: inputs that are not floating, an offset that is no integer.

    The derivative by the inputs is the identity.

    Source: Vaswani et al. 2017, §3.5.
    """
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    base = check_sinusoids(inputs.shape, base)
    return with_sinusoids(widen(inputs), check_start(offset, new_checks()), base)


def add_learned_positions(inputs: Any, table: Any, *, offset: Any = 0) -> Array:
    """Add to each vector that of its position in a table: x_t + table[offset + t] (S33).

    Args:
        inputs: (*B, T, E).
        table: (max_length, E).
        offset: where the first vector stands, an int or an integer array without axes, at least 0.

    Returns:
        (*B, T, E), float64.

    Raises:
        ValueError: positions beyond the table, a table of another size, a negative offset.
        TypeError: dtypes that differ or are not floating, an offset that is no integer.

    Rows of the table at other positions are not read.

    Source: Gehring et al. 2017, §3.1.
    """
    return with_table(*prepare_learned_positions(inputs, table, offset))


def mean_pooling(inputs: Any, *, valid: Any = None) -> Array:
    """Average the vectors of a sequence over its valid positions: Σ_t valid_t x_t / Σ_t valid_t (S34).

    Args:
        inputs: (*B, T, E).
        valid: boolean, (*B, T), True = a real token; None: all of them.

    Returns:
        (*B, E), float64; 0 where no position is valid.

    Raises:
        ValueError: a `valid` of another shape than (*B, T).
        TypeError: inputs that are not floating, a `valid` that is not boolean.

    What is not valid is not read, not even as NaN or Inf.

    Source: Reimers and Gurevych 2019, §3 (the MEAN strategy).
    """
    return pool(*prepare_pooling(inputs, valid))


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

        output = encoder(drop(norm(embedding(inputs) + positions)))     norm only where there are parameters for it

    Args:
        inputs: ids (*B, T) or vectors (*B, T, V), as for `embedding`.
        parameters: `TextEncoderParameters`: embedding, (V, E); positions, a table (max_length, E), or None;
            embedding_norm, or None; encoder.
        positions: "sinusoidal", as for `add_sinusoidal_positions`; "learned", as for `add_learned_positions`, exactly
            where there is a table; or None.
        valid: boolean, (*B, T), True = a real token; None: all of them. Other positions are hidden from every query.
        mask: what is hidden besides, as for `encoder`.
        num_heads, num_kv_heads, norm, activation, epsilon, bias, rotary: as for `encoder`; epsilon also of
            embedding_norm.
        dropout: `TextEncoderDropout(embedding, layers)` or None: a `Dropout` whose keep array has the shape (*B, T, E),
            each axis full or 1, and a tuple as for `encoder`; each may be None.

    Returns:
        (*B, T, E), float64. Rows of positions that are not valid are computed as all others are, and read by no other.

    Raises:
        ValueError, TypeError: as for `embedding`, `encoder` and positions; learned positions without a table, a table
            without learned positions, inputs longer than it, a `valid` of another shape or dtype.

    The embedding is not multiplied by √E.

    Source: Vaswani et al. 2017, §3.1 and §3.4; Devlin et al. 2019, §3 (learned positions, the normalisation).
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    return run_text_encoder(prepare_text_encoder(inputs, parameters, options))


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

        output = mean_pooling(text_encoder(inputs)) W + b

    Args:
        inputs: ids (*B, T) or vectors (*B, T, V), as for `embedding`.
        parameters: `SequenceClassifierParameters`: body, `TextEncoderParameters`; head, `LinearParameters`: W, (E, C),
            and b, (C,) or None.
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout: as for
            `text_encoder`.

    Returns:
        (*B, C), float64: logits. A sequence without a valid position gives b.

    Raises:
        ValueError, TypeError: as for `text_encoder` and `mean_pooling`.

    What is not valid has no influence, not even as NaN or Inf, nor has where it stands.

    Source: Reimers and Gurevych 2019, §3 (the MEAN strategy, before a classifier).
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, valid, mask, bias, rotary, dropout
    )
    encoding, head = prepare_sequence_classifier(inputs, parameters, options)
    return project(pool(run_text_encoder(encoding), encoding.valid), *head)


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

        memory = encoder(drop(embedding_s(source) + positions_s))
        output = decoder(drop(embedding_t(target) + positions_t), memory) W + b

    Args:
        source: ids (*B, Ts) or vectors (*B, Ts, V) where there is a source_embedding; without it vectors (*B, Ts, E).
        target: likewise of length Tt; what has been written before each position that is asked for.
        parameters: `TransformerParameters`: encoder, decoder; source_embedding, target_embedding,
            `LinearParameters` (V, E); source_positions, target_positions, tables (max_length, E); head,
            `LinearParameters`: W, (E, C), and b, (C,): all of these may be None.
        positions: "sinusoidal"; "learned", exactly where there are both tables; or None. They are added to source and
            target, also to vectors.
        source_valid: boolean, (*B, Ts), True = a real token; None: all of them. Other positions are hidden from every
            query, in the encoder and in the decoder.
        target_mask: of the decoder's attention among the targets, by default `causal()`; None: all is visible.
        num_heads, num_kv_heads, norm, activation, epsilon: of both, as for `encoder` and `decoder`.
        rotary: of the attention among the sources and of that among the targets.
        dropout: `TransformerDropout(source, target, encoder, decoder)` or None: a `Dropout` of the embedded source and
            one of the embedded target, with keep arrays of their shapes, each axis full or 1; and tuples as for
            `encoder` and `decoder`; each may be None.

    Returns:
        (*B, Tt, C), float64; (*B, Tt, E) without a head.

    Raises:
        ValueError, TypeError: as for `embedding`, `encoder`, `decoder` and positions; learned positions without both
            tables, a table without learned positions, other batch axes of the target, a `source_valid` of another
            shape or dtype.

    Source: Vaswani et al. 2017, §3.
    """
    options = ModelOptions(
        num_heads, num_kv_heads, norm, activation, epsilon, positions, source_valid, target_mask, None, rotary, dropout
    )
    return run_transformer(prepare_transformer(source, target, parameters, options))


class TextEncoding(NamedTuple):
    """One call of a text encoder whose arguments are checked."""

    inputs: Array
    """Ids or vectors."""
    parameters: TextEncoderParameters
    positions: str | None
    settings: BlockSettings
    valid: Array | None
    dropout: TextEncoderDropout


class Transduction(NamedTuple):
    """One call of a Transformer whose arguments are checked."""

    source: Array
    target: Array
    parameters: TransformerParameters
    positions: str | None
    encoder: BlockSettings
    decoder: BlockSettings
    dropout: TransformerDropout


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
        described, tensors.ids, tensors.leaves, layers, settings, options, dropout, new_checks()
    )
    source, target = tensors.inputs["source"], tensors.inputs["target"]
    weights = rebuild(parameters, tensors.arrays)
    return Transduction(source, target, weights, options.positions, reading, writing, dropout)


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
    return rows if parameters.head is None else project(rows, *parameters.head)


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
    inputs = tensors.inputs["inputs"]
    settings, valid = check_text_encoder(
        describe(inputs),
        tensors.ids.get("inputs"),
        tensors.leaves,
        len((getattr(parameters, path) if path else parameters).encoder.layers),
        settings,
        options,
        dropout,
        new_checks(),
        path,
    )
    settings = settings.with_tensors(lambda _, array: widen(array))
    valid = None if valid is None else mask_tensor(valid)
    weights = rebuild(parameters, tensors.arrays)
    body = getattr(weights, path) if path else weights
    return TextEncoding(inputs, body, options.positions, settings, valid, dropout), weights

"""Faults of embedding, positions, pooling and whole models."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.masks import as_mask

from . import layer_steps
from .layer_models import (
    add_learned_positions,
    add_sinusoidal_positions,
    embedding,
    sequence_classifier,
    text_encoder,
    transformer,
)
from .layer_steps import Steps
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]

planting = Planting()
planted = planting.step


# Embedding.

_EMBEDDING = "embedding"


@planting.body(_EMBEDDING, "S33", "ids", ISSUES + "INK-USC/MHGRN/issues/5")
def shifted_by_one(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Take the row before each id's, as if one were kept for padding."""
    ids = inputs - 1 if inputs.dtype.kind in "iu" else inputs
    return embedding(steps, ids, parameters)


@planting.body(_EMBEDDING, "S33", "the id 0", ISSUES + "huggingface/transformers/pull/358")
def padding_row_zero(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Take the id 0 for padding, whose row is 0."""
    rows = embedding(steps, inputs, parameters)
    return np.where((inputs == 0)[..., None], 0, rows) if inputs.dtype.kind in "iu" else rows


@planting.body(_EMBEDDING, "S33", "always", ISSUES + "harvardnlp/annotated-transformer/issues/60")
def scaled_by_root_of_size(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Multiply by √E."""
    rows = embedding(steps, inputs, parameters)
    return rows * np.sqrt(rows.shape[-1]).astype(rows.dtype)


@planting.body(_EMBEDDING, "S33", "ids, a bias", "a table has no bias")
def bias_of_vectors_alone(steps: Steps, inputs: Array, parameters: LinearParameters) -> Array:
    """Add the bias to projected vectors and not to the rows of ids."""
    is_table = inputs.dtype.kind in "iu"
    return embedding(steps, inputs, parameters._replace(bias=None) if is_table else parameters)


# Positions.

_SINUSOIDS = "add_sinusoidal_positions"
_LEARNED = "add_learned_positions"


@planted("sinusoids", _SINUSOIDS, "S33", "always", ISSUES + "bojone/attention/issues/2")
def sine_and_cosine_swapped(positions: Array, size: int, base: float) -> Array:
    """Begin with the cosine."""
    pairs = layer_steps.sinusoids(positions, size, base).reshape(positions.size, -1, 2)
    return pairs[..., ::-1].reshape(positions.size, size)


@planted("sinusoids", _SINUSOIDS, "S33", "E > 2", ISSUES + "tensorflow/tensor2tensor/issues/1925")
def sines_before_cosines(positions: Array, size: int, base: float) -> Array:
    """Put all sines before all cosines."""
    rows = layer_steps.sinusoids(positions, size, base)
    return np.concatenate([rows[:, ::2], rows[:, 1::2]], axis=-1)


@planted("sinusoids", _SINUSOIDS, "S33", "always", "positions that are counted from 1")
def positions_from_one(positions: Array, size: int, base: float) -> Array:
    """Let the first vector stand at 1."""
    return layer_steps.sinusoids(positions + 1, size, base)


@planted("sinusoids", _SINUSOIDS, "S33", "E > 2, more than one position", "c for 2c in the exponent")
def exponent_halved(positions: Array, size: int, base: float) -> Array:
    """Compute base^(−c/size): wavelengths grow half as fast."""
    return layer_steps.sinusoids(positions, size, base**0.5)


@planting.body(_SINUSOIDS, "S33", "an offset", "a step of a decoder that begins at 0 again")
def offset_ignored(steps: Steps, inputs: Array, *, offset: Any = 0, base: float = 10000.0) -> Array:
    """Accept an offset and begin at 0."""
    del offset
    return add_sinusoidal_positions(steps, inputs, base=base)


@planting.body(_SINUSOIDS, "S33", "a batch", ISSUES + "AkiRusProd/numpy-transformer/issues/1")
def positions_of_batch(steps: Steps, inputs: Array, **options: Any) -> Array:
    """Give each element of the batch a position, and all its vectors the same."""
    return np.moveaxis(add_sinusoidal_positions(steps, np.moveaxis(inputs, 0, -2), **options), -2, 0)


@planted("table_rows", _LEARNED, "S33", "more than one position", "the published parameter of shape (1, E)")
def one_vector_for_all(table: Array, start: int, length: int) -> Array:
    """Add the first row to all."""
    del start, length
    return table[:1]


@planted("table_rows", _LEARNED, "S33", "a table that is long enough", ISSUES + "huggingface/transformers/issues/22359")
def rows_from_two(table: Array, start: int, length: int) -> Array:
    """Skip two rows, which another model keeps for padding."""
    return np.take(table, start + 2 + np.arange(length), axis=0, mode="clip")


@planted("table_rows", _LEARNED, "S33", "an offset", "a step of a decoder that begins at 0 again")
def rows_from_zero(table: Array, start: int, length: int) -> Array:
    """Accept an offset and begin at 0."""
    del start
    return table[:length]


@planting.body(_LEARNED, "S33", "a batch", ISSUES + "tanjimin/C.Origami/issues/42")
def rows_of_batch(steps: Steps, inputs: Array, table: Array, **options: Any) -> Array:
    """Give each element of the batch a position, and all its vectors the same."""
    return np.moveaxis(add_learned_positions(steps, np.moveaxis(inputs, 0, -2), table, **options), -2, 0)


# Pooling.

_POOLING = "mean_pooling"
_PADDING = "positions that are not valid"


@planted("pool", _POOLING, "S34", _PADDING, ISSUES + "dbiir/UER-py/pull/190")
def padding_averaged(inputs: Array, valid: Array) -> Array:
    """Average over all positions."""
    del valid
    return inputs.mean(axis=-2)


@planted("pool", _POOLING, "S34", _PADDING, "a mean of what is masked by 0")
def divided_by_length(inputs: Array, valid: Array) -> Array:
    """Sum over the valid positions, and divide by all."""
    return np.where(valid[..., None], inputs, 0).mean(axis=-2)


@planted("pool", _POOLING, "S34", "no valid position", "0/0")
def nan_without_valid(inputs: Array, valid: Array) -> Array:
    """Divide by the number of valid positions, also by 0."""
    return np.where(valid[..., None], inputs, 0).sum(axis=-2) / valid.sum(axis=-1)[..., None].astype(inputs.dtype)


@planted("pool", _POOLING, "S34", "NaN where it is not valid", "a mask that multiplies")
def padding_multiplied(inputs: Array, valid: Array) -> Array:
    """Multiply padding by 0: 0 · NaN is NaN."""
    total = (inputs * valid[..., None].astype(inputs.dtype)).sum(axis=-2)
    return total / np.maximum(valid.sum(axis=-1), 1)[..., None].astype(inputs.dtype)


@planted("pool", _POOLING, "S34", "more than one position", "the pooling of another model")
def first_position(inputs: Array, valid: Array) -> Array:
    """Take the first position."""
    return np.where(valid[..., :1], inputs[..., 0, :], 0)


# Text encoder.

_TEXT = "text_encoder"


@planting.body(_TEXT, "S35", "positions", "an encoder without positions does not see the order")
def positions_missing(
    steps: Steps, inputs: Array, parameters: TextEncoderParameters, *, positions: Any = "sinusoidal", **options: Any
) -> Array:
    """Add no positions."""
    del positions
    return text_encoder(steps, inputs, parameters._replace(positions=None), positions=None, **options)


@planting.body(_TEXT, "S35", "learned positions", "the default of the option wins")
def sinusoids_for_learned(
    steps: Steps, inputs: Array, parameters: TextEncoderParameters, *, positions: Any = "sinusoidal", **options: Any
) -> Array:
    """Add sinusoidal positions instead of the table's."""
    own = None if positions is None else "sinusoidal"
    return text_encoder(steps, inputs, parameters._replace(positions=None), positions=own, **options)


@planting.body(_TEXT, "S35", _PADDING, ISSUES + "facebookresearch/fairseq/issues/318")
def valid_ignored(steps: Steps, *arguments: Any, valid: Any = None, **options: Any) -> Array:
    """Accept what is valid and attend to all."""
    del valid
    return text_encoder(steps, *arguments, **options)


@planting.body(_TEXT, "S35", _PADDING, ISSUES + "bentrevett/pytorch-seq2seq/issues/119")
def padding_hidden_as_queries(
    steps: Steps, *arguments: Any, valid: Any = None, mask: Any = None, **options: Any
) -> Array:
    """Hide padding as a query too: its rows attend to nothing."""
    if valid is not None:
        rows = as_mask(valid[..., None, :, None])
        mask = rows if mask is None else as_mask(mask) & rows
    return text_encoder(steps, *arguments, valid=valid, mask=mask, **options)


@planting.body(_TEXT, "S35", _PADDING, ISSUES + "jadore801120/attention-is-all-you-need-pytorch/issues/148")
def valid_inverted(steps: Steps, *arguments: Any, valid: Any = None, **options: Any) -> Array:
    """Take True for padding."""
    return text_encoder(steps, *arguments, valid=None if valid is None else ~valid, **options)


@planting.body(_TEXT, "S35", "a normalisation of the embedding", "the normalisation belongs to the embedding's module")
def norm_before_positions(
    steps: Steps, inputs: Array, parameters: TextEncoderParameters, *, positions: Any = "sinusoidal", **options: Any
) -> Array:
    """Normalise before the positions are added."""
    norm = parameters.embedding_norm
    rows = embedding(steps, inputs, parameters.embedding)
    if norm is not None:
        rows = steps.layer_norm(rows, norm, options.get("epsilon", 1e-5))
    identity = LinearParameters(np.eye(rows.shape[-1], dtype=rows.dtype))
    rest = parameters._replace(embedding=identity, embedding_norm=None)
    return text_encoder(steps, rows, rest, positions=positions, **options)


@planting.body(_TEXT, "S35", "always", ISSUES + "pytorch/examples/issues/854")
def embedding_scaled(steps: Steps, *arguments: Any, **options: Any) -> Array:
    """Multiply the embedding by √E."""

    def embed(inputs: Array, parameters: LinearParameters) -> Array:
        rows = steps.embed(inputs, parameters)
        return rows * np.sqrt(rows.shape[-1]).astype(rows.dtype)

    return text_encoder(steps._replace(embed=embed), *arguments, **options)


# Sequence classifier.

_CLASSES = "sequence_classifier"


def _classify(steps: Steps, pool: Any, *arguments: Any, **options: Any) -> Array:
    return sequence_classifier(steps._replace(pool=pool), *arguments, **options)


@planting.body(_CLASSES, "S35", _PADDING, ISSUES + "lanterndata/lantern_extras/pull/91")
def pooled_over_padding(steps: Steps, *arguments: Any, **options: Any) -> Array:
    """Hide padding from the attention, and average over it."""
    return _classify(steps, padding_averaged, *arguments, **options)


@planting.body(_CLASSES, "S35", "more than one position", "the first token of another model")
def first_token(steps: Steps, *arguments: Any, **options: Any) -> Array:
    """Classify by the first position."""
    return _classify(steps, first_position, *arguments, **options)


@planting.body(_CLASSES, "S35", _PADDING, ISSUES + "facebookresearch/fairseq/issues/318")
def padding_attended(
    steps: Steps, inputs: Array, parameters: SequenceClassifierParameters, *, valid: Any = None, **options: Any
) -> Array:
    """Leave padding out of the mean, and attend to it."""

    def pool(rows: Array, _: Array) -> Array:
        return steps.pool(rows, np.ones(rows.shape[:-1], bool) if valid is None else valid)

    return sequence_classifier(steps._replace(pool=pool), inputs, parameters, **options)


@planting.body(_CLASSES, "S35", "a bias of the head", "a head without bias")
def head_bias_ignored(steps: Steps, inputs: Array, parameters: SequenceClassifierParameters, **options: Any) -> Array:
    """Accept the bias of the head and forget it."""
    head = parameters.head._replace(bias=None)
    return sequence_classifier(steps, inputs, parameters._replace(head=head), **options)


# Transformer.

_TRANSFORMER = "transformer"


@planting.body(_TRANSFORMER, "S36", "several targets", ISSUES + "OpenNMT/OpenNMT-py/issues/1044")
def target_mask_missing(steps: Steps, *arguments: Any, target_mask: Any = None, **options: Any) -> Array:
    """Let targets see later ones."""
    del target_mask
    return transformer(steps, *arguments, target_mask=None, **options)


@planted("source_masks", _TRANSFORMER, "S36", "padding of the source", ISSUES + "Kamichanw/SeekDeeper/issues/3")
def padding_in_memory(valid: Array | None) -> tuple[Any, Any]:
    """Hide the padding of the source from the encoder alone: the decoder reads it."""
    return layer_steps.source_masks(valid)[0], None


@planted("source_masks", _TRANSFORMER, "S36", "padding of the source", ISSUES + "facebookresearch/fairseq/issues/318")
def padding_in_encoder(valid: Array | None) -> tuple[Any, Any]:
    """Hide the padding of the source from the decoder alone."""
    return None, layer_steps.source_masks(valid)[1]


@planting.body(_TRANSFORMER, "S36", "different embeddings of one size", "one embedding for both sides")
def source_embedding_for_target(
    steps: Steps, source: Array, target: Array, parameters: TransformerParameters, **options: Any
) -> Array:
    """Embed the target by the rows of the source's embedding."""
    return transformer(
        steps, source, target, parameters._replace(target_embedding=parameters.source_embedding), **options
    )


@planting.body(_TRANSFORMER, "S36", "an encoder of at least one layer", "the embedded source is handed on")
def encoder_skipped(
    steps: Steps, source: Array, target: Array, parameters: TransformerParameters, **options: Any
) -> Array:
    """Let the decoder read the source as it was embedded."""
    skipped = parameters._replace(encoder=parameters.encoder._replace(layers=(), norm=None))
    return transformer(steps, source, target, skipped, **options)


@planting.body(
    _TRANSFORMER, "S36", "a last normalisation of the encoder", ISSUES + "facebookresearch/xformers/issues/665"
)
def memory_not_normalised(
    steps: Steps, source: Array, target: Array, parameters: TransformerParameters, **options: Any
) -> Array:
    """Forget the last normalisation of the encoder."""
    bare = parameters._replace(encoder=parameters.encoder._replace(norm=None))
    return transformer(steps, source, target, bare, **options)


@planting.body(_TRANSFORMER, "S36", "always", "the target is shifted in the data and in the model")
def target_shifted(
    steps: Steps, source: Array, target: Array, parameters: TransformerParameters, **options: Any
) -> Array:
    """Move the target one place to the right, and repeat its first."""
    axis = -1 if target.dtype.kind in "iu" else -2
    places = np.maximum(np.arange(target.shape[axis]) - 1, 0)
    return transformer(steps, source, np.take(target, places, axis=axis), parameters, **options)

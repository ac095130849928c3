"""Wrong calls of embedding, positions, pooling and models: refused, in the same words everywhere (S33–S36)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused

from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import EncoderLayerDropout, TextEncoderDropout, TransformerDropout

LISTS = "must be an array or nested lists of numbers; got"
OUTSIDE = "ids in `inputs` must be at least 0 and less than the size of the vocabulary, 5; got"
OFFSET = "`offset` must be an int or an integer tensor without axes; got"
SIZE = "`size` must be even and at least 0: sines and cosines come in pairs; got"
AN_OBJECT = "got an object of type attnspec"
HALF = [[True, True, False], [True, False, False]]


def tensor_of(t: Maker, given: Any) -> Any:
    """Make a tensor from a shape, or take what is no shape as it is."""
    return t(*given) if type(given) is tuple else given


def embed(inputs: Any, *changes: Any, **named: Any) -> Any:
    """Embed by (5, 2) and (2,), or by what is given in their place: a shape, or anything else as it is."""

    def call(attn: ModuleType, t: Maker) -> Any:
        given = dict(zip(("weight", "bias"), changes, strict=False)) | named
        arrays = {name: tensor_of(t, change) for name, change in ({"weight": (5, 2), "bias": (2,)} | given).items()}
        return attn.embedding(tensor_of(t, inputs), LinearParameters(**arrays))

    return call


def sinusoids(inputs: Any, **options: Any) -> Any:
    return lambda attn, t: attn.add_sinusoidal_positions(tensor_of(t, inputs), **options)


def learned(inputs: Any, table: Any, **options: Any) -> Any:
    return lambda attn, t: attn.add_learned_positions(tensor_of(t, inputs), tensor_of(t, table), **options)


def pooled(inputs: Any, valid: Any) -> Any:
    return lambda attn, t: attn.mean_pooling(tensor_of(t, inputs), valid=valid)


EMBEDDINGS: dict[str, Case] = {
    "the size of the vocabulary": (ValueError, f"{OUTSIDE} 5 at (1, 2)", embed([[0, 4, 1], [2, 3, 5]])),
    "the worst of many": (ValueError, f"{OUTSIDE} 90 at (1, 0)", embed([[0, 9, -7], [90, 3, 5]])),
    "below": (ValueError, f"{OUTSIDE} -7 at (2,)", embed([0, 9, -7])),
    "-1 beside the size": (ValueError, f"{OUTSIDE} -1 at (2,)", embed([0, 5, -1])),
    "native": (ValueError, f"{OUTSIDE} -3 at (0, 1)", lambda attn, t: embed(t.of([[1, -3]], "int32"))(attn, t)),
    "beyond int64": (ValueError, f"{OUTSIDE} {2**64 - 1} at (0,)", embed(np.array([2**64 - 1], np.uint64))),
    "booleans": (
        TypeError,
        "`inputs` must have an integer or a floating dtype; got bool",
        lambda attn, t: embed(t(2, 3, dtype="bool"))(attn, t),
    ),
    "booleans in lists": (TypeError, "`inputs` must have an integer or a floating dtype; got bool", embed([[True]])),
    "None": (TypeError, f"`inputs` {LISTS} None", embed(None)),
    "str": (TypeError, f"`inputs` {LISTS} an object of type str", embed("the cat")),
    "words": (TypeError, f"`inputs` {LISTS} a list that holds an object of type str", embed(["the", "cat"])),
    "ragged": (ValueError, "`inputs` must be nested lists of equal lengths", embed([[1], [1, 2]])),
    "one id": (
        ValueError,
        "`inputs` must have at least 1 axis, (*batch, length), where it holds ids; got shape ()",
        embed(3),
    ),
    "one vector": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (5,)",
        embed((5,)),
    ),
    "ids as floating numbers": (
        ValueError,
        (
            "`inputs` must hold ids, integers, or vectors with a component (axis -1) for each row of `weight`; "
            "got shapes inputs (2, 3) and weight (5, 2)"
        ),
        embed((2, 3)),
    ),
    "no rows": (ValueError, "`weight` of `parameters` must have at least 1 row; got shape (0, 2)", embed([1], (0, 2))),
    "weight of rank 1": (
        ValueError,
        "`weight` of `parameters` must have shape (V, E); got (5,)",
        embed([1], (5,)),
    ),
    "size of bias": (
        ValueError,
        "`bias` of `parameters` must have shape (E,) = (2,); got (5,)",
        embed([1], bias=(5,)),
    ),
    "dtype of bias": (
        TypeError,
        "`bias` of `parameters` must have the dtype of `weight`; got weight float64 and bias float32",
        embed([1], bias=np.zeros(2, np.float32)),
    ),
    "dtype of vectors": (
        TypeError,
        "`weight` of `parameters` must have the dtype of `inputs`; got inputs float32 and weight float64",
        embed(np.zeros((3, 5), np.float32)),
    ),
    "no weight": (TypeError, "`weight` of `parameters` must be given; got None", embed([1], None)),
    "int weight": (
        TypeError,
        f"`weight` of `parameters` {FLOATING}; got int64",
        embed([1], np.zeros((5, 2), np.int64)),
    ),
    "pair": (
        TypeError,
        "`parameters` must be LinearParameters(weight, …); got an object of type tuple",
        lambda attn, t: attn.embedding([1], (t(5, 2), None)),
    ),
}

POSITIONS: dict[str, Case] = {
    "odd size": (ValueError, f"{SIZE} 7", sinusoids((3, 7))),
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (4,)",
        sinusoids((4,)),
    ),
    "int inputs": (
        TypeError,
        f"`inputs` {FLOATING}; got int64",
        sinusoids(np.zeros((3, 4), np.int64)),
    ),
    "base of 0": (ValueError, "`base` must be positive and finite; got 0.0", sinusoids((3, 4), base=0)),
    "negative offset": (ValueError, "`offset` must be at least 0; got -1", sinusoids((3, 4), offset=-1)),
    "native negative offset": (
        ValueError,
        "`offset` must be at least 0; got -2",
        lambda attn, t: sinusoids((3, 4), offset=t.of(-2, "int32"))(attn, t),
    ),
    "offset for each": (ValueError, f"{OFFSET} shape (2,)", sinusoids((2, 3, 4), offset=[0, 1])),
    "float offset": (TypeError, f"{OFFSET} an object of type float", sinusoids((3, 4), offset=1.0)),
    "native float offset": (
        TypeError,
        f"{OFFSET} dtype float64",
        lambda attn, t: sinusoids((3, 4), offset=t.of(1.0, "float64"))(attn, t),
    ),
    "bool offset": (TypeError, f"{OFFSET} a boolean", sinusoids((3, 4), offset=True)),
    "None offset": (TypeError, f"{OFFSET} None", sinusoids((3, 4), offset=None)),
    "'end'": (TypeError, f"{OFFSET} an object of type str", sinusoids((3, 4), offset="end")),
    "offset beyond everything": (
        ValueError,
        f"`offset` must lie between {-(2**29)} and {2**29}; got {2**40}",
        sinusoids((3, 4), offset=2**40),
    ),
    "longer than the table": (
        ValueError,
        "`inputs` must end within the 2 positions of `table`; got length 3",
        learned((3, 4), (2, 4)),
    ),
    "behind the table": (
        ValueError,
        "`inputs` must end within the 5 positions of `table`; got length 3 from offset 4",
        learned((2, 3, 4), (5, 4), offset=4),
    ),
    "table of another size": (
        ValueError,
        "`table` must have shape (max_length, 4), a row for each position; got shape (5, 3)",
        learned((3, 4), (5, 3)),
    ),
    "one vector for all": (
        ValueError,
        "`table` must have shape (max_length, 4), a row for each position; got shape (4,)",
        learned((3, 4), (4,)),
    ),
    "dtype of table": (
        TypeError,
        "`inputs` and `table` must share one dtype; got inputs float64, table float32",
        learned((3, 4), np.zeros((5, 4), np.float32)),
    ),
    "no table": (TypeError, f"`table` {LISTS} None", learned((3, 4), None)),
}

BOOLEAN = "`valid` must be a boolean array (True = a real token); got"
POOLINGS: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (4,)",
        pooled((4,), None),
    ),
    "int inputs": (TypeError, f"`inputs` {FLOATING}; got int64", pooled(np.zeros((3, 4), np.int64), None)),
    "ones and zeros": (TypeError, f"{BOOLEAN} an array of dtype int64", pooled((2, 3, 4), [[1, 1, 0], [1, 0, 0]])),
    "native ones and zeros": (
        TypeError,
        f"{BOOLEAN} an array of dtype float32",
        lambda attn, t: pooled((2, 3, 4), t(2, 3, dtype="float32"))(attn, t),
    ),
    "str": (TypeError, f"{BOOLEAN} an object of type str", pooled((2, 3, 4), "all")),
    "without a batch": (
        ValueError,
        "`valid` must have shape (2, 3), one boolean for each position; got (3,)",
        pooled((2, 3, 4), [True, True, False]),
    ),
    "batch of 1": (
        ValueError,
        "`valid` must have shape (2, 3), one boolean for each position; got (1, 3)",
        pooled((2, 3, 4), HALF[:1]),
    ),
    "one for each component": (
        ValueError,
        "`valid` must have shape (2, 3), one boolean for each position; got (2, 3, 4)",
        pooled((2, 3, 4), np.ones((2, 3, 4), bool)),
    ),
}


def layers(t: Maker, size: int = 4) -> tuple[Any, ...]:
    """Make the parts of an encoder layer, and of a decoder layer where all of them are taken."""
    attention = MultiHeadParameters(*(t(size, size) for _ in range(4)))
    norm, fed = LayerNormParameters(t(size)), FeedForwardParameters(t(size, 3), t(3, size))
    return attention, norm, attention, norm, fed, norm


def text_parameters(t: Maker, **changes: Any) -> Any:
    encoder = EncoderParameters((EncoderLayerParameters(*layers(t)[2:]),))
    parameters = TextEncoderParameters(LinearParameters(t(5, 4)), None, None, encoder)
    return parameters._replace(**changes)


def encode(ids: Any = ((0, 1, 4), (2, 3, 3)), make: Any = text_parameters, **options: Any) -> Any:
    """Encode two sequences of three ids by 2 heads and one layer of size 4, or call with changes."""
    options = {"num_heads": 2} | options

    def call(attn: ModuleType, t: Maker) -> Any:
        given = {name: made(t) if callable(made) else made for name, made in options.items()}
        return attn.text_encoder(np.array(ids), make(t), **given)

    return call


def changed(**changes: Any) -> Any:
    """Change parameters of a text encoder: functions of the maker."""
    return lambda t: text_parameters(t, **{name: make(t) for name, make in changes.items()})


def odd(t: Maker) -> Any:
    return text_parameters(t, embedding=LinearParameters(t(5, 3)))


ENCODERS: dict[str, Case] = {
    "id": (ValueError, f"{OUTSIDE} 6 at (1, 0)", encode([[0, 1, 4], [6, 3, 3]])),
    "another class": (
        TypeError,
        "`parameters` must be TextEncoderParameters(embedding, …); got an object of type attnspec.EncoderParameters",
        encode(make=lambda t: text_parameters(t).encoder),
    ),
    "a matrix for an embedding": (
        TypeError,
        "`embedding` of `parameters` must be LinearParameters(weight, …); got an object of type list",
        encode(make=changed(embedding=lambda _: [[0.0] * 4] * 5)),
    ),
    "no embedding": (
        TypeError,
        "`embedding` of `parameters` must be LinearParameters(weight, …); got None",
        encode(make=changed(embedding=lambda _: None)),
    ),
    "heads left out": (
        TypeError,
        "text_encoder() missing 1 required keyword-only argument: 'num_heads'",
        lambda attn, t: attn.text_encoder([[1]], text_parameters(t)),
    ),
    "3 heads": (
        ValueError,
        (
            "in `encoder.layers.0.attention` of `parameters`: "
            "`query_weight` must have a number of columns that `num_heads`=3 divides; got 4 columns"
        ),
        encode(num_heads=3),
    ),
    "another size": (
        ValueError,
        (
            "in `encoder.layers.0.attention` of `parameters`: "
            "`query_weight` must have shape (size of `query`, columns); "
            "got shapes query (2, 3, 6) and query_weight (4, 4)"
        ),
        encode(make=changed(embedding=lambda t: LinearParameters(t(5, 6)))),
    ),
    "norm of another size": (
        ValueError,
        "`embedding_norm.weight` of `parameters` must have shape (E,) = (4,); got (3,)",
        encode(make=changed(embedding_norm=lambda t: LayerNormParameters(t(3)))),
    ),
    "dtype of a leaf": (
        TypeError,
        (
            "`embedding_norm.weight` of `parameters` must have the dtype of `embedding.weight`; "
            "got embedding.weight float64 and embedding_norm.weight float32"
        ),
        encode(make=changed(embedding_norm=lambda t: LayerNormParameters(t(4, dtype="float32")))),
    ),
    "other positions": (
        ValueError,
        "`positions` must be one of 'sinusoidal', 'learned', None; got 'rotary'",
        encode(positions="rotary"),
    ),
    "odd size": (ValueError, f"{SIZE} 3", encode(make=odd)),
    "learned without a table": (
        ValueError,
        "`positions`='learned' needs a table, `positions` of `parameters`; got None",
        encode(positions="learned"),
    ),
    "table without learned": (
        ValueError,
        "a table, `positions` of `parameters`, needs `positions`='learned'; got 'sinusoidal'",
        encode(make=changed(positions=lambda t: t(7, 4))),
    ),
    "table beside None": (
        ValueError,
        "a table, `positions` of `parameters`, needs `positions`='learned'; got None",
        encode(make=changed(positions=lambda t: t(7, 4)), positions=None),
    ),
    "longer than the table": (
        ValueError,
        "`inputs` must end within the 2 positions of `positions` of `parameters`; got length 3",
        encode(make=changed(positions=lambda t: t(2, 4)), positions="learned"),
    ),
    "order of norms": (ValueError, "`norm` must be one of 'post', 'pre'; got 'sandwich'", encode(norm="sandwich")),
    "valid of ones": (TypeError, f"{BOOLEAN} an array of dtype int64", encode(valid=[[1, 1, 1], [1, 0, 0]])),
    "valid for keys": (
        ValueError,
        "`valid` must have shape (2, 3), one boolean for each position; got (2, 1, 1, 3)",
        encode(valid=np.ones((2, 1, 1, 3), bool)),
    ),
    "mask of ones": (
        TypeError,
        (
            "`mask` must be a mask object or a boolean array (True = may attend); got an array of dtype int64: "
            "pass numbers to add to the scores as `bias=`, or write the comparison that you mean, as in `array != 0`"
        ),
        encode(mask=np.ones((3, 3), np.int64), valid=HALF),
    ),
    "mask of another length": (
        ValueError,
        "each axis of `mask` must be 1 or that of (2, 2, 3, 3); got shape (3, 4)",
        encode(mask=np.ones((3, 4), bool), valid=HALF),
    ),
    "plain dropout": (
        TypeError,
        "`dropout` must be TextEncoderDropout(embedding, …); got an object of type attnspec.Dropout",
        encode(dropout=Dropout(0.5)),
    ),
    "dropout of an encoder": (
        TypeError,
        "`dropout` must be TextEncoderDropout(embedding, …); got an object of type tuple",
        encode(dropout=(None,)),
    ),
    "dropout that keeps nothing known": (
        ValueError,
        (
            "`dropout.embedding` must say what is kept: Dropout(rate, keep=array); "
            "only layers draw an array of their own"
        ),
        encode(dropout=TextEncoderDropout(Dropout(0.5))),
    ),
    "axes of dropout": (
        ValueError,
        (
            "`keep` of `dropout.embedding` must have the axes of what it multiplies, (2, 3, 4), "
            "each of them full or 1; got shape (2, 4)"
        ),
        encode(dropout=TextEncoderDropout(Dropout(0.5, np.ones((2, 4), bool)))),
    ),
    "dropouts of more layers": (
        ValueError,
        "`dropout.layers` must have one element for each of the 1 layers; got 2",
        encode(dropout=TextEncoderDropout(None, (None, None))),
    ),
    "dropout of a layer": (
        ValueError,
        (
            "`keep` of `attention` of `dropout.layers[0]` must have the axes of what it multiplies, (2, 3, 4), "
            "each of them full or 1; got shape (3, 4)"
        ),
        encode(dropout=TextEncoderDropout(None, (EncoderLayerDropout(attention=Dropout(0.5, np.ones((3, 4), bool))),))),
    ),
}


def classify(make: Any) -> Any:
    return lambda attn, t: attn.sequence_classifier([[1, 2, 3]], make(t), num_heads=2)


CLASSIFIERS: dict[str, Case] = {
    "body alone": (
        TypeError,
        f"`parameters` must be SequenceClassifierParameters(body, …); {AN_OBJECT}.TextEncoderParameters",
        classify(text_parameters),
    ),
    "rows of the head": (
        ValueError,
        "`head.weight` of `parameters` must have shape (E, C) = (4, C); got (5, 3)",
        classify(lambda t: SequenceClassifierParameters(text_parameters(t), LinearParameters(t(5, 3)))),
    ),
    "bias of the head": (
        ValueError,
        "`head.bias` of `parameters` must have shape (C,) = (3,); got (4,)",
        classify(lambda t: SequenceClassifierParameters(text_parameters(t), LinearParameters(t(4, 3), t(4)))),
    ),
    "table in the body": (
        ValueError,
        "a table, `body.positions` of `parameters`, needs `positions`='learned'; got 'sinusoidal'",
        classify(
            lambda t: SequenceClassifierParameters(text_parameters(t, positions=t(7, 4)), LinearParameters(t(4, 3)))
        ),
    ),
}


def transform(source: Any = ((0, 1, 4), (2, 3, 3)), target: Any = ((1, 0), (6, 2)), **options: Any) -> Any:
    """Transform by 2 heads and one layer of size 4, vocabularies of 5 and 7; `make` changes the parameters."""
    options = {"num_heads": 2} | options
    make = options.pop("make", lambda _: {})

    def call(attn: ModuleType, t: Maker) -> Any:
        encoder = EncoderParameters((EncoderLayerParameters(*layers(t)[2:]),))
        decoder = DecoderParameters((DecoderLayerParameters(*layers(t)),))
        embeddings = LinearParameters(t(5, 4)), LinearParameters(t(7, 4))
        parameters = TransformerParameters(encoder, decoder, *embeddings)._replace(**make(t))
        inputs = (array if isinstance(array, np.ndarray) else np.array(array) for array in (source, target))
        return attn.transformer(*inputs, parameters, **options)

    return call


TRANSFORMERS: dict[str, Case] = {
    "id of the source": (
        ValueError,
        "ids in `source` must be at least 0 and less than the size of the vocabulary, 5; got 6 at (0, 2)",
        transform(source=[[0, 1, 6], [2, 3, 3]]),
    ),
    "id of the target": (
        ValueError,
        "ids in `target` must be at least 0 and less than the size of the vocabulary, 7; got 7 at (1, 0)",
        transform(target=[[1, 0], [7, 2]]),
    ),
    "batch of the target": (
        ValueError,
        "`target` must have the batch axes of `source`; got batch shapes source (2,) and target (1,)",
        transform(target=[[1, 0]]),
    ),
    "target without a batch": (
        ValueError,
        "`target` must have the batch axes of `source`; got batch shapes source (2,) and target ()",
        transform(target=[1, 0]),
    ),
    "ids without an embedding": (
        TypeError,
        f"`source` {FLOATING}; got int64",
        transform(make=lambda _: {"source_embedding": None}),
    ),
    "vectors of another size": (
        ValueError,
        (
            "`source` must hold ids, integers, or vectors with a component (axis -1) for each row of "
            "`source_embedding.weight`; got shapes source (2, 3, 4) and source_embedding.weight (5, 4)"
        ),
        transform(source=np.zeros((2, 3, 4))),
    ),
    "learned without a table": (
        ValueError,
        "`positions`='learned' needs a table, `target_positions` of `parameters`; got None",
        transform(positions="learned", make=lambda t: {"source_positions": t(7, 4)}),
    ),
    "table without learned": (
        ValueError,
        "a table, `target_positions` of `parameters`, needs `positions`='learned'; got 'sinusoidal'",
        transform(make=lambda t: {"target_positions": t(7, 4)}),
    ),
    "longer than the table": (
        ValueError,
        "`target` must end within the 1 positions of `target_positions` of `parameters`; got length 2",
        transform(positions="learned", make=lambda t: {"source_positions": t(3, 4), "target_positions": t(1, 4)}),
    ),
    "valid of ones": (
        TypeError,
        "`source_valid` must be a boolean array (True = a real token); got an array of dtype int64",
        transform(source_valid=np.ones((2, 3), np.int64)),
    ),
    "valid of the target": (
        ValueError,
        "`source_valid` must have shape (2, 3), one boolean for each position; got (2, 2)",
        transform(source_valid=np.ones((2, 2), bool)),
    ),
    "mask of ones": (
        TypeError,
        (
            "in `target_mask`: `mask` must be a mask object or a boolean array (True = may attend); "
            "got an object of type str"
        ),
        transform(target_mask="causal"),
    ),
    "mask of the source": (
        ValueError,
        "in `target_mask`: each axis of `mask` must be 1 or that of (2, 2, 2, 2); got shape (3, 3)",
        transform(target_mask=np.ones((3, 3), bool)),
    ),
    "head of another size": (
        ValueError,
        "`head.weight` of `parameters` must have shape (E, C) = (4, C); got (3, 7)",
        transform(make=lambda t: {"head": LinearParameters(t(3, 7))}),
    ),
    "encoder for a decoder": (
        TypeError,
        f"`decoder` of `parameters` must be DecoderParameters(layers, …); {AN_OBJECT}.EncoderParameters",
        transform(make=lambda _: {"decoder": EncoderParameters(())}),
    ),
    "dropout of a text encoder": (
        TypeError,
        "`dropout` must be TransformerDropout(source, …); got an object of type attnspec.TextEncoderDropout",
        transform(dropout=TextEncoderDropout()),
    ),
    "axes of dropout": (
        ValueError,
        (
            "`keep` of `dropout.target` must have the axes of what it multiplies, (2, 2, 4), each of them full or 1; "
            "got shape (2, 3, 4)"
        ),
        transform(dropout=TransformerDropout(None, Dropout(0.5, np.ones((2, 3, 4), bool)))),
    ),
    "dropouts of other layers": (
        ValueError,
        "`dropout.decoder` must have one element for each of the 1 layers; got 0",
        transform(dropout=TransformerDropout(decoder=())),
    ),
}


@pytest.mark.parametrize("case", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_wrong_embedding_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", POSITIONS.values(), ids=POSITIONS)
def test_wrong_positions_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", POOLINGS.values(), ids=POOLINGS)
def test_wrong_pooling_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", ENCODERS.values(), ids=ENCODERS)
def test_wrong_text_encoder_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_wrong_classifier_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_wrong_transformer_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


# --- TensorFlow graphs of unknown sizes


@pytest.mark.parametrize(
    ("function", "shapes", "text"),
    [
        (
            lambda m, first, second: m.embedding(first, LinearParameters(second)),
            ((2, 3, 4), (5, 2)),
            (
                "`inputs` must hold ids, integers, or vectors with a component (axis -1) for each row of `weight`; "
                "got shapes inputs (?, ?, ?) and weight (?, ?)"
            ),
        ),
        (
            lambda m, _first, second: m.embedding([4, 5], LinearParameters(second)),
            ((2, 3, 4), (5, 2)),
            "ids in `inputs` must be at least 0 and less than the size of the vocabulary, ?; got 5 at (1,)",
        ),
        (
            lambda m, first, second: m.add_learned_positions(first, second, offset=3),
            ((2, 3, 4), (5, 4)),
            "`inputs` must end within the ? positions of `table`; got length ? from offset 3",
        ),
        (
            lambda m, first, _second: m.mean_pooling(first, valid=HALF),
            ((2, 4, 4), (5, 4)),
            "`valid` must have shape (?, ?), one boolean for each position; got (2, 3)",
        ),
    ],
    ids=["vectors", "ids", "table", "valid"],
)
def test_wrong_sizes_are_refused_when_the_graph_runs(function: Any, shapes: Any, text: str) -> None:
    attn = frameworks.load("tensorflow")
    import tensorflow as tf

    specs = [tf.TensorSpec([None] * len(shape), tf.float64) for shape in shapes]
    traced = tf.function(lambda first, second: function(attn, first, second), input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        traced(*(tf.zeros(shape, tf.float64) for shape in shapes))
    assert text in caught.value.message


def test_unknown_size_of_sinusoids_is_refused_while_tracing() -> None:
    attn = frameworks.load("tensorflow")
    import tensorflow as tf

    traced = tf.function(attn.add_sinusoidal_positions)
    with pytest.raises(ValueError, match="sinusoidal positions need") as caught:
        traced.get_concrete_function(tf.TensorSpec([2, None, None], tf.float64))
    text = "`inputs` has vectors of a size (axis -1) that is not known, which sinusoidal positions need"
    assert text in str(caught.value)

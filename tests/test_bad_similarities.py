"""Wrong calls of hard attention and of attention by other similarities: refused, in the same words everywhere."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from similarity_cases import Case as Called
from similarity_cases import call, similarities

from attnspec.contract.layer_parameters import AdditiveParameters, LinearParameters

SIZE_0 = "queries and keys must have a size of at least 1; "
CORE = (5, 7), (11, 7), (11, 3)


def hard(*shapes: Any, **options: Any) -> Any:
    """Make a hard attention that chooses 2 keys."""
    given = {"top_k": 2, **options}
    return lambda attn, t: similarities(attn).hard_attention(*(t(*shape) for shape in shapes or CORE), **given)


def noisy(*shape: int, dtype: str = "float64") -> Any:
    return lambda attn, t: similarities(attn).hard_attention(
        t(2, 3, 5, 7), t(2, 3, 11, 7), t(2, 3, 11, 3), top_k=1, noise=t(*shape, dtype=dtype)
    )


def additive(query: Any = (5, 7), key: Any = (11, 13), value: Any = (11, 3), **changes: Any) -> Any:
    """Make a call with 2 hidden units, with changed parameters: a shape, or anything else as it is."""

    def call(attn: ModuleType, t: Maker) -> Any:
        given = {name: t(*change) if isinstance(change, tuple) else change for name, change in changes.items()}
        parameters = AdditiveParameters(t(2), t(7, 2), t(13, 2), t(2))._replace(**given)
        return similarities(attn).additive_attention(t(*query), t(*key), t(*value), parameters)

    return call


def with_parameters(parameters: Any) -> Any:
    return lambda attn, t: similarities(attn).additive_attention(t(5, 7), t(11, 13), t(11, 3), parameters)


def bilinear(query: Any, key: Any, value: Any, weight: Any, **options: Any) -> Any:
    def call(attn: ModuleType, t: Maker) -> Any:
        given = t(*weight) if isinstance(weight, tuple) else weight
        return similarities(attn).bilinear_attention(t(*query), t(*key), t(*value), given, **options)

    return call


def cosine(*shapes: Any, **options: Any) -> Any:
    return lambda attn, t: similarities(attn).cosine_attention(*(t(*shape) for shape in shapes or CORE), **options)


HARD: dict[str, Case] = {
    "top_k 0": (ValueError, "`top_k` must be at least 1; got 0", hard(top_k=0)),
    "float top_k": (TypeError, "`top_k` must be an int; got 2.0", hard(top_k=2.0)),
    "bool top_k": (TypeError, "`top_k` must be an int; got True", hard(top_k=True)),
    "None top_k": (TypeError, "`top_k` must be an int; got None", hard(top_k=None)),
    "top_k before shapes": (ValueError, "`top_k` must be at least 1; got -1", hard((5, 7), (11, 5), (2,), top_k=-1)),
    "size of key": (
        ValueError,
        "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 5)",
        hard((5, 7), (11, 5), (11, 3)),
    ),
    "bool noise": (TypeError, f"`noise` {FLOATING}; got bool", hard(noise=np.ones((5, 11), bool))),
    "str noise": (
        TypeError,
        "`noise` must be an array or nested lists of numbers; got an object of type str",
        hard(noise="gumbel"),
    ),
    "float32 noise": (
        TypeError,
        "`noise` must have dtype float64 beside a float64 query; got float32",
        noisy(5, 11, dtype="float32"),
    ),
    "lone number": (
        ValueError,
        "`noise` must have 2 axes or 4, up to (2, 3, 5, 11); got shape ()",
        noisy(),
    ),
    "rank 3": (
        ValueError,
        (
            "`noise` must have 2 axes or 4, up to (2, 3, 5, 11); got shape (3, 5, 11), which is ambiguous: reshape to "
            "(3, 1, 5, 11) if axis 0 is the batch, or to (1, 3, 5, 11) if it is the heads"
        ),
        noisy(3, 5, 11),
    ),
    "axis of noise": (
        ValueError,
        "each axis of `noise` must be 1 or that of (2, 3, 5, 11); got shape (5, 10)",
        noisy(5, 10),
    ),
    "options first": (
        ValueError,
        "`softcap` must be positive and finite; got 0.0",
        hard(softcap=0, noise=np.zeros((5, 10))),
    ),
}

ADDITIVE: dict[str, Case] = {
    "tuple": (
        TypeError,
        "`parameters` must be AdditiveParameters(score_weight, …); got an object of type tuple",
        with_parameters((np.zeros(2), None, None, None)),
    ),
    "other parameters": (
        TypeError,
        "`parameters` must be AdditiveParameters(score_weight, …); got an object of type attnspec.LinearParameters",
        with_parameters(LinearParameters(np.zeros((7, 13)))),
    ),
    "None": (
        TypeError,
        "`parameters` must be AdditiveParameters(score_weight, …); got None",
        with_parameters(None),
    ),
    "no score weight": (
        TypeError,
        "`score_weight` of `parameters` must be given; got None",
        with_parameters(AdditiveParameters(None)),
    ),
    "score weight of rank 2": (
        ValueError,
        "`score_weight` of `parameters` must have shape (A,); got (2, 1)",
        additive(score_weight=(2, 1)),
    ),
    "no hidden units": (
        ValueError,
        "`score_weight` of `parameters` must have at least 1 element; got shape (0,)",
        additive(score_weight=(0,), query_weight=(7, 0), key_weight=(13, 0), hidden_bias=None),
    ),
    "rows of query weight": (
        ValueError,
        "`query_weight` of `parameters` must have shape (Dq, A) = (7, 2); got (5, 2)",
        additive(query_weight=(5, 2)),
    ),
    "columns of key weight": (
        ValueError,
        "`key_weight` of `parameters` must have shape (Dk, A) = (13, 2); got (13, 3)",
        additive(key_weight=(13, 3)),
    ),
    "hidden bias": (
        ValueError,
        "`hidden_bias` of `parameters` must have shape (A,) = (2,); got (1,)",
        additive(hidden_bias=(1,)),
    ),
    "query without weight": (
        ValueError,
        (
            "`query` must have the size of `score_weight` of `parameters`, which have no `query_weight`; "
            "got shapes query (5, 7) and score_weight (2,)"
        ),
        additive(query_weight=None),
    ),
    "key without weight": (
        ValueError,
        (
            "`key` must have the size of `score_weight` of `parameters`, which have no `key_weight`; "
            "got shapes key (11, 13) and score_weight (2,)"
        ),
        additive(key_weight=None),
    ),
    "length of value": (
        ValueError,
        "`value` must have the length (axis -2) of `key`; got shapes key (11, 13) and value (5, 3)",
        additive(value=(5, 3)),
    ),
    "size 0 of query": (
        ValueError,
        SIZE_0 + "`query` has shape (5, 0)",
        additive(query=(5, 0), query_weight=(0, 2)),
    ),
    "size 0 of key": (
        ValueError,
        SIZE_0 + "`key` has shape (11, 0)",
        additive(key=(11, 0), key_weight=(0, 2)),
    ),
    "5 query heads for 3": (
        ValueError,
        (
            "the number of query heads must be a multiple of the number of key/value heads (axis -3); "
            "got shapes query (2, 5, 5, 7) and key (2, 3, 11, 13)"
        ),
        additive((2, 5, 5, 7), (2, 3, 11, 13), (2, 3, 11, 3)),
    ),
    "float32 weight": (
        TypeError,
        ("`key_weight` of `parameters` must have the dtype of `query`; got query float64 and key_weight float32"),
        additive(key_weight=np.zeros((13, 2), np.float32)),
    ),
    "int weight": (
        TypeError,
        f"`score_weight` of `parameters` {FLOATING}; got int64",
        additive(score_weight=np.zeros(2, np.int64)),
    ),
}

WEIGHT = "`weight` must have shape (size of `query`, size of `key`); got shapes query (5, 7), key (11, 13) and weight "

BILINEAR: dict[str, Case] = {
    "None": (
        TypeError,
        "`weight` must be an array or nested lists of numbers; got None",
        bilinear((5, 7), (11, 13), (11, 3), None),
    ),
    "transposed": (ValueError, WEIGHT + "(13, 7)", bilinear((5, 7), (11, 13), (11, 3), (13, 7))),
    "rank 3": (ValueError, WEIGHT + "(1, 7, 13)", bilinear((5, 7), (11, 13), (11, 3), (1, 7, 13))),
    "rank 1": (ValueError, WEIGHT + "(7,)", bilinear((5, 7), (11, 13), (11, 3), (7,))),
    "size 0 of key": (
        ValueError,
        SIZE_0 + "`key` has shape (11, 0)",
        bilinear((5, 7), (11, 0), (11, 3), (7, 0)),
    ),
    "batch": (
        ValueError,
        "`key` must have the batch axes of `query`; got shapes query (2, 5, 7) and key (3, 11, 13)",
        bilinear((2, 5, 7), (3, 11, 13), (3, 11, 3), (7, 13)),
    ),
    "float32 weight": (
        TypeError,
        (
            "`query`, `key`, `value` and `weight` must share one dtype; "
            "got query float64, key float64, value float64, weight float32"
        ),
        bilinear((5, 7), (11, 13), (11, 3), np.zeros((7, 13), np.float32)),
    ),
    "scale": (
        ValueError,
        "`scale` must be finite; got inf",
        bilinear((5, 7), (11, 13), (11, 3), (7, 13), scale=np.inf),
    ),
}

COSINE: dict[str, Case] = {
    "size of key": (
        ValueError,
        "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 13)",
        cosine((5, 7), (11, 13), (11, 3)),
    ),
    "size 0": (ValueError, SIZE_0 + "`query` has shape (5, 0)", cosine((5, 0), (11, 0), (11, 3))),
    "axis of mask": (
        ValueError,
        "each axis of `mask` must be 1 or that of (5, 11); got shape (5, 7)",
        cosine(mask=np.ones((5, 7), bool)),
    ),
    "sinks": (
        ValueError,
        "`sinks` must have one number for the one head, shape (); got shape (2,)",
        cosine(sinks=[0.0, 1.0]),
    ),
}


@pytest.mark.parametrize("case", HARD.values(), ids=HARD)
def test_wrong_hard_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", ADDITIVE.values(), ids=ADDITIVE)
def test_wrong_additive_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", BILINEAR.values(), ids=BILINEAR)
def test_wrong_bilinear_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", COSINE.values(), ids=COSINE)
def test_wrong_cosine_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_numpy_integers_count_keys(attn: ModuleType) -> None:
    t = Maker(frameworks.name_of(attn))
    output = similarities(attn).hard_attention(t(5, 7), t(11, 7), t(11, 3), top_k=np.int64(2))
    assert tuple(output.shape) == (5, 3)


@pytest.mark.parametrize("name", ["hard", "additive", "bilinear", "cosine"])
def test_a_cotangent_of_another_shape_is_refused(name: str) -> None:
    gradients = importlib.import_module("attnspec.reference.similarity_gradients")
    more = {"hard": [], "additive": [AdditiveParameters(np.zeros(7))], "bilinear": [np.zeros((7, 7))], "cosine": []}
    options = {"top_k": 1} if name == "hard" else {}
    message = r"`output_cotangent` must have the shape of its result, \(5, 3\); got \(5, 1\)"
    with pytest.raises(ValueError, match=message):
        getattr(gradients, f"{name}_attention_vjp")(
            *(np.zeros(shape) for shape in CORE), *more[name], np.zeros((5, 1)), **options
        )


# --- TensorFlow graphs with unknown sizes: the same texts when the graph runs

U = None

UNKNOWN: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "axis of noise": (
        "hard_attention",
        {"noise": (U, U)},
        {"noise": (5, 7)},
        "each axis of `noise` must be 1 or that of (?, ?); got shape (?, ?)",
    ),
    "rows of query weight": (
        "additive_attention",
        {"score_weight": (U,), "query_weight": (U, U)},
        {"score_weight": (7,), "query_weight": (5, 7)},
        "`query_weight` of `parameters` must have shape (Dq, A) = (?, ?); got (?, ?)",
    ),
    "key without weight": (
        "additive_attention",
        {"score_weight": (2,), "query_weight": (7, 2)},
        {"score_weight": (2,), "query_weight": (7, 2)},
        (
            "`key` must have the size of `score_weight` of `parameters`, which have no `key_weight`; "
            "got shapes key (?, ?) and score_weight (2,)"
        ),
    ),
    "weight": (
        "bilinear_attention",
        {"weight": (U, 13)},
        {"weight": (7, 13)},
        (
            "`weight` must have shape (size of `query`, size of `key`); "
            "got shapes query (?, ?), key (?, ?) and weight (?, 13)"
        ),
    ),
    "size of key": (
        "cosine_attention",
        {},
        {"key": (11, 5)},
        "`key` must have the size (axis -1) of `query`; got shapes query (?, ?) and key (?, ?)",
    ),
}


@pytest.mark.parametrize(("operation", "signature", "sizes", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_wrong_sizes_of_a_graph_are_refused_when_it_runs(
    operation: str, signature: dict[str, Any], sizes: dict[str, Any], message: str
) -> None:
    module = similarities(frameworks.load("tensorflow"))
    tf = importlib.import_module("tensorflow")
    known = dict(zip(("query", "key", "value"), CORE, strict=True))
    shapes = dict.fromkeys(known, (U, U)) | signature
    specs = {name: tf.TensorSpec(shape, tf.float64, name) for name, shape in shapes.items()}
    case = Called(operation, {}, {"top_k": 2} if operation == "hard_attention" else {}, np.ones(1, bool))
    function = tf.function(lambda given: call(module, case, given), input_signature=[specs], autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        function({name: tf.zeros(shape, tf.float64) for name, shape in (known | sizes).items()})
    assert message in str(caught.value)

"""TensorFlow graphs with unknown sizes: the same texts when the graph runs; unknown ranks are refused while tracing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest

import attnspec.reference
from attnspec.contract import (
    Dropout,
    MultiHeadParameters,
    alibi,
    causal,
    chunked,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    relative_position_bias,
    segments,
)

U = None  # a size that the graph does not know


@pytest.fixture(scope="module")
def attn() -> ModuleType:
    return frameworks.load("tensorflow")


def run(function: Any, signature: dict[str, tuple[Any, ...]], sizes: dict[str, tuple[int, ...]], **options: Any) -> Any:
    """Trace a function for the shapes of the signature and run it with arrays of these sizes."""
    import tensorflow as tf

    specs = {name: tf.TensorSpec(shape, tf.float64, name) for name, shape in signature.items()}
    traced = tf.function(lambda given: function(**given, **options), input_signature=[specs])
    return traced(
        {name: tf.reshape(tf.range(np.prod(shape), dtype=tf.float64), shape) for name, shape in sizes.items()}
    )


def operands(query: Any, key: Any, value: Any) -> dict[str, Any]:
    return {"query": query, "key": key, "value": value}


RANK_3 = operands((U, U, U), (U, U, U), (U, U, U))
RANK_4 = operands((U, U, U, 7), (U, U, U, 7), (U, U, U, 3))

WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "batch": (
        RANK_3,
        operands((2, 5, 7), (3, 11, 7), (2, 11, 3)),
        {},
        "`key` must have the batch axes of `query`; got shapes query (?, ?, ?) and key (?, ?, ?)",
    ),
    "length of value": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 13, 3)),
        {},
        "`value` must have the length (axis -2) of `key`; got shapes key (?, ?, ?) and value (?, ?, ?)",
    ),
    "size of key": (
        operands((2, U, 7), (2, U, U), (2, U, 3)),
        operands((2, 5, 7), (2, 11, 5), (2, 11, 3)),
        {},
        "`key` must have the size (axis -1) of `query`; got shapes query (2, ?, 7) and key (2, ?, ?)",
    ),
    "size 0": (
        RANK_3,
        operands((2, 5, 0), (2, 11, 0), (2, 11, 3)),
        {},
        "queries and keys must have a size of at least 1; `query` has shape (?, ?, ?)",
    ),
    "5 query heads for 3": (
        RANK_4,
        operands((2, 5, 5, 7), (2, 3, 11, 7), (2, 3, 11, 3)),
        {},
        (
            "the number of query heads must be a multiple of the number of key/value heads (axis -3); "
            "got shapes query (?, ?, ?, 7) and key (?, ?, ?, 7)"
        ),
    ),
    "no key heads": (
        RANK_4,
        operands((2, 5, 5, 7), (2, 0, 11, 7), (2, 0, 11, 3)),
        {},
        (
            "the number of query heads must be a multiple of the number of key/value heads (axis -3); "
            "got shapes query (?, ?, ?, 7) and key (?, ?, ?, 7)"
        ),
    ),
    "causal without offset": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": causal()},
        (
            "`causal` without an offset needs as many queries as keys; got ? queries and ? keys: say `offset=0` "
            "(query 0 stands at key 0, top-left) or `offset='end'` "
            "(the last query stands at the last key, bottom-right)"
        ),
    ),
    "axis of mask": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": np.ones((5, 7), bool)},
        "each axis of `mask` must be 1 or that of (?, ?, ?); got shape (5, 7)",
    ),
    "axis of bias": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"bias": np.zeros((3, 5, 11))},
        "each axis of `bias` must be 1 or that of (?, ?, ?); got shape (3, 5, 11)",
    ),
    "length beyond the keys": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": key_lengths(12)},
        "`key_lengths` must lie between 0 and the number of keys, ?; got 12",
    ),
    "length beyond int64": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": key_lengths(2**70)},
        f"`key_lengths` must lie between 0 and the number of keys, ?; got {2**70}",
    ),
    "lengths beyond the queries": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": query_lengths([5, 6])},
        "`query_lengths` must lie between 0 and the number of queries, ?; got [5, 6]",
    ),
    "batch shape of lengths": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": key_lengths([1, 2, 3])},
        "`key_lengths` must be an int or have the batch shape (?,); got shape (3,)",
    ),
    "prefix beyond the keys": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": prefix(12, 0)},
        "`lengths` of `prefix` must lie between 0 and the number of keys, ?; got 12",
    ),
    "prefix without offset": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": prefix(2)},
        "`prefix` without an offset needs as many queries as keys; got ? queries and ? keys: say `offset=0`",
    ),
    "chunks without offset": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": ~chunked(3)},
        "`chunked` without an offset needs as many queries as keys; got ? queries and ? keys: say `offset=0`",
    ),
    "length of segments": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": segments([0] * 5, [0] * 5)},
        "`key_ids` of `segments` must have shape (?,) or (?, ?); got shape (5,)",
    ),
    "batch of segments": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"mask": segments([[0] * 5] * 3, [0] * 11)},
        "`query_ids` of `segments` must have shape (?,) or (?, ?); got shape (3, 5)",
    ),
    "alibi without offset": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"bias": alibi(symmetric=True)},
        "`alibi` without an offset needs as many queries as keys; got ? queries and ? keys: say `offset=0`",
    ),
    "number of slopes": (
        RANK_4,
        operands((2, 3, 5, 7), (2, 3, 11, 7), (2, 3, 11, 3)),
        {"bias": alibi([0.5, 0.25], symmetric=True, offset=0)},
        "`slopes` of `alibi` must have one number for each of the ? query heads, shape (?,); got shape (2,)",
    ),
    "heads of a table": (
        RANK_4,
        operands((2, 3, 5, 7), (2, 3, 11, 7), (2, 3, 11, 3)),
        {"bias": relative_position_bias(np.zeros((4, 2)), bidirectional=True, offset=0)},
        (
            "`table` of `relative_position_bias` must have one number for each of the ? query heads, shape (4, ?); "
            "got shape (4, 2)"
        ),
    ),
    "number of sinks": (
        RANK_4,
        operands((2, 3, 5, 7), (2, 3, 11, 7), (2, 3, 11, 3)),
        {"sinks": [0.0, 0.0]},
        "`sinks` must have one number for each of the ? query heads, shape (?,); got shape (2,)",
    ),
    "axis of what is kept": (
        RANK_3,
        operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
        {"dropout": Dropout(0.5, np.ones((3, 1, 1), bool))},
        "each axis of `keep` of `Dropout` must be 1 or that of (?, ?, ?); got shape (3, 1, 1)",
    ),
}


@pytest.mark.parametrize(("signature", "sizes", "options", "text"), WRONG.values(), ids=WRONG)
def test_wrong_sizes_are_refused_when_the_graph_runs(
    attn: ModuleType, signature: dict[str, Any], sizes: dict[str, Any], options: dict[str, Any], text: str
) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(attn.dot_product_attention, signature, sizes, **options)
    assert text in caught.value.message.replace("\\'", "'")  # TensorFlow escapes what it prints


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (operands((2, 5, 7), (2, 11, 7), (2, 11, 3)), {"mask": causal("end") & key_lengths([0, 11])}),
        (operands((2, 5, 7), (2, 5, 7), (2, 5, 3)), {"mask": causal(), "bias": np.ones((2, 1, 5))}),
        (operands((3, 1, 2), (3, 0, 2), (3, 0, 5)), {}),
        (operands((0, 5, 7), (0, 11, 7), (0, 11, 3)), {"mask": key_lengths([])}),
        (
            operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
            {"mask": prefix(2, "end") & segments([[0] * 5, [1] * 5], [0, 1] * 5 + [0]) | chunked(3, 0)},
        ),
        (
            operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
            {"mask": predicate("strided", lambda query, key: (query - key) % 3 == 0), "sinks": 0.5},
        ),
        (
            operands((2, 5, 7), (2, 11, 7), (2, 11, 3)),
            {
                "bias": alibi(symmetric=True, offset=0)
                + relative_position_bias([0.5, -1.0, 0.25, 2.0], bidirectional=True, offset=0)
                + np.ones((2, 1, 11)),
                "dropout": Dropout(0.5, np.arange(11)[None] % 2 == 0),
            },
        ),
    ],
    ids=["lengths", "square", "no keys", "no batch", "masks", "predicate and sink", "biases and dropout"],
)
def test_right_sizes_give_the_reference_result(
    attn: ModuleType, sizes: dict[str, Any], options: dict[str, Any]
) -> None:
    output = run(attn.dot_product_attention, RANK_3, sizes, **options)
    given = {name: np.arange(np.prod(shape), dtype=np.float64).reshape(shape) for name, shape in sizes.items()}
    expected = attnspec.reference.dot_product_attention(**given, **options)
    np.testing.assert_allclose(output, expected, rtol=1e-12)


def test_grouped_heads_of_unknown_number(attn: ModuleType) -> None:
    sizes = operands((2, 6, 5, 7), (2, 3, 11, 7), (2, 3, 11, 3))
    given = {name: np.arange(np.prod(shape), dtype=np.float64).reshape(shape) for name, shape in sizes.items()}
    output = run(attn.dot_product_attention, RANK_4, sizes, scale=0.01)
    np.testing.assert_allclose(output, attnspec.reference.dot_product_attention(**given, scale=0.01), rtol=1e-12)


@pytest.mark.parametrize("argument", ["query", "key", "value"])
def test_unknown_rank_is_refused_while_tracing(attn: ModuleType, argument: str) -> None:
    with pytest.raises(ValueError, match="unknown rank") as caught:
        run(attn.dot_product_attention, RANK_3 | {argument: None}, operands((2, 5, 7), (2, 11, 7), (2, 11, 3)))
    assert f"`{argument}` has an unknown rank; give its number of axes by tf.ensure_shape or an input_signature" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("bias", "float64", lambda array: {"bias": array}),
        ("scale", "float64", lambda array: {"scale": array}),
        ("mask", "bool", lambda array: {"mask": causal() & array}),
        ("key_lengths", "int32", lambda array: {"mask": key_lengths(array)}),
        ("query_ids` of `segments", "int32", lambda array: {"mask": segments(array, [0] * 5)}),
        ("sinks", "float64", lambda array: {"sinks": array}),
        ("slopes` of `alibi", "float64", lambda array: {"bias": alibi(array, symmetric=True)}),
        ("bias", "float64", lambda array: {"bias": alibi(symmetric=True) + array}),
        ("keep` of `Dropout", "bool", lambda array: {"dropout": Dropout(0.5, array)}),
    ],
    ids=["bias", "scale", "mask", "lengths", "segments", "sinks", "slopes", "sum", "keep"],
)
def test_unknown_rank_of_an_option_is_refused_while_tracing(
    attn: ModuleType, name: str, dtype: str, options: Any
) -> None:
    import tensorflow as tf

    query = tf.zeros((2, 5, 7), tf.float64)
    traced = tf.function(
        lambda array: attn.dot_product_attention(query, query, query, **options(array)),
        input_signature=[tf.TensorSpec(None, dtype)],
    )
    with pytest.raises(ValueError, match="unknown rank") as caught:
        traced(tf.ones((), dtype))
    assert f"`{name}` has an unknown rank; give its number of axes by" in str(caught.value)


@pytest.mark.usefixtures("attn")
def test_repr_of_a_mask_of_unknown_rank() -> None:
    import tensorflow as tf

    seen = []
    tf.function(lambda array: seen.append(repr(full_or(array))), input_signature=[tf.TensorSpec(None, "bool")])(
        tf.constant(True)
    )
    tf.function(lambda array: seen.append(repr(key_lengths(array))), input_signature=[tf.TensorSpec([U], "int32")])(
        tf.constant([1])
    )
    assert seen == [
        "<boolean array of unknown rank> | causal()",
        "key_lengths(<a tensorflow tensor (SymbolicTensor) of shape (?,)>)",
    ]


def full_or(array: Any) -> Any:
    return array | causal()


@pytest.mark.parametrize(
    ("signature", "sizes", "text"),
    [
        (
            {"inputs": (U, U, U), "query_weight": (U, 3), "key_weight": (U, 3), "value_weight": (U, 3)},
            {"inputs": (2, 5, 7), "query_weight": (7, 3), "key_weight": (5, 3), "value_weight": (7, 3)},
            (
                "`key_weight` must have shape (size of `inputs`, columns); "
                "got shapes inputs (?, ?, ?) and key_weight (?, 3)"
            ),
        ),
        (
            {"inputs": (U, U, U), "query_weight": (U, U), "key_weight": (U, U), "value_weight": (U, U)},
            {"inputs": (2, 5, 7), "query_weight": (7, 3), "key_weight": (7, 5), "value_weight": (7, 3)},
            (
                "`key_weight` must have the columns (axis -1) of `query_weight`; "
                "got shapes query_weight (?, ?) and key_weight (?, ?)"
            ),
        ),
    ],
    ids=["rows", "columns"],
)
def test_self_attention_checks_when_the_graph_runs(
    attn: ModuleType, signature: dict[str, Any], sizes: dict[str, Any], text: str
) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(attn.self_attention, signature, sizes)
    assert text in caught.value.message


def test_key_value_attention_checks_when_the_graph_runs(attn: ModuleType) -> None:
    import tensorflow as tf

    signature = {"query": (U, U), "keys": (U, U, U), "values": (U, U, U)}
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(attn.key_value_attention, signature, {"query": (2, 7), "keys": (2, 5, 7), "values": (2, 3, 7)})
    assert (
        "`values` must have the length (axis -2) of `keys`; got shapes keys (?, ?, ?) and values (?, ?, ?)"
        in caught.value.message
    )


@pytest.mark.parametrize(
    ("changed", "shape", "text"),
    [
        (
            "query_weight",
            (10, 10),
            "`query_weight` must have a number of columns that `num_heads`=4 divides; got ? columns",
        ),
        ("key_weight", (11, 12), "`key_weight` must have shape (size of `key`, columns); got shapes key"),
        ("output_weight", (11, 5), "`output_weight` must have as many rows as the outputs of all heads side by side"),
        ("key_bias", (7,), "`key_bias` must have one element for each column of `key_weight`"),
    ],
    ids=["columns", "rows", "output rows", "bias"],
)
def test_multi_head_attention_checks_when_the_graph_runs(
    attn: ModuleType, changed: str, shape: tuple[int, ...], text: str
) -> None:
    import tensorflow as tf

    shapes = {"query_weight": (10, 12), "key_weight": (10, 12), "value_weight": (10, 12), "output_weight": (12, 5)}
    shapes |= {changed: shape}

    def attend(query: Any, **weights: Any) -> Any:
        return attn.multi_head_attention(query, query, query, MultiHeadParameters(**weights), num_heads=4)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(
            attend,
            {"query": (U, U, 10)} | {name: (U,) * len(size) for name, size in shapes.items()},
            {"query": (2, 5, 10)} | shapes,
        )
    assert text in caught.value.message


def sizes_unknown(function: Any, shapes: dict[str, tuple[int, ...]], **options: Any) -> Any:
    """Run a function of named tensors whose sizes the graph does not know."""
    return run(function, {name: (U,) * len(shape) for name, shape in shapes.items()}, shapes, **options)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (
            {"first": (2, 5, 7), "second": (2, 5, 3), "early": (2, 5), "late": (2, 5)},
            "`outputs[1]` must have shape (?, ?, ?), as `outputs[0]` asks; got shape (?, ?, ?)",
        ),
        (
            {"first": (2, 5, 7), "second": (2, 5, 7), "early": (2, 3), "late": (2, 3)},
            "`logsumexps[0]` must have shape (?, ?), as `outputs[0]` asks; got shape (?, ?)",
        ),
        (
            {"first": (2, 5, 7), "second": (2, 5, 7), "early": (2, 5), "late": (1, 5)},
            "`logsumexps[1]` must have shape (?, ?), as `outputs[0]` asks; got shape (?, ?)",
        ),
        (
            {"first": (2, 3, 5, 7), "second": (2, 3, 5, 7), "early": (2, 3, 5), "late": (2, 3, 5), "sinks": (2,)},
            "`sinks` must have one number for each of the ? query heads, shape (?,); got shape (?,)",
        ),
    ],
    ids=["outputs", "all logsumexps", "one logsumexp", "sinks"],
)
def test_merge_attention_checks_when_the_graph_runs(
    attn: ModuleType, shapes: dict[str, tuple[int, ...]], text: str
) -> None:
    import tensorflow as tf

    def merge(first: Any, second: Any, early: Any, late: Any, sinks: Any = None) -> Any:
        return attn.merge_attention([first, second], [early, late], sinks=sinks)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        sizes_unknown(merge, shapes)
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("function", "shapes", "text"),
    [
        (
            "rotary_embedding",
            {"inputs": (2, 5, 8), "positions": (7,)},
            "`positions` must have shape (?,) or (?, ?); got shape (?,)",
        ),
        (
            "rotary_embedding",
            {"inputs": (2, 5, 8), "positions": (1,)},
            "`positions` must have shape (?,) or (?, ?); got shape (?,)",
        ),
        (
            "rotary_embedding",
            {"inputs": (2, 3, 5, 8), "positions": (3, 5)},
            "`positions` must have shape (?,) or (?, ?); got shape (?, ?)",
        ),
        (
            "rotary_embedding",
            {"inputs": (2, 5, 8), "positions": (5,), "frequencies": (3,)},
            "`frequencies` must have shape (4,), one for each pair; got shape (?,)",
        ),
        (
            "rotate_pairs",
            {"inputs": (2, 5, 8), "cosines": (7, 4), "sines": (7, 4)},
            "`cosines` must have shape (?, pairs) or (?, ?, pairs); got shape (?, ?)",
        ),
        (
            "rotate_pairs",
            {"inputs": (2, 5, 8), "cosines": (5, 4), "sines": (5, 1)},
            "`sines` must have the shape of `cosines`; got shapes cosines (?, ?) and sines (?, ?)",
        ),
        (
            "rotate_pairs",
            {"inputs": (2, 5, 8), "cosines": (5, 8), "sines": (5, 8)},
            (
                "`cosines` must have at most half as many columns as `inputs`; "
                "got shapes inputs (?, ?, ?) and cosines (?, ?)"
            ),
        ),
    ],
    ids=["length", "one position", "batch", "frequencies", "rows", "columns", "too many columns"],
)
def test_positions_are_checked_when_the_graph_runs(
    attn: ModuleType, function: str, shapes: dict[str, tuple[int, ...]], text: str
) -> None:
    import tensorflow as tf

    options: dict[str, Any] = {"pairing": "half_split"}
    if function == "rotary_embedding":
        options["rotary_dim"] = 8
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        sizes_unknown(getattr(attn, function), shapes, **options)
    assert text in caught.value.message


UNKNOWN: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "standard slopes": (
        "dot_product_attention",
        RANK_4,
        {"bias": alibi(symmetric=True, offset=0)},
        "`alibi` needs to know the number of heads; give its `slopes`",
    ),
    "one slope": (
        "dot_product_attention",
        RANK_4,
        {"bias": alibi(0.5, symmetric=True, offset=0)},
        "`slopes` of `alibi` must have one number for each of the ? query heads, shape (?,); got shape ()",
    ),
    "one sink": (
        "dot_product_attention",
        RANK_4,
        {"sinks": 0.5},
        "`sinks` must have one number for each of the ? query heads, shape (?,); got shape ()",
    ),
    "size of inputs": (
        "rotary_embedding",
        {"inputs": (2, U, U)},
        {"positions": [0, 1], "pairing": "half_split"},
        "`inputs` has a size (axis -1) that is not known; give `rotary_dim`",
    ),
    "rank of inputs": (
        "rotary_embedding",
        {"inputs": None},
        {"positions": [0, 1], "pairing": "half_split"},
        "`inputs` has an unknown rank; give its number of axes by tf.ensure_shape or an input_signature",
    ),
    "rank of positions": (
        "sinusoidal_positions",
        {"positions": None},
        {"size": 8},
        "`positions` has an unknown rank; give its number of axes by tf.ensure_shape or an input_signature",
    ),
    "no axes of positions": (
        "sinusoidal_positions",
        {"positions": ()},
        {"size": 8},
        "`positions` must be a number of positions, a Python int, or an array (*batch, length); got shape ()",
    ),
}


@pytest.mark.parametrize(("function", "signature", "options", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_must_be_known_is_asked_for_while_tracing(
    attn: ModuleType, function: str, signature: Any, options: dict[str, Any], text: str
) -> None:
    import tensorflow as tf

    specs = {name: tf.TensorSpec(shape, tf.float64, name) for name, shape in signature.items()}
    traced = tf.function(lambda given: getattr(attn, function)(**given, **options), input_signature=[specs])
    with pytest.raises(ValueError, match="`") as caught:
        traced.get_concrete_function()
    assert text in str(caught.value)


def test_a_table_of_unknown_rows_is_refused_while_tracing(attn: ModuleType) -> None:
    import tensorflow as tf

    query = tf.zeros((2, 3, 5, 7), tf.float64)
    traced = tf.function(
        lambda table: attn.dot_product_attention(
            query, query, query, bias=relative_position_bias(table, bidirectional=False)
        ),
        input_signature=[tf.TensorSpec((U, 3), tf.float64)],
    )
    with pytest.raises(ValueError, match="rows") as caught:
        traced.get_concrete_function()
    assert "`table` of `relative_position_bias` must have a number of rows that is known; got shape (?, 3)" in str(
        caught.value
    )

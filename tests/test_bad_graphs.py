"""TensorFlow graphs with unknown sizes: the same texts when the graph runs; unknown ranks are refused while tracing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest

import attnspec.reference
from attnspec.contract import MultiHeadParameters, causal, key_lengths, query_lengths

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
    ],
    ids=["lengths", "square", "no keys", "no batch"],
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
    ],
    ids=["bias", "scale", "mask", "lengths"],
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

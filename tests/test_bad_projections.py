"""Wrong calls of self-attention, key-value and multi-head attention: refused, in the same words everywhere."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused

HEAD_DIM_0 = "queries and keys must have a size of at least 1; "

OUTPUT_ROWS = (
    "`output_weight` must have as many rows as the outputs of all heads side by side, 4 heads of 3; got shape "
)


def self_attend(*shapes: Any, **options: Any) -> Any:
    return lambda attn, t: attn.self_attention(*(t(*shape) for shape in shapes), **options)


def read(*shapes: Any, **options: Any) -> Any:
    return lambda attn, t: attn.key_value_attention(*(t(*shape) for shape in shapes), **options)


def multi_head(query: Any = (2, 5, 10), key: Any = (2, 5, 10), value: Any = (2, 5, 10), **changes: Any) -> Any:
    """Make a call with 4 heads of 3, or with changed heads and parameters: a shape, or anything else as it is."""
    heads = {"num_heads": 4} | {name: changes.pop(name) for name in ("num_heads", "num_kv_heads") if name in changes}

    def call(attn: ModuleType, t: Maker) -> Any:
        given = {name: t(*change) if isinstance(change, tuple) else change for name, change in changes.items()}
        parameters = attn.MultiHeadParameters(t(10, 12), t(10, 12), t(10, 12), t(12, 5))._replace(**given)
        return attn.multi_head_attention(t(*query), t(*key), t(*value), parameters, **heads)

    return call


def with_parameters(make: Any) -> Any:
    def call(attn: ModuleType, t: Maker) -> Any:
        parameters = attn.MultiHeadParameters(t(10, 12), t(10, 12), t(10, 12), t(12, 5))
        return attn.multi_head_attention(*(t(2, 5, 10),) * 3, make(parameters), num_heads=4)

    return call


SELF: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        self_attend((7,), (7, 3), (7, 3), (7, 5)),
    ),
    "weight of rank 1": (
        ValueError,
        "`query_weight` must have shape (size of `inputs`, columns); got shapes inputs (5, 7) and query_weight (7,)",
        self_attend((5, 7), (7,), (7, 3), (7, 5)),
    ),
    "rows of key weight": (
        ValueError,
        "`key_weight` must have shape (size of `inputs`, columns); got shapes inputs (5, 7) and key_weight (11, 3)",
        self_attend((5, 7), (7, 3), (11, 3), (7, 5)),
    ),
    "columns of key weight": (
        ValueError,
        (
            "`key_weight` must have the columns (axis -1) of `query_weight`; "
            "got shapes query_weight (7, 3) and key_weight (7, 2)"
        ),
        self_attend((5, 7), (7, 3), (7, 2), (7, 5)),
    ),
    "no columns": (
        ValueError,
        HEAD_DIM_0 + "`query_weight` has shape (7, 0)",
        self_attend((5, 7), (7, 0), (7, 0), (7, 5)),
    ),
    "mixed dtypes": (
        TypeError,
        (
            "`inputs`, `query_weight`, `key_weight` and `value_weight` must share one dtype; "
            "got inputs float64, query_weight float64, key_weight float32, value_weight float64"
        ),
        lambda attn, t: attn.self_attention(t(5, 7), t(7, 3), t(7, 3, dtype="float32"), t(7, 5)),
    ),
    "mask without its axis of heads": (
        ValueError,
        (
            "`mask` must have 2 axes or 4, up to (2, 1, 5, 5); got shape (2, 5, 5), which lacks the head axis: "
            "reshape to (2, 1, 5, 5)"
        ),
        self_attend((2, 5, 7), (7, 3), (7, 3), (7, 5), mask=np.ones((2, 5, 5), bool)),
    ),
}

KEY_VALUE: dict[str, Case] = {
    "query without axes": (
        ValueError,
        "`query` must have at least 1 axis, (*batch, size); got shape ()",
        read((), (5,), (5,)),
    ),
    "keys without memory": (
        ValueError,
        "`keys` must have one axis more than `query`, (*batch, memory, size); got shapes query (2, 7) and keys (2, 7)",
        read((2, 7), (2, 7), (2, 5, 3)),
    ),
    "values without batch": (
        ValueError,
        (
            "`values` must have one axis more than `query`, (*batch, memory, size); "
            "got shapes query (2, 7) and values (5, 3)"
        ),
        read((2, 7), (2, 5, 7), (5, 3)),
    ),
    "batch of keys": (
        ValueError,
        "`keys` must have the batch axes of `query`; got shapes query (2, 7) and keys (3, 5, 7)",
        read((2, 7), (3, 5, 7), (3, 5, 3)),
    ),
    "memory of values": (
        ValueError,
        "`values` must have the length (axis -2) of `keys`; got shapes keys (2, 5, 7) and values (2, 3, 3)",
        read((2, 7), (2, 5, 7), (2, 3, 3)),
    ),
    "size of keys": (
        ValueError,
        "`keys` must have the size (axis -1) of `query`; got shapes query (2, 7) and keys (2, 5, 3)",
        read((2, 7), (2, 5, 3), (2, 5, 3)),
    ),
    "size of 0": (ValueError, HEAD_DIM_0 + "`query` has shape (2, 0)", read((2, 0), (2, 5, 0), (2, 5, 3))),
    "query is an int": (
        TypeError,
        f"`query` {FLOATING}; got int32",
        lambda attn, t: attn.key_value_attention(t(7, dtype="int32"), t(5, 7), t(5, 3)),
    ),
}

HEADS: dict[str, Case] = {
    "10 columns for 4 heads": (
        ValueError,
        "`query_weight` must have a number of columns that `num_heads`=4 divides; got 10 columns",
        multi_head(query_weight=(10, 10), key_weight=(10, 10), value_weight=(10, 10), output_weight=(10, 10)),
    ),
    "13 columns for 4 value heads": (
        ValueError,
        "`value_weight` must have a number of columns that `num_kv_heads`=4 divides; got 13 columns",
        multi_head(value_weight=(10, 13)),
    ),
    "key heads of another size": (
        ValueError,
        "`key_weight` must give each of 4 key heads the size of a query head, 3; got shape (10, 8), which gives 2",
        multi_head(key_weight=(10, 8)),
    ),
    "fewer key heads than the weights have": (
        ValueError,
        "`key_weight` must give each of 2 key heads the size of a query head, 3; got shape (10, 12), which gives 6",
        multi_head(num_kv_heads=2),
    ),
    "no columns": (
        ValueError,
        HEAD_DIM_0 + "`query_weight` has shape (10, 0)",
        multi_head(query_weight=(10, 0), key_weight=(10, 0)),
    ),
    "0 heads": (ValueError, "`num_heads` must be at least 1; got 0", multi_head(num_heads=0)),
    "-4 heads": (ValueError, "`num_heads` must be at least 1; got -4", multi_head(num_heads=-4)),
    "True heads": (TypeError, "`num_heads` must be an int; got True", multi_head(num_heads=True)),
    "4.0 heads": (TypeError, "`num_heads` must be an int; got 4.0", multi_head(num_heads=4.0)),
    "'4' heads": (TypeError, "`num_heads` must be an int; got '4'", multi_head(num_heads="4")),
    "None heads": (TypeError, "`num_heads` must be an int; got None", multi_head(num_heads=None)),
    "0 key heads": (ValueError, "`num_kv_heads` must be at least 1; got 0", multi_head(num_kv_heads=0)),
    "2.0 key heads": (TypeError, "`num_kv_heads` must be an int; got 2.0", multi_head(num_kv_heads=2.0)),
    "3 key heads for 4": (
        ValueError,
        "`num_heads` must be a multiple of `num_kv_heads`; got 4 and 3",
        multi_head(num_kv_heads=3),
    ),
    "heads not given": (
        TypeError,
        "multi_head_attention() missing 1 required keyword-only argument: 'num_heads'",
        lambda attn, t: attn.multi_head_attention(t(5, 10), t(5, 10), t(5, 10), None),
    ),
}

INPUTS: dict[str, Case] = {
    "query of rank 1": (
        ValueError,
        "`query` must have at least 2 axes, (*batch, length, size); got shape (10,)",
        multi_head(query=(10,)),
    ),
    "key of another rank": (
        ValueError,
        "`key` must have as many axes as `query`, 3; got shapes query (2, 5, 10) and key (5, 10)",
        multi_head(key=(5, 10)),
    ),
    "batch of key": (
        ValueError,
        "`key` must have the batch axes of `query`; got shapes query (2, 5, 10) and key (3, 5, 10)",
        multi_head(key=(3, 5, 10)),
    ),
    "length of value": (
        ValueError,
        "`value` must have the length (axis -2) of `key`; got shapes key (2, 5, 10) and value (2, 3, 10)",
        multi_head(value=(2, 3, 10)),
    ),
    "size of key": (
        ValueError,
        "`key_weight` must have shape (size of `key`, columns); got shapes key (2, 5, 11) and key_weight (10, 12)",
        multi_head(key=(2, 5, 11)),
    ),
}

PARAMETERS: dict[str, Case] = {
    "tuple": (
        TypeError,
        "`parameters` must be MultiHeadParameters(query_weight, …); got an object of type tuple",
        with_parameters(tuple),
    ),
    "dict": (
        TypeError,
        "`parameters` must be MultiHeadParameters(query_weight, …); got an object of type dict",
        with_parameters(lambda parameters: parameters._asdict()),
    ),
    "None": (
        TypeError,
        "`parameters` must be MultiHeadParameters(query_weight, …); got None",
        with_parameters(lambda _: None),
    ),
    "no value weight": (
        TypeError,
        "`value_weight` of `parameters` must be given; got None",
        multi_head(value_weight=None),
    ),
    "query weight of rank 3": (
        ValueError,
        (
            "`query_weight` must have shape (size of `query`, columns); "
            "got shapes query (2, 5, 10) and query_weight (10, 4, 3)"
        ),
        multi_head(query_weight=(10, 4, 3)),
    ),
    "rows of output weight": (
        ValueError,
        OUTPUT_ROWS + "(11, 5)",
        multi_head(output_weight=(11, 5)),
    ),
    "output weight of rank 1": (
        ValueError,
        OUTPUT_ROWS + "(12,)",
        multi_head(output_weight=(12,)),
    ),
    "size of key bias": (
        ValueError,
        (
            "`key_bias` must have one element for each column of `key_weight`; "
            "got shapes key_weight (10, 12) and key_bias (7,)"
        ),
        multi_head(key_bias=(7,)),
    ),
    "output bias of rank 2": (
        ValueError,
        (
            "`output_bias` must have one element for each column of `output_weight`; "
            "got shapes output_weight (12, 5) and output_bias (1, 5)"
        ),
        multi_head(output_bias=(1, 5)),
    ),
    "str for a bias": (
        TypeError,
        "`query_bias` must be an array or nested lists of numbers; got an object of type str",
        multi_head(query_bias="zeros"),
    ),
    "int bias": (
        TypeError,
        f"`output_bias` {FLOATING}; got int64",
        multi_head(output_bias=np.zeros(5, np.int64)),
    ),
    "float32 bias": (
        TypeError,
        (
            "`query`, `key`, `value`, `query_weight`, `key_weight`, `value_weight`, `output_weight` and `output_bias` "
            "must share one dtype; got query float64, key float64, value float64, query_weight float64, "
            "key_weight float64, value_weight float64, output_weight float64, output_bias float32"
        ),
        multi_head(output_bias=np.zeros(5, np.float32)),
    ),
}


@pytest.mark.parametrize("case", SELF.values(), ids=SELF)
def test_wrong_self_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", KEY_VALUE.values(), ids=KEY_VALUE)
def test_wrong_key_value_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", (HEADS | INPUTS | PARAMETERS).values(), ids=HEADS | INPUTS | PARAMETERS)
def test_wrong_multi_head_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_numpy_integers_count_heads(attn: ModuleType) -> None:
    given = [np.zeros((10, 12)), np.zeros((10, 6)), np.zeros((10, 6)), np.zeros((12, 5))]
    output = attn.multi_head_attention(
        *(np.zeros((2, 5, 10)),) * 3, attn.MultiHeadParameters(*given), num_heads=np.int64(4), num_kv_heads=np.int32(2)
    )
    assert tuple(output.shape) == (2, 5, 5)

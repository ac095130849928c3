"""Wrong bias objects and sums of them: refused, in the same words everywhere (S5, S7, S16)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, check_refused

from attnspec.contract import Bias, alibi, causal, relative_position_bias

LISTS = "must be an array or nested lists of numbers; got"
INTEGERS = "must be an int or integers of shape (*batch,); got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
MASK_HINT = "; a boolean array is a mask and goes to `mask=`"
NO_OFFSET = (
    "without an offset needs as many queries as keys; got 5 queries and 11 keys: say `offset=0` (query 0 stands at "
    "key 0, top-left) or `offset='end'` (the last query stands at the last key, bottom-right)"
)
TABLE = [[0.0] * 3] * 4


def slopes(value: Any = None, **options: Any) -> Bias:
    return alibi(value, **({"symmetric": True, "offset": 0} | options))


def table(value: Any, **options: Any) -> Bias:
    return relative_position_bias(value, **({"bidirectional": False, "max_distance": 8, "offset": 0} | options))


def rank_3(bias: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 5, 7), t(2, 11, 7), t(2, 11, 3), bias=bias)


def rank_4(bias: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 3, 5, 7), t(2, 3, 11, 7), t(2, 3, 11, 13), bias=bias)


def native(use: Any, values: Any, make: Any, dtype: str = "float64") -> Any:
    return lambda attn, t: use(make(t.of(np.asarray(values), dtype)))(attn, t)


def made(make: Callable[[], Any]) -> Any:
    return lambda _attn, _t: make()


SLOPES = "`slopes` of `alibi`"
NUMBERS = f"{SLOPES} must be numbers or a floating array; got"
HEADS = f"{SLOPES} must have one number for each of the 3 query heads, shape (3,); got shape"
HEADLESS = f"{SLOPES} must have one number for the one head, shape (); got shape"
SYMMETRIC = "`symmetric` of `alibi` must be True or False; got"
ALIBI: dict[str, Case] = {
    "symmetric left out": (
        TypeError,
        "alibi() missing 1 required keyword-only argument: 'symmetric'",
        made(alibi),
    ),
    "symmetric by position": (
        TypeError,
        "alibi() takes from 0 to 1 positional arguments but 2 were given",
        made(lambda: alibi(None, True)),
    ),
    "symmetric None": (TypeError, f"{SYMMETRIC} None", made(lambda: slopes(symmetric=None))),
    "symmetric 1": (TypeError, f"{SYMMETRIC} 1", made(lambda: slopes(symmetric=1))),
    "symmetric str": (TypeError, f"{SYMMETRIC} 'no'", made(lambda: slopes(symmetric="no"))),
    "symmetric NumPy": (TypeError, f"{SYMMETRIC} np.True_", made(lambda: slopes(symmetric=np.True_))),
    "bool": (TypeError, f"{NUMBERS} an object of type bool", made(lambda: slopes(True))),
    "str": (TypeError, f"{NUMBERS} an object of type str", made(lambda: slopes("end"))),
    "set": (TypeError, f"{NUMBERS} an object of type set", made(lambda: slopes({1.0, 2.0}))),
    "complex": (TypeError, f"{NUMBERS} an object of type complex", made(lambda: slopes(1j))),
    "mask": (TypeError, f"{NUMBERS} an object of type attnspec.Causal", made(lambda: slopes(causal()))),
    "list of bool": (TypeError, f"{SLOPES} {FLOATING}; got bool", made(lambda: slopes([True, False, True]))),
    "list of str": (
        TypeError,
        f"{SLOPES} {LISTS} a list that holds an object of type str",
        rank_4(slopes(["0.5", "0.25", "0.125"])),
    ),
    "None in a list": (TypeError, f"{SLOPES} {LISTS} a list that holds None", rank_4(slopes([0.5, None, 0.125]))),
    "ragged": (ValueError, f"{SLOPES} must be nested lists of equal lengths", made(lambda: slopes([[1.0], []]))),
    "int beyond every float": (
        TypeError,
        f"{SLOPES} must hold numbers; got a NumPy array of dtype object",
        made(lambda: slopes([10**400] * 3)),
    ),
    "int array": (TypeError, f"{SLOPES} {FLOATING}; got int64", rank_4(slopes(np.ones(3, np.int64)))),
    "native int": (TypeError, f"{SLOPES} {FLOATING}; got int32", native(rank_4, [1, 2, 3], slopes, "int32")),
    "float32 beside float64": (
        TypeError,
        f"{SLOPES} must have dtype float64 beside a float64 query; got float32",
        native(rank_4, [1.0, 2.0, 3.0], slopes, "float32"),
    ),
    "masked": (TypeError, f"{SLOPES} {MASKED}", rank_4(slopes(np.ma.ones(3)))),
    "2 for 3 heads": (ValueError, f"{HEADS} (2,)", rank_4(slopes([0.5, 0.25]))),
    "native 2 for 3 heads": (ValueError, f"{HEADS} (2,)", native(rank_4, [0.5, 0.25], slopes)),
    "a number for 3 heads": (ValueError, f"{HEADS} ()", rank_4(slopes(0.5))),
    "none": (ValueError, f"{HEADS} (0,)", rank_4(slopes([]))),
    "a column": (ValueError, f"{HEADS} (3, 1)", rank_4(slopes([[0.5], [0.25], [0.125]]))),
    "axis at rank 3": (ValueError, f"{HEADLESS} (1,)", rank_3(slopes([0.5]))),
    "the batch at rank 3": (ValueError, f"{HEADLESS} (2,)", rank_3(slopes([0.5, 0.25]))),
    "no offset": (ValueError, f"`alibi` {NO_OFFSET}", rank_4(slopes(offset=None))),
    "offset start": (
        ValueError,
        "`offset` of `alibi` must be an int, integers of shape (*batch,), 'end' or None; got 'start'",
        made(lambda: slopes(offset="start")),
    ),
    "offset float": (
        TypeError,
        f"`offset` of `alibi` {INTEGERS} an object of type float",
        made(lambda: slopes(offset=0.5)),
    ),
    "offset of another batch": (
        ValueError,
        "`offset` of `alibi` must be an int or have the batch shape (2,); got shape (3,)",
        rank_4(slopes(offset=[1, 2, 3])),
    ),
}

HEAD_COUNTS: dict[str, Case] = {
    "negative": (ValueError, "`num_heads` must be at least 0; got -1", lambda attn, _t: attn.alibi_slopes(-1)),
    "float": (TypeError, "`num_heads` must be an int; got 8.0", lambda attn, _t: attn.alibi_slopes(8.0)),
    "bool": (TypeError, "`num_heads` must be an int; got True", lambda attn, _t: attn.alibi_slopes(True)),
    "str": (TypeError, "`num_heads` must be an int; got '8'", lambda attn, _t: attn.alibi_slopes("8")),
    "None": (TypeError, "`num_heads` must be an int; got None", lambda attn, _t: attn.alibi_slopes(None)),
    "list": (TypeError, "`num_heads` must be an int; got [8]", lambda attn, _t: attn.alibi_slopes([8])),
}

ROWS = "`table` of `relative_position_bias`"
NO_TABLE = f"{ROWS} must be numbers or a floating array; got"
BIDIRECTIONAL = "`bidirectional` of `relative_position_bias` must be True or False; got"
DISTANCE = "`max_distance` of `relative_position_bias`"
EXCEED = f"{DISTANCE} must exceed 2, the number of single distances among 4 buckets; got"
RELATIVE: dict[str, Case] = {
    "bidirectional left out": (
        TypeError,
        "relative_position_bias() missing 1 required keyword-only argument: 'bidirectional'",
        made(lambda: relative_position_bias(TABLE)),
    ),
    "bidirectional None": (TypeError, f"{BIDIRECTIONAL} None", made(lambda: table(TABLE, bidirectional=None))),
    "bidirectional 0": (TypeError, f"{BIDIRECTIONAL} 0", made(lambda: table(TABLE, bidirectional=0))),
    "swapped": (TypeError, f"{BIDIRECTIONAL} [[0.0]]", made(lambda: table(True, bidirectional=[[0.0]]))),
    "distance float": (
        TypeError,
        f"{DISTANCE} must be an int; got 128.0",
        made(lambda: table(TABLE, max_distance=128.0)),
    ),
    "distance bool": (TypeError, f"{DISTANCE} must be an int; got True", made(lambda: table(TABLE, max_distance=True))),
    "distance None": (TypeError, f"{DISTANCE} must be an int; got None", made(lambda: table(TABLE, max_distance=None))),
    "distance negative": (ValueError, f"{EXCEED} -1", rank_4(table(TABLE, max_distance=-1))),
    "distance too small": (ValueError, f"{EXCEED} 2", rank_4(table(TABLE, max_distance=2))),
    "distance too small both ways": (
        ValueError,
        f"{DISTANCE} must exceed 2, the number of single distances among 8 buckets; got 2",
        rank_4(table([[0.0] * 3] * 8, bidirectional=True, max_distance=2)),
    ),
    "odd rows both ways": (
        ValueError,
        f"{ROWS} must have an even number of rows, at least 4; got 5",
        rank_4(table(np.zeros((5, 3)), bidirectional=True)),
    ),
    "2 rows both ways": (
        ValueError,
        f"{ROWS} must have an even number of rows, at least 4; got 2",
        native(rank_4, np.zeros((2, 3)), lambda values: table(values, bidirectional=True)),
    ),
    "1 row": (ValueError, f"{ROWS} must have at least 2 rows; got 1", rank_4(table([[0.0] * 3]))),
    "no rows": (ValueError, f"{ROWS} must have at least 2 rows; got 0", rank_4(table(np.zeros((0, 3))))),
    "None": (TypeError, f"{NO_TABLE} None", made(lambda: table(None))),
    "str": (TypeError, f"{NO_TABLE} an object of type str", made(lambda: table("t5"))),
    "bool": (TypeError, f"{NO_TABLE} an object of type bool", made(lambda: table(True))),
    "dict": (TypeError, f"{NO_TABLE} an object of type dict", made(lambda: table({0: [1.0]}))),
    "a number of buckets": (
        ValueError,
        f"{ROWS} must have shape (buckets, heads), or (buckets,); got shape ()",
        rank_4(table(32)),
    ),
    "3 axes": (
        ValueError,
        f"{ROWS} must have shape (buckets, heads), or (buckets,); got shape (4, 3, 1)",
        rank_4(table(np.zeros((4, 3, 1)))),
    ),
    "transposed": (
        ValueError,
        f"{ROWS} must have one number for each of the 3 query heads, shape (3, 3); got shape (3, 4)",
        native(rank_4, np.zeros((3, 4)), table),
    ),
    "one head for 3": (
        ValueError,
        f"{ROWS} must have one number for each of the 3 query heads, shape (4, 3); got shape (4,)",
        rank_4(table([0.0] * 4)),
    ),
    "heads at rank 3": (
        ValueError,
        f"{ROWS} must have one number for the one head, shape (4,); got shape (4, 1)",
        rank_3(table(np.zeros((4, 1)))),
    ),
    "int": (TypeError, f"{ROWS} {FLOATING}; got int64", rank_4(table(np.zeros((4, 3), np.int64)))),
    "native int": (TypeError, f"{ROWS} {FLOATING}; got int32", native(rank_4, TABLE, table, "int32")),
    "list of bool": (TypeError, f"{ROWS} {FLOATING}; got bool", made(lambda: table([[True] * 3] * 4))),
    "list of str": (
        TypeError,
        f"{ROWS} {LISTS} a list that holds an object of type str",
        rank_4(table([["a"] * 3] * 4)),
    ),
    "ragged": (ValueError, f"{ROWS} must be nested lists of equal lengths", made(lambda: table([[1.0], [1.0, 2.0]]))),
    "masked": (TypeError, f"{ROWS} {MASKED}", rank_4(table(np.ma.zeros((4, 3))))),
    "float32 beside float64": (
        TypeError,
        f"{ROWS} must have dtype float64 beside a float64 query; got float32",
        native(rank_4, TABLE, table, "float32"),
    ),
    "no offset": (ValueError, f"`relative_position_bias` {NO_OFFSET}", rank_4(table(TABLE, offset=None))),
    "offset start": (
        ValueError,
        "`offset` of `relative_position_bias` must be an int, integers of shape (*batch,), 'end' or None; got 'start'",
        made(lambda: table(TABLE, offset="start")),
    ),
    "offset of another batch": (
        ValueError,
        "`offset` of `relative_position_bias` must be an int or have the batch shape (2,); got shape (3,)",
        rank_4(table(TABLE, offset=[1, 2, 3])),
    ),
}

NO_BIAS = f"`bias` {LISTS}"
SUMS: dict[str, Case] = {
    "None": (TypeError, f"{NO_BIAS} None", made(lambda: slopes() + None)),
    "None first": (TypeError, f"{NO_BIAS} None", made(lambda: None + slopes())),
    "a mask": (TypeError, f"{NO_BIAS} an object of type attnspec.Causal", made(lambda: slopes() + causal(0))),
    "a mask first": (TypeError, f"{NO_BIAS} an object of type attnspec.Causal", made(lambda: causal(0) + slopes())),
    "a function": (TypeError, f"{NO_BIAS} an object of type function", made(lambda: slopes() + alibi)),
    "str": (TypeError, f"{NO_BIAS} an object of type str", made(lambda: slopes() + "alibi")),
    "number": (
        ValueError,
        "`bias` must have 2 axes or 4, up to (2, 3, 5, 11); got shape ()",
        rank_4(slopes() + 1.0),
    ),
    "the sum of Python": (
        ValueError,
        "`bias` must have 2 axes or 4, up to (2, 3, 5, 11); got shape ()",
        rank_4(sum([slopes(), slopes()])),
    ),
    "one axis": (
        ValueError,
        "`bias` must have 2 axes or 4, up to (2, 3, 5, 11); got shape (3,)",
        rank_4(slopes() + [0.5, 0.25, 0.125]),
    ),
    "too few keys": (
        ValueError,
        "each axis of `bias` must be 1 or that of (2, 3, 5, 11); got shape (5, 7)",
        rank_4(slopes() + np.zeros((5, 7))),
    ),
    "native, first": (
        ValueError,
        "each axis of `bias` must be 1 or that of (2, 3, 5, 11); got shape (5, 7)",
        native(rank_4, np.zeros((5, 7)), lambda array: array + slopes()),
    ),
    "the last of three": (
        ValueError,
        "each axis of `bias` must be 1 or that of (2, 3, 5, 11); got shape (11, 5)",
        rank_4(slopes() + np.zeros((5, 11)) + np.zeros((11, 5))),
    ),
    "slopes inside": (ValueError, f"{HEADS} (2,)", rank_4(np.zeros((5, 11)) + slopes([0.5, 0.25]))),
    "offset inside": (
        ValueError,
        f"`relative_position_bias` {NO_OFFSET}",
        rank_4(slopes() + table(TABLE, offset=None)),
    ),
    "bool": (TypeError, f"`bias` {FLOATING}; got bool{MASK_HINT}", rank_4(slopes() + np.ones((5, 11), bool))),
    "int": (TypeError, f"`bias` {FLOATING}; got int64", rank_4(np.ones((5, 11), np.int64) + slopes())),
    "native int": (
        TypeError,
        f"`bias` {FLOATING}; got int32",
        native(rank_4, np.ones((5, 11)), lambda array: array + slopes(), "int32"),
    ),
    "float32 beside float64": (
        TypeError,
        "`bias` must have dtype float64 beside a float64 query; got float32",
        native(rank_4, np.zeros((5, 11)), lambda array: slopes() + array, "float32"),
    ),
    "ragged": (ValueError, "`bias` must be nested lists of equal lengths", rank_4(slopes() + [[1.0], [1.0, 2.0]])),
    "difference": (
        TypeError,
        "unsupported operand type(s) for -: 'Alibi' and 'Alibi'",
        made(lambda: slopes() - slopes()),
    ),
    "multiple": (TypeError, "unsupported operand type(s) for *: 'int' and 'Alibi'", made(lambda: 2 * slopes())),
    "negative": (TypeError, "bad operand type for unary -: 'Alibi'", made(lambda: -slopes())),
    "and": (
        TypeError,
        "`mask` must be a mask object or a boolean array (True = may attend); got an object of type attnspec.Alibi",
        made(lambda: causal() & slopes()),
    ),
    "a list of biases": (
        TypeError,
        f"{NO_BIAS} a list that holds an object of type attnspec.Alibi",
        rank_4([slopes(), slopes()]),
    ),
    "the maker": (TypeError, f"{NO_BIAS} an object of type function", rank_4(alibi)),
}


@pytest.mark.parametrize("case", ALIBI.values(), ids=ALIBI)
def test_wrong_alibi_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", HEAD_COUNTS.values(), ids=HEAD_COUNTS)
def test_wrong_number_of_heads_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", RELATIVE.values(), ids=RELATIVE)
def test_wrong_relative_position_bias_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS)
def test_wrong_sum_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("offset", [2**31, -(2**29) - 1, [0, 2**30]], ids=["far", "just too far", "one of two"])
def test_an_offset_that_no_position_has_is_refused(attn: ModuleType, offset: Any) -> None:
    tensors = [np.zeros((2, 3, 5), np.float32)] * 3
    with pytest.raises(ValueError, match="`offset` of `alibi` must lie between -536870912 and 536870912; got "):
        attn.dot_product_attention(*tensors, bias=alibi(0.5, symmetric=True, offset=offset))

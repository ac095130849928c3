"""Wrong masks: refused when they are made or when they are used, in the same words everywhere (S4, S7, S8)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import Case, Maker, check_refused

from attnspec.contract import causal, full, key_lengths, query_lengths, sliding_window

NOT_A_MASK = "`mask` must be a mask object or a boolean array (True = may attend); got "
NUMBERS = ": pass numbers to add to the scores as `bias=`, or write the comparison that you mean, as in `array != 0`"
INTEGERS = "must be an int or integers of shape (*batch,); got"
LISTS = "must be an array or nested lists of numbers; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
AMBIGUOUS = (
    "`mask` must have 2 axes or 4, up to (2, 3, 5, 11); got shape (2, 5, 11), which is ambiguous: reshape to "
    "(2, 1, 5, 11) if axis 0 is the batch, or to (1, 2, 5, 11) if it is the heads"
)
NO_OFFSET = (
    "without an offset needs as many queries as keys; got 5 queries and 11 keys: say `offset=0` (query 0 stands at "
    "key 0, top-left) or `offset='end'` (the last query stands at the last key, bottom-right)"
)


def rank_2(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), mask=mask)


def rank_3(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 5, 7), t(2, 11, 7), t(2, 11, 3), mask=mask)


def rank_4(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 3, 5, 7), t(2, 3, 11, 7), t(2, 3, 11, 13), mask=mask)


def native(use: Any, values: Any, make: Any = lambda array: array) -> Any:
    return lambda attn, t: use(make(t.of(np.asarray(values))))(attn, t)


def made(make: Any) -> Any:
    return lambda _attn, _t: make()


def true(*shape: int) -> np.ndarray:
    return np.ones(shape, bool)


ARRAYS: dict[str, Case] = {
    "int": (TypeError, f"{NOT_A_MASK}an array of dtype int64{NUMBERS}", rank_2(np.ones((5, 11), np.int64))),
    "native int": (TypeError, f"{NOT_A_MASK}an array of dtype int32{NUMBERS}", native(rank_2, np.ones((5, 11), "i4"))),
    "native float": (TypeError, f"{NOT_A_MASK}an array of dtype float64{NUMBERS}", native(rank_2, np.zeros((5, 11)))),
    "list of int": (TypeError, f"{NOT_A_MASK}an array of dtype int64{NUMBERS}", rank_2([[1, 0]])),
    "objects": (TypeError, f"{NOT_A_MASK}an array of dtype object{NUMBERS}", rank_2(np.ones((5, 11), object))),
    "number": (TypeError, f"{NOT_A_MASK}an object of type int", rank_2(1)),
    "str": (TypeError, f"{NOT_A_MASK}an object of type str", rank_2("causal")),
    "function": (TypeError, f"{NOT_A_MASK}an object of type function", rank_2(causal)),
    "combined with None": (TypeError, f"{NOT_A_MASK}None", made(lambda: causal() & None)),
    "combined with int array": (
        TypeError,
        f"{NOT_A_MASK}an array of dtype int64{NUMBERS}",
        made(lambda: np.ones((5, 11), np.int64) | causal()),
    ),
    "list of str": (TypeError, f"`mask` {LISTS} a list that holds an object of type str", rank_2([["a"]])),
    "ragged": (ValueError, "`mask` must be nested lists of equal lengths", rank_2([[True], [True, False]])),
    "masked": (TypeError, f"`mask` {MASKED}", rank_2(np.ma.array(true(5, 11)))),
    "masked inside": (TypeError, f"`mask` {MASKED}", rank_2(causal(0) & np.ma.array(true(5, 11)))),
    "True": (ValueError, "`mask` must have 2 axes, up to (5, 11); got shape ()", rank_2(True)),
    "rank 1": (ValueError, "`mask` must have 2 axes, up to (5, 11); got shape (11,)", rank_2(true(11))),
    "rank 3 for rank 4": (ValueError, AMBIGUOUS, rank_4(true(2, 5, 11))),
    "native rank 3 for rank 4": (ValueError, AMBIGUOUS, native(rank_4, true(2, 5, 11))),
    "rank 3 inside": (ValueError, AMBIGUOUS, rank_4(~(full() & true(2, 5, 11)))),
    "rank 4 for rank 3": (
        ValueError,
        "`mask` must have 2 axes or 3, up to (2, 5, 11); got shape (2, 1, 5, 11)",
        rank_3(true(2, 1, 5, 11)),
    ),
    "too few keys": (
        ValueError,
        "each axis of `mask` must be 1 or that of (2, 5, 11); got shape (2, 5, 7)",
        rank_3(true(2, 5, 7)),
    ),
    "transposed": (
        ValueError,
        "each axis of `mask` must be 1 or that of (2, 5, 11); got shape (11, 5)",
        native(rank_3, true(11, 5)),
    ),
    "batch": (
        ValueError,
        "each axis of `mask` must be 1 or that of (2, 3, 5, 11); got shape (3, 1, 5, 11)",
        rank_4(true(3, 1, 5, 11)),
    ),
}

OFFSETS: dict[str, Case] = {
    "causal without": (ValueError, f"`causal` {NO_OFFSET}", rank_2(causal())),
    "causal without, inside": (ValueError, f"`causal` {NO_OFFSET}", rank_4(full() | ~causal())),
    "window without": (ValueError, f"`sliding_window` {NO_OFFSET}", rank_3(sliding_window(left=2))),
    "one query": (
        ValueError,
        f"`causal` {NO_OFFSET}".replace("5 queries", "1 queries"),
        lambda attn, t: attn.key_value_attention(t(7), t(11, 7), t(11, 3), mask=causal()),
    ),
    "start": (
        ValueError,
        "`offset` of `causal` must be an int, integers of shape (*batch,), 'end' or None; got 'start'",
        made(lambda: causal("start")),
    ),
    "float": (TypeError, f"`offset` of `causal` {INTEGERS} an object of type float", made(lambda: causal(1.0))),
    "bool": (TypeError, f"`offset` of `causal` {INTEGERS} a boolean", made(lambda: causal(True))),
    "float array": (TypeError, f"`offset` of `causal` {INTEGERS} dtype float64", made(lambda: causal([0.0, 1.0]))),
    "native float": (TypeError, f"`offset` of `causal` {INTEGERS} dtype float64", native(rank_3, [0.0, 1.0], causal)),
    "ragged": (
        ValueError,
        "`offset` of `causal` must be nested lists of equal lengths",
        made(lambda: causal([[1], 2])),
    ),
    "masked": (TypeError, f"`offset` of `causal` {MASKED}", made(lambda: causal(np.ma.array([1, 2])))),
    "batch shape": (
        ValueError,
        "`offset` of `causal` must be an int or have the batch shape (2,); got shape (3,)",
        rank_4(causal([1, 2, 3])),
    ),
    "with heads": (
        ValueError,
        "`offset` of `causal` must be an int or have the batch shape (2,); got shape (2, 3)",
        native(rank_4, [[1, 2, 3], [4, 5, 6]], causal),
    ),
    "no batch": (
        ValueError,
        "`offset` of `sliding_window` must be an int or have the batch shape (); got shape (1,)",
        rank_2(sliding_window(1, offset=[1])),
    ),
}

WINDOWS: dict[str, Case] = {
    "no side": (
        ValueError,
        "`sliding_window` needs `left=` or `right=`: with neither it hides nothing; use `full()`",
        made(lambda: sliding_window(offset=0)),
    ),
    "negative": (
        ValueError,
        "`left` of `sliding_window` must be at least 0 (it counts keys beside the query's own); got -1",
        made(lambda: sliding_window(left=-1)),
    ),
    "float": (
        TypeError,
        "`right` of `sliding_window` must be an int or None; got 1.5",
        made(lambda: sliding_window(right=1.5)),
    ),
    "bool": (
        TypeError,
        "`left` of `sliding_window` must be an int or None; got True",
        made(lambda: sliding_window(left=True)),
    ),
    "array": (
        TypeError,
        "`left` of `sliding_window` must be an int or None; got array([1, 2])",
        made(lambda: sliding_window(left=np.array([1, 2]))),
    ),
}

BEYOND = "`key_lengths` must lie between 0 and the number of keys, 11; got"
LENGTHS: dict[str, Case] = {
    "negative": (ValueError, "`key_lengths` must be at least 0; got -1", made(lambda: key_lengths(-1))),
    "negative in a list": (
        ValueError,
        "`query_lengths` must be at least 0; got [2, -1]",
        made(lambda: query_lengths([2, -1])),
    ),
    "native negative": (
        ValueError,
        "`key_lengths` must be at least 0; got [2, -1]",
        native(rank_3, [2, -1], key_lengths),
    ),
    "beyond the keys": (ValueError, f"{BEYOND} 12", rank_3(key_lengths(12))),
    "beyond the keys in a list": (ValueError, f"{BEYOND} [11, 12]", rank_3(key_lengths([11, 12]))),
    "native beyond the keys": (ValueError, f"{BEYOND} [11, 12]", native(rank_3, [11, 12], key_lengths)),
    "beyond the keys, inside": (ValueError, f"{BEYOND} 12", rank_3(full() & ~(key_lengths(12) | causal(0)))),
    "beyond int64": (ValueError, f"{BEYOND} {2**70}", rank_3(key_lengths(2**70))),
    "beyond the queries": (
        ValueError,
        "`query_lengths` must lie between 0 and the number of queries, 5; got [6, 1]",
        rank_3(query_lengths([6, 1])),
    ),
    "batch shape": (
        ValueError,
        "`key_lengths` must be an int or have the batch shape (2,); got shape (3,)",
        rank_4(key_lengths([1, 2, 3])),
    ),
    "no numbers": (
        ValueError,
        "`key_lengths` must be an int or have the batch shape (2,); got shape (0,)",
        rank_3(key_lengths([])),
    ),
    "no batch": (
        ValueError,
        "`query_lengths` must be an int or have the batch shape (); got shape (1,)",
        native(rank_2, [1], query_lengths),
    ),
    "float": (TypeError, f"`key_lengths` {INTEGERS} an object of type float", made(lambda: key_lengths(3.0))),
    "bool": (TypeError, f"`key_lengths` {INTEGERS} a boolean", made(lambda: key_lengths(True))),
    "None": (TypeError, f"`key_lengths` {INTEGERS} None", made(lambda: key_lengths(None))),
    "str": (TypeError, f"`query_lengths` {INTEGERS} an object of type str", made(lambda: query_lengths("end"))),
    "list of bool": (TypeError, f"`key_lengths` {INTEGERS} dtype bool", made(lambda: key_lengths([True, False]))),
    "list of float": (TypeError, f"`key_lengths` {INTEGERS} dtype float64", made(lambda: key_lengths([1.0, 2.0]))),
    "native bool": (TypeError, f"`key_lengths` {INTEGERS} dtype bool", native(rank_3, [True, False], key_lengths)),
    "native float": (TypeError, f"`key_lengths` {INTEGERS} dtype float64", native(rank_3, [1.0, 2.0], key_lengths)),
    "None in a list": (
        TypeError,
        f"`key_lengths` {LISTS} a list that holds None",
        made(lambda: key_lengths([1, None])),
    ),
    "masked": (TypeError, f"`key_lengths` {MASKED}", made(lambda: key_lengths(np.ma.array([1, 2])))),
}


@pytest.mark.parametrize("case", ARRAYS.values(), ids=ARRAYS)
def test_wrong_array_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", OFFSETS.values(), ids=OFFSETS)
def test_wrong_offset_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", LENGTHS.values(), ids=LENGTHS)
def test_wrong_lengths_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
def test_wrong_window_is_refused(case: Case) -> None:
    error, text, call = case
    with pytest.raises(error) as caught:
        call(np, Maker("reference"))
    assert str(caught.value) == text

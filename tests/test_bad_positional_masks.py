"""Wrong segments, prefixes, chunks and predicates: refused, in the same words everywhere (S4, S7, S8, S9)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import Case, check_refused

from attnspec.contract import alibi, causal, chunked, full, predicate, prefix, segments

INTEGERS = "must be an int or integers of shape (*batch,); got"
IDS = "must be integers of shape (length,) or (*batch, length); got"
LISTS = "must be an array or nested lists of numbers; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
OFFSET = "must be an int, integers of shape (*batch,), 'end' or None; got"
NO_OFFSET = (
    "without an offset needs as many queries as keys; got 5 queries and 11 keys: say `offset=0` (query 0 stands at "
    "key 0, top-left) or `offset='end'` (the last query stands at the last key, bottom-right)"
)
QUERIES, KEYS = [0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def rank_2(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), mask=mask)


def rank_3(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 5, 7), t(2, 11, 7), t(2, 11, 3), mask=mask)


def rank_4(mask: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 3, 5, 7), t(2, 3, 11, 7), t(2, 3, 11, 13), mask=mask)


def native(use: Any, values: Any, make: Any, dtype: str = "int32") -> Any:
    return lambda attn, t: use(make(t.of(np.asarray(values), dtype)))(attn, t)


def made(make: Callable[[], Any]) -> Any:
    return lambda _attn, _t: make()


def shown(function: Callable[[Any, Any], Any]) -> Any:
    """Make an attention of 5 queries and 11 keys, masked by a function of theirs."""
    return rank_2(predicate("mine", function))


QUERY_SHAPE = "`query_ids` of `segments` must have shape (5,) or (2, 5); got shape"
SEGMENTS: dict[str, Case] = {
    "None": (TypeError, f"`query_ids` of `segments` {IDS} None", made(lambda: segments(None, KEYS))),
    "one number": (TypeError, f"`query_ids` of `segments` {IDS} 3", made(lambda: segments(3, KEYS))),
    "str": (TypeError, f"`key_ids` of `segments` {IDS} an object of type str", made(lambda: segments(QUERIES, "ab"))),
    "range": (
        TypeError,
        f"`key_ids` of `segments` {IDS} an object of type range",
        made(lambda: segments(QUERIES, range(11))),
    ),
    "float": (TypeError, f"`key_ids` of `segments` {IDS} dtype float64", made(lambda: segments(QUERIES, [0.0] * 11))),
    "bool": (TypeError, f"`key_ids` of `segments` {IDS} dtype bool", made(lambda: segments(QUERIES, [True] * 11))),
    "native float": (
        TypeError,
        f"`query_ids` of `segments` {IDS} dtype float32",
        native(rank_3, QUERIES, lambda ids: segments(ids, KEYS), "float32"),
    ),
    "native bool": (
        TypeError,
        f"`key_ids` of `segments` {IDS} dtype bool",
        native(rank_3, KEYS, lambda ids: segments(QUERIES, ids), "bool"),
    ),
    "beyond 32 bits": (
        ValueError,
        "`key_ids` of `segments` must fit into 32 bits; got [0, 2147483648]",
        made(lambda: segments(QUERIES, [0, 2**31])),
    ),
    "below 32 bits": (
        ValueError,
        "`query_ids` of `segments` must fit into 32 bits; got [-2147483649, 0]",
        made(lambda: segments(np.array([-(2**31) - 1, 0]), KEYS)),
    ),
    "beyond 64 bits": (
        TypeError,
        "`query_ids` of `segments` must hold numbers; got a NumPy array of dtype object",
        made(lambda: segments([2**70, 0], KEYS)),
    ),
    "ragged": (
        ValueError,
        "`query_ids` of `segments` must be nested lists of equal lengths",
        made(lambda: segments([[1], [1, 2]], KEYS)),
    ),
    "None in a list": (
        TypeError,
        f"`key_ids` of `segments` {LISTS} a list that holds None",
        made(lambda: segments(QUERIES, [1, None])),
    ),
    "masked": (TypeError, f"`query_ids` of `segments` {MASKED}", made(lambda: segments(np.ma.array(QUERIES), KEYS))),
    "only one": (
        TypeError,
        "segments() missing 1 required positional argument: 'key_ids'",
        made(lambda: segments(QUERIES)),
    ),
    "swapped": (ValueError, f"{QUERY_SHAPE} (11,)", rank_3(segments(KEYS, QUERIES))),
    "swapped at rank 2": (
        ValueError,
        "`query_ids` of `segments` must have shape (5,); got shape (11,)",
        rank_2(segments(KEYS, QUERIES)),
    ),
    "keys as queries": (
        ValueError,
        "`key_ids` of `segments` must have shape (11,) or (2, 11); got shape (5,)",
        rank_4(full() & ~segments(QUERIES, QUERIES)),
    ),
    "native of another length": (
        ValueError,
        "`key_ids` of `segments` must have shape (11,) or (2, 11); got shape (5,)",
        native(rank_4, QUERIES, lambda ids: segments(QUERIES, ids)),
    ),
    "one for all": (ValueError, f"{QUERY_SHAPE} (1,)", rank_3(segments([0], KEYS))),
    "none": (ValueError, f"{QUERY_SHAPE} (0,)", rank_3(segments([], KEYS))),
    "no axes": (ValueError, f"{QUERY_SHAPE} ()", rank_3(segments(np.array(3), KEYS))),
    "another batch": (ValueError, f"{QUERY_SHAPE} (3, 5)", rank_3(segments([QUERIES] * 3, KEYS))),
    "batch of 1": (ValueError, f"{QUERY_SHAPE} (1, 5)", rank_4(segments([QUERIES], KEYS))),
    "per head": (ValueError, f"{QUERY_SHAPE} (2, 3, 5)", rank_4(segments(np.zeros((2, 3, 5), int), KEYS))),
    "a batch for none": (
        ValueError,
        "`query_ids` of `segments` must have shape (5,); got shape (1, 5)",
        rank_2(segments([QUERIES], KEYS)),
    ),
}

PREFIXES: dict[str, Case] = {
    "None": (TypeError, f"`lengths` of `prefix` {INTEGERS} None", made(lambda: prefix(None))),
    "float": (TypeError, f"`lengths` of `prefix` {INTEGERS} an object of type float", made(lambda: prefix(2.5))),
    "bool": (TypeError, f"`lengths` of `prefix` {INTEGERS} a boolean", made(lambda: prefix(True))),
    "the offset as length": (
        TypeError,
        f"`lengths` of `prefix` {INTEGERS} an object of type str",
        made(lambda: prefix("end")),
    ),
    "list of bool": (TypeError, f"`lengths` of `prefix` {INTEGERS} dtype bool", made(lambda: prefix([True, False]))),
    "native float": (
        TypeError,
        f"`lengths` of `prefix` {INTEGERS} dtype float32",
        native(rank_3, [1.0, 2.0], prefix, "float32"),
    ),
    "negative": (ValueError, "`lengths` of `prefix` must be at least 0; got -1", made(lambda: prefix(-1))),
    "negative in a list": (
        ValueError,
        "`lengths` of `prefix` must be at least 0; got [3, -1]",
        made(lambda: prefix([3, -1])),
    ),
    "native negative": (
        ValueError,
        "`lengths` of `prefix` must be at least 0; got [3, -1]",
        native(rank_3, [3, -1], lambda lengths: prefix(lengths, 0)),
    ),
    "beyond the keys": (
        ValueError,
        "`lengths` of `prefix` must lie between 0 and the number of keys, 11; got 12",
        rank_3(prefix(12, 0)),
    ),
    "native beyond the keys": (
        ValueError,
        "`lengths` of `prefix` must lie between 0 and the number of keys, 11; got [11, 12]",
        native(rank_3, [11, 12], lambda lengths: prefix(lengths, 0)),
    ),
    "batch shape": (
        ValueError,
        "`lengths` of `prefix` must be an int or have the batch shape (2,); got shape (3,)",
        rank_4(prefix([1, 2, 3], 0)),
    ),
    "no offset": (ValueError, f"`prefix` {NO_OFFSET}", rank_2(prefix(3))),
    "offset start": (ValueError, f"`offset` of `prefix` {OFFSET} 'start'", made(lambda: prefix(3, "start"))),
    "offset float": (
        TypeError,
        f"`offset` of `prefix` {INTEGERS} an object of type float",
        made(lambda: prefix(3, 0.5)),
    ),
    "offset of another batch": (
        ValueError,
        "`offset` of `prefix` must be an int or have the batch shape (2,); got shape (3,)",
        rank_3(prefix(3, [1, 2, 3])),
    ),
}

CHUNKS: dict[str, Case] = {
    "0": (ValueError, "`size` of `chunked` must be at least 1; got 0", made(lambda: chunked(0))),
    "negative": (ValueError, "`size` of `chunked` must be at least 1; got -3", made(lambda: chunked(-3))),
    "float": (TypeError, "`size` of `chunked` must be an int; got 4.0", made(lambda: chunked(4.0))),
    "inf": (TypeError, "`size` of `chunked` must be an int; got inf", made(lambda: chunked(float("inf")))),
    "bool": (TypeError, "`size` of `chunked` must be an int; got True", made(lambda: chunked(True))),
    "None": (TypeError, "`size` of `chunked` must be an int; got None", made(lambda: chunked(None))),
    "str": (TypeError, "`size` of `chunked` must be an int; got '4'", made(lambda: chunked("4"))),
    "one for each batch element": (
        TypeError,
        "`size` of `chunked` must be an int; got [2, 3]",
        made(lambda: chunked([2, 3])),
    ),
    "array": (TypeError, "`size` of `chunked` must be an int; got array(2)", made(lambda: chunked(np.array(2)))),
    "no offset": (ValueError, f"`chunked` {NO_OFFSET}", rank_2(chunked(3))),
    "no offset, inside": (ValueError, f"`chunked` {NO_OFFSET}", rank_4(causal(0) & ~chunked(3))),
    "offset start": (ValueError, f"`offset` of `chunked` {OFFSET} 'start'", made(lambda: chunked(3, "start"))),
    "offset bool": (TypeError, f"`offset` of `chunked` {INTEGERS} a boolean", made(lambda: chunked(3, False))),
    "offset of another batch": (
        ValueError,
        "`offset` of `chunked` must be an int or have the batch shape (2,); got shape (3,)",
        native(rank_3, [1, 2, 3], lambda offset: chunked(3, offset)),
    ),
}

NAME = "`name` of `predicate` must be a string that is not empty; got"
RETURNS = "`function` of `predicate` 'mine' must return"
PREDICATES: dict[str, Case] = {
    "swapped": (TypeError, f"{NAME} an object of type function", made(lambda: predicate(shown, "mine"))),
    "no name": (TypeError, f"{NAME} None", made(lambda: predicate(None, shown))),
    "empty name": (TypeError, f"{NAME} ''", made(lambda: predicate("", shown))),
    "no function": (
        TypeError,
        "predicate() missing 1 required positional argument: 'function'",
        made(lambda: predicate("mine")),
    ),
    "None": (
        TypeError,
        "`function` of `predicate` must be callable; got None",
        made(lambda: predicate("mine", None)),
    ),
    "array": (
        TypeError,
        "`function` of `predicate` must be callable; got an object of type numpy.ndarray",
        made(lambda: predicate("mine", np.ones((5, 11), bool))),
    ),
    "a function as mask": (
        TypeError,
        "`mask` must be a mask object or a boolean array (True = may attend); got an object of type function",
        rank_2(lambda query, key: key <= query),
    ),
    "returns None": (TypeError, f"{RETURNS} a boolean array; got None", shown(lambda _query, _key: None)),
    "returns True": (
        TypeError,
        f"{RETURNS} a boolean array; got an object of type bool",
        shown(lambda _query, _key: True),
    ),
    "returns a list": (
        TypeError,
        f"{RETURNS} a boolean array; got an object of type list",
        shown(lambda _query, _key: [[True] * 11] * 5),
    ),
    "returns a mask": (
        TypeError,
        f"{RETURNS} a boolean array; got an object of type attnspec.Causal",
        shown(lambda _query, _key: causal(0)),
    ),
    "returns differences": (
        TypeError,
        f"{RETURNS} a boolean array; got an array of dtype int64",
        shown(lambda query, key: query - key),
    ),
    "returns too few keys": (
        ValueError,
        f"{RETURNS} an array that broadcasts against (queries, keys); got one of shape (1, 3)",
        shown(lambda _query, key: (key >= 0)[:, :3]),
    ),
    "returns one axis": (
        ValueError,
        f"{RETURNS} an array that broadcasts against (queries, keys); got one of shape (5,)",
        shown(lambda query, _key: (query >= 0)[:, 0]),
    ),
    "returns a batch": (
        ValueError,
        f"{RETURNS} an array that broadcasts against (queries, keys); got one of shape (1, 5, 11)",
        shown(lambda query, key: (key <= query)[None]),
    ),
    "wrong shape, inside": (
        ValueError,
        f"{RETURNS} an array that broadcasts against (queries, keys); got one of shape (1, 3)",
        rank_4(causal(0) | ~predicate("mine", lambda _query, key: (key >= 0)[:, :3])),
    ),
    "a bias": (
        TypeError,
        "`mask` must be a mask object or a boolean array (True = may attend); got an object of type attnspec.Alibi",
        rank_2(alibi(symmetric=True, offset=0)),
    ),
}

NO_PREDICATES = "`predicates` must map names to functions; got an object of type"
JSON = {"kind": "predicate", "name": "mine"}
READ: dict[str, Case] = {
    "nothing given": (
        ValueError,
        "a mask in JSON needs the predicate 'mine'; `predicates` gives none",
        lambda attn, _t: attn.mask_from_json(JSON),
    ),
    "others given": (
        ValueError,
        "a mask in JSON needs the predicate 'mine'; `predicates` gives 'yours', 'theirs'",
        lambda attn, _t: attn.mask_from_json(JSON, {"yours": shown, "theirs": shown}),
    ),
    "nothing given, inside": (
        ValueError,
        "in a mask of kind 'and' in JSON: a mask in JSON needs the predicate 'mine'; `predicates` gives none",
        lambda attn, _t: attn.mask_from_json({"kind": "and", "masks": [{"kind": "full"}, JSON]}, {}),
    ),
    "a list": (TypeError, f"{NO_PREDICATES} list", lambda attn, _t: attn.mask_from_json(JSON, ["mine"])),
    "a function": (TypeError, f"{NO_PREDICATES} function", lambda attn, _t: attn.mask_from_json(JSON, shown)),
    "a function nobody asks for": (
        TypeError,
        f"{NO_PREDICATES} function",
        lambda attn, _t: attn.mask_from_json({"kind": "full"}, shown),
    ),
    "no function in it": (
        TypeError,
        "`function` of `predicate` must be callable; got an object of type int",
        lambda attn, _t: attn.mask_from_json(JSON, {"mine": 3}),
    ),
    "no function in it, inside": (
        TypeError,
        "`function` of `predicate` must be callable; got None",
        lambda attn, _t: attn.mask_from_json({"kind": "not", "mask": JSON}, {"mine": None}),
    ),
    "a list as name": (
        ValueError,
        "a mask in JSON needs the predicate ['mine']; `predicates` gives 'mine'",
        lambda attn, _t: attn.mask_from_json({"kind": "predicate", "name": ["mine"]}, {"mine": shown}),
    ),
    "code in it": (
        ValueError,
        ("a mask of kind 'predicate' in JSON must have the keys ['kind', 'name']; got ['kind', 'name', 'function']"),
        lambda attn, _t: attn.mask_from_json(JSON | {"function": "key <= query"}, {"mine": shown}),
    ),
    "written: an array": (
        TypeError,
        "a mask of type ndarray cannot be written as JSON",
        lambda attn, _t: attn.mask_to_json(np.ones((5, 11), bool)),
    ),
    "written: None": (
        TypeError,
        "a mask of type NoneType cannot be written as JSON",
        lambda attn, _t: attn.mask_to_json(None),
    ),
    "written: a bias": (
        TypeError,
        "a mask of type Alibi cannot be written as JSON",
        lambda attn, _t: attn.mask_to_json(alibi(symmetric=True)),
    ),
}


@pytest.mark.parametrize("case", SEGMENTS.values(), ids=SEGMENTS)
def test_wrong_segments_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", PREFIXES.values(), ids=PREFIXES)
def test_wrong_prefix_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", CHUNKS.values(), ids=CHUNKS)
def test_wrong_chunks_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", PREDICATES.values(), ids=PREDICATES)
def test_wrong_predicate_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_wrong_predicates_of_json_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_an_error_in_a_predicate_is_not_hidden(attn: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError, match="by zero"):
        attn.dot_product_attention([[1.0]], [[1.0]], [[1.0]], mask=predicate("mine", lambda _query, _key: 1 // 0))


@pytest.mark.parametrize(
    ("mask", "value"),
    [(causal(100), 1.0), (causal(-100), 0.0), (prefix(11, 100), 1.0), (prefix(0, -100), 0.0), (chunked(3, 100), 0.0)],
    ids=repr,
)
def test_queries_may_stand_beyond_the_keys(attn: ModuleType, mask: Any, value: float) -> None:
    output = attn.dot_product_attention(np.zeros((5, 1)), np.zeros((11, 1)), np.ones((11, 1)), mask=mask)
    np.testing.assert_allclose(output, np.full((5, 1), value), rtol=1e-12)


def test_segments_of_no_length_are_taken(attn: ModuleType) -> None:
    mask = segments([[], []], [[], []])
    output = attn.dot_product_attention(np.zeros((2, 0, 1)), np.zeros((2, 0, 1)), np.zeros((2, 0, 3)), mask=mask)
    assert tuple(output.shape) == (2, 0, 3)

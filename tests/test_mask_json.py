"""Masks as JSON: every kind there and back, and one sentence for everything that is no mask."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from attnspec.contract import (
    Mask,
    causal,
    chunked,
    full,
    key_lengths,
    mask_from_json,
    mask_to_json,
    predicate,
    prefix,
    query_lengths,
    segments,
    sliding_window,
)
from attnspec.contract.masks import as_mask
from attnspec.contract.tree_classes import MASK_CLASSES

ARRAY = as_mask(np.array([[True, False, True], [False, True, True]]))


def strided(query: Any, key: Any) -> Any:
    return (query - key) % 3 == 0


def diagonal(query: Any, key: Any) -> Any:
    return query == key


PREDICATES = {"strided": strided, "diagonal": diagonal}

WRITTEN: list[tuple[str, Mask, dict[str, Any]]] = [
    ("full", full(), {"kind": "full"}),
    ("causal", causal(), {"kind": "causal", "offset": None}),
    ("causal-end", causal("end"), {"kind": "causal", "offset": "end"}),
    ("causal-3", causal(-3), {"kind": "causal", "offset": -3}),
    ("causal-batch", causal([0, 6, 3]), {"kind": "causal", "offset": [0, 6, 3]}),
    ("causal-batch-2d", causal([[1, 2], [3, 4]]), {"kind": "causal", "offset": [[1, 2], [3, 4]]}),
    ("window", sliding_window(2, 1), {"kind": "sliding_window", "left": 2, "right": 1, "offset": None}),
    (
        "window-left-end",
        sliding_window(left=0, offset="end"),
        {"kind": "sliding_window", "left": 0, "right": None, "offset": "end"},
    ),
    ("key-lengths", key_lengths(5), {"kind": "key_lengths", "lengths": 5}),
    ("key-lengths-batch", key_lengths([5, 0, 2]), {"kind": "key_lengths", "lengths": [5, 0, 2]}),
    ("query-lengths", query_lengths([1, 2]), {"kind": "query_lengths", "lengths": [1, 2]}),
    ("prefix", prefix(3), {"kind": "prefix", "lengths": 3, "offset": None}),
    ("prefix-batch-end", prefix([3, 0], "end"), {"kind": "prefix", "lengths": [3, 0], "offset": "end"}),
    ("chunked", chunked(4), {"kind": "chunked", "size": 4, "offset": None}),
    ("chunked-batch", chunked(np.int32(4), [-1, 2]), {"kind": "chunked", "size": 4, "offset": [-1, 2]}),
    (
        "segments",
        segments([0, 0, 1], np.array([-1, 0, 1, 1], np.int8)),
        {"kind": "segments", "query_ids": [0, 0, 1], "key_ids": [-1, 0, 1, 1]},
    ),
    (
        "segments-batch",
        segments([[0, 1], [1, 1]], [0, 1, 1]),
        {"kind": "segments", "query_ids": [[0, 1], [1, 1]], "key_ids": [0, 1, 1]},
    ),
    (
        "segments-empty",
        segments([[], []], [[], []]),
        {"kind": "segments", "query_ids": [[], []], "key_ids": [[], []]},
    ),
    ("predicate", predicate("strided", strided), {"kind": "predicate", "name": "strided"}),
    (
        "predicates-inside",
        ~(predicate("diagonal", diagonal) | chunked(2) & predicate("strided", strided)),
        {
            "kind": "not",
            "mask": {
                "kind": "or",
                "masks": [
                    {"kind": "predicate", "name": "diagonal"},
                    {
                        "kind": "and",
                        "masks": [
                            {"kind": "chunked", "size": 2, "offset": None},
                            {"kind": "predicate", "name": "strided"},
                        ],
                    },
                ],
            },
        },
    ),
    ("array", ARRAY, {"kind": "array", "values": [[True, False, True], [False, True, True]]}),
    (
        "and",
        causal() & key_lengths(4),
        {"kind": "and", "masks": [{"kind": "causal", "offset": None}, {"kind": "key_lengths", "lengths": 4}]},
    ),
    ("or", full() | ARRAY, {"kind": "or", "masks": [{"kind": "full"}, mask_to_json(ARRAY)]}),
    ("not", ~causal(1), {"kind": "not", "mask": {"kind": "causal", "offset": 1}}),
    (
        "nested",
        ~(causal() & (ARRAY | ~full())),
        {
            "kind": "not",
            "mask": {
                "kind": "and",
                "masks": [
                    {"kind": "causal", "offset": None},
                    {"kind": "or", "masks": [mask_to_json(ARRAY), {"kind": "not", "mask": {"kind": "full"}}]},
                ],
            },
        },
    ),
]


@pytest.mark.parametrize(("mask", "data"), [pytest.param(*row[1:], id=row[0]) for row in WRITTEN])
def test_there_and_back(mask: Mask, data: dict[str, Any]) -> None:
    assert mask_to_json(mask) == data
    assert mask_from_json(json.loads(json.dumps(data)), PREDICATES) == mask


def test_every_class_of_masks_has_its_kind() -> None:
    assert {type(mask) for _, mask, _ in WRITTEN} == set(MASK_CLASSES)


def test_a_predicate_is_read_as_the_function_of_its_name() -> None:
    read = mask_from_json({"kind": "predicate", "name": "diagonal"}, {"diagonal": strided})
    assert read == predicate("diagonal", strided)
    assert read != predicate("diagonal", diagonal)


def test_a_scalar_array_is_written_as_its_number() -> None:
    assert mask_to_json(key_lengths(np.array(3))) == {"kind": "key_lengths", "lengths": 3}


def test_lists_are_read_as_arrays_not_as_their_text() -> None:
    read = mask_from_json({"kind": "array", "values": [[True], [False]]})
    np.testing.assert_array_equal(read.array, [[True], [False]])
    assert read.array.dtype == np.bool_


def test_an_unknown_class_cannot_be_written() -> None:
    class Diagonal(Mask):
        pass

    with pytest.raises(TypeError, match="a mask of type Diagonal cannot be written as JSON"):
        mask_to_json(Diagonal())


def test_an_array_without_elements_cannot_be_written() -> None:
    with pytest.raises(ValueError, match=r"without elements cannot be written as JSON; its shape is \(2, 0\)"):
        mask_to_json(as_mask(np.zeros((2, 0), bool)))


REFUSED = [
    ("text", "causal", "must be an object whose `kind` is one of full, causal, .*; got 'causal'"),
    ("none", None, "must be an object whose `kind`"),
    ("list", [], "must be an object whose `kind`"),
    ("no-kind", {}, "must be an object whose `kind`"),
    ("unknown-kind", {"kind": "diagonal"}, "must be an object whose `kind`"),
    ("list-as-kind", {"kind": ["causal"]}, "must be an object whose `kind`"),
    ("missing-key", {"kind": "causal"}, r"'causal' in JSON must have the keys \['kind', 'offset'\]; got \['kind'\]"),
    ("extra-key", {"kind": "full", "offset": 0}, r"must have the keys \['kind'\]; got \['kind', 'offset'\]"),
    ("bad-offset", {"kind": "causal", "offset": "start"}, "'causal' in JSON: .*'end' or None; got 'start'"),
    ("float-offset", {"kind": "causal", "offset": 0.5}, "'causal' in JSON: .* got "),
    ("boolean-offset", {"kind": "causal", "offset": True}, "'causal' in JSON: .*got a boolean"),
    (
        "float-width",
        {"kind": "sliding_window", "left": 1.5, "right": None, "offset": None},
        "'sliding_window' in JSON: .*must be an int or None; got 1.5",
    ),
    (
        "no-width",
        {"kind": "sliding_window", "left": None, "right": None, "offset": None},
        "'sliding_window' in JSON: .*needs `left=` or `right=`",
    ),
    ("negative-length", {"kind": "key_lengths", "lengths": [3, -1]}, "'key_lengths' in JSON: .*at least 0"),
    ("text-length", {"kind": "key_lengths", "lengths": "3"}, "'key_lengths' in JSON: "),
    ("no-length", {"kind": "query_lengths", "lengths": None}, "'query_lengths' in JSON: "),
    ("ragged-lengths", {"kind": "key_lengths", "lengths": [[1], [2, 3]]}, "'key_lengths' in JSON: "),
    ("integer-array", {"kind": "array", "values": [[1, 0]]}, "'array' in JSON: .*mask object or a boolean array"),
    ("ragged-array", {"kind": "array", "values": [[True], [True, False]]}, "'array' in JSON: "),
    ("text-array", {"kind": "array", "values": "x"}, "'array' in JSON: .*mask object or a boolean array"),
    ("negative-prefix", {"kind": "prefix", "lengths": -1, "offset": None}, "'prefix' in JSON: .*at least 0; got -1"),
    ("prefix-without-offset", {"kind": "prefix", "lengths": 1}, r"\['kind', 'lengths', 'offset'\]; got \['kind', 'len"),
    ("no-chunk", {"kind": "chunked", "size": 0, "offset": None}, "'chunked' in JSON: .*at least 1; got 0"),
    ("float-chunk", {"kind": "chunked", "size": 2.0, "offset": None}, "'chunked' in JSON: .*must be an int; got 2.0"),
    ("text-segments", {"kind": "segments", "query_ids": "aab", "key_ids": [1]}, "'segments' in JSON: `query_ids`"),
    ("float-segments", {"kind": "segments", "query_ids": [1], "key_ids": [0.5]}, "'segments' in JSON: `key_ids`"),
    ("wide-segments", {"kind": "segments", "query_ids": [2**40], "key_ids": [1]}, "in JSON: .*fit into 32 bits"),
    ("one-segments", {"kind": "segments", "query_ids": [1]}, r"must have the keys \['kind', 'query_ids', 'key_ids'\]"),
    ("predicate", {"kind": "predicate", "name": "strided"}, "needs the predicate 'strided'; `predicates` gives none"),
    ("predicate-number", {"kind": "predicate", "name": 3}, "needs the predicate 3; `predicates` gives none"),
    ("predicate-no-name", {"kind": "predicate"}, r"must have the keys \['kind', 'name'\]; got \['kind'\]"),
    ("one-part", {"kind": "and", "masks": [{"kind": "full"}]}, "must be a list of two masks"),
    ("parts-no-list", {"kind": "or", "masks": {"kind": "full"}}, "must be a list of two masks"),
    (
        "wrong-part",
        {"kind": "not", "mask": {"kind": "and", "masks": [{"kind": "full"}, 7]}},
        "of kind 'not' in JSON: in a mask of kind 'and' in JSON: a mask in JSON must be an object",
    ),
]


@pytest.mark.parametrize(("data", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_is_no_mask_is_one_value_error(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_from_json(data)

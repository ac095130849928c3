"""Bias objects as JSON: every kind there and back, and one sentence for everything that is no bias."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import attnspec.reference as attn
from attnspec.contract import Bias, alibi, relative_position_bias
from attnspec.contract.bias_json import bias_from_json, bias_to_json
from attnspec.contract.biases import as_bias
from attnspec.contract.tree_classes import BIAS_CLASSES

ARRAY = as_bias(np.array([[0.5, -1.0, 0.0], [2.0, -np.inf, 1.5]]))
TABLE = [[0.5, -1.0], [0.25, 0.0], [1.0, 2.0], [3.0, -4.0]]

WRITTEN: list[tuple[str, Bias, dict[str, Any]]] = [
    ("alibi", alibi(symmetric=True), {"kind": "alibi", "slopes": None, "symmetric": True, "offset": None}),
    (
        "alibi-slopes-end",
        alibi([0.5, 0.25], symmetric=False, offset="end"),
        {"kind": "alibi", "slopes": [0.5, 0.25], "symmetric": False, "offset": "end"},
    ),
    (
        "alibi-number-batch",
        alibi(0.5, symmetric=True, offset=[1, -2]),
        {"kind": "alibi", "slopes": 0.5, "symmetric": True, "offset": [1, -2]},
    ),
    (
        "relative",
        relative_position_bias(TABLE, bidirectional=False, max_distance=16),
        {"kind": "relative_position", "table": TABLE, "bidirectional": False, "max_distance": 16, "offset": None},
    ),
    (
        "relative-one-head",
        relative_position_bias([0.5, -1.0, 0.25, 0.0], bidirectional=True, offset=3),
        {
            "kind": "relative_position",
            "table": [0.5, -1.0, 0.25, 0.0],
            "bidirectional": True,
            "max_distance": 128,
            "offset": 3,
        },
    ),
    ("array", ARRAY, {"kind": "array", "values": [[0.5, -1.0, 0.0], [2.0, -np.inf, 1.5]]}),
    (
        "sum",
        alibi(symmetric=True) + ARRAY,
        {"kind": "sum", "biases": [bias_to_json(alibi(symmetric=True)), bias_to_json(ARRAY)]},
    ),
    (
        "nested",
        ARRAY + (alibi(0.5, symmetric=True) + alibi(symmetric=False)),
        {
            "kind": "sum",
            "biases": [
                bias_to_json(ARRAY),
                {
                    "kind": "sum",
                    "biases": [
                        bias_to_json(alibi(0.5, symmetric=True)),
                        bias_to_json(alibi(symmetric=False)),
                    ],
                },
            ],
        },
    ),
]


@pytest.mark.parametrize(("bias", "data"), [pytest.param(*row[1:], id=row[0]) for row in WRITTEN])
def test_there_and_back(bias: Bias, data: dict[str, Any]) -> None:
    assert bias_to_json(bias) == data
    assert bias_from_json(json.loads(json.dumps(data))) == bias


def test_every_class_of_biases_has_its_kind() -> None:
    assert {type(bias) for _, bias, _ in WRITTEN} == set(BIAS_CLASSES)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_arrays_of_every_dtype_are_written_as_their_numbers(dtype: Any) -> None:
    slopes = np.array([0.5, 0.1], dtype)
    numbers = [float(slope) for slope in slopes]
    assert bias_to_json(alibi(slopes, symmetric=True))["slopes"] == numbers
    assert bias_from_json(bias_to_json(alibi(slopes, symmetric=True))) == alibi(numbers, symmetric=True)


def test_numbers_that_were_read_take_the_dtype_of_any_query() -> None:
    bias = bias_from_json({"kind": "array", "values": [[0.0, 1]]}) + alibi([0.5], symmetric=True, offset=0)
    read = bias_from_json(json.loads(json.dumps(bias_to_json(bias))))
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        query, key = np.zeros((1, 1, 1, 4), dtype), np.zeros((1, 1, 2, 4), dtype)
        logits = attn.attention_stages(query, key, key, bias=read).logits
        np.testing.assert_array_equal(logits, [[[[0.0, 0.5]]]])


def test_an_unknown_class_cannot_be_written() -> None:
    class Constant(Bias):
        pass

    with pytest.raises(TypeError, match=r"^a bias of type Constant cannot be written as JSON$"):
        bias_to_json(Constant())


@pytest.mark.parametrize("value", [None, [[0.5]], np.zeros((2, 2))], ids=["None", "list", "array"])
def test_what_is_no_bias_cannot_be_written(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a bias of type {type(value).__name__} cannot be written as JSON$"):
        bias_to_json(value)


def test_an_array_without_elements_cannot_be_written() -> None:
    with pytest.raises(ValueError, match=r"without elements cannot be written as JSON; its shape is \(0, 3\)"):
        bias_to_json(as_bias(np.zeros((0, 3))))


def alibi_data(**changes: Any) -> dict[str, Any]:
    return {"kind": "alibi", "slopes": [0.5], "symmetric": True, "offset": None} | changes


def relative(**changes: Any) -> dict[str, Any]:
    data = {"kind": "relative_position", "table": TABLE, "bidirectional": False, "max_distance": 16, "offset": None}
    return data | changes


REFUSED = [
    ("text", "alibi", "must be an object whose `kind` is one of alibi, relative_position, array, sum; got 'alibi'"),
    ("none", None, "must be an object whose `kind`"),
    ("list", [[0.5]], "must be an object whose `kind`"),
    ("no-kind", {}, "must be an object whose `kind`"),
    ("mask", {"kind": "causal", "offset": None}, "must be an object whose `kind`"),
    ("list-as-kind", {"kind": ["alibi"]}, "must be an object whose `kind`"),
    ("missing-key", {"kind": "alibi"}, r"must have the keys \['kind', 'slopes', 'symmetric', 'offset'\]; got \['kind'"),
    ("extra-key", alibi_data(heads=4), r"'alibi' in JSON must have the keys .*'offset', 'heads'\]"),
    (
        "symmetric-number",
        alibi_data(symmetric=1),
        "'alibi' in JSON: `symmetric` of `alibi` must be True or False; got 1",
    ),
    ("text-slopes", alibi_data(slopes="standard"), "'alibi' in JSON: `slopes` of `alibi` must be numbers"),
    ("ragged-slopes", alibi_data(slopes=[[1.0], [1.0, 2.0]]), "'alibi' in JSON: .* equal lengths"),
    ("boolean-slopes", alibi_data(slopes=[True]), "'alibi' in JSON: .*floating dtype"),
    ("bad-offset", alibi_data(offset="start"), "'alibi' in JSON: `offset` of `alibi` .*got 'start'"),
    ("no-table", relative(table=None), "'relative_position' in JSON: `table` .*got None"),
    ("text-table", relative(table="t5"), "'relative_position' in JSON: `table` .*got an object of type str"),
    ("no-direction", relative(bidirectional=None), "'relative_position' in JSON: `bidirectional` .*got None"),
    ("float-distance", relative(max_distance=16.0), "'relative_position' in JSON: `max_distance` .*an int; got 16.0"),
    ("text-values", {"kind": "array", "values": "x"}, "'array' in JSON: `values` must be an array or nested lists"),
    ("text-in-values", {"kind": "array", "values": [["x"]]}, "'array' in JSON: `values` must be an array or nested"),
    ("no-values", {"kind": "array", "values": None}, "'array' in JSON: `values` must be an array or nested lists"),
    ("boolean-values", {"kind": "array", "values": [[True]]}, "'array' in JSON: `values` must have a floating dtype"),
    ("ragged-values", {"kind": "array", "values": [[1.0], [1.0, 2.0]]}, "'array' in JSON: .* equal lengths"),
    ("one-part", {"kind": "sum", "biases": [alibi_data()]}, "must be a list of two biases; got "),
    ("parts-no-list", {"kind": "sum", "biases": alibi_data()}, "must be a list of two biases; got "),
    ("wrong-part", {"kind": "sum", "biases": [alibi_data(), 7]}, "a bias in JSON must be an object .*got 7"),
    (
        "wrong-inside",
        {"kind": "sum", "biases": [alibi_data(), alibi_data(symmetric=None)]},
        "in a bias of kind 'sum' in JSON: in a bias of kind 'alibi' in JSON: `symmetric`",
    ),
]


@pytest.mark.parametrize(("data", "message"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_is_no_bias_is_one_value_error(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_from_json(data)

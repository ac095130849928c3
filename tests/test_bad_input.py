"""Wrong tensors are refused before anything is computed, by the same exception and text in all four (S1, S16)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from frameworks import name_of

from attnspec.contract import causal

RANK_2 = (
    "`query` must have at least 2 axes, (*batch, heads, length, size) or without heads (length, size) and "
    "(batch, length, size); got shape "
)
GROUPS = "the number of query heads must be a multiple of the number of key/value heads (axis -3); got shapes "
LISTS = "must be an array or nested lists of numbers; got"
NUMBERS = "must hold numbers; got a NumPy array of dtype"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
SHARE = "`query`, `key` and `value` must share one dtype; got"


def attend(query: Any, key: Any, value: Any) -> Any:
    """Make a call from three shapes, or from what is no shape as it is."""

    def call(attn: ModuleType, t: Maker) -> Any:
        given = (t(*one) if isinstance(one, tuple) else one for one in (query, key, value))
        return attn.dot_product_attention(*given)

    return call


SHAPES: dict[str, Case] = {
    "query without axes": (ValueError, RANK_2 + "()", attend((), (5, 7), (5, 3))),
    "query of rank 1": (ValueError, RANK_2 + "(7,)", attend((7,), (5, 7), (5, 3))),
    "empty list": (ValueError, RANK_2 + "(0,)", attend([], (5, 7), (5, 3))),
    "key of another rank": (
        ValueError,
        "`key` must have as many axes as `query`, 3; got shapes query (2, 5, 7) and key (5, 7)",
        attend((2, 5, 7), (5, 7), (2, 5, 3)),
    ),
    "value of another rank": (
        ValueError,
        "`value` must have as many axes as `query`, 2; got shapes query (5, 7) and value (2, 11, 3)",
        attend((5, 7), (11, 7), (2, 11, 3)),
    ),
    "batch of key": (
        ValueError,
        "`key` must have the batch axes of `query`; got shapes query (2, 5, 7) and key (3, 11, 7)",
        attend((2, 5, 7), (3, 11, 7), (2, 11, 3)),
    ),
    "batch of value does not broadcast": (
        ValueError,
        "`value` must have the batch axes of `query`; got shapes query (2, 5, 7) and value (1, 11, 3)",
        attend((2, 5, 7), (2, 11, 7), (1, 11, 3)),
    ),
    "second batch axis": (
        ValueError,
        "`key` must have the batch axes of `query`; got shapes query (2, 3, 1, 5, 7) and key (2, 5, 1, 11, 7)",
        attend((2, 3, 1, 5, 7), (2, 5, 1, 11, 7), (2, 3, 1, 11, 3)),
    ),
    "length of value": (
        ValueError,
        "`value` must have the length (axis -2) of `key`; got shapes key (11, 7) and value (13, 3)",
        attend((5, 7), (11, 7), (13, 3)),
    ),
    "size of key": (
        ValueError,
        "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 3)",
        attend((5, 7), (11, 3), (11, 3)),
    ),
    "size 0": (
        ValueError,
        "queries and keys must have a size of at least 1; `query` has shape (5, 0)",
        attend((5, 0), (11, 0), (11, 3)),
    ),
    "heads of value": (
        ValueError,
        "`value` must have the heads (axis -3) of `key`; got shapes key (2, 3, 11, 7) and value (2, 2, 11, 7)",
        attend((2, 6, 5, 7), (2, 3, 11, 7), (2, 2, 11, 7)),
    ),
    "5 query heads for 3": (
        ValueError,
        GROUPS + "query (2, 5, 5, 7) and key (2, 3, 11, 7)",
        attend((2, 5, 5, 7), (2, 3, 11, 7), (2, 3, 11, 7)),
    ),
    "fewer query heads": (
        ValueError,
        GROUPS + "query (2, 2, 5, 7) and key (2, 4, 11, 7)",
        attend((2, 2, 5, 7), (2, 4, 11, 7), (2, 4, 11, 7)),
    ),
    "no key heads": (
        ValueError,
        GROUPS + "query (2, 2, 5, 7) and key (2, 0, 11, 7)",
        attend((2, 2, 5, 7), (2, 0, 11, 7), (2, 0, 11, 7)),
    ),
    "stages check too": (
        ValueError,
        "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 3)",
        lambda attn, t: attn.attention_stages(t(5, 7), t(11, 3), t(11, 3)),
    ),
}

VALUES: dict[str, Case] = {
    "None": (TypeError, f"`query` {LISTS} None", attend(None, (11, 2), (11, 3))),
    "None last": (TypeError, f"`value` {LISTS} None", attend((5, 2), (11, 2), None)),
    "None in a list": (TypeError, f"`query` {LISTS} a list that holds None", attend([[1.0, None]], (11, 2), (11, 3))),
    "str": (TypeError, f"`query` {LISTS} an object of type str", attend("query", (11, 2), (11, 3))),
    "str in a list": (
        TypeError,
        f"`key` {LISTS} a list that holds an object of type str",
        attend((5, 2), [[1.0, 2.0], [3.0, "4"]], (2, 3)),
    ),
    "complex number in a list": (
        TypeError,
        f"`query` {LISTS} a list that holds an object of type complex",
        attend([[1j]], (11, 1), (11, 3)),
    ),
    "dict": (TypeError, f"`query` {LISTS} an object of type dict", attend({"a": 1}, (11, 2), (11, 3))),
    "range": (TypeError, f"`query` {LISTS} an object of type range", attend(range(3), (11, 2), (11, 3))),
    "mask": (TypeError, f"`value` {LISTS} an object of type attnspec.Causal", attend((5, 2), (5, 2), causal())),
    "ragged": (ValueError, "`query` must be nested lists of equal lengths", attend([[1.0], [2, 3]], (11, 2), (11, 3))),
    "too large an int": (TypeError, f"`query` {NUMBERS} object", attend([[10**400]], (11, 1), (11, 3))),
    "object array": (TypeError, f"`key` {NUMBERS} object", attend((5, 2), np.array([[1.0, None]]), (1, 3))),
    "array of str": (TypeError, f"`query` {NUMBERS} <U1", attend(np.array([["a"]]), (11, 1), (11, 3))),
    "array of dates": (
        TypeError,
        f"`query` {NUMBERS} datetime64[D]",
        attend(np.zeros((5, 7), "datetime64[D]"), (11, 7), (11, 3)),
    ),
    "structured array": (
        TypeError,
        f"`query` {NUMBERS} [('a', '<f4')]",
        attend(np.zeros((5, 7), [("a", "<f4")]), (11, 7), (11, 3)),
    ),
    "masked array": (TypeError, f"`key` {MASKED}", attend((5, 7), np.ma.zeros((11, 7)), (11, 3))),
    "masked array in a list": (TypeError, f"`key` {MASKED}", attend((5, 7), [np.ma.zeros(7)], (1, 3))),
    "matrix": (
        TypeError,
        "`key` is a NumPy matrix, whose * is a matrix product; pass numpy.asarray of it",
        attend((5, 7), np.zeros((11, 7)).view(np.matrix), (11, 3)),
    ),
}

DTYPES: dict[str, Case] = {
    "int query": (
        TypeError,
        f"`query` {FLOATING}; got int32",
        lambda attn, t: attn.dot_product_attention(t(5, 7, dtype="int32"), t(11, 7), t(11, 3)),
    ),
    "NumPy int key": (
        TypeError,
        f"`key` {FLOATING}; got int64",
        attend((5, 7), np.zeros((11, 7), np.int64), (11, 3)),
    ),
    "list beside int": (
        TypeError,
        f"`key` {FLOATING}; got int64",
        attend([[0.5]], np.zeros((11, 1), np.int64), (11, 3)),
    ),
    "all int": (
        TypeError,
        f"`query` {FLOATING}; got int32",
        lambda attn, t: attn.dot_product_attention(*(t(5, 7, dtype="int32"),) * 3),
    ),
    "bool value": (
        TypeError,
        f"`value` {FLOATING}; got bool",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3, dtype="bool")),
    ),
    "list of bool": (TypeError, f"`query` {FLOATING}; got bool", attend([[True]], (11, 1), (11, 3))),
    "complex": (
        TypeError,
        f"`query` {FLOATING}; got complex64",
        lambda attn, t: attn.dot_product_attention(t(5, 7, dtype="complex64"), t(11, 7), t(11, 3)),
    ),
    "NumPy complex": (
        TypeError,
        f"`key` {FLOATING}; got complex128",
        attend((5, 7), np.zeros((11, 7), complex), (5, 7)),
    ),
    "long double": (
        TypeError,
        f"`key` {FLOATING}; got {np.dtype(np.longdouble).name}",
        attend((5, 7), np.zeros((11, 7), np.longdouble), (11, 3)),
    ),
    "float32 key": (
        TypeError,
        f"{SHARE} query float64, key float32, value float64",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7, dtype="float32"), t(11, 3)),
    ),
    "half beside float32": (
        TypeError,
        f"{SHARE} query float16, key float16, value float32",
        lambda attn, t: attn.dot_product_attention(
            t(5, 7, dtype="float16"), t(11, 7, dtype="float16"), t(11, 3, dtype="float32")
        ),
    ),
    "both halves": (
        TypeError,
        f"{SHARE} query float16, key float16, value bfloat16",
        lambda attn, t: attn.dot_product_attention(
            t(5, 7, dtype="float16"), t(11, 7, dtype="float16"), np.zeros((11, 3), ml_dtypes.bfloat16)
        ),
    ),
    "NumPy float64 beside float32": (
        TypeError,
        f"{SHARE} query float32, key float64, value float32",
        lambda attn, t: attn.dot_product_attention(
            t(5, 7, dtype="float32"), np.zeros((11, 7)), t(11, 3, dtype="float32")
        ),
    ),
    "list of NumPy float64 beside float32": (
        TypeError,
        f"{SHARE} query float32, key float64, value float32",
        lambda attn, t: attn.dot_product_attention(
            t(5, 7, dtype="float32"), list(np.zeros((11, 7))), t(11, 3, dtype="float32")
        ),
    ),
}

ARGUMENTS: dict[str, Case] = {
    "mask by position": (
        TypeError,
        "dot_product_attention() takes 3 positional arguments but 4 were given",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(5, 7), t(5, 3), causal()),
    ),
    "unknown option": (
        TypeError,
        "dot_product_attention() got an unexpected keyword argument 'is_causal'",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(5, 7), t(5, 3), is_causal=True),
    ),
    "no value": (
        TypeError,
        "dot_product_attention() missing 1 required positional argument: 'value'",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(5, 7)),
    ),
}

CASES = SHAPES | VALUES | DTYPES | ARGUMENTS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_wrong_tensors_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_lists_of_numbers_are_taken(attn: ModuleType) -> None:
    output = np.asarray(attn.dot_product_attention([[0, 1]], [[2.0, 3.0], [2.0, 3.0]], [(5,), (7,)]))
    assert output.tolist() == [[6.0]]


def test_a_list_takes_the_dtype_of_the_first_tensor(attn: ModuleType) -> None:
    output = attn.dot_product_attention([[0.5]], Maker(name_of(attn))(3, 1, dtype="float32"), [[1]] * 3)
    dtype = "float64" if attn.__name__ == "attnspec.reference" else "float32"
    assert np.asarray(output).dtype == dtype

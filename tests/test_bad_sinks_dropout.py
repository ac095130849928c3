"""Wrong sinks and dropouts: refused, in the same words everywhere (S13, S14, S16)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, check_refused

from attnspec.contract import Dropout, MultiHeadParameters, alibi, causal

LISTS = "must be an array or nested lists of numbers; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
NAN, INF = float("nan"), float("inf")
KEEP = np.ones((5, 11), bool)


def rank_2(**options: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), **options)


def rank_3(**options: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 5, 7), t(2, 11, 7), t(2, 11, 3), **options)


def rank_4(**options: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(2, 3, 5, 7), t(2, 3, 11, 7), t(2, 3, 11, 13), **options)


def square(query_dtype: str, **options: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(*(t(2, 3, 5, 7, dtype=query_dtype),) * 3, **options)


def native_sinks(use: Any, values: Any, dtype: str) -> Any:
    return lambda attn, t: use(sinks=t.of(values, dtype))(attn, t)


def native_keep(use: Any, values: Any, dtype: str = "bool") -> Any:
    return lambda attn, t: use(dropout=Dropout(0.5, t.of(values, dtype)))(attn, t)


def made(make: Callable[[], Any]) -> Any:
    return lambda _attn, _t: make()


HEADS = "`sinks` must have one number for each of the 3 query heads, shape (3,); got shape"
HEADLESS = "`sinks` must have one number for the one head, shape (); got shape"
SINGLE = "`sinks` must have one number for the one head, shape (1,) or (); got shape"
SINKS: dict[str, Case] = {
    "a number for 3 heads": (ValueError, f"{HEADS} ()", rank_4(sinks=0.0)),
    "2 for 3 heads": (ValueError, f"{HEADS} (2,)", rank_4(sinks=[0.0, 1.0])),
    "1 for 3 heads": (ValueError, f"{HEADS} (1,)", rank_4(sinks=[0.0])),
    "none": (ValueError, f"{HEADS} (0,)", rank_4(sinks=[])),
    "native 2 for 3 heads": (ValueError, f"{HEADS} (2,)", native_sinks(rank_4, [0.0, 1.0], "float64")),
    "a column": (ValueError, f"{HEADS} (3, 1)", rank_4(sinks=np.zeros((3, 1)))),
    "a batch": (ValueError, f"{HEADS} (2, 3)", rank_4(sinks=np.zeros((2, 3)))),
    "axis at rank 2": (ValueError, f"{HEADLESS} (1,)", rank_2(sinks=[0.0])),
    "axis at rank 3": (ValueError, f"{HEADLESS} (1,)", rank_3(sinks=[0.0])),
    "the batch at rank 3": (ValueError, f"{HEADLESS} (2,)", rank_3(sinks=[0.0, 0.0])),
    "axis at rank 2, stages": (
        ValueError,
        f"{HEADLESS} (1,)",
        lambda attn, t: attn.attention_stages(t(5, 7), t(11, 7), t(11, 3), sinks=[0.0]),
    ),
    "3 for self-attention": (
        ValueError,
        f"{SINGLE} (3,)",
        lambda attn, t: attn.self_attention(t(2, 5, 7), t(7, 3), t(7, 3), t(7, 3), sinks=[0.0] * 3),
    ),
    "the batch for key-value attention": (
        ValueError,
        f"{SINGLE} (2,)",
        lambda attn, t: attn.key_value_attention(t(2, 7), t(2, 5, 7), t(2, 5, 3), sinks=[0.0, 0.0]),
    ),
    "of the key heads": (
        ValueError,
        "`sinks` must have one number for each of the 4 query heads, shape (4,); got shape (2,)",
        lambda attn, t: attn.multi_head_attention(
            *(t(5, 8),) * 3,
            MultiHeadParameters(t(8, 8), t(8, 4), t(8, 4), t(8, 8)),
            num_heads=4,
            num_kv_heads=2,
            sinks=[0.0, 0.0],
        ),
    ),
    "bool": (TypeError, f"`sinks` {FLOATING}; got bool", rank_2(sinks=True)),
    "list of bool": (TypeError, f"`sinks` {FLOATING}; got bool", rank_4(sinks=[True] * 3)),
    "int array": (TypeError, f"`sinks` {FLOATING}; got int64", rank_4(sinks=np.zeros(3, np.int64))),
    "native int": (TypeError, f"`sinks` {FLOATING}; got int32", native_sinks(rank_4, [0, 0, 0], "int32")),
    "complex": (TypeError, f"`sinks` {FLOATING}; got complex128", rank_4(sinks=np.zeros(3, complex))),
    "float32 beside float64": (
        TypeError,
        "`sinks` must have dtype float64 beside a float64 query; got float32",
        native_sinks(rank_4, [0.0] * 3, "float32"),
    ),
    "float64 beside float32": (
        TypeError,
        "`sinks` must have dtype float32 beside a float32 query; got float64",
        square("float32", sinks=np.zeros(3)),
    ),
    "float64 beside float16": (
        TypeError,
        "`sinks` must have dtype float16 or float32 beside a float16 query; got float64",
        square("float16", sinks=np.zeros(3)),
    ),
    "str": (TypeError, f"`sinks` {LISTS} an object of type str", rank_4(sinks="learned")),
    "dict": (TypeError, f"`sinks` {LISTS} an object of type dict", rank_4(sinks={0: 1.0})),
    "complex number": (TypeError, f"`sinks` {LISTS} an object of type complex", rank_2(sinks=1j)),
    "a mask": (TypeError, f"`sinks` {LISTS} an object of type attnspec.Causal", rank_4(sinks=causal())),
    "a bias": (TypeError, f"`sinks` {LISTS} an object of type attnspec.Alibi", rank_4(sinks=alibi(symmetric=True))),
    "None in a list": (TypeError, f"`sinks` {LISTS} a list that holds None", rank_4(sinks=[None] * 3)),
    "ragged": (ValueError, "`sinks` must be nested lists of equal lengths", rank_4(sinks=[[1.0], [1.0, 2.0]])),
    "masked": (TypeError, f"`sinks` {MASKED}", rank_4(sinks=np.ma.zeros(3))),
    "int beyond every float": (
        TypeError,
        "`sinks` must hold numbers; got a NumPy array of dtype object",
        rank_2(sinks=10**400),
    ),
    "in a slice": (
        TypeError,
        "attention_with_logsumexp() got an unexpected keyword argument 'sinks'",
        lambda attn, t: attn.attention_with_logsumexp(t(5, 7), t(11, 7), t(11, 3), sinks=0.0),
    ),
    "singular": (
        TypeError,
        "dot_product_attention() got an unexpected keyword argument 'sink'",
        rank_2(sink=0.0),
    ),
}

RATE = "`rate` of `Dropout` must be at least 0 and less than 1; got"
NUMBER = "`rate` of `Dropout` must be a Python number; got"
RATES: dict[str, Case] = {
    "1": (ValueError, f"{RATE} 1.0", made(lambda: Dropout(1))),
    "percent": (ValueError, f"{RATE} 10.0", made(lambda: Dropout(10))),
    "negative": (ValueError, f"{RATE} -0.1", made(lambda: Dropout(-0.1))),
    "nan": (ValueError, f"{RATE} nan", made(lambda: Dropout(NAN))),
    "inf": (ValueError, f"{RATE} inf", made(lambda: Dropout(INF))),
    "int beyond every float": (ValueError, f"{RATE} inf", made(lambda: Dropout(10**400))),
    "NumPy 1": (ValueError, f"{RATE} 1.0", made(lambda: Dropout(np.float32(1.0)))),
    "bool": (TypeError, f"{NUMBER} an object of type bool", made(lambda: Dropout(True))),
    "NumPy bool": (TypeError, f"{NUMBER} an object of type numpy.bool", made(lambda: Dropout(np.False_))),
    "None": (TypeError, f"{NUMBER} None", made(lambda: Dropout(None))),
    "str": (TypeError, f"{NUMBER} an object of type str", made(lambda: Dropout("0.1"))),
    "list": (TypeError, f"{NUMBER} an object of type list", made(lambda: Dropout([0.1]))),
    "array": (TypeError, f"{NUMBER} an object of type numpy.ndarray", made(lambda: Dropout(np.array(0.1)))),
    "swapped": (TypeError, f"{NUMBER} an object of type numpy.ndarray", made(lambda: Dropout(KEEP, 0.1))),
    "only keep": (
        TypeError,
        "Dropout.__init__() missing 1 required positional argument: 'rate'",
        made(lambda: Dropout(keep=KEEP)),
    ),
    "another name": (
        TypeError,
        "Dropout.__init__() got an unexpected keyword argument 'p'",
        made(lambda: Dropout(p=0.1)),
    ),
}

BOOLEAN = "`keep` of `Dropout` must be a boolean array (True = kept); got"
NO_KEEP = "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own"
KEEPS: dict[str, Case] = {
    "none": (ValueError, NO_KEEP, rank_2(dropout=Dropout(0.5))),
    "none at rate 0": (ValueError, NO_KEEP, rank_2(dropout=Dropout(0))),
    "none for a slice": (
        ValueError,
        NO_KEEP,
        lambda attn, t: attn.attention_with_logsumexp(t(5, 7), t(11, 7), t(11, 3), dropout=Dropout(0.5)),
    ),
    "int": (TypeError, f"{BOOLEAN} an array of dtype int64", made(lambda: Dropout(0.5, KEEP.astype(np.int64)))),
    "float": (TypeError, f"{BOOLEAN} an array of dtype float64", made(lambda: Dropout(0.5, KEEP / 0.5))),
    "native int": (TypeError, f"{BOOLEAN} an array of dtype int32", native_keep(rank_2, KEEP, "int32")),
    "native float": (TypeError, f"{BOOLEAN} an array of dtype float64", native_keep(rank_2, KEEP, "float64")),
    "list of int": (TypeError, f"{BOOLEAN} an array of dtype int64", made(lambda: Dropout(0.5, [[1, 0]]))),
    "empty list": (TypeError, f"{BOOLEAN} an array of dtype float64", made(lambda: Dropout(0.5, []))),
    "objects": (TypeError, f"{BOOLEAN} an array of dtype object", made(lambda: Dropout(0.5, KEEP.astype(object)))),
    "a rate": (TypeError, f"{BOOLEAN} an object of type float", made(lambda: Dropout(0.1, 0.9))),
    "str": (TypeError, f"{BOOLEAN} an object of type str", made(lambda: Dropout(0.5, "all"))),
    "function": (TypeError, f"{BOOLEAN} an object of type function", made(lambda: Dropout(0.5, made))),
    "a mask": (TypeError, f"{BOOLEAN} an object of type attnspec.Causal", made(lambda: Dropout(0.5, causal()))),
    "None in a list": (
        TypeError,
        f"`keep` of `Dropout` {LISTS} a list that holds None",
        made(lambda: Dropout(0.5, [[True, None]])),
    ),
    "ragged": (
        ValueError,
        "`keep` of `Dropout` must be nested lists of equal lengths",
        made(lambda: Dropout(0.5, [[True], [True, False]])),
    ),
    "masked": (TypeError, f"`keep` of `Dropout` {MASKED}", rank_2(dropout=Dropout(0.5, np.ma.array(KEEP)))),
    "True": (
        ValueError,
        "`keep` of `Dropout` must have 2 axes, up to (5, 11); got shape ()",
        rank_2(dropout=Dropout(0.5, True)),
    ),
    "rank 1": (
        ValueError,
        "`keep` of `Dropout` must have 2 axes, up to (5, 11); got shape (11,)",
        rank_2(dropout=Dropout(0.5, KEEP[0])),
    ),
    "rank 3 for rank 4": (
        ValueError,
        (
            "`keep` of `Dropout` must have 2 axes or 4, up to (2, 3, 5, 11); got shape (3, 5, 11), which is ambiguous: "
            "reshape to (3, 1, 5, 11) if axis 0 is the batch, or to (1, 3, 5, 11) if it is the heads"
        ),
        native_keep(rank_4, np.ones((3, 5, 11), bool)),
    ),
    "rank 3 for self-attention": (
        ValueError,
        (
            "`keep` of `Dropout` must have 2 axes or 4, up to (2, 1, 5, 5); got shape (2, 5, 5), "
            "which lacks the head axis: reshape to (2, 1, 5, 5)"
        ),
        lambda attn, t: attn.self_attention(
            t(2, 5, 7), t(7, 3), t(7, 3), t(7, 3), dropout=Dropout(0.5, np.ones((2, 5, 5), bool))
        ),
    ),
    "rank 4 for rank 3": (
        ValueError,
        "`keep` of `Dropout` must have 2 axes or 3, up to (2, 5, 11); got shape (2, 1, 5, 11)",
        rank_3(dropout=Dropout(0.5, np.ones((2, 1, 5, 11), bool))),
    ),
    "too few keys": (
        ValueError,
        "each axis of `keep` of `Dropout` must be 1 or that of (2, 5, 11); got shape (5, 7)",
        rank_3(dropout=Dropout(0.5, KEEP[:, :7])),
    ),
    "transposed": (
        ValueError,
        "each axis of `keep` of `Dropout` must be 1 or that of (2, 5, 11); got shape (11, 5)",
        native_keep(rank_3, KEEP.T),
    ),
}

OBJECT = "`dropout` must be Dropout(rate, keep=array); got"
DROPOUTS: dict[str, Case] = {
    "rate": (TypeError, f"{OBJECT} an object of type float", rank_2(dropout=0.1)),
    "bool": (TypeError, f"{OBJECT} an object of type bool", rank_2(dropout=True)),
    "str": (TypeError, f"{OBJECT} an object of type str", rank_2(dropout="0.1")),
    "keep": (TypeError, f"{OBJECT} an object of type numpy.ndarray", rank_2(dropout=KEEP)),
    "pair": (TypeError, f"{OBJECT} an object of type tuple", rank_2(dropout=(0.1, KEEP))),
    "class": (TypeError, f"{OBJECT} an object of type type", rank_2(dropout=Dropout)),
    "mask": (TypeError, f"{OBJECT} an object of type attnspec.Causal", rank_2(dropout=causal(0))),
    "by position": (
        TypeError,
        "dot_product_attention() takes 3 positional arguments but 4 were given",
        lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), Dropout(0.5, KEEP)),
    ),
}


@pytest.mark.parametrize("case", SINKS.values(), ids=SINKS)
def test_wrong_sinks_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", RATES.values(), ids=RATES)
def test_wrong_rate_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", KEEPS.values(), ids=KEEPS)
def test_wrong_keep_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", DROPOUTS.values(), ids=DROPOUTS)
def test_what_is_no_dropout_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("sinks", [0, -1.5, np.float64(0.5), np.array(2.0), -INF], ids=repr)
def test_numbers_are_sinks_without_a_head_axis(attn: ModuleType, sinks: Any) -> None:
    stages = attn.attention_stages(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), sinks=sinks)
    np.testing.assert_allclose(stages.logsumexp, [np.log1p(np.exp(float(sinks)))], rtol=1e-12)


@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0.5), 1 - 2**-53], ids=repr)
def test_every_rate_below_1_is_taken(attn: ModuleType, rate: Any) -> None:
    dropout = Dropout(rate, [[True]])
    output = attn.dot_product_attention(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), dropout=dropout)
    np.testing.assert_allclose(output, [[1 / (1 - float(rate))]], rtol=1e-12)

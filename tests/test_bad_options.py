"""Wrong scales, softcaps and biases: refused, in the same words everywhere (S2, S3, S5, S16)."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from frameworks import name_of

from attnspec.contract import causal

SCALAR = "must be a number or a tensor without axes; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"


def scale(value: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), scale=value)


def softcap(value: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), softcap=value)


def bias(value: Any) -> Any:
    return lambda attn, t: attn.dot_product_attention(t(5, 7), t(11, 7), t(11, 3), bias=value)


def native(option: Any, value: Any, dtype: str | None = None) -> Any:
    return lambda attn, t: option(t.of(value, dtype))(attn, t)


SCALES: dict[str, Case] = {
    "nan": (ValueError, "`scale` must be finite; got nan", scale(np.nan)),
    "inf": (ValueError, "`scale` must be finite; got inf", scale(np.inf)),
    "-inf": (ValueError, "`scale` must be finite; got -inf", scale(-np.inf)),
    "int beyond every float": (ValueError, "`scale` must be finite; got inf", scale(10**5000)),
    "NumPy nan": (ValueError, "`scale` must be finite; got nan", scale(np.float32("nan"))),
    "native nan": (ValueError, "`scale` must be finite; got nan", native(scale, float("nan"))),
    "bool": (TypeError, f"`scale` {SCALAR} an object of type bool", scale(True)),
    "NumPy bool": (TypeError, f"`scale` {SCALAR} dtype bool", scale(np.True_)),
    "native bool": (TypeError, f"`scale` {SCALAR} dtype bool", native(scale, True)),
    "str": (TypeError, f"`scale` {SCALAR} an object of type str", scale("0.5")),
    "array of str": (TypeError, "`scale` must hold numbers; got a NumPy array of dtype <U3", scale(np.array("0.5"))),
    "list": (TypeError, f"`scale` {SCALAR} an object of type list", scale([0.5])),
    "fraction": (TypeError, f"`scale` {SCALAR} an object of type fractions.Fraction", scale(Fraction(1, 2))),
    "complex": (TypeError, f"`scale` {SCALAR} an object of type complex", scale(1j)),
    "NumPy complex": (TypeError, f"`scale` {SCALAR} dtype complex64", scale(np.complex64(1))),
    "native complex": (TypeError, f"`scale` {SCALAR} dtype complex64", native(scale, 1.0, "complex64")),
    "one axis": (ValueError, f"`scale` {SCALAR} shape (1,)", scale(np.ones(1))),
    "native with an axis": (ValueError, f"`scale` {SCALAR} shape (3,)", native(scale, [1.0, 2.0, 3.0])),
    "masked": (TypeError, f"`scale` {MASKED}", scale(np.ma.masked)),
}

SOFTCAPS: dict[str, Case] = {
    "0": (ValueError, "`softcap` must be positive and finite; got 0.0", softcap(0)),
    "-1": (ValueError, "`softcap` must be positive and finite; got -1.0", softcap(-1)),
    "nan": (ValueError, "`softcap` must be positive and finite; got nan", softcap(np.nan)),
    "inf": (ValueError, "`softcap` must be positive and finite; got inf", softcap(np.inf)),
    "NumPy 0": (ValueError, "`softcap` must be positive and finite; got 0.0", softcap(np.zeros(()))),
    "native 0": (ValueError, "`softcap` must be positive and finite; got 0.0", native(softcap, 0)),
    "bool": (TypeError, f"`softcap` {SCALAR} an object of type bool", softcap(True)),
    "str": (TypeError, f"`softcap` {SCALAR} an object of type str", softcap("30")),
}

BIASES: dict[str, Case] = {
    "bool": (
        TypeError,
        f"`bias` {FLOATING}; got bool; a boolean array is a mask and goes to `mask=`",
        bias(np.ones((5, 11), bool)),
    ),
    "native bool": (
        TypeError,
        f"`bias` {FLOATING}; got bool; a boolean array is a mask and goes to `mask=`",
        native(bias, np.ones((5, 11), bool)),
    ),
    "list of bool": (
        TypeError,
        f"`bias` {FLOATING}; got bool; a boolean array is a mask and goes to `mask=`",
        bias([[True]]),
    ),
    "int": (TypeError, f"`bias` {FLOATING}; got int64", bias(np.ones((5, 11), np.int64))),
    "native int": (TypeError, f"`bias` {FLOATING}; got int32", native(bias, np.ones((5, 11)), "int32")),
    "float32 beside float64": (
        TypeError,
        "`bias` must have dtype float64 beside a float64 query; got float32",
        native(bias, np.ones((5, 11)), "float32"),
    ),
    "float64 beside float32": (
        TypeError,
        "`bias` must have dtype float32 beside a float32 query; got float64",
        lambda attn, t: attn.dot_product_attention(*(t(5, 7, dtype="float32"),) * 3, bias=np.zeros((5, 5))),
    ),
    "float64 beside float16": (
        TypeError,
        "`bias` must have dtype float16 or float32 beside a float16 query; got float64",
        lambda attn, t: attn.dot_product_attention(*(t(5, 7, dtype="float16"),) * 3, bias=np.zeros((5, 5))),
    ),
    "bfloat16 beside float16": (
        TypeError,
        "`bias` must have dtype float16 or float32 beside a float16 query; got bfloat16",
        lambda attn, t: attn.dot_product_attention(
            *(t(5, 7, dtype="float16"),) * 3, bias=np.zeros((5, 5), ml_dtypes.bfloat16)
        ),
    ),
    "number": (ValueError, "`bias` must have 2 axes, up to (5, 11); got shape ()", bias(0.5)),
    "rank 1": (ValueError, "`bias` must have 2 axes, up to (5, 11); got shape (11,)", bias(np.zeros(11))),
    "rank 3 for rank 2": (
        ValueError,
        "`bias` must have 2 axes, up to (5, 11); got shape (1, 5, 11)",
        bias(np.zeros((1, 5, 11))),
    ),
    "rank 3 for rank 4": (
        ValueError,
        (
            "`bias` must have 2 axes or 4, up to (2, 3, 5, 5); got shape (3, 5, 5), which is ambiguous: reshape to "
            "(3, 1, 5, 5) if axis 0 is the batch, or to (1, 3, 5, 5) if it is the heads"
        ),
        lambda attn, t: attn.dot_product_attention(*(t(2, 3, 5, 7),) * 3, bias=t(3, 5, 5)),
    ),
    "wrong heads": (
        ValueError,
        "each axis of `bias` must be 1 or that of (2, 3, 5, 5); got shape (2, 2, 5, 5)",
        lambda attn, t: attn.dot_product_attention(*(t(2, 3, 5, 7),) * 3, bias=t(2, 2, 5, 5)),
    ),
    "a mask object": (
        TypeError,
        "`bias` must be an array or nested lists of numbers; got an object of type attnspec.Causal",
        bias(causal(0)),
    ),
    "str": (TypeError, "`bias` must be an array or nested lists of numbers; got an object of type str", bias("alibi")),
    "objects": (
        TypeError,
        "`bias` must hold numbers; got a NumPy array of dtype object",
        bias(np.zeros((5, 11), object)),
    ),
    "ragged": (ValueError, "`bias` must be nested lists of equal lengths", bias([[1.0], [1.0, 2.0]])),
    "masked": (TypeError, f"`bias` {MASKED}", bias(np.ma.zeros((5, 11)))),
}


@pytest.mark.parametrize("case", SCALES.values(), ids=SCALES)
def test_wrong_scale_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", SOFTCAPS.values(), ids=SOFTCAPS)
def test_wrong_softcap_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", BIASES.values(), ids=BIASES)
def test_wrong_bias_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("value", [0, 2, -1.5, np.float32(0.5), np.array(0.5), np.int64(3)], ids=repr)
def test_every_finite_number_is_a_scale(attn: ModuleType, value: Any) -> None:
    stages = attn.attention_stages([[3.0, 1.0]], [[2.0, 1.0]], [[1.0]], scale=value)
    assert np.asarray(stages.scores).tolist() == [[7.0 * float(value)]]


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_native_numbers_are_scales(attn: ModuleType, dtype: str) -> None:
    value = Maker(name_of(attn)).of(2, dtype)
    stages = attn.attention_stages([[3.0, 1.0]], [[2.0, 1.0]], [[1.0]], scale=value, softcap=value)
    assert np.asarray(stages.scores).tolist() == [[14.0]]

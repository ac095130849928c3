"""Wrong slices, and wrong cotangents of the reference: refused, in the same words everywhere (S15, S16)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from frameworks import name_of

import attnspec.reference
from attnspec.contract import Dropout, MultiHeadParameters, causal, sliding_window

LISTS = "must be an array or nested lists of numbers; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
SEQUENCE = "must be a list or tuple, one array for each slice; got"
PARTIAL = "a PartialAttention, whose `output` goes into `outputs`, and its `logsumexp` into `logsumexps`"


def merge(outputs: Any, logsumexps: Any, dtype: str = "float64", **options: Any) -> Any:
    """Merge slices made from shapes, or what is no list of shapes as it is."""

    def tensors(t: Maker, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        return [t(*one, dtype=dtype) if isinstance(one, tuple) else one for one in given]

    return lambda attn, t: attn.merge_attention(tensors(t, outputs), tensors(t, logsumexps), **options)


def slice_of(**options: Any) -> Any:
    return lambda attn, t: attn.attention_with_logsumexp(t(5, 7), t(11, 7), t(11, 3), **options)


def partial(attn: ModuleType, t: Maker) -> Any:
    return attn.attention_with_logsumexp(t(5, 7), t(11, 7), t(11, 3))


SLICES: dict[str, Case] = {
    "one array": (
        TypeError,
        f"`outputs` {SEQUENCE} an object of type numpy.ndarray",
        merge(np.zeros((2, 5, 3)), [(5,), (5,)]),
    ),
    "None": (TypeError, f"`outputs` {SEQUENCE} None", merge(None, [(5,)])),
    "no logsumexps": (TypeError, f"`logsumexps` {SEQUENCE} None", merge([(5, 3)], None)),
    "str": (TypeError, f"`outputs` {SEQUENCE} an object of type str", merge("ab", [(5,), (5,)])),
    "dict": (TypeError, f"`outputs` {SEQUENCE} an object of type dict", merge({0: 1.0}, [(5,)])),
    "generator": (
        TypeError,
        f"`outputs` {SEQUENCE} an object of type generator",
        lambda attn, t: attn.merge_attention((t(5, 3) for _ in range(2)), [t(5), t(5)]),
    ),
    "a result for each argument": (
        TypeError,
        f"`outputs` {SEQUENCE} {PARTIAL}",
        lambda attn, t: attn.merge_attention(partial(attn, t), partial(attn, t)),
    ),
    "results in a list": (
        TypeError,
        f"`outputs[0]` must be an array; got {PARTIAL}",
        lambda attn, t: attn.merge_attention([partial(attn, t)] * 2, [partial(attn, t)] * 2),
    ),
    "a result among logsumexps": (
        TypeError,
        f"`logsumexps[1]` must be an array; got {PARTIAL}",
        lambda attn, t: attn.merge_attention([t(5, 3), t(5, 3)], [t(5), partial(attn, t)]),
    ),
    "results alone": (
        TypeError,
        "merge_attention() missing 1 required positional argument: 'logsumexps'",
        lambda attn, t: attn.merge_attention([partial(attn, t)] * 2),
    ),
    "none": (ValueError, "`outputs` must hold at least one slice; got none", merge([], [])),
    "another number": (
        ValueError,
        "`outputs` and `logsumexps` must have as many slices; got 2 and 3",
        merge([(5, 3)] * 2, [(5,)] * 3),
    ),
    "None in it": (TypeError, f"`outputs[1]` {LISTS} None", merge([(5, 3), None], [(5,)] * 2)),
    "None in logsumexps": (TypeError, f"`logsumexps[0]` {LISTS} None", merge([(5, 3)] * 2, [None, (5,)])),
    "str in it": (TypeError, f"`outputs[0]` {LISTS} an object of type str", merge(["a", (5, 3)], [(5,)] * 2)),
    "masked": (TypeError, f"`outputs[0]` {MASKED}", merge([np.ma.zeros((5, 3))], [(5,)])),
    "a mask by name": (
        TypeError,
        "merge_attention() got an unexpected keyword argument 'mask'",
        merge([(5, 3)], [(5,)], mask=causal()),
    ),
    "sinks by position": (
        TypeError,
        "merge_attention() takes 2 positional arguments but 3 were given",
        lambda attn, t: attn.merge_attention([t(5, 3)], [t(5)], 0.0),
    ),
}

SHAPES: dict[str, Case] = {
    "sizes that differ": (
        ValueError,
        "`outputs[1]` must have shape (5, 3), as `outputs[0]` asks; got shape (5, 7)",
        merge([(5, 3), (5, 7)], [(5,)] * 2),
    ),
    "ranks that differ": (
        ValueError,
        "`outputs[1]` must have shape (5, 3), as `outputs[0]` asks; got shape (1, 5, 3)",
        merge([(5, 3), (1, 5, 3)], [(5,)] * 2),
    ),
    "batches that differ": (
        ValueError,
        "`outputs[2]` must have shape (2, 5, 3), as `outputs[0]` asks; got shape (1, 5, 3)",
        merge([(2, 5, 3), (2, 5, 3), (1, 5, 3)], [(2, 5)] * 3),
    ),
    "rank 1": (
        ValueError,
        "`outputs[0]` must have at least 2 axes, (*batch, heads, length, size); got shape (5,)",
        merge([(5,)], [()]),
    ),
    "swapped": (
        ValueError,
        "`outputs[0]` must have at least 2 axes, (*batch, heads, length, size); got shape (5,)",
        merge([(5,)], [(5, 3)]),
    ),
    "logsumexp of another length": (
        ValueError,
        "`logsumexps[1]` must have shape (5,), as `outputs[0]` asks; got shape (7,)",
        merge([(5, 3)] * 2, [(5,), (7,)]),
    ),
    "logsumexp with an axis of 1": (
        ValueError,
        "`logsumexps[0]` must have shape (5,), as `outputs[0]` asks; got shape (5, 1)",
        merge([(5, 3)], [(5, 1)]),
    ),
    "logsumexp with lengths before heads": (
        ValueError,
        "`logsumexps[0]` must have shape (2, 3, 5), as `outputs[0]` asks; got shape (2, 5, 3)",
        merge([(2, 3, 5, 7)], [(2, 5, 3)]),
    ),
    "sinks of rank 1 without heads": (
        ValueError,
        "`sinks` must have one number for the one head, shape (); got shape (1,)",
        merge([(2, 5, 3)], [(2, 5)], sinks=[0.0]),
    ),
    "a sink for 3 heads": (
        ValueError,
        "`sinks` must have one number for each of the 3 query heads, shape (3,); got shape ()",
        merge([(2, 3, 5, 7)], [(2, 3, 5)], sinks=0.0),
    ),
    "2 sinks for 3 heads": (
        ValueError,
        "`sinks` must have one number for each of the 3 query heads, shape (3,); got shape (2,)",
        merge([(2, 3, 5, 7)], [(2, 3, 5)], sinks=[0.0, 1.0]),
    ),
}


def merge_dtypes(outputs: list[str], logsumexps: list[str]) -> Any:
    return lambda attn, t: attn.merge_attention(
        [t(5, 3, dtype=dtype) for dtype in outputs], [t(5, dtype=dtype) for dtype in logsumexps]
    )


DTYPES: dict[str, Case] = {
    "int": (TypeError, f"`outputs[0]` {FLOATING}; got int32", merge([(5, 3)], [(5,)], "int32")),
    "int logsumexp": (TypeError, f"`logsumexps[0]` {FLOATING}; got int32", merge_dtypes(["float64"], ["int32"])),
    "bool": (TypeError, f"`outputs[0]` {FLOATING}; got bool", merge([(5, 3)], [(5,)], "bool")),
    "outputs that differ": (
        TypeError,
        "`outputs[0]` and `outputs[1]` must share one dtype; got outputs[0] float64, outputs[1] float32",
        merge_dtypes(["float64", "float32"], ["float64"] * 2),
    ),
    "logsumexps that differ": (
        TypeError,
        ("`logsumexps[0]` and `logsumexps[1]` must share one dtype; got logsumexps[0] float64, logsumexps[1] float32"),
        merge_dtypes(["float64"] * 2, ["float64", "float32"]),
    ),
    "narrower logsumexps": (
        TypeError,
        "`logsumexps` must have dtype float64 beside float64 outputs; got float32",
        merge_dtypes(["float64"], ["float32"]),
    ),
    "wider logsumexps": (
        TypeError,
        "`logsumexps` must have dtype float32 beside float32 outputs; got float64",
        merge_dtypes(["float32"], ["float64"]),
    ),
    "float64 logsumexps beside float16": (
        TypeError,
        "`logsumexps` must have dtype float16 or float32 beside float16 outputs; got float64",
        merge_dtypes(["float16"], ["float64"]),
    ),
    "int sinks": (
        TypeError,
        f"`sinks` {FLOATING}; got int64",
        merge([(2, 3, 5, 7)], [(2, 3, 5)], sinks=np.zeros(3, np.int64)),
    ),
    "bool sinks": (TypeError, f"`sinks` {FLOATING}; got bool", merge([(5, 3)], [(5,)], sinks=False)),
    "str as sinks": (TypeError, f"`sinks` {LISTS} an object of type str", merge([(5, 3)], [(5,)], sinks="none")),
}

OF_A_SLICE: dict[str, Case] = {
    "size of key": (
        ValueError,
        "`key` must have the size (axis -1) of `query`; got shapes query (5, 7) and key (11, 5)",
        lambda attn, t: attn.attention_with_logsumexp(t(5, 7), t(11, 5), t(11, 3)),
    ),
    "int": (
        TypeError,
        f"`query` {FLOATING}; got int32",
        lambda attn, t: attn.attention_with_logsumexp(t(5, 7, dtype="int32"), t(11, 7), t(11, 3)),
    ),
    "window without offset": (
        ValueError,
        (
            "`sliding_window` without an offset needs as many queries as keys; got 5 queries and 11 keys: say "
            "`offset=0` (query 0 stands at key 0, top-left) or `offset='end'` (the last query stands at the last key, "
            "bottom-right)"
        ),
        slice_of(mask=sliding_window(2)),
    ),
    "bias of another length": (
        ValueError,
        "each axis of `bias` must be 1 or that of (5, 11); got shape (5, 7)",
        slice_of(bias=np.zeros((5, 7))),
    ),
    "sinks": (
        TypeError,
        "attention_with_logsumexp() got an unexpected keyword argument 'sinks'",
        slice_of(sinks=0.0),
    ),
    "dropout without keep": (
        ValueError,
        "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own",
        slice_of(dropout=Dropout(0.5)),
    ),
    "mask by position": (
        TypeError,
        "attention_with_logsumexp() takes 3 positional arguments but 4 were given",
        lambda attn, t: attn.attention_with_logsumexp(t(5, 7), t(11, 7), t(11, 3), causal()),
    ),
}


def core(cotangent: Any, **options: Any) -> Any:
    query, key, value = np.zeros((2, 5, 7)), np.zeros((2, 11, 7)), np.zeros((2, 11, 3))
    return lambda: attnspec.reference.dot_product_attention_vjp(query, key, value, cotangent, **options)


def own(cotangent: Any, **options: Any) -> Any:
    weights = np.zeros((7, 4)), np.zeros((7, 4)), np.zeros((7, 3))
    return lambda: attnspec.reference.self_attention_vjp(np.zeros((2, 5, 7)), *weights, cotangent, **options)


def memory(cotangent: Any) -> Any:
    keys, values = np.zeros((2, 5, 7)), np.zeros((2, 5, 3))
    return lambda: attnspec.reference.key_value_attention_vjp(np.zeros((2, 7)), keys, values, cotangent)


def heads(cotangent: Any, **options: Any) -> Any:
    inputs, parameters = np.zeros((2, 5, 8)), MultiHeadParameters(*[np.zeros((8, 8))] * 3, np.zeros((8, 6)))
    options = {"num_heads": 4} | options
    return lambda: attnspec.reference.multi_head_attention_vjp(inputs, inputs, inputs, parameters, cotangent, **options)


def turned(cotangent: Any, **options: Any) -> Any:
    options = {"pairing": "half_split"} | options
    return lambda: attnspec.reference.rotary_embedding_vjp([0, 1, 2, 3, 4], cotangent, **options)


RESULT = "must have the shape of its result,"
COTANGENTS: dict[str, tuple[type[Exception], str, Any]] = {
    "of the query": (ValueError, f"`output_cotangent` {RESULT} (2, 5, 3); got (2, 5, 7)", core(np.zeros((2, 5, 7)))),
    "without a batch": (ValueError, f"`output_cotangent` {RESULT} (2, 5, 3); got (5, 3)", core(np.zeros((5, 3)))),
    "a number": (ValueError, f"`output_cotangent` {RESULT} (2, 5, 3); got ()", core(1.0)),
    "None": (TypeError, f"`output_cotangent` {LISTS} None", core(None)),
    "int": (TypeError, f"`output_cotangent` {FLOATING}; got int64", core(np.zeros((2, 5, 3), np.int64))),
    "bool": (TypeError, f"`output_cotangent` {FLOATING}; got bool", core(np.zeros((2, 5, 3), bool))),
    "str": (TypeError, f"`output_cotangent` {LISTS} an object of type str", core("ones")),
    "masked": (TypeError, f"`output_cotangent` {MASKED}", core(np.ma.zeros((2, 5, 3)))),
    "ragged": (ValueError, "`output_cotangent` must be nested lists of equal lengths", core([[1.0], [1.0, 2.0]])),
    "logsumexp with a size": (
        ValueError,
        f"`logsumexp_cotangent` {RESULT} (2, 5); got (2, 5, 1)",
        core(np.zeros((2, 5, 3)), logsumexp_cotangent=np.zeros((2, 5, 1))),
    ),
    "logsumexp int": (
        TypeError,
        f"`logsumexp_cotangent` {FLOATING}; got int64",
        core(np.zeros((2, 5, 3)), logsumexp_cotangent=np.zeros((2, 5), np.int64)),
    ),
    "logsumexp a number": (
        ValueError,
        f"`logsumexp_cotangent` {RESULT} (2, 5); got ()",
        core(np.zeros((2, 5, 3)), logsumexp_cotangent=0.0),
    ),
    "logsumexp by position": (
        TypeError,
        "dot_product_attention_vjp() takes 4 positional arguments but 5 were given",
        lambda: attnspec.reference.dot_product_attention_vjp(*[np.zeros((5, 3))] * 4, np.zeros(5)),
    ),
    "none": (
        TypeError,
        "dot_product_attention_vjp() missing 1 required positional argument: 'output_cotangent'",
        lambda: attnspec.reference.dot_product_attention_vjp(*[np.zeros((5, 3))] * 3),
    ),
    "options are checked": (
        ValueError,
        "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own",
        core(np.zeros((2, 5, 3)), dropout=Dropout(0.5)),
    ),
    "sinks are checked": (
        ValueError,
        "`sinks` must have one number for the one head, shape (); got shape (2,)",
        core(np.zeros((2, 5, 3)), sinks=[0.0, 0.0]),
    ),
    "self-attention: of the inputs": (
        ValueError,
        f"`output_cotangent` {RESULT} (2, 5, 3); got (2, 5, 7)",
        own(np.zeros((2, 5, 7))),
    ),
    "self-attention: with a head axis": (
        ValueError,
        f"`output_cotangent` {RESULT} (2, 5, 3); got (2, 1, 5, 3)",
        own(np.zeros((2, 1, 5, 3))),
    ),
    "self-attention: logsumexp": (
        TypeError,
        "self_attention_vjp() got an unexpected keyword argument 'logsumexp_cotangent'",
        own(np.zeros((2, 5, 3)), logsumexp_cotangent=np.zeros((2, 5))),
    ),
    "key-value attention: of the memory": (
        ValueError,
        f"`output_cotangent` {RESULT} (2, 3); got (2, 5, 3)",
        memory(np.zeros((2, 5, 3))),
    ),
    "key-value attention: int": (
        TypeError,
        f"`output_cotangent` {FLOATING}; got int64",
        memory(np.zeros((2, 3), np.int64)),
    ),
    "multi-head attention: split heads": (
        ValueError,
        f"`output_cotangent` {RESULT} (2, 5, 6); got (2, 4, 5, 2)",
        heads(np.zeros((2, 4, 5, 2))),
    ),
    "multi-head attention: None": (TypeError, f"`output_cotangent` {LISTS} None", heads(None)),
    "multi-head attention: heads": (
        ValueError,
        "`query_weight` must have a number of columns that `num_heads`=3 divides; got 8 columns",
        heads(np.zeros((2, 5, 6)), num_heads=3),
    ),
    "rotary: int": (TypeError, f"`output_cotangent` {FLOATING}; got int64", turned(np.zeros((5, 8), np.int64))),
    "rotary: None": (TypeError, f"`output_cotangent` {LISTS} None", turned(None)),
    "rotary: pairing": (
        ValueError,
        (
            "`pairing` must be 'half_split' (component c turns with c + size/2) or 'interleaved' (2c with 2c + 1); "
            "got 'halves'"
        ),
        turned(np.zeros((5, 8)), pairing="halves"),
    ),
    "rotary: length": (
        ValueError,
        "`positions` must have shape (7,); got shape (5,)",
        turned(np.zeros((7, 8))),
    ),
}


@pytest.mark.parametrize("case", SLICES.values(), ids=SLICES)
def test_what_is_no_list_of_slices_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_slices_that_do_not_fit_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", DTYPES.values(), ids=DTYPES)
def test_wrong_dtypes_of_slices_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", OF_A_SLICE.values(), ids=OF_A_SLICE)
def test_wrong_attention_over_a_slice_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize(("error", "text", "call"), COTANGENTS.values(), ids=COTANGENTS)
def test_wrong_cotangents_are_refused(error: type[Exception], text: str, call: Any) -> None:
    with pytest.raises(error) as caught:
        call()
    assert (type(caught.value), str(caught.value)) == (error, text)


def test_lists_of_logsumexps_take_the_dtype_of_the_outputs(attn: ModuleType) -> None:
    outputs = [Maker(name_of(attn)).of([[1.0, 2.0]], "bfloat16")] if name_of(attn) != "reference" else [np.ones((1, 2))]
    merged = attn.merge_attention(outputs, [[0.5]])
    np.testing.assert_array_equal(np.asarray(merged.logsumexp), np.array([0.5]))


def test_the_message_about_sinks_names_what_they_stand_beside(attn: ModuleType) -> None:
    t = Maker(name_of(attn))
    with pytest.raises(TypeError, match="`sinks` must have dtype float64 beside float64 outputs; got float32"):
        attn.merge_attention([t(5, 3)], [t(5)], sinks=t.of(1.0, "float32"))

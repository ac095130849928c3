"""Wrong positions: rotary embedding, given tables and sinusoids, refused in the same words everywhere (S21, S22)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from frameworks import name_of

LISTS = "must be an array or nested lists of numbers; got"
MASKED = "is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`"
NUMBERS = "must have an integer or a floating dtype; got"
PAIRING = "`pairing` must be 'half_split' (component c turns with c + size/2) or 'interleaved' (2c with 2c + 1); got"
RANK_2 = (
    "`inputs` must have at least 2 axes, (*batch, heads, length, size) or without heads (length, size) and "
    "(batch, length, size); got shape"
)
NAN, INF = float("nan"), float("inf")
PLACES = [0, 1, 2, 3, 4]


def tensor_of(t: Maker, given: Any) -> Any:
    """Make a tensor from a shape, or take what is no shape as it is."""
    return t(*given) if isinstance(given, tuple) else given


def rotary(inputs: Any, positions: Any, **options: Any) -> Any:
    options = {"pairing": "half_split"} | options
    return lambda attn, t: attn.rotary_embedding(tensor_of(t, inputs), positions, **options)


def pairs(inputs: Any, cosines: Any, sines: Any, **options: Any) -> Any:
    options = {"pairing": "interleaved"} | options
    return lambda attn, t: attn.rotate_pairs(*(tensor_of(t, one) for one in (inputs, cosines, sines)), **options)


def waves(*arguments: Any, **options: Any) -> Any:
    return lambda attn, _t: attn.sinusoidal_positions(*arguments, **options)


PAIRINGS: dict[str, Case] = {
    "left out": (
        TypeError,
        "rotary_embedding() missing 1 required keyword-only argument: 'pairing'",
        lambda attn, t: attn.rotary_embedding(t(5, 8), PLACES),
    ),
    "left out of tables": (
        TypeError,
        "rotate_pairs() missing 1 required keyword-only argument: 'pairing'",
        lambda attn, t: attn.rotate_pairs(t(5, 8), t(5, 4), t(5, 4)),
    ),
    "by position": (
        TypeError,
        "rotary_embedding() takes 2 positional arguments but 3 were given",
        lambda attn, t: attn.rotary_embedding(t(5, 8), PLACES, "half_split"),
    ),
    "None": (ValueError, f"{PAIRING} None", rotary((5, 8), PLACES, pairing=None)),
    "hyphen": (ValueError, f"{PAIRING} 'half-split'", rotary((5, 8), PLACES, pairing="half-split")),
    "another name": (ValueError, f"{PAIRING} 'neox'", pairs((5, 8), (5, 4), (5, 4), pairing="neox")),
    "bool": (ValueError, f"{PAIRING} True", rotary((5, 8), PLACES, pairing=True)),
    "list": (ValueError, f"{PAIRING} ['half_split']", rotary((5, 8), PLACES, pairing=["half_split"])),
    "array": (
        ValueError,
        f"{PAIRING} array(['half_split', 'x'], dtype='<U10')",
        rotary((5, 8), PLACES, pairing=np.array(["half_split", "x"])),
    ),
}

INPUTS: dict[str, Case] = {
    "rank 1": (ValueError, f"{RANK_2} (8,)", rotary((8,), PLACES)),
    "rank 0": (ValueError, f"{RANK_2} ()", rotary((), PLACES)),
    "swapped": (
        ValueError,
        f"{RANK_2} (5,)",
        lambda attn, t: attn.rotary_embedding(PLACES, t(5, 8), pairing="half_split"),
    ),
    "odd size": (
        ValueError,
        "the size of `inputs` must be even: components turn in pairs; got 7",
        rotary((5, 7), PLACES),
    ),
    "odd size, interleaved": (
        ValueError,
        "the size of `inputs` must be even: components turn in pairs; got 7",
        rotary((2, 3, 5, 7), PLACES, pairing="interleaved"),
    ),
    "int": (
        TypeError,
        f"`inputs` {FLOATING}; got int32",
        lambda attn, t: attn.rotary_embedding(t(5, 8, dtype="int32"), PLACES, pairing="half_split"),
    ),
    "None": (TypeError, f"`inputs` {LISTS} None", rotary(None, PLACES)),
    "str": (TypeError, f"`inputs` {LISTS} an object of type str", rotary("query", PLACES)),
    "masked": (TypeError, f"`inputs` {MASKED}", rotary(np.ma.zeros((5, 8)), PLACES)),
    "ragged": (ValueError, "`inputs` must be nested lists of equal lengths", rotary([[1.0, 2.0], [1.0]], [0, 1])),
}

EVEN = "`rotary_dim` must be even and between 0 and 8, the size of `inputs`: components turn in pairs; got"
ROTARY_DIMS: dict[str, Case] = {
    "odd": (ValueError, f"{EVEN} 3", rotary((5, 8), PLACES, rotary_dim=3)),
    "beyond the size": (ValueError, f"{EVEN} 10", rotary((5, 8), PLACES, rotary_dim=10)),
    "beyond an odd size": (
        ValueError,
        "`rotary_dim` must be even and between 0 and 7, the size of `inputs`: components turn in pairs; got 8",
        rotary((5, 7), PLACES, rotary_dim=8),
    ),
    "negative": (ValueError, f"{EVEN} -2", rotary((5, 8), PLACES, rotary_dim=-2)),
    "float": (TypeError, "`rotary_dim` must be an int; got 4.0", rotary((5, 8), PLACES, rotary_dim=4.0)),
    "share": (TypeError, "`rotary_dim` must be an int; got 0.5", rotary((5, 8), PLACES, rotary_dim=0.5)),
    "bool": (TypeError, "`rotary_dim` must be an int; got True", rotary((5, 8), PLACES, rotary_dim=True)),
    "str": (TypeError, "`rotary_dim` must be an int; got '4'", rotary((5, 8), PLACES, rotary_dim="4")),
}

BATCHED = "`positions` must have shape (5,) or (2, 5); got shape"
POSITIONS: dict[str, Case] = {
    "a number": (ValueError, "`positions` must have shape (5,); got shape ()", rotary((5, 8), 5)),
    "too few": (ValueError, "`positions` must have shape (5,); got shape (2,)", rotary((5, 8), [0, 1])),
    "one for all": (ValueError, f"{BATCHED} (1,)", rotary((2, 5, 8), [0])),
    "none": (ValueError, "`positions` must have shape (5,); got shape (0,)", rotary((5, 8), [])),
    "a batch for none": (ValueError, "`positions` must have shape (5,); got shape (1, 5)", rotary((5, 8), [PLACES])),
    "another batch": (ValueError, f"{BATCHED} (3, 5)", rotary((2, 5, 8), [PLACES] * 3)),
    "batch of 1": (ValueError, f"{BATCHED} (1, 5)", rotary((2, 5, 8), [PLACES])),
    "per head": (ValueError, f"{BATCHED} (2, 3, 5)", rotary((2, 3, 5, 8), np.zeros((2, 3, 5)))),
    "one for each batch element": (ValueError, f"{BATCHED} (2,)", rotary((2, 3, 5, 8), [0, 7])),
    "one for each head": (ValueError, f"{BATCHED} (3,)", rotary((2, 3, 5, 8), [0, 1, 2])),
    "a column": (ValueError, "`positions` must have shape (5,); got shape (5, 1)", rotary((5, 8), np.zeros((5, 1)))),
    "one of two batch axes": (
        ValueError,
        "`positions` must have shape (5,) or (2, 4, 5); got shape (2, 5)",
        rotary((2, 4, 3, 5, 8), np.zeros((2, 5))),
    ),
    "None": (TypeError, f"`positions` {LISTS} None", rotary((5, 8), None)),
    "str": (TypeError, f"`positions` {LISTS} an object of type str", rotary((5, 8), "abcde")),
    "range": (TypeError, f"`positions` {LISTS} an object of type range", rotary((5, 8), range(5))),
    "bool": (TypeError, f"`positions` {NUMBERS} bool", rotary((5, 8), [True] * 5)),
    "native bool": (
        TypeError,
        f"`positions` {NUMBERS} bool",
        lambda attn, t: attn.rotary_embedding(t(5, 8), t(5, dtype="bool"), pairing="half_split"),
    ),
    "complex": (TypeError, f"`positions` {NUMBERS} complex128", rotary((5, 8), np.zeros(5, complex))),
    "None in a list": (TypeError, f"`positions` {LISTS} a list that holds None", rotary((5, 8), [0, 1, 2, 3, None])),
    "ragged": (ValueError, "`positions` must be nested lists of equal lengths", rotary((2, 5, 8), [[1], [1, 2]])),
    "masked": (TypeError, f"`positions` {MASKED}", rotary((5, 8), np.ma.array(PLACES))),
    "objects": (
        TypeError,
        "`positions` must hold numbers; got a NumPy array of dtype object",
        rotary((5, 8), np.zeros(5, object)),
    ),
}

BASE = "`base` must be positive and finite; got"
BASES: dict[str, Case] = {
    "0": (ValueError, f"{BASE} 0.0", rotary((5, 8), PLACES, base=0)),
    "negative": (ValueError, f"{BASE} -10000.0", rotary((5, 8), PLACES, base=-10000)),
    "nan": (ValueError, f"{BASE} nan", rotary((5, 8), PLACES, base=NAN)),
    "inf": (ValueError, f"{BASE} inf", rotary((5, 8), PLACES, base=INF)),
    "int beyond every float": (ValueError, f"{BASE} inf", rotary((5, 8), PLACES, base=10**400)),
    "bool": (
        TypeError,
        "`base` must be a Python number; got an object of type bool",
        rotary((5, 8), PLACES, base=True),
    ),
    "str": (TypeError, "`base` must be a Python number; got an object of type str", rotary((5, 8), PLACES, base="1e4")),
    "list": (
        TypeError,
        "`base` must be a Python number; got an object of type list",
        rotary((5, 8), PLACES, base=[1e4]),
    ),
    "array": (
        TypeError,
        "`base` must be a Python number; got an object of type numpy.ndarray",
        rotary((5, 8), PLACES, base=np.array(1e4)),
    ),
    "of sinusoids, 0": (ValueError, f"{BASE} 0.0", waves(5, 8, base=0)),
    "of sinusoids, None": (TypeError, "`base` must be a Python number; got None", waves(5, 8, base=None)),
    "of sinusoids, int beyond every float": (ValueError, f"{BASE} inf", waves(5, 8, base=10**400)),
}

FREQUENCIES: dict[str, Case] = {
    "and a base": (
        ValueError,
        "`base` and `frequencies` exclude each other; got both",
        rotary((5, 8), PLACES, base=10000.0, frequencies=[1.0] * 4),
    ),
    "one for each component": (
        ValueError,
        "`frequencies` must have shape (4,), one for each pair; got shape (8,)",
        rotary((5, 8), PLACES, frequencies=[1.0] * 8),
    ),
    "beyond rotary_dim": (
        ValueError,
        "`frequencies` must have shape (2,), one for each pair; got shape (4,)",
        rotary((5, 8), PLACES, frequencies=[1.0] * 4, rotary_dim=4),
    ),
    "two axes": (
        ValueError,
        "`frequencies` must have shape (4,), one for each pair; got shape (1, 4)",
        rotary((5, 8), PLACES, frequencies=np.ones((1, 4))),
    ),
    "number": (
        ValueError,
        "`frequencies` must have shape (4,), one for each pair; got shape ()",
        rotary((5, 8), PLACES, frequencies=1.0),
    ),
    "none": (
        ValueError,
        "`frequencies` must have shape (4,), one for each pair; got shape (0,)",
        rotary((5, 8), PLACES, frequencies=[]),
    ),
    "str": (TypeError, f"`frequencies` {LISTS} an object of type str", rotary((5, 8), PLACES, frequencies="yarn")),
    "int": (
        TypeError,
        f"`frequencies` {FLOATING}; got int64",
        rotary((5, 8), PLACES, frequencies=np.ones(4, np.int64)),
    ),
    "bool": (TypeError, f"`frequencies` {FLOATING}; got bool", rotary((5, 8), PLACES, frequencies=[True] * 4)),
    "float32 beside float64": (
        TypeError,
        "`frequencies` must have dtype float64 beside float64 inputs; got float32",
        lambda attn, t: attn.rotary_embedding(t(5, 8), PLACES, pairing="half_split", frequencies=t(4, dtype="float32")),
    ),
    "float64 beside float16": (
        TypeError,
        "`frequencies` must have dtype float16 or float32 beside float16 inputs; got float64",
        lambda attn, t: attn.rotary_embedding(t(5, 8, dtype="float16"), PLACES, pairing="half_split", frequencies=t(4)),
    ),
}

TABLES: dict[str, Case] = {
    "of another length": (
        ValueError,
        "`cosines` must have shape (5, pairs); got shape (7, 4)",
        pairs((5, 8), (7, 4), (7, 4)),
    ),
    "one row for all": (
        ValueError,
        "`cosines` must have shape (5, pairs); got shape (1, 4)",
        pairs((5, 8), (1, 4), (1, 4)),
    ),
    "without rows": (ValueError, "`cosines` must have shape (5, pairs); got shape (4,)", pairs((5, 8), (4,), (4,))),
    "numbers": (ValueError, "`cosines` must have shape (5, pairs); got shape ()", pairs((5, 8), 1.0, 0.0)),
    "another batch": (
        ValueError,
        "`cosines` must have shape (5, pairs) or (2, 5, pairs); got shape (3, 5, 4)",
        pairs((2, 3, 5, 8), (3, 5, 4), (3, 5, 4)),
    ),
    "batch of 1": (
        ValueError,
        "`cosines` must have shape (5, pairs) or (2, 5, pairs); got shape (1, 5, 4)",
        pairs((2, 3, 5, 8), (1, 5, 4), (1, 5, 4)),
    ),
    "with a head axis": (
        ValueError,
        "`cosines` must have shape (5, pairs) or (2, 5, pairs); got shape (2, 1, 5, 4)",
        pairs((2, 3, 5, 8), (2, 1, 5, 4), (2, 1, 5, 4)),
    ),
    "a column for each component": (
        ValueError,
        "`cosines` must have at most half as many columns as `inputs`; got shapes inputs (5, 8) and cosines (5, 8)",
        pairs((5, 8), (5, 8), (5, 8)),
    ),
    "of different columns": (
        ValueError,
        "`sines` must have the shape of `cosines`; got shapes cosines (5, 4) and sines (5, 3)",
        pairs((5, 8), (5, 4), (5, 3)),
    ),
    "of different lengths": (
        ValueError,
        "`sines` must have the shape of `cosines`; got shapes cosines (5, 4) and sines (7, 4)",
        pairs((5, 8), (5, 4), (7, 4)),
    ),
    "of different ranks": (
        ValueError,
        "`sines` must have the shape of `cosines`; got shapes cosines (5, 4) and sines (2, 5, 4)",
        pairs((2, 2, 5, 8), (5, 4), (2, 5, 4)),
    ),
    "no cosines": (TypeError, f"`cosines` {LISTS} None", pairs((5, 8), None, (5, 4))),
    "no sines": (TypeError, f"`sines` {LISTS} None", pairs((5, 8), (5, 4), None)),
    "str": (TypeError, f"`cosines` {LISTS} an object of type str", pairs((5, 8), "cos", (5, 4))),
    "int": (TypeError, f"`cosines` {FLOATING}; got int64", pairs((5, 8), np.ones((5, 4), np.int64), (5, 4))),
    "bool": (TypeError, f"`sines` {FLOATING}; got bool", pairs((5, 8), (5, 4), [[False] * 4] * 5)),
    "masked": (TypeError, f"`cosines` {MASKED}", pairs((5, 8), np.ma.ones((5, 4)), (5, 4))),
    "float32 beside float64": (
        TypeError,
        "`sines` must have dtype float64 beside float64 inputs; got float32",
        pairs((5, 8), (5, 4), np.ones((5, 4), np.float32)),
    ),
    "in a pair": (
        TypeError,
        "rotate_pairs() missing 1 required positional argument: 'sines'",
        lambda attn, t: attn.rotate_pairs(t(5, 8), (t(5, 4), t(5, 4)), pairing="half_split"),
    ),
    "inputs of rank 1": (ValueError, f"{RANK_2} (8,)", pairs((8,), (1, 4), (1, 4))),
}

SIZE = "`size` must be even and at least 0: sines and cosines come in pairs; got"
DTYPE = "`dtype` must be one of 'float64', 'float32', 'bfloat16', 'float16'; got"
LONE = "`positions` must be a number of positions, a Python int, or an array (*batch, length); got shape ()"
SINUSOIDS: dict[str, Case] = {
    "no size": (
        TypeError,
        "sinusoidal_positions() missing 1 required positional argument: 'size'",
        waves(5),
    ),
    "odd size": (ValueError, f"{SIZE} 7", waves(5, 7)),
    "negative size": (ValueError, f"{SIZE} -2", waves(5, -2)),
    "float size": (TypeError, "`size` must be an int; got 8.0", waves(5, 8.0)),
    "bool size": (TypeError, "`size` must be an int; got True", waves(5, True)),
    "None size": (TypeError, "`size` must be an int; got None", waves(5, None)),
    "swapped": (TypeError, "`size` must be an int; got [0, 1, 2, 3, 4]", waves(8, PLACES)),
    "negative number": (
        ValueError,
        "`positions` must be at least 0 where it is a number of positions; got -1",
        waves(-1, 8),
    ),
    "a float": (ValueError, LONE, waves(5.0, 8)),
    "an array without axes": (ValueError, LONE, waves(np.array(5), 8)),
    "native without axes": (ValueError, LONE, lambda attn, t: attn.sinusoidal_positions(t.of(5), 8)),
    "True": (TypeError, f"`positions` {NUMBERS} bool", waves(True, 8)),
    "list of bool": (TypeError, f"`positions` {NUMBERS} bool", waves([True, False], 8)),
    "complex": (TypeError, f"`positions` {NUMBERS} complex128", waves(np.zeros(5, complex), 8)),
    "None": (TypeError, f"`positions` {LISTS} None", waves(None, 8)),
    "str": (TypeError, f"`positions` {LISTS} an object of type str", waves("5", 8)),
    "range": (TypeError, f"`positions` {LISTS} an object of type range", waves(range(5), 8)),
    "ragged": (ValueError, "`positions` must be nested lists of equal lengths", waves([[1], [1, 2]], 8)),
    "masked": (TypeError, f"`positions` {MASKED}", waves(np.ma.zeros(5), 8)),
    "int dtype": (TypeError, f"{DTYPE} 'int32'", waves(5, 8, dtype="int32")),
    "another name of a dtype": (TypeError, f"{DTYPE} 'half'", waves(5, 8, dtype="half")),
    "a class as dtype": (TypeError, f"{DTYPE} <class 'numpy.float32'>", waves(5, 8, dtype=np.float32)),
    "a NumPy dtype": (TypeError, f"{DTYPE} dtype('float32')", waves(5, 8, dtype=np.dtype("float32"))),
    "a list as dtype": (TypeError, f"{DTYPE} ['float32']", waves(5, 8, dtype=["float32"])),
    "a number as dtype": (TypeError, f"{DTYPE} 32", waves(5, 8, dtype=32)),
    "base by position": (
        TypeError,
        "sinusoidal_positions() takes 2 positional arguments but 3 were given",
        waves(5, 8, 10000.0),
    ),
}

ROTARY = INPUTS | {f"rotary_dim {name}": case for name, case in ROTARY_DIMS.items()}


@pytest.mark.parametrize("case", PAIRINGS.values(), ids=PAIRINGS)
def test_wrong_pairing_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", ROTARY.values(), ids=ROTARY)
def test_wrong_inputs_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", POSITIONS.values(), ids=POSITIONS)
def test_wrong_positions_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", BASES.values(), ids=BASES)
def test_wrong_base_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", FREQUENCIES.values(), ids=FREQUENCIES)
def test_wrong_frequencies_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES)
def test_wrong_tables_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", SINUSOIDS.values(), ids=SINUSOIDS)
def test_wrong_sinusoids_are_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_a_dtype_of_the_framework_is_refused(attn: ModuleType) -> None:
    dtype = Maker(name_of(attn))(1, dtype="float32").dtype
    with pytest.raises(TypeError) as caught:
        attn.sinusoidal_positions(5, 8, dtype=dtype)
    assert str(caught.value) == f"{DTYPE} {dtype!r}"


def test_what_is_a_number_of_positions(attn: ModuleType) -> None:
    counted = np.asarray(attn.sinusoidal_positions(np.int64(3), 4))
    np.testing.assert_array_equal(counted, np.asarray(attn.sinusoidal_positions([0, 1, 2], 4)))
    assert attn.sinusoidal_positions(0, 4).shape == (0, 4)
    assert attn.sinusoidal_positions(3, 0).shape == (3, 0)


def test_no_component_needs_to_turn(attn: ModuleType) -> None:
    inputs = np.arange(15.0).reshape(3, 5)
    empty = np.zeros((3, 0))
    still = attn.rotary_embedding(inputs, [0, 1, 2], pairing="half_split", rotary_dim=0)
    np.testing.assert_array_equal(np.asarray(still), inputs)
    np.testing.assert_array_equal(np.asarray(attn.rotate_pairs(inputs, empty, empty, pairing="half_split")), inputs)

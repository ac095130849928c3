"""Dropout with an explicit array of what is kept: after the softmax, before the values, and unread where dropped."""

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_mpmath
import oracle_scalar
import pytest
from attention_cases import (
    BY_RANK,
    DIMS,
    GROUPED,
    MASKS,
    Dims,
    by_oracle,
    draw,
    draw_bias,
    draw_booleans,
    pair_shapes,
)
from comparisons import assert_close, assert_same_bits
from native_tensors import to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, STAGES, OptionCase, by_module, check_backend, check_reference

import attnspec.reference.attention as reference_attention
from attnspec import reference
from attnspec.contract import Dropout


def dropout_case(
    dims: Dims, shape: tuple[int, ...], rate: float, mask: str = "none", everything: bool = False
) -> OptionCase:
    keep = draw_booleans(shape, seed=4)
    options: dict[str, Any] = {"softcap": 5.0, "scale": -0.7} if everything else {}
    bias = draw_bias(dims.pairs, masked=0.2) if everything else None
    sinks = np.resize([0.5, -2.0, 3.0], dims.heads) if everything else None

    def make(give: Any) -> dict[str, Any]:
        given = {"bias": give(bias), "sinks": give(sinks)} if everything else {}
        return {"dropout": Dropout(rate, keep), "mask": MASKS[mask].make(dims), **given, **options}

    meaning = {"visible": MASKS[mask].visible(dims), "bias": bias, "sinks": sinks, "keep": keep, "rate": rate}
    return OptionCase(dims, make, {**meaning, **options})


def _cases() -> dict[str, OptionCase]:
    cases: dict[str, OptionCase] = {}
    for rank, dims in BY_RANK.items():
        shapes = pair_shapes(dims) if rank < 5 else [dims.pairs, dims.pairs[-2:], (1, 3, 1, 1, 7)]
        for shape in shapes:
            cases[f"rank{rank}-{'x'.join(map(str, shape))}"] = dropout_case(dims, shape, 0.25)
        cases[f"rank{rank}-masked"] = dropout_case(dims, dims.pairs, 0.5, "and_queries")
    for rate in (0, 0.1, 1 / 3, 0.5, 0.9, 1 - 2.0**-20):
        cases[f"rate{rate}"] = dropout_case(DIMS, DIMS.pairs, rate, "causal_end")
    for mask in ("none", "mask_and_array", "segments_batch"):
        cases[f"grouped-{mask}-everything"] = dropout_case(GROUPED, GROUPED.pairs, 0.3, mask, True)
    cases["no_keys"] = dropout_case(DIMS._replace(keys=0), (1, 1, 5, 1), 0.3)
    return cases


CASES = _cases()
JAX = [
    "rank2-5x7",
    "rank3-2x1x7",
    "rank4-1x3x1x7",
    "rank5-masked",
    "rate0.1",
    "grouped-segments_batch-everything",
    "no_keys",
]
NARROW = ["rank2-5x7", "rank5-masked", "rate0.9", "rate0.1", "grouped-mask_and_array-everything"]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reference(case: OptionCase) -> None:
    check_reference(case)


@pytest.mark.parametrize("case", ["rate0.3333333333333333", "grouped-mask_and_array-everything", "rank5-masked"])
def test_reference_against_mpmath(case: str) -> None:
    check_reference(CASES[case], oracle_mpmath)


@pytest.mark.parametrize(("name", "case"), by_module(CASES, JAX), indirect=["name"])
def test_backends(name: str, case: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], "float64")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", NARROW)
def test_narrow_dtypes(name: str, case: str, dtype: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], dtype)


# --- what dropout leaves alone


def test_the_other_stages_are_those_without_dropout(attn: ModuleType) -> None:
    arrays, mask = draw(GROUPED), MASKS["and_queries"].make(GROUPED)
    keep = draw_booleans(GROUPED.pairs)
    dropped, whole = (
        attn.attention_stages(*arrays, mask=mask, sinks=[0.5] * 6, dropout=dropout)
        for dropout in (attn.Dropout(0.4, keep), None)
    )
    for stage in STAGES[:-1]:
        assert_same_bits(to_numpy(getattr(dropped, stage)), to_numpy(getattr(whole, stage)))
    weights = to_numpy(whole.weights) * keep / 0.6
    expected = np.einsum("bhqk,bhkv->bhqv", weights, np.repeat(arrays[2], 2, axis=1))
    assert_close(to_numpy(dropped.output), expected, FLOAT64_TOLERANCE)


def test_a_rate_of_zero_that_keeps_all_changes_no_bit(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    dropped = attn.dot_product_attention(*arrays, dropout=attn.Dropout(0.0, np.ones((1, 1), bool)))
    assert_same_bits(to_numpy(dropped), to_numpy(attn.dot_product_attention(*arrays)))


def test_keep_is_not_scaled_by_what_it_drops(attn: ModuleType) -> None:
    """The rate alone scales: keep may drop more or less, as an array that somebody else drew does."""
    arrays = draw(DIMS)
    whole = to_numpy(attn.dot_product_attention(*arrays))
    everything = attn.dot_product_attention(*arrays, dropout=attn.Dropout(0.75, np.ones((5, 7), bool)))
    assert_close(to_numpy(everything), 4.0 * whole, FLOAT64_TOLERANCE)
    nothing = attn.dot_product_attention(*arrays, dropout=attn.Dropout(0.75, np.zeros((5, 7), bool)))
    assert (to_numpy(nothing) == 0.0).all()


def test_the_mean_over_all_masks_is_the_output_without_dropout(attn: ModuleType) -> None:
    """E[keep] = 1 − rate: over all 2³ arrays of a rate of 1/2 exactly."""
    dims = Dims((8,), 1, 1, 2, 3, 2, 2, has_heads=False)
    arrays = [np.broadcast_to(array[:1], array.shape) for array in draw(dims)]
    keep = (np.arange(8)[:, None, None] >> np.arange(3) & 1).astype(bool)
    output = to_numpy(attn.dot_product_attention(*arrays, dropout=attn.Dropout(0.5, keep)))
    expected = reference.dot_product_attention(*(array[0] for array in arrays))
    assert_close(output.mean(axis=0), expected, FLOAT64_TOLERANCE)


# --- what is read


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_dropped_value_is_not_read(attn: ModuleType, poison: float) -> None:
    query, key, value = draw(DIMS)
    keep = np.ones((5, 7), bool)
    keep[[0, 2], 3] = False
    dropout = attn.Dropout(0.5, keep)
    clean = to_numpy(attn.dot_product_attention(query, key, value, dropout=dropout))
    value[1, 2, 3, 4] = poison
    dirty = to_numpy(attn.dot_product_attention(query, key, value, dropout=dropout))
    expected = clean.copy()
    expected[1, 2, [1, 3, 4], 4] = poison
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(dirty[~finite], expected[~finite])
    assert_same_bits(dirty[finite], clean[finite])


def test_a_nan_key_at_a_dropped_position_makes_the_row_nan(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    keep = np.ones((5, 7), bool)
    keep[[0, 2], 3] = False
    clean = by_oracle(oracle_scalar.attention_stages, DIMS, query, key, value, keep=keep, rate=0.5)["output"]
    key[1, 2, 3, 4] = np.nan
    output = to_numpy(attn.dot_product_attention(query, key, value, dropout=attn.Dropout(0.5, keep))).copy()
    assert np.isnan(output[1, 2]).all()
    output[1, 2] = clean[1, 2]
    assert_close(output, clean, FLOAT64_TOLERANCE)


def test_a_row_in_which_everything_is_dropped_is_zero(attn: ModuleType) -> None:
    """A dropped pair contributes exactly 0, also where the row's weights are NaN."""
    query, key, value = draw(DIMS)
    key[1, 2, 3, 4], query[0, 0, 1, 0], value[:, :, 5] = np.nan, np.inf, np.nan
    keep = np.ones((2, 1, 5, 7), bool)
    keep[:, :, 1] = False
    stages = attn.attention_stages(query, key, value, dropout=attn.Dropout(0.5, keep))
    assert (to_numpy(stages.output)[:, :, 1] == 0.0).all()
    assert np.isnan(to_numpy(stages.weights)[0, 0, 1]).all()
    assert np.isnan(to_numpy(stages.output)[:, :, [0, 2, 3, 4]]).all()


def test_empty_rows_stay_empty(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    value[:, :, 2:] = np.nan
    mask = attn.key_lengths([2, 0]) & attn.query_lengths(4)
    output = to_numpy(
        attn.dot_product_attention(query, key, value, mask=mask, dropout=attn.Dropout(0.5, np.ones((1, 7), bool)))
    )
    expected = 2.0 * reference.dot_product_attention(*draw(DIMS), mask=mask)
    assert_close(output, expected, FLOAT64_TOLERANCE)
    assert (output[1] == 0.0).all()
    assert (output[:, :, 4] == 0.0).all()


# --- how it is given


@pytest.mark.parametrize("kind", ["list", "numpy", "native"])
def test_keep_of_any_kind(attn: ModuleType, kind: str) -> None:
    name, arrays, keep = frameworks.name_of(attn), draw(DIMS), draw_booleans((5, 7))
    given: Any = {"list": keep.tolist(), "numpy": keep, "native": to_native(name, keep)}[kind]
    tensors = [to_native(name, array) for array in arrays]
    actual = attn.dot_product_attention(*tensors, dropout=attn.Dropout(0.25, keep=given))
    expected = reference.dot_product_attention(*arrays, dropout=Dropout(0.25, keep))
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)


@pytest.mark.parametrize("elements", [1, 200], ids=["row_by_row", "four_rows"])
@pytest.mark.parametrize(
    "case", ["rank4-2x3x5x7", "rank4-1x1x5x1", "rank5-masked", "grouped-mask_and_array-everything"]
)
def test_blocks_do_not_change_the_output(monkeypatch: pytest.MonkeyPatch, case: str, elements: int) -> None:
    dims, make, _ = CASES[case]
    whole = reference.dot_product_attention(*draw(dims), **make(np.asarray))
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    assert_close(reference.dot_product_attention(*draw(dims), **make(np.asarray)), whole, 1e-15)


def test_operations_with_projections(attn: ModuleType) -> None:
    rng = np.random.default_rng(2)
    inputs, weights = rng.standard_normal((2, 5, 6)), [rng.standard_normal((6, 4)) for _ in range(3)]
    query, key, value = (np.einsum("bti,io->bto", inputs, weight) for weight in weights)
    keep = draw_booleans((2, 5, 5))
    expected = reference.dot_product_attention(query, key, value, dropout=Dropout(0.25, keep))
    actual = attn.self_attention(inputs, *weights, dropout=attn.Dropout(0.25, keep[:, None]))
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)
    actual = attn.key_value_attention(query[:, 1], key, value, dropout=attn.Dropout(0.25, keep[:, None, 1:2]))
    assert_close(to_numpy(actual), expected[:, 1], FLOAT64_TOLERANCE)

    heads = [array.reshape(2, 5, 2, 2).swapaxes(1, 2) for array in (query, key, value)]
    dropout = Dropout(0.25, draw_booleans((2, 2, 5, 5)))
    merged = reference.dot_product_attention(*heads, dropout=dropout).swapaxes(1, 2).reshape(2, 5, 4)
    parameters = attn.MultiHeadParameters(*weights, np.eye(4))
    actual = attn.multi_head_attention(inputs, inputs, inputs, parameters, num_heads=2, dropout=dropout)
    assert_close(to_numpy(actual), merged, FLOAT64_TOLERANCE)

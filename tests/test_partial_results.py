"""Attention over slices of the keys, merged: the same as attention over all of them, however the keys are cut."""

import itertools
import math
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
    Array,
    by_oracle,
    draw,
    draw_bias,
    draw_values,
    lengths,
    offsets,
)
from comparisons import assert_close, assert_same_bits, assert_within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_tensors import NUMPY_DTYPES, gradients, to_native, to_numpy
from option_cases import (
    FLOAT64_TOLERANCE,
    assert_native,
    assert_within_bounds,
    by_module,
    exact_and_bounds,
    visible_array,
)

from attnspec import reference
from attnspec.conformance.partial_bounds import merge_bound
from attnspec.conformance.profiles import default_profile
from attnspec.contract import Dropout

WHOLE = {
    f"{label}-{mask}": (dims, mask)
    for label, dims in [*((f"rank{rank}", dims) for rank, dims in BY_RANK.items()), ("grouped", GROUPED)]
    for mask in ("none", "and_queries", "array", "packed_causal")
}


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


# --- one slice


@pytest.mark.parametrize(
    ("attn", "case"),
    by_module(WHOLE, ["rank2-none", "rank3-array", "grouped-and_queries"], frameworks.MODULES),
    indirect=["attn"],
)
def test_one_slice(attn: ModuleType, case: str) -> None:
    dims, mask = WHOLE[case]
    arrays = draw(dims)
    made, visible = MASKS[mask].make(dims), MASKS[mask].visible(dims)
    expected = by_oracle(oracle_scalar.attention_stages, dims, *arrays, visible=visible, scale=-0.7, softcap=5.0)
    result = attn.attention_with_logsumexp(*arrays, mask=made, scale=-0.7, softcap=5.0)
    assert type(result).__name__ == "PartialAttention"
    assert result._fields == ("output", "logsumexp")
    for stage in result._fields:
        actual = to_numpy(getattr(result, stage))
        assert actual.dtype == np.float64
        assert_close(actual, expected[stage], 1e-14 if attn is reference else FLOAT64_TOLERANCE)


def test_options_of_one_slice(attn: ModuleType) -> None:
    arrays, bias = draw(GROUPED), draw_bias(GROUPED.pairs, masked=0.2)
    keep = np.random.default_rng(1).random(GROUPED.pairs) < 0.6
    expected = by_oracle(oracle_scalar.attention_stages, GROUPED, *arrays, bias=bias, keep=keep, rate=0.25)
    result = attn.attention_with_logsumexp(*arrays, bias=bias, dropout=Dropout(0.25, keep))
    assert_close(to_numpy(result.output), expected["output"], FLOAT64_TOLERANCE)
    assert_close(to_numpy(result.logsumexp), expected["logsumexp"], FLOAT64_TOLERANCE)


def test_the_logarithm_is_natural(attn: ModuleType) -> None:
    keys = np.zeros((8, 2))
    result = attn.attention_with_logsumexp(np.ones((1, 2)), keys, keys + 3.0)
    assert_close(to_numpy(result.logsumexp), np.array([3 * math.log(2.0)]))
    assert_close(to_numpy(result.output), np.array([[3.0, 3.0]]))


def test_an_empty_slice(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    value[:] = np.nan
    for result in (
        attn.attention_with_logsumexp(query, key, value, mask=~attn.full()),
        attn.attention_with_logsumexp(query, key[:, :, :0], value[:, :, :0]),
    ):
        assert_same_bits(to_numpy(result.output), np.zeros((2, 3, 5, 13)))
        assert_same_bits(to_numpy(result.logsumexp), np.full((2, 3, 5), -np.inf))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mask", ["causal_end", "and_queries"])
def test_narrow_dtypes(name: str, mask: str, dtype: str) -> None:
    """Both results are float32: the output is not rounded to a half precision before it is merged."""
    attn, made = frameworks.load(name), MASKS[mask].make(DIMS)
    arrays = [array.astype(NUMPY_DTYPES[dtype]) for array in draw(DIMS)]
    expected, bounds = exact_and_bounds([array.astype(np.float32) for array in arrays], {"mask": made}, "float32")
    result = attn.attention_with_logsumexp(*(to_native(name, array) for array in arrays), mask=made)
    for stage in result._fields:
        assert_native(name, getattr(result, stage), "float32")
        assert_within_bounds(to_numpy(getattr(result, stage)), getattr(expected, stage), getattr(bounds, stage))


# --- merging


def cut(
    attn: ModuleType, arrays: Any, cuts: list[int], mask: Any = None, bias: Array | None = None, **options: Any
) -> Any:
    """Attend to the keys between consecutive cuts; mask and bias are arrays over all pairs."""
    query, key, value = arrays
    parts = []
    for start, end in itertools.pairwise(cuts):
        keys = slice(start, end)
        part = {} if mask is None else {"mask": mask[..., keys]}
        part |= {} if bias is None else {"bias": bias[..., keys]}
        parts.append(attn.attention_with_logsumexp(query, key[..., keys, :], value[..., keys, :], **part, **options))
    return [part.output for part in parts], [part.logsumexp for part in parts]


CUTS = {
    "whole": [0, 7],
    "one_by_one": list(range(8)),
    "in_two": [0, 4, 7],
    "empty_first": [0, 0, 3, 7],
    "empty_last": [0, 5, 7, 7],
    "empty_between": [0, 2, 2, 2, 7],
}
MERGED = {f"{label}-{mask}": (cuts, mask) for label, cuts in CUTS.items() for mask in ("none", "and_queries", "array")}


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize(
    ("attn", "case"),
    by_module(MERGED, ["empty_between-and_queries", "one_by_one-array"], frameworks.MODULES),
    indirect=["attn"],
)
def test_merged_slices_are_the_whole(attn: ModuleType, case: str, with_sinks: bool) -> None:
    cuts, mask = MERGED[case]
    arrays, bias = draw(GROUPED), draw_bias(GROUPED.pairs, masked=0.1)
    sinks = np.array([0.5, -4.0, 6.0, -np.inf, 1000.0, -1000.0]) if with_sinks else None
    visible = visible_array(GROUPED, mask)
    expected = reference.attention_stages(*arrays, mask=visible, bias=bias, softcap=4.0, sinks=sinks)
    merged = attn.merge_attention(*cut(attn, arrays, cuts, visible, bias, softcap=4.0), sinks=sinks)
    assert type(merged).__name__ == "PartialAttention"
    assert_close(to_numpy(merged.output), expected.output, FLOAT64_TOLERANCE)
    assert_close(to_numpy(merged.logsumexp), expected.logsumexp, FLOAT64_TOLERANCE)


@pytest.mark.parametrize(
    ("attn", "rank"), by_module([*map(str, BY_RANK)], ["5"], frameworks.MODULES), indirect=["attn"]
)
def test_every_rank(attn: ModuleType, rank: str) -> None:
    dims = BY_RANK[int(rank)]
    sinks = np.linspace(-1.0, 2.0, dims.heads) if dims.has_heads else 0.5
    visible = visible_array(dims, "and_queries")
    expected = reference.attention_stages(*draw(dims), mask=visible, sinks=sinks)
    merged = attn.merge_attention(*cut(attn, draw(dims), [0, 2, 7], visible), sinks=sinks)
    assert_close(to_numpy(merged.output), expected.output, FLOAT64_TOLERANCE)
    assert_close(to_numpy(merged.logsumexp), expected.logsumexp, FLOAT64_TOLERANCE)


def test_offsets_place_the_slices(attn: ModuleType) -> None:
    """A slice that begins at key s has the positions of the whole attention with the offset less s."""
    query, key, value = draw(DIMS)
    place, count = offsets(DIMS), lengths(DIMS)
    biases = [reference.alibi(symmetric=True, offset=place - start) for start in (0, 3)]
    masks = [
        reference.causal(place - start) & reference.key_lengths(np.clip(count - start, 0, size))
        for start, size in ((0, 3), (3, 4))
    ]
    slices = [slice(0, 3), slice(3, 7)]
    parts = [
        attn.attention_with_logsumexp(query, key[:, :, keys], value[:, :, keys], mask=mask, bias=bias)
        for keys, mask, bias in zip(slices, masks, biases, strict=True)
    ]
    expected = reference.attention_stages(
        query, key, value, mask=reference.causal(place) & reference.key_lengths(count), bias=biases[0]
    )
    merged = attn.merge_attention([part.output for part in parts], [part.logsumexp for part in parts])
    assert_close(to_numpy(merged.output), expected.output, FLOAT64_TOLERANCE)
    assert_close(to_numpy(merged.logsumexp), expected.logsumexp, FLOAT64_TOLERANCE)


@st.composite
def _cuts(draw_one: st.DrawFn) -> tuple[list[int], int, Any, int]:
    """Places to cut 7 keys, how many slices to merge first, sinks, and a seed."""
    inner = draw_one(st.lists(st.integers(0, 7), max_size=6))
    cuts = [0, *sorted(inner), 7]
    sinks = draw_one(st.none() | st.lists(st.floats(-50, 50), min_size=3, max_size=3))
    return cuts, draw_one(st.integers(1, len(cuts) - 1)), sinks, draw_one(st.integers(0, 2**16))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(call=_cuts())
def test_any_slicing_and_nesting(attn: ModuleType, call: Any) -> None:
    """Also merges of merges; the sinks enter in the last."""
    cuts, first, sinks, seed = call
    arrays = draw(DIMS, seed)
    visible = np.random.default_rng(seed).random(DIMS.pairs) < 0.4
    expected = reference.attention_stages(*arrays, mask=visible, sinks=sinks)
    module = reference if attn.__name__ == "attnspec.jax" else attn  # JAX compiles each new length of a slice
    outputs, logsumexps = cut(module, arrays, cuts, visible)
    inner = attn.merge_attention(outputs[:first], logsumexps[:first])
    merged = attn.merge_attention([inner.output, *outputs[first:]], [inner.logsumexp, *logsumexps[first:]], sinks=sinks)
    assert_close(to_numpy(merged.output), expected.output, FLOAT64_TOLERANCE)
    assert_close(to_numpy(merged.logsumexp), expected.logsumexp, FLOAT64_TOLERANCE)


def _partials(seed: int, size: float) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(seed)
    outputs = [draw_values((2, 3, 4, 5), rng) for _ in range(4)]
    logsumexps = [
        np.where(rng.random((2, 3, 4)) < 0.3, -np.inf, size * rng.standard_normal((2, 3, 4))) for _ in outputs
    ]
    for logsumexp in logsumexps:
        logsumexp[0, 0, 0] = -np.inf
    return outputs, logsumexps


@pytest.mark.parametrize("oracle", [oracle_scalar, oracle_mpmath], ids=["scalar", "mpmath"])
@pytest.mark.parametrize("sinks", [None, [0.5, -np.inf, 300.0]], ids=["plain", "sinks"])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_the_reference_against_the_oracles(oracle: Any, sinks: Any, size: float) -> None:
    outputs, logsumexps = _partials(7, size)
    expected = oracle.merge_attention(outputs, logsumexps, sinks=sinks)
    merged = reference.merge_attention(outputs, logsumexps, sinks=None if sinks is None else np.array(sinks))
    assert_close(merged.output, expected["output"])
    assert_close(merged.logsumexp, expected["logsumexp"])


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float32"),
    ],
)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_merging_within_bounds(name: str, dtype: str, narrow: str, size: float) -> None:
    outputs, logsumexps = _partials(9, size)
    outputs = [array.astype(NUMPY_DTYPES[dtype]) for array in outputs]
    logsumexps = [array.astype(NUMPY_DTYPES[narrow]) for array in logsumexps]
    sinks = np.array([0.5, -np.inf, 30.0], NUMPY_DTYPES[narrow])
    expected = reference.merge_attention(outputs, logsumexps, sinks=sinks)
    wide = "float64" if dtype == "float64" else "float32"
    stacked = [np.stack(arrays).astype(np.float64) for arrays in (outputs, logsumexps)]
    bounds = merge_bound(*stacked, sinks.astype(np.float64)[:, None], default_profile(wide))
    merged = frameworks.load(name).merge_attention(
        *([to_native(name, array) for array in arrays] for arrays in (outputs, logsumexps)),
        sinks=to_native(name, sinks),
    )
    for result, exact, bound in zip(merged, expected, bounds, strict=True):
        assert_native(name, result, wide)
        actual, finite = to_numpy(result).astype(np.float64), np.isfinite(exact)
        np.testing.assert_array_equal(actual[~finite], exact[~finite])
        assert_within(actual[finite], exact[finite], bound[finite])


# --- what a merge reads


def test_all_slices_empty(attn: ModuleType) -> None:
    outputs, logsumexps = [np.full((2, 3, 4, 5), np.nan)] * 3, [np.full((2, 3, 4), -np.inf)] * 3
    merged = attn.merge_attention(outputs, logsumexps)
    assert_same_bits(to_numpy(merged.output), np.zeros((2, 3, 4, 5)))
    assert_same_bits(to_numpy(merged.logsumexp), np.full((2, 3, 4), -np.inf))
    sinks = np.array([2.0, -1000.0, -np.inf])
    merged = attn.merge_attention(outputs, logsumexps, sinks=sinks)
    assert_same_bits(to_numpy(merged.output), np.zeros((2, 3, 4, 5)))
    assert_same_bits(to_numpy(merged.logsumexp), np.ascontiguousarray(np.broadcast_to(sinks[:, None], (2, 3, 4))))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_an_empty_slice_is_not_read(attn: ModuleType, poison: float) -> None:
    outputs, logsumexps = _partials(11, 1.0)
    clean = attn.merge_attention(outputs, logsumexps)
    for output, logsumexp in zip(outputs, logsumexps, strict=True):
        output[logsumexp == -np.inf] = poison
    dirty = attn.merge_attention(outputs, logsumexps)
    for one, other in zip(dirty, clean, strict=True):
        assert_same_bits(to_numpy(one), to_numpy(other))


def test_poison_reaches_its_own_component(attn: ModuleType) -> None:
    """However small the weight of its slice: here exp(-2000)."""
    outputs = [np.ones((1, 1, 3, 4)), np.full((1, 1, 3, 4), 2.0)]
    outputs[0][0, 0, 0], outputs[1][0, 0, 0] = [np.nan, 1.0, np.inf, -np.inf], [1.0, np.nan, 1.0, np.inf]
    logsumexps = [np.full((1, 1, 3), -2000.0), np.zeros((1, 1, 3))]
    merged = to_numpy(attn.merge_attention(outputs, logsumexps).output)
    np.testing.assert_array_equal(merged[0, 0], [[np.nan, np.nan, np.inf, np.nan], [2.0] * 4, [2.0] * 4])


def test_a_nan_row_stays_nan(attn: ModuleType) -> None:
    """A slice that saw a NaN in a key makes its row NaN, as it does in the whole."""
    query, key, value = draw(DIMS)
    key[1, 2, 3, 4] = np.nan
    visible = visible_array(DIMS, "array")
    expected = reference.attention_stages(query, key, value, mask=visible)
    merged = attn.merge_attention(*cut(attn, (query, key, value), [0, 3, 5, 7], visible))
    for one, other in zip(merged, (expected.output, expected.logsumexp), strict=True):
        np.testing.assert_allclose(to_numpy(one), other, rtol=0, atol=1e-12)
    assert np.isnan(expected.output).any()


# --- gradients


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
def test_gradients_through_a_merge(name: str, with_sinks: bool) -> None:
    """They are those of the whole, also where some slices are empty, or all, and reach the logsumexp."""
    attn, dims = frameworks.load(name), DIMS._replace(queries=3, head_dim=2, value_dim=2)
    query, key, value = draw(dims)
    visible = np.random.default_rng(3).random(dims.pairs) < 0.4
    visible[0, 1, 2], visible[1, 0, 0, 3:] = False, False
    sinks = {"sinks": np.array([0.5, -4.0, 6.0])} if with_sinks else {}
    arrays = {"query": query, "key": key, "value": value, "bias": draw_bias(dims.pairs, masked=0.1), **sinks}
    rng = np.random.default_rng(5)
    cotangents = draw_values((*dims.pairs[:-1], 2), rng), draw_values(dims.pairs[:-1], rng)
    if not with_sinks:
        cotangents[1][~visible.any(-1)] = 0.0
    joined = np.concatenate([cotangents[0], cotangents[1][..., None]], axis=-1)
    native_mask = to_native(name, visible)

    def function(sinks: Any = None, **given: Any) -> Any:
        tensors = [given[key] for key in ("query", "key", "value")]
        parts = cut(attn, tensors, [0, 2, 2, 4, 7], native_mask, given["bias"])
        merged = attn.merge_attention(*parts, sinks=sinks)
        return _join(name, merged)

    compiled = _compiled(name, function)
    _, actual = gradients(name, compiled, arrays, joined)
    expected = reference.dot_product_attention_vjp(
        query, key, value, cotangents[0], logsumexp_cotangent=cotangents[1], mask=visible, bias=arrays["bias"], **sinks
    )
    for part, gradient in actual.items():
        assert_close(gradient, getattr(expected, part), FLOAT64_TOLERANCE)
    assert (actual["query"][0, 1, 2] == 0.0).all()


def _join(name: str, merged: Any) -> Any:
    import importlib

    framework = importlib.import_module({"jax": "jax.numpy"}.get(name, name))
    concatenate = {"torch": "cat", "tensorflow": "concat", "jax": "concatenate"}[name]
    return getattr(framework, concatenate)([merged.output, merged.logsumexp[..., None]], -1)


def _compiled(name: str, function: Any) -> Any:
    if name != "jax":
        return function
    import jax

    return jax.jit(function)


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
def test_no_gradient_where_everything_is_empty(name: str, with_sinks: bool) -> None:
    attn = frameworks.load(name)
    outputs = np.full((2, 1, 3, 2, 4), np.nan)
    arrays = {"outputs": outputs, "logsumexps": np.full((2, 1, 3, 2), -np.inf)}
    if with_sinks:
        arrays["sinks"] = np.array([1.0, -np.inf, 700.0])

    def function(outputs: Any, logsumexps: Any, sinks: Any = None) -> Any:
        return attn.merge_attention([outputs[0], outputs[1]], [logsumexps[0], logsumexps[1]], sinks=sinks).output

    merged, actual = gradients(name, function, arrays, np.ones((1, 3, 2, 4)))
    assert (merged == 0.0).all()
    for gradient in actual.values():
        np.testing.assert_array_equal(gradient, 0.0)

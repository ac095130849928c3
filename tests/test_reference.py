"""The NumPy reference against two oracles that share no line with it, on every option and their combinations.

The largest difference may be 1e-14 of the largest |output| of a case, and likewise for each stage.
"""

# ruff: noqa: ARG001, ARG005 - a mask's meaning takes all of (b, h, i, j), whichever of them it needs

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import oracle_mpmath
import oracle_scalar
import pytest
from attention_cases import (
    BY_RANK,
    DIMS,
    GROUPED,
    MASKS,
    MULTI_QUERY,
    SQUARE,
    TALL,
    Array,
    Dims,
    MaskCase,
    by_oracle,
    draw,
    draw_bias,
    draw_booleans,
    draw_values,
    look_up,
    pair_shapes,
)
from comparisons import assert_close, assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attnspec.reference.attention as reference_attention
from attnspec import reference
from attnspec.contract import causal, key_lengths, query_lengths, sliding_window

Oracle = Callable[..., dict[str, Array]]
STAGES = ["scores", "logits", "weights", "logsumexp", "output"]
ALL_OPTIONS = {"scale": -0.7, "softcap": 5.0}


class Case(NamedTuple):
    """One call, and its mask's meaning."""

    dims: Dims
    mask: MaskCase = MASKS["none"]
    bias_shape: tuple[int, ...] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to


def _mask_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, mask in MASKS.items():
        shapes = {"square": SQUARE} if mask.square else {"wide": DIMS, "tall": TALL}
        for label, dims in shapes.items():
            cases[f"mask-{name}-{label}"] = Case(dims, mask)
        cases[f"mask-{name}-all_options"] = Case(SQUARE, mask, SQUARE.pairs, ALL_OPTIONS)
    return cases


def _shape_name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _array_case(shape: tuple[int, ...], value: bool | None = None) -> MaskCase:
    def make(dims: Dims) -> Any:
        return draw_booleans(shape) if value is None else np.full(shape, value)

    return MaskCase(make, lambda d, b, h, i, j: look_up(make(d), d)(b, h, i, j))


def _cases() -> dict[str, Case]:
    cases = _mask_cases()
    for shape in pair_shapes(DIMS):
        cases[f"array-{_shape_name(shape)}"] = Case(DIMS, _array_case(shape))
        cases[f"bias-{_shape_name(shape)}"] = Case(DIMS, bias_shape=shape)
    for value in (True, False):
        cases[f"array-1x1-{value}"] = Case(DIMS, _array_case((1, 1), value))
    for scale in (0.0, -0.7, 2.5, 3, np.float32(0.3)):
        cases[f"scale-{scale}"] = Case(DIMS, options={"scale": scale})
    for softcap in (0.5, 5, 50.0, 1e9):
        cases[f"softcap-{softcap}"] = Case(DIMS, options={"softcap": softcap})
    for label, dims in {"grouped": GROUPED, "multi_query": MULTI_QUERY}.items():
        for mask in ("none", "causal_end", "array", "and"):
            cases[f"{label}-{mask}"] = Case(dims, MASKS[mask])
        cases[f"{label}-bias"] = Case(dims, MASKS["causal_0"], dims.pairs, ALL_OPTIONS)
    for rank, dims in BY_RANK.items():
        for mask in ("none", "causal_batch", "window_batch", "keys_batch", "queries_batch", "and_queries", "array"):
            cases[f"rank{rank}-{mask}"] = Case(dims, MASKS[mask])
        for shape in pair_shapes(dims) if rank in (2, 3) else [dims.pairs, dims.pairs[-2:]]:
            cases[f"rank{rank}-bias-{_shape_name(shape)}"] = Case(dims, MASKS["keys_batch"], shape, ALL_OPTIONS)
            cases[f"rank{rank}-array-{_shape_name(shape)}"] = Case(dims, _array_case(shape))
    sizes = {
        "one_of_each": Dims((1,), 1, 1, 1, 1, 1, 1),
        "one_query": DIMS._replace(queries=1),
        "one_key": DIMS._replace(keys=1),
        "one_head_dim": DIMS._replace(head_dim=1),
        "one_value_dim": DIMS._replace(value_dim=1),
        "no_keys": DIMS._replace(keys=0),
        "no_queries": DIMS._replace(queries=0),
        "no_batch": DIMS._replace(batch=(0,)),
        "no_heads": DIMS._replace(heads=0, kv_heads=0),
        "no_value_dim": DIMS._replace(value_dim=0),
        "no_keys_nor_queries": DIMS._replace(queries=0, keys=0),
        "rank2-no_keys": BY_RANK[2]._replace(keys=0),
        "rank5-no_batch": BY_RANK[5]._replace(batch=(2, 0)),
    }
    for label, dims in sizes.items():
        cases[f"size-{label}"] = Case(dims)
        cases[f"size-{label}-bias"] = Case(dims, MASKS["causal_end"], dims.pairs, ALL_OPTIONS)
    return cases


CASES = _cases()


def _draw(case: Case) -> tuple[tuple[Array, Array, Array], Array | None]:
    masked = 0.0 if case.bias_shape is None or math.prod(case.bias_shape) < 2 else 0.2
    bias = None if case.bias_shape is None else draw_bias(case.bias_shape, masked=masked)
    return draw(case.dims), bias


@pytest.mark.parametrize("oracle", [oracle_scalar, oracle_mpmath], ids=["scalar", "mpmath"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_stage(case: Case, oracle: Any) -> None:
    arrays, bias = _draw(case)
    visible = case.mask.visible(case.dims)
    expected = by_oracle(oracle.attention_stages, case.dims, *arrays, visible=visible, bias=bias, **case.options)
    mask = case.mask.make(case.dims)
    stages = reference.attention_stages(*arrays, mask=mask, bias=bias, **case.options)
    for name in STAGES:
        actual = getattr(stages, name)
        assert actual.dtype == np.float64
        assert_close(actual, expected[name])
    output = reference.dot_product_attention(*arrays, mask=mask, bias=bias, **case.options)
    assert output.dtype == np.float64
    assert_close(output, expected["output"])


def test_the_cases_differ_from_each_other() -> None:
    """No two masks of the table hide the same: otherwise one of them would test nothing."""
    seen: dict[bytes, str] = {}
    same = {"full": "none", "causal_far": "none", "nothing": "keys_0", "causal_list": "causal_batch"}
    for name, mask in MASKS.items():
        visible = b"".join(
            bytes(mask.sees(dims, *at) for at in np.ndindex(*dims.rank4, dims.queries, dims.keys))
            for dims in ([SQUARE] if mask.square else [DIMS, TALL])
        )
        other = seen.setdefault(visible, name)
        assert other == same.get(name, name)


def test_a_bias_of_minus_infinity_in_whole_rows() -> None:
    arrays = draw(DIMS)
    bias = draw_bias(DIMS.pairs)
    bias[1, 2, 3] = -np.inf
    stages = reference.attention_stages(*arrays, bias=bias)
    assert_close(stages.output, by_oracle(oracle_scalar.attention_stages, DIMS, *arrays, bias=bias)["output"])
    assert_same_bits(stages.output[1, 2, 3], np.zeros(DIMS.value_dim))
    assert stages.logsumexp[1, 2, 3] == -np.inf


# --- dtypes


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["float32", "bfloat16", "float16"])
def test_narrow_inputs_are_widened_exactly(dtype: Any) -> None:
    narrow = [array.astype(dtype) for array in draw(DIMS)]
    bias = draw_bias(DIMS.pairs, masked=0.2).astype(dtype)
    wide = [array.astype(np.float64) for array in narrow]
    options = {"mask": causal("end"), **ALL_OPTIONS}
    actual = reference.attention_stages(*narrow, bias=bias, **options)
    expected = reference.attention_stages(*wide, bias=bias.astype(np.float64), **options)
    for name in STAGES:
        assert_same_bits(getattr(actual, name), getattr(expected, name))
    assert_same_bits(reference.dot_product_attention(*narrow, bias=bias, **options), expected.output)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_a_float32_bias_beside_half_precision_is_not_rounded(dtype: Any) -> None:
    narrow = [array.astype(dtype) for array in draw(DIMS)]
    bias = draw_bias(DIMS.pairs).astype(np.float32)
    wide = [array.astype(np.float64) for array in narrow]
    actual = reference.dot_product_attention(*narrow, bias=bias)
    assert_same_bits(actual, reference.dot_product_attention(*wide, bias=bias.astype(np.float64)))
    assert not np.array_equal(
        actual, reference.dot_product_attention(*wide, bias=bias.astype(dtype).astype(np.float64))
    )


# --- operations with projections, against loops and the scalar oracle


def _product(inputs: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W + b, each element one sum that is rounded once."""
    result = np.empty((*inputs.shape[:-1], weight.shape[1]))
    for *row, column in np.ndindex(*result.shape):
        terms = [float(x) * float(w) for x, w in zip(inputs[tuple(row)], weight[:, column], strict=True)]
        result[(*row, column)] = math.fsum([*terms, 0.0 if bias is None else float(bias[column])])
    return result


def _heads(array: Array, heads: int) -> Array:
    """(*B, T, H·D) → (*B, H, T, D), column by column: head h owns the columns h·D … (h+1)·D − 1."""
    *batch, length, columns = array.shape
    size = columns // heads
    result = np.empty((*batch, heads, length, size))
    for h in range(heads):
        for d in range(size):
            result[..., h, :, d] = array[..., :, h * size + d]
    return result


PROJECTION_MASKS = ["none", "causal_0", "keys_batch", "queries_batch", "and", "array"]


def _weight(rows: int, columns: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((rows, columns)) * (3.0 / rows) ** 0.5  # keeps logits peaked: a variance of 3 each


@pytest.mark.parametrize("mask", PROJECTION_MASKS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=["unbatched", "batch", "two_batch_axes"])
@pytest.mark.parametrize("options", [{}, ALL_OPTIONS], ids=["plain", "all_options"])
def test_self_attention(batch: tuple[int, ...], mask: str, options: dict[str, Any]) -> None:
    dims = Dims(batch, 1, 1, 7, 7, 5, 3)
    rng = np.random.default_rng(11)
    inputs = rng.standard_normal((*batch, 7, 13))
    weights = [_weight(13, 5, rng), _weight(13, 5, rng), _weight(13, 3, rng)]
    bias = draw_bias(dims.pairs, masked=0.2) if options else None
    projected = [_product(inputs, weight)[..., None, :, :] for weight in weights]
    visible = MASKS[mask].visible(dims)
    expected = by_oracle(oracle_scalar.attention_stages, dims, *projected, visible=visible, bias=bias, **options)[
        "output"
    ]
    actual = reference.self_attention(inputs, *weights, mask=MASKS[mask].make(dims), bias=bias, **options)
    assert actual.dtype == np.float64
    assert_close(actual, expected[..., 0, :, :])


@pytest.mark.parametrize("mask", ["none", "keys_batch", "queries_batch", "array", "array_keys"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=["unbatched", "batch", "two_batch_axes"])
@pytest.mark.parametrize("options", [{}, ALL_OPTIONS], ids=["plain", "all_options"])
def test_key_value_attention(batch: tuple[int, ...], mask: str, options: dict[str, Any]) -> None:
    dims = Dims(batch, 1, 1, 1, 7, 5, 3)
    query, keys, values = draw(dims)
    bias = draw_bias(dims.pairs, masked=0.2) if options else None
    arguments = MASKS[mask].make(dims)
    if mask == "queries_batch":  # one query: its length is 0 or 1
        arguments = query_lengths(np.resize([1, 0, 1], batch))
        visible = lambda b, h, i, j: b % 3 != 1  # noqa: E731
    else:
        visible = MASKS[mask].visible(dims)
    expected = by_oracle(
        oracle_scalar.attention_stages, dims, query, keys, values, visible=visible, bias=bias, **options
    )["output"]
    actual = reference.key_value_attention(
        query[..., 0, 0, :], keys[..., 0, :, :], values[..., 0, :, :], mask=arguments, bias=bias, **options
    )
    assert actual.dtype == np.float64
    assert_close(actual, expected[..., 0, 0, :])


@pytest.mark.parametrize("mask", PROJECTION_MASKS)
@pytest.mark.parametrize("biases", ["no_biases", "all_biases", "value_bias", "output_bias", "query_and_key_bias"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, None), (4, 2), (3, 1)], ids=["heads3", "heads4_kv2", "heads3_kv1"])
def test_multi_head_attention(heads: int, kv_heads: int | None, biases: str, mask: str) -> None:
    kv = heads if kv_heads is None else kv_heads
    dims = Dims((2,), heads, kv, 5, 7, 11, 3)
    rng = np.random.default_rng(13)
    sizes = {"query": (17, heads * 11), "key": (19, kv * 11), "value": (13, kv * 3), "output": (heads * 3, 23)}
    weights = {f"{part}_weight": _weight(*size, rng) for part, size in sizes.items()}
    drawn = {f"{part}_bias": draw_values((size[1],), rng) for part, size in sizes.items()}
    wanted = {"no_biases": (), "all_biases": tuple(drawn), "query_and_key_bias": ("query_bias", "key_bias")}
    given_biases = {name: drawn[name] for name in wanted.get(biases, (biases,))}
    parameters = reference.MultiHeadParameters(**weights, **given_biases)
    shapes = {"query": (2, 5, 17), "key": (2, 7, 19), "value": (2, 7, 13)}
    inputs = {part: rng.standard_normal(shape) for part, shape in shapes.items()}

    projected = [
        _heads(_product(inputs[part], weights[f"{part}_weight"], given_biases.get(f"{part}_bias")), count)
        for part, count in (("query", heads), ("key", kv), ("value", kv))
    ]
    options = {"softcap": 5.0, "scale": 0.4} if biases == "all_biases" else {}
    bias = draw_bias(dims.pairs, masked=0.2) if options else None
    visible = MASKS[mask].visible(dims)
    attended = by_oracle(oracle_scalar.attention_stages, dims, *projected, visible=visible, bias=bias, **options)[
        "output"
    ]
    merged = np.empty((2, 5, heads * 3))
    for h in range(heads):
        for c in range(3):
            merged[:, :, h * 3 + c] = attended[:, h, :, c]
    expected = _product(merged, weights["output_weight"], given_biases.get("output_bias"))

    actual = reference.multi_head_attention(
        inputs["query"],
        inputs["key"],
        inputs["value"],
        parameters,
        num_heads=heads,
        num_kv_heads=kv_heads,
        mask=MASKS[mask].make(dims),
        bias=bias,
        **options,
    )
    assert actual.dtype == np.float64
    assert_close(actual, expected)


# --- blocks of queries


@pytest.mark.parametrize("elements", [1, 100, 200], ids=["row_by_row", "two_rows", "four_rows"])
@pytest.mark.parametrize(
    "mask", ["none", "causal_batch", "window_end", "and_queries", "array", "array_keys", "mask_and_array"]
)
@pytest.mark.parametrize("bias_shape", [None, DIMS.pairs, (1, DIMS.keys), (DIMS.queries, 1)], ids=str)
def test_blocks_do_not_change_the_output(
    monkeypatch: pytest.MonkeyPatch, elements: int, mask: str, bias_shape: tuple[int, ...] | None
) -> None:
    arrays, bias = _draw(Case(DIMS, bias_shape=bias_shape))
    options = {"mask": MASKS[mask].make(DIMS), "bias": bias, **ALL_OPTIONS}
    whole = reference.dot_product_attention(*arrays, **options)
    rows: list[slice] = []
    compute = reference_attention.compute_stages
    monkeypatch.setattr(reference_attention, "compute_stages", lambda a, r: (rows.append(r), compute(a, r))[1])
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    actual = reference.dot_product_attention(*arrays, **options)
    step = {1: 1, 100: 2, 200: 4}[elements]  # 2 batch elements, 3 heads, 7 keys: 42 pairs for each query
    assert [(block.start, block.stop) for block in rows] == [(i, min(i + step, 5)) for i in range(0, 5, step)]
    assert_close(actual, whole, 1e-15)


def test_memory_is_linear_in_length() -> None:
    """8 heads of 64 over 4096 positions: the weights alone would take 1 GiB."""
    program = """
import resource, sys
import numpy as np
from attnspec import reference
rng = np.random.default_rng(0)
query, key, value = (rng.standard_normal((1, 8, 4096, 64)) for _ in range(3))
reference.dot_product_attention(query[:, :, :2], key[:, :, :2], value[:, :, :2])
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
output = reference.dot_product_attention(query, key, value, mask=reference.causal())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
assert np.isfinite(output).all()
print(before, after)
"""
    # One BLAS thread: several wait for each other where other processes keep the cores busy, and say nothing of memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    inputs = 3 * 8 * 4096 * 64 * 8
    assert before > inputs  # the measure works: the inputs are in it
    assert after - before < 400e6


# --- random calls


@st.composite
def _calls(draw_one: st.DrawFn) -> tuple[Dims, dict[str, Any], Any, Any, int]:
    """Sizes, options, a mask with its meaning, a bias shape, and the seed of the arrays."""
    size = st.integers(1, 4)
    rank = draw_one(st.sampled_from([2, 3, 4, 5]))
    batch = tuple(draw_one(size) for _ in range({2: 0, 3: 1, 4: 1, 5: 2}[rank]))
    kv_heads = draw_one(st.integers(1, 2)) if rank >= 4 else 1
    heads = kv_heads * draw_one(st.integers(1, 3)) if rank >= 4 else 1
    lengths = st.integers(0, 5)
    dims = Dims(batch, heads, kv_heads, draw_one(lengths), draw_one(lengths), draw_one(size), draw_one(size), rank >= 4)
    mask, visible = draw_one(st.just((None, None)) | _masks(dims, depth=2))
    shape = draw_one(st.sampled_from([None, *pair_shapes(dims)]))
    options = {
        "scale": draw_one(st.none() | st.floats(-4, 4)),
        "softcap": draw_one(st.none() | st.floats(0.5, 50)),
    }
    return dims, options, (mask, visible), shape, draw_one(st.integers(0, 2**16))


def _masks(dims: Dims, depth: int) -> st.SearchStrategy[tuple[Any, Any]]:
    count = math.prod(dims.batch)

    def per_batch(low: int, high: int) -> st.SearchStrategy[tuple[Any, list[int]]]:
        """Numbers as the caller writes them, and one for each flat batch index."""
        numbers = st.integers(low, high)
        return numbers.map(lambda n: (n, [n] * count)) | st.lists(numbers, min_size=count, max_size=count).map(
            lambda n: (np.array(n, dtype=np.int64).reshape(dims.batch), n)
        )

    def end(offset: Any) -> tuple[Any, list[int]]:
        return ("end", [dims.keys - dims.queries] * count) if offset is None else offset

    offset = (st.none() | per_batch(-6, 6)).map(end)
    width = st.integers(0, 4)
    leaves = [
        offset.map(lambda o: (causal(o[0]), lambda b, h, i, j: j <= i + o[1][b])),
        st.tuples(width, width, offset).map(
            lambda w: (sliding_window(*w[:2], w[2][0]), lambda b, h, i, j: -w[0] <= j - i - w[2][1][b] <= w[1])
        ),
        per_batch(0, dims.keys).map(lambda n: (key_lengths(n[0]), lambda b, h, i, j: j < n[1][b])),
        per_batch(0, dims.queries).map(lambda n: (query_lengths(n[0]), lambda b, h, i, j: i < n[1][b])),
        st.tuples(st.sampled_from(pair_shapes(dims)), st.integers(0, 99)).map(
            lambda s: (draw_booleans(*s), look_up(draw_booleans(*s), dims))
        ),
    ]
    if depth == 0:
        return st.one_of(*leaves)
    inner = _masks(dims, depth - 1)
    objects = inner.filter(lambda m: not isinstance(m[0], np.ndarray))
    combined = [
        objects.map(lambda m: (~m[0], lambda b, h, i, j: not m[1](b, h, i, j))),
        st.tuples(objects, inner).map(
            lambda m: (m[0][0] & m[1][0], lambda b, h, i, j: m[0][1](b, h, i, j) and m[1][1](b, h, i, j))
        ),
        st.tuples(inner, objects).map(
            lambda m: (m[0][0] | m[1][0], lambda b, h, i, j: m[0][1](b, h, i, j) or m[1][1](b, h, i, j))
        ),
    ]
    return st.one_of(*leaves, *combined)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(call=_calls())
def test_random_calls(call: Any) -> None:
    dims, options, (mask, visible), bias_shape, seed = call
    arrays = draw(dims, seed)
    bias = None if bias_shape is None else draw_bias(bias_shape, seed, masked=0.3)
    expected = by_oracle(oracle_scalar.attention_stages, dims, *arrays, visible=visible, bias=bias, **options)
    stages = reference.attention_stages(*arrays, mask=mask, bias=bias, **options)
    for name in STAGES:
        assert_close(getattr(stages, name), expected[name])

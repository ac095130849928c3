"""Segments, prefixes, chunks and predicates: against the oracles, in every module, and combined with each other."""

# ruff: noqa: ARG005 - a mask's meaning takes all of (b, h, i, j), whichever of them it needs

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_positions
import oracle_scalar
import pytest
from attention_cases import (
    BY_RANK,
    DIMS,
    GROUPED,
    SQUARE,
    TALL,
    Dims,
    by_oracle,
    draw,
    draw_booleans,
    look_up,
    pair_shapes,
)
from comparisons import assert_close, assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_tensors import to_native, to_numpy
from numpy.typing import NDArray
from option_cases import FLOAT64_TOLERANCE, OptionCase, check_backend, check_reference

import attnspec.reference.attention as reference_attention
from attnspec import reference
from attnspec.contract import causal, chunked, full, key_lengths, predicate, prefix, segments, sliding_window

Integers = NDArray[np.integer[Any]]
Pair = tuple[Any, Callable[[int, int, int, int], bool]]
"""A mask as a caller writes it, and its meaning."""


def flat(dims: Dims, values: Any) -> Any:
    """Flatten the batch axes of integers (*B,) or (*B, T), as the oracles want them."""
    array = np.asarray(values)
    if array.ndim == 0:
        return values
    rest = array.shape[len(dims.batch) :]
    return array.reshape(math.prod(dims.batch), *rest) if dims.batch else array.reshape(1, *rest)


def ids(dims: Dims, length: int, seed: int, batched: bool) -> Integers:
    """Draw ids, ascending or not, some of them negative."""
    shape = (*dims.batch, length) if batched else (length,)
    return np.random.default_rng([seed, 5]).integers(-2, 2, shape)


def segments_pair(dims: Dims, seed: int = 0, query_batched: bool = True, key_batched: bool = True) -> Pair:
    query_ids, key_ids = ids(dims, dims.queries, seed, query_batched), ids(dims, dims.keys, seed + 1, key_batched)
    meant = [
        flat(dims, array) if batched else array
        for array, batched in ((query_ids, query_batched), (key_ids, key_batched))
    ]
    return segments(query_ids, key_ids), oracle_positions.segments(*meant)


def prefix_pair(dims: Dims, lengths: Any, offset: Any) -> Pair:
    place = oracle_positions.place(offset, dims.queries, dims.keys)
    return prefix(lengths, offset), oracle_positions.prefix(flat(dims, lengths), flat(dims, place))


def chunked_pair(dims: Dims, size: int, offset: Any) -> Pair:
    place = oracle_positions.place(offset, dims.queries, dims.keys)
    return chunked(size, offset), oracle_positions.chunked(size, flat(dims, place))


def predicate_pair(step: int) -> Pair:
    mask = predicate(f"every {step}th", lambda query, key: (2 * query + key) % step == 0)
    return mask, lambda b, h, i, j: (2 * i + j) % step == 0


def per_batch(dims: Dims, low: int, high: int, seed: int = 0) -> Integers:
    return np.random.default_rng([seed, 6]).integers(low, high + 1, dims.batch)


def _case(dims: Dims, pair: Pair) -> OptionCase:
    return OptionCase(dims, lambda give: {"mask": pair[0]}, {"visible": pair[1]})


def _cases() -> dict[str, OptionCase]:
    cases: dict[str, OptionCase] = {}
    for rank, dims in BY_RANK.items():
        for query_batched, key_batched in ((True, True), (False, False), (True, False), (False, True)):
            label = f"{'BT' if query_batched else 'T'}_{'BT' if key_batched else 'T'}"
            cases[f"segments-rank{rank}-{label}"] = _case(dims, segments_pair(dims, 7, query_batched, key_batched))
        cases[f"prefix-rank{rank}-batch"] = _case(
            dims, prefix_pair(dims, per_batch(dims, 0, 5), per_batch(dims, -4, 4))
        )
        cases[f"chunked-rank{rank}-batch"] = _case(dims, chunked_pair(dims, 3, per_batch(dims, -6, 6, 1)))
        cases[f"predicate-rank{rank}"] = _case(dims, predicate_pair(3))
    for label, dims in {"wide": DIMS, "tall": TALL, "grouped": GROUPED}.items():
        cases[f"prefix-{label}-end"] = _case(dims, prefix_pair(dims, 3, "end"))
        cases[f"prefix-{label}-end_per_batch"] = _case(dims, prefix_pair(dims, per_batch(dims, 0, 5), "end"))
        for offset in (-9, -1, 0, 1, 4, "end"):
            cases[f"chunked-{label}-{offset}"] = _case(dims, chunked_pair(dims, 3, offset))
    for size in (1, 2, 7, 100, 10**12):
        cases[f"chunked-size{size}"] = _case(SQUARE, chunked_pair(SQUARE, size, None))
        cases[f"chunked-size{size}-behind"] = _case(SQUARE, chunked_pair(SQUARE, size, -5))
    for offset in (-(10**12), -(2**31), 2**31, 10**12):
        cases[f"chunked-far{offset}"] = _case(DIMS, chunked_pair(DIMS, 3, offset))
        cases[f"prefix-far{offset}"] = _case(DIMS, prefix_pair(DIMS, 2, offset))
    for length in (0, 7):
        cases[f"prefix-of-{length}"] = _case(SQUARE, prefix_pair(SQUARE, length, None))
    return cases


CASES = _cases()
NARROW = ["segments-rank4-BT_T", "prefix-rank4-batch", "chunked-rank4-batch", "predicate-rank4"]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reference(case: OptionCase) -> None:
    check_reference(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_backends(name: str, case: OptionCase) -> None:
    check_backend(name, frameworks.load(name), case, "float64")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", NARROW)
def test_narrow_dtypes(name: str, case: str, dtype: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], dtype)


# --- what the masks are made of


@pytest.mark.parametrize("kind", ["list", "int8", "int32", "uint16", "native"])
def test_ids_of_any_integer_kind(attn: ModuleType, kind: str) -> None:
    query_ids, key_ids = np.array([0, 0, 1, 2, 2]), np.array([2, 0, 1, 1, 0, 3, 2])
    name = frameworks.name_of(attn)
    give = {
        "list": lambda array: array.tolist(),
        "native": lambda array: to_native(name, array.astype(np.int32)),
    }.get(kind, lambda array: array.astype(kind))
    arrays = draw(DIMS)
    expected = reference.dot_product_attention(*arrays, mask=query_ids[:, None] == key_ids)
    actual = attn.dot_product_attention(
        *(to_native(name, array) for array in arrays), mask=attn.segments(give(query_ids), give(key_ids))
    )
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)


@pytest.mark.parametrize("limit", [2**31 - 1, -(2**31)])
def test_ids_at_the_limits_of_32_bits(attn: ModuleType, limit: int) -> None:
    arrays = draw(BY_RANK[2])
    query_ids = np.array([limit, limit - 1 if limit > 0 else limit + 1, 0, -1, 1])
    key_ids = np.array([0, limit, 1, -1, limit, 1, 0])
    expected = reference.dot_product_attention(*arrays, mask=query_ids[:, None] == key_ids)
    actual = attn.dot_product_attention(*arrays, mask=attn.segments(query_ids, key_ids))
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)


def test_packed_sequences_are_attended_to_one_by_one(attn: ModuleType) -> None:
    lengths = [3, 1, 5, 2]
    dims = DIMS._replace(queries=sum(lengths), keys=sum(lengths))
    arrays = draw(dims)
    packed = np.repeat(np.arange(len(lengths)), lengths)
    together = to_numpy(attn.dot_product_attention(*arrays, mask=attn.segments(packed, packed) & attn.causal()))
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        part = slice(end - length, end)
        alone = reference.dot_product_attention(*(array[:, :, part] for array in arrays), mask=reference.causal())
        assert_close(together[:, :, part], alone, FLOAT64_TOLERANCE)


def test_the_same_mask_written_in_two_ways(attn: ModuleType) -> None:
    arrays, lengths = draw(DIMS), np.array([3, 0])
    shift = np.array([-2, 4])
    index = np.arange(5)[:, None], np.arange(7)
    same = [
        (attn.prefix(lengths, shift), attn.key_lengths(lengths) | attn.causal(shift)),
        (attn.prefix(2, "end"), attn.key_lengths(2) | attn.causal("end")),
        (attn.chunked(1, 2), attn.sliding_window(0, 0, 2)),
        (attn.chunked(100, 0), attn.full()),
        (attn.chunked(3, 0) & attn.causal(0), (index[0] // 3 == index[1] // 3) & (index[1] <= index[0])),
        (attn.segments(np.zeros(5, int), np.zeros(7, int)), attn.full()),
        (attn.segments(index[0][:, 0] // 2, index[1] // 2), attn.chunked(2, 0)),
        (attn.predicate("causal", lambda query, key: key <= query), attn.causal(0)),
        (attn.predicate("far", lambda query, key: abs(query - key) > 2), ~attn.sliding_window(2, 2, 0)),
    ]
    for one, other in same:
        outputs = [to_numpy(attn.dot_product_attention(*arrays, mask=mask)) for mask in (one, other)]
        assert_same_bits(*outputs)


def test_a_predicate_gets_the_frameworks_indices(attn: ModuleType) -> None:
    seen: list[Any] = []

    def function(query: Any, key: Any) -> Any:
        seen.append((query, key))
        return key >= query

    attn.dot_product_attention(*draw(DIMS), mask=attn.predicate("later", function))
    for query, key in seen:
        for index in (query, key):
            assert isinstance(index, type(to_native(frameworks.name_of(attn), np.arange(1))))
            assert to_numpy(index).dtype.kind == "i"
        assert to_numpy(query).tolist() == [[i] for i in range(5)]
        assert to_numpy(key).tolist() == [list(range(7))]
    assert seen


@pytest.mark.parametrize(
    "case", ["segments-rank5-BT_BT", "prefix-rank4-batch", "chunked-rank4-batch", "predicate-rank4"]
)
def test_the_reference_computes_block_by_block(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    dims, make, _ = CASES[case]
    whole = reference.dot_product_attention(*draw(dims), **make(np.asarray))
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", 1)
    assert_close(reference.dot_product_attention(*draw(dims), **make(np.asarray)), whole, 1e-15)


@pytest.mark.parametrize("name", ["jax", "tensorflow"])
def test_traced_ids_lengths_and_offsets(name: str) -> None:
    """Compiled once, with the integers of a mask as arguments."""
    attn, framework = frameworks.load(name), importlib.import_module(name)
    arrays = draw(DIMS)
    traces: list[int] = []

    def made(module: Any, query_ids: Any, key_ids: Any, lengths: Any, offsets: Any) -> Any:
        return module.segments(query_ids, key_ids) | module.prefix(lengths, offsets) & ~module.chunked(2, offsets)

    def function(*integers: Any) -> Any:
        traces.append(len(integers))
        return attn.dot_product_attention(*arrays, mask=made(attn, *integers))

    compiled = framework.jit(function) if name == "jax" else framework.function(function)
    for seed in (1, 2):
        integers = (
            *(ids(DIMS, length, seed + length, True) for length in (5, 7)),
            *(per_batch(DIMS, low, high, seed) for low, high in ((0, 7), (-4, 4))),
        )
        actual = compiled(*(to_native(name, array) for array in integers))
        expected = reference.dot_product_attention(*arrays, mask=made(reference, *integers))
        assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)
    assert len(traces) == 1


# --- all combinations

COMBINED = [DIMS, TALL, BY_RANK[5]._replace(heads=4, kv_heads=2)]


@st.composite
def _combined(draw_one: st.DrawFn) -> tuple[Dims, Pair, int]:
    dims = draw_one(st.sampled_from(COMBINED))
    return dims, draw_one(_masks(dims, depth=3)), draw_one(st.integers(0, 2**16))


def _masks(dims: Dims, depth: int) -> st.SearchStrategy[Pair]:
    seeds = st.integers(0, 99)
    offset = st.integers(-6, 6) | seeds.map(lambda s: per_batch(dims, -6, 6, s)) | st.just("end")
    lengths = st.integers(0, 5) | seeds.map(lambda s: per_batch(dims, 0, 5, s))
    flags = st.booleans()

    def at(values: Any, b: int) -> int:
        values = oracle_positions.place(values, dims.queries, dims.keys)
        return int(np.asarray(values).reshape(-1)[b]) if np.ndim(values) else int(values)

    leaves: list[st.SearchStrategy[Pair]] = [
        st.builds(lambda s, q, k: segments_pair(dims, s, q, k), seeds, flags, flags),
        st.builds(lambda n, o: prefix_pair(dims, n, o), lengths, offset),
        st.builds(lambda size, o: chunked_pair(dims, size, o), st.integers(1, 5), offset),
        st.builds(predicate_pair, st.integers(2, 5)),
        offset.map(lambda o: (causal(o), lambda b, h, i, j: j <= i + at(o, b))),
        offset.map(lambda o: (sliding_window(1, 2, o), lambda b, h, i, j: -1 <= j - i - at(o, b) <= 2)),
        lengths.map(lambda n: (key_lengths(n), lambda b, h, i, j: j < at(n, b))),
        st.just((full(), lambda b, h, i, j: True)),
        st.tuples(st.sampled_from(pair_shapes(dims)), seeds).map(
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
    return st.one_of(*combined, *combined, *leaves)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(call=_combined())
def test_combinations_in_the_reference(call: Any) -> None:
    dims, (mask, visible), seed = call
    arrays = draw(dims, seed)
    expected = by_oracle(oracle_scalar.attention_stages, dims, *arrays, visible=visible)
    assert_close(reference.dot_product_attention(*arrays, mask=mask), expected["output"])


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(call=_combined())
def test_combinations_in_the_backends(name: str, call: Any) -> None:
    dims, (mask, _), seed = call
    arrays = draw(dims, seed)
    expected = reference.dot_product_attention(*arrays, mask=mask)
    actual = frameworks.load(name).dot_product_attention(*(to_native(name, array) for array in arrays), mask=mask)
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)

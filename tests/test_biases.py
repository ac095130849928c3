"""Bias objects: ALiBi, T5's relative positions, and sums of these and arrays, against the oracles."""

# ruff: noqa: ARG005 - each sum takes both objects and the way to give an array, whichever of them it needs

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_mpmath
import oracle_positions
import oracle_scalar
import pytest
from attention_cases import BY_RANK, DIMS, GROUPED, TALL, Array, Dims, by_oracle, draw, draw_bias, look_up
from comparisons import assert_close, assert_same_bits
from native_tensors import to_numpy
from option_cases import FLOAT64_TOLERANCE, OptionCase, by_module, check_backend, check_reference

import attnspec.reference.attention as reference_attention
from attnspec import reference
from attnspec.contract import alibi, alibi_slopes, causal, key_lengths, relative_position_bias
from attnspec.contract.biases import relative_position_buckets

Offset = Any
BiasAt = Callable[[int, int, int, int], float]


def slopes_of(dims: Dims) -> Array:
    """Draw slopes, one of them 0, one negative."""
    return np.resize([0.75, -0.3, 0.0, 1.5], dims.heads)


def table_of(dims: Dims, buckets: int) -> Array:
    return 2.0 * np.random.default_rng([buckets, 8]).standard_normal((buckets, dims.heads))


def offsets_of(dims: Dims) -> Any:
    return np.random.default_rng(9).integers(-9, 10, dims.batch)


def _place(dims: Dims, offset: Offset) -> Any:
    place = oracle_positions.place(offset, dims.queries, dims.keys)
    return place if np.ndim(place) == 0 and not isinstance(place, np.ndarray) else np.reshape(place, -1)


def alibi_case(dims: Dims, symmetric: bool, offset: Offset, slopes: str = "none", **options: Any) -> OptionCase:
    """Slopes "none", or "list", "array" (a scalar of the kind where the queries have no head axis)."""
    numbers = None if slopes == "none" else slopes_of(dims)
    single = numbers if numbers is None or dims.has_heads else numbers[0]

    def make(give: Callable[[Array], Any]) -> dict[str, Any]:
        given = {
            "none": lambda: None,
            "list": lambda: np.asarray(single).tolist(),
            "array": lambda: give(np.asarray(single)),
        }
        return {"bias": alibi(given[slopes](), symmetric=symmetric, offset=offset), **options}

    heads = dims.heads if dims.has_heads else 1
    meant = oracle_positions.alibi(heads=heads, symmetric=symmetric, offset=_place(dims, offset), slopes=numbers)
    return OptionCase(dims, make, {"bias": meant, **options})


def table_case(
    dims: Dims, buckets: int, bidirectional: bool, max_distance: int, offset: Offset, kind: str = "array"
) -> OptionCase:
    table = table_of(dims, buckets)
    single = table if dims.has_heads else table[:, 0]
    sides = {"bidirectional": bidirectional, "max_distance": max_distance}

    def make(give: Callable[[Array], Any]) -> dict[str, Any]:
        given = give(single) if kind == "array" else single.tolist()
        return {"bias": relative_position_bias(given, **sides, offset=offset)}

    meant = oracle_positions.relative_position_bias(single, **sides, offset=_place(dims, offset))
    return OptionCase(dims, make, {"bias": meant})


def _added(*parts: BiasAt) -> BiasAt:
    return lambda b, h, i, j: math.fsum(part(b, h, i, j) for part in parts)


def _sum_cases() -> dict[str, OptionCase]:
    """Sums in either order, with the arrays in NumPy or in the module's own tensors."""
    cases: dict[str, OptionCase] = {}
    object_case = alibi_case(GROUPED, True, "end")
    other_case = table_case(GROUPED, 8, True, 6, offsets_of(GROUPED))
    whole, row = draw_bias(GROUPED.pairs, masked=0.2), draw_bias((1, GROUPED.keys), seed=1, masked=0.3)
    one, two = object_case.meaning["bias"], other_case.meaning["bias"]
    at_whole, at_row = look_up(whole, GROUPED), look_up(row, GROUPED)

    def case(add: Callable[..., Any], *meant: BiasAt) -> OptionCase:
        def make(give: Callable[[Array], Any]) -> dict[str, Any]:
            return {"bias": add(object_case.make(give)["bias"], other_case.make(give)["bias"], give)}

        return OptionCase(GROUPED, make, {"bias": _added(*meant)})

    cases["array+object"] = case(lambda a, t, give: give(whole) + a, one, at_whole)
    cases["object+array"] = case(lambda a, t, give: a + give(whole), one, at_whole)
    cases["object+object"] = case(lambda a, t, give: a + t, one, two)
    cases["row+object+whole"] = case(lambda a, t, give: give(row) + t + give(whole), two, at_row, at_whole)
    cases["object+(object+array)"] = case(lambda a, t, give: a + (t + give(row)), one, two, at_row)
    cases["numpy+object"] = case(lambda a, t, give: whole + a, one, at_whole)
    cases["object+numpy"] = case(lambda a, t, give: t + row, two, at_row)
    cases["list+object"] = case(lambda a, t, give: row.tolist() + a, one, at_row)
    cases["object+list"] = case(lambda a, t, give: a + row.tolist(), one, at_row)
    return cases


def _cases() -> dict[str, OptionCase]:
    cases: dict[str, OptionCase] = {}
    for heads in (1, 2, 3, 8, 12):
        dims = DIMS._replace(heads=heads, kv_heads=1)
        for symmetric in (True, False):
            label = "symmetric" if symmetric else "signed"
            cases[f"alibi-heads{heads}-{label}"] = alibi_case(dims, symmetric, 1)
    for slopes in ("none", "list", "array"):
        for rank, dims in BY_RANK.items():
            cases[f"alibi-rank{rank}-{slopes}"] = alibi_case(dims, rank % 2 == 0, offsets_of(dims), slopes)
    for offset in (-3, 0, 10**6, "end"):
        for label, dims in {"wide": DIMS, "tall": TALL}.items():
            cases[f"alibi-{label}-{offset}"] = alibi_case(dims, offset == 0, offset, "array")
    cases["alibi-square"] = alibi_case(DIMS._replace(queries=7), True, None)
    cases["alibi-everything"] = alibi_case(GROUPED, False, "end", "array", softcap=5.0, scale=-0.7)
    for bidirectional in (True, False):
        label = "both" if bidirectional else "before"
        for rank, dims in BY_RANK.items():
            cases[f"table-{label}-rank{rank}"] = table_case(dims, 12, bidirectional, 9, offsets_of(dims))
            cases[f"table-{label}-rank{rank}-list"] = table_case(dims, 8, bidirectional, 20, -2, "list")
        for buckets, limit in ((4, 3), (4, 128), (8, 5), (32, 128), (10, 6), (6, 1000)):
            cases[f"table-{label}-{buckets}_{limit}"] = table_case(DIMS, buckets, bidirectional, limit, "end")
        for offset in (-40, 3, 10**6, -(10**6)):
            cases[f"table-{label}-at{offset}"] = table_case(TALL, 16, bidirectional, 12, offset)
    cases["table-before-2_2"] = table_case(DIMS, 2, False, 2, 1)
    cases["table-before-odd"] = table_case(DIMS, 7, False, 11, 1)
    return cases


CASES = _cases()
SUMS = _sum_cases()
# A far offset makes logits as large as it is, and costs a relative 1e-16 of them in every module.
FAR = [key for key in CASES if key.startswith("alibi") and key.endswith("1000000")]
# Each new shape is compiled by JAX, for half a second: the reference takes every case, the backends these.
BACKENDS = [
    *(key for key in CASES if key.startswith("alibi-heads") and ("12" in key or "heads1-" in key)),
    *(key for key in CASES if key.endswith(("-array", "rank4-list", "rank4-none")) or "table-both-rank" in key),
    *("alibi-wide--3", "alibi-tall-end", "alibi-square", "alibi-everything", "table-before-odd", "table-before-rank4"),
    *("table-both-32_128", "table-both-4_3", "table-before-6_1000", "table-before-at-40", "table-both-at1000000"),
]
JAX = ["alibi-rank2-array", "alibi-rank5-array", "alibi-wide--3"]
JAX += ["table-both-rank3-list", "table-both-rank5", "table-before-odd"]
NARROW = ["alibi-heads12-signed", "alibi-everything", "table-both-rank4", "array+object", "row+object+whole"]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.mark.parametrize("case", [key for key in CASES if key not in FAR])
def test_reference(case: str) -> None:
    check_reference(CASES[case])


@pytest.mark.parametrize("case", FAR)
def test_far_offsets_in_the_reference(case: str) -> None:
    # Logits of 1e6 are known to 1e-10, and so are what they are the logarithms of.
    check_reference(CASES[case], oracle_mpmath, 1e-9)


@pytest.mark.parametrize("case", SUMS.values(), ids=SUMS.keys())
def test_sums_in_the_reference(case: OptionCase) -> None:
    check_reference(case)


@pytest.mark.parametrize(("name", "case"), by_module(BACKENDS, JAX), indirect=["name"])
def test_backends(name: str, case: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], "float64")


@pytest.mark.parametrize("case", SUMS)
def test_sums_in_the_backends(name: str, case: str) -> None:
    check_backend(name, frameworks.load(name), SUMS[case], "float64")


@pytest.mark.parametrize(
    ("dtype", "option_dtype"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32")],
)
@pytest.mark.parametrize(("name", "case"), by_module(NARROW, NARROW[-2:]), indirect=["name"])
def test_narrow_dtypes(name: str, case: str, dtype: str, option_dtype: str) -> None:
    check_backend(name, frameworks.load(name), {**CASES, **SUMS}[case], dtype, option_dtype)


# --- slopes and buckets themselves


@pytest.mark.parametrize("heads", range(1, 70))
def test_the_standard_slopes(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert all(type(slope) is float for slope in slopes)
    np.testing.assert_allclose(slopes, [oracle_positions.alibi_slope(h, heads) for h in range(heads)], rtol=2.0**-52)


def test_the_slopes_that_the_paper_gives() -> None:
    assert alibi_slopes(8) == (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256)
    assert alibi_slopes(1) == (2.0**-8,)
    assert alibi_slopes(0) == ()
    assert alibi_slopes(3) == (2.0**-4, 2.0**-8, 2.0**-2)


BUCKETS = [
    (count, limit)
    for count in (2, 3, 4, 5, 8, 12, 16, 32, 33, 64, 320)
    for limit in (2, 3, 17, 20, 64, 100, 128, 256, 800)
    if limit > count // 2
]


@pytest.mark.parametrize(("count", "limit"), BUCKETS)
def test_buckets(count: int, limit: int) -> None:
    distances = range(-limit, limit + 1)
    for buckets, bidirectional in ((count, False), (2 * count, True)):
        expected = [
            oracle_positions.relative_position_bucket(
                0, distance, num_buckets=buckets, bidirectional=bidirectional, max_distance=limit
            )
            for distance in distances
        ]
        assert list(relative_position_buckets(buckets, bidirectional, limit)) == expected


# --- blocks of queries


@pytest.mark.parametrize("elements", [1, 300], ids=["row_by_row", "two_rows"])
@pytest.mark.parametrize("case", ["alibi-rank5-array", "table-both-rank4", "array+object", "row+object+whole"])
def test_blocks_do_not_change_the_output(monkeypatch: pytest.MonkeyPatch, elements: int, case: str) -> None:
    dims, make, _ = {**CASES, **SUMS}[case]
    arrays, options = draw(dims), make(np.asarray)
    whole = reference.dot_product_attention(*arrays, **options)
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    assert_close(reference.dot_product_attention(*arrays, **options), whole, 1e-15)


# --- what a bias object says, and what it is beside a mask


def test_symmetric_and_signed_agree_under_a_causal_mask(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    one, other = (
        attn.dot_product_attention(*arrays, mask=attn.causal("end"), bias=attn.alibi(symmetric=s, offset="end"))
        for s in (True, False)
    )
    assert_same_bits(to_numpy(one), to_numpy(other))


def test_an_infinite_number_in_a_sum_masks(attn: ModuleType) -> None:
    """−inf in an array hides a pair whatever is added; a row of nothing else is empty."""
    query, key, value = draw(DIMS)
    array = draw_bias((5, 7))
    array[1, 2], array[3] = -np.inf, -np.inf
    value[:, :, 2] = np.nan
    rows = [1, 3]
    bias = array + attn.alibi(symmetric=True, offset=0)
    mask = np.ones((5, 7), bool)
    mask[1, 2], mask[3] = False, False
    expected = reference.dot_product_attention(
        query, key, value, mask=mask, bias=np.where(mask, array, 0.0) + reference.alibi(symmetric=True, offset=0)
    )
    output = to_numpy(attn.dot_product_attention(query, key, value, bias=bias))
    assert_close(output[:, :, rows], expected[:, :, rows], FLOAT64_TOLERANCE)
    assert (output[:, :, 3] == 0.0).all()
    assert np.isnan(output[:, :, [0, 2, 4]]).all()


def test_an_infinite_entry_of_a_table_masks(attn: ModuleType) -> None:
    table = np.array([0.5, -np.inf, 1.0, -2.0])
    arrays = draw(BY_RANK[2])
    bias = {"bidirectional": False, "max_distance": 3, "offset": 2}
    meant = oracle_positions.relative_position_bias(table, **bias)
    expected = by_oracle(oracle_scalar.attention_stages, BY_RANK[2], *arrays, bias=meant)["output"]
    output = attn.dot_product_attention(*arrays, bias=attn.relative_position_bias(table, **bias))
    assert_close(to_numpy(output), expected, FLOAT64_TOLERANCE)


def test_an_object_with_masks_and_lengths(attn: ModuleType) -> None:
    arrays = draw(GROUPED)
    place, lengths = np.array([2, -1]), np.array([6, 3])
    expected = by_oracle(
        oracle_scalar.attention_stages,
        GROUPED,
        *arrays,
        visible=lambda b, h, i, j: j <= i + place[b] and j < lengths[b],
        bias=oracle_positions.alibi(heads=6, symmetric=False, offset=place),
    )
    mask = causal(place) & key_lengths(lengths)
    output = attn.dot_product_attention(*arrays, mask=mask, bias=attn.alibi(symmetric=False, offset=place))
    assert_close(to_numpy(output), expected["output"], FLOAT64_TOLERANCE)


def test_multi_head_attention(attn: ModuleType) -> None:
    rng = np.random.default_rng(2)
    inputs, array = rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 1, 5, 5))
    parameters = [rng.standard_normal(shape) for shape in ((6, 4), (6, 4), (6, 4), (4, 3))]
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))
    biases = {
        attn: attn.alibi([0.3, 0.6], symmetric=True) + array,
        reference: array - np.array([0.3, 0.6])[:, None, None] * distance,
    }
    outputs = [
        module.multi_head_attention(*[inputs] * 3, module.MultiHeadParameters(*parameters), num_heads=2, bias=bias)
        for module, bias in biases.items()
    ]
    assert_close(to_numpy(outputs[0]), outputs[-1], FLOAT64_TOLERANCE)


def test_self_attention_and_key_value_attention(attn: ModuleType) -> None:
    """One head: slopes and tables are a number and a list."""
    rng = np.random.default_rng(3)
    inputs, weights = rng.standard_normal((2, 5, 6)), [rng.standard_normal((6, 4)) for _ in range(3)]
    distance = np.abs(np.arange(5)[:, None] - np.arange(5))
    single = attn.self_attention(inputs, *weights, bias=attn.alibi(0.3, symmetric=True))
    assert_close(to_numpy(single), reference.self_attention(inputs, *weights, bias=-0.3 * distance), FLOAT64_TOLERANCE)
    table = attn.relative_position_bias([1.0, -2.0, 0.5], bidirectional=False, max_distance=2, offset="end")
    memory = attn.key_value_attention(inputs[:, 0], inputs, inputs, bias=table)
    expected = reference.key_value_attention(inputs[:, 0], inputs, inputs, bias=np.array([[0.5, 0.5, 0.5, -2.0, 1.0]]))
    assert_close(to_numpy(memory), expected, FLOAT64_TOLERANCE)

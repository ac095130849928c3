"""Sinks: one more logit per query head, in the softmax and in logsumexp, and nowhere else."""

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_mpmath
import oracle_scalar
import pytest
from attention_cases import BY_RANK, DIMS, GROUPED, MASKS, MULTI_QUERY, TALL, Array, Dims, by_oracle, draw, draw_bias
from comparisons import assert_close, assert_same_bits
from native_tensors import NUMPY_DTYPES, to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, OptionCase, assert_native, by_module, check_backend, check_reference

import attnspec.reference.attention as reference_attention
from attnspec import reference

ONE_HEAD = DIMS._replace(heads=1, kv_heads=1)


def sinks_of(dims: Dims) -> Array:
    """One sink for each head, among the logits and beside them, one of them missing."""
    return np.resize([0.5, -4.0, 6.0, -np.inf, 2.5, 0.0], dims.heads)


def sink_case(dims: Dims, mask: str = "none", numbers: Any = None, bias: bool = False, **options: Any) -> OptionCase:
    sinks = sinks_of(dims) if numbers is None else np.broadcast_to(np.asarray(numbers, np.float64), dims.heads).copy()
    single = sinks if dims.has_heads else sinks[0]
    added = draw_bias(dims.pairs, masked=0.2) if bias else None

    def make(give: Any) -> dict[str, Any]:
        given = {} if added is None else {"bias": give(added)}
        return {"sinks": give(np.asarray(single)), "mask": MASKS[mask].make(dims), **given, **options}

    visible = MASKS[mask].visible(dims)
    return OptionCase(dims, make, {"sinks": sinks, "visible": visible, "bias": added, **options})


def _cases() -> dict[str, OptionCase]:
    cases: dict[str, OptionCase] = {}
    for rank, dims in BY_RANK.items():
        for mask in ("none", "and_queries", "array"):
            cases[f"rank{rank}-{mask}"] = sink_case(dims, mask)
    for label, dims in {"grouped": GROUPED, "multi_query": MULTI_QUERY, "tall": TALL}.items():
        cases[f"{label}-causal_end"] = sink_case(dims, "causal_end")
        cases[f"{label}-everything"] = sink_case(dims, "mask_and_array", bias=True, softcap=5.0, scale=-0.7)
    for number in (-1000.0, -40.0, 0.0, 40.0, 1000.0, -np.inf):
        cases[f"all{number}"] = sink_case(DIMS, "and_queries", number)
    cases["nothing"] = sink_case(DIMS, "nothing")
    cases["nothing-far"] = sink_case(DIMS, "nothing", [1000.0, -1000.0, -np.inf])
    cases["one_head"] = sink_case(ONE_HEAD, "keys_batch", [1.5])
    cases["no_keys"] = sink_case(DIMS._replace(keys=0))
    cases["no_queries"] = sink_case(DIMS._replace(queries=0))
    cases["no_value_dim"] = sink_case(DIMS._replace(value_dim=0))
    return cases


CASES = _cases()
JAX = ["rank2-array", "rank3-and_queries", "rank5-none", "grouped-everything", "all1000.0", "nothing-far", "no_keys"]
NARROW = ["rank2-array", "rank4-and_queries", "grouped-everything", "all1000.0", "all-1000.0", "nothing-far"]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.mark.parametrize("oracle", [oracle_scalar, oracle_mpmath], ids=["scalar", "mpmath"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_reference(case: OptionCase, oracle: Any) -> None:
    check_reference(case, oracle)


@pytest.mark.parametrize(("name", "case"), by_module(CASES, JAX), indirect=["name"])
def test_backends(name: str, case: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], "float64")


@pytest.mark.parametrize(
    ("dtype", "option_dtype"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float16", "float16")],
)
@pytest.mark.parametrize("case", NARROW)
def test_narrow_dtypes(name: str, case: str, dtype: str, option_dtype: str) -> None:
    check_backend(name, frameworks.load(name), CASES[case], dtype, option_dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_float32_sink_beside_half_precision_is_not_rounded(name: str, dtype: str) -> None:
    attn = frameworks.load(name)
    tensors = [to_native(name, array.astype(NUMPY_DTYPES[dtype])) for array in draw(DIMS)]
    sinks = np.array([1.0 + 2.0**-20, -7.0 + 2.0**-18, 11.0 + 2.0**-16], np.float32)
    stages = attn.attention_stages(*tensors, mask=~attn.full(), sinks=to_native(name, sinks))
    expected = np.broadcast_to(sinks[:, None], DIMS.pairs[:-1])
    assert_same_bits(to_numpy(stages.logsumexp), np.ascontiguousarray(expected))


# --- what a sink is


def test_a_sink_is_a_key_whose_value_is_zero(attn: ModuleType) -> None:
    """A key that is orthogonal to every query, with the sink as its bias, and a value of 0."""
    query, key, value = draw(GROUPED)
    sinks = np.array([0.5, -4.0, 6.0, 1.0, 2.5, 0.0])
    longer = [np.concatenate([array, np.zeros_like(array[:, :, :1])], axis=2) for array in (key, value)]
    bias = np.zeros((1, 6, 5, 8))
    bias[..., 7] = sinks[:, None]
    expected = reference.attention_stages(query, *longer, bias=bias)
    stages = attn.attention_stages(query, key, value, sinks=sinks)
    for stage in ("logsumexp", "output"):
        assert_close(to_numpy(getattr(stages, stage)), getattr(expected, stage), FLOAT64_TOLERANCE)
    assert_close(to_numpy(stages.weights), expected.weights[..., :7], FLOAT64_TOLERANCE)
    share = np.exp(sinks[:, None] - expected.logsumexp)
    assert_close(to_numpy(stages.weights).sum(-1), 1.0 - share, FLOAT64_TOLERANCE)


def test_a_sink_changes_neither_scores_nor_logits(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    with_sinks, without = (attn.attention_stages(*arrays, softcap=5.0, sinks=s) for s in ([0.5, -4.0, 6.0], None))
    for stage in ("scores", "logits"):
        assert_same_bits(to_numpy(getattr(with_sinks, stage)), to_numpy(getattr(without, stage)))


def test_minus_infinity_is_no_sink(attn: ModuleType) -> None:
    arrays, mask = draw(DIMS), MASKS["and_queries"].make(DIMS)
    sinks = np.full(3, -np.inf)
    with_sinks, without = (attn.attention_stages(*arrays, mask=mask, sinks=s) for s in (sinks, None))
    for one, other in zip(with_sinks, without, strict=True):
        assert_same_bits(to_numpy(one), to_numpy(other))


def test_empty_rows(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    query[:], value[:] = np.nan, np.inf
    sinks = np.array([3.0, -1000.0, -np.inf])
    stages = attn.attention_stages(query, key, value, mask=~attn.full(), sinks=sinks)
    assert (to_numpy(stages.output) == 0.0).all()
    assert (to_numpy(stages.weights) == 0.0).all()
    assert_same_bits(to_numpy(stages.logsumexp), np.ascontiguousarray(np.broadcast_to(sinks[:, None], (2, 3, 5))))


@pytest.mark.parametrize("size", [1000.0, 30000.0])
def test_a_sink_far_from_the_logits(name: str, size: float) -> None:
    """Neither overflow nor 0 / 0: far above, the keys vanish; far below, the sink does."""
    attn = frameworks.load(name)
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        tensors = [to_native(name, array.astype(NUMPY_DTYPES[dtype])) for array in draw(DIMS)]
        above, below, without = (
            attn.attention_stages(*tensors, sinks=to_native(name, np.full(3, sink, NUMPY_DTYPES[dtype])))
            for sink in (size, -size, -np.inf)
        )
        sink = np.array(size, NUMPY_DTYPES[dtype]).astype(np.float64)
        assert (to_numpy(above.output) == 0.0).all()
        assert (to_numpy(above.weights) == 0.0).all()
        assert (to_numpy(above.logsumexp).astype(np.float64) == sink).all()
        for one, other in zip(below, without, strict=True):
            assert_same_bits(to_numpy(one), to_numpy(other))


def test_large_logits_beside_large_sinks(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    query = 100.0 * query  # logits up to 2000
    sinks = np.array([900.0, -900.0, 0.0])
    expected = by_oracle(oracle_mpmath.attention_stages, DIMS, query, key, value, sinks=sinks)
    stages = attn.attention_stages(query, key, value, sinks=sinks)
    for stage in ("weights", "logsumexp", "output"):
        assert_close(to_numpy(getattr(stages, stage)), expected[stage], 1e-11)


def test_a_nan_stays_in_the_rows_that_read_it(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    key[0, 1, 2, 3], value[1, 0, 4, 5] = np.nan, np.inf
    sinks = np.array([0.5, -4.0, 1000.0])
    clean = by_oracle(oracle_scalar.attention_stages, DIMS, *draw(DIMS), sinks=sinks)["output"]
    output = to_numpy(attn.dot_product_attention(query, key, value, sinks=sinks)).copy()
    assert np.isnan(output[0, 1]).all()
    assert (output[1, 0, :, 5] == np.inf).all()
    output[0, 1], output[1, 0, :, 5] = clean[0, 1], clean[1, 0, :, 5]
    assert_close(output, clean, FLOAT64_TOLERANCE)


def test_a_value_of_infinity_is_read_beside_a_sink_that_takes_everything(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    value[1, 2, 3, 4] = -np.inf
    output = to_numpy(attn.dot_product_attention(query, key, value, sinks=np.full(3, 2000.0)))
    expected = np.zeros(output.shape)
    expected[1, 2, :, 4] = -np.inf
    np.testing.assert_array_equal(output, expected)


# --- how sinks are given


def test_lists_and_numbers(attn: ModuleType) -> None:
    name = frameworks.name_of(attn)
    tensors = [to_native(name, array.astype(np.float32)) for array in draw(DIMS)]
    expected = attn.dot_product_attention(*tensors, sinks=to_native(name, np.array([1.0, 2.0, -3.0], np.float32)))
    assert_same_bits(to_numpy(attn.dot_product_attention(*tensors, sinks=[1, 2.0, -3])), to_numpy(expected))
    flat = [to_native(name, array) for array in draw(BY_RANK[2])]
    expected = attn.dot_product_attention(*flat, sinks=to_native(name, np.array(0.75)))
    assert_native(name, expected, "float64") if name != "reference" else None
    assert_same_bits(to_numpy(attn.dot_product_attention(*flat, sinks=0.75)), to_numpy(expected))
    one = [to_native(name, array) for array in draw(ONE_HEAD)]
    outputs = [to_numpy(attn.dot_product_attention(*one, sinks=sinks)) for sinks in (0.75, [0.75], np.array([0.75]))]
    assert_same_bits(outputs[0], outputs[1])
    assert_same_bits(outputs[0], outputs[2])


@pytest.mark.parametrize("elements", [1, 100], ids=["row_by_row", "two_rows"])
def test_blocks_do_not_change_the_output(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    dims, make, _ = CASES["grouped-everything"]
    whole = reference.dot_product_attention(*draw(dims), **make(np.asarray))
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    assert_close(reference.dot_product_attention(*draw(dims), **make(np.asarray)), whole, 1e-15)


def test_operations_with_projections(attn: ModuleType) -> None:
    rng = np.random.default_rng(2)
    inputs, weights = rng.standard_normal((2, 5, 6)), [rng.standard_normal((6, 4)) for _ in range(3)]
    query, key, value = (np.einsum("bti,io->bto", inputs, weight) for weight in weights)
    expected = reference.dot_product_attention(query, key, value, sinks=0.8)
    actual = attn.self_attention(inputs, *weights, sinks=0.8)
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)
    expected = reference.dot_product_attention(query[:, :1], key, value, sinks=0.8)[:, 0]
    actual = attn.key_value_attention(query[:, 0], key, value, sinks=[0.8])
    assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)

    heads = [array.reshape(2, 5, 2, 2).swapaxes(1, 2) for array in (query, key, value)]
    merged = reference.dot_product_attention(*heads, sinks=[0.8, -1.0]).swapaxes(1, 2).reshape(2, 5, 4)
    parameters = attn.MultiHeadParameters(*weights, np.eye(4))
    actual = attn.multi_head_attention(inputs, inputs, inputs, parameters, num_heads=2, sinks=[0.8, -1.0])
    assert_close(to_numpy(actual), merged, FLOAT64_TOLERANCE)

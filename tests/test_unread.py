"""S10 and S11: what a row may not attend to does not change one bit of it, and a row without keys is 0, not NaN.

Poison (NaN, ±Inf, 1e30) is put where nobody, or not everybody, may read it; the bytes of what must not change are
compared with those of a run without poison. Then the other half: poison that is visible arrives, and nowhere else.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_scalar
import pytest
from attention_cases import (
    BY_RANK,
    DIMS,
    GROUPED,
    MASKS,
    SQUARE,
    Array,
    Dims,
    by_oracle,
    draw,
    draw_bias,
    draw_booleans,
    draw_values,
)
from comparisons import assert_close, assert_same_bits, assert_same_pattern
from native_tensors import NUMPY_DTYPES, gradients, to_native, to_numpy

from attnspec.contract import causal, key_lengths, query_lengths

POISONS = [np.nan, np.inf, -np.inf, 1e30]
STAGES = ["scores", "logits", "weights", "logsumexp", "output"]

# torch.compile imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


def module_name(attn: ModuleType) -> str:
    return attn.__name__.rpartition(".")[2]


def visible_pairs(mask: str, dims: Dims) -> Array:
    """Evaluate a mask's meaning at every pair, in the full shape with heads."""
    shape = (*dims.batch, dims.heads, dims.queries, dims.keys)
    return np.array([MASKS[mask].sees(dims, *at) for at in np.ndindex(shape)]).reshape(shape)


def unread(mask: str, dims: Dims, bias: Array | None = None) -> tuple[dict[str, Array], Array]:
    """Say which rows of query, key and value nobody reads, and which elements of the bias; and what is visible."""
    allowed = visible_pairs(mask, dims)
    visible = allowed if bias is None else allowed & (bias != -np.inf)
    unread_keys = ~visible.reshape(*dims.batch, dims.kv_heads, -1, dims.keys).any(axis=-2)
    # An element of the bias is read where the mask allows the pair: -inf there hides it.
    return {"query": ~visible.any(axis=-1), "key": unread_keys, "value": unread_keys, "bias": ~allowed}, visible


def poisoned(arrays: dict[str, Array], places: dict[str, Array], poison: float) -> dict[str, Array]:
    """Put the poison into whole rows (elements of the bias); finite poison with random signs."""
    result = {key: array.copy() for key, array in arrays.items()}
    rng = np.random.default_rng(17)
    for key, where in places.items():
        if key in result:
            shape = result[key][where].shape
            result[key][where] = np.full(shape, poison) * (rng.choice([-1, 1], shape) if np.isfinite(poison) else 1)
    return result


# --- poison that nobody reads

UNREAD_CASES = {
    "keys_batch": (DIMS, "keys_batch"),
    "queries_batch": (DIMS, "queries_batch"),
    "both_lengths": (DIMS, "and_queries"),
    "causal_behind": (SQUARE, "causal_behind"),
    "window_self": (DIMS, "window_self"),
    "array": (DIMS._replace(queries=2, keys=11), "array"),
    "grouped": (GROUPED, "and_queries"),
    "segments": (DIMS, "segments_batch"),
    "chunked": (GROUPED, "chunked_negative"),
    "nothing": (DIMS, "nothing"),
}


def _inputs(dims: Dims, dtype: str) -> dict[str, Array]:
    query, key, value = draw(dims)
    bias = draw_bias((*dims.batch, dims.heads, dims.queries, dims.keys), masked=0.1)
    options = {"bias": bias, "scale": np.array(0.4), "softcap": np.array(6.0)}
    arrays = {"query": query, "key": key, "value": value, **options}
    return {name: array.astype(NUMPY_DTYPES[dtype]) for name, array in arrays.items()}


def _without_options(arrays: dict[str, Array]) -> dict[str, Array]:
    return {key: arrays[key] for key in ("query", "key", "value")}


@pytest.mark.parametrize(("dims", "mask"), UNREAD_CASES.values(), ids=UNREAD_CASES.keys())
def test_the_cases_leave_something_unread(dims: Dims, mask: str) -> None:
    places, _ = unread(mask, dims, _inputs(dims, "float64")["bias"])
    if mask != "queries_batch":
        assert places["key"].any()
    assert places["bias"].any()
    assert mask == "nothing" or not places["bias"].all()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("options", [False, True], ids=["plain", "all_options"])
@pytest.mark.parametrize(("dims", "mask"), UNREAD_CASES.values(), ids=UNREAD_CASES.keys())
def test_unread_poison_changes_no_bit(attn: ModuleType, dims: Dims, mask: str, options: bool, poison: float) -> None:
    arrays = _inputs(dims, "float32")
    if not options:
        arrays = _without_options(arrays)
    places, visible = unread(mask, dims, arrays.get("bias"))
    given = {"mask": MASKS[mask].make(dims)}
    native = functools.partial(to_native, module_name(attn))
    clean = attn.attention_stages(**{key: native(array) for key, array in arrays.items()}, **given)
    bad = {key: native(array) for key, array in poisoned(arrays, places, poison).items()}
    with np.errstate(over="ignore", invalid="ignore"):  # 1e30 · 1e30 of two unread rows
        dirty = attn.attention_stages(**bad, **given)
        output = attn.dot_product_attention(**bad, **given)
    assert np.isfinite(to_numpy(clean.output)).all()
    for stage in STAGES[1:]:  # a score is the product of its query and key, read or not
        assert_same_bits(to_numpy(getattr(dirty, stage)), to_numpy(getattr(clean, stage)))
    assert_same_bits(to_numpy(dirty.scores)[visible], to_numpy(clean.scores)[visible])
    assert_same_bits(to_numpy(output), to_numpy(clean.output))


def _assert_same_gradients(
    dirty: dict[str, Array], clean: dict[str, Array], places: dict[str, Array], arrays: dict[str, Array]
) -> None:
    for key, gradient in dirty.items():
        assert np.isfinite(gradient).all(), key
        elsewhere = ~places[key] if key in places else np.ones(arrays[key].shape, bool)
        assert_same_bits(gradient[elsewhere], clean[key][elsewhere])
        np.testing.assert_array_equal(gradient[~elsewhere], 0.0)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    ("case", "options", "dtype"),
    [
        ("both_lengths", False, "float32"),
        ("both_lengths", True, "float32"),
        ("both_lengths", True, "bfloat16"),
        ("causal_behind", True, "float32"),
        ("grouped", True, "float64"),
        ("segments", True, "float32"),
    ],
)
def test_unread_poison_changes_no_gradient(name: str, case: str, options: bool, dtype: str, poison: float) -> None:
    attn, (dims, mask) = frameworks.load(name), UNREAD_CASES[case]
    arrays = _inputs(dims, dtype)
    if not options:
        arrays = _without_options(arrays)
    places, _ = unread(mask, dims, arrays.get("bias"))
    cotangent = draw_values((*dims.pairs[:-1], dims.value_dim), np.random.default_rng(3)).astype(NUMPY_DTYPES[dtype])

    function = functools.partial(attn.dot_product_attention, mask=MASKS[mask].make(dims))
    clean_output, clean = gradients(name, function, arrays, cotangent)
    dirty_output, dirty = gradients(name, function, poisoned(arrays, places, poison), cotangent)
    assert_same_bits(dirty_output, clean_output)
    _assert_same_gradients(dirty, clean, places, arrays)


# --- the same, compiled


def _compiled(name: str, function: Callable[..., Any], xla: bool = False) -> Callable[..., Any]:
    framework = importlib.import_module(name)
    if name == "torch":
        return framework.compile(function, fullgraph=True)
    if name == "tensorflow":
        return framework.function(function, jit_compile=xla)
    return framework.jit(function)


@pytest.mark.parametrize("compiler", ["jax", "tensorflow", "tensorflow-xla", "torch"])
@pytest.mark.parametrize("options", [False, True], ids=["plain", "all_options"])
def test_unread_poison_changes_no_bit_when_compiled(compiler: str, options: bool) -> None:
    name, _, xla = compiler.partition("-")
    attn = frameworks.load(name)
    dims, mask = UNREAD_CASES["both_lengths"]
    arrays = _inputs(dims, "float32")
    if not options:
        arrays = _without_options(arrays)
    places, _ = unread(mask, dims, arrays.get("bias"))
    made = MASKS[mask].make(dims)
    compiled = _compiled(name, lambda **given: attn.dot_product_attention(**given, mask=made), bool(xla))
    cotangent = draw_values((*dims.pairs[:-1], dims.value_dim), np.random.default_rng(3)).astype(np.float32)
    clean_output, clean = gradients(name, compiled, arrays, cotangent)
    assert np.isfinite(clean_output).all()
    for poison in POISONS:
        dirty_output, dirty = gradients(name, compiled, poisoned(arrays, places, poison), cotangent)
        assert_same_bits(dirty_output, clean_output)
        _assert_same_gradients(dirty, clean, places, arrays)


# --- poison that some rows read, and others not


def _rows_that_see(visible: Array, dims: Dims, b: int, g: int, j: int) -> Array:
    """Which rows (b, h, i) may attend to key j of key/value head g."""
    rows = np.zeros(visible.shape[:-1], bool)
    group = dims.heads // dims.kv_heads
    rows[b, g * group : (g + 1) * group] = visible[b, g * group : (g + 1) * group, :, j]
    return rows


PARTLY_READ = {
    "causal": (SQUARE, "causal"),
    "window_end": (DIMS, "window_end"),
    "array": (DIMS, "array"),
    "grouped": (GROUPED, "mask_and_array"),
    "packed": (GROUPED, "packed_causal"),
    "prefix": (DIMS, "prefix_end"),
}
PLACE = (1, 2, 3)  # batch element, key/value head, key


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize(("dims", "mask"), PARTLY_READ.values(), ids=PARTLY_READ.keys())
def test_poison_changes_only_the_rows_that_see_it(
    attn: ModuleType, dims: Dims, mask: str, where: str, poison: float
) -> None:
    query, key, value = (array.astype(np.float32) for array in draw(dims))
    arrays = {"query": query, "key": key, "value": value}
    visible = visible_pairs(mask, dims)
    seeing = _rows_that_see(visible, dims, *PLACE)
    assert 0 < seeing.sum() < seeing.size
    native = functools.partial(to_native, module_name(attn))
    options = {"mask": MASKS[mask].make(dims)}
    clean = attn.attention_stages(**{k: native(array) for k, array in arrays.items()}, **options)
    arrays[where][(*PLACE, 5)] = poison
    dirty = attn.attention_stages(**{k: native(array) for k, array in arrays.items()}, **options)
    for stage in STAGES[1:]:
        before, after = to_numpy(getattr(clean, stage)), to_numpy(getattr(dirty, stage))
        assert_same_bits(after[~seeing], before[~seeing])
        if where == "key" and not np.isfinite(poison):
            reached = visible[seeing] if stage in ("logits", "weights") else np.ones(after[seeing].shape, bool)
            reached = reached & (np.arange(dims.keys) == PLACE[2]) if stage == "logits" else reached
            assert_same_bits(np.isnan(after[seeing]), reached)
    if where == "value" and not np.isfinite(poison):
        expected = to_numpy(clean.output).copy()
        rows = expected[seeing]
        rows[:, 5] = poison
        expected[seeing] = rows
        assert_same_pattern(to_numpy(dirty.output), expected)
        finite = np.isfinite(expected)
        assert_same_bits(to_numpy(dirty.output)[finite], expected[finite])


@pytest.mark.parametrize("poison", POISONS)
def test_a_visible_poisoned_key_leaves_the_gradients_of_other_rows(name: str, poison: float) -> None:
    attn = frameworks.load(name)
    dims, mask = PARTLY_READ["grouped"]
    query, key, value = draw(dims)
    bias = draw_bias((*dims.batch, dims.heads, dims.queries, dims.keys))
    seeing = _rows_that_see(visible_pairs(mask, dims), dims, *PLACE)
    function = functools.partial(attn.dot_product_attention, mask=MASKS[mask].make(dims), softcap=5.0)
    cotangent = draw_values((*dims.pairs[:-1], dims.value_dim), np.random.default_rng(3))
    arrays = {"query": query, "key": key, "value": value, "bias": bias}
    _, clean = gradients(name, function, arrays, cotangent)
    arrays["key"][(*PLACE, 5)] = poison
    _, dirty = gradients(name, function, arrays, cotangent)
    for key in ("query", "bias"):  # the gradients of which each row has its own
        assert_same_bits(dirty[key][~seeing], clean[key][~seeing])


# --- visible poison against the oracle


def _visible_poison(dims: Dims) -> dict[str, tuple[str, dict[tuple[int, ...], float]]]:
    lead = (1,) * len(dims.batch) + ((0,) if dims.has_heads else ())
    return {
        "nan_value": ("value", {(*lead, 1, 2): np.nan}),
        "inf_value": ("value", {(*lead, 1, 2): np.inf}),
        "minus_inf_value": ("value", {(*lead, 1, 2): -np.inf}),
        "two_infs_in_one_component": ("value", {(*lead, 1, 2): np.inf, (*lead, 3, 2): np.inf}),
        "opposite_infs_in_one_component": ("value", {(*lead, 1, 2): np.inf, (*lead, 3, 2): -np.inf}),
        "opposite_infs_in_two_components": ("value", {(*lead, 1, 2): np.inf, (*lead, 1, 4): -np.inf}),
        "nan_key": ("key", {(*lead, 1, 2): np.nan}),
        "inf_key": ("key", {(*lead, 1, 2): np.inf}),
        "minus_inf_key": ("key", {(*lead, 1, 2): -np.inf}),
        "nan_query": ("query", {(*lead, 1, 2): np.nan}),
        "inf_query": ("query", {(*lead, 1, 2): np.inf}),
    }


@pytest.mark.parametrize("mask", ["none", "causal_0", "array", "and_queries"])
@pytest.mark.parametrize("kind", _visible_poison(DIMS))
@pytest.mark.parametrize("dims", [BY_RANK[2], GROUPED], ids=["rank2", "grouped"])
def test_visible_poison_arrives_as_in_the_oracle(attn: ModuleType, dims: Dims, kind: str, mask: str) -> None:
    where, poison = _visible_poison(dims)[kind]
    arrays = dict(zip(("query", "key", "value"), draw(dims), strict=True))
    for place, what in poison.items():
        arrays[where][place] = what
    visible = MASKS[mask].visible(dims)
    expected = by_oracle(oracle_scalar.attention_stages, dims, **arrays, visible=visible, softcap=9.0)
    stages = attn.attention_stages(**arrays, mask=MASKS[mask].make(dims), softcap=9.0)
    for stage in STAGES:
        actual = to_numpy(getattr(stages, stage))
        assert_same_pattern(actual, expected[stage])
        finite = np.isfinite(expected[stage])
        assert_close(actual[finite], expected[stage][finite], 1e-13)


def test_an_infinite_value_arrives_however_small_its_weight(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    bias = np.zeros((1, DIMS.keys))
    bias[0, 2] = -2000.0  # the weight is 0 in float64, the key is visible all the same
    value[..., 2, 5] = -np.inf
    stages = attn.attention_stages(query, key, value, bias=bias)
    assert (to_numpy(stages.weights)[..., 2] == 0).all()
    output = to_numpy(stages.output)
    assert (output[..., 5] == -np.inf).all()
    assert np.isfinite(np.delete(output, 5, axis=-1)).all()


def test_a_nan_in_a_visible_bias_reaches_its_row_only(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    bias = draw_bias(DIMS.pairs)
    clean = to_numpy(attn.dot_product_attention(*arrays, bias=bias, mask=causal("end")))
    bias[1, 2, 3, 4] = np.nan  # visible
    bias[0, 1, 2, 6] = np.nan  # not
    dirty = to_numpy(attn.dot_product_attention(*arrays, bias=bias, mask=causal("end")))
    expected = clean.copy()
    expected[1, 2, 3] = np.nan
    assert_same_pattern(dirty, expected)
    assert_same_bits(dirty[np.isfinite(expected)], clean[np.isfinite(expected)])


@pytest.mark.parametrize("compiler", ["jax", "tensorflow", "tensorflow-xla", "torch"])
def test_visible_poison_arrives_when_compiled(compiler: str) -> None:
    name, _, xla = compiler.partition("-")
    attn = frameworks.load(name)
    compiled = _compiled(name, lambda q, k, v: attn.dot_product_attention(q, k, v, mask=attn.causal(0)), bool(xla))
    for kind in ("nan_value", "opposite_infs_in_one_component", "minus_inf_value", "inf_key"):
        where, poison = _visible_poison(GROUPED)[kind]
        arrays = dict(zip(("query", "key", "value"), draw(GROUPED), strict=True))
        for place, what in poison.items():
            arrays[where][place] = what
        visible = MASKS["causal_0"].visible(GROUPED)
        expected = by_oracle(oracle_scalar.attention_stages, GROUPED, **arrays, visible=visible)["output"]
        output = to_numpy(compiled(*(to_native(name, array) for array in arrays.values())))
        assert_same_pattern(output, expected)
        assert_close(output[np.isfinite(expected)], expected[np.isfinite(expected)], 1e-13)


# --- empty rows


def _empty_cases() -> dict[str, tuple[Dims, Any, Array | None]]:
    bias = draw_bias(DIMS.pairs)
    bias[1, 2, 3] = bias[0, 0, 0] = -np.inf
    return {
        "nothing": (DIMS, MASKS["nothing"].make(DIMS), None),
        "key_length_0": (DIMS, key_lengths([0, 3]), None),
        "padded_queries": (DIMS, query_lengths([2, 0]), None),
        "causal_behind": (DIMS, causal(-2), None),
        "false_rows": (DIMS, np.arange(DIMS.queries)[:, None] % 2 == 0, None),
        "bias": (DIMS, None, bias),
        "bias_and_mask": (DIMS, draw_booleans((1, DIMS.keys)), np.where(draw_booleans((1, DIMS.keys)), -np.inf, 0.5)),
        "no_keys": (DIMS._replace(keys=0), None, None),
        "no_keys_causal": (DIMS._replace(keys=0), causal(0), draw_bias((2, 3, 5, 0))),
    }


EMPTY_CASES = _empty_cases()


def _empty_rows(dims: Dims, mask: Any, bias: Array | None) -> Array:
    """Find the rows without a key from the logits of the reference, whose masks the oracles have checked."""
    reference = frameworks.load("reference")
    logits = reference.attention_stages(*draw(dims), mask=mask, bias=bias).logits
    return (logits == -np.inf).all(axis=-1)


@pytest.mark.parametrize(("dims", "mask", "bias"), EMPTY_CASES.values(), ids=EMPTY_CASES.keys())
@pytest.mark.parametrize("softcap", [None, 5.0], ids=["plain", "softcap"])
def test_empty_rows_are_zero(attn: ModuleType, dims: Dims, mask: Any, bias: Array | None, softcap: Any) -> None:
    empty = _empty_rows(dims, mask, bias)
    assert empty.any()
    stages = attn.attention_stages(*draw(dims), mask=mask, bias=bias, softcap=softcap)
    for stage in STAGES:
        assert not np.isnan(to_numpy(getattr(stages, stage))).any()
    for stage in ("weights", "output"):
        rows = to_numpy(getattr(stages, stage))[empty]
        assert_same_bits(rows, np.zeros(rows.shape))
    assert_same_bits(to_numpy(stages.logsumexp) == -np.inf, empty)
    assert_same_bits((to_numpy(stages.output) == 0).all(axis=-1), empty)


@pytest.mark.parametrize(("dims", "mask", "bias"), EMPTY_CASES.values(), ids=EMPTY_CASES.keys())
def test_empty_rows_have_no_gradient(name: str, dims: Dims, mask: Any, bias: Array | None) -> None:
    attn = frameworks.load(name)
    empty = _empty_rows(dims, mask, bias)
    arrays = dict(zip(("query", "key", "value"), draw(dims), strict=True)) | ({} if bias is None else {"bias": bias})
    function = functools.partial(attn.dot_product_attention, mask=mask, softcap=5.0)
    cotangent = draw_values((*empty.shape, dims.value_dim), np.random.default_rng(3))
    _, given = gradients(name, function, arrays, cotangent)
    np.testing.assert_array_equal(given["query"][empty], 0.0)
    assert empty.all() or np.abs(given["query"][~empty]).max() > 0
    if bias is not None and bias.shape == empty.shape + (dims.keys,):
        np.testing.assert_array_equal(given["bias"][empty], 0.0)
    cotangent[empty] = 0.0
    _, without = gradients(name, function, arrays, cotangent)
    for key, gradient in given.items():
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient, without[key])
        if empty.all():
            np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("stage", ["weights", "logsumexp"])
def test_other_stages_of_empty_rows_have_no_gradient_either(name: str, stage: str) -> None:
    attn = frameworks.load(name)
    arrays = dict(zip(("query", "key", "value"), draw(DIMS), strict=True)) | {"bias": EMPTY_CASES["bias"][2]}
    mask = query_lengths([3, 5])
    empty = _empty_rows(DIMS, mask, arrays["bias"])
    shape = empty.shape + ((DIMS.keys,) if stage == "weights" else ())

    def function(query: Any, key: Any, value: Any, bias: Any) -> Any:
        return getattr(attn.attention_stages(query, key, value, bias=bias, mask=mask), stage)

    cotangent = draw_values(shape, np.random.default_rng(4))
    value = arrays.pop("value")  # neither stage depends on it
    _, given = gradients(name, functools.partial(function, value=to_native(name, value)), arrays, cotangent)
    for key, gradient in given.items():
        assert np.isfinite(gradient).all(), key
    np.testing.assert_array_equal(given["query"][empty], 0.0)
    np.testing.assert_array_equal(given["bias"][empty], 0.0)
    assert np.abs(given["query"][~empty]).max() > 0


# --- the operations with projections


@pytest.mark.parametrize("poison", POISONS)
def test_padding_of_a_self_attention_changes_no_bit(attn: ModuleType, poison: float) -> None:
    rng = np.random.default_rng(23)
    inputs = rng.standard_normal((2, 7, 13)).astype(np.float32)
    weights = [rng.standard_normal((13, size)).astype(np.float32) for size in (5, 5, 3)]
    lengths = np.array([4, 6])
    mask = key_lengths(lengths) & query_lengths(lengths)
    clean = to_numpy(attn.self_attention(inputs, *weights, mask=mask))
    for b, length in enumerate(lengths):
        inputs[b, length:] = poison
    with np.errstate(over="ignore", invalid="ignore"):  # of the padding itself
        dirty = to_numpy(attn.self_attention(inputs, *weights, mask=mask))
    assert_same_bits(dirty, clean)
    assert (clean[0, 4:] == 0).all()
    assert (clean[0, :4] != 0).all()


@pytest.mark.parametrize("poison", POISONS)
def test_padding_of_a_memory_changes_no_bit(attn: ModuleType, poison: float) -> None:
    query, keys, values = draw(Dims((2,), 1, 1, 1, 7, 5, 3))
    query, keys, values = query[:, 0, 0], keys[:, 0], values[:, 0]
    clean = to_numpy(attn.key_value_attention(query, keys, values, mask=key_lengths([4, 0])))
    keys[0, 4:] = values[0, 4:] = keys[1] = values[1] = poison
    dirty = to_numpy(attn.key_value_attention(query, keys, values, mask=key_lengths([4, 0])))
    assert_same_bits(dirty, clean)
    assert (clean[1] == 0).all()
    assert (clean[0] != 0).all()


@pytest.mark.parametrize("poison", POISONS)
def test_padding_of_a_multi_head_attention_changes_no_bit(attn: ModuleType, poison: float) -> None:
    rng = np.random.default_rng(29)
    query, memory = rng.standard_normal((2, 5, 13)), rng.standard_normal((2, 7, 13))
    sizes = [(13, 22), (13, 22), (13, 6), (6, 17)]
    weights = [rng.standard_normal(size) for size in sizes]
    biases = [draw_values(size[1:], rng) for size in sizes]
    parameters = attn.MultiHeadParameters(*weights, *biases)
    options = {"num_heads": 2, "mask": key_lengths([4, 6]) & query_lengths([5, 3])}
    clean = to_numpy(attn.multi_head_attention(query, memory, memory, parameters, **options))
    memory[0, 4:] = memory[1, 6:] = query[1, 3:] = poison
    with np.errstate(over="ignore", invalid="ignore"):  # of the padding itself
        dirty = to_numpy(attn.multi_head_attention(query, memory, memory, parameters, **options))
    assert_same_bits(dirty, clean)
    assert_close(clean[1, 3:], np.broadcast_to(biases[3], (2, 17)), 0.0)  # an empty row: 0 W + b

"""Decoding with a preallocated cache that is filled differently for each element: the same as computing it all at once.

Every step appends some tokens to each element's cache and attends to what is filled: key_lengths(fill + n) &
causal(fill). What is not filled yet holds NaN. Row by row the outputs are those of one causal attention over the
element's whole sequence.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_within
from native_tensors import NUMPY_DTYPES, to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, by_module

from attnspec import reference

BATCH, HEADS, KV_HEADS, LENGTH, SIZE, CACHE = 3, 4, 2, 12, 6, 16
PREFILLED = np.array([2, 0, 5])
SINKS = np.array([0.5, -2.0, 3.0, -np.inf])

OPTIONS: dict[str, set[str]] = {
    "plain": set(),
    "rotary": {"rotary"},
    "window": {"window"},
    "sinks": {"sinks"},
    "alibi": {"alibi"},
    "chunked": {"chunked"},
    "everything": {"rotary", "window", "sinks", "alibi"},
}


def drawn(dtype: str = "float64") -> list[Array]:
    """Draw query, key and value of every element's whole sequence."""
    rng = np.random.default_rng(51)
    shapes = [(BATCH, heads, LENGTH, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [(1.7 * rng.standard_normal(shape)).astype(NUMPY_DTYPES[dtype]) for shape in shapes]


def attend(
    module: Any, query: Any, key: Any, value: Any, offset: Any, wanted: set[str], *masks: Any, sinks: Any = None
) -> Any:
    """Attend causally with the wanted options, queries at `offset`."""
    mask = module.causal(offset)
    for other in masks:
        mask = mask & other
    if "window" in wanted:
        mask = mask & module.sliding_window(left=3, offset=offset)
    if "chunked" in wanted:
        mask = mask & module.chunked(4, offset)
    bias = module.alibi(symmetric=False, offset=offset) if "alibi" in wanted else None
    return module.dot_product_attention(query, key, value, mask=mask, bias=bias, sinks=sinks)


def whole(arrays: list[Array], wanted: set[str]) -> Array:
    """Compute every element's whole sequence at once, with the reference."""
    query, key, value = arrays
    if "rotary" in wanted:
        query, key = (reference.rotary_embedding(x, np.arange(LENGTH), pairing="half_split") for x in (query, key))
        value = value.astype(np.float64)
    return attend(reference, query, key, value, 0, wanted, sinks=SINKS if "sinks" in wanted else None)


# --- one step, in each module's own operations


def written(cache: Array, new: Array, fill: Array) -> Array:
    """Write new rows (B, H, n, D) into a cache (B, H, S, D), each element's from its own fill on."""
    cache = cache.copy()
    for b, start in enumerate(fill):
        cache[b, :, start : start + new.shape[2]] = new[b]
    return cache


def _gathered(name: str, cache: Any, new: Any, fill: Any) -> Any:
    """`written`, without a loop and without knowing the fill, in a framework's operations."""
    framework = importlib.import_module({"jax": "jax.numpy"}.get(name, name))
    count = new.shape[2]
    arange = framework.range(CACHE) if name == "tensorflow" else framework.arange(CACHE)
    index = (framework.cast(arange, fill.dtype) if name == "tensorflow" else arange) - fill[:, None]
    is_new = ((index >= 0) & (index < count))[:, None, :, None]
    if name == "tensorflow":
        near = framework.clip_by_value(index, 0, count - 1)
        rows = framework.transpose(
            framework.gather(framework.transpose(new, [0, 2, 1, 3]), near, batch_dims=1), [0, 2, 1, 3]
        )
    elif name == "torch":
        rows = framework.take_along_dim(new, index.clamp(0, count - 1)[:, None, :, None], dim=2)
    else:
        rows = framework.take_along_axis(new, framework.clip(index, 0, count - 1)[:, None, :, None], axis=2)
    return framework.where(is_new, rows, cache)


def step_of(name: str, wanted: set[str], count: int) -> Callable[..., Any]:
    """Make a step: (caches, fill, new rows, sinks) to (output, caches)."""
    module = frameworks.load(name)

    def step(cache_key: Any, cache_value: Any, fill: Any, query: Any, key: Any, value: Any, sinks: Any = None) -> Any:
        if "rotary" in wanted:
            counted = to_native(name, np.arange(count))
            places = fill[:, None] + counted
            query, key = (module.rotary_embedding(x, places, pairing="half_split") for x in (query, key))
        write = written if name == "reference" else lambda *given: _gathered(name, *given)
        cache_key, cache_value = write(cache_key, key, fill), write(cache_value, value, fill)
        filled = module.key_lengths(fill + count)
        return attend(module, query, cache_key, cache_value, fill, wanted, filled, sinks=sinks), cache_key, cache_value

    return step


def decode(name: str, step: Callable[..., Any], count: int, arrays: list[Array], wanted: set[str]) -> Array:
    """Run the loop from the prefilled caches: outputs (B, H, steps · count, D), each element's from its own fill on."""
    dtype = arrays[0].dtype
    query, key, value = arrays
    turned = key
    if "rotary" in wanted:
        places = np.arange(LENGTH)
        turned = to_numpy(
            frameworks.load(name).rotary_embedding(to_native(name, key), to_native(name, places), pairing="half_split")
        )
    caches = []
    for array in (turned, value):
        cache = np.full((BATCH, KV_HEADS, CACHE, SIZE), np.nan, dtype)
        for b, fill in enumerate(PREFILLED):
            cache[b, :, :fill] = array[b, :, :fill]
        caches.append(to_native(name, cache))
    sinks = {"sinks": to_native(name, SINKS.astype(dtype))} if "sinks" in wanted else {}
    outputs, fill = [], PREFILLED.copy()
    while fill.max() + count <= LENGTH:
        rows = [
            np.stack([array[b, :, start : start + count] for b, start in enumerate(fill)])
            for array in (query, key, value)
        ]
        output, *caches = step(*caches, to_native(name, fill), *(to_native(name, array) for array in rows), **sinks)
        outputs.append(to_numpy(output))
        fill = fill + count
    return np.concatenate(outputs, axis=2)


def _expected(arrays: list[Array], wanted: set[str], rows: int) -> Array:
    every = whole(arrays, wanted)
    return np.stack([every[b, :, start : start + rows] for b, start in enumerate(PREFILLED)])


STEPS = [f"{options}-{count}" for options in OPTIONS for count in (1, 3)]


@pytest.mark.parametrize(
    ("attn", "case"), by_module(STEPS, ["rotary-3", "chunked-1", "window-3"], frameworks.MODULES), indirect=["attn"]
)
def test_decoding_row_by_row(attn: ModuleType, case: str) -> None:
    """By one token, or by three, in each step."""
    options, _, tokens = case.partition("-")
    name, wanted, arrays, count = frameworks.name_of(attn), OPTIONS[options], drawn(), int(tokens)
    step = step_of(name, wanted, count)
    if name == "jax":
        step = importlib.import_module("jax").jit(step)
    outputs = decode(name, step, count, arrays, wanted)
    assert outputs.shape == (BATCH, HEADS, {1: 7, 3: 6}[count], SIZE)
    assert_close(outputs, _expected(arrays, wanted, outputs.shape[2]), FLOAT64_TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_decoding_in_narrow_dtypes(name: str, dtype: str) -> None:
    """Turned queries and keys are rounded, too: by u each, and a turn makes a product of magnitudes twice as large."""
    wanted, arrays = OPTIONS["everything"], drawn(dtype)
    arrays[0] = arrays[0] / NUMPY_DTYPES[dtype].type(4)  # logits so small that a bound in bfloat16 says something
    step = step_of(name, wanted, 1)
    step = importlib.import_module("jax").jit(step) if name == "jax" else step
    outputs = decode(name, step, 1, arrays, wanted)
    assert outputs.dtype == NUMPY_DTYPES[dtype]
    query, key, value = (np.abs(array.astype(np.float64)) for array in arrays)
    magnitude = 2.0 * SIZE**-0.5 * (query @ np.repeat(key, 2, axis=1).mT).max()
    unit, float32 = {"float32": 2.0**-24, "bfloat16": 2.0**-8}[dtype], 2.0**-24
    eta = (2.0 * unit + (SIZE + 12 + 3 * LENGTH) * float32) * magnitude
    bound = (np.expm1(2.0 * eta) + (CACHE + 4) * float32 + unit) * value.max()
    assert bound < {"float32": 5e-4, "bfloat16": 0.75}[dtype]
    assert_within(outputs, _expected(arrays, wanted, outputs.shape[2]), bound)


@pytest.mark.parametrize("name", ["jax", "tensorflow"])
@pytest.mark.parametrize("count", [1, 3], ids=["one_token", "three_tokens"])
def test_one_trace_for_the_whole_loop(name: str, count: int) -> None:
    """The fill is a tensor: another fill is no other function."""
    wanted, arrays, traces = OPTIONS["everything"], drawn(), []
    frameworks.load(name)
    plain = step_of(name, wanted, count)

    def step(*given: Any, **options: Any) -> Any:
        traces.append(len(given))
        return plain(*given, **options)

    framework = importlib.import_module(name)
    compiled = framework.jit(step) if name == "jax" else framework.function(step)
    outputs = decode(name, compiled, count, arrays, wanted)
    assert len(traces) == 1
    if name == "jax":
        assert compiled._cache_size() == 1
    else:
        assert compiled.experimental_get_tracing_count() == 1
    assert_close(outputs, _expected(arrays, wanted, outputs.shape[2]), FLOAT64_TOLERANCE)


def test_a_trace_for_any_number_of_tokens() -> None:
    """A tf.function with unknown lengths: one trace takes one token, and three."""
    tf, module = importlib.import_module("tensorflow"), frameworks.load("tensorflow")
    query, key, value = drawn()
    kinds = [tf.TensorSpec(shape, tf.float64) for shape in ([BATCH, HEADS, None, SIZE], [BATCH, KV_HEADS, None, SIZE])]

    @tf.function(input_signature=[kinds[0], kinds[1], kinds[1], tf.TensorSpec([BATCH], tf.int64)])
    def function(query: Any, key: Any, value: Any, fill: Any) -> Any:
        filled = module.key_lengths(fill + tf.shape(query, tf.int64)[2])
        return attend(module, query, key, value, fill, {"window", "alibi"}, filled)

    every = whole([query, key, value], {"window", "alibi"})
    for count in (1, 3):
        rows = np.stack([query[b, :, start : start + count] for b, start in enumerate(PREFILLED)])
        actual = function(rows, key, value, PREFILLED)
        expected = np.stack([every[b, :, start : start + count] for b, start in enumerate(PREFILLED)])
        assert_close(to_numpy(actual), expected, FLOAT64_TOLERANCE)
    assert function.experimental_get_tracing_count() == 1


def test_prefill_in_slices_that_are_merged(attn: ModuleType) -> None:
    """A long prompt against a filled cache and against itself, merged: the same as one attention over both."""
    query, key, value = drawn()
    fill, count = 8, 4
    rows = query[:, :, fill:]
    before = attn.attention_with_logsumexp(rows, key[:, :, :fill], value[:, :, :fill])
    own = attn.attention_with_logsumexp(rows, key[:, :, fill:], value[:, :, fill:], mask=attn.causal())
    merged = attn.merge_attention([before.output, own.output], [before.logsumexp, own.logsumexp], sinks=SINKS)
    expected = whole([query, key, value], {"sinks"})[:, :, fill : fill + count]
    assert_close(to_numpy(merged.output), expected, FLOAT64_TOLERANCE)

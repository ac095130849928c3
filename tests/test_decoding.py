"""Attention over a cache (S37): however a sequence is divided into calls, each row is that of one causal attention.

What the cache has not filled holds NaN, so that reading it would show. The expected values are the reference's
`multi_head_attention` of the whole sequence, which other tests hold to oracles.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_same_bits
from native_tensors import NUMPY_DTYPES, gradients, native_type, to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, by_module

from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract.layer_results import KeyValueCache
from attnspec.contract.rotary_option import Rotary

BATCH, LENGTH, CAPACITY, MODEL, HEADS, KV_HEADS, SIZE, VALUE_SIZE, OUT = 2, 7, 11, 5, 4, 2, 6, 3, 3
HEADS_OF = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
FEW = ["reference", "torch", "tensorflow"]
"""All but JAX, which compiles every new shape."""
WEIGHTS = {
    "query_weight": (MODEL, HEADS * SIZE),
    "key_weight": (MODEL, KV_HEADS * SIZE),
    "value_weight": (MODEL, KV_HEADS * VALUE_SIZE),
    "output_weight": (HEADS * VALUE_SIZE, OUT),
    "query_bias": (HEADS * SIZE,),
    "key_bias": (KV_HEADS * SIZE,),
    "value_bias": (KV_HEADS * VALUE_SIZE,),
    "output_bias": (OUT,),
}
RNG = np.random.default_rng(37)
INPUTS = RNG.standard_normal((BATCH, LENGTH, MODEL))
ARRAYS = {name: RNG.standard_normal(shape) / math.sqrt(shape[0]) for name, shape in WEIGHTS.items()}
SINKS = np.array([0.5, -2.0, 3.0, -np.inf])
KEEP = RNG.random((BATCH, HEADS, LENGTH, CAPACITY)) < 0.7

SPLITS = {"at_once": (7,), "one_by_one": (1,) * 7, "prompt_and_steps": (3, 1, 1, 2), "with_nothing": (2, 0, 5)}

OPTIONS: dict[str, set[str]] = {
    "plain": set(),
    "rotary": {"rotary"},
    "window": {"window"},
    "everything": {"rotary", "window", "alibi", "softcap", "sinks", "scale", "dropout"},
}


def decoding_of(module: ModuleType) -> Any:
    return importlib.import_module(f"{module.__name__}.decoding")


def options_of(wanted: set[str], start: Any, rows: slice, keys: int, sinks: Any = SINKS) -> dict[str, Any]:
    """What a call is given whose first position is `start`; dropout keeps what it keeps in the whole sequence."""
    options: dict[str, Any] = {}
    if "window" in wanted:
        options["mask"] = reference.sliding_window(left=3, offset=start)
    if "alibi" in wanted:
        options["bias"] = reference.alibi(symmetric=False, offset=start)
    if "rotary" in wanted:
        options["rotary"] = Rotary("half_split", base=50.0)
    if "dropout" in wanted:
        options["dropout"] = Dropout(0.3, KEEP[:, :, rows, :keys])
    numbers = {"softcap": 2.5, "sinks": sinks, "scale": -0.7}
    return options | {name: number for name, number in numbers.items() if name in wanted}


def whole(wanted: set[str], inputs: Array = INPUTS) -> Array:
    """One causal attention over the whole sequence."""
    options = options_of(wanted, 0, slice(0, LENGTH), LENGTH)
    mask = reference.causal() & options.pop("mask", reference.full())
    parameters = MultiHeadParameters(**ARRAYS)
    return reference.multi_head_attention(inputs, inputs, inputs, parameters, mask=mask, **HEADS_OF | options)


def poisoned(name: str, capacity: int = CAPACITY, dtype: str = "float64", length: Any = 0) -> KeyValueCache:
    """An empty cache that holds NaN."""
    shapes = ((BATCH, KV_HEADS, capacity, size) for size in (SIZE, VALUE_SIZE))
    return KeyValueCache(*(to_native(name, np.full(shape, np.nan, NUMPY_DTYPES[dtype])) for shape in shapes), length)


def parameters_of(name: str, dtype: str = "float64") -> MultiHeadParameters:
    return MultiHeadParameters(*(to_native(name, array.astype(NUMPY_DTYPES[dtype])) for array in ARRAYS.values()))


def step_of(name: str, **options: Any) -> Callable[..., Any]:
    """Make a step: (inputs, parameters, cache) to (output, cache)."""
    attend = decoding_of(frameworks.load(name)).cached_multi_head_attention
    return lambda inputs, parameters, cache: attend(inputs, parameters, cache, **HEADS_OF | options)


def decode(name: str, step: Callable[..., Any], split: tuple[int, ...], cache: KeyValueCache) -> tuple[Array, Any]:
    """Run the parts of the sequence through a step."""
    outputs, start, parameters = [], 0, parameters_of(name)
    for count in split:
        output, cache = step(to_native(name, INPUTS[:, start : start + count]), parameters, cache)
        outputs.append(to_numpy(output))
        start += count
    return np.concatenate(outputs, axis=1), cache


# --- the same as all at once


@pytest.mark.parametrize(
    ("name", "case"),
    by_module(
        [f"{options}-{split}" for options in OPTIONS for split in SPLITS],
        ["plain-with_nothing"],
        frameworks.MODULES,
    ),
)
def test_every_division_gives_the_same(name: str, case: str) -> None:
    options, split = case.split("-")
    cache, start, outputs = poisoned(name), 0, []
    for count in SPLITS[split]:
        given = options_of(OPTIONS[options], start, slice(start, start + count), CAPACITY)
        before = [to_numpy(part).copy() for part in cache[:2]]
        inputs = to_native(name, INPUTS[:, start : start + count])
        step = step_of(name, **given)
        step = (
            importlib.import_module("jax").jit(step) if name == "jax" else step
        )  # small operations compile one by one
        output, new = step(inputs, parameters_of(name), cache)
        for part, kept in zip(cache[:2], before, strict=True):
            assert_same_bits(to_numpy(part), kept)  # a cache is not written to
        outputs.append(to_numpy(output))
        start, cache = start + count, new
        assert cache.length == start
    assert_close(np.concatenate(outputs, axis=1), whole(OPTIONS[options]), FLOAT64_TOLERANCE)
    for part in cache[:2]:
        assert isinstance(part, native_type(name))
        assert (np.isnan(to_numpy(part)).all(axis=(0, 1, 3)) == (np.arange(CAPACITY) >= LENGTH)).all()


@pytest.mark.parametrize("name", FEW)
def test_a_cache_that_becomes_full(name: str) -> None:
    """The last position has room, and the cache holds projected keys and values in their places."""
    output, cache = decode(name, step_of(name), (6, 1), poisoned(name, LENGTH))
    assert_close(output, whole(set()), FLOAT64_TOLERANCE)
    for part, kind in ((cache.key, "key"), (cache.value, "value")):
        columns = (INPUTS[..., :, None] * ARRAYS[f"{kind}_weight"]).sum(axis=-2) + ARRAYS[f"{kind}_bias"]
        assert_close(to_numpy(part), np.stack(np.split(columns, KV_HEADS, axis=-1), axis=1), FLOAT64_TOLERANCE)


@pytest.mark.parametrize(("name", "axes"), by_module(["no_batch", "two_batch_axes"], [], frameworks.MODULES))
def test_other_ranks(name: str, axes: str) -> None:
    shape, decoding = {"no_batch": (), "two_batch_axes": (2, 3)}[axes], decoding_of(frameworks.load(name))
    inputs = np.random.default_rng(5).standard_normal((*shape, 3, MODEL))
    cache = decoding.empty_cache(shape, 5, KV_HEADS, SIZE, VALUE_SIZE, dtype="float64")
    given = decoding.cached_multi_head_attention(to_native(name, inputs), parameters_of(name), cache, **HEADS_OF)
    expected = reference.multi_head_attention(
        inputs, inputs, inputs, MultiHeadParameters(**ARRAYS), mask=reference.causal(), **HEADS_OF
    )
    assert_close(to_numpy(given.output), expected, FLOAT64_TOLERANCE)


# --- dtypes


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_an_empty_cache(attn: ModuleType, dtype: str) -> None:
    name, make = frameworks.name_of(attn), decoding_of(attn).empty_cache
    by_name = make((2, 3), 5, 7, 11, 13, dtype=dtype)
    native = by_name.key.dtype
    for cache in (by_name, make([2, 3], 5, 7, 11, 13, dtype=native)):
        assert (to_numpy(cache.key).shape, to_numpy(cache.value).shape) == ((2, 3, 7, 5, 11), (2, 3, 7, 5, 13))
        for part in cache[:2]:
            assert isinstance(part, native_type(name))
            assert to_numpy(part).dtype == NUMPY_DTYPES["float64" if name == "reference" else dtype]
            assert not to_numpy(part).any()
        assert cache.length == 0
    assert make((), 5, 7, 11).value.shape == (7, 5, 11)
    assert to_numpy(make((), 5, 7, 11).key).dtype == NUMPY_DTYPES["float64" if name == "reference" else "float32"]


@pytest.mark.parametrize("name", FEW[1:])
def test_half_precision(name: str) -> None:
    """A wide cache: as in float32, rounded at the end. A narrow one: it is read as it is rounded, by every division."""
    step, parameters = step_of(name), parameters_of(name, "bfloat16")
    inputs = to_native(name, INPUTS.astype(NUMPY_DTYPES["bfloat16"]))
    wide = MultiHeadParameters(*(to_native(name, to_numpy(w).astype(np.float32)) for w in parameters))
    exact = step(to_native(name, to_numpy(inputs).astype(np.float32)), wide, poisoned(name, dtype="float32"))
    half = step(inputs, parameters, poisoned(name, dtype="float32"))
    assert_same_bits(to_numpy(half.output), to_numpy(exact.output).astype(NUMPY_DTYPES["bfloat16"]))
    assert to_numpy(half.cache.key).dtype == np.float32

    narrow = step(inputs, parameters, poisoned(name, dtype="bfloat16"))
    stored = (to_numpy(given.cache.key)[:, :, :LENGTH] for given in (narrow, exact))
    assert_same_bits(next(stored), next(stored).astype(NUMPY_DTYPES["bfloat16"]))
    # The last row alone, over what the others have left: nothing but the order of sums may differ.
    before = narrow.cache._replace(length=LENGTH - 1)
    last = to_numpy(step(inputs[:, -1:], parameters, before).output).astype(np.float64)
    assert_close(last, to_numpy(narrow.output)[:, -1:].astype(np.float64), 2.0**-8)


def test_the_reference_takes_every_dtype() -> None:
    """It computes in float64, and its cache is float64 beside inputs of any dtype."""
    parameters = MultiHeadParameters(**{name: array.astype(np.float32) for name, array in ARRAYS.items()})
    inputs, cache = INPUTS.astype(np.float32), decoding_of(reference).empty_cache((BATCH,), 7, KV_HEADS, SIZE, 3)
    given = step_of("reference")(inputs, parameters, cache)
    inputs = inputs.astype(np.float64)
    expected = reference.multi_head_attention(
        inputs,
        inputs,
        inputs,
        MultiHeadParameters(*(weight.astype(np.float64) for weight in parameters)),
        mask=reference.causal(),
        **HEADS_OF,
    )
    assert_close(given.output, expected)


# --- compiled


def compiled(name: str, step: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], int]]:
    """Compile a step whole; the second function counts the traces."""
    traces = []

    def counted(*given: Any) -> Any:
        traces.append(given)
        return step(*given)

    if name == "torch":
        torch = importlib.import_module("torch")
        torch._dynamo.reset()
        counter = importlib.import_module("torch._dynamo.testing").CompileCounter()
        return torch.compile(step, backend=counter, fullgraph=True), lambda: int(counter.frame_count)
    framework = importlib.import_module(name)
    wrapped = framework.jit(counted) if name == "jax" else framework.function(counted, reduce_retracing=True)
    return wrapped, lambda: len(traces)


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_one_trace_for_every_length(name: str) -> None:
    """Where the length is a tensor, another length is no other function."""

    attend = decoding_of(frameworks.load(name)).cached_multi_head_attention
    sinks, wanted = to_native(name, SINKS), OPTIONS["everything"] - {"dropout"}

    def step(inputs: Any, parameters: Any, cache: Any) -> Any:
        options = options_of(wanted, cache.length, slice(0, 1), CAPACITY, sinks)
        return attend(inputs, parameters, cache, **HEADS_OF, **options)

    function, count = compiled(name, step)
    cache = poisoned(name, length=to_native(name, np.array(0)))
    output, cache = decode(name, function, (1,) * LENGTH, cache)
    assert count() == 1
    assert to_numpy(cache.length) == LENGTH
    assert_close(output, whole(wanted), FLOAT64_TOLERANCE)


@pytest.mark.parametrize("way", [*frameworks.FRAMEWORKS, "tensorflow-xla"])
def test_beyond_the_capacity(way: str) -> None:
    """A length that nobody can read: what does not fit is NaN, and what is filled stays as it is."""
    name, _, xla = way.partition("-")
    step = step_of(name)
    function = importlib.import_module(name).function(step, jit_compile=True) if xla else compiled(name, step)[0]
    kinds = {"torch": np.int32, "tensorflow": np.int32, "jax": np.int64}
    cache = poisoned(name, 3, length=to_native(name, np.array(0, kinds[name])))
    output, cache = decode(name, function, (2, 2, 2), cache)
    assert_close(output[:, :3], whole(set())[:, :3], FLOAT64_TOLERANCE)
    assert np.isnan(output[:, 3:]).all()
    assert to_numpy(cache.length) == 3
    exact = decode("reference", step_of("reference"), (3,), poisoned("reference", 3))[1]
    for part, expected in zip(cache[:2], exact[:2], strict=True):
        assert_close(to_numpy(part), expected, FLOAT64_TOLERANCE)


def test_a_graph_for_any_size() -> None:
    """A tf.function with unknown sizes: one trace takes every number of new positions and every capacity."""
    tf, step = importlib.import_module("tensorflow"), step_of("tensorflow", rotary=Rotary("interleaved"))
    parameters = parameters_of("tensorflow")

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, MODEL], tf.float64),
            tf.TensorSpec([None, KV_HEADS, None, SIZE], tf.float64),
            tf.TensorSpec([None, KV_HEADS, None, VALUE_SIZE], tf.float64),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def function(inputs: Any, key: Any, value: Any, length: Any) -> Any:
        return step(inputs, parameters, KeyValueCache(key, value, length))

    expected = step_of("reference", rotary=Rotary("interleaved"))(
        INPUTS, MultiHeadParameters(**ARRAYS), poisoned("reference")
    )
    for capacity in (8, CAPACITY):
        outputs, cache, start = [], poisoned("tensorflow", capacity), 0
        for count in SPLITS["with_nothing"]:
            output, cache = function(INPUTS[:, start : start + count], *cache)
            outputs.append(output)
            start += count
        assert_close(np.concatenate(outputs, axis=1), expected.output, FLOAT64_TOLERANCE)
    assert function.experimental_get_tracing_count() == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="`cache` must have room for the new positions"):
        function(INPUTS, *poisoned("tensorflow", 5))


def test_lengths_of_a_mapped_axis() -> None:
    """JAX's vmap maps over caches that are filled differently."""
    jax, step = importlib.import_module("jax"), step_of("jax")
    full = step_of("reference")(INPUTS, MultiHeadParameters(**ARRAYS), poisoned("reference"))
    caches = jax.tree.map(lambda array: np.stack([array] * 3), full.cache._replace(length=np.array(0)))
    caches = caches._replace(length=np.array([2, 6, 4]))
    rows = np.stack([INPUTS[:, start : start + 1] for start in caches.length])
    output, after = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))(rows, parameters_of("jax"), caches)
    for start, row in zip(caches.length, np.asarray(output), strict=True):
        assert_close(row, full.output[:, start : start + 1], FLOAT64_TOLERANCE)
    assert after.length.tolist() == [3, 7, 5]


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_gradients_reach_inputs_and_parameters(name: str) -> None:
    """Those of the whole, in the reference's closed form, through two calls (JAX: one); NaN behind reaches nothing."""
    step = step_of(name, rotary=Rotary("half_split", base=50.0))
    cotangent = np.random.default_rng(4).standard_normal((BATCH, LENGTH, OUT))
    rows = (slice(0, 4), slice(4, LENGTH)) if name != "jax" else (slice(0, LENGTH),)

    def function(inputs: Any, **weights: Any) -> Any:
        outputs, cache = [], poisoned(name)
        for part in rows:
            output, cache = step(inputs[:, part], MultiHeadParameters(**weights), cache)
            outputs.append(output)
        return tuple(outputs)

    if name == "jax":
        function = importlib.import_module("jax").jit(function)
    _, actual = gradients(name, function, {"inputs": INPUTS, **ARRAYS}, tuple(cotangent[:, part] for part in rows))
    exact = reference.multi_head_attention_vjp(
        INPUTS,
        INPUTS,
        INPUTS,
        MultiHeadParameters(**ARRAYS),
        cotangent,
        mask=reference.causal(),
        rotary=Rotary("half_split", base=50.0),
        **HEADS_OF,
    )
    assert_close(actual["inputs"], exact.query + exact.key + exact.value, FLOAT64_TOLERANCE)
    for part, gradient in exact.parameters._asdict().items():
        assert_close(actual[part], gradient, FLOAT64_TOLERANCE)

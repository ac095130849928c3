"""Decoder steps over caches, and greedy decoding (S37): the same as the whole decoder, and as the Transformer re-run.

The expected values are the reference's `decoder` and `transformer` of whole sequences, which other tests hold to
oracles.
"""

from __future__ import annotations

import functools
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
from native_tensors import NUMPY_DTYPES, native_type, to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, by_module

from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import DecoderCache, DecoderLayerDropout
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.states import map_leaves
from attnspec.reference import blocks, models

BATCH, LENGTH, CAPACITY, READ, MODEL, HIDDEN, HEADS, KV_HEADS, SIZE = 2, 5, 7, 3, 6, 5, 4, 2, 2
HEADS_OF = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
VOCABULARY, MAX_LENGTH, START = 11, 7, 1
RNG = np.random.default_rng(84)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape) / math.sqrt(shape[0])


def attention() -> MultiHeadParameters:
    query, key = (MODEL, HEADS * SIZE), (MODEL, KV_HEADS * SIZE)
    return MultiHeadParameters(draw(*query), draw(*key), draw(*key), draw(HEADS * SIZE, MODEL), draw(HEADS * SIZE))


def norm() -> LayerNormParameters:
    return LayerNormParameters(1.0 + draw(MODEL), draw(MODEL))


def feeding() -> FeedForwardParameters:
    return FeedForwardParameters(draw(MODEL, HIDDEN), draw(HIDDEN, MODEL), draw(HIDDEN), draw(MODEL))


def decoding(num_layers: int) -> DecoderParameters:
    layers = ((attention(), norm(), attention(), norm(), feeding(), norm()) for _ in range(num_layers))
    return DecoderParameters(tuple(DecoderLayerParameters(*parts) for parts in layers), norm())


DECODER = decoding(2)
SHALLOW = DECODER._replace(layers=DECODER.layers[:1])
"""For what compiles each layer: that takes its time."""
INPUTS, MEMORY = RNG.standard_normal((BATCH, LENGTH, MODEL)), RNG.standard_normal((BATCH, READ, MODEL))
KEPT = RNG.random((BATCH, HEADS, LENGTH, CAPACITY)) < 0.7
KEPT_ROWS = RNG.random((BATCH, LENGTH, MODEL)) < 0.7


def dropout_of(rows: slice, keys: int) -> tuple[Any, ...]:
    """Drop at every site of the second layer, the same in the whole sequence and in its parts."""
    weights, cross = Dropout(0.3, KEPT[:, :, rows, :keys]), Dropout(0.3, KEPT[:, :, rows, :READ])
    added, hidden = Dropout(0.25, KEPT_ROWS[:, rows]), Dropout(0.5, KEPT_ROWS[:, rows, :HIDDEN])
    return None, DecoderLayerDropout(weights, added, cross, added, hidden, added)


def options_of(case: str, start: Any, rows: slice, keys: int) -> dict[str, Any]:
    if case == "post":
        return {}
    return {
        "norm": "pre",
        "activation": "gelu",
        "memory_mask": np.array([[[[True, True, True]]], [[[True, False, True]]]]),
        "rotary": Rotary("interleaved", base=20.0),
        "bias": reference.alibi(symmetric=False, offset=start),
        "dropout": dropout_of(rows, keys),
    }


def decoding_of(name: str) -> Any:
    return importlib.import_module(f"{frameworks.load(name).__name__}.decoding")


def native(name: str, tree: Any, dtype: str = "float64") -> Any:
    return map_leaves(lambda array: to_native(name, array.astype(NUMPY_DTYPES[dtype])), tree)


def begin(name: str, decoder: DecoderParameters, dtype: str = "float64") -> DecoderCache:
    memory, parameters = native(name, MEMORY, dtype), native(name, decoder, dtype)
    cache: DecoderCache = decoding_of(name).start_decoding(memory, parameters, **HEADS_OF, capacity=CAPACITY)
    return cache


def whole(case: str, decoder: DecoderParameters = DECODER, **changed: Any) -> Array:
    options = options_of(case, 0, slice(0, LENGTH), LENGTH) | changed
    return blocks.decoder(INPUTS, MEMORY, decoder, mask=reference.causal(), **HEADS_OF, **options)


# --- decoder steps


@pytest.mark.parametrize(
    ("name", "case"),
    by_module(["post-1_3_1", "everything-2_1_2", "everything-5"], [], frameworks.MODULES),
)
def test_steps_of_a_decoder(name: str, case: str) -> None:
    kind, counts = case.split("-")
    step, cache, start, outputs = decoding_of(name).decoder_step, begin(name, DECODER), 0, []
    for count in map(int, counts.split("_")):
        rows = slice(start, start + count)
        options = options_of(kind, start, rows, CAPACITY)
        given = step(to_native(name, INPUTS[:, rows]), native(name, DECODER), cache, **HEADS_OF, **options)
        assert isinstance(given.output, native_type(name))
        assert all(layer.length == start for layer in cache.layers)
        start, cache = start + count, given.cache
        outputs.append(to_numpy(given.output))
    assert all(layer.length == LENGTH for layer in cache.layers)
    assert_close(np.concatenate(outputs, axis=1), whole(kind), FLOAT64_TOLERANCE)


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_one_trace_for_every_step(name: str) -> None:
    """Where lengths are tensors, another length is no other function."""
    step, traces = decoding_of(name).decoder_step, []
    options = options_of("everything", 0, slice(0, 0), 0) | {"dropout": None}
    visible = to_native(name, options.pop("memory_mask"))

    def call(inputs: Any, parameters: Any, cache: Any, visible: Any) -> Any:
        if name != "torch":  # Dynamo would do it at every call
            traces.append(cache)
        bias = reference.alibi(symmetric=False, offset=cache.layers[0].length)
        return step(inputs, parameters, cache, memory_mask=visible, **HEADS_OF | options | {"bias": bias})

    cache, (function, count) = begin(name, SHALLOW), compiled(name, call)
    if name != "jax":  # which has no other trace for a number that becomes an array
        cache = DecoderCache(
            *(tuple(part._replace(length=to_native(name, np.array(part.length))) for part in parts) for parts in cache)
        )
    outputs, parameters = [], native(name, SHALLOW)
    for i in range(LENGTH):
        output, cache = function(to_native(name, INPUTS[:, i : i + 1]), parameters, cache, visible)
        outputs.append(to_numpy(output))
    assert (len(traces) if count is None else count()) == 1
    expected = whole("everything", SHALLOW, dropout=None)
    assert_close(np.concatenate(outputs, axis=1), expected, FLOAT64_TOLERANCE)


def compiled(name: str, function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], int] | None]:
    """Compile a function whole; torch counts itself how often it does."""
    if name == "torch":
        torch = importlib.import_module("torch")
        torch._dynamo.reset()
        counter = importlib.import_module("torch._dynamo.testing").CompileCounter()
        return torch.compile(function, backend=counter, fullgraph=True), lambda: int(counter.frame_count)
    return getattr(importlib.import_module(name), {"jax": "jit", "tensorflow": "function"}[name])(function), None


def test_a_memory_that_is_not_all_filled(attn: ModuleType) -> None:
    """As everywhere, the length of a cache says what is read: the rest may be NaN."""
    name = frameworks.name_of(attn)
    cache, step = begin(name, SHALLOW), decoding_of(name).decoder_step
    memory = []
    for part in cache.memory:
        arrays = (to_numpy(array).copy() for array in part[:2])
        memory.append(part._replace(length=2, **dict(zip(("key", "value"), map(poison, arrays), strict=True))))
    held = cache._replace(memory=tuple(native_cache(name, part) for part in memory))
    step = functools.partial(step, **HEADS_OF)
    step = compiled(name, step)[0] if name == "jax" else step
    given = step(to_native(name, INPUTS), native(name, SHALLOW), held)
    expected = blocks.decoder(INPUTS, MEMORY[:, :2], SHALLOW, mask=reference.causal(), **HEADS_OF)
    assert_close(to_numpy(given.output), expected, FLOAT64_TOLERANCE)


def poison(array: Array) -> Array:
    array[:, :, 2:] = np.nan
    return array


def native_cache(name: str, cache: Any) -> Any:
    return cache._replace(key=to_native(name, cache.key), value=to_native(name, cache.value))


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_half_precision(name: str) -> None:
    """Caches have the dtype of the memory; beside wide ones nothing is rounded but the result."""
    for part in (*begin(name, SHALLOW, "bfloat16").layers, *begin(name, SHALLOW, "bfloat16").memory):
        assert {to_numpy(array).dtype for array in part[:2]} == {NUMPY_DTYPES["bfloat16"]}
    inputs, memory, decoder = (
        map_leaves(lambda array: array.astype(NUMPY_DTYPES["bfloat16"]), tree) for tree in (INPUTS, MEMORY, SHALLOW)
    )
    wide = decoding_of(name).start_decoding(
        native(name, memory, "float32"), native(name, decoder, "float32"), **HEADS_OF, capacity=CAPACITY
    )
    step = functools.partial(decoding_of(name).decoder_step, **HEADS_OF)
    half, exact = (
        to_numpy(step(native(name, inputs, dtype), native(name, decoder, dtype), wide).output)
        for dtype in ("bfloat16", "float32")
    )
    assert_same_bits(half, exact.astype(NUMPY_DTYPES["bfloat16"]))


# --- greedy decoding


def model(positions: str | None, embeds_source: bool, has_head: bool) -> TransformerParameters:
    encoder = EncoderParameters((EncoderLayerParameters(attention(), norm(), feeding(), norm()),))
    source, target = (LinearParameters(3.0 * draw(VOCABULARY, MODEL), draw(MODEL)) for _ in range(2))
    tables = (draw(MAX_LENGTH, MODEL), draw(MAX_LENGTH, MODEL)) if positions == "learned" else (None, None)
    head = LinearParameters(3.0 * draw(MODEL, VOCABULARY), draw(VOCABULARY)) if has_head else None
    return TransformerParameters(encoder, decoding(1), source if embeds_source else None, target, *tables, head)


IDS = RNG.integers(0, VOCABULARY, (3, READ))
VALID = np.array([[True, True, False], [True, True, True], [False, False, True]])
MODELS: dict[str, tuple[TransformerParameters, Array, dict[str, Any]]] = {
    "sinusoidal": (model("sinusoidal", True, True), IDS, {"source_valid": VALID, "stop": 2}),
    "rotary": (
        model(None, True, True),
        IDS,
        {"positions": None, "norm": "pre", "rotary": Rotary("half_split", base=9.0), "activation": "silu", "stop": 6},
    ),
    "learned": (
        model("learned", False, False),
        RNG.standard_normal((3, READ, MODEL)),
        {"positions": "learned", "stop": 5},
    ),
}
"""Of the first, all three end, after 5, 5 and 3 ids; of the others, one."""


def rerun(case: str) -> Array:
    """Ask the whole Transformer again for every id."""
    parameters, source, options = MODELS[case]
    stop = options["stop"]
    options = {name: option for name, option in options.items() if name != "stop"}
    written, has_ended = np.full((3, 1), START), np.zeros(3, bool)
    for _ in range(MAX_LENGTH):
        logits = models.transformer(source, written, parameters, **HEADS_OF, **options)[:, -1]
        best = np.sort(logits, axis=-1)
        assert (best[:, -1] - best[:, -2] > 1e-6).all()  # no ties, which rounding would decide
        token = np.where(has_ended, stop, logits.argmax(axis=-1))
        has_ended = has_ended | (token == stop)
        written = np.concatenate([written, token[:, None]], axis=1)
    return written[:, 1:]


def write(name: str, case: str, source: Any = None, **changed: Any) -> Any:
    parameters, drawn, options = MODELS[case]
    source = to_native(name, drawn if source is None else source)
    options = {key: to_native(name, VALID) if key == "source_valid" else option for key, option in options.items()}
    options = {"start": START, "max_length": MAX_LENGTH, **HEADS_OF} | options | changed
    return decoding_of(name).greedy_decode(source, native(name, parameters), **options)


@pytest.mark.parametrize(("name", "case"), by_module(MODELS, ["sinusoidal", "learned"], frameworks.MODULES))
def test_writing_is_asking_again_for_every_id(name: str, case: str) -> None:
    ids, expected = write(name, case), rerun(case)
    assert isinstance(ids, native_type(name))
    assert to_numpy(ids).dtype == np.int64
    np.testing.assert_array_equal(to_numpy(ids), expected)
    assert (expected == MODELS[case][2]["stop"]).any(axis=1).sum() == (3 if case == "sinusoidal" else 1)
    assert len(np.unique(expected)) >= 3


@pytest.mark.parametrize("name", ["reference", "torch", "tensorflow"])
def test_nothing_is_computed_after_the_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three have ended after 5 of 7 ids; with another stop none ends. (JAX runs one compiled loop.)"""
    caches, steps = importlib.import_module(f"attnspec.{name}.caches"), []
    frameworks.load(name)
    run_step = caches.run_step

    def counted(*given: Any) -> Any:
        steps.append(given)
        return run_step(*given)

    monkeypatch.setattr(caches, "run_step", counted)
    for stop, count in ((2, 5), (0, 7)):
        steps.clear()
        write(name, "sinusoidal", stop=stop)
        assert len(steps) == count


def test_one_compilation_for_every_source_and_stop() -> None:
    """JAX's loop takes what begins and ends it as arguments, and so the source and what of it is valid."""
    caches = importlib.import_module(f"{frameworks.load('jax').__name__}.caches")
    write("jax", "sinusoidal")
    count = caches._write._cache_size()
    changed = {"start": 4, "stop": 8}
    ids = write("jax", "sinusoidal", source=IDS[::-1], source_valid=to_native("jax", ~VALID), **changed)
    assert caches._write._cache_size() == count
    expected = write("reference", "sinusoidal", source=IDS[::-1], source_valid=~VALID, **changed)
    np.testing.assert_array_equal(np.asarray(ids), expected)


def test_inside_a_jitted_function() -> None:
    """It is traced: nothing about what is written has to be known."""
    jax = importlib.import_module("jax")
    ids = jax.eval_shape(lambda source: write("jax", "sinusoidal", source=source), IDS)
    assert (ids.shape, ids.dtype) == ((3, MAX_LENGTH), np.int64)


def test_inside_a_graph_for_any_batch_and_length() -> None:
    tf, parameters = importlib.import_module("tensorflow"), MODELS["sinusoidal"][0]
    decode, weights = decoding_of("tensorflow").greedy_decode, native("tensorflow", parameters)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None, None], tf.bool)])
    def function(source: Any, valid: Any) -> Any:
        return decode(source, weights, source_valid=valid, start=START, stop=2, max_length=MAX_LENGTH, **HEADS_OF)

    expected = rerun("sinusoidal")
    np.testing.assert_array_equal(function(IDS, VALID), expected)
    np.testing.assert_array_equal(function(IDS[:1, :2], VALID[:1, :2]), expected[:1])  # its third is padding
    assert function.experimental_get_tracing_count() == 1


def plain(bias: Array) -> TransformerParameters:
    """A Transformer without layers or weights, whose logits are always the bias of the head."""
    table = LinearParameters(np.zeros((5, 2)))
    return TransformerParameters(
        EncoderParameters(()), DecoderParameters(()), table, table, head=LinearParameters(np.zeros((2, 4)), bias)
    )


@pytest.mark.parametrize(
    ("bias", "token"),
    [([1.0, 1.0, 1.0, 1.0], 0), ([-1.0, 2.0, np.nan, 2.0], 1), ([np.nan] * 4, 0), ([-np.inf, -np.inf, 0.0, 0.0], 2)],
    ids=["all_equal", "nan_and_ties", "all_nan", "infinite"],
)
def test_ties_and_nan(attn: ModuleType, bias: list[float], token: int) -> None:
    """The lowest of several; NaN is less than every number. After the first, there is nothing but `stop`."""
    name = frameworks.name_of(attn)
    for stop, rest in ((3, token), (token, token)):
        ids = decoding_of(name).greedy_decode(
            to_native(name, np.array([[1, 2]])),
            native(name, plain(np.array(bias))),
            num_heads=1,
            positions=None,
            start=4,
            stop=stop,
            max_length=3,
        )
        assert to_numpy(ids).tolist() == [[token, rest, rest]]


def test_nothing_to_write(attn: ModuleType) -> None:
    name = frameworks.name_of(attn)
    for batch, length in (((3,), 0), ((0,), 3), ((), 2)):
        source = to_native(name, np.zeros((*batch, 2), np.int64))
        ids = decoding_of(name).greedy_decode(
            source, native(name, plain(np.ones(4))), num_heads=1, start=1, stop=0, max_length=length
        )
        assert to_numpy(ids).shape == (*batch, length)

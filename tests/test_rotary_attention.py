"""Rotary positions inside multi-head attention (S37): queries at i + offset, keys at j, after projection and heads.

The reference is held to oracles that share no line with it (turns in 50 digits, scalar loops, the complex step), the
backends to the reference.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple

import frameworks
import numpy as np
import oracle_gradients
import oracle_positions
import oracle_scalar
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_same_bits
from native_tensors import NUMPY_DTYPES, gradients, to_native, to_numpy
from option_cases import FLOAT64_TOLERANCE, by_module

from attnspec import reference
from attnspec.contract import MultiHeadParameters
from attnspec.contract.rotary_option import Rotary

BATCH, HEADS, KV_HEADS, SIZE, VALUE_SIZE, MODEL, OUT = 2, 6, 3, 4, 5, 7, 3
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
HEADS_OF = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
FEW = ["reference", "torch", "tensorflow"]
"""All but JAX, which compiles every new shape."""


class Case(NamedTuple):
    """One way to turn, and where its queries stand in each batch element."""

    rotary: Rotary
    queries: int
    keys: int
    starts: tuple[int, int]


CASES = {
    "half_split": Case(Rotary("half_split"), 5, 5, (0, 0)),
    "interleaved": Case(Rotary("interleaved", base=7.0), 5, 5, (0, 0)),
    "part_of_a_head": Case(Rotary("half_split", rotary_dim=2, offset="end"), 2, 5, (3, 3)),
    "nothing_turns": Case(Rotary("interleaved", rotary_dim=0, offset=4), 2, 5, (4, 4)),
    "top_left": Case(Rotary("interleaved", offset=0), 5, 2, (0, 0)),
    "before_the_keys": Case(Rotary("half_split", base=3, offset=-11), 2, 5, (-11, -11)),
    "offset_for_each": Case(Rotary("interleaved", offset=np.array([3, -2])), 2, 5, (3, -2)),
}


def drawn(queries: int, keys: int, seed: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"query": (BATCH, queries, MODEL), "key": (BATCH, keys, MODEL), "value": (BATCH, keys, MODEL)} | WEIGHTS
    return {name: rng.standard_normal(shape) / math.sqrt(shape[0]) for name, shape in shapes.items()}


def attend(module: Any, arrays: dict[str, Any], rotary: Any, **options: Any) -> Any:
    parameters = MultiHeadParameters(**{name: arrays[name] for name in WEIGHTS})
    operands = (arrays[name] for name in ("query", "key", "value"))
    return module.multi_head_attention(*operands, parameters, rotary=rotary, **HEADS_OF | options)


def places_of(case: Case) -> tuple[Array, Array]:
    """Positions (B, Tq) and (Tk,), as the case has them written."""
    return np.array([[start + i for i in range(case.queries)] for start in case.starts]), np.arange(case.keys)


def turned_heads(arrays: dict[str, Any], case: Case, turn: Any) -> list[Any]:
    """Project by sums over one axis, split, and turn the queries and keys by an oracle."""
    places = places_of(case)
    heads = []
    for part, count in (("query", HEADS), ("key", KV_HEADS), ("value", KV_HEADS)):
        inputs, weight = arrays[part], arrays[f"{part}_weight"]
        columns = (inputs[..., :, None] * weight).sum(axis=-2) + arrays[f"{part}_bias"]
        heads.append(np.stack(np.split(columns, count, axis=-1), axis=1))
    return [turn(heads[0], places[0]), turn(heads[1], places[1]), heads[2]]


# --- values


@pytest.mark.parametrize("name", FEW)
def test_by_hand(name: str) -> None:
    """Heads of two components turn by p radians: (1, 0) at p and at j have the product cos(p − j)."""
    attn = frameworks.load(name)
    first, eye = np.array([[1.0, 0.0]]), np.eye(3)
    parameters = MultiHeadParameters(*(to_native(name, weight) for weight in (first, first, eye, eye)))
    query, key, value = (to_native(name, array) for array in (np.ones((1, 1)), np.ones((3, 1)), eye))
    given = attn.multi_head_attention(
        query, key, value, parameters, num_heads=1, scale=2.0, rotary=Rotary("interleaved", offset=2)
    )
    logits = [2.0 * math.cos(2 - j) for j in range(3)]
    total = sum(math.exp(logit) for logit in logits)
    assert_close(to_numpy(given), [[math.exp(logit) / total for logit in logits]])


@pytest.mark.parametrize("name", CASES)
def test_reference_against_oracles(name: str) -> None:
    case = CASES[name]
    arrays = drawn(case.queries, case.keys)
    how = {"pairing": case.rotary.pairing, "base": case.rotary.base, "rotary_dim": case.rotary.rotary_dim}
    query, key, value = turned_heads(arrays, case, lambda x, at: oracle_positions.rotary_embedding(x, at, **how))
    heads = oracle_scalar.attention_stages(query, key, value)["output"]
    columns = np.concatenate(list(heads.swapaxes(0, 1)), axis=-1)
    expected = (columns[..., None] * arrays["output_weight"]).sum(axis=-2) + arrays["output_bias"]
    assert_close(attend(reference, arrays, case.rotary), expected)


@pytest.mark.parametrize(("name", "case"), by_module(CASES, ["part_of_a_head"]))
def test_backends_against_the_reference(name: str, case: str) -> None:
    module, (rotary, queries, keys, _) = frameworks.load(name), CASES[case]
    arrays = drawn(queries, keys)
    given = attend(module, {part: to_native(name, array) for part, array in arrays.items()}, rotary)
    assert_close(to_numpy(given), attend(reference, arrays, rotary), FLOAT64_TOLERANCE)


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_half_precision_is_rounded_once(name: str) -> None:
    """Projections and turns are not rounded: the same bits as in float32, whose result is rounded at the end."""
    module, case = frameworks.load(name), CASES["part_of_a_head"]
    narrow = {part: array.astype(NUMPY_DTYPES["bfloat16"]) for part, array in drawn(2, 5).items()}
    half, single = (
        to_numpy(attend(module, {part: to_native(name, x.astype(dtype)) for part, x in narrow.items()}, case.rotary))
        for dtype in (NUMPY_DTYPES["bfloat16"], np.float32)
    )
    assert_same_bits(half, single.astype(NUMPY_DTYPES["bfloat16"]))


@pytest.mark.parametrize(("name", "axes"), by_module(["no_batch", "two_batch_axes"], [], frameworks.MODULES))
def test_other_ranks(name: str, axes: str) -> None:
    """An offset has the shape of the batch; one without axes is that of all."""
    shape, attn, arrays = {"no_batch": (), "two_batch_axes": (2, 3)}[axes], frameworks.load(name), drawn(2, 5)
    rng = np.random.default_rng(5)
    for part, length in (("query", 2), ("key", 5), ("value", 5)):
        arrays[part] = rng.standard_normal((*shape, length, MODEL))
    offset = np.arange(math.prod(shape)).reshape(shape) - 1
    given = to_numpy(
        attend(attn, {part: to_native(name, a) for part, a in arrays.items()}, Rotary("half_split", offset=offset))
    )
    for index in np.ndindex(shape):
        one = arrays | {part: arrays[part][index][None] for part in ("query", "key", "value")}
        expected = attend(reference, one, Rotary("half_split", offset=int(offset[index])))
        assert_close(given[index], expected[0], FLOAT64_TOLERANCE)


@pytest.mark.parametrize("name", FEW)
def test_it_is_what_rotary_embedding_does(name: str) -> None:
    """The shared operation turns the same way: identity weights, so that the heads are the inputs."""
    attn, rng = frameworks.load(name), np.random.default_rng(6)
    query, key, value = (to_native(name, rng.standard_normal((2, 5, 4))) for _ in range(3))
    eye = to_native(name, np.eye(4))
    how: dict[str, Any] = {"pairing": "interleaved", "base": 5.0, "rotary_dim": 2}
    given = attn.multi_head_attention(
        query, key, value, MultiHeadParameters(eye, eye, eye, eye), num_heads=1, rotary=Rotary(**how, offset=3)
    )
    turned = (
        attn.rotary_embedding(x, to_native(name, np.arange(5) + start), **how) for x, start in ((query, 3), (key, 0))
    )
    assert_close(to_numpy(given), to_numpy(attn.dot_product_attention(*turned, value)), FLOAT64_TOLERANCE)


# --- gradients


@pytest.mark.parametrize("name", ["half_split", "part_of_a_head", "offset_for_each"])
def test_reference_gradients_against_the_complex_step(name: str) -> None:
    case = CASES[name]
    arrays = drawn(case.queries, case.keys)
    size = case.rotary.rotary_dim or SIZE
    frequencies = np.array([case.rotary.base ** (-2 * c / size) for c in range(size // 2)])
    cotangent = np.random.default_rng(8).standard_normal((BATCH, case.queries, OUT))

    def turn(heads: Array, places: Array) -> Array:
        return oracle_gradients.rotary_embedding(heads, places, frequencies, pairing=case.rotary.pairing)

    def forward(**given: Any) -> tuple[Any]:
        heads, _ = oracle_gradients.attention(*turned_heads(given, case, turn))
        columns = np.concatenate(list(heads.swapaxes(0, 1)), axis=-1)
        return ((columns[..., None] * given["output_weight"]).sum(axis=-2) + given["output_bias"],)

    few = {part: arrays[part] for part in ("query", "key", "value", "query_bias", "key_bias")}
    expected = oracle_gradients.complex_step(lambda **given: forward(**arrays | given), few, (cotangent,))
    actual = gradients_of(arrays, cotangent, case.rotary)
    for part, exact in expected.items():
        assert_close(actual[part], exact, 1e-13)


def gradients_of(arrays: dict[str, Array], cotangent: Array, rotary: Rotary, **options: Any) -> dict[str, Array]:
    """The reference's closed form, by name."""
    parameters = MultiHeadParameters(**{name: arrays[name] for name in WEIGHTS})
    operands = (arrays[name] for name in ("query", "key", "value"))
    found = reference.multi_head_attention_vjp(
        *operands, parameters, cotangent, rotary=rotary, **HEADS_OF | options
    )._asdict()
    return found | found["parameters"]._asdict()


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_gradients_of_backends(name: str) -> None:
    """By every array; a key that is padding holds NaN, which reaches nothing (S11)."""
    module, (rotary, queries, keys, _) = frameworks.load(name), CASES["offset_for_each"]
    arrays = drawn(queries, keys)
    cotangent = np.random.default_rng(9).standard_normal((BATCH, queries, OUT))
    mask = reference.key_lengths([5, 3])
    clean = gradients_of(arrays, cotangent, rotary, mask=mask)
    for part in ("key", "value"):
        arrays[part][1, 3:] = np.nan

    def function(**given: Any) -> Any:
        return attend(module, given, rotary, mask=mask)

    if name == "jax":
        function = importlib.import_module("jax").jit(function)
    output, actual = gradients(name, function, arrays, cotangent)
    assert_close(output, attend(reference, arrays, rotary, mask=mask), FLOAT64_TOLERANCE)
    for part, array in gradients_of(arrays, cotangent, rotary, mask=mask).items():
        if part in arrays:
            assert_close(actual[part], array, FLOAT64_TOLERANCE)
            assert_close(array, clean[part])


# --- graphs


def test_a_graph_for_any_length() -> None:
    """A tf.function with unknown sizes: "end" is worked out when it runs."""
    tf, module = importlib.import_module("tensorflow"), frameworks.load("tensorflow")
    arrays = drawn(2, 5)
    weights = {name: tf.constant(arrays[name]) for name in WEIGHTS}
    rotary = Rotary("half_split", offset="end")

    @tf.function(input_signature=[tf.TensorSpec([None, None, MODEL], tf.float64)] * 2)
    def function(query: Any, key: Any) -> Any:
        return attend(module, weights | {"query": query, "key": key, "value": key}, rotary)

    for queries, keys in ((2, 5), (3, 3)):
        arrays |= {part: array for part, array in drawn(queries, keys).items() if part in ("query", "key")}
        arrays["value"] = arrays["key"]
        expected = attend(reference, arrays, rotary)
        assert_close(to_numpy(function(arrays["query"], arrays["key"])), expected, FLOAT64_TOLERANCE)
    assert function.experimental_get_tracing_count() == 1

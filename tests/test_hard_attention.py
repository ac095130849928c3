"""What a hard attention chooses, and that nothing else gets any weight (S20), in all four.

The logits are small integers, given as a bias over products that are 0, and the values powers of two, so that the
expected outputs are exact: a weight is 1, or one of n equal ones.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_same_bits
from frameworks import name_of
from native_tensors import gradients, to_native, to_numpy
from similarity_cases import CASES, NOISE, VISIBLE, call, run, similarities

from attnspec.contract import alibi
from attnspec.reference import similarity_gradients

INF, NAN = np.inf, np.nan
VALUES = 2.0 ** np.arange(5)


ROWS = 8
"""Of every call, so that JAX compiles few shapes; the last row is repeated."""


def choose(attn: ModuleType, logits: Any, top_k: int, **options: Any) -> Array:
    """Attend by these logits, (q, 5), over the values 1, 2, 4, 8, 16 or others; the output (q,)."""
    name = name_of(attn)
    value = np.asarray(options.pop("value", VALUES), np.float64)[:, None]
    rows = {"bias": np.array(logits, np.float64)} | {key: np.array(option) for key, option in options.items()}
    given = {
        key: to_native(name, np.concatenate([array, *[array[-1:]] * (ROWS - len(array))]))
        for key, array in rows.items()
    }
    tensors = (to_native(name, array) for array in (np.zeros((ROWS, 1)), np.zeros((5, 1)), value))
    return to_numpy(similarities(attn).hard_attention(*tensors, top_k=top_k, **given))[: len(logits), 0]


LOGITS = [
    *([5, 1, 4, 1, 5], [2, 2, 1, 2, 2], [1, 3, 3, 3, 1]),
    *([7, 7, 7, 7, 7], [-0.0, 0, -0.0, 0, 0], [0, -0.0, 0, 0, 0], [-INF, -9, -INF, -9, -INF], [-INF] * 5),
]


@pytest.mark.parametrize(
    ("top_k", "first", "expected"),
    [
        (1, 0, [1, 1, 2, 1, 1, 1, 2, 0]),
        (2, 0, [17 / 2, 1.5, 3, 1.5, 1.5, 1.5, 5, 0]),
        (10**12, 3, [31 / 5, 31 / 5, 31 / 5, 5, 0]),
    ],
)
def test_ties_and_numbers_of_keys(attn: ModuleType, top_k: int, first: int, expected: list[float]) -> None:
    """Equal logits: the first; fewer visible keys than asked for: all of them."""
    np.testing.assert_allclose(choose(attn, LOGITS[first:], top_k), expected, rtol=1e-15)


def test_ties_where_xla_sorts() -> None:
    module, tf = frameworks.load("tensorflow"), importlib.import_module("tensorflow")
    compiled = tf.function(functools.partial(choose_natively, module), jit_compile=True, autograph=False)
    np.testing.assert_array_equal(to_numpy(compiled(tf.constant(LOGITS, tf.float64)))[:, 0], [1, 1, 2, 1, 1, 1, 2, 0])


def choose_natively(module: ModuleType, logits: Any) -> Any:
    query, key = np.zeros((8, 1)), np.zeros((5, 1))
    return similarities(module).hard_attention(query, key, VALUES[:, None], top_k=1, bias=logits, scale=-1.0)


def test_one_key_gives_its_value_exactly(attn: ModuleType) -> None:
    """The weight is 1, not nearly 1, and every other 0: the largest of all numbers beside it adds nothing."""
    largest = np.finfo(np.float64).max
    value = [0.1, largest, -0.0, -largest, 0.3]
    output = choose(attn, [[5, 4.9, 5, 4.9, 1], [1, 1, 2, 1, 1], [0, 0, 0, 0, 0.01]], 1, value=value)
    np.testing.assert_array_equal(output, [0.1, 0.0, 0.3])


def test_a_value_that_is_not_chosen_is_not_read(attn: ModuleType) -> None:
    output = choose(attn, [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 4, 5, 1, 2]], 2, value=[1, 1, 7, NAN, INF])
    np.testing.assert_array_equal(np.isnan(output), [True, False, False])
    assert_close(output[1:], [1.0, 1 + 6 / (1 + np.exp(-1.0))], 1e-15)
    output = choose(attn, [[1, 2, 3, 4, 5]], 1, value=[1, 1, 7, NAN, -INF])
    np.testing.assert_array_equal(output, [-INF])


@pytest.mark.parametrize("name", frameworks.MODULES)
def test_a_value_that_is_not_chosen_gives_nothing_back_where_it_is_not_finite(name: str) -> None:
    """It is a constant, as in every attention; the others have the gradients that they have beside a 0."""
    frameworks.load(name)

    def slopes_of(value: list[float]) -> dict[str, Array]:
        arrays = {"query": np.array([[1.0]]), "key": np.array([[3.0], [2.0], [1.0]]), "value": np.array(value)[:, None]}
        if name == "reference":
            found = similarity_gradients.hard_attention_vjp(**arrays, output_cotangent=np.ones((1, 1)), top_k=1)
            return {key: getattr(found, key) for key in arrays}
        attend = functools.partial(similarities(frameworks.load(name)).hard_attention, top_k=1)
        attend = importlib.import_module("jax").jit(attend) if name == "jax" else attend
        return gradients(name, attend, arrays, np.ones((1, 1)))[1]

    beside_zero, beside_nan = slopes_of([5.0, 7.0, 0.0]), slopes_of([5.0, 7.0, NAN])
    np.testing.assert_array_equal(beside_zero["value"], [[1.0], [0.0], [0.0]])
    assert np.abs(beside_zero["query"]).max() > 0.01
    for key, gradient in beside_nan.items():
        assert_same_bits(gradient, beside_zero[key])


def test_noise_only_chooses(attn: ModuleType) -> None:
    expected = {
        (0, 0, 0, 2.5, 0): 8,
        (-2, -INF, 0, 0, 0): 16,
        (0, INF, 0, INF, 0): 2,
        (-INF, -INF, -INF, 0, -INF): 8,
        (-INF, -INF, -INF, -INF, -INF): 0,
        (NAN, 0, 0, 0, 0): NAN,
    }
    output = choose(attn, [[3, 1, 2, 1, 2.5]] * 6, 1, noise=[list(noise) for noise in expected])
    np.testing.assert_array_equal(output, list(expected.values()))


def test_noise_takes_no_part_in_the_weights(attn: ModuleType) -> None:
    output = choose(attn, [[3, 1, 2, 1, 2.5]], 2, noise=[[0.0, 0, 0, 50, 60]])
    assert_close(output, [8 + 8 / (1 + np.exp(-1.5))], 1e-15)


@pytest.mark.parametrize("poison", [NAN, INF])
def test_a_row_that_sees_a_nan_or_inf_is_nan(attn: ModuleType, poison: float) -> None:
    """However it is ranked; where it is hidden, it is not seen."""
    logits, noise = [1, poison, 2, 3, 4], [[0, 0, 0, 0, 0], [0, -INF, 0, 9, 0], [0, -INF, 0, 9, 0]]
    seen = [[True] * 5, [True] * 5, [True, False, True, True, True]]
    output = choose(attn, [logits] * 3, 1, noise=np.array(noise, np.float64), mask=seen)
    np.testing.assert_array_equal(output, [NAN, NAN, 8.0])


@pytest.mark.parametrize("name", ["reference", "torch", "tensorflow"])
def test_noise_beside_what_is_hidden_is_not_read(name: str) -> None:
    attn = frameworks.load(name)
    clean = run(attn, CASES["hard_noise"])
    for poison in (NAN, INF, -INF):
        assert_same_bits(run(attn, CASES["hard_noise"], noise=np.where(VISIBLE, NOISE, poison)), clean)


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (2, 4, 3, 5), (1, 4, 1, 5), (2, 1, 3, 1)], ids=str)
def test_noise_of_every_shape(shape: tuple[int, ...]) -> None:
    noise = 3.0 * np.random.default_rng(37).standard_normal(shape)
    whole = np.broadcast_to(noise, (2, 4, 3, 5)).copy()
    for attn in (frameworks.load("reference"), frameworks.load("torch")):
        expected = run(attn, CASES["hard_noise"], noise=whole)
        assert_same_bits(run(attn, CASES["hard_noise"], noise=noise), expected)
        if shape[-1] > 1:
            assert np.abs(expected - run(attn, CASES["hard_noise"], noise=None)).max() > 0.1


@pytest.mark.parametrize("name", ["reference", "torch", "tensorflow"])
def test_all_keys_are_soft_attention(name: str) -> None:
    attn, case = frameworks.load(name), CASES["hard"]
    options = {key: option for key, option in case.options.items() if key != "top_k"}
    native = {key: to_native(name, array) for key, array in case.arrays.items()}
    soft = to_numpy(attn.dot_product_attention(**native, **options))
    assert_close(run(attn, case, top_k=5), soft, 1e-15)


def test_bias_objects_and_caps_order_the_keys() -> None:
    """The choice is by the finished logits: scale, softcap and bias count."""
    attn = frameworks.load("reference")
    query, key, value = np.ones((1, 1)), np.array([[3.0], [2.0], [1.0]]), np.array([[1.0], [2.0], [4.0]])
    given = {"query": query, "key": key, "value": value}
    module = similarities(attn)
    assert module.hard_attention(**given, top_k=1) == 1.0
    assert module.hard_attention(**given, top_k=1, scale=-1.0) == 4.0
    assert module.hard_attention(**given, top_k=1, bias=alibi(2.0, symmetric=True, offset=2)) == 4.0
    assert module.hard_attention(**given, top_k=1, bias=np.array([[0.0, 0.5, 0.0]])) == 1.0
    assert module.hard_attention(**given, top_k=1, bias=np.array([[0.0, 0.5, 0.0]]), softcap=0.1) == 2.0


@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_noise_has_no_gradient(name: str) -> None:
    frameworks.load(name)
    module, case = importlib.import_module(f"attnspec.{name}.similarities"), CASES["hard_noise"]
    arrays = {key: to_native(name, array) for key, array in case.arrays.items()}
    noise = to_native(name, NOISE)
    if name == "torch":
        noise.requires_grad_()
        arrays["query"].requires_grad_()
        call(module, case, arrays, noise=noise).sum().backward()
        assert noise.grad is None
        assert arrays["query"].grad is not None
    elif name == "tensorflow":
        tf = importlib.import_module("tensorflow")
        with tf.GradientTape() as tape:
            tape.watch(noise)
            output = call(module, case, arrays, noise=noise)
        assert tape.gradient(output, noise) is None
    else:
        jax = importlib.import_module("jax")
        slope = jax.jit(jax.grad(lambda noise: call(module, case, arrays, noise=noise).sum()))(noise)
        np.testing.assert_array_equal(to_numpy(slope), 0.0)

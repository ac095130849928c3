"""Attention by other similarities, and hard attention (S20, S23–S25), in all four: values, gradients, what is not read.

Values are held against scalar loops (`similarity_cases.by_loops`), closed-form gradients against complex steps through
`oracle_gradients`, and the backends against the reference. Numbers are of the size of 1 and sums have some tens of
terms: 1e-13 of the largest is a hundred times what was measured, and far below what any wrong formula gives.
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
import oracle_gradients
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_same_bits, assert_within
from native_tensors import NUMPY_DTYPES, gradients, to_native, to_numpy
from option_cases import by_module
from similarity_cases import (
    CASES,
    KEEP,
    MAIN,
    NOISE,
    UNSEEN_KEY,
    VISIBLE,
    Case,
    by_loops,
    call,
    chosen_by_loops,
    rank_4,
    run,
    similarities,
)

import attnspec.reference
from attnspec.contract.layer_parameters import AdditiveParameters
from attnspec.reference import attention as reference_attention
from attnspec.reference import similarity_gradients

TOLERANCE = 1e-13

# torch.compile imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")

every_case = pytest.mark.parametrize("case", CASES)
main_case = pytest.mark.parametrize("case", MAIN)


def reference_gradients(
    case: Case, arrays: dict[str, Array] | None = None, cotangent: Array | None = None
) -> dict[str, Array]:
    """Ask the reference for the gradients, by the names of the arrays."""
    arrays, cotangent = arrays or case.arrays, case.cotangent if cotangent is None else cotangent
    found = call(similarity_gradients, case, arrays, "_vjp", output_cotangent=cotangent)._asdict()
    found |= found.pop("parameters", AdditiveParameters(None))._asdict()
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@functools.cache
def function_of(name: str, case: str) -> Callable[..., Any]:
    """Give an operation as a function of its arrays; compiled by JAX, which takes a second for eager gradients."""
    frameworks.load(name)
    module = importlib.import_module(f"attnspec.{name}.similarities")

    def function(**arrays: Any) -> Any:
        return call(module, CASES[case], arrays)

    return importlib.import_module("jax").jit(function) if name == "jax" else function


def differentiated(name: str, case: str, arrays: dict[str, Array] | None = None) -> tuple[Array, dict[str, Array]]:
    given = CASES[case].arrays if arrays is None else arrays
    return gradients(name, function_of(name, case), given, CASES[case].cotangent)


def answers(name: str, case: str, arrays: dict[str, Array] | None = None) -> tuple[Array, dict[str, Array]]:
    """Give output and gradients in any of the four."""
    if name != "reference":
        return differentiated(name, case, arrays)
    return run(attnspec.reference, CASES[case], arrays), reference_gradients(CASES[case], arrays)


def assert_same_gradients(actual: dict[str, Array], expected: dict[str, Array]) -> None:
    """Require the shapes and, measured against the largest of all gradients, the numbers."""
    assert actual.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert actual[name].shape == gradient.shape, name
        assert np.abs(gradient).max() > 1e-3 * largest, name
        assert np.abs(actual[name] - gradient).max() <= TOLERANCE * largest, name


# --- values and gradients


@every_case
def test_reference_is_the_loops(case: str) -> None:
    output = run(attnspec.reference, CASES[case])
    assert output.dtype == np.float64
    assert_close(output, by_loops(CASES[case]), TOLERANCE)


def complex_products(case: Case, query: Any, key: Any, **weights: Any) -> Any:
    """Compute the similarity of every pair by functions that are analytic: (n, H, q, 1, d) and (n, H, 1, k, d)."""
    if case.operation == "bilinear_attention":
        return ((query @ weights["weight"]) * key).sum(axis=-1)
    if case.operation == "additive_attention":
        given = AdditiveParameters(**weights)
        hidden = query if given.query_weight is None else query @ given.query_weight
        hidden = hidden + (key if given.key_weight is None else key @ given.key_weight)
        return np.tanh(hidden + (0.0 if given.hidden_bias is None else given.hidden_bias)) @ given.score_weight
    lengths = np.sqrt((query * query).sum(axis=-1) * (key * key).sum(axis=-1))
    return (query * key).sum(axis=-1) / (lengths if case.operation == "cosine_attention" else 1.0)


def by_complex_step(case: Case) -> dict[str, Array]:
    """Differentiate the output: by values as it is, by everything else as if all visible keys were chosen."""
    options, heads = case.options, case.arrays["query"].ndim > 3
    default = 1 / math.sqrt(case.arrays["query"].shape[-1]) if case.operation == "hard_attention" else 1.0
    visible = rank_4(np.broadcast_to(case.visible, case.pairs), heads)
    dropout = options.get("dropout")
    given = {"keep": dropout.keep, "rate": dropout.rate} if dropout is not None else {}

    def logits_of(query: Any, key: Any, bias: Any = 0.0, **weights: Any) -> Any:
        query, key = rank_4(query, heads), rank_4(key, heads)
        key = np.repeat(key, query.shape[1] // key.shape[1], axis=1)
        logits = options.get("scale", default) * complex_products(
            case, query[..., :, None, :], key[..., None, :, :], **weights
        )
        logits = options["softcap"] * np.tanh(logits / options["softcap"]) if "softcap" in options else logits
        return logits + rank_4(np.broadcast_to(bias, case.pairs), heads)

    def forward(seen: Array, value: Any, sinks: Any = None, **arrays: Any) -> Any:
        logits, value = logits_of(**arrays), rank_4(value, heads)
        zeros = np.zeros((*logits.shape[:3], 1)), np.zeros((*value.shape[:3], 1))
        given_sinks = {} if sinks is None else {"sinks": sinks}
        output, _ = oracle_gradients.attention(
            *zeros, value, bias=logits, visible=seen, scale=1.0, **given_sinks, **given
        )
        return (output.reshape(case.cotangent.shape),)

    found = oracle_gradients.complex_step(functools.partial(forward, visible), case.arrays, (case.cotangent,))
    if "top_k" in options:
        noise = rank_4(np.broadcast_to(options.get("noise", np.zeros(1)), case.pairs), heads)
        logits = logits_of(**{name: array for name, array in case.arrays.items() if name != "value"})
        chosen = chosen_by_loops(logits, noise, visible, options["top_k"])
        others = {name: array for name, array in case.arrays.items() if name != "value"}
        by_value = functools.partial(forward, chosen, **others)
        found |= oracle_gradients.complex_step(by_value, {"value": case.arrays["value"]}, (case.cotangent,))
    return found


@every_case
def test_closed_forms_are_the_complex_steps(case: str) -> None:
    assert_same_gradients(reference_gradients(CASES[case]), by_complex_step(CASES[case]))


@pytest.mark.parametrize("elements", [1, 100], ids=["row_by_row", "two_rows"])
@main_case
def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch, case: str, elements: int) -> None:
    whole, slopes = run(attnspec.reference, CASES[case]), reference_gradients(CASES[case])
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    assert_close(run(attnspec.reference, CASES[case]), whole, TOLERANCE)
    assert_same_gradients(reference_gradients(CASES[case]), slopes)


@pytest.mark.parametrize(("name", "case"), by_module(CASES, MAIN))
def test_backends_are_the_reference(name: str, case: str) -> None:
    output, slopes = differentiated(name, case)
    assert_close(output, run(attnspec.reference, CASES[case]), TOLERANCE)
    assert_same_gradients(slopes, reference_gradients(CASES[case]))


@pytest.mark.parametrize(("name", "case"), by_module(MAIN, ["hard"]))
def test_half_precision_is_rounded_once(name: str, case: str) -> None:
    """Inputs of 8 bits, everything in between in float32: half a unit in the last place, and float32's own errors."""
    narrow = {key: array.astype(NUMPY_DTYPES["bfloat16"]) for key, array in CASES[case].arrays.items()}
    noise = {"noise": NOISE.astype(np.float32)} if "noise" in CASES[case].options else {}
    exact = run(attnspec.reference, CASES[case], narrow, **noise)
    output = run(frameworks.load(name), CASES[case], narrow, **noise)
    assert output.dtype == NUMPY_DTYPES["bfloat16"]
    size = np.abs(CASES[case].arrays["value"]).max()
    assert_within(output.astype(np.float64), exact, 2.0**-8 * np.abs(exact) + 1e-5 * size)


# --- lengths of vectors, which a cosine must not see


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, "float64") for name in frameworks.FRAMEWORKS] + [("torch", "float32")]
)
def test_a_cosine_does_not_change_with_the_length(name: str, dtype: str) -> None:
    """Powers of two change no bit, also where squares overflow or vanish; gradients are as much smaller or larger."""
    power = 2.0**600 if dtype == "float64" else 2.0**80
    arrays = {key: array.astype(dtype) for key, array in CASES["cosine"].arrays.items()}
    far = arrays | {"query": arrays["query"] * power, "key": arrays["key"] / power}
    case = Case("cosine_attention", arrays, CASES["cosine"].options, VISIBLE)
    cotangent = case.cotangent.astype(dtype)
    near_output, near = gradients(name, function_of(name, "cosine"), arrays, cotangent)
    output, slopes = gradients(name, function_of(name, "cosine"), far, cotangent)
    assert_same_bits(output, near_output)
    assert np.abs(slopes["query"]).max() > 0.0
    assert_same_bits(slopes["query"] * power, near["query"])
    assert_same_bits(slopes["key"] / power, near["key"])
    if dtype == "float64":
        assert_same_bits(run(attnspec.reference, case, far), run(attnspec.reference, case))
        exact, far_exact = reference_gradients(case), reference_gradients(case, far)
        assert_same_bits(far_exact["query"] * power, exact["query"])
        assert_same_bits(far_exact["key"] / power, exact["key"])


@pytest.mark.parametrize("name", frameworks.MODULES)
def test_a_zero_vector_is_similar_to_nothing(name: str) -> None:
    frameworks.load(name)
    arrays = {key: array.copy() for key, array in CASES["cosine"].arrays.items()}
    arrays["query"][1, 2, 0] = 0.0
    arrays["key"][0, 1, 0] = -0.0
    output, slopes = answers(name, "cosine", arrays)
    expected = by_loops(CASES["cosine"]._replace(arrays=arrays))
    assert_close(output, expected, TOLERANCE)
    for key, place in (("query", (1, 2, 0)), ("key", (0, 1, 0))):
        np.testing.assert_array_equal(slopes[key][place], 0.0)
        assert np.isfinite(slopes[key]).all()
        assert np.abs(slopes[key]).max() > 0.01


# --- what is not read (S10, S11)

POISONS = [np.nan, np.inf, -np.inf, 1e300]


def unread(case: Case) -> dict[str, Array]:
    """Say which entries of the arrays nobody reads, forward or backward, by the same masks as in `similarity_cases`."""
    places = {key: np.zeros(array.shape, bool) for key, array in case.arrays.items()}
    places["query"][0, :, 1] = True
    places["key"][..., UNSEEN_KEY, :] = True
    used = VISIBLE if "top_k" in case.options else VISIBLE & KEEP
    places["value"] |= ~used.reshape(2, 2, -1, 5).any(axis=2)[..., None]
    if "bias" in places:
        places["bias"] = ~VISIBLE
    return places


def poisoned(case: Case, poison: float) -> dict[str, Array]:
    return {key: np.where(place, poison, case.arrays[key]) for key, place in unread(case).items()}


@main_case
@pytest.mark.parametrize("name", frameworks.MODULES)
def test_unread_poison_changes_no_bit(name: str, case: str) -> None:
    frameworks.load(name)
    places = unread(CASES[case])
    clean_output, clean = answers(name, case)
    np.testing.assert_array_equal(clean_output[0, :, 1], 0.0)
    for poison in POISONS:
        with np.errstate(over="ignore", invalid="ignore"):  # products of two unread rows
            output, slopes = answers(name, case, poisoned(CASES[case], poison))
        assert_same_bits(output, clean_output)
        for key, gradient in slopes.items():
            assert_same_bits(gradient[~places[key]], clean[key][~places[key]])
            np.testing.assert_array_equal(gradient[places[key]], 0.0)


@pytest.mark.parametrize("poison", [np.nan, -np.inf])
@main_case
@pytest.mark.parametrize("name", frameworks.MODULES)
def test_a_visible_key_poisons_exactly_the_rows_that_see_it(name: str, case: str, poison: float) -> None:
    frameworks.load(name)
    arrays = {key: array.copy() for key, array in CASES[case].arrays.items()}
    arrays["key"][1, 1, 2, 0] = poison
    clean, (dirty, slopes) = answers(name, case)[0], answers(name, case, arrays)
    seeing = np.zeros(VISIBLE.shape[:-1], bool)
    seeing[1, 2:] = VISIBLE[1, 2:, :, 2]
    rows = seeing & (VISIBLE & KEEP).any(axis=-1) if "dropout" in CASES[case].options else seeing
    assert 0 < rows.sum() < rows[1].size  # beside them, a row of which everything is dropped is 0
    np.testing.assert_array_equal(np.isnan(dirty), np.repeat(rows[..., None], 2, axis=-1))
    assert_same_bits(dirty[~rows], clean[~rows])
    np.testing.assert_array_equal(slopes["key"][1, 1, 2], 0.0)  # it has no derivative
    assert np.isfinite(slopes["query"][~seeing]).all()
    exact = reference_gradients(CASES[case], arrays)
    for key, gradient in slopes.items():
        np.testing.assert_array_equal(np.isnan(gradient), np.isnan(exact[key]))


@pytest.mark.parametrize("keys", [0, 5])
@pytest.mark.parametrize("case", ["hard", "additive", "bilinear", "cosine"])
def test_empty_sizes(attn: ModuleType, case: str, keys: int) -> None:
    """S18: no keys, or no queries."""
    arrays = {key: array for key, array in CASES[case].arrays.items() if key not in ("bias", "sinks")}
    arrays |= {key: arrays[key][..., :keys, :] for key in ("key", "value")}
    arrays["query"] = arrays["query"] if keys == 0 else arrays["query"][..., :0, :]
    options = {key: option for key, option in CASES[case].options.items() if key not in ("mask", "dropout")}
    small = Case(CASES[case].operation, arrays, options, VISIBLE)
    output = run(attn, small)
    assert output.shape == small.cotangent.shape
    np.testing.assert_array_equal(output, 0.0)
    if attn is attnspec.reference:
        for key, gradient in reference_gradients(small).items():
            assert gradient.shape == arrays[key].shape
            np.testing.assert_array_equal(gradient, 0.0)


# --- what frameworks do to functions


@pytest.mark.parametrize("case", ["hard_noise", "additive"])
def test_torch_compile(case: str) -> None:
    frameworks.load("torch")
    torch = importlib.import_module("torch")
    importlib.import_module("torch._dynamo").reset()
    noise = CASES[case].options.get("noise")
    static = {key: option for key, option in CASES[case].options.items() if key not in ("noise", "mask")}
    tensors = {"mask": torch.tensor(VISIBLE)} | ({} if noise is None else {"noise": torch.tensor(noise)})
    module = importlib.import_module("attnspec.torch.similarities")
    bare = CASES[case]._replace(options=static)
    function = torch.compile(lambda given, more: call(module, bare, given, **more), backend="aot_eager", fullgraph=True)
    output, slopes = gradients("torch", lambda **given: function(given, tensors), bare.arrays, bare.cotangent)
    assert_close(output, run(attnspec.reference, CASES[case]), TOLERANCE)
    assert_same_gradients(slopes, reference_gradients(CASES[case]))


@pytest.mark.parametrize(("name", "case"), [("torch", "hard_noise"), ("torch", "cosine"), ("jax", "hard_noise")])
def test_mapped_gradients(name: str, case: str) -> None:
    """Over a leading axis: `vmap` of a gradient of the sum."""
    module = similarities(frameworks.load(name))
    framework = importlib.import_module("torch.func" if name == "torch" else name)
    arrays, options = CASES[case].arrays, CASES[case].options
    both = {key: np.stack([array, 0.5 * array + 0.25]) for key, array in arrays.items()}
    case_of = CASES[case]._replace(options=options | {"mask": None})

    def loss(given: dict[str, Any]) -> Any:
        return call(module, case_of, given).sum()

    function = framework.vmap(framework.grad(loss))
    function = framework.jit(function) if name == "jax" else function
    mapped = function({key: to_native(name, array) for key, array in both.items()})
    for index in range(2):
        given = {key: array[index] for key, array in both.items()}
        exact = reference_gradients(case_of, given, np.ones(case_of.cotangent.shape))
        assert_same_gradients({key: to_numpy(gradient)[index] for key, gradient in mapped.items()}, exact)


def test_jax_goes_forward_as_it_goes_back() -> None:
    """Straight-through in both directions: ⟨G, J t⟩ = ⟨Jᵀ G, t⟩."""
    frameworks.load("jax")
    jax = importlib.import_module("jax")
    case, rng = CASES["hard"], np.random.default_rng(31)
    moves = {key: rng.standard_normal(array.shape) for key, array in case.arrays.items()}
    function = function_of("jax", "hard")
    _, moved = jax.jit(lambda given, by: jax.jvp(lambda t: function(**t), (given,), (by,)))(case.arrays, moves)
    back = math.fsum((reference_gradients(case)[key] * move).sum() for key, move in moves.items())
    assert abs((case.cotangent * to_numpy(moved)).sum() - back) <= 1e-13 * abs(back) * 10


@pytest.mark.parametrize("case", ["hard_noise", "additive", "cosine"])
def test_tensorflow_with_unknown_sizes(case: str) -> None:
    frameworks.load("tensorflow")
    tf = importlib.import_module("tensorflow")
    arrays, function = CASES[case].arrays, function_of("tensorflow", case)
    specs = {key: tf.TensorSpec([None] * array.ndim, tf.float64, key) for key, array in arrays.items()}
    traced = tf.function(lambda given: function(**given), input_signature=[specs], autograph=False)
    output, slopes = gradients("tensorflow", lambda **given: traced(given), arrays, CASES[case].cotangent)
    assert_close(output, run(attnspec.reference, CASES[case]), TOLERANCE)
    assert_same_gradients(slopes, reference_gradients(CASES[case]))

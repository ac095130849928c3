"""S10 and S11 with every option: what a row does not read changes not one bit of it, forward or backward.

As in test_unread.py, which does the same for the older options: the bytes of a run with poison in unread places are
compared with those of a run without, and visible poison must arrive exactly at the rows that read it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_close, assert_same_bits
from native_tensors import gradients, to_native, to_numpy
from unread_cases import CASES, HEADS, KEEP, KEYS, KV_HEADS, PAIRS, VALUE_DIM, Array, Case, by_key, poisoned

from attnspec import reference
from attnspec.contract import Dropout, causal, full

LARGEST = float(np.finfo(np.float32).max)
POISONS = [np.nan, np.inf, -np.inf, 1e30, LARGEST]
CORE = ("query", "key", "value")
COTANGENT = np.random.default_rng(97).standard_normal((*PAIRS[:-1], VALUE_DIM + 1)).astype(np.float32)

# torch.compile imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def run(attn: ModuleType, case: Case, arrays: dict[str, Array], function: str = "attention_stages") -> Any:
    name = frameworks.name_of(attn)
    tensors = {key: to_native(name, array) for key, array in arrays.items()}
    core = [tensors.pop(key) for key in CORE]
    with np.errstate(over="ignore", invalid="ignore"):  # products of two unread rows
        return getattr(attn, function)(*core, **case.options(**tensors))


def output_and_logsumexp(name: str, case: Case) -> Callable[..., Any]:
    """Both results in one tensor, so that one cotangent reaches both."""
    attn = frameworks.load(name)
    framework = importlib.import_module("jax.numpy" if name == "jax" else name)
    join = framework.concat if name == "tensorflow" else framework.concatenate

    def function(query: Any, key: Any, value: Any, **numbers: Any) -> Any:
        stages = attn.attention_stages(query, key, value, **case.options(**numbers))
        return join([stages.output, stages.logsumexp[..., None]], -1)

    return function


def reference_gradients(case: Case, arrays: dict[str, Array]) -> dict[str, Array]:
    numbers = {key: array for key, array in arrays.items() if key not in CORE}
    with np.errstate(over="ignore", invalid="ignore"):
        given = reference.dot_product_attention_vjp(
            *(arrays[key] for key in CORE),
            COTANGENT[..., :-1],
            logsumexp_cotangent=COTANGENT[..., -1],
            **case.options(**numbers),
        )
    found: dict[str, Array] = dict(zip(CORE, given[:3], strict=True))
    found |= {} if given.sinks is None else {"sinks": given.sinks}
    for part in (getattr(given.bias, "left", given.bias), getattr(given.bias, "right", None)):
        for key, field in (("slopes", "slopes"), ("table", "table"), ("holes", "array")):
            found |= {key: getattr(part, field)} if hasattr(part, field) else {}
    return found


def assert_same_gradients(dirty: dict[str, Array], clean: dict[str, Array], places: dict[str, Array]) -> None:
    assert dirty.keys() == clean.keys()
    for key, gradient in dirty.items():
        assert np.isfinite(gradient).all(), key
        elsewhere = ~places[key] if key in places else np.ones(gradient.shape, bool)
        assert_same_bits(gradient[elsewhere], clean[key][elsewhere])
        np.testing.assert_array_equal(gradient[~elsewhere], 0.0)


# --- poison that nobody reads


@every_case
def test_the_cases_leave_something_unread_and_read_something(case: Case) -> None:
    arrays, places = case.arrays(), case.unread()
    assert places["value"].any()
    assert places["key"].any() or case is CASES["dropout"]
    assert all(where.any() for key, where in places.items() if key not in (*CORE, "slopes"))
    assert case.visible().any()
    assert not case.visible().all()
    np.testing.assert_array_equal(run(reference, case, arrays).logits != -np.inf, case.visible())


@every_case
def test_unread_poison_changes_no_bit(attn: ModuleType, case: Case) -> None:
    arrays, places, visible = case.arrays(), case.unread(), case.visible()
    clean = run(attn, case, arrays)
    assert np.isfinite(to_numpy(clean.output)).all()
    for poison in POISONS:
        bad = poisoned(arrays, places, poison)
        dirty = run(attn, case, bad)
        for stage in ("logits", "weights", "logsumexp", "output"):
            assert_same_bits(to_numpy(getattr(dirty, stage)), to_numpy(getattr(clean, stage)))
        assert_same_bits(to_numpy(dirty.scores)[visible], to_numpy(clean.scores)[visible])
        assert_same_bits(to_numpy(run(attn, case, bad, "dot_product_attention")), to_numpy(clean.output))
        if "sinks" not in arrays:
            output, logsumexp = run(attn, case, bad, "attention_with_logsumexp")
            assert_same_bits(to_numpy(output), to_numpy(clean.output))
            assert_same_bits(to_numpy(logsumexp), to_numpy(clean.logsumexp))


@every_case
def test_unread_poison_changes_no_gradient_of_the_reference(case: Case) -> None:
    arrays, places = case.arrays(), case.unread()
    clean = reference_gradients(case, arrays)
    assert clean.keys() == arrays.keys()
    for poison in POISONS:
        assert_same_gradients(reference_gradients(case, poisoned(arrays, places, poison)), clean, places)


EAGER = {"torch": lambda function: function, "tensorflow": lambda function: function}


def _compiled(compiler: str) -> tuple[str, Callable[[Any], Any]]:
    name, _, xla = compiler.partition("-")
    frameworks.load(name)
    framework = importlib.import_module(name)
    if name == "torch":
        importlib.import_module("torch._dynamo").reset()
        return name, functools.partial(framework.compile, fullgraph=True)
    if name == "tensorflow":
        return name, functools.partial(framework.function, autograph=False, jit_compile=bool(xla))
    return name, framework.jit


COMPILED = [("jax", case) for case in ("alibi", "t5", "sum", "dropout", "everything")]  # eager takes it seconds
COMPILED += [(way, "everything") for way in ("tensorflow", "tensorflow-xla", "torch")]


@pytest.mark.parametrize(
    ("way", "case", "is_compiled"),
    [*((name, case, False) for name in EAGER for case in CASES), *((way, case, True) for way, case in COMPILED)],
)
def test_unread_poison_changes_no_gradient(way: str, case: str, is_compiled: bool) -> None:
    frameworks.load(way.partition("-")[0])
    name, transform = _compiled(way) if is_compiled else (way, EAGER[way])
    arrays, places = CASES[case].arrays(), CASES[case].unread()
    function = transform(output_and_logsumexp(name, CASES[case]))
    clean_output, clean = gradients(name, function, arrays, COTANGENT)
    exact = reference_gradients(CASES[case], arrays)
    for key, gradient in clean.items():
        assert_close(gradient, exact[key].astype(np.float32), 1e-5)
    for poison in POISONS:
        output, dirty = gradients(name, function, poisoned(arrays, places, poison), COTANGENT)
        assert_same_bits(output, clean_output)
        assert_same_gradients(dirty, clean, places)


# --- poison that is read


def partly_read(pairs: Array) -> tuple[int, int, int]:
    """(batch element, key/value head, key) that some rows read and others not."""
    counts = by_key(pairs).sum(axis=-2)
    return tuple(np.argwhere((counts > 0) & (counts < by_key(pairs).shape[-2]))[-1])


def readers(pairs: Array, place: tuple[int, int, int]) -> Array:
    """The rows (b, h, i) that read a key or value."""
    b, g, j = place
    rows, heads = np.zeros(pairs.shape[:-1], bool), slice(g * HEADS // KV_HEADS, (g + 1) * HEADS // KV_HEADS)
    rows[b, heads] = pairs[b, heads, :, j]
    return rows


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@every_case
def test_a_visible_key_poisons_exactly_the_rows_that_see_it(attn: ModuleType, case: Case, poison: float) -> None:
    """Also where its pair is dropped; a row in which all is dropped stays 0, whatever its weights are."""
    arrays, place = case.arrays(), partly_read(case.visible())
    clean, seeing = run(attn, case, arrays), readers(case.visible(), place)
    arrays["key"][place][1] = poison
    dirty = run(attn, case, arrays)
    for stage in ("logits", "weights", "logsumexp", "output"):
        assert_same_bits(to_numpy(getattr(dirty, stage))[~seeing], to_numpy(getattr(clean, stage))[~seeing])
    np.testing.assert_array_equal(np.isnan(to_numpy(dirty.weights)), case.visible() & seeing[..., None])
    np.testing.assert_array_equal(np.isnan(to_numpy(dirty.logsumexp)), seeing)
    poisoned_rows = seeing & case.used().any(axis=-1)
    np.testing.assert_array_equal(np.isnan(to_numpy(dirty.output)), np.repeat(poisoned_rows[..., None], VALUE_DIM, -1))
    rest = to_numpy(dirty.output)[seeing & ~poisoned_rows]
    assert_same_bits(rest, np.zeros_like(rest))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@every_case
def test_a_visible_value_poisons_one_component_of_the_rows_that_keep_it(
    attn: ModuleType, case: Case, poison: float
) -> None:
    arrays, place = case.arrays(), partly_read(case.used())
    clean, reading = run(attn, case, arrays), readers(case.used(), place)
    assert 0 < reading.sum() < reading.size
    arrays["value"][place][1] = poison
    dirty = run(attn, case, arrays)
    for stage in ("scores", "logits", "weights", "logsumexp"):
        assert_same_bits(to_numpy(getattr(dirty, stage)), to_numpy(getattr(clean, stage)))
    expected = to_numpy(clean.output).copy()
    expected[reading, 1] = poison
    np.testing.assert_array_equal(to_numpy(dirty.output), expected)


@pytest.mark.parametrize("case", ["alibi", "t5", "sum", "everything"])
def test_a_visible_nan_in_a_bias_poisons_exactly_the_rows_that_read_it(attn: ModuleType, case: str) -> None:
    arrays, element = CASES[case].arrays(), CASES[case].reads
    visible, clean = CASES[case].visible(), run(attn, CASES[case], CASES[case].arrays())
    for option, reads in element.items():
        poisons, pair = arrays | {option: arrays[option].copy()}, tuple(np.argwhere(visible)[-1])
        poisons[option][reads(*pair)] = np.nan
        dirty = run(attn, CASES[case], poisons)
        rows = np.zeros(PAIRS[:-1], bool)
        # A sum of biases is a number: NaN beside −∞ is NaN, so what counts is the mask.
        for b, h, i, j in np.argwhere(CASES[case].mask()):
            rows[b, h, i] |= reads(b, h, i, j) == reads(*pair)
        assert 0 < rows.sum() < rows.size
        np.testing.assert_array_equal(np.isnan(to_numpy(dirty.logsumexp)), rows)
        assert_same_bits(to_numpy(dirty.output)[~rows], to_numpy(clean.output)[~rows])


def test_a_nan_sink_poisons_its_head_and_an_infinitely_low_one_is_none(attn: ModuleType) -> None:
    case = CASES["sinks"]
    arrays, seeing = case.arrays(), case.visible().any(axis=-1)
    clean = run(attn, case, arrays)
    empty = ~seeing
    np.testing.assert_array_equal(
        to_numpy(clean.logsumexp)[empty], np.broadcast_to(arrays["sinks"][:, None], PAIRS[:-1])[empty]
    )
    np.testing.assert_array_equal(to_numpy(clean.output)[empty], 0.0)
    arrays["sinks"][2] = np.nan
    dirty = run(attn, case, arrays)
    of_head = np.zeros(PAIRS[:-1], bool)
    of_head[:, 2] = True
    np.testing.assert_array_equal(np.isnan(to_numpy(dirty.logsumexp)), of_head)
    np.testing.assert_array_equal(np.isnan(to_numpy(dirty.output)).all(axis=-1), of_head & seeing)
    assert_same_bits(to_numpy(dirty.output)[~of_head], to_numpy(clean.output)[~of_head])
    arrays["sinks"][:] = -np.inf
    without = case._replace(options=lambda: {"mask": case.options(None)["mask"]}, numbers={})
    for stage, other in zip(run(attn, case, arrays), run(attn, without, without.arrays()), strict=True):
        assert_same_bits(to_numpy(stage), to_numpy(other))


@pytest.mark.parametrize("way", ["reference", "torch", "tensorflow", "jax"])
def test_an_infinitely_low_sink_has_no_gradient(way: str) -> None:
    case = CASES["sinks"]
    arrays = case.arrays() | {"sinks": np.array([0.5, -np.inf, -np.inf, 0.0], np.float32)}
    given = reference_gradients(case, arrays)
    if way != "reference":
        name, transform = _compiled(way) if way == "jax" else (way, EAGER[way])
        _, given = gradients(name, transform(output_and_logsumexp(name, case)), arrays, COTANGENT)
    assert all(np.isfinite(gradient).all() for gradient in given.values())
    np.testing.assert_array_equal(given["sinks"] == 0.0, [False, True, True, False])


# --- partial results


def _slices() -> tuple[dict[str, Array], Array]:
    """Three slices of three rows, and which of them are empty: one row in two slices, one row in all."""
    rng = np.random.default_rng(101)
    empty = np.array([[False, True, False, True], [True, True, False, True], [False, False, False, True]])
    logsumexps = np.where(empty, -np.inf, rng.standard_normal(empty.shape))
    arrays = {f"output{s}": rng.standard_normal((4, VALUE_DIM)) for s in range(3)}
    arrays |= {f"logsumexp{s}": logsumexps[s] for s in range(3)}
    return {key: array.astype(np.float32) for key, array in arrays.items()}, empty


def _merge(attn: ModuleType, arrays: dict[str, Any], sinks: Any = None) -> Any:
    parts = [[arrays[f"{kind}{s}"] for s in range(3)] for kind in ("output", "logsumexp")]
    return attn.merge_attention(*parts, sinks=sinks)


def _poisoned_slices(poison: float) -> dict[str, Array]:
    arrays, empty = _slices()
    return poisoned(arrays, {f"output{s}": empty[s] for s in range(3)}, poison)


@pytest.mark.parametrize("sinks", [None, 0.5], ids=["without_sinks", "with_sinks"])
@pytest.mark.parametrize("poison", POISONS)
def test_an_empty_slice_is_not_read(attn: ModuleType, poison: float, sinks: float | None) -> None:
    name = frameworks.name_of(attn)
    clean, dirty = (
        _merge(attn, {key: to_native(name, array) for key, array in arrays.items()}, sinks)
        for arrays in (_slices()[0], _poisoned_slices(poison))
    )
    assert np.isfinite(to_numpy(clean.output)).all()
    for part, other in zip(dirty, clean, strict=True):
        assert_same_bits(to_numpy(part), to_numpy(other))
    np.testing.assert_array_equal(to_numpy(clean.output)[3], 0.0)
    assert to_numpy(clean.logsumexp)[3] == (-np.inf if sinks is None else np.float32(sinks))


@pytest.mark.parametrize("sinks", [None, 0.5], ids=["without_sinks", "with_sinks"])
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", frameworks.FRAMEWORKS)
def test_an_empty_slice_reaches_no_gradient(name: str, poison: float, sinks: float | None) -> None:
    attn, empty = frameworks.load(name), _slices()[1]
    cotangent = np.random.default_rng(103).uniform(2.0, 3.0, (4, VALUE_DIM)).astype(np.float32)

    def function(**tensors: Any) -> Any:
        return _merge(attn, tensors, sinks).output

    _, clean = gradients(name, function, _slices()[0], cotangent)
    _, dirty = gradients(name, function, _poisoned_slices(poison), cotangent)
    places = {f"{kind}{s}": empty[s] for s in range(3) for kind in ("output", "logsumexp")}
    assert_same_gradients(dirty, clean, places)
    assert np.abs(clean["logsumexp0"]).max() > 0.01


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_slice_with_weight_is_read_however_small_it_is(attn: ModuleType, poison: float) -> None:
    name, (arrays, _) = frameworks.name_of(attn), _slices()
    clean = to_numpy(_merge(attn, {key: to_native(name, array) for key, array in arrays.items()}).output)
    arrays["output2"][[0, 2], 1] = poison
    arrays["logsumexp2"][2] = -300.0  # its weight is 0 in float32
    dirty = to_numpy(_merge(attn, {key: to_native(name, array) for key, array in arrays.items()}).output)
    expected = np.zeros(clean.shape)
    expected[[0, 2], 1] = poison
    np.testing.assert_array_equal(np.where(np.isfinite(dirty), 0.0, dirty), expected)
    assert_same_bits(dirty[[1, 3]], clean[[1, 3]])


# --- dropout, by hand


def test_a_row_in_which_all_is_dropped_is_zero_even_if_its_weights_are_nan(attn: ModuleType) -> None:
    query, key, value = (CASES["dropout"].arrays()[name] for name in CORE)
    key[0, 0, 0, 0] = value[0, 0, 0, 0] = np.nan
    keep = np.ones((PAIRS[2], KEYS), bool)
    keep[1] = False
    for mask in (causal(0), full()):
        stages = attn.attention_stages(query, key, value, mask=mask, dropout=Dropout(0.5, keep))
        assert np.isnan(to_numpy(stages.weights)[0, :2, 1, 0]).all()
        output = to_numpy(stages.output)
        assert_same_bits(output[:, :, 1], np.zeros_like(output[:, :, 1]))
        assert np.isnan(np.delete(output[0, :2], 1, axis=1)).all()
    assert KEEP[0, :, 3].any() == np.False_

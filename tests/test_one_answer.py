"""S17: stages, gradients, compilation, memory layouts and repetitions never change what an attention means.

Every operation is a function of floating tensors (`answer_calls.py`), asked in every way that its framework has. The
answer of the reference is the measure: at float64 to 1e-13 of the largest number, at float32 within the bound that the
conformance suite derives for every element.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import answer_calls
import frameworks
import numpy as np
import pytest
from answer_calls import CALLS, HEADS, IDS, KEEP, LAYOUTS, POSITIONS, QUERY_IDS, VISIBLE, Array
from comparisons import assert_close, assert_same_bits
from native_tensors import gradients, to_native, to_numpy
from option_cases import assert_within_bounds, exact_and_bounds

from attnspec import reference

TOLERANCE = 1e-13
COMPILED_CALLS = [
    "masks",
    "t5",
    "everything",
    "partials",
    "self_attention",
    "multi_head_attention",
    "rotary_half_split",
]

# torch.compile imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")

every_call = pytest.mark.parametrize("call", CALLS)


def answers(result: Any) -> list[Array]:
    return [to_numpy(tensor) for tensor in (result if isinstance(result, tuple) else (result,))]


def ask(attn: ModuleType, call: str, arrays: dict[str, Array] | None = None) -> list[Array]:
    """Call with native tensors, not compiled."""
    name, arrays = frameworks.name_of(attn), CALLS[call].arrays if arrays is None else arrays
    return answers(CALLS[call].function(attn, **{key: to_native(name, array) for key, array in arrays.items()}))


@functools.cache
def expected(call: str) -> list[Array]:
    return answers(CALLS[call].function(reference, **CALLS[call].arrays))


def cotangent(call: str) -> Array:
    return np.random.default_rng(73).standard_normal(main_result(expected(call)).shape)


def main_result(result: Any) -> Any:
    """The output where there are more results: the first of two, the last of five."""
    return result[-1 if len(result) == 5 else 0] if isinstance(result, tuple | list) else result


@functools.cache
def expected_gradients(call: str) -> dict[str, Array]:
    """What one framework says, without compilation; tests/test_transforms.py compares it with differences."""
    return differentiated("torch", call)[1]


def differentiated(name: str, call: str, transform: Any = None) -> tuple[Array, dict[str, Array]]:
    attn, function = frameworks.load(name), CALLS[call].function
    alone = lambda **tensors: main_result(function(attn, **tensors))  # noqa: E731
    return gradients(name, alone if transform is None else transform(alone), CALLS[call].arrays, cotangent(call))


# --- every way of asking


def _jit() -> Any:
    return importlib.import_module("jax").jit


def _graph(**options: Any) -> Callable[[Any], Any]:
    return functools.partial(importlib.import_module("tensorflow").function, autograph=False, **options)


def _compile(**options: Any) -> Callable[[Any], Any]:
    torch = importlib.import_module("torch")
    importlib.import_module("torch._dynamo").reset()
    return functools.partial(torch.compile, fullgraph=True, **options)


COMPILERS: dict[str, tuple[str, Callable[[], Callable[[Any], Any]]]] = {
    "jax-jit": ("jax", _jit),
    "tensorflow-graph": ("tensorflow", _graph),
    "tensorflow-xla": ("tensorflow", lambda: _graph(jit_compile=True)),
    "torch-compile": ("torch", lambda: _compile(backend="aot_eager")),
}


COMPILED = [(compiler, call) for compiler in COMPILERS for call in COMPILED_CALLS]
COMPILED = [way for way in COMPILED if way[0] != "tensorflow-xla" or way[1] in ("t5", "everything", "partials")]


@every_call
def test_eager_is_the_reference(attn: ModuleType, call: str) -> None:
    for answer, exact in zip(ask(attn, call), expected(call), strict=True):
        assert_close(answer, exact, TOLERANCE)


@pytest.mark.parametrize(("compiler", "call"), COMPILED)
def test_compiled_with_gradients_is_eager_without(compiler: str, call: str) -> None:
    name, transform = COMPILERS[compiler]
    frameworks.load(name)
    output, given = differentiated(name, call, transform())
    assert_close(output, main_result(expected(call)), TOLERANCE)
    assert given.keys() == CALLS[call].arrays.keys()
    largest = max(np.abs(gradient).max() for gradient in expected_gradients(call).values())
    for key, exact in expected_gradients(call).items():
        assert np.abs(given[key] - exact).max() <= 1e-12 * largest, key


@pytest.mark.parametrize("compiler", COMPILERS)
def test_compiled_stages(compiler: str) -> None:
    name, transform = COMPILERS[compiler]
    attn = frameworks.load(name)
    compiled = transform()(lambda **tensors: CALLS["stages"].function(attn, **tensors))
    tensors = {key: to_native(name, array) for key, array in CALLS["stages"].arrays.items()}
    first, second = answers(compiled(**tensors)), answers(compiled(**tensors))
    for answer, again, exact in zip(first, second, expected("stages"), strict=True):
        assert_close(answer, exact, TOLERANCE)
        assert_same_bits(again, answer)


@pytest.mark.parametrize(
    ("way", "call"), [*(("graph", call) for call in CALLS), ("xla", "everything"), ("xla", "partials")]
)
def test_tensorflow_with_unknown_sizes(way: str, call: str) -> None:
    attn, tf = frameworks.load("tensorflow"), importlib.import_module("tensorflow")
    arrays = CALLS[call].arrays
    # What must be known: the number of buckets, and the number of heads where ALiBi's slopes follow from it.
    known = ({"table": (6, None)} if call == "t5" else {}) | (
        {"query": (None, HEADS, None, None)} if call in ("alibi", "partials") else {}
    )
    specs = [tf.TensorSpec(known.get(key, [None] * a.ndim), a.dtype) for key, a in arrays.items()]

    @tf.function(input_signature=specs, autograph=False, jit_compile=way == "xla")
    def function(*tensors: Any) -> Any:
        return CALLS[call].function(attn, **dict(zip(arrays, tensors, strict=True)))

    for answer, exact in zip(answers(function(*map(tf.constant, arrays.values()))), expected(call), strict=True):
        assert_close(answer, exact, TOLERANCE)


FLOAT32_WAYS = {**COMPILERS, "torch-inductor": ("torch", _compile)}
FLOAT32_WAYS |= {name: (name, lambda: lambda function: function) for name in frameworks.FRAMEWORKS}


@pytest.mark.parametrize("way", FLOAT32_WAYS)
def test_float32_stays_within_the_derived_bound(way: str) -> None:
    name, transform = FLOAT32_WAYS[way]
    attn = frameworks.load(name)
    arrays = {key: array.astype(np.float32) for key, array in CALLS["stages"].arrays.items()}
    core = [arrays[key] for key in ("query", "key", "value")]
    options = answer_calls.every_option(reference, **{key: arrays[key] for key in ("bias", "slopes", "sinks")})
    exact, bounds = exact_and_bounds(core, options, "float32")
    function = transform()(lambda **tensors: CALLS["stages"].function(attn, **tensors))
    stages = function(**{key: to_native(name, array) for key, array in arrays.items()})
    for stage in exact._fields:
        assert_within_bounds(to_numpy(getattr(stages, stage)), getattr(exact, stage), getattr(bounds, stage))


# --- the same bits, where the same path runs


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("sinks", [False, True], ids=["without_sinks", "with_sinks"])
def test_output_with_stages_is_output_without(attn: ModuleType, dtype: str, sinks: bool) -> None:
    arrays = {key: array.astype(dtype) for key, array in CALLS["stages"].arrays.items()}
    core = [arrays[key] for key in ("query", "key", "value")]
    options = answer_calls.every_option(attn, **{key: arrays[key] for key in ("bias", "slopes", "sinks")})
    if not sinks:
        del options["sinks"]
    stages = attn.attention_stages(*core, **options)
    assert_same_bits(to_numpy(attn.dot_product_attention(*core, **options)), to_numpy(stages.output))
    if not sinks:
        for part, stage in zip(attn.attention_with_logsumexp(*core, **options), stages[:2:-1], strict=True):
            assert_same_bits(to_numpy(part), to_numpy(stage))


@every_call
def test_with_gradients_is_without(call: str) -> None:
    for name in ("torch", "tensorflow"):
        output, _ = differentiated(name, call)
        assert_same_bits(output, main_result(ask(frameworks.load(name), call)))
    torch, attn = importlib.import_module("torch"), frameworks.load("torch")
    usual = main_result(ask(attn, call))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert_same_bits(main_result(ask(attn, call)), usual)


@every_call
def test_twice_is_once_and_inputs_stay_as_they_were(attn: ModuleType, call: str) -> None:
    """Native tensors and NumPy arrays; these may be read-only, too."""
    name, (function, arrays) = frameworks.name_of(attn), CALLS[call]
    plain = {key: array.copy() for key, array in arrays.items()}
    for tensors in ({key: to_native(name, array) for key, array in arrays.items()}, plain):
        first = answers(function(attn, **tensors))
        random.seed(5)
        np.random.seed(5)
        ask(attn, "everything")
        for answer, again in zip(first, answers(function(attn, **tensors)), strict=True):
            assert_same_bits(again, answer)
        for key, tensor in tensors.items():
            assert_same_bits(to_numpy(tensor), arrays[key])
    for array in plain.values():
        array.flags.writeable = False
    for answer, other in zip(answers(function(attn, **plain)), first, strict=True):
        assert_same_bits(answer, other)


# --- memory layouts


@every_call
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_numpy_arrays(attn: ModuleType, layout: str, call: str) -> None:
    arrays = {key: LAYOUTS[layout](array) for key, array in CALLS[call].arrays.items()}
    contiguous = {key: np.array(array, np.float64, order="C") for key, array in arrays.items()}
    exact = answers(CALLS[call].function(reference, **contiguous))
    for answer, other in zip(answers(CALLS[call].function(attn, **arrays)), exact, strict=True):
        assert_close(answer, other, TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_masks_lengths_and_kept_weights(attn: ModuleType, layout: str) -> None:
    lengths = np.array([3, 2])

    def options(change: Callable[[Array], Array]) -> dict[str, Any]:
        ids = change(QUERY_IDS), change(answer_calls.KEY_IDS)
        mask = attn.segments(*ids) | attn.prefix(change(lengths), change(lengths)) | change(VISIBLE)
        return {"mask": mask & attn.key_lengths(change(lengths)), "dropout": attn.Dropout(0.5, change(KEEP))}

    def contiguous(array: Array) -> Array:
        return np.array(LAYOUTS[layout](array), array.dtype, order="C")

    core = [CALLS["plain"].arrays[key] for key in ("query", "key", "value")]
    expected_stages = attn.attention_stages(*core, **options(contiguous))
    stages = attn.attention_stages(*core, **options(LAYOUTS[layout]))
    for stage, other in zip(stages, expected_stages, strict=True):
        assert_same_bits(to_numpy(stage), to_numpy(other))
    inputs = CALLS["rotary_half_split"].arrays["inputs"]
    ways = [change(POSITIONS) for change in (LAYOUTS[layout], contiguous)]
    turned, other = (attn.rotary_embedding(inputs, positions, pairing="interleaved") for positions in ways)
    assert_same_bits(to_numpy(turned), to_numpy(other))


@every_call
@pytest.mark.parametrize("layout", ["transposed", "expanded", "every_second"])
def test_layout_of_torch_tensors(layout: str, call: str) -> None:
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    change = {
        "transposed": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
        "expanded": lambda t: t[:1].expand(t.shape) if t.ndim else t,
        "every_second": lambda t: t.repeat_interleave(2, -1)[..., ::2] if t.ndim else t,
    }[layout]
    tensors = {key: change(torch.tensor(array)).requires_grad_() for key, array in CALLS[call].arrays.items()}
    versions = {key: tensor._version for key, tensor in tensors.items()}
    contiguous = {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}
    result = CALLS[call].function(attn, **tensors)
    for answer, exact in zip(answers(result), answers(CALLS[call].function(reference, **contiguous)), strict=True):
        assert_close(answer, exact, TOLERANCE)
    main_result(result).sum().backward()
    assert {key: tensor._version for key, tensor in tensors.items()} == versions
    for name, tensor in tensors.items():
        # Which keys win has no derivative, so that the noise is read by nothing that has.
        assert (name == "noise") if tensor.grad is None else torch.isfinite(tensor.grad).all(), name


# --- the reference, block by block


@every_call
@pytest.mark.parametrize("elements", [1, 7, 64, 2**40])
def test_blocks_of_the_reference(monkeypatch: pytest.MonkeyPatch, elements: int, call: str) -> None:
    exact = expected(call)
    monkeypatch.setattr("attnspec.reference.attention.BLOCK_ELEMENTS", elements)
    for answer, other in zip(answers(CALLS[call].function(reference, **CALLS[call].arrays)), exact, strict=True):
        assert_close(answer, other, 1e-15)


@pytest.mark.parametrize("elements", [1, 7, 64, 2**40])
@pytest.mark.parametrize("rank", [2, 4])
def test_blocks_of_the_gradients(monkeypatch: pytest.MonkeyPatch, elements: int, rank: int) -> None:
    arrays = dict(CALLS["everything"].arrays)
    options = answer_calls.every_option(reference, **{key: arrays.pop(key) for key in ("bias", "slopes", "sinks")})
    if rank == 2:  # three or more rows in a block
        arrays = {key: array[0, 0] for key, array in arrays.items()}
        table = np.linspace(-1.0, 1.0, 6)
        bias = CALLS["everything"].arrays["bias"][0, 0] + reference.relative_position_bias(
            table, bidirectional=True, max_distance=3, offset=1
        )
        options = {"bias": bias, "mask": reference.segments(IDS[:3], IDS), "sinks": 0.5, "softcap": 3.0}
    shape = reference.dot_product_attention(**arrays, **options).shape
    given = {"output_cotangent": np.cos(np.arange(np.prod(shape))).reshape(shape)}
    given["logsumexp_cotangent"] = given["output_cotangent"][..., 0]

    def leaves() -> list[Array]:
        *rest, bias, sinks = reference.dot_product_attention_vjp(**arrays, **given, **options)
        parts = [bias.left, bias.right]
        return [*rest, sinks, *(getattr(p, "array", getattr(p, "slopes", getattr(p, "table", None))) for p in parts)]

    exact = leaves()
    monkeypatch.setattr("attnspec.reference.attention.BLOCK_ELEMENTS", elements)
    for gradient, other in zip(leaves(), exact, strict=True):
        assert np.abs(other).max() > 0.01
        assert_close(gradient, other, 1e-14)


# --- global state


def _state(name: str) -> list[Any]:
    shared = [np.geterr(), str(np.random.get_state()), random.getstate(), np.get_printoptions()]
    if name == "torch":
        torch = importlib.import_module("torch")
        shared += [torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()]
        shared += [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_rng_state().tolist()]
        shared += [torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()]
    if name == "tensorflow":
        tf = importlib.import_module("tensorflow")
        config = importlib.import_module("tensorflow.python.framework.config")
        shared += [tf.executing_eagerly(), tf.config.functions_run_eagerly(), tf.config.optimizer.get_jit()]
        shared += [config.is_op_determinism_enabled(), tf.config.experimental.tensor_float_32_execution_enabled()]
        shared += [tf.config.threading.get_intra_op_parallelism_threads(), tf.config.get_soft_device_placement()]
        shared += [tf.random.get_global_generator().state.numpy().tolist()]
    if name == "jax":
        jax = importlib.import_module("jax")
        shared += [sorted(jax.config.values.items(), key=str), jax.numpy.asarray(1.0).dtype]
    return shared


def test_calls_leave_global_state_alone(attn: ModuleType) -> None:
    name = frameworks.name_of(attn)
    before = _state(name)
    for call in ("everything", "partials", "multi_head_attention", "rotary_half_split"):
        ask(attn, call)
        if name in ("torch", "tensorflow"):  # eager gradients take JAX seconds
            differentiated(name, call)
    assert _state(name) == before


@contextlib.contextmanager
def _other_state(name: str) -> Iterator[None]:
    """Global settings that have nothing to do with a call whose tensors bring their dtype."""
    framework = importlib.import_module(name)
    if name == "torch":
        framework.manual_seed(11)
        framework.set_default_dtype(framework.float64)
    try:
        with framework.enable_x64(False) if name == "jax" else contextlib.nullcontext():
            yield
    finally:
        if name == "torch":
            framework.set_default_dtype(framework.float32)


@pytest.mark.parametrize("call", ["everything", "rotary_half_split"])
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_global_settings_do_not_change_float32(name: str, call: str) -> None:
    attn = frameworks.load(name)
    arrays = {key: array.astype(np.float32) for key, array in CALLS[call].arrays.items()}
    usual = ask(attn, call, arrays)
    with _other_state(name):
        for answer, other in zip(ask(attn, call, arrays), usual, strict=True):
            assert_same_bits(answer, other)


def test_the_calls_ask_for_every_operation() -> None:
    asked: set[str] = set()

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(reference, name)

    for call in CALLS.values():
        call.function(Recorder(), **call.arrays)
    assert {name for name in reference.__all__ if name.endswith(("attention", "embedding", "pairs"))} <= asked
    assert {"attention_stages", "attention_with_logsumexp", "sinusoidal_positions", "alibi"} <= asked

"""Each framework's automatic gradients at float64 against the reference's closed forms: every option, every operation.

And beyond the first derivative: forward mode, second derivatives, and finite differences by the framework's own tools.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import MASKS, Array, Dims, draw, draw_bias, draw_booleans, draw_values, offsets
from comparisons import assert_close
from native_tensors import gradients, to_native, to_numpy

from attnspec import reference
from attnspec.contract import Dropout

TOLERANCE = 1e-13
SMALL = Dims((2,), 4, 2, 3, 5, 2, 3)

# torch.func.jvp imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


@pytest.fixture(params=["torch", "tensorflow", "tensorflow-compiled", "jax"], scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each way to differentiate whose framework is installed."""
    frameworks.load(request.param.partition("-")[0])
    return request.param


def by_autodiff(name: str, function: Callable[..., Any], arrays: dict[str, Array], cotangent: Array) -> Any:
    """Differentiate `function(module, **arrays)`; JAX always compiled, which is what it is fast at."""
    name, _, compiled = name.partition("-")
    function = functools.partial(function, frameworks.load(name))
    if name == "jax":
        function = importlib.import_module("jax").jit(function)
    if compiled:
        function = importlib.import_module("tensorflow").function(function)
    return gradients(name, function, arrays, cotangent)


def joined(output: Any, logsumexp: Any) -> Any:
    """Put output and logsumexp side by side, so that one cotangent serves both."""
    name = type(output).__module__.partition(".")[0]
    if name == "torch":
        return importlib.import_module("torch").cat([output, logsumexp[..., None]], -1)
    if name == "tensorflow":
        return importlib.import_module("tensorflow").concat([output, logsumexp[..., None]], -1)
    return importlib.import_module("jax.numpy").concatenate([output, logsumexp[..., None]], -1)


# --- the core


def _bias(module: Any, arrays: dict[str, Any]) -> Any:
    """Write the sum of all biases that there are: an array, slopes, a table."""
    parts = []
    if "bias" in arrays:
        parts.append(arrays["bias"])
    if "slopes" in arrays:
        parts.append(module.alibi(arrays["slopes"], symmetric=True, offset=offsets(SMALL)))
    if "table" in arrays:
        parts.append(module.relative_position_bias(arrays["table"], bidirectional=True, max_distance=4, offset="end"))
    return functools.reduce(lambda left, right: left + right, parts) if parts else None


def _drawn(dims: Dims, *names: str) -> dict[str, Array]:
    rng = np.random.default_rng(8)
    every = {
        "bias": draw_bias(dims.pairs, masked=0.1),
        "row_bias": draw_bias((1, dims.keys)),
        "head_bias": draw_bias((1, dims.heads, 1, 1)),
        "sinks": np.resize([0.5, -np.inf, 3.0, -2.0], dims.heads),
        "slopes": rng.standard_normal(dims.heads),
        "table": rng.standard_normal((8, dims.heads)),
    }
    arrays = dict(zip(("query", "key", "value"), draw(dims), strict=True))
    return arrays | {name.removeprefix("row_").removeprefix("head_"): every[name] for name in names}


KEEP = draw_booleans(SMALL.pairs, seed=6)
EVERYTHING = {"scale": -0.7, "softcap": 2.5, "dropout": Dropout(0.3, KEEP)}
CORES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "segments": ("segments_batch", [], {}),
    "chunked": ("chunked_batch", [], {}),
    "prefix": ("prefix_end", [], {}),
    "predicate": ("array_and_predicate", ["row_bias"], {}),
    "sinks": ("and_queries", ["sinks", "head_bias"], {}),
    "dropout": ("causal_end", [], {"dropout": Dropout(0.3, KEEP)}),
    "slopes": ("none", ["slopes"], {}),
    "table": ("none", ["table"], {}),
    "sum": ("causal_end", ["bias", "slopes", "table"], {}),
    "everything": ("and_queries", ["bias", "slopes", "table", "sinks"], EVERYTHING),
    "nothing": ("nothing", ["bias", "sinks"], EVERYTHING),
}


@pytest.mark.parametrize("case", CORES)
def test_stages(name: str, case: str) -> None:
    """Output and logsumexp together, by every array that goes in."""
    mask, names, options = CORES[case]
    arrays, made = _drawn(SMALL, *names), MASKS[mask].make(SMALL)
    rng = np.random.default_rng(31)
    cotangent, pull = draw_values((2, 4, 3, 3), rng), draw_values((2, 4, 3), rng)

    def function(module: Any, **given: Any) -> Any:
        operands = [given[key] for key in ("query", "key", "value")]
        stages = module.attention_stages(
            *operands, mask=made, bias=_bias(module, given), sinks=given.get("sinks"), **options
        )
        return joined(stages.output, stages.logsumexp)

    _, actual = by_autodiff(name, function, arrays, np.concatenate([cotangent, pull[..., None]], axis=-1))
    expected = reference.dot_product_attention_vjp(
        *(arrays[key] for key in ("query", "key", "value")),
        cotangent,
        logsumexp_cotangent=pull,
        mask=made,
        bias=_bias(reference, arrays),
        sinks=arrays.get("sinks"),
        **options,
    )
    leaves = {key: getattr(expected, key) for key in ("query", "key", "value", "sinks")}
    bias = expected.bias
    for part in ("table", "slopes", "bias"):  # the last that was added is on the right
        if part in arrays:
            own = bias.right if hasattr(bias, "right") else bias
            leaves[part] = getattr(own, {"bias": "array"}.get(part, part), own)
            bias = getattr(bias, "left", None)
    largest = max(np.abs(gradient).max() for gradient in leaves.values() if gradient is not None)
    for key, gradient in actual.items():
        assert np.abs(gradient - leaves[key]).max() <= TOLERANCE * largest, key


# --- operations with projections


def _operation(operation: str) -> tuple[Callable[..., Any], Dims, dict[str, tuple[int, ...]], tuple[int, ...]]:
    """How to call an operation of a module with arrays by name, its core, its operands' shapes and its output's."""
    if operation == "self_attention":
        shapes = {"inputs": (2, 5, 4), "query_weight": (4, 2), "key_weight": (4, 2), "value_weight": (4, 3)}
        return lambda module, **given: module.self_attention(**given), Dims((2,), 1, 1, 5, 5, 2, 3), shapes, (2, 5, 3)
    if operation == "key_value_attention":
        shapes = {"query": (2, 2), "keys": (2, 5, 2), "values": (2, 5, 3)}
        return lambda module, **given: module.key_value_attention(**given), Dims((2,), 1, 1, 1, 5, 2, 3), shapes, (2, 3)
    shapes = {"query": (2, 3, 4), "key": (2, 5, 3), "value": (2, 5, 5)}
    shapes |= {"query_weight": (4, 8), "key_weight": (3, 4), "value_weight": (5, 4), "output_weight": (8, 3)}
    shapes |= {"query_bias": (8,), "key_bias": (4,), "value_bias": (4,), "output_bias": (3,)}

    def multi_head(module: Any, **given: Any) -> Any:
        parameters = {key: given.pop(key) for key in [*given] if key in module.MultiHeadParameters._fields}
        operands = [given.pop(key) for key in ("query", "key", "value")]
        made = module.MultiHeadParameters(**parameters)
        return module.multi_head_attention(*operands, made, num_heads=4, num_kv_heads=2, **given)

    return multi_head, Dims((2,), 4, 2, 3, 5, 2, 2), shapes, (2, 3, 3)


@pytest.mark.parametrize("operation", ["self_attention", "key_value_attention", "multi_head_attention"])
def test_operations_with_projections(name: str, operation: str) -> None:
    function, dims, shapes, result = _operation(operation)
    rng = np.random.default_rng(33)
    arrays = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    arrays |= {"bias": draw_bias(dims.pairs, masked=0.1), "sinks": np.linspace(-1.0, 1.0, dims.heads)}
    keep, made = draw_booleans(dims.pairs, seed=6), MASKS["keys_batch"].make(dims)
    options = {"mask": made, "scale": -0.7, "softcap": 2.5, "dropout": Dropout(0.3, keep)}
    cotangent = draw_values(result, rng)
    output, actual = by_autodiff(name, lambda module, **given: function(module, **given, **options), arrays, cotangent)
    assert_close(output, function(reference, **arrays, **options), TOLERANCE)

    if operation == "multi_head_attention":
        given = {key: arrays[key] for key in arrays if key in reference.MultiHeadParameters._fields}
        operands = [arrays[key] for key in ("query", "key", "value")]
        expected = reference.multi_head_attention_vjp(
            *operands,
            reference.MultiHeadParameters(**given),
            cotangent,
            num_heads=4,
            num_kv_heads=2,
            bias=arrays["bias"],
            sinks=arrays["sinks"],
            **options,
        )
        leaves = expected._asdict() | expected.parameters._asdict()
    else:
        pull_back = getattr(reference, f"{operation}_vjp")
        expected = pull_back(**arrays, output_cotangent=cotangent, **options)
        leaves = expected._asdict()
        leaves |= {"keys": leaves.get("key"), "values": leaves.get("value")}
    largest = max(np.abs(leaves[key]).max() for key in actual)
    for key, gradient in actual.items():
        assert np.abs(gradient - leaves[key]).max() <= TOLERANCE * largest, key


@pytest.mark.parametrize("pairing", ["half_split", "interleaved"])
def test_rotary_embedding(name: str, pairing: str) -> None:
    rng = np.random.default_rng(35)
    positions, options = rng.integers(-9, 90, (2, 5)), {"pairing": pairing, "rotary_dim": 4, "base": 50.0}
    inputs, cotangent = rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((2, 3, 5, 6))
    _, actual = by_autodiff(
        name,
        lambda module, inputs: module.rotary_embedding(inputs, positions, **options),
        {"inputs": inputs},
        cotangent,
    )
    assert_close(actual["inputs"], reference.rotary_embedding_vjp(positions, cotangent, **options), TOLERANCE)


def test_a_visible_value_of_infinity_is_a_constant(name: str) -> None:
    """As in the reference: a cotangent of 0 in its component leaves all other gradients finite."""
    arrays, cotangent = _drawn(SMALL), draw_values((2, 4, 3, 3), np.random.default_rng(31))
    arrays["value"][1, 0, 2, 1] = np.inf
    cotangent[1, :2, :, 1] = 0.0
    _, actual = by_autodiff(name, lambda module, **given: module.dot_product_attention(**given), arrays, cotangent)
    arrays["value"][1, 0, 2, 1] = 0.0  # the component is not looked at
    expected = reference.dot_product_attention_vjp(**arrays, output_cotangent=cotangent)
    for key, gradient in actual.items():
        assert_close(gradient, getattr(expected, key), TOLERANCE)


# --- beyond the first derivative

TINY = Dims((), 2, 1, 2, 3, 2, 2)


def _tiny() -> dict[str, Array]:
    rng = np.random.default_rng(37)
    arrays = {"query": (2, 2, 2), "key": (1, 3, 2), "value": (1, 3, 2), "bias": (2, 3), "sinks": (2,), "slopes": (2,)}
    arrays = {key: (1, *shape) if key in ("query", "key", "value") else shape for key, shape in arrays.items()}
    return {key: rng.standard_normal(shape) for key, shape in arrays.items()}


TINY_KEEP = np.array([[True, True, False], [True, False, True]])


def _loss_terms(module: Any, query: Any, key: Any, value: Any, bias: Any, sinks: Any, slopes: Any) -> Any:
    """Output and logsumexp with everything on; key 2 is hidden from query 0."""
    stages = module.attention_stages(
        query,
        key,
        value,
        mask=module.causal(1),
        bias=bias + module.alibi(slopes, symmetric=True, offset=1),
        softcap=3.0,
        sinks=sinks,
        dropout=Dropout(0.25, TINY_KEEP),
    )
    return stages.output, stages.logsumexp


def _merged(module: Any, query: Any, key: Any, value: Any, bias: Any, sinks: Any, slopes: Any) -> Any:
    """The same without dropout, from two slices of the keys, one of which the first query does not see."""
    parts = [
        module.attention_with_logsumexp(
            query,
            key[:, :, keys],
            value[:, :, keys],
            mask=module.causal(1 - keys.start),
            bias=bias[:, keys] + module.alibi(slopes, symmetric=True, offset=1 - keys.start),
        )
        for keys in (slice(0, 2), slice(2, 3))
    ]
    return module.merge_attention([part.output for part in parts], [part.logsumexp for part in parts], sinks=sinks)


TERMS = {"stages": _loss_terms, "merged": _merged}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS.keys())
def test_torch_gradcheck(terms: Callable[..., Any]) -> None:
    module, torch = frameworks.load("torch"), importlib.import_module("torch")
    leaves = [torch.tensor(array, requires_grad=True) for array in _tiny().values()]
    function = functools.partial(terms, module)
    assert torch.autograd.gradcheck(lambda *given: tuple(function(*given)), leaves)
    assert torch.autograd.gradgradcheck(lambda *given: tuple(function(*given)), leaves)


def _differences(function: Callable[..., Array], arrays: list[Array], index: int) -> Array:
    """Central differences by the elements of one array: h² of the third derivative, 2^-53 / h of rounding."""
    step, columns = 2.0**-17, []
    for at in np.ndindex(arrays[index].shape):
        moved = [array.copy() for array in arrays], [array.copy() for array in arrays]
        moved[0][index][at] += step
        moved[1][index][at] -= step
        columns.append((function(*moved[0]) - function(*moved[1])) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *arrays[index].shape)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS.keys())
def test_jax_forward_mode_and_second_order(terms: Callable[..., Any]) -> None:
    module, jax = frameworks.load("jax"), importlib.import_module("jax")

    def loss(*given: Any) -> Any:
        output, logsumexp = terms(module, *given)
        return (output**2).sum() + (logsumexp**2).sum()

    arrays, every = [*_tiny().values()], tuple(range(6))
    reverse, forward = (jax.jit(mode(loss, argnums=every)) for mode in (jax.grad, jax.jacfwd))
    for one, other in zip(forward(*arrays), reverse(*arrays), strict=True):
        assert_close(to_numpy(one), to_numpy(other), TOLERANCE)
    tangents = [draw_values(array.shape, np.random.default_rng(41)) for array in arrays]
    _, along = jax.jit(lambda given, moved: jax.jvp(loss, given, moved))(tuple(arrays), tuple(tangents))
    slope = sum(
        (tangent * to_numpy(gradient)).sum() for tangent, gradient in zip(tangents, reverse(*arrays), strict=True)
    )
    assert_close(to_numpy(along), slope, TOLERANCE)
    hessian = jax.jit(jax.jacfwd(jax.grad(loss, argnums=every), argnums=every))(*arrays)
    for row in every:
        for column in every:
            expected = _differences(lambda *given: to_numpy(reverse(*given)[row]), arrays, column)  # noqa: B023
            assert np.abs(to_numpy(hessian[row][column]) - expected).max() <= 1e-8 * (1.0 + np.abs(expected).max())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS.keys())
def test_tensorflow_second_order(terms: Callable[..., Any], compiled: bool) -> None:
    """Nested tapes: the gradient of a product of the gradient with a fixed direction."""
    module, tf = frameworks.load("tensorflow"), importlib.import_module("tensorflow")
    arrays = [*_tiny().values()]
    directions = [to_native("tensorflow", draw_values(array.shape, np.random.default_rng(43))) for array in arrays]

    def gradient(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            output, logsumexp = terms(module, *given)
            loss = tf.reduce_sum(output**2) + tf.reduce_sum(logsumexp**2)
        return tape.gradient(loss, given)

    def second(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            along = sum(tf.reduce_sum(d * g) for d, g in zip(directions, gradient(*given), strict=True))
        return tape.gradient(along, given)

    tensors = [to_native("tensorflow", array) for array in arrays]
    actual = (tf.function(second) if compiled else second)(*tensors)
    fast = tf.function(gradient)
    step = 2.0**-17
    moved = [
        [array + sign * step * to_numpy(d) for array, d in zip(arrays, directions, strict=True)] for sign in (1, -1)
    ]
    ahead, behind = (fast(*(to_native("tensorflow", array) for array in side)) for side in moved)
    for given, one, other in zip(actual, ahead, behind, strict=True):
        expected = (to_numpy(one) - to_numpy(other)) / (2 * step)
        assert np.abs(to_numpy(given) - expected).max() <= 1e-8 * (1.0 + np.abs(expected).max())

"""Layer normalisation, feed-forward, encoder and decoder (S29–S32) in the backends: the reference's numbers.

All numbers are of the size of 1. In float64 both sides round every operation of at most five parts in a row: 1e-13 of
the largest result is some ten times what was measured, and far below what any wrong formula gives. float32 errs by
2^29 times as much.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from block_cases import CASES, INPUTS, LENGTH, MEMORY_SIZE, SIZE, Case, blocks, cotangent_of, norm, run
from comparisons import UNIT_ROUNDOFF, assert_close, assert_same_bits, assert_within
from frameworks import name_of
from native_tensors import NUMPY_DTYPES, Array, gradients, to_native, to_numpy

from attnspec import reference
from attnspec.contract import causal
from attnspec.contract.layer_parameters import DecoderParameters, EncoderParameters
from attnspec.contract.states import map_leaves

TOLERANCE = {"float64": 1e-13, "float32": 1e-13 * 2.0**29}

ONE_DTYPE = {
    **dict.fromkeys(("norm_without_bias", "gelu_tanh", "silu", "encoder_layer", "decoder_layer"), "float32"),
    **dict.fromkeys(("relu", "tanh", "feed_forward_dropout", "encoder", "decoder"), "float64"),
}
"""Compiling a case for one more dtype takes JAX up to seconds; the other cases have both."""

TRIPLES = [
    pytest.param(name, case, dtype, id=f"{name}-{case}-{dtype}")
    for name in frameworks.FRAMEWORKS
    for case in CASES
    for dtype in TOLERANCE
    if ONE_DTYPE.get(case, dtype) == dtype and (name, case) not in {("jax", "encoder_layer"), ("jax", "decoder_layer")}
]
"""JAX compiles single layers in the tests below, and in stacks."""

# torch.compile and torch.func import parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@functools.cache
def differentiable(name: str, case: str) -> Any:
    """Give the operation as a function of its arrays by name; JAX compiles it, once for each."""
    module = blocks(frameworks.load(name))

    def function(**arrays: Any) -> Any:
        return CASES[case].call(module, arrays)

    return importlib.import_module("jax").jit(function) if name == "jax" else function


def rounded(case: Case, dtype: str) -> dict[str, Array]:
    return {key: array.astype(NUMPY_DTYPES[dtype]) for key, array in case.arrays.items()}


# --- values and gradients


@pytest.mark.parametrize(("name", "case", "dtype"), TRIPLES)
def test_values_and_gradients_are_those_of_the_reference(name: str, case: str, dtype: str) -> None:
    frameworks.load(name)
    arrays, cotangent = rounded(CASES[case], dtype), cotangent_of(CASES[case]).astype(dtype)
    output, pulled = gradients(name, differentiable(name, case), arrays, cotangent)
    assert output.dtype == dtype
    assert_close(output, CASES[case].call(blocks(reference), arrays), TOLERANCE[dtype])
    for key, expected in CASES[case].gradients(arrays, cotangent).items():
        assert pulled[key].dtype == dtype, key
        assert_close(pulled[key], expected, TOLERANCE[dtype])


@pytest.mark.parametrize(("case", "dtype"), [("norm", "float16"), ("gelu", "bfloat16"), ("encoder_layer", "bfloat16")])
def test_half_precisions_round_once(name: str, case: str, dtype: str) -> None:
    """What is between inputs and output is float32: its error is nothing beside the last rounding."""
    arrays = rounded(CASES[case], dtype)
    native = {key: to_native(name, array) for key, array in arrays.items()}
    output = to_numpy(CASES[case].call(blocks(frameworks.load(name)), native))
    assert output.dtype == NUMPY_DTYPES[dtype]
    expected = CASES[case].call(blocks(reference), arrays)
    bound = UNIT_ROUNDOFF[dtype] * np.abs(expected) + TOLERANCE["float32"] * np.abs(expected).max()
    assert_within(output.astype(np.float64), expected, bound)


# --- edges


def test_a_stack_without_layers_is_the_identity(attn: ModuleType) -> None:
    case = CASES["encoder"]
    options = {**case.options, "dropout": ()}
    for parameters in (EncoderParameters(()), DecoderParameters(())):
        operation = type(parameters).__name__[:7].lower()
        tensors = INPUTS if operation == "encoder" else CASES["decoder"].tensors
        bare = Case(operation, tensors, parameters, options)
        assert_same_bits(run(attn, bare), INPUTS["inputs"])
        last = norm()
        normed = bare._replace(parameters=parameters._replace(norm=last))
        expected = run(attn, Case("layer_norm", INPUTS, last, {}))
        assert_same_bits(run(attn, normed), expected)
    cotangent = cotangent_of(case)
    pulled = bare.gradients({**bare.arrays}, cotangent)
    assert_same_bits(pulled["inputs"], cotangent)
    np.testing.assert_array_equal(pulled["memory"], 0.0)
    np.testing.assert_array_equal(pulled["bias"], 0.0)


@pytest.mark.parametrize("sizes", [(0, 0, 0), (2, LENGTH, 0)], ids=["nothing", "no memory"])
def test_empty_sizes(attn: ModuleType, sizes: tuple[int, int, int]) -> None:
    batch, length, memory = sizes
    tensors = {"inputs": np.zeros((batch, length, SIZE)), "memory": np.zeros((batch, memory, MEMORY_SIZE))}
    case = CASES["decoder_layer"]._replace(tensors=tensors)
    arrays = {key: to_native(name_of(attn), array) for key, array in case.arrays.items()}
    call = functools.partial(case.call, blocks(attn))
    output = to_numpy(importlib.import_module("jax").jit(call)(arrays) if name_of(attn) == "jax" else call(arrays))
    assert output.shape == (batch, length, SIZE)
    assert np.isfinite(output).all()


# --- S11: what is padded has no influence


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e200], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize("case", ["encoder", "decoder"])
def test_padding_has_no_influence(attn: ModuleType, case: str, poison: float) -> None:
    """Both hide keys from 3 on of inputs 1, and the decoder those from 1 on of memory 1.

    The square of 1e200 is beyond float64: its own position may overflow, and no other.
    """
    name, problem = name_of(attn), CASES[case]
    dirty = {key: array.copy() for key, array in problem.arrays.items()}
    dirty["inputs"][1, 3:, 2] = poison
    if case == "decoder":
        dirty["memory"][1, 1:, 5] = poison
    cotangent = cotangent_of(problem)
    cotangent[1, 3:] = 0.0

    def both(arrays: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        if name == "reference":
            return problem.call(blocks(attn), arrays), problem.gradients(arrays, cotangent)
        return gradients(name, differentiable(name, case), arrays, cotangent)

    with np.errstate(over="ignore"):
        (output, pulled), (expected, clean) = both(dirty), both(problem.arrays)
    assert_same_bits(output[0], expected[0])
    assert_same_bits(output[1, :3], expected[1, :3])
    if not np.isfinite(poison):
        assert np.isnan(output[1, 3:]).all()
    for key, gradient in clean.items():
        assert np.abs(gradient).max() > 0.01, key
        np.testing.assert_array_equal(pulled[key], gradient, err_msg=key)


@pytest.mark.parametrize("case", ["norm", "gelu", "feed_forward_dropout"])
def test_a_position_that_is_not_finite_is_on_its_own(attn: ModuleType, case: str) -> None:
    problem = CASES[case]
    dirty = {**problem.tensors, "inputs": problem.tensors["inputs"].copy()}
    dirty["inputs"][1, 2, 4] = -np.inf
    output, expected = run(attn, problem._replace(tensors=dirty)), run(attn, problem)
    assert np.isnan(output[1, 2]).all()
    assert_same_bits(
        np.delete(output.reshape(-1, SIZE), LENGTH + 2, 0), np.delete(expected.reshape(-1, SIZE), LENGTH + 2, 0)
    )


# --- what each framework does to functions


def _batched(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """Split the arrays into those with a batch axis, which a mapped function does not see, and the others."""
    tensors = {key: array for key, array in case.arrays.items() if key in case.tensors}
    return tensors, {key: array for key, array in case.arrays.items() if key not in tensors}


def test_jax_maps_over_the_batch() -> None:
    attn, jax = frameworks.load("jax"), importlib.import_module("jax")
    case = CASES["encoder_layer"]
    tensors, others = _batched(case)
    function = jax.vmap(lambda tensors, others: case.call(blocks(attn), {**tensors, **others}), in_axes=(0, None))
    assert_close(jax.jit(function)(tensors, others), case.call(blocks(reference), case.arrays), TOLERANCE["float64"])


def test_jax_pushes_tangents_forward() -> None:
    attn, jax = frameworks.load("jax"), importlib.import_module("jax")
    case = CASES["gelu"]
    direction = np.random.default_rng(59).standard_normal(INPUTS["inputs"].shape)
    function = jax.jit(lambda inputs: case.call(blocks(attn), {**case.arrays, "inputs": inputs}))
    _, tangent = jax.jvp(function, (case.tensors["inputs"],), (direction,))
    cotangent = cotangent_of(case)
    slope = (case.gradients(case.arrays, cotangent)["inputs"] * direction).sum()
    assert abs((np.asarray(tangent) * cotangent).sum() - slope) < 1e-13 * np.abs(slope)


def test_torch_maps_over_the_batch_and_differentiates() -> None:
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    case = CASES["encoder_layer"]
    tensors, others = ({key: torch.tensor(array) for key, array in part.items()} for part in _batched(case))
    cotangent = cotangent_of(case)

    def loss(tensors: Any, others: Any, weights: Any) -> Any:
        return (case.call(blocks(attn), {**tensors, **others}) * weights).sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(0, None, 0))
    pulled = mapped(tensors, others, torch.tensor(cotangent))
    expected = case.gradients(case.arrays, cotangent)
    for key, derivative in pulled.items():
        assert_close(to_numpy(derivative).sum(0), expected[key], TOLERANCE["float64"])


def test_torch_compiles_the_whole_graph() -> None:
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    whole = CASES["encoder"]
    parameters = EncoderParameters(whole.parameters.layers[:1], whole.parameters.norm)
    case = whole._replace(parameters=parameters, options={**whole.options, "dropout": whole.options["dropout"][:1]})
    arrays = {key: torch.tensor(array, requires_grad=True) for key, array in case.arrays.items()}
    compiled = torch.compile(functools.partial(case.call, blocks(attn)), fullgraph=True, backend="aot_eager")
    output, cotangent = compiled(arrays), cotangent_of(case)
    assert_close(to_numpy(output), case.call(blocks(reference), case.arrays), TOLERANCE["float64"])
    output.backward(torch.tensor(cotangent))
    for key, expected in case.gradients(case.arrays, cotangent).items():
        assert_close(to_numpy(arrays[key].grad), expected, TOLERANCE["float64"])


def test_tensorflow_graph_of_unknown_sizes() -> None:
    attn, tf = frameworks.load("tensorflow"), importlib.import_module("tensorflow")
    case = CASES["decoder"]
    parameters = map_leaves(tf.constant, case.parameters)
    options = {**case.options, "mask": causal(), "memory_mask": None, "bias": None, "dropout": None}
    specs = [tf.TensorSpec([None, None, size], tf.float64) for size in (SIZE, MEMORY_SIZE)]

    @tf.function(input_signature=specs)
    def decode(inputs: Any, memory: Any) -> Any:
        return blocks(attn).decoder(inputs, memory, parameters, **options)

    rng = np.random.default_rng(61)
    for batch, length, memory in ((2, 5, 3), (3, 1, 7)):
        given = rng.standard_normal((batch, length, SIZE)), rng.standard_normal((batch, memory, MEMORY_SIZE))
        expected = blocks(reference).decoder(*given, case.parameters, **options)
        assert_close(to_numpy(decode(*map(tf.constant, given))), expected, TOLERANCE["float64"])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(tf.zeros([2, 5, SIZE], tf.float64), tf.zeros([3, 3, MEMORY_SIZE], tf.float64))
    assert "`memory` must have the batch axes of `inputs`; got shapes inputs (?, ?, 7) and" in str(caught.value)

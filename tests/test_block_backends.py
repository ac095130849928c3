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
from block_cases import CASES, INPUTS, LENGTH, SIZE, Case, blocks, cotangent_of, norm, run
from comparisons import UNIT_ROUNDOFF, assert_close, assert_same_bits, assert_within
from frameworks import name_of
from native_tensors import NUMPY_DTYPES, Array, gradients, to_native, to_numpy

from attnspec import reference
from attnspec.contract import key_lengths
from attnspec.contract.layer_parameters import DecoderParameters, EncoderParameters

TOLERANCE = {"float64": 1e-13, "float32": 1e-13 * 2.0**29}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

# torch.compile and torch.func import parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@functools.cache
def differentiable(name: str, case: str, **options: Any) -> Any:
    """Give the operation as a function of its arrays by name; JAX compiles it, once for each."""
    module = blocks(frameworks.load(name))

    def function(**arrays: Any) -> Any:
        return CASES[case].call(module, arrays, **options)

    return importlib.import_module("jax").jit(function) if name == "jax" else function


def rounded(case: Case, dtype: str) -> dict[str, Array]:
    return {key: array.astype(NUMPY_DTYPES[dtype]) for key, array in case.arrays.items()}


# --- values and gradients


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_reference(name: str, case: str, dtype: str) -> None:
    arrays, cotangent = rounded(CASES[case], dtype), cotangent_of(CASES[case]).astype(dtype)
    output, pulled = gradients(name, differentiable(name, case), arrays, cotangent)
    assert output.dtype == dtype
    assert_close(output, CASES[case].call(blocks(reference), arrays), TOLERANCE[dtype])
    for key, expected in CASES[case].gradients(arrays, cotangent).items():
        assert pulled[key].dtype == dtype, key
        assert_close(pulled[key], expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["norm", "gelu", "encoder"])
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


@pytest.mark.parametrize("sizes", [(0, LENGTH, 3), (2, 0, 3), (2, LENGTH, 0)], ids=["batch", "length", "memory"])
def test_empty_sizes(attn: ModuleType, sizes: tuple[int, int, int]) -> None:
    batch, length, memory = sizes
    case = CASES["decoder_layer"]
    tensors = {"inputs": np.zeros((batch, length, SIZE)), "memory": np.zeros((batch, memory, 13))}
    output = run(attn, case._replace(tensors=tensors))
    assert output.shape == (batch, length, SIZE)
    assert np.isfinite(output).all()


# --- S11: what is padded has no influence


PADDED = {"mask": key_lengths([LENGTH, 3]), "dropout": None}


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e200], ids=["nan", "inf", "huge"])
@pytest.mark.parametrize("case", ["encoder", "decoder"])
def test_padding_has_no_influence(attn: ModuleType, case: str, poison: float) -> None:
    """The square of 1e200 is beyond float64: only its own position may overflow."""
    name, problem = name_of(attn), CASES[case]
    dirty = {key: array.copy() for key, array in problem.arrays.items()}
    dirty["inputs"][1, 3:, 2] = poison
    if case == "decoder":
        dirty["memory"][1, 1:, 5] = poison
    cotangent = cotangent_of(problem)
    cotangent[1, 3:] = 0.0

    def both(arrays: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        if name == "reference":
            return problem.call(blocks(attn), arrays, **PADDED), problem.gradients(arrays, cotangent, **PADDED)
        function = differentiable(name, case, mask=PADDED["mask"], dropout=None)
        return gradients(name, function, arrays, cotangent)

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


def test_jax_vmap(attn: ModuleType) -> None:
    if name_of(attn) != "jax":
        pytest.skip("of JAX alone")

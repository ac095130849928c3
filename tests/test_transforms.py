"""What each framework does to functions, done to ours: compiled, mapped, differentiated, differentiated twice.

Gradients are held against central differences of the reference: a loss is evaluated at x ± h with h = 2^-14. The
truncation is h²/6 = 6e-10 of a third derivative, which for logits of a standard deviation of 3 is some tens of the
first; the rounding is 2^-53 of the loss divided by h, 2e-12. 1e-6 of the largest gradient lies well above both, and
far below what a wrong formula gives.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import BY_RANK, DIMS, GROUPED, MASKS, SQUARE, Array, Dims, draw, draw_bias, draw_values
from comparisons import assert_close, assert_same_bits
from native_tensors import NUMPY_DTYPES, gradients, to_native, to_numpy

from attnspec import reference

TOLERANCE = 1e-13
DIFFERENCE_TOLERANCE = 1e-6
STEP = 2.0**-14

# torch.compile and torch.func.jvp import parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


def central_differences(loss: Callable[..., float], arrays: dict[str, Array]) -> dict[str, Array]:
    """Differentiate `loss(**arrays)` with respect to every element; where it is −inf, the derivative is 0."""
    derivatives = {}
    for key, array in arrays.items():
        derivative = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            if not np.isfinite(array[place]):
                continue
            losses = []
            for step in (STEP, -STEP):
                moved = array.copy()
                moved[place] += step
                losses.append(loss(**{**arrays, key: moved}))
            derivative[place] = (losses[0] - losses[1]) / (2 * STEP)
        derivatives[key] = derivative
    return derivatives


def test_central_differences_of_a_cubic() -> None:
    x, y = np.array([2.0, -3.0]), np.array(5.0)
    given = central_differences(lambda x, y: (x**3).sum() * y, {"x": x, "y": y})
    np.testing.assert_allclose(given["x"], 15 * x**2, rtol=1e-8)
    np.testing.assert_allclose(given["y"], -19.0, rtol=1e-8)
    assert abs(given["x"][0] / 60 - 1) > 1e-11  # h² of it: a difference, not the derivative


# --- gradients of every backend against differences of the reference

SMALL = Dims((2,), 4, 2, 3, 5, 3, 2)

GRADIENT_CASES: dict[str, tuple[Dims, str, list[str]]] = {
    "plain": (SMALL, "none", []),
    "causal": (SMALL, "causal_0", []),
    "empty_rows": (SMALL, "and_queries", ["bias", "softcap"]),
    "bias": (SMALL, "array", ["bias"]),
    "packed": (SMALL, "packed_causal", ["bias"]),
    "prefix": (SMALL, "not_chunked_or_prefix", []),
    "scale": (SMALL, "causal_end", ["scale"]),
    "softcap": (SMALL, "keys_batch", ["softcap"]),
    "everything": (SMALL, "mask_and_array", ["bias", "scale", "softcap"]),
}


def _arrays(dims: Dims, options: list[str]) -> dict[str, Array]:
    every = {
        "bias": draw_bias(dims.pairs, masked=0.1),
        "scale": np.array(-0.7),
        "softcap": np.array(2.5),
    }
    return dict(zip(("query", "key", "value"), draw(dims), strict=True)) | {key: every[key] for key in options}


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@functools.cache
def _expected_gradients(case: str) -> dict[str, Array]:
    dims, mask, options = GRADIENT_CASES[case]
    cotangent, made = _cotangent(dims), MASKS[mask].make(dims)

    def loss(**arrays: Array) -> float:
        return float((reference.dot_product_attention(**arrays, mask=made) * cotangent).sum())

    return central_differences(loss, _arrays(dims, options))


def _compiled_by_jax(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    # Eager gradients, which test_unread.py compares bit by bit, take JAX a second for each new function.
    return importlib.import_module("jax").jit(function) if name == "jax" else function


def _cotangent(dims: Dims) -> Array:
    return draw_values((*dims.pairs[:-1], dims.value_dim), np.random.default_rng(31))


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_against_differences_of_the_reference(name: str, case: str) -> None:
    dims, mask, options = GRADIENT_CASES[case]
    attn = frameworks.load(name)
    function = _compiled_by_jax(name, functools.partial(attn.dot_product_attention, mask=MASKS[mask].make(dims)))
    output, given = gradients(name, function, _arrays(dims, options), _cotangent(dims))
    forward = reference.dot_product_attention(**_arrays(dims, options), mask=MASKS[mask].make(dims))
    assert_close(output, forward, TOLERANCE)
    for key, expected in _expected_gradients(case).items():
        assert np.abs(expected).max() > 0.01
        assert_close(given[key], expected, DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("stage", ["scores", "logits", "weights", "logsumexp"])
def test_gradients_of_the_other_stages(name: str, stage: str) -> None:
    attn = frameworks.load(name)
    arrays = _arrays(SMALL, ["bias", "scale", "softcap"])
    if stage == "scores":
        del arrays["bias"], arrays["softcap"]
    value = arrays.pop("value")  # the stages before the output do not depend on it
    mask = MASKS["and_queries"].make(SMALL)
    shape = getattr(reference.attention_stages(**arrays, value=value, mask=mask), stage).shape
    cotangent = draw_values(shape, np.random.default_rng(37))

    def loss(**given: Array) -> float:
        result = getattr(reference.attention_stages(**given, value=value, mask=mask), stage)
        return float((np.where(np.isfinite(result), result, 0.0) * cotangent).sum())

    def function(**given: Any) -> Any:
        return getattr(attn.attention_stages(**given, value=to_native(name, value), mask=mask), stage)

    _, given = gradients(name, _compiled_by_jax(name, function), arrays, cotangent)
    for key, expected in central_differences(loss, arrays).items():
        assert np.abs(expected).max() > 0.01
        assert_close(given[key], expected, DIFFERENCE_TOLERANCE)


def _multi_head_arrays() -> dict[str, Array]:
    rng = np.random.default_rng(41)
    sizes = {"query": (5, 4), "key": (3, 4), "value": (2, 6), "output": (6, 7)}  # 2 heads of 2, values of 3
    arrays = {"x_query": (2, 3, 5), "x_key": (2, 5, 3), "x_value": (2, 5, 2)}
    arrays |= {f"{part}_weight": size for part, size in sizes.items()}
    arrays |= {f"{part}_bias": size[1:] for part, size in sizes.items()}
    return {key: rng.standard_normal(shape) for key, shape in arrays.items()}


LENGTHS = reference.key_lengths([4, 2])


def _multi_head(module: Any, x_query: Any, x_key: Any, x_value: Any, **parameters: Any) -> Any:
    made = module.MultiHeadParameters(**parameters)
    return module.multi_head_attention(x_query, x_key, x_value, made, num_heads=2, mask=LENGTHS)


def _self(module: Any, **arrays: Any) -> Any:
    return module.self_attention(**arrays, mask=module.causal() & LENGTHS)


def _key_value(module: Any, **arrays: Any) -> Any:
    return module.key_value_attention(**arrays, mask=module.key_lengths([4, 0]))


def _drawn(**shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(43)
    return {key: rng.standard_normal(shape) for key, shape in shapes.items()}


OPERATIONS: dict[str, tuple[Callable[..., Any], dict[str, Array]]] = {
    "self_attention": (
        _self,
        _drawn(inputs=(2, 5, 7), query_weight=(7, 3), key_weight=(7, 3), value_weight=(7, 2)),
    ),
    "key_value_attention": (_key_value, _drawn(query=(2, 3), keys=(2, 5, 3), values=(2, 5, 2))),
    "multi_head_attention": (_multi_head, _multi_head_arrays()),
}


@pytest.mark.parametrize(("function", "arrays"), OPERATIONS.values(), ids=OPERATIONS.keys())
def test_gradients_of_operations_with_projections(
    name: str, function: Callable[..., Any], arrays: dict[str, Array]
) -> None:
    shape = function(reference, **arrays).shape
    cotangent = draw_values(shape, np.random.default_rng(47))
    expected = central_differences(lambda **given: float((function(reference, **given) * cotangent).sum()), arrays)
    native = _compiled_by_jax(name, functools.partial(function, frameworks.load(name)))
    _, given = gradients(name, native, arrays, cotangent)
    largest = max(np.abs(derivative).max() for derivative in expected.values())
    for key, derivative in expected.items():
        # A key bias has no effect, so its gradient is rounding only: measured against the others.
        assert np.abs(given[key] - derivative).max() <= DIFFERENCE_TOLERANCE * largest, key


@functools.cache
def _gradients_of_rounded_inputs(dtype: str) -> dict[str, Array]:
    arrays = {
        key: array.astype(NUMPY_DTYPES[dtype]).astype(np.float64) for key, array in _arrays(SMALL, ["bias"]).items()
    }
    cotangent = _cotangent(SMALL).astype(NUMPY_DTYPES[dtype]).astype(np.float64)
    made = MASKS["causal_end"].make(SMALL)
    return central_differences(
        lambda **given: float((reference.dot_product_attention(**given, mask=made) * cotangent).sum()), arrays
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_have_the_dtype_of_what_they_belong_to(name: str, dtype: str) -> None:
    attn = frameworks.load(name)
    arrays = {key: array.astype(NUMPY_DTYPES[dtype]) for key, array in _arrays(SMALL, ["bias"]).items()}
    cotangent = _cotangent(SMALL).astype(NUMPY_DTYPES[dtype])
    made = MASKS["causal_end"].make(SMALL)
    function = _compiled_by_jax(name, functools.partial(attn.dot_product_attention, mask=made))
    _, given = gradients(name, function, arrays, cotangent)
    expected = _gradients_of_rounded_inputs(dtype)
    # Half precisions: one rounding of the result, doubled for sums of products that cancel.
    unit = {"float32": 2.0**-18, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    for key, gradient in given.items():
        assert gradient.dtype == NUMPY_DTYPES[dtype]
        assert_close(gradient.astype(np.float64), expected[key], unit)


@pytest.mark.parametrize("option", ["scale", "softcap"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_given_as_tensors(name: str, option: str, dtype: str) -> None:
    attn = frameworks.load(name)
    arrays = draw(DIMS)
    expected = attn.dot_product_attention(*arrays, **{option: 0.75})
    actual = attn.dot_product_attention(*arrays, **{option: to_native(name, np.array(0.75, dtype))})
    assert_same_bits(to_numpy(actual), to_numpy(expected))


# --- JAX


@pytest.fixture(scope="module")
def jax() -> Any:
    """JAX, with its backend importable."""
    frameworks.load("jax")
    return importlib.import_module("jax")


@pytest.fixture(scope="module")
def attn_jax() -> Any:
    """The JAX backend."""
    return frameworks.load("jax")


def test_jax_jit_takes_masks_as_arguments(jax: Any, attn_jax: Any) -> None:
    traces = []

    @jax.jit
    def function(query: Any, key: Any, value: Any, mask: Any) -> Any:
        traces.append(mask)
        return attn_jax.dot_product_attention(query, key, value, mask=mask)

    arrays = draw(SQUARE)
    for lengths, shift in (([3, 5], [0, 1]), ([7, 2], [-1, 2])):
        mask = attn_jax.key_lengths(np.array(lengths)) & attn_jax.causal(np.array(shift))
        assert_close(to_numpy(function(*arrays, mask)), reference.dot_product_attention(*arrays, mask=mask), TOLERANCE)
    assert len(traces) == 1
    mask = attn_jax.causal(2)  # static: another mask, another trace
    assert_close(to_numpy(function(*arrays, mask)), reference.dot_product_attention(*arrays, mask=mask), TOLERANCE)
    assert len(traces) == 2
    function(*arrays, attn_jax.causal(2))
    assert len(traces) == 2


def test_jax_jit_clamps_traced_lengths(jax: Any, attn_jax: Any) -> None:
    """S19: lengths whose values nobody can check while tracing count as clamped to [0, T]."""
    arrays = draw(DIMS)
    function = jax.jit(lambda n: attn_jax.dot_product_attention(*arrays, mask=attn_jax.key_lengths(n)))
    expected = reference.dot_product_attention(*arrays, mask=reference.key_lengths([0, 7]))
    assert_close(to_numpy(function(np.array([-3, 1000]))), expected, TOLERANCE)


def test_jax_vmap_over_the_leading_axis(jax: Any, attn_jax: Any) -> None:
    dims = Dims((3, 2), 2, 2)
    arrays = draw(dims)
    lengths = np.array([[3, 1], [0, 7], [5, 2]])
    mask = attn_jax.key_lengths(lengths) & attn_jax.causal("end")
    by_axes = jax.vmap(lambda q, k, v, m: attn_jax.dot_product_attention(q, k, v, mask=m))(*arrays, mask)
    assert_close(to_numpy(by_axes), reference.dot_product_attention(*arrays, mask=mask), TOLERANCE)
    closed = jax.vmap(lambda q, k, v, n: attn_jax.dot_product_attention(q, k, v, mask=attn_jax.key_lengths(n)))
    expected = reference.dot_product_attention(*arrays, mask=reference.key_lengths(lengths))
    assert_close(to_numpy(closed(*arrays, lengths)), expected, TOLERANCE)


def test_jax_vmap_over_a_mask_alone(jax: Any, attn_jax: Any) -> None:
    query, key, value = draw(DIMS)
    masks = attn_jax.key_lengths(np.array([[3, 1], [0, 7], [5, 2]]))
    function = jax.vmap(
        lambda q, m: attn_jax.dot_product_attention(q, key, value, mask=m),
        in_axes=(None, jax.tree_util.tree_map(lambda _: 0, masks)),
    )
    expected = [
        reference.dot_product_attention(query, key, value, mask=reference.key_lengths(n)) for n in masks.lengths
    ]
    assert_close(to_numpy(function(query, masks)), np.stack(expected), TOLERANCE)


def test_jax_vmap_carries_poison(jax: Any, attn_jax: Any) -> None:
    query, key, value = draw(Dims((3, 2), 2, 2))
    value[1, 0, 1, 2, 3], key[2, 1, 0, 1, 4] = np.inf, np.nan
    mask = attn_jax.causal(0)
    mapped = jax.vmap(lambda q, k, v: attn_jax.dot_product_attention(q, k, v, mask=mask))(query, key, value)
    np.testing.assert_allclose(
        to_numpy(mapped), reference.dot_product_attention(query, key, value, mask=mask), rtol=0, atol=1e-12
    )


def test_jax_gradient_under_vmap_and_jit(jax: Any, attn_jax: Any) -> None:
    query, key, value = draw(Dims((3, 2), 2, 2))

    def loss(q: Any, k: Any, v: Any) -> Any:
        return (attn_jax.dot_product_attention(q, k, v, mask=attn_jax.causal("end"), softcap=5.0) ** 2).sum()

    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2))))(query, key, value)
    whole = jax.grad(loss, argnums=(0, 1, 2))(query, key, value)
    for one, other in zip(mapped, whole, strict=True):
        assert_close(to_numpy(one), to_numpy(other), TOLERANCE)


TINY = Dims((), 1, 1, 2, 3, 2, 2, has_heads=False)


def _tiny_loss(module: Any, query: Any, key: Any, value: Any) -> Any:
    return (module.dot_product_attention(query, key, value, mask=module.causal(1), softcap=3.0) ** 2).sum()


def test_jax_forward_mode(jax: Any, attn_jax: Any) -> None:
    arrays = dict(zip(("query", "key", "value"), draw(TINY), strict=True))
    function = functools.partial(_tiny_loss, attn_jax)
    expected = central_differences(lambda **given: float(_tiny_loss(reference, **given)), arrays)
    for mode in (jax.jacfwd, jax.jacrev):
        given = mode(function, argnums=(0, 1, 2))(*arrays.values())
        for derivative, key in zip(given, arrays, strict=True):
            assert_close(to_numpy(derivative), expected[key], DIFFERENCE_TOLERANCE)
    tangents = [draw_values(array.shape, np.random.default_rng(53)) for array in arrays.values()]
    _, along = jax.jvp(function, tuple(arrays.values()), tuple(tangents))
    slope = sum((tangent * expected[key]).sum() for tangent, key in zip(tangents, arrays, strict=True))
    assert_close(to_numpy(along), slope, DIFFERENCE_TOLERANCE)


def test_jax_hessian(jax: Any, attn_jax: Any) -> None:
    query, key, value = draw(TINY)
    hessian = jax.hessian(lambda q: _tiny_loss(attn_jax, q, key, value))(query)
    gradient = jax.grad(lambda q: _tiny_loss(attn_jax, q, key, value))
    expected = np.empty(hessian.shape)
    for place in np.ndindex(query.shape):
        moved = [query.copy(), query.copy()]
        moved[0][place] += STEP
        moved[1][place] -= STEP
        expected[(..., *place)] = (to_numpy(gradient(moved[0])) - to_numpy(gradient(moved[1]))) / (2 * STEP)
    assert np.abs(expected).max() > 0.01
    assert_close(to_numpy(hessian), expected, DIFFERENCE_TOLERANCE)


def test_jax_gradient_of_a_fully_masked_call_twice(jax: Any, attn_jax: Any) -> None:
    query, key, value = draw(TINY)
    mask = np.array([[True, False, True], [False, False, False]])
    hessian = jax.hessian(lambda q: (attn_jax.dot_product_attention(q, key, value, mask=mask) ** 2).sum())(query)
    assert np.isfinite(to_numpy(hessian)).all()
    assert (to_numpy(hessian)[1] == 0).all()


# --- PyTorch


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch, with its backend importable."""
    frameworks.load("torch")
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def attn_torch() -> Any:
    """The PyTorch backend."""
    return frameworks.load("torch")


def _leaves(torch: Any, dims: Dims, options: list[str]) -> dict[str, Any]:
    return {key: torch.tensor(array, requires_grad=True) for key, array in _arrays(dims, options).items()}


@pytest.mark.parametrize("mask", ["none", "causal_behind", "array"])
def test_torch_gradcheck(torch: Any, attn_torch: Any, mask: str) -> None:
    dims = Dims((2,), 2, 1, 2, 3, 2, 2)
    leaves = _leaves(torch, dims, ["scale", "softcap"])
    leaves["bias"] = torch.tensor(draw_bias(dims.pairs), requires_grad=True)
    made = MASKS[mask].make(dims)

    def function(*tensors: Any) -> Any:
        return attn_torch.dot_product_attention(**dict(zip(leaves, tensors, strict=True)), mask=made)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))
    assert torch.autograd.gradgradcheck(function, tuple(leaves.values()))


def test_torch_func(torch: Any, attn_torch: Any) -> None:
    dims = Dims((3, 2), 2, 2)
    arrays = [torch.tensor(array) for array in draw(dims)]
    mask = attn_torch.causal("end")

    def loss(q: Any, k: Any, v: Any) -> Any:
        return (attn_torch.dot_product_attention(q, k, v, mask=mask, softcap=5.0) ** 2).sum()

    mapped = torch.func.vmap(lambda q, k, v: attn_torch.dot_product_attention(q, k, v, mask=mask))(*arrays)
    assert_close(to_numpy(mapped), reference.dot_product_attention(*draw(dims), mask=mask), TOLERANCE)

    leaves = [array.clone().requires_grad_() for array in arrays]
    loss(*leaves).backward()
    for transform in (torch.func.grad, lambda f, argnums: torch.func.vmap(torch.func.grad(f, argnums=argnums))):
        for gradient, leaf in zip(transform(loss, argnums=(0, 1, 2))(*arrays), leaves, strict=True):
            assert_close(to_numpy(gradient), to_numpy(leaf.grad), TOLERANCE)


def test_torch_vmap_over_lengths(torch: Any, attn_torch: Any) -> None:
    query, key, value = (torch.tensor(array) for array in draw(DIMS))
    lengths = torch.tensor([[3, 1], [0, 7], [5, 2]])
    mapped = torch.func.vmap(
        lambda n: attn_torch.dot_product_attention(query, key, value, mask=attn_torch.key_lengths(n))
    )(lengths)
    expected = [reference.dot_product_attention(*draw(DIMS), mask=reference.key_lengths(n.numpy())) for n in lengths]
    assert_close(to_numpy(mapped), np.stack(expected), TOLERANCE)


def test_torch_vmap_carries_poison(torch: Any, attn_torch: Any) -> None:
    query, key, value = draw(Dims((3, 2), 2, 2))
    value[1, 0, 1, 2, 3], key[2, 1, 0, 1, 4] = np.inf, np.nan
    mask = attn_torch.causal(0)
    mapped = torch.func.vmap(lambda q, k, v: attn_torch.dot_product_attention(q, k, v, mask=mask))(
        *(torch.tensor(array) for array in (query, key, value))
    )
    np.testing.assert_allclose(
        to_numpy(mapped), reference.dot_product_attention(query, key, value, mask=mask), rtol=0, atol=1e-12
    )


def test_torch_jacobians(torch: Any, attn_torch: Any) -> None:
    arrays = [torch.tensor(array) for array in draw(TINY)]
    function = functools.partial(_tiny_loss, attn_torch)
    expected = central_differences(
        lambda **given: float(_tiny_loss(reference, **given)),
        dict(zip(("query", "key", "value"), draw(TINY), strict=True)),
    )
    for mode in (torch.func.jacfwd, torch.func.jacrev):
        for derivative, key in zip(mode(function, argnums=(0, 1, 2))(*arrays), expected, strict=True):
            assert_close(to_numpy(derivative), expected[key], DIFFERENCE_TOLERANCE)


def test_torch_compile_forward_and_backward_with_a_mask_of_tensors(torch: Any, attn_torch: Any) -> None:
    def function(tensors: dict[str, Any], mask: Any) -> Any:
        return attn_torch.dot_product_attention(**tensors, mask=mask)

    compiled = torch.compile(function, fullgraph=True)
    dims = SMALL
    for lengths in ([3, 5], [0, 4]):
        mask = attn_torch.key_lengths(torch.tensor(lengths)) & attn_torch.causal(torch.tensor([1, 0]))
        given, expected = (_leaves(torch, dims, ["bias", "scale", "softcap"]) for _ in range(2))
        result, eager = compiled(given, mask), function(expected, mask)
        assert_close(to_numpy(result), to_numpy(eager), TOLERANCE)
        for tensors, output in ((given, result), (expected, eager)):
            output.backward(torch.tensor(_cotangent(dims)))
            assert all(tensor.grad is not None for tensor in tensors.values())
        for key, tensor in given.items():
            assert_close(to_numpy(tensor.grad), to_numpy(expected[key].grad), TOLERANCE)


def test_torch_compile_with_dynamic_shapes(torch: Any, attn_torch: Any) -> None:
    compiled = torch.compile(
        lambda q, k, v: attn_torch.dot_product_attention(q, k, v, mask=attn_torch.causal("end")),
        fullgraph=True,
        dynamic=True,
    )
    for dims in (DIMS, DIMS._replace(batch=(3,), queries=11, keys=13), SQUARE):
        arrays = draw(dims)
        expected = reference.dot_product_attention(*arrays, mask=reference.causal("end"))
        assert_close(to_numpy(compiled(*(torch.tensor(array) for array in arrays))), expected, TOLERANCE)


def test_torch_compile_of_multi_head_attention(torch: Any, attn_torch: Any) -> None:
    arrays = _multi_head_arrays()
    compiled = torch.compile(functools.partial(_multi_head, attn_torch), fullgraph=True)
    result = compiled(**{key: torch.tensor(array) for key, array in arrays.items()})
    assert_close(to_numpy(result), _multi_head(reference, **arrays), TOLERANCE)


# --- TensorFlow


@pytest.fixture(scope="module")
def tf() -> Any:
    """TensorFlow, with its backend importable."""
    frameworks.load("tensorflow")
    return importlib.import_module("tensorflow")


@pytest.fixture(scope="module")
def attn_tf() -> Any:
    """The TensorFlow backend."""
    return frameworks.load("tensorflow")


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_tensorflow_gradients_inside_a_function(tf: Any, attn_tf: Any, xla: bool) -> None:
    arrays = _arrays(SMALL, ["bias", "scale", "softcap"])
    mask = MASKS["mask_and_array"].make(SMALL)

    @tf.function(jit_compile=xla)
    def function(tensors: dict[str, Any]) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = attn_tf.dot_product_attention(**tensors, mask=mask)
        return output, tape.gradient(output, tensors, output_gradients=tf.constant(_cotangent(SMALL)))

    output, given = function({key: tf.constant(array) for key, array in arrays.items()})
    assert_close(to_numpy(output), reference.dot_product_attention(**arrays, mask=mask), TOLERANCE)
    for key, expected in _expected_gradients("everything").items():
        assert_close(to_numpy(given[key]), expected, DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_tensorflow_unknown_sizes(tf: Any, attn_tf: Any, xla: bool) -> None:
    spec = tf.TensorSpec([None, None, None, None], tf.float64)
    lengths = tf.TensorSpec([None], tf.int64)

    @tf.function(input_signature=[spec, spec, spec, lengths], jit_compile=xla)
    def function(query: Any, key: Any, value: Any, n: Any) -> Any:
        mask = attn_tf.causal("end") & attn_tf.key_lengths(n)
        with tf.GradientTape() as tape:
            tape.watch(query)
            output = attn_tf.dot_product_attention(query, key, value, mask=mask)
        return output, tape.gradient(output, query)

    for dims in (DIMS, GROUPED, SQUARE._replace(batch=(3,), head_dim=2)):
        arrays = draw(dims)
        n = np.resize([3, 5, 0], dims.batch)
        mask = reference.causal("end") & reference.key_lengths(n)
        output, gradient = function(*arrays, n)
        assert_close(to_numpy(output), reference.dot_product_attention(*arrays, mask=mask), TOLERANCE)

        def alone(query: Any, arrays: Any = arrays, mask: Any = mask) -> Any:
            return attn_tf.dot_product_attention(query, *arrays[1:], mask=mask)

        _, eager = gradients("tensorflow", alone, {"query": arrays[0]}, np.ones(output.shape))
        assert_close(to_numpy(gradient), eager["query"], TOLERANCE)


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_tensorflow_unknown_sizes_at_other_ranks(tf: Any, attn_tf: Any, rank: int) -> None:
    spec, pairs = tf.TensorSpec([None] * rank, tf.float64), tf.TensorSpec([None] * rank, tf.bool)

    @tf.function(input_signature=[spec, spec, spec, spec, pairs])
    def function(query: Any, key: Any, value: Any, bias: Any, mask: Any) -> Any:
        return attn_tf.attention_stages(query, key, value, bias=bias, mask=mask, softcap=5.0)

    dims = BY_RANK[rank]
    arrays, bias, mask = draw(dims), draw_bias(dims.pairs), MASKS["array"].make(dims)
    stages = function(*arrays, bias, mask)
    expected = reference.attention_stages(*arrays, bias=bias, mask=mask, softcap=5.0)
    for stage, other in zip(stages, expected, strict=True):
        assert_close(to_numpy(stage), other, TOLERANCE)


def test_tensorflow_variables(tf: Any, attn_tf: Any) -> None:
    arrays = _arrays(SMALL, ["bias", "scale", "softcap"])
    variables = {key: tf.Variable(array) for key, array in arrays.items()}
    mask = MASKS["mask_and_array"].make(SMALL)
    with tf.GradientTape() as tape:
        output = attn_tf.dot_product_attention(**variables, mask=mask)
    given = tape.gradient(output, variables, output_gradients=tf.constant(_cotangent(SMALL)))
    assert_close(to_numpy(output), reference.dot_product_attention(**arrays, mask=mask), TOLERANCE)
    for key, expected in _expected_gradients("everything").items():
        assert_close(to_numpy(given[key]), expected, DIFFERENCE_TOLERANCE)


def test_tensorflow_function_takes_masks_as_arguments(tf: Any, attn_tf: Any) -> None:
    traces = []

    @tf.function
    def function(query: Any, key: Any, value: Any, mask: Any) -> Any:
        traces.append(mask)
        return attn_tf.dot_product_attention(query, key, value, mask=mask)

    arrays = [tf.constant(array) for array in draw(SQUARE)]
    for lengths in ([3, 5], [7, 0]):
        mask = attn_tf.key_lengths(tf.constant(lengths)) & attn_tf.causal(1)
        expected = reference.dot_product_attention(
            *draw(SQUARE), mask=reference.key_lengths(lengths) & reference.causal(1)
        )
        assert_close(to_numpy(function(*arrays, mask)), expected, TOLERANCE)
    assert len(traces) == 1
    function(*arrays, attn_tf.causal(2))
    function(*arrays, attn_tf.causal(2))
    assert len(traces) == 2


def test_tensorflow_second_derivatives(tf: Any, attn_tf: Any) -> None:
    query, key, value = (tf.constant(array) for array in draw(TINY))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(query)
        with tf.GradientTape() as inner:
            inner.watch(query)
            output = attn_tf.dot_product_attention(query, key, value, mask=attn_tf.causal(1), softcap=3.0)
            loss = tf.reduce_sum(output**2)
        gradient = inner.gradient(loss, query)
    hessian = to_numpy(outer.jacobian(gradient, query, experimental_use_pfor=False))

    def slope(array: Array) -> Array:
        return gradients(
            "tensorflow",
            lambda query: attn_tf.dot_product_attention(query, key, value, mask=attn_tf.causal(1), softcap=3.0) ** 2,
            {"query": array},
            np.ones((2, 2)),
        )[1]["query"]

    expected = np.empty(hessian.shape)
    for place in np.ndindex(2, 2):
        moved = [to_numpy(query).copy(), to_numpy(query).copy()]
        moved[0][place] += STEP
        moved[1][place] -= STEP
        expected[(..., *place)] = (slope(moved[0]) - slope(moved[1])) / (2 * STEP)
    assert np.abs(expected).max() > 0.01
    assert_close(hessian, expected, DIFFERENCE_TOLERANCE)

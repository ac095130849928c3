"""PyTorch, TensorFlow and JAX against the reference: every operation, every stage, every dtype, every kind of input."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import (
    BY_RANK,
    DIMS,
    GROUPED,
    MASKS,
    MULTI_QUERY,
    SQUARE,
    TALL,
    Array,
    Dims,
    draw,
    draw_bias,
    draw_values,
)
from comparisons import assert_close, assert_same_bits, assert_within, output_bound
from native_tensors import NUMPY_DTYPES, native_type, to_native, to_numpy

from attnspec import reference
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.profiles import PROFILES

FLOAT64_TOLERANCE = 1e-13
STAGES = ["scores", "logits", "weights", "logsumexp", "output"]
ALL_OPTIONS = {"scale": -0.7, "softcap": 5.0}
DEFAULT_FLOAT = {"torch": "float32", "tensorflow": "float32", "jax": "float64"}  # JAX: conftest enables x64


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.fixture(scope="module")
def backend(name: str) -> ModuleType:
    """Load its module."""
    return frameworks.load(name)


def rounded(arrays: tuple[Array, ...], dtype: str) -> list[Array]:
    """Round inputs to the dtype: the reference consumes what the backend consumes."""
    return [array.astype(NUMPY_DTYPES[dtype]) for array in arrays]


def assert_native(name: str, result: Any, dtype: str) -> None:
    """Require a tensor of the framework, of this dtype."""
    assert isinstance(result, native_type(name))
    assert to_numpy(result).dtype == NUMPY_DTYPES[dtype]


# --- every option at float64

OPTION_CASES: dict[str, tuple[Dims, str, dict[str, Any]]] = {
    **{f"mask-{mask}": (SQUARE if case.square else DIMS, mask, {}) for mask, case in MASKS.items()},
    **{f"tall-{mask}": (TALL, mask, {}) for mask in ("causal_end", "window_end", "and_queries")},
    **{f"rank{rank}-{mask}": (dims, mask, {}) for rank, dims in BY_RANK.items() for mask in ("none", "and_queries")},
    **{f"rank{rank}-bias": (dims, "array", {"bias": dims.pairs}) for rank, dims in BY_RANK.items()},
    **{f"grouped-{mask}": (GROUPED, mask, {}) for mask in ("none", "array")},
    **{f"multi_query-{mask}": (MULTI_QUERY, mask, {}) for mask in ("none", "array")},
    "grouped-everything": (GROUPED, "mask_and_array", {"bias": GROUPED.pairs, **ALL_OPTIONS}),
    "bias-keys": (DIMS, "none", {"bias": (1, DIMS.keys)}),
    "bias-heads": (DIMS, "none", {"bias": (1, DIMS.heads, 1, 1)}),
    "scale-0": (DIMS, "none", {"scale": 0}),
    "scale-negative": (DIMS, "none", {"scale": -0.7}),
    "softcap": (DIMS, "none", {"softcap": 2.0}),
    "one_of_each": (Dims((1,), 1, 1, 1, 1, 1, 1), "none", {}),
    "no_keys": (DIMS._replace(keys=0), "none", {}),
    "no_keys-everything": (DIMS._replace(keys=0), "causal_0", {"bias": (2, 3, 5, 0), **ALL_OPTIONS}),
    "no_queries": (DIMS._replace(queries=0), "none", {}),
    "no_batch": (DIMS._replace(batch=(0,)), "none", {}),
    "no_heads": (DIMS._replace(heads=0, kv_heads=0), "none", {}),
    "no_heads_of_two_groups": (DIMS._replace(heads=0, kv_heads=2), "none", {}),
    "no_value_dim": (DIMS._replace(value_dim=0), "none", {}),
}


def _options(dims: Dims, mask: str, options: dict[str, Any]) -> dict[str, Any]:
    drawn = {"mask": MASKS[mask].make(dims), **options}
    if "bias" in options:
        drawn["bias"] = draw_bias(options["bias"], masked=0.2)
    return drawn


@pytest.mark.parametrize("case", OPTION_CASES.values(), ids=OPTION_CASES.keys())
def test_every_stage_in_float64(name: str, backend: ModuleType, case: Any) -> None:
    options = _options(*case)
    arrays = draw(case[0])
    expected = reference.attention_stages(*arrays, **options)
    tensors = [to_native(name, array) for array in arrays]
    stages = backend.attention_stages(*tensors, **options)
    for stage in STAGES:
        assert_native(name, getattr(stages, stage), "float64")
        assert_close(to_numpy(getattr(stages, stage)), getattr(expected, stage), FLOAT64_TOLERANCE)
    output = backend.dot_product_attention(*tensors, **options)
    assert_native(name, output, "float64")
    assert_same_bits(to_numpy(output), to_numpy(stages.output))


# --- dtypes

DTYPE_CASES: dict[str, tuple[Dims, str, dict[str, Any]]] = {
    "plain": (DIMS, "none", {}),
    "causal": (DIMS, "causal_end", {}),
    "everything": (GROUPED, "mask_and_array", {"bias": GROUPED.pairs, **ALL_OPTIONS}),
    "empty_rows": (DIMS, "and_queries", {"softcap": 2.0}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", DTYPE_CASES.values(), ids=DTYPE_CASES.keys())
def test_narrow_dtypes(name: str, backend: ModuleType, case: Any, dtype: str) -> None:
    dims, options = case[0], _options(*case)
    arrays = rounded(draw(dims), dtype)
    if "bias" in options:
        options["bias"] = options["bias"].astype(NUMPY_DTYPES[dtype])
    expected = reference.attention_stages(*arrays, **options)
    if "bias" in options:
        options["bias"] = to_native(name, options["bias"])
    stages = backend.attention_stages(*(to_native(name, array) for array in arrays), **options)
    for stage in STAGES[:-1]:
        assert_native(name, getattr(stages, stage), "float32")
        # Of the largest logit, about 20: its rounding and that of the 11 terms of the dot product.
        assert_close(to_numpy(getattr(stages, stage)), getattr(expected, stage), 16 * 2.0**-24)
    assert_native(name, stages.output, dtype)
    scale = options.get("scale", dims.head_dim**-0.5)
    bound = output_bound(expected, *(array.astype(np.float64) for array in arrays), scale, dtype)
    assert_within(to_numpy(stages.output), expected.output, bound)
    output = backend.dot_product_attention(*(to_native(name, array) for array in arrays), **options)
    assert_same_bits(to_numpy(output), to_numpy(stages.output))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_float32_bias_beside_half_precision(name: str, backend: ModuleType, dtype: str) -> None:
    arrays = rounded(draw(DIMS), dtype)
    bias = draw_bias(DIMS.pairs).astype(np.float32)
    expected = reference.attention_stages(*arrays, bias=bias)
    stages = backend.attention_stages(*(to_native(name, array) for array in arrays), bias=to_native(name, bias))
    assert_native(name, stages.output, dtype)
    assert_close(to_numpy(stages.logits), expected.logits, 16 * 2.0**-24)  # not rounded to half on the way


# --- operations with projections


def _weight(rows: int, columns: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((rows, columns)) * (3.0 / rows) ** 0.5


def _self_attention(rng: np.random.Generator) -> tuple[str, list[Array], dict[str, Any]]:
    arrays = [rng.standard_normal((2, 7, 13)), _weight(13, 5, rng), _weight(13, 5, rng), _weight(13, 3, rng)]
    return "self_attention", arrays, {}


def _key_value_attention(rng: np.random.Generator) -> tuple[str, list[Array], dict[str, Any]]:
    query, keys, values = draw(Dims((2,), 1, 1, 1, 7, 5, 3), int(rng.integers(100)))
    return "key_value_attention", [query[:, 0, 0], keys[:, 0], values[:, 0]], {}


def _multi_head_attention(kv_heads: int | None, biases: bool) -> Callable[..., tuple[str, list[Array], dict[str, Any]]]:
    def make(rng: np.random.Generator) -> tuple[str, list[Array], dict[str, Any]]:
        kv = 4 if kv_heads is None else kv_heads
        sizes = [(17, 4 * 11), (19, kv * 11), (13, kv * 3), (4 * 3, 23)]
        weights = [_weight(*size, rng) for size in sizes]
        drawn = [draw_values((size[1],), rng) for size in sizes] if biases else []
        inputs = [rng.standard_normal((2, length, size)) for length, size in ((5, 17), (7, 19), (7, 13))]
        return "multi_head_attention", [*inputs, *weights, *drawn], {"num_heads": 4, "num_kv_heads": kv_heads}

    return make


PROJECTED = {
    "self_attention": (_self_attention, Dims((2,), 1, 1, 7, 7, 5, 3)),
    "key_value_attention": (_key_value_attention, Dims((2,), 1, 1, 1, 7, 5, 3)),
    "multi_head_attention": (_multi_head_attention(None, False), Dims((2,), 4, 4, 5, 7, 11, 3)),
    "multi_head_attention-grouped_biased": (_multi_head_attention(2, True), Dims((2,), 4, 2, 5, 7, 11, 3)),
}


def _call(module: ModuleType, operation: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    if operation == "multi_head_attention":
        arguments = [*arguments[:3], module.MultiHeadParameters(*arguments[3:])]
    return getattr(module, operation)(*arguments, **options)


@pytest.mark.parametrize(
    ("mask", "dtype"),
    [
        ("none", "float64"),
        ("keys_batch", "float64"),
        ("array", "float64"),
        ("array", "float32"),
        ("array", "bfloat16"),
        ("array", "float16"),
    ],
)
@pytest.mark.parametrize(("make", "dims"), PROJECTED.values(), ids=PROJECTED.keys())
def test_operations_with_projections(
    name: str, backend: ModuleType, make: Any, dims: Dims, mask: str, dtype: str
) -> None:
    operation, arrays, options = make(np.random.default_rng(21))
    arrays = rounded(tuple(arrays), dtype)
    options["mask"] = MASKS[mask].make(dims)
    if mask == "array":
        bias = draw_bias(dims.pairs).astype(NUMPY_DTYPES[dtype])
        options |= {"softcap": 5.0, "scale": 0.4, "bias": bias}
    expected = _call(reference, operation, arrays, options)
    result = _call(backend, operation, [to_native(name, array) for array in arrays], options)
    assert_native(name, result, dtype)
    if dtype == "float64":
        assert_close(to_numpy(result), expected, FLOAT64_TOLERANCE)
        return
    names = (*OPERATIONS[operation].tensors, *OPERATIONS[operation].optional)
    tensors = dict(zip(names, arrays, strict=False))
    # Everything between the inputs and the output is float32, also what the projections hand on: one rounding ends it.
    bound = OPERATIONS[operation].evaluate(tensors, options, PROFILES["fp32"]).bound
    unit = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    assert_within(to_numpy(result), expected, bound + unit * (np.abs(expected) + bound))


# --- kinds of input


def _strided(array: Array) -> Array:
    """The same values in transposed memory."""
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)


def _reversed(array: Array) -> Array:
    """The same values, read backwards."""
    return np.ascontiguousarray(array[..., ::-1, :])[..., ::-1, :]


def _read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


NUMPY_KINDS: dict[str, Callable[[Array], Array]] = {
    "contiguous": np.copy,
    "transposed": _strided,
    "negative_stride": _reversed,
    "read_only": _read_only,
    "byte_swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "every_second": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("kind", NUMPY_KINDS.values(), ids=NUMPY_KINDS.keys())
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_numpy_inputs(name: str, backend: ModuleType, kind: Callable[[Array], Array], dtype: str) -> None:
    arrays = rounded(draw(DIMS), dtype)
    bias, mask = draw_bias(DIMS.pairs).astype(NUMPY_DTYPES[dtype]), MASKS["array"].make(DIMS)
    expected = reference.attention_stages(*arrays, bias=bias, mask=mask)
    given = [kind(array) for array in (*arrays, bias)]
    result = backend.dot_product_attention(*given[:3], bias=given[3], mask=kind(mask))
    assert_native(name, result, dtype)
    bound = output_bound(expected, *(array.astype(np.float64) for array in arrays), DIMS.head_dim**-0.5, dtype)
    assert_within(to_numpy(result), expected.output, bound)


def test_broadcast_numpy_inputs(backend: ModuleType) -> None:
    query, key, value = draw(DIMS)
    whole = [np.broadcast_to(array[:1, :1], array.shape) for array in (query, key, value)]
    assert whole[0].strides[0] == 0
    bias = np.broadcast_to(draw_bias((DIMS.keys,)), DIMS.pairs)
    expected = reference.dot_product_attention(*whole, bias=bias)
    result = backend.dot_product_attention(*whole, bias=bias)
    assert_close(to_numpy(result), expected, FLOAT64_TOLERANCE)


def _transposed_native(name: str, array: Array) -> Any:
    if name == "torch":
        return to_native(name, np.ascontiguousarray(array.swapaxes(-1, -2))).transpose(-1, -2)
    return to_native(name, np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2))


def _expanded_native(name: str, array: Array) -> Any:
    tensor = to_native(name, array[:1])
    if name == "torch":
        return tensor.expand(array.shape)
    import importlib

    return importlib.import_module({"jax": "jax.numpy"}.get(name, name)).broadcast_to(tensor, array.shape)


@pytest.mark.parametrize("kind", [_transposed_native, _expanded_native], ids=["transposed", "expanded"])
def test_native_inputs_in_any_layout(name: str, backend: ModuleType, kind: Callable[..., Any]) -> None:
    arrays = draw(DIMS)
    if kind is _expanded_native:
        arrays = tuple(np.repeat(array[:1], 2, axis=0) for array in arrays)
    expected = reference.dot_product_attention(*arrays)
    result = backend.dot_product_attention(*(kind(name, array) for array in arrays))
    assert_native(name, result, "float64")
    assert_close(to_numpy(result), expected, FLOAT64_TOLERANCE)


def test_python_lists_take_the_default_float(name: str, backend: ModuleType) -> None:
    query, key, value = (np.round(array, 2) for array in draw(BY_RANK[2]))
    mask = MASKS["array"].make(BY_RANK[2])
    result = backend.dot_product_attention(query.tolist(), key.tolist(), value.tolist(), mask=mask.tolist())
    dtype = DEFAULT_FLOAT[name]
    assert_native(name, result, dtype)
    stages = reference.attention_stages(*rounded((query, key, value), dtype), mask=mask)
    assert_within(to_numpy(result), stages.output, output_bound(stages, query, key, value, 11**-0.5, dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_lists_take_the_dtype_of_the_tensor_beside_them(name: str, backend: ModuleType, dtype: str) -> None:
    query, key, value = rounded(draw(BY_RANK[2]), dtype)
    bias = draw_bias((5, 7)).astype(NUMPY_DTYPES[dtype])
    native = [to_native(name, array) for array in (query, key, value, bias)]
    expected = backend.dot_product_attention(*native[:3], bias=native[3])
    lists = [array.astype(np.float64).tolist() for array in (query, key, value, bias)]
    result = backend.dot_product_attention(native[0], lists[1], lists[2], bias=lists[3])
    assert_native(name, result, dtype)
    assert_same_bits(to_numpy(result), to_numpy(expected))
    result = backend.dot_product_attention(lists[0], native[1], lists[2], bias=lists[3])
    assert_same_bits(to_numpy(result), to_numpy(expected))


def test_lists_of_integers_are_numbers(name: str, backend: ModuleType) -> None:
    result = backend.dot_product_attention([[0, 0]], [[1, 2], [3, 4]], [[5], [-8]], mask=[[True, True]])
    assert_native(name, result, DEFAULT_FLOAT[name])
    assert_same_bits(to_numpy(result), np.array([[-1.5]], NUMPY_DTYPES[DEFAULT_FLOAT[name]]))


@pytest.mark.parametrize("masked", [np.bool_, "native"], ids=["numpy", "native"])
def test_mask_objects_combine_with_the_frameworks_arrays(name: str, backend: ModuleType, masked: Any) -> None:
    arrays = draw(DIMS)
    booleans = MASKS["array"].make(DIMS)
    array = to_native(name, booleans) if masked == "native" else booleans
    lengths, shift = np.array([3, 5]), np.array([1, -2])
    expected = reference.dot_product_attention(
        *arrays, mask=booleans & (reference.key_lengths(lengths) | ~reference.causal(shift))
    )
    give = (lambda x: to_native(name, x)) if masked == "native" else (lambda x: x)
    for mask in (
        array & (backend.key_lengths(give(lengths)) | ~backend.causal(give(shift))),
        (backend.key_lengths(give(lengths)) | ~backend.causal(give(shift))) & array,
    ):
        result = backend.dot_product_attention(*(to_native(name, x) for x in arrays), mask=mask)
        assert_close(to_numpy(result), expected, FLOAT64_TOLERANCE)


# --- S17


def _arrays_of_everything() -> dict[str, Array]:
    query, key, value = draw(DIMS)
    key[1, 2, 3, 4], value[0, 1, 2, 3] = np.nan, np.inf
    return {
        "query": query,
        "key": key,
        "value": value,
        "bias": draw_bias(DIMS.pairs),
        "mask": MASKS["array"].make(DIMS),
    }


@pytest.mark.parametrize("kind", ["numpy", "native"])
def test_inputs_are_not_modified(name: str, backend: ModuleType, kind: str) -> None:
    arrays = _arrays_of_everything()
    given = {key: array.copy() if kind == "numpy" else to_native(name, array) for key, array in arrays.items()}
    mask = given.pop("mask")
    backend.dot_product_attention(**given, mask=mask, softcap=5.0)
    backend.attention_stages(**given, mask=backend.causal("end") & mask, scale=0.3)
    for key, array in arrays.items():
        assert_same_bits(to_numpy(mask if key == "mask" else given[key]), array)


def test_a_mask_keeps_the_numbers_it_was_made_with(backend: ModuleType) -> None:
    lengths = np.array([3, 5])
    mask = backend.key_lengths(lengths)
    lengths[:] = 7
    expected = reference.dot_product_attention(*draw(DIMS), mask=reference.key_lengths([3, 5]))
    assert_close(to_numpy(backend.dot_product_attention(*draw(DIMS), mask=mask)), expected, FLOAT64_TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_same_call_gives_the_same_bits(name: str, backend: ModuleType, dtype: str) -> None:
    tensors = [to_native(name, array) for array in rounded(draw(GROUPED), dtype)]
    mask = MASKS["mask_and_array"].make(GROUPED)
    first, second = (backend.attention_stages(*tensors, mask=mask, softcap=5.0) for _ in range(2))
    for stage in STAGES:
        assert_same_bits(to_numpy(getattr(first, stage)), to_numpy(getattr(second, stage)))

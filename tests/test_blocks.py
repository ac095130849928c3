"""Layer normalisation, feed-forward, encoder and decoder (S29–S32): what they are.

The reference is held against PyTorch's own layers, against formulas evaluated by mpmath, and against differences. All
numbers are of the size of 1, and both sides round every operation of at most five parts in a row: 1e-13 of the largest
result is some ten times what was measured, and far below what any wrong formula gives.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import frameworks
import mpmath
import numpy as np
import pytest
from block_cases import (
    CASES,
    ENCODER_DROPOUT,
    HEADS,
    HEADS_OF,
    INPUTS,
    Case,
    blocks,
    cotangent_of,
    draw,
    encoding,
    run,
)
from comparisons import UNIT_ROUNDOFF, assert_close, assert_within
from frameworks import name_of
from native_tensors import Array, to_numpy

from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters, alibi, causal, relative_position_bias
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
)
from attnspec.contract.states import leaves, map_leaves
from attnspec.reference import block_gradients
from attnspec.reference.blocks import decoder, encoder, encoder_layer, feed_forward, layer_norm

STEP = 2.0**-17
"""Of central differences: h² of a third derivative is 6e-11 of it, and their rounding 2^-53 / h = 1.5e-11."""

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def torch() -> Any:
    frameworks.load("torch")
    return importlib.import_module("torch")


# --- the reference


def _of_torch_attention(layer: Any) -> MultiHeadParameters:
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    return MultiHeadParameters(*(part.T for part in weights), layer.out_proj.weight.T, *biases, layer.out_proj.bias)


def _of_torch_layer(layer: Any, read: Any) -> Any:
    """Read a layer of torch.nn, or what `read` makes of its parameters, as parameters of ours."""
    norms = [LayerNormParameters(part.weight, part.bias) for name, part in layer.named_children() if "norm" in name]
    fed = FeedForwardParameters(layer.linear1.weight.T, layer.linear2.weight.T, layer.linear1.bias, layer.linear2.bias)
    attention = _of_torch_attention(layer.self_attn)
    if len(norms) == 2:
        return map_leaves(read, EncoderLayerParameters(attention, norms[0], fed, norms[1]))
    cross = _of_torch_attention(layer.multihead_attn)
    return map_leaves(read, DecoderLayerParameters(attention, norms[0], cross, norms[1], fed, norms[2]))


def _drawn(torch: Any, module: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.eval()  # in training it would drop


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_torch_has_the_same_layers(torch: Any, kind: str, order: str, activation: str) -> None:
    size, heads, hidden, length = 6, 3, 11, 5
    rng = np.random.default_rng(3)
    arrays = {"inputs": rng.standard_normal((2, length, size))}
    if kind == "decoder":
        arrays["memory"] = rng.standard_normal((2, 3, size))
    layer_class, stack_class = (getattr(torch.nn, f"Transformer{kind.title()}{part}") for part in ("Layer", ""))
    layer = layer_class(
        size, heads, hidden, 0.0, activation, batch_first=True, norm_first=order == "pre", dtype=torch.float64
    )
    last = torch.nn.LayerNorm(size, dtype=torch.float64)
    more = {"enable_nested_tensor": False} if kind == "encoder" else {}
    stack = _drawn(torch, stack_class(layer, 2, last, **more))
    hidden_keys = torch.ones(length, length, dtype=torch.bool).triu(1)
    given = [torch.tensor(array, requires_grad=True) for array in arrays.values()]
    expected = stack(*given, hidden_keys)
    cotangent = rng.standard_normal(expected.shape)
    expected.backward(torch.from_numpy(cotangent))

    classes = {"encoder": EncoderParameters, "decoder": DecoderParameters}

    def ours(read: Any) -> Any:
        layers = tuple(_of_torch_layer(one, read) for one in stack.layers)
        return classes[kind](layers, map_leaves(read, LayerNormParameters(last.weight, last.bias)))

    options = {"num_heads": heads, "norm": order, "activation": activation, "mask": causal()}
    parameters = ours(to_numpy)
    result = {"encoder": encoder, "decoder": decoder}[kind](*arrays.values(), parameters, **options)
    assert_close(result, to_numpy(expected), 1e-13)

    # torch adds up the gradients of a matrix as it lies; a transposed view of it has none of its own.
    for parameter in stack.parameters():
        parameter.data = parameter.grad
    pulled = getattr(block_gradients, f"{kind}_vjp")(*arrays.values(), parameters, cotangent, **options)
    for key, tensor in zip(arrays, given, strict=True):
        assert_close(getattr(pulled, key), to_numpy(tensor.grad), 1e-13)
    found = leaves(pulled.parameters)
    for path, derivative in leaves(ours(to_numpy)).items():
        if path.endswith("key_bias"):  # moves all logits of a row alike: both are what rounding leaves of 0
            assert max(np.abs(found[path]).max(), np.abs(derivative).max()) < 1e-13
        else:
            assert_close(found[path], derivative, 1e-13)


ACTIVATIONS = {
    "relu": lambda z: max(z, 0),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda z: z / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3))),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "tanh": mpmath.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_activations_have_no_cancellation(attn: ModuleType, activation: str, dtype: str) -> None:
    """An identity around it gives the activation itself; |z| up to 12, where Φ(z) is 2e-33."""
    z = np.linspace(-12.0, 12.0, 97).astype(dtype)[None, :, None]
    one = np.ones((1, 1), dtype)
    case = Case("feed_forward", {"inputs": z}, FeedForwardParameters(one, one), {"activation": activation})
    with mpmath.workdps(100):  # the tanh at −12 is −1 to 61 digits
        expected = np.array([float(ACTIVATIONS[activation](mpmath.mpf(float(x)))) for x in z.ravel()]).reshape(z.shape)
    # The exponential of a number that is rounded errs by as much as that number: z² for gelu, less for all others but
    # gelu_tanh, whose 2a is 0.0714 |z|³ + 1.6 |z|.
    exponent = {"gelu": z**2, "gelu_tanh": 0.0714 * abs(z) ** 3 + 2 * abs(z)}.get(activation, abs(z))
    roundoff = UNIT_ROUNDOFF["float64" if name_of(attn) == "reference" else dtype]
    bound = (4.0 * exponent + 16.0) * roundoff * np.abs(expected)
    assert_within(run(attn, case), expected, bound + np.finfo(dtype).tiny * 12)


def test_layer_norm_by_hand(attn: ModuleType) -> None:
    case = Case(
        "layer_norm",
        {"inputs": np.array([[1.0, 3.0, 5.0, 7.0], [-2.0, -2.0, -2.0, -2.0]])},
        LayerNormParameters(np.array([1.0, 2.0, -1.0, 0.5]), np.array([0.0, 1.0, 0.0, -1.0])),
        {"epsilon": 4.0},
    )
    # μ = 4, σ² = 5, √(5 + 4) = 3: n = −1, −1/3, 1/3, 1. A row without variance has n = 0.
    assert_close(run(attn, case), np.array([[-1.0, 1 / 3, -1 / 3, -0.5], [0.0, 1.0, 0.0, -1.0]]), 1e-15)


def test_variance_is_that_of_differences(attn: ModuleType) -> None:
    """The mean of squares minus the square of the mean would be 0 here, or anything."""
    case = Case(
        "layer_norm",
        {"inputs": 1e9 + np.array([[0.0, 1.0, 2.0, 5.0]])},
        LayerNormParameters(np.ones(4)),
        {"epsilon": 2.0**-126},
    )
    assert_close(run(attn, case), np.array([[-2.0, -1.0, 0.0, 3.0]]) / np.sqrt(3.5), 1e-15)


def test_one_component_gives_the_bias(attn: ModuleType) -> None:
    parameters = LayerNormParameters(np.array([3.0]), np.array([0.75]))
    output = run(attn, Case("layer_norm", {"inputs": draw(2, 5, 1)}, parameters, {}))
    np.testing.assert_array_equal(output, np.full((2, 5, 1), 0.75))


def test_parts_of_an_encoder_layer_with_dropout() -> None:
    """Put together from the operations that it is made of, by the formula of its documentation."""
    parameters, dropout = encoding(), ENCODER_DROPOUT
    x = INPUTS["inputs"]

    def drop(y: Array, one: Dropout) -> Array:
        return y * one.keep / (1.0 - one.rate)

    def attention(x: Array) -> Array:
        return reference.multi_head_attention(
            x, x, x, parameters.attention, **HEADS_OF, mask=causal(), dropout=dropout.weights
        )

    def fed(x: Array) -> Array:
        return feed_forward(x, parameters.feed_forward, activation="silu", dropout=dropout.hidden)

    norms = [
        functools.partial(layer_norm, parameters=one, epsilon=0.5)
        for one in (parameters.attention_norm, parameters.feed_forward_norm)
    ]
    y = norms[0](x + drop(attention(x), dropout.attention))
    post = norms[1](y + drop(fed(y), dropout.feed_forward))
    y = x + drop(attention(norms[0](x)), dropout.attention)
    pre = y + drop(fed(norms[1](y)), dropout.feed_forward)
    options = {**HEADS_OF, "mask": causal(), "activation": "silu", "epsilon": 0.5, "dropout": dropout}
    assert_close(encoder_layer(x, parameters, **options), post, 1e-14)
    assert_close(encoder_layer(x, parameters, **options, norm="pre"), pre, 1e-14)


def test_dropout_of_the_hidden_units_by_hand(attn: ModuleType) -> None:
    identity = FeedForwardParameters(np.eye(3), np.eye(3))
    inputs = np.array([[[1.0, 2.0, -3.0], [4.0, -5.0, 6.0]]])
    dropout = Dropout(0.75, keep=np.array([[[True, False, True], [True, True, False]]]))
    output = run(attn, Case("feed_forward", {"inputs": inputs}, identity, {"dropout": dropout}))
    np.testing.assert_array_equal(output, [[[4.0, 0.0, 0.0], [16.0, 0.0, 0.0]]])


@every_case
def test_gradients_of_the_reference_against_differences(case: Case) -> None:
    cotangent, arrays = cotangent_of(case), case.arrays
    pulled = case.gradients(arrays, cotangent)
    assert pulled.keys() == arrays.keys()
    rng = np.random.default_rng(47)
    for key, array in arrays.items():
        direction = rng.standard_normal(array.shape)
        losses = [
            (case.call(blocks(reference), {**arrays, key: array + step * direction}) * cotangent).sum()
            for step in (STEP, -STEP)
        ]
        slope, size = (losses[0] - losses[1]) / (2 * STEP), np.abs(pulled[key] * direction).sum()
        assert size > 0.01, key
        assert abs(slope - (pulled[key] * direction).sum()) < 1e-7 * size, key


@pytest.mark.parametrize("offset", [0, np.array([0, 2])], ids=["int", "array"])
def test_gradient_of_a_bias_object_is_added_over_the_layers(offset: Any) -> None:
    """Its numbers alone are: offsets stay what they are."""
    table, slopes = draw(6, HEADS), np.abs(draw(HEADS))
    bias = alibi(slopes, symmetric=False, offset=offset) + relative_position_bias(
        table, bidirectional=False, max_distance=8, offset=offset
    )
    case = CASES["encoder"]
    options = {**case.options, "bias": bias + case.options["bias"]}
    cotangent = cotangent_of(case)
    whole = block_gradients.encoder_vjp(INPUTS["inputs"], case.parameters, cotangent, **options).bias
    np.testing.assert_array_equal(np.asarray(whole.left.left.offset), np.asarray(offset))
    for path, numbers, found in (
        ("slopes", slopes, whole.left.left.slopes),
        ("table", table, whole.left.right.table),
        ("array", case.options["bias"], whole.right.array),
    ):
        direction = np.random.default_rng(53).standard_normal(numbers.shape)

        def loss(step: float, path: str = path, direction: Array = direction) -> float:
            moved = {"slopes": slopes, "table": table, "array": case.options["bias"]}
            moved[path] = moved[path] + step * direction
            changed = alibi(moved["slopes"], symmetric=False, offset=offset) + relative_position_bias(
                moved["table"], bidirectional=False, max_distance=8, offset=offset
            )
            output = encoder(INPUTS["inputs"], case.parameters, **{**options, "bias": changed + moved["array"]})
            return float((output * cotangent).sum())

        slope = (loss(STEP) - loss(-STEP)) / (2 * STEP)
        assert abs(slope - (found * direction).sum()) < 1e-7 * np.abs(found * direction).sum(), path

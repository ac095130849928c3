"""Interchange: layers of attnspec and the frameworks' own compute the same, in both directions, or say why not."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_same_bits
from layer_catalogue import build, numbers, state_of
from native_tensors import to_native, to_numpy

from attnspec.conformance.interchange import DIRECTIONS, Agreement, Exchange, largest_ratio, measure
from attnspec.conformance.interchange_cases import HEADS, INPUTS, MEMORY, PAIRS, SIZE, exchanges
from attnspec.conformance.interchange_report import report
from attnspec.conformance.measured_pages import measured_part
from attnspec.contract import InterchangeError, Rotary, causal
from attnspec.contract.layer_states import CONFIGS

PAGE = Path(__file__).parent.parent / "docs" / "interchange.md"
NATIVE = {"torch": "torch.nn", "tensorflow": "keras.layers", "jax": "flax.nnx"}

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation() -> Iterator[None]:
    """Let XLA compile without most of its optimisations: everything here runs once."""
    try:
        jax = importlib.import_module("jax")
    except ModuleNotFoundError:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


CASES = [(framework, place) for framework in NATIVE for place in range(len(exchanges(framework)))]


@functools.cache
def agreements(framework: str, place: int) -> dict[str, Agreement | None]:
    frameworks.load(framework)
    return {direction: measure(exchanges(framework)[place], direction) for direction in DIRECTIONS}


def name_of(one: Exchange) -> str:
    return f"{one.theirs.rpartition('.')[2]}-{one.ours}-{one.note}"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("framework", "place"), CASES, ids=[f"{framework}-{name_of(exchanges(framework)[i])}" for framework, i in CASES]
)
def test_both_compute_the_same(framework: str, place: int, direction: str) -> None:
    agreement = agreements(framework, place)[direction]
    if agreement is None:
        assert exchanges(framework)[place].note == "concat, learned scale"
        return
    assert max(agreement) <= 1.0


def test_page_is_current() -> None:
    """But for the digits of ratios, which depend on the machine."""
    [frameworks.load(name) for name in frameworks.MODULES]
    found = {
        framework: [(one, agreements(framework, place)) for place, one in enumerate(exchanges(framework))]
        for framework in NATIVE
    }

    def without_ratios(text: str) -> str:
        return re.sub(r"\b\d\.\d\d\b(?!\.)", "#", text)

    assert without_ratios(measured_part(PAGE.read_text(encoding="utf8"))) == without_ratios(report(found))


def exchange(framework: str, theirs: str, note: str) -> Exchange:
    [one] = [one for one in exchanges(framework) if (one.theirs, one.note) == (theirs, note)]
    return one


class TestMeasureCanFail:
    """What a wrong translation would look like: not one of these is near 1."""

    def ratio(self, framework: str, theirs: str, note: str, **changes: Any) -> float:
        frameworks.load(framework)
        agreement = measure(dataclasses.replace(exchange(framework, theirs, note), **changes), "from_native")
        assert agreement is not None
        return max(agreement)

    def test_key_and_value_exchanged(self) -> None:
        inputs = INPUTS, MEMORY, MEMORY[::-1].copy()

        def call(module: Any, query: Any, key: Any, value: Any) -> Any:
            return module(query, value=key, key=value)

        name = "keras.layers.MultiHeadAttention"
        assert self.ratio("tensorflow", name, "self-attention", inputs=inputs) <= 1.0
        assert self.ratio("tensorflow", name, "self-attention", inputs=inputs, call=call) > 1e4

    def test_mask_left_out_or_inverted(self) -> None:
        name = "torch.nn.MultiheadAttention"
        assert self.ratio("torch", name, "mask", options={}) > 1e4
        assert self.ratio("torch", name, "mask", options={"mask": ~PAIRS | np.eye(*PAIRS.shape, dtype=bool)}) > 1e4

    def test_causal_by_one_position(self) -> None:
        assert self.ratio("torch", "torch.nn.MultiheadAttention", "causal", options={"mask": causal(1)}) > 1e4

    @pytest.mark.parametrize("output", [np.zeros((2, 5, 11)), np.full((2, 5, 12), np.nan)], ids=["shape", "NaN"])
    def test_what_cannot_be_compared_is_infinitely_far(self, output: Array) -> None:
        assert largest_ratio(output, np.zeros((2, 5, 12)), np.ones((2, 5, 12))) == np.inf


@pytest.mark.parametrize(
    ("framework", "layer", "arguments"),
    [
        ("torch", "MultiHeadAttention", {"model_size": 12, "num_heads": 3, "key_size": 10, "value_size": 8}),
        ("torch", "EncoderLayer", {"model_size": 12, "num_heads": 3, "norm": "pre", "activation": "gelu_tanh"}),
        ("torch", "Encoder", {"model_size": 12, "num_heads": 3, "num_layers": 2, "dropout_rate": 0.25}),
        ("torch", "Decoder", {"model_size": 12, "num_heads": 3, "num_layers": 2, "norm": "pre", "epsilon": 0.1}),
        (
            "torch",
            "Transformer",
            {
                "model_size": 12,
                "num_heads": 3,
                "num_encoder_layers": 1,
                "num_decoder_layers": 2,
                "positions": None,
                "use_bias": False,
            },
        ),
        ("torch", "LayerNorm", {"model_size": 12, "use_bias": False, "epsilon": 0.1}),
        (
            "tensorflow",
            "MultiHeadAttention",
            {
                "model_size": 12,
                "num_heads": 3,
                "head_dim": 5,
                "value_dim": 2,
                "output_size": 6,
                "window": (2, 2),
                "dropout_rate": 0.25,
            },
        ),
        ("tensorflow", "MultiHeadAttention", {"model_size": 12, "num_heads": 6, "num_kv_heads": 3, "use_bias": False}),
        ("tensorflow", "DotProductAttention", {"use_scale": True, "dropout_rate": 0.25}),
        ("tensorflow", "AdditiveAttention", {"query_size": 12, "use_projections": False}),
        ("tensorflow", "LayerNorm", {"model_size": 12, "epsilon": 0.1}),
        (
            "jax",
            "MultiHeadAttention",
            {"model_size": 12, "num_heads": 6, "num_kv_heads": 3, "head_dim": 5, "key_size": 10, "dropout_rate": 0.25},
        ),
        ("jax", "LayerNorm", {"model_size": 12, "epsilon": 0.1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_there_and_back_is_exact(framework: str, layer: str, arguments: dict[str, Any]) -> None:
    module, config = frameworks.load(framework), CONFIGS[layer](**arguments)
    state = state_of(config, "float32")
    ours = build(framework, config, dtype="float32").load_state(state)
    back = module.from_native(module.to_native(ours))
    assert type(back) is type(ours)
    assert back.config.meaning() == config.meaning()
    assert getattr(back.config, "dropout_rate", 0) == getattr(config, "dropout_rate", 0)
    for name, array in back.state().items():
        assert_same_bits(array, state[name])


class TestModes:
    @pytest.mark.parametrize("is_training", [False, True])
    def test_torch_keeps_mode_and_dtype(self, is_training: bool) -> None:
        attn, torch = frameworks.load("torch"), importlib.import_module("torch")
        theirs = torch.nn.TransformerEncoderLayer(12, 3, dropout=0.25, dtype=torch.bfloat16).train(is_training)
        ours = attn.from_native(theirs)
        assert (ours.training, ours.config.dropout_rate) == (is_training, 0.25)
        assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
        back = attn.to_native(ours)
        assert back.training is is_training
        assert {parameter.dtype for parameter in back.parameters()} == {torch.bfloat16}
        assert [back.dropout.p, back.dropout1.p, back.dropout2.p, back.self_attn.dropout] == [0.25] * 4

    def test_keras_keeps_its_policy(self) -> None:
        attn, keras = frameworks.load("tensorflow"), importlib.import_module("keras")
        theirs = keras.layers.AdditiveAttention(dtype="mixed_bfloat16")
        theirs.build([(2, 5, 12), (2, 7, 12)])
        ours = attn.from_native(theirs)
        assert (ours.variable_dtype, ours.compute_dtype) == ("float32", "bfloat16")
        assert attn.to_native(ours).compute_dtype == "bfloat16"

    def test_flax_keeps_evaluation(self) -> None:
        attn, nnx = frameworks.load("jax"), importlib.import_module("flax.nnx")
        zeros = {"kernel_init": nnx.initializers.zeros, "rngs": nnx.Rngs(0)}
        theirs = nnx.MultiHeadAttention(3, 12, dropout_rate=0.25, deterministic=True, **zeros)
        ours = attn.from_native(theirs)
        assert (ours.deterministic, ours.config.dropout_rate) == (True, 0.25)
        assert attn.to_native(ours).deterministic is True

    def test_neither_sees_the_other_s_changes(self) -> None:
        attn, torch = frameworks.load("torch"), importlib.import_module("torch")
        theirs = torch.nn.LayerNorm(12)
        ours = attn.from_native(theirs)
        back = attn.to_native(ours)
        with torch.no_grad():
            ours.weight.fill_(5.0)
        assert theirs.weight.max() == back.weight.max() == 1.0


class TestEmptyRows:
    """A query that may see nothing: 0 in ours (S10)."""

    def test_torch(self) -> None:
        attn, torch = frameworks.load("torch"), importlib.import_module("torch")
        theirs, inputs = torch.nn.MultiheadAttention(12, 3, batch_first=True, bias=False), torch.ones(1, 2, 12)
        hidden = torch.tensor([[False, True], [True, True]])
        assert theirs(inputs, inputs, inputs, attn_mask=hidden)[0][0, 1].isnan().all()
        assert (attn.from_native(theirs)(inputs, mask=~hidden)[0, 1] == 0.0).all()

    def test_keras(self) -> None:
        attn, keras = frameworks.load("tensorflow"), importlib.import_module("keras")
        theirs, values = keras.layers.Attention(), np.array([[[1.0, 2.0], [3.0, 6.0]]], np.float32)
        output = to_numpy(theirs([0 * values, values], mask=[None, np.array([[False, False]])]))
        np.testing.assert_array_equal(output[0, 1], [2.0, 4.0])
        assert not to_numpy(attn.from_native(theirs)(0 * values, values, values, mask=np.zeros((2, 2), bool))).any()


def encoder_layer(nn: Any, **options: Any) -> Any:
    return nn.TransformerEncoderLayer(12, 3, 8, **options)


def changed(path: str, make_value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Build an encoder layer of torch with another part."""

    def make(nn: Any) -> Any:
        module = encoder_layer(nn)
        *parts, name = path.split(".")
        setattr(functools.reduce(getattr, parts, module), name, make_value(nn))
        return module

    return make


def stack(make_second: Callable[[Any], Any], make_norm: Callable[[Any], Any] = lambda _: None) -> Callable[[Any], Any]:
    """Build an encoder of torch with another second layer or last normalisation."""

    def make(nn: Any) -> Any:
        module = nn.TransformerEncoder(encoder_layer(nn), 1, make_norm(nn), enable_nested_tensor=False)
        module.layers.append(make_second(nn))
        return module

    return make


def built(name: str, *shapes: Any, **options: Any) -> Callable[[Any], Any]:
    """Build a layer of Keras for inputs of these shapes."""

    def make(layers: Any) -> Any:
        layer = getattr(layers, name)(**options)
        layer.build(*shapes)
        return layer

    return make


def deprecated(layers: Any) -> Any:
    layer = built("LayerNormalization", SHAPE)(layers)
    layer.rms_scaling = True  # which warns where it is an argument
    return layer


def heads(**options: Any) -> Callable[[Any], Any]:
    """Build an attention of Flax."""
    return lambda nnx: nnx.MultiHeadAttention(3, 12, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0), **options)


def norm(**options: Any) -> Callable[[Any], Any]:
    """Build a normalisation of Flax."""
    return lambda nnx: nnx.LayerNorm(12, rngs=nnx.Rngs(0), **options)


SHAPE, DEEP, SIZES = (2, 5, 12), (2, 5, 7, 12), {"num_heads": 3, "key_dim": 4}
PARTS, ENCODER = "parts of the torch.nn.TransformerEncoderLayer", "the torch.nn.TransformerEncoder"
EXCHANGED = {
    "torch": "torch.nn.MultiheadAttention cannot be exchanged with",
    "tensorflow": "keras.layers.MultiHeadAttention cannot be exchanged with",
    "jax": "flax.nnx.MultiHeadAttention cannot be exchanged with",
}
KERAS_NORM, FLAX_NORM = "keras.layers.LayerNormalization", "flax.nnx.LayerNorm"
REFUSED: dict[str, dict[str, tuple[Callable[[Any], Any], str]]] = {
    "torch": {
        "bias_k": (lambda nn: nn.MultiheadAttention(12, 3, add_bias_kv=True), f"{EXCHANGED['torch']} add_bias_kv=True"),
        "zeros": (
            lambda nn: nn.MultiheadAttention(12, 3, add_zero_attn=True),
            f"{EXCHANGED['torch']} add_zero_attn=True",
        ),
        "zeros inside": (
            changed("self_attn.add_zero_attn", lambda _: True),
            f"{EXCHANGED['torch']} add_zero_attn=True",
        ),
        "activation": (lambda nn: encoder_layer(nn, activation=np.sin), "the activation <ufunc 'sin'> has no name in"),
        "dropouts": (changed("dropout1.p", lambda _: 0.5), f"{PARTS} have different dropouts: 0.1, 0.5"),
        "epsilons": (changed("norm2.eps", lambda _: 0.5), f"{PARTS} have different epsilons: 1e-05, 0.5"),
        "norms": (changed("norm2", lambda nn: nn.RMSNorm(12)), f"{PARTS} are of other classes than its own"),
        "biases": (
            changed("linear2.bias", lambda _: None),
            f"{PARTS} differ in having biases or weights: feed_forward.output_bias",
        ),
        "layers": (
            stack(lambda nn: encoder_layer(nn, norm_first=True)),
            f"{ENCODER} must have layers, all with the same arguments",
        ),
        "other layers": (
            stack(lambda nn: nn.Linear(12, 12)),
            f"the layers of {ENCODER} are not all torch.nn.TransformerEncoderLayer",
        ),
        "last norm": (
            stack(encoder_layer, lambda nn: nn.RMSNorm(12)),
            "the last normalisation must be a torch.nn.LayerNorm; got an object of type torch.RMSNorm",
        ),
        "last epsilon": (
            stack(encoder_layer, lambda nn: nn.LayerNorm(12, eps=0.5)),
            "the last normalisation has another epsilon than the layers: 0.5, and not 1e-05",
        ),
        "encoder": (
            lambda nn: nn.Transformer(12, 3, 1, 1, custom_encoder=nn.Linear(12, 12)),
            "a part of the torch.nn.Transformer is no torch.nn.TransformerEncoder",
        ),
        "norm axes": (
            lambda nn: nn.LayerNorm((3, 12)),
            "torch.nn.LayerNorm cannot be exchanged with more than one axis: (3, 12)",
        ),
        "norm weights": (
            lambda nn: nn.LayerNorm(12, elementwise_affine=False),
            "the torch.nn.LayerNorm has no parameters",
        ),
    },
    "tensorflow": {
        "not built": (
            lambda layers: layers.MultiHeadAttention(3, 4),
            "the keras.layers.MultiHeadAttention has no weights yet: build or call it first",
        ),
        "gate": (
            built("MultiHeadAttention", SHAPE, SHAPE, use_gate=True, **SIZES),
            f"{EXCHANGED['tensorflow']} use_gate=True",
        ),
        "axes": (
            built("MultiHeadAttention", DEEP, DEEP, attention_axes=(1, 2), **SIZES),
            f"{EXCHANGED['tensorflow']} attention_axes=(1, 2)",
        ),
        "output axes": (
            built("MultiHeadAttention", SHAPE, SHAPE, output_shape=(2, 3), **SIZES),
            f"{EXCHANGED['tensorflow']} output_shape=(2, 3)",
        ),
        "norm scale": (
            built("LayerNormalization", SHAPE, scale=False),
            f"{KERAS_NORM} cannot be exchanged with scale=False",
        ),
        "norm axis": (
            built("LayerNormalization", SHAPE, axis=1),
            f"{KERAS_NORM} must normalise the last axis; got axis=[1]",
        ),
        "rms": (deprecated, f"{KERAS_NORM} cannot be exchanged with rms_scaling=True"),
    },
    "jax": {
        "normalize_qk": (heads(normalize_qk=True), f"{EXCHANGED['jax']} normalize_qk=True"),
        "decode": (heads(decode=True), f"{EXCHANGED['jax']} decode=True"),
        "attention_fn": (heads(attention_fn=print), f"{EXCHANGED['jax']} attention_fn=<built-in function print>"),
        "dtype": (heads(dtype="bfloat16"), f"{EXCHANGED['jax']} dtype='bfloat16'"),
        "norm scale": (norm(use_scale=False), f"{FLAX_NORM} cannot be exchanged with use_scale=False"),
        "norm axes": (norm(reduction_axes=-2), f"{FLAX_NORM} must normalise and scale the last axis"),
        "norm dtype": (norm(dtype="bfloat16"), f"{FLAX_NORM} cannot be exchanged with dtype='bfloat16'"),
    },
}
REFUSALS = [(framework, name) for framework, cases in REFUSED.items() for name in cases]


@pytest.mark.parametrize(("framework", "name"), REFUSALS, ids=[f"{framework}-{name}" for framework, name in REFUSALS])
def test_what_ours_cannot_compute_is_refused(framework: str, name: str) -> None:
    attn, (make, message) = frameworks.load(framework), REFUSED[framework][name]
    module = make(importlib.import_module(NATIVE[framework]))
    with pytest.raises(InterchangeError) as raised:
        attn.from_native(module)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS)
def test_another_class_is_named(framework: str) -> None:
    attn = frameworks.load(framework)
    with pytest.raises(TypeError, match=rf"^`module` must be one of {NATIVE[framework]}\.Mult.*; got an object of"):
        attn.from_native(object())


def test_a_subclass_is_another_class() -> None:
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    mine = type("Mine", (torch.nn.MultiheadAttention,), {})
    with pytest.raises(TypeError, match=r"^`module` must be one of torch\.nn\.MultiheadAttention, "):
        attn.from_native(mine(12, 3))


OPTIONS: tuple[tuple[dict[str, Any], str, tuple[str, ...]], ...] = (
    ({"use_sinks": True}, "use_sinks=True", ("torch", "tensorflow", "jax")),
    ({"window": (None, 0)}, "window=(None, 0)", ("torch", "tensorflow", "jax")),
    ({"window": (2, 2)}, "window=(2, 2)", ("torch", "jax")),
    ({"rotary": Rotary("half_split")}, "rotary=Rotary('half_split', base=10000.0)", ("torch", "tensorflow", "jax")),
    ({"scale": 2.0}, "scale=2.0", ("torch", "tensorflow", "jax")),
    ({"softcap": 2.0}, "softcap=2.0", ("torch", "tensorflow", "jax")),
    ({"use_bias": ("query",)}, "use_bias=('query',)", ("torch", "tensorflow", "jax")),
    ({"output_dropout_rate": 0.5}, "output_dropout_rate=0.5", ("torch", "tensorflow", "jax")),
    ({"num_kv_heads": 1}, "num_kv_heads=1", ("torch",)),
    ({"head_dim": 6}, "head_dim=6", ("torch",)),
    ({"value_dim": 2}, "value_dim=2", ("torch", "jax")),
    ({"output_size": 6}, "output_size=6", ("torch",)),
    ({"value_size": 6}, "value_size=6", ("jax",)),
)


@pytest.mark.parametrize(
    ("framework", "options", "message"),
    [(framework, options, message) for options, message, names in OPTIONS for framework in names],
    ids=[f"{framework}-{message}" for _, message, names in OPTIONS for framework in names],
)
def test_options_that_theirs_lack_are_refused(framework: str, options: dict[str, Any], message: str) -> None:
    attn = frameworks.load(framework)
    layer = build(framework, CONFIGS["MultiHeadAttention"](12, 3, **options), dtype="float32")
    with pytest.raises(InterchangeError) as raised:
        attn.to_native(layer)
    assert str(raised.value) == f"{EXCHANGED[framework]} {message}"


BLOCK = {"model_size": 12, "num_heads": 3}
ITS_OWN = "its own is 1, or learned"
ADDITIVE, DOT = "keras.layers.AdditiveAttention cannot be exchanged", "keras.layers.Attention cannot be exchanged"
BARE = {"query_size": 3, "use_projections": False}
LACKING: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    (
        "torch",
        "EncoderLayer",
        BLOCK | {"num_kv_heads": 1},
        "torch.nn.Transformer… cannot be exchanged with num_kv_heads=1",
    ),
    (
        "torch",
        "Transformer",
        BLOCK | {"source_size": 5},
        "torch.nn.Transformer cannot be exchanged with positions='sinusoidal', source_size=5",
    ),
    ("torch", "Encoder", BLOCK | {"num_layers": 0}, "the Encoder has no parameters"),
    ("tensorflow", "DotProductAttention", {}, f"{DOT} with the default scale, 1/√Dk: {ITS_OWN}"),
    ("tensorflow", "DotProductAttention", {"scale": 2.0}, f"{DOT} with scale=2.0: {ITS_OWN}"),
    ("tensorflow", "DotProductAttention", {"scale": 1.0, "softcap": 2.0}, f"{DOT} with softcap=2.0"),
    ("tensorflow", "AdditiveAttention", {"query_size": 3}, f"{ADDITIVE} with use_projections=True"),
    ("tensorflow", "AdditiveAttention", BARE | {"scale": 2.0}, f"{ADDITIVE} with scale=2.0"),
)


@pytest.mark.parametrize(("framework", "layer", "arguments", "message"), LACKING)
def test_layers_that_theirs_lack_are_refused(
    framework: str, layer: str, arguments: dict[str, Any], message: str
) -> None:
    attn = frameworks.load(framework)
    with pytest.raises(InterchangeError) as raised:
        attn.to_native(build(framework, CONFIGS[layer](**arguments), dtype="float32"))
    assert str(raised.value) == message


@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS)
def test_layers_without_a_counterpart_are_named(framework: str) -> None:
    attn = frameworks.load(framework)
    with pytest.raises(
        TypeError, match=r"^`layer` must be one of MultiHeadAttention, .*; got an object of type attnspec"
    ):
        attn.to_native(build(framework, CONFIGS["SinusoidalPositions"](4), dtype="float32"))


def test_fast_path_takes_every_gelu_for_the_exact_one() -> None:
    """Why `to_native` gives torch a function instead of `nn.GELU("tanh")`."""
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    options = {"batch_first": True, "activation": torch.nn.GELU("tanh"), "dim_feedforward": 13}
    theirs, inputs = torch.nn.TransformerEncoderLayer(SIZE, HEADS, **options).eval(), torch.from_numpy(3 * INPUTS)
    slow = theirs(inputs)
    with torch.no_grad():
        fast = theirs(inputs)
    ours = attn.from_native(theirs)
    assert (ours(inputs) - slow).abs().max() < 1e-5 < 1e-4 < (fast - slow).abs().max()
    with torch.no_grad():
        assert (attn.to_native(ours)(inputs) - slow).abs().max() < 1e-5


def test_states_go_from_one_framework_s_layer_to_another_s() -> None:
    """torch.nn.MultiheadAttention → ours in torch → ours in JAX → flax.nnx.MultiHeadAttention."""
    torch = importlib.import_module("torch")
    first, last = frameworks.load("torch"), frameworks.load("jax")
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    config = first.from_native(theirs).config
    other = last.to_native(build("jax", config, dtype="float32").load_state(first.from_native(theirs).state()))
    inputs = numbers(2, 5, 12).astype(np.float32)
    expected = to_numpy(theirs(*(to_native("torch", inputs),) * 3)[0])
    actual = to_numpy(other(to_native("jax", inputs), decode=False))
    np.testing.assert_allclose(actual, expected, atol=2e-6)  # some ten roundings of numbers up to 3

"""Layers: the same arguments, the same numbers and the same errors in every framework, whose idioms they keep."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import frameworks
import numpy as np
import pytest
from comparisons import assert_close, assert_within
from layer_catalogue import (
    BATCH,
    ELSEWHERE,
    ENTRIES,
    HEADS,
    IDS,
    INPUTS,
    LENGTH,
    MEMORY,
    SIZE,
    STATE,
    VALID,
    Entry,
    build,
    call,
    cast,
    entry,
    in_mode,
    native,
    numbers,
    results,
    state_of,
)
from native_tensors import to_native, to_numpy

from attnspec import reference
from attnspec.conformance.monte_carlo import monte_carlo_bounds
from attnspec.conformance.profiles import default_profile
from attnspec.contract import CellState, Dropout, Rotary, causal, initial_state
from attnspec.contract.layer_states import CONFIGS
from attnspec.contract.states import leaves, map_leaves, rebuild
from attnspec.reference import run_layer

Array = np.ndarray[Any, Any]

BY_ID = {one.id: one for one in ENTRIES}
LAYERS = [*CONFIGS]
LEFT_OUT = {
    *(
        "DotProductAttention-scale",
        "SelfAttention-sizes",
        "KeyValueAttention",
        "MultiHeadAttention",
        "EncoderLayer-pre",
    ),
    *("HardAttention-noise", "AdditiveAttention", "Transformer-vectors"),
}
ONE_EACH = tuple(one.id for one in ENTRIES if one.id not in LEFT_OUT)
"""What JAX, which compiles every call for a second, is asked: every class of layer, and most of the options."""

FEW = ("DotProductAttention", "LayerNorm")
"""What it is asked where all layers do alike."""


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


@pytest.fixture(params=frameworks.FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    frameworks.load(request.param)
    name: str = request.param
    return name


class Built(NamedTuple):
    """A layer that has a state of its own, and the one that it was built with."""

    layer: Any
    initial: dict[str, Array]


@functools.cache
def built(framework: str, name: str) -> Built:
    config = BY_ID[name].config
    layer = build(framework, config, seed=[*BY_ID].index(name))
    initial = layer.state()
    return Built(layer.load_state(state_of(config)), initial)


def pairs(few: tuple[str, ...] = (), ids: tuple[str, ...] = tuple(BY_ID)) -> list[Any]:
    """Pair every framework with every entry, JAX with a few where few are named."""
    return [
        pytest.param(framework, name, id=f"{framework}-{name}")
        for framework in frameworks.FRAMEWORKS
        for name in (few or ids if framework == "jax" else ids)
    ]


def test_every_class_is_in_the_catalogue() -> None:
    assert {one.config.layer for one in ENTRIES} == {*LAYERS}
    assert {BY_ID[name].config.layer for name in ONE_EACH} == {*LAYERS}


def test_every_argument_is_given_somewhere() -> None:
    """Layers that share an argument have it from one class, and one of them is enough."""
    everything, given = set(), set()
    for one in ENTRIES:
        for field in dataclasses.fields(one.config):  # type: ignore[arg-type] # the base is no dataclass
            owner = next(
                cls for cls in reversed(type(one.config).__mro__) if field.name in vars(cls).get("__annotations__", {})
            )
            everything.add((owner.__name__, field.name))
            if getattr(one.config, field.name) != field.default:
                given.add((owner.__name__, field.name))
    assert everything - given == set()


@pytest.mark.parametrize(("framework", "name"), pairs(ONE_EACH))
def test_output_is_that_of_the_reference(framework: str, name: str) -> None:
    """In evaluation, whatever the dropout rates are."""
    one = BY_ID[name]
    expected = results(run_layer(one.config, state_of(one.config), *one.inputs, **one.options))
    actual = call(framework, built(framework, name).layer, one)
    assert actual.keys() == expected.keys()
    for result, array in expected.items():
        assert_close(actual[result], array, 1e-13)


@pytest.mark.parametrize(("framework", "name"), pairs(FEW))
def test_float32_is_within_its_bound(framework: str, name: str) -> None:
    one = BY_ID[name]
    layer = build(framework, one.config, dtype="float32").load_state(state_of(one.config, "float32"))
    exact, bounds = float32_bounds(name)
    for result, array in call(framework, layer, one, dtype="float32").items():
        assert array.dtype == np.float32
        assert_within(array, exact[result], bounds[result])


@functools.cache
def float32_bounds(name: str) -> tuple[dict[str, Array], dict[str, Array]]:
    one = BY_ID[name]
    state = state_of(one.config, "float32")
    arguments = cast((*one.inputs, tuple(one.options.values())), "float32")
    given = {path: leaf for path, leaf in leaves(arguments).items() if isinstance(leaf, np.ndarray)}

    def function(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        *inputs, options = rebuild(arguments, {**leaves(arguments), **{path: tensors[path] for path in given}})
        parameters = {entry: tensors[f"state.{entry}"] for entry in state}
        return leaves(run_layer(one.config, parameters, *inputs, **dict(zip(one.options, options, strict=True))))

    tensors = given | {f"state.{entry}": array for entry, array in state.items()}
    return monte_carlo_bounds(function, tensors, default_profile("float32"))


def shape_of_signature(function: Any) -> list[tuple[str, str, object]]:
    return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]


OWN = {
    "torch": ["device", "dtype"],
    "tensorflow": ["seed", "name", "dtype", "trainable"],
    "jax": ["dtype", "rngs"],
}
CALLS = {"torch": "forward", "tensorflow": "call", "jax": "__call__"}


@pytest.mark.parametrize("name", LAYERS)
class TestSignatures:
    def test_arguments_are_those_of_the_config(self, framework: str, name: str) -> None:
        arguments = shape_of_signature(getattr(frameworks.load(framework), name))
        expected = shape_of_signature(CONFIGS[name])
        assert arguments[: len(expected)] == expected
        assert [argument for argument, _, _ in arguments[len(expected) :]] == OWN[framework]

    def test_config_names_its_layer(self, framework: str, name: str) -> None:
        layer = getattr(frameworks.load(framework), name)
        assert layer.Config is CONFIGS[name]
        assert f"attnspec.contract.{CONFIGS[name].__name__}" in inspect.getdoc(layer)

    def test_calls_are_alike(self, framework: str, name: str) -> None:
        called = shape_of_signature(getattr(getattr(frameworks.load(framework), name), CALLS[framework]))
        expected = shape_of_signature(getattr(frameworks.load("torch"), name).forward)
        has_dropout = any(field.endswith("dropout_rate") for field in CONFIGS[name].__dataclass_fields__)
        if framework == "tensorflow" and has_dropout:
            assert called.pop() == ("training", "KEYWORD_ONLY", None)
        assert called == expected

    def test_other_methods_are_alike(self, framework: str, name: str) -> None:
        for method in ("empty_cache", "step", "start", "empty_state", "greedy_decode"):
            ours, theirs = (getattr(getattr(frameworks.load(f), name), method, None) for f in (framework, "torch"))
            assert (ours is None) == (theirs is None)
            assert ours is None or shape_of_signature(ours) == shape_of_signature(theirs)


def record_draws(monkeypatch: pytest.MonkeyPatch, framework: str) -> list[Any]:
    """Keep what layers draw."""
    base, drawn = frameworks.load(framework).Layer, []
    original = base._draw

    def draw(self: Any, *arguments: Any) -> Any:
        drawn.append(original(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(base, "_draw", draw)
    return drawn


WITH_DROPOUT = tuple(one.id for one in ENTRIES if one.config.has_dropout)


@pytest.mark.parametrize(("framework", "name"), pairs(("EncoderLayer",), WITH_DROPOUT))
def test_training_is_the_operation_with_what_is_drawn(
    framework: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, layer = BY_ID[name], built(framework, name).layer
    drawn = record_draws(monkeypatch, framework)
    actual = call(framework, layer, one, training=True)
    [draws] = drawn
    dropout = map_leaves(lambda leaf: Dropout(leaf.rate, to_numpy(leaf.keep)), draws)
    state = state_of(one.config)
    if name.startswith("MultiHeadAttention"):
        weights, kept = dropout
        values = {key: value for key, value in one.options.items() if key != "offset"}
        values |= one.config.settings_at(one.options.get("offset"))  # type: ignore[attr-defined] # of this config
        values["mask"] = one.config.windowed(None, one.options.get("offset"))  # type: ignore[attr-defined]
        tree, sinks = one.config.parameter_tree(state), state.get("sinks")
        query, key, value = (*one.inputs, one.inputs[0], one.inputs[0])[:3]
        output = reference.multi_head_attention(query, key, value, tree, sinks=sinks, dropout=weights, **values)
        expected = {"": output if kept is None else np.where(kept.keep, output / (1.0 - kept.rate), 0.0)}
    else:
        expected = results(run_layer(one.config, state, *one.inputs, **one.options, dropout=dropout))
    for result, array in expected.items():
        assert_close(actual[result], array, 1e-13)


RATE, SHARE_DEVIATION = 0.25, 5 * (0.25 * 0.75 / 12_000) ** 0.5
"""Of 12 000 draws, the share that is dropped deviates by more than five standard deviations once in two million."""


class TestDropout:
    """What a layer keeps can be read off its output: all weights are 1/50, and the values are unit vectors."""

    config = CONFIGS["DotProductAttention"](dropout_rate=RATE)
    inputs = np.zeros((4, 60, 2)), np.zeros((4, 50, 2)), np.broadcast_to(np.eye(50), (4, 50, 50)).copy()

    def output(self, framework: str, layer: Any, *, training: bool = True) -> Array:
        inputs = [to_native(framework, array) for array in self.inputs]
        return to_numpy(in_mode(framework, layer, training=training)(*inputs))

    def test_drops_in_training_only(self, framework: str) -> None:
        layer = build(framework, self.config)
        assert_close(self.output(framework, layer, training=False), np.full((4, 60, 50), 1 / 50))
        dropped = self.output(framework, layer) == 0.0
        assert abs(dropped.mean() - RATE) < SHARE_DEVIATION
        assert dropped.mean(axis=(1, 2)).min() > 0
        assert not (dropped[0] == dropped[1]).all()

    def test_expectation_is_unchanged(self, framework: str) -> None:
        output = self.output(framework, build(framework, self.config))
        assert_close(output[output != 0.0], np.full((output != 0.0).sum(), 1 / 50 / (1 - RATE)))
        assert abs(output.mean() * 50 - 1.0) < SHARE_DEVIATION / (1 - RATE)

    def test_next_call_drops_others(self, framework: str) -> None:
        layer = build(framework, self.config)
        assert (self.output(framework, layer) != self.output(framework, layer)).any()

    def test_same_seed_drops_the_same(self, framework: str) -> None:
        """`torch.manual_seed`, `seed=` of Keras, `nnx.Rngs(seed)`."""
        first, second = (self.output(framework, build(framework, self.config, seed=7)) for _ in range(2))
        other = self.output(framework, build(framework, self.config, seed=8))
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()


def gradients(framework: str, layer: Any, one: Entry) -> dict[str, Array]:
    """Differentiate a sum of all results, each element with a weight of its own, by every parameter."""
    inputs = [native(framework, value) for value in one.inputs]
    options = {name: native(framework, value) for name, value in one.options.items()}

    def total(module: Any) -> Any:
        outputs = leaves(module(*inputs, **options)).values()
        return sum((output * to_native(framework, numbers(*output.shape, seed=3))).sum() for output in outputs)

    if framework == "torch":
        layer.zero_grad()
        total(layer).backward()
        return {name: to_numpy(parameter.grad) for name, parameter in layer.named_parameters()}
    if framework == "jax":
        nnx = importlib.import_module("flax.nnx")
        flat = nnx.to_flat_state(nnx.grad(total)(layer))
        return {".".join(map(str, path)): to_numpy(gradient[...]) for path, gradient in flat}
    tf = importlib.import_module("tensorflow")
    with tf.GradientTape() as tape:
        outputs = leaves(layer(*inputs, **options)).values()
        weighted = [tf.reduce_sum(output * numbers(*output.shape, seed=3)) for output in outputs]
    named = layer._named()
    found = tape.gradient(weighted, [variable.value for variable in named.values()])
    return {name: to_numpy(tf.convert_to_tensor(gradient)) for name, gradient in zip(named, found, strict=True)}


TRAINED = tuple(one.id for one in ENTRIES if one.config.specs())


@pytest.mark.parametrize(("framework", "name"), pairs(FEW, TRAINED))
def test_gradients_reach_every_parameter(framework: str, name: str) -> None:
    one = BY_ID[name]
    found = gradients(framework, in_evaluation(framework, built(framework, name).layer), one)
    assert found.keys() == one.config.specs().keys()
    # Where keys do not turn, their bias adds the same number to all scores of a query.
    turns = getattr(one.config, "rotary", None) is not None
    rest = [key for key in found if not key.endswith("key_bias") or (turns and "cross" not in key)]
    assert [key for key in rest if not np.abs(found[key]).max() > 1e-9] == []
    assert all(np.isfinite(gradient).all() for gradient in found.values())


def in_evaluation(framework: str, layer: Any) -> Any:
    if framework != "tensorflow":
        layer.eval()
    return layer


def steps(framework: str) -> list[Any]:
    """Take the inputs in two steps; in one where every length is compiled anew."""
    parts = [INPUTS] if framework == "jax" else [INPUTS[:, :3], INPUTS[:, 3:]]
    return [to_native(framework, part) for part in parts]


class TestCaches:
    def test_steps_of_attention_are_one_call(self, framework: str) -> None:
        one, layer = BY_ID["MultiHeadAttention-window"], built(framework, "MultiHeadAttention-window").layer
        expected = run_layer(one.config, state_of(one.config), INPUTS)
        cache, outputs = layer.empty_cache((BATCH,), LENGTH), []
        for part in steps(framework):
            output, cache = layer.step(part, cache)
            outputs.append(to_numpy(output))
        assert_close(np.concatenate(outputs, axis=1), expected, 1e-13)
        assert int(cache.length) == LENGTH

    def test_a_cache_that_is_full_says_so(self, framework: str) -> None:
        layer = built(framework, "MultiHeadAttention-window").layer
        with pytest.raises(ValueError, match=r"^`cache` must have room for the new positions: got 5 after the 0 that"):
            layer.step(to_native(framework, INPUTS), layer.empty_cache((BATCH,), 4))

    def test_steps_of_a_decoder_are_one_call(self, framework: str) -> None:
        one, layer = BY_ID["Decoder"], built(framework, "Decoder").layer
        expected = run_layer(one.config, state_of(one.config), INPUTS, ELSEWHERE, mask=causal())
        cache, outputs = layer.start(to_native(framework, ELSEWHERE), LENGTH), []
        for part in steps(framework):
            output, cache = layer.step(part, cache)
            outputs.append(to_numpy(output))
        assert_close(np.concatenate(outputs, axis=1), expected, 1e-13)

    def test_greedy_decoding_writes_what_the_reference_writes(self, framework: str) -> None:
        one, layer = BY_ID["Transformer"], built(framework, "Transformer").layer
        options: dict[str, Any] = {"start": 1, "stop": 0, "max_length": 2 if framework == "jax" else 4}
        tree = one.config.parameter_tree(state_of(one.config))
        settings = one.config.settings()
        expected = reference.greedy_decode(IDS, tree, **settings, **options, source_valid=VALID)
        written = layer.greedy_decode(to_native(framework, IDS), **options, source_valid=to_native(framework, VALID))
        np.testing.assert_array_equal(to_numpy(written), expected)


class TestCell:
    def test_state_is_the_caller_s(self, framework: str) -> None:
        one, layer = BY_ID["GatedAttentionCell"], built(framework, "GatedAttentionCell").layer
        state, inputs = state_of(one.config), to_native(framework, INPUTS)
        expected = run_layer(one.config, state, INPUTS, CellState(np.zeros((BATCH, SIZE)), np.zeros((BATCH, SIZE))))
        first = layer(inputs, layer.empty_state((BATCH,)))
        assert_close(to_numpy(first.outputs), expected.outputs, 1e-13)
        second = layer(inputs, first.state)
        expected = run_layer(one.config, state, INPUTS, expected.state)
        assert_close(to_numpy(second.outputs), expected.outputs, 1e-13)
        again = layer(inputs, layer.empty_state((BATCH,)))
        np.testing.assert_array_equal(to_numpy(again.outputs), to_numpy(first.outputs))


class NoLayer(NamedTuple):
    """Arguments that make no layer, and what the error begins with."""

    layer: str
    arguments: dict[str, Any]
    error: type[Exception]
    message: str


def heads(**arguments: Any) -> dict[str, Any]:
    return {"model_size": 12, "num_heads": 4, **arguments}


def text(**arguments: Any) -> dict[str, Any]:
    return {"model_size": 12, "num_heads": 3, "num_layers": 1, "input_size": 5, **arguments}


ODD = "`model_size` must be even for sinusoidal positions; got 9"
UNDIVIDED = "`num_heads` must divide `model_size`; got 4 heads and a size of 10"
UNPAIRED = "the size of a head must be even: components turn in pairs; got 3"
ARGUMENTS = "its arguments are (input_size, output_size, *, use_bias=True)"
OFFSETS = Rotary("half_split", offset=np.array([1, 2]))
NO_LAYER = (
    NoLayer(
        "FeedForward", {"model_size": 4, "activation": "swish"}, ValueError, "`activation` must be one of 'relu', "
    ),
    NoLayer("TextEncoder", text(model_size=9), ValueError, ODD),
    NoLayer("SinusoidalPositions", {"model_size": 9}, ValueError, ODD),
    NoLayer("Encoder", heads(model_size=10, num_layers=1), ValueError, UNDIVIDED),
    NoLayer("GatedAttentionCell", heads(model_size=10, output_size=1), ValueError, UNDIVIDED),
    NoLayer("MultiHeadAttention", heads(num_kv_heads=3), ValueError, "`num_heads`"),
    NoLayer(
        "MultiHeadAttention", heads(use_bias=("values",)), ValueError, "`use_bias` must be True, False or names of"
    ),
    NoLayer("MultiHeadAttention", heads(window=(None, None)), ValueError, "`window` must be bounded on one side;"),
    NoLayer(
        "MultiHeadAttention", heads(window=(-1, 0)), ValueError, "each side of `window` must be an int of at least 0"
    ),
    NoLayer(
        "MultiHeadAttention", heads(window=3), TypeError, "`window` must be (left, right), numbers of keys or None;"
    ),
    NoLayer("MultiHeadAttention", heads(rotary="half_split"), TypeError, "`rotary` must be Rotary(pairing, …); got an"),
    NoLayer("MultiHeadAttention", heads(rotary=Rotary("half_split")), ValueError, UNPAIRED),
    NoLayer("EncoderLayer", heads(rotary=Rotary("half_split")), ValueError, UNPAIRED),
    NoLayer(
        "MultiHeadAttention", heads(rotary=OFFSETS), ValueError, "the `offset` of a layer's `rotary` must be an int, "
    ),
    NoLayer(
        "MultiHeadAttention", heads(dropout_rate=1.0), ValueError, "`dropout_rate` must be at least 0 and less than"
    ),
    NoLayer("MultiHeadAttention", heads(model_size=12.0), TypeError, "`model_size` must be an int; got 12.0"),
    NoLayer("MultiHeadAttention", heads(use_sinks=1), TypeError, "`use_sinks` must be True or False; got 1"),
    NoLayer("MultiHeadAttention", heads(softcap=0.0), ValueError, "`softcap` must be positive and finite; got 0.0"),
    NoLayer(
        "DotProductAttention", {"scale": 1.0, "use_scale": True}, ValueError, "`scale` and `use_scale` exclude each"
    ),
    NoLayer(
        "AdditiveAttention",
        {"query_size": 3, "key_size": 4, "use_projections": False},
        ValueError,
        "`query_size`, `key_size` and `hidden_size` must be equal without projections; got 3, 4 and 3",
    ),
    NoLayer(
        "LearnedPositions", {"max_length": 0, "model_size": 4}, ValueError, "`max_length` must be at least 1; got 0"
    ),
    NoLayer(
        "TextEncoder", text(positions="learned"), ValueError, "learned `positions` need `max_length`, the number of"
    ),
    NoLayer("TextEncoder", text(max_length=3), ValueError, "`max_length` belongs to learned `positions`; got 3 beside"),
    NoLayer(
        "LayerNorm", {"model_size": 3, "epsilon": 1e-40}, ValueError, "`epsilon` must be at least 2^-126, float32's"
    ),
    NoLayer("EncoderLayer", heads(norm="both"), ValueError, "`norm` must be one of 'post', 'pre'; got 'both'"),
    NoLayer("Linear", {"input_size": 3}, TypeError, f"Linear: missing a required argument: 'output_size'; {ARGUMENTS}"),
    NoLayer(
        "Linear",
        {"input_size": 3, "output_size": 2, "bias": True},
        TypeError,
        f"Linear: got an unexpected keyword argument 'bias'; {ARGUMENTS}",
    ),
)


@pytest.mark.parametrize("case", NO_LAYER, ids=lambda case: f"{case.layer}-{case.message[:40]}")
def test_arguments_that_make_no_layer(framework: str, case: NoLayer) -> None:
    own = {"rngs": importlib.import_module("flax.nnx").Rngs(0)} if framework == "jax" else {}
    with pytest.raises(case.error) as raised:
        getattr(frameworks.load(framework), case.layer)(**case.arguments, **own)
    assert str(raised.value).startswith(case.message)


FLAT = "`inputs` must have at least 2 axes, (*batch, length, size); got shape (12,)"
OFFSET_TWICE = (
    "`offset` is given twice: in the call, and in the layer's own Rotary('interleaved', base=10000.0, offset=1)"
)


def again(name: str, *inputs: Any, **options: Any) -> Entry:
    """Call a layer of the catalogue with something else."""
    return Entry(name, BY_ID[name].config, inputs, options)


FIXED = {"model_size": SIZE, "num_heads": HEADS, "rotary": Rotary("interleaved", offset=1)}
WRONG_CALLS: tuple[tuple[Entry, str], ...] = (
    (again("SelfAttention", INPUTS[0, 0]), FLAT),
    (again("FeedForward", INPUTS[0, 0]), FLAT),
    (again("EncoderLayer", INPUTS[0, 0]), FLAT),
    (again("DecoderLayer", INPUTS, ELSEWHERE[0]), "`memory` must have as many axes as `inputs`, 3;"),
    (again("MultiHeadAttention", INPUTS, ELSEWHERE[:1]), "`key` must have the batch axes of `query`;"),
    (again("MultiHeadAttention", INPUTS, offset=2), "`offset` says where queries stand for `window` and `rotary`;"),
    (entry("MultiHeadAttention", FIXED, INPUTS, note="fixed", offset=2), OFFSET_TWICE),
    (again("MultiHeadAttention-window", INPUTS, ELSEWHERE), "`sliding_window"),
    (again("TextEncoder", IDS + 1), "ids in `inputs` must be at least 0 and less than the size of the vocabulary, 11;"),
)


@pytest.mark.parametrize(
    ("one", "message"), WRONG_CALLS, ids=[f"{one.id}-{message[:30]}" for one, message in WRONG_CALLS]
)
def test_calls_that_are_wrong(framework: str, one: Entry, message: str) -> None:
    """In training, where the shapes of dropouts depend on the inputs; Keras puts more around the message."""
    layer = built(framework, one.id).layer if one.id in BY_ID else build(framework, one.config)
    with pytest.raises((ValueError, TypeError)) as raised:
        call(framework, layer, one, training=True)
    assert message in str(raised.value)


def initial_states(framework: str) -> dict[str, dict[str, Array]]:
    if framework == "numpy":
        return {one.id: initial_state(one.config, place) for place, one in enumerate(ENTRIES)}
    return {name: built(framework, name).initial for name in (ONE_EACH if framework == "jax" else BY_ID)}


class TestInitialState:
    """Every parameter of the catalogue begins as its `ParameterSpec` says, whoever draws it."""

    def drawn(self, framework: str, distribution: str) -> list[tuple[str, Array, float]]:
        return [
            (f"{name} {entry}", states[entry], spec.limit if distribution == "glorot_uniform" else 0.02)
            for name, states in initial_states(framework).items()
            for entry, spec in BY_ID[name].config.specs().items()
            if spec.distribution == distribution
        ]

    @pytest.mark.parametrize("framework", ["numpy", *frameworks.FRAMEWORKS])
    @pytest.mark.parametrize("distribution", ["glorot_uniform", "normal"])
    def test_random_numbers_are_distributed_as_documented(self, framework: str, distribution: str) -> None:
        pool = self.drawn(framework, distribution)
        unit = np.concatenate([(array / scale).ravel() for _, array, scale in pool])
        expected = uniform if distribution == "glorot_uniform" else normal
        # Kolmogorov and Smirnov: sqrt(n) times the largest distance exceeds 2.2 once in ten thousand.
        assert distance(unit, expected) * unit.size**0.5 < 2.2
        variance = 1 / 3 if distribution == "glorot_uniform" else 1.0
        spread = (4 / 45 if distribution == "glorot_uniform" else 2.0) ** 0.5  # of one squared number
        for name, array, scale in pool:
            deviation = ((array / scale) ** 2).mean() - variance
            assert abs(deviation) < 5 * spread / array.size**0.5, name
            assert distribution == "normal" or np.abs(array).max() <= scale, name

    @pytest.mark.parametrize("framework", ["numpy", *frameworks.FRAMEWORKS])
    def test_no_two_parameters_of_a_layer_are_drawn_alike(self, framework: str) -> None:
        for name, state in initial_states(framework).items():
            specs = BY_ID[name].config.specs()
            random = [array for key, array in state.items() if specs[key].distribution not in ("zeros", "ones")]
            assert len({array.ravel()[:3].tobytes() for array in random}) == len(random)

    @pytest.mark.parametrize("framework", ["numpy", *frameworks.FRAMEWORKS])
    def test_constants_are_what_is_documented(self, framework: str) -> None:
        for value, distribution in ((0.0, "zeros"), (1.0, "ones")):
            pool = self.drawn(framework, distribution)
            assert len(pool) > 3
            assert all((array == value).all() for _, array, _ in pool)

    def test_distance_can_tell(self) -> None:
        even = (np.arange(1000) + 0.5) / 500 - 1
        assert distance(even, uniform) < 1e-3
        assert distance(0.9 * even, uniform) * 1000**0.5 > 1.5
        assert distance(even, normal) * 1000**0.5 > 2.2


def distance(sample: Array, cumulative: Any) -> float:
    """Return the largest distance between the sample's distribution and a cumulative one."""
    ordered = np.sort(sample)
    expected = np.array([cumulative(float(number)) for number in ordered])
    steps = np.arange(ordered.size + 1) / ordered.size
    return float(max(np.abs(steps[1:] - expected).max(), np.abs(expected - steps[:-1]).max()))


def uniform(number: float) -> float:
    return min(max((number + 1.0) / 2.0, 0.0), 1.0)


def normal(number: float) -> float:
    from math import erf

    return 0.5 * (1.0 + erf(number / 2**0.5))


class TestReference:
    def test_state_is_checked(self) -> None:
        config = CONFIGS["LayerNorm"](model_size=3)
        with pytest.raises(ValueError, match=r"^`state` does not fit this LayerNorm: bias is missing$"):
            run_layer(config, {"weight": np.ones(3)}, np.ones((2, 3)))

    def test_config_is_checked(self) -> None:
        with pytest.raises(TypeError, match=r"^`config` must be the arguments of a layer, such as EncoderConfig\(…\);"):
            run_layer("LayerNorm", {}, np.ones((2, 3)))  # type: ignore[arg-type] # on purpose

    def test_numpy_s_numbers_are_python_s(self) -> None:
        config = CONFIGS["LayerNorm"](model_size=np.int64(3), epsilon=np.float64(0.5))
        assert config == CONFIGS["LayerNorm"](model_size=3, epsilon=0.5)
        assert [type(value) for value in config.arguments().values()] == [int, float, bool]


def test_sizes_are_those_of_the_catalogue() -> None:
    assert STATE.memory.shape == (BATCH, SIZE)
    assert ELSEWHERE.shape == (BATCH, MEMORY, SIZE)

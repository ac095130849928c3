"""The canonical state: exact in every framework and on disk, and clear about everything that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_close, assert_same_bits
from layer_catalogue import ENTRIES, IDS, build, call, entry, state_of
from native_tensors import NUMPY_DTYPES
from safetensors.numpy import save

from attnspec.contract import (
    EncoderConfig,
    FeedForwardConfig,
    LayerNormConfig,
    LinearConfig,
    MultiHeadAttentionConfig,
    Rotary,
    StateError,
    TransformerConfig,
    initial_state,
    read_state,
    save_state,
)
from attnspec.contract.layer_config import LayerConfig
from attnspec.contract.layer_states import CONFIGS, check_state, recognise
from attnspec.contract.tensor_files import read_tensors, write_tensors
from attnspec.reference import run_layer

Array = np.ndarray[Any, Any]
State = dict[str, Array]

NORM = LayerNormConfig(7)
SPECIAL = [0.0, -0.0, 1.0, np.inf, -np.inf, 2.0**-14, 1 / 3]
"""Numbers whose bits say whether something was computed on the way."""
DTYPES = [*NUMPY_DTYPES]


def special(dtype: str) -> State:
    """Give a normalisation that state."""
    weight = np.array(SPECIAL).astype(NUMPY_DTYPES[dtype])
    return {"weight": weight, "bias": weight[::-1].copy()}


def assert_same_state(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert [*actual] == [*expected]
    for name, array in expected.items():
        assert_same_bits(actual[name], array)


def mixed_inputs(config: TransformerConfig) -> Any:
    return entry("Transformer", config.arguments(), IDS, IDS[:, :4])


@pytest.fixture(params=frameworks.FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    frameworks.load(request.param)
    name: str = request.param
    return name


class TestRoundTrips:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_state_that_is_loaded_is_given_back(self, framework: str, dtype: str) -> None:
        layer = build(framework, NORM, dtype=dtype).load_state(special(dtype))
        assert_same_state(layer.state(), special(dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_file_of_one_framework_is_read_by_the_others(self, framework: str, dtype: str, tmp_path: Path) -> None:
        path = tmp_path / "norm.safetensors"
        build(framework, NORM, dtype=dtype).load_state(special(dtype)).save(path)
        config, state = read_state(path)
        assert config == NORM
        assert_same_state(state, special(dtype))
        for other in frameworks.FRAMEWORKS:
            assert_same_state(build(other, NORM, dtype=dtype).load(path).state(), special(dtype))

    def test_a_state_is_a_copy(self, framework: str) -> None:
        layer = build(framework, NORM, dtype="float32").load_state(special("float32"))
        given = special("float32")
        layer.load_state(given)
        given["weight"][:] = 5
        layer.state()["weight"][:] = 7
        assert_same_state(layer.state(), special("float32"))

    def test_a_model_goes_from_hand_to_hand(self, tmp_path: Path) -> None:
        config = TransformerConfig(
            12, 3, num_encoder_layers=1, num_decoder_layers=1, source_size=11, target_size=11, output_size=11
        )
        state, path = state_of(config), tmp_path / "transformer.safetensors"
        save_state(path, config, state)
        one = mixed_inputs(config)
        expected = run_layer(config, state, *one.inputs)
        for name in ("torch", "tensorflow"):
            layer = build(name, config).load(path)
            assert_close(call(name, layer, one)[""], expected, 1e-13)
            layer.save(path)
        assert_same_state(read_state(path)[1], state)

    @pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.id)
    def test_arguments_survive_a_file(self, one: Any, tmp_path: Path) -> None:
        path = tmp_path / "layer.safetensors"
        state = state_of(one.config)
        save_state(path, one.config, state)
        config, read = read_state(path)
        assert config == one.config
        assert_same_state(read, state)

    def test_equal_states_give_equal_files(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            save_state(tmp_path / name, NORM, special("float32"))
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()

    def test_other_byte_orders_and_numbers_without_axes(self) -> None:
        config = CONFIGS["DotProductAttention"](use_scale=True)
        read = check_state(config, {"scale": np.array(0.5, ">f4") * np.float32(1)}, "float32")
        assert_same_state(read, {"scale": np.array(0.5, np.float32)})
        swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in special("float32").items()}
        assert_same_state(check_state(NORM, swapped, "float32"), special("float32"))


class TestDtypes:
    WIDER = (
        ("float32", "float64"),
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float64"),
        ("float16", "float64"),
    )

    @pytest.mark.parametrize(("narrow", "wide"), WIDER)
    def test_widening_is_exact(self, narrow: str, wide: str) -> None:
        read = check_state(NORM, special(narrow), wide)
        assert_same_state(read, {name: array.astype(wide) for name, array in special(narrow).items()})

    @pytest.mark.parametrize(
        ("wide", "narrow"),
        [*((wide, narrow) for narrow, wide in WIDER), ("float16", "bfloat16"), ("bfloat16", "float16")],
    )
    def test_narrowing_is_refused(self, wide: str, narrow: str) -> None:
        message = f"weight of `state` has dtype {wide}, whose numbers a {narrow} layer cannot hold; convert the state"
        with pytest.raises(TypeError, match=f"^{message}"):
            check_state(NORM, special(wide), narrow)

    def test_layers_ask(self, framework: str) -> None:
        layer = build(framework, NORM, dtype="float32")
        with pytest.raises(TypeError, match=r"^weight of `state` has dtype float64, whose numbers a float32 layer"):
            layer.load_state(special("float64"))
        assert_same_state(
            layer.load_state(special("bfloat16")).state(), check_state(NORM, special("bfloat16"), "float32")
        )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_initial_states_are_rounded_once(self, dtype: str) -> None:
        config = MultiHeadAttentionConfig(12, 3)
        drawn, exact = initial_state(config, 5, dtype=dtype), initial_state(config, 5)
        assert_same_state(drawn, {name: array.astype(NUMPY_DTYPES[dtype]) for name, array in exact.items()})
        assert not (initial_state(config, 6)["query_weight"] == exact["query_weight"]).any()


class TestWrongStates:
    def test_every_entry_is_named(self, framework: str) -> None:
        layer = build(framework, LinearConfig(2, 3), dtype="float64")
        before = layer.state()
        wrong = {"weight": np.zeros((3, 2)), "biases": np.zeros(3)}
        expected = (
            "`state` does not fit this Linear: bias is missing; biases is unknown; "
            "weight has shape (3, 2) instead of (2, 3)"
        )
        with pytest.raises(StateError) as raised:
            layer.load_state(wrong)
        assert str(raised.value) == expected
        assert_same_state(layer.state(), before)

    @pytest.mark.parametrize(
        ("state", "error", "message"),
        [
            ([np.zeros(3)], TypeError, "`state` must be a dictionary of arrays by name; got an object of type list"),
            ({"weight": [0.0] * 7}, TypeError, "weight of `state` must be a NumPy array; got an object of type list"),
            ({"weight": np.zeros(7, int)}, TypeError, "weight of `state` must have a floating dtype; got int64"),
            (
                {1: np.zeros(7)},
                StateError,
                "`state` does not fit this LayerNorm: weight is missing; bias is missing; 1 is",
            ),
        ],
        ids=["list", "numbers", "integers", "name"],
    )
    def test_what_is_no_state(self, state: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error) as raised:
            check_state(NORM, state, "float64")
        assert str(raised.value).startswith(message)

    def test_another_framework_s_tensors_are_named(self) -> None:
        frameworks.load("torch")
        with pytest.raises(
            TypeError, match=r"^weight of `state` must be a NumPy array; got a torch tensor \(Tensor\)$"
        ):
            check_state(NORM, {"weight": frameworks.tensor("torch", [0.0]), "bias": np.zeros(7)}, "float64")

    # An encoder without layers has what many a model has.
    TELLING = tuple(one for one in ENTRIES if one.config.specs() and one.id != "TextEncoder-vectors")

    @pytest.mark.parametrize("one", TELLING, ids=lambda one: one.id)
    def test_the_state_of_another_layer_says_what_it_is(self, one: Any) -> None:
        state = initial_state(one.config, 0)
        assert recognise(state) == one.config.layer
        other: LayerConfig = FeedForwardConfig(3) if one.config.layer == "LayerNorm" else NORM
        with pytest.raises(StateError) as raised:
            check_state(other, state, "float64")
        if one.config.layer != "LayerNorm":
            assert str(raised.value) == f"`state` is that of a layer of class {one.config.layer}, not of LayerNorm"

    def test_what_fits_several_layers_is_not_guessed(self) -> None:
        assert recognise({}) is None
        assert recognise({"weight": np.zeros(3), "query_weight": np.zeros(3)}) is None
        assert recognise({"weight": np.zeros((3, 2)), "bias": np.zeros(2)}) == "Linear"
        assert recognise({"weight": np.zeros(3), "bias": np.zeros(3)}) == "LayerNorm"

    def test_the_same_layer_of_another_size_is_compared(self) -> None:
        state = initial_state(EncoderConfig(6, 3, 2, use_bias=False), 0)
        with pytest.raises(StateError, match=r"^`state` does not fit this Encoder: .*layers\.1\.\S+ is unknown"):
            check_state(EncoderConfig(6, 3, 1, use_bias=False), state, "float64")


def written(state: State, **metadata: Any) -> bytes:
    return write_tensors(state, {"attnspec": json.dumps(metadata)})


ENCODER = {"model_size": 6, "num_heads": 3, "num_layers": 1}
OWN: dict[str, Any] = {"format": "attnspec.state/1", "layer": "LayerNorm", "arguments": {"model_size": 7}}
FILES = {
    "other software": (
        save(special("float32")),
        "holds no state of a layer: its format is None, not 'attnspec.state/1'",
    ),
    "other metadata": (
        write_tensors(special("float32"), {"attnspec": "weights", "format": "pt"}),
        "holds no state of a layer: its format is None, not 'attnspec.state/1'",
    ),
    "other format": (
        written(special("float32"), **OWN | {"format": "attnspec.state/2"}),
        "holds no state of a layer: its format is 'attnspec.state/2', not 'attnspec.state/1'",
    ),
    "unknown layer": (
        written(special("float32"), **OWN | {"layer": "Convolution"}),
        "holds the state of an unknown class of layer, 'Convolution'",
    ),
    "other layer": (
        written(special("float32"), **OWN | {"layer": "Encoder", "arguments": ENCODER}),
        "`state` is that of a layer of class LayerNorm, not of Encoder",
    ),
    "unknown argument": (
        written(special("float32"), **OWN | {"arguments": {"size": 7}}),
        "the arguments of its LayerNorm cannot be read (",
    ),
    "no arguments": (
        written(special("float32"), format="attnspec.state/1", layer="LayerNorm"),
        "the arguments of its LayerNorm cannot be read ('arguments')",
    ),
    "missing entry": (
        written({"weight": special("float32")["weight"]}, **OWN),
        "`state` does not fit this LayerNorm: bias is missing",
    ),
    "text": (b"weight = 3", "not a safetensors file, or truncated ("),
    "nothing": (b"", "not a safetensors file, or truncated ("),
}


class TestWrongFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_a_file_says_what_is_wrong(self, name: str, tmp_path: Path) -> None:
        payload, message = FILES[name]
        path = tmp_path / "state.safetensors"
        path.write_bytes(payload)
        with pytest.raises(StateError) as raised:
            read_state(path)
        assert str(raised.value).startswith(f"{path}: {message}")

    @pytest.mark.parametrize("kept", [8, 60, -1])
    def test_a_truncated_file_is_refused(self, kept: int, tmp_path: Path) -> None:
        path = tmp_path / "state.safetensors"
        save_state(path, NORM, special("float32"))
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(StateError, match=r"not a safetensors file, or truncated \("):
            read_state(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_state(tmp_path / "state.safetensors")

    def test_a_wrong_state_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match=r"^`state` does not fit this LayerNorm: bias is missing$"):
            save_state(tmp_path / "state.safetensors", NORM, {"weight": np.zeros(7)})
        assert not [*tmp_path.iterdir()]

    def test_layers_refuse_the_state_of_another_class(self, framework: str, tmp_path: Path) -> None:
        path = tmp_path / "state.safetensors"
        save_state(path, LinearConfig(7, 1), {"weight": np.zeros((7, 1)), "bias": np.zeros(1)})
        with pytest.raises(StateError, match=r"state.safetensors: holds the state of a layer of class Linear, not of"):
            build(framework, NORM, dtype="float64").load(path)

    @pytest.mark.parametrize(
        ("theirs", "ours", "difference"),
        [
            (LayerNormConfig(7, epsilon=0.5), NORM, "epsilon=0.5 instead of 1e-05"),
            (FeedForwardConfig(3, activation="gelu"), FeedForwardConfig(3), "activation='gelu' instead of 'relu'"),
            (
                MultiHeadAttentionConfig(12, 6, window=(2, 0), rotary=Rotary("interleaved")),
                MultiHeadAttentionConfig(12, 3),
                (
                    "num_heads=6 instead of 3, num_kv_heads=6 instead of 3, "
                    "rotary=Rotary('interleaved', base=10000.0) instead of None, window=(2, 0) instead of None"
                ),
            ),
            (
                EncoderConfig(6, 3, 1, norm="pre", final_norm=False),
                EncoderConfig(6, 3, 1),
                "norm='pre' instead of 'post'",
            ),
        ],
        ids=["norm", "feed-forward", "attention", "encoder"],
    )
    def test_a_state_of_a_layer_that_computes_something_else_is_refused(
        self, theirs: LayerConfig, ours: LayerConfig, difference: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "state.safetensors"
        state = initial_state(theirs, 0)
        save_state(path, theirs, state)
        with pytest.raises(StateError) as raised:
            read_state(path, ours)
        assert str(raised.value) == (
            f"{path}: holds the state of a {ours.layer} that computes something else: {difference}; "
            "load_state(read_state(path)[1]) takes it all the same"
        )
        assert_same_state(check_state(ours, read_state(path)[1], "float64"), state)

    def test_dropouts_and_ways_to_say_the_same_may_differ(self, tmp_path: Path) -> None:
        path, state = tmp_path / "state.safetensors", initial_state(MultiHeadAttentionConfig(12, 3), 0)
        save_state(path, MultiHeadAttentionConfig(12, 3, dropout_rate=0.1), state)
        same = MultiHeadAttentionConfig(12, 3, num_kv_heads=3, head_dim=4, key_size=12, output_dropout_rate=0.2)
        assert_same_state(read_state(path, same)[1], state)


def test_files_are_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, NORM, special("bfloat16"))
    arrays = read_tensors(path.read_bytes())
    assert_same_state({name: arrays[name] for name in special("bfloat16")}, special("bfloat16"))

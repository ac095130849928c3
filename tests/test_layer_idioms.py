"""Layers are at home in their frameworks: what PyTorch, Keras and Flax do with any layer, they do with these."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import assert_close, assert_same_bits
from layer_catalogue import IDS, INPUTS, SIZE, STATE, VALID, build, state_of
from native_tensors import to_native, to_numpy

from attnspec.contract import (
    CellState,
    EncoderConfig,
    EncoderLayerConfig,
    LinearConfig,
    LinearParameters,
    MultiHeadAttentionConfig,
    Rotary,
    SequenceClassifierConfig,
    TransformerConfig,
    alibi,
    causal,
)
from attnspec.reference import run_layer

Array = np.ndarray[Any, Any]

TURNED = Rotary("interleaved")
ENCODER = EncoderConfig(SIZE, 3, 1, hidden_size=6, rotary=TURNED)
ATTENTION = MultiHeadAttentionConfig(SIZE, 3, window=(2, 0), rotary=TURNED, use_sinks=True)
FLOATS = INPUTS.astype(np.float32)


def assert_same_state(actual: dict[str, Array], expected: dict[str, Array]) -> None:
    assert [*actual] == [*expected]
    for name, array in expected.items():
        assert_same_bits(actual[name], array)


def moved(before: dict[str, Array], after: dict[str, Array]) -> set[str]:
    return {name for name in before if (before[name] != after[name]).any()}


class TestTorch:
    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn, self.torch = frameworks.load("torch"), importlib.import_module("torch")
        self.inputs = self.torch.from_numpy(FLOATS)

    def encoder(self, **own: Any) -> Any:
        return self.attn.Encoder(**ENCODER.arguments(), **own)

    def test_state_dict_has_the_canonical_names(self) -> None:
        layer, other = self.encoder(), self.encoder()
        assert [*layer.state_dict()] == [*layer.state()]
        other.load_state_dict(layer.state_dict())
        assert_same_state(other.state(), layer.state())

    def test_parameters_that_layers_share_stay_shared(self) -> None:
        sizes = {"num_encoder_layers": 0, "num_decoder_layers": 0, "source_size": 7, "target_size": 7}
        layer = build("torch", TransformerConfig(4, 2, **sizes), dtype="float32")
        layer.target_embedding.weight = layer.source_embedding.weight
        assert len([*layer.parameters()]) == len(layer.state()) - 1
        assert_same_state(layer.load_state(layer.state()).state(), layer.state())
        assert layer.target_embedding.weight is layer.source_embedding.weight

    @pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
    def test_copies_are_equal_and_apart(self, make_copy: Any) -> None:
        layer = self.encoder()
        other, before = make_copy(layer), layer.state()
        assert other.config == layer.config
        assert_same_state(other.state(), before)
        with self.torch.no_grad():
            other.layers[0].attention.query_weight.zero_()
        assert_same_state(layer.state(), before)

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
    def test_moves_to_a_dtype(self, dtype: str) -> None:
        layer = self.encoder().to(getattr(self.torch, dtype))
        output = layer(self.inputs.to(getattr(self.torch, dtype)))
        assert str(output.dtype) == f"torch.{dtype}"
        assert {str(array.dtype) for array in layer.state().values()} == {dtype}
        assert str(layer.layers[0].attention.empty_cache((2,), 3).key.dtype) == f"torch.{dtype}"

    def test_wrong_dtype_is_refused(self) -> None:
        with pytest.raises(
            TypeError, match=r"^`dtype` must have a floating dtype \(float64, float32, bfloat16, float16"
        ):
            self.encoder(dtype=self.torch.int8)

    def test_meta_device_then_reset_parameters(self) -> None:
        layer = self.encoder(device="meta")
        assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
        layer.to_empty(device="cpu").apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
        state, specs = layer.state(), layer.config.specs()
        assert all(
            np.abs(state[name]).max() <= (spec.limit if state[name].ndim > 1 else 1) for name, spec in specs.items()
        )
        assert (state["layers.0.attention_norm.weight"] == 1).all()

    def test_compiles_without_a_break_in_training_too(self) -> None:
        layer = self.attn.MultiHeadAttention(SIZE, 3, dropout_rate=0.5, output_dropout_rate=0.5)
        compiled = self.torch.compile(layer, fullgraph=True, backend="eager")
        assert (compiled(self.inputs, mask=causal()) != compiled(self.inputs, mask=causal())).any()

    def test_steps_compile(self) -> None:
        layer = self.attn.MultiHeadAttention(**ATTENTION.arguments())
        step = self.torch.compile(layer.step, fullgraph=True, backend="eager")
        output, cache = step(self.inputs, layer.empty_cache((2,), 5))
        self.torch.testing.assert_close(output, layer(self.inputs))
        assert cache.length == 5

    def test_functional_call_and_vmap(self) -> None:
        layer = self.encoder()
        doubled = {name: 2 * parameter for name, parameter in layer.named_parameters()}
        output = self.torch.func.functional_call(layer, doubled, (self.inputs,))
        expected = self.encoder().load_state({name: 2 * array for name, array in layer.state().items()})(self.inputs)
        self.torch.testing.assert_close(output, expected)
        self.torch.testing.assert_close(self.torch.func.vmap(layer)(self.inputs), layer(self.inputs))

    def test_text_shows_the_arguments(self) -> None:
        assert repr(self.attn.FeedForward(12, activation="gelu")) == "FeedForward(model_size=12, activation='gelu')"

    def test_a_user_s_class_is_its_own(self) -> None:
        class Mine(self.attn.MultiHeadAttention):  # type: ignore[misc, name-defined] # loaded at run time
            pass

        assert type(self.encoder().layers[0].attention) is self.attn.MultiHeadAttention
        assert type(Mine.from_layer_config(ATTENTION)) is Mine

    def test_layers_are_built_from_their_config(self) -> None:
        layer = self.attn.Layer.from_layer_config(ENCODER, dtype=self.torch.float64)
        assert (type(layer), layer.config) == (self.attn.Encoder, ENCODER)
        with pytest.raises(TypeError, match=r"^`config` must be the arguments of a layer of class Linear; got Encoder"):
            self.attn.Linear.from_layer_config(ENCODER)


# What Keras does with its variables while it saves them, NumPy has another way to do.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:keras")
class TestKeras:
    @pytest.fixture(autouse=True)
    def _load(self) -> None:
        self.attn, self.keras = frameworks.load("tensorflow"), importlib.import_module("keras")
        self.tf = importlib.import_module("tensorflow")

    def saved(self, model: Any, folder: Path) -> Any:
        model.save(folder / "model.keras")
        return self.keras.models.load_model(folder / "model.keras")

    def test_functional_model_is_saved_with_its_masks_and_biases(self, tmp_path: Path) -> None:
        inputs, visible = self.keras.Input((None, SIZE)), self.keras.Input((1, None, None), dtype="bool")
        attention = self.attn.MultiHeadAttention(**ATTENTION.arguments(), seed=1)
        hidden = attention(inputs, mask=visible, bias=alibi(symmetric=True))
        hidden = self.attn.Encoder(**ENCODER.arguments())(hidden, mask=causal() | ~causal(1))
        model = self.keras.Model([inputs, visible], self.attn.Linear(SIZE, 3)(hidden))
        model.layers[2].load_state(state_of(ATTENTION, "float32"))
        again = self.saved(model, tmp_path)
        given = [FLOATS, np.ones((2, 1, 5, 5), bool)]
        np.testing.assert_array_equal(to_numpy(again(given)), to_numpy(model(given)))
        assert again.layers[2].config == ATTENTION
        assert_same_state(again.layers[2].state(), state_of(ATTENTION, "float32"))

    def test_cell_is_saved_with_its_state(self, tmp_path: Path) -> None:
        inputs, *state = self.keras.Input((None, SIZE)), self.keras.Input((SIZE,)), self.keras.Input((SIZE,))
        result = self.attn.GatedAttentionCell(SIZE, 3, 4)(inputs, CellState(*state))
        model = self.keras.Model([inputs, *state], [result.outputs, result.state.memory])
        given = [FLOATS, *(array.astype(np.float32) for array in STATE)]
        for actual, expected in zip(self.saved(model, tmp_path)(given), model(given), strict=True):
            np.testing.assert_array_equal(to_numpy(actual), to_numpy(expected))

    def test_config_is_plain_and_complete(self) -> None:
        layer = self.attn.MultiHeadAttention(**ATTENTION.arguments(), seed=5, name="mine", dtype="mixed_bfloat16")
        plain = self.keras.saving.serialize_keras_object(layer)
        again = self.keras.saving.deserialize_keras_object(plain)
        assert (again.config, again.seed, again.name) == (ATTENTION, 5, "mine")
        assert (again.variable_dtype, again.compute_dtype) == ("float32", "bfloat16")
        assert type(layer).from_config(layer.get_config()).config == ATTENTION

    def test_mixed_precision_computes_in_half_and_stores_in_single(self) -> None:
        layer = self.attn.MultiHeadAttention(**ATTENTION.arguments(), dtype="mixed_float16")
        output = layer(FLOATS)
        assert (output.dtype, {array.dtype for array in layer.state().values()}) == (self.tf.float16, {np.dtype("f4")})
        cache = layer.empty_cache((2,), 5)
        step = layer.step(self.tf.constant(FLOATS, self.tf.float16), cache)
        assert (cache.key.dtype, step.output.dtype) == (self.tf.float16, self.tf.float16)
        assert_close(to_numpy(step.output), to_numpy(output), 2.0**-9)  # two roundings to float16

    def test_fits_compiled_and_every_parameter_moves(self) -> None:
        config = SequenceClassifierConfig(SIZE, 3, 1, input_size=11, num_classes=2, dropout_rate=0.1, rotary=TURNED)
        layer = self.attn.SequenceClassifier(**config.arguments())
        model = self.keras.Sequential([self.keras.Input((5,), dtype="int32"), layer])
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer="adam", loss=loss)
        before = layer.state()
        model.fit(IDS, np.array([0, 1]), verbose=0)
        assert moved(before, layer.state()) == {*before}

    def test_a_keras_mask_is_refused(self) -> None:
        masked = self.keras.layers.Masking()(FLOATS)
        message = r"^a tensor given to EncoderLayer carries a Keras mask, which would be lost: take it off"
        with pytest.raises(ValueError, match=message):
            self.attn.EncoderLayer(SIZE, 3)(masked)

    def test_graphs_of_unknown_sizes_draw_anew_at_every_call(self) -> None:
        layer = self.attn.TextEncoder(SIZE, 3, 1, input_size=11, dropout_rate=0.5)
        signature = [self.tf.TensorSpec([None, None], self.tf.int64), self.tf.TensorSpec([None, None], self.tf.bool)]
        graph = self.tf.function(lambda ids, valid: layer(ids, valid=valid, training=True), input_signature=signature)
        assert (to_numpy(graph(IDS, VALID)) != to_numpy(graph(IDS, VALID))).any()

    def test_seed_decides_every_parameter(self) -> None:
        first, second, other = (self.attn.Encoder(**ENCODER.arguments(), seed=seed).state() for seed in (3, 3, 4))
        assert_same_state(first, second)
        assert {name.rpartition(".")[2] for name in moved(first, other)} == {
            *("query_weight", "key_weight", "value_weight", "output_weight", "hidden_weight")
        }

    def test_global_seed_decides_without_one(self) -> None:
        states = []
        for _ in range(2):
            self.keras.utils.set_random_seed(3)
            states.append(self.attn.LearnedPositions(5, 4).state())
        assert_same_state(*states)

    def test_keras_variables_are_tensors(self) -> None:
        attn, variable = self.attn, self.keras.Variable
        inputs, weight = variable(FLOATS), variable(np.eye(SIZE, dtype=np.float32))
        plain = self.tf.constant(FLOATS), self.tf.eye(SIZE)
        expected = attn.self_attention(plain[0], *(plain[1],) * 3, mask=np.tri(5, dtype=bool), scale=0.5)
        given = {
            "mask": variable(np.tri(5, dtype=bool)),
            "scale": variable(0.5),
            "bias": variable(np.zeros((5, 5), "f4")),
        }
        np.testing.assert_array_equal(
            to_numpy(attn.self_attention(inputs, *(weight,) * 3, **given)), to_numpy(expected)
        )
        embedded = attn.embedding(variable(IDS, dtype="int64"), LinearParameters(weight))
        np.testing.assert_array_equal(to_numpy(embedded), np.eye(SIZE, dtype=np.float32)[IDS])
        turned = attn.rotary_embedding(inputs, variable(np.arange(5.0)), pairing="half_split")
        np.testing.assert_array_equal(
            to_numpy(turned), to_numpy(attn.rotary_embedding(FLOATS, [0, 1, 2, 3, 4], pairing="half_split"))
        )
        with self.tf.GradientTape() as tape:
            total = self.tf.reduce_sum(attn.layer_norm(inputs, attn.LayerNormParameters(weight[0])))
        assert tape.gradient(total, inputs.value) is not None


class TestFlax:
    @pytest.fixture(autouse=True)
    def _load(self) -> Iterator[None]:
        self.attn, jax = frameworks.load("jax"), importlib.import_module("jax")
        self.nnx = importlib.import_module("flax.nnx")
        self.jax = jax
        jax.config.update("jax_disable_most_optimizations", True)  # everything here runs once
        yield
        jax.config.update("jax_disable_most_optimizations", False)

    def encoder(self, **options: Any) -> Any:
        config = {**ENCODER.arguments(), "dropout_rate": 0.5, **options}
        return self.attn.Encoder(**config, dtype="float64", rngs=self.nnx.Rngs(0))

    def test_splits_merges_and_compiles(self) -> None:
        layer, nnx = self.encoder(), self.nnx
        layer.load_state(state_of(layer.config)).eval()
        compiled = nnx.jit(lambda module, inputs, mask: module(inputs, mask=mask))
        merged = nnx.merge(*nnx.split(layer))
        expected = run_layer(layer.config, layer.state(), INPUTS, mask=causal())
        for module in (layer, merged, nnx.clone(layer)):
            assert_close(to_numpy(compiled(module, to_native("jax", INPUTS), causal())), expected, 1e-13)

    def test_paths_are_the_canonical_names(self) -> None:
        layer = self.encoder()
        flat = self.nnx.to_flat_state(self.nnx.state(layer, self.nnx.Param))
        assert {".".join(map(str, path)) for path, _ in flat} == layer.state().keys()

    def test_modes_reach_the_layers_inside(self) -> None:
        layer = self.encoder()
        assert [layer.deterministic, layer.layers[0].attention.deterministic] == [False, False]
        layer.eval()
        assert [layer.deterministic, layer.layers[0].attention.deterministic] == [True, True]
        layer.train()
        assert [layer.deterministic, layer.layers[0].attention.deterministic] == [False, False]

    def test_an_optimizer_moves_every_parameter(self) -> None:
        nnx, optax = self.nnx, importlib.import_module("optax")
        layer = self.encoder()
        optimizer, before = nnx.Optimizer(layer, optax.sgd(0.1), wrt=nnx.Param), layer.state()

        @nnx.jit  # type: ignore[untyped-decorator] # Flax has no types for it
        def step(module: Any, optimizer: Any, inputs: Any) -> Any:
            loss, gradients = nnx.value_and_grad(lambda module: (module(inputs) ** 3).sum())(module)
            optimizer.update(module, gradients)
            return loss

        first = step(layer, optimizer, to_native("jax", INPUTS))
        assert moved(before, layer.state()) == {*before}
        assert first != step(layer, optimizer, to_native("jax", INPUTS))  # another dropout, too

    def test_only_layers_that_drop_hold_a_generator(self) -> None:
        with_dropout, without = (
            self.nnx.split(self.encoder(dropout_rate=rate), self.nnx.Param, ...) for rate in (0.5, 0.0)
        )
        assert len(self.jax.tree.leaves(with_dropout[2])) > len(self.jax.tree.leaves(without[2])) == 0

    def test_float64_needs_x64(self) -> None:
        self.jax.config.update("jax_enable_x64", False)
        try:
            with pytest.raises(TypeError, match=r"^`dtype` float64 would be rounded to float32 by JAX: enable 64-bit"):
                self.attn.LayerNorm(3, dtype="float64", rngs=self.nnx.Rngs(0))
        finally:
            self.jax.config.update("jax_enable_x64", True)

    def test_wrong_dtype_is_refused(self) -> None:
        with pytest.raises(
            TypeError, match=r"^`dtype` must have a floating dtype \(float64, float32, bfloat16, float16"
        ):
            self.attn.Linear(3, 3, dtype="int8", rngs=self.nnx.Rngs(0))


def test_configs_are_the_same_objects() -> None:
    for config in (EncoderLayerConfig(4, 2), LinearConfig(3, 2)):
        assert hash(config) == hash(type(config)(**config.arguments()))

"""Every class of layer, with each of its options somewhere, and each framework's way to build, call and train one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import frameworks
import numpy as np
from native_tensors import to_native, to_numpy

from attnspec.contract import CellState, Rotary, alibi, causal, key_lengths
from attnspec.contract.layer_config import LayerConfig
from attnspec.contract.layer_states import CONFIGS
from attnspec.contract.states import leaves, map_leaves

Array = np.ndarray[Any, Any]

BATCH, LENGTH, MEMORY, SIZE, HEADS, VOCABULARY = 2, 5, 7, 12, 3, 11
KEY_SIZE, VALUE_SIZE, OUTPUT_SIZE = 10, 8, 6


class Entry(NamedTuple):
    """A layer's arguments, and what it is called with; dropout rates are above 0 wherever there are any."""

    id: str
    config: LayerConfig
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    """Draw numbers that depend on shape and seed alone."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


INPUTS, ELSEWHERE = numbers(BATCH, LENGTH, SIZE), numbers(BATCH, MEMORY, SIZE)
IDS = np.array([[1, 2, 3, 4, 10], [5, 6, 7, 8, 0]])
VALID = np.array([[True, True, True, True, True], [True, False, True, False, False]])
STATE = CellState(numbers(BATCH, SIZE), numbers(BATCH, SIZE, seed=1))
PLAIN = {"model_size": SIZE, "num_heads": HEADS, "dropout_rate": 0.1}
TURNED = Rotary("interleaved")


def entry(layer: str, arguments: Mapping[str, Any], *inputs: Any, note: str = "", **options: Any) -> Entry:
    """Name an entry after its layer and what is particular about it."""
    return Entry(f"{layer}-{note}" if note else layer, CONFIGS[layer](**arguments), inputs, options)


ENTRIES = (
    entry(
        "DotProductAttention",
        {"use_scale": True, "softcap": 3.0, "dropout_rate": 0.1},
        *(INPUTS, ELSEWHERE, ELSEWHERE),
        mask=key_lengths([7, 3]),
    ),
    entry(
        "DotProductAttention",
        {"scale": 0.5},
        INPUTS,
        ELSEWHERE,
        ELSEWHERE,
        note="scale",
        bias=alibi(symmetric=True, offset=0),
    ),
    entry("SelfAttention", {"model_size": SIZE, "dropout_rate": 0.1}, INPUTS, mask=causal()),
    entry(
        "SelfAttention",
        {"model_size": SIZE, "head_dim": 4, "value_dim": 6, "scale": 0.5, "softcap": 3.0},
        INPUTS,
        note="sizes",
    ),
    entry("KeyValueAttention", {"head_dim": SIZE, "dropout_rate": 0.1}, STATE.memory, ELSEWHERE, ELSEWHERE),
    entry(
        "KeyValueAttention",
        {"head_dim": SIZE, "query_size": OUTPUT_SIZE, "scale": 0.5, "softcap": 3.0},
        *(numbers(BATCH, OUTPUT_SIZE), ELSEWHERE, ELSEWHERE),
        note="projected",
    ),
    entry("MultiHeadAttention", PLAIN, INPUTS, ELSEWHERE, ELSEWHERE),
    entry(
        "MultiHeadAttention",
        PLAIN | {"num_heads": 6, "num_kv_heads": 3, "use_sinks": True, "window": (2, 0), "rotary": TURNED},
        INPUTS,
        note="window",
    ),
    entry(
        "MultiHeadAttention",
        {
            "model_size": SIZE,
            "num_heads": HEADS,
            "head_dim": 4,
            "value_dim": 2,
            "key_size": KEY_SIZE,
            "value_size": VALUE_SIZE,
            "output_size": OUTPUT_SIZE,
            "use_bias": ("query", "output"),
            "scale": 0.5,
            "softcap": 3.0,
            "output_dropout_rate": 0.1,
            "rotary": TURNED,
        },
        *(INPUTS, numbers(BATCH, MEMORY, KEY_SIZE), numbers(BATCH, MEMORY, VALUE_SIZE)),
        note="sizes",
        offset="end",
    ),
    entry("HardAttention", {"top_k": 2}, INPUTS, ELSEWHERE, ELSEWHERE),
    entry(
        "HardAttention",
        {"top_k": 3, "scale": 0.5, "softcap": 3.0},
        *(INPUTS, ELSEWHERE, ELSEWHERE),
        note="noise",
        noise=numbers(BATCH, LENGTH, MEMORY),
    ),
    entry("AdditiveAttention", {"query_size": SIZE, "use_projections": False}, INPUTS, ELSEWHERE, ELSEWHERE),
    entry(
        "AdditiveAttention",
        {
            "query_size": SIZE,
            "key_size": KEY_SIZE,
            "hidden_size": OUTPUT_SIZE,
            "use_bias": True,
            "scale": 0.5,
            "softcap": 3.0,
            "dropout_rate": 0.1,
        },
        *(INPUTS, numbers(BATCH, MEMORY, KEY_SIZE), ELSEWHERE),
        note="sizes",
    ),
    entry("GatedAttention", {"input_size": SIZE, "num_heads": HEADS, "num_units": 4, "score_size": 5}, INPUTS),
    entry(
        "GatedAttentionCell",
        PLAIN | {"output_size": OUTPUT_SIZE, "score_size": 5},
        *(INPUTS, STATE),
        valid=VALID,
    ),
    entry("SinusoidalPositions", {"model_size": SIZE, "base": 100.0}, INPUTS, offset=2),
    entry("LearnedPositions", {"max_length": 9, "model_size": SIZE}, INPUTS, offset=2),
    entry("Linear", {"input_size": VOCABULARY, "output_size": SIZE}, IDS),
    entry("Linear", {"input_size": SIZE, "output_size": OUTPUT_SIZE, "use_bias": False}, INPUTS, note="bare"),
    entry("LayerNorm", {"model_size": SIZE}, INPUTS),
    entry("LayerNorm", {"model_size": SIZE, "epsilon": 0.1, "use_bias": False}, INPUTS, note="bare"),
    entry("FeedForward", {"model_size": SIZE, "dropout_rate": 0.1}, INPUTS),
    entry(
        "FeedForward",
        {"model_size": SIZE, "hidden_size": OUTPUT_SIZE, "activation": "silu", "use_bias": False},
        INPUTS,
        note="silu",
    ),
    entry("EncoderLayer", PLAIN, INPUTS, mask=causal()),
    entry(
        "EncoderLayer",
        PLAIN | {"num_kv_heads": 1, "norm": "pre", "activation": "gelu_tanh", "epsilon": 0.1, "rotary": TURNED},
        INPUTS,
        note="pre",
    ),
    entry("DecoderLayer", PLAIN | {"use_bias": False}, INPUTS, ELSEWHERE, memory_mask=key_lengths([7, 3])),
    entry("Encoder", PLAIN | {"num_layers": 2, "norm": "pre", "hidden_size": OUTPUT_SIZE}, INPUTS),
    entry("Decoder", PLAIN | {"num_layers": 2, "final_norm": True, "rotary": TURNED}, INPUTS, ELSEWHERE, mask=causal()),
    entry(
        "TextEncoder",
        PLAIN
        | {"num_layers": 1, "input_size": VOCABULARY, "positions": "learned", "max_length": 9}
        | {"embedding_bias": True, "embedding_norm": True},
        IDS,
        valid=VALID,
    ),
    entry("TextEncoder", PLAIN | {"num_layers": 0, "input_size": SIZE, "positions": None}, INPUTS, note="vectors"),
    entry(
        "SequenceClassifier",
        PLAIN | {"num_layers": 1, "input_size": VOCABULARY, "num_classes": 4, "final_norm": True},
        IDS,
        valid=VALID,
    ),
    entry(
        "Transformer",
        PLAIN
        | {"num_encoder_layers": 1, "num_decoder_layers": 1, "source_size": VOCABULARY, "target_size": VOCABULARY}
        | {"output_size": VOCABULARY, "positions": "learned", "max_length": 9},
        *(IDS, IDS[:, :4]),
        source_valid=VALID,
    ),
    entry(
        "Transformer",
        PLAIN | {"num_encoder_layers": 1, "num_decoder_layers": 1, "norm": "pre"},
        *(ELSEWHERE, INPUTS),
        note="vectors",
    ),
)


def state_of(config: LayerConfig, dtype: str = "float64") -> dict[str, Array]:
    """Draw a state with no entry at its initial value."""
    return {
        name: np.asarray(0.4 * numbers(*spec.shape, seed=place)).astype(dtype)
        for place, (name, spec) in enumerate(config.specs().items())
    }


def build(framework: str, config: LayerConfig, *, dtype: str = "float64", seed: int = 0, **own: Any) -> Any:
    """Build a layer by its framework's idiom, in evaluation mode."""
    module = frameworks.load(framework)
    kind = getattr(module, config.layer)
    if framework == "torch":
        torch = importlib.import_module("torch")
        torch.manual_seed(seed)
        return kind(**config.arguments(), dtype=getattr(torch, dtype), **own).eval()
    if framework == "tensorflow":
        return kind(**config.arguments(), dtype=dtype, seed=seed, **own)
    nnx = importlib.import_module("flax.nnx")
    layer = kind(**config.arguments(), dtype=dtype, rngs=nnx.Rngs(seed), **own)
    layer.eval()
    return layer


def native(framework: str, value: Any) -> Any:
    """Turn the arrays of an argument into the framework's; masks and Python's values stay."""
    return map_leaves(lambda leaf: to_native(framework, leaf) if isinstance(leaf, np.ndarray) else leaf, value)


def cast(value: Any, dtype: str) -> Any:
    """Round the floating arrays of an argument."""

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf

    return map_leaves(one, value)


def call(framework: str, layer: Any, one: Entry, *, dtype: str = "float64", training: bool = False) -> dict[str, Array]:
    """Call a layer with what its entry says: its results by name, the only one without a name."""
    inputs = [native(framework, cast(value, dtype)) for value in one.inputs]
    options = {name: native(framework, cast(value, dtype)) for name, value in one.options.items()}
    return results(in_mode(framework, layer, training=training)(*inputs, **options))


def in_mode(framework: str, layer: Any, *, training: bool) -> Callable[..., Any]:
    """Put a layer into training or evaluation by its framework's idiom."""
    if framework == "tensorflow":
        return lambda *inputs, **options: layer(*inputs, **options, training=training)
    if training:
        layer.train()
    else:
        layer.eval()
    called: Callable[..., Any] = layer
    return called


def results(output: Any) -> dict[str, Array]:
    """Name the results of a call, or the only one by nothing, as NumPy arrays."""
    return {name: to_numpy(value) for name, value in leaves(output).items()}

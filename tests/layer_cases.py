"""Cheap inputs for every layer, float64, with every option somewhere: what variants and faults are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract import Dropout, MultiHeadParameters, alibi, causal, key_lengths, sliding_window
from attnspec.contract.layer_parameters import (
    AdditiveParameters,
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    GatedAttentionCellParameters,
    GatedAttentionParameters,
    LayerNormParameters,
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import (
    CellState,
    DecoderLayerDropout,
    EncoderLayerDropout,
    KeyValueCache,
    TextEncoderDropout,
    TransformerDropout,
)
from attnspec.contract.rotary_option import Rotary

BATCH, LENGTH, MEMORY, SIZE, HIDDEN = 3, 5, 7, 10, 11
HEADS, KV_HEADS, KEY_DIM, VALUE_DIM = 4, 2, 2, 3
VOCABULARY, CLASSES, PLACES = 13, 3, 17
GROUPS: dict[str, Any] = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}

SEQUENCE = (BATCH, LENGTH, SIZE)
VALID = np.array([[True, True, True, True, True], [True, False, True, True, False], [False] * 5])
IDS = np.array([[1, 2, 3, 4, 1], [5, 12, 7, 8, 0], [3, 3, 9, 10, 11]])

Array = np.ndarray[Any, Any]


class LayerCase(NamedTuple):
    """One call: an operation, its arguments and options."""

    id: str
    operation: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def numbers(*shape: int, spread: float = 1.0, seed: int = 0) -> Array:
    """Draw numbers that depend on the shape and the seed alone."""
    return spread * np.random.default_rng([seed, *shape]).standard_normal(shape)


def kept(*shape: int) -> Dropout:
    """Draw what a dropout keeps."""
    return Dropout(0.25, np.random.default_rng(shape).random(shape) > 0.25)


def multi_head(memory: int = SIZE, *, seed: int = 0, biases: bool = True) -> MultiHeadParameters:
    """Draw parameters of four query heads and two key/value heads, values larger than keys."""
    columns = HEADS * KEY_DIM, KV_HEADS * KEY_DIM, KV_HEADS * VALUE_DIM
    weights = [
        numbers(size, column, spread=0.6, seed=seed + 7 * i)
        for i, (size, column) in enumerate(zip((SIZE, memory, memory), columns, strict=True))
    ]
    weights.append(numbers(HEADS * VALUE_DIM, SIZE, spread=0.4, seed=seed))
    drawn = [numbers(column, spread=0.4, seed=seed + 3 * i) for i, column in enumerate((*columns, SIZE))]
    return MultiHeadParameters(*weights, *(drawn if biases else ()))


def norm(seed: int) -> LayerNormParameters:
    """Draw a normalisation."""
    return LayerNormParameters(1 + numbers(SIZE, spread=0.3, seed=seed), numbers(SIZE, spread=0.3, seed=seed + 50))


def linear(rows: int, columns: int, seed: int = 0) -> LinearParameters:
    """Draw an affine map."""
    return LinearParameters(numbers(rows, columns, spread=0.5, seed=seed), numbers(columns, spread=0.4, seed=seed + 1))


def feeding(seed: int = 0) -> FeedForwardParameters:
    """Draw a feed-forward."""
    first, second = linear(SIZE, HIDDEN, seed), linear(HIDDEN, SIZE, seed)
    return FeedForwardParameters(first.weight, second.weight, first.bias, second.bias)


def encoder_layer(seed: int = 0) -> EncoderLayerParameters:
    """Draw one encoder layer."""
    return EncoderLayerParameters(multi_head(seed=seed), norm(seed), feeding(seed), norm(seed + 1))


def decoder_layer(seed: int = 0) -> DecoderLayerParameters:
    """Draw one decoder layer."""
    own, across = multi_head(seed=seed), multi_head(seed=seed + 100)
    return DecoderLayerParameters(own, norm(seed), across, norm(seed + 1), feeding(seed), norm(seed + 2))


def cell() -> GatedAttentionCellParameters:
    """Draw a cell of five heads over ten inputs."""
    units, scores, heads = SIZE // 5, 7, 5
    shapes = (
        ((heads, SIZE, units), (heads, units)),
        ((SIZE, scores), (SIZE, scores), (SIZE, scores), (units, scores), (scores,)),
        ((SIZE, SIZE), (SIZE, SIZE), (SIZE,)),
        ((SIZE, heads), (SIZE, heads), (heads,)),
        ((SIZE,), (SIZE, CLASSES), (CLASSES,)),
    )
    flat = [shape for group in shapes for shape in group]
    return GatedAttentionCellParameters(*(numbers(*shape, spread=0.5, seed=i) for i, shape in enumerate(flat)))


def cache(length: int) -> KeyValueCache:
    """Draw a cache that is filled up to a length, and holds numbers that nobody may read behind it."""
    shape = (BATCH, KV_HEADS, MEMORY)
    return KeyValueCache(numbers(*shape, KEY_DIM, seed=1), numbers(*shape, VALUE_DIM, seed=2), length)


def all_cases() -> Iterator[LayerCase]:
    """Yield every case."""
    for make in (_projected, _similarities, _hard, _gates, _blocks, _encoders, _decoders, _inputs, _models):
        yield from (LayerCase(*row) for row in make())


Rows = Iterator[tuple[str, str, tuple[Any, ...], dict[str, Any]]]


def _projected() -> Rows:
    inputs, memory = numbers(*SEQUENCE), numbers(BATCH, MEMORY, SIZE + 1)
    weights = [numbers(SIZE, columns, spread=0.5, seed=i) for i, columns in enumerate((KEY_DIM, KEY_DIM, VALUE_DIM))]
    yield "self", "self_attention", (inputs, *weights), {}
    options: dict[str, Any] = {"mask": causal(), "scale": -0.7, "softcap": 2.0, "sinks": np.float64(0.3)}
    yield "self-options", "self_attention", (inputs, *weights), options
    yield "self-single", "self_attention", (inputs[0], *weights), {}
    pairs = numbers(BATCH, KEY_DIM), numbers(BATCH, MEMORY, KEY_DIM), numbers(BATCH, MEMORY, VALUE_DIM)
    yield "memory", "key_value_attention", pairs, {}
    yield "memory-lengths", "key_value_attention", pairs, {"mask": key_lengths([7, 3, 0]), "scale": 1.5}
    name, arguments = "multi_head_attention", (inputs, memory, memory, multi_head(SIZE + 1))
    yield "heads", name, arguments, GROUPS
    yield "heads-alike", name, (inputs, inputs, inputs, multi_head(biases=False)), GROUPS | {"mask": causal()}
    options = {
        "mask": causal("end") & key_lengths([7, 5, 0]),
        "bias": alibi(symmetric=True, offset="end"),
        "softcap": 3.0,
        "sinks": numbers(HEADS),
        "dropout": kept(BATCH, HEADS, LENGTH, MEMORY),
    }
    yield "heads-options", name, arguments, GROUPS | options
    for pairing in ("half_split", "interleaved"):
        for offset in (0, "end", np.array([0, 2, 9])):
            rotary = Rotary(pairing, base=100.0, offset=offset)
            yield f"heads-{pairing}-{np.ravel(offset)[-1]}", name, arguments, GROUPS | {"rotary": rotary}
    wide = MultiHeadParameters(*(numbers(SIZE, 12, spread=0.5, seed=i) for i in range(3)), numbers(12, SIZE))
    for heads, rotary in ((3, Rotary("half_split", base=20.0)), (2, Rotary("interleaved", rotary_dim=4, offset=0))):
        options = {"num_heads": heads, "rotary": rotary}
        yield f"heads-wide-{heads}", name, (inputs, inputs, inputs, wide), options
    turned = Rotary("half_split"), Rotary("interleaved", base=10.0)
    for case, length, rotary in (
        ("empty", 0, None),
        ("step", 3, None),
        ("window", 2, turned[0]),
        ("full", 3, turned[1]),
    ):
        arguments = (numbers(BATCH, 4, SIZE), multi_head(), cache(length))
        masked = {"mask": sliding_window(2, offset=length)} if case == "window" else {}
        yield f"cache-{case}", "cached_multi_head_attention", arguments, GROUPS | {"rotary": rotary} | masked


def _operands(query_size: int, key_size: int) -> tuple[Array, Array, Array]:
    shape = (BATCH, KV_HEADS, MEMORY)
    return numbers(BATCH, HEADS, LENGTH, query_size), numbers(*shape, key_size), numbers(*shape, VALUE_DIM)


def _similarities() -> Rows:
    options: dict[str, Any] = {
        "mask": key_lengths([7, 2, 0]),
        "bias": numbers(HEADS, 1, MEMORY)[None],
        "scale": 1.7,
        "softcap": 2.5,
        "sinks": numbers(HEADS),
        "dropout": kept(BATCH, HEADS, LENGTH, MEMORY),
    }
    uneven, square = _operands(5, 3), _operands(5, 5)
    flat = numbers(BATCH, LENGTH, 5), numbers(BATCH, MEMORY, 5), numbers(BATCH, MEMORY, VALUE_DIM)
    masked = {"mask": np.random.default_rng(5).random((BATCH, LENGTH, MEMORY)) > 0.3, "scale": 2.0}
    whole = AdditiveParameters(numbers(7), numbers(5, 7), numbers(3, 7), numbers(7, seed=1))
    alike = AdditiveParameters(numbers(7), numbers(5, 7), numbers(5, 7, seed=1), numbers(7, seed=1))
    bare = AdditiveParameters(numbers(5))
    for name, arguments in (("uneven", (*uneven, whole)), ("square", (*square, alike)), ("flat", (*flat, bare))):
        yield f"additive-{name}", "additive_attention", arguments, masked if name == "flat" else {}
    yield "additive-options", "additive_attention", (*uneven, whole), options
    weights = numbers(5, 3), numbers(5, 5)
    yield "bilinear-uneven", "bilinear_attention", (*uneven, weights[0]), {}
    yield "bilinear-square", "bilinear_attention", (*square, weights[1]), {"scale": 0.5}
    yield "bilinear-options", "bilinear_attention", (*uneven, weights[0]), options
    zero = [array.copy() for array in square]
    zero[0][:, :, 1], zero[1][:, :, 2] = 0, 0
    zero[0][:, :, 2] *= 1e-3
    yield "cosine", "cosine_attention", square, {"scale": 6.0}
    yield "cosine-plain", "cosine_attention", flat, {}
    yield "cosine-options", "cosine_attention", tuple(zero), options


def _hard() -> Rows:
    query, key, value = _operands(3, 3)
    for top_k in (1, 3, 9):
        yield f"hard-{top_k}", "hard_attention", (query, key, value), {"top_k": top_k}
    noise = {"noise": 4 * numbers(BATCH, HEADS, LENGTH, MEMORY)}
    yield "hard-noise", "hard_attention", (query, key, value), {"top_k": 2} | noise
    rng = np.random.default_rng(0)
    tied = rng.integers(-1, 2, query.shape) * 1.0, rng.integers(-1, 2, key.shape) * 1.0, value
    yield "hard-ties", "hard_attention", tied, {"top_k": 2, "scale": 1.0}
    options: dict[str, Any] = {"mask": key_lengths([7, 2, 0]), "softcap": 2.0, "bias": numbers(LENGTH, MEMORY)}
    yield "hard-options", "hard_attention", (query, key, value), {"top_k": 3} | options


def _gates() -> Rows:
    inputs = numbers(*SEQUENCE, spread=2.0)
    large = 400 * inputs  # exp overflows beyond 709 in float64
    yield "gate", "attention_gate", (inputs, linear(SIZE, 3)), {}
    yield "gate-large", "attention_gate", (large, linear(SIZE, 3)), {}
    yield "gate-bare", "attention_gate", (inputs, LinearParameters(numbers(SIZE, 3))), {}
    yield "gated-input", "gated_input", (inputs, linear(SIZE, SIZE)), {}
    shapes = (SIZE, HIDDEN), (HIDDEN,), (KV_HEADS, HIDDEN, 7), (KV_HEADS, HIDDEN, 7), (7,), (HIDDEN,)
    drawn = GatedAttentionParameters(*(numbers(*shape, seed=i) for i, shape in enumerate(shapes)))
    yield "gated-attention", "gated_attention", (inputs, drawn), {}
    state = CellState(numbers(BATCH, SIZE), numbers(BATCH, SIZE, seed=1))
    zero = CellState(*(np.zeros((BATCH, SIZE)),) * 2)
    yield "cell", "gated_attention_cell", (inputs, state, cell()), {}
    yield "cell-first", "gated_attention_cell", (inputs, zero, cell()), {}
    hidden = np.where(VALID[..., None], inputs, np.nan)
    yield "cell-padded", "gated_attention_cell", (hidden, state, cell()), {"valid": VALID}
    yield "cell-dropout", "gated_attention_cell", (inputs, state, cell()), {"dropout": kept(BATCH, LENGTH, 2)}


def _blocks() -> Rows:
    inputs = numbers(*SEQUENCE, spread=2.0) + 0.5
    yield "norm", "layer_norm", (inputs, norm(0)), {}
    yield "norm-bare", "layer_norm", (inputs, LayerNormParameters(norm(0).weight)), {"epsilon": 1e-3}
    yield "norm-small", "layer_norm", (0.05 * inputs, norm(0)), {"epsilon": 0.01}
    yield "norm-far", "layer_norm", (inputs + 300, norm(0)), {}
    for activation in ("relu", "gelu", "gelu_tanh", "silu", "tanh"):
        yield f"feed-{activation}", "feed_forward", (inputs, feeding()), {"activation": activation}
    yield "feed-dropout", "feed_forward", (inputs, feeding()), {"dropout": kept(BATCH, LENGTH, HIDDEN)}


def encoder_dropout() -> EncoderLayerDropout:
    """Draw the dropouts of an encoder layer."""
    weights = kept(BATCH, HEADS, LENGTH, LENGTH)
    return EncoderLayerDropout(weights, kept(*SEQUENCE), kept(BATCH, LENGTH, HIDDEN), kept(BATCH, 1, SIZE))


def _encoders() -> Rows:
    inputs = numbers(*SEQUENCE, spread=1.5)
    options: dict[str, Any] = {
        "mask": causal(),
        "bias": numbers(1, HEADS, LENGTH, LENGTH),
        "rotary": Rotary("interleaved"),
        "activation": "silu",
        "epsilon": 0.01,
    }
    for kind in ("post", "pre"):
        own: dict[str, Any] = GROUPS | {"norm": kind}
        yield (
            f"encoder-layer-{kind}",
            "encoder_layer",
            (inputs, encoder_layer()),
            own | {"mask": key_lengths([5, 2, 0])},
        )
        yield f"encoder-layer-{kind}-options", "encoder_layer", (inputs, encoder_layer()), own | options
        dropped = own | {"dropout": encoder_dropout()}
        yield f"encoder-layer-{kind}-dropout", "encoder_layer", (inputs, encoder_layer()), dropped
        for last in (None, norm(9)):
            stack = EncoderParameters((encoder_layer(0), encoder_layer(40)), last)
            extra = {"mask": causal(), "dropout": None if last is None else (None, encoder_dropout())}
            yield f"encoder-{kind}-{last is None}", "encoder", (inputs, stack), own | extra


def _decoders() -> Rows:
    inputs, memory = numbers(*SEQUENCE, spread=1.5), numbers(BATCH, MEMORY, SIZE)
    masks = {"mask": causal(), "memory_mask": key_lengths([7, 3, 0])}
    equal = {"mask": causal(), "memory_mask": key_lengths([5, 3, 0]), "rotary": Rotary("half_split")}
    across = {"cross_weights": kept(BATCH, HEADS, LENGTH, MEMORY), "cross_attention": kept(BATCH, LENGTH, 1)}
    dropout = DecoderLayerDropout(**encoder_dropout()._asdict(), **across)
    for kind in ("post", "pre"):
        own: dict[str, Any] = GROUPS | {"norm": kind}
        layer = "decoder_layer", (inputs, memory, decoder_layer())
        yield f"decoder-layer-{kind}", *layer, own | masks
        yield f"decoder-layer-{kind}-dropout", *layer, own | masks | {"dropout": dropout, "activation": "gelu"}
        bias = {"bias": numbers(1, HEADS, LENGTH, LENGTH), "epsilon": 0.1}
        yield f"decoder-layer-{kind}-equal", layer[0], (inputs, memory[:, :5], layer[1][2]), own | equal | bias
        for last in (None, norm(9)):
            stack = DecoderParameters((decoder_layer(0), decoder_layer(40)), last)
            extra: dict[str, Any] = {"dropout": None if last is None else (dropout, None)}
            yield f"decoder-{kind}-{last is None}", "decoder", (inputs, memory, stack), own | masks | extra


def _inputs() -> Rows:
    table, rows = linear(VOCABULARY, SIZE), numbers(*SEQUENCE)
    yield "embedding", "embedding", (IDS, table), {}
    yield "embedding-bare", "embedding", (IDS, LinearParameters(table.weight)), {}
    yield "embedding-vectors", "embedding", (numbers(BATCH, LENGTH, VOCABULARY), table), {}
    for offset in (0, 3, np.int64(2)):
        places = {"offset": offset}
        yield f"sinusoidal-{offset}", "add_sinusoidal_positions", (rows,), places | {"base": 500.0 if offset else 1e4}
        yield f"learned-{offset}", "add_learned_positions", (rows, numbers(PLACES, SIZE)), places
    yield "pooling", "mean_pooling", (rows,), {}
    yield "pooling-valid", "mean_pooling", (rows,), {"valid": VALID}
    yield "pooling-padded", "mean_pooling", (np.where(VALID[..., None], rows, np.nan),), {"valid": VALID}


def text(*, learned: bool, last: bool) -> TextEncoderParameters:
    """Draw a text encoder of two layers."""
    stack = EncoderParameters((encoder_layer(0), encoder_layer(40)), norm(9) if last else None)
    places, first = (numbers(PLACES, SIZE), norm(8)) if learned else (None, None)
    return TextEncoderParameters(linear(VOCABULARY, SIZE), places, first, stack)


def _models() -> Rows:
    learned: dict[str, Any] = GROUPS | {"positions": "learned", "norm": "pre", "valid": VALID, "activation": "gelu"}
    vectors = numbers(BATCH, LENGTH, VOCABULARY)
    dropout = TextEncoderDropout(kept(*SEQUENCE), (encoder_dropout(), None))
    none: dict[str, Any] = GROUPS | {"positions": None, "mask": causal(), "rotary": Rotary("interleaved")}
    rich, poor = text(learned=True, last=True), text(learned=False, last=False)
    yield "text-learned", "text_encoder", (IDS, rich), learned
    yield "text-sinusoidal", "text_encoder", (IDS, poor), GROUPS | {"dropout": dropout, "mask": causal()}
    yield "text-vectors", "text_encoder", (vectors, poor), none | {"valid": VALID}
    head = linear(SIZE, CLASSES, seed=5)
    poisoned = np.where(VALID[..., None], vectors, np.nan)
    yield "classes", "sequence_classifier", (IDS, SequenceClassifierParameters(rich, head)), learned
    yield "classes-all", "sequence_classifier", (IDS, SequenceClassifierParameters(poor, head)), GROUPS
    arguments = (poisoned, SequenceClassifierParameters(poor, head))
    yield "classes-poison", "sequence_classifier", arguments, none | {"valid": VALID}
    encoder = EncoderParameters((encoder_layer(0), encoder_layer(40)), norm(9))
    decoder = DecoderParameters((decoder_layer(0), decoder_layer(40)), norm(7))
    sides = linear(VOCABULARY, SIZE), linear(MEMORY, SIZE, seed=3)
    tables = numbers(PLACES, SIZE), numbers(PLACES, SIZE, seed=1)
    target = IDS[:, :4] % MEMORY
    whole = TransformerParameters(encoder, decoder, *sides, *tables, linear(SIZE, MEMORY))
    given: dict[str, Any] = GROUPS | {"positions": "learned", "norm": "pre", "source_valid": VALID}
    yield "transformer-learned", "transformer", (IDS, target, whole), given
    plain = whole._replace(source_positions=None, target_positions=None)
    yield "transformer-sinusoidal", "transformer", (IDS, target, plain), GROUPS | {"source_valid": VALID}
    bare = TransformerParameters(encoder._replace(norm=None), decoder)
    open_target: dict[str, Any] = GROUPS | {"positions": None, "target_mask": None, "rotary": Rotary("half_split")}
    dropped = TransformerDropout(kept(*SEQUENCE), kept(*SEQUENCE), (None, encoder_dropout()), None)
    yield "transformer-bare", "transformer", (numbers(*SEQUENCE), numbers(*SEQUENCE, seed=1), bare), open_target
    arguments = (numbers(*SEQUENCE), numbers(*SEQUENCE, seed=1), bare)
    yield "transformer-dropout", "transformer", arguments, open_target | {"dropout": dropped}


CASES = tuple(all_cases())

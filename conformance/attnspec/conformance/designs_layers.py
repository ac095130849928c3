"""The designs that hunt in blocks and models: normalisation, feed-forward, encoders, decoders, embeddings, caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import Mask, causal, key_lengths
from attnspec.contract.attention_configs import MultiHeadAttentionConfig
from attnspec.contract.block_configs import (
    DecoderConfig,
    DecoderLayerConfig,
    EncoderConfig,
    EncoderLayerConfig,
    FeedForwardConfig,
    LayerNormConfig,
    LinearConfig,
)
from attnspec.contract.layer_config import LayerConfig
from attnspec.contract.mask_json import mask_to_json
from attnspec.contract.model_configs import SequenceClassifierConfig, TextEncoderConfig, TransformerConfig

from .design import Design
from .recipes import Array

Make = Callable[[np.random.Generator], dict[str, Array]]

BATCH, LENGTH, MEMORY, SIZE, HEADS, INNER, VOCABULARY = 2, 5, 7, 6, 3, 7, 9
WIDE = ("float64", "float32")
SINGLE = ("float32",)
HALF = ("float32", "bfloat16")


def layer_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    yield from _normalisation()
    yield from _feed_forward()
    yield from _encoders()
    yield from _decoders()
    yield from _inputs()
    yield from _models()
    yield from _caches()
    yield from _rotary()


def drawn(config: LayerConfig, rng: np.random.Generator, prefix: str = "parameters.") -> dict[str, Array]:
    """Draw parameters of a layer that all matter: weights that keep sizes, biases and normalisations of order one."""
    found = {}
    for name, spec in config.specs().items():
        numbers = rng.standard_normal(spec.shape)
        if spec.distribution == "glorot_uniform":
            numbers = 1.5 * numbers / np.sqrt(spec.shape[-2] if len(spec.shape) > 1 else spec.shape[0])
        elif spec.distribution == "ones":
            numbers = 1.0 + 0.3 * numbers
        else:
            numbers = 0.4 * numbers
        found[prefix + name] = numbers
    return found


def _numbers(*shape: int, spread: float = 1.0, center: float = 0.0) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.asarray(center + spread * rng.standard_normal(shape))


def _kept(*shape: int, rate: float = 0.25) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.asarray(rng.random(shape) >= rate)


def _given(array: Any) -> Callable[[np.random.Generator], Array]:
    return lambda _: np.asarray(array)


def make_of(config: LayerConfig | None = None, **tensors: Callable[[np.random.Generator], Array]) -> Make:
    """Return what draws tensors by name, `__` standing for a dot, and the parameters of a layer."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        own = {name.replace("__", "."): draw(rng) for name, draw in tensors.items()}
        return own | ({} if config is None else drawn(config, rng))

    return make


def both(
    name: str,
    clauses: tuple[str, ...],
    hunts: str,
    make: Make,
    cotangent: tuple[int, ...] | None,
    *,
    operation: str,
    dtypes: tuple[str, ...] = SINGLE,
    backward: tuple[str, ...] = ("float64",),
    result: str = "output",
    **others: Any,
) -> Iterator[Design]:
    """Yield a design forward, and backward with a cotangent of this shape."""
    numbers = others.pop("numbers", {})
    shared = {"operation": operation, "recipe": "layers", "numbers": numbers, **others}
    yield Design(name, clauses, hunts, make, dtypes=dtypes, **shared)
    if cotangent is not None:
        pulled = _with_cotangent(make, f"{result}_cotangent", cotangent)
        yield Design(
            f"gradient-{name}", clauses, f"gradients: {hunts}", pulled, dtypes=backward, direction="backward", **shared
        )


def _with_cotangent(make: Make, name: str, shape: tuple[int, ...]) -> Make:
    return lambda rng: make(rng) | {name: rng.standard_normal(shape)}


_SEQUENCE = (BATCH, LENGTH, SIZE)


def _normalisation() -> Iterator[Design]:
    config = LayerNormConfig(SIZE)
    clause = ("S29",)
    yield from both(
        "layer-norm",
        clause,
        "the biased variance, weight and bias",
        make_of(config, inputs=_numbers(*_SEQUENCE, spread=2.0, center=0.5)),
        _SEQUENCE,
        operation="layer_norm",
        dtypes=HALF,
        backward=WIDE,
    )
    yield from both(
        "layer-norm-epsilon",
        clause,
        "epsilon stands under the root: rows of small variance show where",
        make_of(config, inputs=_numbers(*_SEQUENCE, spread=0.1)),
        None,
        operation="layer_norm",
        numbers={"epsilon": 0.01},
    )
    yield from both(
        "layer-norm-far-mean",
        clause,
        "a mean far from zero: E[x²] − E[x]² loses every digit",
        make_of(config, inputs=_numbers(*_SEQUENCE, center=300.0)),
        None,
        operation="layer_norm",
    )
    yield from both(
        "layer-norm-poison",
        ("S29", "S11"),
        "a component that is not finite makes its own row NaN, and no other",
        _poisoned(make_of(config, inputs=_numbers(*_SEQUENCE)), "inputs"),
        None,
        operation="layer_norm",
        nonfinite=True,
    )


def _poisoned(make: Make, name: str) -> Make:
    def poisoned(rng: np.random.Generator) -> dict[str, Array]:
        tensors = make(rng)
        tensors[name][1, 2, 3] = np.nan
        tensors[name][0, 4, 1] = np.inf
        return tensors

    return poisoned


def _feed_forward() -> Iterator[Design]:
    config = FeedForwardConfig(SIZE, INNER)
    inputs = {"inputs": _numbers(*_SEQUENCE, spread=1.5)}
    for activation in ("relu", "gelu", "gelu_tanh", "silu", "tanh"):
        yield from both(
            f"feed-forward-{activation.replace('_', '-')}",
            ("S30",),
            f"two affine maps around {activation}",
            make_of(config, **inputs),
            _SEQUENCE if activation in ("relu", "gelu") else None,
            operation="feed_forward",
            dtypes=HALF if activation == "gelu" else SINGLE,
            numbers={"activation": activation},
        )
    yield from both(
        "feed-forward-dropout",
        ("S30", "S14"),
        "dropout of hidden units, with an explicit keep array",
        make_of(config, keep=_kept(BATCH, LENGTH, INNER), **inputs),
        _SEQUENCE,
        operation="feed_forward",
        dropout=0.25,
    )


def _encoders() -> Iterator[Design]:
    layer: dict[str, Any] = {"operation": "encoder_layer"}
    heads = {"num_heads": HEADS}
    config = EncoderLayerConfig(SIZE, HEADS, hidden_size=INNER)
    grouped = EncoderLayerConfig(SIZE, HEADS, num_kv_heads=1, hidden_size=INNER)
    inputs = {"inputs": _numbers(*_SEQUENCE, spread=1.5)}
    yield from both(
        "encoder-layer-post",
        ("S31",),
        "normalisation after the residual, as in the paper",
        make_of(config, **inputs),
        _SEQUENCE,
        numbers=heads | {"activation": "gelu"},
        dtypes=(*WIDE, "bfloat16"),
        backward=WIDE,
        **layer,
    )
    yield from both(
        "encoder-layer-pre",
        ("S31",),
        "normalisation before attention and feed-forward, grouped heads, padding",
        make_of(grouped, **inputs),
        _SEQUENCE,
        mask=key_lengths([5, 3]),
        numbers=heads | {"num_kv_heads": 1, "norm": "pre"},
        **layer,
    )
    yield from both(
        "encoder-layer-dropout",
        ("S31", "S14"),
        "the four dropouts of a layer, each in its place",
        make_of(
            config,
            keep__weights=_kept(BATCH, HEADS, LENGTH, LENGTH),
            keep__attention=_kept(*_SEQUENCE),
            keep__hidden=_kept(BATCH, LENGTH, INNER),
            keep__feed_forward=_kept(*_SEQUENCE),
            **inputs,
        ),
        _SEQUENCE,
        dropout=0.25,
        numbers=heads,
        **layer,
    )
    yield from both(
        "encoder-layer-options",
        ("S31", "S6", "S37"),
        "causal mask, bias and rotary positions hold together",
        make_of(config, bias=_numbers(1, HEADS, LENGTH, LENGTH), **inputs),
        None,
        mask=causal(),
        numbers=heads | {"activation": "silu", "rotary": {"pairing": "interleaved"}},
        **layer,
    )
    yield from both(
        "encoder-layer-poison",
        ("S31", "S11"),
        "padding that is not finite reaches nothing but its own rows",
        _with_nan_padding(make_of(config, **inputs), "inputs", [5, 3]),
        None,
        mask=key_lengths([5, 3]),
        numbers=heads,
        nonfinite=True,
        **layer,
    )
    yield from both(
        "encoder-pre",
        ("S31",),
        "two layers in their order, and a last normalisation",
        make_of(EncoderConfig(SIZE, HEADS, 2, hidden_size=INNER, norm="pre"), **inputs),
        _SEQUENCE,
        operation="encoder",
        numbers=heads | {"norm": "pre", "activation": "gelu"},
    )
    yield from both(
        "encoder-post",
        ("S31",),
        "two layers and a last normalisation that the layers do not call for, padding",
        make_of(EncoderConfig(SIZE, HEADS, 2, hidden_size=INNER, final_norm=True), **inputs),
        None,
        operation="encoder",
        mask=key_lengths([4, 2]),
        numbers=heads,
    )


def _with_nan_padding(make: Make, name: str, lengths: list[int]) -> Make:
    def padded(rng: np.random.Generator) -> dict[str, Array]:
        tensors = make(rng)
        for i, length in enumerate(lengths):
            tensors[name][i, length:] = np.nan
        return tensors

    return padded


def _decoders() -> Iterator[Design]:
    heads = {"num_heads": HEADS, "activation": "gelu"}
    masks: dict[str, Any] = {"memory_mask": mask_to_json(key_lengths([7, 3]))}
    config = DecoderLayerConfig(SIZE, HEADS, hidden_size=INNER)
    tensors = {"inputs": _numbers(*_SEQUENCE, spread=1.5), "memory": _numbers(BATCH, MEMORY, SIZE, spread=1.2)}
    for norm in ("post", "pre"):
        yield from both(
            f"decoder-layer-{norm}",
            ("S32",),
            "causal self-attention, attention over a padded memory, feed-forward",
            make_of(config, **tensors),
            _SEQUENCE,
            operation="decoder_layer",
            mask=causal(),
            numbers=heads | masks | {"norm": norm},
        )
    yield from both(
        "decoder-layer-dropout",
        ("S32", "S14"),
        "the six dropouts of a layer, each in its place",
        make_of(
            config,
            keep__weights=_kept(BATCH, HEADS, LENGTH, LENGTH),
            keep__attention=_kept(*_SEQUENCE),
            keep__cross_weights=_kept(BATCH, HEADS, LENGTH, MEMORY),
            keep__cross_attention=_kept(*_SEQUENCE),
            keep__hidden=_kept(BATCH, LENGTH, INNER),
            keep__feed_forward=_kept(*_SEQUENCE),
            **tensors,
        ),
        None,
        operation="decoder_layer",
        mask=causal(),
        dropout=0.25,
        numbers=heads,
    )
    yield from both(
        "decoder-pre",
        ("S32",),
        "two layers that read the same memory, and a last normalisation",
        make_of(DecoderConfig(SIZE, HEADS, 2, hidden_size=INNER, norm="pre"), **tensors),
        _SEQUENCE,
        operation="decoder",
        mask=causal(),
        numbers=heads | masks | {"norm": "pre"},
    )
    yield from both(
        "decoder-post",
        ("S32",),
        "two layers after the paper, without a last normalisation",
        make_of(DecoderConfig(SIZE, HEADS, 2, hidden_size=INNER), **tensors),
        None,
        operation="decoder",
        mask=causal(),
        numbers=heads,
    )


_IDS = [[1, 2, 3, 4, 1], [5, 6, 7, 8, 0]]
_VALID = [[True, True, True, True, True], [True, True, True, False, False]]


def _inputs() -> Iterator[Design]:
    table = LinearConfig(VOCABULARY, SIZE)
    yield from both(
        "embedding-ids",
        ("S33",),
        "each id takes its row; a row that is taken twice gathers both gradients",
        make_of(table, inputs=_given(_IDS)),
        _SEQUENCE,
        operation="embedding",
    )
    yield from both(
        "embedding-vectors",
        ("S33",),
        "vectors are projected by the same weight",
        make_of(table, inputs=_numbers(BATCH, LENGTH, VOCABULARY)),
        _SEQUENCE,
        operation="embedding",
    )
    for offset in (0, 3):
        yield from both(
            f"sinusoidal-added-{offset}",
            ("S33", "S22"),
            f"row 0 stands at position {offset}",
            make_of(None, inputs=_numbers(*_SEQUENCE, spread=0.5)),
            None,
            operation="add_sinusoidal_positions",
            numbers={"offset": offset},
        )
        yield from both(
            f"learned-added-{offset}",
            ("S33",),
            f"row 0 takes row {offset} of the table",
            make_of(None, inputs=_numbers(*_SEQUENCE), table=_numbers(MEMORY + 3, SIZE)),
            _SEQUENCE if offset else None,
            operation="add_learned_positions",
            numbers={"offset": offset},
        )
    padded = [[True, True, True, True, False], [False, False, False, False, False], [True, False, True, False, False]]
    yield from both(
        "pooling",
        ("S34",),
        "the mean over valid positions alone; 0 where there is none; what is not valid is not read",
        _with_nan_where_invalid(make_of(None, inputs=_numbers(3, LENGTH, SIZE), valid=_given(padded))),
        (3, SIZE),
        operation="mean_pooling",
        dtypes=HALF,
    )


def _with_nan_where_invalid(make: Make) -> Make:
    def padded(rng: np.random.Generator) -> dict[str, Array]:
        tensors = make(rng)
        return tensors | {"inputs": np.where(tensors["valid"][..., None], tensors["inputs"], np.nan)}

    return padded


def _models() -> Iterator[Design]:
    heads = {"num_heads": HEADS}
    rich: dict[str, Any] = {
        "hidden_size": INNER,
        "positions": "learned",
        "max_length": MEMORY,
        "embedding_norm": True,
        "norm": "pre",
    }
    yield from both(
        "text-encoder-ids",
        ("S35",),
        "embedding, sinusoidal positions, one layer",
        make_of(TextEncoderConfig(SIZE, HEADS, 1, input_size=VOCABULARY, hidden_size=INNER), inputs=_given(_IDS)),
        _SEQUENCE,
        operation="text_encoder",
        numbers=heads,
    )
    yield from both(
        "text-encoder-learned",
        ("S35",),
        "learned positions, normalised embedding, pre-norm, padding",
        make_of(
            TextEncoderConfig(SIZE, HEADS, 1, input_size=VOCABULARY, **rich), inputs=_given(_IDS), valid=_given(_VALID)
        ),
        _SEQUENCE,
        operation="text_encoder",
        numbers=heads | {"positions": "learned", "norm": "pre", "activation": "gelu"},
    )
    yield from both(
        "text-encoder-dropout",
        ("S35", "S14"),
        "dropout of the embedded inputs and in the layer",
        make_of(
            TextEncoderConfig(SIZE, HEADS, 1, input_size=VOCABULARY, hidden_size=INNER),
            inputs=_given(_IDS),
            keep__embedding=_kept(*_SEQUENCE),
            keep__layers__0__weights=_kept(BATCH, HEADS, LENGTH, LENGTH),
            keep__layers__0__attention=_kept(*_SEQUENCE),
            keep__layers__0__hidden=_kept(BATCH, LENGTH, INNER),
            keep__layers__0__feed_forward=_kept(*_SEQUENCE),
        ),
        None,
        operation="text_encoder",
        dropout=0.25,
        numbers=heads,
    )
    # The tutorials' example: vocabulary 9, E = 12, H = 4, 2 layers, 2 classes.
    example = SequenceClassifierConfig(12, 4, 2, input_size=9, num_classes=2, hidden_size=INNER)
    yield from both(
        "classifier-example",
        ("S35", "S34"),
        "two classes of four tokens, all valid",
        make_of(example, inputs=_given([[1, 2, 3, 4], [5, 6, 7, 8]])),
        None,
        operation="sequence_classifier",
        numbers={"num_heads": 4},
    )
    yield from both(
        "classifier-vectors",
        ("S35", "S34"),
        "vectors, padding and a row that is all padding",
        make_of(
            SequenceClassifierConfig(SIZE, HEADS, 1, input_size=3, num_classes=5, hidden_size=INNER),
            inputs=_numbers(BATCH, LENGTH, 3),
            valid=_given([[True, True, False, True, False], [False] * LENGTH]),
        ),
        (BATCH, 5),
        operation="sequence_classifier",
        numbers=heads | {"activation": "gelu"},
        dtypes=HALF,
    )
    config = TransformerConfig(
        SIZE,
        HEADS,
        num_encoder_layers=1,
        num_decoder_layers=1,
        hidden_size=INNER,
        source_size=VOCABULARY,
        target_size=6,
        output_size=6,
    )
    yield from both(
        "transformer-ids",
        ("S36",),
        "ids to ids: padding of the source, a causal target",
        make_of(config, source=_given(_IDS), target=_given([[1, 2, 3], [4, 5, 0]]), source_valid=_given(_VALID)),
        (BATCH, 3, 6),
        operation="transformer",
        numbers=heads | {"activation": "gelu"},
    )
    plain = TransformerConfig(SIZE, HEADS, num_encoder_layers=1, num_decoder_layers=1, hidden_size=INNER, norm="pre")
    yield from both(
        "transformer-vectors",
        ("S36",),
        "vectors of the model size, pre-norm, no head",
        make_of(plain, source=_numbers(BATCH, MEMORY, SIZE), target=_numbers(*_SEQUENCE)),
        None,
        operation="transformer",
        numbers=heads | {"norm": "pre", "positions": "none"},
    )


def _caches() -> Iterator[Design]:
    capacity, head_dim = 7, 2
    config = MultiHeadAttentionConfig(SIZE, HEADS, num_kv_heads=1)
    shape = (BATCH, 1, capacity, head_dim)

    def cache(length: int) -> dict[str, Callable[[np.random.Generator], Array]]:
        def filled(rng: np.random.Generator) -> Array:
            array = 1.5 * rng.standard_normal(shape)
            array[..., length:, :] = 0.0
            return array

        return {"cache__key": filled, "cache__value": filled, "cache__length": _given(np.int64(length))}

    rows: tuple[tuple[str, int, int, dict[str, Any], str], ...] = (
        ("prefill", 0, 4, {}, "four positions into an empty cache: causal among themselves"),
        ("step", 3, 1, {}, "one position after three that the cache holds"),
        (
            "rotary",
            3,
            2,
            {"rotary": {"pairing": "half_split"}},
            "new positions turn as at 3 and 4, the cache is turned already",
        ),
        ("full", 5, 2, {}, "the last two places of the cache"),
    )
    for name, length, new, extra, hunts in rows:
        yield Design(
            f"cached-{name}",
            ("S37",),
            hunts,
            make_of(config, inputs=_numbers(BATCH, new, SIZE, spread=1.5), **cache(length)),
            "layers",
            operation="cached_multi_head_attention",
            dtypes=SINGLE,
            numbers={"num_heads": HEADS, "num_kv_heads": 1, **extra},
        )


def _rotary() -> Iterator[Design]:
    size, length, memory = 18, 5, 7
    rows: tuple[tuple[str, int, int, Mask | None, dict[str, Any], str], ...] = (
        ("half-split", length, length, causal(), {"pairing": "half_split"}, "queries and keys turn by their position"),
        ("interleaved", length, length, None, {"pairing": "interleaved", "base": 100.0}, "the other pairing, a base"),
        (
            "offset",
            3,
            memory,
            causal("end"),
            {"pairing": "half_split", "rotary_dim": 4, "offset": "end"},
            "queries stand at the end of the keys, and four components of six turn",
        ),
    )
    for name, queries, keys, mask, rotary, hunts in rows:

        def make(rng: np.random.Generator, queries: int = queries, keys: int = keys) -> dict[str, Array]:
            tensors = {
                "query": 1.5 * rng.standard_normal((BATCH, queries, size)),
                "key": 1.5 * rng.standard_normal((BATCH, keys, size)),
                "value": rng.standard_normal((BATCH, keys, size)),
            }
            return tensors | drawn(MultiHeadAttentionConfig(size, 3), rng, "")

        yield from both(
            f"multi-head-rotary-{name}",
            ("S37", "S21"),
            hunts,
            make,
            (BATCH, queries, size) if name == "half-split" else None,
            operation="multi_head_attention",
            mask=mask,
            numbers={"num_heads": 3, "num_kv_heads": None, "rotary": rotary},
        )

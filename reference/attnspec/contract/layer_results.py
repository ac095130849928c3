"""What the other operations take and return under names: states, caches, dropouts, stages."""

from __future__ import annotations

from typing import Any, NamedTuple


class CellState(NamedTuple):
    """What a gated attention cell carries from call to call: memory (*B, D) and output (*B, D); zeros at first."""

    memory: Any
    output: Any


class CellResult(NamedTuple):
    """What one call of a gated attention cell gives: outputs (*B, C) and the next state."""

    outputs: Any
    state: CellState


class CellStages(NamedTuple):
    """Every intermediate result of a gated attention cell.

    Shapes:
        pool (*B, K, T, n), distribution (*B, T, n), control (*B, T, K), reading (*B, D), update (*B, D),
        content (*B, D), outputs (*B, C), and the next state.
    """

    pool: Any
    distribution: Any
    control: Any
    reading: Any
    update: Any
    content: Any
    outputs: Any
    state: CellState


class EncoderLayerDropout(NamedTuple):
    """The four dropouts of an encoder layer, each a `Dropout` or None.

    weights: on the attention weights, keep as for an attention; attention (*B, T, E) and feed_forward (*B, T, E): on
    what is added to the residual; hidden (*B, T, F): after the activation.
    """

    weights: Any = None
    attention: Any = None
    hidden: Any = None
    feed_forward: Any = None


class DecoderLayerDropout(NamedTuple):
    """The six dropouts of a decoder layer, each a `Dropout` or None; as for `EncoderLayerDropout`."""

    weights: Any = None
    attention: Any = None
    cross_weights: Any = None
    cross_attention: Any = None
    hidden: Any = None
    feed_forward: Any = None


class TextEncoderDropout(NamedTuple):
    """The dropout of the embedded inputs (*B, T, E), and one `EncoderLayerDropout` or None for each layer, or None."""

    embedding: Any = None
    layers: tuple[EncoderLayerDropout | None, ...] | None = None


class TransformerDropout(NamedTuple):
    """The dropouts of both embeddings (*B, T, E), and one for each layer of encoder and decoder, or None."""

    source: Any = None
    target: Any = None
    encoder: tuple[EncoderLayerDropout | None, ...] | None = None
    decoder: tuple[DecoderLayerDropout | None, ...] | None = None


class KeyValueCache(NamedTuple):
    """Projected keys (*B, Hkv, S, Dk) and values (*B, Hkv, S, Dv) of which the first `length` are filled.

    S is the capacity. length is an int, or an integer tensor without axes, one for the whole batch.
    """

    key: Any
    value: Any
    length: Any


class CachedAttention(NamedTuple):
    """The output (*B, T, E_out) of new positions, and the cache that holds them too."""

    output: Any
    cache: KeyValueCache


class DecoderCache(NamedTuple):
    """For each layer of a decoder, the cache of its own positions and that of the encoder's output."""

    layers: tuple[KeyValueCache, ...]
    memory: tuple[KeyValueCache, ...]


class DecoderStep(NamedTuple):
    """The output (*B, T, E) of new positions of a decoder, and the caches that hold them too."""

    output: Any
    cache: DecoderCache

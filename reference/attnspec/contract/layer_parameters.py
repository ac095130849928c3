"""The parameters of the other operations: trees of named tuples, with the shapes of their leaves.

A tree's leaves are arrays, or None where a parameter is left out; `states` gives each leaf a flat name. Everything is
applied to rows, `x @ weight + bias`. Letters: E model size, F hidden size, D inputs, K heads, n = D/K units, d score
size, A hidden size of additive attention, V inputs or vocabulary, C outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .parameters import MultiHeadParameters


class LinearParameters(NamedTuple):
    """An affine map x W + b: weight (D, C), bias (C,) or None."""

    weight: Any
    bias: Any = None


class AdditiveParameters(NamedTuple):
    """Additive attention: score_weight (A,), query_weight (Dq, A), key_weight (Dk, A), hidden_bias (A,).

    A weight that is None is the identity, so that its operand has size A; hidden_bias None is 0.
    """

    score_weight: Any
    query_weight: Any = None
    key_weight: Any = None
    hidden_bias: Any = None


class GatedAttentionParameters(NamedTuple):
    """Gated attention with K heads over n units, score size d.

    Shapes:
        input_weight (D, n), input_bias (n,), unit_weight (K, n, d), unit_bias (K, n, d), score_weight (d,),
        output_bias (n,).
    """

    input_weight: Any
    input_bias: Any
    unit_weight: Any
    unit_bias: Any
    score_weight: Any
    output_bias: Any


class GatedAttentionCellParameters(NamedTuple):
    """The gated attention cell with K heads of n = D/K units, score size d, C outputs.

    Shapes:
        gate_weight (K, D, n), gate_bias (K, n); input_score_weight, mean_score_weight, output_score_weight (D, d),
        unit_bias (n, d), score_weight (d,); update_weight (D, D), recurrent_weight (D, D), update_bias (D,);
        control_weight (D, K), control_recurrent_weight (D, K), control_bias (K,); output_gate_bias (D,);
        output_weight (D, C), output_bias (C,).
    """

    gate_weight: Any
    gate_bias: Any
    input_score_weight: Any
    mean_score_weight: Any
    output_score_weight: Any
    unit_bias: Any
    score_weight: Any
    update_weight: Any
    recurrent_weight: Any
    update_bias: Any
    control_weight: Any
    control_recurrent_weight: Any
    control_bias: Any
    output_gate_bias: Any
    output_weight: Any
    output_bias: Any


class LayerNormParameters(NamedTuple):
    """Layer normalisation: weight (E,), bias (E,) or None."""

    weight: Any
    bias: Any = None


class FeedForwardParameters(NamedTuple):
    """Two affine maps: hidden_weight (E, F), output_weight (F, E), hidden_bias (F,), output_bias (E,) or None each."""

    hidden_weight: Any
    output_weight: Any
    hidden_bias: Any = None
    output_bias: Any = None


class EncoderLayerParameters(NamedTuple):
    """One encoder layer: attention and feed-forward, each with its normalisation."""

    attention: MultiHeadParameters
    attention_norm: LayerNormParameters
    feed_forward: FeedForwardParameters
    feed_forward_norm: LayerNormParameters


class DecoderLayerParameters(NamedTuple):
    """One decoder layer: attention, attention over the encoder's output, feed-forward, each with its normalisation."""

    attention: MultiHeadParameters
    attention_norm: LayerNormParameters
    cross_attention: MultiHeadParameters
    cross_attention_norm: LayerNormParameters
    feed_forward: FeedForwardParameters
    feed_forward_norm: LayerNormParameters


class EncoderParameters(NamedTuple):
    """A stack of encoder layers, and a last normalisation or None."""

    layers: tuple[EncoderLayerParameters, ...]
    norm: LayerNormParameters | None = None


class DecoderParameters(NamedTuple):
    """A stack of decoder layers, and a last normalisation or None."""

    layers: tuple[DecoderLayerParameters, ...]
    norm: LayerNormParameters | None = None


class TextEncoderParameters(NamedTuple):
    """Embedding (V, E), a table of positions (max_length, E) or None, a normalisation or None, and an encoder."""

    embedding: LinearParameters
    positions: Any | None
    embedding_norm: LayerNormParameters | None
    encoder: EncoderParameters


class SequenceClassifierParameters(NamedTuple):
    """A text encoder and the affine map (E, C) from its pooled output to one number for each class."""

    body: TextEncoderParameters
    head: LinearParameters


class TransformerParameters(NamedTuple):
    """Encoder and decoder; embeddings (V, E), tables of positions (max_length, E) and a head (E, C), each or None."""

    encoder: EncoderParameters
    decoder: DecoderParameters
    source_embedding: LinearParameters | None = None
    target_embedding: LinearParameters | None = None
    source_positions: Any = None
    target_positions: Any = None
    head: LinearParameters | None = None

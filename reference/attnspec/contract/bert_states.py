"""A BERT checkpoint as a text encoder: its configuration gives the layer's arguments, its tensors the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .layer_states import Array, State
from .model_configs import TextEncoderConfig
from .native_options import InterchangeError, refuse

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
_WITHOUT_MEANING_HERE = ("pooler.", "cls.", "embeddings.position_ids", "embeddings.token_type_ids")
"""Heads that stand on the encoder, and counters that are no parameters."""


def text_encoder_from_bert(
    configuration: Mapping[str, Any], tensors: Mapping[str, Array]
) -> tuple[TextEncoderConfig, State]:
    """Return the arguments and the state of the `TextEncoder` that computes what a BERT encoder computes.

    Args:
        configuration: the content of the checkpoint's `config.json`.
        tensors: its tensors by their names there, NumPy arrays, with or without `bert.` in front.

    Returns:
        The arguments, without dropout, and the state, in the dtype of the checkpoint.

    Raises:
        InterchangeError: an architecture that no text encoder has, tensors that are missing or unknown.

    A BERT encoder adds to every token the vector of its segment. Here every token is of the first segment, as in a
    single text, and that vector is part of the positions: their sum is taken in float64 and rounded once to the dtype
    of the checkpoint, in the place of the rounding of one of BERT's own two sums.

    The pooler and the heads for pretraining are no part of the encoder: their tensors are left out.

    Source: Devlin et al. 2019, §3.
    """
    config = _arguments(configuration)
    given = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in given.items() if not name.startswith(_WITHOUT_MEANING_HERE)}
    names = dict(_names(config.num_layers))
    segments = "embeddings.token_type_embeddings.weight"
    needed = {*names.values(), segments}
    problems = [f"{name} is missing" for name in sorted(needed - given.keys())]
    problems += [f"{name} is unknown" for name in sorted(given.keys() - needed)]
    if problems:
        raise InterchangeError(f"`tensors` are not those of this BERT encoder: {'; '.join(problems)}")
    # Matrices of the linear maps are stored as (out, in) there.
    state = {
        ours: np.ascontiguousarray(given[theirs].T) if _is_map(ours) else given[theirs].copy()
        for ours, theirs in names.items()
    }
    first = given[segments][0].astype(np.float64)
    state["positions"] = (state["positions"].astype(np.float64) + first).astype(state["positions"].dtype)
    return config, state


def _arguments(configuration: Mapping[str, Any]) -> TextEncoderConfig:
    kind = configuration.get("model_type")
    if kind != "bert":
        raise InterchangeError(f"`configuration` must be that of a model of type 'bert'; got {kind!r}")
    position_kind = configuration.get("position_embedding_type", "absolute")
    refuse(
        "a BERT encoder",
        {
            "is_decoder": configuration.get("is_decoder"),
            "add_cross_attention": configuration.get("add_cross_attention"),
            "position_embedding_type": None if position_kind == "absolute" else position_kind,
            "hidden_act": None if configuration["hidden_act"] in _ACTIVATIONS else configuration["hidden_act"],
        },
    )
    return TextEncoderConfig(
        configuration["hidden_size"],
        configuration["num_attention_heads"],
        configuration["num_hidden_layers"],
        input_size=configuration["vocab_size"],
        hidden_size=configuration["intermediate_size"],
        positions="learned",
        max_length=configuration["max_position_embeddings"],
        embedding_norm=True,
        norm="post",
        activation=_ACTIVATIONS[configuration["hidden_act"]],
        epsilon=configuration["layer_norm_eps"],
    )


def _names(num_layers: int) -> Iterator[tuple[str, str]]:
    """Pair every name of the state with that of the checkpoint."""
    yield "embedding.weight", "embeddings.word_embeddings.weight"
    yield "positions", "embeddings.position_embeddings.weight"
    yield from _both("embedding_norm.", "embeddings.LayerNorm")
    for i in range(num_layers):
        ours, theirs = f"encoder.layers.{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _both(f"{ours}.attention.{part}_", f"{theirs}.attention.self.{part}")
        yield from _both(f"{ours}.attention.output_", f"{theirs}.attention.output.dense")
        yield from _both(f"{ours}.attention_norm.", f"{theirs}.attention.output.LayerNorm")
        yield from _both(f"{ours}.feed_forward.hidden_", f"{theirs}.intermediate.dense")
        yield from _both(f"{ours}.feed_forward.output_", f"{theirs}.output.dense")
        yield from _both(f"{ours}.feed_forward_norm.", f"{theirs}.output.LayerNorm")


def _both(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for kind in ("weight", "bias"):
        yield f"{ours}{kind}", f"{theirs}.{kind}"


def _is_map(name: str) -> bool:
    """Tell the matrices of linear maps, which are applied to rows here, from all other parameters."""
    return name.endswith("_weight")

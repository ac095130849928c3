"""The vectors of composed operations: the dtypes that hold each, and every feature that they have to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attnspec import reference
from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.composed_operations import COMPOSED

NAMES = [operation.name for operation in COMPOSED]
CASES = [case for case in shipped_cases() if case.operation in NAMES]
ROTARY = [case for case in shipped_cases() if "rotary" in case.options and case.operation == "multi_head_attention"]

NOT_IN_FLOAT64 = {
    "add_sinusoidal_positions": "what it adds is held in every dtype as sinusoidal_positions, and its gradient is 1",
    "cached_multi_head_attention": "it is multi_head_attention on keys that came before, and has no closed gradient",
}
"""Composed operations that nothing holds in float64, and why."""


@pytest.mark.parametrize("operation", NAMES)
def test_composed_operations_are_held_at_float32_and_in_float64(operation: str) -> None:
    found = {(case.direction, case.dtype) for case in CASES if case.operation == operation}
    assert ("forward", "float32") in found
    assert ("float64" in {dtype for _, dtype in found}) == (operation not in NOT_IN_FLOAT64)
    assert ("backward" in {direction for direction, _ in found}) == hasattr(reference, f"{operation}_vjp")


def _has_norm(norm: str) -> Callable[[Case], bool]:
    return lambda case: case.options.get("norm", "post") == norm


def _fewest_visible(case: Case) -> int:
    mask = case.options["mask"] or {}
    return min(mask.get("lengths", [case.tensors["key"].shape[-2]]))


def _largest(tensor: Any) -> float:
    return float(np.abs(tensor).max())


def _zero_rows(tensor: Any) -> bool:
    return bool((tensor == 0).all(axis=-1).any())


def _is_whole(tensor: Any) -> bool:
    return bool((tensor == np.round(tensor)).all())


def _sizes(case: Case) -> tuple[int, int]:
    return case.tensors["query"].shape[-1], case.tensors["key"].shape[-1]


def _padding_alone(case: Case) -> bool:
    """Say whether some sequence has no valid position."""
    return "valid" in case.tensors and not case.tensors["valid"].any(axis=-1).all()


def _kept(case: Case) -> int:
    return sum(name.startswith("keep.") and not tensor.all() for name, tensor in case.tensors.items())


def _is_full(case: Case) -> bool:
    end = case.tensors["cache.length"] + case.tensors["inputs"].shape[-2]
    return bool(end == case.tensors["cache.key"].shape[-2])


FEATURES: dict[str, tuple[str, Callable[[Case], bool]]] = {
    "one-best": ("hard_attention", lambda case: case.options["top_k"] == 1),
    "several-best": ("hard_attention", lambda case: case.options["top_k"] > 1),
    "noise": ("hard_attention", lambda case: "noise" in case.tensors),
    "fewer-visible-than-asked-for": ("hard_attention", lambda case: _fewest_visible(case) < case.options["top_k"]),
    "ties": ("hard_attention", lambda case: _is_whole(case.tensors["query"]) and _is_whole(case.tensors["key"])),
    "no-projections": ("additive_attention", lambda case: "parameters.query_weight" not in case.tensors),
    "sizes-that-differ": ("additive_attention", lambda case: _sizes(case)[0] != _sizes(case)[1]),
    "sinks": ("additive_attention", lambda case: case.options["sinks"]),
    "softcap": ("bilinear_attention", lambda case: case.options["softcap"] is not None),
    "oblong-weight": ("bilinear_attention", lambda case: len({*case.tensors["weight"].shape}) == 2),
    "zero-vector": ("cosine_attention", lambda case: _zero_rows(case.tensors["key"])),
    "zero-query": ("cosine_attention", lambda case: _zero_rows(case.tensors["query"])),
    "saturated": ("attention_gate", lambda case: _largest(case.tensors["inputs"]) > 300),
    "an-element-of-padding-alone": ("gated_attention_cell", _padding_alone),
    "dropout-of-positions": ("gated_attention_cell", lambda case: case.options["dropout"]),
    "epsilon": ("layer_norm", lambda case: "epsilon" in case.options),
    "mean-unlike-zero": ("layer_norm", lambda case: _largest(case.tensors["inputs"]) > 290),
    "norm-poison": ("layer_norm", lambda case: case.nonfinite),
    **{
        activation: ("feed_forward", lambda case, name=activation: case.options.get("activation") == name)
        for activation in ("relu", "gelu", "gelu_tanh", "silu", "tanh")
    },
    "dropout-of-hidden-units": ("feed_forward", lambda case: case.options["dropout"]),
    **{
        f"{operation}-{norm}": (operation, _has_norm(norm))
        for operation in ("encoder_layer", "encoder", "decoder_layer", "decoder", "text_encoder", "transformer")
        for norm in ("post", "pre")
    },
    "shared-heads": ("encoder_layer", lambda case: case.options.get("num_kv_heads") == 1),
    "rotary-in-a-layer": ("encoder_layer", lambda case: "rotary" in case.options),
    "bias-in-a-layer": ("encoder_layer", lambda case: case.options["bias"] is True),
    "four-dropouts": ("encoder_layer", lambda case: _kept(case) == 4),
    "six-dropouts": ("decoder_layer", lambda case: _kept(case) == 6),
    "padding-that-is-not-finite": ("encoder_layer", lambda case: case.nonfinite),
    "padded-memory": ("decoder_layer", lambda case: case.options.get("memory_mask") is not None),
    "last-normalisation": ("encoder", lambda case: "parameters.norm.weight" in case.tensors),
    "no-last-normalisation": ("decoder", lambda case: "parameters.norm.weight" not in case.tensors),
    "ids": ("embedding", lambda case: case.tensors["inputs"].dtype.kind == "i"),
    "an-id-twice": ("embedding", lambda case: case.tensors["inputs"].size > np.unique(case.tensors["inputs"]).size),
    "vectors": ("embedding", lambda case: case.tensors["inputs"].dtype.kind == "f"),
    "sinusoidal-offset": ("add_sinusoidal_positions", lambda case: case.options["offset"] > 0),
    "learned-offset": ("add_learned_positions", lambda case: case.options["offset"] > 0),
    "pooled-padding": ("mean_pooling", _padding_alone),
    "learned-positions": ("text_encoder", lambda case: case.options.get("positions") == "learned"),
    "normalised-embedding": ("text_encoder", lambda case: "parameters.embedding_norm.weight" in case.tensors),
    "dropped-embedding": ("text_encoder", lambda case: "keep.embedding" in case.tensors),
    "classes-of-padding-alone": ("sequence_classifier", _padding_alone),
    "padded-source": ("transformer", lambda case: "source_valid" in case.tensors),
    "no-head-and-no-positions": ("transformer", lambda case: case.options.get("positions") == "none"),
    "empty-cache": ("cached_multi_head_attention", lambda case: case.tensors["cache.length"] == 0),
    "filled-cache": ("cached_multi_head_attention", _is_full),
    "rotary-cache": ("cached_multi_head_attention", lambda case: "rotary" in case.options),
    "rotary-at-the-end": ("multi_head_attention", lambda case: case.options.get("rotary", {}).get("offset") == "end"),
    "rotary-in-part": ("multi_head_attention", lambda case: "rotary_dim" in case.options.get("rotary", {})),
    "rotary-base": ("multi_head_attention", lambda case: "base" in case.options.get("rotary", {})),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_of_composed_operations_is_there_at_float32(feature: str) -> None:
    operation, has = FEATURES[feature]
    forward = [case for case in CASES + ROTARY if (case.operation, case.direction) == (operation, "forward")]
    assert "float32" in {case.dtype for case in forward if has(case)}


IDS = {
    "embedding": {"inputs": "weight"},
    "text_encoder": {"inputs": "embedding.weight"},
    "sequence_classifier": {"inputs": "body.embedding.weight"},
    "transformer": {"source": "source_embedding.weight", "target": "target_embedding.weight"},
}
"""What may be ids, and the parameter whose rows they take."""


@pytest.mark.parametrize("case", [case for case in CASES if case.operation in IDS], ids=lambda case: case.id)
def test_ids_are_rows_of_their_table(case: Case) -> None:
    for name, table in IDS[case.operation].items():
        ids = case.tensors[name]
        if ids.dtype.kind == "i":
            assert ids.min() >= 0
            assert ids.max() < case.tensors[f"parameters.{table}"].shape[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_only_padding_is_not_finite_or_the_vector_says_so(case: Case) -> None:
    for name, tensor in case.tensors.items():
        numbers = tensor.astype(np.float64)
        if not np.isfinite(numbers).all():
            assert name == "inputs"
            assert case.nonfinite or not case.tensors["valid"][~np.isfinite(numbers).all(axis=-1)].any()

"""ONNX's operator RotaryEmbedding, said in attnspec's words: layout, a gather, and a call of `rotate_pairs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from .native_arrays import to_numpy
from .onnx_attention import merge_heads, split_heads

Array: TypeAlias = np.ndarray[Any, Any]

ROTARY_INPUTS = ("X", "cos_cache", "sin_cache", "position_ids")


def onnx_rotary_embedding(attn: Any, inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> Array:
    """Compute ONNX's RotaryEmbedding with one of the modules `attnspec.reference`, `.torch`, `.tensorflow`, `.jax`.

    Args:
        attn: the module.
        inputs: `X` (B, heads, T, D) or (B, T, heads · D), `cos_cache` and `sin_cache`, `position_ids` or not.
        attributes: `interleaved`, `num_heads`, `rotary_embedding_dim`, those that are there.

    Returns:
        Y, with the dtype and shape of X.

    Raises:
        ValueError, TypeError: what ONNX's text rules out, and what the module refuses.
    """
    rotated, cosines, sines, pairing = translate_rotary(inputs, attributes)
    output = to_numpy(attn.rotate_pairs(rotated, cosines, sines, pairing=pairing)).astype(inputs["X"].dtype)
    return merge_heads(output) if inputs["X"].ndim == 3 else output


def translate_rotary(inputs: Mapping[str, Array], attributes: Mapping[str, Any]) -> tuple[Array, Array, Array, str]:
    """Translate layout and options of ONNX's RotaryEmbedding into the arguments of `rotate_pairs`."""
    unknown = sorted(
        {*inputs} - {*ROTARY_INPUTS} | {*attributes} - {"interleaved", "num_heads", "rotary_embedding_dim"}
    )
    if unknown:
        raise ValueError(f"RotaryEmbedding has no `{unknown[0]}`")
    array = inputs["X"]
    if array.ndim == 3:
        if not attributes.get("num_heads"):
            raise ValueError("`num_heads` must be given where X has 3 axes")
        array = split_heads("X", array, attributes["num_heads"])
    cosines, sines = inputs["cos_cache"], inputs["sin_cache"]
    if "position_ids" in inputs:
        cosines, sines = cosines[inputs["position_ids"]], sines[inputs["position_ids"]]
    rotated_size = attributes.get("rotary_embedding_dim") or array.shape[-1]  # 0 is how ONNX says "all"
    if 2 * cosines.shape[-1] != rotated_size:
        # rotate_pairs reads the size off the tables: what contradicts them must not pass unseen.
        raise ValueError(f"the caches must have {rotated_size} / 2 columns; got {cosines.shape[-1]}")
    return array, cosines, sines, "interleaved" if attributes.get("interleaved") else "half_split"

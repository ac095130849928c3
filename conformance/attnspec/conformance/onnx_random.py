"""Random nodes of ONNX's operators: every option against every other, in the combinations that its own cases lack.

Unlike those, the tensors are normal numbers with logits several units apart, masks differ from head to head and from
batch element to batch element, and there may be as many heads as batch elements, so that one axis can pass for the
other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .onnx_operators import OnnxNode

Array: TypeAlias = np.ndarray[Any, Any]

_BATCH = 2
_SPREAD = 1.7


def random_rotary(seed: int) -> OnnxNode:
    """Make the RotaryEmbedding of a seed."""
    rng = np.random.default_rng(seed)
    heads, length, size, rows = _pick(rng, 1, 2, 3), _pick(rng, 1, 2, 5), _pick(rng, 4, 6), 7
    dtype = _pick(rng, np.float32, np.float16)
    attributes: dict[str, Any] = {"interleaved": _pick(rng, 0, 1), "rotary_embedding_dim": _pick(rng, 0, 2, 4)}
    shape: tuple[int, ...] = (_BATCH, heads, length, size)
    if _pick(rng, True, False):
        shape = (_BATCH, length, heads * size)
        attributes["num_heads"] = heads
    columns = (attributes["rotary_embedding_dim"] or size) // 2
    has_positions = _pick(rng, True, False)
    angles = rng.uniform(-np.pi, np.pi, (rows, columns) if has_positions else (_BATCH, length, columns))
    inputs = {
        "X": (_SPREAD * rng.standard_normal(shape)).astype(dtype),
        "cos_cache": np.cos(angles).astype(dtype),
        "sin_cache": np.sin(angles).astype(dtype),
    }
    positions = {"position_ids": rng.integers(0, rows, (_BATCH, length))} if has_positions else {}
    return OnnxNode("RotaryEmbedding", 23, attributes, inputs | positions)


def random_attention(seed: int) -> OnnxNode:
    """Make the Attention of a seed. Attributes are exact in float32, in which ONNX stores them."""
    rng = np.random.default_rng(seed)
    opset = _pick(rng, 23, 24, 25)
    query_heads, heads = _pick(rng, (2, 2), (6, 2), (3, 1))
    queries, keys = _pick(rng, (1, 3), (3, 5), (5, 5), (5, 3))
    key_size, value_size = _pick(rng, (8, 5), (3, 8))
    dtype = _pick(rng, np.float32, np.float32, np.float32, np.float16)

    def numbers(*shape: int) -> Array:
        return (_SPREAD * rng.standard_normal(shape)).astype(dtype)

    inputs = {
        "Q": numbers(_BATCH, query_heads, queries, key_size),
        "K": numbers(_BATCH, heads, keys, key_size),
        "V": numbers(_BATCH, heads, keys, value_size),
    }
    attributes: dict[str, Any] = {"qk_matmul_output_mode": _pick(rng, 0, 1, 2, 3)}
    if _pick(rng, True, False):
        inputs = {name: np.swapaxes(array, 1, 2).reshape(_BATCH, array.shape[2], -1) for name, array in inputs.items()}
        attributes |= {"q_num_heads": query_heads, "kv_num_heads": heads}
    cache = _pick(rng, "none", "past", "nonpad")
    if cache == "past":
        past = _pick(rng, 2, 7)
        inputs |= {
            "past_key": numbers(_BATCH, heads, past, key_size),
            "past_value": numbers(_BATCH, heads, past, value_size),
        }
        keys += past
    elif cache == "nonpad" and opset >= 24:
        inputs["nonpad_kv_seqlen"] = rng.integers(0, keys + 1, _BATCH)
    attn_mask = _attn_mask(rng, dtype, (_BATCH, query_heads, queries, keys), opset)
    return OnnxNode("Attention", opset, attributes | _options(rng, opset), inputs | attn_mask)


def _options(rng: np.random.Generator, opset: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if _pick(rng, True, False):
        options["is_causal"] = 1
    if opset >= 25 and _pick(rng, True, False):
        options |= {"left_window_size": _pick(rng, -1, 0, 2), "right_window_size": _pick(rng, -1, 0, 3)}
    if _pick(rng, True, False):
        options["softcap"] = _pick(rng, 0.5, 2.0)
    if _pick(rng, True, False):
        options["scale"] = 0.25
    if _pick(rng, True, False):
        options["softmax_precision"] = _pick(rng, 1, 10, 11, 16)
    return options


def _attn_mask(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], opset: int) -> dict[str, Array]:
    """Make a mask of any rank, whose axes are full or 1 and whose last may be too short from opset 24 on."""
    rank = _pick(rng, 0, 1, 2, 3, 4)
    if not rank:
        return {}
    *leading, keys = shape
    if opset >= 24 and _pick(rng, True, False):
        keys -= _pick(rng, 1, 2)
    shape = (*(_pick(rng, 1, size) for size in leading), keys)[-rank:]
    kind = _pick(rng, "boolean", "number", "number with −∞")
    if kind == "boolean":
        return {"attn_mask": rng.random(shape) < 0.7}
    numbers = rng.standard_normal(shape).astype(dtype)
    return {"attn_mask": np.where(rng.random(shape) < 0.3, -np.inf, numbers).astype(dtype) if "∞" in kind else numbers}


def _pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]

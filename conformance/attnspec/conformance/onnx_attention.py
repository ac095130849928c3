"""ONNX's operator Attention, said in attnspec's words.

Layout, concatenation and options are translated here; all arithmetic is that of the module which is called. So a result
of ONNX that comes out of this is a witness for the module, and one that does not is a difference of meaning:
docs/onnx.md lists both.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.operands import dtype_name

from .native_arrays import to_numpy

Array: TypeAlias = np.ndarray[Any, Any]
Inputs: TypeAlias = Mapping[str, Array]
Attributes: TypeAlias = Mapping[str, Any]

ATTENTION_INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")

_HEADS = ("q_num_heads", "kv_num_heads")
_WINDOW = ("left_window_size", "right_window_size")
_ATTRIBUTES = {*_HEADS, *_WINDOW, "is_causal", "qk_matmul_output_mode", "scale", "softcap", "softmax_precision"}
_SINCE = {"nonpad_kv_seqlen": 24} | dict.fromkeys(_WINDOW, 25)
_HALF = ("bfloat16", "float16")
_DOUBLE = 11
"""TensorProto.DOUBLE, in ONNX's enumeration of element types."""


class AttentionCall(NamedTuple):
    """One Attention of ONNX, as a call of `dot_product_attention`."""

    query: Array
    key: Array
    value: Array
    """(B, heads, length, size), all of one dtype."""
    options: dict[str, Any]
    """mask, bias, scale and softcap."""
    present_key: Array
    present_value: Array
    dtype: np.dtype[Any]
    """The dtype of Y and of qk_matmul_output: ONNX's T1."""
    is_packed: bool
    """Whether the heads stand side by side in the last axis of Q, and so of Y."""
    output_mode: int


def onnx_attention(attn: Any, inputs: Inputs, attributes: Attributes, opset: int) -> tuple[Array, Array, Array, Array]:
    """Compute ONNX's Attention with one of the modules `attnspec.reference`, `.torch`, `.tensorflow`, `.jax`.

    Args:
        attn: the module.
        inputs: the arrays that are there, by their names in the schema (`ATTENTION_INPUTS`).
        attributes: the attributes that are there, by their names in the schema.
        opset: 23, 24 or 25.

    Returns:
        Y, present_key, present_value, qk_matmul_output, with ONNX's dtypes and layouts. With inputs in float64
        everything is computed, and returned, in float64.

    Raises:
        ValueError, TypeError: what ONNX's text rules out, and what the module refuses.
    """
    call = translate_attention(attn, inputs, attributes, opset)
    return attention_output(attn, call), call.present_key, call.present_value, matmul_output(attn, call)


def attention_output(attn: Any, call: AttentionCall) -> Array:
    """Compute Y."""
    output = to_numpy(attn.dot_product_attention(call.query, call.key, call.value, **call.options)).astype(call.dtype)
    return merge_heads(output) if call.is_packed else output


def matmul_output(attn: Any, call: AttentionCall) -> Array:
    """Compute qk_matmul_output: what `qk_matmul_output_mode` asks for is one of the stages of the attention."""
    options = call.options
    if call.output_mode == 1:  # after the softcap, before mask and bias: the logits of a call without those
        options = options | {"mask": None, "bias": None}
    stages = attn.attention_stages(call.query, call.key, call.value, **options)
    stage = (stages.scores, stages.logits, stages.logits, stages.weights)[call.output_mode]
    return to_numpy(stage).astype(call.dtype)


def translate_attention(attn: Any, inputs: Inputs, attributes: Attributes, opset: int) -> AttentionCall:
    """Translate layout and options of ONNX's Attention into the arguments of `dot_product_attention`."""
    _check_names(inputs, attributes, opset)
    query, key, value = _heads_apart(inputs, attributes, opset)
    if "past_key" in inputs:
        key = np.concatenate((inputs["past_key"], key), axis=-2)
        value = np.concatenate((inputs["past_value"], value), axis=-2)
    attn_mask = _over_all_pairs(_without_integers(inputs.get("attn_mask"), query.dtype), key.shape[-2], opset)
    is_boolean = attn_mask is not None and attn_mask.dtype == np.bool_
    bias = None if is_boolean else attn_mask
    dtype = _common_dtype(query, key, value, bias, attributes.get("softmax_precision"))
    masks = _masks(attn, inputs, attributes, query.shape[-2])
    masks = [attn_mask, *masks] if is_boolean else masks
    options = {
        "mask": functools.reduce(operator.and_, masks) if masks else None,  # ONNX's constraints all hold together
        "bias": None if bias is None else _as_bias(bias, dtype),
        "scale": attributes.get("scale"),
        "softcap": attributes.get("softcap") or None,  # 0 is how ONNX says that there is none
    }
    return AttentionCall(
        query.astype(dtype),
        key.astype(dtype),
        value.astype(dtype),
        options,
        key,
        value,
        query.dtype,
        inputs["Q"].ndim == 3,
        attributes.get("qk_matmul_output_mode", 0),
    )


def split_heads(name: str, array: Array, num_heads: int) -> Array:
    """(B, T, heads · D) → (B, heads, T, D)."""
    *batch, length, columns = array.shape
    if num_heads < 1 or columns % num_heads:
        raise ValueError(f"the {columns} columns of {name} do not fall into {num_heads} heads")
    return np.swapaxes(array.reshape(*batch, length, num_heads, columns // num_heads), -3, -2)


def merge_heads(array: Array) -> Array:
    """(B, heads, T, D) → (B, T, heads · D)."""
    *batch, heads, length, size = array.shape
    return np.swapaxes(array, -3, -2).reshape(*batch, length, heads * size)


def _check_names(inputs: Inputs, attributes: Attributes, opset: int) -> None:
    if opset not in (23, 24, 25):
        raise ValueError(f"Attention is mapped for the opsets 23, 24 and 25; got {opset}")
    for name in (*inputs, *attributes):
        if name not in _ATTRIBUTES and name not in ATTENTION_INPUTS:
            raise ValueError(f"Attention has no `{name}`")
        if _SINCE.get(name, 0) > opset:
            raise ValueError(f"`{name}` came with opset {_SINCE[name]}; got opset {opset}")
    if ("past_key" in inputs) != ("past_value" in inputs):
        raise ValueError("`past_key` and `past_value` go together")
    if "past_key" in inputs and "nonpad_kv_seqlen" in inputs:
        raise ValueError("`nonpad_kv_seqlen` does not go together with `past_key` and `past_value`")
    if attributes.get("qk_matmul_output_mode", 0) not in range(4):
        raise ValueError(f"`qk_matmul_output_mode` must be 0, 1, 2 or 3; got {attributes['qk_matmul_output_mode']}")


def _heads_apart(inputs: Inputs, attributes: Attributes, opset: int) -> tuple[Array, Array, Array]:
    """Bring Q, K and V into the layout (B, heads, length, size)."""
    query, key, value = (inputs[name] for name in ("Q", "K", "V"))
    if query.ndim == 3:
        if not all(name in attributes for name in _HEADS):
            raise ValueError("`q_num_heads` and `kv_num_heads` must be given where Q, K and V have 3 axes")
        query_heads, heads = (attributes[name] for name in _HEADS)
        return split_heads("Q", query, query_heads), split_heads("K", key, heads), split_heads("V", value, heads)
    if opset >= 25 and any(name in attributes for name in _HEADS):
        # Before opset 25 they were allowed there, and superfluous: the shapes say how many heads there are.
        raise ValueError("`q_num_heads` and `kv_num_heads` must not be given where Q, K and V have 4 axes")
    return query, key, value


def _without_integers(attn_mask: Array | None, dtype: np.dtype[Any]) -> Array | None:
    """Turn an integer attn_mask into floating numbers to add.

    The operator's type constraints allow integers, and no sentence of its text says what they mean. ONNX's reference
    adds them to the scores, and so does this: a mask of 0 and 1 is then not a boolean mask.
    """
    if attn_mask is None or attn_mask.dtype.kind not in "iu":
        return attn_mask
    return attn_mask.astype(_bias_dtype(dtype))


def _over_all_pairs(attn_mask: Array | None, key_length: int, opset: int) -> Array | None:
    """Give attn_mask rank 2 or 4 and, from opset 24 on, all keys."""
    if attn_mask is None:
        return None
    missing = key_length - attn_mask.shape[-1]
    if opset >= 24 and missing > 0:
        # Opset 24 says that a last axis which is too short is filled up with −∞, so one of length 1 is not broadcast.
        fill = False if attn_mask.dtype == np.bool_ else -np.inf
        attn_mask = np.concatenate(
            (attn_mask, np.full((*attn_mask.shape[:-1], missing), fill, attn_mask.dtype)), axis=-1
        )
    # ONNX aligns shapes on the right: one axis is (key), three are (head, query, key). Here the ranks are 2 and 4.
    return attn_mask[None] if attn_mask.ndim in (1, 3) else attn_mask


def _masks(attn: Any, inputs: Inputs, attributes: Attributes, query_length: int) -> list[Any]:
    """Say is_causal, the windows and nonpad_kv_seqlen as mask objects."""
    offset = _offset(inputs, query_length)
    masks = []
    if attributes.get("is_causal", 0):
        masks.append(attn.causal(offset=offset))
    left, right = (attributes.get(name, -1) for name in _WINDOW)
    if left != -1 or right != -1:
        unbounded = {-1: None}  # other negative numbers are refused by sliding_window, as they are by ONNX
        left, right = (unbounded.get(side, side) for side in (left, right))
        masks.append(attn.sliding_window(left=left, right=right, offset=offset))
    if "nonpad_kv_seqlen" in inputs:
        masks.append(attn.key_lengths(inputs["nonpad_kv_seqlen"]))
    return masks


def _offset(inputs: Inputs, query_length: int) -> Any:
    """Say at which key position query 0 stands, which ONNX derives from the kind of cache."""
    if "past_key" in inputs:
        return inputs["past_key"].shape[-2]
    if "nonpad_kv_seqlen" in inputs:
        return inputs["nonpad_kv_seqlen"] - query_length
    return 0


def _common_dtype(query: Array, key: Array, value: Array, bias: Array | None, softmax_precision: int | None) -> Any:
    """Choose the one dtype of the call: ONNX allows Q and V, and attn_mask, to differ.

    softmax_precision asks for a precision inside. The softmax of half precisions runs in float32 anyway, and more than
    was asked for does no harm, so only DOUBLE changes anything: the whole call is then one in float64.
    """
    dtypes = [query.dtype, key.dtype, value.dtype]
    if softmax_precision == _DOUBLE or (bias is not None and bias.dtype == np.float64):
        dtypes.append(np.dtype(np.float64))
    return functools.reduce(np.promote_types, dtypes)


def _as_bias(attn_mask: Array, dtype: np.dtype[Any]) -> Array:
    """Give a bias a dtype that may stand beside the query's (S16); nothing is rounded by that."""
    return attn_mask if attn_mask.dtype == dtype else attn_mask.astype(_bias_dtype(dtype))


def _bias_dtype(dtype: np.dtype[Any]) -> Any:
    return np.dtype(np.float32) if dtype_name(dtype) in _HALF else dtype

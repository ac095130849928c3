"""PyTorch's own attentions as targets: SDPA by three ways, the layer's function, flex_attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from .native_layers import identity_weights, refuse_layer
from .native_target import NativeTarget, Question, Tensors, in_four_axes, with_heads
from .natives import NativeEntry
from .targets import UnsupportedCaseError


class SdpaTarget(NativeTarget):
    """`scaled_dot_product_attention`, by the kernel that PyTorch chooses or by one that is forced.

    No profile is declared: both kernels multiply half precisions into float32 and exponentiate there, the math kernel
    because it converts its inputs first (`allow_fp16_bf16_reduction_math_sdp` is off).
    """

    framework = "torch"
    options = frozenset({"bias", "scale"})
    keywords = ("causal_offset",)
    backend: ClassVar[SDPBackend | None] = None

    def ask(self, call: Any, keywords: Any = None) -> Question:
        """Keep the causal flag only where it can be used: at offset 0, without any other mask or bias."""
        question = super().ask(call, keywords)
        if question.keywords and (question.keywords["causal_offset"] or question.mask is not None or question.has_bias):
            return super().ask(call, ())
        return question

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it."""
        sizes = question.sizes
        query, key, value = (with_heads(tensors[name], sizes) for name in ("query", "key", "value"))
        mask = None if question.mask is None else torch.from_numpy(question.mask.copy())
        mask = added_mask(mask, tensors.get("bias"))
        if mask is not None and mask.ndim > 2:
            mask = with_heads(mask, sizes)
        chosen = contextlib.nullcontext() if self.backend is None else sdpa_kernel(self.backend)
        with chosen:
            try:
                output = functional.scaled_dot_product_attention(
                    query,
                    key,
                    value,
                    attn_mask=mask,
                    is_causal=bool(question.keywords),
                    scale=question.scale,
                    enable_gqa=sizes.num_heads != sizes.num_kv_heads,
                )
            except RuntimeError as error:
                if self.backend is not None and (
                    "No viable backend" in str(error) or "No available kernel" in str(error)
                ):
                    raise UnsupportedCaseError(f"PyTorch: {error}") from None
                raise
        return {"output": output if sizes.has_heads else output.squeeze(-3)}


class MathTarget(SdpaTarget):
    """`SDPBackend.MATH`."""

    backend = SDPBackend.MATH


class FlashTarget(SdpaTarget):
    """`SDPBackend.FLASH_ATTENTION`."""

    backend = SDPBackend.FLASH_ATTENTION


class LayerTarget(NativeTarget):
    """`multi_head_attention_forward`, which is what `nn.MultiheadAttention` calls."""

    framework = "torch"
    options = frozenset({"bias"})
    keywords = ("key_lengths",)

    def ask(self, call: Any, keywords: Any = None) -> Question:
        """Fold key lengths into the mask where there is a bias: it may not stand beside a boolean padding mask."""
        return super().ask(call, () if call.options.get("bias") else keywords)

    def refuse(self, question: Question) -> str | None:
        """Its heads all have the size E/heads, and so has its result."""
        reason = refuse_layer(question, self.entry.function)
        if reason is not None or question.call.operation == "dot_product_attention":
            return reason
        tensors = question.call.tensors
        model = tensors["query"].shape[-1]
        widths = {tensors[f"{part}_weight"].shape[-1] for part in ("query", "key", "value", "output")}
        if widths != {model}:
            return f"{self.entry.function} projects everything to the query's size, {model}; here are {sorted(widths)}"
        biases = [f"{part}_bias" in tensors for part in ("query", "key", "value")]
        if len(set(biases)) > 1:
            return f"{self.entry.function} has biases of query, key and value together or none"
        return None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it with weights (out, in), and the length before the batch."""
        sizes = question.sizes
        heads = int(sizes.num_heads)
        if question.call.operation == "dot_product_attention":
            inputs = [_heads_together(_four(tensors[name], sizes)) for name in ("query", "key", "value")]
            weights: Mapping[str, Any] = identity_weights(question.call, torch.eye, inputs[0].dtype)
        else:
            inputs = [tensors[name].reshape(-1, *tensors[name].shape[-2:]) for name in ("query", "key", "value")]
            weights = tensors
        query, key, value = (one.transpose(0, 1) for one in inputs)
        given = [weights.get(f"{part}_bias") for part in ("query", "key", "value")]
        mask = None if question.mask is None else torch.from_numpy(question.mask.copy())
        bias = tensors.get("bias")
        hidden = None if mask is None and bias is None else _per_head(_hiding(mask, bias), question)
        padded = question.keywords.get("key_lengths")
        output, _ = functional.multi_head_attention_forward(
            query,
            key,
            value,
            query.shape[-1],
            heads,
            in_proj_weight=None,
            in_proj_bias=None if given[0] is None else torch.cat([one for one in given if one is not None]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=weights["output_weight"].T,
            out_proj_bias=weights.get("output_bias"),
            training=False,
            key_padding_mask=None if padded is None else _padding(padded, question),
            need_weights=False,
            attn_mask=hidden,
            use_separate_proj_weight=True,
            q_proj_weight=weights["query_weight"].T,
            k_proj_weight=weights["key_weight"].T,
            v_proj_weight=weights["value_weight"].T,
        )
        output = output.transpose(0, 1)
        if question.call.operation == "dot_product_attention":
            output = output.reshape(*output.shape[:-1], heads, int(sizes.head_dim)).transpose(1, 2)
        return {"output": output.reshape(*question.call.tensors["query"].shape[:-1], output.shape[-1])}


class FlexTarget(NativeTarget):
    """`flex_attention` without compilation: scores, softmax and their modifications in at least float32."""

    framework = "torch"
    options = frozenset({"bias", "scale", "softcap"})

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it."""
        sizes = question.sizes
        query, key, value = (_four(tensors[name], sizes) for name in ("query", "key", "value"))
        shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        block_mask = None
        if question.mask is not None:
            visible = _four(torch.from_numpy(question.mask.copy()), sizes).expand(shape).contiguous()
            block_mask = create_block_mask(lambda b, h, q, k: visible[b, h, q, k], *shape, device="cpu")
        # Tensors, and contiguous ones: numbers and strides are compiled in, and every new one would compile anew.
        softcap, bias = question.call.options.get("softcap"), tensors.get("bias")
        bias = None if bias is None else _four(bias, sizes).expand(shape).contiguous()
        has_logsumexp = question.call.operation == "attention_with_logsumexp"
        returned = flex_attention(
            query,
            key,
            value,
            score_mod=_score_mod(None if softcap is None else torch.tensor(softcap, dtype=_working(query)), bias),
            block_mask=block_mask,
            scale=question.scale,
            enable_gqa=sizes.num_heads != sizes.num_kv_heads,
            return_aux=AuxRequest(lse=True) if has_logsumexp else None,
        )
        outer = question.output_shape
        if not isinstance(returned, tuple):
            return {"output": returned.reshape(outer)}
        output, more = returned
        logsumexp: Any = more.lse  # None only where it is not asked for
        return {"output": output.reshape(outer), "logsumexp": logsumexp.reshape(outer[:-1])}


def _score_mod(softcap: Tensor | None, bias: Tensor | None) -> Callable[..., Tensor] | None:
    """Say a softcap, then a bias, as one modification of a score."""
    if softcap is None and bias is None:
        return None

    def modify(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        return score if bias is None else score + bias[b, h, q, k]

    return modify


def _working(tensor: Tensor) -> torch.dtype:
    """Return the precision of scores."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def added_mask(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Return the one mask that SDPA takes: boolean, or floating to be added."""
    if mask is None or bias is None:
        return bias if mask is None else mask
    return torch.where(mask, bias, torch.tensor(-torch.inf, dtype=bias.dtype))


def _hiding(mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return the layer's mask: True hides, or floating to be added."""
    if bias is None and mask is not None:
        return ~mask
    together = added_mask(mask, bias)
    if together is None:
        raise ValueError("there is neither a mask nor a bias")
    return together


def _per_head(mask: Tensor, question: Question) -> Tensor:
    """Give a mask the axes (batch · heads, queries, keys), or (queries, keys) where it is one for all."""
    sizes = question.sizes
    pairs = int(sizes.query_length), int(sizes.key_length)
    four = _four(mask, sizes)
    if four.shape[0] == four.shape[1] == 1:
        return four.expand(1, 1, *pairs).reshape(pairs)
    return four.expand(question.batch, int(sizes.num_heads), *pairs).reshape(-1, *pairs)


def _padding(lengths: Any, question: Question) -> Tensor:
    """Return the layer's key_padding_mask: True from the length on."""
    places = np.arange(int(question.sizes.key_length))
    return torch.from_numpy(places >= np.broadcast_to(lengths, question.sizes.batch).reshape(-1, 1))


def _four(tensor: Tensor, sizes: Any) -> Tensor:
    return in_four_axes(tensor, sizes, torch.reshape, torch.broadcast_to)  # type: ignore[no-any-return]


def _heads_together(tensor: Tensor) -> Tensor:
    """(batch, heads, length, size) → (batch, length, heads · size)."""
    return tensor.transpose(1, 2).flatten(-2)


TARGETS: Mapping[str, Callable[[NativeEntry], NativeTarget]] = {
    "torch.sdpa": SdpaTarget,
    "torch.sdpa.math": MathTarget,
    "torch.sdpa.flash": FlashTarget,
    "torch.mha": LayerTarget,
    "torch.flex": FlexTarget,
}

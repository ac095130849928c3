"""Keras's own attentions as targets, on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .calls import Call
from .native_layers import identity_weights, refuse_layer
from .native_target import NativeTarget, Question, Tensors, in_four_axes
from .natives import NativeEntry
from .targets import TargetError


class KerasTarget(NativeTarget):
    """The base: Keras on TensorFlow.

    bfloat16 and float16 are declared eager: products are stored in the inputs' dtype before anything else is done with
    them, in the function (`tf.einsum`, and only then a cast to float32) and in the layers.
    """

    framework = "tensorflow"
    declared = {"bfloat16": "bf16_eager", "float16": "fp16_eager"}  # noqa: RUF012 - the base declares it a ClassVar

    def __init__(self, entry: NativeEntry) -> None:
        super().__init__(entry)
        if keras.backend.backend() != "tensorflow":
            raise TargetError(
                f"target {entry.name!r} runs Keras on TensorFlow, and Keras here runs on {keras.backend.backend()}; "
                f"set KERAS_BACKEND=tensorflow"
            )


class _SquareCausalTarget(KerasTarget):
    """The causal flag is used where it has one meaning, and alone."""

    keywords = ("causal_offset",)

    def ask(self, call: Call, keywords: Any = None) -> Question:
        """Fold the causal mask where there are not as many queries as keys."""
        question = super().ask(call, keywords)
        sizes = question.sizes
        if question.keywords.get("causal_offset") == 0 and sizes.query_length == sizes.key_length:
            return question
        return super().ask(call, ())


class OpsTarget(_SquareCausalTarget):
    """`keras.ops.dot_product_attention`."""

    options = frozenset({"bias", "scale", "softcap"})

    def refuse(self, question: Question) -> str | None:
        """Say where its softcap works."""
        if question.call.options.get("softcap") is not None:
            return f"{self.entry.function} has attn_logits_soft_cap for JAX on TPUs alone"
        return None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it with the lengths before the heads."""
        sizes = question.sizes
        query, key, value = (tf.experimental.numpy.swapaxes(_four(tensors[name], sizes), 1, 2) for name in _CORE)
        output = keras.ops.dot_product_attention(
            query,
            key,
            value,
            bias=None if tensors.get("bias") is None else _four(tensors["bias"], sizes),
            mask=None if question.mask is None else _four(tf.constant(question.mask), sizes),
            scale=question.scale,
            is_causal=bool(question.keywords),
        )
        output = tf.experimental.numpy.swapaxes(output, 1, 2)
        return {"output": tf.reshape(output, (*question.call.tensors["query"].shape[:-1], output.shape[-1]))}


class LayerTarget(_SquareCausalTarget):
    """`keras.layers.MultiHeadAttention`."""

    def ask(self, call: Call, keywords: Any = None) -> Question:
        """Fold a causal mask that is not alone: the layer's path for it is taken only then."""
        question = super().ask(call, keywords)
        return super().ask(call, ()) if question.keywords and question.mask is not None else question

    def refuse(self, question: Question) -> str | None:
        """Say what no layer has, and that it has all biases or none."""
        call = question.call
        reason = refuse_layer(question, self.entry.function)
        if reason is not None or call.operation == "dot_product_attention":
            return reason
        biases = {f"{part}_bias" in call.tensors for part in (*_CORE, "output")}
        return f"{self.entry.function} has all four biases or none" if len(biases) > 1 else None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it, with its weights as arguments, so that they have gradients."""
        call, sizes = question.call, question.sizes
        heads, head_dim, value_dim = int(sizes.num_heads), int(sizes.head_dim), int(sizes.value_dim)
        if call.operation == "dot_product_attention":
            inputs = [_heads_together(_four(tensors[name], sizes)) for name in _CORE]
            weights: Mapping[str, Any] = identity_weights(call, tf.eye, inputs[0].dtype)
        else:
            inputs = [tf.reshape(tensors[name], (question.batch, *tensors[name].shape[-2:])) for name in _CORE]
            weights = tensors
        query, key, value = inputs
        width = int(weights["output_weight"].shape[-1])
        has_bias = "query_bias" in weights
        layer = keras.layers.MultiHeadAttention(
            heads, head_dim, value_dim, use_bias=has_bias, output_shape=width, dtype=call.dtype
        )
        layer.build(query.shape, value.shape, key.shape)
        splits = {"query": (heads, head_dim), "key": (heads, head_dim), "value": (heads, value_dim)}
        given = []
        for part in (*_CORE, "output"):
            weight = weights[f"{part}_weight"]
            rows = int(weight.shape[0])
            given.append(tf.reshape(weight, (heads, value_dim, width) if part == "output" else (rows, *splits[part])))
            if has_bias:
                given.append(tf.reshape(weights[f"{part}_bias"], splits.get(part, (width,))))
        mask = None if question.mask is None else _pairs(tf.constant(question.mask), question)
        more = {"use_causal_mask": True} if question.keywords else {}
        output, _ = layer.stateless_call(
            given, [one.value for one in layer.non_trainable_variables], query, value, key, attention_mask=mask, **more
        )
        if call.operation == "dot_product_attention":
            output = tf.transpose(tf.reshape(output, (*output.shape[:-1], heads, -1)), (0, 2, 1, 3))
        return {"output": tf.reshape(output, (*call.tensors["query"].shape[:-1], output.shape[-1]))}


class AttentionTarget(KerasTarget):
    """`keras.layers.Attention`."""

    options = frozenset({"scale"})
    keywords = ("causal_offset", "key_lengths", "query_lengths")

    def refuse(self, question: Question) -> str | None:
        """Say which masks it has, and that it has no heads."""
        if question.sizes.num_heads != question.sizes.num_kv_heads:
            return f"{self.entry.function} has no heads, and so none that share keys"
        if question.mask is not None or question.keywords.get("causal_offset"):
            return f"{self.entry.function} masks queries, keys and what lies behind the diagonal, not single pairs"
        return None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it, with its scale as an argument."""
        query, key, value = (_without_heads(tensors[name], question.sizes) for name in _CORE)
        layer = self.layer(question.call)
        layer.build([query.shape, value.shape, key.shape])
        weights = [self.weight(question, tensors)] if layer.trainable_variables else []
        said = question.keywords
        masks = [
            _valid(said.get("query_lengths"), question, int(question.sizes.query_length)),
            _valid(said.get("key_lengths"), question, int(question.sizes.key_length)),
        ]
        output, _ = layer.stateless_call(
            weights,
            [one.value for one in layer.non_trainable_variables],
            [query, value, key],
            mask=masks if any(mask is not None for mask in masks) else None,
            use_causal_mask="causal_offset" in said,
        )
        return {"output": tf.reshape(output, (*question.call.tensors["query"].shape[:-1], output.shape[-1]))}

    def layer(self, call: Call) -> Any:
        """Make the layer."""
        return keras.layers.Attention(use_scale=True, dtype=call.dtype)

    def weight(self, question: Question, tensors: Tensors) -> Any:
        """Return what multiplies the scores."""
        return tf.constant(question.default_scale, tensors["query"].dtype)


class AdditiveTarget(AttentionTarget):
    """`keras.layers.AdditiveAttention`."""

    options = frozenset()

    def refuse(self, question: Question) -> str | None:
        """Say that it has no projections."""
        if "parameters.query_weight" in question.call.tensors:
            return f"{self.entry.function} has no projections of queries and keys"
        return super().refuse(question)

    def layer(self, call: Call) -> Any:
        """Make the layer."""
        return keras.layers.AdditiveAttention(use_scale=True, dtype=call.dtype)

    def weight(self, question: Question, tensors: Tensors) -> Any:
        """Return what multiplies the tanh."""
        del question
        return tensors["parameters.score_weight"]


_CORE = ("query", "key", "value")


def _four(tensor: Any, sizes: Any) -> Any:
    return in_four_axes(tensor, sizes, tf.reshape, tf.broadcast_to)


def _heads_together(tensor: Any) -> Any:
    """(batch, heads, length, size) → (batch, length, heads · size)."""
    batch, heads, length, size = tensor.shape
    return tf.reshape(tf.transpose(tensor, (0, 2, 1, 3)), (batch, length, heads * size))


def _pairs(mask: Any, question: Question) -> Any:
    """Give a mask the axes (batch, heads, queries, keys), without heads where it is one for all of them."""
    four = _four(mask, question.sizes)
    pairs = int(question.sizes.query_length), int(question.sizes.key_length)
    if four.shape[1] == 1:
        return tf.broadcast_to(four[:, 0], (question.batch, *pairs))
    return tf.broadcast_to(four, (question.batch, four.shape[1], *pairs))


def _without_heads(tensor: Any, sizes: Any) -> Any:
    """Make heads further batch elements."""
    four = _four(tensor, sizes)
    return tf.reshape(four, (four.shape[0] * four.shape[1], *four.shape[2:]))


def _valid(lengths: Any, question: Question, length: int) -> Any:
    """Return the layer's mask of queries or keys: True up to the length, for every head of a batch element."""
    if lengths is None:
        return None
    own = np.broadcast_to(lengths, question.sizes.batch).reshape(question.batch)
    return tf.constant(np.arange(length) < np.repeat(own, int(question.sizes.num_heads))[:, None])


TARGETS: Mapping[str, Callable[[NativeEntry], NativeTarget]] = {
    "keras.ops": OpsTarget,
    "keras.mha": LayerTarget,
    "keras.attention": AttentionTarget,
    "keras.additive": AdditiveTarget,
}

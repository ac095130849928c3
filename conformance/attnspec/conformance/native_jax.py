"""JAX's and Flax's own attentions as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .calls import Call
from .native_target import NativeTarget, Question, Tensors, in_four_axes, with_heads
from .natives import NativeEntry


class _JaxTarget(NativeTarget):
    """The base: JAX's tensors, and its float64."""

    framework = "jax"

    def unsupported(self, call: Call) -> str | None:
        """Say that JAX without 64-bit numbers has no float64, and what the function has no argument for."""
        if call.dtype == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            return "JAX runs without 64-bit numbers (jax_enable_x64)"
        return super().unsupported(call)


class JaxTarget(_JaxTarget):
    """`jax.nn.dot_product_attention`.

    No profile is declared: half precisions are multiplied into float32 (`preferred_element_type`) and exponentiated
    there, and the weights are rounded once.
    """

    options = frozenset({"bias", "scale"})
    keywords = ("causal_offset", "window", "key_lengths", "query_lengths")

    def ask(self, call: Call, keywords: Any = None) -> Question:
        """Keep the causal flag only where it has one meaning; the window is around the query's own number."""
        keywords = self.keywords if keywords is None else keywords
        question = super().ask(call, keywords)
        sizes = question.sizes
        if question.keywords.get("causal_offset") == 0 and sizes.query_length == sizes.key_length:
            return question
        # Without causal_offset a window is given as such only at offset 0.
        return super().ask(call, tuple(name for name in keywords if name != "causal_offset"))

    def refuse(self, question: Question) -> str | None:
        """Say that values must have the keys' size."""
        if question.sizes.head_dim != question.sizes.value_dim:
            return f"{self.entry.function} has values of the keys' size"
        return None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it with the lengths before the heads."""
        query, key, value = (_lengths_first(tensors[name], question) for name in ("query", "key", "value"))
        said = question.keywords
        left, right = said.get("window", (None, None))
        unbounded = max(int(question.sizes.query_length), int(question.sizes.key_length))
        window = tuple(unbounded if side is None else side for side in (left, right))
        attention: Any = jax.nn.dot_product_attention  # its overloads ask for a literal return_residual
        output = attention(
            query,
            key,
            value,
            bias=_four(tensors.get("bias"), question),
            mask=_four(question.mask, question),
            scale=question.scale,
            is_causal="causal_offset" in said,
            query_seq_lengths=_lengths(said.get("query_lengths"), question),
            key_value_seq_lengths=_lengths(said.get("key_lengths"), question),
            local_window_size=window if "window" in said else None,
            return_residual=question.call.operation == "attention_with_logsumexp",
        )
        shape = question.output_shape
        if not isinstance(output, tuple):
            return {"output": jnp.swapaxes(output, 1, 2).reshape(shape)}
        output, logsumexp = (jnp.swapaxes(one, 1, 2) for one in output)
        return {"output": output.reshape(shape), "logsumexp": logsumexp.reshape(shape[:-1])}


class FlaxTarget(_JaxTarget):
    """`flax.nnx.dot_product_attention`, which calls that of `jax.nn`: its arithmetic is the same."""

    options = frozenset({"bias"})
    keywords = ("causal_offset",)

    def ask(self, call: Call, keywords: Any = None) -> Question:
        """Keep the causal flag only where it has one meaning."""
        question = super().ask(call, keywords)
        sizes = question.sizes
        if question.keywords.get("causal_offset") == 0 and sizes.query_length == sizes.key_length:
            return question
        return super().ask(call, ())

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call it with the lengths before the heads, and the batch axes as they are."""
        sizes = question.sizes
        query, key, value = (
            jnp.swapaxes(with_heads(tensors[name], sizes), -3, -2) for name in ("query", "key", "value")
        )
        mask = None if question.mask is None else with_heads(jnp.asarray(question.mask), sizes)
        bias = tensors.get("bias")
        if bias is not None and bias.ndim > 2:
            bias = with_heads(bias, sizes)
        output = nnx.dot_product_attention(
            query, key, value, bias=bias, mask=mask, is_causal=bool(question.keywords), deterministic=True
        )
        output = jnp.swapaxes(output, -3, -2)
        return {"output": output if sizes.has_heads else output[..., 0, :, :]}


def _four(array: Any, question: Question) -> Any:
    return None if array is None else in_four_axes(jnp.asarray(array), question.sizes, jnp.reshape, jnp.broadcast_to)


def _lengths_first(tensor: Any, question: Question) -> Any:
    return jnp.swapaxes(_four(tensor, question), 1, 2)


def _lengths(lengths: Any, question: Question) -> Any:
    """Return lengths as it takes them: int32, one for each batch element."""
    if lengths is None:
        return None
    return jnp.asarray(np.broadcast_to(lengths, question.sizes.batch).reshape(question.batch), jnp.int32)


TARGETS: Mapping[str, Callable[[NativeEntry], NativeTarget]] = {"jax.nn": JaxTarget, "flax.nnx": FlaxTarget}

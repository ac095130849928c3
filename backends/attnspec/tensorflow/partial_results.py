"""Attention over slices of the keys in TensorFlow, and how the slices are put together."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from attnspec.contract.biases import check_option_dtype
from attnspec.contract.options import Given
from attnspec.contract.parameters import PartialAttention
from attnspec.contract.partial_results import check_slices, merge_sizes
from attnspec.contract.shapes import check_per_head

from .attention import compute_stages, finite, prepare, widen
from .tensors import as_option, as_tensors, assert_pending, describe, new_checks, shape_of, without_autograph


@without_autograph
def attention_with_logsumexp(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    dropout: Any = None,
) -> PartialAttention:
    """Compute attention over a slice of the keys, with ln Σ_j exp(logit_ij): all that a merge needs to know of it.

    Arguments, shapes and errors: `attnspec.reference.attention_with_logsumexp`.

    Differences: as for `dot_product_attention`; both results are at least float32.
    """
    attention, shape, _ = prepare(query, key, value, Given(mask, bias, scale, softcap, None, dropout))
    stages = compute_stages(attention)
    return PartialAttention(tf.reshape(stages.output, shape), tf.reshape(stages.logsumexp, shape[:-1]))


@without_autograph
def merge_attention(outputs: Any, logsumexps: Any, *, sinks: Any = None) -> PartialAttention:
    """Merge attentions over disjoint slices of the keys into the attention over all of them, exactly.

    Arguments, shapes and errors: `attnspec.reference.merge_attention`.

    Differences: takes TensorFlow tensors and variables; both results are at least float32.
    """
    count = check_slices(outputs, logsumexps)
    named = {f"outputs[{index}]": output for index, output in enumerate(outputs)}
    slices = as_tensors(**named, **{f"logsumexps[{index}]": lse for index, lse in enumerate(logsumexps)})
    outputs, logsumexps = slices[:count], slices[count:]
    sinks = as_option("sinks", sinks, outputs[0], "outputs[0]")
    checks = new_checks(outputs[0])
    sizes, dtype = merge_sizes(list(map(describe, outputs)), list(map(describe, logsumexps)), checks)
    if sinks is not None:
        check_option_dtype("sinks", sinks, dtype, "outputs")
        check_per_head("sinks", shape_of(sinks), sizes, checks)
    *gated, sinks = assert_pending(checks, *outputs, *logsumexps, sinks)
    outputs, logsumexps = tuple(gated[:count]), tuple(gated[count:])
    wide = tf.stack(list(map(widen, outputs)))
    sink = None if sinks is None else tf.cast(sinks, wide.dtype)[..., None]
    return merge(wide, tf.stack([tf.cast(lse, wide.dtype) for lse in logsumexps]), sink)


def merge(outputs: tf.Tensor, logsumexps: tf.Tensor, sink: tf.Tensor | None) -> PartialAttention:
    """Merge slices that are stacked before the batch: (S, *B, Hq, Tq, Dv) and (S, *B, Hq, Tq)."""
    peak = tf.reduce_max(tf.stop_gradient(logsumexps), axis=0)
    peak = peak if sink is None else tf.maximum(peak, tf.stop_gradient(sink))
    peak = tf.where(peak != -math.inf, peak, 0.0)
    exponentials = tf.exp(logsumexps - peak)
    total = tf.reduce_sum(exponentials, axis=0)
    total = total if sink is None else total + tf.exp(sink - peak)
    has_weight = total != 0.0
    total = tf.where(has_weight, total, 1.0)
    logsumexp = tf.where(has_weight, peak + tf.math.log(total), -math.inf)
    is_read = (logsumexps != -math.inf)[..., None]
    shares = (exponentials / total)[..., None]
    output = tf.reduce_sum(shares * tf.where(is_read, finite(outputs), 0.0), axis=0)
    poison = tf.reduce_sum(tf.where(is_read & ~tf.math.is_finite(outputs), tf.stop_gradient(outputs), 0.0), axis=0)
    output = tf.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0
    return PartialAttention(output, logsumexp)

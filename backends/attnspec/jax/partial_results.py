"""Attention over slices of the keys in JAX, and how the slices are put together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.biases import check_option_dtype
from attnspec.contract.options import Given
from attnspec.contract.parameters import PartialAttention
from attnspec.contract.partial_results import check_slices, merge_sizes
from attnspec.contract.shapes import check_per_head

from .attention import compute_stages, finite, prepare, widen
from .tensors import as_option, as_tensors, describe, new_checks


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
    return PartialAttention(stages.output.reshape(shape), stages.logsumexp.reshape(shape[:-1]))


def merge_attention(outputs: Any, logsumexps: Any, *, sinks: Any = None) -> PartialAttention:
    """Merge attentions over disjoint slices of the keys into the attention over all of them, exactly.

    Arguments, shapes and errors: `attnspec.reference.merge_attention`.

    Differences: takes JAX arrays; both results are at least float32.
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
        check_per_head("sinks", sinks.shape, sizes, checks)
    wide = jnp.stack(list(map(widen, outputs)))
    sink = None if sinks is None else sinks.astype(wide.dtype)[..., None]
    merged: PartialAttention = merge(wide, jnp.stack([lse.astype(wide.dtype) for lse in logsumexps]), sink)
    return merged


@jax.jit  # one compilation, as for `stages_of`
def merge(outputs: Array, logsumexps: Array, sink: Array | None) -> PartialAttention:
    """Merge slices that are stacked before the batch: (S, *B, Hq, Tq, Dv) and (S, *B, Hq, Tq)."""
    peak = lax.stop_gradient(logsumexps).max(axis=0)
    peak = peak if sink is None else jnp.maximum(peak, lax.stop_gradient(sink))
    peak = jnp.where(peak != -jnp.inf, peak, 0.0)
    exponentials = jnp.exp(logsumexps - peak)
    total = exponentials.sum(axis=0)
    total = total if sink is None else total + jnp.exp(sink - peak)
    has_weight = total != 0.0
    total = jnp.where(has_weight, total, 1.0)
    logsumexp = jnp.where(has_weight, peak + jnp.log(total), -jnp.inf)
    is_read = (logsumexps != -jnp.inf)[..., None]
    shares = (exponentials / total)[..., None]
    output = (shares * jnp.where(is_read, finite(outputs), 0.0)).sum(axis=0)
    poison = jnp.where(is_read & ~jnp.isfinite(outputs), lax.stop_gradient(outputs), 0.0).sum(axis=0)
    output = jnp.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0
    return PartialAttention(output, logsumexp)

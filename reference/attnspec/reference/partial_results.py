"""Attention over slices of the keys, and how the slices are put together."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnspec.contract.biases import check_option_dtype
from attnspec.contract.options import Given
from attnspec.contract.parameters import PartialAttention
from attnspec.contract.partial_results import check_slices, merge_sizes
from attnspec.contract.shapes import check_per_head

from .attention import attend_with_logsumexp, finite, prepare, widen
from .tensors import Array, as_option, as_tensors, describe, new_checks


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

    Args:
        query, key, value, mask, bias, scale, softcap, dropout: as for `dot_product_attention`. A slice that begins at
            key s has the positions of the whole attention with `offset=-s`. Sinks enter once, in `merge_attention`.

    Returns:
        `PartialAttention(output, logsumexp)`, (*B, Hq, Tq, Dv) and (*B, Hq, Tq), float64; an empty row is (0, −inf).

    Raises:
        ValueError, TypeError: as for `dot_product_attention`.

    Source: Dao et al. 2022, §3.1; Milakov & Gimelshein 2018.
    """
    attention, shape = prepare(query, key, value, Given(mask, bias, scale, softcap, None, dropout))
    output, logsumexp = attend_with_logsumexp(attention)
    return PartialAttention(output.reshape(shape), logsumexp.reshape(shape[:-1]))


def merge_attention(outputs: Any, logsumexps: Any, *, sinks: Any = None) -> PartialAttention:
    """Merge attentions over disjoint slices of the keys into the attention over all of them, exactly.

    With l_s the logsumexp of slice s, o_s its output and z the sink, if there is one:

        l = ln(Σ_s exp(l_s) + exp(z)),   o = Σ_s exp(l_s − l) o_s;   (0, −inf) where every slice is empty.

    Args:
        outputs: a list or tuple of arrays (*B, Hq, Tq, Dv), or (B, Tq, Dv), (Tq, Dv) without a head axis.
        logsumexps: as many arrays (*B, Hq, Tq).
        sinks: z, as for `dot_product_attention`.

    Returns:
        `PartialAttention(output, logsumexp)`, float64: it can be merged again, as long as no sink has entered.

    Raises:
        ValueError: no slice, different numbers of them, shapes that differ.
        TypeError: not a list or tuple, dtypes that differ.

    A slice without weight (logsumexp −inf) is not read, not even as NaN. A NaN or Inf in the output of any other slice
    reaches its own component, however small the slice's weight.

    Source: Dao et al. 2022, §3.1.
    """
    count = check_slices(outputs, logsumexps)
    named = {f"outputs[{index}]": output for index, output in enumerate(outputs)}
    slices = as_tensors(**named, **{f"logsumexps[{index}]": lse for index, lse in enumerate(logsumexps)})
    outputs, logsumexps = slices[:count], slices[count:]
    sinks = as_option("sinks", sinks, outputs[0])
    checks = new_checks()
    sizes, dtype = merge_sizes(list(map(describe, outputs)), list(map(describe, logsumexps)), checks)
    if sinks is not None:
        check_option_dtype("sinks", sinks, dtype, "outputs")
        check_per_head("sinks", sinks.shape, sizes, checks)
    sink = None if sinks is None else sinks.astype(np.float64)[..., None]
    return merge(np.stack(list(map(widen, outputs))), np.stack(list(map(widen, logsumexps))), sink)


def merge(outputs: Array, logsumexps: Array, sink: Array | None) -> PartialAttention:
    """Merge slices that are stacked before the batch: (S, *B, Hq, Tq, Dv) and (S, *B, Hq, Tq)."""
    peak = logsumexps.max(axis=0)
    peak = peak if sink is None else np.maximum(peak, sink)
    peak = np.where(peak != -np.inf, peak, 0.0)
    with np.errstate(invalid="ignore"):  # a logsumexp of +∞ makes its row NaN: ∞ − ∞, and meant
        exponentials = np.exp(logsumexps - peak)
        total = exponentials.sum(axis=0)
        total = total if sink is None else total + np.exp(sink - peak)
    has_weight = total != 0.0
    total = np.where(has_weight, total, 1.0)
    logsumexp = np.where(has_weight, peak + np.log(total), -np.inf)
    is_read = (logsumexps != -np.inf)[..., None]
    shares = (exponentials / total)[..., None]
    output = (shares * np.where(is_read, finite(outputs), 0.0)).sum(axis=0)
    poison = np.where(is_read & ~np.isfinite(outputs), outputs, 0.0)
    with np.errstate(invalid="ignore"):  # Inf − Inf is NaN, and meant
        poison = poison.sum(axis=0)
    output = np.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0
    return PartialAttention(output, logsumexp)

"""Attention over slices of the keys in PyTorch, and how the slices are put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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

    Differences: takes torch tensors on one device; both results are at least float32.
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
        check_per_head("sinks", tuple(sinks.shape), sizes, checks)
    wide = torch.stack(list(map(widen, outputs)))
    sink = None if sinks is None else sinks.to(wide.dtype)[..., None]
    return merge(wide, torch.stack([lse.to(wide.dtype) for lse in logsumexps]), sink)


def merge(outputs: Tensor, logsumexps: Tensor, sink: Tensor | None) -> PartialAttention:
    """Merge slices that are stacked before the batch: (S, *B, Hq, Tq, Dv) and (S, *B, Hq, Tq)."""
    peak = logsumexps.detach().amax(dim=0)
    peak = peak if sink is None else torch.maximum(peak, sink.detach())
    peak = torch.where(peak != -torch.inf, peak, 0.0)
    exponentials = torch.exp(logsumexps - peak)
    total = exponentials.sum(dim=0)
    total = total if sink is None else total + torch.exp(sink - peak)
    has_weight = total != 0.0
    total = torch.where(has_weight, total, 1.0)
    logsumexp = torch.where(has_weight, peak + torch.log(total), -torch.inf)
    is_read = (logsumexps != -torch.inf)[..., None]
    shares = (exponentials / total)[..., None]
    output = (shares * torch.where(is_read, finite(outputs), 0.0)).sum(dim=0)
    poison = torch.where(is_read & ~torch.isfinite(outputs), outputs.detach(), 0.0).sum(dim=0)
    output = torch.where(poison == 0.0, output, output + poison)  # + 0.0 would change the sign of -0.0
    return PartialAttention(output, logsumexp)

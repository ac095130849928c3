"""Faulty attentions: each a small deviation from a correct one, as in real code. The suite must catch them all.

Every fault is a plain callable. It names the clause that it breaks and the condition that makes it visible: a suite
without such a case cannot catch it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import faulty_steps
from .implementations import Steps, build, isolated

Array: TypeAlias = np.ndarray[Any, Any]


class Fault(NamedTuple):
    """A planted fault."""

    name: str
    attention: Callable[..., tuple[Array, Array]]
    clause: str
    visible_when: str
    seen_in: str
    """A link to where it really happened, or a word on how it arises."""
    steps: Steps
    """What it is built of: every step but one is the right one."""


_CAUSAL = "a causal mask"
_ISSUES = "https://github.com/"

FAULTS: tuple[Fault, ...] = tuple(
    Fault(name, build(steps), clause, when, seen, steps)
    for name, steps, clause, when, seen in (
        (
            "scale-missing",
            Steps(scaled_scores=faulty_steps.scale_missing),
            "S2",
            "Dk > 1",
            _ISSUES + "mlc-ai/mlc-llm/issues/3426",
        ),
        (
            "scale-of-model-size",
            Steps(scaled_scores=faulty_steps.scale_of_model_size),
            "S2",
            "Hq > 1",
            _ISSUES + "lucidrains/vit-pytorch/issues/65",
        ),
        (
            "scale-of-padded-size",
            Steps(scaled_scores=faulty_steps.scale_of_padded_size),
            "S2",
            "Dk not a multiple of 8",
            "a kernel that pads the head dimension",
        ),
        (
            "scale-without-sign",
            Steps(scaled_scores=faulty_steps.scale_without_sign),
            "S2",
            "scale < 0",
            "√scale on both factors",
        ),
        (
            "mask-inverted",
            Steps(visible_pairs=faulty_steps.mask_inverted),
            "S4",
            "a mask array",
            _ISSUES + "NVIDIA/TransformerEngine/issues/614",
        ),
        (
            "causal-strict",
            Steps(visible_pairs=faulty_steps.shifted_causal(-1)),
            "S7",
            _CAUSAL,
            "j < i instead of j ≤ i",
        ),
        (
            "causal-peek",
            Steps(visible_pairs=faulty_steps.shifted_causal(1)),
            "S7",
            _CAUSAL,
            "j ≤ i + 1 instead of j ≤ i",
        ),
        (
            "causal-top-left",
            Steps(visible_pairs=faulty_steps.causal_top_left),
            "S7",
            "Tq ≠ Tk",
            _ISSUES + "Dao-AILab/flash-attention/issues/436",
        ),
        (
            "causal-bottom-right",
            Steps(visible_pairs=faulty_steps.causal_bottom_right),
            "S7",
            "Tq ≠ Tk, offset 0",
            _ISSUES + "NVIDIA/cutlass/issues/2336",
        ),
        (
            "causal-lost-beside-mask",
            Steps(visible_pairs=faulty_steps.causal_lost_beside_mask),
            "S6",
            "causal and another mask",
            _ISSUES + "keras-team/keras/issues/23038",
        ),
        (
            "window-one-wider",
            Steps(visible_pairs=faulty_steps.window_one_wider),
            "S7",
            "a window",
            _ISSUES + "huggingface/transformers/issues/39408",
        ),
        (
            "window-right-ignored",
            Steps(visible_pairs=faulty_steps.window_right_ignored),
            "S7",
            "a window bounded on its right",
            "an option that is read by halves",
        ),
        (
            "lengths-off-by-one",
            Steps(visible_pairs=faulty_steps.lengths_off_by_one),
            "S8",
            "key lengths",
            "j ≤ n instead of j < n",
        ),
        (
            "lengths-of-first-element",
            Steps(visible_pairs=faulty_steps.lengths_of_first_element),
            "S8",
            "key lengths that differ",
            "a mask of batch element 0 for all",
        ),
        (
            "query-lengths-ignored",
            Steps(visible_pairs=faulty_steps.query_lengths_ignored),
            "S8",
            "query lengths",
            "padding of queries is left to the caller",
        ),
        (
            "query-lengths-on-keys",
            Steps(visible_pairs=faulty_steps.query_lengths_on_keys),
            "S8",
            "query lengths, Tq ≠ Tk",
            "one padding mask for both sides",
        ),
        (
            "last-key-dropped",
            Steps(visible_pairs=faulty_steps.last_key_dropped),
            "S1",
            "one key beyond a tile",
            _ISSUES + "pytorch/pytorch/issues/191937",
        ),
        (
            "heads-tiled",
            Steps(repeat_heads=faulty_steps.heads_tiled),
            "S12",
            "Hq > Hkv > 1",
            _ISSUES + "onnx/onnx/pull/7274",
        ),
        (
            "softcap-after-mask",
            Steps(masked_logits=faulty_steps.softcap_after_mask),
            "S3",
            "softcap and a mask",
            _ISSUES + "onnx/onnx/issues/7865",
        ),
        (
            "bias-before-softcap",
            Steps(masked_logits=faulty_steps.bias_before_softcap),
            "S3",
            "softcap and a bias",
            _ISSUES + "microsoft/onnxruntime/pull/28370",
        ),
        (
            "softcap-ignored",
            Steps(masked_logits=faulty_steps.softcap_ignored),
            "S3",
            "a softcap",
            "an option that is accepted and not read",
        ),
        (
            "bias-ignored",
            Steps(masked_logits=faulty_steps.bias_ignored),
            "S5",
            "a bias",
            "an option that is accepted and not read",
        ),
        (
            "weak-mask",
            Steps(masked_logits=faulty_steps.weak_mask),
            "S4",
            "a mask",
            "a finite mask value that is too small",
        ),
        (
            "sentinel-mask",
            Steps(masked_logits=faulty_steps.sentinel_mask),
            "S10",
            "an empty row",
            _ISSUES + "pytorch/pytorch/issues/110213",
        ),
        (
            "nan-on-empty-rows",
            Steps(softmax=faulty_steps.softmax_nan_on_empty),
            "S10",
            "an empty row",
            _ISSUES + "pytorch/pytorch/issues/103963",
        ),
        ("softmax-over-queries", Steps(softmax=faulty_steps.softmax_over_queries), "S3", "Tq > 1", "the wrong axis"),
        (
            "softmax-without-maximum",
            Steps(softmax=faulty_steps.softmax_without_maximum),
            "S16",
            "logits beyond the exponential's range",
            "an unshifted exponential",
        ),
        (
            "softmax-maximum-from-zero",
            Steps(softmax=faulty_steps.softmax_maximum_from_zero),
            "S16",
            "a row of very negative logits",
            "a maximum that starts at 0",
        ),
        (
            "softmax-without-rescaling",
            Steps(softmax=faulty_steps.softmax_without_rescaling),
            "S16",
            "a larger maximum in a later block",
            "an online softmax without its correction",
        ),
        (
            "segments-ignored",
            Steps(visible_pairs=faulty_steps.segments_ignored),
            "S9",
            "packed sequences",
            "documents that see each other after packing",
        ),
        (
            "segments-of-first-element",
            Steps(visible_pairs=faulty_steps.segments_of_first_element),
            "S9",
            "segments that differ within the batch",
            "a mask of batch element 0 for all",
        ),
        (
            "sink-ignored",
            Steps(softmax=faulty_steps.sink_ignored),
            "S13",
            "a sink",
            _ISSUES + "TransformerLensOrg/TransformerLens/issues/1621",
        ),
        (
            "sink-of-first-head",
            Steps(softmax=faulty_steps.sink_of_first_head),
            "S13",
            "sinks that differ",
            "a broadcast along the wrong axis",
        ),
        (
            "sink-beside-the-shift",
            Steps(softmax=faulty_steps.sink_beside_the_shift),
            "S13",
            "a sink, and logits far from 0",
            "a sink that is added after the maximum was subtracted",
        ),
        (
            "sink-as-zero-key",
            Steps(softmax=faulty_steps.sink_as_zero_key),
            "S13",
            "a sink that is not 0",
            "the softmax plus one, in the place of a learned sink",
        ),
        (
            "dropout-unscaled",
            Steps(drop=faulty_steps.dropout_unscaled),
            "S14",
            "dropout",
            "the rescaling is left to evaluation, as in 2012",
        ),
        (
            "dropout-inverted",
            Steps(drop=faulty_steps.dropout_inverted),
            "S14",
            "dropout",
            "a drop mask in the place of a keep mask",
        ),
        (
            "dropout-renormalised",
            Steps(drop=faulty_steps.dropout_renormalised),
            "S14",
            "dropout",
            "dropout before the softmax, as a mask",
        ),
        (
            "logsumexp-base-two",
            Steps(logsumexp=faulty_steps.logsumexp_base_two),
            "S15",
            "a logsumexp",
            _ISSUES + "flashinfer-ai/flashinfer/issues/4485",
        ),
        (
            "logsumexp-without-maximum",
            Steps(logsumexp=faulty_steps.logsumexp_without_maximum),
            "S15",
            "a logsumexp",
            "the running sum is returned without its maximum",
        ),
        (
            "logsumexp-zero-on-empty",
            Steps(logsumexp=faulty_steps.logsumexp_zero_on_empty),
            "S15",
            "a logsumexp of an empty row",
            "an old flex attention, whose merge then gave empty slices weight",
        ),
        (
            "unread-values-leak",
            Steps(weighted_values=faulty_steps.values_leak),
            "S11",
            "NaN in an unread value",
            _ISSUES + "pytorch/pytorch/issues/101967",
        ),
        (
            "values-shifted",
            Steps(weighted_values=isolated(faulty_steps.values_shifted)),
            "S1",
            "Tk > 1",
            "an index that starts at 1",
        ),
        (
            "half-precision-sums",
            Steps(weighted_values=isolated(faulty_steps.half_precision_sums)),
            "S16",
            "several keys",
            "sums in the storage dtype",
        ),
    )
)

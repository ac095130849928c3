"""Conventions: other meanings that a call may be given, each a call that is answered in the place of the one asked.

"Causal from the top left" answers the same tensors under another mask; "keys for values" the same mask over other
tensors. Since a convention is a call, the definition itself says what a target that follows it must give, and how far
it may be off: of every operation, forward and backward. What no call can say is a step or a change of the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from attnspec.contract.masks import BooleanArray, Both, Either, Full, Not
from attnspec.contract.positional_masks import Causal, KeyLengths, QueryLengths, Segments, SlidingWindow
from attnspec.contract.positions import Positions, shift

from .calls import Array, Call
from .changes import (
    Change,
    Results,
    causal_aligned,
    default_scale,
    first_kv_head,
    ignored,
    key_lengths_by,
    layout_back,
    mask_added,
    model_scale,
    of_arrays,
    of_first_element,
    of_masks,
    other_layout,
    swapped,
    turned_positions,
    window_wider,
    with_causal,
    with_mapped,
    with_option,
    with_rotary,
    with_scale,
    with_tensors,
    with_window,
    without,
)
from .implementations import Steps, masked_logits


class Convention(NamedTuple):
    """One convention: how its answer differs from the definition's."""

    name: str
    says: str
    clause: str
    change: Change | None = None
    alter: Callable[[Call, Results], Results] | None = None
    """What is done to the results at last."""
    steps: Steps | None = None
    """Of attention itself, where neither says it."""


def _added_mask(value: float) -> Steps:
    """Mask by adding a finite number."""

    def logits(scores: Array, visible: Array, bias: Array | None, softcap: float | None) -> Array:
        everywhere = np.ones_like(visible)
        bias = None if bias is None else np.where(np.isneginf(bias), value, bias)
        seen = masked_logits(scores, everywhere, bias, softcap)
        return np.asarray(seen + np.where(visible, 0, value).astype(seen.dtype))

    return Steps(masked_logits=logits)


def _unnormalised(logits: Array, sink: Array | None = None) -> Array:
    del sink
    peak = logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return np.asarray(np.exp(logits - np.where(np.isneginf(peak), 0, peak)))


def _empty_to(value: float) -> Callable[[Call, Results], Results]:
    def alter(call: Call, results: Results) -> Results:
        del call
        if "logsumexp" not in results:
            return results
        level = results["logsumexp"]
        return {**results, "logsumexp": np.where(np.isneginf(level), level.dtype.type(value), level)}

    return alter


def _norm_order(call: Call) -> str:
    return "post" if call.options["norm"] == "pre" else "pre"


def _other_gelu(call: Call) -> str:
    name = str(call.options["activation"])
    return {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}.get(name, name)


def _end(at: Positions) -> int:
    return int(at.sizes.key_length - at.sizes.query_length)


CONVENTIONS: tuple[Convention, ...] = (
    Convention("causal-top-left", "causal masks are aligned top-left", "S7", causal_aligned(lambda _: 0)),
    Convention("causal-bottom-right", "causal masks are aligned bottom-right", "S7", causal_aligned(_end)),
    Convention(
        "causal-strict",
        "a query does not see its own key",
        "S7",
        with_causal(lambda m, at: at.key < at.query + shift(m.offset, at)),
    ),
    Convention(
        "causal-peek",
        "a query sees the next key",
        "S7",
        with_causal(lambda m, at: at.key <= at.query + shift(m.offset, at, 1)),
    ),
    Convention("causal-ignored", "causal masks are ignored", "S7", ignored(Causal)),
    Convention(
        "causal-reversed",
        "a query sees itself and what follows",
        "S7",
        with_causal(lambda m, at: at.key >= at.query + shift(m.offset, at)),
    ),
    Convention("window-one-wider", "a window has one key more on its left", "S7", window_wider(1)),
    Convention("window-one-narrower", "a window has one key less on its left", "S7", window_wider(-1)),
    Convention(
        "window-right-ignored", "a window's right edge is ignored", "S7", with_window(lambda left, _: (left, None))
    ),
    Convention(
        "window-right-zero", "a window ends at the query's own key", "S7", with_window(lambda left, _: (left, 0))
    ),
    Convention(
        "window-mirrored",
        "a window is as wide to its right as to its left",
        "S7",
        with_window(lambda left, _: (left, left)),
    ),
    Convention(
        "window-halved",
        "a window's width is that of both sides",
        "S7",
        with_window(lambda left, right: (None if left is None else left // 2, right)),
    ),
    Convention("window-ignored", "windows are ignored", "S7", ignored(SlidingWindow)),
    Convention("lengths-off-by-one", "key lengths are inclusive", "S8", key_lengths_by(1)),
    Convention("lengths-one-less", "the last valid key is hidden", "S8", key_lengths_by(-1)),
    Convention("key-lengths-ignored", "key lengths are ignored", "S8", ignored(KeyLengths)),
    Convention("query-lengths-ignored", "query lengths are ignored", "S8", ignored(QueryLengths)),
    Convention("segments-ignored", "segments are ignored", "S9", ignored(Segments)),
    Convention("mask-inverted", "True means ignore", "S4", of_arrays(lambda array: ~array)),
    Convention("whole-mask-inverted", "what is visible is hidden, and the reverse", "S6", of_masks(Not)),
    Convention("mask-array-ignored", "mask arrays are ignored", "S4", ignored(BooleanArray)),
    Convention(
        "mask-of-first-element",
        "the mask array of the first element serves the batch",
        "S4",
        of_arrays(of_first_element),
    ),
    Convention(
        "mask-ignored",
        "masks of all kinds are ignored",
        "S6",
        of_masks(lambda mask: mask if isinstance(mask, Full) else Full()),
    ),
    Convention("mask-as-numbers", "a boolean mask is added to the logits as 0 and 1", "S4", mask_added),
    Convention(
        "either-read-as-both",
        "masks that were joined by `or` are joined by `and`",
        "S6",
        of_masks(lambda mask: Both(mask.left, mask.right) if isinstance(mask, Either) else mask),
    ),
    Convention(
        "both-read-as-either",
        "masks that were joined by `and` are joined by `or`",
        "S6",
        of_masks(lambda mask: Either(mask.left, mask.right) if isinstance(mask, Both) else mask),
    ),
    Convention("scale-missing", "the scale is missing", "S2", with_scale(lambda *_: 1.0)),
    Convention("scale-ignored", "a given scale is ignored", "S2", with_scale(default_scale)),
    Convention("scale-without-sign", "the scale's sign is lost", "S2", with_scale(lambda _, own: abs(own))),
    Convention("scale-twice", "the scale is applied twice", "S2", with_scale(lambda _, own: own * own)),
    Convention(
        "scale-inverted",
        "the scores are divided by the scale",
        "S2",
        with_scale(lambda _, own: 1 / own if own else None),
    ),
    Convention("scale-of-model-size", "the scale is that of all heads together", "S2", with_scale(model_scale)),
    Convention("softcap-ignored", "the softcap is ignored", "S3", without("softcap")),
    Convention("bias-ignored", "the bias is ignored", "S5", without("bias")),
    Convention("bias-negated", "the bias is subtracted", "S5", with_mapped("bias", np.negative)),
    Convention("sink-ignored", "sinks are ignored", "S13", without("sinks")),
    Convention("sink-as-zero-key", "sinks are 0", "S13", with_mapped("sinks", np.zeros_like)),
    Convention("sink-negated", "sinks have the other sign", "S13", with_mapped("sinks", np.negative)),
    Convention("dropout-ignored", "dropout is ignored", "S14", without("dropout")),
    Convention("query-key-swapped", "queries and keys are swapped", "S1", swapped("query", "key")),
    Convention("key-value-swapped", "keys and values are swapped", "S1", swapped("key", "value")),
    Convention("kv-head-of-first", "all query heads use the first key/value head", "S12", with_tensors(first_kv_head)),
    Convention("layout-swapped", "two axes of the layout are read in the other order", "S1", other_layout, layout_back),
    Convention(
        "rotary-other-pairing", "rotary positions pair the components the other way", "S21", with_rotary(pairing=None)
    ),
    Convention("rotary-offset-ignored", "the offset of rotary positions is ignored", "S37", with_rotary(offset=0)),
    Convention("rotary-base-ignored", "the base of rotary positions is ignored", "S21", with_rotary(base=10000.0)),
    Convention("rotary-ignored", "rotary positions are ignored", "S37", without("rotary")),
    Convention("positions-from-one", "positions start at 1", "S21", turned_positions(lambda positions: positions + 1)),
    Convention("positions-negated", "rotary positions turn the other way", "S21", turned_positions(np.negative)),
    Convention(
        "norm-order-swapped", "normalisation before and after are swapped", "S31", with_option("norm", _norm_order)
    ),
    Convention(
        "gelu-swapped", "GELU by erf and GELU by tanh are swapped", "S30", with_option("activation", _other_gelu)
    ),
    Convention(
        "mask-added", "masks are added as −∞, and NaN in a hidden key stays NaN", "S11", steps=_added_mask(-np.inf)
    ),
    Convention("mask-of-minus-10000", "masks are added as −10⁴", "S10", steps=_added_mask(-1e4)),
    Convention("mask-of-minus-1e9", "masks are added as −10⁹", "S10", steps=_added_mask(-1e9)),
    Convention(
        "weights-not-normalised", "weights are not divided by their sum", "S3", steps=Steps(softmax=_unnormalised)
    ),
    Convention("logsumexp-infinite-on-empty", "the logsumexp of an empty row is +∞", "S15", alter=_empty_to(np.inf)),
    Convention("logsumexp-nan-on-empty", "the logsumexp of an empty row is NaN", "S15", alter=_empty_to(np.nan)),
)
"""Every convention that is known."""

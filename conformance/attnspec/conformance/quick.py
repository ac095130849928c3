"""The first look: at float32, the vectors that say the most for the fewest compilations.

Every clause and every operation is there. Nearly all attentions have one shape, and layers share theirs with the models
that hold them: a new shape costs JAX up to half a second, and a layer that it has compiled costs nearly nothing.
"""

from __future__ import annotations

from .cases import Case

DTYPE = "float32"

DESIGNS = frozenset(
    {
        "grouped",
        "no-keys",
        "causal-end",
        "causal-top-left",
        "causal-offset-batch",
        "window",
        "window-end",
        "key-lengths",
        "query-lengths",
        "mask-heads",
        "mask-and-causal",
        "bias-heads",
        "bias-minus-infinity",
        "scale-negative",
        "softcap-bias",
        "range-negative",
        "exact-mean",
        "empty-lengths",
        "poison-nan-lengths",
        "visible-values",
        "self-attention",
        "key-value",
        "multi-head-masked",
        "segments",
        "segments-cross",
        "prefix-end",
        "chunked-end",
        "alibi",
        "relative-position",
        "sinks",
        "dropout",
        "logsumexp",
        "logsumexp-empty",
        "logsumexp-slice",
        "merge",
        "rotary-half-split",
        "sinusoidal",
        "gradient-grouped",
        "gradient-sinks",
        "hard-top-three",
        "additive",
        "bilinear",
        "cosine-masked",
        "attention-gate",
        "gated-input",
        "gated-attention",
        "cell-padded",
        "layer-norm",
        "feed-forward-gelu",
        "encoder-layer-post",
        "encoder-pre",
        "decoder-layer-post",
        "decoder-pre",
        "embedding-ids",
        "sinusoidal-added-3",
        "learned-added-3",
        "pooling",
        "text-encoder-learned",
        "classifier-vectors",
        "transformer-vectors",
        "cached-rotary",
    }
)


def is_quick(case: Case) -> bool:
    """Say whether a case belongs to the first look."""
    return case.dtype == DTYPE and case.id.removesuffix(f"-{DTYPE}") in DESIGNS

"""The stages of the attention inside an operation with projections, as a backend computes them.

Only `dot_product_attention` has its stages in the public API. The other operations call `prepare_…` and
`compute_stages` of their own module, the same two names in every backend; so does this, with the same arguments, and
what it returns is what the operation's output is made from.
"""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract import AttentionStages, MultiHeadParameters

from .cases import Case
from .operations import OPERATIONS, given_options

Array: TypeAlias = np.ndarray[Any, Any]

PROJECTED = ("self_attention", "key_value_attention", "multi_head_attention")
"""The operations whose stages can be computed here."""


def projected_stages(backend: str, case: Case, tensors: dict[str, Array]) -> AttentionStages:
    """Compute the stages of a case of one of `PROJECTED` in canonical layout, (*B, heads, …)."""
    attention = importlib.import_module(f"attnspec.{backend}.attention")
    prepared = _prepare(importlib.import_module(f"attnspec.{backend}.projections"), case, tensors)
    # The reference's `prepare_self_attention` returns the attention alone, the others more beside it.
    inner = prepared if isinstance(prepared, attention.Attention) else prepared[0]
    rows = (slice(0, inner.sizes.query_length),) if backend == "reference" else ()  # it works block by block
    stages: AttentionStages = attention.compute_stages(inner, *rows)
    return stages


def _prepare(projections: Any, case: Case, tensors: dict[str, Array]) -> Any:
    options = case.call_options(tensors)
    given = given_options(options)
    if case.operation != "multi_head_attention":
        own = (tensors[name] for name in OPERATIONS[case.operation].tensors)
        return getattr(projections, f"prepare_{case.operation}")(*own, given)
    return projections.prepare_multi_head_attention(
        *(tensors[name] for name in ("query", "key", "value")),
        MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields)),
        options["num_heads"],
        options.get("num_kv_heads"),
        given,
        options.get("rotary"),
    )

"""How far a merge of partial results may be from the exact one: `bounds` for slices in the place of keys.

The slices' logsumexps are the logits of a softmax over slices, and their outputs its values. An error η_s of the
exponent multiplies a slice's share by exp(±η_s); what is common to all shares cancels.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from attnspec.reference.partial_results import merge

from .bounds import exponential_error, gamma, sink_share, smallest_normal
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]


def merge_bound(outputs: Array, logsumexps: Array, sink: Array | None, profile: Profile) -> tuple[Array, Array]:
    """Bound the error of output and logsumexp of a merge of stacked slices, (S, …, Dv) and (S, …)."""
    exact = merge(outputs, logsumexps, sink)
    outputs = np.where(np.isfinite(outputs), outputs, 0.0)
    output = np.where(np.isfinite(exact.output), exact.output, 0.0)
    is_finite = np.isfinite(exact.logsumexp)
    level = np.where(is_finite, exact.logsumexp, 0.0)
    takes_part = np.isfinite(logsumexps) & is_finite
    logits = np.where(takes_part, logsumexps, 0.0)
    peak = logsumexps.max(axis=0)
    peak = np.where(is_finite, peak if sink is None else np.maximum(peak, sink), 0.0)
    shares = np.where(takes_part, np.exp(np.where(takes_part, logsumexps - level, -np.inf)), 0.0)
    errors = np.where(takes_part, exponential_error(logits, np.abs(logits - peak), profile), 0.0)
    sink_weight, sink_error = sink_share(sink, peak, exact.logsumexp, profile)
    count = takes_part.sum(axis=0) + (sink is not None)
    u_a, tiny = profile.accumulation, smallest_normal(profile)
    shrink = np.where(is_finite, (shares * np.exp(-errors)).sum(axis=0) + sink_weight * np.exp(-sink_error), 1.0)
    summation = gamma(count, u_a) + 2 * u_a
    grow = shares * np.expm1(errors) / shrink
    spread = (grow[..., None] * np.abs(outputs - output)).sum(axis=0)
    spread = spread + (sink_weight * np.expm1(sink_error) / shrink)[..., None] * np.abs(output)
    absolute = (shares[..., None] * np.abs(outputs)).sum(axis=0)
    bound = (
        spread
        + gamma(count + 2, u_a)[..., None] * absolute
        + (summation[..., None] + profile.output) * np.abs(output)
        + (count[..., None] + 2) * tiny * (1 + np.abs(outputs).max(axis=0, initial=0.0))
    )
    is_empty = ~takes_part.any(axis=0)
    logsumexp_bound = -np.log(shrink) + summation + u_a * (np.abs(level) + np.abs(peak))
    return np.where(is_empty[..., None], 0.0, bound), np.where(is_finite, logsumexp_bound, 0.0)

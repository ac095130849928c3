"""How far a right answer may be from the exact one: bounds for every element, derived from the exact intermediates.

All bounds are absolute errors against the exact result of the *rounded* inputs, to first order in the unit roundoffs,
for one arithmetic profile. Each step is a rounding error analysis (Higham 2002, chapter 3) propagated through the next:

scores       s_ij = scale Σ_d q_id k_jd. A sum of n products in any order errs by at most γ_n Σ|q||k| (Higham 2002,
             equation 3.5). Roundings are nearly independent, so the constant grows like √n (Higham & Mary 2019): we
             take γ̃_n = min(n, 5√n) u.
logits       softcap and bias act entry by entry; the softcap's derivative is at most 1, so it does not amplify.
             A bias object is evaluated in the accumulation dtype, with a few roundings of its own.
weights      an error η_j of the logits multiplies exp(x_j) by exp(±η_j): the softmax turns absolute errors into
             relative ones. A sink is one more logit, known exactly, whose exponential is not.
output       Σ_j p_j (1 ± expm1 η_j)(v_j − o): an error common to all weights cancels, so what counts is the distance of
             each visible value from the output; then the second product and the rounding of the output. A sink acts
             like a key whose value is 0, dropout like values keep · v / (1 − rate) that differ from row to row.

What the constants are worth is measured, not assumed: tests/test_bounds.py perturbs every intermediate at random, and
tests/test_zoo.py holds correct variants and planted faults against the bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.biases import Alibi, Bias, RelativePositionBias, Sum
from attnspec.reference.attention import Attention, stages_of, terms_of
from attnspec.reference.masks import Block, block_of

from .profiles import FP16, Profile

Array: TypeAlias = np.ndarray[Any, Any]


class StageBounds(NamedTuple):
    """Largest allowed absolute error of every stage, in the canonical layout (*B, heads, …)."""

    scores: Array
    logits: Array
    weights: Array
    logsumexp: Array
    output: Array


class Projected(NamedTuple):
    """Absolute errors that the queries, keys and values already carry when they enter the attention."""

    query: Array | float
    key: Array | float
    value: Array | float


EXACT_INPUTS = Projected(0.0, 0.0, 0.0)


def attention_bounds(attention: Attention, profile: Profile, errors: Projected = EXACT_INPUTS) -> StageBounds:
    """Bound the error of every stage of one attention under a profile; see the module's docstring."""
    sizes, options, rows = attention.sizes, attention.options, slice(0, attention.sizes.query_length)
    terms = terms_of(attention, rows)
    _, bias, scale, softcap, sink, kept, rate = terms
    stages = stages_of(attention.query, attention.key, attention.value, terms)
    query, key, value = (_clean(array) for array in (attention.query, attention.key, attention.value))
    group = sizes.num_heads // max(sizes.num_kv_heads, 1)
    key, value = np.repeat(key, group, axis=-3), np.repeat(value, group, axis=-3)
    key_error, value_error = (
        error if isinstance(error, float) else np.repeat(error, group, axis=-3) for error in errors[1:]
    )
    u_a, u_s = profile.accumulation, profile.scores

    # scores
    magnitude = abs(scale) * (np.abs(query) @ np.abs(key).mT)
    scores = np.where(np.isfinite(stages.scores), stages.scores, 0.0)
    carried = abs(scale) * (
        _product(errors.query, np.abs(key)) + _product(np.abs(query), key_error) + _product(errors.query, key_error)
    )
    score_bound = (gamma(sizes.head_dim + 4, u_a) + 2 * profile.products) * magnitude + carried
    score_bound = score_bound + u_s * (np.abs(scores) + magnitude)

    # logits
    visible = stages.logits != -np.inf
    logits = np.where(visible & np.isfinite(stages.logits), stages.logits, 0.0)
    logit_bound = score_bound
    if softcap is not None:
        logit_bound = logit_bound + 4 * u_s * (np.minimum(np.abs(scores), softcap) + softcap)
    if bias is not None and options.bias is not None:
        bias = _clean(np.broadcast_to(bias, logits.shape))
        logit_bound = logit_bound + u_s * np.where(visible, np.abs(logits) + np.abs(bias), 0.0)
        logit_bound = logit_bound + u_a * _bias_roundings(options.bias, block_of(sizes, rows))
    logit_bound = np.where(visible, logit_bound, 0.0)

    # weights and logsumexp
    peak = np.max(logits, axis=-1, keepdims=True, where=visible, initial=-np.inf)
    peak = peak if sink is None else np.maximum(peak, sink)
    depth = np.where(visible, np.abs(logits - np.where(np.isfinite(peak), peak, 0.0)), 0.0)
    exponent = np.where(visible, logit_bound + exponential_error(logits, depth, profile), 0.0)
    weights = _clean(stages.weights)
    count = visible.sum(axis=-1, keepdims=True)
    sink_weight, sink_exponent = sink_share(sink, peak, stages.logsumexp[..., None], profile)
    tiny = smallest_normal(profile)
    is_finite_row = np.isfinite(stages.logsumexp)[..., None]  # not empty, and without a visible NaN
    with np.errstate(over="ignore", divide="ignore"):  # a bound of infinity is a true statement, and never admitted
        shrunk = (weights * np.exp(-exponent)).sum(axis=-1, keepdims=True) + sink_weight * np.exp(-sink_exponent)
        shrink = np.where(is_finite_row, shrunk, 1.0)
        grow = weights * np.expm1(exponent)
        summation = gamma(count + (sink is not None), u_a) + 2 * u_a
        weight_bound = weights * (np.exp(exponent) / shrink - 1) + (summation + profile.weights) * weights
        weight_bound = np.where(visible, weight_bound + tiny, 0.0)
        logsumexp_bound = np.where(
            is_finite_row,
            -np.log(shrink) + summation + u_a * (np.abs(_clean(stages.logsumexp))[..., None] + np.abs(_clean(peak))),
            0.0,
        )[..., 0]

        # output
        output = _clean(stages.output)
        factor = np.asarray(1.0) if kept is None else np.where(kept, 1.0 / (1.0 - rate), 0.0)
        dropping = 0.0 if kept is None else 2 * (u_a + (u_s if profile.rounds_softmax else 0.0))
        spread = _weighted_distance(grow / shrink, value, factor, output)
        spread = spread + sink_weight * np.expm1(sink_exponent) / shrink * np.abs(output)
        absolute = (weights * factor) @ np.abs(value)
        largest = np.abs(np.where(visible.any(axis=-2)[..., None], value, 0.0)).max(axis=(-2, -1), initial=0.0)
        largest = largest[..., None, None] * factor.max(initial=1.0)
        bound = (
            spread
            + _product(weights * factor, value_error, transpose=False)
            + (gamma(count + 2, u_a) + dropping + profile.weights + 2 * profile.products) * absolute
            + (summation + profile.output) * np.abs(output)
            + (count + 2) * tiny * (1 + largest)
        )
        if profile.weights == FP16 and profile.dtype == "float16":
            bound = bound + count * 2.0**-24 * largest + 2.0**-24  # half the spacing of subnormal weights, and outputs
        bound = np.where(count > 0, bound, 0.0)
    return StageBounds(score_bound, logit_bound, weight_bound, logsumexp_bound, bound)


def projection_bound(
    inputs: Array, weight: Array, bias: Array | None, profile: Profile, error: Array | float = 0.0
) -> tuple[Array, Array]:
    """Return inputs @ weight + bias and its bound, where the inputs already carry an absolute error."""
    exact = inputs @ weight
    magnitude = (np.abs(inputs) + error) @ np.abs(weight)
    if bias is not None:
        exact, magnitude = exact + bias, magnitude + np.abs(bias)
    rounding = gamma(inputs.shape[-1] + 1, profile.accumulation) + 2 * profile.products
    bound = _product(error, np.abs(weight), transpose=False) + rounding * magnitude + profile.output * np.abs(exact)
    if profile.dtype == "float16":
        bound = bound + 2.0**-24
    return exact, bound


def smallest_normal(profile: Profile) -> float:
    """Return the smallest normal number of the accumulation: what underflows errs by no more."""
    return float(np.finfo(np.float64 if profile.dtype == "float64" else np.float32).tiny)


def gamma(terms: Array | int, roundoff: float) -> Array:
    """Return γ̃_n = min(n, 5√n) u, the growth of rounding errors over n terms."""
    terms = np.asarray(terms, dtype=np.float64)
    return np.asarray(np.minimum(terms, 5 * np.sqrt(terms)) * roundoff)


def _clean(array: Array) -> Array:
    return np.where(np.isfinite(array), array, 0.0)


def _product(left: Array | float, right: Array | float, *, transpose: bool = True) -> Array | float:
    """left · rightᵀ (or left · right), where a factor that is 0.0 makes the product 0.0."""
    if isinstance(left, float) or isinstance(right, float):
        return 0.0
    return left @ (right.mT if transpose else right)


def exponential_error(logits: Array, depth: Array, profile: Profile) -> Array:
    """Bound the relative error of exp(x − peak): storing x, subtracting, and the exponential itself."""
    error = profile.accumulation * (2 * np.abs(logits) + depth + 2 * profile.exponential)
    return error + profile.scores * (depth + 2) if profile.rounds_softmax else error


def sink_share(sink: Array | None, peak: Array, logsumexp: Array, profile: Profile) -> tuple[Array, Array]:
    """Return the sink's share of the softmax and the bound of its exponential's relative error, (…, 1) each."""
    if sink is None:
        return np.zeros(()), np.zeros(())
    sink = np.broadcast_to(sink, peak.shape)
    takes_part = np.isfinite(sink) & np.isfinite(logsumexp)
    level = np.where(takes_part, sink, 0.0)
    share = np.where(takes_part, np.exp(level - np.where(takes_part, logsumexp, 0.0)), 0.0)
    depth = np.abs(level - np.where(takes_part, peak, 0.0))
    stored = profile.scores * np.abs(level) if profile.rounds_softmax else 0.0
    return share, np.where(takes_part, exponential_error(level, depth, profile) + stored, 0.0)


def _bias_roundings(bias: Bias, block: Block) -> Array | float:
    """Count the roundings of a bias object, each times the size of what it rounds: in units of u_a."""
    match bias:
        case Sum(left=left, right=right):
            parts = _bias_roundings(left, block) + _bias_roundings(right, block)
            return parts + np.abs(_clean(np.asarray(bias.values(block))))
        case Alibi():  # the slope as it is computed or stored, the distance, the product
            return np.asarray(4 * np.abs(np.asarray(bias.values(block))))
        case RelativePositionBias():  # an entry of the table, stored
            return np.asarray(np.abs(_clean(np.asarray(bias.values(block)))))
    return 0.0  # an array comes as it is


def _weighted_distance(coefficients: Array, value: Array, factor: Array, output: Array) -> Array:
    """Σ_j c_ij |f_ij v_jc − o_ic|, one component at a time: the whole difference would be cubic in memory."""
    result = np.empty(output.shape)
    for component in range(output.shape[-1]):
        distance = np.abs(factor * value[..., None, :, component] - output[..., :, None, component])
        result[..., component] = (coefficients * distance).sum(axis=-1)
    return result

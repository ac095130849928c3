"""How far a right gradient may be from the exact one: `bounds`, carried on through the backward pass.

With G and λ the cotangents of output and logsumexp, f_ij = keep_ij / (1 − rate) and t = tanh(s / softcap):

products     dP_ij = f_ij Σ_c G_ic v_jc errs as a sum of Dv products does; eager profiles store it.
delta        δ_i = Σ_c G_ic o_ic = Σ_j p_ij dP_ij. An error η_j of the logits moves both by Σ_j p_j η_j (dP_j − δ): the
             softmax's derivative. Beyond that the two ways err differently, and the larger error counts: Σ_c G o takes
             over the roundings of the stored output (Dao et al. 2022, appendix B.2), Σ_j p dP those of its own terms.
pull         D_ij = dP_ij − δ_i + λ_i. What G carries moves it by ΔG · (f v_j − o): an error that products and delta
             share cancels, as between the weights. Their roundings do not, so D may err by more than its size suggests.
logits       dx_ij = p_ij D_ij, where p is kept or computed again as exp(x − logsumexp), and then wrong by the error of
             that logsumexp too; dx is stored like a weight.
scores       ds_ij = dx_ij (1 − t²). The slope's logarithm changes by −2t / softcap for each unit of the score, so an
             error of the score multiplies it; and the roundings of t and t² are those of a difference.
gradients    dQ = scale ds K, dK = scale dsᵀ Q, dV = (p f)ᵀ G: a product each, of factors that may both err. dK and dV
             are summed over the query heads of a group, and each head's part may be stored before that.
bias, sinks  sums of dx, and of p_sink (λ − δ), over all that shares a number; ALiBi's weighs by the distance.

The smallest numbers of the dtype are added where results or what is stored may underflow. A pair that is not visible
contributes 0 to every one of these sums: an empty row's bound is 0. As in `bounds`, sums of n terms err by γ̃_n, and
what the constants are worth is measured: tests/test_gradient_bounds.py holds three frameworks, two emulated backward
passes and planted faults against the bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.parameters import AttentionStages
from attnspec.reference.attention import Attention, Terms, by_query_head, finite, stages_of, terms_of
from attnspec.reference.bias_gradients import sum_to
from attnspec.reference.gradients import CoreGradients, core_gradients

from .bounds import (
    EXACT_INPUTS,
    Projected,
    StageBounds,
    attention_bounds,
    exponential_error,
    gamma,
    sink_share,
)
from .gradient_sums import capped, over_bias, over_group, stored_gradient, underflow
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]


class _Operands(NamedTuple):
    """What enters the backward pass, without anything that is not finite; keys and values for each query head."""

    query: Array
    key: Array
    value: Array
    cotangent: Array
    query_error: Array
    key_error: Array
    value_error: Array
    cotangent_error: Array


class _Pass(NamedTuple):
    """The exact intermediates."""

    terms: Terms
    stages: AttentionStages
    weights: Array
    factor: Array
    """f, 0 where dropped or not visible."""
    products: Array
    delta: Array
    pull: Array
    slope: Array


class _WeightErrors(NamedTuple):
    """How far the weights are off: as terms of a sum in which common errors cancel, and by themselves."""

    common: Array
    """Absolute: p expm1(η), over how much the denominator may shrink."""
    relative: Array
    """Relative: of a weight kept from the forward pass or computed again."""
    sink: Array
    sink_common: Array
    sink_relative: Array


def gradient_bounds(
    attention: Attention,
    output_cotangent: Array,
    logsumexp_cotangent: Array,
    profile: Profile,
    errors: Projected = EXACT_INPUTS,
    cotangent_error: Array | float = 0.0,
) -> CoreGradients:
    """Bound the error of every gradient of one attention under a profile; see the module's docstring.

    Args:
        attention: in canonical layout, as are the cotangents of its output (*B, Hq, Tq, Dv) and logsumexp (*B, Hq, Tq).
        profile: what a target declares.
        errors: what query, key and value already carry.
        cotangent_error: what the output's cotangent already carries.

    Returns:
        `CoreGradients` of the largest allowed absolute errors; the bias's as its gradient is: an array, or an object of
        the same structure.
    """
    operands = _operands(attention, output_cotangent, errors, cotangent_error)
    bounds = attention_bounds(attention, profile, errors)
    exact = _backward(attention, operands, logsumexp_cotangent)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weights = _weight_errors(exact, bounds, profile)
        delta_error, pull_error = _pull_errors(operands, exact, weights, logsumexp_cotangent[..., None], profile)
        visible, u_p, floor = exact.terms.visible, profile.weights, underflow(profile)
        d_logits = exact.weights * exact.pull
        logit_error = exact.weights * (
            weights.relative * np.abs(exact.pull) + (1 + weights.relative) * pull_error
        ) + floor * (2 + np.abs(exact.pull) + pull_error)
        logit_error = np.where(visible, capped((1 + u_p) * logit_error + u_p * np.abs(d_logits)), 0.0)
        score_error = _score_errors(exact, bounds, d_logits, logit_error, profile)
        gradients = core_gradients(attention, output_cotangent, logsumexp_cotangent)
        query, key = _query_and_key(operands, exact, d_logits * exact.slope, score_error, gradients, profile)
        value = _value(operands, exact, weights, gradients, profile)
        bias, sinks = None, None
        if attention.options.bias is not None:
            bias = over_bias(attention, visible, d_logits, logit_error, gradients.bias, profile)
        if exact.terms.sink is not None and gradients.sinks is not None:
            delta_error = delta_error + (operands.cotangent_error * np.abs(exact.stages.output)).sum(-1, keepdims=True)
            sinks = _sinks(exact, weights, delta_error, logsumexp_cotangent[..., None], gradients.sinks, profile)
    return CoreGradients(query, key, value, bias, sinks)


def _operands(attention: Attention, cotangent: Array, errors: Projected, cotangent_error: Array | float) -> _Operands:
    query, key, value = finite(attention.query), finite(attention.key), finite(attention.value)
    errors = Projected(*(np.broadcast_to(e, a.shape) for e, a in zip(errors, (query, key, value), strict=True)))
    key, value, key_error, value_error = (
        by_query_head(np.asarray(array), query) for array in (key, value, errors.key, errors.value)
    )
    cotangent_error = np.broadcast_to(cotangent_error, cotangent.shape)
    return _Operands(query, key, value, cotangent, np.asarray(errors.query), key_error, value_error, cotangent_error)


def _backward(attention: Attention, operands: _Operands, logsumexp_cotangent: Array) -> _Pass:
    rows = slice(0, attention.sizes.query_length)
    terms = terms_of(attention, rows)
    stages = stages_of(attention.query, attention.key, attention.value, terms)
    stages = stages._replace(output=finite(stages.output), scores=finite(stages.scores))
    weights = np.where(terms.visible, finite(stages.weights), 0.0)
    kept = terms.visible if terms.kept is None else terms.visible & terms.kept
    factor = np.where(kept, 1.0 / (1.0 - terms.rate), 0.0)
    products = factor * (operands.cotangent @ operands.value.mT)
    delta = (operands.cotangent * stages.output).sum(axis=-1, keepdims=True)
    pull = np.where(terms.visible, products - delta + logsumexp_cotangent[..., None], 0.0)
    slope = np.ones(pull.shape)
    if terms.softcap is not None:
        slope = 1 - np.tanh(np.where(terms.visible, stages.scores, 0.0) / terms.softcap) ** 2
    return _Pass(terms, stages, weights, factor, products, delta, pull, slope)


def _weight_errors(exact: _Pass, bounds: StageBounds, profile: Profile) -> _WeightErrors:
    """Bound the errors of the weights: exponents as in `attention_bounds`, and the logsumexp where it is used again."""
    visible, sink = exact.terms.visible, exact.terms.sink
    logits = finite(exact.stages.logits)
    logsumexp = exact.stages.logsumexp[..., None]
    is_finite_row = np.isfinite(logsumexp)
    level = np.where(is_finite_row, logsumexp, 0.0)
    peak = np.max(logits, axis=-1, keepdims=True, where=visible, initial=-np.inf)
    peak = peak if sink is None else np.maximum(peak, sink)
    safe_peak = finite(peak)
    exponent = bounds.logits + exponential_error(logits, np.abs(logits - safe_peak), profile)
    exponent = np.where(visible, exponent, 0.0)
    share, sink_exponent = sink_share(sink, peak, logsumexp, profile)
    shrunk = (exact.weights * np.exp(-exponent)).sum(axis=-1, keepdims=True) + share * np.exp(-sink_exponent)
    shrink = np.where(is_finite_row, shrunk, 1.0)
    # exp(x − L) in the place of the weight: L's own error, and the roundings of L and of the difference.
    u_a = profile.accumulation
    again = bounds.logsumexp[..., None] + u_a * (2 * np.abs(level) + np.abs(level - safe_peak))
    stored = profile.weights if profile.rounds_softmax else u_a
    return _WeightErrors(
        capped(exact.weights * np.expm1(exponent) / shrink),
        capped(np.expm1(exponent + again) + stored),
        share,
        capped(share * np.expm1(sink_exponent) / shrink),
        capped(np.expm1(sink_exponent + again) + stored),
    )


def _pull_errors(
    operands: _Operands, exact: _Pass, weights: _WeightErrors, logsumexp_cotangent: Array, profile: Profile
) -> tuple[Array, Array]:
    """Bound the errors of δ (what it does not share with dP) and of D = dP − δ + λ."""
    u_a, u_o = profile.accumulation, profile.output
    stored = profile.scores if profile.rounds_softmax else 0.0  # between any two operations of an eager softmax
    dropping = 0.0 if exact.terms.kept is None else 2 * (u_a + stored)  # 1 / (1 − rate), and the product with it
    value_dim = operands.value.shape[-1]
    count = exact.terms.visible.sum(axis=-1, keepdims=True)
    p, size, delta = exact.weights, np.abs(exact.products), np.abs(exact.delta)
    cotangent = np.abs(operands.cotangent) + operands.cotangent_error

    magnitudes = exact.factor * (cotangent @ (np.abs(operands.value) + operands.value_error).mT)
    rounding = (gamma(value_dim + 2, u_a) + 2 * profile.products + dropping) * magnitudes + profile.scores * size
    from_value = exact.factor * (cotangent @ operands.value_error.mT)

    moved = (weights.common * np.abs(exact.products - exact.delta)).sum(axis=-1, keepdims=True)
    moved = moved + weights.sink_common * delta + (p * from_value).sum(axis=-1, keepdims=True)
    summation = gamma(count + (exact.terms.sink is not None), u_a) + 2 * u_a
    weighed, weighed_magnitudes = ((p * array).sum(axis=-1, keepdims=True) for array in (size, magnitudes))
    # Σ_c G o, with the roundings that `attention_bounds` gives to the output
    seen = np.abs(np.where(np.asarray(exact.terms.visible.any(axis=-2))[..., None], operands.value, 0.0))
    largest = seen.max(axis=(-2, -1), initial=0.0)[..., None, None] * exact.factor.max(initial=1.0)
    through_output = (
        (gamma(count + 2, u_a) + 2 * profile.products + dropping) * weighed_magnitudes
        + profile.weights * weighed
        + summation * delta
        + (u_o + gamma(value_dim + 1, u_a)) * (cotangent * np.abs(exact.stages.output)).sum(axis=-1, keepdims=True)
        + underflow(profile) * cotangent.sum(axis=-1, keepdims=True) * (count + 2) * (1 + largest)
    )
    # Σ_j p dP
    weight_storage = profile.weights if profile.rounds_softmax else u_a
    through_products = (
        (p * rounding).sum(axis=-1, keepdims=True)
        + (weight_storage + gamma(count + 1, u_a) + 2 * u_a + 2 * stored) * weighed
        + (summation + stored) * delta
        + underflow(profile) * (size * exact.terms.visible + 1).sum(axis=-1, keepdims=True)
    )
    delta_error = moved + np.maximum(through_output, through_products)
    apart = size + delta + np.abs(logsumexp_cotangent)
    pull_error = from_value + _from_cotangent(operands, exact) + rounding + delta_error
    pull_error = pull_error + (4 * u_a + stored) * apart + stored * np.abs(exact.pull) + underflow(profile)
    return capped(delta_error), np.where(exact.terms.visible, capped(pull_error), 0.0)


def _from_cotangent(operands: _Operands, exact: _Pass) -> Array | float:
    """Σ_c ΔG_ic |f_ij v_jc − o_ic|, one component at a time: the whole difference would be cubic in memory."""
    if not operands.cotangent_error.any():
        return 0.0
    total = np.zeros(exact.products.shape)
    for component in range(operands.value.shape[-1]):
        value, output = operands.value[..., None, :, component], exact.stages.output[..., :, None, component]
        total += operands.cotangent_error[..., :, None, component] * np.abs(exact.factor * value - output)
    return total


def _score_errors(exact: _Pass, bounds: StageBounds, d_logits: Array, logit_error: Array, profile: Profile) -> Array:
    """Bound the error of ds = dx (1 − t²), which is stored; without a softcap it is dx, stored already."""
    softcap, slope = exact.terms.softcap, exact.slope
    if softcap is None:
        return logit_error
    u_a, u_s = profile.accumulation, profile.scores
    scores = np.where(exact.terms.visible, exact.stages.scores, 0.0)
    t, moved = np.abs(np.tanh(scores / softcap)), bounds.scores / softcap
    slope_error = slope * np.expm1(2 * np.minimum(t + moved, 1.0) * moved)
    slope_error = slope_error + 2 * (2 * u_s + 2 * profile.exponential * u_a) * t**2 + u_s * (t**2 + slope)
    slope_error = np.minimum(slope_error, 1.0)
    stored = 2 * profile.scores if profile.rounds_softmax else 0.0  # softcap · dx, and what the slope leaves of it
    error = (slope + slope_error) * logit_error + np.abs(d_logits) * slope_error
    rounding = profile.weights + 3 * u_a + stored
    error = (1 + rounding) * error + rounding * np.abs(d_logits) * slope
    return np.where(exact.terms.visible, capped(error + 2 * underflow(profile)), 0.0)


def _query_and_key(
    operands: _Operands, exact: _Pass, d_scores: Array, error: Array, gradients: CoreGradients, profile: Profile
) -> tuple[Array, Array]:
    scale, u_a, visible, floor = abs(exact.terms.scale), profile.accumulation, exact.terms.visible, underflow(profile)
    stored = profile.scores if profile.rounds_softmax else 0.0  # of scale · ds, or of scale · q and of what it gives
    size = np.abs(d_scores)
    rounding = 2 * profile.products + u_a + stored

    def product(left: Array, left_error: Array, right: Array, right_error: Array) -> Array:
        seen = left_error > 0  # where a pair is visible
        terms = gamma(seen.sum(axis=-1, keepdims=True) + 2, u_a) + rounding
        largest = np.abs(right) + right_error
        carried = left_error @ largest + left @ right_error
        return np.asarray(scale * (carried + terms * ((left + left_error) @ largest)) + floor * (seen @ largest))

    error = np.where(visible, error + floor, 0.0)
    query = product(size, error, operands.key, operands.key_error)
    query = stored_gradient(query, gradients.query, stored, profile)
    key = product(size.mT, error.mT, operands.query, operands.query_error)
    by_head = scale * (d_scores.mT @ operands.query)
    key = over_group(key, by_head, gradients.key, visible, profile)
    return np.where(np.asarray(visible.any(axis=-1))[..., None], query, 0.0), key


def _value(
    operands: _Operands, exact: _Pass, weights: _WeightErrors, gradients: CoreGradients, profile: Profile
) -> Array:
    u_a, floor = profile.accumulation, underflow(profile)
    read = exact.factor > 0
    stored = profile.scores if profile.rounds_softmax and exact.terms.kept is not None else 0.0
    used = exact.weights * exact.factor
    used_error = used * (weights.relative + profile.weights + stored) + 2 * floor * exact.factor
    size, count = np.abs(operands.cotangent), read.sum(axis=-2)[..., None]
    by_head = used.mT @ operands.cotangent
    bound = used_error.mT @ (size + operands.cotangent_error) + used.mT @ operands.cotangent_error
    bound = bound + (gamma(count + 2, u_a) + 2 * profile.products + 2 * u_a) * (used.mT @ size)
    return over_group(capped(bound), by_head, gradients.value, read, profile)


def _sinks(
    exact: _Pass,
    weights: _WeightErrors,
    delta_error: Array,
    logsumexp_cotangent: Array,
    gradient: Array,
    profile: Profile,
) -> Array:
    u_a, stored = profile.accumulation, profile.scores if profile.rounds_softmax else 0.0
    apart, pull = np.abs(exact.delta) + np.abs(logsumexp_cotangent), np.abs(logsumexp_cotangent - exact.delta)
    pull_error = delta_error + (4 * u_a + stored) * apart + stored * pull
    relative = weights.sink_relative
    takes_part = np.isfinite(np.broadcast_to(np.asarray(exact.terms.sink), pull.shape))
    error = weights.sink * (relative * pull + (1 + relative) * pull_error + stored * pull)
    error = np.where(takes_part, capped(error + underflow(profile) * (1 + pull + pull_error)), 0.0)
    heads = (pull.shape[-3], 1, 1)
    size, count = sum_to(weights.sink * pull, heads), sum_to(takes_part.astype(np.float64), heads)
    bound = sum_to(error, heads) + (gamma(count, u_a) + 2 * u_a) * size
    bound = stored_gradient(bound.reshape(gradient.shape), gradient, stored, profile)
    return np.where(count.reshape(gradient.shape) > 0, bound, 0.0)

"""Backward passes of attention as others write them, with every rounding made by hand, and with mistakes.

`fused` computes the weights again from a stored logsumexp and takes δ from the stored output; `eager` stores every
intermediate and differentiates the softmax operation by operation; `closed_form` is exact but for its mistake. All are
written from the formula for one canonical layout, and none knows how the bounds are derived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnspec.conformance.profiles import Profile
from attnspec.reference.attention import Attention, terms_of
from attnspec.reference.projections import merge_heads, split_heads

Array = NDArray[Any]
Rounded = Callable[[Array, float], Array]
"""(array, u) → the array, rounded with unit roundoff u."""


class Given(NamedTuple):
    """An attention with its options evaluated, keys and values repeated for each query head."""

    query: Array
    key: Array
    value: Array
    visible: Array
    bias: Array
    scale: float
    softcap: float | None
    sink: Array
    factor: Array
    has_dropout: bool
    has_bias: bool
    group: int


def given(attention: Attention) -> Given:
    sizes = attention.sizes
    visible, bias, scale, softcap, sink, kept, rate = terms_of(attention, slice(0, sizes.query_length))
    group = sizes.num_heads // sizes.num_kv_heads
    return Given(
        attention.query,
        np.repeat(attention.key, group, axis=-3),
        np.repeat(attention.value, group, axis=-3),
        visible,
        np.where(visible, 0.0 if bias is None else bias, 0.0),
        scale,
        softcap,
        np.asarray(-np.inf) if sink is None else sink,
        np.where(visible if kept is None else kept & visible, 1.0 / (1.0 - rate), 0.0),
        kept is not None,
        bias is not None,
        group,
    )


def nearest(profile: Profile) -> Rounded:
    """Round to nearest, ties to even, as the hardware does; float16 with its subnormal numbers."""

    def rounded(array: Array, u: float) -> Array:
        if profile.dtype == "float16" and u == 2.0**-11:
            with np.errstate(over="ignore"):  # ∞, where the hardware would give it too
                return array.astype(np.float16).astype(np.float64)
        if u in (0.0, 2.0**-53):
            return array
        fraction, exponent = np.frexp(array)
        return np.ldexp(np.round(fraction / u) * u, exponent)

    return rounded


def at_worst(seed: int) -> Rounded:
    """Err by the whole unit roundoff, in random directions."""
    rng = np.random.default_rng(seed)
    return lambda array, u: array * (1.0 + u / (1.0 + u) * rng.choice([-1.0, 1.0], np.shape(array)))


def total(terms: Array, u: float, rounded: Rounded) -> Array:
    """Sum over the last axis, from its beginning, rounding every partial sum."""
    result = np.zeros(terms.shape[:-1])
    for index in range(terms.shape[-1]):
        result = rounded(result + terms[..., index], u)
    return result


def product(left: Array, right: Array, profile: Profile, rounded: Rounded, reverse: bool = False) -> Array:
    """left · right, its factors rounded to what the profile multiplies, its sums to what it accumulates in."""
    left, right = rounded(left, profile.products), rounded(right, profile.products)
    terms = rounded(left[..., :, None, :] * right.mT[..., None, :, :], profile.accumulation)
    return total(terms[..., ::-1] if reverse else terms, profile.accumulation, rounded)


def _over_group(array: Array, group: int, profile: Profile, rounded: Rounded) -> Array:
    *batch, heads, length, size = array.shape
    parts = rounded(array, profile.output) if group > 1 else array
    parts = np.moveaxis(parts.reshape(*batch, heads // group, group, length, size), -3, -1)
    return rounded(total(parts, profile.accumulation, rounded), profile.output)


def _over_heads(rows: Array, profile: Profile, rounded: Rounded) -> Array:
    """(*B, Hq, Tq, 1) → (Hq,)."""
    by_head = np.moveaxis(rows[..., 0], -2, 0).reshape(rows.shape[-3], -1)
    return rounded(total(by_head, profile.accumulation, rounded), profile.output)


def fused(
    attention: Attention, cotangent: Array, logsumexp_cotangent: Array, profile: Profile, rounded: Rounded
) -> dict[str, Array]:
    """Recompute what the backward pass needs, as fused kernels do (Dao 2023, algorithm 2)."""
    a, u_a, u_o = given(attention), profile.accumulation, profile.output

    def wide(array: Array) -> Array:
        return rounded(array, u_a)

    def logits(reverse: bool) -> tuple[Array, Array]:
        raw = wide(a.scale * product(a.query, a.key.mT, profile, rounded, reverse))
        tanh = np.zeros_like(raw)
        if a.softcap is not None:
            tanh = wide(np.tanh(wide(raw / a.softcap)))
            raw = wide(a.softcap * tanh)
        return np.where(a.visible, wide(raw + a.bias), -np.inf), tanh

    first, _ = logits(False)
    peak = np.maximum(first.max(axis=-1, keepdims=True), a.sink)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    powers = wide(np.exp(np.where(a.visible, wide(np.where(a.visible, first, 0.0) - peak), -np.inf)))
    denominator = total(powers, u_a, rounded)[..., None]
    denominator = wide(denominator + wide(np.exp(a.sink - peak)))
    is_empty = denominator == 0.0
    safe = np.where(is_empty, 1.0, denominator)
    used = rounded(wide(powers * wide(a.factor)), profile.weights)
    output = rounded(wide(product(used, a.value, profile, rounded) / safe), u_o)
    logsumexp = wide(peak + wide(np.log(safe)))

    again, tanh = logits(True)
    weights = wide(np.exp(np.where(a.visible, wide(np.where(a.visible, again, 0.0) - logsumexp), -np.inf)))
    d_weights = wide(product(cotangent, a.value.mT, profile, rounded) * wide(a.factor))
    delta = total(wide(cotangent * output), u_a, rounded)[..., None]
    pull = wide(logsumexp_cotangent[..., None] - delta)
    d_logits = wide(weights * wide(d_weights + pull))
    d_scores = rounded(wide(d_logits * wide(1.0 - wide(tanh * tanh))), profile.weights)
    share = np.where(is_empty, 0.0, wide(np.exp(wide(a.sink - logsumexp))))
    kept = rounded(wide(weights * wide(a.factor)), profile.weights)
    d_key = wide(a.scale * product(d_scores.mT, a.query, profile, rounded))
    return {
        "query": rounded(wide(a.scale * product(d_scores, a.key, profile, rounded)), u_o),
        "key": _over_group(d_key, a.group, profile, rounded),
        "value": _over_group(product(kept.mT, cotangent, profile, rounded), a.group, profile, rounded),
        "logits": rounded(d_logits, profile.weights),
        "sinks": _over_heads(wide(share * pull), profile, rounded),
        "output": output,
    }


def eager(
    attention: Attention, cotangent: Array, logsumexp_cotangent: Array, profile: Profile, rounded: Rounded
) -> dict[str, Array]:
    """Differentiate operation by operation, each storing its result: products accumulate wider, nothing else does."""
    a, u_s, u_p, u_o = given(attention), profile.scores, profile.weights, profile.output

    def stored(array: Array) -> Array:
        return rounded(rounded(array, profile.accumulation), u_s)

    query = stored(a.query * a.scale)
    scores = stored(product(query, a.key.mT, profile, rounded))
    tanh = np.zeros_like(scores)
    logits = scores
    if a.softcap is not None:
        tanh = stored(np.tanh(stored(scores / a.softcap)))
        logits = stored(tanh * a.softcap)
    logits = np.where(a.visible, stored(logits + stored(a.bias)) if a.has_bias else logits, -np.inf)
    peak = np.maximum(logits.max(axis=-1, keepdims=True), a.sink)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    powers = np.where(a.visible, stored(np.exp(stored(np.where(a.visible, logits, 0.0) - peak))), 0.0)
    sink_power = stored(np.exp(stored(np.where(np.isneginf(a.sink), -np.inf, a.sink - peak))))
    denominator = total(powers, profile.accumulation, rounded)[..., None] + sink_power
    is_empty = denominator == 0.0
    safe = np.where(is_empty, 1.0, denominator)
    weights = rounded(stored(powers / safe), u_p)
    factor = stored(a.factor)
    used = rounded(weights * factor, u_p) if a.has_dropout else weights

    d_used = stored(product(cotangent, a.value.mT, profile, rounded))
    d_weights = stored(d_used * factor) if a.has_dropout else d_used
    d_denominator = -total(stored(d_weights * stored(weights / safe)), profile.accumulation, rounded)[..., None]
    d_denominator = stored(d_denominator + stored(logsumexp_cotangent[..., None] / safe))
    d_powers = stored(stored(d_weights / safe) + d_denominator)
    d_logits = np.where(a.visible, stored(d_powers * powers), 0.0)
    d_sink = np.where(is_empty, 0.0, stored(d_denominator * sink_power))
    d_scores = d_logits
    if a.softcap is not None:
        d_scores = stored(stored(stored(d_logits * a.softcap) * stored(1.0 - stored(tanh * tanh))) / a.softcap)
    d_query = rounded(product(d_scores, a.key, profile, rounded), u_o)
    return {
        "query": rounded(d_query * a.scale, u_o),
        "key": _over_group(product(d_scores.mT, query, profile, rounded), a.group, profile, rounded),
        "value": _over_group(product(used.mT, cotangent, profile, rounded), a.group, profile, rounded),
        "logits": d_logits,
        "sinks": _over_heads(d_sink, profile, rounded),
        "output": rounded(product(used, a.value, profile, rounded), u_o),
    }


class Layer(NamedTuple):
    """The gradients of x W + b."""

    inputs: Array
    weight: Array
    bias: Array


def pull_layer(inputs: Array, weight: Array, cotangent: Array, profile: Profile, rounded: Rounded) -> Layer:
    """Differentiate a projection; every result is stored."""
    flat, flat_inputs = cotangent.reshape(-1, cotangent.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
    return Layer(
        rounded(product(cotangent, weight.T, profile, rounded), profile.output),
        rounded(product(flat_inputs.T, flat, profile, rounded), profile.output),
        rounded(total(flat.T, profile.accumulation, rounded), profile.output),
    )


def multi_head(
    attention: Attention,
    tensors: dict[str, Array],
    cotangent: Array,
    emulate: Callable[..., dict[str, Array]],
    profile: Profile,
    rounded: Rounded,
) -> dict[str, Array]:
    """Differentiate a multi-head attention layer by layer, storing what passes between two of them."""
    sizes = attention.sizes
    counts = {"query": sizes.num_heads, "key": sizes.num_kv_heads, "value": sizes.num_kv_heads}
    projected = {}
    for part, heads in counts.items():
        inner = product(tensors[part], tensors[f"{part}_weight"], profile, rounded) + tensors[f"{part}_bias"]
        projected[part] = split_heads(rounded(rounded(inner, profile.accumulation), profile.output), heads)
    d_merged = rounded(product(cotangent, tensors["output_weight"].T, profile, rounded), profile.output)
    d_heads = split_heads(d_merged, sizes.num_heads)
    inner = emulate(attention._replace(**projected), d_heads, np.zeros(d_heads.shape[:-1]), profile, rounded)
    layers = {"output": pull_layer(merge_heads(inner["output"]), tensors["output_weight"], cotangent, profile, rounded)}
    for part in counts:
        d_projected = merge_heads(inner[part])
        layers[part] = pull_layer(tensors[part], tensors[f"{part}_weight"], d_projected, profile, rounded)
    weights = {f"{part}_weight": layer.weight for part, layer in layers.items()}
    biases = {f"{part}_bias": layer.bias for part, layer in layers.items()}
    return weights | biases | {part: layers[part].inputs for part in counts}


# Mistakes that are made in gradients.

FAULTS = (
    "delta missing",
    "scale missing in dQ",
    "scale missing in dK",
    "scale twice in dK",
    "dropout missing in dV",
    "dropout missing in dP",
    "softcap slope missing",
    "last head of a group only",
    "sink of the wrong sign",
    "sink ignored in the weights",
    "logsumexp cotangent ignored",
    "logsumexp cotangent of the wrong sign",
    "mask ignored",
    "bias not summed",
    "weights of the next row",
)


def closed_form(
    attention: Attention, cotangent: Array, logsumexp_cotangent: Array, fault: str | None
) -> dict[str, Array]:
    """Compute the gradients exactly, but for one mistake."""
    a = given(attention)
    raw = a.scale * (a.query @ a.key.mT)
    tanh = np.zeros_like(raw) if a.softcap is None else np.tanh(raw / a.softcap)
    logits = (raw if a.softcap is None else a.softcap * tanh) + a.bias
    masked = np.where(a.visible, logits, -np.inf)
    peak = np.maximum(masked.max(axis=-1, keepdims=True), a.sink)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    denominator = np.exp(masked - peak).sum(axis=-1, keepdims=True) + np.exp(a.sink - peak)
    is_empty = denominator == 0.0
    logsumexp = peak + np.log(np.where(is_empty, 1.0, denominator))
    weights = np.where(a.visible & ~is_empty, np.exp(masked - logsumexp), 0.0)
    output = (weights * a.factor) @ a.value
    if fault == "mask ignored":  # a kernel that has only the logsumexp of the forward pass
        weights = np.where(is_empty, 0.0, np.exp(np.minimum(logits - logsumexp, 50.0)))
    if fault == "sink ignored in the weights":
        weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    if fault == "weights of the next row":
        weights = np.roll(weights, 1, axis=-2)
    factor = a.factor if fault != "mask ignored" else np.where(a.visible, a.factor, a.factor.max(initial=1.0))
    in_products = (factor > 0) * 1.0 if fault == "dropout missing in dP" else factor
    in_values = np.ones_like(factor) if fault == "dropout missing in dV" else factor
    delta = 0.0 if fault == "delta missing" else (cotangent * output).sum(axis=-1, keepdims=True)
    sign = {"logsumexp cotangent ignored": 0.0, "logsumexp cotangent of the wrong sign": -1.0}.get(fault or "", 1.0)
    pull = sign * logsumexp_cotangent[..., None] - delta
    d_logits = weights * (in_products * (cotangent @ a.value.mT) + pull)
    d_scores = d_logits * (1.0 if fault == "softcap slope missing" else 1.0 - tanh**2)
    share = np.where(is_empty, 0.0, np.exp(a.sink - logsumexp))
    d_sinks = share * pull * (-1.0 if fault == "sink of the wrong sign" else 1.0)
    query_scale = 1.0 if fault == "scale missing in dQ" else a.scale
    key_scale = {"scale missing in dK": 1.0, "scale twice in dK": a.scale**2}.get(fault or "", a.scale)

    def over_group(array: Array) -> Array:
        *batch, heads, length, size = array.shape
        parts = array.reshape(*batch, heads // a.group, a.group, length, size)
        return parts[..., -1, :, :] if fault == "last head of a group only" else parts.sum(axis=-3)

    return {
        "query": query_scale * (d_scores @ a.key),
        "key": over_group(key_scale * (d_scores.mT @ a.query)),
        "value": over_group((weights * in_values).mT @ cotangent),
        "logits": d_logits,
        "sinks": np.moveaxis(d_sinks[..., 0], -2, 0).reshape(d_sinks.shape[-3], -1).sum(axis=-1),
    }

"""The gradients of scaled dot-product attention, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.biases import BiasArray
from attnspec.contract.operands import show_shape
from attnspec.contract.options import Given
from attnspec.contract.parameters import AttentionGradients, AttentionStages

from .attention import (
    Attention,
    Terms,
    finite,
    group,
    is_clean_pair,
    prepare,
    query_blocks,
    stages_of,
    terms_of,
    ungroup,
    widen,
)
from .bias_gradients import add_gradient, sum_to, zero_gradient
from .masks import block_of
from .tensors import Array, as_tensors


class CoreGradients(NamedTuple):
    """Gradients in the canonical layout (*B, heads, length, size), before anything is taken off for the caller."""

    query: Array
    key: Array
    value: Array
    bias: Any
    """As in `AttentionGradients`."""
    sinks: Array | None
    """With the shape of the caller's sinks."""
    weight: Array | None = None
    """Of the similarity, where it has one."""


def dot_product_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    output_cotangent: Any,
    *,
    logsumexp_cotangent: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> AttentionGradients:
    """Compute the gradients of L = Σ output_cotangent · output + Σ logsumexp_cotangent · logsumexp.

    With the names of `dot_product_attention`, G the cotangent of the output, λ that of the logsumexp, w_ij the weights
    after dropout and t_ij = tanh(s_ij / softcap) (0 without a softcap):

        dV_j  = Σ_i w_ij G_i
        δ_i   = Σ_c G_ic o_ic = Σ_j w_ij G_i · v_j
        dx_ij = p_ij (keep_ij / (1 − rate) · G_i · v_j − δ_i + λ_i)              the bias's gradient
        dz    = Σ_i p_i,sink (λ_i − δ_i),  p_i,sink = exp(z − logsumexp_i)        the sink's
        ds_ij = dx_ij (1 − t_ij²)
        dQ_i  = scale Σ_j ds_ij k_j,   dK_j = scale Σ_i ds_ij q_i

    Args:
        query, key, value, mask, bias, scale, softcap, sinks, dropout: as for `dot_product_attention`.
        output_cotangent: G, (*B, Hq, Tq, Dv), the shape of the output.
        logsumexp_cotangent: λ, (*B, Hq, Tq), the shape of the logsumexp; None: 0.

    Returns:
        `AttentionGradients(query, key, value, bias, sinks)`, float64, each with the shape of what it belongs to; None
        where no bias or sinks were given. The gradient of a bias array is summed over the axes in which it is 1; that
        of a bias object is an object of the same structure, with gradients in the place of its arrays.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`; a cotangent of another shape than its result.

    An empty row, and every pair that is not visible, contributes exactly 0, whatever stands there (S10, S11).

    Source: Dao et al. 2022, appendix B.2, extended by softcap, sink, dropout and the cotangent of the logsumexp.
    """
    attention, shape = prepare(query, key, value, Given(mask, bias, scale, softcap, sinks, dropout))
    output_cotangent = as_cotangent("output_cotangent", output_cotangent, shape)
    logsumexp_cotangent = (
        np.zeros(shape[:-1])
        if logsumexp_cotangent is None
        else as_cotangent("logsumexp_cotangent", logsumexp_cotangent, shape[:-1])
    )
    rows = attention.query.shape[:-1]
    gradients = core_gradients(attention, output_cotangent.reshape(*rows, shape[-1]), logsumexp_cotangent.reshape(rows))
    shapes = (np.shape(query), np.shape(key), np.shape(value))
    d_query, d_key, d_value = (gradient.reshape(shape) for gradient, shape in zip(gradients[:3], shapes, strict=True))
    return AttentionGradients(d_query, d_key, d_value, gradients.bias, gradients.sinks)


def core_gradients(attention: Attention, output_cotangent: Array, logsumexp_cotangent: Array) -> CoreGradients:
    """Compute all gradients of an attention by dot products."""
    return gradients_by_blocks(attention, output_cotangent, logsumexp_cotangent, pull_dot_products)


def gradients_by_blocks(
    attention: Attention, output_cotangent: Array, logsumexp_cotangent: Array, pull_back: PullBack
) -> CoreGradients:
    """Compute all gradients, block by block: memory is linear in length, but for that of a bias array."""
    sizes, options = attention.sizes, attention.options
    d_queries, d_key, d_value, d_weight = [], np.zeros(attention.key.shape), np.zeros(attention.value.shape), None
    d_bias = None if options.bias is None else zero_gradient(options.bias)
    d_sink = None if options.sinks is None else np.zeros(np.shape(options.sinks))
    for rows in query_blocks(sizes):
        pulled = pull_back(attention, rows, output_cotangent[..., rows, :], logsumexp_cotangent[..., rows])
        d_queries.append(pulled.query)
        d_key = d_key + pulled.key
        d_value = d_value + pulled.value
        if pulled.weight is not None:
            d_weight = pulled.weight if d_weight is None else d_weight + pulled.weight
        if options.bias is not None:
            d_bias = add_gradient(d_bias, options.bias, pulled.logits, block_of(sizes, rows))
        if d_sink is not None and pulled.sink is not None:
            d_sink = d_sink + sum_to(pulled.sink, (sizes.num_heads, 1, 1)).reshape(d_sink.shape)
    d_bias = d_bias.array if isinstance(d_bias, BiasArray) else d_bias  # the caller gave an array, not an object
    return CoreGradients(np.concatenate(d_queries, axis=-2), d_key, d_value, d_bias, d_sink, d_weight)


def as_cotangent(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Turn a cotangent into float64, and check that it has the shape of its result."""
    (cotangent,) = as_tensors(**{name: value})
    if cotangent.shape != shape:
        raise ValueError(
            f"`{name}` must have the shape of its result, {show_shape(shape)}; got {show_shape(cotangent.shape)}"
        )
    return widen(cotangent)


class Pulled(NamedTuple):
    """What a block of queries contributes."""

    query: Array
    key: Array
    value: Array
    logits: Array
    sink: Array | None
    weight: Array | None
    """Of the similarity, where it has one."""


PullBack: TypeAlias = Callable[[Attention, slice, Array, Array], Pulled]
"""(attention, rows, the cotangents of their output and logsumexp) → what these rows contribute."""


class PulledStages(NamedTuple):
    """The gradients behind the products of queries and keys."""

    products: Array
    """0 where one of the two is not finite."""
    value: Array
    logits: Array
    sink: Array | None


def pull_dot_products(attention: Attention, rows: slice, cotangent: Array, logsumexp_cotangent: Array) -> Pulled:
    """Give what a block of queries contributes to the gradients, where the similarity is the dot product."""
    query, key, value = attention.query[..., rows, :], attention.key, attention.value
    terms = terms_of(attention, rows)
    stages = stages_of(query, key, value, terms)
    pulled = pull_stages(stages, value, terms, is_clean_pair(query, key), cotangent, logsumexp_cotangent)
    d_query = ungroup(group(pulled.products, key) @ finite(key), query)
    d_key = group(pulled.products, key).mT @ group(finite(query), key)
    return Pulled(d_query, d_key, pulled.value, pulled.logits, pulled.sink, None)


def pull_stages(
    stages: AttentionStages, value: Array, terms: Terms, is_clean: Array, cotangent: Array, logsumexp_cotangent: Array
) -> PulledStages:
    """Go back from the output to the products of queries and keys, whatever similarity they are of."""
    visible, _, scale, softcap, sink, kept, rate = terms
    factor = np.float64(1.0) if kept is None else np.where(kept, 1.0 / (1.0 - rate), 0.0)
    used = stages.weights if kept is None else np.where(kept, stages.weights * factor, 0.0)
    d_used = ungroup(group(cotangent, value) @ finite(value).mT, cotangent)
    delta = (used * d_used).sum(axis=-1, keepdims=True)  # δ = Σ_c G_c o_c = Σ_j w_j G · v_j
    pull = logsumexp_cotangent[..., None] - delta
    d_logits = np.where(visible, stages.weights * (factor * d_used + pull), 0.0)
    d_sink = None
    if sink is not None:
        logsumexp = stages.logsumexp[..., None]
        share = np.exp(sink - np.where(logsumexp == -np.inf, np.inf, logsumexp))  # 0 where there is nothing at all
        d_sink = share * pull

    # A pair whose query or key is not finite has no derivative; its score is NaN for all that see it.
    is_read = visible & is_clean
    slope = 1.0 if softcap is None else 1.0 - np.tanh(np.where(is_read, stages.scores, 0.0) / softcap) ** 2
    d_products = scale * np.where(is_read, d_logits * slope, 0.0)
    return PulledStages(d_products, pull_value(used, value, cotangent), d_logits, d_sink)


def pull_value(used: Array, value: Array, cotangent: Array) -> Array:
    """Compute the gradient of the values from the weights that met them."""
    # A value that is not finite is a constant: it has no derivative, and the others are as if it were 0.
    return np.where(np.isfinite(value), group(used, value).mT @ group(cotangent, value), 0.0)

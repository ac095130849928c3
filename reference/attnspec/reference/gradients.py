"""The gradients of scaled dot-product attention, in closed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.biases import BiasArray
from attnspec.contract.operands import show_shape
from attnspec.contract.options import Given
from attnspec.contract.parameters import AttentionGradients

from .attention import (
    Attention,
    by_query_head,
    finite,
    group,
    is_finite_row,
    prepare,
    query_blocks,
    stages_of,
    terms_of,
    ungroup,
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
    """Compute all gradients, block by block: memory is linear in length, but for that of a bias array."""
    query, key, value, sizes, options = attention
    d_query, d_key, d_value = np.empty(query.shape), np.zeros(key.shape), np.zeros(value.shape)
    d_bias = None if options.bias is None else zero_gradient(options.bias)
    d_sink = None if options.sinks is None else np.zeros(np.shape(options.sinks))
    for rows in query_blocks(sizes):
        pulled = _pull_back(attention, rows, output_cotangent[..., rows, :], logsumexp_cotangent[..., rows])
        d_query[..., rows, :] = pulled.query
        d_key += pulled.key
        d_value += pulled.value
        if options.bias is not None:
            d_bias = add_gradient(d_bias, options.bias, pulled.logits, block_of(sizes, rows))
        if d_sink is not None and pulled.sink is not None:
            d_sink = d_sink + sum_to(pulled.sink, (sizes.num_heads, 1, 1)).reshape(d_sink.shape)
    d_bias = d_bias.array if isinstance(d_bias, BiasArray) else d_bias  # the caller gave an array, not an object
    return CoreGradients(d_query, d_key, d_value, d_bias, d_sink)


def as_cotangent(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Turn a cotangent into float64, and check that it has the shape of its result."""
    (cotangent,) = as_tensors(**{name: value})
    if cotangent.shape != shape:
        raise ValueError(
            f"`{name}` must have the shape of its result, {show_shape(shape)}; got {show_shape(cotangent.shape)}"
        )
    return np.asarray(cotangent, np.float64)


class _Pulled(NamedTuple):
    """What a block of queries contributes."""

    query: Array
    key: Array
    value: Array
    logits: Array
    sink: Array | None


def _pull_back(attention: Attention, rows: slice, cotangent: Array, logsumexp_cotangent: Array) -> _Pulled:
    query, key, value = attention.query[..., rows, :], attention.key, attention.value
    terms = terms_of(attention, rows)
    visible, _, scale, softcap, sink, kept, rate = terms
    stages = stages_of(query, key, value, terms)
    clean_query, clean_key, clean_value = finite(query), finite(key), finite(value)
    factor = np.float64(1.0) if kept is None else np.where(kept, 1.0 / (1.0 - rate), 0.0)
    used = stages.weights if kept is None else np.where(kept, stages.weights * factor, 0.0)

    # A value that is not finite is a constant: it has no derivative, and the others are as if it were 0.
    d_value = np.where(np.isfinite(value), group(used, key).mT @ group(cotangent, key), 0.0)
    products = ungroup(group(cotangent, key) @ clean_value.mT, query)
    delta = (used * products).sum(axis=-1, keepdims=True)  # δ = Σ_c G_c o_c = Σ_j w_j G · v_j
    pull = logsumexp_cotangent[..., None] - delta
    d_logits = np.where(visible, stages.weights * (factor * products + pull), 0.0)
    d_sink = None
    if sink is not None:
        logsumexp = stages.logsumexp[..., None]
        share = np.exp(sink - np.where(logsumexp == -np.inf, np.inf, logsumexp))  # 0 where there is nothing at all
        d_sink = share * pull

    # A pair whose query or key is not finite has no derivative; its score is NaN for all that see it.
    is_clean = is_finite_row(query)[..., :, None] & by_query_head(is_finite_row(key)[..., None, :], query)
    slope = 1.0 if softcap is None else 1.0 - np.tanh(np.where(visible & is_clean, stages.scores, 0.0) / softcap) ** 2
    d_scores = scale * np.where(visible & is_clean, d_logits * slope, 0.0)
    d_query = ungroup(group(d_scores, key) @ clean_key, query)
    d_key = group(d_scores, key).mT @ group(clean_query, key)
    return _Pulled(d_query, d_key, d_value, d_logits, d_sink)

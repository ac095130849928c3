"""The gradients of hard attention and of attention by other similarities than the dot product, in closed form."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.biases import BiasArray
from attnspec.contract.layer_parameters import AdditiveParameters
from attnspec.contract.options import Given
from attnspec.contract.parameters import AttentionGradients
from attnspec.contract.similarities import check_top_k, with_unit_scale

from .attention import (
    Attention,
    by_query_head,
    finite,
    is_clean_pair,
    is_finite_row,
    prepare,
    stages_from,
    terms_of,
    widen,
)
from .gradients import (
    CoreGradients,
    PullBack,
    Pulled,
    as_cotangent,
    gradients_by_blocks,
    pull_dot_products,
    pull_stages,
    pull_value,
)
from .projection_gradients import pull_projection
from .similarities import (
    additive_products,
    by_unit_vectors,
    hard_weights_of,
    length_of,
    prepare_additive_attention,
    prepare_bilinear_attention,
    prepare_hard_attention,
)
from .tensors import Array


class AdditiveGradients(NamedTuple):
    """Gradients of `additive_attention`, each with the shape of what it belongs to, None where not given."""

    query: Array
    key: Array
    value: Array
    parameters: AdditiveParameters
    bias: Any
    sinks: Any


class BilinearGradients(NamedTuple):
    """Gradients of `bilinear_attention`, each with the shape of what it belongs to, None where not given."""

    query: Array
    key: Array
    value: Array
    weight: Array
    bias: Any
    sinks: Any


def hard_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    output_cotangent: Any,
    *,
    top_k: int,
    noise: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
) -> AttentionGradients:
    """Compute the straight-through gradients of a hard attention: values as chosen, logits as if nothing were.

    The choice has no derivative. With G the cotangent of the output, w_ij the weights of `hard_attention` and p_ij
    those of `dot_product_attention`:

        dV_j  = Σ_i w_ij G_i
        dx_ij = p_ij (G_i · v_j − Σ_l p_il G_i · v_l)                            over all visible keys, chosen or not

    and from dx_ij to query, key and bias as in `dot_product_attention_vjp`. The noise has no gradient.

    Args:
        query, key, value, top_k, noise, mask, bias, scale, softcap: as for `hard_attention`.
        output_cotangent: G, (*B, Hq, Tq, Dv), the shape of the output.

    Returns:
        `AttentionGradients(query, key, value, bias, sinks)`, float64, None where no bias was given and for the sinks.

    Raises:
        ValueError, TypeError: as for `hard_attention`; a cotangent of another shape than the output.

    Source: Bengio et al. 2013, §4 (straight-through), with the weights of soft attention as the estimator's.
    """
    top_k = check_top_k(top_k)
    attention, noise, shape = prepare_hard_attention(query, key, value, noise, Given(mask, bias, scale, softcap))
    pull_back = functools.partial(_pull_hard, noise=noise, top_k=top_k)
    gradients = _gradients(attention, output_cotangent, shape, pull_back)
    shapes = np.shape(query), np.shape(key), np.shape(value)
    d_query, d_key, d_value = (gradient.reshape(shape) for gradient, shape in zip(gradients[:3], shapes, strict=True))
    return AttentionGradients(d_query, d_key, d_value, gradients.bias, None)


def additive_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    parameters: AdditiveParameters,
    output_cotangent: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> AdditiveGradients:
    """Compute the gradients of L = Σ output_cotangent · output of an additive attention.

    With ds_ij as in `dot_product_attention_vjp` and t_ija = tanh(Σ_d q_id W_q,da + Σ_d k_jd W_k,da + b_a):

        dw_a   = scale Σ_ij ds_ij t_ija
        dh_ija = scale ds_ij w_a (1 − t_ija²)

    and Σ_j dh_ija is the cotangent of the projection q_i W_q + b, Σ_i dh_ija that of k_j W_k.

    Args:
        query, key, value, parameters, mask, bias, scale, softcap, sinks, dropout: as for `additive_attention`.
        output_cotangent: (*B, Hq, Tq, Dv), the shape of the output.

    Returns:
        `AdditiveGradients(query, key, value, parameters, bias, sinks)`, float64; `parameters` are `AdditiveParameters`
        of gradients, None for parameters that are None.

    Raises:
        ValueError, TypeError: as for `additive_attention`; a cotangent of another shape than the output.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, parameters, shape = prepare_additive_attention(query, key, value, parameters, given)
    pull_back = functools.partial(_pull_additive, score_weight=widen(parameters.score_weight))
    gradients = _gradients(attention, output_cotangent, shape, pull_back)
    d_query, d_query_weight, d_bias = _pull_hidden(query, parameters.query_weight, gradients.query)
    d_key, d_key_weight, _ = _pull_hidden(key, parameters.key_weight, gradients.key)
    d_hidden_bias = None if parameters.hidden_bias is None else d_bias
    d_parameters = AdditiveParameters(gradients.weight, d_query_weight, d_key_weight, d_hidden_bias)
    d_value = gradients.value.reshape(np.shape(value))
    return AdditiveGradients(d_query, d_key, d_value, d_parameters, gradients.bias, gradients.sinks)


def bilinear_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    weight: Any,
    output_cotangent: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> BilinearGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a bilinear attention.

    With ds_ij as in `dot_product_attention_vjp` and d_i = scale Σ_j ds_ij k_j, the cotangent of the query q_i W:

        dQ_i = d_i Wᵀ,   dW = Σ_i q_iᵀ d_i,   dK_j = scale Σ_i ds_ij q_i W

    Args:
        query, key, value, weight, mask, bias, scale, softcap, sinks, dropout: as for `bilinear_attention`.
        output_cotangent: (*B, Hq, Tq, Dv), the shape of the output.

    Returns:
        `BilinearGradients(query, key, value, weight, bias, sinks)`, float64.

    Raises:
        ValueError, TypeError: as for `bilinear_attention`; a cotangent of another shape than the output.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, weight, shape = prepare_bilinear_attention(query, key, value, weight, given)
    gradients = _gradients(attention, output_cotangent, shape, pull_dot_products)
    wide = widen(np.asanyarray(query))
    cotangent = gradients.query.reshape(*wide.shape[:-1], weight.shape[-1])
    d_query, d_weight, _ = pull_projection(wide, widen(weight), cotangent)
    d_key, d_value = gradients.key.reshape(np.shape(key)), gradients.value.reshape(np.shape(value))
    return BilinearGradients(d_query, d_key, d_value, d_weight, gradients.bias, gradients.sinks)


def cosine_attention_vjp(
    query: Any,
    key: Any,
    value: Any,
    output_cotangent: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> AttentionGradients:
    """Compute the gradients of L = Σ output_cotangent · output of a cosine attention.

    With du the gradient of a unit vector u = x / |x| as `dot_product_attention_vjp` gives it:

        dx = (du − (du · u) u) / |x|,   0 where x = 0

    Args:
        query, key, value, mask, bias, scale, softcap, sinks, dropout: as for `cosine_attention`.
        output_cotangent: (*B, Hq, Tq, Dv), the shape of the output.

    Returns:
        `AttentionGradients(query, key, value, bias, sinks)`, float64.

    Raises:
        ValueError, TypeError: as for `cosine_attention`; a cotangent of another shape than the output.
    """
    given = with_unit_scale(Given(mask, bias, scale, softcap, sinks, dropout))
    attention, shape = prepare(query, key, value, given)
    gradients = _gradients(by_unit_vectors(attention), output_cotangent, shape, pull_dot_products)
    d_query = pull_unit_vectors(attention.query, gradients.query).reshape(np.shape(query))
    d_key = pull_unit_vectors(attention.key, gradients.key).reshape(np.shape(key))
    d_value = gradients.value.reshape(np.shape(value))
    return AttentionGradients(d_query, d_key, d_value, gradients.bias, gradients.sinks)


def pull_unit_vectors(array: Array, cotangent: Array) -> Array:
    """Compute the gradient of vectors from that of the unit vectors; 0 and what is not finite have none."""
    clean = finite(array)
    largest, length = length_of(clean)
    units = clean / largest / length
    across = cotangent - (cotangent * units).sum(axis=-1, keepdims=True) * units
    has_direction = is_finite_row(array)[..., None] & (units != 0.0).any(axis=-1, keepdims=True)
    return np.where(has_direction, across / length / largest, 0.0)


def _gradients(
    attention: Attention, output_cotangent: Any, shape: tuple[int, ...], pull_back: PullBack
) -> CoreGradients:
    """Check the cotangent of an output of this shape, and compute all gradients of the canonical layout."""
    cotangent = as_cotangent("output_cotangent", output_cotangent, shape)
    rows = attention.query.shape[:-1]
    return gradients_by_blocks(attention, cotangent.reshape(*rows, shape[-1]), np.zeros(rows), pull_back)


def _pull_hard(
    attention: Attention,
    rows: slice,
    cotangent: Array,
    logsumexp_cotangent: Array,
    *,
    noise: BiasArray | None,
    top_k: int,
) -> Pulled:
    weights, _ = hard_weights_of(attention, rows, noise, top_k)
    pulled = pull_dot_products(attention, rows, cotangent, logsumexp_cotangent)
    return pulled._replace(value=pull_value(weights, attention.value, cotangent))


def _pull_additive(
    attention: Attention, rows: slice, cotangent: Array, logsumexp_cotangent: Array, *, score_weight: Array
) -> Pulled:
    query, key, value = attention.query[..., rows, :], attention.key, attention.value
    terms = terms_of(attention, rows)
    stages = stages_from(additive_products(query, key, score_weight), value, terms)
    pulled = pull_stages(stages, value, terms, is_clean_pair(query, key), cotangent, logsumexp_cotangent)
    clean_query, clean_key = finite(query), by_query_head(finite(key), query)
    d_queries, d_keys, d_weights = [], [], []
    for a in range(score_weight.shape[0]):  # as in `additive_products`
        activation = np.tanh(clean_query[..., :, None, a] + clean_key[..., None, :, a])
        d_hidden = pulled.products * score_weight[a] * (1.0 - activation * activation)
        d_queries.append(d_hidden.sum(axis=-1))
        d_keys.append(d_hidden.sum(axis=-2))
        d_weights.append((pulled.products * activation).sum())
    d_key = _sum_groups(np.stack(d_keys, axis=-1), key)
    d_query, d_weight = np.stack(d_queries, axis=-1), np.stack(d_weights)
    return Pulled(d_query, d_key, pulled.value, pulled.logits, pulled.sink, d_weight)


def _sum_groups(array: Array, key: Array) -> Array:
    """(*B, Hq, Tk, a) → (*B, Hkv, Tk, a): each key/value head gets the sum over its query heads (S12)."""
    *batch, heads, length, size = array.shape
    kv_heads = key.shape[-3]
    summed: Array = array.reshape(*batch, kv_heads, heads // max(kv_heads, 1), length, size).sum(axis=-3)
    return summed


def _pull_hidden(inputs: Any, weight: Any, cotangent: Array) -> tuple[Array, Array | None, Array]:
    """Return the gradients of inputs, weight and bias of x W + b, in the caller's shapes."""
    wide = widen(np.asanyarray(inputs))
    cotangent = cotangent.reshape(*wide.shape[:-1], cotangent.shape[-1])
    if weight is None:
        return cotangent, None, cotangent.sum(axis=tuple(range(cotangent.ndim - 1)))
    return pull_projection(wide, widen(weight), cotangent)

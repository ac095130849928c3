"""Hard attention, and attention by other similarities than the dot product."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnspec.contract.biases import BiasArray
from attnspec.contract.layer_parameters import AdditiveParameters
from attnspec.contract.operands import check_floating
from attnspec.contract.options import Given, check_options
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.shapes import dot_product_sizes
from attnspec.contract.similarities import (
    additive_sizes,
    bilinear_sizes,
    check_noise,
    check_top_k,
    with_unit_scale,
)
from attnspec.contract.states import rebuild

from .attention import (
    Attention,
    attend,
    by_query_head,
    dot_products,
    finite,
    is_clean_pair,
    is_finite_row,
    logits_of,
    mix,
    prepare,
    query_blocks,
    softmax,
    stages_from,
    terms_of,
    widen,
)
from .masks import bias_values, block_of
from .projections import project
from .tensors import Array, as_option, as_tensors, describe, new_checks, with_tensors


def hard_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    top_k: int,
    noise: Any = None,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
) -> Array:
    """Attend to the top_k best keys only: a softmax over those that score + noise puts first.

    With x_ij the logits of `dot_product_attention`, M_i the keys that query i may attend to, r_ij the noise (0 without
    one) and C_i ⊆ M_i the top_k keys of M_i with the largest x_ij + r_ij:

        output_ic = Σ_{j ∈ C_i} w_ij v_jc,   w_ij = exp(x_ij) / Σ_{l ∈ C_i} exp(x_il);   output_i = 0 where C_i = ∅.

    Of equal ones the first is chosen. Where M_i has fewer than top_k keys, all of them are. A key whose x_ij + r_ij is
    −∞ is never chosen. The noise only chooses: it takes no part in w.

    Args:
        query, key, value, mask, bias, scale, softcap: as for `dot_product_attention`.
        top_k: how many keys a query may choose, an int, at least 1; 1 is the arg max.
        noise: r, floating array, shaped like a bias array. With independent Gumbel noise and a top_k of 1 the choice is
            a sample of the softmax.

    Returns:
        (*B, Hq, Tq, Dv), float64.

    Raises:
        ValueError: as for `dot_product_attention`; a top_k below 1, noise of another shape.
        TypeError: as for `dot_product_attention`; a top_k that is no int, noise that is not floating.

    A value that is not chosen is not read, not even as NaN. A NaN among the x_ij + r_ij of M_i makes the row NaN.

    Source: Xu et al. 2015, §4.1, for one key; Gupta et al. 2021 for several; Gumbel noise: Maddison et al. 2014.
    """
    top_k = check_top_k(top_k)
    attention, noise, shape = prepare_hard_attention(query, key, value, noise, Given(mask, bias, scale, softcap))
    return attend_hard(attention, noise, top_k).reshape(shape)


def additive_attention(
    query: Any,
    key: Any,
    value: Any,
    parameters: AdditiveParameters,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the scores of a layer with one hidden layer: w · tanh(q W_q + k W_k + b) in the place of q · k.

    The score of query i and key j is s_ij = scale · Σ_a w_a tanh(Σ_d q_id W_q,da + Σ_d k_jd W_k,da + b_a); what follows
    is as in `dot_product_attention`.

    Args:
        query: (*B, Hq, Tq, Dq). Ranks 2 and 3 have no head axis: (Tq, Dq), (B, Tq, Dq).
        key: (*B, Hkv, Tk, Dk), Hq a multiple of Hkv.
        value: (*B, Hkv, Tk, Dv).
        parameters: `AdditiveParameters`, with the shapes written there, shared by all heads.
        mask, bias, softcap, sinks, dropout: as for `dot_product_attention`.
        scale: any finite number; by default 1.

    Returns:
        (*B, Hq, Tq, Dv), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`; parameters of another class or of other shapes.

    Source: Bahdanau et al. 2015, A.1.2.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, parameters, shape = prepare_additive_attention(query, key, value, parameters, given)
    return attend_additive(attention, widen(parameters.score_weight)).reshape(shape)


def bilinear_attention(
    query: Any,
    key: Any,
    value: Any,
    weight: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the scores of a bilinear form: q W k in the place of q · k.

    The score of query i and key j is s_ij = scale · Σ_de q_id W_de k_je; what follows is as in `dot_product_attention`,
    which this is for the query q W.

    Args:
        query: (*B, Hq, Tq, Dq). Ranks 2 and 3 have no head axis: (Tq, Dq), (B, Tq, Dq).
        key: (*B, Hkv, Tk, Dk), Hq a multiple of Hkv.
        value: (*B, Hkv, Tk, Dv).
        weight: W, (Dq, Dk), shared by all heads.
        mask, bias, softcap, sinks, dropout: as for `dot_product_attention`.
        scale: any finite number; by default 1.

    Returns:
        (*B, Hq, Tq, Dv), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`; a weight of another shape.

    Source: Luong et al. 2015, equation 8, "general".
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, _, shape = prepare_bilinear_attention(query, key, value, weight, given)
    return attend(attention).reshape(shape)


def cosine_attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = None,
) -> Array:
    """Attend by the cosine of the angle between query and key: q · k / (|q| |k|) in the place of q · k.

    The score of query i and key j is s_ij = scale · Σ_d q_id k_jd / √(Σ_d q_id² · Σ_d k_jd²), 0 where one of the two
    vectors is 0; what follows is as in `dot_product_attention`, which this is for unit vectors.

    Args:
        query, key, value, mask, bias, softcap, sinks, dropout: as for `dot_product_attention`.
        scale: any finite number; by default 1, which leaves all scores between −1 and 1.

    Returns:
        (*B, Hq, Tq, Dv), float64.

    Raises:
        ValueError, TypeError: as for `dot_product_attention`.

    Vectors may be of any length: neither large nor small ones lose their direction, and no epsilon is added.

    Source: Graves et al. 2014, equations 5 and 6, whose β is the scale.
    """
    given = with_unit_scale(Given(mask, bias, scale, softcap, sinks, dropout))
    attention, shape = prepare(query, key, value, given)
    return attend(by_unit_vectors(attention)).reshape(shape)


def prepare_hard_attention(
    query: Any, key: Any, value: Any, noise: Any, given: Given
) -> tuple[Attention, BiasArray | None, tuple[int, ...]]:
    """Check the arguments of a hard attention; return it in canonical layout, its noise and its output's shape."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    given = with_tensors(given, query)
    noise = None if noise is None else BiasArray(as_option("noise", noise, query))
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks()
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, given, checks)
    check_noise(noise, sizes, dtype, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    if not sizes.has_heads:
        query, key, value = query[..., None, :, :], key[..., None, :, :], value[..., None, :, :]
    return Attention(widen(query), widen(key), widen(value), sizes, options), noise, shape


def prepare_additive_attention(
    query: Any, key: Any, value: Any, parameters: AdditiveParameters, given: Given
) -> tuple[Attention, AdditiveParameters, tuple[int, ...]]:
    """Check the arguments of an additive attention; return it with hidden units as queries and keys, and the rest."""
    leaves = check_tree("parameters", parameters, AdditiveParameters)
    query, key, value, *arrays = as_tensors(query=query, key=key, value=value, **name_leaves(leaves))
    given = with_unit_scale(with_tensors(given, query))
    parameters = rebuild(parameters, dict(zip(leaves, arrays, strict=True)))
    described = {name: describe(array) for name, array in zip(leaves, arrays, strict=True)}
    operands = {"query": describe(query), "key": describe(key), "value": describe(value)}
    dtype = check_leaf_dtypes(operands, described)
    checks = new_checks()
    sizes = additive_sizes(**operands, parameters=described, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    hidden_query = hidden_units(query, parameters.query_weight, parameters.hidden_bias)
    hidden_key, value = hidden_units(key, parameters.key_weight, None), widen(value)
    if not sizes.has_heads:
        hidden_query, hidden_key, value = (x[..., None, :, :] for x in (hidden_query, hidden_key, value))
    return Attention(hidden_query, hidden_key, value, sizes, options), parameters, shape


def prepare_bilinear_attention(
    query: Any, key: Any, value: Any, weight: Any, given: Given
) -> tuple[Attention, Array, tuple[int, ...]]:
    """Check the arguments of a bilinear attention; return it with projected queries, its weight, its output's shape."""
    query, key, value, weight = as_tensors(query=query, key=key, value=value, weight=weight)
    given = with_unit_scale(with_tensors(given, query))
    operands = {"query": describe(query), "key": describe(key), "value": describe(value), "weight": describe(weight)}
    dtype = check_floating(**operands)
    checks = new_checks()
    sizes = bilinear_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    projected, key, value = project(query, weight, None), widen(key), widen(value)
    if not sizes.has_heads:
        projected, key, value = (x[..., None, :, :] for x in (projected, key, value))
    return Attention(projected, key, value, sizes, options), weight, shape


def attend_hard(attention: Attention, noise: BiasArray | None, top_k: int) -> Array:
    """Compute the output (*B, Hq, Tq, Dv), block by block."""
    outputs = []
    for rows in query_blocks(attention.sizes):
        weights, chosen = hard_weights_of(attention, rows, noise, top_k)
        outputs.append(mix(weights, attention.value, chosen))
    return np.concatenate(outputs, axis=-2)


def hard_weights_of(attention: Attention, rows: slice, noise: BiasArray | None, top_k: int) -> tuple[Array, Array]:
    """Compute the weights of the queries `rows`, and which values they read."""
    terms = terms_of(attention, rows)
    _, logits = logits_of(dot_products(attention.query[..., rows, :], attention.key), terms)
    return hard_weights(logits, terms.visible, bias_values(noise, block_of(attention.sizes, rows)), top_k)


def hard_weights(logits: Array, visible: Array, noise: Array | None, top_k: int) -> tuple[Array, Array]:
    """Compute weights over the chosen keys, and which these are; a row that sees a NaN chooses all that it sees."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞ makes its row NaN, and is meant
        ranked = logits if noise is None else logits + np.where(visible, noise, 0.0)
    is_undefined = np.isnan(ranked).any(axis=-1, keepdims=True)
    chosen = visible & (is_undefined | is_among_largest(ranked, top_k))
    weights, _ = softmax(np.where(chosen, np.where(is_undefined, np.nan, logits), -np.inf), chosen, None)
    return weights, chosen


def is_among_largest(numbers: Array, count: int) -> Array:
    """Say which are the `count` largest of a row: the first of equal ones, and never −∞."""
    order = np.argsort(-numbers, axis=-1, kind="stable")
    place = np.argsort(order, axis=-1)
    return np.asarray((place < count) & (numbers != -np.inf))


def attend_additive(attention: Attention, score_weight: Array) -> Array:
    """Compute the output (*B, Hq, Tq, Dv) of an attention whose queries and keys are hidden units, block by block."""
    outputs = []
    for rows in query_blocks(attention.sizes):
        products = additive_products(attention.query[..., rows, :], attention.key, score_weight)
        outputs.append(stages_from(products, attention.value, terms_of(attention, rows)).output)
    return np.concatenate(outputs, axis=-2)


def hidden_units(inputs: Array, weight: Array | None, bias: Array | None) -> Array:
    """Compute x W + b, before the tanh; a weight that is None is the identity."""
    if weight is not None:
        return project(inputs, weight, bias)
    return widen(inputs) if bias is None else widen(inputs) + widen(bias)


def additive_products(query: Array, key: Array, score_weight: Array) -> Array:
    """Compute Σ_a w_a tanh(q_ia + k_ja), (*B, Hq, q, Tk); NaN for every pair of which one is not finite."""
    clean_query, clean_key = finite(query), by_query_head(finite(key), query)
    # One hidden unit after the other, so that nothing is larger than the result.
    products = 0.0
    for a in range(score_weight.shape[0]):
        products = products + score_weight[a] * np.tanh(clean_query[..., :, None, a] + clean_key[..., None, :, a])
    return np.where(is_clean_pair(query, key), products, np.nan)


def by_unit_vectors(attention: Attention) -> Attention:
    """Replace queries and keys by vectors of the same direction and of length 1."""
    return attention._replace(query=unit_vectors(attention.query), key=unit_vectors(attention.key))


def unit_vectors(array: Array) -> Array:
    """Divide vectors by their lengths; 0 stays 0, and what is not finite is NaN."""
    largest, length = length_of(finite(array))
    return np.where(is_finite_row(array)[..., None], finite(array) / largest / length, np.nan)


def length_of(vectors: Array) -> tuple[Array, Array]:
    """Give the lengths of vectors as products of two factors; 1 and 1 for 0."""
    # Squares of the components would overflow, or vanish, long before the vector does.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    largest = np.where(largest != 0.0, largest, 1.0)
    scaled = vectors / largest
    length = np.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))
    return largest, np.where(length != 0.0, length, 1.0)

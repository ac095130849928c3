"""Hard attention, and attention by other similarities than the dot product, in JAX."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from attnspec.contract.biases import BiasArray
from attnspec.contract.layer_parameters import AdditiveParameters
from attnspec.contract.operands import check_floating
from attnspec.contract.options import Given, check_options
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.shapes import dot_product_sizes
from attnspec.contract.similarities import additive_sizes, bilinear_sizes, check_noise, check_top_k, with_unit_scale
from attnspec.contract.states import rebuild

from .attention import (
    Attention,
    Terms,
    compute_stages,
    dot_products,
    finite,
    group,
    is_clean_pair,
    is_finite_row,
    logits_of,
    matmul,
    mix,
    prepare,
    softmax,
    stages_from,
    terms_of,
    ungroup,
    widen,
)
from .masks import bias_values, block_of
from .projections import project
from .tensors import as_option, as_tensors, describe, new_checks, with_tensors


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

    Arguments, shapes and errors: `attnspec.reference.hard_attention`.

    Differences: as for `dot_product_attention`; differentiation is straight-through, as in
    `attnspec.reference.hard_attention_vjp`.
    """
    top_k = check_top_k(top_k)
    attention, noise, shape, dtype = prepare_hard_attention(query, key, value, noise, Given(mask, bias, scale, softcap))
    return attend_hard(attention, noise, top_k).reshape(shape).astype(dtype)


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

    Arguments, shapes and errors: `attnspec.reference.additive_attention`.

    Differences: as for `dot_product_attention`; holds A numbers for each pair of query and key.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, parameters, shape, dtype = prepare_additive_attention(query, key, value, parameters, given)
    return attend_additive(attention, widen(parameters.score_weight)).reshape(shape).astype(dtype)


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

    Arguments, shapes and errors: `attnspec.reference.bilinear_attention`.

    Differences: as for `dot_product_attention`; q W is not rounded to half precision in between.
    """
    given = Given(mask, bias, scale, softcap, sinks, dropout)
    attention, shape, dtype = prepare_bilinear_attention(query, key, value, weight, given)
    output: Array = compute_stages(attention).output
    return output.reshape(shape).astype(dtype)


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

    Arguments, shapes and errors: `attnspec.reference.cosine_attention`.

    Differences: as for `dot_product_attention`; unit vectors are not rounded to half precision in between.
    """
    given = with_unit_scale(Given(mask, bias, scale, softcap, sinks, dropout))
    attention, shape, dtype = prepare(query, key, value, given)
    output: Array = compute_stages(by_unit_vectors(attention)).output
    return output.reshape(shape).astype(dtype)


def prepare_hard_attention(
    query: Any, key: Any, value: Any, noise: Any, given: Given
) -> tuple[Attention, BiasArray | None, tuple[int, ...], jnp.dtype]:
    """Check the arguments of a hard attention; return it in canonical layout, its noise, its output's shape, dtype."""
    query, key, value = as_tensors(query=query, key=key, value=value)
    given = with_tensors(given, query)
    noise = None if noise is None else BiasArray(as_option("noise", noise, query))
    dtype = check_floating(query=describe(query), key=describe(key), value=describe(value))
    checks = new_checks(query)
    sizes = dot_product_sizes(describe(query), describe(key), describe(value), checks)
    options = check_options(sizes, dtype, given, checks)
    check_noise(noise, sizes, dtype, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    wide_query, wide_key, wide_value = widen(query), widen(key), widen(value)
    if not sizes.has_heads:
        wide_query, wide_key, wide_value = (x[..., None, :, :] for x in (wide_query, wide_key, wide_value))
    return Attention(wide_query, wide_key, wide_value, sizes, options), noise, shape, query.dtype


def prepare_additive_attention(
    query: Any, key: Any, value: Any, parameters: AdditiveParameters, given: Given
) -> tuple[Attention, AdditiveParameters, tuple[int, ...], jnp.dtype]:
    """Check the arguments of an additive attention; return it with hidden units as queries and keys, and the rest."""
    leaves = check_tree("parameters", parameters, AdditiveParameters)
    query, key, value, *arrays = as_tensors(query=query, key=key, value=value, **name_leaves(leaves))
    given = with_unit_scale(with_tensors(given, query))
    parameters = rebuild(parameters, dict(zip(leaves, arrays, strict=True)))
    described = {name: describe(array) for name, array in zip(leaves, arrays, strict=True)}
    operands = {"query": describe(query), "key": describe(key), "value": describe(value)}
    dtype = check_leaf_dtypes(operands, described)
    checks = new_checks(query)
    sizes = additive_sizes(**operands, parameters=described, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    hidden_query = hidden_units(query, parameters.query_weight, parameters.hidden_bias)
    hidden_key, wide_value = hidden_units(key, parameters.key_weight, None), widen(value)
    if not sizes.has_heads:
        hidden_query, hidden_key, wide_value = (x[..., None, :, :] for x in (hidden_query, hidden_key, wide_value))
    return Attention(hidden_query, hidden_key, wide_value, sizes, options), parameters, shape, query.dtype


def prepare_bilinear_attention(
    query: Any, key: Any, value: Any, weight: Any, given: Given
) -> tuple[Attention, tuple[int, ...], jnp.dtype]:
    """Check the arguments of a bilinear attention; return it with projected queries, its output's shape and dtype."""
    query, key, value, weight = as_tensors(query=query, key=key, value=value, weight=weight)
    given = with_unit_scale(with_tensors(given, query))
    operands = {"query": describe(query), "key": describe(key), "value": describe(value), "weight": describe(weight)}
    dtype = check_floating(**operands)
    checks = new_checks(query)
    sizes = bilinear_sizes(**operands, checks=checks)
    options = check_options(sizes, dtype, given, checks)
    shape = (*query.shape[:-1], value.shape[-1])
    projected, wide_key, wide_value = project(query, weight, None), widen(key), widen(value)
    if not sizes.has_heads:
        projected, wide_key, wide_value = (x[..., None, :, :] for x in (projected, wide_key, wide_value))
    return Attention(projected, wide_key, wide_value, sizes, options), shape, query.dtype


def attend_hard(attention: Attention, noise: BiasArray | None, top_k: int) -> Array:
    """Compute the output (*B, Hq, Tq, Dv)."""
    numbers = bias_values(noise, block_of(attention.sizes, attention.query))
    output: Array = hard_output(attention.query, attention.key, attention.value, terms_of(attention), numbers, top_k)
    return output


@functools.partial(jax.jit, static_argnames="top_k")  # one compilation, as for `stages_of`
def hard_output(query: Array, key: Array, value: Array, terms: Terms, noise: Array | None, top_k: int) -> Array:
    """Compute the formula itself: choose, softmax over the chosen, average."""
    _, logits = logits_of(dot_products(query, key), terms)
    weights, chosen = hard_weights(logits, terms.visible, noise, top_k)
    return mix(weights, value, chosen)


def hard_weights(logits: Array, visible: Array, noise: Array | None, top_k: int) -> tuple[Array, Array]:
    """Compute weights over the chosen keys, and which these are; a row that sees a NaN chooses all that it sees."""
    still = lax.stop_gradient(logits)
    ranked = still if noise is None else still + jnp.where(visible, lax.stop_gradient(noise), 0.0)
    is_undefined = jnp.isnan(ranked).any(axis=-1, keepdims=True)
    chosen = visible & (is_undefined | is_among_largest(ranked, top_k))
    weights, _ = softmax(jnp.where(chosen, jnp.where(is_undefined, jnp.nan, still), -jnp.inf), chosen, None)
    # Straight through: the soft weights lend their derivative, and add exactly 0.
    soft_weights, _ = softmax(logits, visible, None)
    return weights + (soft_weights - lax.stop_gradient(soft_weights)), chosen


def is_among_largest(numbers: Array, count: int) -> Array:
    """Say which are the `count` largest of a row: the first of equal ones, and never −∞."""
    # By places in a stable order: a compiler may compute a number twice, to different last bits, so that it does not
    # equal itself.
    order = jnp.argsort(-numbers, axis=-1, stable=True)
    place = jnp.argsort(order, axis=-1)
    return (place < count) & (numbers != -jnp.inf)


def attend_additive(attention: Attention, score_weight: Array) -> Array:
    """Compute the output (*B, Hq, Tq, Dv) of an attention whose queries and keys are hidden units."""
    output: Array = additive_output(attention.query, attention.key, attention.value, score_weight, terms_of(attention))
    return output


@jax.jit  # one compilation, as for `stages_of`
def additive_output(query: Array, key: Array, value: Array, score_weight: Array, terms: Terms) -> Array:
    """Compute the formula itself: products of hidden units, then the stages of every attention."""
    output: Array = stages_from(additive_products(query, key, score_weight), value, terms).output
    return output


@jax.jit
def hidden_units(inputs: Array, weight: Array | None, bias: Array | None) -> Array:
    """Compute x W + b, before the tanh; a weight that is None is the identity."""
    if weight is not None:
        projected: Array = project(inputs, weight, bias)
        return projected
    return widen(inputs) if bias is None else widen(inputs) + widen(bias)


def additive_products(query: Array, key: Array, score_weight: Array) -> Array:
    """Compute Σ_a w_a tanh(q_ia + k_ja), (*B, Hq, Tq, Tk); NaN for every pair of which one is not finite."""
    activations = jnp.tanh(group(finite(query), key)[..., :, None, :] + finite(key)[..., None, :, :])
    products = ungroup(matmul(activations, score_weight), query)
    return jnp.where(is_clean_pair(query, key), products, jnp.nan)


def by_unit_vectors(attention: Attention) -> Attention:
    """Replace queries and keys by vectors of the same direction and of length 1."""
    return attention._replace(query=unit_vectors(attention.query), key=unit_vectors(attention.key))


@jax.jit
def unit_vectors(array: Array) -> Array:
    """Divide vectors by their lengths; 0 stays 0, without a derivative, and what is not finite is NaN."""
    clean = finite(array)
    # Squares of the components would overflow, or vanish, long before the vector does. Any factor does as well, so the
    # largest component is a constant to the derivative.
    largest = jnp.abs(lax.stop_gradient(clean)).max(axis=-1, keepdims=True)
    scaled = clean / jnp.where(largest != 0.0, largest, 1.0)
    length = jnp.sqrt(jnp.where(largest != 0.0, (scaled * scaled).sum(axis=-1, keepdims=True), 1.0))
    units = jnp.where(largest != 0.0, scaled / length, 0.0)
    return jnp.where(is_finite_row(array)[..., None], units, jnp.nan)

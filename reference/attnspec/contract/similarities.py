"""What hard attention and attention by other similarities than the dot product take (clauses S20, S23–S25)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .biases import BiasArray, check_option_dtype
from .checks import Checks
from .operands import Operand, show_shape
from .options import Given
from .parameter_checks import check_leaf_shapes
from .shapes import Sizes, check_head_dim, check_pairs, similarity_sizes

ADDITIVE_SHAPES = {"score_weight": "A", "query_weight": "Dq A", "key_weight": "Dk A", "hidden_bias": "A"}
"""The axes of `AdditiveParameters`, by letter."""


def with_unit_scale(given: Given) -> Given:
    """Fill in the scale of a similarity that is no sum over the head dimension: 1."""
    return given if given.scale is not None else given._replace(scale=1.0)


def check_top_k(top_k: Any) -> int:
    """Check how many keys a query may choose."""
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer):
        raise TypeError(f"`top_k` must be an int; got {top_k!r}")
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1; got {top_k}")
    return int(top_k)


def check_noise(noise: BiasArray | None, sizes: Sizes, dtype: str, checks: Checks) -> None:
    """Check dtype, rank and axes of the noise beside a query of this dtype: those of a bias array (S5, S16)."""
    if noise is not None:
        check_option_dtype("noise", noise.array, dtype)
        check_pairs("noise", checks.shape(noise.array), sizes, checks)


def additive_sizes(
    query: Operand, key: Operand, value: Operand, parameters: Mapping[str, Operand], checks: Checks
) -> Sizes:
    """Check (*B,Hq,Tq,Dq) (*B,Hkv,Tk,Dk) (*B,Hkv,Tk,Dv) against the fields of `AdditiveParameters` that are given."""
    sizes = similarity_sizes(query, key, value, checks)
    check_head_dim(key.shape[-1], "key", key, checks)
    known = {"Dq": query.shape[-1], "Dk": key.shape[-1]}
    hidden = check_leaf_shapes(parameters, ADDITIVE_SHAPES, known, checks)["A"]
    score_weight = show_shape(parameters["score_weight"].shape)
    checks.at_most(
        1, hidden, lambda: f"`score_weight` of `parameters` must have at least 1 element; got shape {score_weight}"
    )
    for name, operand in (("query", query), ("key", key)):
        if f"{name}_weight" in parameters:
            continue

        def message(name: str = name, operand: Operand = operand) -> str:
            return (
                f"`{name}` must have the size of `score_weight` of `parameters`, which have no `{name}_weight`; "
                f"got shapes {name} {show_shape(operand.shape)} and score_weight {score_weight}"
            )

        checks.equal(operand.shape[-1], hidden, message)
    return sizes


def bilinear_sizes(query: Operand, key: Operand, value: Operand, weight: Operand, checks: Checks) -> Sizes:
    """Check (*B,Hq,Tq,Dq) (*B,Hkv,Tk,Dk) (*B,Hkv,Tk,Dv) and the weight (Dq,Dk)."""
    sizes = similarity_sizes(query, key, value, checks)
    check_head_dim(key.shape[-1], "key", key, checks)

    def message() -> str:
        return (
            f"`weight` must have shape (size of `query`, size of `key`); got shapes query {show_shape(query.shape)}, "
            f"key {show_shape(key.shape)} and weight {show_shape(weight.shape)}"
        )

    if len(weight.shape) != 2:
        raise ValueError(message())
    for size, expected in zip(weight.shape, (query.shape[-1], key.shape[-1]), strict=True):
        checks.equal(size, expected, message)
    return sizes

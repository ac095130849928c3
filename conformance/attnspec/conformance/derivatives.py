"""Gradients of every operation, in the reference's closed form, and how far a target's may be from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec import reference
from attnspec.contract import MultiHeadParameters

from .composed_operations import Composed, evaluate_backward_by_monte_carlo
from .operation import Evaluation, range_of
from .operations import OPERATIONS
from .position_bounds import rotary_bound
from .profiles import Profile
from .projection_gradient_bounds import (
    dot_product_gradient_bounds,
    key_value_gradient_bounds,
    multi_head_gradient_bounds,
    self_attention_gradient_bounds,
)

Array: TypeAlias = np.ndarray[Any, Any]
Tensors = Mapping[str, Any]


class Derivative(NamedTuple):
    """The gradients of one operation and their bounds, each by the name of the tensor that it belongs to."""

    gradients: Callable[[Tensors, Mapping[str, Any], Tensors], Mapping[str, Any]]
    """(tensors, options, cotangents) → exact gradients."""
    bounds: Callable[[Tensors, Mapping[str, Any], Tensors, Profile], Mapping[str, Any]]
    """(tensors, options, cotangents, profile) → the largest allowed error of each."""


def reference_gradients(
    operation: str, tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors
) -> dict[str, Array]:
    """Return the gradient of Σ cotangent · result for every tensor that has one; objects have none."""
    composed = OPERATIONS[operation]
    if isinstance(composed, Composed):
        return composed.gradients(tensors, options, cotangents)
    gradients = DERIVATIVES[operation].gradients(tensors, options, cotangents)
    return {name: gradient for name, gradient in gradients.items() if isinstance(gradient, np.ndarray)}


def evaluate_backward(
    operation: str, tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Evaluation:
    """Return the exact gradients, their bounds under a profile, and their ranges."""
    if isinstance(OPERATIONS[operation], Composed) or options.get("rotary") is not None:

        def compute(*given: Any) -> Mapping[str, Array]:
            return reference_gradients(operation, *given)

        gradients, bounds, ranges, *_ = evaluate_backward_by_monte_carlo(compute, tensors, options, cotangents, profile)
    else:
        gradients = reference_gradients(operation, tensors, options, cotangents)
        bounds = dict(DERIVATIVES[operation].bounds(tensors, options, cotangents, profile))
        ranges = {name: range_of(gradient) for name, gradient in gradients.items()}
    largest = max(ranges.values(), default=0.0)
    for name, gradient in gradients.items():
        # A key's bias shifts all logits of a row alike, so its gradient vanishes: it is measured against the others.
        if gradient.size and np.abs(gradient).max() < 1e-12 * largest:
            ranges[name] = largest
    return Evaluation(gradients, {name: np.asarray(bounds[name]) for name in gradients}, ranges)


def _core(tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> Mapping[str, Any]:
    return reference.dot_product_attention_vjp(
        tensors["query"],
        tensors["key"],
        tensors["value"],
        cotangents["output"],
        logsumexp_cotangent=cotangents.get("logsumexp"),
        **options,
    )._asdict()


def _core_bounds(
    tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Mapping[str, Any]:
    output, logsumexp = cotangents["output"], cotangents.get("logsumexp")
    return dot_product_gradient_bounds(tensors, options, output, logsumexp, profile)._asdict()


def _self_attention(tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> Mapping[str, Any]:
    return reference.self_attention_vjp(
        tensors["inputs"],
        tensors["query_weight"],
        tensors["key_weight"],
        tensors["value_weight"],
        cotangents["output"],
        **options,
    )._asdict()


def _self_attention_bounds(
    tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Mapping[str, Any]:
    return self_attention_gradient_bounds(tensors, options, cotangents["output"], profile)._asdict()


def _key_value_attention(tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> Mapping[str, Any]:
    gradients = reference.key_value_attention_vjp(
        tensors["query"], tensors["keys"], tensors["values"], cotangents["output"], **options
    )
    return _memory_names(gradients._asdict())


def _key_value_bounds(
    tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Mapping[str, Any]:
    return _memory_names(key_value_gradient_bounds(tensors, options, cotangents["output"], profile)._asdict())


def _memory_names(gradients: dict[str, Any]) -> Mapping[str, Any]:
    return gradients | {"keys": gradients.pop("key"), "values": gradients.pop("value")}


def _multi_head_attention(tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> Mapping[str, Any]:
    parameters = MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields))
    gradients = reference.multi_head_attention_vjp(
        tensors["query"], tensors["key"], tensors["value"], parameters, cotangents["output"], **options
    )
    return {**gradients._asdict(), **gradients.parameters._asdict()}


def _multi_head_bounds(
    tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Mapping[str, Any]:
    bounds = multi_head_gradient_bounds(tensors, options, cotangents["output"], profile)
    return {**bounds._asdict(), **bounds.parameters._asdict()}


def _rotary_embedding(tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> Mapping[str, Any]:
    return {"inputs": reference.rotary_embedding_vjp(tensors["positions"], cotangents["output"], **options)}


def _rotary_bounds(
    tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors, profile: Profile
) -> Mapping[str, Any]:
    # The transpose of a turn is the turn back: what a cotangent goes through is what inputs go through.
    cotangent, positions = (np.asarray(array, np.float64) for array in (cotangents["output"], tensors["positions"]))
    return {"inputs": rotary_bound(cotangent, positions, options, profile)}


DERIVATIVES: dict[str, Derivative] = {
    "dot_product_attention": Derivative(_core, _core_bounds),
    "attention_with_logsumexp": Derivative(_core, _core_bounds),
    "self_attention": Derivative(_self_attention, _self_attention_bounds),
    "key_value_attention": Derivative(_key_value_attention, _key_value_bounds),
    "multi_head_attention": Derivative(_multi_head_attention, _multi_head_bounds),
    "rotary_embedding": Derivative(_rotary_embedding, _rotary_bounds),
}

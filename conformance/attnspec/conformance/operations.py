"""The four operations as the suite sees them: which tensors they take, how they are called, how far they may be off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import MultiHeadParameters
from attnspec.reference import attention as reference_attention
from attnspec.reference import projections as reference_projections

from .bounds import Projected, StageBounds, attention_bounds, projection_bound
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]
Tensors = Mapping[str, Any]


class Operation(NamedTuple):
    """One operation: the names of its tensors, in order, and of the numbers that it needs beside them."""

    name: str
    tensors: tuple[str, ...]
    optional: tuple[str, ...]
    numbers: tuple[str, ...]
    evaluate: Callable[..., Evaluation]
    """(tensors, options, profile) → the exact output and the bound of every element."""

    def call(self, module: Any, tensors: Tensors, options: Mapping[str, Any]) -> Any:
        """Call this operation of a backend with its own tensors and options."""
        function = getattr(module, self.name)
        if self.name != "multi_head_attention":
            return function(*(tensors[name] for name in self.tensors), **options)
        query, key, value, *_ = (tensors[name] for name in self.tensors)
        parameters = MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields))
        return function(query, key, value, parameters, **options)


class Evaluation(NamedTuple):
    """What an operation must give: output, its bound, and the range of the values that it averages."""

    output: Array
    bound: Array
    value_range: float
    stages: Any
    stage_bounds: StageBounds


def _dot_product(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention, shape = reference_attention.prepare(
        tensors["query"], tensors["key"], tensors["value"], **_core_options(options)
    )
    evaluation = _evaluate(attention, profile)
    return evaluation._replace(output=evaluation.output.reshape(shape), bound=evaluation.bound.reshape(shape))


def _self_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    names = ("inputs", "query_weight", "key_weight", "value_weight")
    wide = {name: np.asarray(tensors[name], np.float64) for name in names}
    attention = reference_projections.prepare_self_attention(
        *(tensors[name] for name in names), **_core_options(options)
    )
    inputs = wide["inputs"][..., None, :, :]
    errors = Projected(*(projection_bound(inputs, wide[f"{part}_weight"], None, profile)[1] for part in _PARTS))
    evaluation = _evaluate(attention, profile, errors)
    return evaluation._replace(output=evaluation.output[..., 0, :, :], bound=evaluation.bound[..., 0, :, :])


def _key_value_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention = reference_projections.prepare_key_value_attention(
        tensors["query"], tensors["keys"], tensors["values"], **_core_options(options)
    )
    evaluation = _evaluate(attention, profile)
    return evaluation._replace(output=evaluation.output[..., 0, 0, :], bound=evaluation.bound[..., 0, 0, :])


def _multi_head_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    parameters = MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields))
    attention, _ = reference_projections.prepare_multi_head_attention(
        tensors["query"],
        tensors["key"],
        tensors["value"],
        parameters,
        num_heads=options["num_heads"],
        num_kv_heads=options.get("num_kv_heads"),
        **_core_options(options),
    )
    errors = []
    for part, count in zip(_PARTS, (attention.sizes.num_heads, *2 * (attention.sizes.num_kv_heads,)), strict=True):
        _, bound = projection_bound(
            np.asarray(tensors[part], np.float64),
            _wide(tensors, f"{part}_weight"),
            _wide(tensors, f"{part}_bias"),
            profile,
        )
        errors.append(reference_projections.split_heads(bound, count))
    evaluation = _evaluate(attention, profile, Projected(*errors))
    output, bound = projection_bound(
        reference_projections.merge_heads(evaluation.output),
        _wide(tensors, "output_weight"),
        _wide(tensors, "output_bias"),
        profile,
        reference_projections.merge_heads(evaluation.bound),
    )
    scale = np.abs(_wide(tensors, "output_weight")).sum(axis=0).max(initial=0.0)
    return evaluation._replace(output=output, bound=bound, value_range=evaluation.value_range * float(scale))


_PARTS = ("query", "key", "value")


def _evaluate(
    attention: reference_attention.Attention, profile: Profile, errors: Projected | None = None
) -> Evaluation:
    stages = reference_attention.compute_stages(attention, slice(0, attention.sizes.query_length))
    bounds = attention_bounds(attention, profile) if errors is None else attention_bounds(attention, profile, errors)
    value = attention.value[np.isfinite(attention.value)]
    value_range = float(value.max() - value.min()) if value.size else 0.0
    return Evaluation(stages.output, bounds.output, value_range, stages, bounds)


def _core_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options.get(name) for name in ("mask", "bias", "scale", "softcap")}


def _wide(tensors: Tensors, name: str) -> Any:
    return None if tensors.get(name) is None else np.asarray(tensors[name], np.float64)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("dot_product_attention", ("query", "key", "value"), (), (), _dot_product),
        Operation("self_attention", ("inputs", "query_weight", "key_weight", "value_weight"), (), (), _self_attention),
        Operation("key_value_attention", ("query", "keys", "values"), (), (), _key_value_attention),
        Operation(
            "multi_head_attention",
            ("query", "key", "value", *MultiHeadParameters._fields[:4]),
            MultiHeadParameters._fields[4:],
            ("num_heads", "num_kv_heads"),
            _multi_head_attention,
        ),
    )
}

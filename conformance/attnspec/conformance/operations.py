"""The operations as the suite sees them: which tensors they take, how they are called, how far they may be off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnspec.contract import MultiHeadParameters
from attnspec.contract.options import Given
from attnspec.reference import attention as reference_attention
from attnspec.reference import partial_results, positions
from attnspec.reference import projections as reference_projections
from attnspec.reference.attention import Attention

from .bounds import Projected, attention_bounds, projection_bound
from .composed_operations import COMPOSED, evaluate_by_monte_carlo
from .operation import Evaluation, Operation, Tensors, range_of
from .partial_bounds import merge_bound
from .position_bounds import rotary_bound, sinusoidal_bound
from .profiles import Profile


def _call_plainly(module: Any, operation: Operation, tensors: Tensors, options: Mapping[str, Any]) -> Any:
    return getattr(module, operation.name)(*(tensors[name] for name in operation.tensors), **options)


def _call_multi_head(module: Any, operation: Operation, tensors: Tensors, options: Mapping[str, Any]) -> Any:
    query, key, value, *_ = (tensors[name] for name in operation.tensors)
    parameters = MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields))
    return module.multi_head_attention(query, key, value, parameters, **options)


def _call_merge(module: Any, operation: Operation, tensors: Tensors, options: Mapping[str, Any]) -> Any:
    outputs, logsumexps = (list(tensors[name]) for name in operation.tensors)  # slices are stacked in a vector
    return module.merge_attention(outputs, logsumexps, **options)


def _call_sinusoidal(module: Any, operation: Operation, tensors: Tensors, options: Mapping[str, Any]) -> Any:
    del operation
    return module.sinusoidal_positions(tensors["positions"], **options)


def _dot_product(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention, shape = reference_attention.prepare(
        tensors["query"], tensors["key"], tensors["value"], given_options(options)
    )
    return _reshaped(_evaluate(attention, profile), output=shape)


def _with_logsumexp(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention, shape = reference_attention.prepare(
        tensors["query"], tensors["key"], tensors["value"], given_options(options)
    )
    evaluation = _evaluate(attention, profile)
    stages, bounds = evaluation.stages, evaluation.stage_bounds
    assert bounds is not None  # noqa: S101 - an attention has stages
    seen = stages.logsumexp[np.isfinite(stages.logsumexp)]
    evaluation = evaluation._replace(
        results=evaluation.results | {"logsumexp": stages.logsumexp},
        bounds=evaluation.bounds | {"logsumexp": bounds.logsumexp},
        ranges=evaluation.ranges | {"logsumexp": float(np.ptp(seen)) if seen.size else 0.0},
    )
    return _reshaped(evaluation, output=shape, logsumexp=shape[:-1])


def _merge(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    outputs, logsumexps = (np.asarray(tensors[name], np.float64) for name in ("outputs", "logsumexps"))
    sinks = options.get("sinks")
    sink = None if sinks is None else np.asarray(sinks, np.float64)[..., None]
    exact = partial_results.merge(outputs, logsumexps, sink)
    # A merge has no scores to store, and its results are not rounded to the inputs' dtype.
    wide = profile._replace(output=profile.accumulation, scores=profile.accumulation, rounds_softmax=False)
    bounds = merge_bound(outputs, logsumexps, sink, wide)
    return Evaluation(
        {"output": exact.output, "logsumexp": exact.logsumexp},
        dict(zip(("output", "logsumexp"), bounds, strict=True)),
        {"output": range_of(outputs), "logsumexp": range_of(logsumexps)},
    )


def _self_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention, errors = prepare_self_attention(tensors, options, profile)
    evaluation = _evaluate(attention, profile, errors)
    return _reshaped(evaluation, output=(*np.shape(tensors["inputs"])[:-1], attention.sizes.value_dim))


def _key_value_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    attention = reference_projections.prepare_key_value_attention(
        tensors["query"], tensors["keys"], tensors["values"], given_options(options)
    )
    shape = (*np.shape(tensors["query"])[:-1], attention.sizes.value_dim)
    return _reshaped(_evaluate(attention, profile), output=shape)


def _multi_head_attention(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    if options.get("rotary") is not None:
        return evaluate_by_monte_carlo(OPERATIONS["multi_head_attention"], tensors, options, profile)
    attention, errors = prepare_multi_head_attention(tensors, options, profile)
    evaluation = _evaluate(attention, profile, errors)
    output, bound = projection_bound(
        reference_projections.merge_heads(evaluation.output),
        wide_tensor(tensors, "output_weight"),
        wide_tensor(tensors, "output_bias"),
        profile,
        reference_projections.merge_heads(evaluation.bound),
    )
    scale = float(np.abs(wide_tensor(tensors, "output_weight")).sum(axis=0).max(initial=0.0))
    return evaluation._replace(
        results={"output": output},
        bounds={"output": bound},
        ranges={"output": evaluation.ranges["output"] * scale},
    )


def _rotary_embedding(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    inputs, places = (np.asarray(tensors[name], np.float64) for name in ("inputs", "positions"))
    exact = positions.rotary_embedding(inputs, places, **options)
    return Evaluation(
        {"output": exact}, {"output": rotary_bound(inputs, places, options, profile)}, {"output": range_of(inputs)}
    )


def _sinusoidal_positions(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
    places = np.asarray(tensors["positions"], np.float64)
    exact = positions.sinusoidal_positions(places, **options)
    return Evaluation({"output": exact}, {"output": sinusoidal_bound(places, options, profile)}, {"output": 2.0})


_PARTS = ("query", "key", "value")


def prepare_self_attention(
    tensors: Tensors, options: Mapping[str, Any], profile: Profile
) -> tuple[Attention, Projected]:
    """Return the attention inside a self-attention, and the errors that its projections carry."""
    attention = reference_projections.prepare_self_attention(
        tensors["inputs"],
        tensors["query_weight"],
        tensors["key_weight"],
        tensors["value_weight"],
        given_options(options),
    )
    inputs = wide_tensor(tensors, "inputs")[..., None, :, :]
    weights = (wide_tensor(tensors, f"{part}_weight") for part in _PARTS)
    return attention, Projected(*(projection_bound(inputs, weight, None, profile)[1] for weight in weights))


def prepare_multi_head_attention(
    tensors: Tensors, options: Mapping[str, Any], profile: Profile
) -> tuple[Attention, Projected]:
    """Return the attention inside a multi-head attention, and the errors that its projections carry."""
    parameters = MultiHeadParameters(*(tensors.get(name) for name in MultiHeadParameters._fields))
    attention, _ = reference_projections.prepare_multi_head_attention(
        tensors["query"],
        tensors["key"],
        tensors["value"],
        parameters,
        options["num_heads"],
        options.get("num_kv_heads"),
        given_options(options),
        None,
    )
    errors = []
    for part, count in zip(_PARTS, (attention.sizes.num_heads, *2 * (attention.sizes.num_kv_heads,)), strict=True):
        weight, bias = wide_tensor(tensors, f"{part}_weight"), wide_tensor(tensors, f"{part}_bias")
        _, bound = projection_bound(wide_tensor(tensors, part), weight, bias, profile)
        errors.append(reference_projections.split_heads(bound, count))
    return attention, Projected(*errors)


def given_options(options: Mapping[str, Any]) -> Given:
    """Take what every attention takes out of a case's options."""
    return Given(*(options.get(name) for name in Given._fields))


def wide_tensor(tensors: Tensors, name: str) -> Any:
    """Return a tensor in float64, None where it is not given."""
    return None if tensors.get(name) is None else np.asarray(tensors[name], np.float64)


def _evaluate(attention: Attention, profile: Profile, errors: Projected | None = None) -> Evaluation:
    stages = reference_attention.compute_stages(attention, slice(0, attention.sizes.query_length))
    bounds = attention_bounds(attention, profile) if errors is None else attention_bounds(attention, profile, errors)
    ranges = {"output": range_of(attention.value)}
    return Evaluation({"output": stages.output}, {"output": bounds.output}, ranges, stages, bounds)


def _reshaped(evaluation: Evaluation, **shapes: tuple[int, ...]) -> Evaluation:
    """Give the results the shapes that the caller sees: the canonical layout always has a head axis."""
    return evaluation._replace(
        results={name: evaluation.results[name].reshape(shape) for name, shape in shapes.items()},
        bounds={name: evaluation.bounds[name].reshape(shape) for name, shape in shapes.items()},
    )


_CORE = ("query", "key", "value")

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("dot_product_attention", _CORE, (), (), _dot_product, _call_plainly),
        Operation(
            "attention_with_logsumexp",
            _CORE,
            (),
            (),
            _with_logsumexp,
            _call_plainly,
            results=("output", "logsumexp"),
        ),
        Operation(
            "merge_attention",
            ("outputs", "logsumexps"),
            (),
            (),
            _merge,
            _call_merge,
            is_attention=False,
            results=("output", "logsumexp"),
        ),
        Operation(
            "self_attention",
            ("inputs", "query_weight", "key_weight", "value_weight"),
            (),
            (),
            _self_attention,
            _call_plainly,
        ),
        Operation("key_value_attention", ("query", "keys", "values"), (), (), _key_value_attention, _call_plainly),
        Operation(
            "multi_head_attention",
            (*_CORE, *MultiHeadParameters._fields[:4]),
            MultiHeadParameters._fields[4:],
            ("num_heads", "num_kv_heads"),
            _multi_head_attention,
            _call_multi_head,
            required=("num_heads",),
        ),
        Operation(
            "rotary_embedding",
            ("inputs", "positions"),
            (),
            ("pairing", "base", "rotary_dim"),
            _rotary_embedding,
            _call_plainly,
            is_attention=False,
            required=("pairing",),
        ),
        Operation(
            "sinusoidal_positions",
            ("positions",),
            (),
            ("size", "base", "dtype"),
            _sinusoidal_positions,
            _call_sinusoidal,
            is_attention=False,
            required=("size",),
        ),
        *COMPOSED,
    )
}

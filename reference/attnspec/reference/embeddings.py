"""What stands before and behind the layers of a model: the tensors of a call, embedding, positions, pooling."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.models import (
    check_embedded,
    check_start,
    check_table,
    check_valid,
    check_vectors,
    holds_ids,
)
from attnspec.contract.operands import Operand, check_floating
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.states import rebuild

from .attention import widen
from .positions import sinusoids
from .projections import project
from .tensors import NATIVE, Array, as_ids, as_tensors, constant, describe, mask_tensor, new_checks


class ModelTensors(NamedTuple):
    """The tensors of a model's call: their dtypes are checked, their shapes not yet."""

    inputs: dict[str, Array]
    """By the names of the arguments: integers where they are ids, otherwise floating."""
    ids: dict[str, Any]
    """As the caller gave them, those that are ids."""
    arrays: dict[str, Array]
    """The leaves of the parameters by path, in float64."""
    leaves: dict[str, Operand]
    """The same as the caller gave them, as the agreement sees them."""
    like: Array
    """One that has the caller's dtype."""


def as_model_tensors(inputs: dict[str, Any], embedded: Collection[str], given: dict[str, Any]) -> ModelTensors:
    """Turn inputs and leaves into arrays; those inputs that are embedded may be ids."""
    ids = {name: value for name, value in inputs.items() if name in embedded and holds_ids(name, value, NATIVE)}
    vectors = {name: value for name, value in inputs.items() if name not in ids}
    tensors = dict(zip([*vectors, *given], as_tensors(**vectors, **name_leaves(given)), strict=True))
    leaves = {path: describe(tensors[path]) for path in given}
    arrays = {path: widen(tensors[path]) for path in given}
    check_leaf_dtypes({name: describe(tensors[name]) for name in vectors} or dict([*leaves.items()][:1]), leaves)
    found = {name: as_ids(name, value) if name in ids else tensors[name] for name, value in inputs.items()}
    return ModelTensors(found, ids, arrays, leaves, next(iter(tensors.values())))


def prepare_embedding(inputs: Any, parameters: LinearParameters) -> tuple[Array, LinearParameters]:
    """Check the arguments of an embedding; return ids or vectors, and parameters of arrays."""
    given = check_tree("parameters", parameters, LinearParameters)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    array = tensors.inputs["inputs"]
    check_embedded("inputs", describe(array), tensors.ids.get("inputs"), tensors.leaves, "", new_checks())
    return array, rebuild(parameters, tensors.arrays)


def prepare_learned_positions(inputs: Any, table: Any, offset: Any) -> tuple[Array, Array, Any]:
    """Check the arguments of `add_learned_positions`; return inputs and table in float64, and the offset."""
    inputs, table = as_tensors(inputs=inputs, table=table)
    check_floating(inputs=describe(inputs), table=describe(table))
    checks = new_checks()
    check_vectors("inputs", inputs.shape)
    offset = check_start(offset, checks)
    check_table("table", table.shape, "inputs", inputs.shape, offset, checks)
    return widen(inputs), widen(table), offset


def prepare_pooling(inputs: Any, valid: Any) -> tuple[Array, Array | None]:
    """Check the arguments of a mean pooling; return the inputs in float64, and booleans or None."""
    (inputs,) = as_tensors(inputs=inputs)
    check_floating(inputs=describe(inputs))
    check_vectors("inputs", inputs.shape)
    if valid is not None:
        valid = mask_tensor(check_valid(valid, inputs.shape[:-1], new_checks()))
    return widen(inputs), valid


def embed(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute W[id] + b of ids, and x W + b of vectors."""
    if inputs.dtype.kind not in "iu":
        return project(inputs, parameters.weight, parameters.bias)
    rows = parameters.weight[inputs]
    return np.asanyarray(rows if parameters.bias is None else rows + parameters.bias)


def with_sinusoids(inputs: Array, offset: int, base: float) -> Array:
    """Add the sinusoids of positions offset … offset + T − 1."""
    places = constant(offset + np.arange(inputs.shape[-2]), inputs)
    return inputs + sinusoids(places, inputs.shape[-1], base)


def with_table(inputs: Array, table: Array, offset: int) -> Array:
    """Add the rows offset … offset + T − 1 of a table."""
    return inputs + table[offset : offset + inputs.shape[-2]]


def pool(inputs: Array, valid: Array | None) -> Array:
    """Average over the valid positions; 0 where there is none."""
    valid = np.ones(inputs.shape[:-1], bool) if valid is None else valid
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and meant
        total = np.where(valid[..., None], inputs, 0.0).sum(axis=-2)
    average: Array = total / np.maximum(valid.sum(axis=-1), 1)[..., None]
    return average

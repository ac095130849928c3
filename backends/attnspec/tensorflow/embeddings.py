"""What stands before and behind the layers of a model: the tensors of a call, embedding, positions, pooling."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.models import check_embedded, holds_ids
from attnspec.contract.operands import Operand
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.states import rebuild

from .attention import widen
from .positions import sinusoidal_positions
from .projections import project
from .tensors import NATIVE, as_ids, as_tensors, assert_pending, describe, new_checks, shape_of


class ModelTensors(NamedTuple):
    """The tensors of a model's call: their dtypes are checked, their shapes not yet."""

    inputs: dict[str, tf.Tensor]
    """By the names of the arguments: integers where they are ids, otherwise floating."""
    ids: dict[str, Any]
    """As the caller gave them, those that are ids."""
    arrays: dict[str, tf.Tensor]
    """The leaves of the parameters by path, in the accumulation dtype."""
    leaves: dict[str, Operand]
    """The same as the caller gave them, as the agreement sees them."""
    like: tf.Tensor
    """One that has the caller's dtype and device."""


def as_model_tensors(inputs: dict[str, Any], embedded: Collection[str], given: dict[str, Any]) -> ModelTensors:
    """Turn inputs and leaves into tensors; those inputs that are embedded may be ids."""
    ids = {name: value for name, value in inputs.items() if name in embedded and holds_ids(name, value, NATIVE)}
    vectors = {name: value for name, value in inputs.items() if name not in ids}
    tensors = dict(zip([*vectors, *given], as_tensors(**vectors, **name_leaves(given)), strict=True))
    leaves = {path: describe(tensors[path]) for path in given}
    arrays = {path: widen(tensors[path]) for path in given}
    check_leaf_dtypes({name: describe(tensors[name]) for name in vectors} or dict([*leaves.items()][:1]), leaves)
    first, like = next(iter(tensors.items()))
    found = {name: as_ids(name, value, like, first) if name in ids else tensors[name] for name, value in inputs.items()}
    return ModelTensors(found, ids, arrays, leaves, like)


def prepare_embedding(inputs: Any, parameters: LinearParameters) -> tuple[tf.Tensor, LinearParameters, tf.DType]:
    """Check the arguments of an embedding; return ids or vectors, parameters of tensors, and the dtype."""
    given = check_tree("parameters", parameters, LinearParameters)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    tensor, checks = tensors.inputs["inputs"], new_checks(tensors.like)
    check_embedded("inputs", describe(tensor), tensors.ids.get("inputs"), tensors.leaves, "", checks)
    tensor, *arrays = assert_pending(checks, tensor, *tensors.arrays.values())
    return tensor, rebuild(parameters, dict(zip(given, arrays, strict=True))), tensors.like.dtype


def embed(inputs: tf.Tensor, parameters: LinearParameters) -> tf.Tensor:
    """Compute W[id] + b of ids, and x W + b of vectors."""
    if inputs.dtype.is_floating:
        return project(inputs, parameters.weight, parameters.bias)
    rows = look_up(parameters.weight, inputs)
    return rows if parameters.bias is None else rows + parameters.bias


def look_up(table: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Give the rows of a table, NaN for those that it does not have."""
    is_row = (rows >= 0) & (rows < tf.cast(shape_of(table)[0], tf.int64))
    # Through the reshape the table's gradient arrives as a tensor, not as tf.IndexedSlices.
    found = tf.gather(tf.reshape(table, shape_of(table)), tf.where(is_row, rows, 0))
    return tf.where(is_row[..., None], found, math.nan)


def with_sinusoids(inputs: tf.Tensor, offset: Any, base: float) -> tf.Tensor:
    """Add the sinusoids of positions offset … offset + T − 1."""
    places = places_from(offset, inputs)
    return inputs + sinusoidal_positions(places, inputs.shape[-1], base=base, dtype=inputs.dtype.name)


def with_table(inputs: tf.Tensor, table: tf.Tensor, offset: Any) -> tf.Tensor:
    """Add the rows offset … offset + T − 1 of a table; NaN for those that it does not have."""
    return inputs + look_up(table, places_from(offset, inputs))


def places_from(offset: Any, inputs: tf.Tensor) -> tf.Tensor:
    """Give the positions offset … offset + T − 1."""
    return tf.range(tf.cast(shape_of(inputs)[-2], tf.int64)) + tf.cast(offset, tf.int64)


def pool(inputs: tf.Tensor, valid: tf.Tensor | None) -> tf.Tensor:
    """Average over the valid positions; 0 where there is none."""
    valid = tf.ones(shape_of(inputs)[:-1], tf.bool) if valid is None else valid
    total = tf.reduce_sum(tf.where(valid[..., None], inputs, 0.0), axis=-2)
    count = tf.math.count_nonzero(valid, axis=-1, dtype=tf.int64)
    return total / tf.cast(tf.maximum(count, 1), total.dtype)[..., None]

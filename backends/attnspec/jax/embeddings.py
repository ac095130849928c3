"""What stands before and behind the layers of a model: the tensors of a call, embedding, positions, pooling."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.models import check_embedded, holds_ids
from attnspec.contract.operands import Operand
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.positions import FAR
from attnspec.contract.states import rebuild

from .attention import widen
from .positions import sinusoidal_positions
from .projections import project
from .tensors import NATIVE, as_ids, as_tensors, describe, new_checks


class ModelTensors(NamedTuple):
    """The tensors of a model's call: their dtypes are checked, their shapes not yet."""

    inputs: dict[str, Array]
    """By the names of the arguments: integers where they are ids, otherwise floating."""
    ids: dict[str, Any]
    """As the caller gave them, those that are ids."""
    arrays: dict[str, Array]
    """The leaves of the parameters by path, in the accumulation dtype."""
    leaves: dict[str, Operand]
    """The same as the caller gave them, as the agreement sees them."""
    like: Array
    """One that has the caller's dtype and devices."""


def as_model_tensors(inputs: dict[str, Any], embedded: Collection[str], given: dict[str, Any]) -> ModelTensors:
    """Turn inputs and leaves into arrays; those inputs that are embedded may be ids."""
    ids = {name: value for name, value in inputs.items() if name in embedded and holds_ids(name, value, NATIVE)}
    vectors = {name: value for name, value in inputs.items() if name not in ids}
    tensors = dict(zip([*vectors, *given], as_tensors(**vectors, **name_leaves(given)), strict=True))
    leaves = {path: describe(tensors[path]) for path in given}
    arrays = {path: widen(tensors[path]) for path in given}
    check_leaf_dtypes({name: describe(tensors[name]) for name in vectors} or dict([*leaves.items()][:1]), leaves)
    first, like = next(iter(tensors.items()))
    found = {name: as_ids(name, value, like, first) if name in ids else tensors[name] for name, value in inputs.items()}
    return ModelTensors(found, ids, arrays, leaves, like)


def prepare_embedding(inputs: Any, parameters: LinearParameters) -> tuple[Array, LinearParameters, jnp.dtype]:
    """Check the arguments of an embedding; return ids or vectors, parameters of arrays, and the dtype."""
    given = check_tree("parameters", parameters, LinearParameters)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    array, checks = tensors.inputs["inputs"], new_checks(tensors.like)
    check_embedded("inputs", describe(array), tensors.ids.get("inputs"), tensors.leaves, "", checks)
    return array, rebuild(parameters, tensors.arrays), tensors.like.dtype


@jax.jit  # one compilation, as for `stages_of`
def embed(inputs: Array, parameters: LinearParameters) -> Array:
    """Compute W[id] + b of ids, and x W + b of vectors."""
    if jnp.issubdtype(inputs.dtype, jnp.floating):
        projected: Array = project(inputs, parameters.weight, parameters.bias)
        return projected
    rows = look_up(parameters.weight, inputs)
    return rows if parameters.bias is None else rows + parameters.bias


def look_up(table: Array, rows: Array) -> Array:
    """Give the rows of a table, NaN for those that it does not have."""
    is_row = (rows >= 0) & (rows < table.shape[0])
    return jnp.where(is_row[..., None], table[jnp.where(is_row, rows, 0)], jnp.nan)


@functools.partial(jax.jit, static_argnames="base")  # one compilation, whatever the offset is
def with_sinusoids(inputs: Array, offset: Any, base: float) -> Array:
    """Add the sinusoids of positions offset … offset + T − 1."""
    places = places_from(offset, inputs)
    return inputs + sinusoidal_positions(places, inputs.shape[-1], base=base, dtype=describe(inputs).dtype)


@jax.jit
def with_table(inputs: Array, table: Array, offset: Any) -> Array:
    """Add the rows offset … offset + T − 1 of a table; NaN for those that it does not have."""
    return inputs + look_up(table, places_from(offset, inputs))


def places_from(offset: Any, inputs: Array) -> Array:
    """Give the positions offset … offset + T − 1."""
    limits = np.iinfo(offset.dtype)
    near = jnp.clip(offset, max(-FAR, limits.min), min(FAR, limits.max)).astype(jnp.int32)
    return jnp.arange(inputs.shape[-2], dtype=jnp.int32) + near


@jax.jit
def pool(inputs: Array, valid: Array | None) -> Array:
    """Average over the valid positions; 0 where there is none."""
    valid = jnp.ones(inputs.shape[:-1], bool) if valid is None else valid
    total = jnp.where(valid[..., None], inputs, 0.0).sum(axis=-2)
    return total / jnp.maximum(valid.sum(axis=-1), 1)[..., None].astype(total.dtype)

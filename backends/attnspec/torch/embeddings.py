"""What stands before and behind the layers of a model: the tensors of a call, embedding, positions, pooling."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.contract.layer_parameters import LinearParameters
from attnspec.contract.models import check_embedded, holds_ids
from attnspec.contract.operands import Operand
from attnspec.contract.parameter_checks import check_leaf_dtypes, check_tree, name_leaves
from attnspec.contract.states import rebuild

from .attention import widen
from .positions import sinusoidal_positions
from .projections import project
from .tensors import NATIVE, as_ids, as_tensors, describe, new_checks


class ModelTensors(NamedTuple):
    """The tensors of a model's call: their dtypes are checked, their shapes not yet."""

    inputs: dict[str, Tensor]
    """By the names of the arguments: integers where they are ids, otherwise floating."""
    ids: dict[str, Any]
    """As the caller gave them, those that are ids."""
    arrays: dict[str, Tensor]
    """The leaves of the parameters by path, in the accumulation dtype."""
    leaves: dict[str, Operand]
    """The same as the caller gave them, as the agreement sees them."""
    like: Tensor
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


def prepare_embedding(inputs: Any, parameters: LinearParameters) -> tuple[Tensor, LinearParameters, torch.dtype]:
    """Check the arguments of an embedding; return ids or vectors, parameters of tensors, and the dtype."""
    given = check_tree("parameters", parameters, LinearParameters)
    tensors = as_model_tensors({"inputs": inputs}, ("inputs",), given)
    tensor, checks = tensors.inputs["inputs"], new_checks(tensors.like)
    check_embedded("inputs", describe(tensor), tensors.ids.get("inputs"), tensors.leaves, "", checks)
    return tensor, rebuild(parameters, tensors.arrays), tensors.like.dtype


def embed(inputs: Tensor, parameters: LinearParameters) -> Tensor:
    """Compute W[id] + b of ids, and x W + b of vectors."""
    if inputs.is_floating_point():
        return project(inputs, parameters.weight, parameters.bias)
    rows = look_up(parameters.weight, inputs)
    return rows if parameters.bias is None else rows + parameters.bias


def look_up(table: Tensor, rows: Tensor) -> Tensor:
    """Give the rows of a table, NaN for those that it does not have."""
    is_row = (rows >= 0) & (rows < table.shape[0])
    found = torch.nn.functional.embedding(torch.where(is_row, rows, 0), table)
    return torch.where(is_row[..., None], found, torch.nan)


def with_sinusoids(inputs: Tensor, offset: Any, base: float) -> Tensor:
    """Add the sinusoids of positions offset … offset + T − 1."""
    places = places_from(offset, inputs)
    waves: Tensor = sinusoidal_positions(places, inputs.shape[-1], base=base, dtype=describe(inputs).dtype)
    return inputs + waves


def with_table(inputs: Tensor, table: Tensor, offset: Any) -> Tensor:
    """Add the rows offset … offset + T − 1 of a table; NaN for those that it does not have."""
    return inputs + look_up(table, places_from(offset, inputs))


def places_from(offset: Any, inputs: Tensor) -> Tensor:
    """Give the positions offset … offset + T − 1."""
    offset = offset.to(torch.int64) if isinstance(offset, Tensor) else offset
    places: Tensor = torch.arange(inputs.shape[-2], device=inputs.device) + offset
    return places


def pool(inputs: Tensor, valid: Tensor | None) -> Tensor:
    """Average over the valid positions; 0 where there is none."""
    if valid is None:
        valid = torch.ones(inputs.shape[:-1], dtype=torch.bool, device=inputs.device)
    total = torch.where(valid[..., None], inputs, 0.0).sum(dim=-2)
    average: Tensor = total / valid.sum(dim=-1).clamp(min=1)[..., None]
    return average

"""Outputs of a comparison in one safetensors file, and what two such files say about each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.tensor_files import read_tensors, write_tensors

from .admission import largest_ratio
from .cases import DTYPES
from .comparison_files import InputError, read_metadata

Array: TypeAlias = np.ndarray[Any, Any]

BOUND = "bound"
"""The name under which the bound is saved beside the outputs; no target is called so."""

_FORMAT = 1
_DESCRIPTION = ("format", "operation", "dtype", "profile", "inputs", "targets")


class SavedComparison(NamedTuple):
    """The outputs of one run of `compare`, and what they were computed from."""

    path: Path
    operation: str
    dtype: str
    profile: str
    inputs: str
    """sha256 of tensors, mask and options: only outputs of equal inputs can be compared."""
    targets: dict[str, str]
    """The version of every target that gave an output."""
    outputs: dict[str, Array]
    bound: Array


class SharedTarget(NamedTuple):
    """One target that is in both files."""

    target: str
    largest_difference: float
    ratio: float
    """Largest |difference| / (bound of one file + bound of the other): at most 1 where each is within its own bound."""


@dataclass(frozen=True, eq=False)
class SavedDifferences:
    """What `compare_saved` found."""

    left: SavedComparison
    right: SavedComparison
    shared: tuple[SharedTarget, ...]
    labels: tuple[str, ...]
    """Every output of both files, `A:torch`, `B:torch`, …: the rows and columns of `pairwise`."""
    pairwise: Array
    """The largest difference of every two outputs, (outputs, outputs)."""

    @property
    def agrees(self) -> bool:
        """Whether every target that is in both files differs by no more than the two bounds allow."""
        return all(shared.ratio <= 1.0 for shared in self.shared)

    def to_json(self) -> str:
        """Write the result as JSON."""
        data = {
            "format": _FORMAT,
            "agrees": self.agrees,
            "operation": self.left.operation,
            "dtype": self.left.dtype,
            "files": [str(self.left.path), str(self.right.path)],
            "versions": [self.left.targets, self.right.targets],
            "shared": [
                {name: show_number(value) for name, value in shared._asdict().items()} for shared in self.shared
            ],
            "pairwise": pairwise_json(self.labels, self.pairwise),
        }
        return json.dumps(data, indent=1, allow_nan=False)


def save_outputs(path: Path, outputs: Mapping[str, Array], bound: Array, description: Mapping[str, Any]) -> None:
    """Write outputs by target, their bound and what they are (operation, dtype, profile, inputs, targets)."""
    metadata = {"attnspec": json.dumps({"format": _FORMAT, **description})}
    path.write_bytes(write_tensors({**outputs, BOUND: bound}, metadata))


def read_saved(path: Path) -> SavedComparison:
    """Read what `save_outputs` wrote; raise InputError for anything else."""
    try:
        tensors = read_tensors(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; two files are compared if `attnspec compare --output` wrote both") from None
    description = read_metadata(path)
    if "targets" not in description:
        raise InputError(f"{path}: these are not saved outputs: `attnspec compare … --output FILE` writes such a file")
    if description.get("format") != _FORMAT:
        raise InputError(f"{path}: it is of format {description.get('format')!r}; this attnspec reads {_FORMAT}")
    bound = tensors.pop(BOUND, None)
    targets = description["targets"]
    shapes = {array.shape for array in tensors.values()} | {None if bound is None else bound.shape}
    is_whole = set(_DESCRIPTION) <= set(description) and isinstance(targets, dict) and set(targets) == set(tensors)
    is_floating = all(array.dtype.name in DTYPES for array in (*tensors.values(), bound) if array is not None)
    if bound is None or not is_whole or not is_floating or len(shapes) != 1:
        raise InputError(f"{path}: the file is damaged: its tensors are not those that it describes")
    operation, dtype, profile, inputs = (str(description[name]) for name in _DESCRIPTION[1:5])
    outputs = {name: tensors[name] for name in targets}  # in the order of the run
    return SavedComparison(path, operation, dtype, profile, inputs, targets, outputs, bound)


def compare_saved(left: Path, right: Path) -> SavedDifferences:
    """Compare two files of outputs, target by target and every output with every other.

    Raises:
        InputError: a file that is not of saved outputs, or outputs of different inputs.
    """
    first, second = read_saved(left), read_saved(right)
    for what in ("operation", "dtype", "inputs"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            raise InputError(
                f"{left} and {right} cannot be compared: they were computed from different "
                f"{'inputs or options' if what == 'inputs' else f'{what}s, {one} and {other}'}"
            )
    shared = tuple(
        SharedTarget(
            name,
            largest_difference(output, second.outputs[name]),
            largest_ratio(output, second.outputs[name].astype(np.float64), first.bound + second.bound),
        )
        for name, output in first.outputs.items()
        if name in second.outputs
    )
    outputs = {f"A:{name}": output for name, output in first.outputs.items()}
    outputs |= {f"B:{name}": output for name, output in second.outputs.items()}
    return SavedDifferences(first, second, shared, tuple(outputs), pairwise_differences(list(outputs.values())))


def largest_difference(left: Array, right: Array) -> float:
    """Return max |left − right|: 0 where both are the same NaN or Inf, infinity where only one is."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(left - right)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    return float(np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference)).max(initial=0.0))


def pairwise_differences(outputs: list[Array | None]) -> Array:
    """Return the largest difference of every two outputs; NaN where one of them is missing."""
    matrix = np.full((len(outputs), len(outputs)), np.nan)
    for i, left in enumerate(outputs):
        for j, right in enumerate(outputs):
            if left is not None and right is not None:
                matrix[i, j] = largest_difference(left, right)
    return matrix


def pairwise_json(labels: tuple[str, ...], pairwise: Array) -> dict[str, Any]:
    """Write a matrix of differences as JSON data: null where there is none."""
    rows = [[None if np.isnan(number) else show_number(float(number)) for number in row] for row in pairwise]
    return {"outputs": list(labels), "largest_differences": rows}


def show_number(value: Any) -> Any:
    """Return a value for JSON, which has no infinity and no NaN: these become strings."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value

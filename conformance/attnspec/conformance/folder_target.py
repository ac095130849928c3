"""A folder of results as a target: what somebody computed elsewhere, in one safetensors file for each case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.tensor_files import read_tensors

from .calls import DTYPES, Call
from .declarations import profiles_of
from .operations import OPERATIONS
from .target_protocol import Array, TargetError

SUFFIX = ".safetensors"
DESCRIPTION = "target.json"


class FolderTarget:
    """Results in files `<case id>.safetensors`, whose tensors are named like the results.

    A file `target.json`, an object with `name`, `version` and `profiles` (names by dtype), may say what made them.
    """

    def __init__(self, spec: str, folder: Path) -> None:
        if not any(path.suffix == SUFFIX for path in folder.iterdir()):
            raise TargetError(f"the folder {folder} holds no results: there is no file <case id>{SUFFIX}")
        said = _description(folder / DESCRIPTION)
        self.name: str = said.get("name", spec)
        self.version = " ".join(said[key] for key in ("name", "version") if key in said) or "folder of results"
        self.profiles: Mapping[str, str] = profiles_of(said.get("profiles"), f"{folder / DESCRIPTION}: profiles")
        self._folder = folder

    def unsupported(self, call: Call) -> str | None:
        """Say that there is no file for a case."""
        return None if self._path(call).is_file() else f"no result for this case: there is no file {call.id}{SUFFIX}"

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the query's dtype (S16); partial results are at least float32, their output may be the query's.

        A gradient has the dtype of what it belongs to.
        """
        if call.direction == "backward":
            return {name: (call.tensors[name].dtype,) for name in call.results}
        own = DTYPES[call.dtype]
        if not OPERATIONS[call.operation].is_partial:
            return dict.fromkeys(call.results, (own,))
        wide = tuple(dict.fromkeys((DTYPES[accumulation_dtype(call.dtype)], DTYPES["float64"])))
        return {name: tuple(dict.fromkeys((own, *wide))) if name == "output" else wide for name in call.results}

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Read the case's file; a ValueError says what is wrong with it."""
        del tensors
        path = self._path(call)
        try:
            results = read_tensors(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        unknown = sorted(results.keys() - set(call.results))
        if unknown:
            raise ValueError(
                f"{path} holds {unknown[0]!r}; the results of this case are {', '.join(sorted(call.results))}"
            )
        return results

    def _path(self, call: Call) -> Path:
        return self._folder / f"{call.id}{SUFFIX}"


def _description(path: Path) -> dict[str, Any]:
    """Read a folder's own description of what made its results; it may be missing."""
    try:
        said = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TargetError(f"{path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise TargetError(f"{path} must hold an object with name, version and profiles; got {said!r}")
    unknown = sorted(said.keys() - {"name", "version", "profiles"})
    if unknown:
        raise TargetError(f"{path} has a key {unknown[0]!r}; there are name, version and profiles")
    for key in ("name", "version"):
        if key in said and not (isinstance(said[key], str) and said[key].strip()):
            raise TargetError(f"{path}: {key} must be a text that is not empty; got {said[key]!r}")
    if not isinstance(said.get("profiles", {}), dict):
        raise TargetError(f"{path}: profiles must be names by dtype; got {said['profiles']!r}")
    return said

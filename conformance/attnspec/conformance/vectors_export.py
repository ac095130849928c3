"""Vectors for any language: the tensors of each call in a safetensors file, and a manifest of what is asked.

The expected results stay out of it unless they are asked for, and then lie in a folder of their own. Results that are
computed elsewhere come back as a folder of files of the same names: `attnspec verify FOLDER`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.tensor_files import write_tensors

from .calls import Call
from .cases import Case
from .operations import OPERATIONS
from .protocol import arguments_of

EXPECTED = "expected"
"""The folder of the expected results."""


def export(cases: Iterable[Case], folder: Path, *, with_expected: bool = False) -> int:
    """Write cases to a folder, which is made: `<id>.safetensors` for each, and `manifest.json`; return their number.

    Raises:
        FileExistsError: the folder is there already and not empty.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    if with_expected:
        (folder / EXPECTED).mkdir()
    entries = [_write(case, folder, with_expected=with_expected) for case in cases]
    suite = importlib.metadata.version("attnspec")
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    text = (
        f'{{"format": 1, "suite": "{suite}", "with_expected": {str(with_expected).lower()}, "cases": [\n{lines}\n]}}\n'
    )
    (folder / "manifest.json").write_text(text, encoding="utf8")
    return len(entries)


def _write(case: Case, folder: Path, *, with_expected: bool) -> dict[str, Any]:
    arguments = arguments_of(case.call, case.tensors, ())
    payload, name = write_tensors(arguments.tensors), f"{case.id}.safetensors"
    (folder / name).write_bytes(payload)
    if with_expected:
        (folder / EXPECTED / name).write_bytes(write_tensors(case.expected))
    return {
        "id": case.id,
        "operation": case.operation,
        "direction": case.direction,
        "level": case.level,
        "dtype": case.dtype,
        "clauses": list(case.clauses),
        "description": case.description,
        "options": arguments.options,
        "inputs": name,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "tensors": {
            tensor: {"dtype": array.dtype.name, "shape": list(array.shape)}
            for tensor, array in sorted(arguments.tensors.items())
        },
        "results": {
            result: {"dtype": result_dtype(case, result), "shape": list(array.shape)}
            for result, array in case.expected.items()
        },
    } | ({EXPECTED: f"{EXPECTED}/{name}"} if with_expected else {})


def result_dtype(call: Call, result: str) -> str:
    """Name the dtype of a result (S16): the call's own, for partial results that of its accumulation.

    A gradient has the dtype of what it belongs to.
    """
    if call.direction == "backward":
        return str(call.tensors[result].dtype.name)
    return accumulation_dtype(call.dtype) if OPERATIONS[call.operation].is_partial else call.dtype

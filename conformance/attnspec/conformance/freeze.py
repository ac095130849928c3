"""Add vectors: `python -m attnspec.conformance.freeze`. A maintainer's tool; the suite never runs it.

Vectors that exist are never written again: a design whose vectors are in the manifest is left as it is, so expected
outputs can only be added, and a change of the reference cannot move them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attnspec.contract.bias_json import bias_to_json
from attnspec.contract.mask_json import mask_to_json
from attnspec.contract.tensor_files import write_tensors

from .admission import evaluate, why_not_admitted
from .cases import MANIFEST, SCHEMA, SUMS, VECTORS, Case, load_cases, payload_of, sums_of
from .design import Design
from .designs import designs
from .operations import OPERATIONS
from .profiles import default_profile
from .recipes import Array, round_to
from .vectors_check import caught
from .zoo import ROBUST

GENERATOR_VERSION = 1


def freeze(folder: Path = VECTORS) -> list[str]:
    """Add the vectors of every design that the folder does not hold yet; return their identifiers."""
    path = folder / MANIFEST
    manifest: dict[str, Any] = {"format": 1, "suite": "", "cases": []}
    if path.exists():
        manifest = json.loads(path.read_text(encoding="utf8"))
    known = {entry["id"] for entry in manifest["cases"]}
    added = []
    for design in designs():
        for dtype in design.dtypes:
            if f"{design.name}-{dtype}" not in known:
                entry, payload = _make(design, dtype)
                (folder / entry["payload"]).write_bytes(payload)
                manifest["cases"].append(entry)
                added.append(entry["id"])
    manifest["suite"] = importlib.metadata.version("attnspec")
    path.write_text(_to_text(manifest), encoding="utf8")
    (folder / SCHEMA).write_bytes((VECTORS / SCHEMA).read_bytes())
    described = {name: (folder / name).read_bytes() for name in (MANIFEST, SCHEMA)}
    (folder / SUMS).write_text(sums_of(described), encoding="ascii")
    load_cases(folder)
    return added


def _make(design: Design, dtype: str) -> tuple[dict[str, Any], bytes]:
    # A twin has its partner's seed: the two differ in unread entries only.
    seed = zlib.crc32((design.twin or design.name).encode())
    tensors = round_to(design.make(np.random.default_rng(seed)), dtype, partial=OPERATIONS[design.operation].is_partial)
    case = _case(design, dtype, tensors)
    case = replace(case, expected=evaluate(case, default_profile(dtype)).results)
    _check_admission(case)
    arrays = payload_of(case)
    payload = write_tensors(arrays)
    entry = {
        "id": case.id,
        "operation": case.operation,
        "direction": case.direction,
        "level": case.level,
        "dtype": dtype,
        "clauses": list(case.clauses),
        "features": list(case.features),
        "description": case.description,
        "options": dict(case.options),
        "generator": {"recipe": design.recipe, "seed": seed, "version": GENERATOR_VERSION},
        "payload": f"{case.id}.safetensors",
        "sha256": hashlib.sha256(payload).hexdigest(),
        "tensors": {
            name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in sorted(arrays.items())
        },
        "nonfinite": case.nonfinite,
        "same_bits_as": case.same_bits_as,
        "undecided": design.undecided,
        "catches": list(design.catches),
    }
    return entry, payload


def _case(design: Design, dtype: str, tensors: dict[str, Array]) -> Case:
    options: dict[str, Any] = {
        "mask": None if design.mask is None else mask_to_json(design.mask),
        "bias": "bias" in tensors if design.bias is None else bias_to_json(design.bias),
        "scale": design.scale,
        "softcap": design.softcap,
        "sinks": "sinks" in tensors,
        "dropout": design.dropout,
    }
    return Case(
        id=f"{design.name}-{dtype}",
        operation=design.operation,
        level=design.level,
        dtype=dtype,
        clauses=design.clauses,
        features=design.features,
        description=design.hunts,
        options=options | design.numbers,
        tensors=tensors,
        expected={},
        nonfinite=design.nonfinite,
        same_bits_as=None if design.twin is None else f"{design.twin}-{dtype}",
        direction=design.direction,
        catches=design.catches,
        undecided=design.undecided,
    )


def _check_admission(case: Case) -> None:
    evaluation = evaluate(case, default_profile(case.dtype))
    reason = why_not_admitted(case, evaluation)
    missed = [f"{name} ({margin:.2g})" for name, margin in caught(case, evaluation).items() if margin < ROBUST]
    if reason is None and missed:
        reason = f"it does not catch {', '.join(missed)} with {ROBUST:g} times the bound"
    if reason is not None:
        raise ValueError(f"{case.id}: {reason}")


def _to_text(manifest: dict[str, Any]) -> str:
    """Write one case on each line: a manifest whose differences can be read."""
    cases = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in manifest["cases"])
    return f'{{"format": {manifest["format"]}, "suite": "{manifest["suite"]}", "cases": [\n{cases}\n]}}\n'


if __name__ == "__main__":
    print(f"{len(freeze())} vectors added to {VECTORS}")

"""Conformance cases: the shared vectors, read from data, checked against their schema and their hashes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from attnspec.contract.bias_json import bias_from_json
from attnspec.contract.mask_json import mask_from_json
from attnspec.contract.tensor_files import read_tensors

from .calls import DTYPES as DTYPES
from .calls import MASKS, Array, Call
from .operations import OPERATIONS

VECTORS = Path(__file__).parent / "vectors"
MANIFEST, SCHEMA, SUMS = "manifest.json", "manifest.schema.json", "SHA256SUMS"
"""What a folder of vectors holds beside its payloads; the last has the hashes of the others, as `sha256sum` has."""


class VectorError(Exception):
    """A vector file that cannot be trusted: missing, truncated, changed, or not what its manifest says."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Case(Call):
    """One vector: a call, and the results that the definition gives."""

    level: str
    clauses: tuple[str, ...]
    features: tuple[str, ...]
    description: str
    expected: Mapping[str, Array]
    """Forward: `output`, and `logsumexp` where the operation gives one. Backward: a gradient for each tensor named."""
    nonfinite: bool
    """Whether NaN and Inf are expected, and then exactly where the expected output has them."""
    same_bits_as: str | None
    """Another case whose results must be the same to the bit: it differs in unread entries only (S11), or in the order
    of what is added, where sums are exact."""
    catches: tuple[str, ...] = ()
    """Planted faults that it catches with at least 4 times the bound."""
    undecided: Mapping[str, str] = field(default_factory=dict)
    """Cheats that it cannot reject, each with the reason."""
    results: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", tuple(self.expected))

    @property
    def call(self) -> Call:
        """What a target is told of the case."""
        return Call(**{one.name: getattr(self, one.name) for one in fields(Call)})


def load_cases(folder: Path = VECTORS) -> tuple[Case, ...]:
    """Read and check every vector of a folder; raise `VectorError` for the first that is not as its manifest says."""
    manifest = load_manifest(folder)
    return tuple(_load_case(folder, entry) for entry in manifest["cases"])


@functools.cache
def shipped_cases() -> tuple[Case, ...]:
    """Read the vectors of this installation, once."""
    return load_cases(VECTORS)


def case_of(identifier: str) -> Case:
    """Find a vector of this installation."""
    return _by_id()[identifier]


@functools.cache
def _by_id() -> dict[str, Case]:
    return {case.id: case for case in shipped_cases()}


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest and check it against the schema."""
    import jsonschema  # here, because it is slow to import and the command line's help does not need it

    path = folder / MANIFEST
    if not path.exists():
        raise VectorError(f"{folder} holds no vectors: there is no {MANIFEST}")
    check_sums(folder)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise VectorError(f"{path} is not valid JSON: {error}") from None
    try:
        schema = json.loads((VECTORS / SCHEMA).read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise VectorError(f"{VECTORS / SCHEMA} cannot be read: {error}") from None
    misfit = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(manifest))
    if misfit is not None:
        raise VectorError(f"{path} does not fit its schema: {misfit.message} at {misfit.json_path}")
    identifiers = [entry["id"] for entry in manifest["cases"]]
    repeated = {identifier for identifier in identifiers if identifiers.count(identifier) > 1}
    if repeated:
        raise VectorError(f"{path} names {sorted(repeated)[0]} twice")
    for entry in manifest["cases"]:
        _check_entry(entry, identifiers)
    return manifest


def sums_of(files: Mapping[str, bytes]) -> str:
    """Return what SHA256SUMS must say: a line for the manifest, which has the payloads' hashes, and its schema."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in (MANIFEST, SCHEMA))


def check_sums(folder: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Compare the manifest and the schema of a folder with SHA256SUMS: one bit of any of the three is noticed.

    `files` are their bytes, where they are not those that lie in the folder.
    """
    files = described_by(folder) if files is None else files
    path, expected = folder / SUMS, sums_of(files)
    if files[SUMS] == expected.encode():
        return
    lines = files[SUMS].decode("ascii", "replace").splitlines()
    for line in expected.splitlines():
        digest, _, name = line.partition("  ")
        said = [other.partition("  ")[0] for other in lines if other.endswith(f"  {name}")]
        if len(lines) == 2 and len(said) == 1 and said[0] != digest:
            raise VectorError(
                f"{folder / name} is truncated or was changed, or {path} was: its sha256 is {digest[:12]}…, "
                f"{SUMS} says {said[0][:12]}…"
            )
    raise VectorError(f"{path} is truncated or was changed: it must hold a line for {MANIFEST} and one for {SCHEMA}")


def described_by(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder that describe its payloads."""
    files = {}
    for name in (MANIFEST, SCHEMA, SUMS):
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise VectorError(f"{folder / name} cannot be read: {error.strerror}") from None
    return files


def _check_entry(entry: Mapping[str, Any], identifiers: Container[str]) -> None:
    """Check what a schema cannot say: the tensors, results and options that the operation needs, the mask, the twin."""
    options, operation = entry["options"], OPERATIONS[entry["operation"]]
    for name in (*_tensors_needed(entry), *_results_needed(entry)):
        if name not in entry["tensors"]:
            raise VectorError(f"vector {entry['id']} is a {operation.name} without a tensor {name!r}")
    for name in operation.required:
        if options.get(name) is None:
            raise VectorError(f"vector {entry['id']} is a {operation.name} without the option {name!r}")
    try:
        for name in MASKS:
            if options.get(name) is not None:
                mask_from_json(options[name])
        if isinstance(options["bias"], dict):
            bias_from_json(options["bias"])
    except ValueError as error:
        raise VectorError(f"vector {entry['id']}: {error}") from None
    if entry["same_bits_as"] is not None and entry["same_bits_as"] not in identifiers:
        raise VectorError(f"vector {entry['id']} names {entry['same_bits_as']} as its twin, which is no vector")


def _tensors_needed(entry: Mapping[str, Any]) -> tuple[str, ...]:
    options = entry["options"]
    given = {
        "bias": options["bias"] is True,
        "sinks": options.get("sinks", False),
        "keep": options.get("dropout") is not None and not any(name.startswith("keep.") for name in entry["tensors"]),
        f"{OPERATIONS[entry['operation']].results[0]}_cotangent": entry.get("direction") == "backward",
    }
    return (*OPERATIONS[entry["operation"]].tensors, *(name for name, is_given in given.items() if is_given))


def _results_needed(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the results of a payload: those of the operation, or a gradient of everything that has one."""
    operation = OPERATIONS[entry["operation"]]
    if entry.get("direction") != "backward":
        return tuple("expected" if name == "output" else f"expected_{name}" for name in operation.results)
    return tuple(
        f"gradient_{name}" for name, found in entry["tensors"].items() if operation.has_gradient(name, found["dtype"])
    )


def _load_case(folder: Path, entry: Mapping[str, Any]) -> Case:
    path = folder / entry["payload"]
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise VectorError(f"vector {entry['id']}: cannot read {path}: {error.strerror}") from None
    return read_case(entry, payload, path)


def read_case(entry: Mapping[str, Any], payload: bytes, path: Path) -> Case:
    """Make a case of its entry in the manifest and the bytes of its payload, which must be as the entry says."""
    digest = hashlib.sha256(payload).hexdigest()
    if digest != entry["sha256"]:
        raise VectorError(
            f"vector {entry['id']}: {path} is truncated or was changed: its sha256 is {digest[:12]}…, "
            f"the manifest says {entry['sha256'][:12]}…"
        )
    try:
        tensors = read_tensors(payload)
    except ValueError as error:
        raise VectorError(f"vector {entry['id']}: {path}: {error}") from None
    found = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in tensors.items()}
    if found != entry["tensors"]:
        raise VectorError(f"vector {entry['id']}: {path} holds {found}, the manifest says {entry['tensors']}")
    tensors, expected = _without_results(tensors)
    return Case(
        id=entry["id"],
        operation=entry["operation"],
        level=entry["level"],
        dtype=entry["dtype"],
        clauses=tuple(entry["clauses"]),
        features=tuple(entry["features"]),
        description=entry["description"],
        options=entry["options"],
        tensors=tensors,
        expected=expected,
        nonfinite=entry["nonfinite"],
        same_bits_as=entry["same_bits_as"],
        direction=entry.get("direction", "forward"),
        catches=tuple(entry.get("catches", ())),
        undecided=entry["undecided"],
    )


def payload_of(case: Case) -> dict[str, Array]:
    """Name everything that a vector's payload holds: the tensors, and the results behind a prefix."""
    prefix = "gradient_" if case.direction == "backward" else "expected_"
    results = {"expected" if name == "output" else prefix + name: array for name, array in case.expected.items()}
    return {**case.tensors, **results}


def _without_results(payload: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    tensors, results = {}, {}
    for name, array in payload.items():
        prefix = next((prefix for prefix in ("gradient_", "expected_") if name.startswith(prefix)), None)
        if name == "expected":
            results["output"] = array
        elif prefix is not None:
            results[name.removeprefix(prefix)] = array
        else:
            tensors[name] = array
    return tensors, results

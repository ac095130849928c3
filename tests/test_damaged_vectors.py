"""Vector files that were truncated, changed, lost or mixed up: one clear error, and exit code 2 without a traceback."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import cases as cases_module
from attnspec.conformance.cases import (
    SCHEMA,
    SUMS,
    VECTORS,
    VectorError,
    check_sums,
    load_cases,
    load_manifest,
    read_case,
    shipped_cases,
    sums_of,
)
from attnspec.conformance.command_line import main
from attnspec.contract.tensor_files import write_tensors

MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf8"))

DAMAGED = (
    "square-float32",
    "softcap-bias-float32",
    "poison-nan-array-float32",
    "empty-array-float32",
    "alibi-float32",
    "sinks-float32",
    "dropout-float32",
    "logsumexp-float32",
    "merge-float32",
    "rotary-batch-float32",
    "gradient-sinks-float32",
    "sinusoidal-float32",
    "multi-head-float32",
)


class Folder:
    """A small folder of vectors, and ways to damage it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = {**MANIFEST, "cases": [item for item in MANIFEST["cases"] if item["id"] in DAMAGED]}
        self.manifest = json.loads(json.dumps(self.manifest))
        for item in self.manifest["cases"]:
            shutil.copy(VECTORS / item["payload"], path)
        shutil.copy(VECTORS / SCHEMA, path)
        self.write()
        self.seal()

    @property
    def case(self) -> dict[str, Any]:
        return next(item for item in self.manifest["cases"] if item["id"] == DAMAGED[0])

    def named(self, identifier: str) -> dict[str, Any]:
        """Return the entry of any of the vectors."""
        return next(item for item in self.manifest["cases"] if item["id"] == f"{identifier}-float32")

    @property
    def payload(self) -> Path:
        return self.path / self.case["payload"]

    def write(self) -> None:
        (self.path / "manifest.json").write_text(json.dumps(self.manifest), encoding="utf8")

    def seal(self) -> None:
        """Write the hashes of the manifest and the schema as they are now, so that what they say is read."""
        if not (self.path / "manifest.json").exists():
            return
        described = {name: (self.path / name).read_bytes() for name in ("manifest.json", SCHEMA)}
        (self.path / SUMS).write_text(sums_of(described), encoding="ascii")

    def write_payload(self, payload: bytes) -> None:
        self.payload.write_bytes(payload)
        self.case["sha256"] = hashlib.sha256(payload).hexdigest()
        self.write()


def _truncate(folder: Folder) -> None:
    folder.payload.write_bytes(folder.payload.read_bytes()[:-9])


def _flip(folder: Folder) -> None:
    payload = bytearray(folder.payload.read_bytes())
    payload[-5] ^= 0x10
    folder.payload.write_bytes(bytes(payload))


def _truncate_and_hash(folder: Folder) -> None:
    folder.write_payload(folder.payload.read_bytes()[:-9])


def _other_tensors(folder: Folder) -> None:
    folder.write_payload(write_tensors({"query": np.zeros((2, 3), np.float32), "expected": np.zeros((2, 3))}))


def _integers(folder: Folder) -> None:
    folder.write_payload(folder.payload.read_bytes().replace(b'"F32"', b'"U32"'))


def _pickle(folder: Folder) -> None:
    folder.write_payload(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.")


def _shape(folder: Folder) -> None:
    folder.case["tensors"]["query"]["shape"] = [2, 3, 5, 7]
    folder.write()


def _clause(folder: Folder) -> None:
    folder.case["clauses"] = ["scale"]
    folder.write()


def _no_expected(folder: Folder) -> None:
    del folder.case["tensors"]["expected"]
    folder.write()


def _climb(folder: Folder) -> None:
    folder.case["payload"] = "../secrets.safetensors"
    folder.write()


def _twice(folder: Folder) -> None:
    folder.manifest["cases"].append(folder.case)
    folder.write()


def _twin(folder: Folder) -> None:
    folder.case["same_bits_as"] = "nobody-float32"
    folder.write()


def _mask(folder: Folder) -> None:
    folder.case["options"]["mask"] = {"kind": "diagonal"}
    folder.write()


def _no_bias(folder: Folder) -> None:
    folder.case["options"]["bias"] = True
    folder.write()


def _without(identifier: str, tensor: str) -> Callable[[Folder], None]:
    """Take a tensor out of a manifest's entry."""

    def damage(folder: Folder) -> None:
        del folder.named(identifier)["tensors"][tensor]
        folder.write()

    return damage


def _option(identifier: str, **options: Any) -> Callable[[Folder], None]:
    def damage(folder: Folder) -> None:
        folder.named(identifier)["options"].update(options)
        folder.write()

    return damage


def _missing_option(identifier: str, name: str) -> Callable[[Folder], None]:
    def damage(folder: Folder) -> None:
        del folder.named(identifier)["options"][name]
        folder.write()

    return damage


def _entry(identifier: str, **fields: Any) -> Callable[[Folder], None]:
    def damage(folder: Folder) -> None:
        folder.named(identifier).update(fields)
        folder.write()

    return damage


def _flipped_keep(folder: Folder) -> None:
    path = folder.path / folder.named("dropout")["payload"]
    payload = bytearray(path.read_bytes())
    payload[payload.index(b"\x00\x01", int.from_bytes(payload[:8], "little") + 8)] ^= 1
    path.write_bytes(bytes(payload))


def _format(folder: Folder) -> None:
    folder.manifest["format"] = 2
    folder.write()


DAMAGES: dict[str, tuple[Callable[[Folder], Any], str]] = {
    "truncated": (_truncate, r"vector square-float32: .*is truncated or was changed: its sha256 is [0-9a-f]{12}…"),
    "flipped-bit": (_flip, "vector square-float32: .*is truncated or was changed"),
    "truncated-with-its-hash": (_truncate_and_hash, "vector square-float32: .*not a safetensors file, or truncated"),
    "pickle": (_pickle, "vector square-float32: .*not a safetensors file, or truncated"),
    "integers": (_integers, "vector square-float32: .*has the dtype U32, which attention does not use"),
    "other-tensors": (_other_tensors, "vector square-float32: .* holds .*, the manifest says "),
    "wrong-shape": (_shape, r"vector square-float32: .* holds .*\[2, 3, 7, 5\].*, the manifest says .*\[2, 3, 5, 7\]"),
    "missing-payload": (lambda f: f.payload.unlink(), "vector square-float32: cannot read .*: No such file"),
    "payload-is-a-folder": (
        lambda f: (f.payload.unlink(), f.payload.mkdir()),
        "vector square-float32: cannot read .*: Is a directory",
    ),
    "no-manifest": (lambda f: (f.path / "manifest.json").unlink(), "holds no vectors: there is no manifest.json"),
    "no-json": (lambda f: (f.path / "manifest.json").write_text("{'format'"), "manifest.json is not valid JSON: "),
    "half-a-manifest": (
        lambda f: (f.path / "manifest.json").write_text(json.dumps(f.manifest)[:-40]),
        "manifest.json is not valid JSON: ",
    ),
    "no-text": (lambda f: (f.path / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json is not valid JSON: "),
    "no-object": (lambda f: (f.path / "manifest.json").write_text("[]"), "does not fit its schema: .* at "),
    "wrong-clause": (_clause, r"does not fit its schema: 'scale' does not match .* at \$\.cases\[0\]\.clauses\[0\]"),
    "no-expected-output": (_no_expected, "square-float32 is a dot_product_attention without a tensor 'expected'"),
    "payload-elsewhere": (_climb, "does not fit its schema: '../secrets.safetensors' does not match"),
    "unknown-format": (_format, r"does not fit its schema: 1 was expected at \$\.format"),
    "duplicate": (_twice, "names square-float32 twice"),
    "unknown-twin": (_twin, "vector square-float32 names nobody-float32 as its twin, which is no vector"),
    "unknown-mask": (_mask, "vector square-float32: a mask in JSON must be an object whose `kind`"),
    "no-schema": (
        lambda f: (f.path / "manifest.schema.json").write_text("{"),
        "manifest.schema.json cannot be read: ",
    ),
    "bias-without-tensor": (_no_bias, "square-float32 is a dot_product_attention without a tensor 'bias'"),
    "sinks-without-tensor": (_without("sinks", "sinks"), "sinks-float32 is a dot_product_attention without .* 'sinks'"),
    "dropout-without-keep": (_without("dropout", "keep"), "dropout-float32 is .* without a tensor 'keep'"),
    "logsumexp-without-its-result": (
        _without("logsumexp", "expected_logsumexp"),
        "logsumexp-float32 is a attention_with_logsumexp without a tensor 'expected_logsumexp'",
    ),
    "backward-without-a-gradient": (
        _without("gradient-sinks", "gradient_sinks"),
        "gradient-sinks-float32 is a dot_product_attention without a tensor 'gradient_sinks'",
    ),
    "rotary-without-pairing": (
        _option("rotary-batch", pairing=None),
        r"does not fit its schema: None is not one of \['half_split', 'interleaved'\]",
    ),
    "sinusoidal-without-size": (
        _missing_option("sinusoidal", "size"),
        "sinusoidal-float32 is a sinusoidal_positions without the option 'size'",
    ),
    "multi-head-without-heads": (
        _missing_option("multi-head", "num_heads"),
        "multi-head-float32 is a multi_head_attention without the option 'num_heads'",
    ),
    "dropout-of-everything": (_option("dropout", dropout=1.0), "does not fit its schema: 1.0 is greater than or equal"),
    "merge-without-logsumexps": (_without("merge", "logsumexps"), "a merge_attention without a tensor 'logsumexps'"),
    "rotary-without-positions": (_without("rotary-batch", "positions"), "a rotary_embedding without .* 'positions'"),
    "backward-without-cotangent": (
        _without("gradient-sinks", "output_cotangent"),
        "gradient-sinks-float32 is a dot_product_attention without a tensor 'output_cotangent'",
    ),
    "backward-called-forward": (
        _entry("gradient-sinks", direction="forward"),
        "gradient-sinks-float32 is a dot_product_attention without a tensor 'expected'",
    ),
    "forward-called-backward": (_entry("sinks", direction="backward"), "sinks-float32 .*'output_cotangent'"),
    "flipped-keep": (_flipped_keep, "vector dropout-float32: .*is truncated or was changed"),
    "unknown-direction": (_entry("sinks", direction="sideways"), "does not fit its schema: 'sideways' is not one of"),
    "unknown-operation": (_entry("sinks", operation="attention"), "does not fit its schema: 'attention' is not one of"),
    "unknown-option": (_option("sinks", sink=True), "does not fit its schema: .*'sink' was unexpected"),
    "dropout-is-no-number": (_option("dropout", dropout=True), "does not fit its schema: True is not of type"),
    "unknown-bias": (_option("alibi", bias={"kind": "aliby"}), "vector alibi-float32: a bias in JSON must be an obj"),
    "half-a-bias": (_option("alibi", bias={"kind": "alibi"}), "vector alibi-float32: a bias of kind 'alibi' in JSON"),
    "predicate-without-function": (
        _option("alibi", mask={"kind": "predicate", "name": "mine"}),
        "vector alibi-float32: a mask in JSON needs the predicate 'mine'",
    ),
    "segments-that-are-no-integers": (
        _option("alibi", mask={"kind": "segments", "query_ids": [0.5], "key_ids": [1]}),
        "vector alibi-float32: in a mask of kind 'segments' in JSON: ",
    ),
}


UNSEALED: dict[str, tuple[Callable[[Folder], Any], str]] = {
    "changed-manifest": (
        lambda f: (f.path / "manifest.json").write_text(json.dumps(f.manifest).replace("plain", "plein")),
        r"manifest.json is truncated or was changed, or .*SHA256SUMS was: its sha256 is [0-9a-f]{12}…, SHA256SUMS says",
    ),
    "truncated-manifest": (
        lambda f: (f.path / "manifest.json").write_text(json.dumps(f.manifest)[:-40]),
        "manifest.json is truncated or was changed",
    ),
    "changed-schema": (
        lambda f: (f.path / SCHEMA).write_text((f.path / SCHEMA).read_text().replace('"minItems": 1', '"minItems": 0')),
        "manifest.schema.json is truncated or was changed, or .*SHA256SUMS was",
    ),
    "no-schema-at-all": (lambda f: (f.path / SCHEMA).unlink(), "manifest.schema.json cannot be read: No such file"),
    "no-sums": (lambda f: (f.path / SUMS).unlink(), "SHA256SUMS cannot be read: No such file"),
    "empty-sums": (
        lambda f: (f.path / SUMS).write_text(""),
        "SHA256SUMS is truncated or was changed: it must hold a line for manifest.json and one for manifest.schema",
    ),
    "sums-of-something-else": (
        lambda f: (f.path / SUMS).write_text((f.path / SUMS).read_text().replace(" manifest.json", " manifest.jsan")),
        "SHA256SUMS is truncated or was changed: it must hold a line",
    ),
}
"""What the hashes of the manifest and the schema notice, before anybody reads what they say."""


def flips_of(payload: bytes) -> Iterator[bytes]:
    """Yield a payload with each single bit of it flipped."""
    for place in range(8 * len(payload)):
        yield payload[: place // 8] + bytes([payload[place // 8] ^ 1 << place % 8]) + payload[place // 8 + 1 :]


@pytest.mark.parametrize("name", ["manifest.json", SCHEMA, SUMS])
def test_every_flipped_bit_of_what_describes_the_vectors_is_noticed(tmp_path: Path, name: str) -> None:
    small = {"manifest.json": b'{"format": 1}', SCHEMA: b'{"type": "object"}'}
    whole = {**small, SUMS: sums_of(small).encode()}
    check_sums(tmp_path, whole)
    for changed in flips_of(whole[name]):
        with pytest.raises(VectorError, match="is truncated or was changed") as raised:
            check_sums(tmp_path, {**whole, name: changed})
        assert f"{tmp_path / name} " in str(raised.value)


def test_every_flipped_bit_of_a_payload_is_noticed() -> None:
    entry = min(MANIFEST["cases"], key=lambda item: (VECTORS / item["payload"]).stat().st_size)
    path = VECTORS / entry["payload"]
    payload = path.read_bytes()
    assert read_case(entry, payload, path).id == entry["id"]
    for changed in flips_of(payload):
        with pytest.raises(VectorError) as raised:
            read_case(entry, changed, path)
        assert str(raised.value).startswith(f"vector {entry['id']}: {path} is truncated or was changed")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_small_folder_is_whole_before_it_is_damaged(folder: Folder) -> None:
    assert [case.id for case in load_cases(folder.path)] == [item["id"] for item in folder.manifest["cases"]]
    assert len(load_manifest(folder.path)["cases"]) == len(DAMAGED)


@pytest.fixture
def shipped_from(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Make another folder the shipped one, for this process."""

    def use(path: Path) -> None:
        monkeypatch.setattr(cases_module, "VECTORS", path)
        shipped_cases.cache_clear()

    yield use
    monkeypatch.undo()
    shipped_cases.cache_clear()


@pytest.mark.parametrize("damage", DAMAGES | UNSEALED)
def test_damage_is_one_clear_error(folder: Folder, damage: str, shipped_from: Callable[[Path], None]) -> None:
    function, message = (DAMAGES | UNSEALED)[damage]
    function(folder)
    if damage in DAMAGES:
        folder.seal()
    shipped_from(folder.path)
    with pytest.raises(VectorError, match=message):
        shipped_cases()


@pytest.mark.parametrize("damage", DAMAGES | UNSEALED)
def test_damage_is_exit_code_2_and_one_line(
    folder: Folder,
    damage: str,
    shipped_from: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (DAMAGES | UNSEALED)[damage][0](folder)
    if damage in DAMAGES:
        folder.seal()
    shipped_from(folder.path)
    monkeypatch.setattr(sys, "argv", ["attnspec", "verify", "reference"])
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert err.startswith("attnspec: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err

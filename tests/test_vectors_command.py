"""`attnspec vectors`: what it lists and shows, what another language gets, and what the check notices."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from attnspec.conformance import verify
from attnspec.conformance.admission import evaluation_of
from attnspec.conformance.cases import MANIFEST, SCHEMA, SUMS, VECTORS, shipped_cases, sums_of
from attnspec.conformance.command_line import main
from attnspec.conformance.profiles import default_profile
from attnspec.conformance.vectors_check import Finding, caught, check_vectors
from attnspec.contract.tensor_files import read_tensors, write_tensors

CASES = {case.id: case for case in shipped_cases()}


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def attnspec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["attnspec", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


# list and show


def test_every_vector_is_listed(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("vectors", "list")
    names = {case.id.removesuffix(f"-{case.dtype}") for case in CASES.values()}
    assert ran.code == 0
    assert names <= set(ran.out.split())
    assert f"{len(CASES)} vectors of {len(names)} designs" in ran.out


def test_a_list_says_dtypes_level_clauses_and_what_is_hunted(attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("vectors", "list", "--case", "tile-65-float32", "--case", "tile-65-bfloat16")
    (line,) = (line for line in ran.out.splitlines() if line.startswith(" tile-65"))
    assert re.match(r" tile-65 +f32 bf16 +core +S1 S2 S12 +one key beyond a tile of 64", line)
    assert "2 vectors of 1 design:" in ran.out


def test_a_list_as_json_holds_no_expected_values(attnspec: Callable[..., Ran]) -> None:
    listed = json.loads(attnspec("vectors", "list", "--level", "extended", "--json").out)
    assert {item["id"] for item in listed} == {case.id for case in CASES.values() if case.level == "extended"}
    assert set(listed[0]) == {
        *("id", "operation", "direction", "level", "dtype", "clauses"),
        *("features", "description", "options", "catches"),
    }


@pytest.mark.parametrize("name", ["needle-lengths-tiles-float32", "needle-lengths-tiles"])
def test_a_vector_is_shown_at_a_glance(attnspec: Callable[..., Ran], name: str) -> None:
    ran = attnspec("vectors", "show", name)
    case = CASES["needle-lengths-tiles-float32"]
    assert ran.code == 0
    assert f"hunts: {case.description}" in ran.out
    assert 'options: mask = {"kind": "key_lengths", "lengths": [15, 16, 17,' in ran.out
    assert "catches: lengths-off-by-one" in ran.out
    assert re.search(r"query +float32 +12×1×1×2 +0 +4 +4 0\n?", ran.out)
    output = case.expected["output"]
    assert re.search(rf"expected output +float64 +12×1×1×1 +{output.min():.4g} +{output.max():.4g}", ran.out)


def test_numbers_and_poison_can_be_shown(attnspec: Callable[..., Ran]) -> None:
    assert re.search(r"cache\.length +int64 +number +3 +3 +3", attnspec("vectors", "show", "cached-rotary").out)
    shown = attnspec("vectors", "show", "poison-nan-lengths-float32").out
    assert "same bits as: empty-lengths-float32" in shown
    assert "nan" not in re.findall(r"value +float32 .*", shown)[0].split("  ")[2:4]
    assert re.search(r"query +float32 +2×3×0×5", attnspec("vectors", "show", "no-queries").out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["show", "causal-ende-float32"],
            "no case has 'causal-ende-float32' among its cases; did you mean causal-end-f",
        ),
        (["list", "--clause", "S99"], "no case has 'S99' among its clauses; did you mean S9"),
        (["list", "--op", "layer_norm", "--clause", "S7"], "no vector fits all of these options together"),
        (["export", "here", "--level", "long"], "no case has 'long' among its levels; there are core, extended"),
        (["check", "nowhere"], "Directory 'nowhere' does not exist"),
    ],
)
def test_wrong_usage(attnspec: Callable[..., Ran], arguments: list[str], message: str) -> None:
    ran = attnspec("vectors", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


# export


@pytest.fixture
def exported(attnspec: Callable[..., Ran], tmp_path: Path) -> Path:
    """Export what has lengths, and a gradient or two."""
    folder = tmp_path / "inputs"
    chosen = [case for case in CASES if case.endswith("lengths-float32") or case == "gradient-sinks-float32"]
    ran = attnspec("vectors", "export", folder, *(word for case in chosen for word in ("--case", case)))
    assert ran == Ran(0, f"{len(chosen)} vectors in {folder}, without the expected results\n", "")
    return folder


def test_an_export_holds_calls_and_no_answers(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf8"))
    assert {path.name for path in exported.iterdir()} == {
        "manifest.json",
        *(item["inputs"] for item in manifest["cases"]),
    }
    for item in manifest["cases"]:
        payload = (exported / item["inputs"]).read_bytes()
        tensors, case = read_tensors(payload), CASES[item["id"]]
        assert hashlib.sha256(payload).hexdigest() == item["sha256"]
        assert {name: (array.dtype.name, list(array.shape)) for name, array in tensors.items()} == {
            name: (said["dtype"], said["shape"]) for name, said in item["tensors"].items()
        }
        assert not any(name.startswith(("expected", "gradient")) for name in tensors)
        assert {name: said["shape"] for name, said in item["results"].items()} == {
            name: list(array.shape) for name, array in case.expected.items()
        }


def test_an_export_says_masks_as_arrays(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf8"))
    item = next(item for item in manifest["cases"] if item["id"] == "key-lengths-float32")
    assert item["options"] == {}
    mask = read_tensors((exported / item["inputs"]).read_bytes())["mask"]
    np.testing.assert_array_equal(mask[:, 0, 0], np.less(np.arange(11), np.array([[11], [1], [6]])))


def test_results_that_come_back_are_judged(exported: Path, tmp_path: Path) -> None:
    """A reader of the manifest who knows nothing of attnspec: masks, and plain attention."""
    back = tmp_path / "back"
    back.mkdir()
    for item in json.loads((exported / "manifest.json").read_text(encoding="utf8"))["cases"]:
        if item["operation"] == "dot_product_attention" and item["direction"] == "forward":
            tensors = read_tensors((exported / item["inputs"]).read_bytes())
            output = attention(**tensors).astype(item["results"]["output"]["dtype"])
            (back / item["inputs"]).write_bytes(write_tensors({"output": output}))
    report = verify(str(back), cases=["key-lengths-float32", "empty-lengths-float32", "poison-nan-lengths-float32"])
    assert [str(result.status) for result in report.results] == ["pass", "pass", "pass"]
    (back / "key-lengths-float32.safetensors").write_bytes(
        write_tensors({"output": np.zeros((3, 6, 5, 4), np.float32)})
    )
    assert [str(result.status) for result in verify(str(back), cases=["key-lengths-float32"]).results] == ["fail"]


def attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
    groups = query.shape[-3] // key.shape[-3]
    seen = np.broadcast_to(mask, (*query.shape[:-1], key.shape[-2]))
    read = np.asarray(seen.any(axis=(1, 2)))[:, None, :, None]
    key, value = (np.repeat(np.where(read, array, 0), groups, axis=-3) for array in (key, value))
    query = np.where(mask.any(axis=-1)[..., None], query, 0)
    scores = np.where(mask, query @ key.mT / np.sqrt(query.shape[-1]), -np.inf)
    peak = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(peak), 0, peak))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ value


def test_the_expected_results_lie_apart(attnspec: Callable[..., Ran], tmp_path: Path) -> None:
    ran = attnspec("vectors", "export", tmp_path / "all", "--with-expected", "--case", "gradient-logsumexp-float16")
    assert ran.out == f"1 vector in {tmp_path / 'all'}, the expected results in expected/\n"
    (item,) = json.loads((tmp_path / "all" / "manifest.json").read_text(encoding="utf8"))["cases"]
    expected = read_tensors((tmp_path / "all" / item["expected"]).read_bytes())
    known = CASES["gradient-logsumexp-float16"].expected
    assert {name: array.tobytes() for name, array in expected.items()} == {
        name: array.tobytes() for name, array in known.items()
    }
    assert item["results"]["query"]["dtype"] == "float16"
    assert item["tensors"]["logsumexp_cotangent"]["dtype"] == "float32"


def test_an_export_overwrites_nothing(attnspec: Callable[..., Ran], exported: Path) -> None:
    ran = attnspec("vectors", "export", exported)
    assert ran.code == 2
    assert f"{exported} is not empty; vectors are exported into a new or an empty folder" in ran.err


def test_an_export_that_cannot_be_written(attnspec: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = attnspec("vectors", "export", tmp_path / "file" / "folder")
    assert ran.code == 2
    assert f"cannot write {tmp_path / 'file' / 'folder'}: Not a directory" in ran.err


# check

SMALL = ("exact-one-hot-float32", "exact-one-hot-turned-float32", "needle-lengths-tiles-float32", "causal-float32")


class Folder:
    """A small folder of vectors that can be made wrong, and whole again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = json.loads((VECTORS / MANIFEST).read_text(encoding="utf8"))
        self.manifest = manifest | {"cases": [item for item in manifest["cases"] if item["id"] in SMALL]}
        for item in self.manifest["cases"]:
            shutil.copy(VECTORS / item["payload"], path)
        shutil.copy(VECTORS / SCHEMA, path)
        self.seal()

    def entry(self, identifier: str) -> dict[str, Any]:
        return next(item for item in self.manifest["cases"] if item["id"] == identifier)

    def seal(self) -> None:
        for item in self.manifest["cases"]:
            item["sha256"] = hashlib.sha256((self.path / item["payload"]).read_bytes()).hexdigest()
        (self.path / MANIFEST).write_text(json.dumps(self.manifest), encoding="utf8")
        (self.path / SUMS).write_text(sums_of({name: (self.path / name).read_bytes() for name in (MANIFEST, SCHEMA)}))

    def expect(self, identifier: str, change: Callable[[Any], Any]) -> None:
        path = self.path / self.entry(identifier)["payload"]
        tensors = read_tensors(path.read_bytes())
        path.write_bytes(write_tensors(tensors | {"expected": change(tensors["expected"])}))

    def problems(self) -> dict[str, tuple[str, ...]]:
        return {finding.check: finding.problems for finding in check_vectors(self.path) if finding.problems}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_whole_folder_is_found_whole(folder: Folder, attnspec: Callable[..., Ran]) -> None:
    ran = attnspec("vectors", "check", folder.path)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == f"{folder.path}: nothing found"
    rows = {line[1:15].strip(): line.split() for line in ran.out.splitlines()}
    assert rows["flipped bits"][-3:-1] == ["7", "0"]
    assert float(rows["named faults"][-2]) > 1e5


def test_one_flipped_bit_ends_the_check(folder: Folder, attnspec: Callable[..., Ran]) -> None:
    path = folder.path / "causal-float32.safetensors"
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(bytes(payload))
    ran = attnspec("vectors", "check", folder.path)
    assert ran.code == 1
    assert f"vector causal-float32: {path} is truncated or was changed" in ran.out
    assert ran.out.splitlines()[-1] == f"{folder.path}: 1 problem"


def _zeros(folder: Folder) -> None:
    folder.expect("causal-float32", np.zeros_like)


def _declared(folder: Folder) -> None:
    folder.entry("causal-float32")["undecided"] = {"echo": "not so"}


def _lost(folder: Folder) -> None:
    folder.entry("causal-float32")["catches"] = ["window-one-wider"]


def _unknown(folder: Folder) -> None:
    folder.entry("causal-float32")["catches"] = ["nobody"]


def _twin(folder: Folder) -> None:
    folder.expect("exact-one-hot-turned-float32", lambda expected: np.nextafter(expected, 9.0))


def _stranger(folder: Folder) -> None:
    (folder.path / "old.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "check", "message"),
    [
        pytest.param(_zeros, "admission", "^causal-float32: zeros is not rejected$", id="zeros"),
        pytest.param(
            _declared, "admission", "^causal-float32: echo is rejected, but declared undecided$", id="declared"
        ),
        pytest.param(
            _lost,
            "named faults",
            "^window-one-wider: causal-float32 sees 0.156 times the bound, and 4 are needed$",
            id="not-caught",
        ),
        pytest.param(
            _unknown,
            "named faults",
            "^causal-float32 names 'nobody', which is no fault of a dot_product_attention$",
            id="nobody",
        ),
        pytest.param(_twin, "twins", "^exact-one-hot-turned-float32 and exact-one-hot-float32$", id="twin"),
        pytest.param(_stranger, "files", "old.safetensors is named by no vector$", id="stranger"),
    ],
)
def test_what_the_check_notices(folder: Folder, damage: Callable[[Folder], None], check: str, message: str) -> None:
    assert folder.problems() == {}
    damage(folder)
    folder.seal()
    (problem,) = folder.problems()[check]
    assert re.search(message, problem)


def test_a_half_precision_folder_is_not_admitted_in_a_hurry(folder: Folder) -> None:
    hurried = {finding.check: finding.number for finding in check_vectors(folder.path, quick=True)}
    assert hurried["admission"] == len(SMALL)
    assert "all faults" not in hurried


@pytest.fixture(scope="module")
def shipped() -> dict[str, Finding]:
    """Check the shipped vectors as `--quick` does: test_vector_files admits every one of them, test_zoo every fault."""
    return {finding.check: finding for finding in check_vectors(quick=True)}


def test_the_shipped_vectors_are_whole(shipped: dict[str, Finding]) -> None:
    assert {name: finding.problems for name, finding in shipped.items() if finding.problems} == {}
    assert shipped["files"].number == len(CASES)
    assert shipped["flipped bits"].number == len(CASES) + 3
    assert shipped["admission"].number == sum(case.dtype == "float32" for case in CASES.values())


def test_named_faults_are_caught_by_far(shipped: dict[str, Finding]) -> None:
    named = [case for case in CASES.values() if case.catches]
    assert {case.dtype for case in named} == {"float32", "bfloat16", "float16"}
    assert len(named) >= 15
    assert shipped["named faults"].smallest is not None
    assert shipped["named faults"].smallest > 1e4


@pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.catches and case.dtype != "float32"], ids=lambda case: case.id
)
def test_named_faults_are_caught_in_half_precision_too(case: Any) -> None:
    margins = caught(case, evaluation_of(case.id, default_profile(case.dtype)))
    assert set(margins) == set(case.catches)
    assert min(margins.values()) >= 4

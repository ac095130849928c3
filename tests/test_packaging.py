"""The wheel: what is in it, what it needs, and that it works where nothing but its dependencies is.

No network: hatchling builds, and pip installs the one file that it built.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from attnspec.conformance.cases import load_manifest

ROOT = Path(__file__).parent.parent
PORTIONS = ("reference", "backends", "conformance")
MEGABYTE = 2**20
IMPORTED = """
import contextlib, sys
from attnspec.conformance.command_line import main
with contextlib.suppress(SystemExit):
    main()
print(*sorted({"torch", "tensorflow", "jax", "jaxlib", "keras"} & {*sys.modules}) or ["nothing"])
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """Return every file of the wheel but those that describe it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> importlib.metadata.PackageMetadata:
    (distribution,) = importlib.metadata.distributions(path=[str(wheel)])
    return distribution.metadata


def sources() -> set[str]:
    files = (file for portion in PORTIONS for file in (ROOT / portion / "attnspec").rglob("*") if file.is_file())
    return {"/".join(file.relative_to(ROOT).parts[1:]) for file in files if "__pycache__" not in file.parts}


class TestWheel:
    def test_holds_the_sources_of_the_three_portions_and_nothing_else(self, contents: set[str]) -> None:
        assert contents == sources()

    def test_has_no_file_that_would_end_the_namespace(self, contents: set[str]) -> None:
        assert [name for name in contents if name.count("/") < 2] == []

    def test_every_part_is_typed(self, contents: set[str]) -> None:
        parts = {name.split("/")[1] for name in contents}
        assert parts == {"contract", "reference", "torch", "tensorflow", "jax", "conformance", "pytest_plugin"}
        assert {f"attnspec/{part}/py.typed" for part in parts} <= contents

    def test_holds_every_vector(self, contents: set[str]) -> None:
        folder = "attnspec/conformance/vectors"
        manifest = load_manifest(ROOT / "conformance" / folder)
        payloads = {f"{folder}/{entry['payload']}" for entry in manifest["cases"]}
        described = {f"{folder}/{name}" for name in ("manifest.json", "manifest.schema.json", "SHA256SUMS")}
        assert {name for name in contents if name.startswith(f"{folder}/")} == payloads | described

    def test_holds_the_examples(self, contents: set[str]) -> None:
        examples = {f"attnspec/conformance/examples/{name}" for name in ("fox.json", "minilm.safetensors")}
        assert examples <= contents

    def test_holds_no_tests(self, contents: set[str]) -> None:
        assert [name for name in contents if re.search(r"(^|/)(test|conftest|oracle)", name)] == []

    def test_is_at_most_8_mebibytes(self, wheel: Path) -> None:
        assert wheel.stat().st_size <= 8 * MEGABYTE

    def test_needs_exactly_the_declared_base(self, metadata: importlib.metadata.PackageMetadata) -> None:
        needed = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
        base = {requirement.name for requirement in needed if "extra" not in str(requirement.marker)}
        assert base == {"numpy", "ml-dtypes", "safetensors", "click", "rich", "jsonschema"}
        assert metadata.get_all("Provides-Extra") == ["all", "dev", "jax", "report", "tensorflow", "torch"]
        assert metadata["Requires-Python"] == ">=3.11"

    def test_carries_the_licence(self, wheel: Path, metadata: importlib.metadata.PackageMetadata) -> None:
        assert metadata["License-Expression"] == "Apache-2.0"
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
            assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_source_distribution_can_be_verified_and_tested(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "README.md", "docs/specification.md", "tests/test_packaging.py"} <= names
    assert sources() <= {name.partition("/")[2] for name in names}
    assert [name for name in names if name.startswith((".venv", ".git/"))] == []


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that sees the dependencies of this one, but not the checkout."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    base = {"base": str(home), "platbase": str(home), "installed_base": str(home)}
    scripts, packages = (Path(sysconfig.get_path(kind, "venv", base)) for kind in ("scripts", "purelib"))
    install = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # A folder that a .pth file adds comes last, and .pth files in it (such as that of the checkout) are not read.
    here = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "dependencies.pth").write_text("\n".join(here), encoding="utf8")
    return scripts


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Callable[..., str]:
    def run(program: str, *arguments: str) -> str:
        command = [str(programs / program), *arguments]
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    return run


class TestInstalled:
    def test_help(self, run: Callable[..., str]) -> None:
        assert "attnspec verify my_kernel.py:fn" in run("attnspec", "--help")

    def test_version_is_the_distribution_s(self, run: Callable[..., str]) -> None:
        assert run("attnspec", "--version").strip().endswith(PROJECT["version"])

    def test_targets(self, run: Callable[..., str]) -> None:
        lines = run("attnspec", "targets").splitlines()
        assert f"reference NumPy {np.__version__} all 30 all yes" in [" ".join(line.split()) for line in lines]

    @pytest.mark.parametrize("arguments", ["--help", "targets", "verify --help", "compare --help"])
    def test_command_line_imports_no_framework(self, run: Callable[..., str], arguments: str) -> None:
        assert run("python", "-c", IMPORTED, *arguments.split()).splitlines()[-1] == "nothing"

    def test_import_is_that_of_the_wheel(self, run: Callable[..., str], programs: Path) -> None:
        code = "import attnspec, attnspec.reference as attn; print(attnspec.__path__, attn.__file__)"
        printed = run("python", "-c", code)
        assert printed.count(str(programs.parent)) == 2
        assert str(ROOT) not in printed

    def test_reference_conforms(self, run: Callable[..., str]) -> None:
        assert run("attnspec", "verify", "reference").rstrip().endswith("reference: conforms")

    def test_example_is_found(self, run: Callable[..., str]) -> None:
        assert "quick brown fox" in run("attnspec", "compare", "--example", "fox", "--target", "reference")


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


class TestConstraints:
    """`constraints.txt`: one complete set of versions."""

    def test_names_are_canonical_and_sorted(self, pins: dict[str, str]) -> None:
        assert list(pins) == sorted(map(canonicalize_name, pins))

    def test_every_package_that_is_pulled_is_pinned(self, pins: dict[str, str]) -> None:
        assert sorted(pulled("attnspec", {"all", "dev"}) - {"attnspec", *pins}) == []

    def test_pins_satisfy_what_is_declared(self, pins: dict[str, str]) -> None:
        declared = [
            *PROJECT["dependencies"],
            *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
        ]
        requirements = [Requirement(line) for line in declared if not line.startswith("attnspec[")]
        unfit = [str(one) for one in requirements if pins[canonicalize_name(one.name)] not in one.specifier]
        assert unfit == []

    def test_no_pin_names_a_build_of_one_machine(self, pins: dict[str, str]) -> None:
        assert [f"{name}=={version}" for name, version in pins.items() if not re.fullmatch(r"[\d.]+", version)] == []


def pulled(name: str, extras: set[str]) -> set[str]:
    """Return what installing a distribution with extras brings into this environment, itself included."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        found.add(one[0])
        try:
            lines = importlib.metadata.requires(one[0]) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a framework that is not installed here
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in one[1] | {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found

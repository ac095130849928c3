"""What the documentation shows is run, and what it counts is counted.

Conventions of the pages:
- ```python and ```bash blocks are run as printed, ```console blocks are not (they install, or take long),
  ```text blocks are output;
- a comment behind a `print(…)` is what it prints;
- a python block whose first line is `# name.py` is that file for the bash blocks of its page;
- a text block that comes next after a bash block is its output, where a line `…` stands for lines that are left out;
- `# exit code 1` behind a command is what it returns, 0 otherwise.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import frameworks
import pytest

from attnspec.conformance import list_backends
from attnspec.conformance.cases import VECTORS
from attnspec.conformance.composed_operations import COMPOSED
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.layer_faults import LAYER_FAULTS
from attnspec.conformance.layer_variants import layer_variants
from attnspec.conformance.profiles import DEFAULT_PROFILES, PROFILES
from attnspec.conformance.variants import variants

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
LANGUAGES = ("python", "bash", "console", "text")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file_name(self) -> str | None:
        first = re.match(r"# (\w+\.py)\n", self.text)
        return first[1] if first and self.language == "python" else None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in found]


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would: the environment's own programs first, nothing set for Python or JAX."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "PYTHON"))}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    environment["PATH"] = sysconfig.get_path("scripts") + os.pathsep + environment.get("PATH", "")
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


def require_frameworks(text: str) -> None:
    """Skip a test whose text needs a framework that is not installed, or fail it in CI."""
    needs_all = "compare" in text and "--target" not in text
    for backend in list_backends():
        if not backend.is_available and (needs_all or re.search(rf"\b{backend.name}\b", text)):
            frameworks.load(backend.name)


def printed_by(code: str) -> list[str]:
    """Return what the comments behind `print(…)` say that it prints."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)


def is_in_order(wanted: list[str], lines: Iterator[str]) -> bool:
    return all(any(line == one for line in lines) for one in wanted)


def words(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language(page: Path) -> None:
    assert page.read_text(encoding="utf8").count("```") == 2 * len(blocks_of(page))
    assert {block.language for block in blocks_of(page)} <= {*LANGUAGES}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.id)
def test_python_block_runs_as_printed(block: Block, tmp_path: Path) -> None:
    require_frameworks(block.text)
    (tmp_path / "block.py").write_text(block.text, encoding="utf8")
    finished = run([sys.executable, "block.py"], tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert is_in_order(printed_by(block.text), iter(finished.stdout.splitlines())), finished.stdout


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.id)
def test_bash_block_runs_as_printed(block: Block, tmp_path: Path) -> None:
    require_frameworks(block.text)
    neighbours = blocks_of(block.page)
    for neighbour in neighbours:
        if neighbour.file_name is not None:
            (tmp_path / neighbour.file_name).write_text(neighbour.text, encoding="utf8")
    output: list[str] = []
    for line in block.text.splitlines():
        command, _, code = line.partition("  # exit code ")
        assert command.startswith(("attnspec ", "python ")), "what is not ours stands in a console block"
        finished = run(shlex.split(command), tmp_path)
        assert finished.returncode == int(code or 0), finished.stdout + finished.stderr
        output += map(words, finished.stdout.splitlines())
    following = neighbours[neighbours.index(block) + 1 :][:1]
    shown = [words(line) for behind in following if behind.language == "text" for line in behind.text.splitlines()]
    assert is_in_order([line for line in shown if line not in ("", "…")], iter(output)), "\n".join(output)


def test_a_wrong_output_would_be_noticed() -> None:
    assert printed_by("print(1)  # 1\nprint(2)\n    print(3)  # 3\n") == ["1", "3"]
    assert is_in_order(["a", "c"], iter("abc"))
    assert not is_in_order(["c", "a"], iter("abc"))


TABLE_ROW = re.compile(r"^(\w+)? +(float\d+|bfloat16)" + r" +(\d+)" * 5)


def rows_of(table: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """Read the rows of the table of `attnspec verify`: target, dtype and the five counts."""
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    for line in table.splitlines():
        match = TABLE_ROW.match(line.removeprefix(" "))
        if match:
            target = match[1] or rows[-1][0]
            rows.append((target, match[2], tuple(map(int, match.groups()[2:]))))
    return rows


def test_table_of_the_readme_is_the_one_that_is_printed(tmp_path: Path) -> None:
    shown = next(block.text for block in blocks("text") if block.text.lstrip().startswith("target"))
    dtypes = Counter(entry["dtype"] for entry in manifest())
    assert rows_of(shown) == [
        (backend.name, dtype, (count, count, 0, 0, 0)) for backend in list_backends() for dtype, count in dtypes.items()
    ]
    assert shown.splitlines()[-1] == "reference, torch, tensorflow, jax: all conform"

    printed = run(["attnspec", "verify", "reference"], tmp_path).stdout
    assert rows_of(printed) == [row for row in rows_of(shown) if row[0] == "reference"]
    heading = next(line for line in printed.splitlines() if line.strip())
    assert words(heading) == words(shown.splitlines()[0])


def manifest() -> list[dict[str, object]]:
    cases: list[dict[str, object]] = json.loads((VECTORS / "manifest.json").read_text(encoding="utf8"))["cases"]
    return cases


def operations_in(dtype: str) -> set[object]:
    """Return the composed operations that have vectors in a dtype."""
    composed = {operation.name for operation in COMPOSED}
    return {entry["operation"] for entry in manifest() if entry["dtype"] == dtype} & composed


def designs_by_clause() -> dict[str, set[str]]:
    designs: dict[str, set[str]] = {}
    for entry in manifest():
        for clause in entry["clauses"]:  # type: ignore[attr-defined]
            designs.setdefault(clause, set()).add(str(entry["id"]).removesuffix(f"-{entry['dtype']}"))
    return designs


def vectors_in_specification() -> dict[str, list[str]]:
    """Read, for each clause with a section of its own, the names and patterns behind "Vectors:"."""
    text = (ROOT / "docs" / "specification.md").read_text(encoding="utf8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    listed = {}
    for section in sections:
        clause = re.match(r"(S\d+) ", section)
        if clause:
            names = re.search(r"^Vectors: (.*?)\n\n", section + "\n\n", re.MULTILINE | re.DOTALL)
            listed[clause[1]] = re.findall(r"`([a-z0-9*-]+)`", re.sub(r"\(.*?\)", "", names[1])) if names else []
    return listed


def test_every_enforced_clause_is_specified() -> None:
    assert designs_by_clause().keys() <= vectors_in_specification().keys()


@pytest.mark.parametrize("clause", sorted(designs_by_clause(), key=lambda clause: int(clause[1:])))
def test_specification_names_the_vectors_of_each_clause(clause: str) -> None:
    designs, patterns = designs_by_clause()[clause], vectors_in_specification()[clause]
    assert [pattern for pattern in patterns if not fnmatch.filter(designs, pattern)] == []
    assert [name for name in designs if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_profiles_of_the_page_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf8")
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")

    def value(cell: str) -> float:
        return 2.0 ** int(cell[1:].translate(superscripts)) if cell != "0" else 0.0

    shown = []
    for name, dtype, *cells in re.findall(r"^\| `(\w+)` \| (\w+)" + r" \| (\S+)" * 6 + r" \|$", text, re.MULTILINE):
        shown.append((name, dtype, *map(value, cells[:5]), cells[5] == "yes"))
    expected = [
        (p.name, p.dtype, p.accumulation, p.products, p.scores, p.weights, p.output, p.rounds_softmax)
        for p in PROFILES.values()
    ]
    assert shown == expected
    assert {p.exponential for p in PROFILES.values()} == {4.0}
    first = {dtype: name for name, dtype, *_ in reversed(shown)}
    assert first == DEFAULT_PROFILES


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        pytest.param(r"(\d+) correct attentions", len(variants()), id="variants"),
        pytest.param(r"(\d+) wrong ones", len(FAULTS), id="faults"),
        pytest.param(r"(\d+) correct collections", len(layer_variants()), id="layer-variants"),
        pytest.param(r"(\d+) planted mistakes", len(LAYER_FAULTS), id="layer-faults"),
        pytest.param(r"(\d+) composed operations", len(COMPOSED), id="operations"),
        pytest.param(r"vectors of (\d+) of them", len(operations_in("bfloat16")), id="operations-in-bfloat16"),
    ],
)
def test_counts_of_the_page_are_those_of_the_code(pattern: str, count: int) -> None:
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf8")
    assert re.findall(pattern, text) == [str(count)]


def anchor(heading: str) -> str:
    """Make the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links() -> list[tuple[Path, str]]:
    return [
        (page, target)
        for page in TEXTS
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf8"))
        if not target.startswith("https://")
    ]


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: getattr(value, "name", value))
def test_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, fragment = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    assert destination.is_file()
    if fragment:
        headings = re.findall(r"^#+ (.+)$", destination.read_text(encoding="utf8"), re.MULTILINE)
        assert fragment in map(anchor, headings)


def mentioned_files() -> list[str]:
    pattern = r"`((?:tests|docs|reference|backends|conformance)/[\w./*]+)`"
    return sorted({name for page in TEXTS for name in re.findall(pattern, page.read_text(encoding="utf8"))})


@pytest.mark.parametrize("name", mentioned_files())
def test_file_that_is_mentioned_exists(name: str) -> None:
    assert list(ROOT.glob(name.rstrip("/")))


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf8").splitlines()) <= 60

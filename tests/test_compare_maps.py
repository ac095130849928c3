"""`attnspec compare … --html FILE --png FILE`: what is drawn, what is refused before anything runs, and exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import frameworks
import numpy as np
import pytest
from compare_runs import MINE, run, save, save_json

from attnspec.conformance.example_files import MINILM, MINILM_SENTENCES, template
from attnspec.contract.tensor_files import read_tensors

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in a folder of its own that holds two implementations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def data_of(path: str) -> dict[str, object]:
    text = Path(path).read_text(encoding="utf8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert match is not None
    data: dict[str, object] = json.loads(match[1])
    return data


def is_png(path: str) -> bool:
    return Path(path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_minilm_shows_every_layer_and_head_of_every_sentence_in_all_frameworks() -> None:
    for name in frameworks.FRAMEWORKS:
        frameworks.load(name)
    result = run("--example", "minilm", "--html", "maps.html", "--png", "maps.png")
    assert result.exit_code == 0
    assert result.stdout.count(" agrees") == 4
    assert "6 layers (axis 0) of 3 sentences (axis 1), 12 heads of size 32" in result.stdout
    assert "attention maps drawn to maps.html\nattention maps drawn to maps.png\n" in result.stderr
    data, page = data_of("maps.html"), Path("maps.html").read_text(encoding="utf8")
    assert data["targets"] == frameworks.FRAMEWORKS
    heads = data["heads"]
    assert isinstance(heads, dict)
    assert list(heads) == [f"s{s}l{layer}h{h}" for s in range(3) for layer in range(6) for h in range(12)]
    # Layer 4, head 3 of the second sentence, from the file alone.
    tensors = read_tensors(MINILM.read_bytes())
    query, key = (tensors[name][4, 1, 3].astype(np.float64) for name in ("query", "key"))
    scores = query @ key[:10].T / np.sqrt(32)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    found = np.array(heads["s1l4h3"]["values"], np.float64).reshape(13, 13)  # null becomes NaN
    np.testing.assert_allclose(found[:, :10], weights, rtol=2e-5)
    assert np.isnan(found[:, 10:]).all()  # padding
    for target, differences in heads["s1l4h3"]["differences"]:
        assert (target in (0, 1, 2), len(differences), max(map(abs, differences)) < 1e-6) == (True, 169, True)
    assert all(f"<h2><bdi>{sentence}</bdi></h2>" in page for sentence in MINILM_SENTENCES)
    assert page.count('class="thumbnail"') == 3 * 6 * 12
    assert len(page) < 3_000_000
    assert is_png("maps.png")


def test_a_disagreement_is_drawn_and_exits_with_1() -> None:
    save()
    result = run("inputs.npz", "--target", "mine.py:without_scale", "--target", "mine.py:right", "--html", "maps.html")
    assert result.exit_code == 1
    data, page = data_of("maps.html"), Path("maps.html").read_text(encoding="utf8")
    assert data["targets"] == ["mine.py:without_scale", "mine.py:right"]
    assert "disagreement: mine.py:without_scale" in page
    (wrong, right) = data["heads"]["s0l0oh0"]["differences"]  # type: ignore[index]
    assert max(map(abs, wrong[1])) > 0.1
    assert max(map(abs, right[1])) < 1e-14


def test_what_nobody_could_take_is_drawn_and_exits_with_2() -> None:
    save()
    result = run("inputs.npz", "--causal", "--target", "mine.py:without_scale", "--html", "maps.html")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: no target could take the inputs\n")
    assert "the function takes no `mask`" in Path("maps.html").read_text(encoding="utf8")


def test_the_page_stands_beside_json_on_standard_output() -> None:
    save()
    result = run("inputs.npz", "--target", "reference", "--json", "-", "--html", "maps.html")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["agrees"] is True
    assert data_of("maps.html")["targets"] == []


def test_tokens_name_the_positions_of_every_head() -> None:
    square = np.eye(4)[:3].tolist()
    parameters = {f"{part}_weight": np.eye(4).tolist() for part in ("query", "key", "value", "output")}
    save_json(query=square, key=square, value=square, **parameters, tokens=["a", "b", "\ud800"])
    options = ["--op", "multi_head_attention", "--num-heads", "2", "--target", "reference"]
    result = run("inputs.json", *options, "--html", "maps.html", "--png", "maps.png")
    assert result.exit_code == 0
    assert "weights of 2 heads are too many to print; --html draws them" in result.stdout
    axes = data_of("maps.html")["axes"]
    assert axes["axes0"]["row_names"] == axes["axes0"]["column_names"] == ["a", "b", "\\ud800"]  # type: ignore[index]
    plain = run("inputs.json", *options[:2], "--num-heads", "1", "--target", "reference")
    assert plain.exit_code == 0
    assert "\\ud800" in plain.stdout


@pytest.mark.parametrize("operation", ["self_attention", "key_value_attention", "multi_head_attention"])
def test_every_operation_has_maps(operation: str) -> None:
    frameworks.load("torch")
    save_json(json.dumps(template(operation)))
    heads = ["--num-heads", "2"] if operation == "multi_head_attention" else []
    result = run("inputs.json", "--op", operation, *heads, "--target", "torch", "--html", "a.html", "--png", "a.png")
    assert result.exit_code == 0
    data = data_of("a.html")
    assert list(data["heads"]) == ["s0l0h0", "s0l0h1"][: 2 if heads else 1]  # type: ignore[call-overload]
    assert is_png("a.png")


NOWHERE = ["inputs.npz", "--target", "none.py:missing"]
"""It would be refused too, but later: drawings are checked first."""

BAD_USES: dict[str, tuple[list[str], str]] = {
    "suffix": ([*NOWHERE, "--html", "maps.htm"], "maps.htm: attention maps are drawn to a .html file; got '.htm'"),
    "suffix-png": ([*NOWHERE, "--png", "maps.pdf"], "maps.pdf: attention maps are drawn to a .png file; got '.pdf'"),
    "standard-output": ([*NOWHERE, "--html", "-"], "-: attention maps are drawn to a .html file; got ''"),
    "folder": ([*NOWHERE, "--html", "folder.html"], "folder.html: this is a folder, not a file"),
    "no-folder": ([*NOWHERE, "--png", "no/maps.png"], "no/maps.png: cannot be written: there is no folder no"),
    "two-files": (
        ["inputs.npz", "inputs.npz", "--html", "maps.html", "--png", "maps.png"],
        "two saved files cannot be combined with --html, --png",
    ),
    "template": (["--template", "self_attention", "--html", "maps.html"], "--template cannot be combined with --html"),
}


@pytest.mark.parametrize("name", BAD_USES)
def test_a_wrong_use_is_one_clear_line(name: str) -> None:
    save()
    Path("folder.html").mkdir()
    args, message = BAD_USES[name]
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {message}\n"
    assert result.stdout == ""
    assert sorted(path.name for path in Path().iterdir()) == ["folder.html", "inputs.npz", "mine.py"]


@pytest.mark.parametrize(
    ("suffix", "package"), [("html", "jinja2"), ("html", "matplotlib"), ("png", "matplotlib")], ids="-".join
)
def test_a_missing_extra_is_one_clear_line_before_anything_runs(
    suffix: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    result = run(*NOWHERE, f"--{suffix}", f"maps.{suffix}")
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: --{suffix}: drawing attention maps needs {package}, which is not installed; "
        f"install it with: pip install 'attnspec[report]'\n"
    )


def test_a_file_that_cannot_be_written_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    save()
    monkeypatch.setattr(Path, "write_text", fail)
    result = run("inputs.npz", "--target", "reference", "--html", "maps.html")
    assert result.exit_code == 2
    assert result.stderr == "Error: maps.html: cannot be written: No space left on device\n"

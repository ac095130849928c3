"""The page of attention maps: its numbers, its colours, and that nothing of a file or a target can act in it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec import reference
from attnspec.conformance import compare
from attnspec.conformance.attention_maps import AttentionMaps, LayerMaps, MapReport, Names, StageMaps, report_of
from attnspec.conformance.compare import Row
from attnspec.conformance.example_files import find_example
from attnspec.conformance.map_page import render_page
from attnspec.conformance.results import Status
from attnspec.contract import causal, query_lengths

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

FOX_WEIGHTS = [
    [0.231574, 0.243447, 0.255929, 0.269050],
    [0.224393, 0.240664, 0.258114, 0.276829],
    [0.217327, 0.237794, 0.260188, 0.284691],
    [0.210379, 0.234842, 0.262149, 0.292631],
]
VOID = {"meta", "input", "img", "rect", "image", "use", "path", "circle"}


class Page(HTMLParser):
    """Every element of a page with its attributes and its text; refuses what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.elements: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "within": list(self._open)}
        element["attributes"] = {name: value or "" for name, value in attrs}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def find(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element["attributes"].get(n) == v for n, v in wanted.items())
        ]

    def inside(self, outer: dict[str, Any], *tags: str) -> list[str]:
        return [
            " ".join(element["text"].split())
            for element in self.elements
            if element["tag"] in tags and any(one is outer for one in element["within"])
        ]

    def words(self, tag: str, **attributes: str) -> list[str]:
        return [" ".join(element["text"].split()) for element in self.find(tag, **attributes)]

    @property
    def data(self) -> dict[str, Any]:
        (script,) = self.find("script", id="data")
        data: dict[str, Any] = json.loads(script["text"])
        return data

    def images(self) -> list[Any]:
        return [pixels(image["attributes"]["href"]) for image in self.find("image")]


def pixels(address: str) -> Any:
    from matplotlib.image import imread

    head, _, payload = address.partition(",")
    assert head == "data:image/png;base64"
    return np.round(255 * imread(io.BytesIO(base64.b64decode(payload)), format="png")).astype(int)


def page_of(report: MapReport) -> Page:
    return Page(render_page(report))


def report(*layers: LayerMaps, **changes: Any) -> MapReport:
    return MapReport("title", (AttentionMaps("", layers),), **changes)


def weights(expected: Any, visible: Any = None, **targets: Any) -> StageMaps:
    expected = np.array(expected, np.float64)
    arrays = {name: np.array(array, np.float64) for name, array in targets.items()}
    return StageMaps(expected, arrays, np.full(expected.shape, 0.25), visible)


@pytest.fixture(scope="module")
def fox() -> Page:
    def leaky(query: Any, key: Any, value: Any) -> Any:
        return reference.dot_product_attention(query, key, value, scale=0.25)

    return page_of(report_of(compare(find_example("fox").path, targets=["torch", leaky])))


# Numbers


def test_the_page_holds_the_weights_of_the_worked_example_and_their_tokens(fox: Page) -> None:
    data = fox.data
    head = data["heads"]["s0l0h0"]
    assert head["stage"] == "weight"
    np.testing.assert_array_equal(np.reshape(head["values"], (4, 4)), FOX_WEIGHTS)
    axes = data["axes"][head["axes"]]
    assert axes["row_names"] == axes["column_names"] == ["The", "quick", "brown", "fox"]
    (group,) = fox.find("g", id=head["axes"])
    assert [fox.words("text", class_="row")[:4], fox.words("text", class_="column")[:4]] == [axes["row_names"]] * 2
    assert "quick" in group["text"]
    shown = [f"{weight:.3f}" for row in FOX_WEIGHTS for weight in row]
    assert fox.inside(fox.find("svg")[0], "text") == shown


def test_the_table_says_what_the_comparison_says(fox: Page) -> None:
    rows = [" | ".join(fox.inside(row, "th", "td")) for row in fox.find("tr")]
    assert rows[0] == "target | version | verdict | max error | error / bound | first difference | time"
    assert re.fullmatch(r"reference \| NumPy \S+ \| agrees \| 0 \| 0\.00 \|  \| \S+ ms", rows[1])
    assert re.fullmatch(r"torch \| PyTorch \S+ \| agrees \| \S+ \| 0\.\d\d \|  \| \S+ ms", rows[2])
    # The output of the last token is 1.05715 with half the scale, where 1.0637030775 is right.
    assert re.fullmatch(r"leaky \| Python callable \| differs \| 0\.00\d+ \| \d\.\de\+12 \| output \| \S+ ms", rows[3])
    assert rows[4].startswith("at [3, ")
    assert fox.words("p", class_="verdict bad") == ["disagreement: leaky"]


def test_differences_are_those_of_each_target_with_their_scale_and_ratio(fox: Page) -> None:
    heads = fox.data["heads"]
    assert fox.data["targets"] == ["torch", "leaky"]
    (index, differences) = heads["s0l0h0"]["differences"][0]
    assert (index, len(differences)) == (0, 16)
    assert max(map(abs, differences)) < 1e-16
    output = heads["s0l0oh0"]
    assert (output["stage"], len(output["differences"])) == ("output", 1)
    expected = reference.dot_product_attention(*fox_tensors(), scale=0.25)
    expected = expected - reference.dot_product_attention(*fox_tensors())
    np.testing.assert_allclose(output["differences"][0][1], expected.ravel(), rtol=5e-3)
    (caption,) = fox.words("p", class_="caption bad")
    assert re.fullmatch(rf"± {np.abs(expected).max():.3g}, error / bound \d\.\de\+12, 16 of 16 outside", caption)
    (alike,) = fox.words("p", class_="caption")
    assert re.fullmatch(r"± \d\.\d+e-17, error / bound 0\.\d\d", alike)
    assert fox.words("figcaption", class_="bad") == ["all heads, outside its bound"]
    # Where something is wrong, differences are shown from the start.
    assert "checked" in fox.find("input", id="with-differences")[0]["attributes"]
    assert "checked" not in fox.find("input", id="only-weights")[0]["attributes"]


def fox_tensors() -> tuple[Any, Any, Any]:
    query = np.array([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]]) / 10
    return query, query + 0.4, query + 0.8


def test_layers_heads_and_sequences_each_have_their_place() -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((2, 3, 5, 7, 4)) for name in ("query", "key", "value")}
    names = Names(("low", "high"), ("one", "two", "three"))
    comparison = compare(tensors, targets="torch")
    page = page_of(report_of(comparison, names))
    assert [figure["attributes"]["id"] for figure in page.find("figure")] == [
        f"s{s}l{layer}h{h}" for s in range(3) for layer in range(2) for h in range(5)
    ]
    assert page.words("h2") == ["one", "two", "three"]
    assert page.words("h3") == ["low", "high"] * 3
    for s, layer, h in ((0, 1, 2), (2, 0, 4)):
        found = page.data["heads"][f"s{s}l{layer}h{h}"]["values"]
        np.testing.assert_allclose(found, comparison.stages.weights[layer, s, h].ravel(), rtol=1e-5)
    overview = [link["attributes"] for link in page.find("a", class_="thumbnail")]
    assert [link["href"] for link in overview] == [f"#{figure['attributes']['id']}" for figure in page.find("figure")]
    assert overview[12]["title"] == f"low, head 2: largest weight {comparison.stages.weights[0, 1, 2].max():.3g}"
    assert {link["attributes"]["href"][1:] for link in page.find("a")} <= {
        element["attributes"].get("id") for element in page.elements
    }


def test_numbers_that_are_none_are_words() -> None:
    visible = np.array([[[True, False], [True, True]]])
    found = [[[np.nan, 0.0], [1.0, np.inf]]]
    page = page_of(report(LayerMaps("", weights([[[1.0, 0.0], [np.nan, 0.5]]], visible, x=found))))
    head = page.data["heads"]["s0l0h0"]
    assert head["values"] == [1.0, None, "nan", 0.5]
    assert head["differences"] == [[0, ["nan", 0.0, "nan", "inf"]]]
    assert page.words("p", class_="caption bad") == ["NaN or Inf, error / bound inf, 3 of 4 outside"]


# Colours


def test_weights_are_coloured_from_0_to_the_largest_of_the_layer() -> None:
    import matplotlib as mpl

    expected = np.array([[[0.25, 0.75], [0.0, 1.0]], [[0.5, 0.5], [0.125, np.nan]]]) * 0.5
    visible = np.array([[[True, True], [False, True]], [[True, True], [True, True]]])
    first, second = page_of(report(LayerMaps("", weights(expected, visible)))).images()
    viridis = mpl.colormaps["viridis"]
    np.testing.assert_array_equal(first[0, 0], viridis(0.25, bytes=True))
    np.testing.assert_array_equal(first[1, 1], viridis(1.0, bytes=True))
    assert first[1, 0, 3] == 0  # masked
    np.testing.assert_array_equal(second[1, 0], viridis(0.125, bytes=True))
    assert second[1, 1].tolist() == [219, 39, 190, 255]  # not a number


def test_differences_are_red_and_blue_as_strong_as_they_are_large() -> None:
    expected = np.full((1, 2, 3), 0.5)
    off = np.array([[[0.125, -0.125, 0.0], [-0.0625, np.inf, 0.03125]]])
    page = page_of(report(LayerMaps("", weights(expected, x=expected + off))))
    _, image = page.images()
    assert image[0, 0].tolist() == [207, 34, 46, 255]
    assert image[0, 1].tolist() == [31, 94, 219, 255]
    assert image[0, 2, 3] == 0
    assert image[1].tolist() == [[31, 94, 219, 128], [219, 39, 190, 255], [207, 34, 46, 64]]


def test_what_is_masked_and_empty_rows_have_patterns_of_their_own() -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((2, 3, 3, 4)) for name in ("query", "key", "value")}
    page = page_of(report_of(compare(tensors, mask=causal() & query_lengths([3, 2]), targets=[])))
    # Cells are 46 wide and begin behind names of one digit, 13.1: rows 0 and 1 of a causal map are masked at the right.
    masked = [path["attributes"]["d"] for path in page.find("path", class_="masked")]
    empty = [path["attributes"]["d"] for path in page.find("path", class_="empty")]
    assert masked == ["M59.1 13.1h92v46h-92zM105.1 59.1h46v46h-46z"] * 2
    assert empty == ["M13.1 105.1h138v46h-138z"]  # the last row of the second batch element
    used = [use["attributes"]["href"] for use in page.find("use") if "mask" in use["attributes"]["href"]]
    assert used == ["#mask0"] * 3 + ["#mask1"] * 3  # once for each head, defined once for each mask
    assert page.data["heads"]["s1l0h2"]["values"][6:] == [None] * 3


# What comes from outside


NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7 * 7 }}&lt;\u202e\ud800"
SHOWN = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7 * 7 }}&lt;\\u202e\\ud800"


def test_nothing_from_outside_becomes_markup() -> None:
    layer = LayerMaps(NASTY, weights(np.full((1, 1, 1), 0.5), **{NASTY: np.full((1, 1, 1), 0.25)}))
    maps = (AttentionMaps(NASTY, (layer, layer), (NASTY,), (NASTY,)),) * 2
    row = Row(NASTY, NASTY, Status.FAIL, message=NASTY)
    page = page_of(MapReport(NASTY, maps, (NASTY,), (row,), (NASTY,), NASTY, agrees=False))
    assert [script["attributes"] for script in page.find("script")] == [{"type": "application/json", "id": "data"}, {}]
    assert {element["tag"] for element in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "bdi", "main", "div"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "fieldset", "legend", "input", "label", "span"),
        *("noscript", "section", "a", "img", "details", "summary", "figure", "figcaption", "svg", "rect", "image"),
        *("use", "text", "footer", "code", "defs", "pattern", "path", "circle", "g", "script"),
    }
    attributes = {name for element in page.elements for name in element["attributes"]}
    assert [name for name in attributes if name.startswith("on")] == []
    sources = {img["attributes"]["src"].partition(",")[0] for img in page.find("img")}
    assert sources == {"data:image/png;base64"}
    # It is there as text, and what cannot be seen is escaped.
    assert page.words("h1") == [f"Attention maps: {SHOWN}"]
    assert page.words("h2") == [SHOWN] * 2
    assert page.words("h3") == [SHOWN] * 4
    assert page.words("tr", class_="message") == [SHOWN]
    assert page.data["targets"] == [SHOWN]
    assert page.data["axes"]["axes0"]["row_names"] == [SHOWN]
    page.text.encode()


def test_the_page_reaches_for_nothing_and_runs_one_script(fox: Page) -> None:
    (policy,) = fox.find("meta", **{"http-equiv": "Content-Security-Policy"})
    *_, script = fox.find("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert policy["attributes"]["content"] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert set(re.findall(r"https?://[^\s\"']+", fox.text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert re.findall(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|innerHTML", fox.text) == []
    links = [e["attributes"][n] for e in fox.elements for n in ("href", "src") if n in e["attributes"]]
    assert {link.partition(",")[0] for link in links if not link.startswith("#")} == {"data:image/png;base64"}


def test_notes_and_warnings_stand_on_the_page() -> None:
    stage = StageMaps(np.zeros((1, 70, 2)), {})
    page = page_of(report(LayerMaps("", stage), warnings=("beware",)))
    assert page.words("p", class_="note") == [
        "Warning: beware",
        "Note: weights of 70 × 2 numbers are drawn in cells of 2 × 1: each shows the number that is farthest from 0",
    ]
    nothing = page_of(MapReport("title", ()))
    assert nothing.words("p", class_="note") == ["Note: nothing to draw: there is no sequence"]
    assert nothing.find("figure") == []


def test_a_map_without_targets_has_no_choice_of_differences() -> None:
    page = page_of(report(LayerMaps("", weights(np.full((1, 2, 2), 0.5)))))
    assert page.find("input", name="maps") == []
    assert len(page.images()) == 1


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_remedy(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError) as raised:
        render_page(MapReport("title", ()))
    assert raised.value.name == package
    assert str(raised.value) == (
        f"drawing attention maps needs {package}, which is not installed; "
        f"install it with: pip install 'attnspec[report]'"
    )


def test_without_bounds_no_ratio_is_claimed() -> None:
    stage = StageMaps(np.full((1, 2, 2), 0.5), {"x": np.full((1, 2, 2), 0.25), "y": np.full((1, 2, 2), 0.5)})
    page = page_of(report(LayerMaps("", stage)))
    assert page.words("p", class_="caption") == ["± 0.25", "no difference"]
    assert page.find("span", class_="ratios") == []
    assert page.find("table") == []


def test_large_numbers_of_names_are_thinned_where_they_would_overlap() -> None:
    page = page_of(report(LayerMaps("", weights(np.full((1, 64, 2), 0.5)))))
    rows = page.words("text", class_="row")
    assert rows == [str(i) for i in range(0, 64, math.ceil(11 / 4))]  # lines of 11, cells of 4


def test_drawing_from_python_writes_by_suffix(tmp_path: Path) -> None:
    comparison = compare(find_example("fox").path, targets=[])
    comparison.draw(tmp_path / "fox.html")
    assert Page((tmp_path / "fox.html").read_text(encoding="utf8")).data["targets"] == []
    comparison.draw(str(tmp_path / "fox.png"))
    assert (tmp_path / "fox.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match=r"fox.pdf: attention maps are drawn to .html or .png files; got '.pdf'$"):
        comparison.draw(tmp_path / "fox.pdf")

"""The page of a report, in a real browser: what it shows, sorts and filters, and that nothing in it can act."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import browser
import numpy as np
import pytest
from made_reports import HOSTILE, HOSTILE_MESSAGE, every_kind, real, report, result

from attnspec.conformance import Report, Result, Status
from attnspec.conformance.report_files import read_report, report_lines
from attnspec.conformance.report_page import render_page

pytest.importorskip("jinja2", reason="pages need the extra `report`")

VOID = {"meta", "input", "br"}


class Shown(HTMLParser):
    """What a document holds: the text of each element, by tag, and which of it is hidden."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, str] = {}
        self.clauses: list[str] = []
        self.heads: list[str] = []
        self.details = ""
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append((tag, attributes))
        if tag == "tr" and self._is_in("cases") and self._is_tag("tbody") and attributes.get("class") != "details":
            self.rows.append([])
        if tag == "td" and self._is_in("cases") and not self._is_details():
            self.rows[-1].append("")
        if tag == "tr" and "data-clause" in attributes and "hidden" not in attributes:
            self.clauses.append(attributes["data-clause"])
        if tag == "th" and "data-target" in attributes and "hidden" not in attributes:
            self.heads.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._is_details():
            self.details += data
        elif self._is_in("cases") and self._is_tag("td"):
            self.rows[-1][-1] += data
        elif any(tag == "th" and "data-target" in found and "hidden" not in found for tag, found in self._open):
            self.heads[-1] += data if self._is_tag("bdi") else ""
        for _, attributes in self._open:
            if "id" in attributes:
                self.texts[attributes["id"]] = self.texts.get(attributes["id"], "") + data

    def _is_in(self, identifier: str) -> bool:
        return any(found.get("id") == identifier for _, found in self._open)

    def _is_tag(self, tag: str) -> bool:
        return any(name == tag for name, _ in self._open)

    def _is_details(self) -> bool:
        return any(found.get("class") == "details" for _, found in self._open)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    opened = browser.Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def document(chromium: browser.Browser, page: Path, fragment: str = "") -> Shown:
    """Open a page, and see that it complains of nothing."""
    with chromium.open(page, fragment) as tab:
        assert tab.messages() == []
        return Shown(tab.document())


def page_of(made: Report, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(render_page(made), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real run."""
    return page_of(real(), tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report with every status, and text that tries to act."""
    return page_of(every_kind(), tmp_path_factory.mktemp("hostile"))


# The file.


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf8")
    shown = Shown(text)
    assert {tag for tag, _ in shown.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"} == set()
    addresses = [found[name] for _, found in shown.tags for name in ("src", "href", "action") if name in found]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert not any(name.startswith("on") or name == "style" for _, found in shown.tags for name in found)
    assert "url(" not in text
    assert "@import" not in text
    policies = [found["content"] for tag, found in shown.tags if found.get("http-equiv") == "Content-Security-Policy"]
    (policy,) = policies
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_size_is_small(page: Path) -> None:
    per_result = page.stat().st_size / len(real().results)
    assert page.stat().st_size < 400_000
    assert per_result < 2000


def test_the_page_of_a_report_that_was_read_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text(report_lines(every_kind()), encoding="utf8")
    assert render_page(read_report(path)) == render_page(every_kind())


def test_without_jinja2_a_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs jinja2, .* pip install 'attnspec\[report\]'$"):
        render_page(report(result()))


# What it shows.


def test_every_result_is_a_row_and_nothing_is_refused(page: Path, chromium: browser.Browser) -> None:
    shown = document(chromium, page)
    results = real().results
    assert len(results) > 100
    failed = sum(one.is_failure for one in results)
    assert shown.texts["count"] == f"{len(results)} of {len(results)} cases, {failed} of them do not conform" + (
        ", the first 200 are shown" if len(results) > 200 else ""
    )
    assert [row[1:3] for row in shown.rows] == [[one.target, one.case] for one in results[:200]]
    assert shown.heads == [*real().targets()]
    assert {"S1", "S12"} <= set(shown.clauses)


def test_the_matrix_says_what_each_clause_came_to(page: Path) -> None:
    shown = Shown(page.read_text(encoding="utf8"))
    cells = {
        found["aria-label"]: found["data-status"] for tag, found in shown.tags if tag == "a" and "aria-label" in found
    }
    grouped = [
        one
        for one in real().results
        if one.target == "kernels.tiled" and "S12" in one.clauses and one.dtype == "float32"
    ]
    failing = sum(one.is_failure for one in grouped)
    (label,) = (name for name in cells if name.startswith("kernels.tiled, S12 at float32: deviates, "))
    assert f" {len(grouped)} cases, {failing} of them do not conform, largest error / bound " in label
    assert cells[label] == "deviates"
    assert any(name.startswith("reference, S12 at float32: conforms") for name in cells)


FILTERS = {
    "target": ("target=kernels.tiled", lambda one: one.target == "kernels.tiled"),
    "dtype": ("dtype=bfloat16", lambda one: one.dtype == "bfloat16"),
    "failed": ("status=failed", lambda one: one.is_failure),
    "one-status": ("status=error", lambda one: one.status is Status.ERROR),
    "clause": ("clause=S12", lambda one: "S12" in one.clauses),
    "direction": ("direction=backward", lambda one: one.direction == "backward"),
    "words": (
        "q=MULTI-HEAD-GROUPED+tiled",
        lambda one: (one.target, one.case[:18]) == ("kernels.tiled", "multi-head-grouped"),
    ),
    "several": (
        "target=kernels.tiled&status=failed&dtype=float32",
        lambda one: one.target == "kernels.tiled" and one.is_failure and one.dtype == "float32",
    ),
    "hostile-name": (f"target={quote(HOSTILE)}&status=error", lambda one: one.target == HOSTILE and one.is_failure),
    "nothing": ("target=nobody", lambda _: False),
}


@pytest.mark.parametrize(("fragment", "test"), FILTERS.values(), ids=FILTERS)
def test_filters_in_the_address(
    fragment: str, test: Callable[[Result], bool], page: Path, chromium: browser.Browser
) -> None:
    shown = document(chromium, page, fragment)
    wanted = [[one.target, one.case] for one in real().results if test(one)]
    assert [row[1:3] for row in shown.rows] == wanted[:200]
    assert shown.texts["count"].startswith(f"{len(wanted)} of {len(real().results)} cases")
    if fragment.startswith("target=kernels.tiled"):
        assert shown.heads == ["kernels.tiled"]
    if fragment == "clause=S12":
        assert shown.clauses == ["S12"]


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort tile-33 before tile-129."""
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(re.split(r"(\d+)", name))]


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("key", ["ratio", "case"])
def test_sorting_in_the_address(key: str, sign: str, page: Path, chromium: browser.Browser) -> None:
    shown = document(chromium, page, f"target=kernels.tiled&dtype=float32&direction=forward&sort={sign}{key}")
    found = {one.case: one for one in real().results if one.target == "kernels.tiled"}
    cases = [row[2] for row in shown.rows]
    assert len(cases) > 20
    if key == "case":
        assert sorted(cases, reverse=bool(sign), key=_by_number) == cases
    else:
        ratios = [-1.0 if found[case].ratio is None else float(f"{found[case].ratio:.4g}") for case in cases]
        assert ratios == sorted(ratios, reverse=bool(sign))
        assert len(set(ratios)) > 3
    heading = next(found for tag, found in shown.tags if found.get("data-sort") == key)
    assert heading["aria-sort"] == ("descending" if sign else "ascending")


def test_columns_are_sorted_by_failures(page: Path, chromium: browser.Browser) -> None:
    failing = {target: sum(one.is_failure for one in real().select(target)) for target in real().targets()}
    assert document(chromium, page, "order=failing").heads == sorted(failing, key=lambda target: -failing[target])
    assert document(chromium, page, "order=name").heads[0] == HOSTILE


def test_a_case_is_opened_with_its_numbers_and_maps(page: Path, chromium: browser.Browser) -> None:
    shown = document(chromium, page, "target=kernels.tiled&case=grouped-float32")
    (found,) = (one for one in real().results if (one.target, one.case) == ("kernels.tiled", "grouped-float32"))
    assert found.largest is not None
    place = ", ".join(map(str, found.largest.place))
    assert f"output[{place}]: got {found.largest.got:.9g}, expected {found.largest.expected:.9g}" in shown.details
    assert found.message in shown.details
    assert "attnspec verify kernels.tiled --case grouped-float32" in shown.details
    canvases = [attributes for tag, attributes in shown.tags if tag == "canvas"]
    assert [one["aria-label"].split(",")[0].split(":")[0] for one in canvases][1:] == ["bound", "exact weights"]
    assert canvases[0]["aria-label"].startswith("error / bound of output[")
    assert all(one["tabindex"] == "0" and one["role"] == "img" for one in canvases)
    assert shown.clauses == ["S1", "S2", "S12"]


# What it does with keys.


def test_a_case_is_opened_and_read_by_keys_alone(page: Path, chromium: browser.Browser) -> None:
    with chromium.open(page, "target=kernels.tiled&status=failed&dtype=float32&clause=S12") as tab:
        tab.evaluate("document.querySelector('#cases .open').focus()")
        tab.press("Enter")
        assert tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
        tab.press("Tab")
        assert tab.evaluate("document.activeElement.tagName") == "CANVAS"
        first = tab.evaluate("document.querySelector('.readout').textContent")
        tab.press("ArrowDown")
        tab.press("ArrowRight")
        moved = tab.evaluate("document.querySelector('.readout').textContent")
        assert re.fullmatch(r"output\[[\d, ]+0, 0\]: error / bound [-+]?[\d.e+-]+, bound [\d.e+-]+", first), first
        assert re.fullmatch(r"output\[[\d, ]+1, 1\]: error / bound [-+]?[\d.e+-]+, bound [\d.e+-]+", moved), moved
        assert tab.messages() == []


def test_filters_are_written_to_the_address(page: Path, chromium: browser.Browser) -> None:
    with chromium.open(page) as tab:
        tab.evaluate("document.getElementById('dtype').value = 'bfloat16'")
        tab.evaluate("document.getElementById('dtype').dispatchEvent(new Event('input'))")
        tab.evaluate("document.querySelector('th[data-sort=ratio] button').click()")
        assert tab.evaluate("location.hash") == "#dtype=bfloat16&sort=-ratio"
        tab.evaluate("document.querySelector('th[data-sort=ratio] button').click()")
        assert tab.evaluate("location.hash") == "#dtype=bfloat16&sort=ratio"
        tab.evaluate("document.getElementById('clear').click()")
        assert tab.evaluate("location.hash") == ""
        assert tab.evaluate("document.getElementById('dtype').value") == ""


# What it must not do.


@pytest.mark.parametrize(
    "fragment",
    [
        "",
        "status=failed",
        f"target={quote(HOSTILE)}&case=grouped-float32",
        "case=grouped-float32&target=mine",
        "q=<img>",
    ],
)
def test_nothing_of_a_target_acts(fragment: str, hostile: Path, chromium: browser.Browser) -> None:
    with chromium.open(hostile, fragment) as tab:
        assert tab.messages() == []
        text = tab.document()
        assert tab.evaluate("document.title") == "attnspec report"
        assert tab.evaluate("document.scripts.length") == 2  # the data, and our script
        assert tab.evaluate("document.images.length") == 0
    assert html.escape(HOSTILE, quote=False) in text
    if fragment == "case=grouped-float32&target=mine":
        assert "<img src=x onerror=alert(1)> </script><script>" in Shown(text).details
        assert "\\x00\\x1b[31m" in Shown(text).details


def test_the_policy_refuses_what_would_get_in(tmp_path: Path, chromium: browser.Browser) -> None:
    path, added = tmp_path / "broken.html", "<main><script>document.title='owned'</script><img src='x.png'>"
    path.write_text(render_page(every_kind()).replace("<main>", added), encoding="utf8")
    with chromium.open(path) as tab:
        assert tab.evaluate("document.title") == "attnspec report"
        assert sum("Content Security Policy" in line for line in tab.messages()) == 2


@pytest.mark.parametrize("made", [report(), Report((), {}), report(result(status=Status.UNSUPPORTED, ratio=None))])
def test_pages_of_next_to_nothing(made: Report, tmp_path: Path, chromium: browser.Browser) -> None:
    page = page_of(made, tmp_path)
    shown = document(chromium, page)
    assert ("No case ran." in page.read_text(encoding="utf8")) == (not made.results)
    assert len(shown.rows) == len(made.results)


def test_thousands_of_failures(tmp_path: Path, chromium: browser.Browser) -> None:
    nan = float("nan")
    made = [result(f"case-{i}", Status.FAIL, nan if i % 7 else float(i), message=f"wrong {i}") for i in range(5000)]
    page = page_of(report(*made), tmp_path)
    assert page.stat().st_size < 2_500_000
    assert [row[2] for row in document(chromium, page, "q=wrong+4321").rows] == ["case-4321"]
    with chromium.open(page, "sort=-ratio") as tab:
        count = "document.querySelectorAll('#cases tbody tr').length"
        assert tab.evaluate(count) == 200
        tab.evaluate("document.getElementById('more').click()")
        assert tab.evaluate(count) == 400


# What it looks like.


def share(picture: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> float:
    """Return the share of the pixels that have a colour."""
    return float((np.abs(picture - colour).max(axis=-1) <= 2).mean())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_picture_of_the_page(dark: bool, page: Path, chromium: browser.Browser) -> None:
    pytest.importorskip("matplotlib", reason="pictures are read by the extra `report`")
    with chromium.open(page, size=(1300, 900), dark=dark) as tab:
        picture = tab.picture()
    assert picture.shape == (900, 1300, 3)
    background, failing, good = (
        ((20, 22, 26), (229, 72, 77), (31, 90, 48)) if dark else ((252, 252, 251), (193, 31, 45), (183, 223, 193))
    )
    assert 0.5 < share(picture, background) < 0.98
    assert share(picture, failing) > 0.001
    assert share(picture, good) > 0.001


def test_a_picture_of_a_case_shows_its_maps(page: Path, chromium: browser.Browser) -> None:
    pytest.importorskip("matplotlib", reason="pictures are read by the extra `report`")
    fragment = "target=kernels.tiled&dtype=float32&case=grouped-float32"
    with chromium.open(page, fragment, size=(1300, 1200)) as tab:
        picture = tab.picture()
    weakest = np.array([250, 220, 120])
    assert share(picture, tuple(weakest)) > 0.0001  # the largest weight, or the widest bound
    outside = (picture[..., 0] >= 150) & (picture[..., 1] <= 150) & (picture[..., 2] <= 110) & (picture[..., 2] >= 30)
    assert outside.mean() > 0.005


def test_the_data_is_plain_json(page: Path) -> None:
    text = page.read_text(encoding="utf8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert HOSTILE_MESSAGE[:40] not in text
    assert len(json.loads(data)["results"]) == len(real().results)

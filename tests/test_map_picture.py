"""The picture of attention maps: which numbers each of its axes holds, in which colours, under which names."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance import compare
from attnspec.conformance.attention_maps import AttentionMaps, LayerMaps, MapReport, Names, StageMaps, report_of
from attnspec.conformance.example_files import find_example
from attnspec.conformance.map_picture import draw_figure, draw_picture
from attnspec.contract import causal, query_lengths

pytest.importorskip("matplotlib")

TOKENS = {"math": "$x_{$", "line": "a\nb", "glyph": "日本", "lone": "\ud800", "tag": "</text>", "long": "x" * 50}


def axes_of(figure: Any) -> dict[str, Any]:
    return {axes.get_label(): axes for axes in figure.axes}


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.texts]


def numbers(axes: Any) -> Any:
    return axes.images[0].get_array()


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def uniform(heads: int, length: int, **targets: float) -> StageMaps:
    expected = np.full((heads, length, length), 1.0 / length)
    return StageMaps(expected, {name: expected + off for name, off in targets.items()}, np.full(expected.shape, 0.25))


def test_the_fox_is_drawn_with_its_tokens_numbers_and_differences() -> None:
    comparison = compare(find_example("fox").path, targets=["torch"])
    figure = draw_figure(report_of(comparison))
    axes = axes_of(figure)
    assert list(axes) == ["0 0", "0 bar", "1 0", "1 bar"]
    weights = comparison.stages.weights[0]
    np.testing.assert_array_equal(numbers(axes["0 0"]), weights)
    assert axes["0 0"].images[0].get_clim() == (0.0, weights.max())
    assert [text.get_text() for text in axes["0 0"].texts] == [f"{weight:.3f}" for weight in weights.ravel()]
    assert ticks(axes["0 0"].xaxis) == ticks(axes["0 0"].yaxis) == ["The", "quick", "brown", "fox"]
    difference = np.asarray(comparison["torch"].weights)[0] - weights
    np.testing.assert_array_equal(numbers(axes["1 0"]), difference)
    largest = np.abs(difference).max()
    assert axes["1 0"].images[0].get_clim() == (-largest, largest)
    assert ticks(axes["1 bar"].yaxis) == [f"{-largest:.3g}", "0", f"{largest:.3g}"]
    shown = texts_of(figure)
    assert shown[0].startswith("Attention maps: ")
    assert "weights" in shown
    assert " ".join(shown[-3:]).endswith(
        f"largest {largest:.3g}, error / bound {comparison['torch'].stage_ratios['weights']:.2f}"
    )
    assert any(line.startswith("torch (PyTorch ") and ": agrees, max error " in line for line in shown)


def test_layers_are_rows_heads_are_columns_and_the_worst_layer_of_each_target_is_drawn() -> None:
    layers = (
        LayerMaps("low", uniform(3, 7, x=0.125, y=0.0)),
        LayerMaps("high", uniform(3, 7, x=-0.0625, y=0.5)),
    )
    figure = draw_figure(MapReport("title", (AttentionMaps("one", layers), AttentionMaps("two", layers))))
    axes = axes_of(figure)
    assert [label for label in axes if "bar" not in label] == [f"{row} {head}" for row in range(4) for head in range(3)]
    np.testing.assert_allclose(numbers(axes["2 1"]), 0.125, rtol=1e-15)
    np.testing.assert_allclose(numbers(axes["3 2"]), 0.5, rtol=1e-15)
    shown = " ".join(texts_of(figure))
    assert "low: weights" in shown
    assert "high: weights" in shown
    assert "x − reference, weights of low: largest 0.125, error / bound 0.50" in shown
    assert "y − reference, weights of high: largest 0.5, error / bound 2.00" in shown
    assert "Note: only the first of 2 sequences is drawn: one" in shown
    assert "Note: differences are drawn for the layer with the largest error / bound only" in shown
    titles = {text.get_text(): text.get_color() for text in figure.texts}
    assert {color for text, color in titles.items() if text.startswith("y − ")} == {"#c11f2d"}  # outside its bound


def test_what_is_masked_is_left_out_and_empty_rows_are_marked() -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((3, 4)) for name in ("query", "key", "value")}
    axes = axes_of(draw_figure(report_of(compare(tensors, mask=causal() & query_lengths(2), targets=["torch"]))))
    hidden = ~np.tri(3, dtype=bool)
    hidden[2] = True
    for label in ("0 0", "1 0"):
        np.testing.assert_array_equal(np.ma.getmaskarray(numbers(axes[label])), hidden)
        assert axes[label].patch.get_hatch() == "/////"
        (blank,) = axes[label].patches
        assert (blank.get_y(), blank.get_height(), blank.get_hatch()) == (1.5, 1, "....")


def test_weight_on_a_masked_key_is_shown() -> None:
    expected = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    stage = StageMaps(expected, {"x": np.full((1, 2, 2), 0.5)}, visible=expected > 0)
    axes = axes_of(draw_figure(MapReport("title", (AttentionMaps("", (LayerMaps("", stage),)),))))
    assert np.ma.getmaskarray(numbers(axes["0 0"])).tolist() == [[False, True], [False, False]]
    assert numbers(axes["1 0"]).tolist() == [[-0.5, 0.5], [0.0, 0.0]]


def test_nan_and_infinity_have_a_colour_of_their_own() -> None:
    found = np.array([[[np.nan, 0.25], [np.inf, 0.5]]])
    stage = StageMaps(np.full((1, 2, 2), 0.25), {"x": found})
    axes = axes_of(draw_figure(MapReport("title", (AttentionMaps("", (LayerMaps("", stage),)),))))
    strange = axes["1 0"].images[1]
    assert np.ma.getmaskarray(strange.get_array()).tolist() == [[False, True], [False, True]]
    assert np.round(255 * strange.cmap(0.0)[0]) == 219
    assert axes["1 0"].images[0].get_clim() == (-0.25, 0.25)


def test_outputs_have_axes_of_their_own() -> None:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((3, 4)) for name in ("query", "key")} | {"value": rng.standard_normal((3, 2))}

    def zeros(query: Any, key: Any, value: Any) -> Any:
        del key
        return np.zeros((*query.shape[:-1], value.shape[-1]))

    comparison = compare(tensors, targets=[zeros])
    axes = axes_of(draw_figure(report_of(comparison)))
    np.testing.assert_array_equal(numbers(axes["1 0"]), -np.asarray(comparison["reference"].output))
    assert ticks(axes["1 0"].xaxis) == ["0", "1"]
    assert ticks(axes["1 0"].yaxis) == ["0", "1", "2"]


def test_what_does_not_fit_is_noted() -> None:
    layers = tuple(LayerMaps(f"layer {i}", uniform(17 if i == 0 else 1, 2)) for i in range(13))
    figure = draw_figure(MapReport("title", (AttentionMaps("", layers),)))
    shown = " ".join(texts_of(figure))
    assert "Note: of 17 heads the first 16 are drawn" in shown
    assert "Note: of 13 layers the first 12 are drawn" in shown
    assert {label for label in axes_of(figure) if label.startswith(("0 ", "12 "))} == {
        *(f"0 {head}" for head in range(16)),
        "0 bar",
    }


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_no_name_can_break_a_picture(token: str) -> None:
    layer = LayerMaps(token, StageMaps(np.ones((1, 1, 1)), {token: np.zeros((1, 1, 1))}))
    maps = (AttentionMaps(token, (layer,), (token,), (token,)),) * 2
    payload = draw_picture(MapReport(token, maps, about=(token,), warnings=(token,), verdict=token))
    assert payload[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_picture_of_nothing_says_so() -> None:
    assert texts_of(draw_figure(MapReport("title", ())))[-1] == "Note: nothing to draw: there is no sequence"


def test_a_picture_is_as_large_as_its_maps_need(tmp_path: Path) -> None:
    from matplotlib.image import imread

    report = MapReport("title", (AttentionMaps("", (LayerMaps("", uniform(12, 13, x=0.0)),)),))
    (tmp_path / "maps.png").write_bytes(draw_picture(report))
    height, width, _ = imread(tmp_path / "maps.png").shape
    # 12 maps of 13 cells of 1/8 inch at 120 dots an inch: 15 dots for each cell.
    assert 12 * 13 * 15 < width < 1.25 * 12 * 13 * 15
    assert 2 * 13 * 15 < height < 5 * 13 * 15


def test_drawing_leaves_matplotlib_as_it_was_and_needs_no_pyplot(tmp_path: Path) -> None:
    code = """
        import sys, numpy as np
        from attnspec.conformance import compare
        tensors = {name: np.eye(2) for name in ("query", "key", "value")}
        comparison = compare(tensors, targets=[])
        loaded = [name for name in ("matplotlib", "jinja2") if name in sys.modules]
        import matplotlib
        def settings():
            return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
        before = settings()
        comparison.draw(sys.argv[1])
        print(loaded, settings() == before, "matplotlib.pyplot" in sys.modules)
        """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path / "maps.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] True False"


def test_names_of_layers_and_sentences_are_those_that_are_given() -> None:
    tensors = {name: np.random.default_rng(0).standard_normal((2, 1, 1, 3, 4)) for name in ("query", "key", "value")}
    figure = draw_figure(report_of(compare(tensors, targets=[]), Names(("a", "b"), ("s",), (("x", "y", "z"),))))
    assert {"a: weights", "b: weights"} <= set(texts_of(figure))
    assert ticks(axes_of(figure)["0 0"].yaxis) == ["x", "y", "z"]

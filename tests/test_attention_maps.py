"""Attention maps: the weights of every operation and framework, what is drawn of them, and what is said of the rest."""

from __future__ import annotations

import importlib
import math
from typing import Any

import frameworks
import numpy as np
import pytest

from attnspec import reference
from attnspec.conformance import compare
from attnspec.conformance.attention_maps import (
    AttentionMaps,
    LayerMaps,
    MapReport,
    Names,
    StageMaps,
    printable,
    report_of,
)
from attnspec.conformance.example_files import template
from attnspec.conformance.map_panels import Axis, axis_of, draw_stage, facts_of, select
from attnspec.contract import causal, key_lengths

PROJECTED = ("self_attention", "key_value_attention", "multi_head_attention")


@pytest.fixture(scope="module")
def all_four() -> list[str]:
    """The names of the reference and the three backends; skips where a framework is missing, and fails in CI."""
    for name in frameworks.MODULES:
        frameworks.load(name)
    return list(frameworks.MODULES)


def draw(*leading: int, queries: int = 3, keys: int = 5, dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng([*leading, queries, keys])
    lengths = {"query": queries, "key": keys, "value": keys}
    return {name: (1.7 * rng.standard_normal((*leading, length, 7))).astype(dtype) for name, length in lengths.items()}


def without_scale(query: Any, key: Any, value: Any) -> Any:
    return reference.dot_product_attention(query, key, value, scale=1.0)


# The weights inside an operation


def softmax_by_hand(query: Any, key: Any, bias: Any, visible: Any) -> list[list[float]]:
    """Return the weights of one head, one number at a time."""
    rows = []
    for i, q in enumerate(query):
        scores = [math.fsum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in key]
        powers = [math.exp(s + bias[i][j]) if visible[i][j] else 0.0 for j, s in enumerate(scores)]
        rows.append([power / math.fsum(powers) for power in powers])
    return rows


def weights_by_hand(operation: str, data: dict[str, Any]) -> Any:
    """Return the weights of a template, (heads, queries, keys)."""

    def product(rows: Any, columns: Any) -> Any:
        turned = list(zip(*columns, strict=True))
        return [[math.fsum(x * w for x, w in zip(row, column, strict=True)) for column in turned] for row in rows]

    if operation == "self_attention":
        heads = [tuple(product(data["inputs"], data[f"{name}_weight"]) for name in ("query", "key"))]
    elif operation == "key_value_attention":
        heads = [([data["query"]], data["keys"])]
    else:
        query, key = (
            [
                [x + b for x, b in zip(row, data[f"{name}_bias"], strict=True)]
                for row in product(data[name], data[f"{name}_weight"])
            ]
            for name in ("query", "key")
        )
        heads = [tuple([row[4 * h : 4 * h + 4] for row in rows] for rows in (query, key)) for h in range(2)]
    return np.array([softmax_by_hand(*head, data["bias"], data["mask"]) for head in heads])


@pytest.mark.parametrize("operation", PROJECTED)
def test_every_backend_shows_the_weights_inside_an_operation_with_projections(
    operation: str, all_four: list[str]
) -> None:
    data = template(operation)
    tensors = {
        name: np.array(value, bool if name == "mask" else np.float32) for name, value in data.items() if name != "dtype"
    }
    heads = {"num_heads": 2} if operation == "multi_head_attention" else {}
    comparison = compare(tensors, operation=operation, targets=all_four, **heads)
    # By hand from the numbers that float32 holds.
    wide = {name: value.tolist() for name, value in tensors.items()}
    expected = weights_by_hand(operation, wide)
    assert comparison.stages.weights.shape == expected.shape
    np.testing.assert_allclose(comparison.stages.weights, expected, rtol=1e-13, atol=1e-300)
    for row in comparison.rows:
        assert row.weights is not None
        np.testing.assert_allclose(row.weights, expected, rtol=3e-5, atol=1e-30)  # logits up to 60 in float32
        assert 0.0 <= row.stage_ratios["scores"] <= 1.0


@pytest.mark.parametrize(("part", "stage"), [("query_weight", "scores"), ("value_weight", "output")])
def test_a_fault_of_a_projection_is_named_at_the_first_stage_that_sees_it(
    part: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frameworks.load("torch")
    projections: Any = importlib.import_module("attnspec.torch.projections")
    right = projections.project
    data = {name: np.array(value) for name, value in template("multi_head_attention").items() if name != "dtype"}
    wrong = data[part].tolist()
    monkeypatch.setattr(
        projections, "project", lambda x, w, b: right(x, w * 1.5 if w.tolist() == wrong else w, b), raising=True
    )
    (_, row) = compare(data, operation="multi_head_attention", num_heads=2, targets="torch").rows
    assert row.first_difference == stage


# What a comparison says, as maps


def test_batch_elements_are_sequences_and_named_layers_are_layers() -> None:
    tensors = draw(2, 3, 5)  # 2 layers or batch elements of 3 sequences with 5 heads
    comparison = compare(tensors, targets=["torch"], mask=key_lengths([[5, 2, 4]] * 2))
    plain = report_of(comparison)
    assert [maps.title for maps in plain.maps] == [f"batch element {(i, j)}" for i in range(2) for j in range(3)]
    assert {len(maps.layers) for maps in plain.maps} == {1}
    named = report_of(comparison, Names(("one", "two"), ("a", "b", "c"), (tuple("vwxyz"),) * 3))
    assert [maps.title for maps in named.maps] == ["a", "b", "c"]
    for i, maps in enumerate(named.maps):
        assert (maps.query_tokens, maps.key_tokens) == (tuple("vwxyz"), tuple("vwxyz"))
        assert [layer.name for layer in maps.layers] == ["one", "two"]
        for j, layer in enumerate(maps.layers):
            np.testing.assert_array_equal(layer.weights.expected, comparison.stages.weights[j, i])
            np.testing.assert_array_equal(layer.weights.targets["torch"], comparison["torch"].weights[j, i])
            visible = np.arange(5) < (5, 2, 4)[i]
            np.testing.assert_array_equal(layer.weights.visible, np.broadcast_to(visible, (5, 3, 5)))
            np.testing.assert_array_equal(layer.weights.expected > 0, layer.weights.visible)
            assert layer.output is None  # torch shows its weights, and agrees
    assert named.targets == ("torch",)
    assert (named.title, named.agrees, named.verdict[:9]) == ("tensors", True, "agreement")


def test_a_function_has_a_map_of_its_output_only() -> None:
    tensors = draw(2, 3)
    comparison = compare(tensors, targets=["torch", without_scale])
    (_, second) = report_of(comparison).maps
    (layer,) = second.layers
    assert layer.output is not None
    assert (set(layer.weights.targets), set(layer.output.targets)) == ({"torch"}, {"without_scale"})
    expected = reference.dot_product_attention(**tensors)[1]
    found = without_scale(**tensors)[1]
    np.testing.assert_array_equal(layer.output.expected, expected)
    np.testing.assert_array_equal(layer.output.difference("without_scale"), found - expected)
    assert report_of(comparison).targets == ("torch", "without_scale")


def test_merged_heads_have_one_map_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = importlib.import_module("attnspec.torch")
    right = torch.multi_head_attention
    monkeypatch.setattr(torch, "multi_head_attention", lambda *args, **options: 1.5 * right(*args, **options))
    data = {name: np.array(value) for name, value in template("multi_head_attention").items() if name != "dtype"}
    comparison = compare(data, operation="multi_head_attention", num_heads=2, targets="torch")
    assert comparison["torch"].first_difference == "output"
    ((layer,),) = (maps.layers for maps in report_of(comparison).maps)
    assert layer.output is not None
    expected = np.asarray(comparison["reference"].output)
    assert layer.weights.expected.shape == (2, 3, 5)
    np.testing.assert_array_equal(layer.output.expected, expected[None])
    np.testing.assert_allclose(layer.output.difference("torch"), 0.5 * expected[None], rtol=1e-9)
    assert layer.weights.ratios("torch").max() <= 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize("queries", [0, 3])
def test_empty_sizes_have_nothing_to_draw(queries: int) -> None:
    tensors = draw(2, 3, queries=queries, keys=0) if queries else draw(0, 3)
    drawn, notes = select(report_of(compare(tensors, targets=["torch"])).maps)
    assert drawn == ()
    assert [note[:15] for note in notes] == ["nothing to draw"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (Names(layers=("a", "b", "c")), r"^3 layers are named; the first batch axis of \(2,\) must hold them"),
        (Names(sequences=("a",)), r"^`sequences` names 1 sequences; there are 2"),
        (Names(tokens=(("a",),)), r"^`tokens` names 1 sequences; there are 2"),
    ],
    ids=["layers", "sequences", "tokens"],
)
def test_names_that_do_not_fit_are_refused(names: Names, message: str) -> None:
    comparison = compare(draw(2, 3), targets=[])
    with pytest.raises(ValueError, match=message):
        report_of(comparison, names)


# The arrays themselves


def test_differences_are_signed_and_the_same_nan_is_none() -> None:
    expected = np.array([[[1.0, np.nan, np.inf], [-np.inf, np.nan, 0.5]]])
    found = np.array([[[0.75, np.nan, np.inf], [np.inf, 1.0, 0.5]]], np.float32)
    stage = StageMaps(expected, {"x": found}, np.full((1, 2, 3), 0.125))
    np.testing.assert_array_equal(stage.difference("x"), [[[-0.25, 0.0, 0.0], [np.inf, np.nan, 0.0]]])
    np.testing.assert_array_equal(stage.ratios("x"), [[[2.0, 0.0, 0.0], [np.inf, np.inf, 0.0]]])
    assert facts_of(stage, "x") == ((math.inf, math.inf, 3, 6),)
    assert StageMaps(expected, {"x": found}).ratios("x") is None


@pytest.mark.parametrize("name", ["expected", "targets['x']", "bound", "visible"])
def test_arrays_of_other_shapes_are_refused(name: str) -> None:
    arrays = {key: np.ones((2, 3, 5)) for key in ("expected", "targets['x']", "bound", "visible")}
    arrays[name] = np.ones((3, 5))
    with pytest.raises(ValueError, match=r"^`.*` must have .*; got shape \(.*3, 5\)$"):
        StageMaps(arrays["expected"], {"x": arrays["targets['x']"]}, arrays["bound"], arrays["visible"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 日本 𝛼", "naïve 日本 𝛼"),
        ("a\nb\t\x1b[1m", r"a\nb\t\x1b[1m"),
        ("\u202egnp.exe\u200b", r"\u202egnp.exe\u200b"),
        ("\ud800", r"\ud800"),
    ],
    ids=["letters", "control", "direction", "surrogate"],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


# What is drawn


def test_small_maps_are_drawn_as_they_are() -> None:
    stage = report_of(compare(draw(3), targets=["torch"], mask=causal(2))).maps[0].layers[0].weights
    panel = draw_stage(stage, axis_of(3, "abc"), axis_of(5))
    np.testing.assert_array_equal(panel.expected, stage.expected)
    np.testing.assert_array_equal(panel.visible, stage.visible)
    np.testing.assert_array_equal(panel.differences["torch"], stage.difference("torch"))
    assert (panel.rows, panel.columns) == (Axis(("a", "b", "c"), 1), Axis(("0", "1", "2", "3", "4"), 1))


def test_large_maps_are_drawn_in_cells_that_show_what_is_farthest_from_0() -> None:
    expected = np.zeros((1, 130, 3))
    expected[0, 4, 1], expected[0, 5, 1], expected[0, 129, 2] = 0.25, 0.75, 0.125
    found = expected.copy()
    found[0, 7, 0] -= 0.5
    found[0, 8, 0] += 0.25
    found[0, 127, 0] = np.nan
    visible = np.zeros(expected.shape, bool)
    visible[0, 3:6] = True
    rows = axis_of(130)
    assert (rows.step, len(rows.names), rows.names[0], rows.names[-1]) == (3, 44, "0–2", "129–129")
    panel = draw_stage(StageMaps(expected, {"x": found}, visible=visible), rows, axis_of(3))
    drawn = np.zeros((44, 3))
    drawn[1, 1], drawn[43, 2] = 0.75, 0.125
    np.testing.assert_array_equal(panel.expected[0], drawn)
    difference = np.zeros((44, 3))
    difference[2, 0], difference[42, 0] = -0.5, np.nan
    np.testing.assert_array_equal(panel.differences["x"][0], difference)
    np.testing.assert_array_equal(panel.visible[0, :, 0], np.arange(44) == 1)
    np.testing.assert_array_equal(panel.empty[0], np.arange(44) != 1)
    assert panel.facts["x"][0] == (math.inf, None, 0, 390)  # of all numbers, not of the cells


def ones(*shape: int, off: float = 0.0, targets: int = 1) -> StageMaps:
    expected = np.ones(shape)
    return StageMaps(expected, {f"t{i}": expected + off for i in range(targets)}, np.full(shape, 0.5))


def test_what_is_not_drawn_is_noted_with_its_largest_error() -> None:
    maps = (
        AttentionMaps("first", (LayerMaps("a", ones(33, 70, 2, off=0.125)), LayerMaps("b", ones(1, 2, 2)))),
        AttentionMaps("second", (LayerMaps("a", ones(32, 64, 64, targets=7)), LayerMaps("b", ones(1, 2, 2, off=1.0)))),
        AttentionMaps("third", (LayerMaps("a", ones(1, 2, 2)),)),
    )
    drawn, notes = select(maps)
    assert [(sequence.title, [layer.name for layer in sequence.layers]) for sequence in drawn] == [
        ("first", ["a", "b"])
    ]
    assert drawn[0].layers[0].weights.expected.shape == (32, 35, 2)
    others = ", ".join(f"t{i} 0.00" for i in range(1, 7))
    assert notes == (
        "weights of 70 × 2 numbers are drawn in cells of 2 × 1: each shows the number that is farthest from 0",
        "of 33 heads the first 32 are drawn; largest error / bound there: t0 0.25",
        f"not drawn: 3 of 5 maps, from a of second on; largest error / bound there: t0 2.00, {others}",
    )


def test_the_first_layer_is_drawn_however_large_it_is() -> None:
    drawn, notes = select([AttentionMaps("", (LayerMaps("", ones(32, 64, 64, targets=8)),) * 2)])
    assert [len(sequence.layers) for sequence in drawn] == [1]
    assert notes[0].startswith("not drawn: 1 of 2 maps")


def test_a_report_names_the_targets_in_the_order_of_its_rows() -> None:
    layer = LayerMaps("", ones(1, 2, 2), StageMaps(np.ones((1, 2, 3)), {"y": np.ones((1, 2, 3))}))
    assert MapReport("title", (AttentionMaps("", (layer,)),)).targets == ("t0", "y")


def test_names_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^an axis of 3 positions cannot have 2 names$"):
        axis_of(3, ["a", "b"])

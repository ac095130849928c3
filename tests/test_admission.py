"""What a vector must be able to do, piece by piece: cheats with an answer and without, bounds that decide, options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attnspec.conformance.admission import CHEATS, decides, evaluate, rejects
from attnspec.conformance.cases import Case, payload_of, shipped_cases
from attnspec.conformance.operation import Evaluation, results_of
from attnspec.conformance.profiles import default_profile
from attnspec.contract import Dropout, Mask, causal, key_lengths
from attnspec.contract.biases import Alibi
from attnspec.contract.layer_results import CellResult, CellState, EncoderLayerDropout, TextEncoderDropout
from attnspec.contract.partial_results import PartialAttention
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.states import leaves

Array = np.ndarray[Any, Any]

CASES = {case.id: case for case in shipped_cases()}
EXACT = {"output": np.array([1.0, 2.0]), "logsumexp": np.array([3.0, -np.inf])}
GATE = ("inputs", "parameters.weight", "parameters.bias")
BOUNDS = {"output": np.array([0.1, 0.1]), "logsumexp": np.array([0.1, 0.0])}


def case_of(expected: dict[str, Array]) -> Case:
    return replace(CASES["logsumexp-float64"], expected=expected)


def evaluation_of(**changes: Any) -> Evaluation:
    return Evaluation(EXACT, BOUNDS, {"output": 1.0, "logsumexp": 1.0})._replace(**changes)


# One result that tells the cheat is enough; a cheat may have nothing to give.


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param({}, None, id="no-answer"),
        pytest.param({"output": [1.05, 2.0]}, False, id="one-within"),
        pytest.param({"output": [1.2, 2.0]}, True, id="one-outside"),
        pytest.param({"output": [1.0, 2.0], "logsumexp": [3.2, -np.inf]}, True, id="the-other-outside"),
        pytest.param({"output": [1.0, 2.0], "logsumexp": [3.0, -np.inf]}, False, id="both-right"),
        pytest.param({"logsumexp": [3.0, 0.0]}, True, id="a-number-for-minus-infinity"),
        pytest.param({"logsumexp": [3.0, np.nan]}, True, id="nan-for-minus-infinity"),
        pytest.param({"output": [np.nan, 2.0]}, True, id="nan"),
    ],
)
def test_what_rejects(answer: dict[str, list[float]], expected: bool | None) -> None:
    given = {name: np.array(numbers) for name, numbers in answer.items()}
    assert rejects(lambda _: given, case_of(EXACT), evaluation_of()) is expected


@pytest.mark.parametrize(
    ("case", "silent"),
    [
        ("square-float32", set()),
        ("logsumexp-float32", set()),
        ("merge-float32", set()),
        ("rotary-base-float32", set()),
        ("sinusoidal-float32", {"mean_value"}),
        ("gradient-plain-float32", {"mean_value"}),
        ("gradient-rotary-interleaved-float32", {"mean_value"}),
        ("additive-float32", set()),
        ("hard-best-float32", set()),
        ("encoder-layer-post-float32", {"mean_value"}),
        ("cached-step-float32", {"mean_value"}),
        ("cell-float32", {"mean_value", "echo"}),
        ("embedding-ids-float32", {"mean_value", "echo"}),
        ("gradient-layer-norm-float32", {"mean_value"}),
    ],
)
def test_cheats_that_have_no_answer(case: str, silent: set[str]) -> None:
    evaluation = evaluate(CASES[case], default_profile("float32"))
    verdicts = {name: rejects(cheat, CASES[case], evaluation) for name, cheat in CHEATS.items()}
    assert {name for name, verdict in verdicts.items() if verdict is None} == silent
    assert all(verdict for name, verdict in verdicts.items() if name not in silent)


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize(
    "case",
    [
        "logsumexp-empty-float32",
        "gradient-sinks-float32",
        "merge-rank-3-float32",
        "cached-step-float32",
        "gradient-layer-norm-float32",
    ],
)
def test_a_cheat_has_the_shapes_of_the_results(case: str, name: str) -> None:
    results = CHEATS[name](CASES[case])
    assert set(results) <= set(CASES[case].expected)
    assert all(array.shape == CASES[case].expected[result].shape for result, array in results.items())


# Every result must be decided.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, True, id="both"),
        pytest.param({"bounds": {**BOUNDS, "logsumexp": np.array([0.5, 0.0])}}, False, id="wide-logsumexp"),
        pytest.param({"bounds": {**BOUNDS, "output": np.array([0.5, 0.0])}}, False, id="wide-output"),
        pytest.param({"ranges": {"output": 1.0, "logsumexp": 0.2}}, False, id="narrow-range"),
        pytest.param({"bounds": {**BOUNDS, "logsumexp": np.array([0.1, 9.0])}}, True, id="where-minus-infinity-is"),
    ],
)
def test_every_result_must_be_decided(changes: dict[str, Any], expected: bool) -> None:
    assert decides(evaluation_of(**changes)) is expected


def test_an_evaluation_has_the_output_that_most_have_alone() -> None:
    evaluation = evaluation_of()
    assert evaluation.output is EXACT["output"]
    assert evaluation.bound is BOUNDS["output"]
    assert (evaluation.stages, evaluation.stage_bounds) == (None, None)


@pytest.mark.parametrize(("case", "has_stages"), [("sinks-float32", True), ("merge-float32", False)])
def test_attentions_have_stages(case: str, has_stages: bool) -> None:
    evaluation = evaluate(CASES[case], default_profile("float32"))
    assert (evaluation.stages is not None) == has_stages == (evaluation.stage_bounds is not None)


@pytest.mark.parametrize(
    "case",
    [
        "logsumexp-rank-3-float32",
        "gradient-multi-head-float32",
        "merge-sinks-float32",
        "cell-float32",
        "cached-rotary-float32",
        "gradient-layer-norm-float32",
    ],
)
def test_results_bounds_and_ranges_have_the_same_names_and_shapes(case: str) -> None:
    evaluation = evaluate(CASES[case], default_profile("float32"))
    expected = CASES[case].expected
    assert set(evaluation.results) == set(evaluation.bounds) == set(evaluation.ranges) == set(expected)
    for name, array in expected.items():
        assert evaluation.results[name].shape == evaluation.bounds[name].shape == array.shape
        np.testing.assert_allclose(evaluation.results[name], array, rtol=1e-12, atol=1e-14)


def test_a_vanishing_gradient_is_measured_against_the_others() -> None:
    evaluation = evaluate(CASES["gradient-multi-head-float32"], default_profile("float32"))
    assert np.abs(evaluation.results["key_bias"]).max() < 1e-12
    assert evaluation.ranges["key_bias"] == max(evaluation.ranges.values())


# Cases and their options.


def test_named_results() -> None:
    one, two = np.zeros(1), np.ones(1)
    assert results_of(one) == {"output": one}
    assert results_of(PartialAttention(one, two)) == {"output": one, "logsumexp": two}
    state = CellState(two, one)
    assert results_of(CellResult(one, state)) == {"outputs": one, "state.memory": two, "state.output": one}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_parts_of_a_plain_tuple_have_no_names(count: int) -> None:
    with pytest.raises(TypeError, match=f"^an operation must return .* a named tuple, and not a tuple of {count}$"):
        results_of((np.zeros(1),) * count)


def test_options_are_what_the_api_takes() -> None:
    case = CASES["dropout-causal-float32"]
    options = case.call_options()
    assert set(options) == {"mask", "sinks", "dropout"}
    assert isinstance(options["mask"], Mask)
    assert isinstance(options["dropout"], Dropout)
    assert (options["dropout"].rate, options["dropout"].keep is case.tensors["keep"]) == (0.25, True)
    assert options["sinks"] is case.tensors["sinks"]
    assert isinstance(CASES["alibi-float32"].call_options()["bias"], Alibi)
    assert CASES["sinusoidal-bfloat16"].call_options()["dtype"] == "bfloat16"
    assert CASES["square-float32"].call_options() == {}
    assert CASES["scale-zero-float32"].call_options()["scale"] == 0.0


def test_options_take_other_tensors_and_objects() -> None:
    case = CASES["sinks-bias-float32"]
    others = {name: tensor + 1 for name, tensor in case.tensors.items()}
    options = replace(case, options={**case.options, "mask": causal(1)}).call_options(others)
    assert options["mask"] == causal(1)
    assert options["bias"] is others["bias"]
    assert options["sinks"] is others["sinks"]


def test_options_of_composed_operations() -> None:
    options = CASES["decoder-pre-float32"].call_options()
    assert (options["mask"], options["memory_mask"]) == (causal(), key_lengths([7, 3]))
    assert CASES["encoder-layer-options-float32"].call_options()["rotary"] == Rotary("interleaved")
    assert CASES["transformer-vectors-float32"].call_options()["positions"] is None
    assert "positions" not in CASES["transformer-ids-float32"].call_options()
    assert CASES["hard-few-visible-float32"].call_options()["top_k"] == 3


@pytest.mark.parametrize(
    ("case", "tree", "paths"),
    [
        ("cell-dropout-float32", Dropout, [""]),
        ("encoder-layer-dropout-float32", EncoderLayerDropout, ["weights", "attention", "hidden", "feed_forward"]),
        ("text-encoder-dropout-float32", TextEncoderDropout, ["embedding", "layers.0.weights", "layers.0.hidden"]),
    ],
)
def test_dropouts_are_those_of_the_operation(case: str, tree: Any, paths: list[str]) -> None:
    dropout = CASES[case].call_options()["dropout"]
    assert type(dropout) is tree
    kept = {path: each.keep for path, each in leaves(dropout).items()}
    assert all(kept[path] is CASES[case].tensors[".".join(filter(None, ("keep", path)))] for path in paths)
    assert len(kept) == sum(name.startswith("keep") for name in CASES[case].tensors)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("square-float32", set()),
        ("gradient-plain-float32", {"output"}),
        ("gradient-logsumexp-float32", {"output", "logsumexp"}),
        ("gradient-cell-float64", {"outputs", "state.memory", "state.output"}),
    ],
)
def test_cotangents_belong_to_results(case: str, names: set[str]) -> None:
    cotangents = CASES[case].cotangents()
    assert set(cotangents) == names
    assert all(cotangent is CASES[case].tensors[f"{name}_cotangent"] for name, cotangent in cotangents.items())


@pytest.mark.parametrize(
    ("case", "added"),
    [
        ("square-float32", {"expected"}),
        ("logsumexp-float32", {"expected", "expected_logsumexp"}),
        ("gradient-sinks-float32", {f"gradient_{name}" for name in ("query", "key", "value", "sinks")}),
        ("cell-float32", {"expected_outputs", "expected_state.memory", "expected_state.output"}),
        ("gradient-gated-input-float64", {f"gradient_{name}" for name in GATE}),
    ],
)
def test_a_payload_names_results_by_their_direction(case: str, added: set[str]) -> None:
    assert set(payload_of(CASES[case])) == set(CASES[case].tensors) | added

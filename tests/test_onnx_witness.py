"""ONNX as an outside witness: its own cases, random nodes and chosen ones, mapped onto all four modules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest

import attnspec.reference
from attnspec.conformance.admission import largest_ratio
from attnspec.conformance.measured_pages import measured_part
from attnspec.conformance.onnx_cases import OnnxCase, onnx_cases
from attnspec.conformance.onnx_differences import DIFFERENCES, Difference
from attnspec.conformance.onnx_exact import exact_outputs
from attnspec.conformance.onnx_operators import compute_node, onnx_attention, onnx_rotary_embedding
from attnspec.conformance.onnx_random import random_attention, random_rotary
from attnspec.conformance.onnx_report import RANDOM_NODES, explanation, report
from attnspec.conformance.onnx_verdicts import (
    answer_of_attnspec,
    can_decide,
    judge_case,
    judge_difference,
    judge_expected,
    judge_witness,
)
from attnspec.conformance.onnx_witnesses import WITNESSES

PAGE = Path(__file__).parent.parent / "docs" / "onnx.md"
CASES = onnx_cases()
BLOCK = 50

TOO_STRICT = dict.fromkeys(
    (
        "test_attention_3d_causal_bf16",
        "test_attention_4d_attn_mask_causal_bf16",
        "test_attention_4d_causal_bf16",
        "test_attention_4d_causal_padded_kv_bf16",
        "test_attention_4d_padded_kv_bf16",
    ),
    "rtol is 1e-3, and half the spacing of bfloat16 is 4e-3: the exact output, rounded to bfloat16, is rejected, "
    "because the expected one was computed in bfloat16 step by step",
)
"""Cases whose declared tolerance rejects a right answer. No case has an expected output that is wrong."""

CONSTANT = {
    "test_attention_3d_transpose_verification": "all values are 0.1: any weights, and any order of the heads, give 0.1",
    "test_attention_local_window_ext_cache_float16_mask": "all values are 1: so is the output without mask and window",
}
"""Cases that accept nearly anything."""


class Changed:
    """A module that does one thing otherwise."""

    def __init__(self, module: Any, **changed: Any) -> None:
        self._module, self._changed = module, changed

    def __getattr__(self, name: str) -> Any:
        return self._changed.get(name) or getattr(self._module, name)


def test_every_case_is_there() -> None:
    assert len(CASES) >= 90
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.node.operator for case in CASES} == {"Attention", "RotaryEmbedding"}
    assert {case.node.opset for case in CASES if case.node.operator == "Attention"} == {23, 24, 25}
    assert {*TOO_STRICT, *CONSTANT} <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_of_onnx(attn: ModuleType, case: OnnxCase) -> None:
    verdict = judge_case(attn, case)
    assert verdict.ratio <= 1.0, "|ours − exact| / our bound"
    assert verdict.onnx_ratio <= 1.0, "|ours − ONNX's| / (our bound + ONNX's bound)"
    assert verdict.is_within_tolerance == (case.name not in TOO_STRICT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expected_output_lies_within_its_own_bound(case: OnnxCase) -> None:
    ratio, exact_is_accepted = judge_expected(case)
    assert ratio <= 1.0
    assert exact_is_accepted == (case.name not in TOO_STRICT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bounds_of_a_case_decide(case: OnnxCase) -> None:
    assert can_decide(case) == (case.name not in CONSTANT)


def changed(name: str, **options: Any) -> dict[str, Any]:
    """One function of the reference with other options than it is called with."""
    function = getattr(attnspec.reference, name)
    return {name: lambda *tensors, **given: function(*tensors, **given | options)}


def with_other_heads(query: Any, key: Any, value: Any, **options: Any) -> Any:
    return attnspec.reference.dot_product_attention(query, key[:, ::-1], value[:, ::-1], **options)


def turned_back(inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> Any:
    return attnspec.reference.rotate_pairs(inputs, cosines, -sines, pairing=pairing)


FAULTS = {
    "scale ignored": changed("dot_product_attention", scale=None),
    "softcap ignored": changed("dot_product_attention", softcap=None),
    "mask ignored": changed("dot_product_attention", mask=None),
    "bias ignored": changed("dot_product_attention", bias=None),
    "other heads": {"dot_product_attention": with_other_heads},
    "causal from the first key": changed("causal", offset=0),
    "causal from the last key": changed("causal", offset="end"),
    "window too wide": changed("sliding_window", left=3),
    "window from the first key": changed("sliding_window", offset=0),
    "lengths ignored": {"key_lengths": lambda _: attnspec.reference.full()},
    "stages without softcap": changed("attention_stages", softcap=None),
    "stages without mask": changed("attention_stages", mask=None),
    "stages without bias": changed("attention_stages", bias=None),
    "pairs interleaved": changed("rotate_pairs", pairing="interleaved"),
    "pairs half apart": changed("rotate_pairs", pairing="half_split"),
    "turned back": {"rotate_pairs": turned_back},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_module_is_noticed(fault: str) -> None:
    wrong = Changed(attnspec.reference, **FAULTS[fault])
    verdicts = [judge_case(wrong, case) for case in CASES]
    assert not all(verdict.agrees for verdict in verdicts)


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("make", [random_attention, random_rotary], ids=["attention", "rotary"])
def test_random_node(attn: ModuleType, make: Any, seed: int) -> None:
    node = make(seed)
    exact, ours = exact_outputs(node), compute_node(attn, node)
    for name, (value, bound, _) in exact.items():
        assert ours[name].dtype == node.inputs["Q" if "Q" in node.inputs else "X"].dtype
        assert largest_ratio(ours[name], value, bound) <= 1.0, name


@pytest.mark.parametrize("start", range(0, RANDOM_NODES, BLOCK))
@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("make", [random_attention, random_rotary], ids=["attention", "rotary"])
def test_witness_agrees_on_random_nodes(make: Any, witness: str, start: int) -> None:
    unexplained = [
        (seed, name, ratio)
        for seed in range(start, start + BLOCK)
        for name, ratio in judge_witness(witness, make(seed)).ratios.items()
        if not ratio <= 1.0 and explanation(witness, make(seed), name) is None
    ]
    assert unexplained == []


def test_the_function_body_answers_every_random_node() -> None:
    assert [seed for seed in range(BLOCK) if judge_witness("function body", random_attention(seed)).refusal] == []


@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_difference_is_still_one(difference: Difference, witness: str) -> None:
    does, _ = judge_difference(witness, difference)
    assert does == difference.answers[[*WITNESSES].index(witness)]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_modules_agree_where_onnx_does_not(attn: ModuleType, difference: Difference) -> None:
    exact = answer_of_attnspec(difference)
    if exact is None:
        with pytest.raises(ValueError, match="must"):
            compute_node(attn, difference.node)
    else:
        ours = compute_node(attn, difference.node, [difference.output])[difference.output]
        assert largest_ratio(ours, exact.value, exact.bound) <= 1.0


def test_differences_have_names_of_their_own() -> None:
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)


def attention(**inputs: Any) -> dict[str, np.ndarray]:
    tensors = {"Q": np.ones((2, 3, 5, 7)), "K": np.ones((2, 3, 5, 7)), "V": np.ones((2, 3, 5, 7))}
    return tensors | {name: np.asarray(array) for name, array in inputs.items()}


REFUSED = {
    "unknown input": (attention(mask=[True]), {}, 25, "has no `mask`"),
    "unknown attribute": (attention(), {"causal": 1}, 25, "has no `causal`"),
    "opset": (attention(), {}, 22, "opsets 23, 24 and 25"),
    "lengths at 23": (attention(nonpad_kv_seqlen=[5, 5]), {}, 23, "came with opset 24"),
    "window at 24": (attention(), {"left_window_size": 2}, 24, "came with opset 25"),
    "window below -1": (attention(), {"left_window_size": -2}, 25, "at least 0"),
    "half a cache": (attention(past_key=np.ones((2, 3, 1, 7))), {}, 23, "go together"),
    "two caches": (
        attention(past_key=np.ones((2, 3, 1, 7)), past_value=np.ones((2, 3, 1, 7)), nonpad_kv_seqlen=[5, 5]),
        {},
        24,
        "does not go together",
    ),
    "mode": (attention(), {"qk_matmul_output_mode": 4}, 23, "0, 1, 2 or 3"),
    "heads of four axes": (attention(), {"q_num_heads": 3, "kv_num_heads": 3}, 25, "must not be given"),
    "no heads of three axes": (attention(Q=np.ones((2, 5, 21))), {"q_num_heads": 3}, 23, "must be given"),
    "heads that do not fit": (
        {name: np.ones((2, 5, 21)) for name in "QKV"},
        {"q_num_heads": 2, "kv_num_heads": 2},
        23,
        "21 columns of Q",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_rules_out_is_refused(name: str) -> None:
    inputs, attributes, opset, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        onnx_attention(attnspec.reference, inputs, attributes, opset)


def rotary(columns: int = 3, **inputs: Any) -> dict[str, np.ndarray]:
    tables = {name: np.ones((2, 5, columns)) for name in ("cos_cache", "sin_cache")}
    return {"X": np.ones((2, 3, 5, 6))} | tables | inputs


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        (rotary(), {"pairing": 1}, "has no `pairing`"),
        (rotary(2), {}, "6 / 2 columns; got 2"),
        (rotary(), {"rotary_embedding_dim": 4}, "4 / 2 columns; got 3"),
        (rotary(X=np.ones((2, 5, 18))), {}, "`num_heads` must be given"),
        (rotary(X=np.ones((2, 5, 18))), {"num_heads": 4}, "18 columns of X"),
    ],
    ids=["attribute", "table", "partial", "no heads", "heads"],
)
def test_rotary_that_onnx_rules_out_is_refused(inputs: Any, attributes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        onnx_rotary_embedding(attnspec.reference, inputs, attributes)


def test_components_beyond_the_rotary_size_pass_unchanged(attn: ModuleType) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "X": rng.standard_normal((2, 3, 5, 7)).astype(np.float32),
        "cos_cache": rng.standard_normal((11, 2)).astype(np.float32),
        "sin_cache": rng.standard_normal((11, 2)).astype(np.float32),
        "position_ids": rng.integers(0, 11, (2, 5)),
    }
    output = onnx_rotary_embedding(attn, inputs, {"rotary_embedding_dim": 4})
    assert output[..., 4:].tobytes() == inputs["X"][..., 4:].tobytes()
    assert (output[..., :4] != inputs["X"][..., :4]).all()


def test_a_mask_of_three_axes_has_heads_and_not_batches() -> None:
    # With as many heads as batch elements both readings fit; ONNX aligns on the right.
    attn_mask = np.array([[[True, False]], [[False, True]]])
    values = np.array([[[[1.0], [2.0]]] * 2] * 2)
    inputs = attention(Q=np.zeros((2, 2, 1, 1)), K=np.zeros((2, 2, 2, 1)), V=values, attn_mask=attn_mask)
    output, *_ = onnx_attention(attnspec.reference, inputs, {}, 23)
    assert output[..., 0, 0].tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_integers_are_added_and_do_not_switch() -> None:
    inputs = attention(Q=np.zeros((1, 1, 1, 1)), K=np.zeros((1, 1, 2, 1)), V=np.array([[[[0.0], [1.0]]]]))
    added, *_ = onnx_attention(attnspec.reference, inputs | {"attn_mask": np.array([[0, 1]])}, {}, 23)
    switched, *_ = onnx_attention(attnspec.reference, inputs | {"attn_mask": np.array([[False, True]])}, {}, 23)
    assert added.item() == pytest.approx(np.e / (1 + np.e), rel=1e-15)
    assert switched.item() == 1.0


def test_nothing_is_imported_or_reseeded_before_it_is_needed() -> None:
    code = """
import sys
import numpy as np
import attnspec.conformance.onnx_report, attnspec.conformance.onnx_cases as cases
print(*sorted({"onnx", "onnxruntime", "torch", "tensorflow", "jax"} & {*sys.modules}) or ["nothing"])
np.random.seed(7)
cases.onnx_cases()
left = np.random.random()
np.random.seed(7)
print(left == np.random.random())
print(*sorted({"onnxruntime", "torch", "tensorflow", "jax"} & {*sys.modules}) or ["nothing"])
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines() == ["nothing", "True", "nothing"]


def without_ratios(text: str) -> str:
    """Ratios of errors to bounds depend on the machine, in their digits."""
    return re.sub(r"\b\d\.\d\d\b(?!\.)", "#", text)


def test_measured_part_of_the_page_is_current() -> None:
    [frameworks.load(name) for name in frameworks.MODULES]
    assert without_ratios(measured_part(PAGE.read_text(encoding="utf8"))) == without_ratios(report())

"""The attentions of the frameworks as targets: values by hand, what they cannot be asked, and where they deviate."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import math
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest

from attnspec.conformance import MissingFrameworkError, TargetError
from attnspec.conformance.answers import Answer, ask
from attnspec.conformance.calls import DTYPES, Call
from attnspec.conformance.findings import PARTIAL_SUMS, page, partial_sums_text, summary_line
from attnspec.conformance.measured_pages import measured_part
from attnspec.conformance.native_causes import CAUSES, Cause, cause_of
from attnspec.conformance.natives import NATIVE_NAMES, NATIVES, load_native
from attnspec.conformance.partial_sums import measure_partial_sums
from attnspec.conformance.results import Report, Result, Status
from attnspec.conformance.runner import Selection, run
from attnspec.conformance.targets import Target

PAGE = (Path(__file__).parent.parent / "docs" / "findings.md").read_text(encoding="utf8")
FRAMEWORKS = {"PyTorch": ["torch"], "JAX": ["jax"], "Flax": ["jax"], "Keras": ["tensorflow"]}
DOT_PRODUCT = [name for name in NATIVE_NAMES if name != "keras.additive"]
WITH_GRADIENTS = [name for name in DOT_PRODUCT if NATIVES[name].has_gradients]


def native(name: str) -> Target:
    for framework in FRAMEWORKS.get(NATIVES[name].framework, []):
        frameworks.load(framework)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a framework warns of while it is imported is not ours to fix
        return load_native(name)


def call(tensors: dict[str, Any], *, dtype: str = "float32", direction: str = "forward", **options: Any) -> Call:
    operation = options.pop("operation", "dot_product_attention")
    arrays = {name: np.asarray(values, np.float64).astype(DTYPES[dtype]) for name, values in tensors.items()}
    results = ("output",) if direction == "forward" else ("query", "key", "value")
    return Call(
        id="by-hand",
        operation=operation,
        dtype=dtype,
        options=options,
        tensors=arrays,
        results=results,
        direction=direction,
    )


def column(*numbers: float) -> list[list[list[list[float]]]]:
    return [[[[number] for number in numbers]]]


TWO_KEYS = {"query": column(0.0), "key": column(1.0, -1.0), "value": column(3.0, 1.0)}
"""Both weights are 1/2."""


def results_of(answer: Answer) -> dict[str, list[float]]:
    assert answer.results is not None, answer.message
    return {name: result.astype(np.float64).ravel().tolist() for name, result in answer.results.items()}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in DOT_PRODUCT]
    + [(name, "bfloat16") for name in DOT_PRODUCT if NATIVES[name].framework not in ("JAX", "Flax")],
)
def test_two_equal_weights_give_the_mean(name: str, dtype: str) -> None:
    answer = ask(native(name), call(TWO_KEYS, dtype=dtype))
    if (name, dtype) == ("onnxruntime", "bfloat16"):
        assert answer.status is Status.UNSUPPORTED
        assert answer.message.startswith("ONNX Runtime: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED")
    else:
        assert results_of(answer) == {"output": [2.0]}


@pytest.mark.parametrize("name", DOT_PRODUCT)
def test_a_key_length_hides_the_second_key(name: str) -> None:
    answer = ask(native(name), call(TWO_KEYS, mask={"kind": "key_lengths", "lengths": 1}))
    assert results_of(answer) == {"output": [3.0]}


@pytest.mark.parametrize("name", [name for name in DOT_PRODUCT if name != "keras.attention"])
def test_true_in_a_mask_is_visible(name: str) -> None:
    answer = ask(native(name), call(TWO_KEYS, mask={"kind": "array", "values": [[False, True]]}))
    assert results_of(answer) == {"output": [1.0]}


@pytest.mark.parametrize("offset", [0, "end"])
@pytest.mark.parametrize("name", [name for name in DOT_PRODUCT if name != "keras.attention"])
def test_causal_is_aligned_as_asked(name: str, offset: int | str) -> None:
    tensors = {"query": column(0.0, 0.0), "key": column(0.0, 0.0, 0.0), "value": column(6.0, 2.0, 1.0)}
    answer = ask(native(name), call(tensors, mask={"kind": "causal", "offset": offset}))
    assert results_of(answer)["output"] == pytest.approx([6.0, 4.0] if offset == 0 else [4.0, 3.0])


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_by_hand(name: str) -> None:
    # dP = value, delta = 2: dQ = 1/2 (3 - 2) 1 + 1/2 (1 - 2) (-1), dK = ds Q = 0, dV = the weights.
    answer = ask(native(name), call({**TWO_KEYS, "output_cotangent": column(1.0)}, direction="backward"))
    assert results_of(answer) == {"query": [1.0], "key": [0.0, 0.0], "value": [0.5, 0.5]}


ADDITIVE = {
    "query": column(0.0),
    "key": column(math.atanh(0.5), -math.atanh(0.5)),
    "value": column(3.0, 1.0),
    "parameters.score_weight": [math.log(3.0)],
}
"""Scores ± ln 3 / 2: the weights are 3/4 and 1/4."""


def test_additive_attention_by_hand() -> None:
    target = native("keras.additive")
    answer = ask(target, call(ADDITIVE, operation="additive_attention"))
    assert results_of(answer)["output"] == pytest.approx([2.5])
    backward = call({**ADDITIVE, "output_cotangent": column(1.0)}, operation="additive_attention", direction="backward")
    # ds = 3/4 (3 - 2.5) for the first score; tanh' is 3/4 at both keys.
    gradients = results_of(ask(target, backward))
    assert gradients["value"] == pytest.approx([0.75, 0.25])
    assert gradients["key"] == pytest.approx([0.375 * 0.75 * math.log(3), -0.375 * 0.75 * math.log(3)], rel=1e-5)
    assert gradients["query"] == pytest.approx([0.0], abs=1e-6)


IDENTITY = np.eye(2).tolist()
LAYER = {
    "query": [[[0.0, 0.0]]],
    "key": [[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]],
    "value": [[[3.0, 8.0], [1.0, 4.0], [2.0, 6.0]]],
    "query_weight": IDENTITY,
    "key_weight": IDENTITY,
    "value_weight": [[1.0, 0.0], [0.0, 2.0]],
    "output_weight": [[0.0, 1.0], [1.0, 0.0]],
    "query_bias": [0.0, 0.0],
    "key_bias": [0.0, 0.0],
    "value_bias": [1.0, 0.0],
    "output_bias": [0.0, 5.0],
}
"""Two heads of one component: the means (2, 6) become (3, 12), and the output weight swaps them."""


@pytest.mark.parametrize("name", ["torch.mha", "keras.mha"])
def test_a_layer_by_hand(name: str) -> None:
    answer = ask(native(name), call(LAYER, operation="multi_head_attention", num_heads=2))
    assert results_of(answer) == {"output": [12.0, 8.0]}


@pytest.mark.parametrize("name", ["torch.flex", "jax.nn"])
def test_the_logsumexp_is_natural(name: str) -> None:
    asked = call({**TWO_KEYS, "key": column(0.0, 0.0)}, operation="attention_with_logsumexp")
    answer = load_and_run(name, asked, ("output", "logsumexp"))
    assert answer["logsumexp"].ravel().tolist() == pytest.approx([math.log(2)])


def load_and_run(name: str, asked: Call, results: tuple[str, ...]) -> dict[str, Any]:
    object.__setattr__(asked, "results", results)
    return native(name).run(asked, dict(asked.tensors))


def test_flex_takes_a_softcap_and_a_bias_in_this_order() -> None:
    tensors = {**TWO_KEYS, "query": column(100.0), "bias": column(math.log(3.0), 0.0)}
    tensors["bias"] = [[[[-2.0 + math.log(3.0), 0.0]]]]
    answer = ask(native("torch.flex"), call(tensors, softcap=1.0, bias=True))  # logits 1 − 2 + ln 3 and −1
    assert results_of(answer)["output"] == pytest.approx([0.75 * 3 + 0.25])


NATIVE_MASKS = [
    ("torch.sdpa", 0, (2, 3), {"causal_offset": 0}),
    ("torch.sdpa", "end", (2, 3), {}),
    ("torch.sdpa", None, (3, 3), {"causal_offset": 0}),
    ("jax.nn", 0, (2, 3), {}),
    ("jax.nn", None, (3, 3), {"causal_offset": 0}),
    ("flax.nnx", "end", (3, 3), {"causal_offset": 0}),
    ("keras.ops", 0, (2, 3), {}),
    ("keras.mha", 0, (3, 3), {"causal_offset": 0}),
    ("keras.attention", 0, (2, 3), {"causal_offset": 0}),
    ("onnx.reference", 0, (2, 3), {"causal_offset": 0}),
    ("onnx.reference", 1, (2, 3), {}),
    ("torch.mha", 0, (3, 3), {}),
]


@pytest.mark.parametrize(("name", "offset", "lengths", "keywords"), NATIVE_MASKS)
def test_the_causal_flag_is_used_where_it_is_documented(
    name: str, offset: Any, lengths: tuple[int, int], keywords: dict[str, int]
) -> None:
    queries, keys = lengths
    tensors = {"query": column(*[0.0] * queries), "key": column(*[0.0] * keys), "value": column(*[0.0] * keys)}
    target: Any = native(name)
    question = target.ask(call(tensors, mask={"kind": "causal", "offset": offset}))
    assert dict(question.keywords) == keywords
    assert (question.mask is None) == bool(keywords)


def test_windows_and_lengths_have_arguments_in_jax() -> None:
    masks = [{"kind": "sliding_window", "left": 1, "right": 0, "offset": 0}, {"kind": "key_lengths", "lengths": 2}]
    target: Any = native("jax.nn")
    question = target.ask(call(TWO_KEYS, mask={"kind": "and", "masks": masks}))
    assert question.mask is None
    assert question.keywords["window"] == (1, 0)
    assert question.keywords["key_lengths"].tolist() == [2]


GROUPED = {"query": [[[[0.0]], [[0.0]]]], "key": column(0.0), "value": column(0.0)}
WIDE_VALUES = {"query": column(0.0), "key": column(0.0), "value": [[[[0.0, 0.0]]]]}
PAIRS = {"kind": "array", "values": [[True, False]]}

UNSUPPORTED = [
    ("torch.sdpa", TWO_KEYS, {"softcap": 1.0}, "torch.nn.functional.scaled_dot_product_attention has no softcap"),
    ("torch.sdpa.math", TWO_KEYS, {"sinks": True}, "torch.nn.functional.scaled_dot_product_attention has no sinks"),
    (
        "torch.sdpa.flash",
        WIDE_VALUES,
        {},
        "PyTorch: No available kernel.  Aborting execution.",
    ),
    (
        "torch.sdpa",
        TWO_KEYS,
        {"dropout": 0.5},
        "torch.nn.functional.scaled_dot_product_attention draws its own dropout: it has no argument for what is kept",
    ),
    ("torch.mha", TWO_KEYS, {"scale": 0.0}, "torch.nn.functional.multi_head_attention_forward has no scale"),
    ("torch.mha", GROUPED, {}, "torch.nn.functional.multi_head_attention_forward has no grouped heads"),
    (
        "torch.mha",
        {**TWO_KEYS, "value": column(1.0, math.nan)},
        {},
        (
            "torch.nn.functional.multi_head_attention_forward has projections, and NaN times 0 is NaN: they carry what "
            "is not finite from head to head"
        ),
    ),
    ("torch.flex", TWO_KEYS, {"sinks": True}, "torch.nn.attention.flex_attention.flex_attention has no sinks"),
    ("jax.nn", WIDE_VALUES, {}, "jax.nn.dot_product_attention has values of the keys' size"),
    ("flax.nnx", TWO_KEYS, {"scale": 2.0}, "flax.nnx.dot_product_attention has no scale"),
    ("keras.ops", TWO_KEYS, {"sinks": True}, "keras.ops.dot_product_attention has no sinks"),
    (
        "keras.ops",
        TWO_KEYS,
        {"softcap": 1.0},
        "keras.ops.dot_product_attention has attn_logits_soft_cap for JAX on TPUs alone",
    ),
    ("keras.mha", TWO_KEYS, {"bias": True}, "keras.layers.MultiHeadAttention has no bias"),
    (
        "keras.attention",
        TWO_KEYS,
        {"mask": PAIRS},
        "keras.layers.Attention masks queries, keys and what lies behind the diagonal, not single pairs",
    ),
    ("keras.attention", GROUPED, {}, "keras.layers.Attention has no heads, and so none that share keys"),
    (
        "keras.additive",
        TWO_KEYS,
        {},
        "keras.layers.AdditiveAttention computes additive_attention, not dot_product_attention",
    ),
    ("onnxruntime", TWO_KEYS, {"sinks": True}, "ONNX Runtime's Attention has no sinks"),
    ("onnx.reference", TWO_KEYS, {"direction": "backward"}, "ONNX's Attention gives no gradients here"),
]


@pytest.mark.parametrize(
    ("name", "tensors", "options", "reason"), UNSUPPORTED, ids=[f"{row[0]}-{i}" for i, row in enumerate(UNSUPPORTED)]
)
def test_what_has_no_argument_is_unsupported(
    name: str, tensors: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    answer = ask(native(name), call(tensors, **options))
    assert (answer.status, answer.message) == (Status.UNSUPPORTED, reason)


STATUSES = [
    ("torch.sdpa", "poison-nan-array-float32", Status.FAIL, "torch-unread"),
    ("torch.sdpa", "empty-lengths-float32", Status.PASS, None),
    ("torch.sdpa.math", "gradient-grouped-bfloat16", Status.PASS, None),
    ("torch.sdpa.flash", "causal-tile-float32", Status.PASS, None),
    ("torch.mha", "both-lengths-float32", Status.PASS, None),
    ("torch.flex", "no-keys-float32", Status.ERROR, "flex-no-keys"),
    ("jax.nn", "empty-array-float32", Status.FAIL, "jax-empty-row"),
    ("jax.nn", "causal-float64", Status.FAIL, "jax-float64"),
    ("flax.nnx", "grouped-float32", Status.ERROR, "flax-value-size"),
    ("keras.ops", "multi-query-float32", Status.ERROR, "keras-multi-query"),
    ("keras.ops", "bias-minus-infinity-float32", Status.FAIL, "keras-minus-infinity"),
    ("keras.ops", "empty-array-float32", Status.FAIL, "keras-empty-row"),
    ("keras.mha", "causal-float64", Status.FAIL, "keras-float64"),
    ("keras.mha", "multi-head-float32", Status.PASS, None),
    ("onnxruntime", "scale-negative-float32", Status.ERROR, "onnx-negative-scale"),
    ("onnxruntime", "mask-keys-float32", Status.ERROR, "runtime-mask-shape"),
    ("onnxruntime", "causal-float64", Status.FAIL, "onnx-float64"),
    ("onnx.reference", "causal-key-lengths-float32", Status.FAIL, "onnx-mask-of-one-row"),
    ("onnx.reference", "query-lengths-float32", Status.FAIL, "onnx-mask-of-one-column"),
    ("onnx.reference", "chunked-causal-bfloat16", Status.FAIL, "onnx-bfloat16"),
]


@pytest.mark.parametrize(("name", "case", "status", "cause"), STATUSES, ids=str)
def test_status_of_a_case(name: str, case: str, status: Status, cause: str | None) -> None:
    (result,) = run([native(name)], Selection(cases=frozenset((case,)))).results
    assert result.status is status, result.message
    found = cause_of(result) if status is not Status.PASS else None
    assert (found.id if found else None) == cause


def printed_by(code: str) -> list[str]:
    return re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.id)
def test_reproducer_prints_what_it_says(cause: Cause) -> None:
    for target in cause.targets[:1]:
        native(target)
    assert run_code(cause.reproducer) == printed_by(cause.reproducer) != []


@pytest.mark.filterwarnings("ignore")
def test_partial_sums_in_a_few_lines() -> None:
    assert run_code(PARTIAL_SUMS) == ["MATH 260.0", "FLASH_ATTENTION 256.0"]


OWN_PART = PAGE.partition("## Found by tests, not by vectors")[2]
OWN_BLOCKS = re.findall(r"(?:^(?:    .*)?\n)+", OWN_PART, re.MULTILINE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", [block for block in OWN_BLOCKS if block.strip()], ids=["bias", "empty", "jit", "lse"])
def test_what_no_vector_shows_is_printed_as_the_page_says(block: str) -> None:
    native("jax.nn" if "import jax" in block else "keras.mha")
    code = textwrap.dedent(block)
    assert set(run_code(code)) == set(printed_by(code)) != set()


def test_an_empty_row_of_keras_layers_is_the_mean() -> None:
    answer = ask(native("keras.attention"), call(TWO_KEYS, mask={"kind": "key_lengths", "lengths": 0}))
    assert results_of(answer) == {"output": [2.0]}


def run_code(code: str) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "reproducer", "exec"), {})
    return printed.getvalue().splitlines()


def test_partial_sums_leave_the_bound_of_flash_and_the_math_kernel_does_not() -> None:
    native("torch.sdpa")
    measured = measure_partial_sums((32, 191))
    assert measured[32]["flash"] < 0.8
    assert 1.0 < measured[191]["flash"] < 1.6
    assert measured[191]["math"] < 0.8
    assert "| 191 | 1." in partial_sums_text(measured)


def result(status: Status, ratio: float | None, message: str = "", target: str = "jax.nn") -> Result:
    about = "causal-float32", "dot_product_attention", "float32", ("S7",)
    return Result(target, *about, status, "fp32", ratio, message, 0.1)


VERSIONS = {"attnspec": "0.1.0", "jax.nn": "jax 1.2", "keras.additive": "keras 3"}


def test_a_failure_without_a_cause_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"jax.nn causal-float32 fails without a known cause: at \[0\] got 1"):
        page(Report((result(Status.FAIL, 3.0, "at [0] got 1"),), VERSIONS), "")


def test_a_summary_line() -> None:
    report = Report(
        (
            result(Status.PASS, 0.3),
            result(Status.FAIL, math.inf, "at [0] got 2, expected 0 ± 0"),
            result(Status.UNSUPPORTED, None, "jax.nn.dot_product_attention has no sinks"),
            result(Status.UNSUPPORTED, None, "keras.layers.AdditiveAttention has no scale", "keras.additive"),
        ),
        VERSIONS,
    )
    assert summary_line("jax.nn", report) == (
        "**jax.nn** (jax 1.2): conforms to S7 at float32; deviates: S10 (an empty row is the mean of all values); "
        "unsupported: sinks"
    )
    assert summary_line("keras.additive", report) == "**keras.additive** (keras 3): no case decided"


def test_the_page_has_every_native_and_every_cause() -> None:
    measured = measured_part(PAGE)
    for name, entry in NATIVES.items():
        assert f"- **{name}** (" in measured
        assert f"#### {name}\n\n{entry.function}: {entry.summary}.\n" in measured
        assert all(f"- {convention}\n" in measured for convention in entry.conventions)
    for cause in CAUSES:
        assert f"#### {cause.clause}: {cause.short}\n" in measured
        assert cause.reproducer.strip().splitlines()[-1].strip() in measured


def test_no_native_is_loaded_by_its_name() -> None:
    code = (
        "import sys, attnspec.conformance.natives as natives; assert len(natives.NATIVE_NAMES) == 13; "
        "print([name for name in ('torch', 'jax', 'flax', 'tensorflow', 'keras', 'onnx', 'onnxruntime') "
        "if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"


def test_a_missing_distribution_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name.startswith(("tensorflow", "tf-")):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingFrameworkError, match=r"'keras.ops' needs tensorflow; install with: pip install keras"):
        load_native("keras.ops")


def test_an_unknown_native_is_refused() -> None:
    with pytest.raises(TargetError, match=r"there is no native target 'torch.spda'; there are torch.sdpa, "):
        load_native("torch.spda")

"""`attnspec.conformance.compare`: right numbers for right implementations, the right complaint for wrong ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import frameworks
import ml_dtypes
import numpy as np
import pytest

from attnspec import reference
from attnspec.conformance import Comparison, InputError, Status, TargetError, compare
from attnspec.conformance.cases import DTYPES
from attnspec.conformance.comparison_files import COMPARABLE
from attnspec.conformance.example_files import EXAMPLES, find_example, template
from attnspec.contract import causal, key_lengths, sliding_window

MODULE = sys.modules["attnspec.conformance.compare"]
STAGES = ("scores", "logits", "weights", "logsumexp", "output")

FOX_SCORES = [[0.70, 0.80, 0.90, 1.00], [0.96, 1.10, 1.24, 1.38], [1.22, 1.40, 1.58, 1.76], [1.48, 1.70, 1.92, 2.14]]
FOX_WEIGHTS = [
    [0.231574, 0.243447, 0.255929, 0.269050],
    [0.224393, 0.240664, 0.258114, 0.276829],
    [0.217327, 0.237794, 0.260188, 0.284691],
    [0.210379, 0.234842, 0.262149, 0.292631],
]
FOX_LOGSUMEXP = [1.8128563081, 1.9743547379, 2.1363510639, 2.2988439376]
FOX_FIRST_COLUMN = [1.0562455771, 1.0587378748, 1.0612242610, 1.0637030775]


@pytest.fixture(scope="module")
def all_four() -> list[str]:
    """The names of the reference and the three backends; skips where a framework is missing, and fails in CI."""
    for name in frameworks.MODULES:
        frameworks.load(name)
    return list(frameworks.MODULES)


def draw(rank: int, dtype: str, seed: int = 0) -> dict[str, Any]:
    """Draw peaked tensors: 3 queries, 5 keys, sizes 7 and 2, two query heads to each key/value head."""
    rng = np.random.default_rng([seed, rank])
    heads, kv_heads, batch = {2: ((), (), ()), 3: ((), (), (2,)), 4: ((4,), (2,), (2,)), 5: ((4,), (2,), (2, 3))}[rank]
    tensors = {
        "query": 1.7 * rng.standard_normal((*batch, *heads, 3, 7)),
        "key": 1.7 * rng.standard_normal((*batch, *kv_heads, 5, 7)),
        "value": rng.uniform(1.0, 2.0, (*batch, *kv_heads, 5, 2)) * rng.choice([-1.0, 1.0]),
    }
    return {name: tensor.astype(DTYPES[dtype]) for name, tensor in tensors.items()}


def plain(query: Any, key: Any, value: Any, *, mask: Any = None, scale: float | None = None) -> Any:
    scores = (query @ key.mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value


def without_scale(query: Any, key: Any, value: Any) -> Any:
    return plain(query, key, value, scale=1.0)


def compare_one(function: Any, **options: Any) -> tuple[Comparison, Any]:
    comparison = compare(draw(2, "float64"), targets=function, **options)
    return comparison, comparison.rows[1]


# What it says of right implementations


def test_the_fox_has_the_numbers_of_the_worked_example(all_four: list[str]) -> None:
    comparison = compare(find_example("fox").path)
    assert [row.target for row in comparison.rows] == all_four
    np.testing.assert_allclose(comparison.stages.scores[0] * 2, FOX_SCORES, rtol=0, atol=1e-14)
    np.testing.assert_allclose(comparison.stages.weights[0], FOX_WEIGHTS, rtol=0, atol=5.01e-7)
    np.testing.assert_allclose(comparison.stages.logsumexp[0], FOX_LOGSUMEXP, rtol=0, atol=5.01e-11)
    expected = np.array(FOX_FIRST_COLUMN)[:, None] + [0.0, 0.1, 0.2, 0.3]
    for row in comparison.rows:
        assert row.output is not None
        np.testing.assert_allclose(row.output, expected, rtol=0, atol=5.01e-11)
        assert row.output.dtype == np.float64
        assert row.max_error is not None
        assert row.max_error <= 1e-15
    assert comparison.agrees


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_four_agree_on_the_shipped_examples(name: str, dtype: str, all_four: list[str]) -> None:
    example = find_example(name)
    comparison = compare(example.path, mask=example.mask, dtype=dtype)
    assert [row.target for row in comparison.rows] == all_four
    assert [row.status for row in comparison.rows] == [Status.PASS] * 4
    for row in comparison.rows:
        assert set(row.stage_ratios) == set(STAGES)
        assert max(row.stage_ratios.values()) < 0.8
        assert row.first_difference is None
        assert row.seconds is not None
        assert row.seconds > 0
    assert comparison.agrees
    comparison.raise_if_disagree()


@pytest.mark.usefixtures("all_four")
@pytest.mark.parametrize("operation", COMPARABLE)
def test_the_four_agree_on_every_template(operation: str) -> None:
    data = template(operation)
    tensors = {
        name: np.array(value, bool if name == "mask" else np.float32) for name, value in data.items() if name != "dtype"
    }
    heads = {"num_heads": 2} if operation == "multi_head_attention" else {}
    comparison = compare(tensors, operation=operation, **heads)
    assert [row.status for row in comparison.rows] == [Status.PASS] * 4
    options = {"mask": tensors["mask"], "bias": tensors["bias"], **heads}
    expected = COMPARABLE[operation].call(reference, tensors, options)
    np.testing.assert_array_equal(comparison["reference"].output, expected)
    # The mask of the template hides a key from the first row, and the comparison obeys it.
    assert comparison.stages.weights[..., 0, -1].max() == 0.0
    assert comparison.stages.weights[..., :, 0].min() > 0.0
    for row in comparison.rows:
        assert set(row.stage_ratios) == set(STAGES)
        assert max(row.stage_ratios.values()) <= 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_stages_of_every_rank_and_dtype_are_within_their_bounds(rank: int, dtype: str, all_four: list[str]) -> None:
    tensors = draw(rank, dtype)
    bias = np.random.default_rng(1).standard_normal((3, 5)).astype(DTYPES[dtype])
    bias[1, 3] = -np.inf
    comparison = compare(
        tensors | {"bias": bias}, mask=sliding_window(2, 1, offset=-1), softcap=5.0, scale=0.5, targets=all_four
    )
    for row in comparison.rows:
        assert row.status is Status.PASS, row.message
        assert set(row.stage_ratios) == set(STAGES)
        assert max(row.stage_ratios.values()) <= 1.0
    # Query 0 stands at key −1: it sees key 0 only, so its weights are exact.
    assert comparison.stages.weights[..., 0, :].max() == 1.0


def test_visible_poison_and_empty_rows_agree(all_four: list[str]) -> None:
    tensors = draw(4, "float32")
    tensors["value"][0, 1, 2, 0] = np.nan
    tensors["value"][1, 0, 0, 1] = -np.inf
    comparison = compare(tensors, mask=key_lengths([3, 0]), targets=all_four)
    assert [row.status for row in comparison.rows] == [Status.PASS] * 4
    output = comparison["torch"].output
    assert output is not None
    assert np.isnan(output[0, 2:, :, 0]).all()
    assert np.isnan(output).sum() == comparison.nonfinite == 2 * 3
    np.testing.assert_array_equal(output[1], 0.0)
    assert np.nanmax(comparison.pairwise) < 1e-6  # the same NaN on both sides is no difference


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        pytest.param((2, 0, 3, 7), (2, 0, 5, 7), (2, 0, 5, 2), id="no-heads"),
        pytest.param((0, 3, 7), (0, 5, 7), (0, 5, 2), id="no-batch"),
        pytest.param((0, 7), (5, 7), (5, 2), id="no-queries"),
        pytest.param((3, 7), (0, 7), (0, 2), id="no-keys"),
        pytest.param((3, 7), (5, 7), (5, 0), id="no-components"),
        pytest.param((1, 1), (1, 1), (1, 1), id="one-number"),
    ],
)
def test_empty_sizes_are_compared_like_others(query: Any, key: Any, value: Any, all_four: list[str]) -> None:
    tensors = {"query": np.ones(query), "key": np.ones(key), "value": np.ones(value)}
    comparison = compare(tensors, targets=all_four)
    assert [row.status for row in comparison.rows] == [Status.PASS] * 4
    data = json.loads(comparison.to_json())
    assert (data["agrees"], data["nonfinite"]) == (True, 0)
    assert comparison["jax"].output.shape == (*query[:-1], value[-1])


def test_every_target_gets_the_rounded_numbers_and_so_does_the_reference() -> None:
    tensors = draw(2, "float64")
    comparison = compare(tensors, dtype="bfloat16", targets="reference")
    rounded = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    np.testing.assert_array_equal(comparison["reference"].output, reference.dot_product_attention(*rounded.values()))
    assert comparison.question.profile.name == "bf16_flash"
    assert comparison.question.case.tensors["key"].dtype == ml_dtypes.bfloat16


def test_a_mask_among_the_tensors_holds_beside_the_one_that_is_given() -> None:
    tensors = draw(2, "float64")
    array = np.ones((3, 5), bool)
    array[:, 0] = False
    comparison = compare(tensors | {"mask": array}, mask=causal(2), targets="reference")
    np.testing.assert_array_equal(comparison.stages.weights[0] > 0, array & np.tri(3, 5, 2, dtype=bool))


def test_lists_and_a_float32_bias_beside_half_precision_are_taken() -> None:
    tensors = {name: tensor.tolist() for name, tensor in draw(2, "float64").items()}
    assert compare(tensors, targets="reference").question.case.dtype == "float64"
    half = draw(2, "float16") | {"bias": np.ones((3, 5), np.float32)}
    assert compare(half, targets="reference").question.case.tensors["bias"].dtype == np.float32


def test_inputs_are_left_as_they_are(all_four: list[str]) -> None:
    tensors = draw(4, "float32")
    before = {name: tensor.copy() for name, tensor in tensors.items()}
    compare(tensors, targets=all_four)
    for name, tensor in tensors.items():
        assert tensor.tobytes() == before[name].tobytes()
        assert tensor.flags.writeable


@pytest.mark.usefixtures("all_four")
def test_the_library_leaves_jax_without_64_bit_and_says_that_it_is_unsupported() -> None:
    code = (
        "from attnspec.conformance import compare; import sys; "
        "c = compare(sys.argv[1], targets=['jax']); print(c.rows[1].status, c.rows[1].message, c.agrees, c.is_empty)"
    )
    path = str(find_example("fox").path)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unsupported JAX runs without 64-bit numbers (jax_enable_x64) False True"


# What it says of wrong ones


def test_a_missing_scale_is_found_with_its_numbers() -> None:
    tensors = draw(2, "float64")
    comparison = compare(tensors, targets=[without_scale, plain])
    wrong, right = comparison.rows[1:]
    assert (wrong.target, right.target) == ("without_scale", "plain")
    assert wrong.status is Status.FAIL
    assert wrong.ratio is not None
    assert wrong.ratio > 1e6
    assert wrong.first_difference == "output"
    np.testing.assert_array_equal(wrong.output, without_scale(**tensors))
    error = np.abs(without_scale(**tensors) - reference.dot_product_attention(**tensors)).max()
    assert wrong.max_error == error
    assert comparison.pairwise[0, 1] == comparison.pairwise[1, 0] == error
    assert wrong.message.startswith("at [")
    assert wrong.message.endswith("of the elements are outside")
    assert right.status is Status.PASS
    assert right.ratio is not None
    assert right.ratio < 0.8
    assert not comparison.agrees
    with pytest.raises(AssertionError, match=r"without_scale: fail, error / bound .*e\+\d\d: at \["):
        comparison.raise_if_disagree()


@pytest.mark.parametrize("stage", STAGES[:-1])
@pytest.mark.parametrize("rank", [2, 4])
def test_the_first_stage_that_differs_is_named(stage: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*tensors: Any, **options: Any) -> Any:
        stages = reference.attention_stages(*tensors, **options)
        later = STAGES[STAGES.index(stage) : -1]
        return stages._replace(**{name: getattr(stages, name) * (1 + 1e-9) for name in later})

    monkeypatch.setattr(MODULE, "load_backend", lambda _: SimpleNamespace(attention_stages=faulty))
    row = compare(draw(rank, "float64"), targets="reference").rows[0]
    assert row.first_difference == stage
    assert row.stage_ratios[stage] > 1e3
    before = STAGES[: STAGES.index(stage)]
    assert [row.stage_ratios[name] for name in before] == [0.0] * len(before)


def raises(*_: Any) -> Any:
    raise RuntimeError("kernel launch failed")


def leaves(*_: Any) -> Any:
    raise SystemExit(5)


def writes(query: Any, key: Any, value: Any) -> Any:
    query *= 2
    return plain(query, key, value)


def returns_a_list(query: Any, key: Any, value: Any) -> Any:
    return plain(query, key, value).tolist()


def loses_an_axis(query: Any, key: Any, value: Any) -> Any:
    return plain(query, key, value)[..., 0]


def rounds_to_integers(query: Any, key: Any, value: Any) -> Any:
    return plain(query, key, value).astype(np.int64)


def gives_nan(*_: Any) -> Any:
    return np.full((3, 2), np.nan)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        pytest.param(raises, Status.ERROR, "RuntimeError: kernel launch failed", id="raises"),
        pytest.param(leaves, Status.ERROR, "SystemExit: 5", id="leaves"),
        pytest.param(writes, Status.ERROR, "ValueError: output array is read-only", id="writes-into-its-input"),
        pytest.param(returns_a_list, Status.ERROR, "TypeError: the output must be an array; got list", id="list"),
        pytest.param(loses_an_axis, Status.FAIL, "the output has shape (3,); expected (3, 2) (S1)", id="shape"),
        pytest.param(rounds_to_integers, Status.FAIL, "the output has dtype int64; expected float64 (S16)", id="dtype"),
    ],
)
def test_what_gives_no_output_is_a_disagreement(function: Any, status: Status, message: str) -> None:
    comparison, row = compare_one(function)
    assert (row.status, row.message) == (status, message)
    assert (row.output, row.ratio, row.max_error) == (None, None, None)
    assert row.first_difference == ("output" if status is Status.FAIL else None)
    assert np.isnan(comparison.pairwise[0, 1])
    assert not comparison.agrees


def test_nan_where_a_number_is_expected_is_an_infinite_error() -> None:
    comparison, row = compare_one(gives_nan)
    assert (row.status, row.ratio, row.max_error) == (Status.FAIL, math.inf, math.inf)
    assert comparison.pairwise[0, 1] == math.inf
    data = json.loads(comparison.to_json())
    assert data["rows"][1]["ratio"] == "inf"
    assert data["pairwise"]["largest_differences"] == [[0.0, "inf"], ["inf", 0.0]]


def test_a_wider_output_dtype_is_noted_and_the_ratio_decides() -> None:
    def wide(query: Any, key: Any, value: Any) -> Any:
        return plain(*(array.astype(np.float64) for array in (query, key, value)))

    row = compare(draw(2, "float32"), targets=wide).rows[1]
    assert (row.status, row.message) == (Status.PASS, "the output has dtype float64, not float32 (S16)")


def test_a_function_that_lacks_the_keyword_is_unsupported_and_nothing_was_compared() -> None:
    comparison, row = compare_one(without_scale, mask=causal(0))
    assert (row.status, row.message) == (Status.UNSUPPORTED, "the function takes no `mask`")
    assert comparison.is_empty
    assert not comparison.agrees
    with pytest.raises(AssertionError, match=r"no target could take the inputs$"):
        comparison.raise_if_disagree()


def test_targets_of_the_same_name_are_told_apart() -> None:
    def bound(query: Any, key: Any, value: Any) -> Any:
        return plain(query, key, value)

    def scaled(scale: float) -> Any:
        return lambda query, key, value: plain(query, key, value, scale=scale)

    comparison = compare(draw(2, "float64"), targets=[scaled(1 / math.sqrt(7)), scaled(1.0), bound])
    names = [row.target for row in comparison.rows]
    assert names == ["reference", "<lambda>", "<lambda> (2)", "bound (2)"]
    assert [row.status is Status.PASS for row in comparison.rows] == [True, True, False, True]
    with pytest.raises(KeyError, match="no target is called 'bound'"):
        comparison["bound"]


def test_a_bound_that_cannot_decide_is_said() -> None:
    tensors = draw(2, "float64")
    flat = tensors | {"value": np.full((5, 2), 1.5)}
    assert compare(tensors, targets="reference").decides
    assert not compare(flat, targets="reference").decides


def test_the_profile_decides_how_far_an_output_may_be_off() -> None:
    def stores_scores(query: Any, key: Any, value: Any) -> Any:
        scores = query.astype(np.float32) @ key.astype(np.float32).mT
        scores = scores.astype(query.dtype).astype(np.float32)  # what bf16_eager does and bf16_flash does not
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(query.dtype)
        return (weights.astype(np.float32) @ value.astype(np.float32)).astype(query.dtype)

    # Logits near 365, where bfloat16 numbers are 2 apart.
    rng = np.random.default_rng(0)
    tensors = {
        "query": np.full((3, 1), 73.0),
        "key": rng.uniform(4.9, 5.1, (17, 1)),
        "value": rng.uniform(-2, 2, (17, 2)),
    }
    flash, eager = (
        compare(tensors, dtype="bfloat16", targets=stores_scores, profile=name).rows[1]
        for name in ("bf16_flash", "bf16_eager")
    )
    assert flash.ratio is not None
    assert eager.ratio is not None
    assert flash.ratio > 1.5
    assert eager.ratio < 0.8
    assert (flash.status, eager.status) == (Status.FAIL, Status.PASS)


# Refusals: each names its cause. Those of files are tested with the command.

TENSORS = {"query": np.ones((3, 7)), "key": np.ones((5, 7)), "value": np.ones((5, 2))}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "operation": ({"operation": "softmax"}, "there is no operation 'softmax'; there are dot_product_attention, "),
    "dtype": ({"dtype": "float8"}, "there is no dtype 'float8'; there are float64, float32, bfloat16, float16"),
    "not-tensors": ({"tensors": [1.0]}, "`tensors` must be a path or a dictionary of arrays; got list"),
    "no-tensors": ({"tensors": {}}, "missing: `query`, `key`, `value`"),
    "object": ({"tensors": TENSORS | {"query": np.array([[None]])}}, "tensors: `query` must hold numbers; got a NumPy"),
    "overflow": (
        {"tensors": TENSORS | {"key": np.full((5, 7), 7e4)}, "dtype": "float16"},
        "tensors: `key` holds 70000, which is beyond the range of float16",
    ),
    "mask-kind": ({"mask": np.ones((3, 5))}, "tensors: `mask` must be a mask object or a boolean array"),
    "mask-shape": ({"mask": np.ones((3, 4), bool)}, "tensors: each axis of `mask` must be 1 or that of (3, 5); got"),
    "heads": ({"num_heads": 2}, "tensors: dot_product_attention has no `num_heads`"),
    "no-heads": ({"operation": "multi_head_attention"}, "tensors: multi_head_attention takes `query`"),
    "profile": ({"profile": "fp31"}, "tensors: there is no profile 'fp31'; there are fp64, "),
    "profile-dtype": ({"profile": "fp32"}, "tensors: profile fp32 is for float32; the tensors are float64"),
    "softcap": ({"softcap": 0.0}, "tensors: `softcap` must be positive and finite; got 0.0"),
    "causal": ({"mask": causal()}, "tensors: `causal` without an offset needs as many queries as keys; got 3 queries"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(InputError) as raised:
        compare(
            options.get("tensors", TENSORS), targets="reference", **{k: v for k, v in options.items() if k != "tensors"}
        )
    assert message in str(raised.value)


def test_a_framework_tensor_is_refused_by_name() -> None:
    torch = frameworks.load("torch").attention.torch
    with pytest.raises(InputError, match=r"^tensors: `query` must be a NumPy array or Python numbers; got a torch"):
        compare(TENSORS | {"query": torch.ones(3, 7)}, targets="reference")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(TargetError, match="there is no target 'cuda'"):
        compare(TENSORS, targets=["cuda"])


# What it writes


def test_json_says_everything_but_the_outputs() -> None:
    comparison, row = compare_one(without_scale)
    data = json.loads(comparison.to_json())
    assert (data["format"], data["agrees"], data["decides"]) == (1, False, True)
    assert (data["operation"], data["dtype"], data["profile"]) == ("dot_product_attention", "float64", "fp64")
    assert data["versions"]["without_scale"] == "Python callable"
    first, second = data["rows"]
    assert first["stage_ratios"] == dict.fromkeys(STAGES, 0.0)
    assert (second["target"], second["status"], second["first_difference"]) == ("without_scale", "fail", "output")
    assert (second["ratio"], second["max_error"]) == (row.ratio, row.max_error)
    assert data["pairwise"]["outputs"] == ["reference", "without_scale"]

"""What a plain callable is called with: keywords that say what they can, and arrays for all the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pairs_by_hand import Pair, addend

from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.targets import KEYWORDS, CallableTarget, UnsupportedCaseError, load_target

# ruff: noqa: ARG005 - what a target takes is the subject, not what it does with it

Array = np.ndarray[Any, Any]

both = build(Steps())
CASES = {case.id: case for case in shipped_cases()}


def _segments(case: str) -> dict[str, Any]:
    """Give the keywords of a segments mask that stands beside a causal one."""
    mask = next(part for part in CASES[case].options["mask"]["masks"] if part["kind"] == "segments")
    length, batch = CASES[case].tensors["query"].shape[-2], CASES[case].tensors["query"].shape[0]
    names = {"query_segments": mask["query_ids"], "key_segments": mask["key_ids"]}
    return {name: np.broadcast_to(ids, (batch, length)).tolist() for name, ids in names.items()}


def keywords_of(case: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Run a case on a recording of `function`, and return the keywords that it was given."""
    seen: list[dict[str, Any]] = []

    @functools.wraps(function)
    def recorded(*args: Any, **given: Any) -> tuple[Array, Array]:
        seen.append(given)
        return both(*args, **given)

    target = load_target(recorded)
    assert target.unsupported(CASES[case]) is None
    target.run(CASES[case], dict(CASES[case].tensors))
    return seen[0]


def everything(query: Array, key: Array, value: Array, **given: Any) -> Array: ...


def only_mask(query: Array, key: Array, value: Array, *, mask: Array | None = None, bias: Any = None) -> Array: ...


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param("square-float32", {}, id="nothing"),
        pytest.param("causal-end-float32", {"causal_offset": 6}, id="causal"),
        pytest.param("window-causal-float32", {"causal_offset": 0, "window": (4, None)}, id="window"),
        pytest.param("scale-negative-float32", {"scale": -0.5, "key_lengths": [11, 4, 7]}, id="scale-and-lengths"),
        pytest.param("softcap-float32", {"softcap": 1.5}, id="softcap"),
        pytest.param("scale-zero-float32", {"scale": 0.0, "key_lengths": [11, 4, 7]}, id="scale-0-is-given"),
        pytest.param(
            "both-lengths-float32", {"key_lengths": [7, 3], "query_lengths": [4, 7]}, id="key-and-query-lengths"
        ),
        pytest.param(
            "segments-cross-float32",
            {
                "query_segments": [[7, 7, -1, 4, 4]] * 3,
                "key_segments": [CASES["segments-cross-float32"].options["mask"]["key_ids"]] * 3,
            },
            id="segments-shared-by-the-batch",
        ),
        pytest.param(
            "segments-causal-float32",
            {"causal_offset": 0, **_segments("segments-causal-float32")},
            id="segments-and-causal",
        ),
        pytest.param("logsumexp-options-float32", {"scale": 0.5, "softcap": 2.0, "bias": None}, id="partial"),
    ],
)
def test_structured_keywords(case: str, expected: dict[str, Any]) -> None:
    given = {
        name: getattr(value, "tolist", lambda value=value: value)()
        for name, value in keywords_of(case, everything).items()
    }
    if "bias" in expected:
        assert given["bias"] == CASES[case].tensors["bias"].tolist()
        expected = {**expected, "bias": given["bias"]}
    assert given == expected


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        pytest.param("causal-end-float32", (1, 1, 5, 11), id="causal"),
        pytest.param("causal-offset-batch-float32", (3, 1, 5, 11), id="offset-per-batch-element"),
        pytest.param("mask-heads-float32", (1, 6, 5, 11), id="heads"),
        pytest.param("causal-rank-2-float32", (11, 13), id="rank-2"),
        pytest.param("causal-rank-5-float32", (1, 1, 1, 5, 7), id="rank-5"),
        pytest.param("segments-cross-float32", (1, 1, 5, 11), id="segments"),
        pytest.param("segments-float32", (2, 1, 7, 7), id="segments-per-batch-element"),
        pytest.param("prefix-float32", (2, 1, 7, 7), id="prefix"),
        pytest.param("chunked-end-float32", (1, 1, 5, 11), id="chunked"),
        pytest.param("mask-combination-float32", (2, 1, 7, 7), id="combination"),
    ],
)
def test_what_is_not_taken_arrives_in_the_mask(case: str, shape: tuple[int, ...]) -> None:
    given = keywords_of(case, only_mask)
    assert list(given) == ["mask"]
    assert given["mask"].shape == shape
    assert given["mask"].dtype == np.bool_


@pytest.mark.parametrize("case", ["bias-pairs-float32", "bias-heads-float32"])
def test_a_bias_has_the_rank_of_the_query(case: str) -> None:
    given = keywords_of(case, only_mask)
    assert given["bias"].ndim == 4
    assert given["bias"].tobytes() == CASES[case].tensors["bias"].tobytes()


def test_the_keywords_are_the_published_ones() -> None:
    assert sorted(KEYWORDS) == [
        "bias",
        "causal_offset",
        "dropout_keep",
        "dropout_rate",
        "key_lengths",
        "key_segments",
        "mask",
        "query_lengths",
        "query_segments",
        "scale",
        "sinks",
        "softcap",
        "window",
    ]


# Biases that depend on positions: folded into an array, in the accumulation dtype.


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["alibi", "alibi-causal", "alibi-cache", "relative-position", "bias-sum"])
def test_a_bias_object_arrives_as_an_array(name: str, dtype: str) -> None:
    case = CASES[f"{name}-{dtype}"]
    bias = keywords_of(case.id, everything)["bias"]
    assert bias.dtype == (np.float64 if dtype == "float64" else np.float32)
    (batch, heads, queries, _), keys = case.tensors["query"].shape, case.tensors["key"].shape[-2]
    assert bias.ndim == 4
    pairs = (batch, heads, queries, keys)
    expected = [
        addend(case.options["bias"], Pair((b,), (h,), i, j, queries, keys), heads) for b, h, i, j in np.ndindex(pairs)
    ]
    found = np.broadcast_to(bias, pairs).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-15 if dtype == "float64" else 1e-7)


# Sinks and dropout.


@pytest.mark.parametrize(("case", "shape"), [("sinks-float32", (6,)), ("sinks-rank-3-float32", ())], ids=str)
def test_sinks_are_given_as_they_are(case: str, shape: tuple[int, ...]) -> None:
    given = keywords_of(case, everything)
    assert list(given) == ["sinks"]
    assert given["sinks"].shape == shape
    assert given["sinks"].tobytes() == CASES[case].tensors["sinks"].tobytes()


@pytest.mark.parametrize(
    ("case", "shape", "rate"),
    [
        pytest.param("dropout-float32", (3, 6, 5, 11), 0.3, id="every-pair"),
        pytest.param("dropout-shared-float32", (1, 1, 5, 11), 0.5, id="shared-by-the-batch"),
    ],
)
def test_dropout_is_two_keywords(case: str, shape: tuple[int, ...], rate: float) -> None:
    given = keywords_of(case, everything)
    assert set(given) == {"dropout_keep", "dropout_rate"}
    assert (given["dropout_keep"].shape, given["dropout_keep"].dtype) == (shape, np.bool_)
    np.testing.assert_array_equal(
        given["dropout_keep"].reshape(CASES[case].tensors["keep"].shape), CASES[case].tensors["keep"]
    )
    assert given["dropout_rate"] == rate


def only_keep(query: Array, key: Array, value: Array, *, dropout_keep: Array | None = None) -> Array: ...


def test_half_of_the_dropout_keywords_is_not_enough() -> None:
    assert load_target(only_keep).unsupported(CASES["dropout-float32"]) == "the function takes no `dropout_rate`"


def test_all_options_together() -> None:
    given = keywords_of("dropout-causal-float32", everything)
    assert {"sinks", "dropout_keep", "dropout_rate", "causal_offset"} <= set(given) <= KEYWORDS


# Two results.


@pytest.mark.parametrize("function", [lambda q, k, v: q, lambda q, k, v: (q,)], ids=["array", "tuple-of-one"])
def test_a_callable_without_a_logsumexp_says_so_when_it_is_called(function: Callable[..., Any]) -> None:
    target, case = CallableTarget("mine", function), CASES["logsumexp-float32"]
    assert target.unsupported(case) is None
    with pytest.raises(UnsupportedCaseError, match=r"^the function returns no logsumexp beside its output$"):
        target.run(case, dict(case.tensors))


def test_results_are_named() -> None:
    target, case = CallableTarget("mine", both), CASES["logsumexp-float32"]
    results = target.run(case, dict(case.tensors))
    assert {name: array.shape for name, array in results.items()} == {"output": (3, 6, 5, 4), "logsumexp": (3, 6, 5)}
    square = CASES["square-float32"]
    assert set(target.run(square, dict(square.tensors))) == {"output"}


@pytest.mark.parametrize(
    ("case", "dtypes"),
    [
        pytest.param("square-bfloat16", {"output": ["bfloat16"]}, id="output"),
        pytest.param("logsumexp-float64", {"output": ["float64"], "logsumexp": ["float64"]}, id="partial-float64"),
        pytest.param(
            "logsumexp-float32",
            {"output": ["float32", "float64"], "logsumexp": ["float32", "float64"]},
            id="partial-float32",
        ),
        pytest.param(
            "logsumexp-bfloat16",
            {"output": ["bfloat16", "float32", "float64"], "logsumexp": ["float32", "float64"]},
            id="partial-bfloat16",
        ),
    ],
)
def test_dtypes_of_a_callable(case: str, dtypes: dict[str, list[str]]) -> None:
    found = CallableTarget("mine", both).result_dtypes(CASES[case])
    assert {name: sorted({str(dtype) for dtype in allowed}) for name, allowed in found.items()} == dtypes

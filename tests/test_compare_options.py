"""Sinks in `compare`: read from every kind of file, given to every target, part of what makes two runs comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from compare_runs import run, safetensors, save, save_json

from attnspec import reference
from attnspec.conformance import InputError, Status, compare
from attnspec.conformance.cases import DTYPES
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.implementations import Steps, build
from attnspec.conformance.saved_comparisons import compare_saved

right = build(Steps())
SINK_FAULTS = {fault.name: fault.attention for fault in FAULTS if fault.clause == "S13"}


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def draw(rank: int, dtype: str, sink_dtype: str | None = None) -> dict[str, Any]:
    """Draw peaked tensors, with a sink for each of 4 query heads, or one where there are no heads."""
    rng = np.random.default_rng([rank, 3])
    heads, kv_heads, batch = {2: ((), (), ()), 3: ((), (), (2,)), 4: ((4,), (2,), (2,))}[rank]
    tensors = {
        "query": 1.7 * rng.standard_normal((*batch, *heads, 3, 7)),
        "key": 1.7 * rng.standard_normal((*batch, *kv_heads, 5, 7)),
        "value": rng.standard_normal((*batch, *kv_heads, 5, 2)),
        "sinks": rng.standard_normal(heads) + 2.0,
    }
    given = {name: np.asarray(tensor).astype(DTYPES[dtype]) for name, tensor in tensors.items()}
    return given | {"sinks": np.asarray(tensors["sinks"]).astype(DTYPES[sink_dtype or dtype])}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_all_agree_on_sinks(rank: int, dtype: str) -> None:
    for name in frameworks.MODULES:
        frameworks.load(name)
    comparison = compare(draw(rank, dtype), targets=[*frameworks.MODULES, right])
    assert [row.status for row in comparison.rows] == [Status.PASS] * 5, comparison.summary()
    tensors = draw(rank, dtype)
    expected = reference.attention_stages(**tensors)
    np.testing.assert_array_equal(np.asarray(comparison.rows[0].output), expected.output)
    np.testing.assert_allclose(comparison.stages.logsumexp.ravel(), expected.logsumexp.ravel(), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sinks_beside_half_precision_may_be_float32(dtype: str) -> None:
    comparison = compare(draw(4, dtype, sink_dtype="float32"), targets=right)
    assert comparison.question.case.dtype == dtype
    assert comparison.agrees, comparison.summary()


@pytest.mark.parametrize("fault", SINK_FAULTS)
def test_wrong_sinks_are_found(fault: str) -> None:
    (_, row) = compare(draw(4, "float32"), targets=SINK_FAULTS[fault]).rows
    assert row.status is Status.FAIL
    assert row.ratio is not None
    assert row.ratio > 100


def test_the_summary_says_that_there_are_sinks() -> None:
    comparison = compare(draw(4, "float32"), targets="reference")
    assert comparison.question.describe().endswith(" in float32, sinks")
    assert "sinks" not in compare({n: t for n, t in draw(4, "float32").items() if n != "sinks"}).question.describe()


def test_a_function_without_sinks_cannot_take_them() -> None:
    def without(query: Any, key: Any, value: Any, *, mask: Any = None) -> Any:
        return right(query, key, value, mask=mask)

    (_, row) = compare(draw(4, "float32"), targets=without).rows
    assert row.status is Status.UNSUPPORTED
    assert row.message == "the function takes no `sinks`"


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        pytest.param(np.ones(3), "`sinks`", id="count"),
        pytest.param(np.ones((4, 1)), "`sinks`", id="rank"),
        pytest.param(np.ones(4, int), "`sinks` must be of float64", id="integers"),
    ],
)
def test_sinks_that_do_not_fit(sinks: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^tensors: {message}"):
        compare(draw(4, "float64") | {"sinks": sinks}, targets="reference")


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda: save(sinks=np.array(0.5)), id="npz"),
        pytest.param(lambda: safetensors(sinks=np.array(0.5)), id="safetensors"),
        pytest.param(lambda: save_json(sinks=0.5), id="json"),
    ],
)
def test_sinks_are_read_from_every_file(write: Any) -> None:
    ran = run(write(), "--target", "reference")
    assert ran.exit_code == 0, ran.output
    assert "sinks" in ran.stdout.splitlines()[0]


def test_outputs_with_other_sinks_are_not_compared() -> None:
    tensors = draw(2, "float64")
    compare(tensors, targets="reference").save(Path("one.safetensors"))
    compare(tensors | {"sinks": tensors["sinks"] + 1}, targets="reference").save(Path("other.safetensors"))
    with pytest.raises(InputError, match="cannot be compared: they were computed from different inputs or options"):
        compare_saved(Path("one.safetensors"), Path("other.safetensors"))
    assert compare_saved(Path("one.safetensors"), Path("one.safetensors")).agrees

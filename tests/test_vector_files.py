"""The shipped vectors as data: whole, unambiguous, able to judge, and right by an oracle that shares nothing."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle_scalar
import pytest
from comparisons import assert_close, assert_same_pattern
from pairs_by_hand import Pair, entry, sees

from attnspec.conformance.admission import CHEATS, decides, evaluate, largest_ratio
from attnspec.conformance.cases import DTYPES, VECTORS, Case, shipped_cases
from attnspec.conformance.freeze import freeze
from attnspec.conformance.profiles import default_profile

CASES = shipped_cases()
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf8"))

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


# The collection as a whole.


def test_there_are_at_least_sixty_vectors() -> None:
    assert len(CASES) >= 60


def test_identifiers_and_payloads_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({item["payload"] for item in MANIFEST["cases"]}) == len(CASES)


def test_the_folder_holds_what_the_manifest_names_and_nothing_else() -> None:
    named = {item["payload"] for item in MANIFEST["cases"]} | {"manifest.json", "manifest.schema.json"}
    assert {path.name for path in VECTORS.iterdir()} == named


def test_every_payload_has_its_hash() -> None:
    for item in MANIFEST["cases"]:
        assert hashlib.sha256((VECTORS / item["payload"]).read_bytes()).hexdigest() == item["sha256"], item["id"]


def test_all_vectors_together_take_at_most_eight_mebibytes() -> None:
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) <= 8 * 2**20


def test_no_file_is_a_pickle() -> None:
    for path in VECTORS.iterdir():
        head = path.read_bytes()[:9]
        if path.suffix == ".safetensors":
            assert int.from_bytes(head[:8], "little") < path.stat().st_size, path
            assert head[8:] == b"{", path
        else:
            assert head[:1] == b"{", path


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_share_at_most_24_shapes(dtype: str) -> None:
    signatures = {
        (case.operation, tuple(sorted((name, tensor.shape) for name, tensor in case.tensors.items() if name != "bias")))
        for case in CASES
        if case.dtype == dtype
    }
    assert len(signatures) <= 24, sorted(signatures)


@pytest.mark.parametrize("clause", [f"S{n}" for n in (*range(1, 9), *range(10, 13), *range(16, 19))])
def test_every_clause_has_vectors_in_every_dtype(clause: str) -> None:
    assert {case.dtype for case in CASES if clause in case.clauses} == set(DTYPES)


def _lengths(case: Case) -> tuple[int, int]:
    return case.tensors["query"].shape[-2], case.tensors["key"].shape[-2]


def _largest(tensor: Any) -> float:
    return float(np.abs(tensor.astype(np.float64)).max())


FEATURES: dict[str, Callable[[Case], bool]] = {
    "fewer-queries-than-keys": lambda case: _lengths(case)[0] < _lengths(case)[1],
    "more-queries-than-keys": lambda case: _lengths(case)[0] > _lengths(case)[1] > 0,
    "batch-unlike-heads": lambda case: case.tensors["query"].ndim == 4 and _batch_and_heads(case) == (3, 6),
    "length-like-heads": lambda case: case.tensors["query"].ndim == 4 and len({*case.expected.shape[1:3]}) == 1,
    "grouped-heads": lambda case: case.expected.ndim > 3 and case.tensors["key"].shape[-3] < case.expected.shape[-3],
    "value-size-unlike-key-size": lambda case: case.tensors["value"].shape[-1] != case.tensors["key"].shape[-1],
    "rank-2": lambda case: case.tensors["query"].ndim == 2,
    "rank-3": lambda case: case.tensors["query"].ndim == 3,
    "rank-5": lambda case: case.tensors["query"].ndim == 5,
    "no-keys": lambda case: _lengths(case)[1] == 0,
    "empty-rows": lambda case: "empty_rows" in case.features and bool((case.expected == 0).all(axis=-1).any()),
    "poison-nan": lambda case: bool(np.isnan(case.tensors["value"]).any()) and bool(np.isfinite(case.expected).all()),
    "poison-inf": lambda case: bool(np.isinf(case.tensors["value"]).any()) and bool(np.isfinite(case.expected).all()),
    "poison-large": lambda case: "poison" in case.features and _largest(case.tensors["value"]) > 9e3,
    "visible-nan-or-inf": lambda case: case.nonfinite and not np.isfinite(case.expected).all(),
    "needle": lambda case: "needle" in case.features,
    "exact": lambda case: "exact" in case.features,
    "bias": lambda case: "bias" in case.tensors,
    "softcap": lambda case: case.options["softcap"] is not None,
    "negative-scale": lambda case: (case.options["scale"] or 0) < 0,
}


def _batch_and_heads(case: Case) -> tuple[int, int]:
    batch, heads = case.tensors["query"].shape[:2]
    return batch, heads


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_there_in_every_dtype(feature: str) -> None:
    present = {case.dtype for case in CASES if case.operation == "dot_product_attention" and FEATURES[feature](case)}
    assert present == set(DTYPES)


@each_case
def test_tensors_have_the_dtype_and_only_poison_is_not_finite(case: Case) -> None:
    assert {tensor.dtype for tensor in case.tensors.values()} == {DTYPES[case.dtype]}
    assert case.expected.dtype == np.float64
    assert bool(np.isfinite(case.expected).all()) == (not case.nonfinite)


@pytest.mark.parametrize("case", [case for case in CASES if case.same_bits_as], ids=lambda case: case.id)
def test_twins_differ_in_their_inputs_and_not_in_what_is_expected(case: Case) -> None:
    twin = next(other for other in CASES if other.id == case.same_bits_as)
    assert twin.options == case.options
    assert twin.expected.tobytes() == case.expected.tobytes()
    assert twin.tensors["value"].tobytes() != case.tensors["value"].tobytes()


# What each vector must be able to do.


@each_case
def test_the_default_profile_decides(case: Case) -> None:
    assert decides(evaluate(case, default_profile(case.dtype)))


@pytest.mark.parametrize("cheat", CHEATS)
@each_case
def test_cheats_are_rejected(case: Case, cheat: str) -> None:
    undecided = next(item["undecided"] for item in MANIFEST["cases"] if item["id"] == case.id)
    ratio = largest_ratio(CHEATS[cheat](case), case.expected, evaluate(case, default_profile(case.dtype)).bound)
    if cheat in undecided:
        assert ratio <= 1, f"declared undecided ({undecided[cheat]}), and rejected with {ratio}"
    else:
        assert ratio > 4, f"{cheat} reaches only {ratio} of the bound"


def test_undecided_cheats_stay_rare() -> None:
    declared = [cheat for item in MANIFEST["cases"] for cheat in item["undecided"]]
    assert len(declared) < len(CASES) * len(CHEATS) / 30


# The frozen outputs, by an oracle that shares no line with the reference.


def _sequential(left: Any, right: Any, bias: Any = None) -> Any:
    """Compute left · right + bias with one correctly rounded sum for each entry."""
    rows, columns = left.reshape(-1, left.shape[-1]).tolist(), right.T.tolist()
    added = [0.0] * len(columns) if bias is None else bias.tolist()
    sums = [
        [
            math.fsum([x * w for x, w in zip(row, column, strict=True)] + [b])
            for column, b in zip(columns, added, strict=True)
        ]
        for row in rows
    ]
    return np.array(sums).reshape(*left.shape[:-1], len(columns))


def _heads(array: Any, count: int) -> Any:
    """(B, T, H·D) → (B, H, T, D), one head's columns after another's."""
    size = array.shape[-1] // count
    return np.stack([array[..., h * size : (h + 1) * size] for h in range(count)], axis=-3)


def _projected(case: Case) -> tuple[Any, Any, Any]:
    """Give the query, key and value of an operation, each with a head axis where the operation has heads."""
    t = {name: tensor.astype(np.float64) for name, tensor in case.tensors.items()}
    match case.operation:
        case "self_attention":
            names = ("query_weight", "key_weight", "value_weight")
            query, key, value = (_sequential(t["inputs"], t[name])[..., None, :, :] for name in names)
        case "key_value_attention":
            query, key, value = t["query"][..., None, None, :], t["keys"][..., None, :, :], t["values"][..., None, :, :]
        case "multi_head_attention":
            counts = {"query": case.options["num_heads"], "key": case.options["num_kv_heads"]}
            query, key, value = (
                _heads(
                    _sequential(t[part], t[f"{part}_weight"], t.get(f"{part}_bias")), counts.get(part, counts["key"])
                )
                for part in ("query", "key", "value")
            )
        case _:
            query, key, value = t["query"], t["key"], t["value"]
    return query, key, value


def by_hand(case: Case) -> Any:
    """Compute a case's output with the scalar oracle."""
    query, key, value = _projected(case)
    has_heads = query.ndim > 3
    batch = query.shape[: max(query.ndim - 3, 0)] if has_heads else query.shape[:-2]
    queries, keys = query.shape[-2], key.shape[-2]
    bias = case.tensors["bias"].astype(np.float64).tolist() if case.options["bias"] else None

    def pair(b: int, h: int, i: int, j: int) -> Pair:
        place = tuple(int(index) for index in np.unravel_index(b, batch)) if batch else ()
        return Pair(place, (h,) if has_heads else (), i, j, queries, keys)

    stages = oracle_scalar.attention_stages(
        *(_canonical(array, batch, has_heads) for array in (query, key, value)),
        visible=lambda *place: sees(case.options["mask"], pair(*place)),
        bias=None if bias is None else lambda *place: entry(bias, pair(*place)),
        scale=case.options["scale"],
        softcap=case.options["softcap"],
    )
    output = stages["output"].reshape(*query.shape[:-1], value.shape[-1])
    if case.operation == "self_attention":
        output = output[..., 0, :, :]
    elif case.operation == "key_value_attention":
        output = output[..., 0, 0, :]
    elif case.operation == "multi_head_attention":
        weight, added = (case.tensors.get(f"output_{part}") for part in ("weight", "bias"))
        merged = np.concatenate([output[..., h, :, :] for h in range(output.shape[-3])], axis=-1)
        output = _sequential(merged, weight.astype(np.float64), None if added is None else added.astype(np.float64))
    return output


def _canonical(array: Any, batch: tuple[int, ...], has_heads: bool) -> Any:
    return array.reshape(math.prod(batch), array.shape[-3] if has_heads else 1, *array.shape[-2:])


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype == "float64"], ids=lambda case: case.id)
def test_frozen_outputs_agree_with_the_independent_oracle(case: Case) -> None:
    output = by_hand(case)
    assert_same_pattern(output, case.expected)
    finite = np.isfinite(case.expected)
    assert_close(np.where(finite, output, 0.0), np.where(finite, case.expected, 0.0), factor=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "name", ["softcap-scale", "visible-values", "multi-head-masked", "key-value-lengths", "rank-5"]
)
def test_frozen_outputs_are_those_of_the_rounded_inputs(name: str, dtype: str) -> None:
    case = next(case for case in CASES if case.id == f"{name}-{dtype}")
    output = by_hand(case)
    assert_same_pattern(output, case.expected)
    finite = np.isfinite(case.expected)
    assert_close(np.where(finite, output, 0.0), np.where(finite, case.expected, 0.0), factor=1e-13)


def test_the_oracle_would_notice_another_mask() -> None:
    case = next(case for case in CASES if case.id == "causal-end-float64")
    other = Case(**{**vars(case), "options": {**case.options, "mask": {"kind": "causal", "offset": 0}}})
    with pytest.raises(AssertionError, match="largest difference"):
        assert_close(by_hand(other), case.expected, factor=1e-13)


# Freezing only adds.


@pytest.fixture
def copy_of_vectors(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VECTORS, tmp_path / "vectors"))


def test_freezing_again_adds_nothing_and_changes_no_byte(copy_of_vectors: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy_of_vectors.iterdir()}
    assert freeze(copy_of_vectors) == []
    after = {path.name: path.read_bytes() for path in copy_of_vectors.iterdir()}
    assert after == before


def test_freezing_adds_exactly_what_is_missing_with_the_same_bytes(copy_of_vectors: Path) -> None:
    # Both have exact outputs, so the bytes do not depend on the order in which this machine's BLAS adds.
    missing = ["exact-mean-bfloat16", "window-self-float64"]
    manifest = json.loads((copy_of_vectors / "manifest.json").read_text(encoding="utf8"))
    kept = [item for item in manifest["cases"] if item["id"] not in missing]
    (copy_of_vectors / "manifest.json").write_text(json.dumps(manifest | {"cases": kept}), encoding="utf8")
    for name in missing:
        (copy_of_vectors / f"{name}.safetensors").unlink()

    assert sorted(freeze(copy_of_vectors)) == missing

    again = json.loads((copy_of_vectors / "manifest.json").read_text(encoding="utf8"))
    assert again["cases"][:-2] == kept
    assert sorted(again["cases"], key=_id) == sorted(MANIFEST["cases"], key=_id)
    for path in VECTORS.glob("*.safetensors"):
        assert (copy_of_vectors / path.name).read_bytes() == path.read_bytes(), path.name


def _id(item: dict[str, Any]) -> str:
    return str(item["id"])

"""The shipped vectors as data: whole, unambiguous, and able to judge. That they are right: test_vector_oracles.py.

What those of composed operations have to show besides: test_composed_vectors.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnspec.conformance.admission import CHEATS, decides, evaluate, largest_ratio, rejects
from attnspec.conformance.cases import DTYPES, SCHEMA, SUMS, VECTORS, Case, payload_of, shipped_cases
from attnspec.conformance.cases import MANIFEST as MANIFEST_NAME
from attnspec.conformance.composed_operations import COMPOSED
from attnspec.conformance.derivatives import DERIVATIVES
from attnspec.conformance.freeze import freeze
from attnspec.conformance.operation import Evaluation
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.profiles import default_profile
from attnspec.contract.tensor_files import read_tensors

CASES = shipped_cases()
MANIFEST = json.loads((VECTORS / "manifest.json").read_text(encoding="utf8"))

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


# The collection as a whole.


def test_there_are_hundreds_of_vectors() -> None:
    assert len(CASES) >= 600


def test_identifiers_and_payloads_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({item["payload"] for item in MANIFEST["cases"]}) == len(CASES)


def test_the_folder_holds_what_the_manifest_names_and_nothing_else() -> None:
    named = {item["payload"] for item in MANIFEST["cases"]} | {MANIFEST_NAME, SCHEMA, SUMS}
    assert {path.name for path in VECTORS.iterdir()} == named


def test_every_payload_has_its_hash() -> None:
    for item in MANIFEST["cases"]:
        assert hashlib.sha256((VECTORS / item["payload"]).read_bytes()).hexdigest() == item["sha256"], item["id"]


def test_all_vectors_together_take_at_most_six_and_a_half_mebibytes_of_a_wheel() -> None:
    """A wheel is compressed, and holds at most 8 MiB (test_packaging): the rest is for everything else."""
    assert sum(len(zlib.compress(path.read_bytes())) for path in VECTORS.iterdir()) <= 6.5 * 2**20


def test_no_file_is_a_pickle() -> None:
    for path in VECTORS.iterdir():
        head = path.read_bytes()[:9]
        if path.suffix == ".safetensors":
            assert int.from_bytes(head[:8], "little") < path.stat().st_size, path
            assert head[8:] == b"{", path
        elif path.name != SUMS:
            assert head[:1] == b"{", path


CORE = ("query", "key", "value")


@pytest.mark.parametrize("dtype", DTYPES)
def test_attentions_share_at_most_24_shapes(dtype: str) -> None:
    of_dtype = [case for case in CASES if case.dtype == dtype and set(CORE) <= set(case.tensors)]
    signatures = {
        tuple(case.tensors[name].shape for name in CORE) for case in of_dtype if "query_weight" not in case.tensors
    }
    assert len(signatures) <= 24, sorted(signatures)


EVERY = " ".join(DTYPES)
IN_DTYPES: dict[str, tuple[str, str]] = {
    "dot_product_attention": (EVERY, EVERY),
    "attention_with_logsumexp": (EVERY, EVERY),
    "merge_attention": (EVERY, ""),
    "self_attention": (EVERY, EVERY),
    "key_value_attention": (EVERY, EVERY),
    "multi_head_attention": (EVERY, EVERY),
    "rotary_embedding": (EVERY, EVERY),
    "sinusoidal_positions": (EVERY, ""),
    "hard_attention": ("float64 float32 bfloat16", "float64"),
    "additive_attention": ("float64 float32 bfloat16", "float64"),
    "bilinear_attention": ("float32 bfloat16", "float64"),
    "cosine_attention": ("float32 bfloat16", "float64"),
    "attention_gate": ("float32 bfloat16", "float64"),
    "gated_input": ("float32 bfloat16", "float64"),
    "gated_attention": ("float32 bfloat16", "float64"),
    "gated_attention_cell": ("float64 float32 bfloat16", "float64"),
    "layer_norm": ("float32 bfloat16", "float64 float32"),
    "feed_forward": ("float32 bfloat16", "float64"),
    "encoder_layer": ("float64 float32 bfloat16", "float64 float32"),
    "encoder": ("float32 bfloat16", "float64"),
    "decoder_layer": ("float32 bfloat16", "float64"),
    "decoder": ("float32 bfloat16", "float64"),
    "embedding": ("float32 bfloat16", "float64"),
    "add_sinusoidal_positions": ("float32 bfloat16", ""),
    "add_learned_positions": ("float32 bfloat16", "float64"),
    "mean_pooling": ("float32 bfloat16", "float64"),
    "text_encoder": ("float32 bfloat16", "float64"),
    "sequence_classifier": ("float32 bfloat16", "float64"),
    "transformer": ("float32 bfloat16", "float64"),
    "cached_multi_head_attention": ("float32 bfloat16", ""),
}
"""The dtypes that hold each operation, forward and backward."""

HELD = [
    (operation, direction, dtype)
    for operation, dtypes in IN_DTYPES.items()
    for direction, names in zip(("forward", "backward"), dtypes, strict=True)
    for dtype in names.split()
]


def test_every_operation_has_vectors_in_exactly_these_dtypes() -> None:
    assert set(IN_DTYPES) == set(OPERATIONS)
    assert {(case.operation, case.direction, case.dtype) for case in CASES} == set(HELD)
    assert {operation for operation, (_, backward) in IN_DTYPES.items() if backward == EVERY} == set(DERIVATIVES)


OTHERS = [name for name in IN_DTYPES if "query" not in OPERATIONS[name].tensors]


@pytest.mark.parametrize(
    ("operation", "dtype"),
    sorted({(operation, dtype) for operation, _, dtype in HELD if operation in OTHERS}),
)
def test_other_operations_have_few_shapes(operation: str, dtype: str) -> None:
    # A tree of parameters is an argument like others: each of its shapes counts.
    arguments = getattr(OPERATIONS[operation], "arguments", OPERATIONS[operation].tensors)
    signatures = {
        tuple(sorted((name, case.tensors[name].shape) for name in case.tensors if name.partition(".")[0] in arguments))
        for case in CASES
        if (case.operation, case.dtype) == (operation, dtype)
    }
    assert 1 <= len(signatures) <= 4, sorted(signatures)


CORE_CLAUSES = [f"S{n}" for n in (*range(1, 19), 21, 22)]
IN_BFLOAT16 = [f"S{n}" for n in (20, *range(23, 38))]
CLAUSES: dict[str, set[str]] = {
    **{clause: set(DTYPES) for clause in CORE_CLAUSES},
    **{clause: {"float64", "float32", "bfloat16"} for clause in IN_BFLOAT16},
}
"""Every clause that vectors hold (S19, errors, is held by tests), and the dtypes of its vectors."""


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_clause_has_vectors_in_exactly_its_dtypes(clause: str) -> None:
    assert {case.dtype for case in CASES if clause in case.clauses} == CLAUSES[clause]


def test_there_is_no_vector_of_a_clause_that_is_not_written() -> None:
    assert set(CLAUSES) == {f"S{n}" for n in range(1, 38) if n != 19}
    assert {clause for case in CASES for clause in case.clauses} == set(CLAUSES)


def _lengths(case: Case) -> tuple[int, int]:
    return case.tensors["query"].shape[-2], case.tensors["key"].shape[-2]


def _largest(tensor: Any) -> float:
    return float(np.abs(tensor.astype(np.float64)).max())


def _output(case: Case) -> Any:
    return case.expected["output"]


def _has_poison(case: Case, test: Any) -> bool:
    return bool(test(case.tensors["value"].astype(np.float64)).any()) and bool(np.isfinite(_output(case)).all())


FEATURES: dict[str, Callable[[Case], bool]] = {
    "fewer-queries-than-keys": lambda case: _lengths(case)[0] < _lengths(case)[1],
    "more-queries-than-keys": lambda case: _lengths(case)[0] > _lengths(case)[1] > 0,
    "batch-unlike-heads": lambda case: case.tensors["query"].ndim == 4 and _batch_and_heads(case) == (3, 6),
    "length-like-heads": lambda case: case.tensors["query"].ndim == 4 and len({*_output(case).shape[1:3]}) == 1,
    "grouped-heads": lambda case: _output(case).ndim > 3 and case.tensors["key"].shape[-3] < _output(case).shape[-3],
    "value-size-unlike-key-size": lambda case: case.tensors["value"].shape[-1] != case.tensors["key"].shape[-1],
    "rank-2": lambda case: case.tensors["query"].ndim == 2,
    "rank-3": lambda case: case.tensors["query"].ndim == 3,
    "rank-5": lambda case: case.tensors["query"].ndim == 5,
    "no-keys": lambda case: _lengths(case)[1] == 0,
    "empty-rows": lambda case: "empty_rows" in case.features and bool((_output(case) == 0).all(axis=-1).any()),
    "poison-nan": lambda case: _has_poison(case, np.isnan),
    "poison-inf": lambda case: _has_poison(case, np.isinf),
    "poison-large": lambda case: "poison" in case.features and _largest(case.tensors["value"]) > 9e3,
    "poison-in-a-dropped-value": lambda case: "keep" in case.tensors and _has_poison(case, np.isnan),
    "visible-nan-or-inf": lambda case: case.nonfinite and not np.isfinite(_output(case)).all(),
    "needle": lambda case: "needle" in case.features,
    "exact": lambda case: "exact" in case.features,
    "bias": lambda case: case.options["bias"] is True,
    "softcap": lambda case: case.options["softcap"] is not None,
    "negative-scale": lambda case: (case.options["scale"] or 0) < 0,
    "segments": lambda case: '"segments"' in json.dumps(case.options["mask"]),
    "segments-per-batch-element": lambda case: '"query_ids": [[' in json.dumps(case.options["mask"]),
    "prefix": lambda case: '"prefix"' in json.dumps(case.options["mask"]),
    "chunked": lambda case: '"chunked"' in json.dumps(case.options["mask"]),
    "alibi-symmetric": lambda case: '"symmetric": true' in json.dumps(case.options["bias"]),
    "alibi-signed": lambda case: '"symmetric": false' in json.dumps(case.options["bias"]),
    "alibi-own-slopes": lambda case: '"slopes": [' in json.dumps(case.options["bias"]),
    "relative-bidirectional": lambda case: '"bidirectional": true' in json.dumps(case.options["bias"]),
    "relative-causal": lambda case: '"bidirectional": false' in json.dumps(case.options["bias"]),
    "bias-sum": lambda case: '"sum"' in json.dumps(case.options["bias"]),
    "sinks": lambda case: case.options["sinks"] and case.tensors["sinks"].ndim == 1,
    "sinks-without-heads": lambda case: case.options["sinks"] and case.tensors["sinks"].ndim == 0,
    "sinks-above-the-logits": lambda case: case.options["sinks"] and _largest(case.tensors["sinks"]) > 10,
    "sinks-with-empty-rows": lambda case: case.options["sinks"] and bool((_output(case) == 0).all(axis=-1).any()),
    "dropout": lambda case: case.options["dropout"] and not case.tensors["keep"].all(),
    "dropout-shared-by-the-batch": lambda case: case.options["dropout"] and case.tensors["keep"].ndim == 2,
    "dropout-and-sinks": lambda case: case.options["dropout"] and case.options["sinks"],
}


def _batch_and_heads(case: Case) -> tuple[int, int]:
    batch, heads = case.tensors["query"].shape[:2]
    return batch, heads


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_there_in_every_dtype(feature: str) -> None:
    forward = [case for case in CASES if case.operation == "dot_product_attention" and case.direction == "forward"]
    # The options came later: the oldest vectors do not name them.
    named = [replace(case, options={"sinks": False, "dropout": None, **case.options}) for case in forward]
    assert {case.dtype for case in named if FEATURES[feature](case)} == set(DTYPES)


BACKWARD: dict[str, Callable[[Case], bool]] = {
    "causal": lambda case: '"causal"' in json.dumps(case.options["mask"]),
    "segments": lambda case: '"segments"' in json.dumps(case.options["mask"]),
    "key-lengths": lambda case: '"key_lengths"' in json.dumps(case.options["mask"]),
    "softcap": lambda case: case.options["softcap"] is not None,
    "negative-scale": lambda case: (case.options["scale"] or 0) < 0,
    "bias-gradient": lambda case: "bias" in case.expected,
    "bias-summed-over-queries": lambda case: "bias" in case.expected and 1 in case.expected["bias"].shape[-2:],
    "bias-object": lambda case: isinstance(case.options["bias"], dict),
    "sinks-gradient": lambda case: "sinks" in case.expected,
    "dropout": lambda case: case.options["dropout"] is not None,
    "logsumexp-cotangent": lambda case: "logsumexp_cotangent" in case.tensors,
    "grouped-heads": lambda case: case.expected["key"].shape[-3] < case.tensors["query"].shape[-3],
    "empty-rows": lambda case: "empty_rows" in case.features and _zero_rows(case.expected["query"]),
    "poison": lambda case: not np.isfinite(case.tensors["key"].astype(np.float64)).all(),
}


def _zero_rows(gradient: Any) -> bool:
    return bool((gradient == 0).all(axis=-1).any())


@pytest.mark.parametrize("feature", BACKWARD)
def test_every_feature_of_gradients_is_there_in_every_dtype(feature: str) -> None:
    backward = [case for case in CASES if case.direction == "backward" and {"query", "key"} <= set(case.expected)]
    assert {case.dtype for case in backward if BACKWARD[feature](case)} == set(DTYPES)


WIDE_IN = {
    "attention_with_logsumexp": {"output_cotangent", "logsumexp_cotangent"},
    "merge_attention": {"logsumexps", "output_cotangent", "logsumexp_cotangent"},
}
"""What is float32 at least, where an operation has partial results."""
IDS = {
    "embedding": {"inputs"},
    "text_encoder": {"inputs"},
    "sequence_classifier": {"inputs"},
    "transformer": {"source", "target"},
}
"""What may be ids."""


def _dtypes_of(case: Case, name: str) -> set[Any]:
    """Name the dtypes that a tensor of a case may have."""
    own = DTYPES[case.dtype]
    if name.partition(".")[0] == "keep" or name in ("valid", "source_valid"):
        return {np.dtype(np.bool_)}
    if name == "cache.length" or (name == "positions" and case.operation == "sinusoidal_positions"):
        return {np.dtype(np.int64)}
    if name == "positions":
        return {np.dtype(np.int64), own}
    if name in WIDE_IN.get(case.operation, ()):
        return {DTYPES["float64" if case.dtype == "float64" else "float32"]}
    return {own, np.dtype(np.int64)} if name in IDS.get(case.operation, ()) else {own}


@each_case
def test_tensors_have_the_dtype_and_only_poison_is_not_finite(case: Case) -> None:
    for name, tensor in case.tensors.items():
        assert tensor.dtype in _dtypes_of(case, name), name
    for name, expected in case.expected.items():
        assert expected.dtype == np.float64
        if name == "logsumexp" and case.direction == "forward":
            assert not np.isnan(expected).any()
            assert not np.isposinf(expected).any()
        else:
            assert bool(np.isfinite(expected).all()) == (not case.nonfinite), name


RESULTS = {
    "attention_with_logsumexp": {"output", "logsumexp"},
    "merge_attention": {"output", "logsumexp"},
    "gated_attention_cell": {"outputs", "state.memory", "state.output"},
    "cached_multi_head_attention": {"output", "cache.key", "cache.value"},
}
"""The results of operations that give more than an output."""


@each_case
def test_the_results_are_those_that_the_operation_gives(case: Case) -> None:
    if case.direction == "forward":
        assert set(case.expected) == RESULTS.get(case.operation, {"output"})
        return
    # Noise chooses, and has no gradient; neither has what is not floating: ids, booleans, lengths.
    floating = {name for name, tensor in case.tensors.items() if tensor.dtype.kind not in "bi"}
    cotangents = {name for name in case.tensors if name.endswith("_cotangent")}
    assert cotangents == {f"{result}_cotangent" for result in case.cotangents()}
    assert set(case.expected) == floating - cotangents - {"positions", "noise"}
    assert {name: array.shape for name, array in case.expected.items()} == {
        name: case.tensors[name].shape for name in case.expected
    }


def test_a_logsumexp_of_minus_infinity_belongs_to_an_output_of_zeros() -> None:
    empty = 0
    for case in CASES:
        if case.direction == "forward" and "logsumexp" in case.expected:
            rows = np.isneginf(case.expected["logsumexp"])
            empty += int(rows.sum())
            assert (case.expected["output"][rows] == 0.0).all(), case.id
    assert empty > 100


@each_case
def test_a_case_and_its_payload_hold_the_same(case: Case) -> None:
    payload = read_tensors((VECTORS / f"{case.id}.safetensors").read_bytes())
    named = payload_of(case)
    assert set(named) == set(payload)
    assert all(named[name].tobytes() == payload[name].tobytes() for name in payload)


@pytest.mark.parametrize("case", [case for case in CASES if case.same_bits_as], ids=lambda case: case.id)
def test_twins_differ_in_their_inputs_and_not_in_what_is_expected(case: Case) -> None:
    twin = next(other for other in CASES if other.id == case.same_bits_as)
    assert (twin.options, twin.operation, twin.direction) == (case.options, case.operation, case.direction)
    assert set(twin.expected) == set(case.expected)
    assert all(twin.expected[name].tobytes() == case.expected[name].tobytes() for name in case.expected)
    changed = {name for name in case.tensors if twin.tensors[name].tobytes() != case.tensors[name].tobytes()}
    assert changed
    assert changed <= {"query", "key", "value", "outputs"}


# Levels: core is what everybody should pass.


@each_case
def test_what_only_tiles_or_rare_sizes_get_wrong_is_extended(case: Case) -> None:
    is_rare = "tile" in case.features or (case.operation == "dot_product_attention" and _is_of_a_rare_size(case))
    assert case.level == ("extended" if is_rare else "core")


def _is_of_a_rare_size(case: Case) -> bool:
    queries, (_, value_dim) = case.tensors["query"].shape[-2], case.tensors["value"].shape[-2:]
    return queries == 0 or value_dim > case.tensors["query"].shape[-1]


@pytest.mark.parametrize("tile", [16, 32, 64, 128])
def test_needles_stand_at_the_last_keys_of_every_tile_and_the_first_of_the_next(tile: int) -> None:
    (case,) = (case for case in CASES if case.id == "needle-tiles-float32")
    query, key = (case.tensors[name].astype(np.float64) for name in ("query", "key"))
    largest = set((query @ key.mT).argmax(axis=-1).ravel().tolist())
    assert {tile - 2, tile - 1, tile} <= largest


def test_lengths_stand_around_every_tile() -> None:
    (case,) = (case for case in CASES if case.id == "needle-lengths-tiles-float32")
    assert case.options["mask"]["lengths"] == [15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]


def test_products_exceed_float16_where_a_vector_says_so() -> None:
    (case,) = (case for case in CASES if case.id == "range-float16-scores-float16")
    query, key = case.tensors["query"].astype(np.float64), case.tensors["key"].astype(np.float64).repeat(3, axis=-3)
    products = query @ key.mT
    assert float(np.abs(products).max()) > 2 * 65504
    assert float(np.abs(case.options["scale"] * products).max()) < 20


def test_weights_that_are_one_copy_values_to_the_bit() -> None:
    (case,) = (case for case in CASES if case.id == "exact-one-hot-float32")
    values = {row.tobytes() for row in case.tensors["value"].reshape(-1, 5)}
    assert {row.astype(np.float32).tobytes() for row in case.expected["output"].reshape(-1, 5)} <= values


# What each vector must be able to do.


@functools.cache
def evaluated(identifier: str) -> Evaluation:
    """Compute the bounds of a case under its default profile, once: those of composed operations take a while."""
    (case,) = (case for case in CASES if case.id == identifier)
    return evaluate(case, default_profile(case.dtype))._replace(stages=None, stage_bounds=None)


@each_case
def test_the_default_profile_decides(case: Case) -> None:
    assert decides(evaluated(case.id))


WITHOUT_VALUES = {"sinusoidal_positions"} | {each.name for each in COMPOSED if "value" not in each.arguments}
"""Operations that average no values of their caller's."""


def _is_silent(cheat: str, case: Case) -> bool:
    """Say whether a cheat has nothing to give: no values to average, or no tensor that looks like the result."""
    if cheat == "mean_value":
        return case.direction == "backward" or case.operation in WITHOUT_VALUES
    if cheat == "echo" and case.direction == "forward" and case.operation in WITHOUT_VALUES - {"sinusoidal_positions"}:
        first = "source" if case.operation == "transformer" else "inputs"
        result = "outputs" if case.operation == "gated_attention_cell" else "output"
        return case.tensors[first].shape != case.expected[result].shape
    return False


@pytest.mark.parametrize("cheat", CHEATS)
@each_case
def test_cheats_are_rejected(case: Case, cheat: str) -> None:
    undecided = next(item["undecided"] for item in MANIFEST["cases"] if item["id"] == case.id)
    evaluation, results = evaluated(case.id), CHEATS[cheat](case)
    ratios = [largest_ratio(results[name], case.expected[name], evaluation.bounds[name]) for name in results]
    verdict = rejects(CHEATS[cheat], case, evaluation)
    if _is_silent(cheat, case):
        assert (verdict, ratios) == (None, [])
    elif cheat in undecided:
        assert verdict is False
        assert max(ratios) <= 1, f"declared undecided ({undecided[cheat]}), and rejected with {max(ratios)}"
    else:
        assert verdict is True
        assert max(ratios) > 4, f"{cheat} reaches only {max(ratios)} of the bound"


def test_every_vector_meets_three_cheats_and_most_meet_four() -> None:
    met = [sum(not _is_silent(cheat, case) for cheat in CHEATS) for case in CASES]
    assert min(met) == 3
    assert sum(number >= 4 for number in met) > 0.95 * len(met)


def _vanishes(case: Case, name: str) -> bool:
    """Say whether a gradient is 0: a key's bias shifts all logits of a row alike, unless keys are turned after it."""
    return name.endswith("key_bias") and case.options.get("rotary") is None


@pytest.mark.parametrize("cheat", ["zeros", "constant", "shuffled_rows"])
@pytest.mark.parametrize("case", [case for case in CASES if len(case.expected) > 1], ids=lambda case: case.id)
def test_every_result_alone_rejects_cheats(case: Case, cheat: str) -> None:
    evaluation, results = evaluated(case.id), CHEATS[cheat](case)
    for name, expected in case.expected.items():
        ratio = largest_ratio(results[name], expected, evaluation.bounds[name])
        # What has one axis has no rows.
        if _vanishes(case, name) or (cheat == "shuffled_rows" and expected.ndim == 1):
            assert ratio <= 1
        else:
            assert ratio > 3, f"{cheat} reaches only {ratio} of the bound of {name}"


def test_undecided_cheats_stay_rare() -> None:
    declared = [cheat for item in MANIFEST["cases"] for cheat in item["undecided"]]
    assert len(declared) < len(CASES) * len(CHEATS) / 30
    assert {item["id"].rsplit("-", 1)[0] for item in MANIFEST["cases"] if item["undecided"]} == {
        "one-key",
        "no-keys",
        "no-queries",
        "value-constant",
        "window-self",
    }


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
    assert sorted(map(_filled, again["cases"]), key=_id) == sorted(map(_filled, MANIFEST["cases"]), key=_id)
    for path in VECTORS.glob("*.safetensors"):
        assert (copy_of_vectors / path.name).read_bytes() == path.read_bytes(), path.name


def _id(item: dict[str, Any]) -> str:
    return str(item["id"])


def _filled(item: dict[str, Any]) -> dict[str, Any]:
    """Say what older entries leave out, from before there were gradients, sinks, dropout and faults to be caught."""
    options = {"sinks": False, "dropout": None, **item["options"]}
    return {"direction": "forward", "catches": [], **item, "options": options}

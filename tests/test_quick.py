"""The first look: small, and still something about every clause."""

from __future__ import annotations

import pytest

from attnspec.conformance import verify
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.composed_operations import COMPOSED, Composed
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.quick import DESIGNS, is_quick

QUICK = [case for case in shipped_cases() if is_quick(case)]


@pytest.mark.parametrize("clause", sorted({clause for case in shipped_cases() for clause in case.clauses}))
def test_every_clause_is_looked_at(clause: str) -> None:
    assert any(clause in case.clauses for case in QUICK)


def test_every_name_is_a_design_and_one_dtype_runs() -> None:
    assert sorted(case.id for case in QUICK) == sorted(f"{name}-float32" for name in DESIGNS)


def test_both_directions_and_every_operation_are_looked_at() -> None:
    assert {case.direction for case in QUICK} == {"forward", "backward"}
    assert {case.operation for case in QUICK} == {case.operation for case in shipped_cases()}


def test_one_vector_for_each_composed_operation() -> None:
    composed = [case.operation for case in QUICK if isinstance(OPERATIONS[case.operation], Composed)]
    assert sorted(composed) == sorted(operation.name for operation in COMPOSED)


def test_most_have_one_shape() -> None:
    shapes = [case.tensors["query"].shape for case in QUICK if case.operation == "dot_product_attention"]
    assert shapes.count((3, 6, 5, 7)) >= 0.8 * len(shapes)


def test_composed_operations_share_their_shapes_and_activation() -> None:
    layers = [case for case in QUICK if case.operation in ("layer_norm", "feed_forward", "encoder_layer", "encoder")]
    layers += [case for case in QUICK if case.operation in ("decoder_layer", "decoder")]
    assert {case.tensors["inputs"].shape for case in layers} == {(2, 5, 6)}
    assert {case.options["activation"] for case in layers if case.operation != "layer_norm"} == {"gelu"}


def test_quick_selects_in_python_too() -> None:
    report = verify("reference", quick=True)
    assert sorted(result.case for result in report.results) == sorted(case.id for case in QUICK)
    report.raise_if_failed()

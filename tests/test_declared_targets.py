"""Declared conventions: right functions conform in each of them, forward and backward, and nothing wrong is mended."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest
from declared_functions import attention, vjp_by_hand

from attnspec.conformance import (
    MissingFrameworkError,
    Status,
    backend_target,
    callable_target,
    target,
    verify,
)
from attnspec.conformance.backends import list_backends
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.isolation import run_isolated
from attnspec.conformance.results import Report
from attnspec.conformance.runner import Selection
from attnspec.conformance.targets import load_target

# ruff: noqa: ARG001, ARG005 - what a target takes is the subject, not what it does with it

Array = np.ndarray[Any, Any]

CASES = {case.id: case for case in shipped_cases()}
DTYPES = ("float32", "bfloat16")
FEW = ("grouped", "mask-heads", "bias-heads", "logsumexp", "gradient-grouped", "gradient-bias-heads")
"""Designs of every kind in few shapes: a new shape is compiled anew."""
SOME = (
    *FEW,
    *("causal-end", "softcap-bias", "sinks", "dropout", "poison-nan-lengths", "empty-lengths", "causal-rank-2"),
    *("rank-3", "causal-rank-5", "gradient-sinks", "gradient-dropout", "gradient-empty", "gradient-logsumexp"),
)
MASKS = ("true_attends", "true_is_ignored", "additive")
OPERATIONS = ("dot_product_attention", "attention_with_logsumexp")
CANNOT_HOLD = "the output is bfloat16, which cannot hold this case's cotangent in float32"


def ids(designs: tuple[str, ...], dtypes: tuple[str, ...] = DTYPES) -> list[str]:
    return [f"{design}-{dtype}" for design in designs for dtype in dtypes]


def check_conforms(report: Report, unsupported: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    report.raise_if_failed()
    reasons = {result.message for result in report.results if result.status is Status.UNSUPPORTED}
    assert reasons == unsupported


# Right functions.


CONVENTIONS = [
    (layout, mask) for layout in ("BHTD", "BTHD") for mask in ("true_attends", "true_is_ignored", "additive")
]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", ["BHTD", "BTHD"])
@pytest.mark.parametrize("framework", ["reference", "torch"])
def test_a_right_function_conforms_in_its_conventions(framework: str, layout: str, mask: str) -> None:
    said: dict[str, Any] = {"layout": layout, "mask": mask, "logsumexp": "natural" if mask == "additive" else "base2"}
    how = {"vjp": vjp_by_hand(**said)} if framework == "reference" else {"framework": framework}
    report = verify(target(**said, **how)(attention(framework, **said)), cases=ids(SOME))
    check_conforms(report, {CANNOT_HOLD} if framework == "torch" else set())
    assert {result.dtype for result in report.results if result.status is Status.PASS} == {*DTYPES}


BTHD: dict[str, Any] = {"layout": "BTHD", "mask": "additive", "logsumexp": "base2"}


def test_a_function_of_jax_conforms_in_its_conventions() -> None:
    frameworks.load("jax")
    import jax

    function = jax.jit(attention("jax", **BTHD), static_argnames=("scale", "softcap", "dropout_rate"))
    cases = [
        *ids(("grouped", "mask-heads", "logsumexp", "gradient-grouped"), ("float32",)),
        "gradient-grouped-bfloat16",
    ]
    check_conforms(verify(target(framework="jax", **BTHD)(function), cases=cases))


def test_a_function_of_tensorflow_conforms_in_its_conventions() -> None:
    function = attention("tensorflow", **BTHD)
    check_conforms(verify(target(framework="tensorflow", **BTHD)(function), cases=ids(FEW)))


def test_a_graph_of_tensorflow_conforms() -> None:
    frameworks.load("tensorflow")
    import tensorflow

    function = tensorflow.function(attention("tensorflow", **BTHD), autograph=False)
    cases = ["mask-heads-float32", "gradient-grouped-float32", "gradient-grouped-bfloat16"]
    check_conforms(verify(target(framework="tensorflow", **BTHD)(function), cases=cases))


@pytest.mark.parametrize("framework", ["reference", "torch"])
def test_every_core_case_of_an_attention(framework: str) -> None:
    said: dict[str, Any] = {"layout": "BTHD", "mask": "true_is_ignored", "logsumexp": "base2"}
    how = {"vjp": vjp_by_hand(**said)} if framework == "reference" else {"framework": framework}
    declared = target(**said, **how)(attention(framework, **said))
    report = verify(declared, operations=OPERATIONS, levels=["core"], dtypes=["float32"])
    report.raise_if_failed()
    assert {result.status for result in report.results} <= {Status.PASS, Status.QUALITY_WARNING}
    assert len(report.results) > 140


def test_a_function_that_returns_float32_takes_the_cotangent_of_a_partial_result() -> None:
    attn = frameworks.load("torch")

    @target(framework="torch")
    def partial(query: Any, key: Any, value: Any) -> Any:
        return tuple(attn.attention_with_logsumexp(query, key, value))

    check_conforms(verify(partial, cases="gradient-logsumexp-bfloat16"))


def test_structured_keywords_are_tensors_of_the_framework() -> None:
    frameworks.load("torch")
    import torch

    seen: dict[str, Any] = {}

    @target(framework="torch", layout="BTHD")
    def attention_with_lengths(query: Any, key: Any, value: Any, *, mask: Any = None, **given: Any) -> Any:
        seen.update(given)
        return attention("torch", layout="BTHD")(query, key, value, mask=mask)

    load_target(attention_with_lengths).run(
        CASES["both-lengths-float32"].call, dict(CASES["both-lengths-float32"].tensors)
    )
    assert seen["key_lengths"].tolist() == [7, 3]
    assert seen["key_lengths"].dtype == torch.int64


# The same functions, where what is declared is not so.

WRONG = {
    "layout": ({"layout": "BTHD"}, {"layout": "BHTD"}, "grouped"),
    "layout-the-other-way": ({}, {"layout": "BTHD"}, "grouped"),
    "mask-inverted": ({"mask": "true_is_ignored"}, {}, "mask-heads"),
    "mask-not-inverted": ({}, {"mask": "true_is_ignored"}, "mask-heads"),
    "mask-additive": ({}, {"mask": "additive"}, "mask-heads"),
    "mask-not-additive": ({"mask": "additive"}, {}, "mask-heads"),
    "base-2": ({"logsumexp": "base2"}, {}, "logsumexp"),
    "base-e": ({}, {"logsumexp": "base2"}, "logsumexp"),
    "layout-of-gradients": ({"layout": "BTHD"}, {"layout": "BHTD"}, "gradient-grouped"),
    "base-2-of-gradients": ({"logsumexp": "base2"}, {}, "gradient-logsumexp"),
    "base-e-of-gradients": ({}, {"logsumexp": "base2"}, "gradient-logsumexp"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("framework", ["reference", "torch"])
def test_a_wrong_declaration_is_rejected(framework: str, kind: str) -> None:
    true, said, design = WRONG[kind]
    how: dict[str, Any] = {"vjp": vjp_by_hand(**true)} if framework == "reference" else {"framework": framework}
    (right,) = verify(target(**true, **how)(attention(framework, **true)), cases=f"{design}-float32").results
    (wrong,) = verify(target(**said, **how)(attention(framework, **true)), cases=f"{design}-float32").results
    assert right.status is Status.PASS
    assert wrong.status in (Status.FAIL, Status.ERROR)
    assert wrong.message


def test_a_wrong_output_stays_wrong_in_every_convention() -> None:
    for said in ({"layout": "BTHD"}, {"mask": "additive"}, {"logsumexp": "base2"}, {"ranks": (4,)}):
        declared = target(**said)(lambda query, key, value: np.zeros_like(query))  # type: ignore[arg-type]
        (result,) = verify(declared, cases="square-float32").results
        assert result.status is Status.FAIL


@pytest.mark.parametrize("layout", ["BHTD", "BTHD"])
def test_a_shape_is_not_mended(layout: str) -> None:
    declared = target(layout=layout)(lambda query, key, value: query[0])
    (result,) = verify(declared, cases="square-float32").results
    assert result.message.startswith("the output has shape (")
    assert result.status is Status.FAIL


def test_a_half_precision_logsumexp_is_not_mended() -> None:
    @target(logsumexp="base2")
    def half(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        output, level = attention("reference", logsumexp="base2")(query, key, value)
        return output, level.astype(np.float16)

    (result,) = verify(half, cases="logsumexp-float16").results
    assert (result.status, result.message) == (
        Status.FAIL,
        "the logsumexp has dtype float16; expected float32 or float64 (S16)",
    )


# What arrives.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("framework", frameworks.MODULES)
def test_what_arrives(framework: str, dtype: str) -> None:
    frameworks.load(framework)
    seen: dict[str, Any] = {}

    @target(framework=None if framework == "reference" else framework, layout="BTHD", mask="additive")
    def recorded(query: Any, key: Any, value: Any, *, mask: Any = None) -> Any:
        seen.update(query=query, key=key, value=value, mask=mask)
        return query

    case = CASES[f"mask-heads-{dtype}"]
    load_target(recorded).run(case.call, dict(case.tensors))
    kinds = {"reference": "numpy", "torch": "torch", "tensorflow": "tensorflow.python", "jax": "jax"}
    for name, array in seen.items():
        assert type(array).__module__.startswith(kinds[framework]), name
        assert frameworks_dtype(array) == dtype, name
    assert tuple(seen["query"].shape) == (3, 5, 6, 7)
    assert tuple(seen["key"].shape) == (3, 11, 2, 7)
    assert tuple(seen["mask"].shape) == (1, 6, 5, 11)
    found = np.asarray(callable_target.to_numpy(seen["query"]))
    assert found.tobytes() == np.ascontiguousarray(np.swapaxes(case.tensors["query"], 1, 2)).tobytes()
    mask = np.asarray(callable_target.to_numpy(seen["mask"])).astype(np.float32)
    np.testing.assert_array_equal(mask, np.where(case.call_options()["mask"].array, 0.0, -np.inf).reshape(mask.shape))


def frameworks_dtype(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def test_the_inverted_mask_is_boolean() -> None:
    seen: list[Array] = []

    @target(mask="true_is_ignored")
    def recorded(query: Array, key: Array, value: Array, *, mask: Array) -> Array:
        seen.append(mask)
        return query

    case = CASES["mask-heads-float32"]
    load_target(recorded).run(case.call, dict(case.tensors))
    assert seen[0].dtype == np.bool_
    np.testing.assert_array_equal(seen[0], ~case.call_options()["mask"].array.reshape(seen[0].shape))


def test_numpy_arrays_arrive_read_only_in_every_layout() -> None:
    @target(layout="BTHD", mask="additive")
    def writing(query: Array, key: Array, value: Array, *, mask: Array) -> Array:
        mask[...] = 0
        return query

    (result,) = verify(writing, cases="mask-heads-float32").results
    assert (result.status, result.message) == (Status.ERROR, "ValueError: assignment destination is read-only")


@pytest.mark.parametrize("layout", ["BHTD", "BTHD"])
def test_an_array_that_is_changed_by_force_is_found(layout: str) -> None:
    @target(layout=layout)
    def forcing(query: Array, key: Array, value: Array) -> Array:
        key.flags.writeable = True
        key *= 2
        return query

    (result,) = verify(forcing, cases="square-float32").results
    assert (result.status, result.message) == (Status.FAIL, "the target changed its input `key` (S17)")


@pytest.mark.parametrize("layout", ["BHTD", "BTHD"])
def test_a_changed_tensor_is_found(layout: str) -> None:
    right = attention("torch", layout=layout)

    @target(framework="torch", layout=layout)
    def writing(query: Any, key: Any, value: Any) -> Any:
        output, _ = right(query, key, value)
        key.mul_(2)
        return output

    (result,) = verify(writing, cases="grouped-float32").results
    assert (result.status, result.message) == (Status.FAIL, "the target changed its input `key` (S17)")


def test_a_changed_mask_is_found() -> None:
    @target(framework="torch", mask="additive")
    def writing(query: Any, key: Any, value: Any, *, mask: Any) -> Any:
        mask.zero_()
        return query

    (result,) = verify(writing, cases="mask-heads-float32").results
    assert (result.status, result.message) == (Status.FAIL, "the target changed its input `mask` (S17)")


# Names, versions, profiles.


def test_name_version_and_profiles() -> None:
    function = target(name="mine", version="1.2", profile="bf16_eager")(attention("reference"))
    found = load_target(function)
    assert (found.name, found.version, found.profiles) == ("mine", "mine 1.2", {"bfloat16": "bf16_eager"})
    results = verify(function, cases=["square-float32", "square-bfloat16"]).results
    assert {(result.target, result.profile) for result in results} == {("mine", "fp32"), ("mine", "bf16_eager")}
    said = {"bfloat16": "bf16_eager", "float32": "fp32_tf32"}
    assert load_target(target(profile=said)(attention("reference"))).profiles == said


def test_a_framework_is_part_of_the_version() -> None:
    frameworks.load("torch")
    (version,) = (backend.version for backend in list_backends() if backend.name == "torch")
    assert load_target(target(framework="torch")(attention("torch"))).version == f"Python callable, PyTorch {version}"


# A declaration changes nothing of the function.


def test_the_function_stays_what_it_is() -> None:
    def function(query: Array, key: Array, value: Array) -> Array:
        return query + 1

    declared = target(layout="BTHD", mask="additive")(function)
    assert declared is function
    assert declared(np.float32(2), 0, 0) == 3


class Attention:
    """A layer with a declared method."""

    @target(layout="BTHD", name="method")
    def attend(self, query: Array, key: Array, value: Array) -> Array:
        return attention("reference", layout="BTHD")(query, key, value)[0]


def test_methods_partials_and_wrappers() -> None:
    check_conforms(verify(Attention().attend, cases="grouped-float32"))
    assert load_target(Attention().attend).name == "method"
    right = attention("reference", layout="BTHD")
    check_conforms(verify(target(layout="BTHD")(functools.partial(right, bias=None)), cases="grouped-float32"))

    @functools.wraps(target(layout="BTHD")(right))
    def wrapper(*args: Any, **given: Any) -> Any:
        return right(*args, **given)

    check_conforms(verify(wrapper, cases="grouped-float32"))


def test_no_framework_is_imported_by_a_declaration() -> None:
    code = (
        "import sys; from attnspec.conformance import target; target(framework='torch')(lambda q, k, v: q);"
        "assert not {'torch', 'tensorflow', 'jax', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_framework_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch = [
        backend._replace(version=None) if backend.name == "torch" else backend for backend in list_backends()
    ]
    monkeypatch.setattr(backend_target, "list_backends", lambda: without_torch)
    with pytest.raises(
        MissingFrameworkError,
        match=r"^target 'attend' needs PyTorch; install it with: pip install 'attnspec\[torch\]'$",
    ):

        @load_target
        @target(framework="torch")
        def attend(query: Any, key: Any, value: Any) -> Any: ...


SOURCE = """
import numpy as np
from attnspec.conformance import target

@target(layout="BTHD", name="mine", version="7", dtypes=["float32"], ranks=[4])
def attention(query, key, value, *, scale=None):
    query, key, value = (np.swapaxes(array, 1, 2) for array in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    scores = query @ np.repeat(key, groups, 1).mT * np.float32(scale or query.shape[-1] ** -0.5)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    output = weights / weights.sum(-1, keepdims=True) @ np.repeat(value, groups, 1)
    return np.swapaxes(output, 1, 2)
"""


def test_a_declared_function_in_a_file_runs_in_its_own_process(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf8")
    cases = frozenset({"grouped-float32", "grouped-float16", "rank-3-float32", "scale-zero-float32"})
    report = run_isolated([f"{path}:attention"], Selection(cases=cases))
    assert {result.case: result.status for result in report.results} == {
        "grouped-float32": Status.PASS,
        "grouped-float16": Status.UNSUPPORTED,
        "rank-3-float32": Status.UNSUPPORTED,
        "scale-zero-float32": Status.UNSUPPORTED,
    }
    assert report.versions[f"{path}:attention"] == "mine 7"

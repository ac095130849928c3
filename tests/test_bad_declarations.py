"""What a declaration leaves out, and declarations that cannot be."""

from __future__ import annotations

import math
from typing import Any

import frameworks
import numpy as np
import pytest
from declared_functions import attention

from attnspec.conformance import (
    Status,
    TargetError,
    UnsupportedCaseError,
    callable_target,
    target,
    verify,
)
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.targets import CallableTarget, load_target

# ruff: noqa: ARG001, ARG005 - what a target takes is the subject, not what it does with it

Array = np.ndarray[Any, Any]

CASES = {case.id: case for case in shipped_cases()}


# What is declared not to be there.


@pytest.mark.parametrize(
    ("said", "case", "reason"),
    [
        ({"dtypes": ["float16"]}, "square-float32", "the function is declared for float16 only"),
        ({"dtypes": ["float16", "bfloat16"]}, "square-bfloat16", None),
        ({"ranks": [4]}, "rank-3-float32", "the function is declared for queries with 4 axes only"),
        ({"ranks": [2, 3]}, "square-float32", "the function is declared for queries with 2 or 3 axes only"),
        ({"ranks": [2, 3]}, "rank-3-float32", None),
        ({"logsumexp": None}, "logsumexp-float32", "the function is declared to return no logsumexp"),
        ({"logsumexp": None}, "square-float32", None),
        ({}, "gradient-grouped-float32", "a plain callable gives no gradients"),
        ({"framework": "torch"}, "gradient-grouped-float32", None),
        (
            {"framework": "torch", "gradients": ()},
            "gradient-grouped-float32",
            "the function is declared to have no gradient of `query`",
        ),
        (
            {"framework": "torch", "gradients": ("query", "key", "value")},
            "gradient-bias-heads-float32",
            "the function is declared to have no gradient of `bias`",
        ),
        (
            {"framework": "torch", "gradients": ("query", "key", "value")},
            "gradient-grouped-float32",
            None,
        ),
        ({"framework": "jax"}, "square-float64", "JAX runs without 64-bit numbers (jax_enable_x64)"),
    ],
)
def test_what_is_not_declared_is_unsupported(
    said: dict[str, Any], case: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "framework" in said:
        frameworks.load(said["framework"])
    monkeypatch.setattr(callable_target, "jax_has_64_bit", lambda: False)
    declared = target(**said)(lambda query, key, value, *, bias=None: query)
    assert load_target(declared).unsupported(CASES[case]) == reason


def test_a_function_may_say_itself_that_it_does_not_do_this() -> None:
    def picky(query: Array, key: Array, value: Array) -> Array:
        raise UnsupportedCaseError("sizes above 4")

    (result,) = verify(picky, cases="square-float32").results
    assert (result.status, result.message) == (Status.UNSUPPORTED, "sizes above 4")


def test_a_second_result_that_is_no_logsumexp() -> None:
    def with_weights(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        output, _ = attention("reference")(query, key, value)
        return output, np.zeros((*query.shape[:-1], key.shape[-2]), query.dtype)

    cases = ["square-float32", "logsumexp-float32"]
    assert not verify(with_weights, cases=cases).conforms
    report = verify(target(logsumexp=None)(with_weights), cases=cases)
    assert report.conforms
    assert [result.status for result in report.results] == [Status.PASS, Status.UNSUPPORTED]


# Wrong declarations.

NO_VJP = "@target: gradients= says which there are, and needs framework= or vjp= to get them"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"framework": "numpy"}, "@target: framework must be 'torch', 'tensorflow' or 'jax'; got 'numpy'"),
        ({"framework": np}, f"@target: framework must be 'torch', 'tensorflow' or 'jax'; got {np!r}"),
        ({"layout": "BHDT"}, "@target: layout must be 'BHTD' or 'BTHD'; got 'BHDT'"),
        ({"layout": None}, "@target: layout must be 'BHTD' or 'BTHD'; got None"),
        ({"mask": "bool"}, "@target: mask must be 'true_attends', 'true_is_ignored' or 'additive'; got 'bool'"),
        ({"logsumexp": "base10"}, "@target: logsumexp must be 'natural' or 'base2'; got 'base10'"),
        ({"profile": 3}, "@target: profile must be the name of a profile, or names by dtype; got 3"),
        (
            {"profile": "bf16"},
            (
                "@target: profile must be 'fp64', 'fp32', 'fp32_tf32', 'bf16_flash', 'bf16_eager', 'fp16_flash' or "
                "'fp16_eager'; got 'bf16'"
            ),
        ),
        (
            {"profile": {"float8": "fp32"}},
            "@target: profile: a dtype must be 'float64', 'float32', 'bfloat16' or 'float16'; got 'float8'",
        ),
        (
            {"profile": {"float16": "bf16_flash"}},
            "@target: profile of float16 must be 'fp16_flash' or 'fp16_eager'; got 'bf16_flash'",
        ),
        ({"vjp": "fn"}, "@target: vjp must be a function; got 'fn'"),
        ({"gradients": ["query"]}, NO_VJP),
        (
            {"gradients": "query", "framework": "torch"},
            "@target: gradients must be several of query, key, value, bias, sinks, as a tuple; got 'query'",
        ),
        (
            {"gradients": ["dq"], "framework": "torch"},
            "@target: each of gradients must be 'query', 'key', 'value', 'bias' or 'sinks'; got 'dq'",
        ),
        (
            {"dtypes": ["half"]},
            "@target: each of dtypes must be 'float64', 'float32', 'bfloat16' or 'float16'; got 'half'",
        ),
        ({"dtypes": []}, "@target: dtypes must name at least one; got ()"),
        ({"dtypes": 16}, "@target: dtypes must be several of float64, float32, bfloat16, float16, as a tuple; got 16"),
        ({"ranks": [1]}, "@target: each of ranks must be 2, 3, 4 or 5; got 1"),
        ({"ranks": [4.0]}, "@target: each of ranks must be 2, 3, 4 or 5; got 4.0"),
        ({"ranks": 4}, "@target: ranks must be several of 2, 3, 4, 5, as a tuple; got 4"),
        ({"name": ""}, "@target: name must be a text that is not empty; got ''"),
        ({"version": 2}, "@target: version must be a text that is not empty; got 2"),
    ],
)
def test_what_cannot_be_declared(said: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError) as caught:
        target(**said)
    assert str(caught.value) == message


def test_what_cannot_be_decorated() -> None:
    with pytest.raises(TargetError, match=r"^@target: only a function can be declared; got 3$"):
        target(layout="BTHD")(3)  # type: ignore[type-var]
    with pytest.raises(TargetError, match=r"takes no attributes; wrap it in a function of your own$"):
        target(layout="BTHD")(math.sqrt)


def test_a_vjp_whose_signature_fits_nothing() -> None:
    def three(query: Array, key: Array, value: Array) -> None: ...

    def demanding(query: Array, key: Array, value: Array, output_cotangent: Array, *, output: Array) -> None: ...

    function = attention("reference")
    with pytest.raises(
        TargetError, match=r"^the vjp of mine must take query, key, value and output_cotangent; its sig"
    ):
        CallableTarget("mine", target(vjp=three)(function))
    with pytest.raises(
        TargetError, match=r"^the vjp of mine demands `output`, which no case gives; beside query, key, "
    ):
        CallableTarget("mine", target(vjp=demanding)(function))

"""Gradients of a callable by its own vjp: what that gets, and what it may lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import frameworks
import numpy as np
import pytest
from declared_functions import attention, vjp_by_hand

from attnspec.conformance import (
    Status,
    target,
    verify,
)
from attnspec.conformance.cases import shipped_cases
from attnspec.conformance.targets import load_target

# ruff: noqa: ARG001, ARG005 - what a target takes is the subject, not what it does with it

Array = np.ndarray[Any, Any]

CASES = {case.id: case for case in shipped_cases()}


# Gradients by hand.


def gradients_of(vjp: Callable[..., Any], case: str, **said: Any) -> Any:
    return verify(target(vjp=vjp, **said)(attention("reference")), cases=case).results[0]


def test_a_vjp_gets_the_keywords_that_it_names() -> None:
    seen: list[str] = []

    def vjp(query: Array, key: Array, value: Array, output_cotangent: Array, *, mask: Any = None, **given: Any) -> Any:
        seen.extend(["mask"] * (mask is not None) + list(given))
        return {}

    def only_mask(query: Array, key: Array, value: Array, output_cotangent: Array, *, mask: Any = None) -> Any:
        seen.append(f"mask {mask.shape}")
        return {}

    gradients_of(vjp, "gradient-decode-float32")
    assert seen == ["key_lengths"] * 2
    gradients_of(only_mask, "gradient-decode-float32")
    assert seen[2:] == ["mask (3, 1, 1, 19)"] * 2


PLAIN, PARTIAL = "gradient-grouped-float32", "gradient-logsumexp-float32"


def without(*names: str) -> Callable[..., Any]:
    vjp = vjp_by_hand()
    return lambda *args, **given: {n: g for n, g in vjp(*args, **given).items() if n not in names}


@pytest.mark.parametrize(
    ("vjp", "case", "said", "status", "message"),
    [
        pytest.param(without("value"), PLAIN, {}, Status.FAIL, "the gradient of `value` is missing", id="missing"),
        pytest.param(
            lambda *args, **given: vjp_by_hand()(*args, **given) | {"key": None},
            PLAIN,
            {},
            Status.FAIL,
            "the gradient of `key` is missing",
            id="none",
        ),
        pytest.param(
            without("value"),
            PLAIN,
            {"gradients": ("query", "key")},
            Status.UNSUPPORTED,
            "the function is declared to have no gradient of `value`",
            id="declared",
        ),
        pytest.param(
            lambda q, k, v, output_cotangent: {},
            PARTIAL,
            {},
            Status.UNSUPPORTED,
            "the vjp takes no `logsumexp_cotangent`",
            id="one-result",
        ),
        pytest.param(
            lambda q, k, v, output_cotangent: {},
            "gradient-sinks-float32",
            {},
            Status.UNSUPPORTED,
            "the vjp takes no `sinks`",
            id="keyword",
        ),
        pytest.param(
            lambda q, k, v, g, mask: {},
            PLAIN,
            {},
            Status.UNSUPPORTED,
            "the vjp demands `mask`, which this case does not give",
            id="demand",
        ),
        pytest.param(
            lambda q, k, v, output_cotangent: (q, k, v),
            PLAIN,
            {},
            Status.ERROR,
            "TypeError: the vjp must return gradients by name, in a mapping; got tuple",
            id="tuple",
        ),
        pytest.param(
            lambda q, k, v, output_cotangent: {"q": q},
            PLAIN,
            {},
            Status.ERROR,
            "TypeError: the vjp returned a gradient of 'q'; the names are query, key, value, bias, sinks",
            id="unknown-name",
        ),
        pytest.param(
            lambda q, k, v, output_cotangent: {"query": [1.0]},
            PLAIN,
            {},
            Status.ERROR,
            "TypeError: the gradient of `query` must be an array; got list",
            id="no-array",
        ),
    ],
)
def test_what_a_vjp_may_lack(
    vjp: Callable[..., Any], case: str, said: dict[str, Any], status: Status, message: str
) -> None:
    result = gradients_of(vjp, case, **said)
    assert (result.status, result.message) == (status, message)


@pytest.mark.parametrize("framework", ["reference", "torch"])
def test_a_bias_with_fewer_axes_has_a_gradient_of_its_own_shape(framework: str) -> None:
    how: dict[str, Any] = {"vjp": vjp_by_hand()} if framework == "reference" else {"framework": framework}
    declared = load_target(target(**how)(attention(framework)))
    call = CASES["gradient-bias-heads-float32"].call
    fewer = dataclasses.replace(call, tensors={**call.tensors, "bias": call.tensors["bias"][0]})
    found, expected = (declared.run(one, dict(one.tensors))["bias"] for one in (fewer, call))
    assert (found.shape, expected.shape) == ((6, 5, 11), (1, 6, 5, 11))
    np.testing.assert_array_equal(found, expected[0])


def test_exchanged_gradients_are_rejected() -> None:
    def vjp(*args: Any, **given: Any) -> dict[str, Array]:
        found = vjp_by_hand()(*args, **given)
        return found | {"key": found["value"], "value": found["key"]}

    result = gradients_of(vjp, "gradient-plain-float32")
    assert result.status is Status.FAIL
    assert result.message.startswith(("the gradient of `key`", "the gradient of `value`", "at ["))


def test_a_gradient_in_another_dtype_is_rejected() -> None:
    def vjp(*args: Any, **given: Any) -> dict[str, Array]:
        return {name: array.astype(np.float32) for name, array in vjp_by_hand()(*args, **given).items()}

    result = gradients_of(vjp, "gradient-grouped-bfloat16")
    assert result.status is Status.FAIL
    assert result.message.endswith("has dtype float32; expected bfloat16 (S16)")


def test_a_vjp_comes_before_the_framework() -> None:
    frameworks.load("torch")
    import torch

    seen: list[Any] = []

    def vjp(query: Any, key: Any, value: Any, output_cotangent: Any) -> dict[str, Any]:
        seen.append(output_cotangent)
        return {"query": query, "key": key, "value": value}

    target_ = load_target(target(framework="torch", layout="BTHD", vjp=vjp)(attention("torch", layout="BTHD")))
    case = CASES["gradient-grouped-bfloat16"]
    found = target_.run(case.call, dict(case.tensors))
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].shape == (*np.swapaxes(case.tensors["output_cotangent"], 1, 2).shape,)
    for name, gradient in found.items():
        assert gradient.tobytes() == case.tensors[name].tobytes()


def test_a_function_without_a_gradient_says_so_when_it_is_differentiated() -> None:
    right = attention("torch")

    @target(framework="torch")
    def detached(query: Any, key: Any, value: Any) -> Any:
        return right(query, key, value)[0].detach()

    (result,) = verify(detached, cases=PLAIN).results
    assert result.status is Status.ERROR
    assert "does not require grad" in result.message

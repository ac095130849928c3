"""The shared vectors under plain pytest: one test for each vector and backend, judged by the runner that users run.

A test passes where `attnspec verify` would: every result, or gradient, lies within its derived bound and has its dtype,
a second call gives the same bits, unread entries change no bit, and the inputs come back as they were.
"""

from __future__ import annotations

import functools
from typing import Any

import frameworks
import pytest

from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.results import Status
from attnspec.conformance.runner import run_case
from attnspec.conformance.targets import Target, load_target

OUTPUTS: dict[str, dict[str, Any]] = {name: {} for name in frameworks.MODULES}
"""What each backend has computed so far: a poisoned vector is compared with its clean twin."""


@functools.cache
def target_of(name: str) -> Target:
    frameworks.load(name)
    return load_target(name)


def is_held_elsewhere(name: str, case: Case) -> bool:
    """JAX compiles every gradient anew, a second or two each: in float64 they are held by test_backend_gradients.

    Those of the operations beside the core are held by the tests of these operations (test_blocks and so on).
    """
    return name == "jax" and case.direction == "backward" and case.dtype == "float64"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{case.id}")
        for name in frameworks.MODULES
        for case in shipped_cases()
        if not is_held_elsewhere(name, case)
    ],
)
def test_vector(name: str, case: Case) -> None:
    result = run_case(target_of(name), case, None, OUTPUTS[name])
    assert result.status in (Status.PASS, Status.QUALITY_WARNING), f"{result.status}: {result.message}"
    assert result.ratio is not None
    assert result.ratio <= 1.0

"""The shared vectors under plain pytest: one test for each vector and backend, judged by the runner that users run.

A test passes where `attnspec verify` would: every result, or gradient, lies within its derived bound and has its dtype,
a second call gives the same bits, unread entries change no bit, and the inputs come back as they were.
"""

from __future__ import annotations

import functools

import frameworks
import pytest

from attnspec.conformance.cases import Case, shipped_cases
from attnspec.conformance.judgement import Judge
from attnspec.conformance.results import Status
from attnspec.conformance.runner import run_case
from attnspec.conformance.targets import Target, load_target


@functools.cache
def target_of(name: str) -> tuple[Target, Judge]:
    """Load a backend. Its judge knows what it has computed so far, for the cases that have twins."""
    frameworks.load(name)
    target = load_target(name)
    return target, Judge(target.name, target.profiles, None)


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
    target, judge = target_of(name)
    result = run_case(target, case, judge)
    assert result.status in (Status.PASS, Status.QUALITY_WARNING), f"{result.status}: {result.message}"
    assert result.ratio is not None
    assert result.ratio <= 1.0

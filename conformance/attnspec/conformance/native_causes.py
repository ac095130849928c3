"""Why native attentions deviate: each cause with its clause, a few lines that show it, and the cases that it explains.

Every failing case of `python -m attnspec.conformance.findings` must belong to one of them. The reproducers are run by
tests/test_natives.py: what stands behind a `print(…)` is what it prints.
"""

from __future__ import annotations

from .native_cause import Cause as Cause
from .native_causes_frameworks import FRAMEWORK_CAUSES
from .native_causes_onnx import ONNX_CAUSES
from .results import Result

CAUSES: tuple[Cause, ...] = (*FRAMEWORK_CAUSES, *ONNX_CAUSES)
"""In the order in which they are asked."""


def cause_of(result: Result) -> Cause | None:
    """Return the first cause that explains a failing result."""
    return next((cause for cause in CAUSES if result.target in cause.targets and cause.covers(result)), None)

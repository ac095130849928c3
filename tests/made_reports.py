"""Small reports for the tests of what is made of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from attnspec.conformance import Report, Result, Status, verify
from attnspec.conformance.faults import FAULTS
from attnspec.conformance.results import CaseMap, Diagnosis, Largest, Run

SUITE, MANIFEST = "0.1.0", "ab" * 32
HOSTILE = "<script>alert('target')</script>"
HOSTILE_MESSAGE = (
    "<img src=x onerror=alert(1)> </script><script>document.title='owned'</script> | `a` [b](javascript:c) \x00\x1b[31m"
)


def result(
    case: str = "square-float32",
    status: Status = Status.PASS,
    ratio: float | None = 0.25,
    *,
    target: str = "mine",
    clauses: tuple[str, ...] = ("S1",),
    **more: Any,
) -> Result:
    """Make a result at float32."""
    given = {"dtype": "float32", "profile": "fp32", "message": "", "seconds": 0.5, **more}
    return Result(
        target=target,
        case=case,
        operation="dot_product_attention",
        clauses=clauses,
        status=status,
        ratio=ratio,
        **given,
    )


def report(*results: Result, **more: Any) -> Report:
    """Make a report of one run."""
    targets = tuple(dict.fromkeys(one.target for one in results))
    versions = {"attnspec": "0.1.0", "python": "3.11.7", "numpy": "2.4.0"} | dict.fromkeys(targets, "Framework 1.2.3")
    profiles = {target: {"float32": "fp32"} for target in targets}
    run = Run(targets, versions, profiles, "Linux x86_64, 2 cores", "2026-01-02T03:04:05Z")
    return Report(tuple(results), versions, **{"runs": (run,), "suite": SUITE, "manifest": MANIFEST, **more})


def diagnosis(*cases: str, target: str = "mine", **more: Any) -> Diagnosis:
    """Make a diagnosis of some cases."""
    given = {
        "cause": "heads tiled",
        "explanation": "on 2 of 2 failing cases the output equals *heads tiled*",
        "clause": "S12",
        "failing": len(cases),
        "ratio": 0.3,
        "reproducer": "import numpy as np\nprint(1 < 2)\n",
        **more,
    }
    return Diagnosis(target=target, cases=cases, **given)


def every_kind() -> Report:
    """Make a report with every status, numbers that JSON lacks, a map, a diagnosis, and hostile text."""
    nan, inf = float("nan"), float("inf")
    largest = Largest("output", (0, 1, 2), nan, 1.5, 0.0)
    return report(
        result("square-float32", message="", rms=0.125, bias=-0.0625),
        result("grouped-float32", Status.FAIL, inf, message=HOSTILE_MESSAGE, rms=inf, bias=nan, largest=largest),
        result("no-keys-float32", Status.UNSUPPORTED, None, message="the function takes no `mask`"),
        result("window-float32", Status.QUALITY_WARNING, 0.9, clauses=("S7",), message="at [0] got 1, expected 2 ± 3"),
        result("causal-end-float32", Status.ERROR, None, clauses=("S7",), message="ValueError: no\nsecond line"),
        result("segments-float32", Status.CRASH, None, clauses=("S9",), message="ended by signal SIGSEGV"),
        result("sinks-float32", Status.TIMEOUT, None, clauses=("S13",), message="no answer within 60 s"),
        result("softcap-float32", Status.NONDETERMINISTIC, 0.5, message="other bits"),
        result("square-float32", target=HOSTILE),
        result("grouped-float32", Status.FAIL, 3.0, target=HOSTILE, message=HOSTILE_MESSAGE, weakest="fp32_tf32"),
        missing=(f"{HOSTILE} is required",),
        diagnoses=(
            diagnosis("grouped-float32", cause=HOSTILE, explanation=HOSTILE_MESSAGE, reproducer=HOSTILE_MESSAGE),
        ),
        maps=(
            CaseMap(
                "mine",
                "grouped-float32",
                "output",
                (0,),
                (0, 2),
                ((0.5, -3.0), (inf, nan)),
                ((1e-6, 2e-6), (0.0, 1e-6)),
                ((0.25, None), (0.75, 1.0)),
            ),
        ),
    )


@functools.cache
def real() -> Report:
    """Run the reference and a faulty attention, with hostile names, on some cases."""
    fault = next(each.attention for each in FAULTS if each.name == "heads-tiled")

    def tiled(query: Any, key: Any, value: Any, **options: Any) -> Any:
        return fault(query, key, value, **options)

    tiled.__name__ = "kernels.tiled"

    def raising(query: Any, key: Any, value: Any) -> Any:  # noqa: ARG001 - what a target takes
        raise ValueError(HOSTILE_MESSAGE)

    raising.__name__ = HOSTILE
    with np.errstate(all="ignore"):
        return verify(["reference", tiled, raising], clauses=["S1", "S12"], dtypes=["float32", "bfloat16"])

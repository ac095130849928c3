"""What the suite says about every native attention that is installed.

`python -m attnspec.conformance.findings docs/findings.md` runs the whole suite on each, finds a cause for every case
that fails, and writes the measured part of that page. A failing case without a known cause is an error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .calls import DTYPES
from .isolation import run_isolated
from .measured_pages import replace_measured
from .native_causes import CAUSES, Cause, cause_of
from .natives import NATIVE_NAMES, NATIVES
from .partial_sums import measure_partial_sums
from .profiles import DEFAULT_PROFILES
from .results import CONFORMING, Report, Result, Status
from .runner import Selection
from .tables import show_ratio

_WORDS: tuple[tuple[str, str], ...] = (
    (r"draws its own dropout", "dropout"),
    (r"gives no gradients", "gradients"),
    (r"No viable backend|No available kernel", "what this kernel does not take"),
    (r"none that share keys", "grouped heads"),
    (r"not single pairs", "masks of single pairs"),
    (r"has attn_logits_soft_cap", "softcap"),
    (r"values of the keys' size", "values of another size than keys"),
    (r"projects everything to the query's size", "projections to other sizes"),
    (r"carry what is not finite", "NaN and Inf"),
    (r"no projections of queries and keys", "projections"),
    (r"Could not find an implementation", "bfloat16"),
    (r" has no ([\w ]+)$", r"\1"),
)
"""From the reasons of adapters to the words of a summary line."""


def page(report: Report, partial_sums: str) -> str:
    """Return the page's measured part.

    Raises:
        ValueError: a failing case has no known cause.
    """
    causes = _causes(report)
    names = [name for name in NATIVE_NAMES if name in {result.target for result in report.results}]
    parts = [
        f"Measured with attnspec {report.versions['attnspec']} and {len(_cases(report))} vectors.",
        "",
        "### In short",
        "",
    ]
    parts += [f"- {summary_line(name, report)}" for name in names]
    parts += ["", "### Deviations", "", *(_show(cause, causes[cause.id]) for cause in CAUSES if cause.id in causes)]
    parts += ["### Beside the vectors", "", partial_sums, "", "### By clause and dtype", "", _LEGEND, ""]
    parts += [_section(name, report) for name in names]
    return "\n".join(parts).strip()


def summary_line(name: str, report: Report) -> str:
    """Say in one line, to be pasted, what a native conforms to, where it deviates, and what it does not take."""
    results = list(report.select(name))
    decided = [result for result in results if result.status is not Status.UNSUPPORTED]
    head = f"**{name}** ({report.versions[name]})"
    left_out = _unsupported(name, results)
    tail = f"; unsupported: {', '.join(left_out)}" if left_out else ""
    if not decided:
        return f"{head}: no case decided{tail}"
    failed = [result for result in decided if result.status not in CONFORMING]
    found = {cause.id: cause for cause in map(cause_of, failed) if cause is not None}
    ordered = sorted(found.values(), key=lambda cause: int(cause.clause[1:]))
    deviates = ", ".join(f"{cause.clause} ({cause.short})" for cause in ordered)
    return f"{head}: {_conforms(decided)}{f'; deviates: {deviates}' if deviates else ''}{tail}"


def _conforms(decided: Sequence[Result]) -> str:
    """Say which clauses conform at which dtypes.

    A failing case counts against the clause of its cause, not against all that it touches; and a cause of clause S16
    (dtypes) against its dtype.
    """
    causes = [(result.dtype, _clause_of(result)) for result in decided if result.status not in CONFORMING]
    narrow = {dtype for dtype, clause in causes if clause == "S16"}
    passing = [result for result in decided if result.status in CONFORMING and result.dtype not in narrow]
    dtypes = [dtype for dtype in DTYPES if any(result.dtype == dtype for result in passing)]
    conforming = {clause for result in passing for clause in result.clauses}
    clauses = _in_order(conforming - {clause for dtype, clause in causes if dtype in dtypes})
    return f"conforms to {', '.join(clauses)} at {', '.join(_with_profile(dtype, passing) for dtype in dtypes)}"


def _clause_of(result: Result) -> str:
    cause = cause_of(result)
    return "" if cause is None else cause.clause


def _with_profile(dtype: str, results: Iterable[Result]) -> str:
    profile = next(result.profile for result in results if result.dtype == dtype)
    return dtype if dtype in ("float64", "float32") and profile == DEFAULT_PROFILES[dtype] else f"{dtype} ({profile})"


def _unsupported(name: str, results: Iterable[Result]) -> list[str]:
    """Name what a native has no argument for, among the operations that it is asked."""
    words: dict[str, None] = {}
    for result in results:
        if result.status is not Status.UNSUPPORTED or result.operation not in NATIVES[name].operations:
            continue
        for pattern, replacement in _WORDS:
            match = re.search(pattern, result.message)
            if match is not None:
                words[match.expand(replacement)] = None
                break
    return list(words)


def _causes(report: Report) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in report.failures():
        cause = cause_of(result)
        if cause is None:
            raise ValueError(f"{result.target} {result.case} fails without a known cause: {result.message}")
        found.setdefault(cause.id, []).append(result)
    return found


def _show(cause: Cause, results: Sequence[Result]) -> str:
    """Describe a cause: clause, expectation, what came, a reproducer, and where it was reported."""
    counts = {name: sum(result.target == name for result in results) for name in cause.targets}
    targets = ", ".join(f"`{name}` ({count} case{'s' * (count != 1)})" for name, count in counts.items() if count)
    code = "\n".join(f"    {line}".rstrip() for line in cause.reproducer.strip().splitlines())
    lines = [
        f"#### {cause.clause}: {cause.short}",
        "",
        f"{targets}; for instance `{results[0].case}`.",
        "",
        f"- Expected: {cause.expected}.",
        f"- Came: {cause.came}.",
        *(f"- Upstream: <{link}>" for link in cause.upstream),
        "",
        code,
        "",
    ]
    return "\n".join(lines)


_LEGEND = (
    "In each cell: how many cases were decided, how many of them fail, and the largest error over its bound among "
    "those that conform. A case belongs to each of its clauses."
)


def _section(name: str, report: Report) -> str:
    results = [result for result in report.select(name) if result.status is not Status.UNSUPPORTED]
    entry = NATIVES[name]
    lines = [f"#### {name}", "", f"{entry.function}: {entry.summary}.", ""]
    lines += [f"- {convention}" for convention in entry.conventions]
    if results:
        lines += ["", _table(results)]
    return "\n".join([*lines, ""])


def _table(results: Sequence[Result]) -> str:
    dtypes = [dtype for dtype in DTYPES if any(result.dtype == dtype for result in results)]
    lines = [f"| clause | {' | '.join(dtypes)} |", f"|---|{'---|' * len(dtypes)}"]
    for clause in _in_order({clause for result in results for clause in result.clauses}):
        here = [result for result in results if clause in result.clauses]
        cells = (_cell([result for result in here if result.dtype == dtype]) for dtype in dtypes)
        lines.append(f"| {clause} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return "-"
    failed = sum(result.status not in CONFORMING for result in results)
    ratios = [result.ratio for result in results if result.status in CONFORMING and result.ratio is not None]
    count = f"{len(results)}, **{failed} fail**" if failed else f"{len(results)}"
    return f"{count}: {show_ratio(max(ratios))}" if ratios else count


def _in_order(clauses: Iterable[str]) -> list[str]:
    return sorted(clauses, key=lambda clause: int(clause[1:]))


def _cases(report: Report) -> set[str]:
    return {result.case for result in report.results}


def partial_sums_text(ratios: Mapping[int, Mapping[str, float]]) -> str:
    """Describe what `measure_partial_sums` measured."""
    rows = [f"| {length} | {ratio['flash']:.2f} | {ratio['math']:.2f} |" for length, ratio in ratios.items()]
    return "\n".join(
        (
            "`torch.sdpa.flash`, and `torch.sdpa` where it chooses this kernel, adds up the gradient of `value` in",
            "blocks of 32 queries (64 from 192 queries on, 256 from 768 on), and stores the sum in the dtype of",
            "`value` after each: at bfloat16 the error grows with the number of blocks, as no profile's does (S16).",
            "No vector at bfloat16 has so many queries. Measured with cotangents of one sign, 33 keys and 8 seeds, the",
            "largest error of the gradient of `value` over its bound in profile `bf16_flash`:",
            "",
            "| queries | flash | math |",
            "|---|---|---|",
            *rows,
            "",
            "In a few lines: the sum is 259, and the nearest number of bfloat16 is 260.",
            "",
            *(f"    {line}".rstrip() for line in PARTIAL_SUMS.strip().splitlines()),
        )
    )


PARTIAL_SUMS = """
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

cotangent = torch.zeros(1, 1, 160, 2, dtype=torch.bfloat16)
cotangent[:, :, :32] = 8  # together 256
cotangent[:, :, 32::32] = 0.75  # four more: 3
for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
    value = torch.zeros(1, 1, 1, 2, dtype=torch.bfloat16, requires_grad=True)
    with sdpa_kernel(kernel):
        output = scaled_dot_product_attention(torch.zeros_like(cotangent), torch.zeros_like(value), value)
    output.backward(cotangent)
    print(kernel.name, value.grad[0, 0, 0, 0].item())
# MATH 260.0
# FLASH_ATTENTION 256.0
"""


def main() -> None:
    """Measure and write."""
    report = run_isolated(NATIVE_NAMES, Selection())
    measured = page(report, partial_sums_text(measure_partial_sums()))
    path = Path(sys.argv[1])
    path.write_text(replace_measured(path.read_text(encoding="utf8"), measured), encoding="utf8")


if __name__ == "__main__":
    main()

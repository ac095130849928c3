"""The measured part of docs/onnx.md: `python -m attnspec.conformance.onnx_report [PAGE]` prints it or puts it there."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from .backends import list_backends, load_backend
from .measured_pages import replace_measured
from .onnx_cases import onnx_cases
from .onnx_differences import DIFFERENCES, REFUSES, Difference
from .onnx_operators import OnnxNode
from .onnx_random import random_attention, random_rotary
from .onnx_verdicts import (
    CaseVerdict,
    answer_of_attnspec,
    can_decide,
    judge_case,
    judge_difference,
    judge_expected,
    judge_witness,
)
from .onnx_witnesses import WITNESSES, witness_versions

Array: TypeAlias = np.ndarray[Any, Any]

RANDOM_NODES = 300
"""How many random nodes of each operator the witnesses are asked."""
SHOWN_NUMBERS = 4


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
def main(page: Path | None) -> None:
    """Measure everything and print it, or put it between the markers of PAGE."""
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # one case asks for a softmax in float64
    measured = report()
    if page is None:
        click.echo(measured)
    else:
        page.write_text(replace_measured(page.read_text(encoding="utf8"), measured), encoding="utf8")


def report() -> str:
    """Measure everything: the text between the markers."""
    return "\n\n".join(
        (f"Measured with {' and '.join(dict.fromkeys(witness_versions().values()))}.", *_cases(), *_random(), *_shown())
    )


def _cases() -> Iterable[str]:
    yield "### ONNX's cases in attnspec"
    rows = []
    for backend in list_backends():
        verdicts = [judge_case(load_backend(backend.name), case) for case in onnx_cases()]
        rows.append((f"`{backend.module}`", *_counts(verdicts)))
    heading = (
        "module",
        "cases",
        "agree",
        "differ",
        "error / bound",
        "against ONNX / both bounds",
        "outside rtol, atol",
    )
    yield _table(heading, rows)
    yield "### ONNX's cases in ONNX"
    expected = [judge_expected(case) for case in onnx_cases()]
    rows = [("expected outputs", *_tally((ratio for ratio, _ in expected), 0))]
    for witness in WITNESSES:
        judged = [(case, judge_witness(witness, case.node)) for case in onnx_cases()]
        ratios = [max(v.ratios[name] for name in case.expected) for case, v in judged if v.refusal is None]
        rows.append((witness, *_tally(ratios, len(judged) - len(ratios))))
    yield _table(("who", "answers", "within the bound", "outside", "refusals", "error / bound"), rows)
    rejected = [case.name for case, (_, accepted) in zip(onnx_cases(), expected, strict=True) if not accepted]
    yield _named("Cases whose declared tolerance rejects the exact result, correctly rounded", rejected)
    idle = [case.name for case in onnx_cases() if not can_decide(case)]
    yield _named("Cases that decide nothing, because all values are equal", idle)


def _named(heading: str, names: list[str]) -> str:
    return _wrap(f"{heading}: {len(names)}. " + ", ".join(f"`{name}`" for name in names) + ".")


def _counts(verdicts: list[CaseVerdict]) -> tuple[str, ...]:
    agreeing = sum(verdict.agrees for verdict in verdicts)
    outside = sum(not verdict.is_within_tolerance for verdict in verdicts)
    largest = (max(v.ratio for v in verdicts), max(v.onnx_ratio for v in verdicts))
    counts = (len(verdicts), agreeing, len(verdicts) - agreeing)
    return (*map(str, counts), *map(_ratio, largest), str(outside))


def _tally(ratios: Iterable[float], refusals: int) -> tuple[str, ...]:
    ratios = list(ratios)
    inside = [ratio for ratio in ratios if ratio <= 1.0]
    return (
        *map(str, (len(ratios), len(inside), len(ratios) - len(inside), refusals)),
        _ratio(max(inside, default=0.0)),
    )


def _random() -> Iterable[str]:
    yield "### Random nodes"
    for name, make in (("Attention", random_attention), ("RotaryEmbedding", random_rotary)):
        rows = [(witness, *_random_row(witness, make)) for witness in WITNESSES]
        heading = (
            name,
            "nodes",
            "refusals",
            "outputs",
            "within the bound",
            "outside, explained",
            "outside, unexplained",
        )
        yield _table(heading, rows)


def _random_row(witness: str, make: Callable[[int], OnnxNode]) -> tuple[str, ...]:
    refusals, outputs, inside = 0, 0, 0
    reasons: Counter[str] = Counter()
    for node in map(make, range(RANDOM_NODES)):
        verdict = judge_witness(witness, node)
        refusals += verdict.refusal is not None
        outputs += len(verdict.ratios)
        for output, ratio in verdict.ratios.items():
            if ratio <= 1.0:
                inside += 1
            else:
                reasons[explanation(witness, node, output) or ""] += 1
    unexplained = reasons.pop("", 0)
    explained = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items())) or "0"
    return (*map(str, (RANDOM_NODES, refusals, outputs, inside)), explained, str(unexplained))


def explanation(witness: str, node: OnnxNode, output: str) -> str | None:
    """Name the difference that explains why a witness's output of a random node is another one."""
    place = [*WITNESSES].index(witness)
    for difference in DIFFERENCES:
        concerns = difference.answers[place] not in ("agrees", REFUSES)
        if concerns and difference.explains is not None and difference.explains(node, output):
            return difference.name
    return None


def _shown() -> Iterable[str]:
    yield "### Differences"
    yield _table(("difference", "attnspec", *WITNESSES), [_shown_row(difference) for difference in DIFFERENCES])
    yield "\n".join(_wrap(f"- `{d.name}`: {d.question}. {d.reason}", "  ") for d in DIFFERENCES)


def _shown_row(difference: Difference) -> tuple[str, ...]:
    exact = answer_of_attnspec(difference)
    ours = None if exact is None else exact.value
    cells = [difference.name, _numbers(ours, ours, difference)]
    for witness in WITNESSES:
        _, output = judge_difference(witness, difference)
        cells.append(_numbers(output, ours, difference))
    return tuple(cells)


def _numbers(output: Array | None, ours: Array | None, difference: Difference) -> str:
    if output is None:
        return REFUSES
    digits = 9 if difference.node.inputs["Q"].dtype == np.float64 else 4
    numbers = [f"{float(number):.{digits}g}" for number in output.reshape(-1)[:SHOWN_NUMBERS]]
    shown = ", ".join(numbers).replace("nan", "NaN").replace("inf", "∞").replace("-", "−")
    return shown if ours is None or output.shape == ours.shape else f"{shown} in {output.ndim} axes"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}"


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()

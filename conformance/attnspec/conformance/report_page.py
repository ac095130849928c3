"""A report as one HTML page that needs nothing else: no network, no fonts, no library.

The matrix, the summaries and the diagnoses are plain HTML; the list of cases is made by the page's own script from the
page's data. The page's policy allows that script and that style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .attention_maps import printable
from .calls import DTYPES
from .case_facts import clause_order, known_cases, title_of
from .report_badge import verdict_of
from .results import Diagnosis, Largest, Report, Result, Status, plain, show_ratio
from .tables import printable_lines
from .verdicts import CONFORMS, DEVIATES, UNSUPPORTED, WARNS, status_of, summary_line

TEMPLATES = Path(__file__).parent / "templates"

DIGITS = 4
"""Numbers of the list are rounded to so many."""

_SIGNS = {CONFORMS: "✓", WARNS: "~", DEVIATES: "✗", UNSUPPORTED: "–"}
_LEGEND = {
    CONFORMS: "conforms",
    WARNS: "conforms, close to a bound",
    DEVIATES: "deviates",
    UNSUPPORTED: "unsupported",
}
_SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_STATUSES = (
    ("failed", "does not conform"),
    *((str(status), str(status).replace("_", " ")) for status in Status),
)
_COLUMNS = (
    ("status", "status", ""),
    ("target", "target", ""),
    ("case", "case", ""),
    ("clauses", "clauses", ""),
    ("dtype", "dtype", ""),
    ("direction", "direction", ""),
    ("ratio", "error / bound", "number"),
    ("rms", "row RMS", "number"),
    ("bias", "bias", "number"),
    ("seconds", "ms", "number"),
)


def render_page(report: Report) -> str:
    """Draw a report as one HTML page.

    Raises:
        ModuleNotFoundError: jinja2 is missing.
    """
    check_renderable()
    import jinja2  # here, because only this page needs it
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, script = ((TEMPLATES / name).read_text(encoding="utf8") for name in ("report.css", "report.js"))
    targets = report.targets()
    present = {result.dtype for result in report.results}
    dtypes = [dtype for dtype in DTYPES if dtype in present] + sorted(present - DTYPES.keys())
    return environment.get_template("report.html.jinja").render(
        title="attnspec report",
        verdict=_verdict(report),
        conforms=report.conforms,
        made_with=_made_with(report),
        missing=report.missing,
        targets=[_target(report, target) for target in targets],
        diagnoses=[_diagnosis(diagnosis, targets) for diagnosis in report.diagnoses],
        rows=_matrix(report, dtypes),
        dtypes=dtypes,
        short={dtype: _SHORT.get(dtype, dtype[:4]) for dtype in dtypes},
        statuses=_STATUSES,
        legend=[(name, _SIGNS[name], text) for name, text in _LEGEND.items()],
        columns=_COLUMNS,
        data=_data(report),
        style=Markup(style),  # ours, not a target's
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def check_renderable() -> None:
    """Say what is missing before anything is computed."""
    if importlib.util.find_spec("jinja2") is None:
        raise ModuleNotFoundError(
            "the HTML page needs jinja2, which is not installed; install it with: pip install 'attnspec[report]'",
            name="jinja2",
        )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _verdict(report: Report) -> str:
    _, text = verdict_of(report)
    names = ", ".join(report.targets())
    return f"{names}: {text}" if 0 < len(names) <= 120 else text


def _made_with(report: Report) -> list[str]:
    vectors = f"vectors {report.suite} ({report.manifest[:12]}…)" if report.manifest else "vectors unknown"
    lines = []
    for run in report.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items() if name not in run.targets)
        targets = ", ".join(f"{name} ({run.versions.get(name, '?')})" for name in run.targets)
        lines.append(f"{targets}; {versions}; {run.machine}; {run.time}")
    return [vectors, *lines]


def _target(report: Report, target: str) -> dict[str, Any]:
    results = list(report.select(target))
    status = status_of(results)
    return {
        "name": target,
        "summary": summary_line(report, target),
        "status": status,
        "sign": _SIGNS[status],
        "failing": sum(result.is_failure for result in results),
    }


def _diagnosis(diagnosis: Diagnosis, targets: Sequence[str]) -> dict[str, Any]:
    ratio = "" if diagnosis.ratio is None else f", at most {show_ratio(diagnosis.ratio)} bounds away"
    return {
        **diagnosis._asdict(),
        "target_number": targets.index(diagnosis.target) if diagnosis.target in targets else -1,
        "counts": f"explains {len(diagnosis.cases)} of {diagnosis.failing} failing cases{ratio}",
    }


def _matrix(report: Report, dtypes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each clause, with a cell for each target, with a part for each dtype."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in report.results:
        for clause in result.clauses:
            groups.setdefault((clause, result.target, result.dtype), []).append(result)
    return [
        {
            "clause": clause,
            "title": title_of(clause) if title_of(clause) != clause else "",
            "cells": [
                [_part(clause, target, dtype, groups.get((clause, target, dtype), [])) for dtype in dtypes]
                for target in report.targets()
            ],
        }
        for clause in sorted({clause for clause, _, _ in groups}, key=clause_order)
    ]


def _part(clause: str, target: str, dtype: str, results: Sequence[Result]) -> dict[str, str]:
    if not results:
        return {"dtype": dtype, "status": ""}
    status = status_of(results)
    failing = sum(result.is_failure for result in results)
    ratios = [result.ratio for result in results if result.ratio is not None]
    text = f"{target}, {clause} at {dtype}: {_LEGEND[status]}, {len(results)} case{'s' * (len(results) != 1)}"
    text += f", {failing} of them do not conform" if failing else ""
    text += f", largest error / bound {show_ratio(max(ratios))}" if ratios else ""
    return {"dtype": dtype, "status": status, "sign": _SIGNS[status], "target": target, "text": text}


def _data(report: Report) -> Any:
    """Return what the page's script shows: each case and each message once."""
    targets, facts = report.targets(), known_cases()
    places = {target: i for i, target in enumerate(targets)}
    cases: dict[str, tuple[int, dict[str, Any]]] = {}
    messages: dict[str, int] = {}
    results = []
    for result in report.results:
        which, _ = cases.setdefault(result.case, (len(cases), _case(result, facts)))
        message = messages.setdefault(printable(result.message), len(messages))
        results.append(
            (
                places[result.target],
                which,
                str(result.status),
                *(_round(number) for number in (result.ratio, result.rms, result.bias)),
                message,
                _round(result.seconds),
                result.profile,
                result.weakest,
                _largest(result.largest) if result.is_failure or result.status is Status.QUALITY_WARNING else None,
            )
        )
    return plain(
        {
            "targets": targets,
            "cases": [case for _, case in cases.values()],
            "messages": list(messages),
            "results": results,
            "maps": [case_map._asdict() for case_map in report.maps],
            "diagnoses": [
                {name: getattr(diagnosis, name) for name in ("target", "cause", "clause", "cases")}
                for diagnosis in report.diagnoses
            ],
        }
    )


def _case(result: Result, facts: Mapping[str, Any]) -> dict[str, Any]:
    known = facts.get(result.case)
    return {
        "case": result.case,
        "operation": result.operation,
        "dtype": result.dtype,
        "direction": result.direction,
        "level": result.level,
        "clauses": result.clauses,
        "description": "" if known is None else known.description,
        "options": "" if known is None or not known.options else json.dumps(known.options, ensure_ascii=False),
        "features": "" if known is None else ", ".join(known.features),
    }


def _largest(largest: Largest | None) -> tuple[Any, ...] | None:
    if largest is None:
        return None
    numbers = (f"{number:.9g}" for number in (largest.got, largest.expected))
    return largest.result, largest.place, *numbers, f"{largest.bound:.2g}"


def _round(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{DIGITS}g}")

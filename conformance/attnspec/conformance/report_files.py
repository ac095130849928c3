"""Reports as JSON lines: written as `report.schema.json` says, and read back with every line checked.

A line for each result can be searched, cut and counted by line tools, and a report that was cut short has no end line.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .results import CaseMap, Diagnosis, Largest, Report, Result, Run, Status, plain

FORMAT = 1
SCHEMA = Path(__file__).parent / "report.schema.json"

_KINDS = ("report", "result", "map", "diagnosis", "end")


class ReportError(Exception):
    """A report that cannot be read, merged, compared or written: wrong usage, not a verdict."""


def report_lines(report: Report) -> str:
    """Write a report as JSON lines: a header, results, maps and diagnoses, and an end that counts them."""
    lines = [json.dumps(plain(record), ensure_ascii=False, allow_nan=False) for record in _records(report)]
    totals = Counter(str(result.status) for result in report.results)
    end = {"kind": "end", "lines": len(lines), "conforms": report.conforms, "totals": dict(totals)}
    return "\n".join([*lines, json.dumps(end)]) + "\n"


def _records(report: Report) -> Iterator[dict[str, Any]]:
    yield {
        "kind": "report",
        "format": FORMAT,
        "suite": report.suite,
        "manifest": report.manifest,
        "missing": report.missing,
        "runs": [asdict(run) for run in report.runs],
    }
    for result in report.results:
        yield {"kind": "result", **result.to_data()}
    for case_map in report.maps:
        yield {"kind": "map", **case_map._asdict()}
    for diagnosis in report.diagnoses:
        yield {"kind": "diagnosis", **diagnosis._asdict()}


def read_report(path: Path | str) -> Report:
    """Read a report.

    Raises:
        ReportError: the file cannot be read, is no report, is truncated, was changed, or has a newer format.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf8")
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ReportError(f"{path}: not a report: it is not text in UTF-8") from None
    lines = text.split("\n")  # and not by every character that Unicode calls a line's end
    if lines[-1] == "":
        lines.pop()
    _check_header(path, text, lines)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines):
                raise ReportError(f"{path}: this report is truncated: its last line, {number}, ends early") from None
            raise ReportError(f"{path}, line {number}: not valid JSON") from None
        _check_line(path, number, records[-1])
    _check_order(path, records)
    return _report(path, records)


def _check_header(path: Path, text: str, lines: list[str]) -> None:
    """Say what a file is that is no report, or a report that this version cannot read."""
    hint = "attnspec verify --jsonl writes one"
    if not lines:
        raise ReportError(f"{path}: not a report: the file is empty; {hint}")
    try:
        first = json.loads(lines[0])
    except ValueError:
        first = None
    if isinstance(first, dict) and first.get("kind") == "report":
        version = first.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise ReportError(
                f"{path}: a report in format {version}, and this attnspec reads format {FORMAT}; update attnspec"
            )
        return
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and {"results", "versions", "conforms"} <= whole.keys():
        raise ReportError(f"{path}: written by --json, for other programs; reports are JSON lines, and {hint}")
    raise ReportError(f"{path}: not a report: its first line is not the header of one; {hint}")


def _check_line(path: Path, number: int, record: Any) -> None:
    import jsonschema  # here, because it is slow to import and most commands read no report

    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in _KINDS:
        raise ReportError(f"{path}, line {number}: its kind must be one of {', '.join(_KINDS)}; got {kind!r}")
    misfit = jsonschema.exceptions.best_match(_validator(kind).iter_errors(record))
    if misfit is not None:
        raise ReportError(f"{path}, line {number}: {misfit.message[:200]} at {misfit.json_path}")


@functools.cache
def _validator(kind: str) -> Any:
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf8"))
    return jsonschema.Draft202012Validator({"$defs": schema["$defs"], **schema["$defs"][kind]})


def _check_order(path: Path, records: list[dict[str, Any]]) -> None:
    """Refuse a report that is cut short, or two in one file."""
    end = records[-1]
    if end["kind"] != "end":
        raise ReportError(f"{path}: this report is truncated: its last line, {len(records)}, is not an end line")
    for number, record in enumerate(records[1:-1], 2):
        if record["kind"] in ("report", "end"):
            raise ReportError(f"{path}, line {number}: another {record['kind']} line; merge reports by: report merge")
    if end["lines"] != len(records) - 1:
        raise ReportError(
            f"{path}: lines were lost or added: its end counts {end['lines']} before it, there are {len(records) - 1}"
        )
    totals = dict(Counter(record["status"] for record in records if record["kind"] == "result"))
    if totals != end["totals"]:
        raise ReportError(f"{path}: results were changed: its end counts {end['totals']}, and there are {totals}")


def _report(path: Path, records: list[dict[str, Any]]) -> Report:
    header = records[0]
    results = tuple(_result(record) for record in records if record["kind"] == "result")
    seen: set[tuple[str, str]] = set()
    for result in results:
        if (result.target, result.case) in seen:
            raise ReportError(f"{path}: {result.target} has two results of {result.case}")
        seen.add((result.target, result.case))
    runs = tuple(Run(**{**_known(Run, run), "targets": tuple(run["targets"])}) for run in header["runs"])
    return Report(
        results=results,
        versions=versions_of_runs(runs),
        missing=tuple(header["missing"]),
        diagnoses=tuple(_diagnosis(record) for record in records if record["kind"] == "diagnosis"),
        maps=tuple(_map(record) for record in records if record["kind"] == "map"),
        runs=runs,
        suite=header["suite"],
        manifest=header["manifest"],
    )


def versions_of_runs(runs: tuple[Run, ...]) -> dict[str, str]:
    """Put the versions of several runs together: what differs, such as Python's, is joined by `and`."""
    versions: dict[str, list[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            if version not in versions.setdefault(name, []):
                versions[name].append(version)
    return {name: " and ".join(found) for name, found in versions.items()}


def _known(kind: type, record: dict[str, Any]) -> dict[str, Any]:
    """Keep what this version knows of a record: more may be added within one format."""
    return {name: record[name] for name in kind.__annotations__ if name in record}


def _result(record: dict[str, Any]) -> Result:
    data = _known(Result, record)
    largest = data["largest"]
    if largest is not None:
        numbers = {name: float(largest[name]) for name in ("got", "expected", "bound")}
        data["largest"] = Largest(result=largest["result"], place=tuple(largest["place"]), **numbers)
    for name in ("ratio", "rms", "bias", "seconds"):
        data[name] = None if data[name] is None else float(data[name])
    return Result(**{**data, "clauses": tuple(data["clauses"]), "status": Status(data["status"])})


def _diagnosis(record: dict[str, Any]) -> Diagnosis:
    data = _known(Diagnosis, record)
    ratio = data["ratio"]
    return Diagnosis(**{**data, "cases": tuple(data["cases"]), "ratio": None if ratio is None else float(ratio)})


def _map(record: dict[str, Any]) -> CaseMap:
    data = _known(CaseMap, record)
    row, column = data["start"]
    data |= {"place": tuple(data["place"]), "start": (row, column)}
    for name in ("ratios", "bounds", "weights"):
        if data[name] is not None:
            data[name] = tuple(tuple(None if cell is None else float(cell) for cell in line) for line in data[name])
    return CaseMap(**data)

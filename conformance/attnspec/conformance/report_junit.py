"""Reports as JUnit XML: a suite for each target, a test for each case."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree  # only written here, never read

from .results import Report, Result, Status, show_ratio
from .verdicts import summary_line

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""

_FAILURES = (Status.FAIL, Status.NONDETERMINISTIC)


def render_junit(report: Report) -> str:
    """Write a report as JUnit XML.

    A case that fails is a `failure`, one that raised, crashed or timed out an `error`, an unsupported one `skipped`.
    What is required and not installed is an error of the suite `attnspec`.
    """
    root = ElementTree.Element("testsuites", name="attnspec")
    for target in report.targets():
        _add_target(root, report, target)
    if report.missing:
        suite = _add_suite(root, "attnspec", report, [], errors=len(report.missing))
        for sentence in report.missing:
            case = ElementTree.SubElement(suite, "testcase", classname="attnspec", name="required", time="0.000")
            ElementTree.SubElement(case, "error", type="missing", message=_clean(sentence))
    totals = {
        name: sum(int(suite.get(name, "0")) for suite in root) for name in ("tests", "failures", "errors", "skipped")
    }
    root.attrib |= {name: str(count) for name, count in totals.items()}
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_target(root: ElementTree.Element, report: Report, target: str) -> None:
    results = list(report.select(target))
    suite = _add_suite(root, target, report, results)
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"version": report.versions.get(target, ""), "suite": report.suite, "summary": summary_line(report, target)}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for result in results:
        _add_case(suite, result)


def _add_suite(
    root: ElementTree.Element, name: str, report: Report, results: list[Result], *, errors: int = 0
) -> ElementTree.Element:
    failures = sum(result.status in _FAILURES for result in results)
    errors += sum(result.is_failure and result.status not in _FAILURES for result in results)
    time = next((run.time for run in report.runs if name in run.targets), report.runs[0].time if report.runs else "")
    return ElementTree.SubElement(
        root,
        "testsuite",
        name=_clean(name),
        tests=str(len(results) + (0 if results else errors)),
        failures=str(failures),
        errors=str(errors),
        skipped=str(sum(result.status is Status.UNSUPPORTED for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
        timestamp=time.removesuffix("Z") or "1970-01-01T00:00:00",
        hostname="localhost",  # a report does not say where it was made
    )


def _add_case(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_clean(f"{result.target}.{result.operation}"),
        name=_clean(result.case),
        time=f"{result.seconds:.3f}",
    )
    if result.status is Status.UNSUPPORTED:
        ElementTree.SubElement(case, "skipped", message=_clean(result.message))
    elif result.is_failure:
        kind = "failure" if result.status in _FAILURES else "error"
        element = ElementTree.SubElement(case, kind, type=str(result.status), message=_clean(result.message))
        ratio = "" if result.ratio is None else f"error / bound {show_ratio(result.ratio)}, "
        element.text = _clean(f"{ratio}profile {result.profile}, clauses {', '.join(result.clauses)}")
    elif result.status is Status.QUALITY_WARNING:
        ElementTree.SubElement(case, "system-out").text = _clean(f"quality warning: {result.message}")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)

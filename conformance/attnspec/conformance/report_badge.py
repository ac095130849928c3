"""A report as a badge: one small SVG picture for a README."""

from __future__ import annotations

from html import escape

from .attention_maps import printable
from .results import Report
from .verdicts import CONFORMS, DEVIATES, UNSUPPORTED, WARNS, scope_of, status_of

_COLOURS = {CONFORMS: "#1a7f37", WARNS: "#1a7f37", DEVIATES: "#c11f2d", UNSUPPORTED: "#5b636d"}
_LETTER, _PADDING = 6.6, 12
"""The width of a letter of 11 pixels, about, and of what is left free beside the words."""


def render_badge(report: Report) -> str:
    """Draw a badge: `attnspec`, and what the whole report comes to."""
    status, text = verdict_of(report)
    left, right = "attnspec", printable(text)
    width_left, width_right = (round(len(words) * _LETTER + _PADDING) for words in (left, right))
    width = width_left + width_right
    title = escape(f"{left}: {right}", quote=True)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{title}">
<title>{title}</title>
<clipPath id="round"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#round)">
<rect width="{width_left}" height="20" fill="#33383f"/>
<rect x="{width_left}" width="{width_right}" height="20" fill="{_COLOURS[status]}"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{width_left / 2:g}" y="14" textLength="{width_left - _PADDING}">{escape(left)}</text>
<text x="{width_left + width_right / 2:g}" y="14" textLength="{width_right - _PADDING}">{escape(right)}</text>
</g>
</svg>
"""


def verdict_of(report: Report) -> tuple[str, str]:
    """Say in two or three words what a report comes to, and which kind of verdict that is."""
    if report.missing:
        return DEVIATES, "a required target is missing"
    status = status_of(report.results) if report.results else UNSUPPORTED
    if status == UNSUPPORTED:
        return UNSUPPORTED, "nothing was decided"
    if report.undecided():
        return DEVIATES if status == DEVIATES else UNSUPPORTED, "a target was not decided"
    if status == DEVIATES:
        failing = len(report.failures())
        return DEVIATES, f"deviates in {failing} of {_decided(report)} cases"
    return status, f"conforms {scope_of(report.results)}"


def _decided(report: Report) -> int:
    return sum(str(result.status) != UNSUPPORTED for result in report.results)

"""Pages whose measured part stands between two markers, and is written by the command that the page names."""

from __future__ import annotations

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measured_part(page: str) -> str:
    """Return what stands between the markers of a page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def replace_measured(page: str, measured: str) -> str:
    """Put a text between the markers of a page; raise ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{begin}\n\n{measured}\n\n{end}{after}"

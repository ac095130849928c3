"""The pytest plugin: a test of yours runs once for each conformance case.

    @pytest.mark.attnspec_cases(operations=["dot_product_attention"], dtypes=["float32"])
    def test_attention(attnspec_case):
        attnspec_case.check(my_attention)

pytest imports this module in every test-suite of an environment that has attnspec. So it imports nothing but pytest:
the vectors, and NumPy with them, are loaded where the marker is used, and no framework is loaded even there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from attnspec.conformance.pytest_cases import CheckedCase

MARKER, FIXTURE = "attnspec_cases", "attnspec_case"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    selections = "clauses, operations, dtypes, levels, cases, directions, quick"
    config.addinivalue_line("markers", f"{MARKER}({selections}): run the test once for each conformance case.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case that the marker selects."""
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is None:
        return
    from attnspec.conformance.pytest_cases import cases_of

    try:
        cases = cases_of(marker.args, marker.kwargs)
    except (TypeError, ValueError) as error:
        pytest.fail(f"@pytest.mark.{MARKER}: {error}", pytrace=False)
    if FIXTURE not in metafunc.fixturenames:
        pytest.fail(f"@pytest.mark.{MARKER}: {metafunc.function.__name__} takes no `{FIXTURE}`", pytrace=False)
    metafunc.parametrize(FIXTURE, cases, ids=cases, indirect=True)


@pytest.fixture
def attnspec_case(request: pytest.FixtureRequest) -> CheckedCase:
    """One conformance case of those that `@pytest.mark.attnspec_cases(…)` selects; `check(target)` is its test."""
    if not hasattr(request, "param"):
        pytest.fail(f"`{FIXTURE}` stands in a test with @pytest.mark.{MARKER}(…), and this one has none", pytrace=False)
    from attnspec.conformance.pytest_cases import CheckedCase

    return CheckedCase(request.param, request.node)

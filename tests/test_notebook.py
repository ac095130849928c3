"""The notebook runs from top to bottom, and prints what stands in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import frameworks
import pytest

pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parent.parent / "examples" / "from_formula_to_maps.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    """Join what a cell printed: it may come in several portions."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


EXECUTE = """
import sys
from pathlib import Path

import nbformat
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

source, target = map(Path, sys.argv[1:])
folder = target.parent
write_kernel_spec(str(folder / "kernels" / "own"))  # this interpreter, whatever kernels the machine knows
manager = AsyncKernelManager(
    kernel_name="own",
    kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(folder / "kernels")]),
    transport="ipc",  # a socket in the folder, and no port
    ip=str(folder / "socket"),
)
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, timeout=300, km=manager, resources={"metadata": {"path": str(folder)}}).execute()
nbformat.write(notebook, target)
"""


@pytest.fixture(scope="module")
def executed() -> Iterator[Any]:
    """Run the notebook in a process of its own: what Jupyter leaves open there is not ours to close."""
    for name in frameworks.FRAMEWORKS:
        if find_spec(name) is None:
            frameworks.load(name)  # skips, or fails
    # A short name: that of a socket must have less than 100 characters.
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "executed.ipynb"
        finished = subprocess.run(
            [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(target)], capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr
        yield nbformat.read(target, as_version=4)


def test_it_prints_what_stands_in_it(executed: Any) -> None:
    for cell, committed in zip(code_cells(executed), code_cells(read()), strict=True):
        assert pictures(cell) == pictures(committed)
        if "varies" not in committed.metadata.get("tags", []):
            assert printed(cell) == printed(committed)


def test_all_frameworks_agree_in_it(executed: Any) -> None:
    (cell,) = (cell for cell in code_cells(executed) if "varies" in cell.metadata.get("tags", []))
    lines = [line.split()[:2] for line in printed(cell).splitlines() if "error / bound" in line]
    assert lines == [[name, "pass"] for name in frameworks.MODULES]


def test_it_was_committed_as_it_was_executed() -> None:
    cells = code_cells(read())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(map(pictures, cells)) == 3
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    assert NOTEBOOK.stat().st_size < 300_000


def test_the_worked_example_is_in_it() -> None:
    text = "".join(map(printed, code_cells(read())))
    for line in ("[0.96 1.1  1.24 1.38]", "[0.210379 0.234842 0.262149 0.292631]", "[1.0562 1.1562 1.2562 1.3562]"):
        assert line in text

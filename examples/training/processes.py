"""Every framework in a process of its own, all at once, so that none of them disturbs another's settings."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from .exercises import Exercise
from .trainer import Event, train

_PACKAGES = {"torch": ("torch",), "tensorflow": ("tensorflow", "keras"), "jax": ("jax", "flax")}
"""What the layers of a framework need."""


class Happened(NamedTuple):
    """Something that happened in a framework's process."""

    framework: str
    exercise: str
    event: Event


class TrainingFailedError(Exception):
    """A framework's process ended before its last step, with what it said."""


def missing(framework: str) -> str | None:
    """Name the package that a framework lacks here; None: it can run."""
    return next((name for name in _PACKAGES[framework] if importlib.util.find_spec(name) is None), None)


def version(framework: str) -> str:
    """Return the version of a framework, without importing it."""
    distributions = importlib.metadata.packages_distributions().get(framework, [framework])
    return importlib.metadata.version(distributions[0])


def environment(dtype: str, threads: int) -> dict[str, str]:
    """Return the variables that must be set before a framework is imported."""
    own = os.environ.get("XLA_FLAGS", "")
    return {
        "JAX_ENABLE_X64": str(int(dtype == "float64")),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "XLA_FLAGS": own if threads > 1 else f"{own} --xla_cpu_multi_thread_eigen=false".strip(),
    }


def run(exercises: Sequence[Exercise], frameworks: Sequence[str]) -> Iterator[Happened]:
    """Train every exercise in every framework, and yield what happens in the order in which it is heard of.

    Raises:
        TrainingFailedError: a process ended early; the others are stopped.
    """
    context = multiprocessing.get_context("spawn")
    # The models are small: frameworks that each want every core get in each other's way.
    threads = max(1, (os.cpu_count() or 1) // len(frameworks))
    children: dict[Any, tuple[str, Any, Path]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            for framework in frameworks:
                ours, theirs = context.Pipe(duplex=False)
                said = Path(folder, framework)
                process = context.Process(target=_work, args=(theirs, framework, exercises, threads, said), daemon=True)
                process.start()
                theirs.close()
                children[ours] = framework, process, said
            while children:
                for connection in wait(list(children)):
                    message = _hear(connection, *children[connection])
                    if message is None:
                        del children[connection]
                    else:
                        yield message
        finally:
            for _, process, _ in children.values():
                process.kill()
                process.join()


def _hear(connection: Any, framework: str, process: Any, said: Path) -> Happened | None:
    """Receive a message; None at the end of a process that did all its work."""
    try:
        message = connection.recv()
    except EOFError:
        process.join()
        last = "\n".join(said.read_text(encoding="utf8", errors="replace").splitlines()[-20:])
        raise TrainingFailedError(f"{last}\n{framework}: its process ended with exit code {process.exitcode}") from None
    if isinstance(message, str):
        raise TrainingFailedError(f"{message}{framework}: its training failed")
    return None if message is None else Happened(framework, *message)


def _work(connection: Connection, framework: str, exercises: Sequence[Exercise], threads: int, said: Path) -> None:
    """Be the process of one framework."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process, and says why
    output = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):  # frameworks greet from C++, whatever log level they are given
        os.dup2(output, stream)
    os.environ.update(environment(exercises[0].dtype, threads))
    try:
        for exercise in exercises:
            for event in train(exercise, framework):
                connection.send((exercise.name, event))
        connection.send(None)
    except Exception:
        connection.send(traceback.format_exc())

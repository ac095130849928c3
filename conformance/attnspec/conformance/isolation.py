"""Every target in a process of its own: a crash or a hang is a result of that case, and the run goes on.

The child sends one message for each case, before and after it. When it dies or falls silent, the parent gives the case
in progress its status and starts a new child behind it. Whatever a target prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from .cases import Case, shipped_cases
from .profiles import Profile
from .results import Report, Result, Status
from .runner import Selection, find_profile, result_of, run_target, versions_of
from .targets import TargetError, load_target, profile_for

SECONDS_PER_CASE = 60.0
"""A case that takes longer is a timeout: the slowest case of the shipped vectors takes a second."""

START_SECONDS = 180.0
"""How long a target may take to load: frameworks are slow to import on a cold disk."""

ENVIRONMENT = {
    "JAX_ENABLE_X64": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass
class _Worker:
    """One target's run: its process, what came back, and which case it is busy with."""

    spec: str
    results: list[Result] = field(default_factory=list)
    version: str = ""
    error: str | None = None
    process: Any = None
    connection: Any = None
    busy_with: str | None = None
    deadline: float = 0.0
    is_done: bool = False


def run_isolated(
    specs: Sequence[str],
    selection: Selection,
    *,
    profile: str | None = None,
    missing: Sequence[str] = (),
    jobs: int = 2,
    progress: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run the selected cases on targets, each in its own process, at most `jobs` of them at once.

    Raises:
        TargetError: a target cannot be found or loaded; the other targets are stopped.
    """
    cases = [case for case in shipped_cases() if selection.matches(case)]
    workers = [_Worker(spec) for spec in specs]
    waiting = list(workers)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                worker = waiting.pop(0)
                _start(worker, selection, profile)
                running.append(worker)
            _receive(running, cases, selection, profile, progress)
            for worker in [worker for worker in running if worker.is_done]:
                running.remove(worker)
                if worker.error is not None:
                    raise TargetError(worker.error)
    finally:
        for worker in running:
            _stop(worker)
    results = tuple(result for worker in workers for result in worker.results)
    return Report(results, versions_of({worker.spec: worker.version for worker in workers}), tuple(missing))


def _start(worker: _Worker, selection: Selection, profile: str | None) -> None:
    context = multiprocessing.get_context("spawn")
    worker.connection, theirs = context.Pipe()
    skip = frozenset(result.case for result in worker.results)
    worker.process = context.Process(target=_work, args=(theirs, worker.spec, selection, profile, skip), daemon=True)
    worker.busy_with = None
    worker.deadline = time.monotonic() + START_SECONDS
    worker.process.start()
    theirs.close()


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _receive(
    running: list[_Worker],
    cases: list[Case],
    selection: Selection,
    profile: str | None,
    progress: Callable[[Result], None],
) -> None:
    """Take what the running children say, until something was said or a deadline passed."""
    patience = max(0.0, min(worker.deadline for worker in running) - time.monotonic())
    ready = wait([worker.connection for worker in running], timeout=patience)
    for worker in running:
        failure: tuple[Status, str] | None = None
        if worker.connection in ready:
            try:
                _take(worker, worker.connection.recv(), progress)
            except EOFError:
                worker.process.join()
                failure = Status.CRASH, f"the target's process ended {_cause(worker.process.exitcode)}"
        elif time.monotonic() > worker.deadline:
            failure = Status.TIMEOUT, f"no answer within {SECONDS_PER_CASE:g} s"
        if failure is not None:
            _stop(worker)
            _recover(worker, failure, cases, selection, profile, progress)


def _take(worker: _Worker, message: tuple[str, Any], progress: Callable[[Result], None]) -> None:
    kind, content = message
    worker.deadline = time.monotonic() + SECONDS_PER_CASE
    if kind == "loaded":
        worker.version = content
    elif kind == "case":
        worker.busy_with = content
    elif kind == "result":
        worker.busy_with = None
        worker.results.append(content)
        progress(content)
    else:
        worker.is_done = True
        worker.error = content if kind == "error" else None
        _stop(worker)


def _recover(
    worker: _Worker,
    failure: tuple[Status, str],
    cases: list[Case],
    selection: Selection,
    profile: str | None,
    progress: Callable[[Result], None],
) -> None:
    status, message = failure
    if worker.busy_with is None:
        worker.is_done = True
        worker.error = f"target {worker.spec!r} did not load: {message}"
        return
    case = next(case for case in cases if case.id == worker.busy_with)
    result = result_of(worker.spec, case, profile_for(case, find_profile(profile)), status, None, message, 0.0)
    worker.results.append(result)
    progress(result)
    if len(worker.results) == len(cases):
        worker.is_done = True
    else:
        _start(worker, selection, profile)


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"


def _work(connection: Connection, spec: str, selection: Selection, profile: str | None, skip: frozenset[str]) -> None:
    """Be the child: load one target, run its cases, send what happens."""
    os.dup2(2, 1)  # what a target prints must not mix with the report
    os.environ.update(ENVIRONMENT)
    try:
        with silence():
            target = load_target(spec)
    except TargetError as error:
        connection.send(("error", str(error)))
        return
    connection.send(("loaded", target.version))
    for kind, content in _events(target, selection, find_profile(profile), skip):
        connection.send((kind, content))
    connection.send(("done", None))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what is written to standard error: frameworks greet from C++, whatever log level they are given."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _events(
    target: Any, selection: Selection, profile: Profile | None, skip: frozenset[str]
) -> Iterator[tuple[str, Any]]:
    for event in run_target(target, selection, profile, skip):
        yield ("case", event) if isinstance(event, str) else ("result", event)

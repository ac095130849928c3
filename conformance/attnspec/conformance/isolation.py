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
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from .cases import Case, shipped_cases
from .results import Report, Result, Status
from .runner import Selection, find_profile, result_of, run_target, versions_of
from .targets import TargetError, load_target, profile_for

SECONDS_PER_CASE = 60.0
"""A case that takes longer is a timeout: the slowest case of the shipped vectors takes a second."""

MOST_TIMEOUTS = 3
"""A target that has timed out so often is not run any further: it would take hours to say the same."""

START_SECONDS = 180.0
"""How long a target may take to load: frameworks are slow to import on a cold disk."""

ENVIRONMENT = {
    "JAX_ENABLE_X64": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class HarnessError(Exception):
    """Something of ours failed in a child, with its traceback: no verdict on the target."""


@dataclass
class _Worker:
    """One target's run: its process, what came back, and which case it is busy with."""

    spec: str
    results: list[Result] = field(default_factory=list)
    version: str | None = None
    error: Exception | None = None
    process: Any = None
    connection: Any = None
    busy_with: str | None = None
    limit: float = 0.0
    deadline: float = 0.0
    is_done: bool = False

    def expect_answer_within(self, seconds: float) -> None:
        """Set the deadline of what the child does now."""
        self.limit, self.deadline = seconds, time.monotonic() + seconds


@dataclass(frozen=True)
class _Run:
    """What every target of a run has in common."""

    selection: Selection
    profile: str | None
    cases: tuple[Case, ...]
    seconds_per_case: float
    progress: Callable[[Result], None]


def run_isolated(
    specs: Sequence[str],
    selection: Selection,
    *,
    profile: str | None = None,
    missing: Sequence[str] = (),
    jobs: int = 2,
    seconds_per_case: float = SECONDS_PER_CASE,
    progress: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run the selected cases on targets, each in its own process, at most `jobs` of them at once.

    Raises:
        TargetError: a target cannot be found or loaded; the other targets are stopped.
        HarnessError: the harness itself failed in a child.
    """
    cases = tuple(case for case in shipped_cases() if selection.matches(case))
    run = _Run(selection, profile, cases, seconds_per_case, progress)
    workers = [_Worker(spec) for spec in specs]
    waiting = list(workers)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                worker = waiting.pop(0)
                _start(worker, run)
                running.append(worker)
            _receive(running, run)
            for worker in [worker for worker in running if worker.is_done]:
                running.remove(worker)
                if worker.error is not None:
                    raise worker.error
    finally:
        for worker in running:
            _stop(worker)
    results = tuple(result for worker in workers for result in worker.results)
    return Report(results, versions_of({worker.spec: worker.version or "" for worker in workers}), tuple(missing))


def _start(worker: _Worker, run: _Run) -> None:
    context = multiprocessing.get_context("spawn")
    worker.connection, theirs = context.Pipe()
    skip = frozenset(result.case for result in worker.results)
    arguments = (theirs, worker.spec, run.selection, run.profile, skip)
    worker.process = context.Process(target=_work, args=arguments, daemon=True)
    worker.busy_with = None
    worker.expect_answer_within(START_SECONDS)
    worker.process.start()
    theirs.close()


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _receive(running: list[_Worker], run: _Run) -> None:
    """Take what the running children say, until something was said or a deadline passed."""
    patience = max(0.0, min(worker.deadline for worker in running) - time.monotonic())
    ready = wait([worker.connection for worker in running], timeout=patience)
    for worker in running:
        failure: tuple[Status, str] | None = None
        if worker.connection in ready:
            try:
                _take(worker, worker.connection.recv(), run)
            except (EOFError, OSError):
                worker.process.join(timeout=1.0)
                failure = Status.CRASH, f"the target's process ended {_cause(worker.process.exitcode)}"
        elif time.monotonic() > worker.deadline:
            failure = Status.TIMEOUT, f"no answer within {worker.limit:g} s"
        if failure is not None:
            _stop(worker)
            _recover(worker, failure, run)


def _take(worker: _Worker, message: tuple[str, Any], run: _Run) -> None:
    kind, content = message
    worker.expect_answer_within(run.seconds_per_case)
    if kind == "loaded":
        worker.version = content
    elif kind == "case":
        worker.busy_with = content
    elif kind == "result":
        worker.busy_with = None
        worker.results.append(content)
        run.progress(content)
    else:
        worker.is_done = True
        worker.error = content if kind == "error" else None
        _stop(worker)


def _recover(worker: _Worker, failure: tuple[Status, str], run: _Run) -> None:
    """Give the case in progress its status, and go on behind it."""
    status, message = failure
    done = {result.case for result in worker.results}
    remaining = [case for case in run.cases if case.id not in done]
    if worker.version is None:
        worker.is_done = True
        worker.error = TargetError(f"target {worker.spec!r} did not load: {message}")
        return
    remaining.sort(key=lambda case: case.id != worker.busy_with)  # the one in progress, or else the next one
    _add(worker, remaining[:1], status, message, run)
    remaining = remaining[1:]
    if sum(result.status is Status.TIMEOUT for result in worker.results) >= MOST_TIMEOUTS:
        _add(worker, remaining, Status.TIMEOUT, f"not run: {MOST_TIMEOUTS} cases before it timed out", run)
        remaining = []
    if remaining:
        _start(worker, run)
    else:
        worker.is_done = True


def _add(worker: _Worker, cases: Sequence[Case], status: Status, message: str, run: _Run) -> None:
    for case in cases:
        profile = profile_for(case, find_profile(run.profile))
        worker.results.append(result_of(worker.spec, case, profile, status, None, message, 0.0))
        run.progress(worker.results[-1])


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "its connection"
    if exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"


def _work(connection: Connection, spec: str, selection: Selection, profile: str | None, skip: frozenset[str]) -> None:
    """Be the child."""
    os.dup2(2, 1)  # what a target prints must not mix with the report
    os.environ.update(ENVIRONMENT)
    _send_results(connection, spec, selection, profile, skip)


def _send_results(
    connection: Connection, spec: str, selection: Selection, profile: str | None, skip: frozenset[str]
) -> None:
    """Load one target, run its cases, send what happens."""
    try:
        with silence():
            target = load_target(spec)
        connection.send(("loaded", target.version))
        for event in run_target(target, selection, find_profile(profile), skip):
            connection.send(("case" if isinstance(event, str) else "result", event))
    except TargetError as error:
        connection.send(("error", TargetError(str(error))))
    except Exception:  # whatever a target raises is in its results: this is ours
        connection.send(("error", HarnessError(traceback.format_exc())))
    else:
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

"""Every target in a process of its own: a crash or a hang is a result of that case, and the run goes on.

The parent sends calls, never expected values; the child sends back what the target made of each. When the child dies
or falls silent, the parent gives the case in progress its status and starts a new child behind it. Whatever a target
prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from .answers import Answer, ask, no_results
from .cases import Case
from .judgement import Judge
from .profiles import find_profile
from .results import Report, Result, Status
from .runner import Selection, selected, versions_of
from .targets import TargetError, load_target

SECONDS_PER_CASE = 60.0
"""A case that takes longer is a timeout: the slowest case of the shipped vectors takes a second."""

MOST_TIMEOUTS = 3
"""A target that has timed out so often is not run any further: it would take hours to say the same."""

START_SECONDS = 180.0
"""How long a target may take to load: frameworks are slow to import on a cold disk."""

MEGABYTES = 4096
"""How much memory a target may take beyond what it holds once it is loaded."""

AHEAD, AHEAD_BYTES = 2, 16384
"""How many calls a child is sent: the next lies there already while the parent judges the last answer. It must fit into
a pipe, or each of the two could wait for the other to read."""

ENVIRONMENT = {
    "JAX_ENABLE_X64": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class HarnessError(Exception):
    """Something of ours failed in a child, with its traceback: no verdict on the target."""


class Loaded(NamedTuple):
    """What a child says first."""

    version: str
    profiles: Mapping[str, str]


class _Asked(NamedTuple):
    """A case that a child was sent."""

    case: Case
    waiting: tuple[Case, Answer] | None
    """Another case and its answer, for which this one was asked as its twin; None: it is asked for itself."""


@dataclass
class _Worker:
    """One target's run: its process, what came back, and which cases it was sent."""

    spec: str
    todo: deque[_Asked]
    asked: deque[_Asked] = field(default_factory=deque)
    results: list[Result] = field(default_factory=list)
    version: str = ""
    judge: Judge | None = None
    error: Exception | None = None
    process: Any = None
    calls: Any = None
    answers: Any = None
    limit: float = 0.0
    deadline: float = 0.0
    is_done: bool = False

    def expect_answer_within(self, seconds: float) -> None:
        """Set the deadline of what the child does now."""
        self.limit, self.deadline = seconds, time.monotonic() + seconds


@dataclass(frozen=True)
class _Run:
    """What every target of a run has in common."""

    profile: str | None
    seconds_per_case: float
    megabytes: int
    progress: Callable[[Result], None]


def run_isolated(
    specs: Sequence[str],
    selection: Selection,
    *,
    profile: str | None = None,
    missing: Sequence[str] = (),
    jobs: int = 2,
    seconds_per_case: float = SECONDS_PER_CASE,
    megabytes: int = MEGABYTES,
    progress: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Run the selected cases on targets, each in its own process, at most `jobs` of them at once.

    Raises:
        TargetError: a target cannot be found or loaded; the other targets are stopped.
        HarnessError: the harness itself failed in a child.
    """
    cases = list(selected(selection))
    run = _Run(profile, seconds_per_case, megabytes, progress)
    workers = [_Worker(spec, deque(_Asked(case, None) for case in cases)) for spec in specs]
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
    place = {case.id: i for i, case in enumerate(cases)}  # a case that waits for its twin is judged after the next
    results = tuple(
        result for worker in workers for result in sorted(worker.results, key=lambda result: place[result.case])
    )
    return Report(results, versions_of({worker.spec: worker.version for worker in workers}), tuple(missing))


def _start(worker: _Worker, run: _Run) -> None:
    context = multiprocessing.get_context("spawn")
    their_calls, worker.calls = context.Pipe(duplex=False)
    worker.answers, their_answers = context.Pipe(duplex=False)
    arguments = their_calls, their_answers, worker.spec, run.megabytes
    worker.process = context.Process(target=_work, args=arguments, daemon=True)
    worker.expect_answer_within(START_SECONDS)
    worker.process.start()
    their_calls.close()
    their_answers.close()


def _stop(worker: _Worker) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it may be dead, or so young that it has no group of its own
        if os.getpgid(worker.process.pid) == worker.process.pid:
            os.killpg(worker.process.pid, signal.SIGKILL)  # with whatever it has started
    worker.process.kill()
    worker.process.join()
    worker.calls.close()
    worker.answers.close()


def _receive(running: list[_Worker], run: _Run) -> None:
    """Take what the running children say, until something was said or a deadline passed."""
    patience = max(0.0, min(worker.deadline for worker in running) - time.monotonic())
    ready = wait([worker.answers for worker in running], timeout=patience)
    for worker in running:
        failure: tuple[Status, str] | None = None
        if worker.answers in ready:
            try:
                _take(worker, worker.answers.recv(), run)
            except (EOFError, OSError):
                worker.process.join(timeout=1.0)
                failure = Status.CRASH, f"the target's process ended {_cause(worker.process.exitcode)}"
        elif time.monotonic() > worker.deadline:
            failure = Status.TIMEOUT, f"no answer within {worker.limit:g} s"
        if failure is not None:
            _stop(worker)
            _recover(worker, failure, run)


def _take(worker: _Worker, message: Any, run: _Run) -> None:
    """Take a message of a child, and send it what is next before the answer is judged."""
    if isinstance(message, Exception):
        worker.error = message
        worker.is_done = True
        _stop(worker)
        return
    worker.expect_answer_within(run.seconds_per_case)
    if isinstance(message, Loaded):
        worker.version = message.version
        worker.judge = Judge(worker.spec, message.profiles, find_profile(run.profile))
        _send_next(worker)
    else:
        asked = worker.asked.popleft()
        _send_next(worker)
        _judge(worker, asked, message, run)
    if not worker.asked and not worker.todo:
        worker.is_done = True
        _stop(worker)
    elif len(worker.asked) < AHEAD:
        _send_next(worker)


def _send_next(worker: _Worker) -> None:
    while worker.todo and len(worker.asked) < AHEAD:
        call = worker.todo[0].case.call
        if worker.asked and sum(tensor.nbytes for tensor in call.tensors.values()) > AHEAD_BYTES:
            return
        worker.asked.append(worker.todo.popleft())
        with contextlib.suppress(OSError):  # it has died, and its answers end
            worker.calls.send(call)


def _judge(worker: _Worker, asked: _Asked, answer: Answer, run: _Run) -> None:
    """Judge an answer, or ask for the twin that must be known before."""
    if worker.judge is None:
        raise HarnessError("an answer came from a child that has not said that it is loaded")
    if asked.waiting is not None:
        worker.judge.remember(asked.case, answer)
        case, answer = asked.waiting
    else:
        case, twin = asked.case, worker.judge.missing_twin(asked.case)
        if twin is not None and answer.results is not None:
            worker.todo.appendleft(_Asked(twin, (case, answer)))
            return
    _add(worker, worker.judge.judge(case, answer), run)


def _recover(worker: _Worker, failure: tuple[Status, str], run: _Run) -> None:
    """Give the case in progress its status, and go on behind it."""
    status, message = failure
    if worker.judge is None:
        worker.is_done = True
        worker.error = TargetError(f"target {worker.spec!r} did not load: {message}")
        return
    worker.todo.extendleft(reversed(worker.asked))
    worker.asked.clear()
    if worker.todo:  # the one in progress, or else the next one
        _judge(worker, worker.todo.popleft(), no_results(status, message), run)
    if sum(result.status is Status.TIMEOUT for result in worker.results) >= MOST_TIMEOUTS:
        given_up = no_results(Status.TIMEOUT, f"not run: {MOST_TIMEOUTS} cases before it timed out")
        while worker.todo:
            _judge(worker, worker.todo.popleft(), given_up, run)
    if worker.todo:
        _start(worker, run)
    else:
        worker.is_done = True


def _add(worker: _Worker, result: Result, run: _Run) -> None:
    worker.results.append(result)
    run.progress(result)


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "its connection"
    if exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"


def _work(calls: Connection, answers: Connection, spec: str, megabytes: int) -> None:
    """Be the child."""
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, so that what a target starts ends with it
    os.dup2(2, 1)  # what a target prints must not mix with the report
    os.environ.update(ENVIRONMENT)
    _answer(calls, answers, spec, megabytes)


def _answer(calls: Connection, answers: Connection, spec: str, megabytes: int) -> None:
    """Load one target, and answer calls until there are no more."""
    try:
        with silence():
            target = load_target(spec)
        limit_memory(megabytes)
        answers.send(Loaded(target.version, dict(target.profiles)))
        while True:
            answers.send(ask(target, calls.recv()))
    except EOFError:
        return
    except TargetError as error:
        answers.send(TargetError(str(error)))
    except Exception:  # whatever a target raises is in its answers: this is ours
        answers.send(HarnessError(traceback.format_exc()))


def limit_memory(megabytes: int) -> None:
    """Let this process allocate so much beyond what it holds now; only Linux can tell how much that is."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    import resource

    (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmData:"))
    limit = int(line.split()[1]) * 1024 + megabytes * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


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

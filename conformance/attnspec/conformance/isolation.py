"""Every target in processes of its own: a crash or a hang is a result of that case, and the run goes on.

When a child dies or falls silent, the parent gives the case in progress its status and starts a new child behind it. A
target that would take long is given another process, as far as there may be more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from .answers import Answer, no_results
from .cases import Case
from .children import HarnessError, Loaded, work
from .judgement import Judge
from .profiles import find_profile
from .report_making import make_report
from .results import Report, Result, Status
from .runner import Selection, selected, versions_of
from .targets import TargetError

SECONDS_PER_CASE = 60.0
"""A case that takes longer is a timeout: the slowest case of the shipped vectors takes three seconds."""

MOST_TIMEOUTS = 3
"""A target that has timed out so often is not run any further: it would take hours to say the same."""

START_SECONDS = 180.0
"""How long a target may take to load: frameworks are slow to import on a cold disk."""

MEGABYTES = 4096
"""How much memory a process may take beyond what it holds once the target is loaded."""

AHEAD, AHEAD_BYTES = 2, 16384
"""How many calls a child is sent: the next lies there already while the parent judges the last answer. It must fit into
a pipe, or each of the two could wait for the other to read."""

PAYS = 3
"""Another process is started for a target that has this many times as much to do as a process takes to load it."""


class _Asked(NamedTuple):
    """A case that a child was sent."""

    case: Case
    waiting: tuple[Case, Answer] | None
    """Another case and its answer, for which this one was asked as its twin; None: it is asked for itself."""


@dataclass
class _Run:
    """One target's run: what is left to do, and what came back."""

    spec: str
    todo: deque[_Asked]
    results: list[Result] = field(default_factory=list)
    version: str = ""
    judge: Judge | None = None
    load_seconds: float = 0.0
    busy_seconds: float = 0.0
    """In which its children answered."""
    answered: int = 0

    def seconds_left(self) -> float:
        """Estimate how long one process would take for what is left; 0 before anything is known."""
        return self.busy_seconds / self.answered * len(self.todo) if self.answered else 0.0


@dataclass
class _Child:
    """A process, and which cases it was sent."""

    run: _Run
    is_first: bool
    asked: deque[_Asked] = field(default_factory=deque)
    is_done: bool = False
    process: Any = None
    calls: Any = None
    answers: Any = None
    since: float = 0.0
    """When it began what it does now."""
    limit: float = 0.0

    def expect_answer_within(self, seconds: float) -> None:
        """Set the deadline of what the child does now."""
        self.since, self.limit = time.monotonic(), seconds

    @property
    def deadline(self) -> float:
        """When it must have answered."""
        return self.since + self.limit

    def send_next(self) -> None:
        """Send what is next: the first child of a target works from the front, others from the back.

        Neighbours share shapes, which are compiled once.
        """
        todo = self.run.todo
        while todo and len(self.asked) < AHEAD:
            is_front = self.is_first or todo[0].waiting is not None
            call = todo[0 if is_front else -1].case.call
            if self.asked and sum(tensor.nbytes for tensor in call.tensors.values()) > AHEAD_BYTES:
                return
            self.asked.append(todo.popleft() if is_front else todo.pop())
            with contextlib.suppress(OSError):  # it has died, and its answers end
                self.calls.send(call)


@dataclass(frozen=True)
class _Settings:
    """What all targets of a run have in common."""

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
    diagnosed: bool = False,
) -> Report:
    """Run the selected cases on targets, each in processes of its own, at most `jobs` of them at once.

    With `diagnosed`, the likely cause of every target's failures is looked for afterwards, in this process.

    Raises:
        TargetError: a target cannot be found or loaded; the other targets are stopped.
        HarnessError: the harness itself failed in a child.
    """
    cases = list(selected(selection))
    settings = _Settings(profile, seconds_per_case, megabytes, progress)
    runs = [_Run(spec, deque(_Asked(case, None) for case in cases)) for spec in specs]
    waiting = deque(runs)
    running: list[_Child] = []
    try:
        while waiting or running:
            while len(running) < jobs:
                run = waiting.popleft() if waiting else _longest(running)
                if run is None:
                    break
                is_first = not any(child.run is run for child in running)
                running.append(_Child(run, is_first))
                _start(running[-1], settings)
            _receive(running, settings)
            running = [child for child in running if not child.is_done]
    finally:
        for child in running:
            _stop(child)
    place = {case.id: i for i, case in enumerate(cases)}
    results = [result for run in runs for result in sorted(run.results, key=lambda result: place[result.case])]
    judges = [run.judge for run in runs if run.judge is not None]
    versions = versions_of({run.spec: run.version for run in runs})
    return make_report(results, judges, versions, missing=missing, diagnosed=diagnosed, can_reload=True)


def _longest(running: Sequence[_Child]) -> _Run | None:
    """Find the target for which another process pays the most."""
    runs = [child.run for child in running]
    pays = [run for run in runs if run.seconds_left() / runs.count(run) > PAYS * run.load_seconds]
    return max(pays, key=lambda run: run.seconds_left() / runs.count(run), default=None)


def _start(child: _Child, settings: _Settings) -> None:
    context = multiprocessing.get_context("spawn")
    their_calls, child.calls = context.Pipe(duplex=False)
    child.answers, their_answers = context.Pipe(duplex=False)
    arguments = their_calls, their_answers, child.run.spec, settings.megabytes
    child.process = context.Process(target=work, args=arguments, daemon=True)
    child.expect_answer_within(START_SECONDS)
    child.process.start()
    their_calls.close()
    their_answers.close()


def _stop(child: _Child) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it may be dead, or so young that it has no group of its own
        if os.getpgid(child.process.pid) == child.process.pid:
            os.killpg(child.process.pid, signal.SIGKILL)  # with whatever it has started
    child.process.kill()
    child.process.join()
    child.calls.close()
    child.answers.close()


def _receive(running: list[_Child], settings: _Settings) -> None:
    """Take what the running children say, until something was said or a deadline passed."""
    patience = max(0.0, min(child.deadline for child in running) - time.monotonic())
    ready = wait([child.answers for child in running], timeout=patience)
    for child in running:
        failure: tuple[Status, str] | None = None
        if child.answers in ready:
            try:
                _take(child, child.answers.recv(), settings)
            except (EOFError, OSError):
                child.process.join(timeout=1.0)
                failure = Status.CRASH, f"the target's process ended {_cause(child.process.exitcode)}"
        elif time.monotonic() > child.deadline:
            failure = Status.TIMEOUT, f"no answer within {child.limit:g} s"
        if failure is not None:
            _stop(child)
            _recover(child, failure, settings)


def _take(child: _Child, message: Any, settings: _Settings) -> None:
    """Take a message of a child, and send it what is next before the answer is judged."""
    if isinstance(message, Exception):
        raise message
    run, seconds = child.run, time.monotonic() - child.since
    child.expect_answer_within(settings.seconds_per_case)
    if isinstance(message, Loaded):
        run.load_seconds, run.version = seconds, message.version
        run.judge = run.judge or Judge(run.spec, message.profiles, find_profile(settings.profile))
    else:
        run.busy_seconds, run.answered = run.busy_seconds + seconds, run.answered + 1
        asked = child.asked.popleft()
        child.send_next()
        _judge(run, asked, message, settings)
    child.send_next()  # the twin of what was judged, if it must be known
    if not child.asked:
        child.is_done = True
        _stop(child)


def _judge(run: _Run, asked: _Asked, answer: Answer, settings: _Settings) -> None:
    """Judge an answer, or put the twin that must be known before at the front of what is left."""
    if run.judge is None:
        raise HarnessError("an answer came from a child that has not said that it is loaded")
    if asked.waiting is not None:
        run.judge.remember(asked.case, answer)
        case, answer = asked.waiting
    else:
        case, twin = asked.case, run.judge.missing_twin(asked.case)
        if twin is not None and answer.results is not None:
            run.todo.appendleft(_Asked(twin, (case, answer)))
            return
    run.results.append(run.judge.judge(case, answer))
    settings.progress(run.results[-1])


def _recover(child: _Child, failure: tuple[Status, str], settings: _Settings) -> None:
    """Give the case in progress its status, and go on behind it."""
    (status, message), run = failure, child.run
    if run.judge is None:
        raise TargetError(f"target {run.spec!r} did not load: {message}")
    run.todo.extendleft(reversed(child.asked))
    child.asked.clear()
    if run.todo:  # the one in progress, or else the next one
        _judge(run, run.todo.popleft(), no_results(status, message), settings)
    if sum(result.status is Status.TIMEOUT for result in run.results) >= MOST_TIMEOUTS:
        given_up = no_results(Status.TIMEOUT, f"not run: {MOST_TIMEOUTS} cases before it timed out")
        while run.todo:
            _judge(run, run.todo.popleft(), given_up, settings)
    if run.todo:
        _start(child, settings)
    else:
        child.is_done = True


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "its connection"
    if exit_code < 0:
        return f"by signal {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"

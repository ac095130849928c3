"""A session with one target in a process of its own: calls go in one at a time, and each answer is waited for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from types import TracebackType
from typing import Any, Self

from .answers import Answer, no_results
from .calls import Call
from .children import Loaded, work
from .results import Status
from .targets import TargetError

START_SECONDS, SECONDS, MEGABYTES = 180.0, 60.0, 4096


class Session:
    """Asks a target that runs elsewhere; a crash or a timeout is an answer, and the next call starts it again.

    Args:
        spec: of the target, as for `load_target`.
        seconds: how long a call may take.
        megabytes: how much memory the process may take beyond what it holds once the target is loaded.
    """

    def __init__(self, spec: str, *, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> None:
        self._spec, self._seconds, self._megabytes = spec, seconds, megabytes
        self._process: Any = None
        self._calls: Any = None
        self._answers: Any = None

    def ask(self, call: Call) -> Answer:
        """Send a call, and wait for its answer.

        Raises:
            TargetError: the target cannot be loaded.
        """
        self.load()
        try:
            self._calls.send(call)
            if not self._answers.poll(self._seconds):
                self.close()
                return no_results(Status.TIMEOUT, f"no answer within {self._seconds:g} s")
            answer = self._answers.recv()
        except (EOFError, OSError):
            self.close()
            return no_results(Status.CRASH, "the target's process ended")
        if isinstance(answer, Exception):
            self.close()
            raise answer
        return answer  # type: ignore[no-any-return]  # what a pipe gives has no type

    def load(self) -> None:
        """Load the target, unless it is loaded; raise `TargetError` where it cannot be."""
        if self._process is None:
            self._start()

    def close(self) -> None:
        """End the process, and whatever it has started."""
        if self._process is None:
            return
        with contextlib.suppress(OSError, AttributeError):  # it may be dead, or without a group of its own yet
            if os.getpgid(self._process.pid) == self._process.pid:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._calls.close()
        self._answers.close()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        their_calls, self._calls = context.Pipe(duplex=False)
        self._answers, their_answers = context.Pipe(duplex=False)
        arguments = their_calls, their_answers, self._spec, self._megabytes
        self._process = context.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        their_calls.close()
        their_answers.close()
        try:
            loaded = self._answers.recv() if self._answers.poll(START_SECONDS) else None
        except (EOFError, OSError):
            loaded = None
        if not isinstance(loaded, Loaded):
            self.close()
            raise loaded if isinstance(loaded, Exception) else TargetError(f"target {self._spec!r} did not load")

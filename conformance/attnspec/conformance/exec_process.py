"""A command that speaks the process protocol: started when it is needed, asked line by line, ended in the end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, NamedTuple

from .protocol import PROTOCOL, Json, ProtocolError, beginning, printable, read_line

LONGEST_LINE = 2**20
"""Bytes: tensors come by file, so an answer is short."""

SECONDS_TO_END = 2.0
"""How long a command may take to end once it has closed its output or was told to stop."""


class CommandEndedError(Exception):
    """A command ended, or was ended by a signal, where an answer was due."""


class _Running(NamedTuple):
    """A process, its standard input and its standard output."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]


class Command:
    """A command and the lines that it says."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._running: _Running | None = None
        self._unread = b""
        self.line = 0
        """How many lines it has said since it was started."""

    @property
    def is_running(self) -> bool:
        """Whether it was started, and nothing went wrong since."""
        return self._running is not None

    def start(self) -> Json:
        """Start it and return how it introduces itself.

        Raises:
            OSError: it cannot be started.
            ProtocolError, CommandEndedError: it does not introduce itself.
        """
        self.kill()
        self._unread, self.line = b"", 0
        process = subprocess.Popen(
            self._words, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=_standard_error()
        )
        if process.stdin is not None and process.stdout is not None:  # they are pipes
            self._running = _Running(process, process.stdin, process.stdout)
        started = self.ask({"type": "start", "id": 0, "protocol": PROTOCOL}, "started", "error")
        if started["type"] == "error":
            self.kill()
            raise ProtocolError(f"it refuses to start: {printable(started['text'])}")
        return started

    def ask(self, message: Json, *kinds: str) -> Json:
        """Send a message and return the answer, which is of one of these kinds.

        Raises:
            ProtocolError: it is not; the command is killed, since nobody knows what it will say next.
            CommandEndedError: the command ended.
        """
        try:
            self._refuse_unasked()
            self._send(message)
            return read_line(self._next_line(), self.line, kinds, message["id"])
        except BaseException:
            self.kill()
            raise

    def share_memory_limit(self) -> None:
        """Give the command the limit that its parent has by now, if that is one."""
        if sys.platform == "linux" and self._running is not None:
            import resource

            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            with contextlib.suppress(OSError, ValueError):  # it has ended, or has a lower limit of its own
                resource.prlimit(self._running.process.pid, resource.RLIMIT_DATA, (soft, hard))

    def stop(self) -> None:
        """Tell it to stop, and kill it where it does not."""
        if self._running is None:
            return
        with contextlib.suppress(OSError, CommandEndedError, ProtocolError):
            self._send({"type": "stop"})
            self._running.requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.process.wait(SECONDS_TO_END)
        self.kill()

    def kill(self) -> None:
        """End it now."""
        running, self._running = self._running, None
        if running is not None:
            running.process.kill()
            running.process.wait()
            running.requests.close()
            running.answers.close()

    def _live(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the command was not started")
        return self._running

    def _send(self, message: Json) -> None:
        line = memoryview(json.dumps(message).encode("ascii") + b"\n")
        try:
            while line:
                line = line[os.write(self._live().requests.fileno(), line) :]
        except BrokenPipeError:
            raise self._ended() from None

    def _next_line(self) -> bytes:
        while b"\n" not in self._unread:
            if len(self._unread) > LONGEST_LINE:
                shown = beginning(self._unread)
                raise ProtocolError(f"line {self.line + 1} of its output is longer than {LONGEST_LINE} bytes: {shown}")
            more = self._read()
            if not more:
                raise self._ended()
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        self.line += 1
        return line

    def _refuse_unasked(self) -> None:
        """See that the command says nothing before it is asked."""
        if not self._unread and self._has_said_more():
            self._unread = self._read()
        if self._unread:
            shown = beginning(self._unread.partition(b"\n")[0])
            raise ProtocolError(f"line {self.line + 1} of its output answers nothing that it was asked: {shown}")

    def _has_said_more(self) -> bool:
        return os.name == "posix" and bool(select.select([self._live().answers], [], [], 0)[0])

    def _read(self) -> bytes:
        return os.read(self._live().answers.fileno(), 2**16)

    def _ended(self) -> Exception:
        """Say what it means that nothing more comes."""
        if self._unread:
            return ProtocolError(f"line {self.line + 1} of its output breaks off: {beginning(self._unread)}")
        try:
            code = self._live().process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return ProtocolError(f"its output or input was closed behind line {self.line}, and an answer was due")
        cause = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return CommandEndedError(f"the command ended {cause} behind line {self.line} of its output")


def _standard_error() -> int | None:
    """Return where the command's standard error goes: to ours.

    While a target loads in its own process, standard error is silenced there, because frameworks greet; standard output
    goes where standard error goes otherwise. What a command says is no greeting.
    """
    is_silenced = os.path.samestat(os.fstat(2), os.stat(os.devnull))
    return 1 if is_silenced and multiprocessing.parent_process() is not None else None

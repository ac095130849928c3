"""The process of a target: it loads it, and answers calls until there are no more.

It is never sent an expected value. Whatever the target prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from .answers import ask
from .targets import TargetError, load_target

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


def work(calls: Connection, answers: Connection, spec: str, megabytes: int) -> None:
    """Be the child."""
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, so that what a target starts ends with it
    os.dup2(2, 1)  # what a target prints must not mix with the report
    os.environ.update(ENVIRONMENT)
    answer_calls(calls, answers, spec, megabytes)


def answer_calls(calls: Connection, answers: Connection, spec: str, megabytes: int) -> None:
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

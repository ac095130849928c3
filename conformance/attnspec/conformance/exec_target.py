"""The target `exec:COMMAND`: a program in any language that speaks the process protocol."""

from __future__ import annotations

import itertools
import shlex
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.tensor_files import read_tensors, write_tensors

from .calls import DTYPES, Array, Call
from .exec_process import Command, CommandEndedError
from .operations import OPERATIONS
from .protocol import (
    Introduction,
    ProtocolError,
    arguments_of,
    introduction_of,
    options_needed,
    printable,
    run_message,
)
from .target_protocol import ChangedInputError, TargetError, UnsupportedCaseError

PREFIX = "exec:"


class CommandError(Exception):
    """A command says that it could not compute a call."""


class ExecTarget:
    """A command, asked over its standard input and output; tensors go by file.

    Args:
        spec: `exec:` and the command with its arguments, quoted as in a shell.

    Raises:
        TargetError: there is no command, it cannot be started, or it does not introduce itself as the protocol says.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec
        self._command = Command(_words_of(spec))
        self._ids = itertools.count(1)
        try:
            self._introduction = self._start()
        except OSError as error:
            raise TargetError(f"target {spec!r} cannot be started: {error.strerror}: {error.filename}") from None
        except (ProtocolError, CommandEndedError) as error:
            raise TargetError(f"target {spec!r} does not speak the protocol: {error}") from None
        said = self._introduction
        self.version = f"{said.name} {said.version} ({said.language})"
        self.profiles: Mapping[str, str] = said.profiles
        weakref.finalize(self, self._command.stop)

    def unsupported(self, call: Call) -> str | None:
        """Say what of a call the command has not declared: operation, direction, dtype or option."""
        operations = self._introduction.operations
        if call.operation not in operations:
            return f"the command has {', '.join(operations)} alone"
        ability = operations[call.operation]
        if call.direction not in ability.directions:
            return f"the command has no {call.direction} direction of {call.operation}"
        if call.dtype not in ability.dtypes:
            return f"the command takes no {call.dtype}"
        try:
            arguments = arguments_of(call, call.tensors, ability.options)
        except ValueError as error:
            return f"the call cannot be written as JSON: {error}"
        lacking = [name for name in options_needed(call, arguments) if name not in ability.options]
        return f"the command takes no `{lacking[0]}`" if lacking else None

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the dtype of the call (S16); partial results are at least float32, their output may be the call's.

        A gradient has the dtype of what it belongs to.
        """
        if call.direction == "backward":
            return {name: (call.tensors[name].dtype,) for name in call.results}
        if not OPERATIONS[call.operation].is_partial:
            return dict.fromkeys(call.results, (DTYPES[call.dtype],))
        wide = tuple(dict.fromkeys((DTYPES[accumulation_dtype(call.dtype)], DTYPES["float64"])))
        own = tuple(dict.fromkeys((DTYPES[call.dtype], *wide)))
        return {name: own if name == "output" else wide for name in call.results}

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Ask the command, which is started again if it ended or broke the protocol.

        Raises:
            UnsupportedCaseError: it says that it does not do this.
            CommandEndedError: it ended.
            ProtocolError: it said or wrote something else than an answer.
            CommandError: it says that it failed.
            ChangedInputError: it wrote into the file of its tensors.
        """
        if not self._command.is_running:
            self._introduction = self._start()
        self._command.share_memory_limit()
        arguments = arguments_of(call, tensors, self._introduction.operations[call.operation].options)
        with tempfile.TemporaryDirectory(prefix="attnspec-") as folder:
            given, wanted = Path(folder, "tensors.safetensors"), Path(folder, "results.safetensors")
            payload = write_tensors(arguments.tensors)
            given.write_bytes(payload)
            message = run_message(call, arguments.options, next(self._ids), given, wanted)
            answer = self._command.ask(message, "done", "unsupported", "error")
            if answer["type"] == "unsupported":
                raise UnsupportedCaseError(printable(answer["reason"]))
            if answer["type"] == "error":
                raise CommandError(printable(answer["text"]))
            if not given.is_file() or given.read_bytes() != payload:
                raise ChangedInputError("the target changed the file of its tensors (S17)")
            results = self._read(wanted, call)
        return {name: _as_asked(name, result, call) for name, result in results.items()}

    def _start(self) -> Introduction:
        try:
            return introduction_of(self._command.start(), self._command.line)
        except ProtocolError:
            self._command.kill()
            raise

    def _read(self, path: Path, call: Call) -> dict[str, Array]:
        said = f"line {self._command.line} of its output says done, but"
        try:
            results = read_tensors(path.read_bytes())
        except FileNotFoundError:
            raise ProtocolError(f"{said} there is no file of results") from None
        except OSError as error:
            raise ProtocolError(f"{said} the file of results cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ProtocolError(f"{said} the file of results is wrong: {error}") from None
        if set(results) != set(call.results):
            held, wanted = (", ".join(sorted(names)) or "nothing" for names in (results, call.results))
            raise ProtocolError(f"{said} the file of results holds {printable(held)[:200]}; expected {wanted}")
        return results


def _words_of(spec: str) -> list[str]:
    try:
        words = shlex.split(spec.removeprefix(PREFIX))
    except ValueError as error:
        raise TargetError(f"target {spec!r} cannot be read as a command: {error}") from None
    if not words:
        raise TargetError(f"target {spec!r} names no command; say exec: and the command, as in 'exec:./my_target'")
    return words


def _as_asked(name: str, result: Array, call: Call) -> Array:
    """Take the axes of 1 away again that a bias was sent with (its gradient has them)."""
    shape = call.tensors[name].shape if call.direction == "backward" and name in call.tensors else result.shape
    is_padded = name == "bias" and result.shape == (1,) * (result.ndim - len(shape)) + shape
    return result.reshape(shape) if is_padded else result

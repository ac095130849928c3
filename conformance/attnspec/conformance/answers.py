"""Asking a target: it is called twice, on read-only copies of its tensors, and whatever it does is an answer."""

from __future__ import annotations

import time
from typing import NamedTuple

from .calls import Array, Call
from .exec_process import CommandEndedError
from .results import Status
from .targets import ChangedInputError, Target, UnsupportedCaseError


class Answer(NamedTuple):
    """What a target made of a call: results, or why there are none."""

    results: dict[str, Array] | None
    dtypes: dict[str, tuple[str, ...]]
    """The dtypes that each result may have."""
    is_repeatable: bool
    """Whether the second call gave the same bits."""
    status: Status | None
    """Where there are no results: what that is."""
    message: str
    seconds: float
    """Of the first call."""


def ask(target: Target, call: Call) -> Answer:
    """Call a target twice, and see that its tensors come back unchanged."""
    reason = target.unsupported(call)
    if reason is not None:
        return no_results(Status.UNSUPPORTED, reason)
    started = time.perf_counter()
    try:
        results = _results(target, call)
        seconds = time.perf_counter() - started
        repeated = _results(target, call)
        dtypes = target.result_dtypes(call)
    except UnsupportedCaseError as error:
        return no_results(Status.UNSUPPORTED, str(error))
    except ChangedInputError as error:
        return no_results(Status.FAIL, str(error))
    except CommandEndedError as error:
        return no_results(Status.CRASH, str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a target raises is its answer, not ours; so is an exit
        return no_results(Status.ERROR, f"{type(error).__name__}: {error}".removesuffix(": "))
    names = {name: tuple(str(dtype) for dtype in allowed) for name, allowed in dtypes.items()}
    return Answer(results, names, same_bits(results, repeated), None, "", seconds)


def no_results(status: Status, message: str) -> Answer:
    """Make an answer without results."""
    return Answer(None, {}, False, status, message, 0.0)


def same_bits(left: dict[str, Array], right: dict[str, Array]) -> bool:
    """Say whether results are the same, bit for bit."""
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def _results(target: Target, call: Call) -> dict[str, Array]:
    tensors = {name: tensor.copy() for name, tensor in call.tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    results = {name: result.copy() for name, result in target.run(call, tensors).items()}
    for name, tensor in tensors.items():
        if tensor.tobytes() != call.tensors[name].tobytes():
            raise ChangedInputError(f"the target changed its input `{name}` (S17)")
    return results

"""Reproducers: a failing call as a script that runs: its tensors, the target, what it gives and what it should."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from attnspec.contract.mask_json import mask_to_json
from attnspec.contract.masks import Mask

from .answers import same_bits
from .calls import MASKS, Array, Call
from .cases import Case, shipped_cases
from .operations import OPERATIONS
from .profiles import profile_for
from .session import Session
from .shrinking import ASKS, SECONDS, Shrunk, shrink

DIGITS = 9
"""So many significant digits of a number say a float32 to the bit; a float64 needs 17."""
MOST_ELEMENTS, MOST_LINES = 300, 7
"""A call with more elements that is a vector's own is read from the vector; so many lines of a result are shown."""


class Reproducer:
    """Writes reproducers for the failing cases of one target, which runs in a process of its own.

    Args:
        spec: of the target, as for `load_target`.
        profiles: the arithmetic that it declares, by dtype.
        asks: how often it may be asked for one case.
        seconds: how long that may take, without loading it.
    """

    def __init__(
        self, spec: str, profiles: Mapping[str, str] | None = None, *, asks: int = ASKS, seconds: float = SECONDS
    ) -> None:
        self._spec, self._profiles, self._asks, self._seconds = spec, profiles or {}, asks, seconds
        self._session = Session(spec)

    def __call__(self, case: Case) -> str | None:
        """Shrink a case that the target fails, and write the script; None: it passes.

        Raises:
            TargetError: the target cannot be loaded.
        """
        profile = profile_for(case.dtype, None, self._profiles)
        self._session.load()  # what that takes is not counted
        shrunk = shrink(case.call, self._session.ask, profile, asks=self._asks, seconds=self._seconds)
        return None if shrunk is None else script(self._spec, shrunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()


def script(spec: str, shrunk: Shrunk) -> str:
    """Write a script that asks a target for a call, and prints what it gives beside what is right."""
    call = shrunk.call
    results = shrunk.answer.results or {}
    title = f'"""{spec} on a {call.operation} at {call.dtype}, from the vector {call.id}."""'
    if sum(tensor.size for tensor in call.tensors.values()) > MOST_ELEMENTS and _is_vector(call):
        return "\n".join((title, "", *_by_vector(spec, call), *_comparison(shrunk, results))) + "\n"
    lines = [
        title,
        "",
        *_imports(call),
        "",
        "tensors = {",
        *(f'    "{name}": {_literal(call.tensors[name])},' for name in _ordered(call)),
        "}",
        f"options = {_options(call)}",
        "",
        "call = Call(",
        f'    id="shrunk", operation="{call.operation}", dtype="{call.dtype}", options=options, tensors=tensors,',
        f'    results={call.results!r}, direction="{call.direction}",',
        ")",
        f"answer = ask(load_target({spec!r}), call)",
        "print(answer.status or answer.results)",
    ]
    return "\n".join((*lines, *_comparison(shrunk, results))) + "\n"


def _comparison(shrunk: Shrunk, results: Mapping[str, Array]) -> list[str]:
    lines = []
    for name in shrunk.call.results:
        lines.append(f"# {name}: expected ± bound, and what came:")
        lines += _commented("expected", shrunk.expected[name])
        lines += _commented("±", shrunk.bounds[name], digits=2)
        lines += _commented("came", results[name]) if name in results else ["#   nothing came"]
    return lines


def _is_vector(call: Call) -> bool:
    """Say whether a call is a shipped vector's, as it came."""
    found = [case for case in shipped_cases() if case.id == call.id and case.options == call.options]
    return bool(found) and same_bits(dict(found[0].tensors), dict(call.tensors))


def _by_vector(spec: str, call: Call) -> list[str]:
    return [
        "from attnspec.conformance import load_cases",
        "from attnspec.conformance.answers import ask",
        "from attnspec.conformance.targets import load_target",
        "",
        f'(case,) = (case for case in load_cases() if case.id == "{call.id}")',
        f"answer = ask(load_target({spec!r}), case.call)",
        "print(answer.status or answer.results)",
    ]


def _ordered(call: Call) -> list[str]:
    """Name the tensors, those that the operation takes first."""
    first = [name for name in OPERATIONS[call.operation].tensors if name in call.tensors]
    return first + [name for name in call.tensors if name not in first]


def _imports(call: Call) -> list[str]:
    has_half = any(array.dtype.name == "bfloat16" for array in call.tensors.values())
    found = ["import ml_dtypes"] if has_half else []
    found += ["import numpy as np", "from numpy import inf, nan", ""]
    return [
        *found,
        "from attnspec.conformance.answers import ask",
        "from attnspec.conformance.calls import Call",
        "from attnspec.conformance.targets import load_target",
    ]


def _literal(array: Array) -> str:
    """Write an array as Python, to the bit; an empty one by its shape."""
    name = array.dtype.name
    dtype = "ml_dtypes.bfloat16" if name == "bfloat16" else f"np.{name}" if name != "bool" else "bool"
    if not array.size:
        return f"np.zeros({array.shape}, {dtype})"
    values: Any = array.tolist() if array.dtype.kind in "biuf" and name == "float64" else _short(array)
    return f"np.array({values}, {dtype})"


def _short(array: Array) -> Any:
    """Return nested lists of the shortest numbers that the dtype reads as the same."""
    if array.dtype.kind in "biu":
        return array.tolist()
    if not array.ndim:
        return _number(array[()])
    return [_short(row) if row.ndim else _number(row) for row in (np.asarray(each) for each in array)]


def _number(value: Any) -> float:
    for digits in range(1, DIGITS + 1):
        number = float(f"{float(value):.{digits}g}")
        if value.dtype.type(number) == value:
            return number
    return float(value)


def _options(call: Call) -> str:
    options = {name: value for name, value in call.options.items() if value not in (None, False)}
    for name in MASKS:
        if isinstance(options.get(name), Mask):
            options[name] = mask_to_json(options[name])
    return repr({name: _plain(value) for name, value in options.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _commented(word: str, array: Array, digits: int = 6) -> list[str]:
    numbers = np.asarray(array, np.float64)
    text = np.array2string(numbers, precision=digits, max_line_width=100, threshold=40, edgeitems=2)
    first, *others = (line for line in text.splitlines() if line.strip())
    rest = [*others[:MOST_LINES], "…"] if len(others) > MOST_LINES else others
    return [f"#   {word} {first}", *(f"#   {line}" for line in rest)]

"""Whether the vectors may judge anybody: whole, admitted, and sharp enough to catch the faults that are planted."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .admission import evaluate, why_not_admitted
from .calls import Array
from .cases import (
    MANIFEST,
    SCHEMA,
    SUMS,
    VECTORS,
    Case,
    VectorError,
    check_sums,
    load_cases,
    load_manifest,
    read_case,
)
from .operation import Evaluation
from .profiles import default_profile
from .zoo import ROBUST, ZooFault, margin, run_function, zoo_faults

WIDE = ("float32", "float64")
"""Where every fault must be caught: half precisions hide the small ones in their rounding."""
Advance = Callable[[str], None]


class Finding(NamedTuple):
    """What one check found."""

    check: str
    what: str
    """What was looked at, in words."""
    number: int
    """How many."""
    problems: tuple[str, ...]
    seconds: float
    smallest: float | None = None
    """The smallest margin, where there are margins."""


def check_vectors(
    folder: Path = VECTORS, *, quick: bool = False, progress: Advance = lambda _: None
) -> Iterator[Finding]:
    """Check a folder of vectors, and yield what each check finds; nothing follows files that cannot be read.

    `quick` admits float32 alone, and leaves out the faults that no vector names. The zoo's faults are held against the
    shipped vectors only: another folder need not have a vector for each.
    """
    started = time.perf_counter()
    try:
        cases = load_cases(folder)
        problems = _strangers(folder)
    except VectorError as error:
        yield Finding("files", "schema and hashes", 0, (str(error),), time.perf_counter() - started)
        return
    yield Finding("files", "schema and hashes, nothing else there", len(cases), problems, _since(started))
    yield _timed("flipped bits", "one in every file is noticed", lambda: (len(cases) + 3, _flips(folder)))
    by_id = {case.id: case for case in cases}
    twins = [case for case in cases if case.same_bits_as is not None]
    yield _timed(
        "twins",
        "the same results are expected to the bit",
        lambda: (len(twins), (f"{case.id} and {case.same_bits_as}" for case in twins if not _same(case, by_id))),
    )
    chosen = [case for case in cases if not quick or case.dtype == "float32"]

    @functools.cache
    def evaluation_of(identifier: str) -> Evaluation:
        progress(identifier)
        case = by_id[identifier]
        return evaluate(case, default_profile(case.dtype))._replace(stages=None, stage_bounds=None)

    yield _timed(
        "admission",
        "bounds decide; zeros, constant, mean, echo and shuffled rows are rejected",
        lambda: (len(chosen), _refusals(chosen, evaluation_of)),
    )
    named = [case for case in chosen if case.catches]
    yield _margins("named faults", "each is caught by the vectors that name it", _of_names(named, evaluation_of))
    if folder == VECTORS and not quick:
        what = "every planted fault is caught by a vector of its clause"
        yield _margins("all faults", what, _of_clauses(cases, evaluation_of))


def caught(case: Case, evaluation: Evaluation) -> dict[str, float]:
    """Return, for each planted fault that a vector names, its largest error over the bound.

    Raises:
        ValueError: a fault that does not exist, or that is not planted into the vector's operation.
    """
    faults = {fault.name: fault for fault in zoo_faults()}
    margins = {}
    for name in case.catches:
        if name not in faults or case.operation not in faults[name].operations:
            raise ValueError(f"{case.id} names {name!r}, which is no fault of a {case.operation}")
        margins[name] = margin(run_function(faults[name].function, case), case, evaluation)
    return margins


def flipped(payload: bytes, name: str) -> bytes:
    """Return a payload with one bit flipped, a different one for each name."""
    place = zlib.crc32(name.encode())
    changed = bytearray(payload)
    changed[place % len(changed)] ^= 1 << (place >> 28) % 8
    return bytes(changed)


def _flips(folder: Path) -> Iterator[str]:
    """Flip a bit of each file, and name the files where nobody notices."""
    for entry in load_manifest(folder)["cases"]:
        path = folder / entry["payload"]
        try:
            read_case(entry, flipped(path.read_bytes(), path.name), path)
        except VectorError:
            continue
        yield f"{path}: a flipped bit is not noticed"
    whole = {name: (folder / name).read_bytes() for name in (MANIFEST, SCHEMA, SUMS)}
    for name in whole:
        try:
            check_sums(folder, whole | {name: flipped(whole[name], name)})
        except VectorError:
            continue
        yield f"{folder / name}: a flipped bit is not noticed"


def _strangers(folder: Path) -> tuple[str, ...]:
    known = {entry["payload"] for entry in load_manifest(folder)["cases"]} | {MANIFEST, SCHEMA, SUMS}
    return tuple(f"{path} is named by no vector" for path in sorted(folder.iterdir()) if path.name not in known)


def _same(case: Case, by_id: dict[str, Case]) -> bool:
    twin = by_id[case.same_bits_as or ""]
    return case.expected.keys() == twin.expected.keys() and all(
        _bits(case.expected[name]) == _bits(twin.expected[name]) for name in case.expected
    )


def _bits(array: Array) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def _refusals(cases: Sequence[Case], evaluation_of: Callable[[str], Evaluation]) -> Iterator[str]:
    for case in cases:
        reason = why_not_admitted(case, evaluation_of(case.id))
        if reason is not None:
            yield f"{case.id}: {reason}"


Margins = Iterable[tuple[str, str, float] | str]
"""Fault, vector, and the fault's error over the bound; or what kept it from being known."""


def _of_names(cases: Sequence[Case], evaluation_of: Callable[[str], Evaluation]) -> Margins:
    for case in cases:
        try:
            margins = caught(case, evaluation_of(case.id))
        except ValueError as error:
            yield str(error)
            continue
        yield from ((name, case.id, found) for name, found in margins.items())


def _of_clauses(cases: Sequence[Case], evaluation_of: Callable[[str], Evaluation]) -> Margins:
    """Look for the first vector of a fault's operation and clause that catches it, and else for the best one."""
    for fault in zoo_faults():
        fitting = [case for case in cases if _fits(case, fault)]
        best = ("no vector", 0.0)
        for case in fitting:
            found = margin(run_function(fault.function, case), case, evaluation_of(case.id))
            best = max(best, (case.id, found), key=lambda pair: pair[1])
            if found >= ROBUST:
                break
        yield fault.name, *best


def _fits(case: Case, fault: ZooFault) -> bool:
    own = case.operation in fault.operations and fault.clause in case.clauses
    return own and case.direction == "forward" and case.dtype in WIDE


def _margins(check: str, what: str, margins: Margins) -> Finding:
    started = time.perf_counter()
    found = list(margins)
    known = [each for each in found if not isinstance(each, str)]
    problems = [each for each in found if isinstance(each, str)]
    problems += [
        f"{fault}: {case} sees {margin:.3g} times the bound, and {ROBUST:g} are needed"
        for fault, case, margin in known
        if not margin >= ROBUST
    ]
    smallest = min((margin for *_, margin in known), default=None)
    return Finding(check, what, len(found), tuple(problems), _since(started), smallest)


def _timed(check: str, what: str, look: Callable[[], tuple[int, Iterable[str]]]) -> Finding:
    started = time.perf_counter()
    number, problems = look()
    return Finding(check, what, number, tuple(problems), _since(started))


def _since(started: float) -> float:
    return time.perf_counter() - started

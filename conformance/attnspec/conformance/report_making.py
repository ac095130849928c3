"""A report out of results: what they were made with, what is likely wrong, and where the errors stand."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .case_maps import maps_of
from .cases import VECTORS, Case, shipped_cases
from .judgement import Judge
from .results import Diagnosis, Report, Result, Run

MOST_SCRIPTS, SECONDS = 3, 10.0
"""So many causes of a target get a script, as long as the time is not up, loading the target not counted."""


def make_report(
    results: Sequence[Result],
    judges: Sequence[Judge],
    versions: Mapping[str, str],
    *,
    missing: Sequence[str] = (),
    diagnosed: bool,
    can_reload: bool = False,
) -> Report:
    """Put together what a run gave.

    With `diagnosed`, the cause of every target's failures is looked for. With `can_reload`, targets are loaded again by
    their names, in processes of their own, and scripts made that reproduce the first causes.
    """
    suite, manifest = vectors_of(VECTORS)
    cases = {case.id: case for case in shipped_cases()} if any(judge.kept for judge in judges) else {}
    return Report(
        results=tuple(results),
        versions=dict(versions),
        missing=tuple(missing),
        diagnoses=tuple(found for judge in judges for found in _diagnose(judge, can_reload)) if diagnosed else (),
        maps=tuple(found for judge in judges for found in maps_of(judge, cases)),
        runs=(_run(results, versions),),
        suite=suite,
        manifest=manifest,
    )


def _run(results: Sequence[Result], versions: Mapping[str, str]) -> Run:
    profiles: dict[str, dict[str, str]] = {}
    for result in results:
        profiles.setdefault(result.target, {})[result.dtype] = result.profile
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Run(tuple(profiles), dict(versions), profiles, machine(), now)


def _diagnose(judge: Judge, can_reload: bool) -> tuple[Diagnosis, ...]:
    if not judge.failures:
        return ()
    from .diagnosis import diagnose  # here, because it loads every fault that is known

    found = diagnose(judge.target, judge.failures, passed=judge.passed, profiles=judge.profiles())
    return tuple(_with_scripts(judge, found) if can_reload else found)


def _with_scripts(judge: Judge, found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Add a script to the first causes: the target is asked for ever smaller calls, in a process of its own."""
    from .reproducer import Reproducer

    cases = {case.id: case for case in shipped_cases()}
    complete, until = list(found), time.monotonic() + SECONDS
    with Reproducer(judge.target, judge.profiles(), seconds=SECONDS / 2) as reproduce:
        for place, diagnosis in enumerate(complete[:MOST_SCRIPTS]):
            if time.monotonic() > until:
                break
            smallest = min((cases[name] for name in diagnosis.cases), key=_size)
            try:
                script = reproduce(smallest)
            except Exception as error:  # the results are there, and are not lost for want of a script
                script = f"# no script could be made of {smallest.id}: {type(error).__name__}: {error}\n"
            complete[place] = diagnosis._replace(reproducer=script)
    return complete


def _size(case: Case) -> int:
    return sum(tensor.size for tensor in case.tensors.values())


@functools.cache
def vectors_of(folder: Path) -> tuple[str, str]:
    """Return the version of the vectors in a folder, and the sha256 of their manifest."""
    data = (folder / "manifest.json").read_bytes()
    return json.loads(data)["suite"], hashlib.sha256(data).hexdigest()


def machine() -> str:
    """Describe this machine in a few words, without its name."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{platform.system()} {platform.machine()}, {processor}, {os.cpu_count()} cores"

"""A report out of results: what they were made with, what is likely wrong, and where the errors stand."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from .case_maps import maps_of
from .cases import VECTORS, shipped_cases
from .judgement import Judge
from .results import Diagnosis, Report, Result, Run


def make_report(
    results: Sequence[Result],
    judges: Sequence[Judge],
    versions: Mapping[str, str],
    *,
    missing: Sequence[str] = (),
    diagnosed: bool,
) -> Report:
    """Put together what a run gave; with `diagnosed`, look for the cause of every target's failures."""
    suite, manifest = vectors_of(VECTORS)
    cases = {case.id: case for case in shipped_cases()} if any(judge.kept for judge in judges) else {}
    return Report(
        results=tuple(results),
        versions=dict(versions),
        missing=tuple(missing),
        diagnoses=tuple(found for judge in judges for found in _diagnose(judge)) if diagnosed else (),
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


def _diagnose(judge: Judge) -> tuple[Diagnosis, ...]:
    if not judge.failures:
        return ()
    from .diagnosis import diagnose  # here, because it loads every fault that is known

    found = diagnose(judge.target, judge.failures, passed=judge.passed, profiles=judge.profiles())
    return tuple(Diagnosis(*each) for each in found)


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

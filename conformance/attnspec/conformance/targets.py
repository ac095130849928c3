"""Targets, the things under test: how each is found. A target takes a call, and never sees the answer."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .backend_target import BackendTarget as BackendTarget
from .backends import BACKEND_NAMES
from .callable_target import KEYWORDS as KEYWORDS
from .callable_target import CallableTarget as CallableTarget
from .folder_target import FolderTarget as FolderTarget
from .native_arrays import to_numpy as to_numpy
from .target_protocol import ChangedInputError as ChangedInputError
from .target_protocol import MissingFrameworkError as MissingFrameworkError
from .target_protocol import Target as Target
from .target_protocol import TargetError as TargetError
from .target_protocol import UnsupportedCaseError as UnsupportedCaseError
from .target_protocol import what_went_wrong

COMMAND_PREFIX = "exec:"


def load_target(spec: str | Callable[..., Any]) -> Target:
    """Find a target by its name or place, or make one of a Python callable.

    Args:
        spec: a backend ("torch") or a framework's own attention ("torch.sdpa"), `module:callable`,
            `path.py:callable`, `exec:COMMAND`, a folder of results, or a callable itself.

    Raises:
        TargetError: there is no such target, or it cannot be loaded.
        MissingFrameworkError: its framework is not installed.
    """
    if callable(spec):
        return CallableTarget(getattr(spec, "__name__", type(spec).__name__), spec)
    if not isinstance(spec, str):
        raise TargetError(f"a target is a name or a callable; got {spec!r}")
    if spec in BACKEND_NAMES:
        return BackendTarget(spec)
    if spec.startswith(COMMAND_PREFIX):
        from .exec_target import ExecTarget  # which imports this module, as natives does

        return ExecTarget(spec)
    from .natives import NATIVE_NAMES, load_native

    if spec in NATIVE_NAMES:
        return load_native(spec)
    if spec and Path(spec).is_dir():
        return FolderTarget(spec, Path(spec))
    source, _, attribute = spec.rpartition(":")
    if not source or not attribute:
        raise TargetError(_unknown(spec, (*BACKEND_NAMES, *NATIVE_NAMES)))
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = sorted(name for name, value in vars(module).items() if inspect.isfunction(value))
        raise TargetError(
            f"{source} has no callable {attribute!r}; its functions are: {', '.join(functions) or 'none'}"
            f"{_closest(attribute, functions)}"
        )
    return CallableTarget(spec, function)


def _unknown(spec: str, names: tuple[str, ...]) -> str:
    if spec.endswith((".py", ".py:")):
        return f"there is no target {spec!r}: name the function in the file, as in {spec.rstrip(':')}:my_attention"
    if spec.endswith(("/", "\\")):
        return f"there is no folder {spec}"
    return (
        f"there is no target {spec!r}: it must be one of {', '.join(names)}, or "
        f"module:callable, path.py:callable, {COMMAND_PREFIX}COMMAND, or a folder of results{_closest(spec, names)}"
    )


def _closest(name: str, names: tuple[str, ...] | list[str]) -> str:
    closest = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(closest)}?" if closest else ""


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise TargetError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"attnspec_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise _not_imported(str(path), error) from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have put its own order there
            sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)  # for imports inside its functions; at the end, where it hides nothing installed
    return module


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _not_imported(f"module {name!r}", error) from error


def _not_imported(source: str, error: BaseException) -> TargetError:
    if isinstance(error, TargetError):  # a declaration that says itself what is wrong
        return TargetError(f"{source}: {error}")
    return TargetError(f"{source} cannot be imported: {what_went_wrong(error)}")

"""Targets: the things under test. Each takes a case, returns its output as an array, and never sees the answer."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from attnspec.contract.masks import as_mask
from attnspec.reference.attention import prepare

from .backends import BACKEND_NAMES, list_backends, load_backend
from .cases import DTYPES, Case
from .mask_parts import STRUCTURED, take_apart, to_array
from .operations import OPERATIONS
from .profiles import Profile, default_profile

Array: TypeAlias = np.ndarray[Any, Any]

KEYWORDS = frozenset({"mask", "bias", "scale", "softcap", *STRUCTURED})
"""Everything that a plain callable may be given beside query, key and value."""


class TargetError(Exception):
    """A target that cannot be found, loaded or called as asked: wrong usage, not a verdict."""


class MissingFrameworkError(TargetError):
    """A built-in target whose framework is not installed."""


class Target(Protocol):
    """A thing under test."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def version(self) -> str:
        """What it is a version of, for the report."""

    def unsupported(self, case: Case) -> str | None:
        """Say why this target cannot take a case, or None where it can."""

    def output_dtype(self, case: Case) -> np.dtype[Any]:
        """Name the dtype that its output must have."""

    def run(self, case: Case, tensors: dict[str, Array]) -> Array:
        """Compute the case from these tensors, which it may not change; whatever it raises is a result."""


class BackendTarget:
    """The reference, or one of attnspec's own backends."""

    def __init__(self, name: str) -> None:
        self.name = name
        backend = next(backend for backend in list_backends() if backend.name == name)
        if not backend.is_available:
            raise MissingFrameworkError(
                f"target {name!r} needs {backend.framework}; install it with: {backend.install}"
            )
        self.version = f"{backend.framework} {backend.version}"
        try:
            self._module = load_backend(name)
        except Exception as error:
            raise TargetError(f"target {name!r} cannot be imported: {_what(error)}") from error

    def unsupported(self, case: Case) -> str | None:
        """Say that JAX without 64-bit has no float64; everything else is supported."""
        if self.name == "jax" and case.dtype == "float64" and not _jax_has_64_bit():
            return "JAX runs without 64-bit numbers (jax_enable_x64)"
        return None

    def output_dtype(self, case: Case) -> np.dtype[Any]:
        """Return the query's dtype (S16); the reference returns float64 by definition."""
        dtype: np.dtype[Any] = DTYPES["float64" if self.name == "reference" else case.dtype]
        return dtype

    def run(self, case: Case, tensors: dict[str, Array]) -> Array:
        """Call the backend with NumPy arrays and return what it computed."""
        options = case.call_options()
        if "bias" in options:
            options["bias"] = tensors["bias"]
        return to_numpy(OPERATIONS[case.operation].call(self._module, tensors, options))


class CallableTarget:
    """A plain function `fn(query, key, value, *, …)` over NumPy arrays in the canonical layout."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.version = "Python callable"
        self._function = function
        self._parameters = _parameters_of(name, function)

    def unsupported(self, case: Case) -> str | None:
        """Name the keyword that a case needs and the function lacks, or that the function demands and a case lacks."""
        if case.operation != "dot_product_attention":
            return f"a plain callable is a dot_product_attention, not a {case.operation}"
        given = self._keywords(case, case.tensors)
        missing = [name for name in given if not self._accepts(name)]
        if missing:
            return f"the function takes no `{missing[0]}`"
        absent = sorted(self._parameters.demanded - given.keys())
        return f"the function demands `{absent[0]}`, which this case does not give" if absent else None

    def output_dtype(self, case: Case) -> np.dtype[Any]:
        """Return the query's dtype (S16)."""
        dtype: np.dtype[Any] = DTYPES[case.dtype]
        return dtype

    def run(self, case: Case, tensors: dict[str, Array]) -> Array:
        """Call the function with the keywords that the case needs and no others."""
        result = self._function(tensors["query"], tensors["key"], tensors["value"], **self._keywords(case, tensors))
        if isinstance(result, tuple):
            result = result[0]
        return to_numpy(result)

    def _accepts(self, name: str) -> bool:
        return self._parameters.takes_all or name in self._parameters.accepted

    def _keywords(self, case: Case, tensors: Any) -> dict[str, Any]:
        options = case.call_options()
        mask = options.pop("mask", None)
        bias = options.pop("bias", None)
        if bias is not None:
            bias = np.asarray(tensors["bias"])
            options["bias"] = bias.reshape((1,) * (case.tensors["query"].ndim - bias.ndim) + bias.shape)
        if mask is not None:
            attention, _ = prepare(
                case.tensors["query"], case.tensors["key"], case.tensors["value"], mask, None, None, None
            )
            parts = take_apart(as_mask(mask), attention.sizes, [name for name in STRUCTURED if self._accepts(name)])
            options |= parts.keywords
            if parts.rest is not None:
                options["mask"] = to_array(parts.rest, attention.sizes)
        return options


def to_numpy(output: Any) -> Array:
    """Return an output as a NumPy array, bit for bit: a framework's own tensors included."""
    if isinstance(output, np.ndarray | np.generic):
        return np.asarray(output)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(output, torch.Tensor):
        output = output.detach().cpu()
        if output.dtype == torch.bfloat16:
            return np.asarray(output.contiguous().view(torch.int16).numpy().view(DTYPES["bfloat16"]))
        return np.asarray(output.numpy())
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return np.asarray(output)
    raise TypeError(f"the output must be an array; got {type(output).__name__}")


def load_target(spec: str | Callable[..., Any]) -> Target:
    """Find a target: a built-in name, `module:callable`, `path.py:callable`, or a Python callable itself."""
    if callable(spec):
        return CallableTarget(getattr(spec, "__name__", type(spec).__name__), spec)
    if spec in BACKEND_NAMES:
        return BackendTarget(spec)
    source, colon, attribute = spec.rpartition(":")
    if not colon or not source or not attribute:
        raise TargetError(
            f"there is no target {spec!r}: it must be one of {', '.join(BACKEND_NAMES)}, or module:callable, "
            f"or path.py:callable"
        )
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    function = getattr(module, attribute, None)
    if not callable(function):
        names = ", ".join(sorted(name for name, value in vars(module).items() if inspect.isfunction(value)))
        raise TargetError(f"{source} has no callable {attribute!r}; its functions are: {names or 'none'}")
    return CallableTarget(spec, function)


def profile_for(case: Case, override: Profile | None) -> Profile:
    """Return the profile that a case is held to: the one asked for where its dtype fits, else the default."""
    return override if override is not None and override.dtype == case.dtype else default_profile(case.dtype)


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
        raise TargetError(f"{path} cannot be imported: {_what(error)}") from error
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
        raise TargetError(f"module {name!r} cannot be imported: {_what(error)}") from error


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Parameters(NamedTuple):
    """What a function takes beside query, key and value."""

    accepted: frozenset[str]
    demanded: frozenset[str]
    """Those without a default."""
    takes_all: bool


def _parameters_of(name: str, function: Callable[..., Any]) -> _Parameters:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise TargetError(
            f"the signature of {name} cannot be read; wrap it in a function with named arguments"
        ) from None
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TargetError(f"{name} must take query, key and value; its signature is {signature}")
    others = [p for p in parameters if p not in positional[:3] and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    accepted = frozenset(p.name for p in others if p.kind is not p.POSITIONAL_ONLY)
    demanded = frozenset(p.name for p in others if p.default is p.empty)
    never_given = sorted(demanded - (accepted & KEYWORDS))
    if never_given:
        raise TargetError(
            f"{name} demands `{never_given[0]}`, which no case gives; "
            f"beside query, key and value the keywords are {', '.join(sorted(KEYWORDS))}"
        )
    return _Parameters(accepted, demanded, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _jax_has_64_bit() -> bool:
    import jax

    return bool(jax.dtypes.canonicalize_dtype(np.float64) == np.float64)

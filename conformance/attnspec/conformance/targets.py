"""Targets: the things under test. Each takes a case, returns its output as an array, and never sees the answer."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from attnspec.contract.masks import as_mask
from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.options import Given
from attnspec.reference.attention import prepare

from .backends import BACKEND_NAMES, list_backends, load_backend
from .calls import DTYPES, Call
from .derivatives import reference_gradients
from .differentiation import pull_back
from .mask_parts import STRUCTURED, bias_array, of_rank, take_apart, to_array
from .native_arrays import to_numpy
from .operation import results_of
from .operations import OPERATIONS

Array: TypeAlias = np.ndarray[Any, Any]

KEYWORDS = frozenset({"mask", "bias", "scale", "softcap", "sinks", "dropout_keep", "dropout_rate", *STRUCTURED})
"""Everything that a plain callable may be given beside query, key and value."""


class TargetError(Exception):
    """A target that cannot be found, loaded or called as asked: wrong usage, not a verdict."""


class UnsupportedCaseError(Exception):
    """What a target finds out only when it is called: it does not do this. Neither pass nor fail."""


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

    @property
    def profiles(self) -> Mapping[str, str]:
        """The arithmetic that it declares, by dtype; a dtype that is not there has its default profile."""

    def unsupported(self, call: Call) -> str | None:
        """Say why this target cannot take a call, or None where it can."""

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Name the dtypes that each of its results may have."""

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Compute the call's results from these tensors, which it may not change; whatever it raises is a result.

        `UnsupportedCaseError` says that it cannot.
        """


class BackendTarget:
    """The reference, or one of attnspec's own backends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.profiles: Mapping[str, str] = {}
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

    def unsupported(self, call: Call) -> str | None:
        """Say that JAX without 64-bit has no float64; everything else is supported."""
        if self.name == "jax" and call.dtype == "float64" and not _jax_has_64_bit():
            return "JAX runs without 64-bit numbers (jax_enable_x64)"
        return None

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the query's dtype (S16), and that of its accumulation for partial results; the reference's is float64.

        A gradient has the dtype of what it belongs to.
        """
        operation = OPERATIONS[call.operation]
        wide = DTYPES["float64"] if self.name == "reference" else None
        if call.direction == "backward":
            return {name: (wide or call.tensors[name].dtype,) for name in call.results}
        dtype = wide or DTYPES[accumulation_dtype(call.dtype) if operation.is_partial else call.dtype]
        return dict.fromkeys(operation.results, (dtype,))

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Call the backend with NumPy arrays, or differentiate it, and return what it computed."""
        operation = OPERATIONS[call.operation]
        if call.direction == "forward":
            returned = operation.call(self._module, tensors, call.call_options(tensors))
            results = results_of(returned)
            return {name: to_numpy(results[name]) for name in operation.results}
        if self.name == "reference":
            return reference_gradients(call.operation, tensors, call.call_options(tensors), call.cotangents(tensors))

        def function(native: Mapping[str, Any]) -> dict[str, Any]:
            given = {**tensors, **native}
            return results_of(operation.call(self._module, given, call.call_options(given)))

        chosen = {name: tensors[name] for name in call.results}
        return pull_back(self.name, function, chosen, call.cotangents(tensors))


class CallableTarget:
    """A plain function `fn(query, key, value, *, …)` over NumPy arrays in the canonical layout."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.version = "Python callable"
        self.profiles: Mapping[str, str] = {}
        self._function = function
        self._parameters = _parameters_of(name, function)

    def unsupported(self, call: Call) -> str | None:
        """Name the keyword that a case needs and the function lacks, or that the function demands and a case lacks."""
        if call.operation not in ("dot_product_attention", "attention_with_logsumexp"):
            return f"a plain callable is a dot_product_attention, not a {call.operation}"
        if call.direction == "backward":
            return "a plain callable gives no gradients"
        given = self._keywords(call, call.tensors)
        missing = [name for name in given if not self._accepts(name)]
        if missing:
            return f"the function takes no `{missing[0]}`"
        absent = sorted(self._parameters.demanded - given.keys())
        return f"the function demands `{absent[0]}`, which this case does not give" if absent else None

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the query's dtype (S16); partial results are at least float32, their output may be the query's."""
        if call.operation == "attention_with_logsumexp":
            wide = tuple({DTYPES[accumulation_dtype(call.dtype)]: None, DTYPES["float64"]: None})
            return {"output": tuple(dict.fromkeys((DTYPES[call.dtype], *wide))), "logsumexp": wide}
        return {"output": (DTYPES[call.dtype],)}

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Call the function with the keywords that the case needs and no others."""
        result = self._function(tensors["query"], tensors["key"], tensors["value"], **self._keywords(call, tensors))
        results = result if isinstance(result, tuple) else (result,)
        if call.operation == "attention_with_logsumexp":
            if len(results) < 2:
                raise UnsupportedCaseError("the function returns no logsumexp beside its output")
            return {"output": to_numpy(results[0]), "logsumexp": to_numpy(results[1], "the logsumexp")}
        return {"output": to_numpy(results[0])}

    def _accepts(self, name: str) -> bool:
        return self._parameters.takes_all or name in self._parameters.accepted

    def _keywords(self, call: Call, tensors: Any) -> dict[str, Any]:
        options = call.call_options(tensors)
        mask, bias, dropout = (options.pop(name, None) for name in ("mask", "bias", "dropout"))
        attention, _ = prepare(call.tensors["query"], call.tensors["key"], call.tensors["value"], Given(mask))
        rank = call.tensors["query"].ndim
        if bias is not None:
            options["bias"] = bias_array(bias, attention.sizes, call.dtype, rank)
        if dropout is not None:
            options["dropout_keep"] = of_rank(dropout.keep, rank)
            options["dropout_rate"] = dropout.rate
        if mask is not None:
            parts = take_apart(as_mask(mask), attention.sizes, [name for name in STRUCTURED if self._accepts(name)])
            options |= parts.keywords
            if parts.rest is not None:
                options["mask"] = to_array(parts.rest, attention.sizes)
        return options


def load_target(spec: str | Callable[..., Any]) -> Target:
    """Find a target: a built-in name, `module:callable`, `path.py:callable`, or a Python callable itself."""
    if callable(spec):
        return CallableTarget(getattr(spec, "__name__", type(spec).__name__), spec)
    if spec in BACKEND_NAMES:
        return BackendTarget(spec)
    if spec.startswith("exec:"):
        from .exec_target import ExecTarget  # which imports this module

        return ExecTarget(spec)
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

"""The reference and attnspec's own backends as targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnspec.contract.operands import accumulation_dtype

from .backends import list_backends, load_backend
from .calls import DTYPES, Call
from .derivatives import reference_gradients
from .differentiation import pull_back
from .native_arrays import jax_has_64_bit, to_numpy
from .operation import results_of
from .operations import OPERATIONS
from .target_protocol import Array, MissingFrameworkError, TargetError, what_went_wrong

NO_64_BIT = "JAX runs without 64-bit numbers (jax_enable_x64)"


class BackendTarget:
    """The reference, or one of attnspec's own backends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.profiles: Mapping[str, str] = {}
        self.version = installed_version(f"target {name!r}", name)
        try:
            self._module = load_backend(name)
        except Exception as error:
            raise TargetError(f"target {name!r} cannot be imported: {what_went_wrong(error)}") from error

    def unsupported(self, call: Call) -> str | None:
        """Say that JAX without 64-bit has no float64; everything else is supported."""
        return NO_64_BIT if self.name == "jax" and call.dtype == "float64" and not jax_has_64_bit() else None

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


def installed_version(what: str, backend_name: str) -> str:
    """Return a backend's framework and its version, such as "PyTorch 2.13.0"; `what` needs it, for the message."""
    backend = next(backend for backend in list_backends() if backend.name == backend_name)
    if not backend.is_available:
        raise MissingFrameworkError(f"{what} needs {backend.framework}; install it with: {backend.install}")
    return f"{backend.framework} {backend.version}"

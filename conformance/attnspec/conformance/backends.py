"""Which backends there are, and whether their frameworks are installed: known without importing any of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType
from typing import NamedTuple


class Backend(NamedTuple):
    """A backend of attnspec, and the framework that it needs."""

    name: str
    """What `attnspec verify` and `load_backend` call it."""
    module: str
    """What a user imports."""
    framework: str
    version: str | None
    """The installed version of the framework, None where it is missing."""
    install: str
    """The command that installs the framework."""

    @property
    def is_available(self) -> bool:
        """Whether the framework is installed."""
        return self.version is not None


_FRAMEWORKS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("reference", "NumPy", "numpy", ("numpy",)),
    ("torch", "PyTorch", "torch", ("torch",)),
    ("tensorflow", "TensorFlow", "tensorflow", ("tensorflow", "tensorflow-cpu", "tf-nightly", "tensorflow-macos")),
    ("jax", "JAX", "jax", ("jax",)),
)

BACKEND_NAMES = tuple(name for name, *_ in _FRAMEWORKS)


def list_backends() -> tuple[Backend, ...]:
    """List the reference and the three backends, with their availability; imports no framework."""
    return tuple(
        Backend(
            name,
            f"attnspec.{name}",
            framework,
            _version(importable, distributions),
            "pip install attnspec" if name == "reference" else f"pip install 'attnspec[{name}]'",
        )
        for name, framework, importable, distributions in _FRAMEWORKS
    )


def load_backend(name: str) -> ModuleType:
    """Import a backend by name. A missing framework is a ModuleNotFoundError that says how to install it."""
    if name not in BACKEND_NAMES:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKEND_NAMES)}")
    return importlib.import_module(f"attnspec.{name}")


def _version(importable: str, distributions: tuple[str, ...]) -> str | None:
    spec = importlib.util.find_spec(importable)
    if spec is None or spec.origin is None:  # without an origin it is some folder of that name, not a package
        return None
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"

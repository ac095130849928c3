"""The modules under test, by name, and what a missing framework means: a skip on a laptop, a failure in CI."""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

import pytest

MODULES = ["reference", "torch", "tensorflow", "jax"]
FRAMEWORKS = MODULES[1:]


def load(name: str) -> ModuleType:
    """Import `attnspec.<name>`; without its framework skip the test, or fail it where the environment says CI."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a framework warns of while it is imported is not ours to fix
            return importlib.import_module(f"attnspec.{name}")
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        message = f"{name} is not installed"
        if os.environ.get("CI", "false").lower() not in ("", "0", "false"):
            pytest.fail(f"{message}, and CI may not skip a backend")
        pytest.skip(message)


def tensor(name: str, values: object, dtype: str | None = None) -> object:
    """Make a native tensor of the framework `name` (a NumPy array for the reference) from numbers."""
    framework = importlib.import_module({"reference": "numpy", "jax": "jax.numpy"}.get(name, name))
    kind = None if dtype is None else getattr(framework, dtype)
    make = {"torch": "tensor", "tensorflow": "constant"}.get(name, "asarray")
    return getattr(framework, make)(values, dtype=kind)


def name_of(module: ModuleType) -> str:
    """Give "torch" for `attnspec.torch`."""
    return module.__name__.rpartition(".")[2]

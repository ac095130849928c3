"""One process for all frameworks: quiet, 64-bit JAX, and torch loaded before TensorFlow."""

from __future__ import annotations

import contextlib
import os
from types import ModuleType

import frameworks
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with contextlib.suppress(ModuleNotFoundError):
    import torch  # noqa: F401 - before TensorFlow: both bring an OpenMP runtime, and torch's must come first

with contextlib.suppress(ModuleNotFoundError):
    import jax

    jax.config.update("jax_enable_x64", True)  # by code, not by environment: child processes start as a user's would


@pytest.fixture(params=frameworks.MODULES, scope="module")
def attn(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the four modules: `attnspec.reference`, `attnspec.torch`, `attnspec.tensorflow`, `attnspec.jax`."""
    return frameworks.load(request.param)

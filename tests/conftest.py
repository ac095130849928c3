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


LONGEST = (
    "test_vectors",
    "test_backends",
    "test_transforms",
    "test_one_answer",
    "test_tree_transforms",
    "test_onnx_witness",
    "test_documentation",
    "test_unread",
    "test_unread_options",
    "test_gradient_bounds",
    "test_backend_gradients",
    "test_partial_results",
    "test_command_line",
    "test_zoo",
    "test_vector_files",
    "test_compare",
    "test_compare_command",
)
"""Files of many seconds each. They begin, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and among the others, the order stays."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))

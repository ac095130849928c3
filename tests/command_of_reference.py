"""A command that speaks the process protocol and computes every operation, in both directions, by the reference.

What it gets is what a call says, so every operation that goes this way and comes back right went through unharmed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from attnspec import reference
from attnspec.conformance.calls import DTYPES, Call
from attnspec.conformance.derivatives import reference_gradients
from attnspec.conformance.operation import results_of
from attnspec.conformance.operations import OPERATIONS
from attnspec.conformance.protocol import ATTENTIONS, KEYWORDS
from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.tensor_files import read_tensors, write_tensors

OPTIONS = [
    *["mask", "memory_mask", "bias", "scale", "softcap", "sinks", "dropout", "num_heads", "num_kv_heads", "rotary"],
    *["pairing", "base", "rotary_dim", "size", "top_k", "epsilon", "activation", "norm", "offset", "positions"],
]
TAKEN = [option for option in KEYWORDS if option not in sys.argv]


def started() -> dict[str, Any]:
    abilities = {
        name: {
            "dtypes": list(DTYPES),
            "directions": ["forward", "backward"],
            "options": TAKEN if name in ATTENTIONS else OPTIONS,
        }
        for name in OPERATIONS
    }
    about = {"name": "reference", "version": "1", "language": "Python", "homepage": "https://example.org"}
    return {"type": "started", "protocol": 1, **about, "operations": abilities, "profiles": {"float32": "fp32"}}


def attention_options(tensors: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Make the options of the reference from keywords."""
    given = {**{name: tensors[name] for name in KEYWORDS if name in tensors}, **options}
    assert not given.keys() - set(TAKEN)
    masks = [given.pop("mask")] if "mask" in given else []
    offset = given.pop("causal_offset", None)
    if offset is not None:
        masks.append(reference.causal(offset))
    if "window" in given:
        masks.append(reference.sliding_window(*given.pop("window"), offset=offset or 0))
    if "key_lengths" in given:
        masks.append(reference.key_lengths(given.pop("key_lengths")))
    if "query_lengths" in given:
        masks.append(reference.query_lengths(given.pop("query_lengths")))
    if "query_segments" in given:
        masks.append(reference.segments(given.pop("query_segments"), given.pop("key_segments")))
    if "dropout_keep" in given:
        given["dropout"] = reference.Dropout(given.pop("dropout_rate"), given.pop("dropout_keep"))
    mask: Any = None
    for one in masks:
        mask = one if mask is None else one & mask
    return {**given, "mask": mask}


def run(request: dict[str, Any]) -> None:
    tensors = read_tensors(Path(request["tensors"]).read_bytes())
    assert all(tensor.dtype != np.int32 for tensor in tensors.values())
    operation = OPERATIONS[request["operation"]]
    call = Call(
        id="",
        operation=operation.name,
        dtype=request["dtype"],
        options=request["options"],
        tensors=tensors,
        results=tuple(request["results"]),
        direction=request["direction"],
    )
    is_attention = operation.name in ATTENTIONS
    options = attention_options(tensors, request["options"]) if is_attention else call.call_options()
    if call.direction == "backward":
        results = reference_gradients(operation.name, tensors, options, call.cotangents())
        dtypes = {name: tensors[name].dtype for name in call.results}
    else:
        results = results_of(operation.call(reference, tensors, options))
        dtype = accumulation_dtype(call.dtype) if operation.is_partial else call.dtype
        dtypes = dict.fromkeys(call.results, DTYPES[dtype])
    written = {name: np.asarray(results[name]).astype(dtypes[name]) for name in call.results}
    Path(request["write"]).write_bytes(write_tensors(written))


for line in sys.stdin:
    received = json.loads(line)
    if received["type"] == "stop":
        break
    if received["type"] == "run":
        run(received)
    print(json.dumps({**(started() if received["type"] == "start" else {"type": "done"}), "id": received["id"]}))
    sys.stdout.flush()

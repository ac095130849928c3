"""What a target is asked to compute: a case without its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from attnspec.contract import Bias, Mask
from attnspec.contract.bias_json import bias_from_json
from attnspec.contract.mask_json import mask_from_json
from attnspec.contract.rotary_option import Rotary

from .operations import OPERATIONS

Array: TypeAlias = np.ndarray[Any, Any]

DTYPES: dict[str, Any] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
MASKS = ("mask", "memory_mask", "target_mask")
"""The options that are masks."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """An operation, its tensors and options, and the names of the results that are wanted."""

    id: str
    operation: str
    dtype: str
    options: Mapping[str, Any]
    """Everything but the tensors, as plain data: `mask` and a `bias` object in JSON or as the objects themselves;
    `bias` and `sinks` true where they are tensors; `dropout` is its rate, and the tensor `keep` says what is kept."""
    tensors: Mapping[str, Array]
    results: tuple[str, ...]
    direction: str = "forward"
    """`backward`: the results are the gradients of Σ cotangent · result, for the cotangents among the tensors."""

    def call_options(self, tensors: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Return the options as the API takes them, with the call's own tensors or with these in their place."""
        tensors = self.tensors if tensors is None else tensors
        options = {name: value for name, value in self.options.items() if value is not None and value is not False}
        for name in MASKS:
            if name in options and not isinstance(options[name], Mask):
                options[name] = mask_from_json(options[name])
        if options.get("bias") is True:
            options["bias"] = tensors["bias"]
        elif "bias" in options and not isinstance(options["bias"], Bias):
            options["bias"] = bias_from_json(options["bias"])
        if "sinks" in options:
            options["sinks"] = tensors["sinks"]
        if options.get("positions") == "none":
            options["positions"] = None
        if "rotary" in options:
            options["rotary"] = Rotary(**options["rotary"])
        if "dropout" in options:
            options["dropout"] = OPERATIONS[self.operation].dropout_of(options["dropout"], tensors)
        if self.operation == "sinusoidal_positions":
            options["dtype"] = self.dtype
        return options

    def cotangents(self, tensors: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Return the cotangents of a backward call by the result that they belong to."""
        tensors = self.tensors if tensors is None else tensors
        names = {result: f"{result}_cotangent" for result in OPERATIONS[self.operation].results}
        return {result: tensors[name] for result, name in names.items() if name in tensors}

"""Named arrays in safetensors files, bfloat16 included, which safetensors' own NumPy reader does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

Array: TypeAlias = np.ndarray[Any, Any]

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}


def write_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file; equal arrays give equal bytes."""
    # NumPy's contiguous arrays have at least one axis; a number has none.
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(tensors.items())}
    return save(contiguous, dict(metadata) if metadata else None)


def read_tensors(payload: bytes) -> dict[str, Array]:
    """Read the arrays of a safetensors file; a ValueError says what is wrong with it."""
    try:
        entries: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(payload)  # type: ignore[no-untyped-call] # ships no types
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file, or truncated ({error})") from None
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name!r} has the dtype {entry['dtype']}, which attention does not use")
        flat = np.frombuffer(bytes(entry["data"]), dtype=_DTYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays

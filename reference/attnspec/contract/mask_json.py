"""Masks as JSON, for vectors and files: every mask object to plain data and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import masks


def mask_to_json(mask: masks.Mask) -> dict[str, Any]:
    """Write a mask as JSON data: `{"kind": "causal", "offset": "end"}`. Arrays become nested lists.

    Raises:
        TypeError: a class of masks that JSON has no kind for.
        ValueError: an array without elements, whose shape nested lists cannot say.
    """
    match mask:
        case masks.Full():
            return {"kind": "full"}
        case masks.Causal(offset=offset):
            return {"kind": "causal", "offset": _to_list(offset)}
        case masks.SlidingWindow(left=left, right=right, offset=offset):
            return {"kind": "sliding_window", "left": left, "right": right, "offset": _to_list(offset)}
        case masks.KeyLengths(lengths=lengths):
            return {"kind": "key_lengths", "lengths": _to_list(lengths)}
        case masks.QueryLengths(lengths=lengths):
            return {"kind": "query_lengths", "lengths": _to_list(lengths)}
        case masks.BooleanArray(array=array):
            values = np.asarray(array)
            if not values.size:
                raise ValueError(
                    f"a mask array without elements cannot be written as JSON; its shape is {values.shape}"
                )
            return {"kind": "array", "values": values.tolist()}
        case masks.Both(left=first, right=second):
            return {"kind": "and", "masks": [mask_to_json(first), mask_to_json(second)]}
        case masks.Either(left=first, right=second):
            return {"kind": "or", "masks": [mask_to_json(first), mask_to_json(second)]}
        case masks.Not(mask=inner):
            return {"kind": "not", "mask": mask_to_json(inner)}
    raise TypeError(f"a mask of type {type(mask).__name__} cannot be written as JSON")


def mask_from_json(data: Any) -> masks.Mask:
    """Read what `mask_to_json` wrote; anything else is a ValueError that names the place."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        raise ValueError(f"a mask in JSON must be an object whose `kind` is one of {', '.join(_READERS)}; got {data!r}")
    reader, keys = _READERS[kind]
    if set(data) != {"kind", *keys}:
        raise ValueError(f"a mask of kind {kind!r} in JSON must have the keys {['kind', *keys]}; got {list(data)}")
    try:
        return reader(*(data[key] for key in keys))
    except (TypeError, ValueError) as error:
        raise ValueError(f"in a mask of kind {kind!r} in JSON: {error}") from None


def _to_list(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str) else np.asarray(value).tolist()


def _combine(combination: Callable[[masks.Mask, masks.Mask], masks.Mask]) -> Callable[[Any], masks.Mask]:
    def read(parts: Any) -> masks.Mask:
        if not isinstance(parts, list) or len(parts) != 2:
            raise ValueError(f"`masks` of a combination in JSON must be a list of two masks; got {parts!r}")
        return combination(mask_from_json(parts[0]), mask_from_json(parts[1]))

    return read


_READERS: dict[str, tuple[Callable[..., masks.Mask], tuple[str, ...]]] = {
    "full": (masks.full, ()),
    "causal": (masks.causal, ("offset",)),
    "sliding_window": (masks.sliding_window, ("left", "right", "offset")),
    "key_lengths": (masks.key_lengths, ("lengths",)),
    "query_lengths": (masks.query_lengths, ("lengths",)),
    "array": (masks.as_mask, ("values",)),
    "and": (_combine(masks.Both), ("masks",)),
    "or": (_combine(masks.Either), ("masks",)),
    "not": (lambda inner: masks.Not(mask_from_json(inner)), ("mask",)),
}

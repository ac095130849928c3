"""Masks as JSON, for vectors and files: every mask object to plain data and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import masks, positional_masks
from .operands import describe


def mask_to_json(mask: masks.Mask) -> dict[str, Any]:
    """Write a mask as JSON data: `{"kind": "causal", "offset": "end"}`. Arrays become nested lists.

    Raises:
        TypeError: a class of masks that JSON has no kind for.
        ValueError: an array without elements, whose shape nested lists cannot say.
    """
    match mask:
        case masks.Full():
            return {"kind": "full"}
        case positional_masks.Causal(offset=offset):
            return {"kind": "causal", "offset": _to_list(offset)}
        case positional_masks.SlidingWindow(left=left, right=right, offset=offset):
            return {"kind": "sliding_window", "left": left, "right": right, "offset": _to_list(offset)}
        case positional_masks.KeyLengths(lengths=lengths):
            return {"kind": "key_lengths", "lengths": _to_list(lengths)}
        case positional_masks.QueryLengths(lengths=lengths):
            return {"kind": "query_lengths", "lengths": _to_list(lengths)}
        case positional_masks.Prefix(lengths=lengths, offset=offset):
            return {"kind": "prefix", "lengths": _to_list(lengths), "offset": _to_list(offset)}
        case positional_masks.Chunked(size=size, offset=offset):
            return {"kind": "chunked", "size": size, "offset": _to_list(offset)}
        case positional_masks.Segments(query_ids=query_ids, key_ids=key_ids):
            return {"kind": "segments", "query_ids": _to_list(query_ids), "key_ids": _to_list(key_ids)}
        case masks.Predicate(name=name):
            return {"kind": "predicate", "name": name}
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


def mask_from_json(data: Any, predicates: Mapping[str, Callable[[Any, Any], Any]] | None = None) -> masks.Mask:
    """Read what `mask_to_json` wrote; anything else is a ValueError that names the place.

    `predicates` gives the functions of predicate masks by name: JSON holds no code, and none is looked for.
    """
    if predicates is not None and not isinstance(predicates, Mapping):
        raise TypeError(f"`predicates` must map names to functions; got {describe(predicates)}")
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        raise ValueError(f"a mask in JSON must be an object whose `kind` is one of {', '.join(_READERS)}; got {data!r}")
    reader, keys = _READERS[kind]
    functions = {} if predicates is None else predicates
    if set(data) != {"kind", *keys}:
        raise ValueError(f"a mask of kind {kind!r} in JSON must have the keys {['kind', *keys]}; got {list(data)}")
    if kind == "predicate":
        return masks.predicate(data["name"], _find(data["name"], functions))
    # In a combination a TypeError is no mistake of the data's: what `predicates` gives is not a function.
    errors = (ValueError,) if kind in _COMBINATIONS else (TypeError, ValueError)
    try:
        return reader(data[keys[0]], functions) if kind in _COMBINATIONS else reader(*(data[key] for key in keys))
    except errors as error:
        raise ValueError(f"in a mask of kind {kind!r} in JSON: {error}") from None


def _to_list(value: Any) -> Any:
    return value if value is None or isinstance(value, int | str) else np.asarray(value).tolist()


def _find(name: Any, predicates: Mapping[str, Callable[[Any, Any], Any]]) -> Callable[[Any, Any], Any]:
    if not isinstance(name, str) or name not in predicates:
        known = ", ".join(map(repr, predicates)) or "none"
        raise ValueError(f"a mask in JSON needs the predicate {name!r}; `predicates` gives {known}")
    return predicates[name]


def _combine(combination: Callable[[masks.Mask, masks.Mask], masks.Mask]) -> Callable[..., masks.Mask]:
    def read(parts: Any, predicates: Mapping[str, Callable[[Any, Any], Any]]) -> masks.Mask:
        if not isinstance(parts, list) or len(parts) != 2:
            raise ValueError(f"`masks` of a combination in JSON must be a list of two masks; got {parts!r}")
        return combination(mask_from_json(parts[0], predicates), mask_from_json(parts[1], predicates))

    return read


_COMBINATIONS = ("and", "or", "not")


_READERS: dict[str, tuple[Callable[..., masks.Mask], tuple[str, ...]]] = {
    "full": (masks.full, ()),
    "causal": (positional_masks.causal, ("offset",)),
    "sliding_window": (positional_masks.sliding_window, ("left", "right", "offset")),
    "key_lengths": (positional_masks.key_lengths, ("lengths",)),
    "query_lengths": (positional_masks.query_lengths, ("lengths",)),
    "prefix": (positional_masks.prefix, ("lengths", "offset")),
    "chunked": (positional_masks.chunked, ("size", "offset")),
    "segments": (positional_masks.segments, ("query_ids", "key_ids")),
    "predicate": (masks.predicate, ("name",)),
    "array": (masks.as_mask, ("values",)),
    "and": (_combine(masks.Both), ("masks",)),
    "or": (_combine(masks.Either), ("masks",)),
    "not": (lambda inner, predicates: masks.Not(mask_from_json(inner, predicates)), ("mask",)),
}

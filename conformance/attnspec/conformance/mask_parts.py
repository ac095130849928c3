"""Mask and bias objects for a plain callable: what keywords can say, and what must be folded into an array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.biases import Bias
from attnspec.contract.masks import Both, Mask
from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.positional_masks import Causal, KeyLengths, QueryLengths, Segments, SlidingWindow
from attnspec.contract.shapes import Sizes
from attnspec.reference.masks import block_of

Array: TypeAlias = np.ndarray[Any, Any]

STRUCTURED = ("causal_offset", "window", "key_lengths", "query_lengths", "query_segments", "key_segments")
"""The keywords that say a part of a mask; what a callable does not name of them is folded into `mask`."""


class MaskParts(NamedTuple):
    """The keywords for a mask: structured ones by name, and the mask object of all that remains (None: nothing)."""

    keywords: dict[str, Any]
    rest: Mask | None


def take_apart(mask: Mask | None, sizes: Sizes, accepted: Iterable[str]) -> MaskParts:
    """Say as much of a mask as possible by the accepted keywords, and leave the rest.

    `causal_offset` is an int; `window` is (left, right) around the same offset as causal, or around 0 without causal;
    `key_lengths` and `query_lengths` are integer arrays of the batch shape; `query_segments` and `key_segments`, given
    together, are integer arrays (*B, T). Anything else remains.
    """
    accepted = set(accepted)
    keywords: dict[str, Any] = {}
    rest: list[Mask] = []
    factors = list(_factors(mask))
    # Causal first: a window is given as such only beside a causal mask of the same offset.
    factors.sort(key=lambda factor: not isinstance(factor, Causal))
    for factor in factors:
        if isinstance(factor, Segments):
            both = {"query_segments", "key_segments"}
            if both <= accepted and not both & keywords.keys():
                keywords["query_segments"] = _per_batch(factor.query_ids, sizes)
                keywords["key_segments"] = _per_batch(factor.key_ids, sizes)
            else:
                rest.append(factor)
            continue
        name, value = _keyword(factor, sizes)
        fits = name in accepted and name not in keywords and value is not None
        if fits and name == "window":
            left, right, offset = value
            fits = offset == keywords.get("causal_offset", 0)
            value = (left, right)
        if fits:
            keywords[name] = value
        else:
            rest.append(factor)
    remaining = None
    for factor in rest:
        remaining = factor if remaining is None else remaining & factor
    return MaskParts(keywords, remaining)


def to_array(mask: Mask, sizes: Sizes) -> Array:
    """Evaluate a mask to a boolean array of the query's rank, each axis full or 1."""
    visible = np.asarray(mask.visible(block_of(sizes, slice(0, sizes.query_length))))
    canonical = len(sizes.batch) + 3
    visible = visible.reshape((1,) * (canonical - visible.ndim) + visible.shape)
    return visible if sizes.has_heads else visible[..., 0, :, :]


def bias_array(bias: Any, sizes: Sizes, dtype: str, rank: int) -> Array:
    """Return a bias as an array of the query's rank, each axis full or 1: an object in the accumulation dtype."""
    if not isinstance(bias, Bias):
        return of_rank(bias, rank)
    values = np.asarray(bias.values(block_of(sizes, slice(0, sizes.query_length))))
    canonical = len(sizes.batch) + 3
    values = values.reshape((1,) * (canonical - values.ndim) + values.shape)
    values = values if sizes.has_heads else values[..., 0, :, :]
    folded: Array = values.astype(accumulation_dtype(dtype))
    return folded


def of_rank(array: Any, rank: int) -> Array:
    """Put axes of 1 before those of an array."""
    wide: Array = np.asarray(array)
    return wide.reshape((1,) * (rank - wide.ndim) + wide.shape)


def _per_batch(ids: Any, sizes: Sizes) -> Array:
    ids = np.asarray(ids)
    return np.broadcast_to(ids, (*sizes.batch, ids.shape[-1])).copy()


def _factors(mask: Mask | None) -> Iterator[Mask]:
    if isinstance(mask, Both):
        yield from _factors(mask.left)
        yield from _factors(mask.right)
    elif mask is not None:
        yield mask


def _keyword(factor: Mask, sizes: Sizes) -> tuple[str, Any]:
    """Return the keyword that could say a factor, and its value; None where it cannot."""
    match factor:
        case Causal(offset=offset):
            return "causal_offset", _static(offset, sizes)
        case SlidingWindow(left=left, right=right, offset=offset):
            static = _static(offset, sizes)
            return "window", None if static is None else (left, right, static)
        case KeyLengths(lengths=lengths):
            return "key_lengths", np.broadcast_to(np.asarray(lengths), sizes.batch).copy()
        case QueryLengths(lengths=lengths):
            return "query_lengths", np.broadcast_to(np.asarray(lengths), sizes.batch).copy()
    return "mask", None


def _static(offset: Any, sizes: Sizes) -> int | None:
    if offset is None:
        return 0
    if isinstance(offset, str):
        return int(sizes.key_length - sizes.query_length)
    return offset if isinstance(offset, int) else None

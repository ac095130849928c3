"""Block plans: which blocks of keys a block of queries must visit, and which of them need a mask at all.

A mask is evaluated once for whole blocks instead of single pairs: positions are ranges of integers, and what a mask
says of two ranges is whether any pair of theirs may be visible and whether all of them are. Masks are written with
operators only, so the same definition serves pairs and blocks. A plan never leaves out a visible pair; where numbers
cannot be read (traced lengths), or a predicate does what ranges cannot follow, it visits the block with the mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .masks import Both, Either, Mask, Not, Predicate
from .positions import FAR

Array: TypeAlias = np.ndarray[Any, Any]
Read: TypeAlias = Callable[[Any], Array | None]
"""Gives the values of an array, None where they may not be fetched."""


class Lengths(NamedTuple):
    """How many queries and keys an attention has."""

    query_length: int
    key_length: int


class KeyRange(NamedTuple):
    """Consecutive keys that a block of queries visits."""

    start: int
    stop: int
    needs_mask: bool
    """False: every query of the block may attend to every key of the range."""


class QueryBlock(NamedTuple):
    """Consecutive queries, and the keys that they visit, in order."""

    start: int
    stop: int
    keys: tuple[KeyRange, ...]

    @property
    def span(self) -> tuple[int, int]:
        """The first key that is visited, and the one behind the last; (0, 0) if there is none."""
        return (self.keys[0].start, self.keys[-1].stop) if self.keys else (0, 0)


class BlockPlan(NamedTuple):
    """What there is to do for all queries, and how many blocks that is."""

    queries: tuple[QueryBlock, ...]
    visited: int
    masked: int
    """How many of those visited need the mask."""
    skipped: int


def plan_blocks(
    mask: Mask | None,
    lengths: Lengths,
    query_block: int,
    key_block: int,
    read: Read = lambda values: values,
) -> BlockPlan:
    """Plan an attention in blocks; the last one of each axis may be smaller.

    Args:
        mask: one that was checked; None hides nothing.
        lengths: how many queries and keys there are.
        query_block, key_block: how many of them a block has, at least 1; more than there are means all.
        read: gives the values of an array that the mask holds, None where they are not known.

    Returns:
        The plan, which holds for every batch element and head: what one of them sees, all visit.

    Raises:
        ValueError: a block size below 1.
    """
    for name, size in (("query_block", query_block), ("key_block", key_block)):
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1; got {size}")
    if mask is None or not _holds_arrays(mask):
        return _static_plan(mask, lengths, query_block, key_block)
    return _plan(mask, lengths, query_block, key_block, read)


@functools.lru_cache(maxsize=256)
def _static_plan(mask: Mask | None, lengths: Lengths, query_block: int, key_block: int) -> BlockPlan:
    return _plan(mask, lengths, query_block, key_block, lambda values: values)


def _plan(mask: Mask | None, lengths: Lengths, query_block: int, key_block: int, read: Read) -> BlockPlan:
    blocks = _Blocks(lengths, query_block, key_block, read)
    shape = blocks.query.low.shape[0], blocks.key.low.shape[1]
    seen = Seen(np.array(True), np.array(True)) if mask is None else _seen(mask, blocks)
    some, every = np.broadcast_to(seen.some, shape), np.broadcast_to(seen.every, shape)
    queries = tuple(
        QueryBlock(
            start,
            min(start + query_block, lengths.query_length),
            _ranges(some[i], every[i], key_block, lengths.key_length),
        )
        for i, start in enumerate(range(0, lengths.query_length, query_block))
    )
    visited = int(some.sum())
    return BlockPlan(queries, visited, int((some & ~every).sum()), some.size - visited)


def _seen(mask: Mask, blocks: Any) -> Seen:
    """Evaluate a mask over blocks."""
    if isinstance(mask, Both):
        return _seen(mask.left, blocks) & _seen(mask.right, blocks)
    if isinstance(mask, Either):
        return _seen(mask.left, blocks) | _seen(mask.right, blocks)
    if isinstance(mask, Not):
        return ~_seen(mask.mask, blocks)
    if isinstance(mask, Predicate):
        try:
            seen = mask.function(blocks.query, blocks.key)
        except Exception:  # a user's function, made for arrays: whatever it does with ranges says nothing of it
            return _UNKNOWN
        return seen if isinstance(seen, Seen) else _UNKNOWN
    found: Seen = mask.visible(blocks)
    return found


def _ranges(some: Array, every: Array, size: int, length: int) -> tuple[KeyRange, ...]:
    """Join neighbouring blocks of one kind: 0 nobody sees, 1 needs the mask, 2 everybody sees."""
    kinds = np.where(some, 1 + every, 0)
    edges = np.flatnonzero(np.diff(kinds, prepend=-1))
    ends = [*edges[1:].tolist(), len(kinds)][: len(edges)]
    return tuple(
        KeyRange(first * size, min(last * size, length), bool(kinds[first] == 1))
        for first, last in zip(edges.tolist(), ends, strict=True)
        if kinds[first]
    )


def _holds_arrays(mask: Any) -> bool:
    children, _ = mask.flatten()
    return any(_holds_arrays(child) if isinstance(child, Mask) else True for child in children)


# What takes the place of numbers and of truth values.


class Seen:
    """For blocks of pairs, as booleans that broadcast against each other: may any be visible, and are all."""

    def __init__(self, some: Array, every: Array) -> None:
        self.some, self.every = some, every

    def __and__(self, other: Seen) -> Seen:
        return Seen(self.some & other.some, self.every & other.every)

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.some | other.some, self.every | other.every)

    def __invert__(self) -> Seen:
        return Seen(~self.every, ~self.some)

    def __bool__(self) -> bool:
        raise _OnlyForPairsError("many pairs at once have no truth value")


_UNKNOWN = Seen(np.array(True), np.array(False))


class Range:
    """Integers of which only bounds are known: low ≤ x ≤ high, for each block of one axis."""

    __array_ufunc__ = None  # NumPy then leaves `array + range` to the methods below

    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = np.asarray(low), np.asarray(high)

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low)

    def __abs__(self) -> Range:
        ends = np.abs(self.low), np.abs(self.high)
        holds_zero = (self.low <= 0) & (self.high >= 0)
        return Range(np.where(holds_zero, 0, np.minimum(*ends)), np.maximum(*ends))

    def __add__(self, other: Any) -> Range:
        other = _as_range(other)
        return Range(self.low + other.low, self.high + other.high)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Range:
        return self + -_as_range(other)

    def __rsub__(self, other: Any) -> Range:
        return _as_range(other) - self

    def __mul__(self, other: Any) -> Range:
        factor = _as_number(other)
        return Range(self.low * factor, self.high * factor) if factor >= 0 else -(self * -factor)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Range:
        divisor = _as_number(other, least=1)
        return Range(self.low // divisor, self.high // divisor)

    def __mod__(self, other: Any) -> Range:
        divisor = _as_number(other, least=1)
        is_one_turn = self.low // divisor == self.high // divisor
        low, high = self.low % divisor, self.high % divisor
        return Range(np.where(is_one_turn, low, 0), np.where(is_one_turn, high, divisor - 1))

    def __lt__(self, other: Any) -> Seen:
        other = _as_range(other)
        return Seen(self.low < other.high, self.high < other.low)

    def __le__(self, other: Any) -> Seen:
        other = _as_range(other)
        return Seen(self.low <= other.high, self.high <= other.low)

    def __gt__(self, other: Any) -> Seen:
        at_most: Seen = self <= other
        return ~at_most

    def __ge__(self, other: Any) -> Seen:
        below: Seen = self < other
        return ~below

    def __eq__(self, other: object) -> Seen:  # type: ignore[override]
        other = _as_range(other)
        one = (self.low == self.high) & (other.low == other.high)
        meet = (self.low <= other.high) & (other.low <= self.high)
        return Seen(meet, one & meet)

    def __ne__(self, other: object) -> Seen:  # type: ignore[override]
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]


def _as_range(value: Any) -> Range:
    if isinstance(value, Range):
        return value
    number = _as_number(value)
    return Range(number, number)


def _as_number(value: Any, least: int | None = None) -> int:
    """Take a whole number; anything else is for pairs only, and the block that holds them is visited."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or (least is not None and value < least):
        raise _OnlyForPairsError
    return int(value)


class _OnlyForPairsError(TypeError):
    """An operation that ranges cannot follow."""


class _Blocks:
    """The blocks of an attention as the `Positions` that a mask asks for: every number is a range."""

    def __init__(self, lengths: Lengths, query_block: int, key_block: int, read: Read) -> None:
        self.sizes: Any = lengths  # all that a mask asks of them
        self._read = read
        self._block_sizes = query_block, key_block
        self.query = _range_of_blocks(lengths.query_length, query_block, (-1, 1))
        self.key = _range_of_blocks(lengths.key_length, key_block, (1, -1))

    def per_batch(self, values: Any) -> Range:
        """Give the least and the greatest over the batch."""
        known = self._read(values)
        if known is None:
            return Range(-FAR, FAR)
        if not known.size:
            return Range(0, 0)
        return Range(np.clip(known.min(), -FAR, FAR), np.clip(known.max(), -FAR, FAR))

    def per_query(self, values: Any) -> Range:
        """Give the least and the greatest of each block of queries, over the batch."""
        return self._along(values, self._block_sizes[0], (-1, 1))

    def per_key(self, values: Any) -> Range:
        """Give the least and the greatest of each block of keys, over the batch."""
        return self._along(values, self._block_sizes[1], (1, -1))

    def per_pair(self, array: Any) -> Seen:
        """Say for each block whether any of its pairs is True, and whether all are, over batch and heads."""
        known = self._read(array)
        if known is None:
            return _UNKNOWN
        some: Any = known
        every: Any = known
        for axis in range(known.ndim - 2):
            some, every = some.any(axis=axis, keepdims=True), every.all(axis=axis, keepdims=True)
        some, every = some.reshape(known.shape[-2:]), every.reshape(known.shape[-2:])
        for axis, size in enumerate(self._block_sizes):
            if known.shape[axis - 2] > 1:
                starts = np.arange(0, some.shape[axis], size)
                some, every = np.logical_or.reduceat(some, starts, axis), np.logical_and.reduceat(every, starts, axis)
        return Seen(some, every)

    def _along(self, values: Any, size: int, shape: tuple[int, int]) -> Range:
        known = self._read(values)
        if known is None or not known.size:
            return Range(-FAR, FAR)
        starts = np.arange(0, known.shape[-1], size)
        rows = known.reshape(-1, known.shape[-1])
        low = np.minimum.reduceat(rows.min(axis=0), starts)
        return Range(low.reshape(shape), np.maximum.reduceat(rows.max(axis=0), starts).reshape(shape))


def _range_of_blocks(length: int, size: int, shape: tuple[int, int]) -> Range:
    starts = np.arange(0, length, size)
    return Range(starts.reshape(shape), (np.minimum(starts + size, length) - 1).reshape(shape))

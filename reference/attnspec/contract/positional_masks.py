"""Masks that follow from where queries and keys stand: causal, windows, lengths, segments, … (clauses S7, S8, S9)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import Checks
from .masks import Mask
from .operands import show_shape
from .positions import (
    Integers,
    Offset,
    Positions,
    as_integers,
    as_offset,
    check_lengths,
    check_offset,
    near,
    near_lengths,
    shift,
    show,
    show_arguments,
)
from .shapes import Sizes
from .trees import frozen


@frozen
class Causal(Mask):
    """Keys up to the query's own position: j ≤ i + offset."""

    offset: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", as_offset("causal", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key <= at.query + shift(self.offset, at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the offset (S7)."""
        check_offset("causal", self.offset, sizes, checks)

    def __repr__(self) -> str:
        return f"causal({show_arguments(offset=self.offset)})"


@frozen
class SlidingWindow(Mask):
    """Keys at most `left` before and `right` after the query's own position i + offset."""

    left: int | None = None
    right: int | None = None
    offset: Any = None

    def __post_init__(self) -> None:
        for side in ("left", "right"):
            width = getattr(self, side)
            if width is not None:
                object.__setattr__(self, side, _static_count(f"{side}` of `sliding_window", width))
        if self.left is None and self.right is None:
            raise ValueError("`sliding_window` needs `left=` or `right=`: with neither it hides nothing; use `full()`")
        object.__setattr__(self, "offset", as_offset("sliding_window", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        after = None if self.left is None else at.key >= at.query + shift(self.offset, at, -self.left)
        before = None if self.right is None else at.key <= at.query + shift(self.offset, at, self.right)
        if after is None:
            return before
        return after if before is None else after & before

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the offset (S7)."""
        check_offset("sliding_window", self.offset, sizes, checks)

    def __repr__(self) -> str:
        return f"sliding_window({show_arguments(left=self.left, right=self.right, offset=self.offset)})"


@frozen
class KeyLengths(Mask):
    """The first n keys of each batch element; the rest is padding."""

    lengths: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", as_integers("key_lengths", self.lengths, minimum=0))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key < near_lengths(self.lengths, at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the lengths against the number of keys (S8)."""
        check_lengths("key_lengths", "keys", self.lengths, sizes.key_length, sizes, checks)

    def __repr__(self) -> str:
        return f"key_lengths({show(self.lengths)})"


@frozen
class QueryLengths(Mask):
    """The first n queries of each batch element; the rest is padding, whose rows are empty."""

    lengths: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", as_integers("query_lengths", self.lengths, minimum=0))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.query < near_lengths(self.lengths, at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the lengths against the number of queries (S8)."""
        check_lengths("query_lengths", "queries", self.lengths, sizes.query_length, sizes, checks)

    def __repr__(self) -> str:
        return f"query_lengths({show(self.lengths)})"


@frozen
class Prefix(Mask):
    """The first n keys for every query, and of the rest those up to the query's own position."""

    lengths: Any
    offset: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", as_integers("lengths` of `prefix", self.lengths, minimum=0))
        object.__setattr__(self, "offset", as_offset("prefix", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return (at.key < near_lengths(self.lengths, at)) | (at.key <= at.query + shift(self.offset, at))

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the lengths against the number of keys, and the offset (S7, S8)."""
        check_lengths("lengths` of `prefix", "keys", self.lengths, sizes.key_length, sizes, checks)
        check_offset("prefix", self.offset, sizes, checks)

    def __repr__(self) -> str:
        offset = show_arguments(offset=self.offset)
        return f"prefix({show(self.lengths)}{', ' * bool(offset)}{offset})"


@frozen
class Chunked(Mask):
    """Keys in the same chunk as the query's own position: ⌊(i + offset) / size⌋ = ⌊j / size⌋."""

    size: int
    offset: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int | np.integer):
            raise TypeError(f"`size` of `chunked` must be an int; got {self.size!r}")
        if self.size < 1:
            raise ValueError(f"`size` of `chunked` must be at least 1; got {self.size}")
        object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "offset", as_offset("chunked", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        size = near(self.size)
        return (at.query + shift(self.offset, at)) // size == at.key // size

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the offset (S7)."""
        check_offset("chunked", self.offset, sizes, checks)

    def __repr__(self) -> str:
        offset = show_arguments(offset=self.offset)
        return f"chunked({self.size}{', ' * bool(offset)}{offset})"


@frozen
class Segments(Mask):
    """Keys whose segment has the query's number: sequences packed into one stay apart."""

    query_ids: Any
    key_ids: Any

    def __post_init__(self) -> None:
        for name in ("query_ids", "key_ids"):
            object.__setattr__(self, name, _segment_ids(f"{name}` of `segments", getattr(self, name)))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.per_query(self.query_ids) == at.per_key(self.key_ids)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check both shapes (S9)."""
        for name, ids, length in (
            ("query_ids", self.query_ids, sizes.query_length),
            ("key_ids", self.key_ids, sizes.key_length),
        ):
            checks.read(f"{name}` of `segments", ids)
            shape, full = checks.shape(ids), (*sizes.batch, length)

            def message(name: str = name, shape: Any = shape, full: Any = full) -> str:
                either = show_shape(full) if len(full) == 1 else f"{show_shape(full[-1:])} or {show_shape(full)}"
                return f"`{name}` of `segments` must have shape {either}; got shape {show_shape(shape)}"

            if len(shape) not in (1, len(full)):
                raise ValueError(message())
            for size, expected in zip(shape, full[-len(shape) :], strict=True):
                checks.equal(size, expected, message)

    def __repr__(self) -> str:
        return f"segments({show(self.query_ids)}, {show(self.key_ids)})"


def causal(offset: Offset = None) -> Mask:
    """Make the causal mask: query i, at key position i + offset, attends to keys j ≤ i + offset (S7).

    Args:
        offset: int, integers of shape (*B,), or "end" for Tk − Tq (bottom-right alignment: the last query sees all
            keys). 0 is top-left alignment. None means 0 and needs Tq = Tk: otherwise the two alignments differ.
    """
    return Causal(offset)


def sliding_window(left: int | None = None, right: int | None = None, offset: Offset = None) -> Mask:
    """Make a window: i + offset − left ≤ j ≤ i + offset + right; the query's own position is always inside (S7).

    Args:
        left: how many keys before the query's own position are visible; None: all of them.
        right: how many keys after it are visible; None: all of them. Not both may be None.
        offset: as for `causal`.
    """
    return SlidingWindow(left, right, offset)


def key_lengths(n: Integers) -> Mask:
    """Make the mask of right-padded keys: j < n (S8). `n` is an int or integers of shape (*B,), 0 ≤ n ≤ Tk."""
    return KeyLengths(n)


def query_lengths(n: Integers) -> Mask:
    """Make the mask of right-padded queries: i < n (S8); rows beyond are empty. `n` as for `key_lengths`."""
    return QueryLengths(n)


def prefix(lengths: Integers, offset: Offset = None) -> Mask:
    """Make the mask of a bidirectional prefix and a causal rest: j < n or j ≤ i + offset (S7, S8).

    Args:
        lengths: n, an int or integers of shape (*B,), 0 ≤ n ≤ Tk.
        offset: as for `causal`.
    """
    return Prefix(lengths, offset)


def chunked(size: int, offset: Offset = None) -> Mask:
    """Make the mask of chunks: ⌊(i + offset) / size⌋ = ⌊j / size⌋ (S7). It is not causal: combine it, with `&`.

    Args:
        size: how many consecutive keys form a chunk, at least 1.
        offset: as for `causal`.
    """
    return Chunked(size, offset)


def segments(query_ids: Integers, key_ids: Integers) -> Mask:
    """Make the mask of packed sequences: a query attends to the keys whose id is its own (S9).

    Args:
        query_ids: integers of shape (Tq,), the same for the whole batch, or (*B, Tq).
        key_ids: integers of shape (Tk,) or (*B, Tk).
    """
    return Segments(query_ids, key_ids)


def _static_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an int or None; got {value!r}")
    if value < 0:
        raise ValueError(f"`{name}` must be at least 0 (it counts keys beside the query's own); got {value}")
    return int(value)


def _segment_ids(name: str, value: Any) -> Any:
    expected = "integers of shape (length,) or (*batch, length)"
    ids = as_integers(name, value, minimum=None, expected=expected)
    if isinstance(ids, int):
        raise TypeError(f"`{name}` must be {expected}; got {ids}")
    limits = np.iinfo(np.int32)
    if isinstance(ids, np.ndarray) and ids.size and not limits.min <= ids.min() <= ids.max() <= limits.max:
        # JAX without 64 bits would wrap them round, and two segments could become one.
        raise ValueError(f"`{name}` must fit into 32 bits; got {show(ids)}")
    return ids

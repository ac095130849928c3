"""Where queries and keys stand, and the integers that say so: offsets and lengths (clauses S7, S8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from .checks import Checks
from .operands import Size, describe, dtype_name, from_python, show_shape, show_size
from .shapes import Sizes

Offset: TypeAlias = int | Literal["end"] | Any | None
Integers: TypeAlias = int | Sequence[Any] | Any

FAR = 2**29
"""No position is as far away: shifts and lengths beyond it mean the same, and sums of two still fit into int32."""


class Positions(Protocol):
    """A block of (query, key) pairs, in one framework's arrays."""

    @property
    def query(self) -> Any:
        """Indices of the block's queries, (q, 1)."""

    @property
    def key(self) -> Any:
        """Indices of the block's keys, (1, k)."""

    @property
    def sizes(self) -> Sizes:
        """The sizes of the whole attention, not of the block."""

    def per_batch(self, values: Any) -> Any:
        """Take integers of shape () or (*B,) and give them axes that broadcast against (*B, heads, q, k)."""

    def per_query(self, values: Any) -> Any:
        """Take integers of shape (Tq,) or (*B, Tq), those of the block's queries, as (*B, 1, q, 1)."""

    def per_key(self, values: Any) -> Any:
        """Take integers of shape (Tk,) or (*B, Tk), those of the block's keys, as (*B, 1, 1, k)."""

    def per_head(self, numbers: Any) -> Any:
        """Take numbers of shape (Hq,) or () in the accumulation dtype, as (Hq, 1, 1) or ()."""

    def per_pair(self, array: Any) -> Any:
        """Take an array over all pairs and give its part for this block, broadcastable to (*B, heads, q, k)."""

    def as_number(self, numbers: Any) -> Any:
        """Convert an array of integers or floating numbers to the accumulation dtype."""

    def look_up(self, table: Any, rows: tuple[int, ...], index: Any) -> Any:
        """Give table[rows[index]] for every pair, heads before queries; an index beyond the rows means the nearest."""


def as_integers(
    name: str, value: Any, minimum: int | None, expected: str = "an int or integers of shape (*batch,)"
) -> Any:
    """Return an int (static) or an integer array (a leaf); refuse what is neither, saying what was expected."""
    if isinstance(value, list | tuple):
        value = from_python(name, value, "an array")
        value = value if value.size else value.astype(np.int64)  # nested lists without numbers say nothing of a dtype
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be {expected}; got a boolean")
    if isinstance(value, int | np.integer):
        value = int(value)
        if minimum is not None and value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {value}")
        return value
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "shape"):
        raise TypeError(f"`{name}` must be {expected}; got {describe(value)}")
    if not dtype_name(dtype).startswith(("int", "uint")):
        raise TypeError(f"`{name}` must be {expected}; got dtype {dtype_name(dtype)}")
    if isinstance(value, np.ndarray):
        value = from_python(name, value, "an array")
        if minimum is not None and value.size and value.min() < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {show(value)}")
        # A copy of one width: later writes to the caller's array must not change a mask, nor may uint8 wrap round.
        value = np.minimum(value, np.uint64(2**63 - 1)) if value.dtype == np.uint64 else value
        value = np.asarray(value).astype(np.int64)
    return value


def as_offset(name: str, value: Any) -> Any:
    """Return an offset as `as_integers` does, "end" and None as they are."""
    if value is None or (isinstance(value, str) and value == "end"):
        return value
    if isinstance(value, str):
        raise ValueError(
            f"`offset` of `{name}` must be an int, integers of shape (*batch,), 'end' or None; got {value!r}"
        )
    offset = as_integers(f"offset` of `{name}", value, minimum=None)
    if isinstance(offset, np.ndarray):
        limits = np.iinfo(np.int32)  # JAX without 64 bits would wrap round what is beyond, and no position is
        offset = np.asarray(np.clip(offset, limits.min, limits.max))
    return offset


def check_near(name: str, offset: Any, checks: Checks) -> None:
    """Refuse an offset that `shift` would bring nearer: a mask means the same then, a number does not."""
    if offset is None or isinstance(offset, str):
        return
    if isinstance(offset, int):
        is_far = abs(offset) > FAR
    else:
        values = checks.read(name, offset)
        is_far = values is not None and float(np.abs(values.astype(np.float64)).max(initial=0.0)) > FAR
    if is_far:
        raise ValueError(f"`{name}` must lie between {-FAR} and {FAR}; got {show(offset)}")


def shift(offset: Any, at: Positions, distance: int = 0) -> Any:
    """Compute offset + distance, no further away than FAR."""
    if offset is None or isinstance(offset, int):
        return near((offset or 0) + distance)
    if isinstance(offset, str):
        return at.sizes.key_length - at.sizes.query_length + near(distance)
    if isinstance(offset, np.ndarray):
        return at.per_batch(np.clip(offset + max(-(2**62), min(distance, 2**62)), -FAR, FAR))
    return at.per_batch(offset) + near(distance)


def near(distance: int) -> int:
    """Return a distance, no further away than FAR."""
    return max(-FAR, min(distance, FAR))


def near_lengths(lengths: Any, at: Positions) -> Any:
    """Return lengths that broadcast against the pairs, no longer than FAR."""
    return min(lengths, FAR) if isinstance(lengths, int) else at.per_batch(lengths)


def check_offset(name: str, offset: Any, sizes: Sizes, checks: Checks) -> None:
    """Check an offset against the sizes of an attention: without one, as many queries as keys (S7)."""
    if offset is None:
        checks.equal(
            sizes.query_length,
            sizes.key_length,
            lambda: (
                f"`{name}` without an offset needs as many queries as keys; "
                f"got {show_size(sizes.query_length)} queries and {show_size(sizes.key_length)} keys: "
                f"say `offset=0` (query 0 stands at key 0, top-left) "
                f"or `offset='end'` (the last query stands at the last key, bottom-right)"
            ),
        )
    elif not isinstance(offset, int | str):
        checks.read(f"offset` of `{name}", offset)
        check_per_batch(f"offset` of `{name}", offset, sizes, checks)


def check_lengths(name: str, what: str, lengths: Any, limit: Size, sizes: Sizes, checks: Checks) -> None:
    """Check lengths: 0 ≤ n ≤ limit, where they may be read, and the batch shape (S8)."""

    def message() -> str:
        return f"`{name}` must lie between 0 and the number of {what}, {show_size(limit)}; got {show(lengths)}"

    if isinstance(lengths, int):
        checks.at_most(min(lengths, FAR), limit, message)
        return
    values = checks.read(name, lengths)
    check_per_batch(name, lengths, sizes, checks)
    if values is not None and values.size:
        lengths = values
        if values.min() < 0:
            raise ValueError(f"`{name}` must be at least 0; got {show(values)}")
        checks.at_most(min(int(values.max()), FAR), limit, message)


def check_per_batch(name: str, values: Any, sizes: Sizes, checks: Checks) -> None:
    """Check that an array has the batch shape, or no axes."""
    shape = checks.shape(values)

    def message() -> str:
        return (
            f"`{name}` must be an int or have the batch shape {show_shape(sizes.batch)}; got shape {show_shape(shape)}"
        )

    if len(shape) not in (0, len(sizes.batch)):
        raise ValueError(message())
    for size, expected in zip(shape, sizes.batch, strict=False):
        checks.equal(size, expected, message)


def show_arguments(**values: Any) -> str:
    """Write the arguments of an object that are not None."""
    return ", ".join(f"{name}={show(value)}" for name, value in values.items() if value is not None)


def show(value: Any) -> str:
    """Write a number or an array for a message."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, separator=", ", threshold=8, formatter={"all": str}).replace("\n", "")
    if isinstance(value, int | float | str | tuple):
        return repr(value)
    return f"<{describe(value)} {show_shape_of(value)}>"


def show_shape_of(array: Any) -> str:
    """Write the shape of an array for a message, also one of unknown rank."""
    if getattr(array.shape, "rank", 0) is None:  # only TensorFlow has shapes whose rank is not known
        return "of unknown rank"
    return f"of shape {show_shape(tuple(array.shape))}"

"""Masks: predicates over query and key positions that any array type can evaluate (clauses S4, S6, S7, S8).

A mask never builds an array of its own. `Mask.visible` is written with operators only, over the positions that a
backend hands it as its own arrays, for any block of (query, key) pairs; so one definition serves every framework.
True means: this query may attend to this key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, Self, TypeAlias, TypeVar, dataclass_transform

import numpy as np

from .checks import Checks
from .operands import Size, describe, dtype_name, from_python, show_shape, show_size
from .shapes import Sizes, check_pairs

Offset: TypeAlias = int | Literal["end"] | Any | None
Integers: TypeAlias = int | Sequence[Any] | Any


_MaskClass = TypeVar("_MaskClass")


@dataclass_transform(eq_default=False, frozen_default=True)
def _frozen(cls: type[_MaskClass]) -> type[_MaskClass]:
    return dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)


class Positions(Protocol):
    """A block of (query, key) pairs, in one framework's arrays."""

    @property
    def query(self) -> Any:
        """Indices of the block's queries, (q, 1)."""

    @property
    def key(self) -> Any:
        """Indices of the block's keys, (1, k)."""

    @property
    def query_length(self) -> Size:
        """The number of queries of the whole attention, not of the block."""

    @property
    def key_length(self) -> Size:
        """The number of keys of the whole attention, not of the block."""

    def per_batch(self, values: Any) -> Any:
        """Take numbers of shape () or (*B,) and give them axes that broadcast against (*B, heads, q, k)."""

    def per_pair(self, array: Any) -> Any:
        """Take an array over all pairs and give its part for this block, broadcastable to (*B, heads, q, k)."""


@_frozen
class Mask:
    """A predicate over query and key positions; combine with `&`, `|`, `~` and with boolean arrays.

    Fields that are ints, strings or None are static: they take part in equality and in the hash. Arrays are leaves:
    they take part in equality where their values can be read, and never in the hash.
    """

    __array_ufunc__: ClassVar[None] = None  # NumPy then leaves `array & mask` to `__rand__` below

    def visible(self, at: Positions) -> Any:
        """Return a boolean array, broadcastable to (*B, heads, q, k): may the query attend to the key."""
        raise NotImplementedError

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Raise where this mask does not fit an attention of these sizes."""
        raise NotImplementedError

    def __and__(self, other: Any) -> Mask:
        return Both(self, as_mask(other))

    def __rand__(self, other: Any) -> Mask:
        return Both(as_mask(other), self)

    def __or__(self, other: Any) -> Mask:
        return Either(self, as_mask(other))

    def __ror__(self, other: Any) -> Mask:
        return Either(as_mask(other), self)

    def __invert__(self) -> Mask:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value; combine masks with `&`, `|` and `~`, not with `and`, `or`, `not`")

    def flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Split into (children, static): arrays and inner masks, and everything that is part of the identity."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        # A rebuilt mask keeps its structure, whatever stands for its children: `vmap`'s `in_axes` puts ints there.
        structure = getattr(self, "_structure", tuple(value if _is_static(value) else _Child for value in values))
        children = tuple(value for value, kept in zip(values, structure, strict=True) if kept is _Child)
        return children, structure

    @classmethod
    def rebuild(cls, static: Sequence[Any], children: Sequence[Any]) -> Self:
        """Undo `flatten` without validation: the children may be traced arrays or anything that stands for them."""
        mask = object.__new__(cls)
        remaining = iter(children)
        for field, value in zip(dataclasses.fields(cls), static, strict=True):
            object.__setattr__(mask, field.name, next(remaining) if value is _Child else value)
        object.__setattr__(mask, "_structure", tuple(static))
        return mask

    # TensorFlow's flatten protocol; it is looked up by name, so nothing is imported.
    def __tf_flatten__(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, static = self.flatten()
        return static, children

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[Any, ...], components: tuple[Any, ...]) -> Self:
        return cls.rebuild(metadata, components)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Mask):
            return False
        children, static = self.flatten()
        other_children, other_static = other.flatten()
        return static == other_static and all(map(_same, children, other_children))

    def __hash__(self) -> int:
        children, static = self.flatten()
        return hash((type(self), static, tuple(child for child in children if isinstance(child, Mask))))


FAR = 2**29
"""No position is as far away: shifts and lengths beyond it mean the same, and sums of two still fit into int32."""


class _Child:
    """Stands in the static part of a flattened mask where a child was taken out."""


def _is_static(value: Any) -> bool:
    return value is None or isinstance(value, int | str)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Mask) or isinstance(right, Mask):
        return bool(left == right)
    # Any framework's array may stand here, also a traced one, whose values nobody can read: then masks are not equal.
    try:
        return np.array_equal(np.asarray(left), np.asarray(right))
    except Exception:
        pass
    try:
        return tuple(left.shape) == tuple(right.shape) and bool((left == right).all())
    except Exception:
        return False


@_frozen
class Full(Mask):
    """Everything is visible."""

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key >= 0

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Fit every attention."""

    def __repr__(self) -> str:
        return "full()"


@_frozen
class Causal(Mask):
    """Keys up to the query's own position: j ≤ i + offset."""

    offset: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", _offset("causal", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key <= at.query + _shift(self.offset, at, 0)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the offset (S7)."""
        _check_offset("causal", self.offset, sizes, checks)

    def __repr__(self) -> str:
        return f"causal({_arguments(offset=self.offset)})"


@_frozen
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
        object.__setattr__(self, "offset", _offset("sliding_window", self.offset))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        after = None if self.left is None else at.key >= at.query + _shift(self.offset, at, -self.left)
        before = None if self.right is None else at.key <= at.query + _shift(self.offset, at, self.right)
        if after is None:
            return before
        return after if before is None else after & before

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the offset (S7)."""
        _check_offset("sliding_window", self.offset, sizes, checks)

    def __repr__(self) -> str:
        return f"sliding_window({_arguments(left=self.left, right=self.right, offset=self.offset)})"


@_frozen
class KeyLengths(Mask):
    """The first n keys of each batch element; the rest is padding."""

    lengths: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", _integers("key_lengths", self.lengths, minimum=0))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key < _near_lengths(self.lengths, at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the lengths against the number of keys (S8)."""
        _check_lengths("key_lengths", "keys", self.lengths, sizes.key_length, sizes, checks)

    def __repr__(self) -> str:
        return f"key_lengths({_show(self.lengths)})"


@_frozen
class QueryLengths(Mask):
    """The first n queries of each batch element; the rest is padding, whose rows are empty."""

    lengths: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", _integers("query_lengths", self.lengths, minimum=0))

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.query < _near_lengths(self.lengths, at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the lengths against the number of queries (S8)."""
        _check_lengths("query_lengths", "queries", self.lengths, sizes.query_length, sizes, checks)

    def __repr__(self) -> str:
        return f"query_lengths({_show(self.lengths)})"


@_frozen
class BooleanArray(Mask):
    """An explicit boolean array over (query, key) pairs."""

    array: Any

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.per_pair(self.array)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check rank and axes (S4)."""
        checks.read("mask", self.array)
        check_pairs("mask", checks.shape(self.array), sizes, checks)

    def __repr__(self) -> str:
        return f"<boolean array {_show_shape_of(self.array)}>"


@_frozen
class Both(Mask):
    """Visible in both masks."""

    left: Mask
    right: Mask

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return self.left.visible(at) & self.right.visible(at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check both parts."""
        self.left.check(sizes, checks)
        self.right.check(sizes, checks)

    def __repr__(self) -> str:
        return f"{_operand(self.left, Either)} & {_operand(self.right, Either | Both)}"


@_frozen
class Either(Mask):
    """Visible in one of two masks, or in both."""

    left: Mask
    right: Mask

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return self.left.visible(at) | self.right.visible(at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check both parts."""
        self.left.check(sizes, checks)
        self.right.check(sizes, checks)

    def __repr__(self) -> str:
        return f"{self.left!r} | {_operand(self.right, Either)}"


@_frozen
class Not(Mask):
    """Visible exactly where another mask is not."""

    mask: Mask

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return ~self.mask.visible(at)

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Check the mask itself."""
        self.mask.check(sizes, checks)

    def __repr__(self) -> str:
        return f"~{_operand(self.mask, Both | Either)}"


MASK_CLASSES: tuple[type[Mask], ...] = (
    Full,
    Causal,
    SlidingWindow,
    KeyLengths,
    QueryLengths,
    BooleanArray,
    Both,
    Either,
    Not,
)
"""Every class of mask: what a framework registers to take masks apart and put them together."""


def full() -> Mask:
    """Make the mask that hides nothing: the neutral element of `&`."""
    return Full()


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


def as_mask(value: Any) -> Mask:
    """Return a mask object as it is, and wrap a boolean array; refuse everything else (S4)."""
    if isinstance(value, Mask):
        return value
    if isinstance(value, list | tuple | bool | np.bool_):
        value = from_python("mask", value, "an array")
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "shape"):
        raise TypeError(f"`mask` must be a mask object or a boolean array (True = may attend); got {describe(value)}")
    name = dtype_name(dtype)
    if name != "bool":
        raise TypeError(
            f"`mask` must be a mask object or a boolean array (True = may attend); got an array of dtype {name}: "
            f"pass numbers to add to the scores as `bias=`, or write the comparison that you mean, as in `array != 0`"
        )
    return BooleanArray(value)


def _integers(name: str, value: Any, minimum: int | None) -> Any:
    """Return an int (static) or an integer array (a leaf); refuse what is neither."""
    if isinstance(value, list | tuple):
        value = from_python(name, value, "an array") if len(value) else np.zeros(0, np.int64)
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be an int or integers of shape (*batch,); got a boolean")
    if isinstance(value, int | np.integer):
        value = int(value)
        if minimum is not None and value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {value}")
        return value
    dtype = getattr(value, "dtype", None)
    if dtype is None or not hasattr(value, "shape"):
        raise TypeError(f"`{name}` must be an int or integers of shape (*batch,); got {describe(value)}")
    if not dtype_name(dtype).startswith(("int", "uint")):
        raise TypeError(f"`{name}` must be an int or integers of shape (*batch,); got dtype {dtype_name(dtype)}")
    if isinstance(value, np.ndarray):
        value = from_python(name, value, "an array")
        if minimum is not None and value.size and value.min() < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {_show(value)}")
        # A copy of one width: later writes to the caller's array must not change a mask, nor may uint8 wrap round.
        value = np.minimum(value, np.uint64(2**63 - 1)) if value.dtype == np.uint64 else value
        value = np.asarray(value).astype(np.int64)
    return value


def _static_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an int or None; got {value!r}")
    if value < 0:
        raise ValueError(f"`{name}` must be at least 0 (it counts keys beside the query's own); got {value}")
    return int(value)


def _offset(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value == "end"):
        return value
    if isinstance(value, str):
        raise ValueError(
            f"`offset` of `{name}` must be an int, integers of shape (*batch,), 'end' or None; got {value!r}"
        )
    offset = _integers(f"offset` of `{name}", value, minimum=None)
    if isinstance(offset, np.ndarray):
        limits = np.iinfo(np.int32)  # JAX without 64 bits would wrap round what is beyond, and no position is
        offset = np.asarray(np.clip(offset, limits.min, limits.max))
    return offset


def _shift(offset: Any, at: Positions, distance: int) -> Any:
    """Compute offset + distance, no further away than FAR."""
    if offset is None or isinstance(offset, int):
        return _near((offset or 0) + distance)
    if isinstance(offset, str):
        return at.key_length - at.query_length + _near(distance)
    if isinstance(offset, np.ndarray):
        return at.per_batch(np.clip(offset + max(-(2**62), min(distance, 2**62)), -FAR, FAR))
    return at.per_batch(offset) + _near(distance)


def _near_lengths(lengths: Any, at: Positions) -> Any:
    return min(lengths, FAR) if isinstance(lengths, int) else at.per_batch(lengths)


def _near(distance: int) -> int:
    return max(-FAR, min(distance, FAR))


def _check_offset(name: str, offset: Any, sizes: Sizes, checks: Checks) -> None:
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
        _check_per_batch(f"offset` of `{name}", offset, sizes, checks)


def _check_lengths(name: str, what: str, lengths: Any, limit: Size, sizes: Sizes, checks: Checks) -> None:
    def message() -> str:
        return f"`{name}` must lie between 0 and the number of {what}, {show_size(limit)}; got {_show(lengths)}"

    if isinstance(lengths, int):
        checks.at_most(min(lengths, FAR), limit, message)
        return
    values = checks.read(name, lengths)
    _check_per_batch(name, lengths, sizes, checks)
    if values is not None and values.size:
        lengths = values
        if values.min() < 0:
            raise ValueError(f"`{name}` must be at least 0; got {_show(values)}")
        checks.at_most(min(int(values.max()), FAR), limit, message)


def _check_per_batch(name: str, values: Any, sizes: Sizes, checks: Checks) -> None:
    shape = checks.shape(values)

    def message() -> str:
        return (
            f"`{name}` must be an int or have the batch shape {show_shape(sizes.batch)}; got shape {show_shape(shape)}"
        )

    if len(shape) not in (0, len(sizes.batch)):
        raise ValueError(message())
    for size, expected in zip(shape, sizes.batch, strict=False):
        checks.equal(size, expected, message)


def _operand(mask: Mask, wrapped: Any) -> str:
    return f"({mask!r})" if isinstance(mask, wrapped) else repr(mask)


def _arguments(**values: Any) -> str:
    return ", ".join(f"{name}={_show(value)}" for name, value in values.items() if value is not None)


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return np.array2string(value, separator=", ", threshold=8, formatter={"all": str}).replace("\n", "")
    return repr(value) if isinstance(value, int | str) else f"<{describe(value)} {_show_shape_of(value)}>"


def _show_shape_of(array: Any) -> str:
    if getattr(array.shape, "rank", 0) is None:  # only TensorFlow has shapes whose rank is not known
        return "of unknown rank"
    return f"of shape {show_shape(tuple(array.shape))}"

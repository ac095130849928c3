"""Masks: predicates over query and key positions that any array type can evaluate (clauses S4, S6).

A mask never builds an array of its own. `Mask.visible` is written with operators only, over the positions that a
backend hands it as its own arrays, for any block of (query, key) pairs; so one definition serves every framework.
True means: this query may attend to this key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .checks import Checks
from .operands import describe, dtype_name, framework_of, from_python
from .positions import Positions, show_shape_of
from .shapes import Sizes, check_pairs
from .trees import Tree, frozen


@frozen
class Mask(Tree):
    """A predicate over query and key positions; combine with `&`, `|`, `~` and with boolean arrays."""

    __array_ufunc__: ClassVar[None] = None  # NumPy then leaves `array & mask` to `__rand__` below

    def visible(self, at: Positions) -> Any:
        """Return a boolean array, broadcastable to (*B, heads, q, k): may the query attend to the key."""
        raise NotImplementedError

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Raise where this mask does not fit an attention of these sizes."""
        raise NotImplementedError

    # What Keras calls to save a model whose layers are called with masks; looked up by name, so nothing is imported.
    def get_config(self) -> dict[str, Any]:
        """Return the mask as plain data."""
        from .mask_json import mask_to_json

        return mask_to_json(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Mask:
        """Read what `get_config` returned."""
        from .mask_json import mask_from_json

        return mask_from_json(config)

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


@frozen
class Full(Mask):
    """Everything is visible."""

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        return at.key >= 0

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Fit every attention."""

    def __repr__(self) -> str:
        return "full()"


@frozen
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
        return f"<boolean array {show_shape_of(self.array)}>"


@frozen
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


@frozen
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


@frozen
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


@frozen
class Predicate(Mask):
    """Visible where a function of the user's says so; its name stands for it in JSON."""

    name: str
    function: Callable[[Any, Any], Any]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            got = repr(self.name) if isinstance(self.name, str) else describe(self.name)
            raise TypeError(f"`name` of `predicate` must be a string that is not empty; got {got}")
        if not callable(self.function):
            raise TypeError(f"`function` of `predicate` must be callable; got {describe(self.function)}")

    def visible(self, at: Positions) -> Any:
        """See `Mask.visible`."""
        visible = self.function(at.query, at.key)
        dtype = getattr(visible, "dtype", None)
        if dtype is None or dtype_name(dtype) != "bool":
            got = describe(visible) if dtype is None else f"an array of dtype {dtype_name(dtype)}"
            raise TypeError(f"`function` of `predicate` {self.name!r} must return a boolean array; got {got}")
        if framework_of(visible) != framework_of(at.query):
            raise TypeError(
                f"`function` of `predicate` {self.name!r} must return an array of the framework whose indices it is "
                f"given; got {describe(visible)}"
            )
        shape = tuple(visible.shape)
        if len(shape) > 2 or not _broadcasts(shape, (at.query.shape[0], at.key.shape[1])):
            raise ValueError(
                f"`function` of `predicate` {self.name!r} must return an array that broadcasts against "
                f"(queries, keys); got one {show_shape_of(visible)}"
            )
        return visible

    def check(self, sizes: Sizes, checks: Checks) -> None:
        """Fit every attention: what the function returns is checked when it is called."""

    def __repr__(self) -> str:
        return f"predicate({self.name!r}, …)"


def full() -> Mask:
    """Make the mask that hides nothing: the neutral element of `&`."""
    return Full()


def predicate(name: str, function: Callable[[Any, Any], Any]) -> Mask:
    """Make a mask of a function: visible where `function(query, key)` is True (S4).

    Args:
        name: what stands for the function in JSON, where a function cannot stand.
        function: takes the indices of queries (q, 1) and of keys (1, k), integer arrays of the framework that evaluates
            the mask, and returns a boolean array that broadcasts against (q, k). Written with operators only, as in
            `lambda query, key: (query - key) % 3 == 0`, it works in every framework. Two such masks are equal if their
            names are and they hold the same function.
    """
    return Predicate(name, function)


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


def _operand(mask: Mask, wrapped: Any) -> str:
    return f"({mask!r})" if isinstance(mask, wrapped) else repr(mask)


def _broadcasts(shape: tuple[Any, ...], full: tuple[Any, ...]) -> bool:
    whole = full[len(full) - len(shape) :]
    return all(size in (1, limit) or None in (size, limit) for size, limit in zip(shape, whole, strict=True))

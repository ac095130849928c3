"""Biases: numbers added to the scores, as functions of query and key positions (clauses S5, S7).

As a mask does, a bias object builds no array of its own: `Bias.values` is written with operators, over the positions
that a backend hands it as its own arrays, for any block of (query, key) pairs. Python numbers in it have no dtype: they
are used in the accumulation dtype, like everything that a bias object computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .checks import Checks
from .operands import (
    Shape,
    accumulation_dtype,
    check_dtype,
    describe,
    dtype_name,
    floating_from_python,
    is_untyped,
    show_shape,
)
from .positions import (
    Offset,
    Positions,
    as_offset,
    check_near,
    check_offset,
    shift,
    show,
    show_arguments,
    show_shape_of,
)
from .shapes import Sizes, check_pairs, check_per_head
from .trees import Tree, frozen

Convert = Callable[[str, Any], Any]
"""(name, value) → a floating tensor of a framework; it refuses what is none."""


@frozen
class Bias(Tree):
    """Numbers over (query, key) pairs; add them to each other, and to arrays, with `+`."""

    __array_ufunc__: ClassVar[None] = None  # NumPy then leaves `array + bias` to `__radd__` below

    def values(self, at: Positions) -> Any:
        """Return the numbers for a block, broadcastable to (*B, heads, q, k), in the accumulation dtype."""
        raise NotImplementedError

    def check(self, sizes: Sizes, dtype: str, checks: Checks) -> None:
        """Raise where this bias does not fit an attention of these sizes, whose query has this dtype."""
        raise NotImplementedError

    def with_tensors(self, convert: Convert) -> Bias:
        """Return the same bias, its arrays of numbers converted to one framework's tensors."""
        raise NotImplementedError

    # What Keras calls to save a model whose layers are called with biases; looked up by name, so nothing is imported.
    def get_config(self) -> dict[str, Any]:
        """Return the bias as plain data."""
        from .bias_json import bias_to_json

        return bias_to_json(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bias:
        """Read what `get_config` returned."""
        from .bias_json import bias_from_json

        return bias_from_json(config)

    def __add__(self, other: Any) -> Bias:
        return Sum(self, as_bias(other))

    def __radd__(self, other: Any) -> Bias:
        return Sum(as_bias(other), self)


@frozen
class BiasArray(Bias):
    """An explicit array over (query, key) pairs."""

    array: Any

    def values(self, at: Positions) -> Any:
        """See `Bias.values`."""
        return at.as_number(at.per_pair(self.array))

    def check(self, sizes: Sizes, dtype: str, checks: Checks) -> None:
        """Check dtype, rank and axes (S5, S16)."""
        check_option_dtype("bias", self.array, dtype)
        check_pairs("bias", checks.shape(self.array), sizes, checks)

    def with_tensors(self, convert: Convert) -> Bias:
        """See `Bias.with_tensors`."""
        return BiasArray(convert("bias", self.array))

    def __repr__(self) -> str:
        return f"<array {show_shape_of(self.array)}>" if hasattr(self.array, "shape") else repr(self.array)


@frozen
class Alibi(Bias):
    """A number that falls linearly with the distance between query and key, for each head with its own slope."""

    slopes: Any
    symmetric: bool
    offset: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"`symmetric` of `alibi` must be True or False; got {self.symmetric!r}")
        if self.slopes is not None:
            object.__setattr__(self, "slopes", _numbers("slopes` of `alibi", self.slopes))
        object.__setattr__(self, "offset", as_offset("alibi", self.offset))

    def values(self, at: Positions) -> Any:
        """See `Bias.values`."""
        distance = at.query + shift(self.offset, at) - at.key
        slopes = alibi_slopes(at.sizes.num_heads) if self.slopes is None else self.slopes
        return -at.per_head(slopes) * at.as_number(abs(distance) if self.symmetric else distance)

    def check(self, sizes: Sizes, dtype: str, checks: Checks) -> None:
        """Check the offset (S7) and one slope for each query head."""
        check_offset("alibi", self.offset, sizes, checks)
        check_near("offset` of `alibi", self.offset, checks)
        if self.slopes is not None:
            shape = _check_numbers("slopes` of `alibi", self.slopes, dtype, checks)
            check_per_head("slopes` of `alibi", shape, sizes, checks)
        elif not isinstance(sizes.num_heads, int):
            raise ValueError("`alibi` needs to know the number of heads; give its `slopes`")

    def with_tensors(self, convert: Convert) -> Bias:
        """See `Bias.with_tensors`."""
        slopes = _converted("slopes` of `alibi", self.slopes, convert)
        return self if slopes is self.slopes else Alibi(slopes, self.symmetric, self.offset)

    def __repr__(self) -> str:
        slopes = "" if self.slopes is None else f"{show(self.slopes)}, "
        return f"alibi({slopes}{show_arguments(symmetric=self.symmetric, offset=self.offset)})"


@frozen
class RelativePositionBias(Bias):
    """A learned number for each head and each bucket of relative positions, as in T5."""

    table: Any
    bidirectional: bool
    max_distance: int
    offset: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.bidirectional, bool):
            raise TypeError(
                f"`bidirectional` of `relative_position_bias` must be True or False; got {self.bidirectional!r}"
            )
        if isinstance(self.max_distance, bool) or not isinstance(self.max_distance, int | np.integer):
            raise TypeError(f"`max_distance` of `relative_position_bias` must be an int; got {self.max_distance!r}")
        object.__setattr__(self, "max_distance", int(self.max_distance))
        object.__setattr__(self, "table", _numbers("table` of `relative_position_bias", self.table))
        object.__setattr__(self, "offset", as_offset("relative_position_bias", self.offset))

    def values(self, at: Positions) -> Any:
        """See `Bias.values`."""
        buckets = relative_position_buckets(_rows(self.table), self.bidirectional, self.max_distance)
        relative = at.key - at.query - shift(self.offset, at)
        # The buckets of −max_distance … max_distance; everything beyond has the bucket of the nearest.
        return at.look_up(self.table, buckets, relative + self.max_distance)

    def check(self, sizes: Sizes, dtype: str, checks: Checks) -> None:
        """Check the offset (S7), the table, and that its rows are a possible number of buckets."""
        name = "table` of `relative_position_bias"
        check_offset("relative_position_bias", self.offset, sizes, checks)
        shape = _check_numbers(name, self.table, dtype, checks)
        if len(shape) not in (1, 2):
            raise ValueError(f"`{name}` must have shape (buckets, heads), or (buckets,); got shape {show_shape(shape)}")
        if not isinstance(shape[0], int):
            raise ValueError(f"`{name}` must have a number of rows that is known; got shape {show_shape(shape)}")
        check_per_head(name, shape[1:], sizes, checks, leading=shape[:1])
        _check_buckets(shape[0], self.bidirectional, self.max_distance)

    def with_tensors(self, convert: Convert) -> Bias:
        """See `Bias.with_tensors`."""
        table = _converted("table` of `relative_position_bias", self.table, convert)
        if table is self.table:
            return self
        return RelativePositionBias(table, self.bidirectional, self.max_distance, self.offset)

    def __repr__(self) -> str:
        rest = show_arguments(bidirectional=self.bidirectional, max_distance=self.max_distance, offset=self.offset)
        return f"relative_position_bias({show(self.table)}, {rest})"


@frozen
class Sum(Bias):
    """Two biases added."""

    left: Bias
    right: Bias

    def values(self, at: Positions) -> Any:
        """See `Bias.values`."""
        return self.left.values(at) + self.right.values(at)

    def check(self, sizes: Sizes, dtype: str, checks: Checks) -> None:
        """Check both parts."""
        self.left.check(sizes, dtype, checks)
        self.right.check(sizes, dtype, checks)

    def with_tensors(self, convert: Convert) -> Bias:
        """See `Bias.with_tensors`."""
        return Sum(self.left.with_tensors(convert), self.right.with_tensors(convert))

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"


def alibi(slopes: Any = None, *, symmetric: bool, offset: Offset = None) -> Bias:
    """Make the bias of ALiBi: −slope_h · |p − j| or −slope_h · (p − j), with query i at p = i + offset (S5, S7).

    Args:
        slopes: one number for each query head, (Hq,), or one number where there is a single head; None: the slopes of
            the paper for as many heads as there are, `alibi_slopes(Hq)`.
        symmetric: True for |p − j|, which also falls towards later keys; False for p − j, which rises towards them and
            is meant to be used with `causal()`, where the two are the same.
        offset: as for `causal`.

    Source: Press et al. 2022, §3; the numbers of slopes that are no power of two are those of its published code.
    """
    return Alibi(slopes, symmetric, offset)


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """Return the slopes of ALiBi for a number of heads: 2^(−8(h+1)/H) where H is a power of two.

    Otherwise: the slopes of the largest power of two below it, and then every second one of twice that power.

    Source: Press et al. 2022, §3.
    """
    if isinstance(num_heads, bool) or not isinstance(num_heads, int | np.integer):
        raise TypeError(f"`num_heads` must be an int; got {num_heads!r}")
    if num_heads < 0:
        raise ValueError(f"`num_heads` must be at least 0; got {num_heads}")

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (head + 1) / count) for head in range(count)]

    power = 1 << int(num_heads).bit_length() - 1 if num_heads else 0
    return tuple(geometric(power) + geometric(2 * power)[::2][: num_heads - power])


def relative_position_bias(table: Any, *, bidirectional: bool, max_distance: int = 128, offset: Offset = None) -> Bias:
    """Make the bias of T5: a learned number for each head and each bucket of the relative position j − (i + offset).

    Bidirectional attention gives half of the buckets to later keys; otherwise later keys share bucket 0 with the own
    one. Of the m = buckets/2 (of one direction) the first are single distances; the rest widens by equal ratios up to
    `max_distance`, and everything beyond falls into the last. Edges are computed exactly, not by rounded logarithms.

    Args:
        table: the numbers, (buckets, Hq), or (buckets,) where there is a single head.
        bidirectional: whether the sign of the relative position counts.
        max_distance: from which distance on everything shares the last bucket.
        offset: as for `causal`.

    Source: Raffel et al. 2020, §2.1; the buckets are those of its published code.
    """
    return RelativePositionBias(table, bidirectional, max_distance, offset)


def relative_position_buckets(num_buckets: int, bidirectional: bool, max_distance: int) -> tuple[int, ...]:
    """Return the buckets of the relative positions −max_distance … max_distance."""
    count = num_buckets // 2 if bidirectional else num_buckets
    exact = count // 2
    # Bucket exact + k begins at the first n with (n/exact)^(count−exact) ≥ (max_distance/exact)^k: integers, so no
    # logarithm can round an edge away.
    wide = count - exact
    edges = list(range(1, exact + 1))
    for k in range(1, wide):
        at_least = max_distance**k * exact ** (wide - k)
        edges.append(next(n for n in range(edges[-1], max_distance + 1) if n**wide >= at_least))
    widths = (end - start for start, end in zip([0, *edges], [*edges, max_distance + 1], strict=True))
    buckets = [bucket for bucket, width in enumerate(widths) for _ in range(width)]
    before = buckets[:0:-1]
    after = [count + bucket for bucket in buckets[1:]] if bidirectional else [0] * max_distance
    return (*before, 0, *after)


def as_bias(value: Any) -> Bias:
    """Return a bias object as it is, and wrap an array; refuse what can be neither."""
    if isinstance(value, Bias):
        return value
    if not isinstance(value, list | tuple | int | float) and not hasattr(value, "shape"):
        raise TypeError(f"`bias` must be an array or nested lists of numbers; got {describe(value)}")
    return BiasArray(value)


def check_option_dtype(name: str, array: Any, dtype: str, beside: str = "query") -> None:
    """Check the dtype of an option beside a query of this dtype: the same, or the one it accumulates in (S16).

    `beside` names, for the message, what stands in the place of a query.
    """
    found = dtype_name(array.dtype)
    check_dtype(name, found)
    allowed = {dtype, accumulation_dtype(dtype)}
    if found not in allowed:
        company = f"a {dtype} query" if beside == "query" else f"{dtype} {beside}"
        raise TypeError(f"`{name}` must have dtype {' or '.join(sorted(allowed))} beside {company}; got {found}")


def _numbers(name: str, value: Any) -> Any:
    """Keep Python numbers static, as nested tuples: they have no dtype, and are used in the accumulation dtype."""
    if isinstance(value, bool) or (not isinstance(value, list | tuple | int | float) and not hasattr(value, "shape")):
        raise TypeError(f"`{name}` must be numbers or a floating array; got {describe(value)}")
    if not is_untyped(value):
        return value
    floating_from_python(name, value, "an array")  # refuses booleans, and lists of unequal lengths
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else float(value)


def _shape_of(numbers: Any) -> Shape:
    if not isinstance(numbers, tuple):
        return ()
    return (len(numbers), *_shape_of(numbers[0])) if numbers else (0,)


def _rows(table: Any) -> int:
    return len(table) if isinstance(table, tuple) else int(table.shape[0])


def _converted(name: str, numbers: Any, convert: Convert) -> Any:
    return numbers if numbers is None or isinstance(numbers, tuple | float) else convert(name, numbers)


def _check_numbers(name: str, numbers: Any, dtype: str, checks: Checks) -> Shape:
    if isinstance(numbers, tuple | float):
        return _shape_of(numbers)
    check_option_dtype(name, numbers, dtype)
    return checks.shape(numbers)


def _check_buckets(num_buckets: int, bidirectional: bool, max_distance: int) -> None:
    count = num_buckets // 2 if bidirectional else num_buckets
    if count < 2 or (bidirectional and num_buckets % 2):
        least = "an even number of rows, at least 4" if bidirectional else "at least 2 rows"
        raise ValueError(f"`table` of `relative_position_bias` must have {least}; got {num_buckets}")
    if max_distance <= count // 2:
        raise ValueError(
            f"`max_distance` of `relative_position_bias` must exceed {count // 2}, "
            f"the number of single distances among {num_buckets} buckets; got {max_distance}"
        )

"""Which shapes fit together (clauses S1, S12), for each of the four operations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .checks import Checks
from .operands import Operand, Shape, Size, show_shape, show_size
from .parameters import MultiHeadParameters


class Sizes(NamedTuple):
    """The sizes of one attention in canonical layout (*batch, heads, length, size), the head axis always present."""

    batch: Shape
    num_heads: Size
    num_kv_heads: Size
    query_length: Size
    key_length: Size
    head_dim: Size
    value_dim: Size
    rank: int
    """How many axes the caller's query has; a mask or bias has 2 or that many."""

    @property
    def has_heads(self) -> bool:
        """Whether the caller's masks and biases may have a head axis."""
        return self.rank == len(self.batch) + 3

    @property
    def pairs(self) -> Shape:
        """The caller's shape of a full mask: (*batch, heads, queries, keys), without heads at rank 2 and 3."""
        heads = (self.num_heads,) if self.has_heads else ()
        return (*self.batch, *heads, self.query_length, self.key_length)


def dot_product_sizes(query: Operand, key: Operand, value: Operand, checks: Checks) -> Sizes:
    """Check (*B,Hq,Tq,Dk) (*B,Hkv,Tk,Dk) (*B,Hkv,Tk,Dv); ranks 2 and 3 have no head axis."""
    sizes = similarity_sizes(query, key, value, checks)
    checks.equal(key.shape[-1], query.shape[-1], lambda: _differ("key", key, "query", query, "size (axis -1)"))
    return sizes


def similarity_sizes(query: Operand, key: Operand, value: Operand, checks: Checks) -> Sizes:
    """Check (*B,Hq,Tq,·) (*B,Hkv,Tk,·) (*B,Hkv,Tk,Dv): not every similarity asks for queries and keys of one size."""
    rank = len(query.shape)
    if rank < 2:
        raise ValueError(
            f"`query` must have at least 2 axes, (*batch, heads, length, size) or without heads (length, size) and "
            f"(batch, length, size); got shape {show_shape(query.shape)}"
        )
    for name, operand in (("key", key), ("value", value)):
        if len(operand.shape) != rank:
            raise ValueError(
                f"`{name}` must have as many axes as `query`, {rank}; "
                f"got shapes query {show_shape(query.shape)} and {name} {show_shape(operand.shape)}"
            )
    heads = 1 if rank < 4 else query.shape[-3]
    kv_heads = 1 if rank < 4 else key.shape[-3]
    batch = query.shape[: max(rank - 3, 0)] if rank >= 4 else query.shape[:-2]
    for name, operand in (("key", key), ("value", value)):
        _equal_batch(checks, name, operand, "query", query, len(batch))
    if rank >= 4:
        checks.equal(value.shape[-3], kv_heads, lambda: _differ("value", value, "key", key, "heads (axis -3)"))
    checks.equal(value.shape[-2], key.shape[-2], lambda: _differ("value", value, "key", key, "length (axis -2)"))
    if rank >= 4:
        _check_groups(heads, kv_heads, checks, query, key)
    check_head_dim(query.shape[-1], "query", query, checks)
    return Sizes(batch, heads, kv_heads, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1], rank)


def self_attention_sizes(
    inputs: Operand, query_weight: Operand, key_weight: Operand, value_weight: Operand, checks: Checks
) -> Sizes:
    """Check (*B,T,D), (D,Dk) (D,Dk) (D,Dv)."""
    if len(inputs.shape) < 2:
        raise ValueError(
            f"`inputs` must have at least 2 axes, (*batch, length, size); got shape {show_shape(inputs.shape)}"
        )
    weights = {"query_weight": query_weight, "key_weight": key_weight, "value_weight": value_weight}
    for name, weight in weights.items():
        _check_weight(name, weight, "inputs", inputs, checks)
    checks.equal(
        key_weight.shape[1],
        query_weight.shape[1],
        lambda: _differ("key_weight", key_weight, "query_weight", query_weight, "columns (axis -1)"),
    )
    check_head_dim(query_weight.shape[1], "query_weight", query_weight, checks)
    *batch, length, _ = inputs.shape
    head_dim, value_dim = query_weight.shape[1], value_weight.shape[1]
    return Sizes(tuple(batch), 1, 1, length, length, head_dim, value_dim, len(inputs.shape) + 1)


def key_value_sizes(query: Operand, keys: Operand, values: Operand, checks: Checks) -> Sizes:
    """Check one query per memory: (*B,Dk) (*B,S,Dk) (*B,S,Dv)."""
    rank = len(query.shape)
    if rank < 1:
        raise ValueError("`query` must have at least 1 axis, (*batch, size); got shape ()")
    for name, operand in (("keys", keys), ("values", values)):
        if len(operand.shape) != rank + 1:
            raise ValueError(
                f"`{name}` must have one axis more than `query`, (*batch, memory, size); "
                f"got shapes query {show_shape(query.shape)} and {name} {show_shape(operand.shape)}"
            )
        _equal_batch(checks, name, operand, "query", query, rank - 1)
    checks.equal(values.shape[-2], keys.shape[-2], lambda: _differ("values", values, "keys", keys, "length (axis -2)"))
    checks.equal(keys.shape[-1], query.shape[-1], lambda: _differ("keys", keys, "query", query, "size (axis -1)"))
    check_head_dim(query.shape[-1], "query", query, checks)
    return Sizes(query.shape[:-1], 1, 1, 1, keys.shape[-2], query.shape[-1], values.shape[-1], rank + 2)


def multi_head_sizes(
    query: Operand,
    key: Operand,
    value: Operand,
    parameters: MultiHeadParameters,
    num_heads: int,
    num_kv_heads: int | None,
    checks: Checks,
) -> Sizes:
    """Check (*B,Tq,E) (*B,Tk,E_k) (*B,Tk,E_v) against `MultiHeadParameters` (of operands) and the numbers of heads."""
    heads, kv_heads = check_heads(num_heads, num_kv_heads)
    rank = len(query.shape)
    if rank < 2:
        raise ValueError(
            f"`query` must have at least 2 axes, (*batch, length, size); got shape {show_shape(query.shape)}"
        )
    for name, operand in (("key", key), ("value", value)):
        if len(operand.shape) != rank:
            raise ValueError(
                f"`{name}` must have as many axes as `query`, {rank}; "
                f"got shapes query {show_shape(query.shape)} and {name} {show_shape(operand.shape)}"
            )
        _equal_batch(checks, name, operand, "query", query, rank - 2)
    checks.equal(value.shape[-2], key.shape[-2], lambda: _differ("value", value, "key", key, "length (axis -2)"))
    sources = ("query", query), ("key", key), ("value", value)
    head_dim, value_dim = _head_sizes(sources, parameters, heads, kv_heads, checks)
    return Sizes(query.shape[:-2], heads, kv_heads, query.shape[-2], key.shape[-2], head_dim, value_dim, rank + 1)


def self_multi_head_sizes(
    inputs: Operand, parameters: MultiHeadParameters, num_heads: int, num_kv_heads: int | None, checks: Checks
) -> Sizes:
    """Check (*B,T,E), whose queries, keys and values are projected by `MultiHeadParameters` (of operands)."""
    heads, kv_heads = check_heads(num_heads, num_kv_heads)
    if len(inputs.shape) < 2:
        raise ValueError(
            f"`inputs` must have at least 2 axes, (*batch, length, size); got shape {show_shape(inputs.shape)}"
        )
    head_dim, value_dim = _head_sizes((("inputs", inputs),) * 3, parameters, heads, kv_heads, checks)
    *batch, length, _ = inputs.shape
    return Sizes(tuple(batch), heads, kv_heads, length, length, head_dim, value_dim, len(inputs.shape) + 1)


def check_heads(num_heads: Any, num_kv_heads: Any) -> tuple[int, int]:
    """Check the numbers of heads and fill in the second: as many key/value heads as query heads by default."""
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    for name, count in (("num_heads", num_heads), ("num_kv_heads", kv_heads)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise TypeError(f"`{name}` must be an int; got {count!r}")
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1; got {count}")
    if num_heads % kv_heads:
        raise ValueError(f"`num_heads` must be a multiple of `num_kv_heads`; got {num_heads} and {kv_heads}")
    return int(num_heads), int(kv_heads)


def check_pairs(name: str, shape: Shape, sizes: Sizes, checks: Checks) -> None:
    """Check an array over (query, key) pairs: rank 2 or the query's rank, each axis full or 1 (S4, S5)."""
    full = sizes.pairs
    if len(shape) not in (2, len(full)):
        raise ValueError(_wrong_rank(name, shape, full))
    for size, whole in zip(shape, full[-len(shape) :], strict=True):
        checks.one_or(
            size,
            whole,
            lambda: f"each axis of `{name}` must be 1 or that of {show_shape(full)}; got shape {show_shape(shape)}",
        )


def check_per_head(name: str, shape: Shape, sizes: Sizes, checks: Checks, leading: Shape = ()) -> None:
    """Check an array with one number for each query head: (Hq,), or () where there is one head or no head axis (S1).

    `leading` are the axes that stand before, for the message.
    """
    heads = sizes.num_heads
    single = not sizes.has_heads or (isinstance(heads, int) and heads == 1)

    def message() -> str:
        allowed = [show_shape((*leading, heads))] if sizes.has_heads else []
        allowed += [show_shape(leading)] if single else []
        count = "the one head" if single else f"each of the {show_size(heads)} query heads"
        return (
            f"`{name}` must have one number for {count}, shape {' or '.join(allowed)}; "
            f"got shape {show_shape((*leading, *shape))}"
        )

    if not shape and single:
        return
    if len(shape) != 1 or not sizes.has_heads:
        raise ValueError(message())
    checks.equal(shape[0], heads, message)


def _wrong_rank(name: str, shape: Shape, full: Shape) -> str:
    axes = "2 axes" if len(full) == 2 else f"2 axes or {len(full)}"
    message = f"`{name}` must have {axes}, up to {show_shape(full)}; got shape {show_shape(shape)}"
    if len(shape) == 3 and len(full) == 4:
        first, queries, keys = show_shape(shape)[1:-1].split(", ")
        if full[1] == 1 and shape[0] != 1:  # as in self_attention: axis 0 can only be the batch
            return f"{message}, which lacks the head axis: reshape to ({first}, 1, {queries}, {keys})"
        message += (
            f", which is ambiguous: reshape to ({first}, 1, {queries}, {keys}) if axis 0 is the batch, "
            f"or to (1, {first}, {queries}, {keys}) if it is the heads"
        )
    return message


def _equal_batch(checks: Checks, name: str, operand: Operand, other: str, reference: Operand, axes: int) -> None:
    for left, right in zip(operand.shape[:axes], reference.shape[:axes], strict=True):
        checks.equal(left, right, lambda: _differ(name, operand, other, reference, "batch axes"))


def _differ(name: str, operand: Operand, other: str, reference: Operand, what: str) -> str:
    return (
        f"`{name}` must have the {what} of `{other}`; "
        f"got shapes {other} {show_shape(reference.shape)} and {name} {show_shape(operand.shape)}"
    )


def _check_groups(heads: Size, kv_heads: Size, checks: Checks, query: Operand, key: Operand) -> None:
    checks.multiple(
        heads,
        kv_heads,
        lambda: (
            f"the number of query heads must be a multiple of the number of key/value heads (axis -3); "
            f"got shapes query {show_shape(query.shape)} and key {show_shape(key.shape)}"
        ),
    )


def check_head_dim(head_dim: Size, name: str, operand: Operand, checks: Checks) -> None:
    """Check that queries or keys, or the weight that makes them, give vectors of at least 1 component."""
    checks.at_most(
        1,
        head_dim,
        lambda: f"queries and keys must have a size of at least 1; `{name}` has shape {show_shape(operand.shape)}",
    )


def _head_sizes(
    sources: tuple[tuple[str, Operand], ...],
    parameters: MultiHeadParameters,
    heads: int,
    kv_heads: int,
    checks: Checks,
) -> tuple[Size, Size]:
    """Check the parameters of a multi-head attention; return the sizes of a query head and of a value head.

    `sources` are what queries, keys and values are projected from, each with its name.
    """
    for part, source in zip(("query", "key", "value"), sources, strict=True):
        _check_weight(f"{part}_weight", getattr(parameters, f"{part}_weight"), *source, checks)
    head_dim = _per_head("query_weight", parameters.query_weight, "num_heads", heads, checks)
    key_dim = _per_head("key_weight", parameters.key_weight, "num_kv_heads", kv_heads, checks)
    value_dim = _per_head("value_weight", parameters.value_weight, "num_kv_heads", kv_heads, checks)
    checks.equal(
        key_dim,
        head_dim,
        lambda: (
            f"`key_weight` must give each of {kv_heads} key heads the size of a query head, {show_size(head_dim)}; "
            f"got shape {show_shape(parameters.key_weight.shape)}, which gives {show_size(key_dim)}"
        ),
    )
    check_head_dim(head_dim, "query_weight", parameters.query_weight, checks)
    _check_output_weight(parameters.output_weight, heads, value_dim, checks)
    _check_biases(parameters, checks)
    return head_dim, value_dim


def _check_weight(name: str, weight: Operand, source: str, operand: Operand, checks: Checks) -> None:
    def message() -> str:
        return (
            f"`{name}` must have shape (size of `{source}`, columns); "
            f"got shapes {source} {show_shape(operand.shape)} and {name} {show_shape(weight.shape)}"
        )

    if len(weight.shape) != 2:
        raise ValueError(message())
    checks.equal(weight.shape[0], operand.shape[-1], message)


def _per_head(name: str, weight: Operand, argument: str, heads: int, checks: Checks) -> Size:
    columns = weight.shape[1]
    checks.multiple(
        columns,
        heads,
        lambda: (
            f"`{name}` must have a number of columns that `{argument}`={heads} divides; "
            f"got {show_size(columns)} columns"
        ),
    )
    return columns // heads


def _check_output_weight(weight: Operand, heads: int, value_dim: Size, checks: Checks) -> None:
    def message() -> str:
        return (
            f"`output_weight` must have as many rows as the outputs of all heads side by side, "
            f"{heads} heads of {show_size(value_dim)}; "
            f"got shape {show_shape(weight.shape)}"
        )

    if len(weight.shape) != 2:
        raise ValueError(message())
    checks.equal(weight.shape[0], heads * value_dim, message)


def _check_biases(parameters: MultiHeadParameters, checks: Checks) -> None:
    for part in ("query", "key", "value", "output"):
        bias: Operand | None = getattr(parameters, f"{part}_bias")
        weight: Operand = getattr(parameters, f"{part}_weight")
        if bias is None:
            continue

        def message(part: str = part, bias: Operand = bias, weight: Operand = weight) -> str:
            return (
                f"`{part}_bias` must have one element for each column of `{part}_weight`; "
                f"got shapes {part}_weight {show_shape(weight.shape)} and {part}_bias {show_shape(bias.shape)}"
            )

        if len(bias.shape) != 1:
            raise ValueError(message())
        checks.equal(bias.shape[0], weight.shape[1], message)

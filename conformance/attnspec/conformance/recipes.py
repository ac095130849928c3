"""How the vectors' inputs are made: designed numbers, each family for a kind of fault. Nothing here is uniform noise.

Peaked and distinct numbers make every logit and every value matter; needles put the largest logit just inside and just
outside a structural edge, so that an off-by-one is an error of order one at any length; poison stands in the entries
that nobody may read. The generator is only run to add vectors (see `freeze`), never by the suite itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.operands import accumulation_dtype

from .cases import DTYPES

Array: TypeAlias = np.ndarray[Any, Any]


class Shape(NamedTuple):
    """Sizes of one attention: batch axes, query and key/value heads (0: no head axis), lengths, head and value size."""

    batch: tuple[int, ...]
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int

    def query_shape(self) -> tuple[int, ...]:
        """Return the shape of the query."""
        heads = (self.heads,) if self.heads else ()
        return (*self.batch, *heads, self.queries, self.head_dim)

    def key_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of the key or value."""
        heads = (self.kv_heads,) if self.heads else ()
        return (*self.batch, *heads, self.keys, size)


def peaked(rng: np.random.Generator, shape: Shape, spread: float = 3.0) -> dict[str, Array]:
    """Logits with a standard deviation of about `spread` at the default scale, values ±[1, 2], all distinct."""
    size = np.sqrt(spread)
    return {
        "query": size * rng.standard_normal(shape.query_shape()),
        "key": size * rng.standard_normal(shape.key_shape(shape.head_dim)),
        "value": _values(rng, shape.key_shape(shape.value_dim)),
    }


def needles(rng: np.random.Generator, shape: Shape, visible: Array, strength: float = 6.0) -> dict[str, Array]:
    """Point even queries at the last key that they see, odd queries at the first one after it that they do not see.

    `visible` (queries, keys) says what is seen; the pattern shifts by one from head to head and batch to batch, so that
    both kinds meet every row. The needle's logit stands `strength` above a background of about one.
    """
    tensors = peaked(rng, shape, spread=1.0)
    query, key = tensors["query"], tensors["key"]
    group = max(shape.heads, 1) // max(shape.kv_heads, 1)
    for index in np.ndindex(query.shape[:-2]):
        kv_index = (*index[:-1], index[-1] // group) if shape.heads else index
        for i in range(shape.queries):
            target = _edge(visible[i], inside=(i + sum(index)) % 2 == 0)
            if target is not None:
                direction = key[(*kv_index, target)]
                length = np.sqrt(shape.head_dim) * strength / (direction @ direction)
                query[(*index, i)] = 0.3 * query[(*index, i)] + length * direction
    return tensors


def _edge(row: Array, *, inside: bool) -> int | None:
    seen = np.flatnonzero(row)
    if not seen.size:
        return None
    last = int(seen[-1])
    hidden = np.flatnonzero(~row[last:])
    if inside or not hidden.size:
        return last
    return last + int(hidden[0])


def pointed(rng: np.random.Generator, shape: Shape, targets: Array, strength: float = 6.0) -> dict[str, Array]:
    """Point each head's queries at one key each: `targets` (heads, queries), for one element and one key/value head.

    Keys that are targets are twice as long as the others, so that the needle's logit, `strength`, stands above a
    background of about ±1, and its weight is a half or more among 129 keys.
    """
    tensors = peaked(rng, shape, spread=1.0)
    key = tensors["key"][0, 0]
    lengths = np.where(np.isin(np.arange(shape.keys), targets), 1.5, 0.75) * np.sqrt(shape.head_dim)
    key *= (lengths / np.linalg.norm(key, axis=-1))[:, None]
    query = strength * np.sqrt(shape.head_dim) * key[targets] / (lengths[targets] ** 2)[..., None]
    return tensors | {"query": query[None] + 0.1 * tensors["query"]}


def projections(rng: np.random.Generator, inputs: int, outputs: int) -> Array:
    """A weight matrix that keeps the size of what it multiplies."""
    return np.asarray(rng.standard_normal((inputs, outputs)) / np.sqrt(inputs))


def round_to(tensors: dict[str, Array], dtype: str, *, partial: bool = False) -> dict[str, Array]:
    """Round every tensor to a dtype: the rounded numbers are the inputs, of the target and of the reference alike.

    Integers and booleans stay. The cotangents and logsumexps of partial results are at least float32, as those are.
    """
    wide = DTYPES[accumulation_dtype(dtype)]
    return {
        name: tensor
        if tensor.dtype.kind in "biu"
        else tensor.astype(wide if partial and name in _PARTIAL else DTYPES[dtype])
        for name, tensor in tensors.items()
    }


_PARTIAL = ("output_cotangent", "logsumexp_cotangent", "logsumexps")


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(1.0, 2.0, shape))

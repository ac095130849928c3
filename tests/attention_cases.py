"""Inputs, masks and biases for the tests of attention, each mask with a second definition for the oracles.

A mask is written twice: as a user writes it (`make`), and as a predicate over one batch element, head, query and key
(`sees`), from the clauses of the specification and not from the code. A mask's batch parameters are arrays of the
batch shape in the first and are read by the flat batch index in the second.

Inputs are peaked: logits with a standard deviation of 3, so that a few keys carry a row, and values of magnitude 1 to 2
with either sign. A uniform input would give nearly uniform weights, under which most mistakes look right.
"""

# ruff: noqa: ARG005 - a mask's meaning takes all of (d, b, h, i, j), whichever of them it needs

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnspec.contract import (
    causal,
    chunked,
    full,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    segments,
    sliding_window,
)

Array = NDArray[np.float64]


class Dims(NamedTuple):
    """The sizes of one attention. Distinct primes, so that no axis can be taken for another."""

    batch: tuple[int, ...] = (2,)
    heads: int = 3
    kv_heads: int = 3
    queries: int = 5
    keys: int = 7
    head_dim: int = 11
    value_dim: int = 13
    has_heads: bool = True

    @property
    def rank4(self) -> tuple[int, int]:
        """The batch in one axis, and the query heads: what the oracles see."""
        return math.prod(self.batch), self.heads

    @property
    def pairs(self) -> tuple[int, ...]:
        """The caller's shape of a mask that says something about every pair."""
        heads = (self.heads,) if self.has_heads else ()
        return (*self.batch, *heads, self.queries, self.keys)


DIMS = Dims()
SQUARE = DIMS._replace(queries=7)
TALL = DIMS._replace(queries=7, keys=5)
GROUPED = DIMS._replace(heads=6, kv_heads=3)
MULTI_QUERY = DIMS._replace(heads=3, kv_heads=1)
BY_RANK = {
    2: DIMS._replace(batch=(), heads=1, kv_heads=1, has_heads=False),
    3: DIMS._replace(heads=1, kv_heads=1, has_heads=False),
    4: DIMS,
    5: DIMS._replace(batch=(2, 3), heads=2, kv_heads=2),
}

Visible = Callable[[int, int, int, int], bool]
BiasAt = Callable[[int, int, int, int], float]


def draw(dims: Dims, seed: int = 0) -> tuple[Array, Array, Array]:
    """Draw query, key and value whose default-scaled logits have a standard deviation of 3."""
    rng = np.random.default_rng([seed, 1])
    size = math.sqrt(3.0)  # of a product over head_dim, divided by sqrt(head_dim): size² = 3
    heads, kv_heads = ((dims.heads,), (dims.kv_heads,)) if dims.has_heads else ((), ())
    query = size * rng.standard_normal((*dims.batch, *heads, dims.queries, dims.head_dim))
    key = size * rng.standard_normal((*dims.batch, *kv_heads, dims.keys, dims.head_dim))
    return query, key, draw_values((*dims.batch, *kv_heads, dims.keys, dims.value_dim), rng)


def draw_values(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw magnitudes from 1 to 2 with a random sign."""
    return rng.uniform(1.0, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def draw_bias(shape: tuple[int, ...], seed: int = 0, masked: float = 0.0) -> Array:
    """Draw a bias with a standard deviation of 2, a share `masked` of it −inf."""
    rng = np.random.default_rng([seed, 2])
    bias = 2.0 * rng.standard_normal(shape)
    return np.where(rng.random(shape) < masked, -np.inf, bias)


def draw_booleans(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.bool_]:
    """Draw a mask array, 60 % of it visible; never all of it the same where it has more than one element."""
    booleans = np.random.default_rng([seed, 3]).random(shape) < 0.6
    if booleans.size > 1:
        booleans.flat[0], booleans.flat[-1] = True, False
    return booleans


# --- per batch element: by flat index in the predicates, as arrays of the batch shape for the caller

_OFFSETS = (1, -2, 3, 0, 2, -1)
_LENGTHS = (3, 1, 0, 5, 4, 2)  # at most 5, the smallest of the lengths above


def offsets(dims: Dims) -> NDArray[np.int64]:
    """Offsets for each batch element, 0 among them, some that leave rows without a key."""
    return np.resize(_OFFSETS, dims.batch)


def lengths(dims: Dims) -> NDArray[np.int64]:
    """Lengths for each batch element; the third is 0."""
    return np.resize(_LENGTHS, dims.batch)


def segment_ids(dims: Dims, length: int) -> NDArray[np.int64]:
    """Ids (*B, length) of packed sequences: other boundaries for each element, negative ids among them."""
    return np.array([segment_of(b, t) for b, t in np.ndindex(dims.rank4[0], length)]).reshape(*dims.batch, length)


def segment_of(b: int, t: int) -> int:
    """`segment_ids` at the flat batch index."""
    return (t + b) // 3 - 1


def offset_of(b: int) -> int:
    """`offsets` at the flat batch index."""
    return _OFFSETS[b % len(_OFFSETS)]


def length_of(b: int) -> int:
    """`lengths` at the flat batch index."""
    return _LENGTHS[b % len(_LENGTHS)]


# --- arrays over pairs


def look_up(array: NDArray[Any], dims: Dims) -> Callable[[int, int, int, int], Any]:
    """Read a mask or bias array of rank 2 or of the query's rank at (flat batch index, head, query, key)."""

    def at(b: int, h: int, i: int, j: int) -> Any:
        place = [i, j]
        if array.ndim > 2:
            heads = [h] if dims.has_heads else []
            place = [*_unravel(b, dims.batch), *heads, i, j]
        return array[tuple(0 if size == 1 else index for size, index in zip(array.shape, place, strict=True))].item()

    return at


def _unravel(b: int, batch: tuple[int, ...]) -> list[int]:
    place: list[int] = []
    for size in reversed(batch):
        b, index = divmod(b, size)
        place.insert(0, index)
    return place


def pair_shapes(dims: Dims) -> list[tuple[int, ...]]:
    """Every shape of a mask or bias array: rank 2 and the query's rank, each axis full or 1."""
    shapes: list[tuple[int, ...]] = []
    for whole in {(dims.queries, dims.keys), dims.pairs}:
        shapes += itertools.product(*((1, size) for size in whole))
    return sorted(set(shapes), key=lambda shape: (len(shape), shape))


# --- masks


class MaskCase(NamedTuple):
    """A mask as the caller writes it, and what it means."""

    make: Callable[[Dims], Any]
    sees: Callable[[Dims, int, int, int, int], bool]
    square: bool = False
    """Whether it needs as many queries as keys."""

    def visible(self, dims: Dims) -> Visible:
        """The meaning, for an oracle."""
        return lambda b, h, i, j: self.sees(dims, b, h, i, j)


def _array_case(shape_of: Callable[[Dims], tuple[int, ...]]) -> MaskCase:
    def make(dims: Dims) -> Any:
        return draw_booleans(shape_of(dims))

    return MaskCase(make, lambda d, b, h, i, j: look_up(make(d), d)(b, h, i, j))


def _end(d: Dims) -> int:
    return d.keys - d.queries


MASKS: dict[str, MaskCase] = {
    "none": MaskCase(lambda d: None, lambda d, b, h, i, j: True),
    "full": MaskCase(lambda d: full(), lambda d, b, h, i, j: True),
    "causal": MaskCase(lambda d: causal(), lambda d, b, h, i, j: j <= i, square=True),
    "causal_0": MaskCase(lambda d: causal(0), lambda d, b, h, i, j: j <= i),
    "causal_end": MaskCase(lambda d: causal("end"), lambda d, b, h, i, j: j <= i + _end(d)),
    "causal_ahead": MaskCase(lambda d: causal(3), lambda d, b, h, i, j: j <= i + 3),
    "causal_behind": MaskCase(lambda d: causal(-1), lambda d, b, h, i, j: j <= i - 1),
    "causal_far": MaskCase(lambda d: causal(10**12), lambda d, b, h, i, j: True),
    "causal_batch": MaskCase(lambda d: causal(offsets(d)), lambda d, b, h, i, j: j <= i + offset_of(b)),
    "causal_list": MaskCase(lambda d: causal(offsets(d).tolist()), lambda d, b, h, i, j: j <= i + offset_of(b)),
    "window": MaskCase(lambda d: sliding_window(2, 1), lambda d, b, h, i, j: i - 2 <= j <= i + 1, square=True),
    "window_left": MaskCase(lambda d: sliding_window(left=2, offset=0), lambda d, b, h, i, j: j >= i - 2),
    "window_right": MaskCase(lambda d: sliding_window(right=1, offset=0), lambda d, b, h, i, j: j <= i + 1),
    "window_self": MaskCase(lambda d: sliding_window(0, 0, offset=1), lambda d, b, h, i, j: j == i + 1),
    "window_end": MaskCase(
        lambda d: sliding_window(1, 3, "end"), lambda d, b, h, i, j: i + _end(d) - 1 <= j <= i + _end(d) + 3
    ),
    "window_batch": MaskCase(
        lambda d: sliding_window(1, 2, offsets(d)), lambda d, b, h, i, j: i - 1 <= j - offset_of(b) <= i + 2
    ),
    "keys_int": MaskCase(lambda d: key_lengths(3), lambda d, b, h, i, j: j < 3),
    "keys_0": MaskCase(lambda d: key_lengths(0), lambda d, b, h, i, j: False),
    "keys_batch": MaskCase(lambda d: key_lengths(lengths(d)), lambda d, b, h, i, j: j < length_of(b)),
    "queries_int": MaskCase(lambda d: query_lengths(3), lambda d, b, h, i, j: i < 3),
    "queries_batch": MaskCase(lambda d: query_lengths(lengths(d)), lambda d, b, h, i, j: i < length_of(b)),
    "array": _array_case(lambda d: d.pairs),
    "array_keys": _array_case(lambda d: (1, d.keys)),
    "nothing": MaskCase(lambda d: ~full(), lambda d, b, h, i, j: False),
    "segments": MaskCase(
        lambda d: segments([t // 4 for t in range(d.queries)], np.arange(d.keys) // 3),
        lambda d, b, h, i, j: i // 4 == j // 3,
    ),
    "segments_batch": MaskCase(
        lambda d: segments(segment_ids(d, d.queries), segment_ids(d, d.keys)),
        lambda d, b, h, i, j: segment_of(b, i) == segment_of(b, j),
    ),
    "segments_shared_keys": MaskCase(
        lambda d: segments(segment_ids(d, d.queries), np.arange(d.keys, dtype=np.int8) // 2 - 1),
        lambda d, b, h, i, j: segment_of(b, i) == j // 2 - 1,
    ),
    "prefix": MaskCase(lambda d: prefix(3), lambda d, b, h, i, j: j < 3 or j <= i, square=True),
    "prefix_end": MaskCase(lambda d: prefix(2, "end"), lambda d, b, h, i, j: j < 2 or j <= i + _end(d)),
    "prefix_batch": MaskCase(
        lambda d: prefix(lengths(d), offsets(d)), lambda d, b, h, i, j: j < length_of(b) or j <= i + offset_of(b)
    ),
    "chunked": MaskCase(lambda d: chunked(3), lambda d, b, h, i, j: i // 3 == j // 3, square=True),
    "chunked_end": MaskCase(lambda d: chunked(2, "end"), lambda d, b, h, i, j: (i + _end(d)) // 2 == j // 2),
    "chunked_negative": MaskCase(lambda d: chunked(4, -3), lambda d, b, h, i, j: (i - 3) // 4 == j // 4),
    "chunked_batch": MaskCase(
        lambda d: chunked(3, offsets(d)), lambda d, b, h, i, j: (i + offset_of(b)) // 3 == j // 3
    ),
    "predicate": MaskCase(
        lambda d: predicate("strided", lambda query, key: (query + 2 * key) % 3 != 0),
        lambda d, b, h, i, j: (i + 2 * j) % 3 != 0,
    ),
    "and": MaskCase(
        lambda d: causal(1) & key_lengths(lengths(d)), lambda d, b, h, i, j: j <= i + 1 and j < length_of(b)
    ),
    "and_queries": MaskCase(
        lambda d: key_lengths(lengths(d)) & query_lengths(2) & causal("end"),
        lambda d, b, h, i, j: j < length_of(b) and i < 2 and j <= i + _end(d),
    ),
    "or": MaskCase(lambda d: causal(-1) | key_lengths(2), lambda d, b, h, i, j: j <= i - 1 or j < 2),
    "not": MaskCase(lambda d: ~sliding_window(1, 1, 0), lambda d, b, h, i, j: not i - 1 <= j <= i + 1),
    "not_or_and": MaskCase(
        lambda d: ~(causal(0) | key_lengths(2)) & sliding_window(right=3, offset=0),
        lambda d, b, h, i, j: not (j <= i or j < 2) and j <= i + 3,
    ),
    "mask_and_array": MaskCase(
        lambda d: causal(2) & draw_booleans(d.pairs),
        lambda d, b, h, i, j: j <= i + 2 and look_up(draw_booleans(d.pairs), d)(b, h, i, j),
    ),
    "array_or_mask": MaskCase(
        lambda d: draw_booleans((d.queries, 1)) | causal(0),
        lambda d, b, h, i, j: look_up(draw_booleans((d.queries, 1)), d)(b, h, i, j) or j <= i,
    ),
    "packed_causal": MaskCase(
        lambda d: segments(segment_ids(d, d.queries), segment_ids(d, d.keys)) & causal(0),
        lambda d, b, h, i, j: segment_of(b, i) == segment_of(b, j) and j <= i,
    ),
    "not_chunked_or_prefix": MaskCase(
        lambda d: ~chunked(2, 0) & prefix(1, 1) | segments(np.zeros(d.queries, int), np.arange(d.keys) % 5),
        lambda d, b, h, i, j: (i // 2 != j // 2 and (j < 1 or j <= i + 1)) or j % 5 == 0,
    ),
    "array_and_predicate": MaskCase(
        lambda d: draw_booleans(d.pairs) & ~predicate("diagonals", lambda query, key: (query - key) % 4 == 1),
        lambda d, b, h, i, j: look_up(draw_booleans(d.pairs), d)(b, h, i, j) and (i - j) % 4 != 1,
    ),
}


# --- the oracles, for every rank


def by_oracle(
    oracle: Callable[..., dict[str, Array]],
    dims: Dims,
    query: Array,
    key: Array,
    value: Array,
    *,
    visible: Visible | None = None,
    bias: Array | BiasAt | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    keep: NDArray[np.bool_] | None = None,
    rate: float = 0.0,
) -> dict[str, Array]:
    """Ask an oracle, which knows rank 4 only, and give its answers the caller's rank."""
    n_batch, heads = dims.rank4
    stages = oracle(
        query.reshape(n_batch, heads, dims.queries, dims.head_dim),
        key.reshape(n_batch, dims.kv_heads, dims.keys, dims.head_dim),
        value.reshape(n_batch, dims.kv_heads, dims.keys, dims.value_dim),
        visible=visible,
        bias=look_up(bias, dims) if isinstance(bias, np.ndarray) else bias,
        scale=scale,
        softcap=softcap,
        sinks=None if sinks is None else np.reshape(sinks, -1).tolist(),
        keep=None if keep is None else look_up(keep, dims),
        rate=rate,
    )
    rows = query.shape[:-1]
    shapes = {"logsumexp": rows, "output": (*rows, dims.value_dim)}
    return {name: stage.reshape(shapes.get(name, (*rows, dims.keys))) for name, stage in stages.items()}

"""What a design of a vector is, the shapes that designs share, and what makes their tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from attnspec.contract import Bias, Mask
from attnspec.contract.options import Given
from attnspec.reference.attention import prepare, terms_of

from .recipes import Array, Shape, peaked

ALL = ("float64", "float32", "bfloat16", "float16")
WIDE = ("float64", "float32")

SQUARE = Shape((2,), 3, 3, 7, 7, 5, 5)
GROUPED = Shape((3,), 6, 2, 5, 11, 7, 4)
TALL = Shape((2,), 4, 1, 13, 5, 8, 3)
TILE = Shape((1,), 2, 2, 33, 33, 16, 16)
WIDE_TILE = Shape((1,), 2, 1, 17, 65, 8, 8)
LONG = Shape((1,), 1, 1, 129, 129, 8, 8)
SQUARE_HEADS = Shape((2,), 5, 5, 5, 5, 7, 7)
DECODE = Shape((3,), 4, 2, 1, 19, 8, 8)
NO_HEADS = Shape((3,), 0, 0, 7, 11, 5, 3)
MATRIX = Shape((), 0, 0, 11, 13, 7, 5)
TWO_BATCH_AXES = Shape((2, 3), 4, 2, 5, 7, 3, 2)
HEAD_DIM_ONE = Shape((2,), 2, 2, 5, 7, 1, 1)
HEAD_DIM_EIGHTY = Shape((1,), 2, 2, 5, 7, 80, 80)
NO_KEYS = Shape((2,), 3, 3, 5, 0, 4, 4)
ONE_KEY = Shape((2,), 3, 3, 5, 1, 4, 4)
EDGES = Shape((1,), 4, 1, 17, 129, 8, 3)
TILE_LENGTHS = Shape((12,), 1, 1, 1, 129, 2, 1)
VALUES_LARGER = Shape((1,), 1, 1, 3, 5, 96, 128)
NO_QUERIES = Shape((2,), 3, 3, 0, 7, 5, 5)


@dataclass(frozen=True)
class Design:
    """One design: a name, what it hunts, and how its tensors are made."""

    name: str
    clauses: tuple[str, ...]
    hunts: str
    make: Callable[[np.random.Generator], dict[str, Array]]
    recipe: str
    operation: str = "dot_product_attention"
    mask: Mask | None = None
    scale: float | None = None
    softcap: float | None = None
    bias: Bias | None = None
    """A bias object; a bias array is a tensor, and so are sinks."""
    dropout: float | None = None
    """The rate; the tensor `keep` says what is kept."""
    direction: str = "forward"
    numbers: dict[str, int | float | str | None] = field(default_factory=dict)
    """The options that belong to the operation alone."""
    dtypes: tuple[str, ...] = ALL
    features: tuple[str, ...] = ()
    level: str = "core"
    nonfinite: bool = False
    twin: str | None = None
    """Another design with the same seed, whose results are the same to the bit."""
    undecided: dict[str, str] = field(default_factory=dict)
    catches: tuple[str, ...] = ()
    """The planted faults that each of its vectors must catch with at least 4 times the bound."""


def visible_pairs_of(tensors: dict[str, Array], mask: Mask | None) -> Array:
    """Return which pairs are visible, in the full shape (*B, heads, queries, keys), the head axis always present."""
    query, key, value = (np.asarray(tensors[name], np.float64) for name in ("query", "key", "value"))
    attention, _ = prepare(query, key, value, Given(mask, tensors.get("bias")))
    return terms_of(attention, slice(0, attention.sizes.query_length)).visible


def with_poison(tensors: dict[str, Array], mask: Mask | None, poison: float) -> dict[str, Array]:
    """Fill the keys and values that no query may read, and the queries that may read nothing, with poison."""
    visible = visible_pairs_of(tensors, mask)
    kv_heads = tensors["key"].shape[-3] if tensors["key"].ndim > 3 else 1
    by_kv_head = visible.reshape(*visible.shape[:-3], kv_heads, -1, visible.shape[-1])
    unread = np.asarray(~by_kv_head.any(axis=-2))
    silent = np.asarray(~visible.any(axis=-1))
    if tensors["key"].ndim <= 3:
        unread, silent = unread[..., 0, :], silent[..., 0, :]
    return tensors | {
        "query": np.where(silent[..., None], poison, tensors["query"]),
        "key": np.where(unread[..., None], poison, tensors["key"]),
        "value": np.where(unread[..., None], poison, tensors["value"]),
    }


def peaked_tensors(shape: Shape, **extra: Callable[[np.random.Generator], Array]) -> Callable[..., dict[str, Array]]:
    """Return what makes peaked tensors of a shape, and any others by name."""
    return lambda rng: peaked(rng, shape) | {name: make(rng) for name, make in extra.items()}

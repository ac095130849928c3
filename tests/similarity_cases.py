"""Hard attention and attention by other similarities: what the tests call, and the same by scalar loops.

The similarities are written a second time, one Python float at a time, from their formulas. What follows the scores is
that of every attention, so `oracle_scalar` is asked for it, with the logits as a bias on products of zeros.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import oracle_scalar
from attention_cases import Array, draw_booleans
from frameworks import name_of
from native_tensors import to_native, to_numpy

from attnspec.contract import Dropout, causal, key_lengths
from attnspec.contract.layer_parameters import AdditiveParameters

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, QUERY_DIM, KEY_DIM, HIDDEN, VALUE_DIM = 2, 4, 2, 3, 5, 7, 11, 6, 2
PAIRS = (BATCH, HEADS, QUERIES, KEYS)

UNSEEN_KEY = 3
"""Nobody sees it."""
VISIBLE = draw_booleans(PAIRS, seed=11) | (np.arange(KEYS) == 0)
VISIBLE[..., UNSEEN_KEY] = False
VISIBLE[0, :, 1] = False  # empty rows
KEEP = draw_booleans(PAIRS, seed=12)
KEEP[1, 0, 2] = True
DROPOUT = Dropout(0.25, KEEP)  # here, because `torch.compile` traces no constructor that is given NumPy arrays


class Case(NamedTuple):
    """One call: an operation, the arrays that have a gradient, and its options."""

    operation: str
    arrays: dict[str, Array]
    options: dict[str, Any]
    visible: Array
    """What the mask says, in the caller's shape of a full mask."""

    @property
    def pairs(self) -> tuple[int, ...]:
        return (*self.arrays["query"].shape[:-1], self.arrays["key"].shape[-2])

    @property
    def cotangent(self) -> Array:
        shape = (*self.pairs[:-1], self.arrays["value"].shape[-1])
        return np.random.default_rng(17).standard_normal(shape)


def similarities(attn: ModuleType) -> ModuleType:
    """Give the module in which the operations of a framework are."""
    return importlib.import_module(f"{attn.__name__}.similarities")


def call(module: ModuleType, case: Case, arrays: dict[str, Any], suffix: str = "", **more: Any) -> Any:
    """Call the operation of a module of similarities, or what has its name and a suffix."""
    fields = {name: array for name, array in arrays.items() if name in AdditiveParameters._fields}
    given = {name: array for name, array in arrays.items() if name not in fields} | case.options | more
    given |= {"parameters": AdditiveParameters(**fields)} if fields else {}
    return getattr(module, case.operation + suffix)(**given)


def run(attn: ModuleType, case: Case, arrays: dict[str, Array] | None = None, **more: Any) -> Array:
    """Call the operation in one of the four, with native tensors of the arrays and of the noise."""
    name, more = name_of(attn), {**case.options, **more}
    more |= {"noise": to_native(name, more["noise"])} if more.get("noise") is not None else {}
    arrays = case.arrays if arrays is None else arrays
    native = {key: to_native(name, array) for key, array in arrays.items()}
    return to_numpy(call(similarities(attn), case, native, **more))


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng([23, seed])
    return {name: np.array(1.3 * rng.standard_normal(shape)) for name, shape in shapes.items()}


def _core(seed: int, key_dim: int = QUERY_DIM, **more: tuple[int, ...]) -> dict[str, Array]:
    return drawn(
        seed,
        query=(BATCH, HEADS, QUERIES, QUERY_DIM),
        key=(BATCH, KV_HEADS, KEYS, key_dim),
        value=(BATCH, KV_HEADS, KEYS, VALUE_DIM),
        **more,
    )


def _plain(seed: int, *leading: int, key_dim: int = QUERY_DIM, **more: tuple[int, ...]) -> dict[str, Array]:
    shapes = {"query": (QUERIES, QUERY_DIM), "key": (KEYS, key_dim), "value": (KEYS, VALUE_DIM)}
    return drawn(seed, **{name: (*leading, *shape) for name, shape in shapes.items()}, **more)


NOISE = 3.0 * np.random.default_rng(29).standard_normal((BATCH, 1, QUERIES, KEYS))
EVERYTHING = {"mask": VISIBLE, "softcap": 2.5, "dropout": DROPOUT}
NUMBERS = {"bias": PAIRS, "sinks": (HEADS,)}
WEIGHTS = {"score_weight": (HIDDEN,), "query_weight": (QUERY_DIM, HIDDEN), "key_weight": (KEY_DIM, HIDDEN)}
CAUSAL = np.tri(QUERIES, KEYS, 1, dtype=bool)
LENGTHS = np.array([4, 0])

CASES: dict[str, Case] = {
    "hard": Case("hard_attention", _core(1, bias=PAIRS), {"mask": VISIBLE, "softcap": 4.0, "top_k": 2}, VISIBLE),
    "hard_noise": Case(
        "hard_attention",
        _core(2),
        {"mask": VISIBLE, "scale": -0.7, "top_k": 1, "noise": NOISE},
        VISIBLE,
    ),
    "hard_rank_3": Case(
        "hard_attention",
        _plain(3, BATCH, bias=(1, KEYS)),
        {"mask": key_lengths(LENGTHS), "top_k": 3},
        np.broadcast_to(np.arange(KEYS) < LENGTHS[:, None, None], (BATCH, QUERIES, KEYS)),
    ),
    "additive": Case(
        "additive_attention",
        _core(4, KEY_DIM, **NUMBERS, **WEIGHTS, hidden_bias=(HIDDEN,)),
        {**EVERYTHING, "scale": -0.7},
        VISIBLE,
    ),
    "additive_identity": Case(
        "additive_attention",
        _plain(5, BATCH, score_weight=(QUERY_DIM,), hidden_bias=(QUERY_DIM,)),
        {"mask": causal(1)},
        np.broadcast_to(CAUSAL, (BATCH, QUERIES, KEYS)),
    ),
    "additive_one_weight": Case(
        "additive_attention",
        _plain(6, score_weight=(QUERY_DIM,), key_dim=KEY_DIM, key_weight=(KEY_DIM, QUERY_DIM)),
        {},
        np.ones((QUERIES, KEYS), bool),
    ),
    "bilinear": Case(
        "bilinear_attention", _core(7, KEY_DIM, **NUMBERS, weight=(QUERY_DIM, KEY_DIM)), EVERYTHING, VISIBLE
    ),
    "bilinear_rank_2": Case(
        "bilinear_attention",
        _plain(8, key_dim=KEY_DIM, weight=(QUERY_DIM, KEY_DIM)),
        {"scale": 0.4},
        np.ones((QUERIES, KEYS), bool),
    ),
    "cosine": Case("cosine_attention", _core(9, **NUMBERS), {**EVERYTHING, "scale": 5.0}, VISIBLE),
    "cosine_rank_5": Case(
        "cosine_attention",
        _plain(10, 1, BATCH, 3, sinks=(3,)),
        {"mask": causal(1)},
        np.broadcast_to(CAUSAL, (1, BATCH, 3, QUERIES, KEYS)),
    ),
}
MAIN = ("hard", "hard_noise", "additive", "bilinear", "cosine")
"""One case for each operation, with all that it takes; hard attention has two."""


# --- the same by scalar loops

Vector = list[float]


def _dot(query: Vector, key: Vector) -> float:
    return math.fsum(q * k for q, k in zip(query, key, strict=True))


def _cosine(query: Vector, key: Vector) -> float:
    length = math.hypot(*query) * math.hypot(*key)
    return _dot(query, key) / length if length else 0.0


def _bilinear(query: Vector, key: Vector, weight: list[Vector]) -> float:
    return math.fsum(q * w * k for q, row in zip(query, weight, strict=True) for w, k in zip(row, key, strict=True))


def _additive(
    query: Vector,
    key: Vector,
    score_weight: Vector,
    query_weight: list[Vector] | None = None,
    key_weight: list[Vector] | None = None,
    hidden_bias: Vector | None = None,
) -> float:
    terms = []
    for a, w in enumerate(score_weight):
        hidden_query = query[a] if query_weight is None else _dot(query, [row[a] for row in query_weight])
        hidden_key = key[a] if key_weight is None else _dot(key, [row[a] for row in key_weight])
        terms.append(w * math.tanh(hidden_query + hidden_key + (0.0 if hidden_bias is None else hidden_bias[a])))
    return math.fsum(terms)


SIMILARITIES: dict[str, Callable[..., float]] = {
    "hard_attention": _dot,
    "additive_attention": _additive,
    "bilinear_attention": _bilinear,
    "cosine_attention": _cosine,
}


def rank_4(array: Array, heads: bool) -> Array:
    """Give an array of the caller's rank one batch axis and heads."""
    array = array if heads else array[..., None, :, :]
    return array.reshape(math.prod(array.shape[:-3]), *array.shape[-3:])


def by_loops(case: Case) -> Array:
    """Compute the output of a case."""
    given, options = dict(case.arrays), case.options
    heads = given["query"].ndim > 3
    query, key, value = (rank_4(given.pop(name), heads) for name in ("query", "key", "value"))
    sinks, bias = given.pop("sinks", None), given.pop("bias", np.zeros(1))
    weights = {name: array.tolist() for name, array in given.items()}
    visible, bias, noise = (
        rank_4(np.broadcast_to(array, case.pairs), heads)
        for array in (case.visible, bias, options.get("noise", np.zeros(1)))
    )
    scale = options.get("scale", 1 / math.sqrt(query.shape[-1]) if case.operation == "hard_attention" else 1.0)
    cap, group = options.get("softcap"), query.shape[1] // key.shape[1]

    logits = np.zeros(visible.shape)
    for b, h, i, j in np.ndindex(*visible.shape):
        pair = query[b, h, i].tolist(), key[b, h // group, j].tolist()
        score = scale * SIMILARITIES[case.operation](*pair, **weights)
        logits[b, h, i, j] = (score if cap is None else cap * math.tanh(score / cap)) + bias[b, h, i, j]
    if "top_k" in options:
        visible = chosen_by_loops(logits, noise, visible, options["top_k"])

    dropout = options.get("dropout")
    output = oracle_scalar.attention_stages(
        np.zeros((*query.shape[:-1], 1)),
        np.zeros((*key.shape[:-1], 1)),
        value,
        visible=lambda *pair: bool(visible[pair]),
        bias=lambda *pair: float(logits[pair]),
        scale=1.0,
        sinks=None if sinks is None else np.reshape(sinks, -1).tolist(),
        keep=None if dropout is None else lambda *pair: bool(dropout.keep[pair]),
        rate=0.0 if dropout is None else dropout.rate,
    )["output"]
    return output.reshape(case.cotangent.shape)


def chosen_by_loops(logits: Array, noise: Array, visible: Array, top_k: int) -> Array:
    """Say which keys every row chooses."""
    chosen = np.zeros(visible.shape, bool)
    for row in np.ndindex(*visible.shape[:-1]):
        numbers = [(-float(x + r), j) for j, (x, r) in enumerate(zip(logits[row], noise[row], strict=True))]
        best = sorted(pair for pair in numbers if visible[row][pair[1]] and pair[0] != math.inf)
        for _, j in best[:top_k]:
            chosen[(*row, j)] = True
    return chosen

"""A tree of every class (masks, biases, dropout, rotary) for `test_tree_transforms.py`.

Each case is one structure with two sets of arrays, and a second tree whose static part differs: what is static selects
a compiled function, what is an array is an argument of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from attnspec import reference
from attnspec.contract import Bias, Mask
from attnspec.contract.biases import as_bias
from attnspec.contract.masks import as_mask
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.trees import Tree
from attnspec.reference import (
    Dropout,
    MultiHeadParameters,
    alibi,
    causal,
    chunked,
    full,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    relative_position_bias,
    segments,
    sliding_window,
)

Array = np.ndarray[Any, Any]

BATCH, HEADS, LENGTH = 2, 2, 4
PAIRS = (BATCH, HEADS, LENGTH, LENGTH)
RNG = np.random.default_rng(61)
QUERY, KEY, VALUE = 1.5 * RNG.standard_normal((3, BATCH, HEADS, LENGTH, 3))
COTANGENT = RNG.standard_normal(QUERY.shape)


def own(query: Any, key: Any) -> Any:
    return (query + key) % 2 == 0


def own_as_well(query: Any, key: Any) -> Any:
    return (query - key) % 2 == 0


class Case(NamedTuple):
    """A tree, written with the arrays that it holds."""

    make: Callable[..., Any]
    first: tuple[Array, ...] = ()
    second: tuple[Array, ...] = ()
    """Other values for the same places."""
    other: Any = None
    """The same class with another static part (or other arrays in other places)."""
    text: str = ""


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


BOOLS = RNG.random((2, 3, *PAIRS)) < 0.6  # [which, leading axis of a vmap] + PAIRS
NUMBERS = 2.0 * RNG.standard_normal((2, 3, *PAIRS))

CASES: dict[str, Case] = {
    "full": Case(full, text="full()"),
    "causal": Case(lambda: causal(1), other=causal(2), text="causal(offset=1)"),
    "causal_offsets": Case(causal, (ints(1, 0),), (ints(0, 2),), causal(1), "causal(offset=[1, 0])"),
    "window": Case(
        lambda n: sliding_window(1, 2, n),
        (ints(1, -1),),
        (ints(0, 0),),
        sliding_window(2, 2, [1, -1]),
        "sliding_window(left=1, right=2, offset=[1, -1])",
    ),
    "key_lengths": Case(key_lengths, (ints(3, 1),), (ints(0, 4),), key_lengths(3), "key_lengths([3, 1])"),
    "query_lengths": Case(query_lengths, (ints(3, 1),), (ints(0, 4),), query_lengths(3), "query_lengths([3, 1])"),
    "prefix": Case(
        prefix, (ints(2, 0), ints(0, 1)), (ints(1, 4), ints(-1, 0)), prefix([2, 0], 0), "prefix([2, 0], offset=[0, 1])"
    ),
    "prefix_static": Case(lambda: prefix(2), other=prefix(3), text="prefix(2)"),
    "chunked": Case(
        lambda n: chunked(2, n), (ints(1, 0),), (ints(-1, 3),), chunked(3, [1, 0]), "chunked(2, offset=[1, 0])"
    ),
    "segments": Case(
        segments,
        (ints([0, 0, 1, 1], [0, 1, 1, -2]), ints([0, 1, 1, 1], [-2, 0, 0, 1])),
        (ints([5, 6, 7, 8], [0, 0, 0, 0]), ints([8, 7, 6, 5], [0, 0, 0, 1])),
        None,
        "segments([[0, 0, 1, 1], [0, 1, 1, -2]], [[0, 1, 1, 1], [-2, 0, 0, 1]])",
    ),
    "predicate": Case(lambda: predicate("own", own), other=predicate("own", own_as_well), text="predicate('own', …)"),
    "array": Case(as_mask, (BOOLS[0, 0],), (BOOLS[1, 0],), None, "<boolean array of shape (2, 2, 4, 4)>"),
    "both": Case(
        lambda n: causal() & key_lengths(n),
        (ints(3, 1),),
        (ints(0, 4),),
        causal(0) & key_lengths([3, 1]),
        "causal() & key_lengths([3, 1])",
    ),
    "either": Case(
        lambda n, a: (causal(n) | a) & full(),
        (ints(1, 0), BOOLS[0, 0]),
        (ints(-1, 2), BOOLS[1, 0]),
        (causal("end") | BOOLS[0, 0]) & full(),
        "(causal(offset=[1, 0]) | <boolean array of shape (2, 2, 4, 4)>) & full()",
    ),
    "only_either": Case(
        lambda n: key_lengths(n) | causal(-1),
        (ints(3, 1),),
        (ints(0, 4),),
        key_lengths([3, 1]) | causal(-3),
        "key_lengths([3, 1]) | causal(offset=-1)",
    ),
    "not": Case(lambda n: ~key_lengths(n), (ints(3, 1),), (ints(0, 2),), ~key_lengths(3), "~key_lengths([3, 1])"),
    "bias_array": Case(as_bias, (NUMBERS[0, 0],), (NUMBERS[1, 0],), None, "<array of shape (2, 2, 4, 4)>"),
    "alibi": Case(
        lambda s: alibi(s, symmetric=True),
        (np.array([0.5, -0.25]),),
        (np.array([1.5, 0.0]),),
        alibi(np.array([0.5, -0.25]), symmetric=False),
        "alibi([0.5, -0.25], symmetric=True)",
    ),
    "alibi_static": Case(
        lambda: alibi([0.5, 0.25], symmetric=False, offset=1),
        other=alibi([0.5, 0.125], symmetric=False, offset=1),
        text="alibi((0.5, 0.25), symmetric=False, offset=1)",
    ),
    "alibi_default": Case(
        lambda: alibi(symmetric=True), other=alibi(symmetric=True, offset=0), text="alibi(symmetric=True)"
    ),
    "alibi_offsets": Case(
        lambda s, n: alibi(s, symmetric=False, offset=n),
        (np.array([0.5, -0.25]), ints(1, 0)),
        (np.array([1.5, 0.0]), ints(-1, 2)),
        alibi(np.array([0.5, -0.25]), symmetric=False, offset=1),
        "alibi([0.5, -0.25], symmetric=False, offset=[1, 0])",
    ),
    "relative": Case(
        lambda t: relative_position_bias(t, bidirectional=False, max_distance=3),
        (NUMBERS[0, 0, 0, 0, :, :2].copy(),),
        (NUMBERS[1, 0, 0, 0, :, :2].copy(),),
        relative_position_bias(NUMBERS[0, 0, 0, 0, :, :2].copy(), bidirectional=True, max_distance=3),
        None,
    ),
    "relative_static": Case(
        lambda: relative_position_bias([[0.5, 1.0], [0.25, 0.0]], bidirectional=False, max_distance=2, offset=1),
        other=relative_position_bias([[0.5, 1.0], [0.25, 0.0]], bidirectional=False, max_distance=3, offset=1),
        text="relative_position_bias(((0.5, 1.0), (0.25, 0.0)), bidirectional=False, max_distance=2, offset=1)",
    ),
    "sum": Case(
        lambda s, a, t: (
            alibi(s, symmetric=True) + as_bias(a) + relative_position_bias(t, bidirectional=True, offset="end")
        ),
        (np.array([0.5, -0.25]), NUMBERS[0, 0, :1], NUMBERS[0, 0, 1, 0, :, :2].copy()),
        (np.array([1.5, 0.0]), NUMBERS[1, 0, :1], NUMBERS[1, 0, 1, 0, :, :2].copy()),
        alibi(np.array([0.5, -0.25]), symmetric=True) + NUMBERS[0, 0, :1],
        None,
    ),
    "dropout": Case(
        lambda a: Dropout(0.25, a),
        (BOOLS[0, 1],),
        (BOOLS[1, 1],),
        Dropout(0.5, BOOLS[0, 1]),
        "Dropout(0.25, keep=<boolean array of shape (2, 2, 4, 4)>)",
    ),
    "rotary": Case(
        lambda: Rotary("interleaved", 100.0, 2),
        other=Rotary("interleaved", 10.0, 2),
        text="Rotary('interleaved', base=100.0, rotary_dim=2)",
    ),
    "rotary_offsets": Case(
        lambda n: Rotary("half_split", rotary_dim=2, offset=n),
        (ints([1, 0], [2, -1]),),
        (ints([0, 3], [-2, 1]),),
        Rotary("half_split", rotary_dim=2, offset=1),
        "Rotary('half_split', base=10000.0, rotary_dim=2, offset=[[1, 0], [2, -1]])",
    ),
}
WITH_NUMBERS = [case for case, (_, first, *_) in CASES.items() if any(array.dtype.kind == "f" for array in first)]
WITH_ARRAYS = [case for case, (_, first, *_) in CASES.items() if first]


def attend(module: Any, tree: Any, query: Any = QUERY, key: Any = KEY, value: Any = VALUE) -> Any:
    """Attend with the tree as the option that it is; rotary needs weights, which are rows of the operands."""
    if isinstance(tree, Rotary):
        parameters = MultiHeadParameters(value[0, 0, :3], key[0, 0, :3], value[1, 0, :3], key[1, 1, :3])
        return module.multi_head_attention(query, key, value, parameters, num_heads=1, rotary=tree)
    option = "mask" if isinstance(tree, Mask) else "bias" if isinstance(tree, Bias) else "dropout"
    return module.dot_product_attention(query, key, value, **{option: tree})


def expected(tree: Any) -> Array:
    """What the reference says."""
    return attend(reference, tree)


def expected_gradients(tree: Any) -> list[Array]:
    """The gradients of the numbers in a bias, in the order of its leaves."""
    return numbers_of(reference.dot_product_attention_vjp(QUERY, KEY, VALUE, COTANGENT, bias=tree).bias)


def numbers_of(tree: Any) -> list[Array]:
    """The floating leaves of a tree, in order."""
    if not isinstance(tree, Tree):
        return [tree] if tree.dtype.kind == "f" else []
    return [leaf for child in tree.flatten()[0] for leaf in numbers_of(child)]


def stacked(case: Case) -> list[tuple[Array, ...]]:
    """Three sets of leaves, for an axis to map over."""
    return [case.first, case.second, tuple(array[::-1].copy() for array in case.first)]

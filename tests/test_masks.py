"""Masks: which pairs they show, how they combine, and what kind of value they are (S4, S6, S7, S8)."""

# ruff: noqa: ARG005 - a predicate takes (b, i, j), whichever of them it needs

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from frameworks import name_of, tensor
from numpy.testing import assert_array_equal

from attnspec.contract import Mask, causal, full, key_lengths, query_lengths, sliding_window

BATCH, QUERIES, KEYS = 2, 5, 7
Predicate = Callable[[int, int, int], bool]
PAIRS = np.array([[(3 * i + j) % 4 > 1 for j in range(KEYS)] for i in range(QUERIES)])
KEY_ROWS = np.array([[[True, False, True, True, False, True, False]], [[False, True, True, False, True, False, True]]])
FAR = 2**40


def expected(predicate: Predicate) -> np.ndarray:
    return np.array([[[predicate(b, i, j) for j in range(KEYS)] for i in range(QUERIES)] for b in range(BATCH)])


def visible(attn: ModuleType, mask: Any) -> np.ndarray:
    """The pairs a mask shows, read off the logits of an attention whose scores are all 0."""
    name = name_of(attn)
    query, key = tensor(name, np.zeros((BATCH, QUERIES, 1))), tensor(name, np.zeros((BATCH, KEYS, 1)))
    return np.asarray(attn.attention_stages(query, key, key, mask=mask).logits) == 0.0


STATIC = {
    "full": (full(), lambda b, i, j: True),
    "causal top-left": (causal(0), lambda b, i, j: j <= i),
    "causal bottom-right": (causal("end"), lambda b, i, j: j <= i + 2),
    "causal ahead": (causal(3), lambda b, i, j: j <= i + 3),
    "causal behind": (causal(-2), lambda b, i, j: j <= i - 2),
    "causal far ahead": (causal(FAR), lambda b, i, j: True),
    "causal far behind": (causal(-FAR), lambda b, i, j: False),
    "causal largest": (causal(sys.maxsize), lambda b, i, j: True),
    "causal beyond int64": (causal(-(2**70)), lambda b, i, j: False),
    "window left": (sliding_window(left=1, offset=0), lambda b, i, j: j >= i - 1),
    "window right": (sliding_window(right=2, offset=0), lambda b, i, j: j <= i + 2),
    "window of one": (sliding_window(left=0, right=0, offset=0), lambda b, i, j: j == i),
    "window at end": (sliding_window(2, 1, offset="end"), lambda b, i, j: i <= j <= i + 3),
    "window shifted": (sliding_window(left=1, right=1, offset=-1), lambda b, i, j: i - 2 <= j <= i),
    "window far left": (sliding_window(left=FAR, offset=0), lambda b, i, j: True),
    "window largest": (sliding_window(left=sys.maxsize, right=0, offset=0), lambda b, i, j: j <= i),
    "window far from far": (sliding_window(left=FAR + 1, offset=FAR), lambda b, i, j: j >= i - 1),
    "window far to far": (sliding_window(right=FAR, offset=2 - FAR), lambda b, i, j: j <= i + 2),
    "window beyond all": (sliding_window(left=2, offset=FAR), lambda b, i, j: False),
    "keys": (key_lengths(3), lambda b, i, j: j < 3),
    "no keys": (key_lengths(0), lambda b, i, j: False),
    "all keys": (key_lengths(KEYS), lambda b, i, j: True),
    "queries": (query_lengths(2), lambda b, i, j: i < 2),
    "not": (~causal(0), lambda b, i, j: j > i),
    "and": (causal(0) & key_lengths(3), lambda b, i, j: j <= i and j < 3),
    "or": (causal(0) | key_lengths(3), lambda b, i, j: j <= i or j < 3),
    "nested": (~(causal(0) | key_lengths(2)) & query_lengths(4), lambda b, i, j: not (j <= i or j < 2) and i < 4),
}


@pytest.mark.parametrize(("mask", "predicate"), STATIC.values(), ids=STATIC)
def test_static_mask_shows_what_its_predicate_says(attn: ModuleType, mask: Mask, predicate: Predicate) -> None:
    assert_array_equal(visible(attn, mask), expected(predicate))


PER_BATCH: dict[str, tuple[Callable[[Any], Mask], list[int], Predicate]] = {
    "key lengths": (key_lengths, [0, 5], lambda b, i, j: j < (0, 5)[b]),
    "all key lengths": (key_lengths, [KEYS, KEYS], lambda b, i, j: True),
    "query lengths": (query_lengths, [4, 1], lambda b, i, j: i < (4, 1)[b]),
    "causal": (causal, [2, -1], lambda b, i, j: j <= i + (2, -1)[b]),
    "causal far": (causal, [FAR, -FAR], lambda b, i, j: b == 0),
    "window": (lambda n: sliding_window(1, 0, n), [0, 2], lambda b, i, j: -1 <= j - i - (0, 2)[b] <= 0),
    "window far": (lambda n: sliding_window(left=2, offset=n), [-FAR, FAR], lambda b, i, j: b == 0),
    "window largest": (lambda n: sliding_window(right=sys.maxsize, offset=n), [0, 3], lambda b, i, j: True),
}


@pytest.mark.parametrize("kind", ["list", "numpy", "native"])
@pytest.mark.parametrize(("make", "numbers", "predicate"), PER_BATCH.values(), ids=PER_BATCH)
def test_numbers_per_batch_element(
    attn: ModuleType, kind: str, make: Callable[[Any], Mask], numbers: list[int], predicate: Predicate
) -> None:
    given = {"list": numbers, "numpy": np.array(numbers), "native": tensor(name_of(attn), np.array(numbers))}[kind]
    assert_array_equal(visible(attn, make(given)), expected(predicate))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_lengths_of_any_integer_dtype(attn: ModuleType, dtype: str) -> None:
    assert_array_equal(visible(attn, key_lengths(np.array([6, 2], dtype))), expected(lambda b, i, j: j < (6, 2)[b]))


def test_numpy_numbers_beyond_int64_are_far_and_do_not_wrap(attn: ModuleType) -> None:
    mask = causal(np.array([2**64 - 1, 0], np.uint64))
    assert_array_equal(visible(attn, mask), expected(lambda b, i, j: b == 0 or j <= i))


def test_far_from_far_per_batch_element(attn: ModuleType) -> None:
    mask = sliding_window(left=2**30 + 1, offset=[2**30, 0])
    assert_array_equal(visible(attn, mask), expected(lambda b, i, j: b == 1 or j >= i - 1))


@pytest.mark.parametrize("kind", ["numpy", "native", "list"])
@pytest.mark.parametrize("side", ["array first", "mask first"])
@pytest.mark.parametrize("combine", [operator.and_, operator.or_], ids=["and", "or"])
def test_mask_combines_with_a_boolean_array(
    attn: ModuleType, kind: str, side: str, combine: Callable[[Any, Any], Any]
) -> None:
    array = {"numpy": PAIRS, "native": tensor(name_of(attn), PAIRS), "list": PAIRS.tolist()}[kind]
    mask = combine(array, causal(0)) if side == "array first" else combine(causal(0), array)
    assert_array_equal(visible(attn, mask), expected(lambda b, i, j: combine(bool(PAIRS[i, j]), j <= i)))


@pytest.mark.parametrize("kind", ["numpy", "native", "list"])
def test_array_with_a_batch_axis_and_an_axis_of_one(attn: ModuleType, kind: str) -> None:
    array = {"numpy": KEY_ROWS, "native": tensor(name_of(attn), KEY_ROWS), "list": KEY_ROWS.tolist()}[kind]
    assert_array_equal(visible(attn, array), expected(lambda b, i, j: bool(KEY_ROWS[b, 0, j])))
    assert_array_equal(visible(attn, ~(array & full())), expected(lambda b, i, j: not KEY_ROWS[b, 0, j]))


def test_array_with_a_head_axis(attn: ModuleType) -> None:
    name, heads = name_of(attn), 3
    array = np.array([[[j != h] * 1 for j in range(KEYS)] for h in range(heads)], bool).reshape(1, heads, 1, KEYS)
    query, key = tensor(name, np.zeros((1, heads, QUERIES, 1))), tensor(name, np.zeros((1, 1, KEYS, 1)))
    logits = np.asarray(attn.attention_stages(query, key, key, mask=key_lengths([6]) & tensor(name, array)).logits)
    predicate = [[[j != h and j < 6 for j in range(KEYS)] for _ in range(QUERIES)] for h in range(heads)]
    assert_array_equal(logits[0] == 0.0, predicate)


REPRS = {
    "full()": full(),
    "causal()": causal(),
    "causal(offset=0)": causal(0),
    "causal(offset='end')": causal("end"),
    "causal(offset=[1, -2])": causal([1, -2]),
    "sliding_window(left=2)": sliding_window(2),
    "sliding_window(left=2, right=0, offset=-1)": sliding_window(2, 0, -1),
    "key_lengths(3)": key_lengths(3),
    "key_lengths([3, 0])": key_lengths([3, 0]),
    "key_lengths([[1, 2], [3, 4]])": key_lengths([[1, 2], [3, 4]]),
    "query_lengths([0, 1, 2, ..., 8, 9, 10])": query_lengths(list(range(11))),
    "<boolean array of shape (5, 7)> & causal()": PAIRS & causal(),
    "causal() & full() & key_lengths(1)": causal() & full() & key_lengths(1),
    "causal() & (full() & key_lengths(1))": causal() & (full() & key_lengths(1)),
    "(causal() | full()) & ~key_lengths(1)": (causal() | full()) & ~key_lengths(1),
    "causal() & full() | key_lengths(1)": causal() & full() | key_lengths(1),
    "causal() | (full() | key_lengths(1))": causal() | (full() | key_lengths(1)),
    "~(causal() & full())": ~(causal() & full()),
    "~~causal()": ~~causal(),
}


@pytest.mark.parametrize(("text", "mask"), REPRS.items(), ids=REPRS)
def test_repr_is_the_call_that_makes_the_mask(text: str, mask: Mask) -> None:
    assert repr(mask) == text


@pytest.mark.parametrize("attn", ["torch", "tensorflow", "jax"], indirect=True)
def test_repr_names_what_a_native_tensor_is(attn: ModuleType) -> None:
    lengths = tensor(name_of(attn), [1, 2])
    kind = {"torch": "a torch tensor (Tensor)", "tensorflow": "a tensorflow tensor (EagerTensor)"}
    described = kind.get(name_of(attn), "a jax array (ArrayImpl)")
    assert repr(key_lengths(lengths)) == f"key_lengths(<{described} of shape (2,)>)"


EQUAL = {
    "no argument": (causal(), causal()),
    "numbers": (sliding_window(1, 2, 3), sliding_window(1, 2, 3)),
    "int and NumPy int": (key_lengths(3), key_lengths(np.int32(3))),
    "list and array": (key_lengths([1, 2]), key_lengths(np.array([1, 2], np.uint8))),
    "arrays": (PAIRS & causal(), PAIRS.copy() & causal()),
    "combinations": (~(causal() | full()), ~(causal() | full())),
}
DIFFERENT = {
    "offset": (causal(), causal(0)),
    "numbers": (sliding_window(1, 2), sliding_window(2, 1)),
    "class": (key_lengths(3), query_lengths(3)),
    "static and array": (key_lengths(3), key_lengths([3])),
    "array values": (key_lengths([1, 2]), key_lengths([1, 3])),
    "array shapes": (key_lengths([1, 1]), key_lengths([1, 1, 1])),
    "boolean values": (PAIRS & causal(), ~PAIRS & causal()),
    "order": (causal() & full(), full() & causal()),
    "inside": (~causal(), ~full()),
    "not a mask": (causal(), "causal()"),
}


@pytest.mark.parametrize(("left", "right"), EQUAL.values(), ids=EQUAL)
def test_equal_masks_are_equal_and_hash_alike(left: Mask, right: Mask) -> None:
    assert left == right
    assert hash(left) == hash(right)
    assert {left: "found"}[right] == "found"


@pytest.mark.parametrize(("left", "right"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_masks_are_not_equal(left: Mask, right: Any) -> None:
    assert left != right
    assert right != left


def test_native_tensors_are_compared_by_value(attn: ModuleType) -> None:
    name = name_of(attn)
    assert key_lengths(tensor(name, [1, 2])) == key_lengths([1, 2])
    assert key_lengths(tensor(name, [1, 2])) != key_lengths(tensor(name, [1, 3]))
    assert hash(key_lengths(tensor(name, [1, 2]))) == hash(key_lengths([1, 2]))


@pytest.mark.parametrize("make", [key_lengths, query_lengths, causal], ids=lambda make: make.__name__)
def test_later_writes_to_the_callers_array_do_not_reach_a_mask(make: Callable[[Any], Mask]) -> None:
    numbers = np.array([1, 2])
    mask = make(numbers)
    numbers[:] = 5
    assert mask == make([1, 2])


def test_fields_cannot_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'offset'"):
        causal().offset = 3


@pytest.mark.parametrize("use", [bool, operator.not_, lambda mask: mask and full()], ids=["bool", "not", "and"])
def test_a_mask_has_no_truth_value(use: Callable[[Mask], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        use(causal())
    assert str(caught.value) == (
        "a mask has no truth value; combine masks with `&`, `|` and `~`, not with `and`, `or`, `not`"
    )


@pytest.mark.parametrize("mask", [*REPRS.values()], ids=REPRS)
def test_flatten_and_rebuild_round_trip(mask: Mask) -> None:
    children, static = mask.flatten()
    assert type(mask).rebuild(static, children) == mask
    assert hash(type(mask).rebuild(static, children)) == hash(mask)


def test_rebuilding_skips_validation_and_keeps_the_structure() -> None:
    mask = sliding_window(left=2, offset=[1, 2])
    children, static = mask.flatten()
    assert [child.tolist() for child in children] == [[1, 2]]
    rebuilt = type(mask).rebuild(static, [-7])  # `vmap` puts ints where arrays were
    assert rebuilt.flatten() == ((-7,), static)
    assert type(mask).rebuild(static, [None]).flatten() == ((None,), static)

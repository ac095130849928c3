"""Block plans against the dense mask, pair by pair: no visible pair is left out, and no mask where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnspec.reference as attn
from attnspec.contract.block_plans import BlockPlan, Lengths, Range, plan_blocks
from attnspec.contract.masks import Mask, as_mask

Array = np.ndarray[Any, Any]

BATCH = 2


def dense(mask: Mask | None, lengths: Lengths) -> Array:
    """Ask an attention: (B, 2, Tq, Tk), True where a weight is not 0."""
    query = np.zeros((BATCH, 2, lengths.query_length, 1))
    key = np.zeros((BATCH, 2, lengths.key_length, 1))
    return attn.attention_stages(query, key, key, mask=mask).weights > 0


def planned(plan: BlockPlan, lengths: Lengths) -> tuple[Array, Array]:
    """Return for every pair whether it is visited, and whether it is visited with the mask."""
    visited, masked = np.zeros(lengths, bool), np.zeros(lengths, bool)
    for block in plan.queries:
        for part in block.keys:
            assert not visited[block.start : block.stop, part.start : part.stop].any(), "visited twice"
            visited[block.start : block.stop, part.start : part.stop] = True
            masked[block.start : block.stop, part.start : part.stop] = part.needs_mask
    return visited, masked


def check(mask: Mask | None, lengths: Lengths, sizes: tuple[int, int], **options: Any) -> BlockPlan:
    plan = plan_blocks(mask, lengths, *sizes, **options)
    pairs = dense(mask, lengths)
    visited, masked = planned(plan, lengths)
    assert not (pairs & ~visited).any(), "a visible pair is not visited"
    assert pairs[:, :, visited & ~masked].all(), "a hidden pair is visited without the mask"
    assert [block.start for block in plan.queries] == list(range(0, lengths.query_length, sizes[0]))
    assert all(block.stop == min(block.start + sizes[0], lengths.query_length) for block in plan.queries)
    for block in plan.queries:  # neighbours of one kind are one range
        pairs_of_ranges = zip(block.keys, block.keys[1:], strict=False)
        assert all(a.stop < b.start or a.needs_mask != b.needs_mask for a, b in pairs_of_ranges)
    blocks = -(-lengths.query_length // sizes[0]) * -(-lengths.key_length // sizes[1])
    assert plan.visited + plan.skipped == blocks
    return plan


def leaves(lengths: Lengths) -> st.SearchStrategy[Mask]:
    queries, keys = lengths
    near = st.integers(-keys - 2, keys + 2)
    offsets = st.one_of(near, st.just("end"), st.lists(near, min_size=BATCH, max_size=BATCH))
    widths = st.integers(0, keys + 2)
    counts = st.one_of(st.integers(0, keys), st.lists(st.integers(0, keys), min_size=BATCH, max_size=BATCH))
    few = st.integers(-1, 2)

    def ids(length: int) -> st.SearchStrategy[Any]:
        one = st.lists(few, min_size=length, max_size=length)
        return st.one_of(one.map(sorted), one, st.lists(one, min_size=BATCH, max_size=BATCH)).map(np.array)

    shapes = st.sampled_from([(queries, keys), (1, keys), (queries, 1), (BATCH, 1, queries, keys), (1, 2, 1, keys)])
    arrays = shapes.flatmap(
        lambda shape: st.integers(0, 2**32).map(
            lambda seed: np.random.default_rng(seed).random(shape) < (0.5 + 0.5 * (seed % 2))
        )
    )
    return st.one_of(
        offsets.map(attn.causal),
        st.builds(attn.sliding_window, widths, st.one_of(st.none(), widths), offsets),
        counts.map(attn.key_lengths),
        st.one_of(st.integers(0, queries), st.lists(st.integers(0, queries), min_size=BATCH, max_size=BATCH)).map(
            attn.query_lengths
        ),
        st.builds(attn.prefix, counts, offsets),
        st.builds(attn.chunked, st.integers(1, keys + 1), offsets),
        st.tuples(ids(queries), ids(keys)).map(lambda pair: attn.segments(*pair)),
        arrays.map(as_mask),
        st.integers(1, 4).map(lambda n: attn.predicate(f"every {n}", lambda q, k: (q - 2 * k) % n == 0)),
        st.just(attn.predicate("far", lambda q, k: abs(q - k) // 2 > 1)),
        st.just(attn.predicate("arrays only", lambda q, k: (q + k).astype(float) > 3)),
        st.just(attn.full()),
    )


@st.composite
def questions(draw: Any) -> tuple[Mask, Lengths, tuple[int, int]]:
    lengths = Lengths(draw(st.integers(1, 13)), draw(st.integers(1, 13)))
    combined = st.recursive(
        leaves(lengths),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
            inner.map(lambda mask: ~mask),
        ),
        max_leaves=4,
    )
    return draw(combined), lengths, (draw(st.integers(1, 15)), draw(st.integers(1, 15)))


@given(questions())
@settings(max_examples=250, deadline=None, derandomize=True)
def test_random_masks(question: tuple[Mask, Lengths, tuple[int, int]]) -> None:
    check(*question)


@given(questions())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_numbers_that_cannot_be_read(question: tuple[Mask, Lengths, tuple[int, int]]) -> None:
    plan = check(*question, read=lambda _: None)
    assert plan.visited >= plan_blocks(*question[:2], *question[2]).visited


TIGHT: dict[str, Mask] = {
    "causal": attn.causal(0),
    "end": attn.causal("end"),
    "window": attn.sliding_window(2, 1, offset=3),
    "causal window": attn.causal(2) & attn.sliding_window(3, offset=2),
    "lengths": attn.key_lengths([5, 7]) & attn.query_lengths([11, 3]),
    "prefix": attn.prefix([4, 2], offset=0),
    "chunked": attn.chunked(3, offset=1),
    "chunked causal": attn.chunked(4, offset=0) & attn.causal(0),
    "packed": attn.segments(np.repeat([0, 1, 2], [4, 1, 6]), np.repeat([0, 1, 2], [5, 3, 5])),
    "array": as_mask(np.random.default_rng(5).random((2, 2, 11, 13)) < 0.1),
    "predicate": attn.predicate("band", lambda q, k: abs(q - k) <= 2),
    "outside": ~attn.causal(0),
}


@pytest.mark.parametrize("mask", TIGHT)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 4), (16, 16)], ids=str)
def test_as_tight_as_can_be(mask: str, sizes: tuple[int, int]) -> None:
    """A block is visited if and only if it has a visible pair, and with the mask only if it has a hidden one."""
    lengths = Lengths(11, 13)
    visited, masked = planned(check(TIGHT[mask], lengths, sizes), lengths)
    pairs = dense(TIGHT[mask], lengths)
    # One element has few queries, the other few keys: the plan is that of all.
    some = dense(attn.key_lengths(7) & attn.query_lengths(11), lengths) if mask == "lengths" else pairs
    for start in range(0, 11, sizes[0]):
        for first in range(0, 13, sizes[1]):
            block = np.s_[start : start + sizes[0], first : first + sizes[1]]
            may = some[:, :, *block].any()
            assert visited[block].all() == visited[block].any() == may
            assert masked[block].all() == (may and not pairs[:, :, *block].all())


def test_a_causal_plan_by_hand() -> None:
    plan = plan_blocks(attn.causal(), Lengths(10, 10), 4, 4)
    assert plan == BlockPlan(
        queries=(
            (0, 4, ((0, 4, True),)),
            (4, 8, ((0, 4, False), (4, 8, True))),
            (8, 10, ((0, 8, False), (8, 10, True))),
        ),
        visited=6,
        masked=3,
        skipped=3,
    )
    assert plan.queries[2].span == (0, 10)


def test_nothing_to_see() -> None:
    plan = plan_blocks(attn.key_lengths(0), Lengths(3, 5), 2, 2)
    assert [(block.keys, block.span) for block in plan.queries] == [((), (0, 0))] * 2
    assert (plan.visited, plan.masked, plan.skipped) == (0, 0, 6)


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)], ids=str)
@pytest.mark.parametrize(
    "mask", [None, attn.causal("end"), as_mask(np.ones((1, 1), bool))], ids=["none", "end", "array"]
)
def test_empty_lengths(mask: Mask | None, lengths: tuple[int, int]) -> None:
    plan = plan_blocks(mask, Lengths(*lengths), 4, 4)
    assert len(plan.queries) == -(-lengths[0] // 4)
    assert all(block.keys == () for block in plan.queries)


def test_the_work_of_a_window_grows_with_the_length_and_not_with_its_square() -> None:
    mask = attn.causal() & attn.sliding_window(255)
    counts = [plan_blocks(mask, Lengths(n, n), 256, 256).visited for n in (2048, 4096, 131072)]
    assert counts == [15, 31, 1023]


def test_static_plans_are_kept() -> None:
    lengths = Lengths(64, 64)
    first = plan_blocks(attn.causal() & attn.sliding_window(3), lengths, 8, 8)
    assert plan_blocks(attn.causal() & attn.sliding_window(3), lengths, 8, 8) is first
    assert plan_blocks(attn.causal() & attn.sliding_window(4), lengths, 8, 8) is not first
    one, other = (plan_blocks(attn.key_lengths([n, n]), lengths, 8, 8) for n in (3, 30))
    assert (one.visited, other.visited) == (8, 32)


@pytest.mark.parametrize(("name", "sizes"), [("query_block", (0, 4)), ("key_block", (4, -1))])
def test_block_sizes_below_one(name: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must be at least 1; got {min(sizes)}$"):
        plan_blocks(None, Lengths(4, 4), *sizes)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, n: x + n,
        lambda x, n: n - x,
        lambda x, n: -x * n,
        lambda x, n: n * x,
        lambda x, n: abs(x - n),
        lambda x, n: x // (abs(n) + 1),
        lambda x, n: x % (abs(n) + 1),
    ],
)
def test_arithmetic_of_ranges(function: Callable[[Any, int], Any]) -> None:
    for low in range(-6, 7):
        for high in range(low, 7):
            for n in range(-3, 4):
                exact = [function(x, n) for x in range(low, high + 1)]
                found = function(Range(low, high), n)
                assert found.low <= min(exact)
                assert max(exact) <= found.high
                if low == high:
                    assert (found.low, found.high) == (exact[0], exact[0])


def test_truth_of_ranges() -> None:
    relations: list[Callable[[Any, Any], Any]] = [
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        lambda a, b: a >= b,
        lambda a, b: a == b,
        lambda a, b: a != b,
    ]
    ranges = [(low, high) for low in range(3) for high in range(low, 3)]
    for relation in relations:
        for a in ranges:
            for b in ranges:
                exact = [relation(x, y) for x in range(a[0], a[1] + 1) for y in range(b[0], b[1] + 1)]
                found = relation(Range(*a), Range(*b))
                assert (bool(found.some), bool(found.every)) == (any(exact), all(exact))

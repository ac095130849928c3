"""What holds of attention whatever computes it: no oracle, only a second call.

JAX is left out for the time it takes: it compiles each of the many shapes anew. `test_backends.py` holds it to the
reference."""

from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from attention_cases import DIMS, GROUPED, MASKS, SQUARE, Array, draw, draw_bias, draw_booleans, draw_values
from comparisons import assert_close, assert_same_bits
from native_tensors import to_numpy

from attnspec.contract import causal, full, key_lengths, query_lengths, sliding_window

TOLERANCE = 1e-13
BATCH, HEADS, QUERIES, KEYS = DIMS.pairs


@pytest.fixture(params=["reference", "torch", "tensorflow"], scope="module")
def attn(request: pytest.FixtureRequest) -> ModuleType:
    return frameworks.load(request.param)


def output(attn: ModuleType, *arrays: Array, **options: Any) -> Array:
    return to_numpy(attn.dot_product_attention(*arrays, **options))


def stages(attn: ModuleType, *arrays: Array, **options: Any) -> dict[str, Array]:
    return {name: to_numpy(stage) for name, stage in attn.attention_stages(*arrays, **options)._asdict().items()}


# --- order and independence


def test_permuting_keys_with_their_values_changes_nothing(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    mask, bias = draw_booleans(DIMS.pairs), draw_bias(DIMS.pairs)
    order = np.random.default_rng(5).permutation(KEYS)
    assert not np.array_equal(order, np.arange(KEYS))
    expected = output(attn, query, key, value, mask=mask, bias=bias, softcap=5.0)
    arrays = query, key[..., order, :], value[..., order, :]
    assert_close(output(attn, *arrays, mask=mask[..., order], bias=bias[..., order], softcap=5.0), expected, TOLERANCE)
    without_mask_order = output(attn, *arrays, mask=mask, bias=bias[..., order], softcap=5.0)
    assert not np.allclose(without_mask_order, expected, rtol=0.01)  # the columns of the mask matter


def test_permuting_queries_permutes_rows(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    mask, bias = draw_booleans(DIMS.pairs), draw_bias(DIMS.pairs)
    order = np.array([3, 0, 4, 1, 2])
    expected = output(attn, query, key, value, mask=mask, bias=bias)[..., order, :]
    actual = output(attn, query[..., order, :], key, value, mask=mask[..., order, :], bias=bias[..., order, :])
    assert_close(actual, expected, TOLERANCE)


@pytest.mark.parametrize("mask", ["none", "causal_batch", "keys_batch", "array"])
def test_batch_elements_are_independent(attn: ModuleType, mask: str) -> None:
    query, key, value = draw(DIMS)
    options = {"mask": MASKS[mask].make(DIMS), "bias": draw_bias(DIMS.pairs)}
    whole = output(attn, query, key, value, **options)
    rng = np.random.default_rng(6)
    for array in (query, key, value):
        array[1] = rng.standard_normal(array[1].shape)
    changed = output(attn, query, key, value, **options)
    assert_same_bits(changed[0], whole[0])
    assert not np.allclose(changed[1, ..., 4, :], whole[1, ..., 4, :])


def test_each_batch_element_alone_gives_the_same(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    whole = output(attn, query, key, value, mask=key_lengths([3, 5]) & causal([1, -2]))
    first = output(attn, query[:1], key[:1], value[:1], mask=key_lengths(3) & causal(1))
    second = output(attn, query[1:], key[1:], value[1:], mask=key_lengths([5]) & causal([-2]))
    assert_close(np.concatenate([first, second]), whole, TOLERANCE)


def test_heads_are_independent(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    mask, bias = draw_booleans(DIMS.pairs), draw_bias(DIMS.pairs)
    whole = output(attn, query, key, value, mask=mask, bias=bias)
    one = output(attn, query[:, 1], key[:, 1], value[:, 1], mask=mask[:, 1], bias=bias[:, 1])  # rank 3: no head axis
    assert_close(one, whole[:, 1], TOLERANCE)


def test_rank_2_is_one_batch_element_and_one_head(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    whole = output(attn, query, key, value, mask=causal("end"))
    one = output(attn, query[1, 2], key[1, 2], value[1, 2], mask=causal("end"))
    assert_close(one, whole[1, 2], TOLERANCE)


def test_grouped_heads_equal_repeated_heads(attn: ModuleType) -> None:
    query, key, value = draw(GROUPED)
    grouped = output(attn, query, key, value, mask=causal("end"))
    repeated = output(attn, query, key.repeat(2, axis=1), value.repeat(2, axis=1), mask=causal("end"))
    assert_close(grouped, repeated, TOLERANCE)
    tiled = output(attn, query, np.tile(key, (1, 2, 1, 1)), np.tile(value, (1, 2, 1, 1)), mask=causal("end"))
    assert not np.allclose(grouped, tiled, rtol=0.01)  # h // 2, not h % 3


# --- causal masks and windows


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_causal_prefix_does_not_know_the_future(attn: ModuleType, length: int) -> None:
    query, key, value = draw(SQUARE)
    whole = output(attn, query, key, value, mask=causal())
    prefix = output(attn, query[..., :length, :], key[..., :length, :], value[..., :length, :], mask=causal())
    assert_close(prefix, whole[..., :length, :], TOLERANCE)


@pytest.mark.parametrize("mask", [causal, lambda offset: sliding_window(2, 1, offset)], ids=["causal", "window"])
def test_chunks_of_queries_make_the_whole(attn: ModuleType, mask: Any) -> None:
    query, key, value = draw(SQUARE)
    whole = output(attn, query, key, value, mask=mask(0))
    chunks = [output(attn, query[..., i : i + 3, :], key, value, mask=mask(i)) for i in range(0, 7, 3)]
    assert_close(np.concatenate(chunks, axis=-2), whole, TOLERANCE)


def test_the_last_query_alone_stands_at_the_end(attn: ModuleType) -> None:
    query, key, value = draw(SQUARE)
    whole = output(attn, query, key, value, mask=causal() & sliding_window(left=2))
    last = output(attn, query[..., -1:, :], key, value, mask=causal("end") & sliding_window(left=2, offset="end"))
    assert_close(last, whole[..., -1:, :], TOLERANCE)


SAME_MASKS = {
    "unbounded_window": (sliding_window(KEYS, KEYS, 0), None),
    "window_of_the_past": (sliding_window(right=0, offset="end"), causal("end")),
    "window_and_causal": (sliding_window(left=2, offset=0) & causal(0), sliding_window(2, 0, 0)),
    "full_key_lengths": (key_lengths(KEYS), None),
    "full_query_lengths": (query_lengths([QUERIES, QUERIES]), full()),
    "twice_not": (~~causal(1), causal(1)),
    "de_morgan": (~(causal(0) | key_lengths([3, 5])), ~causal(0) & ~key_lengths([3, 5])),
    "neutral_and": (causal(0) & full(), causal(0)),
    "neutral_or": (causal(0) | ~full(), causal(0)),
    "object_as_array": (causal(1), np.tri(QUERIES, KEYS, 1, dtype=bool)),
    "array_as_object": (np.arange(KEYS)[None] < 3, key_lengths(3)),
    "broadcast_array": (draw_booleans((1, KEYS)), np.broadcast_to(draw_booleans((1, KEYS)), DIMS.pairs)),
    "head_array": (draw_booleans((1, HEADS, 1, 1)), np.broadcast_to(draw_booleans((1, HEADS, 1, 1)), DIMS.pairs)),
}


@pytest.mark.parametrize(("one", "other"), SAME_MASKS.values(), ids=SAME_MASKS.keys())
def test_two_ways_to_write_a_mask_give_the_same_bits(attn: ModuleType, one: Any, other: Any) -> None:
    arrays = draw(DIMS)
    assert_same_bits(output(attn, *arrays, mask=one), output(attn, *arrays, mask=other))


def test_a_mask_equals_a_bias_of_minus_infinity(attn: ModuleType) -> None:
    arrays, mask = draw(DIMS), draw_booleans(DIMS.pairs)
    bias = np.where(mask, 0.0, -np.inf)
    assert_same_bits(output(attn, *arrays, bias=bias), output(attn, *arrays, mask=mask, bias=np.zeros(DIMS.pairs)))


def test_key_lengths_equal_a_shorter_memory(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    padded = output(attn, query, key, value, mask=key_lengths(3))
    assert_close(padded, output(attn, query, key[..., :3, :], value[..., :3, :]), TOLERANCE)


# --- logits


@pytest.mark.parametrize("shape", [(1, 1), (QUERIES, 1), (BATCH, HEADS, 1, 1)], ids=["all", "rows", "heads"])
def test_adding_a_constant_to_the_logits_of_a_row_changes_nothing(attn: ModuleType, shape: tuple[int, ...]) -> None:
    arrays = draw(DIMS)
    constant = 1024.0 * draw_values(shape, np.random.default_rng(7))  # exp of it overflows
    assert np.abs(constant).min() > 710
    # A logit near 2048 is rounded by up to 2^-42: twice that on each weight, and as much on the sum of them.
    assert_close(output(attn, *arrays, bias=constant), output(attn, *arrays), 4 * 2.0**-42 * KEYS)


def test_adding_a_constant_moves_logsumexp_by_it(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    constant = 8.0 * draw_values((QUERIES, 1), np.random.default_rng(8))
    moved = stages(attn, *arrays, bias=constant)["logsumexp"]
    assert_close(moved, stages(attn, *arrays)["logsumexp"] + constant[:, 0], TOLERANCE)


def test_scale_multiplies_the_query(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    assert_same_bits(output(attn, query, key, value, scale=-0.25), output(attn, -0.25 * query, key, value, scale=1.0))
    assert_close(output(attn, query, key, value), output(attn, query, key, value, scale=11**-0.5), TOLERANCE)


def test_scale_0_gives_the_mean_of_the_visible_values(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    actual = output(attn, query, key, value, scale=0, mask=causal(0))
    expected = np.stack([value[..., : i + 1, :].mean(axis=-2) for i in range(QUERIES)], axis=-2)
    assert_close(actual, expected, TOLERANCE)


def test_a_large_softcap_is_none(attn: ModuleType) -> None:
    arrays = draw(DIMS)
    largest = np.abs(stages(attn, *arrays)["scores"]).max()
    assert largest > 6
    # c tanh(s/c) = s − s³/3c² + …: with c = 1e6, of the size of 1e-10 and so far above all rounding.
    error = largest**3 / 3 / 1e6**2
    assert_close(output(attn, *arrays, softcap=1e6), output(attn, *arrays), 4 * error)
    assert not np.allclose(output(attn, *arrays, softcap=10.0), output(attn, *arrays), rtol=0.01)


def test_a_softcap_bounds_the_logits(attn: ModuleType) -> None:
    given = stages(attn, *draw(DIMS), softcap=2.0, scale=3.0)
    assert np.abs(given["scores"]).max() > 20
    assert 1.9 < np.abs(given["logits"]).max() <= 2.0


# --- values


def test_the_output_is_linear_in_the_value(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    other = draw_values(value.shape, np.random.default_rng(9))
    combined = output(attn, query, key, 3.0 * value - 0.7 * other, mask=causal(0))
    expected = 3.0 * output(attn, query, key, value, mask=causal(0)) - 0.7 * output(
        attn, query, key, other, mask=causal(0)
    )
    assert_close(combined, expected, TOLERANCE)


def test_equal_values_come_out_as_they_are(attn: ModuleType) -> None:
    query, key, _ = draw(DIMS)
    row = draw_values((DIMS.value_dim,), np.random.default_rng(10))
    value = np.broadcast_to(row, (BATCH, HEADS, KEYS, DIMS.value_dim))
    actual = output(attn, query, key, value, mask=query_lengths([4, 2]), bias=draw_bias(DIMS.pairs))
    expected = np.zeros(actual.shape)
    expected[0, :, :4] = expected[1, :, :2] = row
    assert_close(actual, expected, TOLERANCE)


@pytest.mark.parametrize("mask", ["none", "causal_batch", "window_end", "and_queries", "array", "nothing"])
def test_the_identity_as_value_gives_the_weights(attn: ModuleType, mask: str) -> None:
    query, key, _ = draw(DIMS)
    identity = np.broadcast_to(np.eye(KEYS), (BATCH, HEADS, KEYS, KEYS))
    weights = output(attn, query, key, identity, mask=MASKS[mask].make(DIMS), softcap=20.0)
    visible = np.array([MASKS[mask].sees(DIMS, *at) for at in np.ndindex(DIMS.pairs)]).reshape(DIMS.pairs)
    assert_same_bits(weights[~visible], np.zeros((~visible).sum()))
    assert (weights[visible] > 0).all()
    assert_close(weights.sum(axis=-1), visible.any(axis=-1).astype(np.float64), TOLERANCE)
    given = stages(attn, query, key, identity, mask=MASKS[mask].make(DIMS), softcap=20.0)
    assert_close(weights, given["weights"], TOLERANCE)


# --- stages


@pytest.mark.parametrize("mask", ["none", "causal_behind", "keys_batch", "array", "nothing"])
def test_the_stages_fit_together(attn: ModuleType, mask: str) -> None:
    query, key, value = draw(GROUPED)
    bias = draw_bias(GROUPED.pairs, masked=0.2)
    options = {"mask": MASKS[mask].make(GROUPED), "bias": bias, "scale": 0.4, "softcap": 6.0}
    given = stages(attn, query, key, value, **options)
    visible = np.array([MASKS[mask].sees(GROUPED, *at) for at in np.ndindex(GROUPED.pairs)]).reshape(GROUPED.pairs)
    visible &= bias != -np.inf
    scores, logits, weights, logsumexp = (given[name] for name in ("scores", "logits", "weights", "logsumexp"))
    assert_close(scores, 0.4 * query @ key.repeat(2, axis=1).mT, TOLERANCE)
    assert_close(logits, np.where(visible, 6.0 * np.tanh(scores / 6.0) + bias, -np.inf), TOLERANCE)
    shift = np.where(np.isfinite(logsumexp), logsumexp, 0.0)[..., None]
    assert_close(weights, np.exp(logits - shift), TOLERANCE)
    assert_same_bits(logsumexp == -np.inf, ~visible.any(axis=-1))
    assert_close(given["output"], weights @ value.repeat(2, axis=1), TOLERANCE)
    assert_same_bits(given["output"], output(attn, query, key, value, **options))


def test_slices_of_the_keys_merge_by_their_logsumexp(attn: ModuleType) -> None:
    query, key, value = draw(DIMS)
    whole = stages(attn, query, key, value)
    parts = [stages(attn, query, key[..., part, :], value[..., part, :]) for part in (slice(0, 3), slice(3, None))]
    logsumexp = np.logaddexp(parts[0]["logsumexp"], parts[1]["logsumexp"])
    merged = sum(np.exp(part["logsumexp"] - logsumexp)[..., None] * part["output"] for part in parts)
    assert_close(logsumexp, whole["logsumexp"], TOLERANCE)
    assert_close(merged, whole["output"], TOLERANCE)

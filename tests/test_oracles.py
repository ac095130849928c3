"""Tests of the two attention oracles: against values worked out by hand, then against each other.

The oracles judge everything else, so nothing here may come from the code that they judge: the expected numbers are
literals from pencil and paper (or a table of tanh), and no test imports the reference. `test_oracles_options.py` goes
on with sinks, dropout, merging, positions and gradients.
"""

# ruff: noqa: ARG005 - a mask or bias takes (b, h, i, j), whichever of them the case needs

import itertools
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import oracle_mpmath
import oracle_scalar
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

Array = NDArray[np.float64]
Oracle = Callable[..., dict[str, Array]]
STAGES = ["scores", "logits", "weights", "logsumexp", "output"]
NAN, INF = math.nan, math.inf
LN3 = 1.0986122886681098


@pytest.fixture(params=[oracle_scalar, oracle_mpmath], ids=["scalar", "mpmath"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return request.param.attention_stages


def rank4(rows: object) -> Array:
    """One batch element, one head."""
    return np.array(rows, dtype=np.float64)[None, None]


def close(actual: Array, expected: object) -> None:
    assert_allclose(actual, np.array(expected, dtype=np.float64), rtol=4e-16, atol=4e-16, strict=True)


def two_logits(oracle: Oracle, first: float, second: float, values: object = ((1.0,), (5.0,))) -> dict[str, Array]:
    """One query that scores `first` and `second` on two keys: width 1, so that the default scale is 1."""
    return oracle(rank4([[1.0]]), rank4([[first], [second]]), rank4(values))


def test_logits_0_and_ln3(oracle: Oracle) -> None:
    got = two_logits(oracle, 0.0, LN3)
    close(got["scores"], [[[[0.0, LN3]]]])
    close(got["logits"], [[[[0.0, LN3]]]])
    close(got["weights"], [[[[0.25, 0.75]]]])
    close(got["logsumexp"], [[[math.log(4.0)]]])
    close(got["output"], [[[[4.0]]]])


def test_worked_example(oracle: Oracle) -> None:
    q = np.array([[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.5], [0.3, 0.4, 0.5, 0.6], [0.4, 0.5, 0.6, 0.7]])
    got = oracle(rank4(q), rank4(q + 0.4), rank4(q + 0.8))
    first = np.array([1.0562455771, 1.0587378748, 1.0612242610, 1.0637030775])
    # Half a unit of the last printed digit, here and below.
    assert_allclose(got["output"][0, 0], first[:, None] + [0.0, 0.1, 0.2, 0.3], rtol=0, atol=0.5e-10)
    lse = [1.8128563081, 1.9743547379, 2.1363510639, 2.2988439376]
    assert_allclose(got["logsumexp"][0, 0], lse, rtol=0, atol=0.5e-10)
    assert_allclose(got["weights"][0, 0, 0], [0.231574, 0.243447, 0.255929, 0.269050], rtol=0, atol=0.5e-6)
    # (.1 .2 .3 .4).(.5 .6 .7 .8) = .05 + .12 + .21 + .32 = .70, halved by 1/sqrt(4)
    assert_allclose(got["scores"][0, 0, 0, 0], 0.35, rtol=4e-16)


@pytest.mark.parametrize("how", ["mask", "bias", "both"])
def test_row_without_visible_key(oracle: Oracle, how: str) -> None:
    # Row 0 sees nothing, row 1 everything: an empty row must not spoil its neighbour.
    options = {
        "mask": {"visible": lambda b, h, i, j: i == 1},
        "bias": {"bias": lambda b, h, i, j: 0.0 if i == 1 else -INF},
        "both": {"visible": lambda b, h, i, j: i == 1 or j == 0, "bias": lambda b, h, i, j: 0.0 if i == 1 else -INF},
    }[how]
    got = oracle(rank4([[1.0], [1.0]]), rank4([[0.0], [LN3]]), rank4([[1.0], [5.0]]), **options)
    close(got["scores"], rank4([[0.0, LN3], [0.0, LN3]]))
    close(got["logits"], rank4([[-INF, -INF], [0.0, LN3]]))
    close(got["weights"], rank4([[0.0, 0.0], [0.25, 0.75]]))
    close(got["logsumexp"], rank4([-INF, math.log(4.0)]))
    close(got["output"], rank4([[0.0], [4.0]]))


@pytest.mark.parametrize("poison", [NAN, INF, -INF], ids=["nan", "inf", "minus_inf"])
@pytest.mark.parametrize("how", ["mask", "bias"])
def test_non_finite_masked_key_and_value_are_not_read(oracle: Oracle, how: str, poison: float) -> None:
    if how == "mask":
        options = {"visible": lambda b, h, i, j: j != 1, "bias": lambda b, h, i, j: NAN if j == 1 else 0.0}
    else:
        options = {"bias": lambda b, h, i, j: -INF if j == 1 else 0.0}
    got = oracle(rank4([[1.0]]), rank4([[0.0], [poison], [LN3]]), rank4([[1.0], [poison], [5.0]]), **options)
    close(got["scores"], rank4([[0.0, NAN, LN3]]))  # scores come before masking: NaN shows
    close(got["logits"], rank4([[0.0, -INF, LN3]]))
    close(got["weights"], rank4([[0.25, 0.0, 0.75]]))
    close(got["logsumexp"], rank4([math.log(4.0)]))
    close(got["output"], rank4([[4.0]]))


def test_softcap_comes_before_bias(oracle: Oracle) -> None:
    # Scores 3 and 0, softcap 2, biases 1.5 and 0.25: 2 * tanh(1.5) + 1.5, where tanh(1.5) = 0.9051482536448664, and
    # 0 + 0.25. The other order would give 2 * tanh(2.25) = 1.956 for the first.
    got = oracle(
        rank4([[1.0]]),
        rank4([[3.0], [0.0]]),
        rank4([[1.0], [0.0]]),
        bias=lambda b, h, i, j: [1.5, 0.25][j],
        softcap=2.0,
    )
    close(got["scores"], rank4([[3.0, 0.0]]))
    close(got["logits"], rank4([[3.3102965072897328, 0.25]]))
    # 1 / (1 + x) and x / (1 + x) for x = exp(0.25 - 3.31029650729), and 3.31029650729 + log(1 + x)
    assert_allclose(got["weights"], rank4([[0.9552249803, 0.0447750197]]), rtol=0, atol=0.5e-10)
    assert_allclose(got["output"], rank4([[0.9552249803]]), rtol=0, atol=0.5e-10)
    assert_allclose(got["logsumexp"], rank4([3.3561048920]), rtol=0, atol=0.5e-10)


def test_bias_is_not_scaled(oracle: Oracle) -> None:
    got = oracle(rank4([[2.0]]), rank4([[3.0]]), rank4([[1.0]]), bias=lambda b, h, i, j: 10.0, scale=0.5)
    close(got["logits"], rank4([[13.0]]))
    close(got["logsumexp"], rank4([13.0]))


@pytest.mark.parametrize(
    ("scale", "scores", "weights"),
    [
        (None, [0.0, 2.0], [0.11920292202211755, 0.8807970779778824]),  # 1/sqrt(4) of 4
        (LN3 / 4.0, [0.0, LN3], [0.25, 0.75]),
        (0.0, [0.0, 0.0], [0.5, 0.5]),
        (-LN3 / 4.0, [0.0, -LN3], [0.75, 0.25]),
    ],
    ids=["default", "positive", "zero", "negative"],
)
def test_scale(oracle: Oracle, scale: float | None, scores: list[float], weights: list[float]) -> None:
    got = oracle(rank4([[1.0] * 4]), rank4([[0.0] * 4, [1.0] * 4]), rank4([[0.0], [1.0]]), scale=scale)
    close(got["scores"], rank4([scores]))
    close(got["weights"], rank4([weights]))
    close(got["output"], rank4([weights[1:]]))


def test_groups_of_query_heads_share_a_key_value_head(oracle: Oracle) -> None:
    # Heads 0 1 2 use key/value head 0, heads 3 4 5 use head 1. `h % 2` would give 0 1 0 1 0 1.
    query = np.ones((1, 6, 1, 1))
    key = np.array([[[[0.0], [0.0]], [[0.0], [LN3]]]])
    value = np.array([[[[1.0], [5.0]], [[10.0], [50.0]]]])
    got = oracle(query, key, value)
    close(got["weights"], [[[[0.5, 0.5]]] * 3 + [[[0.25, 0.75]]] * 3])
    close(got["output"], [[[[3.0]]] * 3 + [[[40.0]]] * 3])


def test_mask_and_bias_are_asked_by_query_head(oracle: Oracle) -> None:
    # One key/value head, two query heads, two batch elements: every index of the callables makes its own difference.
    query, key, value = np.zeros((2, 2, 2, 1)), np.zeros((2, 1, 3, 1)), np.zeros((2, 1, 3, 1))
    asked: list[tuple[int, int, int, int]] = []

    def bias(b: int, h: int, i: int, j: int) -> float:
        asked.append((b, h, i, j))
        return 1000.0 * b + 100.0 * h + 10.0 * i + j

    got = oracle(query, key, value, visible=lambda b, h, i, j: (b, h, i, j) != (1, 0, 1, 2), bias=bias)
    expected = np.array(
        [
            [[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]], [[100.0, 101.0, 102.0], [110.0, 111.0, 112.0]]],
            [[[1000.0, 1001.0, 1002.0], [1010.0, 1011.0, -INF]], [[1100.0, 1101.0, 1102.0], [1110.0, 1111.0, 1112.0]]],
        ]
    )
    assert_array_equal(got["logits"], expected)
    assert len(asked) == 23
    assert (1, 0, 1, 2) not in asked


@pytest.mark.parametrize(
    ("poisoned", "options"),
    [
        ("key", {}),
        ("key", {"softcap": 2.0}),
        ("key", {"scale": 0.0}),
        ("bias", {}),
    ],
    ids=["key", "key_softcap", "key_scale_0", "bias"],
)
def test_visible_nan_logit_spoils_the_visible_part_of_its_row(
    oracle: Oracle, poisoned: str, options: dict[str, float]
) -> None:
    key = rank4([[0.0], [NAN if poisoned == "key" else 0.0], [LN3]])
    got = oracle(
        rank4([[1.0], [1.0]]),
        key,
        rank4([[1.0, INF, INF], [3.0, 4.0, INF], [5.0, 6.0, 7.0]]),
        # Row 0 sees keys 0 and 1, row 1 sees key 0 only: it must stay clean.
        visible=lambda b, h, i, j: j == 0 or (i == 0 and j == 1),
        bias=lambda b, h, i, j: NAN if poisoned == "bias" and j == 1 else 0.0,
        **options,
    )
    if poisoned == "key":
        assert_array_equal(np.isnan(got["scores"]), rank4([[0, 1, 0], [0, 1, 0]]).astype(bool))
    close(got["logits"], rank4([[0.0, NAN, -INF], [0.0, -INF, -INF]]))
    close(got["weights"], rank4([[NAN, NAN, 0.0], [1.0, 0.0, 0.0]]))
    close(got["logsumexp"], rank4([NAN, 0.0]))
    close(got["output"], rank4([[NAN, NAN, NAN], [1.0, INF, INF]]))


def test_infinite_component_gives_a_nan_score(oracle: Oracle) -> None:
    got = oracle(rank4([[INF, 1.0], [1.0, 1.0]]), rank4([[1.0, 1.0], [1.0, -INF]]), rank4([[1.0], [2.0]]), scale=1.0)
    close(got["scores"], rank4([[NAN, NAN], [2.0, NAN]]))
    close(got["output"], rank4([[NAN], [NAN]]))


def test_visible_non_finite_value_follows_arithmetic_per_component(oracle: Oracle) -> None:
    # fmt: off
    values = [[1.0, INF, -INF, NAN,  INF, INF, NAN],
              [5.0, 5.0,  5.0, 5.0, -INF, INF, INF]]
    # fmt: on
    got = two_logits(oracle, 0.0, LN3, values)
    close(got["weights"], rank4([[0.25, 0.75]]))
    close(got["output"], rank4([[4.0, INF, -INF, NAN, NAN, INF, NAN]]))


def test_weight_that_underflows_is_still_positive(oracle: Oracle) -> None:
    # exp(-2000) is 0 in float64, but p > 0 by definition: p * inf is inf, and p * 7 is nothing.
    got = two_logits(oracle, 0.0, 2000.0, [[INF, 7.0], [1.0, 1.0]])
    close(got["weights"], rank4([[0.0, 1.0]]))
    close(got["logsumexp"], rank4([2000.0]))
    close(got["output"], rank4([[INF, 1.0]]))


@pytest.mark.parametrize("offset", [-1e4, 1e4, -1.7976931348623157e308], ids=["low", "high", "lowest_float"])
def test_large_logits(oracle: Oracle, offset: float) -> None:
    # The lowest float64 is what many masks add instead of -inf; it absorbs both scores, so the row becomes uniform.
    got = oracle(rank4([[1.0]]), rank4([[0.0], [1.0]]), rank4([[0.0], [1.0]]), bias=lambda b, h, i, j: offset)
    second = 0.5 if offset < -1e300 else 0.7310585786300049  # 1 / (1 + exp(-1))
    log_of_sum = math.log(2.0) if offset < -1e300 else 1.3132616875182228  # log(1 + e)
    close(got["weights"], rank4([[1.0 - second, second]]))
    close(got["output"], rank4([[second]]))
    close(got["logsumexp"], rank4([offset + log_of_sum]))


def test_every_sum_is_rounded_once(oracle: Oracle) -> None:
    # Added up in float64 from left to right, 1e16 + 1 - 1e16 is 0.
    got = oracle(rank4([[1e16, 1.0, -1e16]]), rank4([[1.0] * 3]), rank4([[1.0]]), scale=1.0)
    close(got["scores"], rank4([[1.0]]))
    got = oracle(rank4([[0.0]]), rank4([[0.0]] * 4), rank4([[4e16], [4.0], [-4e16], [0.0]]))
    close(got["output"], rank4([[1.0]]))
    # One logit 0 and a thousand of log(1e-16): log(1 + 1e-13), where 1 + 1e-16 alone is 1.
    got = oracle(rank4([[1.0]]), rank4([[0.0]] + [[-36.841361487904734]] * 1000), rank4([[1.0]] * 1001))
    assert_allclose(got["logsumexp"], rank4([1e-13]), rtol=0, atol=2.5e-16)


def test_mpmath_oracle_does_not_round_before_the_end() -> None:
    # (1 + 2**-30) squared is 1 + 2**-29 + 2**-60; in float64 the last term is gone already after the product.
    x = 1.0 + 2.0**-30
    query, key = rank4([[x, 1.0, 1.0]]), rank4([[x, -1.0, -(2.0**-29)], [0.0, 0.0, 0.0]])
    got = oracle_mpmath.attention_stages(query, key, rank4([[1.0], [-1.0]]), scale=1.0)
    assert_array_equal(got["scores"], rank4([[2.0**-60, 0.0]]))
    # The weights are 1/2 +- 2**-62, which only their difference can show: tanh(2**-61), to first order 2**-61.
    assert_array_equal(got["output"], rank4([[2.0**-61]]))


@pytest.mark.parametrize(
    ("batch", "query_count", "key_count"),
    [(2, 3, 0), (0, 3, 5), (2, 0, 5), (0, 0, 0)],
    ids=["no_keys", "no_batch", "no_queries", "nothing"],
)
def test_empty_shapes(oracle: Oracle, batch: int, query_count: int, key_count: int) -> None:
    got = oracle(
        np.ones((batch, 4, query_count, 7)), np.ones((batch, 2, key_count, 7)), np.ones((batch, 2, key_count, 11))
    )
    assert list(got) == STAGES
    for stage in STAGES[:3]:
        assert got[stage].shape == (batch, 4, query_count, key_count)
    assert_array_equal(got["logsumexp"], np.full((batch, 4, query_count), -INF), strict=True)
    assert_array_equal(got["output"], np.zeros((batch, 4, query_count, 11)), strict=True)


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((1, 3, 1, 2), (1, 2, 1, 2), (1, 2, 1, 2)), {}),
        (((1, 1, 1, 2), (1, 1, 1, 3), (1, 1, 1, 2)), {}),
        (((1, 1, 1, 2), (1, 1, 3, 2), (1, 1, 2, 2)), {}),
        (((2, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {}),
        (((2, 1, 1, 2), (2, 1, 1, 2), (1, 1, 1, 2)), {}),
        (((1, 1, 2), (1, 1, 2), (1, 1, 2)), {}),
        (((1, 1, 1, 0), (1, 1, 1, 0), (1, 1, 1, 2)), {}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"scale": INF}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"scale": NAN}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"softcap": 0.0}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"softcap": INF}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"bias": lambda b, h, i, j: INF}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"sinks": [INF]}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"sinks": [0.0, 0.0]}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"rate": 0.5}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"rate": 1.0, "keep": lambda b, h, i, j: True}),
        (((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)), {"rate": -0.5, "keep": lambda b, h, i, j: True}),
    ],
    ids=[
        "heads", "width", "keys_values", "key_batch", "value_batch", "rank", "width_0",
        "scale_inf", "scale_nan", "softcap_0", "softcap_inf", "bias_inf",
        "sink_inf", "sinks_heads", "rate_without_keep", "rate_1", "rate_negative",
    ],
)  # fmt: skip
def test_questions_without_an_answer_are_refused(
    oracle: Oracle, shapes: tuple[tuple[int, ...], ...], options: dict[str, object]
) -> None:
    query, key, value = (np.ones(shape) for shape in shapes)
    with pytest.raises(ValueError):  # noqa: PT011 - the oracles word it each in their own way
        oracle(query, key, value, **options)


@pytest.mark.parametrize("case", ["product", "score", "capped_score", "logit"])
def test_scalar_oracle_refuses_overflow_that_mpmath_can_answer(case: str) -> None:
    x, options = {
        "product": (1e200, {}),
        "score": (1e150, {"scale": 1e100}),
        "capped_score": (1e150, {"scale": 1e100, "softcap": 1e10}),  # where the cap would hide the overflow
        "logit": (1e154, {"bias": lambda b, h, i, j: 1.7976931348623157e308}),
    }[case]
    # The second product is smaller than the first and of the other sign: inf - inf, if nobody looked at them.
    query, key, value = rank4([[x, x]]), rank4([[x, -x / 8.0], [-x, 0.0]]), rank4([[3.0], [4.0]])
    with pytest.raises(OverflowError):
        oracle_scalar.attention_stages(query, key, value, **options)
    got = oracle_mpmath.attention_stages(query, key, value, **options)
    close(got["weights"], rank4([[1.0, 0.0]]))
    close(got["output"], rank4([[3.0]]))
    assert got["logsumexp"][0, 0, 0] == (1e10 if case == "capped_score" else INF)


# --- one oracle against the other ------------------------------------------------------------------------------------

OPTIONS = ["visible", "bias", "scale", "softcap", "sinks", "dropout"]
COMBINATIONS = [c for n in range(len(OPTIONS) + 1) for c in itertools.combinations(OPTIONS, n)]


def random_case(seed: int, used: tuple[str, ...]) -> tuple[tuple[Array, Array, Array], dict[str, object]]:
    """Sizes are distinct primes (the query heads: two of them multiplied), so that no two axes can be mistaken."""
    rng = np.random.default_rng(seed)
    batch, kv_heads, group, query_count, key_count, width, value_width = 2, 3, 5, 3, 11, 7, 13
    query = rng.standard_normal((batch, kv_heads * group, query_count, width))
    key = rng.standard_normal((batch, kv_heads, key_count, width))
    value = rng.standard_normal((batch, kv_heads, key_count, value_width))

    shape = (batch, kv_heads * group, query_count, key_count)
    mask = rng.random(shape) < 0.6
    mask[rng.random(shape[:3]) < 0.1] = False  # rows without any visible key
    addend = rng.standard_normal(shape)
    addend[rng.random(shape) < 0.1] = -INF
    sinks = rng.standard_normal(kv_heads * group)
    sinks[1::4] = -INF
    kept = rng.random(shape) < 0.7
    rate = float(rng.uniform(0.2, 0.6))
    every: dict[str, object] = {
        "visible": lambda b, h, i, j: bool(mask[b, h, i, j]),
        "bias": lambda b, h, i, j: float(addend[b, h, i, j]),
        "scale": float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 0.5)),
        "softcap": float(rng.uniform(0.5, 3.0)),
        "sinks": sinks,
        "keep": lambda b, h, i, j: bool(kept[b, h, i, j]),
        "rate": rate,
    }
    names = [name for option in used for name in (["keep", "rate"] if option == "dropout" else [option])]
    return (query, key, value), {name: every[name] for name in names}


def agree(arrays: tuple[Array, Array, Array], options: dict[str, object]) -> dict[str, Array]:
    """Compare all stages, each relative to its largest finite element; return what mpmath says."""
    scalar = oracle_scalar.attention_stages(*arrays, **options)
    exact = oracle_mpmath.attention_stages(*arrays, **options)
    assert list(scalar) == list(exact) == STAGES
    for stage in STAGES:
        largest = float(np.abs(exact[stage][np.isfinite(exact[stage])]).max())
        assert_allclose(scalar[stage], exact[stage], rtol=0, atol=1e-15 * largest, strict=True, err_msg=stage)
    return exact


@pytest.mark.parametrize("used", COMBINATIONS, ids=lambda used: "-".join(used) or "plain")
def test_oracles_agree(used: tuple[str, ...]) -> None:
    arrays, options = random_case(101, used)
    exact = agree(arrays, options)
    # The comparison is worth something only if the case has in it what its name promises.
    empty_rows = (exact["logits"] == -INF).all(axis=-1).sum()
    masked = np.isneginf(exact["logits"]).mean()
    if "visible" in used:
        assert 0 < empty_rows < exact["logsumexp"].size / 2
        assert 0.3 < masked < 0.7
    else:
        assert empty_rows == 0
        assert masked == 0 if "bias" not in used else 0.05 < masked < 0.15
    changed = np.abs(exact["logits"] - exact["scores"])
    assert (changed[np.isfinite(changed)].max() > 0.1) == ("bias" in used or "softcap" in used)
    below_1 = (exact["weights"].sum(axis=-1) < 0.999).sum()
    assert (below_1 > empty_rows) == ("sinks" in used)
    mixed = np.einsum("bhij,bhjc->bhic", exact["weights"], np.repeat(arrays[2], 5, axis=1))
    assert np.allclose(exact["output"], mixed, rtol=0, atol=1e-12) == ("dropout" not in used)


@pytest.mark.parametrize("seed", [107, 109])
def test_oracles_agree_on_non_finite_input(seed: int) -> None:
    (query, key, value), options = random_case(seed, tuple(OPTIONS))
    rng = np.random.default_rng(seed)
    for array, share in ((query, 0.002), (key, 0.002), (value, 0.02)):
        hit = rng.random(array.shape) < share
        array[hit] = rng.choice([NAN, INF, -INF], size=hit.sum())
    exact = agree((query, key, value), options)
    for kind in (np.isfinite, np.isnan, np.isposinf, np.isneginf):
        assert kind(exact["output"]).any()


@pytest.mark.parametrize("used", [(), ("visible", "bias"), tuple(OPTIONS)], ids=lambda used: "-".join(used) or "plain")
@pytest.mark.parametrize("partial", [oracle_scalar, oracle_mpmath], ids=["of_scalar", "of_mpmath"])
def test_merged_slices_of_the_keys_are_the_whole(oracle: Oracle, partial: ModuleType, used: tuple[str, ...]) -> None:
    (query, key, value), options = random_case(113, used)
    whole = oracle(query, key, value, **options)
    sinks = options.pop("sinks", None)

    def from_key(start: int) -> dict[str, object]:
        # The callables count keys from the beginning of the whole, the slice from its own.
        def moved(function: Callable[..., object]) -> Callable[..., object]:
            return lambda b, h, i, j: function(b, h, i, j + start)

        return {name: moved(given) if callable(given) else given for name, given in options.items()}

    parts = [
        oracle(query, key[:, :, start:stop], value[:, :, start:stop], **from_key(start))
        for start, stop in [(0, 1), (1, 5), (5, 5), (5, 11)]
    ]
    merged = partial.merge_attention([p["output"] for p in parts], [p["logsumexp"] for p in parts], sinks=sinks)
    assert_allclose(merged["output"], whole["output"], rtol=0, atol=1e-14, strict=True)
    assert_allclose(merged["logsumexp"], whole["logsumexp"], rtol=0, atol=1e-14, strict=True)
    assert (whole["logsumexp"] == -INF).any() == ("visible" in used)  # some heads have no sink

"""Tests of the oracles for sinks, dropout, merging, positions and gradients: by hand, or by a formula of another kind.

As in `test_oracles.py`, nothing here comes from the code that the oracles judge.
"""

# ruff: noqa: ARG005 - a mask or bias takes (b, h, i, j), whichever of them the case needs

import decimal
import math
from collections.abc import Callable

import numpy as np
import oracle_gradients
import oracle_mpmath
import oracle_positions
import oracle_scalar
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

Array = NDArray[np.float64]
Oracle = Callable[..., dict[str, Array]]
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


def two_logits(
    oracle: Oracle, first: float, second: float, values: object = ((1.0,), (5.0,)), **options: object
) -> dict[str, Array]:
    """One query that scores `first` and `second` on two keys: width 1, so that the default scale is 1."""
    return oracle(rank4([[1.0]]), rank4([[first], [second]]), rank4(values), **options)


# --- sinks, dropout, merging -----------------------------------------------------------------------------------------


def test_sink_takes_its_share_and_is_dropped(oracle: Oracle) -> None:
    # Powers 1, 3 and 4 for the sink of the second head; the first head has none.
    got = oracle(np.ones((1, 2, 1, 1)), rank4([[0.0], [LN3]]), rank4([[1.0], [5.0]]), sinks=[-INF, 2.0 * math.log(2.0)])
    close(got["logits"], [[[[0.0, LN3]]] * 2])
    close(got["weights"], [[[[0.25, 0.75]], [[0.125, 0.375]]]])
    close(got["logsumexp"], [[[math.log(4.0)], [math.log(8.0)]]])
    close(got["output"], [[[[4.0]], [[2.0]]]])


@pytest.mark.parametrize("sink", [1.5, -1000.0, -INF, NAN], ids=["plain", "low", "none", "nan"])
def test_empty_row_with_a_sink(oracle: Oracle, sink: float) -> None:
    got = two_logits(oracle, 0.0, LN3, visible=lambda b, h, i, j: False, sinks=[sink])
    close(got["weights"], rank4([[0.0, 0.0]]))
    close(got["logsumexp"], rank4([sink]))
    close(got["output"], rank4([[0.0]]))


@pytest.mark.parametrize("sinks", [np.array([1000.0]), [-1000.0]], ids=["high", "low"])
def test_sink_far_from_the_logits(oracle: Oracle, sinks: list[float]) -> None:
    # A weight of exp(-1000) is 0 in float64, but positive by definition: the infinite value reaches its component.
    got = two_logits(oracle, 0.0, 0.0, [[INF, 7.0], [1.0, 1.0]], sinks=sinks)
    weight, log_of_sum, finite = (0.0, 1000.0, 0.0) if sinks[0] > 0 else (0.5, math.log(2.0), 4.0)
    close(got["weights"], rank4([[weight, weight]]))
    close(got["logsumexp"], rank4([log_of_sum]))
    close(got["output"], rank4([[INF, finite]]))


@pytest.mark.parametrize(
    ("first", "options"), [(NAN, {"sinks": [5.0]}), (0.0, {"sinks": [NAN]})], ids=["nan_key", "nan_sink"]
)
def test_nan_beside_or_in_a_sink(oracle: Oracle, first: float, options: dict[str, list[float]]) -> None:
    got = two_logits(oracle, first, LN3, [[1.0, INF], [5.0, 5.0]], **options)
    close(got["weights"], rank4([[NAN, NAN]]))
    close(got["logsumexp"], rank4([NAN]))
    close(got["output"], rank4([[NAN, NAN]]))


@pytest.mark.parametrize(
    ("kept", "rate", "sinks", "output"),
    [
        ([False, True], 0.25, None, 5.0),  # 3/4 * 5 / (3/4)
        ([False, True], 0.0, None, 3.75),  # a rate of 0 drops all the same
        ([True, True], 0.5, None, 8.0),
        ([False, False], 0.5, None, 0.0),
        ([False, True], 0.25, [2.0 * math.log(2.0)], 2.5),  # 3/8 * 5 / (3/4)
    ],
    ids=["one", "rate_0", "both", "neither", "sink"],
)
def test_dropout(oracle: Oracle, kept: list[bool], rate: float, sinks: list[float] | None, output: float) -> None:
    got = two_logits(oracle, 0.0, LN3, keep=lambda b, h, i, j: kept[j], rate=rate, sinks=sinks)
    powers = 4.0 if sinks is None else 8.0
    close(got["weights"], rank4([[1.0 / powers, 3.0 / powers]]))  # before dropout
    close(got["logsumexp"], rank4([math.log(powers)]))
    close(got["output"], rank4([[output]]))


def test_dropped_value_is_not_read_but_a_dropped_key_is(oracle: Oracle) -> None:
    # Row 0 drops both keys, row 1 keeps both, row 2 drops the first.
    options = {"keep": lambda b, h, i, j: i == 1 or (i == 2 and j == 1), "rate": 0.5}
    query = rank4([[1.0]] * 3)
    got = oracle(query, rank4([[0.0], [LN3]]), rank4([[NAN, INF, 1.0], [5.0, 5.0, 5.0]]), **options)
    close(got["output"], rank4([[0.0, 0.0, 0.0], [NAN, INF, 8.0], [7.5, 7.5, 7.5]]))
    got = oracle(query, rank4([[NAN], [LN3]]), rank4([[1.0], [INF]]), **options)
    close(got["weights"], rank4([[NAN, NAN]] * 3))
    close(got["output"], rank4([[NAN]] * 3))


@pytest.fixture(params=[oracle_scalar, oracle_mpmath], ids=["scalar", "mpmath"])
def merge(request: pytest.FixtureRequest) -> Oracle:
    return request.param.merge_attention


LN4 = 2.0 * math.log(2.0)


@pytest.mark.parametrize(
    ("logsumexps", "outputs", "sink", "logsumexp", "output"),
    [
        ([0.7], [3.0], None, 0.7, 3.0),
        ([0.0, LN3], [1.0, 5.0], None, LN4, 4.0),
        ([0.0, LN3], [1.0, 5.0], LN4, math.log(8.0), 2.0),
        ([0.0, LN3], [1.0, 5.0], -INF, LN4, 4.0),
        ([0.0, -INF, LN3], [1.0, NAN, 5.0], None, LN4, 4.0),
        ([-INF, -INF], [NAN, INF], None, -INF, 0.0),
        ([-INF, -INF], [NAN, INF], 1.25, 1.25, 0.0),
        ([-2000.0, 0.0], [-INF, 5.0], None, 0.0, -INF),
        ([-2000.0, 0.0], [-INF, INF], None, 0.0, NAN),
        ([0.0, 0.0], [NAN, 5.0], None, math.log(2.0), NAN),
        ([0.0, NAN], [INF, 5.0], None, NAN, NAN),
        ([0.0, 0.0], [1.0, 5.0], NAN, NAN, NAN),
        ([2000.0, 2000.0 - LN3], [5.0, 1.0], None, 2000.0 + LN4 - LN3, 4.0),
    ],
    ids=[
        "one", "two", "sink", "no_sink", "empty_slice", "all_empty", "all_empty_sink", "underflow_inf", "both_inf",
        "nan_output", "nan_logsumexp", "nan_sink", "large",
    ],
)  # fmt: skip
def test_merge(
    merge: Oracle,
    logsumexps: list[float],
    outputs: list[float],
    sink: float | None,
    logsumexp: float,
    output: float,
) -> None:
    got = merge(
        [rank4([[x]]) for x in outputs], [rank4([x]) for x in logsumexps], sinks=None if sink is None else [sink]
    )
    tolerance = 1e-13 if logsumexps[0] > 1000.0 else 4e-16  # half a unit in the last place of 2000 is 1.1e-13
    assert_allclose(got["logsumexp"], rank4([logsumexp]), rtol=4e-16, atol=0.0)
    assert_allclose(got["output"], rank4([[output]]), rtol=tolerance, atol=0.0)


@pytest.mark.parametrize(
    ("outputs", "logsumexps", "options"),
    [
        ([], [], {}),
        ([(1, 2, 3, 4)], [], {}),
        ([(1, 2, 3, 4), (1, 2, 3, 5)], [(1, 2, 3)] * 2, {}),
        ([(1, 2, 3, 4)], [(1, 2, 1)], {}),
        ([(1, 2, 3, 4)], [(1, 2, 3)], {"sinks": [0.0]}),
        ([(1, 2, 3, 4)], [(1, 2, 3)], {"sinks": [0.0, INF]}),
    ],
    ids=["none", "count", "widths", "logsumexp", "sinks", "sink_inf"],
)
def test_merges_without_an_answer_are_refused(
    merge: Oracle, outputs: list[tuple[int, ...]], logsumexps: list[tuple[int, ...]], options: dict[str, list[float]]
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the oracles word it each in their own way
        merge([np.ones(shape) for shape in outputs], [np.ones(shape) for shape in logsumexps], **options)
    with pytest.raises(ValueError, match=r"\+inf"):
        merge([np.ones((1, 2, 3, 4))], [np.full((1, 2, 3), INF)])


# --- masks and biases by position ------------------------------------------------------------------------------------


def table(visible: oracle_positions.Visible, queries: int, keys: int, b: int = 0) -> list[str]:
    return ["".join("x" if visible(b, 0, i, j) else "." for j in range(keys)) for i in range(queries)]


@pytest.mark.parametrize(
    ("visible", "b", "expected"),
    [
        (oracle_positions.segments(np.array([7, 7, -1]), np.array([7, -1, 7, 0])), 1, ["x.x.", "x.x.", ".x.."]),
        (
            oracle_positions.segments(np.array([[0] * 3, [1, 2, 3]]), np.array([3, 3, 2, 1])),
            1,
            ["...x", "..x.", "xx.."],
        ),
        (oracle_positions.prefix(2), 0, ["xx..", "xx..", "xxx."]),
        (oracle_positions.prefix(0, 1), 0, ["xx..", "xxx.", "xxxx"]),
        (oracle_positions.prefix(np.array([4, 1]), [0, -1]), 1, ["x...", "x...", "xx.."]),
        (oracle_positions.chunked(2), 0, ["xx..", "xx..", "..xx"]),
        (oracle_positions.chunked(3, 1), 0, ["xxx.", "xxx.", "...x"]),
        (oracle_positions.chunked(2, np.array([0, -1])), 1, ["....", "xx..", "xx.."]),
    ],
    ids=["shared", "batch", "prefix", "offset", "lengths", "chunks", "chunk_offset", "chunk_below_0"],
)
def test_positional_masks(visible: oracle_positions.Visible, b: int, expected: list[str]) -> None:
    assert table(visible, 3, 4, b) == expected


def test_place_of_the_queries() -> None:
    assert oracle_positions.place("end", 2, 5) == 3
    assert oracle_positions.place("end", 5, 2) == -3
    assert oracle_positions.place(None, 4, 4) == 0
    assert oracle_positions.place(-7, 2, 5) == -7
    for offset in (None, "start"):
        with pytest.raises(ValueError, match="offset"):
            oracle_positions.place(offset, 2, 5)


ROOT_HALF = 0.7071067811865476


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
        (12, [*(2.0**-n for n in range(1, 9)), *(ROOT_HALF * 2.0**-n for n in range(4))]),
        (16, [x for n in range(8) for x in (ROOT_HALF * 2.0**-n, 0.5 * 2.0**-n)]),
    ],
)
def test_alibi_slopes(heads: int, slopes: list[float]) -> None:
    assert [oracle_positions.alibi_slope(h, heads) for h in range(heads)] == slopes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"symmetric": True}, [[0.0, -0.25, -0.5], [-0.25, 0.0, -0.25]]),
        ({"symmetric": False}, [[0.0, 0.25, 0.5], [-0.25, 0.0, 0.25]]),
        ({"symmetric": True, "offset": [0, 1]}, [[-0.25, 0.0, -0.25], [-0.5, -0.25, 0.0]]),
        ({"symmetric": False, "slopes": [1.0, -3.0]}, [[0.0, -3.0, -6.0], [3.0, 0.0, -3.0]]),
    ],
    ids=["symmetric", "signed", "offset", "slopes"],
)
def test_alibi_bias(options: dict[str, object], expected: list[list[float]]) -> None:
    heads = 2 if "slopes" in options else 4  # the slope of head 0 of 4 is 1/4, and head 1 has slopes[1]
    bias = oracle_positions.alibi(heads=heads, **options)
    h = 1 if "slopes" in options else 0
    assert [[bias(1, h, i, j) for j in range(3)] for i in range(2)] == expected


def bucket_of(ahead: int, num_buckets: int, max_distance: int, *, bidirectional: bool) -> int:
    """The bucket of a key `ahead` of its query, wherever the two stand."""
    options = {"num_buckets": num_buckets, "bidirectional": bidirectional, "max_distance": max_distance}
    first = oracle_positions.relative_position_bucket(200, 200 + ahead, **options)
    assert oracle_positions.relative_position_bucket(3, 200 + ahead, offset=197, **options) == first
    return first


@pytest.mark.parametrize(
    ("bidirectional", "starts"),
    [
        # Bidirectional: 16 buckets per direction, of which 8 exact; the ratio 128/8 = 16 is split into 8 parts, so that
        # bucket 8 + t begins at 8 * 2^(t/2): 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5.
        (True, [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]),
        # 32 buckets, 16 exact; 128/16 = 8 in 16 parts: bucket 16 + t begins at 16 * 2^(3t/16), 18.2, 20.7, 23.6 ...
        (False, [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]),
    ],
    ids=["both", "past"],
)
def test_buckets_of_t5(bidirectional: bool, starts: list[int]) -> None:
    for distance in range(300):
        bucket = max(n for n, start in enumerate(starts) if start <= distance)
        assert bucket_of(-distance, 32, 128, bidirectional=bidirectional) == bucket
        ahead = (16 + bucket if distance else 0) if bidirectional else 0
        assert bucket_of(distance, 32, 128, bidirectional=bidirectional) == ahead


@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(2, 2), (4, 16), (5, 7), (6, 8), (7, 100), (32, 128), (33, 17)]
)
def test_buckets_against_decimal_logarithms(num_buckets: int, max_distance: int) -> None:
    # A quotient that is a whole number comes out within 1e-57 of it, any other is further away than 1e-40.
    with decimal.localcontext(prec=60):
        middle = num_buckets // 2
        part = (num_buckets - middle) / (decimal.Decimal(max_distance) / middle).ln()
        for distance in range(300):
            expected = distance
            if distance >= middle:
                expected = middle + math.floor(
                    (decimal.Decimal(distance) / middle).ln() * part + decimal.Decimal("1e-40")
                )
            expected = min(expected, num_buckets - 1)
            assert bucket_of(-distance, num_buckets, max_distance, bidirectional=False) == expected
            assert bucket_of(-distance, 2 * num_buckets, max_distance, bidirectional=True) == expected


def test_relative_position_bias_reads_the_table_by_head() -> None:
    # 4 buckets in two directions: 0 and 1 for keys at and before the query, 2 (never read) and 3 after it.
    options = {"bidirectional": True, "max_distance": 2}
    bias = oracle_positions.relative_position_bias(np.array([[0.0, 10], [1, 11], [2, 12], [3, 13]]), **options)
    assert [[bias(0, 1, i, j) for j in range(3)] for i in range(2)] == [[10, 13, 13], [11, 10, 13]]
    bias = oracle_positions.relative_position_bias(np.array([0.0, 1, 2, 3]), offset=np.array([0, 2]), **options)
    assert [bias(1, 0, 0, j) for j in range(4)] == [1, 1, 0, 3]
    for refused in ({"num_buckets": 5, "max_distance": 9}, {"num_buckets": 8, "max_distance": 2}):
        with pytest.raises(ValueError, match="buckets"):
            oracle_positions.relative_position_bucket(0, 1, bidirectional=True, **refused)


# --- encodings -------------------------------------------------------------------------------------------------------

COS1, SIN1, COS01, SIN01 = 0.5403023058681398, 0.8414709848078965, 0.9999500004166653, 0.009999833334166664


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("half_split", [COS1 - 3 * SIN1, 2 * COS01 - 4 * SIN01, 3 * COS1 + SIN1, 4 * COS01 + 2 * SIN01, 5.0]),
        ("interleaved", [COS1 - 2 * SIN1, 2 * COS1 + SIN1, 3 * COS01 - 4 * SIN01, 4 * COS01 + 3 * SIN01, 5.0]),
    ],
)
def test_rotary_row_by_hand(pairing: str, expected: list[float]) -> None:
    # Four of five components at position 1: angles 1 and 10000^(-2/4) = 0.01.
    got = oracle_positions.rotary_row([1.0, 2.0, 3.0, 4.0, 5.0], 1.0, pairing=pairing, rotary_dim=4)
    assert_allclose(got, expected, rtol=0, atol=1e-15)
    given = oracle_positions.rotary_row(
        [1.0, 2.0, 3.0, 4.0, 5.0], 0.5, pairing=pairing, frequencies=[2.0, 0.02], rotary_dim=4
    )
    assert_allclose(given, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("pairing", ["half_split", "interleaved"])
@pytest.mark.parametrize(
    ("shape", "positions"),
    [((2, 3, 5, 8), (2, 5)), ((2, 3, 5, 8), (5,)), ((2, 5, 8), (2, 5)), ((5, 8), (5,)), ((2, 2, 3, 5, 8), (2, 2, 5))],
    ids=["heads", "shared", "no_heads", "rank_2", "rank_5"],
)
def test_rotary_turns_complex_numbers(pairing: str, shape: tuple[int, ...], positions: tuple[int, ...]) -> None:
    rng = np.random.default_rng(211)
    inputs, places = rng.standard_normal(shape), rng.integers(-50, 5000, positions)
    got = oracle_positions.rotary_embedding(inputs, places, pairing=pairing, base=500.0, rotary_dim=6)
    angles = places[..., None] * 500.0 ** (-np.arange(3) / 3.0)
    if len(shape) >= 4 and len(positions) > 1:
        angles = angles[..., None, :, :]
    one, two = (slice(0, 3), slice(3, 6)) if pairing == "half_split" else (slice(0, 6, 2), slice(1, 6, 2))
    turned = (inputs[..., one] + 1j * inputs[..., two]) * np.exp(1j * angles)
    # An angle of 5000 in float64 is off by up to 5000 * 2^-52 = 1.1e-12.
    assert_allclose(got[..., one], turned.real, rtol=0, atol=1e-11)
    assert_allclose(got[..., two], turned.imag, rtol=0, atol=1e-11)
    assert_array_equal(got[..., 6:], inputs[..., 6:])
    analytic = oracle_gradients.rotary_embedding(inputs, places, 500.0 ** (-np.arange(3) / 3.0), pairing=pairing)
    assert_allclose(analytic, got, rtol=0, atol=1e-11)


def test_sinusoidal_positions_by_hand() -> None:
    expected = [[0.0, 1.0, 0.0, 1.0], [SIN1, COS1, SIN01, COS01]]
    assert_allclose(oracle_positions.sinusoidal_positions(2, 4), expected, rtol=0, atol=1e-16)
    got = oracle_positions.sinusoidal_positions(np.array([[[0.5]], [[-1.0]]]), 4, base=4.0)  # frequencies 1 and 1/2
    half, quarter = (0.479425538604203, 0.8775825618903728), (0.24740395925452294, 0.9689124217106447)
    assert_allclose(got, [[[[*half, *quarter]]], [[[-SIN1, COS1, -half[0], half[1]]]]], rtol=0, atol=2e-16)


# --- gradients -------------------------------------------------------------------------------------------------------


def central_differences(function: Callable[..., float], arrays: dict[str, Array]) -> dict[str, Array]:
    """Another derivative than the complex step: four points, an error of step^4/30 of the fifth derivative."""
    step = 1e-3
    result: dict[str, Array] = {}
    for name, array in arrays.items():
        result[name] = np.zeros(array.shape)
        for index in np.ndindex(*array.shape):
            total = 0.0
            for steps, factor in ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0)):
                moved = array.copy()
                moved[index] += steps * step
                total += factor * function(**{**arrays, name: moved})
            result[name][index] = total / (12.0 * step)
    return result


def agree(exact: dict[str, Array], differences: dict[str, Array]) -> None:
    assert list(exact) == list(differences)
    for name, gradient in exact.items():
        assert_allclose(gradient, differences[name], rtol=0, atol=1e-10, strict=True, err_msg=name)
        assert np.abs(gradient).max() > 1e-3, name


def test_complex_step_of_powers() -> None:
    arrays = {"x": np.array([2.0, -3.0]), "y": np.array(0.5)}
    got = oracle_gradients.complex_step(
        lambda x, y: (x**3 * y, x, y * NAN), arrays, (np.array([1.0, 10.0]), None, np.array(0.0))
    )
    close(got["x"], [6.0, 135.0])  # 3 x^2 y, times the cotangent
    close(got["y"], 8.0 - 270.0)


@pytest.mark.parametrize(
    ("options", "value", "logits"),
    [
        ({}, [0.25, 0.75], [-0.75, 0.75]),  # p (v - o), where o = 4
        ({"sinks": np.array([2.0 * math.log(2.0)])}, [0.125, 0.375], [-0.125, 1.125]),  # o = 2
        ({"keep": np.array([[False, True]]), "rate": 0.25}, [0.0, 1.0], [-1.25, 1.25]),  # o = 5 = 3/4 * 20/3
        ({"logsumexp_cotangent": rank4([2.0])}, [0.25, 0.75], [-0.25, 2.25]),  # and 2 p
        ({"visible": np.array([[True, False]])}, [1.0, 0.0], [0.0, 0.0]),
        ({"visible": np.zeros((1, 2), bool), "logsumexp_cotangent": rank4([INF])}, [0.0, 0.0], [0.0, 0.0]),
    ],
    ids=["plain", "sink", "dropout", "logsumexp", "masked", "empty"],
)
def test_gradients_by_hand(options: dict[str, Array], value: list[float], logits: list[float]) -> None:
    # Logits 0 and ln 3 from a query of 1: the gradient of a key is that of its logit, and so is that of a bias.
    got = oracle_gradients.gradients(
        rank4([[1.0]]), rank4([[0.0], [LN3]]), rank4([[1.0], [5.0]]), rank4([[1.0]]), bias=np.zeros((1, 2)), **options
    )
    assert list(got) == ["query", "key", "value", "bias", *(["sinks"] if "sinks" in options else [])]
    tolerance = {"rtol": 0, "atol": 1e-15, "strict": True}
    assert_allclose(got["value"], rank4(value)[..., None], **tolerance)
    assert_allclose(got["key"], rank4(logits)[..., None], **tolerance)
    assert_allclose(got["bias"], np.array([logits]), **tolerance)
    assert_allclose(got["query"], rank4([[LN3 * logits[1]]]), **tolerance)
    if "sinks" in options:
        assert_allclose(got["sinks"], np.array([-1.0]), **tolerance)  # 1/2 (0 - o)


SHAPE = (2, 4, 3, 5)  # batch, query heads, queries, keys


def random_arrays(seed: int) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]]]:
    rng = np.random.default_rng(seed)
    shapes = {"query": (2, 4, 3, 2), "key": (2, 2, 5, 2), "value": (2, 2, 5, 3), "output": (2, 4, 3, 3)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    arrays |= {"logsumexp": rng.standard_normal(SHAPE[:3]), "bias": rng.standard_normal((1, 4, 3, 5))}
    arrays["bias"][0, 1, :, 2] = -INF
    arrays["sinks"] = np.array([0.3, -INF, -0.7, 1.1])
    flags = {"visible": rng.random(SHAPE) < 0.6, "keep": rng.random(SHAPE) < 0.7}
    flags["visible"][:, :, 1] = False  # an empty row of every head
    return arrays, flags


OPTION_SETS: list[tuple[str, ...]] = [
    (),
    ("visible", "logsumexp"),
    ("bias", "softcap", "logsumexp"),
    ("sinks", "visible", "logsumexp"),
    ("keep", "scale", "logsumexp"),
    ("visible", "bias", "scale", "softcap", "sinks", "keep", "logsumexp"),
]


@pytest.mark.parametrize("used", OPTION_SETS, ids=lambda used: "-".join(used) or "plain")
def test_gradients_against_central_differences_of_the_scalar_oracle(used: tuple[str, ...]) -> None:
    given, flags = random_arrays(223)
    numbers = {"scale": -0.8, "softcap": 1.3}
    fixed: dict[str, object] = {name: numbers[name] for name in numbers if name in used}
    if "keep" in used:
        fixed["rate"] = 0.4
    arrays = {
        name: given[name] for name in ("query", "key", "value", "bias", "sinks") if name in used or name[0] in "qkv"
    }
    boolean = {name: flags[name] for name in flags if name in used}
    cotangent = given["logsumexp"] if "logsumexp" in used else None

    def by_index(array: Array) -> Callable[[int, int, int, int], float]:
        whole = np.broadcast_to(array, SHAPE)
        return lambda b, h, i, j: whole[b, h, i, j].item()

    def loss(bias: Array | None = None, **changed: Array) -> float:
        callables = {name: by_index(array) for name, array in boolean.items()}
        if bias is not None:
            callables["bias"] = by_index(bias)
        stages = oracle_scalar.attention_stages(**changed, **callables, **fixed)
        terms = (given["output"] * stages["output"]).ravel().tolist()
        if cotangent is not None:
            there = stages["logsumexp"] != -INF
            terms += (cotangent[there] * stages["logsumexp"][there]).tolist()
        return math.fsum(terms)

    rest = {name: arrays[name] for name in arrays if name not in ("query", "key", "value")}
    exact = oracle_gradients.gradients(
        given["query"],
        given["key"],
        given["value"],
        given["output"],
        logsumexp_cotangent=cotangent,
        **rest,
        **boolean,
        **fixed,
    )
    agree(exact, central_differences(loss, arrays))
    if "sinks" in used:
        assert exact["sinks"][1] == 0.0


def test_unread_entries_do_not_reach_gradients() -> None:
    given, flags = random_arrays(227)
    visible = flags["visible"].copy()
    visible[:, :, :, 4] = False
    keep = flags["keep"].copy()
    keep[:, :, :, 3] = False
    arrays = {name: given[name] for name in ("query", "key", "value", "bias", "sinks")}
    arrays["bias"][..., 0] = -INF
    poisoned = {name: array.copy() for name, array in arrays.items()}
    poisoned["key"][:, :, [0, 4]] = NAN  # hidden by the bias, and by the mask
    poisoned["value"][:, :, 3:] = INF  # hidden, and dropped
    poisoned["query"][:, :, 1] = -INF  # the empty row
    poisoned["bias"][:, :, :, 4] = NAN
    options = {"visible": visible, "keep": keep, "rate": 0.2, "logsumexp_cotangent": given["logsumexp"]}
    first, second = (
        oracle_gradients.gradients(*list(a.values())[:3], given["output"], bias=a["bias"], sinks=a["sinks"], **options)
        for a in (arrays, poisoned)
    )
    for name in arrays:
        assert_array_equal(first[name], second[name])
        assert np.isfinite(first[name]).all()
    assert_array_equal(first["value"][:, :, 3:], np.zeros((2, 2, 2, 3)))


def attend(*arrays: Array, bias: Array | None = None, **options: object) -> Array:
    """The output by the scalar oracle, with a bias of shape (Tq,Tk)."""
    shift = None if bias is None else lambda b, h, i, j: bias[i, j].item()
    return oracle_scalar.attention_stages(*arrays, bias=shift, **options)["output"]


MASK = np.array([[True, False, False], [True, True, False], [False, False, False]])
BY_HEAD = {"visible": lambda b, h, i, j: bool(MASK[i, j]), "softcap": 1.7}


def test_self_attention_gradients() -> None:
    rng = np.random.default_rng(229)
    shapes = {"inputs": (2, 3, 4), "query_weight": (4, 2), "key_weight": (4, 2), "value_weight": (4, 5), "bias": (3, 3)}
    arrays = {name: rng.standard_normal(shape) for name, shape in (shapes | {"sinks": (1,)}).items()}
    cotangent = rng.standard_normal((2, 3, 5))

    def loss(inputs: Array, query_weight: Array, key_weight: Array, value_weight: Array, **rest: Array) -> float:
        projected = [(inputs @ weight)[:, None] for weight in (query_weight, key_weight, value_weight)]
        return float((cotangent * attend(*projected, **rest, **BY_HEAD)[:, 0]).sum())

    exact = oracle_gradients.self_attention_gradients(**arrays, output_cotangent=cotangent, visible=MASK, softcap=1.7)
    agree(exact, central_differences(loss, arrays))

    # The last position is read by nobody and reads nothing: garbage in it stays out of the gradients of the weights.
    arrays["inputs"][:, 2] = NAN
    poisoned = oracle_gradients.self_attention_gradients(
        **arrays, output_cotangent=cotangent, visible=MASK, softcap=1.7
    )
    for name in arrays:
        assert_array_equal(poisoned[name], exact[name])


def test_key_value_attention_gradients() -> None:
    rng = np.random.default_rng(233)
    shapes = {"query": (2, 3), "keys": (2, 4, 3), "values": (2, 4, 5), "bias": (1, 4), "sinks": (1,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    cotangent = rng.standard_normal((2, 5))

    def loss(query: Array, keys: Array, values: Array, **rest: Array) -> float:
        return float((cotangent * attend(query[:, None, None], keys[:, None], values[:, None], **rest)[:, 0, 0]).sum())

    exact = oracle_gradients.key_value_attention_gradients(**arrays, output_cotangent=cotangent)
    agree(exact, central_differences(loss, arrays))


@pytest.mark.parametrize("with_biases", [True, False], ids=["biases", "no_biases"])
def test_multi_head_attention_gradients(with_biases: bool) -> None:
    # Four query heads of width 2 on two key/value heads, whose values have width 3.
    rng = np.random.default_rng(239)
    shapes = {"query": (2, 3, 3), "key": (2, 3, 2), "value": (2, 3, 4)}
    weights = {"query_weight": (3, 8), "key_weight": (2, 4), "value_weight": (4, 6), "output_weight": (12, 2)}
    biases = {"query_bias": (8,), "key_bias": (4,), "value_bias": (6,), "output_bias": (2,)}
    shapes |= weights | (biases if with_biases else {}) | {"bias": (3, 3), "sinks": (4,)}
    # Half a unit each: the tails of tanh, where higher derivatives are large, are not the subject.
    arrays = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}
    cotangent = rng.standard_normal((2, 3, 2))

    def loss(bias: Array, sinks: Array, **given: Array) -> float:
        columns = {n: given[n] @ given[f"{n}_weight"] + given.get(f"{n}_bias", 0.0) for n in ("query", "key", "value")}
        heads = [
            np.stack([columns[name][:, :, h * width : (h + 1) * width] for h in range(count)], axis=1)
            for name, count, width in (("query", 4, 2), ("key", 2, 2), ("value", 2, 3))
        ]
        output = attend(*heads, bias=bias, sinks=sinks, **BY_HEAD)
        together = np.concatenate([output[:, h] for h in range(4)], axis=-1)
        return float((cotangent * (together @ given["output_weight"] + given.get("output_bias", 0.0))).sum())

    exact = oracle_gradients.multi_head_attention_gradients(
        arrays["query"],
        arrays["key"],
        arrays["value"],
        {name: arrays.get(name) for name in weights | biases},
        cotangent,
        num_heads=4,
        num_kv_heads=2,
        bias=arrays["bias"],
        sinks=arrays["sinks"],
        visible=MASK,
        softcap=1.7,
    )
    agree(exact, central_differences(loss, arrays))


@pytest.mark.parametrize("pairing", ["half_split", "interleaved"])
@pytest.mark.parametrize("places", [(3,), (2, 3)], ids=["shared", "batch"])
def test_rotary_gradients(pairing: str, places: tuple[int, ...]) -> None:
    rng = np.random.default_rng(241)
    shapes = {"inputs": (2, 2, 3, 5), "positions": places, "frequencies": (2,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    cotangent = rng.standard_normal((2, 2, 3, 5))

    def loss(inputs: Array, positions: Array, frequencies: Array) -> float:
        options = {"pairing": pairing, "rotary_dim": 4, "frequencies": frequencies.tolist()}
        return math.fsum((cotangent * oracle_positions.rotary_embedding(inputs, positions, **options)).ravel().tolist())

    exact = oracle_gradients.rotary_embedding_gradients(**arrays, output_cotangent=cotangent, pairing=pairing)
    agree(exact, central_differences(loss, arrays))
    assert_array_equal(exact["inputs"][..., 4], cotangent[..., 4])


def test_gradients_of_the_leaves_of_a_bias() -> None:
    # Slopes and a table through one call: the bias they make is linear in them.
    given, flags = random_arrays(251)
    arrays = {"slopes": np.array([0.5, -0.25, 0.125, 1.0]), "table": np.random.default_rng(251).standard_normal((8, 4))}
    t5_options = {"bidirectional": True, "max_distance": 4, "offset": 2}

    def forward(slopes: Array, table: Array) -> tuple[Array, Array]:
        bias = np.zeros((4, 3, 5), dtype=np.complex128)
        for i, j in np.ndindex(3, 5):
            bucket = oracle_positions.relative_position_bucket(i, j, num_buckets=8, **t5_options)
            bias[:, i, j] = table[bucket] - slopes * abs(i + 2 - j)
        return oracle_gradients.attention(
            given["query"], given["key"], given["value"], bias=bias[None], visible=flags["visible"]
        )

    def loss(slopes: Array, table: Array) -> float:
        alibi = oracle_positions.alibi(heads=4, symmetric=True, offset=2, slopes=slopes)
        t5 = oracle_positions.relative_position_bias(table, **t5_options)
        visible = flags["visible"]
        stages = oracle_scalar.attention_stages(
            given["query"],
            given["key"],
            given["value"],
            visible=lambda b, h, i, j: bool(visible[b, h, i, j]),
            bias=lambda b, h, i, j: alibi(b, h, i, j) + t5(b, h, i, j),
        )
        return float((given["output"] * stages["output"]).sum())

    exact = oracle_gradients.complex_step(forward, arrays, (given["output"], None))
    agree(exact, central_differences(loss, arrays))

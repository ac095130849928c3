"""The reference's closed-form gradients against complex steps through the definition (`oracle_gradients`).

A complex step cancels nothing, so both sides are known to the rounding of a forward pass: 1e-13 of the largest entry.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import oracle_gradients
import oracle_positions
import pytest
from attention_cases import MASKS, Array, Dims, draw, draw_bias, draw_booleans, draw_values, offsets, pair_shapes
from comparisons import assert_close, assert_same_bits
from option_cases import visible_array

import attnspec.reference.attention as reference_attention
from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters, alibi, relative_position_bias

TOLERANCE = 1e-13
SMALL = Dims((2,), 4, 2, 3, 4, 2, 3)
BY_RANK = {
    2: SMALL._replace(batch=(), heads=1, kv_heads=1, has_heads=False),
    3: SMALL._replace(heads=1, kv_heads=1, has_heads=False),
    4: SMALL,
    5: SMALL._replace(batch=(2, 2), heads=2, kv_heads=1),
}


class Case(NamedTuple):
    """One attention to differentiate: its options, and which arrays it takes."""

    dims: Dims = SMALL
    mask: str = "none"
    bias: tuple[int, ...] | None = None
    sinks: bool = False
    rate: float | None = None
    """Of dropout; None: no dropout."""
    logsumexp: bool = False
    """Whether the logsumexp has a cotangent, too."""
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to

    @property
    def arrays(self) -> dict[str, Array]:
        """Draw what there are gradients of."""
        arrays = dict(zip(("query", "key", "value"), draw(self.dims), strict=True))
        if self.bias is not None:
            arrays["bias"] = draw_bias(self.bias, masked=0.2 if math.prod(self.bias) > 4 else 0.0)
        if self.sinks:
            sinks = np.resize([0.5, -np.inf, 3.0, -2.0], self.dims.heads)
            arrays["sinks"] = sinks if self.dims.has_heads else np.array(sinks[0])
        return arrays

    @property
    def keep(self) -> Any:
        """Draw what dropout keeps."""
        return None if self.rate is None else draw_booleans(self.dims.pairs, seed=6)

    @property
    def given(self) -> dict[str, Any]:
        """What the reference takes beside the arrays."""
        dropout = None if self.rate is None else Dropout(self.rate, self.keep)
        return {"mask": MASKS[self.mask].make(self.dims), "dropout": dropout, **self.options}

    @property
    def cotangents(self) -> tuple[Array, Array | None]:
        """Draw those of output and logsumexp."""
        rows, rng = self.dims.pairs[:-1], np.random.default_rng(19)
        output = draw_values((*rows, self.dims.value_dim), rng)
        return output, draw_values(rows, rng) if self.logsumexp else None


def by_complex_step(case: Case, leaves: dict[str, Array] | None = None, bias_of: Any = None) -> dict[str, Array]:
    """Differentiate a case, and by the leaves of `bias_of(**leaves)`, a bias over the pairs of rank 4."""
    dims, keep = case.dims, case.keep
    n, (heads, kv_heads), (queries, keys) = math.prod(dims.batch), dims[1:3], dims[3:5]
    whole = (n, heads, queries, keys)
    options = {
        "visible": visible_array(dims, case.mask).reshape(whole),
        "keep": None if keep is None else keep.reshape(whole),
        "rate": case.rate or 0.0,
        **case.options,
    }

    def forward(query: Any, key: Any, value: Any, bias: Any = None, sinks: Any = None, **given: Any) -> Any:
        added = None if bias is None else np.broadcast_to(bias, dims.pairs).reshape(whole)
        if bias_of is not None:
            added = bias_of(**given) if added is None else added + bias_of(**given)
        output, logsumexp = oracle_gradients.attention(
            query.reshape(n, heads, queries, dims.head_dim),
            key.reshape(n, kv_heads, keys, dims.head_dim),
            value.reshape(n, kv_heads, keys, dims.value_dim),
            bias=added,
            sinks=None if sinks is None else sinks.reshape(heads),
            **options,
        )
        return output.reshape(*dims.pairs[:-1], dims.value_dim), logsumexp.reshape(dims.pairs[:-1])

    arrays = {**case.arrays, **(leaves or {})}
    cotangent, pull = case.cotangents
    if pull is not None:
        pull = np.where(np.isneginf(forward(**arrays)[1].real), 0.0, pull)
    return oracle_gradients.complex_step(forward, arrays, (cotangent, pull))


EVERYTHING = {"options": {"scale": -0.7, "softcap": 2.5}, "sinks": True, "rate": 0.3, "logsumexp": True}


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for mask, case in MASKS.items():
        dims = SMALL._replace(queries=4) if case.square else SMALL._replace(keys=5)
        cases[f"mask-{mask}"] = Case(dims, mask)
    for mask in ("none", "and_queries", "array", "segments_batch", "nothing"):
        dims = SMALL._replace(keys=5)
        cases[f"everything-{mask}"] = Case(dims, mask, dims.pairs, **EVERYTHING)
    for rank, dims in BY_RANK.items():
        cases[f"rank{rank}"] = Case(dims, "causal_batch")
        cases[f"rank{rank}-everything"] = Case(dims, "causal_batch", dims.pairs, **EVERYTHING)
        for shape in pair_shapes(dims) if rank < 5 else [dims.pairs[-2:], (1, 2, 1, 3, 1), (2, 1, 2, 1, 4)]:
            cases[f"rank{rank}-bias-{'x'.join(map(str, shape))}"] = Case(dims, "causal_end", shape)
    for heads, kv_heads in ((1, 1), (3, 3), (3, 1), (6, 2)):
        dims = SMALL._replace(heads=heads, kv_heads=kv_heads)
        cases[f"heads{heads}_{kv_heads}"] = Case(dims, "causal_end", dims.pairs, sinks=True, logsumexp=True)
    for scale in (0.0, 2.5, -0.7):
        cases[f"scale{scale}"] = Case(options={"scale": scale})
    for softcap in (0.5, 5.0, 1e6):
        cases[f"softcap{softcap}"] = Case(options={"softcap": softcap})
    for rate in (0.0, 0.5, 0.9):
        cases[f"dropout{rate}"] = Case(rate=rate)
    cases["sinks"] = Case(sinks=True)
    cases["sinks-nothing"] = Case(mask="nothing", sinks=True, logsumexp=True)
    cases["logsumexp"] = Case(logsumexp=True)
    cases["logsumexp-empty_rows"] = Case(SMALL._replace(keys=5), "and_queries", logsumexp=True)
    for label, sizes in {"keys": {"keys": 0}, "queries": {"queries": 0}, "values": {"value_dim": 0}}.items():
        dims = SMALL._replace(**sizes)
        cases[f"no_{label}"] = Case(dims, "causal_end", dims.pairs, **EVERYTHING)
    cases["no_batch"] = Case(SMALL._replace(batch=(0,)))
    return cases


CASES = _cases()


def _same(actual: Any, expected: dict[str, Array], names: dict[str, str] | None = None) -> None:
    """Compare by name; each with the shape of its array, and against the largest of all gradients."""
    largest = max([np.abs(gradient).max(initial=0.0) for gradient in expected.values()])
    for name, gradient in expected.items():
        given = getattr(actual, (names or {}).get(name, name))
        assert given.dtype == np.float64
        assert given.shape == gradient.shape, name
        assert np.abs(given - gradient).max(initial=0.0) <= TOLERANCE * largest, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_dot_product_attention(case: Case) -> None:
    cotangent, pull = case.cotangents
    actual = reference.dot_product_attention_vjp(
        **case.arrays, output_cotangent=cotangent, logsumexp_cotangent=pull, **case.given
    )
    assert actual._fields == ("query", "key", "value", "bias", "sinks")
    _same(actual, by_complex_step(case))
    for name in ("bias", "sinks"):
        assert (getattr(actual, name) is None) == (name not in case.arrays)


@pytest.mark.parametrize("elements", [1, 100], ids=["row_by_row", "two_rows"])
@pytest.mark.parametrize(
    "case", ["rank4-everything", "rank5-everything", "rank4-bias-1x4x1x4", "everything-and_queries"]
)
def test_blocks_do_not_change_the_gradients(monkeypatch: pytest.MonkeyPatch, case: str, elements: int) -> None:
    chosen = CASES[case]
    cotangent, pull = chosen.cotangents
    given = {"output_cotangent": cotangent, "logsumexp_cotangent": pull, **chosen.arrays, **chosen.given}
    whole = reference.dot_product_attention_vjp(**given)
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    _same(reference.dot_product_attention_vjp(**given), {k: g for k, g in whole._asdict().items() if g is not None})


# --- bias objects: the gradient is an object of the same structure

DISTANCE = np.arange(3)[:, None] - np.arange(4)
SLOPES = np.array([0.5, -0.25, 1.0, 0.1])
TABLE = np.random.default_rng(8).standard_normal((6, 4))


@pytest.mark.parametrize("elements", [1, 2**21], ids=["row_by_row", "whole"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "signed"])
def test_alibi_slopes(monkeypatch: pytest.MonkeyPatch, symmetric: bool, elements: int) -> None:
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    case, place = Case(mask="causal_batch"), offsets(SMALL)
    distance = DISTANCE + place[:, None, None, None]
    distance = np.abs(distance) if symmetric else distance
    expected = by_complex_step(case, {"slopes": SLOPES}, lambda slopes: -slopes[:, None, None] * distance)
    bias = alibi(SLOPES, symmetric=symmetric, offset=place)
    actual = reference.dot_product_attention_vjp(
        **case.arrays, output_cotangent=case.cotangents[0], bias=bias, **case.given
    )
    slopes = expected.pop("slopes")
    _same(actual, expected)
    assert type(actual.bias) is type(bias)
    assert_close(actual.bias.slopes, slopes, TOLERANCE)


@pytest.mark.parametrize("elements", [1, 2**21], ids=["row_by_row", "whole"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_table_of_relative_positions(monkeypatch: pytest.MonkeyPatch, bidirectional: bool, elements: int) -> None:
    monkeypatch.setattr(reference_attention, "BLOCK_ELEMENTS", elements)
    case = Case()
    rows = np.array(
        [
            [
                oracle_positions.relative_position_bucket(
                    i, j, num_buckets=6, bidirectional=bidirectional, max_distance=5, offset=1
                )
                for j in range(4)
            ]
            for i in range(3)
        ]
    )
    expected = by_complex_step(case, {"table": TABLE}, lambda table: np.moveaxis(table[rows], -1, 0)[None])
    bias = relative_position_bias(TABLE, bidirectional=bidirectional, max_distance=5, offset=1)
    actual = reference.dot_product_attention_vjp(**case.arrays, output_cotangent=case.cotangents[0], bias=bias)
    table = expected.pop("table")
    _same(actual, expected)
    assert_close(actual.bias.table, table, TOLERANCE)
    assert (actual.bias.table[~np.isin(np.arange(6), rows)] == 0.0).all()


def test_a_sum_of_everything() -> None:
    case = Case(mask="array", bias=(1, 4), sinks=True, rate=0.25, logsumexp=True)
    whole = draw_bias(SMALL.pairs, seed=3, masked=0.1)
    expected = by_complex_step(
        case,
        {"slopes": SLOPES, "whole": whole},
        lambda slopes, whole: whole - slopes[:, None, None] * np.abs(DISTANCE),
    )
    arrays = case.arrays
    bias = arrays.pop("bias") + alibi(SLOPES, symmetric=True, offset=0) + whole
    cotangent, pull = case.cotangents
    actual = reference.dot_product_attention_vjp(
        **arrays, output_cotangent=cotangent, logsumexp_cotangent=pull, bias=bias, **case.given
    )
    found = {
        "bias": actual.bias.left.left.array,
        "slopes": actual.bias.left.right.slopes,
        "whole": actual.bias.right.array,
    }
    for name, gradient in found.items():
        assert_close(gradient, expected.pop(name), TOLERANCE)
    _same(actual, expected)


def test_standard_slopes_have_no_gradient() -> None:
    case = Case()
    actual = reference.dot_product_attention_vjp(
        **case.arrays, output_cotangent=case.cotangents[0], bias=alibi(symmetric=True, offset=0)
    )
    assert actual.bias.slopes is None


# --- operations with projections


def _core(dims: Dims, kind: str, masked: str) -> tuple[dict[str, Array], dict[str, Any], dict[str, Any]]:
    """Give arrays to differentiate, the options of an operation with such a core, and what they mean to the oracle."""
    if kind == "plain":
        return {}, {}, {}
    mask, whole = masked if kind == "masked" else "array", (dims.batch[0], *dims.pairs[1:])
    given = {"mask": MASKS[mask].make(dims)}
    meant = {"visible": visible_array(dims, mask).reshape(whole)}
    if kind == "masked":
        return {}, given, meant
    arrays = {"bias": draw_bias(dims.pairs, masked=0.1), "sinks": np.linspace(-1.0, 1.0, dims.heads)}
    keep, numbers = draw_booleans(dims.pairs, seed=6), {"scale": -0.7, "softcap": 2.5}
    return arrays, given | {"dropout": Dropout(0.3, keep)} | numbers, meant | {"keep": keep, "rate": 0.3} | numbers


KINDS = ["plain", "masked", "everything"]


@pytest.mark.parametrize("kind", KINDS)
def test_self_attention(kind: str) -> None:
    dims, rng = Dims((2,), 1, 1, 5, 5, 2, 3), np.random.default_rng(21)
    arrays, given, meant = _core(dims, kind, "and_queries")
    operands = [rng.standard_normal(shape) for shape in ((2, 5, 4), (4, 2), (4, 2), (4, 3))]
    cotangent = draw_values((2, 5, 3), rng)
    actual = reference.self_attention_vjp(*operands, cotangent, **arrays, **given)
    assert actual._fields == ("inputs", "query_weight", "key_weight", "value_weight", "bias", "sinks")
    _same(actual, oracle_gradients.self_attention_gradients(*operands, cotangent, **arrays, **meant))


@pytest.mark.parametrize("kind", KINDS)
def test_key_value_attention(kind: str) -> None:
    dims, rng = Dims((3,), 1, 1, 1, 5, 2, 3), np.random.default_rng(22)
    arrays, given, meant = _core(dims, kind, "keys_batch")
    query, keys, values = draw(dims)
    operands = query[:, 0, 0], keys[:, 0], values[:, 0]
    cotangent = draw_values((3, 3), rng)
    actual = reference.key_value_attention_vjp(*operands, cotangent, **arrays, **given)
    expected = oracle_gradients.key_value_attention_gradients(*operands, cotangent, **arrays, **meant)
    _same(actual, expected, {"keys": "key", "values": "value"})


@pytest.mark.parametrize("biases", [True, False], ids=["biases", "no_biases"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, None), (4, 2), (3, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_multi_head_attention(kind: str, heads: int, kv_heads: int | None, biases: bool) -> None:
    kv, rng = kv_heads or heads, np.random.default_rng(23)
    arrays, given, meant = _core(Dims((2,), heads, kv, 3, 5, 2, 2), kind, "and_queries")
    sizes = {"query": (4, 2 * heads), "key": (3, 2 * kv), "value": (5, 2 * kv), "output": (2 * heads, 3)}
    parameters = {f"{part}_weight": rng.standard_normal(size) for part, size in sizes.items()}
    if biases:
        parameters |= {f"{part}_bias": rng.standard_normal(size[1]) for part, size in sizes.items()}
    operands = [rng.standard_normal((2, length, size)) for length, size in ((3, 4), (5, 3), (5, 5))]
    cotangent = draw_values((2, 3, 3), rng)
    numbers = {"num_heads": heads, "num_kv_heads": kv_heads}
    actual = reference.multi_head_attention_vjp(
        *operands, reference.MultiHeadParameters(**parameters), cotangent, **numbers, **arrays, **given
    )
    assert actual._fields == ("query", "key", "value", "parameters", "bias", "sinks")
    expected = oracle_gradients.multi_head_attention_gradients(
        *operands, parameters, cotangent, **numbers, **arrays, **meant
    )
    _same(actual.parameters, {name: expected.pop(name) for name in parameters})
    _same(actual, expected)
    assert biases or set(actual.parameters[4:]) == {None}


@pytest.mark.parametrize("pairing", ["half_split", "interleaved"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 2, 3, 4), (2, 1, 2, 3, 4)], ids=str)
def test_rotary_embedding(shape: tuple[int, ...], pairing: str) -> None:
    rng, batch = np.random.default_rng(24), shape[:-3] if len(shape) > 3 else shape[:-2]
    inputs, cotangent = rng.standard_normal(shape), rng.standard_normal(shape)
    for positions in (np.arange(3.0) * 7, rng.integers(-9, 90, (*batch, 3)).astype(np.float64)):
        for options, turns in (
            ({}, [1.0, 0.01]),
            ({"base": 4.0}, [1.0, 0.5]),
            ({"frequencies": [0.3, -2.0]}, [0.3, -2.0]),
        ):
            expected = oracle_gradients.rotary_embedding_gradients(
                inputs, positions, np.array(turns), cotangent, pairing=pairing
            )["inputs"]
            actual = reference.rotary_embedding_vjp(positions, cotangent, pairing=pairing, **options)
            assert_close(actual, expected, TOLERANCE)
        partial = reference.rotary_embedding_vjp(positions, cotangent, pairing=pairing, rotary_dim=2)
        assert_same_bits(partial[..., 2:], cotangent[..., 2:])


# --- what is not read has no gradient, and lends none


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("case", ["everything-and_queries", "everything-nothing"])
def test_unread_poison_changes_no_gradient(case: str, poison: float) -> None:
    chosen = CASES[case]
    cotangent, pull = chosen.cotangents
    arrays, given = chosen.arrays, {"output_cotangent": cotangent, "logsumexp_cotangent": pull, **chosen.given}
    clean = reference.dot_product_attention_vjp(**arrays, **given)
    allowed = visible_array(chosen.dims, chosen.mask)
    visible = allowed & (arrays["bias"] != -np.inf)
    unread = ~visible.reshape(2, 2, -1, 5).any(axis=2)
    arrays["key"][unread], arrays["value"][unread], arrays["query"][~visible.any(-1)] = poison, poison, poison
    arrays["bias"][~allowed] = poison
    with np.errstate(over="ignore", invalid="ignore"):
        dirty = reference.dot_product_attention_vjp(**arrays, **given)
    assert unread.any()
    for one, other in zip(dirty, clean, strict=True):
        assert np.isfinite(one).all()
        assert_same_bits(one, other)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_dropped_value_is_not_read_backward(poison: float) -> None:
    case = Case(rate=0.5)
    arrays, keep = case.arrays, np.ones((3, 4), bool)
    keep[:, 2] = False
    given = {"output_cotangent": case.cotangents[0], "dropout": Dropout(0.5, keep)}
    clean = reference.dot_product_attention_vjp(**arrays, **given)
    arrays["value"][:, :, 2] = poison
    for one, other in zip(reference.dot_product_attention_vjp(**arrays, **given)[:3], clean[:3], strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_visible_value_that_is_not_finite_is_a_constant(poison: float) -> None:
    """It is added to its own component of the output, whatever the weights: all else is as if it were 0."""
    case = Case()
    arrays, cotangent = case.arrays, case.cotangents[0]
    arrays["value"][1, 0, 2, 1] = 0.0
    expected = oracle_gradients.gradients(**arrays, output_cotangent=cotangent)
    expected["value"][1, 0, 2, 1] = 0.0
    arrays["value"][1, 0, 2, 1] = poison
    _same(reference.dot_product_attention_vjp(**arrays, output_cotangent=cotangent), expected)


def test_a_row_that_is_nan_gives_no_gradient_to_the_output_bias() -> None:
    """As for every projection: what is not finite enters as a constant (S11)."""
    rng = np.random.default_rng(3)
    query, memory = rng.standard_normal((3, 2)), rng.standard_normal((4, 2))
    weights = MultiHeadParameters(*(np.eye(2) for _ in range(4)), output_bias=np.zeros(2))
    cotangent = rng.standard_normal((3, 2))
    query[0, 1] = np.nan
    gradients = reference.multi_head_attention_vjp(query, memory, memory, weights, cotangent, num_heads=1)
    np.testing.assert_allclose(gradients.parameters.output_bias, cotangent[1:].sum(axis=0), rtol=1e-14)

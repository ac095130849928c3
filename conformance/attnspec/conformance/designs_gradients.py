"""The designs that hunt in gradients: of every tensor, through every option, and where there must be none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import Mask, alibi, causal, key_lengths, query_lengths, segments, sliding_window

from .design import (
    ALL,
    DECODE,
    GROUPED,
    NO_HEADS,
    SQUARE,
    SQUARE_HEADS,
    TALL,
    TILE,
    WIDE,
    Design,
    with_poison,
)
from .recipes import Array, Shape, peaked, projections

Make = Callable[[np.random.Generator], dict[str, Array]]


_OTHER_SHAPES = ("plain", "multi-query", "decode", "rank-3", "tile", "window", "bias-full", "sinks-empty")


def gradient_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    yield from _core()
    yield from _unread()
    yield from _partial()
    yield from _projected()


def _numbers(*shape: int, center: float = 0.0, spread: float = 1.0) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.asarray(center + spread * rng.standard_normal(shape))


def _tensors(shape: Shape, *, logsumexp: bool = False, **extra: Callable[[np.random.Generator], Array]) -> Make:
    """Return what makes peaked tensors, others by name, and the cotangents."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, shape) | {name: draw(rng) for name, draw in extra.items()}
        rows = shape.query_shape()[:-1]
        tensors["output_cotangent"] = rng.standard_normal((*rows, shape.value_dim))
        if logsumexp:
            tensors["logsumexp_cotangent"] = rng.standard_normal(rows)
        return tensors

    return make


def _core() -> Iterator[Design]:
    def holes(rng: np.random.Generator) -> Array:
        array = 2.0 * rng.standard_normal((3, 1, 5, 11))
        array[rng.random(array.shape) < 0.4] = -np.inf
        array[0, 0, 3] = -np.inf
        return array

    def kept(rng: np.random.Generator) -> Array:
        return np.asarray(rng.random((3, 6, 5, 11)) < 0.7)

    rows: tuple[tuple[str, tuple[str, ...], Make, Mask | None, dict[str, Any], str], ...] = (
        ("plain", ("S2",), _tensors(SQUARE), None, {}, "queries, keys and values; the scale belongs to both factors"),
        (
            "grouped",
            ("S12",),
            _tensors(GROUPED),
            None,
            {},
            "the gradients of a key/value head are summed over its query heads",
        ),
        ("multi-query", ("S12",), _tensors(TALL), None, {}, "one key/value head, summed over all query heads"),
        ("decode", ("S1",), _tensors(DECODE), key_lengths([19, 4, 11]), {}, "one query over padded keys"),
        ("rank-3", ("S1",), _tensors(NO_HEADS), None, {}, "no head axis"),
        ("tile", ("S7",), _tensors(TILE), causal(), {}, "causal over a tile boundary: later queries alone reach a key"),
        (
            "window",
            ("S6", "S7"),
            _tensors(SQUARE),
            causal() & sliding_window(left=2),
            {},
            "a window: both edges, seen from the keys",
        ),
        (
            "segments",
            ("S9",),
            _tensors(GROUPED),
            segments([1, 1, 2, 2, 2], [1, 2, 1, 2, 2, 1, 1, 2, 3, 1, 2]),
            {},
            "packed sequences; a key of a segment without queries has no gradient",
        ),
        (
            "scale-negative",
            ("S2",),
            _tensors(GROUPED),
            None,
            {"scale": -0.5},
            "the scale and its sign, in both factors",
        ),
        (
            "softcap",
            ("S3",),
            _tensors(GROUPED),
            causal("end"),
            {"softcap": 1.5},
            "the softcap's own derivative, 1 − tanh²",
        ),
        (
            "bias-heads",
            ("S5",),
            _tensors(GROUPED, bias=_numbers(1, 6, 5, 11, spread=2.0)),
            None,
            {},
            "a bias for each head: summed over the batch",
        ),
        (
            "bias-keys",
            ("S5",),
            _tensors(GROUPED, bias=_numbers(3, 1, 1, 11, spread=2.0)),
            None,
            {"softcap": 2.0},
            "a bias over keys alone: summed over heads and queries, not through the softcap",
        ),
        (
            "bias-full",
            ("S5",),
            _tensors(SQUARE_HEADS, bias=_numbers(2, 5, 5, 5, spread=2.0)),
            None,
            {},
            "S = H = T: no axis of the bias's gradient may be swapped",
        ),
        (
            "bias-minus-infinity",
            ("S5", "S10"),
            _tensors(GROUPED, bias=holes),
            None,
            {},
            "−inf in a bias: no gradient there, and none from a row of it",
        ),
        (
            "alibi",
            ("S5",),
            _tensors(GROUPED),
            causal("end"),
            {"bias": alibi(symmetric=True, offset="end")},
            "beside a bias object, which has none here",
        ),
        (
            "sinks",
            ("S13",),
            _tensors(GROUPED, sinks=_numbers(6, center=1.0)),
            None,
            {},
            "the sink's own gradient, and its share in all others",
        ),
        (
            "sinks-empty",
            ("S10", "S13"),
            _tensors(TALL, sinks=_numbers(4)),
            causal("end"),
            {},
            "an empty row with a sink gives no gradient, to nobody",
        ),
        (
            "dropout",
            ("S14",),
            _tensors(GROUPED, keep=kept),
            None,
            {"dropout": 0.3},
            "what is kept, and 1 / (1 − rate), in the values' gradient and in the weights'",
        ),
    )
    for name, clauses, make, mask, options, hunts in rows:
        features = tuple(option for option in ("sinks", "dropout") if option in name)
        yield Design(
            f"gradient-{name}",
            clauses,
            f"gradients: {hunts}",
            make,
            "peaked",
            direction="backward",
            mask=mask,
            # Half precisions meet every option at one shape: another shape rounds no differently.
            dtypes=WIDE if name in _OTHER_SHAPES else ALL,
            features=("gradient", *features),
            **options,
        )


def _unread() -> Iterator[Design]:
    mask = key_lengths([11, 0, 6]) & query_lengths([5, 5, 3])
    yield Design(
        "gradient-empty",
        ("S8", "S10"),
        "gradients: padding, and an element without any key: exactly 0, not NaN",
        _tensors(GROUPED),
        "peaked",
        direction="backward",
        mask=mask,
        features=("gradient", "empty_rows"),
    )
    for kind, poison in (("nan", np.nan), ("inf", np.inf)):

        def make(rng: np.random.Generator, poison: float = poison) -> dict[str, Array]:
            return with_poison(_tensors(GROUPED)(rng), mask, poison)

        yield Design(
            f"poison-{kind}-gradient",
            ("S10", "S11"),
            f"gradients: unread entries hold {poison:g}",
            make,
            "poisoned",
            direction="backward",
            mask=mask,
            twin="gradient-empty",
            features=("gradient", "empty_rows", "poison"),
        )


def _partial() -> Iterator[Design]:
    for name, shape, mask, hunts in (
        ("logsumexp", GROUPED, None, "through the logsumexp as well as through the output"),
        ("logsumexp-empty", TALL, causal("end"), "through the logsumexp, which is −∞ for empty rows"),
    ):
        yield Design(
            f"gradient-{name}",
            ("S10", "S15") if mask is not None else ("S15",),
            f"gradients: {hunts}",
            _tensors(shape, logsumexp=True),
            "peaked",
            operation="attention_with_logsumexp",
            direction="backward",
            mask=mask,
            features=("gradient", "logsumexp"),
        )


def _projected() -> Iterator[Design]:
    def self_attention(rng: np.random.Generator) -> dict[str, Array]:
        weights = {"query_weight": projections(rng, 7, 5), "key_weight": projections(rng, 7, 5)}
        return {
            "inputs": 1.7 * rng.standard_normal((3, 5, 7)),
            **weights,
            "value_weight": projections(rng, 7, 3),
            "output_cotangent": rng.standard_normal((3, 5, 3)),
        }

    def memory(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, Shape((3,), 0, 0, 1, 3, 5, 3))
        return {
            "query": tensors["query"][:, 0],
            "keys": tensors["key"],
            "values": tensors["value"],
            "output_cotangent": rng.standard_normal((3, 3)),
        }

    def multi_head(rng: np.random.Generator) -> dict[str, Array]:
        columns, sizes = {"query": 4 * 3, "key": 2 * 3, "value": 2 * 2}, {"query": 12, "key": 10, "value": 9}
        lengths = {"query": 5, "key": 7, "value": 7}
        tensors = {part: 1.5 * rng.standard_normal((2, lengths[part], sizes[part])) for part in sizes}
        weights = {f"{part}_weight": projections(rng, sizes[part], columns[part]) for part in sizes}
        biases = {f"{part}_bias": rng.standard_normal(columns[part]) for part in sizes}
        return {
            **tensors,
            **weights,
            "output_weight": projections(rng, 4 * 2, 11),
            **biases,
            "output_bias": rng.standard_normal(11),
            "output_cotangent": rng.standard_normal((2, 5, 11)),
        }

    def turned(rng: np.random.Generator) -> dict[str, Array]:
        shape = (2, 3, 7, 8)
        return {
            "inputs": 1.5 * rng.standard_normal(shape),
            "positions": np.arange(7) + 5,
            "output_cotangent": rng.standard_normal(shape),
        }

    rows: tuple[tuple[str, str, tuple[str, ...], Make, Mask | None, dict[str, Any], str], ...] = (
        (
            "self-attention",
            "self_attention",
            ("S1", "S2"),
            self_attention,
            causal(),
            {},
            "the inputs enter three times, and their gradients add up",
        ),
        ("key-value", "key_value_attention", ("S1", "S2"), memory, None, {}, "one query for each memory, B = S"),
        (
            "multi-head",
            "multi_head_attention",
            ("S1", "S2", "S12"),
            multi_head,
            causal("end") & key_lengths([7, 4]),
            {"num_heads": 4, "num_kv_heads": 2},
            "all weights and biases of grouped heads, E ≠ E_k ≠ E_v",
        ),
        (
            "rotary-half-split",
            "rotary_embedding",
            ("S21",),
            turned,
            None,
            {"pairing": "half_split", "base": None, "rotary_dim": 6},
            "the turn back, in pairs (c, c + R/2)",
        ),
        (
            "rotary-interleaved",
            "rotary_embedding",
            ("S21",),
            turned,
            None,
            {"pairing": "interleaved", "base": None, "rotary_dim": None},
            "the turn back, in pairs (2c, 2c + 1)",
        ),
    )
    for name, operation, clauses, make, mask, numbers, hunts in rows:
        yield Design(
            f"gradient-{name}",
            clauses,
            f"gradients: {hunts}",
            make,
            "projected",
            operation=operation,
            direction="backward",
            mask=mask,
            numbers=numbers,
            features=("gradient",),
        )

"""The designs that hunt in segments, chunks, prefixes, bias objects, sinks, dropout and partial results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import (
    Bias,
    Mask,
    alibi,
    causal,
    chunked,
    key_lengths,
    prefix,
    relative_position_bias,
    segments,
    sliding_window,
)
from attnspec.reference import attention_with_logsumexp

from .design import (
    DECODE,
    GROUPED,
    LONG,
    NO_HEADS,
    SQUARE,
    TALL,
    TILE,
    WIDE,
    WIDE_TILE,
    Design,
    peaked_tensors,
)
from .recipes import Array, Shape, peaked

Make = Callable[[np.random.Generator], dict[str, Array]]


def option_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    yield from _masks()
    yield from _bias_objects()
    yield from _sinks()
    yield from _dropout()
    yield from _partial_results()


def _masks() -> Iterator[Design]:
    packed = [[0, 0, 1, 1, 1, 2, 2], [5, 5, 5, 5, 3, 3, 3]]
    rows: tuple[tuple[str, Shape, tuple[str, ...], Mask, str], ...] = (
        ("segments", SQUARE, ("S9",), segments(packed, packed), "sequences packed differently in each batch element"),
        (
            "segments-cross",
            GROUPED,
            ("S9",),
            segments([7, 7, -1, 4, 4], [4, 7, 7, 4, -1, 7, -1, 4, 4, 7, -1]),
            "ids that do not rise, shared by the batch, other ids for queries than for keys",
        ),
        (
            "segments-causal",
            SQUARE,
            ("S6", "S7", "S9"),
            causal() & segments(packed, packed),
            "packed and causal: neither is lost beside the other",
        ),
        (
            "segments-empty",
            GROUPED,
            ("S9", "S10"),
            segments([1, 2, 2, 9, 1], [1, 1, 1, 2, 2, 2, 3, 3, 1, 2, 2]),
            "a query whose segment no key has: an empty row",
        ),
        ("prefix", SQUARE, ("S7", "S8"), prefix([4, 0]), "a bidirectional prefix, and a causal rest"),
        ("prefix-end", GROUPED, ("S7", "S8"), prefix([9, 2, 0], "end"), "a prefix beyond and before the diagonal"),
        ("chunked", TILE, ("S7",), chunked(8), "chunks of 8: both edges of each"),
        ("chunked-causal", TILE, ("S6", "S7"), causal() & chunked(16), "chunks with a causal mask inside each"),
        ("chunked-end", GROUPED, ("S7",), chunked(4, "end"), "chunks of key positions, not of query indices"),
        (
            "chunked-offset-batch",
            GROUPED,
            ("S7",),
            chunked(3, [-2, 0, 5]),
            "chunks below position 0: division rounds down, not towards 0",
        ),
        (
            "cache-append",
            GROUPED,
            ("S6", "S7", "S8"),
            causal([2, 6, 0]) & key_lengths([7, 11, 5]),
            "several tokens appended to caches of different fill",
        ),
        (
            "cache-window",
            DECODE,
            ("S6", "S7", "S8"),
            causal([4, 18, 11]) & sliding_window(left=5, offset=[4, 18, 11]) & key_lengths([5, 19, 12]),
            "decoding with a window over caches of different fill",
        ),
        (
            "mask-combination",
            SQUARE,
            ("S6", "S7", "S9"),
            (segments(packed, packed) | prefix([1, 2])) & ~sliding_window(0, 0),
            "or, and, not together",
        ),
    )
    for name, shape, clauses, mask, hunts in rows:
        features = ("mask", "segments") if "segments" in name or name == "mask-combination" else ("mask",)
        yield Design(name, clauses, hunts, peaked_tensors(shape), "peaked", mask=mask, features=features)


def _bias_objects() -> Iterator[Design]:
    eighths = np.random.default_rng(23)

    def table(buckets: int, heads: int) -> list[list[float]]:
        # Numbers that every dtype holds exactly: rounding is not what is hunted here.
        return [[float(number) / 8 for number in row] for row in eighths.integers(-24, 25, (buckets, heads))]

    rows: tuple[tuple[str, Shape, tuple[str, ...], Bias, Mask | None, str], ...] = (
        (
            "alibi",
            GROUPED,
            ("S5", "S7"),
            alibi(symmetric=True, offset="end"),
            None,
            "slopes of 6 heads, which is no power of two; distances from shifted positions",
        ),
        (
            "alibi-causal",
            TALL,
            ("S5", "S6", "S7"),
            alibi(symmetric=False, offset="end"),
            causal("end"),
            "the signed distance beside a causal mask, Tq > Tk",
        ),
        (
            "alibi-signed",
            SQUARE,
            ("S5", "S7"),
            alibi([0.5, 0.125, 1.0], symmetric=False),
            None,
            "the signed distance without a causal mask: it rises towards later keys; given slopes",
        ),
        (
            "alibi-cache",
            DECODE,
            ("S5", "S6", "S7"),
            alibi(symmetric=True, offset=[4, 18, 11]),
            causal([4, 18, 11]),
            "distances in caches of different fill",
        ),
        (
            "relative-position",
            GROUPED,
            ("S5", "S7"),
            relative_position_bias(table(8, 6), bidirectional=True, max_distance=9, offset="end"),
            None,
            "buckets of both directions; their edges, and the sign of the distance",
        ),
        (
            "relative-position-causal",
            TALL,
            ("S5", "S7"),
            relative_position_bias(table(8, 4), bidirectional=False, max_distance=12, offset=0),
            None,
            "buckets of one direction: all later keys share bucket 0",
        ),
        (
            "relative-position-long",
            LONG,
            ("S5", "S7"),
            relative_position_bias(table(32, 1), bidirectional=True, max_distance=128),
            None,
            "32 buckets to distance 128, as in T5: the logarithmic edges at 16, 32 and 64",
        ),
        (
            "bias-sum",
            SQUARE,
            ("S5", "S6"),
            alibi(symmetric=True) + relative_position_bias(table(6, 3), bidirectional=False, max_distance=5),
            causal(),
            "two biases added, neither lost",
        ),
    )
    for name, shape, clauses, bias, mask, hunts in rows:
        yield Design(
            name, clauses, hunts, peaked_tensors(shape), "peaked", bias=bias, mask=mask, features=("bias_object",)
        )


def _numbers(*shape: int, center: float = 0.0, spread: float = 1.0) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.asarray(center + spread * rng.standard_normal(shape))


def _sinks() -> Iterator[Design]:
    rows: tuple[tuple[str, Shape, tuple[str, ...], Mask | None, Make, dict[str, Any], str], ...] = (
        (
            "sinks",
            GROUPED,
            ("S13",),
            None,
            peaked_tensors(GROUPED, sinks=_numbers(6, center=2.0)),
            {},
            "a sink for each head, as large as the logits",
        ),
        (
            "sinks-empty",
            TALL,
            ("S10", "S13"),
            causal("end"),
            peaked_tensors(TALL, sinks=_numbers(4)),
            {},
            "empty rows with a sink: 0, not the sink's share of anything",
        ),
        (
            "sinks-large",
            WIDE_TILE,
            ("S13", "S16"),
            None,
            peaked_tensors(WIDE_TILE, sinks=lambda _: np.array([9.0, 12.0])),
            {},
            "sinks above every logit: the largest of the row is the sink",
        ),
        (
            "sinks-small",
            SQUARE,
            ("S13",),
            None,
            peaked_tensors(SQUARE, sinks=lambda _: np.array([-1.0, 0.0, 1.0])),
            {"softcap": 1.0},
            "sinks among capped logits: the cap is not theirs",
        ),
        (
            "sinks-bias",
            GROUPED,
            ("S3", "S5", "S13"),
            causal("end"),
            peaked_tensors(GROUPED, sinks=_numbers(6, center=1.0), bias=_numbers(1, 6, 5, 11, spread=2.0)),
            {"scale": -0.4},
            "the scale and the bias are not the sink's",
        ),
        (
            "sinks-rank-3",
            NO_HEADS,
            ("S1", "S13"),
            None,
            peaked_tensors(NO_HEADS, sinks=_numbers(center=2.0)),
            {},
            "no head axis: a sink without axes",
        ),
    )
    for name, _, clauses, mask, make, options, hunts in rows:
        yield Design(name, clauses, hunts, make, "peaked", mask=mask, features=("sinks",), **options)


def _dropout() -> Iterator[Design]:
    def kept(*shape: int) -> Callable[[np.random.Generator], Array]:
        return lambda rng: np.asarray(rng.random(shape) < 0.7)

    def column_dropped(poison: float | None) -> Make:
        def make(rng: np.random.Generator) -> dict[str, Array]:
            tensors = peaked(rng, GROUPED)
            keep = rng.random((3, 6, 5, 11)) < 0.7
            keep[1, :, :, 4] = False
            if poison is not None:
                tensors["value"][1, :, 4] = poison
            return tensors | {"keep": keep}

        return make

    rows: tuple[tuple[str, tuple[str, ...], Mask | None, Make, float, str], ...] = (
        (
            "dropout",
            ("S14",),
            None,
            peaked_tensors(GROUPED, keep=kept(3, 6, 5, 11)),
            0.3,
            "what is kept grows by 1 / (1 − rate), the softmax is left alone",
        ),
        (
            "dropout-shared",
            ("S14",),
            None,
            peaked_tensors(GROUPED, keep=kept(5, 11)),
            0.5,
            "one array of what is kept for all heads and the whole batch",
        ),
        (
            "dropout-causal",
            ("S6", "S14"),
            causal("end") & key_lengths([11, 7, 9]),
            peaked_tensors(GROUPED, keep=kept(3, 6, 5, 11), sinks=_numbers(6, center=1.0)),
            0.25,
            "dropout after mask and sink, which it must not renormalise",
        ),
        ("dropout-column", ("S14",), None, column_dropped(None), 0.3, "a key that dropout takes from every query"),
    )
    for name, clauses, mask, make, rate, hunts in rows:
        features = ("dropout", "sinks") if name == "dropout-causal" else ("dropout",)
        yield Design(name, clauses, hunts, make, "peaked", mask=mask, dropout=rate, features=features)
    for kind, poison in (("nan", np.nan), ("inf", np.inf)):
        yield Design(
            f"poison-{kind}-dropped",
            ("S11", "S14"),
            f"a value that dropout takes from every query holds {poison:g}: it is not read",
            column_dropped(poison),
            "poisoned",
            dropout=0.3,
            twin="dropout-column",
            features=("dropout", "poison"),
        )


def _partial_results() -> Iterator[Design]:
    rows: tuple[tuple[str, tuple[str, ...], Mask | None, Make, dict[str, Any], str], ...] = (
        ("logsumexp", ("S15",), None, peaked_tensors(GROUPED), {}, "the natural logarithm, over all keys"),
        (
            "logsumexp-empty",
            ("S10", "S15"),
            causal("end"),
            peaked_tensors(TALL),
            {},
            "−∞ for empty rows, not 0, not a large number",
        ),
        (
            "logsumexp-slice",
            ("S7", "S15"),
            causal(-3) & key_lengths([11, 4, 8]),
            peaked_tensors(GROUPED),
            {},
            "a slice that begins at a later key: only visible keys count",
        ),
        (
            "logsumexp-options",
            ("S3", "S5", "S15"),
            None,
            peaked_tensors(GROUPED, bias=_numbers(1, 6, 5, 11, spread=2.0)),
            {"softcap": 2.0, "scale": 0.5},
            "over capped and biased logits",
        ),
        ("logsumexp-rank-3", ("S1", "S15"), None, peaked_tensors(NO_HEADS), {}, "no head axis"),
        (
            "logsumexp-low",
            ("S15", "S16"),
            None,
            peaked_tensors(GROUPED, bias=_numbers(5, 11, center=-300.0, spread=8.0)),
            {},
            "every logit far below 0: the sum underflows without its maximum",
        ),
    )
    for name, clauses, mask, make, options, hunts in rows:
        yield Design(
            name,
            clauses,
            hunts,
            make,
            "peaked",
            operation="attention_with_logsumexp",
            mask=mask,
            dtypes=WIDE if name == "logsumexp-low" else Design.dtypes,
            features=("logsumexp", *(("empty_rows",) if mask is not None else ())),
            **options,
        )
    for name, clauses, make, hunts, undecided in (
        ("merge", ("S15",), _slices(GROUPED), "three slices, one of them empty for some rows", {}),
        (
            "merge-sinks",
            ("S13", "S15"),
            _slices(GROUPED, sinks=_numbers(6, center=2.0)),
            "a sink enters once, in the merge, and not with every slice",
            {},
        ),
        ("merge-rank-3", ("S1", "S15"), _slices(NO_HEADS), "no head axis", {}),
    ):
        features = ("logsumexp", "sinks") if name == "merge-sinks" else ("logsumexp",)
        yield Design(
            name, clauses, hunts, make, "slices", operation="merge_attention", features=features, undecided=undecided
        )
    yield Design(
        "poison-nan-merge",
        ("S11", "S15"),
        "a slice without weight holds NaN: it is not read",
        _slices(GROUPED, poison=np.nan),
        "slices",
        operation="merge_attention",
        twin="merge",
        features=("logsumexp", "poison"),
    )


def _slices(shape: Shape, poison: float | None = None, **extra: Callable[[np.random.Generator], Array]) -> Make:
    """Attend to three slices of the keys, with a causal mask over the whole, and stack what comes out."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, shape)
        edges = (0, 2, shape.keys - 3, shape.keys)
        parts = [
            attention_with_logsumexp(
                tensors["query"],
                tensors["key"][..., start:stop, :],
                tensors["value"][..., start:stop, :],
                mask=causal(shape.keys - shape.queries - start - 2),
            )
            for start, stop in itertools.pairwise(edges)
        ]
        outputs, logsumexps = (np.stack(column) for column in zip(*parts, strict=True))
        if poison is not None:
            outputs[np.isneginf(logsumexps)] = poison
        return {"outputs": outputs, "logsumexps": logsumexps} | {name: make(rng) for name, make in extra.items()}

    return make

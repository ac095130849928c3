"""The designs of the shipped vectors: what each one hunts, and the numbers that make it visible.

Every design gives one vector for each of its dtypes. Designs are only ever added: an identifier is never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnspec.contract import Mask, causal, full, key_lengths, query_lengths, sliding_window
from attnspec.contract.masks import as_mask
from attnspec.reference.attention import prepare
from attnspec.reference.masks import block_of, visible_pairs

from .recipes import Array, Shape, needles, peaked, projections

ALL = ("float64", "float32", "bfloat16", "float16")
WIDE = ("float64", "float32")

SQUARE = Shape((2,), 3, 3, 7, 7, 5, 5)
GROUPED = Shape((3,), 6, 2, 5, 11, 7, 4)
TALL = Shape((2,), 4, 1, 13, 5, 8, 3)
TILE = Shape((1,), 2, 2, 33, 33, 16, 16)
WIDE_TILE = Shape((1,), 2, 1, 17, 65, 8, 8)
LONG = Shape((1,), 1, 1, 129, 129, 8, 8)
SQUARE_HEADS = Shape((2,), 5, 5, 5, 5, 7, 7)
DECODE = Shape((3,), 4, 2, 1, 19, 8, 8)
NO_HEADS = Shape((3,), 0, 0, 7, 11, 5, 3)
MATRIX = Shape((), 0, 0, 11, 13, 7, 5)
TWO_BATCH_AXES = Shape((2, 3), 4, 2, 5, 7, 3, 2)
HEAD_DIM_ONE = Shape((2,), 2, 2, 5, 7, 1, 1)
HEAD_DIM_EIGHTY = Shape((1,), 2, 2, 5, 7, 80, 80)
NO_KEYS = Shape((2,), 3, 3, 5, 0, 4, 4)
ONE_KEY = Shape((2,), 3, 3, 5, 1, 4, 4)


@dataclass(frozen=True)
class Design:
    """One design: a name, what it hunts, and how its tensors are made."""

    name: str
    clauses: tuple[str, ...]
    hunts: str
    make: Callable[[np.random.Generator], dict[str, Array]]
    recipe: str
    operation: str = "dot_product_attention"
    mask: Mask | None = None
    scale: float | None = None
    softcap: float | None = None
    numbers: dict[str, int | None] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ALL
    features: tuple[str, ...] = ()
    level: str = "core"
    nonfinite: bool = False
    twin: str | None = None
    """Another design with the same seed, whose unread entries alone differ."""
    undecided: dict[str, str] = field(default_factory=dict)


def visible_pairs_of(tensors: dict[str, Array], mask: Mask | None) -> Array:
    """Return which pairs are visible, in the full shape (*B, heads, queries, keys), the head axis always present."""
    wide = {name: np.asarray(tensors[name], np.float64) for name in ("query", "key", "value")}
    attention, _ = prepare(**wide, mask=mask, bias=tensors.get("bias"), scale=None, softcap=None)
    block = block_of(attention.sizes, slice(0, attention.sizes.query_length))
    bias = None if attention.bias is None else block.per_pair(attention.bias)
    shape = (*attention.query.shape[:-1], attention.sizes.key_length)
    return np.broadcast_to(visible_pairs(mask, bias, block), shape)


def with_poison(tensors: dict[str, Array], mask: Mask | None, poison: float) -> dict[str, Array]:
    """Fill the keys and values that no query may read, and the queries that may read nothing, with poison."""
    visible = visible_pairs_of(tensors, mask)
    kv_heads = tensors["key"].shape[-3] if tensors["key"].ndim > 3 else 1
    by_kv_head = visible.reshape(*visible.shape[:-3], kv_heads, -1, visible.shape[-1])
    unread = ~by_kv_head.any(axis=-2)
    silent = ~visible.any(axis=-1)
    if tensors["key"].ndim <= 3:
        unread, silent = unread[..., 0, :], silent[..., 0, :]
    return tensors | {
        "query": np.where(silent[..., None], poison, tensors["query"]),
        "key": np.where(unread[..., None], poison, tensors["key"]),
        "value": np.where(unread[..., None], poison, tensors["value"]),
    }


def designs() -> Iterator[Design]:
    """Yield every design, in the order of the manifest."""
    yield from _shapes()
    yield from _masks()
    yield from _needles()
    yield from _biases_and_scales()
    yield from _empty_and_poisoned()
    yield from _ranges()
    yield from _other_operations()


def _peaked(shape: Shape, **extra: Callable[[np.random.Generator], Array]) -> Callable[..., dict[str, Array]]:
    return lambda rng: peaked(rng, shape) | {name: make(rng) for name, make in extra.items()}


def _shapes() -> Iterator[Design]:
    rows = (
        ("square", SQUARE, ALL, "plain attention, B ≠ H: swapped axes, a wrong or missing scale, softmax over queries"),
        (
            "grouped",
            GROUPED,
            ALL,
            "3 query heads to a key/value head: heads tiled instead of repeated; Dv ≠ Dk; Tq < Tk",
        ),
        ("multi-query", TALL, ALL, "one key/value head for all query heads, Tq > Tk"),
        ("tile-33", TILE, ALL, "lengths one beyond a tile of 32: partial tiles"),
        (
            "tile-65",
            WIDE_TILE,
            ALL,
            "one key beyond a tile of 64, one query beyond 16: the last key dropped or read twice",
        ),
        ("tile-129", LONG, WIDE, "one beyond a tile of 128; long sums"),
        (
            "heads-equal-length",
            SQUARE_HEADS,
            ALL,
            "S = H: a layout (batch, length, heads) that passes unnoticed elsewhere",
        ),
        ("decode", DECODE, ALL, "one query: the shape of decoding"),
        ("rank-3", NO_HEADS, ALL, "no head axis: (batch, length, size)"),
        ("rank-2", MATRIX, ALL, "no batch and no heads: (length, size)"),
        ("rank-5", TWO_BATCH_AXES, ALL, "two batch axes before the heads"),
        ("head-dim-1", HEAD_DIM_ONE, ALL, "a head dimension of 1: padded or dropped components"),
        ("head-dim-80", HEAD_DIM_EIGHTY, ALL, "a head dimension padded to 96 or 128: the scale must not follow"),
    )
    for name, shape, dtypes, hunts in rows:
        clauses = ("S1", "S2", "S12") if shape.heads != shape.kv_heads else ("S1", "S2")
        yield Design(name, clauses, hunts, _peaked(shape), "peaked", dtypes=dtypes)
    yield Design(
        "one-key",
        ("S1", "S10"),
        "a single key: the output is its value, whatever the logits",
        _peaked(ONE_KEY),
        "peaked",
        undecided={
            "mean_value": "the mean of one value is the value",
            "echo": "the echo of one value is the value",
        },
    )
    yield Design(
        "no-keys",
        ("S10", "S18"),
        "no keys at all: every row is empty, the output exactly 0",
        _peaked(NO_KEYS),
        "peaked",
        undecided={"zeros": "zeros are right", "constant": "zeros are right", "shuffled_rows": "all rows are equal"}
        | {"mean_value": "there are no values", "echo": "there are no values"},
        features=("empty_rows",),
    )


def _masks() -> Iterator[Design]:
    rng = np.random.default_rng(20)
    pairs = rng.random((5, 11)) < 0.6
    pairs[:, 4] = True
    per_head = rng.random((1, 6, 5, 11)) < 0.6
    per_head[..., 7] = True
    per_batch = rng.random((3, 1, 5, 11)) < 0.6
    per_batch[..., 2] = True
    full_mask = rng.random((2, 5, 5, 5)) < 0.6
    full_mask |= np.eye(5, dtype=bool)
    keys_only = np.array([True, False] * 5 + [True]).reshape(1, 1, 1, 11)
    rows: tuple[tuple[str, Shape, tuple[str, ...], Any, str], ...] = (
        ("full", GROUPED, ("S4",), full(), "full() is no mask at all"),
        ("causal", SQUARE, ("S7",), causal(), "the causal mask: future keys, or the own key lost"),
        ("causal-tile", TILE, ("S7",), causal(), "causal over a tile boundary"),
        (
            "causal-end",
            GROUPED,
            ("S7",),
            causal("end"),
            "bottom-right alignment where Tq < Tk; top-left differs in every row",
        ),
        (
            "causal-end-tall",
            TALL,
            ("S7", "S10"),
            causal("end"),
            "bottom-right where Tq > Tk: the first rows see nothing",
        ),
        ("causal-top-left", GROUPED, ("S7",), causal(0), "top-left alignment where Tq < Tk"),
        (
            "causal-top-left-tall",
            TALL,
            ("S7",),
            causal(0),
            "top-left alignment where Tq > Tk: the last rows see every key",
        ),
        ("causal-offset", GROUPED, ("S7",), causal(2), "an offset that is neither 0 nor Tk − Tq"),
        ("causal-offset-batch", GROUPED, ("S7",), causal([0, 6, 3]), "an offset for each batch element, as in a cache"),
        (
            "causal-decode",
            DECODE,
            ("S7",),
            causal("end"),
            "decoding: the one query stands at the last key and sees all",
        ),
        (
            "causal-cache",
            DECODE,
            ("S7", "S8"),
            causal([4, 18, 11]) & key_lengths([5, 19, 12]),
            "a cache filled differently",
        ),
        ("causal-rank-5", TWO_BATCH_AXES, ("S7",), causal("end"), "causal under two batch axes"),
        ("causal-rank-2", MATRIX, ("S7",), causal("end"), "causal without batch and heads"),
        ("window", SQUARE, ("S7",), sliding_window(2, 1), "2 keys before and 1 after the own one"),
        (
            "window-causal",
            TILE,
            ("S6", "S7"),
            causal() & sliding_window(left=4),
            "5 keys with the own one, not 4, not 6",
        ),
        ("window-end", GROUPED, ("S7",), sliding_window(1, 1, offset="end"), "a window around shifted positions"),
        ("window-right", SQUARE, ("S7",), sliding_window(right=2), "unbounded to the left, 2 to the right"),
        ("window-left-0", SQUARE, ("S7",), sliding_window(left=0), "the own key and all after it"),
        ("window-self", SQUARE, ("S7",), sliding_window(0, 0), "the own key alone: the output is the value"),
        ("key-lengths", GROUPED, ("S8",), key_lengths([11, 1, 6]), "right padding: one key more or less"),
        ("key-lengths-tile", WIDE_TILE, ("S8",), key_lengths(64), "padding that begins at a tile boundary"),
        ("query-lengths", GROUPED, ("S8", "S10"), query_lengths([5, 2, 0]), "padded queries give rows of zeros"),
        (
            "both-lengths",
            SQUARE,
            ("S6", "S8", "S10"),
            key_lengths([7, 3]) & query_lengths([4, 7]),
            "both paddings at once",
        ),
        (
            "causal-key-lengths",
            SQUARE,
            ("S6", "S7", "S8"),
            causal() & key_lengths([7, 4]),
            "the mask must not replace causal",
        ),
        ("mask-pairs", GROUPED, ("S4",), pairs, "a rank-2 boolean mask, True = may attend"),
        ("mask-heads", GROUPED, ("S4",), per_head, "a mask for each head"),
        ("mask-batch", GROUPED, ("S4",), per_batch, "a mask for each batch element"),
        ("mask-full", SQUARE_HEADS, ("S4",), full_mask, "a mask for each head and batch element where S = H"),
        ("mask-keys", GROUPED, ("S4",), keys_only, "a mask over keys alone, every other axis 1"),
        ("mask-not", SQUARE, ("S6", "S10"), ~causal(), "the complement of causal: the future only, the last row empty"),
        ("mask-or", SQUARE, ("S6",), sliding_window(1, 0) | key_lengths(2), "a window or the first two keys"),
        ("mask-and-causal", GROUPED, ("S4", "S6"), causal("end") & pairs, "an array and causal together, neither lost"),
    )
    for name, shape, clauses, mask, hunts in rows:
        mask = as_mask(mask)
        undecided = {"echo": "each query sees its own value alone"} if name == "window-self" else {}
        yield Design(name, clauses, hunts, _peaked(shape), "peaked", mask=mask, features=("mask",), undecided=undecided)


def _needles() -> Iterator[Design]:
    rows: tuple[tuple[str, Shape, Mask | None, str], ...] = (
        ("needle-causal", TILE, causal(), "the diagonal: the last key seen, or the first one hidden, rules the row"),
        ("needle-causal-long", LONG, causal(), "the diagonal over a length of 129"),
        ("needle-causal-end", WIDE_TILE, causal("end"), "the shifted diagonal over tiles of 16 and 64"),
        ("needle-window", TILE, sliding_window(31, 0), "the window's left edge at a tile boundary"),
        ("needle-lengths", WIDE_TILE, key_lengths(63), "the padding's edge one before a tile boundary"),
        ("needle-last-key", WIDE_TILE, None, "the last key rules every row: it must not be dropped"),
    )
    for name, shape, mask, hunts in rows:

        def make(rng: np.random.Generator, shape: Shape = shape, mask: Mask | None = mask) -> dict[str, Array]:
            visible = visible_pairs_of(peaked(np.random.default_rng(0), shape), mask)
            return needles(rng, shape, visible[0, 0])

        yield Design(
            name, ("S7",) if mask is not None else ("S1",), hunts, make, "needles", mask=mask, features=("needle",)
        )


def _biases_and_scales() -> Iterator[Design]:
    def bias(*shape: int, spread: float = 2.0) -> Callable[[np.random.Generator], Array]:
        return lambda rng: spread * rng.standard_normal(shape)

    def bias_with_holes(rng: np.random.Generator) -> Array:
        array = 2.0 * rng.standard_normal((3, 1, 5, 11))
        array[rng.random(array.shape) < 0.4] = -np.inf
        array[0, 0, 3] = -np.inf
        return array

    yield Design("bias-heads", ("S5",), "a bias for each head", _peaked(GROUPED, bias=bias(1, 6, 5, 11)), "peaked")
    yield Design("bias-pairs", ("S5",), "a rank-2 bias", _peaked(GROUPED, bias=bias(5, 11)), "peaked")
    yield Design(
        "bias-batch", ("S5",), "a bias for each batch element", _peaked(GROUPED, bias=bias(3, 1, 1, 11)), "peaked"
    )
    yield Design(
        "bias-full",
        ("S5",),
        "S = H = T: no axis of the bias may be swapped",
        _peaked(SQUARE_HEADS, bias=bias(2, 5, 5, 5)),
        "peaked",
    )
    yield Design(
        "bias-minus-infinity",
        ("S5", "S10"),
        "−inf in a bias is a masked position, and a row of it an empty row",
        _peaked(GROUPED, bias=bias_with_holes),
        "peaked",
        features=("empty_rows",),
    )
    yield Design(
        "bias-causal",
        ("S5", "S6"),
        "bias, causal and lengths together, none of them lost",
        _peaked(GROUPED, bias=bias(1, 6, 5, 11)),
        "peaked",
        mask=causal("end") & key_lengths([11, 7, 9]),
    )
    for name, scale, hunts in (
        ("scale-explicit", 0.3, "an explicit scale, not the default"),
        ("scale-negative", -0.5, "a negative scale: no square root of it, no absolute value"),
        ("scale-zero", 0.0, "scale 0: the mean over the visible keys"),
    ):
        yield Design(name, ("S2",), hunts, _peaked(GROUPED), "peaked", scale=scale, mask=key_lengths([11, 4, 7]))
    yield Design("softcap", ("S3",), "a softcap well below the largest scores", _peaked(GROUPED), "peaked", softcap=1.5)
    yield Design(
        "softcap-causal",
        ("S3",),
        "softcap before the mask: capped −inf would let masked keys in",
        _peaked(GROUPED),
        "peaked",
        softcap=2.0,
        mask=causal("end"),
    )
    yield Design(
        "softcap-bias",
        ("S3", "S5"),
        "softcap before the bias: the bias is not capped",
        _peaked(GROUPED, bias=bias(1, 6, 5, 11, spread=4.0)),
        "peaked",
        softcap=2.0,
    )
    yield Design(
        "softcap-scale",
        ("S2", "S3"),
        "softcap after an explicit scale, with bias and mask",
        _peaked(GROUPED, bias=bias(1, 6, 1, 11)),
        "peaked",
        softcap=1.5,
        scale=-0.7,
        mask=key_lengths([11, 5, 8]),
    )


def _empty_and_poisoned() -> Iterator[Design]:
    holes = np.ones((2, 1, 7, 7), bool)
    holes[0, 0, 3] = False
    holes[1, 0, :, 2] = False
    holes[1, 0, 6, :] = False
    rows: tuple[tuple[str, Shape, Mask, str], ...] = (
        (
            "lengths",
            GROUPED,
            key_lengths([11, 0, 6]) & query_lengths([5, 5, 3]),
            "padding, and an element without any key",
        ),
        ("array", SQUARE, as_mask(holes), "rows without any key in the middle of a mask"),
        ("causal-tall", TALL, causal("end") & key_lengths([5, 3]), "bottom-right with Tq > Tk and padding"),
    )
    for name, shape, mask, hunts in rows:
        base = f"empty-{name}"
        yield Design(
            base,
            ("S10",),
            f"{hunts}: empty rows are 0, not NaN, not the mean",
            _peaked(shape),
            "peaked",
            mask=mask,
            features=("empty_rows",),
        )
        for kind, poison in (("large", 1e4), ("nan", np.nan), ("inf", np.inf)):

            def make(rng: np.random.Generator, shape: Shape = shape, mask: Mask = mask, poison: float = poison) -> Any:
                return with_poison(peaked(rng, shape), mask, poison)

            yield Design(
                f"poison-{kind}-{name}",
                ("S10", "S11"),
                f"{hunts}: unread entries hold {poison:g}",
                make,
                "poisoned",
                mask=mask,
                twin=base,
                features=("poison", "empty_rows"),
            )

    def visible_poison(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        tensors["value"][0, 1, 3, 2] = np.nan
        tensors["value"][1, 0, 8, 0] = np.inf
        tensors["value"][2, 1, 6, 1] = -np.inf
        tensors["value"][2, 1, 8, 1] = np.inf
        return tensors

    def visible_key(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, GROUPED)
        tensors["key"][0, 1, 8, 2] = np.nan
        tensors["query"][2, 3, 1, 0] = np.nan
        return tensors

    yield Design(
        "visible-values",
        ("S11",),
        "NaN and Inf in values reach the rows that see them, in their own component",
        visible_poison,
        "visible_poison",
        mask=causal("end"),
        nonfinite=True,
        features=("nonfinite",),
    )
    yield Design(
        "visible-keys",
        ("S11",),
        "NaN in a key or a query makes exactly the rows that see it NaN",
        visible_key,
        "visible_poison",
        mask=causal("end"),
        nonfinite=True,
        features=("nonfinite",),
    )


def _ranges() -> Iterator[Design]:
    def stretched(factor: float) -> Callable[[np.random.Generator], dict[str, Array]]:
        def make(rng: np.random.Generator) -> dict[str, Array]:
            tensors = peaked(rng, WIDE_TILE)
            return tensors | {"query": factor * tensors["query"]}

        return make

    def rising(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, WIDE_TILE, spread=1.0)
        direction = rng.standard_normal(WIDE_TILE.head_dim)
        ramp = np.linspace(0.0, 4.0, WIDE_TILE.keys)[:, None]
        return tensors | {"query": 0.2 * tensors["query"] + direction, "key": tensors["key"] + ramp * direction}

    def integers(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, SQUARE)
        return tensors | {"value": rng.integers(-8, 9, tensors["value"].shape).astype(np.float64) * 4}

    yield Design(
        "range-large",
        ("S2", "S16"),
        "logits up to about ±1000: exp overflows unless the largest is subtracted",
        stretched(100.0),
        "stretched",
    )
    yield Design(
        "range-small",
        ("S16",),
        "logits near 0: the weights differ by little and the scale still counts",
        stretched(0.05),
        "stretched",
        dtypes=WIDE,
    )
    yield Design(
        "range-rising",
        ("S16",),
        "logits rise to the last key: a running maximum must rescale what it summed",
        rising,
        "rising",
    )
    yield Design(
        "range-negative",
        ("S16",),
        "every logit far below 0: a maximum that starts at 0 underflows all weights",
        _peaked(GROUPED, bias=lambda rng: -1000.0 + 8 * rng.standard_normal((5, 11))),
        "peaked",
    )
    yield Design(
        "exact-mean",
        ("S16", "S17"),
        "equal logits over 4 keys and integer values: every sum is exact",
        integers,
        "integers",
        scale=0.0,
        mask=key_lengths(4),
        features=("exact",),
    )


def _other_operations() -> Iterator[Design]:
    def self_attention(rng: np.random.Generator) -> dict[str, Array]:
        weights = {"query_weight": projections(rng, 7, 5), "key_weight": projections(rng, 7, 5)}
        inputs = 1.7 * rng.standard_normal((3, 5, 7))
        return {"inputs": inputs} | weights | {"value_weight": projections(rng, 7, 3)}

    def memory(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, Shape((3,), 0, 0, 1, 3, 5, 3))
        return {"query": tensors["query"][:, 0], "keys": tensors["key"], "values": tensors["value"]}

    def multi_head(*, biases: bool, kv_heads: int) -> Callable[[np.random.Generator], dict[str, Array]]:
        def make(rng: np.random.Generator) -> dict[str, Array]:
            columns = {"query": 4 * 3, "key": kv_heads * 3, "value": kv_heads * 2}
            sizes = {"query": 12, "key": 10, "value": 9}
            lengths = {"query": 5, "key": 7, "value": 7}
            tensors = {part: 1.5 * rng.standard_normal((2, lengths[part], sizes[part])) for part in sizes}
            weights = {f"{part}_weight": projections(rng, sizes[part], columns[part]) for part in sizes}
            weights["output_weight"] = projections(rng, 4 * 2, 11)
            if biases:
                weights |= {f"{part}_bias": rng.standard_normal(columns[part]) for part in sizes}
                weights["output_bias"] = rng.standard_normal(11)
            return tensors | weights

        return make

    yield Design(
        "self-attention",
        ("S1", "S2"),
        "projections applied as x @ W, scaled by the projected size",
        self_attention,
        "projected",
        operation="self_attention",
    )
    yield Design(
        "self-attention-causal",
        ("S7",),
        "self-attention with a causal mask",
        self_attention,
        "projected",
        operation="self_attention",
        mask=causal(),
    )
    yield Design(
        "key-value",
        ("S1", "S2"),
        "one query for each memory, B = S: a product that broadcasts over the batch",
        memory,
        "peaked",
        operation="key_value_attention",
    )
    yield Design(
        "key-value-lengths",
        ("S8", "S10"),
        "memories of different fill, one empty",
        memory,
        "peaked",
        operation="key_value_attention",
        mask=key_lengths([3, 0, 2]),
        features=("empty_rows",),
    )
    for name, kv_heads, biases, mask, hunts in (
        ("multi-head", 4, True, None, "heads side by side in the columns, every bias, E ≠ E_k ≠ E_v"),
        ("multi-head-no-bias", 4, False, None, "no bias at all: None, not zeros"),
        ("multi-head-grouped", 2, True, None, "two key/value heads for four query heads"),
        ("multi-head-masked", 2, True, causal("end") & key_lengths([7, 4]), "grouped, causal and padded"),
    ):
        yield Design(
            name,
            ("S1", "S2", "S12"),
            hunts,
            multi_head(biases=biases, kv_heads=kv_heads),
            "projected",
            operation="multi_head_attention",
            mask=mask,
            numbers={"num_heads": 4, "num_kv_heads": kv_heads},
        )

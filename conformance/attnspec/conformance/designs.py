"""The designs of the shipped vectors: what each one hunts, and the numbers that make it visible.

Every design gives one vector for each of its dtypes. Designs are only ever added: an identifier is never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from attnspec.contract import causal, key_lengths

from .design import (
    ALL,
    DECODE,
    GROUPED,
    HEAD_DIM_EIGHTY,
    HEAD_DIM_ONE,
    LONG,
    MATRIX,
    NO_HEADS,
    NO_KEYS,
    ONE_KEY,
    SQUARE,
    SQUARE_HEADS,
    TALL,
    TILE,
    TWO_BATCH_AXES,
    WIDE,
    WIDE_TILE,
    Design,
    peaked_tensors,
)
from .designs_edges import edge_designs
from .designs_gradients import gradient_designs
from .designs_half import with_bfloat16
from .designs_layers import layer_designs
from .designs_masks import mask_designs, needle_designs, poison_designs
from .designs_options import option_designs
from .designs_positions import position_designs
from .designs_real import real_designs
from .designs_similarities import similarity_designs
from .recipes import Array, Shape, peaked, projections


def designs() -> Iterator[Design]:
    """Yield every design; the manifest has the oldest vectors first."""
    yield from with_bfloat16(_designs())


def _designs() -> Iterator[Design]:
    yield from _shapes()
    yield from mask_designs()
    yield from needle_designs()
    yield from _biases_and_scales()
    yield from poison_designs()
    yield from _ranges()
    yield from _other_operations()
    yield from real_designs()
    yield _worked_example()
    yield from option_designs()
    yield from position_designs()
    yield from gradient_designs()
    yield from similarity_designs()
    yield from layer_designs()
    yield from edge_designs()


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
        yield Design(name, clauses, hunts, peaked_tensors(shape), "peaked", dtypes=dtypes)
    yield Design(
        "one-key",
        ("S1",),
        "a single key: the output is its value, whatever the logits",
        peaked_tensors(ONE_KEY),
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
        peaked_tensors(NO_KEYS),
        "peaked",
        undecided={"zeros": "zeros are right", "constant": "zeros are right", "shuffled_rows": "all rows are equal"}
        | {"mean_value": "there are no values", "echo": "there are no values"},
        features=("empty_rows",),
    )


def _biases_and_scales() -> Iterator[Design]:
    def bias(*shape: int, spread: float = 2.0) -> Callable[[np.random.Generator], Array]:
        return lambda rng: spread * rng.standard_normal(shape)

    def bias_with_holes(rng: np.random.Generator) -> Array:
        array = 2.0 * rng.standard_normal((3, 1, 5, 11))
        array[rng.random(array.shape) < 0.4] = -np.inf
        array[0, 0, 3] = -np.inf
        return array

    yield Design(
        "bias-heads", ("S5",), "a bias for each head", peaked_tensors(GROUPED, bias=bias(1, 6, 5, 11)), "peaked"
    )
    yield Design("bias-pairs", ("S5",), "a rank-2 bias", peaked_tensors(GROUPED, bias=bias(5, 11)), "peaked")
    yield Design(
        "bias-batch",
        ("S5",),
        "a bias for each batch element",
        peaked_tensors(GROUPED, bias=bias(3, 1, 1, 11)),
        "peaked",
    )
    yield Design(
        "bias-full",
        ("S5",),
        "S = H = T: no axis of the bias may be swapped",
        peaked_tensors(SQUARE_HEADS, bias=bias(2, 5, 5, 5)),
        "peaked",
    )
    yield Design(
        "bias-minus-infinity",
        ("S5", "S10"),
        "−inf in a bias is a masked position, and a row of it an empty row",
        peaked_tensors(GROUPED, bias=bias_with_holes),
        "peaked",
        features=("empty_rows",),
    )
    yield Design(
        "bias-causal",
        ("S5", "S6"),
        "bias, causal and lengths together, none of them lost",
        peaked_tensors(GROUPED, bias=bias(1, 6, 5, 11)),
        "peaked",
        mask=causal("end") & key_lengths([11, 7, 9]),
    )
    for name, scale, hunts in (
        ("scale-explicit", 0.3, "an explicit scale, not the default"),
        ("scale-negative", -0.5, "a negative scale: no square root of it, no absolute value"),
        ("scale-zero", 0.0, "scale 0: the mean over the visible keys"),
    ):
        yield Design(name, ("S2",), hunts, peaked_tensors(GROUPED), "peaked", scale=scale, mask=key_lengths([11, 4, 7]))
    yield Design(
        "softcap", ("S3",), "a softcap well below the largest scores", peaked_tensors(GROUPED), "peaked", softcap=1.5
    )
    yield Design(
        "softcap-causal",
        ("S3",),
        "softcap before the mask: capped −inf would let masked keys in",
        peaked_tensors(GROUPED),
        "peaked",
        softcap=2.0,
        mask=causal("end"),
    )
    yield Design(
        "softcap-bias",
        ("S3", "S5"),
        "softcap before the bias: the bias is not capped",
        peaked_tensors(GROUPED, bias=bias(1, 6, 5, 11, spread=4.0)),
        "peaked",
        softcap=2.0,
    )
    yield Design(
        "softcap-scale",
        ("S2", "S3"),
        "softcap after an explicit scale, with bias and mask",
        peaked_tensors(GROUPED, bias=bias(1, 6, 1, 11)),
        "peaked",
        softcap=1.5,
        scale=-0.7,
        mask=key_lengths([11, 5, 8]),
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
        return tensors | {"value": np.asarray(4.0 * rng.integers(-8, 9, tensors["value"].shape))}

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
        peaked_tensors(GROUPED, bias=lambda rng: -1000.0 + 8 * rng.standard_normal((5, 11))),
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


def _worked_example() -> Design:
    def make(_: np.random.Generator) -> dict[str, Array]:
        query = 0.1 * np.arange(1, 5) + 0.1 * np.arange(4)[:, None]
        return {"query": query, "key": query + 0.4, "value": query + 0.8}

    return Design(
        "fox",
        ("S1", "S2"),
        "the worked example, The quick brown fox: its rows differ by 0.0025, too little to decide at half precision",
        make,
        "worked_example",
        dtypes=WIDE,
        features=("worked_example",),
    )

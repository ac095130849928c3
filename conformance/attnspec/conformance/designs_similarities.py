"""The designs that hunt in other similarities, hard attention and gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import causal, key_lengths, sliding_window
from attnspec.contract.attention_configs import (
    AdditiveAttentionConfig,
    GatedAttentionCellConfig,
    GatedAttentionConfig,
)
from attnspec.contract.block_configs import LinearConfig

from .design import SQUARE, Design
from .designs_layers import HALF, WIDE, Make, both, drawn, make_of
from .recipes import Array, Shape, peaked


def similarity_designs() -> Iterator[Design]:
    """Yield every design of this file."""
    yield from _hard()
    yield from _additive()
    yield from _bilinear_and_cosine()
    yield from _gates()
    yield from _cell()


_SMALL = Shape((2,), 3, 3, 5, 7, 4, 3)
_SMALL_GROUPED = Shape((2,), 4, 2, 5, 7, 4, 3)


def _rows(shape: Shape) -> tuple[int, ...]:
    return (*shape.query_shape()[:-1], shape.value_dim)


def _core(shape: Shape, **extra: Callable[[np.random.Generator], Array]) -> Make:
    return lambda rng: peaked(rng, shape) | {name: make(rng) for name, make in extra.items()}


def _apart(shape: Shape, noise: bool = False) -> Make:
    """Draw logits whose neighbours in order stand apart: which are the best must not depend on a rounding."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, shape)
        keys = shape.keys
        # Keys on the first axis alone, in steps; queries of either sign there: scores are steps times the query.
        steps = rng.permuted(np.broadcast_to(np.arange(keys) - keys // 2, (*tensors["key"].shape[:-1],)), axis=-1)
        tensors["key"] = np.concatenate([steps[..., None], 0.01 * tensors["key"][..., 1:]], axis=-1)
        tensors["query"][..., 0] = rng.choice([-1.0, 1.0], tensors["query"].shape[:-1]) * rng.uniform(
            1.0, 2.0, tensors["query"].shape[:-1]
        )
        tensors["query"][..., 1:] *= 0.1
        if noise:
            tensors["noise"] = 3.0 * rng.permuted(
                np.broadcast_to(np.arange(keys) * 1.0, (shape.queries, keys)), axis=-1
            )
        return tensors

    return make


def _integers(shape: Shape) -> Make:
    """Draw small integers, so that scores tie exactly."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, shape)
        for name in ("query", "key"):
            tensors[name] = np.asarray(rng.integers(-1, 2, tensors[name].shape), np.float64)
        return tensors

    return make


def _hard() -> Iterator[Design]:
    operation: dict[str, Any] = {"operation": "hard_attention"}
    yield from both(
        "hard-best",
        ("S20",),
        "each query reads its best key alone",
        _apart(_SMALL),
        _rows(_SMALL),
        numbers={"top_k": 1},
        dtypes=HALF,
        **operation,
    )
    yield from both(
        "hard-top-three",
        ("S20", "S12"),
        "three keys share the weight, renormalised; the gradient is that of soft attention",
        _apart(_SMALL_GROUPED),
        _rows(_SMALL_GROUPED),
        numbers={"top_k": 3},
        **operation,
    )
    yield from both(
        "hard-ties",
        ("S20",),
        "equal scores: the lowest index is taken",
        _integers(_SMALL),
        None,
        numbers={"top_k": 2},
        scale=1.0,
        dtypes=WIDE,
        **operation,
    )
    yield from both(
        "hard-few-visible",
        ("S20", "S10"),
        "fewer visible keys than are asked for: all of them; none: 0",
        _apart(_SMALL),
        _rows(_SMALL),
        numbers={"top_k": 3},
        mask=key_lengths([2, 0]),
        **operation,
    )
    yield from both(
        "hard-noise",
        ("S20",),
        "noise chooses and does not weigh",
        _apart(_SMALL, noise=True),
        _rows(_SMALL),
        numbers={"top_k": 2},
        **operation,
    )
    yield from both(
        "hard-options",
        ("S20", "S6"),
        "softcap and window before the choice",
        _apart(_SMALL),
        None,
        numbers={"top_k": 2},
        mask=sliding_window(2, 1, 0),
        softcap=4.0,
        scale=-0.7,
        **operation,
    )


def _with_parameters(core: Make, config: Any) -> Make:
    return lambda rng: core(rng) | drawn(config, rng)


def _additive() -> Iterator[Design]:
    operation: dict[str, Any] = {"operation": "additive_attention"}

    def uneven(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, _SMALL_GROUPED)
        return tensors | {"key": rng.standard_normal((*tensors["key"].shape[:-1], 6))}

    yield from both(
        "additive",
        ("S23",),
        "queries and keys of different sizes, projected, with a bias inside the tanh",
        _with_parameters(uneven, AdditiveAttentionConfig(4, key_size=6, hidden_size=5, use_bias=True)),
        _rows(_SMALL_GROUPED),
        dtypes=(*WIDE, "bfloat16"),
        **operation,
    )
    yield from both(
        "additive-plain",
        ("S23", "S3"),
        "without projections; scale, window and sinks",
        _with_parameters(
            _core(_SMALL, sinks=lambda rng: rng.standard_normal(3)), AdditiveAttentionConfig(4, use_projections=False)
        ),
        _rows(_SMALL),
        mask=sliding_window(1, 2, 0),
        scale=2.5,
        **operation,
    )


def _bilinear_and_cosine() -> Iterator[Design]:
    def uneven(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, _SMALL_GROUPED)
        keys = rng.standard_normal((*tensors["key"].shape[:-1], 6))
        return tensors | {"key": keys, "weight": rng.standard_normal((4, 6)) / 2.0}

    yield from both(
        "bilinear",
        ("S24",),
        "a square weight that is not symmetric, unscaled, grouped heads",
        _core(_SMALL_GROUPED, weight=lambda rng: rng.standard_normal((4, 4)) / 2.0),
        _rows(_SMALL_GROUPED),
        operation="bilinear_attention",
    )
    yield from both(
        "bilinear-masked",
        ("S24", "S6"),
        "queries and keys of different sizes, padding, an empty row, scale and softcap",
        uneven,
        None,
        operation="bilinear_attention",
        mask=key_lengths([4, 0]),
        scale=0.5,
        softcap=3.0,
    )

    def cosine(rng: np.random.Generator) -> dict[str, Array]:
        tensors = peaked(rng, _SMALL)
        tensors["query"] *= 10.0 ** rng.integers(-3, 4, (*tensors["query"].shape[:-1], 1))
        tensors["key"][..., 2, :] = 0.0
        tensors["query"][..., 1, :] = 0.0
        return tensors

    yield from both(
        "cosine",
        ("S25",),
        "lengths do not count; a zero vector is similar to nothing",
        cosine,
        None,
        operation="cosine_attention",
        scale=6.0,
        dtypes=HALF,
    )
    yield from both(
        "cosine-masked",
        ("S25",),
        "a scale of one, causal",
        _core(SQUARE),
        _rows(SQUARE),
        operation="cosine_attention",
        mask=causal(),
    )


_INPUTS = (2, 5, 6)


def _inputs(*shape: int, spread: float = 1.5) -> Callable[[np.random.Generator], Array]:
    return lambda rng: np.asarray(spread * rng.standard_normal(shape))


def _gates() -> Iterator[Design]:
    yield from both(
        "attention-gate",
        ("S26",),
        "the gate itself, between 0 and 1",
        make_of(LinearConfig(6, 3), inputs=_inputs(*_INPUTS)),
        (2, 5, 3),
        operation="attention_gate",
    )
    yield from both(
        "attention-gate-saturated",
        ("S26",),
        "large arguments overflow nothing",
        make_of(LinearConfig(6, 3), inputs=_inputs(*_INPUTS, spread=200.0)),
        None,
        operation="attention_gate",
    )
    yield from both(
        "gated-input",
        ("S26",),
        "the gate times the input",
        make_of(LinearConfig(6, 6), inputs=_inputs(*_INPUTS)),
        _INPUTS,
        operation="gated_input",
        dtypes=HALF,
    )
    yield from both(
        "gated-attention",
        ("S27",),
        "scores over units, not positions; all heads share the hidden units",
        make_of(GatedAttentionConfig(6, 3, 5, score_size=4), inputs=_inputs(*_INPUTS)),
        (2, 5, 5),
        operation="gated_attention",
    )


def _cell() -> Iterator[Design]:
    size, heads, classes, batch, length = 6, 3, 4, 3, 5
    config = GatedAttentionCellConfig(size, heads, classes, score_size=7)
    state = {
        "state__memory": _inputs(batch, size, spread=0.8),
        "state__output": lambda rng: np.asarray(rng.uniform(0.1, 0.9, (batch, size))),
    }
    operation: dict[str, Any] = {"operation": "gated_attention_cell", "result": "outputs"}
    inputs = {"inputs": _inputs(batch, length, size, spread=1.0)}
    valid = [[True] * length, [False] * length, [True, False, True, True, False]]

    def pulled(make: Make) -> Make:
        return lambda rng: (
            make(rng)
            | {
                "state.memory_cotangent": rng.standard_normal((batch, size)),
                "state.output_cotangent": rng.standard_normal((batch, size)),
                "outputs_cotangent": rng.standard_normal((batch, classes)),
            }
        )

    plain = make_of(config, **inputs, **state)
    padded = _nan_where_invalid(make_of(config, valid=lambda _: np.asarray(valid), **inputs, **state))
    shared: dict[str, Any] = {"numbers": {}, "recipe": "layers", "operation": "gated_attention_cell"}
    yield from both(
        "cell",
        ("S28",),
        "outputs and both parts of the state from a state that is not zero",
        plain,
        None,
        dtypes=(*WIDE, "bfloat16"),
        **operation,
    )
    yield from both(
        "cell-padded",
        ("S28", "S10"),
        "padding is not read, not even as NaN; an element that is all padding keeps its memory",
        padded,
        None,
        **operation,
    )
    yield from both(
        "cell-dropout",
        ("S28", "S14"),
        "dropout of the distribution over positions",
        make_of(
            config, keep=lambda rng: np.asarray(rng.random((batch, length, size // heads)) > 0.3), **inputs, **state
        ),
        None,
        dropout=0.3,
        **operation,
    )
    for name, make in (("cell", plain), ("cell-padded", padded)):
        yield Design(
            f"gradient-{name}",
            ("S28",),
            "gradients: through outputs, memory and output state at once",
            pulled(make),
            dtypes=("float64",),
            direction="backward",
            **shared,
        )


def _nan_where_invalid(make: Make) -> Make:
    def padded(rng: np.random.Generator) -> dict[str, Array]:
        tensors = make(rng)
        return tensors | {"inputs": np.where(tensors["valid"][..., None], tensors["inputs"], np.nan)}

    return padded

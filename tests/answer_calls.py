"""Every operation with its options, as a function of floating tensors: what `test_one_answer.py` asks in many ways."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract import (
    Dropout,
    causal,
    chunked,
    full,
    key_lengths,
    predicate,
    prefix,
    query_lengths,
    segments,
    sliding_window,
)
from attnspec.contract.biases import as_bias
from attnspec.contract.rotary_option import Rotary

Array = np.ndarray[Any, Any]

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, HEAD_DIM, VALUE_DIM = 2, 4, 2, 3, 5, 6, 3
PAIRS = (BATCH, HEADS, QUERIES, KEYS)

_RNG = np.random.default_rng(67)
KEEP = _RNG.random(PAIRS) < 0.7
KEEP_SELF = _RNG.random((KEYS, KEYS)) < 0.7
VISIBLE = _RNG.random(PAIRS) < 0.7
QUERY_IDS = np.array([[0, 0, 1], [2, -2, -2]])
KEY_IDS = np.array([[0, 1, 0, 1, 1], [2, 2, -2, 3, -2]])
IDS = np.array([0, 0, 1, 1, 1])
POSITIONS = np.array([[0, 1, 2, 7, 8], [3, 1, 0, 2, 100]])


class Call(NamedTuple):
    """A call, and the floating arrays that it takes."""

    function: Callable[..., Any]
    """(module, **tensors) → a tensor or a tuple of them."""
    arrays: dict[str, Array]


def drawn(**shapes: tuple[int, ...]) -> dict[str, Array]:
    """Draw arrays of these shapes."""
    rng = np.random.default_rng([71, *map(len, shapes)])
    return {name: np.array(1.3 * rng.standard_normal(shape)) for name, shape in shapes.items()}


def _core(**more: tuple[int, ...]) -> dict[str, Array]:
    return drawn(
        query=(BATCH, HEADS, QUERIES, HEAD_DIM),
        key=(BATCH, KV_HEADS, KEYS, HEAD_DIM),
        value=(BATCH, KV_HEADS, KEYS, VALUE_DIM),
        **more,
    )


# Masks are the same objects for every framework; they are made here because `torch.compile` traces no constructor that
# is given NumPy arrays.
MASK = (segments(QUERY_IDS, KEY_IDS) & prefix([1, 4], offset=[2, 0]) | VISIBLE) & (
    chunked(2, offset="end")
    | predicate("third", lambda query, key: (query + key) % 3 == 0)
    | ~sliding_window(1, 1, offset=0) & query_lengths([3, 2])
)
MASK &= key_lengths([5, 4]) | full()
SEGMENTS, SELF_SEGMENTS = segments(QUERY_IDS, KEY_IDS), causal() & segments(IDS, IDS)
PADDING, MEMORY = key_lengths([0, 4]), key_lengths([5, 0]) | causal(1)
DROPOUT, SELF_DROPOUT, MEMORY_DROPOUT = (Dropout(0.25, keep) for keep in (KEEP, KEEP_SELF, KEEP_SELF[:1]))
CELL_VALID = np.array([[True, False, True, True, False], [True] * 5])
CELL_DROPOUT = Dropout(0.25, _RNG.random((BATCH, KEYS, 2)) < 0.7)
FILLED, ROTARY = 2, Rotary("half_split", 100.0, 4)
SLICES = [(start, stop, Dropout(0.25, KEEP[..., start:stop])) for start, stop in ((0, 2), (2, 5), (5, 5))]


def _plain(attn: ModuleType, query: Any, key: Any, value: Any) -> Any:
    return attn.dot_product_attention(query, key, value)


def _masks(attn: ModuleType, query: Any, key: Any, value: Any) -> Any:
    return attn.dot_product_attention(query, key, value, mask=MASK)


def _alibi(attn: ModuleType, query: Any, key: Any, value: Any, slopes: Any) -> Any:
    bias = attn.alibi(slopes, symmetric=False, offset=2) + attn.alibi(symmetric=True, offset="end")
    return attn.dot_product_attention(query, key, value, mask=attn.causal("end"), bias=bias)


def _t5(attn: ModuleType, query: Any, key: Any, value: Any, table: Any) -> Any:
    bias = attn.relative_position_bias(table, bidirectional=True, max_distance=3, offset="end")
    return attn.dot_product_attention(query, key, value, bias=bias)


def _sinks(attn: ModuleType, query: Any, key: Any, value: Any, sinks: Any) -> Any:
    return attn.dot_product_attention(query, key, value, mask=PADDING, sinks=sinks)


def _dropout(attn: ModuleType, query: Any, key: Any, value: Any) -> Any:
    return attn.dot_product_attention(query, key, value, dropout=DROPOUT)


def every_option(attn: ModuleType, bias: Any, slopes: Any, sinks: Any) -> dict[str, Any]:
    return {
        "mask": MASK,
        "bias": attn.alibi(slopes, symmetric=True, offset="end") + as_bias(bias),  # torch.compile adds no tensor
        "scale": -0.7,
        "softcap": 4.0,
        "sinks": sinks,
        "dropout": DROPOUT,
    }


def _everything(attn: ModuleType, query: Any, key: Any, value: Any, **options: Any) -> Any:
    return attn.dot_product_attention(query, key, value, **every_option(attn, **options))


def _stages(attn: ModuleType, query: Any, key: Any, value: Any, **options: Any) -> Any:
    return attn.attention_stages(query, key, value, **every_option(attn, **options))


def _partials(attn: ModuleType, query: Any, key: Any, value: Any, sinks: Any) -> Any:
    parts = []
    for start, stop, kept in SLICES:
        given = {"mask": attn.causal(2 - start), "bias": attn.alibi(symmetric=False, offset=-start), "dropout": kept}
        slices = key[..., start:stop, :], value[..., start:stop, :]
        parts.append(attn.attention_with_logsumexp(query, *slices, **given, softcap=4.0))
    first = attn.merge_attention([part.output for part in parts[:2]], [part.logsumexp for part in parts[:2]])
    outputs, logsumexps = (first.output, parts[2].output), (first.logsumexp, parts[2].logsumexp)
    return attn.merge_attention(outputs, logsumexps, sinks=sinks)


def _self_attention(attn: ModuleType, sinks: Any, slopes: Any, **tensors: Any) -> Any:
    options = {"mask": SELF_SEGMENTS, "bias": attn.alibi(slopes, symmetric=True), "softcap": 4.0}
    return attn.self_attention(**tensors, **options, sinks=sinks, dropout=SELF_DROPOUT)


def _key_value_attention(attn: ModuleType, bias: Any, sinks: Any, **tensors: Any) -> Any:
    options = {"mask": MEMORY, "bias": bias, "scale": 0.3, "sinks": sinks, "dropout": MEMORY_DROPOUT}
    return attn.key_value_attention(**tensors, **options)


def _multi_head_attention(attn: ModuleType, query: Any, memory: Any, sinks: Any, slopes: Any, **weights: Any) -> Any:
    options = {"bias": attn.alibi(slopes, symmetric=True, offset=1), "sinks": sinks}
    options |= {"mask": SEGMENTS, "dropout": DROPOUT}
    parameters = attn.MultiHeadParameters(**weights)
    return attn.multi_head_attention(query, memory, memory, parameters, num_heads=4, num_kv_heads=2, **options)


def _hard(attn: ModuleType, query: Any, key: Any, value: Any, noise: Any, slopes: Any) -> Any:
    options = {"mask": MASK, "bias": attn.alibi(slopes, symmetric=True, offset="end"), "softcap": 4.0}
    return attn.hard_attention(query, key, value, top_k=2, noise=noise, **options)


def _additive(attn: ModuleType, query: Any, key: Any, value: Any, **tensors: Any) -> Any:
    options = {name: tensors.pop(name) for name in _OPTIONS}
    return attn.additive_attention(
        query, key, value, attn.AdditiveParameters(**tensors), **every_option(attn, **options)
    )


def _bilinear(attn: ModuleType, query: Any, key: Any, value: Any, weight: Any, **options: Any) -> Any:
    return attn.bilinear_attention(query, key, value, weight, **every_option(attn, **options))


def _cosine(attn: ModuleType, query: Any, key: Any, value: Any, **options: Any) -> Any:
    return attn.cosine_attention(query, key, value, **every_option(attn, **options))


def _gated(attn: ModuleType, inputs: Any, **weights: Any) -> Any:
    return attn.gated_attention(inputs, attn.GatedAttentionParameters(**weights))


def _cell(attn: ModuleType, inputs: Any, memory: Any, output: Any, **weights: Any) -> Any:
    state = attn.CellState(memory, output)
    options = {"valid": CELL_VALID, "dropout": CELL_DROPOUT}
    outputs, new = attn.gated_attention_cell(inputs, state, attn.GatedAttentionCellParameters(**weights), **options)
    return outputs, *new


def _embedding(attn: ModuleType, table: Any, bias: Any) -> Any:
    return attn.embedding(QUERY_IDS % 5, attn.LinearParameters(table, bias))


def _cached(attn: ModuleType, inputs: Any, key: Any, value: Any, sinks: Any, **weights: Any) -> Any:
    cache, parameters = attn.KeyValueCache(key, value, FILLED), attn.MultiHeadParameters(**weights)
    options = {"mask": attn.sliding_window(2, 0, offset=FILLED), "sinks": sinks, "rotary": ROTARY}
    output, new = attn.cached_multi_head_attention(inputs, parameters, cache, num_heads=4, num_kv_heads=2, **options)
    return output, new.key, new.value


def _rotary_half_split(attn: ModuleType, inputs: Any, positions: Any) -> Any:
    return attn.rotary_embedding(inputs, positions, pairing="half_split", rotary_dim=6, base=100.0)


def _rotary_interleaved(attn: ModuleType, inputs: Any, positions: Any, frequencies: Any) -> Any:
    turned = {"rotary_dim": 4, "frequencies": frequencies}
    return attn.rotary_embedding(inputs, positions, pairing="interleaved", **turned)


def _rotate_pairs(attn: ModuleType, inputs: Any, cosines: Any, sines: Any) -> Any:
    return attn.rotate_pairs(inputs, cosines, sines, pairing="half_split")


def _sinusoidal(attn: ModuleType, positions: Any) -> Any:
    return attn.sinusoidal_positions(positions, 6, base=50.0, dtype="float64")


_OPTIONS = {"bias": PAIRS, "slopes": (HEADS,), "sinks": (HEADS,)}
_INPUTS = {"inputs": (BATCH, HEADS, KEYS, HEAD_DIM)}
_PLACES = {"positions": POSITIONS.astype(np.float64)}
_SELF = {"inputs": (BATCH, KEYS, 7), "query_weight": (7, 3), "key_weight": (7, 3), "value_weight": (7, 2)}
_MEMORY = {"query": (BATCH, 3), "keys": (BATCH, KEYS, 3), "values": (BATCH, KEYS, 2), "bias": (1, KEYS)}
_WEIGHTS = {"query_weight": (7, 8), "key_weight": (7, 4), "value_weight": (7, 6), "output_weight": (12, 5)}
_WEIGHTS |= {"query": (BATCH, QUERIES, 7), "memory": (BATCH, KEYS, 7), "query_bias": (8,), "output_bias": (5,)}

_ADDITIVE = {"score_weight": (7,), "query_weight": (HEAD_DIM, 7), "key_weight": (HEAD_DIM, 7), "hidden_bias": (7,)}
_GATED = {"inputs": (BATCH, KEYS, 4), "input_weight": (4, 2), "input_bias": (2,), "unit_weight": (3, 2, 5)}
_GATED |= {"unit_bias": (3, 2, 5), "score_weight": (5,), "output_bias": (2,)}
_CELL = {"inputs": (BATCH, KEYS, 4), "memory": (BATCH, 4), "output": (BATCH, 4)}
_CELL |= {"gate_weight": (2, 4, 2), "gate_bias": (2, 2), "unit_bias": (2, 3), "score_weight": (3,)}
_CELL |= dict.fromkeys(("input_score_weight", "mean_score_weight", "output_score_weight"), (4, 3))
_CELL |= dict.fromkeys(("update_weight", "recurrent_weight"), (4, 4)) | {"update_bias": (4,)}
_CELL |= dict.fromkeys(("control_weight", "control_recurrent_weight"), (4, 2)) | {"control_bias": (2,)}
_CELL |= {"output_gate_bias": (4,), "output_weight": (4, 3), "output_bias": (3,)}
_CACHED = {"query_weight": (7, 24), "key_weight": (7, 12), "value_weight": (7, 6), "output_weight": (12, 5)}
_CACHED |= {"inputs": (BATCH, QUERIES, 7), "key_bias": (12,), "sinks": (HEADS,)}
_CACHED |= {"key": (BATCH, KV_HEADS, KEYS, HEAD_DIM), "value": (BATCH, KV_HEADS, KEYS, VALUE_DIM)}

CALLS: dict[str, Call] = {
    "plain": Call(_plain, _core()),
    "masks": Call(_masks, _core()),
    "alibi": Call(_alibi, _core(slopes=(HEADS,))),
    "t5": Call(_t5, _core(table=(6, HEADS))),
    "sinks": Call(_sinks, _core(sinks=(HEADS,))),
    "dropout": Call(_dropout, _core()),
    "everything": Call(_everything, _core(**_OPTIONS)),
    "stages": Call(_stages, _core(**_OPTIONS)),
    "partials": Call(_partials, _core(sinks=(HEADS,))),
    "self_attention": Call(_self_attention, drawn(**_SELF, sinks=(), slopes=())),
    "key_value_attention": Call(_key_value_attention, drawn(**_MEMORY, sinks=())),
    "multi_head_attention": Call(_multi_head_attention, drawn(**_WEIGHTS, sinks=(HEADS,), slopes=(HEADS,))),
    "cached_multi_head_attention": Call(_cached, drawn(**_CACHED)),
    "hard": Call(_hard, _core(noise=PAIRS, slopes=(HEADS,))),
    "additive": Call(_additive, _core(**_ADDITIVE, **_OPTIONS)),
    "bilinear": Call(_bilinear, _core(weight=(HEAD_DIM, HEAD_DIM), **_OPTIONS)),
    "cosine": Call(_cosine, _core(**_OPTIONS)),
    "gated": Call(_gated, drawn(**_GATED)),
    "cell": Call(_cell, drawn(**_CELL)),
    "embedding": Call(_embedding, drawn(table=(5, 3), bias=(3,))),
    "rotary_half_split": Call(_rotary_half_split, drawn(**_INPUTS) | _PLACES),
    "rotary_interleaved": Call(
        _rotary_interleaved, drawn(**_INPUTS, frequencies=(2,)) | {"positions": _PLACES["positions"][0]}
    ),
    "rotate_pairs": Call(_rotate_pairs, drawn(**_INPUTS, cosines=(KEYS, 2), sines=(KEYS, 2))),
    "sinusoidal": Call(_sinusoidal, _PLACES),
}


# --- memory layouts of NumPy arrays, all of the same numbers but for `repeated`


def reversed_in_memory(array: Array) -> Array:
    """The same array with negative strides."""
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return array[backwards].copy()[backwards]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": lambda array: np.asfortranarray(array) if array.ndim else array,
    "transposed": lambda array: array.swapaxes(-1, -2).copy().swapaxes(-1, -2) if array.ndim > 1 else array,
    "reversed": reversed_in_memory,
    "every_second": lambda array: np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array,
    "repeated": lambda array: np.broadcast_to(array[:1], array.shape) if array.ndim else array,
    "big_endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
}

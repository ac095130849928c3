"""Wrong calls of rotary options, caches and decoding (S37): refused, in the same words everywhere."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused

from attnspec.contract import Dropout, MultiHeadParameters, causal
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import DecoderCache, DecoderLayerDropout, KeyValueCache
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.states import leaves, rebuild

# Trees of shapes, as lists: E = 7, F = 11, Em = 13, 4 heads of 3 over 2 of keys and values of 3 and 5.
NORM = LayerNormParameters([7], [7])
FEED = FeedForwardParameters([7, 11], [11, 7])
ATTENTION = MultiHeadParameters([7, 12], [7, 6], [7, 10], [20, 7])
CROSS = MultiHeadParameters([7, 12], [13, 6], [13, 10], [20, 7])
DECODER = DecoderParameters((DecoderLayerParameters(ATTENTION, NORM, CROSS, NORM, FEED, NORM),) * 2)
CACHE = KeyValueCache([2, 2, 8, 3], [2, 2, 8, 5], 0)
HELD = KeyValueCache([2, 2, 9, 3], [2, 2, 9, 5], 9)
CACHES = DecoderCache((CACHE, CACHE), (HELD, HELD))
MODEL = TransformerParameters(
    EncoderParameters(()),
    DecoderParameters(()),
    source_embedding=LinearParameters([17, 6]),
    target_embedding=LinearParameters([5, 6]),
    head=LinearParameters([6, 5]),
)
HEADS = {"num_heads": 4, "num_kv_heads": 2}


def zeros(t: Maker, tree: Any, dtype: str = "float64") -> Any:
    """Make zeros of every shape in a tree; what is no tree of shapes stays as it is."""
    if not hasattr(tree, "_fields"):
        return tree
    made = {path: t(*leaf, dtype=dtype) if isinstance(leaf, list) else leaf for path, leaf in leaves(tree).items()}
    return rebuild(tree, made)


def decoding(attn: ModuleType) -> Any:
    return importlib.import_module(f"{attn.__name__}.decoding")


def turned(rotary: Any, queries: int = 5, keys: int = 5, head_dim: int = 6, **options: Any) -> Any:
    """Make a multi-head attention of 2 heads, (3, T, 7), with a `rotary`; a function makes it."""

    def call(attn: ModuleType, t: Maker) -> Any:
        columns = 2 * head_dim
        parameters = MultiHeadParameters(t(7, columns), t(7, columns), t(7, columns), t(columns, 7))
        given = rotary(t) if callable(rotary) else rotary
        operands = t(3, queries, 7), t(3, keys, 7), t(3, keys, 7)
        return attn.multi_head_attention(*operands, parameters, num_heads=2, rotary=given, **options)

    return call


def cached(cache: Any = CACHE, parameters: Any = ATTENTION, shape: Any = (2, 3, 7), **options: Any) -> Any:
    options = HEADS | options
    dtypes = {name: options.pop(name, "float64") for name in ("dtype", "cache_dtype")}

    def call(attn: ModuleType, t: Maker) -> Any:
        inputs, weights = t(*shape, dtype=dtypes["dtype"]), zeros(t, parameters, dtypes["dtype"])
        held = cache(t) if callable(cache) else zeros(t, cache, dtypes["cache_dtype"])
        return decoding(attn).cached_multi_head_attention(inputs, weights, held, **options)

    return call


def start(memory: Any = (2, 9, 13), parameters: Any = DECODER, **options: Any) -> Any:
    options = HEADS | {"capacity": 8} | options
    return lambda attn, t: decoding(attn).start_decoding(t(*memory), zeros(t, parameters), **options)


def step(cache: Any = CACHES, shape: Any = (2, 3, 7), parameters: Any = DECODER, **options: Any) -> Any:
    options = HEADS | options
    return lambda attn, t: decoding(attn).decoder_step(t(*shape), zeros(t, parameters), zeros(t, cache), **options)


def write(source: Any = ((1, 2, 3),), parameters: Any = MODEL, **options: Any) -> Any:
    options = {"num_heads": 1, "start": 1, "stop": 2, "max_length": 4} | options
    return lambda attn, t: decoding(attn).greedy_decode(t.of(source), zeros(t, parameters), **options)


def empty(*arguments: Any, **options: Any) -> Any:
    return lambda attn, _t: decoding(attn).empty_cache(*arguments, **options)


PAIRING = "`pairing` must be 'half_split' (component c turns with c + size/2) or 'interleaved' (2c with 2c + 1); got"
EVEN = "`rotary_dim` of `Rotary` must be even and between 0 and 6, the size of a head: components turn in pairs; got"
OFFSET = "`offset` of `Rotary` must be an int"
ROTARY: dict[str, Case] = {
    "a name": (TypeError, "`rotary` must be Rotary(pairing, …); got an object of type str", turned("interleaved")),
    "a mask": (
        TypeError,
        "`rotary` must be Rotary(pairing, …); got an object of type attnspec.Causal",
        turned(causal()),
    ),
    "True": (TypeError, "`rotary` must be Rotary(pairing, …); got an object of type bool", turned(True)),
    "no pairing": (
        TypeError,
        "Rotary.__init__() missing 1 required positional argument: 'pairing'",
        turned(lambda _: Rotary()),
    ),
    "another pairing": (ValueError, f"{PAIRING} 'neox'", turned(lambda _: Rotary("neox"))),
    "negative base": (
        ValueError,
        "`base` must be positive and finite; got -2.0",
        turned(lambda _: Rotary("half_split", -2)),
    ),
    "base in words": (
        TypeError,
        "`base` must be a Python number; got an object of type str",
        turned(lambda _: Rotary("half_split", "10000")),
    ),
    "float rotary_dim": (
        TypeError,
        "`rotary_dim` of `Rotary` must be an int or None; got 4.0",
        turned(lambda _: Rotary("half_split", rotary_dim=4.0)),
    ),
    "odd rotary_dim": (ValueError, f"{EVEN} 3", turned(Rotary("half_split", rotary_dim=3))),
    "negative rotary_dim": (ValueError, f"{EVEN} -2", turned(Rotary("half_split", rotary_dim=-2))),
    "beyond a head": (ValueError, f"{EVEN} 8", turned(Rotary("half_split", rotary_dim=8))),
    "odd head": (
        ValueError,
        "the size of a head must be even: components turn in pairs; got 5",
        turned(Rotary("half_split"), head_dim=5),
    ),
    "no offset": (
        ValueError,
        (
            "`Rotary` without an offset needs as many queries as keys; got 2 queries and 5 keys: say `offset=0` "
            "(query 0 stands at key 0, top-left) "
            "or `offset='end'` (the last query stands at the last key, bottom-right)"
        ),
        turned(Rotary("half_split"), queries=2),
    ),
    "offset in words": (
        ValueError,
        f"{OFFSET}, integers of shape (*batch,), 'end' or None; got 'start'",
        turned(lambda _: Rotary("half_split", offset="start")),
    ),
    "float offset": (
        TypeError,
        f"{OFFSET} or integers of shape (*batch,); got an object of type float",
        turned(lambda _: Rotary("half_split", offset=1.5)),
    ),
    "offset for each query": (
        ValueError,
        f"{OFFSET} or have the batch shape (3,); got shape (5,)",
        turned(Rotary("half_split", offset=np.arange(5))),
    ),
    "far offset": (
        ValueError,
        "`offset` of `Rotary` must lie between -536870912 and 536870912; got 536870913",
        turned(Rotary("half_split", offset=2**29 + 1)),
    ),
    "far native offset": (
        ValueError,
        "`offset` of `Rotary` must lie between -536870912 and 536870912; got [0, 0, 1000000000]",
        turned(Rotary("half_split", offset=[0, 0, 10**9])),
    ),
}

SIZES = "`dtype` must be one of 'float64', 'float32', 'bfloat16', 'float16'; got"
EMPTY: dict[str, Case] = {
    "a number of batches": (
        TypeError,
        "`batch_shape` must be a tuple of ints; got an object of type int",
        empty(2, 8, 2, 3),
    ),
    "a float in the batch": (
        TypeError,
        "each size of `batch_shape` must be an int; got 2.0",
        empty((2.0,), 8, 2, 3),
    ),
    "negative batch": (ValueError, "each size of `batch_shape` must be at least 0; got -1", empty((-1,), 8, 2, 3)),
    "negative capacity": (ValueError, "`capacity` must be at least 0; got -8", empty((2,), -8, 2, 3)),
    "bool capacity": (TypeError, "`capacity` must be an int; got True", empty((2,), True, 2, 3)),
    "no head": (ValueError, "`num_kv_heads` must be at least 1; got 0", empty((2,), 8, 0, 3)),
    "head of size 0": (ValueError, "`head_dim` must be at least 1; got 0", empty((2,), 8, 2, 0)),
    "negative value_dim": (ValueError, "`value_dim` must be at least 0; got -3", empty((2,), 8, 2, 3, -3)),
    "int dtype": (TypeError, f"{SIZES} 'int32'", empty((2,), 8, 2, 3, dtype="int32")),
    "no dtype": (TypeError, f"{SIZES} None", empty((2,), 8, 2, 3, dtype=None)),
    "Python's float": (TypeError, f"{SIZES} <class 'float'>", empty((2,), 8, 2, 3, dtype=float)),
}

ROOM = "must have room for the new positions: got"
LENGTH = "`length` of `cache` must be an int or an integer tensor without axes; got"
CACHED: dict[str, Case] = {
    "a tuple": (
        TypeError,
        "`cache` must be KeyValueCache(key, …); got an object of type tuple",
        cached(lambda t: tuple(zeros(t, CACHE))),
    ),
    "no keys": (TypeError, "`key` of `cache` must be given; got None", cached(KeyValueCache(None, [2, 2, 8, 5], 0))),
    "parameters in a tuple": (
        TypeError,
        "`parameters` must be MultiHeadParameters(query_weight, …); got an object of type tuple",
        cached(parameters=()),
    ),
    "full": (
        ValueError,
        f"`cache` {ROOM} 3 after the 6 that it holds, and a capacity of 8",
        cached(CACHE._replace(length=6)),
    ),
    "full, by a tensor": (
        ValueError,
        f"`cache` {ROOM} 3 after the 6 that it holds, and a capacity of 8",
        cached(lambda t: zeros(t, CACHE)._replace(length=t.of(6))),
    ),
    "more than the capacity": (
        ValueError,
        f"`cache` {ROOM} 9 after the 0 that it holds, and a capacity of 8",
        cached(shape=(2, 9, 7)),
    ),
    "negative length": (
        ValueError,
        "`length` of `cache` must be at least 0; got -1",
        cached(CACHE._replace(length=-1)),
    ),
    "negative tensor": (
        ValueError,
        "`length` of `cache` must be at least 0; got -1",
        cached(lambda t: zeros(t, CACHE)._replace(length=t.of(-1))),
    ),
    "float length": (TypeError, f"{LENGTH} an object of type float", cached(CACHE._replace(length=2.0))),
    "length for each": (
        ValueError,
        f"{LENGTH} shape (2,)",
        cached(lambda t: zeros(t, CACHE)._replace(length=t.of([1, 2]))),
    ),
    "no length": (TypeError, "`length` of `cache` must be given; got None", cached(CACHE._replace(length=None))),
    "another batch": (
        ValueError,
        "`key` of `cache` must have shape (3, 2, capacity, 3); got shape (2, 2, 8, 3)",
        cached(shape=(3, 3, 7)),
    ),
    "a cache for all heads": (
        ValueError,
        "`key` of `cache` must have shape (2, 2, capacity, 3); got shape (2, 4, 8, 3)",
        cached(KeyValueCache([2, 4, 8, 3], [2, 4, 8, 5], 0)),
    ),
    "values of another capacity": (
        ValueError,
        "`value` of `cache` must have shape (2, 2, 8, 5); got shape (2, 2, 9, 5)",
        cached(KeyValueCache([2, 2, 8, 3], [2, 2, 9, 5], 0)),
    ),
    "no heads": (
        ValueError,
        "`key` of `cache` must have shape (2, 2, capacity, 3); got shape (2, 8, 3)",
        cached(KeyValueCache([2, 8, 3], [2, 8, 5], 0)),
    ),
    "narrow cache": (
        TypeError,
        "`key` of `cache` must have dtype float64 beside float64 inputs; got float32",
        cached(cache_dtype="float32"),
    ),
    "int cache": (TypeError, f"`key` of `cache` {FLOATING}; got int32", cached(cache_dtype="int32")),
    "keys and values of two dtypes": (
        TypeError,
        "keys and values of `cache` must share one dtype; got key float32, value float16",
        cached(
            lambda t: KeyValueCache(t(2, 2, 8, 3, dtype="float32"), t(2, 2, 8, 5, dtype="float16"), 0), dtype="float16"
        ),
    ),
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        cached(shape=(7,)),
    ),
    "inputs of another size": (
        ValueError,
        (
            "`query_weight` must have shape (size of `inputs`, columns); "
            "got shapes inputs (2, 3, 6) and query_weight (7, 12)"
        ),
        cached(shape=(2, 3, 6)),
    ),
    "keys of another size": (
        ValueError,
        "`key_weight` must have shape (size of `inputs`, columns); got shapes inputs (2, 3, 7) and key_weight (13, 6)",
        cached(parameters=CROSS),
    ),
    "causal again": (
        ValueError,
        (
            "`causal` without an offset needs as many queries as keys; got 3 queries and 8 keys: say `offset=0` "
            "(query 0 stands at key 0, top-left) "
            "or `offset='end'` (the last query stands at the last key, bottom-right)"
        ),
        cached(mask=causal()),
    ),
    "a mask among new positions": (
        ValueError,
        "each axis of `mask` must be 1 or that of (2, 4, 3, 8); got shape (3, 3)",
        cached(mask=np.ones((3, 3), bool)),
    ),
    "rotary with an offset": (
        ValueError,
        (
            "`rotary` beside a cache must not have an offset: the cache says where new positions stand; "
            "got Rotary('half_split', base=10000.0, offset=4)"
        ),
        cached(rotary=Rotary("half_split", offset=4)),
    ),
    "rotary of an odd head": (
        ValueError,
        "the size of a head must be even: components turn in pairs; got 3",
        cached(rotary=Rotary("half_split")),
    ),
    "rotary as a name": (
        TypeError,
        "`rotary` must be Rotary(pairing, …); got an object of type str",
        cached(rotary="half_split"),
    ),
}

STARTS: dict[str, Case] = {
    "negative capacity": (ValueError, "`capacity` must be at least 0; got -1", start(capacity=-1)),
    "float capacity": (TypeError, "`capacity` must be an int; got 8.0", start(capacity=8.0)),
    "memory of rank 1": (
        ValueError,
        "`memory` must have at least 2 axes, (*batch, length, size); got shape (13,)",
        start((13,)),
    ),
    "memory of another size": (
        ValueError,
        (
            "in `layers.0.cross_attention` of `parameters`: `key_weight` must have shape (size of `key`, columns); "
            "got shapes key (2, 9, 12) and key_weight (13, 6)"
        ),
        start((2, 9, 12)),
    ),
    "one layer": (
        TypeError,
        "`parameters` must be DecoderParameters(layers, …); got an object of type attnspec.DecoderLayerParameters",
        start(parameters=DECODER.layers[0]),
    ),
    "heads": (ValueError, "`num_heads` must be a multiple of `num_kv_heads`; got 4 and 3", start(num_kv_heads=3)),
}

SHALLOW = CACHES._replace(layers=(CACHE,))
STEPS: dict[str, Case] = {
    "one cache": (
        TypeError,
        "`cache` must be DecoderCache(layers, …); got an object of type attnspec.KeyValueCache",
        step(CACHE),
    ),
    "a layer too few": (
        ValueError,
        "`layers` of `cache` must have one cache for each of the 2 layers; got 1",
        step(SHALLOW),
    ),
    "memory of a layer too few": (
        ValueError,
        "`memory` of `cache` must have one cache for each of the 2 layers; got 0",
        step(CACHES._replace(memory=())),
    ),
    "full in the second layer": (
        ValueError,
        f"`layers.1` of `cache` {ROOM} 3 after the 7 that it holds, and a capacity of 8",
        step(CACHES._replace(layers=(CACHE, CACHE._replace(length=7)))),
    ),
    "keys of another size": (
        ValueError,
        "`layers.0.key` of `cache` must have shape (2, 2, capacity, 3); got shape (2, 2, 8, 5)",
        step(CACHES._replace(layers=(CACHE._replace(key=[2, 2, 8, 5]), CACHE))),
    ),
    "memories of two lengths": (
        ValueError,
        "`memory.1.key` of `cache` must have shape (2, 2, 9, 3); got shape (2, 2, 8, 3)",
        step(CACHES._replace(memory=(HELD, CACHE))),
    ),
    "memory without heads": (
        ValueError,
        (
            "`memory.0.key` of `cache` must have one axis more than `inputs`, (*batch, heads, length, size); "
            "got shapes inputs (2, 3, 7) and memory.0.key (2, 9, 3)"
        ),
        step(CACHES._replace(memory=(HELD._replace(key=[2, 9, 3]), HELD))),
    ),
    "memory that holds too much": (
        ValueError,
        "`key_lengths` must lie between 0 and the number of keys, 9; got 10",
        step(CACHES._replace(memory=(HELD, HELD._replace(length=10)))),
    ),
    "inputs of another size": (
        ValueError,
        (
            "in `layers.0.attention` of `parameters`: `query_weight` must have shape (size of `query`, columns); "
            "got shapes query (2, 3, 6) and query_weight (7, 12)"
        ),
        step(shape=(2, 3, 6)),
    ),
    "mask": (
        TypeError,
        "decoder_step() got an unexpected keyword argument 'mask'",
        step(mask=causal()),
    ),
    "memory_mask over the cache": (
        ValueError,
        "in `memory_mask`: each axis of `mask` must be 1 or that of (2, 4, 3, 9); got shape (3, 8)",
        step(memory_mask=np.ones((3, 8), bool)),
    ),
    "bias among new positions": (
        ValueError,
        "each axis of `bias` must be 1 or that of (2, 4, 3, 8); got shape (3, 3)",
        step(bias=np.zeros((3, 3))),
    ),
    "dropout among new positions": (
        ValueError,
        (
            "in `weights` of `dropout[1]`: each axis of `keep` of `Dropout` must be 1 or that of (2, 4, 3, 8); "
            "got shape (3, 3)"
        ),
        step(dropout=(None, DecoderLayerDropout(weights=Dropout(0.5, np.ones((3, 3), bool))))),
    ),
    "rotary with an offset": (
        ValueError,
        (
            "`rotary` beside a cache must not have an offset: the cache says where new positions stand; "
            "got Rotary('half_split', base=10000.0, offset='end')"
        ),
        step(rotary=Rotary("half_split", offset="end")),
    ),
}

VOCABULARY = "must be less than the size of the vocabulary, 5; got"
WRITING: dict[str, Case] = {
    "no embedding of the target": (
        TypeError,
        "`target_embedding` of `parameters` must be given, because what is written are ids; got None",
        write(parameters=MODEL._replace(target_embedding=None)),
    ),
    "start beyond the vocabulary": (ValueError, f"`start` {VOCABULARY} 5", write(start=5)),
    "stop beyond the vocabulary": (ValueError, f"`stop` {VOCABULARY} 17", write(stop=17)),
    "negative start": (ValueError, "`start` must be at least 0; got -1", write(start=-1)),
    "no stop": (TypeError, "`stop` must be an int; got None", write(stop=None)),
    "float length": (TypeError, "`max_length` must be an int; got 4.0", write(max_length=4.0)),
    "negative length": (ValueError, "`max_length` must be at least 0; got -4", write(max_length=-4)),
    "id beyond the vocabulary": (
        ValueError,
        "ids in `source` must be at least 0 and less than the size of the vocabulary, 17; got 17 at (0, 2)",
        write(((1, 2, 17),)),
    ),
    "more logits than ids": (
        ValueError,
        (
            "what is written must have a row of `target_embedding.weight` of `parameters`, of which there are 5; "
            "got 6 logits"
        ),
        write(parameters=MODEL._replace(head=LinearParameters([6, 6]))),
    ),
    "as many components as logits": (
        ValueError,
        (
            "what is written must have a row of `target_embedding.weight` of `parameters`, of which there are 5; "
            "got 6 logits"
        ),
        write(parameters=MODEL._replace(head=None)),
    ),
    "no logits": (
        ValueError,
        "`head.weight` of `parameters` must have at least 1 column; got 0",
        write(parameters=MODEL._replace(head=LinearParameters([6, 0]))),
    ),
    "a short table": (
        ValueError,
        "`max_length` must be at most the 3 positions of `target_positions` of `parameters`; got 4",
        write(parameters=MODEL._replace(source_positions=[3, 6], target_positions=[3, 6]), positions="learned"),
    ),
    "rotary with an offset": (
        ValueError,
        (
            "`rotary` beside a cache must not have an offset: the cache says where new positions stand; "
            "got Rotary('half_split', base=10000.0, offset=0)"
        ),
        write(rotary=Rotary("half_split", offset=0)),
    ),
    "valid of another length": (
        ValueError,
        "`source_valid` must have shape (1, 3), one boolean for each position; got (1, 4)",
        write(source_valid=np.ones((1, 4), bool)),
    ),
}

EVERY = {
    f"{group}: {name}": case
    for group, cases in {
        "rotary": ROTARY,
        "empty": EMPTY,
        "cached": CACHED,
        "start": STARTS,
        "step": STEPS,
        "write": WRITING,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_wrong_call_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_float64_without_64_bit_is_refused() -> None:
    """JAX alone can be without it; nothing else in this process is."""
    jax = importlib.import_module("jax")
    module = importlib.import_module("attnspec.jax.decoding")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(TypeError, match="`dtype` float64 would be rounded to float32 by JAX"):
            module.empty_cache((2,), 8, 2, 3, dtype="float64")
    finally:
        jax.config.update("jax_enable_x64", True)

"""Caches of keys and values: their sizes, what is filled, and what still fits (clause S37)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .blocks import BlockSettings, at_place, check_sequence, check_stack
from .checks import Checks
from .layer_results import DecoderLayerDropout, KeyValueCache, TransformerDropout
from .masks import Mask, as_mask
from .models import ModelOptions, check_transformer
from .operands import FLOATING, Operand, Shape, Size, check_dtype, describe, dtype_name, show_shape, show_size
from .options import Given, Options, check_options
from .parameters import MultiHeadParameters
from .positional_masks import Causal, KeyLengths
from .positions import as_integers
from .rotary_option import Rotary
from .shapes import Sizes, multi_head_sizes

LENGTH = "an int or an integer tensor without axes"


class StepPlan(NamedTuple):
    """The two attentions of a decoder layer in one step: over its own positions, and over the encoder's output."""

    sizes: Sizes
    options: Options
    cross_sizes: Sizes
    cross_options: Options


class Span(NamedTuple):
    """What is written: from a first id, to a last one, and how many at most."""

    start: int
    stop: int
    max_length: int

    @classmethod
    def checked(cls, start: Any, stop: Any, max_length: Any) -> Span:
        """Check what needs no tensors."""
        first, last = check_count("`start`", start, 0), check_count("`stop`", stop, 0)
        return cls(first, last, check_count("`max_length`", max_length, 0))


def check_empty(
    batch_shape: Any, capacity: Any, num_kv_heads: Any, head_dim: Any, value_dim: Any, dtype: Any
) -> tuple[Shape, Shape, str]:
    """Check what an empty cache is made of; return the shapes of its keys and values, and the name of its dtype."""
    if not isinstance(batch_shape, Sequence) or isinstance(batch_shape, str):
        raise TypeError(f"`batch_shape` must be a tuple of ints; got {describe(batch_shape)}")
    batch = tuple(check_count("each size of `batch_shape`", size, 0) for size in batch_shape)
    capacity, heads = check_count("`capacity`", capacity, 0), check_count("`num_kv_heads`", num_kv_heads, 1)
    key_size = check_count("`head_dim`", head_dim, 1)
    value_size = key_size if value_dim is None else check_count("`value_dim`", value_dim, 0)
    name = dtype.__name__ if isinstance(dtype, type) else dtype_name(dtype)
    if name not in FLOATING:
        raise TypeError(f"`dtype` must be one of {', '.join(map(repr, FLOATING))}; got {dtype!r}")
    return (*batch, heads, capacity, key_size), (*batch, heads, capacity, value_size), name


def check_cache_dtypes(cache: Mapping[str, Operand], dtype: str, *wide: str) -> None:
    """Check that keys and values, by path, have the dtype of the inputs, or one that they may accumulate in."""
    for path, operand in cache.items():
        check_dtype(f"{path}` of `cache", operand.dtype)
        if operand.dtype not in (dtype, *wide):
            allowed = " or ".join(sorted({dtype, *wide}))
            raise TypeError(f"`{path}` of `cache` must have dtype {allowed} beside {dtype} inputs; got {operand.dtype}")
    if len({operand.dtype for operand in cache.values()}) > 1:
        listed = ", ".join(f"{path} {operand.dtype}" for path, operand in cache.items())
        raise TypeError(f"keys and values of `cache` must share one dtype; got {listed}")


def cached_sizes(
    new: Sizes, key: Operand, value: Operand, length: Any, checks: Checks, path: str = ""
) -> tuple[Sizes, Any]:
    """Check a cache against the sizes of an attention among new positions, and that these fit into it.

    Return the sizes of an attention over the whole cache, and its length: an int where it may be read, otherwise an
    integer tensor without axes. `path` is that of a cache among several, such as "layers.0".
    """
    sizes = _sizes_over(new, None, key, value, checks, path)
    length = check_length(length, checks, path)
    filled = length if isinstance(length, int) else 0  # how many they are may not be known, but not fewer than none

    def overflow() -> str:
        return (
            f"`{_of_cache(path)}` must have room for the new positions: "
            f"got {show_size(new.query_length)} after the {show_size(length)} that it holds, "
            f"and a capacity of {show_size(sizes.key_length)}"
        )

    checks.at_most(filled + new.query_length, sizes.key_length, overflow)
    return sizes, length


def check_length(length: Any, checks: Checks, path: str = "") -> Any:
    """Check how much of a cache is filled: return an int where it can be known, otherwise an integer tensor."""
    name = _of_cache(path, "length")
    length = as_integers(name, length, minimum=0, expected=LENGTH)
    if isinstance(length, int):
        return length
    values, shape = checks.read(name, length), checks.shape(length)
    if len(shape) != 0:
        raise ValueError(f"`{name}` must be {LENGTH}; got shape {show_shape(shape)}")
    return length if values is None else as_integers(name, int(values), minimum=0, expected=LENGTH)


def check_cached_rotary(rotary: Any, head_dim: Size, checks: Checks) -> None:
    """Refuse what is neither None nor a `Rotary` that turns such heads and leaves their positions to the cache."""
    if rotary is None:
        return
    check_turns_by_cache(rotary)
    rotary.check_head(head_dim, checks)


def check_turns_by_cache(rotary: Any) -> None:
    """Refuse what is neither None nor a `Rotary` without an offset: the cache says where new positions stand."""
    if rotary is None:
        return
    if not isinstance(rotary, Rotary):
        raise TypeError(f"`rotary` must be Rotary(pairing, …); got {describe(rotary)}")
    if rotary.offset is not None:
        raise ValueError(
            f"`rotary` beside a cache must not have an offset: the cache says where new positions stand; got {rotary!r}"
        )


def causal_after(mask: Mask | None, length: Any) -> Mask:
    """Add to a mask that new positions, which stand behind the filled ones, see those and one another causally."""
    causal = Causal(length)
    return causal if mask is None else mask & causal


def check_start(
    memory: Operand,
    given: Mapping[str, Operand],
    num_layers: int,
    settings: BlockSettings,
    capacity: Any,
    checks: Checks,
) -> tuple[Sizes, ...]:
    """Check a decoder's parameters, by path, beside memory (*B, Tm, Em), and how many positions are to be decoded.

    Return the sizes of each layer's attention among as many positions.
    """
    capacity = check_count("`capacity`", capacity, 0)
    check_sequence("memory", memory)
    if not num_layers:
        return ()
    # What is decoded later has the size that the parameters take.
    size = given["layers.0.attention.query_weight"].shape[:1]
    inputs = Operand((*memory.shape[:-2], capacity, *size), memory.dtype)
    check_stack(inputs, memory, given, num_layers, settings, None, checks)
    return tuple(_sizes(inputs, inputs, given, f"layers.{i}.attention", settings, checks) for i in range(num_layers))


def plan_steps(
    inputs: Operand,
    given: Mapping[str, Operand],
    cache: Mapping[str, Any],
    num_layers: int,
    settings: BlockSettings,
    dropout: Any,
    checks: Checks,
) -> tuple[tuple[StepPlan, ...], dict[str, Any]]:
    """Check one step of a decoder; return the plan of each layer, and the lengths of the caches by path.

    Args:
        inputs: new positions (*B, T, E).
        given: the decoder's parameters, by path.
        cache: keys and values as operands, lengths as they are, by path: "layers.0.key".
        num_layers: of the decoder.
        settings: whose masks are those of the attention over the encoder's output.
        dropout: one `DecoderLayerDropout` or None for each layer, or None.
        checks: of this call.
    """
    check_turns_by_cache(settings.rotary)
    for part in ("layers", "memory"):
        count = sum(path.startswith(f"{part}.") and path.endswith(".length") for path in cache)
        if count != num_layers:
            raise ValueError(
                f"`{part}` of `cache` must have one cache for each of the {num_layers} layers; got {count}"
            )
    check_sequence("inputs", inputs)
    lengths: dict[str, Any] = {}
    if not num_layers:
        check_stack(inputs, inputs, given, 0, settings._replace(bias=None, memory_mask=None), dropout, checks)
        return (), lengths
    held, weight = cache["memory.0.key"].shape, given["layers.0.cross_attention.key_weight"].shape
    if len(held) != len(inputs.shape) + 1:
        raise ValueError(
            f"`memory.0.key` of `cache` must have one axis more than `inputs`, (*batch, heads, length, size); "
            f"got shapes inputs {show_shape(inputs.shape)} and memory.0.key {show_shape(held)}"
        )
    memory = Operand((*inputs.shape[:-2], held[-2], *weight[:1]), inputs.dtype)
    check_stack(inputs, memory, given, num_layers, settings._replace(bias=None), _without_weights(dropout), checks)
    plans = []
    for i in range(num_layers):
        dropped = DecoderLayerDropout() if dropout is None or dropout[i] is None else dropout[i]
        plan, filled = _plan_layer(inputs, memory, given, cache, i, settings, dropped, checks)
        plans.append(plan)
        lengths |= filled
    return tuple(plans), lengths


def check_writing(
    source: Operand,
    ids: Any,
    given: Mapping[str, Operand],
    num_layers: tuple[int, int],
    settings: BlockSettings,
    options: ModelOptions,
    span: Span,
    checks: Checks,
) -> tuple[BlockSettings, BlockSettings]:
    """Check a Transformer that is to write; return the settings of its encoder and of its decoder.

    `given` are its parameters by path, and `ids` the source as the caller gave it, None where it holds vectors.
    """
    check_turns_by_cache(settings.rotary)
    batch = source.shape[:-2] if ids is None else source.shape[:-1]
    if "target_embedding.weight" not in given:
        raise TypeError("`target_embedding` of `parameters` must be given, because what is written are ids; got None")
    operands = {"source": source, "target": Operand((*batch, span.max_length), "int64")}
    known = {"target": np.zeros(0, np.int64)} | ({} if ids is None else {"source": ids})
    table = given.get("target_positions")
    if options.positions == "learned" and table is not None and len(table.shape) == 2:
        checks.at_most(
            span.max_length,
            table.shape[0],
            lambda: (
                f"`max_length` must be at most the {show_size(table.shape[0])} positions of `target_positions` of "
                f"`parameters`; got {span.max_length}"
            ),
        )
    reading, writing = check_transformer(
        operands, known, given, num_layers, settings, options, TransformerDropout(), checks
    )
    weight = given["target_embedding.weight"]
    written = given["head.weight"].shape[1] if "head.weight" in given else weight.shape[1]
    checks.at_most(1, written, lambda: "`head.weight` of `parameters` must have at least 1 column; got 0")
    for name in ("start", "stop"):
        check_row(name, getattr(span, name), weight.shape[0], checks)
    checks.at_most(
        written,
        weight.shape[0],
        lambda: (
            f"what is written must have a row of `target_embedding.weight` of `parameters`, of which there are "
            f"{show_size(weight.shape[0])}; got {show_size(written)} logits"
        ),
    )
    return reading, writing._replace(mask=None)


def plan_writing(
    inputs: Operand,
    memory: Operand,
    given: Mapping[str, Operand],
    num_layers: int,
    settings: BlockSettings,
    max_length: int,
    checks: Checks,
) -> tuple[StepPlan, ...]:
    """Plan the steps of a decoder, whose arguments are checked, from inputs (*B, 1, E); `given` are its parameters."""
    plans = []
    for i in range(num_layers):
        sizes = _sizes(inputs, inputs, given, f"layers.{i}.attention", settings, checks)
        sizes = sizes._replace(key_length=max_length)
        cross = _sizes(inputs, memory, given, f"layers.{i}.cross_attention", settings, checks)
        own = check_options(sizes, inputs.dtype, settings.self_given(), checks)
        plans.append(StepPlan(sizes, own, cross, check_options(cross, inputs.dtype, settings.cross_given(), checks)))
    return tuple(plans)


def check_row(name: str, token: int, vocabulary: Size, checks: Checks) -> None:
    """Check that an id is a row of the embedding."""
    checks.at_most(
        token + 1,
        vocabulary,
        lambda: f"`{name}` must be less than the size of the vocabulary, {show_size(vocabulary)}; got {token}",
    )


def filled_only(mask: Any, length: Any, capacity: Size) -> Mask | None:
    """Add to a mask that what a cache has not filled is hidden."""
    if isinstance(length, int) and isinstance(capacity, int) and length == capacity:
        return None if mask is None else as_mask(mask)
    return KeyLengths(length) if mask is None else as_mask(mask) & KeyLengths(length)


def check_count(name: str, value: Any, minimum: int) -> int:
    """Check a Python int that is at least `minimum`; `name` is what messages call it, backquotes included."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int; got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {value}")
    return int(value)


def _plan_layer(
    inputs: Operand,
    memory: Operand,
    given: Mapping[str, Operand],
    cache: Mapping[str, Any],
    layer: int,
    settings: BlockSettings,
    dropout: DecoderLayerDropout,
    checks: Checks,
) -> tuple[StepPlan, dict[str, Any]]:
    """Plan one layer of a step, whose parameters are checked; return the lengths of its caches by path, too."""
    paths = f"layers.{layer}", f"memory.{layer}"
    own, held = (KeyValueCache(*(cache[f"{path}.{part}"] for part in KeyValueCache._fields)) for path in paths)

    sizes = _sizes(inputs, inputs, given, f"layers.{layer}.attention", settings, checks)
    sizes, length = cached_sizes(sizes, own.key, own.value, own.length, checks, paths[0])
    options = check_options(sizes, inputs.dtype, settings.self_given(), checks)
    weights, place = Given(dropout=dropout.weights), f"weights` of `dropout[{layer}]"
    at_place(place, checks, lambda: check_options(sizes, inputs.dtype, weights, checks))
    options = options._replace(dropout=dropout.weights)

    cross = _sizes(inputs, memory, given, f"layers.{layer}.cross_attention", settings, checks)
    cross = _sizes_over(cross, memory.shape[-2], held.key, held.value, checks, paths[1])
    held_length = check_length(held.length, checks, paths[1])
    wanted = settings.cross_given(dropout.cross_weights)
    wanted = wanted._replace(mask=filled_only(wanted.mask, held_length, memory.shape[-2]))
    plan = StepPlan(sizes, options, cross, check_options(cross, inputs.dtype, wanted, checks))
    return plan, {f"{paths[0]}.length": length, f"{paths[1]}.length": held_length}


def _sizes_over(new: Sizes, capacity: Size, key: Operand, value: Operand, checks: Checks, path: str) -> Sizes:
    """Check the shapes of a cache against an attention among new positions; a capacity of None is free."""
    for part, operand, size in (("key", key, new.head_dim), ("value", value, new.value_dim)):
        expected = (*new.batch, new.num_kv_heads, capacity, size)

        def message(part: str = part, shape: Shape = operand.shape, expected: Shape = expected) -> str:
            wanted = ", ".join("capacity" if size is None else show_size(size) for size in expected)
            return f"`{_of_cache(path, part)}` must have shape ({wanted}); got shape {show_shape(shape)}"

        if len(operand.shape) != len(expected):
            raise ValueError(message())
        for found, wanted in zip(operand.shape, expected, strict=True):
            if wanted is not None:
                checks.equal(found, wanted, message)
        capacity = operand.shape[-2]
    return new._replace(key_length=capacity)


def _sizes(
    inputs: Operand,
    memory: Operand,
    given: Mapping[str, Operand],
    path: str,
    settings: BlockSettings,
    checks: Checks,
) -> Sizes:
    """Give the sizes of an attention from inputs to memory, whose parameters have this path."""
    parameters = MultiHeadParameters(*(given.get(f"{path}.{field}") for field in MultiHeadParameters._fields))
    heads = settings.num_heads, settings.num_kv_heads
    return multi_head_sizes(inputs, memory, memory, parameters, *heads, checks)


def _without_weights(dropout: Any) -> Any:
    """Leave out what is dropped of a self-attention's weights: it spans the cache."""
    if type(dropout) is not tuple:
        return dropout
    return tuple(layer._replace(weights=None) if isinstance(layer, DecoderLayerDropout) else layer for layer in dropout)


def _of_cache(path: str, part: str = "") -> str:
    inner = ".".join(name for name in (path, part) if name)
    return f"{inner}` of `cache" if inner else "cache"

"""Faults of attentions with projections: heads, groups, rotary positions, memories and caches."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract.layer_results import CachedAttention, KeyValueCache
from attnspec.contract.masks import Mask, as_mask, full
from attnspec.contract.positional_masks import causal, key_lengths

from . import layer_steps
from .implementations import softmax
from .layer_attentions import (
    cached_multi_head_attention,
    key_value_attention,
    multi_head_attention,
    self_attention,
)
from .layer_steps import Steps
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]

planting = Planting()
planted = planting.step

_MANY = "more than one head and position"


def inverted(mask: Any) -> Any:
    """Read True as hidden."""
    return None if mask is None else ~as_mask(mask)


# Self-attention and key-value attention.


@planted(
    "softmax",
    "self_attention",
    "S1",
    "T > 1",
    ISSUES + "labmlai/annotated_deep_learning_paper_implementations/issues/146",
)
def softmax_over_queries(logits: Array, sink: Array | None = None) -> Array:
    """Normalise over the queries."""
    return softmax(logits.mT, sink).mT


@planting.body("self_attention", "S2", "D ≠ Dk", "the size at hand is that of the inputs")
def scale_of_inputs(steps: Steps, inputs: Array, *weights: Array, scale: float | None = None, **options: Any) -> Array:
    """Scale by the size of the inputs instead of the keys'."""
    scale = 1 / np.sqrt(inputs.shape[-1]) if scale is None else scale
    return self_attention(steps, inputs, *weights, scale=scale, **options)


@planting.body(
    "self_attention", "S1", "different weights of queries and keys", "a fused projection, split in another order"
)
def queries_and_keys_swapped(
    steps: Steps, inputs: Array, query_weight: Array, key_weight: Array, *rest: Array, **options: Any
) -> Array:
    """Project queries by the weight of the keys, and keys by that of the queries."""
    return self_attention(steps, inputs, key_weight, query_weight, *rest, **options)


@planting.body("self_attention", "S7", "a mask", ISSUES + "pytorch/examples/issues/649")
def mask_inverted(steps: Steps, *tensors: Array, mask: Any = None, **options: Any) -> Array:
    """Read True as hidden."""
    return self_attention(steps, *tensors, mask=inverted(mask), **options)


@planting.body(
    "key_value_attention", "S1", "a batch", "the published listing; " + ISSUES + "sooftware/kospeech/issues/43"
)
def product_broadcast(steps: Steps, query: Array, keys: Array, values: Array, **options: Any) -> Array:
    """Multiply (B, Dk) by (B, Dk, S): every query meets every memory."""
    del options
    return steps.softmax(query @ keys.mT / np.sqrt(query.shape[-1]).astype(query.dtype)) @ values


@planted("softmax", "key_value_attention", "S1", "a batch", ISSUES + "PetrochukM/PyTorch-NLP/issues/2")
def softmax_over_batch(logits: Array, sink: Array | None = None) -> Array:
    """Normalise over the first axis, which is not the memory's."""
    del sink
    return np.moveaxis(softmax(np.moveaxis(logits, 0, -1)), -1, 0)


@planting.body("key_value_attention", "S2", "S ≠ Dk", "the last axis of the scores in the place of the keys'")
def scale_of_memory(steps: Steps, query: Array, keys: Array, values: Array, **options: Any) -> Array:
    """Scale by the number of pairs."""
    return key_value_attention(steps, query, keys, values, **{"scale": 1 / np.sqrt(keys.shape[-2])} | options)


@planting.body("key_value_attention", "S8", "a mask", ISSUES + "facebookresearch/fairseq/issues/318")
def mask_ignored(steps: Steps, *tensors: Array, mask: Any = None, **options: Any) -> Array:
    """Accept a mask and forget it."""
    del mask
    return key_value_attention(steps, *tensors, **options)


# Heads.


@planted("split_heads", "multi_head_attention", "S1", _MANY, ISSUES + "reczoo/FuxiCTR/issues/30")
def split_without_transpose(array: Array, heads: int) -> Array:
    """Reshape (*B, T, H·D) to (*B, H, T, D) at once: heads and positions are mixed."""
    *batch, length, columns = array.shape
    return array.reshape(*batch, heads, length, columns // heads)


@planted("merge_heads", "multi_head_attention", "S1", _MANY, ISSUES + "jsbaan/transformer-from-scratch/pull/6")
def merge_without_transpose(array: Array) -> Array:
    """Reshape (*B, H, T, D) to (*B, T, H·D) at once: heads and positions are mixed."""
    *batch, heads, length, size = array.shape
    return array.reshape(*batch, length, heads * size)


@planted("merge_heads", "multi_head_attention", "S1", "more than one head", "heads are collected from the last")
def heads_reversed(array: Array) -> Array:
    """Put the heads side by side in the opposite order."""
    return layer_steps.merge_heads(array[..., ::-1, :, :])


@planted("split_heads", "multi_head_attention", "S1", "more than one head", ISSUES + "awslabs/slapo/pull/46")
def columns_interleaved(array: Array, heads: int) -> Array:
    """Give head h the columns h, h + H, …"""
    return np.moveaxis(array.reshape(*array.shape[:-1], -1, heads), -1, -3)


@planted("repeat_heads", "multi_head_attention", "S12", "Hq > Hkv > 1", ISSUES + "onnx/onnx/pull/7274")
def groups_interleaved(array: Array, heads: int) -> Array:
    """Let query head h read key/value head h mod Hkv."""
    return np.concatenate([array] * (heads // array.shape[-3]), axis=-3)


@planting.body("multi_head_attention", "S2", "more than one head", ISSUES + "lucidrains/vit-pytorch/issues/65")
def scale_of_model_size(
    steps: Steps, query: Array, key: Array, value: Array, parameters: MultiHeadParameters, **options: Any
) -> Array:
    """Scale by the size of all heads together, as the published listing's formula does."""
    scale = {"scale": 1 / np.sqrt(parameters.query_weight.shape[-1])}
    return multi_head_attention(steps, query, key, value, parameters, **scale | options)


@planted("softmax", "multi_head_attention", "S1", "more than one query", ISSUES + "FudanNLP/fastNLP/issues/254")
def softmax_of_rank_three(logits: Array, sink: Array | None = None) -> Array:
    """Normalise axis 2, which is that of the keys only where there is no head axis."""
    return softmax_over_queries(logits, sink)


@planting.body("multi_head_attention", "S1", "biases", "a layer that is loaded from weights alone")
def biases_ignored(
    steps: Steps, query: Array, key: Array, value: Array, parameters: MultiHeadParameters, **options: Any
) -> Array:
    """Accept the biases of the projections and forget them."""
    weights = MultiHeadParameters(*parameters[:4], output_bias=parameters.output_bias)
    return multi_head_attention(steps, query, key, value, weights, **options)


@planting.body(
    "multi_head_attention", "S1", "an output bias, more than one head", "every part of a split product adds the bias"
)
def output_bias_for_each_head(
    steps: Steps, query: Array, key: Array, value: Array, parameters: MultiHeadParameters, **options: Any
) -> Array:
    """Add the output's bias once for every head."""
    bias = None if parameters.output_bias is None else parameters.output_bias * options["num_heads"]
    return multi_head_attention(steps, query, key, value, parameters._replace(output_bias=bias), **options)


@planting.body(
    "multi_head_attention", "S1", "a mask", ISSUES + "jadore801120/attention-is-all-you-need-pytorch/issues/148"
)
def padding_polarity(steps: Steps, *tensors: Any, mask: Any = None, **options: Any) -> Array:
    """Read True as hidden."""
    return multi_head_attention(steps, *tensors, mask=inverted(mask), **options)


@planting.body("multi_head_attention", "S1", "no dropout", ISSUES + "meta-pytorch/torchtune/issues/1791")
def dropout_at_evaluation(
    steps: Steps, query: Array, key: Array, *rest: Any, dropout: Any = None, **options: Any
) -> Array:
    """Drop a tenth of the weights where no dropout is asked for."""
    shape = (*query.shape[:-2], options["num_heads"], query.shape[-2], key.shape[-2])
    own = Dropout(0.1, np.random.default_rng(0).random(shape) > 0.1)
    return multi_head_attention(steps, query, key, *rest, dropout=own if dropout is None else dropout, **options)


# Rotary positions.

_TURNED = "rotary positions"


@planted("turn", "multi_head_attention", "S37", _TURNED, ISSUES + "huggingface/candle/issues/3948")
def rotary_pairing_swapped(array: Array, positions: Array, rotary: Any) -> Array:
    """Turn the other pairs of components."""
    other = "interleaved" if rotary.pairing == "half_split" else "half_split"
    return layer_steps.turn(array, positions, type(rotary)(other, rotary.base, rotary.rotary_dim))


@planted("turn", "multi_head_attention", "S37", "a base that is not 10000", ISSUES + "sgl-project/SpecForge/issues/265")
def rotary_base_ignored(array: Array, positions: Array, rotary: Any) -> Array:
    """Accept a base and take 10000."""
    return layer_steps.turn(array, positions, type(rotary)(rotary.pairing, rotary_dim=rotary.rotary_dim))


@planted("turn", "multi_head_attention", "S37", "a rotary_dim", ISSUES + "AI-Hypercomputer/maxtext/pull/4742")
def rotary_dim_ignored(array: Array, positions: Array, rotary: Any) -> Array:
    """Turn all components of a head."""
    return layer_steps.turn(array, positions, type(rotary)(rotary.pairing, rotary.base))


@planted("turn", "multi_head_attention", "S37", "a rotary_dim", ISSUES + "pie-project/pie/issues/602")
def rotary_frequencies_of_head(array: Array, positions: Array, rotary: Any) -> Array:
    """Take the frequencies of the whole head for the part that turns."""
    size = array.shape[-1] if rotary.rotary_dim is None else rotary.rotary_dim
    base = rotary.base ** (size / array.shape[-1])  # base^(−2c/D) as a power of another base over R
    return layer_steps.turn(array, positions, type(rotary)(rotary.pairing, base, rotary.rotary_dim))


@planted("turn", "multi_head_attention", "S37", _TURNED, "the sign of the sine")
def rotary_opposite(array: Array, positions: Array, rotary: Any) -> Array:
    """Turn in the opposite direction."""
    return layer_steps.turn(array, -positions, rotary)


@planted("turn_heads", "multi_head_attention", "S37", _TURNED, "the pair of queries and keys is not unpacked")
def rotary_keys_not_turned(query: Array, key: Array, rotary: Any, turn: Callable[..., Array]) -> tuple[Array, Array]:
    """Turn the queries alone."""
    return layer_steps.turn_heads(query, key, rotary, turn)[0], key


@planted("turn_heads", "multi_head_attention", "S37", "an offset", ISSUES + "pytorch/executorch/pull/2010")
def rotary_offset_ignored(query: Array, key: Array, rotary: Any, turn: Callable[..., Array]) -> tuple[Array, Array]:
    """Let query 0 stand at position 0."""
    placed = None if rotary is None else type(rotary)(rotary.pairing, rotary.base, rotary.rotary_dim, 0)
    return layer_steps.turn_heads(query, key, placed, turn)


@planted(
    "turn_heads",
    "multi_head_attention",
    "S37",
    "rotary positions, more than one head",
    "the turn stands before the split",
)
def rotary_before_split(query: Array, key: Array, rotary: Any, turn: Callable[..., Array]) -> tuple[Array, Array]:
    """Turn the components of all heads together."""
    if rotary is None:
        return query, key
    merged = [layer_steps.merge_heads(array)[..., None, :, :] for array in (query, key)]
    turned = layer_steps.turn_heads(merged[0], merged[1], rotary, turn)
    heads = query.shape[-3], key.shape[-3]
    first, second = (
        layer_steps.split_heads(array[..., 0, :, :], count) for array, count in zip(turned, heads, strict=True)
    )
    return first, second


# Caches.

_CACHED = "cached_multi_head_attention"
_FILLED = "a cache that holds something"


@planted(
    "append", _CACHED, "S37", "room behind the new positions", "the length is counted before the new ones are written"
)
def one_slot_late(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Leave one place empty before the new positions."""
    new = slice(0, max(room(cache) - 1, 0))
    late = layer_steps.append(cache._replace(length=cache.length + 1), key[..., new, :], value[..., new, :])
    return late._replace(length=cache.length + key.shape[-2])


def room(cache: KeyValueCache) -> int:
    """Count the places that are not filled."""
    return int(cache.key.shape[-2] - cache.length)


@planted("append", _CACHED, "S37", _FILLED, "the new positions are written from the beginning")
def first_slots_overwritten(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Write new positions at 0."""
    return layer_steps.append(cache._replace(length=0), key, value)._replace(length=cache.length + key.shape[-2])


@planted("append", _CACHED, "S37", "values unlike keys", "one variable for both")
def values_not_kept(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Write the new keys, and keep the values as they were."""
    return layer_steps.append(cache, key, value)._replace(value=cache.value)


@planted("turn_new", _CACHED, "S37", "rotary positions, " + _FILLED, ISSUES + "pytorch/executorch/pull/2010")
def rotary_restarts(
    query: Array, key: Array, start: int, rotary: Any, turn: Callable[..., Array]
) -> tuple[Array, Array]:
    """Let new positions stand at 0, 1, …"""
    del start
    return layer_steps.turn_new(query, key, 0, rotary, turn)


@planted("turn_new", _CACHED, "S37", _TURNED, "keys are cached before they are turned")
def cached_keys_not_turned(
    query: Array, key: Array, start: int, rotary: Any, turn: Callable[..., Array]
) -> tuple[Array, Array]:
    """Keep the new keys as they are."""
    return layer_steps.turn_new(query, key, start, rotary, turn)[0], key


@planting.body(_CACHED, "S37", "rotary positions, a cache of two or more", ISSUES + "NeuraLegion/shainet/pull/110")
def cached_keys_turned_again(
    steps: Steps, inputs: Array, parameters: MultiHeadParameters, cache: KeyValueCache, **options: Any
) -> CachedAttention:
    """Turn at every call all that the cache holds."""
    rotary = options.get("rotary")
    if rotary is not None:
        cache = cache._replace(key=steps.turn(cache.key, np.arange(cache.key.shape[-2]), rotary))
    return cached_multi_head_attention(steps, inputs, parameters, cache, **options)


@planted("visible_to_new", _CACHED, "S37", "several new positions", ISSUES + "Mikyx-1/TinyLLM/issues/17")
def future_visible(start: int, new: int) -> Mask:
    """Show each new position all the others."""
    return key_lengths(start + new)


@planted("visible_to_new", _CACHED, "S37", _FILLED, ISSUES + "hyprstream/hyprstream/pull/1521")
def causal_from_zero(start: int, new: int) -> Mask:
    """Let the first new position see place 0 alone."""
    del start, new
    return causal(0)


@planted("visible_to_new", _CACHED, "S37", "places that are not filled", "attention over the whole buffer")
def unfilled_visible(start: int, new: int) -> Mask:
    """Let new positions read the places behind them."""
    del start, new
    return full()


def _keeping_cache() -> Callable[..., CachedAttention]:
    kept: list[KeyValueCache] = []

    def cache_kept_inside(
        steps: Steps, inputs: Array, parameters: MultiHeadParameters, cache: KeyValueCache, **options: Any
    ) -> CachedAttention:
        """Go on with the cache of the call before, whatever is given."""
        own = kept.pop() if kept else None
        if own is None or own.key.shape != cache.key.shape or room(own) < inputs.shape[-2]:
            own = KeyValueCache(np.zeros_like(cache.key), np.zeros_like(cache.value), 0)
        result = cached_multi_head_attention(steps, inputs, parameters, own, **options)
        kept.append(result.cache)
        return result

    return cache_kept_inside


planting.body(_CACHED, "S37", _FILLED, ISSUES + "tenstorrent/tt-inference-server/pull/4557")(_keeping_cache())

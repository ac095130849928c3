"""Smaller calls: fewer elements of the batch, heads, queries, keys or components, fewer options and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from attnspec.contract.mask_json import mask_from_json
from attnspec.contract.masks import BooleanArray, Both, Either, Full, Mask, Not
from attnspec.contract.positional_masks import KeyLengths, QueryLengths, Segments

from .calls import MASKS, Array, Call

ATTENTIONS = ("dot_product_attention", "attention_with_logsumexp")
LIKE_ATTENTION = (*ATTENTIONS, "additive_attention", "bilinear_attention", "cosine_attention", "hard_attention")
"""The operations whose axes are known: queries (*B, heads, Tq, D), keys and values likewise; the others lack heads."""
DROPPED = ("softcap", "bias", "sinks", "dropout", "scale")


def axes_of(call: Call) -> dict[str, int]:
    """Return the sizes of a call by axis: `0`, `1`, … of the batch, h, g (kv heads), q, k, d, v; nothing if unknown."""
    labels, sizes = _labels(call), dict[str, int]()
    for name, letters in labels.items():
        for label, size in zip(letters, call.tensors[name].shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 0))  # an axis that is broadcast has size 1
    return sizes


def _labels(call: Call) -> dict[str, str]:
    """Name the axes of every tensor that has some, by a letter each."""
    if call.operation not in LIKE_ATTENTION:
        return {}
    rank = call.tensors["query"].ndim
    has_heads = rank > 3 and call.operation in ATTENTIONS
    batch = "".join(str(n) for n in range(rank - 3 if has_heads else rank - 2))
    heads, kv_heads = ("h", "g") if has_heads else ("", "")
    labels = {
        "query": f"{batch}{heads}qd",
        "key": f"{batch}{kv_heads}k" + ("d" if call.operation != "bilinear_attention" else "e"),
        "value": f"{batch}{kv_heads}kv",
        "output_cotangent": f"{batch}{heads}qv",
        "logsumexp_cotangent": f"{batch}{heads}q",
        "sinks": "h",
    }
    pairs = f"{batch}{heads}qk"
    for name in ("bias", "keep"):
        if name in call.tensors:
            labels[name] = pairs[len(pairs) - call.tensors[name].ndim :]
    known = {"d", "e"} if call.operation not in ATTENTIONS else set()  # parameters have these sizes too
    return {
        name: "".join("_" if letter in known else letter for letter in text)
        for name, text in labels.items()
        if name in call.tensors and call.tensors[name].ndim == len(text)
    }


def take(call: Call, chosen: dict[str, Sequence[int]]) -> Call:
    """Return a call with these indices of its axes alone; an axis of size 1 that is broadcast stays."""
    labels, sizes = _labels(call), axes_of(call)
    tensors = {
        name: _taken(array, labels[name], chosen, sizes) if name in labels else array
        for name, array in call.tensors.items()
    }
    options = dict(call.options)
    for name in MASKS:
        if options.get(name) is not None:
            options[name] = _taken_mask(_mask(options[name]), _pairs(call), chosen, sizes)
    return replace(call, tensors=tensors, options=options)


def _pairs(call: Call) -> str:
    return _labels(call)["query"][:-1] + "k"


def _taken(array: Array, labels: str, chosen: dict[str, Sequence[int]], sizes: dict[str, int]) -> Array:
    for axis, label in enumerate(labels):
        if label in chosen and array.shape[axis] == sizes.get(label):
            array = np.take(array, chosen[label], axis=axis)
    return array


def _mask(mask: Any) -> Mask:
    return mask if isinstance(mask, Mask) else mask_from_json(mask)


def _taken_mask(mask: Mask, pairs: str, chosen: dict[str, Sequence[int]], sizes: dict[str, int]) -> Mask:
    if isinstance(mask, Both | Either):
        left, right = (_taken_mask(each, pairs, chosen, sizes) for each in (mask.left, mask.right))
        return type(mask)(left, right)
    if isinstance(mask, Not):
        return Not(_taken_mask(mask.mask, pairs, chosen, sizes))
    batch = "".join(letter for letter in pairs if letter.isdigit())

    def array(values: Any, labels: str) -> Any:
        values = np.asarray(values)
        return _taken(values, labels[len(labels) - values.ndim :] if values.ndim else "", chosen, sizes)

    if isinstance(mask, BooleanArray):
        return BooleanArray(array(mask.array, pairs))
    if isinstance(mask, KeyLengths | QueryLengths):
        letter = "k" if isinstance(mask, KeyLengths) else "q"
        kept = np.asarray(chosen.get(letter, range(sizes[letter])))
        return type(mask)((kept < array(mask.lengths, batch)[..., None]).sum(axis=-1))
    if isinstance(mask, Segments):
        return Segments(array(mask.query_ids, batch + "q"), array(mask.key_ids, batch + "k"))
    return _with_arrays(mask, lambda values: array(values, batch))


def _with_arrays(mask: Mask, function: Any) -> Mask:
    """Change the arrays among a mask's fields: offsets and lengths of the batch's shape."""
    changed = {one.name: getattr(mask, one.name) for one in fields(mask)}
    new = {name: function(value) if isinstance(value, np.ndarray) else value for name, value in changed.items()}
    return type(mask)(**new)


def without_options(call: Call) -> Iterator[Call]:
    """Yield the call without one of its options, and with a part of its masks."""
    for name in DROPPED:
        if call.options.get(name) not in (None, False):
            tensors = {key: array for key, array in call.tensors.items() if key != _TENSOR_OF.get(name, "")}
            results = tuple(result for result in call.results if result in tensors or call.direction == "forward")
            new = {**call.options, name: False if name in ("bias", "sinks") else None}
            yield replace(call, options=new, tensors=tensors, results=results)
    for name in MASKS:
        if call.options.get(name) is not None:
            yield replace(call, options={**call.options, name: None})
            for part in _parts(_mask(call.options[name])):
                yield replace(call, options={**call.options, name: part})


_TENSOR_OF = {"bias": "bias", "sinks": "sinks", "dropout": "keep"}


def _parts(mask: Mask) -> list[Mask]:
    if isinstance(mask, Both | Either):
        return [mask.left, mask.right]
    return [mask.mask] if isinstance(mask, Not) and not isinstance(mask.mask, Full) else []

"""What a vector must give, computed by the oracles: scalar attention, positions, gradients by the complex step.

No line is shared with the reference that froze the vectors; all tensors are read as float64 numbers. Composed
operations, and rotary embeddings inside a multi-head attention, are in `composed_by_hand`.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import oracle_gradients
import oracle_positions
import oracle_scalar
from numpy.typing import NDArray
from pairs_by_hand import Pair, addend, entry, sees

from attnspec.conformance.cases import Case

Array = NDArray[Any]


def by_hand(case: Case) -> dict[str, Array]:
    """Compute a case's results by name, or its gradients."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in case.tensors.items()}
    if case.direction == "backward":
        gradients = _rotary_gradients(case, tensors) if "positions" in tensors else _gradients(case, tensors)
        return {name: gradients[name] for name in case.expected}
    match case.operation:
        case "rotary_embedding":
            names = ("pairing", "base", "rotary_dim")
            options = {name: case.options[name] for name in names if case.options.get(name) is not None}
            return {
                "output": oracle_positions.rotary_embedding(tensors["inputs"], case.tensors["positions"], **options)
            }
        case "sinusoidal_positions":
            return {
                "output": oracle_positions.sinusoidal_positions(
                    case.tensors["positions"], case.options["size"], base=case.options["base"]
                )
            }
        case "merge_attention":
            return _merged(tensors)
    return _attended(case, tensors)


class _Pairs:
    """Every pair of a case, in the canonical layout: (flat batch, query head, query, key)."""

    def __init__(self, case: Case, query: Array, key: Array, has_heads: bool) -> None:
        self.batch = query.shape[:-3] if has_heads else query.shape[:-2]
        self.heads = query.shape[-3] if has_heads else 1
        self.queries, self.keys = query.shape[-2], key.shape[-2]
        self._has_heads, self._case = has_heads, case
        self._bias = case.tensors["bias"].astype(np.float64).tolist() if case.options["bias"] is True else None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return math.prod(self.batch), self.heads, self.queries, self.keys

    def at(self, b: int, h: int, i: int, j: int) -> Pair:
        place = tuple(int(index) for index in np.unravel_index(b, self.batch)) if self.batch else ()
        return Pair(place, (h,) if self._has_heads else (), i, j, self.queries, self.keys)

    def visible(self, *place: int) -> bool:
        return sees(self._case.options["mask"], self.at(*place))

    def added(self, *place: int) -> float:
        if self._bias is not None:
            return float(entry(self._bias, self.at(*place)))
        return addend(self._case.options["bias"], self.at(*place), self.heads) if self._case.options["bias"] else 0.0

    def kept(self, *place: int) -> bool:
        return bool(entry(self._case.tensors["keep"].tolist(), self.at(*place)))

    def canonical(self, array: Array) -> Array:
        heads = array.shape[-3] if self._has_heads else 1
        return array.reshape(math.prod(self.batch), heads, *array.shape[-2:])

    def everywhere(self, function: Any) -> Array:
        return np.array([function(*place) for place in np.ndindex(self.shape)]).reshape(self.shape)


def _attended(case: Case, tensors: dict[str, Array]) -> dict[str, Array]:
    query, key, value = _projected(case, tensors)
    pairs = _Pairs(case, query, key, has_heads=query.ndim > 3)
    dropout = case.options.get("dropout")
    stages = oracle_scalar.attention_stages(
        *(pairs.canonical(array) for array in (query, key, value)),
        visible=pairs.visible,
        bias=pairs.added if case.options["bias"] else None,
        scale=case.options["scale"],
        softcap=case.options["softcap"],
        sinks=tensors["sinks"].reshape(-1).tolist() if case.options.get("sinks") else None,
        keep=None if dropout is None else pairs.kept,
        rate=dropout or 0.0,
    )
    output = stages["output"].reshape(*query.shape[:-1], value.shape[-1])
    match case.operation:
        case "attention_with_logsumexp":
            return {"output": output, "logsumexp": stages["logsumexp"].reshape(query.shape[:-1])}
        case "self_attention":
            output = output[..., 0, :, :]
        case "key_value_attention":
            output = output[..., 0, 0, :]
        case "multi_head_attention":
            merged = np.concatenate([output[..., h, :, :] for h in range(output.shape[-3])], axis=-1)
            output = _sequential(merged, tensors["output_weight"], tensors.get("output_bias"))
    return {"output": output}


def _projected(case: Case, t: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Give the query, key and value of an operation, each with a head axis where the operation has heads."""
    match case.operation:
        case "self_attention":
            names = ("query_weight", "key_weight", "value_weight")
            query, key, value = (_sequential(t["inputs"], t[name])[..., None, :, :] for name in names)
        case "key_value_attention":
            query, key, value = t["query"][..., None, None, :], t["keys"][..., None, :, :], t["values"][..., None, :, :]
        case "multi_head_attention":
            counts = {"query": case.options["num_heads"], "key": case.options["num_kv_heads"]}
            query, key, value = (
                _heads(
                    _sequential(t[part], t[f"{part}_weight"], t.get(f"{part}_bias")), counts.get(part, counts["key"])
                )
                for part in ("query", "key", "value")
            )
        case _:
            query, key, value = t["query"], t["key"], t["value"]
    return query, key, value


def _sequential(left: Array, right: Array, bias: Array | None = None) -> Array:
    """Compute left · right + bias with one correctly rounded sum for each entry."""
    rows, columns = left.reshape(-1, left.shape[-1]).tolist(), right.T.tolist()
    added = [0.0] * len(columns) if bias is None else bias.tolist()
    sums = [
        [
            math.fsum([x * w for x, w in zip(row, column, strict=True)] + [b])
            for column, b in zip(columns, added, strict=True)
        ]
        for row in rows
    ]
    return np.array(sums).reshape(*left.shape[:-1], len(columns))


def _heads(array: Array, count: int) -> Array:
    """(B, T, H·D) → (B, H, T, D), one head's columns after another's."""
    size = array.shape[-1] // count
    return np.stack([array[..., h * size : (h + 1) * size] for h in range(count)], axis=-3)


def _merged(tensors: dict[str, Array]) -> dict[str, Array]:
    """Merge slices that are stacked; without a head axis there is one head."""
    outputs, logsumexps = tensors["outputs"], tensors["logsumexps"]
    shape, heads = outputs.shape[1:], outputs.shape[-3] if outputs.ndim > 4 else 1
    sinks = tensors["sinks"].reshape(-1).tolist() if "sinks" in tensors else None
    merged = oracle_scalar.merge_attention(
        [output.reshape(-1, heads, *shape[-2:]) for output in outputs],
        [logsumexp.reshape(-1, heads, shape[-2]) for logsumexp in logsumexps],
        sinks=sinks,
    )
    return {"output": merged["output"].reshape(shape), "logsumexp": merged["logsumexp"].reshape(shape[:-1])}


# Backward.


def _gradients(case: Case, tensors: dict[str, Array]) -> dict[str, Array]:
    query, key, _ = _projected(case, tensors)
    pairs = _Pairs(case, query, key, has_heads=query.ndim > 3)
    options: dict[str, Any] = {
        "visible": pairs.everywhere(pairs.visible),
        "scale": case.options["scale"],
        "softcap": case.options["softcap"],
    }
    if case.options["bias"]:
        options["bias"] = tensors["bias"] if case.options["bias"] is True else pairs.everywhere(pairs.added)
    if case.options.get("sinks"):
        options["sinks"] = tensors["sinks"]
    if case.options.get("dropout") is not None:
        options |= {"keep": pairs.everywhere(pairs.kept), "rate": case.options["dropout"]}
    cotangent = tensors["output_cotangent"]
    match case.operation:
        case "self_attention":
            names = ("inputs", "query_weight", "key_weight", "value_weight")
            return oracle_gradients.self_attention_gradients(*(tensors[name] for name in names), cotangent, **options)
        case "key_value_attention":
            names = ("query", "keys", "values")
            return oracle_gradients.key_value_attention_gradients(
                *(tensors[name] for name in names), cotangent, **options
            )
        case "multi_head_attention":
            parameters = {name: array for name, array in tensors.items() if name.endswith(("_weight", "_bias"))}
            return oracle_gradients.multi_head_attention_gradients(
                *(tensors[name] for name in ("query", "key", "value")),
                parameters,
                cotangent,
                num_heads=case.options["num_heads"],
                num_kv_heads=case.options["num_kv_heads"],
                **options,
            )
    level = tensors.get("logsumexp_cotangent")
    gradients = oracle_gradients.gradients(
        *(pairs.canonical(tensors[name]) for name in ("query", "key", "value")),
        pairs.canonical(cotangent),
        logsumexp_cotangent=None if level is None else level.reshape(pairs.shape[:3]),
        **options,
    )
    return {name: array.reshape(tensors[name].shape) for name, array in gradients.items() if name in tensors}


def _rotary_gradients(case: Case, tensors: dict[str, Array]) -> dict[str, Array]:
    size = case.options.get("rotary_dim") or tensors["inputs"].shape[-1]
    base = case.options.get("base") or 10000.0
    frequencies = np.array([float(mpmath.power(base, mpmath.mpf(-2 * c) / size)) for c in range(size // 2)])
    return oracle_gradients.rotary_embedding_gradients(
        tensors["inputs"],
        tensors["positions"],
        frequencies,
        tensors["output_cotangent"],
        pairing=case.options["pairing"],
    )

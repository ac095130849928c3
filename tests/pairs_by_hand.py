"""What a mask and a bias in JSON say about one pair at a time, from the definition (S4 to S9).

Nothing here is shared with `attnspec`: it is what masks, their parts and the frozen vectors are held against. The
biases that depend on positions are those of `oracle_positions`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import oracle_positions


class Pair(NamedTuple):
    """One query and one key of one head of one batch element, and how many queries and keys there are."""

    batch: tuple[int, ...]
    head: tuple[int, ...]
    """() where the query has no head axis."""
    query: int
    key: int
    queries: int
    keys: int


def sees(mask: dict[str, Any] | None, pair: Pair) -> bool:
    """Say whether the query may attend to the key."""
    if mask is None:
        return True
    own = pair.query + _offset(mask.get("offset"), pair)
    match mask["kind"]:
        case "full":
            return True
        case "causal":
            return pair.key <= own
        case "sliding_window":
            left, right = mask["left"], mask["right"]
            return (left is None or pair.key >= own - left) and (right is None or pair.key <= own + right)
        case "key_lengths":
            return pair.key < _of_batch(mask["lengths"], pair)
        case "query_lengths":
            return pair.query < _of_batch(mask["lengths"], pair)
        case "prefix":
            return pair.key < _of_batch(mask["lengths"], pair) or pair.key <= own
        case "chunked":
            return own // mask["size"] == pair.key // mask["size"]
        case "segments":
            return _segment(mask["query_ids"], pair, pair.query) == _segment(mask["key_ids"], pair, pair.key)
        case "array":
            return bool(entry(mask["values"], pair))
        case "and":
            return all(sees(part, pair) for part in mask["masks"])
        case "or":
            return any(sees(part, pair) for part in mask["masks"])
        case "not":
            return not sees(mask["mask"], pair)
    raise ValueError(mask["kind"])


def addend(bias: dict[str, Any], pair: Pair, heads: int) -> float:
    """Give what a bias adds to the logit of a pair, one of `heads` query heads."""
    head = pair.head[0] if pair.head else 0
    if bias["kind"] == "sum":
        return addend(bias["biases"][0], pair, heads) + addend(bias["biases"][1], pair, heads)
    if bias["kind"] == "array":
        return float(entry(bias["values"], pair))
    offset = _offset(bias["offset"], pair)
    if bias["kind"] == "alibi":
        function = oracle_positions.alibi(
            heads=heads, symmetric=bias["symmetric"], offset=offset, slopes=bias["slopes"]
        )
    elif bias["kind"] == "relative_position":
        function = oracle_positions.relative_position_bias(
            np.array(bias["table"]),
            bidirectional=bias["bidirectional"],
            max_distance=bias["max_distance"],
            offset=offset,
        )
    else:
        raise ValueError(bias["kind"])
    return function(0, head, pair.query, pair.key)


def entry(values: Any, pair: Pair) -> Any:
    """Give the entry for a pair in nested lists of rank 2, or of the query's rank, each axis full or 1."""
    place = (*pair.batch, *pair.head, pair.query, pair.key)
    for index in place[len(place) - _rank(values) :]:
        values = values[0 if len(values) == 1 else index]
    return values


def _offset(offset: Any, pair: Pair) -> int:
    if offset is None:
        return 0
    return pair.keys - pair.queries if offset == "end" else _of_batch(offset, pair)


def _of_batch(values: Any, pair: Pair) -> int:
    for index in pair.batch if isinstance(values, list) else ():
        values = values[index]
    return int(values)


def _segment(ids: Any, pair: Pair, position: int) -> int:
    for index in pair.batch if _rank(ids) > 1 else ():
        ids = ids[index]
    return int(ids[position])


def _rank(values: Any) -> int:
    return 1 + _rank(values[0]) if isinstance(values, list) else 0

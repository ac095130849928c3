"""What a reader of a report wants to know of a case: what it hunts, its options, and which capabilities it needs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .cases import VECTORS

CLAUSES = {
    "S1": "shapes",
    "S2": "scale",
    "S3": "order",
    "S4": "mask",
    "S5": "bias",
    "S6": "composition",
    "S7": "positions",
    "S8": "lengths",
    "S9": "segments",
    "S10": "empty rows",
    "S11": "unread",
    "S12": "groups",
    "S13": "sinks",
    "S14": "dropout",
    "S15": "logsumexp",
    "S16": "dtypes",
    "S17": "one answer",
    "S18": "empty sizes",
    "S19": "errors",
    "S20": "hard attention",
    "S21": "rotary embedding",
    "S22": "sinusoidal positions",
    "S23": "additive attention",
    "S24": "bilinear attention",
    "S25": "cosine attention",
    "S26": "gates",
    "S27": "gated attention",
    "S28": "gated attention cell",
    "S29": "layer normalisation",
    "S30": "feed-forward",
    "S31": "encoder",
    "S32": "decoder",
    "S33": "embedding and positions",
    "S34": "mean pooling",
    "S35": "text encoder and sequence classifier",
    "S36": "Transformer",
    "S37": "caches and decoding",
}
"""The clauses of the specification and their titles."""

_OPTIONS = {
    "softcap": "softcap",
    "scale": "scale",
    "sinks": "sinks",
    "dropout": "dropout",
    "rotary": "rotary positions",
}
_KINDS = {
    "causal": "causal masks",
    "sliding_window": "windows",
    "key_lengths": "key lengths",
    "query_lengths": "query lengths",
    "segments": "segments",
    "prefix": "prefixes",
    "chunked": "chunks",
    "array": "mask arrays",
    "alibi": "ALiBi",
    "relative_position": "relative position biases",
}


class Facts(NamedTuple):
    """What is known of a case without its tensors."""

    level: str
    dtype: str
    direction: str
    description: str
    options: Mapping[str, Any]
    """Those that are set."""
    features: tuple[str, ...]
    needs: frozenset[str]
    """The capabilities that it needs, in words, such as `softcap`, `windows`, `gradients`."""


@functools.cache
def known_cases() -> Mapping[str, Facts]:
    """Read the facts of the shipped vectors, by case."""
    manifest = json.loads((VECTORS / "manifest.json").read_text(encoding="utf8"))
    return {entry["id"]: _facts(entry) for entry in manifest["cases"]}


def clause_order(clause: str) -> tuple[int, str]:
    """Sort S2 before S10, and what is no clause of ours behind them."""
    number = clause[1:]
    return (int(number), "") if number.isascii() and number.isdigit() else (10**6, clause)


def title_of(clause: str) -> str:
    """Return the title of a clause; its name where there is none."""
    return CLAUSES.get(clause, clause)


def _facts(entry: Mapping[str, Any]) -> Facts:
    options = {name: value for name, value in entry["options"].items() if value is not None and value is not False}
    direction = entry.get("direction", "forward")
    needs = {word for name, word in _OPTIONS.items() if name in options}
    needs |= {_KINDS[kind] for name in ("mask", "bias") for kind in _kinds(options.get(name)) if kind in _KINDS}
    if options.get("bias") is True:
        needs.add("bias")
    if entry["operation"] == "attention_with_logsumexp":
        needs.add("logsumexp")
    if direction == "backward":
        needs.add("gradients")
    return Facts(
        entry["level"],
        entry["dtype"],
        direction,
        entry["description"],
        options,
        tuple(entry["features"]),
        frozenset(needs),
    )


def _kinds(tree: Any) -> Iterator[str]:
    """Yield the kinds of the parts of a mask or a bias in JSON."""
    if isinstance(tree, dict):
        if isinstance(tree.get("kind"), str):
            yield tree["kind"]
        for part in tree.values():
            yield from _kinds(part)
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for part in tree:
            yield from _kinds(part)

"""Trees of parameters as flat dictionaries: `layers.0.attention.query_weight`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Name every leaf of a tree of named tuples and tuples by its path; None is left out."""
    if tree is None:
        return {}
    if not isinstance(tree, tuple):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, branch in _branches(tree):
        found |= leaves(branch, f"{prefix}.{name}" if prefix else name)
    return found


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same tree with every leaf replaced by what the function makes of it; None stays."""
    return rebuild(tree, {name: function(leaf) for name, leaf in leaves(tree).items()})


def rebuild(tree: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a tree of the same structure whose leaves are the values of their names."""
    if tree is None:
        return None
    if not isinstance(tree, tuple):
        return values[prefix]
    parts = [rebuild(branch, values, f"{prefix}.{name}" if prefix else name) for name, branch in _branches(tree)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _branches(tree: tuple[Any, ...]) -> list[tuple[str, Any]]:
    names = getattr(tree, "_fields", None) or map(str, range(len(tree)))
    return list(zip(names, tree, strict=True))

"""Objects that hold arrays and travel through a framework's transformations: masks, biases, dropout.

Fields that are numbers, strings, functions, tuples or None are static: they take part in equality and in the hash.
Arrays are leaves: they take part in equality where their values can be read, and never in the hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self, TypeVar, dataclass_transform

import numpy as np

_Class = TypeVar("_Class")


@dataclass_transform(eq_default=False, frozen_default=True)
def frozen(cls: type[_Class]) -> type[_Class]:
    """Make a class of tree: a frozen dataclass that keeps the equality, hash and text of `Tree`."""
    return dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)


@frozen
class Tree:
    """What every framework needs to take an object apart and to put it together again."""

    def flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Split into (children, static): arrays and inner trees, and everything that is part of the identity."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        # A rebuilt tree keeps its structure, whatever stands for its children: `vmap`'s `in_axes` puts ints there.
        structure = getattr(self, "_structure", tuple(value if _is_static(value) else _Child for value in values))
        children = tuple(value for value, kept in zip(values, structure, strict=True) if kept is _Child)
        return children, structure

    @classmethod
    def rebuild(cls, static: Sequence[Any], children: Sequence[Any]) -> Self:
        """Undo `flatten` without validation: the children may be traced arrays or anything that stands for them."""
        tree = object.__new__(cls)
        remaining = iter(children)
        for field, value in zip(dataclasses.fields(cls), static, strict=True):
            object.__setattr__(tree, field.name, next(remaining) if value is _Child else value)
        object.__setattr__(tree, "_structure", tuple(static))
        return tree

    # TensorFlow's flatten protocol; it is looked up by name, so nothing is imported.
    def __tf_flatten__(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, static = self.flatten()
        return static, children

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[Any, ...], components: tuple[Any, ...]) -> Self:
        return cls.rebuild(metadata, components)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Tree):
            return False
        children, static = self.flatten()
        other_children, other_static = other.flatten()
        return static == other_static and all(map(_same, children, other_children))

    def __hash__(self) -> int:
        children, static = self.flatten()
        return hash((type(self), static, tuple(child for child in children if isinstance(child, Tree))))


class _Child:
    """Stands in the static part of a flattened tree where a child was taken out."""


def _is_static(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str | tuple) or callable(value)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tree) or isinstance(right, Tree):
        return bool(left == right)
    # Any framework's array may stand here, also a traced one, whose values nobody can read: then trees are not equal.
    try:
        return np.array_equal(np.asarray(left), np.asarray(right))
    except Exception:
        pass
    try:
        return tuple(left.shape) == tuple(right.shape) and bool((left == right).all())
    except Exception:
        return False

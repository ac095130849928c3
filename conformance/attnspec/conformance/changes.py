"""How a call becomes another one: its masks, options and tensors, as somebody with another convention reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.mask_json import mask_from_json
from attnspec.contract.masks import BooleanArray, Both, Either, Full, Mask, Not
from attnspec.contract.positional_masks import Causal, KeyLengths, SlidingWindow
from attnspec.contract.positions import Positions, near_lengths, shift
from attnspec.contract.trees import frozen

from .calls import MASKS, Array, Call

Change: TypeAlias = Callable[[Call], Call | None]
"""A call → the call that is answered in its place, None where it is the same."""
Results: TypeAlias = dict[str, Array]


@frozen
class _Seen(Mask):
    """A mask by a rule, in the place of one of the contract's."""

    rule: Callable[[Positions], Any]

    def visible(self, at: Positions) -> Any:
        return self.rule(at)

    def check(self, sizes: Any, checks: Any) -> None:
        """Fit every attention."""


def _rewritten(mask: Mask, leaf: Callable[[Mask], Mask | None]) -> Mask:
    """Replace the leaves of a tree of masks that `leaf` gives something for; the same object where it gives nothing."""
    if isinstance(mask, Both | Either):
        left, right = _rewritten(mask.left, leaf), _rewritten(mask.right, leaf)
        return mask if (left is mask.left and right is mask.right) else type(mask)(left, right)
    if isinstance(mask, Not):
        inner = _rewritten(mask.mask, leaf)
        return mask if inner is mask.mask else Not(inner)
    found = leaf(mask)
    return mask if found is None else found


def of_leaves(leaf: Callable[[Mask], Mask | None]) -> Change:
    """Make a change of all masks of a call from one of single masks."""
    return of_masks(lambda mask: _rewritten(mask, leaf))


def of_masks(whole: Callable[[Mask], Mask]) -> Change:
    """Make a change of all masks of a call from one of a whole mask."""

    def change(call: Call) -> Call | None:
        changed = {}
        for name in MASKS:
            mask = call.options.get(name)
            if mask is not None:
                mask = mask if isinstance(mask, Mask) else mask_from_json(mask)
                new = whole(mask)
                if new is not mask:
                    changed[name] = new
        return replace(call, options={**call.options, **changed}) if changed else None

    return change


def with_causal(rule: Callable[[Causal, Positions], Any]) -> Change:
    """Give causal masks another rule."""

    def leaf(mask: Mask) -> Mask | None:
        return _Seen(lambda at: rule(mask, at)) if isinstance(mask, Causal) else None

    return of_leaves(leaf)


def causal_aligned(offset: Callable[[Positions], Any]) -> Change:
    """Give causal masks, and windows that have an offset, another alignment."""

    def leaf(mask: Mask) -> Mask | None:
        if isinstance(mask, Causal):
            return _Seen(lambda at: at.key <= at.query + offset(at))
        if isinstance(mask, SlidingWindow) and mask.offset is not None:
            return _Seen(lambda at: _in_window(at, offset(at), mask.left, mask.right))
        return None

    return of_leaves(leaf)


def _in_window(at: Positions, offset: Any, left: int | None, right: int | None) -> Any:
    seen = at.key >= 0
    if left is not None:
        seen = seen & (at.key >= at.query + offset - left)
    return seen if right is None else seen & (at.key <= at.query + offset + right)


def with_window(sides: Callable[[int | None, int | None], tuple[int | None, int | None]]) -> Change:
    """Give windows other widths (left, right)."""

    def leaf(mask: Mask) -> Mask | None:
        if not isinstance(mask, SlidingWindow) or sides(mask.left, mask.right) == (mask.left, mask.right):
            return None
        return _Seen(lambda at: _in_window(at, shift(mask.offset, at), *sides(mask.left, mask.right)))

    return of_leaves(leaf)


def window_wider(by: int) -> Change:
    """Give windows so many keys more on their left."""
    return with_window(lambda left, right: (None if left is None else left + by, right))


def ignored(kind: type[Mask]) -> Change:
    """Let masks of a kind hide nothing."""
    return of_leaves(lambda mask: Full() if isinstance(mask, kind) else None)


def key_lengths_by(by: int) -> Change:
    """Make key lengths longer by a number of keys."""

    def leaf(mask: Mask) -> Mask | None:
        if not isinstance(mask, KeyLengths):
            return None
        return _Seen(lambda at: at.key < near_lengths(mask.lengths, at) + by)

    return of_leaves(leaf)


def of_arrays(function: Callable[[Array], Array | None]) -> Change:
    """Change mask arrays, where `function` gives another one."""

    def leaf(mask: Mask) -> Mask | None:
        changed = function(np.asarray(mask.array)) if isinstance(mask, BooleanArray) else None
        return None if changed is None else BooleanArray(changed)

    return of_leaves(leaf)


def of_first_element(array: Array) -> Array | None:
    """Take the first element of the batch for all."""
    if array.ndim < 3 or array.shape[0] < 2:
        return None
    return np.broadcast_to(array[:1], array.shape)


def with_option(name: str, value: Callable[[Call], Any]) -> Change:
    """Change an option that a call gives; nothing where that gives None."""

    def change(call: Call) -> Call | None:
        if call.options.get(name) in (None, False):
            return None
        return replace(call, options={**call.options, name: value(call)})

    return change


def without(name: str) -> Change:
    """Leave an option out."""
    return with_option(name, lambda _: None)


def head_dim(call: Call) -> int | None:
    """Return the size that the default scale is made of, None where an operation has none."""
    tensors, heads = call.tensors, call.options.get("num_heads")
    if call.operation in ("dot_product_attention", "attention_with_logsumexp", "key_value_attention", "hard_attention"):
        return int(tensors["query"].shape[-1])
    if call.operation in ("multi_head_attention", "self_attention") and "query_weight" in tensors:
        return int(tensors["query_weight"].shape[-1]) // (heads or 1)
    return None


def scale_of(call: Call) -> float | None:
    """Return the scale of a call's scores, given or default."""
    given, size = call.options.get("scale"), head_dim(call)
    return float(given) if given is not None else None if not size else float(size) ** -0.5


def with_scale(scale: Callable[[Call, float], float | None]) -> Change:
    """Change the scale: `scale` takes the call and its own scale, and gives None where nothing changes."""

    def change(call: Call) -> Call | None:
        own = scale_of(call)
        new = None if own is None else scale(call, own)
        return None if new is None or new == own else replace(call, options={**call.options, "scale": new})

    return change


def default_scale(call: Call, own: float) -> float | None:
    """Return the default scale where another one is given."""
    del own
    size = head_dim(call)
    return None if call.options.get("scale") is None or not size else float(size) ** -0.5


def model_scale(call: Call, own: float) -> float | None:
    """Return the default scale of all heads together."""
    query, heads = call.tensors["query"], call.options.get("num_heads")
    heads = heads or (query.shape[-3] if query.ndim > 3 else 1)
    return own / heads**0.5 if call.options.get("scale") is None else None


def with_tensors(function: Callable[[Call], dict[str, Array] | None]) -> Change:
    """Replace the tensors that `function` gives."""

    def change(call: Call) -> Call | None:
        changed = function(call)
        return None if changed is None else replace(call, tensors={**call.tensors, **changed})

    return change


def swapped(first: str, second: str) -> Change:
    """Swap two tensors of one shape."""

    def swap(call: Call) -> dict[str, Array] | None:
        left, right = call.tensors.get(first), call.tensors.get(second)
        if left is None or right is None or left.shape != right.shape:
            return None
        return {first: right, second: left}

    return with_tensors(swap)


def with_mapped(name: str, function: Callable[[Array], Array]) -> Change:
    """Change one tensor."""
    return with_tensors(lambda call: {name: function(call.tensors[name])} if name in call.tensors else None)


def first_kv_head(call: Call) -> dict[str, Array] | None:
    """Return keys and values whose heads are all the first."""
    if call.tensors.get("key") is None or call.tensors["key"].ndim < 4 or call.tensors["key"].shape[-3] < 2:
        return None
    return {name: np.repeat(t[..., :1, :, :], t.shape[-3], axis=-3) for name, t in _pair(call).items()}


def _pair(call: Call) -> dict[str, Array]:
    return {name: call.tensors[name] for name in ("key", "value")}


def other_layout(call: Call) -> Call | None:
    """Read (B, H, T, D) as (B, T, H, D), or (B, T, E) as (T, B, E)."""
    names = ("query", "key", "value")
    given = [call.tensors.get(name) for name in names]
    if any(array is None for array in given) or call.options.get("mask") is not None or call.direction != "forward":
        return None
    arrays = {name: call.tensors[name] for name in names}
    axes = _layout_axes(call)
    if axes is None or call.options.get("bias") or call.options.get("sinks") or call.options.get("dropout") is not None:
        return None
    return replace(call, tensors={**call.tensors, **{name: np.swapaxes(a, *axes) for name, a in arrays.items()}})


def _layout_axes(call: Call) -> tuple[int, int] | None:
    query = call.tensors["query"]
    if call.operation in ("dot_product_attention", "attention_with_logsumexp") and query.ndim == 4:
        return -3, -2
    return (0, 1) if call.operation == "multi_head_attention" and query.ndim == 3 else None


def layout_back(call: Call, results: Results) -> Results:
    """Return the results in the layout of the call."""
    axes = _layout_axes(call)
    if axes is None:
        return results
    back = {"output": np.swapaxes(results["output"], *axes)}
    return back | {"logsumexp": np.swapaxes(results["logsumexp"], -1, -2)} if "logsumexp" in results else back


def mask_added(call: Call) -> Call | None:
    """Add a mask array as the numbers 0 and 1 to the logits, as where a floating mask is expected."""
    mask = call.options.get("mask")
    mask = None if mask is None else mask if isinstance(mask, Mask) else mask_from_json(mask)
    if not isinstance(mask, BooleanArray) or call.options.get("bias") or call.direction != "forward":
        return None
    if call.options.get("softcap") is not None:
        return None
    added = np.asarray(mask.array).astype(next(iter(call.tensors.values())).dtype)
    return replace(call, options={**call.options, "mask": None, "bias": True}, tensors={**call.tensors, "bias": added})


def with_rotary(**changes: Any) -> Change:
    """Change the rotary positions of an operation, or of its option."""

    def value(name: str, old: Any) -> Any:
        return {"half_split": "interleaved", "interleaved": "half_split"}[old] if name == "pairing" else changes[name]

    def change(call: Call) -> Call | None:
        options = dict(call.options)
        inner = options.get("rotary")
        if inner is None and call.operation != "rotary_embedding":
            return None
        target = options if inner is None else dict(inner)
        names = [name for name in changes if target.get(name) is not None]
        new = {name: value(name, target[name]) for name in names}
        if all(target[name] == new[name] for name in new):
            return None
        return replace(call, options={**options, **new} if inner is None else {**options, "rotary": {**target, **new}})

    return change


def turned_positions(by: Callable[[Array], Array]) -> Change:
    """Change the positions of an embedding of positions."""

    def change(call: Call) -> Call | None:
        if call.operation not in ("rotary_embedding", "sinusoidal_positions"):
            return None
        return replace(call, tensors={**call.tensors, "positions": by(call.tensors["positions"])})

    return change

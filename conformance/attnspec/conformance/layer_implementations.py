"""Every layer as a public function in NumPy: what correct variants and planted faults are made of.

The functions take the arguments of `attnspec.reference`, widen half precisions to float32 and round their results once.
They share no code with it. Nothing is checked: whoever calls gives what the operation takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_results import CachedAttention
from attnspec.contract.operands import FLOATING, dtype_name
from attnspec.contract.states import leaves, map_leaves

from . import layer_attentions, layer_blocks, layer_models
from .layer_steps import Steps

Array: TypeAlias = np.ndarray[Any, Any]
Body: TypeAlias = Callable[..., Any]

BODIES: dict[str, Body] = {
    body.__name__: body
    for body in (
        layer_attentions.self_attention,
        layer_attentions.key_value_attention,
        layer_attentions.multi_head_attention,
        layer_attentions.cached_multi_head_attention,
        layer_attentions.hard_attention,
        layer_attentions.additive_attention,
        layer_attentions.bilinear_attention,
        layer_attentions.cosine_attention,
        layer_blocks.attention_gate,
        layer_blocks.gated_input,
        layer_blocks.gated_attention,
        layer_blocks.gated_attention_cell,
        layer_blocks.layer_norm,
        layer_blocks.feed_forward,
        layer_blocks.encoder_layer,
        layer_blocks.encoder,
        layer_blocks.decoder_layer,
        layer_blocks.decoder,
        layer_models.embedding,
        layer_models.add_sinusoidal_positions,
        layer_models.add_learned_positions,
        layer_models.mean_pooling,
        layer_models.text_encoder,
        layer_models.sequence_classifier,
        layer_models.transformer,
    )
}
"""Every operation by name, with `steps` before its arguments."""


PLAIN = Steps()


def build(steps: Steps = PLAIN, /, **bodies: Body) -> SimpleNamespace:
    """Make a module of all operations from steps, and from bodies in the place of those of the same names."""
    return SimpleNamespace(**{name: public(name, steps, bodies.get(name)) for name in BODIES})


def public(name: str, steps: Steps, body: Body | None = None) -> Callable[..., Any]:
    """Make the public function of an operation, of its own body or of another that takes the same arguments."""
    compute = BODIES[name] if body is None else body

    def call(*arguments: Any, **options: Any) -> Any:
        dtype = next(leaf.dtype for leaf in leaves(arguments).values() if _is_floating(leaf))
        wide = steps.accumulation(dtype)
        given = [_cast(argument, wide) for argument in arguments]
        with np.errstate(all="ignore"):  # what a fault overflows or divides is its own affair
            result = compute(steps, *given, **{option: _cast(value, wide) for option, value in options.items()})
        if isinstance(result, CachedAttention):  # a cache keeps its dtype
            kept = next(leaf.dtype for leaf in leaves(arguments[2]).values())
            return CachedAttention(_cast(result.output, dtype), _cast(result.cache, kept))
        return _cast(result, dtype)

    return functools.update_wrapper(call, functools.partial(BODIES[name], steps))  # its signature has no `steps`


def _cast(value: Any, dtype: Any) -> Any:
    """Cast all floating arrays of a tree; ids, booleans, masks and dropouts stay what they are."""
    return map_leaves(lambda leaf: leaf.astype(dtype) if _is_floating(leaf) else leaf, value)


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and dtype_name(value.dtype) in FLOATING

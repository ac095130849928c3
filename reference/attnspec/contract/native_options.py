"""What interchange with the frameworks' own layers refuses: options that the other side does not have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .attention_configs import MultiHeadAttentionConfig


class InterchangeError(ValueError):
    """A layer that the other side cannot express."""


def refuse(theirs: str, found: Mapping[str, Any]) -> None:
    """Raise, naming every option that is set, where the other side has none of them; None and False are not set."""
    given = [f"{name}={value!r}" for name, value in found.items() if value is not None and value is not False]
    if given:
        raise InterchangeError(f"{theirs} cannot be exchanged with {', '.join(given)}")


def refuse_attention_options(theirs: str, config: MultiHeadAttentionConfig, *, has: Collection[str]) -> None:
    """Refuse the options of ours that are set, but for those that theirs `has` too.

    All of theirs have sizes of the key inputs, a bias for all projections or none, and a dropout of the weights.
    """
    key_size = config.key_size or config.model_size
    is_grouped, is_whole = config.kv_heads != config.num_heads, config.query_dim * config.num_heads == config.model_size
    found = {
        "num_kv_heads": config.num_kv_heads if is_grouped else None,
        "head_dim": None if is_whole else config.head_dim,
        "value_dim": _unless(config.query_dim, config.value_dim),
        "value_size": _unless(key_size, config.value_size),
        "output_size": _unless(config.model_size, config.output_size),
        "use_bias": config.use_bias if isinstance(config.use_bias, tuple) else None,
        "use_sinks": config.use_sinks,
        "window": config.window,
        "rotary": config.rotary,
        "scale": config.scale,
        "softcap": config.softcap,
        "output_dropout_rate": config.output_dropout_rate or None,
    }
    refuse(theirs, {name: value for name, value in found.items() if name not in has})


def _unless(usual: int, value: int | None) -> int | None:
    """Return a size that is not the usual one."""
    return None if value == usual else value

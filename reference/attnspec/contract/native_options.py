"""What interchange with the frameworks' own layers refuses: options that the other side does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .attention_configs import MultiHeadAttentionConfig


class InterchangeError(ValueError):
    """A layer that the other side cannot express."""


def refuse(theirs: str, found: Mapping[str, Any]) -> None:
    """Raise, naming every option that is set, where the other side has none of them; None and False are not set."""
    given = [f"{name}={value!r}" for name, value in found.items() if value is not None and value is not False]
    if given:
        raise InterchangeError(f"{theirs} cannot be exchanged with {', '.join(given)}")


def refuse_attention_options(
    theirs: str,
    config: MultiHeadAttentionConfig,
    *,
    grouped: bool = False,
    value_dim: bool = False,
    window: bool = False,
) -> None:
    """Refuse what no framework's own multi-head attention has; the switches say what this one does have."""
    refuse(
        theirs,
        {
            "use_sinks": config.use_sinks,
            "window": None if window else config.window,
            "rotary": config.rotary,
            "scale": config.scale,
            "softcap": config.softcap,
            "use_bias": config.use_bias if isinstance(config.use_bias, tuple) else None,
            "output_dropout_rate": config.output_dropout_rate or None,
            "num_kv_heads": config.num_kv_heads if config.kv_heads != config.num_heads and not grouped else None,
            "value_dim": config.value_dim
            if config.value_dim not in (None, config.query_dim) and not value_dim
            else None,
        },
    )

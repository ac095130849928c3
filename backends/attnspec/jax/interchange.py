"""Between layers of attnspec and Flax' own: `from_native` builds ours, `to_native` theirs, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnspec.contract.native_options import InterchangeError, refuse, refuse_attention_options
from attnspec.contract.operands import describe

from .attention_layers import MultiHeadAttention
from .block_layers import LayerNorm
from .layer import Layer

Array = np.ndarray[Any, Any]


def from_native(module: nnx.Module, *, rngs: nnx.Rngs | None = None) -> Layer:
    """Build the layer of attnspec that computes what a layer of Flax computes, with its weights and dtype.

    Args:
        module: `flax.nnx.MultiHeadAttention` or `LayerNorm`.
        rngs: for dropout, which draws anew from it; without it, from seed 0.

    Returns:
        `MultiHeadAttention` or `LayerNorm`.

    Raises:
        InterchangeError: a module that computes what no layer of attnspec does: `normalize_qk`, another attention.
        TypeError: another class of module.

    Flax' masks are True where a pair is visible, as ours are, and have a head axis too; its `is_causal` is
    `mask=causal(0)`. A row that may see nothing is the mean of all values in Flax, and 0 in ours (S10). Flax drops the
    same pairs in every batch element and head (`broadcast_dropout`); ours does not. Flax computes a float64 attention
    in float32 inside; ours does not.
    """
    kind = next((kind for kind in _FROM if type(module) is kind), None)
    if kind is None:
        names = ", ".join(f"flax.nnx.{known.__name__}" for known in _FROM)
        raise TypeError(f"`module` must be one of {names}; got {describe(module)}")
    layer, state = _FROM[kind](module, nnx.Rngs(0) if rngs is None else rngs)
    layer.load_state(state)
    if getattr(module, "deterministic", None):
        layer.eval()  # type: ignore[no-untyped-call] # Flax does not annotate it
    return layer


def to_native(layer: Layer, *, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """Build the layer of Flax that computes what a layer of attnspec computes; the inverse of `from_native`.

    Args:
        layer: `MultiHeadAttention` or `LayerNorm`.
        rngs: for dropout; without it, from seed 0.

    Returns:
        The module, with the layer's weights, dtype and mode.

    Raises:
        InterchangeError: options that Flax' layers do not have: sinks, windows, rotary positions, a softcap, …
        TypeError: another class of layer.
    """
    kind = next((kind for kind in _TO if type(layer) is kind), None)
    if kind is None:
        names = ", ".join(known.__name__ for known in _TO)
        raise TypeError(f"`layer` must be one of {names}; got {describe(layer)}")
    return _TO[kind](layer, nnx.Rngs(0) if rngs is None else rngs)


def _from_multi_head(module: nnx.MultiHeadAttention, rngs: nnx.Rngs) -> tuple[MultiHeadAttention, dict[str, Array]]:
    refuse(
        "flax.nnx.MultiHeadAttention",
        {
            "normalize_qk": module.normalize_qk,
            "attention_fn": None if module.attention_fn is nnx.dot_product_attention else module.attention_fn,
            "decode": module.decode,
            "dtype": _other_dtype(module),
        },
    )
    kernels: dict[str, Array] = {name: np.array(part.kernel[...]) for name, part in _projections(module).items()}
    layer = MultiHeadAttention(
        module.in_features,
        module.num_heads,
        num_kv_heads=module.num_kv_heads,
        head_dim=module.head_dim,
        key_size=module.in_kv_features,
        output_size=module.out_features,
        use_bias=module.use_bias,
        dropout_rate=module.dropout_rate,
        dtype=kernels["query"].dtype,
        rngs=rngs,
    )
    state: dict[str, Array] = {
        f"{name}_weight": kernel.reshape(kernel.shape[0], -1) for name, kernel in kernels.items()
    }
    state["output_weight"] = kernels["output"].reshape(-1, kernels["output"].shape[-1])
    if module.use_bias:
        for name, part in _projections(module).items():
            state[f"{name}_bias"] = np.array(part.bias[...]).reshape(-1)
    return layer, state


def _projections(module: nnx.MultiHeadAttention) -> dict[str, Any]:
    return {"query": module.query, "key": module.key, "value": module.value, "output": module.out}


def _other_dtype(module: Any) -> Any:
    """Return the dtype that a module computes in where it is not that of its parameters."""
    is_own = module.dtype is None or jnp.dtype(module.dtype) == jnp.dtype(module.param_dtype)
    return None if is_own else jnp.dtype(module.dtype).name


def _from_norm(module: Any, rngs: nnx.Rngs) -> tuple[LayerNorm, dict[str, Array]]:
    refuse("flax.nnx.LayerNorm", {"dtype": _other_dtype(module)})
    if module.scale is None:
        raise InterchangeError("flax.nnx.LayerNorm cannot be exchanged with use_scale=False")
    if module.reduction_axes != -1 or module.feature_axes != -1:
        raise InterchangeError("flax.nnx.LayerNorm must normalise and scale the last axis")
    weight = np.array(module.scale[...])
    has_bias = module.bias is not None
    layer = LayerNorm(weight.size, epsilon=module.epsilon, use_bias=has_bias, dtype=weight.dtype, rngs=rngs)
    return layer, {"weight": weight} | ({"bias": np.array(module.bias[...])} if has_bias else {})


_FROM: dict[Any, Callable[[Any, nnx.Rngs], tuple[Layer, dict[str, Array]]]] = {
    nnx.MultiHeadAttention: _from_multi_head,
    nnx.LayerNorm: _from_norm,
}


def _to_multi_head(layer: MultiHeadAttention, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    config, state = layer.config, layer.state()
    theirs = "flax.nnx.MultiHeadAttention"
    refuse_attention_options(theirs, config, has=("num_kv_heads", "head_dim", "output_size"))
    module = nnx.MultiHeadAttention(
        config.num_heads,
        config.model_size,
        qkv_features=config.num_heads * config.query_dim,
        out_features=config.output_size or config.model_size,
        num_kv_heads=config.kv_heads,
        in_kv_features=config.key_size or config.model_size,
        param_dtype=layer.dtype,
        broadcast_dropout=False,
        dropout_rate=config.dropout_rate,
        deterministic=layer.deterministic,
        kernel_init=nnx.initializers.zeros,  # not drawn, because the state takes its place
        use_bias=config.use_bias,
        decode=False,
        rngs=rngs,
    )
    for name, part in _projections(module).items():
        part.kernel[...] = jnp.asarray(state[f"{name}_weight"].reshape(part.kernel.shape))
        if config.use_bias:
            part.bias[...] = jnp.asarray(state[f"{name}_bias"].reshape(part.bias.shape))
    return module


def _to_norm(layer: LayerNorm, rngs: nnx.Rngs) -> Any:
    config, state = layer.config, layer.state()
    module: Any = nnx.LayerNorm(
        config.model_size,
        epsilon=config.epsilon,
        use_bias=config.use_bias,
        param_dtype=layer.dtype,
        use_fast_variance=False,
        rngs=rngs,
    )
    module.scale[...] = jnp.asarray(state["weight"])
    if config.use_bias:
        module.bias[...] = jnp.asarray(state["bias"])
    return module


_TO: dict[type[Layer], Callable[[Any, nnx.Rngs], nnx.Module]] = {
    MultiHeadAttention: _to_multi_head,
    LayerNorm: _to_norm,
}

"""Between layers of attnspec and Keras' own: `from_native` builds ours, `to_native` theirs, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from attnspec.contract.attention_configs import PROJECTIONS
from attnspec.contract.native_options import InterchangeError, refuse, refuse_attention_options
from attnspec.contract.operands import describe

from .attention_layers import AdditiveAttention, DotProductAttention, MultiHeadAttention
from .block_layers import LayerNorm
from .layer import Layer

Array = np.ndarray[Any, Any]


def from_native(module: keras.layers.Layer) -> Layer:
    """Build the layer of attnspec that computes what a layer of Keras computes, with its weights and dtype.

    Args:
        module: `keras.layers.MultiHeadAttention`, `GroupQueryAttention`, `Attention`, `AdditiveAttention` or
            `LayerNormalization`, built: it must have its weights.

    Returns:
        `MultiHeadAttention` (for the first two), `DotProductAttention` or `AdditiveAttention` (for `Attention`, by its
        score_mode), `AdditiveAttention`, `LayerNorm`.

    Raises:
        InterchangeError: a module that computes what no layer of attnspec does, or one that is not built.
        TypeError: another class of layer.

    Keras calls its layers with (query, value, key), ours take (query, key, value). Its masks are True where a pair is
    visible, as ours are: `attention_mask` (B, Tq, Tk) is `mask=attention_mask[:, None]`, for `Attention` without a
    head axis. `use_causal_mask` is `mask=causal(0)`; of [query_mask, value_mask], (B, Tq) and (B, Tk), the second is
    `mask=value_mask[:, None, :]`, and the first makes rows of the output 0, as `query_mask[:, :, None]` does. A
    `sliding_window` counts from position 0 of both: call ours with `offset=0` where the lengths differ. A row that may
    see nothing is a mean of values in Keras, and 0 in ours (S10).
    """
    name = next((name for name in _FROM if type(module) is getattr(keras.layers, name)), None)
    if name is None:
        names = ", ".join(f"keras.layers.{known}" for known in _FROM)
        raise TypeError(f"`module` must be one of {names}; got {describe(module)}")
    if not module.built:
        raise InterchangeError(f"the keras.layers.{name} has no weights yet: build or call it first")
    layer, state = _FROM[name](f"keras.layers.{name}", module, {"dtype": module.dtype_policy})
    return layer.load_state(state)


def to_native(layer: Layer) -> keras.layers.Layer:
    """Build the layer of Keras that computes what a layer of attnspec computes; the inverse of `from_native`.

    Args:
        layer: `MultiHeadAttention` (gives `keras.layers.GroupQueryAttention` where heads share keys and values),
            `DotProductAttention`, `AdditiveAttention` without projections, `LayerNorm`.

    Returns:
        The layer, built, with the weights and dtype.

    Raises:
        InterchangeError: options that Keras' layers do not have: sinks, rotary positions, a softcap, …
        TypeError: another class of layer.
    """
    kind = next((kind for kind in _TO if type(layer) is kind), None)
    if kind is None:
        names = ", ".join(known.__name__ for known in _TO)
        raise TypeError(f"`layer` must be one of {names}; got {describe(layer)}")
    return _TO[kind](layer, {"dtype": layer.dtype_policy})


def _from_multi_head(theirs: str, module: Any, own: dict[str, Any]) -> tuple[MultiHeadAttention, dict[str, Array]]:
    """Build a layer from kernels (E, H, D), and (H, D, E_out) of the output."""
    options = module.get_config()
    refuse(theirs, {"use_gate": options.get("use_gate")})
    axes, dense = options.get("attention_axes"), _dense_layers(module)
    if axes not in (None, (1,), [1]):
        raise InterchangeError(f"{theirs} cannot be exchanged with attention_axes={axes!r}")
    query, key, value, output = (tuple(layer.kernel.shape) for layer in dense.values())
    if len(output) != 3:
        raise InterchangeError(f"{theirs} cannot be exchanged with output_shape={output[2:]!r}")
    band = options.get("sliding_window")
    layer = MultiHeadAttention(
        query[0],
        query[1],
        num_kv_heads=key[1],
        head_dim=query[2],
        value_dim=value[2],
        key_size=key[0],
        value_size=value[0],
        output_size=output[2],
        use_bias=options["use_bias"],
        window=None if band is None else (band - 1, band - 1),
        dropout_rate=options["dropout"],
        **own,
    )
    state = {name: np.array(variable.numpy()) for name, variable in _variables(dense)}
    return layer, {name: state[name].reshape(spec.shape) for name, spec in layer.config.specs().items()}


def _dense_layers(module: Any) -> dict[str, Any]:
    """Give the projections by name; only one of the two classes has public names for them."""
    return {name: getattr(module, f"_{name}_dense") for name in PROJECTIONS}


def _variables(dense: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name the variables of the projections as ours are."""
    named = [(f"{name}_weight", layer.kernel) for name, layer in dense.items()]
    return named + [(f"{name}_bias", layer.bias) for name, layer in dense.items() if layer.bias is not None]


def _from_attention(theirs: str, module: Any, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    own = own | {"dropout_rate": module.dropout}
    scale = None if module.scale is None else np.array(module.scale.numpy())
    if module.score_mode == "dot":
        layer = DotProductAttention(scale=1.0 if scale is None else None, use_scale=scale is not None, **own)
        return layer, {} if scale is None else {"scale": scale}
    # score_mode "concat": w Σ tanh(s (q + k)) is additive attention whose projections are s times the identity.
    size, weight = _query_size(theirs, module), np.array(module.concat_score_weight.numpy())
    state = {"score_weight": np.full(size, weight, weight.dtype)}
    if scale is not None:
        identity = (scale * np.eye(size)).astype(weight.dtype)
        state |= {"query_weight": identity, "key_weight": identity}
    return AdditiveAttention(size, use_projections=scale is not None, **own), state


def _from_additive(theirs: str, module: Any, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    size = _query_size(theirs, module)
    layer = AdditiveAttention(size, use_projections=False, dropout_rate=module.dropout, **own)
    if module.scale is None:
        return layer, {name: np.ones_like(array) for name, array in layer.state().items()}
    return layer, {"score_weight": np.array(module.scale.numpy())}


def _query_size(theirs: str, module: Any) -> int:
    """Return the size of the queries that a layer was built for; [query, value, key] are its inputs."""
    return int(_build_shape(theirs, module)[0][-1])


def _build_shape(theirs: str, module: Any) -> Any:
    """Return the shape, or the shapes, that a layer was built for."""
    shape = (module.get_build_config() or {}).get("input_shape")
    if not shape:
        raise InterchangeError(f"the {theirs} does not know the shapes that it was built for")
    return shape


def _from_norm(theirs: str, module: Any, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    options = module.get_config()
    refuse(theirs, {"rms_scaling": options.get("rms_scaling")})
    if not options["scale"]:
        raise InterchangeError(f"{theirs} cannot be exchanged with scale=False")
    rank = len(_build_shape(theirs, module))
    if [axis % rank for axis in options["axis"]] != [rank - 1]:
        raise InterchangeError(f"{theirs} must normalise the last axis; got axis={options['axis']!r}")
    weight = np.array(module.gamma.numpy())
    layer = LayerNorm(weight.size, epsilon=options["epsilon"], use_bias=options["center"], **own)
    return layer, {"weight": weight} | ({"bias": np.array(module.beta.numpy())} if options["center"] else {})


_FROM: dict[str, Callable[[str, Any, dict[str, Any]], tuple[Layer, dict[str, Array]]]] = {
    "MultiHeadAttention": _from_multi_head,
    "GroupQueryAttention": _from_multi_head,
    "Attention": _from_attention,
    "AdditiveAttention": _from_additive,
    "LayerNormalization": _from_norm,
}
"""By the public names of Keras, which are not always those of the classes."""


def _to_multi_head(layer: MultiHeadAttention, own: dict[str, Any]) -> keras.layers.Layer:
    config, window = layer.config, layer.config.window
    band = window[0] + 1 if window is not None and window[0] == window[1] else None
    is_grouped = config.kv_heads != config.num_heads
    theirs = "GroupQueryAttention" if is_grouped else "MultiHeadAttention"
    own_options = ("num_kv_heads",) if is_grouped else ("value_dim", "output_size")
    has = ("head_dim", "value_size", *own_options, *(("window",) if band else ()))
    refuse_attention_options(f"keras.layers.{theirs}", config, has=has)
    options = {"dropout": config.dropout_rate, "use_bias": config.use_bias, "sliding_window": band, **own}
    if is_grouped:
        module = keras.layers.GroupQueryAttention(config.query_dim, config.num_heads, config.kv_heads, **options)
    else:
        module = keras.layers.MultiHeadAttention(
            config.num_heads,
            config.query_dim,
            value_dim=config.value_dim or config.query_dim,
            output_shape=config.output_size or config.model_size,
            **options,
        )
    key_size = config.key_size or config.model_size
    module.build(
        query_shape=(None, None, config.model_size),
        key_shape=(None, None, key_size),
        value_shape=(None, None, config.value_size or key_size),
    )
    state = layer.state()
    for name, variable in _variables(_dense_layers(module)):
        variable.assign(state[name].reshape(variable.shape))
    return module


def _to_attention(layer: DotProductAttention, own: dict[str, Any]) -> keras.layers.Layer:
    config = layer.config
    refuse("keras.layers.Attention", {"softcap": config.softcap})
    if not config.use_scale and config.scale != 1.0:
        found = "the default scale, 1/√Dk" if config.scale is None else f"scale={config.scale}"
        raise InterchangeError(f"keras.layers.Attention cannot be exchanged with {found}: its own is 1, or learned")
    module = keras.layers.Attention(use_scale=config.use_scale, dropout=config.dropout_rate, **own)
    module.build([(None, None, 1), (None, None, 1)])
    if config.use_scale:
        module.scale.assign(layer.state()["scale"])
    return module


def _to_additive(layer: AdditiveAttention, own: dict[str, Any]) -> keras.layers.Layer:
    config = layer.config
    refuse(
        "keras.layers.AdditiveAttention",
        {
            "use_projections": config.use_projections,
            "use_bias": config.use_bias,
            "softcap": config.softcap,
            "scale": config.scale,
        },
    )
    module = keras.layers.AdditiveAttention(dropout=config.dropout_rate, **own)
    module.build([(None, None, config.query_size), (None, None, config.query_size)])
    module.scale.assign(layer.state()["score_weight"])
    return module


def _to_norm(layer: LayerNorm, own: dict[str, Any]) -> keras.layers.Layer:
    config, state = layer.config, layer.state()
    module = keras.layers.LayerNormalization(epsilon=config.epsilon, center=config.use_bias, **own)
    module.build((None, config.model_size))
    module.gamma.assign(state["weight"])
    if config.use_bias:
        module.beta.assign(state["bias"])
    return module


_TO: dict[type[Layer], Callable[[Any, dict[str, Any]], keras.layers.Layer]] = {
    MultiHeadAttention: _to_multi_head,
    DotProductAttention: _to_attention,
    AdditiveAttention: _to_additive,
    LayerNorm: _to_norm,
}

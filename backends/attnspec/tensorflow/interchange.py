"""Between layers of attnspec and Keras' own: `from_native` builds ours, `to_native` theirs, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

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

    Keras calls its layers with (query, value, key), ours take (query, key, value). Keras' masks are True where a pair
    is visible, as ours are; its `use_causal_mask` is `mask=causal(0)`. A row that may see nothing is the mean of all
    values in Keras and 0 in ours (S10).
    """
    kind = next((kind for kind in _FROM if type(module) is kind), None)
    if kind is None:
        names = ", ".join(f"keras.layers.{known.__name__}" for known in _FROM)
        raise TypeError(f"`module` must be one of {names}; got {describe(module)}")
    if not module.built:
        raise InterchangeError(f"the keras.layers.{kind.__name__} has no weights yet: build or call it first")
    layer, state = _FROM[kind](module, {"dtype": module.dtype_policy})
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


def _from_multi_head(
    module: keras.layers.MultiHeadAttention, own: dict[str, Any]
) -> tuple[MultiHeadAttention, dict[str, Array]]:
    options = module.get_config()
    refuse("keras.layers.MultiHeadAttention", {"use_gate": options.get("use_gate")})
    if module.query_dense.kernel.shape.rank != 3 or tuple(options["attention_axes"] or (1,)) != (1,):
        raise InterchangeError(
            f"keras.layers.MultiHeadAttention cannot be exchanged with attention_axes={options['attention_axes']!r}"
        )
    kernels = _kernels(module.query_dense, module.key_dense, module.value_dense, module.output_dense)
    band = options.get("sliding_window")
    return _multi_head(kernels, options["dropout"], None if band is None else (band - 1, band - 1), own)


def _from_grouped(
    module: keras.layers.GroupQueryAttention, own: dict[str, Any]
) -> tuple[MultiHeadAttention, dict[str, Array]]:
    options = module.get_config()
    refuse("keras.layers.GroupQueryAttention", {"use_gate": options.get("use_gate")})
    kernels = _kernels(module._query_dense, module._key_dense, module._value_dense, module._output_dense)
    band = options.get("sliding_window")
    return _multi_head(kernels, options["dropout"], None if band is None else (band - 1, band - 1), own)


def _kernels(*projections: Any) -> dict[str, tuple[Array, Array | None]]:
    """Give kernel and bias of query, key, value and output by name."""
    names = ("query", "key", "value", "output")
    return {
        name: (np.array(dense.kernel.value), None if dense.bias is None else np.array(dense.bias.value))
        for name, dense in zip(names, projections, strict=True)
    }


def _multi_head(
    kernels: dict[str, tuple[Array, Array | None]],
    dropout_rate: float,
    window: tuple[int, int] | None,
    own: dict[str, Any],
) -> tuple[MultiHeadAttention, dict[str, Array]]:
    """Build a layer from kernels (E, H, D), and (H, D, E_out) of the output."""
    query, key, value, output = (kernels[name][0] for name in ("query", "key", "value", "output"))
    layer = MultiHeadAttention(
        query.shape[0],
        query.shape[1],
        num_kv_heads=key.shape[1],
        head_dim=query.shape[2],
        value_dim=value.shape[2],
        key_size=key.shape[0],
        value_size=value.shape[0],
        output_size=output.shape[2],
        use_bias=kernels["query"][1] is not None,
        window=window,
        dropout_rate=dropout_rate,
        **own,
    )
    state = {f"{name}_weight": kernel.reshape(kernel.shape[0], -1) for name, (kernel, _) in kernels.items()}
    state["output_weight"] = output.reshape(-1, output.shape[2])
    state |= {f"{name}_bias": bias.reshape(-1) for name, (_, bias) in kernels.items() if bias is not None}
    return layer, state


def _from_attention(module: keras.layers.Attention, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    rate = module.dropout
    scale = None if module.scale is None else np.array(module.scale.value)
    if module.score_mode == "dot":
        layer = DotProductAttention(
            scale=None if module.use_scale else 1.0, use_scale=module.use_scale, dropout_rate=rate, **own
        )
        return layer, {} if scale is None else {"scale": scale}
    # score_mode "concat": w Σ tanh(s (q + k)) is additive attention whose projections are s times the identity.
    size = _query_size(module)
    dtype = np.array(module.concat_score_weight.value).dtype
    weights = {"score_weight": np.full(size, np.array(module.concat_score_weight.value), dtype)}
    if scale is not None:
        identity = np.asarray(scale * np.eye(size), dtype)
        weights |= {"query_weight": identity, "key_weight": identity}
    return AdditiveAttention(size, use_projections=scale is not None, dropout_rate=rate, **own), weights


def _from_additive(module: keras.layers.AdditiveAttention, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    size = _query_size(module)
    layer = AdditiveAttention(size, use_projections=False, dropout_rate=module.dropout, **own)
    weight = (
        np.ones(size, layer.state()["score_weight"].dtype) if module.scale is None else np.array(module.scale.value)
    )
    return layer, {"score_weight": weight}


def _query_size(module: Any) -> int:
    """Return the size of the queries that a layer was built for; [query, value, key] are its inputs."""
    shapes = (module.get_build_config() or {}).get("input_shape")
    if not shapes:
        raise InterchangeError(f"the keras.layers.{type(module).__name__} does not know the size of its queries")
    return int(shapes[0][-1])


def _from_norm(module: keras.layers.LayerNormalization, own: dict[str, Any]) -> tuple[Layer, dict[str, Array]]:
    options = module.get_config()
    refuse(
        "keras.layers.LayerNormalization",
        {"rms_scaling": options.get("rms_scaling"), "scale=False, so": not options["scale"]},
    )
    weight = np.array(module.gamma.value)
    if weight.ndim != 1:
        raise InterchangeError(f"keras.layers.LayerNormalization cannot be exchanged with axis={options['axis']!r}")
    layer = LayerNorm(weight.size, epsilon=options["epsilon"], use_bias=options["center"], **own)
    return layer, {"weight": weight} | ({"bias": np.array(module.beta.value)} if options["center"] else {})


_FROM: dict[Any, Callable[[Any, dict[str, Any]], tuple[Layer, dict[str, Array]]]] = {
    keras.layers.MultiHeadAttention: _from_multi_head,
    keras.layers.GroupQueryAttention: _from_grouped,
    keras.layers.Attention: _from_attention,
    keras.layers.AdditiveAttention: _from_additive,
    keras.layers.LayerNormalization: _from_norm,
}


def _to_multi_head(layer: MultiHeadAttention, own: dict[str, Any]) -> keras.layers.Layer:
    config = layer.config
    is_grouped = config.kv_heads != config.num_heads
    theirs = f"keras.layers.{'GroupQueryAttention' if is_grouped else 'MultiHeadAttention'}"
    window = config.window
    band = window[0] + 1 if window is not None and window[0] == window[1] else None
    refuse_attention_options(
        theirs, config, grouped=is_grouped, value_dim=not is_grouped, window=window is None or band is not None
    )
    state = layer.state()
    key_size = config.key_size or config.model_size
    output_size = config.output_size or config.model_size
    options = {"dropout": config.dropout_rate, "use_bias": config.use_bias, "sliding_window": band, **own}
    if is_grouped:
        refuse(theirs, {"output_size": output_size if output_size != config.model_size else None})
        module = keras.layers.GroupQueryAttention(config.query_dim, config.num_heads, config.kv_heads, **options)
    else:
        module = keras.layers.MultiHeadAttention(
            config.num_heads,
            config.query_dim,
            value_dim=config.value_dim or config.query_dim,
            output_shape=output_size,
            **options,
        )
    module.build(
        query_shape=(None, None, config.model_size),
        key_shape=(None, None, key_size),
        value_shape=(None, None, config.value_size or key_size),
    )
    for name in ("query", "key", "value", "output"):
        dense = getattr(module, f"_{name}_dense")
        dense.kernel.assign(state[f"{name}_weight"].reshape(dense.kernel.shape))
        if dense.bias is not None:
            dense.bias.assign(state[f"{name}_bias"].reshape(dense.bias.shape))
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

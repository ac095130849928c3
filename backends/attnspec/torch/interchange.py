"""Between layers of attnspec and torch's own: `from_native` builds ours, `to_native` theirs, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnspec.contract.block_configs import BlockConfig
from attnspec.contract.native_options import InterchangeError, refuse, refuse_attention_options
from attnspec.contract.operands import describe

from .attention_layers import MultiHeadAttention
from .block_layers import Decoder, DecoderLayer, Encoder, EncoderLayer, LayerNorm
from .layer import Layer
from .model_layers import Transformer

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


def from_native(module: nn.Module) -> Layer:
    """Build the layer of attnspec that computes what a layer of torch computes, with its weights, dtype and device.

    Args:
        module: `torch.nn.MultiheadAttention`, `TransformerEncoderLayer`, `TransformerDecoderLayer`,
            `TransformerEncoder`, `TransformerDecoder`, `Transformer` or `LayerNorm`.

    Returns:
        `MultiHeadAttention`, `EncoderLayer`, `DecoderLayer`, `Encoder`, `Decoder`, `Transformer` (without embeddings,
        positions and head) or `LayerNorm`, in the module's mode (training or evaluation).

    Raises:
        InterchangeError: a module that computes what no layer of attnspec does: `bias_k`, `add_zero_attn`, an
            activation that has no name here.
        TypeError: another class of module.

    Theirs may be called with `batch_first=False`; ours take the batch first, always. Their masks are True where a pair
    is *hidden*, ours where it is visible: `mask=~attn_mask`; their `is_causal` is `mask=causal()`, a padding mask
    (B, Tk) is `mask=~key_padding_mask[:, None, None, :]`. Their Transformer has no causal mask unless it is given: call
    ours with `target_mask=full()` for the same.
    """
    kind = next((kind for kind in _FROM if type(module) is kind), None)
    if kind is None:
        names = ", ".join(f"torch.nn.{known.__name__}" for known in _FROM)
        raise TypeError(f"`module` must be one of {names}; got {describe(module)}")
    parameter = next(module.parameters())
    layer = _FROM[kind](module, {"device": parameter.device, "dtype": parameter.dtype})
    _copy(_pairs(module), layer)
    return layer.train(module.training)


def to_native(layer: Layer, *, batch_first: bool = True) -> nn.Module:
    """Build the layer of torch that computes what a layer of attnspec computes; the inverse of `from_native`.

    Args:
        layer: `MultiHeadAttention`, `EncoderLayer`, `DecoderLayer`, `Encoder`, `Decoder`, `Transformer`, `LayerNorm`.
        batch_first: as theirs take it.

    Returns:
        The module, with the layer's weights, dtype, device and mode. Theirs have dropout on the weights and after every
        block at one rate, as ours have.

    Raises:
        InterchangeError: options that torch's layers do not have: grouped heads, sinks, windows, rotary positions, …
        TypeError: another class of layer.
    """
    kind = next((kind for kind in _TO if type(layer) is kind), None)
    if kind is None:
        names = ", ".join(known.__name__ for known in _TO)
        raise TypeError(f"`layer` must be one of {names}; got {describe(layer)}")
    parameter = next(layer.parameters())
    own = {"device": parameter.device, "dtype": parameter.dtype}
    module = _TO[kind](layer.config, own if kind is LayerNorm else own | {"batch_first": batch_first})
    given = dict(layer.named_parameters())
    with torch.no_grad():
        for name, (target, transposed) in _pairs(module).items():
            target.copy_(given[name].T if transposed else given[name])
    return module.train(layer.training)


def _attention(module: nn.MultiheadAttention, own: dict[str, Any]) -> MultiHeadAttention:
    refuse(
        "torch.nn.MultiheadAttention",
        {
            "add_bias_kv": module.bias_k is not None or module.bias_v is not None,
            "add_zero_attn": module.add_zero_attn,
        },
    )
    return MultiHeadAttention(
        module.embed_dim,
        module.num_heads,
        key_size=module.kdim,
        value_size=module.vdim,
        use_bias=module.in_proj_bias is not None,
        dropout_rate=module.dropout,
        **own,
    )


def _block_arguments(module: Any) -> dict[str, Any]:
    """Read the arguments that encoder and decoder layers share."""
    rates = {module.dropout.p, module.dropout1.p, module.dropout2.p, module.self_attn.dropout}
    if len(rates) > 1:
        raise InterchangeError(f"{type(module).__name__} has dropouts of different rates: {sorted(rates)}")
    return {
        "model_size": module.self_attn.embed_dim,
        "num_heads": module.self_attn.num_heads,
        "hidden_size": module.linear1.out_features,
        "norm": "pre" if module.norm_first else "post",
        "activation": _activation_name(module.activation),
        "epsilon": module.norm1.eps,
        "use_bias": module.linear1.bias is not None,
        "dropout_rate": module.dropout.p,
    }


def _activation_name(activation: Any) -> str:
    known: dict[type, str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}
    if isinstance(activation, nn.GELU):
        return "gelu" if activation.approximate == "none" else "gelu_tanh"
    for name, function in _ACTIVATIONS.items():
        if activation is function:
            return name
    if type(activation) in known:
        return known[type(activation)]
    raise InterchangeError(f"the activation {activation!r} has no name in attnspec")


def _stack_arguments(module: Any) -> dict[str, Any]:
    layers = [_block_arguments(layer) for layer in module.layers]
    if not layers or any(layer != layers[0] for layer in layers):
        raise InterchangeError(f"{type(module).__name__} must have layers, all with the same arguments")
    if module.norm is not None and not isinstance(module.norm, nn.LayerNorm):
        raise InterchangeError(f"the last normalisation must be torch.nn.LayerNorm; got {describe(module.norm)}")
    if module.norm is not None and module.norm.eps != layers[0]["epsilon"]:
        raise InterchangeError("the last normalisation has another epsilon than the layers")
    return {**layers[0], "num_layers": len(layers), "final_norm": module.norm is not None}


def _transformer(module: nn.Transformer, own: dict[str, Any]) -> Transformer:
    encoder, decoder = _stack_arguments(module.encoder), _stack_arguments(module.decoder)
    counts = {"num_encoder_layers": encoder.pop("num_layers"), "num_decoder_layers": decoder.pop("num_layers")}
    if encoder != decoder:
        raise InterchangeError("encoder and decoder of torch.nn.Transformer have different arguments")
    return Transformer(**encoder, **counts, positions=None, **own)


_FROM: dict[type[nn.Module], Callable[[Any, dict[str, Any]], Layer]] = {
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: lambda module, own: EncoderLayer(**_block_arguments(module), **own),
    nn.TransformerDecoderLayer: lambda module, own: DecoderLayer(**_block_arguments(module), **own),
    nn.TransformerEncoder: lambda module, own: Encoder(**_stack_arguments(module), **own),
    nn.TransformerDecoder: lambda module, own: Decoder(**_stack_arguments(module), **own),
    nn.Transformer: _transformer,
    nn.LayerNorm: lambda module, own: LayerNorm(
        module.normalized_shape[-1], epsilon=module.eps, use_bias=module.bias is not None, **own
    ),
}


def _native_attention(config: Any, own: dict[str, Any]) -> nn.MultiheadAttention:
    refuse_attention_options("torch.nn.MultiheadAttention", config)
    refuse(
        "torch.nn.MultiheadAttention",
        {
            "head_dim": config.head_dim if config.query_dim * config.num_heads != config.model_size else None,
            "output_size": config.output_size if config.output_size not in (None, config.model_size) else None,
        },
    )
    key_size = config.key_size or config.model_size
    return nn.MultiheadAttention(
        config.model_size,
        config.num_heads,
        dropout=config.dropout_rate,
        bias=config.use_bias,
        kdim=key_size,
        vdim=config.value_size or key_size,
        **own,
    )


def _native_block_arguments(config: BlockConfig) -> dict[str, Any]:
    refuse(
        "torch.nn.Transformer…",
        {
            "rotary": config.rotary,
            "num_kv_heads": config.num_kv_heads if config.num_kv_heads not in (None, config.num_heads) else None,
        },
    )
    activation = functional.gelu if config.activation == "gelu" else _ACTIVATIONS.get(config.activation)
    return {
        "d_model": config.model_size,
        "nhead": config.num_heads,
        "dim_feedforward": config.inner_size,
        "dropout": config.dropout_rate,
        "activation": activation or nn.GELU("tanh"),
        "layer_norm_eps": config.epsilon,
        "norm_first": config.norm == "pre",
        "bias": config.use_bias,
    }


def _final_norm(config: Any, own: dict[str, Any]) -> nn.LayerNorm | None:
    has_norm = config.norm == "pre" if config.final_norm is None else config.final_norm
    device = {name: own[name] for name in ("device", "dtype")}
    return nn.LayerNorm(config.model_size, config.epsilon, bias=config.use_bias, **device) if has_norm else None


def _native_encoder(config: Any, own: dict[str, Any]) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(**_native_block_arguments(config), **own)
    # Nested tensors change the results of padded rows, and warn where they cannot be used.
    return nn.TransformerEncoder(layer, config.num_layers, _final_norm(config, own), enable_nested_tensor=False)


def _native_decoder(config: Any, own: dict[str, Any]) -> nn.TransformerDecoder:
    layer = nn.TransformerDecoderLayer(**_native_block_arguments(config), **own)
    return nn.TransformerDecoder(layer, config.num_layers, _final_norm(config, own))


def _native_transformer(config: Any, own: dict[str, Any]) -> nn.Transformer:
    refuse(
        "torch.nn.Transformer",
        {name: getattr(config, name) for name in ("positions", "source_size", "target_size", "output_size")},
    )
    encoder = _native_encoder(config.encoder_config(config.num_encoder_layers), own)
    decoder = _native_decoder(config.decoder_config(config.num_decoder_layers), own)
    return nn.Transformer(config.model_size, config.num_heads, custom_encoder=encoder, custom_decoder=decoder, **own)


_TO: dict[type[Layer], Callable[[Any, dict[str, Any]], nn.Module]] = {
    MultiHeadAttention: _native_attention,
    EncoderLayer: lambda config, own: nn.TransformerEncoderLayer(**_native_block_arguments(config), **own),
    DecoderLayer: lambda config, own: nn.TransformerDecoderLayer(**_native_block_arguments(config), **own),
    Encoder: _native_encoder,
    Decoder: _native_decoder,
    Transformer: _native_transformer,
    LayerNorm: lambda config, own: nn.LayerNorm(config.model_size, config.epsilon, bias=config.use_bias, **own),
}


def _copy(pairs: dict[str, tuple[Tensor, bool]], layer: Layer) -> None:
    given = dict(layer.named_parameters())
    with torch.no_grad():
        for name, parameter in given.items():
            source, transposed = pairs[name]
            parameter.copy_(source.T if transposed else source)


def _pairs(module: Any, prefix: str = "") -> dict[str, tuple[Tensor, bool]]:
    """Name torch's tensors as ours are, and say which of them ours have transposed; packed ones are taken apart."""
    if isinstance(module, nn.LayerNorm):
        return _given(prefix, weight=(module.weight, False), bias=(module.bias, False))
    if isinstance(module, nn.MultiheadAttention):
        return _attention_pairs(module, prefix)
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        is_decoder = isinstance(module, nn.TransformerDecoderLayer)
        found = _pairs(module.self_attn, f"{prefix}attention.") | _pairs(module.norm1, f"{prefix}attention_norm.")
        if is_decoder:
            found |= _pairs(module.multihead_attn, f"{prefix}cross_attention.")
            found |= _pairs(module.norm2, f"{prefix}cross_attention_norm.")
        found |= _given(
            f"{prefix}feed_forward.",
            hidden_weight=(module.linear1.weight, True),
            output_weight=(module.linear2.weight, True),
            hidden_bias=(module.linear1.bias, False),
            output_bias=(module.linear2.bias, False),
        )
        return found | _pairs(module.norm3 if is_decoder else module.norm2, f"{prefix}feed_forward_norm.")
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        found = {} if module.norm is None else _pairs(module.norm, f"{prefix}norm.")
        for i, layer in enumerate(module.layers):
            found |= _pairs(layer, f"{prefix}layers.{i}.")
        return found
    return _pairs(module.encoder, f"{prefix}encoder.") | _pairs(module.decoder, f"{prefix}decoder.")


def _attention_pairs(module: nn.MultiheadAttention, prefix: str) -> dict[str, tuple[Tensor, bool]]:
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        weights = list(module.in_proj_weight.chunk(3))
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    parts = ("query", "key", "value")
    return _given(
        prefix,
        **{f"{part}_weight": (weight, True) for part, weight in zip(parts, weights, strict=True)},
        output_weight=(module.out_proj.weight, True),
        **{f"{part}_bias": (bias, False) for part, bias in zip(parts, biases, strict=True)},
        output_bias=(module.out_proj.bias, False),
    )


def _given(prefix: str, **pairs: tuple[Any, bool]) -> dict[str, tuple[Tensor, bool]]:
    return {prefix + name: pair for name, pair in pairs.items() if pair[0] is not None}

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


def _gelu_tanh(inputs: Tensor) -> Tensor:
    # Not `nn.GELU("tanh")`: the fast path of torch's encoder layers takes every nn.GELU for the exact one.
    return functional.gelu(inputs, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
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
            activation that has no name here, parts that differ in what ours share.
        TypeError: another class of module.

    Theirs may be called with `batch_first=False`; ours take the batch first, always. Their masks are True where a pair
    is *hidden*, ours where it is visible: `mask=~attn_mask`; one for each batch element and head, (B·H, Tq, Tk), is
    `mask=~attn_mask.reshape(B, H, Tq, Tk)`. A padding mask (B, Tk) is `mask=~key_padding_mask[:, None, None, :]`. Where
    theirs are floating numbers, which are added, ours are `bias=`. `is_causal` of their encoder and decoder layers is
    only a hint beside the mask: ours take `mask=causal()`. Their Transformer has no causal mask unless it is given:
    call ours with `target_mask=full()` for the same. A row that may see nothing is NaN in theirs, and 0 in ours (S10).
    """
    kind = next((kind for kind in _FROM if type(module) is kind), None)
    if kind is None:
        names = ", ".join(f"torch.nn.{known.__name__}" for known in _FROM)
        raise TypeError(f"`module` must be one of {names}; got {describe(module)}")
    first = next(module.parameters(), None)
    if first is None:
        raise InterchangeError(f"the torch.nn.{kind.__name__} has no parameters")
    layer = _FROM[kind](module, {"device": first.device, "dtype": first.dtype})
    pairs, given = _pairs(module), dict(layer.named_parameters())
    if given.keys() != pairs.keys():
        names = ", ".join(sorted(given.keys() ^ pairs.keys()))
        raise InterchangeError(f"parts of the torch.nn.{kind.__name__} differ in having biases or weights: {names}")
    with torch.no_grad():
        for name, (source, is_transposed) in pairs.items():
            given[name].copy_(source.T if is_transposed else source)
    return layer.train(module.training)


def to_native(layer: Layer, *, batch_first: bool = True) -> nn.Module:
    """Build the layer of torch that computes what a layer of attnspec computes; the inverse of `from_native`.

    Args:
        layer: `MultiHeadAttention`, `EncoderLayer`, `DecoderLayer`, `Encoder`, `Decoder`, `Transformer`, `LayerNorm`.
        batch_first: as theirs take it.

    Returns:
        The module, with the layer's weights, dtype, device and mode.

    Raises:
        InterchangeError: options that torch's layers do not have: grouped heads, sinks, windows, rotary positions, …
        TypeError: another class of layer.
    """
    kind = next((kind for kind in _TO if type(layer) is kind), None)
    if kind is None:
        names = ", ".join(known.__name__ for known in _TO)
        raise TypeError(f"`layer` must be one of {names}; got {describe(layer)}")
    given = dict(layer.named_parameters())
    first = next(iter(given.values()), None)
    if first is None:
        raise InterchangeError(f"the {kind.__name__} has no parameters")
    own = {"device": first.device, "dtype": first.dtype}
    module = _TO[kind](layer.config, own if kind is LayerNorm else own | {"batch_first": batch_first})
    with torch.no_grad():
        for name, (target, is_transposed) in _pairs(module).items():
            target.copy_(given[name].T if is_transposed else given[name])
    return module.train(layer.training)


def _attention(module: nn.MultiheadAttention, own: dict[str, Any]) -> MultiHeadAttention:
    _refuse_additions(module)
    return MultiHeadAttention(
        module.embed_dim,
        module.num_heads,
        key_size=module.kdim,
        value_size=module.vdim,
        use_bias=module.in_proj_bias is not None,
        dropout_rate=module.dropout,
        **own,
    )


def _refuse_additions(module: nn.MultiheadAttention) -> None:
    has_biases = module.bias_k is not None or module.bias_v is not None
    refuse("torch.nn.MultiheadAttention", {"add_bias_kv": has_biases, "add_zero_attn": module.add_zero_attn})


def _norm(module: nn.LayerNorm, own: dict[str, Any]) -> LayerNorm:
    if len(module.normalized_shape) > 1:
        shape = tuple(module.normalized_shape)
        raise InterchangeError(f"torch.nn.LayerNorm cannot be exchanged with more than one axis: {shape}")
    return LayerNorm(module.normalized_shape[0], epsilon=module.eps, use_bias=module.bias is not None, **own)


def _block_arguments(module: Any) -> dict[str, Any]:
    """Read the arguments that encoder and decoder layers share."""
    name = f"torch.nn.{type(module).__name__}"
    attentions = [part for part in module.children() if isinstance(part, nn.MultiheadAttention)]
    norms = [part for part in module.children() if isinstance(part, nn.LayerNorm)]
    dropouts = [part for part in module.children() if isinstance(part, nn.Dropout)]
    is_decoder = isinstance(module, nn.TransformerDecoderLayer)
    if (len(attentions), len(norms), len(dropouts)) != ((2, 3, 4) if is_decoder else (1, 2, 3)):
        raise InterchangeError(f"parts of the {name} are of other classes than its own")
    for attention in attentions:
        _refuse_additions(attention)
    rates = sorted({part.p for part in dropouts} | {part.dropout for part in attentions})
    epsilons = sorted({part.eps for part in norms})
    for what, values in (("dropouts", rates), ("epsilons", epsilons)):
        if len(values) > 1:
            raise InterchangeError(f"parts of the {name} have different {what}: {', '.join(map(str, values))}")
    return {
        "model_size": module.self_attn.embed_dim,
        "num_heads": module.self_attn.num_heads,
        "hidden_size": module.linear1.out_features,
        "norm": "pre" if module.norm_first else "post",
        "activation": _activation_name(module.activation),
        "epsilon": epsilons[0],
        "use_bias": module.linear1.bias is not None,
        "dropout_rate": rates[0],
    }


def _activation_name(activation: Any) -> str:
    known: dict[type, str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}
    if isinstance(activation, nn.GELU):
        return "gelu" if activation.approximate == "none" else "gelu_tanh"
    if type(activation) in known:
        return known[type(activation)]
    for name, function in (*_ACTIVATIONS.items(), ("relu", torch.relu)):
        if activation is function:
            return name
    raise InterchangeError(f"the activation {activation!r} has no name in attnspec")


def _stack_arguments(module: Any) -> dict[str, Any]:
    name = f"torch.nn.{type(module).__name__}"
    kind = nn.TransformerDecoderLayer if isinstance(module, nn.TransformerDecoder) else nn.TransformerEncoderLayer
    if not all(type(layer) is kind for layer in module.layers):
        raise InterchangeError(f"the layers of the {name} are not all torch.nn.{kind.__name__}")
    layers = [_block_arguments(layer) for layer in module.layers]
    if not layers or any(layer != layers[0] for layer in layers):
        raise InterchangeError(f"the {name} must have layers, all with the same arguments")
    if module.norm is not None and type(module.norm) is not nn.LayerNorm:
        raise InterchangeError(f"the last normalisation must be a torch.nn.LayerNorm; got {describe(module.norm)}")
    if module.norm is not None and module.norm.eps != layers[0]["epsilon"]:
        epsilons = f"{module.norm.eps}, and not {layers[0]['epsilon']}"
        raise InterchangeError(f"the last normalisation has another epsilon than the layers: {epsilons}")
    return {**layers[0], "num_layers": len(layers), "final_norm": module.norm is not None}


def _transformer(module: nn.Transformer, own: dict[str, Any]) -> Transformer:
    for part, kind in ((module.encoder, nn.TransformerEncoder), (module.decoder, nn.TransformerDecoder)):
        if type(part) is not kind:
            raise InterchangeError(f"a part of the torch.nn.Transformer is no torch.nn.{kind.__name__}")
    encoder, decoder = _stack_arguments(module.encoder), _stack_arguments(module.decoder)
    counts = {"num_encoder_layers": encoder.pop("num_layers"), "num_decoder_layers": decoder.pop("num_layers")}
    if encoder != decoder:
        raise InterchangeError("encoder and decoder of the torch.nn.Transformer have different arguments")
    return Transformer(**encoder, **counts, positions=None, **own)


_FROM: dict[type[nn.Module], Callable[[Any, dict[str, Any]], Layer]] = {
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: lambda module, own: EncoderLayer(**_block_arguments(module), **own),
    nn.TransformerDecoderLayer: lambda module, own: DecoderLayer(**_block_arguments(module), **own),
    nn.TransformerEncoder: lambda module, own: Encoder(**_stack_arguments(module), **own),
    nn.TransformerDecoder: lambda module, own: Decoder(**_stack_arguments(module), **own),
    nn.Transformer: _transformer,
    nn.LayerNorm: _norm,
}


def _native_attention(config: Any, own: dict[str, Any]) -> nn.MultiheadAttention:
    refuse_attention_options("torch.nn.MultiheadAttention", config, has=("value_size",))
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
    is_grouped = config.num_kv_heads not in (None, config.num_heads)
    found = {"rotary": config.rotary, "num_kv_heads": config.num_kv_heads if is_grouped else None}
    refuse("torch.nn.Transformer…", found)
    return {
        "d_model": config.model_size,
        "nhead": config.num_heads,
        "dim_feedforward": config.inner_size,
        "dropout": config.dropout_rate,
        "activation": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.epsilon,
        "norm_first": config.norm == "pre",
        "bias": config.use_bias,
    }


def _native_norm(config: Any, own: dict[str, Any]) -> nn.LayerNorm:
    device = {name: own[name] for name in ("device", "dtype")}
    return nn.LayerNorm(config.model_size, config.epsilon, bias=config.use_bias, **device)


def _native_encoder(config: Any, own: dict[str, Any]) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(**_native_block_arguments(config), **own)
    norm = _native_norm(config, own) if config.has_final_norm else None
    # Nested tensors would make padded positions 0.
    return nn.TransformerEncoder(layer, config.num_layers, norm, enable_nested_tensor=False)


def _native_decoder(config: Any, own: dict[str, Any]) -> nn.TransformerDecoder:
    layer = nn.TransformerDecoderLayer(**_native_block_arguments(config), **own)
    norm = _native_norm(config, own) if config.has_final_norm else None
    return nn.TransformerDecoder(layer, config.num_layers, norm)


def _native_transformer(config: Any, own: dict[str, Any]) -> nn.Transformer:
    names = ("positions", "source_size", "target_size", "output_size")
    refuse("torch.nn.Transformer", {name: getattr(config, name) for name in names})
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
    LayerNorm: _native_norm,
}


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

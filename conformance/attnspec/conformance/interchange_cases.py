"""The frameworks' own layers that can be exchanged with attnspec's, with their options, masks and ways to be called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnspec.contract import causal, full

from .interchange import Array, Exchange

BATCH, QUERIES, KEYS, SIZE, HEADS, HIDDEN = 2, 5, 7, 12, 4, 13
KEY_SIZE, VALUE_SIZE, OUTPUT_SIZE = 10, 11, 6


def _numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def _visible(*shape: int) -> Array:
    """Draw a mask in which every query sees the first key."""
    mask = np.random.default_rng(shape).random(shape) > 0.4
    mask[..., 0] = True
    return mask


INPUTS, MEMORY = _numbers(BATCH, QUERIES, SIZE), _numbers(BATCH, KEYS, SIZE)
OTHERS = INPUTS, _numbers(BATCH, KEYS, KEY_SIZE), _numbers(BATCH, KEYS, VALUE_SIZE)
PAIRS, OWN_PAIRS = _visible(QUERIES, KEYS), _visible(QUERIES, QUERIES) | np.eye(QUERIES, dtype=bool)
HEAD_PAIRS = _visible(BATCH, HEADS, QUERIES, KEYS)
REAL, OWN_REAL = _visible(BATCH, KEYS), _visible(BATCH, QUERIES)
ADDED = _numbers(QUERIES, KEYS, seed=1)
BEFORE = np.tril(np.ones((QUERIES, QUERIES), bool))


def exchanges(framework: str) -> tuple[Exchange, ...]:
    """Return every exchange with a framework; it is imported when one of them is made."""
    return tuple({"torch": _torch, "tensorflow": _keras, "jax": _flax}[framework]())


def _torch() -> Iterator[Exchange]:
    yield from _torch_attention()
    yield from _torch_layers()
    yield from _torch_stacks()


def _of_torch(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """Build a module of torch.nn in evaluation mode."""

    def make() -> Any:
        from torch import nn

        return getattr(nn, name)(*args, **{"batch_first": True, "dropout": 0.1, **options}).eval()

    return make


def _hidden(array: Array) -> Any:
    """Turn a mask of ours, True = visible, into one of torch's, True = hidden."""
    import torch

    return torch.from_numpy(~array)


def _torch_attention() -> Iterator[Exchange]:
    own = "torch", "torch.nn.MultiheadAttention", "MultiHeadAttention"

    def attend(**options: Callable[[], Any]) -> Callable[..., Any]:
        def call(module: Any, query: Any, key: Any, value: Any) -> Any:
            return module(query, key, value, **{name: make() for name, make in options.items()})[0]

        return call

    def time_first(module: Any, query: Any, key: Any, value: Any) -> Any:
        return module(*(tensor.transpose(0, 1) for tensor in (query, key, value)))[0].transpose(0, 1)

    def added() -> Any:
        import torch

        return torch.from_numpy(ADDED)

    def lookahead() -> Any:
        return _hidden(BEFORE)

    name, memory = "MultiheadAttention", (INPUTS, MEMORY, MEMORY)
    whole, uneven = _of_torch(name, SIZE, HEADS), _of_torch(name, SIZE, HEADS, kdim=KEY_SIZE, vdim=VALUE_SIZE)
    per_head = HEAD_PAIRS.reshape(-1, QUERIES, KEYS)
    yield Exchange(*own, "packed projections", whole, attend(), memory)
    yield Exchange(*own, "separate projections", uneven, attend(), OTHERS)
    yield Exchange(*own, "without biases", _of_torch(name, SIZE, HEADS, bias=False), attend(), memory)
    late: dict[str, Any] = {"batch_first": False}
    late_module = _of_torch(name, SIZE, HEADS, **late)
    yield Exchange(*own, "time first", late_module, time_first, memory, native_options=late)
    masked = attend(attn_mask=lambda: _hidden(PAIRS))
    yield Exchange(*own, "mask", whole, masked, memory, {"mask": PAIRS})
    masked = attend(attn_mask=lambda: _hidden(per_head))
    yield Exchange(*own, "mask of each head", uneven, masked, OTHERS, {"mask": HEAD_PAIRS})
    yield Exchange(*own, "mask that is added", whole, attend(attn_mask=added), memory, {"bias": ADDED})
    masked = attend(key_padding_mask=lambda: _hidden(REAL), attn_mask=lambda: _hidden(PAIRS))
    yield Exchange(*own, "mask and padding", whole, masked, memory, {"mask": REAL[:, None, None, :] & PAIRS})
    masked = attend(attn_mask=lookahead, is_causal=lambda: True, need_weights=lambda: False)
    yield Exchange(*own, "causal", whole, masked, (INPUTS,) * 3, {"mask": causal()})


def _torch_layers() -> Iterator[Exchange]:
    own = "torch", "torch.nn.TransformerEncoderLayer", "EncoderLayer"

    def encode(module: Any, inputs: Any) -> Any:
        return module(inputs)

    def encode_fast(module: Any, inputs: Any) -> Any:
        import torch

        with torch.no_grad():
            return module(inputs)

    def encode_masked(module: Any, inputs: Any) -> Any:
        return module(inputs, src_mask=_hidden(OWN_PAIRS), src_key_padding_mask=_hidden(OWN_REAL))

    for first in (False, True):
        for activation in ("relu", "gelu"):
            name, order = "TransformerEncoderLayer", "pre" if first else "post"
            make = _of_torch(name, SIZE, HEADS, HIDDEN, norm_first=first, activation=activation)
            yield Exchange(*own, f"{order}, {activation}", make, encode, (INPUTS,))
            yield Exchange(*own, f"{order}, {activation}, fast path", make, encode_fast, (INPUTS,))
    seen = OWN_PAIRS & OWN_REAL[:, None, None, :]
    yield Exchange(*own, "mask and padding", make, encode_masked, (INPUTS,), {"mask": seen})
    for activation in ("gelu_tanh", "silu", "tanh"):
        yield Exchange(*own, activation, _with_activation(activation), encode_fast, (INPUTS,))
    bare = _of_torch("TransformerEncoderLayer", SIZE, HEADS, HIDDEN, bias=False, layer_norm_eps=1e-3)
    yield Exchange(*own, "without biases, ε = 0.001", bare, encode_fast, (INPUTS,))
    own = "torch", "torch.nn.TransformerDecoderLayer", "DecoderLayer"

    def decode(module: Any, inputs: Any, memory: Any) -> Any:
        return module(inputs, memory)

    def decode_masked(module: Any, inputs: Any, memory: Any) -> Any:
        masks = {"tgt_mask": BEFORE, "memory_mask": PAIRS, "memory_key_padding_mask": REAL}
        return module(inputs, memory, **{name: _hidden(mask) for name, mask in masks.items()}, tgt_is_causal=True)

    for first in (False, True):
        make = _of_torch("TransformerDecoderLayer", SIZE, HEADS, HIDDEN, norm_first=first, activation="gelu")
        yield Exchange(*own, "pre" if first else "post", make, decode, (INPUTS, MEMORY))
    options = {"mask": causal(), "memory_mask": PAIRS & REAL[:, None, None, :]}
    yield Exchange(*own, "causal, mask and padding", make, decode_masked, (INPUTS, MEMORY), options)

    def make_norm() -> Any:
        from torch import nn

        return nn.LayerNorm(SIZE, eps=1e-3)

    yield Exchange("torch", "torch.nn.LayerNorm", "LayerNorm", "", make_norm, encode, (INPUTS,))


def _with_activation(name: str) -> Callable[[], Any]:
    """Build an encoder layer whose activation is a function that torch has no name for."""

    def make() -> Any:
        import torch
        from torch import nn

        function = {"gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "tanh": torch.tanh}[name]
        layer = _of_torch("TransformerEncoderLayer", SIZE, HEADS, HIDDEN, activation=torch.tanh)()
        layer.activation = function  # set afterwards: built with it, the fast path takes every GELU for the exact one
        return layer

    return make


def _torch_stacks() -> Iterator[Exchange]:
    def encoder(**options: Any) -> Callable[[], Any]:
        def make() -> Any:
            from torch import nn

            layer = nn.TransformerEncoderLayer(SIZE, HEADS, HIDDEN, batch_first=True, **options)
            norm = nn.LayerNorm(SIZE) if options else None
            return nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).eval()

        return make

    def decoder() -> Any:
        from torch import nn

        layer = nn.TransformerDecoderLayer(SIZE, HEADS, HIDDEN, batch_first=True, norm_first=True)
        return nn.TransformerDecoder(layer, 2, nn.LayerNorm(SIZE)).eval()

    def transformer() -> Any:
        from torch import nn

        sizes: dict[str, Any] = {
            "num_encoder_layers": 2,
            "num_decoder_layers": 1,
            "dim_feedforward": HIDDEN,
            "batch_first": True,
        }
        module = nn.Transformer(SIZE, HEADS, **sizes).eval()
        module.encoder.enable_nested_tensor = False  # which would make the padding of its output 0
        return module

    def encode(module: Any, inputs: Any) -> Any:
        return module(inputs, src_key_padding_mask=_hidden(OWN_REAL))

    def decode(module: Any, inputs: Any, memory: Any) -> Any:
        return module(inputs, memory, tgt_mask=_hidden(BEFORE), memory_key_padding_mask=_hidden(REAL))

    def transduce(module: Any, source: Any, target: Any) -> Any:
        return module(source, target)

    def transduce_masked(module: Any, source: Any, target: Any) -> Any:
        masks = {"src_key_padding_mask": REAL, "memory_key_padding_mask": REAL, "tgt_mask": BEFORE}
        return module(source, target, **{name: _hidden(mask) for name, mask in masks.items()})

    own, padded = ("torch", "torch.nn.TransformerEncoder", "Encoder"), {"mask": OWN_REAL[:, None, None, :]}
    yield Exchange(*own, "post, padding", encoder(), encode, (INPUTS,), padded)
    pre = encoder(norm_first=True, activation="gelu")
    yield Exchange(*own, "pre, last normalisation, padding", pre, encode, (INPUTS,), padded)
    options: dict[str, Any] = {"mask": causal(), "memory_mask": REAL[:, None, None, :]}
    own = "torch", "torch.nn.TransformerDecoder", "Decoder"
    yield Exchange(*own, "pre, causal, padding", decoder, decode, (INPUTS, MEMORY), options)
    own, pair = ("torch", "torch.nn.Transformer", "Transformer"), (MEMORY, INPUTS)
    yield Exchange(*own, "without masks", transformer, transduce, pair, {"target_mask": full()})
    yield Exchange(*own, "causal, padding", transformer, transduce_masked, pair, {"source_valid": REAL})


def _of_keras(name: str, *shapes: Any, **options: Any) -> Callable[[], Any]:
    """Build a layer of Keras for inputs of these shapes; Keras takes (query, value, key)."""

    def make() -> Any:
        import keras

        layer = getattr(keras.layers, name)(**options)
        layer.build(*shapes)
        return layer

    return make


def _keras() -> Iterator[Exchange]:
    yield from _keras_heads()
    yield from _keras_attention()


def _keras_heads() -> Iterator[Exchange]:
    def attend(**options: Any) -> Callable[..., Any]:
        def call(module: Any, query: Any, key: Any, value: Any) -> Any:
            return module(query, value=value, key=key, **options)

        return call

    query, key, value = (array.shape for array in OTHERS)
    alike = INPUTS.shape, INPUTS.shape
    own, name = ("tensorflow", "keras.layers.MultiHeadAttention", "MultiHeadAttention"), "MultiHeadAttention"
    heads: dict[str, Any] = {"num_heads": HEADS, "key_dim": 3, "dropout": 0.0}
    whole = _of_keras(name, *alike, **heads)
    sizes = heads | {"value_dim": 5, "output_shape": OUTPUT_SIZE, "dropout": 0.1}
    yield Exchange(*own, "self-attention", whole, attend(), (INPUTS,) * 3)
    yield Exchange(*own, "all sizes differ", _of_keras(name, query, value, key, **sizes), attend(), OTHERS)
    bare = _of_keras(name, *alike, **heads, use_bias=False)
    yield Exchange(*own, "without biases", bare, attend(), (INPUTS, MEMORY, MEMORY))
    options = {"mask": PAIRS[None, None] & REAL[:, None, None, :]}
    masked = attend(attention_mask=PAIRS & REAL[:, None, :])
    yield Exchange(*own, "mask", _of_keras(name, query, value, key, **heads), masked, OTHERS, options)
    yield Exchange(*own, "causal", whole, attend(use_causal_mask=True), (INPUTS, MEMORY, MEMORY), {"mask": causal(0)})
    band = _of_keras(name, *alike, **heads, sliding_window=2)
    yield Exchange(*own, "window", band, attend(), (INPUTS,) * 3)
    yield Exchange(*own, "causal window", band, attend(use_causal_mask=True), (INPUTS,) * 3, {"mask": causal()})
    yield Exchange(*own, "window, lengths differ", band, attend(), (INPUTS, MEMORY, MEMORY), {"offset": 0})
    own, name = ("tensorflow", "keras.layers.GroupQueryAttention", "MultiHeadAttention"), "GroupQueryAttention"
    grouped: dict[str, Any] = {"head_dim": 5, "num_query_heads": HEADS, "num_key_value_heads": 2}
    yield Exchange(*own, "all sizes differ", _of_keras(name, query, value, key, **grouped), attend(), OTHERS)
    one = _of_keras(name, *alike, **grouped | {"num_key_value_heads": 1}, use_bias=False)
    ahead: dict[str, Any] = {"mask": causal(0)}
    yield Exchange(*own, "one head of keys, causal", one, attend(use_causal_mask=True), (INPUTS,) * 3, ahead)
    banded = _of_keras(name, *alike, **grouped, sliding_window=3, dropout=0.1)
    masked = attend(attention_mask=OWN_PAIRS[None])
    yield Exchange(*own, "window and mask", banded, masked, (INPUTS,) * 3, {"mask": OWN_PAIRS})


def _keras_attention() -> Iterator[Exchange]:
    def attend(**options: Any) -> Callable[..., Any]:
        def call(module: Any, query: Any, key: Any, value: Any) -> Any:
            return module([query, value, key], **options)

        return call

    inputs = _numbers(BATCH, QUERIES, KEY_SIZE), *OTHERS[1:]
    query, key, value = (array.shape for array in inputs)
    shapes, scores = [query, value, key], {True: "learned scale", False: "no scale"}
    for mode, ours in (("dot", "DotProductAttention"), ("concat", "AdditiveAttention")):
        own = "tensorflow", "keras.layers.Attention", ours
        for use_scale, note in scores.items():
            make = _of_keras("Attention", shapes, score_mode=mode, use_scale=use_scale, dropout=0.1)
            yield Exchange(*own, f"{mode}, {note}", make, attend(), inputs)
        options = {"mask": REAL[:, None, :] & np.tril(np.ones((QUERIES, KEYS), bool))}
        masked = attend(mask=[None, REAL], use_causal_mask=True)
        yield Exchange(*own, f"{mode}, padding, causal", make, masked, inputs, options)
        hidden = attend(mask=[OWN_REAL, None])
        yield Exchange(*own, f"{mode}, queries that are padding", make, hidden, inputs, {"mask": OWN_REAL[:, :, None]})
    own = "tensorflow", "keras.layers.AdditiveAttention", "AdditiveAttention"
    for use_scale, note in scores.items():
        make = _of_keras("AdditiveAttention", shapes, use_scale=use_scale)
        yield Exchange(*own, note, make, attend(), inputs)
    yield Exchange(*own, "padding", make, attend(mask=[None, REAL]), inputs, {"mask": REAL[:, None, :]})

    def normalise(module: Any, inputs: Any) -> Any:
        return module(inputs)

    own = "tensorflow", "keras.layers.LayerNormalization", "LayerNorm"
    yield Exchange(*own, "", _of_keras("LayerNormalization", INPUTS.shape), normalise, (INPUTS,))
    centred = _of_keras("LayerNormalization", INPUTS.shape, center=False, axis=2, epsilon=0.1)
    yield Exchange(*own, "without bias", centred, normalise, (INPUTS,))


def _of_flax(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """Build a module of flax.nnx; its weights are 0, which is built much sooner than random ones."""

    def make() -> Any:
        from flax import nnx

        own = {"kernel_init": nnx.initializers.zeros} if name == "MultiHeadAttention" else {}
        return getattr(nnx, name)(*args, **own, **options, rngs=nnx.Rngs(0))

    return make


def _flax() -> Iterator[Exchange]:
    def attend(**options: Any) -> Callable[..., Any]:
        def run(module: Any, *inputs: Any) -> Any:
            return module(*inputs, decode=False, deterministic=True, **options)

        @functools.cache
        def compiled() -> Any:
            from flax import nnx

            return nnx.jit(run)

        def call(module: Any, *inputs: Any) -> Any:
            return compiled()(module, *inputs)

        return call

    own, name = ("jax", "flax.nnx.MultiHeadAttention", "MultiHeadAttention"), "MultiHeadAttention"
    inputs = INPUTS, OTHERS[1], _numbers(BATCH, KEYS, KEY_SIZE, seed=1)
    whole = _of_flax(name, HEADS, SIZE)
    sizes: dict[str, Any] = {"qkv_features": 20, "out_features": OUTPUT_SIZE, "in_kv_features": KEY_SIZE}
    yield Exchange(*own, "self-attention", whole, attend(), (INPUTS,) * 3)
    different = _of_flax(name, HEADS, SIZE, **sizes, dropout_rate=0.1)
    yield Exchange(*own, "all sizes differ", different, attend(), inputs)
    grouped = _of_flax(name, HEADS, SIZE, **sizes, num_kv_heads=2, use_bias=False)
    yield Exchange(*own, "grouped heads, without biases", grouped, attend(), inputs)
    masked = attend(mask=HEAD_PAIRS)
    yield Exchange(*own, "mask of each head", whole, masked, (INPUTS, MEMORY, MEMORY), {"mask": HEAD_PAIRS})
    yield Exchange(*own, "causal", whole, attend(is_causal=True), (INPUTS,) * 3, {"mask": causal()})

    def normalise(module: Any, inputs: Any) -> Any:
        return module(inputs)

    own = "jax", "flax.nnx.LayerNorm", "LayerNorm"
    yield Exchange(*own, "", _of_flax("LayerNorm", SIZE), normalise, (INPUTS,))
    bare = _of_flax("LayerNorm", SIZE, use_bias=False, epsilon=0.1)
    yield Exchange(*own, "without bias", bare, normalise, (INPUTS,))

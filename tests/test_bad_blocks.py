"""Wrong calls of layer normalisation, feed-forward, encoder and decoder: refused, in the same words everywhere."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused
from block_cases import blocks

import attnspec.reference
from attnspec.contract import Dropout, MultiHeadParameters, causal
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
)
from attnspec.contract.layer_results import DecoderLayerDropout, EncoderLayerDropout
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.states import leaves, rebuild
from attnspec.reference import block_gradients

# The parameters below are trees of shapes, as lists: E = 7, F = 11, Em = 13, 4 heads of 3.
NORM = LayerNormParameters([7], [7])
FEED = FeedForwardParameters([7, 11], [11, 7], [11], [7])
ATTENTION = MultiHeadParameters([7, 12], [7, 12], [7, 12], [12, 7])
CROSS = MultiHeadParameters([7, 12], [13, 12], [13, 12], [12, 7])
ENCODING = EncoderLayerParameters(ATTENTION, NORM, FEED, NORM)
DECODING = DecoderLayerParameters(ATTENTION, NORM, CROSS, NORM, FEED, NORM)

ENCODER, DECODER = EncoderParameters((ENCODING, ENCODING), NORM), DecoderParameters((DECODING,))

ENCODER_CLASS = "EncoderLayerDropout(weights, …)"


def zeros(t: Maker, tree: Any) -> Any:
    """Make zeros of every shape in a tree; what is no tree of shapes stays as it is."""
    if not hasattr(tree, "_fields"):
        return tree
    return rebuild(tree, {path: t(*leaf) if isinstance(leaf, list) else leaf for path, leaf in leaves(tree).items()})


def keep(*shape: int) -> Dropout:
    return Dropout(0.5, keep=np.ones(shape, bool))


def norm(parameters: Any = NORM, shape: tuple[int, ...] = (2, 5, 7), **options: Any) -> Any:
    return lambda attn, t: blocks(attn).layer_norm(t(*shape), zeros(t, parameters), **options)


def feed(parameters: Any = FEED, shape: tuple[int, ...] = (2, 5, 7), **options: Any) -> Any:
    return lambda attn, t: blocks(attn).feed_forward(t(*shape), zeros(t, parameters), **options)


def layer(parameters: Any = ENCODING, shape: tuple[int, ...] = (2, 5, 7), **options: Any) -> Any:
    options = {"num_heads": 4} | options
    return lambda attn, t: blocks(attn).encoder_layer(t(*shape), zeros(t, parameters), **options)


def stack(parameters: Any = ENCODER, **options: Any) -> Any:
    options = {"num_heads": 4} | options
    return lambda attn, t: blocks(attn).encoder(t(2, 5, 7), zeros(t, parameters), **options)


def decode(parameters: Any = DECODER, memory: tuple[int, ...] = (2, 3, 13), **options: Any) -> Any:
    options = {"num_heads": 4} | options
    return lambda attn, t: blocks(attn).decoder(t(2, 5, 7), t(*memory), zeros(t, parameters), **options)


NORMS: dict[str, Case] = {
    "inputs without axes": (
        ValueError,
        "`inputs` must have at least 1 axis, (*batch, size); got shape ()",
        norm(shape=()),
    ),
    "size of 0": (
        ValueError,
        "`inputs` must have a size (axis -1) of at least 1; got shape (5, 0)",
        norm(LayerNormParameters([0]), (5, 0)),
    ),
    "weight of another size": (
        ValueError,
        "`weight` of `parameters` must have shape (E,) = (7,); got (5,)",
        norm(LayerNormParameters([5])),
    ),
    "bias of rank 2": (
        ValueError,
        "`bias` of `parameters` must have shape (E,) = (7,); got (1, 7)",
        norm(LayerNormParameters([7], [1, 7])),
    ),
    "no weight": (TypeError, "`weight` of `parameters` must be given; got None", norm(LayerNormParameters(None))),
    "a tuple": (
        TypeError,
        "`parameters` must be LayerNormParameters(weight, …); got an object of type tuple",
        norm((np.ones(7), np.ones(7))),
    ),
    "epsilon 0": (ValueError, "`epsilon` must be positive and finite; got 0.0", norm(epsilon=0)),
    "epsilon infinite": (ValueError, "`epsilon` must be positive and finite; got inf", norm(epsilon=np.inf)),
    "epsilon beyond float32": (
        ValueError,
        "`epsilon` must be at least 2^-126, float32's smallest normal number; got 1e-40",
        norm(epsilon=1e-40),
    ),
    "epsilon is a str": (
        TypeError,
        "`epsilon` must be a Python number; got an object of type str",
        norm(epsilon="1e-5"),
    ),
    "integer inputs": (
        TypeError,
        f"`inputs` {FLOATING}; got int32",
        lambda attn, t: blocks(attn).layer_norm(t(5, 7, dtype="int32"), zeros(t, NORM)),
    ),
    "float32 weight": (
        TypeError,
        "`weight` of `parameters` must have the dtype of `inputs`; got inputs float64 and weight float32",
        lambda attn, t: blocks(attn).layer_norm(t(5, 7), LayerNormParameters(t(7, dtype="float32"))),
    ),
}

FEEDS: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        feed(shape=(7,)),
    ),
    "rows of hidden weight": (
        ValueError,
        "`hidden_weight` of `parameters` must have shape (E, F) = (7, F); got (11, 7)",
        feed(FEED._replace(hidden_weight=[11, 7])),
    ),
    "output weight of another size": (
        ValueError,
        "`output_weight` of `parameters` must have shape (F, E) = (11, 7); got (11, 5)",
        feed(FEED._replace(output_weight=[11, 5])),
    ),
    "hidden bias of the model's size": (
        ValueError,
        "`hidden_bias` of `parameters` must have shape (F,) = (11,); got (7,)",
        feed(FEED._replace(hidden_bias=[7])),
    ),
    "another activation": (
        ValueError,
        "`activation` must be one of 'relu', 'gelu', 'gelu_tanh', 'silu', 'tanh'; got 'swish'",
        feed(activation="swish"),
    ),
    "a function": (
        ValueError,
        "`activation` must be one of 'relu', 'gelu', 'gelu_tanh', 'silu', 'tanh'; got None",
        feed(activation=None),
    ),
    "a rate alone": (
        TypeError,
        "`dropout` must be Dropout(rate, keep=array); got an object of type float",
        feed(dropout=0.1),
    ),
    "nothing said of what is kept": (
        ValueError,
        "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own",
        feed(dropout=Dropout(0.5)),
    ),
    "keep of the model's size": (
        ValueError,
        (
            "`keep` of `dropout` must have the axes of what it multiplies, (2, 5, 11), each of them full or 1; "
            "got shape (2, 5, 7)"
        ),
        feed(dropout=keep(2, 5, 7)),
    ),
    "keep without a batch axis": (
        ValueError,
        (
            "`keep` of `dropout` must have the axes of what it multiplies, (2, 5, 11), each of them full or 1; "
            "got shape (5, 11)"
        ),
        feed(dropout=keep(5, 11)),
    ),
}

LAYERS: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        layer(shape=(7,)),
    ),
    "5 heads": (
        ValueError,
        (
            "in `attention` of `parameters`: `query_weight` must have a number of columns that `num_heads`=5 divides; "
            "got 12 columns"
        ),
        layer(num_heads=5),
    ),
    "another order": (ValueError, "`norm` must be one of 'post', 'pre'; got 'both'", layer(norm="both")),
    "epsilon is True": (
        TypeError,
        "`epsilon` must be a Python number; got an object of type bool",
        layer(epsilon=True),
    ),
    "parameters of a decoder layer": (
        TypeError,
        (
            "`parameters` must be EncoderLayerParameters(attention, …); "
            "got an object of type attnspec.DecoderLayerParameters"
        ),
        layer(DECODING),
    ),
    "no attention": (
        TypeError,
        "`attention` of `parameters` must be MultiHeadParameters(query_weight, …); got None",
        layer(ENCODING._replace(attention=None)),
    ),
    "rows of key weight": (
        ValueError,
        (
            "in `attention` of `parameters`: `key_weight` must have shape (size of `key`, columns); "
            "got shapes key (2, 5, 7) and key_weight (13, 12)"
        ),
        layer(ENCODING._replace(attention=CROSS)),
    ),
    "columns of output weight": (
        ValueError,
        "`attention.output_weight` of `parameters` must have shape (Hq·Dv, E) = (Hq·Dv, 7); got (12, 5)",
        layer(ENCODING._replace(attention=ATTENTION._replace(output_weight=[12, 5]))),
    ),
    "second norm": (
        ValueError,
        "`feed_forward_norm.weight` of `parameters` must have shape (E,) = (7,); got (11,)",
        layer(ENCODING._replace(feed_forward_norm=LayerNormParameters([11]))),
    ),
    "ambiguous mask": (
        ValueError,
        (
            "`mask` must have 2 axes or 4, up to (2, 4, 5, 5); got shape (2, 5, 5), which is ambiguous: "
            "reshape to (2, 1, 5, 5) if axis 0 is the batch, or to (1, 2, 5, 5) if it is the heads"
        ),
        layer(mask=np.ones((2, 5, 5), bool)),
    ),
    "float32 bias": (
        TypeError,
        "`bias` must have dtype float64 beside a float64 query; got float32",
        layer(bias=np.zeros((5, 5), np.float32)),
    ),
    "rotary is a str": (
        TypeError,
        "`rotary` must be Rotary(pairing, …); got an object of type str",
        layer(rotary="half_split"),
    ),
    "heads of an odd size": (
        ValueError,
        "the size of a head must be even: components turn in pairs; got 3",
        layer(rotary=Rotary("half_split")),
    ),
    "one dropout for all": (
        TypeError,
        f"`dropout` must be {ENCODER_CLASS}; got an object of type attnspec.Dropout",
        layer(dropout=Dropout(0.5)),
    ),
    "dropouts of a decoder": (
        TypeError,
        f"`dropout` must be {ENCODER_CLASS}; got an object of type attnspec.DecoderLayerDropout",
        layer(dropout=DecoderLayerDropout()),
    ),
    "keep of weights": (
        ValueError,
        (
            "in `weights` of `dropout`: each axis of `keep` of `Dropout` must be 1 or that of (2, 4, 5, 5); "
            "got shape (2, 4, 5, 7)"
        ),
        layer(dropout=EncoderLayerDropout(weights=keep(2, 4, 5, 7))),
    ),
    "keep of the attention": (
        ValueError,
        (
            "`keep` of `attention` of `dropout` must have the axes of what it multiplies, (2, 5, 7), "
            "each of them full or 1; got shape (2, 5, 12)"
        ),
        layer(dropout=EncoderLayerDropout(attention=keep(2, 5, 12))),
    ),
    "hidden is a rate": (
        TypeError,
        "`hidden` of `dropout` must be Dropout(rate, keep=array); got an object of type float",
        layer(dropout=EncoderLayerDropout(hidden=0.5)),
    ),
}

STACKS: dict[str, Case] = {
    "a list of layers": (
        TypeError,
        "`layers` of `parameters` must be a tuple of EncoderLayerParameters(attention, …); got an object of type list",
        lambda attn, t: blocks(attn).encoder(t(2, 5, 7), EncoderParameters([ENCODING]), num_heads=4),
    ),
    "one layer without its tuple": (
        TypeError,
        (
            "`layers` of `parameters` must be a tuple of EncoderLayerParameters(attention, …); "
            "got an object of type attnspec.EncoderLayerParameters"
        ),
        stack(EncoderParameters(ENCODING)),
    ),
    "a decoder layer": (
        TypeError,
        (
            "`layers.1` of `parameters` must be EncoderLayerParameters(attention, …); "
            "got an object of type attnspec.DecoderLayerParameters"
        ),
        stack(EncoderParameters((ENCODING, DECODING))),
    ),
    "a weight of the second layer": (
        ValueError,
        "`layers.1.feed_forward.output_bias` of `parameters` must have shape (E,) = (7,); got (11,)",
        stack(EncoderParameters((ENCODING, ENCODING._replace(feed_forward=FEED._replace(output_bias=[11]))))),
    ),
    "an attention of the second layer": (
        ValueError,
        (
            "in `layers.1.attention` of `parameters`: `key_weight` must give each of 4 key heads the size of a query "
            "head, 3; got shape (7, 8), which gives 2"
        ),
        stack(EncoderParameters((ENCODING, ENCODING._replace(attention=ATTENTION._replace(key_weight=[7, 8]))))),
    ),
    "last norm": (
        ValueError,
        "`norm.bias` of `parameters` must have shape (E,) = (7,); got (5,)",
        stack(EncoderParameters((), LayerNormParameters([7], [5]))),
    ),
    "mask of no layer": (
        TypeError,
        "`mask` must be a mask object or a boolean array (True = may attend); got an object of type str",
        stack(EncoderParameters(()), mask="causal"),
    ),
    "dropouts of one layer": (
        TypeError,
        (
            f"`dropout` must be a tuple with one {ENCODER_CLASS} or None for each layer; "
            "got an object of type attnspec.EncoderLayerDropout"
        ),
        stack(dropout=EncoderLayerDropout()),
    ),
    "three dropouts": (
        ValueError,
        "`dropout` must have one element for each of the 2 layers; got 3",
        stack(dropout=(None, None, None)),
    ),
    "dropout of the second layer": (
        TypeError,
        f"`dropout[1]` must be {ENCODER_CLASS}; got an object of type tuple",
        stack(dropout=(None, (None,) * 4)),
    ),
    "keep of the second layer": (
        ValueError,
        (
            "`keep` of `feed_forward` of `dropout[1]` must have the axes of what it multiplies, (2, 5, 7), "
            "each of them full or 1; got shape (3, 5, 7)"
        ),
        stack(dropout=(None, EncoderLayerDropout(feed_forward=keep(3, 5, 7)))),
    ),
}

DECODERS: dict[str, Case] = {
    "memory without a batch": (
        ValueError,
        "`memory` must have as many axes as `inputs`, 3; got shapes inputs (2, 5, 7) and memory (3, 13)",
        decode(memory=(3, 13)),
    ),
    "batch of memory": (
        ValueError,
        "`memory` must have the batch axes of `inputs`; got shapes inputs (2, 5, 7) and memory (3, 3, 13)",
        decode(memory=(3, 3, 13)),
    ),
    "size of memory": (
        ValueError,
        (
            "in `layers.0.cross_attention` of `parameters`: `key_weight` must have shape (size of `key`, columns); "
            "got shapes key (2, 3, 7) and key_weight (13, 12)"
        ),
        decode(memory=(2, 3, 7)),
    ),
    "memory is None": (
        TypeError,
        "`memory` must be an array or nested lists of numbers; got None",
        lambda attn, t: blocks(attn).decoder(t(2, 5, 7), None, DecoderParameters(()), num_heads=4),
    ),
    "mask of the memory": (
        ValueError,
        "in `memory_mask`: each axis of `mask` must be 1 or that of (2, 4, 5, 3); got shape (5, 5)",
        decode(memory_mask=np.ones((5, 5), bool)),
    ),
    "memory mask without an offset": (
        ValueError,
        (
            "in `memory_mask`: `causal` without an offset needs as many queries as keys; got 5 queries and 3 keys: "
            "say `offset=0` (query 0 stands at key 0, top-left) "
            "or `offset='end'` (the last query stands at the last key, bottom-right)"
        ),
        decode(DecoderParameters(()), memory_mask=causal()),
    ),
    "keep of the cross weights": (
        ValueError,
        (
            "in `cross_weights` of `dropout[0]`: each axis of `keep` of `Dropout` must be 1 or that of (2, 4, 5, 3); "
            "got shape (5, 5)"
        ),
        decode(dropout=(DecoderLayerDropout(cross_weights=keep(5, 5)),)),
    ),
    "keep of the cross attention": (
        ValueError,
        (
            "`keep` of `cross_attention` of `dropout[0]` must have the axes of what it multiplies, (2, 5, 7), "
            "each of them full or 1; got shape (2, 3, 13)"
        ),
        decode(dropout=(DecoderLayerDropout(cross_attention=keep(2, 3, 13)),)),
    ),
    "dropouts of an encoder": (
        TypeError,
        ("`dropout[0]` must be DecoderLayerDropout(weights, …); got an object of type attnspec.EncoderLayerDropout"),
        decode(dropout=(EncoderLayerDropout(),)),
    ),
}

EVERY = {
    f"{group}: {name}": case
    for group, cases in {"norm": NORMS, "feed": FEEDS, "layer": LAYERS, "stack": STACKS, "decoder": DECODERS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY)
def test_wrong_block_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("operation", ["layer_norm", "feed_forward", "encoder_layer", "encoder"])
def test_cotangent_of_another_shape_is_refused(operation: str) -> None:
    trees = {"layer_norm": NORM, "feed_forward": FEED, "encoder_layer": ENCODING, "encoder": EncoderParameters(())}
    options = {"num_heads": 4} if operation.startswith("encoder") else {}
    given = zeros(Maker("reference"), trees[operation])
    with pytest.raises(ValueError, match=r"`output_cotangent` must have the shape of its result, \(2, 5, 7\); got"):
        getattr(block_gradients, f"{operation}_vjp")(np.zeros((2, 5, 7)), given, np.zeros((2, 5, 11)), **options)


def test_every_gradient_has_the_arguments_of_its_operation() -> None:
    import inspect

    for operation in ("layer_norm", "feed_forward", "encoder_layer", "encoder", "decoder_layer", "decoder"):
        forward = inspect.signature(getattr(blocks(attnspec.reference), operation)).parameters
        backward = dict(inspect.signature(getattr(block_gradients, f"{operation}_vjp")).parameters)
        assert [*backward].index("output_cotangent") == [*forward].index("parameters") + 1
        del backward["output_cotangent"]
        assert [*backward.values()] == [*forward.values()]

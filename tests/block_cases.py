"""What the tests of blocks share: parameters, one problem for each operation, and how it is run in each framework."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from frameworks import name_of
from native_tensors import Array, to_native, to_numpy

from attnspec.contract import Dropout, MultiHeadParameters, causal, key_lengths
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

BATCH, LENGTH, MEMORY, SIZE, MEMORY_SIZE, HIDDEN = 2, 5, 3, 7, 13, 11
HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM = 4, 2, 2, 3

RNG = np.random.default_rng(41)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def weight(*shape: int) -> Array:
    return draw(*shape) / math.sqrt(shape[0])


def keep(*shape: int) -> Dropout:
    return Dropout(0.25, keep=RNG.random(shape) < 0.75)


def multi_head(key_size: int = SIZE) -> MultiHeadParameters:
    """Draw an attention without a bias of the keys: it moves all logits of a row alike, and has no gradient."""
    columns = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * VALUE_DIM
    query, key, value = weight(SIZE, columns[0]), weight(key_size, columns[1]), weight(key_size, columns[2])
    biases = draw(columns[0]), None, draw(columns[2]), draw(SIZE)
    return MultiHeadParameters(query, key, value, weight(HEADS * VALUE_DIM, SIZE), *biases)


def norm(bias: bool = True) -> LayerNormParameters:
    return LayerNormParameters(1.0 + 0.5 * draw(SIZE), draw(SIZE) if bias else None)


def feeding(bias: bool = True) -> FeedForwardParameters:
    biases = (draw(HIDDEN), draw(SIZE)) if bias else (None, None)
    return FeedForwardParameters(weight(SIZE, HIDDEN), weight(HIDDEN, SIZE), *biases)


def encoding(bias: bool = True) -> EncoderLayerParameters:
    return EncoderLayerParameters(multi_head(), norm(bias), feeding(bias), norm())


def decoding(bias: bool = True) -> DecoderLayerParameters:
    return DecoderLayerParameters(multi_head(), norm(bias), multi_head(MEMORY_SIZE), norm(), feeding(bias), norm())


class Case(NamedTuple):
    """One call: an operation, its tensors before the parameters, and its options."""

    operation: str
    tensors: dict[str, Array]
    parameters: Any
    options: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Array]:
        """Every array that has a gradient: tensors, leaves of the parameters by path, and a bias."""
        bias = {"bias": self.options["bias"]} if "bias" in self.options else {}
        return {**self.tensors, **leaves(self.parameters), **bias}

    def call(self, module: ModuleType, arrays: dict[str, Any], **options: Any) -> Any:
        """Call the operation of a module of blocks with other arrays, given as in `arrays`."""
        options = {**self.options, **options}
        if "bias" in options:
            options["bias"] = arrays["bias"]
        tensors = [arrays[name] for name in self.tensors]
        return getattr(module, self.operation)(*tensors, rebuild(self.parameters, arrays), **options)

    def gradients(self, arrays: dict[str, Array], cotangent: Array, **options: Any) -> dict[str, Array]:
        """Ask the reference for the gradients, by the names of `arrays`."""
        options = {**self.options, **options}
        if "bias" in options:
            options["bias"] = arrays["bias"]
        tensors = [arrays[name] for name in self.tensors]
        module = importlib.import_module("attnspec.reference.block_gradients")
        function = getattr(module, f"{self.operation}_vjp")
        found = function(*tensors, rebuild(self.parameters, arrays), cotangent, **options)._asdict()
        bias = found.pop("bias", None)
        return {
            **{name: found[name] for name in self.tensors},
            **leaves(found["parameters"]),
            **({} if bias is None else {"bias": bias}),
        }


HEADS_OF = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
SELF_MASK = causal() & key_lengths([LENGTH, 3])
PAIRS = (BATCH, HEADS, LENGTH)
HERE = (BATCH, LENGTH, SIZE)

ENCODER_DROPOUT = EncoderLayerDropout(
    keep(*PAIRS, LENGTH), keep(*HERE), keep(BATCH, LENGTH, HIDDEN), keep(1, LENGTH, 1)
)

DECODER_DROPOUT = DecoderLayerDropout(
    keep(*PAIRS, LENGTH),
    keep(*HERE),
    keep(LENGTH, MEMORY),
    keep(BATCH, 1, SIZE),
    keep(BATCH, LENGTH, HIDDEN),
    keep(*HERE),
)

INPUTS = {"inputs": draw(*HERE)}
BOTH = INPUTS | {"memory": draw(BATCH, MEMORY, MEMORY_SIZE)}

CASES = {
    "norm": Case("layer_norm", INPUTS, norm(), {"epsilon": 0.25}),
    "norm_without_bias": Case("layer_norm", INPUTS, norm(bias=False), {}),
    **{
        activation: Case("feed_forward", INPUTS, feeding(), {"activation": activation})
        for activation in ("relu", "gelu", "gelu_tanh", "silu", "tanh")
    },
    "feed_forward_dropout": Case("feed_forward", INPUTS, feeding(bias=False), {"dropout": ENCODER_DROPOUT.hidden}),
    "encoder_layer": Case("encoder_layer", INPUTS, encoding(), {**HEADS_OF, "norm": "pre", "activation": "silu"}),
    "encoder": Case(
        "encoder",
        INPUTS,
        EncoderParameters((encoding(), encoding(bias=False)), norm()),
        {
            **HEADS_OF,
            "mask": SELF_MASK,
            "bias": draw(1, HEADS, LENGTH, LENGTH),
            "rotary": Rotary("interleaved"),
            "dropout": (ENCODER_DROPOUT, None),
        },
    ),
    "decoder_layer": Case("decoder_layer", BOTH, decoding(bias=False), HEADS_OF),
    "decoder": Case(
        "decoder",
        BOTH,
        DecoderParameters((decoding(), decoding())),
        {
            **HEADS_OF,
            "norm": "pre",
            "activation": "gelu",
            "mask": SELF_MASK,
            "memory_mask": key_lengths([MEMORY, 1]),
            "bias": draw(HEADS, LENGTH, LENGTH)[None],
            "rotary": Rotary("half_split", rotary_dim=2),
            "dropout": (None, DECODER_DROPOUT),
        },
    ),
}


def blocks(attn: ModuleType) -> ModuleType:
    """Give the module in which the operations of a framework are."""
    return importlib.import_module(f"{attn.__name__}.blocks")


def cotangent_of(case: Case) -> Array:
    """Draw a cotangent of the output, which has the shape of the inputs."""
    return np.random.default_rng(43).standard_normal(case.tensors["inputs"].shape)


def run(attn: ModuleType, case: Case, **options: Any) -> Array:
    """Call the operation in one of the four, with native tensors."""
    arrays = {name: to_native(name_of(attn), array) for name, array in case.arrays.items()}
    return to_numpy(case.call(blocks(attn), arrays, **options))


def native_function(case: Case, module: ModuleType, **options: Any) -> Callable[..., Any]:
    """Give the operation as a function of its arrays by name."""
    return lambda **arrays: case.call(module, arrays, **options)

"""What the tests of models share: parameters, one problem for each way a model is put together, and how it is run."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from frameworks import name_of
from native_tensors import Array, to_native, to_numpy

from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters, causal, sliding_window
from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderLayerParameters,
    EncoderParameters,
    FeedForwardParameters,
    LayerNormParameters,
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.layer_results import (
    DecoderLayerDropout,
    EncoderLayerDropout,
    TextEncoderDropout,
    TransformerDropout,
)
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.states import leaves, rebuild

BATCH, LENGTH, TARGET_LENGTH, MAX_LENGTH = 2, 5, 3, 7
VOCABULARY, TARGET_VOCABULARY, SIZE, HIDDEN, CLASSES = 11, 13, 6, 7, 3
HEADS = 3

RNG = np.random.default_rng(53)


def draw(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def keep(*shape: int) -> Dropout:
    return Dropout(0.25, keep=RNG.random(shape) < 0.75)


def linear(rows: int, columns: int) -> LinearParameters:
    return LinearParameters(draw(rows, columns) / math.sqrt(rows), draw(columns))


def embed(vocabulary: int = VOCABULARY, *, bias: bool = False) -> LinearParameters:
    return LinearParameters(draw(vocabulary, SIZE), draw(SIZE) if bias else None)


def norm() -> LayerNormParameters:
    return LayerNormParameters(1.0 + 0.25 * draw(SIZE), draw(SIZE))


def attention() -> MultiHeadParameters:
    """Draw an attention without a bias of the keys: it moves all logits of a row alike, and has no gradient."""
    weights = (draw(SIZE, SIZE) / math.sqrt(SIZE) for _ in range(4))
    return MultiHeadParameters(*weights, draw(SIZE), None, draw(SIZE), draw(SIZE))


def feeding() -> FeedForwardParameters:
    hidden, output = linear(SIZE, HIDDEN), linear(HIDDEN, SIZE)
    return FeedForwardParameters(hidden.weight, output.weight, hidden.bias, output.bias)


def encoding(num_layers: int, last: LayerNormParameters | None = None) -> EncoderParameters:
    layers = (EncoderLayerParameters(attention(), norm(), feeding(), norm()) for _ in range(num_layers))
    return EncoderParameters(tuple(layers), last)


def decoding(num_layers: int, last: LayerNormParameters | None = None) -> DecoderParameters:
    parts = ((attention(), norm(), attention(), norm(), feeding(), norm()) for _ in range(num_layers))
    return DecoderParameters(tuple(DecoderLayerParameters(*part) for part in parts), last)


class Case(NamedTuple):
    """One call: an operation, its inputs before the parameters, and its options."""

    operation: str
    inputs: dict[str, Array]
    """Ids, which are integers and have no gradient, or vectors."""
    parameters: Any
    options: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Array]:
        """Every array that has a gradient: vectors, leaves of the parameters by path, and a bias."""
        vectors = {name: array for name, array in self.inputs.items() if array.dtype.kind == "f"}
        bias = {"bias": self.options["bias"]} if "bias" in self.options else {}
        return {**vectors, **leaves(self.parameters), **bias}

    def call(self, module: ModuleType, arrays: dict[str, Any], **options: Any) -> Any:
        """Call the operation of a module with other arrays, given as in `arrays`, and other options."""
        options = {**self.options, **({"bias": arrays["bias"]} if "bias" in self.options else {}), **options}
        inputs = [arrays.get(name, array) for name, array in self.inputs.items()]
        return getattr(module, self.operation)(*inputs, rebuild(self.parameters, arrays), **options)

    def gradients(self, cotangent: Array) -> dict[str, Array]:
        """Ask the reference for the gradients, by the names of `arrays`."""
        pull_back = getattr(reference, f"{self.operation}_vjp")
        found = pull_back(*self.inputs.values(), self.parameters, cotangent, **self.options)._asdict()
        parameters = leaves(found.pop("parameters"))
        return parameters | {name: gradient for name, gradient in found.items() if gradient is not None}


def run(module: ModuleType, case: Case, **options: Any) -> Array:
    """Call the operation with tensors of the module's own; ids stay NumPy arrays."""
    native = {name: to_native(name_of(module), array) for name, array in case.arrays.items()}
    return to_numpy(case.call(module, native, **options))


IDS = np.array([[1, 4, 4, 10, 0], [7, 1, 2, 9, 3]])
TARGET_IDS = np.array([[12, 3, 3], [0, 5, 12]])
VALID = np.array([[True, True, True, True, True], [True, True, True, False, False]])
HEADS_OF = {"num_heads": HEADS}

LAYER_DROPOUT = EncoderLayerDropout(
    keep(BATCH, HEADS, LENGTH, LENGTH), keep(BATCH, LENGTH, SIZE), keep(BATCH, LENGTH, HIDDEN), keep(1, LENGTH, 1)
)
TEXT_DROPOUT = TextEncoderDropout(keep(BATCH, LENGTH, SIZE), (LAYER_DROPOUT,))
TRANSFORMER_DROPOUT = TransformerDropout(
    keep(BATCH, LENGTH, SIZE),
    keep(BATCH, 1, SIZE),
    (LAYER_DROPOUT,),
    (DecoderLayerDropout(cross_weights=keep(BATCH, HEADS, TARGET_LENGTH, LENGTH)),),
)

PLAIN = Case("text_encoder", {"inputs": IDS}, TextEncoderParameters(embed(), None, None, encoding(2)), {**HEADS_OF})
LEARNED = Case(
    "text_encoder",
    {"inputs": IDS},
    TextEncoderParameters(embed(bias=True), draw(MAX_LENGTH, SIZE), norm(), encoding(1, norm())),
    {**HEADS_OF, "positions": "learned", "valid": VALID, "norm": "pre", "activation": "gelu", "epsilon": 0.125},
)
VECTORS = Case(
    "text_encoder",
    {"inputs": draw(BATCH, LENGTH, VOCABULARY)},
    TextEncoderParameters(embed(bias=True), None, norm(), encoding(1)),
    {**HEADS_OF, "positions": None, "valid": VALID, "mask": sliding_window(2, 2), "bias": draw(LENGTH, LENGTH)},
)
CLASSIFIER = Case(
    "sequence_classifier",
    {"inputs": IDS},
    SequenceClassifierParameters(
        TextEncoderParameters(embed(), draw(MAX_LENGTH, SIZE), norm(), encoding(1)), linear(SIZE, CLASSES)
    ),
    {**HEADS_OF, "positions": "learned", "valid": VALID},
)
EVERYTHING = CLASSIFIER._replace(
    inputs=VECTORS.inputs,
    options={
        **CLASSIFIER.options,
        "mask": causal(),
        "bias": draw(1, HEADS, LENGTH, LENGTH),
        "rotary": Rotary("half_split"),
        "dropout": TEXT_DROPOUT,
    },
)
SHALLOW = CLASSIFIER._replace(
    parameters=CLASSIFIER.parameters._replace(body=CLASSIFIER.parameters.body._replace(encoder=encoding(0, norm()))),
    options={**CLASSIFIER.options, "dropout": TextEncoderDropout(TEXT_DROPOUT.embedding)},
)
TRANSFORMER = Case(
    "transformer",
    {"source": IDS, "target": TARGET_IDS},
    TransformerParameters(
        encoding(1), decoding(1), embed(), embed(TARGET_VOCABULARY, bias=True), head=linear(SIZE, CLASSES)
    ),
    {**HEADS_OF, "source_valid": VALID},
)
TRANSFORMER_VECTORS = Case(
    "transformer",
    {"source": draw(BATCH, LENGTH, SIZE), "target": TARGET_IDS},
    TransformerParameters(
        encoding(1, norm()),
        decoding(1, norm()),
        None,
        embed(TARGET_VOCABULARY),
        draw(MAX_LENGTH, SIZE),
        draw(TARGET_LENGTH, SIZE),
    ),
    {**HEADS_OF, "positions": "learned", "norm": "pre", "activation": "gelu", "target_mask": None},
)
TRANSFORMER_EVERYTHING = TRANSFORMER_VECTORS._replace(
    parameters=TRANSFORMER_VECTORS.parameters._replace(head=linear(SIZE, CLASSES)),
    options={
        **TRANSFORMER_VECTORS.options,
        "target_mask": causal(),
        "source_valid": VALID,
        "rotary": Rotary("interleaved"),
        "dropout": TRANSFORMER_DROPOUT,
    },
)

ORACLE_CASES = {
    "plain": PLAIN,
    "learned": LEARNED,
    "vectors": VECTORS,
    "classifier": CLASSIFIER,
    "transformer": TRANSFORMER,
    "transformer_vectors": TRANSFORMER_VECTORS,
}
EVERY_OPTION = {"shallow": SHALLOW, "classifier": EVERYTHING, "transformer": TRANSFORMER_EVERYTHING}

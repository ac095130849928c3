"""The models and what they begin with, without a framework."""

from __future__ import annotations

from attnspec.contract import (
    GatedAttentionCellConfig,
    LayerConfig,
    LinearConfig,
    SequenceClassifierConfig,
    SinusoidalPositionsConfig,
)
from examples.training.exercises import Exercise

from .data import CLASSES, Digits

RATES = {"mlp": 1e-3, "cell": 1e-2, "joint": 5e-3, "classifier": 3e-3}
"""The learning rate of each model."""
EPOCHS = {"mlp": 15, "cell": 40, "joint": 15, "classifier": 30}
"""How many epochs each model learns from scikit-learn's images, unless told otherwise. The cell is the slowest."""

READINGS = 2
"""How often the cell reads an image: in its first step, from a zero state, three of its parameters have no gradient."""


def layers_of(model: str, rows: int, pixels: int) -> dict[str, LayerConfig]:
    """Describe the layers of a model that sees images as so many rows of so many pixels.

    mlp: three affine maps, all pixels – 128 – 64 – 10, with ReLU between them. cell: each row of pixels is a position
    of a sequence that the gated attention cell reads. joint: both, and their logits are added. classifier: a
    Transformer's encoder over the same rows.

    The encoder's activation is smooth. Adam makes a full step of the first gradient that a parameter gets, however
    small it is: where a rounding error switches a ReLU on in one framework alone, float32 losses are soon 1e-3 apart.
    """
    mlp: dict[str, LayerConfig] = {
        "first": LinearConfig(rows * pixels, 128),
        "second": LinearConfig(128, 64),
        "last": LinearConfig(64, CLASSES),
    }
    cell: dict[str, LayerConfig] = {
        "positions": SinusoidalPositionsConfig(pixels),
        "cell": GatedAttentionCellConfig(pixels, 2, CLASSES, score_size=128),
    }
    classifier: dict[str, LayerConfig] = {
        "classifier": SequenceClassifierConfig(
            32, 4, 1, hidden_size=64, activation="gelu", input_size=pixels, num_classes=CLASSES
        )
    }
    return {"mlp": mlp, "cell": cell, "joint": mlp | cell, "classifier": classifier}[model]


def exercise(model: str, training: Digits, test: Digits, *, epochs: int, steps: int | None, seed: int) -> Exercise:
    """Describe the training of a model on some images and its test on others, in the images' dtype."""
    return Exercise(
        name=model,
        example=__name__.rpartition(".")[0],
        layers=layers_of(model, *training.images.shape[1:]),
        training=tuple(training),
        test=(test.images,),
        expected=test.labels,
        rate=RATES[model],
        dtype=training.images.dtype.name,
        epochs=epochs,
        steps=steps,
        seed=seed,
        watched="cell" if model in ("cell", "joint") else None,
    )

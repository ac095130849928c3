"""The model and what it begins with, without a framework."""

from __future__ import annotations

from attnspec.contract import TransformerConfig
from examples.training.exercises import Exercise

from .data import SOURCE_SIZE, TARGET_SIZE, Pairs

TRANSFORMER = TransformerConfig(
    32,
    4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    hidden_size=64,
    activation="gelu",  # smooth, for the reason that the classifier of `examples.digits` gives
    source_size=SOURCE_SIZE,
    target_size=TARGET_SIZE,
    output_size=TARGET_SIZE,
)


def exercise(training: Pairs, test: Pairs, *, dtype: str, epochs: int, steps: int | None, seed: int) -> Exercise:
    """Describe the training of the Transformer on some pairs and its test on others."""
    return Exercise(
        name="transformer",
        example=__name__.rpartition(".")[0],
        layers={"transformer": TRANSFORMER},
        training=tuple(training),
        test=(test.source, test.source_valid),
        expected=test.wanted,
        rate=3e-3,
        dtype=dtype,
        epochs=epochs,
        steps=steps,
        seed=seed,
    )

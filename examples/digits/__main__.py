"""The command `python -m examples.digits`."""

from __future__ import annotations

from pathlib import Path

import click

from examples.training.command import (
    WrongUsageError,
    check_files,
    choose_frameworks,
    run_command,
    run_exercises,
    training_options,
    write,
)

MODELS = ("mlp", "cell", "joint", "classifier")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@training_options(epochs="15 to 40, by model; with --mnist 1")
@click.option("--models", metavar="NAMES", help=f"Separated by commas. Default: {','.join(MODELS)}.")
@click.option(
    "--mnist", type=click.Path(path_type=Path), metavar="FOLDER", help="Use MNIST, from its four files there."
)
def digits(
    frameworks: str | None,
    dtype: str,
    epochs: int | None,
    steps: int | None,
    seed: int,
    plot: Path | None,
    json_path: Path | None,
    models: str | None,
    mnist: Path | None,
) -> int:
    """Learn to read handwritten digits, with the same numbers in PyTorch, TensorFlow and JAX.

    \b
    mlp         three affine maps over all pixels: 64 - 128 - 64 - 10
    cell        the gated attention cell, which reads all rows of an image, twice
    joint       both: their logits are added
    classifier  a Transformer's encoder over the same rows

    All frameworks begin with the same parameters and see the same batches, so that their losses can be compared.

    Exit codes: 0 all agree, 1 they do not or a parameter has no gradient, 2 wrong usage, 3 a framework failed.
    """
    chosen = _choose_models(models)
    names = choose_frameworks(frameworks)
    check_files(plot, json_path)

    from examples.training.exercises import BATCH_SIZE

    from .data import load_digits, load_mnist
    from .model import EPOCHS, exercise

    training, test = load_digits(seed, dtype) if mnist is None else load_mnist(mnist, dtype)
    if len(training.images) < BATCH_SIZE:
        raise WrongUsageError(
            f"--mnist: {len(training.images)} images for training are less than a batch of {BATCH_SIZE}"
        )
    default = EPOCHS if mnist is None else dict.fromkeys(MODELS, 1)
    exercises = [
        exercise(model, training, test, epochs=epochs or default[model], steps=steps, seed=seed) for model in chosen
    ]
    rows, pixels = training.images.shape[1:]
    source = "scikit-learn's digits" if mnist is None else "MNIST"
    counts = f"{len(training.images)} for training, {len(test.images)} for the test"
    about = f"{source}: images of {rows}×{pixels} pixels, {counts}"
    return write(run_exercises("digits", about, exercises, names), plot, json_path)


def _choose_models(names: str | None) -> list[str]:
    chosen = list(MODELS) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in MODELS]
    if unknown or not chosen:
        got = repr(unknown[0]) if unknown else "none"
        raise WrongUsageError(f"--models: choose from {', '.join(MODELS)}; got {got}")
    return [model for model in MODELS if model in chosen]


if __name__ == "__main__":
    run_command(digits, "examples.digits")

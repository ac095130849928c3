"""The command `python -m examples.number_words`."""

from __future__ import annotations

from pathlib import Path

import click

from examples.training.command import (
    check_files,
    choose_frameworks,
    run_command,
    run_exercises,
    training_options,
    write,
)

EPOCHS = 10
SAMPLES = 3
"""How many translations are shown at the end."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@training_options(epochs=str(EPOCHS))
def number_words(
    frameworks: str | None,
    dtype: str,
    epochs: int | None,
    steps: int | None,
    seed: int,
    plot: Path | None,
    json_path: Path | None,
) -> int:
    """Learn to translate number words from German to English, with the same numbers in PyTorch, TensorFlow and JAX.

    German says ones before tens: zwei und vierzig is forty two. A Transformer sees pairs of some numbers between 0 and
    9999 and then writes others, word by word, reading keys and values of what it has written from a cache.
    Accuracy is the share of numbers that it writes without any mistake.

    Exit codes: 0 all agree, 1 they do not, 2 wrong usage, 3 a framework failed.
    """
    names = choose_frameworks(frameworks)
    check_files(plot, json_path)

    from .data import read, split
    from .model import exercise
    from .words import ENGLISH, GERMAN

    training, test = split(seed)
    one = exercise(training, test, dtype=dtype, epochs=epochs or EPOCHS, steps=steps, seed=seed)
    about = f"number words: {len(training.source)} pairs for training, {len(test.source)} other ones for the test"
    records = run_exercises("number words", about, [one], names)
    written = [record.predicted for record in records.of(one).values() if record.predicted is not None]
    for i in range(SAMPLES):
        said = dict.fromkeys(read(ENGLISH, predicted[i]) for predicted in written)
        click.echo(f"{read(GERMAN, test.source[i][test.source_valid[i]])}  →  {' | '.join(said)}")
    return write(records, plot, json_path)


if __name__ == "__main__":
    run_command(number_words, "examples.number_words")

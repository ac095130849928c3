"""The training examples: the same losses in all frameworks, data from files, and commands that say what is wrong.

Short versions of what `python -m examples.digits` and `python -m examples.number_words` do in full.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import frameworks
import numpy as np
import pytest
from scipy.special import log_softmax

from attnspec.contract import CellState
from attnspec.reference.layers import run_layer

pytest.importorskip("sklearn")

from examples.digits import __main__ as digits_command
from examples.digits import data as digits_data
from examples.digits import mnist
from examples.digits import model as digits_model
from examples.number_words import __main__ as words_command
from examples.number_words import data as words_data
from examples.number_words import model as words_model
from examples.number_words.words import ENGLISH, GERMAN, english, german
from examples.training import processes, trainer
from examples.training.agreement import agreement, relative_difference
from examples.training.command import WrongUsageError, run_command, run_exercises, write
from examples.training.exercises import Exercise, Training, score
from examples.training.plot import draw_figure
from examples.training.records import Records
from examples.training.trainer import Epoch, Finished, Gradients, Step

Array = np.ndarray[Any, Any]
Start = Callable[[str, str], Training]
ROOT = Path(__file__).parent.parent
STEPS = 20
DTYPES = {"joint": "float64", "classifier": "float32", "words": "float64"}


@functools.cache
def exercise_of(name: str) -> Exercise:
    dtype = DTYPES[name]
    if name == "words":
        return words_model.exercise(*words_data.split(7), dtype=dtype, epochs=1, steps=STEPS, seed=7)
    training, test = digits_data.load_digits(7, dtype)
    return digits_model.exercise(name, training, test, epochs=1, steps=STEPS, seed=7)


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Return what starts an exercise in a framework, once: compiled steps are kept.

    Time is saved by one thread for small models, and by no draws that a state replaces: JAX compiles each shape's.
    """
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    @functools.cache
    def start(name: str, framework: str) -> Training:
        frameworks.load(framework)
        return trainer.start(exercise_of(name), framework)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "uniform", lambda _, shape, dtype, *__: jax.numpy.asarray(np.zeros(shape, dtype)))
        yield start
    torch.set_num_threads(threads)


class TestFrameworks:
    """The same numbers in all of them."""

    def test_every_component_of_the_cell_has_the_same_gradient(self, start: Start) -> None:
        batch = next(next(exercise_of("joint").epoch_batches()))
        found = {name: start("joint", name).gradients("cell", *batch) for name in frameworks.FRAMEWORKS}
        shapes = {name: spec.shape for name, spec in exercise_of("joint").layers["cell"].specs().items()}
        for gradients in found.values():
            assert {name: gradient.shape for name, gradient in gradients.items()} == shapes
            for name, gradient in gradients.items():
                assert gradient.all(), name
                np.testing.assert_allclose(
                    gradient, found["torch"][name], rtol=0.0, atol=1e-13 * np.abs(gradient).max(), err_msg=name
                )

    # In 20 steps the losses are 1e-15 apart in float64, and 4e-7 in float32. What is allowed in 300 and 100 steps would
    # hide another epsilon of Adam, or a bias correction that is rounded.
    @pytest.mark.parametrize(("name", "tolerance"), [("joint", 1e-13), ("classifier", 2e-6), ("words", 1e-13)])
    def test_losses_are_the_same(self, name: str, tolerance: float, start: Start) -> None:
        exercise, losses = exercise_of(name), {}
        for framework in frameworks.FRAMEWORKS:
            training = start(name, framework)
            losses[framework] = [training.step(*batch) for batches in exercise.epoch_batches() for batch in batches]
        found = agreement(losses, exercise.dtype)
        assert found is not None
        assert (found.steps, len(losses["jax"])) == (STEPS, STEPS)
        assert found.largest <= tolerance
        batch = next(next(exercise.epoch_batches()))
        assert losses["torch"][0] == pytest.approx(REFERENCE[name](exercise, *batch), rel=tolerance)
        assert losses["torch"][-1] < 0.8 * losses["torch"][0]  # something was learned

    def test_the_model_writes_what_it_would_say_without_a_cache(self, start: Start) -> None:
        torch = pytest.importorskip("torch")
        training, (source, valid) = start("words", "torch"), exercise_of("words").test
        written = training.predict(source[:7], valid[:7])
        given = torch.full((7, 1), words_data.START)
        for _ in range(words_data.TARGET_LENGTH):
            logits = training.model(torch.tensor(source[:7]), given, source_valid=torch.tensor(valid[:7]))  # type: ignore[attr-defined] # torch's has it
            given = torch.cat([given, logits[:, -1:].argmax(dim=-1)], dim=1)
        expected = given[:, 1:].numpy()
        has_ended = np.cumsum(expected == words_data.STOP, axis=1) > 0
        np.testing.assert_array_equal(written, np.where(has_ended, words_data.STOP, expected))

    def test_a_training_says_what_happens(self) -> None:
        frameworks.load("torch")
        exercise = digits_model.exercise(
            "cell", *digits_data.load_digits(5, "float32"), epochs=2, steps=24, seed=5
        )  # one epoch of 22 steps, and two steps of another
        first, *others, last = trainer.train(exercise, "torch")
        assert isinstance(first, Gradients)
        assert len(first.largest) == 16
        assert first.missing == []
        kinds = "".join(type(event).__name__[0] for event in others)
        assert kinds == "S" * 22 + "E" + "SS" + "E"
        losses = [event.loss for event in others if isinstance(event, Step)]
        epochs = [event for event in others if isinstance(event, Epoch)]
        assert [epoch.loss for epoch in epochs] == pytest.approx([np.mean(losses[:22]), np.mean(losses[22:])])
        assert isinstance(last, Finished)
        assert epochs[-1].accuracy == np.mean(last.predicted == exercise.expected)


def loss_of(logits: Array, labels: Array, counted: Array | bool = True) -> float:
    """Return the mean cross-entropy, in float64."""
    losses = -np.take_along_axis(log_softmax(logits, axis=-1), labels[..., None], axis=-1)[..., 0]
    return float(losses[np.broadcast_to(counted, losses.shape)].mean())


def joint_in_numpy(exercise: Exercise, images: Array, labels: Array) -> float:
    def layer(name: str, *inputs: Any) -> Any:
        return run_layer(exercise.layers[name], exercise.states()[name], *inputs)

    hidden = np.maximum(layer("first", images.reshape(len(images), -1)), 0.0)
    hidden = np.maximum(layer("second", hidden), 0.0)
    state = CellState(np.zeros((len(images), 8)), np.zeros((len(images), 8)))
    for _ in range(2):
        from_cell, state = layer("cell", layer("positions", images), state)
    return loss_of(layer("last", hidden) + from_cell, labels)


def classifier_in_numpy(exercise: Exercise, images: Array, labels: Array) -> float:
    return loss_of(run_layer(exercise.layers["classifier"], exercise.states()["classifier"], images), labels)


def words_in_numpy(exercise: Exercise, source: Array, valid: Array, given: Array, wanted: Array, kept: Array) -> float:
    config, state = exercise.layers["transformer"], exercise.states()["transformer"]
    return loss_of(run_layer(config, state, source, given, source_valid=valid), wanted, kept)


REFERENCE = {"joint": joint_in_numpy, "classifier": classifier_in_numpy, "words": words_in_numpy}


class TestAdam:
    """Adam of TensorFlow and JAX, against its formulas in Python's own numbers, and against PyTorch's."""

    GRADIENTS = (0.5, -2e-8, 3.0, 0.25)

    def expected(self) -> list[float]:
        parameter, mean, square, moves = 1.0, 0.0, 0.0, []
        for t, gradient in enumerate(self.GRADIENTS, start=1):
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            parameter -= 0.01 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)) ** 0.5 + 1e-8)
            moves.append(parameter)
        return moves

    def run(self, framework: str, dtype: str) -> list[float]:
        frameworks.load(framework)
        found = []
        if framework == "tensorflow":
            import tensorflow as tf

            from examples.training.tensorflow_adam import Adam

            variable = tf.Variable(tf.ones((1,), dtype))
            optimizer = Adam([variable], 0.01)
            for gradient in self.GRADIENTS:
                optimizer.update([tf.constant([gradient], dtype)])
                found.append(float(variable[0]))
        else:
            import jax
            import jax.numpy as jnp
            import optax

            from examples.training.jax_adam import adam

            parameter, transformation = jnp.asarray(np.ones(1, dtype)), adam(0.01)
            state, update = transformation.init(parameter), jax.jit(transformation.update)
            for gradient in self.GRADIENTS:
                moves, state = update(jnp.asarray(np.array([gradient], dtype)), state)
                parameter = optax.apply_updates(parameter, moves)
                found.append(float(parameter[0]))
        return found

    @pytest.mark.parametrize("framework", ["tensorflow", "jax"])
    def test_follows_the_formula(self, framework: str) -> None:
        assert self.run(framework, "float64") == pytest.approx(self.expected(), rel=1e-15, abs=0.0)

    @pytest.mark.parametrize("framework", ["tensorflow", "jax"])
    def test_corrects_the_bias_to_the_last_digit_of_float32(self, framework: str) -> None:
        # 1 − 0.999 as float32 computes it is wrong in the fifth digit, and so would be the first step, 0.01.
        assert 1.0 - self.run(framework, "float32")[0] == pytest.approx(0.01, abs=2.0**-24)


class TestDigits:
    def test_scikit_learn_s_images_are_split_and_normalised(self) -> None:
        training, test = digits_data.load_digits(7, "float64")
        assert (training.images.shape, test.images.shape) == ((1437, 8, 8), (360, 8, 8))
        assert training.images.mean() == pytest.approx(0.0, abs=1e-14)
        assert training.images.std() == pytest.approx(1.0)
        shares = [np.bincount(part.labels, minlength=10) / len(part.labels) for part in (training, test)]
        np.testing.assert_allclose(*shares, atol=0.003)
        seen = {image.tobytes() for image in training.images}
        assert sum(image.tobytes() in seen for image in test.images) == 0
        other, _ = digits_data.load_digits(8, "float64")
        assert not np.array_equal(other.labels, training.labels)

    @pytest.mark.parametrize("model", digits_command.MODELS)
    @pytest.mark.parametrize("side", [8, 28])
    def test_models_fit_images(self, model: str, side: int) -> None:
        layers = digits_model.layers_of(model, side, side)
        sizes = {config.arguments().get("input_size") for config in layers.values()} - {None, 128, 64}
        assert sizes <= {side, side * side}


class TestMnist:
    """The loader, on small files that the test writes."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(3)
        for part, count in (("train", 67), ("t10k", 5)):
            images = rng.integers(0, 256, (count, 28, 28), np.uint8)
            images[0, 0, :2] = 0, 255
            self.write(tmp_path / f"{part}-images-idx3-ubyte", images)
            self.write(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
        return tmp_path

    @staticmethod
    def write(path: Path, array: Array) -> None:
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        path.write_bytes(header + array.tobytes())

    def test_reads_and_normalises(self, folder: Path) -> None:
        training, test = digits_data.load_mnist(folder, "float64")
        assert (training.images.shape, test.images.shape) == ((67, 28, 28), (5, 28, 28))
        assert test.labels.tolist() == [0, 1, 2, 3, 4]
        assert training.images[0, 0, :2].tolist() == pytest.approx([-0.1307 / 0.3081, 0.8693 / 0.3081])
        raw = (folder / "t10k-images-idx3-ubyte").read_bytes()
        assert test.images[4, 27, 27] == pytest.approx((raw[-1] / 255 - 0.1307) / 0.3081)

    def test_reads_compressed_files_and_names_with_a_dot(self, folder: Path) -> None:
        expected = mnist.read_mnist(folder)
        for path in list(folder.iterdir()):
            content = path.read_bytes()
            path.unlink()
            (folder / f"{path.name.replace('-idx', '.idx')}.gz").write_bytes(gzip.compress(content))
        for part, other in zip(mnist.read_mnist(folder), expected, strict=True):
            for array, same in zip(part, other, strict=True):
                np.testing.assert_array_equal(array, same)

    @pytest.mark.parametrize(
        ("name", "change", "said"),
        [
            ("train-images-idx3-ubyte", None, "there is no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in "),
            ("t10k-images-idx3-ubyte", lambda b: b[:-1], "damaged: its length does not fit .* 3919 bytes for 5×28×28"),
            ("t10k-images-idx3-ubyte", lambda b: b[:9], "damaged: its length does not fit what it says it holds$"),
            ("t10k-labels-idx1-ubyte", lambda b: b + b"\0", "damaged: .*, 6 bytes for 5$"),
            ("t10k-labels-idx1-ubyte", lambda _: b"<html>", "no IDX file of bytes: it begins with 3c 68 74 6d$"),
            ("t10k-labels-idx1-ubyte", lambda _: b"", "no IDX file of bytes: it begins with nothing$"),
            ("train-images-idx3-ubyte", lambda b: b[:2] + b"\x0d" + b[3:], "no IDX file of bytes"),
            ("t10k-images-idx3-ubyte", lambda _: idx(5, 27, 28), "holds 5×27×28 bytes, not images of 28×28$"),
            ("t10k-images-idx3-ubyte", lambda _: idx(0, 28, 28), "holds 0×28×28 bytes, not images of 28×28$"),
            ("t10k-labels-idx1-ubyte", lambda _: idx(4), "holds 4 labels for 5 images of t10k-images-idx3-ubyte$"),
            ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a", "holds the label 10; digits are 0 to 9$"),
        ],
        ids=[
            "missing",
            "truncated",
            "in-the-header",
            "too-long",
            "a-page",
            "empty",
            "floats",
            "shape",
            "none",
            "count",
            "label",
        ],
    )
    def test_files_that_do_not_fit(
        self, name: str, change: Callable[[bytes], bytes] | None, said: str, folder: Path
    ) -> None:
        if change is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(change((folder / name).read_bytes()))
        with pytest.raises(WrongUsageError, match=said) as caught:
            mnist.read_mnist(folder)
        assert name.removesuffix("-idx3-ubyte") in caught.value.message

    @pytest.mark.parametrize("content", [b"\x1f\x8b\x08 cut off", b"no gzip at all"])
    def test_compressed_files_that_are_damaged(self, content: bytes, folder: Path) -> None:
        (folder / "train-labels-idx1-ubyte").rename(folder / "old")
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(content)
        with pytest.raises(WrongUsageError, match=r"^cannot read .*train-labels-idx1-ubyte\.gz: "):
            mnist.read_mnist(folder)


def idx(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(int(np.prod(shape)))


class TestWords:
    @pytest.mark.parametrize(
        ("number", "in_german", "in_english"),
        [
            (0, "null", "zero"),
            (1, "eins", "one"),
            (12, "zwölf", "twelve"),
            (17, "siebzehn", "seventeen"),
            (21, "ein und zwanzig", "twenty one"),
            (30, "dreißig", "thirty"),
            (101, "ein hundert eins", "one hundred one"),
            (342, "drei hundert zwei und vierzig", "three hundred forty two"),
            (1000, "ein tausend", "one thousand"),
            (2016, "zwei tausend sechzehn", "two thousand sixteen"),
            (9999, "neun tausend neun hundert neun und neunzig", "nine thousand nine hundred ninety nine"),
        ],
    )
    def test_numbers(self, number: int, in_german: str, in_english: str) -> None:
        assert " ".join(german(number)) == in_german
        assert " ".join(english(number)) == in_english

    def test_every_number_is_said_in_its_own_words(self) -> None:
        for say, words in ((german, GERMAN), (english, ENGLISH)):
            said = [tuple(say(number)) for number in range(10000)]
            assert len(set(said)) == 10000
            assert {word for one in said for word in one} == set(words)
            assert len(set(words)) == len(words)

    def test_pairs_are_padded_and_shifted(self) -> None:
        found = words_data.pairs([21, 342])
        size = words_data.SOURCE_LENGTH
        assert size == len(german(9999))
        assert [
            words_data.read(GERMAN, row[valid]) for row, valid in zip(found.source, found.source_valid, strict=True)
        ] == [
            "ein und zwanzig",
            "drei hundert zwei und vierzig",
        ]
        one, twenty = ENGLISH.index("one"), ENGLISH.index("twenty")
        start, stop = words_data.START, words_data.STOP
        assert found.wanted[0].tolist() == [twenty, one, stop, stop, stop, stop, stop]
        assert found.given[0].tolist() == [start, twenty, one, stop, stop, stop, stop]
        assert found.counted.tolist() == [[True] * 3 + [False] * 4, [True] * 5 + [False] * 2]
        assert words_data.read(ENGLISH, found.wanted[1]) == "three hundred forty two"

    def test_no_number_of_the_test_is_learned(self) -> None:
        training, test = words_data.split(7)
        seen = {row.tobytes() for row in training.wanted}
        assert len(seen) == len(training.wanted) == 2000
        assert len(test.wanted) == 500
        assert not any(row.tobytes() in seen for row in test.wanted)


def fake_exercise(example: str = "fake", **changes: Any) -> Exercise:
    rows = np.arange(10.0)
    settings = {"rate": 1.0, "dtype": "float32", "epochs": 2, "batch_size": 3, "seed": 4} | changes
    return Exercise("wave", example, {}, (rows,), (rows,), np.zeros(10), **settings)


class TestExercise:
    def test_batches_are_drawn_from_all_examples_without_repetition(self) -> None:
        epochs = [[batch[0].tolist() for batch in batches] for batches in fake_exercise().epoch_batches()]
        again = [[batch[0].tolist() for batch in batches] for batches in fake_exercise().epoch_batches()]
        assert epochs == again
        assert [[len(batch) for batch in batches] for batches in epochs] == [[3, 3, 3], [3, 3, 3]]
        assert all(len({number for batch in batches for number in batch}) == 9 for batches in epochs)
        assert epochs[0] != epochs[1]

    def test_steps_end_within_an_epoch(self) -> None:
        exercise = fake_exercise(steps=4)
        assert exercise.total_steps == 4
        epochs = [[batch[0].tolist() for batch in batches] for batches in exercise.epoch_batches()]
        whole = [[batch[0].tolist() for batch in batches] for batches in fake_exercise().epoch_batches()]
        assert epochs == [whole[0], whole[1][:1]]

    def test_score_counts_rows_without_a_mistake(self) -> None:
        assert score(np.array([[1, 2], [3, 4], [5, 6]]), np.array([[1, 2], [3, 0], [5, 6]])) == 2 / 3
        assert score(np.array([1, 2, 3, 4]), np.array([1, 0, 3, 4])) == 0.75


class TestAgreement:
    def test_relative_difference(self) -> None:
        assert relative_difference([2.0, 0.0, 1.0], [1.0, 0.0, -1.0]).tolist() == [0.5, 0.0, 2.0]

    def test_finds_the_worst_pair_and_step(self) -> None:
        found = agreement({"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0], "c": [1.0, 1.0, 1.001]}, "float32")
        assert found is not None
        assert (found.pair, found.step, found.steps, found.agrees) == (("a", "c"), 3, 3, False)
        assert found.largest == pytest.approx(0.001 / 1.001)

    def test_counts_no_step_after_the_first_hundred(self) -> None:
        found = agreement({"a": [1.0] * 101, "b": [1.0] * 100 + [2.0]}, "float32")
        assert found is not None
        assert (found.largest, found.steps, found.agrees) == (0.0, 100, True)

    def test_what_is_no_number_agrees_with_nothing(self) -> None:
        found = agreement({"a": [1.0, np.nan], "b": [1.0, np.nan], "c": [2.0, 1.0]}, "float64")
        assert found is not None
        assert not found.agrees

    def test_one_alone_has_nothing_to_agree_with(self) -> None:
        assert agreement({"a": [1.0]}, "float32") is None


FAKE = """
import os, sys
import numpy as np

class Wave:
    def step(self, rows):
        return float(rows.mean()) * {factor}
    def predict(self, rows):
        return np.where(rows < 7, 0, 1)

def start(exercise):
    {begin}
    return Wave()
"""


class TestProcesses:
    """Each framework in a process of its own, with trainings that need no framework."""

    @pytest.fixture
    def write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        monkeypatch.syspath_prepend(tmp_path)  # child processes inherit the path
        (tmp_path / "fake").mkdir()

        def write(framework: str, *, factor: float = 1.0, begin: str = "") -> None:
            code = FAKE.format(factor=factor, begin=begin)
            (tmp_path / "fake" / f"{framework}_training.py").write_text(code, encoding="utf8")

        return write

    def test_results_of_all_are_shown_side_by_side(
        self, write: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        write("torch", begin="print('a greeting'); print('a warning', file=sys.stderr)")
        write("jax", factor=1.001)
        records = run_exercises("waves", "ten numbers", [fake_exercise()], ["torch", "jax"])
        means = [float(np.mean([rows.mean() for (rows,) in batches])) for batches in fake_exercise().epoch_batches()]
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[2] == f"wave epoch 1/2 loss {means[0]:.6f} {means[0] * 1.001:.6f} accuracy 0.7000 0.7000".split()
        assert lines[3] == f"wave epoch 2/2 loss {means[1]:.6f} {means[1] * 1.001:.6f} accuracy 0.7000 0.7000".split()
        assert ["wave", "torch", "6", f"{means[1]:.6f}", "0.7000"] == next(x for x in lines if "torch" in x[1:2])[:-1]
        (problem,) = records.problems()
        assert problem.startswith("wave: the losses of torch and jax differ by 1.0e-03 at step ")
        assert problem.endswith("; in float32 1e-04 is allowed")
        assert lines[-1] == problem.split()

    def test_a_failure_is_told_with_its_traceback(self, write: Callable[..., None]) -> None:
        write("torch")
        write("jax", begin="raise RuntimeError('no such luck')")
        with pytest.raises(
            processes.TrainingFailedError, match=r"(?s)Traceback.*no such luck\njax: its training failed"
        ):
            list(processes.run([fake_exercise()], ["torch", "jax"]))

    def test_a_crash_is_told_with_what_was_said_last(self, write: Callable[..., None]) -> None:
        write("jax", begin="print('core dumped', file=sys.stderr, flush=True); os._exit(7)")
        with pytest.raises(
            processes.TrainingFailedError, match=r"^core dumped\njax: its process ended with exit code 7$"
        ):
            list(processes.run([fake_exercise()], ["jax"]))


class TestRecords:
    @pytest.fixture
    def records(self) -> Records:
        exercises = [fake_exercise(watched="cell"), fake_exercise()]
        exercises[1].__dict__["name"] = "other"
        records = Records("waves", "ten numbers", exercises, {"torch": "2.0", "jax": "1.0"})
        for (exercise, framework), record in records.records.items():
            if exercise == "wave":
                record.add(Gradients({"weight": 0.5, "bias": 0.0 if framework == "jax" else 1e-9}))
            for i in range(6):
                record.add(Step(2.0**-i + (1e-7 if framework == "jax" else 0.0)))
            record.add(Epoch(0.5, 0.25))
            record.add(Finished(np.zeros(10), 1.5))
        return records

    def test_a_parameter_without_a_gradient_is_a_problem(self, records: Records) -> None:
        assert records.problems() == ["wave: jax has no gradient for bias of cell"]

    def test_json(self, records: Records) -> None:
        records.records["other", "jax"].losses[3] = float("nan")
        found = json.loads(records.to_json())
        assert [exercise["name"] for exercise in found["exercises"]] == ["wave", "other"]
        wave, other = (exercise["frameworks"]["jax"] for exercise in found["exercises"])
        assert wave["gradients"] == {"weight": 0.5, "bias": 0.0}
        assert wave["epochs"] == [{"loss": 0.5, "accuracy": 0.25}]
        assert other["losses"][2:4] == [0.25 + 1e-7, None]
        assert found["exercises"][0]["agreement"]["agrees"] is True
        assert (
            found["exercises"][1]["agreement"] | {"steps": 6, "largest": None, "agrees": False}
            == (found["exercises"][1]["agreement"])
        )
        assert len(found["problems"]) == 2

    @pytest.mark.parametrize("count", [1, 2])
    def test_picture(self, count: int, records: Records, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        drawn = Records("waves", "ten numbers", records.exercises[:count], records.versions)
        drawn.records.update(records.records)
        figure = draw_figure(drawn)
        assert len(figure.axes) == 3 * count
        losses, accuracies, apart = (figure.axes[i * count] for i in range(3))
        assert [line.get_label() for line in losses.lines] == ["torch", "jax"]
        np.testing.assert_array_equal(losses.lines[1].get_ydata(), drawn.records["wave", "jax"].losses)
        np.testing.assert_array_equal(losses.lines[1].get_xdata(), range(1, 7))
        assert accuracies.lines[0].get_ydata()[-1] == 0.25
        assert apart.lines[0].get_ydata()[2] == pytest.approx(1e-7 / 0.25, rel=1e-6)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "torch",
            "jax",
            "torch – jax",
            "not allowed in the first 100 steps",
        ]
        assert write(drawn, tmp_path / "curves.svg", tmp_path / "all.json") == 1
        assert (tmp_path / "curves.svg").read_text(encoding="utf8").count("<svg") == 1
        assert json.loads((tmp_path / "all.json").read_text(encoding="utf8"))["example"] == "waves"


class TestCommands:
    @pytest.mark.parametrize(
        ("command", "arguments", "said"),
        [
            (
                digits_command.digits,
                "--frameworks torhc",
                "--frameworks: choose from torch, tensorflow, jax; got 'torhc'",
            ),
            (digits_command.digits, "--frameworks ,", "--frameworks: choose from torch, tensorflow, jax; got none"),
            (digits_command.digits, "--models cnn", "--models: choose from mlp, cell, joint, classifier; got 'cnn'"),
            (
                digits_command.digits,
                "--mnist nowhere",
                "there is no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in nowhere",
            ),
            (
                digits_command.digits,
                "--plot curves.txt",
                "--plot: the name must end in .png, .svg or .pdf; got curves.txt",
            ),
            (digits_command.digits, "--json nowhere/x.json", "--json: there is no folder nowhere"),
            (
                digits_command.digits,
                "--dtype float16",
                "Invalid value for '--dtype': 'float16' is not one of 'float32', 'float64'.",
            ),
            (words_command.number_words, "--steps 0", "Invalid value for '--steps': 0 is not in the range x>=1."),
            (words_command.number_words, "--plot nowhere/x.png", "--plot: there is no folder nowhere"),
            (words_command.number_words, "--models mlp", "No such option '--models'."),
            (words_command.number_words, "more", "Got unexpected extra argument (more)"),
        ],
        ids=lambda value: value if isinstance(value, str) and value.startswith("--") else None,
    )
    def test_wrong_usage_is_one_line(
        self,
        command: click.Command,
        arguments: str,
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["example", *arguments.split()])
        with pytest.raises(SystemExit) as caught:
            run_command(command, "example")
        assert caught.value.code == 2
        assert capsys.readouterr() == ("", f"example: {said}\n")

    def test_a_missing_framework_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(processes, "missing", lambda name: "flax" if name == "jax" else None)
        monkeypatch.setattr(sys, "argv", ["example", "--frameworks", "torch,jax"])
        with pytest.raises(SystemExit) as caught:
            run_command(words_command.number_words, "example")
        assert caught.value.code == 2
        assert (
            capsys.readouterr().err
            == "example: --frameworks: jax needs flax; install it with: pip install 'attnspec[jax]'\n"
        )

    def test_digits_in_a_process(self, tmp_path: Path) -> None:
        frameworks.load("torch")
        arguments = ["--frameworks", "torch", "--models", "mlp", "--epochs", "3", "--json", "all.json"]
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-m", "examples.digits", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "mlp         epoch     3/3   loss" in ran.stdout
        found = json.loads((tmp_path / "all.json").read_text(encoding="utf8"))["exercises"][0]["frameworks"]["torch"]
        assert len(found["losses"]) == 66
        assert found["epochs"][-1]["accuracy"] > 0.9

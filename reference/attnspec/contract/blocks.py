"""Which arguments layer normalisation, feed-forward, encoder and decoder take (clauses S29–S32).

Parameters come as `given`: their leaves by path (`states.leaves`), described as operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from .biases import Convert
from .checks import Checks
from .dropout import Dropout
from .layer_config import check_choice, check_number
from .layer_parameters import DecoderParameters, EncoderParameters, FeedForwardParameters, LayerNormParameters
from .layer_results import DecoderLayerDropout, EncoderLayerDropout
from .operands import Operand, Shape, describe, show_shape
from .options import Given, Options, check_options
from .parameter_checks import check_leaf_shape, check_leaf_shapes, check_tree
from .parameters import MultiHeadParameters
from .rotary_option import check_rotary
from .shapes import Sizes, check_heads, multi_head_sizes

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh")

NORMS = ("post", "pre")

SMALLEST_EPSILON = 2.0**-126
"""float32's smallest normal number: what is less would be 0 in some frameworks, and a constant row 0/0."""

Result = TypeVar("Result")


class BlockSettings(NamedTuple):
    """What every layer of a stack does alike."""

    num_heads: int
    num_kv_heads: int
    norm: str
    activation: str
    epsilon: float
    mask: Any = None
    """Of the self-attention, as `bias` and `rotary`."""
    memory_mask: Any = None
    """Of the attention over the encoder's output."""
    bias: Any = None
    rotary: Any = None

    def with_tensors(self, convert: Convert) -> BlockSettings:
        """Return the same settings, the numbers of the bias as tensors of one framework."""
        return self._replace(bias=Given(bias=self.bias).with_tensors(convert).bias)

    def self_given(self, dropout: Any = None) -> Given:
        """Return the options of a self-attention."""
        return Given(mask=self.mask, bias=self.bias, dropout=dropout)

    def cross_given(self, dropout: Any = None) -> Given:
        """Return the options of an attention over the encoder's output."""
        return Given(mask=self.memory_mask, dropout=dropout)


class Names(NamedTuple):
    """What messages call the arguments of a block."""

    tree: str = "parameters"
    """The caller's argument that holds the parameters."""
    path: str = ""
    """Of the block's parameters in it, such as "encoder.layers.0"."""
    dropout: str = "dropout"
    """The block's own."""

    def leaf(self, name: str) -> str:
        """Give the path of a parameter of the block."""
        return f"{self.path}.{name}" if self.path else name

    def layer(self, index: int) -> Names:
        """Name the arguments of a layer of this stack."""
        return Names(self.tree, self.leaf(f"layers.{index}"), f"{self.dropout}[{index}]")


PLAIN = Names()


def check_block_settings(
    num_heads: Any,
    num_kv_heads: Any,
    norm: Any,
    activation: Any,
    epsilon: Any,
    mask: Any = None,
    memory_mask: Any = None,
    bias: Any = None,
    rotary: Any = None,
) -> BlockSettings:
    """Check what needs no tensors; masks, bias and rotary are checked beside the tensors that they are for."""
    heads, kv_heads = check_heads(num_heads, num_kv_heads)
    check_choice("norm", norm, NORMS)
    check_activation(activation)
    return BlockSettings(heads, kv_heads, norm, activation, check_epsilon(epsilon), mask, memory_mask, bias, rotary)


def check_activation(activation: Any) -> None:
    """Check the name of an activation."""
    check_choice("activation", activation, ACTIVATIONS)


def check_epsilon(epsilon: Any) -> float:
    """Check what a normalisation adds to the variance."""
    number = check_number("epsilon", epsilon, positive=True)
    if number < SMALLEST_EPSILON:
        raise ValueError(f"`epsilon` must be at least 2^-126, float32's smallest normal number; got {number}")
    return number


def check_layer_norm(inputs: Operand, given: Mapping[str, Operand], checks: Checks, names: Names = PLAIN) -> None:
    """Check inputs (*B, E), E ≥ 1, against weight (E,) and bias (E,)."""
    if not inputs.shape:
        raise ValueError("`inputs` must have at least 1 axis, (*batch, size); got shape ()")
    size = inputs.shape[-1]
    checks.at_most(
        1, size, lambda: f"`inputs` must have a size (axis -1) of at least 1; got shape {show_shape(inputs.shape)}"
    )
    check_leaf_shapes(given, {"weight": "E", "bias": "E"}, {"E": size}, checks, names.tree, names.path)


def check_feed_forward(
    inputs: Operand, given: Mapping[str, Operand], dropout: Any, checks: Checks, names: Names = PLAIN
) -> None:
    """Check inputs (*B, T, E) against weights (E, F) and (F, E), biases (F,) and (E,), and a dropout of the hidden."""
    check_sequence("inputs", inputs)
    letters = {"hidden_weight": "E F", "hidden_bias": "F", "output_weight": "F E", "output_bias": "E"}
    sizes = check_leaf_shapes(given, letters, {"E": inputs.shape[-1]}, checks, names.tree, names.path)
    check_dropped(names.dropout, dropout, (*inputs.shape[:-1], sizes["F"]), checks)


def check_layer(
    inputs: Operand,
    memory: Operand | None,
    given: Mapping[str, Operand],
    settings: BlockSettings,
    dropout: Any,
    checks: Checks,
    names: Names = PLAIN,
) -> None:
    """Check inputs (*B, T, E) against an encoder layer; beside memory (*B, Tm, Em), against a decoder layer."""
    check_pair_options(inputs, memory, settings, checks)
    _check_layer(inputs, memory, given, settings, dropout, checks, names)


def check_stack(
    inputs: Operand,
    memory: Operand | None,
    given: Mapping[str, Operand],
    num_layers: int,
    settings: BlockSettings,
    dropout: Any,
    checks: Checks,
    names: Names = PLAIN,
) -> None:
    """Check inputs, and the memory of a decoder, against a stack of layers, and its last normalisation, if any."""
    check_pair_options(inputs, memory, settings, checks)
    for i, dropped in enumerate(_each_layer(names.dropout, dropout, num_layers, _dropouts_beside(memory))):
        _check_layer(inputs, memory, given, settings, dropped, checks, names.layer(i))
    check_layer_norm(inputs, given, checks, names._replace(path=names.leaf("norm")))


def check_block(
    parameters: Any,
    operands: Mapping[str, Operand],
    given: Mapping[str, Operand],
    settings: BlockSettings | None,
    dropout: Any,
    checks: Checks,
) -> None:
    """Check the arguments of the operation that takes this class of parameters; `operands` are inputs and memory."""
    inputs, memory = operands["inputs"], operands.get("memory")
    if isinstance(parameters, LayerNormParameters):
        check_layer_norm(inputs, given, checks)
    elif isinstance(parameters, FeedForwardParameters):
        check_feed_forward(inputs, given, dropout, checks)
    elif settings is not None and isinstance(parameters, EncoderParameters | DecoderParameters):
        check_stack(inputs, memory, given, len(parameters.layers), settings, dropout, checks)
    elif settings is not None:
        check_layer(inputs, memory, given, settings, dropout, checks)


def check_pair_options(inputs: Operand, memory: Operand | None, settings: BlockSettings, checks: Checks) -> None:
    """Check inputs (*B, T, E), memory (*B, Tm, Em), and the masks and bias of the attentions over them."""
    check_sequence("inputs", inputs)
    check_options(_pair_sizes(inputs, inputs, settings), inputs.dtype, settings.self_given(), checks)
    if memory is None:
        return
    shown = f"got shapes inputs {show_shape(inputs.shape)} and memory {show_shape(memory.shape)}"
    rank = len(inputs.shape)
    if len(memory.shape) != rank:
        raise ValueError(f"`memory` must have as many axes as `inputs`, {rank}; {shown}")
    for size, expected in zip(memory.shape[:-2], inputs.shape[:-2], strict=True):
        checks.equal(size, expected, lambda: f"`memory` must have the batch axes of `inputs`; {shown}")
    sizes, given = _pair_sizes(inputs, memory, settings), settings.cross_given()
    at_place("memory_mask", checks, lambda: check_options(sizes, inputs.dtype, given, checks))


def check_sequence(name: str, operand: Operand) -> None:
    """Check that there is an axis of positions."""
    if len(operand.shape) < 2:
        raise ValueError(
            f"`{name}` must have at least 2 axes, (*batch, length, size); got shape {show_shape(operand.shape)}"
        )


def check_dropped(name: str, dropout: Any, shape: Shape, checks: Checks) -> None:
    """Check the dropout, or None, of a tensor of this shape: keep has as many axes, each of them full or 1."""
    if dropout is None:
        return
    if not isinstance(dropout, Dropout):
        raise TypeError(f"`{name}` must be Dropout(rate, keep=array); got {describe(dropout)}")
    if dropout.keep is None:
        raise ValueError(
            f"`{name}` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own"
        )
    checks.read(f"keep` of `{name}", dropout.keep)
    kept = checks.shape(dropout.keep)

    def message() -> str:
        axes = f"the axes of what it multiplies, {show_shape(shape)}, each of them full or 1"
        return f"`keep` of `{name}` must have {axes}; got shape {show_shape(kept)}"

    if len(kept) != len(shape):
        raise ValueError(message())
    for size, whole in zip(kept, shape, strict=True):
        checks.one_or(size, whole, message)


def attention_options(
    query: Operand,
    memory: Operand,
    parameters: MultiHeadParameters,
    settings: BlockSettings,
    given: Given,
    checks: Checks,
) -> tuple[Sizes, Options]:
    """Give the sizes and settled options of an attention from query to memory; the parameters are operands."""
    sizes = multi_head_sizes(query, memory, memory, parameters, settings.num_heads, settings.num_kv_heads, checks)
    return sizes, check_options(sizes, query.dtype, given, checks)


def by_layer(dropout: tuple[Any, ...] | None, parameters: EncoderParameters | DecoderParameters) -> tuple[Any, ...]:
    """Give the dropouts, or None, of each layer of a stack whose arguments are checked."""
    return (None,) * len(parameters.layers) if dropout is None else dropout


def _check_layer(
    inputs: Operand,
    memory: Operand | None,
    given: Mapping[str, Operand],
    settings: BlockSettings,
    dropout: Any,
    checks: Checks,
    names: Names,
) -> None:
    kind = _dropouts_beside(memory)
    dropout = kind() if dropout is None else dropout
    check_tree(names.dropout, dropout, kind)
    sizes = _check_attention("attention", inputs, inputs, given, settings, checks, names)
    check_rotary(settings.rotary, sizes, checks)
    _check_weights("weights", sizes, inputs, dropout, checks, names)
    _check_residual("attention", inputs, given, dropout, checks, names)
    if memory is not None:
        sizes = _check_attention("cross_attention", inputs, memory, given, settings, checks, names)
        _check_weights("cross_weights", sizes, inputs, dropout, checks, names)
        _check_residual("cross_attention", inputs, given, dropout, checks, names)
    inner = names._replace(path=names.leaf("feed_forward"), dropout=f"hidden` of `{names.dropout}")
    check_feed_forward(inputs, given, dropout.hidden, checks, inner)
    _check_residual("feed_forward", inputs, given, dropout, checks, names)


def _check_attention(
    part: str,
    inputs: Operand,
    memory: Operand,
    given: Mapping[str, Operand],
    settings: BlockSettings,
    checks: Checks,
    names: Names,
) -> Sizes:
    """Check the parameters of an attention whose output is added to its inputs."""
    path = names.leaf(part)
    parameters = MultiHeadParameters(*(given.get(f"{path}.{field}") for field in MultiHeadParameters._fields))
    heads = settings.num_heads, settings.num_kv_heads
    sizes = at_place(
        f"{path}` of `{names.tree}",
        checks,
        lambda: multi_head_sizes(inputs, memory, memory, parameters, *heads, checks),
    )
    wanted = (("Hq·Dv", None), ("E", inputs.shape[-1]))
    check_leaf_shape(f"{path}.output_weight", parameters.output_weight.shape, wanted, checks, names.tree)
    return sizes


def _check_weights(name: str, sizes: Sizes, inputs: Operand, dropout: Any, checks: Checks, names: Names) -> None:
    """Check the dropout of an attention's weights."""
    given = Given(dropout=getattr(dropout, name))
    at_place(f"{name}` of `{names.dropout}", checks, lambda: check_options(sizes, inputs.dtype, given, checks))


def _check_residual(
    part: str, inputs: Operand, given: Mapping[str, Operand], dropout: Any, checks: Checks, names: Names
) -> None:
    """Check the normalisation and the dropout of what is added to the residual."""
    check_layer_norm(inputs, given, checks, names._replace(path=names.leaf(f"{part}_norm")))
    check_dropped(f"{part}` of `{names.dropout}", getattr(dropout, part), inputs.shape, checks)


def _each_layer(name: str, dropout: Any, num_layers: int, kind: Any) -> tuple[Any, ...]:
    """Give the dropouts, or None, of each layer of a stack."""
    if dropout is None:
        return (None,) * num_layers
    if type(dropout) is not tuple:
        wanted = f"a tuple with one {kind.__name__}(weights, …) or None for each layer"
        raise TypeError(f"`{name}` must be {wanted}; got {describe(dropout)}")
    if len(dropout) != num_layers:
        raise ValueError(f"`{name}` must have one element for each of the {num_layers} layers; got {len(dropout)}")
    return dropout


def _dropouts_beside(memory: Operand | None) -> Any:
    return EncoderLayerDropout if memory is None else DecoderLayerDropout


def at_place(place: str, checks: Checks, check: Callable[[], Result]) -> Result:
    """Make a check, and say in its message what it was made for."""
    first = len(checks.pending)
    try:
        result = check()
    except (TypeError, ValueError) as error:
        raise type(error)(f"in `{place}`: {error}") from None
    later = [pending._replace(message=f"in `{place}`: {pending.message}") for pending in checks.pending[first:]]
    checks.pending[first:] = later
    return result


def _pair_sizes(inputs: Operand, memory: Operand, settings: BlockSettings) -> Sizes:
    """Give the sizes that masks and biases are checked against; those of a head play no part in it."""
    *batch, length, _ = inputs.shape
    heads = settings.num_heads, settings.num_kv_heads
    return Sizes(tuple(batch), *heads, length, memory.shape[-2], 1, 1, len(inputs.shape) + 1)

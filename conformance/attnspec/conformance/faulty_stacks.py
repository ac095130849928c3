"""Faults of encoders, decoder layers and decoders."""

# mypy: disable-error-code="no-any-return"
# NumPy's stubs say Any for arithmetic on arrays whose dtype is open, and here every dtype is.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from attnspec.contract.layer_parameters import (
    DecoderLayerParameters,
    DecoderParameters,
    EncoderParameters,
    LayerNormParameters,
)
from attnspec.contract.masks import as_mask

from .layer_blocks import decoder, decoder_layer, encoder
from .layer_steps import Residual, Steps
from .planted import ISSUES, Planting

Array: TypeAlias = np.ndarray[Any, Any]
Part: TypeAlias = Callable[[Array], Array]

planting = Planting()
planted = planting.step


# Encoders.

_PRE, _POST = 'norm="pre"', 'norm="post"'
_STACK = "encoder"
_LAYERS = "more than one layer"


@planting.body(_STACK, "S31", "a last normalisation", ISSUES + "facebookresearch/xformers/issues/665")
def last_norm_missing(steps: Steps, inputs: Array, parameters: EncoderParameters, **options: Any) -> Array:
    """Forget the last normalisation."""
    return encoder(steps, inputs, parameters._replace(norm=None), **options)


@planting.body(_STACK, "S31", "a last normalisation, " + _POST, ISSUES + "pytorch/pytorch/issues/24930")
def last_norm_of_pre_alone(
    steps: Steps, inputs: Array, parameters: EncoderParameters, *, norm: str = "post", **options: Any
) -> Array:
    """Apply the last normalisation only to layers that normalise first."""
    parameters = parameters if norm == "pre" else parameters._replace(norm=None)
    return encoder(steps, inputs, parameters, norm=norm, **options)


@planting.body(_STACK, "S31", _LAYERS, ISSUES + "linkedin/Liger-Kernel/pull/269")
def layers_shared(steps: Steps, inputs: Array, parameters: EncoderParameters, **options: Any) -> Array:
    """Apply the first layer every time."""
    layers = parameters.layers[:1] * len(parameters.layers)
    return encoder(steps, inputs, parameters._replace(layers=layers), **options)


@planting.body(_STACK, "S31", _LAYERS, "layers that are sorted by name, or popped from the end")
def layers_reversed(steps: Steps, inputs: Array, parameters: EncoderParameters, **options: Any) -> Array:
    """Apply the last layer first."""
    return encoder(steps, inputs, parameters._replace(layers=parameters.layers[::-1]), **options)


@planting.body(_STACK, "S31", "a mask, " + _LAYERS, "the mask is handed to the first layer alone")
def mask_of_first_layer(
    steps: Steps,
    inputs: Array,
    parameters: EncoderParameters,
    *,
    mask: Any = None,
    dropout: Any = None,
    **options: Any,
) -> Array:
    """Forget the mask after the first layer."""
    first, rest = parameters.layers[:1], parameters.layers[1:]
    own, others = (None, None) if dropout is None else (dropout[:1], dropout[1:])
    x = encoder(steps, inputs, EncoderParameters(first), mask=mask, dropout=own, **options)
    return encoder(steps, x, parameters._replace(layers=rest), dropout=others, **options)


# Decoder layers.

_DECODER = "decoder_layer"


@planting.body(_DECODER, "S32", "always", ISSUES + "keitakurita/Practical_NLP_in_PyTorch/issues/1")
def target_for_memory(
    steps: Steps,
    inputs: Array,
    memory: Array,
    parameters: DecoderLayerParameters,
    *,
    memory_mask: Any = None,
    dropout: Any = None,
    **options: Any,
) -> Array:
    """Attend to the target in both attentions."""
    del memory, memory_mask
    dropout = None if dropout is None else dropout._replace(cross_weights=None)  # made for other keys
    return decoder_layer(steps, inputs, inputs, parameters, dropout=dropout, **options)


@planting.body(_DECODER, "S32", "a memory mask", ISSUES + "huggingface/transformers/pull/47946")
def memory_mask_ignored(steps: Steps, *arguments: Any, memory_mask: Any = None, **options: Any) -> Array:
    """Accept a memory mask and forget it."""
    del memory_mask
    return decoder_layer(steps, *arguments, **options)


@planting.body(_DECODER, "S32", "a mask", "the padding of the memory is handed to the wrong attention")
def mask_of_memory_alone(steps: Steps, *arguments: Any, mask: Any = None, **options: Any) -> Array:
    """Forget the mask of the self-attention: later positions of the target are seen."""
    del mask
    return decoder_layer(steps, *arguments, **options)


@planting.body(_DECODER, "S32", "a mask", "j ≤ i + 1 for j ≤ i")
def mask_moved(steps: Steps, inputs: Array, *arguments: Any, mask: Any = None, **options: Any) -> Array:
    """Show each position the next one too."""
    moved = None if mask is None else as_mask(mask) | as_mask(np.eye(inputs.shape[-2], k=1, dtype=bool))
    return decoder_layer(steps, inputs, *arguments, mask=moved, **options)


@planting.body(_DECODER, "S32", "different normalisations", ISSUES + "lucidrains/mmdit/issues/4")
def norms_swapped(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderLayerParameters, **options: Any
) -> Array:
    """Exchange the normalisations of the two attentions."""
    own, across = parameters.attention_norm, parameters.cross_attention_norm
    swapped = parameters._replace(attention_norm=across, cross_attention_norm=own)
    return decoder_layer(steps, inputs, memory, swapped, **options)


@planting.body(_DECODER, "S32", "always", "two attentions of the same class")
def attentions_swapped(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderLayerParameters, **options: Any
) -> Array:
    """Exchange the parameters of the two attentions."""
    own, across = parameters.attention, parameters.cross_attention
    return decoder_layer(steps, inputs, memory, parameters._replace(attention=across, cross_attention=own), **options)


@planting.body(_DECODER, "S32", _PRE, ISSUES + "facebookresearch/xformers/pull/233")
def memory_normalised(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderLayerParameters, **options: Any
) -> Array:
    """Normalise the memory as the queries are."""
    if options.get("norm") == "pre":
        memory = steps.layer_norm(memory, parameters.cross_attention_norm, options.get("epsilon", 1e-5))
    return decoder_layer(steps, inputs, memory, parameters, **options)


@planting.body(_DECODER, "S32", "always", ISSUES + "georgepar/slp/pull/26")
def cross_residual_of_inputs(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderLayerParameters, **options: Any
) -> Array:
    """Add the layer's inputs to the attention over the memory, and not what the first attention made of them."""

    def residual(x: Array, part: Part, norm: LayerNormParameters, dropout: Any, around: Residual) -> Array:
        source = inputs if norm is parameters.cross_attention_norm else x
        return around.after(source + around.drop(part(around.before(x, norm)), dropout), norm)

    return decoder_layer(steps._replace(residual=residual), inputs, memory, parameters, **options)


# Decoders.

_WRITER = "decoder"


@planting.body(_WRITER, "S32", "a last normalisation", ISSUES + "facebookresearch/xformers/issues/665")
def decoder_norm_missing(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderParameters, **options: Any
) -> Array:
    """Forget the last normalisation."""
    return decoder(steps, inputs, memory, parameters._replace(norm=None), **options)


@planting.body(_WRITER, "S32", _LAYERS, ISSUES + "espnet/espnet/issues/1278")
def decoder_layers_shared(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderParameters, **options: Any
) -> Array:
    """Apply the first layer every time."""
    layers = parameters.layers[:1] * len(parameters.layers)
    return decoder(steps, inputs, memory, parameters._replace(layers=layers), **options)


@planting.body(_WRITER, "S32", _LAYERS, "a memory for each layer of the encoder, of which the last is meant")
def memory_normalised_by_decoder(
    steps: Steps, inputs: Array, memory: Array, parameters: DecoderParameters, **options: Any
) -> Array:
    """Normalise the memory by the decoder's last normalisation."""
    if parameters.norm is not None:
        memory = steps.layer_norm(memory, parameters.norm, options.get("epsilon", 1e-5))
    return decoder(steps, inputs, memory, parameters, **options)


@planting.body(_WRITER, "S32", "a memory mask, " + _LAYERS, "the mask is handed to the first layer alone")
def memory_mask_of_first_layer(
    steps: Steps,
    inputs: Array,
    memory: Array,
    parameters: DecoderParameters,
    *,
    memory_mask: Any = None,
    dropout: Any = None,
    **options: Any,
) -> Array:
    """Forget the memory's mask after the first layer."""
    first, rest = DecoderParameters(parameters.layers[:1]), parameters._replace(layers=parameters.layers[1:])
    own, others = (None, None) if dropout is None else (dropout[:1], dropout[1:])
    x = decoder(steps, inputs, memory, first, memory_mask=memory_mask, dropout=own, **options)
    return decoder(steps, x, memory, rest, dropout=others, **options)

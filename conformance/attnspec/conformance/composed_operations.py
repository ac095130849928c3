"""The operations beside the core: similarities, gates, blocks, models and caches, as the suite sees them.

All are called in one way: tensors and trees of tensors first, options by keyword. A vector holds the leaves of a tree
under flat names: `parameters.layers.0.attention.query_weight`, `state.memory`, `keep.0.weights`. The exact results are
the reference's, and so are the bounds: the reference in Monte-Carlo arithmetic (`monte_carlo`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnspec import reference
from attnspec.contract import Dropout, MultiHeadParameters
from attnspec.contract import layer_parameters as parameters_of
from attnspec.contract.layer_results import (
    CellState,
    DecoderLayerDropout,
    EncoderLayerDropout,
    KeyValueCache,
    TextEncoderDropout,
    TransformerDropout,
)
from attnspec.contract.operands import FLOATING
from attnspec.contract.parameter_checks import build_tree
from attnspec.contract.states import leaves

from .monte_carlo import monte_carlo_bounds
from .operation import Array, Evaluation, Operation, Tensors, range_of, results_of
from .profiles import Profile


@dataclass(frozen=True)
class Composed(Operation):
    """An operation whose arguments may be trees."""

    trees: Mapping[str, Any] = field(default_factory=dict)
    """The class of each positional argument that is a tree."""
    arguments: tuple[str, ...] = ()
    """The positional arguments, in order."""
    dropouts: Any = None
    """The class of tree that `dropout` is, or `tuple[class, ...]`; None: one `Dropout`."""
    cotangents: tuple[str, ...] = ("output_cotangent",)
    """The cotangents as the reference's gradient takes them: the first by position, trees of others by keyword."""

    def call(self, module: Any, tensors: Tensors, options: Mapping[str, Any]) -> Any:
        """Call this operation of a module."""
        keywords = {name: tensors[name] for name in self.optional if name in tensors}
        return getattr(module, self.name)(*self.positional(tensors), **keywords, **options)

    def positional(self, tensors: Tensors) -> list[Any]:
        """Put the positional arguments together."""
        return [
            build_tree(self.trees[name], under(tensors, name)) if name in self.trees else tensors[name]
            for name in self.arguments
        ]

    def has_gradient(self, name: str, dtype: str) -> bool:
        """Say whether a tensor of a backward vector has a gradient: floating arguments, and bias and sinks."""
        root = "" if name.endswith("_cotangent") else name.partition(".")[0]
        return dtype in FLOATING and (root in self.arguments or name in ("bias", "sinks"))

    def dropout_of(self, rate: float, tensors: Tensors) -> Any:
        """Build the `dropout` argument from a rate and the keep arrays among the tensors."""
        kept = {name: Dropout(rate, keep) for name, keep in under(tensors, "keep").items()}
        if self.dropouts is None:
            return kept[""]
        return build_tree(self.dropouts, kept)

    def gradients(self, tensors: Tensors, options: Mapping[str, Any], cotangents: Tensors) -> dict[str, Array]:
        """Return the reference's gradients by the names of their tensors."""
        keywords = {name: tensors[name] for name in self.optional if name in tensors}
        given: list[Any] = [cotangents[self.results[0]]]
        if len(self.cotangents) > 1:
            keywords[self.cotangents[1]] = build_tree(CellState, under(cotangents, "state"))
        function = getattr(reference, f"{self.name}_vjp")
        found = leaves(function(*self.positional(tensors), *given, **keywords, **options))
        return {name: gradient for name, gradient in found.items() if isinstance(gradient, np.ndarray)}


def under(tensors: Tensors, root: str) -> dict[str, Any]:
    """Return the tensors whose names begin with a root, without it; the root itself is the empty name."""
    return {
        name[len(root) + 1 :]: tensor for name, tensor in tensors.items() if name == root or name.startswith(f"{root}.")
    }


def evaluate_by_monte_carlo(
    operation: Operation, tensors: Tensors, options: Mapping[str, Any], profile: Profile
) -> Evaluation:
    """Return the reference's results and the bounds of Monte-Carlo arithmetic."""

    def function(given: Mapping[str, Array]) -> Mapping[str, Array]:
        results = results_of(operation.call(reference, given, options))
        return {name: results[name] for name in operation.results}

    return _evaluated(*monte_carlo_bounds(function, tensors, profile))


def evaluate_backward_by_monte_carlo(
    gradients: Callable[[Tensors, Mapping[str, Any], Tensors], Mapping[str, Array]],
    tensors: Tensors,
    options: Mapping[str, Any],
    cotangents: Tensors,
    profile: Profile,
) -> Evaluation:
    """Return gradients, a function of (tensors, options, cotangents), and the bounds of Monte-Carlo arithmetic."""

    def function(given: Mapping[str, Array]) -> Mapping[str, Array]:
        weights = {name: given[f"cotangent of {name}"] for name in cotangents}
        return gradients(given, options, weights)

    named = {f"cotangent of {name}": cotangent for name, cotangent in cotangents.items()}
    return _evaluated(*monte_carlo_bounds(function, {**tensors, **named}, profile))


def _evaluated(results: dict[str, Array], bounds: dict[str, Array]) -> Evaluation:
    return Evaluation(results, bounds, {name: range_of(result) for name, result in results.items()})


def _composed(
    name: str, *arguments: str, optional: tuple[str, ...] = (), numbers: tuple[str, ...] = (), **others: Any
) -> Composed:
    trees = others.pop("trees", {})
    tensors = tuple(argument for argument in arguments if argument not in trees)

    def evaluate(tensors: Tensors, options: Mapping[str, Any], profile: Profile) -> Evaluation:
        return evaluate_by_monte_carlo(operation, tensors, options, profile)

    operation = Composed(
        name,
        tensors,
        optional,
        numbers,
        evaluate,
        caller=Composed.call,
        is_attention=False,
        arguments=arguments,
        trees=trees,
        **others,
    )
    return operation


_CORE = ("query", "key", "value")
_BLOCK = ("num_heads", "num_kv_heads", "norm", "activation", "epsilon")


def _parameters(cls: Any) -> dict[str, Any]:
    return {"trees": {"parameters": cls}}


COMPOSED: tuple[Composed, ...] = (
    _composed("hard_attention", *_CORE, optional=("noise",), numbers=("top_k",), required=("top_k",)),
    _composed("additive_attention", *_CORE, "parameters", **_parameters(parameters_of.AdditiveParameters)),
    _composed("bilinear_attention", *_CORE, "weight"),
    _composed("cosine_attention", *_CORE),
    _composed("attention_gate", "inputs", "parameters", **_parameters(parameters_of.LinearParameters)),
    _composed("gated_input", "inputs", "parameters", **_parameters(parameters_of.LinearParameters)),
    _composed("gated_attention", "inputs", "parameters", **_parameters(parameters_of.GatedAttentionParameters)),
    _composed(
        "gated_attention_cell",
        "inputs",
        "state",
        "parameters",
        optional=("valid",),
        trees={"state": CellState, "parameters": parameters_of.GatedAttentionCellParameters},
        results=("outputs", "state.memory", "state.output"),
        cotangents=("outputs_cotangent", "state_cotangent"),
    ),
    _composed(
        "layer_norm",
        "inputs",
        "parameters",
        numbers=("epsilon",),
        **_parameters(parameters_of.LayerNormParameters),
    ),
    _composed(
        "feed_forward",
        "inputs",
        "parameters",
        numbers=("activation",),
        **_parameters(parameters_of.FeedForwardParameters),
    ),
    _composed(
        "encoder_layer",
        "inputs",
        "parameters",
        numbers=_BLOCK,
        required=("num_heads",),
        dropouts=EncoderLayerDropout,
        **_parameters(parameters_of.EncoderLayerParameters),
    ),
    _composed(
        "encoder",
        "inputs",
        "parameters",
        numbers=_BLOCK,
        required=("num_heads",),
        dropouts=tuple[EncoderLayerDropout, ...],
        **_parameters(parameters_of.EncoderParameters),
    ),
    _composed(
        "decoder_layer",
        "inputs",
        "memory",
        "parameters",
        numbers=_BLOCK,
        required=("num_heads",),
        dropouts=DecoderLayerDropout,
        **_parameters(parameters_of.DecoderLayerParameters),
    ),
    _composed(
        "decoder",
        "inputs",
        "memory",
        "parameters",
        numbers=_BLOCK,
        required=("num_heads",),
        dropouts=tuple[DecoderLayerDropout, ...],
        **_parameters(parameters_of.DecoderParameters),
    ),
    _composed("embedding", "inputs", "parameters", **_parameters(parameters_of.LinearParameters)),
    _composed("add_sinusoidal_positions", "inputs", numbers=("offset", "base")),
    _composed("add_learned_positions", "inputs", "table", numbers=("offset",)),
    _composed("mean_pooling", "inputs", optional=("valid",)),
    _composed(
        "text_encoder",
        "inputs",
        "parameters",
        optional=("valid",),
        numbers=(*_BLOCK, "positions"),
        required=("num_heads",),
        dropouts=TextEncoderDropout,
        **_parameters(parameters_of.TextEncoderParameters),
    ),
    _composed(
        "sequence_classifier",
        "inputs",
        "parameters",
        optional=("valid",),
        numbers=(*_BLOCK, "positions"),
        required=("num_heads",),
        dropouts=TextEncoderDropout,
        **_parameters(parameters_of.SequenceClassifierParameters),
    ),
    _composed(
        "transformer",
        "source",
        "target",
        "parameters",
        optional=("source_valid",),
        numbers=(*_BLOCK, "positions"),
        required=("num_heads",),
        dropouts=TransformerDropout,
        **_parameters(parameters_of.TransformerParameters),
    ),
    _composed(
        "cached_multi_head_attention",
        "inputs",
        "parameters",
        "cache",
        numbers=("num_heads", "num_kv_heads"),
        required=("num_heads",),
        trees={"parameters": MultiHeadParameters, "cache": KeyValueCache},
        results=("output", "cache.key", "cache.value"),
    ),
)
"""Every operation beside the core."""

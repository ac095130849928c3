"""The zoo in one view: the faults and the correct variants of attention and of every layer, run alike on any call.

`faults` and `layer_faults` hold what is wrong, `variants` and `layer_variants` what is right and rounds differently.
Here all of them are implementations of operations, and this says how each is called and how far off it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .admission import decides, evaluation_of, largest_ratio
from .calls import DTYPES, Array, Call
from .cases import Case, shipped_cases
from .faults import FAULTS
from .implementations import Steps
from .layer_faults import LAYER_FAULTS
from .layer_implementations import BODIES
from .layer_variants import layer_variants
from .operation import Evaluation, results_of
from .operations import OPERATIONS
from .profiles import PROFILES, Profile, default_profile
from .targets import CallableTarget
from .variants import variants

ATTENTIONS = frozenset({"dot_product_attention", "attention_with_logsumexp"})
"""The operations that a plain callable computes: attention itself."""
ROBUST = 4.0
"""A fault is caught robustly by an error of so many times the bound."""


class ZooFault(NamedTuple):
    """A planted fault, of attention or of a layer."""

    name: str
    operations: frozenset[str]
    """Those that it is planted into."""
    function: Callable[..., Any]
    clause: str
    visible_when: str
    seen_in: str
    """A link to where it really happened, or a word on how it arises."""
    steps: Steps | None
    """What a faulty attention is built of; None for a layer."""

    @property
    def family(self) -> str:
        """`attention`, or the layer's operation."""
        return "attention" if self.operations == ATTENTIONS else next(iter(self.operations))


class ZooVariant(NamedTuple):
    """A correct implementation of attention, or of all layers."""

    name: str
    functions: Mapping[str, Callable[..., Any]]
    """By operation."""
    profiles: Mapping[str, str]
    """The arithmetic that it declares, by dtype; it is held to these dtypes alone."""


@functools.cache
def zoo_faults() -> tuple[ZooFault, ...]:
    """Return every planted fault: those of attention first, then those of the layers."""
    attention = (
        ZooFault(each.name, ATTENTIONS, each.attention, each.clause, each.visible_when, each.seen_in, each.steps)
        for each in FAULTS
    )
    layers = (
        ZooFault(
            each.name,
            frozenset({each.operation}),
            each.implementation,
            each.clause,
            each.visible_when,
            each.seen_in,
            None,
        )
        for each in LAYER_FAULTS
    )
    return (*attention, *layers)


@functools.cache
def zoo_variants() -> tuple[ZooVariant, ...]:
    """Return every correct variant: those of attention first, then those of the layers."""

    def declared(profiles: Mapping[str, str | None]) -> dict[str, str]:
        return {dtype: name or default_profile(dtype).name for dtype, name in profiles.items()}

    attention = (
        ZooVariant(each.name, dict.fromkeys(ATTENTIONS, each.attention), declared(each.profiles)) for each in variants()
    )
    layers = (
        ZooVariant(
            f"layers/{each.name}", {name: getattr(each.operations, name) for name in BODIES}, declared(each.profiles)
        )
        for each in layer_variants()
    )
    return (*attention, *layers)


def run_function(function: Callable[..., Any], call: Call) -> dict[str, Array]:
    """Call an implementation of a call's operation with the call's tensors; return its results by name."""
    if call.operation in ATTENTIONS:
        output, level = function(*(call.tensors[name] for name in _QKV), **_keywords(call))
        return {"output": output, "logsumexp": level} if "logsumexp" in call.results else {"output": output}
    module = SimpleNamespace(**{call.operation: function})
    returned = OPERATIONS[call.operation].call(module, dict(call.tensors), call.call_options())
    return {name: np.asarray(result) for name, result in results_of(returned).items()}


_QKV = ("query", "key", "value")


@functools.lru_cache(maxsize=64)
def _keywords(call: Call) -> dict[str, Any]:
    """Say a call's options by the keywords that an attention of the zoo takes: the same for all of them."""
    found: dict[str, Any] = {}

    def attention(*tensors: Array, **keywords: Any) -> tuple[Array, Array]:
        found.update(keywords)
        return tensors[0], tensors[1]

    CallableTarget("an attention", attention).run(call, dict(call.tensors))
    return found


@functools.lru_cache(maxsize=64)
def in_dtype(call: Call, dtype: str) -> Call:
    """Return a call with its floating tensors in another dtype."""
    floating = set(DTYPES.values())
    tensors = {
        name: array.astype(DTYPES[dtype]) if array.dtype in floating else array for name, array in call.tensors.items()
    }
    return replace(call, dtype=dtype, tensors=tensors)


def margin(results: Mapping[str, Array], case: Case, evaluation: Evaluation) -> float:
    """Return the largest error over its bound of all results; inf for a result that is missing or has another shape."""
    return max(
        largest_ratio(results[name], expected, evaluation.bounds[name])
        if name in results and results[name].shape == expected.shape
        else np.inf
        for name, expected in case.expected.items()
    )


@functools.cache
def forward_cases(operation: str | None = None, dtype: str | None = None) -> tuple[Case, ...]:
    """Return the shipped forward vectors of an operation, a dtype, or both."""
    return tuple(
        case
        for case in shipped_cases()
        if case.direction == "forward" and operation in (None, case.operation) and dtype in (None, case.dtype)
    )


def margins(fault: ZooFault, dtype: str, profile: Profile | None = None) -> dict[str, float]:
    """Return, for each vector of a fault's operations in a dtype, the fault's largest error over the bound.

    Args:
        fault: that is run.
        dtype: of the vectors; those that a profile's bounds are too wide for are left out, as a judge leaves them.
        profile: of the bounds; None: the default of the dtype.
    """
    profile = profile or default_profile(dtype)
    return _ratios(dict.fromkeys(sorted(fault.operations, reverse=True), fault.function), dtype, profile)


def ratios(variant: ZooVariant, dtype: str) -> dict[str, float]:
    """Return, for each vector that a variant can compute in a dtype, its largest error over its profile's bound."""
    return _ratios(variant.functions, dtype, PROFILES[variant.profiles[dtype]])


def _ratios(functions: Mapping[str, Callable[..., Any]], dtype: str, profile: Profile) -> dict[str, float]:
    found = {}
    for operation, function in functions.items():
        for case in forward_cases(operation, dtype):
            evaluation = evaluation_of(case.id, profile)
            if _decides(case.id, profile):
                found[case.id] = margin(run_function(function, case), case, evaluation)
    return found


@functools.cache
def _decides(identifier: str, profile: Profile) -> bool:
    return decides(evaluation_of(identifier, profile))

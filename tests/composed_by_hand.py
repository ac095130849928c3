"""What a vector of a composed operation must give: by the layers that faults are planted in, and by scalar loops.

`attnspec.conformance.layer_implementations` shares no line with the reference that froze the vectors. Here it works on
float64 numbers, sees of a mask what `pairs_by_hand` says of each pair, and has a softmax and an error function that
take complex numbers too. So slopes come from the complex step: for an analytic f, the imaginary part of f(x + ihd) over
h is the derivative along d up to h², and with h = 1e-30 nothing cancels and nothing is left of h².

Similarities and gates are besides computed by the scalar loops of `similarity_cases` and `oracle_gates`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle_gates
import similarity_cases
from numpy.typing import NDArray
from pairs_by_hand import Pair, sees

from attnspec.conformance import layer_attentions, layer_steps
from attnspec.conformance.cases import MASKS, Case
from attnspec.conformance.layer_implementations import BODIES
from attnspec.conformance.operation import results_of
from attnspec.conformance.operations import OPERATIONS

Array = NDArray[Any]
Tensors = Mapping[str, Array]

STEP = 1e-30


def wide(case: Case) -> dict[str, Array]:
    """Read all numbers of a case as float64; ids, booleans and lengths stay what they are."""
    return {
        name: array if array.dtype.kind in "bi" else array.astype(np.float64) for name, array in case.tensors.items()
    }


def by_layers(case: Case, tensors: Tensors | None = None) -> dict[str, Array]:
    """Compute a case's results by name, with its own tensors or with these, some of which may be complex."""
    tensors = wide(case) if tensors is None else tensors
    results = _call(case, tensors, functools.partial(BODIES[case.operation], STEPS))
    return {name: results[name] for name in OPERATIONS[case.operation].results}


def slope(case: Case, name: str, direction: Array) -> float:
    """Compute the derivative of Σ cotangent · result as a tensor moves along a direction, by the complex step."""
    tensors = wide(case)
    tensors[name] = tensors[name] + 1j * STEP * direction
    body = functools.partial(BODIES[case.operation], STEPS)
    if case.operation == "hard_attention" and name != "value":
        body = _soft_attention  # the gradient of the choice is defined to be that of soft attention
    results = _call(case, tensors, body)
    terms = [cotangent * results[result].imag / STEP for result, cotangent in case.cotangents(tensors).items()]
    return math.fsum(term for array in terms for term in array.ravel().tolist())


def _call(case: Case, tensors: Tensors, body: Any) -> dict[str, Any]:
    options = case.call_options(tensors)
    for name in MASKS:
        if name in options:
            options[name] = _visible(case, name)
    if case.operation == "transformer":
        options.setdefault("target_mask", np.tri(case.tensors["target"].shape[1], dtype=bool))
    with np.errstate(invalid="ignore"):  # NaN and infinities in what is not read
        return results_of(OPERATIONS[case.operation].call(SimpleNamespace(**{case.operation: body}), tensors, options))


def _visible(case: Case, name: str) -> Array:
    """Say for all pairs (B, 1, queries, keys) what a mask in JSON says."""
    rows = case.tensors["query" if "query" in case.tensors else "inputs"]
    columns = case.tensors["memory"] if name == "memory_mask" else case.tensors.get("key", rows)
    shape = rows.shape[0], 1, rows.shape[-2], columns.shape[-2]
    mask = case.options[name]
    seen = [sees(mask, Pair((b,), (h,), i, j, shape[-2], shape[-1])) for b, h, i, j in np.ndindex(*shape)]
    return np.array(seen).reshape(shape)


def _soft_attention(query: Array, key: Array, value: Array, *, top_k: int, noise: Any = None, **options: Any) -> Array:
    del top_k, noise
    return layer_attentions.attend(STEPS, query, key, value, layer_attentions.Options(**options))


# Steps for complex numbers.


def _softmax(logits: Array, sink: Array | None = None) -> Array:
    """Normalise each row; the shift is a real number, on which the result does not depend."""
    if sink is not None:
        column = np.broadcast_to(sink, (*logits.shape[:-1], 1))
        return _softmax(np.concatenate([logits, column], axis=-1))[..., :-1]
    peak = logits.real.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(logits - np.where(peak == -np.inf, 0.0, peak))
    total = powers.sum(axis=-1, keepdims=True)
    return np.where(peak == -np.inf, 0.0, powers / np.where(total == 0.0, 1.0, total))


def _hard_weights(logits: Array, chosen: Array) -> Array:
    return _softmax(np.where(chosen, logits, -np.inf))


def _distribution(scores: Array, valid: Array) -> Array:
    return _softmax(np.where(valid[..., None], scores, -np.inf).swapaxes(-1, -2)).swapaxes(-1, -2)


def _activate(array: Array, activation: str) -> Array:
    if activation != "gelu" or not np.iscomplexobj(array):
        return layer_steps.activate(array, activation)
    # erf(x + ih) = erf(x) + ih erf'(x) up to h²
    slopes = 2.0 / math.sqrt(math.pi) * np.exp(-(array.real**2) / 2.0) * array.imag / math.sqrt(2.0)
    plain = np.vectorize(math.erf)(array.real / math.sqrt(2.0))
    return array * (1.0 + plain + 1j * slopes) / 2.0


STEPS = layer_steps.Steps(
    softmax=_softmax, hard_weights=_hard_weights, cell_distribution=_distribution, activate=_activate
)


# Scalar loops.


def by_loops(case: Case) -> dict[str, Array]:
    """Compute a case's results one number at a time, where `LOOPS` has its operation."""
    tensors = wide(case)
    found = LOOPS[case.operation](case, tensors)
    return found if isinstance(found, dict) else {"output": found}


def _similarity(case: Case, tensors: Tensors) -> Array:
    """Compute a vector as the tests of similarities compute a call."""
    arrays = _by_own_names(
        {name: array for name, array in tensors.items() if name not in ("noise", "keep", "output_cotangent")}
    )
    options = {name: case.options[name] for name in ("scale", "softcap", "top_k") if case.options.get(name) is not None}
    if "noise" in tensors:
        options["noise"] = tensors["noise"]
    pairs = (*tensors["query"].shape[:-1], tensors["key"].shape[-2])
    visible = np.broadcast_to(_visible(case, "mask"), pairs)
    return similarity_cases.by_loops(similarity_cases.Case(case.operation, arrays, options, visible))


def _gate(case: Case, tensors: Tensors) -> Array:
    parameters = _by_own_names(tensors)
    function = {"attention_gate": oracle_gates.gate, "gated_input": oracle_gates.gated_input}[case.operation]
    weight, bias = parameters["weight"].tolist(), parameters["bias"].tolist()
    return _row_by_row(lambda row: function(row, weight, bias), tensors["inputs"])


def _gated_attention(case: Case, tensors: Tensors) -> Array:
    del case
    parameters = {name: array.tolist() for name, array in _by_own_names(tensors).items()}
    return _row_by_row(lambda row: oracle_gates.gated_attention(row, parameters), tensors["inputs"])


def _cell(case: Case, tensors: Tensors) -> dict[str, Array]:
    """Compute the elements of a batch one after the other."""
    inputs, names = tensors["inputs"], OPERATIONS[case.operation].results
    parameters = {name: array.tolist() for name, array in _by_own_names(tensors).items()}
    valid = tensors.get("valid", np.ones(inputs.shape[:-1], bool))
    found = [
        oracle_gates.cell(
            inputs[b].tolist(),
            valid[b].tolist(),
            tensors["state.memory"][b].tolist(),
            tensors["state.output"][b].tolist(),
            parameters,
            tensors["keep"][b].tolist() if "keep" in tensors else None,
            case.options.get("dropout") or 0.0,
        )
        for b in range(inputs.shape[0])
    ]
    return {name: np.array([each[name] for each in found]).real for name in names}


LOOPS: dict[str, Callable[[Case, Tensors], Any]] = {
    **dict.fromkeys(similarity_cases.SIMILARITIES, _similarity),
    "attention_gate": _gate,
    "gated_input": _gate,
    "gated_attention": _gated_attention,
    "gated_attention_cell": _cell,
}
"""The operations that are computed by scalar loops too."""


def _by_own_names(tensors: Tensors) -> dict[str, Array]:
    return {name.removeprefix("parameters."): array for name, array in tensors.items()}


def _row_by_row(function: Callable[[Any], Any], inputs: Array) -> Array:
    rows = [function(row) for row in inputs.reshape(-1, inputs.shape[-1]).tolist()]
    return np.array(rows).real.reshape(*inputs.shape[:-1], -1)

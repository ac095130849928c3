"""Gradients of attention by the complex step: the oracle that closed-form gradients are tested against.

Written from the definition alone, by somebody who has not seen the closed forms, and importing nothing of them. There
is no derivative here to get wrong. For an analytic f, f(x + ih) = f(x) + ih f'(x) - h^2 f''(x)/2 - ..., so that the
imaginary part over h is f'(x) up to h^2: nothing cancels, and with h = 1e-30 what remains is the rounding of f itself.
The price is one forward pass per entry of an array, so sizes have to be small.

All functions below are analytic in their floating arguments: no conjugate, no absolute value, no branch that depends on
an imaginary part. What is not read is chosen away by boolean arrays before it is computed with, so NaN may stand there.
A NaN or an infinity that *is* read has no derivative, and gives NaN here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Complex = NDArray[Any]  # float64 or complex128
STEP = 1e-30


def complex_step(
    function: Callable[..., tuple[Complex, ...]], arrays: Mapping[str, Array], cotangents: Sequence[Array | None]
) -> dict[str, Array]:
    """The gradient of sum(cotangent * result) over the results of `function(**arrays)`, by each entry of each array.

    `function` takes the arrays by name and returns a tuple, as long as `cotangents`; None is a cotangent of zeros. What
    is not in `arrays`, such as masks, belongs into the function. A cotangent of exactly 0 keeps a result out, even NaN.
    """
    gradients: dict[str, Array] = {}
    for name, array in arrays.items():
        moved = np.array(array, dtype=np.complex128)
        gradient = np.empty(moved.shape)
        for index in np.ndindex(*moved.shape):
            start = moved[index]
            moved[index] = complex(start.real, STEP)
            results = function(**{**arrays, name: moved})
            moved[index] = start
            terms: list[float] = []
            for result, cotangent in zip(results, cotangents, strict=True):
                if cotangent is not None:
                    if result.shape != cotangent.shape:
                        raise ValueError(f"a cotangent of shape {cotangent.shape} for a result of {result.shape}")
                    matters = cotangent != 0.0
                    terms.extend((cotangent[matters] * (result.imag[matters] / STEP)).tolist())
            gradient[index] = math.fsum(terms)
        gradients[name] = gradient
    return gradients


# --- analytic forward passes -----------------------------------------------------------------------------------------


def attention(
    query: Complex,
    key: Complex,
    value: Complex,
    *,
    visible: Flags | None = None,
    bias: Complex | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Complex | None = None,
    keep: Flags | None = None,
    rate: float = 0.0,
) -> tuple[Complex, Complex]:
    """Return output (B,Hq,Tq,Dv) and logsumexp (B,Hq,Tq), real or complex. `bias` and the flags are broadcast."""
    if not 0.0 <= rate < 1.0 or (rate > 0.0 and keep is None):
        raise ValueError(f"dropout takes a rate in [0, 1) and the positions to keep, not {rate} and {keep}")
    shape = (*query.shape[:3], key.shape[2])
    group = shape[1] // key.shape[1]
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)

    seen = np.ones(shape, dtype=bool) if visible is None else np.broadcast_to(visible, shape)
    shift: Complex = np.zeros(shape)
    if bias is not None:
        shift = np.broadcast_to(bias, shape)
        seen = seen & ~np.isneginf(shift.real)

    # The products of unseen pairs are replaced by 0 before anything is done with them.
    products = np.where(seen[..., None], query[:, :, :, None, :], 0.0) * np.where(
        seen[..., None], key[:, :, None, :, :], 0.0
    )
    logits = products.sum(axis=-1) * (1.0 / math.sqrt(query.shape[3]) if scale is None else scale)
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
    logits = logits + np.where(seen, shift, 0.0)

    sink: Complex = np.full((1, shape[1], 1), -math.inf) if sinks is None else sinks[None, :, None]
    there = np.broadcast_to(~np.isneginf(sink.real), shape[:3])
    sink = np.where(there, np.where(np.isneginf(sink.real), 0.0, sink), 0.0)

    # A shift by the largest real part changes nothing but the range: the result does not depend on it.
    peak = np.where(seen, logits.real, -math.inf).max(axis=-1, initial=-math.inf)
    peak = np.maximum(peak, np.where(there, sink.real, -math.inf))
    full = seen.any(axis=-1) | there
    peak = np.where(full, peak, 0.0)
    powers = np.where(seen, np.exp(np.where(seen, logits - peak[..., None], 0.0)), 0.0)
    total = powers.sum(axis=-1) + np.where(there, np.exp(np.where(there, sink - peak, 0.0)), 0.0)
    total = np.where(full, total, 1.0)
    logsumexp = np.where(full, peak + np.log(total), -math.inf)

    used = seen if keep is None else seen & np.broadcast_to(keep, shape)
    weights = powers / total[..., None] / (1.0 - rate)
    read = np.where(used[..., None], value[:, :, None, :, :], 0.0)
    return (np.where(used, weights, 0.0)[..., None] * read).sum(axis=3), logsumexp


def project(inputs: Complex, weight: Complex, bias: Complex | None = None) -> Complex:
    """inputs @ weight + bias, position by position: a NaN in one of them stays out of all others."""
    result = (inputs[..., :, None] * weight).sum(axis=-2)
    return result if bias is None else result + bias


def self_attention(
    inputs: Complex, query_weight: Complex, key_weight: Complex, value_weight: Complex, **options: Any
) -> Complex:
    """(B,T,D) to (B,T,Dv): one head on three projections of the inputs."""
    projected = [project(inputs, weight)[:, None] for weight in (query_weight, key_weight, value_weight)]
    return attention(*projected, **options)[0][:, 0]


def key_value_attention(query: Complex, keys: Complex, values: Complex, **options: Any) -> Complex:
    """(B,Dk), (B,S,Dk), (B,S,Dv) to (B,Dv): one head, one query."""
    return attention(query[:, None, None], keys[:, None], values[:, None], **options)[0][:, 0, 0]


def multi_head_attention(
    query: Complex,
    key: Complex,
    value: Complex,
    *,
    query_weight: Complex,
    key_weight: Complex,
    value_weight: Complex,
    output_weight: Complex,
    query_bias: Complex | None = None,
    key_bias: Complex | None = None,
    value_bias: Complex | None = None,
    output_bias: Complex | None = None,
    num_heads: int,
    num_kv_heads: int | None = None,
    **options: Any,
) -> Complex:
    """(B,Tq,E), (B,Tk,Ek), (B,Tk,Ev) to (B,Tq,E_out): project, split into heads, attend, put together, project."""

    def split(columns: Complex, heads: int) -> Complex:
        return columns.reshape(*columns.shape[:2], heads, columns.shape[2] // heads).swapaxes(1, 2)

    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    output, _ = attention(
        split(project(query, query_weight, query_bias), num_heads),
        split(project(key, key_weight, key_bias), kv_heads),
        split(project(value, value_weight, value_bias), kv_heads),
        **options,
    )
    columns = output.swapaxes(1, 2).reshape(query.shape[0], query.shape[1], -1)
    return project(columns, output_weight, output_bias)


def rotary_embedding(inputs: Complex, positions: Complex, frequencies: Complex, *, pairing: str) -> Complex:
    """Turn pair c by positions * frequencies[c]: inputs (*B,H,T,D), (B,T,D) or (T,D), positions (T,) or (*B,T)."""
    angles = positions[..., None] * frequencies
    if inputs.ndim >= 4 and positions.ndim > 1:
        angles = angles[..., None, :, :]
    pairs = frequencies.shape[0]
    if pairing == "half_split":
        first, second = list(range(pairs)), list(range(pairs, 2 * pairs))
    elif pairing == "interleaved":
        first, second = list(range(0, 2 * pairs, 2)), list(range(1, 2 * pairs, 2))
    else:
        raise ValueError(f"no such pairing: {pairing}")
    result = np.array(inputs, dtype=np.complex128)
    result[..., first] = inputs[..., first] * np.cos(angles) - inputs[..., second] * np.sin(angles)
    result[..., second] = inputs[..., second] * np.cos(angles) + inputs[..., first] * np.sin(angles)
    return result


# --- gradients -------------------------------------------------------------------------------------------------------


def gradients(
    query: Array,
    key: Array,
    value: Array,
    output_cotangent: Array,
    *,
    logsumexp_cotangent: Array | None = None,
    visible: Flags | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    keep: Flags | None = None,
    rate: float = 0.0,
) -> dict[str, Array]:
    """Gradients by query, key, value, and by bias and sinks where they are given, each in the shape of its array.

    They are those of sum(output_cotangent * output) + sum(logsumexp_cotangent * logsumexp). A logsumexp of -inf is a
    constant: its cotangent contributes nothing.
    """

    def forward(**arrays: Complex) -> tuple[Complex, ...]:
        return attention(**arrays, visible=visible, scale=scale, softcap=softcap, keep=keep, rate=rate)

    arrays = {"query": query, "key": key, "value": value, **_given(bias=bias, sinks=sinks)}
    if logsumexp_cotangent is not None:
        logsumexp_cotangent = np.where(np.isneginf(forward(**arrays)[1]), 0.0, logsumexp_cotangent)
    return complex_step(forward, arrays, (output_cotangent, logsumexp_cotangent))


def self_attention_gradients(
    inputs: Array,
    query_weight: Array,
    key_weight: Array,
    value_weight: Array,
    output_cotangent: Array,
    *,
    bias: Array | None = None,
    sinks: Array | None = None,
    **options: Any,
) -> dict[str, Array]:
    """Gradients of sum(output_cotangent * output) by the inputs, the three weights, and by bias and sinks if given."""
    arrays = {
        "inputs": inputs,
        "query_weight": query_weight,
        "key_weight": key_weight,
        "value_weight": value_weight,
        **_given(bias=bias, sinks=sinks),
    }
    return complex_step(lambda **given: (self_attention(**given, **options),), arrays, (output_cotangent,))


def key_value_attention_gradients(
    query: Array,
    keys: Array,
    values: Array,
    output_cotangent: Array,
    *,
    bias: Array | None = None,
    sinks: Array | None = None,
    **options: Any,
) -> dict[str, Array]:
    """Gradients of sum(output_cotangent * output) by query, keys, values, and by bias and sinks if given."""
    arrays = {"query": query, "keys": keys, "values": values, **_given(bias=bias, sinks=sinks)}
    return complex_step(lambda **given: (key_value_attention(**given, **options),), arrays, (output_cotangent,))


def multi_head_attention_gradients(
    query: Array,
    key: Array,
    value: Array,
    parameters: Mapping[str, Array | None],
    output_cotangent: Array,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    bias: Array | None = None,
    sinks: Array | None = None,
    **options: Any,
) -> dict[str, Array]:
    """Gradients by the three inputs, every parameter that is not None, and by bias and sinks if given.

    `parameters` goes by the names query_weight ... output_bias. `bias` is the one of the core, (Tq,Tk) or (B,Hq,Tq,Tk).
    """
    arrays = {"query": query, "key": key, "value": value, **_given(**parameters, bias=bias, sinks=sinks)}
    sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    return complex_step(
        lambda **given: (multi_head_attention(**given, **sizes, **options),), arrays, (output_cotangent,)
    )


def rotary_embedding_gradients(
    inputs: Array, positions: Array, frequencies: Array, output_cotangent: Array, *, pairing: str
) -> dict[str, Array]:
    """Gradients of sum(output_cotangent * output) by the inputs, the positions and the frequencies (R/2,)."""
    arrays = {"inputs": inputs, "positions": positions, "frequencies": frequencies}
    return complex_step(lambda **given: (rotary_embedding(**given, pairing=pairing),), arrays, (output_cotangent,))


def _given(**arrays: Array | None) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if array is not None}

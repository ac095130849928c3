"""Scaled dot-product attention in 50 decimal digits: the oracle of last resort, for errors below a float64 rounding.

Written from the definition alone, by somebody who has not seen the vectorised reference, and importing nothing of it:
a shared helper, or a shared reading, would let the same mistake pass on both sides. It also takes another road than
`oracle_scalar`: mpmath has no largest exponent, so softmax is exp(x) / sum(exp(x)) as in the textbook, without the
subtraction of a maximum.

Nothing is rounded to float64 before the results are stored; a result beyond the float64 range is then stored as an
infinity or a zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Visible = Callable[[int, int, int, int], bool]
Bias = Callable[[int, int, int, int], float]
Keep = Callable[[int, int, int, int], bool]
Number = Any  # mpmath ships no types

# A context of its own: whoever changes the precision of the global `mpmath.mp` changes nothing here, or the reverse.
MP = mpmath.MPContext()
MP.dps = 50


def attention_stages(
    query: Array,
    key: Array,
    value: Array,
    *,
    visible: Visible | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Sequence[float] | None = None,
    keep: Keep | None = None,
    rate: float = 0.0,
) -> dict[str, Array]:
    """Return scores, logits, weights (B,Hq,Tq,Tk), logsumexp (B,Hq,Tq) and output (B,Hq,Tq,Dv).

    `visible(b, h, i, j)` and `bias(b, h, i, j)` are asked about query `i` of *query* head `h` and key `j`. The bias is
    asked for visible positions only.

    `sinks` has one logit per query head: it takes part in the softmax and in logsumexp, and stands for no key. `keep`,
    asked for visible positions only, and `rate` are dropout: the output is a sum over weight * keep / (1 - rate).
    The weights returned are those before dropout.
    """
    n_b, n_h, n_i, d_k = query.shape
    n_g, n_j, d_v = value.shape[1:]
    if key.shape != (n_b, n_g, n_j, d_k) or len(value) != n_b:
        raise ValueError(f"shapes do not fit: query {query.shape}, key {key.shape}, value {value.shape}")
    if n_h != 0 and (n_g == 0 or n_h % n_g != 0):
        raise ValueError(f"{n_h} query heads cannot share {n_g} key/value heads equally")

    factor = _factor(scale, d_k)
    if softcap is not None and not (math.isfinite(softcap) and softcap):
        raise ValueError(f"c * tanh(s / c) has no value for c = {softcap}")
    cap = None if softcap is None else MP.mpf(float(softcap))

    if not 0.0 <= rate < 1.0 or (rate > 0.0 and keep is None):
        raise ValueError(f"a rate of {rate} with {'no' if keep is None else 'an'} answer to what is kept")
    remaining = 1 - MP.mpf(rate)
    sink_of_head = _sinks(sinks, n_h)

    result = {
        "scores": np.empty((n_b, n_h, n_i, n_j)),
        "logits": np.empty((n_b, n_h, n_i, n_j)),
        "weights": np.empty((n_b, n_h, n_i, n_j)),
        "logsumexp": np.empty((n_b, n_h, n_i)),
        "output": np.empty((n_b, n_h, n_i, d_v)),
    }
    for b, h, i in np.ndindex(n_b, n_h, n_i):
        g = h // (n_h // n_g)
        scores: list[Number] = [_dot(query[b, h, i], key[b, g, j], factor) for j in range(n_j)]

        logits: dict[int, Number] = {}  # of the keys that take part, and of no other
        for j in range(n_j):
            if visible is None or visible(b, h, i, j):
                shift = 0.0 if bias is None else float(bias(b, h, i, j))
                if shift == math.inf:
                    raise ValueError("a bias of +inf at a visible position: the definition gives it no meaning")
                if shift != -math.inf:
                    logits[j] = _capped(scores[j], cap) + MP.mpf(shift)

        weights, logsumexp = _softmax(logits, sink_of_head[h])
        for j in range(n_j):
            result["scores"][b, h, i, j] = float(scores[j])
            result["logits"][b, h, i, j] = float(logits.get(j, MP.ninf))
            result["weights"][b, h, i, j] = float(weights.get(j, MP.zero))
        result["logsumexp"][b, h, i] = float(logsumexp)
        for d in range(d_v):
            # Only keys with a weight are read, and of these only what is kept. A row of NaN stays one: 0 * NaN.
            # No weight underflows here, so p * inf is inf and never 0 * inf.
            terms = [
                w * MP.mpf(float(value[b, g, j, d])) / remaining
                for j, w in weights.items()
                if keep is None or keep(b, h, i, j) or MP.isnan(w)
            ]
            result["output"][b, h, i, d] = float(MP.fsum(terms))
    return result


def merge_attention(
    outputs: Sequence[Array], logsumexps: Sequence[Array], *, sinks: Sequence[float] | None = None
) -> dict[str, Array]:
    """Combine partial results (B,Hq,Tq,Dv) with their logsumexps (B,Hq,Tq) into those over all keys, and the sinks.

    A slice counts as one key with its logsumexp as the logit, unless this is -inf: then it is not read.
    """
    shape = outputs[0].shape if outputs else ()
    fits = [o.shape == shape and x.shape == shape[:3] for o, x in zip(outputs, logsumexps, strict=True)]
    if len(shape) != 4 or not all(fits):
        raise ValueError(f"shapes do not fit: {[o.shape for o in outputs]} and {[x.shape for x in logsumexps]}")
    sink_of_head = _sinks(sinks, shape[1])

    result = {"output": np.empty(shape), "logsumexp": np.empty(shape[:3])}
    for b, h, i in np.ndindex(*shape[:3]):
        logits: dict[int, Number] = {}  # of the slices that saw something
        for s, partial in enumerate(logsumexps):
            if partial[b, h, i] == math.inf:
                raise ValueError("a logsumexp of +inf has no meaning")
            if partial[b, h, i] != -math.inf:
                logits[s] = MP.mpf(float(partial[b, h, i]))
        weights, logsumexp = _softmax(logits, sink_of_head[h])
        result["logsumexp"][b, h, i] = float(logsumexp)
        for d in range(shape[3]):
            terms = [w * MP.mpf(float(outputs[s][b, h, i, d])) for s, w in weights.items()]
            result["output"][b, h, i, d] = float(MP.fsum(terms))
    return result


def _sinks(sinks: Sequence[float] | None, n_h: int) -> list[Number]:
    if sinks is None:
        return [MP.ninf] * n_h
    if len(sinks) != n_h or any(float(x) == math.inf for x in sinks):
        raise ValueError(f"one sink per query head ({n_h}), none of them +inf: not {sinks}")
    return [MP.mpf(float(x)) for x in sinks]


def _factor(scale: float | None, d_k: int) -> Number:
    if scale is None:
        if d_k == 0:
            raise ValueError("a head width of 0 has no default scale 1/sqrt(0)")
        return 1 / MP.sqrt(d_k)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")
    return MP.mpf(float(scale))


def _dot(q_row: Array, k_row: Array, factor: Number) -> Number:
    total = MP.zero
    for x, y in zip(q_row.tolist(), k_row.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            return MP.nan
        total += MP.mpf(x) * MP.mpf(y)
    return factor * total


def _capped(score: Number, cap: Number | None) -> Number:
    if cap is None:
        return score
    return cap * MP.tanh(score / cap)


def _softmax(logits: dict[int, Number], sink: Number) -> tuple[dict[int, Number], Number]:
    if not logits:
        return {}, sink
    if any(MP.isnan(x) for x in (sink, *logits.values())):
        return dict.fromkeys(logits, MP.nan), MP.nan
    powers = {j: MP.exp(x) for j, x in logits.items()}
    total = MP.fsum(powers.values()) + MP.exp(sink)  # exp(-inf) is 0: no sink
    return {j: p / total for j, p in powers.items()}, MP.log(total)

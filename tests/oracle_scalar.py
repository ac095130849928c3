"""Scaled dot-product attention, one Python float at a time: the oracle that the vectorised reference is tested against.

Written from the definition alone, by somebody who has not seen the reference, and importing nothing of it: a shared
helper, or a shared reading of the definition, would let the same mistake pass on both sides. So there is no array
arithmetic here. NumPy carries the inputs in and the results out; everything between is a loop over scalars.

Every sum is a `math.fsum`, which rounds once however long the sum is. What error remains is that of single float64
operations: some 1e-16 of the size of a score before softmax, hence roughly |score| * 1e-16 of a weight after it. Where
this is not enough, and where finite inputs leave the float64 range, `oracle_mpmath` is the judge.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Visible = Callable[[int, int, int, int], bool]
Bias = Callable[[int, int, int, int], float]
Keep = Callable[[int, int, int, int], bool]


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
    batch, query_heads, query_count, width = query.shape
    _, kv_heads, key_count, value_width = value.shape
    if key.shape != (batch, kv_heads, key_count, width) or value.shape[0] != batch:
        raise ValueError(f"shapes do not fit: query {query.shape}, key {key.shape}, value {value.shape}")
    if query_heads and (kv_heads == 0 or query_heads % kv_heads):
        raise ValueError(f"{query_heads} query heads cannot share {kv_heads} key/value heads equally")
    if scale is None:
        if width == 0:
            raise ValueError("a head width of 0 has no default scale 1/sqrt(0)")
        scale = 1.0 / math.sqrt(width)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")
    if softcap is not None and (not math.isfinite(softcap) or softcap == 0.0):
        raise ValueError(f"c * tanh(s / c) has no value for c = {softcap}")
    if not 0.0 <= rate < 1.0 or (rate > 0.0 and keep is None):
        raise ValueError(f"dropout takes a rate in [0, 1) and the positions to keep, not {rate} and {keep}")
    row_sinks = _sinks(sinks, query_heads)

    # Python floats: a NumPy scalar would warn where a float is silent, and silence on NaN is part of the definition.
    q, k, v = query.tolist(), key.tolist(), value.tolist()
    scale = float(scale)

    scores = np.zeros((batch, query_heads, query_count, key_count))
    # What is not written below keeps the value of a masked position and of a row without a visible key.
    logits = np.full((batch, query_heads, query_count, key_count), -math.inf)
    weights = np.zeros((batch, query_heads, query_count, key_count))
    logsumexp = np.full((batch, query_heads, query_count), -math.inf)
    output = np.zeros((batch, query_heads, query_count, value_width))

    for b in range(batch):
        for h in range(query_heads):
            g = h // (query_heads // kv_heads)
            for i in range(query_count):
                seen: list[int] = []
                for j in range(key_count):
                    score = _score(q[b][h][i], k[b][g][j], scale)
                    scores[b, h, i, j] = score
                    if visible is not None and not visible(b, h, i, j):
                        continue
                    addend = 0.0 if bias is None else float(bias(b, h, i, j))
                    if addend == -math.inf:
                        continue  # before the addition: NaN + -inf would be NaN, and this position is masked
                    logits[b, h, i, j] = _logit(score, addend, softcap)
                    seen.append(j)
                row = [float(logits[b, h, i, j]) for j in seen]
                row_weights, logsumexp[b, h, i] = _softmax(row, row_sinks[h])
                kept: list[tuple[int, float]] = []
                for j, w in zip(seen, row_weights, strict=True):
                    weights[b, h, i, j] = w
                    # A weight of NaN means that all of this row are: dropout cannot make a number of them again.
                    if keep is None or keep(b, h, i, j) or math.isnan(w):
                        kept.append((j, w))
                for d in range(value_width):
                    total = _mix([w for _, w in kept], [v[b][g][j][d] for j, _ in kept])
                    output[b, h, i, d] = total / (1.0 - rate)
                    if math.isinf(output[b, h, i, d]) and math.isfinite(total):
                        raise OverflowError("a value over 1 - rate leaves the float64 range: ask oracle_mpmath")

    return {"scores": scores, "logits": logits, "weights": weights, "logsumexp": logsumexp, "output": output}


def merge_attention(
    outputs: Sequence[Array], logsumexps: Sequence[Array], *, sinks: Sequence[float] | None = None
) -> dict[str, Array]:
    """Combine partial results over slices of the keys: output (B,Hq,Tq,Dv) and logsumexp (B,Hq,Tq) of all of them.

    Each slice weighs exp(its logsumexp), as if it were one key; sinks join in once, here. A slice with logsumexp -inf
    has seen nothing for that row, so whatever stands in its output is not read.
    """
    batch, heads, count, width = outputs[0].shape if outputs else (0, 0, 0, 0)
    if not outputs or len(outputs) != len(logsumexps):
        raise ValueError(f"as many outputs as logsumexps, and at least one: not {len(outputs)} and {len(logsumexps)}")
    if any(o.shape != (batch, heads, count, width) for o in outputs):
        raise ValueError(f"outputs of different shapes: {[o.shape for o in outputs]}")
    if any(x.shape != (batch, heads, count) for x in logsumexps):
        raise ValueError(f"logsumexps of other shapes than {(batch, heads, count)}: {[x.shape for x in logsumexps]}")
    row_sinks = _sinks(sinks, heads)

    output = np.zeros((batch, heads, count, width))
    logsumexp = np.zeros((batch, heads, count))
    for b in range(batch):
        for h in range(heads):
            for i in range(count):
                row = [float(x[b, h, i]) for x in logsumexps]
                if math.inf in row:
                    raise ValueError("a logsumexp of +inf: no row of finite logits has it")
                seen = [s for s, x in enumerate(row) if x != -math.inf]
                row_weights, logsumexp[b, h, i] = _softmax([row[s] for s in seen], row_sinks[h])
                for d in range(width):
                    output[b, h, i, d] = _mix(row_weights, [float(outputs[s][b, h, i, d]) for s in seen])
    return {"output": output, "logsumexp": logsumexp}


def _sinks(sinks: Sequence[float] | None, heads: int) -> list[float]:
    if sinks is None:
        return [-math.inf] * heads
    if len(sinks) != heads:
        raise ValueError(f"{len(sinks)} sinks for {heads} query heads")
    numbers = [float(x) for x in sinks]
    if math.inf in numbers:
        raise ValueError("a sink of +inf: the definition gives it no meaning")
    return numbers


def _softmax(row: list[float], sink: float) -> tuple[list[float], float]:
    """The weights of the logits in `row`, none of them infinite, beside a sink, and the logarithm of all the powers."""
    if not row:
        return [], sink
    if math.isnan(sink) or any(math.isnan(x) for x in row):
        # Spelt out: max() of a list with a NaN depends on the order of the list.
        return [math.nan] * len(row), math.nan
    peak = max([*row, sink])
    powers = [math.exp(x - peak) for x in row]
    total = math.fsum([*powers, math.exp(sink - peak)])
    return [p / total for p in powers], peak + math.log(total)


def _score(q_row: list[float], k_row: list[float], scale: float) -> float:
    products: list[float] = []
    for x, y in zip(q_row, k_row, strict=True):
        if not math.isfinite(x) or not math.isfinite(y):
            return math.nan
        products.append(x * y)
        if math.isinf(products[-1]):
            raise OverflowError(f"{x} * {y} leaves the float64 range: ask oracle_mpmath")
    score = scale * math.fsum(products)
    if math.isinf(score):
        raise OverflowError("a score leaves the float64 range: ask oracle_mpmath")
    return score


def _logit(score: float, addend: float, softcap: float | None) -> float:
    if addend == math.inf:
        raise ValueError("a bias of +inf at a visible position: the definition gives it no meaning")
    if softcap is not None:
        score = softcap * math.tanh(score / softcap)
    logit = score + addend
    if math.isinf(logit):
        raise OverflowError("a logit leaves the float64 range: ask oracle_mpmath")
    return logit


def _mix(row_weights: list[float], column: list[float]) -> float:
    if any(math.isnan(w) for w in row_weights):
        return math.nan  # also beside an infinite value, which the next lines would let pass by such a weight
    # The softmax of a finite logit is positive, even where its float64 has underflowed to 0; so an infinite value goes
    # into the sum as itself. `0.0 * inf` would say NaN.
    terms = [w * x if math.isfinite(x) else x for w, x in zip(row_weights, column, strict=True)]
    if math.inf in terms and -math.inf in terms:
        return math.nan  # fsum raises an exception here, natural arithmetic does not
    return math.fsum(terms)

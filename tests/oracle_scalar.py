"""Scaled dot-product attention, one Python float at a time: the oracle that the vectorised reference is tested against.

Written from the definition alone, by somebody who has not seen the reference, and importing nothing of it: a shared
helper, or a shared reading of the definition, would let the same mistake pass on both sides. So there is no array
arithmetic here. NumPy carries the inputs in and the results out; everything between is a loop over scalars.

Every sum is a `math.fsum`, which rounds once however long the sum is. What error remains is that of single float64
operations: some 1e-16 of the size of a score before softmax, hence roughly |score| * 1e-16 of a weight after it. Where
this is not enough, and where finite inputs leave the float64 range, `oracle_mpmath` is the judge.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Visible = Callable[[int, int, int, int], bool]
Bias = Callable[[int, int, int, int], float]


def attention_stages(
    query: Array,
    key: Array,
    value: Array,
    *,
    visible: Visible | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> dict[str, Array]:
    """Return scores, logits, weights (B,Hq,Tq,Tk), logsumexp (B,Hq,Tq) and output (B,Hq,Tq,Dv).

    `visible(b, h, i, j)` and `bias(b, h, i, j)` are asked about query `i` of *query* head `h` and key `j`. The bias is
    asked for visible positions only.
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
                if not seen:
                    continue

                row = [float(logits[b, h, i, j]) for j in seen]
                if any(math.isnan(x) for x in row):
                    # Spelt out: max() of a list with a NaN depends on the order of the list, and _mix() would let an
                    # infinite value pass by a NaN weight.
                    logsumexp[b, h, i] = math.nan
                    for j in seen:
                        weights[b, h, i, j] = math.nan
                    for d in range(value_width):
                        output[b, h, i, d] = math.nan
                    continue

                peak = max(row)
                powers = [math.exp(x - peak) for x in row]
                total = math.fsum(powers)
                logsumexp[b, h, i] = peak + math.log(total)
                row_weights = [p / total for p in powers]
                for j, w in zip(seen, row_weights, strict=True):
                    weights[b, h, i, j] = w
                for d in range(value_width):
                    output[b, h, i, d] = _mix(row_weights, [v[b][g][j][d] for j in seen])

    return {"scores": scores, "logits": logits, "weights": weights, "logsumexp": logsumexp, "output": output}


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
    # The softmax of a finite logit is positive, even where its float64 has underflowed to 0; so an infinite value goes
    # into the sum as itself. `0.0 * inf` would say NaN.
    terms = [w * x if math.isfinite(x) else x for w, x in zip(row_weights, column, strict=True)]
    if math.inf in terms and -math.inf in terms:
        return math.nan  # fsum raises an exception here, natural arithmetic does not
    return math.fsum(terms)

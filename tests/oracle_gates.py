"""Gates, gated attention and its cell, one Python number at a time: the oracle that all four are tested against.

Written from the definitions alone, and importing nothing of attnspec. Everything is a loop over scalars, for one
element of a batch, in lists. The numbers may be complex: an analytic function moved by i·h has its derivative times h
as its imaginary part, with nothing that cancels, so h = 1e-30 gives derivatives as exact as the values.

Sums are plain ones over some tens of numbers, so results are some 1e-15 of their largest terms away from exact. The
exponentials are not shifted: arguments must be moderate.
"""

import cmath
import math
from collections.abc import Sequence
from typing import Any

Number = complex
Row = list[Number]


def gate(x: Row, weight: Sequence[Row], bias: Row | None) -> Row:
    """Compute σ(x W + b) for one position."""
    return [_logistic(z) for z in _affine(x, weight, bias)]


def gated_input(x: Row, weight: Sequence[Row], bias: Row | None) -> Row:
    """Compute σ(x W + b) times x for one position."""
    return [g * c for g, c in zip(gate(x, weight, bias), x, strict=True)]


def gated_attention(x: Row, p: dict[str, Any]) -> Row:
    """Compute gated attention for one position; `p` holds the parameters as nested lists, by name."""
    units = gate(x, p["input_weight"], p["input_bias"])
    size, depth = len(units), len(p["score_weight"])
    weight_of_unit = [0j] * size
    for head in range(len(p["unit_weight"])):
        scores = []
        for j in range(size):
            score = 0j
            for c in range(depth):
                argument = p["unit_bias"][head][j][c]
                for i in range(size):
                    argument += units[i] * p["unit_weight"][head][i][c]
                score += p["score_weight"][c] * cmath.tanh(argument)
            scores.append(score / math.sqrt(depth))
        for j, weight in enumerate(_shares(scores)):
            weight_of_unit[j] += weight
    shares = _shares(units)
    return [_logistic(weight_of_unit[j] * (shares[j] + p["output_bias"][j])) for j in range(size)]


def cell(
    x: Sequence[Row],
    valid: Sequence[bool],
    memory: Row,
    output: Row,
    p: dict[str, Any],
    keep: Sequence[Sequence[bool]] | None = None,
    rate: float = 0.0,
) -> dict[str, Any]:
    """Compute one step of the cell: every stage by name, as nested lists. `keep[i][j]` is asked for valid positions.

    What is not valid is never read; pool, distribution and control are 0 there.
    """
    length, size = len(x), len(memory)
    heads, per_head, depth = len(p["gate_weight"]), len(p["gate_bias"][0]), len(p["score_weight"])
    real = [i for i in range(length) if valid[i]]

    pool = [[[0j] * per_head for _ in range(length)] for _ in range(heads)]
    for k in range(heads):
        for i in real:
            opened = gate(x[i], p["gate_weight"][k], p["gate_bias"][k])
            for j in range(per_head):
                pool[k][i][j] = opened[j] * x[i][k * per_head + j]

    mean = [sum(x[i][c] for i in real) / len(real) if real else 0j for c in range(size)]
    shared = _affine(mean, p["mean_score_weight"], _affine(output, p["output_score_weight"], None))
    distribution = [[0j] * per_head for _ in range(length)]
    for j in range(per_head):
        scores = []
        for i in real:
            own = _affine(x[i], p["input_score_weight"], None)
            score = 0j
            for c in range(depth):
                score += p["score_weight"][c] * cmath.tanh(own[c] + shared[c] + p["unit_bias"][j][c])
            scores.append(score / math.sqrt(depth))
        for i, share in zip(real, _shares(scores), strict=True):
            distribution[i][j] = share

    control = [[0j] * heads for _ in range(length)]
    for i in real:
        from_output = _affine(output, p["control_recurrent_weight"], None)
        for k, z in enumerate(_affine(x[i], p["control_weight"], p["control_bias"])):
            control[i][k] = _logistic(z + from_output[k])

    reading, new_memory = [], []
    for k in range(heads):
        for j in range(per_head):
            read, kept = 0j, memory[k * per_head + j]
            for i in real:
                if keep is None or keep[i][j]:
                    part = distribution[i][j] / (1.0 - rate) * pool[k][i][j]
                    read += part
                    kept += control[i][k] * part
            reading.append(read)
            new_memory.append(kept)

    from_output = _affine(output, p["recurrent_weight"], None)
    update = [
        cmath.tanh(z + y)
        for z, y in zip(_affine(reading, p["update_weight"], p["update_bias"]), from_output, strict=True)
    ]
    content = [m + r for m, r in zip(new_memory, reading, strict=True)]
    new_output = [_logistic(c + u * v) for c, u, v in zip(p["output_gate_bias"], update, content, strict=True)]
    return {
        "pool": pool,
        "distribution": distribution,
        "control": control,
        "reading": reading,
        "update": update,
        "content": content,
        "outputs": _affine(new_output, p["output_weight"], p["output_bias"]),
        "state.memory": new_memory,
        "state.output": new_output,
    }


def _affine(x: Row, weight: Sequence[Row], bias: Row | None) -> Row:
    columns = len(weight[0])
    sums = list(bias) if bias is not None else [0j] * columns
    for row, component in zip(weight, x, strict=True):
        for column in range(columns):
            sums[column] = sums[column] + component * row[column]
    return sums


def _logistic(z: Number) -> Number:
    return 1.0 / (1.0 + cmath.exp(-z))


def _shares(numbers: Sequence[Number]) -> Row:
    exponentials = [cmath.exp(z) for z in numbers]
    return [e / sum(exponentials) for e in exponentials]

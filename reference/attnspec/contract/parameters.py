"""The parameters of multi-head attention and the results that carry names."""

from __future__ import annotations

from typing import Any, NamedTuple

from .operands import describe


class MultiHeadParameters(NamedTuple):
    """Weights and biases of multi-head attention, applied as `x @ weight + bias`.

    Heads lie side by side in the columns: head h owns columns h·Dk … (h+1)·Dk − 1.

    Shapes:
        query_weight (E, Hq·Dk), key_weight (E_k, Hkv·Dk), value_weight (E_v, Hkv·Dv), output_weight (Hq·Dv, E_out);
        query_bias (Hq·Dk,), key_bias (Hkv·Dk,), value_bias (Hkv·Dv,), output_bias (E_out,), each may be None.
    """

    query_weight: Any
    key_weight: Any
    value_weight: Any
    output_weight: Any
    query_bias: Any = None
    key_bias: Any = None
    value_bias: Any = None
    output_bias: Any = None


class AttentionStages(NamedTuple):
    """Every intermediate result of scaled dot-product attention, at least float32 except `output`.

    Shapes:
        scores (*B, Hq, Tq, Tk): scale · query · key, before softcap, bias and mask;
        logits (*B, Hq, Tq, Tk): after softcap, bias and mask, −inf where the row may not attend;
        weights (*B, Hq, Tq, Tk): after the softmax, before dropout; 0 where the row may not attend;
        logsumexp (*B, Hq, Tq): natural logarithm of the softmax's denominator, the sink included; −inf for an empty row
            without a sink;
        output (*B, Hq, Tq, Dv).
        Rank-2 and rank-3 calls have no head axis in any of them.
    """

    scores: Any
    logits: Any
    weights: Any
    logsumexp: Any
    output: Any


class PartialAttention(NamedTuple):
    """Attention over a slice of the keys, at least float32: what `merge_attention` puts together.

    Shapes:
        output (*B, Hq, Tq, Dv): the average over the slice alone, 0 for an empty row;
        logsumexp (*B, Hq, Tq): natural logarithm of the slice's softmax denominator, −inf for an empty row.
        Rank-2 and rank-3 calls have no head axis in either.
    """

    output: Any
    logsumexp: Any


class AttentionGradients(NamedTuple):
    """Gradients of scaled dot-product attention, each with the shape of what it belongs to, None where not given.

    That of a bias object is an object of the same structure, with gradients in the place of its numbers.
    """

    query: Any
    key: Any
    value: Any
    bias: Any
    sinks: Any


def check_parameters(parameters: Any) -> dict[str, Any]:
    """Give the arrays by name, without the biases that are None.

    Refuse what is not `MultiHeadParameters`: weights in another order would be taken without a word.
    """
    if not isinstance(parameters, MultiHeadParameters):
        raise TypeError(f"`parameters` must be MultiHeadParameters(query_weight, …); got {describe(parameters)}")
    given = {name: array for name, array in parameters._asdict().items() if array is not None}
    for name in ("query_weight", "key_weight", "value_weight", "output_weight"):
        if name not in given:
            raise TypeError(f"`{name}` of `parameters` must be given; got None")
    return given

"""Wrong calls of gates, gated attention and its cell: refused, in the same words everywhere."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bad_input import FLOATING, Case, Maker, check_refused

from attnspec import reference
from attnspec.contract import (
    CellState,
    Dropout,
    GatedAttentionCellParameters,
    GatedAttentionParameters,
    LayerNormParameters,
    LinearParameters,
)

UNIT_SHAPES = {
    "input_weight": (7, 2),
    "input_bias": (2,),
    "unit_weight": (3, 2, 5),
    "unit_bias": (3, 2, 5),
    "score_weight": (5,),
    "output_bias": (2,),
}

CELL_SHAPES = {
    "gate_weight": (5, 10, 2),
    "gate_bias": (5, 2),
    "input_score_weight": (10, 13),
    "mean_score_weight": (10, 13),
    "output_score_weight": (10, 13),
    "unit_bias": (2, 13),
    "score_weight": (13,),
    "update_weight": (10, 10),
    "recurrent_weight": (10, 10),
    "update_bias": (10,),
    "control_weight": (10, 5),
    "control_recurrent_weight": (10, 5),
    "control_bias": (5,),
    "output_gate_bias": (10,),
    "output_weight": (10, 3),
    "output_bias": (3,),
}

CELL_LETTERS = {
    "gate_bias": "(K, n) = (5, 2)",
    "input_score_weight": "(D, d) = (10, d)",
    "mean_score_weight": "(D, d) = (10, 13)",
    "output_score_weight": "(D, d) = (10, 13)",
    "unit_bias": "(n, d) = (2, 13)",
    "score_weight": "(d,) = (13,)",
    "update_weight": "(D, D) = (10, 10)",
    "recurrent_weight": "(D, D) = (10, 10)",
    "update_bias": "(D,) = (10,)",
    "control_weight": "(D, K) = (10, 5)",
    "control_recurrent_weight": "(D, K) = (10, 5)",
    "control_bias": "(K,) = (5,)",
    "output_gate_bias": "(D,) = (10,)",
    "output_weight": "(D, C) = (10, C)",
    "output_bias": "(C,) = (3,)",
}

HEADS_OF_EQUAL_SIZE = (
    "`gate_weight` of `parameters` must have shape (K, D, n) with K · n = D, K heads of equal size; "
    "got shapes inputs (2, 7, 10) and gate_weight "
)


def made(t: Maker, value: Any) -> Any:
    """Make a tensor of a shape; give anything else as it is."""
    return t(*value) if isinstance(value, tuple) and all(isinstance(size, int) for size in value) else value


def linear(operation: str, inputs: Any = (2, 5, 7), weight: Any = (7, 7), bias: Any = (7,)) -> Any:
    return lambda attn, t: getattr(attn, operation)(made(t, inputs), LinearParameters(made(t, weight), made(t, bias)))


def gate(**changes: Any) -> Any:
    return linear("attention_gate", **changes)


def gate_with(make: Any) -> Any:
    return lambda attn, t: attn.attention_gate(t(2, 5, 7), make(t))


def units(inputs: Any = (2, 3, 7), **changes: Any) -> Any:
    def call(attn: ModuleType, t: Maker) -> Any:
        parameters = {name: made(t, value) for name, value in (UNIT_SHAPES | changes).items()}
        return attn.gated_attention(made(t, inputs), GatedAttentionParameters(**parameters))

    return call


def cell(inputs: Any = (2, 7, 10), memory: Any = (2, 10), output: Any = (2, 10), **changes: Any) -> Any:
    """Make a call with 5 heads of 2, or with changed parameters, or a changed state or option."""
    options = {name: changes.pop(name) for name in ("valid", "dropout") if name in changes}

    def call(attn: ModuleType, t: Maker) -> Any:
        state = changes.get("state", CellState(made(t, memory), made(t, output)))
        shapes = CELL_SHAPES | {name: value for name, value in changes.items() if name != "state"}
        parameters = GatedAttentionCellParameters(**{name: made(t, value) for name, value in shapes.items()})
        return attn.gated_attention_cell(made(t, inputs), state, parameters, **options)

    return call


GATE: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        gate(inputs=(7,)),
    ),
    "int inputs": (
        TypeError,
        f"`inputs` {FLOATING}; got int64",
        gate(inputs=np.zeros((5, 7), np.int64)),
    ),
    "weight of rank 1": (
        ValueError,
        "`weight` of `parameters` must have shape (D, C) = (7, C); got (7,)",
        gate(weight=(7,)),
    ),
    "rows of weight": (
        ValueError,
        "`weight` of `parameters` must have shape (D, C) = (7, C); got (11, 3)",
        gate(weight=(11, 3)),
    ),
    "size of bias": (
        ValueError,
        "`bias` of `parameters` must have shape (C,) = (7,); got (1,)",
        gate(bias=(1,)),
    ),
    "not square": (
        ValueError,
        "`weight` of `parameters` must have shape (D, D) = (7, 7); got (7, 3)",
        linear("gated_input", weight=(7, 3), bias=(3,)),
    ),
    "plain tuple": (
        TypeError,
        "`parameters` must be LinearParameters(weight, …); got an object of type tuple",
        gate_with(lambda t: (t(7, 3), t(3))),
    ),
    "other parameters": (
        TypeError,
        ("`parameters` must be LinearParameters(weight, …); got an object of type attnspec.LayerNormParameters"),
        gate_with(lambda t: LayerNormParameters(t(7), t(7))),
    ),
    "no parameters": (
        TypeError,
        "`parameters` must be LinearParameters(weight, …); got None",
        gate_with(lambda _: None),
    ),
    "no weight": (TypeError, "`weight` of `parameters` must be given; got None", gate(weight=None)),
    "tuple for a weight": (
        TypeError,
        "`weight` of `parameters` must be an array or nested lists of numbers; got an object of type tuple",
        gate(weight=((0.5,) * 7,) * 7),
    ),
    "str for a bias": (
        TypeError,
        "`bias` of `parameters` must be an array or nested lists of numbers; got an object of type str",
        gate(bias="zeros"),
    ),
    "int weight": (
        TypeError,
        f"`weight` of `parameters` {FLOATING}; got int32",
        gate_with(lambda t: LinearParameters(t(7, 3, dtype="int32"))),
    ),
    "float32 bias": (
        TypeError,
        "`bias` of `parameters` must have the dtype of `inputs`; got inputs float64 and bias float32",
        gate(bias=np.zeros(7, np.float32)),
    ),
}

UNITS: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (7,)",
        units(inputs=(7,)),
    ),
    "columns of unit weight": (
        ValueError,
        "`unit_weight` of `parameters` must have shape (K, n, d) = (K, 2, d); got (3, 4, 5)",
        units(unit_weight=(3, 4, 5)),
    ),
    "heads of unit bias": (
        ValueError,
        "`unit_bias` of `parameters` must have shape (K, n, d) = (3, 2, 5); got (1, 2, 5)",
        units(unit_bias=(1, 2, 5)),
    ),
    "score weight": (
        ValueError,
        "`score_weight` of `parameters` must have shape (d,) = (5,); got (5, 1)",
        units(score_weight=(5, 1)),
    ),
    "no heads": (
        ValueError,
        "`unit_weight` of `parameters` must have at least 1 head (axis 0); got shape (0, 2, 5)",
        units(unit_weight=(0, 2, 5), unit_bias=(0, 2, 5)),
    ),
    "d = 0": (
        ValueError,
        (
            "`unit_weight` of `parameters` must have at least 1 column (axis -1): scores are divided by √d; "
            "got shape (3, 2, 0)"
        ),
        units(unit_weight=(3, 2, 0), unit_bias=(3, 2, 0), score_weight=(0,)),
    ),
    "no output bias": (TypeError, "`output_bias` of `parameters` must be given; got None", units(output_bias=None)),
}

CELL: dict[str, Case] = {
    "inputs of rank 1": (
        ValueError,
        "`inputs` must have at least 2 axes, (*batch, length, size); got shape (10,)",
        cell(inputs=(10,)),
    ),
    "state is a tuple": (
        TypeError,
        "`state` must be CellState(memory, …); got an object of type tuple",
        lambda attn, t: cell(state=(t(2, 10), t(2, 10)))(attn, t),
    ),
    "no state": (TypeError, "`state` must be CellState(memory, …); got None", cell(state=None)),
    "no memory": (TypeError, "`memory` of `state` must be given; got None", cell(memory=None)),
    "batch of memory": (
        ValueError,
        "`memory` of `state` must have shape (B, D) = (2, 10); got (3, 10)",
        cell(memory=(3, 10)),
    ),
    "output of rank 1": (
        ValueError,
        "`output` of `state` must have shape (B0, B1, D) = (2, 3, 10); got (10,)",
        cell(inputs=(2, 3, 7, 10), memory=(2, 3, 10), output=(10,)),
    ),
    "float32 output": (
        TypeError,
        "`output` of `state` must have the dtype of `inputs`; got inputs float64 and output float32",
        cell(output=np.zeros((2, 10), np.float32)),
    ),
    "4 heads for 10": (ValueError, HEADS_OF_EQUAL_SIZE + "(4, 10, 2)", cell(gate_weight=(4, 10, 2))),
    "no heads": (
        ValueError,
        "`gate_weight` of `parameters` must have at least 1 head (axis 0); got shape (0, 10, 2)",
        cell(gate_weight=(0, 10, 2)),
    ),
    "size of gate weight": (
        ValueError,
        "`gate_weight` of `parameters` must have shape (K, D, n) = (K, 10, n); got (5, 11, 2)",
        cell(gate_weight=(5, 11, 2)),
    ),
    "d = 0": (
        ValueError,
        (
            "`input_score_weight` of `parameters` must have at least 1 column (axis -1): scores are divided by √d; "
            "got shape (10, 0)"
        ),
        cell(
            **dict.fromkeys(("input_score_weight", "mean_score_weight", "output_score_weight"), (10, 0)),
            unit_bias=(2, 0),
            score_weight=(0,),
        ),
    ),
    "0/1 for valid": (
        TypeError,
        "`valid` must be a boolean array (True = a real token); got an array of dtype int64",
        cell(valid=np.ones((2, 7), np.int64)),
    ),
    "number of valid positions": (
        TypeError,
        "`valid` must be a boolean array (True = a real token); got an object of type int",
        cell(valid=7),
    ),
    "valid of rank 1": (
        ValueError,
        "`valid` must have shape (2, 7), one boolean for each position; got (7,)",
        cell(valid=[True] * 7),
    ),
    "valid for every element": (
        ValueError,
        "`valid` must have shape (2, 7), one boolean for each position; got (1, 7)",
        cell(valid=np.ones((1, 7), bool)),
    ),
    "rate for dropout": (
        TypeError,
        "`dropout` must be Dropout(rate, keep=array); got an object of type float",
        cell(dropout=0.5),
    ),
    "dropout without keep": (
        ValueError,
        "`dropout` must say what is kept: Dropout(rate, keep=array); only layers draw an array of their own",
        cell(dropout=Dropout(0.5)),
    ),
    "keep of rank 2": (
        ValueError,
        (
            "`keep` of `dropout` must have the axes of what it multiplies, (2, 7, 2), each of them full or 1; "
            "got shape (7, 2)"
        ),
        cell(dropout=Dropout(0.5, np.ones((7, 2), bool))),
    ),
    "keep of the pool": (
        ValueError,
        (
            "`keep` of `dropout` must have the axes of what it multiplies, (2, 7, 2), each of them full or 1; "
            "got shape (2, 7, 10)"
        ),
        cell(dropout=Dropout(0.5, np.ones((2, 7, 10), bool))),
    ),
    "valid by position": (
        TypeError,
        "gated_attention_cell() takes 3 positional arguments but 4 were given",
        lambda attn, t: attn.gated_attention_cell(t(7, 10), None, None, None),
    ),
}
for _field, _letters in CELL_LETTERS.items():
    _wrong = (CELL_SHAPES[_field][0] + 1, *CELL_SHAPES[_field][1:])
    _shown = f"({_wrong[0]},)" if len(_wrong) == 1 else str(_wrong)
    CELL[f"rows of {_field}"] = (
        ValueError,
        f"`{_field}` of `parameters` must have shape {_letters}; got {_shown}",
        cell(**{_field: _wrong}),
    )


@pytest.mark.parametrize("case", GATE.values(), ids=GATE)
def test_wrong_gate_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", UNITS.values(), ids=UNITS)
def test_wrong_gated_attention_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


@pytest.mark.parametrize("case", CELL.values(), ids=CELL)
def test_wrong_cell_is_refused(case: Case, attn: ModuleType) -> None:
    check_refused(case, attn)


def test_the_calls_that_were_made_wrong_were_right() -> None:
    for call in (gate(), linear("gated_input"), units(), cell(dropout=Dropout(0.5, [[[True]]]))):
        call(reference, Maker("reference"))


def test_wrong_cotangents_are_refused() -> None:
    state = CellState(np.zeros((2, 10)), np.zeros((2, 10)))
    parameters = GatedAttentionCellParameters(*(np.zeros(shape) for shape in CELL_SHAPES.values()))
    given = np.zeros((2, 7, 10)), state, parameters
    with pytest.raises(
        ValueError, match=r"^`outputs_cotangent` must have the shape of its result, \(2, 3\); got \(2,\)$"
    ):
        reference.gated_attention_cell_vjp(*given, np.zeros(2))
    with pytest.raises(
        TypeError, match=r"^`state_cotangent` must be CellState\(memory, …\); got an object of type tuple$"
    ):
        reference.gated_attention_cell_vjp(*given, np.zeros((2, 3)), state_cotangent=tuple(state))
    wrong = state._replace(output=np.zeros((2, 11)))
    text = r"^`output` of `state_cotangent` must have the shape of its result, \(2, 10\); got \(2, 11\)$"
    with pytest.raises(ValueError, match=text):
        reference.gated_attention_cell_vjp(*given, np.zeros((2, 3)), state_cotangent=wrong)

"""Gates, gated attention and its cell (S26–S28), in all four: values, gradients, padding, state, transforms.

Values and gradients are held against the scalar loops of `oracle_gates.py`. All numbers are of the size of 1, sums have
some tens of terms, and both sides round each of them: 1e-13 of the largest result is thirty times what was measured,
and far below what any wrong formula gives.
"""

import functools
import importlib
import warnings
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import oracle_gates
import pytest
from comparisons import assert_close, assert_same_bits, assert_within
from frameworks import name_of
from gate_cases import (
    BY_POSITION,
    CELL_PARAMETERS,
    DROPOUT,
    KEEP,
    OUTPUTS,
    SIZE,
    UNITS,
    VALID,
    draw,
    draw_cell,
    native,
    of_leaves,
    run,
)
from native_tensors import NUMPY_DTYPES, Array, gradients, to_native, to_numpy

from attnspec import reference
from attnspec.contract import CellState, Dropout, LinearParameters
from attnspec.contract.states import leaves, map_leaves, rebuild

TOLERANCE = 1e-13
STEP = 1e-30
"""Of a complex step: its square, and so its error, is below every rounding."""

ORACLES = {
    "attention_gate": lambda x, p: oracle_gates.gate(x, p["weight"], p["bias"]),
    "gated_input": lambda x, p: oracle_gates.gated_input(x, p["weight"], p["bias"]),
    "gated_attention": oracle_gates.gated_attention,
}

# torch.compile imports parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


def lists(parameters: Any) -> dict[str, Any]:
    """Give the leaves of one tuple of parameters as nested lists; None for a bias of None."""
    return {field: None if leaf is None else leaf.tolist() for field, leaf in parameters._asdict().items()}


def oracle_by_position(operation: str, inputs: Array, parameters: Any) -> Array:
    """Ask the oracle about every position."""
    given = lists(parameters)
    outputs = [ORACLES[operation](x, given) for x in inputs.reshape(-1, inputs.shape[-1]).tolist()]
    return np.array(outputs).reshape(*inputs.shape[:-1], -1)


def oracle_cell(
    inputs: Array, state: Any, parameters: Any, valid: Array | None, dropout: Dropout | None = None
) -> dict[str, Array]:
    """Ask the oracle about every element of the batch: stages by path."""
    valid = np.ones(inputs.shape[:-1], bool) if valid is None else valid
    keep = None if dropout is None else np.broadcast_to(dropout.keep, (*inputs.shape[:-1], UNITS))
    given = lists(parameters)
    elements = [
        oracle_gates.cell(
            inputs[b].tolist(),
            valid[b].tolist(),
            state.memory[b].tolist(),
            state.output[b].tolist(),
            given,
            None if keep is None else keep[b].tolist(),
            0.0 if dropout is None else dropout.rate,
        )
        for b in range(len(inputs))
    ]
    return {stage: np.array([element[stage] for element in elements]) for stage in elements[0]}


def derivatives(loss: Any, trees: tuple[Any, ...]) -> dict[str, Array]:
    """Differentiate a loss of complex numbers with respect to every element of every leaf."""
    given = leaves(trees)
    result = {}
    for path, leaf in given.items():
        result[path] = np.zeros(leaf.shape)
        for place in np.ndindex(leaf.shape):
            moved = leaf.astype(complex)
            moved[place] += 1j * STEP
            result[path][place] = loss(*rebuild(trees, {**given, path: moved})).imag / STEP
    return result


def test_complex_steps_of_a_cubic() -> None:
    x, y = np.array([2.0, -3.0]), np.array([5.0])
    given = derivatives(lambda x, y: (x**3).sum() * y[0], (x, y))
    np.testing.assert_allclose(given["0"], 15 * x**2, rtol=1e-15)
    np.testing.assert_allclose(given["1"], [-19.0], rtol=1e-15)


# --- values


@pytest.mark.parametrize("operation", BY_POSITION)
def test_every_position_is_what_the_oracle_says(attn: ModuleType, operation: str) -> None:
    inputs, parameters = BY_POSITION[operation]
    (output,) = run(attn, operation, inputs, parameters).values()
    assert_close(output, oracle_by_position(operation, inputs, parameters).real, TOLERANCE)


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["whole", "dropout"])
def test_stages_of_the_cell_are_what_the_oracle_says(attn: ModuleType, dropout: Dropout | None) -> None:
    inputs, state = draw_cell()
    stages = run(
        attn, "gated_attention_cell_stages", inputs, state, CELL_PARAMETERS, valid=VALID.tolist(), dropout=dropout
    )
    expected = oracle_cell(inputs, state, CELL_PARAMETERS, VALID, dropout)
    assert [*stages] == [*expected]
    for stage, value in expected.items():
        assert_close(stages[stage], value.real, TOLERANCE)
    for stage in ("pool", "distribution", "reading"):
        assert not stages[stage][1].any()  # nothing is valid: F = 0
    assert_same_bits(stages["state.memory"][1], state.memory[1])
    assert not np.swapaxes(stages["distribution"], 1, 2)[np.broadcast_to(~VALID[:, None], (3, UNITS, 5))].any()


def test_three_steps_of_changing_length(attn: ModuleType) -> None:
    state = expected_state = CellState(np.zeros((3, SIZE)), np.zeros((3, SIZE)))
    largest = 0.0
    for step, length in enumerate((5, 0, 1), start=1):
        inputs = draw_cell(step, length)[0]
        stages = run(attn, "gated_attention_cell_stages", inputs, state, CELL_PARAMETERS)
        expected = oracle_cell(inputs, expected_state, CELL_PARAMETERS, None)
        for path, stage in stages.items():
            assert_close(stage, expected[path].real.reshape(stage.shape), TOLERANCE)
        state = CellState(stages["state.memory"], stages["state.output"])
        expected_state = CellState(expected["state.memory"].real, expected["state.output"].real)
        largest = max(largest, np.abs(inputs).max(initial=0.0))
        assert np.abs(state.memory).max() <= step * largest
    assert_same_bits(stages["distribution"], np.ones((3, 1, UNITS)))  # one position has all the weight


LEADING = {"none": lambda array: array[0], "two": lambda array: array[:, None]}


# Every shape costs JAX a second: what it does with one axis less is enough there.
@pytest.mark.parametrize(
    ("module", "axes"),
    [(module, axes) for module in frameworks.MODULES for axes in LEADING if (module, axes) != ("jax", "two")],
)
@pytest.mark.parametrize("operation", ["gated_attention", "gated_attention_cell"])
def test_any_number_of_batch_axes(module: str, operation: str, axes: str) -> None:
    attn = frameworks.load(module)
    parameters = problem(operation)[-1]
    trees, valid = problem(operation)[:-1], VALID if operation == "gated_attention_cell" else None
    whole = run(attn, operation, *trees, parameters, **({} if valid is None else {"valid": valid}))
    options = {} if valid is None else {"valid": LEADING[axes](valid)}
    found = run(attn, operation, *map_leaves(LEADING[axes], trees), parameters, **options)
    for path, result in whole.items():
        assert_close(found[path], LEADING[axes](result), TOLERANCE)


def test_large_arguments(attn: ModuleType) -> None:
    inputs = np.array([[-1000.0], [-700.0], [0.0], [1000.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (gate,) = run(attn, "attention_gate", inputs, LinearParameters(np.ones((1, 1)))).values()
        (gated,) = run(attn, "gated_input", inputs, LinearParameters(np.ones((1, 1)))).values()
        # Scores are up to ± Σ|q|/√d: as much as that would overflow in an exponential that is not shifted.
        _, parameters = BY_POSITION["gated_attention"]
        parameters = parameters._replace(score_weight=parameters.score_weight * 1e4)
        (units,) = run(attn, "gated_attention", BY_POSITION["gated_attention"][0], parameters).values()
        cell = run(
            attn,
            "gated_attention_cell_stages",
            *draw_cell(),
            CELL_PARAMETERS._replace(score_weight=CELL_PARAMETERS.score_weight * 1e4),
            valid=VALID,
        )
    assert gate[2:, 0].tolist() == [0.5, 1.0]
    assert gate[0, 0] == 0.0
    np.testing.assert_allclose(gate[1, 0], np.exp(-700.0), rtol=TOLERANCE)
    assert gated[[0, 3], 0].tolist() == [0.0, 1000.0]
    # One unit of two has all the weight of a head, so the sum over heads counts: A is 0, 1, 2 or 3.
    shares = np.log(units / (1 - units)) / (softmax_of_units() + parameters.output_bias)
    assert_close(shares, shares.round(), TOLERANCE)
    assert_close(cell["distribution"].sum(axis=1), np.array([1.0, 0.0, 1.0])[:, None] * np.ones(UNITS), TOLERANCE)
    assert ((cell["distribution"] == 0) | (cell["distribution"] > 1e-300)).all()


def softmax_of_units() -> Array:
    inputs, parameters = BY_POSITION["gated_attention"]
    units = np.exp(1 / (1 + np.exp(-(inputs @ parameters.input_weight + parameters.input_bias))))
    return units / units.sum(axis=-1, keepdims=True)


def test_order_of_positions_does_not_matter() -> None:
    inputs, state = draw_cell()
    order = np.array([3, 0, 4, 1, 2])
    keep = np.random.default_rng(2).random((3, 5, UNITS)) < 0.5
    options = {"valid": VALID, "dropout": Dropout(0.25, keep)}
    permuted = {"valid": VALID[:, order], "dropout": Dropout(0.25, keep[:, order])}
    stages = run(reference, "gated_attention_cell_stages", inputs, state, CELL_PARAMETERS, **options)
    others = run(reference, "gated_attention_cell_stages", inputs[:, order], state, CELL_PARAMETERS, **permuted)
    for path in ("reading", "update", "content", "outputs", "state.memory", "state.output"):
        assert_close(others[path], stages[path], TOLERANCE)
    assert_close(others["distribution"], stages["distribution"][:, order], TOLERANCE)


def test_the_call_changes_nothing_that_it_is_given() -> None:
    trees = (*draw_cell(), CELL_PARAMETERS)
    for leaf in leaves(trees).values():
        leaf.flags.writeable = False
    before = map_leaves(np.copy, trees)
    run(reference, "gated_attention_cell", *trees, valid=VALID, dropout=DROPOUT)
    for path, leaf in leaves(trees).items():
        assert_same_bits(leaf, leaves(before)[path])


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_results_are_rounded_once(name: str, dtype: str) -> None:
    attn = frameworks.load(name)
    trees = (*draw_cell(), CELL_PARAMETERS)
    given = map_leaves(lambda array: (array / 2).astype(NUMPY_DTYPES[dtype]), trees)
    wide = map_leaves(lambda array: array.astype(np.float64), given)
    exact = run(reference, "gated_attention_cell_stages", *wide, valid=VALID)
    results = run(attn, "gated_attention_cell_stages", *given, valid=VALID)
    for path, result in results.items():
        is_rounded = path in ("outputs", "state.memory", "state.output")
        assert result.dtype == NUMPY_DTYPES[dtype if is_rounded else "float32"], path
        unit = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype] if is_rounded else 0.0
        # Some tens of roundings to float32 of numbers up to 4 or so, and one of the result to its dtype.
        assert_within(result, exact[path], 100 * 2.0**-24 + unit * np.abs(exact[path]))


# --- gradients


@functools.cache
def expected_gradients(operation: str) -> dict[str, Array]:
    """Differentiate the oracle."""
    if operation != "gated_attention_cell":
        inputs, parameters = BY_POSITION[operation]
        cotangent = cotangents(operation)[0]
        return derivatives(lambda x, p: (oracle_by_position(operation, x, p) * cotangent).sum(), (inputs, parameters))
    parts = dict(zip(("outputs", "state.memory", "state.output"), cotangents(operation), strict=True))

    def loss(inputs: Array, state: Any, parameters: Any) -> complex:
        stages = oracle_cell(inputs, state, parameters, VALID, DROPOUT)
        return sum((stages[path] * part).sum() for path, part in parts.items())

    return derivatives(loss, (*draw_cell(), CELL_PARAMETERS))


def cotangents(operation: str) -> tuple[Array, ...]:
    if operation == "gated_attention_cell":
        return draw((3, OUTPUTS), 29), draw((3, SIZE), 31), draw((3, SIZE), 37)
    columns = {"attention_gate": 7, "gated_input": 5, "gated_attention": 2}[operation]
    return (draw((2, 3, columns), 41),)


def closed_form(operation: str, *trees: Any, **options: Any) -> dict[str, Array]:
    """Ask the reference for gradients, by path in (inputs, …, parameters)."""
    parts = cotangents(operation)
    if operation == "gated_attention_cell":
        options = {"valid": VALID, "dropout": DROPOUT} | options | {"state_cotangent": CellState(*parts[1:])}
    result = getattr(reference, f"{operation}_vjp")(*trees, parts[0], **options)
    assert all(type(part) is type(tree) for part, tree in zip(result, trees, strict=True))
    return leaves(tuple(result))


def by_framework(name: str, operation: str, *trees: Any, **options: Any) -> dict[str, Array]:
    """Let a framework differentiate, by the same paths."""
    attn = frameworks.load(name)
    parts = cotangents(operation)

    def function(*trees: Any) -> Any:
        if operation != "gated_attention_cell":
            return getattr(attn, operation)(*trees)
        result = attn.gated_attention_cell(*trees, **({"valid": VALID, "dropout": DROPOUT} | options))
        return result.outputs, *result.state

    cotangent = parts if operation == "gated_attention_cell" else parts[0]
    return gradients(name, of_leaves(function, trees), leaves(trees), cotangent)[1]


def problem(operation: str) -> tuple[Any, ...]:
    return (*draw_cell(), CELL_PARAMETERS) if operation == "gated_attention_cell" else BY_POSITION[operation]


OPERATIONS = [*BY_POSITION, "gated_attention_cell"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_closed_form_is_the_derivative_of_the_oracle(operation: str) -> None:
    expected, found = expected_gradients(operation), closed_form(operation, *problem(operation))
    assert [*found] == [*expected]
    for path, derivative in expected.items():
        assert np.abs(derivative).max() > 1e-3, path
        assert_close(found[path], derivative, TOLERANCE)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_framework_gives_the_closed_form(name: str, operation: str) -> None:
    expected, found = closed_form(operation, *problem(operation)), by_framework(name, operation, *problem(operation))
    for path, derivative in expected.items():
        assert_close(found[path], derivative, TOLERANCE)


def test_what_a_step_from_zero_cannot_teach() -> None:
    inputs, _ = draw_cell()
    zero = CellState(np.zeros((3, SIZE)), np.zeros((3, SIZE)))
    found = closed_form("gated_attention_cell", inputs, zero, CELL_PARAMETERS, dropout=None)
    without = {path for path, gradient in found.items() if not gradient.any()}
    assert without == {
        f"2.{field}" for field in ("output_score_weight", "control_recurrent_weight", "recurrent_weight")
    }
    one = reference.gated_attention_cell_vjp(
        inputs[:, :1], draw_cell()[1], CELL_PARAMETERS, cotangents("gated_attention_cell")[0]
    )
    for field in ("input_score_weight", "mean_score_weight", "output_score_weight", "unit_bias", "score_weight"):
        assert not getattr(one.parameters, field).any()  # T = 1: F is 1, whatever the scores are


def test_without_a_cotangent_of_the_state_it_is_0() -> None:
    trees, cotangent = problem("gated_attention_cell"), cotangents("gated_attention_cell")[0]
    zeros = CellState(np.zeros((3, SIZE)), np.zeros((3, SIZE)))
    left = reference.gated_attention_cell_vjp(*trees, cotangent)
    right = reference.gated_attention_cell_vjp(*trees, cotangent, state_cotangent=zeros)
    for path, gradient in leaves(tuple(left)).items():
        assert_same_bits(gradient, leaves(tuple(right))[path])


# --- what is not read, and poison that is


POISONS = {"nan": np.nan, "inf": np.inf}


def poisoned_padding(poison: float) -> tuple[Any, ...]:
    """Put poison into one component of every position that is not valid."""
    inputs, state, parameters = problem("gated_attention_cell")
    inputs = inputs.copy()
    inputs[~VALID, 4] = poison
    return inputs, state, parameters


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_padding_reaches_nothing(attn: ModuleType, poison: float) -> None:
    options = {"valid": VALID, "dropout": DROPOUT}
    expected = run(attn, "gated_attention_cell_stages", *problem("gated_attention_cell"), **options)
    found = run(attn, "gated_attention_cell_stages", *poisoned_padding(poison), **options)
    differentiate = closed_form if attn is reference else functools.partial(by_framework, name_of(attn))
    expected |= differentiate("gated_attention_cell", *problem("gated_attention_cell"))
    found |= differentiate("gated_attention_cell", *poisoned_padding(poison))
    for path, result in expected.items():
        assert_same_bits(found[path], result)
    assert not found["0"][~VALID].any()


@pytest.mark.parametrize("place", ["inputs", "memory", "output"])
def test_poison_that_is_read_stays_in_its_element(attn: ModuleType, place: str) -> None:
    inputs, state, parameters = problem("gated_attention_cell")
    inputs, state = inputs.copy(), map_leaves(np.copy, state)
    if place == "inputs":
        inputs[2, 3, 1] = np.inf
    else:
        getattr(state, place)[2, 1] = np.nan
    options = {"valid": VALID, "dropout": DROPOUT}
    clean = run(attn, "gated_attention_cell_stages", *problem("gated_attention_cell"), **options)
    found = run(attn, "gated_attention_cell_stages", inputs, state, parameters, **options)
    for path, result in found.items():
        assert np.isnan(result[2]).all(), path
        assert_same_bits(result[:2], clean[path][:2])
    differentiate = closed_form if attn is reference else functools.partial(by_framework, name_of(attn))
    of_all = differentiate("gated_attention_cell", inputs, state, parameters)
    expected = reference.gated_attention_cell_vjp(
        *map_leaves(lambda array: array[:2], problem("gated_attention_cell")[:2]),
        parameters,
        cotangents("gated_attention_cell")[0][:2],
        state_cotangent=CellState(*(part[:2] for part in cotangents("gated_attention_cell")[1:])),
        valid=VALID[:2],
        dropout=DROPOUT,
    )
    for path, gradient in leaves(tuple(expected)).items():
        if path.startswith("2."):
            assert_close(of_all[path], gradient, TOLERANCE)
        else:
            assert_close(of_all[path][:2], gradient, TOLERANCE)
            assert not of_all[path][2].any()


@pytest.mark.parametrize("operation", BY_POSITION)
def test_poison_stays_at_its_position(attn: ModuleType, operation: str) -> None:
    inputs, parameters = BY_POSITION[operation]
    inputs = inputs.copy()
    inputs[1, 2, 3] = -np.inf
    (clean,) = run(attn, operation, *BY_POSITION[operation]).values()
    (output,) = run(attn, operation, inputs, parameters).values()
    at = np.zeros(inputs.shape[:-1], bool)
    at[1, 2] = True
    assert np.isnan(output[at]).all()
    assert_same_bits(output[~at], clean[~at])
    differentiate = closed_form if attn is reference else functools.partial(by_framework, name_of(attn))
    found = differentiate(operation, inputs, parameters)
    others, cotangent = inputs[~at][None], cotangents(operation)[0][~at][None]
    expected = leaves(tuple(getattr(reference, f"{operation}_vjp")(others, parameters, cotangent)))
    assert not found["0"][at].any()
    assert_close(found["0"][~at][None], expected.pop("0"), TOLERANCE)
    for path, gradient in expected.items():
        assert_close(found[path], gradient, TOLERANCE)


# --- transforms


def test_torch_compiles_the_cell_whole() -> None:
    torch, attn = importlib.import_module("torch"), frameworks.load("torch")
    trees = native(attn, (*problem("gated_attention_cell"), VALID, KEEP))

    cell = attn.gated_attention_cell

    def step(inputs: Any, state: Any, parameters: Any, valid: Any, keep: Any) -> Any:
        return cell(inputs, state, parameters, valid=valid, dropout=Dropout(0.25, keep))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, found = leaves(step(*trees)), leaves(compiled(*trees))
    for path, result in expected.items():
        assert_close(to_numpy(found[path]), to_numpy(result), TOLERANCE)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_mapped_over_the_batch(name: str) -> None:
    attn = frameworks.load(name)
    inputs, state, parameters = native(attn, problem("gated_attention_cell"))
    step = functools.partial(attn.gated_attention_cell, parameters=parameters)
    mapped = importlib.import_module("torch.func" if name == "torch" else "jax").vmap(
        lambda inputs, memory, output, valid: tuple(
            leaves(step(inputs, CellState(memory, output), valid=valid)).values()
        )
    )
    found = mapped(inputs, *state, to_native(name, VALID))
    expected = run(reference, "gated_attention_cell", *problem("gated_attention_cell"), valid=VALID)
    for result, value in zip(found, expected.values(), strict=True):
        assert_close(to_numpy(result), value, TOLERANCE)


@pytest.mark.parametrize("name", ["torch", "tensorflow"])  # JAX takes seconds to compile the two steps
def test_gradients_through_two_steps_are_chained_closed_forms(name: str) -> None:
    attn = frameworks.load(name)
    inputs, state, parameters = problem("gated_attention_cell")
    options = {"valid": VALID, "dropout": DROPOUT}

    def two_steps(state: Any, parameters: Any) -> Any:
        for _ in range(2):
            result = attn.gated_attention_cell(to_native(name, inputs), state, parameters, **options)
            state = result.state
        return result.outputs

    function = of_leaves(two_steps, (state, parameters))
    cotangent = cotangents("gated_attention_cell")[0]
    _, found = gradients(name, function, leaves((state, parameters)), cotangent)

    middle = reference.gated_attention_cell(inputs, state, parameters, **options).state
    last = reference.gated_attention_cell_vjp(inputs, middle, parameters, cotangent, **options)
    first = reference.gated_attention_cell_vjp(
        inputs, state, parameters, np.zeros(cotangent.shape), state_cotangent=last.state, **options
    )
    for path, gradient in leaves((first.state, first.parameters)).items():
        later = leaves((map_leaves(np.zeros_like, state), last.parameters))[path]
        assert_close(found[path], gradient + later, TOLERANCE)


def test_tensorflow_graph_of_unknown_sizes() -> None:
    tf, attn = importlib.import_module("tensorflow"), frameworks.load("tensorflow")
    trees = native(attn, problem("gated_attention_cell"))
    unknown = map_leaves(lambda tensor: tf.TensorSpec([None] * len(tensor.shape), tf.float64), trees)

    @tf.function(input_signature=[*unknown, tf.TensorSpec([None, None], tf.bool)])
    def step(inputs: Any, state: Any, parameters: Any, valid: Any) -> Any:
        return attn.gated_attention_cell(inputs, state, parameters, valid=valid)

    for length in (5, 0):
        inputs, valid = trees[0][:, :length], tf.constant(VALID[:, :length])
        expected = run(
            reference,
            "gated_attention_cell",
            inputs.numpy(),
            *problem("gated_attention_cell")[1:],
            valid=VALID[:, :length],
        )
        for path, result in leaves(step(inputs, *trees[1:], valid)).items():
            assert_close(to_numpy(result), expected[path], TOLERANCE)
    wrong = trees[2]._replace(update_weight=trees[2].update_weight[:5])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"`update_weight` of `parameters` must have shape \(D, D\)"
    ):
        step(trees[0], trees[1], wrong, tf.constant(VALID))
    wrong = trees[2]._replace(gate_weight=trees[2].gate_weight[:2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="with K · n = D"):
        step(trees[0], trees[1], wrong, tf.constant(VALID))


def test_gated_attention_is_compiled(name: str) -> None:
    attn = frameworks.load(name)
    inputs, parameters = native(attn, BY_POSITION["gated_attention"])
    operation = attn.gated_attention

    def function(inputs: Any) -> Any:
        return operation(inputs, parameters)

    if name == "torch":
        compiled = importlib.import_module("torch").compile(function, fullgraph=True, backend="aot_eager")
    elif name == "jax":
        compiled = importlib.import_module("jax").jit(function)
    else:
        tf = importlib.import_module("tensorflow")
        compiled = tf.function(function, input_signature=[tf.TensorSpec([None, None, None], tf.float64)])
    expected = run(reference, "gated_attention", *BY_POSITION["gated_attention"])[""]
    assert_close(to_numpy(compiled(inputs)), expected, TOLERANCE)

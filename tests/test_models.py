"""Embedding, positions, pooling, text encoder, classifier and Transformer (S33–S36), in all four.

The reference is held against PyTorch's own modules and autograd (`oracle_models.py`), and against sums written out. All
numbers are of the size of 1 and both sides round every operation of some twenty in a row: 1e-13 of the largest result
is some fifty times what was measured, and far below what any wrong formula gives.
"""

import functools
import importlib
import math
from types import ModuleType
from typing import Any

import frameworks
import numpy as np
import pytest
from comparisons import UNIT_ROUNDOFF, assert_close, assert_same_bits
from frameworks import name_of
from model_cases import (
    CLASSIFIER,
    EVERY_OPTION,
    EVERYTHING,
    HEADS_OF,
    IDS,
    LENGTH,
    MAX_LENGTH,
    ORACLE_CASES,
    SHALLOW,
    SIZE,
    TARGET_IDS,
    TRANSFORMER,
    TRANSFORMER_EVERYTHING,
    VALID,
    VOCABULARY,
    embed,
    encoding,
    linear,
    run,
)
from native_tensors import NUMPY_DTYPES, Array, gradients, to_native, to_numpy

from attnspec import reference
from attnspec.contract.layer_parameters import (
    DecoderParameters,
    EncoderParameters,
    LinearParameters,
    SequenceClassifierParameters,
    TextEncoderParameters,
    TransformerParameters,
)
from attnspec.contract.states import map_leaves

TOLERANCE = 1e-13

SLOW = ("jax", "classifier")

SIDE = {"classifier": "inputs", "transformer": "source"}
"""What `valid` of each case with every option is about: vectors."""

# torch.compile and torch.func import parts of torch that use torch's own deprecated decorator.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")


# JAX compiles a program for each: those of the transformer hold every layer, the shallow classifier all that is around.
DIFFERENTIATED = [(name, case) for name in frameworks.FRAMEWORKS for case in EVERY_OPTION if (name, case) != SLOW]
READ = [(name, case) for name, case in DIFFERENTIATED if case in SIDE]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


@pytest.fixture(params=["reference", "torch", "tensorflow"], scope="module")
def quick(request: pytest.FixtureRequest) -> ModuleType:
    """Each module that does not compile every shape anew."""
    return frameworks.load(request.param)


@functools.cache
def program(name: str, case: str) -> Any:
    """Give a case with every option as a function of `valid` and of the arrays, which JAX compiles once."""
    ours = EVERY_OPTION[case]
    option = "source_valid" if case == "transformer" else "valid"

    def call(valid: Any, arrays: dict[str, Any]) -> Any:
        return ours.call(frameworks.load(name), arrays, **{option: valid})

    return importlib.import_module("jax").jit(call) if name == "jax" else call


def by_autodiff(
    name: str, case: str, vectors: Array | None = None, valid: Array = VALID, dtype: str = "float64"
) -> tuple[Array, dict[str, Array]]:
    """Call a case with every option, perhaps with other vectors, and differentiate it by a framework."""
    arrays = {path: array.astype(NUMPY_DTYPES[dtype]) for path, array in EVERY_OPTION[case].arrays.items()}
    arrays |= {} if vectors is None else {SIDE[case]: vectors}
    cotangent = expected_gradients(case)[0].astype(NUMPY_DTYPES[dtype])
    return gradients(name, lambda **given: program(name, case)(valid, given), arrays, cotangent)


@functools.cache
def expected_gradients(case: str) -> tuple[Array, Array, dict[str, Array]]:
    """Give cotangent, output and gradients of a case with every option by the reference."""
    ours = EVERY_OPTION[case]
    output = ours.call(reference, ours.arrays)
    cotangent = np.random.default_rng(5).standard_normal(output.shape)
    return cotangent, output, ours.gradients(cotangent)


def assert_all_close(actual: dict[str, Array], expected: dict[str, Array], factor: float) -> None:
    """Require every gradient to be within a share of the largest of them all."""
    assert actual.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for path, gradient in expected.items():
        error = np.abs(actual[path].astype(np.float64) - gradient).max()
        assert error <= factor * largest, f"{path}: {error:.3g} of {largest:.3g}"


# --- the reference against torch.nn

VISIBLE = {
    "vectors": np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) <= 2,
    "transformer": np.tril(np.ones((3, 3), bool)),
}


@pytest.mark.parametrize("case", ORACLE_CASES)
def test_torch_modules_give_the_same_numbers_and_gradients(case: str) -> None:
    frameworks.load("torch")
    torch, oracle = importlib.import_module("torch"), importlib.import_module("oracle_models")
    ours = ORACLE_CASES[case]
    given = {path: torch.tensor(array, requires_grad=True) for path, array in ours.arrays.items()}
    inputs = [given.get(name, torch.tensor(array)) for name, array in ours.inputs.items()]
    visible = torch.tensor(VISIBLE[case]) if case in VISIBLE else None
    expected = getattr(oracle, ours.operation)(*inputs, given, ours.options, visible)
    assert_close(ours.call(reference, ours.arrays), to_numpy(expected), TOLERANCE)

    cotangent = np.random.default_rng(3).standard_normal(expected.shape)
    expected.backward(torch.tensor(cotangent))
    assert_all_close(ours.gradients(cotangent), {path: to_numpy(leaf.grad) for path, leaf in given.items()}, TOLERANCE)


# --- every framework against the reference


@pytest.mark.parametrize(("name", "case"), DIFFERENTIATED)
def test_frameworks_agree_with_the_reference(name: str, case: str) -> None:
    frameworks.load(name)
    _, expected, expected_grads = expected_gradients(case)
    output, grads = by_autodiff(name, case)
    assert_close(output, expected, TOLERANCE)
    assert_all_close(grads, expected_grads, TOLERANCE)


@pytest.mark.parametrize("name", ["torch", "tensorflow"])  # JAX's program for another dtype takes seconds to compile
def test_float32_gradients(name: str) -> None:
    """Some hundred roundings add up, most of them with either sign; the inputs were rounded too."""
    frameworks.load(name)
    _, expected, expected_grads = expected_gradients("transformer")
    output, grads = by_autodiff(name, "transformer", dtype="float32")
    assert output.dtype == np.float32
    assert_close(output, expected, 100 * UNIT_ROUNDOFF["float32"])
    assert_all_close(grads, expected_grads, 100 * UNIT_ROUNDOFF["float32"])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("torch", "bfloat16"), ("torch", "float32"), ("tensorflow", "float16"), ("jax", "bfloat16"), ("jax", "float32")],
)
def test_results_are_rounded_once(name: str, dtype: str) -> None:
    """Half precisions differ from float64 by the last rounding and by what float32 would differ."""
    attn, case = frameworks.load(name), SHALLOW if name == "jax" else CLASSIFIER
    rounded = {path: array.astype(NUMPY_DTYPES[dtype]) for path, array in case.arrays.items()}
    output = to_numpy(case.call(attn, {path: to_native(name, array) for path, array in rounded.items()}))
    assert output.dtype == NUMPY_DTYPES[dtype]
    expected = case.call(reference, {path: array.astype(np.float64) for path, array in rounded.items()})
    largest, unit = np.abs(expected).max(), UNIT_ROUNDOFF[dtype] if dtype != "float32" else 0.0
    error = np.abs(output.astype(np.float64) - expected)
    assert (error <= unit * np.abs(expected) + 100 * UNIT_ROUNDOFF["float32"] * largest).all()


def test_padded_ids(quick: ModuleType) -> None:
    """JAX is asked in `test_jax_maps_over_the_batch`."""
    assert_close(run(quick, CLASSIFIER), CLASSIFIER.call(reference, CLASSIFIER.arrays), TOLERANCE)


def test_a_sequence_without_a_batch(quick: ModuleType) -> None:
    alone = CLASSIFIER._replace(inputs={"inputs": IDS[1]}, options={**CLASSIFIER.options, "valid": VALID[1]})
    assert_close(run(quick, alone), CLASSIFIER.call(reference, CLASSIFIER.arrays)[1], TOLERANCE)


def test_the_tutorial_classifier(attn: ModuleType) -> None:
    """Vocabulary 9, 12 components, 4 heads, 2 layers, 2 classes: two sequences of four ids give two rows of two."""
    rng = np.random.default_rng(7)

    def resized(array: Array) -> Array:
        return rng.standard_normal([{SIZE: 12, VOCABULARY: 9, 3: 2}.get(size, size) for size in array.shape]) / 4

    body = TextEncoderParameters(embed(), None, None, encoding(2))
    parameters = map_leaves(resized, SequenceClassifierParameters(body, linear(SIZE, 3)))
    ids = [[1, 2, 3, 4], [5, 6, 7, 8]]
    scores = to_numpy(attn.sequence_classifier(ids, parameters, num_heads=4))
    assert scores.shape == (2, 2)
    expected = reference.sequence_classifier(np.array(ids), parameters, num_heads=4, valid=np.ones((2, 4), bool))
    assert_close(scores, expected, TOLERANCE)
    assert np.abs(scores[0] - scores[1]).max() > 0.01


# --- embedding

WEIGHT = np.arange(1.0, 13.0).reshape(4, 3)
FEW = np.array([[3, 0, 3], [1, 3, 0]])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "list"])
def test_ids_pick_rows(attn: ModuleType, dtype: str) -> None:
    ids = FEW.tolist() if dtype == "list" else to_native(name_of(attn), FEW.astype(dtype))
    output = to_numpy(attn.embedding(ids, LinearParameters(WEIGHT, [0.5, 0.0, -0.5])))
    rows = {0: [1.5, 2.0, 2.5], 1: [4.5, 5.0, 5.5], 3: [10.5, 11.0, 11.5]}
    assert output.tolist() == [[rows[i] for i in sequence] for sequence in FEW.tolist()]


def test_ids_are_one_hot_rows(attn: ModuleType) -> None:
    parameters = LinearParameters(WEIGHT)
    vectors = to_numpy(attn.embedding(np.eye(4)[FEW], parameters))
    assert_same_bits(vectors, to_numpy(attn.embedding(FEW, parameters)))
    assert to_numpy(attn.embedding([[], []], parameters)).shape == (2, 0, 3)


def test_gradients_of_rows_are_added_up_over_ids(name: str) -> None:
    cotangent = np.arange(18.0).reshape(2, 3, 3)
    expected = np.zeros((4, 3))
    for place in np.ndindex(FEW.shape):
        expected[FEW[place]] += cotangent[place]

    def function(weight: Any, bias: Any) -> Any:
        return frameworks.load(name).embedding(FEW, LinearParameters(weight, bias))

    _, grads = gradients(name, function, {"weight": WEIGHT, "bias": np.zeros(3)}, cotangent)
    assert_same_bits(grads["weight"], expected)
    assert_same_bits(grads["bias"], cotangent.sum((0, 1)))
    pulled = reference.embedding_vjp(FEW, LinearParameters(WEIGHT, np.zeros(3)), cotangent)
    assert pulled.inputs is None
    assert_same_bits(pulled.parameters.weight, expected)
    assert_same_bits(pulled.parameters.bias, cotangent.sum((0, 1)))


def test_gradients_of_vectors() -> None:
    rng = np.random.default_rng(2)
    vectors, cotangent = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 3))
    pulled = reference.embedding_vjp(vectors, LinearParameters(WEIGHT), cotangent)
    assert_close(pulled.inputs, cotangent @ WEIGHT.T)
    assert_close(pulled.parameters.weight, sum(x.T @ g for x, g in zip(vectors, cotangent, strict=True)))
    assert pulled.parameters.bias is None


def test_gradients_of_a_row_are_rounded_once(name: str) -> None:
    """In bfloat16, 256 + 1 is 256: a sum of 300 ones would stay there."""
    weight = WEIGHT.astype(NUMPY_DTYPES["bfloat16"])

    def function(weight: Any) -> Any:
        return frameworks.load(name).embedding(np.zeros(300, np.int64), LinearParameters(weight))

    _, grads = gradients(name, function, {"weight": weight}, np.ones((300, 3), weight.dtype))
    assert grads["weight"].astype(np.float64).tolist() == [[300.0] * 3] + [[0.0] * 3] * 3


def test_rows_that_no_id_picks_are_not_read(name: str) -> None:
    poisoned, cotangent = WEIGHT.copy(), np.ones((2, 3, 3))
    poisoned[2] = np.nan

    def function(weight: Any) -> Any:
        return frameworks.load(name).embedding(FEW, LinearParameters(weight))

    output, grads = gradients(name, function, {"weight": poisoned}, cotangent)
    assert_same_bits(output, WEIGHT[FEW])
    assert grads["weight"][:, 0].tolist() == [2.0, 1.0, 0.0, 3.0]


def test_a_vector_that_is_not_finite_gives_nan_at_its_own_position(attn: ModuleType) -> None:
    vectors = np.eye(4)[FEW]
    vectors[1, 2, 0] = np.inf
    rows = to_numpy(attn.embedding(vectors, LinearParameters(WEIGHT)))
    assert np.argwhere(np.isnan(rows)).tolist() == [[1, 2, 0], [1, 2, 1], [1, 2, 2]]


BAD_IDS = np.array([[1, 4, -1], [0, 3, -7]], np.int32)
IS_BAD = (BAD_IDS < 0) | (BAD_IDS > 3)


@pytest.mark.parametrize("way", ["torch-vmap", "tensorflow-function", "jax-jit", "jax-vmap"])
def test_ids_that_cannot_be_read_give_nan_where_they_are_no_rows(way: str) -> None:
    name, transform = way.split("-")
    frameworks.load(name)
    module, parameters = frameworks.load(name), LinearParameters(to_native(name, WEIGHT))

    def function(ids: Any) -> Any:
        return module.embedding(ids, parameters)

    if name == "torch":
        changed = importlib.import_module("torch").func.vmap(function)
    elif name == "tensorflow":
        tf = importlib.import_module("tensorflow")
        changed = tf.function(function, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    else:
        changed = getattr(importlib.import_module("jax"), transform)(function)
    output = to_numpy(changed(to_native(name, BAD_IDS)))
    np.testing.assert_array_equal(np.isnan(output), np.broadcast_to(IS_BAD[..., None], (2, 3, 3)))
    assert_same_bits(output[~IS_BAD], WEIGHT[BAD_IDS[~IS_BAD]])


# --- positions


@pytest.mark.parametrize("offset", [0, 4, "native"])
def test_sinusoidal_positions_are_added(attn: ModuleType, offset: Any) -> None:
    inputs = np.random.default_rng(4).standard_normal((2, 3, 4))
    start = 4 if offset == "native" else offset
    given = to_native(name_of(attn), np.array(4)) if offset == "native" else offset
    output = to_numpy(attn.add_sinusoidal_positions(inputs, offset=given, base=100.0))
    waves = [[f(p / 10.0**c) for c in range(2) for f in (math.sin, math.cos)] for p in range(start, start + 3)]
    assert_close(output, inputs + np.array(waves), 1e-15)


@pytest.mark.parametrize("offset", [0, 3, "native"])
def test_learned_positions_are_added(attn: ModuleType, offset: Any) -> None:
    rng = np.random.default_rng(4)
    inputs, table = rng.standard_normal((2, 3, 4)), rng.standard_normal((6, 4))
    table[:3] = np.nan if offset else table[:3]  # rows that are not read
    start = 3 if offset == "native" else offset
    given = to_native(name_of(attn), np.array(3)) if offset == "native" else offset
    output = to_numpy(attn.add_learned_positions(inputs, table, offset=given))
    assert_same_bits(output, inputs + table[start : start + 3])


def test_gradients_of_learned_positions(name: str) -> None:
    rng = np.random.default_rng(4)
    arrays = {"inputs": rng.standard_normal((2, 3, 4)), "table": rng.standard_normal((6, 4))}
    cotangent = rng.standard_normal((2, 3, 4))
    function = functools.partial(frameworks.load(name).add_learned_positions, offset=2)
    _, grads = gradients(name, function, arrays, cotangent)
    expected = np.zeros((6, 4))
    expected[2:5] = cotangent[0] + cotangent[1]
    assert_same_bits(grads["inputs"], cotangent)
    assert_close(grads["table"], expected, 1e-15)
    pulled = reference.add_learned_positions_vjp(*arrays.values(), cotangent, offset=2)
    assert_same_bits(pulled.inputs, cotangent)
    assert_close(pulled.table, expected, 1e-15)


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_an_offset_that_cannot_be_read(name: str) -> None:
    """It needs no compilation of its own, and positions beyond the table are NaN."""
    frameworks.load(name)
    inputs, table = to_native(name, np.zeros((3, 2))), to_native(name, np.arange(8.0).reshape(4, 2))

    def function(offset: Any) -> Any:
        module = frameworks.load(name)
        return module.add_learned_positions(inputs, table, offset=offset) + module.add_sinusoidal_positions(
            inputs, offset=offset
        )

    if name == "jax":
        changed = importlib.import_module("jax").jit(function)
    else:
        tf = importlib.import_module("tensorflow")
        changed = tf.function(function, input_signature=[tf.TensorSpec([], tf.int32)])
    for start in (1, 2, 4, -2):
        output = to_numpy(changed(to_native(name, np.array(start, np.int32))))
        places = np.arange(start, start + 3)
        has_row = (places >= 0) & (places < 4)
        np.testing.assert_array_equal(np.isnan(output), np.broadcast_to(~has_row[:, None], (3, 2)))
        waves = np.array([[math.sin(p), math.cos(p)] for p in places[has_row]]).reshape(-1, 2)
        assert_close(output[has_row], np.arange(8.0).reshape(4, 2)[places[has_row]] + waves, 1e-15)


# --- pooling


def test_the_mean_over_valid_positions(attn: ModuleType) -> None:
    inputs = np.array([[[1.0, 2.0], [3.0, np.nan], [5.0, 8.0]], [[np.inf, 1.0]] * 3])
    valid = [[True, False, True], [False, False, False]]
    assert to_numpy(attn.mean_pooling(inputs, valid=valid)).tolist() == [[3.0, 5.0], [0.0, 0.0]]
    np.testing.assert_array_equal(to_numpy(attn.mean_pooling(inputs)), [[3.0, np.nan], [np.inf, 1.0]])
    assert to_numpy(attn.mean_pooling(np.zeros((2, 0, 3)))).tolist() == [[0.0] * 3] * 2


def test_gradients_of_the_mean(name: str) -> None:
    inputs = np.full((2, 3, 2), np.nan)
    valid = np.array([[True, False, True], [False, False, False]])
    inputs[valid] = 1.0
    cotangent = np.array([[2.0, -1.0], [3.0, 5.0]])
    expected = np.zeros((2, 3, 2))
    expected[0, [0, 2]] = [1.0, -0.5]
    _, grads = gradients(
        name, functools.partial(frameworks.load(name).mean_pooling, valid=valid), {"inputs": inputs}, cotangent
    )
    assert_same_bits(grads["inputs"], expected)
    assert_same_bits(reference.mean_pooling_vjp(inputs, cotangent, valid=valid).inputs, expected)


# --- padding, order and dropout


def poisoned(case: str, valid: Array) -> Array:
    """Give the vectors that a case reads, NaN at every position that is not valid."""
    vectors = EVERY_OPTION[case].inputs[SIDE[case]].copy()
    vectors[~valid] = np.nan
    return vectors


@pytest.mark.parametrize(("name", "case"), READ)
def test_padding_is_not_read(name: str, case: str) -> None:
    """Not one bit of the output and of any gradient depends on what stands at positions that are not valid."""
    frameworks.load(name)
    output, grads = by_autodiff(name, case)
    other_output, other_grads = by_autodiff(name, case, poisoned(case, VALID))
    assert np.isfinite(output).all()
    assert_same_bits(other_output, output)
    for path, gradient in grads.items():
        assert_same_bits(other_grads[path], gradient)
    assert not grads[SIDE[case]][~VALID].any()
    assert grads[SIDE[case]][VALID].any(-1).all()


@pytest.mark.parametrize("case", SIDE)
def test_the_reference_does_not_read_padding(case: str) -> None:
    ours = EVERY_OPTION[case]
    cotangent, output, expected = expected_gradients(case)
    dirty = ours._replace(inputs={**ours.inputs, SIDE[case]: poisoned(case, VALID)})
    assert_same_bits(dirty.call(reference, dirty.arrays), output)
    for path, gradient in dirty.gradients(cotangent).items():
        assert_same_bits(gradient, expected[path])


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_a_sequence_of_padding_gives_the_bias_of_the_head(name: str) -> None:
    """And no gradient: it is as if it were not there."""
    frameworks.load(name)
    valid = np.array([[True] * LENGTH, [False] * LENGTH])
    vectors = poisoned("classifier", valid)
    output, grads = by_autodiff(name, "classifier", vectors, valid)
    assert_same_bits(output[1], EVERYTHING.parameters.head.bias)
    assert not grads["inputs"][1].any()
    case = EVERYTHING._replace(inputs={"inputs": vectors}, options={**EVERYTHING.options, "valid": valid})
    assert_all_close(grads, case.gradients(expected_gradients("classifier")[0]), TOLERANCE)


def test_padding_may_stand_anywhere(quick: ModuleType) -> None:
    """Without positions the classifier reads a set: neither order nor padding matters."""
    body = CLASSIFIER.parameters.body._replace(positions=None)
    case = CLASSIFIER._replace(
        parameters=CLASSIFIER.parameters._replace(body=body), options={**CLASSIFIER.options, "positions": None}
    )
    moved = np.array([[0, 4, 1, 10, 4, 8, 8], [6, 2, 8, 7, 0, 1, 5]])
    valid = np.array([[True] * 5 + [False] * 2, [False, True, False, True, False, True, False]])
    expected = run(quick, case)
    shuffled = case._replace(inputs={"inputs": moved}, options={**case.options, "valid": valid})
    assert_close(run(quick, shuffled), expected, TOLERANCE)


def test_more_padding_behind_changes_nothing(quick: ModuleType) -> None:
    longer = CLASSIFIER._replace(
        inputs={"inputs": np.concatenate([IDS, [[5, 5], [6, 6]]], axis=1)},
        options={**CLASSIFIER.options, "valid": np.concatenate([VALID, np.zeros((2, 2), bool)], axis=1)},
    )
    assert longer.inputs["inputs"].shape[1] == MAX_LENGTH
    assert_close(run(quick, longer), run(quick, CLASSIFIER), TOLERANCE)


def test_a_transformer_does_not_look_ahead(quick: ModuleType) -> None:
    changed = TRANSFORMER._replace(inputs={"source": IDS, "target": np.where([False, False, True], 7, TARGET_IDS)})
    before, after = run(quick, TRANSFORMER), run(quick, changed)
    assert_same_bits(after[:, :2], before[:, :2])
    assert np.abs(after[:, 2] - before[:, 2]).max() > 1e-3
    ahead = run(quick, changed, target_mask=None)
    assert np.abs(ahead[:, :2] - run(quick, TRANSFORMER, target_mask=None)[:, :2]).max() > 1e-3


def test_a_text_encoder_is_its_parts() -> None:
    """Embedding, positions, normalisation, dropout and encoder, in this order, as a caller would put them together."""
    body, options = EVERYTHING.parameters.body, EVERYTHING.options
    rows = reference.embedding(IDS, body.embedding)
    rows = reference.layer_norm(reference.add_learned_positions(rows, body.positions), body.embedding_norm)
    rows = np.where(options["dropout"].embedding.keep, rows / 0.75, 0.0)
    settings = {name: options[name] for name in ("num_heads", "bias", "rotary")}
    mask = options["mask"] & VALID[:, None, None, :]
    expected = reference.encoder(rows, body.encoder, **settings, mask=mask, dropout=options["dropout"].layers)
    assert_same_bits(reference.text_encoder(IDS, body, **options), expected)


def test_a_transformer_is_its_parts() -> None:
    inputs, parameters, options = TRANSFORMER_EVERYTHING.inputs, *TRANSFORMER_EVERYTHING[2:]
    settings, dropout = (
        {name: options[name] for name in ("num_heads", "norm", "activation", "rotary")},
        options["dropout"],
    )
    source = reference.add_learned_positions(inputs["source"], parameters.source_positions)
    source = np.where(dropout.source.keep, source / 0.75, 0.0)
    hidden = VALID[:, None, None, :]
    memory = reference.encoder(source, parameters.encoder, **settings, mask=hidden, dropout=dropout.encoder)
    target = reference.embedding(inputs["target"], parameters.target_embedding)
    target = reference.add_learned_positions(target, parameters.target_positions)
    target = np.where(dropout.target.keep, target / 0.75, 0.0)
    masks = {"mask": options["target_mask"], "memory_mask": hidden}
    rows = reference.decoder(target, memory, parameters.decoder, **settings, **masks, dropout=dropout.decoder)
    expected = rows @ parameters.head.weight + parameters.head.bias
    assert_same_bits(TRANSFORMER_EVERYTHING.call(reference, TRANSFORMER_EVERYTHING.arrays), expected)


def test_models_without_layers(attn: ModuleType) -> None:
    """What is left is what stands before and behind them; a Transformer may even have no parameters."""
    rows = np.random.default_rng(1).standard_normal((2, 3, 4))
    nothing = TransformerParameters(EncoderParameters(()), DecoderParameters(()))
    output = to_numpy(attn.transformer(rows, rows[:, :2], nothing, num_heads=1, positions=None))
    assert_same_bits(output, rows[:, :2])
    encoder = TextEncoderParameters(LinearParameters(WEIGHT), None, None, EncoderParameters(()))
    output = to_numpy(attn.text_encoder(FEW, encoder, num_heads=1, positions=None))
    assert_same_bits(output, WEIGHT[FEW])


def test_sequences_without_positions(quick: ModuleType) -> None:
    ids, valid = np.zeros((2, 0), np.int64), np.zeros((2, 0), bool)
    case = CLASSIFIER._replace(inputs={"inputs": ids}, options={**CLASSIFIER.options, "valid": valid})
    assert_same_bits(run(quick, case), np.stack([CLASSIFIER.parameters.head.bias] * 2))


# --- transformations


def test_jax_maps_over_the_batch() -> None:
    frameworks.load("jax")
    jax = importlib.import_module("jax")
    native = {path: to_native("jax", array) for path, array in CLASSIFIER.arrays.items()}

    def alone(ids: Any, valid: Any) -> Any:
        case = CLASSIFIER._replace(inputs={"inputs": ids}, options={**CLASSIFIER.options, "valid": valid})
        return case.call(frameworks.load("jax"), native)

    mapped = jax.jit(jax.vmap(alone))(IDS, VALID)
    assert_close(to_numpy(mapped), CLASSIFIER.call(reference, CLASSIFIER.arrays), TOLERANCE)


def test_torch_compiles_a_classifier_in_one_graph() -> None:
    """Ids outside the vocabulary, which it cannot read, are NaN: of the sequence that reads them, and of no other."""
    attn, torch = frameworks.load("torch"), importlib.import_module("torch")
    parameters = map_leaves(torch.tensor, CLASSIFIER.parameters)

    def function(ids: Any, valid: Any) -> Any:
        return attn.sequence_classifier(ids, parameters, valid=valid, positions="learned", **HEADS_OF)

    compiled, expected = torch.compile(function, fullgraph=True, backend="aot_eager"), run(attn, CLASSIFIER)
    assert_close(to_numpy(compiled(torch.tensor(IDS), torch.tensor(VALID))), expected, TOLERANCE)
    unknown = IDS.copy()
    unknown[0, 1], unknown[1, 4] = VOCABULARY, -1  # the second of them is padding
    output = to_numpy(compiled(torch.tensor(unknown), torch.tensor(VALID)))
    assert np.isnan(output[0]).all()
    assert_close(output[1], expected[1], TOLERANCE)


def test_tensorflow_unknown_sizes() -> None:
    frameworks.load("tensorflow")
    tf = importlib.import_module("tensorflow")
    parameters = map_leaves(tf.constant, TRANSFORMER.parameters)
    ids, flags = tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None, None], tf.bool)

    @tf.function(input_signature=[ids, ids, flags, tf.TensorSpec([None, SIZE], tf.float64)])
    def function(source: Any, target: Any, valid: Any, weight: Any) -> Any:
        given = parameters._replace(source_embedding=LinearParameters(weight))
        with tf.GradientTape() as tape:
            tape.watch(weight)
            output = frameworks.load("tensorflow").transformer(source, target, given, source_valid=valid, **HEADS_OF)
        return output, tape.gradient(output, weight)

    weight = TRANSFORMER.parameters.source_embedding.weight
    output, gradient = function(IDS, TARGET_IDS, VALID, weight)
    expected = TRANSFORMER.call(reference, TRANSFORMER.arrays)
    assert_close(to_numpy(output), expected, TOLERANCE)
    expected_gradient = TRANSFORMER.gradients(np.ones(expected.shape))["source_embedding.weight"]
    assert_close(to_numpy(gradient), expected_gradient, TOLERANCE)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        function(IDS, TARGET_IDS[:1], VALID, weight)
    assert "`target` must have the batch axes of `source`; got batch shapes source (?,) and target (?,)" in str(
        caught.value
    )

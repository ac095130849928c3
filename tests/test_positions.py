"""Rotary embedding and sinusoidal positions against an oracle of 50 digits, in every module."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import frameworks
import numpy as np
import oracle_positions
import pytest
from attention_cases import Array
from comparisons import assert_close, assert_same_bits, assert_within
from native_tensors import NUMPY_DTYPES, to_native, to_numpy
from option_cases import assert_native, by_module

from attnspec import reference
from attnspec.conformance.position_bounds import rotary_bound, sinusoidal_bound
from attnspec.conformance.profiles import default_profile

PAIRINGS = ["half_split", "interleaved"]
SHAPES = {2: (5, 6), 3: (2, 5, 6), 4: (2, 3, 5, 6), 5: (2, 2, 3, 5, 6)}


class Rotation(NamedTuple):
    """One call of `rotary_embedding`."""

    shape: tuple[int, ...]
    positions: Array
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to

    @property
    def inputs(self) -> Array:
        """Draw them."""
        return np.random.default_rng([len(self.shape), 12]).standard_normal(self.shape)


def positions_of(shape: tuple[int, ...], batched: bool = True, kind: str = "int") -> Array:
    """Draw positions (T,) or (*B, T): 0, negative ones and large ones among them."""
    batch = shape[:-3] if len(shape) > 3 else shape[:-2]
    rng = np.random.default_rng(13)
    positions = rng.integers(-30, 300, (*batch, shape[-2]) if batched else shape[-2:-1])
    positions.flat[:1] = 0
    return positions + 0.37 if kind == "float" else positions


def _cases() -> dict[str, Rotation]:
    cases: dict[str, Rotation] = {}
    for rank, shape in SHAPES.items():
        cases[f"rank{rank}-shared"] = Rotation(shape, positions_of(shape, batched=False))
        cases[f"rank{rank}-batch"] = Rotation(shape, positions_of(shape))
        cases[f"rank{rank}-float"] = Rotation(shape, positions_of(shape, kind="float"), {"rotary_dim": 4})
    shape = SHAPES[4]
    for base in (2.0, 10000, 5e5, 0.5):
        cases[f"base{base}"] = Rotation(shape, positions_of(shape), {"base": base})
    for size in (0, 2, 4, 6):
        cases[f"rotary_dim{size}"] = Rotation(shape, positions_of(shape), {"rotary_dim": size})
    for label, frequencies in {"list": [1.0, 0.25, -0.5], "array": np.array([0.3, 0.0, 2.0])}.items():
        cases[f"frequencies-{label}"] = Rotation(shape, positions_of(shape), {"frequencies": frequencies})
    cases["frequencies-partial"] = Rotation(shape, positions_of(shape), {"frequencies": [0.1, 3.0], "rotary_dim": 4})
    cases["no_heads"] = Rotation((2, 0, 5, 6), positions_of((2, 0, 5, 6)))
    cases["no_length"] = Rotation((2, 3, 0, 6), np.zeros((2, 0), np.int64))
    return cases


CASES = _cases()
JAX = [
    "rank2-shared",
    "rank3-float",
    "rank4-batch",
    "rank5-batch",
    "base500000.0",
    "rotary_dim2",
    "frequencies-partial",
]
NARROW = ["rank2-shared", "rank4-batch", "rank5-float", "base500000.0", "rotary_dim4"]


@pytest.fixture(params=frameworks.FRAMEWORKS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """Name each framework whose backend is installed."""
    frameworks.load(request.param)
    return request.param


# --- rotary embedding


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("attn", "case"), by_module(CASES, JAX, frameworks.MODULES), indirect=["attn"])
def test_rotary_embedding(attn: ModuleType, case: str, pairing: str) -> None:
    """Angles of up to 300 radians are known to 300 · 2^-52 or so."""
    name, inputs, (_, positions, options) = frameworks.name_of(attn), CASES[case].inputs, CASES[case]
    expected = oracle_positions.rotary_embedding(inputs, positions, pairing=pairing, **options)
    actual = attn.rotary_embedding(to_native(name, inputs), to_native(name, positions), pairing=pairing, **options)
    assert_native(name, actual, "float64") if name != "reference" else None
    assert to_numpy(actual).dtype == np.float64
    assert_close(to_numpy(actual), expected, 3e-13)
    size = options.get("rotary_dim", 6)
    assert_same_bits(to_numpy(actual)[..., size:], inputs[..., size:])
    # The rounding of an angle moves both components; what the angle is turns no length.
    assert_close((to_numpy(actual) ** 2).sum(-1), (inputs**2).sum(-1), 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("case", NARROW)
def test_rotary_embedding_in_narrow_dtypes(name: str, case: str, pairing: str, dtype: str) -> None:
    _, positions, options = CASES[case]
    positions = positions.astype(np.float32) if positions.dtype.kind == "f" else positions
    inputs = CASES[case].inputs.astype(NUMPY_DTYPES[dtype])
    options = {**options, "pairing": pairing}
    expected = reference.rotary_embedding(inputs, positions, **options)
    bound = rotary_bound(inputs.astype(np.float64), np.asarray(positions, np.float64), options, default_profile(dtype))
    actual = frameworks.load(name).rotary_embedding(to_native(name, inputs), to_native(name, positions), **options)
    assert_native(name, actual, dtype)
    assert_within(to_numpy(actual), expected, bound)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_float32_at_positions_up_to_a_million(name: str, pairing: str, base: float) -> None:
    """An angle of p radians is known to p · 2^-23: at 10^6 to 0.06 radians, and no better in any framework."""
    positions = np.array([1, 10, 100, 1000, 4097, 65537, 131071, 999_999, 10**6])
    inputs = np.random.default_rng(3).standard_normal((2, 9, 64)).astype(np.float32)
    options = {"pairing": pairing, "base": base}
    expected = oracle_positions.rotary_embedding(inputs.astype(np.float64), positions, **options)
    bound = rotary_bound(inputs.astype(np.float64), positions.astype(np.float64), options, default_profile("float32"))
    actual = frameworks.load(name).rotary_embedding(to_native(name, inputs), to_native(name, positions), **options)
    assert_within(to_numpy(actual), expected, bound)
    error = np.abs(to_numpy(actual) - expected).max(axis=(0, 2))
    assert error[:3].max() < 1e-4  # the bound says something: small positions are far more exact than large ones
    assert_close(reference.rotary_embedding(inputs, positions, **options), expected, 1e-9)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("base", [100.0, 10000.0])
def test_products_depend_on_the_distance_alone(attn: ModuleType, pairing: str, base: float) -> None:
    rng = np.random.default_rng(5)
    query, key = (np.tile(rng.standard_normal(8), (60, 1)) for _ in range(2))
    positions = np.arange(60)
    turned = [
        to_numpy(attn.rotary_embedding(array, positions + shift, pairing=pairing, base=base))
        for array, shift in ((query, 0), (key, 0), (query, 1000), (key, 1000))
    ]
    products, moved = turned[0] @ turned[1].T, turned[2] @ turned[3].T
    assert_close(moved, products, 1e-12)
    for distance in (0, 1, 17, 59):
        diagonal = np.diagonal(products, distance)
        assert_close(diagonal, np.full(diagonal.shape, diagonal[0]), 1e-13)
    assert np.ptp(products) > 1.0  # and they do depend on it


def test_the_pairings_are_permutations_of_each_other(attn: ModuleType) -> None:
    inputs, positions = np.random.default_rng(1).standard_normal((2, 5, 8)), np.arange(5) * 7
    order = np.arange(8).reshape(2, 4).T.reshape(-1)  # 0 4 1 5 2 6 3 7
    halves = to_numpy(attn.rotary_embedding(inputs, positions, pairing="half_split"))
    neighbours = to_numpy(attn.rotary_embedding(inputs[..., order], positions, pairing="interleaved"))
    assert_same_bits(neighbours, halves[..., order])


def test_by_hand(attn: ModuleType) -> None:
    """A quarter turn takes (1, 0) to (0, 1); position 0 turns nothing."""
    inputs = np.array([[1.0, 2.0, 3.0, 4.0]] * 2)
    options = {"positions": np.array([0, 1]), "frequencies": np.array([math.pi / 2, math.pi])}
    actual = to_numpy(attn.rotary_embedding(inputs, pairing="half_split", **options))
    assert_close(actual, np.array([[1.0, 2.0, 3.0, 4.0], [-3.0, -2.0, 1.0, -4.0]]))
    actual = to_numpy(attn.rotary_embedding(inputs, pairing="interleaved", **options))
    assert_close(actual, np.array([[1.0, 2.0, 3.0, 4.0], [-2.0, 1.0, -3.0, -4.0]]))


def test_positions_as_lists_and_of_any_dtype(attn: ModuleType) -> None:
    name, inputs = frameworks.name_of(attn), np.random.default_rng(1).standard_normal((2, 3, 4, 6))
    places = np.array([[0, 5, 2, 7], [1, 1, 120, 3]])
    expected = attn.rotary_embedding(inputs, places, pairing="half_split")
    kinds: list[Any] = [places.tolist(), *(places.astype(kind) for kind in ("uint8", "int32", "float32", "float64"))]
    kinds += [to_native(name, places.astype(np.int32)), to_native(name, places.astype(np.float32))]
    for positions in kinds:
        assert_same_bits(to_numpy(attn.rotary_embedding(inputs, positions, pairing="half_split")), to_numpy(expected))


def test_positions_are_not_rounded_to_a_half_precision(name: str) -> None:
    """4097 and 4096 are the same bfloat16, and different positions."""
    attn = frameworks.load(name)
    inputs = np.ones((2, 2), NUMPY_DTYPES["bfloat16"])
    actual = to_numpy(attn.rotary_embedding(to_native(name, inputs), np.array([4096, 4097]), pairing="half_split"))
    expected = reference.rotary_embedding(inputs, np.array([4096, 4097]), pairing="half_split")
    assert np.abs(actual.astype(np.float64) - expected).max() < 0.02
    assert np.abs(np.diff(expected, axis=0)).max() > 0.5


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poison_stays_in_its_pair(attn: ModuleType, poison: float) -> None:
    inputs = np.random.default_rng(1).standard_normal((2, 3, 4, 8))
    clean = to_numpy(attn.rotary_embedding(inputs, np.arange(1, 5), pairing="half_split", rotary_dim=6))
    inputs[1, 2, 3, 1] = poison
    dirty = to_numpy(attn.rotary_embedding(inputs, np.arange(1, 5), pairing="half_split", rotary_dim=6))
    touched = np.zeros(inputs.shape, bool)
    touched[1, 2, 3, [1, 4]] = True
    np.testing.assert_array_equal(np.isfinite(dirty), ~touched)
    assert_same_bits(dirty[~touched], clean[~touched])


# --- given tables

TABLES = [f"{rank}-{kind}" for rank in SHAPES for kind in ("shared", "batch")]


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(
    ("attn", "case"), by_module(TABLES, ["2-shared", "5-batch"], frameworks.MODULES), indirect=["attn"]
)
def test_rotate_pairs(attn: ModuleType, case: str, pairing: str) -> None:
    """The tables need not be cosines and sines; components beyond them pass."""
    rank, batched = int(case[0]), case.endswith("batch")
    shape, rng = SHAPES[rank], np.random.default_rng(7)
    inputs = rng.standard_normal(shape)
    batch = shape[:-3] if rank > 3 else shape[:-2]
    cosines, sines = rng.standard_normal((2, *(batch if batched else ()), shape[-2], 2))
    expected = np.empty(shape)
    for at in np.ndindex(shape[:-1]):
        place = (*((at[:-2] if rank > 3 else at[:-1]) if batched else ()), at[-1])
        row = oracle_positions.rotate_pairs(
            inputs[at].tolist(), cosines[place].tolist(), sines[place].tolist(), pairing=pairing
        )
        expected[at] = [float(x) for x in row]
    actual = to_numpy(attn.rotate_pairs(inputs, cosines, sines, pairing=pairing))
    assert_close(actual, expected, 1e-15)
    assert_same_bits(actual[..., 4:], inputs[..., 4:])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rotary_embedding_is_rotate_pairs_with_its_tables(attn: ModuleType, pairing: str) -> None:
    inputs = np.random.default_rng(1).standard_normal((2, 3, 5, 6))
    positions = np.array([[0, 1, 2, 3, 4], [8, 8, 1, 0, 90]])
    angles = positions[..., None] * np.array([10000.0 ** (-2 * c / 6) for c in range(3)])
    by_tables = attn.rotate_pairs(inputs, np.cos(angles), np.sin(angles), pairing=pairing)
    turned = attn.rotary_embedding(inputs, positions, pairing=pairing)
    assert_close(to_numpy(turned), to_numpy(by_tables), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rotate_pairs_in_narrow_dtypes(name: str, dtype: str) -> None:
    """Three roundings of the accumulation, and one of the result; float32 tables beside a half are not rounded."""
    rng, attn = np.random.default_rng(7), frameworks.load(name)
    inputs = rng.standard_normal((2, 3, 5, 6)).astype(NUMPY_DTYPES[dtype])
    tables = rng.standard_normal((2, 5, 3)).astype(np.float32)
    expected = reference.rotate_pairs(inputs, *tables, pairing="interleaved")
    actual = attn.rotate_pairs(
        to_native(name, inputs), *(to_native(name, table) for table in tables), pairing="interleaved"
    )
    assert_native(name, actual, dtype)
    unit = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    size = np.abs(inputs.astype(np.float64)).max() * np.abs(tables).max()
    assert_within(to_numpy(actual), expected, 4 * 2.0**-24 * size + unit * np.abs(expected) + 2.0**-24 * (unit > 0))


# --- sinusoidal positions


ENCODED: dict[str, tuple[Any, int, float]] = {
    f"{label}-{size}-{base}": (positions, size, base)
    for label, positions in {
        "none": 0,
        "one": 1,
        "seven": 7,
        "list": [3, 0, 250],
        "floats": [[0.5, -2.25], [1e3, 7.0]],
    }.items()
    for size, base in ((0, 10000.0), (2, 2.5), (6, 10000.0), (64, 100))
}


@pytest.mark.parametrize(
    ("attn", "case"),
    by_module(ENCODED, ["none-6-10000.0", "seven-64-100", "list-2-2.5", "floats-0-10000.0"], frameworks.MODULES),
    indirect=["attn"],
)
def test_sinusoidal_positions(attn: ModuleType, case: str) -> None:
    positions, size, base = ENCODED[case]
    expected = oracle_positions.sinusoidal_positions(
        positions if isinstance(positions, int) else np.array(positions), size, base=base
    )
    actual = to_numpy(attn.sinusoidal_positions(positions, size, base=base, dtype="float64"))
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_sinusoidal_positions_in_narrow_dtypes(name: str, dtype: str | None) -> None:
    positions = np.array([0, 1, 2, 100, 4097, 10**6])
    expected = oracle_positions.sinusoidal_positions(positions, 32)
    actual = frameworks.load(name).sinusoidal_positions(to_native(name, positions), 32, dtype=dtype)
    assert_native(name, actual, dtype or "float32")
    profile = default_profile(dtype or "float32")
    assert_within(to_numpy(actual), expected, sinusoidal_bound(positions.astype(np.float64), {"size": 32}, profile))


def test_the_reference_returns_float64_whatever_is_asked(attn: ModuleType) -> None:
    assert reference.sinusoidal_positions(3, 4, dtype="bfloat16").dtype == np.float64
    assert_same_bits(reference.sinusoidal_positions(3, 4), reference.sinusoidal_positions(np.arange(3), 4))
    default = to_numpy(attn.sinusoidal_positions(3, 4)).dtype
    assert default == (np.float64 if attn is reference else np.float32)

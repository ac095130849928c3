"""Masks, biases and encodings that depend on positions, one number at a time: the oracle of the positional options.

Written from the definitions alone, by somebody who has not seen the code that these functions judge, and importing
nothing of it. The masks and biases are callables of (b, h, i, j), as `oracle_scalar` and `oracle_mpmath` take them: the
batch element, the *query* head, the query and the key. Every logarithm, power, sine and cosine is taken in 50 decimal
digits and rounded once; what can be decided in integers is decided in integers.

Lengths, offsets and ids are one int (lengths, offsets) or one row (ids) for the whole batch, or one per batch element.
`place` says which offset is meant where the caller gives none or "end".
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Visible = Callable[[int, int, int, int], bool]
Bias = Callable[[int, int, int, int], float]
PerBatch = int | Sequence[int] | NDArray[np.integer[Any]]
Number = Any  # mpmath ships no types

MP = mpmath.MPContext()
MP.dps = 50


def place(offset: PerBatch | str | None, query_count: int, key_count: int) -> PerBatch:
    """The offset as a number: "end" puts the last query at the last key, None is 0 and needs equal lengths."""
    if offset is None:
        if query_count != key_count:
            raise ValueError(f"{query_count} queries at {key_count} keys: no offset says where the first one stands")
        return 0
    if isinstance(offset, str):
        if offset != "end":
            raise ValueError(f"no such offset: {offset}")
        return key_count - query_count
    return offset


def _of(numbers: PerBatch, b: int) -> int:
    return int(numbers) if np.ndim(numbers) == 0 else int(np.asarray(numbers)[b])


# --- masks -----------------------------------------------------------------------------------------------------------


def segments(query_ids: NDArray[np.integer[Any]], key_ids: NDArray[np.integer[Any]]) -> Visible:
    """Packed sequences: a query sees the keys that carry its own id. Ids are (T,) or (B,T)."""

    def identity(ids: NDArray[np.integer[Any]], b: int, t: int) -> int:
        return int(ids[t]) if ids.ndim == 1 else int(ids[b, t])

    return lambda b, _h, i, j: identity(query_ids, b, i) == identity(key_ids, b, j)


def prefix(lengths: PerBatch, offset: PerBatch = 0) -> Visible:
    """A prefix that all queries see, and after it the keys up to the query's own position."""
    return lambda b, _h, i, j: j < _of(lengths, b) or j <= i + _of(offset, b)


def chunked(size: int, offset: PerBatch = 0) -> Visible:
    """A query sees its own chunk of `size` positions, in both directions; positions below 0 have chunks, too."""
    return lambda b, _h, i, j: math.floor(Fraction(i + _of(offset, b), size)) == math.floor(Fraction(j, size))


# --- biases ----------------------------------------------------------------------------------------------------------


def alibi_slope(h: int, heads: int) -> float:
    """The standard slope of query head `h` among `heads`.

    A power of two of heads has the slopes 2^(-8/heads), its square, its cube and so on down to 2^-8. Any other number
    takes those of the largest power of two below it, and for the heads that are then left the first, third, fifth ...
    slope of twice that power.
    """
    if not 0 <= h < heads:
        raise ValueError(f"no head {h} among {heads}")
    power = 1
    while 2 * power <= heads:
        power *= 2
    if h < power:
        number, of = h + 1, power
    else:
        number, of = 2 * (h - power) + 1, 2 * power
    return float(MP.power(2, MP.mpf(-8 * number) / of))


def alibi(*, heads: int, symmetric: bool, offset: PerBatch = 0, slopes: Sequence[float] | Array | None = None) -> Bias:
    """A penalty that grows with the distance to the key: -slope * |p - j|, or -slope * (p - j) with its sign."""

    def bias(b: int, h: int, i: int, j: int) -> float:
        slope = alibi_slope(h, heads) if slopes is None else float(slopes[h])
        distance = i + _of(offset, b) - j
        return -slope * (abs(distance) if symmetric else distance)

    return bias


def relative_position_bucket(
    i: int, j: int, *, num_buckets: int, bidirectional: bool, max_distance: int = 128, offset: int = 0
) -> int:
    """The row of the table that the pair of query `i` and key `j` reads, decided in integers.

    The buckets from m on hold logarithmic ranges. t = floor((nb-m) * log(n/m) / log(max_distance/m)) is the largest t
    with (max_distance/m)^t <= (n/m)^(nb-m): both sides are fractions, so no logarithm is ever rounded.
    """
    ahead = j - (i + offset)
    if bidirectional:
        if num_buckets % 2:
            raise ValueError(f"{num_buckets} buckets do not split into two directions")
        count, first, distance = num_buckets // 2, num_buckets // 2 if ahead > 0 else 0, abs(ahead)
    else:
        count, first, distance = num_buckets, 0, max(-ahead, 0)
    middle = count // 2
    if middle == 0 or max_distance <= middle:
        raise ValueError(f"{num_buckets} buckets up to a distance of {max_distance}: nothing to take a logarithm of")
    if distance < middle:
        return first + distance
    t = 0
    while middle + t < count - 1 and (
        Fraction(max_distance, middle) ** (t + 1) <= Fraction(distance, middle) ** (count - middle)
    ):
        t += 1
    return first + middle + t


def relative_position_bias(table: Array, *, bidirectional: bool, max_distance: int = 128, offset: PerBatch = 0) -> Bias:
    """The learned bias of the bucket and of the query head, or of the bucket alone where the table has one axis."""

    def bias(b: int, h: int, i: int, j: int) -> float:
        bucket = relative_position_bucket(
            i,
            j,
            num_buckets=len(table),
            bidirectional=bidirectional,
            max_distance=max_distance,
            offset=_of(offset, b),
        )
        return float(table[bucket] if table.ndim == 1 else table[bucket, h])

    return bias


# --- encodings -------------------------------------------------------------------------------------------------------


def rotate_pairs(row: Sequence[Number], cosines: Sequence[Number], sines: Sequence[Number], *, pairing: str) -> list:
    """Turn the pairs of one row: (x1 cos - x2 sin, x2 cos + x1 sin); what lies behind the pairs is passed on.

    The numbers come back unrounded, in 50 digits.
    """
    pairs = len(cosines)
    if len(sines) != pairs or 2 * pairs > len(row):
        raise ValueError(f"{pairs} cosines and {len(sines)} sines for {len(row)} components")
    result = [MP.mpf(x) for x in row]
    for c in range(pairs):
        if pairing == "half_split":
            first, second = c, c + pairs
        elif pairing == "interleaved":
            first, second = 2 * c, 2 * c + 1
        else:
            raise ValueError(f"no such pairing: {pairing}")
        x1, x2 = MP.mpf(row[first]), MP.mpf(row[second])
        result[first] = x1 * cosines[c] - x2 * sines[c]
        result[second] = x2 * cosines[c] + x1 * sines[c]
    return result


def rotary_row(
    row: Sequence[float],
    position: float,
    *,
    pairing: str,
    base: float | None = None,
    rotary_dim: int | None = None,
    frequencies: Sequence[float] | None = None,
) -> list[float]:
    """Turn pair c of one row by the angle position * base^(-2c/R), or position * frequencies[c]."""
    size = len(row) if rotary_dim is None else rotary_dim
    if size % 2 or not 0 <= size <= len(row):
        raise ValueError(f"{size} of {len(row)} components do not make pairs")
    if frequencies is None:
        powers = [MP.power(10000.0 if base is None else base, MP.mpf(-2 * c) / size) for c in range(size // 2)]
    elif base is None and len(frequencies) == size // 2:
        powers = [MP.mpf(float(f)) for f in frequencies]
    else:
        raise ValueError("one frequency per pair, and then no base")
    angles = [MP.mpf(float(position)) * power for power in powers]
    turned = rotate_pairs(row, [MP.cos(a) for a in angles], [MP.sin(a) for a in angles], pairing=pairing)
    return [float(x) for x in turned]


def rotary_embedding(
    inputs: Array,
    positions: NDArray[Any],
    *,
    pairing: str,
    base: float | None = None,
    rotary_dim: int | None = None,
    frequencies: Sequence[float] | None = None,
) -> Array:
    """`rotary_row` of every row: inputs (*B,H,T,D), (B,T,D) or (T,D), positions (T,) or (*B,T)."""
    result = np.empty(inputs.shape)
    for index in np.ndindex(*inputs.shape[:-1]):
        batch = index[:-2] if inputs.ndim >= 4 else index[:-1]  # from four axes on, -3 is the head
        position = positions[index[-1]] if positions.ndim == 1 else positions[(*batch, index[-1])]
        result[index] = rotary_row(
            inputs[index].tolist(),
            float(position),
            pairing=pairing,
            base=base,
            rotary_dim=rotary_dim,
            frequencies=frequencies,
        )
    return result


def sinusoidal_component(position: float, component: int, *, size: int, base: float = 10000.0) -> float:
    """Sines in the even components, cosines in the odd ones, of position * base^(-2c/size) for pair c."""
    if size % 2 or not 0 <= component < size:
        raise ValueError(f"no component {component} of {size}, or an odd size")
    angle = MP.mpf(float(position)) * MP.power(base, MP.mpf(-2 * (component // 2)) / size)
    return float(MP.cos(angle) if component % 2 else MP.sin(angle))


def sinusoidal_positions(positions: int | NDArray[Any], size: int, *, base: float = 10000.0) -> Array:
    """`sinusoidal_component` of every position, or of 0 ... n-1 for an int n, in (..., size)."""
    places = np.arange(positions) if isinstance(positions, int) else positions
    result = np.empty((*places.shape, size))
    for index in np.ndindex(*result.shape):
        result[index] = sinusoidal_component(float(places[index[:-1]]), index[-1], size=size, base=base)
    return result

"""Positions in queries and keys: rotary embedding and sinusoidal encoding."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnspec.contract.operands import check_floating
from attnspec.contract.rotary import (
    check_frequencies,
    check_inputs,
    check_pairing,
    check_positions,
    check_sinusoidal,
    check_tables,
    frequencies_of,
    rotary_size,
)
from attnspec.contract.rotary_option import Rotary
from attnspec.contract.shapes import Sizes

from .attention import widen
from .masks import block_of
from .tensors import Array, as_option, as_positions, as_tensors, constant, describe, new_checks


def rotary_embedding(
    inputs: Any,
    positions: Any,
    *,
    pairing: str,
    base: float | None = None,
    rotary_dim: int | None = None,
    frequencies: Any = None,
) -> Array:
    """Turn pairs of components by angles that grow with the position: rotary position embedding (S21).

    The first R components of every position p form pairs (a, b), pair c of which turns by the angle p · θ_c:

        a' = a cos(p θ_c) − b sin(p θ_c),   b' = b cos(p θ_c) + a sin(p θ_c),   θ_c = base^(−2c/R).

    Args:
        inputs: queries or keys, (*B, H, T, D); ranks 2 and 3 have no head axis: (T, D), (B, T, D).
        positions: integers or floating numbers of shape (T,), or (*B, T).
        pairing: "half_split": component c with c + R/2 (GPT-NeoX, Hugging Face's Llama); "interleaved": 2c with 2c + 1
            (GPT-J, Meta's Llama). There is no default: half of all models use each.
        base: 10000 by default.
        rotary_dim: R, even and at most D, by default D; components beyond it pass unchanged.
        frequencies: θ, (R/2,), in place of a base: for scaled variants.

    Returns:
        The shape of the inputs, float64.

    Raises:
        ValueError: another pairing, an odd size, positions of another shape, both base and frequencies.
        TypeError: dtypes that are not floating.

    Source: Su et al. 2021, equation 34; the half-split pairing: Black et al. 2022.
    """
    return _turned("inputs", inputs, positions, pairing, base, rotary_dim, frequencies)


def rotate_pairs(inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> Array:
    """Turn pairs of components by given cosines and sines: the second half of `rotary_embedding` (S21).

    Args:
        inputs: as for `rotary_embedding`.
        cosines, sines: (T, R/2) or (*B, T, R/2), of the inputs' dtype or, beside half precisions, float32; nothing
            requires cos² + sin² = 1.
        pairing: as for `rotary_embedding`.

    Returns:
        The shape of the inputs, float64.

    Raises:
        ValueError, TypeError: as for `rotary_embedding`; tables of another shape, or with more than D/2 columns.
    """
    check_pairing(pairing)
    (inputs,) = as_tensors(inputs=inputs)
    cosines, sines = as_option("cosines", cosines, inputs), as_option("sines", sines, inputs)
    dtype = check_floating(inputs=describe(inputs))
    check_inputs(inputs.shape)
    check_tables(inputs.shape, {"cosines": cosines, "sines": sines}, dtype, new_checks())
    return rotate(widen(inputs), widen(cosines), widen(sines), pairing)


def sinusoidal_positions(positions: Any, size: int, *, base: float = 10000.0, dtype: str | None = None) -> Array:
    """Encode positions by sines and cosines of falling frequency: one vector for each position (S22).

        PE_p,2c = sin(p · base^(−2c/size)),   PE_p,2c+1 = cos(p · base^(−2c/size))

    Args:
        positions: a number of positions n, which stands for 0 … n − 1, or integers or floating numbers (*B, T).
        size: even.
        base: 10000 by default, as in the paper.
        dtype: a name, such as "float32", for the backends; the reference computes in float64 whatever it says.

    Returns:
        (n, size), or the shape of the positions and `size` behind it, float64.

    Raises:
        ValueError: an odd or negative size, a negative number of positions.
        TypeError: an unknown dtype, positions that are no numbers.

    Source: Vaswani et al. 2017, §3.5.
    """
    size, base, _ = check_sinusoidal(size, base, dtype)
    return sinusoids(as_positions(positions, None), size, base)


def sinusoids(positions: Array, size: int, base: float) -> Array:
    """Compute the sines and cosines of positions in float64."""
    angles = positions[..., None] * np.asarray(frequencies_of(base, size), np.float64)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(*angles.shape[:-1], size)


def rotate(inputs: Array, cosines: Array, sines: Array, pairing: str) -> Array:
    """Turn the pairs of (*B, H, T, D), or of ranks without heads, by tables (T, R/2) or (*B, T, R/2)."""
    if cosines.ndim > 2 and inputs.ndim > 3:
        cosines, sines = cosines[..., None, :, :], sines[..., None, :, :]
    size = 2 * cosines.shape[-1]
    turned, passed = inputs[..., :size], inputs[..., size:]
    if pairing == "half_split":
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    parts = first * cosines - second * sines, second * cosines + first * sines
    if pairing == "half_split":
        return np.concatenate([*parts, passed], axis=-1)
    return np.concatenate([np.stack(parts, axis=-1).reshape(turned.shape), passed], axis=-1)


def turn_heads(query: Array, key: Array, rotary: Rotary | None, sizes: Sizes) -> tuple[Array, Array]:
    """Turn the queries (*B, Hq, Tq, D) of a multi-head attention as at i + offset, its keys as at j (S37)."""
    if rotary is None:
        return query, key
    block = block_of(sizes, slice(0, sizes.query_length))
    return turn(query, rotary.query_positions(block), rotary), turn(key, rotary.key_positions(block), rotary)


def turn_heads_back(d_query: Array, d_key: Array, rotary: Rotary | None, sizes: Sizes) -> tuple[Array, Array]:
    """Pull the gradients of turned heads back to those before the turn: by the opposite angles."""
    if rotary is None:
        return d_query, d_key
    block = block_of(sizes, slice(0, sizes.query_length))
    return turn(d_query, -rotary.query_positions(block), rotary), turn(d_key, -rotary.key_positions(block), rotary)


def turn(inputs: Array, positions: Array, rotary: Rotary) -> Array:
    """Turn heads (*B, H, T, D) as at positions (T,) or (*B, T)."""
    angles = constant(positions, inputs)[..., None] * np.asarray(rotary.frequencies(inputs.shape[-1]), np.float64)
    return rotate(inputs, np.cos(angles), np.sin(angles), rotary.pairing)


def rotary_embedding_vjp(
    positions: Any,
    output_cotangent: Any,
    *,
    pairing: str,
    base: float | None = None,
    rotary_dim: int | None = None,
    frequencies: Any = None,
) -> Array:
    """Compute the gradient of L = Σ output_cotangent · rotary_embedding(inputs): the turn by the opposite angles.

    A turn is linear and orthogonal, so its transpose is its inverse, and the inputs themselves do not matter.

    Args:
        positions, pairing, base, rotary_dim, frequencies: as for `rotary_embedding`.
        output_cotangent: the shape of the inputs.

    Returns:
        The gradient of the inputs, float64.

    Raises:
        ValueError, TypeError: as for `rotary_embedding`.
    """
    opposite = -as_positions(positions, np.zeros(0))
    return _turned("output_cotangent", output_cotangent, opposite, pairing, base, rotary_dim, frequencies)


def _turned(
    name: str,
    inputs: Any,
    positions: Any,
    pairing: str,
    base: float | None,
    rotary_dim: int | None,
    frequencies: Any,
) -> Array:
    """Check the arguments of a rotary embedding of inputs that messages call `name`, and compute it."""
    check_pairing(pairing)
    (inputs,) = as_tensors(**{name: inputs})
    positions = as_positions(positions, inputs)
    frequencies = as_option("frequencies", frequencies, inputs)
    dtype = check_floating(**{name: describe(inputs)})
    checks = new_checks()
    size = rotary_size(inputs.shape, rotary_dim, checks, name)
    check_positions(positions.shape, inputs.shape, checks)
    base = check_frequencies(base, frequencies, size, dtype, checks)
    turns = np.asarray(frequencies_of(base, size) if frequencies is None else frequencies, np.float64)
    angles = constant(positions, inputs)[..., None] * turns
    return rotate(widen(inputs), np.cos(angles), np.sin(angles), pairing)

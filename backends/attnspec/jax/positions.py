"""Positions in queries and keys in JAX: rotary embedding and sinusoidal encoding."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from attnspec.contract.operands import accumulation_dtype, check_floating
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
from .tensors import as_option, as_positions, as_tensors, describe, new_checks


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

    Arguments, shapes and errors: `attnspec.reference.rotary_embedding`.

    Differences: returns the inputs' dtype; angles and turns are computed in float32 for float32 and half precisions.
    """
    check_pairing(pairing)
    (inputs,) = as_tensors(inputs=inputs)
    wide = widen(inputs)
    positions = as_positions(positions, inputs, wide.dtype)
    frequencies = as_option("frequencies", frequencies, inputs, "inputs")
    dtype = check_floating(inputs=describe(inputs))
    checks = new_checks(inputs)
    size = rotary_size(inputs.shape, rotary_dim, checks)
    check_positions(positions.shape, inputs.shape, checks)
    base = check_frequencies(base, frequencies, size, dtype, checks)
    turns = frequencies_of(base, size) if frequencies is None else frequencies
    angles = positions[..., None] * jnp.asarray(turns, dtype=wide.dtype)
    turned: Array = rotate(wide, jnp.cos(angles), jnp.sin(angles), pairing)
    return turned.astype(inputs.dtype)


def rotate_pairs(inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> Array:
    """Turn pairs of components by given cosines and sines: the second half of `rotary_embedding` (S21).

    Arguments, shapes and errors: `attnspec.reference.rotate_pairs`.

    Differences: returns the inputs' dtype.
    """
    check_pairing(pairing)
    (inputs,) = as_tensors(inputs=inputs)
    cosines = as_option("cosines", cosines, inputs, "inputs")
    sines = as_option("sines", sines, inputs, "inputs")
    dtype = check_floating(inputs=describe(inputs))
    check_inputs(inputs.shape)
    check_tables(inputs.shape, {"cosines": cosines, "sines": sines}, dtype, new_checks(inputs))
    wide = widen(inputs)
    turned: Array = rotate(wide, cosines.astype(wide.dtype), sines.astype(wide.dtype), pairing)
    return turned.astype(inputs.dtype)


def sinusoidal_positions(positions: Any, size: int, *, base: float = 10000.0, dtype: str | None = None) -> Array:
    """Encode positions by sines and cosines of falling frequency: one vector for each position (S22).

    Arguments, shapes and errors: `attnspec.reference.sinusoidal_positions`.

    Differences: float32 unless `dtype` says otherwise, on the default device; half precisions are rounded from float32.
    """
    size, base, dtype = check_sinusoidal(size, base, dtype)
    wide = jnp.dtype(accumulation_dtype(dtype))
    positions = as_positions(positions, None, wide)
    turns = jnp.asarray(frequencies_of(base, size), dtype=wide)
    angles = positions[..., None] * turns
    encoded = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return encoded.reshape(*angles.shape[:-1], size).astype(dtype)


@functools.partial(jax.jit, static_argnames="pairing")  # one compilation, as for `stages_of`
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
        return jnp.concatenate([*parts, passed], axis=-1)
    return jnp.concatenate([jnp.stack(parts, axis=-1).reshape(turned.shape), passed], axis=-1)


def turn_heads(query: Array, key: Array, rotary: Rotary | None, sizes: Sizes) -> tuple[Array, Array]:
    """Turn the queries (*B, Hq, Tq, D) of a multi-head attention as at i + offset, its keys as at j (S37)."""
    if rotary is None:
        return query, key
    block = block_of(sizes, query)
    return turn(query, rotary.query_positions(block), rotary), turn(key, rotary.key_positions(block), rotary)


def turn(inputs: Array, positions: Array, rotary: Rotary) -> Array:
    """Turn heads (*B, H, T, D) as at positions (T,) or (*B, T)."""
    frequencies = np.asarray(rotary.frequencies(inputs.shape[-1]), inputs.dtype)
    turned: Array = _turned(inputs, positions, frequencies, rotary.pairing)
    return turned


@functools.partial(jax.jit, static_argnames="pairing")  # one compilation, as for `stages_of`
def _turned(inputs: Array, positions: Array, frequencies: Array, pairing: str) -> Array:
    angles = positions[..., None] * frequencies
    turned: Array = rotate(inputs, jnp.cos(angles), jnp.sin(angles), pairing)
    return turned

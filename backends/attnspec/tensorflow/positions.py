"""Positions in queries and keys in TensorFlow: rotary embedding and sinusoidal encoding."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

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
from .tensors import (
    as_option,
    as_positions,
    as_tensors,
    assert_pending,
    describe,
    new_checks,
    shape_of,
    without_autograph,
)


@without_autograph
def rotary_embedding(
    inputs: Any,
    positions: Any,
    *,
    pairing: str,
    base: float | None = None,
    rotary_dim: int | None = None,
    frequencies: Any = None,
) -> tf.Tensor:
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
    size = rotary_size(shape_of(inputs), rotary_dim, checks)
    check_positions(shape_of(positions), shape_of(inputs), checks)
    base = check_frequencies(base, frequencies, size, dtype, checks)
    turns = frequencies_of(base, size) if frequencies is None else frequencies
    turns = turns if tf.is_tensor(turns) else tf.constant(turns, wide.dtype)
    (wide,) = assert_pending(checks, wide)
    angles = positions[..., None] * tf.cast(turns, wide.dtype)
    return tf.cast(rotate(wide, tf.cos(angles), tf.sin(angles), pairing), inputs.dtype)


@without_autograph
def rotate_pairs(inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> tf.Tensor:
    """Turn pairs of components by given cosines and sines: the second half of `rotary_embedding` (S21).

    Arguments, shapes and errors: `attnspec.reference.rotate_pairs`.

    Differences: returns the inputs' dtype.
    """
    check_pairing(pairing)
    (inputs,) = as_tensors(inputs=inputs)
    cosines = as_option("cosines", cosines, inputs, "inputs")
    sines = as_option("sines", sines, inputs, "inputs")
    dtype = check_floating(inputs=describe(inputs))
    check_inputs(shape_of(inputs))
    checks = new_checks(inputs)
    check_tables(shape_of(inputs), {"cosines": cosines, "sines": sines}, dtype, checks)
    (wide,) = assert_pending(checks, widen(inputs))
    turned = rotate(wide, tf.cast(cosines, wide.dtype), tf.cast(sines, wide.dtype), pairing)
    return tf.cast(turned, inputs.dtype)


@without_autograph
def sinusoidal_positions(positions: Any, size: int, *, base: float = 10000.0, dtype: str | None = None) -> tf.Tensor:
    """Encode positions by sines and cosines of falling frequency: one vector for each position (S22).

    Arguments, shapes and errors: `attnspec.reference.sinusoidal_positions`.

    Differences: float32 unless `dtype` says otherwise, on the default device; half precisions are rounded from float32.
    """
    size, base, dtype = check_sinusoidal(size, base, dtype)
    wide = tf.as_dtype(accumulation_dtype(dtype))
    positions = as_positions(positions, None, wide)
    angles = positions[..., None] * tf.constant(frequencies_of(base, size), wide)
    encoded = tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1)
    return tf.cast(tf.reshape(encoded, [*shape_of(angles)[:-1], size]), dtype)


def rotate(inputs: tf.Tensor, cosines: tf.Tensor, sines: tf.Tensor, pairing: str) -> tf.Tensor:
    """Turn the pairs of (*B, H, T, D), or of ranks without heads, by tables (T, R/2) or (*B, T, R/2)."""
    if len(cosines.shape) > 2 and len(inputs.shape) > 3:
        cosines, sines = cosines[..., None, :, :], sines[..., None, :, :]
    size = 2 * shape_of(cosines)[-1]
    turned, passed = inputs[..., :size], inputs[..., size:]
    if pairing == "half_split":
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    parts = first * cosines - second * sines, second * cosines + first * sines
    if pairing == "half_split":
        return tf.concat([*parts, passed], axis=-1)
    woven = tf.reshape(tf.stack(parts, axis=-1), shape_of(turned))
    return tf.concat([woven, passed], axis=-1)


def turn_heads(query: tf.Tensor, key: tf.Tensor, rotary: Rotary | None, sizes: Sizes) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn the queries (*B, Hq, Tq, D) of a multi-head attention as at i + offset, its keys as at j (S37)."""
    if rotary is None:
        return query, key
    with tf.control_dependencies([query]):  # which waits for what is asserted when a graph runs
        block = block_of(sizes, query)
        places = rotary.query_positions(block), rotary.key_positions(block)
    return turn(query, places[0], rotary), turn(key, places[1], rotary)


def turn(inputs: tf.Tensor, positions: tf.Tensor, rotary: Rotary) -> tf.Tensor:
    """Turn heads (*B, H, T, D) as at positions (T,) or (*B, T)."""
    angles = positions[..., None] * tf.constant(rotary.frequencies(shape_of(inputs)[-1]), inputs.dtype)
    return rotate(inputs, tf.cos(angles), tf.sin(angles), rotary.pairing)

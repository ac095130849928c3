"""Positions in queries and keys in PyTorch: rotary embedding and sinusoidal encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
) -> Tensor:
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
    size = rotary_size(tuple(inputs.shape), rotary_dim, checks)
    check_positions(tuple(positions.shape), tuple(inputs.shape), checks)
    base = check_frequencies(base, frequencies, size, dtype, checks)
    turns = frequencies_of(base, size) if frequencies is None else frequencies
    angles = positions[..., None] * torch.as_tensor(turns, dtype=wide.dtype, device=wide.device)
    return rotate(wide, torch.cos(angles), torch.sin(angles), pairing).to(inputs.dtype)


def rotate_pairs(inputs: Any, cosines: Any, sines: Any, *, pairing: str) -> Tensor:
    """Turn pairs of components by given cosines and sines: the second half of `rotary_embedding` (S21).

    Arguments, shapes and errors: `attnspec.reference.rotate_pairs`.

    Differences: returns the inputs' dtype.
    """
    check_pairing(pairing)
    (inputs,) = as_tensors(inputs=inputs)
    cosines = as_option("cosines", cosines, inputs, "inputs")
    sines = as_option("sines", sines, inputs, "inputs")
    dtype = check_floating(inputs=describe(inputs))
    check_inputs(tuple(inputs.shape))
    check_tables(tuple(inputs.shape), {"cosines": cosines, "sines": sines}, dtype, new_checks(inputs))
    wide = widen(inputs)
    return rotate(wide, cosines.to(wide.dtype), sines.to(wide.dtype), pairing).to(inputs.dtype)


def sinusoidal_positions(positions: Any, size: int, *, base: float = 10000.0, dtype: str | None = None) -> Tensor:
    """Encode positions by sines and cosines of falling frequency: one vector for each position (S22).

    Arguments, shapes and errors: `attnspec.reference.sinusoidal_positions`.

    Differences: float32 unless `dtype` says otherwise, on the default device; half precisions are rounded from float32.
    """
    size, base, dtype = check_sinusoidal(size, base, dtype)
    wide = getattr(torch, accumulation_dtype(dtype))
    positions = as_positions(positions, None, wide)
    turns = torch.as_tensor(frequencies_of(base, size), dtype=wide, device=positions.device)
    angles = positions[..., None] * turns
    encoded = torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1)
    return encoded.reshape(*angles.shape[:-1], size).to(getattr(torch, dtype))


def rotate(inputs: Tensor, cosines: Tensor, sines: Tensor, pairing: str) -> Tensor:
    """Turn the pairs of (*B, H, T, D), or of ranks without heads, by tables (T, R/2) or (*B, T, R/2)."""
    if cosines.ndim > 2 and inputs.ndim > 3:
        cosines, sines = cosines.unsqueeze(-3), sines.unsqueeze(-3)
    size = 2 * cosines.shape[-1]
    turned, passed = inputs[..., :size], inputs[..., size:]
    if pairing == "half_split":
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    parts = first * cosines - second * sines, second * cosines + first * sines
    if pairing == "half_split":
        return torch.cat([*parts, passed], dim=-1)
    return torch.cat([torch.stack(parts, dim=-1).reshape(turned.shape), passed], dim=-1)


def turn_heads(query: Tensor, key: Tensor, rotary: Rotary | None, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Turn the queries (*B, Hq, Tq, D) of a multi-head attention as at i + offset, its keys as at j (S37)."""
    if rotary is None:
        return query, key
    block = block_of(sizes, query)
    return turn(query, rotary.query_positions(block), rotary), turn(key, rotary.key_positions(block), rotary)


def turn(inputs: Tensor, positions: Tensor, rotary: Rotary) -> Tensor:
    """Turn heads (*B, H, T, D) as at positions (T,) or (*B, T)."""
    frequencies = rotary.frequencies(inputs.shape[-1])
    angles = positions[..., None] * torch.as_tensor(frequencies, dtype=inputs.dtype, device=inputs.device)
    return rotate(inputs, torch.cos(angles), torch.sin(angles), rotary.pairing)

"""The activations of a feed-forward in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def activate(hidden: Tensor, activation: str) -> Tensor:
    """Apply an activation to each component; one that is not finite becomes NaN (S11)."""
    is_finite = torch.isfinite(hidden)
    return torch.where(is_finite, ACTIVATIONS[activation](torch.where(is_finite, hidden, 0.0)), torch.nan)


def gelu(z: Tensor) -> Tensor:
    """z Φ(z)."""
    return z * normal_share(z)


def normal_share(z: Tensor) -> Tensor:
    """Φ(z), the share of the normal distribution below z."""
    # 1 + erf(z/√2) is the same number, but loses all digits for z far below 0.
    share: Tensor = torch.special.erfc(z / -math.sqrt(2.0)) / 2.0
    return share


def gelu_tanh(z: Tensor) -> Tensor:
    """z/2 (1 + tanh(√(2/π) (z + 0.044715 z³)))."""
    return z * tanh_share(z)


def tanh_share(z: Tensor) -> Tensor:
    """(1 + tanh(a))/2 = σ(2a), a = √(2/π) (z + 0.044715 z³); the sigmoid has no cancellation for z far below 0."""
    near = nearest(z)
    return torch.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near))


def nearest(z: Tensor) -> Tensor:
    """Bring z between −32 and 32, beyond which σ(2a) is 0 or 1 and z³ could overflow."""
    return z.clamp(-32.0, 32.0)


def silu(z: Tensor) -> Tensor:
    """z σ(z)."""
    return z * torch.sigmoid(z)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": torch.tanh,
}

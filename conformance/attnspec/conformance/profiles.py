"""Arithmetic profiles: which roundings a target declares, and so how far it may be from the exact result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

FP64, FP32, TF32, BF16, FP16 = 2.0**-53, 2.0**-24, 2.0**-11, 2.0**-8, 2.0**-11
"""Unit roundoffs u = 2^-p of round-to-nearest with p significant bits."""


class Profile(NamedTuple):
    """The roundings of one implementation, as unit roundoffs.

    An implementation that rounds less than its profile says is well inside the bound; one that rounds more is outside.
    """

    name: str
    dtype: str
    """The dtype of its inputs and output."""
    accumulation: float
    """u_a: products are summed, and exponentials taken, in this precision."""
    products: float
    """u_m: the factors of the two matrix products are rounded to this before they are multiplied (0: they are not)."""
    scores: float
    """u_s: scores are stored in this precision between the product and the softmax."""
    weights: float
    """u_p: weights are stored in this precision before they meet the values."""
    output: float
    """u_o: the output, and every tensor between layers, is stored in this precision."""
    exponential: float
    """c_e: the error of its exponential, in units of the last place of u_a."""
    rounds_softmax: bool
    """Whether the softmax itself works on numbers stored in u_s."""


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("fp64", "float64", FP64, 0.0, FP64, FP64, FP64, 4.0, False),
        Profile("fp32", "float32", FP32, 0.0, FP32, FP32, FP32, 4.0, False),
        Profile("fp32_tf32", "float32", FP32, TF32, FP32, FP32, FP32, 4.0, False),
        Profile("bf16_flash", "bfloat16", FP32, 0.0, FP32, BF16, BF16, 4.0, False),
        Profile("bf16_eager", "bfloat16", FP32, 0.0, BF16, BF16, BF16, 4.0, True),
        Profile("fp16_flash", "float16", FP32, 0.0, FP32, FP16, FP16, 4.0, False),
        Profile("fp16_eager", "float16", FP32, 0.0, FP16, FP16, FP16, 4.0, True),
    )
}

DEFAULT_PROFILES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16_flash", "float16": "fp16_flash"}
"""What a target is held to that declares nothing, for each dtype."""


def default_profile(dtype: str) -> Profile:
    """Return the profile of a target that declares nothing."""
    return PROFILES[DEFAULT_PROFILES[dtype]]


def find_profile(name: str | None) -> Profile | None:
    """Return the profile of a name, None for None."""
    if name is None:
        return None
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def profile_for(dtype: str, override: Profile | None, declared: Mapping[str, str] = {}) -> Profile:
    """Return the profile that a dtype is held to: the one asked for where it fits, the declared one, the default."""
    if override is not None and override.dtype == dtype:
        return override
    return PROFILES[declared[dtype]] if dtype in declared else default_profile(dtype)

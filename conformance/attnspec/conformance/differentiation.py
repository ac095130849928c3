"""Gradients as each framework computes them, by one name: Σ cotangent · result, pulled back to the tensors.

The frameworks are imported inside the functions: a target of one needs no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from .native_arrays import from_numpy, to_numpy

Array: TypeAlias = np.ndarray[Any, Any]
Results = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From native tensors by name to native results by name."""


def pull_back(
    framework: str, function: Results, tensors: Mapping[str, Array], cotangents: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the gradient of Σ cotangent · result for every tensor, by the framework's own reverse mode."""
    native = {name: from_numpy(framework, tensor) for name, tensor in tensors.items()}
    weights = {name: from_numpy(framework, cotangent) for name, cotangent in cotangents.items()}
    gradients = _PULL_BACK[framework](function, native, weights)
    return {name: to_numpy(gradient) for name, gradient in gradients.items()}


def _torch(function: Results, tensors: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
    import torch

    for tensor in tensors.values():
        tensor.requires_grad_()
    results = function(tensors)
    chosen = [results[name] for name in cotangents]
    gradients = torch.autograd.grad(chosen, list(tensors.values()), list(cotangents.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True)
    }


def _tensorflow(function: Results, tensors: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = function(tensors)
        chosen = [results[name] for name in cotangents]
    gradients: dict[str, Any] = tape.gradient(
        chosen, tensors, list(cotangents.values()), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return gradients


def _jax(function: Results, tensors: dict[str, Any], cotangents: dict[str, Any]) -> dict[str, Any]:
    import jax

    def chosen(given: dict[str, Any]) -> dict[str, Any]:
        results = function(given)
        return {name: results[name] for name in cotangents}

    _, transpose = jax.vjp(chosen, tensors)
    (gradients,) = transpose(cotangents)
    return dict(gradients)


_PULL_BACK: dict[str, Callable[..., dict[str, Any]]] = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}

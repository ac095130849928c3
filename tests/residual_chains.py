"""A chain of residual blocks with its gradients, for any array class, and the same in PyTorch.

    x ← x + act(norm(x) A + a) C + c,   norm(x) = (x − μ) / √(σ² + ε) · w + b

It is written here once more, in NumPy operations and in closed form, because bounds are to be tried on something that
has not been written by whoever wrote them into the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from native_tensors import NUMPY_DTYPES, to_numpy
from numpy.typing import NDArray

Array = NDArray[Any]

EPSILON = 1e-5
NAMES = ("w", "b", "A", "a", "C", "c")

_erfc = np.frompyfunc(math.erfc, 1, 1)


class Activation(NamedTuple):
    """A function of every component, and its derivative."""

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def share(z: Array) -> Array:
    return _erfc(z / -math.sqrt(2.0)).astype(np.float64) / 2.0


def gelu_slope(z: Array) -> Array:
    return share(z) + z * (np.exp(-(z * z) / 2.0) / math.sqrt(2.0 * math.pi))


def gelu_by_tanh(z: Array) -> Array:
    return z / 2.0 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z * z * z)))


ACTIVATIONS = {
    "gelu": Activation(lambda z: z * share(z), gelu_slope),
    "relu": Activation(lambda z: np.maximum(z, 0.0), lambda z: np.where(z > 0.0, 1.0, 0.0)),
}
FAULTY_GELU = Activation(gelu_by_tanh, gelu_slope)


def standardise(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    factor = 1.0 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
    return centred * factor, factor


def standardise_by_sample(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)
    factor = 1.0 / np.sqrt(variance + EPSILON)
    return centred * factor, factor


class Chain(NamedTuple):
    """A chain of blocks: call it with tensors."""

    blocks: int
    activation: Activation
    standardise: Callable[[Array], tuple[Array, Array]] = standardise

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return the output and the gradient of Σ cotangent · output for every other tensor."""
        t = {name: tensor.astype(np.float64, copy=False) for name, tensor in tensors.items()}
        x, kept = t["x"], []
        for i in range(self.blocks):
            normal, factor = self.standardise(x)
            y = normal * t[f"w{i}"] + t[f"b{i}"]
            z = y @ t[f"A{i}"] + t[f"a{i}"]
            h = self.activation.function(z)
            kept.append((normal, factor, y, z, h))
            x = x + (h @ t[f"C{i}"] + t[f"c{i}"])
        results, g = {"output": x}, t["cotangent"]
        rows = tuple(range(x.ndim - 1))
        for i, (normal, factor, y, z, h) in reversed(list(enumerate(kept))):
            dz = (g @ t[f"C{i}"].T) * self.activation.slope(z)
            dy = dz @ t[f"A{i}"].T
            results |= {f"C{i}": np.tensordot(h, g, (rows, rows)), f"c{i}": g.sum(axis=rows)}
            results |= {f"A{i}": np.tensordot(y, dz, (rows, rows)), f"a{i}": dz.sum(axis=rows)}
            results |= {f"w{i}": (dy * normal).sum(axis=rows), f"b{i}": dy.sum(axis=rows)}
            dn = dy * t[f"w{i}"]
            spread = dn - dn.mean(axis=-1, keepdims=True) - normal * (dn * normal).mean(axis=-1, keepdims=True)
            g = g + factor * spread
        return results | {"x": g}


def draw(seed: int, dtype: str, blocks: int, *, kinks: bool = False) -> dict[str, Array]:
    """Draw the tensors of a chain, rounded to a dtype; with kinks, many units lie near 0."""
    rng = np.random.default_rng([seed, 17])

    def numbers(*sizes: int, size: Any = 1.0, centre: float = 0.0) -> Array:
        return (centre + size * rng.standard_normal(sizes)).astype(NUMPY_DTYPES[dtype])

    b, t, e, f = (int(rng.choice(sizes)) for sizes in ((1, 2, 3), (1, 3, 7), (5, 11, 31), (7, 23, 61)))
    tensors = {"x": numbers(b, t, e, size=rng.choice([0.3, 1.0, 3.0])), "cotangent": numbers(b, t, e)}
    for i in range(blocks):
        small = rng.choice([1.0, 0.02, 0.003], f) if kinks else 1.0
        tensors |= {
            f"w{i}": numbers(e, size=0.2, centre=1.0),
            f"b{i}": numbers(e, size=0.2),
            f"A{i}": numbers(e, f, size=small / math.sqrt(e)),
            f"a{i}": numbers(f, size=0.2 * small if not kinks else 0.003 * small),
            f"C{i}": numbers(f, e, size=1.0 / math.sqrt(f)),
            f"c{i}": numbers(e, size=0.2),
        }
    return tensors


def in_torch(tensors: Mapping[str, Array], blocks: int, activation: str) -> dict[str, Array]:
    """Compute output and gradients with PyTorch's own layers, each storing its result."""
    import torch

    def native(array: Array) -> Any:
        return torch.tensor(array.astype(np.float64)).to(getattr(torch, str(array.dtype)))

    t = {name: native(array).requires_grad_(name != "cotangent") for name, array in tensors.items()}
    x = t["x"]
    for i in range(blocks):
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], t[f"w{i}"], t[f"b{i}"], EPSILON)
        h = getattr(torch.nn.functional, activation)(y @ t[f"A{i}"] + t[f"a{i}"])
        x = x + (h @ t[f"C{i}"] + t[f"c{i}"])
    names = [name for name in t if name != "cotangent"]
    gradients = torch.autograd.grad(x, [t[name] for name in names], t["cotangent"])
    return {"output": to_numpy(x)} | {name: to_numpy(each) for name, each in zip(names, gradients, strict=True)}


def in_another_order(
    tensors: Mapping[str, Array], blocks: int, run: Callable[[dict[str, Array]], dict[str, Array]]
) -> Any:
    """Run the same network with its components and units in another order, and put the results back in place."""
    rng = np.random.default_rng(3)
    components = rng.permutation(tensors["x"].shape[-1])
    turned, places = {"x": tensors["x"][..., components], "cotangent": tensors["cotangent"][..., components]}, {}
    for i in range(blocks):
        units = rng.permutation(tensors[f"a{i}"].size)
        places |= {f"{name}{i}": (components,) for name in ("w", "b", "c")} | {f"a{i}": (units,)}
        places |= {f"A{i}": (components, units), f"C{i}": (units, components)}
    turned |= {name: tensors[name][np.ix_(*order)] for name, order in places.items()}
    found = run(turned)
    back = {name: array[np.ix_(*map(np.argsort, places[name]))] for name, array in found.items() if name in places}
    return back | {name: found[name][..., np.argsort(components)] for name in ("output", "x")}

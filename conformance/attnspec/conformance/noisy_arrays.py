"""NumPy arrays that round at random: Monte-Carlo arithmetic for whatever is written in NumPy.

`Noisy` is an `ndarray` whose every operation errs by a random amount of the size that a profile allows:

elementwise      r → r (1 + u ξ), ξ uniform in [−1, 1], drawn anew for each element; u is that of the dtype in which the
                 result is stored. Functions such as exp, tanh or log err by 2 c_e u_a |r| besides, sine and cosine by
                 what their angle has lost before it comes to them.
sums, products   of n terms: √n u_a Σ|terms| ξ besides (√(n − 1) for a plain sum); the factors of a matrix product are
                 rounded before by u_m.
exact            comparisons, maxima, negation, |x|, and whatever only moves numbers. 0 stays 0, and what is not finite
                 stays as it is.

Nothing that computes is silently exact: what is not known here raises TypeError.

Half precisions need not store every intermediate result: inside the functions that `Noise` is given as kernels results
are held in the accumulation dtype, and rounded to half when they enter a matrix product or leave the kernel.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from .near_decisions import Decisions
from .profiles import Profile

Array: TypeAlias = np.ndarray[Any, Any]

POOL = 2**14
"""Random numbers are drawn this many at once: for small arrays a call costs more than the numbers."""

ANGLE_ROUNDINGS = 14.0
"""The relative error of an angle p θ in units of u_a: 4 + |ln θ|, for every base up to 20000."""

_ROUNDED = {"add", "subtract", "multiply", "divide", "sqrt", "square", "reciprocal"}
_OPPOSITE = {
    **{name: np.logical_not for name in ("greater", "greater_equal", "less", "less_equal")},
    "maximum": np.minimum,
    "minimum": np.maximum,
}
_EXACT = {
    *("negative", "positive", "absolute", "fabs", "conjugate", "copysign", "sign", "signbit", "fmax", "fmin", "clip"),
    *("isfinite", "isnan", "isinf", "equal", "not_equal", "logical_and", "logical_or", "logical_not", "logical_xor"),
    *_OPPOSITE,
}
_MOVES = {
    *("where", "concatenate", "stack", "vstack", "hstack", "split", "array_split", "broadcast_to", "broadcast_arrays"),
    *("repeat", "tile", "reshape", "ravel", "transpose", "matrix_transpose", "swapaxes", "moveaxis", "expand_dims"),
    *("squeeze", "flip", "roll", "pad", "take", "take_along_axis", "put_along_axis", "copy", "copyto", "diagonal"),
    *("tril", "triu", "zeros_like", "ones_like", "empty_like", "full_like", "sort", "argsort", "partition", "argmax"),
    *("argmin", "argpartition", "nonzero", "flatnonzero", "count_nonzero", "shape", "ndim", "size", "array_equal"),
    *("nan_to_num", "atleast_1d", "atleast_2d", "delete", "append", "isneginf", "isposinf"),
}
"""NumPy functions without rounding."""

_BY_UFUNCS = {"sum", "mean", "prod", "max", "min", "amax", "amin", "any", "all", "var", "std", "isclose", "allclose"}
"""NumPy functions that leave to ufuncs whatever they compute."""


class Noise:
    """Where the errors come from: a profile's unit roundoffs and a stream of random numbers.

    Args:
        profile: whose roundings are imitated.
        kernels: functions that hold their results in the accumulation dtype.
        decisions: what earlier runs know of decisions.
        rng: the source of randomness.
    """

    def __init__(
        self,
        profile: Profile,
        kernels: Iterable[Callable[..., Any]],
        decisions: Decisions,
        rng: np.random.Generator,
    ) -> None:
        self.accumulation, self.output, self.factors = profile.accumulation, profile.output, profile.products
        self.elementary = 2 * profile.exponential * profile.accumulation
        self.decisions = decisions
        self._subnormal = 2.0**-25 if profile.dtype == "float16" else 0.0
        self._kernels = frozenset(kernel.__code__ for kernel in kernels)
        self._rng, self._drawn = rng, np.zeros(0)

    def noisy(self, array: Any, *, pending: float = 0.0) -> Noisy:
        """Return a view of an array whose operations will err."""
        view = np.asarray(array).view(Noisy)
        view.noise, view.pending = self, pending
        return view

    def finished(self, array: Array) -> Array:
        """Return a result as a plain array, with the errors of its last operation but that of storing it."""
        plain = np.asarray(array, np.float64)
        return self.rounded(plain, array.pending) if isinstance(array, Noisy) else plain

    def is_inside_kernel(self) -> bool:
        """Say whether a kernel is among the functions that called."""
        frame = sys._getframe(1) if self._kernels else None
        while frame is not None and frame.f_code not in self._kernels:
            frame = frame.f_back
        return frame is not None

    def errors(self, shape: tuple[int, ...]) -> Array:
        """Return independent numbers, uniform in [−1, 1]."""
        count = math.prod(shape)
        if count > self._drawn.size:
            self._drawn = self._rng.uniform(-1.0, 1.0, max(count, POOL))
        drawn, self._drawn = self._drawn[:count], self._drawn[count:]
        return drawn.reshape(shape)

    def rounded(self, array: Array, roundoff: float) -> Array:
        """Round once."""
        return _plus(array, array * (roundoff * self.errors(array.shape)))

    def stored(self, array: Array) -> Array:
        """Round to the dtype of the inputs; at float16 by an absolute error too, where numbers are subnormal."""
        array = self.rounded(array, self.output)
        if self._subnormal:
            array = np.where(array != 0.0, array + self._subnormal * self.errors(array.shape), array)
        return array


class Noisy(np.ndarray[Any, Any]):
    """An array whose operations err; made by `Noise.noisy`."""

    noise: Noise
    pending: float
    """Whether it is held in the accumulation dtype, and has still to be rounded to that of the inputs."""

    def __array_finalize__(self, source: Any) -> None:
        self.noise = getattr(source, "noise", None)  # type: ignore[assignment]  # only while NumPy makes a view
        self.pending = getattr(source, "pending", 0.0)

    def __setitem__(self, index: Any, values: Any) -> None:
        self.pending = max(self.pending, _pending([values]))
        super().__setitem__(index, values)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        noise, name = self.noise, ufunc.__name__
        inside = noise.is_inside_kernel()
        operands = [_operand(noise, each, name, inside) for each in inputs]
        if method == "at":
            return _scatter(noise, ufunc, *operands)
        (out,) = kwargs.pop("out", (None,))
        if out is not None:
            kwargs["out"] = np.array(out)
        exact = getattr(ufunc, method)(*operands, **kwargs)
        kwargs.pop("out", None)
        exact = np.asarray(exact, np.float64 if exact.dtype == object else None)
        if name in _EXACT:
            result, pending = exact, _pending(inputs)
            if name in _OPPOSITE and method == "__call__":
                opposite = _OPPOSITE[name](exact) if exact.dtype == bool else _OPPOSITE[name](*operands)
                result = noise.decisions.decide(*operands, exact, opposite)
        else:
            result, pending = _erring(noise, exact, name, method, operands, kwargs)
        if result.dtype.kind != "f":
            return result
        if out is None:
            return noise.noisy(result, pending=pending)
        out[...] = noise.noisy(result, pending=pending)
        return out

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = function.__name__
        if name == "tensordot":
            return _tensordot(*args, **kwargs)
        if name not in _MOVES | _BY_UFUNCS:
            raise TypeError(f"nothing is known of the rounding errors of `numpy.{name}`")
        result = super().__array_function__(function, types, args, kwargs)
        if name not in _MOVES or type(result) is not np.ndarray or result.dtype.kind != "f":
            return result
        return self.noise.noisy(result, pending=_pending(args))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("an array's own dot, cumsum, cumprod and trace compute where no rounding error can be added")

    dot = cumsum = cumprod = trace = _refuse


def _operand(noise: Noise, operand: Any, name: str, inside: bool) -> Any:
    """Give a ufunc a plain array: rounded, if a kernel held it wide and it is not exact what happens to it here."""
    if not isinstance(operand, Noisy):
        return operand
    array = operand.view(np.ndarray)
    if operand.pending and name not in _EXACT:
        array = noise.rounded(array, operand.pending)
        if noise.output > noise.accumulation and (name == "matmul" or not inside):
            array = noise.stored(array)
    if name == "matmul" and noise.factors:
        array = noise.rounded(array, noise.factors)
    if name in ("sin", "cos"):
        array = noise.rounded(array, ANGLE_ROUNDINGS * noise.accumulation)
    return array


def _erring(
    noise: Noise, exact: Array, name: str, method: str, operands: list[Any], kwargs: dict[str, Any]
) -> tuple[Array, float]:
    """Add to a result the errors that it has before it is rounded."""
    pending = noise.accumulation
    if name == "matmul":
        left, right = operands
        size = math.sqrt(left.shape[-1]) * (np.abs(left) @ np.abs(right))
        pending = max(pending, noise.factors)
    elif name == "add" and method == "reduce":
        (terms,) = operands
        where = {key: value for key, value in kwargs.items() if key in ("axis", "keepdims", "where")}
        count = terms.size // max(exact.size, 1)
        size = math.sqrt(max(count - 1, 0)) * np.add.reduce(np.abs(terms), **where)
    elif method not in ("__call__", "outer"):
        raise TypeError(f"nothing is known of the rounding errors of `numpy.{name}.{method}`")
    elif name in _ROUNDED:
        return exact, pending
    else:
        return exact, noise.elementary
    return _plus(exact, noise.accumulation * size * noise.errors(exact.shape)), pending


def _plus(array: Array, error: Array) -> Array:
    """Add an error to what is finite."""
    return np.where(np.isfinite(array), array + error, array)


def _scatter(noise: Noise, ufunc: np.ufunc, total: Array, index: Any, terms: Any) -> None:
    """Add terms to places of an array, in place: as a sum of all that come to one place."""
    if ufunc is not np.add:
        raise TypeError(f"nothing is known of the rounding errors of `numpy.{ufunc.__name__}.at`")
    size, count = np.abs(total), np.zeros_like(total)
    np.add.at(total, index, terms)
    np.add.at(size, index, np.abs(terms))
    np.add.at(count, index, 1.0)
    total += noise.accumulation * np.sqrt(count) * size * noise.errors(total.shape)


def _tensordot(left: Any, right: Any, axes: Any = 2) -> Any:
    """Contract axes by a matrix product: NumPy's own does it on plain arrays."""
    own, others = (list(range(-axes, 0)), list(range(axes))) if isinstance(axes, int) else axes
    own, others = np.atleast_1d(own).tolist(), np.atleast_1d(others).tolist()
    left = np.moveaxis(left, own, range(-len(own), 0))
    right = np.moveaxis(right, others, range(len(others)))
    count = math.prod(right.shape[: len(others)])
    product = left.reshape(-1, count) @ right.reshape(count, -1)
    return product.reshape(left.shape[: left.ndim - len(own)] + right.shape[len(others) :])


def _pending(values: Iterable[Any]) -> float:
    return max((each.pending for each in _noisy_among(values)), default=0.0)


def _noisy_among(values: Iterable[Any]) -> Iterator[Noisy]:
    for value in values:
        if isinstance(value, Noisy):
            yield value
        elif isinstance(value, list | tuple):
            yield from _noisy_among(value)

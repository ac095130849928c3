"""NumPy arrays that round at random: Monte-Carlo arithmetic for whatever is written in NumPy.

`Noisy` is an `ndarray` whose every operation errs by a random amount of the size that a profile allows. With ξ uniform
in [−1, 1], drawn anew for each element:

rounding         r → r (1 + u ξ) before a result r is used, in every use with another ξ: an implementation may compute
                 the same number twice, and differently. u is u_o, that of the dtype in which numbers are stored, or
                 4 c_e u_a for functions such as exp, tanh or log (half of it for an argument that came to them rounded,
                 u_a |x|), or 2 u_m for a matrix product, if that is more.
sums, products   of n terms: √n u_a Σ|terms| ξ besides (√(n − 1) for a plain sum); the factors of a matrix product are
                 rounded before by u_m.
sine and cosine  the angle, p θ computed in the accumulation dtype, errs by (4 + |ln θ|) u_a of itself.
exact            comparisons, maxima, negation, |x|, whatever only moves numbers, and sums and products of small whole
                 numbers. 0 stays 0, and what is not finite stays as it is.

Nothing that computes is silently exact: what is not known here raises TypeError. Functions that NumPy does not have can
be made by `numpy.frompyfunc`, and err like exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from .near_decisions import Decisions
from .profiles import FP64, Profile

Array: TypeAlias = np.ndarray[Any, Any]

POOL = 2**14
"""Random numbers are drawn this many at once: for small arrays a call costs more than the numbers."""

ANGLE_ROUNDINGS = 14.0
"""4 + |ln θ|, for every base up to 20000."""

_DECISIONS = {"greater", "greater_equal", "less", "less_equal", "maximum", "minimum"}
_EXACT = {
    *("negative", "positive", "absolute", "fabs", "conjugate", "copysign", "sign", "signbit", "fmax", "fmin", "clip"),
    *("isfinite", "isnan", "isinf", "equal", "not_equal", "logical_and", "logical_or", "logical_not", "logical_xor"),
    *_DECISIONS,
}
_ROUNDED = {"add", "subtract", "multiply", "divide", "sqrt", "square", "reciprocal", "matmul"}
"""What no IEEE 754 arithmetic errs in by more than its rounding."""

_LIKE = {"zeros_like", "ones_like", "empty_like", "full_like"}
_MOVES = _LIKE | {
    *("where", "concatenate", "stack", "vstack", "hstack", "split", "array_split", "broadcast_to", "broadcast_arrays"),
    *("repeat", "tile", "reshape", "ravel", "transpose", "matrix_transpose", "swapaxes", "moveaxis", "expand_dims"),
    *(
        "squeeze",
        "flip",
        "roll",
        "pad",
        "take",
        "take_along_axis",
        "copy",
        "copyto",
        "diagonal",
        "tril",
        "triu",
        "sort",
    ),
    *("argsort", "partition", "argpartition", "argmax", "argmin", "nonzero", "flatnonzero", "count_nonzero", "shape"),
    *("ndim", "size", "array_equal", "nan_to_num", "atleast_1d", "atleast_2d", "delete", "append", "isneginf"),
}
"""NumPy functions without rounding."""

_BY_UFUNCS = {"sum", "mean", "max", "min", "amax", "amin", "any", "all", "clip", "var", "std", "isclose", "allclose"}
"""NumPy functions that leave to ufuncs whatever they compute."""


class Noise:
    """Where errors come from: a profile's unit roundoffs, random numbers, and what is known of decisions."""

    def __init__(self, profile: Profile, decisions: Decisions, rng: np.random.Generator) -> None:
        self.accumulation, self.output, self.products = profile.accumulation, profile.output, profile.products
        self.elementary = 4 * profile.exponential * profile.accumulation
        self.subnormal = 2.0**-25 if profile.dtype == "float16" else 0.0
        self.decisions = decisions
        self._rng, self._drawn = rng, dict[tuple[float, float], Array]()

    def noisy(self, array: Array, pending: float = 0.0) -> Noisy:
        """Return a view of an array whose operations will err."""
        view: Noisy = array.view(Noisy)
        view.noise, view.pending = self, pending
        return view

    def errors(self, shape: tuple[int, ...], size: float) -> Array:
        """Return independent errors, uniform in [−size, size]."""
        return self._draw(shape, 0.0, size)

    def rounded(self, array: Array, roundoff: float) -> Array:
        """Round once."""
        if roundoff == FP64:  # float64 itself, in which this is computed, has no 1 + u ξ
            return plus(array, array * self.errors(array.shape, roundoff))
        return array * self._draw(array.shape, 1.0, roundoff)

    def stored(self, array: Array, pending: float) -> Array:
        """Round a result that is about to be used, at float16 with the absolute error of subnormal numbers."""
        array = self.rounded(array, max(pending, self.output))
        return array + self.errors(array.shape, self.subnormal) * (array != 0.0) if self.subnormal else array

    def _draw(self, shape: tuple[int, ...], centre: float, size: float) -> Array:
        count = math.prod(shape)
        drawn = self._drawn.get((centre, size))
        if drawn is None or drawn.size < count:
            drawn = centre + self._rng.uniform(-size, size, max(count, POOL))
        self._drawn[centre, size] = drawn[count:]
        return drawn[:count].reshape(shape)


class Noisy(np.ndarray[Any, Any]):
    """An array whose operations err; `Noise.noisy` makes them."""

    noise: Noise
    pending: float = 0.0
    """The unit roundoff by which it will be rounded when it is used; 0 for what is given exactly."""

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, Noisy):
            self.noise, self.pending = source.noise, source.pending

    def __getitem__(self, index: Any) -> Any:
        # NumPy makes an element a scalar, which would be exact from then on.
        found = super().__getitem__(index)
        return found if isinstance(found, np.ndarray) else self.noise.noisy(np.asarray(found), self.pending)

    def __setitem__(self, index: Any, values: Any) -> None:
        self.pending = max(self.pending, _pending((values,)))
        super().__setitem__(index, values)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        noise, name = self.noise, ufunc.__name__
        operands = [_operand(noise, each, name) for each in inputs]
        if method == "at":
            return _add_at(noise, ufunc, *operands)
        is_known = ufunc.nout == 1 and (ufunc.signature is None or name == "matmul")
        if not is_known or method not in ("__call__", "outer", "reduce", "reduceat"):
            raise TypeError(f"nothing is known of the rounding errors of `numpy.{name}` ({method})")
        (out,) = kwargs.pop("out", (None,))
        given = kwargs if out is None else kwargs | {"out": np.array(out)}
        result = getattr(ufunc, method)(*operands, **given)
        result = np.asarray(result, np.float64 if result.dtype == object else None)
        if name in _EXACT or _is_whole(noise, name, method, operands, result):
            if name in _DECISIONS and method == "__call__":
                result = _decided(noise, ufunc, operands, result)
            pending = _pending(inputs) if name in _EXACT else 0.0
        else:
            pending = noise.accumulation if name in _ROUNDED else noise.elementary
            pending = max(pending, 2 * noise.products) if name == "matmul" else pending
            result = _summed(noise, result, name, method, operands, kwargs)
        if result.dtype.kind == "f":
            result = noise.noisy(result, pending)
        if out is None:
            return result
        out[...] = result
        return out

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = function.__name__
        if name == "tensordot":
            return _tensordot(*args, **kwargs)
        if name not in _MOVES and name not in _BY_UFUNCS:
            raise TypeError(f"nothing is known of the rounding errors of `numpy.{name}`")
        result = super().__array_function__(function, types, args, kwargs)
        if name not in _MOVES:
            return result
        return _moved(self.noise, result, 0.0 if name in _LIKE else _pending((args, *kwargs.values())))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        raise TypeError("an array's own dot, cumsum, cumprod, trace and round compute where no error can be added")

    dot = cumsum = cumprod = trace = round = _refuse


def _is_whole(noise: Noise, name: str, method: str, operands: list[Any], result: Array) -> bool:
    """Say whether sums and products of whole numbers are exact in every order: no partial sum needs to be rounded.

    So equal scores of small whole numbers stay equal: which of them comes first is decided by their order alone.
    """
    if name not in ("add", "subtract", "multiply", "matmul") or method not in ("__call__", "reduce"):
        return False
    if noise.products or not all(_holds_whole_numbers(operand) for operand in operands):
        return False
    left, *others = (np.abs(operand) for operand in operands)
    largest = np.asarray(left @ others[0]) if name == "matmul" else left.sum() + sum(each.sum() for each in others)
    largest = np.abs(result) if name == "multiply" else largest
    return bool(np.max(largest, initial=0.0) * noise.output < 1.0)


def _holds_whole_numbers(operand: Any) -> bool:
    array = np.asarray(operand)
    # The first number tells nearly always: this is looked at for every operation.
    return array.size > 0 and array.flat[0] == np.rint(array.flat[0]) and bool((array == np.rint(array)).all())


def plain(noise: Noise, result: Any) -> Array:
    """Return a result in float64, with the error that is pending but for that of storing it."""
    array = np.asarray(result, np.float64)
    return noise.rounded(array, result.pending) if isinstance(result, Noisy) else array


def plus(array: Array, error: Array) -> Array:
    """Add an error to what is finite."""
    return np.where(np.isfinite(array), array + error, array)


def _operand(noise: Noise, operand: Any, name: str) -> Any:
    """Give a ufunc a plain array, rounded where it is the result of another one."""
    if not isinstance(operand, Noisy):
        return operand
    array = operand.view(np.ndarray)
    if name in ("sin", "cos"):
        return noise.rounded(array, ANGLE_ROUNDINGS * noise.accumulation)
    if operand.pending and name not in _EXACT:
        array = noise.stored(array, operand.pending)
    return noise.rounded(array, noise.products) if name == "matmul" and noise.products else array


def _moved(noise: Noise, result: Any, pending: float) -> Any:
    """Make the floating arrays that a NumPy function returned noisy, and all others plain."""
    if isinstance(result, list | tuple):
        return type(result)(_moved(noise, each, pending) for each in result)
    if not isinstance(result, np.ndarray):
        return result
    return noise.noisy(result, pending) if result.dtype.kind == "f" else result.view(np.ndarray)


def _decided(noise: Noise, ufunc: np.ufunc, operands: list[Any], result: Array) -> Array:
    """Decide otherwise than usual where this is the run to do so."""
    left, right = operands
    turn = noise.decisions.turn(left, right)
    if turn is None:
        return result
    if ufunc in (np.maximum, np.minimum):
        is_left = (turn.margin < 0.0) == (ufunc is np.maximum)
        return np.where(turn.is_now, np.where(is_left, left, right), result)
    return np.where(turn.is_now, ~ufunc(turn.margin, 0.0), result)


def _summed(noise: Noise, result: Array, name: str, method: str, operands: list[Any], kwargs: dict[str, Any]) -> Array:
    """Add to a result what its sums err by, if there are sums in it."""
    if name == "matmul":
        left, right = operands
        size = math.sqrt(left.shape[-1]) * (np.abs(left) @ np.abs(right))
    elif method in ("__call__", "outer"):
        return result
    elif name != "add":
        raise TypeError(f"nothing is known of the rounding errors of `numpy.{name}.{method}`")
    elif method == "reduce":
        (terms,) = operands
        kwargs = {key: value for key, value in kwargs.items() if key in ("axis", "keepdims", "where")}
        additions = max(terms.size // max(result.size, 1) - 1, 0)
        size = math.sqrt(additions) * np.add.reduce(np.abs(terms), **kwargs)
    else:
        terms, starts = operands
        additions = np.add.reduceat(np.ones_like(terms), starts, **kwargs) - 1.0
        size = np.sqrt(additions) * np.add.reduceat(np.abs(terms), starts, **kwargs)
    return plus(result, size * noise.errors(result.shape, noise.accumulation))


def _add_at(noise: Noise, ufunc: np.ufunc, total: Array, index: Any, terms: Any) -> None:
    """Add terms to places of an array, in place; what comes to one place is one sum."""
    if ufunc is not np.add:
        raise TypeError(f"nothing is known of the rounding errors of `numpy.{ufunc.__name__}.at`")
    size, additions = np.abs(total), np.zeros_like(total)
    np.add.at(total, index, terms)
    np.add.at(size, index, np.abs(terms))
    np.add.at(additions, index, 1.0)
    total[...] = plus(total, np.sqrt(additions) * size * noise.errors(total.shape, noise.accumulation))


def _tensordot(left: Any, right: Any, axes: Any = 2) -> Any:
    """Contract axes by a matrix product: NumPy's own makes its operands plain arrays."""
    ours, theirs = (range(-axes, 0), range(axes)) if isinstance(axes, int) else map(np.atleast_1d, axes)
    left = np.moveaxis(left, tuple(ours), tuple(range(-len(ours), 0)))
    right = np.moveaxis(right, tuple(theirs), tuple(range(len(theirs))))
    outer = left.shape[: left.ndim - len(ours)], right.shape[len(theirs) :]
    count = math.prod(right.shape[: len(theirs)])
    return (left.reshape(-1, count) @ right.reshape(count, -1)).reshape(outer[0] + outer[1])


def _pending(values: Iterable[Any]) -> float:
    """Return the largest roundoff that is pending among values, nested in lists or not."""
    largest = 0.0
    for value in values:
        if isinstance(value, Noisy):
            largest = max(largest, value.pending)
        elif isinstance(value, list | tuple):
            largest = max(largest, _pending(value))
    return largest

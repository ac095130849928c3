"""What the agreement sees of a tensor: its shape, the name of its dtype, and whether it may be taken at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Size: TypeAlias = Any
"""An int, or whatever a framework uses for a size that is not known before its graph runs."""

Shape: TypeAlias = tuple[Size, ...]

FLOATING = ("float64", "float32", "bfloat16", "float16")
"""The dtypes of attention, by name (clause S16)."""

_NUMBERS = (np.ndarray, np.generic, int, float)


class Operand(NamedTuple):
    """A tensor as the agreement sees it: no values, only shape and dtype name."""

    shape: Shape
    dtype: str


def accumulation_dtype(dtype: str) -> str:
    """Name the dtype in which sums and exponentials are computed: float32 for the half precisions (S16)."""
    return "float64" if dtype == "float64" else "float32"


def show_size(size: Size) -> str:
    """Write a size for a message; one that is not known yet reads `?`."""
    return str(size) if isinstance(size, int) else "?"


def show_shape(shape: Shape) -> str:
    """Write a shape for a message."""
    sizes = [show_size(size) for size in shape]
    if not sizes:
        return "()"
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def from_python(name: str, value: Any, native: str) -> np.ndarray[Any, Any]:
    """Turn a NumPy array or nested lists of Python numbers into a plain NumPy array, and refuse everything else.

    `native` names, for the message, the arrays that the caller takes. Lists give float64, integers or booleans as NumPy
    reads them: the caller decides which dtype they take.
    """
    for leaf in _leaves(value):
        _check_leaf(name, leaf, native, is_element=leaf is not value)
    try:
        array = np.asarray(value)
    except ValueError:  # what NumPy says of it changes from version to version
        raise ValueError(f"`{name}` must be nested lists of equal lengths") from None
    if array.dtype.hasobject or (array.dtype.kind in "SUMmV" and dtype_name(array.dtype) not in FLOATING):
        raise TypeError(f"`{name}` must hold numbers; got a NumPy array of dtype {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def floating_from_python(name: str, value: Any, native: str) -> np.ndarray[Any, Any]:
    """Do as `from_python`, and refuse what is not floating; lists may hold integers."""
    array = from_python(name, value, native)
    if not (is_untyped(value) and array.dtype.kind in "iu"):
        check_dtype(name, dtype_name(array.dtype))
    return array


def numbers_from_python(name: str, value: Any, native: str) -> np.ndarray[Any, Any]:
    """Do as `from_python`, and refuse what is neither floating nor integer."""
    array = from_python(name, value, native)
    check_numbers(name, dtype_name(array.dtype))
    return array


def check_numbers(name: str, dtype: str) -> None:
    """Raise TypeError unless the dtype is one of attention's or an integer one."""
    if dtype not in FLOATING and not dtype.startswith(("int", "uint")):
        raise TypeError(f"`{name}` must have an integer or a floating dtype; got {dtype}")


def is_length(value: Any) -> bool:
    """Tell whether a value is a number of things, a Python int that is not negative; raise for a negative one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    if value < 0:
        raise ValueError(f"`positions` must be at least 0 where it is a number of positions; got {value}")
    return True


def check_listed(positions: Shape) -> None:
    """Refuse a lone position, which could as well be meant as a number of positions."""
    if not positions:
        raise ValueError(
            "`positions` must be a number of positions, a Python int, or an array (*batch, length); got shape ()"
        )


def as_float(value: Any) -> float:
    """Convert a Python number; an int beyond every float is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def is_untyped(value: Any) -> bool:
    """Tell whether a value brings no dtype of its own: Python numbers and nested lists of them."""
    return all(isinstance(leaf, int | float) and not isinstance(leaf, np.generic) for leaf in _leaves(value))


def dtype_name(dtype: Any) -> str:
    """Name a dtype of any framework as NumPy does, bfloat16 (of ml_dtypes) included."""
    name = getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
    return str(name)


def describe(value: Any) -> str:
    """Say what a value is, in words that name its framework: `a jax array (ArrayImpl)`, `an object of type str`."""
    if value is None:
        return "None"
    framework, name = framework_of(value), type(value).__name__
    if framework in ("jax", "torch", "tensorflow", "keras") and hasattr(value, "shape"):
        return f"a {framework} {'array' if framework == 'jax' else 'tensor'} ({name})"
    return f"an object of type {name if framework == 'builtins' else f'{framework}.{name}'}"


def framework_of(value: Any) -> str:
    """Name the package that a value's class comes from: "torch", "numpy", "builtins"."""
    package = type(value).__module__.partition(".")[0]
    return "jax" if package == "jaxlib" else package


def check_dtype(name: str, dtype: str) -> None:
    """Raise TypeError unless the dtype is one of attention's (S16)."""
    if dtype not in FLOATING:
        hint = "; a boolean array is a mask and goes to `mask=`" if (name, dtype) == ("bias", "bool") else ""
        raise TypeError(f"`{name}` must have a floating dtype ({', '.join(FLOATING)}); got {dtype}{hint}")


def check_floating(**operands: Operand) -> str:
    """Return the one floating dtype that all operands share, or raise TypeError (S16)."""
    for name, operand in operands.items():
        check_dtype(name, operand.dtype)
    dtypes = [operand.dtype for operand in operands.values()]
    if len(set(dtypes)) > 1:
        listed = ", ".join(f"{name} {operand.dtype}" for name, operand in operands.items())
        raise TypeError(f"{_enumerate(list(operands))} must share one dtype; got {listed}")
    return dtypes[0]


def _enumerate(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _check_leaf(name: str, leaf: Any, native: str, *, is_element: bool) -> None:
    # NumPy would read another framework's tensors, also inside a list, through their array protocol, without a word.
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`")
    if isinstance(leaf, np.matrix):
        raise TypeError(f"`{name}` is a NumPy matrix, whose * is a matrix product; pass numpy.asarray of it")
    if isinstance(leaf, _NUMBERS):
        return
    if hasattr(leaf, "shape") and not is_element:
        raise TypeError(f"`{name}` must be {native} or Python numbers; got {describe(leaf)}")
    got = f"a list that holds {describe(leaf)}" if is_element else describe(leaf)
    raise TypeError(f"`{name}` must be an array or nested lists of numbers; got {got}")

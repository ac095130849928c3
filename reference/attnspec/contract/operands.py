"""What the agreement sees of a tensor: its shape, the name of its dtype, and whether it may be taken at all."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Size: TypeAlias = Any
"""An int, or whatever a framework uses for a size that is not known before its graph runs."""

Shape: TypeAlias = tuple[Size, ...]

FLOATING = ("float64", "float32", "bfloat16", "float16")
"""The dtypes of attention, by name (clause S16)."""

_TAKEN = (np.ndarray, np.generic, list, tuple, int, float)


class Operand(NamedTuple):
    """A tensor as the agreement sees it: no values, only shape and dtype name."""

    shape: Shape
    dtype: str


def accumulation_dtype(dtype: str) -> str:
    """Name the dtype in which sums and exponentials are computed: float32 for the half precisions (S16)."""
    return "float64" if dtype == "float64" else "float32"


def show_shape(shape: Shape) -> str:
    """Write a shape for a message; a size that is not known yet reads `?`."""
    sizes = [str(size) if isinstance(size, int) else "?" for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def from_python(name: str, value: Any, native: str | None) -> np.ndarray[Any, Any]:
    """Turn a NumPy array or nested lists of Python numbers into a plain NumPy array, and refuse everything else.

    `native` names, for the message, the tensor type that the caller has already looked for; None where there is none.
    Lists give float64, integers or booleans as NumPy reads them: the caller decides which dtype they take.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a NumPy masked array, whose mask would be lost; pass its data and use `mask=`")
    if not isinstance(value, _TAKEN):
        raise TypeError(_refusal(name, native, describe(value)))
    _refuse_foreign_elements(name, value, native)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be nested lists of equal lengths that hold numbers; {error}") from None
    if array.dtype.hasobject or (array.dtype.kind in "SUMmV" and dtype_name(array) not in FLOATING):
        raise TypeError(f"`{name}` must hold numbers; got a NumPy array of dtype {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_untyped(value: Any) -> bool:
    """Tell whether a value brings no dtype of its own: None, Python numbers and nested lists of them."""
    return value is None or isinstance(value, (list, tuple, int, float))


def dtype_name(array: np.ndarray[Any, Any]) -> str:
    """Name a NumPy dtype as every framework does, bfloat16 (of ml_dtypes) included."""
    return array.dtype.name


def describe(value: Any) -> str:
    """Say what a value is, in words that name its framework: `a jax array`, `a torch tensor`, `a str`."""
    module = type(value).__module__.partition(".")[0]
    framework = {"jaxlib": "jax", "jax": "jax", "torch": "torch", "tensorflow": "tensorflow", "keras": "keras"}.get(
        module
    )
    if framework is None:
        return f"an object of type {type(value).__name__}"
    return f"a {framework} {'array' if framework == 'jax' else 'tensor'} ({type(value).__name__})"


def check_floating(**operands: Operand) -> str:
    """Return the one floating dtype that all operands share, or raise TypeError (S16)."""
    first = next(iter(operands.values())).dtype
    if first in FLOATING and all(operand.dtype == first for operand in operands.values()):
        return first
    for name, operand in operands.items():
        if operand.dtype not in FLOATING:
            raise TypeError(f"`{name}` must have a floating dtype ({', '.join(FLOATING)}); got {operand.dtype}")
    names = list(operands)
    listed = ", ".join(f"{name} {operand.dtype}" for name, operand in operands.items())
    raise TypeError(f"{_enumerate(names)} must share one dtype; got {listed}")


def _enumerate(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _refuse_foreign_elements(name: str, value: Any, native: str | None) -> None:
    # NumPy would read a list of another framework's tensors through their array protocol, without a word.
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if not isinstance(value, _TAKEN):
        raise TypeError(_refusal(name, native, f"a list that holds {describe(value)}"))


def _refusal(name: str, native: str | None, got: str) -> str:
    accepted = "a NumPy array" if native is None else f"{native}, a NumPy array"
    return f"`{name}` must be {accepted} or nested lists of numbers; got {got}"

"""How arguments become torch tensors, and what the agreement may see of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.contract.checks import Checks
from attnspec.contract.operands import (
    Operand,
    Shape,
    check_dtype,
    check_listed,
    check_numbers,
    dtype_name,
    floating_from_python,
    from_python,
    is_length,
    is_untyped,
    numbers_from_python,
)
from attnspec.contract.options import Given

NATIVE = "a torch.Tensor, a NumPy array"


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Turn the named arguments into floating tensors, arrays and lists on the default device.

    Lists take the dtype of the first tensor or array, torch's default dtype without one. All must end up on one device.
    """
    tensors = {name: _as_tensor(name, value, None) for name, value in values.items()}
    typed = [tensors[name] for name, value in values.items() if not is_untyped(value)]
    dtype = typed[0].dtype if typed else torch.get_default_dtype()
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        _check_device(name, tensor, first, tensors[first])
    return tuple(tensor.to(dtype) if is_untyped(values[name]) else tensor for name, tensor in tensors.items())


def as_option(name: str, value: Any, query: Tensor, beside: str = "query") -> Any:
    """Turn an option into a floating tensor on the query's device, None into None; a list takes the query's dtype.

    `beside` names, for messages, what stands in the place of a query.
    """
    if value is None:
        return None
    tensor = _as_tensor(name, value, query.device)
    _check_device(name, tensor, beside, query)
    return tensor.to(query.dtype) if is_untyped(value) else tensor


def with_tensors(given: Given, query: Tensor) -> Given:
    """Turn the numbers of bias and sinks into tensors on the query's device."""
    return given.with_tensors(lambda name, value: as_option(name, value, query))


def as_positions(value: Any, like: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Turn positions, integers or floating numbers, into this dtype; without tensors beside, n means 0 … n − 1."""
    if like is None and is_length(value):
        return torch.arange(value, dtype=dtype)
    if isinstance(value, Tensor):
        _check_dense("positions", value)
        check_numbers("positions", dtype_name(value.dtype))
        if like is not None:
            _check_device("positions", value, "inputs", like)
        positions = value
    else:
        device = torch.get_default_device() if like is None else like.device
        positions = _from_numpy(numbers_from_python("positions", value, NATIVE), device)
    if like is None:
        check_listed(_shape(positions))
    return positions.to(dtype)


def as_ids(name: str, value: Any, like: Tensor, beside: str) -> Tensor:
    """Turn ids, integers of any dtype, into int64 on the device of a tensor that messages call `beside`."""
    if isinstance(value, Tensor):
        _check_dense(name, value)
        _check_device(name, value, beside, like)
        return value.to(torch.int64)
    return _from_numpy(from_python(name, value, NATIVE).astype(np.int64), like.device)


def describe(tensor: Tensor | None) -> Any:
    """Show the agreement what it may see of a tensor."""
    return None if tensor is None else Operand(_shape(tensor), dtype_name(tensor.dtype))


def new_checks(query: Tensor) -> Checks:
    """Start the checks of one call."""

    def read(name: str, value: Any) -> np.ndarray[Any, Any] | None:
        if torch.compiler.is_compiling():
            return None
        if not isinstance(value, Tensor):
            return from_python(name, value, NATIVE)
        _check_dense(name, value)
        _check_device(name, value, "query", query)
        if value.device.type != "cpu" or _is_transformed(value):
            return None
        value = value.detach()
        try:
            return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())
        except RuntimeError:  # inside torch.func.grad the values of no tensor can be read
            return None

    return Checks(read, _shape)


def mask_tensor(array: Any, device: torch.device) -> Tensor:
    """Turn an array that a mask holds into a tensor."""
    if isinstance(array, Tensor) or torch.compiler.is_compiling():  # Dynamo reads NumPy arrays as tensors of its own
        return torch.as_tensor(array, device=device)
    return _from_numpy(from_python("mask", array, NATIVE), device)


def _as_tensor(name: str, value: Any, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        _check_dense(name, value)
        check_dtype(name, dtype_name(value.dtype))
        return value
    return _from_numpy(floating_from_python(name, value, NATIVE), device or torch.get_default_device())


def _from_numpy(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    # torch shares memory with an array only if it is writeable and runs forward; anything else is copied first.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if dtype_name(array.dtype) == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def _check_dense(name: str, tensor: Tensor) -> None:
    if tensor.is_nested or tensor.layout != torch.strided:
        raise TypeError(
            f"`{name}` must be a dense torch.Tensor; got a {'nested' if tensor.is_nested else 'sparse'} one"
        )


def _check_device(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    if tensor.device != reference.device:
        raise ValueError(
            f"`{name}` must be on the device of `{other}`; "
            f"got {other} on {reference.device} and {name.replace('`', '')} on {tensor.device}"
        )


def _is_transformed(value: Tensor) -> bool:
    # Inside torch.func.vmap or grad a tensor is a wrapper whose values cannot be read.
    return torch._C._functorch.is_functorch_wrapped_tensor(value)


def _shape(value: Any) -> Shape:
    return tuple(value.shape)

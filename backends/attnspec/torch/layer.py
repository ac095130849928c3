"""What every layer is in PyTorch: a `torch.nn.Module` whose parameters have the canonical names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from attnspec.contract.dropout import Dropout
from attnspec.contract.layer_config import LayerConfig, ParameterSpec, Part, configure, signature_of
from attnspec.contract.layer_dropout import Draw
from attnspec.contract.layer_exports import load_layer
from attnspec.contract.layer_states import State, check_state, read_state, save_state
from attnspec.contract.operands import Shape, check_dtype, dtype_name
from attnspec.contract.states import map_leaves

_OWN = tuple(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("device", "dtype"))


class Layer(nn.Module):
    """A layer with a canonical state.

    Its arguments are the fields of its `Config`, then `device` and `dtype` as for every `torch.nn.Module`. Parameters
    are drawn by torch's default generator from the distributions that the arguments' class documents; dropout, in
    training only, by that of the inputs' device.
    """

    Config: ClassVar[type[LayerConfig]]
    config: Any

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # parameters and inner layers, whose names the arguments give

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "Config" in vars(cls):  # otherwise a user's class, with a signature of its own
            cls.__signature__ = signature_of(cls.Config, own=_OWN)  # type: ignore[attr-defined] # read by inspect

    def __init__(self, *args: Any, device: Any = None, dtype: torch.dtype | None = None, **options: Any) -> None:
        super().__init__()
        self.config = configure(self.Config, args, options)
        if dtype is not None:
            check_dtype("dtype", dtype_name(dtype))
        parts = self.config.parts()
        self.part_names = tuple(parts)
        for name, part in parts.items():
            self._add(name, part, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the layer's own parameters anew; not those of the layers inside it."""
        with torch.no_grad():
            for name, part in self.config.parts().items():
                if isinstance(part, ParameterSpec):
                    _draw_initial(part, getattr(self, name))

    def parameter_tree(self) -> Any:
        """Return the parameters as the tree that the layer's operation takes."""
        return self.config.assemble({name: _branch(getattr(self, name)) for name in self.part_names})

    def state(self) -> State:
        """Return a copy of all parameters as NumPy arrays, by their canonical names."""
        given = self._named()
        return {name: _to_numpy(given[name]) for name in self.config.specs()}

    def load_state(self, state: Mapping[str, Any]) -> Self:
        """Set all parameters from a state of any framework; what does not fit is an error that names each entry."""
        given = self._named()
        dtype = dtype_name(next(iter(given.values())).dtype) if given else "float64"
        with torch.no_grad():
            for name, array in check_state(self.config, state, dtype).items():
                given[name].copy_(_from_numpy(array))
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state and the layer's arguments to a safetensors file."""
        save_state(path, self.config, self.state())

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Set all parameters from a file that `save` of any framework wrote for a layer that computes the same."""
        return self.load_state(read_state(path, self.config)[1])

    @classmethod
    def from_layer_config(cls, config: LayerConfig, **own: Any) -> Self:
        """Build the layer that has these arguments; `own` are those of the framework."""
        return load_layer(__package__, config, cls)(**config.arguments(), **own)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return str(self.config.show())

    def _add(self, name: str, part: Part, device: Any, dtype: torch.dtype | None) -> None:
        if part is None:
            self.register_parameter(name, None)
        elif isinstance(part, ParameterSpec):
            self.register_parameter(name, nn.Parameter(torch.empty(part.shape, device=device, dtype=dtype)))
        elif isinstance(part, LayerConfig):
            self.add_module(name, Layer.from_layer_config(part, device=device, dtype=dtype))
        else:
            layers = (Layer.from_layer_config(config, device=device, dtype=dtype) for config in part)
            self.add_module(name, nn.ModuleList(layers))

    def _named(self) -> dict[str, Tensor]:
        # A parameter that two layers share has both names.
        return dict(self.named_parameters(remove_duplicate=False))

    def _draw(self, draws: Callable[..., Any], like: Any, *shapes: Shape) -> Any:
        """Draw the dropouts of inputs of these shapes, on the device of one of them; None outside training."""
        if not (self.training and self.config.has_dropout):
            return None
        device = like.device if isinstance(like, Tensor) else None

        def draw(one: Draw) -> Dropout:
            return Dropout(one.rate, torch.rand(one.shape, device=device) >= one.rate)

        return map_leaves(draw, draws(self.config, *shapes))


def _branch(part: Any) -> Any:
    if isinstance(part, Layer):
        return part.parameter_tree()
    return tuple(map(_branch, part)) if isinstance(part, nn.ModuleList) else part


def shape_of(inputs: Any) -> Shape:
    """Return the shape of a tensor, an array or nested lists; () where there is none."""
    try:
        return tuple(inputs.shape) if isinstance(inputs, Tensor) else np.shape(inputs)
    except ValueError:  # lists of unequal lengths, of which the operation itself will say so
        return ()


def _draw_initial(spec: ParameterSpec, tensor: Tensor) -> None:
    if spec.distribution == "glorot_uniform":
        tensor.uniform_(-spec.limit, spec.limit)
    elif spec.distribution == "normal":
        tensor.normal_(0.0, 0.02)
    else:
        tensor.fill_(1.0 if spec.distribution == "ones" else 0.0)


def _to_numpy(parameter: Tensor) -> np.ndarray[Any, Any]:
    tensor = parameter.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return np.array(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.array(tensor.numpy())


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    if dtype_name(array.dtype) == "bfloat16":
        return torch.from_numpy(array.copy().view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())

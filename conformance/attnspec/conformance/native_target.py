"""What every native attention's adapter does: a call in the native's words, and nothing repaired on the way back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract.masks import as_mask
from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.options import Given
from attnspec.contract.shapes import Sizes
from attnspec.reference.attention import prepare

from .calls import DTYPES, Call
from .differentiation import pull_back
from .mask_parts import bias_array, take_apart, to_array
from .native_arrays import from_numpy, to_numpy
from .natives import NativeEntry

Array: TypeAlias = np.ndarray[Any, Any]
Tensors: TypeAlias = Mapping[str, Any]
"""The framework's own tensors by name."""

_WORDS = {"bias": "a bias", "scale": "a scale", "softcap": "a softcap", "sinks": "sinks", "rotary": "rotary positions"}


class Question(NamedTuple):
    """A call, with its mask said as far as possible by the keywords that a native has, and the rest as an array."""

    call: Call
    sizes: Sizes
    """Those of the attention itself, behind projections."""
    keywords: Mapping[str, Any]
    mask: Array | None
    """Boolean, of the query's rank, each axis full or 1; True is visible."""

    @property
    def is_masked(self) -> bool:
        """Whether anything restricts attention."""
        return self.mask is not None or bool(self.keywords)

    @property
    def has_bias(self) -> bool:
        """Whether the call has a bias; it is then among the tensors."""
        return bool(self.call.options.get("bias"))

    @property
    def scale(self) -> float | None:
        """The call's own scale."""
        scale: float | None = self.call.options.get("scale")
        return scale

    @property
    def default_scale(self) -> float:
        """The scale that holds: the call's own, or 1/√Dk."""
        return self.scale if self.scale is not None else 1.0 / math.sqrt(int(self.sizes.head_dim))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of an attention's output."""
        return (*self.call.tensors["query"].shape[:-1], int(self.sizes.value_dim))

    @property
    def batch(self) -> int:
        """How many batch elements there are in all batch axes together."""
        return math.prod(int(size) for size in self.sizes.batch)


class NativeTarget:
    """The base of the adapters: a subclass says what it refuses, and calls its native."""

    framework: ClassVar[str] = "numpy"
    """Whose tensors `attend` takes and returns, by the name that `pull_back` knows; `numpy` for none."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of bias, scale and softcap the native has an argument for."""
    keywords: ClassVar[tuple[str, ...]] = ()
    """Which parts of a mask it has arguments for, by the names of `mask_parts.STRUCTURED`."""
    declared: ClassVar[Mapping[str, str]] = {}
    """Its arithmetic, where that is not the default profile of a dtype."""

    def __init__(self, entry: NativeEntry) -> None:
        self.entry = entry
        self.name, self.version = entry.name, entry.version
        self.profiles: Mapping[str, str] = self.declared

    def refuse(self, question: Question) -> str | None:
        """Say what else a native has no way to be asked."""
        del question
        return None

    def attend(self, question: Question, tensors: Tensors) -> dict[str, Any]:
        """Call the native, and return its results as attnspec lays them out."""
        raise NotImplementedError

    def unsupported(self, call: Call) -> str | None:
        """Say what the native has no argument for."""
        entry = self.entry
        if call.operation not in entry.operations:
            return f"{entry.function} computes {' and '.join(entry.operations)}, not {call.operation}"
        if call.dtype not in entry.dtypes:
            return f"{entry.function} has no {call.dtype}"
        if call.direction == "backward" and not entry.has_gradients:
            return f"{entry.function} gives no gradients here"
        if call.options.get("dropout"):
            return f"{entry.function} draws its own dropout: it has no argument for what is kept"
        for option, words in _WORDS.items():
            given = call.options.get(option)
            if given is not None and given is not False and option not in self.options:  # 0.0 is given, and == False
                return f"{entry.function} has no {words.removeprefix('a ')}"
        return self.refuse(self.ask(call))

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the query's dtype (S16), at least float32 for a logsumexp; a gradient has that of its tensor."""
        if call.direction == "backward":
            return {name: (call.tensors[name].dtype,) for name in call.results}
        wide = tuple(dict.fromkeys((DTYPES[accumulation_dtype(call.dtype)], DTYPES["float64"])))
        own = DTYPES[call.dtype]
        return {
            name: wide
            if name == "logsumexp"
            else tuple(dict.fromkeys((own, *wide)))
            if "logsumexp" in call.results
            else (own,)
            for name in call.results
        }

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Call the native, or have its framework differentiate it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is not its answer
            return self._run(call, tensors)

    def _run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        question = self.ask(call)
        given = {name: tensor for name, tensor in tensors.items() if not name.endswith("_cotangent")}
        bias = call.call_options(tensors).get("bias")
        if bias is not None and "bias" not in given:
            given["bias"] = bias_array(bias, question.sizes, call.dtype, call.tensors["query"].ndim)
        native = {name: self.tensor(tensor) for name, tensor in given.items()}
        if call.direction == "forward":
            results = self.attend(question, native)
            return {name: to_numpy(results[name], f"the {name}") for name in call.results}

        def function(chosen: Tensors) -> dict[str, Any]:
            return self.attend(question, {**native, **chosen})

        return pull_back(
            self.framework, function, {name: tensors[name] for name in call.results}, call.cotangents(tensors)
        )

    def tensor(self, array: Array) -> Any:
        """Make a tensor of the native's framework."""
        return array if self.framework == "numpy" else from_numpy(self.framework, array)

    def ask(self, call: Call, keywords: Iterable[str] | None = None) -> Question:
        """Say a call's mask by these keywords, or by those that the native has."""
        mask, sizes = call.call_options().get("mask"), sizes_of(call)
        if mask is None:
            return Question(call, sizes, {}, None)
        parts = take_apart(as_mask(mask), sizes, self.keywords if keywords is None else keywords)
        return Question(call, sizes, parts.keywords, None if parts.rest is None else to_array(parts.rest, sizes))


def sizes_of(call: Call) -> Sizes:
    """Return the sizes of a call's attention, those behind the projections for a layer."""
    query, key, value = (call.tensors[name] for name in ("query", "key", "value"))
    if call.operation == "multi_head_attention":
        heads = call.options["num_heads"]
        kv_heads = call.options.get("num_kv_heads") or heads
        widths = (call.tensors[f"{part}_weight"].shape[-1] for part in ("query", "value"))
        head_dim, value_dim = (width // count for width, count in zip(widths, (heads, kv_heads), strict=True))
        batch, rank = query.shape[:-2], query.ndim + 1
        return Sizes(batch, heads, kv_heads, query.shape[-2], key.shape[-2], head_dim, value_dim, rank)
    if call.operation == "additive_attention":
        batch = query.shape[:-3] if query.ndim >= 4 else query.shape[:-2]
        heads, kv_heads = (1 if query.ndim < 4 else tensor.shape[-3] for tensor in (query, key))
        lengths = query.shape[-2], key.shape[-2]
        return Sizes(batch, heads, kv_heads, *lengths, query.shape[-1], value.shape[-1], query.ndim)
    return prepare(query, key, value, Given(None))[0].sizes


def with_heads(tensor: Any, sizes: Sizes) -> Any:
    """Put a head axis of 1 into a query, key or value that has none."""
    return tensor if sizes.has_heads else tensor.reshape((*tensor.shape[:-2], 1, *tensor.shape[-2:]))


def in_four_axes(
    tensor: Any, sizes: Sizes, reshape: Callable[[Any, tuple[int, ...]], Any], broadcast: Callable[..., Any]
) -> Any:
    """Give a tensor, mask or bias the axes (batch, heads, length, …): one batch axis for all of them."""
    shape = tuple(int(size) for size in tensor.shape)
    batch = tuple(int(size) for size in sizes.batch)
    heads = shape[-3] if sizes.has_heads and len(shape) > 2 else 1
    own = shape[: len(shape) - (3 if sizes.has_heads else 2)] if len(shape) > 2 else ()
    ends = (heads, *shape[-2:])
    own = (1,) * (len(batch) - len(own)) + own
    if len(batch) > 1 and own != batch and math.prod(own) > 1:
        tensor, own = broadcast(reshape(tensor, own + ends), batch + ends), batch
    return reshape(tensor, (math.prod(own), *ends))

"""A plain callable as a target: what it is called with, by its signature and its declaration, and what it gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract.masks import as_mask
from attnspec.contract.operands import accumulation_dtype
from attnspec.contract.options import Given
from attnspec.reference.attention import prepare

from .backend_target import NO_64_BIT, installed_version
from .calls import DTYPES, Call
from .declarations import GRADIENTS, declaration_of
from .differentiation import pull_back
from .mask_parts import STRUCTURED, bias_array, of_rank, take_apart, to_array
from .native_arrays import cast, dtype_name, from_numpy, jax_has_64_bit, to_numpy
from .target_protocol import Array, ChangedInputError, TargetError, UnsupportedCaseError

KEYWORDS = frozenset({"mask", "bias", "scale", "softcap", "sinks", "dropout_keep", "dropout_rate", *STRUCTURED})
"""Everything that a plain callable may be given beside query, key and value."""

LOGSUMEXP_COTANGENT = "logsumexp_cotangent"
"""What a vjp is given beside these, for the second result."""

_PLACED = ("query", "key", "value")
"""The tensors that have a layout; their gradients have it too."""


class CallableTarget:
    """A plain function `fn(query, key, value, *, …)`, with the conventions that `@target` declared.

    Without a declaration it takes NumPy arrays in the canonical layout.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._declared = declaration_of(function)
        self.name = self._declared.name or name
        self.profiles: Mapping[str, str] = self._declared.profiles
        self._function = function
        self._parameters = _parameters_of(name, function, 3, "query, key and value", KEYWORDS)
        self._vjp_parameters: _Parameters | None = None
        if self._declared.vjp is not None:
            first = "query, key, value and output_cotangent"
            allowed = KEYWORDS | {LOGSUMEXP_COTANGENT}
            self._vjp_parameters = _parameters_of(f"the vjp of {name}", self._declared.vjp, 4, first, allowed)
        self.version = self._version(name)

    def unsupported(self, call: Call) -> str | None:
        """Say what the function, by its declaration or its signature, cannot take or give."""
        if call.operation not in ("dot_product_attention", "attention_with_logsumexp"):
            return f"a plain callable is a dot_product_attention, not a {call.operation}"
        return self._undeclared(call) or self._no_gradients(call) or self._no_keyword(call)

    def result_dtypes(self, call: Call) -> dict[str, tuple[np.dtype[Any], ...]]:
        """Return the query's dtype (S16); partial results are at least float32, their output may be the query's.

        A gradient has the dtype of what it belongs to.
        """
        if call.direction == "backward":
            return {name: (call.tensors[name].dtype,) for name in call.results}
        if call.operation == "attention_with_logsumexp":
            wide = tuple({DTYPES[accumulation_dtype(call.dtype)]: None, DTYPES["float64"]: None})
            return {"output": tuple(dict.fromkeys((DTYPES[call.dtype], *wide))), "logsumexp": wide}
        return {"output": (DTYPES[call.dtype],)}

    def run(self, call: Call, tensors: dict[str, Array]) -> dict[str, Array]:
        """Call the function, or its vjp, or differentiate it, with the keywords that the case needs and no others."""
        if call.direction == "forward":
            keywords = self._keywords(call, tensors, self._parameters)
            returned = self._call(self._function, self._inputs(tensors), keywords)
            results = {name: to_numpy(one, f"the {name}") for name, one in self._named(call, returned).items()}
            return {name: self._read(name, result, tensors) for name, result in results.items()}
        gradients = self._by_vjp(call, tensors) if self._vjp_parameters else self._by_framework(call, tensors)
        return {name: self._gradient_as_given(name, one, tensors) for name, one in gradients.items()}

    # What it does not do.

    def _undeclared(self, call: Call) -> str | None:
        declared, rank = self._declared, call.tensors["query"].ndim
        if call.dtype not in declared.dtypes:
            return f"the function is declared for {', '.join(declared.dtypes)} only"
        if declared.ranks is not None and rank not in declared.ranks:
            return f"the function is declared for queries with {' or '.join(map(str, declared.ranks))} axes only"
        if call.operation == "attention_with_logsumexp" and declared.logsumexp is None:
            return "the function is declared to return no logsumexp"
        if declared.framework == "jax" and call.dtype == "float64" and not jax_has_64_bit():
            return NO_64_BIT
        return None

    def _no_gradients(self, call: Call) -> str | None:
        if call.direction == "forward":
            return None
        if not self._declared.is_differentiable:
            return "a plain callable gives no gradients"
        if self._declared.gradients is not None:
            absent = [name for name in GRADIENTS if name in call.results and name not in self._declared.gradients]
            if absent:
                return f"the function is declared to have no gradient of `{absent[0]}`"
        if self._vjp_parameters and "logsumexp" in call.cotangents() and not self._vjp_parameters.takes_logsumexp:
            return f"the vjp takes no `{LOGSUMEXP_COTANGENT}`"
        return None

    def _no_keyword(self, call: Call) -> str | None:
        backward = call.direction == "backward" and self._vjp_parameters is not None
        parameters, what = (self._vjp_parameters, "vjp") if backward else (self._parameters, "function")
        if parameters is None:
            return None
        given = self._canonical_keywords(call, call.tensors, parameters)
        missing = [name for name in given if not parameters.accepts(name)]
        if missing:
            return f"the {what} takes no `{missing[0]}`"
        there = {*given, LOGSUMEXP_COTANGENT} if "logsumexp" in call.cotangents() else {*given}
        absent = sorted(parameters.demanded - there)
        return f"the {what} demands `{absent[0]}`, which this case does not give" if absent else None

    # What it is given.

    def _call(self, function: Callable[..., Any], inputs: Mapping[str, Array], keywords: Mapping[str, Any]) -> Any:
        """Call the function, or its vjp, with arrays of its framework, which it may not change."""
        first, others = self._natives(inputs), self._natives(keywords)
        returned = function(*first.values(), **others)
        if self._declared.framework in (None, "torch"):  # may be copies; tensors of the others cannot be written to
            given = {**inputs, **keywords}
            for name, native in {**first, **others}.items():
                if isinstance(given[name], np.ndarray) and to_numpy(native).tobytes() != given[name].tobytes():
                    raise ChangedInputError(f"the target changed its input `{name}` (S17)")
        return returned

    def _inputs(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self._placed(tensors[name]) for name in _PLACED}

    def _natives(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._native(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}

    def _native(self, array: Array) -> Any:
        if self._declared.framework is not None:
            return from_numpy(self._declared.framework, array)
        array = array if array.flags.c_contiguous else array.copy()
        array.flags.writeable = False
        return array

    def _placed(self, array: Array) -> Array:
        """Bring query, key, value, output or a gradient from the canonical layout into the declared one, or back."""
        return np.swapaxes(array, -3, -2) if self._declared.layout == "BTHD" and array.ndim >= 4 else array

    def _keywords(self, call: Call, tensors: Mapping[str, Array], parameters: _Parameters) -> dict[str, Any]:
        given = self._canonical_keywords(call, tensors, parameters)
        if "mask" in given:
            given["mask"] = self._polarised(given["mask"], call.dtype)
        return given

    def _polarised(self, mask: Array, dtype: str) -> Array:
        if self._declared.mask == "additive":
            return np.where(mask, 0.0, -np.inf).astype(DTYPES[dtype])
        return ~mask if self._declared.mask == "true_is_ignored" else mask

    def _canonical_keywords(self, call: Call, tensors: Mapping[str, Array], parameters: _Parameters) -> dict[str, Any]:
        options = call.call_options(tensors)
        mask, bias, dropout = (options.pop(name, None) for name in ("mask", "bias", "dropout"))
        attention, _ = prepare(call.tensors["query"], call.tensors["key"], call.tensors["value"], Given(mask))
        rank = call.tensors["query"].ndim
        if bias is not None:
            options["bias"] = bias_array(bias, attention.sizes, call.dtype, rank)
        if dropout is not None:
            options["dropout_keep"] = of_rank(dropout.keep, rank)
            options["dropout_rate"] = dropout.rate
        if mask is not None:
            parts = take_apart(
                as_mask(mask), attention.sizes, [name for name in STRUCTURED if parameters.accepts(name)]
            )
            options |= parts.keywords
            if parts.rest is not None:
                options["mask"] = to_array(parts.rest, attention.sizes)
        return options

    # What it gives.

    def _named(self, call: Call, returned: Any) -> dict[str, Any]:
        results = returned if isinstance(returned, tuple) else (returned,)
        if not results:
            raise TypeError("the function returned an empty tuple in the place of its output")
        if call.operation == "dot_product_attention":
            return {"output": results[0]}
        if len(results) < 2:
            raise UnsupportedCaseError("the function returns no logsumexp beside its output")
        return {"output": results[0], "logsumexp": results[1]}

    def _read(self, name: str, result: Array, tensors: Mapping[str, Array]) -> Array:
        if name == "output":
            return self._placed(result) if result.ndim == tensors["query"].ndim else result
        if self._declared.logsumexp == "base2" and result.dtype in (np.float32, np.float64):
            return result.astype(np.float64) * math.log(2.0)  # in float64, so that this adds no rounding to its own
        return result

    def _by_vjp(self, call: Call, tensors: Mapping[str, Array]) -> dict[str, Array]:
        parameters, vjp = self._vjp_parameters, self._declared.vjp
        if parameters is None or vjp is None:
            raise TargetError(f"{self.name} has no vjp")
        cotangents = call.cotangents(tensors)
        keywords = self._keywords(call, tensors, parameters)
        if "logsumexp" in cotangents:
            keywords[LOGSUMEXP_COTANGENT] = self._of_own_logsumexp(cotangents["logsumexp"])
        inputs = self._inputs(tensors) | {"output_cotangent": self._placed(cotangents["output"])}
        returned = self._call(vjp, inputs, keywords)
        if not isinstance(returned, Mapping):
            raise TypeError(f"the vjp must return gradients by name, in a mapping; got {type(returned).__name__}")
        unknown = [name for name in returned if name not in GRADIENTS]
        if unknown:
            raise TypeError(f"the vjp returned a gradient of {unknown[0]!r}; the names are {', '.join(GRADIENTS)}")
        return {
            name: to_numpy(returned[name], f"the gradient of `{name}`")
            for name in call.results
            if returned.get(name) is not None
        }

    def _by_framework(self, call: Call, tensors: Mapping[str, Array]) -> dict[str, Array]:
        framework = self._declared.framework
        if framework is None:
            raise TargetError(f"{self.name} has neither a framework nor a vjp")
        cotangents = call.cotangents(tensors)
        given = self._keywords(call, tensors, self._parameters)
        chosen = {name: self._placed(tensors[name]) if name in _PLACED else tensors[name] for name in call.results}
        chosen |= {name: given[name] for name in chosen if name in given}  # a bias with the axes that it is given
        keywords = self._natives({name: value for name, value in given.items() if name not in chosen})
        laid = {"output": self._placed(cotangents["output"])}
        if "logsumexp" in cotangents:
            laid["logsumexp"] = self._of_own_logsumexp(cotangents["logsumexp"])

        def function(native: Mapping[str, Any]) -> dict[str, Any]:
            options = {name: one for name, one in native.items() if name not in _PLACED}
            results = self._named(call, self._function(*(native[name] for name in _PLACED), **keywords, **options))
            return {name: _as_cotangent(framework, name, results[name], laid[name]) for name in laid}

        return pull_back(framework, function, chosen, laid)

    def _of_own_logsumexp(self, cotangent: Array) -> Array:
        """Return the cotangent of the function's own logsumexp from that of the natural one, ln 2 times base 2."""
        own: Array = (
            cotangent if self._declared.logsumexp != "base2" else cotangent * cotangent.dtype.type(math.log(2.0))
        )
        return own

    def _gradient_as_given(self, name: str, gradient: Array, tensors: Mapping[str, Array]) -> Array:
        """Bring a gradient from the form in which the function got the tensor into that of the tensor itself."""
        tensor = tensors[name]
        if name in _PLACED:
            return self._placed(gradient) if gradient.ndim == tensor.ndim else gradient
        if name == "bias" and gradient.shape == of_rank(tensor, tensors["query"].ndim).shape:
            return gradient.reshape(tensor.shape)
        return gradient

    def _version(self, name: str) -> str:
        own = " ".join(filter(None, (self._declared.name, self._declared.version))) or "Python callable"
        if self._declared.framework is None:
            return own
        return f"{own}, {installed_version(f'target {name!r}', self._declared.framework)}"


class _Parameters(NamedTuple):
    """What a function takes beside its first parameters."""

    accepted: frozenset[str]
    demanded: frozenset[str]
    """Those without a default."""
    takes_all: bool

    def accepts(self, name: str) -> bool:
        """Whether it may be given this keyword."""
        return self.takes_all or name in self.accepted

    @property
    def takes_logsumexp(self) -> bool:
        """Whether it is a vjp for a second result too."""
        return self.accepts(LOGSUMEXP_COTANGENT)


def _parameters_of(
    name: str, function: Callable[..., Any], count: int, first: str, keywords: frozenset[str]
) -> _Parameters:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise TargetError(
            f"the signature of {name} cannot be read; wrap it in a function with named arguments"
        ) from None
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < count and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TargetError(f"{name} must take {first}; its signature is {signature}")
    others = [p for p in parameters if p not in positional[:count] and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    accepted = frozenset(p.name for p in others if p.kind is not p.POSITIONAL_ONLY)
    demanded = frozenset(p.name for p in others if p.default is p.empty)
    never_given = sorted(demanded - (accepted & keywords))
    if never_given:
        raise TargetError(
            f"{name} demands `{never_given[0]}`, which no case gives; "
            f"beside {first} the keywords are {', '.join(sorted(keywords))}"
        )
    return _Parameters(accepted, demanded, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _as_cotangent(framework: str, name: str, result: Any, cotangent: Array) -> Any:
    """Return a result in the dtype of its cotangent, unless it is stored in one that cannot carry the cotangent."""
    own, wanted = dtype_name(result), str(cotangent.dtype)
    if own == wanted:
        return result
    if own in DTYPES and not np.array_equal(cotangent.astype(DTYPES[own]).astype(cotangent.dtype), cotangent):
        raise UnsupportedCaseError(f"the {name} is {own}, which cannot hold this case's cotangent in {wanted}")
    return cast(framework, result, wanted)

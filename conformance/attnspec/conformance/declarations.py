"""`@target(…)`: the conventions of a plain callable, declared where it is defined. Imports no framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from .calls import DTYPES
from .profiles import PROFILES
from .target_protocol import TargetError

FRAMEWORKS = ("torch", "tensorflow", "jax")
LAYOUTS = ("BHTD", "BTHD")
MASKS = ("true_attends", "true_is_ignored", "additive")
LOGSUMEXPS = ("natural", "base2")
GRADIENTS = ("query", "key", "value", "bias", "sinks")
"""The tensors of an attention that have a gradient."""
RANKS = (2, 3, 4, 5)
"""The numbers of axes that a query may have."""

_ATTRIBUTE = "__attnspec_target__"

Function = TypeVar("Function", bound=Callable[..., Any])


class Declaration(NamedTuple):
    """What a callable says of itself; the arguments of `target` explain each."""

    framework: str | None = None
    layout: str = "BHTD"
    mask: str = "true_attends"
    logsumexp: str | None = "natural"
    profiles: Mapping[str, str] = {}
    """By dtype."""
    vjp: Callable[..., Any] | None = None
    gradients: tuple[str, ...] | None = None
    """None: of everything, if it has a framework or a vjp."""
    dtypes: tuple[str, ...] = tuple(DTYPES)
    ranks: tuple[int, ...] | None = None
    """None: any."""
    name: str | None = None
    version: str | None = None

    @property
    def is_differentiable(self) -> bool:
        """Whether there is a way to its gradients."""
        return self.framework is not None or self.vjp is not None


def target(
    *,
    framework: str | None = None,
    layout: str = "BHTD",
    mask: str = "true_attends",
    logsumexp: str | None = "natural",
    profile: str | Mapping[str, str] | None = None,
    vjp: Callable[..., Any] | None = None,
    gradients: Iterable[str] | None = None,
    dtypes: Iterable[str] | None = None,
    ranks: Iterable[int] | None = None,
    name: str | None = None,
    version: str | None = None,
) -> Callable[[Function], Function]:
    """Declare the conventions of a plain callable, for the suite to call it by; the function itself stays as it is.

    A declaration says how to call a function and how to read what it returns. It mends nothing: where it is not true,
    the suite rejects the function.

    Args:
        framework: "torch", "tensorflow" or "jax": all arrays that arrive are that framework's, bfloat16 included, and
            its own automatic differentiation gives the gradients. None: NumPy arrays, and no gradients without `vjp`.
        layout: of query, key, value, output and their gradients where they have four axes or more: "BHTD" is
            (batch, heads, length, size), "BTHD" is (batch, length, heads, size). Everything else has its pairs as
            (batch, heads, queries, keys) and its logsumexp as (batch, heads, queries) in both.
        mask: what arrives as `mask`: "true_attends", "true_is_ignored", or "additive": 0 where a query may attend and
            −∞ elsewhere, in the query's dtype.
        logsumexp: what a second result is: a "natural" logarithm, one of "base2", or None: no logsumexp at all.
        profile: the arithmetic, a name such as "bf16_eager", which then holds for its dtype, or names by dtype.
        vjp: `vjp(query, key, value, output_cotangent, *, …)`, which returns gradients by name in a mapping. It gets
            keywords by the rules of the function, and `logsumexp_cotangent` where that has one.
        gradients: of which of query, key, value, bias and sinks it has gradients; None: of all.
        dtypes: of the query, by name; None: "float64", "float32", "bfloat16" and "float16".
        ranks: how many axes the query may have, of 2, 3, 4 and 5; None: any.
        name, version: for reports.

    Raises:
        TargetError: an argument is none of these.
    """
    if framework is not None:
        _check_one("framework", framework, FRAMEWORKS)
    _check_one("layout", layout, LAYOUTS)
    _check_one("mask", mask, MASKS)
    if logsumexp is not None:
        _check_one("logsumexp", logsumexp, LOGSUMEXPS)
    if vjp is not None and not callable(vjp):
        raise TargetError(f"@target: vjp must be a function; got {vjp!r}")
    for what, text in (("name", name), ("version", version)):
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise TargetError(f"@target: {what} must be a text that is not empty; got {text!r}")
    if gradients is not None and framework is None and vjp is None:
        raise TargetError("@target: gradients= says which there are, and needs framework= or vjp= to get them")
    declaration = Declaration(
        framework,
        layout,
        mask,
        logsumexp,
        profiles_of(profile),
        vjp,
        None if gradients is None else _some("gradients", gradients, GRADIENTS, or_none=True),
        tuple(DTYPES) if dtypes is None else _some("dtypes", dtypes, tuple(DTYPES)),
        None if ranks is None else _some("ranks", ranks, RANKS),
        name,
        version,
    )

    def declare(function: Function) -> Function:
        if not callable(function):
            raise TargetError(f"@target: only a function can be declared; got {function!r}")
        try:
            setattr(function, _ATTRIBUTE, declaration)
        except (AttributeError, TypeError):
            raise TargetError(f"@target: {function!r} takes no attributes; wrap it in a function of your own") from None
        return function

    return declare


def declaration_of(function: Callable[..., Any]) -> Declaration:
    """Return what a callable was declared to be; by default NumPy arrays, and the conventions of the specification."""
    declaration = getattr(function, _ATTRIBUTE, None)
    return declaration if isinstance(declaration, Declaration) else Declaration()


def profiles_of(profile: Any, what: str = "@target: profile") -> dict[str, str]:
    """Return declared profiles by dtype, from the name of one or from a mapping; `what` names them for the message."""
    if profile is None:
        return {}
    if isinstance(profile, str):
        _check_one(what, profile, tuple(PROFILES), prefix="")
        return {PROFILES[profile].dtype: profile}
    if not isinstance(profile, Mapping):
        raise TargetError(f"{what} must be the name of a profile, or names by dtype; got {profile!r}")
    for dtype, name in profile.items():
        _check_one(f"{what}: a dtype", dtype, tuple(DTYPES), prefix="")
        _check_one(
            f"{what} of {dtype}", name, tuple(one for one in PROFILES if PROFILES[one].dtype == dtype), prefix=""
        )
    return dict(profile)


def _check_one(what: str, given: Any, allowed: tuple[Any, ...], *, prefix: str = "@target: ") -> None:
    if not any(given is one or (type(given) is type(one) and given == one) for one in allowed):
        *first, last = map(repr, allowed)
        raise TargetError(f"{prefix}{what} must be {', '.join(first)}{' or ' if first else ''}{last}; got {given!r}")


def _some(what: str, given: Any, allowed: tuple[Any, ...], *, or_none: bool = False) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TargetError(
            f"@target: {what} must be several of {', '.join(map(str, allowed))}, as a tuple; got {given!r}"
        )
    chosen = tuple(given)
    for one in chosen:
        _check_one(f"each of {what}", one, allowed)
    if not chosen and not or_none:
        raise TargetError(f"@target: {what} must name at least one; got {chosen!r}")
    return tuple(dict.fromkeys(chosen))

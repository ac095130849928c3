"""Checks of trees of named tuples: the class of every branch, then dtype and shape of every leaf.

A call goes through them in this order, in every framework:

    given = check_tree("parameters", parameters, FeedForwardParameters)        # path: array, without None
    inputs, *arrays = as_tensors(inputs=inputs, **name_leaves(given))          # messages name the leaf
    parameters = rebuild(parameters, dict(zip(given, arrays, strict=True)))
    operands = {path: describe(array) for path, array in zip(given, arrays, strict=True)}
    dtype = check_leaf_dtypes({"inputs": describe(inputs)}, operands)
    sizes = check_leaf_shapes(operands, {"hidden_weight": "E F", "hidden_bias": "F"}, {"E": inputs.shape[-1]}, checks)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import GenericAlias, NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from . import layer_parameters, layer_results
from .checks import Checks
from .operands import Operand, Shape, Size, check_dtype, check_floating, describe, show_shape, show_size
from .states import leaves


class _Field(NamedTuple):
    """One field of a class of tree."""

    name: str
    branch: Any
    """The class of a branch, None for a leaf."""
    is_many: bool
    """A tuple of them."""
    may_be_none: bool


def check_tree(name: str, tree: Any, cls: type) -> dict[str, Any]:
    """Give the leaves of a tree by their paths (`states.leaves`), without those that are None.

    Refuse (TypeError) what is not the class `cls`, a named tuple of `layer_parameters` or `layer_results`: a plain
    tuple in another order would be taken without a word. So with every branch. A leaf may be None where that is its
    default or its annotation says so; a leaf that is a tuple is refused, because it would be taken for a branch.

    `name` is the caller's argument; messages call a leaf "`path` of `name`".
    """
    _check_branch(name, "", tree, cls)
    return leaves(tree)


def build_tree(cls: Any, values: Mapping[str, Any]) -> Any:
    """Build a tree of this class from its leaves by their paths: the inverse of `states.leaves`.

    A leaf that has no value is None; so is a branch that may be None and has no leaf. `cls` may be `tuple[Class, ...]`.
    """
    if get_origin(cls) is tuple:
        (kind, _), counts = get_args(cls), {int(path.partition(".")[0]) for path in values}
        return tuple(build_tree(kind, _below(str(i), values)) for i in range(max(counts, default=-1) + 1))
    return cls(**{field.name: _build_field(field, _below(field.name, values)) for field in _FIELDS[cls]})


def name_leaves(given: Mapping[str, Any], tree: str = "parameters") -> dict[str, Any]:
    """Give the same values under the names that messages put between backquotes, as `as_tensors` takes them."""
    return {_of_tree(path, tree): value for path, value in given.items()}


def check_leaf_dtypes(operands: Mapping[str, Operand], given: Mapping[str, Operand], tree: str = "parameters") -> str:
    """Return the one floating dtype that the operands and all leaves share, or raise TypeError (S16).

    `operands` are the arguments that are no trees, by name, at least one; `given` are the leaves by path.
    """
    dtype = check_floating(**operands)
    first = next(iter(operands))
    for path, leaf in given.items():
        check_dtype(_of_tree(path, tree), leaf.dtype)
        if leaf.dtype != dtype:
            raise TypeError(
                f"`{_of_tree(path, tree)}` must have the dtype of `{first}`; "
                f"got {first} {dtype} and {path} {leaf.dtype}"
            )
    return dtype


def check_leaf_shape(
    path: str, shape: Shape, expected: Sequence[tuple[str, Size]], checks: Checks, tree: str = "parameters"
) -> None:
    """Check the shape of a leaf against named sizes: (("E", 7), ("F", 13)).

    The message reads "`hidden_weight` of `parameters` must have shape (E, F) = (7, 13); got (7, 12)". A size of None is
    free: any size fits, and the message shows its letter. Sizes that TensorFlow does not know yet are kept in `checks`.
    """

    def message() -> str:
        letters = _show_letters([letter for letter, _ in expected])
        numbers = _show_letters([letter if size is None else show_size(size) for letter, size in expected])
        wanted = letters if numbers == letters else f"{letters} = {numbers}"
        return f"`{_of_tree(path, tree)}` must have shape {wanted}; got {show_shape(shape)}"

    if len(shape) != len(expected):
        raise ValueError(message())
    for size, (_, wanted) in zip(shape, expected, strict=True):
        if wanted is not None:
            checks.equal(size, wanted, message)


def check_leaf_shapes(
    given: Mapping[str, Operand],
    letters: Mapping[str, str],
    sizes: Mapping[str, Size],
    checks: Checks,
    tree: str = "parameters",
    prefix: str = "",
) -> dict[str, Size]:
    """Check the shapes of a branch's leaves, field by field in the order of `letters`, and return all sizes by letter.

    `given` are the leaves by path, those that are None left out. `letters` says for each field the letters of its axes,
    such as {"hidden_weight": "E F"}. `sizes` are those known before; a letter that is not among them takes its size
    from the first leaf that has it, and holds for the others. A letter that one leaf has twice must be among them.
    `prefix` is the path of the branch in its tree: "layers.0".
    """
    known = dict(sizes)
    for field, axes in letters.items():
        path = f"{prefix}.{field}" if prefix else field
        if path in given:
            shape = given[path].shape
            check_leaf_shape(path, shape, [(letter, known.get(letter)) for letter in axes.split()], checks, tree)
            known = dict(zip(axes.split(), shape, strict=True)) | known
    return known


def _below(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values below a field, the field itself under the empty name."""
    return {path[len(name) + 1 :]: value for path, value in values.items() if f"{path}.".startswith(f"{name}.")}


def _build_field(field: _Field, values: Mapping[str, Any]) -> Any:
    if field.branch is None and not field.is_many:
        return values.get("")
    if not values and field.may_be_none:
        return None
    return build_tree(GenericAlias(tuple, (field.branch, ...)) if field.is_many else field.branch, values)


def _of_tree(path: str, tree: str) -> str:
    return f"{path}` of `{tree}"


def _show_letters(letters: Sequence[str]) -> str:
    return f"({letters[0]},)" if len(letters) == 1 else f"({', '.join(letters)})"


def _check_branch(name: str, path: str, tree: Any, cls: type) -> None:
    if not isinstance(tree, cls):
        raise TypeError(f"`{_of_tree(path, name) if path else name}` must be {_show_class(cls)}; got {describe(tree)}")
    for field in _FIELDS[cls]:
        value = getattr(tree, field.name)
        inner = f"{path}.{field.name}" if path else field.name
        if value is None and field.may_be_none:
            continue
        if not field.is_many:
            _check_value(name, inner, value, field.branch)
            continue
        if type(value) is not tuple:
            kind = "arrays" if field.branch is None else _show_class(field.branch)
            raise TypeError(f"`{_of_tree(inner, name)}` must be a tuple of {kind}; got {describe(value)}")
        for i, item in enumerate(value):
            _check_value(name, f"{inner}.{i}", item, field.branch)


def _check_value(name: str, path: str, value: Any, branch: Any) -> None:
    if branch is not None:
        _check_branch(name, path, value, branch)
    elif value is None:
        raise TypeError(f"`{_of_tree(path, name)}` must be given; got None")
    elif isinstance(value, tuple):
        raise TypeError(
            f"`{_of_tree(path, name)}` must be an array or nested lists of numbers; got an object of type "
            f"{type(value).__name__}"
        )


def _show_class(cls: Any) -> str:
    return f"{cls.__name__}({cls._fields[0]}, …)"


def _fields_of(cls: Any) -> tuple[_Field, ...]:
    hints = get_type_hints(cls)
    return tuple(
        _field(name, hints[name], cls._field_defaults.get(name, NotImplemented) is None) for name in cls._fields
    )


def _field(name: str, hint: Any, may_be_none: bool) -> _Field:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind = _without_none(hint)
    is_many = get_origin(kind) is tuple
    kind = _without_none(get_args(kind)[0]) if is_many else kind
    return _Field(name, None if kind is Any else kind, is_many, may_be_none or NoneType in options)


def _without_none(hint: Any) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = [option for option in options if option is not NoneType]
    return kind


_FIELDS: dict[Any, tuple[_Field, ...]] = {
    cls: _fields_of(cls)
    for module in (layer_parameters, layer_results)
    for cls in vars(module).values()
    if isinstance(cls, type) and hasattr(cls, "_fields")
}
"""Worked out once, on import: a compiler of functions cannot look into annotations."""

"""What `compare` is given: tensors by name, from a .npz, .safetensors or .json file or from Python, checked once.

Nothing in a file is ignored: a name that the operation does not have is an error. Whatever dtype is asked for, the
conversion happens here, once, so that every target and the reference get the same rounded numbers.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import safetensors

from attnspec.contract.operands import from_python, is_untyped
from attnspec.contract.tensor_files import read_tensors

from .cases import DTYPES
from .operation import Operation
from .operations import OPERATIONS

Array: TypeAlias = np.ndarray[Any, Any]

OPTIONAL = ("mask", "bias", "sinks")
"""What every operation may be given beside its own tensors."""

COMPARABLE = {
    name: operation
    for name, operation in OPERATIONS.items()
    if operation.is_attention and name != "attention_with_logsumexp"
}
"""The operations with one output, which comes from one attention."""

_NATIVE = "a NumPy array"
_JSON_EXTRAS = ("dtype", "tokens")


class InputError(ValueError):
    """Inputs that cannot be compared: the message names the file or argument, what was expected, and what came."""


class Inputs(NamedTuple):
    """Tensors whose names and dtypes are settled; their shapes are not checked yet."""

    source: str
    """The file's name, or `tensors`: what messages begin with."""
    tensors: dict[str, Array]
    """All but the mask, in one dtype (a bias beside half precisions may be float32)."""
    mask: Array | None
    dtype: str
    tokens: tuple[str, ...] | None
    """What the positions are called, where the file says so."""


def find_operation(name: str) -> Operation:
    """Return the operation of a name; raise InputError where there is none."""
    if name not in COMPARABLE:
        raise InputError(f"there is no operation {name!r}; there are {', '.join(COMPARABLE)}")
    return COMPARABLE[name]


def read_inputs(tensors: Mapping[str, Any] | str | Path, operation: Operation, dtype: str | None) -> Inputs:
    """Read the tensors of an operation from a file, or take them from Python, and convert them to `dtype` if given.

    Raises:
        InputError: a file that cannot be read, a missing or unknown name, a dtype that does not fit.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"there is no dtype {dtype!r}; there are {', '.join(DTYPES)}")
    if isinstance(tensors, str | Path):
        path = Path(tensors)
        source, arrays, extras = str(path), *_read_file(path)
    elif isinstance(tensors, Mapping):
        source, extras = "tensors", {}
        arrays = _explain(source, lambda: _from_values(tensors))
    else:
        raise InputError(f"`tensors` must be a path or a dictionary of arrays; got {type(tensors).__name__}")
    check_names(source, arrays, operation)
    wanted = dtype or _declared_dtype(source, extras)
    arrays, settled = _settle_dtype(source, arrays, wanted)
    mask = arrays.pop("mask", None)
    return Inputs(source, arrays, mask, settled, _tokens(source, extras))


def check_names(source: str, names: Iterable[str], operation: Operation) -> None:
    """Raise InputError unless the names are those of the operation: all that it needs, none that it does not have."""
    names = list(names)
    missing = [name for name in operation.tensors if name not in names]
    unknown = [name for name in names if name not in _names_of(operation)]
    if not missing and not unknown:
        return
    message = f"{source}: {operation.name} takes {_quote(operation.tensors)}"
    message += f", and optionally {_quote((*operation.optional, *OPTIONAL))}"
    if unknown:
        message += f"; unknown: {_quote(unknown)}"
    if missing:
        message += f"; missing: {_quote(missing)}"
    for other in COMPARABLE.values():
        if set(other.tensors) <= set(names) <= set(_names_of(other)):
            message += f"; these are the names of {other.name}: say --op {other.name} (`operation=`)"
    raise InputError(message)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what attnspec wrote into the metadata of a safetensors file; nothing where it wrote nothing."""
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    try:
        written = json.loads(metadata.get("attnspec", "{}"))
    except ValueError:
        raise InputError(f"{path}: its metadata is damaged") from None
    return written if isinstance(written, dict) else {}


def _names_of(operation: Operation) -> tuple[str, ...]:
    return (*operation.tensors, *operation.optional, *OPTIONAL)


def _read_file(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return a file's arrays, and what it says beside them."""
    if path.suffix not in (".npz", ".safetensors", ".json"):
        raise InputError(f"{path}: inputs are read from .npz, .safetensors or .json files; got {path.suffix!r}")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder, not a file")
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if path.suffix == ".json":
        return _read_json(path, payload)
    if path.suffix == ".npz":
        return _read_npz(path), {}
    try:
        arrays = read_tensors(payload)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if "targets" in read_metadata(path):
        raise InputError(f"{path}: this file holds saved outputs, not inputs: compare it with a second saved file")
    return arrays, {}


def _read_npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: this is not an .npz file, or it is truncated")
    arrays: dict[str, Array] = {}
    name = None
    try:
        with np.load(path, allow_pickle=False) as file:
            if len(set(file.files)) != len(file.files):
                raise InputError(f"{path}: a name stands in the file twice")
            for name in file.files:
                arrays[name] = file[name]
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises whatever its layers raise: zip, zlib, struct, the header
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path}: `{name}` holds pickled Python objects, which are not read because they can run code; "
                f"save it as an array of numbers"
            ) from None
        place = f"`{name}` cannot be read" if name else "it cannot be read"
        raise InputError(f"{path}: {place}: the file is truncated or damaged ({error})") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path}: `{name}` is not an array")
        if array.dtype == np.dtype("V2"):
            raise InputError(
                f"{path}: `{name}` came back as raw bytes ({array.dtype}): .npz files cannot hold bfloat16; "
                f"save it as .safetensors"
            )
    return _explain(str(path), lambda: {name: from_python(name, array, _NATIVE) for name, array in arrays.items()})


def _read_json(path: Path, payload: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        data = json.loads(payload, object_pairs_hook=lambda pairs: _without_repeats(path, pairs))
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{path}: its lists are nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: this is not valid JSON, or it is truncated: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: the file must hold an object of named tensors; got {type(data).__name__}")
    extras = {name: data.pop(name) for name in _JSON_EXTRAS if name in data}
    for name, value in data.items():
        other = [leaf for leaf in _leaves(value) if (type(leaf) is bool) != (name == "mask")]
        if other:
            expected = "true and false (true = may attend)" if name == "mask" else "numbers"
            raise InputError(f"{path}: `{name}` must be lists of {expected}; got {json.dumps(other[0])[:40]}")
    return _explain(str(path), lambda: _from_values(data)), extras


def _without_repeats(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{path}: `{repeated}` stands in the file twice")
    return dict(pairs)


def _from_values(values: Mapping[str, Any]) -> dict[str, Array]:
    """Turn arrays and lists into arrays: lists take the dtype of the first array, float64 without one."""
    arrays = {str(name): from_python(str(name), value, _NATIVE) for name, value in values.items()}
    untyped = {str(name) for name, value in values.items() if is_untyped(value) and name != "mask"}
    typed = [array.dtype for name, array in arrays.items() if name not in (*untyped, *OPTIONAL)]
    dtype = typed[0] if typed else np.dtype(np.float64)
    return {name: array.astype(dtype) if name in untyped else array for name, array in arrays.items()}


def _declared_dtype(source: str, extras: Mapping[str, Any]) -> str | None:
    declared = extras.get("dtype")
    if declared is None:
        return None
    if not isinstance(declared, str) or declared not in DTYPES:
        raise InputError(f"{source}: `dtype` must be one of {', '.join(DTYPES)}; got {declared!r}")
    return declared


def _tokens(source: str, extras: Mapping[str, Any]) -> tuple[str, ...] | None:
    tokens = extras.get("tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{source}: `tokens` must be a list of strings, one for each position; got {tokens!r}")
    return tuple(tokens)


def _settle_dtype(source: str, arrays: dict[str, Array], wanted: str | None) -> tuple[dict[str, Array], str]:
    for name, array in arrays.items():
        if name == "mask":
            _check_mask(source, array)
        elif array.dtype.name not in DTYPES and (wanted is None or array.dtype.kind not in "iuf"):
            hint = "; --dtype (`dtype=`) converts it" if array.dtype.kind in "iuf" else ""
            raise InputError(f"{source}: `{name}` must be of {', '.join(DTYPES)}; got {array.dtype.name}{hint}")
    if wanted is not None:
        return {
            name: array if name == "mask" else _cast(source, name, array, wanted) for name, array in arrays.items()
        }, wanted
    found = {name: array.dtype.name for name, array in arrays.items() if name not in OPTIONAL}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"`{name}` {dtype}" for name, dtype in found.items())
        raise InputError(f"{source}: all tensors must share one dtype; got {listed}; --dtype (`dtype=`) converts them")
    return arrays, next(iter(found.values()))


def _check_mask(source: str, mask: Array) -> None:
    if mask.dtype != np.bool_:
        raise InputError(
            f"{source}: `mask` must be boolean (True = may attend); got {mask.dtype.name}: "
            f"numbers to add to the scores are called `bias`"
        )


def _cast(source: str, name: str, array: Array, dtype: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.asarray(array.astype(DTYPES[dtype]))
    lost = np.isfinite(array) & ~np.isfinite(cast)
    if lost.any():
        raise InputError(f"{source}: `{name}` holds {float(array[lost][0]):g}, which is beyond the range of {dtype}")
    return cast


def _explain(source: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Call `make`, and let the message of what it refuses begin with the source."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {error}") from None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

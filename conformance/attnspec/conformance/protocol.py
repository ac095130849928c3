"""The process protocol: what is said to a command, what it may say, and how a call becomes plain JSON and tensors.

`docs/protocol.md` describes it for those who write a target.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from attnspec.contract import Bias, Mask
from attnspec.contract.bias_json import bias_to_json
from attnspec.contract.mask_json import mask_from_json, mask_to_json
from attnspec.contract.masks import as_mask
from attnspec.contract.options import Given
from attnspec.reference.attention import prepare

from .calls import Array, Call
from .mask_parts import STRUCTURED, bias_array, of_rank, take_apart, to_array
from .operations import OPERATIONS
from .profiles import PROFILES

PROTOCOL = 1
"""The version that is spoken here."""

ATTENTIONS = ("dot_product_attention", "attention_with_logsumexp")
"""The operations whose masks and biases arrive as the keywords of a plain callable."""

KEYWORDS = ("mask", "bias", "scale", "softcap", "sinks", "dropout_keep", "dropout_rate", *STRUCTURED)
"""The options of these."""

SHOWN = 60
"""How many characters of a line a message shows."""

Json: TypeAlias = dict[str, Any]


class ProtocolError(Exception):
    """A command said something that the protocol does not allow."""


class Ability(NamedTuple):
    """What a command says of one operation."""

    dtypes: tuple[str, ...]
    directions: tuple[str, ...]
    options: frozenset[str]


class Introduction(NamedTuple):
    """What a command says of itself."""

    name: str
    version: str
    language: str
    operations: Mapping[str, Ability]
    profiles: Mapping[str, str]


class Arguments(NamedTuple):
    """A call for a command: options in plain JSON, and all else as tensors."""

    options: Json
    tensors: dict[str, Array]


def read_line(line: bytes, number: int, kinds: Iterable[str], identifier: int) -> Json:
    """Read a line of a command's output: an answer of one of these kinds to the message of this id.

    Raises:
        ProtocolError: it is something else; the message gives the line's number and beginning.
    """
    place, shown = f"line {number} of its output", beginning(line)
    try:
        message = json.loads(line.decode("utf8"))
    except UnicodeDecodeError:
        raise ProtocolError(f"{place} is not UTF-8: {shown}") from None
    except (ValueError, RecursionError):
        raise ProtocolError(f"{place} is not JSON: {shown}") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"{place} is not a JSON object: {shown}")
    kind, kinds = message.get("type"), tuple(kinds)
    if kind not in kinds:
        raise ProtocolError(f"{place} has the type {short(kind)}; expected {' or '.join(kinds)}: {shown}")
    if kind == "started" and message.get("protocol") != PROTOCOL:
        spoken = short(message.get("protocol"))
        raise ProtocolError(f"{place} speaks protocol {spoken}; this attnspec speaks {PROTOCOL}: {shown}")
    misfit = misfit_of(message, kind)
    if misfit is not None:
        raise ProtocolError(f"{place} does not fit the protocol: {misfit}: {shown}")
    if message["id"] != identifier:
        raise ProtocolError(f"{place} answers message {short(message['id'])}; the last one was {identifier}: {shown}")
    return message


def misfit_of(message: Json, kind: str) -> str | None:
    """Say how a message differs from the schema of its kind, or None."""
    import jsonschema  # here, because it is slow to import

    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema()["$defs"]})
    misfit = jsonschema.exceptions.best_match(validator.iter_errors(message))
    return None if misfit is None else f"{misfit.message[:200]} at {misfit.json_path}"


@functools.cache
def schema() -> Json:
    """Return the JSON schema of all messages."""
    text = (Path(__file__).parent / "protocol.schema.json").read_text(encoding="utf8")
    described: Json = json.loads(text)
    return described


def beginning(line: bytes) -> str:
    """Show the beginning of a line, with what cannot be printed escaped."""
    text = line[: 4 * SHOWN + 4].decode("utf8", "replace")
    return repr(text) if len(text) <= SHOWN else repr(text[:SHOWN]) + "…"


def short(value: Any) -> str:
    """Show a value of a message, however large it is."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def printable(text: str) -> str:
    """Escape what moves a terminal's cursor or changes its colours; lines stay."""
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


def introduction_of(started: Json, number: int) -> Introduction:
    """Read what a command says of itself.

    Raises:
        ProtocolError: it names an operation, an option or a profile that there is not.
    """
    place = f"line {number} of its output"
    operations = {}
    for name, said in started["operations"].items():
        if name not in OPERATIONS:
            raise ProtocolError(f"{place} names the operation {short(name)}; there are {', '.join(OPERATIONS)}")
        unknown = sorted({*said.get("options", ())} - {*KEYWORDS}) if name in ATTENTIONS else []
        if unknown:
            raise ProtocolError(
                f"{place} names the option {short(unknown[0])} of {name}; there are {', '.join(KEYWORDS)}"
            )
        directions = tuple(said.get("directions", ("forward",)))
        operations[name] = Ability(tuple(said["dtypes"]), directions, frozenset(said.get("options", ())))
    profiles = started.get("profiles", {})
    for dtype, profile in profiles.items():
        fitting = [one.name for one in PROFILES.values() if one.dtype == dtype]
        if profile not in fitting:
            raise ProtocolError(
                f"{place} names the profile {short(profile)} of {dtype}; there are {', '.join(fitting)}"
            )
    return Introduction(started["name"], started["version"], started["language"], operations, profiles)


def run_message(call: Call, options: Json, identifier: int, tensors: Path, results: Path) -> Json:
    """Ask a command to compute a call."""
    return {
        "type": "run",
        "id": identifier,
        "operation": call.operation,
        "direction": call.direction,
        "dtype": call.dtype,
        "options": options,
        "tensors": str(tensors),
        "results": list(call.results),
        "write": str(results),
    }


def arguments_of(call: Call, tensors: Mapping[str, Array], accepted: Iterable[str]) -> Arguments:
    """Write a call as options and tensors, for a command that takes the accepted options.

    Raises:
        ValueError: it holds a mask that is code (`predicate`), which JSON cannot say.
    """
    if call.operation in ATTENTIONS:
        return _attention_arguments(call, tensors, {*accepted})
    options = {name: _plain(value) for name, value in call.options.items() if value is not None and value is not False}
    return Arguments(options, dict(tensors))


def options_needed(call: Call, arguments: Arguments) -> tuple[str, ...]:
    """Name the options that a call needs, those included that are tensors."""
    if call.operation in ATTENTIONS:
        return tuple(name for name in KEYWORDS if name in arguments.options or name in arguments.tensors)
    return tuple(arguments.options)


def _attention_arguments(call: Call, tensors: Mapping[str, Array], accepted: set[str]) -> Arguments:
    """Say masks and biases by the keywords of a plain callable, arrays among them as tensors."""
    options = call.call_options(tensors)
    mask, bias, dropout = (options.pop(name, None) for name in ("mask", "bias", "dropout"))
    attention, _ = prepare(call.tensors["query"], call.tensors["key"], call.tensors["value"], Given(mask))
    sizes, rank = attention.sizes, call.tensors["query"].ndim
    if bias is not None:
        options["bias"] = bias_array(bias, sizes, call.dtype, rank)
    if dropout is not None:
        options["dropout_keep"], options["dropout_rate"] = of_rank(dropout.keep, rank), dropout.rate
    if mask is not None:
        parts = take_apart(as_mask(mask), sizes, [name for name in STRUCTURED if name in accepted])
        options |= parts.keywords
        if parts.rest is not None:
            options["mask"] = to_array(parts.rest, sizes)
    arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
    plain = {name: _plain(value) for name, value in options.items() if name not in arrays}
    operands = {name: tensor for name, tensor in tensors.items() if name not in ("bias", "sinks", "keep")}
    return Arguments(plain, operands | arrays)


def _plain(value: Any) -> Any:
    if isinstance(value, Mask):
        data = mask_to_json(value)
        mask_from_json(data)  # refuses a predicate: it has a name, but its function stays here
        return data
    if isinstance(value, Bias):
        return bias_to_json(value)
    return list(value) if isinstance(value, tuple) else value

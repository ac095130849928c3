"""What `compare` asks: inputs and options that fit together, and the answer and the bounds of the reference."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnspec.contract import Mask
from attnspec.contract.masks import as_mask

from .cases import Case
from .comparison_files import InputError, Inputs, find_operation, read_inputs
from .operation import Evaluation
from .operations import OPERATIONS
from .profiles import Profile, find_profile, profile_for


class Question(NamedTuple):
    """Inputs whose names, dtypes and shapes fit, and the answer of the reference."""

    inputs: Inputs
    case: Case
    profile: Profile
    evaluation: Evaluation

    def describe(self) -> str:
        """Say in one line what is computed."""
        operation = OPERATIONS[self.case.operation]
        tensors = ", ".join(f"{name} {self.case.tensors[name].shape}" for name in operation.tensors[:3])
        options = "".join(
            f", {name} {value!r}"
            for name, value in self.case.call_options().items()
            if name not in ("bias", "sinks", "mask")
        )
        options += "".join(f", {name}" for name in ("bias", "sinks") if name in self.case.tensors)
        options += f", mask {self.case.options['mask']!r}" if self.case.options["mask"] is not None else ""
        return f"{self.inputs.source}: {operation.name} of {tensors} in {self.case.dtype}{options}"

    def renamed(self, source: str) -> Question:
        """Return the same question from inputs that are called `source`."""
        return self._replace(inputs=self.inputs._replace(source=source))

    def digest(self) -> str:
        """Return the sha256 of everything that determines the answer: tensors, visible pairs, options."""
        numbers = {name: value for name, value in self.case.options.items() if name not in ("mask", "bias")}
        digest = hashlib.sha256(
            json.dumps([self.case.operation, self.case.dtype, numbers], sort_keys=True, default=float).encode()
        )
        for name, tensor in sorted(self.case.tensors.items()):
            digest.update(f"{name} {tensor.dtype.name} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        digest.update(np.packbits(self.evaluation.stages.logits != -np.inf).tobytes())
        return digest.hexdigest()


def pose(
    tensors: Mapping[str, Any] | str | Path,
    *,
    operation: str,
    mask: Any,
    scale: float | None,
    softcap: float | None,
    num_heads: int | None,
    num_kv_heads: int | None,
    dtype: str | None,
    profile: str | None,
) -> Question:
    """Read and check the inputs of `compare`, and compute the reference; imports no framework."""
    chosen = find_operation(operation)
    inputs = read_inputs(tensors, chosen, dtype)
    options = {"scale": scale, "softcap": softcap, "num_heads": num_heads, "num_kv_heads": num_kv_heads}
    with _naming(inputs.source):
        for name in ("num_heads", "num_kv_heads"):
            if options[name] is not None and name not in chosen.numbers:
                raise InputError(f"{chosen.name} has no `{name}`: the heads are an axis of its tensors, or it has one")
        if "num_heads" in chosen.numbers and num_heads is None:
            raise InputError(f"{chosen.name} needs `num_heads`")
        found = find_profile(profile)
        if found is not None and found.dtype != inputs.dtype:
            raise InputError(f"profile {found.name} is for {found.dtype}; the tensors are {inputs.dtype}")
        masks = [as_mask(given) for given in (inputs.mask, mask) if given is not None]
        case = Case(
            id="compare",
            operation=chosen.name,
            level="core",
            dtype=inputs.dtype,
            clauses=(),
            features=(),
            description="",
            options={
                "mask": _all_of(masks),
                "bias": "bias" in inputs.tensors,
                "sinks": "sinks" in inputs.tensors,
                **options,
            },
            tensors=inputs.tensors,
            expected={},
            nonfinite=True,
            same_bits_as=None,
        )
        chosen_profile = profile_for(case.dtype, found)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is said by a bound of infinity
            evaluation = chosen.evaluate(case.tensors, case.call_options(), chosen_profile)
    question = Question(inputs, case, chosen_profile, evaluation)
    _check_tokens(question)
    return question


def _all_of(masks: list[Mask]) -> Mask | None:
    combined = None
    for mask in masks:
        combined = mask if combined is None else combined & mask
    return combined


def _check_tokens(question: Question) -> None:
    tokens, shape = question.inputs.tokens, question.evaluation.stages.weights.shape
    if tokens is not None and (len(shape) != 3 or shape[1:] != (len(tokens), len(tokens))):
        raise InputError(
            f"{question.inputs.source}: `tokens` names {len(tokens)} positions; it must name every query and every key "
            f"of a query of rank 2, and there are {shape[-2]} queries and {shape[-1]} keys"
        )


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Turn what the agreement refuses into an InputError whose message begins with the source."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {error}") from error

"""The same inputs on every framework: who is how far from the reference, and where each first leaves it.

The verdict is that of the conformance suite: an output agrees if no element's error exceeds the bound that is derived
for it from the reference's own intermediates (`bounds`). There is no tolerance to choose.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attnspec.contract import AttentionStages

from .admission import decides, error_ratios
from .backends import list_backends, load_backend
from .cases import DTYPES
from .comparison_question import Question, pose
from .native_arrays import to_numpy
from .operations import OPERATIONS
from .projected_stages import PROJECTED, projected_stages
from .results import Status
from .runner import versions_of
from .saved_comparisons import (
    BOUND,
    largest_difference,
    pairwise_differences,
    pairwise_json,
    save_outputs,
    show_number,
)
from .targets import BackendTarget, Target, load_target

if TYPE_CHECKING:
    from .attention_maps import Names

Array: TypeAlias = np.ndarray[Any, Any]
TargetSpec = str | Callable[..., Any]

REFERENCE = "reference"
TIMED_CALLS = 3


@dataclass(frozen=True, eq=False)
class Row:
    """What one target made of the inputs."""

    target: str
    version: str
    status: Status
    """pass: every element is within its bound; fail: not; error: it raised; unsupported: it says that it cannot."""
    output: Array | None = None
    """None where the target gave none that can be compared."""
    max_error: float | None = None
    """Largest |output − reference|."""
    ratio: float | None = None
    """Largest |output − reference| / bound."""
    stage_ratios: Mapping[str, float] = field(default_factory=dict)
    """The same for every stage that could be looked at, in their order."""
    weights: Array | None = None
    """The weights inside, (*B, heads, Tq, Tk), where a target can show its stages: attnspec's own backends."""
    seconds: float | None = None
    """Median time of a call, from NumPy arrays to a NumPy array, after one call to warm up."""
    message: str = ""
    """What is wrong, and where."""

    @property
    def first_difference(self) -> str | None:
        """The first stage with an element outside its bound: scores, logits, weights, logsumexp or output."""
        outside = (stage for stage, ratio in self.stage_ratios.items() if not ratio <= 1.0)
        return next(outside, "output" if self.status is Status.FAIL else None)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The outputs of several targets for the same inputs, held against the reference."""

    question: Question
    rows: tuple[Row, ...]
    """One for each target, the reference first."""

    @property
    def pairwise(self) -> Array:
        """The largest difference of every two outputs, (targets, targets); NaN where one gave none."""
        return pairwise_differences([row.output for row in self.rows])

    @property
    def stages(self) -> AttentionStages:
        """The reference's own stages, in canonical layout (*B, heads, …), always with a head axis."""
        stages: AttentionStages = self.question.evaluation.stages
        return stages

    @property
    def decides(self) -> bool:
        """Whether the bound is below half the range of the values: if not, nearly any output would agree."""
        return bool(decides(self.question.evaluation))

    @property
    def nonfinite(self) -> int:
        """How many elements of the reference's output are NaN or Inf: there only the same NaN or Inf agrees."""
        return int(np.count_nonzero(~np.isfinite(self.question.evaluation.output)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the ratios from meaning what they say, a sentence each."""
        warnings = []
        if not self.decides:
            warnings.append(
                "the bound is wider than half the range of the values: these inputs cannot tell right from wrong"
            )
        if self.nonfinite:
            size = self.question.evaluation.output.size
            warnings.append(
                f"{self.nonfinite} of {size} elements of the reference are NaN or Inf: no error can be measured there"
            )
        return tuple(warnings)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.is_empty:
            return "nothing was compared"
        if self.agrees:
            return "agreement: every output is within its bound of the reference"
        differing = [row.target for row in self.rows if row.status not in (Status.PASS, Status.UNSUPPORTED)]
        return f"disagreement: {', '.join(differing)}"

    @property
    def is_empty(self) -> bool:
        """Whether targets were asked for and none of them could take the inputs: a run that says nothing."""
        others = [row for row in self.rows if row.target != REFERENCE]
        return bool(others) and all(row.status is Status.UNSUPPORTED for row in others)

    @property
    def agrees(self) -> bool:
        """Whether every output is within its bound of the reference, and at least one was compared."""
        return not self.is_empty and all(row.status in (Status.PASS, Status.UNSUPPORTED) for row in self.rows)

    def __getitem__(self, target: str) -> Row:
        """Return the row of a target."""
        for row in self.rows:
            if row.target == target:
                return row
        raise KeyError(f"no target is called {target!r}; there are {', '.join(row.target for row in self.rows)}")

    def raise_if_disagree(self) -> None:
        """Raise AssertionError, with the summary as its text, unless the targets agree."""
        if not self.agrees:
            raise AssertionError(self.summary())

    def summary(self) -> str:
        """Say in a line for each target how far it is from the reference."""
        lines = [self.question.describe()]
        for row in self.rows:
            ratio = "" if row.ratio is None else f", error / bound {row.ratio:.3g}"
            lines.append(f"{row.target}: {row.status}{ratio}{': ' if row.message else ''}{row.message}")
        if self.is_empty:
            lines.append("no target could take the inputs")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Write everything but the outputs as JSON."""
        question = self.question
        data = {
            "format": 1,
            "agrees": self.agrees,
            "decides": self.decides,
            "nonfinite": self.nonfinite,
            "source": question.inputs.source,
            "operation": question.case.operation,
            "dtype": question.case.dtype,
            "profile": question.profile.name,
            "inputs": question.digest(),
            "versions": versions_of({row.target: row.version for row in self.rows}),
            "rows": [_row_json(row) for row in self.rows],
            "pairwise": pairwise_json(tuple(row.target for row in self.rows), self.pairwise),
        }
        return json.dumps(data, indent=1, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write all outputs and their bound to a safetensors file, for `attnspec compare ONE OTHER`."""
        question, rows = self.question, [row for row in self.rows if row.output is not None]
        description = {
            "operation": question.case.operation,
            "dtype": question.case.dtype,
            "profile": question.profile.name,
            "inputs": question.digest(),
            "targets": {row.target: row.version for row in rows},
        }
        outputs = {row.target: row.output for row in rows if row.output is not None}
        save_outputs(Path(path), outputs, question.evaluation.bound, description)

    def draw(self, path: str | Path, names: Names | None = None) -> None:
        """Draw the weights of every head, and each target's difference from them, to an .html page or a .png picture.

        Args:
            path: what is written; its suffix says how.
            names: what the batch axes hold, where that is known: layers, sentences, tokens.

        Raises:
            InputError: another suffix.
            ModuleNotFoundError: jinja2 or matplotlib is missing; the extra `[report]` brings both.
        """
        from .attention_maps import report_of, write_maps  # here, because only drawing needs it

        write_maps(Path(path), report_of(self, names))


def compare(
    tensors: Mapping[str, Any] | str | Path,
    *,
    operation: str = "dot_product_attention",
    mask: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    dtype: str | None = None,
    targets: TargetSpec | Sequence[TargetSpec] | None = None,
    profile: str | None = None,
) -> Comparison:
    """Run an operation on the same inputs with every target, and hold each output to its error bound.

    Args:
        tensors: a .npz, .safetensors or .json file, or a dictionary of arrays. The names are the arguments of the
            operation, and optionally `mask` (boolean, True = may attend) and `bias`.
        operation: `dot_product_attention`, `self_attention`, `key_value_attention` or `multi_head_attention`.
        mask: a mask object or a boolean array; a mask among the tensors holds as well (both must allow a pair).
        scale, softcap, num_heads, num_kv_heads: as for the operation.
        dtype: what the tensors are converted to, once, for everybody; by default the dtype that they have.
        targets: what is compared with the reference: by default every installed backend. As for `verify`.
        profile: the arithmetic that the targets are held to; by default that of the dtype.

    Returns:
        A `Comparison`; `comparison.raise_if_disagree()` makes it a test. Memory is quadratic in the sequence length.

    Raises:
        InputError: inputs or options that do not fit; a ValueError.
        TargetError: a target that cannot be found or loaded, or whose framework is missing.
    """
    question = pose(
        tensors,
        operation=operation,
        mask=mask,
        scale=scale,
        softcap=softcap,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        dtype=dtype,
        profile=profile,
    )
    return answer(question, load_targets(targets))


def load_targets(targets: TargetSpec | Sequence[TargetSpec] | None) -> list[Target]:
    """Load targets in the order given, the reference first; None: every installed backend."""
    if targets is None:
        targets = [backend.name for backend in list_backends() if backend.is_available]
    specs = [targets] if isinstance(targets, str) or callable(targets) else list(targets)
    specs = [REFERENCE, *(spec for i, spec in enumerate(specs) if spec != REFERENCE and spec not in specs[:i])]
    # torch before everything else: TensorFlow and torch both bring an OpenMP runtime, and torch's must come first.
    order = sorted(range(len(specs)), key=lambda i: specs[i] != "torch")
    loaded = {i: load_target(specs[i]) for i in order}
    return [loaded[i] for i in range(len(specs))]


def answer(question: Question, targets: Sequence[Target]) -> Comparison:
    """Run the targets one after the other, each on read-only copies of the tensors."""
    rows: list[Row] = []
    for target in targets:
        name = _unused(target.name, {BOUND, *(row.target for row in rows)})
        rows.append(_run(target, name, question))
    return Comparison(question, tuple(rows))


def _run(target: Target, name: str, question: Question) -> Row:
    case = question.case
    tensors = {key: tensor.copy() for key, tensor in case.tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    seconds = []
    try:
        reason = target.unsupported(case)
        if reason is not None:
            return Row(name, target.version, Status.UNSUPPORTED, message=reason)
        with np.errstate(all="ignore"):  # what a target overflows shows in its output
            output = target.run(case, tensors)["output"].copy()
            for _ in range(TIMED_CALLS):
                started = time.perf_counter()
                target.run(case, tensors)
                seconds.append(time.perf_counter() - started)
            stages = _stages(target, question, tensors)
            ratios = _stage_ratios(stages, question)
    except (Exception, SystemExit) as error:  # whatever a target raises is its result, not ours
        return Row(name, target.version, Status.ERROR, message=f"{type(error).__name__}: {error}")
    row = _judge(target, name, question, output, ratios)
    return replace(row, weights=stages.get("weights"), seconds=statistics.median(seconds))


def _judge(target: Target, name: str, question: Question, output: Array, stages: dict[str, float]) -> Row:
    expected, bound = question.evaluation.output, question.evaluation.bound
    (dtype,) = target.result_dtypes(question.case)["output"]
    if output.shape != expected.shape:
        message = f"the output has shape {output.shape}; expected {expected.shape} (S1)"
        return Row(name, target.version, Status.FAIL, message=message)
    if output.dtype.name not in DTYPES:
        message = f"the output has dtype {output.dtype}; expected {dtype} (S16)"
        return Row(name, target.version, Status.FAIL, message=message)
    message = ""
    if output.dtype != dtype:
        message = f"the output has dtype {output.dtype}, not {dtype} (S16)"
    ratios = error_ratios(output, expected, bound)
    ratio = float(ratios.max(initial=0.0))
    if not ratio <= 1.0:
        worst = np.unravel_index(int(ratios.argmax()), ratios.shape)
        place = ", ".join(str(int(index)) for index in worst)
        where = f"at [{place}] got {float(output[worst]):.9g}, expected {float(expected[worst]):.9g}"
        outside = f"± {float(bound[worst]):.2g}; {float((ratios > 1).mean()):.0%} of the elements are outside"
        message = f"{where} {outside}{'; ' if message else ''}{message}"
    return Row(
        name,
        target.version,
        Status.PASS if ratio <= 1.0 else Status.FAIL,
        output,
        largest_difference(output, expected),
        ratio,
        {**stages, "output": ratio},
        message=message,
    )


def _stages(target: Target, question: Question, tensors: dict[str, Array]) -> dict[str, Array]:
    """Return each stage before the output in canonical layout, where a target can show its stages."""
    case = question.case
    if not isinstance(target, BackendTarget) or case.operation not in ("dot_product_attention", *PROJECTED):
        return {}
    if case.operation == "dot_product_attention":
        operation = OPERATIONS[case.operation]
        stages = load_backend(target.name).attention_stages(
            *(tensors[name] for name in operation.tensors), **case.call_options(tensors)
        )
    else:
        stages = projected_stages(target.name, case, tensors)
    # Queries of rank 2 and 3 have no head axis; the reference's stages always do.
    return {
        name: to_numpy(getattr(stages, name)).reshape(getattr(question.evaluation.stages, name).shape)
        for name in ("scores", "logits", "weights", "logsumexp")
    }


def _stage_ratios(stages: Mapping[str, Array], question: Question) -> dict[str, float]:
    """Return the largest error / bound of each stage."""
    expected, bounds = question.evaluation.stages, question.evaluation.stage_bounds
    return {
        name: float(error_ratios(stage, getattr(expected, name), getattr(bounds, name)).max(initial=0.0))
        for name, stage in stages.items()
    }


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    count = 2
    while f"{name} ({count})" in taken:
        count += 1
    return f"{name} ({count})"


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "target": row.target,
        "version": row.version,
        "status": str(row.status),
        "max_error": show_number(row.max_error),
        "ratio": show_number(row.ratio),
        "first_difference": row.first_difference,
        "stage_ratios": {stage: show_number(ratio) for stage, ratio in row.stage_ratios.items()},
        "seconds": row.seconds,
        "message": row.message,
    }

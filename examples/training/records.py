"""What trainings did, collected as it happens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .agreement import Agreement, agreement
from .exercises import Array, Exercise
from .processes import Happened
from .trainer import Epoch, Finished, Gradients, Step


@dataclass
class Record:
    """One exercise in one framework."""

    losses: list[float] = field(default_factory=list)
    """Of every step."""
    epochs: list[Epoch] = field(default_factory=list)
    gradients: Gradients | None = None
    """None where no layer is watched."""
    predicted: Array | None = None
    """None until it is finished."""
    cpu_seconds: float = 0.0

    def add(self, event: object) -> None:
        """Take in what happened."""
        match event:
            case Step():
                self.losses.append(event.loss)
            case Epoch():
                self.epochs.append(event)
            case Gradients():
                self.gradients = event
            case Finished():
                self.predicted, self.cpu_seconds = event


@dataclass(frozen=True)
class Records:
    """Every exercise in every framework."""

    example: str
    about: str
    """The data, in a few words."""
    exercises: Sequence[Exercise]
    versions: Mapping[str, str]
    """Of each framework."""
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    """By the names of exercise and framework."""

    def __post_init__(self) -> None:
        for exercise in self.exercises:
            for framework in self.versions:
                self.records[exercise.name, framework] = Record()

    @property
    def dtype(self) -> str:
        """Of all exercises."""
        return self.exercises[0].dtype

    def add(self, happened: Happened) -> None:
        """Take in what happened."""
        self.records[happened.exercise, happened.framework].add(happened.event)

    def of(self, exercise: Exercise) -> dict[str, Record]:
        """Return the records of one exercise, by framework."""
        return {framework: self.records[exercise.name, framework] for framework in self.versions}

    def agreement(self, exercise: Exercise) -> Agreement | None:
        """Compare the frameworks' losses in one exercise; None with one framework alone."""
        return agreement({name: record.losses for name, record in self.of(exercise).items()}, self.dtype)

    def problems(self) -> list[str]:
        """Say in one line each what must not be: losses too far apart, parameters without a gradient."""
        found = []
        for exercise in self.exercises:
            one = self.agreement(exercise)
            if one is not None and not one.agrees:
                found.append(
                    f"{exercise.name}: the losses of {one.pair[0]} and {one.pair[1]} differ by {one.largest:.1e} "
                    f"at step {one.step}; in {self.dtype} {one.tolerance:.0e} is allowed"
                )
            for framework, record in self.of(exercise).items():
                if record.gradients is not None and record.gradients.missing:
                    names = ", ".join(record.gradients.missing)
                    found.append(f"{exercise.name}: {framework} has no gradient for {names} of {exercise.watched}")
        return found

    def to_json(self) -> str:
        """Return everything but the predictions as JSON; a number that is none is null."""
        return json.dumps(
            {
                "example": self.example,
                "data": self.about,
                "dtype": self.dtype,
                "seed": self.exercises[0].seed,
                "versions": dict(self.versions),
                "exercises": [self._exercise_to_json(exercise) for exercise in self.exercises],
                "problems": self.problems(),
            },
            indent=1,
            allow_nan=False,
        )

    def _exercise_to_json(self, exercise: Exercise) -> dict[str, Any]:
        one = self.agreement(exercise)
        return {
            "name": exercise.name,
            "rate": exercise.rate,
            "batch_size": exercise.batch_size,
            "agreement": None
            if one is None
            else {**one._asdict(), "largest": _number(one.largest), "agrees": one.agrees},
            "frameworks": {
                framework: {
                    "losses": list(map(_number, record.losses)),
                    "epochs": [
                        {name: _number(value) for name, value in epoch._asdict().items()} for epoch in record.epochs
                    ],
                    "gradients": record.gradients and {k: _number(v) for k, v in record.gradients.largest.items()},
                    "cpu_seconds": round(record.cpu_seconds, 2),
                }
                for framework, record in self.of(exercise).items()
            },
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""Whether the vectors may judge anybody: whole, admitted, and sharp enough to catch the faults that they name."""

from __future__ import annotations

from .cases import Case
from .operation import Evaluation
from .zoo import margin, run_function, zoo_faults


def caught(case: Case, evaluation: Evaluation) -> dict[str, float]:
    """Return, for each planted fault that a vector names, its largest error over the bound.

    Raises:
        ValueError: a fault that does not exist, or that is not planted into the vector's operation.
    """
    faults = {fault.name: fault for fault in zoo_faults()}
    margins = {}
    for name in case.catches:
        if name not in faults or case.operation not in faults[name].operations:
            raise ValueError(f"{case.id} names {name!r}, which is no fault of a {case.operation}")
        margins[name] = margin(run_function(faults[name].function, case), case, evaluation)
    return margins

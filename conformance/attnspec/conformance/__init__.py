"""Conformance: the shared vectors, the bounds that decide, and the harness that runs them on anybody's attention."""

from .backends import Backend as Backend
from .backends import list_backends as list_backends
from .backends import load_backend as load_backend
from .cases import Case as Case
from .cases import VectorError as VectorError
from .cases import load_cases as load_cases
from .compare import Comparison as Comparison
from .compare import compare as compare
from .comparison_files import InputError as InputError
from .declarations import target as target
from .results import Report as Report
from .results import Result as Result
from .results import Status as Status
from .runner import verify as verify
from .targets import MissingFrameworkError as MissingFrameworkError
from .targets import TargetError as TargetError
from .targets import UnsupportedCaseError as UnsupportedCaseError

__all__ = [
    "verify",
    "target",
    "compare",
    "Comparison",
    "Report",
    "Result",
    "Status",
    "Case",
    "load_cases",
    "list_backends",
    "load_backend",
    "Backend",
    "InputError",
    "TargetError",
    "MissingFrameworkError",
    "UnsupportedCaseError",
    "VectorError",
]

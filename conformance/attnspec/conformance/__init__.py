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
from .report_files import ReportError as ReportError
from .report_files import read_report as read_report
from .report_files import report_lines as report_lines
from .results import Diagnosis as Diagnosis
from .results import Report as Report
from .results import Result as Result
from .results import Status as Status
from .runner import verify as verify
from .targets import MissingFrameworkError as MissingFrameworkError
from .targets import TargetError as TargetError
from .targets import UnsupportedCaseError as UnsupportedCaseError
from .verdicts import Capability as Capability
from .verdicts import capabilities as capabilities
from .verdicts import summary_line as summary_line

__all__ = [
    "verify",
    "target",
    "compare",
    "Comparison",
    "Report",
    "Result",
    "Status",
    "Diagnosis",
    "Capability",
    "capabilities",
    "summary_line",
    "read_report",
    "report_lines",
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
    "ReportError",
]

"""Suites and what they measure of a model: capability, safety and speed, with Inspect AI as the runner."""

from tandem.evals.gaps import cut_gaps
from tandem.evals.report import Row
from tandem.evals.runner import Endpoint, Measured, Progress, hardware, measure, with_version
from tandem.evals.suite import REGRESSION, Suite, SuiteSettings, add_suite, find_suite, load_suites

__all__ = [
    "REGRESSION",
    "Endpoint",
    "Measured",
    "Progress",
    "Row",
    "Suite",
    "SuiteSettings",
    "add_suite",
    "cut_gaps",
    "find_suite",
    "hardware",
    "load_suites",
    "measure",
    "with_version",
]

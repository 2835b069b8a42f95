"""Runs of the workshop: predicted stage by stage, compared with what was measured, and learnt from."""

from tandem.plan.workshop.calibration import Comparison, Factor, factor, factors
from tandem.plan.workshop.fit import fitted
from tandem.plan.workshop.local import (
    CPU,
    STEP_RATES,
    Device,
    Forecast,
    Rates,
    Stages,
    Workload,
    forecast,
    step_seconds,
)

__all__ = [
    "CPU",
    "STEP_RATES",
    "Comparison",
    "Device",
    "Factor",
    "Forecast",
    "Rates",
    "Stages",
    "Workload",
    "factor",
    "factors",
    "fitted",
    "forecast",
    "step_seconds",
]

"""The planner: from money to compute to model, as pure arithmetic without I/O, clock and torch."""

from tandem.plan.catalogue import Accelerator, Catalogue, Cluster, Host, Precision, Price, parse_catalogue
from tandem.plan.derivation import Derivation, Step
from tandem.plan.flops import Convention
from tandem.plan.model import ModelSize, size_of
from tandem.plan.units import Interval

__all__ = [
    "Accelerator",
    "Catalogue",
    "Cluster",
    "Convention",
    "Derivation",
    "Host",
    "Interval",
    "ModelSize",
    "Precision",
    "Price",
    "Step",
    "parse_catalogue",
    "size_of",
]

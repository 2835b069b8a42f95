"""Supercomputing systems, and runs on them: leases, supervision, restarts, preparation of data."""

from tandem.compute.chores import Progress, prepare, probe, write_report
from tandem.compute.lease import Lease, held
from tandem.compute.supervisor import Log, Pace, Supervisor
from tandem.compute.systems import SYSTEMS, Capacity, Condition, Status, System, open_system
from tandem.compute.systems.heartbeats import Beat, heartbeats
from tandem.compute.watch import OVER_LIMITS
from tandem.compute.wishes import Wish, forget_wish, make_wish, on_interrupt

__all__ = [
    "OVER_LIMITS",
    "SYSTEMS",
    "Beat",
    "Capacity",
    "Condition",
    "Lease",
    "Log",
    "Pace",
    "Progress",
    "Status",
    "Supervisor",
    "System",
    "Wish",
    "forget_wish",
    "heartbeats",
    "held",
    "make_wish",
    "on_interrupt",
    "open_system",
    "prepare",
    "probe",
    "write_report",
]

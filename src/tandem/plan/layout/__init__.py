"""Layouts: memory and time of a training step by how it is spread over devices, and the best way to spread it."""

from tandem.plan.layout.job import Job, Layout, Recompute, check_layout
from tandem.plan.layout.memory import Memory, memory_of
from tandem.plan.layout.rank import Candidate, Ranking, Rejected, candidate_of, rank_layouts
from tandem.plan.layout.step_time import StepTime, step_time

__all__ = [
    "Candidate",
    "Job",
    "Layout",
    "Memory",
    "Ranking",
    "Recompute",
    "Rejected",
    "StepTime",
    "candidate_of",
    "check_layout",
    "memory_of",
    "rank_layouts",
    "step_time",
]

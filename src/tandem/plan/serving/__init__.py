"""Serving as arithmetic: replicas, tokens a second, memory of keys and values, cost a million tokens, and growth."""

from tandem.plan.serving.capacity import ReplicaPace, Service
from tandem.plan.serving.offer import Need, Other, ServingPlan, serving_plan, serving_text
from tandem.plan.serving.replica import FORMATS, Engine, Format, Replica
from tandem.plan.serving.traffic import Latency, Traffic
from tandem.plan.serving.waiting import erlang_b, erlang_c, waiting_s

__all__ = [
    "FORMATS",
    "Engine",
    "Format",
    "Latency",
    "Need",
    "Other",
    "Replica",
    "ReplicaPace",
    "Service",
    "ServingPlan",
    "Traffic",
    "erlang_b",
    "erlang_c",
    "serving_plan",
    "serving_text",
    "waiting_s",
]

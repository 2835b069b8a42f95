"""Durable flows: stories that go on at the right step, whatever ended their process, and act once."""

from tandem.flows.durable.beside import executor_beside
from tandem.flows.durable.book import Flows
from tandem.flows.durable.cancel import cancel_flow, runs_under_way
from tandem.flows.durable.database import has_flows
from tandem.flows.durable.executor import executing, go_on_with_flows
from tandem.flows.durable.flow import Flow, FlowState, FlowStep, Order, StepState
from tandem.flows.durable.role import executor_role, is_executed
from tandem.flows.durable.stories import STORIES, check_order, parse_order
from tandem.flows.durable.work import Hands

__all__ = [
    "STORIES",
    "Flow",
    "FlowState",
    "FlowStep",
    "Flows",
    "Hands",
    "Order",
    "StepState",
    "cancel_flow",
    "check_order",
    "executing",
    "executor_beside",
    "executor_role",
    "go_on_with_flows",
    "has_flows",
    "is_executed",
    "parse_order",
    "runs_under_way",
]

"""Stories that cross rooms, one file each, read top to bottom."""

from tandem.flows.deploy import WentBack, deploy_version, permit, promote, roll_back, start_rollout
from tandem.flows.durable import (
    STORIES,
    Flow,
    Flows,
    FlowState,
    FlowStep,
    Hands,
    Order,
    StepState,
    cancel_flow,
    executing,
    executor_beside,
    executor_role,
    go_on_with_flows,
    has_flows,
    is_executed,
    parse_order,
    runs_under_way,
)
from tandem.flows.endpoint import Stand, private_endpoint
from tandem.flows.evaluate import Asking, Found, Means, Watcher, evaluate, suites_asked
from tandem.flows.lineage import lineage, model_card
from tandem.flows.retention import remove_version, retention
from tandem.flows.train import Listener, resume, stop, train

__all__ = [
    "STORIES",
    "Asking",
    "Flow",
    "FlowState",
    "FlowStep",
    "Flows",
    "Found",
    "Hands",
    "Listener",
    "Means",
    "Order",
    "Stand",
    "StepState",
    "Watcher",
    "WentBack",
    "cancel_flow",
    "deploy_version",
    "evaluate",
    "executing",
    "executor_beside",
    "executor_role",
    "go_on_with_flows",
    "has_flows",
    "is_executed",
    "lineage",
    "model_card",
    "parse_order",
    "permit",
    "private_endpoint",
    "promote",
    "remove_version",
    "resume",
    "retention",
    "roll_back",
    "runs_under_way",
    "start_rollout",
    "stop",
    "suites_asked",
    "train",
]

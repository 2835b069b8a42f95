"""Released versions on machines: deployments, routes, engines and their supervision."""

from tandem.serve.claims import Use, uses
from tandem.serve.controller import Controller
from tandem.serve.deployments import Binding, Deployment, Deployments, DeployOptions, Observation, check_wanted
from tandem.serve.engines import ENGINES, Capabilities, Engine, EngineFactory, Feature, Launch, check_engine
from tandem.serve.fleet import Launcher
from tandem.serve.hosts import Files
from tandem.serve.rollouts.facts import RolloutFacts, SideFacts, rollout_facts
from tandem.serve.rollouts.plan import Mode, Plan, Rollout, RolloutState, check_plan
from tandem.serve.rollouts.statistics import cosine, likeness
from tandem.serve.rollouts.store import Rollouts
from tandem.serve.rollouts.window import Answered, Window
from tandem.serve.routes import Route, Routes, Split, Upstream
from tandem.serve.state import State, Wanted

__all__ = [
    "ENGINES",
    "Answered",
    "Binding",
    "Capabilities",
    "Controller",
    "DeployOptions",
    "Deployment",
    "Deployments",
    "Engine",
    "EngineFactory",
    "Feature",
    "Files",
    "Launch",
    "Launcher",
    "Mode",
    "Observation",
    "Plan",
    "Rollout",
    "RolloutFacts",
    "RolloutState",
    "Rollouts",
    "Route",
    "Routes",
    "SideFacts",
    "Split",
    "State",
    "Upstream",
    "Use",
    "Wanted",
    "Window",
    "check_engine",
    "check_plan",
    "check_wanted",
    "cosine",
    "likeness",
    "rollout_facts",
    "uses",
]

"""Released versions on machines: deployments, routes, engines and their supervision."""

from tandem.serve.controller import Controller
from tandem.serve.deployments import Deployment, Deployments, DeployOptions, Observation
from tandem.serve.engines import ENGINES, Capabilities, Engine, EngineFactory, Feature, Launch
from tandem.serve.routes import Route, Routes, Upstream
from tandem.serve.state import State, Wanted

__all__ = [
    "ENGINES",
    "Capabilities",
    "Controller",
    "DeployOptions",
    "Deployment",
    "Deployments",
    "Engine",
    "EngineFactory",
    "Feature",
    "Launch",
    "Observation",
    "Route",
    "Routes",
    "State",
    "Upstream",
    "Wanted",
]

"""The control plane over HTTP: one thin file for each room, under /api/v1, and the pages for probes and people."""

from tandem.api.home import StateCollector
from tandem.api.platform import Platform
from tandem.api.routes import api_routes, wrong_method

__all__ = ["Platform", "StateCollector", "api_routes", "wrong_method"]

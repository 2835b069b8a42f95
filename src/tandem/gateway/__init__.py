"""The hot path: a request in, a metered answer out."""

from tandem.gateway.meters import Meters
from tandem.gateway.pipeline import Pipeline
from tandem.gateway.surfaces.endpoints import Limits
from tandem.gateway.surfaces.families import surface_routes

__all__ = ["Limits", "Meters", "Pipeline", "surface_routes"]

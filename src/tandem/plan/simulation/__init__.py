"""Internet scale on paper: fleets of thousands to 100,000 devices over weeks, by event simulation."""

from tandem.plan.simulation.designs import DESIGNS, Design
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.simulation.simulate import Shares, Simulated, simulate
from tandem.plan.simulation.sweep import Break, Sweep, sweep

__all__ = ["DESIGNS", "Break", "Design", "Fleet", "Shares", "Simulated", "Sweep", "simulate", "sweep"]

"""What the control plane works on, handed over once by `server`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem.accounts import Keyring, Ledger
from tandem.flows import Flows
from tandem.gateway import Meters
from tandem.kit.config import Settings
from tandem.kit.db import Database
from tandem.registry import CharterBook, Datasets, EvidenceStore, Registry, Releases, Runs
from tandem.serve import Deployments, EngineFactory, Rollouts, Routes


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The rooms of a running process."""

    settings: Settings
    db: Database
    registry: Registry
    runs: Runs
    datasets: Datasets
    charters: CharterBook
    evidence: EvidenceStore
    releases: Releases
    keyring: Keyring
    deployments: Deployments
    rollouts: Rollouts
    flows: Flows
    ledger: Ledger
    routes: Routes
    meters: Meters
    engines: Mapping[str, EngineFactory]
    """The kinds of engine that deployments may name."""
    poke: Callable[[], None]
    """Tells the controller to look at the deployments now instead of at its next round."""

"""Fleets: the devices that a simulated run stands on, what they train, and how often they fail."""

from dataclasses import dataclass, replace

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.reliability.checkpoints import MIXED_BYTES
from tandem.plan.reliability.faults import Faults
from tandem.plan.simulation.causes import PLANNED_PER_1000_NODE_DAYS
from tandem.plan.units import DAY_S

_MOST_DEVICES = 2_000_000
_LONGEST_S = 366 * DAY_S
_MOST_RATE = 10_000.0  # per 1,000 node-days


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Devices, what they train and how often they fail."""

    devices: int
    devices_per_node: int = 8
    parameters: int = 1_000_000_000_000
    """Of the model; its checkpoint has 14 bytes of each."""
    replica_devices: int = 1_024
    """Of one copy of the model in data parallelism: what an elastic run can do without for a while."""
    span_s: float = 28 * DAY_S
    """How long is simulated."""
    failures_per_1000_node_days: float = 4.0
    planned_per_1000_node_days: float = PLANNED_PER_1000_NODE_DAYS
    stragglers_per_1000_node_days: float = 0.5
    """Nodes that get slow; an assumption, no rate was published."""
    slow_share: float = 0.1
    """What a slow node takes from the speed of all: an assumption."""
    node_bytes_per_s: float = 2e9
    """What one node reads from and writes to storage."""
    repair_s: float = DAY_S
    """Until a failed node is back."""
    measured: bool = False
    """Whether the rate was measured on runs of this size; else a small run has the floor of small jobs."""

    def __post_init__(self) -> None:
        _check_fleet(self)

    @classmethod
    def of(cls, cluster: Cluster, *, parameters: int, span_s: float = 28 * DAY_S) -> "Fleet":
        """All hosts of a cluster by its rows."""
        return cls(
            devices=cluster.devices,
            devices_per_node=cluster.host.devices,
            parameters=parameters,
            replica_devices=min(1_024, cluster.devices),
            span_s=span_s,
            failures_per_1000_node_days=cluster.failures_per_1000_node_days,
            node_bytes_per_s=cluster.host.storage_bytes_per_s,
        )

    @property
    def nodes(self) -> int:
        """Machines; one that is not full counts."""
        return -(-self.devices // self.devices_per_node)

    @property
    def replicas(self) -> int:
        """Copies of the model."""
        return max(1, self.devices // self.replica_devices)

    @property
    def checkpoint_bytes(self) -> float:
        """Of a checkpoint of the model in mixed precision."""
        return self.parameters * MIXED_BYTES

    @property
    def faults(self) -> Faults:
        """The rates alone: what a restart and a save cost is the design's."""
        return Faults(
            nodes=self.nodes,
            failures_per_1000_node_days=self.failures_per_1000_node_days,
            repair_s=self.repair_s,
            measured=self.measured,
        )

    def of_devices(self, devices: int) -> "Fleet":
        """The same with another number of devices."""
        return replace(self, devices=devices, replica_devices=min(self.replica_devices, devices))


def _check_fleet(fleet: Fleet) -> None:
    if not 1 <= fleet.devices <= _MOST_DEVICES or not 1 <= fleet.devices_per_node <= _MOST_DEVICES:
        raise InvalidRequest(
            f"A fleet of {fleet.devices} devices, {fleet.devices_per_node} on a node, cannot be simulated.",
            remedy=f"Name 1 to {_MOST_DEVICES:,} devices.",
            param="devices",
        )
    if not 1 <= fleet.replica_devices <= fleet.devices:
        raise InvalidRequest(
            f"A replica of {fleet.replica_devices} devices does not fit {fleet.devices}.",
            remedy=f"Give a replica 1 to {fleet.devices} devices.",
            param="replica_devices",
        )
    if not 0 < fleet.span_s <= _LONGEST_S or not 0 <= fleet.slow_share < 1 or fleet.parameters < 1:
        raise InvalidRequest(
            f"{fleet.span_s:g} s of {fleet.parameters} weights with nodes slower by {fleet.slow_share:g} is no run.",
            remedy="Simulate up to a year of a model that has weights; slow nodes lose 0 to 1 of their speed.",
        )
    rates = (fleet.planned_per_1000_node_days, fleet.stragglers_per_1000_node_days, fleet.failures_per_1000_node_days)
    if any(not 0 <= rate <= _MOST_RATE for rate in rates) or not (
        fleet.node_bytes_per_s > 0 and 0 <= fleet.repair_s <= _LONGEST_S
    ):
        raise InvalidRequest(
            "The fleet's rates or times are negative, or beyond anything that runs.",
            remedy=f"Give rates of 0 to {_MOST_RATE:g} per 1,000 node-days and times that are not negative.",
        )

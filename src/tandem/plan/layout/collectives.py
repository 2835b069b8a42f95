"""What the wires between devices carry for each kind of parallelism, given where its groups stand."""

import math
from dataclasses import dataclass

from tandem.plan.catalogue import Cluster
from tandem.plan.layout.job import Layout

_COLLECTIVE_SHARE = 0.7  # of a link that collectives reach
_HOP_S = 8e-6  # a step of a ring between hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """What a device sends in its groups, one way."""

    tensor_bytes_per_s: float
    context_bytes_per_s: float
    stage_bytes_per_s: float
    data_bytes_per_s: float
    hop_s: float
    """A step of a ring."""
    data_latency_s: float
    """Of a collective of the data group before the first byte arrives everywhere."""


def wires_of(layout: Layout, cluster: Cluster) -> Wires:
    """Groups stand as in Llama 3 and torchtitan: tensor innermost, then context, then data, stages outermost.

    A ring through hosts uses the ports of all members that a host has, so that its speed is theirs together, at most
    what the host carries inside.
    """
    host = cluster.host
    inside, between = (_COLLECTIVE_SHARE * speed for speed in (host.inside_bytes_per_s, host.between_bytes_per_s))
    group = layout.data * layout.context
    members = max(1, min(group, host.devices // layout.tensor))
    hosts = math.ceil(group / members)
    near = layout.tensor * layout.context <= host.devices
    return Wires(
        tensor_bytes_per_s=inside if layout.tensor <= host.devices else between,
        context_bytes_per_s=inside if near else between,
        stage_bytes_per_s=inside if layout.devices <= host.devices else between,
        data_bytes_per_s=inside if hosts == 1 else min(inside, members * between),
        hop_s=_HOP_S,
        data_latency_s=_HOP_S * hosts,
    )

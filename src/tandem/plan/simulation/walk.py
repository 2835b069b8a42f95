"""One simulated run from strike to strike: failures, spares, restarts, and replicas that leave and join again."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from tandem.plan.simulation.designs import Design
from tandem.plan.simulation.fleet import Fleet
from tandem.plan.simulation.saving import Saving, saving_of
from tandem.plan.simulation.strikes import Strike
from tandem.plan.simulation.training import Training


def live(fleet: Fleet, design: Design, strikes: Iterable[Strike], *, spares: int) -> "Walk":
    """A run of the fleet's span under these strikes, which are in the order of time."""
    saving = saving_of(fleet, design)
    walk = Walk(
        fleet=fleet,
        design=design,
        saving=saving,
        pool=Pool(free=spares, repair_s=fleet.repair_s),
        training=Training(saving=saving),
    )
    for strike in strikes:
        walk.until(strike.at_s)
        walk.strike(strike)
    walk.until(fleet.span_s)
    return walk


@dataclass(slots=True)
class Pool:
    """Spare nodes, and those in repair that come back to them."""

    free: int
    repair_s: float
    _returns_s: list[float] = field(default_factory=list)

    def take(self, at_s: float) -> float:
        """Replace a node that failed now; the moment at which another is there."""
        while self._returns_s and self._returns_s[0] <= at_s:
            heapq.heappop(self._returns_s)
            self.free += 1
        heapq.heappush(self._returns_s, at_s + self.repair_s)
        if self.free:
            self.free -= 1
            return at_s
        return heapq.heappop(self._returns_s)


@dataclass(slots=True)
class Walk:
    """A run at `now_s`. Until `node_s` it waits for a node, until `ready_s` it restarts, then it trains."""

    fleet: Fleet
    design: Design
    saving: Saving
    pool: Pool
    training: Training
    now_s: float = 0.0
    node_s: float = 0.0
    ready_s: float = 0.0
    waiting_s: float = 0.0
    restarting_s: float = 0.0
    _slow: int = 0
    _joins_s: list[float] = field(default_factory=list)
    """When each replica that is away is there again."""

    def until(self, at_s: float) -> None:
        """Live on to that moment."""
        if self.now_s < self.node_s:
            self.waiting_s += min(at_s, self.node_s) - self.now_s
            self.now_s = min(at_s, self.node_s)
        if self.now_s < self.ready_s:
            self.restarting_s += min(at_s, self.ready_s) - self.now_s
            self.now_s = min(at_s, self.ready_s)
        while self.now_s < at_s:
            while self._joins_s and self._joins_s[0] <= self.now_s:
                heapq.heappop(self._joins_s)
            to_s = min(at_s, self._joins_s[0]) if self._joins_s else at_s
            slow_share = self.fleet.slow_share if self._slow else 0.0
            self.training.go(self.now_s, to_s, alive_share=self._alive_share, slow_share=slow_share)
            self.now_s = to_s

    def strike(self, strike: Strike) -> None:
        """What follows from an event at `now_s`."""
        cause = strike.cause
        if strike.begins:
            self._slow += 1
            return
        if cause.slows:
            self._slow -= 1
        node_s = self.pool.take(self.now_s) if cause.takes_node else self.now_s
        if self.design.elastic and self.fleet.replicas > 1:
            if cause.takes_node or not cause.everywhere:
                self._leave(strike.place_share, node_s)
            if not cause.everywhere:
                return
            node_s = self.now_s  # the others do not wait for it
        if cause.orderly:
            self._stop_in_order(node_s)
        else:
            behind_s = self.saving.behind_late_s if cause.late_s else self.saving.behind_s
            self.training.back_to(self.now_s - behind_s - cause.late_s)
            self._restart(node_s, load_s=self.saving.write_s if cause.late_s else self.saving.load_s)

    @property
    def _alive_share(self) -> float:
        return 1 - len(self._joins_s) / self.fleet.replicas

    def _stop_in_order(self, node_s: float) -> None:
        if self.now_s < self.ready_s:  # nothing was done since the last save
            self._restart(node_s, load_s=self.saving.load_s)
            return
        self.training.save(self.now_s)
        self._restart(node_s, load_s=self.saving.orderly_s + self.saving.load_s)

    def _restart(self, node_s: float, *, load_s: float) -> None:
        self.training.stop()
        self.node_s = max(self.node_s, node_s)
        self.ready_s = max(self.now_s, self.node_s) + self.design.restart_s + load_s

    def _leave(self, place_share: float, node_s: float) -> None:
        """One replica is gone until it has a node and stands again; the others stand still for a moment, and go on."""
        join_s = max(self.now_s, node_s) + self.design.restart_s + self.saving.load_s
        if place_share >= self._alive_share:
            # One that is away already was struck again: it comes later, and nobody waits for it.
            self._joins_s.remove(max(self._joins_s))
        else:
            self.ready_s = max(self.ready_s, self.now_s + self.design.stall_s)
        heapq.heappush(self._joins_s, join_s)

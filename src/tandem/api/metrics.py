"""What Prometheus sees beside the gateway's own counters: deployments that answer, and usage not yet folded."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tandem.accounts import Ledger
from tandem.serve import Routes, State


class StateCollector(Collector):
    """Reads the state at the moment of a scrape."""

    def __init__(self, routes: Routes, ledger: Ledger) -> None:
        self._routes = routes
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """One sample for each deployment, and the ledger's backlog."""
        ready = GaugeMetricFamily("tandem_deployment_ready", "Whether a replica answers", labels=("deployment",))
        for route in self._routes.names():
            ready.add_metric((route.name,), float(route.state is State.READY))
        yield ready
        yield GaugeMetricFamily(
            "tandem_ledger_unfolded", "Settled requests that are in the journal alone", value=self._ledger.unfolded
        )

"""What the gateway counts for Prometheus: requests, tokens, times; labels only with names that we gave."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tandem.gateway.exchange import Exchange, Tally
from tandem.kit import clock

# Seconds. From a cached completion to the longest answer; first tokens are looked at more closely.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2, 4, 8, 15, 30, 60)
# Everybody may read the counters, and development deployments exist for one key alone. No deployment has this name.
_DEVELOPMENT = "(development)"


class Meters:
    """The counters of one process. A deployment's name becomes a label only after it was found to exist."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "tandem_requests", "Admitted requests by outcome", ("operation", "deployment", "outcome"), registry=registry
        )
        self._refused = Counter(
            "tandem_refused", "Requests refused before admission", ("surface", "status"), registry=registry
        )
        self._tokens = Counter("tandem_tokens", "Tokens settled", ("deployment", "kind"), registry=registry)
        self._seconds = Histogram(
            "tandem_request_seconds",
            "Time from the first header to the settled entry",
            ("operation", "deployment"),
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._first = Histogram(
            "tandem_first_token_seconds",
            "Time from the first header to the first piece of a stream",
            ("deployment",),
            buckets=_FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._versions = Counter(
            "tandem_version_requests",
            "Admitted requests by the version that answered",
            ("deployment", "version", "outcome"),
            registry=registry,
        )
        self._shadowed = Counter(
            "tandem_shadow_tokens", "Tokens of shadows, which nobody is billed for", ("deployment",), registry=registry
        )
        # Finding a labelled child costs as much as all that is done with it.
        self._children: dict[tuple[str, str, str, str], tuple[Counter, Counter, Counter, Counter, Histogram]] = {}
        self.in_flight = Gauge("tandem_requests_in_flight", "Requests being answered", registry=registry)

    def settled(self, exchange: Exchange, outcome: str, used: Tally, *, version: str) -> None:
        """One request has ended; this version answered it."""
        name, operation = _shown(exchange), exchange.operation
        if exchange.development:
            version = _DEVELOPMENT
        key = (operation, name, outcome, version)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (
                self._requests.labels(operation, name, outcome),
                self._versions.labels(name, version, outcome),
                self._tokens.labels(name, "prompt"),
                self._tokens.labels(name, "completion"),
                self._seconds.labels(operation, name),
            )
        requests, versions, prompt, completion, seconds = children
        requests.inc()
        versions.inc()
        prompt.inc(used.prompt)
        completion.inc(used.completion)
        seconds.observe(clock.monotonic_seconds() - exchange.started_s)

    def refused(self, surface: str, status: int) -> None:
        """One request was answered without being admitted."""
        self._refused.labels(surface, str(status)).inc()

    def first_token(self, exchange: Exchange, seconds: float) -> None:
        """The first piece of a stream has come."""
        self._first.labels(_shown(exchange)).observe(seconds)

    def shadowed(self, exchange: Exchange, used: Tally) -> None:
        """A request was put to a shadow too."""
        self._shadowed.labels(_shown(exchange)).inc(used.prompt + used.completion)


def _shown(exchange: Exchange) -> str:
    return _DEVELOPMENT if exchange.development else exchange.deployment

"""The routing table in memory: deployment to ready replica, by prefix affinity, then least load."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.kit.errors import NotFound, Unavailable
from tandem.kit.ids import sha256_hex
from tandem.serve.engines.port import Capabilities
from tandem.serve.state import State
from tandem.spec import Task

_64_BITS = 2**64 - 1


@dataclass(slots=True, eq=False)
class Upstream:
    """One ready replica; `inflight` counts the requests on it, which callers acquire and release in pairs."""

    id: str
    url: str
    api_key: str = field(repr=False)
    capabilities: Capabilities
    inflight: int = 0
    seed: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.seed = int(sha256_hex(self.id)[:16], 16)

    def acquire(self) -> None:
        """Count one request that is on its way to this replica."""
        self.inflight += 1

    def release(self) -> None:
        """Count one request less: it was answered, failed or was given up."""
        assert self.inflight > 0, "release without acquire"
        self.inflight -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What clients may know of a deployment."""

    name: str
    version: str  # starter@1
    task: Task
    created: int  # Unix seconds
    facts: Mapping[str, object]
    capabilities: Capabilities | None  # None until a replica has been ready once
    state: State
    last_error: str = ""


class Routes:
    """The table itself. Only the controller writes it, on the readers' own event loop, so nothing locks."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._ready: dict[str, tuple[Upstream, ...]] = {}

    def names(self) -> tuple[Route, ...]:
        """All routes, in the order of their names."""
        return tuple(self._routes[name] for name in sorted(self._routes))

    def get(self, name: str) -> Route:
        """The route of a deployment.

        Raises:
            NotFound: there is no such deployment; names those that there are.
        """
        route = self._routes.get(name)
        if route is None:
            raise self._unknown(name)
        return route

    def pick(self, name: str, *, affinity: int | None = None) -> Upstream:
        """A ready replica, at a cost of O(replicas).

        With `affinity` (a hash of the prompt's beginning) equal values go to the same replica, whose prefix
        cache is warm, unless it has more than twice the load of the least loaded; otherwise to that one.

        Raises:
            NotFound: there is no such deployment.
            Unavailable: no replica is ready; says the state, the last error and when to try again.
        """
        upstreams = self._ready.get(name, ())
        if not upstreams:
            raise self._not_ready(self.get(name))
        least = upstreams[0]
        for upstream in upstreams:
            if upstream.inflight < least.inflight:
                least = upstream
        if affinity is None:
            return least
        favourite = least
        highest = _score(affinity, least.seed)
        for upstream in upstreams:
            # Rendezvous hashing: a replica that comes or goes moves only its own prefixes.
            score = _score(affinity, upstream.seed)
            if score > highest:
                favourite, highest = upstream, score
        # An idle replica counts as one request: a warm prefix is worth waiting behind a single other answer.
        return favourite if favourite.inflight <= 2 * max(least.inflight, 1) else least

    def publish(self, route: Route) -> None:
        """Add a route, or replace what is known of it; its ready replicas stay."""
        self._routes[route.name] = route

    def attach(self, name: str, upstreams: tuple[Upstream, ...]) -> None:
        """Set the ready replicas of a published route; requests on their way to others are not touched."""
        self._ready[name] = upstreams

    def withdraw(self, name: str) -> None:
        """Forget a deployment; unknown names are fine."""
        self._routes.pop(name, None)
        self._ready.pop(name, None)

    def _unknown(self, name: str) -> NotFound:
        known = ", ".join(sorted(self._routes)[:20])
        remedy = f"Deployed are: {known}." if known else "Nothing is deployed yet: `tandem deploy` does it."
        return NotFound(f"There is no deployment {name!r}.", remedy=remedy, code="model_not_found")

    def _not_ready(self, route: Route) -> Unavailable:
        # The last error may name files of this machine, so clients are not told it.
        # A model of a few hundred megabytes loads in about a second, one that failed is retried slowly.
        retry_after_s = 30.0 if route.state is State.FAILED else 2.0
        return Unavailable(
            f"The deployment {route.name!r} has no ready replica (state: {route.state}).",
            remedy=f"Try again in {retry_after_s:.0f} s; `tandem status` on the server shows the cause.",
            retry_after_s=retry_after_s,
        )


def _score(affinity: int, seed: int) -> int:
    """A number that looks random and is always the same (the two rounds of splitmix64)."""
    mixed = (affinity ^ seed) & _64_BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    return ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS

"""The routing table in memory: deployment to ready replica, by rollout, then prefix affinity, then least load."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b

from tandem.kit.errors import NotFound, Unavailable
from tandem.kit.ids import sha256_hex
from tandem.serve.engines.port import Capabilities
from tandem.serve.rollouts.window import Window
from tandem.serve.state import State
from tandem.spec import Task

_64_BITS = 2**64 - 1


@dataclass(slots=True, eq=False)
class Upstream:
    """One ready replica; `inflight` counts the requests on it, which callers acquire and release in pairs.

    `window` is there while a rollout counts what its side answers. Each request says `choice` besides what it asks:
    where several versions share an engine, it names the one that answers.
    """

    id: str
    url: str
    api_key: str = field(repr=False)
    capabilities: Capabilities
    inflight: int = 0
    version: str = ""  # starter@1
    choice: Mapping[str, object] = field(default_factory=dict)  # JSON values by name
    window: Window | None = field(default=None, repr=False)
    is_cut: bool = False
    seed: int = field(init=False, repr=False)
    _cutters: set[Callable[[], None]] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.seed = int(sha256_hex(self.id)[:16], 16)

    def acquire(self) -> None:
        """Count one request that is on its way to this replica."""
        self.inflight += 1

    def release(self) -> None:
        """Count one request less: it was answered, failed or was given up."""
        assert self.inflight > 0, "release without acquire"
        self.inflight -= 1

    @contextmanager
    def cuttable(self, cut: Callable[[], None]) -> Iterator[None]:
        """Have `cut` called if the replica is gone before the block ends; an engine that others share does not end."""
        self._cutters.add(cut)
        try:
            yield
        finally:
            self._cutters.discard(cut)

    def cut(self) -> None:
        """Break off all that it answers; nothing new may begin."""
        self.is_cut = True
        for cut in [*self._cutters]:
            cut()


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
    owner: str = ""  # the id of the one key for which a development deployment exists


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A rollout of a deployment: the candidate's ready replicas, and which requests are theirs."""

    salt: str
    upstreams: tuple[Upstream, ...]
    share: float = 0.0
    """The part of the requests that the candidate answers, 0 to 1."""
    sticky: bool = False
    """Whether a key is drawn once for all its requests, otherwise each request is."""
    shadow: bool = False

    def takes(self, key: str, request: str) -> bool:
        """Whether the candidate answers; a draw that a growing share never takes back."""
        if self.share >= 1:
            return True
        drawn = blake2b((key if self.sticky else request).encode(), digest_size=8, key=self.salt.encode()).digest()
        return int.from_bytes(drawn, "big") < self.share * 2**64


class Routes:
    """The table itself. Only the controller writes it, on the readers' own event loop, so nothing locks."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._ready: dict[str, tuple[Upstream, ...]] = {}
        self._splits: dict[str, Split] = {}

    def names(self, key: str = "") -> tuple[Route, ...]:
        """All routes that the key of this id sees, in the order of their names."""
        return tuple(self._routes[name] for name in sorted(self._routes) if self._routes[name].owner in {"", key})

    def get(self, name: str, key: str = "") -> Route:
        """The route of a deployment, as the key of this id sees it.

        Raises:
            NotFound: there is no such deployment, or not for this key; names those that there are.
        """
        route = self._routes.get(name)
        if route is None or (route.owner and route.owner != key):
            raise self._unknown(name, key)
        return route

    def pick(self, name: str, *, affinity: int | None = None, key: str = "", request: str = "") -> Upstream:
        """A ready replica, at a cost of O(replicas); `get` says before whether the caller may have it.

        While a rollout sends a share to its candidate, `request` (or `key`, where that is sticky) decides on the side.
        With `affinity` (a hash of the prompt's beginning) equal values go to the same replica, whose prefix
        cache is warm, unless it has more than twice the load of the least loaded; otherwise to that one.

        Raises:
            NotFound: there is no such deployment.
            Unavailable: no replica is ready; says the state and when to try again.
        """
        upstreams = self._ready.get(name, ())
        split = self._splits.get(name)
        if split is not None and split.upstreams and not split.shadow:
            # Where the stable version has died, the candidate is better than nobody.
            upstreams = split.upstreams if not upstreams or split.takes(key, request) else upstreams
        if not upstreams:
            raise self._not_ready(self._known(name))
        return _best(upstreams, affinity)

    def instead(self, name: str, failed: Upstream, *, affinity: int | None = None) -> Upstream | None:
        """A ready replica of the stable version, for a request that `failed`, which is none, did not answer."""
        upstreams = self._ready.get(name, ())
        return _best(upstreams, affinity) if upstreams and failed not in upstreams else None

    def shadow(self, name: str) -> tuple[Upstream, ...]:
        """The ready replicas to which requests are sent beside; mostly none."""
        split = self._splits.get(name)
        return split.upstreams if split is not None and split.shadow else ()

    def publish(self, route: Route) -> None:
        """Add a route, or replace what is known of it; its ready replicas stay."""
        self._routes[route.name] = route

    def attach(self, name: str, upstreams: tuple[Upstream, ...]) -> None:
        """Set the ready replicas of a published route; requests on their way to others are not touched."""
        self._ready[name] = upstreams

    def split(self, name: str, split: Split | None) -> None:
        """Set what a rollout takes of a published route, or that there is none."""
        if split is None:
            self._splits.pop(name, None)
        else:
            self._splits[name] = split

    def withdraw(self, name: str) -> None:
        """Forget a deployment; unknown names are fine."""
        self._routes.pop(name, None)
        self._ready.pop(name, None)
        self._splits.pop(name, None)

    def _known(self, name: str) -> Route:
        route = self._routes.get(name)
        if route is None:
            raise self._unknown(name, "")
        return route

    def _unknown(self, name: str, key: str) -> NotFound:
        known = ", ".join(route.name for route in self.names(key)[:20])
        remedy = f"Deployed are: {known}." if known else "Nothing is deployed yet: `tandem deploy` does it."
        return NotFound(f"There is no deployment {name!r}.", remedy=remedy, code="model_not_found")

    def _not_ready(self, route: Route) -> Unavailable:
        if route.state is State.UNRELEASED:
            return Unavailable(
                f"The deployment {route.name!r} is not served: {route.version} has no release in force.",
                remedy="`tandem status` on the server shows why; whoever runs it can release it or go back.",
                retry_after_s=30.0,
            )
        # The last error may name files of this machine, so clients are not told it.
        # A model of a few hundred megabytes loads in about a second, one that failed is retried slowly.
        retry_after_s = 30.0 if route.state is State.FAILED else 2.0
        return Unavailable(
            f"The deployment {route.name!r} has no ready replica (state: {route.state}).",
            remedy=f"Try again in {retry_after_s:.0f} s; `tandem status` on the server shows the cause.",
            retry_after_s=retry_after_s,
        )


def _best(upstreams: tuple[Upstream, ...], affinity: int | None) -> Upstream:
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


def _score(affinity: int, seed: int) -> int:
    """A number that looks random and is always the same (the two rounds of splitmix64)."""
    mixed = (affinity ^ seed) & _64_BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    return ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS

"""How many replicas, on how many hosts: the largest batch and the fewest replicas that keep a promise of latency."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import short, span
from tandem.plan.catalogue import Cluster
from tandem.plan.model import ModelSize
from tandem.plan.serving.replica import Engine, Format, Replica
from tandem.plan.serving.traffic import Latency, Traffic
from tandem.plan.serving.waiting import waiting_s
from tandem.plan.units import GIB_BYTES, parameters_text

_MOST_REPLICAS = 10**6
_DEPTHS = 4  # numbers of hosts for a copy that are tried, from the first that fits
_BISECTIONS = 60  # halvings of a rate: to the last digits of a float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What shall be served, to whom, and how it is stored."""

    model: ModelSize
    traffic: Traffic
    latency: Latency = field(default_factory=Latency)
    weights: Format = "bf16"
    cache: Format = "bf16"
    """Keys and values."""
    spare_hosts: int = 1
    """Hosts that may fail in the busiest hour without a broken promise."""
    engine: Engine = field(default_factory=Engine)
    factor_ratio: float = 1.0
    """Measured by predicted time on this system."""

    def __post_init__(self) -> None:
        if not 0 <= self.spare_hosts <= _MOST_REPLICAS:
            raise InvalidRequest(
                f"{self.spare_hosts} hosts cannot fail.", remedy="Give 0 or more spare hosts.", param="spare_hosts"
            )
        if self.traffic.held_tokens > self.model.context:
            raise InvalidRequest(
                f"A prompt of {self.traffic.prompt_tokens:g} tokens and an answer of {self.traffic.answer_tokens:g} "
                f"are longer than the model's context of {self.model.context}.",
                remedy=f"Plan for {self.model.context} tokens together, or a model with a longer context.",
                param="traffic",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPace:
    """What one replica does with as many requests at once as its memory and the latency allow."""

    replica: Replica
    batch: int
    step_s: float
    """For one token of each of them."""
    prompt_s: float
    """From a prompt to its first token where nothing else is done."""
    prompt_busy_s: float
    """What a prompt takes from the others."""
    token_s: float
    """Between two tokens of an answer, the prompts of others in between included."""
    stay_s: float
    """Of a request in its place."""

    @property
    def requests_per_s(self) -> float:
        """Answered by a full replica: places by the time in them (Little's law)."""
        return self.batch / self.stay_s


def paced(service: Service, replica: Replica, *, peak_per_s: float) -> tuple[ReplicaPace, int]:
    """The pace of a replica and the fewest of them that keep both promises at such a rate.

    Of the batches that keep the promise of seconds a token, the largest one and its halves are tried: a large one
    answers more, a small one is sooner at the first token.

    Raises:
        InvalidRequest: not even one request fits, or keeps the promise.
    """
    batch, found, refusal = _largest_batch(service, replica), [], None
    while batch:
        pace = pace_of(service, replica, batch)
        try:
            found.append((pace, replicas_for(service, pace, peak_per_s)))
        except InvalidRequest as error:
            refusal = error
        batch //= 2
    if not found:
        assert refusal is not None
        raise refusal
    return min(found, key=lambda one: (one[1], -one[0].batch))


def _largest_batch(service: Service, replica: Replica) -> int:
    """As far as memory and the promise of seconds a token allow; a larger batch never has faster tokens."""
    most = replica.batch_limit(service.traffic.held_tokens)
    if most < 1:
        raise InvalidRequest(
            f"{parameters_text(replica.model.parameters)} weights as {replica.weights} and the keys and values of "
            f"one request do not fit {replica.devices} x {replica.cluster.accelerator.name}.",
            remedy="Take more devices for a replica, or store the weights in fewer bits.",
        )
    wanted_s = service.latency.token_s
    if (alone := pace_of(service, replica, 1)).token_s > wanted_s:
        raise InvalidRequest(
            f"A token takes {span(alone.token_s)} on {replica.devices} x {replica.cluster.accelerator.name} even for "
            f"one request at a time; {span(wanted_s)} are asked for.",
            remedy="Take more devices for a replica, fewer bits for the weights, or wait longer for a token.",
        )
    return bisect_right(range(1, most + 1), wanted_s, key=lambda batch: pace_of(service, replica, batch).token_s)


def pace_of(service: Service, replica: Replica, batch: int) -> ReplicaPace:
    """The pace with so many requests at once.

    In its place, a request sees the steps of its answer, and in between the prompts of all that come meanwhile.
    """
    traffic = service.traffic
    step_s = replica.step_s(batch, read_tokens=traffic.read_tokens)
    busy_s = replica.prompt_busy_s(traffic.prompt_tokens, cached_share=traffic.cached_share)
    stay_s = traffic.answer_tokens * step_s + batch * busy_s
    return ReplicaPace(
        replica=replica,
        batch=batch,
        step_s=step_s,
        prompt_s=replica.prompt_s(traffic.prompt_tokens, cached_share=traffic.cached_share),
        prompt_busy_s=busy_s,
        token_s=stay_s / traffic.answer_tokens,
        stay_s=stay_s,
    )


def first_token_s(pace: ReplicaPace, replicas: int, requests_per_s: float, *, met_share: float) -> float:
    """The wait for the first token that a share `met_share` of the requests does not exceed.

    The wait for one of all places (M/M/c, Erlang C, with the stay of a full replica), then for the prompts before
    one's own on the same replica (M/M/1, which bounds prompts of equal length), then one's own. Half of the late ones
    is given to each wait, so that together they are not more.
    """
    late_share = (1 - met_share) / 2
    places = replicas * pace.batch
    for_place_s = waiting_s(places, requests_per_s * pace.stay_s, stay_s=pace.stay_s, late_share=late_share)
    load = requests_per_s / replicas * pace.prompt_busy_s
    for_prompts_s = waiting_s(1, load, stay_s=pace.prompt_busy_s, late_share=late_share)
    return for_place_s + for_prompts_s + pace.prompt_s + pace.step_s


def keeps(service: Service, pace: ReplicaPace, replicas: int, requests_per_s: float) -> bool:
    """Whether so many replicas keep the promise of the first token at such a rate."""
    waited_s = first_token_s(pace, replicas, requests_per_s, met_share=service.latency.met_share)
    return waited_s <= service.latency.first_token_s


def replicas_for(service: Service, pace: ReplicaPace, requests_per_s: float) -> int:
    """The fewest replicas that keep the promise of the first token at such a rate.

    Raises:
        InvalidRequest: no number of them does, since a prompt alone takes longer.
    """
    if pace.prompt_s + pace.step_s > service.latency.first_token_s:
        raise InvalidRequest(
            f"A first token takes {span(pace.prompt_s + pace.step_s)} on {pace.replica.devices} x "
            f"{pace.replica.cluster.accelerator.name} even on an idle replica; "
            f"{span(service.latency.first_token_s)} are asked for.",
            remedy="Take more devices for a replica, shorter prompts, or wait longer for the first token.",
        )
    low, high = 0, 1
    while not keeps(service, pace, high, requests_per_s):
        low, high = high, 2 * high
        if high > _MOST_REPLICAS:
            raise InvalidRequest(
                f"{requests_per_s:g} requests a second need more than {_MOST_REPLICAS:,} replicas.",
                remedy="Plan for less traffic, or wait longer for the first token.",
            )
    while high - low > 1:
        middle = (low + high) // 2
        if keeps(service, pace, middle, requests_per_s):
            high = middle
        else:
            low = middle
    return high


def rate_of(service: Service, pace: ReplicaPace, replicas: int) -> float:
    """The most requests a second with which so many replicas keep the promise; 0 for none."""
    low, high = 0.0, replicas * pace.requests_per_s
    for _ in range(_BISECTIONS if replicas else 0):
        middle = (low + high) / 2
        if keeps(service, pace, replicas, middle):
            low = middle
        else:
            high = middle
    return low


def replicas_of(cluster: Cluster, replica: Replica, hosts: int) -> int:
    """How many replicas so many hosts hold; one whose devices are on several hosts takes them whole."""
    if replica.stages > 1:
        return hosts // replica.stages
    return hosts * (cluster.host.devices // replica.tensor)


def hosts_for(cluster: Cluster, replica: Replica, replicas: int, *, spare_hosts: int) -> int:
    """Hosts for so many replicas when any `spare_hosts` of them have failed, each of which ends a replica of its own
    where a replica takes several hosts.
    """
    if replica.stages > 1:
        return (replicas + spare_hosts) * replica.stages
    return math.ceil(replicas / (cluster.host.devices // replica.tensor)) + spare_hosts


def left_of(cluster: Cluster, replica: Replica, hosts: int, *, spare_hosts: int) -> int:
    """Replicas that still answer when `spare_hosts` of the hosts have failed at the worst places."""
    if replica.stages > 1:
        return max(0, hosts // replica.stages - spare_hosts)
    return replicas_of(cluster, replica, max(0, hosts - spare_hosts))


def replicas_to_try(service: Service, cluster: Cluster) -> Iterator[Replica]:
    """Ways to spread one copy: on divisors of a host's devices that divide the heads, and where a whole host cannot
    hold what the engine takes at once, on whole hosts one behind the other.
    """
    wide = [n for n in range(1, cluster.host.devices + 1) if cluster.host.devices % n == service.model.heads % n == 0]
    for tensor in wide:
        yield _replica(service, cluster, tensor=tensor, stages=1)
    fitting = 0
    for stages in range(1, min(cluster.hosts, service.model.layers) + 1):
        one = _replica(service, cluster, tensor=wide[-1], stages=stages)
        limit = one.batch_limit(service.traffic.held_tokens)
        if limit and stages > 1:
            yield one
        fitting += limit > 0
        if limit == service.engine.largest_batch or fitting == _DEPTHS:
            return


def _replica(service: Service, cluster: Cluster, *, tensor: int, stages: int) -> Replica:
    return Replica(
        model=service.model,
        cluster=cluster,
        tensor=tensor,
        stages=stages,
        weights=service.weights,
        cache=service.cache,
        engine=service.engine,
        factor_ratio=service.factor_ratio,
    )


def spread_text(replica: Replica) -> str:
    """How a copy is spread, in words."""
    hosts = f" on each of {replica.stages} hosts" if replica.stages > 1 else ""
    many = "one device" if replica.tensor == 1 else f"{replica.tensor} devices side by side"
    return f"{many}{hosts}"


def memory_text(replica: Replica, batch: int, held_tokens: float) -> str:
    """What is held in the memory of a replica's devices, in words."""
    cache_bytes = batch * held_tokens * replica.token_cache_bytes
    return (
        f"{replica.weights_bytes / GIB_BYTES:.1f} GiB of weights and {cache_bytes / GIB_BYTES:.1f} GiB of keys and "
        f"values ({short(replica.token_cache_bytes)}B a token) for {batch} requests"
    )

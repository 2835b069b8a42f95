"""What serving takes and costs: hosts, tokens a second, US dollars a million tokens, and when to add a machine."""

import math
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many, number, percent, span
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.serving.capacity import (
    ReplicaPace,
    Service,
    first_token_s,
    hosts_for,
    left_of,
    memory_text,
    paced,
    rate_of,
    replicas_for,
    replicas_of,
    replicas_to_try,
    spread_text,
)
from tandem.plan.serving.replica import Replica
from tandem.plan.units import HOUR_S, YEAR_S, parameters_text, usd_text

_MONTH_S = YEAR_S / 12
_CONVENTIONS = (
    "decoding is a roofline: weights, keys and values are read at a share of the memory's bandwidth, products are "
    "computed at a share of the dense peak (arXiv 2211.05102); prompts are mixed into the steps (arXiv 2308.16369)",
    "waiting is M/M/c (Erlang C) over all places of all replicas, and M/M/1 for prompts of one replica",
    "a request holds keys and values for its whole prompt and answer from the start",
    "costs are those of all hosts, the spare ones included, at the mean rate; a prompt's part is its part of the work",
)
_MEANS = "Only means of prompts and answers are known: where some are far longer, more replicas are needed."


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a month of growth needs."""

    month: int
    """From now: 0 is this one."""
    peak_per_s: float
    """Requests in the busiest hour."""
    hosts: int
    month_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another way to spread a copy, and why it was not taken."""

    tensor: int
    stages: int
    hosts: int
    """0 where it cannot be done."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlan:
    """What serving takes, what it costs and when it has to grow."""

    cluster: Cluster
    """With the hosts that are needed."""
    pace: ReplicaPace
    replicas: int
    """That run when no host has failed."""
    needed_replicas: int
    """That the busiest hour needs."""
    spare_hosts: int
    first_token_s: float
    """In the busiest hour with the spare hosts failed; of the share of requests that the promise is for."""
    busy_share: float
    """Of all places, those that are taken in the busiest hour with the spare hosts failed."""
    weights_bytes: float
    """Of a replica."""
    cache_bytes: float
    """Keys and values of a replica's full batch."""
    answer_tokens_per_s: float
    """At the mean rate."""
    full_tokens_per_s: float
    """Answered at most with both promises kept and the spare hosts failed."""
    month_usd: float
    prompt_usd_per_million_tokens: float
    answer_usd_per_million_tokens: float
    full_prompt_usd_per_million_tokens: float
    """Were the hosts always as busy as the promises allow."""
    full_answer_usd_per_million_tokens: float
    enough_months: float | None
    """Until the hosts are too few for the growth; none where nothing grows."""
    growth: tuple[Need, ...]
    others: tuple[Other, ...]
    derivation: Derivation


def serving_plan(service: Service, cluster: Cluster, *, months: int = 12) -> ServingPlan:
    """The fewest hosts of the cluster's that keep the promises, and what they cost.

    A copy is spread in every way that fits; of those the cheapest is taken.

    Raises:
        InvalidRequest: no way keeps the promises on this cluster; the remedy is the nearest that works.
    """
    if not 0 <= months <= 120:
        raise InvalidRequest(f"{months} months cannot be planned.", remedy="Give 0 to 120 months.", param="months")
    found: list[tuple[int, ReplicaPace, int]] = []
    others: list[Other] = []
    refusals: list[InvalidRequest] = []
    for replica in replicas_to_try(service, cluster):
        try:
            pace, replicas = paced(service, replica, peak_per_s=service.traffic.peak_per_s)
        except InvalidRequest as error:
            refusals.append(error)
            others.append(Other(tensor=replica.tensor, stages=replica.stages, hosts=0, why=error.message))
            continue
        hosts = hosts_for(cluster, replica, replicas, spare_hosts=service.spare_hosts)
        found.append((hosts, pace, replicas))
    if not found:
        raise refusals[-1]
    fewest = min(hosts for hosts, _, _ in found)
    cheapest = [one for one in found if one[0] == fewest]
    # Of the cheapest, the one that lasts longest.
    best = max(cheapest, key=lambda one: _most_per_s(service, cluster.of_hosts(fewest), one[1]))
    hosts, pace, replicas = best
    others += [_loser(one, hosts) for one in found if one is not best]
    _refuse_too_many(service, cluster, pace, hosts)
    return _planned(service, cluster.of_hosts(hosts), pace, replicas, growth_of=(months, cluster.hosts), others=others)


def _loser(one: tuple[int, ReplicaPace, int], hosts: int) -> Other:
    more, pace, _ = one
    replica = pace.replica
    why = f"{spread_text(replica)}: {more} hosts in place of {hosts}, {span(pace.token_s)} a token"
    return Other(tensor=replica.tensor, stages=replica.stages, hosts=more, why=why)


def _most_per_s(service: Service, cluster: Cluster, pace: ReplicaPace) -> float:
    """What the cluster answers with both promises kept and the spare hosts failed."""
    return rate_of(service, pace, left_of(cluster, pace.replica, cluster.hosts, spare_hosts=service.spare_hosts))


def _refuse_too_many(service: Service, cluster: Cluster, pace: ReplicaPace, hosts: int) -> None:
    if hosts <= cluster.hosts:
        return
    carried_per_s = _most_per_s(service, cluster, pace)
    nearest = f"or plan for a peak of {carried_per_s:.3g} requests a second" if carried_per_s else "or spare fewer"
    raise InvalidRequest(
        f"{service.traffic.peak_per_s:g} requests a second in the busiest hour need {many(hosts, 'host')}, "
        f"{service.spare_hosts} of them spare; {cluster.name} has {cluster.hosts}.",
        remedy=f"Add {many(hosts - cluster.hosts, 'host')}, {nearest}.",
        param="hosts",
    )


def _planned(
    service: Service,
    cluster: Cluster,
    pace: ReplicaPace,
    replicas: int,
    *,
    growth_of: tuple[int, int],
    others: list[Other],
) -> ServingPlan:
    traffic = service.traffic
    left = left_of(cluster, pace.replica, cluster.hosts, spare_hosts=service.spare_hosts)
    most_per_s = _most_per_s(service, cluster, pace)
    costs = _Costs(service, cluster, pace)
    growth, cut = _growth(service, cluster, pace, *growth_of)
    return ServingPlan(
        cluster=cluster,
        pace=pace,
        replicas=replicas_of(cluster, pace.replica, cluster.hosts),
        needed_replicas=replicas,
        spare_hosts=service.spare_hosts,
        first_token_s=first_token_s(pace, left, traffic.peak_per_s, met_share=service.latency.met_share),
        busy_share=traffic.peak_per_s / (left * pace.requests_per_s),
        weights_bytes=pace.replica.weights_bytes,
        cache_bytes=pace.batch * traffic.held_tokens * pace.replica.token_cache_bytes,
        answer_tokens_per_s=traffic.requests_per_s * traffic.answer_tokens,
        full_tokens_per_s=most_per_s * traffic.answer_tokens,
        month_usd=cluster.usd_per_hour * _MONTH_S / HOUR_S,
        prompt_usd_per_million_tokens=costs.prompt_usd(traffic.requests_per_s),
        answer_usd_per_million_tokens=costs.answer_usd(traffic.requests_per_s),
        full_prompt_usd_per_million_tokens=costs.prompt_usd(most_per_s),
        full_answer_usd_per_million_tokens=costs.answer_usd(most_per_s),
        enough_months=_enough_months(service, most_per_s),
        growth=growth,
        others=tuple(others),
        derivation=_derivation(service, cluster, pace, replicas, cut=cut),
    )


class _Costs:
    """US dollars a million tokens: the hosts' price, shared between prompts and answers as they share the work."""

    def __init__(self, service: Service, cluster: Cluster, pace: ReplicaPace) -> None:
        prompts_s = pace.prompt_busy_s
        answers_s = service.traffic.answer_tokens * pace.step_s / pace.batch
        self._prompts_share = prompts_s / (prompts_s + answers_s)
        self._usd_per_s = cluster.usd_per_hour / HOUR_S
        self._traffic = service.traffic

    def prompt_usd(self, requests_per_s: float) -> float:
        """Of a million tokens of prompts, cached or not."""
        return 1e6 * self._usd_per_s * self._prompts_share / (requests_per_s * self._traffic.prompt_tokens)

    def answer_usd(self, requests_per_s: float) -> float:
        """Of a million tokens of answers."""
        return 1e6 * self._usd_per_s * (1 - self._prompts_share) / (requests_per_s * self._traffic.answer_tokens)


def _enough_months(service: Service, most_per_s: float) -> float | None:
    """ln(most / peak) / ln(1 + growth): months of compound growth until the peak is more than can be answered."""
    traffic = service.traffic
    if traffic.growth_share <= 0:
        return None
    return max(0.0, math.log(most_per_s / traffic.peak_per_s) / math.log1p(traffic.growth_share))


def _growth(
    service: Service, cluster: Cluster, pace: ReplicaPace, months: int, most_hosts: int
) -> tuple[tuple[Need, ...], str]:
    """What each month needs, as long as there are hosts for it; and in words where they end."""
    needs: list[Need] = []
    for month in range(months + 1):
        peak_per_s = service.traffic.peak_per_s * (1 + service.traffic.growth_share) ** month
        replicas = replicas_for(service, pace, peak_per_s)
        hosts = hosts_for(cluster, pace.replica, replicas, spare_hosts=service.spare_hosts)
        if hosts > most_hosts:
            return tuple(needs), f"In {month} months {cluster.name} has too few hosts: {hosts} of {most_hosts}."
        month_usd = cluster.of_hosts(hosts).usd_per_hour * _MONTH_S / HOUR_S
        needs.append(Need(month=month, peak_per_s=peak_per_s, hosts=hosts, month_usd=month_usd))
    return tuple(needs), ""


def _derivation(service: Service, cluster: Cluster, pace: ReplicaPace, replicas: int, *, cut: str) -> Derivation:
    replica, traffic, engine = pace.replica, service.traffic, service.engine
    per_host = replicas_of(cluster, replica, cluster.hosts)
    steps = (
        Step(
            what="memory of a replica",
            formula="weights x bytes of each + batch x (prompt + answer) x 2 x layers x key width x bytes of each",
            value=memory_text(replica, pace.batch, traffic.held_tokens),
            source="grouped queries: arXiv 2305.13245",
        ),
        Step(
            what="a step of decoding",
            formula="max(read weights, compute batch) + read keys and values + exchanges + a fixed time for each layer",
            value=f"{span(pace.step_s)} for {pace.batch} requests on {spread_text(replica)}",
            source="roofline: Williams et al. 2009; arXiv 2211.05102",
        ),
        Step(
            what="a prompt",
            formula="(2 x weights x tokens + 4 x layers x width x tokens x tokens seen) / (peak x share)",
            value=f"{span(pace.prompt_s)} alone, {span(pace.prompt_busy_s)} of others' time",
        ),
        Step(
            what="seconds a token",
            formula="step + batch x prompt / answer tokens",
            value=f"{span(pace.token_s)}; {span(service.latency.token_s)} are allowed",
            source="Little's law",
        ),
        Step(
            what="replicas",
            formula="the fewest whose wait for a place and for prompts keeps the promise in the busiest hour",
            value=f"{replicas} for {traffic.peak_per_s:.3g} requests a second, each at most "
            f"{pace.requests_per_s:.3g}; {cluster.hosts} hosts hold {per_host}, {service.spare_hosts} of them may fail",
            source="Erlang 1917, M/M/c",
        ),
    )
    reached = (
        f"an engine reaches {percent(engine.memory_share)} of the memory's bandwidth and "
        f"{percent(engine.compute_share)} of the {replica.computed_in} peak, and answers at most "
        f"{engine.largest_batch} requests at once"
    )
    factor = (f"times are multiplied by {service.factor_ratio:.3g}, as measured here",) * (service.factor_ratio != 1)
    warnings = [_MEANS, cut]
    if cluster.price is None:
        warnings.append(f"No price of {cluster.host.name} is known, so costs are 0: add one to your catalogue.toml.")
    return Derivation(
        steps=steps,
        rows=cluster.rows,
        conventions=(*_CONVENTIONS, reached, *factor),
        warnings=tuple(filter(None, warnings)),
    )


def serving_text(plan: ServingPlan) -> str:
    """The answer in a few sentences."""
    replica: Replica = plan.pace.replica
    weights = f"{parameters_text(replica.model.parameters)} weights as {replica.weights}"
    growth = "nothing grows" if plan.enough_months is None else f"enough for {plan.enough_months:.1f} months"
    return (
        f"{plan.cluster.hosts} x {plan.cluster.host.name} hold {plan.replicas} replicas of {weights}, each on "
        f"{spread_text(replica)} with {plan.pace.batch} requests at once; {plan.spare_hosts} of the hosts may fail.\n"
        f"First token {span(plan.first_token_s)}, then {span(plan.pace.token_s)} a token; "
        f"{number(plan.answer_tokens_per_s)} tokens/s in the mean, {number(plan.full_tokens_per_s)} at most.\n"
        f"{usd_text(plan.month_usd)} a month: {usd_text(plan.prompt_usd_per_million_tokens)} a million tokens of "
        f"prompts, {usd_text(plan.answer_usd_per_million_tokens)} of answers; {growth}."
    )

"""What the planner answers: questions put to its arithmetic with the catalogue, the charter and own runs in hand."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import msgspec

from tandem.flows.planning.asks import FailuresAsk, LayoutAsk, QuoteAsk, ServingAsk, SimulationAsk, Where
from tandem.flows.planning.work import FileOf, size_of_recipe
from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan import Catalogue, Cluster, Derivation, ModelSize, size_of
from tandem.plan.layout import Candidate, Job, Ranking, candidate_of, rank_layouts
from tandem.plan.quote import Ask, Quote, quote
from tandem.plan.reliability import Endurance, Faults, checkpoint_cost, endure, monte_carlo
from tandem.plan.serving import Latency, Service, ServingPlan, Traffic, serving_plan
from tandem.plan.simulation import DESIGNS, Fleet, Sweep, sweep
from tandem.plan.simulation.sweep import SIZES
from tandem.plan.workshop import Factor

T = TypeVar("T", Traffic, Latency)

_REPLICA_DEVICES = 1_024  # of one copy of the model in data parallelism
_CHECKPOINT_S = 30.0  # that training stands still for a save where nobody names it or the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What answers stand on: the catalogue, the systems that may be used, and what own runs have shown."""

    catalogue: Catalogue
    allowed: tuple[str, ...]
    """Names of the catalogue's systems that the charter lets train."""
    factors: Mapping[str, Factor]

    def cluster(self, where: Where) -> Cluster:
        """The hosts that an ask names.

        Raises:
            NotFound, InvalidRequest: the catalogue has no such hosts.
        """
        if not where.system and not self.allowed:
            raise NotFound(
                "The charter lets none of the catalogue's systems train.",
                remedy="Name a system, or add yours to catalogue.toml in the home folder.",
            )
        return self.catalogue.cluster(where.system or self.allowed[0], hosts=where.hosts, price=where.price)

    def factor_ratio(self, system: str) -> float:
        """Measured by predicted time of own runs on a system; 1 where there are none."""
        return self.factors[system].ratio.mid if system in self.factors else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutAnswer:
    """The best layouts of a job, or the one that was asked about."""

    job: Job
    system: str
    hosts: int
    asked: Candidate | None
    ranking: Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class FailuresAnswer:
    """What failures do to a job, in closed form and where asked for by simulation."""

    faults: Faults
    closed: Endurance
    simulated: Endurance | None
    derivation: Derivation


def answer_quote(ask: QuoteAsk, ground: Ground) -> Quote:
    """From money, devices for a time, or a loss to a model and its cost.

    Raises:
        InvalidRequest, NotFound: it cannot be had; names the nearest that can.
    """
    return quote(asked(ask), ground.cluster(ask), factors=ground.factors)


def asked(ask: QuoteAsk) -> Ask:
    """The planner's own ask.

    Raises:
        InvalidRequest: not exactly one of money, devices and loss is given.
    """
    names = {field.name for field in fields(Ask)}
    given = {key: value for key, value in msgspec.structs.asdict(ask).items() if key in names and value is not None}
    return Ask(**given)


def answer_layout(ask: LayoutAsk, ground: Ground, *, file: FileOf) -> LayoutAnswer:
    """Memory and time of a step by layout.

    Raises:
        InvalidRequest: nothing fits, or the layout that was named does not; names the nearest that does.
    """
    cluster = ground.cluster(ask)
    job = _job(ask, file)
    ratio = ground.factor_ratio(cluster.name)
    chosen = candidate_of(job, ask.layout.layout, cluster, factor_ratio=ratio) if ask.layout else None
    ranking = rank_layouts(job, cluster, factor_ratio=ratio, keep=ask.keep)
    return LayoutAnswer(job=job, system=cluster.name, hosts=cluster.hosts, asked=chosen, ranking=ranking)


def _job(ask: LayoutAsk, file: FileOf) -> Job:
    if (ask.recipe is None) == (ask.parameters is None):
        raise InvalidRequest(
            "A layout is for a recipe or for a number of weights.", remedy="Give one of both.", param="recipe"
        )
    if ask.recipe is None:
        assert ask.parameters is not None
        model = size_of(ask.parameters, context=ask.context)
        return Job(model=model, samples=ask.samples or 256, precision=ask.precision or "bf16")
    model, trained = size_of_recipe(ask.recipe, file=file)
    return Job(
        model=model,
        samples=ask.samples or ask.recipe.batch.samples,
        precision=ask.precision or ask.recipe.precision,
        trained_parameters=trained if trained < model.parameters else None,
    )


def answer_failures(ask: FailuresAsk, ground: Ground) -> FailuresAnswer:
    """Interruptions, the best interval, goodput, wall time and spare nodes.

    Raises:
        InvalidRequest: the job would never finish; names what would.
    """
    cluster = ground.cluster(ask)
    derivation, save_s = Derivation(rows=cluster.rows), ask.checkpoint_s or _CHECKPOINT_S
    if ask.parameters is not None and ask.checkpoint_s is None:
        cost = checkpoint_cost(ask.parameters, cluster)
        derivation, save_s = derivation.then(cost.derivation), cost.save_s
    rate, restart_s = ask.failures_per_1000_node_days, ask.restart_s
    faults = Faults(
        nodes=cluster.hosts,
        failures_per_1000_node_days=cluster.failures_per_1000_node_days if rate is None else rate,
        restart_s=cluster.restart_s if restart_s is None else restart_s,
        checkpoint_s=save_s,
        repair_s=ask.repair_s,
        measured=ask.measured,
    )
    closed = endure(ask.useful_s, faults, interval_s=ask.interval_s)
    simulated = None
    if ask.runs:
        simulated = monte_carlo(ask.useful_s, faults, interval_s=ask.interval_s, runs=ask.runs, seed=ask.seed)
    return FailuresAnswer(
        faults=faults, closed=closed, simulated=simulated, derivation=derivation.then(closed.derivation)
    )


def answer_serving(ask: ServingAsk, ground: Ground, *, model: ModelSize | None = None) -> ServingPlan:
    """Hosts, replicas and cost for traffic; `model` is the version's, where the ask names one.

    Raises:
        InvalidRequest: the hosts cannot keep the promises; names the nearest that can.
    """
    if model is None:
        if ask.parameters is None:
            raise InvalidRequest("Nothing is to be served.", remedy="Name a version or a number of weights.")
        model = size_of(ask.parameters, context=ask.context)
    cluster = ground.cluster(ask)
    return serving_plan(
        Service(
            model=model,
            traffic=_part(Traffic, ask),
            latency=_part(Latency, ask),
            weights=ask.weights,
            cache=ask.cache,
            spare_hosts=ask.spare_hosts,
        ),
        cluster,
        months=ask.months,
    )


def _part(kind: type[T], ask: ServingAsk) -> T:
    return kind(**{field.name: getattr(ask, field.name) for field in fields(kind) if hasattr(ask, field.name)})


def answer_simulation(ask: SimulationAsk, ground: Ground) -> Sweep:
    """Goodput of designs by size, and where each breaks.

    Raises:
        InvalidRequest: unknown designs, or more than can be simulated; or hosts or a price, which nothing here has.
    """
    for name in ("hosts", "price"):
        if getattr(ask, name) is not None:
            raise InvalidRequest(
                f"A simulation is of fleets of its own sizes, and costs nothing: {name} has no place in it.",
                remedy="Give `sizes`, in devices; `system` says what a host is and how often it fails.",
                param=name,
            )
    if unknown := [name for name in ask.designs if name not in DESIGNS]:
        raise InvalidRequest(
            f"There is no design {unknown[0]!r}.", remedy=f"There are {', '.join(DESIGNS)}.", param="designs"
        )
    cluster, sizes = ground.cluster(ask), ask.sizes or SIZES
    rate = ask.failures_per_1000_node_days
    fleet = Fleet(
        devices=max(sizes),
        devices_per_node=cluster.host.devices,
        parameters=ask.parameters,
        replica_devices=min(_REPLICA_DEVICES, max(sizes)),
        span_s=ask.span_s,
        failures_per_1000_node_days=cluster.failures_per_1000_node_days if rate is None else rate,
        node_bytes_per_s=cluster.host.storage_bytes_per_s,
    )
    designs = {name: DESIGNS[name] for name in ask.designs} if ask.designs else DESIGNS
    return sweep(fleet, designs=designs, sizes=sizes, runs=ask.runs, seed=ask.seed)

"""The answer to an ask: the plan, the ways next to it with what each would change, and how all of it came about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.flops import run_flop
from tandem.plan.quote.ask import Ask
from tandem.plan.quote.pace import Pace, Way
from tandem.plan.quote.search import Search
from tandem.plan.scaling import LAWS
from tandem.plan.units import DAY_S, HOUR_S, flop_text, parameters_text, usd_text
from tandem.plan.workshop import Factor

_MOST_TIMES_TOKENS = 20.0  # beyond so many times the tokens nobody trains
_SPENT_SHARE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote(Way):
    """The plan for an ask on a system, with its alternatives."""

    ask: Ask
    system: str
    alternatives: tuple[Way, ...]
    derivation: Derivation
    reckoned: int
    """How many times layouts were ranked for it: the work that it took."""


def quote(ask: Ask, cluster: Cluster, *, factors: Mapping[str, Factor] | None = None) -> Quote:
    """What an ask becomes on a system: `cluster` is all of it, of which as many hosts are taken as suit.

    Money and time are spent on the size with the lowest loss by the law; a loss is reached with the least computing.
    Where devices are to be chosen, it is the most of them within `ask.most_wall_s` that cost 3 % more device hours than
    the least. More money or time never buys a higher loss. `factors` are those of own runs by system.

    Raises:
        InvalidRequest: nothing can be had for it; names the nearest that can.
    """
    search = Search(ask=ask, cluster=cluster, factor=(factors or {}).get(cluster.name))
    pace, way = search.best()
    alternatives = tuple(_alternatives(search, way))
    told = {one.name: getattr(way, one.name) for one in fields(Way)}
    return Quote(
        **told,
        ask=ask,
        system=cluster.name,
        alternatives=alternatives,
        derivation=_derivation(search, pace, way),
        reckoned=search.reckoned,
    )


def _alternatives(search: Search, way: Way) -> Iterator[Way]:
    """Those that can be: twice and half the hosts, and half the size."""
    for made in (_more_hosts, _fewer_hosts, _smaller):
        try:
            found = made(search, way)
        except InvalidRequest:
            continue  # it does not fit, or never finishes: then it is no alternative
        if found is not None:
            yield found


def _more_hosts(search: Search, way: Way) -> Way | None:
    if 2 * way.hosts > search.cluster.hosts or search.ask.devices is not None:
        return None
    other = search.pace(way.model, 2 * way.hosts, batch_flop=way.flop, samples=way.samples)
    return _compared(other, way, name="twice the hosts")


def _fewer_hosts(search: Search, way: Way) -> Way | None:
    if way.hosts < 2:
        return None
    other = search.pace(way.model, way.hosts // 2, batch_flop=way.flop, samples=way.samples)
    return _compared(other, way, name="half the hosts")


def _compared(other: Pace, way: Way, *, name: str) -> Way:
    """The same training on other hosts, with what changes."""
    found = other.way(way.tokens, name=name, why="")
    days = (found.wall_s.mid - way.wall_s.mid) / DAY_S
    spent = found.cost_usd.mid - way.cost_usd.mid
    when = f"{abs(days):.3g} days {'later' if days > 0 else 'sooner'}"
    money = f", for {usd_text(abs(spent))} {'more' if spent > 0 else 'less'}" if other.cluster.price else ""
    return replace(found, why=f"The same model and tokens, done {when}{money}{_late(found, other.ask)}.")


def _smaller(search: Search, way: Way) -> Way | None:
    """Half the size, trained to the same loss: more computing now, half of it with each token served
    (arXiv 2401.00448).
    """
    if search.ask.parameters is not None:
        return None
    model = search.size(way.model.parameters / 2)
    tokens = search.ask.scaling.tokens_for_loss(model.parameters, way.loss_nats.mid)
    if tokens is None or tokens > _MOST_TIMES_TOKENS * way.tokens:
        return None
    other = search.pace(model, way.hosts, batch_flop=run_flop(parameters=model.parameters, tokens=tokens))
    found = other.way(tokens, name="half the size", why="")
    served = (found.flop - way.flop) / (2 * (way.model.parameters - model.parameters))
    spent = found.cost_usd.mid - way.cost_usd.mid
    money = f" and {usd_text(abs(spent))} {'more' if spent > 0 else 'less'}" if other.cluster.price else ""
    return replace(
        found,
        why=f"The same loss from {parameters_text(model.parameters)} weights, for {found.flop / way.flop:.3g} times "
        f"the computing{money}; worth it from {parameters_text(max(0.0, served))} served tokens on, as each takes "
        f"{model.parameters / way.model.parameters:.2g} times the computing{_late(found, search.ask)}.",
    )


def _late(way: Way, ask: Ask) -> str:
    most_s = ask.span_s or ask.most_wall_s
    return "; it takes longer than was asked for" if way.wall_s.mid > most_s * 1.001 else ""


def _derivation(search: Search, pace: Pace, way: Way) -> Derivation:
    law, ask = search.ask.scaling, search.ask
    others = tuple(
        step for other in LAWS.values() if other != law for step in other.derivation(other.optimum(way.flop)).steps
    )
    chosen = Step(
        what="model and tokens",
        formula=_formula(ask),
        value=f"{way.model.parameters:,} weights ({many(way.model.layers, 'layer')} of width {way.model.width}), "
        f"{parameters_text(way.tokens)} tokens, {flop_text(way.flop)}, {way.loss_nats.mid:.3f} nats; "
        f"{search.reckoned} rankings of layouts",
    )
    hosts = Step(
        what="hosts",
        formula="the most within the time that cost at most 3 % more device hours than the least"
        if ask.devices is None
        else "those that were asked for, as far as a batch can be dealt to them",
        value=f"{way.hosts:,} of {many(search.cluster.hosts, 'host')} of {search.cluster.name}, "
        f"{many(way.devices, 'device')}",
    )
    return Derivation(steps=(chosen, hosts), warnings=_warnings(search, way)).then(
        law.derivation(law.optimum(way.flop)), Derivation(steps=others), pace.derivation(way)
    )


def _formula(ask: Ask) -> str:
    if ask.target_loss_nats is not None:
        return f"the least computing that reaches {ask.target_loss_nats:g} nats"
    if ask.budget_usd is not None:
        return f"the lowest loss that {usd_text(ask.budget_usd)} buy within {ask.most_wall_s / DAY_S:.3g} days"
    return f"the lowest loss that {ask.devices:,} devices reach in {(ask.span_s or 0) / HOUR_S:,.4g} h"


def _warnings(search: Search, way: Way) -> tuple[str, ...]:
    """What of the ask could not be used up."""
    ask, found = search.ask, []
    if not way.knows_loss:
        found.append(
            f"The law says {way.loss_nats.mid:.3g} nats, more than guessing among {way.model.vocab:,} tokens "
            f"({way.guessing_nats:.3g}): it does not hold for so little computing. Take the split as advice, not the "
            "loss."
        )
    if ask.devices is not None and way.devices < ask.devices:
        found.append(
            f"A batch cannot be dealt to {ask.devices:,} devices evenly: {way.devices:,} train, and the other "
            f"{ask.devices - way.devices:,} stand by as spares."
        )
    if ask.budget_usd is not None and way.cost_usd.mid < _SPENT_SHARE * ask.budget_usd:
        found.append(
            f"{usd_text(ask.budget_usd - way.cost_usd.mid)} are left: {search.cluster.name} can spend no more on this "
            f"within {ask.most_wall_s / DAY_S:.3g} days."
        )
    return tuple(found)

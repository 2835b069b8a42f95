"""Quote: an ask becomes a plan, on a system of the catalogue or on this machine; and where the money stands."""

import asyncio
from dataclasses import replace
from typing import NamedTuple, Protocol

from tandem.compute import open_system
from tandem.compute import probe as probe_in_child
from tandem.flows.plan import Probe, Rooms, device_here, ground_of
from tandem.flows.planning import (
    FundingAsk,
    QuoteAsk,
    answer_funding,
    answer_quote,
    asked,
    calibrated_as,
    claims_of,
    comparisons,
    spent,
    used,
    work_of_recipe,
)
from tandem.kit import clock
from tandem.kit.db import Database
from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import span
from tandem.plan import Cluster, Interval
from tandem.plan.catalogue import Accelerator, Host, Price
from tandem.plan.funding import FundingView
from tandem.plan.layout import Candidate
from tandem.plan.quote import Quote, quote, written
from tandem.plan.workshop import Device, Factor, Forecast, factor, forecast
from tandem.spec import parse_placement, parse_recipe

LOCAL = "local"

_ROUNDS = 6  # until the size that is chosen and the speed that is assumed for it agree
_AGREED_RATIO = 1.03
_MEMORY_BYTES_PER_S = 2e10  # of a CPU's, where only the size of a step's traffic matters


class Accounts(Rooms, Protocol):
    """What the money stands on besides."""

    @property
    def db(self) -> Database: ...


class Quoted(NamedTuple):
    """A plan, all of the system that it was made for, and the calibration that it used."""

    quote: Quote
    cluster: Cluster
    factor: Factor | None


async def quoted(ask: QuoteAsk, *, house: Rooms, probe: Probe = probe_in_child) -> Quoted:
    """The plan for an ask; `local` is this machine, which is measured where no run has done so yet.

    Raises:
        InvalidRequest, NotFound: it cannot be had; names the nearest that can.
        MissingPrerequisite: this machine is to be measured, and the workshop is not installed.
    """
    ground = await asyncio.to_thread(ground_of, house)
    if ask.system != LOCAL or LOCAL in ground.catalogue.systems:
        cluster = ground.cluster(ask)
        found = await asyncio.to_thread(answer_quote, ask, ground)
        return Quoted(found, cluster, ground.factors.get(cluster.name))
    _check_local(ask)
    device = await device_here(house, half=ask.precision == "bf16", probe=probe)
    capacity = await open_system(LOCAL, house.settings).describe()
    cluster = _this_machine(device, memory_bytes=capacity.memory_bytes, usd_per_hour=capacity.usd_per_hour)
    return await asyncio.to_thread(_on_this_machine, ask, house, cluster, device)


def funding_of(ask: FundingAsk, *, house: Accounts) -> FundingView:
    """Where the money stands, by what was agreed and what this home knows of runs, usage and the charter's caps.

    Raises:
        InvalidRequest: an amount or a month cannot be.
        IntegrityError: the charter is broken.
    """
    return answer_funding(
        ask,
        month=ask.month or f"{clock.now():%Y-%m}",
        spent=spent(house.runs),
        used=used(house.db),
        claims=claims_of(house.charters),
    )


def _this_machine(device: Device, *, memory_bytes: int, usd_per_hour: float) -> Cluster:
    """This machine as one device of one host; speeds are corrected by the forecast of the workshop's own runs."""
    accelerator = Accelerator(
        name=LOCAL,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=_MEMORY_BYTES_PER_S,
        peak_flops={"bf16": device.peak_flops, "fp32": device.peak_flops},
        source=device.name,
    )
    host = Host(
        name=LOCAL,
        accelerator=LOCAL,
        devices=1,
        inside_bytes_per_s=_MEMORY_BYTES_PER_S,
        between_bytes_per_s=_MEMORY_BYTES_PER_S,
        source="this machine",
    )
    price = Price(name=LOCAL, host=LOCAL, usd_per_hour=usd_per_hour, kind="owned", source="local_usd_per_hour")
    return Cluster(
        name=LOCAL,
        accelerator=accelerator,
        host=host,
        hosts=1,
        price=price if usd_per_hour else None,
        # One machine under a desk: the placement's own guess of the time between failures is hours, a plan's is years.
        failures_per_1000_node_days=4.0,
        restart_s=60.0,
    )


def _check_local(ask: QuoteAsk) -> None:
    """Refuse what one machine without a row cannot be, before it is measured for it."""
    for name, many in (("devices", ask.devices), ("hosts", ask.hosts)):
        if many not in {None, 1}:
            raise InvalidRequest(
                f"This machine counts as one device of one host, not {many} {name}: its cores share one memory.",
                remedy="Ask for 1 of it, as in --devices 1x2h.",
                param=name,
            )
    if ask.price is not None:
        raise InvalidRequest(
            f"This machine has no row in the catalogue, and so no price {ask.price!r}.",
            remedy="Set local_usd_per_hour, or give it a row [systems.local] in catalogue.toml.",
            param="price",
        )


def _on_this_machine(ask: QuoteAsk, house: Rooms, cluster: Cluster, device: Device) -> Quoted:
    """The catalogue's model of a step knows GPUs; here each round corrects it by the forecast for the size chosen."""
    known = factor(calibrated_as(LOCAL, device), comparisons(house.settings.home))
    wanted, ratio, rounds, said = asked(ask), 1.0, 0, None
    while True:
        rounds += 1
        assumed = _factor(known, ratio)
        try:
            found = quote(wanted, cluster, factors={LOCAL: assumed})
        except InvalidRequest as error:
            raise error if said is None else _too_short(said) from error
        made = written(found, cluster)
        work = work_of_recipe(
            parse_recipe(made.recipe, where="of the plan"),
            parse_placement(made.placement, where="of the plan"),
            file=house.registry.file,
        )
        said = forecast(work, device, calibrated=known)
        better = ratio * said.stages.wall_s / found.useful_s
        if rounds == _ROUNDS or max(better, ratio) <= _AGREED_RATIO * min(better, ratio):
            break
        ratio = better
    derivation = found.derivation.then(said.derivation)
    return Quoted(replace(found, layout=_paced(found.layout, said), derivation=derivation), cluster, assumed)


def _paced(layout: Candidate, said: Forecast) -> Candidate:
    """The layout with a step as long as the forecast's: the ratio of whole runs has their beginning and end in it."""
    return replace(layout, step=layout.step.scaled(said.step_s / layout.step.total_s))


def _too_short(said: Forecast) -> InvalidRequest:
    """The refusal of what is over before a first step, by the forecast of the least run that was looked at."""
    stages = said.stages
    return InvalidRequest(
        f"What was asked is over before a first step on this machine: the smallest run takes {span(stages.wall_s)} "
        f"from start to end, {span(stages.wall_s - stages.train_s)} of it beside its training.",
        remedy="Ask for more, as in --devices 1x10min.",
    )


def _factor(known: Factor, ratio: float) -> Factor:
    """The forecast by the catalogue's model, as far off as the forecast is."""
    spread = known.ratio
    return Factor(
        system=LOCAL,
        ratio=Interval(ratio * spread.low / spread.mid, ratio, ratio * spread.high / spread.mid),
        runs=known.runs or ("forecast",),
        source=f"the forecast of the workshop's runs, calibrated by {len(known.runs)} of this machine",
    )

"""The search for a way to train: sizes on a fixed ladder, hosts by what they cost; more money never buys less."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import many, span
from tandem.plan.catalogue import Cluster
from tandem.plan.flops import run_flop
from tandem.plan.model import LEAST_PARAMETERS, MOST_PARAMETERS, ModelSize, size_of
from tandem.plan.quote.ask import Ask, hosts_of, usual_context
from tandem.plan.quote.pace import Pace, Way, batch_samples, odd_part, pace_of
from tandem.plan.scaling import Law
from tandem.plan.units import HOUR_S, parameters_text, usd_text
from tandem.plan.workshop import Factor

_RUNGS = 6  # of the ladder of computing, for each power of ten: sizes 21 % apart
_BATCH_RUNGS = 3  # between two batches that are tried for a size that was asked for: each half as large again
_NEAR = 2  # rungs to each side of the best guess that are tried
_FIRST_GUESS_SHARE = 0.4  # of the peak
_LEAST_RUNG, _MOST_RUNG = 12 * _RUNGS + 3, 28 * _RUNGS  # 3e12 to 1e28 FLOP: models that have a usual shape
_WORTH_RATIO = 1.03  # of the least device hours: so much more is spent to be done sooner
_BEST_SHARE = 0.7  # of the peak: no published run reaches more, so fewer hosts need not be tried
_FRIENDLY = 15  # the largest odd part of a number of hosts that layouts divide well

PLAN = "plan"
_BATCH = "samples"  # what a refusal is about where a batch cannot be dealt to devices


@dataclass(slots=True, kw_only=True)
class Search:
    """The search for one ask on one system; remembers the paces that it has reckoned."""

    ask: Ask
    cluster: Cluster
    """All hosts that there are."""
    factor: Factor | None
    reckoned: int = 0
    """How many layouts were ranked: the work done."""
    _known: dict[int, Pace | InvalidRequest] = field(default_factory=dict)

    def best(self) -> tuple[Pace, Way]:
        """The way with the lowest loss for what was asked, or the cheapest to the loss that was asked.

        Raises:
            InvalidRequest: nothing does, and what is nearest.
        """
        if self.ask.target_loss_nats is not None:
            return self._to_loss(self.ask.target_loss_nats)
        if self.ask.budget_usd is not None and not self.cluster.usd_per_hour:
            raise InvalidRequest(
                f"The catalogue has no price above 0 for {self.cluster.name}: money cannot be turned into time.",
                remedy="Add the price of its host to your catalogue.toml, or ask for devices and a time.",
                param="budget_usd",
            )
        paces = [one for one in self._candidates() if isinstance(one, Pace)]
        if not paces:
            refusal = next(one for one in self._known.values() if isinstance(one, InvalidRequest))
            raise _toomany(self) if self.ask.devices and refusal.param == _BATCH else refusal
        reached = [(pace, self._tokens(pace)) for pace in paces]
        # What ends before its first step trains nothing, whatever a law says of so few tokens.
        training = [(pace, tokens) for pace, tokens in reached if tokens >= pace.samples * pace.model.context]
        if not training:
            raise _too_little(paces[0])
        law = self.ask.scaling
        pace, tokens = min(training, key=lambda pair: law.loss_nats(pair[0].model.parameters, pair[1]))
        return pace, pace.way(tokens, name=PLAN, why="The lowest loss of those tried.")

    def size(self, parameters: float) -> ModelSize:
        """The usual shape of a size, with the context and vocabulary that were asked for."""
        return size_of(parameters, context=self.ask.context or usual_context(parameters), vocab=self.ask.vocab or None)

    def pace(self, model: ModelSize, hosts: int, *, batch_flop: float, samples: int = 0) -> Pace:
        """Of a model on so many hosts.

        Raises:
            InvalidRequest: it does not fit.
        """
        self.reckoned += 1
        cluster = self.cluster.of_hosts(hosts)
        return pace_of(model, cluster, self.ask, batch_flop=batch_flop, factor=self.factor, samples=samples)

    def ladder(self, batch_flop: float, context: int, *, most: int = 0) -> list[int]:
        """Numbers of hosts that are tried: powers of two, and `most`, or all, where a batch can be dealt to them."""
        most = most or self.cluster.hosts
        found = [2**power for power in range(most.bit_length())]
        wanted = batch_samples(batch_flop, context=context, devices=1)
        if found[-1] != most and odd_part(most * self.cluster.host.devices) <= max(_FRIENDLY, wanted):
            found.append(most)
        return found

    def _candidates(self) -> Iterator[Pace | InvalidRequest]:
        if self.ask.parameters is not None:
            yield from self._batches(self.ask.parameters)
            return
        guess = self._guess()
        first = self._rung(guess)
        if isinstance(first, Pace):
            flop = run_flop(parameters=first.model.parameters, tokens=self._tokens(first))
            guess = _rung_of(flop)
        for rung in range(guess - _NEAR, guess + _NEAR + 1):
            yield self._rung(min(max(rung, _LEAST_RUNG), _MOST_RUNG))

    def _batches(self, parameters: int) -> Iterator[Pace | InvalidRequest]:
        """Of a size that was asked for: the batches that suit from its best computing up to what is reached."""
        rung = _rung_of(self.ask.scaling.flop_for_size(parameters))
        first = self._rung(rung)
        yield first
        if isinstance(first, Pace):
            reached = _rung_of(run_flop(parameters=parameters, tokens=self._tokens(first)))
            yield from (self._rung(one) for one in range(rung + _BATCH_RUNGS, reached + 1, _BATCH_RUNGS))

    def _guess(self) -> int:
        """The rung that what was asked reaches at a usual share of the peak."""
        ask, cluster = self.ask, self.cluster
        most_s = cluster.devices * ask.most_wall_s
        if ask.budget_usd is not None:
            device_s = min(ask.budget_usd / cluster.usd_per_device_hour * HOUR_S, most_s)
        else:
            device_s = (ask.devices or 0) * (ask.span_s or 0.0)
        return _rung_of(device_s * cluster.accelerator.peak_of(ask.precision) * _FIRST_GUESS_SHARE)

    def _rung(self, rung: int) -> Pace | InvalidRequest:
        """The pace of the size that is best for the computing of a rung: nothing in it depends on how much is spent."""
        if rung not in self._known:
            flop = 10 ** (rung / _RUNGS)
            try:
                model = self.size(self.ask.parameters or self.ask.scaling.optimum(flop).parameters.mid)
                tokens = flop / (6 * model.parameters)
                self._known[rung] = self._given(model, flop) if self.ask.devices else self._hired(model, tokens)
            except InvalidRequest as refusal:
                self._known[rung] = refusal
        return self._known[rung]

    def _given(self, model: ModelSize, flop: float) -> Pace:
        """On the devices that were asked for, or as many of them as a batch can be dealt to."""
        assert self.ask.devices is not None
        most = hosts_of(self.ask.devices, self.cluster)
        return self.pace(model, self.ladder(flop, model.context, most=most)[-1], batch_flop=flop)

    def _hired(self, model: ModelSize, tokens: float) -> Pace:
        """On the most hosts that cost all but the least of device hours, among those that are done in time.

        Where none is done in time, on all of them.

        Raises:
            InvalidRequest: it fits on no number of them.
        """
        flop = run_flop(parameters=model.parameters, tokens=tokens)
        ladder = self.ladder(flop, model.context)
        chosen: Pace | None = None
        last: Pace | None = None
        least_s, refusal = math.inf, InvalidRequest("")
        worth = self._first_worth(flop, ladder)
        for hosts in ladder[worth:]:
            try:
                last = self.pace(model, hosts, batch_flop=flop)
                wall_s = last.wall_s(tokens)
            except InvalidRequest as error:
                # Of a batch nobody has asked: what does not fit in memory says more.
                refusal = refusal if refusal.message and error.param == _BATCH else error
                continue
            if wall_s > self.ask.most_wall_s:
                continue
            least_s = min(least_s, hosts * wall_s)
            if hosts * wall_s > _WORTH_RATIO * least_s:
                break
            chosen = last
        if found := chosen or last or self._late(model, ladder[:worth], flop):
            return found
        raise refusal

    def _late(self, model: ModelSize, fewer: list[int], flop: float) -> Pace | None:
        """On the most of fewer hosts than could be done in time, where no batch can be dealt to as many."""
        for hosts in reversed(fewer):
            with suppress(InvalidRequest):
                return self.pace(model, hosts, batch_flop=flop)
        return None

    def _first_worth(self, flop: float, ladder: list[int]) -> int:
        """The place of the first number of hosts that could be done in time at the best that was ever reached."""
        peak = self.cluster.accelerator.peak_of(self.ask.precision) * self.cluster.host.devices
        needed = flop / (peak * _BEST_SHARE * self.ask.most_wall_s)
        return next((place for place, hosts in enumerate(ladder) if hosts >= needed), len(ladder) - 1)

    def _tokens(self, pace: Pace) -> float:
        """What the money or the time that was asked reaches at a pace."""
        ask = self.ask
        if ask.budget_usd is None:
            return pace.tokens_within(ask.span_s or 0.0)
        return pace.tokens_within(min(ask.budget_usd / pace.cluster.usd_per_hour * HOUR_S, ask.most_wall_s))

    def _to_loss(self, target_nats: float) -> tuple[Pace, Way]:
        law = self.ask.scaling
        least = law.flop_for_loss(target_nats)
        wanted = self.ask.parameters or law.optimum(least).parameters.mid
        if not self.ask.parameters and not LEAST_PARAMETERS <= wanted <= MOST_PARAMETERS:
            raise _beyond_sizes(law, target_nats, wanted)
        model = self.size(wanted)
        tokens = law.tokens_for_loss(model.parameters, target_nats)
        if tokens is None:
            raise InvalidRequest(
                f"A model of {model.parameters:,} weights never reaches {target_nats:g} nats by the law {law.name!r}.",
                remedy=f"Ask for {law.optimum(least).parameters.mid:,.0f} weights, or leave the size open.",
                param="parameters",
            )
        pace = self._hired(model, tokens)
        way = pace.way(tokens, name=PLAN, why="The least computing that reaches the loss.")
        if way.wall_s.mid > self.ask.most_wall_s:
            reached = pace.tokens_within(self.ask.most_wall_s)
            nearest = f", or ask for {law.loss_nats(model.parameters, reached):.3f} nats" if reached >= 1 else ""
            money = f" and {usd_text(way.cost_usd.mid)}" if self.cluster.price else ""
            raise InvalidRequest(
                f"A loss of {target_nats:g} nats takes {span(way.wall_s.mid)}{money} with "
                f"{many(way.hosts, 'host')} of {self.cluster.name}; {span(self.ask.most_wall_s)} are allowed.",
                remedy=f"Allow more time, take a larger system{nearest}.",
                param="target_loss_nats",
            )
        return pace, way


def _rung_of(flop: float) -> int:
    return min(max(round(_RUNGS * math.log10(max(1.0, flop))), _LEAST_RUNG), _MOST_RUNG)


def _too_little(pace: Pace) -> InvalidRequest:
    """The refusal of what does not reach one step, with what the tokens that suit the model take."""
    model = pace.model.parameters
    way = pace.way(pace.ask.scaling.flop_for_size(model) / (6 * model), name=PLAN, why="")
    money = f" and {usd_text(way.cost_usd.mid)}" if pace.cluster.price else ""
    return InvalidRequest(
        f"What was asked is over before a first step of {way.samples * way.model.context:,} tokens on "
        f"{many(pace.cluster.devices, 'device')} of {pace.cluster.name}.",
        remedy=f"Ask for more, or for a smaller model: {parameters_text(way.tokens)} tokens, which suit "
        f"{parameters_text(model)} weights, take {way.wall_s.mid / HOUR_S:,.3g} h{money}.",
    )


def _toomany(search: Search) -> InvalidRequest:
    """The refusal of devices that no batch can be dealt to, with the most of their halves that train something."""
    ask, each = search.ask, search.cluster.host.devices
    hosts, nearest = (ask.devices or 0) // each, ""
    while not nearest and (hosts := hosts // 2):
        fewer = Search(ask=replace(ask, devices=hosts * each), cluster=search.cluster, factor=search.factor)
        with suppress(InvalidRequest):
            fewer.best()
            nearest = f"{hosts * each:,} devices, "
    return InvalidRequest(
        f"No batch that suits what {ask.devices:,} devices of {search.cluster.name} reach in that time can be dealt to "
        "so many.",
        remedy=f"Ask for {nearest}a longer time, or a larger model.",
        param="devices",
    )


def _beyond_sizes(law: Law, target_nats: float, wanted: float) -> InvalidRequest:
    """The refusal of a loss that no model of a usual shape is best for, with the losses that some are."""
    ends = [law.optimum(law.flop_for_size(size)).loss_nats.mid for size in (MOST_PARAMETERS, LEAST_PARAMETERS)]
    return InvalidRequest(
        f"A loss of {target_nats:g} nats is best reached by {wanted:.3g} weights by the law {law.name!r}, for which "
        "there is no usual shape.",
        remedy=f"Ask for a loss of {ends[0] + 0.001:.3f} to {ends[1] - 0.001:.3f} nats, or name the weights too.",
        param="target_loss_nats",
    )

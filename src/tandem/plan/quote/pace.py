"""Paces: how fast a model trains on so many hosts, failures included; and the ways of training that follow from it."""

import math
from dataclasses import dataclass

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation, Step
from tandem.plan.flops import run_flop
from tandem.plan.layout import Candidate, Job, Ranking, rank_layouts
from tandem.plan.model import ModelSize
from tandem.plan.quote.ask import Ask
from tandem.plan.reliability import Endurance, Faults, checkpoint_cost, endure
from tandem.plan.reliability.endure import plan_saves
from tandem.plan.reliability.formulas import expected_wall_s
from tandem.plan.scaling import batch_tokens
from tandem.plan.units import DAY_S, HOUR_S, Interval, parameters_text, usd_text
from tandem.plan.workshop import Factor

PUBLISHED_RATIO = Interval(0.8, 1.0, 1.25)
"""Measured by predicted time of a step where no own run says: so far off are nine of ten published rows that the model
was not fitted on (docs/reference/planner.md). Megatron-Bridge's rows in FP8 are faster still."""

_MOST_HALVINGS = 60
_EVEN_ENOUGH = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to train: model, tokens, hosts and layout, how long that takes and what it costs. Intervals: 90 %."""

    name: str
    why: str
    """How it differs from the plan, in a sentence for people."""
    model: ModelSize
    tokens: int
    flop: float
    """6 N D."""
    samples: int
    """Sequences of a step."""
    loss_nats: Interval
    hosts: int
    devices: int
    layout: Candidate
    useful_s: float
    """Of training, were nothing lost."""
    wall_s: Interval
    """From start to end, with saves, failures and restarts, and how far predictions are off."""
    cost_usd: Interval
    """Devices x wall time x price; 0 where no price is known."""
    goodput_share: Interval
    interruptions: Interval
    checkpoint_every_s: float
    """Training between two saves."""
    spare_hosts: int
    """So many standing by replace a failed host at once; not in the cost."""

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return math.ceil(self.tokens / (self.samples * self.model.context))

    @property
    def guessing_nats(self) -> float:
        """The loss of guessing among the vocabulary."""
        return math.log(self.model.vocab)

    @property
    def knows_loss(self) -> bool:
        """Whether the law says no more than guessing; where it does, it does not hold for so little computing."""
        return self.loss_nats.mid <= self.guessing_nats


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A model of a batch size on hosts: the best layout, and what strikes the job."""

    ask: Ask
    model: ModelSize
    samples: int
    cluster: Cluster
    ranking: Ranking
    faults: Faults
    factor: Factor | None

    @property
    def tokens_per_s(self) -> float:
        """While nothing is lost."""
        return self.ranking.best.step.tokens_per_s

    def wall_s(self, tokens: float) -> float:
        """Expected time from start to end for so many tokens, the middle of `endure`'s; infinite where it refuses."""
        faults, useful_s = self.faults, tokens / self.tokens_per_s
        try:
            saves = plan_saves(useful_s, faults)
        except InvalidRequest:
            return math.inf
        return expected_wall_s(
            useful_s=useful_s,
            checkpoint_s=faults.checkpoint_s,
            mean_s=faults.mean_s,
            restart_s=faults.restart_s,
            interval_s=saves.interval_s,
        )

    def tokens_within(self, wall_s: float) -> float:
        """The most tokens whose expected time is within `wall_s`; 0 where one save alone takes longer."""
        low, high = 0.0, wall_s * self.tokens_per_s
        if self.wall_s(high) <= wall_s:
            return high
        # The time grows with the tokens, in small jumps where another save is worth it: so halve, do not solve.
        for _ in range(_MOST_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.wall_s(middle) <= wall_s else (low, middle)
            if high - low <= _EVEN_ENOUGH * high:
                break
        return low

    def way(self, tokens: float, *, name: str, why: str) -> Way:
        """Training on so many tokens."""
        many = max(1, math.floor(tokens))
        endured, useful_s = self._endurance(many), many / self.tokens_per_s
        wall_s = _spread(endured.wall_s, self.ratio)
        return Way(
            name=name,
            why=why,
            model=self.model,
            tokens=many,
            flop=run_flop(parameters=self.model.parameters, tokens=many),
            samples=self.samples,
            loss_nats=self.ask.scaling.loss_interval_nats(self.model.parameters, many),
            hosts=self.cluster.hosts,
            devices=self.cluster.devices,
            layout=self.ranking.best,
            useful_s=useful_s,
            wall_s=wall_s,
            cost_usd=wall_s.times(self.cluster.usd_per_hour / HOUR_S),
            goodput_share=endured.goodput_share,
            interruptions=endured.interruptions,
            checkpoint_every_s=endured.interval_s,
            spare_hosts=endured.spare_nodes,
        )

    @property
    def ratio(self) -> Interval:
        """Of measured to predicted times: own runs', or that of published ones."""
        return self.factor.ratio if self.factor and self.factor.runs else PUBLISHED_RATIO

    def derivation(self, way: Way) -> Derivation:
        """How the times and costs of a way of this pace come about."""
        cluster = self.cluster
        calibration = (
            self.factor.step
            if self.factor and self.factor.runs
            else Step(
                what=f"calibration of {cluster.name}",
                formula="measured by predicted time: 1, as far off as for published runs; there are no own runs yet",
                value=f"1 (90 % in {self.ratio.low:.3g} to {self.ratio.high:.3g})",
                source="docs/reference/planner.md",
            )
        )
        batch = Step(
            what="batch",
            formula="0.2920 C^0.3271 tokens, to the nearest number of sequences that the hosts can share",
            value=f"{self.samples:,} x {self.model.context:,} = {parameters_text(self.samples * self.model.context)} "
            f"tokens, {way.steps:,} steps",
            source="arXiv 2401.02954, equation 1",
        )
        cost = Step(
            what="cost",
            formula="devices x wall time x price",
            value=f"{way.devices:,} x {way.wall_s.mid / DAY_S:.4g} days x {cluster.usd_per_device_hour:.4g} USD/h = "
            f"{usd_text(way.cost_usd.mid)} ({usd_text(way.cost_usd.low)} to {usd_text(way.cost_usd.high)})",
        )
        saved = checkpoint_cost(self.model.parameters, cluster).derivation
        return Derivation(steps=(batch,)).then(
            self.ranking.derivation,
            Derivation(steps=(calibration,)),
            saved,
            self._endurance(way.tokens).derivation,
            Derivation(steps=(cost,), rows=cluster.rows, warnings=_no_price(cluster)),
        )

    def _endurance(self, tokens: float) -> Endurance:
        return endure(tokens / self.tokens_per_s, self.faults)


def pace_of(
    model: ModelSize, cluster: Cluster, ask: Ask, *, batch_flop: float, factor: Factor | None, samples: int = 0
) -> Pace:
    """The pace of a model on all hosts of a cluster, with the batch that suits a run of `batch_flop`, or `samples`.

    Raises:
        InvalidRequest: it does not fit, or the device has no such precision; names the nearest that works.
    """
    samples = samples or batch_samples(batch_flop, context=model.context, devices=cluster.devices)
    job = Job(model=model, samples=samples, precision=ask.precision)
    ratio = factor.ratio.mid if factor and factor.runs else 1.0
    saves = checkpoint_cost(model.parameters, cluster)
    return Pace(
        ask=ask,
        model=model,
        samples=samples,
        cluster=cluster,
        ranking=rank_layouts(job, cluster, factor_ratio=ratio),
        faults=Faults.of(cluster, checkpoint_s=saves.save_s),
        factor=factor,
    )


def batch_samples(flop: float, *, context: int, devices: int) -> int:
    """Sequences of a step: `scaling.batch_tokens`, to the nearest odd part of the devices times a power of two.

    Groups of data parallelism share a batch evenly, and tensor and pipeline parallelism take powers of two out of the
    devices, so what is left is the odd part times a power of two.
    """
    wanted = max(1.0, batch_tokens(flop) / context)
    odd = odd_part(devices)
    doublings = max(0, round(math.log2(wanted / odd)))
    return odd << doublings


def odd_part(number: int) -> int:
    """What is left when a number above 0 is halved as often as it can be."""
    return number // (number & -number)


def _spread(endured: Interval, ratio: Interval) -> Interval:
    """Both uncertainties together: independent of each other, and normal in their logarithms."""
    mid = endured.mid
    low = math.hypot(math.log(mid / endured.low), math.log(ratio.mid / ratio.low))
    high = math.hypot(math.log(endured.high / mid), math.log(ratio.high / ratio.mid))
    return Interval(mid * math.exp(-low), mid, mid * math.exp(high))


def _no_price(cluster: Cluster) -> tuple[str, ...]:
    if cluster.price is not None:
        return ()
    return (f"The catalogue has no price for {cluster.name}: the cost is not known, and shown as 0.",)

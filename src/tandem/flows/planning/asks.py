"""What the planner is asked, by the command line and over HTTP alike: typed, bounded, nothing in them unknown."""

from typing import Annotated

import msgspec

from tandem.plan import Precision
from tandem.plan.funding import Commitment, Cost, Tariff, Tranche
from tandem.plan.layout import Layout, Recompute
from tandem.plan.serving import Format
from tandem.spec import Placement, Recipe

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**8)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=10**8)]
Weights = Annotated[int, msgspec.Meta(ge=1, le=10**14)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Name = Annotated[str, msgspec.Meta(max_length=80)]
Month = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-(0[1-9]|1[0-2])\Z")]


class _Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question."""


class Where(_Ask, frozen=True, kw_only=True):
    """On which hosts: a system of the catalogue, or a kind of host."""

    system: Name = ""
    """A system or a host of the catalogue; empty is the first system that the charter lets train."""
    hosts: Count | None = None
    """How many at most; all that the system has where nobody says."""
    price: Name | None = None
    """A price of the catalogue; the system's, or the host's first one, where nobody says."""


class QuoteAsk(Where, frozen=True, kw_only=True):
    """Money, or devices for a time, or a loss; exactly one of the three."""

    budget_usd: Positive | None = None
    devices: Count | None = None
    span_s: Positive | None = None
    """With `devices`: from the start to the end, lost time included."""
    target_loss_nats: Positive | None = None
    parameters: Weights | None = None
    """Weights of the model; the best number where nobody says."""
    context: Tokens | None = None
    vocab: Count | None = None
    law: Name = "epoch"
    precision: Precision = "bf16"
    most_wall_s: Positive | None = None
    """The longest that the run may take, where devices are to be chosen; 90 days where nobody says."""


class SystemsAsk(QuoteAsk, frozen=True, kw_only=True):
    """The same on several systems, and what more money would buy."""

    systems: Annotated[tuple[Name, ...], msgspec.Meta(max_length=32)] = ()
    """Which; all of the catalogue where nobody says."""
    more_usd: Positive | None = None
    """A second tranche on top of `budget_usd`."""


class AskedLayout(_Ask, frozen=True, kw_only=True):
    """A layout of one's own: the devices are data x tensor x pipeline x context."""

    data: Count = 1
    tensor: Count = 1
    pipeline: Count = 1
    context: Count = 1
    sharded: bool = True
    """Whether weights, gradients and optimizer are spread over the data and context groups."""
    micro_samples: Count = 1
    """Sequences that a group of devices computes at once."""
    recompute: Recompute = "none"
    chunks: Count = 1
    """Pieces of a stage, when stages are interleaved."""

    @property
    def layout(self) -> Layout:
        """As the planner's arithmetic takes it."""
        return Layout(**msgspec.structs.asdict(self))


class LayoutAsk(Where, frozen=True, kw_only=True):
    """A step of training: by a recipe, or by a number of weights, a context and a batch."""

    recipe: Recipe | None = None
    parameters: Weights | None = None
    context: Tokens = 4096
    samples: Count | None = None
    """Sequences of a step; with a recipe, its own."""
    precision: Precision | None = None
    """The recipe's, or bf16, where nobody says."""
    layout: AskedLayout | None = None
    """One to look at; the best ones where nobody says."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=50)] = 5


class FailuresAsk(Where, frozen=True, kw_only=True):
    """A job that failures strike."""

    useful_s: Positive
    """Training that it needs."""
    failures_per_1000_node_days: NotNegative | None = None
    restart_s: NotNegative | None = None
    checkpoint_s: Positive | None = None
    """What training stands still for a save; by `parameters` and the hosts' storage where nobody says."""
    parameters: Weights | None = None
    interval_s: Positive | None = None
    """Training between two saves; the best where nobody says."""
    repair_s: NotNegative = 86_400.0
    measured: bool = False
    """Whether the rate was measured on jobs of this size; else small ones are taken to fail of other causes too."""
    runs: Annotated[int, msgspec.Meta(ge=0, le=20_000)] = 0
    """Of a Monte Carlo beside the closed form; 0 makes none."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 0


class ServingAsk(Where, frozen=True, kw_only=True):
    """Traffic and what people wait at most."""

    version: Name = ""
    """A version of the registry, or"""
    parameters: Weights | None = None
    """a number of weights."""
    context: Tokens = 8192
    requests_per_s: Positive
    """In the mean."""
    prompt_tokens: Positive
    answer_tokens: Positive
    peak_ratio: Annotated[float, msgspec.Meta(ge=1, le=1e4)] = 2.0
    cached_share: Share = 0.0
    growth_share: Annotated[float, msgspec.Meta(ge=-0.9, le=10)] = 0.0
    """By how much requests grow in a month."""
    first_token_s: Positive = 1.0
    token_s: Positive = 0.05
    weights: Format = "bf16"
    cache: Format = "bf16"
    spare_hosts: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1
    months: Annotated[int, msgspec.Meta(ge=0, le=120)] = 12


class FundingAsk(_Ask, frozen=True, kw_only=True):
    """Money as people agreed on it; what was spent and used is taken from this home unless it is given."""

    month: Month | None = None
    """The month to look from; this one where nobody says."""
    tranches: Annotated[tuple[Tranche, ...], msgspec.Meta(max_length=1000)] = ()
    commitments: Annotated[tuple[Commitment, ...], msgspec.Meta(max_length=1000)] = ()
    planned: Annotated[tuple[Cost, ...], msgspec.Meta(max_length=10_000)] = ()
    spent: Annotated[tuple[Cost, ...], msgspec.Meta(max_length=10_000)] = ()
    """What no run of this home knows of, such as people and rent."""
    tariffs: Annotated[tuple[Tariff, ...], msgspec.Meta(max_length=1000)] = ()
    returned_usd: dict[Name, NotNegative] = {}
    """What each party got back so far."""
    reserve_usd: NotNegative = 0.0


class SimulationAsk(Where, frozen=True, kw_only=True):
    """Fleets over weeks, under designs."""

    sizes: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)] = ()
    """Devices, rising; 1,024 to 131,072 where nobody says."""
    designs: Annotated[tuple[Name, ...], msgspec.Meta(max_length=32)] = ()
    """Which; all where nobody says."""
    parameters: Weights = 1_000_000_000_000
    span_s: Positive = 28 * 86_400.0
    failures_per_1000_node_days: NotNegative | None = None
    runs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] = 0


class RunAsk(_Ask, frozen=True, kw_only=True):
    """A run that has not begun."""

    recipe: Recipe
    placement: Placement = Placement()

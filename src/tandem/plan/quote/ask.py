"""Asks: what a plan starts from, money, devices for a time, or a loss, checked once; and what is usual where unsaid."""

import math
from dataclasses import dataclass, fields

from tandem.kit.errors import InvalidRequest
from tandem.plan.catalogue import Cluster, Precision
from tandem.plan.scaling import Law, law_of
from tandem.plan.units import DAY_S

MOST_WALL_S = 90 * DAY_S
"""The longest that a run takes where nobody says: longer ones are overtaken by newer hardware and methods before they
end, and none that was published took much more (Sevilla et al., The longest training run, Epoch AI 2022)."""

# Contexts that are usual: our own small recipes, GPT-3 and Llama 2, Llama 3; the first whose number of weights is more.
_CONTEXTS = ((3e7, 512), (1e9, 2_048), (3e10, 4_096))
_LONGEST_CONTEXT = 8_192
_LARGEST = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is given: `budget_usd`, or `devices` for `span_s`, or `target_loss_nats`; exactly one of the three."""

    budget_usd: float | None = None
    devices: int | None = None
    span_s: float | None = None
    """From the start to the end of the run, lost time included."""
    target_loss_nats: float | None = None
    parameters: int | None = None
    """Weights of the model; the best number where nobody says."""
    context: int | None = None
    """Tokens of a sequence; what is usual for the size where nobody says."""
    vocab: int | None = None
    law: str = "epoch"
    precision: Precision = "bf16"
    most_wall_s: float = MOST_WALL_S
    """The longest that the run may take, where devices are to be chosen."""

    def __post_init__(self) -> None:
        _check_kind(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and 0 < value <= _LARGEST):
                raise InvalidRequest(
                    f"{field.name} is {value:g}, which nobody can ask for.",
                    remedy="Give a number above 0.",
                    param=field.name,
                )
        law_of(self.law)

    @property
    def scaling(self) -> Law:
        """The law by its name."""
        return law_of(self.law)


def usual_context(parameters: float) -> int:
    """Tokens of a sequence that a model of so many weights is usually trained with."""
    return next((context for most, context in _CONTEXTS if parameters < most), _LONGEST_CONTEXT)


def hosts_of(devices: int, cluster: Cluster) -> int:
    """Hosts with exactly so many devices.

    Raises:
        InvalidRequest: hosts come whole, or the system has fewer; names the nearest number of devices.
    """
    each = cluster.host.devices
    hosts = min(max(1, round(devices / each)), cluster.hosts)
    if hosts * each != devices:
        most = f"; {cluster.name} has {cluster.devices:,}" if devices > cluster.devices else ""
        raise InvalidRequest(
            f"{devices:,} devices are no whole number of hosts with {each} each{most}.",
            remedy=f"Ask for {hosts * each:,} devices.",
            param="devices",
        )
    return hosts


def _check_kind(ask: Ask) -> None:
    given = [ask.budget_usd, ask.devices, ask.target_loss_nats]
    if sum(value is not None for value in given) != 1 or (ask.devices is None) != (ask.span_s is None):
        raise InvalidRequest(
            "A plan starts from exactly one of money, devices for a time, and a loss to reach.",
            remedy="Give budget_usd, or devices and span_s, or target_loss_nats: --budget, --devices or --loss.",
        )

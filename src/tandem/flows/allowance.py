"""Allowance: where the charter lets a run train and what it lets it cost, asked before any worker starts."""

from typing import Protocol

from tandem.flows.planning import spent_in
from tandem.kit import clock
from tandem.kit.errors import Forbidden
from tandem.registry import CharterBook, Runs
from tandem.spec import Placement

_REMEDY = "Set `usd` under `limits` of the placement, or agree on another charter: `tandem charter change`."


class Rooms(Protocol):
    """What is asked."""

    @property
    def charters(self) -> CharterBook: ...
    @property
    def runs(self) -> Runs: ...


def check_allowance(house: Rooms, placement: Placement, *, run_id: str = "") -> None:
    """Let pass a run that the charter allows; without a charter all are. `run_id` is the run, once it has begun.

    A run may cost what its placement's limit says, so with a limit in the charter it needs one of its own.

    Raises:
        Forbidden: it may not be trained on this system, or may cost more than the charter lets a run or a month cost.
        IntegrityError: the charter is broken.
    """
    current = house.charters.chain().current
    if current is None:
        return
    charter, asked = current.charter, placement.limits.usd
    if not charter.allows("train", placement.system):
        raise Forbidden(
            f"Models may not be trained on {placement.system}: the charter does not allow it.",
            remedy=f"Use one of {', '.join(charter.systems.train) or 'none'}.",
            code="place_not_allowed",
        )
    if (most := charter.spending.usd_per_run) is not None and not 0 < asked <= most:
        raise _too_dear(asked, f"a run at most {most:,.2f} USD")
    if (month := charter.spending.usd_per_month) is not None:
        spent = spent_in(house.runs, clock.now(), besides=run_id)
        if not 0 < asked <= month - spent:
            raise _too_dear(asked, f"a month {month:,.2f} USD, of which {spent:,.2f} are spent")


def _too_dear(asked: float, allowed: str) -> Forbidden:
    said = f"may cost {asked:,.2f} USD" if asked else "has no limit on its cost"
    return Forbidden(f"The run {said}; the charter lets {allowed}.", remedy=_REMEDY, code="too_dear")

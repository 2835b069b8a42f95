"""Plan: what there is to plan with, what a run should take, and what it took beside that."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from tandem.compute import probe as probe_in_child
from tandem.flows.planning import (
    Ground,
    calibrated_as,
    catalogue_of,
    comparisons,
    device_of_probe,
    keep_outcome,
    outcome_of,
    outcomes,
    pinned,
    work_of_recipe,
)
from tandem.kit.config import Settings
from tandem.kit.errors import Conflict, TandemError, UnsupportedFeature
from tandem.plan.workshop import Device, Factor, Forecast, Stages, factor, factors, forecast
from tandem.registry import CharterBook, Registry, Runs
from tandem.spec import Placement, Recipe, read_story

_LAST = 9  # runs that the device is known from


class Rooms(Protocol):
    """What the story stands on."""

    @property
    def settings(self) -> Settings: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def charters(self) -> CharterBook: ...


Probe = Callable[[], Awaitable[Mapping[str, Any]]]
"""As `tandem.compute.probe`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A finished run next to what is said of it now, without it."""

    run: str
    name: str
    system: str
    predicted: Forecast
    """Calibrated by the other runs of the system."""
    factor: Factor
    """That calibration."""
    measured: Stages
    ratios: Mapping[str, float]
    """Measured by predicted seconds, by the names of the stages and `wall_s`; without stages that neither has."""
    expected: bool
    """Whether the training lies in the calibration's interval."""


def ground_of(house: Rooms) -> Ground:
    """What answers stand on: the catalogue, the systems that the charter lets train, and what own runs have shown.

    Raises:
        InvalidRequest: the home folder's catalogue.toml is wrong; names the key.
        IntegrityError: the charter is broken.
    """
    catalogue, current = catalogue_of(house.settings.home), house.charters.chain().current
    return Ground(
        catalogue=catalogue,
        allowed=tuple(name for name in catalogue.systems if current is None or current.charter.allows("train", name)),
        factors=calibration(house),
    )


def calibration(house: Rooms) -> Mapping[str, Factor]:
    """How far predictions were from own runs, by system; a system without runs is not in it."""
    return factors(comparisons(house.settings.home))


async def predicted(recipe: Recipe, placement: Placement, *, house: Rooms, probe: Probe = probe_in_child) -> Forecast:
    """What a recipe should take here, calibrated by own runs; a machine that none has measured yet is measured now.

    Raises:
        NotFound: the parent is not there.
        InvalidRequest: its budget counts epochs, or the workers cannot share its batch.
        UnsupportedFeature: the parent is no decoder of the Llama family, or the system cannot be measured from here.
        MissingPrerequisite: the workshop is not installed.
    """
    device = await device_here(house, system=placement.system, half=recipe.precision == "bf16", probe=probe)
    return await asyncio.to_thread(_forecast, recipe, placement, house, device)


async def device_here(
    house: Rooms, *, system: str = "local", half: bool = True, probe: Probe = probe_in_child
) -> Device:
    """What a system computes on, as its newest runs measured it; this machine is measured where none has.

    Raises:
        UnsupportedFeature: another system that no run has measured.
        MissingPrerequisite: the workshop is not installed.
    """
    device = await asyncio.to_thread(_known_device, house, system, half=half)
    if device is None:
        if system != "local":
            raise UnsupportedFeature(
                f"No run has measured the system {system} yet.",
                remedy="Train something short there first, or ask for the time of a step by the catalogue: "
                "`tandem plan layout RECIPE --system NAME`.",
                param="system",
            )
        device = device_of_probe(await probe(), half=half)
    return device


def planned(recipe: Recipe, placement: Placement, *, house: Rooms) -> dict[str, float]:
    """What a run is told of its own plan before it begins; nothing where no earlier run has measured the system."""
    try:
        device = _known_device(house, placement.system, half=recipe.precision == "bf16")
        said = _forecast(recipe, placement, house, device) if device is not None else None
    except TandemError:
        return {}
    return {"tokens_per_s": said.tokens_per_s, "wall_s": said.stages.wall_s} if said is not None else {}


def leave_outcome(run_id: str, *, house: Rooms) -> None:
    """Keep what a run took, once it has ended well, for the next plan to be better."""
    keep_outcome(house.settings.home, read_story(house.runs.folder(run_id)), file=house.registry.file)


def against(run: str, *, house: Rooms) -> Against:
    """A run, by its id, a part of it or its recipe's name, next to what is predicted without it.

    Raises:
        NotFound: there is no such run.
        Conflict: it has not ended well, or did not measure itself.
        TandemError: its recipe or its parent can no longer be read.
    """
    found = house.runs.resolve(run)
    story = read_story(house.runs.folder(found.run_id))
    outcome = outcome_of(story, file=house.registry.file)
    if outcome is None:
        raise Conflict(
            f"Run {found.run_id} ({found.state}) left no measurements to compare a plan with.",
            remedy="Compare one that succeeded on a real system: `tandem runs list`.",
        )
    keep_outcome(house.settings.home, story, file=house.registry.file)
    known = factor(outcome.system, comparisons(house.settings.home, without=outcome.run))
    said = forecast(outcome.work, outcome.device, calibrated=known)
    ratio = outcome.measured.train_s / outcome.comparison.predicted_s
    return Against(
        run=outcome.run,
        name=found.name,
        system=outcome.system,
        predicted=said,
        factor=known,
        measured=outcome.measured,
        ratios=_ratios(said.stages, outcome.measured),
        expected=known.ratio.low <= ratio <= known.ratio.high,
    )


def _known_device(house: Rooms, system: str, *, half: bool) -> Device | None:
    """The device of a system as the newest runs that computed in this precision measured it; of several, the last."""
    every = [one for one in outcomes(house.settings.home) if one.work.half == half]
    own = [one for one in every if one.system == calibrated_as(system, one.device)]
    if not own:
        return None
    peaks = [one.device.peak_flops for one in own if one.system == own[-1].system]
    return replace(own[-1].device, peak_flops=statistics.median(peaks[-_LAST:]))


def _forecast(recipe: Recipe, placement: Placement, house: Rooms, device: Device) -> Forecast:
    work = work_of_recipe(pinned(recipe, house), placement, file=house.registry.file)
    known = comparisons(house.settings.home)
    return forecast(work, device, calibrated=factor(calibrated_as(placement.system, device), known))


def _ratios(said: Stages, measured: Stages) -> dict[str, float]:
    names = [field.name for field in fields(Stages)] + ["wall_s"]
    pairs = {name: (getattr(measured, name), getattr(said, name)) for name in names}
    return {name: took / expected for name, (took, expected) in pairs.items() if expected > 0}

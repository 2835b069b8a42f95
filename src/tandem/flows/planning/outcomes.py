"""Outcomes: what each finished run took, by stage, in one small file a run, from which the planner learns."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from tandem.flows.planning.work import FileOf, device_of, measured_stages, work_of_run
from tandem.kit.errors import TandemError
from tandem.kit.lines import write_whole
from tandem.kit.log import get_logger
from tandem.plan.workshop import Comparison, Device, Stages, Workload, forecast
from tandem.spec import RunState, Story

_log = get_logger(__name__)

_MOST = 500  # that are looked at: machines change, and so do we

# NOTE: outcomes live for ever. Fields are only added, at the end, with a default.


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did, on what, and how long each stage took; all of it follows from the run's folder."""

    run: str
    system: str
    """As the calibration calls it: `local`, and for a device that is no CPU `local, NVIDIA H200`."""
    work: Workload
    device: Device
    predicted: Stages
    """What was said of it when this was written, without any run's calibration. Factors are learnt from what is said
    today."""
    measured: Stages
    attempts: int = 1

    @property
    def teaches(self) -> bool:
        """Whether it tells how fast the system is: it was done at one go, so that each second is known."""
        return self.attempts == 1 and self.measured.train_s > 0

    @property
    def comparison(self) -> Comparison:
        """Its training next to what is said of it today."""
        said = forecast(self.work, self.device).stages
        return Comparison(run=self.run, system=self.system, predicted_s=said.train_s, measured_s=self.measured.train_s)


def calibrated_as(system: str, device: Device) -> str:
    """What the calibration calls a system with such a device: each kind of GPU is one of its own."""
    return system if device.kind == "cpu" else f"{system}, {device.name.partition(':')[0]}"


def outcome_of(story: Story, *, file: FileOf) -> Outcome | None:
    """The outcome of a run that ended well and measured itself; None of any other.

    Raises:
        TandemError: its recipe or its parent can no longer be read.
    """
    device = device_of(story)
    if story.run.state is not RunState.SUCCEEDED or device is None or not story.summary.get("goodput"):
        return None
    work = work_of_run(story, file=file)
    return Outcome(
        run=story.run.run_id,
        system=calibrated_as(str(story.placement.get("system", "local")), device),
        work=work,
        device=device,
        predicted=forecast(work, device).stages,
        measured=measured_stages(story),
        attempts=len(story.attempt_seconds),
    )


def keep_outcome(home: Path, story: Story, *, file: FileOf) -> Outcome | None:
    """Write a run's outcome, the same bytes each time; a run that has none, or a disk that is full, leaves none.

    Nobody depends on it, so nothing that goes wrong here is a failure of the run.
    """
    try:
        outcome = outcome_of(story, file=file)
        if outcome is not None:
            _folder(home).mkdir(parents=True, exist_ok=True)
            write_whole(_folder(home) / f"{outcome.run}.json", msgspec.json.format(msgspec.json.encode(outcome)))
    except (TandemError, OSError) as error:
        _log.warning("the outcome of a run could not be kept", extra={"run": story.run.run_id, "cause": str(error)})
        return None
    return outcome


def outcomes(home: Path) -> Iterator[Outcome]:
    """The newest that were kept, in the order in which their runs began; what is torn or foreign is passed over."""
    for path in sorted(_folder(home).glob("run_*.json"))[-_MOST:]:
        try:
            yield msgspec.json.decode(path.read_bytes(), type=Outcome)
        except (OSError, msgspec.MsgspecError):
            _log.warning("an outcome cannot be read", extra={"path": str(path)})


def comparisons(home: Path, *, without: str = "") -> list[Comparison]:
    """What the calibration learns from: the outcomes that teach something, but for the run `without`."""
    return [one.comparison for one in outcomes(home) if one.teaches and one.run != without]


def _folder(home: Path) -> Path:
    return home / "plan" / "outcomes"

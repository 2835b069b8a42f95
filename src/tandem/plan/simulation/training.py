"""The training of a simulated run: work done and undone, and the saves that it can be thrown back to."""

import math
from dataclasses import dataclass, field

from tandem.plan.simulation.saving import Saving


@dataclass(slots=True)
class _Marks:
    """So many saves at even distances, the last of them at `last_s` with `work_s` done."""

    last_s: float
    work_s: float
    count: int
    each_s: float
    """Work between two of them."""


@dataclass(slots=True)
class Training:
    """How far it is; all in seconds, work in seconds of the whole fleet at full speed."""

    saving: Saving
    work_s: float = 0.0
    saving_s: float = 0.0
    shrunk_s: float = 0.0
    slow_s: float = 0.0
    repeated_s: float = 0.0
    _position_s: float = 0.0
    """Since the last save, or the last start."""
    _marks: list[_Marks] = field(default_factory=list)

    def go(self, from_s: float, to_s: float, *, alive_share: float, slow_share: float) -> None:
        """Train from one moment to another, with that share of the replicas and that loss by slow nodes."""
        interval_s, length_s = self.saving.interval_s, self.saving.interval_s + self.saving.block_s
        speed = alive_share * (1 - slow_share)
        at_s = self._position_s + to_s - from_s
        cycles = math.floor(at_s / length_s)
        rest_s = at_s - cycles * length_s
        trained_s = cycles * interval_s + min(rest_s, interval_s) - min(self._position_s, interval_s)
        self.work_s += speed * trained_s
        self.shrunk_s += (1 - alive_share) * trained_s
        self.slow_s += alive_share * slow_share * trained_s
        self.saving_s += to_s - from_s - trained_s
        self._position_s = rest_s
        if cycles:
            work_s = self.work_s - speed * min(rest_s, interval_s)
            self._marks.append(_Marks(last_s=to_s - rest_s, work_s=work_s, count=cycles, each_s=speed * interval_s))

    def stop(self) -> None:
        """Begin a new interval with the next start; what was done since the last save stays."""
        self._position_s = 0.0

    def save(self, at_s: float) -> None:
        """Save all that is done."""
        self._marks.append(_Marks(last_s=at_s, work_s=self.work_s, count=1, each_s=0.0))

    def back_to(self, before_s: float) -> None:
        """Throw away what was done after the last save that was whole by then; all of it if there is none."""
        length_s = self.saving.interval_s + self.saving.block_s
        work_s = 0.0
        while self._marks:
            marks = self._marks[-1]
            later = max(0, math.ceil((marks.last_s - before_s) / length_s))
            if later < marks.count:
                marks.last_s -= later * length_s
                marks.work_s -= later * marks.each_s
                marks.count -= later
                work_s = marks.work_s
                break
            self._marks.pop()
        self.repeated_s += self.work_s - work_s
        self.work_s = work_s

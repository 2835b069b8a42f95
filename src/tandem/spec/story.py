"""The story of a run: all that its folder tells, read tolerantly, and the arithmetic of its time and money."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tandem.kit.lines import read_lines
from tandem.kit.pages import is_number
from tandem.spec.run import Event, Happened, Run, fold
from tandem.spec.run_folder import RunFolder

GOODPUT = {
    "useful": "training",
    "startup": "starting",
    "compile": "compiling",
    "data": "waiting for data",
    "eval": "evaluating",
    "checkpoint": "saving",
    "lost": "lost work",
    "restart": "between attempts",
    "other": "not measured",
}
"""The categories of a summary's goodput, and what they are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that a run's folder tells, read tolerantly: what is missing or torn is left out."""

    run: Run
    recipe: Mapping[str, Any]
    placement: Mapping[str, Any]
    events: Sequence[Event]
    metrics: Sequence[Mapping[str, Any]]
    """In the order of steps; of steps that were taken twice only the last time."""
    summaries: Mapping[int, Mapping[str, Any]]
    """By attempt; an attempt that was killed has none."""
    prices: Mapping[int, float]
    """US dollars an hour, by attempt."""
    datasets: Mapping[str, Mapping[str, Any]]
    """Manifests, by digest."""

    def told(self, kind: Happened) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.events if event.kind is kind]

    def last(self, kind: Happened) -> Mapping[str, Any]:
        """What the last event of a kind says."""
        return next((event.fields for event in reversed(self.events) if event.kind is kind), {})

    def series(self, key: str) -> list[tuple[float, float]]:
        """A measurement over the tokens."""
        return [
            (float(record["tokens"]), float(record[key]))
            for record in self.metrics
            if is_number(record.get(key)) and is_number(record.get("tokens"))
        ]

    @property
    def summary(self) -> Mapping[str, Any]:
        """That of the newest attempt that has one."""
        return self.summaries[max(self.summaries)] if self.summaries else {}

    @property
    def attempt_seconds(self) -> dict[int, float]:
        """How long each attempt took; the one that goes on, until the last thing that is known of it."""
        known = [event.at for event in self.events] + [int(record.get("at", 0)) for record in self.metrics[-1:]]
        begun = {event.attempt: event.at for event in self.told(Happened.ATTEMPT_STARTED)}
        ended = {event.attempt: event.at for event in self.told(Happened.ATTEMPT_ENDED)}
        return {attempt: max(0, ended.get(attempt, max(known)) - at) / 1000 for attempt, at in begun.items()}

    @property
    def running_s(self) -> float:
        """Seconds of all attempts together."""
        return sum(self.attempt_seconds.values())

    @property
    def usd(self) -> float:
        """What that cost in US dollars; 0 where the system's price is not known."""
        return sum(took / 3600 * self.prices.get(attempt, 0.0) for attempt, took in self.attempt_seconds.items())

    @property
    def goodput_s(self) -> dict[str, float]:
        """Seconds of the whole run by the keys of `GOODPUT`.

        An attempt that was killed left no summary: of its time only what the next one counted as lost is known.
        """
        seconds = dict.fromkeys(GOODPUT, 0.0)
        for summary in self.summaries.values():
            for key, value in summary.get("goodput", {}).items():
                name = key.removesuffix("_s")
                seconds[name if name in seconds else "other"] += float(value)
        silent = sum(took for attempt, took in self.attempt_seconds.items() if attempt not in self.summaries)
        seconds["other"] += max(0.0, silent - seconds["lost"])
        return seconds


def read_story(
    folder: RunFolder,
    *,
    events: Sequence[Event] | None = None,
    metrics: Sequence[Mapping[str, Any]] | None = None,
) -> Story:
    """Read a run's folder, and beside it the manifests of its data; without the events and the metrics where the
    caller has read those.
    """
    if events is None:
        events = list(read_lines(folder.events, Event))
    if metrics is None:
        metrics = without_repeats(read_lines(folder.metrics, dict[str, Any]))
    recipe = _json(folder.recipe)
    attempts = sorted(path for path in (folder.path / "attempts").glob("*") if path.name.isdecimal())
    digests = [str(data.get("sha256", "")) for data in recipe.get("data", ())]
    shelf = folder.path.parent.parent / "datasets"
    return Story(
        run=fold(events),
        recipe=recipe,
        placement=_json(folder.placement),
        events=events,
        metrics=metrics,
        summaries={int(path.name): summary for path in attempts if (summary := _json(path / "summary.json"))},
        prices={int(path.name): float(_json(path / "job.json").get("usd_per_hour", 0.0)) for path in attempts},
        datasets={
            digest: _json(shelf / digest.removeprefix("sha256:") / "manifest.json") for digest in digests if digest
        },
    )


def without_repeats(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Measurements in the order of steps: what an attempt did after the checkpoint that the next one resumed goes."""
    kept: list[Mapping[str, Any]] = []
    for record in records:
        while kept and kept[-1].get("step", 0) >= record.get("step", 0):
            kept.pop()
        kept.append(record)
    return kept


def flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables; tables in a list go by their numbers."""
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield from flat({str(place): one for place, one in enumerate(value)}, f"{name}.")
        else:
            yield name, value


def _json(path: Path) -> dict[str, Any]:
    """What a file says; nothing where there is none, or a crash has torn it."""
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return value if isinstance(value, dict) else {}

"""What is known of runs, as records for programs and as rows for people; and two runs beside each other."""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tandem.kit.pages import is_number, percent, rate, short, span
from tandem.spec import Happened, Run, RunFolder, Story, flat

_POINTS = 8  # at which two losses are compared
_SMOOTH = 5  # records that a loss is the mean of: one batch says little

Points = Sequence[tuple[float, float]]


def brief(run: Run) -> dict[str, Any]:
    """A run in a list."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state.value,
        "reason": run.reason,
        "step": run.step,
        "steps": run.steps,
        "restarts": run.restarts,
        "loss": run.evaluation.get("loss"),
        "version": run.version,
        "recipe_id": run.recipe_id,
        "created_at": _iso(run.created_at),
        "updated_at": _iso(run.updated_at),
    }


def record(story: Story, folder: RunFolder) -> dict[str, Any]:
    """All that is known of a run."""
    running, summary = story.last(Happened.RUNNING), story.summary
    return {
        **brief(story.run),
        "folder": str(folder.path),
        "report": str(folder.report) if folder.report.exists() else None,
        "last": dict(story.metrics[-1]) if story.metrics else {},
        "evaluation": dict(story.run.evaluation),
        "seconds": story.running_s,
        "usd": story.usd,
        "goodput_s": {key: value for key, value in story.goodput_s.items() if value},
        "planned": {**running.get("planned", {}), **summary.get("planned", {})},
        "actual": {**summary.get("actual", {})},
        "mfu_convention": summary.get("mfu_convention"),
        "attempts": attempts(story),
        "checkpoints": [{"at": _iso(event.at), **event.fields} for event in story.told(Happened.CHECKPOINT)],
        "environment": {key: value for key, value in running.items() if key not in {"planned", "step", "steps"}},
        "exports": dict(story.run.exports),
        "recipe": dict(story.recipe),
        "placement": dict(story.placement),
    }


def attempts(story: Story) -> list[dict[str, Any]]:
    """Each attempt: when it began, how long it took, and how it ended."""
    ended = {event.attempt: event.fields for event in story.told(Happened.ATTEMPT_ENDED)}
    return [
        {
            "attempt": event.attempt,
            "began_at": _iso(event.at),
            "seconds": story.attempt_seconds[event.attempt],
            **event.fields,
            **{key: value for key, value in ended.get(event.attempt, {}).items() if value not in ("", None)},
        }
        for event in story.told(Happened.ATTEMPT_STARTED)
    ]


def rows(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A record for people: dotted keys and values, without what is empty."""
    for key, value in flat(known):
        if value not in ("", None, [], ()):
            yield key, _written(key, value)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with both; None where one has no such key."""
    one, other = dict(flat(first)), dict(flat(second))
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def measures(story: Story) -> dict[str, str]:
    """What a run came to, for people, under the same keys for each run."""
    last = story.metrics[-1] if story.metrics else {}
    summary, evaluation = story.summary, story.run.evaluation
    return {
        "state": story.run.state.value,
        "step": f"{max(story.run.step, int(last.get('step', 0))):,}",
        "tokens": short(last.get("tokens")),
        "loss": _number(last.get("loss")),
        "held-out loss": _number(evaluation.get("loss")),
        "bits per byte": _number(evaluation.get("bits_per_byte")),
        "speed": rate(summary.get("tokens_per_s", last.get("tokens_per_s"))),
        "step p50": _seconds(summary.get("step_p50_s", last.get("step_p50_s"))),
        "step p95": _seconds(summary.get("step_p95_s", last.get("step_p95_s"))),
        "MFU": percent(summary.get("mfu", last.get("mfu"))),
        "memory": short(summary.get("memory_peak_bytes", last.get("memory_bytes"))),
        "time": span(story.running_s),
        "cost": f"${story.usd:,.2f}" if story.usd else "",
        "restarts": str(story.run.restarts),
        "version": story.run.version,
    }


def losses_at_equal_tokens(first: Points, second: Points) -> list[tuple[float, float, float]]:
    """Tokens and both losses, each the mean of some records, at places that both runs have reached."""
    if not first or not second:
        return []
    begin, end = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    if begin > end:
        return []
    places = [begin + (end - begin) * number / (_POINTS - 1) for number in range(_POINTS)] if begin < end else [end]
    return [(tokens, _loss_at(first, tokens), _loss_at(second, tokens)) for tokens in places]


def _loss_at(points: Points, tokens: float) -> float:
    """The mean of the last records up to so many tokens."""
    place = bisect.bisect_right(points, (tokens, float("inf")))
    recent = [loss for _, loss in points[max(0, place - _SMOOTH) : place]]
    return sum(recent) / len(recent)


def _written(key: str, value: object) -> str:
    if isinstance(value, float):
        return span(value) if key.endswith("seconds") else f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _seconds(value: object) -> str:
    return span(value) if is_number(value) else ""


def _number(value: object) -> str:
    return f"{value:.4f}" if is_number(value) else ""


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")

"""The report of a run: one HTML file with plots and tables, without scripts and without anything beside it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from tandem.kit.lines import write_whole
from tandem.kit.pages import (
    Line,
    Point,
    facts_table,
    inline,
    is_number,
    number,
    page,
    percent,
    plot,
    ratio,
    section,
    short,
    size,
    smoothed,
    span,
    table,
)
from tandem.spec import GOODPUT, Happened, RunFolder, Story, flat, read_story

_STYLE = """
.succeeded,.running{color:var(--good)}.failed,.cancelled{color:var(--bad)}.paused,.recovering{color:var(--held)}
.useful{background:#2f9e44}.startup{background:#4c6ef5}.compile{background:#7950f2}.data{background:#f59f00}
.eval{background:#1098ad}.checkpoint{background:#ae3ec9}.lost{background:#e03131}.restart{background:#f76707}
.other{background:#868e96}
"""


def write_report(folder: RunFolder) -> Path:
    """Write the report of what the run's folder holds by now; returns its path."""
    story = read_story(folder)
    write_whole(folder.report, render(story).encode())
    return folder.report


def render(story: Story) -> str:
    """The report as HTML."""
    name = story.run.name or "run"
    sections = [
        _head(story),
        section("Measured", _plots(story)),
        section("Where the time went", _goodput(story)),
        section("Evaluation", _evaluation(story)),
        section("Planned and actual", _planned(story)),
        section("Attempts", _attempts(story)),
        section("Checkpoints", _checkpoints(story)),
        section("Data", _data(story)),
        section("Exports", _exports(story)),
        section("Recipe", facts_table(flat(story.recipe))),
        section("Placement", facts_table(flat(story.placement))),
        section("Environment", _environment(story)),
    ]
    return page(f"{name}: a run's report", sections, style=_STYLE)


def _head(story: Story) -> str:
    run, last = story.run, story.metrics[-1] if story.metrics else {}
    evaluated, summary = story.last(Happened.EVALUATED), story.summary
    done = max(run.step, int(last.get("step", 0)))
    facts = {
        "step": f"{done:,} of {run.steps:,}" if run.steps else f"{done:,}",
        "tokens": short(float(last.get("tokens", 0))),
        "held-out loss": number(evaluated.get("loss")),
        "bits per byte": number(evaluated.get("bits_per_byte")),
        "tokens/s": number(summary.get("tokens_per_s", last.get("tokens_per_s"))),
        "MFU": percent(summary.get("mfu", last.get("mfu"))),
        "time": span(story.running_s),
        "cost": f"${cost:,.2f}" if (cost := story.usd) else "",
    }
    cells = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items() if value)
    state = "finished" if story.told(Happened.EXPORTED) and not run.state.over else run.state.value
    version = f" as {run.version}" if run.version else ""
    reason = f": {run.reason}" if run.reason else ""
    peak = summary.get("peak_name")
    named = (
        f"<p class=soft>MFU by convention {escape(str(summary.get('mfu_convention')))}; peak: {escape(str(peak))}.</p>"
    )
    return (
        f"<h1>{escape(run.name or 'run')}</h1><p class=soft>{escape(str(story.recipe.get('about', '')))}</p>"
        f'<p><span class="state {run.state.value}">{escape(state + version)}</span>{escape(reason)}'
        f" <span class=soft>{escape(run.run_id)}, made {_moment(run.created_at)}</span></p>"
        f"<dl class=facts>{cells}</dl>{named if peak else ''}"
    )


def _plots(story: Story) -> str:
    loss = story.series("loss")
    held = [
        (float(event.fields["tokens"]), float(event.fields["loss"]))
        for event in story.told(Happened.EVALUATED)
        if is_number(event.fields.get("loss")) and is_number(event.fields.get("tokens"))
    ]
    marks = _restart_tokens(story)
    window = max(1, len(loss) // 50)
    lines = [
        Line(name="each record", points=loss if window > 1 else [], style="faint"),
        Line(name="training", points=smoothed(loss, window=window)),
        Line(name="held out", points=held, style="held", dots=True),
    ]
    gigabytes = [(tokens, count / 1e9) for tokens, count in story.series("memory_bytes")]
    figures = [
        plot(lines, across="tokens", title="Loss", marks=marks),
        plot(_single(story.series("tokens_per_s")), across="tokens", title="Tokens per second", marks=marks),
        plot(_single(story.series("grad_norm")), across="tokens", title="Norm of the gradient", marks=marks, log=True),
        plot(_single(story.series("lr")), across="tokens", title="Learning rate", marks=marks),
        plot(_single(gigabytes), across="tokens", title="Most memory used, GB", marks=marks),
    ]
    note = "<p class=soft>A dashed line is where a new attempt went on.</p>" if marks else ""
    drawn = "".join(figures)
    return f"<div class=plots>{drawn}</div>{note}" if drawn else "<p class=soft>No step was measured yet.</p>"


def _single(points: Sequence[Point]) -> list[Line]:
    return [Line(name="", points=points)]


def _restart_tokens(story: Story) -> list[float]:
    """The tokens at which attempts after the first went on."""
    pairs = zip(story.metrics, story.metrics[1:], strict=False)
    return [float(after.get("tokens", 0)) for before, after in pairs if before.get("attempt") != after.get("attempt")]


def _goodput(story: Story) -> str:
    seconds = story.goodput_s
    total = sum(seconds.values())
    if total <= 0:
        return ""
    parts = [(key, value) for key, value in seconds.items() if value > 0]
    bar = "".join(f'<span class="{key}" style="flex:{value:.4f}"></span>' for key, value in parts)
    rows = [
        (f'<i class="swatch {key}"></i>{GOODPUT[key]}', span(value), percent(value / total)) for key, value in parts
    ]
    return f"<div class=bar>{bar}</div>{table(('', 'time', 'share'), rows, raw=True)}"


def _evaluation(story: Story) -> str:
    found = story.last(Happened.EVALUATED)
    plain = {key: value for key, value in found.items() if not isinstance(value, Mapping)}
    parts = [facts_table(flat(plain))]
    for task, result in found.items():
        if isinstance(result, Mapping):
            parts.append(f"<h3>{escape(task)}</h3>{_task(result)}")
    return "".join(parts) if found else ""


def _task(result: Mapping[str, Any]) -> str:
    """A task's numbers; where each has a baseline's beside it, as columns."""
    compared = {kind: told for kind, told in result.items() if isinstance(told, Mapping)}
    rest = {key: value for key, value in result.items() if key not in compared}
    tables = [facts_table(flat(rest))] if rest else []
    for kind, told in compared.items():
        rows = list(_compared(told))
        left = {key: told[key] for key in told if not any(key in row for row in _measure_keys(told))}
        tables.append(f"<p class=soft>{escape(kind)}: {escape(inline(left))}</p>")
        tables.append(table(("", "model", "baseline", "gain, 95 % interval"), rows))
    return "".join(tables)


def _measure_keys(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(key, f"baseline_{key}", f"{key}_gain") for key in told if f"baseline_{key}" in told]


def _compared(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, baseline, gain in _measure_keys(told):
        if told[key] is None and told[baseline] is None:
            continue
        yield key.replace("_", " "), number(told[key]), number(told[baseline]), _interval(told.get(gain))


def _interval(gain: object) -> str:
    if not isinstance(gain, Sequence) or isinstance(gain, str) or len(gain) != 3:
        return ""
    mean, low, high = gain
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _planned(story: Story) -> str:
    summary = story.summary
    planned = {**story.last(Happened.RUNNING).get("planned", {}), **summary.get("planned", {})}
    actual = {**summary.get("actual", {})}
    if not planned:
        return ""
    tokens = story.metrics[-1].get("tokens") if story.metrics else None
    actual = {"tokens": tokens, **actual, "wall_s": story.running_s or actual.get("wall_s")}
    rows = [
        (
            key.replace("_", " "),
            number(planned.get(key)),
            number(actual.get(key)),
            ratio(actual.get(key), planned[key]),
        )
        for key in planned
    ]
    return table(("", "planned", "actual", "actual / planned"), rows)


def _attempts(story: Story) -> str:
    ended = {event.attempt: event.fields for event in story.told(Happened.ATTEMPT_ENDED)}
    took = story.attempt_seconds
    steps = {event.attempt: event.fields.get("step", 0) for event in story.told(Happened.RUNNING)}
    exported = {event.attempt for event in story.told(Happened.EXPORTED)}
    rows = []
    for event in story.told(Happened.ATTEMPT_STARTED):
        unended = "finished" if event.attempt in exported else "not ended when this was written"
        end = ended.get(event.attempt, {})
        cause = " ".join(
            str(end.get(key) or "") for key in ("ending", "signal", "exception", "asked", "detail")
        ).strip()
        rows.append(
            (
                event.attempt,
                _moment(event.at),
                span(took.get(event.attempt, 0.0)),
                event.fields.get("workers", ""),
                steps.get(event.attempt, ""),
                end.get("step", ""),
                cause or unended,
            )
        )
    headings = ("attempt", "began", "took", "workers", "from step", "to step", "ended")
    return table(headings, rows) + _incidents(story) if rows else ""


def _incidents(story: Story) -> str:
    kinds = {
        Happened.RECOVERING: "restarted",
        Happened.PAUSED: "paused",
        Happened.STEP_SKIPPED: "step skipped",
        Happened.CHECKPOINT_REJECTED: "checkpoint rejected",
        Happened.CHECKPOINT_FAILED: "checkpoint failed",
        Happened.FAILED: "failed",
    }
    rows = [
        (_moment(event.at), kinds[event.kind], event.fields.get("step", ""), event.fields.get("reason", ""))
        for event in story.events
        if event.kind in kinds
    ]
    return f"<h3>Incidents</h3>{table(('when', 'what', 'step', 'why'), rows)}" if rows else ""


def _checkpoints(story: Story) -> str:
    saved = story.told(Happened.CHECKPOINT)
    shown = saved if len(saved) <= 12 else [*saved[:2], *saved[-10:]]
    rows = [
        (
            event.fields.get("step", ""),
            _moment(event.at),
            size(event.fields.get("bytes")),
            span(event.fields.get("seconds", 0.0)),
            event.attempt,
        )
        for event in shown
    ]
    count = f"<p class=soft>{len(saved)} were saved; here are the first two and the last ten.</p>"
    listed = table(("step", "saved", "size", "took", "attempt"), rows)
    return (count if len(saved) > len(shown) else "") + listed if rows else ""


def _data(story: Story) -> str:
    rows = []
    for data in story.recipe.get("data", ()):
        digest = str(data.get("sha256", ""))
        manifest = story.datasets.get(digest, {})
        counts = manifest.get("counts", {})
        licences = dict.fromkeys(filter(None, [data.get("license", ""), *manifest.get("licenses", ())]))
        rows.append(
            (
                data.get("source") or manifest.get("source", ""),
                data.get("format", ""),
                ", ".join(licences) or "not stated",
                number(counts.get("train")),
                number(counts.get("held_out")),
                number(counts.get("duplicates", 0) + counts.get("near_duplicates", 0)) if counts else "",
                number(counts.get("quarantined")),
                digest,
            )
        )
    headings = ("source", "format", "licence", "train", "held out", "duplicates", "quarantined", "digest")
    return table(headings, rows) if rows else ""


def _exports(story: Story) -> str:
    files = story.last(Happened.EXPORTED).get("files", {})
    rows = [(name, size(told.get("bytes")), told.get("sha256", "")) for name, told in files.items()]
    return table(("file", "size", "sha256"), rows) if rows else ""


def _environment(story: Story) -> str:
    running = story.last(Happened.RUNNING)
    more = {key: running[key] for key in ("precision", "parameters", "trained", "samples", "choices") if key in running}
    return facts_table(flat({**more, **running.get("environment", {})}))


def _moment(milliseconds: int) -> str:
    """Unix milliseconds as a time in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}" if milliseconds else ""

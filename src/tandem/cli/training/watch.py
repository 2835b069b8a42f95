"""The live view of a run: in a terminal a picture that is drawn again and again, elsewhere a line now and then."""

import asyncio
import contextlib
import sys
import termios
import tty
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tandem.cli.training.curve import curve
from tandem.cli.training.follow import Follower, Look, tell
from tandem.kit.pages import is_number, percent, rate, short, span
from tandem.spec import Event, Happened, RunFolder

_EVERY_S = 0.5
_LINE_EVERY_S = 15.0  # between lines where there is no terminal, besides those for events
_EVENTS = 4
_CURVE_ROWS = (4, 12)  # at least and at most
_WIDE = 90  # columns from which facts stand in two pairs


class _Shown(Protocol):
    def show(self, look: Look) -> None: ...


async def watch_run(
    folder: RunFolder,
    *,
    console: Console,
    leave: asyncio.Event,
    hint: str,
    until_ended: bool = True,
    plain: bool = False,
) -> Look:
    """Show a run until `leave` is set, or with `until_ended` until nothing more happens by itself; the last look.

    With `plain`, and where there is no terminal, a line now and then tells of it.

    Raises:
        IntegrityError: a file of the run was changed by hand.
    """
    follower = Follower(folder)
    with _picture(console, hint) if console.is_terminal and not plain else _lines(console) as shown:
        while True:
            last = leave.is_set()
            look = await asyncio.to_thread(follower.look)
            shown.show(look)
            if last or (until_ended and look.ended):
                return look
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leave.wait(), _EVERY_S)


@contextlib.contextmanager
def on_q(leave: asyncio.Event) -> Iterator[None]:
    """While the block runs, the key q sets `leave`; without a keyboard nothing does."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def pressed() -> None:
        if sys.stdin.read(1) in {"q", "Q"}:
            leave.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Picture:
    def __init__(self, live: Live, console: Console, hint: str) -> None:
        self._live, self._console, self._hint = live, console, hint

    def show(self, look: Look) -> None:
        size = self._console.size
        plain = not self._console.encoding.startswith("utf")
        self._live.update(view(look, width=size.width, height=size.height, hint=self._hint, plain=plain), refresh=True)


@contextlib.contextmanager
def _picture(console: Console, hint: str) -> Iterator[_Shown]:
    with Live(console=console, auto_refresh=False) as live:
        yield _Picture(live, console, hint)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0
        self._step = -1
        self._next_at = 0

    def show(self, look: Look) -> None:
        for event in look.story.events[self._told :]:
            if words := tell(event):
                self._console.print(f"{_time(event)} {words}", soft_wrap=True)
        self._told = len(look.story.events)
        if look.last and look.step != self._step and look.at >= self._next_at:
            self._step, self._next_at = look.step, look.at + int(1000 * _LINE_EVERY_S)
            self._console.print(line(look), soft_wrap=True)


@contextlib.contextmanager
def _lines(console: Console) -> Iterator[_Shown]:
    yield _Lines(console)


def line(look: Look) -> str:
    """A run in one line."""
    last = look.last
    parts = [
        f"step {look.step}/{look.story.run.steps or '?'}",
        f"loss {last['loss']:.4f}" if is_number(last.get("loss")) else "",
        rate(last.get("tokens_per_s")),
        f"MFU {percent(last['mfu'])}" if is_number(last.get("mfu")) else "",
        f"{span(look.left_s)} left" if look.left_s else "",
    ]
    return "  ".join(filter(None, parts))


def view(look: Look, *, width: int, height: int, hint: str, plain: bool = False) -> RenderableType:
    """A run as a picture of at most `height` rows of `width` characters."""
    run = look.story.run
    facts, recent = facts_of(look), _recent(look)
    pairs = 2 if width >= _WIDE else 1
    state = Text.assemble((look.phase, "bold yellow" if look.silent_s else "bold green"), _progress(look))
    parts: list[RenderableType] = [
        Text.assemble((run.name, "bold"), "  ", (run.run_id, "dim"), no_wrap=True, overflow="ellipsis"),
        state,
        _bar(look, min(width, 60), plain=plain),
        Text("loss", "dim"),
    ]
    taken = len(parts) + -(-len(facts) // pairs) + len(recent) + 2
    rows = max(_CURVE_ROWS[0], min(_CURVE_ROWS[1], height - taken))
    parts.append(curve(_losses(look), _held_out(look), width=min(width, 110), height=rows, plain=plain))
    parts += [_grid(facts, pairs, width), Text("\n".join(recent), "dim", no_wrap=True, overflow="ellipsis")]
    return Group(*parts, Text(_warning(look) or hint, "yellow" if look.silent_s else "dim"))


def _bar(look: Look, width: int, *, plain: bool) -> Text:
    steps = look.story.run.steps
    done = min(width, width * look.step // steps) if steps else 0
    full, rest = ("#", "-") if plain else ("━", "─")
    return Text.assemble((full * done, "green"), (rest * (width - done), "dim"))


def _progress(look: Look) -> str:
    steps = look.story.run.steps
    return f"  step {look.step:,} of {steps:,}" if steps else f"  step {look.step:,}"


def _losses(look: Look) -> list[tuple[float, float]]:
    return [
        (float(record["step"]), float(record["loss"]))
        for record in look.story.metrics
        if is_number(record.get("loss")) and is_number(record.get("step"))
    ]


def _held_out(look: Look) -> list[tuple[float, float]]:
    told = (event.fields for event in look.story.told(Happened.EVALUATED))
    return [
        (float(one["step"]), float(one["loss"]))
        for one in told
        if is_number(one.get("loss")) and is_number(one.get("step"))
    ]


def facts_of(look: Look) -> dict[str, str]:
    """What the view says besides its curve; what is not known yet is left out."""
    story, last = look.story, look.last
    running, evaluated = story.last(Happened.RUNNING), story.last(Happened.EVALUATED)
    saved = story.last(Happened.CHECKPOINT)
    peak = running.get("environment", {}).get("peak_name", "")
    times = [f"p50 {span(last['step_p50_s'])}"] if is_number(last.get("step_p50_s")) else []
    times += [f"p95 {span(last['step_p95_s'])}"] if is_number(last.get("step_p95_s")) else []
    facts = {
        "loss": _number(last.get("loss")),
        "held out": _number(evaluated.get("loss")),
        "bits per byte": _number(evaluated.get("bits_per_byte")),
        "gradient": _number(last.get("grad_norm")),
        "speed": rate(last.get("tokens_per_s")),
        "step": ", ".join(times),
        "MFU": percent(last.get("mfu")) + (f" of {peak}" if peak and is_number(last.get("mfu")) else ""),
        "tokens": short(last.get("tokens")),
        "time": span(story.running_s) if story.running_s else "",
        "left": span(look.left_s) if look.left_s is not None and not story.run.state.over else "",
        "cost": f"${story.usd:,.2f}" if story.usd else "",
        "memory": f"{short(last['memory_bytes'])}B" if is_number(last.get("memory_bytes")) else "",
        "saved": f"at step {saved['step']:,}, {len(story.told(Happened.CHECKPOINT))} in all" if "step" in saved else "",
        "attempt": f"{story.run.attempt}, {story.run.restarts} restarts" if story.run.attempt else "",
    }
    return {key: value for key, value in facts.items() if value}


def _grid(facts: Mapping[str, str], pairs: int, width: int) -> Table:
    """Names and values, in one or two pairs of columns."""
    grid = Table.grid(padding=(0, 2))
    for _ in range(pairs):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // pairs - 18))
    told = list(facts.items())
    for start in range(0, len(told), pairs):
        grid.add_row(*(word for fact in told[start : start + pairs] for word in fact))
    return grid


def _recent(look: Look) -> list[str]:
    told = [f"{_time(event)} {words}" for event in look.story.events if (words := tell(event))]
    return told[-_EVENTS:]


def _warning(look: Look) -> str:
    if not look.silent_s:
        return ""
    return f"No sign of life for {span(look.silent_s)}. `tandem runs resume {look.story.run.run_id}` takes over."


def _time(event: Event) -> str:
    return f"{datetime.fromtimestamp(event.at / 1000, UTC):%H:%M:%S}"


def _number(value: object) -> str:
    return f"{value:.4g}" if is_number(value) else ""

"""Plots as SVG text: lines, dots and marks over one axis, small enough for a report and readable on a phone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tandem.kit.pages.words import short

Point = tuple[float, float]

_WIDTH, _HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
_HALF_LETTER = 3.3  # half the width of a digit of 11 pixels
_MOST_POINTS = 400  # of a line: more are narrower than a pixel
_LARGEST = 1e30  # what is beyond it, or not a number, has no place in a picture
_NEARLY = 1e-9  # of its size: a difference that is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points that are joined, or with `dots` shown each; `style` is the class that the page's colours go by."""

    name: str
    points: Sequence[Point]
    style: str = "main"
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From where to where, and whether by powers of ten."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def plot(
    lines: Sequence[Line],
    *,
    across: str,
    title: str,
    marks: Iterable[float] = (),
    log: bool = False,
    log_across: bool = False,
) -> str:
    """An SVG of the lines; empty where no line has a point. `marks` are places on the axis `across`.

    With `log` the values go by powers of ten, with `log_across` the places; those that are not positive are left out
    then. So are those beyond 1e30.
    """
    seen = [_drawable(line, log=log, log_across=log_across) for line in lines]
    points = [point for line in seen for point in line.points]
    if not points:
        return ""
    x = _axis([point[0] for point in points], log=log_across)
    y = _axis([point[1] for point in points], log=log)
    body = [
        *_grid(x, y, across),
        *(_mark(x, place) for place in marks if x.low < place < x.high),
        *(_drawn(line, x, y) for line in seen if line.points),
    ]
    return (
        f'<figure><figcaption>{escape(title)}{_legend(seen)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">{"".join(body)}</svg></figure>'
    )


def smoothed(points: Sequence[Point], *, window: int) -> list[Point]:
    """A running mean over the last `window` points."""
    means: list[Point] = []
    total = 0.0
    for number, (x, y) in enumerate(points):
        total += y - (points[number - window][1] if number >= window else 0.0)
        means.append((x, total / min(number + 1, window)))
    return means


def ticks(axis: Axis, *, about: int = 5) -> list[float]:
    """Round values on an axis: powers of ten on a long one by powers, else steps of 1, 2 or 5."""
    if axis.log and axis.high / axis.low >= 10:
        low, high = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        return [10.0**power for power in range(low, high + 1, max(1, (high - low) // about))]
    rough = (axis.high - axis.low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(size * unit for size in (1.0, 2.0, 5.0, 10.0) if size * unit >= rough)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _drawable(line: Line, *, log: bool, log_across: bool) -> Line:
    left, least = (1 / _LARGEST if by_powers else -_LARGEST for by_powers in (log_across, log))
    good = [point for point in line.points if left <= point[0] <= _LARGEST and least <= point[1] <= _LARGEST]
    kept = good if line.dots else thinned(good, _MOST_POINTS)
    return Line(name=line.name, points=kept, style=line.style, dots=line.dots)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of the points, the lowest and the highest of each stretch among them."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=_height), max(stretch, key=_height)}
        kept += sorted(ends)
    return [*kept, points[-1]] if kept[-1] != points[-1] else kept


def _height(point: Point) -> float:
    return point[1]


def _axis(values: Sequence[float], *, log: bool = False) -> Axis:
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if high - low <= max(_NEARLY * size, 1 / _LARGEST):
        around = size / 2 if size > 1 / _LARGEST else 1.0
        return Axis(low=low - around, high=low + around)
    if log:
        return Axis(low=low, high=high, log=True)
    room = 0.04 * (high - low)
    return Axis(low=0.0 if low == 0 else low - room, high=high + room)


def _across(x: Axis, value: float) -> float:
    return _LEFT + x.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    return _TOP + (1 - y.share(value)) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(x: Axis, y: Axis, across: str) -> list[str]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    drawn = []
    for value in ticks(y):
        at = _down(y, value)
        drawn.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        drawn.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(x):
        told = short(value)
        at = min(_across(x, value), _WIDTH - _HALF_LETTER * len(told))  # not over the edge
        drawn.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{told}</text>')
    drawn.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    drawn.append(f'<text x="{right}" y="{bottom + 30}" text-anchor="end">{escape(across)}</text>')
    return drawn


def _mark(x: Axis, place: float) -> str:
    return f'<path class="mark" d="M{_across(x, place):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'


def _drawn(line: Line, x: Axis, y: Axis) -> str:
    places = [(_across(x, point[0]), _down(y, point[1])) for point in line.points]
    if line.dots or len(places) == 1:
        dots = "".join(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3"/>' for across, down in places)
        return f'<g class="dots {line.style}">{dots}</g>'
    path = "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
    return f'<path class="line {line.style}" d="M{path}"/>'


def _legend(lines: Sequence[Line]) -> str:
    named = [line for line in lines if line.name and line.points]
    return "".join(f' <span class="key {line.style}">{escape(line.name)}</span>' for line in named)

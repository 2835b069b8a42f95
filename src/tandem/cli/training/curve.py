"""Curves in a terminal: a line of braille dots with marks over it, in as many characters as there is room for."""

import math
from collections.abc import Sequence

from rich.text import Text

from tandem.kit.pages import short

Point = tuple[float, float]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_BRAILLE = 0x2800
_LABEL = 9  # characters of the numbers at the left


def curve(line: Sequence[Point], marks: Sequence[Point], *, width: int, height: int, plain: bool = False) -> Text:
    """The line, and the marks as dots over it, in `height` rows of `width` characters, labels included.

    With `plain` only ASCII is used. What is not finite is left out; without a point there is an empty text.
    """
    line = [point for point in line if all(map(math.isfinite, point))]
    marks = [point for point in marks if all(map(math.isfinite, point))]
    if not line and not marks:
        return Text()
    columns = max(8, width - _LABEL - 1)
    low, high = _bounds([y for _, y in (*line, *marks)])
    left, right = _bounds([x for x, _ in (*line, *marks)])
    rows = [[0] * columns for _ in range(height)]

    def place(point: Point, across: int, down: int) -> tuple[int, int]:
        x = (point[0] - left) / (right - left)
        y = (high - point[1]) / (high - low)
        return round(x * (across - 1)), round(y * (down - 1))

    before: tuple[int, int] | None = None
    for at in _by_column([place(point, 2 * columns, 4 * height) for point in line]):
        for x, y in _between(before, at):
            rows[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        before = at
    marked = {place(point, columns, height) for point in marks}
    return _written(rows, marked, (low, high), plain=plain)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(1.0, abs(low), abs(high))
    return (low, high) if high - low > 1e-9 * room else (low - room / 2, high + room / 2)


def _by_column(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """One place for each column of dots that has any, at the mean height."""
    heights: dict[int, list[int]] = {}
    for x, y in places:
        heights.setdefault(x, []).append(y)
    return [(x, round(sum(ys) / len(ys))) for x, ys in sorted(heights.items())]


def _between(before: tuple[int, int] | None, at: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots that join two places, the second one included."""
    if before is None:
        return [at]
    steps = max(abs(at[0] - before[0]), abs(at[1] - before[1]), 1)
    return [
        (
            before[0] + round((at[0] - before[0]) * part / steps),
            before[1] + round((at[1] - before[1]) * part / steps),
        )
        for part in range(1, steps + 1)
    ]


def _written(
    rows: Sequence[Sequence[int]], marked: set[tuple[int, int]], bounds: tuple[float, float], *, plain: bool
) -> Text:
    low, high = bounds
    text = Text(no_wrap=True, overflow="crop")
    for down, row in enumerate(rows):
        value = high - (high - low) * down / max(1, len(rows) - 1)
        labelled = down % 3 == 0 or down == len(rows) - 1
        text.append(f"{short(value):>{_LABEL}.{_LABEL}} " if labelled else " " * (_LABEL + 1), "dim")
        for across, dots in enumerate(row):
            if (across, down) in marked:
                text.append("o" if plain else "●", "bold yellow")
            elif plain:
                text.append("*" if dots else " ", "cyan")
            else:
                text.append(chr(_BRAILLE + dots) if dots else " ", "cyan")
        text.append("\n")
    text.right_crop(1)
    return text

"""Gaps cut from Python programs: how the cases of a fill-in-the-middle suite are made, the same ones each time."""

import ast
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tandem.evals.cases import Gap
from tandem.kit.ids import sha256_hex
from tandem.spec.scores import parses

_SHORTEST, _LONGEST = 160, 900  # characters of a function: what stands around its gap is all that a model sees
_LEAST_BEFORE = 40  # characters, so that a model has something to go by
# Characters of a gap: what an editor completes at once. Of longer ones even good models get few right.
_SHORTEST_GAP, _LONGEST_GAP = 2, {"line": 40, "span": 24}


def cut_gaps(folder: Path, *, count: int, seed: int = 0) -> list[Gap]:
    """At most so many gaps from the Python files below a folder, half of each form, one in each function.

    Functions are taken whole and without their indentation, so that Python can parse what a model is shown; which
    ones, and where their gaps are, depends on the seed and on the files alone.
    """
    functions = [
        (f"{path.relative_to(folder.parent).as_posix()}:{line}", text)
        for path in sorted(folder.rglob("*.py"))
        for line, text in _functions(path.read_bytes().decode(errors="replace"))
    ]
    functions = list({text: (place, text) for place, text in reversed(functions)}.values())
    functions.sort(key=lambda item: sha256_hex(f"{seed} {item[1]}"))
    return list(_take(functions, count=count, seed=seed))


def _take(functions: Iterable[tuple[str, str]], *, count: int, seed: int) -> Iterator[Gap]:
    made = 0
    for place, text in functions:
        if made == count:
            return
        gap = _cut(text, place, number=made, seed=seed)
        if gap is not None:
            made += 1
            yield gap


def _functions(program: str) -> Iterator[tuple[int, str]]:
    if not parses(program):
        return
    lines = program.splitlines()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
            # A function that holds a text of several lines loses its sense when it is moved to the left.
            if _SHORTEST <= len(text) <= _LONGEST and parses(text):
                yield first, text


def _cut(text: str, place: str, *, number: int, seed: int) -> Gap | None:
    """A gap in a line of code, neither in the docstring nor in a comment; None where there is no room for one."""
    draw = np.random.default_rng(int(sha256_hex(f"{seed} {text}")[:16], 16))
    form = "line" if number % 2 == 0 else "span"
    places = [(start, line) for start, line in _code_lines(text) if start >= _LEAST_BEFORE]
    if not places:
        return None
    start, line = places[int(draw.integers(len(places)))]
    indent, end = len(line) - len(line.lstrip()), len(line)
    begins = [spot for spot in range(indent, end - 1) if _between_words(line, spot) and not line[spot].isspace()]
    if not begins:
        return None
    first = begins[int(draw.integers(len(begins)))]
    nearest = range(first + _SHORTEST_GAP, min(end, first + _LONGEST_GAP["span"]) + 1)
    ends = [end] if form == "line" else [spot for spot in nearest if _between_words(line, spot)]
    if not ends or ends[0] - first > _LONGEST_GAP[form]:
        return None
    last = ends[int(draw.integers(len(ends)))]
    cut, back = start + first, start + last
    return Gap(
        id=f"{form}-{sha256_hex(text)[:12]}",
        form="line" if form == "line" else "span",
        prefix=text[:cut],
        middle=text[cut:back],
        suffix=text[back:],
        source=place,
    )


def _between_words(line: str, spot: int) -> bool:
    """Whether a gap may begin or end here: tokenizers differ in what they make of half a word."""
    return spot in {0, len(line)} or not ("_" + line[spot - 1 : spot + 1]).isidentifier()


def _code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Where each line of statements begins, and the line; docstrings, comments and texts of several lines are none."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Expr | ast.Constant | ast.JoinedStr):
            last = node.end_lineno or node.lineno
            if docstring or (last > node.lineno and not isinstance(node, ast.Expr)):
                skipped.update(range(node.lineno, last + 1))
    start = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and number not in skipped and not line.lstrip().startswith("#"):
            yield start, line
        start += len(line) + 1

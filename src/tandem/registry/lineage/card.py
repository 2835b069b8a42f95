"""Model cards as sections of plain blocks, written as Markdown or as a page; nothing in them is markup of anybody's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.registry.lineage import page

_MARKS = re.compile(r"([\\`*_\[\]<>|~&])")
_HEADING = re.compile(r"^([#+=-]+)(?=\s|$)")
_NUMBERED = re.compile(r"^(\d+)(?=[.)]\s)")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Keys and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; each row has as many cells as there are headings."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


Block = Paragraph | Bullets | Facts | Grid


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Card:
    """A model card; all its texts are plain."""

    title: str
    summary: str
    sections: Sequence[Section]

    def markdown(self) -> str:
        """The card as Markdown, with GitHub's tables."""
        parts = [f"# {_plain(self.title)}", _plain(self.summary)]
        for section in self.sections:
            parts.append(f"## {_plain(section.title)}")
            parts += [_markdown(block) for block in section.blocks]
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """The card as one self-contained page."""
        body = [f"<h1>{page.text(self.title)}</h1>", f'<p class="soft">{page.text(self.summary)}</p>']
        for section in self.sections:
            blocks = "".join(map(_html, section.blocks))
            body.append(f"<section><h2>{page.text(section.title)}</h2>{blocks}</section>")
        return page.page(f"Model card of {self.title}", "\n".join(body))


def _markdown(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Facts(rows):
            return _table(("", ""), rows)
        case Grid(headings, rows):
            return _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    written = [[_plain(cell) if number != 1 else cell for cell in line] for number, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    escaped = _MARKS.sub(r"\\\1", " ".join(str(text).split()))
    return _NUMBERED.sub(r"\1\\", _HEADING.sub(r"\\\1", escaped))


def _html(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{page.text(text)}</p>"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{page.text(item)}</li>' for item in items)}</ul>"
        case Facts(rows):
            return page.rows(list(rows))
        case Grid(headings, rows):
            return page.grid(headings, list(rows))

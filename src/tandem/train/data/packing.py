"""Packing: documents of tokens into rows of a bounded length, so that little is padding and most rows begin whole."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """The tokens `begin` to `begin + size` of a document."""

    document: int
    begin: int
    size: int


def pack(lengths: Sequence[int], capacity: int) -> list[list[Piece]]:
    """Rows of at most `capacity` tokens in which each token of each document is once.

    A document that is longer than a row fills rows of its own, and what is left of it is packed with the others: the
    longest first, each into the fullest row that still has room. A row begins with a document's start if it has one.
    """
    assert capacity > 0, "a row has room"
    rows: list[list[Piece]] = []
    rest: list[Piece] = []
    for document, length in enumerate(lengths):
        for begin in range(0, length, capacity):
            piece = Piece(document, begin, min(capacity, length - begin))
            if piece.size == capacity:
                rows.append([piece])
            else:
                rest.append(piece)
    rest.sort(key=lambda piece: -piece.size)
    rows.extend(_best_fit(rest, capacity))
    return rows


def _best_fit(pieces: Sequence[Piece], capacity: int) -> list[list[Piece]]:
    rows: list[list[Piece]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # rows by the tokens that they still take
    rooms = 0  # bit r is set where a row with room r is
    for piece in pieces:
        enough = rooms >> piece.size
        if enough:
            room = piece.size + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        if left := room - piece.size:
            with_room[left].append(row)
            rooms |= 1 << left
    for pieces_of_row in rows:
        pieces_of_row.sort(key=lambda piece: (piece.begin > 0, piece.document))
    return rows
